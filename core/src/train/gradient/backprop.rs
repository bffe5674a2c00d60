//! Backpropagation, a layer at a time.

use super::Gradient;
use crate::error::Result;
use crate::schema::{About, Entry, ON_ALL, axes};
use crate::train::batch::Batch;
use crate::train::engine::{OnProgress, Stepped, Trainer};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Gradient> = Entry {
    about: About {
        id: "backprop",
        title: "Backpropagation",
        common: true,
        paper: "Rumelhart, Hinton and Williams 1986",
        sentence: "The exact gradient, by the chain rule from the loss down, a layer at a time.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_GRADIENT)
    },
    build: |_| Ok(Box::new(Backprop)),
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
