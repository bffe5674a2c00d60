//! Commands that compute nothing: inspect, plan, open, techniques, probe.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use ullage_core::bytes::Bytes;
use ullage_core::catalog;
use ullage_core::config::Config;
use ullage_core::job::{Order, infer, train};
use ullage_core::ledger::Tier;
use ullage_core::machine;
use ullage_core::model::text::Words;
use ullage_core::model::{Model, outline};
use ullage_core::plan::{Inverse, TrainInverse, cautions, hint, plan as plan_of};
use ullage_core::report::{ByteReport, bytes_table, folder, limit, llama, summary};
use ullage_core::{Error, Result};

use crate::args;
use crate::run::{Progress, on_interrupt, prompt_of};
use crate::source::{self, say, say_json};
use crate::window;

/// Shows the outline of a model that is planned and not run, in place of what could be told of one that is.
fn outlined(path: &str, tokens: u64, as_json: bool) -> Result<u8> {
    let Some(of) = outline::of(Path::new(path))? else {
        return Err(Error::Internal(format!("{path} has no outline and is not run")));
    };
    if as_json {
        let cache = json!({ "token": of.token_bytes(), "context": tokens, "bytes": of.cache(tokens, 2) });
        say_json(&json!({ "only_planned": of, "cache_f16": cache }))?;
    } else {
        say(&of.table(tokens));
    }
    Ok(0)
}

pub fn inspect(args: &args::Inspect) -> Result<u8> {
    let model = match Model::open(&args.model, Path::new(".")) {
        Err(Error::OnlyPlanned { .. }) => return outlined(&args.model, 4096, args.json),
        other => other?,
    };
    // A model can be looked at and planned without its words.
    let words = Words::of(&model)?;
    let tokenizer = &words.tokenizer;
    let s = &model.shape;
    if args.json {
        let tensors: Vec<_> = s
            .tensors()
            .map(|t| json!({ "name": t.name, "type": t.ty, "rows": t.rows, "cols": t.cols, "bytes": t.bytes() }))
            .collect();
        let known = tokenizer.as_ref().map(|t| json!({ "vocab": t.vocab(), "bos": t.bos(), "eos": t.eos() }));
        say_json(&json!({
            "path": model.path, "name": s.name, "arch": s.arch, "hash": model.hash, "file_bytes": model.file_bytes,
            "parameters": s.parameters(), "bytes": s.bytes(), "context": s.context, "hidden": s.hidden, "vocab": s.vocab,
            "layers": s.layers.len(), "heads": s.layers[0].attention.heads, "kv_heads": s.layers[0].attention.kv_heads,
            "head_dim": s.layers[0].attention.dim, "ff": s.layers[0].ffn.width(), "rope": s.ropes[0], "tied": s.output.is_none(),
            "tokenizer": known, "no_tokenizer": words.missing(), "notes": words.notes(), "tensors": tensors,
        }))?;
        return Ok(0);
    }
    let l = &s.layers[0];
    let mut out = format!("{} ({})\n", s.name, s.arch);
    out += &format!("parameters  {} in {} ({} B)\n", s.parameters(), Bytes(s.bytes()), s.bytes());
    out += &format!(
        "shape       {} layers, hidden {}, {} heads over {} KV heads of {}, ff {}\n",
        s.layers.len(),
        s.hidden,
        l.attention.heads,
        l.attention.kv_heads,
        l.attention.dim,
        l.ffn.width()
    );
    if let Some((count, used)) = l.ffn.experts() {
        out += &format!("experts     {count} in a layer, {used} for a token\n");
    }
    let windows: Vec<usize> = s.layers.iter().filter_map(|l| l.attention.window).collect();
    if let Some(window) = windows.iter().max() {
        out += &format!("windows     {} of {} layers see {window} tokens\n", windows.len(), s.layers.len());
    }
    let bases: Vec<String> = s.ropes.iter().map(|r| r.base.to_string()).collect();
    out += &format!("context     {} trained; rope base {}\n", s.context, bases.join(", in windows "));
    if let Some(long) = s.ropes.iter().find_map(|r| r.long.as_ref()) {
        out += &format!("rotation    other divisors where run.context is above {}\n", long.from);
    }
    let bytes = |tokens: usize| {
        let rows = |l: &ullage_core::shape::LayerShape| l.attention.window.map_or(tokens, |w| w.min(tokens));
        s.layers.iter().map(|l| (2 * l.attention.kv() * 2 * rows(l)) as u64).sum::<u64>()
    };
    out += &format!("cache       {} B a token in f16, {} at {} tokens\n", bytes(1), Bytes(bytes(s.context)), s.context);
    out += &match tokenizer {
        Some(t) => format!("tokenizer   {} tokens\n", t.vocab()),
        None => format!("tokenizer   none: {}\n", words.missing().unwrap_or_default()),
    };
    words.notes().iter().for_each(|note| out += &format!("note        {note}\n"));
    out += &format!("output head {}\n\n", if s.output.is_none() { "tied to the embedding" } else { "its own" });
    out += &format!("{:<32} {:<8} {:>8} {:>8} {:>14}\n", "tensor", "type", "rows", "cols", "bytes");
    for t in s.tensors() {
        out += &format!("{:<32} {:<8} {:>8} {:>8} {:>14}\n", t.name, t.ty, t.rows, t.cols, t.bytes());
    }
    say(&out);
    Ok(0)
}

