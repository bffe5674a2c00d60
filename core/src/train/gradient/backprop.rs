//! Backpropagation, a layer at a time.

use super::Gradient;
use crate::catalog::{self, Axis, Entry, with_all};
use crate::error::Result;
use crate::train::batch::Batch;
use crate::train::engine::{OnProgress, Stepped, Trainer};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "backprop",
    title: "Backpropagation",
    common: true,
    axis: Axis::TrainGradient,
    paper: "Rumelhart, Hinton and Williams 1986",
    sentence: "The exact gradient, by the chain rule from the loss down, a layer at a time.",
    knobs: &[],
    composes: with_all,
    role: catalog::Role::TrainGradient(|_| Ok(Box::new(Backprop))),
};

struct Backprop;

impl Gradient for Backprop {
    fn step(
        &self,
        trainer: &mut Trainer,
        batches: &[Batch],
        step: u64,
        lr: f32,
        watch: OnProgress<'_>,
    ) -> Result<Stepped> {
        trainer.backprop(batches, step, lr, watch)
    }
}
