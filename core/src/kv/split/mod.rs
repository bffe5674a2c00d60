//! kv.split: how rows are shared out over layers and heads.

mod uniform;

use crate::catalog::Entry;

/// The variants.
pub const ENTRIES: &[&Entry] = &[&uniform::ENTRY];
