//! How series are told apart: by the shape of their points and the kind of their line. Colour is left to what bytes are used
//! for, so that it means one thing in every picture.

use egui::{Color32, Painter, Pos2, Shape, Stroke, pos2, vec2};

use crate::theme::Palette;

/// The look of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    shape: usize,
    /// Colour of its line and its points.
    pub color: Color32,
    /// Length of its line's dashes in points; `None` for a solid line.
    pub dash: Option<f32>,
}

/// The look of the series at `index`; one measured elsewhere is dashed.
pub fn mark(palette: &Palette, index: usize, elsewhere: bool) -> Mark {
    let color = if elsewhere { palette.weak_text } else { [palette.text, palette.accent][index % 2] };
    let dash = match (elsewhere, index / 2 % 2) {
        (true, _) => Some(4.0),
        (false, 1) => Some(9.0),
        _ => None,
    };
    Mark { shape: index % 5, color, dash }
}

impl Mark {
    /// A point of `radius` screen points with its inside and its outline.
    pub fn shape(self, at: Pos2, radius: f32, fill: Color32, color: Color32) -> Shape {
        let stroke = Stroke::new(1.5, color);
        let corners = |n: usize, turn: f32, size: f32| {
            let corner = |i: usize| {
                let angle = std::f32::consts::TAU * (i as f32 / n as f32) + turn;
                at + vec2(angle.cos(), angle.sin()) * radius * size
            };
            Shape::convex_polygon((0..n).map(corner).collect(), fill, stroke)
        };
        let quarter = std::f32::consts::FRAC_PI_4;
        match self.shape {
            0 => Shape::Circle(egui::epaint::CircleShape { center: at, radius, fill, stroke }),
            1 => corners(4, quarter, 1.25),
            2 => corners(3, -2.0 * quarter, 1.35),
            3 => corners(4, 0.0, 1.35),
            _ => corners(3, 2.0 * quarter, 1.35),
        }
    }

    /// Paints its sample for a legend, `at` being the middle.
    pub fn sample(self, painter: &Painter, at: Pos2, color: Color32) {
        let (ends, stroke) = ([pos2(at.x - 12.0, at.y), pos2(at.x + 12.0, at.y)], Stroke::new(1.5, color));
        match self.dash {
            // As egui_plot has it: gaps are the smaller part of a golden section.
            Some(dash) => {
                painter.extend(Shape::dashed_line(&ends, stroke, dash, dash * (std::f32::consts::GOLDEN_RATIO - 1.0)))
            }
            None => _ = painter.line_segment(ends, stroke),
        }
        painter.add(self.shape(at, 4.0, color, color));
    }
}
