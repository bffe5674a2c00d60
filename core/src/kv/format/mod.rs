//! kv.format: how an element is kept.

mod block;
mod kivi;

use super::Format;
use crate::config::Choice;
use crate::error::Result;
use crate::schema::{self, Entry};

/// The variants.
pub const ENTRIES: &[&Entry<dyn Format>] = &[
    &block::F16,
    &block::F32,
    &block::BF16,
    &block::Q8_0,
    &block::Q5_1,
    &block::Q5_0,
    &block::Q4_1,
    &block::Q4_0,
    &block::IQ4_NL,
    &kivi::ENTRY,
];

/// Bits that an element costs as `choice`, which stands at `key`, keeps it.
///
/// # Errors
/// A format or knob that the catalogue does not have.
pub fn bits(key: &str, choice: &Choice) -> Result<f64> {
    Ok(schema::build(ENTRIES, key, choice)?.bits())
}
