//! A layer's steps on a GPU, kernel by kernel, over the same spans and positions as the CPU's.

use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::Meter;
use crate::error::{Error, Result};
use crate::forward::cpu::{BatchShape, PassObserver, Sequence};
use crate::forward::gpu::Sizes;
use crate::forward::gpu::adapter;
use crate::forward::gpu::weights::{self, Weights};
use crate::forward::runner::Runner;
use crate::forward::step::{self, Batch, Metered, Slot, Step};
use crate::kv::Pipeline;
use crate::kv::cache::ROWS;
use crate::ledger::{Buffer, Ledger};
use crate::model::Source;
use crate::model::adapter::AdapterFile;
use crate::ops::ThreadTeam;
use crate::ops::cuda::{Attend, Device, DeviceBuffer, Kernels, RopeTable, View};
use crate::place;
use crate::shape::{Act, ModelShape};

/// One layer of a sequence's cache: heads one after the other, each its keys, then its values.
#[derive(Debug)]
pub struct DeviceLayer {
    buffer: DeviceBuffer,
    /// Rows a head has room for.
    capacity: usize,
}

/// The buffers of one stretch of computing on a GPU.
#[derive(Debug)]
pub struct DeviceWorkspace {
    sizes: Sizes,
    residual: DeviceBuffer,
    layer: DeviceBuffer,
    ids: DeviceBuffer,
    low: DeviceBuffer,
    attention: DeviceBuffer,
    angles: DeviceBuffer,
    logits: DeviceBuffer,
    host: Buffer,
}

/// A model on a GPU, ready to compute.
pub struct GpuForward {
    shape: ModelShape,
    pipeline: Pipeline,
    formats: (BlockType, BlockType),
    weights: Weights,
    adapter: Option<adapter::Held>,
    ledger: Arc<Ledger>,
    kernels: Kernels,
    meter: Meter,
}

impl Span {
    /// Its rows `first .. first + n` of what a batch has `width` floats a row of.
    fn part<'a>(&self, of: View<'a>, width: usize, first: usize, n: usize) -> Result<View<'a>> {
        of.part(4 * (self.at + first) * width, 4 * n * width)
    }
}

/// Rows of a batch before and after attention.
#[derive(Clone, Copy)]
struct Projected<'a> {
    q: View<'a>,
    keys: View<'a>,
    values: View<'a>,
    out: View<'a>,
}

/// New rows of one sequence in a batch.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    rows: usize,
}

