//! The GPU: its memory pool with the budget as its size, buffers counted in the ledger, and our kernels.

mod device;
mod kernels;
#[cfg(test)]
mod tests;

pub use device::{Device, DeviceBuffer, View};
pub use kernels::{Attend, Kernels, Turn};
