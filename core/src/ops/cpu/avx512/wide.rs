//! Codes of super-blocks, 64 at a time.

use std::arch::x86_64::*;

use super::super::codes::{self, Codes};
use super::super::codes_grid as grid;

/// A super-block as groups of 64 codes: two parts of [`Codes`], or better where they share bytes.
pub(super) trait Wide: Codes {
    /// Codes `64·group..64·group + 64` of the block at `p`, in order.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn wide(p: *const u8, group: usize) -> __m512i {
        // SAFETY: promised by the caller.
        let (low, high) = unsafe { (Self::codes(p, 2 * group), Self::codes(p, 2 * group + 1)) };
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    }
}

/// 32 bytes twice.
///
/// # Safety
/// 32 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twice(p: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(p.cast()) })
}

/// Words of the first 32 bytes moved down by `low` bits, of the others by `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn down(v: __m512i, low: i16, high: i16) -> __m512i {
    let by = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set1_epi16(low)), _mm256_set1_epi16(high));
    _mm512_srlv_epi16(v, by)
}

/// The bits `mask` of bytes, after bit `low` of the first 32 bytes and bit `high` of the others have come to bit `to`. They stay in
/// their bytes, so that a rotation of more than a byte does it in either direction.
#[inline]
#[target_feature(enable = "avx512f")]
fn bits(v: __m512i, low: i32, high: i32, to: i32, mask: i8) -> __m512i {
    let by = _mm512_inserti64x4::<1>(
        _mm512_castsi256_si512(_mm256_set1_epi32((to - low) & 31)),
        _mm256_set1_epi32((to - high) & 31),
    );
    _mm512_and_si512(_mm512_rolv_epi32(v, by), _mm512_set1_epi8(mask))
}

/// `low` as far as `mask` has bits, and `high`.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(low: __m512i, mask: i8, high: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xec>(low, high, _mm512_set1_epi8(mask))
}

macro_rules! wide {
    ($ty:ident, |$p:ident, $group:ident| $codes:expr) => {
        impl Wide for codes::$ty {
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn wide($p: *const u8, $group: usize) -> __m512i {
                // SAFETY: reads stay within the block the caller promised.
                unsafe { $codes }
            }
        }
    };
}

wide!(Q4K, |p, group| _mm512_and_si512(down(twice(p.add(16 + 32 * group)), 0, 4), _mm512_set1_epi8(15)));
wide!(Q5K, |p, group| {
    let bit = 2 * group as i32;
    join(down(twice(p.add(48 + 32 * group)), 0, 4), 15, bits(twice(p.add(16)), bit, bit + 1, 4, 16))
});
wide!(Q6K, |p, group| {
    let (side, upper) = (group / 2, group % 2);
    let low = _mm512_loadu_si512(p.add(64 * side).cast());
    let low = if upper == 1 { _mm512_srli_epi16::<4>(low) } else { low };
    let bit = 4 * upper as i32;
    join(low, 15, bits(twice(p.add(128 + 32 * side)), bit, bit + 2, 4, 0x30))
});

/// Pairs of bits, as q2_k, q3_k and tq2_0 keep them from `p` on; bits above them are anything.
///
/// # Safety
/// 64 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pairs(p: *const u8, group: usize) -> __m512i {
    let by = 4 * (group % 2) as i16;
    // SAFETY: promised by the caller.
    down(unsafe { twice(p.add(32 * (group / 2))) }, by, by + 2)
}

wide!(Q2K, |p, group| _mm512_and_si512(pairs(p.add(16), group), _mm512_set1_epi8(3)));
wide!(Tq2_0, |p, group| _mm512_and_si512(pairs(p, group), _mm512_set1_epi8(3)));
wide!(Q3K, |p, group| {
    let bit = 2 * group as i32;
    join(pairs(p.add(32), group), 3, bits(twice(p), bit, bit + 1, 2, 4))
});

impl Wide for codes::Q8K {}
impl Wide for codes::Iq4Xs {}
impl Wide for codes::Tq1_0 {}
impl Wide for grid::Iq1S {}
impl Wide for grid::Iq1M {}
impl Wide for grid::Iq2Xxs {}
impl Wide for grid::Iq2Xs {}
impl Wide for grid::Iq2S {}
impl Wide for grid::Iq3Xxs {}
impl Wide for grid::Iq3S {}
