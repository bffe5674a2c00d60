//! The pictures in the middle of the window: each answers one question.

pub mod accuracy;
pub mod attention;
pub mod places;
mod waiting;
