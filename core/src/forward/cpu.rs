//! Our own forward pass: the Llama block over borrowed weights, the cache pipeline, and tile attention.
//!
//! One block serves prefill, extend and decode. Rows of a batch are independent of each other and of how the prompt was cut
//! into batches, so what only changes memory or speed (batch, threads, placement, alloc) gives the same bits.

use std::ops::Range;
use std::sync::Arc;

use super::adapter;
use super::cached::{Cached, Projected, Scratch, Span};
use super::layer::{self, Rows};
pub use super::observer::{HeadRows, PassObserver, Unwatched};
use super::rotary::Turn;
use super::step::{self, Batch, Metered, Slot, Step};
use super::workspace::RESIDUAL;
pub use super::workspace::{BatchShape, Stage, Workspace};
use crate::device::Meter;
use crate::error::{Error, Result};
use crate::kv::Pipeline;
use crate::kv::cache::{LayerCache, STAGING};
use crate::ledger::Ledger;
use crate::ops::ThreadTeam;
use crate::ops::cpu::vjp::{axpy, scale};
use crate::ops::cpu::{Compute, Product, SEGMENT, add, linear_many_as, rms_norm, soft_cap};
use crate::place::WeightSource;
use crate::shape::{ModelShape, Role};

/// One sequence: its cache and how many tokens it has seen.
#[derive(Debug)]
pub struct Sequence<L = LayerCache> {
    /// Its cache, a layer each.
    pub layers: Vec<L>,
    /// Tokens seen: the next token's position. Never the number of rows kept.
    pub seen: usize,
    /// Tokens of its prompt, which fixes some policies' quotas.
    pub prompt: usize,
}
/// A loaded model with its techniques, ready to compute.
pub struct Forward {
    /// Types as held.
    pub shape: ModelShape,
    /// The cache's techniques.
    pub pipeline: Pipeline,
    pub(super) weights: Box<dyn WeightSource>,
    adapter: Option<adapter::Held>,
    pub(super) ledger: Arc<Ledger>,
    /// Each rotation, as it turns in this run.
    pub(super) turns: Vec<Turn>,
    /// Layer and query head whose attention is told.
    pub(super) observed: Option<[usize; 2]>,
    /// 0, 1, 2, …: the row of each token in a table of its own batch.
    order: Vec<u32>,
    /// What every step passes.
    meter: Meter,
}

impl Forward {
    /// A model from its loaded weights.
    pub fn new(shape: ModelShape, pipeline: Pipeline, weights: Box<dyn WeightSource>, ledger: Arc<Ledger>) -> Self {
        // A file's divisors belong to the first rotation.
        let divisors = |i: usize| weights.rope_freqs().filter(|_| i == 0);
        let turn = |(i, r)| Turn::new(r, divisors(i), pipeline.context());
        let turns = shape.ropes.iter().enumerate().map(turn).collect();
        Self {
            shape,
            pipeline,
            weights,
            adapter: None,
            ledger,
            turns,
            observed: None,
            order: Vec::new(),
            meter: Meter::default(),
        }
    }

    /// The same model with the adapter that its shape tells of.
    pub fn with_adapter(self, adapter: Option<adapter::Held>) -> Self {
        Self { adapter, ..self }
    }

    /// Tells from now on what this query head of this layer looks at, in rooms and sequences made after this; `None` for
    /// nothing.
    pub fn observe(&mut self, head: Option<[usize; 2]>) {
        self.observed = head.filter(|[l, h]| self.shape.layers.get(*l).is_some_and(|s| *h < s.attention.heads));
    }

    /// What it has been asked for, step by step.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// KV head of a query head of layer `l`.
    fn shared(&self, l: usize, head: usize) -> usize {
        let of = &self.shape.layers[l].attention;
        head / (of.heads / of.kv_heads.max(1)).max(1)
    }

    /// The buffers of an extent.
    ///
    /// # Errors
    /// Over budget.
    pub fn workspace(&self, threads: usize, e: BatchShape) -> Result<Workspace> {
        Workspace::new(&self.shape, &self.pipeline, threads, e, &self.turns, &self.ledger)
    }

