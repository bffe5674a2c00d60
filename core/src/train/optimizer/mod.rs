//! train.optimizer: how a gradient becomes a step. State lives in buffers that the learner holds for each parameter.

mod adamw;
mod galore;
mod lion;
mod momentum;
pub(super) mod sgd;
mod signsgd;

use crate::blocks::BlockType;
use crate::device::{Buf, Device, Dst, Gradient, Op, Round};
use crate::error::Result;
use crate::ops::rule::Rule;
use crate::schema::Entry;

pub use adamw::ADAMW;
pub use sgd::{MOMENTUM, NESTEROV, SGD};

/// The variants of train.optimizer.
pub const ENTRIES: &[&Entry<dyn Optimizer>] =
    &[&adamw::ENTRY, &sgd::ENTRY, &lion::ENTRY, &momentum::ENTRY, &galore::ENTRY, &signsgd::ENTRY];

/// A buffer that an optimizer keeps for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in a training state, such as `m`.
    pub name: &'static str,
    /// The type that its elements are stored as.
    pub ty: BlockType,
    /// Rows, as the optimizer wants them: those of the parameter, or fewer.
    pub rows: usize,
    /// Columns, alike.
    pub cols: usize,
}

impl Slot {
    /// Elements: `rows · cols`.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A parameter as an optimizer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Whether it is a matrix of a layer: embedding, head, norms and biases are none.
    pub linear: bool,
    /// Rows: outputs; 1 for norms and biases.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
}

/// What an optimizer reads of a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientForm {
    /// Each element alone: one that is made where it is needed will do.
    Elements,
    /// The whole matrix, which it may overwrite.
    Matrix,
}

/// What an optimizer takes for a parameter: the same for a plan and for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptimizerPlan {
    /// What it keeps from step to step.
    pub state: Vec<Slot>,
    /// Elements of each f32 buffer that it needs while it updates; all parameters share them.
    pub scratch: Vec<usize>,
    /// Rows of the largest basis that it finds ([`crate::device::Op::Orthonormalize`]), 0 for none.
    pub basis: usize,
    /// What it reads of the gradient.
    pub gradient: GradientForm,
}

impl OptimizerPlan {
    /// Of a rule: its slots, as large as the parameter, stored as `ty`.
    pub fn of(rule: &Rule, of: Shape, ty: BlockType) -> Self {
        let state = rule.slots.iter().map(|name| Slot { name, ty, rows: of.rows, cols: of.cols }).collect();
        Self { state, scratch: Vec::new(), basis: 0, gradient: GradientForm::Elements }
    }
}

/// One step as an optimizer sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// The step's number, from 1.
    pub step: u64,
    /// Learning rate now, of this parameter.
    pub lr: f32,
    /// Multiplied onto the gradient: clipping by norm.
    pub scale: f32,
    /// The scaled gradient is clamped to ± this: clipping by value.
    pub clamp: f32,
    /// Whether the parameter is a matrix: norms and biases are none.
    pub matrix: bool,
    /// `run.seed`.
    pub seed: u64,
}

impl StepInfo {
    /// Of a gradient that is neither scaled nor clamped.
    pub fn of(step: u64, lr: f32, matrix: bool, seed: u64) -> Self {
        Self { step, lr, scale: 1.0, clamp: f32::INFINITY, matrix, seed }
    }
}

/// One update of one parameter.
pub struct Update<'a> {
    /// The parameter's shape.
    pub of: Shape,
    /// Its values `(rows, cols)`, updated in place.
    pub p: &'a mut Buf,
    /// Its gradient, f32 (on a GPU bf16 too).
    pub g: Gradient<Dst<'a>>,
    /// The slots of [`OptimizerPlan::state`].
    pub state: &'a mut [Buf],
    /// The buffers of [`OptimizerPlan::scratch`], as long or longer.
    pub scratch: &'a mut [Buf],
    /// How new values are stored.
    pub round: Round<'a>,
    /// The step's number, learning rate and clipping.
    pub at: StepInfo,
}

impl Update<'_> {
    /// Makes it in one pass of `rule`, whose numbers are these.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn apply(self, d: &dyn Device, rule: &'static Rule, numbers: &[f32]) -> Result<()> {
        let Self { p, g, state, round, at, .. } = self;
        let (len, g) = (p.len(), g.source());
        let StepInfo { scale, clamp, .. } = at;
        d.run(Op::Elementwise { rule, p: p.all_mut(), len, g, state, numbers, scale, clamp, round })
    }
}

/// train.optimizer: a technique that turns gradients into steps.
pub trait Optimizer: Send + Sync {
    /// What it holds and reads for a parameter of this shape.
    fn plan(&self, of: Shape) -> OptimizerPlan;

    /// One update in so many does more than the others, the first of them.
    fn period(&self) -> u64 {
        1
    }

    /// Updates one parameter in place, and its state.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()>;
}

/// The knob of how moments are stored.
fn state_dtype(word: &str) -> BlockType {
    if word == "bf16" { BlockType::Bf16 } else { BlockType::F32 }
}

#[cfg(test)]
pub(crate) mod tests;
