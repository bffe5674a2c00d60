//! Rows of stored blocks to f32 and back, with the level's instructions: for cache tiles, embeddings, weight panels.

use super::{Kernels, kernels};
use crate::Result;
use crate::blocks::{self, BlockType};

/// Decodes `bytes`, whole blocks of `ty`, into `out`: the same bits as [`blocks::decode`], faster.
///
/// # Errors
/// Those of [`blocks::decode`]: a type that has no decoder, or lengths that are not the same number of whole blocks.
pub fn decode_rows(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    decode_with(kernels(), ty, bytes, out)
}

pub(crate) fn decode_with(kernels: &Kernels, ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match (kernels.decode)(ty) {
        Some(decode) if ty.row_bytes(out.len()) == Some(bytes.len()) => {
            // SAFETY: `bytes` are just the whole blocks of `out.len()` elements; the table's level runs here.
            unsafe { decode(bytes.as_ptr(), out.len(), out.as_mut_ptr()) };
            Ok(())
        }
        _ => Ok(blocks::decode(ty, bytes, out)?),
    }
}
