//! kv.alloc: how room is made.

mod contiguous;
mod paged;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = &[&contiguous::ENTRY, &paged::ENTRY];
