//! Weights decoded to f32 in AVX2 registers, exactly as [`crate::blocks::decode`] gives them.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::codes::{self, Codes};
use super::super::codes_grid as grid;
use super::super::linear::DEPTH;
use super::super::{DecodeFn, FusedFn};
use super::{first, fold};
use crate::blocks::BlockType;

/// A block type that decodes 32 elements at a time into four vectors.
trait Unpack {
    /// Elements of a block, a multiple of 32.
    const ELEMS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What the elements of a block share.
    type Head: Copy;
    /// It, of the block at `p`.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    unsafe fn head(p: *const u8) -> Self::Head;
    /// Elements `32·part..32·part + 32` of the block at `p`.
    ///
    /// # Safety
    /// As for [`Self::head`].
    unsafe fn unpack(p: *const u8, head: &Self::Head, part: usize) -> [__m256; 4];
}

/// Scales and minima of runs of 16 elements, in memory: a load that broadcasts takes no shuffle.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Runs {
    scales: [f32; 16],
    minima: [f32; 16],
}

/// Makes what was written behind `p` be read from memory again, where the compiler would rather shuffle it out of registers.
#[inline(always)]
fn through_memory<T>(p: *const T) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", in(reg) p, options(nostack, preserves_flags)) };
}

/// A block as its codes say: each code times its run's scale, less its run's minimum.
struct Coded<C>(C);

impl<C: Codes> Unpack for Coded<C> {
    const ELEMS: usize = C::ELEMS;
    const BYTES: usize = C::BYTES;
    type Head = Runs;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(p: *const u8) -> Runs {
        // SAFETY: promised by the caller.
        let head = unsafe { C::head(p) };
        let mut runs = Runs { scales: [head.d; 16], minima: [head.e; 16] };
        if C::ELEMS == 32 {
            return runs;
        }
        let store = |of: __m256i, by: f32, to: &mut [f32; 16]| {
            for (half, to) in [_mm256_castsi256_si128(of), _mm256_extracti128_si256::<1>(of)]
                .into_iter()
                .zip(to.as_chunks_mut::<8>().0)
            {
                let values = _mm256_mul_ps(_mm256_set1_ps(by), _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half)));
                // SAFETY: eight elements.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), values) };
            }
        };
        store(head.scales, head.d, &mut runs.scales);
        if C::MIN {
            store(head.minima, head.e, &mut runs.minima);
        }
        runs
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(p: *const u8, head: &Runs, part: usize) -> [__m256; 4] {
        let mut codes = [0i8; 32];
        // SAFETY: promised by the caller; there is room for 32 codes.
        unsafe {
            let signed = _mm256_sub_epi8(C::codes(p, part), _mm256_set1_epi8(C::OFFSET as i8));
            _mm256_storeu_si256(codes.as_mut_ptr().cast(), signed);
        }
        through_memory(codes.as_ptr());
        let mut out = [_mm256_setzero_ps(); 4];
        for v in 0..4 {
            // SAFETY: eight of the 32 codes.
            let eight = unsafe { _mm_loadl_epi64(codes.as_ptr().add(8 * v).cast()) };
            let q = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            let scale = _mm256_set1_ps(head.scales[2 * part + v / 2]);
            out[v] = if C::MIN {
                _mm256_fmsub_ps(scale, q, _mm256_set1_ps(head.minima[2 * part + v / 2]))
            } else {
                _mm256_mul_ps(scale, q)
            };
        }
        out
    }
}

macro_rules! unpack {
    ($name:ident, $elems:expr, $bytes:expr, |$p:ident| $body:expr) => {
        struct $name;
        impl Unpack for $name {
            const ELEMS: usize = $elems;
            const BYTES: usize = $bytes;
            type Head = ();
            #[inline]
            unsafe fn head(_: *const u8) {}
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack($p: *const u8, _: &(), _: usize) -> [__m256; 4] {
                // SAFETY: reads stay within the block the caller promised.
                unsafe { $body }
            }
        }
    };
}

