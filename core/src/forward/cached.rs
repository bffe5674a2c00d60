//! The part of a layer that knows the cache: rotates, appends, attends over tiles, scores, and lets rows go.

use std::sync::Arc;

use super::cpu::{Forward, Sequence};
use super::observer::{HeadRows, PassObserver};
use super::rotary::{angles, fill_angles, pairs};
use super::windowed::{self, past};
use super::workspace::Workspace;
use crate::error::Result;
use crate::kv::cache::LayerCache;
use crate::kv::{Format, Need, Pipeline, Positions, When};
use crate::ledger::Ledger;
use crate::ops::ThreadTeam;
use crate::ops::cpu::{Aggregate, Angles, Attention, KvTiles, Observe, RopeLayout, attend, rope, rotate};
use crate::shape::{LayerShape, ModelShape};

pub(super) fn attention(layer: &LayerShape, tokens: usize) -> Attention {
    let crate::shape::Attention { heads, kv_heads, dim, scale, window, .. } = layer.attention;
    Attention { heads, kv_heads, dim, scale, window, tokens }
}

/// One layer's cache as attention reads it.
struct Tiles<'a> {
    cache: &'a LayerCache,
    k: &'a dyn Format,
    v: &'a dyn Format,
    /// Mode B: angles by row index, and how pairs lie.
    table: Option<(Angles<'a>, RopeLayout)>,
    /// Rows that stand for those that have left a window, as far back as a whole segment.
    gone: usize,
}

impl KvTiles for Tiles<'_> {
    fn rows(&self, head: usize) -> usize {
        self.gone + self.cache.rows(head)
    }

    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let d = self.cache.layout().d;
        let (empty, from) = past(self.gone, start, n);
        out[..empty * d].fill(0.0);
        self.cache.keys(head, from, n - empty, self.k, &mut out[empty * d..]);
        if let Some((angles, pairs)) = self.table {
            for (i, key) in out[..n * d].chunks_exact_mut(d).enumerate() {
                rotate(key, pairs, angles, start + i);
            }
        }
    }

    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let d = self.cache.layout().d;
        let (empty, from) = past(self.gone, start, n);
        out[..empty * d].fill(0.0);
        self.cache.values(head, from, n - empty, self.v, &mut out[empty * d..]);
    }
}

/// Rows of one sequence in a batch.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) sequence: usize,
    /// First row of the batch.
    pub(super) at: usize,
    pub(super) rows: usize,
}

/// Queries, keys and values of a batch before rotation: `(rows, heads · dim)`.
pub(super) struct Projected<'a> {
    pub(super) q: &'a mut [f32],
    pub(super) k: &'a mut [f32],
    pub(super) v: &'a [f32],
}

/// What a layer's attention computes in.
pub(super) struct Scratch<'a> {
    /// Angles of a batch.
    pub(super) turns: &'a mut [f32],
    /// Column sums, `(kv_heads, rows)`.
    pub(super) sums: &'a mut [f32],
    /// Rows that a policy keeps.
    pub(super) keep: &'a mut [u32],
    /// Angles by row index.
    pub(super) table: &'a [f32],
    /// The last query's attention, to be shown.
    pub(super) seen: &'a mut [f32],
    /// One head's map, to be shown.
    pub(super) map: &'a mut [u8],
    pub(super) kernels: &'a mut [f32],
    /// Where batches of layers with a window pass through.
    pub(super) windows: &'a mut [LayerCache],
    /// 0, 1, 2, …
    pub(super) order: &'a [u32],
    pub(super) observed: Option<[usize; 2]>,
    pub(super) shows: bool,
    pub(super) maps: bool,
}

/// One layer's attention over its cache.
pub(super) struct Cached<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) freqs: &'a [f64],
    pub(super) shape: &'a ModelShape,
    pub(super) l: usize,
}

