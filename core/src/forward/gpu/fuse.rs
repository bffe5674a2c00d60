//! Steps of a layer as a GPU launches them: what stands before and after a product goes into it. Known without a GPU, so that a plan can
//! count its launches.

use std::ops::Range;

use crate::blocks::BlockType;
use crate::forward::step::{self, Batch, Slot, Step};
use crate::ops::cpu::Compute;
use crate::ops::gpu::{FEW, PART, vector_heads, whole_pieces};
use crate::shape::{Act, Kind, LayerShape, ModelShape, Role, TensorShape};

/// One or more steps of a layer that are carried out together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fused {
    /// Linears of the same rows, with the norm before them, the gate between them, or their result added to the stream.
    Linears {
        /// Weight of the norm before.
        norm: Option<Role>,
        /// What they read, or what the norm does.
        from: Slot,
        /// Each and where it goes.
        to: &'static [(Role, Slot)],
        /// Gates the first by the second.
        gate: Option<Act>,
        /// Adds to the stream.
        add: bool,
    },
    /// Norms of queries and keys where there are any, rotation, cache, attention.
    Attend {
        /// Queries have a norm of their own.
        q_norm: bool,
        /// Keys have.
        k_norm: bool,
    },
    /// Stream += factor · norm(out).
    NormAdd(Role),
    /// A step that stands alone.
    Alone(Step),
}

/// The steps of a layer in groups, each with the steps it is of.
pub fn fuse(of: &LayerShape) -> Vec<(Fused, Vec<Step>)> {
    let steps: Vec<Step> = step::layer(of).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < steps.len() {
        let (fused, n) = first(of, &steps[at..]);
        let range: Range<usize> = at..at + n;
        out.push((fused, steps[range].to_vec()));
        at += n;
    }
    out
}

/// What the first of `steps` of layer `of` make together, and how many of them.
fn first(of: &LayerShape, steps: &[Step]) -> (Fused, usize) {
    // Some norms go over a whole row, not over each head of it.
    let of_heads = |role: &Role| of.tensors.get(*role).is_some_and(|t| t.rows * t.cols == of.attention.dim);
    let (norm, rest) = match steps {
        [Step::Norm { role, from: Slot::Stream, to: Slot::Normed }, rest @ ..] => (Some(*role), rest),
        rest => (None, rest),
    };
    let before = usize::from(norm.is_some());
    match rest {
        [Step::Linears { from, to }, rest @ ..] => {
            let from = if norm.is_some() { Slot::Stream } else { *from };
            let linears = |gate, add| Fused::Linears { norm, from, to, gate, add };
            match rest {
                [Step::Gate(act @ (Act::Silu | Act::GeluTanh)), ..] if to.len() == 2 => {
                    (linears(Some(*act), false), before + 2)
                }
                [Step::Add, ..] if to.len() == 1 => (linears(None, true), before + 2),
                _ => (linears(None, false), before + 1),
            }
        }
        _ if norm.is_some() => (Fused::Alone(steps[0]), 1),
        [Step::Norm { role, from: Slot::Out, to: Slot::Out }, Step::Add, ..] => (Fused::NormAdd(*role), 2),
        [Step::Norm { role: q @ Role::QNorm, .. }, Step::Norm { role: k @ Role::KNorm, .. }, Step::KvAttend, ..]
            if of_heads(q) && of_heads(k) =>
        {
            (Fused::Attend { q_norm: true, k_norm: true }, 3)
        }
        [Step::Norm { role: role @ (Role::QNorm | Role::KNorm), .. }, Step::KvAttend, ..] if of_heads(role) => {
            (Fused::Attend { q_norm: *role == Role::QNorm, k_norm: *role == Role::KNorm }, 2)
        }
        [Step::KvAttend, ..] => (Fused::Attend { q_norm: false, k_norm: false }, 1),
        _ => (Fused::Alone(steps[0]), 1),
    }
}

/// How the rows of a batch are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// One row of each sequence: the step that is captured.
    pub single: bool,
    /// Few rows: products bound by the bytes of weights.
    pub few: bool,
    /// What `run.compute` says.
    pub compute: Compute,
    /// There is an adapter beside the weights.
    pub adapted: bool,
}

