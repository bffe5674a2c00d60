//! Products in whole numbers with AVX-512 VNNI, for few rows of activations: sixteen weight rows at a time, codes as they are
//! stored, whose sums a transposition brings into one register. More rows go through [`super::panel`].

use std::arch::x86_64::*;

use super::super::codes::{self, Codes, Head};
use super::super::codes_grid as grid;
use super::super::integer::{ByteFn, Bytes, Integer};
use super::super::linear::DEPTH;
use super::panel;
use super::wide::Wide;
use crate::blocks::BlockType;
use crate::blocks::split::RUN;

/// The AVX-512 level's, where the processor has VNNI.
pub(in super::super) static INTEGER: Integer = Integer { products, round: super::super::avx2::INTEGER.round };

/// Weight rows of a tile: lanes of a register.
pub(super) const ROWS: usize = 16;

/// What of two blocks or a super-block goes into its sums beside the codes.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) d: [f32; ROWS],
    pub(super) e: [f32; ROWS],
}

/// Sums of the lanes of sixteen registers: of the lower halves, and of the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn reduce(v: [__m512i; ROWS]) -> [__m512i; 2] {
    // Loops, for what the standard library calls back has not these functions' features, and would not be inlined.
    let mut fours = [_mm512_setzero_si512(); 4];
    for g in 0..4 {
        let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (ab, cd) = (two(v[4 * g], v[4 * g + 1]), two(v[4 * g + 2], v[4 * g + 3]));
        fours[g] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    let halves = |a, b| {
        let (even, odd) = (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        _mm512_add_epi32(even, odd)
    };
    let (low, high) = (halves(fours[0], fours[1]), halves(fours[2], fours[3]));
    [_mm512_shuffle_i32x4::<0b10_00_10_00>(low, high), _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)]
}

/// `(d·dx)·dot − (e·dx)·min`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn term<C: Codes>(d: __m512, e: __m512, dx: __m512, dot: __m512i, min: __m512i) -> __m512 {
    let scaled = _mm512_mul_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dot));
    if !C::MIN {
        return scaled;
    }
    _mm512_sub_ps(scaled, _mm512_mul_ps(_mm512_mul_ps(e, dx), _mm512_cvtepi32_ps(min)))
}

/// Adds the sums of `n ≤ 16` rows to `c`, or writes them.
///
/// # Safety
/// `c[..n]` is writable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(acc: [__m512; 2], c: *mut f32, n: usize, add: bool) {
    let mask = (u32::from(u16::MAX) >> (16 - n)) as u16;
    let sum = _mm512_add_ps(acc[0], acc[1]);
    // SAFETY: only the lanes of the mask are touched.
    unsafe {
        let sum = if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum) } else { sum };
        _mm512_mask_storeu_ps(c, mask, sum);
    }
}

/// Fetches the bytes of a block that will be used a tile later.
#[inline(always)]
fn fetch<C: Codes>(p: *const u8) {
    for line in 0..C::BYTES.div_ceil(64) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64 * line).cast()) };
    }
}

/// Lanes of 64 bytes' dot products, each by the scale of its run.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scaled_dot<C: Codes>(sum: __m512i, codes: __m512i, x: __m512i, scales: __m512i) -> __m512i {
    if C::OFFSET == 128 {
        // Pairs of products would not fit i16.
        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, x);
        return _mm512_add_epi32(sum, _mm512_mullo_epi32(dot, scales));
    }
    _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(codes, x), scales)
}

/// The scales of the four runs of group `group`, in the lanes where [`scaled_dot`] wants them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn scales_of<C: Codes>(scales: __m256i, group: usize) -> __m512i {
    if C::OFFSET == 128 {
        let at = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let at = _mm512_add_epi32(at, _mm512_set1_epi32(4 * group as i32));
        return _mm512_permutexvar_epi32(at, _mm512_cvtepi16_epi32(scales));
    }
    let lane = |n| _mm_set1_epi16(4 * group as i16 + n);
    let (low, high) = (_mm256_setr_m128i(lane(0), lane(1)), _mm256_setr_m128i(lane(2), lane(3)));
    let at = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    _mm512_permutexvar_epi16(at, _mm512_castsi256_si512(scales))
}

