//! train.activations: what a forward pass leaves for the backward one.

mod keep;
mod recompute;

use crate::device::{Buf, Device};
use crate::error::{Error, Result};
use crate::ledger::{Category, Tag};
use crate::schema::Entry;

/// The variants of train.activations.
pub const ENTRIES: &[&Entry<dyn Activations>] = &[&recompute::ENTRY, &keep::ENTRY];

/// The ledger row of inputs kept between the passes.
pub const INPUTS: Tag = Tag::device(Category::Activations, "kept inputs");

/// Inputs of segments of layers between the passes, wherever they are held.
pub trait Inputs {
    /// Takes `x`, the input of segment `i`.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::OverBudget`].
    fn put(&mut self, d: &dyn Device, i: usize, x: &Buf, len: usize) -> Result<()>;

    /// Gives the input of segment `i` back, and keeps it no longer.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    fn take(&mut self, d: &dyn Device, i: usize, x: &mut Buf, len: usize) -> Result<()>;
}

/// train.activations: a technique that decides what is kept.
pub trait Activations: Send + Sync {
    /// Layers that are run again together before their backward; 0 when all that is needed is kept.
    fn every(&self) -> usize;

    /// A fresh store for one pass.
    fn inputs(&self) -> Box<dyn Inputs>;
}

/// On the device, each for as long as it is needed.
#[derive(Default)]
struct OnDevice(Vec<Option<Buf>>);

impl Inputs for OnDevice {
    fn put(&mut self, d: &dyn Device, i: usize, x: &Buf, len: usize) -> Result<()> {
        if self.0.len() <= i {
            self.0.resize_with(i + 1, || None);
        }
        let mut kept = d.buffer(INPUTS, x.ty(), len)?;
        d.copy(x.all(), kept.all_mut(), len)?;
        self.0[i] = Some(kept);
        Ok(())
    }

    fn take(&mut self, d: &dyn Device, i: usize, x: &mut Buf, len: usize) -> Result<()> {
        let kept = self.0.get_mut(i).and_then(Option::take);
        let kept = kept.ok_or_else(|| Error::Internal(format!("the input of segment {i} was not kept")))?;
        d.copy(kept.all(), x.all_mut(), len)
    }
}
