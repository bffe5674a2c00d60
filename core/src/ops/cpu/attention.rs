//! Attention over cache tiles: softmax(q · Kᵀ · scale) · V, one pass, for prefill, extend and decode alike.
//!
//! A cache is read in tiles of [`TILE`] rows, always from multiples of [`TILE`], decoded to f32 into scratch. The rows of a
//! query are summed in one fixed order: tile after tile inside a segment of [`SEGMENT`] rows with a running maximum, segment
//! after segment merged in order. Decode shares the segments out over the workers and merges them afterwards; prefill walks
//! them in place. Both give the same bits, whatever the number of threads or of queries in the call.
//!
//! Query heads that share a key–value head share each decoded tile. Rows may be ragged: each key–value head has its own
//! number. A query that sees no row gets zeros.

use super::element::capped;
use super::{Kernels, kernels};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Rows of a cache tile.
pub const TILE: usize = 64;
/// Rows summed with one running maximum: a whole number of tiles.
pub const SEGMENT: usize = 4 * TILE;

/// Rows (queries × heads of a group) a prefill task takes, about.
const BLOCK: usize = 96;
/// Calls with at most this many tokens share segments out instead of queries.
const SPLIT_TOKENS: usize = 4;

/// The rows of one layer's cache, as attention reads them.
pub trait KvTiles: Sync {
    /// Rows that key–value head `head` holds, those of the call's own tokens included.
    fn rows(&self, head: usize) -> usize;
    /// Keys of rows `start..start + n` of `head`, `n ≤ TILE`, already rotated, into `out (n, dim)`.
    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]);
    /// Values of the same rows into `out (n, dim)`.
    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]);
    /// The score that each query of query head `head` gives to no row at all: it takes a part of the softmax and adds nothing
    /// to the output (arXiv 2309.17453, §3.3); `None` where there is none.
    fn sink(&self, _head: usize) -> Option<f32> {
        None
    }
}

/// Rows beside sinks of `(heads)` scores.
pub struct WithSinks<'a> {
    /// The rows.
    pub kv: &'a dyn KvTiles,
    /// Of each query head.
    pub sinks: &'a [f32],
}

impl KvTiles for WithSinks<'_> {
    fn rows(&self, head: usize) -> usize {
        self.kv.rows(head)
    }

    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.kv.keys(head, start, n, out);
    }

    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.kv.values(head, start, n, out);
    }

    fn sink(&self, head: usize) -> Option<f32> {
        self.sinks.get(head).copied()
    }
}

/// The shape of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads: `q` and `out` are `(tokens, heads · dim)`.
    pub heads: usize,
    /// Key–value heads, a divisor of `heads`: each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Elements of a head, of queries, keys and values alike.
    pub dim: usize,
    /// Multiplied onto every score, usually `1 / √dim`.
    pub scale: f32,
    /// Rows that a query sees at most, its own the last of them; `None` for all before it.
    pub window: Option<usize>,
    /// Scores go through `cap · tanh(x / cap)`, after their scale; `None` for as they are.
    pub cap: Option<f32>,
    /// Queries of the call. Query `i` sees the first `rows(head) − tokens + 1 + i` rows.
    pub tokens: usize,
}

impl Attention {
    fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Queries of one task.
    fn block(&self) -> usize {
        if self.tokens <= SPLIT_TOKENS { self.tokens } else { (BLOCK / self.group().max(1)).clamp(1, self.tokens) }
    }

    fn split(&self) -> bool {
        self.tokens <= SPLIT_TOKENS
    }

    /// Rows of `rows` that query `token` sees.
    fn visible(&self, rows: usize, token: usize) -> usize {
        (rows + 1 + token).saturating_sub(self.tokens)
    }

    /// First of `rows` rows that query `token` sees.
    fn first(&self, rows: usize, token: usize) -> usize {
        self.window.map_or(0, |window| self.visible(rows, token).saturating_sub(window))
    }

