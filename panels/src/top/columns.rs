//! The three columns that the rows of the strip share.

use egui::{Rect, pos2};

use crate::theme::GRID;

/// Names at the left, bars in the middle, figures at the right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// What a row is.
    pub label: Rect,
    /// Slider and bars.
    pub bars: Rect,
    /// What they come to.
    pub readout: Rect,
}

impl Columns {
    /// Divides a rectangle: the figures get what their words need, the bars all that is left.
    pub(crate) fn of(rect: Rect) -> Self {
        let readout = (rect.width() * 0.26).clamp(280.0, 400.0);
        let (a, b) = (rect.left() + 104.0, rect.right() - readout);
        let part = |from: f32, to: f32| Rect::from_min_max(pos2(from, rect.top()), pos2(to.max(from), rect.bottom()));
        Self { label: part(rect.left(), a - 2.0 * GRID), bars: part(a, b - 4.0 * GRID), readout: part(b, rect.right()) }
    }
}