    /// An empty sequence.
    ///
    /// # Errors
    /// Over budget.
    pub fn sequence(&self, prompt: usize) -> Result<Sequence> {
        let mut layers = self.pipeline.sequence(&self.ledger, prompt)?;
        if let Some([l, head]) = self.observed {
            let head = self.shared(l, head);
            layers[l].follow(&self.ledger, head, self.pipeline.capacity(l, head, prompt))?;
        }
        Ok(Sequence { layers, seen: 0, prompt })
    }

    /// The extent of reading a prompt of `prompt` tokens in batches of `batch`.
    pub fn prefill_shape(pipeline: &Pipeline, prompt: usize, batch: usize) -> BatchShape {
        let batch = batch.min(prompt).max(1);
        let (stream, stage) = if pipeline.stages(prompt) { (prompt, Stage::Settle) } else { (batch, Stage::Read) };
        BatchShape {
            batch,
            stream,
            rows: prompt.max(1),
            sequences: 1,
            compute: Compute::Exact,
            observe: false,
            map: false,
            stage,
        }
    }

    /// The extent of decoding `sequences` sequences that end at `seen` tokens each.
    pub fn decode_shape(
        pipeline: &Pipeline,
        shape: &ModelShape,
        prompt: usize,
        seen: usize,
        sequences: usize,
    ) -> BatchShape {
        let rows = (0..shape.layers.len())
            .flat_map(|l| (0..shape.layers[l].attention.kv_heads).map(move |h| (l, h)))
            .map(|(l, h)| {
                let gone = if pipeline.window(l).is_some() { SEGMENT - 1 } else { 0 };
                (pipeline.capacity(l, h, prompt) + gone).min(seen)
            })
            .max()
            .unwrap_or(0);
        BatchShape {
            batch: sequences,
            stream: sequences,
            rows: rows.max(1),
            sequences,
            compute: Compute::Exact,
            observe: false,
            map: false,
            stage: Stage::Step,
        }
    }

    /// Reads a prompt into an empty sequence; the logits of its last token are left in `room`.
    ///
    /// # Errors
    /// Over budget, cancellation, or what reading weights may meet.
    pub fn prefill(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let n = tokens.len();
        let batch = workspace.sizes.places.out / self.shape.hidden;
        let layers = self.shape.layers.len();
        if self.pipeline.stages(n) {
            // Layer by layer: every layer reads the whole prompt through its own staging, then keeps what the policy keeps.
            let hidden = self.shape.hidden;
            let mut residual = std::mem::replace(&mut workspace.residual, self.ledger.buffer(RESIDUAL, 0)?);
            let x = residual.as_mut_slice::<f32>();
            self.embed(&[tokens], x, workspace, team)?;
            self.weights.begin_pass(true);
            let mut staging: Option<LayerCache> = None;
            let pieces = n.div_ceil(batch);
            for l in 0..layers {
                let mut stage = match staging.take() {
                    Some(mut s)
                        if s.layout() == self.pipeline.rows[l]
                            && s.heads() == self.shape.layers[l].attention.kv_heads =>
                    {
                        s.clear(true);
                        s
                    }
                    other => {
                        drop(other);
                        self.pipeline.staging(&self.ledger, l, n, STAGING)?
                    }
                };
                for (i, rows) in x.chunks_mut(batch * hidden).enumerate() {
                    workspace.last = i + 1 == pieces;
                    let span = Span { sequence: 0, at: 0, rows: rows.len() / hidden };
                    self.block(
                        l,
                        rows,
                        &[span],
                        std::slice::from_mut(seq),
                        Some((&mut stage, i * batch)),
                        workspace,
                        team,
                        watch,
                    )?;
                    watch.progress(l * pieces + i + 1, layers * pieces);
                }
                watch.residual(l, &x[..n * hidden]);
                self.settle(l, &mut stage, seq, 0, workspace, watch)?;
                staging = Some(stage);
            }
            seq.seen += n;
            let last = &x[(n - 1) * hidden..n * hidden];
            self.head(last, 1, workspace, team)?;
            workspace.residual = residual;
            return Ok(());
        }
        self.extend(seq, tokens, true, workspace, team, watch)
    }

