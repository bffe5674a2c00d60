//! What moved between tiers and inside the cache, and what stands beside the account.

use egui::{Align, Layout, Rect, RichText, ScrollArea, Ui, UiBuilder};

use crate::theme::{GRID, Palette, TEXT};
use crate::view::Places;
use crate::words;

const LINE: f32 = 5.0 * GRID;

/// Points that the lists would like.
pub fn height(data: &Places) -> f32 {
    let list = |n: usize| if n > 0 { LINE * (n + 1) as f32 + 3.0 * GRID } else { 0.0 };
    list(data.moved.len()) + list(data.beside.len())
}

/// Draws both lists.
pub fn show(ui: &mut Ui, rect: Rect, data: &Places) {
    if rect.height() < LINE {
        return;
    }
    let palette = Palette::of(ui.theme());
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
        ScrollArea::vertical().id_salt("places beside").auto_shrink([false, false]).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 0.0;
            ui.spacing_mut().interact_size.y = LINE;
            if !data.moved.is_empty() {
                let why = "Bytes that went from one place to another while it ran";
                head(ui, "Moved", why);
                for m in &data.moved {
                    let token = m.per_token.map(|b| format!("{} a token", words::bytes(b))).unwrap_or_default();
                    line(ui, &m.what, &token, &words::bytes(m.bytes), &words::exact(m.bytes), palette);
                }
            }
            if !data.beside.is_empty() {
                let why = "Not in any buffer of the run: counted and shown, but outside the memory limit";
                head(ui, "Beside the account", why);
                for (what, bytes) in &data.beside {
                    let (text, exact) = signed(*bytes);
                    line(ui, what, "", &text, &exact, palette);
                }
            }
        });
    });
}

/// Bytes and exact bytes, with a minus sign where there is one.
fn signed(bytes: i64) -> (String, String) {
    let (size, exact) = (words::bytes(bytes.unsigned_abs()), words::exact(bytes.unsigned_abs()));
    if bytes < 0 { (format!("−{size}"), format!("−{exact}")) } else { (size, exact) }
}

fn head(ui: &mut Ui, text: &str, why: &str) {
    let palette = Palette::of(ui.theme());
    ui.add_space(2.0 * GRID);
    let top = ui.cursor().min.y;
    let line = egui::Stroke::new(1.0, palette.line);
    ui.painter().hline(ui.max_rect().x_range(), top, line);
    ui.add_space(GRID);
    ui.label(RichText::new(text).size(TEXT[0]).color(palette.weak_text)).on_hover_text(why);
}

fn line(ui: &mut Ui, what: &str, middle: &str, bytes: &str, exact: &str, palette: &Palette) {
    let small = |text: &str, color| RichText::new(text).size(TEXT[0]).color(color);
    ui.horizontal(|ui| {
        ui.label(small(what, palette.text));
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            ui.label(small(bytes, palette.text)).on_hover_text(exact);
            if !middle.is_empty() {
                ui.label(small(middle, palette.weak_text));
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residual_below_zero_has_a_minus_sign() {
        assert_eq!(signed(-2048), ("−2 KiB".into(), "−2,048 B".into()));
        assert_eq!(signed(2048).0, "2 KiB");
    }
}
