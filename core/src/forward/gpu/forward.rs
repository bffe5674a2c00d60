//! A pass on a GPU: the steps of a layer in the groups in which they are launched, over the same spans and positions as the CPU's. A
//! decoding step is captured once as a graph and run again for every token: what changes from token to token lies in the GPU's memory.

use std::cell::Cell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::{Cost, Meter};
use crate::error::{Error, Result};
use crate::forward::cpu::{BatchShape, PassObserver, Sequence};
use crate::forward::gpu::fuse::{self, Fused, Way, fuse};
use crate::forward::gpu::weights::{self, Weights};
use crate::forward::gpu::{BLAS, Sizes, adapter};
use crate::forward::runner::Runner;
use crate::forward::step::{self, Batch, Step};
use crate::kv::Pipeline;
use crate::kv::cache::ROWS;
use crate::ledger::Ledger;
use crate::model::Source;
use crate::model::adapter::AdapterFile;
use crate::ops::ThreadTeam;
use crate::ops::cpu::Compute;
use crate::ops::cuda::{
    Attend, Blas, CacheEntry, Device, DeviceBuffer, Graph, Kernels, Output, Pinned, Purpose, RopeTable, View,
};
use crate::ops::gpu::KernelTime;
use crate::place;
use crate::shape::ModelShape;

/// One layer of a sequence's cache: heads one after the other, each its keys, then its values.
#[derive(Debug)]
pub struct DeviceLayer {
    pub(super) buffer: DeviceBuffer,
    /// Rows a head has room for.
    pub(super) capacity: usize,
}

/// The buffers of one stretch of computing on a GPU.
pub struct DeviceWorkspace {
    pub(super) sizes: Sizes,
    /// How products are computed.
    pub(super) compute: Compute,
    pub(super) residual: DeviceBuffer,
    pub(super) layer: DeviceBuffer,
    pub(super) step: DeviceBuffer,
    pub(super) low: DeviceBuffer,
    pub(super) attention: DeviceBuffer,
    pub(super) angles: DeviceBuffer,
    pub(super) logits: DeviceBuffer,
    pub(super) half: DeviceBuffer,
    pub(super) expanded: DeviceBuffer,
    pub(super) window: DeviceBuffer,
    host: Pinned,
    staging: Pinned,
    /// The step of so many sequences as a graph; none before it has run once as it is.
    graph: Option<(usize, Option<Graph>)>,
}

/// A model on a GPU, ready to compute.
pub struct GpuForward {
    pub(super) shape: ModelShape,
    pub(super) pipeline: Pipeline,
    formats: (BlockType, BlockType),
    pub(super) weights: Weights,
    pub(super) adapter: Option<adapter::Held>,
    ledger: Arc<Ledger>,
    pub(super) kernels: Kernels,
    pub(super) blas: Blas,
    meter: Meter,
    /// The steps of each layer as they are launched.
    fused: Vec<Vec<(Fused, Vec<Step>)>>,
    /// Bytes that graphs took outside the pool, at most.
    graphs: Cell<u64>,
}

impl Span {
    /// Its rows `first .. first + n` of what a batch has `width` floats a row of.
    pub(super) fn part<'a>(&self, of: View<'a>, width: usize, first: usize, n: usize) -> Result<View<'a>> {
        of.part(4 * (self.at + first) * width, 4 * n * width)
    }
}

/// New rows of one sequence in a batch.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub at: usize,
    pub rows: usize,
}

