//! Where training data comes from: one list of kinds, each a file of this folder.

use std::path::Path;
use std::sync::Arc;

use super::{random, read, recall, task};
use crate::config::train::{Train, Validation};
use crate::error::{Error, Result};
use crate::model::text::Words;
use crate::train::batch::Rows;

/// What data is opened for.
pub struct Asked<'a> {
    /// The section.
    pub train: &'a Train,
    /// The model's words.
    pub words: &'a Arc<Words>,
    /// What file names are relative to.
    pub base: &'a Path,
    /// The run's seed.
    pub seed: u64,
    /// The texts of control tokens in what is read are those tokens.
    pub parse_special: bool,
    /// Threads that may write what is written as it is read.
    pub threads: usize,
}

impl Asked<'_> {
    /// Rows that the run reads: `steps · batch · accumulate`.
    pub(super) fn rows(&self) -> usize {
        self.train.steps.saturating_mul(self.train.batch).saturating_mul(self.train.accumulate)
    }

    /// The share that is held out; 0 where it is a file, which only what is read can have.
    pub(super) fn share(&self) -> f64 {
        if let Validation::Share(share) = self.train.validation { share } else { 0.0 }
    }

    /// Rows to hold out beside those that are read: that share of them, at least one of any share.
    pub(super) fn held_out(&self) -> usize {
        let share = self.share();
        if share > 0.0 { ((self.rows() as f64 * share).round() as usize).max(1) } else { 0 }
    }
}

/// A kind of training data.
pub struct Source {
    /// How `train.data` names it.
    pub form: &'static str,
    /// What it is, as part of a sentence.
    pub what: &'static str,
    /// Made rather than read: its name is no path, and it brings what is held out.
    pub made: bool,
    /// Text, which takes a tokenizer; otherwise ids of any vocabulary.
    pub text: bool,
    /// Whether a value of `train.data` names one of this kind.
    pub takes: fn(&str) -> bool,
    /// Opens it.
    pub open: fn(&Asked<'_>) -> Result<Box<dyn Rows>>,
}

/// Every kind; the first that takes a name has it, and what no other takes is a file.
pub static SOURCES: &[&Source] = &[&random::SOURCE, &recall::SOURCE, &task::SOURCE, &read::SOURCE];

fn find(data: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| (source.takes)(data)).copied()
}

/// Whether the data of this name is made and not read.
pub fn made(data: &str) -> bool {
    find(data).is_some_and(|source| source.made)
}

/// What `train.data` may be, in one sentence.
pub fn sentence() -> String {
    let forms: Vec<String> = SOURCES.iter().rev().map(|s| format!("{}: {}", s.form, s.what)).collect();
    format!("{}.", forms.join("; "))
}

/// Checks what needs neither model nor file.
///
/// # Errors
/// [`Error::Refused`] for made data with a held-out file.
pub fn check(train: &Train) -> Result<()> {
    match &train.validation {
        Validation::File(path) if made(&train.data) => Err(Error::refused(
            format!("train.validation = {path} with train.data = {}", train.data),
            "generated data brings what is held out from it; set a share, such as train.validation=0.05",
        )),
        _ => Ok(()),
    }
}

