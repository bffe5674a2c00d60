//! Types without blocks: every element stands alone, little-endian.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Halves converted per step: enough for the vector units, small enough for the stack.
const STEP: usize = 64;

/// A little-endian f16 as f32, without the feature test a call of `half` makes. Exact, subnormals and infinities
/// included.
#[inline(always)]
pub fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let h = u32::from(u16::from_le_bytes(bytes));
    // Exponent and mantissa moved to f32's places, then the bias 127 − 15 put right by a product, which also
    // normalises subnormals. All ones in the exponent stay all ones.
    let magnitude = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if h & 0x7c00 == 0x7c00 { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (h & 0x8000) << 16)
}

/// f32, copied.
#[inline(always)]
pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (b, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = f32::from_le_bytes(*b);
    }
}

/// f64, rounded to the nearest f32.
#[inline(always)]
pub fn decode_f64(bytes: &[u8], out: &mut [f32]) {
    for (b, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = f64::from_le_bytes(*b) as f32;
    }
}

/// f16, exact.
#[inline(always)]
pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (b, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = f16_to_f32(*b);
    }
}

/// bf16, exact.
#[inline(always)]
pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

/// f32, copied.
pub fn encode_f32(x: &[f32], out: &mut [u8]) {
    for (x, b) in x.iter().zip(out.as_chunks_mut().0) {
        *b = x.to_le_bytes();
    }
}

/// f16, rounded to nearest even; what is too large becomes infinite.
pub fn encode_f16(x: &[f32], out: &mut [u8]) {
    let mut step = [f16::ZERO; STEP];
    for (x, out) in x.chunks(STEP).zip(out.chunks_mut(2 * STEP)) {
        let step = &mut step[..x.len()];
        step.convert_from_f32_slice(x);
        for (h, b) in step.iter().zip(out.as_chunks_mut().0) {
            *b = h.to_le_bytes();
        }
    }
}

/// bf16, rounded to nearest even; NaN stays NaN.
pub fn encode_bf16(x: &[f32], out: &mut [u8]) {
    for (x, b) in x.iter().zip(out.as_chunks_mut().0) {
        *b = bf16::from_f32(*x).to_le_bytes();
    }
}
