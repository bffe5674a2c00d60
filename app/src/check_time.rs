//! `ullage check-plan --time`: predicted seconds against measured ones.
//!
//! The machine is probed in this process, for each model anew; then each configuration is planned with what the probe found and
//! run as a program of its own, some times over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use ullage_core::machine::{Effort, Machine, probe};
use ullage_core::model::Model;
use ullage_core::plan::{Times, plan};
use ullage_core::report::Report;
use ullage_core::{Error, Result};

use crate::args;
use crate::check_plan::{Sets, child, label, order, prompt, sets, workload_of};
use crate::run::on_interrupt;
use crate::source::{say, say_json};

/// How far a time may be off.
const WITHIN: f64 = 0.25;
/// Tokens of a prompt, unless a configuration says otherwise.
const PROMPT: usize = 480;

/// One time of one configuration.
#[derive(Debug, Serialize)]
struct Row {
    configuration: String,
    /// `prefill`, `decode`, `step`.
    what: &'static str,
    /// Seconds of a prompt, of a decoding step, of a training step.
    predicted: f64,
    measured: f64,
    ratio: f64,
}

impl Row {
    fn within(&self) -> bool {
        (1.0 - WITHIN..=1.0 + WITHIN).contains(&self.ratio)
    }
}

/// What is run on a model: settings with a name each.
fn inference() -> Vec<Sets> {
    let choices: [&[(&str, &str)]; 14] = [
        &[],
        &[("machine.threads", "1")],
        &[("prompt", "1900")],
        &[("kv.format", "f32")],
        &[("kv.format", "q8_0"), ("prompt", "1900")],
        &[("kv.format", "q4_0"), ("prompt", "1900")],
        &[("kv.alloc", "contiguous")],
        &[("kv.select", "window"), ("kv.budget.rows", "128")],
        &[("kv.select", "snapkv"), ("kv.budget.rows", "128")],
        &[("kv.select", "h2o"), ("kv.budget.rows", "128")],
        &[("run.batch", "32")],
        &[("run.sequences", "4")],
        &[("run.sequences", "16")],
        &[("place.weights.use", "stream"), ("place.weights.from", "host")],
    ];
    let fixed = sets(&[("run.prompt", "x"), ("run.max_tokens", "100"), ("run.ignore_eos", "true")]);
    choices.iter().map(|c| [fixed.clone(), sets(c)].concat()).collect()
}

fn training() -> Vec<Sets> {
    let choices: [&[(&str, &str)]; 8] = [
        &[("train.params", "full")],
        &[("train.params", "lora")],
        &[("train.params", "lora"), ("machine.threads", "1")],
        &[("train.params", "full"), ("train.activations", "recompute")],
        &[("train.params", "full"), ("train.optimizer", "sgd")],
        &[("train.params", "full"), ("train.optimizer", "galore")],
        &[("train.params", "lora"), ("train.length", "512"), ("train.batch", "1")],
        &[("train.params", "full"), ("train.loss", "cut")],
    ];
    let fixed = sets(&[
        ("run.prompt", "x"),
        ("train.data", "random"),
        ("train.steps", "4"),
        ("train.batch", "2"),
        ("train.length", "128"),
    ]);
    choices.iter().map(|c| [fixed.clone(), sets(c)].concat()).collect()
}

/// Models of several types and sizes: the bundled one with everything, the others with what differs by their weights.
fn models() -> Vec<(&'static str, Vec<Sets>)> {
    let all = || [inference(), training()].concat();
    let some = |which: &[usize]| {
        let every = all();
        which.iter().filter_map(|i| every.get(*i).cloned()).collect()
    };
    vec![
        ("bundled:recall", all()),
        ("random:smollm2-135m@q4_1", all()),
        ("random:smollm2-135m@f16", some(&[0, 11, 15])),
        ("random:smollm2-135m@q8_0", some(&[0, 1])),
        ("random:smollm2-135m@q5_0", some(&[0, 12])),
        ("random:smollm2-135m@f32", some(&[0])),
        ("random:llama-1b@q4_k", some(&[0])),
        ("random:llama-1b@q4_0", some(&[0, 5])),
    ]
}

