//! The dry device: reserves what another would hold, adds up how long another would take, and computes nothing. A plan is a
//! training step on it.

use std::cell::Cell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::cpu::SCRATCH;
use crate::device::gpu::{self, Precision};
use crate::device::{
    AdamW, Best, Buf, Causal, Device, Dst, Mask, RopeTable, Round, Sgd, Sizes, Spent, Src, Weight, buffer_bytes,
};
use crate::error::Result;
use crate::ledger::{Ledger, Reservation, Tag};
use crate::model::Source;
use crate::shape::TensorShape;

/// What a machine does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Operations on the type that products are taken in.
    pub flops: f64,
    /// Bytes of memory read or written.
    pub bytes: f64,
    /// Seconds an operation takes however small it is.
    pub launch: f64,
}

/// A device of reservations.
pub struct Dry {
    ledger: Arc<Ledger>,
    load: usize,
    /// Of a GPU; the CPU's when absent.
    precision: Option<Precision>,
    rates: Option<Rates>,
    spent: Cell<Spent>,
    _scratch: Vec<Reservation>,
}

impl Dry {
    /// A device whose ops need `scratch` bytes, and whose loading needs `load` where types differ.
    ///
    /// # Errors
    /// Over budget, where `ledger` has one.
    pub fn new(ledger: &Arc<Ledger>, scratch: usize, load: usize) -> Result<Self> {
        let scratch = vec![ledger.reserve(SCRATCH, scratch as u64)?];
        Ok(Self::of(ledger, load, None, scratch))
    }

    /// A GPU of that precision, whose largest calls are `sizes`.
    ///
    /// # Errors
    /// Over budget, where `ledger` has one.
    pub fn gpu(ledger: &Arc<Ledger>, sizes: &Sizes, precision: Precision) -> Result<Self> {
        let reserve = |(tag, bytes): (Tag, usize)| ledger.reserve(tag, bytes as u64);
        let scratch = gpu::scratch(sizes, precision).into_iter().map(reserve).collect::<Result<_>>()?;
        Ok(Self::of(ledger, sizes.load, Some(precision), scratch))
    }

    fn of(ledger: &Arc<Ledger>, load: usize, precision: Option<Precision>, scratch: Vec<Reservation>) -> Self {
        let (ledger, spent) = (Arc::clone(ledger), Cell::default());
        Self { ledger, load, precision, rates: None, spent, _scratch: scratch }
    }

    /// The same device on a machine of these rates, so that it knows how long a step takes.
    pub fn timed(self, rates: Option<Rates>) -> Self {
        Self { rates, ..self }
    }

    /// The roofline of one operation: the longer of its arithmetic and its memory, and what launching it takes.
    fn seconds(&self, flops: f64, bytes: usize) -> f64 {
        self.rates.map_or(0.0, |r| (flops / r.flops).max(bytes as f64 / r.bytes) + r.launch)
    }

    #[expect(clippy::unnecessary_wraps, reason = "what the operations return")]
    fn took(&self, flops: f64, bytes: usize) -> Result<()> {
        let spent = self.spent.get();
        self.spent.set(Spent { pass: spent.pass + self.seconds(flops, bytes), ..spent });
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "what the operations return")]
    fn updated(&self, bytes: usize) -> Result<()> {
        let spent = self.spent.get();
        self.spent.set(Spent { update: spent.update + self.seconds(0.0, bytes), ..spent });
        Ok(())
    }

    /// A product of `m` rows with a matrix, whichever way it goes. A GPU decodes what it cannot multiply with first.
    fn product(&self, m: usize, w: Weight<'_>, others: usize) -> Result<()> {
        let stored = w.bytes(w.rows);
        if self.precision.is_some() && w.buf.ty() != self.activations() {
            let decoded = buffer_bytes(self.activations(), w.rows * w.cols);
            self.took(0.0, stored + decoded)?;
            return self.took(products(m, w.rows, w.cols), decoded + others);
        }
        self.took(products(m, w.rows, w.cols), stored + others)
    }
}

