//! The grid types as codes: runs of eight or four magnitudes from a table, and their signs by a mask for each set of eight.

use std::arch::x86_64::*;

use super::codes::{Codes, Head, codes, doubled, half, half_bytes, spread, with_scales};
use crate::blocks::BlockType;
use crate::blocks::iq::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, even_signs, iq1_m_scale};

/// All ones in each byte whose bit is set.
const fn mask(bits: u8) -> u64 {
    let (mut mask, mut j) = (0, 0);
    while j < 8 {
        if bits >> j & 1 == 1 {
            mask |= 0xff << (8 * j);
        }
        j += 1;
    }
    mask
}

/// Masks of seven signs and one that makes their number even.
static EVEN: [u64; 128] = {
    let (mut table, mut i) = ([0; 128], 0);
    while i < 128 {
        table[i] = mask(even_signs(i as u32));
        i += 1;
    }
    table
};

/// Four runs of eight, of as many entries of a table.
#[inline]
#[target_feature(enable = "avx2")]
fn eights<T, const N: usize>(table: &[T; N], at: __m128i) -> __m256i {
    const { assert!(size_of::<T>() == 8 && N.is_power_of_two()) };
    let at = _mm_and_si128(at, _mm_set1_epi32(N as i32 - 1));
    // SAFETY: elements of the table.
    unsafe { _mm256_i32gather_epi64::<8>(table.as_ptr().cast(), at) }
}

/// Eight runs of four.
#[inline]
#[target_feature(enable = "avx2")]
fn fours<const N: usize>(table: &[[i8; 4]; N], at: __m256i) -> __m256i {
    const { assert!(N.is_power_of_two()) };
    let at = _mm256_and_si256(at, _mm256_set1_epi32(N as i32 - 1));
    // SAFETY: elements of the table.
    unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), at) }
}

/// Four bytes as words.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four_bytes(p: *const u8) -> __m128i {
    // SAFETY: promised by the caller.
    _mm_cvtepu8_epi32(_mm_cvtsi32_si128(unsafe { u32_at(p) } as i32))
}

/// Four fields of `bits` bits, `step` apart.
#[inline]
#[target_feature(enable = "avx2")]
fn fields(word: usize, step: i32, bits: i32) -> __m128i {
    let all = _mm_srlv_epi32(_mm_set1_epi32(word as i32), _mm_setr_epi32(0, step, 2 * step, 3 * step));
    _mm_and_si128(all, _mm_set1_epi32((1 << bits) - 1))
}

/// Magnitudes, negative where `signs` has ones, and `offset` more.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(grid: __m256i, signs: __m256i, offset: u8) -> __m256i {
    let raised = _mm256_sub_epi8(_mm256_set1_epi8(offset as i8), signs);
    _mm256_add_epi8(_mm256_xor_si256(grid, signs), raised)
}

/// # Safety
/// Two bytes are readable at `p`.
#[inline(always)]
unsafe fn u16_at(p: *const u8) -> usize {
    // SAFETY: promised by the caller.
    usize::from(unsafe { p.cast::<u16>().read_unaligned() })
}

/// # Safety
/// Four bytes are readable at `p`.
#[inline(always)]
unsafe fn u32_at(p: *const u8) -> usize {
    // SAFETY: promised by the caller.
    unsafe { p.cast::<u32>().read_unaligned() as usize }
}

/// `2·s + 1` of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn odd(scales: __m128i) -> __m128i {
    _mm_add_epi8(_mm_add_epi8(scales, scales), _mm_set1_epi8(1))
}

/// The scales of groups of 32 in the top four bits of eight words of `step` bytes each, from `p`.
///
/// # Safety
/// The words are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn top_nibbles(p: *const u8, step: usize) -> __m128i {
    let mut scales = 0u64;
    for group in 0..8 {
        // SAFETY: promised by the caller.
        scales |= u64::from(unsafe { *p.add(step * group + 3) } >> 4) << (8 * group);
    }
    _mm_cvtsi64_si128(scales as i64)
}

