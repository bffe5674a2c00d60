//! What the CUDA kernels take, known without a GPU so that a plan for one can be made anywhere.

use crate::blocks::BlockType;

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
