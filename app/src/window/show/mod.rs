//! From the engine's accounts to what panels draw.

pub mod bars;
pub mod cards;
pub mod top;
pub mod words;
