//! The plan: what a configuration will cost, computed from shapes alone.
//!
//! A pure function of (shape, workload, config, machine): no I/O, no tensors. Bytes come from walking the run's own order of
//! reservations on a ledger without walls; time from a roofline over the machine's probed bandwidths.

mod change;
mod cpu_time;
mod formula;
mod formula_train;
pub mod guest;
mod pieces;
mod solve;
mod solve_train;
mod terms;
mod time;
mod walls;
mod way_back;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use change::{cheapest_change, hint, ways_back};
pub use formula::{Formula, formula};
pub use pieces::{Piece, pieces};
pub use solve::Inverse;
pub use solve_train::{COMBINED, Combination, TrainInverse, combinations};
pub use time::Times;
pub use walls::{beyond, cautions, walls};
pub use way_back::{Change, WayBack};

use crate::catalog;
use crate::config::{Config, Engine};
use crate::device::Spent;
use crate::device::dry::Rates;
use crate::error::{OverBudget, Result};
use crate::forward::adapter;
use crate::forward::cpu::{BatchShape, Forward};
use crate::forward::gpu;
use crate::forward::workspace;
use crate::kv::Pipeline;
use crate::kv::cache::{ROWS, STAGING, TABLES, TRAIL};
use crate::ledger::files::{Output, Written};
use crate::ledger::{Category, Ledger, Measured, Phase, Reservation, Tag, Tier, Walls};
use crate::machine::Machine;
use crate::model::sampling::{SAMPLER, SAMPLER_BYTES};
use crate::place::{self, Placement};
use crate::schema;
use crate::shape::ModelShape;
use crate::train;
use crate::weights::format::Formats;

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
    /// What is written on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Written>,
}

