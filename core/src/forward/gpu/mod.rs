//! The forward pass on a GPU: what it runs, what it costs, and (with the `cuda` feature) the pass itself.
//!
//! What it runs and costs is known without a GPU, so that a plan for one can be made anywhere.

#[cfg(feature = "cuda")]
mod adapter;
#[cfg(feature = "cuda")]
mod forward;
pub mod fuse;
#[cfg(feature = "cuda")]
mod layer;
#[cfg(feature = "cuda")]
mod weights;

use std::sync::Arc;

#[cfg(feature = "cuda")]
pub use forward::{DeviceLayer, DeviceWorkspace, GpuForward};

use crate::blocks::BlockType;
use crate::config::{Compute, Config};
use crate::error::{Error, Result};
use crate::forward::cpu::BatchShape;
use crate::forward::gpu::fuse::Way;
use crate::forward::step::{self, Batch, Places, Step};
use crate::kv::Pipeline;
use crate::ledger::{Category, Ledger, Reservation, Tag};
use crate::ops::gpu::{FEW, Planes, WEIGHT_TYPES, parts_elements, step_splits, step_tile};
use crate::place::{self, rows};
use crate::shape::{Act, AdapterShape, Kind, LayerShape, ModelShape, Role, TensorShape};
use crate::weights::units::UnitLayout;

/// Largest head that attention holds in registers.
const HEAD_DIM: usize = 256;

/// Checks what a GPU asks of `config` beside its choices, and of a model held as `held`.
///
/// # Errors
/// The first setting or tensor that it does not take, with what it does.
pub fn check(config: &Config, held: &ModelShape) -> Result<()> {
    if config.observe.as_ref().is_some_and(|o| o.head.is_some()) {
        return Err(Error::refused(
            "observe.head",
            "a GPU keeps nothing of what a head looks at so far; remove it, or set machine.device = cpu",
        ));
    }
    if config.compute() == Compute::Int8 {
        return Err(Error::refused(
            "run.compute = int8",
            "a GPU computes in f32 or f16; leave run.compute = auto, or set exact or half",
        ));
    }
    if !held.hidden.is_multiple_of(8) || !held.layers.iter().all(|l| l.attention.q().is_multiple_of(4)) {
        return Err(Error::refused(
            "machine.device = cuda",
            format!(
                "its kernels read 8 elements at a time, and rows of this model have {}; set machine.device = cpu",
                held.hidden
            ),
        ));
    }
    described(held)?;
    if let Some(kind) = held.adapter.as_ref().and_then(AdapterShape::gains) {
        return Err(Error::refused(
            format!("model.adapter by {} with machine.device = cuda", kind.0.id()),
            "a GPU runs adapters without magnitudes so far; merge it first (`ullage merge`)",
        ));
    }
    if held.adapter.as_ref().is_some_and(|a| a.outside(held).is_some_and(|low| !low.is_empty())) {
        return Err(Error::refused(
            "model.adapter with machine.device = cuda",
            "a GPU runs adapters of a layer's linears so far, and this one changes the embedding or the head; merge it first \
             (`ullage merge`)",
        ));
    }
    let factors = held.adapter.iter().flat_map(|a| a.each(held));
    for t in held.tensors().cloned().chain(factors) {
        if t.ty.block().is_none_or(|ty| !WEIGHT_TYPES.contains(&ty)) {
            let types: Vec<_> = WEIGHT_TYPES.iter().map(|t| t.as_str()).collect();
            let reason = format!(
                "{} is {}, and a GPU decodes so far: {}; requantize with weights.format",
                t.name,
                t.ty,
                types.join(", ")
            );
            return Err(Error::refused("machine.device = cuda", reason));
        }
    }
    match held.layers.iter().find(|l| l.attention.dim > HEAD_DIM) {
        Some(l) => Err(Error::refused(
            "machine.device = cuda",
            format!("its attention has heads of at most {HEAD_DIM} elements, this model's have {}", l.attention.dim),
        )),
        None => Ok(()),
    }
}

/// Checks that the kernels know every step of the layers of `held`.
fn described(held: &ModelShape) -> Result<()> {
    let unknown = |step| match step {
        Step::Experts => Some("a mixture of experts"),
        Step::Gate(Act::ClampedSwiglu) => Some("a clamped gate"),
        _ => None,
    };
    let sinks = |l: &LayerShape| l.tensors.has(Role::Sinks).then_some("attention with sinks");
    match held.layers.iter().find_map(|l| step::layer(l).find_map(unknown).or(sinks(l))) {
        Some(what) => Err(Error::refused(
            "machine.device = cuda",
            format!(
                "layers of {} ({}) have {what}, which no kernel computes so far; set machine.device = cpu",
                held.name, held.arch
            ),
        )),
        None => Ok(()),
    }
}

