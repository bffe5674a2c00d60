//! Open a model, know its shape, tokenize, and run the transformer block.

pub mod chat;
pub mod discover;
pub mod forward;
pub mod gguf;
pub mod gpu;
pub mod llama_shape;
mod open;
pub mod random;
pub mod runner;
pub mod shape;
pub mod tokenizer;

pub use open::{Model, Source};
