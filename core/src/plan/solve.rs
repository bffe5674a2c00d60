//! The plan asked backwards: what fits a budget.

use serde::{Deserialize, Serialize};

use super::{Workload, plan};
use crate::config::{Config, KvBudget};
use crate::machine::Machine;
use crate::shape::ModelShape;

/// What the budgets leave room for, everything else as chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inverse {
    /// Longest `run.context` that fits when it is filled; 0 when not even one token does.
    pub longest_context: usize,
    /// Most `run.sequences`; 0 when not even one fits.
    pub most_sequences: usize,
}

/// Largest `n` in `1..=most` for which `fits`, which holds up to some number and never beyond; 0 if none.
pub(super) fn largest(most: usize, mut fits: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

pub(super) fn fits(shape: &ModelShape, config: &Config, workload: &Workload, machine: &Machine) -> bool {
    plan(shape, workload, config, machine).is_ok_and(|p| p.over.is_none())
}

/// A workload that fills `context` with the decoded share of the one given.
fn filled(workload: &Workload, context: usize) -> Workload {
    let mut out = workload.clone();
    for pass in &mut out.passes {
        pass.decode = pass.decode.min(context.saturating_sub(1));
        pass.prompt = (context - pass.decode).max(1);
    }
    out
}

impl Inverse {
    /// Searches both, each with the rest as chosen.
    pub fn of(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Self {
        // Files take no memory.
        let workload = &Workload { files: Vec::new(), ..workload.clone() };
        let longest_context = largest(shape.context.max(config.run.context), |context| {
            let mut c = config.clone();
            c.run.context = context;
            if let Some(KvBudget::Rows(rows)) = &mut c.kv.budget {
                *rows = (*rows).min(context);
            }
            fits(shape, &c, &filled(workload, context), machine)
        });
        let most_sequences = largest(1024, |sequences| {
            let mut c = config.clone();
            c.run.sequences = sequences;
            let mut w = workload.clone();
            w.passes.iter_mut().for_each(|p| p.sequences = sequences);
            fits(shape, &c, &w, machine)
        });
        Self { longest_context, most_sequences }
    }
}
