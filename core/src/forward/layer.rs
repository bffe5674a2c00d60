//! What a layer's description asks of a batch of rows beside the cache: norms, linears, gates and experts.

use super::adapter::{Held, Output};
use crate::error::Result;
use crate::ops::ThreadTeam;
use crate::ops::cpu::vjp::{axpy, bias};
use crate::ops::cpu::{
    Compute, Product, clamped_swiglu, geglu, linear_many, linear_many_as, rms_norm, rms_norm_in_place, softmax, swiglu,
};
use crate::shape::{Act, Ffn, LayerShape, Role};
use crate::weights::units::LayerView;

/// Rows of a batch on their way through one layer.
pub(super) struct Rows<'a> {
    pub team: &'a ThreadTeam,
    pub of: &'a LayerShape,
    pub w: LayerView<'a>,
    pub adapter: Option<&'a Held>,
    /// Which layer.
    pub l: usize,
    /// Rows.
    pub m: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Of norms.
    pub eps: f32,
    /// How products are computed.
    pub compute: Compute,
}

/// What [`Rows`] computes in.
pub(super) struct Scratch<'a> {
    /// Ax of an adapter.
    pub low: &'a mut [f32],
    /// Of [`routed_elements`].
    pub routed: &'a mut [f32],
    /// The kernels' own.
    pub kernels: &'a mut [f32],
}

/// Elements that `m` rows need to be shared out over the experts of a layer: scores of the router, which experts a row goes
/// to with what weight, and one expert's rows, in and out.
pub(super) fn routed_elements(layer: &LayerShape, hidden: usize, m: usize) -> usize {
    layer.ffn.experts().map_or(0, |(count, used)| m * (count + 2 * used + 2 * hidden))
}

impl Rows<'_> {
    /// `y = linear(x)` with bias and adapter, for linears that read the same rows.
    ///
    /// # Errors
    /// The kernels'.
    pub fn linears<const N: usize>(
        &self,
        x: &[f32],
        outputs: [(Role, &mut [f32]); N],
        s: &mut Scratch<'_>,
    ) -> Result<()> {
        let mut outputs = outputs.map(|(linear, y)| Output { linear, y });
        let mut products = Vec::with_capacity(N);
        for Output { linear, y } in &mut outputs {
            let w = self.w.mat(*linear)?;
            products.push(Product { w, ldy: w.rows(), y });
        }
        linear_many_as(self.compute, self.team, x, self.m, &mut products, s.kernels)?;
        drop(products);
        // The bias comes last: an adapter may multiply what comes before it.
        if let Some(adapter) = self.adapter {
            adapter.add(self.team, self.l, x, self.m, &mut outputs, s.low, s.kernels)?;
        }
        for Output { linear, y } in &mut outputs {
            if let Some(role) = linear.bias().filter(|role| self.w.has(*role)) {
                bias(self.team, self.w.vector(role)?, y)?;
            }
        }
        Ok(())
    }

    /// `out = norm(x)`.
    ///
    /// # Errors
    /// The kernels'.
    pub fn norm(&self, role: Role, x: &[f32], out: &mut [f32]) -> Result<()> {
        rms_norm(self.team, x, self.w.vector(role)?, self.eps, out)
    }

    /// `x = norm(x)`, over rows or over their heads.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] where the layer has no such norm.
    pub fn norm_in_place(&self, role: Role, x: &mut [f32]) -> Result<()> {
        rms_norm_in_place(self.team, x, self.w.vector(role)?, self.eps)
    }

    /// `gate = act(gate) ⊙ up`, both `(rows, width)`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`].
    pub fn gate(&self, act: Act, gate: &mut [f32], up: &[f32]) -> Result<()> {
        match act {
            Act::Silu => swiglu(self.team, gate, up),
            Act::GeluTanh => geglu(self.team, gate, up),
            Act::ClampedSwiglu => clamped_swiglu(self.team, gate, up),
        }
    }

    /// Each row through the experts that the router chooses for it (Mixtral, arXiv 2401.04088, §2.1): their outputs are
    /// added in order of the experts, weighted by the softmax over the scores of those chosen, so that a row does not depend
    /// on the others of its batch. An expert that all share comes last. `x` and `out` are `(rows, hidden)`; `wide` holds gate and up
    /// of the rows of an expert.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] where a tensor is missing or a slice too short.
    pub fn experts(&self, x: &[f32], wide: &mut [f32], out: &mut [f32], s: &mut Scratch<'_>) -> Result<()> {
        let (m, hidden, team, width) = (self.m, self.hidden, self.team, self.of.ffn.width());
        let Some((count, used)) = self.of.ffn.experts() else { return Ok(()) };
        let over_all = matches!(self.of.ffn, Ffn::Experts { over_all: true, .. });
        let (scores, rest) = s.routed.split_at_mut(m * count);
        let (chosen, rest) = rest.split_at_mut(m * used);
        let (weights, rest) = rest.split_at_mut(m * used);
        let (rows, outs) = rest.split_at_mut(m * hidden);
        let chosen: &mut [u32] = bytemuck::cast_slice_mut(chosen);
        let router = self.w.mat(Role::Router)?;
        // In f32 whatever the products are computed in: a choice that tips over is no small error.
        linear_many(team, x, m, &mut [Product { w: router, y: &mut *scores, ldy: count }], s.kernels)?;
        if self.w.has(Role::RouterBias) {
            bias(team, self.w.vector(Role::RouterBias)?, scores)?;
        }
        for (i, scores) in scores.chunks_exact_mut(count).enumerate() {
            choose(scores, &mut chosen[i * used..][..used], &mut weights[i * used..][..used], over_all);
        }
        out.fill(0.0);
        for e in 0..count {
            let mut n = 0;
            for i in (0..m).filter(|i| chosen[i * used..][..used].contains(&(e as u32))) {
                rows[n * hidden..][..hidden].copy_from_slice(&x[i * hidden..][..hidden]);
                n += 1;
            }
            if n == 0 {
                continue;
            }
            let (gate, up) = wide[..2 * n * width].split_at_mut(n * width);
            let expert = |role| self.w.expert(role, e, count);
            let mut both = [
                Product { w: expert(Role::ExpertGate)?, y: &mut *gate, ldy: width },
                Product { w: expert(Role::ExpertUp)?, y: &mut *up, ldy: width },
            ];
            linear_many_as(self.compute, team, &rows[..n * hidden], n, &mut both, s.kernels)?;
            self.expert_bias(Role::ExpertGate, e, count, gate)?;
            self.expert_bias(Role::ExpertUp, e, count, up)?;
            self.gate(self.of.ffn.act(), gate, up)?;
            let mut down = [Product { w: expert(Role::ExpertDown)?, y: &mut outs[..n * hidden], ldy: hidden }];
            linear_many_as(self.compute, team, gate, n, &mut down, s.kernels)?;
            self.expert_bias(Role::ExpertDown, e, count, &mut outs[..n * hidden])?;
            let mut next = outs.chunks_exact(hidden);
            for (i, chosen) in chosen.chunks_exact(used).enumerate() {
                let Some(at) = chosen.iter().position(|c| *c == e as u32) else { continue };
                let Some(y) = next.next() else { break };
                axpy(team, weights[i * used + at], y, &mut out[i * hidden..][..hidden])?;
            }
        }
        self.shared_expert(x, wide, &mut outs[..m * hidden], out, s.kernels)
    }

    /// Adds expert `e`'s own bias of `linear` to rows of its output, where the layer has one.
    fn expert_bias(&self, linear: Role, e: usize, count: usize, y: &mut [f32]) -> Result<()> {
        let Some(role) = linear.bias().filter(|role| self.w.has(*role)) else { return Ok(()) };
        let all = self.w.vector(role)?;
        let width = all.len() / count;
        bias(self.team, &all[e * width..][..width], y)
    }

    /// Adds the expert that every row goes through, times σ of its own router (Qwen2-MoE, arXiv 2407.10671, §2.2.2).
    fn shared_expert(
        &self,
        x: &[f32],
        wide: &mut [f32],
        outs: &mut [f32],
        out: &mut [f32],
        kernels: &mut [f32],
    ) -> Result<()> {
        let Some(width) = self.of.ffn.shared() else { return Ok(()) };
        let (m, hidden, team) = (self.m, self.hidden, self.team);
        let (gate, up) = wide[..2 * m * width].split_at_mut(m * width);
        let mut both = [
            Product { w: self.w.mat(Role::SharedGate)?, y: &mut *gate, ldy: width },
            Product { w: self.w.mat(Role::SharedUp)?, y: &mut *up, ldy: width },
        ];
        linear_many_as(self.compute, team, x, m, &mut both, kernels)?;
        self.gate(self.of.ffn.act(), gate, up)?;
        let mut down = [Product { w: self.w.mat(Role::SharedDown)?, y: &mut *outs, ldy: hidden }];
        linear_many_as(self.compute, team, gate, m, &mut down, kernels)?;
        let router = self.w.vector(Role::SharedRouter)?;
        for ((x, y), out) in x.chunks_exact(hidden).zip(outs.chunks_exact(hidden)).zip(out.chunks_exact_mut(hidden)) {
            let score: f32 = x.iter().zip(router).map(|(x, w)| x * w).sum();
            axpy(team, 1.0 / (1.0 + (-score).exp()), y, out)?;
        }
        Ok(())
    }
}

