//! The AVX-512 level: tiles of 6 rows of activations by 4 weight rows, 24 accumulators of 16 lanes.
//!
//! `fused` decodes weights in registers: a 4-bit block becomes a table of its 16 values and each code looks its value up
//! with one permute, so that a value costs half a shuffle and one fused multiply-add per row of activations.

use std::arch::x86_64::*;

use super::attention::TILE;
use super::lanes::lanes;
use super::linear::DEPTH;
use super::{DecodeFn, FusedFn, Kernels, Level};
use crate::blocks::BlockType;
use crate::blocks::codebook::IQ4;
use crate::blocks::k::six_bit_pair;

/// The AVX-512 table.
pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx512,
    dot,
    fused,
    decode,
    mul,
    transpose,
    lanes: lanes!(true, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]),
};

/// Rows of activations of a tile.
const MR: usize = 6;
/// Weight rows of a tile.
const NR: usize = 4;

/// Sums the lanes of four vectors, each in the order 8 + 4 + 2 + 1.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn fold4(v: [__m512; NR]) -> __m128 {
    let half = |a, b| {
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
        let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
        _mm512_add_ps(low, high)
    };
    let (ab, cd) = (half(v[0], v[1]), half(v[2], v[3]));
    // Each holds two 128-bit parts of one vector and then two of the other: 4 + 4.
    let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
    let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd);
    let four = _mm512_add_ps(low, high);
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
    let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
    _mm512_castps512_ps128(_mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        one,
    ))
}

/// Writes the sums of `n ≤ 4` accumulators to `c`.
///
/// # Safety
/// `c[..n]` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
unsafe fn store_sums(acc: [__m512; NR], c: *mut f32, n: usize, add: bool) {
    let sums = fold4(acc);
    let mask = (1u8 << n) - 1;
    // SAFETY: only the `n` lanes of the mask are touched.
    unsafe {
        let sums = if add { _mm_add_ps(_mm_maskz_loadu_ps(mask, c), sums) } else { sums };
        _mm_mask_storeu_ps(c, mask, sums);
    }
}

/// A tile of `M × 4` (only `n ≤ 4` columns written).
///
/// # Safety
/// As [`super::DotFn`] with `m = M`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
unsafe fn dot_tile<const M: usize>(
    x: *const f32,
    ldx: usize,
    w: *const f32,
    ldw: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut acc = [[_mm512_setzero_ps(); NR]; M];
    let rows: [*const f32; NR] = std::array::from_fn(|j| w.wrapping_add(j.min(n - 1) * ldw));
    let mut p = 0;
    while p + 16 <= k {
        // SAFETY: 16 elements are left in every row.
        unsafe {
            let w = [
                _mm512_loadu_ps(rows[0].add(p)),
                _mm512_loadu_ps(rows[1].add(p)),
                _mm512_loadu_ps(rows[2].add(p)),
                _mm512_loadu_ps(rows[3].add(p)),
            ];
            for i in 0..M {
                let x = _mm512_loadu_ps(x.add(i * ldx + p));
                for j in 0..NR {
                    acc[i][j] = _mm512_fmadd_ps(x, w[j], acc[i][j]);
                }
            }
        }
        p += 16;
    }
    if p < k {
        let mask = (1u16 << (k - p)) - 1;
        for i in 0..M {
            for j in 0..NR {
                // SAFETY: only the elements of the mask are read.
                unsafe {
                    let x = _mm512_maskz_loadu_ps(mask, x.add(i * ldx + p));
                    acc[i][j] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, rows[j].add(p)), acc[i][j]);
                }
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        // SAFETY: row i of `c` has n elements here.
        unsafe { store_sums(acc, c.add(i * ldc), n, add) };
    }
}

/// See [`super::DotFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased; the processor has the features.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
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
    let mut i = 0;
    while i < m {
        let rows = MR.min(m - i);
        for j in (0..n).step_by(NR) {
            let cols = NR.min(n - j);
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (x, w, c) = (x.add(i * ldx), w.add(j * ldw), c.add(i * ldc + j));
                match rows {
                    1 => dot_tile::<1>(x, ldx, w, ldw, cols, k, c, ldc, add),
                    2 => dot_tile::<2>(x, ldx, w, ldw, cols, k, c, ldc, add),
                    3 => dot_tile::<3>(x, ldx, w, ldw, cols, k, c, ldc, add),
                    4 => dot_tile::<4>(x, ldx, w, ldw, cols, k, c, ldc, add),
                    5 => dot_tile::<5>(x, ldx, w, ldw, cols, k, c, ldc, add),
                    _ => dot_tile::<6>(x, ldx, w, ldw, cols, k, c, ldc, add),
                }
            }
        }
        i += rows;
    }
}

