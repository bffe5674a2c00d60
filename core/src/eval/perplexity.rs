//! exp of the mean negative log-likelihood of a text's tokens, each forced after what came before.

use serde_json::json;

use super::{Case, Material, Task, beginning, metrics, windows};
use crate::error::Result;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// Knobs that every evaluation of a text has.
pub const TEXT_KNOBS: &[Knob] = &[
    Knob {
        id: "file",
        label: "Text file",
        paper_name: "",
        kind: KnobKind::Text,
        default: Default::Text(""),
        unit: "",
        sentence: "A text file; empty for the bundled text.",
    },
    Knob {
        id: "prompt",
        label: "Prompt",
        paper_name: "",
        kind: KnobKind::Int { min: 1, max: 1 << 20 },
        default: Default::Int(128),
        unit: "tokens",
        sentence: "Tokens read at once before the first is scored; policies compress after them.",
    },
    Knob {
        id: "tokens",
        label: "Scored tokens",
        paper_name: "",
        kind: KnobKind::Int { min: 1, max: 1 << 20 },
        default: Default::Int(128),
        unit: "tokens",
        sentence: "Tokens forced and scored in each window.",
    },
    Knob {
        id: "windows",
        label: "Windows",
        paper_name: "",
        kind: KnobKind::Int { min: 1, max: 4096 },
        default: Default::Int(1),
        unit: "",
        sentence: "Windows of the text, one after the other.",
    },
];

/// The catalogue entry.
pub static ENTRY: Entry<dyn Task> = Entry {
    about: About {
        id: "perplexity",
        title: "Perplexity",
        common: false,
        paper: "kv.md §7.1–7.2; Jelinek et al. 1977",
        sentence: "How surprised the model is by a text, token by token, with the cache as configured.",
        knobs: TEXT_KNOBS,
        runs_on: ON_ALL,
        ..About::on(&axes::EVAL)
    },
    build: |knobs| {
        Ok(Box::new(Perplexity {
            file: knobs.text("file").to_owned(),
            prompt: knobs.int("prompt"),
            tokens: knobs.int("tokens"),
            windows: knobs.int("windows"),
            losses: Vec::new(),
        }))
    },
};

struct Perplexity {
    file: String,
    prompt: usize,
    tokens: usize,
    windows: usize,
    losses: Vec<f64>,
}

impl Task for Perplexity {
    fn cases(&mut self, m: &Material<'_>) -> Result<Vec<Case>> {
        let need = self.windows.saturating_mul(self.prompt + self.tokens);
        let ids = beginning(m, "eval.perplexity.file", &self.file, need)?;
        windows("eval.perplexity.prompt", &ids, self.prompt, self.tokens, self.windows)
    }

    fn score(&mut self, _case: usize, _step: usize, logits: &[f32], target: u32, _reference: Option<&[f32]>) {
        self.losses.push(metrics::log_sum_exp(logits) - f64::from(logits[target as usize]));
    }

    fn finish(&mut self) -> serde_json::Value {
        let (loss, error) = metrics::mean(&self.losses);
        let figure = metrics::figure;
        let tokens = self.losses.len();
        json!({ "perplexity": figure(loss.exp()), "loss": figure(loss), "loss_se": figure(error), "tokens": tokens })
    }
}
