//! Our engine held against candle on the same tokens: logits at every position, and on request the residual stream after
//! every layer. candle shares nothing with it but the block decoders and the order of a layer's operations.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;

use super::backend::{Backend, Cpu};
use super::candle;
use crate::catalog;
use crate::config::{Compute, Config, Engine, Kv, PerKv, Place};
use crate::device::{Buf, Device};
use crate::error::{Error, Result};
use crate::eval::agreement::{self, Agreement, Tolerance, relative_difference};
use crate::forward::cpu::{BatchShape, PassObserver, Stage, Unwatched};
use crate::forward::runner::Runner as _;
use crate::ledger::alloc::{self, Scope};
use crate::ledger::{Category, Ledger, Tag};
use crate::machine::Machine;
use crate::model::Model;
use crate::model::text::Words;
use crate::ops::ThreadTeam;
use crate::plan::{Resolved, walls};
use crate::weights::format::Formats;

/// Logits of one side, `(tokens, vocab)`.
const LOGITS: Tag = Tag::device(Category::Logits, "logits of every position");
/// Residual streams of one side.
const STREAMS: Tag = Tag::device(Category::Activations, "residual streams");

/// Most that a layer's residual stream may differ by, as a fraction of its largest element.
pub const LAYER_TOLERANCE: f64 = 1e-3;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Tokens read: those of the prompt, and of the evaluation text after it.
    pub tokens: usize,
    /// Whether residual streams are compared too.
    pub layers: bool,
    /// candle's device.
    pub device: String,
}

/// How the two sides compare.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The model that our engine ran.
    pub model: String,
    /// The model that candle ran.
    pub reference: String,
    /// Where our engine computed.
    pub device: String,
    /// Where candle computed.
    pub reference_device: String,
    /// Logits.
    pub logits: Agreement,
    /// What they may differ by.
    pub tolerance: Tolerance,
    /// The largest relative difference of the residual stream after each layer, where asked for; `infinite` where a value is no
    /// number.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "crate::number::list")]
    pub layers: Vec<f64>,
    /// What that may be.
    pub layer_tolerance: f64,
    /// Bytes of candle's guest row: the bound that was reserved.
    pub guest_reserved: u64,
    /// Most bytes that candle held, as the allocator counted them; 0 where the program does not count.
    pub guest_held: u64,
    /// Seconds of our engine, without loading.
    pub seconds: f64,
    /// Seconds of candle, without loading.
    pub reference_seconds: f64,
    /// What is beyond the tolerances, a line each.
    pub beyond: Vec<String>,
}

impl Verified {
    /// True when nothing is beyond the tolerances.
    pub fn agrees(&self) -> bool {
        self.beyond.is_empty()
    }
}

/// The configuration of our side: the full cache in f32, nothing shown, one sequence.
fn ours(config: &Config, tokens: usize) -> Config {
    let mut config = config.clone();
    config.kv = Kv { format: PerKv::both("f32"), ..Kv::default() };
    (config.observe, config.train) = (None, None);
    config.eval.clear();
    config.run.engine = Engine::Ullage;
    (config.run.sequences, config.run.max_tokens) = (1, 0);
    config.run.context = tokens + 1;
    config
}

/// The configuration of candle's: our side's model on `device`.
fn theirs(config: &Config, device: &str) -> Config {
    let mut config = config.clone();
    config.run.engine = Engine::Candle;
    config.run.compute = Compute::Exact;
    config.place = Place::default();
    config.machine.device = device.to_owned();
    config
}

/// The tokens that both sides read.
fn tokens(model: &Model, config: &Config, n: usize) -> Result<Vec<u32>> {
    let words = Words::of(model)?;
    let mut ids = words.prompt(config)?;
    if ids.len() < n && words.tokenizer.is_some() {
        ids.extend(words.encode(crate::eval::TEXT, false)?);
    } else if ids.len() < n {
        let mut longer = config.clone();
        longer.run.prompt = format!("tokens:{n}");
        ids = words.prompt(&longer)?;
    }
    ids.truncate(n);
    let context = model.shape.context;
    if ids.is_empty() || ids.len() > context {
        return Err(Error::config(
            "--tokens",
            format!("`{n}` is not allowed; from 1 to {context}, what the model was trained for"),
        ));
    }
    Ok(ids)
}

/// Copies residual streams as they come.
struct Streams<'a> {
    /// `(layers, tokens, hidden)`.
    out: &'a mut [f32],
}

impl PassObserver for Streams<'_> {
    fn residual(&mut self, layer: usize, x: &[f32]) {
        if let Some(out) = self.out.get_mut(layer * x.len()..(layer + 1) * x.len()) {
            out.copy_from_slice(x);
        }
    }
}

