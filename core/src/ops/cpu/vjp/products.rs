//! The two products of a linear's backward: `dx = dy · W` and `dW = dyᵀ · x`.
//!
//! Both run on the `mul` kernel, which keeps a tile of the output in registers and adds one rank after the other, so the
//! cut into blocks does not change a bit. Its right-hand side is packed into micro-panels of [`STRIP`] columns that fit the
//! first-level cache; weights are decoded on the way into them, so a quantized matrix is never whole in f32.

use super::check;
use crate::blocks::BlockType;
use crate::ops::cpu::{Mat, kernels};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Columns of a micro-panel.
const STRIP: usize = 64;
/// Rows of a micro-panel: with [`STRIP`] columns 16 KiB.
const DEPTH: usize = 64;
/// Columns of a task: whole blocks of every type.
const WIDE: usize = 256;
/// Output rows of a task of `dw`.
const TALL: usize = 96;
/// Tasks a worker should get, to even out.
const TASKS_PER_WORKER: usize = 6;
/// Rows of a task of `dx`: enough for decoding to stay a small share, few enough to stay under 10 ms.
const ROWS: std::ops::RangeInclusive<usize> = 96..=516;

/// Elements of scratch that [`linear_dx`] needs: a micro-panel for each strip, and a decoded row.
pub const fn dx_scratch(threads: usize) -> usize {
    threads * (DEPTH * WIDE + WIDE) + 16
}

/// Elements of scratch that [`linear_dw`] needs.
pub const fn dw_scratch(threads: usize) -> usize {
    threads * DEPTH * WIDE + 16
}

/// Rows of a task of [`linear_dx`].
fn dx_batch(threads: usize, m: usize, strips: usize) -> usize {
    let wanted = (TASKS_PER_WORKER * threads).div_ceil(strips);
    m.div_ceil(wanted).clamp(*ROWS.start(), *ROWS.end()).next_multiple_of(6).min(m.next_multiple_of(6))
}

/// Tasks of [`linear_dx`] with `m` rows and `cols` columns.
pub fn dx_tasks(threads: usize, m: usize, cols: usize) -> usize {
    let strips = cols.div_ceil(WIDE).max(1);
    strips * m.div_ceil(dx_batch(threads, m, strips).max(1))
}

/// Output rows of a task of [`linear_dw`]: taller tasks pack less, shorter ones share out better.
fn dw_tall(threads: usize, rows: usize, strips: usize) -> usize {
    TALL * (rows * strips / (TALL * TASKS_PER_WORKER * threads)).clamp(1, 4)
}

/// Tasks of [`linear_dw`] of a matrix `(rows, cols)`.
pub fn dw_tasks(threads: usize, rows: usize, cols: usize) -> usize {
    let strips = cols.div_ceil(WIDE);
    rows.div_ceil(dw_tall(threads, rows, strips)) * strips
}

/// `dx (m, cols) (+)= dy (m, rows) · w (rows, cols)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ or scratch is short.
pub fn linear_dx(
    team: &ThreadTeam,
    dy: &[f32],
    m: usize,
    w: Mat<'_>,
    dx: &mut [f32],
    add: bool,
    scratch: &mut [f32],
) -> Result<()> {
    let (rows, cols) = (w.rows(), w.cols());
    check("linear dx", dy.len() >= m * rows && dx.len() >= m * cols, || {
        format!("{} and {} elements for {m} rows of {rows} → {cols}", dy.len(), dx.len())
    })?;
    check("linear dx", scratch.len() >= dx_scratch(team.threads()), || format!("{} of scratch", scratch.len()))?;
    if m == 0 || rows == 0 || cols == 0 {
        return Ok(());
    }
    let kernels = kernels();
    let strips = cols.div_ceil(WIDE);
    let batch = dx_batch(team.threads(), m, strips);
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let (scratch, dx) = (SharedMut::new(&mut scratch[aligned..]), SharedMut::new(dx));
    let own = DEPTH * WIDE + WIDE;
    team.run(strips * m.div_ceil(batch), &|task, worker| {
        let (first, col) = (task / strips * batch, task % strips * WIDE);
        let (n, wide) = (batch.min(m - first), WIDE.min(cols - col));
        // SAFETY: a worker runs one task at a time, so its scratch is its own.
        let (panel, line) = unsafe { scratch.slice(worker * own, own) }.split_at_mut(DEPTH * WIDE);
        for row in (0..rows).step_by(DEPTH) {
            if team.cancelled() {
                return;
            }
            let depth = DEPTH.min(rows - row);
            for p in 0..depth {
                w.decode_with(kernels, row + p, col, &mut line[..wide]);
                for (s, piece) in line[..wide].chunks(STRIP).enumerate() {
                    panel[(s * DEPTH + p) * STRIP..][..piece.len()].copy_from_slice(piece);
                }
            }
            for (s, start) in (0..wide).step_by(STRIP).enumerate() {
                let width = STRIP.min(wide - start);
                let c = dx.at(first * cols + col + start);
                dx.at((first + n - 1) * cols + col + start + width - 1);
                // SAFETY: rows `first..first + n` of `dy` hold `rows` elements each; the panel holds `depth` rows of STRIP;
                // the output's columns are this task's.
                unsafe {
                    let a = dy.as_ptr().add(first * rows + row);
                    let b = panel.as_ptr().add(s * DEPTH * STRIP);
                    (kernels.mul)(a, rows, 1, n, b, STRIP, width, depth, c, cols, add || row > 0);
                }
            }
        }
    })?;
    ended(team)
}

