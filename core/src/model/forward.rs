//! Our own forward pass: the Llama block over borrowed weights, the cache pipeline, and tile attention.
//!
//! One block serves prefill, extend and decode. Rows of a batch are independent of each other and of how the prompt was cut
//! into batches, so what only changes memory or speed (batch, threads, placement, alloc) gives the same bits.

use std::sync::Arc;

use super::adapter::{self, Linear, Output};
use super::shape::{ModelShape, Rope};
use crate::config::{Attention as Shown, Config};
use crate::error::Result;
use crate::kv::cache::LayerCache;
use crate::kv::{Format, Need, Pipeline, Positions, When};
use crate::ledger::{Buffer, Category, Ledger, Reservation, Tag};
use crate::ops::Team;
use crate::ops::cpu::{Aggregate, Angles, Attention, Compute, KvTiles, Observe, Pairs, Product};
use crate::ops::cpu::{add, attend, linear_many_as, linear_scratch_as, rms_norm, rope, rotate, swiglu};
use crate::place::WeightSource;
use crate::weights::units::LayerView;

const RESIDUAL: Tag = Tag::device(Category::Activations, "residual stream");
const LAYER: Tag = Tag::device(Category::Activations, "layer activations");
const KERNELS: Tag = Tag::device(Category::Workspace, "kernel scratch");
const POLICY: Tag = Tag::device(Category::Workspace, "policy scratch");
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");
const LOGITS: Tag = Tag::device(Category::Logits, "logits");
const SEEN: Tag = Tag::host(Category::Observation, "attention rows");
const MAP: Tag = Tag::host(Category::Observation, "head map");

/// Sizes of one stretch of computing: a prompt, or decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows computed at once.
    pub batch: usize,
    /// Rows of the residual stream held at once: the batch, or a whole staged prompt.
    pub stream: usize,
    /// Most cache rows of a head that attention reads.
    pub rows: usize,
    /// Sequences whose logits are held.
    pub sequences: usize,
    /// How products are computed.
    pub compute: Compute,
    /// The last query's attention is kept to be shown.
    pub observe: bool,
    /// One head's attention is kept to be shown, of every query.
    pub map: bool,
}

impl Extent {
    /// The same extent with the arithmetic of `config`, and with its observation where `shown`.
    pub fn with(self, config: &Config, shown: bool) -> Self {
        let shown = config.observe.as_ref().filter(|_| shown);
        let observe = shown.is_some_and(|o| o.attention != Shown::None);
        let map = shown.is_some_and(|o| o.head.is_some());
        Self { compute: config.run.compute, observe, map, ..self }
    }
}

/// Everything an [`Extent`] needs beside weights and cache, in elements of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    residual: usize,
    normed: usize,
    wide: usize,
    out: usize,
    angles: usize,
    /// Ax of an adapter.
    low: usize,
    linear: usize,
    attend: usize,
    sums: usize,
    keep: usize,
    table: usize,
    logits: usize,
    seen: usize,
    /// In bytes.
    map: usize,
    compute: Compute,
}

impl Sizes {
    fn new(shape: &ModelShape, pipeline: &Pipeline, threads: usize, e: Extent) -> Self {
        let max = |f: &dyn Fn(&super::shape::LayerShape) -> usize| shape.layers.iter().map(f).max().unwrap_or(0);
        let q = max(&|l| l.heads * l.head_dim);
        let wide = max(&|l| ((l.heads + 2 * l.kv_heads) * l.head_dim).max(2 * l.ff));
        let cols = max(&|l| l.ff.max(l.heads * l.head_dim)).max(shape.hidden);
        // A last batch may be of any length, and short ones are cut differently.
        let attend = shape.layers.iter().flat_map(|l| {
            (1..=SHORT.min(e.batch)).chain([e.batch]).map(|tokens| attention(l, tokens).scratch(threads, e.rows))
        });
        let observes = pipeline.select.need() != Need::None;
        Self {
            residual: e.stream * shape.hidden,
            normed: e.batch * q.max(shape.hidden),
            wide: e.batch * wide,
            out: e.batch * shape.hidden,
            angles: 2 * e.batch * (shape.rope.dim / 2),
            low: adapter::low_elements(shape, e.batch),
            linear: linear_scratch_as(e.compute, threads, e.batch, cols),
            attend: attend.max().unwrap_or(0),
            sums: if observes { max(&|l| l.kv_heads) * e.rows } else { 0 },
            keep: if pipeline.select.keeps_all() { 0 } else { e.rows },
            table: if pipeline.select.positions() == Positions::Reindex {
                2 * e.rows * (shape.rope.dim / 2)
            } else {
                0
            },
            logits: e.sequences * shape.vocab,
            seen: if e.observe { max(&|l| l.heads) * e.rows } else { 0 },
            map: if e.map { e.batch * e.rows } else { 0 },
            compute: e.compute,
        }
    }

