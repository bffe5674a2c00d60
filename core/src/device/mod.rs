//! The device seam: what training asks of a machine, operation by operation, each forward with its vector–Jacobian product.
//!
//! An engine above it never sees memory: it holds [`Buf`]s and names ranges of them. Three devices stand below it: the CPU
//! ([`crate::device::cpu`]), a GPU, and the dry one ([`crate::device::dry`]), which reserves what the others would and computes nothing:
//! a plan is a training step on the dry device, so plan and run cannot drift apart.
//!
//! Shapes are written `(rows, cols)`, row after row. `m` is the rows of a batch, `sequences · length`. Activations,
//! gradients and norms are f32 unless a buffer says otherwise; weights are whatever their buffer says. A reduction has one
//! fixed order, so a device gives the same bits for the same inputs; on the CPU whatever the number of threads.

pub mod cpu;
pub mod dry;
pub mod gpu;

use std::any::Any;

use crate::blocks::{BlockType, Scheme};
use crate::error::{Error, Result};
use crate::ledger::Tag;
use crate::model::Source;
pub use crate::ops::cpu::RopeLayout;
pub use crate::ops::descriptors::{AdamW, Best, Causal, Mask, Sgd};
use crate::shape::TensorShape;

/// A block of a device's memory: `len` elements stored as `ty`, counted in the ledger for as long as it lives. Ids
/// (tokens, positions, row numbers) are `i32` buffers of their bits as `u32`.
pub struct Buf {
    ty: BlockType,
    /// How a matrix in it is stored, where that is no block type: its bytes are then the elements.
    packed: Option<Scheme>,
    len: usize,
    memory: Box<dyn Any + Send>,
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} × {})", self.len, self.ty)
    }
}

impl Buf {
    /// A buffer over a device's own kind of memory, which must hold [`buffer_bytes`] of it.
    pub fn new<M: Any + Send>(ty: BlockType, len: usize, memory: M) -> Self {
        Self { ty, packed: None, len, memory: Box::new(memory) }
    }

    /// The same bytes as the payload of a matrix stored as `scheme`.
    pub fn packed(self, scheme: Scheme) -> Self {
        Self { packed: scheme.block().is_none().then_some(scheme), ..self }
    }

    /// How a matrix in it is stored.
    pub fn scheme(&self) -> Scheme {
        self.packed.unwrap_or(Scheme::Block(self.ty))
    }

    /// How elements are stored.
    pub fn ty(&self) -> BlockType {
        self.ty
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of payload.
    pub fn bytes(&self) -> usize {
        buffer_bytes(self.ty, self.len)
    }

    /// The device's memory.
    ///
    /// # Errors
    /// [`Error::Internal`] for a buffer of another device.
    pub fn memory<M: Any>(&self) -> Result<&M> {
        self.memory.downcast_ref().ok_or_else(|| Error::Internal("a buffer of another device".into()))
    }

    /// The device's memory, to write.
    ///
    /// # Errors
    /// [`Error::Internal`] for a buffer of another device.
    pub fn memory_mut<M: Any>(&mut self) -> Result<&mut M> {
        self.memory.downcast_mut().ok_or_else(|| Error::Internal("a buffer of another device".into()))
    }
}

/// Bytes of `len` elements stored as `ty`; a last block may be short of elements, never of bytes.
pub fn buffer_bytes(ty: BlockType, len: usize) -> usize {
    len.div_ceil(ty.elems()) * ty.block_bytes()
}

/// Elements of a buffer from `at` on, to read.
#[derive(Clone, Copy, Debug)]
pub struct Src<'a> {
    /// The buffer.
    pub buf: &'a Buf,
    /// First element.
    pub at: usize,
}

impl<'a> From<&'a Buf> for Src<'a> {
    fn from(buf: &'a Buf) -> Self {
        Self { buf, at: 0 }
    }
}