/// A tile of `M` rows by `Z` vectors, the last one masked.
///
/// # Safety
/// As [`super::MulFn`] with `m = M` and `n` the lanes of `Z` vectors under `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
unsafe fn mul_tile<const M: usize, const Z: usize>(
    a: *const f32,
    lda: usize,
    step: usize,
    b: *const f32,
    ldb: usize,
    mask: u16,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mask_of = |z: usize| if z + 1 == Z { mask } else { u16::MAX };
    let mut acc = [[_mm512_setzero_ps(); Z]; M];
    if add {
        for i in 0..M {
            for z in 0..Z {
                // SAFETY: in bounds under the mask.
                acc[i][z] = unsafe { _mm512_maskz_loadu_ps(mask_of(z), c.add(i * ldc + 16 * z)) };
            }
        }
    }
    for p in 0..k {
        let mut row = [_mm512_setzero_ps(); Z];
        for z in 0..Z {
            // SAFETY: as above.
            row[z] = unsafe { _mm512_maskz_loadu_ps(mask_of(z), b.add(p * ldb + 16 * z)) };
        }
        for i in 0..M {
            // SAFETY: as above.
            let a = _mm512_set1_ps(unsafe { *a.add(i * lda + p * step) });
            for z in 0..Z {
                acc[i][z] = _mm512_fmadd_ps(a, row[z], acc[i][z]);
            }
        }
    }
    for i in 0..M {
        for z in 0..Z {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(c.add(i * ldc + 16 * z), mask_of(z), acc[i][z]) };
        }
    }
}

/// See [`super::MulFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased; the processor has the features.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
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
    for j in (0..n).step_by(64) {
        let cols = (n - j).min(64);
        let mask = (u32::from(u16::MAX) >> (15 - (cols - 1) % 16)) as u16;
        let mut i = 0;
        while i < m {
            let rows = MR.min(m - i);
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (a, b, c) = (a.add(i * lda), b.add(j), c.add(i * ldc + j));
                macro_rules! tile {
                    ($m:literal) => {
                        match cols.div_ceil(16) {
                            1 => mul_tile::<$m, 1>(a, lda, step, b, ldb, mask, k, c, ldc, add),
                            2 => mul_tile::<$m, 2>(a, lda, step, b, ldb, mask, k, c, ldc, add),
                            3 => mul_tile::<$m, 3>(a, lda, step, b, ldb, mask, k, c, ldc, add),
                            _ => mul_tile::<$m, 4>(a, lda, step, b, ldb, mask, k, c, ldc, add),
                        }
                    };
                }
                match rows {
                    1 => tile!(1),
                    2 => tile!(2),
                    3 => tile!(3),
                    4 => tile!(4),
                    5 => tile!(5),
                    _ => tile!(6),
                }
            }
            i += rows;
        }
    }
}

/// See [`super::TransposeFn`]: squares of 16 × 16 in registers.
///
/// # Safety
/// `src` is `(n, dim)` and `dst` `(dim, TILE)`; the processor has the features.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
unsafe fn transpose(src: *const f32, n: usize, dim: usize, dst: *mut f32) {
    for j in (0..dim).step_by(16) {
        let cols = (dim - j).min(16);
        let mask = (u32::from(u16::MAX) >> (16 - cols)) as u16;
        for i in (0..n).step_by(16) {
            let mut v = [_mm512_setzero_ps(); 16];
            for (r, v) in v.iter_mut().enumerate().take(n - i) {
                // SAFETY: row `i + r` is one of the n, and the mask ends it at `dim`.
                *v = unsafe { _mm512_maskz_loadu_ps(mask, src.add((i + r) * dim + j)) };
            }
            let v = square(v);
            for (c, v) in v.into_iter().enumerate().take(cols) {
                // SAFETY: a row of `dst` has TILE elements and `i + 16 ≤ TILE`.
                unsafe { _mm512_storeu_ps(dst.add((j + c) * TILE + i), v) };
            }
        }
    }
}

