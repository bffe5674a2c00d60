//! The part of a layer that knows the cache: rotates, appends, attends over tiles, observes, lets rows go, seals; and settles a
//! prompt at its end.

use std::sync::Arc;

use super::cpu::{Forward, Sequence};
use super::observer::{HeadRows, PassObserver};
use super::rotary::{Turn, angles, fill_angles, pairs};
use super::windowed::{self, past};
use super::workspace::{BatchShape, Stage, Workspace};
use crate::error::Result;
use crate::kv::cache::LayerCache;
use crate::kv::read::Chosen;
use crate::kv::{Fold, HeadView, Pipeline, Positions, Ranks, Rhythm, Seen};
use crate::ledger::Ledger;
use crate::ops::ThreadTeam;
use crate::ops::cpu::{
    Aggregate, Angles, Attention, KvTiles, Observe, RopeLayout, Window, WithSinks, attend, rope, rotate,
};
use crate::shape::{LayerShape, ModelShape};

pub(super) fn attention(layer: &LayerShape, tokens: usize) -> Attention {
    let crate::shape::Attention { heads, kv_heads, dim, scale, window, cap, .. } = layer.attention;
    Attention { heads, kv_heads, dim, scale, window, cap, tokens }
}

/// Rows of one sequence in a batch.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) sequence: usize,
    /// First row of the batch.
    pub(super) at: usize,
    pub(super) rows: usize,
}

/// Elements of f32 that the policy's part of a workspace is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicySizes {
    /// Column sums, or ranks: `(kv_heads, rows)`.
    sums: usize,
    /// Rows that stay.
    keep: usize,
    /// [`crate::kv::Needs::window`]: `(heads, rows)`.
    window: usize,
    /// [`crate::kv::Needs::queries`]: `(queries, heads · d)`.
    queries: usize,
    /// Of the split.
    share: usize,
    /// Of merging, sealing and the reader's pages.
    scratch: usize,
    /// Pages that each head reads, how many they are before them; and a number for each page.
    lists: usize,
}

/// The same, cut.
struct Policy<'a> {
    sums: &'a mut [f32],
    keep: &'a mut [u32],
    window: &'a mut [f32],
    queries: &'a mut [f32],
    share: &'a mut [u32],
    scratch: &'a mut [f32],
    lists: &'a mut [f32],
}

impl PolicySizes {
    pub fn new(shape: &ModelShape, p: &Pipeline, e: BatchShape) -> Self {
        let max = |f: &dyn Fn(usize, &LayerShape) -> usize| {
            shape.layers.iter().enumerate().map(|(l, s)| f(l, s)).max().unwrap_or(0)
        };
        let settles = e.stage == Stage::Settle;
        let when = |on: bool, n: usize| if on { n } else { 0 };
        let drops = settles || p.select.rhythm() != Rhythm::Once;
        let kv_heads = max(&|_, s| s.attention.kv_heads);
        let share = p.split.share().filter(|_| settles).map_or(0, |s| s.scratch(kv_heads, e.rows));
        let queries = p.needs.queries.min(e.rows);
        Self {
            sums: when(p.needs.columns || settles && p.select.ranks(), kv_heads * e.rows),
            keep: when(drops, e.rows),
            window: when(settles && p.needs.window > 0, max(&|_, s| s.attention.heads) * e.rows),
            queries: when(settles, queries * max(&|_, s| s.attention.q())),
            share,
            scratch: max(&|l, s| {
                let merge = when(drops, p.merge.scratch(e.rows, s.attention.dim));
                merge.max(when(e.stage != Stage::Read, p.layout(l).scratch()))
            }),
            lists: when(e.stage == Stage::Step, max(&|l, s| lists(p, l, s, e.rows))),
        }
    }

    pub fn all(&self) -> usize {
        self.sums + self.keep + self.window + self.queries + self.share + self.scratch + self.lists
    }

    fn cut<'a>(&self, whole: &'a mut [f32]) -> Policy<'a> {
        let mut rest = whole;
        let mut next = |n: usize| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            part
        };
        Policy {
            sums: next(self.sums),
            keep: bytemuck::cast_slice_mut(next(self.keep)),
            window: next(self.window),
            queries: next(self.queries),
            share: bytemuck::cast_slice_mut(next(self.share)),
            scratch: next(self.scratch),
            lists: next(self.lists),
        }
    }
}

