//! Products in whole numbers with AVX2: eight weight rows at a time, whose sums a transposition brings into one register.

use std::arch::x86_64::*;

use super::super::codes::{self, Codes};
use super::super::codes_grid as grid;
use super::super::integer::{ByteFn, Bytes, Integer, Rounded};
use super::super::linear::DEPTH;
use super::first;
use crate::blocks::BlockType;
use crate::blocks::split::RUN;

/// The AVX2 level's.
pub(in super::super) static INTEGER: Integer = Integer { products, round };

/// Rounds blocks of `elems`, 32 or 256, as [`super::super::integer::round`] does.
///
/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn round(x: &[f32], elems: usize, to: Rounded<'_>) {
    let without_sign = |v| _mm256_andnot_ps(_mm256_set1_ps(-0.0), v);
    // SAFETY: eight elements of a chunk of as many.
    let load = |x: &[f32; 8]| unsafe { _mm256_loadu_ps(x.as_ptr()) };
    let blocks = x.chunks_exact(elems).zip(to.codes.chunks_exact_mut(elems));
    for ((x, codes), (scale, sums)) in blocks.zip(to.scales.iter_mut().zip(to.sums.chunks_exact_mut(elems / RUN))) {
        let eights = x.as_chunks::<8>().0;
        let (mut most, mut wrong) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for x in eights {
            let v = load(x);
            // The second operand where one is no number: what the first is, so far.
            most = _mm256_max_ps(without_sign(v), most);
            wrong = _mm256_fmadd_ps(v, _mm256_setzero_ps(), wrong);
        }
        let (mut lanes, mut wrongs) = ([0.0f32; 8], [0.0f32; 8]);
        // SAFETY: eight elements each.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), most);
            _mm256_storeu_ps(wrongs.as_mut_ptr(), wrong);
        }
        let most = lanes.into_iter().fold(0.0f32, |a, b| if b > a { b } else { a });
        let inverse = if elems == 32 {
            *scale = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(most / 127.0))));
            if most > 0.0 { 127.0 / most } else { 0.0 }
        } else {
            let mut largest = 0.0;
            for x in eights {
                let same = _mm256_cmp_ps::<_CMP_EQ_OQ>(without_sign(load(x)), _mm256_set1_ps(most));
                let found = _mm256_movemask_ps(same).trailing_zeros() as usize;
                if found < 8 {
                    largest = x[found];
                    break;
                }
            }
            let inverse = if largest == 0.0 { 0.0 } else { -127.0 / largest };
            *scale = if largest == 0.0 { 0.0 } else { 1.0 / inverse };
            inverse
        };
        *scale += wrongs.iter().sum::<f32>();
        let thirty_twos = x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0);
        for ((x, codes), sums) in thirty_twos.zip(sums.as_chunks_mut::<2>().0) {
            // SAFETY: eight of 32 elements.
            let whole = |n: usize| unsafe {
                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(8 * n)), _mm256_set1_ps(inverse)))
            };
            let (low, high) = (_mm256_packs_epi32(whole(0), whole(1)), _mm256_packs_epi32(whole(2), whole(3)));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
            // SAFETY: 32 codes.
            unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), q) };
            let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
            let twos = _mm256_hadd_epi32(fours, fours);
            let ones = _mm256_hadd_epi32(twos, twos);
            *sums = [_mm256_extract_epi32::<0>(ones) as i16, _mm256_extract_epi32::<4>(ones) as i16];
        }
    }
}

/// Weight rows of a tile.
const ROWS: usize = 8;
/// Rows of activations of a tile.
const BATCH: usize = 4;

