//! `bundled:recall`: the text that the bundled model was made of, written while it is learned.
//!
//! A row is a function of the seed and its number, so any order, any number of threads and any resumption see the same
//! rows. Rows go from short texts to long ones: a row of `train.length` tokens holds as many stretches of its stage's
//! length as fit, which do not see each other. What a token counts in the loss becomes a chance: a target of weight `w` is
//! one with chance `w`, so the mean loss over targets is the weighted mean in expectation.

mod documents;
mod grammar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use documents::{Encoder, Exam, Maker, Marked, Special};
use grammar::{Dice, Lexicon, lexicon};

use super::source::{Asked, Source};
use crate::error::{Error, Result};
use crate::model::text::Words;
use crate::rng::Philox;
use crate::train::batch::{Batch, NO_LOSS, Rows, short};

/// The name of the data, after `bundled:`.
pub const NAME: &str = "recall";

/// This data.
pub static SOURCE: Source = Source {
    form: "bundled:recall",
    what: "the text that the bundled model was made of, written while it is learned",
    made: true,
    text: true,
    takes: |data| data.strip_prefix("bundled:") == Some(NAME),
    open: |asked| {
        let Asked { train, words, seed, threads, .. } = asked;
        let data = Recall::new(Arc::clone(words), *seed, asked.rows(), asked.held_out(), train.length, *threads)?;
        Ok(Box::new(data))
    },
};

/// Tokens of a stretch up to this share of the run. Attention learns to look back on short texts first.
const STAGES: [(f64, usize); 4] = [(0.42, 256), (0.71, 1024), (0.855, 2048), (1.0, 4096)];
/// Tokens of an exam.
const EXAM: usize = 1024;
/// Most rows of exams.
const EXAMS: usize = 64;

/// Philox streams, apart from those of other uses: of text, of chances, of exams.
const TEXT: u64 = 1 << 59;
const CHANCES: u64 = 1 << 58;
const EXAM_TEXT: u64 = 1 << 57;
/// Bits of a stream's number that tell the stretches of a row apart.
const PARTS: u32 = 13;

/// Ids of words by their text.
type Known = HashMap<Box<str>, Box<[u32]>>;

/// Rows of the bundled model's text.
#[derive(Debug)]
pub struct Recall {
    words: Arc<Words>,
    special: Special,
    lexicon: &'static Lexicon,
    seed: u64,
    rows: usize,
    held_out: usize,
    length: usize,
    /// What each thread remembers: only time depends on it.
    known: Vec<Mutex<Known>>,
}

/// One stretch of a row to be written.
struct Job<'a> {
    stream: u64,
    /// Tokens of a stretch of this stage.
    stage: usize,
    start: usize,
    tokens: &'a mut [u32],
    targets: &'a mut [u32],
    segments: &'a mut [u32],
}

impl Recall {
    /// `rows` rows of `length` tokens, for a run of that many, and exams on `held_out` rows, in the words of a model that
    /// has those of the bundled one; written on `threads` threads.
    ///
    /// # Errors
    /// [`Error::Refused`] for other words, [`Error::Config`] for rows too short for a document.
    pub fn new(
        words: Arc<Words>,
        seed: u64,
        rows: usize,
        held_out: usize,
        length: usize,
        threads: usize,
    ) -> Result<Self> {
        if length < 64 {
            return Err(Error::config(
                "train.length",
                format!("`{length}` is not allowed with train.data=bundled:recall; from 64, the shortest of its texts"),
            ));
        }
        let (special, lexicon) = (Special::of(&words)?, lexicon()?);
        let known = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Ok(Self { words, special, lexicon, seed, rows: rows.max(1), held_out: held_out.min(EXAMS), length, known })
    }

    /// Tokens of a stretch in row `row`.
    fn stage(&self, row: usize) -> usize {
        let share = row as f64 / self.rows as f64;
        let stage = STAGES.iter().find(|(until, _)| share < *until).map_or(EXAM, |(_, length)| *length);
        stage.min(self.length)
    }

    fn maker<'a>(&'a self, stream: u64, known: &'a mut Known) -> Maker<'a> {
        let encoder = Encoder { words: &self.words, special: &self.special, known };
        Maker { encoder, lexicon: self.lexicon, dice: Dice::new(Philox::new(self.seed).stream(stream)) }
    }

    /// Writes a stretch of a row to learn from.
    fn learn(&self, job: &mut Job<'_>, known: &mut Known) -> Result<()> {
        let text = self.maker(TEXT + job.stream, known).stretch(job.tokens.len())?;
        let chances = Philox::new(self.seed).stream(CHANCES + job.stream);
        lay(job, &text, |at, weight| weight >= 1.0 || weight > 0.0 && chances.uniform(at) < weight);
        Ok(())
    }

