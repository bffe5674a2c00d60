//! The device seam: what training asks of a machine, operation by operation, each forward with its vector–Jacobian product.
//!
//! A step is data: each operation is an [`Op`] over buffers, checked and costed once by its description and carried out by
//! whichever executor a run has. All pass [`Device::run`], where cancellation, counts and failures on purpose stand.
//!
//! An engine above it never sees memory: it holds [`Buf`]s and names ranges of them. Four devices stand below it: the CPU
//! ([`crate::device::cpu`]), a GPU, candle ([`crate::device::candle`]) as the reference, and the dry one ([`crate::device::dry`]), which reserves what the others would and computes nothing:
//! a plan is a training step on the dry device, so plan and run cannot drift apart.
//!
//! Shapes are written `(rows, cols)`, row after row. `m` is the rows of a batch, `sequences · length`. Activations,
//! gradients and norms are f32 unless a buffer says otherwise; weights are whatever their buffer says. A reduction has one
//! fixed order, so a device gives the same bits for the same inputs; on the CPU whatever the number of threads.

mod calls;
pub mod candle;
pub mod cost;
pub mod cpu;
pub mod dry;
pub mod gpu;
pub mod meter;
pub mod op;
#[cfg(test)]
mod small_net;
#[cfg(test)]
mod tests;

use std::any::Any;

use crate::blocks::{BlockType, Scheme};
use crate::error::{Error, Result};
use crate::ledger::Tag;
use crate::model::Source;
pub use crate::ops::cpu::RopeLayout;
pub use crate::ops::descriptors::{Best, Causal, Mask};
use crate::shape::TensorShape;
pub use cost::{Cost, Lowering};
pub use meter::{Meter, Span};
pub use op::{Columns, Gradient, Op};

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

    /// The block type that its elements are stored as.
    pub fn ty(&self) -> BlockType {
        self.ty
    }

    /// Elements, not bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of payload: whole blocks, so a last one that is short counts in full.
    pub fn bytes(&self) -> usize {
        buffer_bytes(self.ty, self.len)
    }

    /// What holds the bytes, as the device that made the buffer knows it.
    ///
    /// # Errors
    /// [`Error::Internal`] for a buffer of another device.
    pub fn memory<M: Any>(&self) -> Result<&M> {
        self.memory.downcast_ref().ok_or_else(|| Error::Internal("a buffer of another device".into()))
    }

    /// [`Self::memory`], to write.
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
    /// The buffer that they lie in.
    pub buf: &'a Buf,
    /// The first element, counted in elements; at a block's start.
    pub at: usize,
}

impl<'a> From<&'a Buf> for Src<'a> {
    fn from(buf: &'a Buf) -> Self {
        Self { buf, at: 0 }
    }
}

impl Buf {
    /// From element `at` on, to read; whether it lies in the buffer is checked by the operation.
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
    /// The buffer that they lie in.
    pub buf: &'a mut Buf,
    /// The first element, counted in elements; at a block's start.
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
    /// The buffer that it lies in.
    pub buf: &'a Buf,
    /// First element, at a block's start; of a packed scheme at a row's.
    pub at: usize,
    /// Rows: outputs.
    pub rows: usize,
    /// Columns: inputs, a whole number of blocks.
    pub cols: usize,
    /// Rows of the whole matrix that the buffer holds, of which this may be some.
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
    /// Which two elements of a head are a pair.
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
        /// The run's seed, `run.seed`: the key of the generator.
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
    /// Query heads of the widest layer.
    pub heads: usize,
    /// Key–value heads of the widest layer.
    pub kv_heads: usize,
    /// Elements of a head of the widest layer.
    pub head_dim: usize,
    /// Rows of the largest basis that an optimizer finds, 0 for none.
    pub basis: usize,
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

impl std::ops::Add for Spent {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { pass: self.pass + other.pass, update: self.update + other.update }
    }
}

impl std::ops::Sub for Spent {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * -1.0
    }
}

impl std::ops::Mul<f64> for Spent {
    type Output = Self;
    fn mul(self, by: f64) -> Self {
        Self { pass: self.pass * by, update: self.update * by }
    }
}

