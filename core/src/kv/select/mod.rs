//! kv.select: which tokens stay.

mod full;
mod h2o;
mod window;

use super::Select;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Select>] = &[&full::ENTRY, &window::ENTRY, &h2o::ENTRY];
