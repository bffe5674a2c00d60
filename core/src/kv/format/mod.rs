//! kv.format: how an element is kept.

mod block;

use crate::catalog::{Axis, Entry, Role};
use crate::config::{Choice, Config};
use crate::error::{Error, Result};

/// The variants.
pub const ENTRIES: &[&Entry] = block::ENTRIES;

/// Bits that an element costs as `choice`, which stands at `key`, keeps it.
///
/// # Errors
/// A format or knob that the catalogue does not have.
pub fn bits(key: &str, choice: &Choice) -> Result<f64> {
    let (entry, knobs) = Config::resolve(Axis::KvFormat, key, choice)?;
    match entry.role {
        Role::KvFormat(build) => Ok(build(&knobs)?.bits()),
        _ => Err(Error::Internal(format!("catalogue entry `{}` has another axis' role", entry.id))),
    }
}
