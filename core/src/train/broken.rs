//! Values that are no numbers: how they are looked for, and what they and what to do about them are called.

use crate::blocks::BlockType;
use crate::device::{Buf, Device};
use crate::error::Result;

/// What a loss that is no number is called.
pub const LOSS: &str = "the loss";
/// How the name of a gradient that is no number begins, found before anything learned from it.
pub const GRADIENT: &str = "the gradient of";
/// What to do about a loss or a gradient that is no number.
pub(super) const REMEDY: &str = "lower train.lr or clip the gradients (train.clip)";

/// The first element of the `len` of `buf`, f32 or bf16, that is no number, with its value.
///
/// # Errors
/// The device's.
pub(super) fn first_broken(d: &dyn Device, buf: &Buf, len: usize) -> Result<Option<(usize, f32)>> {
    let mut room = [0u8; 4096];
    let size = buf.ty().block_bytes();
    for at in (0..len).step_by(room.len() / size) {
        let bytes = &mut room[..(len - at).min(4096 / size) * size];
        d.download(buf.at(at), bytes)?;
        if let Some((i, value)) = broken_in(buf.ty(), bytes) {
            return Ok(Some((at + i, value)));
        }
    }
    Ok(None)
}

/// The first element among `bytes` that is no number; of other types than f32 and bf16 none is looked for.
pub(super) fn broken_in(ty: BlockType, bytes: &[u8]) -> Option<(usize, f32)> {
    let wrong = |(_, v): &(usize, f32)| !v.is_finite();
    match ty {
        BlockType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).enumerate().find(wrong),
        BlockType::Bf16 => {
            let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            bytes.as_chunks().0.iter().map(wide).enumerate().find(wrong)
        }
        _ => None,
    }
}
