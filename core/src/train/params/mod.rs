//! train.params: what learns. A technique says which tensors of the base learn, and what is put on its linears.

mod full;
mod lora;

use super::learner::Learner;
use crate::device::{Buf, Device, Dst, Src};
use crate::error::Result;
use crate::schema::Entry;
pub use crate::shape::Role;

/// The variants of train.params.
pub const ENTRIES: &[&Entry<dyn Params>] = &[&lora::ENTRY, &full::ENTRY];

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros.
    Zero,
    /// Evenly in ± this.
    Uniform(f32),
}

/// A parameter that a technique adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Added to the name of the tensor it belongs to, such as `lora_a`.
    pub suffix: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// At step 0.
    pub init: Init,
    /// False for one that stays as it starts: it gets neither gradient nor state.
    pub learns: bool,
    /// Multiplied onto the learning rate.
    pub lr: f32,
}

/// A linear that a technique has put something on: `m` rows through a base of `rows` outputs and `cols` inputs, and the
/// numbers of its own parameters.
#[derive(Clone, Copy, Debug)]
pub struct LinearCall<'a> {
    /// Rows of the batch.
    pub m: usize,
    /// Outputs of the base.
    pub rows: usize,
    /// Inputs of the base.
    pub cols: usize,
    /// Its parameters, in the order of [`Delta::params`].
    pub params: &'a [usize],
}

/// Scratch of a delta; what it holds stays from [`Delta::grads`] to [`Delta::dx`].
pub struct Scratch {
    /// Between its matrices.
    pub low: Buf,
    /// As wide as a linear's input.
    pub wide: Buf,
}

/// What is put on a linear: `y = base(x) + delta(x)`. The base is never asked for a gradient.
///
/// Backward comes as three calls, so that `dx` may take the place of `x`: gradients, `dx`, and then the caller closes the
/// parameters, which may update them.
pub trait Delta: Send + Sync {
    /// Its parameters on a base of `rows` outputs and `cols` inputs.
    fn params(&self, rows: usize, cols: usize) -> Vec<Spec>;

    /// Elements of the two parts of [`Scratch`] for `m` rows of `cols` inputs.
    fn scratch(&self, m: usize, cols: usize) -> (usize, usize);

    /// `y += delta(x)`.
    ///
    /// # Errors
    /// The device's.
    fn forward(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        y: Dst<'_>,
        scratch: &mut Scratch,
    ) -> Result<()>;

    /// Opens the parameters and puts their gradients there.
    ///
    /// # Errors
    /// The device's.
    fn grads(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &mut Learner,
        x: Src<'_>,
        dy: Src<'_>,
        scratch: &mut Scratch,
    ) -> Result<()>;

    /// `dx += ∂delta/∂xᵀ dy`.
    ///
    /// # Errors
    /// The device's.
    fn dx(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        dy: Src<'_>,
        dx: Dst<'_>,
        scratch: &mut Scratch,
    ) -> Result<()>;
}

/// train.params: a technique that decides what learns.
pub trait Params: Send + Sync {
    /// Whether this tensor of the base learns; it is then held in `train.dtype`.
    fn learns(&self, role: Role) -> bool;

    /// What is put on this linear, if anything.
    fn delta(&self, role: Role) -> Option<Box<dyn Delta>>;
}