codes!(Iq2Xxs { const OFFSET: u8 = 64; }
    |p| with_scales(half(p) * 0.125, doubled(odd(top_nibbles(p.add(6), 8)))),
    |p, part| {
        let at = p.add(2 + 8 * part);
        signed(eights(&IQ2_XXS, four_bytes(at)), eights(&EVEN, fields(u32_at(at.add(4)), 7, 7)), 64)
    }
);
codes!(Iq2Xs { const OFFSET: u8 = 64; const RUN: usize = 16; }
    |p| with_scales(half(p) * 0.125, _mm256_cvtepi8_epi16(odd(half_bytes(p.add(66))))),
    |p, part| {
        let words = _mm_cvtepu16_epi32(_mm_loadl_epi64(p.add(2 + 8 * part).cast()));
        signed(eights(&IQ2_XS, words), eights(&EVEN, _mm_srli_epi32::<9>(words)), 64)
    }
);
codes!(Iq2S { const OFFSET: u8 = 64; const RUN: usize = 16; }
    |p| with_scales(half(p) * 0.125, _mm256_cvtepi8_epi16(odd(half_bytes(p.add(74))))),
    |p, part| {
        let high = _mm_slli_epi32::<8>(fields(usize::from(*p.add(66 + part)), 2, 2));
        let grid = eights(&IQ2_S, _mm_or_si128(four_bytes(p.add(2 + 4 * part)), high));
        signed(grid, spread(u32_at(p.add(34 + 4 * part)) as u32), 64)
    }
);
codes!(Iq3Xxs { const OFFSET: u8 = 64; }
    |p| with_scales(half(p) * 0.25, doubled(odd(top_nibbles(p.add(66), 4)))),
    |p, part| {
        let at = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(2 + 8 * part).cast()));
        signed(fours(&IQ3_XXS, at), eights(&EVEN, fields(u32_at(p.add(66 + 4 * part)), 7, 7)), 64)
    }
);
codes!(Iq3S { const OFFSET: u8 = 16; }
    |p| with_scales(half(p), doubled(odd(half_bytes(p.add(106))))),
    |p, part| {
        let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(2 + 8 * part).cast()));
        let high = _mm256_set1_epi32(i32::from(*p.add(66 + part)) << 8);
        let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let at = _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi32(0x100)));
        signed(fours(&IQ3_S, at), spread(u32_at(p.add(74 + 4 * part)) as u32), 16)
    }
);

/// Levels −1, 0, 1 in eighths, with an eighth added or taken (`±1` in each byte of `shift`), and nine more: 0 to 18.
#[inline]
#[target_feature(enable = "avx2")]
fn eighths(grid: __m256i, shift: __m256i) -> __m256i {
    let raised = _mm256_add_epi8(grid, _mm256_set1_epi8(1));
    let shift = _mm256_add_epi8(shift, _mm256_set1_epi8(1));
    _mm256_add_epi8(_mm256_slli_epi16::<3>(raised), shift)
}

codes!(Iq1S { const OFFSET: u8 = 9; }
    |p| {
        let words = _mm_loadu_si128(p.add(34).cast());
        let scales = _mm_and_si128(_mm_srli_epi16::<12>(words), _mm_set1_epi16(7));
        let scales = _mm_add_epi16(_mm_add_epi16(scales, scales), _mm_set1_epi16(1));
        with_scales(half(p) * 0.125, doubled(_mm_packs_epi16(scales, scales)))
    },
    |p, part| {
        let word = u16_at(p.add(34 + 2 * part));
        let high = _mm_slli_epi32::<8>(fields(word, 3, 3));
        let grid = eights(&IQ1, _mm_or_si128(four_bytes(p.add(2 + 4 * part)), high));
        eighths(grid, _mm256_set1_epi8(if word & 0x8000 != 0 { -1 } else { 1 }))
    }
);
codes!(Iq1M { const OFFSET: u8 = 9; const RUN: usize = 16; }
    |p| {
        let mut scales = [0i16; 16];
        for (j, s) in scales.iter_mut().enumerate() {
            *s = 2 * (u16_at(p.add(48 + 2 * (j / 4))) >> (3 * (j % 4)) & 7) as i16 + 1;
        }
        let d = iq1_m_scale(std::slice::from_raw_parts(p, 56));
        with_scales(d * 0.125, _mm256_loadu_si256(scales.as_ptr().cast()))
    },
    |p, part| {
        let high = u16_at(p.add(32 + 2 * part));
        let entries = _mm_slli_epi32::<8>(fields(high, 4, 3));
        let grid = eights(&IQ1, _mm_or_si128(four_bytes(p.add(4 * part)), entries));
        let up = _mm256_cmpeq_epi64(_mm256_cvtepu32_epi64(fields(high >> 3, 4, 1)), _mm256_setzero_si256());
        let shift = _mm256_blendv_epi8(_mm256_set1_epi8(-1), _mm256_set1_epi8(1), up);
        eighths(grid, shift)
    }
);
