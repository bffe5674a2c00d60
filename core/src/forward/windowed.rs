//! Layers with a window: they hold the rows that the next token will see and no others.
//!
//! For one token the oldest row goes before the newcomer comes. A batch passes, with the window before it, through a staging
//! layer that takes the layer's place for a moment. Tiles lie where they would if no row had left: rows that are gone are
//! counted on as empty, back to the last whole segment, so that sums are made in one order and prefill, extend and decode
//! give the same bits, whatever the batch.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kv::cache::LayerCache;
use crate::ledger::Ledger;
use crate::ops::cpu::SEGMENT;

/// Rows to be counted on as empty in a layer with a window that holds `held` rows when the next token stands at `position`.
pub(super) fn gone(window: Option<usize>, position: usize, held: usize) -> usize {
    window.map_or(0, |_| position.saturating_sub(held) % SEGMENT)
}

/// Of `n` rows from `start` on, of which the first `gone` of all are empty: how many are, and the cache row of the first that
/// is not.
pub(super) fn past(gone: usize, start: usize, n: usize) -> (usize, usize) {
    (gone.saturating_sub(start).min(n), start.saturating_sub(gone))
}

/// Makes room in a layer that holds `window` rows for `n` more. Where they pass through one of `stages`, it takes the layer's
/// place until [`leave`], and its number is returned.
///
/// # Errors
/// [`Error::Internal`] where no stage is shaped like the layer.
pub(super) fn enter(
    layer: &mut LayerCache,
    window: usize,
    n: usize,
    stages: &mut [LayerCache],
    ledger: &Ledger,
) -> Result<Option<usize>> {
    let rows = layer.max_rows();
    if rows + n <= window {
        return Ok(None);
    }
    let mut moved = 0;
    if n == 1 {
        for h in 0..layer.heads() {
            moved += layer.drop_first(h, rows + 1 - window);
        }
        ledger.moved("cache shift", moved);
        return Ok(None);
    }
    let fits = |s: &LayerCache| s.layout() == layer.layout() && s.heads() == layer.heads();
    let found = stages.iter().position(fits);
    let at = found.ok_or_else(|| Error::Internal("a batch outgrows a window, and nothing stages it".into()))?;
    let stage = &mut stages[at];
    stage.clear(true);
    for h in 0..layer.heads() {
        moved += (0..rows).map(|row| stage.append_from(h, layer, row)).sum::<u64>();
    }
    ledger.moved("cache shift", moved);
    std::mem::swap(stage, layer);
    Ok(Some(at))
}

/// Puts the layer that [`enter`] took away back in its place, with the last `window` rows of what passed.
///
/// # Errors
/// Over budget.
pub(super) fn leave(layer: &mut LayerCache, window: usize, stage: &mut LayerCache, ledger: &Arc<Ledger>) -> Result<()> {
    std::mem::swap(stage, layer);
    layer.clear(true);
    for h in 0..layer.heads() {
        keep_last(layer, h, window, stage, ledger)?;
    }
    Ok(())
}

/// Appends the last `window` rows of `stage`'s head `h` to `layer`.
///
/// # Errors
/// Over budget.
pub(super) fn keep_last(
    layer: &mut LayerCache,
    h: usize,
    window: usize,
    stage: &LayerCache,
    ledger: &Arc<Ledger>,
) -> Result<()> {
    let rows = stage.rows(h);
    layer.ensure(h, rows.min(window))?;
    let moved = (rows.saturating_sub(window)..rows).map(|row| layer.append_from(h, stage, row)).sum();
    ledger.moved("cache shift", moved);
    Ok(())
}

/// Rows of `stride` elements without the first `gone` of each, moved together.
pub(super) fn without<T: Copy>(rows: &mut [T], stride: usize, gone: usize) -> &[T] {
    if gone == 0 || stride == 0 {
        return rows;
    }
    let n = rows.len() / stride;
    for i in 0..n {
        rows.copy_within(i * stride + gone..(i + 1) * stride, i * (stride - gone));
    }
    &rows[..n * (stride - gone)]
}
