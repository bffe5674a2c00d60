//! Seconds of a pass on the CPU: its steps' own kernels, as the probe has timed them.

use super::Resolved;
use crate::blocks::Scheme;
use crate::forward::step::{self, Step};
use crate::ops::KernelTimes;
use crate::shape::{Kind, LayerShape, LowRank, Role, TensorShape};

/// A batch of rows, as far as its time depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// Rows of the batch, on average.
    pub rows: f64,
    /// Sequences they are of.
    pub sequences: f64,
    /// Cached rows of a head that a query looks at, on average.
    pub cached: f64,
    /// Bytes of weights and cache that the pass goes through before it meets the same again.
    pub through: f64,
}

/// A resolved configuration, and what kernels take with its threads.
pub(super) struct Cpu<'a> {
    pub r: &'a Resolved,
    pub times: &'a KernelTimes,
}

impl Cpu<'_> {
    /// Seconds of a pass over `of` to its logits.
    pub fn pass(&self, of: Rows) -> f64 {
        let layers = self.r.held.layers.iter().enumerate().map(|(l, layer)| {
            let steps = step::layer(layer).map(|s| self.step(s, Some((l, layer)), of));
            steps.sum::<f64>()
        });
        layers.sum::<f64>() + step::END.iter().map(|s| self.step(*s, None, of)).sum::<f64>()
    }

    fn step(&self, step: Step, at: Option<(usize, &LayerShape)>, of: Rows) -> f64 {
        let (t, shape) = (self.times, &self.r.held);
        let hidden = shape.hidden as f64;
        let tensor = |role: Role| at.and_then(|(_, layer)| layer.tensors.get(role));
        match step {
            // A row of a table each.
            Step::Embed => of.rows * hidden * t.norm,
            Step::Norm { role: Role::OutputNorm, .. } => of.sequences * hidden * t.norm,
            Step::Norm { role, .. } => {
                let heads = at.map_or(0, |(_, layer)| match role {
                    Role::QNorm => layer.attention.q(),
                    Role::KNorm => layer.attention.kv(),
                    _ => shape.hidden,
                });
                of.rows * heads as f64 * t.norm
            }
            Step::Linears { to, .. } => {
                let low = at.and_then(|(l, _)| shape.adapter.as_ref()?.layers.get(l));
                let each = to.iter().map(|(role, _)| {
                    let w = tensor(*role);
                    self.product(w, of.rows, of.through) + self.adapted(low.and_then(|low| low.get(role)), w, of)
                });
                t.region + each.sum::<f64>()
            }
            Step::KvAttend => at.map_or(0.0, |(l, layer)| self.attend(l, layer, of)),
            Step::Gate(_) => at.map_or(0.0, |(_, layer)| of.rows * layer.ffn.width() as f64 * t.gate[0]),
            Step::Experts => at.map_or(0.0, |(_, layer)| self.experts(layer, of)),
            Step::Add => t.elements(12.0 * of.rows * hidden),
            Step::Logits => t.region + self.product(Some(shape.head()), of.sequences, of.through),
        }
    }

    fn product(&self, w: Option<&TensorShape>, rows: f64, through: f64) -> f64 {
        let Some(w) = w else { return 0.0 };
        self.times.product(block(w.ty), (w.rows * w.cols) as f64, w.bytes() as f64, rows, through)
    }

    /// The two thin products of an adapter.
    fn adapted(&self, low: Option<&LowRank>, w: Option<&TensorShape>, of: Rows) -> f64 {
        let (Some(low), Some(w)) = (low, w) else { return 0.0 };
        let parts = low.kind.0.parts().iter().zip(low.types).map(|(part, ty)| {
            let (outputs, inputs) = part.dims(low.rank, w.rows, w.cols);
            let n = (outputs * inputs) as f64;
            self.times.region + self.times.product(Some(ty), n, n * ty.bits() / 8.0, of.rows, of.through)
        });
        parts.sum()
    }

    /// Rotations, what is appended, and attention.
    fn attend(&self, l: usize, layer: &LayerShape, of: Rows) -> f64 {
        let (a, t) = (&layer.attention, self.times);
        let (kv, d) = (a.kv() as f64, a.dim as f64);
        let seen = a.window.map_or(of.cached, |w| of.cached.min(w as f64));
        let bits = self.r.pipeline.rows.get(l).map_or([16.0; 2], |row| [row.k, row.v].map(|b| 8.0 * b as f64 / d));
        let group = a.heads as f64 / a.kv_heads.max(1) as f64;
        let queries = of.rows / of.sequences;
        let one = t.attention(queries, seen, kv, group, bits, of.through);
        of.sequences * (2.0 * t.region + one) + of.rows * (a.q() as f64 + 3.0 * kv) * t.norm
    }

    /// The router, and the experts that rows go to, each given its share of them.
    fn experts(&self, layer: &LayerShape, of: Rows) -> f64 {
        let Some((count, used)) = layer.ffn.experts() else { return 0.0 };
        let (t, count) = (self.times, count.max(1) as f64);
        let given = of.rows * used as f64;
        let touched = given.min(count);
        let stacks = layer.tensors.roles().filter(|(role, _)| role.kind() == Kind::Stack).map(|(_, w)| {
            let n = (w.rows * w.cols) as f64 / count;
            t.product(block(w.ty), n, w.bytes() as f64 / count, given / touched, of.through)
        });
        let gate = given * layer.ffn.width() as f64 * t.gate[0];
        let router = self.product(layer.tensors.get(Role::Router), of.rows, of.through);
        touched * (2.0 * t.region + stacks.sum::<f64>()) + gate + router + t.region
    }
}

fn block(scheme: Scheme) -> Option<crate::blocks::BlockType> {
    scheme.block()
}
