//! The trainer: one training step over buffers of a device, whichever techniques and whichever device.
//!
//! The plan runs the same code on the dry device, so every buffer a step takes is taken here or below.

use std::sync::Arc;

use super::activations::{Activations, Inputs};
use super::batch::{Batch, NO_LOSS};
use super::block::{Back, BlockWorkspace, Pass, Saved, Widths};
use super::broken::{LOSS, REMEDY, first_broken};
use super::gradient::Gradient;
use super::learner::{Learner, Rules};
use super::loss::{self, Backward, Head, HeadCall, HeadGrad, HeadWeight, Logits, Loss};
use super::optimizer::{Optimizer, Shape};
use super::order::Order;
use super::params::Params;
use super::weights::{Builder, Held, Layer, Tensor, Weights, load_bytes};
use crate::blocks::BlockType;
use crate::config::Config;
use crate::config::train::{Dtype, Train};
use crate::device::{Best, Buf, Device, RopeLayout, Sizes};
use crate::error::{Diverged, Error, Result};
use crate::forward::rotary::Turn;
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::{Category, Ledger, Phase, Tag};
use crate::model::Source;
use crate::ops::Undisturbed;
use crate::ops::rule::functions::SOFT_CAP;
use crate::schema;
use crate::shape::{self, ModelShape};
use crate::weights::format::{Formats, Target};

const KEPT: Tag = Tag::device(Category::Activations, "kept activations");
const PASSING: Tag = Tag::device(Category::Activations, "layer activations");
const AGAIN: Tag = Tag::device(Category::Workspace, "recomputed layers");
const STREAM: Tag = Tag::device(Category::Activations, "residual stream");
const BATCH: Tag = Tag::device(Category::Activations, "batch");
const LOGITS: Tag = Tag::device(Category::Logits, "logits");

/// Entries of the vocabulary whose logits are computed at once where only logits are wanted.
const HEAD_BLOCK: usize = 4096;
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");

/// The techniques of a configuration, built.
pub struct Techniques {
    /// train.params: what learns.
    pub params: Box<dyn Params>,
    /// train.gradient: how gradients are obtained.
    pub gradient: Arc<dyn Gradient>,
    /// train.optimizer: how they become steps.
    pub optimizer: Box<dyn Optimizer>,
    /// train.activations: what forward keeps for backward.
    pub activations: Box<dyn Activations>,
    /// train.loss: how logits are held.
    pub loss: Box<dyn Loss>,
    /// train.order: in which order rows of the data come.
    pub order: Box<dyn Order>,
    /// How weights that do not learn are held.
    pub formats: Formats,
}

impl Techniques {
    /// Builds the choices of a configuration with a `[train]` section.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn of(config: &Config) -> Result<Self> {
        Ok(Self { formats: Formats::new(config)?, ..Self::new(super::plan::section(config)?)? })
    }

    /// Builds the choices of `train`, with frozen weights as the file has them.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn new(train: &Train) -> Result<Self> {
        Ok(Self {
            params: schema::build(super::params::ENTRIES, "train.params", &train.params)?,
            gradient: Arc::from(schema::build(super::gradient::ENTRIES, "train.gradient", &train.gradient)?),
            optimizer: schema::build(super::optimizer::ENTRIES, "train.optimizer", &train.optimizer)?,
            activations: schema::build(super::activations::ENTRIES, "train.activations", &train.activations)?,
            loss: schema::build(super::loss::ENTRIES, "train.loss", &train.loss)?,
            order: schema::build(super::order::ENTRIES, "train.order", &train.order)?,
            formats: Target::Original.into(),
        })
    }

    /// The largest calls of a run of `train` on `shape`, for `threads` loading threads.
    pub fn sizes(&self, train: &Train, shape: &ModelShape, threads: usize) -> Sizes {
        let w = Widths::of(shape);
        let rows = train.batch * train.length;
        let tile = self.loss.tile(rows, shape.vocab);
        let (ty, rank) = (dtype(train), self.rank());
        Sizes {
            rows,
            cols: w.hidden.max(w.q).max(w.kv).max(w.ff).max(rank),
            hidden: w.hidden,
            outputs: tile.vocab.max(w.hidden).max(w.q).max(w.ff).max(rank),
            head_rows: tile.rows,
            length: train.length,
            sequences: train.batch,
            heads: w.heads,
            kv_heads: shape.widest(|l| l.attention.kv_heads),
            head_dim: shape.widest(|l| l.attention.dim),
            basis: self.basis(shape),
            load: load_bytes(shape, &*self.params, ty, &self.formats, threads),
        }
    }
}

