//! Four-bit codes into a table of sixteen levels: iq4_nl, iq4_xs and mxfp4.

use half::f16;

use super::lanes::{each, sums};
use super::plain::f16_to_f32;

/// The levels of iq4_nl and iq4_xs: denser near zero, as weights are.
pub const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The levels of mxfp4 (e2m1), doubled so that they are whole; bit 3 of the code is the sign.
pub const MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two `2^(e − 127)` that an e8m0 byte means: it scales the doubled levels. `e` = 255, which the
/// format's specification calls NaN, is 2^127 here as in ggml.
#[inline(always)]
pub fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// 32 elements: low nibbles first 16, high nibbles last 16.
#[inline(always)]
fn nibbles(scale: f32, levels: &[i8; 16], qs: &[u8], out: &mut [f32; 32]) {
    for (j, q) in qs.iter().enumerate().take(16) {
        out[j] = scale * f32::from(levels[usize::from(q & 15)]);
        out[j + 16] = scale * f32::from(levels[usize::from(q >> 4)]);
    }
}

/// iq4_nl: f16 scale, 16 bytes of nibbles; `x = d·level`.
#[inline(always)]
pub fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    nibbles(f16_to_f32([block[0], block[1]]), &IQ4, &block[2..], out);
}

/// iq4_xs: f16 scale, eight six-bit scales (high bit pairs in a u16, low nibbles in 4 bytes), 128 bytes of nibbles;
/// `x = d·(sc − 32)·level` in sub-blocks of 32.
#[inline(always)]
pub fn decode_iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + s / 2] >> (4 * (s % 2)) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * s) & 3) << 4;
        nibbles(d * (scale - 32) as f32, &IQ4, &block[8 + 16 * s..], out);
    }
}

/// mxfp4: e8m0 scale, 16 bytes of nibbles; `x = 2^(e − 127)·level / 2`.
#[inline(always)]
pub fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    nibbles(half_e8m0(block[0]), &MXFP4, &block[1..], out);
}

/// mxfp4, as ggml encodes it: the largest magnitude's power of two, less the two that the levels reach, then the
/// nearest level of each element (the lower code of a tie).
#[inline(always)]
pub fn encode_mxfp4(x: &[f32; 32], block: &mut [u8; 17]) {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let e = (most.to_bits() >> 23).saturating_sub(2) as u8;
    let d = half_e8m0(e);
    block[0] = e;
    let code = |x: f32| {
        let mut best = (0, f32::INFINITY);
        for (code, level) in MXFP4.iter().enumerate() {
            let error = (d * f32::from(*level) - x).abs();
            if error < best.1 {
                best = (code as u8, error);
            }
        }
        best.0
    };
    for j in 0..16 {
        block[1 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
}

/// The middle between iq4 levels `k` and `k + 1`.
const fn middle(k: usize) -> f32 {
    0.5 * (IQ4[k] as f32 + IQ4[k + 1] as f32)
}

/// The nearest iq4 levels of `x·inverse`, climbed to from the lowest: whole passes over the block, which vectorise.
#[inline(always)]
fn nearest_levels(x: &[f32; 32], inverse: f32) -> [f32; 32] {
    let y = each(x, |x| x * inverse);
    let mut levels = [f32::from(IQ4[0]); 32];
    for k in 0..15 {
        let (middle, rise) = (middle(k), f32::from(IQ4[k + 1]) - f32::from(IQ4[k]));
        for (level, y) in levels.iter_mut().zip(&y) {
            *level += if *y > middle { rise } else { 0.0 };
        }
    }
    levels
}

/// The nearest iq4 level's code.
#[inline(always)]
fn nearest_code(x: f32) -> u8 {
    (0..15).map(|k| u8::from(x > middle(k))).sum()
}

/// iq4_nl: several scales around the one that maps the element of largest magnitude to either end of the table; each
/// is refined to the least squares of its codes, weighted by magnitude, and the best is kept.
#[inline(always)]
pub fn encode_iq4_nl(x: &[f32; 32], block: &mut [u8; 18]) {
    let extreme = x.iter().fold(0.0f32, |best, x| if x.abs() > best.abs() { *x } else { best });
    block.fill(0);
    if extreme == 0.0 {
        return;
    }
    let (w, wx) = (each(x, f32::abs), each(x, |x| x.abs() * x));
    // The gain of a scale: how much weighted squared error it removes.
    let mut best = (0.0, extreme / f32::from(IQ4[0]));
    for end in [IQ4[0], IQ4[15]] {
        for step in -4i8..=4 {
            let inverse = (f32::from(end) + 1.5 * f32::from(step)) / extreme;
            let levels = nearest_levels(x, inverse);
            let [xl] = sums(&wx, &levels, |wx, level| [wx * level]);
            let [ll] = sums(&w, &levels, |w, level| [w * level * level]);
            if ll > 0.0 && xl * xl > best.0 * ll {
                best = (xl * xl / ll, xl / ll);
            }
        }
    }
    let d = f16::from_f32(best.1);
    block[..2].copy_from_slice(&d.to_le_bytes());
    let d = d.to_f32();
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let codes = each(x, |x| nearest_code(x * inverse));
    for j in 0..16 {
        block[2 + j] = codes[j] | codes[j + 16] << 4;
    }
}
