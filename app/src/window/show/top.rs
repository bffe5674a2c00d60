//! The strip on top: model, device, workload, limit, and the bars of what is predicted and what was measured.

use ullage_core::Bytes;
use ullage_core::config::Config;
use ullage_core::machine::Card;
use ullage_core::machine::cards::{CARDS, Kind};
use ullage_core::plan::{Inverse, TrainInverse};
use ullage_panels::view::{Bars, Device, Field, Instant, Limit, Mode, Tick, Top};
use ullage_panels::words as figures;

use super::super::bars;
use super::super::live::Live;
use super::super::rates::tokens_per_second;
use super::super::state::State;
use super::model;

/// The strip's part of the view.
pub fn view(s: &State) -> Top {
    let config = s.config();
    let time = s.plan.as_ref().map(|p| (p.time.prefill_tokens_per_second, tokens_per_second(p, config)));
    Top {
        model: model::line(s),
        recent: model::recent(s),
        devices: devices(s),
        workload: workload(s, config),
        limit: limit(s, config),
        predicted: s.predicted.clone().map(|mut bars| {
            bars.stale = false;
            bars
        }),
        only_planned: s.outlined.is_some(),
        no_plan: if s.predicted.is_some() { String::new() } else { no_plan(s) },
        measured: s.shown().and_then(|l| measured(s, l)),
        way_back: s.way_back.clone(),
        longest_context: s.inverse.map(|i| i.longest_context),
        most_sequences: s.inverse.map(|i| i.most_sequences),
        predicted_speed: time.filter(|(_, rate)| *rate > 0.0),
        probed: s.machine.probed,
        notes: s.notes.clone(),
    }
}

fn no_plan(s: &State) -> String {
    match (&s.opening, s.no_plan.as_str()) {
        (Some(wanted), _) => format!("Opening {}.", wanted.path),
        (None, "") if s.planning => "It is being computed.".into(),
        (None, "") => "No model is open.".into(),
        (None, why) => why.to_owned(),
    }
}

fn devices(s: &State) -> Vec<Device> {
    let m = &s.machine;
    let config = s.config();
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
fn workload(s: &State, config: &Config) -> Vec<Field> {
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

/// What can be done: generating or fine-tuning.
pub fn modes(s: &State) -> Vec<Mode> {
    let training = s.config().train.is_some();
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

fn limit(s: &State, config: &Config) -> Limit {
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

/// The bars of a run: measured at its end, held so far while it goes on.
pub fn measured(s: &State, live: &Live) -> Option<Bars> {
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
    out.stale = config != s.config();
    out.instants.extend(scrubbed(s, live, config));
    Some(out)
}

fn scrubbed(s: &State, live: &Live, config: &Config) -> Option<Instant> {
    let (seconds, held) = live.held_at(s.moment?)?;
    Some(bars::moment(bars::at(seconds), held, config))
}
