//! The groups of a layer's steps, each in the kernels that suit the number of rows.

use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::forward::gpu::forward::{GpuForward, Passing, Span};
use crate::forward::gpu::fuse::{self, Fused};
use crate::forward::step::{Slot, Step};
use crate::ops::cuda::{Attend, Matrix, Operand, Output, Purpose, StepAttend, View};
use crate::shape::{Act, LayerShape, Role};

/// One layer of a batch.
#[derive(Clone, Copy)]
struct Layer<'a> {
    forward: &'a GpuForward,
    l: usize,
    of: &'a LayerShape,
    p: Passing<'a>,
}

/// Linears of the same rows, as [`Fused::Linears`] names them.
#[derive(Clone, Copy)]
struct Linears {
    norm: Option<Role>,
    from: Slot,
    to: &'static [(Role, Slot)],
    gate: Option<Act>,
    add: bool,
}

impl GpuForward {
    /// Queues a group of steps of layer `l`.
    pub(super) fn fused(&self, l: usize, fused: Fused, p: Passing<'_>) -> Result<()> {
        let layer = Layer { forward: self, l, of: &self.shape.layers[l], p };
        match fused {
            Fused::Linears { norm, from, to, gate, add } => {
                let linears = Linears { norm, from, to, gate, add };
                if p.way.fused() && fuse::takes(layer.of, to) { layer.few(linears) } else { layer.many(linears) }
            }
            Fused::Attend { q_norm, k_norm } => {
                let norm = |has, role| if has { layer.weight(role).map(Some) } else { Ok(None) };
                let norms = [norm(q_norm, Role::QNorm)?, norm(k_norm, Role::KNorm)?];
                if p.way.step(layer.of) { layer.step(norms) } else { layer.spans(norms) }
            }
            Fused::NormAdd(role) => {
                let (x, y) = (layer.at(Slot::Stream)?, layer.at(Slot::Out)?);
                let (eps, scale) = (self.shape.norm_eps, self.shape.residual_scale);
                self.kernels.norm_add(x, y, layer.weight(role)?, p.m, eps, scale)
            }
            Fused::Alone(step) => layer.alone(step),
        }
    }
}

