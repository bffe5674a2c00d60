//! Everything the backward pass reads is kept, but for what a norm or a product of two kept things gives back for free.

use super::{Activations, Inputs, OnDevice};
use crate::catalog::{self, Axis, Entry, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "keep",
    title: "Keep all",
    common: true,
    axis: Axis::TrainActivations,
    paper: "the plain choice",
    sentence: "What the backward pass reads of each layer is kept: the fastest, and the most memory.",
    knobs: &[],
    composes: with_all,
    role: catalog::Role::TrainActivations(|_| Ok(Box::new(Keep))),
};

struct Keep;

impl Activations for Keep {
    fn every(&self) -> usize {
        0
    }

    fn inputs(&self) -> Box<dyn Inputs> {
        Box::<OnDevice>::default()
    }
}
