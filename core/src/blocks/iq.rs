//! The grid types: runs of four or eight magnitudes are one entry of a published table, with signs and scales beside.
//!
//! iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs and iq3_s; decoding only, as choosing entries needs an importance
//! matrix.

use super::grids;
use super::plain::f16_to_f32;

/// What iq1 adds to (or takes from) every level of a run.
const IQ1_SHIFT: f32 = 0.125;

/// Entries of `PER` values, each a field of `16 / PER` bits in a packed word: low field first, mapped through `levels`.
const fn unpack<const N: usize, const PER: usize>(packed: &[u16; N], levels: &[i8]) -> [[i8; PER]; N] {
    let width = 16 / PER;
    let mut table = [[0; PER]; N];
    let mut entry = 0;
    while entry < N {
        let mut at = 0;
        while at < PER {
            table[entry][at] = levels[(packed[entry] >> (width * at)) as usize & ((1 << width) - 1)];
            at += 1;
        }
        entry += 1;
    }
    table
}

const IQ2_LEVELS: [i8; 3] = [8, 25, 43];
pub(crate) static IQ1: [[i8; 8]; 2048] = unpack(&grids::IQ1, &[-1, 0, 1]);
pub(crate) static IQ2_XXS: [[i8; 8]; 256] = unpack(&grids::IQ2_XXS, &IQ2_LEVELS);
pub(crate) static IQ2_XS: [[i8; 8]; 512] = unpack(&grids::IQ2_XS, &IQ2_LEVELS);
pub(crate) static IQ2_S: [[i8; 8]; 1024] = unpack(&grids::IQ2_S, &IQ2_LEVELS);
pub(crate) static IQ3_XXS: [[i8; 4]; 256] = unpack(&grids::IQ3_XXS, &[4, 12, 20, 28, 36, 44, 52, 62]);
pub(crate) static IQ3_S: [[i8; 4]; 512] = unpack(&grids::IQ3_S, &[1, 3, 5, 7, 9, 11, 13, 15]);

/// Seven stored sign bits and an eighth that makes their number even.
#[inline(always)]
pub(crate) const fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// Grid values by a scale, negative where their bit of `signs` is set.
#[inline(always)]
fn signed<const N: usize>(scale: f32, grid: &[i8; N], signs: u8, out: &mut [f32]) {
    for (j, (x, g)) in out.iter_mut().zip(grid).enumerate() {
        let sign = u32::from(signs >> j & 1) << 31;
        *x = f32::from_bits((scale * f32::from(*g)).to_bits() ^ sign);
    }
}

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Nibble `i` of `bytes`, low first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

/// iq2_xxs: f16 scale; per 32 elements four one-byte entries, then four seven-bit sign sets and a four-bit scale in a
/// u32.
#[inline(always)]
pub fn decode_iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + 8 * group;
        let signs = u32_at(block, at + 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            signed(scale, &IQ2_XXS[usize::from(block[at + l])], even_signs(signs >> (7 * l)), out);
        }
    }
}

/// iq2_xs: f16 scale, 32 u16 of nine-bit entry and seven signs, 16 four-bit scales.
#[inline(always)]
pub fn decode_iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        let code = u16_at(block, 2 + 2 * i);
        signed(scale, &IQ2_XS[usize::from(code & 511)], even_signs(u32::from(code >> 9)), out);
    }
}

/// iq2_s: f16 scale, 32 bytes of entries, 32 bytes of signs, 8 bytes of entries' ninth and tenth bits, 16 four-bit
/// scales.
#[inline(always)]
pub fn decode_iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[74..], i / 2))) * 0.25;
        let high = usize::from(block[66 + i / 4] >> (2 * (i % 4)) & 3);
        signed(scale, &IQ2_S[usize::from(block[2 + i]) | high << 8], block[34 + i], out);
    }
}

/// iq3_xxs: f16 scale, 64 bytes of entries, then per 32 elements four seven-bit sign sets and a four-bit scale in a
/// u32.
#[inline(always)]
pub fn decode_iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(block, 66 + 4 * group);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = even_signs(word >> (7 * l));
            let at = 2 + 8 * group + 2 * l;
            signed(scale, &IQ3_XXS[usize::from(block[at])], signs, &mut out[..4]);
            signed(scale, &IQ3_XXS[usize::from(block[at + 1])], signs >> 4, &mut out[4..]);
        }
    }
}

/// iq3_s: f16 scale, 64 bytes of entries, 8 bytes of their ninth bits, 32 bytes of signs, eight four-bit scales.
#[inline(always)]
pub fn decode_iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    let entry = |i: usize| usize::from(block[2 + i]) | usize::from(block[66 + i / 8] >> (i % 8) & 1) << 8;
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(1 + 2 * nibble(&block[106..], i / 4));
        let signs = block[74 + i];
        signed(scale, &IQ3_S[entry(2 * i)], signs, &mut out[..4]);
        signed(scale, &IQ3_S[entry(2 * i + 1)], signs >> 4, &mut out[4..]);
    }
}

/// A run of iq1: levels −1, 0, 1, all moved an eighth up or down.
#[inline(always)]
fn shifted(scale: f32, entry: usize, down: bool, out: &mut [f32; 8]) {
    let shift = if down { -IQ1_SHIFT } else { IQ1_SHIFT };
    for (x, g) in out.iter_mut().zip(&IQ1[entry]) {
        *x = scale * (f32::from(*g) + shift);
    }
}

/// iq1_s: f16 scale, 32 bytes of entries, then per 32 elements a u16 of four times three high bits, a three-bit scale
/// and the direction of the shift.
#[inline(always)]
pub fn decode_iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_to_f32([block[0], block[1]]);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(block, 34 + 2 * (i / 4));
        let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
        let high = usize::from(word >> (3 * (i % 4)) & 7);
        shifted(scale, usize::from(block[2 + i]) | high << 8, word & 0x8000 != 0, out);
    }
}

/// The f16 scale of a block of iq1_m, of the top nibbles of its four words.
#[inline(always)]
pub(crate) fn iq1_m_scale(block: &[u8]) -> f32 {
    let top = |k: usize| u16_at(block, 48 + 2 * k) >> 12 << (4 * k);
    f16_to_f32((top(0) | top(1) | top(2) | top(3)).to_le_bytes())
}

/// iq1_m: 32 bytes of entries, 16 bytes of nibbles (three high bits, direction of the shift), four u16 of four
/// three-bit scales whose top nibbles together are the f16 scale.
#[inline(always)]
pub fn decode_iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let words: [u16; 4] = std::array::from_fn(|k| u16_at(block, 48 + 2 * k));
    let d = iq1_m_scale(block);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * (words[i / 8] >> (3 * (i / 2 % 4)) & 7) + 1);
        let high = nibble(&block[32..48], i);
        shifted(scale, usize::from(block[i]) | usize::from(high & 7) << 8, high & 8 != 0, out);
    }
}