    /// Elements of one worker's scratch: queries, scores, two outputs, their statistics; a tile of keys twice, of values once.
    const fn worker(&self, block_rows: usize) -> usize {
        let floats = block_rows * (3 * self.dim + TILE + 4) + 3 * TILE * self.dim;
        floats.next_multiple_of(16)
    }

    /// Elements of the partial results of [`Self::split`] calls, for at most `rows` rows a head.
    fn partials(&self, rows: usize) -> usize {
        if self.split() { rows.div_ceil(SEGMENT) * self.tokens * self.heads * (self.dim + 2) } else { 0 }
    }

    /// Elements of scratch that [`attend`] needs on `threads` workers when no head holds more than `rows` rows.
    pub fn scratch(&self, threads: usize, rows: usize) -> usize {
        let block_rows = self.block() * self.group();
        16 + threads * self.worker(block_rows) + self.partials(rows) + 2 * self.tokens * self.heads
    }

    fn check(&self, threads: usize, q: &[f32], kv: &dyn KvTiles, out: &[f32], scratch: &[f32]) -> Result<usize> {
        let wrong = |what: String| Err(Error::Internal(format!("attention: {what}")));
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.dim == 0 {
            return wrong(format!("{} heads over {} key–value heads of {}", self.heads, self.kv_heads, self.dim));
        }
        let len = self.heads.checked_mul(self.dim).and_then(|n| n.checked_mul(self.tokens));
        if len.is_none_or(|n| q.len() < n || out.len() < n) {
            return wrong(format!("{} queries, {} outputs for {self:?}", q.len(), out.len()));
        }
        let rows = (0..self.kv_heads).map(|h| kv.rows(h)).max().unwrap_or(0);
        if scratch.len() < self.scratch(threads, rows) {
            return wrong(format!("{} elements of scratch, {} needed", scratch.len(), self.scratch(threads, rows)));
        }
        Ok(rows)
    }
}

/// How the query heads of a group become one number a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// Their largest.
    Max,
    /// Their sum.
    Sum,
}

/// What is looked at beside the output; it never changes the output's bits.
#[derive(Debug)]
pub struct Observe<'a> {
    /// Added to, for each row: the attention it got, aggregated over its query heads, summed over queries in order.
    /// `(kv_heads, stride)`.
    pub columns: Option<&'a mut [f32]>,
    /// How the heads of a group are put together in `columns`.
    pub aggregate: Aggregate,
    /// Overwritten with the attention of the last `min(last, tokens)` queries, oldest first, unseen rows 0:
    /// `(heads, min(last, tokens), stride)`.
    pub rows: Option<&'a mut [f32]>,
    /// Queries that `rows` takes.
    pub last: usize,
    /// Of one query head: overwritten with the attention of every query of the call, oldest first, unseen rows 0. Each weight
    /// is [`packed_weight`]. `(tokens, stride)`.
    pub map: Option<(usize, &'a mut [u8])>,
    /// Elements from one head's rows to the next; at least the rows of the longest head.
    pub stride: usize,
    /// Of some of the call's queries: added to, the attention that each row got, for each query head by itself.
    pub window: Option<Window<'a>>,
}

/// Sums of the attention of a call's newest queries.
#[derive(Debug)]
pub struct Window<'a> {
    /// `(heads, stride)`.
    pub sums: &'a mut [f32],
    /// Elements from one head's sums to the next's; at least the rows of the longest head.
    pub stride: usize,
    /// Queries of the call before this one are not counted.
    pub from: usize,
}

/// A weight 0 … 1 as a byte: 255 times its square root, so that a thousandth is still 8 and the error of no weight is above
/// 1 / 255.
pub fn packed_weight(weight: f32) -> u8 {
    (weight.max(0.0).sqrt() * 255.0).round() as u8
}

