//! Seconds of a pass on the CPU: its steps' own kernels, as the probe has timed them.

use super::Resolved;
use crate::forward::step::{self, Step};
use crate::ops::KernelTimes;
use crate::ops::timing::{Attended, Weights};
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
    /// Seconds of a pass over `of` through every layer.
    pub fn layers(&self, of: Rows) -> f64 {
        let layers = self.r.held.layers.iter().enumerate().map(|(l, layer)| {
            let steps = step::layer(layer).map(|s| self.step(s, Some((l, layer)), of));
            steps.sum::<f64>()
        });
        self.step(step::BEGIN, None, of) + layers.sum::<f64>()
    }

    /// Seconds of the output head over the last row of each sequence.
    pub fn head(&self, of: Rows) -> f64 {
        step::END.iter().map(|s| self.step(*s, None, of)).sum()
    }

    fn step(&self, step: Step, at: Option<(usize, &LayerShape)>, of: Rows) -> f64 {
        let (t, shape) = (self.times, &self.r.held);
        let hidden = shape.hidden as f64;
        let tensor = |role: Role| at.and_then(|(_, layer)| layer.tensors.get(role));
        match step {
            // A row of a table each.
            Step::Embed => {
                // The second of its adapter's products alone is one.
                let low = shape.adapter.as_ref().and_then(|a| a.outside(shape)?.get(&Role::Embedding));
                let b = low.map_or(0.0, |low| {
                    let bytes = (shape.hidden * low.rank) as f64 * low.types[1].bits() / 8.0;
                    let w = Weights { ty: Some(low.types[1]), rows: shape.hidden, cols: low.rank, bytes };
                    t.products(&[w], of.rows, of.through)
                });
                of.rows * hidden * t.norm + b
            }
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
                let adapters =
                    to.iter().map(|(role, _)| self.adapted(low.and_then(|low| low.get(role)), tensor(*role), of));
                let all: Vec<_> = to.iter().filter_map(|(role, _)| tensor(*role)).map(weights).collect();
                t.products(&all, of.rows, of.through) + adapters.sum::<f64>()
            }
            Step::KvAttend => at.map_or(0.0, |(l, layer)| self.attend(l, layer, of)),
            Step::Gate(_) => at.map_or(0.0, |(_, layer)| of.rows * layer.ffn.width() as f64 * t.gate[0]),
            Step::Experts => at.map_or(0.0, |(_, layer)| self.experts(layer, of)),
            Step::Add => t.elements(12.0 * of.rows * hidden, 0.0),
            Step::Logits => {
                let low = shape.adapter.as_ref().and_then(|a| a.outside(shape)?.get(&Role::Head));
                let last = Rows { rows: of.sequences, ..of };
                t.products(&[weights(shape.head())], of.sequences, of.through)
                    + self.adapted(low, Some(shape.head()), last)
            }
        }
    }

    /// The two thin products of an adapter.
    fn adapted(&self, low: Option<&LowRank>, w: Option<&TensorShape>, of: Rows) -> f64 {
        let (Some(low), Some(w)) = (low, w) else { return 0.0 };
        let parts = low.kind.0.parts().iter().zip(low.types).map(|(part, ty)| {
            let (outputs, inputs) = part.dims(low.rank, w.rows, w.cols);
            let bytes = (outputs * inputs) as f64 * ty.bits() / 8.0;
            let w = Weights { ty: Some(ty), rows: outputs, cols: inputs, bytes };
            self.times.products(&[w], of.rows, of.through)
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
        let call = Attended { queries, held: seen, kv, heads: a.kv_heads, group, bits };
        let one = t.attention(call, of.through);
        of.sequences * (2.0 * t.region + one)
            + of.rows * (a.q() as f64 + kv) * t.norm
            + t.append(of.rows, (a.kv_heads, a.dim), bits)
    }

    /// The router, and the experts that rows go to, each given its share of them.
    fn experts(&self, layer: &LayerShape, of: Rows) -> f64 {
        let Some((count, used)) = layer.ffn.experts() else { return 0.0 };
        let (t, count) = (self.times, count.max(1) as f64);
        let given = of.rows * used as f64;
        let touched = given.min(count);
        let stacks = layer.tensors.roles().filter(|(role, _)| role.kind() == Kind::Stack).map(|(_, w)| {
            let w = Weights { rows: w.rows / count as usize, bytes: w.bytes() as f64 / count, ..weights(w) };
            t.products(&[w], given / touched, of.through)
        });
        let gate = given * layer.ffn.width() as f64 * t.gate[0];
        let router = layer.tensors.get(Role::Router).map_or(0.0, |w| t.products(&[weights(w)], of.rows, of.through));
        let shared = [Role::SharedRouter, Role::SharedGate, Role::SharedUp, Role::SharedDown];
        let shared = shared.iter().filter_map(|role| layer.tensors.get(*role)).map(weights);
        let shared: f64 = shared.map(|w| t.products(&[w], of.rows, of.through)).sum();
        let shared = shared + of.rows * layer.ffn.shared().unwrap_or(0) as f64 * t.gate[0];
        touched * stacks.sum::<f64>() + gate + router + shared
    }
}

fn weights(w: &TensorShape) -> Weights {
    Weights { ty: w.ty.block(), rows: w.rows, cols: w.cols, bytes: w.bytes() as f64 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::blocks::BlockType;
    use crate::catalog::from_toml;
    use crate::config::Config;
    use crate::machine::Machine;
    use crate::plan::plan;
    use crate::plan::tests::{shape, workload};

    fn config(pairs: &[(&str, &str)]) -> Config {
        let sets: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml("", &sets).unwrap()
    }

    /// A machine on which nothing takes time but what `change` says.
    fn machine(change: impl FnOnce(&mut KernelTimes)) -> Machine {
        let none = [0.0; crate::ops::timing::ROWS.len()];
        let mut times = KernelTimes {
            threads: 1,
            products: BTreeMap::from([(BlockType::F32, none), (BlockType::F16, none)]),
            stream: vec![(1, 0.0)],
            tiles: BTreeMap::from([(BlockType::F16, 0.0)]),
            appended: BTreeMap::from([(BlockType::F16, 0.0)]),
            moved: vec![(1, 0.0)],
            ..KernelTimes::default()
        };
        let slow = KernelTimes { norm: 1e9, ..times.clone() };
        change(&mut times);
        let mut machine = Machine::default_guess();
        machine.speed.kernels = Some(Box::new([slow, times]));
        machine
    }

    /// Seconds of the prompt and of a decoding step, 40 and 20 tokens, with two threads.
    fn seconds(machine: &Machine, more: &[(&str, &str)]) -> (f64, f64) {
        let pairs = [&[("machine.threads", "2"), ("run.max_tokens", "21")], more].concat();
        let config = config(&pairs);
        let time = plan(&shape("smollm2-135m@f16"), &workload(&config, 40), &config, machine).unwrap().time;
        (time.prefill_seconds, 1.0 / time.decode_tokens_per_second)
    }

    #[test]
    fn a_pass_takes_the_sum_of_what_its_kernels_take() {
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b}");
        // SmolLM2-135M: 30 layers of 576 → 576, 192, 192; 576 → 576; 576 → 1536 twice and back; a head of 49,152 rows.
        let layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536;
        let (layers, head) = (f64::from(30 * layer), f64::from(576 * 49152));
        let products = machine(|t| t.products.values_mut().for_each(|of| *of = [1.0; 6]));
        // Whatever the number of rows: the layers' weights once a batch, and the head's once.
        let (prefill, decode) = seconds(&products, &[]);
        near(prefill, layers + head);
        near(decode, layers + head);
        near(seconds(&products, &[("run.batch", "10")]).0, 4.0 * layers + head);
        // Bytes instead: two of each.
        near(seconds(&machine(|t| t.stream = vec![(1, 1.0)]), &[("kv.format", "f16")]).1, {
            let cached = 30.0 * 2.0 * 192.0 * 50.0;
            2.0 * (layers + head + cached)
        });
        // Attention: a query of each of nine heads of 64 over the mean depth, keys and values; half of the prompt for its tokens.
        let attention = machine(|t| t.attend = [1.0, 100.0]);
        let (prefill, decode) = seconds(&attention, &[]);
        near(decode, 30.0 * 2.0 * 576.0 * 50.0);
        near(prefill, 100.0 * 30.0 * 2.0 * 576.0 * 40.0 * 20.0);
        // Three regions of products of a layer and two of attention, and the head's.
        near(seconds(&machine(|t| t.region = 1.0), &[]).1, 30.0 * (4.0 + 2.0) + 1.0);
        // Another number of threads, other times.
        assert!(seconds(&products, &[("machine.threads", "1")]).1 > 1e9);
    }
}
