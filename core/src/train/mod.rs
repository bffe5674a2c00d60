//! Fine-tuning: data, and what learns from it.

pub mod batch;
pub mod data;
