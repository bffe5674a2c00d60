//! The session as a view.

use std::sync::Arc;

use ullage_core::Bytes;
use ullage_core::catalog;
use ullage_core::config::axes;
use ullage_core::config::{self, Config};
use ullage_core::ledger::Tier;
use ullage_core::machine::Card;
use ullage_core::machine::cards::{CARDS, Kind};
use ullage_core::plan::{Inverse, TrainInverse};
use ullage_panels::view::{
    Accuracy, Attention, Bars, Device, Dot, Field, Instant, Limit, Mode, ModelLine, Moved, Piece, Places, Recent, Role,
    Series, Sets, Status, Text, Tick, Timeline, Top, Turn, View,
};
use ullage_panels::words as figures;

use super::super::history;
use super::super::learning;
use super::super::live::Live;
use super::super::opener::Opened;
use super::super::planner::{rate_of, tokens_per_second};
use super::super::session::{Session, history_view};
use super::{bars, cards, words};

/// Fills in the view. What is long is shared, so that this costs what changed; what a run going on does not change is made
/// anew only when something else did (`slow`).
pub fn refresh(s: &mut Session, slow: bool) {
    let text = Arc::new(text(s));
    let view = View {
        modes: modes(s),
        top: if slow {
            top(s)
        } else {
            let measured = s.shown().and_then(|l| measured(s, l));
            Top { measured, ..std::mem::take(&mut s.view.top) }
        },
        status: status(s),
        cards: Arc::clone(&s.sections),
        text,
        timeline: timeline(s),
        attention: attention(s),
        accuracy: if slow { Arc::new(accuracy(s)) } else { Arc::clone(&s.view.accuracy) },
        learning: learning::view(s),
        places: if slow { Arc::new(places(s)) } else { Arc::clone(&s.view.places) },
        history: if slow { Arc::new(history_view(s)) } else { Arc::clone(&s.view.history) },
        notices: s.notices.clone(),
    };
    s.view = view;
}

fn top(s: &Session) -> Top {
    let config = s.document.config();
    let time = s.plan.as_ref().map(|p| (p.time.prefill_tokens_per_second, tokens_per_second(p, config)));
    Top {
        model: model(s),
        recent: recent(s),
        devices: devices(s),
        workload: workload(s, config),
        limit: limit(s, config),
        predicted: s.predicted.clone().map(|mut bars| {
            bars.stale = false;
            bars
        }),
        no_plan: if s.predicted.is_some() { String::new() } else { no_plan(s) },
        measured: s.shown().and_then(|l| measured(s, l)),
        way_back: s.way_back.clone(),
        longest_context: s.inverse.map(|i| i.longest_context),
        most_sequences: s.inverse.map(|i| i.most_sequences),
        predicted_speed: time.filter(|(_, rate)| *rate > 0.0),
        probed: s.machine.probed,
    }
}

fn no_plan(s: &Session) -> String {
    match (&s.opening, s.no_plan.as_str()) {
        (Some(wanted), _) => format!("Opening {}.", wanted.path),
        (None, "") if s.planning => "It is being computed.".into(),
        (None, "") => "No model is open.".into(),
        (None, why) => why.to_owned(),
    }
}

fn model(s: &Session) -> ModelLine {
    let opening = s.opening.as_ref().map(|w| w.path.clone());
    let Some(opened) = &s.opened else { return ModelLine { opening, ..ModelLine::default() } };
    let shape = &opened.model.shape;
    let head = shape.layers.first();
    ModelLine {
        name: name_of(s, opened),
        detail: format!(
            "{}, {} parameters, {}",
            shape.arch,
            parameters(shape.parameters()),
            figures::bytes(shape.bytes())
        ),
        path: opened.asked.clone(),
        opening,
        chats: opened.chats,
        layers_heads: (shape.layers.len(), head.map_or(0, |l| l.attention.heads)),
    }
}

