//! What every picture has: a title that is the question it answers, and a menu to copy its data and to save it.

use egui::{Id, LayerId, Rect, Response, Sense, Ui, vec2};

use crate::action::Action;
use crate::theme::Palette;

/// A picture's frame.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its name in files: `timeline`.
    pub name: &'a str,
    /// The question it answers: `Where did the bytes go while it ran?`
    pub question: &'a str,
}

impl Picture<'_> {
    /// Draws the title, then `draw` in the space left; the menu's data is what `csv` gives when it is asked for. `draw` is given
    /// the whole rectangle and returns what it says to a screen reader about itself.
    pub fn show(
        self,
        ui: &mut Ui,
        actions: &mut Vec<Action>,
        csv: impl FnOnce() -> String,
        draw: impl FnOnce(&mut Ui, Rect, &mut Vec<Action>),
    ) -> Response {
        let palette = Palette::of(ui.theme());
        ui.label(egui::RichText::new(self.question).text_style(egui::TextStyle::Heading).color(palette.text));
        let rect = ui.available_rect_before_wrap();
        let rect = Rect::from_min_size(rect.min, vec2(rect.width().max(1.0), rect.height().max(1.0)));
        // Below everything drawn in it, so that what is drawn keeps its own clicks.
        let response = ui.interact(rect, Id::unique(("picture", self.name)), Sense::click());
        let layer = ui.layer_id();
        let first = shapes(ui, layer);
        ui.scope_builder(egui::UiBuilder::new().max_rect(rect), |ui| draw(ui, rect, actions));
        let last = shapes(ui, layer);
        let mut csv = Some(csv);
        response.context_menu(|ui| {
            if ui.button("Copy data").clicked() {
                if let Some(csv) = csv.take() {
                    actions.push(Action::Copy(csv()));
                }
                ui.close();
            }
            if ui.button("Save data (CSV)…").clicked() {
                if let Some(csv) = csv.take() {
                    actions.push(Action::SaveFile { name: format!("{}.csv", self.name), content: csv() });
                }
                ui.close();
            }
            if ui.button("Save picture (SVG)…").clicked() {
                let content = crate::svg::write(ui.ctx(), layer, first..last, rect, palette.background);
                actions.push(Action::SaveFile { name: format!("{}.svg", self.name), content });
                ui.close();
            }
            if ui.button("Save picture (PNG)…").clicked() {
                actions.push(Action::SavePng { name: format!("{}.png", self.name), rect });
                ui.close();
            }
        });
        response
    }
}

fn shapes(ui: &Ui, layer: LayerId) -> usize {
    ui.ctx().graphics(|g| g.get(layer).map_or(0, |list| list.next_idx().0))
}

/// A field of CSV, quoted where it has to be.
pub fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
