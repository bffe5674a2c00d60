//! How long the CPU kernels take on this machine: measured once by the probe, and what a plan's seconds on a CPU are made of.
//!
//! A peak of memory or of the multiply-add units says little about a kernel that decodes four-bit blocks on the way, or about a
//! layer so small that waking the team costs as much as its product. So each kind of kernel is timed as it is called, in a size
//! that lies in the caches, and what memory gives is a curve over the bytes that a pass goes through.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::blocks::{self, BlockType, can_decode};
use crate::error::{Error, Result};
use crate::ledger::{Buffer, Category, Ledger, Tag};
use crate::ops::cpu::vjp::{self, Entries};
use crate::ops::cpu::{self, Attention, KvTiles, Mat, Product, basis};
use crate::ops::descriptors::Causal;
use crate::ops::team::{SHARED, ThreadTeam};

/// Rows of activations that products are timed with: single ones, those that decode weights in registers, and panels.
pub const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 128];
/// Bytes of a working set that memory is timed with; a machine with large caches has more.
const SETS: [usize; 6] = [1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];
/// Bytes that an operation on elements goes through.
const MOVED: [usize; 4] = [192 << 10, 3 << 20, 24 << 20, 96 << 20];
/// Types that a cache keeps its rows in.
const CACHED: [BlockType; 9] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::Bf16,
    BlockType::Q8_0,
    BlockType::Q5_1,
    BlockType::Q5_0,
    BlockType::Q4_1,
    BlockType::Q4_0,
    BlockType::Iq4Nl,
];
/// A byte that is a sound number or scale in every type, wherever it stands.
pub const FILL: u8 = 0x3c;
/// Columns of the matrices that are timed, and of narrow ones, of which the ends of sums are a larger share.
const COLS: usize = 1024;
const NARROW: usize = 256;
/// Rows of them for each thread: with [`COLS`] columns of f32 1.5 MiB.
const TALL: usize = 384;
/// Queries of a task that shares them out, heads, and elements of a head.
const QUERIES: usize = 96;
const HEADS: usize = 8;
const DIM: usize = 64;
/// Tokens of a sequence of training.
const LENGTH: usize = 256;
/// Rows of the cache that is attended over.
const HELD: usize = 1024;
/// Rows of a matrix that is decomposed.
const EIGEN: usize = 96;
const TAG: Tag = Tag::host(Category::Workspace, "kernel probe");

/// Seconds that units of work take a team of some size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelTimes {
    /// Threads of the team.
    pub threads: usize,
    /// A parallel region, whatever it does.
    pub region: f64,
    /// The end of one sum of a product: of a row of activations that goes through registers, and of one that meets a panel.
    pub sums: [f64; 2],
    /// An element of a weight matrix in a product with each of [`ROWS`] rows of activations, beside the ends of its sums, weights
    /// in the caches, by type.
    pub products: BTreeMap<BlockType, [f64; ROWS.len()]>,
    /// A byte of activations that others have just written, as every thread gets it for a product.
    #[serde(default)]
    pub fetched: f64,
    /// A byte of weights that a product streams through, by the bytes that come between two visits to it.
    pub stream: Vec<(u64, f64)>,
    /// A cached element, key or value, decoded into a tile, by type.
    pub tiles: BTreeMap<BlockType, f64>,
    /// An element of a key or value encoded by a thread as the cache keeps it, by type.
    pub appended: BTreeMap<BlockType, f64>,
    /// A multiply–add of attention by one query over a long cache, and by many at once.
    pub attend: [f64; 2],
    /// A multiply–add of `dx = dy · W`, beside decoding.
    pub dx: f64,
    /// A multiply–add of `dW = dyᵀ · x`.
    pub dw: f64,
    /// An operation (half a multiply–add) of training's attention, forward and backward.
    pub causal: [f64; 2],
    /// An element that is normalized.
    pub norm: f64,
    /// An element through the gate, forward and backward.
    pub gate: [f64; 2],
    /// A logit of the loss.
    pub logit: f64,
    /// A byte that an operation on elements reads or writes, by the bytes that it goes through.
    pub moved: Vec<(u64, f64)>,
    /// A byte of a buffer that is made of zeros, by one thread.
    #[serde(default)]
    pub cleared: f64,
    /// Eigenvectors of a symmetric matrix, by the third power of its rows.
    #[serde(default)]
    pub eigen: f64,
}

/// A matrix of weights, as far as its products' times depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// The type of its blocks; none for a packed scheme, which is decoded to f32.
    pub ty: Option<BlockType>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Its payload.
    pub bytes: f64,
}

