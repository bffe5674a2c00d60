//! What training reads: packed rows of tokens, addressed by number, so that any order and any resumption is a list of
//! numbers.

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

pub use crate::ops::descriptors::NO_LOSS;

/// The first 12 bytes of a hash in hexadecimal digits: enough to tell data apart.
pub(crate) fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// One micro-batch: `sequences` rows of `length` tokens, row after row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `(sequences, length)`. Padding may be any id; its targets are [`NO_LOSS`].
    pub tokens: Vec<u32>,
    /// The id each token should predict, `(sequences, length)`, already shifted; [`NO_LOSS`] where none.
    pub targets: Vec<u32>,
    /// For each token, the place in its own row of the first token of its document, `(sequences, length)`; never falls
    /// along a row. A token at `t` has position `t − segments[t]` and attends to `segments[t]..=t`. Empty: every row is
    /// one document, all zeros.
    pub segments: Vec<u32>,
    /// Rows of the batch.
    pub sequences: usize,
    /// Tokens of a row, padding included.
    pub length: usize,
    /// Tokens of each row that are no padding, `(sequences)`: the padding is at a row's end. Empty: there is none.
    pub filled: Vec<u32>,
}

impl Batch {
    /// A batch of which only the size is known, every token a target: what a plan steps over, however large it is.
    pub fn sized(sequences: usize, length: usize) -> Self {
        Self { sequences, length, ..Self::default() }
    }

    /// Whether only its size is known.
    pub fn is_sized(&self) -> bool {
        self.tokens.is_empty() && self.targets.is_empty()
    }

    /// Tokens of all rows, padding included: `sequences · length`.
    pub fn rows(&self) -> usize {
        self.sequences * self.length
    }

    /// Tokens of all rows without the padding.
    pub fn real(&self) -> usize {
        if self.filled.is_empty() { self.rows() } else { self.filled.iter().map(|n| *n as usize).sum() }
    }

    /// Targets that count: all but [`NO_LOSS`].
    pub fn counted(&self) -> usize {
        if self.is_sized() {
            return self.rows();
        }
        self.targets.iter().filter(|t| **t != NO_LOSS).count()
    }

    /// The first token of the document of token `i` (of all `sequences · length`), within its row.
    pub fn segment(&self, i: usize) -> u32 {
        self.segments.get(i).copied().unwrap_or(0)
    }

    /// Checks lengths, ids below `vocab`, that padding has no targets, and that segments never fall or lie ahead.
    ///
    /// # Errors
    /// [`Error::Internal`] that names the token at fault.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let n = self.rows();
        let wrong = |what: String| Err(Error::Internal(format!("batch: {what}")));
        if n == 0 || self.tokens.len() != n || self.targets.len() != n {
            return wrong(format!(
                "{} tokens and {} targets for {} × {}",
                self.tokens.len(),
                self.targets.len(),
                self.sequences,
                self.length
            ));
        }
        if !self.segments.is_empty() && self.segments.len() != n {
            return wrong(format!("{} segments for {n} tokens", self.segments.len()));
        }
        if !self.filled.is_empty() && self.filled.len() != self.sequences {
            return wrong(format!("{} filled rows of {}", self.filled.len(), self.sequences));
        }
        for i in 0..n {
            let t = i % self.length;
            let (id, target, start) = (self.tokens[i], self.targets[i], self.segment(i));
            if id as usize >= vocab || target != NO_LOSS && target as usize >= vocab {
                return wrong(format!("token {i} has id {id} and target {target} in a vocabulary of {vocab}"));
            }
            let padding = self.filled.get(i / self.length).is_some_and(|n| *n as usize <= t);
            if padding && target != NO_LOSS {
                return wrong(format!("token {i} is padding and has a target"));
            }
            if start as usize > t || t > 0 && self.segment(i - 1) > start {
                return wrong(format!("token {i} at {t} says that its document begins at {start}"));
            }
        }
        Ok(())
    }
}

/// A question in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The tokens of what is asked.
    pub prompt: Vec<u32>,
    /// The tokens of the answer that the data has.
    pub answer: Vec<u32>,
}

/// Packed data: rows of one length that can be had by number, in any order and as often as wanted. What order they come in
/// is `train.order`; where a run stands in it is a number, so resuming needs nothing else.
pub trait Rows: Send {
    /// Rows there are to learn from; at least 1.
    fn rows(&self) -> usize;

    /// Tokens of every row, `train.length`.
    fn length(&self) -> usize;

    /// A batch of the rows `which`, each below [`Self::rows`].
    ///
    /// # Errors
    /// [`Error::Internal`] for a number that no row has; what the tokenizer says, where rows are generated.
    fn batch(&self, which: &[usize]) -> Result<Batch>;

    /// Rows held out, never among [`Self::rows`]; 0 when there is no validation split.
    fn held_out(&self) -> usize {
        0
    }

    /// A batch of held-out rows, each below [`Self::held_out`].
    ///
    /// # Errors
    /// [`Error::Internal`] where none are held out; what the tokenizer says, where rows are generated.
    fn held_out_batch(&self, which: &[usize]) -> Result<Batch> {
        Err(Error::Internal(format!("no held-out rows, and {} asked for", which.len())))
    }

    /// Held-out document `i` as a question and its answer, to ask the model in words; none beyond the last, or where there
    /// are none.
    fn question(&self, _i: usize) -> Option<Question> {
        None
    }

    /// Whether the targets of every held-out document are one answer that lies whole in a row, so that the share of right
    /// answers means something.
    fn answers(&self) -> bool {
        false
    }

    /// What is to be known of the data before it is learned from, a sentence each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Text that stands for the data in a training state: resuming on other data is refused.
    fn fingerprint(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Batch {
        Batch {
            tokens: vec![1, 2, 3, 4, 5, 6],
            targets: vec![2, 3, NO_LOSS, 5, 6, NO_LOSS],
            segments: vec![0, 0, 2, 0, 1, 1],
            sequences: 2,
            length: 3,
            filled: vec![2, 3],
        }
    }

    #[test]
    fn a_batch_checks_its_ids_and_segments() {
        assert_eq!((two().counted(), two().rows(), two().real()), (4, 6, 5));
        let learns = Batch { filled: vec![2, 1], ..two() };
        assert!(learns.check(7).unwrap_err().to_string().contains("token 4 is padding"));
        assert!(Batch { filled: vec![2], ..two() }.check(7).is_err());
        assert!(two().check(7).is_ok());
        assert!(two().check(6).unwrap_err().to_string().contains("target 6"));
        let falls = Batch { segments: vec![0, 1, 0, 0, 0, 0], ..two() };
        assert!(falls.check(7).unwrap_err().to_string().contains("token 2"));
        let ahead = Batch { segments: vec![0, 2, 2, 0, 0, 0], ..two() };
        assert!(ahead.check(7).is_err());
    }
}