/// Elements of the lists of pages of a layer whose heads hold at most `rows` rows, and of the numbers by which they are chosen.
fn lists(p: &Pipeline, l: usize, s: &LayerShape, rows: usize) -> usize {
    match (p.layout(l).page, p.read.most_pages(l)) {
        (Some(page), Some(_)) => {
            let (pages, heads) = (
                rows.div_ceil(page.rows),
                if p.read.by_query_head() { s.attention.heads } else { s.attention.kv_heads },
            );
            heads * (pages + 1) + pages
        }
        _ => 0,
    }
}

/// The shapes of attention calls over `tokens` queries of layer `l`: the usual one, and the one in which every query head reads by
/// itself.
pub(super) fn calls(p: &Pipeline, l: usize, s: &LayerShape, tokens: usize) -> impl Iterator<Item = Attention> {
    let usual = attention(s, tokens);
    let apart = p.layout(l).page.is_some() && p.read.most_pages(l).is_some() && p.read.by_query_head() && tokens == 1;
    std::iter::once(usual).chain(apart.then_some(Attention { kv_heads: s.attention.heads, ..usual }))
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
    /// What they are of, from one layer to the next: [`super::workspace::Workspace::turned`].
    pub(super) turned: &'a mut Option<[usize; 3]>,
    /// Cut by [`PolicySizes`].
    pub(super) policy: &'a mut [f32],
    pub(super) sizes: PolicySizes,
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
    /// Bytes of the cache that decoding has read are added to it.
    pub(super) read: &'a mut u64,
    pub(super) maps: bool,
}

/// One layer's attention over its cache.
pub(super) struct Cached<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) ledger: &'a Arc<Ledger>,
    /// `None` where nothing turns.
    pub(super) turn: Option<&'a Turn>,
    pub(super) shape: &'a ModelShape,
    pub(super) l: usize,
    /// Scores that take a part of each query head's softmax, `(heads)`.
    pub(super) sinks: Option<&'a [f32]>,
}

/// One layer's cache as attention reads it.
struct Tiles<'a> {
    cache: &'a LayerCache,
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
        self.cache.keys(head, from, n - empty, &mut out[empty * d..]);
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
        self.cache.values(head, from, n - empty, &mut out[empty * d..]);
    }
}

/// Who drops rows: the sequence's index and the layer.
type Place = (usize, usize);