/// The experts of largest score, ties to the lower, and the softmax over their scores, or over all. `scores` is used up.
fn choose(scores: &mut [f32], chosen: &mut [u32], weights: &mut [f32], over_all: bool) {
    if over_all {
        softmax(scores, 1.0);
    }
    for (chosen, weight) in chosen.iter_mut().zip(weights.iter_mut()) {
        let mut best = 0;
        for (e, score) in scores.iter().enumerate() {
            if *score > scores[best] {
                best = e;
            }
        }
        (*chosen, *weight) = (best as u32, scores[best]);
        scores[best] = f32::NEG_INFINITY;
    }
    if !over_all {
        softmax(weights, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_scores_are_chosen_and_weighted_among_themselves() {
        let (mut chosen, mut weights) = ([9u32; 2], [0.0f32; 2]);
        choose(&mut [0.5, 2.0, -1.0, 2.0, 1.0], &mut chosen, &mut weights, false);
        assert_eq!((chosen, weights), ([1, 3], [0.5, 0.5]));
        choose(&mut [0.0, 3.0, 1.0], &mut chosen, &mut weights, false);
        assert_eq!(chosen, [1, 2]);
        let first = 1.0 / (1.0 + (-2.0f32).exp());
        assert!((weights[0] - first).abs() < 1e-6 && (weights[0] + weights[1] - 1.0).abs() < 1e-6);
        // Over all: what is left to those not chosen is missing.
        choose(&mut [0.0, 3.0, 1.0], &mut chosen, &mut weights, true);
        let all = 1.0 + 3f32.exp() + 1f32.exp();
        assert!(chosen == [1, 2] && (weights[0] - 3f32.exp() / all).abs() < 1e-6);
        assert!((weights[1] - 1f32.exp() / all).abs() < 1e-6);
        // Numbers that are none choose something and end.
        choose(&mut [f32::NAN, f32::NAN], &mut chosen, &mut weights, false);
        assert!(chosen.iter().all(|c| *c < 2));
    }
}
