//! The AVX2 level: the same 16-lane sums in two registers each, so its bits are those of AVX-512.

use std::arch::x86_64::*;

use super::attention::TILE;
use super::lanes::lanes;
use super::linear::DEPTH;
use super::{DecodeFn, FusedFn, Kernels, Level};
use crate::blocks::BlockType;
use crate::blocks::codebook::IQ4;
use crate::blocks::k::six_bit_pair;

/// The AVX2 table.
pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx2,
    dot,
    fused,
    decode,
    mul,
    transpose,
    lanes: lanes!(true, #[target_feature(enable = "avx2,fma,f16c")]),
};

/// Lanes 0..8 and 8..16 of a sum.
type Sum = [__m256; 2];

/// Rows of activations of a tile.
const MR: usize = 3;
/// Weight rows of a tile.
const NR: usize = 2;

/// Sums 16 lanes in the order 8 + 4 + 2 + 1.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(v: Sum) -> f32 {
    let eight = _mm256_add_ps(v[0], v[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// A mask of the first `n` of 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn first(n: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// A tile of `M × N`.
///
/// # Safety
/// As [`super::DotFn`] with `m = M`, `n = N`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_tile<const M: usize, const N: usize>(
    x: *const f32,
    ldx: usize,
    w: *const f32,
    ldw: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut acc = [[[_mm256_setzero_ps(); 2]; N]; M];
    let mut p = 0;
    while p + 16 <= k {
        for h in 0..2 {
            // SAFETY: 16 elements are left in every row.
            unsafe {
                let mut ws = [_mm256_setzero_ps(); N];
                for j in 0..N {
                    ws[j] = _mm256_loadu_ps(w.add(j * ldw + p + 8 * h));
                }
                for i in 0..M {
                    let x = _mm256_loadu_ps(x.add(i * ldx + p + 8 * h));
                    for j in 0..N {
                        acc[i][j][h] = _mm256_fmadd_ps(x, ws[j], acc[i][j][h]);
                    }
                }
            }
        }
        p += 16;
    }
    if p < k {
        for h in 0..2 {
            let mask = first((k - p).saturating_sub(8 * h));
            for i in 0..M {
                for j in 0..N {
                    // SAFETY: only the elements of the mask are read.
                    unsafe {
                        let x = _mm256_maskload_ps(x.wrapping_add(i * ldx + p + 8 * h), mask);
                        let w = _mm256_maskload_ps(w.wrapping_add(j * ldw + p + 8 * h), mask);
                        acc[i][j][h] = _mm256_fmadd_ps(x, w, acc[i][j][h]);
                    }
                }
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            // SAFETY: the element is one of the tile's.
            unsafe {
                let c = c.add(i * ldc + j);
                let sum = fold(acc[i][j]);
                *c = if add { *c + sum } else { sum };
            }
        }
    }
}

/// See [`super::DotFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased; the processor has the features.
#[target_feature(enable = "avx2,fma")]
unsafe fn dot(
    x: *const f32,
    ldx: usize,
    m: usize,
    w: *const f32,
    ldw: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    for i in (0..m).step_by(MR) {
        for j in (0..n).step_by(NR) {
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (x, w, c) = (x.add(i * ldx), w.add(j * ldw), c.add(i * ldc + j));
                match (m - i, n - j) {
                    (1, 1) => dot_tile::<1, 1>(x, ldx, w, ldw, k, c, ldc, add),
                    (1, _) => dot_tile::<1, 2>(x, ldx, w, ldw, k, c, ldc, add),
                    (2, 1) => dot_tile::<2, 1>(x, ldx, w, ldw, k, c, ldc, add),
                    (2, _) => dot_tile::<2, 2>(x, ldx, w, ldw, k, c, ldc, add),
                    (_, 1) => dot_tile::<3, 1>(x, ldx, w, ldw, k, c, ldc, add),
                    _ => dot_tile::<3, 2>(x, ldx, w, ldw, k, c, ldc, add),
                }
            }
        }
    }
}

/// A tile of `M` rows by the first `n` of 16 columns.
///
/// # Safety
/// As [`super::MulFn`] with `m = M`, `n ≤ 16`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn mul_tile<const M: usize>(
    a: *const f32,
    lda: usize,
    step: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let masks = [first(n), first(n.saturating_sub(8))];
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    if add {
        for i in 0..M {
            for h in 0..2 {
                // SAFETY: in bounds under the mask.
                acc[i][h] = unsafe { _mm256_maskload_ps(c.wrapping_add(i * ldc + 8 * h), masks[h]) };
            }
        }
    }
    for p in 0..k {
        // SAFETY: as above.
        unsafe {
            let row = b.add(p * ldb);
            let b = if n == 16 {
                [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))]
            } else {
                [_mm256_maskload_ps(row, masks[0]), _mm256_maskload_ps(row.wrapping_add(8), masks[1])]
            };
            for i in 0..M {
                let a = _mm256_broadcast_ss(&*a.add(i * lda + p * step));
                acc[i][0] = _mm256_fmadd_ps(a, b[0], acc[i][0]);
                acc[i][1] = _mm256_fmadd_ps(a, b[1], acc[i][1]);
            }
        }
    }
    for i in 0..M {
        for h in 0..2 {
            // SAFETY: as above.
            unsafe { _mm256_maskstore_ps(c.wrapping_add(i * ldc + 8 * h), masks[h], acc[i][h]) };
        }
    }
}

