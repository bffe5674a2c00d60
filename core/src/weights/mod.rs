//! Weights: in which format they are held, and how they get there.

pub mod format;
pub mod load;
mod nf4;
pub mod units;
