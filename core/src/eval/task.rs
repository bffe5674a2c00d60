//! A generated task's questions, answered greedily: exact match.

use serde_json::json;

use super::{Case, Material, Task, metrics};
use crate::error::{Error, Result};
use crate::model::sampling::Sampler;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, axes};
use crate::train::data::task;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Task> = Entry {
    about: About {
        id: "task",
        title: "Held-out task",
        common: true,
        paper: "compositional generalisation as in Lake and Baroni, SCAN, arXiv 1711.00350; a language of our own",
        sentence: "Asks a fine-tuning task's held-out questions: the share whose greedy answer is right to the last token.",
        knobs: &[
            Knob {
                id: "name",
                label: "Task",
                paper_name: "",
                kind: KnobKind::Text,
                default: Default::Text(task::TOVA),
                unit: "",
                sentence: "The task, as train.data has it after `bundled:`; its seed may follow an @.",
            },
            Knob {
                id: "split",
                label: "Questions",
                paper_name: "",
                kind: KnobKind::Word { of: &["held_out", "train"] },
                default: Default::Text("held_out"),
                unit: "",
                sentence: "Questions never trained on, or those that were.",
            },
            Knob {
                id: "samples",
                label: "Questions asked",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 100_000 },
                default: Default::Int(60),
                unit: "",
                sentence: "Questions asked; all where there are fewer.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::EVAL)
    },
    build: |knobs| {
        Ok(Box::new(Asked {
            name: knobs.text("name").to_owned(),
            held_out: knobs.text("split") != "train",
            samples: knobs.int("samples"),
            right: Vec::new(),
            tokens: (0, 0),
        }))
    },
};

struct Asked {
    name: String,
    held_out: bool,
    samples: usize,
    /// For each question, whether every token so far was right. With the right tokens before it each greedy token is the one
    /// that generating would have chosen, so all right is an exact match of the generated answer.
    right: Vec<bool>,
    /// Tokens right, and asked.
    tokens: (usize, usize),
}

impl Task for Asked {
    fn cases(&mut self, m: &Material<'_>) -> Result<Vec<Case>> {
        // The name may also be written as train.data has it.
        let task = task::Task::find(self.name.strip_prefix("bundled:").unwrap_or(&self.name)).map_err(|e| match e {
            Error::Config { message, .. } => Error::config("eval.task.name", message),
            other => other,
        })?;
        let examples = if self.held_out { task.held_out() } else { task.train() };
        let cases = examples
            .iter()
            .take(self.samples)
            .map(|e| {
                // As one text, as it is learned.
                let (forced, prompt): (Vec<_>, Vec<_>) =
                    m.words.marked_pair(&e.prompt, &e.response, false)?.into_iter().partition(|(_, of)| *of);
                let ids = |marked: Vec<(u32, bool)>| marked.into_iter().map(|(id, _)| id).collect();
                Ok(Case { prompt: ids(prompt), forced: ids(forced) })
            })
            .collect::<Result<Vec<_>>>()?;
        self.right = vec![true; cases.len()];
        Ok(cases)
    }

    fn score(&mut self, case: usize, _step: usize, logits: &[f32], target: u32, _reference: Option<&[f32]>) {
        let hit = Sampler::greedy(logits) == target;
        self.right[case] &= hit;
        self.tokens = (self.tokens.0 + usize::from(hit), self.tokens.1 + 1);
    }

    fn finish(&mut self) -> serde_json::Value {
        let (n, hits) = (self.right.len(), self.right.iter().filter(|r| **r).count());
        let (low, high) = metrics::wilson(hits, n);
        json!({
            "accuracy": hits as f64 / n.max(1) as f64,
            "interval_95": [low, high],
            "n": n,
            "token_accuracy": self.tokens.0 as f64 / self.tokens.1.max(1) as f64,
            "name": self.name,
            "split": if self.held_out { "held_out" } else { "train" },
        })
    }
}