/// See [`super::MulFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased; the processor has the features.
#[target_feature(enable = "avx2,fma")]
unsafe fn mul(
    a: *const f32,
    lda: usize,
    step: usize,
    m: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    for j in (0..n).step_by(16) {
        let cols = (n - j).min(16);
        for i in (0..m).step_by(6) {
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (a, b, c) = (a.add(i * lda), b.add(j), c.add(i * ldc + j));
                match m - i {
                    1 => mul_tile::<1>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                    2 => mul_tile::<2>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                    3 => mul_tile::<3>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                    4 => mul_tile::<4>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                    5 => mul_tile::<5>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                    _ => mul_tile::<6>(a, lda, step, b, ldb, cols, k, c, ldc, add),
                }
            }
        }
    }
}

/// See [`super::TransposeFn`]: squares of 8 × 8 in registers.
///
/// # Safety
/// `src` is `(n, dim)` and `dst` `(dim, TILE)`; the processor has the features.
#[target_feature(enable = "avx2")]
unsafe fn transpose(src: *const f32, n: usize, dim: usize, dst: *mut f32) {
    for j in (0..dim).step_by(8) {
        let mask = first(dim - j);
        for i in (0..n).step_by(8) {
            let mut v = [_mm256_setzero_ps(); 8];
            for (r, v) in v.iter_mut().enumerate().take(n - i) {
                // SAFETY: row `i + r` is one of the n, and the mask ends it at `dim`.
                *v = unsafe { _mm256_maskload_ps(src.add((i + r) * dim + j), mask) };
            }
            for (c, v) in square(v).into_iter().enumerate().take(dim - j) {
                // SAFETY: a row of `dst` has TILE elements and `i + 8 ≤ TILE`.
                unsafe { _mm256_storeu_ps(dst.add((j + c) * TILE + i), v) };
            }
        }
    }
}

/// Transposes 8 × 8.
#[inline]
#[target_feature(enable = "avx2")]
fn square(v: [__m256; 8]) -> [__m256; 8] {
    let mut a = v;
    // Afterwards a[4g + c] holds column c (mod 4) of rows 4g..4g + 4, one per 128-bit half.
    for g in 0..2 {
        let (low01, high01) = (_mm256_unpacklo_ps(v[4 * g], v[4 * g + 1]), _mm256_unpackhi_ps(v[4 * g], v[4 * g + 1]));
        let (low23, high23) =
            (_mm256_unpacklo_ps(v[4 * g + 2], v[4 * g + 3]), _mm256_unpackhi_ps(v[4 * g + 2], v[4 * g + 3]));
        a[4 * g] = _mm256_shuffle_ps::<0b01_00_01_00>(low01, low23);
        a[4 * g + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(low01, low23);
        a[4 * g + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(high01, high23);
        a[4 * g + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(high01, high23);
    }
    let mut out = a;
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(a[c], a[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(a[c], a[4 + c]);
    }
    out
}

/// A block type that decodes 32 elements at a time into four vectors.
trait Unpack {
    /// Elements of a block, a multiple of 32.
    const ELEMS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements `32·part..32·part + 32` of the block at `p`.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    unsafe fn unpack(p: *const u8, part: usize) -> [__m256; 4];

    /// The 32 elements from element `at` of the row of blocks at `row`.
    ///
    /// # Safety
    /// Their block is readable; the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn at(row: *const u8, at: usize) -> [__m256; 4] {
        // SAFETY: promised by the caller.
        unsafe { Self::unpack(row.add(at / Self::ELEMS * Self::BYTES), at % Self::ELEMS / 32) }
    }
}

/// # Safety
/// Two bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn half(p: *const u8) -> __m256 {
    // SAFETY: promised by the caller.
    let bits = unsafe { p.cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_set1_epi16(bits))
}

/// Sixteen codes below 256, as numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn wide(codes: __m128i) -> [__m256; 2] {
    let part = |v| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v));
    [part(codes), part(_mm_srli_si128::<8>(codes))]
}

