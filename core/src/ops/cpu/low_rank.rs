//! The second half of a low-rank adapter, `y += h · Bᵀ`, on top of a product that is there already.

use super::decode::decode_with;
use super::linear::{DEPTH, Mat, PANEL, linear_scratch};
use super::{Kernels, kernels};
use crate::ops::team::{SharedMut, Team};
use crate::{Error, Result};

/// Rows of activations that a task takes.
const BATCH: usize = 96;

/// One sum: row `i` of `h · Bᵀ` is added to `y[i·ldy..][..b.rows()]`.
#[derive(Debug)]
pub struct AddLowRank<'a> {
    /// `(m, rank)`, scaled already.
    pub h: &'a [f32],
    /// `(out, rank)`.
    pub b: Mat<'a>,
    /// The product it is added to, `(m, ≥ out)`.
    pub y: &'a mut [f32],
    /// Elements from one row of `y` to the next.
    pub ldy: usize,
}

/// Adds every sum in one parallel region. An element of `y` gets one rounded sum over the rank, so bits depend neither on
/// threads nor on the batch. Scratch: [`linear_scratch`] of the largest rank.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice is too short.
pub fn add_low_rank(team: &Team, m: usize, sums: &mut [AddLowRank<'_>], scratch: &mut [f32]) -> Result<()> {
    add_with(kernels(), team, m, sums, scratch)
}

fn add_with(kernels: &Kernels, team: &Team, m: usize, sums: &mut [AddLowRank<'_>], scratch: &mut [f32]) -> Result<()> {
    if m == 0 || sums.is_empty() {
        return Ok(());
    }
    let rank = sums.iter().map(|s| s.b.cols()).max().unwrap_or(0);
    for s in sums.iter() {
        let (rows, cols) = (s.b.rows(), s.b.cols());
        let fits = (1..=DEPTH).contains(&cols)
            && s.h.len() >= m * cols
            && s.ldy >= rows
            && s.y.len() >= (m - 1) * s.ldy + rows;
        if !fits || scratch.len() < linear_scratch(team.threads(), rank) {
            return Err(Error::Internal(format!("low rank: {m} rows of rank {cols} to {rows} outputs do not fit")));
        }
    }
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let scratch = SharedMut::new(&mut scratch[aligned..]);
    let ld = rank.next_multiple_of(16);
    let batches = m.div_ceil(BATCH);
    let total = sums.iter().map(|s| s.b.rows().div_ceil(PANEL) * batches).sum();
    let parts: Vec<_> = sums.iter_mut().map(|s| (s.h, s.b, SharedMut::new(s.y), s.ldy)).collect();
    team.run(total, &|mut task, worker| {
        for (h, b, y, ldy) in &parts {
            let tasks = b.rows().div_ceil(PANEL) * batches;
            if task >= tasks {
                task -= tasks;
                continue;
            }
            let (row, first) = (task / batches * PANEL, task % batches * BATCH);
            let (rows, batch, cols) = (PANEL.min(b.rows() - row), BATCH.min(m - first), b.cols());
            // SAFETY: a worker runs one task at a time, so its panel is its own.
            let panel = unsafe { scratch.slice(worker * PANEL * ld, PANEL * ld) };
            let bytes = b.data().len() / b.rows();
            for (stored, out) in b.data()[row * bytes..].chunks_exact(bytes).zip(panel.chunks_exact_mut(ld)).take(rows)
            {
                if decode_with(kernels, b.ty(), stored, &mut out[..cols]).is_err() {
                    // `Mat::new` checked that the type decodes; should it not, the result must not look right.
                    out[..cols].fill(f32::NAN);
                }
            }
            // Both ends are in bounds; the kernel writes only this task's rows and columns between them.
            let c = y.at(first * ldy + row);
            y.at((first + batch - 1) * ldy + row + rows - 1);
            let h = &h[first * cols..(first + batch) * cols];
            // SAFETY: h is `batch` rows of `cols`, the panel holds `rows` rows of `cols`, `ld` apart, `c` as above.
            unsafe { (kernels.dot)(h.as_ptr(), cols, batch, panel.as_ptr(), ld, rows, cols, c, *ldy, true) };
            return;
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::linear::tests::noise;
    use super::*;
    use crate::blocks::{self, BlockType};

    fn stored(ty: BlockType, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
        let mut bytes = vec![0; ty.row_bytes(cols).unwrap() * rows];
        blocks::encode(ty, &noise(rows * cols, seed), &mut bytes).unwrap();
        let mut plain = vec![0.0; rows * cols];
        blocks::decode(ty, &bytes, &mut plain).unwrap();
        (bytes, plain)
    }

    #[test]
    fn it_is_the_plain_sum_on_top_and_its_bits_depend_on_neither_threads_nor_batch() {
        for ty in [BlockType::F32, BlockType::F16, BlockType::Bf16] {
            for (rows, rank, m) in [(7, 1, 1), (100, 8, 5), (50, 13, 200), (130, 64, 97)] {
                let (bytes, plain) = stored(ty, rows, rank, 1);
                let (h, y0) = (noise(m * rank, 2), noise(m * (rows + 3), 3));
                let b = Mat::new(ty, rows, rank, &bytes).unwrap();
                for level in Level::ALL {
                    let Some(kernels) = Kernels::at(level) else { continue };
                    let run = |threads: usize, first: usize, m: usize| {
                        let team = Team::new(threads).unwrap();
                        let mut y = y0[first * (rows + 3)..(first + m) * (rows + 3)].to_vec();
                        let mut scratch = vec![f32::NAN; linear_scratch(threads, rank)];
                        let h = &h[first * rank..(first + m) * rank];
                        let mut sums = [AddLowRank { h, b, y: &mut y, ldy: rows + 3 }];
                        add_with(kernels, &team, m, &mut sums, &mut scratch).unwrap();
                        y
                    };
                    let whole = run(1, 0, m);
                    assert_eq!(run(3, 0, m), whole);
                    let last = m / 2;
                    assert_eq!(run(2, last, 1), whole[last * (rows + 3)..(last + 1) * (rows + 3)]);
                    for (i, y) in whole.iter().enumerate() {
                        let (row, col) = (i / (rows + 3), i % (rows + 3));
                        let sum: f64 = match plain.get(col * rank..(col + 1) * rank).filter(|_| col < rows) {
                            Some(b) => b.iter().zip(&h[row * rank..]).map(|(b, h)| f64::from(*b) * f64::from(*h)).sum(),
                            None => 0.0,
                        };
                        let error = (f64::from(*y) - f64::from(y0[i]) - sum).abs();
                        assert!(error <= 1e-5, "{ty} {level:?} ({rows}, {rank}) × {m}: element {i} is off by {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let team = Team::new(1).unwrap();
        let (bytes, _) = stored(BlockType::F32, 4, 2, 1);
        let b = Mat::new(BlockType::F32, 4, 2, &bytes).unwrap();
        let (h, mut y, mut s) = (vec![0.0; 4], vec![0.0; 8], vec![0.0; linear_scratch(1, 2)]);
        assert!(add_low_rank(&team, 2, &mut [AddLowRank { h: &h, b, y: &mut y, ldy: 4 }], &mut s).is_ok());
        assert!(add_low_rank(&team, 2, &mut [AddLowRank { h: &h[1..], b, y: &mut y, ldy: 4 }], &mut s).is_err());
        assert!(add_low_rank(&team, 2, &mut [AddLowRank { h: &h, b, y: &mut y[1..], ldy: 4 }], &mut s).is_err());
        assert!(add_low_rank(&team, 2, &mut [AddLowRank { h: &h, b, y: &mut y, ldy: 3 }], &mut s).is_err());
        assert!(add_low_rank(&team, 2, &mut [AddLowRank { h: &h, b, y: &mut y, ldy: 4 }], &mut s[1..]).is_err());
    }
}
