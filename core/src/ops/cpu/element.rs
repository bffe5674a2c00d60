//! Operations on rows of activations: normalization, rotation, the gate, residual sums, embeddings, and what sampling needs.
//!
//! A call of few elements runs on the caller; a larger one shares rows or runs of elements out. Neither changes its bits.

use super::{Mat, kernels};
use crate::ops::team::{Cancelled, SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Elements of a task, about; calls of fewer run on the caller, as waking a worker costs more than they do.
const RUN: usize = 16 << 10;

/// How the pairs of a rotation lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(0, 1), (2, 3), …`: GGUF files of the llama family, whose rows were permuted for it.
    Interleaved,
    /// `(i, i + half)`: everything else (NeoX order).
    Halves,
}

/// Cosines and sines `(positions, half)` of the angles by which pairs turn; `2 · half ≤ dim` elements of a head turn.
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    /// Cosines, `(positions, half)`.
    pub cos: &'a [f32],
    /// Sines, `(positions, half)`.
    pub sin: &'a [f32],
    /// Pairs of a head that turn; a head has at least `2 · half` elements.
    pub half: usize,
}

/// Calls `each(row, x)` for the rows of `x (…, width)`, sharing them out when they are many.
fn rows(
    team: &ThreadTeam,
    x: &mut [f32],
    width: usize,
    each: &(dyn Fn(usize, &mut [f32]) + Sync),
) -> Result<(), Cancelled> {
    let n = x.len() / width.max(1);
    let per_task = (RUN / width.max(1)).max(1);
    if n <= per_task {
        x.chunks_exact_mut(width.max(1)).enumerate().for_each(|(i, row)| each(i, row));
        return if team.cancelled() { Err(Cancelled) } else { Ok(()) };
    }
    let shared = SharedMut::new(x);
    team.run(n.div_ceil(per_task), &|task, _| {
        for row in task * per_task..((task + 1) * per_task).min(n) {
            // SAFETY: each row is one task's.
            each(row, unsafe { shared.slice(row * width, width) });
        }
    })
}

fn same(what: &str, a: usize, b: usize) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::Internal(format!("{what}: {a} elements against {b}"))) }
}

/// `out = x / √(mean(x²) + eps) · weight` for each row of `x (tokens, dim)`, `weight (dim)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn rms_norm(team: &ThreadTeam, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let width = weight.len();
    same("rms norm", x.len(), out.len())?;
    same("rms norm, whole rows", x.len() % width.max(1), 0)?;
    let lanes = &kernels().lanes;
    rows(team, out, width, &|i, out| {
        let x = &x[i * width..][..width];
        // SAFETY: the table's level runs here.
        unsafe {
            let mean = (lanes.squared_norm)(x) / width as f32;
            (lanes.weighted)(x, 1.0 / (mean + eps).sqrt(), weight, out);
        }
    })?;
    Ok(())
}

/// `x = x / √(mean(x²) + eps) · weight` in place, for each row of `x (…, dim)`, `weight (dim)`: of whole rows, or of heads.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn rms_norm_in_place(team: &ThreadTeam, x: &mut [f32], weight: &[f32], eps: f32) -> Result<()> {
    let width = weight.len();
    same("rms norm, whole rows", x.len() % width.max(1), 0)?;
    let lanes = &kernels().lanes;
    rows(team, x, width, &|_, row| {
        // SAFETY: the table's level runs here.
        let by = 1.0 / (unsafe { (lanes.squared_norm)(row) } / width as f32 + eps).sqrt();
        let mut piece = [0.0f32; 256];
        for (x, w) in row.chunks_mut(piece.len()).zip(weight.chunks(256)) {
            let piece = &mut piece[..x.len()];
            piece.copy_from_slice(x);
            // SAFETY: as above.
            unsafe { (lanes.weighted)(piece, by, w, x) };
        }
    })?;
    Ok(())
}

