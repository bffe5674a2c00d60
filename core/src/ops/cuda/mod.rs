//! The GPU: its memory pool with the budget as its size, buffers counted in the ledger, and our kernels.
#![allow(unsafe_code, reason = "calls of the driver and of kernels")]

mod blas;
mod decode;
mod device;
mod graph;
mod kernels;
mod launch;
mod prefill;
mod profile;
#[cfg(test)]
mod tests;
mod train;

pub use blas::{Blas, Operand};
pub use decode::{CacheEntry, Matrix, Output, Purpose, StepAttend};
pub use device::{Device, DeviceBuffer, Pinned, View, count};
pub use graph::Graph;
pub use kernels::{Attend, RopeTable};
pub use launch::Kernels;
pub use train::{Arg, TrainKernels};
