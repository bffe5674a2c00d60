//! The plan asked backwards: what fits a budget.

use serde::{Deserialize, Serialize};

use super::{Workload, plan};
use crate::catalog::{self, Axis, Role};
use crate::config::{Choice, Config, KnobValue, Knobs, KvBudget, PerKv};
use crate::ledger::Tier;
use crate::machine::Machine;
use crate::model::shape::ModelShape;

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

/// The cheapest change of one or two keys that makes `config` fit: what changes only memory and speed first, then what
/// costs accuracy, least first; at last the budget it needs. As `--set` arguments.
pub fn cheapest_change(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<String> {
    if config.train.is_some() {
        return super::solve_train::cheapest_change(shape, workload, config, machine);
    }
    let mut candidates: Vec<(String, Config, Workload)> = Vec::new();
    let mut add = |text: String, change: &dyn Fn(&mut Config)| {
        let mut c = config.clone();
        change(&mut c);
        if c != *config && c.check().is_ok() {
            candidates.push((text, c, workload.clone()));
        }
    };
    // Same tokens, other memory.
    for entry in catalog::variants(Axis::KvAlloc) {
        add(format!("--set kv.alloc={}", entry.id), &|c| c.kv.alloc = entry.id.into());
    }
    let needed = workload.passes.iter().map(|p| p.prompt + p.decode).max().unwrap_or(1);
    if config.run.context > needed {
        add(format!("--set run.context={needed}"), &|c| c.run.context = needed);
    }
    for batch in [256, 128, 64, 32, 16].into_iter().filter(|b| *b < config.run.batch) {
        add(format!("--set run.batch={batch}"), &|c| c.run.batch = batch);
    }
    // Cheaper rows, the finest first.
    let mut formats: Vec<_> = catalog::variants(Axis::KvFormat).collect();
    let bits = |e: &catalog::Entry| match e.role {
        Role::KvFormat(build) => build(&Knobs::default()).map_or(0.0, |f| f.bits()),
        _ => 0.0,
    };
    formats.sort_by(|a, b| bits(b).total_cmp(&bits(a)));
    for entry in formats {
        add(format!("--set kv.format={}", entry.id), &|c| c.kv.format = PerKv::both(entry.id));
    }
    let streamed = Choice::from("stream");
    if config.weights.format.id == "original" {
        add("--set place.weights=stream".into(), &|c| c.place.weights = streamed.clone());
    }
    for (ratio, format) in [(0.5, "q8_0"), (0.2, "q8_0"), (0.1, "q4_0"), (0.05, "q4_0")] {
        add(
            format!("--set kv.select=h2o --set kv.budget.ratio={ratio} --set kv.format={format} --set run.batch=64"),
            &|c| {
                c.kv.select = "h2o".into();
                c.kv.budget = Some(KvBudget::Ratio(ratio));
                c.kv.format = PerKv::both(format);
                c.run.batch = c.run.batch.min(64);
            },
        );
    }
    if config.weights.format.id == "original" {
        add("--set place.weights=stream --set run.batch=16 --set kv.alloc=paged".into(), &|c| {
            c.place.weights = streamed.clone();
            c.run.batch = c.run.batch.min(16);
            c.kv.alloc = "paged".into();
        });
    }
    // Several at once, from what still gives nearly the same tokens to the least that runs.
    if config.weights.format.id == "original" {
        let least = Choice { id: "stream".into(), knobs: Knobs([("prefetch".to_owned(), KnobValue::Int(0))].into()) };
        let context = needed.min(config.run.context);
        for format in ["f16", "q8_0", "q4_0"] {
            add(
                format!(
                    "--set place.weights=stream --set place.weights.prefetch=0 --set run.batch=16 --set run.context={context} --set kv.format={format}"
                ),
                &|c| {
                    c.place.weights = least.clone();
                    c.run.batch = c.run.batch.min(16);
                    c.run.context = context;
                    c.kv.format = PerKv::both(format);
                },
            );
        }
        add(
            format!(
                "--set place.weights=stream --set place.weights.prefetch=0 --set run.batch=16 --set run.context={context} --set kv.select=h2o --set kv.budget.ratio=0.1 --set kv.format=q4_0"
            ),
            &|c| {
                c.place.weights = least.clone();
                c.run.batch = c.run.batch.min(16);
                c.run.context = context;
                c.kv.select = "h2o".into();
                c.kv.budget = Some(KvBudget::Ratio(0.1));
                c.kv.format = PerKv::both("q4_0");
            },
        );
    }
    if let Some((text, ..)) = candidates.iter().find(|(_, c, w)| fits(shape, c, w, machine)) {
        return Some(text.clone());
    }
    if config.run.sequences > 1 {
        let most = Inverse::of(shape, workload, config, machine).most_sequences;
        if most > 0 {
            return Some(format!("--set run.sequences={most}"));
        }
    }
    let whole = plan(shape, workload, config, machine).ok()?;
    let needs: Vec<_> = [("device", Tier::Device, config.budget.device.0), ("host", Tier::Host, config.budget.host.0)]
        .into_iter()
        .filter(|(_, tier, wall)| whole.peak(*tier) > *wall)
        .map(|(name, tier, _)| format!("--set budget.{name}='{} B'", whole.peak(tier)))
        .collect();
    Some(needs.join(" "))
}
