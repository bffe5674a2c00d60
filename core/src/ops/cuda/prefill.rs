//! Launching `prefill.cu`: what stands around the matrix products of many rows, and what loading needs.

use super::decode::Matrix;
use super::device::View;
use super::kernels::{Attend, floats, format};
use super::launch::{Kernels, Shape};
use super::train::Arg;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::gpu::{Planes, piece, vector_heads};
use crate::shape::Act;

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct FlashArg {
    q: u64,
    keys: u64,
    values: u64,
    out: u64,
    head_bytes: u64,
    m: i32,
    before: i32,
    heads: i32,
    group: i32,
    d: i32,
    window: i32,
    k_format: i32,
    k_bytes: i32,
    v_format: i32,
    v_bytes: i32,
    ty: i32,
    scale: f32,
    cap: f32,
    pad: f32,
}

/// Rows of a product as the kernels number their types.
fn rows_type(ty: BlockType) -> Result<Arg<'static>> {
    match ty {
        BlockType::F32 => Ok(Arg::Int(0)),
        BlockType::F16 => Ok(Arg::Int(1)),
        BlockType::Bf16 => Ok(Arg::Int(2)),
        ty => Err(Error::Internal(format!("rows of a product as {ty}"))),
    }
}

fn holds(what: &str, view: View<'_>, bytes: usize) -> Result<()> {
    if view.len() >= bytes {
        Ok(())
    } else {
        Err(Error::Internal(format!("{what}: {} bytes where {bytes} are written", view.len())))
    }
}

impl Kernels {
    /// `out (m, cols)`, of type `ty` = `by` · norm(x), or x itself without a norm (its weight and epsilon).
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn norm_rows(
        &self,
        x: View<'_>,
        (m, cols): (usize, usize),
        norm: Option<(View<'_>, f32)>,
        by: f32,
        out: View<'_>,
        ty: BlockType,
    ) -> Result<()> {
        floats("norm rows, x", x, m * cols)?;
        holds("norm rows, out", out, m * cols * ty.block_bytes())?;
        let (w, eps) = match norm {
            Some((w, eps)) => {
                floats("norm rows, weight", w, cols)?;
                (w.into(), eps)
            }
            None => (Arg::Null, 0.0),
        };
        let args = [x.into(), w, out.into(), cols.into(), Arg::Float(eps), Arg::Float(by), rows_type(ty)?];
        self.launch("norm_rows", None, Shape::new((m, 1), 256), &args)
    }

    /// `out = act(gate) ⊙ up`, `n` numbers of type `ty`; where that is f32 it may be the gate itself.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn gate_rows(
        &self,
        act: Act,
        gate: View<'_>,
        up: View<'_>,
        n: usize,
        out: View<'_>,
        ty: BlockType,
    ) -> Result<()> {
        floats("gate rows, gate", gate, n)?;
        floats("gate rows, up", up, n)?;
        holds("gate rows, out", out, n * ty.block_bytes())?;
        let act = i32::from(act == Act::GeluTanh);
        let args = [gate.into(), up.into(), out.into(), Arg::Wide(n as u64), Arg::Int(act), rows_type(ty)?];
        self.launch("gate_rows", None, Shape::new((n.div_ceil(256), 1), 256), &args)
    }

    /// Cuts the blocks of rows `first ..` of `to`, which lie in `blocks` as a file has them, in two, each to its place.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are not whole rows of the matrix; [`Error::Device`] with what the driver says.
    pub fn split(&self, blocks: View<'_>, to: Matrix<'_>, first: usize) -> Result<()> {
        let (planes, row) = (Planes::of(to.ty), to.ty.row_bytes(to.cols).unwrap_or(0));
        let whole = row > 0 && blocks.len().is_multiple_of(row);
        if !whole || first + blocks.len() / row.max(1) > to.rows {
            return Err(Error::Internal(format!("{} bytes of rows from {first} on of {to:?}", blocks.len())));
        }
        let (body, head) = to.planes()?;
        let before = first * row / to.ty.block_bytes();
        let args = [
            blocks.into(),
            Arg::Wide(body + (before * planes.body) as u64),
            Arg::Wide(head + (before * planes.head) as u64),
            Arg::Wide(blocks.len() as u64),
            to.ty.block_bytes().into(),
            planes.from.into(),
            planes.body.into(),
        ];
        self.launch("split_blocks", None, Shape::new((blocks.len().div_ceil(256), 1), 256), &args)
    }

