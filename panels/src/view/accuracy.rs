//! What each byte bought.

use super::Sets;

/// Accuracy against measured bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// What can be on the y axis; the first that has points is shown first.
    pub axes: Vec<Axis>,
    /// Lines of points.
    pub series: Vec<Series>,
    /// Points of a sweep still to be run.
    pub queued: usize,
    /// What sweeps can be started with one button: label, and for each point the keys it sets.
    pub sweeps: Vec<(String, Vec<Sets>)>,
}

/// A measure of accuracy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axis {
    /// Its id, such as `recall.accuracy`.
    pub id: String,
    /// Its words: `recall`, `same next token`, `KL to the uncompressed model`.
    pub label: String,
    /// `%`, `nats`, or empty.
    pub unit: String,
    /// True when more is better.
    pub up: bool,
}

/// A line: one sweep, one policy, or a curve measured elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Where it was measured, when not here.
    pub machine: String,
    /// Its points in order of bytes.
    pub dots: Vec<Dot>,
}

/// A run, or a run that could be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dot {
    /// The run's name, for linking; empty for a prediction or a curve measured elsewhere.
    pub run: String,
    /// What is chosen, in a few words.
    pub label: String,
    /// Peak of the limited tier in bytes: measured, or planned when `planned`.
    pub bytes: u64,
    /// Value on each axis by its id.
    pub values: Vec<(String, f64)>,
    /// One standard error of each, where there is one.
    pub errors: Vec<(String, f64)>,
    /// Planned but not run: drawn hollow, on the axis.
    pub planned: bool,
    /// What of it was no number, in words: it is no point of a curve, and lies crossed out on the axis. Empty where all is well.
    pub diverged: String,
    /// Its configuration as keys; empty when measured elsewhere.
    pub sets: Sets,
}
