//! Open a model, know its shape, tokenize, and run the transformer block.

pub mod adapter;
pub mod chat;
pub mod convert;
pub mod discover;
pub mod forward;
pub mod gguf;
pub mod gpu;
pub mod hf;
pub mod llama_shape;
mod open;
pub mod random;
pub mod runner;
pub mod safetensors;
pub mod shape;
pub mod tokenizer;
pub mod whole;

pub use open::{Model, Source};