    /// By ledger row, in bytes.
    fn rows(&self) -> [(Tag, usize); 8] {
        [
            (RESIDUAL, 4 * self.residual),
            (LAYER, 4 * (self.normed + self.wide + self.out + self.angles + self.low)),
            (KERNELS, 4 * self.linear.max(self.attend)),
            (POLICY, 4 * (self.sums + self.keep)),
            (ROTATIONS, 4 * self.table),
            (LOGITS, 4 * self.logits),
            (SEEN, 4 * self.seen),
            (MAP, self.map),
        ]
    }
}

/// How the bytes of one ledger row of an extent come about, as factors: a number and what it counts, or the parts of a sum.
/// `None` for a row that no short formula gives.
pub(crate) fn factors(
    shape: &ModelShape,
    e: Extent,
    tag: Tag,
) -> Option<Vec<((usize, &'static str), Vec<(usize, &'static str)>)>> {
    let max = |f: &dyn Fn(&super::shape::LayerShape) -> usize| shape.layers.iter().map(f).max().unwrap_or(0);
    let one = |count: usize, what| ((count, what), Vec::new());
    let tokens = |count: usize| one(count, "tokens");
    match tag {
        RESIDUAL => Some(vec![tokens(e.stream), one(shape.hidden, "hidden"), one(4, "B")]),
        LAYER => {
            let q = max(&|l| l.heads * l.head_dim);
            let wide = max(&|l| ((l.heads + 2 * l.kv_heads) * l.head_dim).max(2 * l.ff));
            let parts = vec![
                (q.max(shape.hidden), "normed"),
                (wide, "projected"),
                (shape.hidden, "out"),
                (2 * (shape.rope.dim / 2), "angles"),
            ];
            Some(vec![tokens(e.batch), ((0, ""), parts), one(4, "B")])
        }
        LOGITS => {
            let what = if e.sequences == 1 { "sequence" } else { "sequences" };
            Some(vec![one(e.sequences, what), one(shape.vocab, "tokens of the vocabulary"), one(4, "B")])
        }
        _ => None,
    }
}

/// Reserves what [`Forward::room`] will hold: the plan's side.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_room(
    shape: &ModelShape,
    pipeline: &Pipeline,
    threads: usize,
    e: Extent,
    ledger: &Arc<Ledger>,
) -> Result<Vec<Reservation>> {
    Sizes::new(shape, pipeline, threads, e)
        .rows()
        .into_iter()
        .map(|(tag, bytes)| ledger.reserve(tag, bytes as u64))
        .collect()
}

/// The buffers of one stretch of computing.
pub struct Room {
    sizes: Sizes,
    residual: Buffer,
    layer: Buffer,
    kernels: Buffer,
    policy: Buffer,
    table: Buffer,
    logits: Buffer,
    seen: Buffer,
    map: Buffer,
    /// The pass computes a last query that is to be shown, if any is.
    last: bool,
}

impl Room {
    fn new(
        shape: &ModelShape,
        pipeline: &Pipeline,
        threads: usize,
        e: Extent,
        freqs: &[f64],
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        let sizes = Sizes::new(shape, pipeline, threads, e);
        let [residual, layer, kernels, policy, table, logits, seen, map] =
            sizes.rows().map(|(tag, bytes)| ledger.buffer(tag, bytes));
        let mut room = Self {
            sizes,
            residual: residual?,
            layer: layer?,
            kernels: kernels?,
            policy: policy?,
            table: table?,
            logits: logits?,
            seen: seen?,
            map: map?,
            last: true,
        };
        if sizes.table > 0 {
            fill_angles(0, freqs, room.table.as_mut_slice());
        }
        Ok(room)
    }

