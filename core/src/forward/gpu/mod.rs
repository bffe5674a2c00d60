//! The forward pass on a GPU: what it runs, what it costs, and (with the `cuda` feature) the pass itself.
//!
//! What it runs and costs is known without a GPU, so that a plan for one can be made anywhere.

#[cfg(feature = "cuda")]
mod adapter;
#[cfg(feature = "cuda")]
mod forward;
#[cfg(feature = "cuda")]
mod weights;

use std::sync::Arc;

#[cfg(feature = "cuda")]
pub use forward::{DeviceLayer, DeviceWorkspace, GpuForward};

use crate::config::{Compute, Config};
use crate::error::{Error, Result};
use crate::forward::cpu::BatchShape;
use crate::forward::step::{self, Places, Step};
use crate::ledger::{Category, Ledger, Reservation, Tag};
use crate::ops::gpu::{WEIGHT_TYPES, parts_elements};
use crate::place::{self, rows};
use crate::shape::{Act, AdapterShape, LayerShape, ModelShape, Role};
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
    if config.run.compute != Compute::Exact {
        return Err(Error::refused("run.compute = int8", "a GPU computes in f32; leave run.compute = exact"));
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
const IDS: Tag = Tag::device(Category::Activations, "token ids");
const ATTENTION: Tag = Tag::device(Category::Workspace, "attention parts");
const ROTATIONS: Tag = Tag::device(Category::Workspace, "rotation table");
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

/// What an [`BatchShape`] needs, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    residual: usize,
    /// Activations of a layer, in elements.
    places: Places,
    ids: usize,
    /// Ax of the adapter on one linear.
    low: usize,
    /// Parts of attention.
    attention: usize,
    angles: usize,
    logits: usize,
}

impl Sizes {
    fn new(shape: &ModelShape, e: BatchShape) -> Self {
        Self {
            residual: 4 * e.batch * shape.hidden,
            places: Places::new(shape, e.batch),
            ids: 4 * e.batch,
            low: 4 * e.batch * shape.adapter.as_ref().map_or(0, AdapterShape::rank),
            attention: 4 * shape.widest(|l| parts_elements(l.attention.heads, l.attention.dim, e.rows)),
            angles: 4 * e.batch * 2 * shape.half() * shape.ropes.len(),
            logits: 4 * e.sequences * shape.vocab,
        }
    }

    /// By ledger row.
    fn rows(&self) -> [(Tag, usize); 8] {
        [
            (RESIDUAL, self.residual),
            (LAYER, 4 * self.places.all()),
            (IDS, self.ids),
            (LOW, self.low),
            (ATTENTION, self.attention),
            (ROTATIONS, self.angles),
            (LOGITS, self.logits),
            (HOST_LOGITS, self.logits),
        ]
    }
}

/// Reserves what a GPU's room will hold: the plan's side.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_workspace(shape: &ModelShape, e: BatchShape, ledger: &Arc<Ledger>) -> Result<Vec<Reservation>> {
    Sizes::new(shape, e).rows().into_iter().map(|(tag, bytes)| ledger.reserve(tag, bytes as u64)).collect()
}

/// Reserves what loading holds, in its order, and leaves in `held` what stays.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_load(model: place::Model<'_>, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let _scratch = ledger.reserve(SCRATCH, model.scratch() as u64)?;
    let _upload = ledger.reserve(UPLOAD, upload_bytes(model.held) as u64)?;
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
    Ok(())
}

/// Reserves what an adapter's loading holds, and leaves in `held` what stays.
///
/// # Errors
/// Over budget, where `ledger` has one.
pub fn plan_adapter(shape: &ModelShape, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let _upload = ledger.reserve(UPLOAD, adapter_upload_bytes(shape) as u64)?;
    crate::forward::adapter::plan(shape, 1, ledger, held)
}
