//! Launching `decode.cu`: products of few rows with what stands before and after them, and a step's attention.

use super::device::View;
use super::kernels::{Attend, floats, format};
use super::launch::{Kernels, Shape};
use super::train::Arg;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::gpu::{FEW, Planes, piece, step_splits, step_tile, vector_heads, whole_pieces};
use crate::shape::Act;

/// A matrix `(rows, cols)` of weights as a GPU holds it, its blocks cut in two ([`Planes`]).
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Its bytes.
    pub view: View<'a>,
    /// The type of its blocks.
    pub ty: BlockType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Matrix<'_> {
    /// Whether its rows are whole pieces, which the kernels of decoding and expansion take.
    pub fn whole(&self) -> bool {
        whole_pieces(self.ty, self.cols) && self.view.aligned()
    }

    /// Where its bodies and its heads begin.
    pub(super) fn planes(&self) -> Result<(u64, u64)> {
        let blocks = self.ty.row_bytes(self.cols).map(|bytes| bytes / self.ty.block_bytes() * self.rows);
        match blocks.filter(|n| n * self.ty.block_bytes() <= self.view.len()) {
            Some(blocks) => Ok((self.view.address(), self.view.address() + (blocks * Planes::of(self.ty).body) as u64)),
            None => Err(Error::Internal(format!("{self:?} is larger than its bytes"))),
        }
    }
}

/// What a product is for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// `y = cap(scale · (x Wᵀ + bias))`.
    Store {
        /// Multiplied onto the sums.
        scale: f32,
        /// Results go through `cap · tanh(x / cap)`.
        cap: Option<f32>,
    },
    /// `y += scale · (x Wᵀ + bias)`.
    Add {
        /// Multiplied onto the sums.
        scale: f32,
    },
    /// `y₀ = act(x W₀ᵀ + bias₀) ⊙ (x W₁ᵀ + bias₁)`.
    Gate(Act),
}

/// One matrix of a product, and where its result goes: rows of `y` are as long as the matrix has rows.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The weights.
    pub w: Matrix<'a>,
    /// f32 `(m, w.rows)`.
    pub y: View<'a>,
    /// f32 `(w.rows)`.
    pub bias: Option<View<'a>>,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct PartArg {
    body: u64,
    head: u64,
    y: u64,
    bias: u64,
    rows: i32,
    ldy: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct ProductArg {
    x: u64,
    norm: u64,
    parts: [PartArg; 3],
    cols: i32,
    m: i32,
    count: i32,
    mode: i32,
    act: i32,
    chunk: i32,
    eps: f32,
    scale: f32,
    cap: f32,
    pad: f32,
}

/// The cache of one layer of one sequence, as a step's attention finds it in the GPU's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CacheEntry {
    /// Where its bytes begin.
    pub at: u64,
    /// Rows a head has room for.
    pub capacity: i32,
    /// Nothing.
    pub pad: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct AttentionArg {
    q: u64,
    k: u64,
    v: u64,
    cosines: u64,
    sines: u64,
    q_norm: u64,
    k_norm: u64,
    out: u64,
    parts: u64,
    caches: u64,
    positions: u64,
    arrived: u64,
    heads: i32,
    kv_heads: i32,
    d: i32,
    half: i32,
    interleaved: i32,
    window: i32,
    k_format: i32,
    k_bytes: i32,
    v_format: i32,
    v_bytes: i32,
    splits: i32,
    eps: f32,
    scale: f32,
    cap: f32,
}