const RESIDUAL: Tag = Tag::device(Category::Activations, "residual stream");
const LAYER: Tag = Tag::device(Category::Activations, "layer activations");
/// Ax of an adapter.
const LOW: Tag = Tag::device(Category::Activations, "adapter activations");
const ATTENTION: Tag = Tag::device(Category::Workspace, "attention parts");
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");
/// Positions and addresses that a step reads, and its counters.
const STEP: Tag = Tag::device(Category::Workspace, "step table");
/// The same on its way, and token ids.
const STEP_HOST: Tag = Tag::host(Category::Workspace, "step staging");
/// Gated rows as tensor cores take them.
const HALF: Tag = Tag::device(Category::Activations, "half activations");
/// A matrix, or a part of one, as tensor cores take it.
const EXPANDED: Tag = Tag::device(Category::Workspace, "expanded weights");
/// What a layer with a window holds, in order, while a prompt passes.
const WINDOW: Tag = Tag::device(Category::KvCache, "window staging");
/// What NVIDIA recommends for its chips from sm_90 on.
const BLAS: (Tag, usize) = (Tag::device(Category::Workspace, "cublas workspace"), 32 << 20);
/// Blocks on their way to where they are cut in two.
const BLOCKS: Tag = Tag::device(Category::Workspace, "upload staging");
const LOGITS: Tag = Tag::device(Category::Logits, "logits");
/// Logits as the sampler reads them.
const HOST_LOGITS: Tag = Tag::host(Category::Logits, "logits");
/// Inverse frequencies of each rotation, in f64.
const FREQS: Tag = Tag::device(Category::Workspace, "rotation frequencies");
/// Where weights pass on their way to the GPU.
const UPLOAD: Tag = Tag::host(Category::Workspace, "upload staging");
/// Conversion of weights happens before they leave the host.
const SCRATCH: Tag = Tag::host(Category::Workspace, "load scratch");

/// Bytes of weights that pass at a time.
const PIECE: usize = 32 << 20;

/// Bytes of the upload staging: whole rows of the widest tensor, or the largest tensor where that is less.
fn upload_bytes(held: &ModelShape) -> usize {
    held.tensors().map(|t| (PIECE / t.row_bytes().max(1)).clamp(1, t.rows.max(1)) * t.row_bytes()).max().unwrap_or(0)
}

/// Bytes of the staging through which an adapter's factors pass: the largest of them.
fn adapter_upload_bytes(held: &ModelShape) -> usize {
    held.adapter.iter().flat_map(|a| a.each(held)).map(|t| t.bytes() as usize).max().unwrap_or(0)
}

/// Bytes of the staging on the GPU through which blocks pass that are cut in two there.
fn split_bytes(held: &ModelShape) -> usize {
    let cut = |t: &&TensorShape| t.ty.block().is_some_and(|ty| Planes::of(ty).head > 0);
    held.tensors()
        .filter(cut)
        .map(|t| (PIECE / t.row_bytes().max(1)).clamp(1, t.rows.max(1)) * t.row_bytes())
        .max()
        .unwrap_or(0)
}

/// Where the parts of what a pass reads beside weights and activations lie in one buffer: bytes at which each begins.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the pass reads where its parts lie"))]
pub(crate) struct StepTable {
    /// i32 a sequence.
    pub positions: usize,
    /// A cache entry a layer and sequence.
    pub caches: usize,
    /// u32, for each sequence and group of heads of the widest layer.
    pub arrived: usize,
    /// All of it.
    pub bytes: usize,
}

impl StepTable {
    fn new(shape: &ModelShape, e: BatchShape) -> Self {
        let positions = (4 * e.batch).next_multiple_of(16);
        let caches = positions + (4 * e.sequences).next_multiple_of(16);
        let arrived = caches + 16 * shape.layers.len() * e.sequences;
        let groups = |l: &LayerShape| {
            let a = &l.attention;
            let group = a.heads / a.kv_heads.max(1);
            a.kv_heads * group.div_ceil(step_tile(group, a.dim).0)
        };
        Self { positions, caches, arrived, bytes: arrived + 4 * e.sequences * shape.widest(groups) }
    }
}

/// What a [`BatchShape`] needs, in bytes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the pass asks how many rows may be cached"))]
struct Sizes {
    residual: usize,
    /// Activations of a layer, in elements.
    places: Places,
    step: StepTable,
    /// Ax of the adapter on one linear.
    low: usize,
    /// Parts of attention.
    attention: usize,
    angles: usize,
    logits: usize,
    half: usize,
    expanded: usize,
    /// Of the widest layer with a window.
    window: usize,
    /// Most rows of a sequence that are cached.
    rows_cached: usize,
}