impl<'a> Layer<'a> {
    fn at(&self, slot: Slot) -> Result<View<'a>> {
        let workspace = self.p.workspace;
        let place = workspace.sizes.places.at(slot, self.of, self.forward.shape.hidden, self.p.m);
        let buffer = if slot == Slot::Stream { &workspace.residual } else { &workspace.layer };
        buffer.part(4 * place.start, 4 * place.len())
    }

    /// Bytes of the tensor of a role.
    fn weight(&self, role: Role) -> Result<View<'a>> {
        self.forward.weights.layers[self.l].role(&self.of.tensors, role)
    }

    fn matrix(&self, role: Role) -> Result<Matrix<'a>> {
        let t = self.of.tensors.need(role)?;
        Ok(Matrix { view: self.weight(role)?, ty: t.block()?, rows: t.rows, cols: t.cols })
    }

    fn bias(&self, role: Role) -> Result<Option<View<'a>>> {
        role.bias().filter(|bias| self.of.tensors.has(*bias)).map(|bias| self.weight(bias)).transpose()
    }

    fn norm(&self, norm: Option<Role>) -> Result<Option<(View<'a>, f32)>> {
        norm.map(|role| Ok((self.weight(role)?, self.forward.shape.norm_eps))).transpose()
    }

    /// A step that nothing joins.
    fn alone(&self, step: Step) -> Result<()> {
        let (k, shape, m) = (&self.forward.kernels, &self.forward.shape, self.p.m);
        match step {
            Step::Norm { role, from, to } => {
                // Over rows, or over their heads.
                let (x, w) = (self.at(from)?, self.weight(role)?);
                k.rms_norm(x, w, shape.norm_eps, x.len() / w.len().max(1), self.at(to)?)
            }
            Step::Add => {
                k.add_scaled(self.at(Slot::Stream)?, self.at(Slot::Out)?, m * shape.hidden, shape.residual_scale)
            }
            // Others are in groups, or were refused.
            _ => Err(Error::Internal(format!("a GPU was asked for {}", step.name()))),
        }
    }

    /// Few rows: one kernel for all matrices of a type, with what stands before and after it.
    fn few(&self, linears: Linears) -> Result<()> {
        let (k, shape, m) = (&self.forward.kernels, &self.forward.shape, self.p.m);
        let (x, norm) = (self.at(linears.from)?, self.norm(linears.norm)?);
        let runs = fuse::runs(self.of, linears.to);
        let alone = runs.len() == 1;
        for run in &runs {
            let mut outputs = Vec::with_capacity(run.len());
            for (role, slot, _) in run {
                let slot = if linears.add { Slot::Stream } else { *slot };
                outputs.push(Output { w: self.matrix(*role)?, y: self.at(slot)?, bias: self.bias(*role)? });
            }
            let purpose = match linears.gate {
                Some(act) if alone => Purpose::Gate(act),
                _ if linears.add => Purpose::Add { scale: shape.residual_scale },
                _ => Purpose::Store { scale: 1.0, cap: None },
            };
            k.product(x, m, norm, &outputs, purpose)?;
        }
        match linears.gate {
            Some(act) if !alone => {
                let gate = self.at(Slot::Gate)?;
                k.gate_rows(act, gate, self.at(Slot::Up)?, m * self.of.ffn.width(), gate, BlockType::F32)
            }
            _ => Ok(()),
        }
    }

    /// Many rows, or an adapter beside the weights: rows are brought into the type of the product first.
    fn many(&self, linears: Linears) -> Result<()> {
        let Linears { norm, from, to, gate, add } = linears;
        let (f, k, m, way) = (self.forward, &self.forward.kernels, self.p.m, self.p.way);
        let ty = way.rows_of(self.of, to);
        let x = if norm.is_some() || (from == Slot::Stream && ty != BlockType::F32) {
            let out = self.at(Slot::Normed)?;
            k.norm_rows(self.at(Slot::Stream)?, (m, f.shape.hidden), self.norm(norm)?, 1.0, out, ty)?;
            out
        } else if from == Slot::Gate && ty != BlockType::F32 {
            self.p.workspace.half.view()
        } else {
            self.at(from)?
        };
        let adapted = f.adapter.as_ref();
        let beside =
            adapted.is_some() || to.iter().any(|(role, _)| role.bias().is_some_and(|b| self.of.tensors.has(b)));
        let folded = add && fuse::folded(to, self.of, way, beside);
        for (role, slot) in to {
            let w = self.matrix(*role)?;
            if folded {
                self.multiply(w, ty, x, self.at(Slot::Stream)?, Some(f.shape.residual_scale))?;
                continue;
            }
            let y = self.at(*slot)?;
            self.multiply(w, ty, x, y, None)?;
            if let Some(held) = adapted {
                held.add(k, self.l, *role, x, m, y, self.p.workspace.low.view())?;
            }
            if let Some(bias) = self.bias(*role)? {
                k.bias(y, bias, m)?;
            }
        }
        if let Some(act) = gate {
            let down = self.of.tensors.need(Role::Down)?;
            let ty = way.rows(self.of, down);
            let out = if ty == BlockType::F32 { self.at(Slot::Gate)? } else { self.p.workspace.half.view() };
            k.gate_rows(act, self.at(Slot::Gate)?, self.at(Slot::Up)?, m * self.of.ffn.width(), out, ty)?;
        }
        if add && !folded { self.alone(Step::Add) } else { Ok(()) }
    }

    /// `y (m, rows)` = x Wᵀ, rows of x as `ty`, or `y += add · x Wᵀ`.
    fn multiply(&self, w: Matrix<'_>, ty: BlockType, x: View<'_>, y: View<'_>, add: Option<f32>) -> Result<()> {
        let (f, k, m) = (self.forward, &self.forward.kernels, self.p.m);
        let (rows, cols) = (w.rows, w.cols);
        if !w.whole() {
            return match add {
                None => k.linear(w.ty, w.view, (rows, cols), x, m, y, rows),
                Some(scale) => k.linear_add(w.ty, w.view, (rows, cols), x, m, y, scale),
            };
        }
        if self.p.way.few {
            let purpose = add.map_or(Purpose::Store { scale: 1.0, cap: None }, |scale| Purpose::Add { scale });
            return k.product(x, m, None, &[Output { w, y, bias: None }], purpose);
        }
        let a = Operand { view: x, ty, ld: cols, turned: false };
        let step = if w.ty == ty { rows } else { fuse::panel(rows, cols, ty) };
        for first in (0..rows).step_by(step.max(1)) {
            let n = step.min(rows - first);
            let view = if w.ty == ty {
                w.view
            } else {
                let room = self.p.workspace.expanded.part(0, n * cols * ty.block_bytes())?;
                k.expand(w, first, n, room, ty)?;
                room
            };
            let b = Operand { view, ty, ld: cols, turned: true };
            let c =
                Operand { view: y.part(4 * first, y.len() - 4 * first)?, ty: BlockType::F32, ld: rows, turned: false };
            k.beside("cublas", || f.blas.scaled(add.unwrap_or(1.0), (m, n, cols), a, b, c, add.is_some()))?;
        }
        Ok(())
    }

    /// A single new row of each sequence: one kernel.
    fn step(&self, norms: [Option<View<'a>>; 2]) -> Result<()> {
        let (f, of, m) = (self.forward, &self.of.attention, self.p.m);
        let (workspace, table) = (self.p.workspace, self.p.workspace.sizes.step);
        let span = Span { at: 0, rows: m };
        let a = StepAttend {
            of: f.attend(self.l, workspace.step.view(), 0),
            rows: [self.at(Slot::Q)?, self.at(Slot::K)?, self.at(Slot::V)?],
            turn: of.rope.map(|rope| f.turn(workspace, rope, span)).transpose()?,
            norms: (norms, f.shape.norm_eps),
            window: of.window.is_some(),
            caches: workspace.step.part(table.caches + 16 * self.l * m, 16 * m)?,
            positions: workspace.step.part(table.positions, 4 * m)?,
            arrived: workspace.step.part(table.arrived, table.bytes - table.arrived)?,
            parts: workspace.attention.view(),
            most: workspace.sizes.rows_cached,
            out: self.at(Slot::Context)?,
        };
        f.kernels.step_attend(a, m)
    }

    /// Spans of rows: norms, rotations, and each sequence's cache and attention after the other.
    fn spans(&self, norms: [Option<View<'_>>; 2]) -> Result<()> {
        let (k, eps) = (&self.forward.kernels, self.forward.shape.norm_eps);
        for (norm, slot) in norms.into_iter().zip([Slot::Q, Slot::K]) {
            if let Some(w) = norm {
                let x = self.at(slot)?;
                k.rms_norm(x, w, eps, x.len() / w.len().max(1), x)?;
            }
        }
        (0..self.p.spans.len()).try_for_each(|i| self.span(i))
    }

    /// Turns the rows of a span, appends them to the cache, and attends.
    fn span(&self, i: usize) -> Result<()> {
        let (f, k, of, span, seq) =
            (self.forward, &self.forward.kernels, &self.of.attention, self.p.spans[i], &self.p.seqs[i]);
        let (nq, nkv, d) = (of.q(), of.kv(), of.dim);
        let workspace = self.p.workspace;
        let [q, keys, values] = [self.at(Slot::Q)?, self.at(Slot::K)?, self.at(Slot::V)?];
        if let Some(rope) = of.rope {
            let turn = f.turn(workspace, rope, span)?;
            k.rope(span.part(q, nq, 0, span.rows)?, (span.rows, of.heads, d), turn)?;
            k.rope(span.part(keys, nkv, 0, span.rows)?, (span.rows, of.kv_heads, d), turn)?;
        }
        let layer = &seq.layers[self.l];
        let cache = f.attend(self.l, layer.buffer.view(), layer.capacity);
        let ring = of.window.is_some() && seq.seen + span.rows > layer.capacity;
        if self.p.way.flash(self.of) {
            let (q, keys, values) = (
                span.part(q, nq, 0, span.rows)?,
                span.part(keys, nkv, 0, span.rows)?,
                span.part(values, nkv, 0, span.rows)?,
            );
            return self.flash(cache, ring, seq.seen, span, [q, keys, values]);
        }
        // A layer with a window keeps its rows in a ring of as many as it sees, so beyond it one row comes after the other: what a query
        // sees is the ring when its own row is in it.
        let (out, parts) = (self.at(Slot::Context)?, workspace.attention.view());
        let each = if ring { 1 } else { span.rows.max(1) };
        for at in (0..span.rows).step_by(each) {
            let part = |of, width| span.part(of, width, at, each);
            let position = seq.seen + at;
            let (first, before) = match ring {
                true => (position % layer.capacity.max(1), position.min(layer.capacity.saturating_sub(1))),
                false => (position, position),
            };
            k.append(cache, part(keys, nkv)?, part(values, nkv)?, first, each)?;
            k.attend(cache, part(q, nq)?, before, each, part(out, nq)?, parts)?;
        }
        Ok(())
    }

    /// Attention of a span on tensor cores. What a ring holds is laid out in order before the new rows, and what stays goes back into it.
    fn flash(
        &self,
        cache: Attend<'_>,
        ring: bool,
        seen: usize,
        span: Span,
        [q, keys, values]: [View<'_>; 3],
    ) -> Result<()> {
        let (f, k, of, rows) = (self.forward, &self.forward.kernels, &self.of.attention, span.rows);
        let ty = self.of.tensors.get(Role::O).map_or(BlockType::F32, |t| self.p.way.rows(self.of, t));
        let context = self.at(Slot::Context)?;
        let each = of.q() * ty.block_bytes();
        let out = context.part(span.at * each, rows * each)?;
        if !ring {
            k.append(cache, keys, values, seen, rows)?;
            return k.flash(cache, q, (seen, rows), of.window, out, ty);
        }
        let old = seen.min(cache.capacity);
        let staged = f.attend(self.l, self.p.workspace.window.view(), old + rows);
        k.copy_rows(cache, staged, seen - old, 0, old)?;
        k.append(staged, keys, values, old, rows)?;
        k.flash(staged, q, (old, rows), of.window, out, ty)?;
        let keep = (old + rows).min(cache.capacity);
        k.copy_rows(staged, cache, old + rows - keep, seen + rows - keep, keep)
    }
}
