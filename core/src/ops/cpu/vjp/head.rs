//! The loss head by blocks of logits: running log-sum-exp, then the gradient in place (cut cross-entropy, arXiv 2411.09009;
//! one block as wide as the vocabulary is the plain loss).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::check;
use crate::Result;
use crate::ops::cpu::kernels;
use crate::ops::descriptors::Best;
use crate::ops::descriptors::NO_LOSS;
use crate::ops::team::{SharedMut, ThreadTeam};

/// Logits whose exponentials are summed at once, on the stack.
const PIECE: usize = 1024;

/// Takes the block `a (m, n)` of the vocabulary's entries `first..` into `log_sum_exp (m)` and `picked (m)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn log_sum_exp(
    team: &ThreadTeam,
    a: &[f32],
    n: usize,
    first: usize,
    targets: &[u32],
    log_sum_exp: &mut [f32],
    picked: &mut [f32],
) -> Result<()> {
    let m = targets.len();
    check("log-sum-exp", a.len() >= m * n && log_sum_exp.len() >= m && picked.len() >= m, || {
        format!("{} logits, {} and {} rows for {m} × {n}", a.len(), log_sum_exp.len(), picked.len())
    })?;
    let lanes = &kernels().lanes;
    let (log_sum_exp, picked) = (SharedMut::new(log_sum_exp), SharedMut::new(picked));
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
            let (here, log_sum_exp) = (max + sum.ln(), &mut log_sum_exp.slice(i, 1)[0]);
            let larger = here.max(*log_sum_exp);
            *log_sum_exp = if *log_sum_exp == f32::NEG_INFINITY {
                here
            } else {
                larger + ((here - larger).exp() + (*log_sum_exp - larger).exp()).ln()
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
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn argmax(team: &ThreadTeam, a: &[f32], n: usize, first: usize, best: &mut [Best]) -> Result<()> {
    let m = best.len();
    check("argmax", a.len() >= m * n, || format!("{} logits for {m} × {n}", a.len()))?;
    let best = SharedMut::new(best);
    team.run(m, &|i, _| {
        // SAFETY: each row is one task's.
        unsafe { best.slice(i, 1)[0].take(&a[i * n..][..n], first) }
    })?;
    Ok(())
}

/// In place: `a ← scale · (exp(a − log_sum_exp) − [target])`, zeros in rows without a target; false when every element before
/// scaling is below `eps` in size.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn cross_entropy_vjp(
    team: &ThreadTeam,
    a: &mut [f32],
    n: usize,
    first: usize,
    targets: &[u32],
    log_sum_exp: &[f32],
    scale: f32,
    eps: f32,
) -> Result<bool> {
    let m = targets.len();
    check("softmax vjp", a.len() >= m * n && log_sum_exp.len() >= m, || format!("{} logits for {m} × {n}", a.len()))?;
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
            (lanes.exp_sum)(row, log_sum_exp[i]);
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
