//! Rows that go are gone.

use crate::error::Result;
use crate::kv::{Fold, Folded, Merge};
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Merge> = Entry {
    about: About {
        id: "discard",
        title: "Discard",
        common: true,
        sentence: "Rows that are not selected are dropped.",
        runs_on: ON_ALL,
        ..About::on(&axes::KV_MERGE)
    },
    build: |_| Ok(Box::new(Discard)),
};

struct Discard;

impl Merge for Discard {
    fn fold(&self, _fold: Fold<'_>, _folded: &mut Folded<'_>) -> Result<()> {
        Ok(())
    }
}
