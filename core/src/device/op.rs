//! A step as data: every operation a device is asked for, its operands, and the check that they fit.
//!
//! One description serves all executors: a CPU and a GPU compute it, the dry device adds up its [`super::Cost`], and bounds
//! are checked here once. Nothing is recorded or fused: an operation runs when it is asked for.

use super::{Best, Buf, Causal, Dst, Mask, RopeTable, Round, Src, Weight, buffer_bytes};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::descriptors::{Batched, Reduction, Window};
use crate::ops::rule::Rule;

/// One operation. `add` says whether an output is added to or overwritten; ids are `i32` buffers of their bits as `u32`.
#[allow(missing_docs, reason = "each operation names its fields in its formula")]
#[derive(Debug)]
pub enum Op<'a> {
    /// `y ← x`, `len` elements of one type.
    Copy { x: Src<'a>, y: Dst<'a>, len: usize },
    /// `y (f32) ← x (bf16)`, `len` elements.
    Cast { x: Src<'a>, y: Dst<'a>, len: usize },
    /// `y ← value`, `len` elements.
    Fill { y: Dst<'a>, len: usize, value: f32 },
    /// `y ← y + a · x`, `len` elements.
    Axpy { a: f32, x: Src<'a>, y: Dst<'a>, len: usize },
    /// `y ← a · y`, `len` elements.
    Scale { y: Dst<'a>, len: usize, a: f32 },
    /// One f32 a span of `x`, `(its first element, elements)`: `to[i] ← Σ x²` over the elements of span `i`.
    SquaredNorms { x: Src<'a>, spans: &'a [(usize, usize)], to: Dst<'a> },
    /// Rows `ids[i]` of `x (…, cols)` to rows `i` of `y (n, cols)`.
    Gather { x: Src<'a>, ids: Src<'a>, n: usize, cols: usize, y: Dst<'a> },
    /// Rows `i` of `x (n, cols)` to rows `ids[i]`, which rise, of `y (…, cols)`; other rows stay.
    Scatter { x: Src<'a>, ids: Src<'a>, n: usize, cols: usize, y: Dst<'a> },
    /// Rows `ids` of `table`, decoded, into `y (m, table.cols)`.
    Embed { table: Weight<'a>, ids: Src<'a>, m: usize, y: Dst<'a> },
    /// Row `ids[i]` of `d (rows, cols)` += row `i` of `dy (m, cols)`, in order of `i`.
    EmbedVjp { dy: Src<'a>, ids: Src<'a>, m: usize, rows: usize, cols: usize, d: Dst<'a> },
    /// `y (m, w.rows) (+)= x (m, w.cols) · wᵀ (+ bias (w.rows))`.
    Linear { x: Src<'a>, m: usize, w: Weight<'a>, bias: Option<Src<'a>>, y: Dst<'a>, add: bool },
    /// `dx (m, w.cols) (+)= dy (m, w.rows) · w`, quantized weights being decoded block by block.
    LinearDx { dy: Src<'a>, m: usize, w: Weight<'a>, dx: Dst<'a>, add: bool },
    /// `dw (rows, cols) (+)= dyᵀ · x` with `dy (m, rows)`, `x (m, cols)`.
    LinearDw { dy: Src<'a>, x: Src<'a>, m: usize, rows: usize, cols: usize, dw: Dst<'a>, add: bool },
    /// `c (batch, m, n) (+)= a · b`, matrix by matrix, as `of` says they lie.
    BatchedMatMul { a: Src<'a>, b: Src<'a>, of: Batched, c: Dst<'a>, add: bool },
    /// `y (rows) ←` the sum, mean or maximum of each row of `x (rows, cols)`.
    Reduce { x: Src<'a>, rows: usize, cols: usize, how: Reduction, y: Dst<'a> },
    /// `y (of.outputs(), of.patch())`: the windows of a convolution over `x (n, channels, height, width)`, zeros beyond the
    /// edges, so that a convolution is a linear.
    Im2col { x: Src<'a>, of: Window, y: Dst<'a> },
    /// Its vector–Jacobian product: `dx (n, channels, height, width) ← Σ` of what `dy` has for each element.
    Col2im { dy: Src<'a>, of: Window, dx: Dst<'a> },
    /// `y (w.rows)`: the Euclidean length of each row of `w`, or with `low` of `w + s · b · a`, `a (r, w.cols)`, `b (w.rows, r)`,
    /// which is never formed.
    RowNorms { w: Weight<'a>, low: Option<(Weight<'a>, Weight<'a>, f32)>, y: Dst<'a> },
    /// `y (m, cols) (+)= x ⊙ (by / over) + bias`, with `by`, `over` and `bias (cols)`.
    ScaleColumns {
        x: Src<'a>,
        m: usize,
        cols: usize,
        by: Src<'a>,
        over: Src<'a>,
        bias: Option<Src<'a>>,
        y: Dst<'a>,
        add: bool,
    },
    /// `to (cols) (+)= Σ_i x (m, cols) ⊙ y (m, cols) / over (cols)`.
    ColumnDot { x: Src<'a>, y: Src<'a>, m: usize, cols: usize, over: Src<'a>, to: Dst<'a>, add: bool },
    /// Makes the rows of `y (rows, cols)` orthonormal, each of what it adds to those before it.
    Orthonormalize { y: Dst<'a>, rows: usize, cols: usize },
    /// `vectors (rank, rows)`: left singular vectors of `z (rows, cols)`, those of the largest singular values first.
    LeadingVectors { z: Src<'a>, rows: usize, cols: usize, rank: usize, vectors: Dst<'a> },
    /// `db (rows) (+)= Σ_i dy (m, rows)`.
    BiasVjp { dy: Src<'a>, m: usize, rows: usize, db: Dst<'a>, add: bool },
    /// `y = x · ρ ⊙ w`, `ρ = (mean x² + eps)^−½` of each row of `x (m, cols)`; `w (cols)`.
    RmsNorm { x: Src<'a>, w: Src<'a>, m: usize, cols: usize, eps: f32, y: Dst<'a> },
    /// `dx += ρ (dy ⊙ w) − x ρ³ / cols · ⟨dy ⊙ w, x⟩`, and where wanted `dw (+)= Σ dy ⊙ x ρ` (with whether to add).
    RmsNormVjp {
        dy: Src<'a>,
        x: Src<'a>,
        w: Src<'a>,
        m: usize,
        cols: usize,
        eps: f32,
        dx: Dst<'a>,
        dw: Option<(Dst<'a>, bool)>,
    },
    /// Rotates the heads of `x (m, heads · dim)` in place; with `table.inverse` it is its own vector–Jacobian product.
    Rope { x: Dst<'a>, m: usize, heads: usize, dim: usize, table: RopeTable<'a> },
    /// `o = softmax(q kᵀ · scale) v` over what each token may see; `q, o (m, heads · dim)`, `k, v (m, kv_heads · dim)`,
    /// `segments (m)`; leaves `log_sum_exp (m, heads)`.
    Attention { q: Src<'a>, k: Src<'a>, v: Src<'a>, segments: Src<'a>, of: Causal, o: Dst<'a>, log_sum_exp: Dst<'a> },
    /// Its vector–Jacobian product; overwrites `dq`, `dk`, `dv`, the last two summed over their group of query heads.
    AttentionVjp {
        q: Src<'a>,
        k: Src<'a>,
        v: Src<'a>,
        o: Src<'a>,
        log_sum_exp: Src<'a>,
        d_o: Src<'a>,
        segments: Src<'a>,
        of: Causal,
        dq: Dst<'a>,
        dk: Dst<'a>,
        dv: Dst<'a>,
    },
    /// `p = g · σ(g) · u`, `len` elements.
    SwiGlu { g: Src<'a>, u: Src<'a>, len: usize, p: Dst<'a> },
    /// In place: `u ← dp · g σ(g)`, `g ← dp · u σ(g) (1 + g (1 − σ(g)))`.
    SwiGluVjp { dp: Src<'a>, g: Dst<'a>, u: Dst<'a>, len: usize },
    /// `p = gelu(g) · u`, gelu by its tanh approximation.
    GeGlu { g: Src<'a>, u: Src<'a>, len: usize, p: Dst<'a> },
    /// In place: `u ← dp · gelu(g)`, `g ← dp · u · gelu'(g)`.
    GeGluVjp { dp: Src<'a>, g: Dst<'a>, u: Dst<'a>, len: usize },
    /// `y (+)= mask ⊙ x / (1 − rate)`; its own vector–Jacobian product.
    Dropout { x: Src<'a>, y: Dst<'a>, len: usize, mask: Mask, add: bool },
    /// Takes logits `a (m, n)` of the entries `columns` into the running `log_sum_exp (m)` and `picked (m)`, the logit of a
    /// row's target where that is among them; `targets (m)`. Where wanted, `most (m)` ← the largest logit of each row: ∞ where
    /// its target is among them, −∞ where it has none.
    LogSumExp {
        a: Src<'a>,
        m: usize,
        n: usize,
        columns: Columns<'a>,
        targets: Src<'a>,
        log_sum_exp: Dst<'a>,
        picked: Dst<'a>,
        most: Option<Dst<'a>>,
    },
    /// `ids (n)` ← the elements of `x (n)` in order of falling value, those of one value in order of number; by the total order
    /// of floats, so that what is no number has its place too.
    Order { x: Src<'a>, n: usize, ids: Dst<'a> },
    /// Takes logits `a (best.len(), n)` of the entries `first..` into the most likely entry of each row; ties go to the lower
    /// entry, and NaN is never taken.
    Argmax { a: Src<'a>, n: usize, first: usize, best: &'a mut [Best] },
    /// In place `a ← scale · (exp(a − log_sum_exp) − [target])`, zeros in rows without a target. `matters` becomes false where
    /// every element before scaling is below `eps`, and stays true where that answer would cost a wait.
    CrossEntropyVjp {
        a: Dst<'a>,
        m: usize,
        n: usize,
        columns: Columns<'a>,
        targets: Src<'a>,
        log_sum_exp: Src<'a>,
        scale: f32,
        eps: f32,
        matters: &'a mut bool,
    },
    /// `p ← rule(p, clamp(scale · g, ± clamp))` for each of `len` elements, and so its `state`, in one pass without temporaries:
    /// an optimizer's update, or any other function of each element alone. `numbers` are the rule's, in its order.
    Elementwise {
        rule: &'static Rule,
        p: Dst<'a>,
        len: usize,
        g: Gradient<Src<'a>>,
        state: &'a mut [Buf],
        numbers: &'a [f32],
        scale: f32,
        clamp: f32,
        round: Round<'a>,
    },
}

/// Which entries of the vocabulary the columns of a block of logits are.
#[derive(Clone, Copy, Debug)]
pub enum Columns<'a> {
    /// Neighbours, from this one on.
    From(usize),
    /// These ids, one a column.
    Listed(Src<'a>),
}

impl Columns<'_> {
    fn operand(&self, n: usize) -> Option<Operand<'_>> {
        match self {
            Self::From(_) => None,
            Self::Listed(ids) => Some(Operand { moved: 0, ..read("columns", *ids, n, Kind::Ids) }),
        }
    }
}

/// Where the gradient of an update comes from.
#[derive(Clone, Copy, Debug)]
pub enum Gradient<T> {
    /// In a buffer, an element for each of the parameter's.
    Held(T),
    /// Number `i` of [`crate::rng::Philox::normals`] for element `i`, made where it is needed: no gradient is held.
    Normal {
        /// The key of the generator: the run's seed.
        seed: u64,
        /// The stream of this step and parameter.
        stream: u64,
    },
}

impl Gradient<Dst<'_>> {
    /// The same gradient, to read.
    pub fn source(&self) -> Gradient<Src<'_>> {
        match self {
            Self::Held(g) => Gradient::Held(g.buf.at(g.at)),
            Self::Normal { seed, stream } => Gradient::Normal { seed: *seed, stream: *stream },
        }
    }
}

/// Operations that one routine of an executor carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Elements and rows from place to place, and sums over them.
    Move,
    /// Products with matrices and tables.
    Product,
    /// What lies between the products of a layer.
    Layer,
    /// The cross-entropy of logits, and functions of each element such as updates.
    Head,
    /// Batched products, reductions, and the windows of convolutions.
    Net,
}

/// What an operation does to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Overwrites it.
    Write,
    /// Reads it and writes it.
    Both,
}

/// What an operand must be stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 or bf16, as the device computes; some devices take only f32.
    Real,
    /// f32 on every device.
    F32,
    /// Ids: i32.
    Ids,
    /// Any block type, quantized ones too.
    Stored,
}

/// Elements that an operation touches.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The name of its field in [`Op`].
    pub name: &'static str,
    /// The buffer that it lies in.
    pub buf: &'a Buf,
    /// Its first element.
    pub at: usize,
    /// Elements that must be there.
    pub len: usize,
    /// Elements that go over the memory bus; 0 for a single number.
    pub moved: usize,
    /// Whether it is read, overwritten, or both.
    pub access: Access,
    /// What it must be stored as.
    pub kind: Kind,
}

impl Operand<'_> {
    /// Bytes read and bytes written: [`Self::moved`] elements as they are stored.
    pub fn bytes(&self) -> (usize, usize) {
        let bytes = buffer_bytes(self.buf.ty(), self.moved);
        match self.access {
            Access::Read => (bytes, 0),
            Access::Write => (0, bytes),
            Access::Both => (bytes, bytes),
        }
    }

    fn check(&self, op: &str) -> Result<()> {
        let Self { name, buf, at, len, kind, .. } = *self;
        let ty = buf.ty();
        let stored = match kind {
            Kind::Stored => true,
            Kind::Real => matches!(ty, BlockType::F32 | BlockType::Bf16),
            Kind::F32 => ty == BlockType::F32,
            Kind::Ids => ty == BlockType::I32,
        };
        if !stored {
            return Err(Error::Internal(format!("{op}: `{name}` is a buffer of {ty} where {kind:?} is wanted")));
        }
        let fits = at.checked_add(len).is_some_and(|end| end <= buf.len()) && at.is_multiple_of(ty.elems());
        if fits {
            return Ok(());
        }
        Err(Error::Internal(format!("{op}: `{name}` is elements {at} + {len} of a buffer of {}", buf.len())))
    }
}

/// An operand that is only read.
fn read<'a>(name: &'static str, x: Src<'a>, len: usize, kind: Kind) -> Operand<'a> {
    Operand { name, buf: x.buf, at: x.at, len, moved: len, access: Access::Read, kind }
}

/// An operand that is overwritten, or with `both` read first.
fn write<'a>(name: &'static str, x: &'a Dst<'_>, len: usize, kind: Kind, both: bool) -> Operand<'a> {
    let access = if both { Access::Both } else { Access::Write };
    Operand { name, buf: x.buf, at: x.at, len, moved: len, access, kind }
}

/// A weight matrix, read, however it is stored.
fn weight<'a>(w: Weight<'a>) -> Operand<'a> {
    if w.buf.scheme().block().is_some() {
        return read("w", w.buf.at(w.at), w.rows * w.cols, Kind::Stored);
    }
    // The elements of a payload are its bytes.
    Operand { moved: w.bytes(w.rows), ..read("w", w.buf.at(0), w.buf.len(), Kind::Stored) }
}

/// A parameter or its state, updated.
fn updated<'a>(name: &'static str, x: &'a Buf, len: usize) -> Operand<'a> {
    Operand { name, buf: x, at: 0, len, moved: len, access: Access::Both, kind: Kind::Real }
}

/// What rounding reads and writes beside a parameter.
fn copy<'a>(round: &'a Round<'_>, len: usize) -> Option<Operand<'a>> {
    match round {
        Round::Nearest | Round::Stochastic { .. } => None,
        Round::Kahan(copy) => Some(updated("rounding copy", copy, len)),
        Round::Master(copy) => Some(Operand { kind: Kind::F32, ..updated("master copy", copy, len) }),
    }
}

/// Tokens, elements of a row of queries and of a row of keys.
pub(super) fn sides(of: Causal) -> (usize, usize, usize) {
    (of.sequences * of.length, of.heads * of.dim, of.kv_heads * of.dim)
}

impl Op<'_> {
    /// Its name, for errors and timelines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Copy { .. } => "copy",
            Self::Cast { .. } => "cast",
            Self::Fill { .. } => "fill",
            Self::Axpy { .. } => "axpy",
            Self::Scale { .. } => "scale",
            Self::SquaredNorms { .. } => "squared norms",
            Self::Gather { .. } => "gather",
            Self::Scatter { .. } => "scatter",
            Self::Embed { .. } => "embedding",
            Self::EmbedVjp { .. } => "embedding vjp",
            Self::Linear { .. } => "linear",
            Self::LinearDx { .. } => "linear dx",
            Self::LinearDw { .. } => "linear dw",
            Self::BiasVjp { .. } => "bias vjp",
            Self::BatchedMatMul { .. } => "batched product",
            Self::Reduce { .. } => "reduction",
            Self::Im2col { .. } => "im2col",
            Self::Col2im { .. } => "col2im",
            Self::RowNorms { .. } => "row norms",
            Self::ScaleColumns { .. } => "scaled columns",
            Self::ColumnDot { .. } => "column dot",
            Self::Orthonormalize { .. } => "orthonormal rows",
            Self::LeadingVectors { .. } => "leading vectors",
            Self::RmsNorm { .. } => "rms norm",
            Self::RmsNormVjp { .. } => "rms norm vjp",
            Self::Rope { .. } => "rope",
            Self::Attention { .. } => "attention",
            Self::AttentionVjp { .. } => "attention vjp",
            Self::SwiGlu { .. } => "swiglu",
            Self::SwiGluVjp { .. } => "swiglu vjp",
            Self::GeGlu { .. } => "geglu",
            Self::GeGluVjp { .. } => "geglu vjp",
            Self::Dropout { .. } => "dropout",
            Self::LogSumExp { .. } => "log-sum-exp",
            Self::Order { .. } => "order",
            Self::Argmax { .. } => "argmax",
            Self::CrossEntropyVjp { .. } => "cross-entropy vjp",
            Self::Elementwise { rule, .. } => rule.name,
        }
    }

    /// Which routine of an executor carries it out.
    pub fn family(&self) -> Family {
        match self {
            Self::Copy { .. }
            | Self::Cast { .. }
            | Self::Fill { .. }
            | Self::Axpy { .. }
            | Self::Scale { .. }
            | Self::SquaredNorms { .. }
            | Self::Gather { .. }
            | Self::Scatter { .. } => Family::Move,
            Self::Embed { .. }
            | Self::EmbedVjp { .. }
            | Self::Linear { .. }
            | Self::LinearDx { .. }
            | Self::LinearDw { .. }
            | Self::BiasVjp { .. }
            | Self::RowNorms { .. }
            | Self::ScaleColumns { .. }
            | Self::ColumnDot { .. }
            | Self::Orthonormalize { .. }
            | Self::LeadingVectors { .. } => Family::Product,
            Self::BatchedMatMul { .. } | Self::Reduce { .. } | Self::Im2col { .. } | Self::Col2im { .. } => Family::Net,
            Self::RmsNorm { .. }
            | Self::RmsNormVjp { .. }
            | Self::Rope { .. }
            | Self::Attention { .. }
            | Self::AttentionVjp { .. }
            | Self::SwiGlu { .. }
            | Self::SwiGluVjp { .. }
            | Self::GeGlu { .. }
            | Self::GeGluVjp { .. }
            | Self::Dropout { .. } => Family::Layer,
            Self::LogSumExp { .. }
            | Self::Order { .. }
            | Self::Argmax { .. }
            | Self::CrossEntropyVjp { .. }
            | Self::Elementwise { .. } => Family::Head,
        }
    }

    /// The defect of an executor's routine that was given an operation of another [`Family`].
    pub fn stray(&self) -> Error {
        Error::Internal(format!("{} went to the wrong routine of its device", self.name()))
    }

    /// Calls `each` with every operand.
    pub fn operands(&self, each: &mut dyn FnMut(Operand<'_>)) {
        match self.family() {
            Family::Move => self.moves(each),
            Family::Product => self.products(each),
            Family::Layer => self.layers(each),
            Family::Head => self.heads(each),
            Family::Net => self.nets(each),
        }
    }

    fn moves(&self, each: &mut dyn FnMut(Operand<'_>)) {
        use Kind::{F32, Ids, Real, Stored};
        match self {
            Self::Copy { x, y, len } => {
                each(read("x", *x, *len, Stored));
                each(write("y", y, *len, Stored, false));
            }
            Self::Cast { x, y, len } => {
                each(read("x", *x, *len, Real));
                each(write("y", y, *len, Real, false));
            }
            Self::Fill { y, len, .. } => each(write("y", y, *len, Real, false)),
            Self::Axpy { x, y, len, .. } => {
                each(read("x", *x, *len, Real));
                each(write("y", y, *len, Real, true));
            }
            Self::Scale { y, len, .. } => each(write("y", y, *len, Real, true)),
            Self::SquaredNorms { x, spans, to } => {
                let end = spans.iter().map(|(at, len)| at.saturating_add(*len)).max().unwrap_or(0);
                each(Operand { moved: spans.iter().map(|(_, len)| len).sum(), ..read("x", *x, end, Real) });
                each(Operand { moved: 0, ..write("to", to, spans.len(), F32, false) });
            }
            Self::Gather { x, ids, n, cols, y } => {
                each(Operand { len: *cols, ..read("x", *x, n * cols, Real) });
                each(Operand { moved: 0, ..read("ids", *ids, *n, Ids) });
                each(write("y", y, n * cols, Real, false));
            }
            Self::Scatter { x, ids, n, cols, y } => {
                each(read("x", *x, n * cols, Real));
                each(Operand { moved: 0, ..read("ids", *ids, *n, Ids) });
                each(Operand { len: *cols, ..write("y", y, n * cols, Real, false) });
            }
            _ => {}
        }
    }

    fn products(&self, each: &mut dyn FnMut(Operand<'_>)) {
        use Kind::{Ids, Real};
        match self {
            Self::Embed { table, ids, m, y } => {
                let n = m * table.cols;
                let moved = if table.buf.scheme().block().is_some() { n } else { table.bytes(*m) };
                each(Operand { moved, ..weight(*table) });
                each(Operand { moved: 0, ..read("ids", *ids, *m, Ids) });
                each(write("y", y, n, Real, false));
            }
            Self::EmbedVjp { dy, ids, m, rows, cols, d } => {
                each(read("dy", *dy, m * cols, Real));
                each(Operand { moved: 0, ..read("ids", *ids, *m, Ids) });
                each(Operand { moved: m * cols, ..write("d", d, rows * cols, Real, true) });
            }
            Self::Linear { x, m, w, bias, y, add } => {
                each(read("x", *x, m * w.cols, Real));
                each(weight(*w));
                if let Some(bias) = bias {
                    each(read("bias", *bias, w.rows, Real));
                }
                each(write("y", y, m * w.rows, Real, *add));
            }
            Self::LinearDx { dy, m, w, dx, add } => {
                each(read("dy", *dy, m * w.rows, Real));
                each(weight(*w));
                each(write("dx", dx, m * w.cols, Real, *add));
            }
            Self::LinearDw { dy, x, m, rows, cols, dw, add } => {
                each(read("dy", *dy, m * rows, Real));
                each(read("x", *x, m * cols, Real));
                each(write("dw", dw, rows * cols, Real, *add));
            }
            Self::BiasVjp { dy, m, rows, db, add } => {
                each(read("dy", *dy, m * rows, Real));
                each(write("db", db, *rows, Real, *add));
            }
            Self::RowNorms { w, low, y } => {
                each(weight(*w));
                if let Some((a, b, _)) = low {
                    each(Operand { name: "a", ..weight(*a) });
                    each(Operand { name: "b", ..weight(*b) });
                }
                each(write("y", y, w.rows, Kind::F32, false));
            }
            Self::ScaleColumns { x, m, cols, by, over, bias, y, add } => {
                each(read("x", *x, m * cols, Kind::Real));
                each(read("by", *by, *cols, Kind::F32));
                each(read("over", *over, *cols, Kind::F32));
                if let Some(bias) = bias {
                    each(read("bias", *bias, *cols, Kind::F32));
                }
                each(write("y", y, m * cols, Kind::Real, *add));
            }
            Self::ColumnDot { x, y, m, cols, over, to, add } => {
                each(read("x", *x, m * cols, Kind::Real));
                each(read("y", *y, m * cols, Kind::Real));
                each(read("over", *over, *cols, Kind::F32));
                each(write("to", to, *cols, Kind::Real, *add));
            }
            Self::Orthonormalize { y, rows, cols } => each(write("y", y, rows * cols, Kind::F32, true)),
            Self::LeadingVectors { z, rows, cols, rank, vectors } => {
                each(read("z", *z, rows * cols, Kind::F32));
                each(write("vectors", vectors, rank * rows, Kind::F32, false));
            }
            _ => {}
        }
    }

    fn layers(&self, each: &mut dyn FnMut(Operand<'_>)) {
        use Kind::{F32, Ids, Real};
        match self {
            Self::RmsNorm { x, w, m, cols, y, .. } => {
                each(read("x", *x, m * cols, Real));
                each(read("w", *w, *cols, Real));
                each(write("y", y, m * cols, Real, false));
            }
            Self::RmsNormVjp { dy, x, w, m, cols, dx, dw, .. } => {
                // The gradient of the weights is a second pass over both.
                let passes = if dw.is_some() { 2 } else { 1 };
                each(Operand { moved: passes * m * cols, ..read("dy", *dy, m * cols, Real) });
                each(Operand { moved: passes * m * cols, ..read("x", *x, m * cols, Real) });
                each(read("w", *w, *cols, Real));
                each(write("dx", dx, m * cols, Real, true));
                if let Some((dw, add)) = dw {
                    each(write("dw", dw, *cols, Real, *add));
                }
            }
            Self::Rope { x, m, heads, dim, table } => {
                each(write("x", x, m * heads * dim, Real, true));
                each(Operand { moved: 0, ..read("positions", table.positions.all(), *m, Ids) });
                for (name, side) in [("cos", table.cos), ("sin", table.sin)] {
                    each(Operand { moved: m * table.half, ..read(name, side.all(), table.half, F32) });
                }
            }
            Self::Attention { q, k, v, segments, of, o, log_sum_exp } => {
                let (m, wide, narrow) = sides(*of);
                each(read("q", *q, m * wide, Real));
                each(read("k", *k, m * narrow, Real));
                each(read("v", *v, m * narrow, Real));
                each(Operand { moved: 0, ..read("segments", *segments, m, Ids) });
                each(write("o", o, m * wide, Real, false));
                each(write("log_sum_exp", log_sum_exp, m * of.heads, F32, false));
            }
            Self::AttentionVjp { .. } => self.attention_vjp(each),
            Self::SwiGlu { g, u, len, p } | Self::GeGlu { g, u, len, p } => {
                each(read("g", *g, *len, Real));
                each(read("u", *u, *len, Real));
                each(write("p", p, *len, Real, false));
            }
            Self::SwiGluVjp { dp, g, u, len } | Self::GeGluVjp { dp, g, u, len } => {
                each(read("dp", *dp, *len, Real));
                each(write("g", g, *len, Real, true));
                each(write("u", u, *len, Real, true));
            }
            Self::Dropout { x, y, len, add, .. } => {
                each(read("x", *x, *len, Real));
                each(write("y", y, *len, Real, *add));
            }
            _ => {}
        }
    }

    fn attention_vjp(&self, each: &mut dyn FnMut(Operand<'_>)) {
        use Kind::{F32, Ids, Real};
        let Self::AttentionVjp { q, k, v, o, log_sum_exp, d_o, segments, of, dq, dk, dv } = self else { return };
        let (m, wide, narrow) = sides(*of);
        // Once for queries and once for keys.
        let mut twice = |o: Operand<'_>| each(Operand { moved: 2 * o.moved, ..o });
        for (name, x, width) in [("q", q, wide), ("k", k, narrow), ("v", v, narrow), ("o", o, wide), ("d_o", d_o, wide)]
        {
            twice(read(name, *x, m * width, Real));
        }
        twice(read("log_sum_exp", *log_sum_exp, m * of.heads, F32));
        for (name, x, width) in [("dq", dq, wide), ("dk", dk, narrow), ("dv", dv, narrow)] {
            twice(write(name, x, m * width, Real, false));
        }
        each(Operand { moved: 0, ..read("segments", *segments, m, Ids) });
    }

    fn heads(&self, each: &mut dyn FnMut(Operand<'_>)) {
        use Kind::{F32, Ids, Real};
        match self {
            Self::LogSumExp { a, m, n, columns, targets, log_sum_exp, picked, most } => {
                each(read("a", *a, m * n, Real));
                columns.operand(*n).into_iter().for_each(&mut *each);
                each(Operand { moved: 0, ..read("targets", *targets, *m, Ids) });
                each(Operand { moved: 0, ..write("log_sum_exp", log_sum_exp, *m, F32, true) });
                each(Operand { moved: 0, ..write("picked", picked, *m, F32, true) });
                if let Some(most) = most {
                    each(Operand { moved: 0, ..write("most", most, *m, F32, false) });
                }
            }
            Self::Order { x, n, ids } => {
                each(read("x", *x, *n, F32));
                each(write("ids", ids, *n, Ids, false));
            }
            Self::Argmax { a, n, best, .. } => each(read("a", *a, best.len() * n, Real)),
            Self::CrossEntropyVjp { a, m, n, columns, targets, log_sum_exp, .. } => {
                each(write("a", a, m * n, Real, true));
                columns.operand(*n).into_iter().for_each(&mut *each);
                each(Operand { moved: 0, ..read("targets", *targets, *m, Ids) });
                each(Operand { moved: 0, ..read("log_sum_exp", *log_sum_exp, *m, F32) });
            }
            Self::Elementwise { rule, p, len, g, state, round, .. } => {
                each(write("p", p, *len, Real, true));
                if let Gradient::Held(g) = g {
                    each(read("g", *g, *len, Real));
                }
                for (name, slot) in rule.slots.iter().zip(state.iter()) {
                    each(updated(name, slot, *len));
                }
                copy(round, *len).into_iter().for_each(each);
            }
            _ => {}
        }
    }

    fn nets(&self, each: &mut dyn FnMut(Operand<'_>)) {
        let real = Kind::Real;
        match self {
            Self::BatchedMatMul { a, b, of, c, add } => {
                each(read("a", *a, of.batch * of.m * of.k, real));
                each(read("b", *b, of.batch * of.k * of.n, real));
                each(write("c", c, of.batch * of.m * of.n, real, *add));
            }
            Self::Reduce { x, rows, cols, y, .. } => {
                each(read("x", *x, rows * cols, real));
                each(write("y", y, *rows, real, false));
            }
            Self::Im2col { x, of, y } if of.fits() => {
                each(read("x", *x, of.n * of.image(), real));
                each(write("y", y, of.outputs() * of.patch(), real, false));
            }
            Self::Col2im { dy, of, dx } if of.fits() => {
                each(read("dy", *dy, of.outputs() * of.patch(), real));
                each(write("dx", dx, of.n * of.image(), real, false));
            }
            _ => {}
        }
    }

    /// Checks that every operand lies in its buffer and is stored as the operation wants it.
    ///
    /// # Errors
    /// [`Error::Internal`] with the operation and the operand.
    pub fn check(&self) -> Result<()> {
        let mut first = Ok(());
        self.operands(&mut |o| {
            if first.is_ok() {
                first = o.check(self.name());
            }
        });
        first?;
        let wrong = match self {
            Self::Copy { x, y, .. } if x.buf.ty() != y.buf.ty() => {
                format!("{} to {}: the types differ", x.buf.ty(), y.buf.ty())
            }
            Self::Rope { heads: _, dim, table, .. } if 2 * table.half > *dim => {
                format!("{} pairs in heads of {dim}", table.half)
            }
            Self::Im2col { of, .. } | Self::Col2im { of, .. } if !of.fits() => format!("{of:?}"),
            Self::BatchedMatMul { of, .. } if of.a_turned && of.b_turned => format!("{of:?}"),
            Self::Reduce { cols: 0, .. } => "rows of no elements".to_owned(),
            Self::Orthonormalize { rows, cols, .. } if rows > cols => format!("{rows} rows of {cols}"),
            Self::LeadingVectors { rows, rank, .. } if rank > rows => format!("{rank} vectors of {rows} rows"),
            Self::Attention { of, .. } | Self::AttentionVjp { of, .. }
                if of.kv_heads == 0 || of.dim == 0 || !of.heads.is_multiple_of(of.kv_heads) =>
            {
                format!("{of:?}")
            }
            Self::Elementwise { rule, state, numbers, .. }
                if state.len() != rule.slots.len() || numbers.len() != rule.numbers.len() =>
            {
                format!(
                    "{} slots and {} numbers where {:?} and {:?} are wanted",
                    state.len(),
                    numbers.len(),
                    rule.slots,
                    rule.numbers
                )
            }
            Self::Elementwise { p, round: Round::Kahan(_) | Round::Master(_), .. } if p.at != 0 => {
                format!("a rounding copy of a parameter that begins at {}", p.at)
            }
            _ => return Ok(()),
        };
        Err(Error::Internal(format!("{}: {wrong}", self.name())))
    }
}
