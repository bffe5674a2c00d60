//! The Llama block on a GPU, kernel by kernel, over the same spans and positions as the CPU's.

use std::sync::Arc;

use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::forward::cpu::{BatchShape, PassObserver, Sequence};
use crate::forward::gpu::Sizes;
use crate::forward::gpu::adapter;
use crate::forward::gpu::weights::{self, Weights};
use crate::forward::runner::Runner;
use crate::kv::Pipeline;
use crate::kv::cache::ROWS;
use crate::ledger::{Buffer, Ledger};
use crate::model::Source;
use crate::model::adapter::AdapterFile;
use crate::ops::ThreadTeam;
use crate::ops::cuda::{Attend, Device, DeviceBuffer, Kernels, RopeTable, View};
use crate::place;
use crate::shape::{ModelShape, Role};

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
        let weights = weights::load(source, model, device, ledger, team, progress)?;
        let adapter = adapter.map(|file| adapter::Held::load(file, model.held, device, ledger)).transpose()?;
        let shape = model.held.clone();
        Ok(Self { shape, pipeline, formats, weights, adapter, ledger: Arc::clone(ledger), kernels })
    }

    fn attend<'a>(&self, l: usize, layer: &'a DeviceLayer) -> Attend<'a> {
        let s = &self.shape.layers[l].attention;
        Attend {
            cache: layer.buffer.view(),
            heads: s.heads,
            kv_heads: s.kv_heads,
            dim: s.dim,
            capacity: layer.capacity,
            formats: self.formats,
        }
    }

    fn turn<'a>(&self, workspace: &'a DeviceWorkspace, span: Span) -> Result<RopeTable<'a>> {
        let half = self.shape.half();
        let whole = workspace.angles.len() / 2;
        let (at, len) = (4 * span.at * half, 4 * span.rows * half);
        Ok(RopeTable {
            cosines: workspace.angles.part(at, len)?,
            sines: workspace.angles.part(whole + at, len)?,
            half,
            interleaved: self.shape.interleaved(),
        })
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
        let embedding = &self.shape.embedding;
        k.lookup(
            embedding.ty,
            self.weights.embedding.view(),
            embedding.cols,
            workspace.ids.view(),
            m,
            workspace.residual.view(),
        )?;
        for (seq, span) in seqs.iter().zip(&spans) {
            k.angles(self.weights.freqs.view(), self.turn(workspace, *span)?, seq.seen, span.rows)?;
        }
        for l in 0..self.shape.layers.len() {
            if team.cancelled() {
                return Err(Error::Cancelled);
            }
            self.block(l, m, &spans, seqs, workspace)?;
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
            let normed = workspace.layer.part(0, workspace.sizes.parts[0])?;
            k.rms_norm(
                workspace.residual.view(),
                self.weights.small.tensor(0, &self.shape.output_norm)?,
                self.shape.norm_eps,
                n,
                normed,
            )?;
            k.linear(
                head.ty,
                self.weights.head(),
                (head.rows, head.cols),
                normed,
                n,
                workspace.logits.view(),
                self.shape.vocab,
            )?;
            let bytes = 4 * n * self.shape.vocab;
            k.device().download(workspace.logits.part(0, bytes)?, &mut workspace.host.as_mut_slice()[..bytes])?;
        } else {
            k.device().wait()?;
        }
        Ok(())
    }

    /// One layer over the first `m` rows of the residual stream, in place.
    fn block(
        &self,
        l: usize,
        m: usize,
        spans: &[Span],
        seqs: &[Sequence<DeviceLayer>],
        workspace: &DeviceWorkspace,
    ) -> Result<()> {
        let (k, s, unit) = (&self.kernels, &self.shape.layers[l], &self.weights.layers[l]);
        let (of, eps, ff) = (&s.attention, self.shape.norm_eps, s.ffn.width());
        let (hidden, d, nq, nkv) = (self.shape.hidden, of.dim, of.q(), of.kv());
        let linear = |role: Role, x: View<'_>, y: View<'_>| {
            let t = s.tensors.need(role)?;
            k.linear(t.block()?, unit.role(&s.tensors, role)?, (t.rows, t.cols), x, m, y, t.rows)?;
            self.adapter.as_ref().map_or(Ok(()), |held| held.add(k, l, role, x, m, y, workspace.low.view()))
        };
        let [a, b, c] = workspace.sizes.parts;
        let (x, normed, wide, out) = (
            workspace.residual.view(),
            workspace.layer.part(0, a)?,
            workspace.layer.part(a, b)?,
            workspace.layer.part(a + b, c)?,
        );
        k.rms_norm(x, unit.role(&s.tensors, Role::AttnNorm)?, eps, m, normed)?;
        let q = wide.part(0, 4 * m * nq)?;
        let (keys, values) = (wide.part(4 * m * nq, 4 * m * nkv)?, wide.part(4 * m * (nq + nkv), 4 * m * nkv)?);
        linear(Role::Q, normed, q)?;
        linear(Role::K, normed, keys)?;
        linear(Role::V, normed, values)?;
        for (seq, span) in seqs.iter().zip(spans) {
            let part = |of, width| View::part(of, 4 * span.at * width, 4 * span.rows * width);
            let (q, keys, values) = (part(q, nq)?, part(keys, nkv)?, part(values, nkv)?);
            let turn = self.turn(workspace, *span)?;
            k.rope(q, (span.rows, of.heads, d), turn)?;
            k.rope(keys, (span.rows, of.kv_heads, d), turn)?;
            let cache = self.attend(l, &seq.layers[l]);
            k.append(cache, keys, values, seq.seen, span.rows)?;
            k.attend(cache, q, seq.seen, span.rows, part(normed, nq)?, workspace.attention.view())?;
        }
        linear(Role::O, normed, out)?;
        k.add(x, out, m * hidden)?;
        k.rms_norm(x, unit.role(&s.tensors, Role::FfnNorm)?, eps, m, normed)?;
        let (gate, up) = (wide.part(0, 4 * m * ff)?, wide.part(4 * m * ff, 4 * m * ff)?);
        linear(Role::Gate, normed, gate)?;
        linear(Role::Up, normed, up)?;
        k.swiglu(gate, up, m * ff)?;
        linear(Role::Down, gate, out)?;
        k.add(x, out, m * hidden)
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