    /// Logits of sequence `i`, `(vocab)`.
    pub fn logits(&self, i: usize, vocab: usize) -> &[f32] {
        &self.logits.as_slice::<f32>()[i * vocab..(i + 1) * vocab]
    }

    /// Copies sequence 0's logits to the others, after a fork.
    pub fn share_logits(&mut self, vocab: usize) {
        let (first, rest) = self.logits.as_mut_slice::<f32>().split_at_mut(vocab);
        for row in rest.chunks_exact_mut(vocab) {
            row.copy_from_slice(first);
        }
    }
}

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

/// What a forward pass tells as it goes.
pub trait Watch {
    /// `done` of `total` units of this pass are computed.
    fn progress(&mut self, _done: usize, _total: usize) {}
    /// Rows left the cache: the sequence's index, layer, KV head, their positions where kept, and how many.
    fn evicted(&mut self, _sequence: usize, _layer: usize, _head: usize, _positions: &[u32], _count: usize) {}
    /// Rows were folded into others before they left: the sequence's index, layer, KV head, positions of row and survivor where kept,
    /// and how many.
    fn merged(&mut self, _sequence: usize, _layer: usize, _head: usize, _pairs: &[(u32, u32)], _count: usize) {}
    /// The last query's attention of each query head, `(heads, stride)`, the first `rows` of a head being cache rows.
    fn attention(&mut self, _sequence: usize, _layer: usize, _seen: &[f32], _rows: usize) {}
    /// One head's attention for each query of a pass.
    fn map(&mut self, _sequence: usize, _map: HeadRows<'_>) {}
}

/// What one query head looked at, a row a query.
pub struct HeadRows<'a> {
    /// Position of the first query; the rest follow one by one.
    pub first: usize,
    /// Queries.
    pub queries: usize,
    /// Cache rows that the last query sees; one less for each before it.
    pub rows: usize,
    /// Weights as [`crate::ops::cpu::packed_weight`] gives them, `(queries, stride)`.
    pub weights: &'a [u8],
    /// From one query's weights to the next's.
    pub stride: usize,
    /// Position of the token in a cache row.
    pub position: &'a dyn Fn(usize) -> u32,
}

/// Watches nothing.
pub struct Unwatched;

impl Watch for Unwatched {}

/// A loaded model with its techniques, ready to compute.
pub struct Forward {
    /// Types as held.
    pub shape: ModelShape,
    /// The cache's techniques.
    pub pipeline: Pipeline,
    weights: Box<dyn WeightSource>,
    adapter: Option<adapter::Held>,
    ledger: Arc<Ledger>,
    freqs: Vec<f64>,
    /// Layer and query head whose attention is told.
    observed: Option<[usize; 2]>,
    /// 0, 1, 2, …: the row of each token in a table of its own batch.
    order: Vec<u32>,
}

/// Batches up to this many tokens are the short ones of [`Attention::scratch`].
const SHORT: usize = 16;

fn attention(layer: &super::shape::LayerShape, tokens: usize) -> Attention {
    let (heads, kv_heads, dim) = (layer.heads, layer.kv_heads, layer.head_dim);
    Attention { heads, kv_heads, dim, scale: 1.0 / (dim as f32).sqrt(), tokens }
}

fn pairs(rope: &Rope) -> Pairs {
    if rope.interleaved { Pairs::Interleaved } else { Pairs::Halves }
}

/// θ_i = base^(−2i/dim) / (scale · divisor_i), in f64 so that positions of millions keep their phase.
pub(crate) fn inverse_frequencies(rope: &Rope, divisors: Option<&[f32]>) -> Vec<f64> {
    (0..rope.dim / 2)
        .map(|i| {
            let f = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dim as f64) / f64::from(rope.scale);
            divisors.map_or(f, |d| f / f64::from(d[i]))
        })
        .collect()
}

