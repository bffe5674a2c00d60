//! Text: one element for each run of one format in one row.

use std::fmt::Write as _;

use egui::epaint::TextShape;
use egui::text::TextFormat;
use egui::{Align2, Color32, FontFamily, Pos2, Rect, Stroke, Vec2, pos2};

use super::{Writer, escape, fill, num};

/// Consecutive glyphs of one row and format.
struct Run<'a> {
    format: &'a TextFormat,
    text: String,
    /// From left to right, relative to the row.
    x: (f32, f32),
    baseline: f32,
}

impl Writer<'_> {
    pub(super) fn text(&mut self, shape: &TextShape) {
        let galley = &shape.galley;
        let color_of = |color: Color32| {
            let color = if color == Color32::PLACEHOLDER { shape.fallback_color } else { color };
            shape.override_text_color.unwrap_or(color).gamma_multiply(shape.opacity_factor)
        };
        let mut bounds = galley.job.sections.iter().map(|s| (s.byte_range.end.0, &s.format)).peekable();
        let mut chars = galley.job.text.char_indices();
        let turned = shape.angle != 0.0;
        if turned {
            let _ = writeln!(self.out, "<g{}>", self.turn(shape.angle, shape.pos));
        }
        for placed in &galley.rows {
            let origin = shape.pos + placed.pos.to_vec2();
            let mut runs: Vec<Run<'_>> = Vec::new();
            for glyph in &placed.row.glyphs {
                // An elided row ends in a glyph that is not in the text; it belongs to the last section.
                let at = chars.next().map_or(usize::MAX, |(at, _)| at);
                while bounds.peek().is_some_and(|(end, _)| *end <= at) && bounds.len() > 1 {
                    bounds.next();
                }
                let Some((_, format)) = bounds.peek() else { continue };
                match runs.last_mut() {
                    Some(run) if std::ptr::eq(run.format, *format) => {
                        run.text.push(glyph.chr);
                        run.x.1 = glyph.max_x();
                    }
                    _ => runs.push(Run {
                        format,
                        text: glyph.chr.to_string(),
                        x: (glyph.pos.x, glyph.max_x()),
                        baseline: glyph.pos.y,
                    }),
                }
            }
            if placed.ends_with_newline {
                chars.next();
            }
            for run in &runs {
                self.run(run, origin, placed.row.size, &color_of);
            }
            if !shape.underline.is_empty() && !runs.is_empty() {
                let y = origin.y + placed.row.size.y;
                self.rule(pos2(origin.x, y), placed.row.size.x, shape.underline);
            }
        }
        if turned {
            self.out.push_str("</g>\n");
        }
    }

    fn rule(&mut self, from: Pos2, length: f32, stroke: Stroke) {
        let (x, y) = self.at(from);
        let _ = writeln!(
            self.out,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"{}/>",
            num(from.x + length - self.origin.x),
            super::stroke(stroke)
        );
    }

    fn run(&mut self, run: &Run<'_>, origin: Pos2, row: Vec2, color_of: &dyn Fn(Color32) -> Color32) {
        let length = run.x.1 - run.x.0;
        if run.format.background != Color32::TRANSPARENT {
            let rect = Rect::from_min_size(origin + Vec2::new(run.x.0, 0.0), Vec2::new(length, row.y));
            let rect = rect.expand(run.format.expand_bg);
            let _ = writeln!(self.out, "<rect {}{}/>", self.area(rect), fill(run.format.background));
        }
        // What is blank at the ends needs no ink, and would be squeezed.
        if !run.text.trim().is_empty() {
            let (x, y) = self.at(origin + Vec2::new(run.x.0, run.baseline));
            let family = match &run.format.font_id.family {
                FontFamily::Monospace => "monospace",
                FontFamily::Proportional | FontFamily::Name(_) => "sans-serif",
            };
            let italic = if run.format.italics { " font-style=\"italic\"" } else { "" };
            let _ = writeln!(
                self.out,
                "<text x=\"{x}\" y=\"{y}\" font-family=\"{family}\" font-size=\"{}\"{italic} textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\"{}>{}</text>",
                num(run.format.font_id.size),
                num(length),
                fill(color_of(run.format.color)),
                escape(&run.text)
            );
        }
        let lines = [(run.format.underline, Align2::LEFT_BOTTOM), (run.format.strikethrough, Align2::LEFT_CENTER)];
        for (stroke, align) in lines {
            if !stroke.is_empty() {
                let rect = Rect::from_min_size(origin, row);
                let y = align.pos_in_rect(&rect).y;
                self.rule(pos2(origin.x + run.x.0, y), length, stroke);
            }
        }
    }
}
