//! Inference as data: the operations of a pass over a batch of rows, as a layer's description has them.
//!
//! One list serves every executor: the CPU and a GPU carry it out over the same places of their workspaces, and a plan adds up
//! its costs. It names weights by role and activations by [`Slot`], where training's [`crate::device::Op`] holds buffers:
//! weights are borrowed layer by layer from wherever they are, products of the same rows share the kernels' packing of them,
//! and a cache is its policy's own, from which rows may leave between two tokens of one batch.

use std::ops::Range;

use crate::device::{Cost, Meter, buffer_bytes};
use crate::error::Result;
use crate::ops::ThreadTeam;
use crate::shape::{Act, Ffn, Kind, LayerShape, LowRank, ModelShape, Role, TensorShape};

/// Rows of activations in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The residual stream, `(rows, hidden)`.
    Stream,
    /// What a norm made of it, `(rows, hidden)`.
    Normed,
    /// Queries, `(rows, heads · dim)`.
    Q,
    /// Keys, `(rows, kv_heads · dim)`.
    K,
    /// Values, `(rows, kv_heads · dim)`.
    V,
    /// What attention read for each query, `(rows, heads · dim)`; lies where the normed rows were.
    Context,
    /// Outputs of the gate, `(rows, width)`; lies where queries were.
    Gate,
    /// Outputs of up, `(rows, width)`.
    Up,
    /// What a half of the layer adds to the stream, `(rows, hidden)`.
    Out,
}

/// Elements of the three places of a workspace that hold a layer's activations: normed rows or attention's output; queries, keys
/// and values, or gate and up; what is added to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Normed rows, or what attention read.
    pub normed: usize,
    /// Queries, keys and values, or gate and up.
    pub wide: usize,
    /// What is added to the stream.
    pub out: usize,
}

impl Places {
    /// For `rows` rows of any layer of `shape`.
    pub fn new(shape: &ModelShape, rows: usize) -> Self {
        let wide = |l: &LayerShape| (l.attention.q() + 2 * l.attention.kv()).max(2 * l.ffn.widest());
        Self {
            normed: rows * shape.widest(|l| l.attention.q()).max(shape.hidden),
            wide: rows * shape.widest(wide),
            out: rows * shape.hidden,
        }
    }

    /// Elements of all three.
    pub const fn all(&self) -> usize {
        self.normed + self.wide + self.out
    }

    /// Where a slot of `m` rows of a layer lies, in elements; the stream has a buffer of its own.
    pub fn at(&self, slot: Slot, of: &LayerShape, hidden: usize, m: usize) -> Range<usize> {
        let (q, kv, width, wide) = (m * of.attention.q(), m * of.attention.kv(), m * of.ffn.width(), self.normed);
        let (from, len) = match slot {
            Slot::Stream | Slot::Normed => (0, m * hidden),
            Slot::Context => (0, q),
            Slot::Q => (wide, q),
            Slot::K => (wide + q, kv),
            Slot::V => (wide + q + kv, kv),
            Slot::Gate => (wide, width),
            Slot::Up => (wide + width, width),
            Slot::Out => (wide + self.wide, m * hidden),
        };
        from..from + len
    }
}

/// One operation of a pass over a batch of rows.
#[allow(missing_docs, reason = "each operation names its fields in its formula")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stream ← rows of the embedding, times the model's factor.
    Embed,
    /// `to ← norm(from)`, over rows, or over the heads of queries and keys.
    Norm { role: Role, from: Slot, to: Slot },
    /// `to ← linear(from)`, with bias and adapter, for linears that read the same rows.
    Linears { from: Slot, to: &'static [(Role, Slot)] },
    /// Rotates queries and keys, appends keys and values to the cache, attends over what it holds: context ← attention. Then the
    /// policy lets rows go and the format seals.
    KvAttend,
    /// `gate ← act(gate) ⊙ up`.
    Gate(Act),
    /// Each row through the experts that the router chooses for it, and the one that all share: normed → out.
    Experts,
    /// Stream += out, times the model's factor.
    Add,
    /// The last row of each sequence through the output head, with the model's factor and cap.
    Logits,
}

/// The rows that linears read: those of a norm, or of the stream where the layer has no such norm.
fn input(of: &LayerShape, norm: Role) -> Slot {
    if of.tensors.has(norm) { Slot::Normed } else { Slot::Stream }
}

