//! A model that is only read, on any device: training's own forward pass, with logits at every position.

use std::sync::Arc;

use super::engine::{Setup, Techniques, Trainer};
use super::params::{Adapted, Params, Role};
use crate::config::train::Train;
use crate::device::Device;
use crate::device::candle::bound::Bound;
use crate::error::Result;
use crate::ledger::Ledger;
use crate::model::Source;
use crate::shape::ModelShape;
use crate::weights::format::Formats;

/// Nothing learns, nothing is put on anything.
struct Nothing;

impl Params for Nothing {
    fn learns(&self, _: Role) -> bool {
        false
    }

    fn reads_only(&self) -> bool {
        true
    }

    fn adapt(&self, _: Role) -> Option<Box<dyn Adapted>> {
        None
    }
}

/// Loads a model onto a device to read at most `length` tokens at once, weights being what `formats` make of them; without a source its weights stay zeros. `progress`
/// hears of the bytes of each tensor read.
///
/// # Errors
/// [`crate::Error::OverBudget`]; [`crate::Error::Io`] or [`crate::Error::Model`] when the file cannot be read;
/// [`crate::Error::Refused`] for what training's forward pass does not know.
pub fn open(
    d: Box<dyn Device>,
    ledger: &Arc<Ledger>,
    shape: &ModelShape,
    source: Option<&Source>,
    formats: Formats,
    length: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Trainer> {
    let train = Train { batch: 1, length, ..Train::default() };
    let techniques = Techniques { params: Box::new(Nothing), formats, ..Techniques::new(&train)? };
    let setup = Setup { shape, source, plan: source.is_none(), train: &train, seed: 0 };
    Trainer::new(d, ledger, &setup, techniques, 0, progress)
}

/// The bytes that candle holds at most, on `threads` threads, while a model is read: `length` tokens, logits of the last
/// `rows`.
///
/// # Errors
/// What training's forward pass does not know.
pub fn candle_bound(shape: &ModelShape, formats: Formats, length: usize, rows: usize, threads: usize) -> Result<u64> {
    let bound = Bound::default();
    let account = bound.account();
    let unlimited = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let mut trainer = open(Box::new(bound), &unlimited, shape, None, formats, length, &mut |_| ())?;
    trainer.logits(&vec![0; length], rows, None, &mut |_, _, _| Ok(()))?;
    Ok(account.bytes(threads))
}
