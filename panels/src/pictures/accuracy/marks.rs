//! How series are told apart: by the shape of their points and the kind of their line. Colour is left to what bytes are used
//! for, so that it means one thing in every picture.

use egui::{Color32, Painter, Pos2, Shape, Stroke, pos2, vec2};

use crate::theme::Palette;

/// The look of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    shape: usize,
    /// Its colour.
    pub color: Color32,
    dashes: Option<[f32; 2]>,
}

/// The look of the series at `index`; one measured elsewhere is dashed.
pub fn mark(palette: &Palette, index: usize, elsewhere: bool) -> Mark {
    let color = if elsewhere { palette.weak_text } else { [palette.text, palette.accent][index % 2] };
    let dashes = match (elsewhere, index / 2 % 2) {
        (true, _) => Some([3.0, 4.0]),
        (false, 1) => Some([9.0, 4.0]),
        _ => None,
    };
    Mark { shape: index % 5, color, dashes }
}

impl Mark {
    /// Draws a point, hollow over `background` or filled.
    pub fn point(self, painter: &Painter, at: Pos2, radius: f32, filled: bool, color: Color32, background: Color32) {
        let fill = if filled { color } else { background };
        let stroke = Stroke::new(1.5, color);
        let corners = |n: usize, turn: f32, size: f32| {
            let corner = |i: usize| {
                let angle = std::f32::consts::TAU * (i as f32 / n as f32) + turn;
                at + vec2(angle.cos(), angle.sin()) * radius * size
            };
            Shape::convex_polygon((0..n).map(corner).collect(), fill, stroke)
        };
        let quarter = std::f32::consts::FRAC_PI_4;
        painter.add(match self.shape {
            0 => Shape::Circle(egui::epaint::CircleShape { center: at, radius, fill, stroke }),
            1 => corners(4, quarter, 1.25),
            2 => corners(3, -2.0 * quarter, 1.35),
            3 => corners(4, 0.0, 1.35),
            _ => corners(3, 2.0 * quarter, 1.35),
        });
    }

    /// Draws its line.
    pub fn line(self, painter: &Painter, points: &[Pos2], width: f32, color: Color32) {
        let stroke = Stroke::new(width, color);
        match self.dashes {
            Some([dash, gap]) => painter.extend(Shape::dashed_line(points, stroke, dash, gap)),
            None => _ = painter.add(Shape::line(points.to_vec(), stroke)),
        }
    }

    /// Draws its sample for a legend, `at` being the middle.
    pub fn sample(self, painter: &Painter, at: Pos2, color: Color32, background: Color32) {
        self.line(painter, &[pos2(at.x - 12.0, at.y), pos2(at.x + 12.0, at.y)], 1.5, color);
        self.point(painter, at, 4.0, true, color, background);
    }
}