/// Fills a table `(2, positions, dim / 2)`, cosines then sines, for positions `first, first + 1, …`.
fn fill_angles(first: usize, freqs: &[f64], table: &mut [f32]) {
    let half = freqs.len();
    let (cos, sin) = table.split_at_mut(table.len() / 2);
    for (i, (cos, sin)) in cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half)).enumerate() {
        for ((f, c), s) in freqs.iter().zip(cos).zip(sin) {
            let (sine, cosine) = ((first + i) as f64 * f).sin_cos();
            (*c, *s) = (cosine as f32, sine as f32);
        }
    }
}

fn angles(table: &[f32], half: usize) -> Angles<'_> {
    let (cos, sin) = table.split_at(table.len() / 2);
    Angles { cos, sin, half }
}

/// One layer's cache as attention reads it.
struct Tiles<'a> {
    cache: &'a LayerCache,
    k: &'a dyn Format,
    v: &'a dyn Format,
    /// Mode B: angles by row index, and how pairs lie.
    table: Option<(Angles<'a>, Pairs)>,
}

impl KvTiles for Tiles<'_> {
    fn rows(&self, head: usize) -> usize {
        self.cache.rows(head)
    }

    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.cache.keys(head, start, n, self.k, out);
        if let Some((angles, pairs)) = self.table {
            let d = self.cache.layout().d;
            for (i, key) in out[..n * d].chunks_exact_mut(d).enumerate() {
                rotate(key, pairs, angles, start + i);
            }
        }
    }

    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.cache.values(head, start, n, self.v, out);
    }
}

