//! Weights decoded to f32 in AVX-512 registers, exactly as [`crate::blocks::decode`] gives them.
//!
//! A 4-bit block becomes a table of its 16 values and each code looks its value up with one permute, so that a value costs half a
//! shuffle and one fused multiply-add per row of activations. A super-block's scales are unpacked once, to memory: a load that
//! broadcasts takes no part in what bounds these kernels, the one port that shuffles.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::codes::{self, Codes};
use super::super::codes_grid as grid;
use super::super::linear::DEPTH;
use super::super::{DecodeFn, FusedFn};
use super::wide::Wide;
use super::{NR, store_sums};
use crate::blocks::BlockType;
use crate::blocks::codebook::IQ4;

/// A block type that decodes a group of elements at a time.
trait Unpack {
    /// Elements of a block, a multiple of 32.
    const ELEMS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Vectors of 16 elements in a group: 2, or 4 where codes share bytes.
    const VECTORS: usize = 2;
    /// What the elements of a block share, where working it out once pays.
    type Head: Copy;
    /// It, of the block at `p`.
    ///
    /// # Safety
    /// The block is readable; the processor has the features.
    unsafe fn head(p: *const u8) -> Self::Head;
    /// Elements `16·VECTORS·group..` of the block at `p`; vectors beyond [`Self::VECTORS`] are anything.
    ///
    /// # Safety
    /// As for [`Self::head`].
    unsafe fn unpack(p: *const u8, head: &Self::Head, group: usize) -> [__m512; 4];
}

/// The f16 at `p`, in every lane: four are converted as they are loaded, which takes one shuffle less than one alone.
///
/// # Safety
/// Eight bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn half(p: *const u8) -> __m512 {
    // SAFETY: promised by the caller.
    _mm512_broadcastss_ps(_mm_cvtph_ps(unsafe { _mm_loadl_epi64(p.cast()) }))
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
            type Head = ();
            #[inline]
            unsafe fn head(_: *const u8) {}
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(unused_variables)]
            unsafe fn unpack($p: *const u8, _: &(), $part: usize) -> [__m512; 4] {
                // SAFETY: reads stay within the block the caller promised.
                let [low, high] = unsafe { $body };
                [low, high, low, high]
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

unpack!(Iq4Nl, |p, part| {
    let table = _mm512_mul_ps(half(p), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(IQ4.as_ptr().cast()))));
    look_up(p.add(2), table, table)
});
/// Scales and minima of runs of 16 elements, in memory.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Runs {
    scales: [f32; 16],
    minima: [f32; 16],
}

/// Scales and minima of the block of `C` at `p`.
///
/// # Safety
/// The block is readable; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn runs<C: Codes>(p: *const u8) -> Runs {
    // SAFETY: promised by the caller.
    let head = unsafe { C::head(p) };
    let wide = |v| _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(v));
    let mut runs = Runs { scales: [0.0; 16], minima: [0.0; 16] };
    // SAFETY: both have sixteen elements.
    unsafe {
        _mm512_storeu_ps(runs.scales.as_mut_ptr(), _mm512_mul_ps(_mm512_set1_ps(head.d), wide(head.scales)));
        if C::MIN {
            _mm512_storeu_ps(runs.minima.as_mut_ptr(), _mm512_mul_ps(_mm512_set1_ps(head.e), wide(head.minima)));
        }
    }
    runs
}

/// Makes what was written behind `p` be read from memory again, where the compiler would rather shuffle it out of registers.
#[inline(always)]
fn through_memory<T>(p: *const T) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", in(reg) p, options(nostack, preserves_flags)) };
}

/// A super-block as its codes say: each code times its run's scale, less its run's minimum.
struct Super<C>(C);