/// The low nibbles of 16 bytes, or the high ones where `high`.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(p: *const u8, high: bool) -> __m128i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { _mm_loadu_si128(p.cast()) };
    _mm_and_si128(_mm_srl_epi16(bytes, _mm_cvtsi32_si128(if high { 4 } else { 0 })), _mm_set1_epi8(15))
}

/// The low nibbles and then the high nibbles of 16 bytes, as numbers.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn codes(p: *const u8) -> [__m256; 4] {
    // SAFETY: promised by the caller.
    let ([a, b], [c, d]) = unsafe { (wide(nibbles(p, false)), wide(nibbles(p, true))) };
    [a, b, c, d]
}

/// 16 in each byte whose bit of `fifths` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteens(fifths: u16) -> __m128i {
    let spread = _mm_shuffle_epi8(
        _mm_cvtsi32_si128(i32::from(fifths)),
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
    );
    let bit = _mm_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit), _mm_set1_epi8(16))
}

/// 32 five-bit codes as numbers: nibbles of 16 bytes, fifth bits in `fifths`.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn five_bits(p: *const u8, fifths: u32) -> [__m256; 4] {
    // SAFETY: promised by the caller.
    let (low, high) = unsafe { (nibbles(p, false), nibbles(p, true)) };
    let [a, b] = wide(_mm_or_si128(low, sixteens(fifths as u16)));
    let [c, d] = wide(_mm_or_si128(high, sixteens((fifths >> 16) as u16)));
    [a, b, c, d]
}

/// Scale and minimum of sub-block `part` of the q4_k or q5_k block at `p`.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scale_and_min(p: *const u8, part: usize) -> (__m256, __m256) {
    // SAFETY: promised by the caller.
    let (d, min, packed) = unsafe { (half(p), half(p.add(2)), &*p.add(4).cast::<[u8; 12]>()) };
    let (s, m) = six_bit_pair(packed, part);
    (_mm256_mul_ps(d, _mm256_set1_ps(f32::from(s))), _mm256_mul_ps(min, _mm256_set1_ps(f32::from(m))))
}

macro_rules! unpack {
    ($ty:ident, |$p:ident, $part:ident| $body:expr) => {
        unpack!($ty, BlockType::$ty.elems(), BlockType::$ty.block_bytes(), |$p, $part| $body);
    };
    ($name:ident, $elems:expr, $bytes:expr, |$p:ident, $part:ident| $body:expr) => {
        struct $name;
        impl Unpack for $name {
            const ELEMS: usize = $elems;
            const BYTES: usize = $bytes;
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(unused_variables)]
            unsafe fn unpack($p: *const u8, $part: usize) -> [__m256; 4] {
                // SAFETY: reads stay within the block the caller promised.
                unsafe { $body }
            }
        }
    };
}

