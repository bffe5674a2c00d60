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

/// Which entries of the vocabulary the columns of a block are.
#[derive(Clone, Copy, Debug)]
pub enum Entries<'a> {
    /// Neighbours, from this one on.
    From(usize),
    /// These, one a column.
    Listed(&'a [u32]),
}

impl Entries<'_> {
    /// The column of `target` among the first `n`.
    fn place(self, target: u32, n: usize) -> Option<usize> {
        match self {
            Self::From(first) => (target as usize).checked_sub(first).filter(|j| *j < n),
            Self::Listed(ids) => ids.iter().take(n).position(|id| *id == target),
        }
    }
}

/// Writes the numbers of the elements of `x` into `ids`, of the same length, in order of falling value; those of one value in
/// order of number.
pub fn order(x: &[f32], ids: &mut [u32]) {
    ids.iter_mut().zip(0..).for_each(|(id, i)| *id = i);
    let value = |i: u32| x.get(i as usize).copied().unwrap_or(f32::NEG_INFINITY);
    ids.sort_unstable_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
}

/// Takes the block `a (m, n)` of the vocabulary's `entries` into `log_sum_exp (m)` and `picked (m)`; in `most (m)` the largest
/// logit of each row here, ∞ where its target is here, −∞ where it has none.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn log_sum_exp(
    team: &ThreadTeam,
    a: &[f32],
    n: usize,
    entries: Entries<'_>,
    targets: &[u32],
    log_sum_exp: &mut [f32],
    picked: &mut [f32],
    mut most: Option<&mut [f32]>,
) -> Result<()> {
    let m = targets.len();
    let fits = most.as_ref().is_none_or(|most| most.len() >= m);
    check("log-sum-exp", a.len() >= m * n && log_sum_exp.len() >= m && picked.len() >= m && fits, || {
        format!("{} logits, {} and {} rows for {m} × {n}", a.len(), log_sum_exp.len(), picked.len())
    })?;
    let lanes = &kernels().lanes;
    if let Some(most) = &mut most {
        most.fill(f32::NEG_INFINITY);
    }
    let most = most.map(SharedMut::new);
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
            let target = entries.place(targets[i], n);
            if let Some(j) = target {
                picked.slice(i, 1)[0] = row[j];
            }
            if let Some(most) = &most {
                most.slice(i, 1)[0] = if target.is_some() { f32::INFINITY } else { max };
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
    entries: Entries<'_>,
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
            if let Some(j) = entries.place(targets[i], n) {
                row[j] -= 1.0;
                if row[j].abs() >= eps {
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