/// Transposes 16 × 16.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn square(v: [__m512; 16]) -> [__m512; 16] {
    let mut a = v;
    // Pairs of rows, then fours: afterwards a[4g + c] holds column c (mod 4) of rows 4g..4g + 4, one per 128-bit part.
    for g in 0..4 {
        let (low01, high01) = (_mm512_unpacklo_ps(v[4 * g], v[4 * g + 1]), _mm512_unpackhi_ps(v[4 * g], v[4 * g + 1]));
        let (low23, high23) =
            (_mm512_unpacklo_ps(v[4 * g + 2], v[4 * g + 3]), _mm512_unpackhi_ps(v[4 * g + 2], v[4 * g + 3]));
        let join = |x, y| {
            let (x, y) = (_mm512_castps_pd(x), _mm512_castps_pd(y));
            [_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y))]
        };
        [a[4 * g], a[4 * g + 1]] = join(low01, low23);
        [a[4 * g + 2], a[4 * g + 3]] = join(high01, high23);
    }
    let mut out = a;
    for c in 0..4 {
        let (r0, r4, r8, r12) = (a[c], a[4 + c], a[8 + c], a[12 + c]);
        let (even0, odd0) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(r0, r4), _mm512_shuffle_f32x4::<0b11_01_11_01>(r0, r4));
        let (even1, odd1) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(r8, r12), _mm512_shuffle_f32x4::<0b11_01_11_01>(r8, r12));
        out[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even0, even1);
        out[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even0, even1);
        out[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd0, odd1);
        out[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd0, odd1);
    }
    out
}

/// A block type that decodes 32 elements at a time into two vectors.
trait Unpack {
    /// Elements of a block, a multiple of 32.
    const ELEMS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements `32·part..32·part + 32` of the block at `p`.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    unsafe fn unpack(p: *const u8, part: usize) -> [__m512; 2];
}

/// The f16 at `p`, in every lane: a broadcasting load and a conversion, no trip through a general register.
///
/// # Safety
/// Two bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn half(p: *const u8) -> __m512 {
    // SAFETY: promised by the caller.
    let bits = unsafe { p.cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_set1_epi16(bits))
}

/// The 16 values of a 4-bit code.
#[inline]
#[target_feature(enable = "avx512f")]
fn codes() -> __m512 {
    _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
}

/// Looks 16 bytes' low and high halves up in `table`; a permute reads only the low four bits of an index.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn look_up(p: *const u8, low: __m512, high: __m512) -> [__m512; 2] {
    // SAFETY: promised by the caller.
    let index = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) });
    [_mm512_permutexvar_ps(index, low), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(index), high)]
}

/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn signed_bytes(p: *const u8) -> __m512 {
    // SAFETY: promised by the caller.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(p.cast()) }))
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
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(unused_variables)]
            unsafe fn unpack($p: *const u8, $part: usize) -> [__m512; 2] {
                // SAFETY: reads stay within the block the caller promised.
                unsafe { $body }
            }
        }
    };
}

// Products of a scale and a code are exact in f32, so a fused multiply-add rounds as ggml's two steps do.
unpack!(Q4_0, |p, part| {
    let table = _mm512_mul_ps(half(p), _mm512_sub_ps(codes(), _mm512_set1_ps(8.0)));
    look_up(p.add(2), table, table)
});
unpack!(Q4_1, |p, part| {
    let table = _mm512_fmadd_ps(half(p), codes(), half(p.add(2)));
    look_up(p.add(4), table, table)
});
unpack!(Q8_0, |p, part| {
    let d = half(p);
    [_mm512_mul_ps(d, signed_bytes(p.add(2))), _mm512_mul_ps(d, signed_bytes(p.add(18)))]
});
unpack!(F16, 32, 64, |p, part| {
    [_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())), _mm512_cvtph_ps(_mm256_loadu_si256(p.add(32).cast()))]
});
unpack!(Bf16, 32, 64, |p, part| {
    let wide = |p: *const u8| {
        let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    };
    [wide(p), wide(p.add(32))]
});
unpack!(F32, 32, 128, |p, part| [_mm512_loadu_ps(p.cast()), _mm512_loadu_ps(p.add(64).cast())]);

