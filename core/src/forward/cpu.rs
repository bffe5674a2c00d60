//! Our own forward pass: the Llama block over borrowed weights, the cache pipeline, and tile attention.
//!
//! One block serves prefill, extend and decode. Rows of a batch are independent of each other and of how the prompt was cut
//! into batches, so what only changes memory or speed (batch, threads, placement, alloc) gives the same bits.

use std::sync::Arc;

use super::adapter::{self, Output};
use super::cached::{Cached, Projected, Scratch, Span};
pub use super::observer::{HeadRows, PassObserver, Unwatched};
use super::rotary::inverse_frequencies;
use super::workspace::RESIDUAL;
pub use super::workspace::{BatchShape, Workspace};
use crate::error::Result;
use crate::kv::Pipeline;
use crate::kv::cache::LayerCache;
use crate::ledger::Ledger;
use crate::ops::ThreadTeam;
use crate::ops::cpu::{Compute, Product, add, linear_many_as, rms_norm, swiglu};
use crate::place::WeightSource;
use crate::shape::{Linear, ModelShape};
use crate::weights::units::LayerView;

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
    pub(super) freqs: Vec<f64>,
    /// Layer and query head whose attention is told.
    pub(super) observed: Option<[usize; 2]>,
    /// 0, 1, 2, …: the row of each token in a table of its own batch.
    order: Vec<u32>,
}

impl Forward {
    /// A model from its loaded weights.
    pub fn new(shape: ModelShape, pipeline: Pipeline, weights: Box<dyn WeightSource>, ledger: Arc<Ledger>) -> Self {
        let freqs = inverse_frequencies(&shape.rope, weights.rope_freqs());
        Self { shape, pipeline, weights, adapter: None, ledger, freqs, observed: None, order: Vec::new() }
    }

    /// The same model with the adapter that its shape tells of.
    pub fn with_adapter(self, adapter: Option<adapter::Held>) -> Self {
        Self { adapter, ..self }
    }

    /// Tells from now on what this query head of this layer looks at, in rooms and sequences made after this; `None` for
    /// nothing.
    pub fn observe(&mut self, head: Option<[usize; 2]>) {
        self.observed = head.filter(|[l, h]| self.shape.layers.get(*l).is_some_and(|s| *h < s.heads));
    }

    /// KV head of a query head of layer `l`.
    fn shared(&self, l: usize, head: usize) -> usize {
        let s = &self.shape.layers[l];
        head / (s.heads / s.kv_heads.max(1)).max(1)
    }

