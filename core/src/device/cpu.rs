//! The CPU as a device that trains: ledger buffers, the team, and the kernels of [`crate::ops::cpu`].

use std::cell::RefCell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::{
    AdamW, Best, Buf, Causal, Device, Dst, Mask, RopeTable, Round, Sgd, Sizes, Src, Weight, buffer_bytes,
};
use crate::error::{Error, Result};
use crate::ledger::{Buffer, Category, Ledger, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::vjp::{self, Moments, Stored};
use crate::ops::cpu::{Angles, Mat, add, embed, linear, linear_add, linear_scratch, rms_norm, rope};
use crate::rng::Philox;
use crate::shape::TensorShape;
use crate::weights::load;

/// The ledger row of a device's scratch.
pub const SCRATCH: Tag = Tag::device(Category::Workspace, "kernel scratch");

/// Bytes of scratch that the CPU's ops need on `threads` threads, none being larger than `sizes`.
pub fn scratch_bytes(threads: usize, sizes: &Sizes) -> usize {
    let elements = [
        linear_scratch(threads, sizes.cols.max(sizes.hidden)),
        vjp::dx_scratch(threads),
        vjp::dw_scratch(threads),
        vjp::attention_scratch(threads, sizes.rows, sizes.heads),
        vjp::rms_norm_vjp_scratch(sizes.rows),
        vjp::square_sum_scratch(),
    ];
    4 * elements.into_iter().max().unwrap_or(0)
}

/// The CPU, with one job's ledger and team.
pub struct Cpu {
    ledger: Arc<Ledger>,
    team: Arc<ThreadTeam>,
    /// Of one op at a time.
    scratch: RefCell<Buffer>,
    load: usize,
}

impl Cpu {
    /// Opens the CPU, taking its scratch.
    ///
    /// # Errors
    /// Over budget.
    pub fn new(ledger: &Arc<Ledger>, team: &Arc<ThreadTeam>, sizes: &Sizes) -> Result<Self> {
        let scratch = ledger.buffer(SCRATCH, scratch_bytes(team.threads(), sizes))?;
        Ok(Self {
            ledger: Arc::clone(ledger),
            team: Arc::clone(team),
            scratch: RefCell::new(scratch),
            load: sizes.load,
        })
    }
}

fn short(what: &str, at: usize, len: usize, held: usize) -> Error {
    Error::Internal(format!("{what}: elements {at} + {len} of a buffer of {held}"))
}

/// Elements of a buffer as `T`, whose block type must be one of the plain ones of that size.
fn read<'a, T: bytemuck::Pod>(x: Src<'a>, len: usize, what: &str) -> Result<&'a [T]> {
    if x.buf.ty().elems() != 1 || x.buf.ty().block_bytes() != size_of::<T>() {
        return Err(Error::Internal(format!(
            "{what}: a buffer of {} is no {}",
            x.buf.ty(),
            std::any::type_name::<T>()
        )));
    }
    let all = x.buf.memory::<Buffer>()?.as_slice::<T>();
    all.get(x.at..).and_then(|s| s.get(..len)).ok_or_else(|| short(what, x.at, len, all.len()))
}

fn write<'a, T: bytemuck::Pod>(x: Dst<'a>, len: usize, what: &str) -> Result<&'a mut [T]> {
    let (ty, at, held) = (x.buf.ty(), x.at, x.buf.len());
    if ty.elems() != 1 || ty.block_bytes() != size_of::<T>() {
        return Err(Error::Internal(format!("{what}: a buffer of {ty} is no {}", std::any::type_name::<T>())));
    }
    let all = x.buf.memory_mut::<Buffer>()?.as_mut_slice::<T>();
    all.get_mut(at..).and_then(|s| s.get_mut(..len)).ok_or_else(|| short(what, at, len, held))
}

fn floats<'a>(x: Src<'a>, len: usize) -> Result<&'a [f32]> {
    if x.buf.ty() == BlockType::F32 { read(x, len, "floats") } else { Err(not(x.buf.ty(), "f32")) }
}

fn floats_mut<'a>(x: Dst<'a>, len: usize) -> Result<&'a mut [f32]> {
    if x.buf.ty() == BlockType::F32 { write(x, len, "floats") } else { Err(not(x.buf.ty(), "f32")) }
}

fn ids<'a>(x: Src<'a>, len: usize) -> Result<&'a [u32]> {
    if x.buf.ty() == BlockType::I32 { read(x, len, "ids") } else { Err(not(x.buf.ty(), "ids")) }
}

fn not(ty: BlockType, wanted: &str) -> Error {
    Error::Internal(format!("a buffer of {ty} where {wanted} are wanted"))
}