/// The sums of the lanes of eight registers.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(v: [__m256i; ROWS]) -> __m256i {
    let four = |v: [__m256i; 4]| _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let (a, b) = (four([v[0], v[1], v[2], v[3]]), four([v[4], v[5], v[6], v[7]]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

/// The scales of runs `2·part` and `2·part + 1`, eight lanes of i16 each.
#[inline]
#[target_feature(enable = "avx2")]
fn pair_of_scales(scales: __m256i, part: usize) -> __m256i {
    let half = match part / 4 {
        0 => _mm256_permute2x128_si256::<0x00>(scales, scales),
        _ => _mm256_permute2x128_si256::<0x11>(scales, scales),
    };
    let at = (4 * (part % 4)) as i16;
    let [low, high] = [at | (at + 1) << 8, (at + 2) | (at + 3) << 8];
    let index = _mm256_setr_m128i(_mm_set1_epi16(low), _mm_set1_epi16(high));
    _mm256_shuffle_epi8(half, index)
}

/// A block's products with `M` rows of activations: registers whose lanes add up to them, and to those of the minima.
///
/// # Safety
/// The block at `p` is readable, and so are the activations of it from `k`; the processor has the features.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<C: Codes, const M: usize>(
    p: *const u8,
    head: &codes::Head,
    x: &Bytes,
    k: usize,
) -> ([__m256i; M], [__m256i; M]) {
    let (mut dot, mut min) = ([_mm256_setzero_si256(); M], [_mm256_setzero_si256(); M]);
    for part in 0..C::ELEMS / 32 {
        // SAFETY: a part of the block.
        let unsigned = unsafe { C::codes(p, part) };
        let scales = match C::ELEMS {
            32 => _mm256_set1_epi16(1),
            _ => pair_of_scales(head.scales, part),
        };
        for i in 0..M {
            // SAFETY: 32 activations of the block.
            let x = unsafe { _mm256_loadu_si256(x.codes(i, k + 32 * part).cast()) };
            // Pairs of products fit i16 where codes are below 128; above it, signs go over to the activations.
            let pairs = match C::OFFSET {
                128 => {
                    let signed = _mm256_xor_si256(unsigned, _mm256_set1_epi8(-128));
                    _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
                }
                _ => _mm256_maddubs_epi16(unsigned, x),
            };
            dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(pairs, scales));
        }
    }
    for i in 0..M {
        if !C::MIN && matches!(C::OFFSET, 0 | 128) {
            continue;
        }
        let sums = x.sums(i, k / RUN);
        // SAFETY: the sums of the block: sixteen, or two.
        let sums = unsafe {
            match C::ELEMS {
                32 => _mm256_zextsi128_si256(_mm_cvtsi32_si128(sums.cast::<i32>().read_unaligned())),
                _ => _mm256_loadu_si256(sums.cast()),
            }
        };
        if C::MIN {
            let minima = if C::ELEMS == 32 { _mm256_set1_epi16(1) } else { head.minima };
            min[i] = _mm256_madd_epi16(minima, sums);
        } else {
            let scales = if C::ELEMS == 32 { _mm256_set1_epi16(1) } else { head.scales };
            let offsets = _mm256_mullo_epi16(scales, _mm256_set1_epi16(i16::from(C::OFFSET)));
            dot[i] = _mm256_sub_epi32(dot[i], _mm256_madd_epi16(offsets, sums));
        }
    }
    (dot, min)
}

