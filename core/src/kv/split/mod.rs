//! kv.split: how rows are shared out over layers and heads.

mod adakv;
mod uniform;

use super::Split;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Split>] = &[&uniform::ENTRY, &adakv::ENTRY];