    /// Appends tokens to a sequence that keeps every row they bring, in batches; `with_head` leaves the last one's logits in
    /// `room`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn extend(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        with_head: bool,
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let batch = workspace.sizes.places.out / self.shape.hidden;
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

    /// Goes back to the first `seen` tokens of a sequence that kept every row; the room stays. What has left a window does not
    /// come back: of a sequence that outgrew one, only the time of what follows means anything.
    pub fn truncate(&self, seq: &mut Sequence, seen: usize) {
        for layer in &mut seq.layers {
            layer.truncate(seen, true);
        }
        seq.seen = seen;
    }

    /// One more token for each sequence; the logits of each are left in `room`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(
        &mut self,
        seqs: &mut [Sequence],
        tokens: &[u32],
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let pieces: Vec<&[u32]> = tokens.chunks(1).collect();
        let layers = self.shape.layers.len();
        self.pass(seqs, &pieces, true, workspace, team, watch, (0, layers))
    }

    /// A batch through every layer: `pieces[i]` are the new tokens of sequence `i`.
    fn pass(
        &mut self,
        seqs: &mut [Sequence],
        pieces: &[&[u32]],
        with_head: bool,
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
        (done, total): (usize, usize),
    ) -> Result<()> {
        let hidden = self.shape.hidden;
        let mut residual = std::mem::replace(&mut workspace.residual, self.ledger.buffer(RESIDUAL, 0)?);
        let mut spans = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for (sequence, tokens) in pieces.iter().enumerate() {
            spans.push(Span { sequence, at, rows: tokens.len() });
            at += tokens.len();
        }
        let x = &mut residual.as_mut_slice::<f32>()[..at * hidden];
        self.embed(pieces, x, workspace, team)?;
        workspace.last = with_head;
        self.weights.begin_pass(with_head);
        for l in 0..self.shape.layers.len() {
            self.block(l, x, &spans, seqs, None, workspace, team, watch)?;
            watch.residual(l, x);
            watch.progress(done + l + 1, total);
        }
        for span in &spans {
            seqs[span.sequence].seen += span.rows;
        }
        if workspace.read > 0 {
            self.ledger.moved("cache read", std::mem::take(&mut workspace.read));
        }
        if with_head {
            // The last row of each span, moved to the front.
            for (i, span) in spans.iter().enumerate() {
                let last = (span.at + span.rows - 1) * hidden;
                x.copy_within(last..last + hidden, i * hidden);
            }
            let rows = spans.len();
            self.head(&x[..rows * hidden], rows, workspace, team)?;
        }
        workspace.residual = residual;
        Ok(())
    }

    /// The rows of the embedding of `pieces`, one after the other, times the model's own factor, into `x (rows, hidden)`.
    fn embed(&mut self, pieces: &[&[u32]], x: &mut [f32], workspace: &mut Workspace, team: &ThreadTeam) -> Result<()> {
        let Self { shape, weights, meter, adapter, .. } = self;
        let (hidden, by) = (shape.hidden, shape.embedding_scale);
        let batch = Batch { rows: x.len() / hidden, sequences: pieces.len(), cached: 0.0 };
        Metered { meter, shape, layer: None, batch }.run(step::BEGIN, team, || {
            let mut at = 0;
            for tokens in pieces {
                weights.embed(tokens, &mut x[at..at + tokens.len() * hidden])?;
                if let Some(adapter) = adapter {
                    // As many at once as there is room for.
                    let (s, kernels) = (workspace.sizes, workspace.kernels.as_mut_slice());
                    let low = &mut workspace.layer.as_mut_slice::<f32>()[s.places.all() + s.angles..][..s.low];
                    let rows = (s.places.out / hidden).max(1);
                    for (tokens, x) in tokens.chunks(rows).zip(x[at..].chunks_mut(rows * hidden)) {
                        adapter.embed(team, tokens, &mut x[..tokens.len() * hidden], low, kernels)?;
                    }
                }
                at += tokens.len() * hidden;
            }
            if by == 1.0 { Ok(()) } else { scale(team, x, by) }
        })
    }

    /// The output head over `rows` rows of the residual stream.
    fn head(&mut self, x: &[f32], rows: usize, workspace: &mut Workspace, team: &ThreadTeam) -> Result<()> {
        let Self { shape, weights, meter, adapter, .. } = self;
        let (hidden, vocab) = (shape.hidden, shape.vocab);
        let s = workspace.sizes;
        let (normed, low) = workspace.layer.as_mut_slice::<f32>().split_at_mut(s.places.all() + s.angles);
        let (normed, low) = (&mut normed[..rows * hidden], &mut low[..s.low]);
        let metered = Metered { meter, shape, layer: None, batch: Batch { rows, sequences: rows, cached: 0.0 } };
        let [norm, logits] = step::END;
        metered.run(norm, team, || {
            rms_norm(team, x, weights.output_norm(), shape.norm_eps, normed)?;
            // Logits are linear: their factor may stand before the product.
            if shape.logit_scale == 1.0 { Ok(()) } else { scale(team, normed, shape.logit_scale) }
        })?;
        metered.run(logits, team, || {
            for i in 0..weights.head_pieces() {
                let (first, w) = weights.head(i)?;
                let y = &mut workspace.logits.as_mut_slice::<f32>()[first..];
                linear_many_as(
                    workspace.sizes.compute,
                    team,
                    normed,
                    rows,
                    &mut [Product { w, y, ldy: vocab }],
                    workspace.kernels.as_mut_slice(),
                )?;
            }
            let logits = &mut workspace.logits.as_mut_slice::<f32>()[..rows * vocab];
            if let Some(adapter) = adapter {
                let outputs = &mut [adapter::Output { linear: Role::Head, y: &mut *logits }];
                let kernels = workspace.kernels.as_mut_slice();
                adapter.add(team, shape.layers.len(), normed, rows, outputs, low, kernels)?;
            }
            shape.logit_cap.map_or(Ok(()), |cap| soft_cap(team, cap, logits))
        })
    }

    /// One layer over the batch `x`, `(rows, hidden)`, in place: its steps, each through the meter.
    fn block(
        &mut self,
        l: usize,
        x: &mut [f32],
        spans: &[Span],
        seqs: &mut [Sequence],
        mut staging: Option<(&mut LayerCache, usize)>,
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let layer = &self.shape.layers[l];
        let of = &layer.attention;
        let (hidden, residual) = (self.shape.hidden, self.shape.residual_scale);
        let m = x.len() / hidden;
        if self.order.len() < m {
            self.order = (0..m as u32).collect();
        }
        let s = workspace.sizes;
        let (own, rest) = workspace.layer.as_mut_slice::<f32>().split_at_mut(s.places.all());
        let (turns, rest) = rest.split_at_mut(s.angles);
        let (low, routed) = rest.split_at_mut(s.low);
        let mut scratch = layer::Scratch { low, routed, kernels: workspace.kernels.as_mut_slice::<f32>() };
        let table = workspace.table.as_slice::<f32>();
        let each = table.len() / self.turns.len().max(1);
        let table = of.rope.map_or(&[][..], |rope| &table[rope * each..][..each]);
        let rows = Rows {
            team,
            of: layer,
            w: self.weights.layer(l)?,
            adapter: self.adapter.as_ref(),
            l,
            m,
            hidden,
            eps: self.shape.norm_eps,
            compute: s.compute,
        };
        let cached = Cached {
            pipeline: &self.pipeline,
            ledger: &self.ledger,
            turn: of.rope.map(|rope| &self.turns[rope]),
            shape: &self.shape,
            l,
            sinks: if rows.w.has(Role::Sinks) { Some(rows.w.vector(Role::Sinks)?) } else { None },
        };
        let at = |slot| s.places.at(slot, layer, hidden, m);
        let held = spans.iter().map(|span| cached.held(&seqs[span.sequence], staging.as_ref(), span.rows)).max();
        let batch = Batch { rows: m, sequences: spans.len(), cached: held.unwrap_or(0) as f64 };
        let metered = Metered { meter: &self.meter, shape: &self.shape, layer: Some(l), batch };
        for step in step::layer(layer) {
            metered.run(step, team, || match step {
                Step::KvAttend => {
                    let [q, k, v, out] = disjoint(own, [Slot::Q, Slot::K, Slot::V, Slot::Context].map(at))?;
                    let scratch = Scratch {
                        turns: &mut *turns,
                        turned: &mut workspace.turned,
                        policy: workspace.policy.as_mut_slice(),
                        sizes: s.policy,
                        table,
                        seen: workspace.seen.as_mut_slice(),
                        map: workspace.map.as_mut_slice(),
                        kernels: &mut *scratch.kernels,
                        windows: &mut workspace.windows,
                        order: &self.order,
                        observed: self.observed,
                        shows: workspace.last && s.seen > 0,
                        maps: s.map > 0,
                        read: &mut workspace.read,
                    };
                    let staging = staging.as_mut().map(|(stage, offset)| (&mut **stage, *offset));
                    cached.attend(Projected { q, k, v }, spans, seqs, staging, out, scratch, team, watch)
                }
                step => within(&rows, step, x, own, &at, s.places, residual, &mut scratch),
            })?;
        }
        Ok(())
    }
}

