//! Causal attention of a training batch, each token seeing its own document up to itself, forward and backward by tiles.
//!
//! Forward keeps the log of each row's sum of exponentials; backward makes the weights of a tile anew from it, so no
//! `(tokens, tokens)` matrix exists. Backward walks twice: once by query tile for the queries' gradients, once by key tile
//! for those of keys and values (transposed, so that no tile is turned). Seven products instead of five, and in return each
//! output tile is one task's, summed in one order.

use super::check;
use super::products::ended;
use crate::Result;
use crate::ops::cpu::attention::TILE;
use crate::ops::cpu::element::capped;
use crate::ops::cpu::{Kernels, kernels};
use crate::ops::descriptors::Causal;
use crate::ops::team::{SharedMut, ThreadTeam};

/// Elements of one worker: two tiles of scores, and per row statistics.
const OWN: usize = 2 * TILE * TILE + 4 * TILE;

/// Elements of scratch that [`attention`] and [`attention_vjp`] need for `m` tokens of `heads` query heads.
pub const fn attention_scratch(threads: usize, m: usize, heads: usize) -> usize {
    threads * OWN + (m * heads).next_multiple_of(16) + 16
}

/// One call: what all tasks share.
struct Call<'a> {
    kernels: &'static Kernels,
    segments: &'a [u32],
    of: Causal,
}