/// What a model is called: as the program that brought it does, else its file's name (which people know better than what its
/// header says), else its own.
fn name_of(s: &Session, opened: &Opened) -> String {
    let brought = s.discovered.iter().find(|f| f.path.as_os_str() == opened.asked.as_str()).map(|f| f.name.clone());
    brought.or_else(|| file_name(&opened.asked)).unwrap_or_else(|| opened.model.shape.name.clone())
}

/// The name of a model's file, without its ending.
pub fn file_name(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".gguf")?.rsplit(['/', '\\']).next()?;
    (!stem.is_empty()).then(|| stem.to_owned())
}

/// `4.99 million`, `7.62 billion`.
fn parameters(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{} billion", figures::number(n as f64 / 1e9)),
        1_000_000.. => format!("{} million", figures::number(n as f64 / 1e6)),
        n => figures::count(n),
    }
}

fn recent(s: &Session) -> Vec<Recent> {
    let mut out: Vec<Recent> = Vec::new();
    for r in &s.remembered.recent {
        let bundled = r.path.starts_with("bundled:");
        out.push(Recent {
            path: r.path.clone(),
            name: r.name.clone(),
            from: if bundled { "bundled" } else { "recent" }.into(),
            bytes: (r.bytes > 0).then_some(r.bytes),
        });
    }
    for found in &s.discovered {
        let path = found.path.display().to_string();
        if out.iter().all(|r| r.path != path) {
            out.push(Recent { path, name: found.name.clone(), from: found.from.into(), bytes: Some(found.bytes) });
        }
    }
    if out.iter().all(|r| r.path != "bundled:recall") {
        let bytes = None;
        out.push(Recent {
            path: "bundled:recall".into(),
            name: "Recall, a small model".into(),
            from: "bundled".into(),
            bytes,
        });
    }
    out
}

fn devices(s: &Session) -> Vec<Device> {
    let m = &s.machine;
    let config = s.document.config();
    let here = s.familiar.is_none();
    let threads = if config.machine.threads == 0 { m.cpu.threads } else { config.machine.threads };
    let mut out = vec![Device {
        id: "cpu".into(),
        name: format!("CPU · {threads} thread{}", if threads == 1 { "" } else { "s" }),
        detail: format!(
            "{}: {} of RAM, {}",
            m.cpu.model,
            figures::bytes(m.memory.limit()),
            rate(m.speed.read[1], m.probed)
        ),
        chosen: here && config.gpu().is_none(),
        runs: true,
        gpu: false,
    }];
    for (i, gpu) in m.gpus.iter().enumerate() {
        out.push(Device {
            id: format!("cuda:{i}"),
            name: gpu.name.clone(),
            detail: format!("{} of GPU memory, {}", figures::bytes(gpu.memory), rate(gpu.read, true)),
            chosen: here && config.gpu() == Some(i),
            runs: cfg!(feature = "cuda"),
            gpu: true,
        });
    }
    for (i, name) in s.gpus.iter().enumerate().skip(m.gpus.len()) {
        out.push(Device {
            id: format!("cuda:{i}"),
            name: name.clone(),
            detail: "GPU memory; its speed is not measured".into(),
            chosen: here && config.gpu() == Some(i),
            runs: true,
            gpu: true,
        });
    }
    for card in CARDS {
        out.push(Device {
            id: String::new(),
            name: card.name.into(),
            detail: of_card(card),
            chosen: s.familiar.as_ref().is_some_and(|(c, _)| c.id == card.id),
            runs: false,
            gpu: card.kind == Kind::Gpu,
        });
    }
    out
}

fn of_card(card: &Card) -> String {
    let memory = if card.kind == Kind::Gpu { "of GPU memory" } else { "of memory" };
    let bandwidth = figures::number(card.bandwidth / 1e9);
    format!("{} {memory}, {bandwidth} GB/s by its maker's figures ({})", figures::bytes(card.memory), card.source)
}

