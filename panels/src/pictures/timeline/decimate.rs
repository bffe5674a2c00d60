//! A long series brought down to pixels without losing an extreme.
//!
//! The series is a step function: what is held from one moment holds until the next. Each pixel column knows the moment that holds at
//! its left edge, the last that begins in it, and those of the least and the greatest total among all that hold in it (after the four
//! values of M4, Jugel et al. 2014, for steps instead of lines). A column between two changes has one moment four times.

use std::ops::Range;

use crate::view::{Moment, Tier};

/// Times and totals of a series, kept between frames and extended as moments come.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Seconds, never falling.
    pub seconds: Vec<f64>,
    /// Bytes of what is shown.
    pub bytes: Vec<u64>,
    /// Categories that the tier ever held, hidden or not.
    pub present: [bool; 9],
    /// Tiers that ever held anything.
    pub tiers: [bool; 3],
    peak: Option<usize>,
    /// Moments of the least and of the greatest total of each whole block of [`BLOCK`] moments, then of as many blocks, and so on.
    blocks: Vec<Vec<(usize, usize)>>,
    /// Grows with every change.
    pub version: u64,
    /// The tier and categories they are of, and the first and last moment they were made from.
    of: Option<(Tier, [bool; 9], Moment, Moment)>,
}

/// Moments of a block, and blocks of the next larger.
const BLOCK: usize = 16;

/// Bytes of a moment that are shown: those of a tier, without what is hidden.
pub fn shown(moment: &Moment, tier: Tier, hidden: &[bool; 9]) -> u64 {
    let held = moment.held[tier as usize].iter().zip(hidden);
    held.filter(|(_, hidden)| !**hidden).fold(0, |sum, (bytes, _)| sum.saturating_add(*bytes))
}

impl Totals {
    /// Brings them up to the moments: what was there before is kept when it still is.
    pub fn update(&mut self, moments: &[Moment], tier: Tier, hidden: &[bool; 9]) {
        let known = self.bytes.len();
        let same = self.of.as_ref().is_some_and(|(t, h, first, last)| {
            *t == tier
                && h == hidden
                && known > 0
                && moments.first() == Some(first)
                && moments.get(known - 1) == Some(last)
        });
        if !same {
            *self = Self { version: self.version + 1, ..Self::default() };
        }
        let mut now = self.seconds.last().copied().unwrap_or(0.0);
        for moment in &moments[self.bytes.len()..] {
            // A clock that steps back, or says nothing, must not turn the picture around.
            now = if moment.seconds.is_finite() { now.max(moment.seconds) } else { now };
            self.seconds.push(now);
            let bytes = shown(moment, tier, hidden);
            if self.peak.is_none_or(|peak| bytes > self.bytes[peak]) {
                self.peak = Some(self.bytes.len());
            }
            self.bytes.push(bytes);
            self.block();
            for (seen, held) in self.tiers.iter_mut().zip(&moment.held) {
                *seen |= held.iter().any(|bytes| *bytes > 0);
            }
            for (seen, bytes) in self.present.iter_mut().zip(&moment.held[tier as usize]) {
                *seen |= *bytes > 0;
            }
        }
        self.version += u64::from(self.bytes.len() != known);
        self.of = match (moments.first(), moments.last()) {
            (Some(first), Some(last)) => Some((tier, *hidden, *first, *last)),
            _ => None,
        };
    }

    /// Closes the blocks that the newest moment fills.
    fn block(&mut self) {
        let (mut filled, mut level) = (self.bytes.len(), 0);
        while filled.is_multiple_of(BLOCK) {
            let to = filled;
            filled /= BLOCK;
            let whole = match level {
                0 => (to - BLOCK..to).map(|i| (i, i)).reduce(|a, b| self.both(a, b)),
                _ => self.blocks[level - 1][to - BLOCK..to].iter().copied().reduce(|a, b| self.both(a, b)),
            };
            if self.blocks.len() == level {
                self.blocks.push(Vec::new());
            }
            self.blocks[level].extend(whole);
            level += 1;
        }
    }

    /// Of two pairs of least and greatest the least and the greatest; the earlier of equals, `a` being the earlier.
    fn both(&self, a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
        let least = if self.bytes[b.0] < self.bytes[a.0] { b.0 } else { a.0 };
        let most = if self.bytes[b.1] > self.bytes[a.1] { b.1 } else { a.1 };
        (least, most)
    }

