//! What is on screen: panels draw state and return actions.
//!
//! Nothing here knows tensors or the engine; the program fills [`view::View`] from what the engine reports and carries out the
//! [`Action`]s. A panel is a function of its part of the view, its own small state (kept between starts) and what is
//! [`Linked`] across panels.

mod action;
mod linked;
pub mod picture;
pub mod pictures;
pub mod svg;
pub mod theme;
pub mod view;
pub mod words;

pub use action::Action;
pub use linked::Linked;
