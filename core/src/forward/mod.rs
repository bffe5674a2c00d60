//! The forward pass: a transformer over borrowed weights and a cache, on the CPU and on a GPU, behind one seam.

pub mod adapter;
mod cached;
pub mod cpu;
pub mod gpu;
pub mod observer;
pub mod rotary;
pub mod runner;
pub mod workspace;
