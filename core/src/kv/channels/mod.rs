//! kv.channels: which dimensions stay.

mod all;

use super::Channels;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Channels>] = &[&all::ENTRY];
