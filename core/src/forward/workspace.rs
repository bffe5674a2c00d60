//! What a stretch of computing needs beside weights and cache, sized once for the plan and the run.

use std::sync::Arc;

use super::adapter;
use super::cached::{PolicySizes, calls};
use super::layer::routed_elements;
use super::rotary::{Turn, fill_angles};
use super::step::Places;
use crate::config::{Attention as Shown, Config};
use crate::error::Result;
use crate::kv::cache::{LayerCache, TABLES};
use crate::kv::{Pipeline, Positions};
use crate::ledger::{Buffer, Category, Ledger, Reservation, Tag};
use crate::ops::cpu::{Compute, linear_scratch, linear_scratch_as};
use crate::shape::{AdapterShape, ModelShape};

/// Batches up to this many tokens are the short ones of [`crate::ops::cpu::Attention::scratch`].
const SHORT: usize = 16;

pub(super) const RESIDUAL: Tag = Tag::device(Category::Activations, "residual stream");
const LAYER: Tag = Tag::device(Category::Activations, "layer activations");
const KERNELS: Tag = Tag::device(Category::Workspace, "kernel scratch");
const POLICY: Tag = Tag::device(Category::Workspace, "policy scratch");
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");
const WINDOW: Tag = Tag::device(Category::KvCache, "window staging");
const LOGITS: Tag = Tag::device(Category::Logits, "logits");
const SEEN: Tag = Tag::host(Category::Observation, "attention rows");
const MAP: Tag = Tag::host(Category::Observation, "head map");

/// Sizes of one stretch of computing: a prompt, or decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
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
    /// What happens to the cache in it.
    pub stage: Stage,
}

/// What a stretch of computing does with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A prompt is read, and its rows stay as they are.
    Read,
    /// A prompt is gathered whole, layer by layer, and then settles: rows leave or are sealed.
    Settle,
    /// Tokens are decoded.
    Step,
}

impl BatchShape {
    /// The same extent with the arithmetic of `config`, and with its observation where `shown`.
    pub fn with(self, config: &Config, shown: bool) -> Self {
        let shown = config.observe.as_ref().filter(|_| shown);
        let observe = shown.is_some_and(|o| o.attention != Shown::None);
        let map = shown.is_some_and(|o| o.head.is_some());
        Self { compute: config.compute(), observe, map, ..self }
    }
}

/// Everything an [`BatchShape`] needs beside weights and cache, in elements of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) residual: usize,
    /// Activations of a layer.
    pub(super) places: Places,
    pub(super) angles: usize,
    /// Ax of an adapter.
    pub(super) low: usize,
    /// What experts are chosen and fed by.
    pub(super) routed: usize,
    pub(super) linear: usize,
    pub(super) attend: usize,
    pub(super) policy: PolicySizes,
    pub(super) table: usize,
    pub(super) logits: usize,
    pub(super) seen: usize,
    /// In bytes.
    pub(super) map: usize,
    /// In bytes.
    window: usize,
    /// What finding the rows of those stages takes.
    tables: usize,
    pub(super) compute: Compute,
}

impl Sizes {
    fn new(shape: &ModelShape, pipeline: &Pipeline, threads: usize, e: BatchShape) -> Self {
        let cols = shape.widest(|l| l.ffn.widest().max(l.attention.q())).max(shape.hidden);
        // A last batch may be of any length, and short ones are cut differently.
        let attend = shape.layers.iter().enumerate().flat_map(|(l, s)| {
            let tokens = (1..=SHORT.min(e.batch)).chain([e.batch]);
            tokens.flat_map(move |t| calls(pipeline, l, s, t)).map(|call| call.scratch(threads, e.rows))
        });
        Self {
            residual: e.stream * shape.hidden,
            places: Places::new(shape, e.batch),
            angles: 2 * e.batch * shape.half(),
            low: adapter::low_elements(shape, e.batch),
            routed: shape.widest(|l| routed_elements(l, shape.hidden, e.batch)),
            // An adapter's second matrix has as many inputs as its rank, which may be more than any weight's.
            linear: linear_scratch_as(e.compute, threads, e.batch, cols)
                .max(linear_scratch(threads, shape.adapter.as_ref().map_or(0, AdapterShape::rank))),
            attend: attend.max().unwrap_or(0),
            policy: PolicySizes::new(shape, pipeline, e),
            table: if pipeline.select.positions() == Positions::Reindex {
                2 * e.rows * shape.half() * shape.ropes.len()
            } else {
                0
            },
            logits: e.sequences * shape.vocab,
            seen: if e.observe { shape.widest(|l| l.attention.heads) * e.rows } else { 0 },
            map: if e.map { e.batch * e.rows } else { 0 },
            window: pipeline.window_stage_bytes(e.rows, stretch(e)),
            tables: pipeline.window_stage_tables(e.rows, stretch(e)) as usize,
            compute: e.compute,
        }
    }

