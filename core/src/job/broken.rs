//! Where a pass first gave what is no number, or what no norm can take.

use crate::error::Diverged;
use crate::eval::metrics::{self, SQUARES};
use crate::forward::cpu::PassObserver;

/// Sums that run side by side, so that they are as fast as reading.
const LANES: usize = 16;
/// Rows of a pass that are told apart: as many as there may be sequences.
const ROWS: usize = 1024;

/// The first layers after which rows of the residual stream were broken: a value that is no number, or finite values whose squares
/// overflow an f32. A norm makes zeros of those (1 / √∞), and what is computed from zeros looks like numbers. Told by machines that
/// tell of the stream, and seen between layers: norms within a layer are not looked into.
#[derive(Debug, Default)]
pub(super) struct FirstBroken {
    hidden: usize,
    /// Of the whole pass.
    pub(super) first: Option<usize>,
    rows: Vec<Option<usize>>,
}

impl FirstBroken {
    /// Of a stream of rows of `hidden` elements.
    pub(super) fn new(hidden: usize) -> Self {
        Self { hidden, ..Self::default() }
    }

    /// Of row `i` of a pass that was computed at once, such as the token of sequence `i`.
    pub(super) fn of_row(&self, i: usize) -> Option<usize> {
        self.rows.get(i).copied().flatten()
    }
}

/// Σ x² in f32, as norms compute it up to the order of their sums: infinite or NaN where `x` has such a value, or they overflow.
fn squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v * v);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>()
}

impl PassObserver for FirstBroken {
    fn residual(&mut self, layer: usize, x: &[f32]) {
        for (i, row) in x.chunks_exact(self.hidden.max(1)).enumerate() {
            if squares(row).is_finite() {
                continue;
            }
            self.first.get_or_insert(layer);
            if i < ROWS {
                self.rows.resize(self.rows.len().max(i + 1), None);
                self.rows[i].get_or_insert(layer);
            }
        }
    }
}

/// Where the text ends when the logits `(vocab)` of its token number `token` are no distribution, or come of a stream that was
/// broken after `layer`.
pub(super) fn at(logits: &[f32], token: usize, layer: Option<usize>) -> Option<Diverged> {
    let logits = metrics::broken(logits).map(|(_, value)| ("the logits", value));
    let (of, value) = logits.or(layer.map(|_| (SQUARES, f32::INFINITY)))?;
    Some(Diverged { token: Some(token), layer, ..Diverged::new(of, f64::from(value)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_values_whose_squares_overflow_are_broken_in_their_own_row_and_first_layer() {
        let good = vec![1e18f32; 37];
        for (value, at) in [(2e19f32, 36), (-1.9e19, 3), (f32::NAN, 0), (f32::NEG_INFINITY, 20)] {
            let mut bad = good.clone();
            bad[at] = value;
            let mut seen = FirstBroken::new(37);
            seen.residual(0, &[&good[..], &good, &good].concat());
            assert_eq!((seen.first, seen.of_row(1)), (None, None));
            seen.residual(1, &[&good[..], &bad, &good].concat());
            seen.residual(2, &[&bad[..], &bad, &good].concat());
            assert_eq!(seen.first, Some(1), "{value}");
            assert_eq!([0, 1, 2, 9].map(|i| seen.of_row(i)), [Some(2), Some(1), None, None], "{value}");
        }
        // Many values, each small enough: 64 squares of 3e18 are more than an f32 holds.
        let mut seen = FirstBroken::new(64);
        seen.residual(4, &[3e18; 64]);
        assert_eq!(seen.first, Some(4));
        let said = at(&[0.0; 8], 7, seen.first).map(|place| place.to_string());
        assert_eq!(said.as_deref(), Some("inf in the squares of the residual stream at token 7, first in layer 4"));
        assert!(at(&[0.0; 8], 7, None).is_none());
        assert!(at(&[f32::NAN; 8], 7, Some(4)).is_some_and(|place| place.of == "the logits"));
    }
}