/// Rows of one sequence in a batch.
#[derive(Clone, Copy)]
struct Span {
    sequence: usize,
    /// First row of the batch.
    at: usize,
    rows: usize,
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
    pub fn room(&self, threads: usize, e: Extent) -> Result<Room> {
        Room::new(&self.shape, &self.pipeline, threads, e, &self.freqs, &self.ledger)
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
    pub fn prefill_extent(pipeline: &Pipeline, prompt: usize, batch: usize) -> Extent {
        let batch = batch.min(prompt).max(1);
        let stream = if pipeline.stages(prompt) { prompt } else { batch };
        Extent { batch, stream, rows: prompt.max(1), sequences: 1, compute: Compute::Exact, observe: false, map: false }
    }

    /// The extent of decoding `sequences` sequences that end at `seen` tokens each.
    pub fn decode_extent(
        pipeline: &Pipeline,
        shape: &ModelShape,
        prompt: usize,
        seen: usize,
        sequences: usize,
    ) -> Extent {
        let rows = (0..shape.layers.len())
            .flat_map(|l| (0..shape.layers[l].kv_heads).map(move |h| (l, h)))
            .map(|(l, h)| pipeline.capacity(l, h, prompt).min(seen))
            .max()
            .unwrap_or(0);
        Extent {
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
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let n = tokens.len();
        let batch = room.sizes.out / self.shape.hidden;
        let layers = self.shape.layers.len();
        if self.pipeline.stages(n) {
            // Layer by layer: every layer reads the whole prompt through its own staging, then keeps what the policy keeps.
            let hidden = self.shape.hidden;
            let mut residual = std::mem::replace(&mut room.residual, self.ledger.buffer(RESIDUAL, 0)?);
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
                    room.last = i + 1 == pieces;
                    let span = Span { sequence: 0, at: 0, rows: rows.len() / hidden };
                    self.block(
                        l,
                        rows,
                        &[span],
                        std::slice::from_mut(seq),
                        Some((&mut stage, i * batch)),
                        room,
                        team,
                        watch,
                    )?;
                    watch.progress(l * pieces + i + 1, layers * pieces);
                }
                self.settle(l, &mut stage, seq, 0, room, watch)?;
                staging = Some(stage);
            }
            seq.seen += n;
            let last = &x[(n - 1) * hidden..n * hidden];
            self.head(last, 1, room, team)?;
            room.residual = residual;
            return Ok(());
        }
        self.extend(seq, tokens, true, room, team, watch)
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
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let batch = room.sizes.out / self.shape.hidden;
        let (pieces, layers) = (tokens.len().div_ceil(batch), self.shape.layers.len());
        for (i, piece) in tokens.chunks(batch).enumerate() {
            let head = with_head && i + 1 == pieces;
            self.pass(std::slice::from_mut(seq), &[piece], head, room, team, watch, (i * layers, pieces * layers))?;
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
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let pieces: Vec<&[u32]> = tokens.chunks(1).collect();
        let layers = self.shape.layers.len();
        self.pass(seqs, &pieces, true, room, team, watch, (0, layers))
    }

    /// A batch through every layer: `pieces[i]` are the new tokens of sequence `i`.
    fn pass(
        &mut self,
        seqs: &mut [Sequence],
        pieces: &[&[u32]],
        with_head: bool,
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
        (done, total): (usize, usize),
    ) -> Result<()> {
        let hidden = self.shape.hidden;
        let mut residual = std::mem::replace(&mut room.residual, self.ledger.buffer(RESIDUAL, 0)?);
        let mut spans = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for (sequence, tokens) in pieces.iter().enumerate() {
            self.weights
                .embed(tokens, &mut residual.as_mut_slice::<f32>()[at * hidden..(at + tokens.len()) * hidden])?;
            spans.push(Span { sequence, at, rows: tokens.len() });
            at += tokens.len();
        }
        let x = &mut residual.as_mut_slice::<f32>()[..at * hidden];
        room.last = with_head;
        self.weights.begin_pass(with_head);
        for l in 0..self.shape.layers.len() {
            self.block(l, x, &spans, seqs, None, room, team, watch)?;
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
            self.head(&x[..rows * hidden], rows, room, team)?;
        }
        room.residual = residual;
        Ok(())
    }

    /// The output head over `rows` rows of the residual stream.
    fn head(&mut self, x: &[f32], rows: usize, room: &mut Room, team: &Team) -> Result<()> {
        let (hidden, vocab) = (self.shape.hidden, self.shape.vocab);
        let normed = &mut room.layer.as_mut_slice::<f32>()[..rows * hidden];
        rms_norm(team, x, self.weights.output_norm(), self.shape.norm_eps, normed)?;
        for i in 0..self.weights.head_pieces() {
            let (first, w) = self.weights.head(i)?;
            let y = &mut room.logits.as_mut_slice::<f32>()[first..];
            linear_many_as(
                room.sizes.compute,
                team,
                normed,
                rows,
                &mut [Product { w, y, ldy: vocab }],
                room.kernels.as_mut_slice(),
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
        mut staging: Option<(&mut LayerCache, usize)>,
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
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
        let order = &self.order;
        let s = room.sizes;
        let (normed, rest) = room.layer.as_mut_slice::<f32>().split_at_mut(s.normed);
        let (wide, rest) = rest.split_at_mut(s.wide);
        let (out, rest) = rest.split_at_mut(s.out);
        let (turns, low) = rest.split_at_mut(s.angles);
        let low = &mut low[..s.low];
        let scratch = room.kernels.as_mut_slice::<f32>();
        let (sums, keep) = room.policy.as_mut_slice::<f32>().split_at_mut(s.sums);
        let keep: &mut [u32] = bytemuck::cast_slice_mut(keep);
        let table = room.table.as_slice::<f32>();

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
        let (pairs, p) = (pairs(&self.shape.rope), &self.pipeline);
        let reindex = p.select.positions() == Positions::Reindex;
        for span in spans {
            let seq = &mut seqs[span.sequence];
            let range = span.at..span.at + span.rows;
            let (cache, offset) = match &mut staging {
                Some((stage, offset)) => (&mut **stage, *offset),
                None => {
                    let cache = &mut seq.layers[l];
                    if p.select.when() == When::BeforeAppend && span.rows == 1 {
                        for h in 0..layer.kv_heads {
                            let quota = p.quota(l, h, seq.prompt);
                            if cache.rows(h) + 1 > quota {
                                let view = crate::kv::HeadView {
                                    rows: cache.rows(h),
                                    scores: &[],
                                    quota: quota - 1,
                                    newcomers: 1,
                                    prompt: seq.prompt,
                                };
                                drop_rows(p, &self.ledger, cache, h, view, keep, (span.sequence, l), watch);
                            }
                        }
                    }
                    (cache, 0)
                }
            };
            let first = seq.seen + offset;
            let before = cache.max_rows();
            let half = self.freqs.len();
            let turned = &mut turns[..2 * span.rows * half];
            fill_angles(if reindex { before } else { first }, &self.freqs, turned);
            let positions = &order[..span.rows];
            let q = &mut q[range.start * nq..range.end * nq];
            let k = &mut k[range.start * nkv..range.end * nkv];
            let v = &v[range.start * nkv..range.end * nkv];
            rope(team, q, d, pairs, angles(turned, half), positions)?;
            if !reindex {
                rope(team, k, d, pairs, angles(turned, half), positions)?;
            }
            for h in 0..layer.kv_heads {
                cache.ensure(&self.ledger, h, cache.rows(h) + span.rows)?;
                cache.append(h, &k[h * d..], &v[h * d..], nkv, first, span.rows, (&*p.k, &*p.v));
            }
            let rows = cache.max_rows();
            let tiles =
                Tiles { cache, k: &*p.k, v: &*p.v, table: reindex.then(|| (angles(table, self.freqs.len()), pairs)) };
            let scores = p.select.need() == Need::ColumnSums;
            let show = room.last && s.seen > 0;
            let shown = &mut room.seen.as_mut_slice::<f32>()[..if show { layer.heads * rows } else { 0 }];
            let mapped = self.observed.filter(|[at, _]| *at == l && s.map > 0).map(|[_, head]| head);
            let cells = &mut room.map.as_mut_slice::<u8>()[..mapped.map_or(0, |_| span.rows * rows)];
            let observe = (scores || show || mapped.is_some()).then(|| {
                let columns = scores.then(|| {
                    let sums = &mut sums[..layer.kv_heads * rows];
                    sums.fill(0.0);
                    sums
                });
                let (last, rows_seen) = if show { (1, Some(&mut *shown)) } else { (0, None) };
                let map = mapped.map(|head| (head, &mut *cells));
                Observe { columns, aggregate: Aggregate::Mean, rows: rows_seen, last, map, stride: rows }
            });
            let seen = &mut normed[range.start * nq..range.end * nq];
            attend(team, q, &tiles, attention(layer, span.rows), seen, scratch, observe)?;
            if show {
                watch.attention(span.sequence, l, shown, rows);
            }
            if let Some(head) = mapped {
                let shared = head / (layer.heads / layer.kv_heads.max(1)).max(1);
                let seen = cache.rows(shared);
                let position = |row| cache.position_or_row(shared, row);
                let (weights, position) = (&*cells, &position as &dyn Fn(usize) -> u32);
                let map = HeadRows { first, queries: span.rows, rows: seen, weights, stride: rows, position };
                watch.map(span.sequence, map);
            }
            if scores {
                for h in 0..layer.kv_heads {
                    let n = cache.rows(h);
                    cache.add_scores(h, &mut sums[h * rows..h * rows + n]);
                }
            }
            if staging.is_none() && p.select.when() == When::AfterAttention && !p.select.keeps_all() {
                let cache = &mut seq.layers[l];
                for h in 0..layer.kv_heads {
                    let quota = p.quota(l, h, seq.prompt);
                    let n = cache.rows(h);
                    // While a prompt is being read in batches, its policy waits for the end: it fits as it is.
                    if n > quota {
                        let scores = if p.select.meta().score { &sums[h * rows..h * rows + n] } else { &[][..] };
                        let view = crate::kv::HeadView { rows: n, scores, quota, newcomers: 0, prompt: seq.prompt };
                        drop_rows(p, &self.ledger, cache, h, view, keep, (span.sequence, l), watch);
                    }
                }
            }
        }
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

    /// Moves what the policy keeps of a staged layer to its place.
    fn settle(
        &self,
        l: usize,
        stage: &mut LayerCache,
        seq: &mut Sequence,
        index: usize,
        room: &mut Room,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let p = &self.pipeline;
        let (sums, keep) = room.policy.as_mut_slice::<f32>().split_at_mut(room.sizes.sums);
        let keep: &mut [u32] = bytemuck::cast_slice_mut(keep);
        for h in 0..stage.heads() {
            let rows = stage.rows(h);
            let scores = if p.select.meta().score {
                let scores = &mut sums[..rows];
                scores.fill(0.0);
                stage.add_scores(h, scores);
                &*scores
            } else {
                &[]
            };
            let quota = p.quota(l, h, seq.prompt);
            let n = p.select.keep(crate::kv::HeadView { rows, scores, quota, newcomers: 0, prompt: seq.prompt }, keep);
            fold(p, stage, h, &keep[..n], (index, l), watch);
            report(stage, h, rows, &keep[..n], (index, l), watch);
            let cache = &mut seq.layers[l];
            cache.ensure(&self.ledger, h, n)?;
            let mut moved = 0;
            for row in &keep[..n] {
                moved += cache.append_from(h, stage, *row as usize);
            }
            self.ledger.moved("cache shift", moved);
        }
        Ok(())
    }

    /// Copies sequence 0 into the others, which are empty (fork).
    ///
    /// # Errors
    /// Over budget.
    pub fn fork(&self, seqs: &mut [Sequence]) -> Result<()> {
        let Some((first, rest)) = seqs.split_first_mut() else { return Ok(()) };
        for seq in rest {
            for (from, to) in first.layers.iter().zip(&mut seq.layers) {
                for h in 0..from.heads() {
                    to.ensure(&self.ledger, h, from.rows(h))?;
                    for row in 0..from.rows(h) {
                        to.append_from(h, from, row);
                    }
                }
            }
            seq.seen = first.seen;
        }
        Ok(())
    }
}

/// Lets the policy choose and drops the rest, in place.
fn drop_rows(
    p: &Pipeline,
    ledger: &Ledger,
    cache: &mut LayerCache,
    h: usize,
    view: crate::kv::HeadView<'_>,
    keep: &mut [u32],
    (index, l): (usize, usize),
    watch: &mut dyn Watch,
) {
    let n = p.select.keep(view, keep);
    fold(p, cache, h, &keep[..n], (index, l), watch);
    report(cache, h, view.rows, &keep[..n], (index, l), watch);
    ledger.moved("cache shift", cache.retain(h, &keep[..n]));
}

/// Folds what goes into what stays, and tells the watcher which went into which.
fn fold(
    p: &Pipeline,
    cache: &mut LayerCache,
    h: usize,
    keep: &[u32],
    (index, l): (usize, usize),
    watch: &mut dyn Watch,
) {
    // Told in pieces, so that a prompt of any length needs no memory for it.
    let (mut pairs, mut named, mut count) = ([(0u32, 0u32); 16], 0, 0);
    p.merge.fold(cache, h, keep, &mut |cache, row, survivor| {
        count += 1;
        if let (Some(row), Some(survivor)) = (cache.position(h, row as usize), cache.position(h, survivor as usize)) {
            pairs[named] = (row, survivor);
            named += 1;
        }
        if named == pairs.len() {
            watch.merged(index, l, h, &pairs, count);
            (named, count) = (0, 0);
        }
    });
    if count > 0 {
        watch.merged(index, l, h, &pairs[..named], count);
    }
}

/// Tells the watcher which rows go.
fn report(cache: &LayerCache, h: usize, rows: usize, keep: &[u32], (index, l): (usize, usize), watch: &mut dyn Watch) {
    let gone = rows - keep.len();
    if gone == 0 {
        return;
    }
    // One row a step is told by position; a whole prompt's eviction by number, because the list may be long.
    let mut positions = [0u32; 16];
    let mut told = 0;
    if gone <= positions.len() && cache.layout().meta.position {
        let mut kept = keep.iter().peekable();
        for row in 0..rows {
            if kept.next_if(|k| **k as usize == row).is_none()
                && let Some(position) = cache.position(h, row)
            {
                positions[told] = position;
                told += 1;
            }
        }
    }
    watch.evicted(index, l, h, &positions[..told], gone);
}