/// `n ≤ 8` weight rows against `M` rows of activations.
///
/// # Safety
/// As [`ByteFn`] with `m = M`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<C: Codes, const M: usize>(
    x: &Bytes,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
) {
    let zero = _mm256_setzero_si256();
    let rows: [*const u8; ROWS] = std::array::from_fn(|j| w.wrapping_add(j.min(n - 1) * row_bytes));
    for start in (0..k).step_by(DEPTH) {
        let mut acc = [[_mm256_setzero_ps(); M]; 2];
        for (b, at) in (start..k.min(start + DEPTH)).step_by(C::ELEMS).enumerate() {
            let (mut dot, mut min) = ([[zero; ROWS]; M], [[zero; ROWS]; M]);
            let (mut d, mut e) = ([0.0f32; ROWS], [0.0f32; ROWS]);
            for j in 0..ROWS {
                // SAFETY: a whole block of every row, and its activations.
                unsafe {
                    let p = rows[j].add(at / C::ELEMS * C::BYTES);
                    let ahead = p.wrapping_add(ROWS * row_bytes);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    if C::BYTES > 64 {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64).cast());
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(128).cast());
                    }
                    let head = C::head(p);
                    (d[j], e[j]) = (head.d, head.e);
                    let (dots, mins) = dots::<C, M>(p, &head, x, at);
                    for i in 0..M {
                        (dot[i][j], min[i][j]) = (dots[i], mins[i]);
                    }
                }
            }
            // SAFETY: eight elements each, and a scale of the activations.
            let (d, e) = unsafe { (_mm256_loadu_ps(d.as_ptr()), _mm256_loadu_ps(e.as_ptr())) };
            for i in 0..M {
                // SAFETY: as above.
                let dx = _mm256_set1_ps(unsafe { *x.scale(i, at / C::ELEMS) });
                let mut term = _mm256_mul_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(reduce(dot[i])));
                if C::MIN {
                    let min = _mm256_mul_ps(_mm256_mul_ps(e, dx), _mm256_cvtepi32_ps(reduce(min[i])));
                    term = _mm256_sub_ps(term, min);
                }
                acc[b % 2][i] = _mm256_add_ps(acc[b % 2][i], term);
            }
        }
        for i in 0..M {
            // SAFETY: only the first `n` elements of a row of `c`.
            unsafe {
                let (c, mask) = (c.add(i * ldc), first(n));
                let sum = _mm256_add_ps(acc[0][i], acc[1][i]);
                let sum = if start > 0 { _mm256_add_ps(_mm256_maskload_ps(c, mask), sum) } else { sum };
                _mm256_maskstore_ps(c, mask, sum);
            }
        }
    }
}

/// See [`ByteFn`].
///
/// # Safety
/// As there; the processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product<C: Codes>(
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
        for i in (0..m).step_by(BATCH) {
            let x = x.after(i);
            // SAFETY: the tile lies within what the caller promised.
            unsafe {
                let (w, c) = (w.add(j * row_bytes), c.add(i * ldc + j));
                match m - i {
                    1 => tile::<C, 1>(&x, w, row_bytes, some, k, c, ldc),
                    2 => tile::<C, 2>(&x, w, row_bytes, some, k, c, ldc),
                    3 => tile::<C, 3>(&x, w, row_bytes, some, k, c, ldc),
                    _ => tile::<C, 4>(&x, w, row_bytes, some, k, c, ldc),
                }
            }
        }
    }
}

fn products(ty: BlockType) -> Option<[ByteFn; 2]> {
    let product: ByteFn = match ty {
        BlockType::Q4_0 => product::<codes::Q4_0>,
        BlockType::Q4_1 => product::<codes::Q4_1>,
        BlockType::Q5_0 => product::<codes::Q5_0>,
        BlockType::Q5_1 => product::<codes::Q5_1>,
        BlockType::Q8_0 => product::<codes::Q8_0>,
        BlockType::Q8_1 => product::<codes::Q8_1>,
        BlockType::Iq4Nl => product::<codes::Iq4Nl>,
        BlockType::Mxfp4 => product::<codes::Mxfp4>,
        BlockType::Q2K => product::<codes::Q2K>,
        BlockType::Q3K => product::<codes::Q3K>,
        BlockType::Q4K => product::<codes::Q4K>,
        BlockType::Q5K => product::<codes::Q5K>,
        BlockType::Q6K => product::<codes::Q6K>,
        BlockType::Q8K => product::<codes::Q8K>,
        BlockType::Iq4Xs => product::<codes::Iq4Xs>,
        BlockType::Tq1_0 => product::<codes::Tq1_0>,
        BlockType::Tq2_0 => product::<codes::Tq2_0>,
        BlockType::Iq1S => product::<grid::Iq1S>,
        BlockType::Iq1M => product::<grid::Iq1M>,
        BlockType::Iq2Xxs => product::<grid::Iq2Xxs>,
        BlockType::Iq2Xs => product::<grid::Iq2Xs>,
        BlockType::Iq2S => product::<grid::Iq2S>,
        BlockType::Iq3Xxs => product::<grid::Iq3Xxs>,
        BlockType::Iq3S => product::<grid::Iq3S>,
        _ => return None,
    };
    Some([product; 2])
}
