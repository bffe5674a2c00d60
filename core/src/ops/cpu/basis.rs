//! Orthonormal rows, and the leading singular vectors of a short, wide matrix: what a low-rank projection is found by.
//!
//! The decomposition is nalgebra's, of a small matrix on one thread. Rows of thousands of numbers are made orthonormal here: on
//! every thread, in place, and with no memory of their own. Bits do not depend on the number of threads.

use nalgebra::linalg::SymmetricEigen;
use nalgebra::{DMatrix, DVector};

use crate::ops::cpu::kernels;
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Diverged, Error, Result};

/// Columns of a task.
const RUN: usize = 256;
/// Steps of the decomposition for each row at most: two or three are what it takes.
const STEPS: usize = 64;

/// Bytes that [`leading_vectors`] holds while it runs: a Gram matrix and its eigenvectors in f64, and some vectors beside them.
pub const fn decomposition_bytes(rows: usize) -> usize {
    16 * rows * rows + 64 * rows
}

/// Makes the rows of `y (rows, cols)`, `rows ≤ cols`, orthonormal, each of what it adds to those before it (Gram–Schmidt, twice
/// over, which is enough: Giraud, Langou and Rozložník 2005). A row that adds nothing becomes some direction that does.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ or scratch is short.
pub fn orthonormalize(team: &ThreadTeam, y: &mut [f32], rows: usize, cols: usize, scratch: &mut [f32]) -> Result<()> {
    if y.len() < rows * cols || scratch.len() < rows || rows > cols {
        return Err(Error::Internal(format!("{rows} orthonormal rows of {cols}, {} elements", y.len())));
    }
    for i in 0..rows {
        let (done, rest) = y.split_at_mut(i * cols);
        let (row, along) = (&mut rest[..cols], &mut scratch[..i]);
        let mut axis = i;
        loop {
            let before = norm(row);
            if before > 0.0 && before.is_finite() {
                subtract(team, done, row, along)?;
                let once = norm(row);
                subtract(team, done, row, along)?;
                let after = norm(row);
                // What is left of a row that the others span is rounding.
                if after > 0.5 * once && once > 1e-5 * before {
                    let by = (1.0 / after) as f32;
                    row.iter_mut().for_each(|x| *x *= by);
                    break;
                }
            } else if !before.is_finite() {
                return Err(diverged());
            }
            if axis >= i + cols {
                return Err(Error::Internal(format!("no direction is left for row {i} of {rows}")));
            }
            row.fill(0.0);
            row[axis % cols] = 1.0;
            axis += 1;
        }
    }
    Ok(())
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// `row −= Σ_j ⟨done_j, row⟩ done_j`, the inner products going through `along`.
fn subtract(team: &ThreadTeam, done: &[f32], row: &mut [f32], along: &mut [f32]) -> Result<()> {
    let (lanes, cols, n) = (&kernels().lanes, row.len(), along.len());
    {
        let (row, along) = (&*row, SharedMut::new(along));
        team.run(n.div_ceil(8), &|task, _| {
            for j in 8 * task..n.min(8 * task + 8) {
                // SAFETY: the table's level runs here; each product is one task's.
                unsafe { along.slice(j, 1)[0] = (lanes.dot)(&done[j * cols..][..cols], row) };
            }
        })?;
    }
    let (along, row) = (&*along, SharedMut::new(row));
    team.run(cols.div_ceil(RUN), &|task, _| {
        let (at, len) = (task * RUN, RUN.min(cols - task * RUN));
        // SAFETY: each run of columns is one task's; the table's level runs here.
        unsafe {
            let row = row.slice(at, len);
            for (j, a) in along.iter().enumerate() {
                (lanes.axpy)(-a, &done[j * cols + at..][..len], row);
            }
        }
    })?;
    Ok(())
}

/// `vectors (rank, rows)`: the left singular vectors of `z (rows, cols)` that belong to its largest singular values, largest
/// first: eigenvectors of `z zᵀ` in f64. Holds [`decomposition_bytes`] while it runs.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Diverged`] where `z` is not finite; [`Error::Internal`] when a slice is too short.
pub fn leading_vectors(
    team: &ThreadTeam,
    z: &[f32],
    rows: usize,
    cols: usize,
    rank: usize,
    vectors: &mut [f32],
) -> Result<()> {
    if z.len() < rows * cols || rank > rows || vectors.len() < rank * rows {
        return Err(Error::Internal(format!("{rank} leading vectors of {rows} × {cols}, {} elements", z.len())));
    }
    let line = |i: usize| &z[i * cols..][..cols];
    let mut gram = DMatrix::<f64>::zeros(rows, rows);
    {
        let gram = SharedMut::new(gram.as_mut_slice());
        team.run(rows, &|i, _| {
            // SAFETY: each column is one task's.
            let own = unsafe { gram.slice(i * rows, rows) };
            for (j, to) in own.iter_mut().enumerate().skip(i) {
                *to = line(i).iter().zip(line(j)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            }
        })?;
    }
    // The method reads the lower triangle alone, and does not end on what is not a number.
    if !gram.iter().all(|x| x.is_finite()) {
        return Err(diverged());
    }
    let SymmetricEigen { eigenvectors, mut eigenvalues } =
        SymmetricEigen::try_new(gram, f64::EPSILON, STEPS * rows.max(1)).ok_or_else(diverged)?;
    for row in vectors.chunks_exact_mut(rows.max(1)).take(rank) {
        let k = take_largest(&mut eigenvalues);
        row.iter_mut().zip(eigenvectors.column(k).iter()).for_each(|(to, from)| *to = *from as f32);
    }
    Ok(())
}

/// Where the largest value stands, ties going to the first; it counts no more after that.
fn take_largest(values: &mut DVector<f64>) -> usize {
    let best = (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0);
    values[best] = f64::NEG_INFINITY;
    best
}

fn diverged() -> Error {
    Error::diverged(Diverged::new("the projection of a gradient", f64::NAN), "lower train.lr or clip the gradients")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Philox;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn rows_become_orthonormal_even_where_some_add_nothing() {
        let (rows, cols) = (12, 40);
        let mut y = vec![0.0; rows * cols];
        Philox::new(1).normals(0, &mut y);
        let twin = y[..cols].to_vec();
        y[5 * cols..6 * cols].iter_mut().zip(&twin).for_each(|(x, t)| *x = 3.0 * t);
        y[7 * cols..8 * cols].fill(0.0);
        let run = |threads| {
            let mut y = y.clone();
            orthonormalize(&ThreadTeam::new(threads).unwrap(), &mut y, rows, cols, &mut [0.0; 12]).unwrap();
            y
        };
        let got = run(1);
        assert!(got == run(3));
        for i in 0..rows {
            for j in 0..=i {
                let want = if i == j { 1.0 } else { 0.0 };
                let product = dot(&got[i * cols..][..cols], &got[j * cols..][..cols]);
                assert!((product - want).abs() < 1e-5, "{i} {j}: {product}");
            }
        }
        assert!(
            (dot(&got[..cols], &twin).powi(2) / dot(&twin, &twin) - 1.0).abs() < 1e-5,
            "the first keeps its direction"
        );
    }

    #[test]
    fn leading_vectors_are_those_that_a_matrix_was_made_of() {
        let (rows, cols, rank, team) = (9, 30, 3, ThreadTeam::new(2).unwrap());
        let (mut u, mut v) = (vec![0.0; rows * rows], vec![0.0; rows * cols]);
        Philox::new(2).normals(0, &mut u);
        Philox::new(3).normals(0, &mut v);
        let mut scratch = vec![0.0; rows];
        orthonormalize(&team, &mut u, rows, rows, &mut scratch).unwrap();
        orthonormalize(&team, &mut v, rows, cols, &mut scratch).unwrap();
        // z = Σ σ_k u_k v_kᵀ, singular values falling.
        let sigma = |k: usize| 5.0 / (k as f32 + 1.0);
        let z: Vec<f32> = (0..rows * cols)
            .map(|i| (0..rows).map(|k| sigma(k) * u[k * rows + i / cols] * v[k * cols + i % cols]).sum())
            .collect();
        let mut vectors = vec![0.0; rank * rows];
        leading_vectors(&team, &z, rows, cols, rank, &mut vectors).unwrap();
        assert!(leading_vectors(&team, &[f32::NAN; 300], rows, cols, rank, &mut vectors.clone()).is_err());
        for k in 0..rank {
            let along = dot(&vectors[k * rows..][..rows], &u[k * rows..][..rows]).abs();
            assert!((along - 1.0).abs() < 1e-5, "{k}: {along}");
        }
    }
}