/// Scale and minimum of sub-block `part` of the q4_k or q5_k block at `p`.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn scale_and_min(p: *const u8, part: usize) -> (__m512, __m512) {
    // SAFETY: promised by the caller.
    let (d, min, packed) = unsafe { (half(p), half(p.add(2)), &*p.add(4).cast::<[u8; 12]>()) };
    let (s, m) = six_bit_pair(packed, part);
    (_mm512_mul_ps(d, _mm512_set1_ps(f32::from(s))), _mm512_mul_ps(min, _mm512_set1_ps(f32::from(m))))
}

/// The nibbles of 16 bytes: the low ones, or the high ones where `high`; bits above them are anything below 256.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn nibbles(p: *const u8, high: bool) -> __m512i {
    // SAFETY: promised by the caller.
    let bytes = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) });
    _mm512_srl_epi32(bytes, _mm_cvtsi32_si128(if high { 4 } else { 0 }))
}

unpack!(Q5_0, |p, part| {
    let (d, fifths) = (half(p), p.add(2).cast::<u32>().read_unaligned());
    let low = _mm512_mul_ps(d, _mm512_sub_ps(codes(), _mm512_set1_ps(16.0)));
    let high = _mm512_mul_ps(d, codes());
    five_bits([nibbles(p.add(6), false), nibbles(p.add(6), true)], fifths, low, high)
});
unpack!(Q5_1, |p, part| {
    let (d, m, fifths) = (half(p), half(p.add(2)), p.add(4).cast::<u32>().read_unaligned());
    let low = _mm512_fmadd_ps(d, codes(), m);
    let high = _mm512_fmadd_ps(d, _mm512_add_ps(codes(), _mm512_set1_ps(16.0)), m);
    five_bits([nibbles(p.add(8), false), nibbles(p.add(8), true)], fifths, low, high)
});

/// Looks 32 codes up: those whose bit of `fifths` is set in `high`, the others in `low`.
#[inline]
#[target_feature(enable = "avx512f")]
fn five_bits(codes: [__m512i; 2], fifths: u32, low: __m512, high: __m512) -> [__m512; 2] {
    let value = |code, mask| _mm512_mask_permutexvar_ps(_mm512_permutexvar_ps(code, low), mask, code, high);
    [value(codes[0], fifths as u16), value(codes[1], (fifths >> 16) as u16)]
}

unpack!(Q4K, |p, part| {
    let (d, m) = scale_and_min(p, part);
    let table = _mm512_fmsub_ps(d, codes(), m);
    let value = |run: usize| {
        let codes = nibbles(p.add(16 + 32 * (part / 2) + 16 * run), part % 2 == 1);
        _mm512_permutexvar_ps(codes, table)
    };
    [value(0), value(1)]
});
unpack!(Q5K, |p, part| {
    let (d, m) = scale_and_min(p, part);
    let low = _mm512_fmsub_ps(d, codes(), m);
    let high = _mm512_fmsub_ps(d, _mm512_add_ps(codes(), _mm512_set1_ps(16.0)), m);
    let code = |run: usize| nibbles(p.add(48 + 32 * (part / 2) + 16 * run), part % 2 == 1);
    let fifths = _mm256_test_epi8_mask(_mm256_loadu_si256(p.add(16).cast()), _mm256_set1_epi8(1 << part as u32));
    five_bits([code(0), code(1)], fifths, low, high)
});
unpack!(Iq4Nl, |p, part| {
    let table = _mm512_mul_ps(half(p), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(IQ4.as_ptr().cast()))));
    look_up(p.add(2), table, table)
});
unpack!(Q6K, |p, part| {
    let (side, quarter) = (part / 4, part % 4);
    let d = half(p.add(208));
    let value = |run: usize| {
        let wide = |at: usize| _mm512_cvtepu8_epi32(_mm_loadu_si128(p.add(at + 16 * run).cast()));
        let shift = |v, by: usize| _mm512_srl_epi32(v, _mm_cvtsi32_si128(by as i32));
        let low = shift(wide(64 * side + 32 * (quarter % 2)), 4 * (quarter / 2));
        let high = shift(wide(128 + 32 * side), 2 * quarter);
        let low = _mm512_and_si512(low, _mm512_set1_epi32(15));
        let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3)));
        let q = _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
        let scale = *p.add(192 + 8 * side + 2 * quarter + run) as i8;
        _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps(f32::from(scale))), _mm512_cvtepi32_ps(q))
    };
    [value(0), value(1)]
});