fn rate(bytes_per_second: f64, measured: bool) -> String {
    let guess = if measured { "" } else { " (a guess: not measured here)" };
    format!("{}/s{guess}", figures::bytes(bytes_per_second.max(0.0) as u64))
}

/// What there is to do, as numbers: of a prompt's generation, or of fine-tuning.
fn workload(s: &Session, config: &Config) -> Vec<Field> {
    let run = &config.run;
    let trained = s.opened.as_ref().map(|o| o.model.shape.context as u64);
    let field = |key: &str, label: &str, sentence: &str, value: usize, range: (u64, u64), fits: Option<usize>| Field {
        key: key.into(),
        label: label.into(),
        sentence: sentence.into(),
        value: value as u64,
        min: range.0,
        max: range.1.max(value as u64),
        fits: fits.map(|n| n as u64),
    };
    if let Some(t) = &config.train {
        let fits = |of: fn(&TrainInverse) -> usize| s.train_inverse.as_ref().map(of);
        let rows = fits(|i| i.largest_batch);
        return vec![
            field("train.batch", "Batch", "Rows of a micro-batch.", t.batch, (1, 4096), rows),
            field(
                "train.length",
                "Length",
                "Tokens of a row.",
                t.length,
                (2, trained.unwrap_or(0)),
                fits(|i| i.longest_length),
            ),
            field("train.steps", "Steps", "Updates.", t.steps, (1, 1 << 32), None),
        ];
    }
    let fits = |of: fn(&Inverse) -> usize| s.inverse.as_ref().map(of);
    let room = format!(
        "Room of one sequence in tokens, the prompt's {} included; this model is trained for {}.",
        figures::count(s.prompt_tokens as u64),
        figures::count(trained.unwrap_or(run.context as u64))
    );
    let side = "Decoded side by side, each with its own cache.";
    let most = "Most tokens to generate for each sequence.";
    vec![
        field("run.context", "Context", &room, run.context, (1, trained.unwrap_or(0)), fits(|i| i.longest_context)),
        field("run.sequences", "Sequences", side, run.sequences, (1, 1024), fits(|i| i.most_sequences)),
        field("run.max_tokens", "Generate", most, run.max_tokens, (0, 1 << 24), None),
    ]
}

fn modes(s: &Session) -> Vec<Mode> {
    let training = s.document.config().train.is_some();
    let mode = |id: &str, label: &str, sentence: &str, chosen| Mode {
        id: id.into(),
        label: label.into(),
        sentence: sentence.into(),
        chosen,
    };
    vec![
        mode("generate", "Generate", "Reads a prompt and writes on.", !training),
        mode(
            "train",
            "Fine-tune",
            "Learns from data: what each byte of gradients, optimizer state and activations costs.",
            training,
        ),
    ]
}

fn limit(s: &Session, config: &Config) -> Limit {
    let free = match config.gpu() {
        _ if s.familiar.is_some() => None,
        None => Some(s.machine.memory.room()),
        Some(i) => s.machine.gpus.get(i).map(|g| g.available),
    };
    let mut ticks: Vec<Tick> =
        [1u64 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 4 << 30, 16 << 30, 64 << 30, 256 << 30]
            .into_iter()
            .map(|bytes| Tick { bytes, label: figures::bytes(bytes), ..Tick::default() })
            .collect();
    // One card for each size of memory, the fastest: the scale has no room for all.
    let mut familiar: Vec<&Card> = CARDS.iter().filter(|c| c.kind == Kind::Gpu).collect();
    familiar.sort_by(|a, b| a.memory.cmp(&b.memory).then(b.bandwidth.total_cmp(&a.bandwidth)));
    familiar.dedup_by_key(|c| c.memory);
    ticks.extend(familiar.into_iter().map(|card| Tick {
        bytes: card.memory,
        label: card.name.into(),
        detail: of_card(card),
        named: true,
        device: Some(card.id.into()),
    }));
    if let Some(free) = free.filter(|f| *f > 0) {
        ticks.push(Tick {
            bytes: free,
            label: "free here".into(),
            detail: format!("{} can be taken on this machine now.", figures::bytes(free)),
            named: true,
            device: None,
        });
    }
    ticks.sort_by_key(|t| t.bytes);
    let most = s.machine.memory.limit().max(256 << 30);
    let bytes = config.budget.device;
    Limit { bytes: (bytes != Bytes::UNLIMITED).then_some(bytes.0), range: (1 << 20, most), ticks, free }
}

