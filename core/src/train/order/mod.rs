//! train.order: which row of the data comes when. A position in the run is a number; the row there is a function of it, so
//! that a resumed run needs nothing but the number.

mod sequential;
mod shuffled;

use crate::schema::Entry;

/// The variants of train.order.
pub const ENTRIES: &[&Entry<dyn Order>] = &[&shuffled::ENTRY, &sequential::ENTRY];

/// train.order: a technique that orders data.
pub trait Order: Send + Sync {
    /// The row, below `rows`, at `position` 0, 1, 2, … of a run with this seed.
    fn row(&self, position: u64, rows: usize, seed: u64) -> usize;
}