/// A call of attention, as far as its time depends on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attended {
    /// Queries.
    pub queries: f64,
    /// Rows of the cache that each looks at, on average.
    pub held: f64,
    /// Elements of a row of all key–value heads, a side.
    pub kv: f64,
    /// Key–value heads.
    pub heads: usize,
    /// Query heads that share one.
    pub group: f64,
    /// Bits of an element, of keys and of values.
    pub bits: [f64; 2],
}

/// A value between two of `points`, along the logarithm of what they are measured at; the nearest beyond them.
fn along(points: &[(u64, f64)], at: f64) -> f64 {
    let Some(i) = points.iter().position(|(x, _)| *x as f64 >= at) else {
        return points.last().map_or(0.0, |p| p.1);
    };
    let ((x1, y1), Some((x0, y0))) = (points[i], i.checked_sub(1).map(|i| points[i])) else { return points[i].1 };
    let share = (at / x0 as f64).ln() / (x1 as f64 / x0 as f64).ln();
    y0 + (y1 - y0) * share
}

/// The figure of the type whose elements take about `bits` bits.
fn nearest(of: &BTreeMap<BlockType, f64>, bits: f64) -> f64 {
    let far = |ty: BlockType| (ty.bits() - bits).abs();
    of.iter().min_by(|a, b| far(*a.0).total_cmp(&far(*b.0))).map_or(0.0, |(_, seconds)| *seconds)
}

impl KernelTimes {
    /// How much longer work takes that is cut into `tasks`, where threads wait for those that have one task more.
    pub fn spread(&self, tasks: usize) -> f64 {
        let (n, tasks) = (self.threads.max(1), tasks.max(1));
        (tasks.div_ceil(n) * n) as f64 / tasks as f64
    }

    /// Products of a region with `m` rows of activations, in a pass that goes through `pass` bytes of weights: the longer of
    /// computing them from the caches and of streaming their bytes.
    pub fn products(&self, of: &[Weights], m: f64, pass: f64) -> f64 {
        let sum = self.sums[usize::from(m > 8.0)];
        let computed = of.iter().map(|w| {
            let (rows, cols) = (w.rows as f64, w.cols as f64);
            rows * (cols * self.element(w.ty, m) + m * sum)
        });
        let sizes = of.iter().map(|w| (w.rows, (w.bytes / w.rows.max(1) as f64) as usize));
        let tasks = cpu::linear_tasks(self.threads, m.ceil() as usize, sizes);
        let bytes: f64 = of.iter().map(|w| w.bytes).sum();
        let fetched = of.first().map_or(0.0, |w| self.fetch(m, w.cols));
        self.region + (fetched + self.spread(tasks) * computed.sum::<f64>()).max(bytes * along(&self.stream, pass))
    }

    /// Getting `m` rows of `cols` activations.
    fn fetch(&self, m: f64, cols: usize) -> f64 {
        4.0 * m * cols as f64 * self.fetched
    }

    /// Seconds an element of a matrix takes with `m` rows: in proportion between rows that were timed, and beyond the last.
    fn element(&self, ty: Option<BlockType>, m: f64) -> f64 {
        let of = ty.and_then(|ty| self.products.get(&ty)).or_else(|| self.products.get(&BlockType::F32));
        let Some(of) = of else { return 0.0 };
        let after = ROWS.iter().position(|r| *r as f64 >= m).unwrap_or(ROWS.len() - 1).max(1);
        // Up to eight rows and from nine on are different kernels: nothing lies between them.
        let after = if (8.0..16.0).contains(&m) && m > 8.0 { ROWS.len() - 1 } else { after };
        let (x, y) = ([ROWS[after - 1] as f64, ROWS[after] as f64], [of[after - 1], of[after]]);
        (y[0] + (y[1] - y[0]) * (m - x[0]) / (x[1] - x[0])).max(0.0)
    }

    /// Decoding an element into a panel.
    fn decoded(&self, ty: Option<BlockType>) -> f64 {
        (self.element(ty, 16.0) - 16.0 * self.multiply()).max(0.0)
    }

    /// A multiply–add of a panel.
    fn multiply(&self) -> f64 {
        let f32s = self.products.get(&BlockType::F32).copied().unwrap_or_default();
        (f32s[ROWS.len() - 1] - f32s[ROWS.len() - 2]) / (ROWS[ROWS.len() - 1] - ROWS[ROWS.len() - 2]) as f64
    }

    /// `dx = dy · W` for `m` rows of `dy`.
    pub fn product_dx(&self, w: &Weights, m: usize) -> f64 {
        let each = self.decoded(w.ty) * m.div_ceil(512) as f64 + m as f64 * self.dx;
        let spread = self.spread(vjp::dx_tasks(self.threads, m, w.cols));
        self.region + self.fetch(m as f64, w.rows) + spread * (w.rows * w.cols) as f64 * each
    }