/// Attends from `q (tokens, heads · dim)`, already rotated, over `kv` into `out (tokens, heads · dim)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice is too short or the shape makes no sense.
pub fn attend(
    team: &ThreadTeam,
    q: &[f32],
    kv: &dyn KvTiles,
    shape: Attention,
    out: &mut [f32],
    scratch: &mut [f32],
    observe: Option<Observe<'_>>,
) -> Result<()> {
    attend_with(kernels(), team, q, kv, shape, out, scratch, observe)
}

pub(crate) fn attend_with(
    kernels: &Kernels,
    team: &ThreadTeam,
    q: &[f32],
    kv: &dyn KvTiles,
    shape: Attention,
    out: &mut [f32],
    scratch: &mut [f32],
    observe: Option<Observe<'_>>,
) -> Result<()> {
    if shape.tokens == 0 {
        return Ok(());
    }
    let rows = shape.check(team.threads(), q, kv, out, scratch)?;
    let one = shape.worker(shape.block() * shape.group());
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let (workers, rest) = scratch[aligned..].split_at_mut(team.threads() * one);
    let (partials, rest) = rest.split_at_mut(shape.partials(rows));
    let stats = SharedMut::new(&mut rest[..2 * shape.tokens * shape.heads]);
    let (workers, out) = (SharedMut::new(workers), SharedMut::new(out));
    let call = Call { kernels, team, q, kv, shape, workers, one, out, stats };
    if shape.split() {
        call.by_segments(rows, partials)?;
    } else {
        call.by_queries()?;
    }
    if team.cancelled() {
        return Err(Error::Cancelled);
    }
    observe.map_or(Ok(()), |observe| call.observe(observe, rows))
}

/// A worker's scratch. Rows of a block are ordered token by token, the group's heads side by side.
struct Work<'a> {
    /// Scaled queries, `(rows, dim)`.
    q: &'a mut [f32],
    /// Scores and then weights, `(rows, TILE)`.
    scores: &'a mut [f32],
    /// The segment's sums, `(rows, dim)`.
    sum: &'a mut [f32],
    /// All segments' sums so far, `(rows, dim)`.
    total: &'a mut [f32],
    /// Of `sum`: the maximum of each row, then the weight of each row.
    stats: &'a mut [f32],
    /// Of `total`, alike.
    total_stats: &'a mut [f32],
    /// Decoded rows.
    rows: &'a mut [f32],
    /// Keys across, `(dim, TILE)`.
    across: &'a mut [f32],
    /// Values, `(TILE, dim)`.
    values: &'a mut [f32],
}

fn carve<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(n);
    *rest = tail;
    head
}

impl<'a> Work<'a> {
    fn new(mut scratch: &'a mut [f32], shape: &Attention) -> Self {
        let rows = shape.block() * shape.group();
        let rest = &mut scratch;
        // Tiles first: their rows are read most, and so stay aligned.
        Self {
            across: carve(rest, shape.dim * TILE),
            values: carve(rest, TILE * shape.dim),
            rows: carve(rest, TILE * shape.dim),
            scores: carve(rest, rows * TILE),
            q: carve(rest, rows * shape.dim),
            sum: carve(rest, rows * shape.dim),
            total: carve(rest, rows * shape.dim),
            stats: carve(rest, 2 * rows),
            total_stats: carve(rest, 2 * rows),
        }
    }

    fn clear_total(&mut self) {
        self.total.fill(0.0);
        let rows = self.total_stats.len() / 2;
        self.total_stats[..rows].fill(f32::NEG_INFINITY);
        self.total_stats[rows..].fill(0.0);
    }