/// The bytes of elements `at..at + len`, whole blocks.
fn bytes_of(buf: &Buf, at: usize, len: usize) -> Result<std::ops::Range<usize>> {
    let start = buf.ty().row_bytes(at).ok_or_else(|| short("bytes", at, len, buf.len()))?;
    let end = start + buffer_bytes(buf.ty(), len);
    if end <= buf.bytes() { Ok(start..end) } else { Err(short("bytes", at, len, buf.len())) }
}

fn mat<'a>(w: Weight<'a>) -> Result<Mat<'a>> {
    let scheme = w.buf.scheme();
    if scheme.block().is_none() {
        let whole = Mat::new(scheme, w.of, w.cols, w.buf.memory::<Buffer>()?.as_slice::<u8>())?;
        return whole.slice(w.at / w.cols.max(1), w.rows);
    }
    let range = bytes_of(w.buf, w.at, w.rows * w.cols)?;
    Mat::new(scheme, w.rows, w.cols, &w.buf.memory::<Buffer>()?.as_slice::<u8>()[range])
}

fn moments(x: &mut Buf) -> Result<Moments<'_>> {
    match x.ty() {
        BlockType::F32 => Ok(Moments::F32(x.memory_mut::<Buffer>()?.as_mut_slice())),
        BlockType::Bf16 => Ok(Moments::Bf16(x.memory_mut::<Buffer>()?.as_mut_slice())),
        ty => Err(not(ty, "f32 or bf16")),
    }
}

fn stored<'a>(p: &'a mut Buf, round: Round<'a>) -> Result<Stored<'a>> {
    let (ty, p) = (p.ty(), p.memory_mut::<Buffer>()?);
    match (ty, round) {
        (BlockType::F32, Round::Nearest | Round::Stochastic { .. } | Round::Kahan(_)) => {
            Ok(Stored::F32(p.as_mut_slice()))
        }
        (BlockType::Bf16, Round::Nearest) => Ok(Stored::Nearest(p.as_mut_slice())),
        (BlockType::Bf16, Round::Stochastic { seed, stream }) => {
            Ok(Stored::Stochastic(p.as_mut_slice(), Philox::new(seed).stream(stream)))
        }
        (BlockType::Bf16, Round::Kahan(c)) if c.ty() == BlockType::Bf16 => {
            Ok(Stored::Kahan(p.as_mut_slice(), c.memory_mut::<Buffer>()?.as_mut_slice()))
        }
        (BlockType::Bf16, Round::Master(c)) if c.ty() == BlockType::F32 => {
            Ok(Stored::Master(p.as_mut_slice(), c.memory_mut::<Buffer>()?.as_mut_slice()))
        }
        (ty, round) => Err(Error::Internal(format!("a parameter of {ty} rounded by {round:?}"))),
    }
}