/// `dw (rows, cols) (+)= dyᵀ · x` with `dy (m, rows)` and `x (m, cols)`, ranks added in order of `m`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ or scratch is short.
pub fn linear_dw(
    team: &ThreadTeam,
    dy: &[f32],
    x: &[f32],
    m: usize,
    rows: usize,
    cols: usize,
    dw: &mut [f32],
    add: bool,
    scratch: &mut [f32],
) -> Result<()> {
    check("linear dw", dy.len() >= m * rows && x.len() >= m * cols && dw.len() >= rows * cols, || {
        format!("{}, {} and {} elements for {m} rows, {rows} × {cols}", dy.len(), x.len(), dw.len())
    })?;
    check("linear dw", scratch.len() >= dw_scratch(team.threads()), || format!("{} of scratch", scratch.len()))?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    if m == 0 {
        if !add {
            dw[..rows * cols].fill(0.0);
        }
        return Ok(());
    }
    let kernels = kernels();
    let strips = cols.div_ceil(WIDE);
    let tall = dw_tall(team.threads(), rows, strips);
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let (scratch, dw) = (SharedMut::new(&mut scratch[aligned..]), SharedMut::new(dw));
    team.run(rows.div_ceil(tall) * strips, &|task, worker| {
        let (first, col) = (task / strips * tall, task % strips * WIDE);
        let (n, wide) = (tall.min(rows - first), WIDE.min(cols - col));
        // SAFETY: a worker runs one task at a time, so its scratch is its own.
        let panel = unsafe { scratch.slice(worker * DEPTH * WIDE, DEPTH * WIDE) };
        for t in (0..m).step_by(DEPTH) {
            if team.cancelled() {
                return;
            }
            let depth = DEPTH.min(m - t);
            for p in 0..depth {
                for (s, piece) in x[(t + p) * cols + col..][..wide].chunks(STRIP).enumerate() {
                    panel[(s * DEPTH + p) * STRIP..][..piece.len()].copy_from_slice(piece);
                }
            }
            for (s, start) in (0..wide).step_by(STRIP).enumerate() {
                let width = STRIP.min(wide - start);
                let c = dw.at(first * cols + col + start);
                dw.at((first + n - 1) * cols + col + start + width - 1);
                // SAFETY: rows `t..t + depth` of `dy` hold the columns `first..first + n`; the rest as in `linear_dx`.
                unsafe {
                    let a = dy.as_ptr().add(t * rows + first);
                    let b = panel.as_ptr().add(s * DEPTH * STRIP);
                    (kernels.mul)(a, 1, rows, n, b, STRIP, width, depth, c, cols, add || t > 0);
                }
            }
        }
    })?;
    ended(team)
}

/// A task that stopped half-way ended the region without an error of its own.
pub(super) fn ended(team: &ThreadTeam) -> Result<()> {
    if team.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Whether `ty` can be cut at multiples of [`WIDE`] columns: every block type can.
const _: () = {
    let mut i = 0;
    while i < BlockType::ALL.len() {
        assert!(WIDE.is_multiple_of(BlockType::ALL[i].elems()));
        i += 1;
    }
};
