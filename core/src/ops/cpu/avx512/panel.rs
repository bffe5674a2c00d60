//! Products in whole numbers with AVX-512 VNNI, for many rows of activations.
//!
//! A run of [`DEPTH`] columns of up to 48 weight rows is brought into a panel once: codes of sixteen rows side by side, four of each in
//! a lane, and with them what goes into the sums. Then a lane of an accumulator is a weight row, and four activations that every lane
//! shares come from memory by a load that broadcasts.

use std::arch::x86_64::*;

use super::super::codes::Codes;
use super::super::integer::Bytes;
use super::super::linear::{DEPTH, PANEL};
use super::integer::{ROWS, factors, store, term};
use super::square;
use super::wide::Wide;

/// Sixteen rows' places in a panel, in registers of 64 bytes: codes, scales of runs, what multiplies the sums of activations, d and e.
const SUPER: usize = 64 + 16 + 8 + 2;
const PAIR: usize = 8 + 2;
/// The panel is what exact products decode into, and no larger.
const _: () = assert!(DEPTH / 256 * SUPER * 64 * (PANEL / ROWS) <= 4 * PANEL * DEPTH);
const _: () = assert!(DEPTH / 32 * PAIR * 64 * (PANEL / ROWS) <= 4 * PANEL * DEPTH);
/// Rows of activations of a tile.
const BATCH: usize = 4;

/// Registers of 64 bytes from `p`.
///
/// # Safety
/// The `n`-th is readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn at(p: *const __m512i, n: usize) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(p.add(n)) }
}

/// Writes 64 codes of sixteen rows, `n` registers of four of each.
///
/// # Safety
/// `out[..n]` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn interleave(codes: [__m512i; ROWS], n: usize, out: *mut __m512i) {
    for (c, v) in square(codes.map(|v| _mm512_castsi512_ps(v))).into_iter().enumerate().take(n) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_si512(out.add(c), _mm512_castps_si512(v)) };
    }
}

/// A super-block of sixteen rows.
///
/// # Safety
/// They are readable at `offset` from `rows`; `out[..SUPER]` is writable; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_super<C: Wide>(rows: &[*const u8; ROWS], offset: usize, out: *mut __m512i) {
    for group in 0..4 {
        // SAFETY: promised by the caller.
        unsafe {
            let codes = std::array::from_fn(|j| C::wide(rows[j].add(offset), group));
            interleave(codes, 16, out.add(16 * group));
        }
    }
    let (mut scales, mut sums) = ([[0i32; ROWS]; 16], [[[0i16; 2]; ROWS]; 8]);
    let (mut d, mut e) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    for j in 0..ROWS {
        // SAFETY: promised by the caller.
        let head = unsafe { C::head(rows[j].add(offset)) };
        (d[j], e[j]) = (head.d, head.e);
        let of = match C::MIN {
            true => head.minima,
            false => _mm256_mullo_epi16(head.scales, _mm256_set1_epi16(-i16::from(C::OFFSET))),
        };
        let (mut s, mut m) = ([0i16; 16], [0i16; 16]);
        // SAFETY: sixteen i16 each.
        unsafe {
            _mm256_storeu_si256(s.as_mut_ptr().cast(), head.scales);
            _mm256_storeu_si256(m.as_mut_ptr().cast(), of);
        }
        for run in 0..16 {
            scales[run][j] = i32::from(s[run]);
            sums[run / 2][j][run % 2] = m[run];
        }
    }
    // SAFETY: promised by the caller; the arrays are of sixteen, eight and one register.
    unsafe {
        std::ptr::copy_nonoverlapping(scales.as_ptr().cast(), out.add(64), 16);
        std::ptr::copy_nonoverlapping(sums.as_ptr().cast(), out.add(80), 8);
        _mm512_storeu_ps(out.add(88).cast(), _mm512_loadu_ps(d.as_ptr()));
        _mm512_storeu_ps(out.add(89).cast(), _mm512_loadu_ps(e.as_ptr()));
    }
}

