//! The same number of rows for every layer and head.

use crate::catalog::{Axis, Entry, Role, with_all};
use crate::kv::Split;

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "uniform",
    title: "Evenly",
    common: true,
    axis: Axis::KvSplit,
    paper: "the plain choice",
    sentence: "Every layer and head gets the same number of rows.",
    knobs: &[],
    composes: with_all,
    role: Role::Split(|_| Ok(Box::new(Uniform))),
};

struct Uniform;

impl Split for Uniform {
    fn quota(&self, rows: usize, _layer: usize, _head: usize) -> usize {
        rows
    }
}
