//! Decoding whole blocks to f32 and encoding f32 into whole blocks: the one place that knows every type's codec.
#![allow(unsafe_code, reason = "vector instructions")]

use super::{BlockType, codebook, iq, k, k_encode, legacy, plain, ternary};
use crate::error::Error;

/// Why a row could not be decoded or encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The type has no codec in this direction, such as the integer types.
    #[error("{0} blocks cannot be {1}")]
    Unsupported(BlockType, &'static str),
    /// Bytes and elements are not the same number of whole blocks.
    #[error("{bytes} bytes and {elems} elements are not the same number of whole {ty} blocks")]
    Length {
        /// The type.
        ty: BlockType,
        /// Bytes given.
        bytes: usize,
        /// Elements given.
        elems: usize,
    },
}

impl From<CodecError> for Error {
    fn from(e: CodecError) -> Self {
        match e {
            CodecError::Unsupported(ty, _) => Self::refused(format!("type {ty}"), e.to_string()),
            // Lengths are checked when a file is opened: a wrong one here is a defect of the caller.
            CodecError::Length { .. } => Self::Internal(e.to_string()),
        }
    }
}

fn check(ty: BlockType, bytes: usize, elems: usize) -> Result<(), CodecError> {
    if ty.row_bytes(elems) == Some(bytes) { Ok(()) } else { Err(CodecError::Length { ty, bytes, elems }) }
}

/// One call of `$codec` per block. A macro, as a function taking `$codec` would compile its body apart, without the
/// caller's registers.
macro_rules! each {
    ($from:expr, $into:expr, $codec:path) => {
        for (from, into) in $from.as_chunks().0.iter().zip($into.as_chunks_mut().0) {
            $codec(from, into);
        }
    };
}

/// Whether [`decode`] knows `ty`.
pub fn can_decode(ty: BlockType) -> bool {
    decode(ty, &[], &mut []).is_ok()
}

/// Decodes the whole blocks in `bytes` into `out`, in the order ggml computes, so that any two machines agree bit for
/// bit.
///
/// # Errors
/// [`CodecError::Unsupported`] for integer types; [`CodecError::Length`] unless `bytes` and `out` are the same number
/// of whole blocks.
pub fn decode(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    check(ty, bytes.len(), out.len())?;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { decode_avx2(ty, bytes, out) };
    }
    decode_any(ty, bytes, out)
}

/// The same code compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    decode_any(ty, bytes, out)
}

#[inline(always)]
fn decode_any(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    match ty {
        BlockType::F32 => plain::decode_f32(bytes, out),
        BlockType::F16 => plain::decode_f16(bytes, out),
        BlockType::Bf16 => plain::decode_bf16(bytes, out),
        BlockType::F64 => plain::decode_f64(bytes, out),
        BlockType::Q4_0 => each!(bytes, out, legacy::decode_q4_0),
        BlockType::Q4_1 => each!(bytes, out, legacy::decode_q4_1),
        BlockType::Q5_0 => each!(bytes, out, legacy::decode_q5_0),
        BlockType::Q5_1 => each!(bytes, out, legacy::decode_q5_1),
        BlockType::Q8_0 => each!(bytes, out, legacy::decode_q8_0),
        BlockType::Q8_1 => each!(bytes, out, legacy::decode_q8_1),
        BlockType::Q2K => each!(bytes, out, k::decode_q2_k),
        BlockType::Q3K => each!(bytes, out, k::decode_q3_k),
        BlockType::Q4K => each!(bytes, out, k::decode_q4_k),
        BlockType::Q5K => each!(bytes, out, k::decode_q5_k),
        BlockType::Q6K => each!(bytes, out, k::decode_q6_k),
        BlockType::Q8K => each!(bytes, out, k::decode_q8_k),
        BlockType::Iq4Nl => each!(bytes, out, codebook::decode_iq4_nl),
        BlockType::Iq4Xs => each!(bytes, out, codebook::decode_iq4_xs),
        BlockType::Mxfp4 => each!(bytes, out, codebook::decode_mxfp4),
        BlockType::Iq1S => each!(bytes, out, iq::decode_iq1_s),
        BlockType::Iq1M => each!(bytes, out, iq::decode_iq1_m),
        BlockType::Iq2Xxs => each!(bytes, out, iq::decode_iq2_xxs),
        BlockType::Iq2Xs => each!(bytes, out, iq::decode_iq2_xs),
        BlockType::Iq2S => each!(bytes, out, iq::decode_iq2_s),
        BlockType::Iq3Xxs => each!(bytes, out, iq::decode_iq3_xxs),
        BlockType::Iq3S => each!(bytes, out, iq::decode_iq3_s),
        BlockType::Tq1_0 => each!(bytes, out, ternary::decode_tq1_0),
        BlockType::Tq2_0 => each!(bytes, out, ternary::decode_tq2_0),
        BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64 => {
            return Err(CodecError::Unsupported(ty, "decoded"));
        }
    }
    Ok(())
}

