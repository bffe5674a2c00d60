//! kv.alloc: how room is made.

mod contiguous;
mod paged;

use super::Alloc;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Alloc>] = &[&contiguous::ENTRY, &paged::ENTRY];
