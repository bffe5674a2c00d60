//! Logits of a few tokens at a time: loss and gradient of a chunk before the next.

use super::{Loss, Tile};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Loss> = Entry {
    about: About {
        id: "chunked",
        title: "Chunks of tokens",
        common: true,
        paper: "fused linear cross-entropy, as in Liger Kernel (arXiv 2410.10989)",
        sentence: "Logits are held for a chunk of tokens at a time, whose loss and gradient come before the next chunk.",
        knobs: &[Knob {
            id: "chunk_tokens",
            label: "Tokens of a chunk",
            paper_name: "chunk size",
            kind: KnobKind::Int { min: 1, max: 1 << 20 },
            default: Default::Int(256),
            unit: "tokens",
            sentence: "Tokens of a chunk.",
        }],
        runs_on: ON_ALL,
        candidates: &[Candidate { cost: Cost::Speed, keeps: 0.9, sets: &[], words: "Loss in chunks of tokens" }],
        ..About::on(&axes::TRAIN_LOSS)
    },
    build: |knobs| Ok(Box::new(Chunked(knobs.int("chunk_tokens")))),
};

struct Chunked(usize);

impl Loss for Chunked {
    fn tile(&self, rows: usize, vocab: usize) -> Tile {
        Tile { rows: self.0.clamp(1, rows.max(1)), vocab, eps: 0.0, sort: false }
    }
}
