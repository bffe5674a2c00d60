//! The operations of training on a GPU.

use crate::blocks::BlockType;
use crate::device::cost::sort_passes;
use crate::device::gpu::device::{Gpu, ids, typed, typed_mut, view, view_mut, whole};
use crate::device::gpu::tiling::{EMBED_ROWS, NORMS, norm_blocks, norm_launches};
use crate::device::gpu::{DECOMPOSITION, load_scratch};
use crate::device::op::Family;
use crate::device::{
    Best, Buf, Causal, Columns, Cost, Device, Dst, Gradient, Lowering, Meter, Op, Round, Src, buffer_bytes,
};
use crate::error::{Error, Result};
use crate::ledger::Tag;
use crate::ledger::alloc::{Scope, scoped};
use crate::model::Source;
use crate::ops::cpu::RopeLayout;
use crate::ops::cpu::basis::{decomposition_bytes, leading_vectors, orthonormalize};
use crate::ops::cuda::{Arg, Operand, TrainKernels, View};
use crate::ops::descriptors::{Batched, Reduction, Window};
use crate::ops::rule::{MOST_NUMBERS, MOST_SLOTS};
use crate::shape::TensorShape;
use crate::weights::load;

/// `Round` of train.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Rounding {
    mode: i32,
    pad: i32,
    key: [u32; 2],
    stream: u64,
    extra: u64,
}

/// `Drop` of train.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Dropped {
    key: [u32; 2],
    stream: u64,
    threshold: u32,
    scale: f32,
    add: i32,
    pad: i32,
}

/// `Scalars` of train.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Scalars {
    scale: f32,
    clamp: f32,
    numbers: [f32; MOST_NUMBERS],
}

/// `Spans` of train.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Spans {
    /// The first block of each span, and the number of all; the same from the last span's end on.
    first: [u32; NORMS + 1],
    pad: u32,
    at: [u64; NORMS],
    len: [u64; NORMS],
}

/// `Normal` of train.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Normal {
    key: [u32; 2],
    stream: u64,
}

fn rounding(p: &Buf, len: usize, round: &Round<'_>) -> Result<Rounding> {
    let none = Rounding { mode: 0, pad: 0, key: [0; 2], stream: 0, extra: 0 };
    let extra = |buf: &Buf, ty: BlockType| typed(buf.all(), len, ty).map(View::address);
    Ok(match round {
        _ if p.ty() == BlockType::F32 && !matches!(round, Round::Master(_)) => none,
        Round::Nearest => none,
        Round::Stochastic { seed, stream } => {
            Rounding { mode: 1, key: [*seed as u32, (*seed >> 32) as u32], stream: *stream, ..none }
        }
        Round::Kahan(buf) => Rounding { mode: 2, extra: extra(buf, p.ty())?, ..none },
        Round::Master(buf) => Rounding { mode: 3, extra: extra(buf, BlockType::F32)?, ..none },
    })
}

/// Whether vector loads may take the extra buffer of `round`.
fn even(round: Rounding) -> bool {
    round.extra.is_multiple_of(16)
}

/// A launch of attention: what all its kernels share.
fn attention_args<'a>(segments: View<'a>, of: Causal) -> Vec<Arg<'a>> {
    let m = of.sequences * of.length;
    vec![segments.into(), of.length.into(), m.into(), of.heads.into(), of.kv_heads.into(), of.scale.into()]
}

/// The tensor-core kernels of a size of head: forward, by queries, by keys.
fn cores(ty: BlockType, dim: usize) -> Option<[&'static str; 3]> {
    match (ty, dim) {
        (BlockType::Bf16, 32) => Some(["attend_32", "attend_dq_32", "attend_dkv_32"]),
        (BlockType::Bf16, 64) => Some(["attend_64", "attend_dq_64", "attend_dkv_64"]),
        (BlockType::Bf16, 96) => Some(["attend_96", "attend_dq_96", "attend_dkv_96"]),
        (BlockType::Bf16, 128) => Some(["attend_128", "attend_dq_128", "attend_dkv_128"]),
        _ => None,
    }
}