/// Operations of a product `(m, n) · (n, k)`.
fn products(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// Bytes of `n` elements there.
fn read(x: Src<'_>, n: usize) -> usize {
    buffer_bytes(x.buf.ty(), n)
}

/// As [`read`], of what is written.
fn write(x: &Dst<'_>, n: usize) -> usize {
    buffer_bytes(x.buf.ty(), n)
}

/// Bytes that rounding reads and writes beside the parameter.
fn copies(round: &Round<'_>) -> usize {
    match round {
        Round::Nearest | Round::Stochastic { .. } => 0,
        Round::Kahan(copy) | Round::Master(copy) => 2 * copy.bytes(),
    }
}

impl Device for Dry {
    fn activations(&self) -> BlockType {
        self.precision.map_or(BlockType::F32, Precision::activations)
    }

    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        Ok(Buf::new(ty, len, self.ledger.reserve(tag, buffer_bytes(ty, len) as u64)?))
    }

    fn upload(&self, _: &[u8], _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: Src<'_>, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn load(&self, _: &Source, from: &TensorShape, to: &TensorShape, _: &mut Buf) -> Result<()> {
        self.reserve_load(from, to, self.load)?;
        self.ledger.moved("disk read", from.bytes());
        Ok(())
    }

    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, load: usize) -> Result<()> {
        let reserve = |(tag, bytes): (Tag, usize)| self.ledger.reserve(tag, bytes as u64);
        if self.precision.is_some() {
            gpu::load_scratch(from, to, load).into_iter().map(reserve).collect::<Result<Vec<_>>>()?;
        } else if from.ty != to.ty {
            drop(reserve((crate::weights::load::SCRATCH, load))?);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn spent(&self) -> Spent {
        self.spent.get()
    }

    fn copy(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.took(0.0, read(x, len) + write(&y, len))
    }

    fn fill(&self, y: Dst<'_>, len: usize, _: f32) -> Result<()> {
        self.took(0.0, write(&y, len))
    }

    fn axpy(&self, _: f32, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.took(0.0, read(x, len) + 2 * write(&y, len))
    }

    fn scale(&self, y: Dst<'_>, len: usize, _: f32) -> Result<()> {
        self.took(0.0, 2 * write(&y, len))
    }

    fn squared_norm(&self, x: Src<'_>, len: usize, _: Dst<'_>) -> Result<()> {
        self.updated(read(x, len))
    }

    fn gather(&self, x: Src<'_>, _: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.took(0.0, read(x, n * cols) + write(&y, n * cols))
    }

    fn scatter(&self, x: Src<'_>, _: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.took(0.0, read(x, n * cols) + write(&y, n * cols))
    }

    fn embed(&self, table: Weight<'_>, _: Src<'_>, m: usize, y: Dst<'_>) -> Result<()> {
        self.took(0.0, table.bytes(m) + write(&y, m * table.cols))
    }

    fn embed_vjp(&self, dy: Src<'_>, _: Src<'_>, m: usize, _: usize, cols: usize, d: Dst<'_>) -> Result<()> {
        self.took(0.0, read(dy, m * cols) + 2 * write(&d, m * cols))
    }

    fn linear(&self, x: Src<'_>, m: usize, w: Weight<'_>, _: Option<Src<'_>>, y: Dst<'_>, add: bool) -> Result<()> {
        self.product(m, w, read(x, m * w.cols) + (1 + usize::from(add)) * write(&y, m * w.rows))
    }

    fn linear_dx(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()> {
        self.product(m, w, read(dy, m * w.rows) + (1 + usize::from(add)) * write(&dx, m * w.cols))
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
        let bytes = read(dy, m * rows) + read(x, m * cols) + (1 + usize::from(add)) * write(&dw, rows * cols);
        self.took(products(m, rows, cols), bytes)
    }

    fn bias_vjp(&self, dy: Src<'_>, m: usize, rows: usize, _: Dst<'_>, _: bool) -> Result<()> {
        self.took(0.0, read(dy, m * rows))
    }

    fn rms_norm(&self, x: Src<'_>, _: Src<'_>, m: usize, cols: usize, _: f32, y: Dst<'_>) -> Result<()> {
        self.took(0.0, read(x, m * cols) + write(&y, m * cols))
    }

    fn rms_norm_vjp(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        _: Src<'_>,
        m: usize,
        cols: usize,
        _: f32,
        dx: Dst<'_>,
        dw: Option<(Dst<'_>, bool)>,
    ) -> Result<()> {
        let seen = read(dy, m * cols) + read(x, m * cols);
        if dw.is_some() {
            self.took(0.0, seen)?;
        }
        self.took(0.0, seen + 2 * write(&dx, m * cols))
    }

    fn rope(&self, x: Dst<'_>, m: usize, heads: usize, dim: usize, _: RopeTable<'_>) -> Result<()> {
        self.took(0.0, 2 * write(&x, m * heads * dim))
    }

    fn attention(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        _: Src<'_>,
        of: Causal,
        o: Dst<'_>,
        _: Dst<'_>,
    ) -> Result<()> {
        let (m, wide, narrow) = sides(of);
        // Two products over half of all pairs.
        let bytes = read(q, m * wide) + read(k, m * narrow) + read(v, m * narrow) + write(&o, m * wide);
        self.took(products(m, wide, of.length), bytes)
    }

    fn attention_vjp(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        o: Src<'_>,
        _: Src<'_>,
        d_o: Src<'_>,
        _: Src<'_>,
        of: Causal,
        dq: Dst<'_>,
        dk: Dst<'_>,
        dv: Dst<'_>,
    ) -> Result<()> {
        let (m, wide, narrow) = sides(of);
        let heads = read(q, m * wide) + read(o, m * wide) + read(d_o, m * wide) + write(&dq, m * wide);
        let kv = read(k, m * narrow) + read(v, m * narrow) + write(&dk, m * narrow) + write(&dv, m * narrow);
        // Five products over half of all pairs; scores and their gradients are made twice, for queries and for keys.
        self.took(3.5 * products(m, wide, of.length), 2 * heads + 2 * kv)
    }

    fn swiglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        self.took(0.0, read(g, len) + read(u, len) + write(&p, len))
    }

    fn swiglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        self.took(0.0, read(dp, len) + 2 * write(&g, len) + 2 * write(&u, len))
    }

    fn dropout(&self, x: Src<'_>, y: Dst<'_>, len: usize, _: Mask, add: bool) -> Result<()> {
        self.took(0.0, read(x, len) + (1 + usize::from(add)) * write(&y, len))
    }

    fn log_sum_exp(&self, a: Src<'_>, m: usize, n: usize, _: usize, _: Src<'_>, _: Dst<'_>, _: Dst<'_>) -> Result<()> {
        self.took(0.0, read(a, m * n))
    }

    fn argmax(&self, _: Src<'_>, _: usize, _: usize, _: &mut [Best]) -> Result<()> {
        Ok(())
    }

    fn cross_entropy_vjp(
        &self,
        a: Dst<'_>,
        m: usize,
        n: usize,
        _: usize,
        _: Src<'_>,
        _: Src<'_>,
        _: f32,
        _: f32,
    ) -> Result<bool> {
        self.took(0.0, 2 * write(&a, m * n))?;
        Ok(true)
    }

    fn adamw(&self, p: &mut Buf, g: Src<'_>, m: &mut Buf, v: &mut Buf, _: AdamW, round: Round<'_>) -> Result<()> {
        self.updated(2 * (p.bytes() + m.bytes() + v.bytes()) + read(g, p.len()) + copies(&round))
    }

    fn sgd(&self, p: &mut Buf, g: Src<'_>, u: Option<&mut Buf>, _: Sgd, round: Round<'_>) -> Result<()> {
        let momentum = u.map_or(0, |u| u.bytes());
        self.updated(2 * (p.bytes() + momentum) + read(g, p.len()) + copies(&round))
    }
}

/// Rows, and elements of a row of queries and of keys.
fn sides(of: Causal) -> (usize, usize, usize) {
    (of.sequences * of.length, of.heads * of.dim, of.kv_heads * of.dim)
}