impl Techniques {
    /// The widest side that adapters have of their own, their rank: it may be more than any side of the linears.
    fn rank(&self) -> usize {
        let adapted = shape::Role::LINEARS.iter().filter_map(|role| self.params.adapt(*role));
        adapted.flat_map(|a| a.params(1, 1)).map(|part| part.rows.max(part.cols)).max().unwrap_or(0)
    }

    /// Rows of the largest basis that the optimizer finds of a matrix of a layer.
    fn basis(&self, shape: &ModelShape) -> usize {
        let matrices = shape.layers.iter().flat_map(|l| l.tensors.all()).filter(|t| t.rows > 1);
        let shapes = matrices.map(|t| Shape { linear: true, rows: t.rows, cols: t.cols });
        shapes.map(|of| self.optimizer.plan(of).basis).max().unwrap_or(0)
    }
}

/// The type of weights that learn.
fn dtype(train: &Train) -> BlockType {
    stored(train.dtype)
}

fn stored(dtype: Dtype) -> BlockType {
    match dtype {
        Dtype::F32 => BlockType::F32,
        Dtype::Bf16 => BlockType::Bf16,
    }
}

/// Where a step is: told after each layer, and after the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The phase that goes on.
    pub phase: Phase,
    /// Units of the step that are done: a layer forward or backward, or a head.
    pub done: usize,
    /// Units of the step in all.
    pub total: usize,
}

/// Hears where a step is.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stepped {
    /// Mean loss of the targets, in nats; NaN where there is none.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens learned from, each counted once: those without a target included, padding not.
    pub tokens: usize,
    /// Positions that went forward: padding included, and every pass over them counted.
    pub computed: usize,
    /// Targets that the loss is the mean of.
    pub counted: usize,
    /// Whether any gradient was clipped by norm.
    pub clipped: bool,
}

impl Stepped {
    /// A step whose rows have no target. A mean over none is no number, and what it would do to the weights (PyTorch's
    /// cross-entropy gives NaN and Hugging Face's trainer learns from it) is not done: nothing is computed, nothing changes.
    fn nothing() -> Self {
        Self { loss: f64::NAN, ..Self::default() }
    }
}

/// Hears of the residual stream after a layer: the layer's number, the device and the stream.
pub type AfterLayer<'a> = &'a mut dyn FnMut(usize, &dyn Device, &Buf) -> Result<()>;

/// What all layers leave: the residual stream, what they computed in, tokens and targets.
struct Streamed {
    stream: Buf,
    room: BlockWorkspace,
    m: usize,
    counted: usize,
}

/// A model in training.
pub struct Trainer {
    d: Box<dyn Device>,
    ledger: Arc<Ledger>,
    /// What learns, with its gradients and its optimizer's state.
    pub learner: Learner,
    weights: Weights,
    activations: Box<dyn Activations>,
    loss: Box<dyn Loss>,
    widths: Widths,
    vocab: usize,
    embedding_scale: f32,
    logits: Logits,
    rows: (usize, usize),
    shared: Shared,
    ids: Buf,
    targets: Buf,
    counted: Buf,
}

/// What the layers of every pass share: norms, rotations, and where each token of the batch stands.
struct Shared {
    hidden: usize,
    eps: f32,
    residual: f32,
    /// Of each rotation of the model, cosines and sines, `(positions, half)`.
    turns: Vec<[Buf; 2]>,
    half: usize,
    pairs: RopeLayout,
    /// Ids `(m)`: the place of each token in its document.
    positions: Buf,
    /// Ids `(m)`: where the document of each token begins in its sequence.
    segments: Buf,
}

impl Shared {
    /// A pass over `batch` on `d`.
    fn pass<'a>(&'a self, d: &'a dyn Device, batch: &Batch) -> Pass<'a> {
        let Self { hidden, eps, residual, half, pairs, .. } = *self;
        let (turns, positions, segments) = (&*self.turns, &self.positions, &self.segments);
        Pass {
            d,
            m: batch.rows(),
            rows: (batch.sequences, batch.length),
            hidden,
            eps,
            residual,
            turns,
            half,
            pairs,
            positions,
            segments,
        }
    }
}