const QKV: &[(Role, Slot)] = &[(Role::Q, Slot::Q), (Role::K, Slot::K), (Role::V, Slot::V)];
const O: &[(Role, Slot)] = &[(Role::O, Slot::Out)];
const GATE_UP: &[(Role, Slot)] = &[(Role::Gate, Slot::Gate), (Role::Up, Slot::Up)];
const DOWN: &[(Role, Slot)] = &[(Role::Down, Slot::Out)];

/// The steps of one layer, in order.
pub fn layer(of: &LayerShape) -> impl Iterator<Item = Step> + use<> {
    let norm = |role| of.tensors.has(role).then_some(Step::Norm { role, from: Slot::Stream, to: Slot::Normed });
    let norm_if = |role, x| of.tensors.has(role).then_some(Step::Norm { role, from: x, to: x });
    let ffn = match of.ffn {
        Ffn::Dense { act, .. } => [
            Some(Step::Linears { from: input(of, Role::FfnNorm), to: GATE_UP }),
            Some(Step::Gate(act)),
            Some(Step::Linears { from: Slot::Gate, to: DOWN }),
        ],
        Ffn::Experts { .. } => [Some(Step::Experts), None, None],
    };
    let attention = [
        norm(Role::AttnNorm),
        Some(Step::Linears { from: input(of, Role::AttnNorm), to: QKV }),
        norm_if(Role::QNorm, Slot::Q),
        norm_if(Role::KNorm, Slot::K),
        Some(Step::KvAttend),
        Some(Step::Linears { from: Slot::Context, to: O }),
        norm_if(Role::PostAttnNorm, Slot::Out),
        Some(Step::Add),
        norm(Role::FfnNorm),
    ];
    let end = [norm_if(Role::PostFfnNorm, Slot::Out), Some(Step::Add)];
    attention.into_iter().chain(ffn).chain(end).flatten()
}

/// What comes before the layers.
pub const BEGIN: Step = Step::Embed;

/// What comes after the layers, over the last rows.
pub const END: [Step; 2] = [Step::Norm { role: Role::OutputNorm, from: Slot::Stream, to: Slot::Normed }, Step::Logits];

/// How many rows a step is carried out on, and over how much of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Batch {
    /// Rows of the batch.
    pub rows: usize,
    /// Sequences they are of.
    pub sequences: usize,
    /// Cached rows of a head that a query looks at, on average; fewer where the layer has a window.
    pub cached: f64,
}

impl Step {
    /// Its name, for errors and timelines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embedding",
            Self::Norm { .. } => "rms norm",
            Self::Linears { .. } => "linears",
            Self::KvAttend => "kv attend",
            Self::Gate(Act::Silu) => "swiglu",
            Self::Gate(Act::GeluTanh) => "geglu",
            Self::Gate(Act::ClampedSwiglu) => "clamped swiglu",
            Self::Experts => "experts",
            Self::Add => "add",
            Self::Logits => "logits",
        }
    }

    /// What it takes: arithmetic of its products and bytes of weights (of what the cache holds, only the pipeline knows the bytes; a
    /// batch of activations is small beside both). What a GPU launches for it depends on the steps beside it ([`super::gpu::fuse`]). `l` is
    /// its layer, if it is in one.
    pub fn cost(self, shape: &ModelShape, l: Option<usize>, batch: Batch) -> Cost {
        let layer = l.and_then(|l| shape.layers.get(l));
        let tensor = |role: Role| layer.and_then(|of| of.tensors.get(role));
        let low = l.and_then(|l| shape.adapter.as_ref()?.layers.get(l));
        match self {
            Self::Embed => {
                let outside = shape.adapter.as_ref().and_then(|a| a.outside(shape));
                looked_up(outside.and_then(|low| low.get(&Role::Embedding)), shape, batch.rows)
            }
            Self::Norm { role: Role::OutputNorm, .. } => read(Some(&shape.output_norm)),
            Self::Norm { role, .. } => read(tensor(role)),
            Self::Linears { to, .. } => to.iter().fold(Cost::default(), |mut sum, (role, _)| {
                sum += linear(tensor(*role), batch.rows);
                sum += read(role.bias().and_then(tensor));
                sum += adapted(low.and_then(|low| low.get(role)), tensor(*role), batch.rows);
                sum
            }),
            Self::KvAttend => {
                let Some(of) = layer.map(|of| &of.attention) else { return Cost::default() };
                let seen = of.window.map_or(batch.cached, |w| batch.cached.min(w as f64));
                Cost { flops: 4.0 * of.q() as f64 * seen * batch.rows as f64, ..read(tensor(Role::Sinks)) }
            }
            Self::Gate(_) | Self::Add => Cost::default(),
            Self::Experts => layer.map_or_else(Cost::default, |of| experts(of, batch.rows)),
            Self::Logits => {
                let outside = shape.adapter.as_ref().and_then(|a| a.outside(shape));
                let mut sum = linear(Some(shape.head()), batch.sequences);
                sum += adapted(outside.and_then(|low| low.get(&Role::Head)), Some(shape.head()), batch.sequences);
                sum
            }
        }
    }
}