    /// The buffers of an extent.
    ///
    /// # Errors
    /// Over budget.
    pub fn workspace(&self, threads: usize, e: BatchShape) -> Result<Workspace> {
        Workspace::new(&self.shape, &self.pipeline, threads, e, &self.freqs, &self.ledger)
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
        let stream = if pipeline.stages(prompt) { prompt } else { batch };
        BatchShape {
            batch,
            stream,
            rows: prompt.max(1),
            sequences: 1,
            compute: Compute::Exact,
            observe: false,
            map: false,
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
            .flat_map(|l| (0..shape.layers[l].kv_heads).map(move |h| (l, h)))
            .map(|(l, h)| pipeline.capacity(l, h, prompt).min(seen))
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
        let batch = workspace.sizes.out / self.shape.hidden;
        let layers = self.shape.layers.len();
        if self.pipeline.stages(n) {
            // Layer by layer: every layer reads the whole prompt through its own staging, then keeps what the policy keeps.
            let hidden = self.shape.hidden;
            let mut residual = std::mem::replace(&mut workspace.residual, self.ledger.buffer(RESIDUAL, 0)?);
            let x = residual.as_mut_slice::<f32>();
            self.weights.embed(tokens, x)?;
            self.weights.begin_pass(true);
            let mut staging: Option<LayerCache> = None;
            let pieces = n.div_ceil(batch);
            for l in 0..layers {
                let mut stage = match staging.take() {
                    Some(mut s)
                        if s.layout() == self.pipeline.rows[l] && s.heads() == self.shape.layers[l].kv_heads =>
                    {
                        s.clear(true);
                        s
                    }
                    other => {
                        drop(other);
                        self.pipeline.staging(&self.ledger, l, n)?
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
        let batch = workspace.sizes.out / self.shape.hidden;
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

    /// Goes back to the first `seen` tokens of a sequence that kept every row; the room stays.
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
            self.weights
                .embed(tokens, &mut residual.as_mut_slice::<f32>()[at * hidden..(at + tokens.len()) * hidden])?;
            spans.push(Span { sequence, at, rows: tokens.len() });
            at += tokens.len();
        }
        let x = &mut residual.as_mut_slice::<f32>()[..at * hidden];
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

    /// The output head over `rows` rows of the residual stream.
    fn head(&mut self, x: &[f32], rows: usize, workspace: &mut Workspace, team: &ThreadTeam) -> Result<()> {
        let (hidden, vocab) = (self.shape.hidden, self.shape.vocab);
        let normed = &mut workspace.layer.as_mut_slice::<f32>()[..rows * hidden];
        rms_norm(team, x, self.weights.output_norm(), self.shape.norm_eps, normed)?;
        for i in 0..self.weights.head_pieces() {
            let (first, w) = self.weights.head(i)?;
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
        Ok(())
    }

    /// One layer over the batch `x`, `(rows, hidden)`, in place.
    fn block(
        &mut self,
        l: usize,
        x: &mut [f32],
        spans: &[Span],
        seqs: &mut [Sequence],
        staging: Option<(&mut LayerCache, usize)>,
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let layer = &self.shape.layers[l];
        let (hidden, d, ff) = (self.shape.hidden, layer.head_dim, layer.ff);
        let (nq, nkv) = (layer.heads * d, layer.kv_heads * d);
        let m = x.len() / hidden;
        let eps = self.shape.norm_eps;
        let w: LayerView<'_> = self.weights.layer(l)?;
        if self.order.len() < m {
            self.order = (0..m as u32).collect();
        }
        let s = workspace.sizes;
        let (normed, rest) = workspace.layer.as_mut_slice::<f32>().split_at_mut(s.normed);
        let (wide, rest) = rest.split_at_mut(s.wide);
        let (out, rest) = rest.split_at_mut(s.out);
        let (turns, low) = rest.split_at_mut(s.angles);
        let low = &mut low[..s.low];
        let scratch = workspace.kernels.as_mut_slice::<f32>();
        let (sums, keep) = workspace.policy.as_mut_slice::<f32>().split_at_mut(s.sums);
        let keep: &mut [u32] = bytemuck::cast_slice_mut(keep);
        let table = workspace.table.as_slice::<f32>();

        rms_norm(team, x, w.vector(0), eps, &mut normed[..m * hidden])?;
        let (q, kv) = wide.split_at_mut(m * nq);
        let (k, v) = kv.split_at_mut(m * nkv);
        linear_many_as(
            s.compute,
            team,
            &normed[..m * hidden],
            m,
            &mut [
                Product { w: w.mat(1)?, y: q, ldy: nq },
                Product { w: w.mat(2)?, y: k, ldy: nkv },
                Product { w: w.mat(3)?, y: v, ldy: nkv },
            ],
            scratch,
        )?;
        if let Some(adapter) = &self.adapter {
            let mut outputs = [
                Output { linear: Linear::Q, y: q },
                Output { linear: Linear::K, y: k },
                Output { linear: Linear::V, y: v },
            ];
            adapter.add(team, l, &normed[..m * hidden], m, &mut outputs, low, scratch)?;
        }
        let cached =
            Cached { pipeline: &self.pipeline, ledger: &self.ledger, freqs: &self.freqs, shape: &self.shape, l };
        let scratch_of = Scratch {
            turns,
            sums,
            keep,
            table,
            seen: workspace.seen.as_mut_slice(),
            map: workspace.map.as_mut_slice(),
            kernels: &mut *scratch,
            order: &self.order,
            observed: self.observed,
            shows: workspace.last && s.seen > 0,
            maps: s.map > 0,
        };
        cached.attend(Projected { q, k, v }, spans, seqs, staging, &mut normed[..m * nq], scratch_of, team, watch)?;
        let out = &mut out[..m * hidden];
        linear_many_as(
            s.compute,
            team,
            &normed[..m * nq],
            m,
            &mut [Product { w: w.mat(4)?, y: out, ldy: hidden }],
            scratch,
        )?;
        if let Some(adapter) = &self.adapter {
            let mut outputs = [Output { linear: Linear::O, y: out }];
            adapter.add(team, l, &normed[..m * nq], m, &mut outputs, low, scratch)?;
        }
        add(team, x, out)?;
        rms_norm(team, x, w.vector(5), eps, &mut normed[..m * hidden])?;
        let (gate, up) = wide[..2 * m * ff].split_at_mut(m * ff);
        linear_many_as(
            s.compute,
            team,
            &normed[..m * hidden],
            m,
            &mut [Product { w: w.mat(6)?, y: gate, ldy: ff }, Product { w: w.mat(7)?, y: up, ldy: ff }],
            scratch,
        )?;
        if let Some(adapter) = &self.adapter {
            let mut outputs = [Output { linear: Linear::Gate, y: gate }, Output { linear: Linear::Up, y: up }];
            adapter.add(team, l, &normed[..m * hidden], m, &mut outputs, low, scratch)?;
        }
        swiglu(team, gate, up)?;
        linear_many_as(s.compute, team, gate, m, &mut [Product { w: w.mat(8)?, y: out, ldy: hidden }], scratch)?;
        if let Some(adapter) = &self.adapter {
            let mut outputs = [Output { linear: Linear::Down, y: out }];
            adapter.add(team, l, gate, m, &mut outputs, low, scratch)?;
        }
        add(team, x, out)
    }
}
