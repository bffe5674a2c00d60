//! Norms of a matrix's rows, and what is done to each column of a batch by a factor of its own: what magnitudes of rows need.

use super::check;
use crate::Result;
use crate::ops::cpu::{Mat, kernels};
use crate::ops::team::{SharedMut, ThreadTeam};

/// Rows of a task of [`row_norms`].
const HEIGHT: usize = 8;
/// Columns decoded at once: whole units of every scheme that divides rows so.
const DEPTH: usize = 1536;
/// Columns of a task over a batch.
const WIDE: usize = 64;

/// A product of thin matrices beside a weight: `s · b · a`, `a (r, cols)`, `b (rows, r)`.
#[derive(Clone, Copy, Debug)]
pub struct Low<'a> {
    /// A of the update `s · B A`, `(r, cols)`.
    pub a: Mat<'a>,
    /// B of it, `(rows, r)`.
    pub b: Mat<'a>,
    /// s: LoRA's `lora_alpha / r` (Hu et al. 2021, §4.1), over `√r` with rsLoRA.
    pub scale: f32,
}

/// Elements of scratch that [`row_norms`] needs; no more than a linear of as many columns.
pub fn row_norms_scratch(threads: usize, cols: usize, rank: usize) -> usize {
    threads * ((HEIGHT + 1) * cols.min(DEPTH) + HEIGHT * rank)
}

/// `norms (rows)`: the Euclidean length of each row of `w + s · b · a`, without ever forming the product.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when shapes differ or scratch is short.
pub fn row_norms(
    team: &ThreadTeam,
    w: Mat<'_>,
    low: Option<Low<'_>>,
    norms: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    let (rows, cols, rank) = (w.rows(), w.cols(), low.map_or(0, |l| l.a.rows()));
    let fits = low.is_none_or(|l| l.a.cols() == cols && l.b.rows() == rows && l.b.cols() == rank);
    check("row norms", fits && norms.len() >= rows, || format!("{rows} × {cols} of rank {rank}, {}", norms.len()))?;
    let own = row_norms_scratch(1, cols, rank);
    check("row norms", scratch.len() >= own * team.threads(), || format!("{} of scratch", scratch.len()))?;
    let kernels = kernels();
    let lanes = &kernels.lanes;
    let (norms, scratch) = (SharedMut::new(norms), SharedMut::new(scratch));
    team.run(rows.div_ceil(HEIGHT), &|task, worker| {
        let (first, n) = (task * HEIGHT, HEIGHT.min(rows - task * HEIGHT));
        // SAFETY: a worker runs one task at a time, and a task has rows of its own.
        let (norms, scratch) = unsafe { (norms.slice(first, n), scratch.slice(worker * own, own)) };
        let (factors, lines) = scratch.split_at_mut(HEIGHT * rank);
        let depth = cols.min(DEPTH);
        let (line, lines) = lines.split_at_mut(depth);
        norms.fill(0.0);
        if let Some(low) = low {
            for (i, f) in factors.chunks_exact_mut(rank).take(n).enumerate() {
                low.b.decode_with(kernels, first + i, 0, f);
                f.iter_mut().for_each(|f| *f *= low.scale);
            }
        }
        for col in (0..cols).step_by(DEPTH) {
            let wide = DEPTH.min(cols - col);
            for (i, out) in lines.chunks_exact_mut(depth).take(n).enumerate() {
                w.decode_with(kernels, first + i, col, &mut out[..wide]);
            }
            for k in 0..rank {
                if let Some(low) = low {
                    low.a.decode_with(kernels, k, col, &mut line[..wide]);
                }
                for (out, f) in lines.chunks_exact_mut(depth).zip(factors.chunks_exact(rank)).take(n) {
                    // SAFETY: the table's level runs here.
                    unsafe { (lanes.axpy)(f[k], &line[..wide], &mut out[..wide]) };
                }
            }
            for (sum, out) in norms.iter_mut().zip(lines.chunks_exact(depth)) {
                // SAFETY: the table's level runs here.
                *sum += unsafe { (lanes.squared_norm)(&out[..wide]) };
            }
        }
        // A row of zeros has no direction; its length is divided by all the same.
        norms.iter_mut().for_each(|v| *v = v.sqrt().max(f32::MIN_POSITIVE));
    })?;
    Ok(())
}

/// `y (m, cols) (+)= x ⊙ (by / over) + bias`, a factor for each column.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn scale_columns(
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    (by, over): (&[f32], &[f32]),
    bias: Option<&[f32]>,
    y: &mut [f32],
    add: bool,
) -> Result<()> {
    let cols = by.len();
    let fits = over.len() >= cols && x.len() >= m * cols && y.len() >= m * cols;
    let fits = fits && bias.is_none_or(|b| b.len() >= cols);
    check("scaled columns", fits, || format!("{} and {} elements for {m} × {cols}", x.len(), y.len()))?;
    let y = SharedMut::new(y);
    team.run(cols.div_ceil(WIDE), &|task, _| {
        let (at, n) = (task * WIDE, WIDE.min(cols - task * WIDE));
        let (factors, offsets) = (&mut [0.0f32; WIDE][..n], &mut [0.0f32; WIDE][..n]);
        factors.iter_mut().zip(&by[at..]).zip(&over[at..]).for_each(|((f, b), o)| *f = b / o);
        if let Some(bias) = bias {
            offsets.copy_from_slice(&bias[at..at + n]);
        }
        for i in 0..m {
            // SAFETY: each run of columns is one task's.
            let y = unsafe { y.slice(i * cols + at, n) };
            let x = &x[i * cols + at..][..n];
            for (((y, x), f), b) in y.iter_mut().zip(x).zip(&*factors).zip(&*offsets) {
                *y = if add { *y } else { 0.0 } + x * f + b;
            }
        }
    })?;
    Ok(())
}

