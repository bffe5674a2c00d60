//! The AVX2 level: the same 16-lane sums in two registers each, so its bits are those of AVX-512.

use std::arch::x86_64::*;

use super::attention::TILE;
use super::lanes::lanes;
use super::{Kernels, Level};

mod exact;
mod integer;

pub(super) use integer::INTEGER;

/// The AVX2 table.
pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx2,
    dot,
    fused: |ty| Some(exact::of(ty)?.0),
    decode: |ty| Some(exact::of(ty)?.1),
    integer: || &INTEGER,
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