impl Workload {
    /// Generating from a prompt of `prompt` tokens as `config.run` says.
    pub fn generate(config: &Config, prompt: usize, endless: bool) -> Self {
        let run = &config.run;
        let most = if endless { usize::MAX } else { run.context.saturating_sub(prompt).saturating_add(1) };
        let generated = run.max_tokens.min(most);
        Self {
            passes: vec![Pass { prompt, decode: generated.saturating_sub(1), sequences: run.sequences }],
            ..Self::default()
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
    /// What may be held at most.
    #[serde(default)]
    pub walls: Walls,
    /// Choices without effect, a line each; filled in by the run, since they cost nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a step of a plan's walk stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// The buffers of an extent.
    Workspace(BatchShape),
    /// Cache rows of one sequence whose prompt has `prompt` tokens, from what `from` tokens seen need (nothing yet for
    /// `None`) to what `to` need.
    Rows {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens seen before.
        from: Option<usize>,
        /// Tokens seen after.
        to: usize,
    },
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
    /// Layer and KV head whose positions are kept to be shown.
    pub followed: Option<(usize, usize)>,
}

impl Resolved {
    /// Resolves `config` for a model stored as `stored`.
    ///
    /// # Errors
    /// A choice this shape forbids.
    pub fn new(config: &Config, stored: &ModelShape) -> Result<Self> {
        catalog::check_platform(config)?;
        let placement = schema::build(place::ENTRIES, "place.weights", &config.place.weights)?;
        let held = Formats::new(config)?.held(stored)?;
        let pipeline = Pipeline::new(config, &held)?;
        let followed = match &config.observe {
            Some(observe) => observe.kv_head(&held)?,
            None => None,
        };
        let gpu = config.gpu();
        if gpu.is_some() && config.run.engine == Engine::Ullage {
            gpu::check(config, &held)?;
        }
        Ok(Self { held, pipeline, placement, threads: config.threads(), gpu, followed })
    }

    /// Plans what was resolved, `config` for a model stored as `stored`: the same that then runs.
    ///
    /// # Errors
    /// What the placement forbids.
    pub fn plan(&self, config: &Config, stored: &ModelShape, workload: &Workload, machine: &Machine) -> Result<Plan> {
        let draft = draft(config, machine);
        self.walk(config, stored, workload, &draft, &mut |_| ())?;
        let own = time::times(stored, self, workload, config, machine);
        let time = if config.run.engine == Engine::Candle { guest::times(own, self, workload) } else { own };
        Ok(made(&draft, time, workload))
    }

    /// True when decoding may go on past `run.context`, because the cache never grows beyond it.
    pub fn endless(&self, prompt: usize) -> bool {
        self.pipeline.endless(prompt)
    }

    /// Weights and adapter, as they are loaded.
    fn load(&self, stored: &ModelShape, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
        let model = place::Model { stored, held: &self.held, threads: self.threads };
        match self.gpu {
            Some(_) => {
                gpu::plan_load(model, ledger, held)?;
                gpu::plan_adapter(&self.held, ledger, held)
            }
            None => {
                self.placement.plan(model, ledger, held)?;
                adapter::plan(&self.held, self.threads, ledger, held)
            }
        }
    }

    /// Reserves on `ledger`, in the run's order, all that the run will hold; `note` hears what each reservation of cache rows
    /// and each room stands for, before it is made.
    ///
    /// # Errors
    /// Over budget, where `ledger` has firm walls.
    fn walk(
        &self,
        config: &Config,
        stored: &ModelShape,
        workload: &Workload,
        ledger: &Arc<Ledger>,
        note: &mut dyn FnMut(Note),
    ) -> Result<()> {
        let mut held = files(workload, ledger, |w| w.output != Output::Dump)?;
        let dumps = || files(workload, ledger, |w| w.output == Output::Dump);
        if config.run.engine == Engine::Candle {
            held.extend(dumps()?);
            return guest::walk(self, config, stored, workload, ledger);
        }
        let p = &self.pipeline;
        self.load(stored, ledger, &mut held)?;
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
            let prompt = pass.prompt;
            let workspace = |e: BatchShape, note: &mut dyn FnMut(Note)| {
                note(Note::Workspace(e));
                match self.gpu {
                    Some(_) => gpu::plan_workspace(&self.held, &self.pipeline, e, ledger),
                    None => workspace::plan_workspace(&self.held, p, self.threads, e.with(config, i == 0), ledger),
                }
            };
            // A GPU's cache is one block; what finds rows there lies in its kernels' arguments.
            let tables = |at| if self.gpu.is_some() { 0 } else { p.sequence_tables(prompt, at) };
            let depths = [0, prompt, seen].map(|at| (at, [p.sequence_bytes(prompt, at), tables(at)]));
            let grow = |from: Option<usize>, to: usize, note: &mut dyn FnMut(Note)| -> Result<_> {
                note(Note::Rows { prompt, from, to });
                // Every sequence grows by the same steps: each depth is computed once, however many they are.
                let bytes = |at: usize| depths.iter().find(|(d, _)| *d == at).map_or([0; 2], |(_, bytes)| *bytes);
                let (to, from) = (bytes(to), from.map_or([0; 2], bytes));
                Ok([ledger.reserve(ROWS, to[0] - from[0])?, ledger.reserve(TABLES, to[1] - from[1])?])
            };
            let trail = || {
                let followed = self.followed.filter(|_| i == 0);
                followed.map(|(l, h)| ledger.reserve(TRAIL, p.trail_bytes(l, h, prompt))).transpose()
            };
            ledger.enter(Phase::Prefill);
            if i == 0 {
                held.extend(dumps()?);
            }
            let prefill = workspace(Forward::prefill_shape(p, prompt, config.run.batch), note)?;
            let empty = grow(None, 0, note)?;
            let mut trails = vec![trail()?];
            let stages = p.stages(prompt);
            let staging = ledger.reserve(STAGING, if stages { p.staging_bytes(prompt) } else { 0 })?;
            let listed = stages && self.gpu.is_none();
            let staging = (staging, ledger.reserve(TABLES, if listed { p.staging_tables(prompt) } else { 0 })?);
            let mut cache = vec![empty, grow(Some(0), prompt, note)?];
            drop((staging, prefill));
            if pass.decode > 0 {
                ledger.enter(Phase::Decode);
                for _ in 1..pass.sequences {
                    cache.push(grow(None, prompt, note)?);
                    trails.push(trail()?);
                }
                let extent = Forward::decode_shape(p, &self.held, pass.prompt, seen, pass.sequences);
                let _decode = workspace(extent, note)?;
                for _ in 0..pass.sequences {
                    cache.push(grow(Some(prompt), seen, note)?);
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
    let Some(train) = &config.train else {
        return Resolved::new(config, stored)?.plan(config, stored, workload, machine);
    };
    catalog::check_platform(config)?;
    let draft = draft(config, machine);
    let spent = walk_training(config, stored, workload, &draft, time::rates(config, machine))?;
    Ok(made(&draft, time::training(stored, train, spent, machine), workload))
}

/// Walks a training and what it writes: states while it learns, one beside the one that it takes the place of, and what is exported
/// at its end.
fn walk_training(
    config: &Config,
    stored: &ModelShape,
    workload: &Workload,
    ledger: &Arc<Ledger>,
    rates: Option<Rates>,
) -> Result<Spent> {
    let exported = |w: &Written| matches!(w.output, Output::Adapter | Output::Model);
    let _held = files(workload, ledger, |w| !exported(w))?;
    let beside = files(workload, ledger, |w| w.replaced)?;
    let spent = train::plan::walk(config, stored, ledger, rates)?;
    drop(beside);
    files(workload, ledger, exported)?;
    Ok(spent)
}

/// Reserves those files of `workload` that are `wanted`.
fn files(workload: &Workload, ledger: &Arc<Ledger>, wanted: impl Fn(&Written) -> bool) -> Result<Vec<Reservation>> {
    let wanted = workload.files.iter().filter(|w| wanted(w));
    wanted.map(|w| ledger.reserve(w.output.tag(), w.bytes())).collect()
}

/// An account without walls that remembers where those of `config` would have been crossed.
fn draft(config: &Config, machine: &Machine) -> Arc<Ledger> {
    Ledger::draft(walls(config, machine), false)
}

/// The plan of what was reserved on `draft`.
fn made(draft: &Ledger, time: Times, workload: &Workload) -> Plan {
    let bytes = draft.measured();
    // What it needs in all, not only up to the first refusal.
    let over = draft.first_crossing().map(|over| {
        let needed = bytes.tiers.get(&over.tier).map_or(over.needed, |a| a.peak);
        OverBudget { needed, ..over }
    });
    Plan { bytes, time, workload: workload.clone(), over, walls: draft.walls(), notes: Vec::new() }
}

impl Plan {
    /// Peak of a tier.
    pub fn peak(&self, tier: Tier) -> u64 {
        self.bytes.tiers.get(&tier).map_or(0, |a| a.peak)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::error::Error;
    use crate::model::random;

    /// The shape of a random model, such as `smollm2-135m@q4_0`.
    pub(crate) fn shape(spec: &str) -> ModelShape {
        random::shape(&random::parse(&format!("random:{spec}")).unwrap().unwrap()).unwrap()
    }

    /// Generating from `prompt` tokens as `config` says.
    pub(crate) fn workload(config: &Config, prompt: usize) -> Workload {
        Workload::generate(config, prompt, false)
    }

    /// Models, configurations and workloads that differ in everything a plan depends on.
    pub(crate) fn matrix() -> Vec<(ModelShape, Config, Workload)> {
        let models = ["smollm2-135m@q4_1", "smollm2-135m@f16", "llama-1b@q4_k", "llama-8b@q8_0"].map(shape);
        let choices: [&[&[(&str, &str)]]; 5] = [
            &[
                &[],
                &[("kv.alloc", "paged")],
                &[("kv.select", "window"), ("kv.budget.rows", "90")],
                &[("kv.select", "h2o"), ("kv.budget.ratio", "0.2"), ("kv.alloc", "paged")],
                &[("kv.select", "h2o"), ("kv.budget.bytes", "9 MiB"), ("kv.alloc", "{ use = \"paged\", block = 7 }")],
            ],
            &[&[], &[("kv.format.k", "q8_0"), ("kv.format.v", "q4_0")]],
            &[
                &[],
                &[("place.weights", "{ use = \"stream\", from = \"host\" }")],
                &[("place.weights", "stream"), ("run.batch", "16")],
                &[("weights.format", "q5_0")],
                &[("weights.format", "nf4")],
            ],
            &[&[], &[("run.sequences", "3"), ("run.sampling.temperature", "1"), ("observe.bins", "32")]],
            &[&[("run.context", "333")]],
        ];
        let mut sets: Vec<Vec<(String, String)>> = vec![Vec::new()];
        for axis in choices {
            sets = sets
                .iter()
                .flat_map(|base| {
                    axis.iter().map(|more| {
                        let more = more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                        base.iter().cloned().chain(more).collect()
                    })
                })
                .collect();
        }
        sets.push(vec![("machine.device".into(), "cuda:0".into())]);
        sets.push(vec![("machine.device".into(), "cuda:0".into()), ("weights.format".into(), "q8_0".into())]);
        let mut out = Vec::new();
        for (i, set) in sets.iter().enumerate() {
            let config = from_toml("", set).unwrap();
            // Each with two of the models, so that every model meets every choice of each axis.
            for shape in [&models[i % 4], &models[(i / 4 + i + 1) % 4]] {
                let mut workload = workload(&config, [1, 40, 200, 300][(i / 3) % 4]);
                if i % 4 == 0 {
                    let rows = [(7, "rows"), (shape.vocab as u64, "tokens of the vocabulary"), (4, "B")];
                    workload.files.push(Written::new(Output::Dump, &[&rows, &[(1032, "B header")]]));
                    workload.files.push(Written::new(Output::Dump, &[&rows]));
                    workload.files.push(Written::new(Output::Reference, &[&rows]));
                    workload.files.push(Written::new(Output::Folder, &[&[(99, "B")]]));
                }
                if i % 5 == 0 {
                    workload.passes.push(Pass { prompt: 64, decode: 9, sequences: 1 });
                    workload.passes.push(Pass { prompt: 250, decode: 0, sequences: 1 });
                    workload.reference = i % 2 == 0;
                }
                out.push((shape.clone(), config.clone(), workload));
            }
        }
        out
    }

    #[test]
    fn a_plan_over_budget_says_what_a_firm_account_would_refuse() {
        let machine = Machine::default_guess();
        let mut refused = 0;
        for (i, (shape, mut config, workload)) in matrix().into_iter().enumerate() {
            let whole = plan(&shape, &workload, &config, &machine).unwrap();
            assert_eq!(whole.over, None);
            let peak = whole.peak(Tier::Device);
            for share in [0.05, 0.5, 0.999, 1.0] {
                let budget = (peak as f64 * share) as u64;
                config.budget.device.0 = budget;
                config.budget.host.0 = if i % 3 == 0 { whole.peak(Tier::Host) / 2 } else { u64::MAX };
                let planned = plan(&shape, &workload, &config, &machine).unwrap();
                assert_eq!(planned.bytes, whole.bytes, "budgets change no byte");
                let firm = Ledger::new(budget, config.budget.host.0, u64::MAX);
                let resolved = Resolved::new(&config, &shape).unwrap();
                match (resolved.walk(&config, &shape, &workload, &firm, &mut |_| ()), planned.over) {
                    (Ok(()), None) => {}
                    (Err(Error::OverBudget(first)), Some(over)) => {
                        assert_eq!(OverBudget { needed: whole.peak(over.tier), ..*first }, over);
                        refused += 1;
                    }
                    (walked, over) => panic!("{walked:?} but {over:?}"),
                }
            }
        }
        assert!(refused > 300, "{refused}");
    }
}
