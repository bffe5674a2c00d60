//! kv.select: which tokens stay.

mod full;
mod h2o;
mod window;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = &[&full::ENTRY, &window::ENTRY, &h2o::ENTRY];
