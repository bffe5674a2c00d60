//! Rows that go are gone.

use crate::catalog::{Axis, Entry, Role, with_all};
use crate::kv::{Folded, Merge, cache::LayerCache};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "discard",
    title: "Discard",
    common: true,
    axis: Axis::KvMerge,
    paper: "the plain choice",
    sentence: "Rows that are not selected are dropped.",
    knobs: &[],
    composes: with_all,
    role: Role::Merge(|_| Ok(Box::new(Discard))),
};

struct Discard;

impl Merge for Discard {
    fn fold(&self, _layer: &mut LayerCache, _head: usize, _kept: &[u32], _folded: &mut Folded<'_>) {}
}