/// Our side: logits token by token into `logits`, then residual streams of all tokens at once into `streams`.
fn run_ours<B: Backend>(
    backend: B,
    (model, config): (&Model, &Config),
    ids: &[u32],
    (ledger, team): (&Arc<Ledger>, &ThreadTeam),
    logits: &mut [f32],
    streams: Option<&mut [f32]>,
) -> Result<f64> {
    let mut runner = backend.load(model, Resolved::new(config, &model.shape)?, ledger, team, &mut |_| ())?;
    let (start, vocab, n) = (Instant::now(), runner.shape().vocab, ids.len());
    let extent = |batch: usize, stage: Stage| BatchShape {
        batch,
        stream: batch,
        rows: n,
        sequences: 1,
        compute: config.compute(),
        observe: false,
        map: false,
        stage,
    };
    {
        let mut seqs = [runner.sequence(n)?];
        let mut workspace = runner.workspace(team, extent(1, Stage::Step))?;
        for (id, out) in ids.iter().zip(logits.chunks_exact_mut(vocab)) {
            runner.decode(&mut seqs, &[*id], &mut workspace, team, &mut Unwatched)?;
            out.copy_from_slice(runner.logits(&workspace, 0));
        }
    }
    if let Some(out) = streams {
        let mut seq = runner.sequence(n)?;
        let mut workspace = runner.workspace(team, extent(n, Stage::Read))?;
        runner.extend(&mut seq, ids, true, &mut workspace, team, &mut Streams { out })?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Our side on the device of its configuration.
fn run_ours_on(
    both: (&Model, &Config),
    ids: &[u32],
    at: (&Arc<Ledger>, &ThreadTeam),
    logits: &mut [f32],
    streams: Option<&mut [f32]>,
) -> Result<f64> {
    let config = both.1;
    match config.gpu() {
        None => run_ours(Cpu, both, ids, at, logits, streams),
        #[cfg(feature = "cuda")]
        Some(gpu) => run_ours(super::backend::Cuda::open(gpu, config)?, both, ids, at, logits, streams),
        #[cfg(not(feature = "cuda"))]
        Some(_) => Err(Error::refused(
            format!("machine.device = {}", config.machine.device),
            "this build computes on the CPU; build with `--features cuda` for a GPU",
        )),
    }
}

/// What cannot be compared.
fn check([model, reference]: [&Model; 2], config: &Config, spec: &Spec) -> Result<()> {
    catalog::check(config)?;
    catalog::check(&theirs(config, &spec.device))?;
    if spec.layers && config.gpu().is_some() {
        return Err(Error::refused(
            "--layers on a GPU",
            "residual streams stay on the card; compare layers on the CPU",
        ));
    }
    let sides = [model, reference].map(|m| (m.shape.vocab, m.shape.hidden, m.shape.layers.len()));
    if sides[0] != sides[1] {
        return Err(Error::refused("another model as the reference", "vocabulary, width and layers must be the same"));
    }
    Ok(())
}

/// Runs the first tokens of `config`'s text through our engine with `model` and through candle with `reference`, which is the
/// same model but for tests and conversions.
///
/// # Errors
/// Over budget; a choice that candle refuses; what reading meets.
pub fn run(
    [model, reference]: [&Model; 2],
    config: &Config,
    spec: &Spec,
    cancel: &Arc<AtomicBool>,
) -> Result<Verified> {
    let ids = alloc::scoped(Scope::Program, || tokens(model, config, spec.tokens))?;
    let config = ours(config, ids.len());
    check([model, reference], &config, spec)?;
    alloc::scoped(Scope::Engine, || compare([model, reference], &config, &ids, spec, cancel))
}

/// Both sides one after the other, under the budgets of `config`.
fn compare(
    [model, reference]: [&Model; 2],
    config: &Config,
    ids: &[u32],
    spec: &Spec,
    cancel: &Arc<AtomicBool>,
) -> Result<Verified> {
    alloc::reset_peaks();
    let (shape, vocab, n) = (&model.shape, model.shape.vocab, ids.len());
    let ledger = Ledger::within(walls(config, &Machine::default_guess()));
    let team = Arc::new(ThreadTeam::with_cancel(config.threads(), Arc::clone(cancel))?);
    let (tier, each) = (config.cpu_tier(), n * shape.hidden);
    let buffer = |tag: Tag, elements: usize| ledger.buffer(Tag { tier, ..tag }, 4 * elements);
    let layers = if spec.layers { shape.layers.len() } else { 0 };
    let (mut logits, mut streams) = (buffer(LOGITS, n * vocab)?, buffer(STREAMS, layers * each)?);
    let to = spec.layers.then(|| streams.as_mut_slice::<f32>());
    let seconds = run_ours_on((model, config), ids, (&ledger, &team), logits.as_mut_slice(), to)?;

    let held = (reference, &Formats::new(config)?);
    let (mut trainer, guest_reserved) =
        candle::open(&spec.device, held, (n, n), config.threads(), &ledger, &team, &mut |_| ())?;
    let (start, mut layers) = (Instant::now(), Vec::new());
    let (mut theirs, mut stream) = (buffer(LOGITS, n * vocab)?, buffer(STREAMS, if spec.layers { each } else { 0 })?);
    let mut after = |l: usize, d: &dyn Device, x: &Buf| -> Result<()> {
        if spec.layers {
            d.download(x.all(), stream.as_mut_slice::<u8>())?;
            layers.push(relative_difference(stream.as_slice(), &streams.as_slice::<f32>()[l * each..][..each]));
        }
        Ok(())
    };
    trainer.logits(ids, n, Some(theirs.as_mut_slice()), &mut after)?;
    let reference_seconds = start.elapsed().as_secs_f64();
    drop(trainer);
    let logits = Agreement::of(theirs.as_slice(), logits.as_slice(), vocab);
    let mut beyond = logits.beyond(agreement::F32);
    if let Some(l) = layers.iter().position(|d| *d > LAYER_TOLERANCE) {
        beyond.push(format!(
            "the residual stream differs by {:.3e} of its size after layer {l}, the first above {LAYER_TOLERANCE:.0e}",
            layers[l]
        ));
    }
    Ok(Verified {
        model: model.path.clone(),
        reference: reference.path.clone(),
        device: config.machine.device.clone(),
        reference_device: spec.device.clone(),
        logits,
        tolerance: agreement::F32,
        layers,
        layer_tolerance: LAYER_TOLERANCE,
        guest_reserved,
        guest_held: alloc::counts().guest_peak.max(0) as u64,
        seconds,
        reference_seconds,
        beyond,
    })
}
