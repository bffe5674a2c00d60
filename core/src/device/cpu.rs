//! The CPU as a device that trains: ledger buffers, the team, and the kernels of [`crate::ops::cpu`].

use std::cell::RefCell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::op::{Family, sides};
use crate::device::{Buf, Columns, Cost, Device, Dst, Gradient, Meter, Op, Round, Sizes, Src, Weight, buffer_bytes};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::{Buffer, Category, Ledger, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::basis::{decomposition_bytes, leading_vectors, orthonormalize};
use crate::ops::cpu::nets;
use crate::ops::cpu::vjp::{self, Gradients, Moments, Stored};
use crate::ops::cpu::{Angles, Mat, add, embed, linear, linear_add, linear_scratch, rms_norm, rope};
use crate::ops::rule::MOST_SLOTS;
use crate::rng::Philox;
use crate::shape::TensorShape;
use crate::weights::load;

/// The ledger row of a device's scratch.
pub const SCRATCH: Tag = Tag::device(Category::Workspace, "kernel scratch");

/// What nalgebra makes for itself while it decomposes; its bound is reserved for as long.
pub const DECOMPOSITION: Tag = Tag::device(Category::Workspace, "decomposition");

/// Bytes of scratch that the CPU's ops need on `threads` threads, none being larger than `sizes`.
pub fn scratch_bytes(threads: usize, sizes: &Sizes) -> usize {
    let elements = [
        linear_scratch(threads, sizes.cols.max(sizes.hidden)),
        vjp::dx_scratch(threads),
        vjp::dw_scratch(threads),
        vjp::attention_scratch(threads, sizes.rows, sizes.heads),
        vjp::rms_norm_vjp_scratch(sizes.rows),
        sizes.basis,
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
    meter: Meter,
}

impl Cpu {
    /// Opens the CPU, taking its scratch.
    ///
    /// # Errors
    /// [`Error::OverBudget`] when the budget has no room for it.
    pub fn new(ledger: &Arc<Ledger>, team: &Arc<ThreadTeam>, sizes: &Sizes) -> Result<Self> {
        let scratch = ledger.buffer(SCRATCH, scratch_bytes(team.threads(), sizes))?;
        Ok(Self {
            ledger: Arc::clone(ledger),
            team: Arc::clone(team),
            scratch: RefCell::new(scratch),
            load: sizes.load,
            meter: Meter::new(team),
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

fn halves<'a>(x: Src<'a>, len: usize) -> Result<&'a [u16]> {
    if x.buf.ty() == BlockType::Bf16 { read(x, len, "halves") } else { Err(not(x.buf.ty(), "bf16")) }
}

fn ids<'a>(x: Src<'a>, len: usize) -> Result<&'a [u32]> {
    if x.buf.ty() == BlockType::I32 { read(x, len, "ids") } else { Err(not(x.buf.ty(), "ids")) }
}

fn entries(columns: Columns<'_>, n: usize) -> Result<vjp::Entries<'_>> {
    Ok(match columns {
        Columns::From(first) => vjp::Entries::From(first),
        Columns::Listed(list) => vjp::Entries::Listed(ids(list, n)?),
    })
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

fn moments(x: &mut Buf, len: usize) -> Result<Moments<'_>> {
    match x.ty() {
        BlockType::F32 => Ok(Moments::F32(write(x.all_mut(), len, "state")?)),
        BlockType::Bf16 => Ok(Moments::Bf16(write(x.all_mut(), len, "state")?)),
        ty => Err(not(ty, "f32 or bf16")),
    }
}

fn stored<'a>(p: Dst<'a>, len: usize, round: Round<'a>) -> Result<Stored<'a>> {
    match (p.buf.ty(), round) {
        (BlockType::F32, Round::Nearest | Round::Stochastic { .. } | Round::Kahan(_)) => {
            Ok(Stored::F32(floats_mut(p, len)?))
        }
        (BlockType::Bf16, Round::Nearest) => Ok(Stored::Nearest(write(p, len, "halves")?)),
        (BlockType::Bf16, Round::Stochastic { seed, stream }) => {
            Ok(Stored::Stochastic(write(p, len, "halves")?, Philox::new(seed).stream(stream)))
        }
        (BlockType::Bf16, Round::Kahan(c)) if c.ty() == BlockType::Bf16 => {
            Ok(Stored::Kahan(write(p, len, "halves")?, write(c.all_mut(), len, "rounding copy")?))
        }
        (BlockType::Bf16, Round::Master(c)) if c.ty() == BlockType::F32 => {
            Ok(Stored::Master(write(p, len, "halves")?, floats_mut(c.all_mut(), len)?))
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

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn execute(&self, op: Op<'_>, _: &Cost) -> Result<()> {
        match op.family() {
            Family::Move => self.moves(op),
            Family::Product => self.products(op),
            Family::Layer => self.layers(op),
            Family::Head => self.heads(op),
            Family::Net => self.nets(op),
        }
    }
}

impl Cpu {
    fn moves(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Copy { x, y, len } => {
                let (from, to) = (bytes_of(x.buf, x.at, len)?, bytes_of(y.buf, y.at, len)?);
                let from = &x.buf.memory::<Buffer>()?.as_slice::<u8>()[from];
                y.buf.memory_mut::<Buffer>()?.as_mut_slice::<u8>()[to].copy_from_slice(from);
            }
            Op::Cast { x, y, len } => {
                let (x, y) = (halves(x, len)?, floats_mut(y, len)?);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = f32::from_bits(u32::from(*x) << 16));
            }
            Op::Fill { y, len, value } => floats_mut(y, len)?.fill(value),
            Op::Axpy { a: 1.0, x, y, len } => add(&self.team, floats_mut(y, len)?, floats(x, len)?)?,
            Op::Axpy { a, x, y, len } => vjp::axpy(&self.team, a, floats(x, len)?, floats_mut(y, len)?)?,
            Op::Scale { y, len, a } => vjp::scale(&self.team, floats_mut(y, len)?, a)?,
            Op::SquaredNorms { x, spans, to } => {
                let scratch = &mut self.scratch.borrow_mut();
                for ((at, len), to) in spans.iter().zip(floats_mut(to, spans.len())?) {
                    let x = floats(Src { at: x.at + at, ..x }, *len)?;
                    *to = vjp::squared_norm(&self.team, x, scratch.as_mut_slice())? as f32;
                }
            }
            Op::Gather { x, ids: rows, n, cols, y } => {
                let x = floats(x, x.buf.len() - x.at)?;
                vjp::gather(&self.team, x, ids(rows, n)?, cols, floats_mut(y, n * cols)?)?;
            }
            Op::Scatter { x, ids: rows, n, cols, y } => {
                let len = y.buf.len() - y.at;
                vjp::scatter(&self.team, floats(x, n * cols)?, ids(rows, n)?, cols, floats_mut(y, len)?)?;
            }
            op => return Err(op.stray()),
        }
        self.wait()
    }

    fn products(&self, op: Op<'_>) -> Result<()> {
        let (team, mut scratch) = (&self.team, self.scratch.borrow_mut());
        match op {
            Op::Embed { table, ids: rows, m, y } => {
                let w = mat(table)?;
                embed(team, w, ids(rows, m)?, floats_mut(y, m * table.cols)?)
            }
            Op::EmbedVjp { dy, ids: rows, m, rows: n, cols, d } => {
                vjp::embed_vjp(team, floats(dy, m * cols)?, ids(rows, m)?, n, cols, floats_mut(d, n * cols)?)
            }
            Op::Linear { x, m, w, bias, y, add } => {
                let (x, y) = (floats(x, m * w.cols)?, floats_mut(y, m * w.rows)?);
                if add {
                    linear_add(team, x, m, mat(w)?, y, scratch.as_mut_slice())?;
                } else {
                    linear(team, x, m, mat(w)?, y, w.rows, scratch.as_mut_slice())?;
                }
                bias.map_or(Ok(()), |bias| vjp::bias(team, floats(bias, w.rows)?, y))
            }
            Op::LinearDx { dy, m, w, dx, add } => {
                let (dy, dx) = (floats(dy, m * w.rows)?, floats_mut(dx, m * w.cols)?);
                vjp::linear_dx(team, dy, m, mat(w)?, dx, add, scratch.as_mut_slice())
            }
            Op::LinearDw { dy, x, m, rows, cols, dw, add } => {
                let (dy, x, dw) = (floats(dy, m * rows)?, floats(x, m * cols)?, floats_mut(dw, rows * cols)?);
                vjp::linear_dw(team, dy, x, m, rows, cols, dw, add, scratch.as_mut_slice())
            }
            Op::BiasVjp { dy, m, rows, db, add } => {
                vjp::bias_vjp(team, floats(dy, m * rows)?, m, rows, floats_mut(db, rows)?, add)
            }
            Op::RowNorms { w, low, y } => {
                let low = match low {
                    Some((a, b, scale)) => Some(vjp::Low { a: mat(a)?, b: mat(b)?, scale }),
                    None => None,
                };
                vjp::row_norms(team, mat(w)?, low, floats_mut(y, w.rows)?, scratch.as_mut_slice())
            }
            Op::ScaleColumns { x, m, cols, by, over, bias, y, add } => {
                let bias = bias.map(|b| floats(b, cols)).transpose()?;
                let factors = (floats(by, cols)?, floats(over, cols)?);
                vjp::scale_columns(team, floats(x, m * cols)?, m, factors, bias, floats_mut(y, m * cols)?, add)
            }
            Op::ColumnDot { x, y, m, cols, over, to, add } => {
                let (x, y, over) = (floats(x, m * cols)?, floats(y, m * cols)?, floats(over, cols)?);
                vjp::column_dot(team, x, y, m, over, floats_mut(to, cols)?, add)
            }
            Op::Orthonormalize { y, rows, cols } => {
                orthonormalize(team, floats_mut(y, rows * cols)?, rows, cols, scratch.as_mut_slice())
            }
            Op::LeadingVectors { z, rows, cols, rank, vectors } => {
                let (z, vectors) = (floats(z, rows * cols)?, floats_mut(vectors, rank * rows)?);
                let _held = self.ledger.reserve(DECOMPOSITION, decomposition_bytes(rows) as u64)?;
                scoped(Scope::Guest, || leading_vectors(team, z, rows, cols, rank, vectors))
            }
            op => Err(op.stray()),
        }
    }

    fn layers(&self, op: Op<'_>) -> Result<()> {
        let (team, mut scratch) = (&self.team, self.scratch.borrow_mut());
        let scratch = scratch.as_mut_slice();
        match op {
            Op::RmsNorm { x, w, m, cols, eps, y } => {
                rms_norm(team, floats(x, m * cols)?, floats(w, cols)?, eps, floats_mut(y, m * cols)?)
            }
            Op::RmsNormVjp { dy, x, w, m, cols, eps, dx, dw } => {
                let dw = dw.map(|(d, add)| floats_mut(d, cols).map(|d| (d, add))).transpose()?;
                let (dy, x, w) = (floats(dy, m * cols)?, floats(x, m * cols)?, floats(w, cols)?);
                vjp::rms_norm_vjp(team, dy, x, w, m, eps, floats_mut(dx, m * cols)?, dw, scratch)
            }
            Op::Rope { x, m, heads, dim, table } => {
                let (cos, sin) = (floats(table.cos.all(), table.cos.len())?, floats(table.sin.all(), table.sin.len())?);
                let angles = Angles { cos, sin, half: table.half };
                let (x, positions) = (floats_mut(x, m * heads * dim)?, ids(table.positions.all(), m)?);
                if table.inverse {
                    vjp::rope_back(team, x, dim, table.pairs, angles, positions)
                } else {
                    rope(team, x, dim, table.pairs, angles, positions)
                }
            }
            Op::Attention { q, k, v, segments, of, o, log_sum_exp } => {
                let (m, wide, narrow) = sides(of);
                let (q, k, v) = (floats(q, m * wide)?, floats(k, m * narrow)?, floats(v, m * narrow)?);
                let (o, log_sum_exp) = (floats_mut(o, m * wide)?, floats_mut(log_sum_exp, m * of.heads)?);
                vjp::attention(team, q, k, v, ids(segments, m)?, of, o, log_sum_exp, scratch)
            }
            Op::AttentionVjp { q, k, v, o, log_sum_exp, d_o, segments, of, dq, dk, dv } => {
                let (m, wide, narrow) = sides(of);
                let (q, k, v) = (floats(q, m * wide)?, floats(k, m * narrow)?, floats(v, m * narrow)?);
                let (o, d_o, sums) = (floats(o, m * wide)?, floats(d_o, m * wide)?, floats(log_sum_exp, m * of.heads)?);
                let (dk, dv) = (floats_mut(dk, m * narrow)?, floats_mut(dv, m * narrow)?);
                let (dq, segments) = (floats_mut(dq, m * wide)?, ids(segments, m)?);
                vjp::attention_vjp(team, q, k, v, o, sums, d_o, segments, of, dq, dk, dv, scratch)
            }
            Op::SwiGlu { g, u, len, p } => vjp::swiglu_to(team, floats(g, len)?, floats(u, len)?, floats_mut(p, len)?),
            Op::SwiGluVjp { dp, g, u, len } => {
                vjp::swiglu_vjp(team, floats(dp, len)?, floats_mut(g, len)?, floats_mut(u, len)?)
            }
            Op::GeGlu { g, u, len, p } => vjp::geglu_to(team, floats(g, len)?, floats(u, len)?, floats_mut(p, len)?),
            Op::GeGluVjp { dp, g, u, len } => {
                vjp::geglu_vjp(team, floats(dp, len)?, floats_mut(g, len)?, floats_mut(u, len)?)
            }
            Op::Dropout { x, y, len, mask, add } => vjp::dropout(team, floats(x, len)?, mask, floats_mut(y, len)?, add),
            op => Err(op.stray()),
        }
    }

    fn heads(&self, op: Op<'_>) -> Result<()> {
        let team = &self.team;
        match op {
            Op::LogSumExp { a, m, n, columns, targets, log_sum_exp, picked, most } => {
                let (a, targets, columns) = (floats(a, m * n)?, ids(targets, m)?, entries(columns, n)?);
                let most = most.map(|most| floats_mut(most, m)).transpose()?;
                let (sums, picked) = (floats_mut(log_sum_exp, m)?, floats_mut(picked, m)?);
                vjp::log_sum_exp(team, a, n, columns, targets, sums, picked, most)
            }
            Op::Order { x, n, ids } => {
                vjp::order(floats(x, n)?, write(ids, n, "ids")?);
                Ok(())
            }
            Op::Argmax { a, n, first, best } => vjp::argmax(team, floats(a, best.len() * n)?, n, first, best),
            Op::CrossEntropyVjp { a, m, n, columns, targets, log_sum_exp, scale, eps, matters } => {
                let (a, targets, sums) = (floats_mut(a, m * n)?, ids(targets, m)?, floats(log_sum_exp, m)?);
                *matters = vjp::cross_entropy_vjp(team, a, n, entries(columns, n)?, targets, sums, scale, eps)?;
                Ok(())
            }
            Op::Elementwise { rule, p, len, g, state, numbers, scale, clamp, round } => {
                let g = match g {
                    Gradient::Held(g) if g.buf.ty() == BlockType::Bf16 => Gradients::Halves(halves(g, len)?),
                    Gradient::Held(g) => Gradients::Held(floats(g, len)?),
                    Gradient::Normal { seed, stream } => Gradients::Normal(Philox::new(seed).stream(stream)),
                };
                let mut slots: [Moments<'_>; MOST_SLOTS] = std::array::from_fn(|_| Moments::F32(&mut []));
                for (slot, buf) in slots.iter_mut().zip(state.iter_mut()) {
                    *slot = moments(buf, len)?;
                }
                let slots = &mut slots[..rule.slots.len().min(MOST_SLOTS)];
                vjp::elementwise(team, rule, stored(p, len, round)?, g, slots, numbers, (scale, clamp))
            }
            op => Err(op.stray()),
        }
    }

    fn nets(&self, op: Op<'_>) -> Result<()> {
        let team = &self.team;
        match op {
            Op::BatchedMatMul { a, b, of, c, add } => {
                let (a, b) = (floats(a, of.batch * of.m * of.k)?, floats(b, of.batch * of.k * of.n)?);
                nets::batched_product(team, a, b, of, floats_mut(c, of.batch * of.m * of.n)?, add)
            }
            Op::Reduce { x, rows, cols, how, y } => {
                nets::reduce(team, floats(x, rows * cols)?, rows, cols, how, floats_mut(y, rows)?)
            }
            Op::Im2col { x, of, y } => {
                nets::im2col(team, floats(x, of.n * of.image())?, of, floats_mut(y, of.outputs() * of.patch())?)
            }
            Op::Col2im { dy, of, dx } => {
                nets::col2im(team, floats(dy, of.outputs() * of.patch())?, of, floats_mut(dx, of.n * of.image())?)
            }
            op => Err(op.stray()),
        }
    }
}
