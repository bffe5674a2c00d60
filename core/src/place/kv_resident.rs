//! The cache stays on the device.

use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<()> = Entry {
    about: About {
        id: "resident",
        title: "In memory",
        common: true,
        sentence: "The cache stays on the device.",
        runs_on: ON_ALL,
        ..About::on(&axes::PLACE_KV)
    },
    build: |_| Ok(Box::new(())),
};