/// Rotates the heads of `x (tokens, heads · dim)` in place, row `i` by the angles of `positions[i]`; a head's elements from
/// `2 · half` on stay.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ or a position has no angles.
pub fn rope(
    team: &ThreadTeam,
    x: &mut [f32],
    dim: usize,
    pairs: RopeLayout,
    angles: Angles<'_>,
    positions: &[u32],
) -> Result<()> {
    let Angles { cos, sin, half } = angles;
    let width = x.len() / positions.len().max(1);
    same("rope, whole heads", x.len(), width / dim.max(1) * dim * positions.len())?;
    let known = cos.len().min(sin.len()).checked_div(half).unwrap_or(usize::MAX);
    if 2 * half > dim || positions.iter().any(|p| *p as usize >= known) {
        return Err(Error::Internal(format!("rope: {half} pairs in heads of {dim}, angles of {known} positions")));
    }
    rows(team, x, width, &|i, row| {
        for head in row.chunks_exact_mut(dim) {
            rotate(head, pairs, angles, positions[i] as usize);
        }
    })?;
    Ok(())
}

/// Rotates one head in place by the angles of `position`, which the table must hold: [`rope`] of a single head, bit for bit.
pub fn rotate(head: &mut [f32], pairs: RopeLayout, angles: Angles<'_>, position: usize) {
    let Angles { cos, sin, half } = angles;
    let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
    let lanes = &kernels().lanes;
    match pairs {
        RopeLayout::Halves => {
            let (a, b) = head[..2 * half].split_at_mut(half);
            // SAFETY: the table's level runs here.
            unsafe { (lanes.rotate)(a, b, cos, sin) };
        }
        // SAFETY: as above.
        RopeLayout::Interleaved => unsafe { (lanes.rotate_pairs)(&mut head[..2 * half], cos, sin) },
    }
}

/// `gate ← gate / (1 + exp(−gate)) · up`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn swiglu(team: &ThreadTeam, gate: &mut [f32], up: &[f32]) -> Result<()> {
    same("swiglu", gate.len(), up.len())?;
    let lanes = &kernels().lanes;
    // SAFETY: the table's level runs here.
    runs(team, gate, up, &|gate, up| unsafe { (lanes.swiglu)(gate, up) })
}

/// `cap · tanh(x / cap)`: as `x` near zero, within ± `cap` everywhere (Gemma 2, arXiv 2408.00118, §2).
#[inline]
pub fn capped(x: f32, cap: f32) -> f32 {
    cap * (x / cap).tanh()
}

/// `x ← cap · tanh(x / cap)`.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn soft_cap(team: &ThreadTeam, cap: f32, x: &mut [f32]) -> Result<()> {
    rows(team, x, 1, &|_, x| x[0] = capped(x[0], cap))?;
    Ok(())
}

/// `gate ← gelu(gate) · up`, gelu by its tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415).
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn geglu(team: &ThreadTeam, gate: &mut [f32], up: &[f32]) -> Result<()> {
    same("geglu", gate.len(), up.len())?;
    let lanes = &kernels().lanes;
    // SAFETY: the table's level runs here.
    runs(team, gate, up, &|gate, up| unsafe { (lanes.geglu)(gate, up) })
}

/// `gate ← gate · σ(1.702 · gate) · (up + 1)`, gate at most 7 and up within ± 7 ([`crate::shape::Act::ClampedSwiglu`]).
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn clamped_swiglu(team: &ThreadTeam, gate: &mut [f32], up: &[f32]) -> Result<()> {
    same("clamped swiglu", gate.len(), up.len())?;
    let lanes = &kernels().lanes;
    // SAFETY: the table's level runs here.
    runs(team, gate, up, &|gate, up| unsafe { (lanes.clamped_swiglu)(gate, up) })
}

/// `x ← x + y`, element by element.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn add(team: &ThreadTeam, x: &mut [f32], y: &[f32]) -> Result<()> {
    same("add", x.len(), y.len())?;
    let lanes = &kernels().lanes;
    // SAFETY: the table's level runs here.
    runs(team, x, y, &|x, y| unsafe { (lanes.add)(x, y) })
}

fn runs(team: &ThreadTeam, x: &mut [f32], y: &[f32], each: &(dyn Fn(&mut [f32], &[f32]) + Sync)) -> Result<()> {
    let n = x.len();
    if n <= RUN {
        each(x, y);
        return if team.cancelled() { Err(Error::Cancelled) } else { Ok(()) };
    }
    let shared = SharedMut::new(x);
    team.run(n.div_ceil(RUN), &|task, _| {
        let (start, len) = (task * RUN, RUN.min(n - task * RUN));
        // SAFETY: each run is one task's.
        each(unsafe { shared.slice(start, len) }, &y[start..][..len]);
    })?;
    Ok(())
}

