//! The pictures in the middle of the window: each answers one question about a run.

pub mod history;
pub mod text;
pub mod timeline;
mod tokens;
mod words;