/// An executor of [`Op`]s: memory, and how operations are carried out. Results that the host sees ([`Self::download`]) are
/// complete.
///
/// No operation allocates: scratch is the device's own, sized at its opening by [`Sizes`] and counted as `workspace`.
pub trait Device: Send {
    /// The type of activations and of their gradients: f32, or what this machine multiplies fastest. Logits and
    /// statistics are f32 on every device.
    fn activations(&self) -> BlockType {
        BlockType::F32
    }

    /// Bytes beside the budget, by name: what a driver and its libraries took for themselves.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        Ok(Vec::new())
    }

    /// True where nothing is computed, and one operation may stand for many that are alike.
    fn planned(&self) -> bool {
        false
    }

    /// From now on every operation stands for `times` like it; only a device that plans heeds it.
    fn weigh(&self, _times: usize) {}

    /// How long what was asked so far will take, on a device that computes nothing.
    fn spent(&self) -> Spent {
        Spent::default()
    }

    /// A zeroed buffer of `len` elements stored as `ty`, counted in the ledger under `tag`.
    ///
    /// # Errors
    /// [`Error::OverBudget`] when the budget has no room for it.
    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf>;

    /// A buffer for a tensor of a model, however that is stored.
    ///
    /// # Errors
    /// [`Error::OverBudget`] when the budget has no room for it.
    fn tensor(&self, tag: Tag, t: &TensorShape) -> Result<Buf> {
        match t.ty {
            Scheme::Block(ty) => self.buffer(tag, ty, t.rows * t.cols),
            Scheme::Packed(_) => Ok(self.buffer(tag, BlockType::I8, t.bytes() as usize)?.packed(t.ty)),
        }
    }

    /// Bytes from the host into a buffer, from element `at` on (at a block's start).
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    fn upload(&self, from: &[u8], to: Dst<'_>) -> Result<()>;

    /// Bytes of a buffer from element `at` on to the host; waits for what computes them.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    fn download(&self, from: Src<'_>, to: &mut [u8]) -> Result<()>;

    /// Reads a tensor of a model, stored as `from`, into a buffer of `to`'s type, converting where they differ.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`] when the file cannot be read; [`Error::OverBudget`] for the conversion;
    /// [`Error::Device`].
    fn load(&self, source: &Source, from: &TensorShape, to: &TensorShape, into: &mut Buf) -> Result<()>;

    /// Reserves, for as long as this lasts, what [`Self::load`] would hold beside the tensor, `load` being [`Sizes::load`]: a
    /// plan's side of it.
    ///
    /// # Errors
    /// [`Error::OverBudget`] when the budget has no room for it.
    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, load: usize) -> Result<()> {
        if from.ty != to.ty {
            drop(self.buffer(crate::weights::load::SCRATCH, BlockType::I8, load)?);
        }
        Ok(())
    }

    /// Waits for everything enqueued, so that clocks tell the truth.
    ///
    /// # Errors
    /// [`Error::Device`] with what an operation met that was enqueued before.
    fn wait(&self) -> Result<()>;

    /// Counts and costs of what it has been asked for.
    fn meter(&self) -> &Meter;

    /// How it carries operations out, as far as their cost depends on it.
    fn lowering(&self) -> Lowering {
        Lowering::Direct
    }

    /// Carries out, or enqueues, an operation that was checked; `cost` is what it takes. Only [`Self::run`] calls this.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    fn execute(&self, op: Op<'_>, cost: &Cost) -> Result<()>;

    /// Runs one operation: the one way that leads to an executor.
    ///
    /// # Errors
    /// [`Error::Internal`] for operands that do not fit; [`Error::Cancelled`] once the job's flag is set;
    /// [`Error::Device`] when the driver fails.
    fn run(&self, op: Op<'_>) -> Result<()> {
        op.check()?;
        let (name, cost) = (op.name(), op.cost(&self.lowering()));
        self.meter().run(name, cost, || self.execute(op, &cost))
    }
}
