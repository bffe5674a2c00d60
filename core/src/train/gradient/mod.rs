//! train.gradient: how a step comes by its gradient.

mod backprop;
mod mezo;

use super::batch::Batch;
use super::engine::{OnProgress, Stepped, Trainer};
use crate::error::Result;
use crate::schema::Entry;

/// The variants of train.gradient.
pub const ENTRIES: &[&Entry<dyn Gradient>] = &[&backprop::ENTRY, &mezo::ENTRY];

/// train.gradient: a technique that makes one step of training from micro-batches.
pub trait Gradient: Send + Sync {
    /// Whether gradients are held, as backpropagation needs it; false where they are made where they are used.
    fn held(&self) -> bool {
        true
    }

    /// One step: gradients of the mean loss over the targets of all `batches`, and the update.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails; [`crate::Error::Refused`] when the
    /// loss is no number.
    fn step(
        &self,
        trainer: &mut Trainer,
        batches: &[Batch],
        step: u64,
        lr: f32,
        watch: OnProgress<'_>,
    ) -> Result<Stepped>;
}
