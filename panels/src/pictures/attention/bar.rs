//! The colour bar: what a colour stands for, with the range beside it.

use egui::epaint::Mesh;
use egui::{Align2, FontId, Painter, Rect, Shape, Theme, pos2, vec2};

use super::color::{Code, Scale, dim, ends, place, ramp};
use crate::theme::{GRID, Palette, TEXT};
use crate::view::Kept;
use crate::words;

/// Points that the bar and its words take at the right.
pub const WIDTH: f32 = 22.0 * GRID;

/// Height of a line under the bar.
const LINE: f32 = 4.0 * GRID;

/// What is said of quantized keys and values; nothing of others.
pub fn notes(kept: Option<&[Kept; 2]>) -> Vec<String> {
    let Some([key, value]) = kept.filter(|kept| kept.iter().any(Kept::quantized)) else { return Vec::new() };
    let mut out = vec![format!("keys {}", key.name), format!("values {}", value.name)];
    if key.quantized() {
        out.extend(["fewer bits,".into(), "dimmer".into()]);
    }
    out
}

/// Draws the bar in `rect`, and under it how keys and values are kept where they are quantized.
pub fn show(painter: &Painter, rect: Rect, theme: Theme, scale: Scale, code: Code, kept: Option<&[Kept; 2]>) {
    let palette = Palette::of(theme);
    let font = FontId::proportional(TEXT[0]);
    let title = if matches!(code, Code::Share) { "of largest" } else { "weight" };
    let left = rect.left() + 3.0 * GRID;
    painter.text(pos2(left, rect.top()), Align2::LEFT_TOP, title, font.clone(), palette.weak_text);
    let top = rect.top() + 6.0 * GRID;
    let notes = notes(kept);
    let under = if notes.is_empty() { 0.0 } else { notes.len() as f32 * LINE + 2.0 * GRID };
    let room = rect.bottom() - top - 2.0 * GRID - under;
    let bar = Rect::from_min_size(pos2(left, top), vec2(3.0 * GRID, room.clamp(1.0, 160.0)));
    let colors = ramp(theme);
    let mut mesh = Mesh::default();
    for i in 0..=32_u32 {
        let y = bar.bottom() - bar.height() * i as f32 / 32.0;
        let color = colors[(i * 255 / 32) as usize];
        mesh.colored_vertex(pos2(bar.left(), y), color);
        mesh.colored_vertex(pos2(bar.right(), y), color);
        if i > 0 {
            mesh.add_triangle(2 * i - 2, 2 * i - 1, 2 * i);
            mesh.add_triangle(2 * i - 1, 2 * i, 2 * i + 1);
        }
    }
    painter.add(Shape::mesh(mesh));
    if let Some([key, _]) = kept.filter(|_| !notes.is_empty()) {
        painter.rect_filled(bar, 0.0, palette.background.gamma_multiply(dim(key.bits)));
    }
    for (i, note) in notes.iter().enumerate() {
        let at = pos2(left, bar.bottom() + 4.0 * GRID + i as f32 * LINE);
        painter.text(at, Align2::LEFT_CENTER, note, font.clone(), palette.weak_text);
    }
    let range = ends(scale, code);
    for (i, &tick) in ticks(scale, range).iter().enumerate() {
        let y = bar.bottom() - bar.height() * place(tick, scale, range);
        painter.hline(bar.right()..=bar.right() + GRID, y, (1.0, palette.line));
        let text = if code == Code::Share { words::percent(f64::from(tick)) } else { format!("{tick}") };
        let text = if i == 0 && scale == Scale::Log { format!("≤ {text}") } else { text };
        painter.text(pos2(bar.right() + 6.0, y), Align2::LEFT_CENTER, text, font.clone(), palette.weak_text);
    }
}

fn ticks(scale: Scale, (low, high): (f32, f32)) -> Vec<f32> {
    match scale {
        Scale::Linear => vec![low, (low + high) / 2.0, high],
        Scale::Log => {
            let mut ticks = vec![low];
            let first = (low * 1.5).log10().ceil() as i32;
            ticks.extend((first..).map(|power| 10f32.powi(power)).take_while(|tick| *tick < high * 0.99));
            ticks.push(high);
            ticks
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_always_written_at_both_ends() {
        for scale in [Scale::Log, Scale::Linear] {
            for code in [Code::Share, Code::Root { top: 0.2 }, Code::Root { top: 1.0 }] {
                let range = ends(scale, code);
                let ticks = ticks(scale, range);
                assert_eq!((ticks[0], *ticks.last().unwrap()), range);
                assert!(ticks.is_sorted() && ticks.len() <= 6, "{ticks:?}");
            }
        }
    }
}
