//! Needle in a haystack (kv.md §7.3): a sentence with a number at some depth of a long text, asked for at the end.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Case, Material, TEXT, Task, metrics};
use crate::error::{Error, Result};
use crate::model::sampling::Sampler;
use crate::model::text::Words;
use crate::rng::Philox;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Task> = Entry {
    about: About {
        id: "needle",
        title: "Needle in a haystack",
        common: true,
        paper: "Kamradt 2023, needle in a haystack; kvpress evaluation (Apache-2.0); kv.md §7.3",
        sentence: "Hides a number in a long text and asks for it: exact match at each length and depth.",
        knobs: &[
            Knob {
                id: "lengths",
                label: "Lengths",
                paper_name: "",
                kind: KnobKind::Ints { min: 64, max: 1 << 20 },
                default: Default::Ints(&[512, 1024]),
                unit: "tokens",
                sentence: "Lengths of the whole prompt.",
            },
            Knob {
                id: "depths",
                label: "Depths",
                paper_name: "",
                kind: KnobKind::Ints { min: 0, max: 100 },
                default: Default::Ints(&[0, 25, 50, 75, 100]),
                unit: "%",
                sentence: "Where the needle lies.",
            },
            Knob {
                id: "samples",
                label: "Samples",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 1000 },
                default: Default::Int(4),
                unit: "",
                sentence: "Different needles at each length and depth.",
            },
            Knob {
                id: "digits",
                label: "Digits",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 12 },
                default: Default::Int(5),
                unit: "digits",
                sentence: "Digits of the number.",
            },
            Knob {
                id: "haystack",
                label: "Long text",
                paper_name: "",
                kind: KnobKind::Word { of: &["filler", "text"] },
                default: Default::Text("filler"),
                unit: "",
                sentence: "The repeated sentences of passkey tests, or the bundled text.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::EVAL)
    },
    build: |knobs| {
        Ok(Box::new(Needle {
            lengths: knobs.ints("lengths"),
            depths: knobs.ints("depths"),
            samples: knobs.int("samples"),
            digits: knobs.int("digits"),
            filler: knobs.text("haystack") != "text",
            cells: Vec::new(),
            right: Vec::new(),
        }))
    },
};

const FILLER: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";

struct Needle {
    lengths: Vec<usize>,
    depths: Vec<usize>,
    samples: usize,
    digits: usize,
    filler: bool,
    /// Length and depth of each case.
    cells: Vec<(usize, usize)>,
    right: Vec<bool>,
}

/// A long text to lie in: its sentences, and how many tokens it has up to the end of each.
struct Hay {
    text: String,
    /// Bytes and tokens.
    ends: Vec<(usize, usize)>,
}

impl Hay {
    /// One of at least `tokens` tokens.
    fn of(sentences: &str, tokens: usize, words: &Words) -> Result<Self> {
        let once = words.placed(sentences, false)?.ids.len().max(1);
        // Further rounds of it may take fewer tokens than the first.
        let text = sentences.repeat(2 + (tokens + tokens / 8) / once);
        let encoded = words.placed(&text, false)?;
        let (mut ends, mut at, mut end) = (vec![(0, 0)], 0, 0);
        for sentence in text.split_inclusive(". ") {
            end += sentence.len();
            at += encoded.spans[at..].iter().take_while(|(_, to)| *to <= end).count();
            ends.push((end, at));
        }
        Ok(Self { text, ends })
    }

    /// Sentences that come to no more than `tokens` tokens.
    fn within(&self, tokens: usize) -> usize {
        self.ends.partition_point(|(_, n)| *n <= tokens).saturating_sub(1)
    }

    /// Sentences that come to at least `tokens` tokens.
    fn reaching(&self, tokens: usize) -> usize {
        self.ends.partition_point(|(_, n)| *n < tokens)
    }

    /// Its text between two sentences.
    fn between(&self, from: usize, to: usize) -> &str {
        &self.text[self.ends[from].0..self.ends[to].0]
    }
}

const QUESTION: &str = "\nWhat is the pass key? The pass key is";

impl Needle {
    /// One case: the hay with the needle at its depth and the question, in no more than `length` tokens; and the answer.
    fn case(&self, m: &Material<'_>, hay: &Hay, (length, depth): (usize, usize), number: u64) -> Result<Case> {
        let needle = format!("The pass key is {number}. Remember it. {number} is the pass key. ");
        let around = m.words.placed(&[&needle, QUESTION].concat(), true)?.ids.len();
        let short = || {
            Error::config(
                "eval.needle.lengths",
                format!("`{length}` is too short; the needle and the question alone take {around} tokens"),
            )
        };
        let room = length.checked_sub(around).filter(|r| *r > 0).ok_or_else(short)?;
        let mut all = hay.within(room);
        loop {
            // Between sentences, so that the needle never splits one.
            let before = hay.reaching((room * depth).div_ceil(100)).min(all);
            let asked = [hay.between(0, before), &needle, hay.between(before, all), QUESTION].concat();
            let answer = asked.len()..asked.len() + 1 + number.to_string().len();
            // The full stop is not asked for: it only ends the number.
            let encoded = m.words.placed(&format!("{asked} {number}."), true)?;
            let forced: Vec<u32> = (encoded.ids.iter().zip(&encoded.spans))
                .filter(|(_, (from, to))| *to > answer.start && *from < answer.end)
                .map(|(id, _)| *id)
                .collect();
            let read = encoded.spans.iter().take_while(|(_, to)| *to <= answer.start).count();
            if read <= length {
                return Ok(Case { prompt: encoded.ids[..read].to_vec(), forced });
            }
            // Where parts meet, a text may take a token more than they do.
            all = all.checked_sub(1).ok_or_else(short)?;
        }
    }
}

impl Task for Needle {
    fn cases(&mut self, m: &Material<'_>) -> Result<Vec<Case>> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let hay = Hay::of(if self.filler { FILLER } else { TEXT }, longest, m.words)?;
        let rng = Philox::new(m.seed).stream(0x6e65_6564_6c65);
        let mut cases = Vec::new();
        for &length in &self.lengths {
            for &depth in &self.depths {
                for _ in 0..self.samples {
                    let low = 10u64.pow(self.digits as u32 - 1);
                    let number = low + rng.below(cases.len() as u64, 9 * low);
                    cases.push(self.case(m, &hay, (length, depth), number)?);
                    self.cells.push((length, depth));
                }
            }
        }
        self.right = vec![true; cases.len()];
        Ok(cases)
    }

    fn score(&mut self, case: usize, _step: usize, logits: &[f32], target: u32, _reference: Option<&[f32]>) {
        self.right[case] &= Sampler::greedy(logits) == target;
    }

    fn finish(&mut self) -> serde_json::Value {
        let mut cells: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
        for (cell, right) in self.cells.iter().zip(&self.right) {
            let c = cells.entry(*cell).or_default();
            c.0 += usize::from(*right);
            c.1 += 1;
        }
        let hits = self.right.iter().filter(|r| **r).count();
        let (low, high) = metrics::wilson(hits, self.right.len());
        let grid: Vec<_> = cells
            .iter()
            .map(|((length, depth), (hits, n))| json!({ "length": length, "depth": depth, "accuracy": *hits as f64 / *n as f64, "n": n }))
            .collect();
        json!({ "accuracy": hits as f64 / self.right.len() as f64, "interval_95": [low, high], "n": self.right.len(), "grid": grid })
    }
}
