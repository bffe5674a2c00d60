//! All logits at once.

use super::{Loss, Tile};
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Loss> = Entry {
    about: About {
        id: "full",
        title: "All logits at once",
        common: true,
        sentence: "The logits of every token of the batch are held at once.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_LOSS)
    },
    build: |_| Ok(Box::new(Full)),
};

struct Full;

impl Loss for Full {
    fn tile(&self, rows: usize, vocab: usize) -> Tile {
        Tile { rows: rows.max(1), vocab, eps: 0.0, sort: false }
    }
}