/// Decodes the rows `tokens` of an embedding matrix `(vocab, dim)` into `out (tokens, dim)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] for a token that has no row.
pub fn embed(team: &ThreadTeam, table: Mat<'_>, tokens: &[u32], out: &mut [f32]) -> Result<()> {
    let dim = table.cols();
    same("embedding", out.len(), tokens.len() * dim)?;
    if tokens.iter().any(|t| *t as usize >= table.rows()) {
        return Err(Error::Internal(format!("embedding: a token has no row among {}", table.rows())));
    }
    let kernels = kernels();
    rows(team, out, dim, &|i, out| table.decode_with(kernels, tokens[i] as usize, 0, out))?;
    Ok(())
}

/// `x ← softmax(x / temperature)`; all of `x` must be finite or −∞, one finite at least.
pub fn softmax(x: &mut [f32], temperature: f32) {
    let lanes = &kernels().lanes;
    // SAFETY: the table's level runs here.
    unsafe {
        (lanes.scale)(x, 1.0 / temperature);
        let max = (lanes.max)(x);
        let sum = (lanes.exp_sum)(x, max);
        (lanes.scale)(x, 1.0 / sum);
    }
}

/// The first of the largest elements; NaN is never larger. 0 of none.
pub fn argmax(x: &[f32]) -> usize {
    // SAFETY: the table's level runs here.
    let max = unsafe { (kernels().lanes.max)(x) };
    x.iter().position(|v| *v == max).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{Kernels, Level};
    use super::*;
    use crate::blocks::BlockType;

    fn ramp(n: usize, by: f32) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * by).collect()
    }

    #[test]
    fn exp_is_within_two_ulp_and_its_sum_is_a_sum() {
        for level in Level::ALL {
            let Some(kernels) = Kernels::tried(level) else { continue };
            let x: Vec<f32> = (0..200_001).map(|i| -87.0 + i as f32 * 87.0 / 200_000.0).collect();
            let mut y = x.clone();
            // SAFETY: the level runs here.
            let sum = unsafe { (kernels.lanes.exp_sum)(&mut y, 0.0) };
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(*x).exp();
                assert!(((f64::from(*y) - exact) / exact).abs() < 2.4e-7, "{level:?} exp({x}) = {y}");
            }
            let exact: f64 = y.iter().map(|y| f64::from(*y)).sum();
            assert!((f64::from(sum) / exact - 1.0).abs() < 1e-5);
            let mut edge = [f32::NEG_INFINITY, -1e30, -88.0, 0.0];
            // SAFETY: as above.
            unsafe { (kernels.lanes.exp_sum)(&mut edge, 0.0) };
            assert_eq!(edge, [0.0, 0.0, 0.0, 1.0], "{level:?}");
        }
    }

    #[test]
    fn norm_matches_its_definition_on_any_number_of_threads() {
        let (width, n) = (70, 600);
        let (x, w) = (ramp(width * n, 5.0), ramp(width, 1.0));
        let mut outs = Vec::new();
        for threads in [1, 3] {
            let mut out = vec![0.0; x.len()];
            rms_norm(&ThreadTeam::new(threads).unwrap(), &x, &w, 1e-5, &mut out).unwrap();
            outs.push(out);
        }
        assert_eq!(outs[0], outs[1]);
        for (row, out) in x.chunks(width).zip(outs[0].chunks(width)) {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
            for ((v, w), o) in row.iter().zip(&w).zip(out) {
                assert!((f64::from(v * w) / (mean + 1e-5).sqrt() - f64::from(*o)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_norm_in_place_has_the_bits_of_one_beside() {
        let team = ThreadTeam::new(2).unwrap();
        for (rows, width) in [(3, 7), (40, 256), (5, 700)] {
            let (x, w) = (ramp(rows * width, 3.0), ramp(width, 1.5));
            let mut beside = vec![0.0; x.len()];
            rms_norm(&team, &x, &w, 1e-6, &mut beside).unwrap();
            let mut own = x.clone();
            rms_norm_in_place(&team, &mut own, &w, 1e-6).unwrap();
            assert_eq!(own, beside);
        }
    }

    #[test]
    fn rotation_turns_pairs_and_leaves_the_rest() {
        let (dim, half) = (12, 5);
        let positions = [3, 0, 1];
        let angle = |p: u32, i: usize| f64::from(p) * 0.7 / (1.0 + i as f64);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..4).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect()
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let angles = Angles { cos: &cos, sin: &sin, half };
        for pairs in [RopeLayout::Halves, RopeLayout::Interleaved] {
            let x = ramp(3 * 2 * dim, 1.0);
            let mut y = x.clone();
            rope(&ThreadTeam::new(2).unwrap(), &mut y, dim, pairs, angles, &positions).unwrap();
            for (t, h) in (0..3).flat_map(|t| [(t, 0), (t, 1)]) {
                let (x, y) = (&x[(2 * t + h) * dim..][..dim], &y[(2 * t + h) * dim..][..dim]);
                for i in 0..half {
                    let (a, b) = if pairs == RopeLayout::Halves { (i, i + half) } else { (2 * i, 2 * i + 1) };
                    let (s, c) = angle(positions[t], i).sin_cos();
                    let (xa, xb) = (f64::from(x[a]), f64::from(x[b]));
                    assert!((f64::from(y[a]) - (xa * c - xb * s)).abs() < 1e-6);
                    assert!((f64::from(y[b]) - (xa * s + xb * c)).abs() < 1e-6);
                }
                assert_eq!(x[2 * half..], y[2 * half..]);
            }
            assert!(rope(&ThreadTeam::new(1).unwrap(), &mut y, dim, pairs, angles, &[4, 0, 0]).is_err());
        }
    }

    #[test]
    fn gate_and_sum_match_their_definitions() {
        let team = ThreadTeam::new(2).unwrap();
        for n in [1, 15, 33, RUN + 1, 3 * RUN + 7] {
            let (x, y) = (ramp(n, 90.0), ramp(n, 2.0));
            let mut gate = x.clone();
            swiglu(&team, &mut gate, &y).unwrap();
            for ((x, y), g) in x.iter().zip(&y).zip(&gate) {
                let exact = f64::from(*x) / (1.0 + (-f64::from(*x)).exp()) * f64::from(*y);
                assert!((f64::from(*g) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{x}: {g} {exact}");
            }
            let mut gate: Vec<f32> = x.iter().map(|x| x / 9.0).collect();
            geglu(&team, &mut gate, &y).unwrap();
            for ((x, y), g) in x.iter().map(|x| f64::from(x / 9.0)).zip(&y).zip(&gate) {
                let t = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                let exact = 0.5 * x * (1.0 + t.tanh()) * f64::from(*y);
                assert!((f64::from(*g) - exact).abs() <= 2e-6 * exact.abs() + 1e-6, "{x}: {g} {exact}");
            }
            let mut sum = x.clone();
            add(&team, &mut sum, &y).unwrap();
            assert!(sum.iter().zip(&x).zip(&y).all(|((s, x), y)| *s == x + y));
        }
    }

    #[test]
    fn sampling_helpers() {
        let mut x = vec![1.0, 3.0, f32::NEG_INFINITY, 3.0, f32::NAN];
        assert_eq!(argmax(&x), 1);
        x.pop();
        softmax(&mut x, 2.0);
        let exact = [1.0f64, 3.0, f64::NEG_INFINITY, 3.0].map(|v| (v / 2.0).exp());
        let total: f64 = exact.iter().sum();
        assert!(x.iter().zip(exact).all(|(a, e)| (f64::from(*a) - e / total).abs() < 1e-6));
    }

    #[test]
    fn embeddings_are_rows_of_the_matrix() {
        let team = ThreadTeam::new(2).unwrap();
        let table: Vec<u8> = ramp(10 * 4, 1.0).iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut out = vec![0.0; 8];
        let table = Mat::new(BlockType::F32, 10, 4, &table).unwrap();
        embed(&team, table, &[9, 2], &mut out).unwrap();
        let plain = ramp(40, 1.0);
        assert_eq!(out, [&plain[36..40], &plain[8..12]].concat());
        assert!(embed(&team, table, &[10, 2], &mut out).is_err());
    }
}