/// A step between places of a workspace and the stream `x`; `own` holds the places.
fn within(
    rows: &Rows<'_>,
    step: Step,
    x: &mut [f32],
    own: &mut [f32],
    at: &dyn Fn(Slot) -> Range<usize>,
    places: step::Places,
    residual: f32,
    scratch: &mut layer::Scratch<'_>,
) -> Result<()> {
    match step {
        Step::Norm { role, from: Slot::Stream, to } => rows.norm(role, x, &mut own[at(to)]),
        Step::Norm { role, to, .. } => rows.norm_in_place(role, &mut own[at(to)]),
        Step::Linears { from: Slot::Stream, to } => linears(rows, Some(x), own, at, (Slot::Stream, to), scratch),
        Step::Linears { from, to } => linears(rows, None, own, at, (from, to), scratch),
        Step::Gate(act) => {
            let [gate, up] = disjoint(own, [Slot::Gate, Slot::Up].map(at))?;
            rows.gate(act, gate, up)
        }
        Step::Experts => {
            let wide = places.normed..places.normed + places.wide;
            let [x, wide, out] = disjoint(own, [at(Slot::Normed), wide, at(Slot::Out)])?;
            rows.experts(x, wide, out, scratch)
        }
        Step::Add if residual == 1.0 => add(rows.team, x, &own[at(Slot::Out)]),
        Step::Add => axpy(rows.team, residual, &own[at(Slot::Out)], x),
        Step::KvAttend | Step::Embed | Step::Logits => Err(no_step(step)),
    }
}