impl<C: Wide> Unpack for Super<C> {
    const ELEMS: usize = C::ELEMS;
    const BYTES: usize = C::BYTES;
    const VECTORS: usize = 4;
    type Head = Runs;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn head(p: *const u8) -> Runs {
        // SAFETY: promised by the caller.
        unsafe { runs::<C>(p) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn unpack(p: *const u8, head: &Runs, group: usize) -> [__m512; 4] {
        let mut codes = [0i8; 64];
        // SAFETY: promised by the caller; there is room for 64 codes.
        unsafe {
            let signed = _mm512_sub_epi8(C::wide(p, group), _mm512_set1_epi8(C::OFFSET as i8));
            _mm512_storeu_si512(codes.as_mut_ptr().cast(), signed);
        }
        through_memory(codes.as_ptr());
        let mut out = [_mm512_setzero_ps(); 4];
        for v in 0..4 {
            // SAFETY: sixteen of the 64 codes.
            let q = unsafe { signed_bytes(codes.as_ptr().add(16 * v).cast()) };
            let scale = _mm512_set1_ps(head.scales[4 * group + v]);
            out[v] = if C::MIN {
                _mm512_fmsub_ps(scale, q, _mm512_set1_ps(head.minima[4 * group + v]))
            } else {
                _mm512_mul_ps(scale, q)
            };
        }
        out
    }
}

/// A block of 32 as its codes say, of types without minima.
struct Small<C>(C);

impl<C: Codes> Unpack for Small<C> {
    const ELEMS: usize = C::ELEMS;
    const BYTES: usize = C::BYTES;
    type Head = ();

    #[inline]
    unsafe fn head(_: *const u8) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn unpack(p: *const u8, _: &(), _: usize) -> [__m512; 4] {
        // SAFETY: promised by the caller.
        let (codes, d) = unsafe { (C::codes(p, 0), C::head(p).d) };
        let codes = _mm256_sub_epi8(codes, _mm256_set1_epi8(C::OFFSET as i8));
        let value = |q| _mm512_mul_ps(_mm512_set1_ps(d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)));
        let (low, high) = (value(_mm256_castsi256_si128(codes)), value(_mm256_extracti128_si256::<1>(codes)));
        [low, high, low, high]
    }
}

/// q4_k by tables of sixteen values: two of them a byte's worth of codes.
struct Q4K;

impl Unpack for Q4K {
    const ELEMS: usize = 256;
    const BYTES: usize = 144;
    const VECTORS: usize = 4;
    type Head = Runs;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn head(p: *const u8) -> Runs {
        // SAFETY: promised by the caller.
        unsafe { runs::<codes::Q4K>(p) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn unpack(p: *const u8, head: &Runs, group: usize) -> [__m512; 4] {
        let table = |run: usize| {
            let (scale, min) = (_mm512_set1_ps(head.scales[run]), _mm512_set1_ps(head.minima[run]));
            _mm512_fmsub_ps(scale, self::codes(), min)
        };
        let (low, high) = (table(4 * group), table(4 * group + 2));
        // SAFETY: promised by the caller.
        let ([a, c], [b, d]) =
            unsafe { (look_up(p.add(16 + 32 * group), low, high), look_up(p.add(32 + 32 * group), low, high)) };
        [a, b, c, d]
    }
}

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
            // SAFETY: the block at `p` is whole.
            let heads = unsafe {
                [U::head(rows[0].add(at)), U::head(rows[1].add(at)), U::head(rows[2].add(at)), U::head(rows[3].add(at))]
            };
            through_memory(heads.as_ptr());
            for group in 0..U::ELEMS / (16 * U::VECTORS) {
                for j in 0..NR {
                    // SAFETY: the block at `p` is whole, and so are a group's activations from there.
                    unsafe {
                        let ahead = at + group * 16 * U::VECTORS * U::BYTES / U::ELEMS + AHEAD * row_bytes;
                        _mm_prefetch::<_MM_HINT_T0>(rows[j].wrapping_add(ahead).cast());
                        let values = U::unpack(rows[j].add(at), &heads[j], group);
                        for i in 0..M {
                            let x = x.add(i * ldx + p);
                            for v in 0..U::VECTORS {
                                acc[i][j] = _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16 * v)), values[v], acc[i][j]);
                            }
                        }
                    }
                }
                p += 16 * U::VECTORS;
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

/// Decodes whole groups of 32 elements with `U`, the rest, which only types of one-element blocks have, one by one.
///
/// # Safety
/// As [`DecodeFn`]; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn decode_row<U: Unpack>(w: *const u8, n: usize, out: *mut f32) {
    let mut p = 0;
    while p + U::ELEMS <= n {
        // SAFETY: the block is whole, and so is its place in `out`.
        unsafe {
            let block = w.add(p / U::ELEMS * U::BYTES);
            let head = U::head(block);
            through_memory(&head);
            for group in 0..U::ELEMS / (16 * U::VECTORS) {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(2048 + 64 * group).cast());
                let values = U::unpack(block, &head, group);
                for v in 0..U::VECTORS {
                    _mm512_storeu_ps(out.add(p + 16 * (group * U::VECTORS + v)), values[v]);
                }
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
            let [low, high, ..] = U::unpack(rest.as_ptr(), &U::head(rest.as_ptr()), 0);
            let mask = (1u32 << (n - p)) - 1;
            _mm512_mask_storeu_ps(out.add(p), mask as u16, low);
            _mm512_mask_storeu_ps(out.wrapping_add(p + 16), (mask >> 16) as u16, high);
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
        BlockType::Q4_0 => by!(Q4_0),
        BlockType::Q4_1 => by!(Q4_1),
        BlockType::Q5_0 => by!(Q5_0),
        BlockType::Q5_1 => by!(Q5_1),
        BlockType::Q8_0 => by!(Q8_0),
        BlockType::Q8_1 => by!(Small<codes::Q8_1>),
        BlockType::Iq4Nl => by!(Iq4Nl),
        BlockType::Mxfp4 => by!(Small<codes::Mxfp4>),
        BlockType::Q2K => by!(Super<codes::Q2K>),
        BlockType::Q3K => by!(Super<codes::Q3K>),
        BlockType::Q4K => by!(Q4K),
        BlockType::Q5K => by!(Super<codes::Q5K>),
        BlockType::Q6K => by!(Super<codes::Q6K>),
        BlockType::Q8K => by!(Super<codes::Q8K>),
        BlockType::Iq4Xs => by!(Super<codes::Iq4Xs>),
        BlockType::Tq1_0 => by!(Super<codes::Tq1_0>),
        BlockType::Tq2_0 => by!(Super<codes::Tq2_0>),
        BlockType::Iq1S => by!(Super<grid::Iq1S>),
        BlockType::Iq1M => by!(Super<grid::Iq1M>),
        BlockType::Iq2Xxs => by!(Super<grid::Iq2Xxs>),
        BlockType::Iq2Xs => by!(Super<grid::Iq2Xs>),
        BlockType::Iq2S => by!(Super<grid::Iq2S>),
        BlockType::Iq3Xxs => by!(Super<grid::Iq3Xxs>),
        BlockType::Iq3S => by!(Super<grid::Iq3S>),
        BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64 | BlockType::F64 => return None,
    })
}