    /// Writes an exam, of which answers count and nothing else.
    fn examine(&self, job: &mut Job<'_>, known: &mut Known) -> Result<()> {
        let n = job.tokens.len();
        let mut maker = self.maker(EXAM_TEXT + job.stream, known);
        let kinds = match n {
            ..256 => 1,
            256..512 => 3,
            _ => Exam::ALL.len(),
        };
        let (exam, _) = Exam::ALL[maker.dice.below(kinds)];
        let depth = maker.dice.unit();
        let mut text = maker.exam(exam, n, depth)?;
        text.ids.resize(n + 1, self.special.pad);
        text.weights.resize(n + 1, 0.0);
        lay(job, &text, |_, weight| weight >= 1.0);
        Ok(())
    }

    /// The rows `which`, cut into stretches as `stage` says of each row, that `write` fills on as many threads as there
    /// are.
    fn rows_of(
        &self,
        which: &[usize],
        stage: impl Fn(usize) -> usize,
        write: impl Fn(&Self, &mut Job<'_>, &mut Known) -> Result<()> + Sync,
    ) -> Result<Batch> {
        let (n, length) = (which.len() * self.length, self.length);
        let mut out = Batch {
            tokens: vec![self.special.pad; n],
            targets: vec![NO_LOSS; n],
            segments: vec![0; n],
            sequences: which.len(),
            length,
            filled: Vec::new(),
        };
        let mut jobs = Vec::new();
        let rows = out.tokens.chunks_mut(length).zip(out.targets.chunks_mut(length));
        for (((tokens, targets), segments), row) in rows.zip(out.segments.chunks_mut(length)).zip(which) {
            let size = stage(*row);
            let parts = tokens.chunks_mut(size).zip(targets.chunks_mut(size)).zip(segments.chunks_mut(size));
            for (part, ((tokens, targets), segments)) in parts.enumerate() {
                let stream = ((*row as u64) << PARTS) + part as u64;
                jobs.push(Mutex::new(Job { stream, stage: size, start: part * size, tokens, targets, segments }));
            }
        }
        let next = AtomicUsize::new(0);
        let work = |known: &Mutex<Known>| -> Result<()> {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                write(self, &mut job.lock().unwrap_or_else(PoisonError::into_inner), &mut known)?;
            }
            Ok(())
        };
        let (own, others) = self.known.split_at(1);
        std::thread::scope(|scope| -> Result<()> {
            let helpers: Vec<_> = others
                .iter()
                .take(jobs.len().saturating_sub(1))
                .map(|known| {
                    std::thread::Builder::new()
                        .name("ullage-text".into())
                        .spawn_scoped(scope, || work(known))
                        .map_err(|e| Error::Internal(format!("cannot start a thread that writes text: {e}")))
                })
                .collect();
            let mut done = own.iter().try_for_each(&work);
            for helper in helpers {
                let ended = helper.and_then(|h| {
                    h.join().unwrap_or_else(|_| Err(Error::Internal("a thread that writes text panicked".into())))
                });
                done = done.and(ended);
            }
            done
        })?;
        drop(jobs);
        Ok(out)
    }
}

/// Puts a text in its place: a target where `counts` (of its place, and its weight) says so.
fn lay(job: &mut Job<'_>, text: &Marked, counts: impl Fn(u64, f32) -> bool) {
    let n = job.tokens.len().min(text.ids.len().saturating_sub(1));
    debug_assert!(n == job.tokens.len() && n <= job.stage, "a stretch fills its place");
    job.segments.fill(job.start as u32);
    for i in 0..n {
        job.tokens[i] = text.ids[i];
        if counts(i as u64, text.weights[i + 1]) {
            job.targets[i] = text.ids[i + 1];
        }
    }
}

impl Rows for Recall {
    fn rows(&self) -> usize {
        self.rows
    }

    fn length(&self) -> usize {
        self.length
    }

    fn batch(&self, which: &[usize]) -> Result<Batch> {
        if let Some(row) = which.iter().find(|row| **row >= self.rows) {
            return Err(Error::Internal(format!("row {row} of {}", self.rows)));
        }
        self.rows_of(which, |row| self.stage(row), Self::learn)
    }

    fn held_out(&self) -> usize {
        self.held_out
    }

    fn held_out_batch(&self, which: &[usize]) -> Result<Batch> {
        self.rows_of(which, |_| EXAM.min(self.length), Self::examine)
    }

    fn fingerprint(&self) -> String {
        // Text of other words is other data.
        let words = short(Sha256::new_with_prefix(grammar::WORDS));
        format!("bundled:{NAME} {}x{}:{words}", self.rows, self.length)
    }
}