/// Linears that read the same rows, to places of a workspace, from one of them or from `stream`.
fn linears(
    rows: &Rows<'_>,
    stream: Option<&[f32]>,
    own: &mut [f32],
    at: &dyn Fn(Slot) -> Range<usize>,
    (from, to): (Slot, &[(Role, Slot)]),
    scratch: &mut layer::Scratch<'_>,
) -> Result<()> {
    // The stream lies elsewhere; an empty place stands for it.
    let place = if stream.is_some() { 0..0 } else { at(from) };
    match *to {
        [(a, y)] => {
            let [x, y] = disjoint(own, [place, at(y)])?;
            rows.linears(stream.unwrap_or(x), [(a, y)], scratch)
        }
        [(a, y), (b, z)] => {
            let [x, y, z] = disjoint(own, [place, at(y), at(z)])?;
            rows.linears(stream.unwrap_or(x), [(a, y), (b, z)], scratch)
        }
        [(a, y), (b, z), (c, w)] => {
            let [x, y, z, w] = disjoint(own, [place, at(y), at(z), at(w)])?;
            rows.linears(stream.unwrap_or(x), [(a, y), (b, z), (c, w)], scratch)
        }
        _ => Err(Error::Internal(format!("{} linears of the same rows", to.len()))),
    }
}

/// Places of a workspace that do not overlap.
fn disjoint<const N: usize>(of: &mut [f32], at: [Range<usize>; N]) -> Result<[&mut [f32]; N]> {
    of.get_disjoint_mut(at).map_err(|e| Error::Internal(format!("places of a workspace: {e}")))
}

/// A step that stands where none such does.
fn no_step(step: Step) -> Error {
    Error::Internal(format!("{} within a layer", step.name()))
}