impl Cached<'_> {
    /// Appends the batch to the cache of each span's sequence and attends: `out` is `(rows, heads · dim)`.
    pub(super) fn attend(
        &self,
        qkv: Projected<'_>,
        spans: &[Span],
        seqs: &mut [Sequence],
        mut staging: Option<(&mut LayerCache, usize)>,
        out: &mut [f32],
        s: Scratch<'_>,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let l = self.l;
        let layer = &self.shape.layers[l];
        let of = &layer.attention;
        let (d, nq, nkv) = (of.dim, of.q(), of.kv());
        let Projected { q, k, v } = qkv;
        let Scratch { turns, sums, keep, table, order, kernels: scratch, .. } = s;
        let (pairs, p) = (pairs(&self.shape.ropes[of.rope]), self.pipeline);
        let reindex = p.select.positions() == Positions::Reindex;
        for span in spans {
            let seq = &mut seqs[span.sequence];
            let range = span.at..span.at + span.rows;
            let window = of.window.filter(|_| staging.is_none());
            let through = match window {
                Some(window) => windowed::enter(&mut seq.layers[l], window, span.rows, s.windows, self.ledger)?,
                None => None,
            };
            let (cache, offset) = match &mut staging {
                Some((stage, offset)) => (&mut **stage, *offset),
                None => {
                    let cache = &mut seq.layers[l];
                    if p.select.when() == When::BeforeAppend && span.rows == 1 {
                        for h in 0..of.kv_heads {
                            let quota = p.quota(l, h, seq.prompt);
                            if cache.rows(h) + 1 > quota {
                                let view = crate::kv::HeadView {
                                    rows: cache.rows(h),
                                    scores: &[],
                                    quota: quota - 1,
                                    newcomers: 1,
                                    prompt: seq.prompt,
                                };
                                drop_rows(p, self.ledger, cache, h, view, keep, (span.sequence, l), watch);
                            }
                        }
                    }
                    (cache, 0)
                }
            };
            let first = seq.seen + offset;
            let before = cache.max_rows();
            let gone = windowed::gone(of.window, first, before);
            let half = self.freqs.len();
            let turned = &mut turns[..2 * span.rows * half];
            fill_angles(if reindex { gone + before } else { first }, self.freqs, turned);
            let positions = &order[..span.rows];
            let q = &mut q[range.start * nq..range.end * nq];
            let k = &mut k[range.start * nkv..range.end * nkv];
            let v = &v[range.start * nkv..range.end * nkv];
            rope(team, q, d, pairs, angles(turned, half), positions)?;
            if !reindex {
                rope(team, k, d, pairs, angles(turned, half), positions)?;
            }
            for h in 0..of.kv_heads {
                cache.ensure(self.ledger, h, cache.rows(h) + span.rows)?;
                cache.append(h, &k[h * d..], &v[h * d..], nkv, first, span.rows, (&*p.k, &*p.v));
            }
            let rows = gone + cache.max_rows();
            let table = reindex.then(|| (angles(table, half), pairs));
            let tiles = Tiles { cache, k: &*p.k, v: &*p.v, table, gone };
            let scores = p.select.need() == Need::ColumnSums;
            let show = s.shows;
            let shown = &mut s.seen[..if show { of.heads * rows } else { 0 }];
            let mapped = s.observed.filter(|[at, _]| *at == l && s.maps).map(|[_, head]| head);
            let cells = &mut s.map[..mapped.map_or(0, |_| span.rows * rows)];
            let observe = (scores || show || mapped.is_some()).then(|| {
                let columns = scores.then(|| {
                    let sums = &mut sums[..of.kv_heads * rows];
                    sums.fill(0.0);
                    sums
                });
                let (last, rows_seen) = if show { (1, Some(&mut *shown)) } else { (0, None) };
                let map = mapped.map(|head| (head, &mut *cells));
                Observe { columns, aggregate: Aggregate::Mean, rows: rows_seen, last, map, stride: rows }
            });
            let seen = &mut out[range.start * nq..range.end * nq];
            attend(team, q, &tiles, attention(layer, span.rows), seen, scratch, observe)?;
            if show {
                watch.attention(span.sequence, l, windowed::without(shown, rows, gone), rows - gone);
            }
            if let Some(head) = mapped {
                let shared = head / (of.heads / of.kv_heads.max(1)).max(1);
                let seen = cache.rows(shared);
                // A window's rows are those just before.
                let oldest = (first + span.rows).saturating_sub(seen);
                let position = |row| match of.window {
                    Some(_) => (oldest + row) as u32,
                    None => cache.position_or_row(shared, row),
                };
                let weights = windowed::without(cells, rows, gone);
                let position = &position as &dyn Fn(usize) -> u32;
                let map = HeadRows { first, queries: span.rows, rows: seen, weights, stride: rows - gone, position };
                watch.map(span.sequence, map);
            }
            if scores {
                for h in 0..of.kv_heads {
                    let n = cache.rows(h);
                    cache.add_scores(h, &mut sums[h * rows + gone..h * rows + gone + n]);
                }
            }
            if let (Some(at), Some(window)) = (through, window) {
                windowed::leave(&mut seq.layers[l], window, &mut s.windows[at], self.ledger)?;
            }
            if staging.is_none() && p.select.when() == When::AfterAttention && !p.select.keeps_all() {
                let cache = &mut seq.layers[l];
                for h in 0..of.kv_heads {
                    let quota = p.quota(l, h, seq.prompt);
                    let n = cache.rows(h);
                    // While a prompt is being read in batches, its policy waits for the end: it fits as it is.
                    if n > quota {
                        let scores = if p.select.meta().score { &sums[h * rows..h * rows + n] } else { &[][..] };
                        let view = crate::kv::HeadView { rows: n, scores, quota, newcomers: 0, prompt: seq.prompt };
                        drop_rows(p, self.ledger, cache, h, view, keep, (span.sequence, l), watch);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Forward {
    /// Moves what the policy keeps of a staged layer to its place.
    pub(super) fn settle(
        &self,
        l: usize,
        stage: &mut LayerCache,
        seq: &mut Sequence,
        index: usize,
        workspace: &mut Workspace,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let p = &self.pipeline;
        let (sums, keep) = workspace.policy.as_mut_slice::<f32>().split_at_mut(workspace.sizes.sums);
        let keep: &mut [u32] = bytemuck::cast_slice_mut(keep);
        for h in 0..stage.heads() {
            let rows = stage.rows(h);
            if let Some(window) = p.window(l) {
                windowed::keep_last(&mut seq.layers[l], h, window, stage, &self.ledger)?;
                continue;
            }
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
    watch: &mut dyn PassObserver,
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
    watch: &mut dyn PassObserver,
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
fn report(
    cache: &LayerCache,
    h: usize,
    rows: usize,
    keep: &[u32],
    (index, l): (usize, usize),
    watch: &mut dyn PassObserver,
) {
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