    /// By ledger row, in bytes.
    fn rows(&self) -> [(Tag, usize); 10] {
        [
            (RESIDUAL, 4 * self.residual),
            (LAYER, 4 * (self.places.all() + self.angles + self.low + self.routed)),
            (KERNELS, 4 * self.linear.max(self.attend)),
            (POLICY, 4 * self.policy.all()),
            (ROTATIONS, 4 * self.table),
            (LOGITS, 4 * self.logits),
            (SEEN, 4 * self.seen),
            (MAP, self.map),
            (WINDOW, self.window),
            (TABLES, self.tables),
        ]
    }
}

/// Tokens of one sequence that are computed at once.
fn stretch(e: BatchShape) -> usize {
    // Sequences that are decoded side by side bring one each; a staged prompt has a staging layer of its own.
    if e.batch == e.sequences || e.stream > e.batch { 1 } else { e.batch }
}

/// How the bytes of one ledger row of an extent come about, as factors: a number and what it counts, or the parts of a sum.
/// `None` for a row that no short formula gives.
pub(crate) fn factors(
    shape: &ModelShape,
    e: BatchShape,
    tag: Tag,
) -> Option<Vec<((usize, &'static str), Vec<(usize, &'static str)>)>> {
    let one = |count: usize, what| ((count, what), Vec::new());
    let tokens = |count: usize| one(count, "tokens");
    match tag {
        RESIDUAL => Some(vec![tokens(e.stream), one(shape.hidden, "hidden"), one(4, "B")]),
        LAYER if shape.layers.iter().any(|l| l.ffn.experts().is_some()) => None,
        LAYER => {
            let token = Places::new(shape, 1);
            let parts = vec![
                (token.normed, "normed"),
                (token.wide, "projected"),
                (token.out, "out"),
                (2 * shape.half(), "angles"),
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
pub fn plan_workspace(
    shape: &ModelShape,
    pipeline: &Pipeline,
    threads: usize,
    e: BatchShape,
    ledger: &Arc<Ledger>,
) -> Result<Vec<Reservation>> {
    Sizes::new(shape, pipeline, threads, e)
        .rows()
        .into_iter()
        .map(|(tag, bytes)| ledger.reserve(tag, bytes as u64))
        .collect()
}

/// The buffers of one stretch of computing.
pub struct Workspace {
    pub(super) sizes: Sizes,
    pub(super) residual: Buffer,
    pub(super) layer: Buffer,
    pub(super) kernels: Buffer,
    pub(super) policy: Buffer,
    pub(super) table: Buffer,
    pub(super) logits: Buffer,
    pub(super) seen: Buffer,
    pub(super) map: Buffer,
    /// Where batches of layers with a window pass through.
    pub(super) windows: Vec<LayerCache>,
    /// The pass computes a last query that is to be shown, if any is.
    pub(super) last: bool,
    /// Bytes of the cache that the pass has read, where it decodes.
    pub(super) read: u64,
    /// What the angles of the batch are of: the rotation's number, the first position, and how many.
    pub(super) turned: Option<[usize; 3]>,
}

impl Workspace {
    pub(super) fn new(
        shape: &ModelShape,
        pipeline: &Pipeline,
        threads: usize,
        e: BatchShape,
        turns: &[Turn],
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        let sizes = Sizes::new(shape, pipeline, threads, e);
        let [rows @ .., _, _] = sizes.rows();
        let [residual, layer, kernels, policy, table, logits, seen, map] =
            rows.map(|(tag, bytes): (Tag, usize)| ledger.buffer(tag, bytes));
        let mut windows = Vec::new();
        for (l, rows) in pipeline.window_stages(e.rows, stretch(e)) {
            windows.push(pipeline.staging(ledger, l, rows, WINDOW)?);
        }
        let mut workspace = Self {
            sizes,
            residual: residual?,
            layer: layer?,
            kernels: kernels?,
            policy: policy?,
            table: table?,
            logits: logits?,
            seen: seen?,
            map: map?,
            windows,
            last: true,
            read: 0,
            turned: None,
        };
        if sizes.table > 0 {
            let all = workspace.table.as_mut_slice::<f32>();
            let each = all.len() / turns.len().max(1);
            for (turn, table) in turns.iter().zip(all.chunks_exact_mut(each)) {
                fill_angles(0, turn, table);
            }
        }
        Ok(workspace)
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
