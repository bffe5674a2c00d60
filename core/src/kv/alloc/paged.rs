//! Room in small pages, taken when needed and given back when empty: PagedAttention (arXiv 2309.06180).

use crate::kv::Alloc;
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Alloc> = Entry {
    about: About {
        id: "paged",
        title: "Pages",
        common: true,
        paper: "Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023, arXiv 2309.06180",
        sentence: "Room is taken page by page as tokens arrive, at most one page a head half empty.",
        knobs: &[Knob {
            id: "block",
            label: "Page size",
            paper_name: "block size",
            kind: KnobKind::Int { min: 1, max: 4096 },
            default: Default::Int(16),
            unit: "rows",
            sentence: "Rows of a page. Pages are per layer and head, because lengths may differ there.",
        }],
        candidates: &[Candidate { cost: Cost::Nothing, keeps: 0.9, sets: &[], words: "" }],
        ..About::on(&axes::KV_ALLOC)
    },
    build: |knobs| Ok(Box::new(Paged { block: knobs.int("block") })),
};

struct Paged {
    block: usize,
}

impl Alloc for Paged {
    fn chunk_rows(&self, _capacity: usize) -> usize {
        self.block.max(1)
    }

    fn upfront(&self) -> bool {
        false
    }
}