    /// Adds a segment's sums to the total.
    fn merge(&mut self, kernels: &Kernels, sum: &[f32], stats: &[f32], dim: usize) {
        let rows = stats.len() / 2;
        let (total_max, total_weight) = self.total_stats.split_at_mut(rows);
        for r in 0..rows {
            let (max, weight) = (stats[r], stats[rows + r]);
            if weight == 0.0 {
                continue;
            }
            let total = &mut self.total[r * dim..][..dim];
            let sum = &sum[r * dim..][..dim];
            if total_weight[r] == 0.0 {
                total.copy_from_slice(sum);
                (total_max[r], total_weight[r]) = (max, weight);
                continue;
            }
            let both = max.max(total_max[r]);
            let (a, b) = ((total_max[r] - both).exp(), (max - both).exp());
            // SAFETY: the table's level runs here.
            unsafe { (kernels.lanes.blend)(total, a, sum, b) };
            (total_max[r], total_weight[r]) = (both, total_weight[r] * a + weight * b);
        }
    }
}

/// What an [`Observe`] asks for, as tasks write it.
struct Seen {
    columns: Option<SharedMut<f32>>,
    kept: Option<SharedMut<f32>>,
    /// Queries that `kept` takes.
    last: usize,
    /// Sums, and elements from one head's to the next's.
    window: Option<(SharedMut<f32>, usize)>,
    /// Queries of the call before this one do not count in `window`.
    from: usize,
    /// A query head and its cells.
    map: Option<(usize, SharedMut<u8>)>,
    aggregate: Aggregate,
    stride: usize,
}

impl Seen {
    /// [`Error::Internal`] where what is asked for does not fit a call over at most `rows` rows a head.
    fn of(o: Observe<'_>, shape: &Attention, rows: usize) -> Result<Self> {
        let Attention { heads, kv_heads, tokens, .. } = *shape;
        let last = if o.rows.is_some() { o.last.min(tokens) } else { 0 };
        let from = o.window.as_ref().map_or(tokens, |w| w.from);
        let short = o.window.as_ref().is_some_and(|w| w.stride < rows || w.sums.len() < heads * w.stride);
        let short = short
            || o.columns.as_ref().is_some_and(|c| c.len() < kv_heads * o.stride)
            || o.rows.as_ref().is_some_and(|r| r.len() < heads * last * o.stride)
            || o.map.as_ref().is_some_and(|(head, m)| *head >= heads || m.len() < tokens * o.stride);
        if o.stride < rows || short {
            return Err(Error::Internal(format!(
                "attention: what is observed does not fit, {rows} rows, {} apart",
                o.stride
            )));
        }
        let stride = o.stride;
        Ok(Self {
            columns: o.columns.map(SharedMut::new),
            kept: o.rows.map(|r| SharedMut::new(&mut r[..heads * last * stride])),
            last,
            window: o.window.map(|w| (SharedMut::new(&mut w.sums[..heads * w.stride]), w.stride)),
            from,
            map: o.map.map(|(head, m)| (head, SharedMut::new(&mut m[..tokens * stride]))),
            aggregate: o.aggregate,
            stride,
        })
    }
}

/// What all tasks of a call share.
struct Call<'a> {
    kernels: &'a Kernels,
    team: &'a ThreadTeam,
    q: &'a [f32],
    kv: &'a dyn KvTiles,
    shape: Attention,
    /// Scratch of every worker, `one` element after the other's.
    workers: SharedMut<f32>,
    one: usize,
    /// `(tokens, heads · dim)`.
    out: SharedMut<f32>,
    /// Of each query and head, for an observer: its maximum, and 1 over its weight.
    stats: SharedMut<f32>,
}