/// `n ≤ 16` rows of super-blocks against `M` rows of activations.
///
/// # Safety
/// As [`ByteFn`] with `m = M`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn super_tile<C: Wide, const M: usize>(
    x: &Bytes,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    let zero = _mm512_setzero_si512();
    let rows: [*const u8; ROWS] = std::array::from_fn(|j| w.wrapping_add(j.min(n - 1) * row_bytes));
    for start in (0..k).step_by(DEPTH) {
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        for (b, at) in (start..k.min(start + DEPTH)).step_by(256).enumerate() {
            let (mut dot, mut min) = ([[zero; ROWS]; M], [[zero; ROWS]; M]);
            let mut ends = Ends { d: [0.0; ROWS], e: [0.0; ROWS] };
            for j in 0..ROWS {
                // SAFETY: a whole block of every row, and its activations and their sums.
                unsafe {
                    let p = rows[j].add(at / 256 * C::BYTES);
                    fetch::<C>(p.wrapping_add(ROWS * row_bytes));
                    let Head { d, e, scales, minima } = C::head(p);
                    (ends.d[j], ends.e[j]) = (d, e);
                    let mut sums = [zero; M];
                    for group in 0..4 {
                        let (codes, scales) = (C::wide(p, group), scales_of::<C>(scales, group));
                        for i in 0..M {
                            let x = _mm512_loadu_si512(x.codes(i, at + 64 * group).cast());
                            sums[i] = scaled_dot::<C>(sums[i], codes, x, scales);
                        }
                    }
                    for i in 0..M {
                        let of = _mm256_loadu_si256(x.sums(i, at / RUN).cast());
                        if C::MIN {
                            min[i][j] = _mm512_zextsi256_si512(_mm256_madd_epi16(minima, of));
                        } else if C::OFFSET > 0 {
                            let offset = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-i16::from(C::OFFSET)));
                            let less = _mm512_zextsi256_si512(_mm256_madd_epi16(offset, of));
                            sums[i] = _mm512_add_epi32(sums[i], less);
                        }
                        dot[i][j] = sums[i];
                    }
                }
            }
            for i in 0..M {
                // SAFETY: sixteen elements each, and a scale of the activations.
                let (d, e, dx) = unsafe {
                    (
                        _mm512_loadu_ps(ends.d.as_ptr()),
                        _mm512_loadu_ps(ends.e.as_ptr()),
                        _mm512_set1_ps(*x.scale(i, at / 256)),
                    )
                };
                let [low, high] = reduce(dot[i]);
                let min = if C::MIN { reduce(min[i])[0] } else { zero };
                acc[i][b % 2] = _mm512_add_ps(acc[i][b % 2], term::<C>(d, e, dx, _mm512_add_epi32(low, high), min));
            }
        }
        for i in 0..M {
            // SAFETY: row `i` of `c` has `n` elements here.
            unsafe { store(acc[i], c.add(i * ldc), n, start > 0) };
        }
    }
}

/// The factors of the blocks at `p` of sixteen rows: `d`, and `e` of types with minima.
///
/// # Safety
/// The blocks are readable; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn factors<C: Codes>(rows: &[*const u8; ROWS], offset: usize) -> (__m512, __m512) {
    if let Some(at) = C::HALVES {
        let halves = |at: usize| {
            // SAFETY: promised by the caller.
            let h = |j: usize| unsafe { rows[j].add(offset + at).cast::<i16>().read_unaligned() };
            let bits = _mm256_setr_epi16(
                h(0),
                h(1),
                h(2),
                h(3),
                h(4),
                h(5),
                h(6),
                h(7),
                h(8),
                h(9),
                h(10),
                h(11),
                h(12),
                h(13),
                h(14),
                h(15),
            );
            _mm512_cvtph_ps(bits)
        };
        let e = if C::MIN { _mm512_sub_ps(_mm512_set1_ps(-0.0), halves(at + 2)) } else { _mm512_setzero_ps() };
        return (halves(at), e);
    }
    let mut ends = Ends { d: [0.0; ROWS], e: [0.0; ROWS] };
    for j in 0..ROWS {
        // SAFETY: promised by the caller.
        let head = unsafe { C::head(rows[j].add(offset)) };
        (ends.d[j], ends.e[j]) = (head.d, head.e);
    }
    // SAFETY: sixteen elements each.
    unsafe { (_mm512_loadu_ps(ends.d.as_ptr()), _mm512_loadu_ps(ends.e.as_ptr())) }
}