impl Sizes {
    fn new(shape: &ModelShape, pipeline: &Pipeline, e: BatchShape) -> Self {
        let batch = Batch { rows: e.batch, sequences: e.sequences, cached: e.rows as f64 };
        let way = Way::new(shape, e.compute, batch);
        let parts = |l: &LayerShape| {
            let a = &l.attention;
            let splits = step_splits(a.heads, a.kv_heads, a.dim, e.rows, e.sequences);
            let step = if splits > 1 { e.sequences * a.heads * splits * (a.dim + 2) } else { 0 };
            step.max(parts_elements(a.heads, a.dim, e.rows))
        };
        let many = e.batch > FEW && !way.single;
        let expanded = |l: &LayerShape| {
            let each = |(_, t): (Role, &TensorShape)| {
                // In bf16 and f16 alike, should linears of the same rows be of both.
                let ty = way.rows(l, t);
                fuse::panel(t.rows, t.cols, ty) * t.cols * ty.block_bytes()
            };
            l.tensors.roles().filter(|(r, _)| r.kind() == Kind::Matrix).map(each).max().unwrap_or(0)
        };
        let half = shape.widest(|l| {
            let down = l.tensors.get(Role::Down).map_or(0, |t| if way.rows(l, t) == BlockType::F32 { 0 } else { 2 });
            down * l.ffn.width()
        });
        let window = |l: usize| {
            let kept = pipeline.window(l).filter(|w| *w < e.rows).map(|w| (w + e.batch).min(e.rows));
            kept.map_or(0, |rows| rows * shape.layers[l].attention.kv_heads * pipeline.rows[l].bytes())
        };
        let windows = (0..shape.layers.len()).filter(|l| many && way.flash(&shape.layers[*l])).map(window).max();
        Self {
            residual: 4 * e.batch * shape.hidden,
            places: Places::new(shape, e.batch),
            step: StepTable::new(shape, e),
            low: 4 * e.batch * shape.adapter.as_ref().map_or(0, AdapterShape::rank),
            attention: 4 * shape.widest(parts),
            angles: 4 * e.batch * 2 * shape.half() * shape.ropes.len(),
            logits: 4 * e.sequences * shape.vocab,
            half: if many { e.batch * half } else { 0 },
            expanded: if many { shape.widest(expanded) } else { 0 },
            window: windows.unwrap_or(0),
            rows_cached: e.rows,
        }
    }

    /// By ledger row.
    fn rows(&self) -> [(Tag, usize); 12] {
        [
            (RESIDUAL, self.residual),
            (LAYER, 4 * self.places.all()),
            (STEP, self.step.bytes),
            (LOW, self.low),
            (ATTENTION, self.attention),
            (ROTATIONS, self.angles),
            (LOGITS, self.logits),
            (HALF, self.half),
            (EXPANDED, self.expanded),
            (WINDOW, self.window),
            (HOST_LOGITS, self.logits),
            (STEP_HOST, self.step.arrived),
        ]
    }
}

/// Reserves what a GPU's room will hold: the plan's side.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_workspace(
    shape: &ModelShape,
    pipeline: &Pipeline,
    e: BatchShape,
    ledger: &Arc<Ledger>,
) -> Result<Vec<Reservation>> {
    Sizes::new(shape, pipeline, e).rows().into_iter().map(|(tag, bytes)| ledger.reserve(tag, bytes as u64)).collect()
}

/// Reserves what loading holds, in its order, and leaves in `held` what stays.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_load(model: place::Model<'_>, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let scratch = ledger.reserve(SCRATCH, model.scratch() as u64)?;
    let upload = ledger.reserve(UPLOAD, upload_bytes(model.held) as u64)?;
    let blocks = ledger.reserve(BLOCKS, split_bytes(model.held) as u64)?;
    let mut keep = |tag, bytes: usize| ledger.reserve(tag, bytes as u64).map(|r| held.push(r));
    keep(rows::NORMS, UnitLayout::small(model.held).bytes)?;
    keep(FREQS, 8 * model.held.half() * model.held.ropes.len())?;
    keep(rows::EMBEDDING, model.held.embedding.bytes() as usize)?;
    for l in 0..model.held.layers.len() {
        keep(rows::LAYERS, UnitLayout::layer(model.held, l).bytes)?;
    }
    if let Some(head) = &model.held.output {
        keep(rows::HEAD, head.bytes() as usize)?;
    }
    drop((scratch, upload, blocks));
    keep(BLAS.0, BLAS.1)
}

/// Reserves what an adapter's loading holds, and leaves in `held` what stays.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_adapter(shape: &ModelShape, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let _upload = ledger.reserve(UPLOAD, adapter_upload_bytes(shape) as u64)?;
    crate::forward::adapter::plan(shape, 1, ledger, held)
}
