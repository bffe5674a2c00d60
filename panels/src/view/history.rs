//! Runs on disk.

use super::{BytesBar, Written};

/// The run folders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Newest first.
    pub runs: Vec<RunLine>,
    /// Where they are.
    pub folder: String,
    /// Bytes they take.
    pub bytes: u64,
    /// The two being compared.
    pub pair: Option<Box<Pair>>,
    /// Why nothing can be run now; empty when it can.
    pub blocked: String,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunLine {
    /// The folder's name: what it is known by everywhere.
    pub name: String,
    /// When, as the local clock said: `2026-11-24 14:03`.
    pub when: String,
    /// The model's name.
    pub model: String,
    /// What differs from the defaults, in a few words.
    pub choices: String,
    /// Measured peak of the limited tier in bytes; `None` when it did not end.
    pub peak: Option<u64>,
    /// Decoding tokens a second.
    pub speed: Option<f64>,
    /// Accuracy, in words.
    pub accuracy: String,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Bytes of its folder.
    pub bytes: u64,
    /// The one on screen.
    pub open: bool,
}

/// Two runs side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// Names of the runs.
    pub names: [String; 2],
    /// What each wrote (sequence 0).
    pub text: [Written; 2],
    /// Position of the first token that differs; `None` when they are the same.
    pub first_difference: Option<usize>,
    /// Bar of each at its peak.
    pub bars: [BytesBar; 2],
    /// Figures beside each other.
    pub figures: Vec<Delta>,
    /// Keys that differ and their values.
    pub choices: Vec<(String, [String; 2])>,
}

/// A figure of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// What is compared: `measured peak`.
    pub label: String,
    /// Of each, with its unit; `—` when not measured.
    pub values: [String; 2],
    /// Their difference, with its sign; empty when it means nothing.
    pub change: String,
}
