//! The nearest llama.cpp command line to a configuration, and what does not carry over.

use std::fmt::Write as _;

use crate::config::{Compute, Config};

/// Formats that llama.cpp's cache knows too.
const CACHE_TYPES: &[&str] = &["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The command line, then a line for each choice that it cannot say.
pub fn command(config: &Config) -> String {
    let run = &config.run;
    let mut line = format!("llama-cli -m {}", quoted(&config.model.path));
    let mut lost: Vec<String> = Vec::new();
    if let Some(name) = config.model.path.strip_prefix("bundled:") {
        lost.push(format!("model.path = bundled:{name}: give it the file assets/bundled/{name}.gguf"));
    } else if config.model.path.starts_with("random:") {
        lost.push(format!("model.path = {}: there is no file of it", config.model.path));
    }
    let _ = write!(
        line,
        " -t {} -c {} -n {} -b {} -ub {}",
        config.threads(),
        run.context,
        run.max_tokens,
        run.batch,
        run.batch
    );
    let _ = write!(line, " -s {} --temp {}", run.seed, run.sampling.temperature);
    if run.sampling.temperature > 0.0 {
        let s = &run.sampling;
        let _ = write!(
            line,
            " --top-k {} --top-p {} --min-p {} --samplers 'temperature;top_k;top_p;min_p'",
            s.top_k, s.top_p, s.min_p
        );
        lost.push("the random numbers: the same seed draws other tokens there".into());
    }
    let _ = write!(line, " {} -p {}", if run.chat { "-cnv" } else { "-no-cnv" }, quoted(&run.prompt));
    if !run.system.is_empty() {
        let _ = write!(line, " -sys {}", quoted(&run.system));
    }
    if !run.turns.is_empty() {
        lost.push(format!("run.turns: {} earlier turns of the conversation", run.turns.len()));
    }
    if run.ignore_eos {
        line.push_str(" --ignore-eos");
    }
    for stop in &run.stop {
        let _ = write!(line, " -r {}", quoted(stop));
    }
    for (flag, choice) in [("-ctk", &config.kv.format.k), ("-ctv", &config.kv.format.v)] {
        if CACHE_TYPES.contains(&choice.id.as_str()) {
            let _ = write!(line, " {flag} {}", choice.id);
        } else {
            lost.push(format!("kv.format = {}: no such cache type", choice.id));
        }
    }
    if config.kv.format.v.id.starts_with('q') || config.kv.format.v.id.starts_with("iq") {
        line.push_str(" -fa on");
    }
    line.push_str(if config.machine.device == "cpu" { " -ngl 0" } else { " -ngl 999" });
    if config.kv.select.id != "full" {
        lost.push(format!("kv.select = {}: every token stays there", config.kv.select.id));
    }
    let kv = &config.kv;
    for (key, choice, plain) in [
        ("kv.split", &kv.split, "uniform"),
        ("kv.merge", &kv.merge, "discard"),
        ("kv.channels", &kv.channels, "all"),
        ("kv.read", &kv.read, "all"),
    ] {
        if choice.id != plain {
            lost.push(format!("{key} = {}: nothing like it there", choice.id));
        }
    }
    if let Some((key, choice)) = config.weights.changed() {
        lost.push(format!("{key} = {0}: make the file first with `llama-quantize MODEL OUT {0}`", choice.id));
    }
    if config.place.weights.id != "resident" {
        lost.push(format!(
            "place.weights = {}: there the file is mapped and the system pages it",
            config.place.weights.id
        ));
    }
    if config.kv.alloc.id != "contiguous" {
        lost.push(format!("kv.alloc = {}: one piece for the whole context there", config.kv.alloc.id));
    }
    if config.budget.device != crate::Bytes::UNLIMITED {
        lost.push(format!("budget.device = {}: no cap there", config.budget.device));
    }
    if run.sequences > 1 {
        lost.push(format!("run.sequences = {}: use llama-parallel", run.sequences));
    }
    if run.compute == Compute::Exact {
        lost.push(
            "run.compute = exact: quantized weights meet 8-bit activations there, KL about 3e-3 on a 135M model".into(),
        );
    }
    for task in config.eval.keys() {
        lost.push(format!("eval.{task}: see llama-perplexity for perplexity and --kl-divergence"));
    }
    let mut out = format!("{line}\n");
    for what in lost {
        let _ = writeln!(out, "# does not carry over: {what}");
    }
    out
}