fn measured(s: &Session, live: &Live) -> Option<Bars> {
    let config = live.config()?;
    let live_now = !live.over;
    let mut out = if live.report.ended() && live.error().is_none() {
        bars::of(&live.report.measured, config, true, &bars::unexplained)
    } else if live.timeline.moments.is_empty() {
        return None;
    } else {
        let so_far = if live_now { "peak so far" } else { "peak until it ended" };
        Bars {
            instants: vec![
                bars::moment(so_far.into(), &live.peak, config),
                bars::moment("now".into(), &live.held, config),
            ],
            ..Bars::default()
        }
    };
    out.live = live_now;
    out.stale = config != s.document.config();
    out.instants.extend(scrubbed(s, live, config));
    Some(out)
}

fn scrubbed(s: &Session, live: &Live, config: &Config) -> Option<Instant> {
    let (seconds, held) = live.held_at(s.moment?)?;
    Some(bars::moment(bars::at(seconds), held, config))
}

fn status(s: &Session) -> Status {
    let (undo, redo) = s.document.names();
    let mut out = Status { undo, redo, queued: s.queue.len(), blocked: s.blocked(), ..Status::default() };
    out.predicted_speed = s.plan.as_ref().map(|p| tokens_per_second(p, s.document.config())).filter(|v| *v > 0.0);
    match (&s.running, &s.live) {
        (Some(_), Some(live)) => {
            out.running = true;
            out.paused = live.paused;
            out.doing = if s.stopping { "stopping".into() } else { live.doing() };
            out.progress = live.progress.as_ref().map(|(_, done, total, _)| (*done, *total));
            out.seconds_left = live.progress.as_ref().map(|(.., left)| *left).filter(|v| v.is_finite());
            out.speed = live.speed();
            out.predicted_speed =
                live.config().map(|c| rate_of(&live.report.predicted, c)).filter(|v| *v > 0.0).or(out.predicted_speed);
        }
        _ => {
            if let Some((what, part)) = &s.probing {
                out.doing = format!("measuring this machine: {what}");
                out.progress = Some(((part * 1000.0) as u64, 1000));
            } else if let Some(merging) = &s.merging {
                out.doing = "merging the adapter into the weights".into();
                out.progress = Some((merging.done, merging.total.max(1)));
                out.seconds_left = merging.seconds_left();
            } else if let Some(wanted) = &s.opening {
                out.doing = format!("opening {}", wanted.path);
            }
            out.speed = s.live.as_ref().filter(|l| l.finished()).map(Live::rate).filter(|v| *v > 0.0);
        }
    }
    out
}

