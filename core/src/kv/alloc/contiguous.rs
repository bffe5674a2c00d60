//! All room up front, in one piece a head.

use crate::catalog::{Axis, Entry, Role, with_all};
use crate::kv::Alloc;

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "contiguous",
    title: "One piece",
    common: true,
    axis: Axis::KvAlloc,
    paper: "the plain choice",
    sentence: "Room for every row a head may ever hold is taken before the first token.",
    knobs: &[],
    composes: with_all,
    role: Role::Alloc(|_| Ok(Box::new(Contiguous))),
};

struct Contiguous;

impl Alloc for Contiguous {
    fn chunk_rows(&self, capacity: usize) -> usize {
        capacity.max(1)
    }

    fn upfront(&self) -> bool {
        true
    }
}
