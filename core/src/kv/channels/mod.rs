//! kv.channels: which dimensions stay.

mod all;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = &[&all::ENTRY];