/// A step's attention: one new row of each sequence.
#[derive(Clone, Copy, Debug)]
pub struct StepAttend<'a> {
    /// The layer's heads, scale, cap and formats; its cache and capacity are not looked at.
    pub of: Attend<'a>,
    /// Queries `(sequences, heads · dim)`, not turned yet; keys and values `(sequences, kv_heads · dim)`.
    pub rows: [View<'a>; 3],
    /// The angles of each sequence's position, where rows are turned.
    pub turn: Option<super::RopeTable<'a>>,
    /// Weights of the norms of queries and keys, and their epsilon.
    pub norms: ([Option<View<'a>>; 2], f32),
    /// It sees its own row and those before it, as many as the cache has room for.
    pub window: bool,
    /// A [`CacheEntry`] a sequence.
    pub caches: View<'a>,
    /// A position (i32) a sequence.
    pub positions: View<'a>,
    /// A counter (u32) for each sequence and group of heads, zeros between launches.
    pub arrived: View<'a>,
    /// Where stretches wait to be joined: `(sequences · heads, splits, dim + 2)` f32.
    pub parts: View<'a>,
    /// At most this many rows are cached.
    pub most: usize,
    /// `(sequences, heads · dim)`.
    pub out: View<'a>,
}

fn short(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn address(view: Option<View<'_>>) -> u64 {
    view.map_or(0, View::address)
}

/// Blocks of eight warps of a product that run on a multiprocessor at a time.
const RESIDENT: usize = 3;

/// Warps of a block and blocks for `groups` rows of warps, so that every multiprocessor gets as much as any other.
fn shares(groups: usize, multiprocessors: usize) -> (usize, usize) {
    let busiest = |warps: usize| groups.div_ceil(warps).div_ceil(multiprocessors) * warps;
    let warps = if busiest(4) < busiest(8) { 4 } else { 8 };
    let all = groups.div_ceil(warps);
    let resident = RESIDENT * multiprocessors * 8 / warps;
    (warps, all.div_ceil(all.div_ceil(resident)))
}

/// Rows a kernel of products is made for.
const ROWS: [(usize, &str); 4] = [(1, "product1"), (2, "product2"), (4, "product4"), (8, "product8")];

impl Kernels {
    /// Products of `x (m, cols)`, through a norm where there is one (its weight and epsilon), with up to three matrices of one type; eight
    /// rows of `x` at a time. A row's result does not depend on the rows beside it. Returns how many kernels it queued.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short or not aligned; [`Error::Device`] with what the driver says.
    pub fn product(
        &self,
        x: View<'_>,
        m: usize,
        norm: Option<(View<'_>, f32)>,
        outputs: &[Output<'_>],
        purpose: Purpose,
    ) -> Result<()> {
        let Some(Output { w: Matrix { ty, cols, .. }, .. }) = outputs.first().copied() else { return Ok(()) };
        let alike = outputs.iter().all(|o| o.w.ty == ty && o.w.cols == cols && o.w.whole());
        let gate = matches!(purpose, Purpose::Gate(_));
        let pair = !gate || (outputs.len() == 2 && outputs[0].w.rows == outputs[1].w.rows);
        if outputs.len() > 3 || !alike || !pair || !x.aligned() {
            return Err(Error::Internal(format!("a product of {m} rows with {outputs:?}")));
        }
        floats("product, x", x, m * cols)?;
        let mut arg = ProductArg { cols: short(cols), count: short(outputs.len()), scale: 1.0, ..Default::default() };
        if let Some((w, eps)) = norm {
            floats("product, norm", w, cols)?;
            (arg.norm, arg.eps) = (w.address(), eps);
        }
        for (o, part) in outputs.iter().zip(&mut arg.parts) {
            floats("product, y", o.y, m * o.w.rows)?;
            if let Some(bias) = o.bias {
                floats("product, bias", bias, o.w.rows)?;
            }
            let (body, head) = o.w.planes()?;
            let rows = short(o.w.rows);
            *part = PartArg { body, head, y: o.y.address(), bias: address(o.bias), rows, ldy: rows };
        }
        match purpose {
            Purpose::Store { scale, cap } => (arg.mode, arg.scale, arg.cap) = (0, scale, cap.unwrap_or(0.0)),
            Purpose::Add { scale } => (arg.mode, arg.scale) = (1, scale),
            Purpose::Gate(act) => (arg.mode, arg.act) = (2, i32::from(act == Act::GeluTanh)),
        }
        // A warp takes two rows, of gate and up one each.
        let groups = match gate {
            true => outputs[0].w.rows,
            false => outputs.iter().map(|o| o.w.rows.div_ceil(2)).sum(),
        };
        let (warps, blocks) = shares(groups, self.multiprocessors);
        for first in (0..m).step_by(FEW) {
            let n = FEW.min(m - first);
            let (tile, kind) = ROWS.into_iter().find(|(rows, _)| *rows >= n).unwrap_or(ROWS[3]);
            // As many pieces of x as shared memory holds; sums of their runs beside them.
            let pieces = cols / piece(ty);
            let each = tile * (4 * piece(ty) + if ty.elems() > 1 { 16 } else { 0 });
            let room = if tile == 1 { self.shared.min(96 << 10) } else { self.shared };
            // Whole turns of a warp, so that a lane's pieces do not depend on where chunks end.
            let chunk = if pieces * each <= room { pieces } else { (room / each / 32 * 32).max(32) };
            arg.x = x.address() + (4 * first * cols) as u64;
            (arg.m, arg.chunk) = (short(n), short(chunk));
            let shape = Shape { shared: chunk * each, waits: true, ..Shape::new((blocks, 1), 32 * warps as u32) };
            self.launch(kind, Some(ty), shape, &[Arg::Struct(bytemuck::bytes_of(&arg))])?;
            for (o, part) in outputs.iter().zip(&mut arg.parts) {
                part.y += (4 * n * o.w.rows) as u64;
            }
        }
        Ok(())
    }

    /// `x (rows, cols) += scale · norm(y) · w`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn norm_add(&self, x: View<'_>, y: View<'_>, w: View<'_>, rows: usize, eps: f32, scale: f32) -> Result<()> {
        let cols = w.len() / 4;
        floats("norm add, x", x, rows * cols)?;
        floats("norm add, y", y, rows * cols)?;
        let shape = Shape { waits: true, ..Shape::new((rows, 1), 256) };
        let args = [x.into(), y.into(), w.into(), cols.into(), Arg::Float(eps), Arg::Float(scale)];
        self.launch("norm_add", None, shape, &args)
    }

    /// Fills `turn` with the angles of `n` positions (i32) in the GPU's memory, times `amplitude`; `freqs (half)` are f64.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn turn(
        &self,
        freqs: View<'_>,
        positions: View<'_>,
        turn: super::RopeTable<'_>,
        n: usize,
        amplitude: f32,
    ) -> Result<()> {
        floats("turn, freqs", freqs, 2 * turn.half)?;
        floats("turn, positions", positions, n)?;
        floats("turn, cosines", turn.cosines, n * turn.half)?;
        floats("turn, sines", turn.sines, n * turn.half)?;
        let args = [
            freqs.into(),
            positions.into(),
            turn.cosines.into(),
            turn.sines.into(),
            turn.half.into(),
            Arg::Float(amplitude),
        ];
        self.launch("turn", None, Shape { waits: true, ..Shape::new((n, 1), 64) }, &args)
    }

    /// Norms and turns the new row of each of `sequences` sequences, appends its key and value, and attends to what is cached: one kernel.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short or heads are not whole vectors; [`Error::Device`] with what the driver says.
    pub fn step_attend(&self, a: StepAttend<'_>, sequences: usize) -> Result<()> {
        let Attend { heads, kv_heads, dim, scale, cap, formats, .. } = a.of;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !vector_heads(dim) {
            return Err(Error::Internal(format!("a step's attention of {heads} and {kv_heads} heads of {dim}")));
        }
        let ((k_bytes, v_bytes), group) = (a.of.row_bytes()?, heads / kv_heads);
        let (tile, lanes) = step_tile(group, dim);
        let (chunks, splits) = (group.div_ceil(tile), step_splits(heads, kv_heads, dim, a.most, sequences));
        let [q, k, v] = a.rows;
        for (view, n) in [
            (q, heads * dim),
            (k, kv_heads * dim),
            (v, kv_heads * dim),
            (a.out, heads * dim),
            (a.caches, 4),
            (a.positions, 1),
            (a.arrived, kv_heads * chunks),
            (a.parts, if splits > 1 { heads * splits * (dim + 2) } else { 0 }),
        ] {
            floats("step attend", view, sequences * n)?;
        }
        let half = a.turn.map_or(0, |t| t.half);
        if let Some(turn) = a.turn {
            floats("step attend, cosines", turn.cosines, sequences * half)?;
            floats("step attend, sines", turn.sines, sequences * half)?;
        }
        for norm in a.norms.0.into_iter().flatten() {
            floats("step attend, norm", norm, dim)?;
        }
        let arg = AttentionArg {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            cosines: address(a.turn.map(|t| t.cosines)),
            sines: address(a.turn.map(|t| t.sines)),
            q_norm: address(a.norms.0[0]),
            k_norm: address(a.norms.0[1]),
            out: a.out.address(),
            parts: a.parts.address(),
            caches: a.caches.address(),
            positions: a.positions.address(),
            arrived: a.arrived.address(),
            heads: short(heads),
            kv_heads: short(kv_heads),
            d: short(dim),
            half: short(half),
            interleaved: i32::from(a.turn.is_some_and(|t| t.interleaved)),
            window: i32::from(a.window),
            k_format: format(formats.0)?,
            k_bytes: short(k_bytes),
            v_format: format(formats.1)?,
            v_bytes: short(v_bytes),
            splits: short(splits),
            eps: a.norms.1,
            scale,
            cap: cap.unwrap_or(0.0),
        };
        let kind = match (lanes, tile) {
            (8, 1) => "step_attend_8_1",
            (8, 2) => "step_attend_8_2",
            (8, 4) => "step_attend_8_4",
            (8, _) => "step_attend_8_8",
            (16, 1) => "step_attend_16_1",
            (16, 2) => "step_attend_16_2",
            (16, 4) => "step_attend_16_4",
            (16, _) => "step_attend_16_8",
            (_, 1) => "step_attend_32_1",
            (_, 2) => "step_attend_32_2",
            _ => "step_attend_32_4",
        };
        let wide = 8 * lanes;
        let shape = Shape {
            grid: [kv_heads * chunks, splits, sequences],
            shared: 4 * (tile * wide + (2 * wide).max(8 * tile * (wide + 2))),
            waits: true,
            ..Shape::new((1, 1), 256)
        };
        self.launch(kind, None, shape, &[Arg::Struct(bytemuck::bytes_of(&arg))])
    }
}