fn text(s: &mut Session) -> Text {
    let written = s.replayed.as_mut().or(s.live.as_mut()).map(Live::told);
    let config = s.document.config();
    let mut out = Text {
        prompt: config.run.prompt.clone(),
        system: config.run.system.clone(),
        chat: config.run.chat,
        chats: s.opened.as_ref().is_some_and(|o| o.chats),
        blocked: s.blocked(),
        running: s.running.is_some() && s.replayed.is_none(),
        samples: learning::samples(s),
        adapter: s.adapter_switch(),
        ..Text::default()
    };
    out.turns = conversation(s);
    let Some(live) = s.shown() else { return out };
    out.sequences = written.unwrap_or_default();
    out.step = s.moment.and_then(|m| live.timeline.moments.get(m)).map(|m| m.step);
    if out.step.is_some()
        && let Some(first) = Arc::make_mut(&mut out.sequences).first_mut()
    {
        first.kept = live.kept(out.step);
    }
    if s.replayed.is_some() {
        out.of_run = Some(format!("run {}", live.name));
    } else if live.over && live.config().is_some_and(|c| c != config) {
        out.of_run = Some("the run before the configuration changed".into());
    }
    if live.finished() {
        let speed = &live.report.speed;
        out.summary = format!(
            "{} tokens, {}; the prompt's {} at {}",
            figures::count(live.report.output.iter().map(|o| o.tokens.len() as u64).sum()),
            figures::speed(speed.decode_tokens_per_second),
            figures::count(speed.prompt_tokens as u64),
            figures::speed(speed.prefill_tokens_per_second),
        );
    }
    if live.report.train.is_some() {
        out.summary = live.learned();
    } else if let Some(error) = live.error() {
        out.summary = if error.kind == "cancelled" { "stopped".into() } else { error.message.clone() };
    }
    out
}

/// What was said: the run's conversation with its question and, once it has ended, its answer; as configured where the run on
/// screen is of another one.
fn conversation(s: &Session) -> Vec<Turn> {
    let now = &s.document.config().run;
    let of_run = |l: &&Live| s.replayed.is_some() || l.config().is_some_and(|c| said(&c.run) == said(now));
    let Some((live, run)) = s.shown().filter(of_run).and_then(|l| Some((l, &l.config()?.run))) else {
        return if now.chat { now.turns.iter().map(turn).collect() } else { Vec::new() };
    };
    if !run.chat {
        return Vec::new();
    }
    let mut out: Vec<Turn> = run.turns.iter().map(turn).collect();
    out.push(Turn { role: Role::User, content: run.prompt.clone() });
    if let Some(answer) = live.report.output.first().filter(|o| live.over && !o.text.is_empty()) {
        out.push(Turn { role: Role::Assistant, content: answer.text.clone() });
    }
    out
}

/// What makes a conversation the same.
fn said(run: &config::Run) -> (bool, &str, &str, &[config::Turn]) {
    (run.chat, &run.system, &run.prompt, &run.turns)
}

fn turn(turn: &config::Turn) -> Turn {
    let role = match turn.role {
        config::Role::User => Role::User,
        config::Role::Assistant => Role::Assistant,
    };
    Turn { role, content: turn.content.clone() }
}

fn timeline(s: &Session) -> Arc<Timeline> {
    let mut shown = s.shown().map_or_else(Arc::<Timeline>::default, |l| Arc::clone(&l.timeline));
    if shown.moments.is_empty() && !shown.live {
        Arc::make_mut(&mut shown).blocked = s.blocked();
    }
    shown
}

fn attention(s: &Session) -> Arc<Attention> {
    let observe = s.document.config().observe.as_ref();
    let chosen = observe.and_then(|o| o.head).map(|[layer, head]| (layer, head));
    if let Some(live) = s.shown() {
        let mut shown = Arc::clone(&live.attention);
        if shown.chosen != chosen {
            // What is long in it is shared: this copies a few words.
            Arc::make_mut(&mut shown).chosen = chosen;
        }
        if shown.grid.is_none() && shown.map.is_none() {
            Arc::make_mut(&mut shown).blocked = match s.running {
                Some(_) => "A run is going on.".into(),
                None => s.blocked(),
            };
        }
        return shown;
    }
    // What a run would show.
    let observed = observe.is_some();
    let head = s.opened.as_ref().and_then(|o| o.model.shape.layers.first());
    Arc::new(Attention {
        layers: s.opened.as_ref().map_or(0, |o| o.model.shape.layers.len()),
        heads: head.map_or(0, |l| l.attention.heads),
        kv_heads: head.map_or(0, |l| l.attention.kv_heads),
        observed,
        blocked: s.blocked(),
        chosen,
        note: if observed { String::new() } else { "Nothing is kept for display as configured.".into() },
        ..Attention::default()
    })
}

