//! kv.merge: what happens to rows that go.

mod discard;

use super::Merge;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Merge>] = &[&discard::ENTRY];
