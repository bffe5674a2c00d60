//! An independent forward pass: one token at a time, in f64, straight from the formulas of the Llama block. Shares no code
//! with the engine but the decoding of stored weights.

use ullage_core::blocks;
use ullage_core::model::Model;
use ullage_core::shape::{ModelShape, Role, TensorShape};

/// One head's rows: keys before rotation, values, and the position each key is rotated to when read.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Unrotated keys `(rows, d)`.
    pub k: Vec<Vec<f64>>,
    /// Values `(rows, d)`.
    pub v: Vec<Vec<f64>>,
    /// Position of each.
    pub at: Vec<usize>,
}

/// A cache: rows by layer and KV head.
pub type Cache = Vec<Vec<Rows>>;

struct Layer {
    norm1: Vec<f64>,
    q: Vec<Vec<f64>>,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    o: Vec<Vec<f64>>,
    norm2: Vec<f64>,
    gate: Vec<Vec<f64>>,
    up: Vec<Vec<f64>>,
    down: Vec<Vec<f64>>,
}

/// A model in f64.
pub struct Naive {
    shape: ModelShape,
    embedding: Vec<Vec<f64>>,
    layers: Vec<Layer>,
    norm: Vec<f64>,
    head: Vec<Vec<f64>>,
}

fn load(model: &Model, t: &TensorShape) -> Vec<Vec<f64>> {
    let mut bytes = vec![0; t.bytes() as usize];
    model.source.read_rows(t, 0, t.rows, &mut bytes).unwrap();
    let mut out = vec![0.0f32; t.rows * t.cols];
    blocks::decode(t.block().unwrap(), &bytes, &mut out).unwrap();
    out.chunks(t.cols).map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn times(w: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    w.iter().map(|row| dot(row, x)).collect()
}

fn rms(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(w).map(|(x, w)| x * scale * w).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|v| (v - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

impl Naive {
    /// Decodes every weight of `model`.
    pub fn new(model: &Model) -> Self {
        let shape = model.shape.clone();
        let layer = |l: &ullage_core::shape::LayerShape| {
            let t = &l.tensors;
            Layer {
                norm1: load(model, t.need(Role::AttnNorm).unwrap()).concat(),
                q: load(model, t.need(Role::Q).unwrap()),
                k: load(model, t.need(Role::K).unwrap()),
                v: load(model, t.need(Role::V).unwrap()),
                o: load(model, t.need(Role::O).unwrap()),
                norm2: load(model, t.need(Role::FfnNorm).unwrap()).concat(),
                gate: load(model, t.need(Role::Gate).unwrap()),
                up: load(model, t.need(Role::Up).unwrap()),
                down: load(model, t.need(Role::Down).unwrap()),
            }
        };
        Self {
            embedding: load(model, &shape.embedding),
            layers: shape.layers.iter().map(layer).collect(),
            norm: load(model, &shape.output_norm).concat(),
            head: load(model, shape.head()),
            shape,
        }
    }

    /// A linear of a layer, to change.
    pub fn matrix_mut(&mut self, layer: usize, role: Role) -> &mut Vec<Vec<f64>> {
        let w = &mut self.layers[layer];
        match role {
            Role::Q => &mut w.q,
            Role::K => &mut w.k,
            Role::V => &mut w.v,
            Role::O => &mut w.o,
            Role::Gate => &mut w.gate,
            Role::Up => &mut w.up,
            Role::Down => &mut w.down,
            other => panic!("{other:?} is no linear"),
        }
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache {
        self.shape.layers.iter().map(|l| vec![Rows::default(); l.attention.kv_heads]).collect()
    }

    /// Rotates one head's vector to `position`; a negative one rotates back.
    pub fn turn(&self, x: &[f64], position: f64) -> Vec<f64> {
        let rope = &self.shape.ropes[0];
        let mut out = x.to_vec();
        for i in 0..rope.dim / 2 {
            let angle = position * f64::from(rope.base).powf(-2.0 * i as f64 / rope.dim as f64) / f64::from(rope.scale);
            let (a, b) = if rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + rope.dim / 2) };
            out[a] = x[a] * angle.cos() - x[b] * angle.sin();
            out[b] = x[a] * angle.sin() + x[b] * angle.cos();
        }
        out
    }

    /// Appends `token`, whose query and key stand at `position(layer, KV head)`, and returns its logits and the attention
    /// it paid, by layer and query head over the head's rows, its own last.
    pub fn step(
        &self,
        token: u32,
        position: impl Fn(usize, usize) -> usize,
        cache: &mut Cache,
    ) -> (Vec<f64>, Vec<Vec<Vec<f64>>>) {
        let mut x = self.embedding[token as usize].clone();
        let eps = f64::from(self.shape.norm_eps);
        let mut paid = Vec::new();
        for (l, (w, s)) in self.layers.iter().zip(&self.shape.layers).enumerate() {
            let s = &s.attention;
            let (d, group) = (s.dim, s.heads / s.kv_heads);
            let n = rms(&x, &w.norm1, eps);
            let (q, k, v) = (times(&w.q, &n), times(&w.k, &n), times(&w.v, &n));
            for h in 0..s.kv_heads {
                let rows = &mut cache[l][h];
                rows.k.push(k[h * d..(h + 1) * d].to_vec());
                rows.v.push(v[h * d..(h + 1) * d].to_vec());
                rows.at.push(position(l, h));
            }
            let (mut seen, mut layer) = (Vec::new(), Vec::new());
            for h in 0..s.heads {
                let rows = &cache[l][h / group];
                let query = self.turn(&q[h * d..(h + 1) * d], position(l, h / group) as f64);
                let score = |(k, at): (&Vec<f64>, &usize)| dot(&query, &self.turn(k, *at as f64)) / (d as f64).sqrt();
                let p = softmax(&rows.k.iter().zip(&rows.at).map(score).collect::<Vec<_>>());
                for i in 0..d {
                    seen.push(p.iter().zip(&rows.v).map(|(p, v)| p * v[i]).sum::<f64>());
                }
                layer.push(p);
            }
            paid.push(layer);
            x.iter_mut().zip(times(&w.o, &seen)).for_each(|(x, o)| *x += o);
            let n = rms(&x, &w.norm2, eps);
            let gate = times(&w.gate, &n);
            let up = times(&w.up, &n);
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            x.iter_mut().zip(times(&w.down, &inner)).for_each(|(x, o)| *x += o);
        }
        (times(&self.head, &rms(&x, &self.norm, eps)), paid)
    }
}
