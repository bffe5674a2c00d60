//! What is on screen: panels draw state and return actions.
//!
//! Nothing here knows tensors or the engine; the program fills [`view::View`] from what the engine reports and carries out the
//! [`Action`]s. A panel is a function of its part of the view, its own small state (kept between starts) and what is
//! [`Linked`] across panels.

mod about;
mod action;
mod cards;
mod commands;
mod keys;
mod kit;
mod linked;
mod notices;
pub mod picture;
pub mod pictures;
mod scripts;
mod shared;
mod status;
pub mod svg;
mod table;
pub mod theme;
mod top;
pub mod view;
pub mod words;
mod workbench;

pub use action::Action;
pub use linked::Linked;
pub use workbench::Workbench;