impl Buf {
    /// From element `at` on, to read.
    pub fn at(&self, at: usize) -> Src<'_> {
        Src { buf: self, at }
    }

    /// From element `at` on, to write.
    pub fn at_mut(&mut self, at: usize) -> Dst<'_> {
        Dst { buf: self, at }
    }

    /// All of it, to read.
    pub fn all(&self) -> Src<'_> {
        Src { buf: self, at: 0 }
    }

    /// All of it, to write.
    pub fn all_mut(&mut self) -> Dst<'_> {
        Dst { buf: self, at: 0 }
    }
}

/// Elements of a buffer from `at` on, to write.
#[derive(Debug)]
pub struct Dst<'a> {
    /// The buffer.
    pub buf: &'a mut Buf,
    /// First element.
    pub at: usize,
}

impl Dst<'_> {
    /// The same place for a shorter while.
    pub fn again(&mut self) -> Dst<'_> {
        Dst { buf: self.buf, at: self.at }
    }
}

/// A weight matrix `(rows, cols)`, outputs by inputs, stored as its buffer says: quantized, bf16 or f32 alike.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Where it lies.
    pub buf: &'a Buf,
    /// First element, at a block's start; of a packed scheme at a row's.
    pub at: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs; whole blocks.
    pub cols: usize,
    /// Outputs of the matrix that the buffer holds.
    pub of: usize,
}

impl<'a> Weight<'a> {
    /// A whole buffer as a matrix.
    pub fn of(buf: &'a Buf, rows: usize, cols: usize) -> Self {
        Self { buf, at: 0, rows, cols, of: rows }
    }

    /// Bytes that reading `rows` rows of it takes.
    pub fn bytes(self, rows: usize) -> usize {
        match self.buf.scheme() {
            Scheme::Block(ty) => buffer_bytes(ty, rows * self.cols),
            Scheme::Packed(_) => self.buf.bytes() * rows / self.of.max(1),
        }
    }

    /// Rows `first..first + n`, such as a block of the vocabulary.
    pub fn rows(self, first: usize, n: usize) -> Self {
        Self { at: self.at + first * self.cols, rows: n, ..self }
    }
}

/// Rotary embedding of a batch: angles by position and the position of each row.
#[derive(Clone, Copy, Debug)]
pub struct RopeTable<'a> {
    /// Cosines, `(positions, half)`.
    pub cos: &'a Buf,
    /// Sines, `(positions, half)`.
    pub sin: &'a Buf,
    /// The position of each row, ids `(m)`.
    pub positions: &'a Buf,
    /// Pairs of a head that turn.
    pub half: usize,
    /// How they lie.
    pub pairs: RopeLayout,
    /// Backward: by the opposite angles.
    pub inverse: bool,
}

/// How an updated value becomes a stored one (fine-tuning.md §1.5). For f32 parameters all but `Master` mean the same.
#[derive(Debug)]
pub enum Round<'a> {
    /// To the nearest, ties to even.
    Nearest,
    /// Up or down with a chance in proportion, by Philox block `(key seed, stream, element)`: the expectation is exact.
    Stochastic {
        /// Of the run.
        seed: u64,
        /// Of this parameter and step, see [`crate::rng::Philox::stream`]; element `i` takes the low 16 bits of word
        /// `i % 4` of block `i / 4`.
        stream: u64,
    },
    /// To the nearest, what was lost being carried to the next step in a buffer of the parameter's type.
    Kahan(&'a mut Buf),
    /// Updates an f32 master copy, and stores the nearest of it.
    Master(&'a mut Buf),
}

/// The largest calls of a run, by which a device sizes its scratch before the run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of a batch: `sequences · length`.
    pub rows: usize,
    /// Widest side of a matrix in the layers or their adapters.
    pub cols: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the largest block of weights that one call multiplies with: the vocabulary or a block of it, or `cols`.
    pub outputs: usize,
    /// Rows of tokens whose logits are computed at once.
    pub head_rows: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of a batch.
    pub sequences: usize,
    /// Query heads.
    pub heads: usize,
    /// Key–value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Bytes of the largest conversion while loading (file type to held type), 0 for none.
    pub load: usize,
}