impl Call<'_> {
    fn work(&self, worker: usize) -> Work<'_> {
        // SAFETY: a worker runs one task at a time, so its scratch is its own.
        Work::new(unsafe { self.workers.slice(worker * self.one, self.one) }, &self.shape)
    }

    /// Few queries: workers share the segments out, and what each came to is merged in order.
    fn by_segments(&self, rows: usize, partials: &mut [f32]) -> Result<()> {
        let Self { shape, kernels, .. } = *self;
        let (dim, block) = (shape.dim, shape.block());
        let block_rows = block * shape.group();
        let segments = rows.div_ceil(SEGMENT);
        let size = block_rows * (dim + 2);
        let parts = SharedMut::new(partials);
        self.team.run(shape.kv_heads * segments, &|task, worker| {
            let (head, segment) = (task / segments, task % segments);
            let mut work = self.work(worker);
            self.load_queries(&mut work, head, 0, block);
            self.segment(&mut work, head, 0, block, segment);
            // SAFETY: every task has its own part.
            let part = unsafe { parts.slice(task * size, size) };
            part[..block_rows * dim].copy_from_slice(&work.sum[..block_rows * dim]);
            part[block_rows * dim..].copy_from_slice(&work.stats[..2 * block_rows]);
        })?;
        let mut work = self.work(0);
        for head in 0..shape.kv_heads {
            work.clear_total();
            for segment in 0..self.kv.rows(head).div_ceil(SEGMENT) {
                // SAFETY: all tasks have ended.
                let part = unsafe { parts.read((head * segments + segment) * size, size) };
                let (sum, stats) = part.split_at(block_rows * dim);
                work.merge(kernels, sum, stats, dim);
            }
            self.finish(&work, head, 0, block);
        }
        Ok(())
    }

    /// Many queries: workers share them out, and each walks its segments in order.
    fn by_queries(&self) -> Result<()> {
        let Self { shape, kernels, team, kv, .. } = *self;
        let (dim, block) = (shape.dim, shape.block());
        let blocks = shape.tokens.div_ceil(block);
        team.run(shape.kv_heads * blocks, &|task, worker| {
            // Later queries see more rows: the longest tasks go first.
            let (head, first) = (task % shape.kv_heads, (blocks - 1 - task / shape.kv_heads) * block);
            let n = block.min(shape.tokens - first);
            let mut work = self.work(worker);
            self.load_queries(&mut work, head, first, n);
            work.clear_total();
            let rows = kv.rows(head);
            let segments = shape.first(rows, first) / SEGMENT..shape.visible(rows, first + n - 1).div_ceil(SEGMENT);
            for segment in segments {
                if team.cancelled() {
                    return;
                }
                self.segment(&mut work, head, first, n, segment);
                let Work { sum, stats, .. } = &mut work;
                let (sum, stats) = (std::mem::take(sum), std::mem::take(stats));
                work.merge(kernels, sum, stats, dim);
                (work.sum, work.stats) = (sum, stats);
            }
            self.finish(&work, head, first, n);
        })?;
        Ok(())
    }

    /// Queries `first..first + n` of the heads over `head`, scaled.
    fn load_queries(&self, work: &mut Work<'_>, head: usize, first: usize, n: usize) {
        let Attention { heads, dim, scale, .. } = self.shape;
        let width = self.shape.group() * dim;
        for (i, to) in work.q.chunks_exact_mut(width).take(n).enumerate() {
            to.copy_from_slice(&self.q[(first + i) * heads * dim + head * width..][..width]);
            // SAFETY: the table's level runs here.
            unsafe { (self.kernels.lanes.scale)(to, scale) };
        }
    }

    /// Scores of rows `from..` of the block against cache rows `start..start + n`.
    fn scores(&self, work: &mut Work<'_>, head: usize, start: usize, n: usize, from: usize, to: usize) {
        let dim = self.shape.dim;
        self.kv.keys(head, start, n, &mut work.rows[..n * dim]);
        // SAFETY: `rows` holds n rows of `dim`, `across` `dim` rows of TILE; queries and scores hold rows `from..to`.
        unsafe {
            (self.kernels.transpose)(work.rows.as_ptr(), n, dim, work.across.as_mut_ptr());
            let (q, scores) = (work.q[from * dim..].as_ptr(), work.scores[from * TILE..].as_mut_ptr());
            (self.kernels.mul)(q, dim, 1, to - from, work.across.as_ptr(), TILE, n, dim, scores, TILE, false);
        }
        if let Some(cap) = self.shape.cap {
            for row in work.scores[from * TILE..to * TILE].chunks_exact_mut(TILE) {
                row[..n].iter_mut().for_each(|score| *score = capped(*score, cap));
            }
        }
    }

    /// Sums one segment for queries `first..first + n` into `sum` and `stats`.
    fn segment(&self, work: &mut Work<'_>, head: usize, first: usize, n: usize, segment: usize) {
        let (group, dim) = (self.shape.group(), self.shape.dim);
        let block_rows = n * group;
        let all = work.stats.len() / 2;
        work.sum[..block_rows * dim].fill(0.0);
        work.stats[..all].fill(f32::NEG_INFINITY);
        work.stats[all..].fill(0.0);
        let rows = self.kv.rows(head);
        let end = self.shape.visible(rows, first + n - 1).min((segment + 1) * SEGMENT);
        let begin = self.shape.first(rows, first) / TILE * TILE;
        for start in (begin.max(segment * SEGMENT)..end).step_by(TILE) {
            let tile = TILE.min(end - start);
            // Queries before this one see nothing of the tile, nor do those whose window begins after it.
            let skipped = (0..n).take_while(|i| self.shape.visible(rows, first + i) <= start).count();
            let within = (0..n).take_while(|i| self.shape.first(rows, first + i) < start + tile).count();
            let (from, to) = (skipped * group, within.max(skipped) * group);
            self.scores(work, head, start, tile, from, to);
            let (maxima, weights) = work.stats.split_at_mut(all);
            for r in from..to {
                let seen = (self.shape.visible(rows, first + r / group) - start).min(tile);
                let before = self.shape.first(rows, first + r / group).saturating_sub(start);
                let (scores, hidden) = work.scores[r * TILE..][..tile].split_at_mut(seen);
                hidden.fill(0.0);
                let (hidden, scores) = scores.split_at_mut(before);
                hidden.fill(0.0);
                // SAFETY: the table's level runs here.
                unsafe {
                    let max = (self.kernels.lanes.max)(scores).max(maxima[r]);
                    if max > maxima[r] && weights[r] > 0.0 {
                        let shrink = (maxima[r] - max).exp();
                        (self.kernels.lanes.scale)(&mut work.sum[r * dim..][..dim], shrink);
                        weights[r] *= shrink;
                    }
                    maxima[r] = max;
                    weights[r] += (self.kernels.lanes.exp_sum)(scores, max);
                }
            }
            self.kv.values(head, start, tile, &mut work.values[..tile * dim]);
            // SAFETY: scores hold `tile` weights a row, values `tile` rows of `dim`, `sum` the rows `from..`.
            unsafe {
                let (scores, sum) = (work.scores[from * TILE..].as_ptr(), work.sum[from * dim..].as_mut_ptr());
                (self.kernels.mul)(scores, TILE, 1, to - from, work.values.as_ptr(), dim, dim, tile, sum, dim, true);
            }
        }
    }

    /// Writes the outputs of queries `first..first + n`, and their maxima and weights for an observer.
    fn finish(&self, work: &Work<'_>, head: usize, first: usize, n: usize) {
        let Attention { heads, dim, .. } = self.shape;
        let group = self.shape.group();
        let all = work.total_stats.len() / 2;
        for r in 0..n * group {
            let at = (first + r / group) * heads + head * group + r % group;
            // SAFETY: each query and head is written by one task.
            let (out, stats) = unsafe { (self.out.slice(at * dim, dim), self.stats.slice(2 * at, 2)) };
            let (max, weight) = (work.total_stats[r], work.total_stats[all + r]);
            let over = match self.kv.sink(head * group + r % group) {
                Some(sink) if weight > 0.0 => {
                    let both = max.max(sink);
                    let rows = (max - both).exp();
                    rows / (weight * rows + (sink - both).exp())
                }
                None if weight > 0.0 => 1.0 / weight,
                _ => 0.0,
            };
            for (out, total) in out.iter_mut().zip(&work.total[r * dim..][..dim]) {
                *out = total * over;
            }
            stats.copy_from_slice(&[max, over]);
        }
    }

    /// The second pass: each tile's weights again, now that each query's maximum and total weight are known.
    fn observe(&self, o: Observe<'_>, rows: usize) -> Result<()> {
        let Attention { heads, kv_heads, tokens, .. } = self.shape;
        let (group, block) = (self.shape.group(), self.shape.block());
        let Seen { columns, kept, last, window, from, map, aggregate, stride } = Seen::of(o, &self.shape, rows)?;
        let every = columns.is_some();
        let tiles = stride.div_ceil(TILE);
        self.team.run(kv_heads * tiles, &|task, worker| {
            let (head, start) = (task / tiles, task % tiles * TILE);
            let width = TILE.min(stride - start);
            let tile = TILE.min(self.kv.rows(head).saturating_sub(start));
            let mut work = self.work(worker);
            let mut sums = [0.0f32; TILE];
            let mapped = map.filter(|(of, _)| of / group == head);
            let begin = if every || mapped.is_some() { 0 } else { from.min(tokens - last) };
            for first in (begin..tokens).step_by(block) {
                let n = block.min(tokens - first);
                if tile > 0 {
                    self.load_queries(&mut work, head, first, n);
                    self.scores(&mut work, head, start, tile, 0, n * group);
                }
                for i in 0..n {
                    let token = first + i;
                    let seen = self.shape.visible(self.kv.rows(head), token).saturating_sub(start).min(tile);
                    let before = self.shape.first(self.kv.rows(head), token).saturating_sub(start).min(seen);
                    let mut together = [0.0f32; TILE];
                    for h in 0..group {
                        let weights = &mut work.scores[(i * group + h) * TILE..][..TILE];
                        weights[seen..].fill(0.0);
                        weights[..before].fill(0.0);
                        // SAFETY: written by the first pass, only read now.
                        let stats = unsafe { self.stats.read(2 * (token * heads + head * group + h), 2) };
                        // SAFETY: the table's level runs here.
                        unsafe {
                            (self.kernels.lanes.exp_sum)(&mut weights[before..seen], stats[0]);
                            (self.kernels.lanes.scale)(&mut weights[before..seen], stats[1]);
                        }
                        for (t, w) in together.iter_mut().zip(&*weights) {
                            *t = if aggregate == Aggregate::Max { t.max(*w) } else { *t + w };
                        }
                        if let Some((_, map)) = mapped.filter(|(of, _)| of % group == h) {
                            // SAFETY: each query and tile is written by one task.
                            let cells = unsafe { map.slice(token * stride + start, width) };
                            for (cell, weight) in cells.iter_mut().zip(&*weights) {
                                *cell = packed_weight(*weight);
                            }
                        }
                        if let Some((window, stride)) = window.filter(|_| token >= from) {
                            // SAFETY: each head and tile is written by one task.
                            let sums = unsafe { window.slice((head * group + h) * stride + start, tile) };
                            for (sum, weight) in sums.iter_mut().zip(&*weights) {
                                *sum += weight;
                            }
                        }
                        if let Some(kept) = kept
                            && token + last >= tokens
                        {
                            let row = (head * group + h) * last + (token + last - tokens);
                            // SAFETY: each row and tile is written by one task.
                            unsafe { kept.slice(row * stride + start, width) }.copy_from_slice(&weights[..width]);
                        }
                    }
                    let by = if aggregate == Aggregate::Mean { 1.0 / group as f32 } else { 1.0 };
                    for (s, t) in sums.iter_mut().zip(&together) {
                        *s += t * by;
                    }
                }
            }
            if let Some(columns) = columns {
                // SAFETY: each head and tile is written by one task.
                let columns = unsafe { columns.slice(head * stride + start, width) };
                for (c, s) in columns.iter_mut().zip(&sums) {
                    *c += s;
                }
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