unpack!(F16, 32, 64, |p| {
    let value = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(p.add(2 * at).cast()));
    [value(0), value(8), value(16), value(24)]
});
unpack!(Bf16, 32, 64, |p| {
    let value = |at: usize| {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(2 * at).cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    };
    [value(0), value(8), value(16), value(24)]
});
unpack!(F32, 32, 128, |p| {
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
        for block in (start..k.min(start + DEPTH)).step_by(U::ELEMS) {
            let at = block / U::ELEMS * U::BYTES;
            // SAFETY: the block is whole in every row.
            let mut heads = unsafe { [U::head(w.add(at)); N] };
            for j in 1..N {
                // SAFETY: as above.
                heads[j] = unsafe { U::head(w.add(j * row_bytes + at)) };
            }
            through_memory(heads.as_ptr());
            for part in 0..U::ELEMS / 32 {
                for j in 0..N {
                    // SAFETY: as above, and 32 activations are left from there.
                    unsafe {
                        let row = w.add(j * row_bytes + at);
                        let ahead = row.wrapping_add(32 * part * U::BYTES / U::ELEMS + 2 * N * row_bytes);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                        let values = U::unpack(row, &heads[j], part);
                        for i in 0..M {
                            for (v, value) in values.into_iter().enumerate() {
                                let x = _mm256_loadu_ps(x.add(i * ldx + block + 32 * part + 8 * v));
                                acc[i][j][v % 2] = _mm256_fmadd_ps(x, value, acc[i][j][v % 2]);
                            }
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

/// Decodes 32 elements at a time with `U`; what is left, which only plain types have, through a padded copy.
///
/// # Safety
/// As [`DecodeFn`]; the processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode_row<U: Unpack>(w: *const u8, n: usize, out: *mut f32) {
    let whole = n / U::ELEMS;
    for b in 0..whole {
        // SAFETY: a block is left to read and to write.
        unsafe {
            let block = w.add(b * U::BYTES);
            let head = U::head(block);
            through_memory(&head);
            for part in 0..U::ELEMS / 32 {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(32 * part * U::BYTES / U::ELEMS + 2048).cast());
                for (v, value) in U::unpack(block, &head, part).into_iter().enumerate() {
                    _mm256_storeu_ps(out.add(b * U::ELEMS + 32 * part + 8 * v), value);
                }
            }
        }
    }
    // Only types of one-element blocks, of which 32 are taken for one here.
    if !n.is_multiple_of(32) {
        let mut rest = [0u8; 128];
        // SAFETY: at most 128 bytes are left to read and `n % 32` elements to write.
        unsafe {
            std::ptr::copy_nonoverlapping(w.add(whole * U::BYTES), rest.as_mut_ptr(), n % 32 * U::BYTES / 32);
            for (v, value) in U::unpack(rest.as_ptr(), &U::head(rest.as_ptr()), 0).into_iter().enumerate() {
                let mask = first((n % 32).saturating_sub(8 * v));
                _mm256_maskstore_ps(out.wrapping_add(32 * whole + 8 * v), mask, value);
            }
        }
    }
}

/// The kernels of a type: products of few rows, and rows decoded.
pub(super) fn of(ty: BlockType) -> Option<(FusedFn, DecodeFn)> {
    macro_rules! by {
        ($kind:ty) => {
            (fused_rows::<$kind>, decode_row::<$kind>)
        };
    }
    Some(match ty {
        BlockType::F32 => by!(F32),
        BlockType::F16 => by!(F16),
        BlockType::Bf16 => by!(Bf16),
        BlockType::Q4_0 => by!(Coded<codes::Q4_0>),
        BlockType::Q4_1 => by!(Coded<codes::Q4_1>),
        BlockType::Q5_0 => by!(Coded<codes::Q5_0>),
        BlockType::Q5_1 => by!(Coded<codes::Q5_1>),
        BlockType::Q8_0 => by!(Coded<codes::Q8_0>),
        BlockType::Q8_1 => by!(Coded<codes::Q8_1>),
        BlockType::Iq4Nl => by!(Coded<codes::Iq4Nl>),
        BlockType::Mxfp4 => by!(Coded<codes::Mxfp4>),
        BlockType::Q2K => by!(Coded<codes::Q2K>),
        BlockType::Q3K => by!(Coded<codes::Q3K>),
        BlockType::Q4K => by!(Coded<codes::Q4K>),
        BlockType::Q5K => by!(Coded<codes::Q5K>),
        BlockType::Q6K => by!(Coded<codes::Q6K>),
        BlockType::Q8K => by!(Coded<codes::Q8K>),
        BlockType::Iq4Xs => by!(Coded<codes::Iq4Xs>),
        BlockType::Tq1_0 => by!(Coded<codes::Tq1_0>),
        BlockType::Tq2_0 => by!(Coded<codes::Tq2_0>),
        BlockType::Iq1S => by!(Coded<grid::Iq1S>),
        BlockType::Iq1M => by!(Coded<grid::Iq1M>),
        BlockType::Iq2Xxs => by!(Coded<grid::Iq2Xxs>),
        BlockType::Iq2Xs => by!(Coded<grid::Iq2Xs>),
        BlockType::Iq2S => by!(Coded<grid::Iq2S>),
        BlockType::Iq3Xxs => by!(Coded<grid::Iq3Xxs>),
        BlockType::Iq3S => by!(Coded<grid::Iq3S>),
        BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64 | BlockType::F64 => return None,
    })
}
