//! Makes reference logits: those of the model as opened with nothing compressed, computed once and kept in the cache folder, under
//! a name that its numbers are part of ([`Model::content`](crate::model::Model::content)).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::backend::{Backend, Cpu};
use super::{Event, EventSender, Order};
use crate::atomic_write::Pending;
use crate::config::{Compute, Config, PerKv};
use crate::error::{Error, Result};
use crate::eval::{Case, Prepared, reference::File};
use crate::forward::cpu::{Forward, Unwatched, Workspace};
use crate::ledger::files::{Output, Written, writing};
use crate::ledger::{Ledger, Tier};
use crate::machine;
use crate::model::Model;
use crate::ops::ThreadTeam;
use crate::plan::{self, Pass, Resolved, Workload};

/// Makes or finds the reference of every task that compares, under the same budgets as the run: nothing is compressed, and
/// where the whole model does not fit it is streamed, which gives the same bits.
pub(crate) fn ensure(order: &Order, tasks: &mut [Prepared], team: &ThreadTeam, tell: &mut EventSender) -> Result<()> {
    for task in tasks {
        let Some(file) = &mut task.reference else { continue };
        let path = place(file, &order.model, &order.config)?;
        if !whole(&path, rows(&task.cases), &order.model) {
            let dir = folder();
            fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, "cannot make the folder for reference logits", &e))?;
            // The name says what is in it: two who make it at once make the same.
            writing(Output::Reference, || make(order, &task.cases, &path, team, tell))?;
        }
        let open = fs::File::open(&path).map_err(|e| Error::io(&path, "cannot open reference logits", &e))?;
        file.open(path, open);
    }
    Ok(())
}

/// What [`ensure`] will write for `task`: nothing for one that compares with nothing, or whose file is there already.
///
/// # Errors
/// A model file that was removed or shortened.
pub(crate) fn missing(task: &Prepared, model: &Model, config: &Config) -> Result<Option<Written>> {
    let Some(file) = &task.reference else { return Ok(None) };
    let rows = rows(&task.cases);
    let sum: [(u64, &str); 3] =
        [(rows as u64, "forced tokens"), (model.shape.vocab as u64, "tokens of the vocabulary"), (4, "B")];
    let there = whole(&place(file, model, config)?, rows, model);
    Ok((!there).then(|| Written::new(Output::Reference, &[&sum])))
}

fn folder() -> PathBuf {
    machine::cache_dir().join("reference")
}

/// Where the logits of these cases are kept.
fn place(file: &File, model: &Model, config: &Config) -> Result<PathBuf> {
    let mut key = Sha256::new();
    key.update(file.key());
    key.update(model.content()?);
    key.update(match config.compute() {
        Compute::Auto | Compute::Exact => "exact-1",
        Compute::Int8 => "int8-2",
        Compute::Half => "half-1",
    });
    Ok(folder().join(format!("{}.f32", crate::bytes::hex(&key.finalize()))))
}

/// Forced tokens of all cases.
fn rows(cases: &[Case]) -> usize {
    cases.iter().map(|c| c.forced.len()).sum()
}

/// Whether a file of so many rows is there.
fn whole(path: &Path, rows: usize, model: &Model) -> bool {
    fs::metadata(path).is_ok_and(|m| m.len() == (rows * 4 * model.shape.vocab) as u64)
}

/// The configuration of the reference: the run's budgets, threads, batch and arithmetic, nothing compressed.
fn uncompressed(order: &Order, context: usize) -> Config {
    let mut config =
        Config { model: order.config.model.clone(), machine: order.config.machine.clone(), ..Config::default() };
    config.machine.device = "cpu".into();
    config.budget = order.config.budget.clone();
    config.kv.format = PerKv::both("f32");
    config.kv.alloc = "paged".into();
    config.run.context = context;
    config.run.batch = order.config.run.batch;
    config.run.compute = match order.config.compute() {
        Compute::Half => Compute::Exact,
        compute => compute,
    };
    config
}

fn make(order: &Order, cases: &[Case], path: &Path, team: &ThreadTeam, tell: &mut EventSender) -> Result<()> {
    let shape = &order.model.shape;
    let context = cases.iter().map(Case::tokens).max().unwrap_or(1);
    let passes =
        cases.iter().map(|c| Pass { prompt: c.prompt.len(), decode: c.forced.len() - 1, sequences: 1 }).collect();
    let workload = Workload { passes, ..Workload::default() };
    let mut config = uncompressed(order, context);
    let mut resolved = Resolved::new(&config, shape)?;
    let mut planned = resolved.plan(&config, shape, &workload, &order.machine)?;
    if planned.over.is_some() {
        config.place.weights = "stream".into();
        resolved = Resolved::new(&config, shape)?;
        planned = resolved.plan(&config, shape, &workload, &order.machine)?;
    }
    if let Some(mut over) = planned.over {
        over.name = format!("the uncompressed reference of eval.fidelity ({})", over.name);
        over.hint = Some(format!(
            "run it once with --set budget.device='{} B' to save the reference",
            planned.bytes.tiers.get(&Tier::Device).map_or(0, |a| a.peak)
        ));
        return Err(Error::OverBudget(Box::new(over)));
    }
    let ledger = Ledger::within(plan::walls(&config, &order.machine));
    let mut forward = Cpu.load(&order.model, resolved, &ledger, team, &mut |_| ())?;
    let io = |e: std::io::Error| Error::io(path, "cannot write reference logits", &e);
    let mut new = Pending::begin(path, 32 << 10)?;
    let total: usize = cases.iter().map(|c| c.forced.len()).sum();
    let (start, mut done) = (Instant::now(), 0);
    for case in cases {
        let extent = Forward::prefill_shape(&forward.pipeline, case.prompt.len(), config.run.batch);
        let mut first = forward.workspace(team.threads(), extent.with(&config, false))?;
        let mut seqs = [forward.sequence(case.prompt.len())?];
        forward.prefill(&mut seqs[0], &case.prompt, &mut first, team, &mut Unwatched)?;
        let vocab = forward.shape.vocab;
        let (mut first, mut decode) = (Some(first), None::<Workspace>);
        for step in 0..case.forced.len() {
            if step > 0 {
                first = None;
                let workspace = match &mut decode {
                    Some(workspace) => workspace,
                    none => {
                        let extent =
                            Forward::decode_shape(&forward.pipeline, &forward.shape, case.prompt.len(), case.read(), 1);
                        none.insert(forward.workspace(team.threads(), extent.with(&config, false))?)
                    }
                };
                forward.decode(&mut seqs, &case.forced[step - 1..step], workspace, team, &mut Unwatched)?;
            }
            let Some(workspace) = decode.as_ref().or(first.as_ref()) else { continue };
            let logits = workspace.logits(0, vocab);
            new.out().write_all(bytemuck::cast_slice(logits)).map_err(io)?;
            done += 1;
            let left = start.elapsed().as_secs_f64() / done as f64 * (total - done) as f64;
            tell.snapshot(Event::Progress {
                done: done as u64,
                total: total as u64,
                seconds_left: left,
                what: "reference logits".into(),
            });
        }
    }
    new.commit(|_| Ok(()))
}
