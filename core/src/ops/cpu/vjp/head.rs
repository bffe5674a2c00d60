//! The loss head by blocks of logits: running log-sum-exp, then the gradient in place (cut cross-entropy, arXiv 2411.09009;
//! one block as wide as the vocabulary is the plain loss).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::check;
use crate::Result;
use crate::ops::cpu::kernels;
use crate::ops::team::{SharedMut, Team};
use crate::train::batch::NO_LOSS;
use crate::train::device::Best;

/// Logits whose exponentials are summed at once, on the stack.
const PIECE: usize = 1024;

/// Takes the block `a (m, n)` of the vocabulary's entries `first..` into `lse (m)` and `picked (m)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn lse(
    team: &Team,
    a: &[f32],
    n: usize,
    first: usize,
    targets: &[u32],
    lse: &mut [f32],
    picked: &mut [f32],
) -> Result<()> {
    let m = targets.len();
    check("log-sum-exp", a.len() >= m * n && lse.len() >= m && picked.len() >= m, || {
        format!("{} logits, {} and {} rows for {m} × {n}", a.len(), lse.len(), picked.len())
    })?;
    let lanes = &kernels().lanes;
    let (lse, picked) = (SharedMut::new(lse), SharedMut::new(picked));
    team.run(m, &|i, _| {
        if targets[i] == NO_LOSS {
            return;
        }
        let row = &a[i * n..][..n];
        // SAFETY: the table's level runs here; each row is one task's.
        unsafe {
            let max = (lanes.max)(row);
            let mut sum = 0.0f32;
            let mut piece = [0.0f32; PIECE];
            for part in row.chunks(PIECE) {
                let piece = &mut piece[..part.len()];
                piece.copy_from_slice(part);
                sum += (lanes.exp_sum)(piece, max);
            }
            let (here, lse) = (max + sum.ln(), &mut lse.slice(i, 1)[0]);
            let larger = here.max(*lse);
            *lse = if *lse == f32::NEG_INFINITY {
                here
            } else {
                larger + ((here - larger).exp() + (*lse - larger).exp()).ln()
            };
            if let Some(a) = (targets[i] as usize).checked_sub(first).and_then(|j| row.get(j)) {
                picked.slice(i, 1)[0] = *a;
            }
        }
    })?;
    Ok(())
}

/// Takes the block `a (m, n)` of the vocabulary's entries `first..` into `best (m)`.
///
/// # Errors
/// As [`lse`].
pub fn argmax(team: &Team, a: &[f32], n: usize, first: usize, best: &mut [Best]) -> Result<()> {
    let m = best.len();
    check("argmax", a.len() >= m * n, || format!("{} logits for {m} × {n}", a.len()))?;
    let best = SharedMut::new(best);
    team.run(m, &|i, _| {
        // SAFETY: each row is one task's.
        unsafe { best.slice(i, 1)[0].take(&a[i * n..][..n], first) }
    })?;
    Ok(())
}

/// In place: `a ← scale · (exp(a − lse) − [target])`, zeros in rows without a target; false when every element before
/// scaling is below `eps` in size.
///
/// # Errors
/// As [`lse`].
pub fn softmax_vjp(
    team: &Team,
    a: &mut [f32],
    n: usize,
    first: usize,
    targets: &[u32],
    lse: &[f32],
    scale: f32,
    eps: f32,
) -> Result<bool> {
    let m = targets.len();
    check("softmax vjp", a.len() >= m * n && lse.len() >= m, || format!("{} logits for {m} × {n}", a.len()))?;
    let lanes = &kernels().lanes;
    let a = SharedMut::new(a);
    let matters = AtomicBool::new(eps <= 0.0);
    team.run(m, &|i, _| {
        // SAFETY: the table's level runs here; each row is one task's.
        unsafe {
            let row = a.slice(i * n, n);
            if targets[i] == NO_LOSS {
                row.fill(0.0);
                return;
            }
            (lanes.exp_sum)(row, lse[i]);
            if let Some(a) = (targets[i] as usize).checked_sub(first).and_then(|j| row.get_mut(j)) {
                *a -= 1.0;
                if a.abs() >= eps {
                    matters.store(true, Relaxed);
                }
            }
            if !matters.load(Relaxed) && (lanes.max)(row) >= eps {
                matters.store(true, Relaxed);
            }
            (lanes.scale)(row, scale);
        }
    })?;
    Ok(matters.into_inner())
}
