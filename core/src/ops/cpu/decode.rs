//! Rows of stored blocks to f32 and back, with the level's instructions: for cache tiles, embeddings, weight panels.

use super::{Kernels, kernels};
use crate::blocks::{self, BlockType};
use crate::{Error, Result};

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

/// Decodes elements `cols` of row `row` of a `(rows, cols)` matrix of `ty` blocks, such as one token's embedding.
///
/// # Errors
/// [`Error::Internal`] when there is no such row; else as [`decode_rows`].
pub fn decode_row_of(ty: BlockType, data: &[u8], row: usize, out: &mut [f32]) -> Result<()> {
    let bytes = ty.row_bytes(out.len()).and_then(|n| data.get(row.checked_mul(n)?..)?.get(..n));
    let bytes = bytes
        .ok_or_else(|| Error::Internal(format!("row {row} of {} {ty} elements is not in the matrix", out.len())))?;
    decode_rows(ty, bytes, out)
}
