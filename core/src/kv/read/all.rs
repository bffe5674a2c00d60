//! Every row that is held.

use crate::kv::Read;
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Read> = Entry {
    about: About {
        id: "all",
        title: "All",
        common: true,
        sentence: "Every query looks at every row that is held.",
        runs_on: ON_ALL,
        ..About::on(&axes::KV_READ)
    },
    build: |_| Ok(Box::new(All)),
};

struct All;

impl Read for All {}
