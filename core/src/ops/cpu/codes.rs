//! Stored blocks as whole numbers in AVX2 registers, for both vector levels: 32 unsigned codes at a time, and a super-block's
//! scales and minima once. What each type is in plain Rust stands in [`crate::blocks::split`].

use std::arch::x86_64::*;

use crate::blocks::BlockType;
use crate::blocks::codebook::{IQ4, MXFP4, half_e8m0};

/// What a block's elements share: `x = d·s·q − e·m`.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) d: f32,
    pub(super) e: f32,
    /// Sixteen i16 scales of runs of 16 elements, of a super-block.
    pub(super) scales: __m256i,
    /// Sixteen i16 minima.
    pub(super) minima: __m256i,
}

/// A block type as codes of 32 elements.
pub(super) trait Codes {
    /// The type.
    const TYPE: BlockType;
    /// What the codes are larger by than what is multiplied with; 0 where the type has minima.
    const OFFSET: u8 = 0;
    /// Whether the type has minima.
    const MIN: bool = false;
    /// Elements that share a scale.
    const RUN: usize = 32;
    /// Where a block of 32 keeps its f16 scale, and its minimum two bytes after it.
    const HALVES: Option<usize> = None;
    /// Elements of a block.
    const ELEMS: usize = Self::TYPE.elems();
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();

    /// What the elements of the block at `p` share.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    unsafe fn head(p: *const u8) -> Head;

    /// Codes `32·part..32·part + 32` of the block at `p`, in order.
    ///
    /// # Safety
    /// As for [`Self::head`].
    unsafe fn codes(p: *const u8, part: usize) -> __m256i;
}

/// The f16 at `p`.
///
/// # Safety
/// Two bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn half(p: *const u8) -> f32 {
    // SAFETY: promised by the caller.
    let bits = unsafe { p.cast::<u16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// The nibbles of 16 bytes in a block of 32: low ones, then high ones.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(p: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(p.cast()) });
    let shifted = _mm256_srlv_epi32(bytes, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}

/// All ones in each byte whose bit of `bits` is set.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn spread(bits: u32) -> __m256i {
    let bytes = _mm256_shuffle_epi8(
        _mm256_set1_epi32(bits as i32),
        _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
        ),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}

/// The bits of 32 bytes from bit `by` up, as far as `mask` has them.
///
/// # Safety
/// 32 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn shifted(p: *const u8, by: usize, mask: i8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { _mm256_loadu_si256(p.cast()) };
    _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(by as i32)), _mm256_set1_epi8(mask))
}

/// `value` in each byte of 32 at `p` whose bit `bit` is set.
///
/// # Safety
/// 32 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bit_of(p: *const u8, bit: usize, value: i8) -> __m256i {
    let bit = _mm256_set1_epi8((1u8 << bit) as i8);
    // SAFETY: promised by the caller.
    let bits = _mm256_and_si256(unsafe { _mm256_loadu_si256(p.cast()) }, bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(value))
}

/// Levels of four-bit codes, `by` added so that they are not negative.
const fn levels(of: [i8; 16], by: i16) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (of[i] as i16 + by) as u8;
        i += 1;
    }
    table
}

static IQ4_LEVELS: [u8; 16] = levels(IQ4, 128);
static MXFP4_LEVELS: [u8; 16] = levels(MXFP4, 12);

#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: &[u8; 16], codes: __m256i) -> __m256i {
    // SAFETY: the table has sixteen bytes.
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) }), codes)
}

/// Only `d`, and scales of one.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scaled(d: f32) -> Head {
    Head { d, e: 0.0, scales: _mm256_set1_epi16(1), minima: _mm256_setzero_si256() }
}

/// `d` and scales of runs.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn with_scales(d: f32, scales: __m256i) -> Head {
    Head { d, e: 0.0, scales, minima: _mm256_setzero_si256() }
}

/// Eight bytes, each twice, as i16.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn doubled(bytes: __m128i) -> __m256i {
    _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes))
}

/// The sixteen nibbles of eight bytes, low first, as bytes.
///
/// # Safety
/// Eight bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn half_bytes(p: *const u8) -> __m128i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { _mm_loadl_epi64(p.cast()) };
    let low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15));
    _mm_unpacklo_epi8(low, high)
}

