//! The AVX-512 level: tiles of 6 rows of activations by 4 weight rows, 24 accumulators of 16 lanes.

use std::arch::x86_64::*;

use super::attention::TILE;
use super::lanes::lanes;
use super::{Kernels, Level};

mod exact;
mod integer;
mod panel;
mod wide;

/// The AVX-512 table.
pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx512,
    dot,
    fused: |ty| Some(exact::of(ty)?.0),
    decode: |ty| Some(exact::of(ty)?.1),
    integer: || if is_x86_feature_detected!("avx512vnni") { &integer::INTEGER } else { &super::avx2::INTEGER },
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