impl GpuForward {
    /// Loads a model whose choices [`crate::forward::gpu::check`] has passed; `formats` are those of keys and values.
    ///
    /// # Errors
    /// Over budget, a damaged file, cancellation, the driver's.
    pub fn load(
        source: &Source,
        adapter: Option<&AdapterFile>,
        model: place::Model<'_>,
        pipeline: Pipeline,
        formats: (BlockType, BlockType),
        device: &Arc<Device>,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self> {
        let kernels = Kernels::new(Arc::clone(device))?;
        let weights = weights::load(source, model, device, ledger, team, pipeline.context(), progress)?;
        let adapter = adapter.map(|file| adapter::Held::load(file, model.held, device, ledger)).transpose()?;
        let shape = model.held.clone();
        Ok(Self {
            shape,
            pipeline,
            formats,
            weights,
            adapter,
            ledger: Arc::clone(ledger),
            kernels,
            meter: Meter::default(),
        })
    }

    /// What it has been asked for, step by step.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Kernels launched so far.
    pub fn launched(&self) -> u64 {
        self.kernels.launched()
    }

    fn attend<'a>(&self, l: usize, layer: &'a DeviceLayer) -> Attend<'a> {
        let s = &self.shape.layers[l].attention;
        Attend {
            cache: layer.buffer.view(),
            heads: s.heads,
            kv_heads: s.kv_heads,
            dim: s.dim,
            scale: s.scale,
            cap: s.cap,
            capacity: layer.capacity,
            formats: self.formats,
        }
    }

    /// The angles of a span's rows by rotation `rope`.
    fn turn<'a>(&self, workspace: &'a DeviceWorkspace, rope: usize, span: Span) -> Result<RopeTable<'a>> {
        let half = self.shape.half();
        let whole = workspace.angles.len() / 2 / self.shape.ropes.len().max(1);
        let (at, len) = (4 * span.at * half + 2 * whole * rope, 4 * span.rows * half);
        Ok(RopeTable {
            cosines: workspace.angles.part(at, len)?,
            sines: workspace.angles.part(whole + at, len)?,
            half,
            interleaved: self.shape.interleaved(),
        })
    }

    /// Rows of the embedding, times the model's own factor, and the angles of every rotation, of the `m` tokens whose ids are there.
    fn embed(
        &self,
        seqs: &[Sequence<DeviceLayer>],
        spans: &[Span],
        m: usize,
        workspace: &DeviceWorkspace,
    ) -> Result<()> {
        let (k, shape, x) = (&self.kernels, &self.shape, workspace.residual.view());
        let (table, ids) = (self.weights.embedding.view(), workspace.ids.view());
        k.lookup(shape.embedding.block()?, table, shape.embedding.cols, ids, m, x)?;
        if shape.embedding_scale != 1.0 {
            k.scale(x, m * shape.hidden, shape.embedding_scale)?;
        }
        let half = shape.half();
        for (i, rope) in shape.ropes.iter().enumerate() {
            let freqs = self.weights.freqs.part(8 * half * i, 8 * half)?;
            for (seq, span) in seqs.iter().zip(spans) {
                k.angles(freqs, self.turn(workspace, i, *span)?, seq.seen, span.rows, rope.amplitude)?;
            }
        }
        Ok(())
    }

    /// A batch through every layer: `pieces[i]` are the new tokens of sequence `i`.
    fn pass(
        &self,
        seqs: &mut [Sequence<DeviceLayer>],
        pieces: &[&[u32]],
        with_head: bool,
        workspace: &mut DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
        (done, total): (usize, usize),
    ) -> Result<()> {
        let (k, hidden) = (&self.kernels, self.shape.hidden);
        let mut spans = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for tokens in pieces {
            if let Some(id) = tokens.iter().find(|id| **id as usize >= self.shape.vocab) {
                return Err(Error::Internal(format!("token {id} is not in the vocabulary of {}", self.shape.vocab)));
            }
            let ids = workspace.ids.part(4 * at, 4 * tokens.len())?;
            k.device().upload(bytemuck::cast_slice(tokens), ids)?;
            spans.push(Span { at, rows: tokens.len() });
            at += tokens.len();
        }
        let m = at;
        let metered = self.metered(None, seqs, (m, spans.len()));
        metered.run(step::BEGIN, team, || self.embed(seqs, &spans, m, workspace))?;
        for l in 0..self.shape.layers.len() {
            self.block(l, m, &spans, seqs, workspace, team)?;
            watch.progress(done + l + 1, total);
        }
        for (seq, span) in seqs.iter_mut().zip(&spans) {
            seq.seen += span.rows;
        }
        if with_head {
            // The last row of each span, moved to the front; the batch is in order, so none is overwritten before it moves.
            for (i, span) in spans.iter().enumerate() {
                let last = span.at + span.rows - 1;
                if last != i {
                    let row = 4 * hidden;
                    k.device()
                        .copy(workspace.residual.part(last * row, row)?, workspace.residual.part(i * row, row)?)?;
                }
            }
            let (n, head) = (spans.len(), self.shape.head());
            let normed = workspace.layer.part(0, 4 * n * hidden)?;
            let [norm, logits] = step::END;
            let metered = self.metered(None, seqs, (n, n));
            metered.run(norm, team, || {
                let w = self.weights.small.tensor(0, &self.shape.output_norm)?;
                k.rms_norm(workspace.residual.view(), w, self.shape.norm_eps, n, normed)?;
                // Logits are linear: their factor may stand before the product.
                let by = self.shape.logit_scale;
                if by == 1.0 { Ok(()) } else { k.scale(normed, n * hidden, by) }
            })?;
            metered.run(logits, team, || {
                let (w, dims) = (self.weights.head(), (head.rows, head.cols));
                k.linear(head.block()?, w, dims, normed, n, workspace.logits.view(), self.shape.vocab)?;
                let logits = || workspace.logits.part(0, 4 * n * self.shape.vocab);
                self.shape.logit_cap.map_or(Ok(()), |cap| k.soft_cap(logits()?, n * self.shape.vocab, cap))
            })?;
            let bytes = 4 * n * self.shape.vocab;
            k.device().download(workspace.logits.part(0, bytes)?, &mut workspace.host.as_mut_slice()[..bytes])?;
        } else {
            k.device().wait()?;
        }
        Ok(())
    }

    /// One layer over the first `m` rows of the residual stream, in place: its steps, each through the meter.
    fn block(
        &self,
        l: usize,
        m: usize,
        spans: &[Span],
        seqs: &[Sequence<DeviceLayer>],
        workspace: &DeviceWorkspace,
        team: &ThreadTeam,
    ) -> Result<()> {
        let (k, s, unit) = (&self.kernels, &self.shape.layers[l], &self.weights.layers[l]);
        let (eps, hidden, residual) = (self.shape.norm_eps, self.shape.hidden, self.shape.residual_scale);
        let at = |slot: Slot| {
            let place = workspace.sizes.places.at(slot, s, hidden, m);
            let buffer = if slot == Slot::Stream { &workspace.residual } else { &workspace.layer };
            buffer.part(4 * place.start, 4 * place.len())
        };
        let metered = self.metered(Some(l), seqs, (m, spans.len()));
        for step in step::layer(s) {
            metered.run(step, team, || match step {
                Step::Norm { role, from, to } => {
                    // Over rows, or over their heads.
                    let (x, w) = (at(from)?, unit.role(&s.tensors, role)?);
                    k.rms_norm(x, w, eps, x.len() / w.len().max(1), at(to)?)
                }
                Step::Linears { from, to } => to.iter().try_for_each(|(role, to)| {
                    let (x, y, t) = (at(from)?, at(*to)?, s.tensors.need(*role)?);
                    k.linear(t.block()?, unit.role(&s.tensors, *role)?, (t.rows, t.cols), x, m, y, t.rows)?;
                    if let Some(held) = &self.adapter {
                        held.add(k, l, *role, x, m, y, workspace.low.view())?;
                    }
                    let bias = role.bias().filter(|bias| s.tensors.has(*bias));
                    bias.map_or(Ok(()), |bias| k.bias(y, unit.role(&s.tensors, bias)?, m))
                }),
                Step::KvAttend => {
                    let [q, keys, values, out] = [at(Slot::Q)?, at(Slot::K)?, at(Slot::V)?, at(Slot::Context)?];
                    let all = Projected { q, keys, values, out };
                    seqs.iter().zip(spans).try_for_each(|(seq, span)| self.kv_attend(l, all, seq, *span, workspace))
                }
                Step::Gate(Act::Silu) => k.swiglu(at(Slot::Gate)?, at(Slot::Up)?, m * s.ffn.width()),
                Step::Gate(Act::GeluTanh) => k.geglu(at(Slot::Gate)?, at(Slot::Up)?, m * s.ffn.width()),
                Step::Add if residual == 1.0 => k.add(at(Slot::Stream)?, at(Slot::Out)?, m * hidden),
                Step::Add => k.add_scaled(at(Slot::Stream)?, at(Slot::Out)?, m * hidden, residual),
                // The check refused a layer that has these.
                Step::Gate(Act::ClampedSwiglu) | Step::Experts | Step::Embed | Step::Logits => {
                    Err(Error::Internal(format!("a GPU was asked for {}", step.name())))
                }
            })?;
        }
        Ok(())
    }

    /// Turns the rows of a span, appends them to the cache of layer `l`, and attends. A layer with a window keeps its rows in a ring of as
    /// many as it sees, so beyond it one row comes after the other: what a query sees is the ring when its own row is in it.
    fn kv_attend(
        &self,
        l: usize,
        all: Projected<'_>,
        seq: &Sequence<DeviceLayer>,
        span: Span,
        workspace: &DeviceWorkspace,
    ) -> Result<()> {
        let (k, of) = (&self.kernels, &self.shape.layers[l].attention);
        let (nq, nkv, d) = (of.q(), of.kv(), of.dim);
        if let Some(rope) = of.rope {
            let turn = self.turn(workspace, rope, span)?;
            k.rope(span.part(all.q, nq, 0, span.rows)?, (span.rows, of.heads, d), turn)?;
            k.rope(span.part(all.keys, nkv, 0, span.rows)?, (span.rows, of.kv_heads, d), turn)?;
        }
        let layer = &seq.layers[l];
        let (cache, parts) = (self.attend(l, layer), workspace.attention.view());
        let ring = of.window.is_some() && seq.seen + span.rows > layer.capacity;
        let each = if ring { 1 } else { span.rows.max(1) };
        for at in (0..span.rows).step_by(each) {
            let part = |of, width| span.part(of, width, at, each);
            let position = seq.seen + at;
            let (first, before) = match ring {
                true => (position % layer.capacity.max(1), position.min(layer.capacity.saturating_sub(1))),
                false => (position, position),
            };
            k.append(cache, part(all.keys, nkv)?, part(all.values, nkv)?, first, each)?;
            k.attend(cache, part(all.q, nq)?, before, each, part(all.out, nq)?, parts)?;
        }
        Ok(())
    }

    /// What steps over `rows` rows of `sequences` sequences go through.
    fn metered(
        &self,
        layer: Option<usize>,
        seqs: &[Sequence<DeviceLayer>],
        (rows, sequences): (usize, usize),
    ) -> Metered<'_> {
        // Those seen before, and their own.
        let seen = seqs.iter().map(|s| s.seen).max().unwrap_or(0);
        let cached = (seen + rows / sequences.max(1)) as f64;
        Metered { meter: &self.meter, shape: &self.shape, layer, batch: Batch { rows, sequences, cached } }
    }
}