fn check_heads(of: Causal) -> Result<()> {
    if of.kv_heads > 0 && of.heads.is_multiple_of(of.kv_heads) && of.dim <= 256 && of.dim > 0 && of.length > 0 {
        return Ok(());
    }
    Err(Error::Internal(format!("attention of {of:?}")))
}

/// The first entry of a block's columns, or the list of them.
fn entries(columns: Columns<'_>, n: usize) -> Result<[Arg<'_>; 2]> {
    Ok(match columns {
        Columns::From(first) => [first.into(), Arg::Null],
        Columns::Listed(list) => [Arg::Int(0), ids(list, n)?.into()],
    })
}

fn split(all: &mut [f32], at: usize) -> Result<(&mut [f32], &mut [f32])> {
    all.split_at_mut_checked(at).ok_or_else(|| Error::Internal("a basis larger than its staging".into()))
}

/// Rows of norms and tables are read eight elements at a time.
fn eights(what: &str, cols: usize, views: &[View<'_>]) -> Result<()> {
    if cols.is_multiple_of(8) && views.iter().all(|v| v.aligned()) {
        return Ok(());
    }
    let reason = format!("{what} of {cols} columns: training on a GPU needs widths that are multiples of 8");
    Err(Error::refused("machine.device = cuda", reason))
}

impl Device for Gpu {
    fn activations(&self) -> BlockType {
        self.tiling.ty
    }

    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut rows = self.device().counts()?;
        rows.extend(self.outside());
        Ok(rows)
    }

    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        Ok(Buf::new(ty, len, self.device().buffer(&self.ledger, tag, buffer_bytes(ty, len))?))
    }

    fn upload(&self, from: &[u8], to: Dst<'_>) -> Result<()> {
        let (ty, at) = (to.buf.ty(), to.at);
        let start = ty.row_bytes(at).ok_or_else(|| Error::Internal(format!("element {at} of {ty} begins no block")))?;
        let all = whole(to.buf)?;
        self.device().upload(from, all.part(start, from.len())?)
    }

    fn download(&self, from: Src<'_>, to: &mut [u8]) -> Result<()> {
        let (ty, at) = (from.buf.ty(), from.at);
        let start = ty.row_bytes(at).ok_or_else(|| Error::Internal(format!("element {at} of {ty} begins no block")))?;
        self.device().download(whole(from.buf)?.part(start, to.len())?, to)
    }

    fn load(&self, source: &Source, from: &TensorShape, to: &TensorShape, into: &mut Buf) -> Result<()> {
        let [(upload, piece), (convert, bytes)] = load_scratch(from, to, self.load);
        let mut staging = self.ledger.buffer(upload, piece)?;
        let mut scratch = if bytes > 0 { Some(self.ledger.buffer(convert, bytes)?) } else { None };
        let (row, all) = (to.row_bytes(), whole(into)?);
        let rows = (piece / row.max(1)).max(1);
        for first in (0..to.rows).step_by(rows) {
            let n = rows.min(to.rows - first);
            let part = &mut staging.as_mut_slice::<u8>()[..n * row];
            load::rows(source, from, to, first, part, scratch.as_mut(), &self.team)?;
            self.device().upload(part, all.part(first * row, n * row)?)?;
        }
        self.ledger.moved("disk read", from.bytes());
        self.ledger.moved("host to device", to.bytes());
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.device().wait()?;
        if self.team.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn lowering(&self) -> Lowering {
        Lowering::Tiled(self.tiling)
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

impl Gpu {
    fn moves(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Copy { x, y, len } => {
                self.meter.launch();
                self.device().copy(view(x, len)?, typed_mut(&y, len, x.buf.ty())?)
            }
            Op::Cast { x, y, len } => self.blend(&y, x, len, 0.0, 1.0),
            Op::Fill { y, len, value } => {
                self.each("fill", &[y.buf.ty()], len, &[view_mut(&y, len)?], &[value.into()], &[])
            }
            Op::Axpy { a, x, y, len } => self.blend(&y, x, len, 1.0, a),
            Op::Scale { y, len, a } => {
                let (ty, y) = (y.buf.ty(), view_mut(&y, len)?);
                self.each("blend", &[ty, ty], len, &[y, y], &[a.into(), Arg::Float(0.0)], &[])
            }
            Op::SquaredNorms { x, spans, to } => self.norms(x, spans, &to),
            Op::Gather { x, ids: rows, n, cols, y } => {
                let from = view(x, x.buf.len() - x.at)?;
                let to = typed_mut(&y, n * cols, x.buf.ty())?;
                let args = [from.into(), ids(rows, n)?.into(), to.into(), cols.into(), false.into()];
                self.launch("pick", &[x.buf.ty()], (n, 1), 128, &args)
            }
            Op::Scatter { x, ids: rows, n, cols, y } => {
                let to = typed_mut(&y, y.buf.len() - y.at, x.buf.ty())?;
                let args = [view(x, n * cols)?.into(), ids(rows, n)?.into(), to.into(), cols.into(), true.into()];
                self.launch("pick", &[x.buf.ty()], (n, 1), 128, &args)
            }
            op => Err(op.stray()),
        }
    }

    /// [`Op::SquaredNorms`]: partial sums of many spans in one launch, and what they add up to in another.
    fn norms(&self, x: Src<'_>, spans: &[(usize, usize)], to: &Dst<'_>) -> Result<()> {
        let mut done = 0;
        for some in norm_launches(spans) {
            let mut table = Spans { first: [0; NORMS + 1], pad: 0, at: [0; NORMS], len: [0; NORMS] };
            let mut end = 0;
            for (i, (at, len)) in some.iter().enumerate() {
                (table.at[i], table.len[i]) = (*at as u64, *len as u64);
                table.first[i + 1] = table.first[i] + norm_blocks(*len) as u32;
                end = end.max(at + len);
            }
            let blocks = table.first[some.len()] as usize;
            table.first[some.len()..].fill(blocks as u32);
            let partial = self.scratch.part(0, 8 * blocks)?;
            let table = Arg::Struct(bytemuck::bytes_of(&table));
            let args = [view(x, end)?.into(), partial.into(), table];
            self.launch("squares", &[x.buf.ty()], (blocks, 1), 256, &args)?;
            let to = typed(Src { buf: to.buf, at: to.at + done }, some.len(), BlockType::F32)?;
            self.launch("total", &[], (some.len(), 1), 256, &[partial.into(), to.into(), table])?;
            done += some.len();
        }
        Ok(())
    }

    /// `y ← a · y + b · x`, whatever the two are stored as.
    fn blend(&self, y: &Dst<'_>, x: Src<'_>, len: usize, a: f32, b: f32) -> Result<()> {
        let types = [y.buf.ty(), x.buf.ty()];
        self.each("blend", &types, len, &[view_mut(y, len)?, view(x, len)?], &[a.into(), b.into()], &[])
    }

    fn products(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Embed { table, ids: rows, m, y } => {
                let (cols, ty) = (table.cols, y.buf.ty());
                let out = view_mut(&y, m * cols)?;
                eights("an embedding", cols, &[out])?;
                let w = view(table.buf.at(table.at), table.rows * cols)?;
                let ids = ids(rows, m)?;
                for first in (0..m).step_by(EMBED_ROWS) {
                    let n = (m - first).min(EMBED_ROWS);
                    let out = out.part(first * cols * ty.block_bytes(), n * cols * ty.block_bytes())?;
                    let args = [w.into(), ids.part(4 * first, 4 * n)?.into(), out.into(), cols.into()];
                    self.launch("embed", &[table.buf.ty(), ty], (cols.div_ceil(1024), n), 128, &args)?;
                }
                Ok(())
            }
            Op::EmbedVjp { dy, ids: rows, m, rows: n, cols, d } => {
                let (from, to) = (view(dy, m * cols)?, view_mut(&d, n * cols)?);
                eights("an embedding's gradient", cols, &[from, to])?;
                let args = [from.into(), ids(rows, m)?.into(), to.into(), m.into(), cols.into()];
                self.launch("embed_back", &[dy.buf.ty(), d.buf.ty()], (m, 1), 128, &args)
            }
            Op::Linear { x, m, w, bias, mut y, add } => {
                self.forward(x, m, w, y.again(), add)?;
                let Some(bias) = bias else { return Ok(()) };
                let args = [view_mut(&y, m * w.rows)?.into(), view(bias, w.rows)?.into(), w.rows.into()];
                self.launch("bias", &[y.buf.ty(), bias.buf.ty()], (w.rows.div_ceil(256), m), 256, &args)
            }
            Op::LinearDx { dy, m, w, dx, add } => self.backward(dy, m, w, dx, add),
            Op::LinearDw { dy, x, m, rows, cols, dw, add } => self.outer(dy, x, m, (rows, cols), dw, add),
            Op::BiasVjp { dy, m, rows, db, add } => self.columns(None, dy, (m, rows), db, add),
            Op::Orthonormalize { .. } | Op::LeadingVectors { .. } => self.basis(op),
            op => Err(op.stray()),
        }
    }

    /// On the host, through its staging: a few thousand numbers, once in hundreds of steps.
    fn basis(&self, op: Op<'_>) -> Result<()> {
        let host = self.host.as_ref().ok_or_else(|| Error::Internal("a basis that no scratch was sized for".into()))?;
        let mut host = host.borrow_mut();
        match op {
            Op::Orthonormalize { mut y, rows, cols } => {
                let (room, rest) = split(host.as_mut_slice::<f32>(), rows * cols)?;
                self.download(y.buf.at(y.at), bytemuck::cast_slice_mut(room))?;
                orthonormalize(&self.team, room, rows, cols, rest)?;
                self.upload(bytemuck::cast_slice(room), y.again())
            }
            Op::LeadingVectors { z, rows, cols, rank, vectors } => {
                let (room, rest) = split(host.as_mut_slice::<f32>(), rows * cols)?;
                let (found, _) = split(rest, rank * rows)?;
                self.download(z, bytemuck::cast_slice_mut(room))?;
                let _held = self.ledger.reserve(DECOMPOSITION, decomposition_bytes(rows) as u64)?;
                scoped(Scope::Guest, || leading_vectors(&self.team, room, rows, cols, rank, found))?;
                self.upload(bytemuck::cast_slice(found), vectors)
            }
            op => Err(op.stray()),
        }
    }

    fn layers(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::RmsNorm { x, w, m, cols, eps, y } => {
                let ty = x.buf.ty();
                let (from, weight, to) = (view(x, m * cols)?, view(w, cols)?, typed_mut(&y, m * cols, ty)?);
                eights("a norm", cols, &[from, weight, to])?;
                let args = [from.into(), weight.into(), to.into(), cols.into(), eps.into()];
                self.launch("norm", &[ty, w.buf.ty()], (m, 1), 128, &args)
            }
            Op::RmsNormVjp { dy, x, w, m, cols, eps, dx, dw } => {
                let ty = x.buf.ty();
                let (from, weight) = (view(x, m * cols)?, view(w, cols)?);
                let (grad, to) = (typed(dy, m * cols, ty)?, typed_mut(&dx, m * cols, ty)?);
                eights("a norm", cols, &[from, weight, grad, to])?;
                let rstd = self.scratch.part(0, 4 * m)?;
                let left = if dw.is_some() { rstd.into() } else { Arg::Null };
                let args = [from.into(), weight.into(), grad.into(), to.into(), left, cols.into(), eps.into()];
                self.launch("norm_back", &[ty, w.buf.ty()], (m, 1), 128, &args)?;
                let Some((dw, add)) = dw else { return Ok(()) };
                self.columns(Some((from, rstd)), dy, (m, cols), dw, add)
            }
            Op::Rope { x, m, heads, dim, table } => {
                let args = [
                    view_mut(&x, m * heads * dim)?.into(),
                    typed(table.cos.all(), table.cos.len(), BlockType::F32)?.into(),
                    typed(table.sin.all(), table.sin.len(), BlockType::F32)?.into(),
                    ids(table.positions.all(), m)?.into(),
                    heads.into(),
                    dim.into(),
                    table.half.into(),
                    (table.pairs == RopeLayout::Interleaved).into(),
                    Arg::Float(if table.inverse { -1.0 } else { 1.0 }),
                ];
                self.launch("turn", &[x.buf.ty()], (m, 1), 256, &args)
            }
            Op::SwiGlu { g, u, len, p } => {
                let ty = g.buf.ty();
                self.each("gate", &[ty], len, &[view(g, len)?, typed(u, len, ty)?, typed_mut(&p, len, ty)?], &[], &[])
            }
            Op::SwiGluVjp { dp, g, u, len } => {
                let ty = dp.buf.ty();
                let views = [view(dp, len)?, typed_mut(&g, len, ty)?, typed_mut(&u, len, ty)?];
                self.each("gate_back", &[ty], len, &views, &[], &[])
            }
            // A plan says so before: [`super::check`].
            Op::GeGlu { .. } | Op::GeGluVjp { .. } => {
                Err(Error::refused(op.name(), "a GPU has no kernel for it so far"))
            }
            Op::Dropout { x, y, len, mask, add } => {
                let ty = x.buf.ty();
                let dropped = Dropped {
                    key: [mask.seed as u32, (mask.seed >> 32) as u32],
                    stream: mask.stream,
                    threshold: mask.threshold(),
                    scale: mask.scale(),
                    add: add.into(),
                    pad: 0,
                };
                let after = [Arg::Struct(bytemuck::bytes_of(&dropped))];
                self.each("dropout", &[ty], len, &[view(x, len)?, typed_mut(&y, len, ty)?], &[], &after)
            }
            Op::Attention { .. } => self.attention(op),
            op => self.attention_vjp(op),
        }
    }

    fn attention(&self, op: Op<'_>) -> Result<()> {
        let Op::Attention { q, k, v, segments, of, o, log_sum_exp } = op else { return Err(op.stray()) };
        check_heads(of)?;
        let (m, ty) = (of.sequences * of.length, q.buf.ty());
        let (wide, narrow) = (m * of.heads * of.dim, m * of.kv_heads * of.dim);
        let mut args = vec![
            view(q, wide)?.into(),
            typed(k, narrow, ty)?.into(),
            typed(v, narrow, ty)?.into(),
            typed_mut(&o, wide, ty)?.into(),
            typed_mut(&log_sum_exp, m * of.heads, BlockType::F32)?.into(),
        ];
        args.extend(attention_args(ids(segments, m)?, of));
        if let Some([forward, ..]) = cores(ty, of.dim) {
            return self.launch(forward, &[], (m.div_ceil(64), of.heads), 128, &args);
        }
        args.push(of.dim.into());
        self.launch("attend_plain", &[ty], ((m * of.heads).div_ceil(4), 1), 128, &args)
    }

    fn attention_vjp(&self, op: Op<'_>) -> Result<()> {
        let Op::AttentionVjp { q, k, v, o, log_sum_exp, d_o, segments, of, dq, dk, dv } = op else {
            return Err(op.stray());
        };
        check_heads(of)?;
        let (m, ty) = (of.sequences * of.length, q.buf.ty());
        let (wide, narrow, items) = (m * of.heads * of.dim, m * of.kv_heads * of.dim, m * of.heads);
        let delta = self.scratch.part(0, 4 * items)?;
        let grad = typed(d_o, wide, ty)?;
        let args = [typed(o, wide, ty)?.into(), grad.into(), delta.into(), items.into(), of.dim.into()];
        self.launch("attend_delta", &[ty], (items.div_ceil(4), 1), 128, &args)?;
        let all: Vec<Arg<'_>> = vec![
            view(q, wide)?.into(),
            typed(k, narrow, ty)?.into(),
            typed(v, narrow, ty)?.into(),
            grad.into(),
            typed(log_sum_exp, items, BlockType::F32)?.into(),
            delta.into(),
        ];
        let tail = attention_args(ids(segments, m)?, of);
        let by_queries = [vec![typed_mut(&dq, wide, ty)?.into()], tail.clone()].concat();
        let by_keys = [vec![typed_mut(&dk, narrow, ty)?.into(), typed_mut(&dv, narrow, ty)?.into()], tail].concat();
        if let Some([_, queries, keys]) = cores(ty, of.dim) {
            self.launch(queries, &[], (m.div_ceil(64), of.heads), 128, &[all.clone(), by_queries].concat())?;
            return self.launch(keys, &[], (m.div_ceil(64), of.kv_heads), 128, &[all, by_keys].concat());
        }
        let dim = vec![Arg::from(of.dim)];
        let args = [all.clone(), by_queries, dim.clone()].concat();
        self.launch("attend_plain_dq", &[ty], (items.div_ceil(4), 1), 128, &args)?;
        let args = [all, by_keys, dim].concat();
        self.launch("attend_plain_dkv", &[ty], ((m * of.kv_heads).div_ceil(4), 1), 128, &args)
    }

    fn heads(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::LogSumExp { a, m, n, columns, targets, log_sum_exp, picked, most } => {
                let [first, listed] = entries(columns, n)?;
                let largest = most.as_ref().map(|most| typed_mut(most, m, BlockType::F32)).transpose()?;
                let args = [
                    view(a, m * n)?.into(),
                    ids(targets, m)?.into(),
                    typed_mut(&log_sum_exp, m, BlockType::F32)?.into(),
                    typed_mut(&picked, m, BlockType::F32)?.into(),
                    n.into(),
                    first,
                    listed,
                    largest.map_or(Arg::Null, Arg::View),
                ];
                self.launch("log_sum_exp", &[a.buf.ty()], (m, 1), 512, &args)
            }
            Op::Order { x, n, ids: to } => {
                let (x, to) = (typed(x, n, BlockType::F32)?, typed_mut(&to, n, BlockType::I32)?);
                // No mask: the numbers as they are.
                for mask in std::iter::once(0).chain(sort_passes(n)) {
                    let args = [x.into(), to.into(), n.into(), mask.into()];
                    self.launch("sort_pass", &[], (n.div_ceil(256), 1), 256, &args)?;
                }
                Ok(())
            }
            Op::Argmax { a, n, first, best } => self.argmax(a, n, first, best),
            // Whether it matters would cost a wait.
            Op::CrossEntropyVjp { a, m, n, columns, targets, log_sum_exp, scale, .. } => {
                let [first, listed] = entries(columns, n)?;
                let args = [
                    view_mut(&a, m * n)?.into(),
                    ids(targets, m)?.into(),
                    typed(log_sum_exp, m, BlockType::F32)?.into(),
                    n.into(),
                    first,
                    listed,
                    scale.into(),
                ];
                self.launch("cross_entropy_vjp", &[a.buf.ty()], (n.div_ceil(1024), m), 256, &args)
            }
            Op::Elementwise { .. } => self.update(op),
            op => Err(op.stray()),
        }
    }

    /// By the host, a few dozen kilobytes at a time.
    fn argmax(&self, a: Src<'_>, n: usize, first: usize, best: &mut [Best]) -> Result<()> {
        let mut piece = [0.0f32; 16384];
        for (i, best) in best.iter_mut().enumerate() {
            for at in (0..n).step_by(piece.len()) {
                let here = &mut piece[..16384.min(n - at)];
                self.download(a.buf.at(a.at + i * n + at), bytemuck::cast_slice_mut(here))?;
                best.take(here, first + at);
            }
        }
        Ok(())
    }

    /// One kernel over the parameter: `update` of train.cu, made for the rule and the types.
    fn update(&self, op: Op<'_>) -> Result<()> {
        let Op::Elementwise { rule, p, len, g, state, numbers, scale, clamp, round } = op else {
            return Err(op.stray());
        };
        let kind = TrainKernels::rule(rule.name)?;
        let round = rounding(p.buf, len, &round)?;
        let ty = state.first().map_or(BlockType::F32, Buf::ty);
        let mut views = vec![view_mut(&p, len)?];
        let (grads, noise) = match g {
            Gradient::Held(g) => {
                views.push(view(g, len)?);
                (g.buf.ty(), Normal { key: [0; 2], stream: 0 })
            }
            Gradient::Normal { seed, stream } => {
                (BlockType::F32, Normal { key: [seed as u32, (seed >> 32) as u32], stream })
            }
        };
        let mut args: Vec<Arg<'_>> = views.iter().map(|v| Arg::View(*v)).collect();
        args.resize(2, Arg::Null);
        for slot in state.iter() {
            views.push(typed(slot.all(), len, ty)?);
            args.extend(views.last().map(|v| Arg::View(*v)));
        }
        args.resize(2 + MOST_SLOTS, Arg::Null);
        let mut scalars = Scalars { scale, clamp, numbers: [0.0; MOST_NUMBERS] };
        scalars.numbers.iter_mut().zip(numbers).for_each(|(to, from)| *to = *from);
        let aligned = views.iter().all(|v| v.aligned()) && even(round);
        args.extend([Arg::Wide(len as u64), aligned.into()]);
        args.extend([Arg::Struct(bytemuck::bytes_of(&scalars)), Arg::Struct(bytemuck::bytes_of(&round))]);
        args.push(Arg::Struct(bytemuck::bytes_of(&noise)));
        self.launch(kind, &[p.buf.ty(), grads, ty], (len.div_ceil(2048), 1), 256, &args)
    }

    fn nets(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::BatchedMatMul { a, b, of, c, add } => {
                let Batched { batch, m, n, k, a_turned, b_turned } = of;
                let (ty, out, size) = (c.buf.ty(), view_mut(&c, batch * m * n)?, c.buf.ty().block_bytes());
                let (lda, ldb) = (if a_turned { m } else { k }, if b_turned { k } else { n });
                for i in 0..batch {
                    let a = self.one_of(a.buf.at(a.at + i * m * k), m * k, lda, a_turned)?;
                    let b = self.one_of(b.buf.at(b.at + i * k * n), k * n, ldb, b_turned)?;
                    let view = out.part(i * m * n * size, m * n * size)?;
                    self.multiply((m, n, k), a, b, Operand { view, ty, ld: n, turned: false }, add)?;
                }
                Ok(())
            }
            Op::Reduce { x, rows, cols, how, y } => {
                let kind = match how {
                    Reduction::Sum => 0usize,
                    Reduction::Mean => 1,
                    Reduction::Max => 2,
                };
                let ty = x.buf.ty();
                let args = [view(x, rows * cols)?.into(), typed_mut(&y, rows, ty)?.into(), cols.into(), kind.into()];
                self.launch("reduce", &[ty], (rows, 1), 128, &args)
            }
            Op::Im2col { x, of, y } => {
                let (ty, n) = (x.buf.ty(), of.outputs() * of.patch());
                let sides = [view(x, of.n * of.image())?, typed_mut(&y, n, ty)?];
                self.windows("im2col", ty, sides, of, n)
            }
            Op::Col2im { dy, of, dx } => {
                let (ty, n) = (dy.buf.ty(), of.n * of.image());
                let sides = [view(dy, of.outputs() * of.patch())?, typed_mut(&dx, n, ty)?];
                self.windows("col2im", ty, sides, of, n)
            }
            op => Err(op.stray()),
        }
    }

    /// One matrix of many, which must be stored as products are taken in.
    fn one_of<'a>(&self, x: Src<'a>, len: usize, ld: usize, turned: bool) -> Result<Operand<'a>> {
        let ty = self.tiling.ty;
        Ok(Operand { view: typed(x, len, ty)?, ty, ld, turned })
    }

    /// A kernel of a thread for each of `n` outputs.
    fn windows(&self, kind: &'static str, ty: BlockType, sides: [View<'_>; 2], of: Window, n: usize) -> Result<()> {
        let (high, wide) = of.out();
        let numbers = [of.n, of.channels, of.height, of.width, of.kernel, of.stride, of.pad, high, wide];
        let numbers: Vec<i32> = numbers.into_iter().map(|v| i32::try_from(v).unwrap_or(i32::MAX)).collect();
        let args = [sides[0].into(), sides[1].into(), Arg::Wide(n as u64), Arg::Struct(bytemuck::cast_slice(&numbers))];
        self.launch(kind, &[ty], (n.div_ceil(256), 1), 256, &args)
    }
}
