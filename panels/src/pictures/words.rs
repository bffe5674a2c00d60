//! Small things that several pictures say and draw alike.

use egui::{Align2, Color32, CornerRadius, FontId, Pos2, Rect, Response, RichText, Role, Sense, Ui, WidgetInfo, vec2};

use crate::theme::{CORNER, GRID, Palette, TEXT};

/// A line of text in the small size and the lesser colour.
pub fn note(ui: &mut Ui, text: impl Into<String>) -> Response {
    let palette = Palette::of(ui.theme());
    ui.label(RichText::new(text.into()).size(TEXT[0]).color(palette.weak_text))
}

/// Colour `a` moved towards `b`: 0 is `a`, 1 is `b`.
pub fn mix(a: Color32, b: Color32, share: f32) -> Color32 {
    a.lerp_to_gamma(b, share.clamp(0.0, 1.0))
}

/// The small monospaced font of axis labels and figures.
pub fn figures() -> FontId {
    FontId::monospace(TEXT[0])
}

/// The small proportional font of captions.
pub fn captions() -> FontId {
    FontId::proportional(TEXT[0])
}

/// Text painted over a ground that keeps lines from running through it; gives the rectangle it took.
pub fn plate(ui: &Ui, at: Pos2, anchor: Align2, text: &str, ink: Color32, ground: Color32) -> Rect {
    let galley = ui.painter().layout_no_wrap(text.to_owned(), captions(), ink);
    let rect = anchor.anchor_size(at, galley.size() + vec2(2.0 * GRID, 2.0));
    let inside = ui.clip_rect();
    let rect =
        rect.translate(vec2((inside.left() - rect.left()).max(0.0) + (inside.right() - rect.right()).min(0.0), 0.0));
    ui.painter().rect_filled(rect, CornerRadius::same(CORNER / 2), ground);
    ui.painter().galley(rect.min + vec2(GRID, 1.0), galley, ink);
    rect
}

/// An empty picture: what will be there, and the button that fills it. True when the button was pressed; without words for a button
/// there is none, and something is being waited for.
pub fn empty(ui: &mut Ui, rect: Rect, what: &str, button: Option<&str>, blocked: &str) -> bool {
    let palette = Palette::of(ui.theme());
    let middle =
        Rect::from_center_size(rect.center() - vec2(0.0, rect.height() * 0.06), vec2(rect.width().min(440.0), 96.0));
    let mut pressed = false;
    let layout = egui::Layout::top_down(egui::Align::Center);
    ui.scope_builder(egui::UiBuilder::new().max_rect(middle).layout(layout), |ui| {
        ui.label(RichText::new(what).color(palette.weak_text));
        ui.add_space(2.0 * GRID);
        if let Some(words) = button {
            let response = ui.add_enabled(blocked.is_empty(), primary(words, palette));
            pressed = response.on_disabled_hover_text(blocked).clicked();
            if !blocked.is_empty() {
                note(ui, blocked);
            }
        }
    });
    pressed
}

/// The one button of a picture that is meant first.
pub fn primary(words: &str, palette: &Palette) -> egui::Button<'static> {
    egui::Button::new(RichText::new(words.to_owned()).color(palette.background)).fill(palette.accent)
}

/// A row of choices of which one is taken; gives the one pressed.
pub fn one_of<T: Copy + PartialEq>(ui: &mut Ui, name: &str, now: T, choices: &[(T, String)]) -> Option<T> {
    let palette = Palette::of(ui.theme());
    let mut pressed = None;
    ui.scope(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        for (value, words) in choices {
            let taken = *value == now;
            let galley = ui.painter().layout_no_wrap(words.clone(), FontId::proportional(TEXT[1]), palette.text);
            let (rect, response) = ui.allocate_exact_size(galley.size() + vec2(6.0 * GRID, 3.0 * GRID), Sense::click());
            response.widget_info(|| WidgetInfo::selected(Role::RadioButton, true, taken, format!("{name}: {words}")));
            let ink = if taken || response.hovered() { palette.text } else { palette.weak_text };
            let at = egui::Align2::CENTER_CENTER.align_size_within_rect(galley.size(), rect);
            ui.painter().galley_with_override_text_color(at.min, galley, ink);
            let line = if taken { palette.accent } else { palette.line };
            let under =
                Rect::from_min_max(egui::pos2(rect.left(), rect.bottom() - if taken { 2.0 } else { 1.0 }), rect.max);
            ui.painter().rect_filled(under, 0.0, line);
            focus_ring(ui, &response);
            if response.clicked() && !taken {
                pressed = Some(*value);
            }
        }
    });
    pressed
}

/// The outline of what the keyboard is on.
pub fn focus_ring(ui: &Ui, response: &Response) {
    if response.has_focus() {
        let stroke = egui::Stroke::new(2.0, Palette::of(ui.theme()).accent);
        ui.painter().rect_stroke(response.rect, CornerRadius::same(CORNER), stroke, egui::StrokeKind::Inside);
    }
}

/// Text as a TOML basic string, quotes included.
pub fn toml(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text in quotes, with what cannot be seen written out, for speaking about a token.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("“");
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('”');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_toml_string() {
        assert_eq!(toml("a \"b\"\\\n\t\u{7}é"), "\"a \\\"b\\\"\\\\\\n\\t\\u0007é\"");
        assert_eq!(quoted("\n x"), "“\\n x”");
    }
}