/// `to (cols) (+)= Σ_i x (m, cols) ⊙ y (m, cols) / over`, tokens added in order.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn column_dot(
    team: &ThreadTeam,
    x: &[f32],
    y: &[f32],
    m: usize,
    over: &[f32],
    to: &mut [f32],
    add: bool,
) -> Result<()> {
    let cols = to.len();
    let fits = over.len() >= cols && x.len() >= m * cols && y.len() >= m * cols;
    check("column dot", fits, || format!("{} and {} elements for {m} × {cols}", x.len(), y.len()))?;
    let to = SharedMut::new(to);
    team.run(cols.div_ceil(WIDE), &|task, _| {
        let (at, n) = (task * WIDE, WIDE.min(cols - task * WIDE));
        let sums = &mut [0.0f32; WIDE][..n];
        for i in 0..m {
            let (x, y) = (&x[i * cols + at..][..n], &y[i * cols + at..][..n]);
            sums.iter_mut().zip(x).zip(y).for_each(|((s, x), y)| *s += x * y);
        }
        // SAFETY: each run of columns is one task's.
        let to = unsafe { to.slice(at, n) };
        for ((to, sum), over) in to.iter_mut().zip(&*sums).zip(&over[at..]) {
            *to = if add { *to } else { 0.0 } + sum / over;
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{self, BlockType};

    fn wave(n: usize, k: f32) -> Vec<f32> {
        (0..n).map(|i| (0.37 * i as f32 + k).sin()).collect()
    }

    #[test]
    fn norms_are_those_of_the_sum_for_any_scheme_and_threads() {
        let (rows, cols, rank) = (37, 3200, 5);
        let (w, a, b) = (wave(rows * cols, 0.0), wave(rank * cols, 1.0), wave(rows * rank, 2.0));
        for ty in [BlockType::F32, BlockType::Q8_0, BlockType::Bf16] {
            let mut stored = vec![0; ty.row_bytes(cols).unwrap() * rows];
            blocks::encode(ty, &w, &mut stored).unwrap();
            let mut decoded = vec![0.0; rows * cols];
            blocks::decode(ty, &stored, &mut decoded).unwrap();
            let mat = Mat::new(ty, rows, cols, &stored).unwrap();
            let low = Low {
                a: Mat::new(BlockType::F32, rank, cols, bytemuck::cast_slice(&a)).unwrap(),
                b: Mat::new(BlockType::F32, rows, rank, bytemuck::cast_slice(&b)).unwrap(),
                scale: 0.5,
            };
            let run = |threads: usize, low: Option<Low<'_>>| {
                let team = ThreadTeam::new(threads).unwrap();
                let (mut norms, mut scratch) =
                    (vec![f32::NAN; rows], vec![0.0; row_norms_scratch(threads, cols, rank)]);
                row_norms(&team, mat, low, &mut norms, &mut scratch).unwrap();
                norms
            };
            assert!(run(1, Some(low)) == run(3, Some(low)));
            for with in [false, true] {
                let got = run(2, with.then_some(low));
                for (r, got) in got.iter().enumerate() {
                    let exact: f64 = (0..cols)
                        .map(|c| {
                            let ba: f64 =
                                (0..rank).map(|k| f64::from(b[r * rank + k]) * f64::from(a[k * cols + c])).sum();
                            (f64::from(decoded[r * cols + c]) + if with { 0.5 * ba } else { 0.0 }).powi(2)
                        })
                        .sum();
                    assert!((f64::from(*got) / exact.sqrt() - 1.0).abs() < 1e-5, "{ty} {with} {r}");
                }
            }
        }
    }

    #[test]
    fn columns_have_factors_and_sums_of_their_own() {
        let (m, cols) = (5, 130);
        let (x, y) = (wave(m * cols, 0.0), wave(m * cols, 3.0));
        let (by, over): (Vec<f32>, Vec<f32>) = (wave(cols, 1.0), wave(cols, 5.0).iter().map(|v| v + 2.0).collect());
        let team = ThreadTeam::new(2).unwrap();
        let mut scaled = vec![f32::NAN; m * cols];
        scale_columns(&team, &x, m, (&by, &over), None, &mut scaled, false).unwrap();
        let mut more = vec![1.0; m * cols];
        scale_columns(&team, &x, m, (&by, &over), Some(&y[..cols]), &mut more, true).unwrap();
        let mut sums = vec![1.0; cols];
        column_dot(&team, &x, &y, m, &over, &mut sums, true).unwrap();
        for c in 0..cols {
            for i in 0..m {
                let one = x[i * cols + c] * by[c] / over[c];
                assert!((scaled[i * cols + c] - one).abs() < 1e-6);
                assert!((more[i * cols + c] - (1.0 + one + y[c])).abs() < 1e-5);
            }
            let dot: f32 = (0..m).map(|i| x[i * cols + c] * y[i * cols + c]).sum();
            assert!((sums[c] - 1.0 - dot / over[c]).abs() < 1e-5, "{c}");
        }
        assert!(column_dot(&team, &x[1..], &y, m, &over, &mut sums, true).is_err());
    }
}
