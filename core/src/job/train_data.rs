//! Data of a training job: a text file cut into rows, or `tokens:ROWS` of ids that stand for text where only memory and speed
//! are asked for.

use std::path::Path;

use super::text::Words;
use crate::config::train::Train;
use crate::error::{Error, Result};
use crate::rng::Philox;
use crate::train::batch::{Batch, NO_LOSS, Ready, Rows};

/// The data of `train`, packed.
///
/// # Errors
/// A file that cannot be read, or is shorter than two rows.
pub(super) fn open(train: &Train, words: &Words, base: &Path, seed: u64) -> Result<Box<dyn Rows>> {
    let length = train.length;
    let ids: Vec<u32> = match train.data.strip_prefix("tokens:") {
        Some(n) => {
            let n: usize = n.trim().parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| {
                Error::config("train.data", format!("`{}` is not tokens:ROWS, from 1 to {}", train.data, 1 << 20))
            })?;
            let random = Philox::new(seed).stream(1 << 62);
            (0..(n * length + 1) as u64).map(|i| random.below(i, words.vocab() as u64) as u32).collect()
        }
        None if train.data.is_empty() => {
            return Err(Error::config("train.data", "names nothing to learn from; name a text file"));
        }
        None => {
            let path = base.join(&train.data);
            let text = std::fs::read_to_string(&path)
                .map_err(|e| Error::config("train.data", format!("cannot read {}: {e}", path.display())))?;
            words.encode(&text, true)?
        }
    };
    let rows = (ids.len().saturating_sub(1) / length).max(usize::from(ids.len() > 1));
    if rows == 0 {
        return Err(Error::config("train.data", "has no token to learn"));
    }
    let held = ((rows as f64 * train.validation).round() as usize).min(rows - 1);
    let part = |range: std::ops::Range<usize>| {
        let mut out = Batch { sequences: range.len(), length, ..Batch::default() };
        for i in range.start * length..range.end * length {
            out.tokens.push(ids.get(i).copied().unwrap_or(0));
            out.targets.push(ids.get(i + 1).copied().unwrap_or(NO_LOSS));
        }
        out
    };
    Ok(Box::new(Ready { learn: part(0..rows - held), held_out: part(rows - held..rows) }))
}