/// The data that `asked` names, in rows.
///
/// # Errors
/// No data named; text for a model without a tokenizer; a file that cannot be read; what is wrong in it, with file, line and
/// field.
pub fn open(asked: &Asked<'_>) -> Result<Box<dyn Rows>> {
    let data = &asked.train.data;
    let Some(source) = find(data) else {
        let forms: Vec<&str> = SOURCES.iter().rev().map(|s| s.form).collect();
        let message = format!("names nothing to learn from; name one of: {}", forms.join(", "));
        return Err(Error::config(super::KEY, message));
    };
    if source.text && asked.words.tokenizer.is_none() {
        return Err(asked.words.no_words(&format!("train.data = {data}")));
    }
    (source.open)(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::model::Model;
    use crate::train::batch::Batch;

    fn opened(model: &str, sets: &[(&str, &str)], seed: u64) -> Result<Box<dyn Rows>> {
        let sets: Vec<_> = sets.iter().map(|(k, v)| (format!("train.{k}"), (*v).to_owned())).collect();
        let config = from_toml("", &sets)?;
        let words = Arc::new(Words::of(&Model::open(model, Path::new("."))?)?);
        let train = config.train.unwrap_or_default();
        open(&Asked { train: &train, words: &words, base: Path::new("."), seed, parse_special: false, threads: 1 })
    }

    #[test]
    fn every_kind_of_data_is_found_by_its_own_form_and_told() {
        let told = sentence();
        for source in SOURCES {
            assert!(told.contains(source.form) && told.contains(source.what), "{told}");
            let name = source.form.replace("NAME", "tova").replace("a file", "notes.jsonl");
            assert!(std::ptr::eq(find(&name).unwrap(), *source), "{name}");
            assert_eq!(made(&name), source.made);
        }
        assert!(find("").is_none() && made("random") && made("random:12") && !made("randoms.txt"));
        let error = opened("bundled:recall", &[("steps", "1")], 0).err().unwrap().to_string();
        assert!(
            error.contains("train.data") && error.contains("random") && error.contains("bundled:task-NAME"),
            "{error}"
        );
    }

    #[test]
    fn a_random_model_is_told_of_random_data_and_learns_from_it() {
        let model = concat!("random:", env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/engine/tiny.json@f32");
        for data in ["bundled:task-tova", "bundled:recall", "notes.txt"] {
            let error = opened(model, &[("data", data)], 0).err().unwrap().to_string();
            assert!(
                error.contains(data) && error.contains("train.data=random") && !error.contains("evaluat"),
                "{error}"
            );
        }
        let sets = [
            ("data", "random"),
            ("steps", "3"),
            ("batch", "2"),
            ("accumulate", "2"),
            ("length", "16"),
            ("validation", "0.25"),
        ];
        let rows = opened(model, &sets, 7).unwrap();
        assert_eq!((rows.rows(), rows.held_out(), rows.length()), (12, 3, 16));
        let all: Vec<usize> = (0..12).collect();
        let whole = |rows: &dyn Rows| -> (Batch, Batch) {
            (rows.batch(&all).unwrap(), rows.held_out_batch(&[0, 1, 2]).unwrap())
        };
        let (learn, held) = whole(&*rows);
        let vocab = Words::of(&Model::open(model, Path::new(".")).unwrap()).unwrap().vocab();
        for batch in [&learn, &held] {
            batch.check(vocab).unwrap();
            assert_eq!((batch.counted(), batch.real()), (batch.rows(), batch.rows()));
            assert!((0..batch.rows() - 1).all(|i| i % 16 == 15 || batch.targets[i] == batch.tokens[i + 1]));
        }
        // Even over the vocabulary, other rows each time, and a function of the seed.
        let mean = learn.tokens.iter().map(|id| f64::from(*id)).sum::<f64>() / learn.rows() as f64 / vocab as f64;
        assert!((mean - 0.5).abs() < 0.1, "{mean}");
        assert!(
            learn.tokens.chunks(16).chain(held.tokens.chunks(16)).collect::<std::collections::BTreeSet<_>>().len()
                == 15
        );
        let (again, other) = (opened(model, &sets, 7).unwrap(), opened(model, &sets, 8).unwrap());
        assert!(whole(&*again) == (learn.clone(), held.clone()) && again.fingerprint() == rows.fingerprint());
        assert!(whole(&*other).0 != learn && other.fingerprint() != rows.fingerprint());
        assert!(rows.batch(&[12]).is_err() && rows.held_out_batch(&[3]).is_err());
        // As many rows as are named; any model's vocabulary.
        let named =
            opened("bundled:recall", &[("data", "random:10"), ("length", "8"), ("validation", "0.2")], 0).unwrap();
        assert_eq!((named.rows(), named.held_out()), (8, 2));
        assert_eq!(opened(model, &[("data", "random"), ("validation", "0")], 0).unwrap().held_out(), 0);
        for bad in ["random:0", "random:x", "random:"] {
            assert!(opened(model, &[("data", bad)], 0).err().unwrap().to_string().contains("random:ROWS"), "{bad}");
        }
    }
}
