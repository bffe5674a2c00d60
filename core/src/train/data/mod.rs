//! Training data: from files to token documents, from documents to batches.
//!
//! A file is read once, whole, into [`Documents`]: ids with a mark on those that are to be learned. [`Packed`] lays them out
//! in rows that are had by number; all of it is a function of the files, the options and the seed.

mod encode;
mod pack;
pub mod preview;
mod random;
mod read;
pub mod recall;
mod source;
pub mod task;

use std::path::{Path, PathBuf};

pub use pack::Packed;
pub use read::Told;
pub use source::{Asked, SOURCES, Source, check, made, open, sentence};

pub use crate::config::train::{LossOn, Split, Validation};

use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::model::text::Words;
use crate::rng::Philox;
use crate::train::batch::Rows;

/// The configuration key that messages name.
const KEY: &str = "train.data";

/// Bytes of the largest file that is read: its tokens are held in memory for the whole run.
const LARGEST: u64 = 1 << 30;

/// The stream of random numbers that holds documents back.
const SPLIT: u64 = 0x7370_6c69_7400;

/// Marks an id that is to be learned; ids are below 2²⁴ (a model's header is held to that).
const LEARN: u32 = 1 << 31;

/// How data is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// A file, or `bundled:task-NAME`.
    pub data: String,
    /// What is held back. A bundled task brings its own held-out split.
    pub validation: Validation,
    /// Which tokens have a loss.
    pub loss_on: LossOn,
    /// Where a text file's documents end.
    pub split: Split,
    /// Prompts and responses go through the model's chat template; otherwise the response follows the prompt as it stands,
    /// and the end-of-text token follows the response. `messages` always need the template.
    pub template: bool,
    /// The texts of control tokens in the data are those tokens; otherwise they are text, as everything in data is.
    pub parse_special: bool,
    /// Of the validation split.
    pub seed: u64,
}

impl Options {
    /// `data` with everything else as by default.
    pub fn new(data: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            validation: Validation::default(),
            loss_on: LossOn::Responses,
            split: Split::BlankLines,
            template: true,
            parse_special: false,
            seed: 0,
        }
    }
}

/// Token documents. Counted as `program`: they are input, as a prompt is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// Ids, [`LEARN`] set on those to be learned; one document after the other.
    tokens: Vec<u32>,
    /// Where each document ends.
    ends: Vec<usize>,
    /// What the file was, where they are of one.
    told: Told,
    /// Records with nothing to learn, which are no documents.
    left_out: usize,
}

impl Documents {
    /// Documents.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens that are to be learned.
    pub fn targets(&self) -> usize {
        self.tokens.iter().filter(|t| **t & LEARN != 0).count()
    }

    /// Tokens of the longest document.
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|i| self.marked(i).len()).max().unwrap_or(0)
    }

    /// The ids of document `i` and whether each is to be learned.
    pub fn document(&self, i: usize) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.marked(i).iter().map(|t| (t & !LEARN, t & LEARN != 0))
    }

    /// The marked ids of document `i`; none for an index beyond the last.
    fn marked(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.ends.get(i - 1).copied().unwrap_or(0) };
        self.ends.get(i).map_or(&[], |end| &self.tokens[start..*end])
    }

    /// Adds a document: ids and whether they are to be learned. One with nothing to learn is left out.
    fn push(&mut self, ids: Vec<(u32, bool)>) -> bool {
        let start = self.tokens.len();
        self.tokens.extend(ids.into_iter().map(|(id, learn)| if learn { id | LEARN } else { id }));
        // Nothing comes before the first token, so nothing predicts it.
        if let Some(first) = self.tokens.get_mut(start) {
            *first &= !LEARN;
        }
        let learns = self.tokens[start..].iter().any(|t| t & LEARN != 0);
        if learns {
            self.ends.push(self.tokens.len());
        } else {
            self.tokens.truncate(start);
        }
        learns
    }

    /// What the file they are of was.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Records that had nothing to learn.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Documents of more than `length` tokens and the one after them, which a row of that length cannot hold whole.
    pub fn longer_than(&self, length: usize) -> usize {
        (0..self.len()).filter(|i| self.marked(*i).len() > length + 1).count()
    }

    /// The documents that `keep` names, in their order.
    fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut out = Self { told: self.told.clone(), left_out: self.left_out, ..Self::default() };
        for i in (0..self.len()).filter(|i| keep(*i)) {
            out.tokens.extend_from_slice(self.marked(i));
            out.ends.push(out.tokens.len());
        }
        out
    }
}

/// What there is to learn from and to measure with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// To learn from; never empty.
    pub train: Documents,
    /// Held back; empty when nothing is.
    pub validation: Documents,
}

