//! The forward pass: a transformer over borrowed weights and a cache, on the CPU and on a GPU, behind one seam.

pub mod adapter;
mod cached;
pub mod cpu;
pub mod gpu;
mod layer;
pub mod observer;
pub mod rotary;
pub mod runner;
mod windowed;
pub mod workspace;