    /// `dW = dyᵀ · x` of a matrix `(rows, cols)` for `m` rows.
    pub fn product_dw(&self, m: usize, rows: usize, cols: usize) -> f64 {
        let spread = self.spread(vjp::dw_tasks(self.threads, rows, cols));
        self.region + self.fetch(m as f64, cols) + spread * (m * rows * cols) as f64 * self.dw
    }

    /// Attention of a sequence's queries over its cache.
    pub fn attention(&self, of: Attended, pass: f64) -> f64 {
        let Attended { queries, held, kv, heads, group, bits } = of;
        let few = queries <= 4.0;
        let each = if few { held / 256.0 } else { queries * group / 96.0 };
        let spread = self.spread(heads * each.ceil().max(1.0) as usize);
        // As often as tasks read a tile anew.
        let visits = if few { 1.0 } else { (queries * group / 96.0).max(1.0) };
        let decode: f64 = bits.iter().map(|bits| held * kv * visits * self.tile(*bits)).sum();
        let computed = decode + 2.0 * held * kv * group * queries * self.attend[usize::from(!few)];
        let bytes: f64 = bits.iter().map(|bits| held * kv * bits / 8.0).sum();
        (spread * computed).max(bytes * along(&self.stream, pass))
    }

    /// Decoding a cached element that costs `bits` bits.
    fn tile(&self, bits: f64) -> f64 {
        nearest(&self.tiles, bits)
    }

    /// Appending `rows` rows of `heads` heads of `dim` elements a side to the cache, of `bits` bits an element; the sides of many
    /// rows side by side.
    pub fn append(&self, rows: f64, (heads, dim): (usize, usize), bits: [f64; 2]) -> f64 {
        let kv = (heads * dim) as f64;
        let all: f64 = bits.iter().map(|bits| rows * kv * nearest(&self.appended, *bits)).sum();
        if rows * kv < SHARED as f64 { all } else { self.region + all * self.spread(2 * heads) / self.threads as f64 }
    }

    /// An operation that reads and writes `bytes` bytes of elements, in work that goes through `pass` bytes.
    pub fn elements(&self, bytes: f64, pass: f64) -> f64 {
        let most = self.moved.last().map_or(0.0, |(set, _)| *set as f64);
        let streamed = if pass > most { along(&self.stream, pass) } else { 0.0 };
        bytes * along(&self.moved, pass.max(bytes)).max(streamed)
    }

    /// False for figures that a program saved which did not measure all of this yet.
    pub fn is_whole(&self) -> bool {
        [self.fetched, self.cleared, self.eigen].iter().all(|seconds| *seconds > 0.0)
    }

    /// What makes these figures unusable.
    pub fn defect(&self) -> Option<&'static str> {
        let all = [self.region, self.fetched, self.dx, self.dw, self.norm, self.logit, self.cleared, self.eigen];
        let pairs = [self.attend, self.causal, self.gate, self.sums];
        let points = self.stream.iter().chain(&self.moved).map(|p| p.1);
        let types = self.products.values().flatten().chain(self.tiles.values()).chain(self.appended.values()).copied();
        let sound = |v: f64| v.is_finite() && v >= 0.0;
        let whole = [self.stream.len(), self.moved.len(), self.products.len(), self.tiles.len(), self.appended.len()];
        if whole.contains(&0) || !self.products.contains_key(&BlockType::F32) {
            return Some("kernel times are missing");
        }
        let every = all.into_iter().chain(pairs.into_iter().flatten()).chain(points).chain(types);
        every.into_iter().any(|v| !sound(v)).then_some("a kernel time that is no time")
    }

    /// Times the kernels with `threads` threads, each for about `each` and at least three times. `bytes` are [`FILL`] throughout,
    /// and far more than the caches hold.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::OverBudget`] when `ledger` has no room for some tens of megabytes.
    pub fn measure(
        threads: usize,
        bytes: &[u8],
        ledger: &Arc<Ledger>,
        each: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let team = ThreadTeam::new(threads)?;
        let mut bench = Bench::new(team, bytes, ledger, each, cancelled)?;
        let region = bench.region()?;
        let sums = bench.sums(region)?;
        let (products, stream) = (bench.products(region, sums)?, bench.stream()?);
        let (tiles, attend) = bench.attention()?;
        let (fetched, appended, moved) = (bench.fetched()?, bench.appended()?, bench.moved()?);
        let mut times = Self {
            threads,
            region,
            sums,
            products,
            fetched,
            stream,
            tiles,
            appended,
            attend,
            moved,
            ..Self::default()
        };
        bench.elements(&mut times)?;
        bench.training(&mut times)?;
        Ok(times)
    }
}

