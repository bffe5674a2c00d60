//! The forward pass: a transformer over borrowed weights and a cache, on the CPU and on a GPU, behind one seam.
//! What a pass does is data ([`step`]), which every executor carries out and a plan adds up.

pub mod adapter;
mod cached;
pub mod cpu;
pub mod gpu;
mod layer;
pub mod observer;
pub mod rotary;
pub mod runner;
pub mod step;
mod windowed;
pub mod workspace;