// Products of a scale and a code are exact in f32, so a fused multiply-add rounds as ggml's two steps do.
unpack!(Q4_0, |p, part| {
    let (d, eight) = (half(p), _mm256_set1_ps(8.0));
    codes(p.add(2)).map(|q| _mm256_mul_ps(d, _mm256_sub_ps(q, eight)))
});
unpack!(Q4_1, |p, part| {
    let (d, m) = (half(p), half(p.add(2)));
    codes(p.add(4)).map(|q| _mm256_fmadd_ps(d, q, m))
});
unpack!(Q5_0, |p, part| {
    let (d, middle) = (half(p), _mm256_set1_ps(16.0));
    let fifths = p.add(2).cast::<u32>().read_unaligned();
    five_bits(p.add(6), fifths).map(|q| _mm256_mul_ps(d, _mm256_sub_ps(q, middle)))
});
unpack!(Q5_1, |p, part| {
    let (d, m) = (half(p), half(p.add(2)));
    let fifths = p.add(4).cast::<u32>().read_unaligned();
    five_bits(p.add(8), fifths).map(|q| _mm256_fmadd_ps(d, q, m))
});
unpack!(Q8_0, |p, part| {
    let d = half(p);
    let value = |at: usize| {
        let q = _mm_loadl_epi64(p.add(2 + at).cast());
        _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)))
    };
    [value(0), value(8), value(16), value(24)]
});
unpack!(Iq4Nl, |p, part| {
    let (d, levels) = (half(p), _mm_loadu_si128(IQ4.as_ptr().cast()));
    let value = |high| {
        let q = _mm_shuffle_epi8(levels, nibbles(p.add(2), high));
        let part = |v| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)));
        [part(q), part(_mm_srli_si128::<8>(q))]
    };
    let ([a, b], [c, e]) = (value(false), value(true));
    [a, b, c, e]
});
unpack!(Q4K, |p, part| {
    let (d, m) = scale_and_min(p, part);
    let value = |run: usize| {
        let q = wide(nibbles(p.add(16 + 32 * (part / 2) + 16 * run), part % 2 == 1));
        q.map(|q| _mm256_fmsub_ps(d, q, m))
    };
    let ([a, b], [c, e]) = (value(0), value(1));
    [a, b, c, e]
});
unpack!(Q5K, |p, part| {
    let (d, m) = scale_and_min(p, part);
    let bit = _mm_set1_epi8((1u8 << part) as i8);
    let value = |run: usize| {
        let fifths = _mm_and_si128(_mm_loadu_si128(p.add(16 + 16 * run).cast()), bit);
        let fifths = _mm_and_si128(_mm_cmpeq_epi8(fifths, bit), _mm_set1_epi8(16));
        let q = wide(_mm_or_si128(nibbles(p.add(48 + 32 * (part / 2) + 16 * run), part % 2 == 1), fifths));
        q.map(|q| _mm256_fmsub_ps(d, q, m))
    };
    let ([a, b], [c, e]) = (value(0), value(1));
    [a, b, c, e]
});
unpack!(Q6K, |p, part| {
    let (side, quarter) = (part / 4, part % 4);
    let d = half(p.add(208));
    let value = |run: usize| {
        let low = nibbles(p.add(64 * side + 32 * (quarter % 2) + 16 * run), quarter / 2 == 1);
        let pairs = _mm_loadu_si128(p.add(128 + 32 * side + 16 * run).cast());
        let pairs = _mm_and_si128(_mm_srl_epi16(pairs, _mm_cvtsi32_si128(2 * quarter as i32)), _mm_set1_epi8(3));
        let scale = *p.add(192 + 8 * side + 2 * quarter + run) as i8;
        let d = _mm256_mul_ps(d, _mm256_set1_ps(f32::from(scale)));
        let q = wide(_mm_or_si128(low, _mm_slli_epi16::<4>(pairs)));
        q.map(|q| _mm256_mul_ps(d, _mm256_sub_ps(q, _mm256_set1_ps(32.0))))
    };
    let ([a, b], [c, e]) = (value(0), value(1));
    [a, b, c, e]
});
unpack!(F16, 32, 64, |p, part| {
    let value = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(p.add(2 * at).cast()));
    [value(0), value(8), value(16), value(24)]
});
unpack!(Bf16, 32, 64, |p, part| {
    let value = |at: usize| {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(2 * at).cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    };
    [value(0), value(8), value(16), value(24)]
});
unpack!(F32, 32, 128, |p, part| {
    let value = |at: usize| _mm256_loadu_ps(p.cast::<f32>().add(at));
    [value(0), value(8), value(16), value(24)]
});

/// `N` weight rows against `M` rows of activations, decoding in registers.
///
/// # Safety
/// As [`super::FusedFn`] with `m = M`, `n = N`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fused_tile<U: Unpack, const M: usize, const N: usize>(
    x: *const f32,
    ldx: usize,
    w: *const u8,
    row_bytes: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    for start in (0..k).step_by(DEPTH) {
        let mut acc = [[[_mm256_setzero_ps(); 2]; N]; M];
        for p in (start..k.min(start + DEPTH)).step_by(32) {
            for j in 0..N {
                // SAFETY: 32 elements are left in every row.
                unsafe {
                    let row = w.add(j * row_bytes);
                    let ahead = row.wrapping_add(p * U::BYTES / U::ELEMS + 2 * N * row_bytes);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    let values = U::at(row, p);
                    for i in 0..M {
                        for (v, value) in values.into_iter().enumerate() {
                            let x = _mm256_loadu_ps(x.add(i * ldx + p + 8 * v));
                            acc[i][j][v % 2] = _mm256_fmadd_ps(x, value, acc[i][j][v % 2]);
                        }
                    }
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                // SAFETY: the element is one of the tile's.
                unsafe {
                    let c = c.add(i * ldc + j);
                    let sum = fold(acc[i][j]);
                    *c = if start > 0 { *c + sum } else { sum };
                }
            }
        }
    }
}