impl Way {
    /// Of a batch; a single row of one sequence is a step however it comes.
    pub fn new(shape: &ModelShape, compute: Compute, batch: Batch) -> Self {
        let single = batch.rows == batch.sequences;
        Self { single, few: single || batch.rows <= FEW, compute, adapted: shape.adapter.is_some() }
    }

    /// Whether norms, gates and sums go into the products.
    pub fn fused(self) -> bool {
        self.few && !self.adapted
    }

    /// The type in which rows of layer `of` meet the weight `t`, and in which that is multiplied.
    pub fn rows(self, of: &LayerShape, t: &TensorShape) -> BlockType {
        if self.few || self.adapted || !self.flash(of) {
            return BlockType::F32;
        }
        if t.ty.block() == Some(BlockType::Bf16) { BlockType::Bf16 } else { BlockType::F16 }
    }

    /// That of the linears `to`, which read the same rows.
    pub fn rows_of(self, of: &LayerShape, to: &'static [(Role, Slot)]) -> BlockType {
        to.first().and_then(|(role, _)| of.tensors.get(*role)).map_or(BlockType::F32, |t| self.rows(of, t))
    }

    /// Whether attention over `of` runs on tensor cores.
    pub fn flash(self, of: &LayerShape) -> bool {
        !self.single && self.compute == Compute::Half && vector_heads(of.attention.dim)
    }

    /// Whether a step's attention is one kernel.
    pub fn step(self, of: &LayerShape) -> bool {
        self.single && vector_heads(of.attention.dim)
    }
}

/// Largest expanded part of a matrix, in bytes.
pub const EXPANDED: usize = 64 << 20;

/// Rows of a matrix `(rows, cols)` that are expanded at a time, as `ty`.
pub fn panel(rows: usize, cols: usize, ty: BlockType) -> usize {
    let row = cols * ty.block_bytes();
    // Products like sides in multiples of 64.
    (EXPANDED / row.max(1) / 64 * 64).max(64).min(rows.max(1))
}

/// Whether the kernels of few rows take a matrix.
pub fn whole(t: &TensorShape) -> bool {
    t.ty.block().is_some_and(|ty| whole_pieces(ty, t.cols))
}

/// Kernels for the product of `rows` rows, as `ty`, with `t`.
fn product_launches(t: &TensorShape, way: Way, ty: BlockType, rows: usize) -> usize {
    if !whole(t) {
        return 1;
    }
    if way.few {
        return rows.div_ceil(FEW);
    }
    let panels = t.rows.div_ceil(panel(t.rows, t.cols, ty));
    if t.ty.block() == Some(ty) { 1 } else { 2 * panels }
}

/// Matrices of linears in runs of one type, which share a launch.
pub fn runs<'a>(of: &'a LayerShape, to: &'static [(Role, Slot)]) -> Vec<Vec<(Role, Slot, &'a TensorShape)>> {
    let mut out: Vec<Vec<(Role, Slot, &TensorShape)>> = Vec::new();
    for (role, slot) in to {
        let Some(t) = of.tensors.get(*role) else { continue };
        match out.last_mut() {
            Some(run) if run[0].2.ty == t.ty && run[0].2.cols == t.cols && run.len() < 3 => run.push((*role, *slot, t)),
            _ => out.push(vec![(*role, *slot, t)]),
        }
    }
    out
}

/// Whether fused linears go through the kernels of few rows: all of their rows are whole pieces.
pub fn takes(of: &LayerShape, to: &'static [(Role, Slot)]) -> bool {
    to.iter().all(|(role, _)| of.tensors.get(*role).is_some_and(whole))
}

