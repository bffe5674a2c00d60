//! Weights of −1, 0 and 1 with one f16 scale for 256: tq1_0 (five in a byte) and tq2_0 (four in a byte).

use super::plain::f16_to_f32;

/// Powers of three: multiplying a byte by one, modulo 256, brings that digit to the top.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Digit `n` of a byte that holds base-three digits as a fraction of 256, as −1, 0 or 1.
#[inline(always)]
fn digit(byte: u8, n: usize) -> f32 {
    let top = (u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8;
    f32::from(top as i16 - 1)
}

/// tq1_0: 32 bytes of five digits, 16 bytes of five, 4 bytes of four, f16 scale.
#[inline(always)]
pub fn decode_tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[52], block[53]]);
    let mut run = |bytes: &[u8], digits: usize, at: usize| {
        for n in 0..digits {
            for (x, byte) in out[at + n * bytes.len()..].iter_mut().zip(bytes) {
                *x = d * digit(*byte, n);
            }
        }
    };
    run(&block[..32], 5, 0);
    run(&block[32..48], 5, 160);
    run(&block[48..52], 4, 240);
}

/// tq2_0: 64 bytes of bit pairs, f16 scale.
#[inline(always)]
pub fn decode_tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[64], block[65]]);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        for (n, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (x, q) in out.iter_mut().zip(&block[32 * half..][..32]) {
                *x = d * (i32::from(q >> (2 * n) & 3) - 1) as f32;
            }
        }
    }
}

/// Element `k` of the block of tq1_0 at `block`, more by one: 0, 1 or 2.
pub(crate) fn tq1_digit(block: &[u8], k: usize) -> u8 {
    let (byte, n) = match k {
        0..160 => (block[k % 32], k / 32),
        160..240 => (block[32 + k % 16], (k - 160) / 16),
        _ => (block[48 + k % 4], (k - 240) / 4),
    };
    (digit(byte, n) + 1.0) as u8
}