/// Weight rows that are fetched ahead of use: four short rows side by side are no stream that the hardware would notice
/// (2.2 times faster on SmolLM2's 360-byte rows).
const AHEAD: usize = 8;

/// Four weight rows against `M` rows of activations, decoding in registers.
///
/// # Safety
/// As [`super::FusedFn`] with `m = M`, `n ≤ 4`, and `k` whole blocks of `U`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn fused_tile<U: Unpack, const M: usize>(
    x: *const f32,
    ldx: usize,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    let rows: [*const u8; NR] = std::array::from_fn(|j| w.wrapping_add(j.min(n - 1) * row_bytes));
    let mut start = 0;
    while start < k {
        let end = k.min(start + DEPTH);
        let mut acc = [[_mm512_setzero_ps(); NR]; M];
        let mut p = start;
        while p < end {
            let at = p / U::ELEMS * U::BYTES;
            for part in 0..U::ELEMS / 32 {
                for j in 0..NR {
                    // SAFETY: the block at `p` is whole, and so are 32 activations from there.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(
                            rows[j].wrapping_add(at + part * 32 * U::BYTES / U::ELEMS + AHEAD * row_bytes).cast(),
                        );
                        let [low, high] = U::unpack(rows[j].add(at), part);
                        for i in 0..M {
                            let x = x.add(i * ldx + p);
                            acc[i][j] = _mm512_fmadd_ps(_mm512_loadu_ps(x), low, acc[i][j]);
                            acc[i][j] = _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16)), high, acc[i][j]);
                        }
                    }
                }
                p += 32;
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            // SAFETY: row i of `c` has n elements here.
            unsafe { store_sums(acc, c.add(i * ldc), n, start > 0) };
        }
        start = end;
    }
}

/// See [`super::FusedFn`].
///
/// # Safety
/// As there; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
    for j in (0..n).step_by(NR) {
        let cols = NR.min(n - j);
        // Four rows at a time: with more, the accumulators spill.
        for i in (0..m).step_by(4) {
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (x, w, c) = (x.add(i * ldx), w.add(j * row_bytes), c.add(i * ldc + j));
                match m - i {
                    1 => fused_tile::<U, 1>(x, ldx, w, row_bytes, cols, k, c, ldc),
                    2 => fused_tile::<U, 2>(x, ldx, w, row_bytes, cols, k, c, ldc),
                    3 => fused_tile::<U, 3>(x, ldx, w, row_bytes, cols, k, c, ldc),
                    _ => fused_tile::<U, 4>(x, ldx, w, row_bytes, cols, k, c, ldc),
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

/// Decodes whole groups of 32 elements with `U`, the rest, which only types of one-element blocks have, one by one.
///
/// # Safety
/// As [`DecodeFn`]; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn decode_row<U: Unpack>(w: *const u8, n: usize, out: *mut f32) {
    let mut p = 0;
    while p + U::ELEMS <= n {
        for part in 0..U::ELEMS / 32 {
            // SAFETY: the block is whole, and so is its place in `out`.
            unsafe {
                let block = w.add(p / U::ELEMS * U::BYTES);
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(2048).cast());
                let [low, high] = U::unpack(block, part);
                _mm512_storeu_ps(out.add(p + 32 * part), low);
                _mm512_storeu_ps(out.add(p + 32 * part + 16), high);
            }
        }
        p += U::ELEMS;
    }
    if p < n {
        let mut rest = [0u8; 128];
        let bytes = (n - p) * (U::BYTES / U::ELEMS);
        // SAFETY: `bytes ≤ 128` are left to read and `n − p` elements to write.
        unsafe {
            std::ptr::copy_nonoverlapping(w.add(p / U::ELEMS * U::BYTES), rest.as_mut_ptr(), bytes);
            let [low, high] = U::unpack(rest.as_ptr(), 0);
            let mask = (1u32 << (n - p)) - 1;
            _mm512_mask_storeu_ps(out.add(p), mask as u16, low);
            _mm512_mask_storeu_ps(out.wrapping_add(p + 16), (mask >> 16) as u16, high);
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