    /// As if each of `moments` came after `first`: those of the least and the greatest total, in about as many looks as the number of
    /// moments has digits.
    fn extremes(&self, first: usize, moments: Range<usize>) -> (usize, usize) {
        let (mut out, mut i) = ((first, first), moments.start);
        while i < moments.end {
            let (mut step, mut found) = (1, (i, i));
            for level in &self.blocks {
                let wide = step * BLOCK;
                if !i.is_multiple_of(wide) || i + wide > moments.end {
                    break;
                }
                (step, found) = (wide, level[i / wide]);
            }
            out = self.both(out, found);
            i += step;
        }
        out
    }

    /// The moment that holds at a time: the last that is not later; `None` before the first.
    pub fn at(&self, seconds: f64) -> Option<usize> {
        self.seconds.partition_point(|s| *s <= seconds).checked_sub(1)
    }

    /// The moment of the greatest total; the first of equals.
    pub fn peak(&self) -> Option<usize> {
        self.peak
    }
}

/// What holds in a stretch of pixel columns: moments by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The columns it is true of, from the left edge of the window.
    pub from: usize,
    /// One past the last.
    pub to: usize,
    /// Holds at the left edge of the first column (or begins in it, when nothing was held before).
    pub first: usize,
    /// Holds at the right edge.
    pub last: usize,
    /// Of the least total.
    pub least: usize,
    /// Of the greatest total.
    pub most: usize,
}

/// The columns of `window` (seconds), `columns` wide. Left to right, without overlap, at most `columns` of them; a stretch in which
/// one moment holds is one. A column has every moment that begins in it (even when another follows at once) and the one that held
/// until then. Nothing is held before the first moment; the last holds for ever.
pub fn columns(totals: &Totals, window: Range<f64>, columns: usize) -> Vec<Column> {
    let (span, n) = (window.end - window.start, totals.bytes.len());
    let mut out: Vec<Column> = Vec::with_capacity(columns.min(2 * n + 1));
    if columns == 0 || n == 0 || !(span.is_finite() && span > 0.0) {
        return out;
    }
    let place = |i: usize| (totals.seconds[i] - window.start) / span * columns as f64;
    let column = |i: usize| (place(i) as usize).min(columns - 1);
    let end = totals.seconds.partition_point(|s| *s <= window.end);
    let mut next = totals.seconds.partition_point(|s| *s < window.start);
    let mut c = 0;
    while c < columns {
        let (begin, held) = (next, next.checked_sub(1));
        // Moments never go back in time, so those of a column are found by halving.
        let (mut known, mut step) = (next, 1);
        while known < end && column(known) == c {
            next = known + 1;
            known += step;
            step *= 2;
        }
        let (mut low, mut high) = (next, known.min(end));
        while begin < next && low < high {
            let middle = low + (high - low) / 2;
            if column(middle) == c { low = middle + 1 } else { high = middle }
        }
        next = low;
        if begin == next {
            let to = if next < end { column(next) } else { columns };
            if let Some(i) = held {
                out.push(Column { from: c, to, first: i, last: i, least: i, most: i });
            }
            c = to;
            continue;
        }
        // Whatever held before does not reach into this column when the first change is on its very edge.
        let first = held.filter(|_| place(begin) > c as f64).unwrap_or(begin);
        let (least, most) = totals.extremes(first, begin..next);
        out.push(Column { from: c, to: c + 1, first, last: next - 1, least, most });
        c += 1;
    }
    out
}

/// How many of `(seconds, count)` fall into each of `columns` of the window; those at its end count as the last's.
pub fn counts(events: &[(f64, u64)], window: Range<f64>, columns: usize) -> Vec<u64> {
    let mut out = vec![0u64; columns];
    let span = window.end - window.start;
    if columns == 0 || !(span.is_finite() && span > 0.0) {
        return out;
    }
    for (seconds, count) in events {
        if (window.start..=window.end).contains(seconds) {
            let at = ((seconds - window.start) / span * columns as f64) as usize;
            let slot = &mut out[at.min(columns - 1)];
            *slot = slot.saturating_add(*count);
        }
    }
    out
}

#[cfg(test)]
#[path = "decimate_tests.rs"]
mod tests;