fn accuracy(s: &Session) -> Accuracy {
    let hash = s.opened.as_ref().map_or("", |o| o.model.hash.as_str());
    let (axes, mut series) = history::accuracy(&s.cards, hash);
    for (point, planned) in s.queue.iter().zip(&s.planned_points) {
        let Some(bytes) = *planned else { continue };
        let dot = Dot { label: point.line.label.clone(), bytes, planned: true, ..Dot::default() };
        match series.iter_mut().find(|l| l.name == point.line.series) {
            Some(line) => line.dots.push(dot),
            None => series.push(Series { name: point.line.series.clone(), machine: String::new(), dots: vec![dot] }),
        }
    }
    series.extend(s.curves.iter().cloned());
    let mut out = Accuracy { axes, series, queued: s.queue.len(), sweeps: sweeps(s) };
    // A curve measured elsewhere may have figures that no run here has.
    for curve in &s.curves {
        for (id, _) in curve.dots.iter().flat_map(|d| &d.values) {
            let (task, name) = id.split_once('.').unwrap_or((id, ""));
            if let Some((label, unit, up)) = words::figure(task, name)
                && out.axes.iter().all(|a| a.id != *id)
            {
                out.axes.push(ullage_panels::view::Axis { id: id.clone(), label, unit: unit.into(), up });
            }
        }
    }
    out
}

/// Budgets of a sweep, as shares of the context.
const RATIOS: [&str; 6] = ["0.05", "0.1", "0.2", "0.3", "0.5", "0.75"];

/// What can be swept with one button: each policy over budgets, and the precisions.
fn sweeps(s: &Session) -> Vec<(String, Vec<Sets>)> {
    let Some(opened) = &s.opened else { return Vec::new() };
    if opened.words.tokenizer.is_none() {
        return Vec::new();
    }
    let config = s.document.config();
    // The bundled model knows recall and nothing else; of any other one sees how far it strays from itself.
    let bundled = opened.asked.starts_with("bundled:");
    let (task, measure): (&str, Sets) = if bundled {
        let knobs = "{ pairs = 48, questions = 24, samples = 4 }";
        ("Recall", vec![("eval.recall".into(), knobs.into())])
    } else {
        let prompt = (config.run.context / 2).clamp(16, 512);
        let knobs = format!("{{ prompt = {prompt}, tokens = 64, windows = 2 }}");
        ("Same next token", vec![("eval.fidelity".into(), knobs)])
    };
    let short = [("run.max_tokens".to_owned(), "16".to_owned())];
    let point = |sets: &[(&str, &str)]| -> Sets {
        let own = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        own.chain(if config.eval.is_empty() { measure.clone() } else { Sets::new() }).chain(short.clone()).collect()
    };
    let mut out = Vec::new();
    for entry in catalog::variants(&axes::KV_SELECT) {
        if cards::keeps_all(entry) {
            continue;
        }
        let points = RATIOS.iter().map(|r| point(&[("kv.select", entry.id), ("kv.budget.ratio", *r)]));
        out.push((format!("{task}, {}: {} budgets", entry.title, RATIOS.len()), points.collect()));
    }
    let formats: Vec<_> = catalog::variants(&axes::KV_FORMAT).map(|e| point(&[("kv.format", e.id)])).collect();
    out.push((format!("{task}: {} precisions of the cache", formats.len()), formats));
    out
}

