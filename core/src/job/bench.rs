//! Speed at several depths, in llama-bench's shape: prefill `tokens`, and decode `steps` one by one, each after `depth`
//! tokens are in the cache; one warm-up, then repeats; tokenizing and sampling left out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;

use super::backend::{Backend, Cpu};
use crate::catalog;
use crate::config::{Config, Engine};
use crate::error::{Error, Result};
use crate::eval::metrics::mean;
use crate::forward::cpu::{BatchShape, Sequence, Stage, Unwatched};
use crate::forward::runner::Runner;
use crate::ledger::alloc::{self, Scope};
use crate::ledger::{Category, Ledger, Phase, Tag};
use crate::machine::Machine;
use crate::model::Model;
use crate::ops::ThreadTeam;
use crate::ops::gpu::KernelTime;
use crate::plan::{Pass, Resolved, Workload, plan, walls};

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
    /// Kernels of one decoding step, timed one by one by the device's events, the longest first; empty on a CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decode_kernels: Vec<KernelTime>,
    /// Of reading the prompt once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefill_kernels: Vec<KernelTime>,
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

/// What is measured, on one device whose memory gives `read` bytes a second, where that is known.
struct Bench<'a> {
    model: &'a Model,
    config: &'a Config,
    machine: &'a Machine,
    spec: &'a Spec,
    read: Option<f64>,
    cancel: &'a Arc<AtomicBool>,
}

impl Bench<'_> {
    /// Every depth in turn.
    fn measure<B: Backend>(&self, backend: B, resolved: Resolved, told: &mut dyn FnMut(&Point)) -> Result<Vec<Point>> {
        if resolved.pipeline.seals() {
            return Err(Error::refused(
                "bench",
                "it goes back and forth in the cache, and this kv.format or kv.channels seals older rows for good; measure with `run` instead",
            ));
        }
        let ledger = Ledger::within(walls(self.config, &Machine::default_guess()));
        let team = ThreadTeam::with_cancel(resolved.threads, Arc::clone(self.cancel))?;
        let forward = backend.load(self.model, resolved, &ledger, &team, &mut |_| ())?;
        let vocab = forward.shape().vocab;
        let ids: Vec<u32> = (0..self.config.run.context).map(|i| ((i * 7919 + 13) % vocab) as u32).collect();
        let mut loaded = Loaded { forward, ledger, team, ids, config: self.config, spec: self.spec };
        let mut points = Vec::new();
        for depth in &self.spec.depths {
            let point = self.point(&mut loaded, *depth)?;
            told(&point);
            points.push(point);
        }
        Ok(points)
    }

    /// Prefill and decode after `depth` tokens.
    fn point<R: Runner>(&self, loaded: &mut Loaded<'_, R>, depth: usize) -> Result<Point> {
        let sequences = self.config.run.sequences;
        let mut seqs = Vec::with_capacity(sequences);
        for _ in 0..sequences {
            seqs.push(loaded.forward.sequence(depth + self.spec.tokens)?);
        }
        let (prefill, prefill_kernels) = loaded.prefill(&mut seqs[0], depth)?;
        let (prefill, prefill_sd) = mean_sd(&prefill);
        loaded.forward.fork(&mut seqs)?;
        let (decode, operations, decode_kernels) = loaded.decode(&mut seqs, depth)?;
        let (decode, decode_sd) = mean_sd(&decode);
        let passes = vec![Pass { prompt: depth, decode: self.spec.steps, sequences }];
        let workload = Workload { passes, ..Workload::default() };
        let decode_bytes = plan(&self.model.shape, &workload, self.config, self.machine)?.time.decode_bytes;
        Ok(Point {
            depth,
            prefill_tokens_per_second: prefill,
            prefill_sd,
            decode_tokens_per_second: decode,
            decode_sd,
            decode_bytes,
            bandwidth_fraction: self.read.map(|read| decode / sequences as f64 * decode_bytes as f64 / read),
            ledger_operations: operations,
            ledger_share: operations * operation_seconds(&loaded.ledger)? * decode / sequences as f64,
            decode_kernels,
            prefill_kernels,
        })
    }
}

/// The model where it computes, and the tokens it is given.
struct Loaded<'a, R> {
    forward: R,
    ledger: Arc<Ledger>,
    team: ThreadTeam,
    ids: Vec<u32>,
    config: &'a Config,
    spec: &'a Spec,
}