/// Whether [`encode`] knows `ty`.
pub fn can_encode(ty: BlockType) -> bool {
    encode(ty, &[], &mut []).is_ok()
}

/// Encodes `x` into whole blocks. The 32-element types with one scale are bit-compatible with ggml's reference
/// quantisers; the others search for their scales. Deterministic: the same `x` gives the same bytes on any machine.
///
/// Elements that are not finite leave their block's values unspecified.
///
/// # Errors
/// [`CodecError::Unsupported`] for integer, grid, ternary and activation types; [`CodecError::Length`] unless `x` and
/// `out` are the same number of whole blocks.
pub fn encode(ty: BlockType, x: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    check(ty, out.len(), x.len())?;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { encode_avx2(ty, x, out) };
    }
    encode_any(ty, x, out)
}

/// The same code compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_avx2(ty: BlockType, x: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    encode_any(ty, x, out)
}

#[inline(always)]
fn encode_any(ty: BlockType, x: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    match ty {
        BlockType::F32 => plain::encode_f32(x, out),
        BlockType::F16 => plain::encode_f16(x, out),
        BlockType::Bf16 => plain::encode_bf16(x, out),
        BlockType::Q4_0 => each!(x, out, legacy::encode_q4_0),
        BlockType::Q4_1 => each!(x, out, legacy::encode_q4_1),
        BlockType::Q5_0 => each!(x, out, legacy::encode_q5_0),
        BlockType::Q5_1 => each!(x, out, legacy::encode_q5_1),
        BlockType::Q8_0 => each!(x, out, legacy::encode_q8_0),
        BlockType::Q2K => each!(x, out, k_encode::encode_q2_k),
        BlockType::Q3K => each!(x, out, k_encode::encode_q3_k),
        BlockType::Q4K => each!(x, out, k_encode::encode_q4_k),
        BlockType::Q5K => each!(x, out, k_encode::encode_q5_k),
        BlockType::Q6K => each!(x, out, k_encode::encode_q6_k),
        BlockType::Iq4Nl => each!(x, out, codebook::encode_iq4_nl),
        BlockType::Mxfp4 => each!(x, out, codebook::encode_mxfp4),
        _ => return Err(CodecError::Unsupported(ty, "encoded")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from one another, without a generator's dependency.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn wide_registers_change_no_bit() {
        let x: Vec<f32> = noise(256 * 16).iter().map(|b| f32::from(*b as i8) / 37.0).collect();
        for ty in BlockType::ALL.iter().copied() {
            let bytes = noise(ty.block_bytes() * 64);
            let (mut a, mut b) = (vec![0.0; ty.elems() * 64], vec![0.0; ty.elems() * 64]);
            assert_eq!(decode(ty, &bytes, &mut a), decode_any(ty, &bytes, &mut b));
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()), "{ty}");
            let size = ty.row_bytes(x.len()).expect("whole blocks");
            let (mut a, mut b) = (vec![0; size], vec![0; size]);
            assert_eq!(encode(ty, &x, &mut a), encode_any(ty, &x, &mut b));
            assert_eq!(a, b, "{ty}");
        }
    }

    #[test]
    fn errors_name_the_type_and_the_lengths() {
        let short = decode(BlockType::Q4K, &[0; 143], &mut [0.0; 256]).expect_err("a byte short");
        assert_eq!(short.to_string(), "143 bytes and 256 elements are not the same number of whole q4_k blocks");
        let refused = encode(BlockType::Iq1S, &[0.0; 256], &mut [0; 50]).expect_err("no encoder");
        assert_eq!(refused, CodecError::Unsupported(BlockType::Iq1S, "encoded"));
    }
}
