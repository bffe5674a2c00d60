//! The plan of training: one step, and one validation, on the dry device.

use std::sync::Arc;

use super::batch::Batch;
use super::engine::{Setup, Techniques, Trainer};
use super::learner::Param;
use crate::config::Config;
use crate::config::train::Train;
use crate::device::Spent;
use crate::device::cpu;
use crate::device::dry::{Dry, Rates};
use crate::device::gpu::Precision;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::shape::ModelShape;
use crate::weights::format::Formats;

/// The section of a configuration that has one.
///
/// # Errors
/// [`Error::Internal`] for one that has none.
pub fn section(config: &Config) -> Result<&Train> {
    config.train.as_ref().ok_or_else(|| Error::Internal("a training plan without a [train] section".into()))
}

/// Walks the reservations of a run of `config` on a model stored as `shape`, in their order. Returns how long a step takes on
/// a machine of `rates`, zeros where none are known.
///
/// # Errors
/// [`Error::OverBudget`] when `ledger` has a budget, and no room in it; [`Error::Refused`] for a choice that this shape
/// forbids.
pub fn walk(config: &Config, shape: &ModelShape, ledger: &Arc<Ledger>, rates: Option<Rates>) -> Result<Spent> {
    walk_by(config, shape, ledger, rates, Techniques::of(config)?)
}

/// [`walk`] by techniques that are built already.
///
/// # Errors
/// [`Error::OverBudget`] when `ledger` has a budget, and no room in it; [`Error::Refused`] for a choice that this shape
/// forbids.
pub(super) fn walk_by(
    config: &Config,
    shape: &ModelShape,
    ledger: &Arc<Ledger>,
    rates: Option<Rates>,
    techniques: Techniques,
) -> Result<Spent> {
    let train = section(config)?;
    check(config, shape)?;
    let gradient = Arc::clone(&techniques.gradient);
    let period = techniques.optimizer.period().max(1);
    let sizes = techniques.sizes(train, shape, config.threads());
    let dry = match config.gpu() {
        None => Dry::new(ledger, cpu::scratch_bytes(config.threads(), &sizes), sizes.load)?,
        Some(_) => Dry::gpu(ledger, &sizes, Precision::of(train))?,
    };
    let dry = dry.timed(rates);
    let setup = Setup { shape, source: None, plan: true, train, seed: 0 };
    let mut trainer = Trainer::new(Box::new(dry), ledger, &setup, techniques, sizes.load, &mut |_| ())?;
    // The batch that needs most.
    let batch = Batch::sized(train.batch, train.length);
    let mut step = |n: u64| {
        let before = trainer.device().spent();
        gradient.step(&mut trainer, std::slice::from_ref(&batch), n, 0.0, &mut |_| ())?;
        Ok::<_, Error>(trainer.device().spent() - before)
    };
    let (first, steps) = (step(1)?, train.steps.max(1) as u64);
    let spent = if period == 1 {
        first
    } else {
        // On average: as many as do more, and the others.
        let more = steps.div_ceil(period) as f64 / steps as f64;
        first * more + step(2)? * (1.0 - more)
    };
    trainer.evaluate(&batch)?;
    Ok(spent)
}

/// What learns in a run of `config`, without values: the parameters of a trainer that is only planned.
///
/// # Errors
/// [`Error::OverBudget`] when `ledger` has a budget, and no room in it; [`Error::Refused`] for a choice that this shape
/// forbids.
pub fn learning(config: &Config, shape: &ModelShape, ledger: &Arc<Ledger>) -> Result<Vec<Param>> {
    let train = section(config)?;
    check(config, shape)?;
    let techniques = Techniques::of(config)?;
    let dry = Dry::new(ledger, 0, 0)?;
    let setup = Setup { shape, source: None, plan: true, train, seed: 0 };
    let trainer = Trainer::new(Box::new(dry), ledger, &setup, techniques, 0, &mut |_| ())?;
    Ok(trainer.learner.into_params())
}

/// Checks that a model of this shape can be trained as `config` says.
///
/// # Errors
/// [`Error::Config`] or [`Error::Refused`] for the first thing that cannot work, with its reason.
pub fn check(config: &Config, shape: &ModelShape) -> Result<()> {
    let train = section(config)?;
    let held = Formats::new(config)?.held(shape)?;
    if config.gpu().is_some() {
        crate::device::gpu::check(&held)?;
    }
    if train.length > shape.context {
        return Err(Error::config(
            "train.length",
            format!("`{}` is not allowed; this model was trained for at most {} tokens", train.length, shape.context),
        ));
    }
    Ok(())
}