impl Runner for GpuForward {
    type Layer = DeviceLayer;
    type Workspace = DeviceWorkspace;

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn workspace(&self, _team: &ThreadTeam, e: BatchShape) -> Result<DeviceWorkspace> {
        let sizes = Sizes::new(&self.shape, e);
        let [residual, layer, ids, low, attention, angles, logits, (host_tag, host)] = sizes.rows();
        let buffer = |(tag, bytes)| self.kernels.device().buffer(&self.ledger, tag, bytes);
        Ok(DeviceWorkspace {
            sizes,
            residual: buffer(residual)?,
            layer: buffer(layer)?,
            ids: buffer(ids)?,
            low: buffer(low)?,
            attention: buffer(attention)?,
            angles: buffer(angles)?,
            logits: buffer(logits)?,
            host: self.ledger.buffer(host_tag, host)?,
        })
    }

    fn sequence(&self, prompt: usize) -> Result<Sequence<DeviceLayer>> {
        let mut layers = Vec::with_capacity(self.shape.layers.len());
        for (l, s) in self.shape.layers.iter().enumerate() {
            // Every row is kept, so all heads have the same room.
            let capacity = self.pipeline.capacity(l, 0, prompt);
            let bytes = s.attention.kv_heads * capacity * self.pipeline.rows[l].bytes();
            layers.push(DeviceLayer { buffer: self.kernels.device().buffer(&self.ledger, ROWS, bytes)?, capacity });
        }
        Ok(Sequence { layers, seen: 0, prompt })
    }

