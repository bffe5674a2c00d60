//! kv.merge: what happens to rows that go.

mod d2o;
mod discard;

use super::Merge;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Merge>] = &[&discard::ENTRY, &d2o::ENTRY];
