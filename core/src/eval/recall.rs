//! Multi-query associative recall in text (kv.md §7.4): lines of key and value, then the keys again in another order.

use std::ops::Range;

use serde_json::json;

use super::{Case, Material, Task, metrics};
use crate::error::{Error, Result};
use crate::model::sampling::Sampler;
use crate::rng::Philox;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Task> = Entry {
    about: About {
        id: "recall",
        title: "Recall",
        common: true,
        paper: "Arora et al., Zoology: multi-query associative recall, arXiv 2312.04927; text form of kv.md §7.4",
        sentence: "Lists pairs of code and number, then asks for the number of each code: exact match.",
        knobs: &[
            Knob {
                id: "pairs",
                label: "Pairs",
                paper_name: "D",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(32),
                unit: "",
                sentence: "Pairs listed before the first question.",
            },
            Knob {
                id: "questions",
                label: "Questions",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(16),
                unit: "",
                sentence: "Pairs asked for.",
            },
            Knob {
                id: "samples",
                label: "Samples",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 1000 },
                default: Default::Int(4),
                unit: "",
                sentence: "Different lists.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::EVAL)
    },
    build: |knobs| {
        Ok(Box::new(Recall {
            pairs: knobs.int("pairs"),
            questions: knobs.int("questions"),
            samples: knobs.int("samples"),
            asked: Vec::new(),
            right: Vec::new(),
        }))
    },
};

struct Recall {
    pairs: usize,
    questions: usize,
    samples: usize,
    /// For each case and forced token: the question whose answer it is part of.
    asked: Vec<Vec<Option<usize>>>,
    right: Vec<Vec<bool>>,
}

fn code(rng: &Philox, index: u64) -> String {
    (0..4).map(|i| char::from(b'A' + rng.below(index * 8 + i, 26) as u8)).collect()
}

/// Which of these answers a token is of, by the bytes that it stands for.
fn asked_by(answers: &[Range<usize>], (from, to): (usize, usize)) -> Option<usize> {
    let q = answers.partition_point(|answer| answer.end <= from);
    answers.get(q).filter(|answer| answer.start < to).map(|_| q)
}

impl Task for Recall {
    fn cases(&mut self, m: &Material<'_>) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for sample in 0..self.samples {
            let rng = Philox::new(m.seed).stream(0x7265_6361_6c6c + sample as u64);
            let mut pairs: Vec<(String, u64)> = Vec::new();
            let mut draw = 0;
            while pairs.len() < self.pairs {
                let key = code(&rng, draw);
                draw += 1;
                if pairs.iter().all(|(k, _)| *k != key) {
                    pairs.push((key, 10 + rng.below((1 << 40) + draw, 90)));
                }
            }
            let mut text: String = pairs.iter().map(|(k, v)| format!("code {k} -> {v}\n")).collect();
            let list = text.len();
            let mut answers = Vec::new();
            for q in 0..self.questions.min(self.pairs) {
                // Any order that is not the list's: a random pair among those not asked yet.
                let at = rng.below((1 << 50) + q as u64, pairs.len() as u64) as usize;
                let (k, v) = pairs.swap_remove(at);
                text += &format!("code {k} ->");
                let from = text.len();
                text += &format!(" {v}");
                answers.push(from..text.len());
                text.push('\n');
            }
            let encoded = m.words.placed(&text, true)?;
            let read = encoded.spans.iter().take_while(|(_, to)| *to <= list).count();
            let (prompt, forced) = (encoded.ids[..read].to_vec(), encoded.ids[read..].to_vec());
            let asked = encoded.spans[read..].iter().map(|span| asked_by(&answers, *span)).collect();
            let case = Case { prompt, forced };
            if case.read() > m.context {
                return Err(Error::config(
                    "eval.recall.pairs",
                    format!(
                        "{} pairs and {} questions take {} tokens, run.context is {}",
                        self.pairs,
                        self.questions,
                        case.read(),
                        m.context
                    ),
                ));
            }
            self.right.push(vec![true; self.questions.min(self.pairs)]);
            self.asked.push(asked);
            cases.push(case);
        }
        Ok(cases)
    }

    fn score(&mut self, case: usize, step: usize, logits: &[f32], target: u32, _reference: Option<&[f32]>) {
        if let Some(q) = self.asked[case][step] {
            self.right[case][q] &= Sampler::greedy(logits) == target;
        }
    }

    fn finish(&mut self) -> serde_json::Value {
        let all: Vec<bool> = self.right.concat();
        let hits = all.iter().filter(|r| **r).count();
        let (low, high) = metrics::wilson(hits, all.len());
        json!({ "accuracy": hits as f64 / all.len() as f64, "interval_95": [low, high], "n": all.len(), "pairs": self.pairs })
    }
}
