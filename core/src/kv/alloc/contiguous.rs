//! All room up front, in one piece a head.

use crate::kv::Alloc;
use crate::schema::{About, Candidate, Cost, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Alloc> = Entry {
    about: About {
        id: "contiguous",
        title: "One piece",
        common: true,
        sentence: "Room for every row a head may ever hold is taken before the first token.",
        runs_on: ON_ALL,
        candidates: &[Candidate { cost: Cost::Nothing, keeps: 1.0, sets: &[], words: "" }],
        ..About::on(&axes::KV_ALLOC)
    },
    build: |_| Ok(Box::new(Contiguous)),
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
