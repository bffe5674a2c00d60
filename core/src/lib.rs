//! The engine of Ullage: everything that is not a screen.
//!
//! One line runs through the crate: a [`config::Config`] (what was chosen) becomes a [`plan::Plan`] (what it will cost),
//! a [`job`] (the real run) and a [`report::Report`] (what it did). `ARCHITECTURE.md` at the root is the map.

pub mod accounts;
pub mod atomic_write;
pub mod blocks;
pub mod bytes;
pub mod catalog;
pub mod config;
pub mod device;
pub mod error;
pub mod eval;
pub mod forward;
pub mod job;
pub mod kv;
pub mod ledger;
pub mod machine;
pub mod model;
pub mod number;
pub mod ops;
pub mod output;
pub mod place;
pub mod plan;
pub mod report;
pub mod rng;
pub mod schema;
pub mod shape;
pub mod train;
pub mod weights;

#[cfg(test)]
#[path = "../../tests/src/skip.rs"]
mod skip;

pub use bytes::Bytes;
pub use error::{Diverged, Error, OverBudget, Result};