/// Kernels that `fused` of layer `of` launches for a batch.
pub fn launches(shape: &ModelShape, l: usize, fused: Fused, way: Way, batch: Batch) -> usize {
    let of = &shape.layers[l];
    match fused {
        Fused::Linears { norm, from, to, gate, add } => {
            let groups = runs(of, to);
            if way.fused() && takes(of, to) {
                let pair = gate.is_some() && groups.len() == 1;
                let each = batch.rows.div_ceil(FEW);
                return if pair { each } else { groups.len() * each + usize::from(gate.is_some()) };
            }
            let low = shape.adapter.as_ref().and_then(|a| a.layers.get(l));
            let ty = way.rows_of(of, to);
            let cast = norm.is_some() || (from == Slot::Stream && ty != BlockType::F32);
            let mut n = usize::from(cast) + usize::from(gate.is_some());
            let mut beside = way.adapted;
            for (role, _) in to {
                let Some(t) = of.tensors.get(*role) else { continue };
                n += product_launches(t, way, ty, batch.rows);
                let bias = role.bias().is_some_and(|bias| of.tensors.has(bias));
                let adapted = low.and_then(|low| low.get(role)).map_or(0, |low| low.kind.0.parts().len());
                n += usize::from(bias) + adapted;
                beside |= bias || adapted > 0;
            }
            n + usize::from(add && !folded(to, of, way, beside))
        }
        Fused::Attend { q_norm, k_norm } => {
            if way.step(of) {
                return 1;
            }
            attend_launches(of, way, batch) + usize::from(q_norm) + usize::from(k_norm)
        }
        Fused::NormAdd(_) | Fused::Alone(_) => 1,
    }
}

/// Whether a product of many rows adds to the stream by itself: nothing stands beside it.
pub fn folded(to: &'static [(Role, Slot)], of: &LayerShape, way: Way, beside: bool) -> bool {
    !beside && !way.few && takes(of, to)
}

/// Kernels of rotations, appends and attention of spans of rows.
fn attend_launches(of: &LayerShape, way: Way, batch: Batch) -> usize {
    let a = &of.attention;
    let rows = batch.rows / batch.sequences.max(1);
    let turned = 2 * usize::from(a.rope.is_some());
    let ring = a.window.is_some_and(|w| batch.cached > w as f64);
    if way.flash(of) {
        // Around a ring: what it holds out of it, and what stays back into it.
        let around = if !ring { 0 } else { 1 + usize::from(batch.cached > rows as f64) };
        return (turned + 3 + around) * batch.sequences;
    }
    let seen = a.window.map_or(batch.cached, |w| batch.cached.min(w as f64));
    let singles = if ring { rows } else { 1 };
    let parts = (rows == 1 || singles > 1) && seen > PART as f64;
    (turned + (3 + usize::from(parts)) * singles) * batch.sequences
}

/// Kernels of a whole pass.
pub fn pass_launches(shape: &ModelShape, compute: Compute, batch: Batch, with_head: bool) -> usize {
    let way = Way::new(shape, compute, batch);
    let mut n = begin_launches(shape, way, batch);
    for (l, of) in shape.layers.iter().enumerate() {
        n += fuse(of).into_iter().map(|(fused, _)| launches(shape, l, fused, way, batch)).sum::<usize>();
    }
    n + if with_head { end_launches(shape, batch.sequences) } else { 0 }
}

/// Bytes that expanding matrices for a pass writes, and that its products read again.
pub fn expanded_bytes(shape: &ModelShape, compute: Compute, batch: Batch) -> usize {
    let way = Way::new(shape, compute, batch);
    if way.few {
        return 0;
    }
    let each = |of: &LayerShape| -> usize {
        let linears = of.tensors.roles().filter(|(role, _)| role.kind() == Kind::Matrix);
        let expanded = linears.map(|(_, t)| (t, way.rows(of, t))).filter(|(t, ty)| t.ty.block() != Some(*ty));
        expanded.map(|(t, ty)| 2 * t.rows * t.cols * ty.block_bytes()).sum()
    };
    shape.layers.iter().map(each).sum()
}

/// Of the embedding and the angles.
pub fn begin_launches(shape: &ModelShape, way: Way, batch: Batch) -> usize {
    let turns = if way.single { 1 } else { batch.sequences };
    1 + turns * shape.ropes.len()
}

/// Of the output norm and the head, over the last row of each sequence.
pub fn end_launches(shape: &ModelShape, sequences: usize) -> usize {
    // The norm, the factor and the cap are in the product.
    let _ = shape;
    sequences.div_ceil(FEW)
}
