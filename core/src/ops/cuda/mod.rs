//! The GPU: its memory pool with the budget as its size, buffers counted in the ledger, and our kernels.
#![allow(unsafe_code, reason = "calls of the driver and of kernels")]

mod blas;
mod device;
mod kernels;
#[cfg(test)]
mod tests;
mod train;

pub use blas::{Blas, Operand};
pub use device::{Device, DeviceBuffer, Pinned, View, count};
pub use kernels::{Attend, Kernels, RopeTable};
pub use train::{Arg, TrainKernels};
