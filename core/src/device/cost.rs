//! What an operation costs: arithmetic, bytes and launches, from the same description that is executed.

use super::gpu::tiling::{Tiling, norm_launches};
use super::op::{Op, sides};
use super::{Weight, buffer_bytes};
use crate::ops::KernelTimes;
use crate::ops::timing::Weights;

/// What an operation takes: arithmetic, memory traffic, launches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiplications and additions of its products: `2 m n k` for a product `(m, n) · (n, k)`.
    pub flops: f64,
    /// Bytes read from memory, each operand once.
    pub read: usize,
    /// Bytes written to memory, each output once.
    pub written: usize,
    /// Bytes that pass through kernels that only convert, before the product that wants them so.
    pub converted: usize,
    /// Kernels launched on a GPU; each takes its time however small it is.
    pub launches: usize,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.read += other.read;
        self.written += other.written;
        self.converted += other.converted;
        self.launches += other.launches;
    }
}

/// How an executor carries operations out, as far as their cost depends on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lowering {
    /// Each operation is one routine that takes operands as they are stored.
    Direct,
    /// A GPU's: products of decoded weights, cut to its scratch.
    Tiled(Tiling),
}

/// Operations of a product `(m, n) · (n, k)`.
fn product(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

impl Op<'_> {
    /// What it takes where it is carried out by `lowering`.
    pub fn cost(&self, lowering: &Lowering) -> Cost {
        let mut cost = Cost { flops: self.flops(), launches: self.launches(lowering), ..Cost::default() };
        self.operands(&mut |o| {
            let (read, written) = o.bytes();
            cost.read += read;
            cost.written += written;
        });
        if let (Lowering::Tiled(tiling), Self::Linear { w, .. } | Self::LinearDx { w, .. }) = (lowering, self)
            && w.buf.ty() != tiling.ty
        {
            let (stored, decoded) = sizes(*w, tiling);
            cost.converted = stored + decoded;
            // The product reads what was decoded.
            cost.read = cost.read - stored + decoded;
        }
        cost
    }

    /// Seconds on a CPU whose kernels take `times`: of what it `cost`s and of what kind it is, in a step that goes through `pass`
    /// bytes. Operations that are not timed by themselves take what moving their elements takes.
    pub fn seconds(&self, cost: &Cost, times: &KernelTimes, pass: f64) -> f64 {
        let moved = times.elements((cost.read + cost.written) as f64, pass);
        let weights = |w: &Weight<'_>| {
            let bytes = buffer_bytes(w.buf.ty(), w.rows * w.cols) as f64;
            Weights { ty: Some(w.buf.ty()), rows: w.rows, cols: w.cols, bytes }
        };
        let alone = |seconds: f64| times.region + seconds;
        let elements = |n: usize, each: f64| alone(moved.max(n as f64 * each));
        match self {
            // Of a step's weights none is met again before all the others.
            Self::Linear { m, w, .. } => times.products(&[weights(w)], *m as f64, f64::INFINITY),
            Self::LinearDx { m, w, .. } => times.product_dx(&weights(w), *m),
            Self::LinearDw { m, rows, cols, .. } => times.product_dw(*m, *rows, *cols),
            Self::Attention { .. } => alone(cost.flops * times.causal[0]),
            Self::AttentionVjp { .. } => alone(cost.flops * times.causal[1]),
            Self::RmsNorm { m, cols, .. } => elements(m * cols, times.norm),
            Self::RmsNormVjp { m, cols, .. } => elements(3 * m * cols, times.norm),
            Self::SwiGlu { len, .. } | Self::GeGlu { len, .. } => elements(*len, times.gate[0]),
            Self::SwiGluVjp { len, .. } | Self::GeGluVjp { len, .. } => elements(*len, times.gate[1]),
            Self::LogSumExp { m, n, .. } | Self::CrossEntropyVjp { m, n, .. } => elements(m * n, times.logit),
            Self::SquaredNorms { spans, .. } => moved + spans.len() as f64 * times.region,
            // Four regions a row, and one thread's decomposition.
            Self::Orthonormalize { rows, .. } => 4.0 * *rows as f64 * times.region + cost.flops / 2.0 * times.dw,
            Self::LeadingVectors { rows, .. } => {
                alone(cost.flops / 2.0 * times.dw) + (*rows as f64).powi(3) * times.eigen
            }
            _ => alone(moved + cost.flops / 2.0 * times.dw),
        }
    }

    /// Operations of its products.
    fn flops(&self) -> f64 {
        match self {
            Self::Linear { m, w, .. } | Self::LinearDx { m, w, .. } => product(*m, w.rows, w.cols),
            Self::LinearDw { m, rows, cols, .. } => product(*m, *rows, *cols),
            Self::BatchedMatMul { of, .. } => product(of.batch * of.m, of.n, of.k),
            // The thin product, and the squares.
            Self::RowNorms { w, low, .. } => product(low.map_or(1, |(a, ..)| a.rows + 1), w.rows, w.cols),
            // Each row against those before it, twice over, there and back.
            Self::Orthonormalize { rows, cols, .. } => 4.0 * product(*rows, *rows, *cols) / 2.0,
            Self::LeadingVectors { rows, cols, .. } => product(*rows, *rows, cols / 2),
            // Two products over half of all pairs.
            Self::Attention { of, .. } => product(sides(*of).0, sides(*of).1, of.length),
            // Seven: scores and their gradients are made twice, for queries and for keys.
            Self::AttentionVjp { of, .. } => 3.5 * product(sides(*of).0, sides(*of).1, of.length),
            _ => 0.0,
        }
    }

    /// Kernels that carrying it out launches.
    fn launches(&self, lowering: &Lowering) -> usize {
        let Lowering::Tiled(tiling) = lowering else { return 1 };
        match self {
            Self::Linear { x, m, w, bias, .. } => {
                let bias = usize::from(bias.is_some());
                tiling.linear((x.buf.ty(), *m), (w.buf.ty(), w.rows, w.cols)) + bias
            }
            Self::LinearDx { dy, m, w, .. } => tiling.linear_dx((dy.buf.ty(), *m), (w.buf.ty(), w.rows, w.cols)),
            Self::LinearDw { dy, x, m, rows, cols, .. } => {
                tiling.linear_dw(*m, (dy.buf.ty(), *rows), (x.buf.ty(), *cols))
            }
            Self::Embed { m, .. } => m.div_ceil(super::gpu::tiling::EMBED_ROWS),
            Self::RmsNormVjp { dw, .. } => 1 + 2 * usize::from(dw.is_some()),
            Self::SquaredNorms { spans, .. } => 2 * norm_launches(spans).count(),
            Self::BiasVjp { .. } => 2,
            Self::Order { n, .. } => 1 + sort_passes(*n).count(),
            Self::AttentionVjp { .. } => 3,
            // One at a time.
            Self::BatchedMatMul { of, .. } if of.m * of.n * of.k > 0 => of.batch,
            // Taken on the host.
            Self::Argmax { .. } | Self::Orthonormalize { .. } | Self::LeadingVectors { .. } => 0,
            _ => 1,
        }
    }
}

/// The passes of a bitonic network over `n` elements, all of which put the earlier element first: in each, element `i` meets
/// element `i ^ mask`, and whoever would meet one beyond the end stays.
pub fn sort_passes(n: usize) -> impl Iterator<Item = usize> {
    let stages = n.next_power_of_two().trailing_zeros();
    // Mirrored halves first, then ever nearer neighbours.
    (1..=stages).flat_map(|s| std::iter::once((1 << s) - 1).chain((0..s.saturating_sub(1)).rev().map(|j| 1 << j)))
}

/// Bytes of a weight as it is stored and as products want it.
fn sizes(w: Weight<'_>, tiling: &Tiling) -> (usize, usize) {
    let n = w.rows * w.cols;
    (buffer_bytes(w.buf.ty(), n), buffer_bytes(tiling.ty, n))
}
