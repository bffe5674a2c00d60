//! Data of a training job: files and tasks packed into rows, or `tokens:ROWS` of ids that stand for text where only memory and speed
//! are asked for.

use std::path::Path;
use std::sync::Arc;

use crate::config::train::{LossOn, Train};
use crate::error::{Error, Result};
use crate::model::text::Words;
use crate::rng::Philox;
use crate::train::batch::{Batch, Rows};
use crate::train::data::recall::{self, Recall};
use crate::train::data::{Dataset, Options, Packed, Validation};

/// The data of `train`, packed; written on `threads` threads where it is written as it is read.
///
/// # Errors
/// A file that cannot be read; what is wrong in it, with file, line and field.
pub(super) fn open(train: &Train, words: &Arc<Words>, base: &Path, seed: u64, threads: usize) -> Result<Box<dyn Rows>> {
    // Generated data is never held out from a file: the configuration's own check refuses it.
    let share = if let Validation::Share(share) = train.validation { share } else { 0.0 };
    if train.data.strip_prefix("bundled:") == Some(recall::NAME) {
        let rows = train.steps.saturating_mul(train.batch).saturating_mul(train.accumulate);
        let held = if share > 0.0 { ((rows as f64 * share).round() as usize).max(1) } else { 0 };
        return Ok(Box::new(Recall::new(Arc::clone(words), seed, rows, held, train.length, threads)?));
    }
    let Some(n) = train.data.strip_prefix("tokens:") else {
        if train.data.is_empty() {
            return Err(Error::config(
                "train.data",
                "names nothing to learn from; name a .jsonl or text file, bundled:task-tova or bundled:recall",
            ));
        }
        let options = Options {
            validation: train.validation.clone(),
            loss_on: train.loss_on,
            split: train.documents,
            template: train.template,
            seed,
            ..Options::new(&train.data)
        };
        let packed = Packed::new(Dataset::open(&options, words, base)?, train.length, train.packing)?;
        // A task's responses are answers, right or wrong as a whole.
        let task = train.data.starts_with("bundled:") && train.loss_on == LossOn::Responses;
        return Ok(Box::new(packed.with_answers(task)));
    };
    let n: usize = n.trim().parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| {
        Error::config("train.data", format!("`{}` is not tokens:ROWS, from 1 to {}", train.data, 1 << 20))
    })?;
    let held = ((n as f64 * share).round() as usize).min(n - 1);
    let random = Philox::new(seed).stream(1 << 62);
    Ok(Box::new(StandIn { rows: n, held, length: train.length, vocab: words.vocab() as u64, seed, random }))
}

/// Ids that stand for text, drawn by their number as they are read: nothing is held, however many there are.
struct StandIn {
    /// All, the held-out ones the last of them.
    rows: usize,
    held: usize,
    length: usize,
    vocab: u64,
    seed: u64,
    random: Philox,
}

impl StandIn {
    /// The rows `which`, counted from `first` and below `end`.
    fn pick(&self, first: usize, end: usize, which: &[usize]) -> Result<Batch> {
        let mut out = Batch { sequences: which.len(), length: self.length, ..Batch::default() };
        for row in which.iter().map(|row| first + row) {
            if row >= end {
                return Err(Error::Internal(format!("row {row} of {end}")));
            }
            let id = |at: usize| self.random.below((row * self.length + at) as u64, self.vocab) as u32;
            out.tokens.extend((0..self.length).map(id));
            out.targets.extend((1..=self.length).map(id));
        }
        Ok(out)
    }
}

impl Rows for StandIn {
    fn rows(&self) -> usize {
        self.rows - self.held
    }

    fn length(&self) -> usize {
        self.length
    }

    fn batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(0, self.rows(), which)
    }

    fn held_out(&self) -> usize {
        self.held
    }

    fn held_out_batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(self.rows(), self.rows, which)
    }

    fn fingerprint(&self) -> String {
        let Self { rows, held, length, vocab, seed, .. } = self;
        format!("tokens {rows}x{length}, {held} held out, of {vocab}, seed {seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_stand_for_text_come_by_number_and_none_is_held() {
        let random = Philox::new(3).stream(1 << 62);
        let data = StandIn { rows: 1 << 40, held: 1 << 20, length: 5, vocab: 7, seed: 3, random };
        let last = data.rows() - 1;
        let b = data.batch(&[1, 0, 1, last]).unwrap();
        assert!(b.check(7).is_ok() && b.sequences == 4 && b.tokens[..5] == b.tokens[10..15]);
        assert!(
            (0..4).all(|r| b.tokens[r * 5 + 1..r * 5 + 5] == b.targets[r * 5..r * 5 + 4]),
            "targets are the next ids"
        );
        assert_eq!(b.targets[9], b.tokens[0], "a row goes on where the one before ended");
        assert!(data.batch(&[last + 1]).is_err() && data.held_out_batch(&[1 << 20]).is_err());
        assert_eq!(data.held_out_batch(&[0]).unwrap().tokens[0], b.targets[19], "held-out rows follow");
    }
}
