//! Data of a training job: files and tasks packed into rows, or `tokens:ROWS` of ids that stand for text where only memory and speed
//! are asked for.

use std::path::Path;
use std::sync::Arc;

use crate::config::train::{LossOn, Train};
use crate::error::{Error, Result};
use crate::model::text::Words;
use crate::rng::Philox;
use crate::train::batch::{Batch, Ready, Rows};
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
    let (length, random) = (train.length, Philox::new(seed).stream(1 << 62));
    let ids: Vec<u32> = (0..(n * length + 1) as u64).map(|i| random.below(i, words.vocab() as u64) as u32).collect();
    let held = ((n as f64 * share).round() as usize).min(n - 1);
    let part = |rows: std::ops::Range<usize>| {
        let (from, to) = (rows.start * length, rows.end * length);
        Batch {
            tokens: ids[from..to].to_vec(),
            targets: ids[from + 1..=to].to_vec(),
            sequences: rows.len(),
            length,
            ..Batch::default()
        }
    };
    Ok(Box::new(Ready { learn: part(0..n - held), held_out: part(n - held..n) }))
}
