//! Speed at several depths, in llama-bench's shape: prefill `tokens`, and decode `steps` one by one, each after `depth`
//! tokens are in the cache; one warm-up, then repeats; tokenizing and sampling left out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;

use super::backend::{Backend, Cpu};
use crate::catalog;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::eval::metrics::mean;
use crate::forward::cpu::{BatchShape, Stage, Unwatched};
use crate::forward::runner::Runner as _;
use crate::ledger::alloc::{self, Scope};
use crate::ledger::{Category, Ledger, Phase, Tag};
use crate::machine::Machine;
use crate::model::Model;
use crate::ops::ThreadTeam;
use crate::plan::{Pass, Resolved, Workload, plan};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Tokens in the cache before each measurement.
    pub depths: Vec<usize>,
    /// Tokens prefilled.
    pub tokens: usize,
    /// Tokens decoded.
    pub steps: usize,
    /// Measured repeats after one warm-up.
    pub repeats: usize,
}

/// One depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Tokens in the cache before.
    pub depth: usize,
    /// Mean over the repeats.
    pub prefill_tokens_per_second: f64,
    /// Standard deviation.
    pub prefill_sd: f64,
    /// Mean over the repeats.
    pub decode_tokens_per_second: f64,
    /// Standard deviation.
    pub decode_sd: f64,
    /// Bytes of weights and cache read for one token.
    pub decode_bytes: u64,
    /// Those bytes at the decoding speed, over the probed bandwidth of memory; none when not probed.
    pub bandwidth_fraction: Option<f64>,
    /// Reservations, releases and moves counted for one decoded token.
    pub ledger_operations: f64,
    /// Their share of the decoding time, each as long as it takes in this process.
    pub ledger_share: f64,
}

/// Seconds of one operation of `ledger`: the mean of many reservations and releases.
fn operation_seconds(ledger: &Arc<Ledger>) -> Result<f64> {
    const TAG: Tag = Tag::device(Category::Workspace, "ledger cost");
    let (before, start) = (ledger.operations(), Instant::now());
    for _ in 0..10_000 {
        drop(std::hint::black_box(ledger.reserve(TAG, 0)?));
    }
    Ok(start.elapsed().as_secs_f64() / (ledger.operations() - before) as f64)
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let (m, se) = mean(values);
    (m, se * (values.len() as f64).sqrt())
}

