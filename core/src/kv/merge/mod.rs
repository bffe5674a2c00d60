//! kv.merge: what happens to rows that go.

mod discard;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = &[&discard::ENTRY];
