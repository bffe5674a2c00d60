//! Cut cross-entropy (arXiv 2411.09009): tiles of tokens × vocabulary, computed twice, never tokens × vocabulary.

use super::{Loss, Tile};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Loss> = Entry {
    about: About {
        id: "cut",
        title: "Cut cross-entropy",
        common: true,
        paper: "Cut Your Losses in Large-Vocabulary Language Models (arXiv 2411.09009)",
        sentence: "Logits exist only as one tile; they are computed twice, and tiles without weight are skipped.",
        knobs: &[
            Knob {
                id: "block_n",
                label: "Tokens of a tile",
                paper_name: "N_B",
                kind: KnobKind::Int { min: 1, max: 1 << 20 },
                default: Default::Int(256),
                unit: "tokens",
                sentence: "Tokens of a tile.",
            },
            Knob {
                id: "block_v",
                label: "Vocabulary of a tile",
                paper_name: "V_B",
                kind: KnobKind::Int { min: 1, max: 1 << 24 },
                default: Default::Int(4096),
                unit: "entries",
                sentence: "Entries of the vocabulary in a tile.",
            },
            Knob {
                id: "filter_eps",
                label: "Skip below",
                paper_name: "ε",
                kind: KnobKind::Float { min: 0.0, max: 0.1 },
                // 2⁻²⁸: what f32 would lose beside 1 by adding a thirty-second of its epsilon.
                default: Default::Float(3.725_290_298e-9),
                unit: "",
                sentence: "Tiles whose probabilities are all below this have no gradient; 0 computes every one.",
            },
            Knob {
                id: "sort_vocab",
                label: "Sort the vocabulary",
                paper_name: "vocabulary sorting",
                kind: KnobKind::Bool,
                default: Default::Bool(true),
                unit: "",
                sentence: "Entries are taken by falling mean logit, so that likely ones share tiles and more tiles are skipped.",
            },
        ],
        runs_on: ON_ALL,
        candidates: &[Candidate {
            cost: Cost::Speed,
            keeps: 0.1,
            sets: &[("train.loss.block_n", "128"), ("train.loss.block_v", "2048")],
            words: "Cut cross-entropy in small tiles",
        }],
        ..About::on(&axes::TRAIN_LOSS)
    },
    build: |knobs| {
        Ok(Box::new(Cut {
            rows: knobs.int("block_n"),
            vocab: knobs.int("block_v"),
            eps: knobs.float("filter_eps") as f32,
            sort: knobs.flag("sort_vocab"),
        }))
    },
};

struct Cut {
    rows: usize,
    vocab: usize,
    eps: f32,
    sort: bool,
}

impl Loss for Cut {
    fn tile(&self, rows: usize, vocab: usize) -> Tile {
        let (rows, vocab) = (self.rows.clamp(1, rows.max(1)), self.vocab.clamp(1, vocab));
        Tile { rows, vocab, eps: self.eps, sort: self.sort }
    }
}
