//! `random`: ids that stand for text where only memory and time are asked for, drawn evenly from a model's vocabulary.
//!
//! A row is a function of the seed and its number, so none is held: as many as a run reads, or `random:ROWS` of them with the
//! held-out ones among them. `tokens:ROWS` is the same by its former name.

use super::KEY;
use super::source::{Asked, Source};
use crate::error::{Error, Result};
use crate::rng::Philox;
use crate::train::batch::{Batch, Rows};

/// This data.
pub static SOURCE: Source = Source {
    form: "random",
    what: "token ids drawn evenly from the seed, for any model, where only memory and time count",
    made: true,
    text: false,
    takes: |data| data == "random" || count(data).is_some(),
    open,
};

/// The stream of random numbers that ids are drawn from.
const STREAM: u64 = 1 << 62;
/// Most rows that may be named.
const MOST: usize = 1 << 20;
/// Most rows held out of a run's own number: reading them costs time, and tells nothing.
const HELD_OUT: usize = 64;

/// What stands for the number of rows in `random:ROWS`.
fn count(data: &str) -> Option<&str> {
    data.strip_prefix("random:").or_else(|| data.strip_prefix("tokens:"))
}

fn open(asked: &Asked<'_>) -> Result<Box<dyn Rows>> {
    let data = &asked.train.data;
    let (rows, held_out) = match count(data) {
        None => (asked.rows(), asked.held_out().min(HELD_OUT)),
        Some(n) => {
            let n: usize = n
                .trim()
                .parse()
                .ok()
                .filter(|n| (1..=MOST).contains(n))
                .ok_or_else(|| Error::config(KEY, format!("`{data}` is not random:ROWS, from 1 to {MOST}")))?;
            let held_out = ((n as f64 * asked.share()).round() as usize).min(n - 1);
            (n - held_out, held_out)
        }
    };
    let (vocab, length, seed) = (asked.words.vocab(), asked.train.length, asked.seed);
    Ok(Box::new(Random { rows, held_out, length, vocab, seed }))
}

/// Rows of random ids, those held out after the others.
#[derive(Debug)]
struct Random {
    rows: usize,
    held_out: usize,
    length: usize,
    vocab: usize,
    seed: u64,
}

impl Random {
    /// The rows `which` of `of`, the first of them being row `first` of all.
    fn pick(&self, which: &[usize], first: usize, of: usize) -> Result<Batch> {
        let (random, n) = (Philox::new(self.seed).stream(STREAM), self.length as u64);
        let mut out = Batch { sequences: which.len(), length: self.length, ..Batch::default() };
        for row in which {
            if *row >= of {
                return Err(Error::Internal(format!("row {row} of {of}")));
            }
            let start = (first + row) as u64 * n;
            let id = |i: u64| random.below(start + i, self.vocab as u64) as u32;
            out.tokens.extend((0..n).map(id));
            out.targets.extend((1..=n).map(id));
        }
        Ok(out)
    }
}

impl Rows for Random {
    fn rows(&self) -> usize {
        self.rows
    }

    fn length(&self) -> usize {
        self.length
    }

    fn batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(which, 0, self.rows)
    }

    fn held_out(&self) -> usize {
        self.held_out
    }

    fn held_out_batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(which, self.rows, self.held_out)
    }

    fn fingerprint(&self) -> String {
        let Self { rows, held_out, length, vocab, seed } = self;
        format!("random {rows}+{held_out}x{length} of {vocab}, seed {seed}")
    }
}
