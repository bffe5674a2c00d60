//! train.params: what learns. A technique says which tensors of the base learn, and what is put on its linears.

mod dora;
mod full;
mod lora;

use super::learner::Learner;
use super::weights::Tensor;
use crate::device::{Buf, Device, Dst, Src};
use crate::error::Result;
use crate::schema::{self, Choice, Entry};
use crate::shape::AdapterKind;
pub use crate::shape::Role;

/// The variants of train.params.
pub const ENTRIES: &[&Entry<dyn Params>] = &[&lora::ENTRY, &dora::ENTRY, &full::ENTRY];

/// Whether what `choice` learns is an adapter beside the weights: small, and to be switched on or off.
pub fn adapts(choice: &Choice) -> bool {
    let built = schema::build(ENTRIES, "train.params", choice);
    built.is_ok_and(|params| Role::LINEARS.iter().any(|role| params.adapt(*role).is_some()))
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zero,
    /// Evenly distributed in ± this.
    Uniform(f32),
    /// The Euclidean length of each row of the base, `(1, rows)`; held in f32 as norms are.
    RowNorms,
}

/// A parameter that a technique adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Added to the name of the tensor it belongs to, such as `lora_a`.
    pub suffix: &'static str,
    /// Rows: outputs.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
    /// Its values at step 0.
    pub init: Init,
    /// False for one that stays as it starts: it gets neither gradient nor state.
    pub learns: bool,
    /// Multiplied onto the learning rate: LoRA+'s ratio (Hayou et al. 2024), else 1.
    pub lr: f32,
}

/// A linear that a technique has wrapped: `m` rows through a base of `rows` outputs and `cols` inputs, and the numbers of its
/// own parameters.
#[derive(Clone, Copy)]
pub struct LinearCall<'a> {
    /// The linear that it wraps.
    pub base: Base<'a>,
    /// Tokens of the batch: rows of `x` and `y`.
    pub m: usize,
    /// Outputs of the base.
    pub rows: usize,
    /// Inputs of the base.
    pub cols: usize,
    /// Its parameters, in the order of [`Adapted::params`].
    pub params: &'a [usize],
}

/// The linear that is wrapped: a frozen weight and its bias.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The weight `(rows, cols)`, in whatever scheme.
    pub w: &'a Tensor,
    /// The bias `(rows)`, where there is one.
    pub bias: Option<&'a Tensor>,
}

impl Base<'_> {
    /// `y (m, rows) (+)= x (m, cols) · Wᵀ + bias`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn forward(
        &self,
        d: &dyn Device,
        learner: &Learner,
        x: Src<'_>,
        m: usize,
        y: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        d.linear(x, m, self.w.weight(learner), self.bias(learner), y, add)
    }

    /// `dx (m, cols) (+)= dy (m, rows) · W`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn dx(&self, d: &dyn Device, learner: &Learner, dy: Src<'_>, m: usize, dx: Dst<'_>, add: bool) -> Result<()> {
        d.linear_dx(dy, m, self.w.weight(learner), dx, add)
    }

    /// Its bias, where it has one.
    pub fn bias<'b>(&'b self, learner: &'b Learner) -> Option<Src<'b>> {
        self.bias.map(|b| b.buf(learner).all())
    }
}

/// Elements of the parts of [`Scratch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScratchSizes {
    /// Elements of [`Scratch::low`].
    pub low: usize,
    /// Elements of [`Scratch::wide`].
    pub wide: usize,
    /// Elements of [`Scratch::out`].
    pub out: usize,
    /// Elements of [`Scratch::norms`].
    pub norms: usize,
}

impl ScratchSizes {
    /// The larger of the two, part by part.
    pub fn max(self, other: Self) -> Self {
        Self {
            low: self.low.max(other.low),
            wide: self.wide.max(other.wide),
            out: self.out.max(other.out),
            norms: self.norms.max(other.norms),
        }
    }
}

/// Scratch of an adapter; what it holds stays from [`Adapted::grads`] to [`Adapted::dx`].
pub struct Scratch {
    /// What stands between the thin matrices, `(m, r)`, and its gradient.
    pub low: Buf,
    /// As wide as a linear's input, `(m, cols)`.
    pub wide: Buf,
    /// As wide as a linear's output, `(m, rows)`.
    pub out: Buf,
    /// f32, a number for each output, `(rows)`.
    pub norms: Buf,
}

/// A linear that an adapter wraps: it sees the base's weight and output, and may do with them what it likes. The base is
/// never asked for a gradient.
///
/// Backward comes as three calls, so that `dx` may take the place of `x`: gradients, `dx`, and then the caller closes the
/// parameters, which may update them.
pub trait Adapted: Send + Sync {
    /// What its tensors are to files and to inference.
    fn kind(&self) -> AdapterKind;

    /// Its parameters on a base of `rows` outputs and `cols` inputs, in the order of the kind's parts.
    fn params(&self, rows: usize, cols: usize) -> Vec<Spec>;

    /// Elements of [`Scratch`] for `m` rows through a base of `rows` outputs and `cols` inputs.
    fn scratch(&self, m: usize, rows: usize, cols: usize) -> ScratchSizes;

    /// `y (m, rows) (+)= adapted(x (m, cols))`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    fn forward(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        y: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()>;

    /// Opens the parameters and puts their gradients there.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    fn grads(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &mut Learner,
        x: Src<'_>,
        dy: Src<'_>,
        scratch: &mut Scratch,
    ) -> Result<()>;

    /// `dx (m, cols) (+)= ∂adapted/∂xᵀ dy (m, rows)`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    fn dx(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        dy: Src<'_>,
        dx: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()>;
}

/// train.params: a technique that decides what learns.
pub trait Params: Send + Sync {
    /// Whether this tensor of the base learns; it is then held in `train.dtype`.
    fn learns(&self, role: Role) -> bool;

    /// Whether nothing is meant to learn: the model is only read.
    fn reads_only(&self) -> bool {
        false
    }

    /// What wraps this linear, if anything.
    fn adapt(&self, role: Role) -> Option<Box<dyn Adapted>>;
}
