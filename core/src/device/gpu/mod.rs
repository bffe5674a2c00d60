//! Fine-tuning on a GPU: what it takes beside the tensors of a step, and (with the `cuda` feature) the device itself.
//!
//! What it takes is known without a GPU, so that a plan for one can be made anywhere.

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod ops;
#[cfg(test)]
mod tests;
pub mod tiling;

#[cfg(feature = "cuda")]
pub use device::Gpu;

use crate::blocks::BlockType;
use crate::config::train::{Arithmetic, Train};
use crate::device::Sizes;
use crate::error::{Error, Result};
use crate::ledger::{Category, Tag};
use crate::ops::gpu::WEIGHT_TYPES;
use crate::shape::{Act, ModelShape, TensorShape};

/// What products of matrices are taken in. Sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout, for comparison with a CPU.
    F32,
    /// Tensor cores: activations and decoded weights in bf16.
    Bf16,
}

impl Precision {
    /// What `train.compute` says of a GPU.
    pub fn of(train: &Train) -> Self {
        match train.compute {
            Arithmetic::F32 => Self::F32,
            Arithmetic::Auto | Arithmetic::Bf16 => Self::Bf16,
        }
    }

    /// The type of activations and of their gradients.
    pub fn activations(self) -> BlockType {
        match self {
            Self::F32 => BlockType::F32,
            Self::Bf16 => BlockType::Bf16,
        }
    }

    fn bytes(self) -> usize {
        self.activations().block_bytes()
    }
}

/// What a GPU cannot train of a shape.
///
/// # Errors
/// The first tensor or width that its kernels do not take, with what they do.
pub fn check(shape: &ModelShape) -> Result<()> {
    let refuse = |why: String| Err(Error::refused("machine.device = cuda with a [train] section", why));
    for t in shape.tensors() {
        if t.ty.block().is_none_or(|ty| !WEIGHT_TYPES.contains(&ty)) {
            let types: Vec<_> = WEIGHT_TYPES.iter().map(|t| t.as_str()).collect();
            return refuse(format!("{} is {}, and a GPU decodes so far: {}", t.name, t.ty, types.join(", ")));
        }
        // Norms and tables are read sixteen bytes at a time.
        if !t.cols.is_multiple_of(8) && !t.name.starts_with("rope_freqs") {
            return refuse(format!("{} has {} columns; a GPU trains widths that are multiples of 8", t.name, t.cols));
        }
    }
    for l in &shape.layers {
        if l.ffn.act() != Act::Silu {
            return refuse("its feed-forward is gated by gelu, for which there is no kernel so far".into());
        }
        if l.attention.cap.is_some() {
            return refuse("its attention caps its scores, for which there is no kernel so far".into());
        }
        if l.attention.window.is_some() {
            return refuse("its attention has a window, for which there is no kernel so far".into());
        }
    }
    match shape.layers.iter().find(|l| l.attention.dim > 256) {
        Some(l) => refuse(format!("its heads have {} elements; a GPU trains heads of at most 256", l.attention.dim)),
        None => Ok(()),
    }
}

/// Row blocks that a sum over columns is made of.
const PARTS: usize = 64;

/// cuBLAS's scratch, in our pool: what NVIDIA recommends for its chips from sm_90 on.
const BLAS: (Tag, usize) = (Tag::device(Category::Workspace, "cublas workspace"), 32 << 20);
/// A basis on its way through the host.
const BASIS: Tag = Tag::host(Category::Workspace, "projection staging");
/// As [`crate::device::cpu::DECOMPOSITION`], on a GPU's host.
pub const DECOMPOSITION: Tag = Tag::host(Category::Workspace, "decomposition");
const PANEL: Tag = Tag::device(Category::Workspace, "decoded weights");
const STAGE: Tag = Tag::device(Category::Workspace, "converted activations");
const SCRATCH: Tag = Tag::device(Category::Workspace, "kernel scratch");
/// Where weights pass on their way to the GPU.
const UPLOAD: Tag = Tag::host(Category::Workspace, "upload staging");
/// Conversion of weights happens before they leave the host.
const CONVERT: Tag = Tag::host(Category::Workspace, "load scratch");

/// Largest panel of decoded weights, and largest block of converted activations.
const MOST: usize = 64 << 20;

/// Bytes of weights that pass at a time.
const PIECE: usize = 32 << 20;

/// What a GPU keeps for its ops for as long as it is open, none being larger than `sizes`.
pub fn scratch(sizes: &Sizes, precision: Precision) -> [(Tag, usize); 4] {
    let (cols, e) = (sizes.cols.max(sizes.hidden), precision.bytes());
    let outputs = sizes.outputs.max(cols);
    // A row at least, whatever the cap.
    let panel = (e * outputs * cols).min(MOST.max(e * 256 * cols));
    let stage = match precision {
        Precision::F32 => 0,
        Precision::Bf16 => (e * sizes.head_rows.max(64) * outputs).min(MOST).max(4 * e * outputs),
    };
    let sums = 4 * (sizes.rows + PARTS * outputs.min(4 * cols));
    let scratch = sums.max(4 * sizes.rows * sizes.heads).max(8 * 1024);
    [BLAS, (PANEL, panel), (STAGE, stage), (SCRATCH, scratch)].map(|(tag, n)| (tag, n.next_multiple_of(256)))
}

/// How products are cut to that scratch.
pub fn tiling(sizes: &Sizes, precision: Precision) -> tiling::Tiling {
    let [_, (_, panel), (_, stage), _] = scratch(sizes, precision);
    tiling::Tiling { ty: precision.activations(), panel, stage }
}

/// What a GPU keeps on the host for operations that are computed there; none where there are none.
pub fn host_scratch(sizes: &Sizes) -> Option<(Tag, usize)> {
    let side = sizes.cols.max(sizes.hidden);
    // The rows, and beside them a line of products or the vectors that are found.
    (sizes.basis > 0).then(|| (BASIS, 4 * sizes.basis * (side + sizes.basis)))
}

/// What loading a tensor holds while it lasts: its pieces on the host, and `load` bytes where its type changes.
pub fn load_scratch(from: &TensorShape, to: &TensorShape, load: usize) -> [(Tag, usize); 2] {
    let piece = (PIECE / to.row_bytes().max(1)).clamp(1, to.rows.max(1)) * to.row_bytes();
    [(UPLOAD, piece), (CONVERT, if from.ty == to.ty { 0 } else { load })]
}