/// A batch on its way through the layers.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    pub seqs: &'a [Sequence<DeviceLayer>],
    pub spans: &'a [Span],
    /// Rows of all of them.
    pub m: usize,
    pub way: Way,
    pub batch: Batch,
    pub workspace: &'a DeviceWorkspace,
    pub team: &'a ThreadTeam,
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
        let weights = weights::load(source, model, &kernels, ledger, team, pipeline.context(), progress)?;
        let blas = Blas::new(device, device.buffer(ledger, BLAS.0, BLAS.1)?)?;
        let adapter = adapter.map(|file| adapter::Held::load(file, model.held, device, ledger)).transpose()?;
        let shape = model.held.clone();
        let fused = shape.layers.iter().map(fuse).collect();
        Ok(Self {
            shape,
            pipeline,
            formats,
            weights,
            adapter,
            ledger: Arc::clone(ledger),
            kernels,
            blas,
            meter: Meter::default(),
            fused,
            graphs: Cell::new(0),
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

    pub(super) fn attend<'a>(&self, l: usize, cache: View<'a>, capacity: usize) -> Attend<'a> {
        let s = &self.shape.layers[l].attention;
        Attend {
            cache,
            heads: s.heads,
            kv_heads: s.kv_heads,
            dim: s.dim,
            scale: s.scale,
            cap: s.cap,
            capacity,
            formats: self.formats,
        }
    }

    /// The angles of a span's rows by rotation `rope`.
    pub(super) fn turn<'a>(&self, workspace: &'a DeviceWorkspace, rope: usize, span: Span) -> Result<RopeTable<'a>> {
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

    /// Rows of the embedding, times the model's own factor, and the angles of every rotation, of the tokens whose ids are there.
    fn embed(&self, p: Passing<'_>) -> Result<()> {
        let (k, shape, workspace) = (&self.kernels, &self.shape, p.workspace);
        let ids = workspace.step.part(0, 4 * p.m)?;
        k.lookup(self.weights.embedding(shape)?, ids, p.m, workspace.residual.view(), shape.embedding_scale)?;
        let half = shape.half();
        for (i, rope) in shape.ropes.iter().enumerate() {
            let freqs = self.weights.freqs.part(8 * half * i, 8 * half)?;
            if p.way.single {
                let positions = workspace.step.part(workspace.sizes.step.positions, 4 * p.m)?;
                let turn = self.turn(workspace, i, Span { at: 0, rows: p.m })?;
                k.turn(freqs, positions, turn, p.m, rope.amplitude)?;
                continue;
            }
            for (seq, span) in p.seqs.iter().zip(p.spans) {
                k.angles(freqs, self.turn(workspace, i, *span)?, seq.seen, span.rows, rope.amplitude)?;
            }
        }
        Ok(())
    }

    /// The last row of each span through norm and head; the rows have been moved to the front.
    fn head(&self, p: Passing<'_>) -> Result<()> {
        let (n, shape, workspace) = (p.spans.len(), &self.shape, p.workspace);
        let norm = (self.weights.small.tensor(0, &shape.output_norm)?, shape.norm_eps);
        // Logits are linear: their factor stands after the product, before their cap.
        let purpose = Purpose::Store { scale: shape.logit_scale, cap: shape.logit_cap };
        let output = Output { w: self.weights.head(shape)?, y: workspace.logits.view(), bias: None };
        self.kernels.product(workspace.residual.view(), n, Some(norm), &[output], purpose)
    }

    /// What a batch reads beside weights and activations: token ids, and for a step positions and where caches lie.
    fn stage(
        &self,
        seqs: &[Sequence<DeviceLayer>],
        pieces: &[&[u32]],
        single: bool,
        workspace: &mut DeviceWorkspace,
    ) -> Result<()> {
        let (table, bytes) = (workspace.sizes.step, workspace.staging.bytes_mut());
        let ids: &mut [u32] = bytemuck::cast_slice_mut(&mut bytes[..table.positions]);
        for (id, token) in ids.iter_mut().zip(pieces.iter().copied().flatten()) {
            if *token as usize >= self.shape.vocab {
                return Err(Error::Internal(format!("token {token} is not in the vocabulary of {}", self.shape.vocab)));
            }
            *id = *token;
        }
        if single {
            let positions: &mut [i32] = bytemuck::cast_slice_mut(&mut bytes[table.positions..table.caches]);
            for (position, seq) in positions.iter_mut().zip(seqs) {
                *position = i32::try_from(seq.seen).unwrap_or(i32::MAX);
            }
            let caches: &mut [CacheEntry] = bytemuck::cast_slice_mut(&mut bytes[table.caches..table.arrived]);
            for (i, entry) in caches.iter_mut().take(self.shape.layers.len() * seqs.len()).enumerate() {
                let (l, seq) = (i / seqs.len(), &seqs[i % seqs.len()]);
                let layer = &seq.layers[l];
                if seq.seen >= layer.capacity && self.shape.layers[l].attention.window.is_none() {
                    return Err(Error::Internal(format!("row {} of a cache of {}", seq.seen, layer.capacity)));
                }
                let capacity = i32::try_from(layer.capacity).unwrap_or(i32::MAX);
                *entry = CacheEntry { at: layer.buffer.view().address(), capacity, pad: 0 };
            }
        }
        let n = if single { table.arrived } else { table.positions };
        self.kernels.device().send(&workspace.staging, workspace.step.part(0, n)?)
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
        let mut m = 0;
        for tokens in pieces {
            spans.push(Span { at: m, rows: tokens.len() });
            m += tokens.len();
        }
        // Those seen before, and their own.
        let seen = seqs.iter().map(|s| s.seen).max().unwrap_or(0);
        let batch = Batch { rows: m, sequences: spans.len(), cached: (seen + m / spans.len().max(1)) as f64 };
        let way = Way::new(&self.shape, workspace.compute, batch);
        self.stage(seqs, pieces, way.single, workspace)?;
        let steps = self.shape.layers.iter().all(|l| way.step(l));
        if way.fused() && steps && with_head && !self.meter.observed() && !self.kernels.timing() {
            let ready = matches!(&workspace.graph, Some((n, _)) if *n == m);
            if ready {
                self.replay(seqs, &spans, batch, way, workspace, team, watch, (done, total))?;
            } else {
                self.queue(seqs, &spans, batch, way, with_head, workspace, team, watch, (done, total))?;
                workspace.graph = Some((m, None));
            }
        } else {
            self.queue(seqs, &spans, batch, way, with_head, workspace, team, watch, (done, total))?;
        }
        for (seq, span) in seqs.iter_mut().zip(&spans) {
            seq.seen += span.rows;
        }
        if !with_head {
            return k.device().wait();
        }
        let bytes = 4 * spans.len() * self.shape.vocab;
        debug_assert!(hidden > 0);
        k.device().download(workspace.logits.part(0, bytes)?, &mut workspace.host.bytes_mut()[..bytes])
    }

    /// Every kernel of a pass, each step through the meter.
    fn queue(
        &self,
        seqs: &[Sequence<DeviceLayer>],
        spans: &[Span],
        batch: Batch,
        way: Way,
        with_head: bool,
        workspace: &DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
        (done, total): (usize, usize),
    ) -> Result<()> {
        let p = Passing { seqs, spans, m: batch.rows, way, batch, workspace, team };
        self.metered(None, &[step::BEGIN], p, || fuse::begin_launches(&self.shape, way, batch), || self.embed(p))?;
        for l in 0..self.shape.layers.len() {
            for (fused, steps) in &self.fused[l] {
                let launches = || fuse::launches(&self.shape, l, *fused, way, batch);
                self.metered(Some(l), steps, p, launches, || self.fused(l, *fused, p))?;
            }
            watch.progress(done + l + 1, total);
        }
        if !with_head {
            return Ok(());
        }
        // The last row of each span, moved to the front; the batch is in order, so none is overwritten before it moves.
        let row = 4 * self.shape.hidden;
        for (i, span) in spans.iter().enumerate() {
            let last = span.at + span.rows - 1;
            if last != i {
                let (from, to) = (workspace.residual.part(last * row, row)?, workspace.residual.part(i * row, row)?);
                self.kernels.device().copy(from, to)?;
            }
        }
        let of_head = Passing { batch: Batch { rows: spans.len(), sequences: spans.len(), ..batch }, ..p };
        self.metered(None, &step::END, of_head, || fuse::end_launches(&self.shape, spans.len()), || self.head(p))
    }

    /// A step of single rows as a graph, captured where that has not been done: its steps pass the meter first, and are queued at once.
    fn replay(
        &self,
        seqs: &[Sequence<DeviceLayer>],
        spans: &[Span],
        batch: Batch,
        way: Way,
        workspace: &mut DeviceWorkspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
        (done, total): (usize, usize),
    ) -> Result<()> {
        let p = Passing { seqs, spans, m: batch.rows, way, batch, workspace, team };
        let nothing = |l, steps| self.metered(l, steps, p, || 0, || Ok(()));
        nothing(None, &[step::BEGIN][..])?;
        for (l, fused) in self.fused.iter().enumerate() {
            fused.iter().try_for_each(|(_, steps)| nothing(Some(l), steps))?;
            watch.progress(done + l + 1, total);
        }
        nothing(None, &step::END[..])?;
        let graph = match &workspace.graph {
            Some((_, Some(graph))) => return self.kernels.replay(graph),
            _ => self.kernels.capture(|| {
                self.embed(p)?;
                for (l, fused) in self.fused.iter().enumerate() {
                    fused.iter().try_for_each(|(fused, _)| self.fused(l, *fused, p))?;
                }
                self.head(p)
            })?,
        };
        self.graphs.set(self.graphs.get().max(graph.outside()));
        self.kernels.replay(&graph)?;
        workspace.graph = Some((batch.rows, Some(graph)));
        Ok(())
    }

    /// Carries `steps` out, the kernels of all of them with the last, unless the job was cancelled or one of them is to fail.
    fn metered(
        &self,
        layer: Option<usize>,
        steps: &[Step],
        p: Passing<'_>,
        launches: impl FnOnce() -> usize,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let observed = self.meter.observed();
        let cost = |step: &Step| if observed { step.cost(&self.shape, layer, p.batch) } else { Cost::default() };
        let Some((last, before)) = steps.split_last() else { return Ok(()) };
        for step in before {
            self.meter.run_unless(p.team.cancelled(), step.name(), cost(step), || Ok(()))?;
        }
        let mut all = cost(last);
        if observed {
            all.launches = launches();
        }
        self.meter.run_unless(p.team.cancelled(), last.name(), all, work)
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
        let sizes = Sizes::new(&self.shape, &self.pipeline, e);
        let [rows @ .., host, staging] = sizes.rows();
        let buffer = |(tag, bytes)| self.kernels.device().buffer(&self.ledger, tag, bytes);
        let [residual, layer, step, low, attention, angles, logits, half, expanded, window] = rows.map(buffer);
        let pinned = |(tag, bytes)| Pinned::new(self.kernels.device(), &self.ledger, tag, bytes);
        Ok(DeviceWorkspace {
            sizes,
            compute: e.compute,
            residual: residual?,
            layer: layer?,
            step: step?,
            low: low?,
            attention: attention?,
            angles: angles?,
            logits: logits?,
            half: half?,
            expanded: expanded?,
            window: window?,
            host: pinned(host)?,
            staging: pinned(staging)?,
            graph: None,
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
        &bytemuck::cast_slice(workspace.host.bytes())[i * self.shape.vocab..(i + 1) * self.shape.vocab]
    }

    fn time_kernels(&self) {
        self.kernels.time();
    }

    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        self.kernels.times()
    }

    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut rows = self.kernels.device().counts()?;
        rows.push(("cuda kernels", self.kernels.outside()));
        rows.push(("cublas", self.blas.outside()));
        rows.push(("cuda graphs", self.graphs.get()));
        Ok(rows)
    }
}
