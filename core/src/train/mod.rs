//! train: fine-tuning on the same line as everything else, under the same ledger and wall.
//!
//! [`engine`] makes a step of [`batch`]es on a [`device`], with a technique for each axis: one folder an axis, one file a
//! variant. [`block`] is a layer forward and backward, [`learner`] holds what learns and its gradients, [`dry`] is the
//! device of plans.

pub mod activations;
pub mod batch;
pub mod block;
pub mod broken;
pub mod data;
pub mod engine;
pub mod export;
pub mod gradient;
pub mod learner;
pub mod loss;
pub mod optimizer;
pub mod order;
pub mod params;
pub mod plan;
pub mod reader;
pub mod say;
pub mod state;
pub mod weights;
pub mod written;

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
pub(crate) mod tests;