impl Cached<'_> {
    /// Rows of a head that the last of `rows` new tokens of a sequence looks at, at most.
    pub(super) fn held(&self, seq: &Sequence, staging: Option<&(&mut LayerCache, usize)>, rows: usize) -> usize {
        rows + staging.map_or_else(|| seq.layers[self.l].max_rows(), |(_, offset)| *offset)
    }

    /// Appends the batch to the cache of each span's sequence and attends over what is held, span by span: `out` is
    /// `(rows, heads · dim)`. Then lets the policy drop and the format seal. `staging` is the layer in which a whole prompt is
    /// gathered, and the rows it holds already.
    pub(super) fn attend(
        &self,
        qkv: Projected<'_>,
        spans: &[Span],
        seqs: &mut [Sequence],
        mut staging: Option<(&mut LayerCache, usize)>,
        out: &mut [f32],
        mut s: Scratch<'_>,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let (l, p) = (self.l, self.pipeline);
        let of = &self.shape.layers[l].attention;
        let (nq, nkv) = (of.q(), of.kv());
        let Projected { q, k, v } = qkv;
        let mut policy = s.sizes.cut(std::mem::take(&mut s.policy));
        for span in spans {
            let seq = &mut seqs[span.sequence];
            let place = (span.sequence, l);
            let (prompt, seen) = (seq.prompt, seq.seen);
            let step = span.rows == 1 && staging.is_none() && seen >= prompt;
            let window = of.window.filter(|_| staging.is_none());
            let through = match window {
                Some(window) => windowed::enter(&mut seq.layers[l], window, span.rows, s.windows, self.ledger)?,
                None => None,
            };
            let (cache, offset) = match &mut staging {
                Some((stage, offset)) => (&mut **stage, *offset),
                None => {
                    let cache = &mut seq.layers[l];
                    self.make_way(cache, prompt, span.rows, &mut policy, place, watch)?;
                    (cache, 0)
                }
            };
            let first = seen + offset;
            let q = &mut q[span.at * nq..(span.at + span.rows) * nq];
            let k = &mut k[span.at * nkv..(span.at + span.rows) * nkv];
            let v = &v[span.at * nkv..(span.at + span.rows) * nkv];
            let out = &mut out[span.at * nq..(span.at + span.rows) * nq];
            let gone = windowed::gone(of.window, first, cache.max_rows());
            self.turn(gone + cache.max_rows(), first, q, k, &mut s, team)?;
            cache.append_all(team, k, v, first, span.rows)?;
            let staged = staging.is_some();
            if staged {
                gather_queries(p, prompt, first, q, nq, &mut policy);
            }
            let cache = match &mut staging {
                Some((stage, _)) => &mut **stage,
                None => &mut seqs[span.sequence].layers[l],
            };
            let call = Call { place, first, prompt, tokens: span.rows, staged, step, gone };
            self.look(call, cache, q, out, &mut s, &mut policy, team, watch)?;
            if let (Some(at), Some(window)) = (through, window) {
                windowed::leave(&mut seqs[span.sequence].layers[l], window, &mut s.windows[at], self.ledger)?;
            } else if !staged {
                self.make_less(cache, prompt, &mut policy, place, watch)?;
                for h in 0..if p.layout(l).seals() { of.kv_heads } else { 0 } {
                    let moved = cache.seal(h, policy.scratch)?;
                    self.ledger.moved("cache shift", moved);
                }
            }
        }
        Ok(())
    }

    /// Rotates queries, and keys where they are cached so.
    fn turn(
        &self,
        held: usize,
        first: usize,
        q: &mut [f32],
        k: &mut [f32],
        s: &mut Scratch<'_>,
        team: &ThreadTeam,
    ) -> Result<()> {
        let of = &self.shape.layers[self.l].attention;
        let (Some(turn), Some(number)) = (self.turn, of.rope) else { return Ok(()) };
        let (d, half, tokens) = (of.dim, turn.freqs.len(), q.len() / of.q());
        let reindex = self.pipeline.select.positions() == Positions::Reindex;
        let turned = &mut s.turns[..2 * tokens * half];
        let start = if reindex { held } else { first };
        // Layers of the same rotation turn by the same angles.
        if s.turned.replace([number, start, tokens]) != Some([number, start, tokens]) {
            fill_angles(start, turn, turned);
        }
        let (pairs, positions) = (pairs(&self.shape.ropes[number]), &s.order[..tokens]);
        rope(team, q, d, pairs, angles(turned, half), positions)?;
        if !reindex {
            rope(team, k, d, pairs, angles(turned, half), positions)?;
        }
        Ok(())
    }

    /// Attends, and observes what policy and screen ask for.
    fn look(
        &self,
        call: Call,
        cache: &mut LayerCache,
        q: &[f32],
        out: &mut [f32],
        s: &mut Scratch<'_>,
        policy: &mut Policy<'_>,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let Call { place, first, prompt, tokens, staged, step, gone } = call;
        let (l, p, layer) = (self.l, self.pipeline, &self.shape.layers[self.l]);
        let rows = gone + cache.max_rows();
        let chosen = if step { self.choose(cache, q, policy) } else { None };
        let reindex = p.select.positions() == Positions::Reindex;
        let turned = self.turn.zip(layer.attention.rope).filter(|_| reindex);
        let table = turned.map(|(turn, rope)| (angles(s.table, turn.freqs.len()), pairs(&self.shape.ropes[rope])));
        let tiles = Tiles { cache, table, gone };
        let sums = if p.needs.columns { &mut policy.sums[..layer.attention.kv_heads * rows] } else { &mut [][..] };
        sums.fill(0.0);
        let mut shown = s.shows.then(|| &mut s.seen[..layer.attention.heads * rows]);
        let mapped = s.observed.filter(|[at, _]| *at == l && s.maps).map(|[_, head]| head);
        let mut cells = mapped.map(|_| &mut s.map[..tokens * rows]);
        let newest = prompt - p.needs.window.min(prompt);
        let window = staged && p.window(l).is_none() && p.needs.window > 0 && first + tokens > newest;
        let observes = p.needs.columns || shown.is_some() || mapped.is_some() || window;
        let observe = observes.then(|| Observe {
            columns: p.needs.columns.then_some(sums),
            aggregate: Aggregate::Mean,
            last: usize::from(shown.is_some()),
            rows: shown.as_deref_mut(),
            map: mapped.zip(cells.as_deref_mut()),
            stride: rows,
            window: window.then(|| Window {
                sums: &mut *policy.window,
                stride: prompt,
                from: newest.saturating_sub(first),
            }),
        });
        match &chosen {
            None => self.over(&tiles, team, q, attention(layer, tokens), out, s.kernels, observe)?,
            Some((stride, heads)) => {
                let lists: &[u32] = bytemuck::cast_slice(&policy.lists[..stride * heads]);
                let chosen = Chosen::new(cache, lists, *stride, heads / layer.attention.kv_heads.max(1));
                let shape = Attention { kv_heads: *heads, ..attention(layer, tokens) };
                self.over(&chosen, team, q, shape, out, s.kernels, observe)?;
                // What is shown is by the rows that are held, those not read being zero.
                for (h, row) in shown.iter_mut().flat_map(|s| s.chunks_exact_mut(rows)).enumerate() {
                    chosen.spread(h * heads / layer.attention.heads, row);
                }
                if let (Some(head), Some(cells)) = (mapped, &mut cells) {
                    chosen.spread(head * heads / layer.attention.heads, cells);
                }
            }
        }
        if let Some(shown) = shown {
            watch.attention(place.0, l, windowed::without(shown, rows, gone), rows - gone);
        }
        if let (Some(head), Some(cells)) = (mapped, cells) {
            self.show_map(head, &call, cache, windowed::without(cells, rows, gone), watch);
        }
        if step {
            *s.read += read_bytes(cache, chosen, policy.lists);
        }
        for h in 0..if p.needs.columns { layer.attention.kv_heads } else { 0 } {
            let n = cache.rows(h);
            cache.add_scores(h, &mut policy.sums[h * rows + gone..h * rows + gone + n]);
        }
        Ok(())
    }

    /// Attends over `kv`, and the sinks where the layer has them.
    fn over(
        &self,
        kv: &dyn KvTiles,
        team: &ThreadTeam,
        q: &[f32],
        shape: Attention,
        out: &mut [f32],
        kernels: &mut [f32],
        observe: Option<Observe<'_>>,
    ) -> Result<()> {
        match self.sinks {
            None => attend(team, q, kv, shape, out, kernels, observe),
            Some(sinks) => attend(team, q, &WithSinks { kv, sinks }, shape, out, kernels, observe),
        }
    }

    /// Tells one head's map: `weights (tokens, rows)`, without the rows that have left a window.
    fn show_map(&self, head: usize, call: &Call, cache: &LayerCache, weights: &[u8], watch: &mut dyn PassObserver) {
        let of = &self.shape.layers[self.l].attention;
        let shared = head / (of.heads / of.kv_heads.max(1)).max(1);
        let rows = cache.rows(shared);
        // A window's rows are those just before.
        let oldest = (call.first + call.tokens).saturating_sub(rows);
        let position = |row| match of.window {
            Some(_) => (oldest + row) as u32,
            None => cache.position_or_row(shared, row),
        };
        let (stride, position) = (cache.max_rows(), &position as &dyn Fn(usize) -> u32);
        watch.map(call.place.0, HeadRows { first: call.first, queries: call.tokens, rows, weights, stride, position });
    }

    /// The pages that each head of a single query reads, as lists in `policy.lists`: from one list to the next, and how many. `None`
    /// when everything is read.
    fn choose(&self, cache: &mut LayerCache, q: &[f32], policy: &mut Policy<'_>) -> Option<(usize, usize)> {
        let (l, p, layer) = (self.l, self.pipeline, &self.shape.layers[self.l]);
        let page = p.layout(l).page?;
        for h in 0..layer.attention.kv_heads {
            cache.describe(&*p.read, h, policy.scratch);
        }
        let most = p.read.most_pages(l)?;
        let pages = cache.max_rows().div_ceil(page.rows);
        if pages <= most {
            return None;
        }
        let heads = if p.read.by_query_head() { layer.attention.heads } else { layer.attention.kv_heads };
        let stride = pages + 1;
        let (lists, scores) = policy.lists.split_at_mut(heads * stride);
        let width = layer.attention.heads / heads.max(1) * layer.attention.dim;
        for (h, list) in bytemuck::cast_slice_mut::<f32, u32>(lists).chunks_exact_mut(stride).enumerate() {
            let queries = &q[h * width..(h + 1) * width];
            let shared = h * layer.attention.kv_heads / heads.max(1);
            list[0] = cache.choose(&*p.read, shared, queries, scores, &mut list[1..]) as u32;
        }
        Some((stride, heads))
    }

    /// Before a decoding step's row is appended: drops what must go for it.
    fn make_way(
        &self,
        cache: &mut LayerCache,
        prompt: usize,
        newcomers: usize,
        policy: &mut Policy<'_>,
        place: Place,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let p = self.pipeline;
        if p.select.rhythm() != Rhythm::BeforeAppend || newcomers != 1 {
            return Ok(());
        }
        for h in 0..cache.heads() {
            let quota = p.quota(place.1, h, prompt);
            let rows = cache.rows(h);
            if rows + 1 > quota {
                let view = HeadView { rows, scores: &[], quota: quota - 1, newcomers: 1, prompt };
                drop_rows(p, self.ledger, cache, h, view, policy.keep, policy.scratch, place, watch)?;
            }
        }
        Ok(())
    }

    /// After attention: drops what stands above the quota, when enough does.
    fn make_less(
        &self,
        cache: &mut LayerCache,
        prompt: usize,
        policy: &mut Policy<'_>,
        place: Place,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        let p = self.pipeline;
        let Rhythm::Every(above) = p.select.rhythm() else { return Ok(()) };
        let stride = cache.max_rows();
        for h in 0..cache.heads() {
            let quota = p.quota(place.1, h, prompt);
            let rows = cache.rows(h);
            // While a prompt is being read in batches, its policy waits for the end: it fits as it is.
            if rows >= quota.saturating_add(above) {
                let scores = if p.select.ranks() { &policy.sums[h * stride..h * stride + rows] } else { &[][..] };
                let view = HeadView { rows, scores, quota, newcomers: 0, prompt };
                drop_rows(p, self.ledger, cache, h, view, policy.keep, policy.scratch, place, watch)?;
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
        let Policy { sums, keep, window, queries, share, scratch, .. } =
            workspace.sizes.policy.cut(workspace.policy.as_mut_slice());
        let layer = &self.shape.layers[l];
        let (heads, rows, prompt) = (stage.heads(), stage.max_rows(), seq.prompt);
        if let Some(window) = p.window(l) {
            for h in 0..heads {
                windowed::keep_last(&mut seq.layers[l], h, window, stage, &self.ledger)?;
            }
            return Ok(());
        }
        let group = layer.attention.heads / heads.max(1);
        for h in 0..if p.select.ranks() { heads } else { 0 } {
            let ranks = &mut sums[h * rows..(h + 1) * rows];
            ranks.fill(0.0);
            stage.add_scores(h, ranks);
            let at = (h * group * rows).min(window.len());
            let queries = p.needs.window.min(prompt);
            p.select.rank(Seen { rows, window: &window[at..], stride: rows, group, queries }, ranks);
        }
        let mut quotas: Vec<usize> = (0..heads).map(|h| p.quota(l, h, prompt)).collect();
        let shared = p.shared(l, prompt);
        if let Some((split, always, each)) = shared {
            split.share(Ranks { scores: sums, stride: rows, candidates: rows - always, each }, share, &mut quotas);
            quotas.iter_mut().for_each(|q| *q += always);
        }
        let stride = layer.attention.heads * layer.attention.dim;
        let queries = &queries[..p.needs.queries.min(prompt) * stride];
        for (h, quota) in quotas.into_iter().enumerate() {
            let scores = if p.select.ranks() { &sums[h * rows..(h + 1) * rows] } else { &[][..] };
            let n = p.select.keep(HeadView { rows, scores, quota, newcomers: 0, prompt }, keep);
            let kept = &keep[..n];
            let cache = &mut seq.layers[l];
            cache.with_merge_state(h, |_, state| {
                fold(p, Fold { cache: stage, head: h, kept, scores, state, scratch }, (index, l), watch)
            })?;
            report(stage, h, rows, kept, (index, l), watch);
            if shared.is_some() {
                let capacity = n + p.context().saturating_sub(prompt);
                cache.open(&*p.alloc, h, n, capacity)?;
            }
            let own = &queries[(h * group * layer.attention.dim).min(queries.len())..];
            let moved = cache.settle(stage, h, kept, (own, stride, group), scratch)?;
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
                to.copy_from(from)?;
            }
            seq.seen = first.seen;
        }
        Ok(())
    }
}