/// Implements [`Codes`]: constants, the head and the codes of a part.
macro_rules! codes {
    ($ty:ident { $($const:item)* } |$h:ident| $head:expr, |$p:ident, $part:ident| $codes:expr) => {
        pub(super) struct $ty;
        impl Codes for $ty {
            const TYPE: BlockType = BlockType::$ty;
            $($const)*
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn head($h: *const u8) -> Head {
                // SAFETY: reads stay within the block the caller promised.
                unsafe { $head }
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(unused_variables, reason = "a block of 32 has one part")]
            unsafe fn codes($p: *const u8, $part: usize) -> __m256i {
                // SAFETY: as above.
                unsafe { $codes }
            }
        }
    };
}
pub(super) use codes;

codes!(Q4_0 { const HALVES: Option<usize> = Some(0); const OFFSET: u8 = 8; } |p| scaled(half(p)), |p, part| nibbles(p.add(2)));
codes!(Q4_1 { const HALVES: Option<usize> = Some(0); const MIN: bool = true; } |p| Head { e: -half(p.add(2)), ..scaled(half(p)) }, |p, part| nibbles(p.add(4)));
codes!(Q5_0 { const HALVES: Option<usize> = Some(0); const OFFSET: u8 = 16; } |p| scaled(half(p)), |p, part| {
    let fifths = spread(p.add(2).cast::<u32>().read_unaligned());
    _mm256_or_si256(nibbles(p.add(6)), _mm256_and_si256(fifths, _mm256_set1_epi8(16)))
});
codes!(Q5_1 { const HALVES: Option<usize> = Some(0); const MIN: bool = true; } |p| Head { e: -half(p.add(2)), ..scaled(half(p)) }, |p, part| {
    let fifths = spread(p.add(4).cast::<u32>().read_unaligned());
    _mm256_or_si256(nibbles(p.add(8)), _mm256_and_si256(fifths, _mm256_set1_epi8(16)))
});

/// 32 signed bytes, 128 added.
///
/// # Safety
/// 32 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn raised(p: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    _mm256_xor_si256(unsafe { _mm256_loadu_si256(p.cast()) }, _mm256_set1_epi8(-128))
}

codes!(Q8_0 { const HALVES: Option<usize> = Some(0); const OFFSET: u8 = 128; } |p| scaled(half(p)), |p, part| raised(p.add(2)));
codes!(Q8_1 { const HALVES: Option<usize> = Some(0); const OFFSET: u8 = 128; } |p| scaled(half(p)), |p, part| raised(p.add(4)));
codes!(Q8K { const OFFSET: u8 = 128; } |p| scaled(p.cast::<f32>().read_unaligned()), |p, part| raised(p.add(4 + 32 * part)));
codes!(Iq4Nl { const HALVES: Option<usize> = Some(0); const OFFSET: u8 = 128; } |p| scaled(half(p)), |p, part| look_up(&IQ4_LEVELS, nibbles(p.add(2))));
codes!(Mxfp4 { const OFFSET: u8 = 12; } |p| scaled(half_e8m0(*p)), |p, part| look_up(&MXFP4_LEVELS, nibbles(p.add(1))));

/// The head of q4_k and q5_k: eight six-bit pairs in 12 bytes, unpacked all at once.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn six_bit_pairs(p: *const u8) -> Head {
    // SAFETY: promised by the caller.
    let (words, d, e) = unsafe {
        let word = |i: usize| p.add(4 + 4 * i).cast::<u32>().read_unaligned();
        ([word(0), word(1), word(2)], half(p), half(p.add(2)))
    };
    let [first, second, third] = words;
    let pair = |low: u32, high: u32| _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32) as i64);
    let top = |word: u32| word >> 2 & 0x3030_3030;
    let scales = pair(first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | top(first));
    let minima = pair(second & 0x3f3f_3f3f, third >> 4 & 0x0f0f_0f0f | top(second));
    Head { d, e, scales: doubled(scales), minima: doubled(minima) }
}