/// `n ≤ 16·G` rows of super-blocks against `M` rows of activations, over one run of columns.
///
/// # Safety
/// `panel` holds `G` times `blocks` packed blocks; the activations are readable from `start`, the first `n` elements of `M` rows of
/// `c` writable; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn super_tile<C: Wide, const M: usize, const G: usize>(
    x: &Bytes,
    start: usize,
    blocks: usize,
    panel: *const __m512i,
    n: usize,
    c: *mut f32,
    ldc: usize,
) {
    let zero = _mm512_setzero_si512();
    let mut acc = [[[_mm512_setzero_ps(); 2]; G]; M];
    for b in 0..blocks {
        let k = start + 256 * b;
        let packed: [*const __m512i; G] = std::array::from_fn(|g| panel.wrapping_add((g * blocks + b) * SUPER));
        let (mut total, mut min) = ([[zero; G]; M], [[zero; G]; M]);
        for run in 0..256 / C::RUN {
            let mut dot = [[zero; G]; M];
            for four in 0..C::RUN / 4 {
                let four = run * (C::RUN / 4) + four;
                // SAFETY: within the packed block, and four activations.
                unsafe {
                    let codes: [__m512i; G] = std::array::from_fn(|g| at(packed[g], four));
                    for i in 0..M {
                        let x = _mm512_set1_epi32(x.codes(i, k + 4 * four).cast::<i32>().read_unaligned());
                        for g in 0..G {
                            dot[i][g] = _mm512_dpbusd_epi32(dot[i][g], codes[g], x);
                        }
                    }
                }
            }
            for g in 0..G {
                // SAFETY: within the packed block.
                let scale = unsafe { at(packed[g], 64 + run * (C::RUN / 16)) };
                for i in 0..M {
                    total[i][g] = _mm512_add_epi32(total[i][g], _mm512_mullo_epi32(dot[i][g], scale));
                }
            }
        }
        if C::MIN || C::OFFSET > 0 {
            let sums = if C::MIN { &mut min } else { &mut total };
            for pair in 0..8 {
                for i in 0..M {
                    // SAFETY: within the packed block, and two sums of activations.
                    unsafe {
                        let x = _mm512_set1_epi32(x.sums(i, k + 32 * pair).cast::<i32>().read_unaligned());
                        for g in 0..G {
                            sums[i][g] = _mm512_dpwssd_epi32(sums[i][g], at(packed[g], 80 + pair), x);
                        }
                    }
                }
            }
        }
        for i in 0..M {
            for g in 0..G {
                // SAFETY: within the packed block, and a scale of the activations.
                let (d, e, dx) = unsafe { (at(packed[g], 88), at(packed[g], 89), _mm512_set1_ps(*x.scale(i, k))) };
                let (d, e) = (_mm512_castsi512_ps(d), _mm512_castsi512_ps(e));
                acc[i][g][b % 2] = _mm512_add_ps(acc[i][g][b % 2], term::<C>(d, e, dx, total[i][g], min[i][g]));
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            // SAFETY: the row's elements that are left.
            unsafe { store(acc[i][g], c.add(i * ldc + ROWS * g), (n - ROWS * g).min(ROWS), start > 0) };
        }
    }
}

/// One or two blocks of 32 of sixteen rows.
///
/// # Safety
/// They are readable at `offset` from `rows`, two unless `single`; `out` is writable for as many times `PAIR`; the processor has the
/// features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_pair<C: Codes>(rows: &[*const u8; ROWS], offset: usize, single: bool, out: *mut __m512i) {
    let second = if single { offset } else { offset + C::BYTES };
    // SAFETY: promised by the caller.
    unsafe {
        let codes = std::array::from_fn(|j| {
            let (low, high) = (C::codes(rows[j].add(offset), 0), C::codes(rows[j].add(second), 0));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        });
        let mut both = [_mm512_setzero_si512(); 16];
        interleave(codes, 16, both.as_mut_ptr());
        for (b, offset) in [offset, second].into_iter().enumerate().take(if single { 1 } else { 2 }) {
            let out = out.add(b * PAIR);
            std::ptr::copy_nonoverlapping(both.as_ptr().add(8 * b), out, 8);
            let (d, e) = factors::<C>(rows, offset);
            _mm512_storeu_ps(out.add(8).cast(), d);
            _mm512_storeu_ps(out.add(9).cast(), e);
        }
    }
}

