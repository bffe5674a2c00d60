//! The plan: what a configuration will cost, computed from shapes alone.
//!
//! A pure function of (shape, workload, config, machine): no I/O, no tensors. Bytes come from walking the run's own order of
//! reservations on a ledger without walls; time from a roofline over the machine's probed bandwidths.

mod solve;
mod solve_train;
mod time;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use solve::{Inverse, cheapest_change};
pub use solve_train::TrainInverse;
pub use time::Times;

use crate::catalog::{Axis, Role};
use crate::config::Config;
use crate::error::{Error, OverBudget, Result};
use crate::kv::Pipeline;
use crate::kv::cache::{ROWS, STAGING};
use crate::ledger::{Category, Ledger, Measured, Phase, Reservation, Tag, Tier};
use crate::machine::Machine;
use crate::model::forward::{self, Extent, Forward};
use crate::model::gpu;
use crate::model::shape::ModelShape;
use crate::place::{self, Placement};
use crate::train;

/// The ledger row of the sampler's candidate list.
pub const SAMPLER: Tag = Tag::device(Category::Workspace, "sampler");
/// Bytes of the sampler's candidate list for a token of the vocabulary: its id and its probability.
pub const SAMPLER_BYTES: usize = 8;

/// The ledger row of one row of reference logits.
pub const REFERENCE: Tag = Tag::device(Category::Workspace, "reference logits");

/// One stretch of work: a prompt read into fresh caches, then tokens decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Prompt tokens.
    pub prompt: usize,
    /// Tokens fed one by one after it: generated ones less the last, or forced ones of an evaluation.
    pub decode: usize,
    /// Sequences decoded side by side.
    pub sequences: usize,
}

/// What is to be computed, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// One after the other; the caches of one are gone before the next starts.
    pub passes: Vec<Pass>,
    /// True when an evaluation compares with saved logits, a row of which is held.
    #[serde(default)]
    pub reference: bool,
}

impl Workload {
    /// Generating from a prompt of `prompt` tokens as `config.run` says.
    pub fn generate(config: &Config, prompt: usize, endless: bool) -> Self {
        let run = &config.run;
        let most = if endless { usize::MAX } else { run.context.saturating_sub(prompt).saturating_add(1) };
        let generated = run.max_tokens.min(most);
        Self {
            passes: vec![Pass { prompt, decode: generated.saturating_sub(1), sequences: run.sequences }],
            reference: false,
        }
    }
}

/// What a configuration will cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Bytes, in the shape of a report's `measured`.
    pub bytes: Measured,
    /// Seconds and tokens a second.
    pub time: Times,
    /// What it is a plan for.
    pub workload: Workload,
    /// The wall it would hit, if any.
    pub over: Option<OverBudget>,
}

/// A configuration resolved for a shape: everything a plan and a run are built from.
pub struct Resolved {
    /// Types as they will be held.
    pub held: ModelShape,
    /// The cache's techniques.
    pub pipeline: Pipeline,
    /// Where weights live.
    pub placement: Box<dyn Placement>,
    /// Threads of the engine.
    pub threads: usize,
    /// The GPU it runs on, if on one.
    pub gpu: Option<usize>,
}

impl Resolved {
    /// Resolves `config` for a model stored as `stored`.
    ///
    /// # Errors
    /// A choice this shape forbids.
    pub fn new(config: &Config, stored: &ModelShape) -> Result<Self> {
        let (format, _) = Config::resolve(Axis::WeightsFormat, "weights.format", &config.weights.format)?;
        let (place, knobs) = Config::resolve(Axis::PlaceWeights, "place.weights", &config.place.weights)?;
        let (Role::WeightsFormat(target), Role::PlaceWeights(build)) = (format.role, place.role) else {
            return Err(Error::Internal("a catalogue entry has another axis' role".into()));
        };
        let held = target.apply(stored)?;
        let pipeline = Pipeline::new(config, &held)?;
        let gpu = config.gpu();
        if gpu.is_some() {
            gpu::check(config, &held)?;
        }
        Ok(Self { held, pipeline, placement: build(&knobs)?, threads: config.threads(), gpu })
    }

    /// True when decoding may go on past `run.context`, because the cache never grows beyond it.
    pub fn endless(&self, prompt: usize) -> bool {
        !self.pipeline.select.keeps_all()
            && self.pipeline.quota(0, 0, prompt) < self.pipeline.context()
            && prompt <= self.pipeline.context()
    }