codes!(Q4K { const MIN: bool = true; } |p| six_bit_pairs(p), |p, part| {
    shifted(p.add(16 + 32 * (part / 2)), 4 * (part % 2), 15)
});
codes!(Q5K { const MIN: bool = true; } |p| six_bit_pairs(p), |p, part| {
    let low = shifted(p.add(48 + 32 * (part / 2)), 4 * (part % 2), 15);
    _mm256_or_si256(low, bit_of(p.add(16), part, 16))
});
codes!(Q6K { const OFFSET: u8 = 32; const RUN: usize = 16; }
    |p| with_scales(half(p.add(208)), _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast()))),
    |p, part| {
        let (side, quarter) = (part / 4, part % 4);
        let low = shifted(p.add(64 * side + 32 * (quarter % 2)), 4 * (quarter / 2), 15);
        let high = shifted(p.add(128 + 32 * side), 2 * quarter, 3);
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
    }
);
codes!(Q2K { const MIN: bool = true; const RUN: usize = 16; }
    |p| {
        let packed = _mm_loadu_si128(p.cast());
        let low = _mm_and_si128(packed, _mm_set1_epi8(15));
        let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), _mm_set1_epi8(15));
        let (scales, minima) = (_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high));
        Head { d: half(p.add(80)), e: half(p.add(82)), scales, minima }
    },
    |p, part| shifted(p.add(16 + 32 * (part / 4)), 2 * (part % 4), 3)
);
codes!(Q3K { const OFFSET: u8 = 4; const RUN: usize = 16; }
    |p| {
        let low = half_bytes_apart(p.add(96));
        let high = p.add(104).cast::<u32>().read_unaligned();
        let pair = |by: u32| high >> by & 0x0303_0303;
        let high = _mm_setr_epi32(pair(0) as i32, pair(2) as i32, pair(4) as i32, pair(6) as i32);
        let scales = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
        with_scales(half(p.add(108)), _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32))))
    },
    |p, part| {
        let pairs = shifted(p.add(32 + 32 * (part / 4)), 2 * (part % 4), 3);
        _mm256_or_si256(pairs, bit_of(p, part, 4))
    }
);

/// The low nibbles of eight bytes, then the high ones.
///
/// # Safety
/// Eight bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_bytes_apart(p: *const u8) -> __m128i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { _mm_loadl_epi64(p.cast()) };
    _mm_and_si128(_mm_unpacklo_epi64(bytes, _mm_srli_epi16::<4>(bytes)), _mm_set1_epi8(15))
}

codes!(Iq4Xs { const OFFSET: u8 = 128; }
    |p| {
        let low = half_bytes(p.add(4));
        // Eight pairs of bits of a u16, one to a byte: halves of 8 bits apart, then of 4, then of 2.
        let high = u64::from(p.add(2).cast::<u16>().read_unaligned());
        let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        let high = (high | high << 12) & 0x000f_000f_000f_000f;
        let high = (high | high << 6) & 0x0303_0303_0303_0303;
        let high = _mm_cvtsi64_si128(high as i64);
        let scales = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
        with_scales(half(p), doubled(_mm_sub_epi8(scales, _mm_set1_epi8(32))))
    },
    |p, part| look_up(&IQ4_LEVELS, nibbles(p.add(8 + 16 * part)))
);

codes!(Tq2_0 { const OFFSET: u8 = 1; const RUN: usize = 16; }
    |p| scaled(half(p.add(64))),
    |p, part| shifted(p.add(32 * (part / 4)), 2 * (part % 4), 3)
);

/// Digits of 16 bytes of base-three fractions, each by its power of three, as 16 words.
#[inline]
#[target_feature(enable = "avx2")]
fn digits(bytes: __m128i, power: i16) -> __m256i {
    let words = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(power));
    let words = _mm256_and_si256(words, _mm256_set1_epi16(255));
    _mm256_srli_epi16::<8>(_mm256_mullo_epi16(words, _mm256_set1_epi16(3)))
}

/// Two times 16 words below 256 as bytes, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn packed(low: __m256i, high: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high))
}

codes!(Tq1_0 { const OFFSET: u8 = 1; const RUN: usize = 16; }
    |p| scaled(half(p.add(52))),
    |p, part| {
        const POWERS: [i16; 6] = [1, 3, 9, 27, 81, 0];
        let at = |n: usize| _mm_loadu_si128(p.add(n).cast());
        match part {
            0..5 => packed(digits(at(0), POWERS[part]), digits(at(16), POWERS[part])),
            5 | 6 => packed(digits(at(32), POWERS[2 * part - 10]), digits(at(32), POWERS[2 * part - 9])),
            _ => {
                // Four bytes of four digits: each byte meets every power.
                let last = _mm_set1_epi32(p.add(48).cast::<i32>().read_unaligned());
                let powers = _mm256_setr_epi16(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27);
                let words = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(last), powers);
                let words = _mm256_and_si256(words, _mm256_set1_epi16(255));
                let last = _mm256_srli_epi16::<8>(_mm256_mullo_epi16(words, _mm256_set1_epi16(3)));
                packed(digits(at(32), POWERS[4]), last)
            }
        }
    }
);