impl<R: Runner> Loaded<'_, R> {
    /// The buffers of passes of `batch` tokens of so many sequences.
    fn workspace(&self, batch: usize, sequences: usize, stage: Stage) -> Result<R::Workspace> {
        let (compute, rows) = (self.config.compute(), self.config.run.context);
        let extent = BatchShape { batch, stream: batch, rows, sequences, compute, observe: false, map: false, stage };
        self.forward.workspace(&self.team, extent)
    }

    /// Fills the cache to `depth`, then tokens a second of each repeat of reading `spec.tokens` more, and what kernels took in one; the cache
    /// is at `depth` in the end.
    fn prefill(&mut self, seq: &mut Sequence<R::Layer>, depth: usize) -> Result<(Vec<f64>, Vec<KernelTime>)> {
        self.ledger.enter(Phase::Prefill);
        let mut workspace = self.workspace(self.config.run.batch, 1, Stage::Read)?;
        let Self { forward, team, ids, spec, .. } = self;
        if depth > 0 {
            forward.extend(seq, &ids[..depth], false, &mut workspace, team, &mut Unwatched)?;
        }
        let mut speeds = Vec::new();
        for repeat in 0..=spec.repeats {
            let start = Instant::now();
            forward.extend(seq, &ids[depth..depth + spec.tokens], true, &mut workspace, team, &mut Unwatched)?;
            let seconds = start.elapsed().as_secs_f64();
            if repeat > 0 {
                speeds.push(spec.tokens as f64 / seconds);
            }
            forward.truncate(seq, depth);
        }
        forward.time_kernels();
        forward.extend(seq, &ids[depth..depth + spec.tokens], true, &mut workspace, team, &mut Unwatched)?;
        forward.truncate(seq, depth);
        Ok((speeds, forward.kernel_times()?))
    }

    /// Tokens a second of all sequences in each repeat of `spec.steps` steps after `depth` tokens, operations of the ledger for each step,
    /// and what kernels took in one.
    fn decode(&mut self, seqs: &mut [Sequence<R::Layer>], depth: usize) -> Result<(Vec<f64>, f64, Vec<KernelTime>)> {
        self.ledger.enter(Phase::Decode);
        let mut workspace = self.workspace(seqs.len(), seqs.len(), Stage::Step)?;
        let Self { forward, ledger, team, ids, spec, .. } = self;
        let mut speeds = Vec::new();
        let before = ledger.operations();
        for repeat in 0..=spec.repeats {
            let start = Instant::now();
            for step in 0..spec.steps {
                let tokens = vec![ids[depth + step]; seqs.len()];
                forward.decode(seqs, &tokens, &mut workspace, team, &mut Unwatched)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            if repeat > 0 {
                speeds.push((spec.steps * seqs.len()) as f64 / seconds);
            }
            seqs.iter_mut().for_each(|seq| forward.truncate(seq, depth));
        }
        let operations = (ledger.operations() - before) as f64 / (spec.steps * (spec.repeats + 1)) as f64;
        let tokens = vec![ids[depth]; seqs.len()];
        forward.time_kernels();
        forward.decode(seqs, &tokens, &mut workspace, team, &mut Unwatched)?;
        seqs.iter_mut().for_each(|seq| forward.truncate(seq, depth));
        Ok((speeds, operations, forward.kernel_times()?))
    }
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
    if config.run.engine != Engine::Ullage {
        return Err(Error::refused(
            "run.engine = candle",
            "bench measures the cache's depth, and candle keeps no cache",
        ));
    }
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
        let bench = |read| Bench { model, config: &config, machine, spec, read, cancel };
        match resolved.gpu {
            #[cfg(feature = "cuda")]
            Some(ordinal) => {
                let backend = super::backend::Cuda::open(ordinal, &config)?;
                let read = machine.gpus.get(ordinal).map(|g| g.read);
                bench(read).measure(backend, resolved, told)
            }
            #[cfg(not(feature = "cuda"))]
            Some(_) => Err(Error::refused(
                format!("machine.device = {}", config.machine.device),
                "this build computes on the CPU; build with `--features cuda` for a GPU",
            )),
            None => {
                let read = machine.probed.then(|| machine.speed.read[usize::from(resolved.threads > 1)]);
                bench(read).measure(Cpu, resolved, told)
            }
        }
    })
}
