//! Products in whole numbers with AVX-512 VNNI, for many rows of activations.
//!
//! A [`STEP`] of columns of up to 48 weight rows is brought into a panel that fits the first-level cache: codes of sixteen rows side by
//! side, four of each in a lane, and with them what goes into the sums. All rows of activations meet it there, and their sums wait in
//! memory for the next step. A lane of an accumulator is a weight row; four activations that every lane shares come by a load that
//! broadcasts.

use std::arch::x86_64::*;

use super::super::codes::Codes;
use super::super::integer::Bytes;
use super::super::linear::{DEPTH, PANEL};
use super::integer::{ROWS, factors, store, term};
use super::square;
use super::wide::Wide;
use crate::blocks::split::RUN;

/// Columns that are packed at once.
const STEP: usize = 256;
/// A block of sixteen rows in a panel, in registers of 64 bytes: codes, scales of runs, what multiplies the sums of activations, d and e.
const SUPER: usize = 64 + 16 + 8 + 2;
const PAIR: usize = 8 + 2;
/// Groups of sixteen rows, at most.
const GROUPS: usize = PANEL / ROWS;
/// Registers of the packed part.
const PACKED: usize = GROUPS * if SUPER > PAIR * (STEP / 32) { SUPER } else { PAIR * (STEP / 32) };
/// Rows of activations whose sums wait.
const MOST: usize = 516;
/// Both fit where exact products decode to.
const _: () = assert!((PACKED + MOST * GROUPS * 2) * 64 <= 4 * PANEL * DEPTH);
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
    let mut words = [_mm512_setzero_ps(); ROWS];
    for j in 0..ROWS {
        words[j] = _mm512_castsi512_ps(codes[j]);
    }
    for (c, v) in square(words).into_iter().enumerate().take(n) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_ps(out.add(c).cast(), v) };
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
            let mut codes = [_mm512_setzero_si512(); ROWS];
            for j in 0..ROWS {
                codes[j] = C::wide(rows[j].add(offset), group);
            }
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