/// One span of a batch at one layer.
#[derive(Clone, Copy)]
struct Call {
    place: Place,
    /// Position of its first token.
    first: usize,
    /// Tokens of the sequence's prompt.
    prompt: usize,
    tokens: usize,
    /// Its rows are gathered before any leaves.
    staged: bool,
    /// It is one token after the prompt.
    step: bool,
    /// Rows counted on as empty before those that are held.
    gone: usize,
}

/// Keeps the rotated queries of a prompt's last tokens, `(queries, heads · d)`, and clears the sums over them at its start.
fn gather_queries(p: &Pipeline, prompt: usize, first: usize, q: &[f32], width: usize, policy: &mut Policy<'_>) {
    if first == 0 {
        policy.window.fill(0.0);
    }
    let newest = prompt - p.needs.queries.min(prompt);
    for (i, query) in q.chunks_exact(width).enumerate().skip(newest.saturating_sub(first)) {
        policy.queries[(first + i - newest) * width..][..width].copy_from_slice(query);
    }
}

/// Bytes of the rows, and of what is known of pages, that one query reads.
fn read_bytes(cache: &LayerCache, chosen: Option<(usize, usize)>, lists: &mut [f32]) -> u64 {
    let Some((stride, lists_of)) = chosen else {
        return (0..cache.heads()).map(|h| cache.read_bytes(h, usize::MAX)).sum();
    };
    let page = cache.heads_layout().page.unwrap_or_default();
    let (lists, marks) = lists.split_at_mut(stride * lists_of);
    let lists: &[u32] = bytemuck::cast_slice(lists);
    let per = lists_of / cache.heads().max(1);
    let mut sum = 0;
    for (h, own) in lists.chunks_exact(stride * per).enumerate() {
        let pages = cache.rows(h).div_ceil(page.rows);
        let marks = &mut marks[..pages];
        marks.fill(0.0);
        for list in own.chunks_exact(stride) {
            list[1..=list[0] as usize].iter().for_each(|page| marks[*page as usize] = 1.0);
        }
        let rows = (0..pages).filter(|i| marks[*i] > 0.0).map(|i| page.rows.min(cache.rows(h) - i * page.rows)).sum();
        sum += cache.read_bytes(h, rows) + (pages * page.bytes) as u64;
    }
    sum
}

