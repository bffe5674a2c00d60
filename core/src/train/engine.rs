//! The trainer: one training step over buffers of a device, whichever techniques and whichever device.
//!
//! The plan runs the same code on the dry device, so every buffer a step takes is taken here or below.

use std::sync::Arc;

use super::activations::Activations;
use super::batch::{Batch, NO_LOSS};
use super::block::{Back, BlockWorkspace, Pass, Saved, Widths};
use super::gradient::Gradient;
use super::learner::{Learner, Rules};
use super::loss::{Head, HeadCall, HeadGrad, HeadWeight, Loss};
use super::optimizer::{Optimizer, Shape};
use super::order::Order;
use super::params::Params;
use super::weights::{Builder, Held, Tensor, Weights, load_bytes};
use crate::blocks::BlockType;
use crate::config::Config;
use crate::config::train::{Dtype, Train};
use crate::device::{Best, Buf, Device, RopeLayout, Sizes};
use crate::error::{Error, Result};
use crate::forward::rotary::inverse_frequencies;
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::{Category, Ledger, Phase, Tag};
use crate::model::Source;
use crate::schema;
use crate::shape::{self, ModelShape};
use crate::weights::format::{Formats, Target};

const KEPT: Tag = Tag::device(Category::Activations, "kept activations");
const PASSING: Tag = Tag::device(Category::Activations, "layer activations");
const AGAIN: Tag = Tag::device(Category::Workspace, "recomputed layers");
const STREAM: Tag = Tag::device(Category::Activations, "residual stream");
const BATCH: Tag = Tag::device(Category::Activations, "batch");
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");

/// The techniques of a configuration, built.
pub struct Techniques {
    /// What learns.
    pub params: Box<dyn Params>,
    /// How gradients are obtained.
    pub gradient: Arc<dyn Gradient>,
    /// How they become steps.
    pub optimizer: Box<dyn Optimizer>,
    /// What is kept.
    pub activations: Box<dyn Activations>,
    /// How logits are held.
    pub loss: Box<dyn Loss>,
    /// In which order data comes.
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
        let ty = dtype(train);
        Sizes {
            rows,
            cols: w.hidden.max(w.q).max(w.kv).max(w.ff),
            hidden: w.hidden,
            outputs: tile.vocab.max(w.hidden).max(w.q).max(w.ff),
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
    /// Units in all.
    pub total: usize,
}

/// Hears where a step is.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stepped {
    /// Mean loss of the targets, in nats.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens computed.
    pub tokens: usize,
    /// Targets counted.
    pub counted: usize,
    /// Whether a norm was clipped.
    pub clipped: bool,
}

/// A model in training.
pub struct Trainer {
    d: Box<dyn Device>,
    ledger: Arc<Ledger>,
    /// Everything that learns.
    pub learner: Learner,
    weights: Weights,
    activations: Box<dyn Activations>,
    loss: Box<dyn Loss>,
    widths: Widths,
    vocab: usize,
    eps: f32,
    embedding_scale: f32,
    pairs: RopeLayout,
    half: usize,
    rows: (usize, usize),
    turns: Vec<[Buf; 2]>,
    ids: Buf,
    targets: Buf,
    counted: Buf,
    positions: Buf,
    segments: Buf,
}

/// What a trainer is made of.
pub struct Setup<'a> {
    /// The model as stored.
    pub shape: &'a ModelShape,
    /// Where its values are; without one, buffers stay as they are, for a caller to fill.
    pub source: Option<&'a Source>,
    /// Nothing will be computed: the dry device of a plan.
    pub plan: bool,
    /// The section.
    pub train: &'a Train,
    /// Of initial values and rounding.
    pub seed: u64,
}

