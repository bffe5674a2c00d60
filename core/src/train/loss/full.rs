//! All logits at once.

use super::{Loss, Tile};
use crate::catalog::{self, Axis, Entry, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "full",
    title: "All logits at once",
    common: true,
    axis: Axis::TrainLoss,
    paper: "the plain choice",
    sentence: "The logits of every token of the batch are held at once.",
    knobs: &[],
    composes: with_all,
    role: catalog::Role::TrainLoss(|_| Ok(Box::new(Full))),
};

struct Full;

impl Loss for Full {
    fn tile(&self, rows: usize, vocab: usize) -> Tile {
        Tile { rows: rows.max(1), vocab, eps: 0.0 }
    }
}
