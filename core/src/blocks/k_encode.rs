//! Encoding of the super-blocks of 256: a search over each sub-block's scale, then the super-block's own scale.
//!
//! Errors are squared and weighted by `rms + |x|`, so that large weights are kept better than small ones. Four steps:
//! 1. each sub-block tries several scales around the one that spans its range, and refines each by least squares;
//! 2. the super-block's f16 scale is chosen so that the largest sub-block scale is representable;
//! 3. each sub-block takes the integer scale (and minimum) of least error among the nearest ones;
//! 4. the super-block's scale is refined by least squares against the codes, and step 3 repeated where that helped.
//!
//! Elements that are not finite make their super-block's values unspecified, nothing worse.

use half::f16;

use super::lanes::{each, sums};

/// Scales tried on each side of the one that spans the range, in steps of an eighth of a level.
const SIDE: i8 = 8;
/// A determinant this small against its terms is rounding noise.
const SINGULAR: f32 = 1e-5;
/// Rounds of step 4.
const ROUNDS: usize = 2;

/// Importance of each element of a sub-block.
#[inline(always)]
fn weights<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let [square] = sums(x, x, |x, y| [x * y]);
    let rms = (square / N as f32).sqrt();
    each(x, |x| rms + x.abs())
}

/// `x / step` rounded into `lo..=hi`, or 0 when the step is zero. NaN becomes 0.
#[inline(always)]
fn level(x: f32, inverse: f32, lo: f32, hi: f32) -> f32 {
    // `max` then `min`, not `clamp`: a NaN must not survive.
    (x * inverse).round_ties_even().max(lo).min(hi)
}

#[inline(always)]
fn inverse(step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { 1.0 / step }
}

/// A super-block of types with a minimum: `x ≈ d·scale·code − dmin·min` in sub-blocks of `N`.
struct Affine {
    d: f16,
    dmin: f16,
    scales: [u8; 16],
    mins: [u8; 16],
    codes: [u8; 256],
}