impl Trainer {
    /// Loads the model onto the device and takes what is held all run long. The scratch of `d` must have been sized by
    /// [`Techniques::sizes`].
    ///
    /// # Errors
    /// Over budget; what reading meets; nothing that learns.
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
        if learner.learning() == 0 {
            return Err(Error::refused("train.params", "nothing would learn; choose what does"));
        }
        let m = train.batch * train.length;
        let half = shape.half();
        let divisors = match (&shape.rope_freqs, source) {
            (Some(t), Some(source)) => {
                let mut bytes = vec![0u8; t.bytes() as usize];
                source.read_rows(t, 0, t.rows, &mut bytes)?;
                Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>())
            }
            _ => None,
        };
        let ids = |n: usize| d.buffer(BATCH, BlockType::I32, n);
        let mut turns = Vec::with_capacity(shape.ropes.len());
        for (i, rope) in shape.ropes.iter().enumerate() {
            let table = || d.buffer(ROTATIONS, BlockType::F32, train.length * half);
            let mut both = [table()?, table()?];
            if !plan {
                let freqs = inverse_frequencies(rope, divisors.as_deref().filter(|_| i == 0));
                fill_table(&*d, &freqs, train.length, &mut both)?;
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
            eps: shape.norm_eps,
            embedding_scale: shape.embedding_scale,
            pairs: if shape.interleaved() { RopeLayout::Interleaved } else { RopeLayout::Halves },
            half,
            rows: (train.batch, train.length),
            turns,
            ids: tokens,
            targets,
            counted,
            positions,
            segments,
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

    /// One step by backpropagation: gradients of the mean loss over the targets of all `batches`, then the update.
    ///
    /// # Errors
    /// The device's; a loss or gradient that is no number.
    pub fn backprop(&mut self, batches: &[Batch], step: u64, lr: f32, watch: OnProgress<'_>) -> Result<Stepped> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        self.learner.begin(step, lr);
        let (mut loss, mut tokens) = (0.0, 0);
        let each = 2 * self.weights.layers.len() + 1;
        for (i, batch) in batches.iter().enumerate() {
            let mut within =
                |phase, done| watch(Progress { phase, done: i * each + done, total: batches.len() * each });
            self.learner.learn_from(Some((step.max(1) - 1) * batches.len() as u64 + i as u64));
            // One over all targets of the step, not a mean of means: micro-batches of any make-up add up to one batch.
            loss += self.learn(batch, 1.0 / counted.max(1) as f32, step, &mut within)?;
            tokens += batch.rows();
        }
        self.learner.learn_from(None);
        self.ledger.enter(Phase::Update);
        let square = self.learner.end(&*self.d)?;
        self.d.wait()?;
        Ok(Stepped {
            loss: loss / counted.max(1) as f64,
            grad_norm: square.sqrt(),
            tokens,
            counted,
            clipped: self.learner.clipped(),
        })
    }

    /// One step without backpropagation: the mean loss a distance `eps` ahead and behind along direction `number` of the run,
    /// and an update along it by the slope between the two, which comes back as `grad_norm`.
    ///
    /// # Errors
    /// The device's; a loss that is no number.
    pub fn probe(
        &mut self,
        batches: &[Batch],
        number: u64,
        lr: f32,
        eps: f32,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Stepped> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        self.learner.begin(number, lr);
        let mut losses = [0.0; 2];
        for (i, loss) in losses.iter_mut().enumerate() {
            self.ledger.enter(Phase::Update);
            self.learner.perturb(&*self.d, if i == 0 { eps } else { -2.0 * eps })?;
            for batch in batches {
                *loss += self.read(batch, None)?.0 / counted.max(1) as f64;
            }
            watch(i + 1);
        }
        self.ledger.enter(Phase::Update);
        self.learner.perturb(&*self.d, eps)?;
        let [ahead, behind] = losses;
        let slope = (ahead - behind) / (2.0 * f64::from(eps));
        if !slope.is_finite() {
            return Err(Error::refused(
                format!("step {number}"),
                "the loss is no longer a number; lower train.lr or train.gradient.zo_eps",
            ));
        }
        self.learner.step_along(&*self.d, slope as f32)?;
        self.d.wait()?;
        let tokens = 2 * batches.iter().map(Batch::rows).sum::<usize>();
        Ok(Stepped { loss: 0.5 * (ahead + behind), grad_norm: slope.abs(), tokens, counted, clipped: false })
    }

    /// The summed loss of a batch without learning, and the number of its targets.
    ///
    /// # Errors
    /// The device's.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<(f64, usize)> {
        self.read(batch, None)
    }

    /// [`Self::evaluate`], and in `best` the most likely next token at each target, in their order.
    ///
    /// # Errors
    /// The device's.
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
        self.ledger.enter(Phase::Forward);
        self.learner.learn_from(None);
        let (m, counted) = self.upload(batch)?;
        let (d, w) = (&*self.d, self.widths);
        let mut stream = d.buffer(STREAM, d.activations(), self.rows.0 * self.rows.1 * w.hidden)?;
        let mut room = BlockWorkspace::new(d, w, self.capacity(), &self.weights.layers)?;
        d.embed(self.weights.embedding.weight(&self.learner), self.ids.all(), m, stream.all_mut())?;
        scaled(d, &mut stream, m * w.hidden, self.embedding_scale)?;
        {
            let mut saved = Saved::new(d, PASSING, w, self.capacity())?;
            let pass = pass(
                d,
                batch,
                self.widths.hidden,
                self.eps,
                self.half,
                self.pairs,
                &self.turns,
                [&self.positions, &self.segments],
            );
            for layer in &self.weights.layers {
                pass.forward(layer, &self.learner, &mut stream, &mut saved, &mut room, false)?;
            }
        }
        let mut normed = Back::d_normed(d, w, self.capacity())?;
        let loss = self.head(&mut room.normed, &mut normed, &stream, m, counted, None, best)?;
        Ok((loss, counted))
    }

    /// Tokens that buffers have room for.
    fn capacity(&self) -> usize {
        self.rows.0 * self.rows.1
    }

    /// Carries a batch to the device; returns its tokens and its targets.
    fn upload(&mut self, batch: &Batch) -> Result<(usize, usize)> {
        batch.check(self.vocab)?;
        let m = batch.rows();
        if m > self.capacity() || batch.length > self.rows.1 {
            return Err(Error::Internal(format!(
                "a batch of {} × {} where there is room for {} × {}",
                batch.sequences, batch.length, self.rows.0, self.rows.1
            )));
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
        send(&mut self.segments, &mut (0..m).map(|i| batch.segment(i)))?;
        send(&mut self.positions, &mut (0..m).map(|i| (i % batch.length) as u32 - batch.segment(i)))?;
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
        d.rms_norm(stream.all(), w, m, hidden, self.eps, normed.all_mut())?;
        let tile = self.loss.tile(self.rows.0 * self.rows.1, vocab);
        let mut head = Head::new(d, tile, self.rows.0 * self.rows.1)?;
        let weight = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let (parameter, weight) = match &weight.held {
            Held::Param(id) => (Some(*id), HeadWeight::Learns(*id)),
            Held::Frozen(buf) => (None, HeadWeight::Frozen(buf)),
        };
        let (targets, learner) = (&self.targets, &mut self.learner);
        let call = |x| HeadCall { d, x, targets, rows: counted, hidden, vocab };
        if counted == m {
            let grad = scale.map(|scale| HeadGrad { dx: &mut *d_normed, parameter, scale });
            return head.run(&call(&*normed), weight, learner, grad, best);
        }
        // Only tokens that have a target go through the head.
        d.gather(normed.all(), self.counted.all(), counted, hidden, d_normed.all_mut())?;
        let grad = scale.map(|scale| HeadGrad { dx: &mut *normed, parameter, scale });
        let loss = head.run(&call(&*d_normed), weight, learner, grad, best)?;
        if scale.is_some() {
            d.fill(d_normed.all_mut(), m * hidden, 0.0)?;
            d.scatter(normed.all(), self.counted.all(), counted, hidden, d_normed.all_mut())?;
        }
        Ok(loss)
    }

    /// Forward and backward of one micro-batch; returns its summed loss.
    fn learn(&mut self, batch: &Batch, scale: f32, step: u64, watch: &mut dyn FnMut(Phase, usize)) -> Result<f64> {
        self.ledger.enter(Phase::Forward);
        let (m, counted) = self.upload(batch)?;
        let (w, capacity, layers) = (self.widths, self.capacity(), self.weights.layers.len());
        let len = m * w.hidden;
        let every = self.activations.every();
        let mut inputs = self.activations.inputs();
        let mut saved: Vec<Saved> = Vec::new();
        let mut stream = self.d.buffer(STREAM, self.d.activations(), capacity * w.hidden)?;
        let mut room = BlockWorkspace::new(&*self.d, w, capacity, &self.weights.layers)?;
        {
            let d = &*self.d;
            d.embed(self.weights.embedding.weight(&self.learner), self.ids.all(), m, stream.all_mut())?;
            scaled(d, &mut stream, len, self.embedding_scale)?;
            let tables = [&self.positions, &self.segments];
            let pass = pass(d, batch, w.hidden, self.eps, self.half, self.pairs, &self.turns, tables);
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
        }
        if every > 0 {
            saved.clear();
        }
        let mut d_normed = Back::d_normed(&*self.d, w, capacity)?;
        let loss = self.head(&mut room.normed, &mut d_normed, &stream, m, counted, Some(scale), None)?;
        if !loss.is_finite() {
            return Err(Error::refused(
                format!("step {step}"),
                "the loss is no longer a number; lower train.lr or clip the gradients (train.clip)",
            ));
        }
        watch(Phase::Forward, layers + 1);
        self.ledger.enter(Phase::Backward);
        let d = &*self.d;
        if let Some(id) = self.weights.head.as_ref().unwrap_or(&self.weights.embedding).param() {
            self.learner.close(d, id)?;
        }
        let mut back = Back::new(d, w, capacity, d_normed)?;
        d.fill(back.g.all_mut(), len, 0.0)?;
        let tables = [&self.positions, &self.segments];
        let pass = pass(d, batch, w.hidden, self.eps, self.half, self.pairs, &self.turns, tables);
        let Back { g, d_normed, .. } = &mut back;
        pass.norm_back(&mut self.learner, &self.weights.output_norm, &stream, d_normed, g)?;
        let embedding = self.weights.embedding.param();
        // Below the lowest layer that learns there is nothing to do.
        let lowest = match embedding {
            Some(_) => 0,
            None => self.weights.layers.iter().position(super::weights::Layer::learns).unwrap_or(layers),
        };
        if every == 0 {
            for l in (lowest..layers).rev() {
                let Some(mut saved) = saved.pop() else { break };
                let below = l > lowest || embedding.is_some();
                let layer = &self.weights.layers[l];
                pass.backward(layer, &mut self.learner, &mut saved, &mut room, &mut back, below)?;
                watch(Phase::Backward, 2 * layers + 1 - l);
            }
        } else {
            for _ in 0..every.min(layers - lowest) {
                saved.push(Saved::new(d, AGAIN, w, capacity)?);
            }
            for segment in (lowest / every..layers.div_ceil(every)).rev() {
                let range = segment * every..layers.min((segment + 1) * every);
                inputs.take(d, segment, &mut stream, len)?;
                // A segment that begins below the lowest layer brings its stream there by layers it need not keep.
                for l in range.clone() {
                    let slot = &mut saved[l.saturating_sub(range.start.max(lowest))];
                    let last = l + 1 == range.end;
                    pass.forward(&self.weights.layers[l], &self.learner, &mut stream, slot, &mut room, last)?;
                }
                for l in (range.start.max(lowest)..range.end).rev() {
                    let below = l > lowest || embedding.is_some();
                    let slot = &mut saved[l - range.start.max(lowest)];
                    pass.backward(&self.weights.layers[l], &mut self.learner, slot, &mut room, &mut back, below)?;
                    watch(Phase::Backward, 2 * layers + 1 - l);
                }
            }
        }
        if let Some(id) = embedding {
            let Tensor { rows, cols, .. } = self.weights.embedding;
            scaled(d, &mut back.g, len, self.embedding_scale)?;
            let (ids, g) = (&self.ids, &back.g);
            self.learner.open(id, |mut into, add| {
                if !add {
                    d.fill(into.again(), rows * cols, 0.0)?;
                }
                d.embed_vjp(g.all(), ids.all(), m, rows, cols, into)
            })?;
            self.learner.close(d, id)?;
        }
        Ok(loss)
    }
}

