//! What is to be learned from.

/// The first documents of the training data, and what all of them come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// What is being read, or was.
    pub file: String,
    /// It is being read.
    pub reading: bool,
    /// Why it cannot be; empty when it can.
    pub wrong: String,
    /// What all of them come to, in words.
    pub summary: String,
    /// What to know of them.
    pub notes: Vec<String>,
    /// What one of them is called: a document, or a row of what is made.
    pub what: String,
    /// The first of them.
    pub first: Vec<Sample>,
}

/// One document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Tokens.
    pub tokens: usize,
    /// Of which are learned.
    pub learned: usize,
    /// Its text in stretches, each with whether it is learned.
    pub text: Vec<(String, bool)>,
    /// Tokens after it that are not shown.
    pub more: usize,
}