    /// `out (n, cols)` of type `ty` = rows `first .. first + n` of `w`.
    ///
    /// # Errors
    /// [`Error::Internal`] when there are no such rows or `out` is too short; [`Error::Device`] with what the driver says.
    pub fn expand(&self, w: Matrix<'_>, first: usize, n: usize, out: View<'_>, ty: BlockType) -> Result<()> {
        if first + n > w.rows || !w.whole() || !out.aligned() {
            return Err(Error::Internal(format!("rows {first} + {n} of {w:?}")));
        }
        holds("expand, out", out, n * w.cols * ty.block_bytes())?;
        let (body, head) = w.planes()?;
        let each = w.cols / piece(w.ty);
        let kind = match ty {
            BlockType::F16 => "expand_f16",
            BlockType::Bf16 => "expand_bf16",
            BlockType::F32 => "expand_f32",
            ty => return Err(Error::Internal(format!("weights expanded to {ty}"))),
        };
        let args = [
            Arg::Wide(body),
            Arg::Wide(head),
            out.into(),
            Arg::Wide((first * each) as u64),
            Arg::Wide((n * each) as u64),
        ];
        self.launch(kind, Some(w.ty), Shape::new(((n * each).div_ceil(256), 1), 256), &args)
    }

    /// `out (n, cols)` = `by` · rows of `table`; `ids (n)` are u32 below its number of rows, which the caller has checked.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn lookup(&self, table: Matrix<'_>, ids: View<'_>, n: usize, out: View<'_>, by: f32) -> Result<()> {
        floats("lookup, ids", ids, n)?;
        floats("lookup, out", out, n * table.cols)?;
        if !table.whole() || !out.aligned() {
            return Err(Error::Internal(format!("rows of {table:?}")));
        }
        let (body, head) = table.planes()?;
        let args = [Arg::Wide(body), Arg::Wide(head), ids.into(), out.into(), table.cols.into(), Arg::Float(by)];
        self.launch("lookup", Some(table.ty), Shape::new((n, 1), 128), &args)
    }

    /// Copies rows `first .. first + n` of every head of one cache to rows `to ..` of another of the same heads and formats, each modulo its
    /// capacity.
    ///
    /// # Errors
    /// [`Error::Internal`] when a cache is too short; [`Error::Device`] with what the driver says.
    pub fn copy_rows(&self, from: Attend<'_>, into: Attend<'_>, first: usize, to: usize, n: usize) -> Result<()> {
        from.check(n)?;
        into.check(n)?;
        let (k, v) = from.row_bytes()?;
        let args = [
            from.cache.into(),
            into.cache.into(),
            from.capacity.into(),
            into.capacity.into(),
            first.into(),
            to.into(),
            k.into(),
            v.into(),
        ];
        self.launch("copy_rows", None, Shape::new((n, from.kv_heads), 64), &args)
    }

    /// `out (m, heads · dim)`, of type `ty`: attention of queries `q` on tensor cores, in f16 with f32 sums. Query i sees `before` + i rows
    /// and its own, of these as many as `window` where there is one. Scores are never written down.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn flash(
        &self,
        at: Attend<'_>,
        q: View<'_>,
        (before, m): (usize, usize),
        window: Option<usize>,
        out: View<'_>,
        ty: BlockType,
    ) -> Result<()> {
        at.check(before + m)?;
        floats("flash, q", q, m * at.heads * at.dim)?;
        holds("flash, out", out, m * at.heads * at.dim * ty.block_bytes())?;
        if !vector_heads(at.dim) {
            return Err(Error::Internal(format!("attention on tensor cores with heads of {}", at.dim)));
        }
        let (k_bytes, v_bytes) = at.row_bytes()?;
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let Arg::Int(rows) = rows_type(ty)? else { return Ok(()) };
        let arg = FlashArg {
            q: q.address(),
            keys: at.cache.address(),
            values: at.cache.address() + (k_bytes * at.capacity) as u64,
            out: out.address(),
            head_bytes: at.head_bytes()? as u64,
            m: int(m),
            before: int(before),
            heads: int(at.heads),
            group: int(at.heads / at.kv_heads.max(1)),
            d: int(at.dim),
            window: int(window.unwrap_or(0)),
            k_format: format(at.formats.0)?,
            k_bytes: int(k_bytes),
            v_format: format(at.formats.1)?,
            v_bytes: int(v_bytes),
            ty: rows,
            scale: at.scale,
            cap: at.cap.unwrap_or(0.0),
            pad: 0.0,
        };
        let blocks = m.div_ceil(64) * at.heads;
        // A long cache and few blocks: more warps a block, which share the cache out.
        let few = blocks < 2 * self.multiprocessors && before + m > 1024;
        let (kind, wide, tile, shares) = match (at.dim, few) {
            (..=64, false) => ("flash_64", 64, 64, 1),
            (..=64, true) => ("flash_64_shared", 64, 64, 3),
            (..=128, false) => ("flash_128", 128, 64, 1),
            (..=128, true) => ("flash_128_shared", 128, 64, 2),
            _ => ("flash_256", 256, 32, 1),
        };
        let shared = shares * 4 * tile * (wide + 8) * 2;
        if shared > self.shared {
            return Err(Error::Internal(format!(
                "`{kind}` needs {shared} B of shared memory, a block has {}",
                self.shared
            )));
        }
        let shape = Shape { shared, ..Shape::new((m.div_ceil(64), at.heads), 128 * shares as u32) };
        self.launch(kind, None, shape, &[Arg::Struct(bytemuck::bytes_of(&arg))])
    }
}