impl Dataset {
    /// Reads what `options` name; file names are relative to `base`.
    ///
    /// # Errors
    /// [`Error::Config`] naming file, line and field of what is wrong; a file without a document to learn; a split that
    /// leaves nothing on one side.
    pub fn open(options: &Options, words: &Words, base: &Path) -> Result<Self> {
        scoped(Scope::Program, || Self::read(options, words, base))
    }

    fn read(options: &Options, words: &Words, base: &Path) -> Result<Self> {
        if let Some(name) = options.data.strip_prefix("bundled:") {
            let task = task::Task::find(name)?;
            let documents = |examples: &[task::Example]| -> Result<Documents> {
                let mut out = Documents::default();
                for e in examples {
                    encode::plain(&e.prompt, &e.response, options, words, &mut out)?;
                }
                Ok(out)
            };
            return Ok(Self { train: documents(task.train())?, validation: documents(task.held_out())? });
        }
        let all = file(KEY, &base.join(&options.data), options, words)?;
        let (train, validation) = match &options.validation {
            Validation::File(name) => (all, file("train.validation", &base.join(name), options, words)?),
            Validation::Share(f) => split(all, *f, options.seed)?,
        };
        Ok(Self { train, validation })
    }
}

/// Documents of a file or a task in rows.
fn packed(asked: &Asked<'_>) -> Result<Box<dyn Rows>> {
    let train = asked.train;
    let options = Options {
        validation: train.validation.clone(),
        loss_on: train.loss_on,
        split: train.documents,
        template: train.template,
        parse_special: asked.parse_special,
        seed: asked.seed,
        ..Options::new(&train.data)
    };
    let packed = Packed::new(Dataset::open(&options, asked.words, asked.base)?, train.length, train.packing)?;
    // A task's responses are answers, right or wrong as a whole.
    let task = train.data.starts_with("bundled:") && train.loss_on == LossOn::Responses;
    Ok(Box::new(packed.with_answers(task)))
}

/// Holds back `fraction` of `all`, chosen by `seed`.
fn split(all: Documents, fraction: f64, seed: u64) -> Result<(Documents, Documents)> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::config(
            "train.validation",
            format!("`{fraction}` is not allowed; a share from 0 to below 1"),
        ));
    }
    if fraction == 0.0 {
        return Ok((all, Documents::default()));
    }
    let n = all.len();
    if n < 2 {
        return Err(Error::config(
            "train.validation",
            "the data is a single document, of which no share can be held back; name a file, or set 0",
        ));
    }
    let held = ((n as f64 * fraction).round() as usize).clamp(1, n - 1);
    let order = permutation(n, Philox::new(seed).stream(SPLIT));
    let mut out = vec![false; n];
    for i in &order[..held] {
        out[*i as usize] = true;
    }
    Ok((all.only(|i| !out[i]), all.only(|i| out[i])))
}

/// A uniform permutation of 0 … n − 1 (Fisher and Yates).
fn permutation(n: usize, rng: Philox) -> Vec<u32> {
    let mut out: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        out.swap(i, rng.below(i as u64, i as u64 + 1) as usize);
    }
    out
}

/// The documents of one file.
fn file(key: &str, path: &Path, options: &Options, words: &Words) -> Result<Documents> {
    let mut out = Documents::default();
    let mut left_out = 0;
    let mut encoder = encode::Encoder::new(options, words);
    let told = read::each(key, path, options.split, &mut |place, record| {
        let done = encoder.record(record, &mut out).map_err(|e| place.error(e))?;
        left_out += usize::from(!done.learns);
        Ok(done.unused)
    })?;
    (out.told, out.left_out) = (told, left_out);
    if out.is_empty() {
        return Err(Error::config(key, format!("{} has no document with anything to learn", path.display())));
    }
    Ok(out)
}

/// Where a record stands, for messages.
#[derive(Clone, Debug)]
struct Place {
    key: String,
    path: PathBuf,
    line: usize,
    /// It is a row rather than a line.
    rows: bool,
}

impl Place {
    /// `message` (which names the field) with the file and line before it.
    fn wrong(&self, message: impl std::fmt::Display) -> Error {
        let row = if self.rows { " row " } else { "" };
        Error::config(&self.key, format!("{}:{row}{}: {message}", self.path.display(), self.line))
    }

    /// `message` of the whole file.
    fn whole(&self, message: String) -> Error {
        Error::config(&self.key, format!("{} {message}", self.path.display()))
    }

    /// What went wrong in a record, with its place.
    fn error(&self, e: Error) -> Error {
        match e {
            Error::Config { message, .. } => self.wrong(message),
            Error::Refused { what, reason } => self.wrong(format!("{what}: {reason}")),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
