//! What was held when.

use super::Tier;

/// The timeline of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Which run, in words.
    pub run: String,
    /// In order of time.
    pub moments: Vec<Moment>,
    /// Phases in order.
    pub phases: Vec<Span>,
    /// The memory limit of the run by tier; `None` without one.
    pub limits: [Option<u64>; 3],
    /// Rows that left the cache, as `(seconds, rows)`.
    pub evicted: Vec<(f64, u64)>,
    /// More is coming.
    pub live: bool,
    /// The limited tier is a GPU's.
    pub gpu: bool,
    /// Why it cannot be run now; empty when it can.
    pub blocked: String,
}

/// What was held at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Since the run's start.
    pub seconds: f64,
    /// Decoding step, 0 before the first.
    pub step: usize,
    /// Bytes by tier and by [`UsedFor`](super::UsedFor), in their order.
    pub held: [[u64; 9]; 3],
}

impl Moment {
    /// Bytes of a tier.
    pub fn total(&self, tier: Tier) -> u64 {
        self.held[tier as usize].iter().sum()
    }
}

/// A phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// `load`, `prefill`, `decode`.
    pub name: String,
    /// Start and end, in seconds.
    pub seconds: (f64, f64),
}
