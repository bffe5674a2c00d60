//! The same number of rows for every layer and head.

use crate::kv::Split;
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Split> = Entry {
    about: About {
        id: "uniform",
        title: "Evenly",
        common: true,
        sentence: "Every layer and head gets the same number of rows.",
        runs_on: ON_ALL,
        ..About::on(&axes::KV_SPLIT)
    },
    build: |_| Ok(Box::new(Uniform)),
};

struct Uniform;

impl Split for Uniform {
    fn quota(&self, rows: usize, _layer: usize, _head: usize) -> usize {
        rows
    }
}