/// Choices without effect, a line each.
fn notes(config: &Config) -> String {
    config.without_effect().iter().map(|note| format!("note     {note}\n")).collect()
}

pub fn plan(args: &args::Plan) -> Result<u8> {
    let loaded = source::load(&args.source, &[])?;
    let order = match source::order(&loaded) {
        Err(Error::OnlyPlanned { .. }) => {
            let path = loaded.base.join(&loaded.config.model.path).display().to_string();
            return outlined(&path, loaded.config.run.context as u64, args.json);
        }
        other => other?.on_its_disk(),
    };
    let (config, shape, machine) = (&order.config, &order.model.shape, &order.machine);
    for note in cautions(config, shape, machine) {
        eprintln!("note: {note}");
    }
    if config.train.is_some() {
        return plan_training(&order, args.json);
    }
    let prepared = infer::prepare(&order.model, config, &order.base)?;
    let mut plan = plan_of(shape, &prepared.workload, config, machine)?;
    if let Some(over) = &mut plan.over {
        over.hint = hint(over, shape, &prepared.workload, config, machine);
    }
    let inverse = Inverse::of(shape, &prepared.workload, config, machine);
    let bytes: ByteReport = (&plan.bytes).into();
    if args.json {
        let said = [config.without_effect(), prepared.words.notes()].concat();
        say_json(&json!({
            "config": config, "plan": bytes, "time": plan.time, "workload": plan.workload, "fits": plan.over.is_none(),
            "over": plan.over, "notes": said, "inverse": inverse, "llama_cpp": llama::command(config),
        }))?;
    } else {
        let pass = prepared.workload.passes[0];
        let mut out = format!(
            "{}: {} prompt tokens, {} generated, sequences {}, context {}\n\n",
            shape.name,
            pass.prompt,
            config.run.max_tokens.min(pass.decode + 1),
            pass.sequences,
            config.run.context
        );
        out += &bytes_table(&bytes, None);
        out += "\n";
        for (name, b) in &bytes.rows {
            out += &format!("  {name:<40} {b:>14}\n");
        }
        let t = &plan.time;
        out += &format!("\nlimit    {} on the device\n", limit(config, Some(&plan.walls)));
        out += &notes(config);
        prepared.words.notes().iter().for_each(|note| out += &format!("note     {note}\n"));
        let guess = if t.probed { "" } else { " (guessed: run `ullage probe`)" };
        let passes = match t.decode_tokens_per_second {
            0.0 => "this GPU is not measured".to_owned(),
            decode => format!(
                "prefill {:.2} s ({:.1} tokens/s), decode {decode:.1} tokens/s",
                t.prefill_seconds, t.prefill_tokens_per_second
            ),
        };
        out += &format!("time     load {:.2} s, {passes}{guess}\n", t.load_seconds);
        let beyond = if inverse.longest_context > shape.context { ", beyond the trained one" } else { "" };
        out += &format!(
            "fits     longest context {}{beyond}, most sequences {}\n",
            inverse.longest_context, inverse.most_sequences
        );
        out += &format!("\n{}", llama::command(config));
        say(&out);
    }
    if let Some(over) = plan.over {
        let error = Error::OverBudget(Box::new(over));
        if !args.json {
            eprintln!("error: {error}");
        }
        return Ok(error.exit_code());
    }
    Ok(0)
}