/// Lets the policy choose and drops the rest, in place.
fn drop_rows(
    p: &Pipeline,
    ledger: &Arc<Ledger>,
    cache: &mut LayerCache,
    h: usize,
    view: HeadView<'_>,
    keep: &mut [u32],
    scratch: &mut [f32],
    place: Place,
    watch: &mut dyn PassObserver,
) -> Result<()> {
    let n = p.select.keep(view, keep);
    let kept = &keep[..n];
    cache.with_merge_state(h, |cache, state| {
        fold(p, Fold { cache, head: h, kept, scores: view.scores, state, scratch }, place, watch)
    })?;
    report(cache, h, view.rows, kept, place, watch);
    ledger.moved("cache shift", cache.retain(h, kept));
    Ok(())
}

/// Folds what goes into what stays, and tells the watcher which went into which.
fn fold(p: &Pipeline, fold: Fold<'_>, (index, l): Place, watch: &mut dyn PassObserver) -> Result<()> {
    // Told in pieces, so that a prompt of any length needs no memory for it.
    let (mut pairs, mut named, mut count) = ([(0u32, 0u32); 16], 0, 0);
    let h = fold.head;
    p.merge.fold(fold, &mut |cache, row, survivor| {
        count += 1;
        if let (Some(row), Some(survivor)) = (cache.position(h, row as usize), cache.position(h, survivor as usize)) {
            pairs[named] = (row, survivor);
            named += 1;
        }
        if named == pairs.len() {
            watch.merged(index, l, h, &pairs, count);
            (named, count) = (0, 0);
        }
    })?;
    if count > 0 {
        watch.merged(index, l, h, &pairs[..named], count);
    }
    Ok(())
}

/// Tells the watcher which rows go.
fn report(cache: &LayerCache, h: usize, rows: usize, keep: &[u32], (index, l): Place, watch: &mut dyn PassObserver) {
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