    fn prefill(
        &mut self,
        seq: &mut Sequence<DeviceLayer>,
        tokens: &[u32],
        workspace: &mut DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        self.extend(seq, tokens, true, workspace, team, watch)
    }

    fn extend(
        &mut self,
        seq: &mut Sequence<DeviceLayer>,
        tokens: &[u32],
        with_head: bool,
        workspace: &mut DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let batch = workspace.residual.len() / (4 * self.shape.hidden);
        let (pieces, layers) = (tokens.len().div_ceil(batch), self.shape.layers.len());
        for (i, piece) in tokens.chunks(batch).enumerate() {
            let head = with_head && i + 1 == pieces;
            self.pass(
                std::slice::from_mut(seq),
                &[piece],
                head,
                workspace,
                team,
                watch,
                (i * layers, pieces * layers),
            )?;
        }
        Ok(())
    }

    fn decode(
        &mut self,
        seqs: &mut [Sequence<DeviceLayer>],
        tokens: &[u32],
        workspace: &mut DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let pieces: Vec<&[u32]> = tokens.chunks(1).collect();
        self.pass(seqs, &pieces, true, workspace, team, watch, (0, self.shape.layers.len()))
    }

    fn fork(&self, seqs: &mut [Sequence<DeviceLayer>]) -> Result<()> {
        let Some((first, rest)) = seqs.split_first_mut() else { return Ok(()) };
        for seq in rest {
            for (from, to) in first.layers.iter().zip(&seq.layers) {
                self.kernels.device().copy(from.buffer.view(), to.buffer.view())?;
            }
            seq.seen = first.seen;
        }
        Ok(())
    }

    fn truncate(&self, seq: &mut Sequence<DeviceLayer>, seen: usize) {
        seq.seen = seq.seen.min(seen);
    }

    fn logits<'a>(&self, workspace: &'a DeviceWorkspace, i: usize) -> &'a [f32] {
        &workspace.host.as_slice()[i * self.shape.vocab..(i + 1) * self.shape.vocab]
    }

    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        self.kernels.device().counts()
    }
}
