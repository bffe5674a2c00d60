//! What data comes to before anything learns from it: its first documents with what is learned of them, counts, and what to know.
//! The command line and the window show the same.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Dataset, Documents, Options, Packed, made, task};
use crate::config::train::{Train, Validation};
use crate::error::{Error, Result};
use crate::model::text::Words;

/// Tokens of one document that are shown.
const SHOWN: usize = 2000;

/// What data comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// What the file is, such as `JSON lines`; nothing for a bundled task.
    pub kind: &'static str,
    /// Records read.
    pub records: usize,
    /// Fields of records that nothing was made of, and in how many.
    pub unused: BTreeMap<String, usize>,
    /// Documents, and records that had nothing to learn and are none.
    pub documents: usize,
    /// See [`Self::documents`].
    pub left_out: usize,
    /// Tokens of all documents, and those that are learned.
    pub tokens: usize,
    /// See [`Self::tokens`].
    pub learned: usize,
    /// Tokens of the longest document.
    pub longest: usize,
    /// Documents that a row of `train.length` cannot hold whole.
    pub longer: usize,
    /// What to know of it, a sentence each.
    pub notices: Vec<String>,
    /// The first documents.
    pub rows: Vec<Row>,
}

/// A document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Its tokens.
    pub tokens: usize,
    /// Those of them that are learned.
    pub learned: usize,
    /// Its text, or the beginning of it.
    pub pieces: Vec<Piece>,
    /// It goes on.
    pub cut: bool,
}

/// A stretch of text that is learned, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text; control characters are as the data has them.
    pub text: String,
    /// Its tokens have a loss.
    pub learned: bool,
}

/// What `train.data` comes to, with its first `rows` documents; file names are relative to `base`. It reads the whole of the data, so
/// a window asks for it on a thread of its own.
///
/// # Errors
/// As [`Dataset::open`]; a model without a tokenizer; data that is made as it is read, of which there is nothing to show.
pub fn preview(train: &Train, parse_special: bool, words: &Words, base: &Path, rows: usize) -> Result<Preview> {
    if words.tokenizer.is_none() {
        return Err(words.no_words("training data"));
    }
    if made(&train.data) && task::Task::find(train.data.strip_prefix("bundled:").unwrap_or_default()).is_err() {
        let why = "it is made as it is read, so that there is no file to look into; train on it to see its loss";
        return Err(Error::refused(format!("a preview of train.data = {}", train.data), why));
    }
    let options = Options {
        validation: Validation::Share(0.0),
        loss_on: train.loss_on,
        split: train.documents,
        template: train.template,
        parse_special,
        ..Options::new(&train.data)
    };
    let packed = Packed::new(Dataset::open(&options, words, base)?, train.length, train.packing)?;
    let documents = packed.documents();
    let told = documents.told();
    Ok(Preview {
        kind: told.kind,
        records: told.records,
        unused: told.unused.clone(),
        documents: documents.len(),
        left_out: documents.left_out(),
        tokens: documents.tokens(),
        learned: documents.targets(),
        longest: documents.longest(),
        longer: documents.longer_than(train.length),
        notices: packed.remarks(),
        rows: (0..documents.len().min(rows)).map(|i| row(documents, words, i)).collect(),
    })
}

/// Document `i`.
fn row(documents: &Documents, words: &Words, i: usize) -> Row {
    let mut out = Row::default();
    let mut bytes: Vec<(Vec<u8>, bool)> = Vec::new();
    for (id, learned) in documents.document(i) {
        out.tokens += 1;
        out.learned += usize::from(learned);
        if out.tokens > SHOWN {
            continue;
        }
        let piece = words.tokenizer.as_ref().map(|t| t.piece(id)).unwrap_or_default();
        match bytes.last_mut().filter(|(_, last)| *last == learned) {
            Some((bytes, _)) => bytes.extend(piece),
            None => bytes.push((piece, learned)),
        }
    }
    out.cut = out.tokens > SHOWN;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    out.pieces = bytes.into_iter().map(|(bytes, learned)| Piece { text: text(bytes), learned }).collect();
    out
}