/// `n ≤ 16` rows of blocks of 32 against `M` rows of activations.
///
/// # Safety
/// As [`ByteFn`] with `m = M`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn pair_tile<C: Codes, const M: usize>(
    x: &Bytes,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    let zero = _mm512_setzero_si512();
    let rows: [*const u8; ROWS] = std::array::from_fn(|j| w.wrapping_add(j.min(n - 1) * row_bytes));
    for start in (0..k).step_by(DEPTH) {
        let end = k.min(start + DEPTH);
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        for at in (start..end).step_by(64) {
            // A last block alone is taken twice, the second time with no activations.
            let single = at + 32 == end;
            let first = at / 32 * C::BYTES;
            let second = if single { first } else { first + C::BYTES };
            let mask = if single { u64::from(u32::MAX) } else { u64::MAX };
            let mut dot = [[zero; ROWS]; M];
            let mut xs = [zero; M];
            for i in 0..M {
                // SAFETY: the activations of a block or two.
                xs[i] = unsafe { _mm512_maskz_loadu_epi8(mask, x.codes(i, at)) };
            }
            for j in 0..ROWS {
                // SAFETY: whole blocks of every row.
                unsafe {
                    let p = rows[j];
                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(first + ROWS * row_bytes).cast());
                    let (low, high) = (C::codes(p.add(first), 0), C::codes(p.add(second), 0));
                    let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                    for i in 0..M {
                        dot[i][j] = _mm512_dpbusd_epi32(zero, codes, xs[i]);
                    }
                }
            }
            // SAFETY: whole blocks of every row.
            let ends = unsafe { [factors::<C>(&rows, first), factors::<C>(&rows, second)] };
            for i in 0..M {
                let dots = reduce(dot[i]);
                for b in 0..if single { 1 } else { 2 } {
                    // SAFETY: the scale and the two sums of a block.
                    let (dx, sum) = unsafe {
                        let sums = x.sums(i, at / RUN + 2 * b);
                        (_mm512_set1_ps(*x.scale(i, at / 32 + b)), i32::from(*sums) + i32::from(*sums.add(1)))
                    };
                    let less = _mm512_set1_epi32(sum * i32::from(C::OFFSET));
                    let (d, e) = ends[b];
                    let dot = _mm512_sub_epi32(dots[b], less);
                    acc[i][b] = _mm512_add_ps(acc[i][b], term::<C>(d, e, dx, dot, _mm512_set1_epi32(sum)));
                }
            }
        }
        for i in 0..M {
            // SAFETY: row `i` of `c` has `n` elements here.
            unsafe { store(acc[i], c.add(i * ldc), n, start > 0) };
        }
    }
}

/// Makes a [`ByteFn`] of tiles of up to four rows of activations.
macro_rules! few {
    ($name:ident, $tile:ident, $codes:ident) => {
        /// See [`ByteFn`].
        ///
        /// # Safety
        /// As there; the processor has the features.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn $name<C: $codes>(
            x: Bytes,
            m: usize,
            w: *const u8,
            row_bytes: usize,
            n: usize,
            k: usize,
            _panel: *mut f32,
            c: *mut f32,
            ldc: usize,
        ) {
            for j in (0..n).step_by(ROWS) {
                let some = ROWS.min(n - j);
                for i in (0..m).step_by(4) {
                    let x = x.after(i);
                    // SAFETY: the tile lies within what the caller promised.
                    unsafe {
                        let (w, c) = (w.add(j * row_bytes), c.add(i * ldc + j));
                        match m - i {
                            1 => $tile::<C, 1>(&x, w, row_bytes, some, k, c, ldc),
                            2 => $tile::<C, 2>(&x, w, row_bytes, some, k, c, ldc),
                            3 => $tile::<C, 3>(&x, w, row_bytes, some, k, c, ldc),
                            _ => $tile::<C, 4>(&x, w, row_bytes, some, k, c, ldc),
                        }
                    }
                }
            }
        }
    };
}
few!(super_rows, super_tile, Wide);
few!(pair_rows, pair_tile, Codes);

fn products(ty: BlockType) -> Option<[ByteFn; 2]> {
    macro_rules! by {
        (super $kind:ty) => {
            [super_rows::<$kind> as ByteFn, panel::super_rows::<$kind>]
        };
        (pair $kind:ty) => {
            [pair_rows::<$kind> as ByteFn, panel::pair_rows::<$kind>]
        };
    }
    Some(match ty {
        BlockType::Q4_0 => by!(pair codes::Q4_0),
        BlockType::Q4_1 => by!(pair codes::Q4_1),
        BlockType::Q5_0 => by!(pair codes::Q5_0),
        BlockType::Q5_1 => by!(pair codes::Q5_1),
        BlockType::Q8_0 => by!(pair codes::Q8_0),
        BlockType::Q8_1 => by!(pair codes::Q8_1),
        BlockType::Iq4Nl => by!(pair codes::Iq4Nl),
        BlockType::Mxfp4 => by!(pair codes::Mxfp4),
        BlockType::Q2K => by!(super codes::Q2K),
        BlockType::Q3K => by!(super codes::Q3K),
        BlockType::Q4K => by!(super codes::Q4K),
        BlockType::Q5K => by!(super codes::Q5K),
        BlockType::Q6K => by!(super codes::Q6K),
        BlockType::Q8K => by!(super codes::Q8K),
        BlockType::Iq4Xs => by!(super codes::Iq4Xs),
        BlockType::Tq1_0 => by!(super codes::Tq1_0),
        BlockType::Tq2_0 => by!(super codes::Tq2_0),
        BlockType::Iq1S => by!(super grid::Iq1S),
        BlockType::Iq1M => by!(super grid::Iq1M),
        BlockType::Iq2Xxs => by!(super grid::Iq2Xxs),
        BlockType::Iq2Xs => by!(super grid::Iq2Xs),
        BlockType::Iq2S => by!(super grid::Iq2S),
        BlockType::Iq3Xxs => by!(super grid::Iq3Xxs),
        BlockType::Iq3S => by!(super grid::Iq3S),
        _ => return None,
    })
}
