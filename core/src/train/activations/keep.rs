//! Everything the backward pass reads is kept, but for what a norm or a product of two kept things gives back for free.

use super::{Activations, Inputs, OnDevice};
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Activations> = Entry {
    about: About {
        id: "keep",
        title: "Keep all",
        common: true,
        sentence: "What the backward pass reads of each layer is kept: the fastest, and the most memory.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_ACTIVATIONS)
    },
    build: |_| Ok(Box::new(Keep)),
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
