//! What data come to before anything is learned from them: how many, how long, and the first of them with what is learned.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Asked, Dataset, Options, Packed, Validation, made, open};
use crate::error::Result;
use crate::model::text::Words;
use crate::train::batch::NO_LOSS;

/// Tokens of one document that are shown.
const SHOWN: usize = 2000;

/// A stretch of a document's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The text.
    pub text: String,
    /// Whether it is learned.
    pub learned: bool,
}

/// One of the first documents, or of the first rows where rows are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct First {
    /// Tokens.
    pub tokens: usize,
    /// Of which are learned.
    pub learned: usize,
    /// Its text, as far as it is shown.
    pub text: Vec<Stretch>,
    /// Tokens after it that are not shown.
    pub more: usize,
}

/// What data come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The data, as the configuration names them.
    pub file: String,
    /// What the file was found to be; empty for what is made here.
    pub kind: &'static str,
    /// Its records.
    pub records: usize,
    /// Fields that carry meaning and are not used, and how many records have each.
    pub unused: BTreeMap<String, usize>,
    /// Rows, where they are made as they are learned: there are no records and documents then.
    pub rows: Option<usize>,
    /// Documents: records with something to learn.
    pub documents: usize,
    /// Records without.
    pub left_out: usize,
    /// Tokens of all documents.
    pub tokens: usize,
    /// Of which are learned.
    pub learned: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Documents that are longer than a row.
    pub longer: usize,
    /// What there is to say of them.
    pub notes: Vec<String>,
    /// The first of them.
    pub first: Vec<First>,
}

impl Preview {
    /// Reads the data of a training with the model's words and shows the first `count` documents; of data that are made as they are
    /// learned, the first rows.
    ///
    /// # Errors
    /// As a training with them: what is wrong with a file, its line and its field; text for a model without a tokenizer.
    pub fn of(asked: &Asked<'_>, count: usize) -> Result<Self> {
        let train = asked.train;
        if made(&train.data) {
            return rows(asked, count);
        }
        if asked.words.tokenizer.is_none() {
            return Err(asked.words.no_words("training data"));
        }
        let options = Options {
            validation: Validation::Share(0.0),
            loss_on: train.loss_on,
            split: train.documents,
            template: train.template,
            parse_special: asked.parse_special,
            ..Options::new(&train.data)
        };
        let packed = Packed::new(Dataset::open(&options, asked.words, asked.base)?, train.length, train.packing)?;
        let documents = packed.documents();
        let told = documents.told();
        let of = |i| First::of(&documents.document(i).collect::<Vec<_>>(), asked.words);
        Ok(Self {
            file: train.data.clone(),
            kind: told.kind,
            records: told.records,
            unused: told.unused.clone(),
            documents: documents.len(),
            left_out: documents.left_out(),
            tokens: documents.tokens(),
            learned: documents.targets(),
            longest: documents.longest(),
            longer: documents.longer_than(train.length),
            notes: packed.remarks(),
            first: (0..documents.len().min(count)).map(of).collect(),
            ..Self::default()
        })
    }
}

/// The first rows of data that are made.
fn rows(asked: &Asked<'_>, count: usize) -> Result<Preview> {
    let rows = open(asked)?;
    let (n, length) = (rows.rows(), rows.length());
    let which: Vec<usize> = (0..n.min(count)).collect();
    let batch = rows.batch(&which)?;
    let of = |row: usize| {
        let at = row * length..(row + 1) * length;
        // A token is learned where the one before it has it for its target.
        let before = [NO_LOSS].into_iter().chain(batch.targets[at.clone()].iter().copied());
        let filled = batch.filled.get(row).map_or(length, |n| *n as usize);
        let marked = batch.tokens[at].iter().copied().zip(before.map(|target| target != NO_LOSS));
        First::of(&marked.take(filled).collect::<Vec<_>>(), asked.words)
    };
    let first: Vec<First> = which.iter().map(|row| of(*row)).collect();
    Ok(Preview { file: asked.train.data.clone(), rows: Some(n), longest: length, first, ..Preview::default() })
}

impl First {
    /// Of ids, each with whether it is learned.
    fn of(marked: &[(u32, bool)], words: &Words) -> Self {
        let shown = &marked[..marked.len().min(SHOWN)];
        let ids: Vec<u32> = shown.iter().map(|(id, _)| *id).collect();
        let texts = match &words.tokenizer {
            Some(tokenizer) => tokenizer.spell(&ids),
            None => ids.iter().map(|id| format!("⟨{id}⟩")).collect(),
        };
        let mut text: Vec<Stretch> = Vec::new();
        for (piece, (_, learned)) in texts.into_iter().zip(shown) {
            match text.last_mut().filter(|last| last.learned == *learned) {
                Some(last) => last.text.push_str(&piece),
                None => text.push(Stretch { text: piece, learned: *learned }),
            }
        }
        let learned = marked.iter().filter(|(_, learn)| *learn).count();
        Self { tokens: marked.len(), learned, text, more: marked.len() - shown.len() }
    }
}