/// Adds a packed super-block of `16·G` rows times `M` rows of activations to the sums at `sums`, two for each row of activations and
/// group; or starts them where `fresh`.
///
/// # Safety
/// `panel` holds the block, the activations are readable from column `k`, the sums writable; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn super_tile<C: Wide, const M: usize, const G: usize>(
    x: &Bytes,
    k: usize,
    _blocks: usize,
    panel: *const __m512i,
    sums: *mut f32,
    fresh: bool,
) {
    let zero = _mm512_setzero_si512();
    let packed = |g: usize| panel.wrapping_add(g * SUPER);
    let (mut total, mut min) = ([[zero; G]; M], [[zero; G]; M]);
    for run in 0..256 / C::RUN {
        let mut dot = [[zero; G]; M];
        for four in 0..C::RUN / 4 {
            let four = run * (C::RUN / 4) + four;
            // SAFETY: within the packed block, and four activations.
            unsafe {
                let mut codes = [zero; G];
                for g in 0..G {
                    codes[g] = at(packed(g), four);
                }
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
            let scale = unsafe { at(packed(g), 64 + run * (C::RUN / 16)) };
            for i in 0..M {
                total[i][g] = _mm512_add_epi32(total[i][g], _mm512_mullo_epi32(dot[i][g], scale));
            }
        }
    }
    let parity = (k % DEPTH) / 256 % 2;
    for i in 0..M {
        if C::MIN || C::OFFSET > 0 {
            let of = if C::MIN { &mut min[i] } else { &mut total[i] };
            for pair in 0..8 {
                // SAFETY: within the packed block, and two sums of activations.
                unsafe {
                    let x = _mm512_set1_epi32(x.sums(i, k / RUN + 2 * pair).cast::<i32>().read_unaligned());
                    for g in 0..G {
                        of[g] = _mm512_dpwssd_epi32(of[g], at(packed(g), 80 + pair), x);
                    }
                }
            }
        }
        for g in 0..G {
            // SAFETY: within the packed block, a scale of the activations, and the sums.
            unsafe {
                let (d, e) = (_mm512_castsi512_ps(at(packed(g), 88)), _mm512_castsi512_ps(at(packed(g), 89)));
                let term = term::<C>(d, e, _mm512_set1_ps(*x.scale(i, k / 256)), total[i][g], min[i][g]);
                let both = sums.add(16 * 2 * (i * G + g));
                if fresh {
                    _mm512_storeu_ps(both.add(16), _mm512_setzero_ps());
                }
                let sum = both.add(16 * parity);
                let before = if fresh { _mm512_setzero_ps() } else { _mm512_loadu_ps(sum) };
                _mm512_storeu_ps(sum, _mm512_add_ps(before, term));
            }
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
        let mut codes = [_mm512_setzero_si512(); ROWS];
        for j in 0..ROWS {
            let (low, high) = (C::codes(rows[j].add(offset), 0), C::codes(rows[j].add(second), 0));
            codes[j] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        }
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

/// As [`super_tile`], of `blocks` blocks of 32.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn pair_tile<C: Codes, const M: usize, const G: usize>(
    x: &Bytes,
    k: usize,
    blocks: usize,
    panel: *const __m512i,
    sums: *mut f32,
    fresh: bool,
) {
    let zero = _mm512_setzero_si512();
    for b in 0..blocks {
        let k = k + 32 * b;
        let packed = |g: usize| panel.wrapping_add((g * blocks + b) * PAIR);
        let (mut dot, mut ends) = ([[zero; G]; M], [0i32; M]);
        for i in 0..M {
            // SAFETY: the two sums of a block.
            ends[i] = unsafe { i32::from(*x.sums(i, k / RUN)) + i32::from(*x.sums(i, k / RUN + 1)) };
            dot[i] = [_mm512_set1_epi32(-ends[i] * i32::from(C::OFFSET)); G];
        }
        for four in 0..8 {
            // SAFETY: within the packed block, and four activations.
            unsafe {
                let mut codes = [zero; G];
                for g in 0..G {
                    codes[g] = at(packed(g), four);
                }
                for i in 0..M {
                    let x = _mm512_set1_epi32(x.codes(i, k + 4 * four).cast::<i32>().read_unaligned());
                    for g in 0..G {
                        dot[i][g] = _mm512_dpbusd_epi32(dot[i][g], codes[g], x);
                    }
                }
            }
        }
        for i in 0..M {
            for g in 0..G {
                // SAFETY: within the packed block, a scale of the activations, and the sums.
                unsafe {
                    let (d, e) = (_mm512_castsi512_ps(at(packed(g), 8)), _mm512_castsi512_ps(at(packed(g), 9)));
                    let dx = _mm512_set1_ps(*x.scale(i, k / 32));
                    let term = term::<C>(d, e, dx, dot[i][g], _mm512_set1_epi32(ends[i]));
                    let both = sums.add(16 * 2 * (i * G + g));
                    if fresh && b == 0 {
                        _mm512_storeu_ps(both.add(16), _mm512_setzero_ps());
                    }
                    let sum = both.add(16 * (b % 2));
                    let before = if fresh && b == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(sum) };
                    _mm512_storeu_ps(sum, _mm512_add_ps(before, term));
                }
            }
        }
    }
}

/// Makes a [`super::super::integer::ByteFn`]: each step of columns packed, then multiplied with all rows of activations.
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
            let (packed, sums) = (panel.cast::<__m512i>(), panel.wrapping_add(16 * PACKED));
            for top in (0..m).step_by(MOST) {
                let m = MOST.min(m - top);
                let (x, c) = (x.after(top), c.wrapping_add(top * ldc));
                for j in (0..n).step_by(PANEL) {
                    let some = PANEL.min(n - j);
                    let groups = some.div_ceil(ROWS);
                    for start in (0..k).step_by(STEP) {
                        let blocks = (k - start).min(STEP) / $elems;
                        for g in 0..groups {
                            let $rows: [*const u8; ROWS] =
                                std::array::from_fn(|r| w.wrapping_add((j + (ROWS * g + r).min(some - 1)) * row_bytes));
                            let step = if $elems == 32 { 2 } else { 1 };
                            for b in (0..blocks).step_by(step) {
                                let ($offset, $left) = ((start / $elems + b) * C::BYTES, blocks - b);
                                // SAFETY: the blocks are whole, and their places in the panel, whose size is checked above.
                                unsafe {
                                    let $out = packed.add((g * blocks + b) * $size);
                                    $pack;
                                }
                            }
                        }
                        let fresh = start % DEPTH == 0;
                        for i in (0..m).step_by(BATCH) {
                            let x = x.after(i);
                            // SAFETY: the tile lies within what the caller promised, its sums in the panel.
                            unsafe {
                                let sums = sums.add(16 * 2 * i * groups);
                                macro_rules! tile {
                                    ($m:literal) => {
                                        match groups {
                                            1 => $tile::<C, $m, 1>(&x, start, blocks, packed, sums, fresh),
                                            2 => $tile::<C, $m, 2>(&x, start, blocks, packed, sums, fresh),
                                            _ => $tile::<C, $m, 3>(&x, start, blocks, packed, sums, fresh),
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
                        let end = start + STEP;
                        if end >= k || end % DEPTH == 0 {
                            // SAFETY: the sums are those of these rows, and `c` has `some` elements in each from `j`.
                            unsafe { finish(sums, m, groups, c.add(j), ldc, some, start >= DEPTH) };
                        }
                    }
                }
            }
        }
    };
}
many!(super_rows, super_tile, Wide, 256, SUPER, |rows, offset, _left, out| pack_super::<C>(&rows, offset, out));
many!(pair_rows, pair_tile, Codes, 32, PAIR, |rows, offset, left, out| pack_pair::<C>(&rows, offset, left == 1, out));

/// Brings the sums of a run of columns to `c`.
///
/// # Safety
/// `sums` holds those of `m` rows and `groups` groups; `n` elements of `m` rows of `c` are writable.
#[target_feature(enable = "avx512f")]
unsafe fn finish(sums: *const f32, m: usize, groups: usize, c: *mut f32, ldc: usize, n: usize, add: bool) {
    for i in 0..m {
        for g in 0..groups {
            // SAFETY: promised by the caller.
            unsafe {
                let both = sums.add(16 * 2 * (i * groups + g));
                let both = [_mm512_loadu_ps(both), _mm512_loadu_ps(both.add(16))];
                store(both, c.add(i * ldc + ROWS * g), (n - ROWS * g).min(ROWS), add);
            }
        }
    }
}