pub fn check_time(args: &args::CheckPlan) -> Result<u8> {
    let cancel = Arc::new(AtomicBool::new(false));
    on_interrupt(Arc::clone(&cancel));
    let cancelled = || cancel.load(Ordering::Relaxed);
    let (mut rows, mut machine) = (Vec::new(), Machine::default_guess());
    let named = args.models.iter().map(|path| (path.as_str(), inference()));
    for (path, all) in models().into_iter().chain(named) {
        let wanted: Vec<_> = all.into_iter().filter(|s| label(path, &s[1..].to_vec()).contains(&args.only)).collect();
        if wanted.is_empty() {
            continue;
        }
        let model = Arc::new(Model::open(path, Path::new("."))?);
        // Anew for each: how fast a machine is changes within minutes, with its heat and its neighbours.
        machine = probe(Effort::THOROUGH, &mut |what, _| eprint!("\rprobing: {what:<40}"), &cancelled)?;
        eprintln!("\r{:<60}", "");
        for mut sets in wanted {
            sets.push(("machine.device".into(), args.device.clone()));
            if cancelled() {
                return Err(Error::Cancelled);
            }
            for row in times(&model, &machine, path, sets, args.repeats)? {
                if !args.json {
                    row.say(rows.is_empty());
                }
                rows.push(row);
            }
        }
    }
    if args.json {
        say_json(&serde_json::json!({ "rows": rows, "machine": machine }))?;
    } else {
        summary(&rows);
    }
    Ok(0)
}

/// The times of one configuration.
fn times(model: &Arc<Model>, machine: &Machine, path: &str, mut sets: Sets, repeats: usize) -> Result<Vec<Row>> {
    let configuration = label(path, &sets[1..].to_vec());
    let own = sets.iter().position(|(key, _)| key == "prompt").map(|i| sets.remove(i).1);
    sets[0].1 = format!("{:?}", prompt(model, own.and_then(|n| n.parse().ok()).unwrap_or(PROMPT)));
    let trains = sets.iter().any(|(key, _)| key == "train.data");
    let order = order(model, machine, &sets)?;
    let planned = plan(&model.shape, &workload_of(&order)?, &order.config, machine)?.time;
    let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), "cannot make a folder", &e))?;
    let config = folder.path().join("config.toml");
    std::fs::write(&config, order.config.to_toml()?).map_err(|e| Error::io(&config, "cannot write", &e))?;
    let reports = (0..repeats).map(|_| child(&config, None, None)).collect::<Result<Vec<_>>>()?;
    if let Some(error) = reports.iter().find_map(|r| r.error.as_ref()) {
        return Err(Error::Internal(format!("{configuration}: {}", error.message)));
    }
    let row = |what, predicted: f64, measured: &dyn Fn(&Report) -> f64| {
        let mut all: Vec<f64> = reports.iter().map(measured).filter(|s| s.is_finite() && *s > 0.0).collect();
        all.sort_unstable_by(f64::total_cmp);
        let measured = *all.get(all.len() / 2)?;
        let configuration = configuration.clone();
        Some(Row { configuration, what, predicted, measured, ratio: predicted / measured })
    };
    let Times { prefill_seconds, decode_tokens_per_second, train_step_seconds, .. } = planned;
    if trains {
        return Ok(row("step", train_step_seconds, &|r| r.speed.step_seconds).into_iter().collect());
    }
    let sequences = order.config.run.sequences as f64;
    let prefill =
        row("prefill", prefill_seconds, &|r| r.speed.prompt_tokens as f64 / r.speed.prefill_tokens_per_second);
    let decode = row("decode", sequences / decode_tokens_per_second, &|r| r.speed.step_seconds);
    Ok(prefill.into_iter().chain(decode).collect())
}

impl Row {
    fn say(&self, first: bool) {
        if first {
            say(&format!("{:>12} {:>12} {:>7} {:>8}\n", "predicted", "measured", "ratio", ""));
        }
        let Self { configuration, what, predicted, measured, ratio } = self;
        let mark = if self.within() { "" } else { "*" };
        say(&format!(
            "{:>9.3} ms {:>9.3} ms {ratio:>6.2}{mark:1} {what:>8}  {configuration}\n",
            1e3 * predicted,
            1e3 * measured
        ));
    }
}

/// How many are within, by what they are, and which is worst.
fn summary(rows: &[Row]) {
    say("\n");
    for what in ["prefill", "decode", "step"] {
        let of: Vec<_> = rows.iter().filter(|r| r.what == what).collect();
        let good = of.iter().filter(|r| r.within()).count();
        let far = |r: &&&Row| r.ratio.ln().abs();
        if let Some(worst) = of.iter().max_by(|a, b| far(a).total_cmp(&far(b))) {
            say(&format!(
                "{what:>8}: {good} of {} within {:.0} %; worst {:.2} of what was measured: {}\n",
                of.len(),
                100.0 * WITHIN,
                worst.ratio,
                worst.configuration
            ));
        }
    }
}