/// What kernels are timed in.
struct Bench<'a> {
    team: ThreadTeam,
    bytes: &'a [u8],
    each: Duration,
    cancelled: &'a dyn Fn() -> bool,
    /// Rows of the matrices.
    rows: usize,
    x: Buffer,
    y: Buffer,
    scratch: Buffer,
}

/// The cache that attention is timed over: rows of [`FILL`].
struct Tiles<'a> {
    ty: BlockType,
    bytes: &'a [u8],
}

impl Tiles<'_> {
    fn read(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let row = self.ty.row_bytes(DIM).unwrap_or(0);
        let at = (head * HELD + start) * row;
        let _ = cpu::decode_rows(self.ty, &self.bytes[at..at + n * row], &mut out[..n * DIM]);
    }
}

impl KvTiles for Tiles<'_> {
    fn rows(&self, _: usize) -> usize {
        HELD
    }
    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.read(head, start, n, out);
    }
    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.read(HEADS + head, start, n, out);
    }
}

/// The middle of the times that `work` takes: what a run sees, not what it may hope for.
fn middle(each: Duration, cancelled: &dyn Fn() -> bool, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (began, mut times) = (Instant::now(), Vec::new());
    // The first warms up.
    for round in 0..200 {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let start = Instant::now();
        work()?;
        if round > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
        if times.len() >= 3 && began.elapsed() > each {
            break;
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or(0.0).max(1e-9))
}

impl<'a> Bench<'a> {
    fn new(
        team: ThreadTeam,
        bytes: &'a [u8],
        ledger: &Arc<Ledger>,
        each: Duration,
        cancelled: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        let rows = TALL * team.threads();
        let most = ROWS[ROWS.len() - 1];
        let shape = Attention {
            heads: 4 * HEADS,
            kv_heads: HEADS,
            dim: DIM,
            scale: 0.125,
            window: None,
            cap: None,
            tokens: QUERIES,
        };
        let scratch = [
            cpu::linear_scratch(team.threads(), COLS),
            shape.scratch(team.threads(), HELD),
            vjp::dx_scratch(team.threads()),
            vjp::dw_scratch(team.threads()),
        ];
        let tokens = Self::causal(&team).sequences * LENGTH;
        let scratch =
            scratch.into_iter().chain([vjp::attention_scratch(team.threads(), tokens, HEADS)]).max().unwrap_or(0);
        // Gradients of three sides, or the longest operation on elements.
        let wide = (rows * most).max(rows * COLS).max(4 * tokens * HEADS * DIM);
        let wide = wide.max(Self::queries(&team) * HEADS * DIM).max(MOVED[3] / 12);
        let floats = |n: usize| {
            let mut buffer = ledger.buffer(TAG, 4 * n)?;
            buffer.as_mut_slice::<f32>().fill(0.011);
            Ok::<_, Error>(buffer)
        };
        let (x, y, scratch) = (floats(wide)?, floats(wide)?, floats(scratch)?);
        Ok(Self { team, bytes, each, cancelled, rows, x, y, scratch })
    }

    /// Queries of a call that gives every thread some tasks.
    fn queries(team: &ThreadTeam) -> usize {
        (QUERIES * team.threads().div_ceil(HEADS / 2)).min(HELD)
    }

    /// A batch of training, one sequence a thread.
    fn causal(team: &ThreadTeam) -> Causal {
        let (sequences, length) = (team.threads(), LENGTH);
        Causal { sequences, length, heads: HEADS, kv_heads: HEADS, dim: DIM, scale: 0.125, window: None, cap: None }
    }

    fn region(&self) -> Result<f64> {
        let tasks = 6 * self.team.threads();
        // A hundred at once: one alone is shorter than a clock is fine.
        let hundred = middle(self.each, self.cancelled, || {
            for _ in 0..100 {
                self.team.run(tasks, &|task, _| {
                    black_box(task);
                })?;
            }
            Ok(())
        })?;
        Ok(hundred / 100.0)
    }

    /// Seconds of a product of `rows` weight rows of `ty` with `m` rows of activations.
    fn product(&mut self, ty: BlockType, rows: usize, cols: usize, m: usize) -> Result<f64> {
        let Self { team, bytes, each, cancelled, x, y, scratch, .. } = self;
        let len = ty.row_bytes(cols).unwrap_or(0) * rows;
        let w = Mat::new(ty, rows, cols, &bytes[..len])?;
        let (x, y, scratch) = (x.as_slice::<f32>(), y.as_mut_slice::<f32>(), scratch.as_mut_slice::<f32>());
        middle(*each, *cancelled, || {
            cpu::linear_many(team, &x[..m * cols], m, &mut [Product { w, y: &mut *y, ldy: rows }], scratch)
        })
    }

    /// What ends each sum: a matrix a quarter as wide has as many of them.
    fn sums(&mut self, region: f64) -> Result<[f64; 2]> {
        let rows = self.rows;
        let mut of = |m: usize| {
            let mut at = |cols| Ok::<_, Error>((self.product(BlockType::Q8_0, rows, cols, m)? - region).max(0.0));
            let (wide, narrow) = (at(COLS)?, at(NARROW)?);
            let share = (COLS / NARROW) as f64;
            Ok::<_, Error>(((share * narrow - wide) / (share - 1.0) / (rows * m) as f64).max(0.0))
        };
        Ok([of(1)?, of(ROWS[ROWS.len() - 1])?])
    }

    fn products(&mut self, region: f64, sums: [f64; 2]) -> Result<BTreeMap<BlockType, [f64; ROWS.len()]>> {
        let rows = self.rows;
        let fits = |ty: BlockType, have: usize| ty.row_bytes(COLS).is_some_and(|row| row * rows <= have);
        let types = BlockType::ALL.iter().copied().filter(|ty| can_decode(*ty) && fits(*ty, self.bytes.len()));
        let types: Vec<_> = types.collect();
        let mut of = |ty: BlockType, m: usize| {
            let ends = sums[usize::from(m > 8)] * (rows * m) as f64;
            Ok::<_, Error>((self.product(ty, rows, COLS, m)? - region - ends).max(0.0) / (rows * COLS) as f64)
        };
        let [.., few, many] = ROWS;
        // A panel is decoded once, and every type is multiplied with as f32: more rows take all types as much longer.
        let more = of(BlockType::F32, many)? - of(BlockType::F32, few)?;
        let mut all = BTreeMap::new();
        for ty in types {
            let mut seconds = [0.0; ROWS.len()];
            for (seconds, m) in seconds.iter_mut().zip(ROWS).take(ROWS.len() - 1) {
                *seconds = of(ty, m)?;
            }
            seconds[ROWS.len() - 1] = seconds[ROWS.len() - 2] + more.max(0.0);
            all.insert(ty, seconds);
        }
        Ok(all)
    }

    /// What a product takes longer whose activations were written by other threads than read them, as in a layer, a byte of them.
    fn fetched(&mut self) -> Result<f64> {
        let (rows, m) = (self.rows, ROWS[ROWS.len() - 1]);
        let there = self.product(BlockType::F32, rows, COLS, m)?;
        let Self { team, bytes, each, cancelled, x, y, scratch, .. } = self;
        let w = Mat::new(BlockType::F32, rows, COLS, &bytes[..4 * rows * COLS])?;
        let x = &mut x.as_mut_slice::<f32>()[..m * COLS];
        let (y, scratch) = (y.as_mut_slice::<f32>(), scratch.as_mut_slice::<f32>());
        // Written by whom they were written before, and read by all.
        let written = middle(*each, *cancelled, || vjp::scale(team, x, 1.0))?;
        let both = middle(*each, *cancelled, || {
            vjp::scale(team, x, 1.0)?;
            cpu::linear_many(team, x, m, &mut [Product { w, y: &mut *y, ldy: rows }], scratch)
        })?;
        Ok(((both - written - there) / (4 * m * COLS) as f64).max(0.0))
    }

    fn stream(&mut self) -> Result<Vec<(u64, f64)>> {
        let row = 4 * COLS;
        let most = (self.bytes.len() / row).min(self.y.len() / 4);
        let mut points: Vec<(u64, f64)> = Vec::new();
        for set in SETS {
            let rows = (set / row).min(most);
            if points.last().is_none_or(|(bytes, _)| *bytes < (rows * row) as u64) {
                points.push(((rows * row) as u64, self.product(BlockType::F32, rows, COLS, 1)? / (rows * row) as f64));
            }
        }
        Ok(points)
    }

    /// Seconds of `tokens` queries of `group · HEADS` heads over a cache of `ty`.
    fn attend(&mut self, ty: BlockType, group: usize, tokens: usize) -> Result<f64> {
        let Self { team, bytes, each, cancelled, x, y, scratch, .. } = self;
        let heads = group * HEADS;
        let shape = Attention { heads, kv_heads: HEADS, dim: DIM, scale: 0.125, window: None, cap: None, tokens };
        let (tiles, n) = (Tiles { ty, bytes }, tokens * heads * DIM);
        let (q, out) = (&x.as_slice::<f32>()[..n], &mut y.as_mut_slice::<f32>()[..n]);
        let scratch = scratch.as_mut_slice::<f32>();
        middle(*each, *cancelled, || cpu::attend(team, q, &tiles, shape, out, scratch, None))
    }

    fn attention(&mut self) -> Result<(BTreeMap<BlockType, f64>, [f64; 2])> {
        // Keys and values.
        let elements = (2 * HEADS * HELD * DIM) as f64;
        let (one, four) = (self.attend(BlockType::F16, 1, 1)?, self.attend(BlockType::F16, 4, 1)?);
        let query = ((four - one) / (3.0 * elements)).max(0.0);
        let mut tiles = BTreeMap::new();
        for ty in CACHED {
            tiles.insert(ty, (self.attend(ty, 1, 1)? / elements - query).max(0.0));
        }
        let tile = tiles.get(&BlockType::F16).copied().unwrap_or(0.0);
        let queries = Self::queries(&self.team);
        let many = self.attend(BlockType::F16, 1, queries)?;
        // The first sees fewer rows by as many as come after it; each task decodes what it sees.
        let seen = elements * (1.0 - queries as f64 / 2.0 / HELD as f64);
        let decoded = seen * tile * queries as f64 / QUERIES as f64;
        Ok((tiles, [query, ((many - decoded) / (seen * queries as f64)).max(0.0)]))
    }

    fn appended(&mut self) -> Result<BTreeMap<BlockType, f64>> {
        let rows = 1024;
        let Self { each, cancelled, x, y, .. } = self;
        let from = &x.as_slice::<f32>()[..rows * DIM];
        let to = y.as_mut_slice::<u8>();
        let mut all = BTreeMap::new();
        for ty in CACHED {
            let row = ty.row_bytes(DIM).unwrap_or(0);
            let seconds = middle(*each, *cancelled, || {
                let pairs = from.chunks_exact(DIM).zip(to.chunks_exact_mut(row));
                pairs.into_iter().try_for_each(|(from, to)| blocks::encode(ty, from, to)).map_err(Error::from)
            })?;
            all.insert(ty, seconds / (rows * DIM) as f64);
        }
        // What was encoded is no number to go on with.
        y.as_mut_slice::<f32>().fill(0.011);
        Ok(all)
    }

    fn moved(&mut self) -> Result<Vec<(u64, f64)>> {
        let Self { team, each, cancelled, x, y, .. } = self;
        let mut points = Vec::new();
        for bytes in MOVED {
            let n = (bytes / 12).min(x.len() / 4);
            let (from, to) = (&x.as_slice::<f32>()[..n], &mut y.as_mut_slice::<f32>()[..n]);
            points.push((bytes as u64, middle(*each, *cancelled, || cpu::add(team, to, from))? / (12 * n) as f64));
        }
        Ok(points)
    }

    /// Norms, gates and the loss, over rows that fit the second-level caches.
    fn elements(&mut self, times: &mut KernelTimes) -> Result<()> {
        let Self { team, each, cancelled, x, y, rows, .. } = self;
        let (rows, n) = (*rows / 4, *rows / 4 * COLS);
        let (from, to) = (&mut x.as_mut_slice::<f32>()[..n], &mut y.as_mut_slice::<f32>()[..n]);
        let weight = [0.5f32; COLS];
        times.norm = middle(*each, *cancelled, || cpu::rms_norm(team, from, &weight, 1e-5, to))? / n as f64;
        to.fill(0.5);
        times.gate[0] = middle(*each, *cancelled, || cpu::swiglu(team, to, from))? / n as f64;
        let d = vec![0.1f32; n];
        times.gate[1] = middle(*each, *cancelled, || {
            to.fill(0.5);
            vjp::swiglu_vjp(team, &d, from, to)
        })? / n as f64;
        from.fill(0.5);
        let targets = vec![1u32; rows];
        let (mut sums, mut picked) = (vec![f32::NEG_INFINITY; rows], vec![0.0f32; rows]);
        times.logit = middle(*each, *cancelled, || {
            vjp::log_sum_exp(team, from, COLS, Entries::From(0), &targets, &mut sums, &mut picked, None)
        })? / n as f64;
        Ok(())
    }

    /// The products and the attention of a training step.
    fn training(&mut self, times: &mut KernelTimes) -> Result<()> {
        let Self { team, bytes, each, cancelled, x, y, rows, scratch } = self;
        let (rows, m) = (*rows, ROWS[ROWS.len() - 1]);
        let elements = (rows * COLS) as f64;
        let w = Mat::new(BlockType::F32, rows, COLS, &bytes[..4 * rows * COLS])?;
        let (from, to) = (x.as_slice::<f32>(), y.as_mut_slice::<f32>());
        let scratch = scratch.as_mut_slice::<f32>();
        let dx = middle(*each, *cancelled, || {
            vjp::linear_dx(team, &from[..m * rows], m, w, &mut to[..m * COLS], false, scratch)
        })?;
        let spread = times.spread(vjp::dx_tasks(team.threads(), m, COLS));
        times.dx = ((dx - times.region) / spread / elements - times.decoded(Some(BlockType::F32))).max(0.0) / m as f64;
        times.cleared = middle(*each, *cancelled, || {
            to.fill(0.0);
            Ok(())
        })? / (4 * to.len()) as f64;
        times.eigen = middle(*each, *cancelled, || {
            basis::leading_vectors(team, &from[..EIGEN * EIGEN], EIGEN, EIGEN, 1, &mut to[..EIGEN])
        })? / (EIGEN * EIGEN * EIGEN) as f64;
        let dw = middle(*each, *cancelled, || {
            let (dy, x) = (&from[..m * rows], &from[..m * COLS]);
            vjp::linear_dw(team, dy, x, m, rows, COLS, &mut to[..rows * COLS], false, scratch)
        })?;
        let spread = times.spread(vjp::dw_tasks(team.threads(), rows, COLS));
        times.dw = (dw - times.region).max(0.0) / spread / elements / m as f64;
        let of = Self::causal(team);
        let n = of.sequences * of.length * HEADS * DIM;
        let mut sums = vec![0.0f32; of.sequences * of.length * HEADS];
        // Two products over half of all pairs, as a plan counts them.
        let flops = (2 * n * of.length) as f64;
        let (q, k, v) = (&from[..n], &from[n..2 * n], &from[2 * n..3 * n]);
        times.causal[0] =
            middle(*each, *cancelled, || vjp::attention(team, q, k, v, &[], of, &mut to[..n], &mut sums, scratch))?
                / flops;
        let (o, rest) = to.split_at_mut(n);
        let (dq, rest) = rest.split_at_mut(n);
        let (dk, dv) = rest.split_at_mut(n);
        times.causal[1] = middle(*each, *cancelled, || {
            vjp::attention_vjp(team, q, k, v, o, &sums, q, &[], of, dq, dk, &mut dv[..n], scratch)
        })? / (3.5 * flops);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times with which every sum can be done by hand.
    fn times() -> KernelTimes {
        let panel = |decode: f64| ROWS.map(|m| if m > 8 { decode + m as f64 } else { decode + 0.5 * m as f64 });
        KernelTimes {
            threads: 1,
            region: 1.0,
            sums: [0.0, 0.25],
            products: BTreeMap::from([(BlockType::F32, panel(0.0)), (BlockType::Q4_0, panel(3.0))]),
            stream: vec![(1 << 10, 0.0), (1 << 20, 10.0)],
            tiles: BTreeMap::from([(BlockType::F16, 2.0), (BlockType::Q4_0, 5.0)]),
            appended: BTreeMap::from([(BlockType::F16, 3.0), (BlockType::Q4_0, 7.0)]),
            attend: [1.0, 0.5],
            dx: 2.0,
            dw: 1.0,
            causal: [1.0; 2],
            norm: 1.0,
            gate: [1.0; 2],
            logit: 1.0,
            moved: vec![(1 << 10, 1.0), (1 << 20, 3.0)],
            ..KernelTimes::default()
        }
    }

    #[test]
    fn a_product_is_computed_or_streamed_whichever_takes_longer() {
        let mut t = times();
        let w = |ty| Weights { ty, rows: 2, cols: 32, bytes: 6.0 };
        let of = |t: &KernelTimes, m: f64| t.products(&[w(Some(BlockType::Q4_0))], m, 0.0) - t.region;
        let all = |t: &KernelTimes, m: &[f64]| m.iter().map(|m| of(t, *m)).collect::<Vec<_>>();
        // Decoding 3, then half a second a row in registers, a second a row in panels, and the ends of two sums a row there.
        assert_eq!(all(&t, &[1.0, 3.0, 8.0]), [3.5 * 64.0, 4.5 * 64.0, 7.0 * 64.0]);
        assert_eq!(all(&t, &[9.0, 16.0, 72.0]), [12.0 * 64.0 + 4.5, 19.0 * 64.0 + 8.0, 75.0 * 64.0 + 36.0]);
        assert_eq!(all(&t, &[1000.0]), [1003.0 * 64.0 + 500.0]);
        // Half-way along the logarithm: five seconds a byte, then ten, and no more beyond what was measured.
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9 * b;
        let light = Weights { ty: Some(BlockType::F32), rows: 1, cols: 1, bytes: 6.0 };
        let streamed = |pass: f64| t.products(&[light], 1.0, pass) - 1.0;
        let expected = [(0.0, 0.5), (32_768.0, 30.0), (1_048_576.0, 60.0), (1e12, 60.0)];
        assert!(expected.iter().all(|(pass, seconds)| near(streamed(*pass), *seconds)));
        assert_eq!(of(&t, 4.0) - 3.0 * 64.0, 2.0 * 64.0);
        let packed = t.products(&[w(None)], 4.0, 0.0) - 1.0;
        assert_eq!(packed, 2.0 * 64.0, "what is packed is multiplied with as f32");
        assert_eq!(t.product_dx(&w(Some(BlockType::Q4_0)), 600), 1.0 + 64.0 * (2.0 * 3.0 + 600.0 * 2.0));
        assert_eq!(t.product_dw(5, 2, 32), 1.0 + 5.0 * 64.0);
        // Activations of others: the rows of a product, and dy or x of its backward ones.
        let far = KernelTimes { fetched: 2.0, ..t.clone() };
        assert_eq!(of(&far, 9.0) - of(&t, 9.0), 2.0 * 4.0 * 9.0 * 32.0);
        assert_eq!(far.product_dx(&w(None), 5) - t.product_dx(&w(None), 5), 2.0 * 4.0 * 5.0 * 2.0);
        assert_eq!(far.product_dw(5, 2, 32) - t.product_dw(5, 2, 32), 2.0 * 4.0 * 5.0 * 32.0);
        // One task leaves three of four threads waiting.
        t.threads = 4;
        assert_eq!(all(&t, &[1.0]), [4.0 * 3.5 * 64.0]);
        assert_eq!([t.spread(4), t.spread(5), t.spread(8), t.spread(0)], [1.0, 1.6, 1.0, 4.0]);
        assert!(near(t.elements(32_768.0, 0.0), 2.0 * 32_768.0));
        // In work that leaves the caches: as those elements come, or as weights do where that is slower.
        assert!(near(t.elements(8.0, 1_048_576.0), 3.0 * 8.0) && near(t.elements(8.0, 1e12), 10.0 * 8.0));
    }

    #[test]
    fn attention_decodes_a_tile_for_all_queries_of_a_task_and_multiplies_for_each() {
        let t = times();
        // 16-bit keys, 4.5-bit values: each of 100 rows of 8 elements once; then four heads over both sides.
        let of = |queries, bits| Attended { queries, held: 100.0, kv: 8.0, heads: 1, group: 4.0, bits };
        let one = t.attention(of(1.0, [16.0, 4.5]), 0.0);
        assert_eq!(one, 800.0 * (2.0 + 5.0) + 2.0 * 800.0 * 4.0);
        assert_eq!(t.append(10.0, (2, 4), [16.0, 4.5]), 80.0 * (3.0 + 7.0));
        // Many rows of three heads: three threads encode two of the six sides each.
        let many = KernelTimes { threads: 3, ..t.clone() }.append(10_000.0, (3, 4), [16.0, 4.5]);
        assert_eq!(many, 1.0 + 120_000.0 * (3.0 + 7.0) / 3.0);
        // 48 queries of four heads are two tasks, each of which decodes.
        let many = t.attention(of(48.0, [16.0, 16.0]), 0.0);
        assert_eq!(many, 2.0 * 800.0 * 4.0 + 2.0 * 800.0 * 4.0 * 48.0 * 0.5);
    }

    #[test]
    fn what_is_measured_is_sound_and_grows_with_the_work() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let bytes = vec![FILL; 8 << 20];
        let each = Duration::from_micros(200);
        let t = KernelTimes::measure(1, &bytes, &ledger, each, &|| false).unwrap();
        assert_eq!(t.defect(), None, "{t:?}");
        assert!(BlockType::ALL.iter().all(|ty| can_decode(*ty) == t.products.contains_key(ty)));
        // A hundred and twenty-eight rows are far more work than one.
        let f32s = t.products[&BlockType::F32];
        assert!(f32s[5] > 4.0 * f32s[0] && t.products.values().all(|of| of[5] > of[0]), "{:?}", t.products);
        let saved: KernelTimes = serde_json::from_str(&serde_json::to_string(&t).unwrap()).unwrap();
        assert_eq!(saved, t);
        assert!(matches!(KernelTimes::measure(1, &bytes, &ledger, each, &|| true), Err(Error::Cancelled)));
        let whole = KernelTimes { fetched: 1.0, cleared: 1.0, eigen: 1.0, ..t.clone() };
        assert!(whole.is_whole() && !KernelTimes { cleared: 0.0, ..whole }.is_whole(), "saved by a program before");
        assert!(KernelTimes { dx: f64::NAN, ..t.clone() }.defect().is_some());
        assert!(KernelTimes { stream: Vec::new(), ..t }.defect().is_some());
    }
}