/// Embedding rows, or the gradient that comes to them, times the model's own factor.
fn scaled(d: &dyn Device, x: &mut Buf, len: usize, by: f32) -> Result<()> {
    if by == 1.0 { Ok(()) } else { d.scale(x.all_mut(), len, by) }
}

/// Fills cosines and sines `(positions, half)`.
fn fill_table(d: &dyn Device, freqs: &[f64], positions: usize, [cos, sin]: &mut [Buf; 2]) -> Result<()> {
    let half = freqs.len();
    let (mut c, mut s) = (vec![0.0f32; half], vec![0.0f32; half]);
    for position in 0..positions {
        for (i, f) in freqs.iter().enumerate() {
            let (sine, cosine) = (position as f64 * f).sin_cos();
            (c[i], s[i]) = (cosine as f32, sine as f32);
        }
        d.upload(bytemuck::cast_slice(&c), cos.at_mut(position * half))?;
        d.upload(bytemuck::cast_slice(&s), sin.at_mut(position * half))?;
    }
    Ok(())
}

/// What the layers of a pass over `batch` share.
fn pass<'a>(
    d: &'a dyn Device,
    batch: &Batch,
    hidden: usize,
    eps: f32,
    half: usize,
    pairs: RopeLayout,
    turns: &'a [[Buf; 2]],
    [positions, segments]: [&'a Buf; 2],
) -> Pass<'a> {
    let rows = (batch.sequences, batch.length);
    Pass { d, m: batch.rows(), rows, hidden, eps, turns, half, pairs, positions, segments }
}
