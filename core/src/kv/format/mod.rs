//! kv.format: how an element is kept.

mod block;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = block::ENTRIES;
