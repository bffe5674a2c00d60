//! train: fine-tuning on the same line as everything else, under the same ledger and wall.

pub mod batch;
pub mod device;
pub mod gpu;
