//! The nearest llama.cpp command line to a configuration, and what does not carry over.

use std::fmt::{Arguments, Write as _};

use crate::Bytes;
use crate::config::{Compute, Config, Kv, Run};

/// Formats that llama.cpp's cache knows too.
const CACHE_TYPES: &[&str] = &["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The command line, then a line for each choice that it cannot say.
pub fn command(config: &Config) -> String {
    let run = &config.run;
    let batch = run.batch;
    let mut said = Said::default();
    said.model(&config.model.path);
    said.add(format_args!("-t {} -c {} -n {} -b {batch} -ub {batch}", config.threads(), run.context, run.max_tokens));
    said.sampling(run);
    said.conversation(run);
    said.cache(&config.kv);
    said.add(format_args!("-ngl {}", if config.machine.device == "cpu" { 0 } else { 999 }));
    said.memory(config);
    said.measuring(config);
    let Said { mut line, lost } = said;
    line.push('\n');
    for what in lost {
        let _ = writeln!(line, "# does not carry over: {what}");
    }
    line
}

/// The line so far, and what it cannot say.
#[derive(Default)]
struct Said {
    line: String,
    lost: Vec<String>,
}

impl Said {
    /// One more flag with its value.
    fn add(&mut self, flag: Arguments<'_>) {
        let _ = write!(self.line, " {flag}");
    }

    fn lose(&mut self, what: impl Into<String>) {
        self.lost.push(what.into());
    }

    fn model(&mut self, path: &str) {
        self.line = format!("llama-cli -m {}", quoted(path));
        if let Some(name) = path.strip_prefix("bundled:") {
            self.lose(format!("model.path = bundled:{name}: give it the file assets/bundled/{name}.gguf"));
        } else if path.starts_with("random:") {
            self.lose(format!("model.path = {path}: there is no file of it"));
        }
    }

    fn sampling(&mut self, run: &Run) {
        let s = &run.sampling;
        self.add(format_args!("-s {} --temp {}", run.seed, s.temperature));
        if s.temperature > 0.0 {
            self.add(format_args!("--top-k {} --top-p {} --min-p {}", s.top_k, s.top_p, s.min_p));
            self.add(format_args!("--samplers 'temperature;top_k;top_p;min_p'"));
            self.lose("the random numbers: the same seed draws other tokens there");
        }
    }

    fn conversation(&mut self, run: &Run) {
        self.add(format_args!("{} -p {}", if run.chat { "-cnv" } else { "-no-cnv" }, quoted(&run.prompt)));
        if !run.system.is_empty() {
            self.add(format_args!("-sys {}", quoted(&run.system)));
        }
        if !run.parse_special.in_completion() {
            self.lose("run.parse_special = never: control tokens are parsed wherever they are spelled");
        }
        if !run.turns.is_empty() {
            self.lose(format!("run.turns: {} earlier turns of the conversation", run.turns.len()));
        }
        if run.ignore_eos {
            self.add(format_args!("--ignore-eos"));
        }
        for stop in &run.stop {
            self.add(format_args!("-r {}", quoted(stop)));
        }
    }

    /// The formats of keys and values, and what happens to rows there.
    fn cache(&mut self, kv: &Kv) {
        for (flag, choice) in [("-ctk", &kv.format.k), ("-ctv", &kv.format.v)] {
            if CACHE_TYPES.contains(&choice.id.as_str()) {
                self.add(format_args!("{flag} {}", choice.id));
            } else {
                self.lose(format!("kv.format = {}: no such cache type", choice.id));
            }
        }
        if kv.format.v.id.starts_with('q') || kv.format.v.id.starts_with("iq") {
            self.add(format_args!("-fa on"));
        }
        if kv.select.id != "full" {
            self.lose(format!("kv.select = {}: every token stays there", kv.select.id));
        }
        for (key, choice, plain) in [
            ("kv.split", &kv.split, "uniform"),
            ("kv.merge", &kv.merge, "discard"),
            ("kv.channels", &kv.channels, "all"),
            ("kv.read", &kv.read, "all"),
        ] {
            if choice.id != plain {
                self.lose(format!("{key} = {}: nothing like it there", choice.id));
            }
        }
    }

    /// How weights and cache lie in memory, and how much of it they may take.
    fn memory(&mut self, config: &Config) {
        if let Some((key, choice)) = config.weights.changed() {
            self.lose(format!("{key} = {0}: make the file first with `llama-quantize MODEL OUT {0}`", choice.id));
        }
        let place = &config.place.weights.id;
        if place != "resident" {
            self.lose(format!("place.weights = {place}: there the file is mapped and the system pages it"));
        }
        let alloc = &config.kv.alloc.id;
        if alloc != "contiguous" {
            self.lose(format!("kv.alloc = {alloc}: one piece for the whole context there"));
        }
        if config.budget.device != Bytes::UNLIMITED {
            self.lose(format!("budget.device = {}: no cap there", config.budget.device));
        }
    }

    /// What other programs of llama.cpp do, and how it computes.
    fn measuring(&mut self, config: &Config) {
        let run = &config.run;
        if run.sequences > 1 {
            self.lose(format!("run.sequences = {}: use llama-parallel", run.sequences));
        }
        if config.compute() == Compute::Exact {
            self.lose(
                "run.compute = exact: quantized weights meet 8-bit activations there, KL about 3e-3 on a 135M model",
            );
        }
        for task in config.eval.keys() {
            self.lose(format!("eval.{task}: see llama-perplexity for perplexity and --kl-divergence"));
        }
    }
}