/// Predicted seconds of what was asked of a dry device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Forward and backward: once for every micro-batch.
    pub pass: f64,
    /// Norms of gradients and updates: once a step.
    pub update: f64,
}

/// A machine that trains. Every op checks lengths, runs or enqueues, and returns [`Error::Cancelled`] once the job's flag
/// is set; results that the host sees ([`Self::download`]) are complete.
///
/// `add` says whether an output is added to or overwritten. No op allocates: scratch is the device's own, sized at its
/// opening by [`Sizes`] and counted as `workspace`.
pub trait Device: Send {
    /// The type of activations and of their gradients: f32, or what this machine multiplies fastest. Logits and
    /// statistics are f32 on every device.
    fn activations(&self) -> BlockType {
        BlockType::F32
    }

    /// Bytes beside the budget, by name: what a driver and its libraries took for themselves.
    ///
    /// # Errors
    /// The device's.
    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        Ok(Vec::new())
    }

    /// How long what was asked so far will take, on a device that computes nothing.
    fn spent(&self) -> Spent {
        Spent::default()
    }

    /// A zeroed buffer.
    ///
    /// # Errors
    /// Over budget.
    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf>;

    /// A buffer for a tensor of a model, however that is stored.
    ///
    /// # Errors
    /// Over budget.
    fn tensor(&self, tag: Tag, t: &TensorShape) -> Result<Buf> {
        match t.ty {
            Scheme::Block(ty) => self.buffer(tag, ty, t.rows * t.cols),
            Scheme::Packed(_) => Ok(self.buffer(tag, BlockType::I8, t.bytes() as usize)?.packed(t.ty)),
        }
    }

    /// Bytes from the host into a buffer, from element `at` on (at a block's start).
    ///
    /// # Errors
    /// The device's.
    fn upload(&self, from: &[u8], to: Dst<'_>) -> Result<()>;

    /// Bytes of a buffer from element `at` on to the host; waits for what computes them.
    ///
    /// # Errors
    /// The device's.
    fn download(&self, from: Src<'_>, to: &mut [u8]) -> Result<()>;

    /// Reads a tensor of a model, stored as `from`, into a buffer of `to`'s type, converting where they differ.
    ///
    /// # Errors
    /// What the file or the device says.
    fn load(&self, source: &Source, from: &TensorShape, to: &TensorShape, into: &mut Buf) -> Result<()>;

    /// Reserves, for as long as this lasts, what [`Self::load`] would hold beside the tensor, `load` being [`Sizes::load`]: a
    /// plan's side of it.
    ///
    /// # Errors
    /// Over budget.
    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, load: usize) -> Result<()> {
        if from.ty != to.ty {
            drop(self.buffer(crate::weights::load::SCRATCH, BlockType::I8, load)?);
        }
        Ok(())
    }

    /// Waits for everything enqueued, so that clocks tell the truth.
    ///
    /// # Errors
    /// What an enqueued op met.
    fn wait(&self) -> Result<()>;

    /// `y ← x`, `len` elements of one type.
    ///
    /// # Errors
    /// The device's; as for every op below.
    fn copy(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()>;

    /// `y ← x`, bf16 to f32.
    ///
    /// # Errors
    /// The device's.
    fn cast(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        let (mut bits, mut wide) = ([0u16; 1024], [0.0f32; 1024]);
        for at in (0..len).step_by(1024) {
            let n = 1024.min(len - at);
            self.download(x.buf.at(x.at + at), bytemuck::cast_slice_mut(&mut bits[..n]))?;
            for (wide, bits) in wide.iter_mut().zip(&bits[..n]) {
                *wide = f32::from_bits(u32::from(*bits) << 16);
            }
            self.upload(bytemuck::cast_slice(&wide[..n]), y.buf.at_mut(y.at + at))?;
        }
        Ok(())
    }

    /// `y ← value`, f32.
    ///
    /// # Errors
    /// The device's.
    fn fill(&self, y: Dst<'_>, len: usize, value: f32) -> Result<()>;

    /// `y ← y + a · x`, f32.
    ///
    /// # Errors
    /// The device's.
    fn axpy(&self, a: f32, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()>;

    /// `y ← a · y`, f32.
    ///
    /// # Errors
    /// The device's.
    fn scale(&self, y: Dst<'_>, len: usize, a: f32) -> Result<()>;

    /// One f32: `to ← Σ x²` over `len` elements.
    ///
    /// # Errors
    /// The device's.
    fn squared_norm(&self, x: Src<'_>, len: usize, to: Dst<'_>) -> Result<()>;

    /// Rows `ids[i]` of `x (…, cols)` to rows `i` of `y (n, cols)`.
    ///
    /// # Errors
    /// The device's.
    fn gather(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()>;

    /// Rows `i` of `x (n, cols)` to rows `ids[i]`, each named once, of `y (…, cols)`; other rows stay.
    ///
    /// # Errors
    /// The device's.
    fn scatter(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()>;

    /// Embedding: rows `ids` of `table`, decoded, into `y (m, cols)`.
    ///
    /// # Errors
    /// The device's.
    fn embed(&self, table: Weight<'_>, ids: Src<'_>, m: usize, y: Dst<'_>) -> Result<()>;

    /// Its gradient: `d (rows, cols)` row `ids[i]` += `dy` row `i`, in order of `i`.
    ///
    /// # Errors
    /// The device's.
    fn embed_vjp(&self, dy: Src<'_>, ids: Src<'_>, m: usize, rows: usize, cols: usize, d: Dst<'_>) -> Result<()>;

    /// `y (m, w.rows) (+)= x (m, w.cols) · wᵀ (+ bias (w.rows))`.
    ///
    /// # Errors
    /// The device's.
    fn linear(&self, x: Src<'_>, m: usize, w: Weight<'_>, bias: Option<Src<'_>>, y: Dst<'_>, add: bool) -> Result<()>;

    /// `dx (m, w.cols) (+)= dy (m, w.rows) · w`, quantized weights being decoded block by block.
    ///
    /// # Errors
    /// The device's.
    fn linear_dx(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()>;

    /// `dw (rows, cols) (+)= dyᵀ · x` with `dy (m, rows)`, `x (m, cols)`.
    ///
    /// # Errors
    /// The device's.
    fn linear_dw(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        m: usize,
        rows: usize,
        cols: usize,
        dw: Dst<'_>,
        add: bool,
    ) -> Result<()>;

    /// `db (rows) (+)= Σ_i dy (m, rows)`.
    ///
    /// # Errors
    /// The device's.
    fn bias_vjp(&self, dy: Src<'_>, m: usize, rows: usize, db: Dst<'_>, add: bool) -> Result<()>;

    /// `y = x · ρ ⊙ w`, `ρ = (mean x² + eps)^−½` of each row; `w (cols)`.
    ///
    /// # Errors
    /// The device's.
    fn rms_norm(&self, x: Src<'_>, w: Src<'_>, m: usize, cols: usize, eps: f32, y: Dst<'_>) -> Result<()>;

    /// `dx += ρ (dy ⊙ w) − x ρ³ / cols · ⟨dy ⊙ w, x⟩`, and where wanted `dw (+)= Σ dy ⊙ x ρ` (with whether to add).
    ///
    /// # Errors
    /// The device's.
    fn rms_norm_vjp(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        w: Src<'_>,
        m: usize,
        cols: usize,
        eps: f32,
        dx: Dst<'_>,
        dw: Option<(Dst<'_>, bool)>,
    ) -> Result<()>;

    /// Rotates the heads of `x (m, heads · dim)` in place; with `inverse` it is its own vector–Jacobian product.
    ///
    /// # Errors
    /// The device's.
    fn rope(&self, x: Dst<'_>, m: usize, heads: usize, dim: usize, turn: RopeTable<'_>) -> Result<()>;

    /// `o = softmax(q kᵀ · scale) v` over what each token may see; `q, o (m, heads · dim)`, `k, v (m, kv_heads · dim)`,
    /// `segments` ids `(m)` as [`crate::train::batch::Batch::segments`]; leaves `log_sum_exp (m, heads)`, the natural logarithm of each
    /// row's sum of exponentials.
    ///
    /// # Errors
    /// The device's.
    fn attention(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        o: Dst<'_>,
        log_sum_exp: Dst<'_>,
    ) -> Result<()>;

    /// Its vector–Jacobian product by tiles, `P = exp(S − log_sum_exp)` anew, `D = rowsum(do ⊙ o)`; overwrites `dq`, `dk`, `dv`,
    /// those of keys and values summed over their group of query heads.
    ///
    /// # Errors
    /// The device's.
    fn attention_vjp(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        o: Src<'_>,
        log_sum_exp: Src<'_>,
        d_o: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        dq: Dst<'_>,
        dk: Dst<'_>,
        dv: Dst<'_>,
    ) -> Result<()>;

    /// `p = g · σ(g) · u`.
    ///
    /// # Errors
    /// The device's.
    fn swiglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()>;

    /// In place: `u ← dp · g σ(g)`, `g ← dp · u σ(g) (1 + g (1 − σ(g)))`.
    ///
    /// # Errors
    /// The device's.
    fn swiglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()>;

    /// `y (+)= mask ⊙ x / (1 − rate)`, `len` elements of one type; its own vector–Jacobian product.
    ///
    /// # Errors
    /// The device's.
    fn dropout(&self, x: Src<'_>, y: Dst<'_>, len: usize, mask: Mask, add: bool) -> Result<()>;

    /// Takes a block of logits `a (m, n)`, the vocabulary's entries `first..first + n`, into the running
    /// `log_sum_exp ← ln(e^log_sum_exp + Σ e^a)` (start it at −∞) and `picked ← a[target − first]` where a row's target lies in the block.
    /// `targets` ids `(m)`.
    ///
    /// # Errors
    /// The device's.
    fn log_sum_exp(
        &self,
        a: Src<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Dst<'_>,
        picked: Dst<'_>,
    ) -> Result<()>;

    /// Takes a block of logits `a (m, n)`, the vocabulary's entries `first..first + n`, into `best (m)`: the largest logit of
    /// each row and its entry. Ties go to the lower entry, and NaN is never taken. A device's default is by the host, a few
    /// dozen kilobytes at a time.
    ///
    /// # Errors
    /// The device's; [`Error::Internal`] when lengths differ.
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

    /// The gradient of the loss in a block of logits, in place: `a ← scale · (exp(a − log_sum_exp) − [target])`, zeros in rows
    /// without a target. Returns false when every element before scaling is below `eps` in size, so that the caller may
    /// skip the block; a device for which that answer would cost a wait returns true.
    ///
    /// # Errors
    /// The device's.
    fn cross_entropy_vjp(
        &self,
        a: Dst<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Src<'_>,
        scale: f32,
        eps: f32,
    ) -> Result<bool>;

    /// One AdamW step, in one pass and without temporaries: `m ← β1 m + (1−β1) g`, `v ← β2 v + (1−β2) g²`,
    /// `p ← p − lr (m / c1 / (√(v / c2) + eps) + λ p)`. Moments are f32 or bf16 (to the nearest); the gradient is f32, on a GPU
    /// bf16 too.
    ///
    /// # Errors
    /// The device's.
    fn adamw(&self, p: &mut Buf, g: Src<'_>, m: &mut Buf, v: &mut Buf, by: AdamW, round: Round<'_>) -> Result<()>;

    /// One SGD step, in one pass; `u` (f32 or bf16) where there is momentum.
    ///
    /// # Errors
    /// The device's.
    fn sgd(&self, p: &mut Buf, g: Src<'_>, u: Option<&mut Buf>, by: Sgd, round: Round<'_>) -> Result<()>;
}
