//! The blocks of 32 with one scale: q4_0, q4_1, q5_0, q5_1, q8_0 and the activation type q8_1.
//!
//! Bit-compatible with ggml in both directions: quantising divides by the scale before it is rounded to f16. Of a
//! nibble byte `j`, the low half is element `j` and the high half element `j + 16`.

use half::f16;

use super::lanes::each;
use super::plain::f16_to_f32;

/// q4_0: f16 scale, 16 bytes of nibbles; `x = d·(q − 8)`.
#[inline(always)]
pub fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = d * (i32::from(q & 15) - 8) as f32;
        out[j + 16] = d * (i32::from(q >> 4) - 8) as f32;
    }
}

/// q4_1: f16 scale, f16 minimum, 16 bytes of nibbles; `x = d·q + m`.
#[inline(always)]
pub fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    let m = f16_to_f32([block[2], block[3]]);
    for j in 0..16 {
        let q = block[4 + j];
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// q5_0: f16 scale, 32 fifth bits, 16 bytes of nibbles; `x = d·(q − 16)`.
#[inline(always)]
pub fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for j in 0..16 {
        let (low, high) = fifth(block[6 + j], high, j);
        out[j] = d * (low - 16) as f32;
        out[j + 16] = d * (high - 16) as f32;
    }
}

/// q5_1: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles; `x = d·q + m`.
#[inline(always)]
pub fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    let m = f16_to_f32([block[2], block[3]]);
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for j in 0..16 {
        let (low, high) = fifth(block[8 + j], high, j);
        out[j] = d * low as f32 + m;
        out[j + 16] = d * high as f32 + m;
    }
}

/// The five-bit codes of elements `j` and `j + 16`.
#[inline(always)]
fn fifth(nibbles: u8, high: u32, j: usize) -> (i32, i32) {
    let bit = |at: usize| ((high >> at & 1) << 4) as i32;
    (i32::from(nibbles & 15) | bit(j), i32::from(nibbles >> 4) | bit(j + 16))
}

/// q8_0: f16 scale, 32 signed bytes; `x = d·q`.
#[inline(always)]
pub fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (x, q) in out.iter_mut().zip(&block[2..]) {
        *x = d * f32::from(*q as i8);
    }
}

/// q8_1: f16 scale, f16 `d·Σq` (not needed to decode), 32 signed bytes; `x = d·q`.
#[inline(always)]
pub fn decode_q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (x, q) in out.iter_mut().zip(&block[4..]) {
        *x = d * f32::from(*q as i8);
    }
}

/// The first element of largest magnitude, with its sign.
#[inline(always)]
fn extreme(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0f32, |best, x| if x.abs() > best.abs() { *x } else { best })
}

/// Smallest and largest element; NaN is passed over.
#[inline(always)]
fn range(x: &[f32; 32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(lo, hi), x| (lo.min(*x), hi.max(*x)))
}

#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// q4_0: the element of largest magnitude becomes code 0, which decodes to it; the other sign clips at 7/8 of it.
#[inline(always)]
pub fn encode_q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for j in 0..16 {
        let code = |x: f32| ((x * id + 8.5) as u8).min(15);
        block[2 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
}

/// q4_1: 16 levels from the smallest to the largest element.
#[inline(always)]
pub fn encode_q4_1(x: &[f32; 32], block: &mut [u8; 20]) {
    let (lo, hi) = range(x);
    let d = (hi - lo) / 15.0;
    let id = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(lo).to_le_bytes());
    for j in 0..16 {
        let code = |x: f32| (((x - lo) * id + 0.5) as u8).min(15);
        block[4 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
}

/// q5_0: as q4_0 with 32 levels.
#[inline(always)]
pub fn encode_q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let codes = each(x, |x| ((x * id + 16.5) as u8).min(31));
    pack_fifth(&codes, &mut block[2..]);
}

/// q5_1: as q4_1 with 32 levels.
#[inline(always)]
pub fn encode_q5_1(x: &[f32; 32], block: &mut [u8; 24]) {
    let (lo, hi) = range(x);
    let d = (hi - lo) / 31.0;
    let id = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(lo).to_le_bytes());
    let codes = each(x, |x| (((x - lo) * id + 0.5) as u8).min(31));
    pack_fifth(&codes, &mut block[4..]);
}

/// Fifth bits, then nibbles.
#[inline(always)]
fn pack_fifth(codes: &[u8; 32], out: &mut [u8]) {
    let high = codes.iter().enumerate().fold(0u32, |bits, (j, c)| bits | u32::from(c >> 4) << j);
    out[..4].copy_from_slice(&high.to_le_bytes());
    for j in 0..16 {
        out[4 + j] = codes[j] & 15 | codes[j + 16] << 4;
    }
}

/// q8_0: the element of largest magnitude becomes ±127; halves round away from zero.
#[inline(always)]
pub fn encode_q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let d = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
    let id = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, x) in block[2..].iter_mut().zip(x) {
        *q = (x * id).round() as i8 as u8;
    }
}