/// See [`super::FusedFn`].
///
/// # Safety
/// As there; the processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fused_rows<U: Unpack>(
    x: *const f32,
    ldx: usize,
    m: usize,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    for j in (0..n).step_by(2) {
        for i in (0..m).step_by(2) {
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (x, w, c) = (x.add(i * ldx), w.add(j * row_bytes), c.add(i * ldc + j));
                match (m - i, n - j) {
                    (1, 1) => fused_tile::<U, 1, 1>(x, ldx, w, row_bytes, k, c, ldc),
                    (1, _) => fused_tile::<U, 1, 2>(x, ldx, w, row_bytes, k, c, ldc),
                    (_, 1) => fused_tile::<U, 2, 1>(x, ldx, w, row_bytes, k, c, ldc),
                    _ => fused_tile::<U, 2, 2>(x, ldx, w, row_bytes, k, c, ldc),
                }
            }
        }
    }
}

fn fused(ty: BlockType) -> Option<FusedFn> {
    Some(match ty {
        BlockType::Q4_0 => fused_rows::<Q4_0>,
        BlockType::Q4_1 => fused_rows::<Q4_1>,
        BlockType::Q5_0 => fused_rows::<Q5_0>,
        BlockType::Q5_1 => fused_rows::<Q5_1>,
        BlockType::Q8_0 => fused_rows::<Q8_0>,
        BlockType::Iq4Nl => fused_rows::<Iq4Nl>,
        BlockType::Q4K => fused_rows::<Q4K>,
        BlockType::Q5K => fused_rows::<Q5K>,
        BlockType::Q6K => fused_rows::<Q6K>,
        BlockType::F16 => fused_rows::<F16>,
        BlockType::Bf16 => fused_rows::<Bf16>,
        BlockType::F32 => fused_rows::<F32>,
        _ => return None,
    })
}

/// Decodes 32 elements at a time with `U`; what is left, which only plain types have, through a padded copy.
///
/// # Safety
/// As [`DecodeFn`]; the processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode_row<U: Unpack>(w: *const u8, n: usize, out: *mut f32) {
    let whole = n / 32;
    for b in 0..whole {
        // SAFETY: 32 elements are left to read and to write.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(32 * b * U::BYTES / U::ELEMS + 2048).cast());
            for (v, value) in U::at(w, 32 * b).into_iter().enumerate() {
                _mm256_storeu_ps(out.add(32 * b + 8 * v), value);
            }
        }
    }
    if !n.is_multiple_of(32) {
        let mut rest = [0u8; 128];
        // SAFETY: at most 128 bytes are left to read and `n % 32` elements to write.
        unsafe {
            std::ptr::copy_nonoverlapping(w.add(whole * U::BYTES), rest.as_mut_ptr(), n % 32 * U::BYTES / 32);
            for (v, value) in U::unpack(rest.as_ptr(), 0).into_iter().enumerate() {
                let mask = first((n % 32).saturating_sub(8 * v));
                _mm256_maskstore_ps(out.wrapping_add(32 * whole + 8 * v), mask, value);
            }
        }
    }
}

fn decode(ty: BlockType) -> Option<DecodeFn> {
    Some(match ty {
        BlockType::Q4_0 => decode_row::<Q4_0>,
        BlockType::Q4_1 => decode_row::<Q4_1>,
        BlockType::Q5_0 => decode_row::<Q5_0>,
        BlockType::Q5_1 => decode_row::<Q5_1>,
        BlockType::Q8_0 => decode_row::<Q8_0>,
        BlockType::Iq4Nl => decode_row::<Iq4Nl>,
        BlockType::Q4K => decode_row::<Q4K>,
        BlockType::Q5K => decode_row::<Q5K>,
        BlockType::Q6K => decode_row::<Q6K>,
        BlockType::F16 => decode_row::<F16>,
        BlockType::Bf16 => decode_row::<Bf16>,
        BlockType::F32 => decode_row::<F32>,
        _ => return None,
    })
}
