//! Open a model, know its shape, tokenize, and run the transformer block.

pub mod adapter;
pub mod arch;
pub mod chat;
pub mod convert;
pub mod discover;
pub mod gguf;
pub mod hf;
mod open;
pub mod outline;
pub mod parts;
pub mod random;
pub mod safetensors;
pub mod said;
pub mod sampling;
pub mod text;
pub mod tokenizer;

pub use open::{Model, Source};
