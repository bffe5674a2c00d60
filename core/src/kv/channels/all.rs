//! Every dimension stays.

use crate::catalog::{Axis, Entry, Role, with_all};
use crate::kv::Channels;

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "all",
    title: "All",
    common: true,
    axis: Axis::KvChannels,
    paper: "the plain choice",
    sentence: "Every dimension of keys and values is kept.",
    knobs: &[],
    composes: with_all,
    role: Role::Channels(|_| Ok(Box::new(All))),
};

struct All;

impl Channels for All {
    fn dims(&self, d: usize) -> (usize, usize) {
        (d, d)
    }
}