/// The scale and offset of one sub-block: `x ≈ scale·code − offset`, offset not negative.
#[inline(always)]
fn fit_affine<const N: usize>(x: &[f32; N], w: &[f32; N], top: f32) -> (f32, f32) {
    let (lo, hi) = x.iter().fold((0.0f32, f32::MIN), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
    if hi <= lo {
        return (0.0, -lo);
    }
    let [sw, sx] = sums(x, w, |x, w| [w, w * x]);
    let mut best = (f32::INFINITY, (hi - lo) / top, -lo);
    for step in -SIDE..=SIDE {
        let inverse = (top + 0.125 * f32::from(step)) / (hi - lo);
        let [sq, sqq, sxq] = sums(x, w, |x, w| {
            let q = level(x - lo, inverse, 0.0, top);
            [w * q, w * q * q, w * x * q]
        });
        let det = sw * sqq - sq * sq;
        let (mut scale, mut offset) = ((sw * sxq - sx * sq) / det, (sq * sxq - sqq * sx) / det);
        // Codes that (nearly) all agree do not tell a scale from an offset.
        if offset < 0.0 || det <= SINGULAR * sw * sqq {
            (scale, offset) = (sxq / sqq, 0.0);
        }
        let [error] = sums(x, w, |x, w| {
            let miss = scale * level(x - lo, inverse, 0.0, top) - offset - x;
            [w * miss * miss]
        });
        // False for NaN, which a block of zero codes leaves.
        if scale > 0.0 && error < best.0 {
            best = (error, scale, offset);
        }
    }
    (best.1, best.2)
}

/// Weighted error of a sub-block at a given step and offset.
#[inline(always)]
fn affine_error<const N: usize>(x: &[f32; N], w: &[f32; N], step: f32, offset: f32, top: f32) -> f32 {
    let inverse = inverse(step);
    let [error] = sums(x, w, |x, w| {
        let miss = step * level(x + offset, inverse, 0.0, top) - offset - x;
        [w * miss * miss]
    });
    error
}

#[inline(always)]
fn affine<const N: usize>(x: &[f32; 256], top: f32, scale_top: u8) -> Affine {
    let subs = x.as_chunks::<N>().0;
    let (mut scale, mut offset) = ([0.0f32; 16], [0.0f32; 16]);
    let mut w = [[0.0; N]; 16];
    for (j, x) in subs.iter().enumerate() {
        w[j] = weights(x);
        (scale[j], offset[j]) = fit_affine(x, &w[j], top);
    }
    let most = |of: &[f32; 16]| f16::from_f32(of.iter().fold(0.0f32, |a, b| a.max(*b)) / f32::from(scale_top));
    let (mut d, mut dmin) = (most(&scale), most(&offset));
    let mut best = (f32::INFINITY, d, dmin, [0; 16], [0; 16]);
    for _ in 0..=ROUNDS {
        let (df, mf) = (d.to_f32(), dmin.to_f32());
        let (mut scales, mut mins, mut total) = ([0; 16], [0; 16], 0.0);
        for (j, x) in subs.iter().enumerate() {
            let near = |of: f32, unit: f32| level(of, inverse(unit), 0.0, f32::from(scale_top)) as u8;
            let (s0, m0) = (near(scale[j], df), near(offset[j], mf));
            let mut least = (f32::INFINITY, s0, m0);
            for s in s0.saturating_sub(1)..=(s0 + 1).min(scale_top) {
                for m in m0.saturating_sub(1)..=(m0 + 1).min(scale_top) {
                    let error = affine_error(x, &w[j], df * f32::from(s), mf * f32::from(m), top);
                    if error < least.0 {
                        least = (error, s, m);
                    }
                }
            }
            (scales[j], mins[j]) = (least.1, least.2);
            total += least.0;
        }
        if best.0.is_finite() && (total.is_nan() || total >= best.0) {
            break;
        }
        best = (total, d, dmin, scales, mins);
        // Least squares of d and dmin against `a = scale·code` and `b = min`.
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (j, x) in subs.iter().enumerate() {
            let (s, b) = (f32::from(scales[j]), f32::from(mins[j]));
            let (inverse, lift) = (inverse(df * s), mf * b);
            let [w, wx, wa, waa, wax] = sums(x, &w[j], |x, w| {
                let a = s * level(x + lift, inverse, 0.0, top);
                [w, w * x, w * a, w * a * a, w * a * x]
            });
            aa += waa;
            ab += wa * b;
            bb += w * b * b;
            ax += wax;
            bx += wx * b;
        }
        let det = aa * bb - ab * ab;
        let (new_d, new_m) = if det <= SINGULAR * aa * bb {
            (ax / aa, 0.0)
        } else {
            ((ax * bb - ab * bx) / det, (ab * ax - aa * bx) / det)
        };
        if !(new_d > 0.0 && new_m >= 0.0) {
            break;
        }
        (d, dmin) = (f16::from_f32(new_d), f16::from_f32(new_m));
    }
    let (_, d, dmin, scales, mins) = best;
    let mut codes = [0; 256];
    for (j, (x, codes)) in subs.iter().zip(codes.as_chunks_mut::<N>().0).enumerate() {
        let (inverse, offset) = (inverse(d.to_f32() * f32::from(scales[j])), dmin.to_f32() * f32::from(mins[j]));
        *codes = each(x, |x| level(x + offset, inverse, 0.0, top) as u8);
    }
    Affine { d, dmin, scales, mins, codes }
}

/// A super-block of types without a minimum: `x ≈ d·scale·(code − top)` in sub-blocks of 16; `code` is stored from 0.
struct Symmetric {
    d: f16,
    scales: [i8; 16],
    codes: [u8; 256],
}

/// The signed scale of one sub-block, codes being `−top..top`: the element of largest magnitude lands near `−top`.
#[inline(always)]
fn fit_symmetric(x: &[f32; 16], w: &[f32; 16], top: f32) -> f32 {
    let extreme = x.iter().fold(0.0f32, |best, x| if x.abs() > best.abs() { *x } else { best });
    if extreme == 0.0 {
        return 0.0;
    }
    // The gain of a scale: how much of the weighted square sum it explains.
    let mut best = (0.0, extreme / -top);
    for step in -SIDE..=SIDE {
        let inverse = -(top + 0.125 * f32::from(step)) / extreme;
        let [xq, qq] = sums(x, w, |x, w| {
            let q = level(x, inverse, -top, top - 1.0);
            [w * x * q, w * q * q]
        });
        if qq > 0.0 && xq * xq > best.0 * qq {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

#[inline(always)]
fn symmetric(x: &[f32; 256], top: f32, scale_top: i16) -> Symmetric {
    let subs = x.as_chunks::<16>().0;
    let mut scale = [0.0f32; 16];
    let mut w = [[0.0; 16]; 16];
    for (j, x) in subs.iter().enumerate() {
        w[j] = weights(x);
        scale[j] = fit_symmetric(x, &w[j], top);
    }
    // Scales are signed, −scale_top the farthest: it takes the largest.
    let most = scale.iter().fold(0.0f32, |best, s| if s.abs() > best.abs() { *s } else { best });
    let mut d = f16::from_f32(most / -f32::from(scale_top));
    let mut best = (f32::INFINITY, d, [0i8; 16]);
    for _ in 0..=ROUNDS {
        let df = d.to_f32();
        let (mut scales, mut total) = ([0i8; 16], 0.0);
        for (j, x) in subs.iter().enumerate() {
            let ends = (-f32::from(scale_top), f32::from(scale_top - 1));
            let s0 = level(scale[j], inverse(df), ends.0, ends.1) as i16;
            let mut least = (f32::INFINITY, s0);
            for s in (s0 - 1).max(-scale_top)..=(s0 + 1).min(scale_top - 1) {
                let step = df * f32::from(s);
                let inverse = inverse(step);
                let [error] = sums(x, &w[j], |x, w| {
                    let miss = step * level(x, inverse, -top, top - 1.0) - x;
                    [w * miss * miss]
                });
                if error < least.0 {
                    least = (error, s);
                }
            }
            scales[j] = least.1 as i8;
            total += least.0;
        }
        if best.0.is_finite() && (total.is_nan() || total >= best.0) {
            break;
        }
        best = (total, d, scales);
        let (mut aa, mut ax) = (0.0, 0.0);
        for (j, x) in subs.iter().enumerate() {
            let s = f32::from(scales[j]);
            let inverse = inverse(df * s);
            let [waa, wax] = sums(x, &w[j], |x, w| {
                let a = s * level(x, inverse, -top, top - 1.0);
                [w * a * a, w * a * x]
            });
            aa += waa;
            ax += wax;
        }
        if aa.is_nan() || aa <= 0.0 {
            break;
        }
        d = f16::from_f32(ax / aa);
    }
    let (_, d, scales) = best;
    let mut codes = [0; 256];
    for (j, (x, codes)) in subs.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let inverse = inverse(d.to_f32() * f32::from(scales[j]));
        *codes = each(x, |x| (level(x, inverse, -top, top - 1.0) + top) as u8);
    }
    Symmetric { d, scales, codes }
}

/// Bit pairs as q2_k and q3_k keep them: byte `l` of each half holds elements `l`, `l + 32`, `l + 64`, `l + 96`.
#[inline(always)]
fn pack_pairs(codes: &[u8; 256], qs: &mut [u8]) {
    for (codes, qs) in codes.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (l, q) in qs.iter_mut().enumerate() {
            *q = (0..4).fold(0, |byte, n| byte | (codes[32 * n + l] & 3) << (2 * n));
        }
    }
}

/// Nibbles as q4_k and q5_k keep them: byte `l` of each run of 64 holds elements `l` and `l + 32`.
#[inline(always)]
fn pack_nibbles(codes: &[u8; 256], qs: &mut [u8]) {
    for (codes, qs) in codes.as_chunks::<64>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (l, q) in qs.iter_mut().enumerate() {
            *q = codes[l] & 15 | (codes[l + 32] & 15) << 4;
        }
    }
}

/// q4_k's and q5_k's first 16 bytes: both f16 scales, then eight six-bit scales and minima.
#[inline(always)]
fn pack_six_bit_pairs(block: &Affine, out: &mut [u8]) {
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    let (s, m) = (&block.scales, &block.mins);
    for j in 0..4 {
        out[4 + j] = s[j] | s[j + 4] >> 4 << 6;
        out[8 + j] = m[j] | m[j + 4] >> 4 << 6;
        out[12 + j] = s[j + 4] & 15 | m[j + 4] << 4;
    }
}

/// q2_k: codes 0 to 3, four-bit scales and minima of 16 sub-blocks.
#[inline(always)]
pub fn encode_q2_k(x: &[f32; 256], out: &mut [u8; 84]) {
    let block = affine::<16>(x, 3.0, 15);
    for (out, (s, m)) in out.iter_mut().zip(block.scales.iter().zip(&block.mins)) {
        *out = s | m << 4;
    }
    pack_pairs(&block.codes, &mut out[16..80]);
    out[80..82].copy_from_slice(&block.d.to_le_bytes());
    out[82..].copy_from_slice(&block.dmin.to_le_bytes());
}

/// q3_k: codes −4 to 3, six-bit signed scales of 16 sub-blocks.
#[inline(always)]
pub fn encode_q3_k(x: &[f32; 256], out: &mut [u8; 110]) {
    let block = symmetric(x, 4.0, 32);
    out.fill(0);
    for (i, code) in block.codes.iter().enumerate() {
        out[i % 32] |= (code >> 2) << (i / 32);
    }
    pack_pairs(&block.codes, &mut out[32..96]);
    for (j, s) in block.scales.iter().enumerate() {
        let s = (i16::from(*s) + 32) as u8;
        out[96 + j % 8] |= (s & 15) << (4 * (j / 8));
        out[104 + j % 4] |= (s >> 4) << (2 * (j / 4));
    }
    out[108..].copy_from_slice(&block.d.to_le_bytes());
}

/// q4_k: codes 0 to 15, six-bit scales and minima of eight sub-blocks.
#[inline(always)]
pub fn encode_q4_k(x: &[f32; 256], out: &mut [u8; 144]) {
    let block = affine::<32>(x, 15.0, 63);
    pack_six_bit_pairs(&block, out);
    pack_nibbles(&block.codes, &mut out[16..]);
}

/// q5_k: codes 0 to 31, six-bit scales and minima of eight sub-blocks.
#[inline(always)]
pub fn encode_q5_k(x: &[f32; 256], out: &mut [u8; 176]) {
    let block = affine::<32>(x, 31.0, 63);
    pack_six_bit_pairs(&block, out);
    for l in 0..32 {
        out[16 + l] = (0..8).fold(0, |byte, s| byte | (block.codes[32 * s + l] >> 4) << s);
    }
    pack_nibbles(&block.codes, &mut out[48..]);
}

/// q6_k: codes −32 to 31, eight-bit signed scales of 16 sub-blocks.
#[inline(always)]
pub fn encode_q6_k(x: &[f32; 256], out: &mut [u8; 210]) {
    let block = symmetric(x, 32.0, 128);
    for (half, codes) in block.codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            out[64 * half + l] = codes[l] & 15 | (codes[l + 64] & 15) << 4;
            out[64 * half + 32 + l] = codes[l + 32] & 15 | (codes[l + 96] & 15) << 4;
            out[128 + 32 * half + l] = (0..4).fold(0, |byte, n| byte | (codes[32 * n + l] >> 4) << (2 * n));
        }
    }
    for (out, s) in out[192..208].iter_mut().zip(&block.scales) {
        *out = *s as u8;
    }
    out[208..].copy_from_slice(&block.d.to_le_bytes());
}
