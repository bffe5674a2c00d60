//! The cache stays on the device.

use crate::catalog::{Axis, Entry, Role, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "resident",
    title: "In memory",
    common: true,
    axis: Axis::PlaceKv,
    paper: "the plain choice",
    sentence: "The cache stays on the device.",
    knobs: &[],
    composes: with_all,
    role: Role::PlaceKv,
};
