//! kv.channels: which dimensions stay.

mod all;
mod think;

use super::Channels;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Channels>] = &[&all::ENTRY, &think::ENTRY];