/// Where an executor is in a pass: what its steps go through, as training's operations go through
/// [`crate::device::Device::run`].
pub(super) struct Metered<'a> {
    pub meter: &'a Meter,
    pub shape: &'a ModelShape,
    pub layer: Option<usize>,
    pub batch: Batch,
}

impl Metered<'_> {
    /// Runs `work`, which carries `step` out, unless the job was cancelled or this step is to fail.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] where a test asked for it; what `work` meets.
    #[inline]
    pub fn run(&self, step: Step, team: &ThreadTeam, work: impl FnOnce() -> Result<()>) -> Result<()> {
        // Hundreds of steps a token, which on a small model take a microsecond each.
        let cost = if self.meter.observed() { step.cost(self.shape, self.layer, self.batch) } else { Cost::default() };
        self.meter.run_unless(team.cancelled(), step.name(), cost, work)
    }
}

/// A tensor that is read once.
fn read(t: Option<&TensorShape>) -> Cost {
    t.map_or_else(Cost::default, |t| Cost { read: t.bytes() as usize, ..Cost::default() })
}

fn linear(t: Option<&TensorShape>, rows: usize) -> Cost {
    let flops = t.map_or(0.0, |t| 2.0 * (t.rows * t.cols) as f64 * rows as f64);
    Cost { flops, ..read(t) }
}

/// The products of an adapter beside the linear of weight `w`, and what stands beside them.
fn adapted(low: Option<&LowRank>, w: Option<&TensorShape>, rows: usize) -> Cost {
    let (Some(low), Some(w)) = (low, w) else { return Cost::default() };
    low.kind.0.parts().iter().zip(low.types).fold(Cost::default(), |mut sum, (part, ty)| {
        let (outputs, inputs) = part.dims(low.rank, w.rows, w.cols);
        sum += Cost {
            flops: 2.0 * (outputs * inputs * rows) as f64,
            read: buffer_bytes(ty, outputs * inputs),
            ..Cost::default()
        };
        sum
    })
}

/// The embedding's factors: of A a column a row, and a product with B.
fn looked_up(low: Option<&LowRank>, shape: &ModelShape, rows: usize) -> Cost {
    let Some(low) = low else { return Cost::default() };
    let (a, b) = (buffer_bytes(low.types[0], rows * low.rank), buffer_bytes(low.types[1], shape.hidden * low.rank));
    Cost { flops: 2.0 * (shape.hidden * low.rank * rows) as f64, read: a + b, ..Cost::default() }
}

/// The router, and the experts that `rows` rows may go to: each of them is read once however many rows it is given.
fn experts(of: &LayerShape, rows: usize) -> Cost {
    let Some((count, used)) = of.ffn.experts() else { return Cost::default() };
    let touched = count.min(rows * used);
    let mut sum = linear(of.tensors.get(Role::Router), rows);
    sum += read(of.tensors.get(Role::RouterBias));
    for (_, t) in of.tensors.roles().filter(|(role, _)| role.kind() == Kind::Vectors) {
        sum += Cost { read: t.bytes() as usize / count.max(1) * touched, ..Cost::default() };
    }
    for (_, t) in of.tensors.roles().filter(|(role, _)| role.kind() == Kind::Stack) {
        let one = (t.rows / count.max(1) * t.cols) as f64;
        sum.flops += 2.0 * one * (rows * used) as f64;
        sum.read += t.bytes() as usize / count.max(1) * touched;
    }
    sum += read(of.tensors.get(Role::SharedRouter));
    for role in [Role::SharedGate, Role::SharedUp, Role::SharedDown] {
        sum += linear(of.tensors.get(role), rows);
    }
    sum
}

/// What a whole pass takes, by its steps: `with_head` where it ends in logits.
pub fn pass_cost(shape: &ModelShape, batch: Batch, with_head: bool) -> Cost {
    let mut sum = BEGIN.cost(shape, None, batch);
    for (l, of) in shape.layers.iter().enumerate() {
        layer(of).for_each(|step| sum += step.cost(shape, Some(l), batch));
    }
    if with_head {
        END.iter().for_each(|step| sum += step.cost(shape, None, batch));
    }
    sum
}
