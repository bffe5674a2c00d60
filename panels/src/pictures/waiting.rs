//! A picture with nothing in it yet: what will be there, and the button that fills it.

use egui::{Align, Button, FontId, Layout, Rect, RichText, Ui, UiBuilder, vec2};

use crate::theme::{GRID, Palette, TEXT};

/// Draws what will be there in the middle of `rect`, and a button, greyed with the reason when it is `blocked`; true when it was
/// pressed.
pub fn show(ui: &mut Ui, rect: Rect, what: &str, why: &str, button: Option<&str>, blocked: &str) -> bool {
    let palette = Palette::of(ui.theme());
    let width = (rect.width() - 8.0 * GRID).clamp(1.0, 480.0);
    let size = |text: &str, size: f32| {
        ui.painter().layout(text.to_owned(), FontId::proportional(size), palette.text, width).size().y
    };
    let mut room = if button.is_some() { 14.0 * GRID } else { 0.0 };
    if button.is_some() && !blocked.is_empty() {
        room += size(blocked, TEXT[0]) + 2.0 * GRID;
    }
    let height = size(what, TEXT[2]) + 2.0 * GRID + size(why, TEXT[1]) + room;
    let place = Rect::from_center_size(rect.center(), vec2(width, height.min(rect.height())));
    let builder = UiBuilder::new().max_rect(place).layout(Layout::top_down(Align::Center));
    let inner = ui.scope_builder(builder, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0 * GRID;
        ui.label(RichText::new(what).size(TEXT[2]).color(palette.text));
        ui.label(RichText::new(why).size(TEXT[1]).color(palette.weak_text));
        ui.add_space(2.0 * GRID);
        let Some(text) = button else { return false };
        let button = Button::new(text).min_size(vec2(0.0, 8.0 * GRID));
        let response = ui.add_enabled(blocked.is_empty(), button).on_disabled_hover_text(blocked);
        if !blocked.is_empty() {
            ui.label(RichText::new(blocked).size(TEXT[0]).color(palette.weak_text));
        }
        response.clicked()
    });
    inner.inner
}
