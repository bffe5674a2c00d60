//! A picture with nothing in it yet: what will be there, and the button that fills it.

use egui::{Align2, FontId, Rect, Ui, vec2};

use crate::theme::{GRID, Palette, TEXT};

/// Draws what will be there in the middle of `rect`, and a button; true when it was pressed.
pub fn show(ui: &mut Ui, rect: Rect, what: &str, why: &str, button: Option<&str>) -> bool {
    let palette = Palette::of(ui.theme());
    let painter = ui.painter().clone();
    let width = (rect.width() - 8.0 * GRID).clamp(1.0, 480.0);
    let head = painter.layout(what.to_owned(), FontId::proportional(TEXT[2]), palette.text, width);
    let detail = painter.layout(why.to_owned(), FontId::proportional(TEXT[1]), palette.weak_text, width);
    let height = head.size().y + 2.0 * GRID + detail.size().y + if button.is_some() { 12.0 * GRID } else { 0.0 };
    let mut at = rect.center() - vec2(0.0, height / 2.0);
    for galley in [head, detail] {
        let place = Align2::CENTER_TOP.anchor_size(at, galley.size());
        ui.place(
            Rect::from_center_size(place.center(), vec2(width, place.height())),
            egui::Label::new(
                egui::RichText::new(galley.text())
                    .font(galley.job.sections[0].format.font_id.clone())
                    .color(galley.job.sections[0].format.color),
            )
            .halign(egui::Align::Center),
        );
        at.y = place.bottom() + 2.0 * GRID;
    }
    let Some(text) = button else { return false };
    let size = vec2((text.chars().count() as f32 * 7.5 + 8.0 * GRID).min(width), 8.0 * GRID);
    let place = Rect::from_center_size(at + vec2(0.0, 2.0 * GRID + size.y / 2.0), size);
    ui.place(place, egui::Button::new(text).min_size(size)).clicked()
}