impl Call<'_> {
    fn width(&self) -> usize {
        self.of.heads * self.of.dim
    }

    fn kv_width(&self) -> usize {
        self.of.kv_heads * self.of.dim
    }

    fn tiles(&self) -> usize {
        self.of.length.div_ceil(TILE)
    }

    /// First token, within its sequence, that token `t` of sequence `s` sees.
    fn start(&self, s: usize, t: usize) -> usize {
        let document = self.segments.get(s * self.of.length + t).map_or(0, |v| *v as usize);
        self.of.window.map_or(document, |window| document.max((t + 1).saturating_sub(window)))
    }

    /// Tokens of tile `i`.
    fn rows(&self, i: usize) -> usize {
        TILE.min(self.of.length - i * TILE)
    }

    /// `c (m, n) = x · yᵀ` over heads of `dim`.
    fn dot(&self, x: &[f32], ldx: usize, m: usize, y: &[f32], ldy: usize, n: usize, c: &mut [f32]) {
        let dim = self.of.dim;
        debug_assert!(x.len() >= (m - 1) * ldx + dim && y.len() >= (n - 1) * ldy + dim && c.len() >= m * TILE);
        // SAFETY: m and n rows of `dim` elements are there, and `c` holds m rows of TILE.
        unsafe { (self.kernels.dot)(x.as_ptr(), ldx, m, y.as_ptr(), ldy, n, dim, c.as_mut_ptr(), TILE, false) };
    }

    /// Scores outside what query `t` of `first_query..` sees become −∞; rows are queries.
    fn mask(&self, s: usize, query: usize, m: usize, key: usize, n: usize, scores: &mut [f32]) {
        for (i, row) in scores.chunks_exact_mut(TILE).take(m).enumerate() {
            let (from, to) = (self.start(s, query + i), query + i + 1);
            row[..from.saturating_sub(key).min(n)].fill(f32::NEG_INFINITY);
            row[to.saturating_sub(key).min(n)..n].fill(f32::NEG_INFINITY);
        }
    }

    /// As [`Self::mask`] where rows are keys and columns queries.
    fn mask_across(&self, s: usize, query: usize, m: usize, key: usize, n: usize, scores: &mut [f32]) {
        for (j, row) in scores.chunks_exact_mut(TILE).take(n).enumerate() {
            for (i, score) in row[..m].iter_mut().enumerate() {
                if key + j > query + i || key + j < self.start(s, query + i) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Scaled scores, hidden ones aside, as they are capped.
    fn cap(&self, scores: &mut [f32]) {
        let Some(cap) = self.of.cap else { return };
        for score in scores.iter_mut().filter(|s| **s > f32::NEG_INFINITY) {
            *score = capped(*score, cap);
        }
    }

    /// As [`Self::cap`], and `dp`, from which `delta` will be taken, such that what is left is multiplied by the cap's slope.
    fn cap_vjp(&self, scores: &mut [f32], dp: &mut [f32], delta: impl Fn(usize) -> f32) {
        let Some(cap) = self.of.cap else { return };
        self.cap(scores);
        for (i, (score, dp)) in scores.iter().zip(dp).enumerate().filter(|(_, (s, _))| **s > f32::NEG_INFINITY) {
            let t = score / cap;
            *dp = (*dp - delta(i)).mul_add(1.0 - t * t, delta(i));
        }
    }

    /// Whether a tile of `n` keys at `key` is wholly seen by the `m` queries at `query`: then nothing is masked.
    fn whole(&self, s: usize, query: usize, m: usize, key: usize, n: usize) -> bool {
        key + n <= query + 1 && self.start(s, query + m - 1) <= key
    }
}

fn check_lengths(of: &Causal, q: usize, k: usize, log_sum_exp: usize, segments: usize) -> Result<()> {
    let m = of.sequences * of.length;
    let heads = of.kv_heads > 0 && of.heads.is_multiple_of(of.kv_heads) && of.dim > 0;
    let lengths = q >= m * of.heads * of.dim && k >= m * of.kv_heads * of.dim && log_sum_exp >= m * of.heads;
    check("attention", heads && lengths && (segments == 0 || segments >= m), || {
        format!("{q}, {k}, {log_sum_exp} and {segments} elements for {of:?}")
    })
}

/// Forward: `q, o (m, heads · dim)`, `k, v (m, kv_heads · dim)`, `segments (m)` or empty, `log_sum_exp (m, heads)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or scratch is short.
pub fn attention(
    team: &ThreadTeam,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[u32],
    of: Causal,
    o: &mut [f32],
    log_sum_exp: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    check_lengths(&of, q.len().min(o.len()), k.len().min(v.len()), log_sum_exp.len(), segments.len())?;
    check("attention", scratch.len() >= attention_scratch(team.threads(), 0, 0), || "scratch is short".into())?;
    let call = Call { kernels: kernels(), segments, of };
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let workers = SharedMut::new(&mut scratch[aligned..]);
    call.forward(team, [q, k, v], o, log_sum_exp, workers)?;
    ended(team)
}

/// Backward of [`attention`]: overwrites `dq`, `dk`, `dv`, those of keys and values summed over their group of heads.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or scratch is short.
pub fn attention_vjp(
    team: &ThreadTeam,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: &[f32],
    log_sum_exp: &[f32],
    d_o: &[f32],
    segments: &[u32],
    of: Causal,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    let rows = [q.len(), o.len(), d_o.len(), dq.len()].into_iter().min().unwrap_or(0);
    let kv_rows = [k.len(), v.len(), dk.len(), dv.len()].into_iter().min().unwrap_or(0);
    check_lengths(&of, rows, kv_rows, log_sum_exp.len(), segments.len())?;
    let m = of.sequences * of.length;
    let needed = attention_scratch(team.threads(), m, of.heads);
    check("attention", scratch.len() >= needed, || format!("{} of scratch, {needed} needed", scratch.len()))?;
    let call = Call { kernels: kernels(), segments, of };
    let (dim, heads, width) = (of.dim, of.heads, call.width());
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let (workers, delta) = scratch[aligned..].split_at_mut(team.threads() * OWN);
    let delta = &mut delta[..m * heads];
    {
        let delta = SharedMut::new(delta);
        let per_task = (16 << 10) / width.max(1) + 1;
        team.run(m.div_ceil(per_task), &|task, _| {
            for i in task * per_task..m.min((task + 1) * per_task) {
                // SAFETY: each row is one task's.
                let delta = unsafe { delta.slice(i * heads, heads) };
                for (h, d) in delta.iter_mut().enumerate() {
                    let at = i * width + h * dim;
                    // SAFETY: the table's level runs here.
                    *d = unsafe { (call.kernels.lanes.dot)(&d_o[at..at + dim], &o[at..at + dim]) };
                }
            }
        })?;
    }
    let workers = SharedMut::new(workers);
    let given = Given { q, k, v, d_o, log_sum_exp, delta };
    call.queries(team, &given, dq, workers)?;
    call.keys(team, &given, dk, dv, workers)?;
    ended(team)
}

/// What both walks read.
struct Given<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    d_o: &'a [f32],
    log_sum_exp: &'a [f32],
    /// `Σ do · o` of each token and head.
    delta: &'a [f32],
}

impl Call<'_> {
    /// `o = softmax(q · kᵀ · scale) · v` by query tile, and the log of each row's sum of exponentials.
    fn forward(
        &self,
        team: &ThreadTeam,
        [q, k, v]: [&[f32]; 3],
        o: &mut [f32],
        log_sum_exp: &mut [f32],
        workers: SharedMut<f32>,
    ) -> Result<()> {
        let (of, lanes) = (self.of, &self.kernels.lanes);
        let (dim, width, kv_width, tiles) = (of.dim, self.width(), self.kv_width(), self.tiles());
        let (o, log_sum_exp) = (SharedMut::new(o), SharedMut::new(log_sum_exp));
        team.run(of.sequences * of.heads * tiles, &|task, worker| {
            if team.cancelled() {
                return;
            }
            // Later tiles see more keys: the longest tasks go first.
            let (tile, rest) = (tiles - 1 - task / (of.sequences * of.heads), task % (of.sequences * of.heads));
            let (s, h) = (rest / of.heads, rest % of.heads);
            let g = h / (of.heads / of.kv_heads);
            let (query, m) = (tile * TILE, self.rows(tile));
            // SAFETY: a worker runs one task at a time, so its scratch is its own.
            let own = unsafe { workers.slice(worker * OWN, OWN) };
            let (scores, stats) = own.split_at_mut(2 * TILE * TILE);
            let (max, sum) = stats[..2 * TILE].split_at_mut(TILE);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            let row = |t: usize| (s * of.length + t) * width + h * dim;
            let kv = |t: usize| (s * of.length + t) * kv_width + g * dim;
            for i in 0..m {
                // SAFETY: each output row is one task's.
                unsafe { o.slice(row(query + i), dim) }.fill(0.0);
            }
            for key in ((self.start(s, query) / TILE * TILE)..query + m).step_by(TILE) {
                let n = TILE.min(of.length - key);
                self.dot(&q[row(query)..], width, m, &k[kv(key)..], kv_width, n, scores);
                if !self.whole(s, query, m, key, n) {
                    self.mask(s, query, m, key, n, scores);
                }
                for (i, p) in scores.chunks_exact_mut(TILE).take(m).enumerate() {
                    let p = &mut p[..n];
                    // SAFETY: the table's level runs here.
                    unsafe {
                        (lanes.scale)(p, of.scale);
                        self.cap(p);
                        let larger = (lanes.max)(p).max(max[i]);
                        if larger == f32::NEG_INFINITY {
                            p.fill(0.0);
                            continue;
                        }
                        if larger > max[i] {
                            let by = (max[i] - larger).exp();
                            sum[i] *= by;
                            (lanes.scale)(o.slice(row(query + i), dim), by);
                            max[i] = larger;
                        }
                        sum[i] += (lanes.exp_sum)(p, larger);
                    }
                }
                o.at(row(query + m - 1) + dim - 1);
                // SAFETY: `scores` holds m rows of n weights, `v` n rows of dim; the output rows are this task's.
                unsafe {
                    let (a, b) = (scores.as_ptr(), v[kv(key)..].as_ptr());
                    (self.kernels.mul)(a, TILE, 1, m, b, kv_width, dim, n, o.at(row(query)), width, true);
                }
            }
            for i in 0..m {
                // SAFETY: each output row is one task's.
                unsafe {
                    (lanes.scale)(o.slice(row(query + i), dim), 1.0 / sum[i]);
                    log_sum_exp.slice((s * of.length + query + i) * of.heads + h, 1)[0] = max[i] + sum[i].ln();
                }
            }
        })?;
        Ok(())
    }

    /// `dQ += dS · K · scale`, by query tile.
    fn queries(&self, team: &ThreadTeam, given: &Given<'_>, dq: &mut [f32], workers: SharedMut<f32>) -> Result<()> {
        let (of, lanes) = (self.of, &self.kernels.lanes);
        let (dim, width, kv_width, tiles) = (of.dim, self.width(), self.kv_width(), self.tiles());
        let dq = SharedMut::new(dq);
        team.run(of.sequences * of.heads * tiles, &|task, worker| {
            if team.cancelled() {
                return;
            }
            let (tile, rest) = (tiles - 1 - task / (of.sequences * of.heads), task % (of.sequences * of.heads));
            let (s, h) = (rest / of.heads, rest % of.heads);
            let g = h / (of.heads / of.kv_heads);
            let (query, m) = (tile * TILE, self.rows(tile));
            // SAFETY: a worker runs one task at a time, so its scratch is its own.
            let own = unsafe { workers.slice(worker * OWN, OWN) };
            let (scores, rest) = own.split_at_mut(TILE * TILE);
            let dp = &mut rest[..TILE * TILE];
            let row = |t: usize| (s * of.length + t) * width + h * dim;
            let kv = |t: usize| (s * of.length + t) * kv_width + g * dim;
            dq.at(row(query + m - 1) + dim - 1);
            let first = self.start(s, query) / TILE * TILE;
            for key in (first..query + m).step_by(TILE) {
                let n = TILE.min(of.length - key);
                self.dot(&given.q[row(query)..], width, m, &given.k[kv(key)..], kv_width, n, scores);
                if !self.whole(s, query, m, key, n) {
                    self.mask(s, query, m, key, n, scores);
                }
                self.dot(&given.d_o[row(query)..], width, m, &given.v[kv(key)..], kv_width, n, dp);
                for i in 0..m {
                    let at = (s * of.length + query + i) * of.heads + h;
                    let (p, dp) = (&mut scores[i * TILE..][..n], &mut dp[i * TILE..][..n]);
                    // SAFETY: the table's level runs here.
                    unsafe {
                        (lanes.scale)(p, of.scale);
                        self.cap_vjp(p, dp, |_| given.delta[at]);
                        (lanes.exp_sum)(p, given.log_sum_exp[at]);
                        (lanes.scores_vjp)(p, dp, given.delta[at], of.scale);
                    }
                }
                // SAFETY: `scores` holds m rows of n, `k` n rows of dim; the output rows are this task's.
                unsafe {
                    let (a, b) = (scores.as_ptr(), given.k[kv(key)..].as_ptr());
                    (self.kernels.mul)(a, TILE, 1, m, b, kv_width, dim, n, dq.at(row(query)), width, key > first);
                }
            }
        })?;
        Ok(())
    }

    /// `dV += Pᵀ · dO`, `dK += dSᵀ · Q · scale`, by key tile, over the group's heads in order.
    fn keys(
        &self,
        team: &ThreadTeam,
        given: &Given<'_>,
        dk: &mut [f32],
        dv: &mut [f32],
        workers: SharedMut<f32>,
    ) -> Result<()> {
        let (of, lanes) = (self.of, &self.kernels.lanes);
        let (dim, width, kv_width, tiles) = (of.dim, self.width(), self.kv_width(), self.tiles());
        let group = of.heads / of.kv_heads;
        let (dk, dv) = (SharedMut::new(dk), SharedMut::new(dv));
        team.run(of.sequences * of.kv_heads * tiles, &|task, worker| {
            // Earlier keys are seen by more queries: the longest tasks go first as they are.
            let (tile, rest) = (task / (of.sequences * of.kv_heads), task % (of.sequences * of.kv_heads));
            let (s, g) = (rest / of.kv_heads, rest % of.kv_heads);
            let (key, n) = (tile * TILE, self.rows(tile));
            // SAFETY: a worker runs one task at a time, so its scratch is its own.
            let own = unsafe { workers.slice(worker * OWN, OWN) };
            let (scores, rest) = own.split_at_mut(TILE * TILE);
            let (dp, stats) = rest.split_at_mut(TILE * TILE);
            let (log_sum_exp, delta) = stats[..2 * TILE].split_at_mut(TILE);
            let kv = |t: usize| (s * of.length + t) * kv_width + g * dim;
            let (into_k, into_v) = (dk.at(kv(key)), dv.at(kv(key)));
            dk.at(kv(key + n - 1) + dim - 1);
            dv.at(kv(key + n - 1) + dim - 1);
            let mut add = false;
            for h in g * group..(g + 1) * group {
                let row = |t: usize| (s * of.length + t) * width + h * dim;
                for query in (key..of.length).step_by(TILE) {
                    if team.cancelled() {
                        return;
                    }
                    let m = TILE.min(of.length - query);
                    if self.start(s, query) >= key + n {
                        // This and every later query belongs to a document after these keys.
                        break;
                    }
                    for i in 0..m {
                        let at = (s * of.length + query + i) * of.heads + h;
                        (log_sum_exp[i], delta[i]) = (given.log_sum_exp[at], given.delta[at]);
                    }
                    self.dot(&given.k[kv(key)..], kv_width, n, &given.q[row(query)..], width, m, scores);
                    if !self.whole(s, query, m, key, n) {
                        self.mask_across(s, query, m, key, n, scores);
                    }
                    self.dot(&given.v[kv(key)..], kv_width, n, &given.d_o[row(query)..], width, m, dp);
                    for (p, dp) in scores.chunks_exact_mut(TILE).zip(dp.chunks_exact_mut(TILE)).take(n) {
                        let p = &mut p[..m];
                        // SAFETY: the table's level runs here.
                        unsafe {
                            if of.cap.is_some() {
                                (lanes.scale)(p, of.scale);
                                self.cap_vjp(p, &mut dp[..m], |i| delta[i]);
                            }
                            (lanes.sub_scaled)(p, if of.cap.is_some() { 1.0 } else { of.scale }, &log_sum_exp[..m]);
                            (lanes.exp_sum)(p, 0.0);
                        }
                    }
                    // SAFETY: `scores` holds n rows of m weights, `d_o` and `q` m rows of dim; the output rows are this task's.
                    unsafe {
                        let (a, b) = (scores.as_ptr(), given.d_o[row(query)..].as_ptr());
                        (self.kernels.mul)(a, TILE, 1, n, b, width, dim, m, into_v, kv_width, add);
                        for (p, dp) in scores.chunks_exact_mut(TILE).zip(dp.chunks_exact(TILE)).take(n) {
                            (lanes.scores_vjp_each)(&mut p[..m], &dp[..m], &delta[..m], of.scale);
                        }
                        let (a, b) = (scores.as_ptr(), given.q[row(query)..].as_ptr());
                        (self.kernels.mul)(a, TILE, 1, n, b, width, dim, m, into_k, kv_width, add);
                    }
                    add = true;
                }
            }
        })?;
        Ok(())
    }
}