/// As [`super_tile`], of blocks of 32.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn pair_tile<C: Codes, const M: usize, const G: usize>(
    x: &Bytes,
    start: usize,
    blocks: usize,
    panel: *const __m512i,
    n: usize,
    c: *mut f32,
    ldc: usize,
) {
    let zero = _mm512_setzero_si512();
    let mut acc = [[[_mm512_setzero_ps(); G]; M]; 2];
    for b in 0..blocks {
        let k = start + 32 * b;
        let packed: [*const __m512i; G] = std::array::from_fn(|g| panel.wrapping_add((g * blocks + b) * PAIR));
        let (mut dot, mut sums) = ([[zero; G]; M], [0i32; M]);
        for i in 0..M {
            // SAFETY: the two sums of a block.
            sums[i] = unsafe { i32::from(*x.sums(i, k)) + i32::from(*x.sums(i, k + 16)) };
            dot[i] = [_mm512_set1_epi32(-sums[i] * i32::from(C::OFFSET)); G];
        }
        for four in 0..8 {
            // SAFETY: within the packed block, and four activations.
            unsafe {
                let codes: [__m512i; G] = std::array::from_fn(|g| at(packed[g], four));
                for i in 0..M {
                    let x = _mm512_set1_epi32(x.codes(i, k + 4 * four).cast::<i32>().read_unaligned());
                    for g in 0..G {
                        dot[i][g] = _mm512_dpbusd_epi32(dot[i][g], codes[g], x);
                    }
                }
            }
        }
        for g in 0..G {
            // SAFETY: within the packed block.
            let (d, e) = unsafe { (at(packed[g], 8), at(packed[g], 9)) };
            let (d, e) = (_mm512_castsi512_ps(d), _mm512_castsi512_ps(e));
            for i in 0..M {
                // SAFETY: a scale of the activations.
                let dx = _mm512_set1_ps(unsafe { *x.scale(i, k) });
                let term = term::<C>(d, e, dx, dot[i][g], _mm512_set1_epi32(sums[i]));
                acc[b % 2][i][g] = _mm512_add_ps(acc[b % 2][i][g], term);
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            let sum = [acc[0][i][g], acc[1][i][g]];
            // SAFETY: the row's elements that are left.
            unsafe { store(sum, c.add(i * ldc + ROWS * g), (n - ROWS * g).min(ROWS), start > 0) };
        }
    }
}

/// Makes a [`super::super::integer::ByteFn`]: each run of columns packed, then tiles of it for all rows of activations.
macro_rules! many {
    ($name:ident, $tile:ident, $codes:ident, $elems:expr, $size:expr, |$rows:ident, $offset:ident, $left:ident, $out:ident| $pack:expr) => {
        /// See [`super::super::integer::ByteFn`].
        ///
        /// # Safety
        /// As there; the processor has the features.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        pub(super) unsafe fn $name<C: $codes>(
            x: Bytes,
            m: usize,
            w: *const u8,
            row_bytes: usize,
            n: usize,
            k: usize,
            panel: *mut f32,
            c: *mut f32,
            ldc: usize,
        ) {
            let panel = panel.cast::<__m512i>();
            for j in (0..n).step_by(PANEL) {
                let some = PANEL.min(n - j);
                for start in (0..k).step_by(DEPTH) {
                    let blocks = (k - start).min(DEPTH) / $elems;
                    for g in 0..some.div_ceil(ROWS) {
                        let $rows: [*const u8; ROWS] =
                            std::array::from_fn(|r| w.wrapping_add((j + (ROWS * g + r).min(some - 1)) * row_bytes));
                        let step = if $elems == 32 { 2 } else { 1 };
                        for b in (0..blocks).step_by(step) {
                            let ($offset, $left) = ((start / $elems + b) * C::BYTES, blocks - b);
                            // SAFETY: the blocks are whole, and their places in the panel, whose size is checked above.
                            unsafe {
                                let $out = panel.add((g * blocks + b) * $size);
                                $pack;
                            }
                        }
                    }
                    for i in (0..m).step_by(BATCH) {
                        let x = x.from_row(i);
                        // SAFETY: the tile lies within what the caller promised.
                        unsafe {
                            let c = c.add(i * ldc + j);
                            macro_rules! tile {
                                ($m:literal) => {
                                    match some.div_ceil(ROWS) {
                                        1 => $tile::<C, $m, 1>(&x, start, blocks, panel, some, c, ldc),
                                        2 => $tile::<C, $m, 2>(&x, start, blocks, panel, some, c, ldc),
                                        _ => $tile::<C, $m, 3>(&x, start, blocks, panel, some, c, ldc),
                                    }
                                };
                            }
                            match m - i {
                                1 => tile!(1),
                                2 => tile!(2),
                                3 => tile!(3),
                                _ => tile!(4),
                            }
                        }
                    }
                }
            }
        }
    };
}
many!(super_rows, super_tile, Wide, 256, SUPER, |rows, offset, _left, out| pack_super::<C>(&rows, offset, out));
many!(pair_rows, pair_tile, Codes, 32, PAIR, |rows, offset, left, out| pack_pair::<C>(&rows, offset, left == 1, out));
