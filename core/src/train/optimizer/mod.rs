//! train.optimizer: how a gradient becomes a step. State lives in buffers that the learner holds for each parameter.

mod adamw;
mod sgd;

use crate::blocks::BlockType;
use crate::device::{Buf, Device, Round, Src};
use crate::error::Result;
use crate::schema::Entry;

/// The variants of train.optimizer.
pub const ENTRIES: &[&Entry<dyn Optimizer>] = &[&adamw::ENTRY, &sgd::ENTRY];

/// A buffer that an optimizer keeps for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in a training state, such as `m`.
    pub name: &'static str,
    /// How its elements are stored.
    pub ty: BlockType,
    /// Elements.
    pub len: usize,
}

/// One step as an optimizer sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// Steps from 1.
    pub step: u64,
    /// Learning rate now, of this parameter.
    pub lr: f32,
    /// Multiplied onto the gradient: clipping by norm.
    pub scale: f32,
    /// The scaled gradient is clamped to ± this: clipping by value.
    pub clamp: f32,
    /// Whether the parameter is a matrix: norms and biases are none.
    pub matrix: bool,
}

/// train.optimizer: a technique that turns gradients into steps.
pub trait Optimizer: Send + Sync {
    /// What it keeps for a parameter of `(rows, cols)`.
    fn state(&self, rows: usize, cols: usize) -> Vec<Slot>;

    /// Updates `p` in place by the gradient `g` (f32, of the same length), without temporaries.
    ///
    /// # Errors
    /// The device's.
    fn update(
        &self,
        d: &dyn Device,
        p: &mut Buf,
        g: Src<'_>,
        state: &mut [Buf],
        round: Round<'_>,
        at: StepInfo,
    ) -> Result<()>;
}

/// The knob of how moments are stored.
fn state_dtype(word: &str) -> BlockType {
    if word == "bf16" { BlockType::Bf16 } else { BlockType::F32 }
}
