//! What the CUDA kernels take, known without a GPU so that a plan for one can be made anywhere.

use crate::blocks::BlockType;

/// What one kernel of a device took over a stretch of work.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KernelTime {
    /// Its name, with the type of weights where it is made for one.
    pub name: String,
    /// How often it ran.
    pub calls: usize,
    /// All of that together, by the device's own clock.
    pub seconds: f64,
}

/// Types of weights that the kernels decode.
pub const WEIGHT_TYPES: &[BlockType] = &[
    BlockType::F32,
    BlockType::F16,
    BlockType::Bf16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::Q4K,
    BlockType::Q5K,
    BlockType::Q6K,
    BlockType::Iq4Nl,
    BlockType::Iq4Xs,
    BlockType::Mxfp4,
];

/// Types of cache rows, in the kernels' numbering.
pub const KV_TYPES: &[BlockType] = &[BlockType::F32, BlockType::F16, BlockType::Bf16, BlockType::Q8_0, BlockType::Q4_0];

/// Rows of the cache that one block of a single query's attention reads, as in `kernels.cu`.
pub(crate) const PART: usize = 128;

/// Floats in which the parts of a single query's attention over `rows` rows wait to be joined; none for a short cache.
pub(crate) fn parts_elements(heads: usize, dim: usize, rows: usize) -> usize {
    if rows <= PART { 0 } else { heads * rows.div_ceil(PART) * (dim + 2) }
}

/// Most rows that go through the kernels of decoding, which are bound by the bytes of weights; more are a product on tensor cores.
pub const FEW: usize = 8;

/// How a GPU holds the blocks of a type for inference: each cut in two, the codes of all blocks of a matrix first, then their scales,
/// so that codes lie at multiples of 16 bytes. As many bytes as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Bytes of a block before its body.
    pub from: usize,
    /// Bytes of its body.
    pub body: usize,
    /// Bytes of its head: those before the body, then those after it.
    pub head: usize,
}

impl Planes {
    /// Of a type of [`WEIGHT_TYPES`]; plain types are all body.
    pub fn of(ty: BlockType) -> Self {
        let (from, body) = match ty {
            BlockType::Q4_0 | BlockType::Iq4Nl => (2, 16),
            BlockType::Q4_1 => (4, 16),
            BlockType::Q5_0 => (6, 16),
            BlockType::Q5_1 => (8, 16),
            BlockType::Q8_0 => (2, 32),
            BlockType::Q2K => (0, 80),
            BlockType::Q3K => (0, 96),
            BlockType::Q6K => (0, 208),
            BlockType::Iq4Xs => (8, 128),
            BlockType::Mxfp4 => (1, 16),
            _ => (0, ty.block_bytes()),
        };
        Self { from, body, head: ty.block_bytes() - body }
    }
}

/// Elements that a lane of a product takes at once: 16 bytes of a plain type, 32 elements of any other.
pub fn piece(ty: BlockType) -> usize {
    if ty.elems() == 1 { 16 / ty.block_bytes() } else { 32 }
}

/// Whether rows of `cols` elements of `ty` are whole pieces.
pub fn whole_pieces(ty: BlockType, cols: usize) -> bool {
    cols.is_multiple_of(piece(ty)) && cols.is_multiple_of(ty.elems())
}

/// Query heads that a block of a decoding step's attention takes of the `group` that share keys, and lanes a cached row.
pub(crate) fn step_tile(group: usize, dim: usize) -> (usize, usize) {
    let lanes = (dim.div_ceil(8)).next_power_of_two().clamp(8, 32);
    (group.next_power_of_two().min(if lanes == 32 { 4 } else { 8 }), lanes)
}

/// Blocks that keep every multiprocessor of a large card busy: twice as many as an H200 has.
const BUSY: usize = 264;

/// Into how many stretches the attention of a step over at most `rows` rows is cut, for `sequences` sequences.
pub(crate) fn step_splits(heads: usize, kv_heads: usize, dim: usize, rows: usize, sequences: usize) -> usize {
    let group = heads / kv_heads.max(1);
    let blocks = kv_heads * group.div_ceil(step_tile(group, dim).0) * sequences;
    rows.div_ceil(64).clamp(1, BUSY.div_ceil(blocks.max(1)))
}

/// Whether the kernels of decoding and of tensor cores read cached rows of heads of `dim` elements.
pub(crate) fn vector_heads(dim: usize) -> bool {
    dim.is_multiple_of(8) && dim <= 256
}