/// The plan of a training run.
fn plan_training(order: &Order, as_json: bool) -> Result<u8> {
    let (config, shape, machine) = (&order.config, &order.model.shape, &order.machine);
    let workload = train::workload(order)?;
    let mut plan = plan_of(shape, &workload, config, machine)?;
    if let Some(over) = &mut plan.over {
        over.hint = hint(over, shape, &workload, config, machine);
    }
    let inverse = TrainInverse::of(shape, config, machine);
    let bytes: ByteReport = (&plan.bytes).into();
    if as_json {
        say_json(&json!({
            "config": config, "plan": bytes, "time": plan.time, "workload": plan.workload, "fits": plan.over.is_none(),
            "over": plan.over, "notes": config.without_effect(), "inverse": inverse,
        }))?;
    } else {
        let mut out = String::new();
        if let Some(t) = &config.train {
            out += &format!(
                "{}: {} steps of {} × {} tokens, {} to an update; {}, {}, {}, {}\n\n",
                shape.name,
                t.steps,
                t.batch,
                t.length,
                t.accumulate,
                t.params.id,
                t.optimizer.id,
                t.activations.id,
                t.loss.id
            );
        }
        out += &bytes_table(&bytes, None);
        out += "\n";
        for (name, b) in &bytes.rows {
            out += &format!("  {name:<40} {b:>14}\n");
        }
        out += &format!("\nlimit    {} on the device\n", limit(config, Some(&plan.walls)));
        out += &notes(config);
        for (phase, tiers) in &bytes.phases {
            let peak = tiers.get(&Tier::Device).map_or(0, |a| a.peak);
            out += &format!("phase    {phase:<9} peak {peak:>14}\n");
        }
        let t = &plan.time;
        let steps = match t.train_step_seconds {
            0.0 => "this GPU is not measured".to_owned(),
            seconds => format!("{seconds:.3} s a step, {:.0} s in all", t.train_seconds),
        };
        let guess = if t.probed { "" } else { " (guessed: run `ullage probe`)" };
        out += &format!("time     load {:.2} s, {steps}{guess}\n", t.load_seconds);
        out +=
            &format!("fits     largest batch {}, longest length {}\n", inverse.largest_batch, inverse.longest_length);
        say(&out);
    }
    if let Some(over) = plan.over {
        let error = Error::OverBudget(Box::new(over));
        if !as_json {
            eprintln!("error: {error}");
        }
        return Ok(error.exit_code());
    }
    Ok(0)
}

pub fn open(args: &args::Open) -> Result<u8> {
    let path = Path::new(&args.source.source);
    let plain = args.source.sets.is_empty() && args.source.short().next().is_none();
    let start = if plain && !args.source.source.ends_with(".toml") {
        window::Start::Path(args.source.source.clone())
    } else {
        // What is wrong with it is said here and ends the program, as it does without a window.
        window::Start::Config(Box::new(source::load(&args.source, &[])?.config))
    };
    let why = match window::run(Some(start)) {
        Ok(code) => return Ok(code),
        Err(why) => why,
    };
    let what = if path.is_dir() { "report" } else { "plan" };
    eprintln!("no window: {why}; showing the {what}");
    if path.is_dir() {
        let report = folder::replay(path)?;
        let config = report.config.as_ref();
        for (i, output) in report.output.iter().enumerate() {
            let label = if report.output.len() > 1 { format!("[sequence {}] ", i + 1) } else { String::new() };
            say(&format!("{label}{}{}\n\n", config.map_or(String::new(), prompt_of), output.text));
        }
        if report.ended() && report.error.is_none() {
            say(&summary(&report));
        } else if config.is_some() {
            // Nothing was measured to its end: the plan alone.
            say(&format!("{}\n", bytes_table(&report.plan, None)));
        }
        match &report.error {
            Some(error) => say(&format!("ended    {}\n", error.message)),
            None if !report.ended() => say("ended    the run did not finish: it was killed, or its disk was full\n"),
            None => {}
        }
        return Ok(0);
    }
    plan(&args::Plan { source: args.source.clone(), json: false })
}

pub fn techniques(args: &args::Techniques) -> Result<u8> {
    let entries: Vec<_> = catalog::entries().collect();
    if args.json {
        say_json(&entries)?;
        return Ok(0);
    }
    let mut out = String::new();
    let mut axis = None;
    for e in entries {
        if axis.replace(e.axis) != Some(e.axis) {
            out += &format!("{}{}\n", if out.is_empty() { "" } else { "\n" }, e.axis.key);
        }
        out += &format!("  {:<12} {}\n", e.id, e.sentence);
        for k in e.knobs {
            let default = k.default_value().map_or("-".into(), |v| v.to_string());
            let paper = if k.paper_name.is_empty() || k.paper_name == k.id {
                String::new()
            } else {
                format!(" [{}]", k.paper_name)
            };
            out += &format!("    {:<14} {default} {}{paper}: {}\n", k.id, k.unit, k.sentence);
        }
    }
    out += "\ntrain.data\n";
    for s in ullage_core::train::data::SOURCES {
        out += &format!("  {:<18} {}.\n", s.form, s.what);
    }
    say(&out);
    Ok(0)
}

pub fn probe(args: &args::Probe) -> Result<u8> {
    machine::Machine::place(args.force)?;
    let cancel = Arc::new(AtomicBool::new(false));
    on_interrupt(Arc::clone(&cancel));
    let mut bar = Progress::new(false);
    let start = std::time::Instant::now();
    let effort = if args.quick { machine::Effort::QUICK } else { machine::Effort::THOROUGH };
    let machine = machine::probe(
        effort,
        &mut |what, done| {
            let left = start.elapsed().as_secs_f64() / f64::from(done.max(0.01)) * f64::from(1.0 - done);
            bar.set(what, (done * 100.0) as u64, 100, left);
        },
        &|| cancel.load(Relaxed),
    )?;
    bar.clear();
    let path = machine.save(args.force)?;
    if args.json {
        say_json(&machine)?;
    } else {
        say(&format!("{machine}\nsaved to {}\n", path.display()));
    }
    Ok(0)
}
