//! train: fine-tuning on the same line as everything else, under the same ledger and wall.

pub mod batch;
pub mod cpu;
pub mod device;