/// What a forward that learns leaves for its backward.
struct Kept {
    /// The residual stream after the last layer, `(m, hidden)`.
    stream: Buf,
    room: BlockWorkspace,
    /// What layers are computed from again: the streams that segments of `every` layers begin with.
    inputs: Box<dyn Inputs>,
    /// What is kept of every layer, in order; empty where layers are computed again.
    saved: Vec<Saved>,
}

/// What a trainer is made of.
pub struct Setup<'a> {
    /// The model's shape as its file stores it.
    pub shape: &'a ModelShape,
    /// Where its values are; without one, buffers stay as they are, for a caller to fill.
    pub source: Option<&'a Source>,
    /// Nothing will be computed: the dry device of a plan.
    pub plan: bool,
    /// The `[train]` section of the configuration.
    pub train: &'a Train,
    /// `run.seed`, of initial values, dropout and rounding.
    pub seed: u64,
}

/// The divisors that a file gives its first rotation, where it has them and will be read.
fn divisors(shape: &ModelShape, source: Option<&Source>) -> Result<Option<Vec<f32>>> {
    let (Some(t), Some(source)) = (&shape.rope_freqs, source) else { return Ok(None) };
    let mut bytes = vec![0u8; t.bytes() as usize];
    source.read_rows(t, 0, t.rows, &mut bytes)?;
    Ok(Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

impl Trainer {
    /// Loads the model onto the device and takes what is held all run long. The scratch of `d` must have been sized by
    /// [`Techniques::sizes`].
    ///
    /// # Errors
    /// [`Error::OverBudget`]; [`Error::Io`] or [`Error::Model`] when the file cannot be read; [`Error::Refused`] when
    /// nothing would learn.
    pub fn new(
        d: Box<dyn Device>,
        ledger: &Arc<Ledger>,
        setup: &Setup<'_>,
        techniques: Techniques,
        load: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let Setup { shape, source, plan, train, seed } = *setup;
        let Techniques { params, gradient, optimizer, activations, loss, formats, .. } = techniques;
        let gradients = stored(train.grad_dtype);
        let rules = Rules { hold: train.grad_hold, clip: train.clip, round: train.round, seed, gradients };
        let mut learner = Learner::new(optimizer, rules);
        let mut builder = Builder {
            d: &*d,
            source,
            plan,
            params: &*params,
            ty: dtype(train),
            formats: &formats,
            load,
            seed,
            learner: &mut learner,
            progress,
        };
        let weights = builder.build(shape)?;
        if learner.learning() == 0 && !params.reads_only() {
            return Err(Error::refused("train.params", "nothing would learn; choose what does"));
        }
        let m = train.batch * train.length;
        let half = shape.half();
        let divisors = divisors(shape, source)?;
        let ids = |n: usize| d.buffer(BATCH, BlockType::I32, n);
        let mut turns = Vec::with_capacity(shape.ropes.len());
        for (i, rope) in shape.ropes.iter().enumerate() {
            let table = || d.buffer(ROTATIONS, BlockType::F32, train.length * half);
            let mut both = [table()?, table()?];
            if !plan {
                let turn = Turn::new(rope, divisors.as_deref().filter(|_| i == 0), train.length);
                fill_table(&*d, &turn, train.length, &mut both)?;
            }
            turns.push(both);
        }
        let (tokens, targets, counted, positions, segments) = (ids(m)?, ids(m)?, ids(m)?, ids(m)?, ids(m)?);
        learner.hold(&*d, shape.layers.len() + 2, gradient.held())?;
        if !plan {
            learner.fill_masters(&*d)?;
        }
        Ok(Self {
            ledger: Arc::clone(ledger),
            learner,
            weights,
            activations,
            loss,
            widths: Widths::of(shape),
            vocab: shape.vocab,
            embedding_scale: shape.embedding_scale,
            logits: Logits { scale: shape.logit_scale, cap: shape.logit_cap },
            rows: (train.batch, train.length),
            shared: Shared {
                hidden: shape.hidden,
                eps: shape.norm_eps,
                residual: shape.residual_scale,
                turns,
                half,
                pairs: if shape.interleaved() { RopeLayout::Interleaved } else { RopeLayout::Halves },
                positions,
                segments,
            },
            ids: tokens,
            targets,
            counted,
            d,
        })
    }

    /// The adapted linears of each layer, in order: the linear, by what scheme, and the numbers of its parameters.
    pub fn adapters(&self) -> impl Iterator<Item = Vec<(shape::Role, shape::AdapterKind, &[usize])>> {
        self.weights.layers.iter().map(|layer| {
            let linears = shape::Role::LINEARS.into_iter().zip(layer.linears());
            linears
                .filter_map(|(role, linear)| {
                    let (adapted, ids) = linear.on.as_ref()?;
                    Some((role, adapted.kind(), ids.as_slice()))
                })
                .collect()
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &dyn Device {
        &*self.d
    }

    /// The device and everything that learns, to put values there.
    pub fn parts(&mut self) -> (&dyn Device, &mut Learner) {
        (&*self.d, &mut self.learner)
    }

    /// One step by backpropagation: gradients of the mean loss over the targets of all `batches`, then the update; where they
    /// have no target, nothing at all.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Diverged`] when the loss or a gradient is
    /// no number: nothing has learned from this step then where all gradients are held to its end.
    pub fn backprop(&mut self, batches: &[Batch], step: u64, lr: f32, watch: OnProgress<'_>) -> Result<Stepped> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        if counted == 0 {
            return Ok(Stepped::nothing());
        }
        self.learner.begin(step, lr);
        let (mut loss, mut tokens, mut computed, mut begun) = (0.0, 0, 0, None);
        let each = 2 * self.weights.layers.len() + 1;
        for (i, batch) in batches.iter().enumerate() {
            let mut within =
                |phase, done| watch(Progress { phase, done: i * each + done, total: batches.len() * each });
            self.learner.learn_from(Some((step.max(1) - 1) * batches.len() as u64 + i as u64));
            // One over all targets of the step, not a mean of means: micro-batches of any make-up add up to one batch.
            loss += self.learn(batch, 1.0 / counted as f32, step, &mut begun, &mut within)?;
            (tokens, computed) = (tokens + batch.real(), computed + batch.rows());
        }
        self.learner.learn_from(None);
        self.ledger.enter(Phase::Update);
        self.undisturbed(&mut begun);
        let square = self.learner.end(&*self.d)?;
        self.d.wait()?;
        drop(begun);
        Ok(Stepped {
            loss: loss / counted as f64,
            grad_norm: square.sqrt(),
            tokens,
            computed,
            counted,
            clipped: self.learner.clipped(),
        })
    }

    /// From the first update of a step on it is not cancelled, so that what learns stands at a step's end whenever it is left.
    fn undisturbed(&self, begun: &mut Option<Undisturbed>) {
        if begun.is_none() {
            *begun = self.d.meter().undisturbed();
        }
    }

    /// One step without backpropagation: the mean loss a distance `eps` ahead and behind along direction `number` of the run,
    /// and an update along it by the slope between the two, which comes back as `grad_norm`; where `batches` have no target,
    /// nothing at all.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Diverged`] when the loss is no number.
    pub fn probe(
        &mut self,
        batches: &[Batch],
        number: u64,
        lr: f32,
        eps: f32,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Stepped> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        if counted == 0 {
            return Ok(Stepped::nothing());
        }
        self.learner.begin(number, lr);
        let mut losses = [0.0; 2];
        for (i, loss) in losses.iter_mut().enumerate() {
            self.ledger.enter(Phase::Update);
            self.learner.perturb(&*self.d, if i == 0 { eps } else { -2.0 * eps })?;
            for batch in batches {
                *loss += self.read(batch, None)?.0 / counted as f64;
            }
            watch(i + 1);
        }
        self.ledger.enter(Phase::Update);
        self.learner.perturb(&*self.d, eps)?;
        let [ahead, behind] = losses;
        let slope = (ahead - behind) / (2.0 * f64::from(eps));
        if !slope.is_finite() {
            let loss = losses.into_iter().find(|l| !l.is_finite()).unwrap_or(slope);
            let mut layer = None;
            for batch in batches {
                layer = layer.or(self.first_broken(batch)?);
            }
            let place = Diverged { step: Some(number), layer, ..Diverged::new(LOSS, loss) };
            return Err(Error::diverged(place, "lower train.lr or train.gradient.zo_eps"));
        }
        self.learner.step_along(&*self.d, slope as f32)?;
        self.d.wait()?;
        let tokens = batches.iter().map(Batch::real).sum();
        let computed = 2 * batches.iter().map(Batch::rows).sum::<usize>();
        let loss = 0.5 * (ahead + behind);
        Ok(Stepped { loss, grad_norm: slope.abs(), tokens, computed, counted, clipped: false })
    }

    /// The summed loss of a batch without learning, and the number of its targets.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<(f64, usize)> {
        self.read(batch, None)
    }

    /// [`Self::evaluate`], and in `best` the most likely next token at each target, in their order.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn answer(&mut self, batch: &Batch, best: &mut Vec<Best>) -> Result<(f64, usize)> {
        scoped(Scope::Program, || {
            best.clear();
            best.resize(batch.counted(), Best::default());
        });
        self.read(batch, Some(best))
    }

    /// Rows and tokens of each that a batch may have.
    pub fn room(&self) -> (usize, usize) {
        self.rows
    }

    fn read(&mut self, batch: &Batch, best: Option<&mut [Best]>) -> Result<(f64, usize)> {
        let Streamed { stream, mut room, m, counted } = self.stream(batch, &mut |_, _, _| Ok(()))?;
        let mut normed = Back::d_normed(&*self.d, self.widths, self.capacity())?;
        let loss = self.head(&mut room.normed, &mut normed, &stream, m, counted, None, best)?;
        Ok((loss, counted))
    }

    /// All layers over a batch, without learning; `after` hears of the residual stream `(m, hidden)` after each.
    fn stream(&mut self, batch: &Batch, after: AfterLayer<'_>) -> Result<Streamed> {
        self.ledger.enter(Phase::Forward);
        self.learner.learn_from(None);
        let (m, counted) = self.upload(batch)?;
        let (d, w) = (&*self.d, self.widths);
        let mut stream = d.buffer(STREAM, d.activations(), self.rows.0 * self.rows.1 * w.hidden)?;
        let mut room = BlockWorkspace::new(d, w, self.capacity(), &self.weights.layers)?;
        d.embed(self.weights.embedding.weight(&self.learner), self.ids.all(), m, stream.all_mut())?;
        scaled(d, &mut stream, m * w.hidden, self.embedding_scale)?;
        let mut saved = Saved::new(d, PASSING, w, self.capacity())?;
        let pass = self.shared.pass(d, batch);
        for (l, layer) in self.weights.layers.iter().enumerate() {
            pass.forward(layer, &self.learner, &mut stream, &mut saved, &mut room, false)?;
            after(l, d, &stream)?;
        }
        Ok(Streamed { stream, room, m, counted })
    }

    /// The first layer after which the residual stream of `batch` has a value that is no number, none where the head is the
    /// first: another forward pass, for where a loss was none.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::OverBudget`] where a validation would be.
    pub fn first_broken(&mut self, batch: &Batch) -> Result<Option<usize>> {
        let (mut found, len) = (None, batch.rows() * self.widths.hidden);
        self.stream(batch, &mut |layer, d, stream| {
            if found.is_none() && first_broken(d, stream, len)?.is_some() {
                found = Some(layer);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Logits after the last `rows` of `tokens`, one sequence from its beginning: `(rows, vocab)` into `out`, where there is
    /// one. `after` hears of the residual stream `(tokens, hidden)` after each layer.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Internal`] for more tokens than there is
    /// room for.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        rows: usize,
        mut out: Option<&mut [f32]>,
        after: AfterLayer<'_>,
    ) -> Result<()> {
        let length = tokens.len();
        let batch = scoped(Scope::Program, || Batch {
            tokens: tokens.to_vec(),
            targets: vec![NO_LOSS; length],
            segments: Vec::new(),
            sequences: 1,
            length,
            filled: Vec::new(),
        });
        let Streamed { stream, mut room, m, .. } = self.stream(&batch, after)?;
        scoped(Scope::Program, || drop(batch));
        let (d, hidden, vocab) = (&*self.d, self.widths.hidden, self.vocab);
        let Some(first) = m.checked_sub(rows) else {
            return Err(Error::Internal(format!("logits of {rows} of {m} tokens")));
        };
        let w = self.weights.output_norm.buf(&self.learner).all();
        d.rms_norm(stream.at(first * hidden), w, rows, hidden, self.shared.eps, room.normed.all_mut())?;
        scaled(d, &mut room.normed, rows * hidden, self.logits.scale)?;
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding).weight(&self.learner);
        let wide = HEAD_BLOCK.min(vocab);
        let mut logits = d.buffer(LOGITS, BlockType::F32, rows * wide)?;
        let raw = |cap| Ok::<_, Error>((cap, d.buffer(loss::RAW, BlockType::F32, rows * wide)?));
        let mut raw = self.logits.cap.map(raw).transpose()?;
        for at in (0..vocab).step_by(wide) {
            let n = wide.min(vocab - at);
            let into = raw.as_mut().map_or(&mut logits, |(_, raw)| raw);
            d.linear(room.normed.all(), rows, head.rows(at, n), None, into.all_mut(), false)?;
            if let Some((cap, raw)) = &raw {
                loss::capped(d, &SOFT_CAP, *cap, raw, &mut logits, rows * n)?;
            }
            let Some(out) = out.as_deref_mut() else { continue };
            for row in 0..rows {
                d.download(logits.at(row * n), bytemuck::cast_slice_mut(&mut out[row * vocab + at..][..n]))?;
            }
        }
        Ok(())
    }

    /// Tokens that buffers have room for.
    fn capacity(&self) -> usize {
        self.rows.0 * self.rows.1
    }

    /// Carries a batch to the device; returns its tokens and its targets.
    fn upload(&mut self, batch: &Batch) -> Result<(usize, usize)> {
        let m = batch.rows();
        let planned = self.d.planned() && batch.is_sized();
        if !planned {
            batch.check(self.vocab)?;
        }
        if m > self.capacity() || batch.length > self.rows.1 {
            return Err(Error::Internal(format!(
                "a batch of {} × {} where there is room for {} × {}",
                batch.sequences, batch.length, self.rows.0, self.rows.1
            )));
        }
        if planned {
            return Ok((m, m));
        }
        let mut words = [0u32; 1024];
        // Lists of a few kilobytes at a time: what is only passed on needs no room of its own.
        let mut send = |to: &mut Buf, all: &mut dyn Iterator<Item = u32>| -> Result<usize> {
            let mut at = 0;
            loop {
                let n = words.iter_mut().zip(&mut *all).map(|(w, v)| *w = v).count();
                if n == 0 {
                    return Ok(at);
                }
                self.d.upload(bytemuck::cast_slice(&words[..n]), to.at_mut(at))?;
                at += n;
            }
        };
        send(&mut self.ids, &mut batch.tokens.iter().copied())?;
        send(&mut self.shared.segments, &mut (0..m).map(|i| batch.segment(i)))?;
        send(&mut self.shared.positions, &mut (0..m).map(|i| (i % batch.length) as u32 - batch.segment(i)))?;
        let targets = || batch.targets.iter().enumerate().filter(|(_, t)| **t != NO_LOSS);
        send(&mut self.counted, &mut targets().map(|(i, _)| i as u32))?;
        let counted = send(&mut self.targets, &mut targets().map(|(_, t)| *t))?;
        Ok((m, counted))
    }

    /// The head over what `stream` holds: the summed loss, and with `scale` the gradient of the norm's output in `d_normed`
    /// and that of the head's weights; with `best` the most likely next token at each target.
    fn head(
        &mut self,
        normed: &mut Buf,
        d_normed: &mut Buf,
        stream: &Buf,
        m: usize,
        counted: usize,
        scale: Option<f32>,
        best: Option<&mut [Best]>,
    ) -> Result<f64> {
        let (d, hidden, vocab) = (&*self.d, self.widths.hidden, self.vocab);
        let w = self.weights.output_norm.buf(&self.learner).all();
        d.rms_norm(stream.all(), w, m, hidden, self.shared.eps, normed.all_mut())?;
        // Logits are linear: their factor may stand before the product.
        scaled(d, normed, m * hidden, self.logits.scale)?;
        let tile = self.loss.tile(self.rows.0 * self.rows.1, vocab);
        let weight = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let (parameter, weight) = match &weight.held {
            Held::Param(id) => (Some(*id), HeadWeight::Learns(*id)),
            Held::Frozen(buf) => (None, HeadWeight::Frozen(buf)),
        };
        let backward = scale.map(|_| Backward { hidden, vocab, learns: parameter.is_some() });
        let mut head = Head::new(d, tile, self.rows.0 * self.rows.1, self.logits.cap, backward)?;
        let (targets, learner) = (&self.targets, &mut self.learner);
        let call = |x| HeadCall { d, x, targets, rows: counted, hidden, vocab };
        if counted == m {
            let grad = scale.map(|scale| HeadGrad { dx: &mut *d_normed, parameter, scale });
            let loss = head.run(&call(&*normed), weight, learner, grad, best)?;
            if scale.is_some() {
                scaled(d, d_normed, m * hidden, self.logits.scale)?;
            }
            return Ok(loss);
        }
        // Only tokens that have a target go through the head.
        d.gather(normed.all(), self.counted.all(), counted, hidden, d_normed.all_mut())?;
        let grad = scale.map(|scale| HeadGrad { dx: &mut *normed, parameter, scale });
        let loss = head.run(&call(&*d_normed), weight, learner, grad, best)?;
        if scale.is_some() {
            d.fill(d_normed.all_mut(), m * hidden, 0.0)?;
            d.scatter(normed.all(), self.counted.all(), counted, hidden, d_normed.all_mut())?;
            scaled(d, d_normed, m * hidden, self.logits.scale)?;
        }
        Ok(loss)
    }

    /// Forward and backward of one micro-batch; returns its summed loss.
    fn learn(
        &mut self,
        batch: &Batch,
        scale: f32,
        step: u64,
        begun: &mut Option<Undisturbed>,
        watch: &mut dyn FnMut(Phase, usize),
    ) -> Result<f64> {
        self.ledger.enter(Phase::Forward);
        let (m, counted) = self.upload(batch)?;
        let (w, capacity) = (self.widths, self.capacity());
        let mut kept = self.forward(batch, watch)?;
        let mut d_normed = Back::d_normed(&*self.d, w, capacity)?;
        let Kept { room, stream, .. } = &mut kept;
        let loss = self.head(&mut room.normed, &mut d_normed, stream, m, counted, Some(scale), None)?;
        if !loss.is_finite() {
            // What looks for the layer needs the room of another pass.
            drop((kept, d_normed));
            let layer = self.first_broken(batch)?;
            let place = Diverged { step: Some(step), layer, ..Diverged::new(LOSS, loss) };
            return Err(Error::diverged(place, REMEDY));
        }
        watch(Phase::Forward, self.weights.layers.len() + 1);
        self.ledger.enter(Phase::Backward);
        if self.learner.updates_early() {
            self.undisturbed(begun);
        }
        if let Some(id) = self.weights.head.as_ref().unwrap_or(&self.weights.embedding).param() {
            self.learner.close(&*self.d, id)?;
        }
        let mut back = Back::new(&*self.d, w, capacity, d_normed)?;
        self.backward(batch, &mut kept, &mut back, watch)?;
        self.embedding_back(m, &mut back.g)?;
        Ok(loss)
    }

    /// All layers over a batch that was uploaded, keeping what backward reads.
    fn forward(&self, batch: &Batch, watch: &mut dyn FnMut(Phase, usize)) -> Result<Kept> {
        let (d, w, capacity) = (&*self.d, self.widths, self.capacity());
        let (m, every) = (batch.rows(), self.activations.every());
        let len = m * w.hidden;
        let mut inputs = self.activations.inputs();
        let mut saved: Vec<Saved> = Vec::new();
        let mut stream = d.buffer(STREAM, d.activations(), capacity * w.hidden)?;
        let mut room = BlockWorkspace::new(d, w, capacity, &self.weights.layers)?;
        d.embed(self.weights.embedding.weight(&self.learner), self.ids.all(), m, stream.all_mut())?;
        scaled(d, &mut stream, len, self.embedding_scale)?;
        let pass = self.shared.pass(d, batch);
        for (l, layer) in self.weights.layers.iter().enumerate() {
            if every == 0 {
                saved.push(Saved::new(d, KEPT, w, capacity)?);
            } else {
                if l % every == 0 {
                    inputs.put(d, l / every, &stream, len)?;
                }
                if saved.is_empty() {
                    saved.push(Saved::new(d, PASSING, w, capacity)?);
                }
            }
            let Some(saved) = saved.last_mut() else { continue };
            pass.forward(layer, &self.learner, &mut stream, saved, &mut room, false)?;
            watch(Phase::Forward, l + 1);
        }
        if every > 0 {
            saved.clear();
        }
        Ok(Kept { stream, room, inputs, saved })
    }

    /// All layers that learn or lie above one, from the last, and the norm after it: the gradient of the head's input is in
    /// `back.d_normed`, that of the embedded tokens comes into `back.g`. Kept layers are dropped as they are used up.
    fn backward(
        &mut self,
        batch: &Batch,
        kept: &mut Kept,
        back: &mut Back,
        watch: &mut dyn FnMut(Phase, usize),
    ) -> Result<()> {
        let (w, capacity, every) = (self.widths, self.capacity(), self.activations.every());
        let Self { d, shared, weights, learner, .. } = self;
        let (d, layers) = (&**d, weights.layers.len());
        let Kept { stream, room, inputs, saved } = kept;
        let len = batch.rows() * w.hidden;
        d.fill(back.g.all_mut(), len, 0.0)?;
        let pass = shared.pass(d, batch);
        let Back { g, d_normed, .. } = &mut *back;
        pass.norm_back(learner, &weights.output_norm, stream, d_normed, g)?;
        let embeds = weights.embedding.param().is_some();
        // Below the lowest layer that learns there is nothing to do.
        let lowest = if embeds { 0 } else { weights.layers.iter().position(Layer::learns).unwrap_or(layers) };
        let mut one = |l: usize, learner: &mut Learner, saved: &mut Saved, room: &mut BlockWorkspace| -> Result<()> {
            pass.backward(&weights.layers[l], learner, saved, room, back, embeds || l > lowest)?;
            watch(Phase::Backward, 2 * layers + 1 - l);
            Ok(())
        };
        if every == 0 {
            for l in (lowest..layers).rev() {
                let Some(mut saved) = saved.pop() else { break };
                one(l, learner, &mut saved, room)?;
            }
            return Ok(());
        }
        for _ in 0..every.min(layers - lowest) {
            saved.push(Saved::new(d, AGAIN, w, capacity)?);
        }
        for segment in (lowest / every..layers.div_ceil(every)).rev() {
            let range = segment * every..layers.min((segment + 1) * every);
            let first = range.start.max(lowest);
            inputs.take(d, segment, stream, len)?;
            // A segment that begins below the lowest layer brings its stream there by layers it need not keep.
            for l in range.clone() {
                let slot = &mut saved[l.saturating_sub(first)];
                pass.forward(&weights.layers[l], learner, stream, slot, room, l + 1 == range.end)?;
            }
            for l in (first..range.end).rev() {
                one(l, learner, &mut saved[l - first], room)?;
            }
        }
        Ok(())
    }

    /// The gradient of the embedding from that of the embedded tokens, `g (m, hidden)`, where it learns.
    fn embedding_back(&mut self, m: usize, g: &mut Buf) -> Result<()> {
        let Some(id) = self.weights.embedding.param() else { return Ok(()) };
        let Tensor { rows, cols, .. } = self.weights.embedding;
        let d = &*self.d;
        scaled(d, g, m * self.widths.hidden, self.embedding_scale)?;
        let ids = &self.ids;
        self.learner.open(id, |mut into, add| {
            if !add {
                d.fill(into.again(), rows * cols, 0.0)?;
            }
            d.embed_vjp(g.all(), ids.all(), m, rows, cols, into)
        })?;
        self.learner.close(d, id)
    }
}

/// What the model multiplies by a factor of its own, or the gradient that comes to it.
fn scaled(d: &dyn Device, x: &mut Buf, len: usize, by: f32) -> Result<()> {
    if by == 1.0 { Ok(()) } else { d.scale(x.all_mut(), len, by) }
}

/// Fills cosines and sines `(positions, half)`.
fn fill_table(d: &dyn Device, turn: &Turn, positions: usize, [cos, sin]: &mut [Buf; 2]) -> Result<()> {
    let Turn { freqs, amplitude } = turn;
    let half = freqs.len();
    let (mut c, mut s) = (vec![0.0f32; half], vec![0.0f32; half]);
    for position in 0..positions {
        for (i, f) in freqs.iter().enumerate() {
            let (sine, cosine) = (position as f64 * f).sin_cos();
            (c[i], s[i]) = ((cosine * amplitude) as f32, (sine * amplitude) as f32);
        }
        d.upload(bytemuck::cast_slice(&c), cos.at_mut(position * half))?;
        d.upload(bytemuck::cast_slice(&s), sin.at_mut(position * half))?;
    }
    Ok(())
}
