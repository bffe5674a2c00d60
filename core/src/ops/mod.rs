//! Each operation: forward (backward comes with training), its workspace bound, and its kernels.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod descriptors;
pub mod gpu;
pub mod rule;
pub mod team;
pub mod timing;

pub use team::{ThreadTeam, Undisturbed};
pub use timing::KernelTimes;
