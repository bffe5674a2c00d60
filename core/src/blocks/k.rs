//! Decoding of the super-blocks of 256: q2_k to q6_k and the activation type q8_k.

use super::plain::f16_to_f32;

/// q4_k: f16 scale of scales, f16 scale of minima, eight six-bit pairs in 12 bytes, 128 bytes of nibbles;
/// `x = d·sc·q − dmin·m` in sub-blocks of 32.
#[inline(always)]
pub fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    let dmin = f16_to_f32([block[2], block[3]]);
    let packed = std::array::from_fn(|i| block[4 + i]);
    for (c, (qs, out)) in block[16..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0).enumerate() {
        let [(s0, m0), (s1, m1)] = [six_bit_pair(&packed, 2 * c), six_bit_pair(&packed, 2 * c + 1)];
        let [d0, d1] = [d * f32::from(s0), d * f32::from(s1)];
        let [m0, m1] = [dmin * f32::from(m0), dmin * f32::from(m1)];
        for l in 0..32 {
            out[l] = d0 * f32::from(qs[l] & 15) - m0;
            out[l + 32] = d1 * f32::from(qs[l] >> 4) - m1;
        }
    }
}

/// Scale and minimum of sub-block `j < 8`, of the sixteen numbers that q4_k and q5_k keep in 12 bytes, six bits each.
#[inline(always)]
pub fn six_bit_pair(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let low = packed[j + 4];
    (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
}

/// q6_k: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, f16 scale; `x = d·sc·(q − 32)` in
/// sub-blocks of 16.
#[inline(always)]
pub fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[208], block[209]]);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let low = &block[64 * half..][..64];
        let high = &block[128 + 32 * half..][..32];
        for quarter in 0..4 {
            let nibbles = &low[32 * (quarter & 1)..][..32];
            let (low_shift, high_shift) = (4 * (quarter >> 1), 2 * quarter);
            for run in 0..2 {
                let scale = d * f32::from(block[192 + 8 * half + 2 * quarter + run] as i8);
                let out = &mut out[32 * quarter + 16 * run..][..16];
                for (l, x) in out.iter_mut().enumerate() {
                    let at = 16 * run + l;
                    let q = nibbles[at] >> low_shift & 15 | (high[at] >> high_shift & 3) << 4;
                    *x = scale * (i32::from(q) - 32) as f32;
                }
            }
        }
    }
}

/// q2_k: 16 bytes of scale (low nibble) and minimum (high nibble), 64 bytes of bit pairs, f16 scale of scales, f16
/// scale of minima; `x = d·sc·q − dmin·m` in sub-blocks of 16.
#[inline(always)]
pub fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[80], block[81]]);
    let dmin = f16_to_f32([block[82], block[83]]);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[j] & 15);
        let min = dmin * f32::from(block[j] >> 4);
        let (qs, shift) = pairs(&block[16..80], j);
        for (x, q) in out.iter_mut().zip(qs) {
            *x = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

/// Where the bit pairs of sub-block `j` of 16 are: each half of 128 elements keeps 32 bytes, and four runs of 32
/// elements share them at shifts 0, 2, 4, 6.
#[inline(always)]
fn pairs(qs: &[u8], j: usize) -> (&[u8], usize) {
    (&qs[32 * (j / 8) + 16 * (j % 2)..][..16], 2 * (j / 2 % 4))
}

/// q3_k: 32 bytes of third bits, 64 bytes of bit pairs, sixteen six-bit scales in 12 bytes, f16 scale;
/// `x = d·(sc − 32)·(q − 4)` in sub-blocks of 16.
#[inline(always)]
pub fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[108], block[109]]);
    let packed = &block[96..108];
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        let scale = d * (i32::from(low | high << 4) - 32) as f32;
        let (qs, shift) = pairs(&block[32..96], j);
        let thirds = &block[16 * (j % 2)..][..16];
        for ((x, q), third) in out.iter_mut().zip(qs).zip(thirds) {
            let q = q >> shift & 3 | (third >> (j / 2) & 1) << 2;
            *x = scale * (i32::from(q) - 4) as f32;
        }
    }
}

/// q5_k: as q4_k, with 32 bytes of fifth bits before the nibbles: bit `s` of byte `l` belongs to element `l` of
/// sub-block `s`.
#[inline(always)]
pub fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    let dmin = f16_to_f32([block[2], block[3]]);
    let packed = std::array::from_fn(|i| block[4 + i]);
    let fifths = &block[16..48];
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = six_bit_pair(&packed, s);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let nibbles = &block[48 + 32 * (s / 2)..][..32];
        let shift = 4 * (s % 2);
        for ((x, q), fifth) in out.iter_mut().zip(nibbles).zip(fifths) {
            *x = scale * f32::from(q >> shift & 15 | (fifth >> s & 1) << 4) - min;
        }
    }
}

/// q8_k: f32 scale, 256 signed bytes, sixteen i16 sums (not needed to decode); `x = d·q`.
#[inline(always)]
pub fn decode_q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (x, q) in out.iter_mut().zip(&block[4..260]) {
        *x = d * f32::from(*q as i8);
    }
}