fn places(s: &Session) -> Places {
    let gpu = s.document.config().gpu().is_some();
    let Some(live) = s.shown().filter(|l| l.finished()) else {
        return Places { what: "predicted, at the peak".into(), pieces: s.pieces.clone(), gpu, ..Places::default() };
    };
    if let Some((seconds, held)) = s.moment.and_then(|m| live.held_at(m)) {
        let by =
            held.0.iter().flat_map(|(tier, by)| by.iter().map(move |(category, bytes)| (*tier, *category, *bytes)));
        let piece = |(tier, category, bytes)| {
            let used_for = words::used_for(category);
            let (name, group) = (used_for.label().to_owned(), used_for.label().to_owned());
            Piece { name, group, detail: "in all".into(), used_for, tier: words::tier(tier), bytes }
        };
        let pieces = by.filter(|(.., bytes)| *bytes > 0).map(piece).collect();
        let what = format!("measured: run {}, {}", live.name, bars::at(seconds));
        return Places { what, measured: true, pieces, gpu, ..Places::default() };
    }
    let report = &live.report;
    let steps = report.speed.steps as u64;
    let mut pieces: Vec<_> = report.measured.rows.iter().filter_map(|(name, bytes)| piece(name, *bytes)).collect();
    if live.config() == Some(s.document.config()) {
        taken_apart(&mut pieces, &s.pieces);
    }
    pieces.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Places {
        what: format!("measured: run {}, each at its own largest", live.name),
        measured: true,
        pieces,
        moved: report
            .measured
            .moved
            .iter()
            .map(|(what, bytes)| Moved {
                what: words::plain(what),
                bytes: *bytes,
                per_token: (steps > 0).then(|| bytes / steps),
            })
            .collect(),
        beside: vec![
            ("bookkeeping of the engine".into(), report.program.engine_peak as i64),
            ("heap of the program".into(), report.program.heap as i64),
            ("resident set".into(), report.program.rss as i64),
            ("code, stacks and rounding".into(), report.program.rest),
        ],
        gpu,
    }
}

/// Rows taken apart into the tensors and caches of the plan, for each use of a tier whose planned pieces add up to what was
/// measured, to the byte.
fn taken_apart(rows: &mut Vec<Piece>, planned: &[Piece]) {
    let mut kinds: Vec<_> = planned.iter().map(|p| (p.tier, p.used_for)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of =
            |pieces: &[Piece]| pieces.iter().filter(|p| (p.tier, p.used_for) == kind).map(|p| p.bytes).sum::<u64>();
        if of(rows) == of(planned) {
            rows.retain(|p| (p.tier, p.used_for) != kind);
            rows.extend(planned.iter().filter(|p| (p.tier, p.used_for) == kind).cloned());
        }
    }
}

/// A row of the measured account, `device.weights.blk.0.attn_q.weight`.
pub fn piece(row: &str, bytes: u64) -> Option<Piece> {
    let (tier, rest) = row.split_once('.')?;
    let (category, name) = rest.split_once('.')?;
    let tier = Tier::ALL.iter().find(|t| t.as_str() == tier)?;
    let category = ullage_core::ledger::Category::ALL.iter().find(|c| c.as_str() == category)?;
    let used_for = words::used_for(*category);
    Some(Piece {
        name: name.into(),
        group: used_for.label().into(),
        detail: String::new(),
        used_for,
        tier: words::tier(*tier),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ullage_panels::view::{Tier, UsedFor};

    #[test]
    fn rows_come_apart_only_where_the_plan_adds_up_to_them() {
        let p = |name: &str, used_for, bytes| Piece { name: name.into(), used_for, bytes, ..Piece::default() };
        let mut rows = vec![p("layers", UsedFor::Weights, 30), p("kv rows", UsedFor::KvCache, 9)];
        let host = Piece { tier: Tier::Host, ..p("c", UsedFor::Weights, 99) };
        let planned =
            [p("a", UsedFor::Weights, 10), p("b", UsedFor::Weights, 20), p("kv, layer 0", UsedFor::KvCache, 10), host];
        taken_apart(&mut rows, &planned);
        let names: Vec<_> = rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["kv rows", "a", "b"]);
    }

    #[test]
    fn parameters_are_said_in_three_digits() {
        assert_eq!([4_985_088, 7_615_616_512, 999].map(parameters), ["4.99 million", "7.62 billion", "999"]);
    }
}