/// [`run`] on one device whose memory gives `read` bytes a second, where that is known.
fn measure<B: Backend>(
    backend: B,
    resolved: Resolved,
    read: Option<f64>,
    model: &Model,
    config: &Config,
    machine: &Machine,
    spec: &Spec,
    cancel: &Arc<AtomicBool>,
    told: &mut dyn FnMut(&Point),
) -> Result<Vec<Point>> {
    if resolved.pipeline.seals() {
        return Err(Error::refused(
            "bench",
            "it goes back and forth in the cache, and this kv.format or kv.channels seals older rows for good; measure with `run` instead",
        ));
    }
    let budget = &config.budget;
    let ledger = Ledger::new(budget.device.0, budget.host.0, budget.disk.0);
    let team = ThreadTeam::with_cancel(resolved.threads, Arc::clone(cancel))?;
    let mut forward = backend.load(model, resolved, &ledger, &team, &mut |_| ())?;
    let vocab = forward.shape().vocab;
    let ids: Vec<u32> = (0..config.run.context).map(|i| ((i * 7919 + 13) % vocab) as u32).collect();
    let mut points = Vec::new();
    for depth in &spec.depths {
        let mut seqs = [forward.sequence(*depth + spec.tokens)?];
        let (compute, rows) = (config.run.compute, config.run.context);
        let extent = |batch: usize| {
            let stage = if batch == 1 { Stage::Step } else { Stage::Read };
            BatchShape { batch, stream: batch, rows, sequences: 1, compute, observe: false, map: false, stage }
        };
        ledger.enter(Phase::Prefill);
        let mut workspace = forward.workspace(&team, extent(config.run.batch))?;
        if *depth > 0 {
            forward.extend(&mut seqs[0], &ids[..*depth], false, &mut workspace, &team, &mut Unwatched)?;
        }
        let mut prefill = Vec::new();
        for repeat in 0..=spec.repeats {
            let start = Instant::now();
            forward.extend(
                &mut seqs[0],
                &ids[*depth..*depth + spec.tokens],
                true,
                &mut workspace,
                &team,
                &mut Unwatched,
            )?;
            let seconds = start.elapsed().as_secs_f64();
            if repeat > 0 {
                prefill.push(spec.tokens as f64 / seconds);
            }
            forward.truncate(&mut seqs[0], *depth);
        }
        drop(workspace);
        ledger.enter(Phase::Decode);
        let mut workspace = forward.workspace(&team, extent(1))?;
        let mut decode = Vec::new();
        let before = ledger.operations();
        for repeat in 0..=spec.repeats {
            let start = Instant::now();
            for step in 0..spec.steps {
                forward.decode(&mut seqs, &ids[depth + step..=depth + step], &mut workspace, &team, &mut Unwatched)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            if repeat > 0 {
                decode.push(spec.steps as f64 / seconds);
            }
            forward.truncate(&mut seqs[0], *depth);
        }
        let operations = (ledger.operations() - before) as f64 / (spec.steps * (spec.repeats + 1)) as f64;
        let workload =
            Workload { passes: vec![Pass { prompt: *depth, decode: spec.steps, sequences: 1 }], reference: false };
        let decode_bytes = plan(&model.shape, &workload, config, machine)?.time.decode_bytes;
        let ((p, p_sd), (d, d_sd)) = (mean_sd(&prefill), mean_sd(&decode));
        let point = Point {
            depth: *depth,
            prefill_tokens_per_second: p,
            prefill_sd: p_sd,
            decode_tokens_per_second: d,
            decode_sd: d_sd,
            decode_bytes,
            bandwidth_fraction: read.map(|read| d * decode_bytes as f64 / read),
            ledger_operations: operations,
            ledger_share: operations * operation_seconds(&ledger)? * d,
        };
        told(&point);
        points.push(point);
    }
    Ok(points)
}

/// Measures `spec` on `model` with the cache and placement of `config`. `told` hears of each finished depth.
///
/// # Errors
/// What a run may meet; a cache that drops rows is refused, because depth would mean nothing.
pub fn run(
    model: &Model,
    config: &Config,
    machine: &Machine,
    spec: &Spec,
    cancel: &Arc<AtomicBool>,
    told: &mut dyn FnMut(&Point),
) -> Result<Vec<Point>> {
    let deepest = spec.depths.iter().copied().max().unwrap_or(0);
    let mut config = config.clone();
    config.run.context = deepest + spec.tokens.max(spec.steps) + 1;
    catalog::check(&config)?;
    if spec.tokens == 0 || spec.steps == 0 || spec.repeats == 0 || spec.depths.is_empty() {
        return Err(Error::config("bench", "depths, tokens, steps and repeats: at least one of each"));
    }
    alloc::scoped(Scope::Engine, || {
        let resolved = Resolved::new(&config, &model.shape)?;
        if !resolved.pipeline.select.keeps_all() {
            return Err(Error::refused(
                format!("kv.select = {}", config.kv.select.id),
                "bench measures depth, so every token must stay",
            ));
        }
        match resolved.gpu {
            #[cfg(feature = "cuda")]
            Some(ordinal) => {
                let backend = super::backend::Cuda::open(ordinal, &config)?;
                let read = machine.gpus.get(ordinal).map(|g| g.read);
                measure(backend, resolved, read, model, &config, machine, spec, cancel, told)
            }
            #[cfg(not(feature = "cuda"))]
            Some(_) => Err(Error::refused(
                format!("machine.device = {}", config.machine.device),
                "this build computes on the CPU; build with `--features cuda` for a GPU",
            )),
            None => {
                let read = machine.probed.then(|| machine.speed.read[usize::from(resolved.threads > 1)]);
                measure(Cpu, resolved, read, model, &config, machine, spec, cancel, told)
            }
        }
    })
}