    /// Reserves on `ledger`, in the run's order, all that the run will hold.
    ///
    /// # Errors
    /// Over budget, where `ledger` has walls.
    fn walk(&self, config: &Config, stored: &ModelShape, workload: &Workload, ledger: &Arc<Ledger>) -> Result<()> {
        let p = &self.pipeline;
        let mut held: Vec<Reservation> = Vec::new();
        let model = place::Model { stored, held: &self.held, threads: self.threads };
        match self.gpu {
            Some(_) => gpu::plan_load(model, ledger, &mut held)?,
            None => self.placement.plan(model, ledger, &mut held)?,
        }
        let tier = config.cpu_tier();
        if config.run.sampling.temperature > 0.0 {
            held.push(ledger.reserve(Tag { tier, ..SAMPLER }, (SAMPLER_BYTES * self.held.vocab) as u64)?);
        }
        for (i, pass) in workload.passes.iter().enumerate() {
            // The first pass generates, the rest evaluate.
            if i == 1 && workload.reference {
                held.push(ledger.reserve(Tag { tier, ..REFERENCE }, 4 * self.held.vocab as u64)?);
            }
            let seen = pass.prompt + pass.decode;
            let room = |e: Extent| match self.gpu {
                Some(_) => gpu::plan_room(&self.held, e, ledger),
                None => forward::plan_room(&self.held, p, self.threads, e.with(config, i == 0), ledger),
            };
            ledger.enter(Phase::Prefill);
            let prefill = room(Forward::prefill_extent(p, pass.prompt, config.run.batch))?;
            let empty = ledger.reserve(ROWS, p.sequence_bytes(pass.prompt, 0))?;
            let staging = if p.stages(pass.prompt) { p.staging_bytes(pass.prompt) } else { 0 };
            let staging = ledger.reserve(STAGING, staging)?;
            let rows = p.sequence_bytes(pass.prompt, pass.prompt) - p.sequence_bytes(pass.prompt, 0);
            let mut cache = vec![empty, ledger.reserve(ROWS, rows)?];
            drop((staging, prefill));
            if pass.decode > 0 {
                ledger.enter(Phase::Decode);
                for _ in 1..pass.sequences {
                    cache.push(ledger.reserve(ROWS, p.sequence_bytes(pass.prompt, pass.prompt))?);
                }
                let extent = Forward::decode_extent(p, &self.held, pass.prompt, seen, pass.sequences);
                let _decode = room(extent)?;
                for _ in 0..pass.sequences {
                    let more = p.sequence_bytes(pass.prompt, seen) - p.sequence_bytes(pass.prompt, pass.prompt);
                    cache.push(ledger.reserve(ROWS, more)?);
                }
            }
        }
        Ok(())
    }
}

/// Plans `config` for a model stored as `stored`.
///
/// # Errors
/// A choice this shape forbids. A plan over budget is no error: it says so in [`Plan::over`].
pub fn plan(stored: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Result<Plan> {
    if let Some(train) = &config.train {
        let walk = |ledger: &Arc<Ledger>| train::plan::walk(config, stored, ledger);
        let (bytes, over) = walked(config, &walk)?;
        let time = time::training(stored, train, config, machine)?;
        return Ok(Plan { bytes, time, workload: workload.clone(), over });
    }
    let resolved = Resolved::new(config, stored)?;
    let (bytes, over) = walked(config, &|ledger| resolved.walk(config, stored, workload, ledger))?;
    let time = time::times(stored, &resolved, workload, config, machine);
    Ok(Plan { bytes, time, workload: workload.clone(), over })
}

/// What a walk reserves without walls, and the wall of `config` that it would hit.
fn walked(config: &Config, walk: &dyn Fn(&Arc<Ledger>) -> Result<()>) -> Result<(Measured, Option<OverBudget>)> {
    let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    walk(&free)?;
    let bytes = free.measured();
    let budget = config.budget.clone();
    let walls = [(Tier::Device, budget.device.0), (Tier::Host, budget.host.0), (Tier::Disk, budget.disk.0)];
    let crosses = walls.iter().any(|(tier, wall)| bytes.tiers.get(tier).is_some_and(|a| a.peak > *wall));
    let over = if crosses {
        let walled = Ledger::new(budget.device.0, budget.host.0, budget.disk.0);
        match walk(&walled) {
            Err(Error::OverBudget(over)) => {
                // What it needs in all, not only up to the first refusal.
                let needed = bytes.tiers.get(&over.tier).map_or(over.needed, |a| a.peak);
                Some(OverBudget { needed, ..*over })
            }
            Err(other) => return Err(other),
            Ok(()) => None,
        }
    } else {
        None
    };
    Ok((bytes, over))
}

impl Plan {
    /// Peak of a tier.
    pub fn peak(&self, tier: Tier) -> u64 {
        self.bytes.tiers.get(&tier).map_or(0, |a| a.peak)
    }
}
