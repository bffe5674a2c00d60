//! What training learned, and for what.

use std::sync::Arc;

/// The courses of fine-tuning runs: how the loss fell and how much came to be right, against steps, seconds and bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learning {
    /// The run on screen; none when it did not train.
    pub run: Option<Arc<Course>>,
    /// Other runs of the same model, newest first.
    pub others: Vec<Arc<Course>>,
    /// The run on screen goes on.
    pub live: bool,
    /// Why it cannot be run now; empty when it can.
    pub blocked: String,
    /// Nothing is measured before the first step or between: what would, as keys; empty when it is.
    pub validate: super::Sets,
    /// What could be chosen instead, each with what it needs.
    pub fits: Arc<Vec<Fit>>,
    /// The memory limit in bytes; none when there is none.
    pub limit: Option<u64>,
}

/// A combination of choices, planned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// What learns, optimizer, activations, loss: as the cards call them.
    pub choices: [String; 4],
    /// Its predicted peak; none where it is refused.
    pub peak: Option<u64>,
    /// Why it cannot be; empty when it can.
    pub refused: String,
    /// It keeps within the limits.
    pub fits: bool,
    /// Predicted seconds of a step; none where nobody knows.
    pub step_seconds: Option<f64>,
    /// It is what is chosen.
    pub chosen: bool,
    /// Keys that choose it.
    pub sets: super::Sets,
}

/// The course of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// The run's name.
    pub run: String,
    /// What it chose, in a few words.
    pub label: String,
    /// That it diverged, or came to nothing, in a sentence; empty where all is well.
    pub verdict: String,
    /// Updates asked for; 0 when unknown.
    pub steps: u64,
    /// Mean loss of each step's targets before its update, in nats.
    pub loss: Vec<Mark>,
    /// Mean loss of what was held out, in nats.
    pub held_out: Vec<Mark>,
    /// Share of held-out answers that are right to the last token, 0 … 1.
    pub answers: Vec<Mark>,
    /// Share of held-out tokens that are the most likely one, 0 … 1.
    pub tokens: Vec<Mark>,
    /// Peak of the limited tier in bytes, measured; so far while it goes on.
    pub peak: Option<u64>,
    /// The same, predicted.
    pub predicted_peak: Option<u64>,
    /// Mean seconds of a step, measured.
    pub step_seconds: Option<f64>,
    /// The same, predicted.
    pub predicted_step_seconds: Option<f64>,
}

/// A value of a course.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mark {
    /// Updates made.
    pub step: u64,
    /// Since the run's start.
    pub seconds: f64,
    /// Peak of the limited tier in bytes by then, as measured.
    pub bytes: u64,
    /// The value.
    pub value: f64,
}

/// What a model in training said to held-out questions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Question by question.
    pub asked: Vec<HeldOutQuestion>,
    /// Why there is nothing yet, or what is being waited for.
    pub note: String,
    /// The button that fills it makes sense now.
    pub can_run: bool,
}

/// A held-out question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldOutQuestion {
    /// The question.
    pub prompt: String,
    /// What the data has there.
    pub expected: Option<String>,
    /// What was said after how many updates, in order.
    pub said: Vec<(u64, String)>,
}