impl Device for Cpu {
    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        Ok(Buf::new(ty, len, self.ledger.buffer(tag, buffer_bytes(ty, len))?))
    }

    fn upload(&self, from: &[u8], to: Dst<'_>) -> Result<()> {
        let start = bytes_of(to.buf, to.at, 0)?.start;
        let all = to.buf.memory_mut::<Buffer>()?.as_mut_slice::<u8>();
        let held = all.len();
        let to = all.get_mut(start..).and_then(|s| s.get_mut(..from.len()));
        to.ok_or_else(|| short("upload", start, from.len(), held))?.copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: Src<'_>, to: &mut [u8]) -> Result<()> {
        let start = bytes_of(from.buf, from.at, 0)?.start;
        let all = from.buf.memory::<Buffer>()?.as_slice::<u8>();
        let from = all.get(start..).and_then(|s| s.get(..to.len()));
        to.copy_from_slice(from.ok_or_else(|| short("download", start, to.len(), all.len()))?);
        Ok(())
    }

    fn load(&self, source: &Source, from: &TensorShape, to: &TensorShape, into: &mut Buf) -> Result<()> {
        let mut scratch = (from.ty != to.ty).then(|| self.ledger.buffer(load::SCRATCH, self.load)).transpose()?;
        self.ledger.moved("disk read", from.bytes());
        load::tensor(source, from, to, into.memory_mut::<Buffer>()?.as_mut_slice(), scratch.as_mut(), &self.team)
    }

    fn wait(&self) -> Result<()> {
        if self.team.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn copy(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        if x.buf.ty() != y.buf.ty() {
            return Err(not(x.buf.ty(), "elements of the same type"));
        }
        let (from, to) = (bytes_of(x.buf, x.at, len)?, bytes_of(y.buf, y.at, len)?);
        let from = &x.buf.memory::<Buffer>()?.as_slice::<u8>()[from];
        y.buf.memory_mut::<Buffer>()?.as_mut_slice::<u8>()[to].copy_from_slice(from);
        self.wait()
    }

    fn fill(&self, y: Dst<'_>, len: usize, value: f32) -> Result<()> {
        floats_mut(y, len)?.fill(value);
        self.wait()
    }

    fn axpy(&self, a: f32, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        let (x, y) = (floats(x, len)?, floats_mut(y, len)?);
        if a == 1.0 { add(&self.team, y, x) } else { vjp::axpy(&self.team, a, x, y) }
    }

    fn scale(&self, y: Dst<'_>, len: usize, a: f32) -> Result<()> {
        vjp::scale(&self.team, floats_mut(y, len)?, a)
    }

    fn squared_norm(&self, x: Src<'_>, len: usize, to: Dst<'_>) -> Result<()> {
        let sum = vjp::squared_norm(&self.team, floats(x, len)?, self.scratch.borrow_mut().as_mut_slice())?;
        floats_mut(to, 1)?[0] = sum as f32;
        Ok(())
    }

    fn gather(&self, x: Src<'_>, rows: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        let x = floats(x, x.buf.len() - x.at)?;
        vjp::gather(&self.team, x, ids(rows, n)?, cols, floats_mut(y, n * cols)?)
    }

    fn scatter(&self, x: Src<'_>, rows: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        let len = y.buf.len() - y.at;
        vjp::scatter(&self.team, floats(x, n * cols)?, ids(rows, n)?, cols, floats_mut(y, len)?)
    }

    fn embed(&self, table: Weight<'_>, rows: Src<'_>, m: usize, y: Dst<'_>) -> Result<()> {
        let w = mat(table)?;
        embed(&self.team, w, ids(rows, m)?, floats_mut(y, m * table.cols)?)
    }

    fn embed_vjp(&self, dy: Src<'_>, rows: Src<'_>, m: usize, n: usize, cols: usize, d: Dst<'_>) -> Result<()> {
        vjp::embed_vjp(&self.team, floats(dy, m * cols)?, ids(rows, m)?, n, cols, floats_mut(d, n * cols)?)
    }

    fn linear(&self, x: Src<'_>, m: usize, w: Weight<'_>, bias: Option<Src<'_>>, y: Dst<'_>, add: bool) -> Result<()> {
        let (x, y) = (floats(x, m * w.cols)?, floats_mut(y, m * w.rows)?);
        let mut scratch = self.scratch.borrow_mut();
        let scratch = scratch.as_mut_slice();
        if add {
            linear_add(&self.team, x, m, mat(w)?, y, scratch)?;
        } else {
            linear(&self.team, x, m, mat(w)?, y, w.rows, scratch)?;
        }
        match bias {
            Some(bias) => vjp::bias(&self.team, floats(bias, w.rows)?, y),
            None => Ok(()),
        }
    }

    fn linear_dx(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()> {
        let (dy, dx) = (floats(dy, m * w.rows)?, floats_mut(dx, m * w.cols)?);
        vjp::linear_dx(&self.team, dy, m, mat(w)?, dx, add, self.scratch.borrow_mut().as_mut_slice())
    }

    fn linear_dw(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        m: usize,
        rows: usize,
        cols: usize,
        dw: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        let (dy, x, dw) = (floats(dy, m * rows)?, floats(x, m * cols)?, floats_mut(dw, rows * cols)?);
        vjp::linear_dw(&self.team, dy, x, m, rows, cols, dw, add, self.scratch.borrow_mut().as_mut_slice())
    }

    fn bias_vjp(&self, dy: Src<'_>, m: usize, rows: usize, db: Dst<'_>, add: bool) -> Result<()> {
        vjp::bias_vjp(&self.team, floats(dy, m * rows)?, m, rows, floats_mut(db, rows)?, add)
    }

    fn rms_norm(&self, x: Src<'_>, w: Src<'_>, m: usize, cols: usize, eps: f32, y: Dst<'_>) -> Result<()> {
        rms_norm(&self.team, floats(x, m * cols)?, floats(w, cols)?, eps, floats_mut(y, m * cols)?)
    }

    fn rms_norm_vjp(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        w: Src<'_>,
        m: usize,
        cols: usize,
        eps: f32,
        dx: Dst<'_>,
        dw: Option<(Dst<'_>, bool)>,
    ) -> Result<()> {
        let dw = dw.map(|(d, add)| floats_mut(d, cols).map(|d| (d, add))).transpose()?;
        let (dy, x, w, dx) = (floats(dy, m * cols)?, floats(x, m * cols)?, floats(w, cols)?, floats_mut(dx, m * cols)?);
        vjp::rms_norm_vjp(&self.team, dy, x, w, m, eps, dx, dw, self.scratch.borrow_mut().as_mut_slice())
    }

    fn rope(&self, x: Dst<'_>, m: usize, heads: usize, dim: usize, turn: RopeTable<'_>) -> Result<()> {
        let (cos, sin) = (floats(turn.cos.all(), turn.cos.len())?, floats(turn.sin.all(), turn.sin.len())?);
        let angles = Angles { cos, sin, half: turn.half };
        let (x, positions) = (floats_mut(x, m * heads * dim)?, ids(turn.positions.all(), m)?);
        if turn.inverse {
            vjp::rope_back(&self.team, x, dim, turn.pairs, angles, positions)
        } else {
            rope(&self.team, x, dim, turn.pairs, angles, positions)
        }
    }

    fn attention(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        o: Dst<'_>,
        log_sum_exp: Dst<'_>,
    ) -> Result<()> {
        let m = of.sequences * of.length;
        let (wide, narrow) = (m * of.heads * of.dim, m * of.kv_heads * of.dim);
        vjp::attention(
            &self.team,
            floats(q, wide)?,
            floats(k, narrow)?,
            floats(v, narrow)?,
            ids(segments, m)?,
            of,
            floats_mut(o, wide)?,
            floats_mut(log_sum_exp, m * of.heads)?,
            self.scratch.borrow_mut().as_mut_slice(),
        )
    }

    fn attention_vjp(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        o: Src<'_>,
        log_sum_exp: Src<'_>,
        d_o: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        dq: Dst<'_>,
        dk: Dst<'_>,
        dv: Dst<'_>,
    ) -> Result<()> {
        let m = of.sequences * of.length;
        let (wide, narrow) = (m * of.heads * of.dim, m * of.kv_heads * of.dim);
        vjp::attention_vjp(
            &self.team,
            floats(q, wide)?,
            floats(k, narrow)?,
            floats(v, narrow)?,
            floats(o, wide)?,
            floats(log_sum_exp, m * of.heads)?,
            floats(d_o, wide)?,
            ids(segments, m)?,
            of,
            floats_mut(dq, wide)?,
            floats_mut(dk, narrow)?,
            floats_mut(dv, narrow)?,
            self.scratch.borrow_mut().as_mut_slice(),
        )
    }

    fn swiglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        vjp::swiglu_to(&self.team, floats(g, len)?, floats(u, len)?, floats_mut(p, len)?)
    }

    fn swiglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        vjp::swiglu_vjp(&self.team, floats(dp, len)?, floats_mut(g, len)?, floats_mut(u, len)?)
    }

    fn dropout(&self, x: Src<'_>, y: Dst<'_>, len: usize, mask: Mask, add: bool) -> Result<()> {
        vjp::dropout(&self.team, floats(x, len)?, mask, floats_mut(y, len)?, add)
    }

    fn log_sum_exp(
        &self,
        a: Src<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Dst<'_>,
        picked: Dst<'_>,
    ) -> Result<()> {
        let (a, targets) = (floats(a, m * n)?, ids(targets, m)?);
        vjp::log_sum_exp(&self.team, a, n, first, targets, floats_mut(log_sum_exp, m)?, floats_mut(picked, m)?)
    }

    fn argmax(&self, a: Src<'_>, n: usize, first: usize, best: &mut [Best]) -> Result<()> {
        vjp::argmax(&self.team, floats(a, best.len() * n)?, n, first, best)
    }

    fn cross_entropy_vjp(
        &self,
        a: Dst<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Src<'_>,
        scale: f32,
        eps: f32,
    ) -> Result<bool> {
        let (a, targets, log_sum_exp) = (floats_mut(a, m * n)?, ids(targets, m)?, floats(log_sum_exp, m)?);
        vjp::cross_entropy_vjp(&self.team, a, n, first, targets, log_sum_exp, scale, eps)
    }

    fn adamw(&self, p: &mut Buf, g: Src<'_>, m: &mut Buf, v: &mut Buf, by: AdamW, round: Round<'_>) -> Result<()> {
        let g = floats(g, p.len())?;
        vjp::adamw(&self.team, stored(p, round)?, g, moments(m)?, moments(v)?, by)
    }

    fn sgd(&self, p: &mut Buf, g: Src<'_>, u: Option<&mut Buf>, by: Sgd, round: Round<'_>) -> Result<()> {
        let g = floats(g, p.len())?;
        vjp::sgd(&self.team, stored(p, round)?, g, u.map(moments).transpose()?, by)
    }
}
