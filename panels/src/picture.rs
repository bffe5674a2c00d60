//! What every picture has: a title that is the question it answers, and a menu to copy its data and to save it — beside the title,
//! and under the secondary button anywhere in it.

use std::ops::Range;

use egui::{
    Align, Button, Context, Id, LayerId, Layout, Popup, PopupCloseBehavior, Pos2, RawInput, Rect, Response, Role,
    Sense, SetOpenCommand, Theme, Ui, UiBuilder, Vec2, WidgetInfo, pos2, vec2,
};

use crate::action::Action;
use crate::theme::{GRID, Palette};

/// A picture's frame.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its name in files: `timeline`.
    pub name: &'a str,
    /// The question it answers: `Where did the bytes go while it ran?`
    pub question: &'a str,
}

impl Picture<'_> {
    /// Draws the title, then `draw` in the space left, of which it is given the whole rectangle; the menu's data is what `csv` gives
    /// when it is asked for. What is saved as SVG is what the title and `draw` painted, and nothing of the menu.
    pub fn show(
        self,
        ui: &mut Ui,
        actions: &mut Vec<Action>,
        csv: impl FnOnce() -> String,
        draw: impl FnOnce(&mut Ui, Rect, &mut Vec<Action>),
    ) -> Response {
        let palette = Palette::of(ui.theme());
        let layer = ui.layer_id();
        let whole = ui.available_rect_before_wrap();
        let whole = Rect::from_min_size(whole.min, vec2(whole.width().max(1.0), whole.height().max(1.0)));
        let first = shapes(ui, layer);
        let line = Rect::from_min_size(whole.min, vec2(whole.width(), 7.0 * GRID));
        let dots = Rect::from_min_max(pos2(line.right() - 8.0 * GRID, line.top()), line.max);
        let title = Rect::from_min_max(line.min, pos2(dots.left() - GRID, line.bottom()));
        heading(ui, title, self.question);
        let rect = Rect::from_min_max(pos2(whole.left(), line.bottom() + GRID), whole.max);
        // Below everything drawn in it, so that what is drawn keeps its own clicks; the keyboard has the button.
        let response = ui.interact(rect, Id::unique(("picture", self.name)), Sense::CLICK);
        response.widget_info(|| WidgetInfo::labeled(Role::Figure, true, self.question));
        ui.scope_builder(UiBuilder::new().max_rect(rect), |ui| draw(ui, rect, actions));
        let painted = first..shapes(ui, layer);
        let button = ui.put(dots, Button::new("").frame_when_inactive(false));
        let name = format!("Copy or save: {}", self.question);
        button.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
        let ink = if button.hovered() || button.has_focus() { palette.text } else { palette.weak_text };
        for x in [-5.0, 0.0, 5.0] {
            ui.painter().circle_filled(button.rect.center() + vec2(x, 0.0), 1.5, ink);
        }
        let mut csv = Some(csv);
        let mut menu = |ui: &mut Ui| {
            let csv = || csv.take().map(|csv| csv()).unwrap_or_default();
            self.menu(ui, csv, layer, &painted, whole, actions);
        };
        // Only one of the two can be open.
        let close = PopupCloseBehavior::CloseOnClick;
        Popup::menu(&button).close_behavior(close).accessible_name(name.clone()).show(&mut menu);
        // Also where something drawn in the picture takes the clicks.
        let within = response.contains_pointer() || ui.rect_contains_pointer(rect);
        let open = (within && ui.input(|i| i.pointer.secondary_clicked())).then_some(SetOpenCommand::Bool(true));
        Popup::context_menu(&response)
            .open_memory(open)
            .close_behavior(close)
            .accessible_name(name.clone())
            .show(&mut menu);
        // A menu that is open is chosen from in a later frame: what it would save is made ready until then.
        let opened = [&button, &response].map(|r| Popup::is_id_open(ui.ctx(), Popup::default_response_id(r)));
        crate::svg::want(ui.ctx(), opened.contains(&true));
        ui.advance_cursor_after_rect(whole);
        response
    }

    fn menu(
        self,
        ui: &mut Ui,
        csv: impl FnOnce() -> String,
        layer: LayerId,
        painted: &Range<usize>,
        rect: Rect,
        actions: &mut Vec<Action>,
    ) {
        let mut chosen = [false; 4];
        let words = ["Copy data", "Save data (CSV)…", "Save picture (SVG)…", "Save picture (PNG)…"];
        for (chosen, words) in chosen.iter_mut().zip(words) {
            *chosen = ui.button(words).clicked();
        }
        let file = |kind: &str| format!("{}.{kind}", self.name);
        match chosen {
            [true, ..] => actions.push(Action::Copy(csv())),
            [_, true, ..] => actions.push(Action::SaveFile { name: file("csv"), content: csv() }),
            [_, _, true, _] => {
                let background = Palette::of(ui.theme()).background;
                let content = crate::svg::write(ui.ctx(), layer, painted.clone(), rect, background, self.question);
                actions.push(Action::SaveFile { name: file("svg"), content });
            }
            [_, _, _, true] => actions.push(Action::SavePng { name: file("png"), rect }),
            _ => return,
        }
        ui.close();
    }
}

/// The title of a picture on one line, cut where its room ends.
fn heading(ui: &mut Ui, room: Rect, text: &str) {
    let color = Palette::of(ui.theme()).text;
    ui.scope_builder(UiBuilder::new().max_rect(room).layout(Layout::left_to_right(Align::Center)), |ui| {
        let text = egui::RichText::new(text).text_style(egui::TextStyle::Heading).color(color);
        ui.add(egui::Label::new(text).truncate().selectable(false));
    });
}

/// A picture as an SVG document of `size` points, drawn without a window: laid out in an egui context of its own as on screen, the
/// shapes written down. `draw` is given the space below the title.
pub fn paper(title: &str, size: Vec2, theme: Theme, mut draw: impl FnMut(&mut Ui, Rect)) -> String {
    const MARGIN: f32 = 4.0 * GRID;
    let context = Context::default();
    crate::theme::install(&context);
    context.set_theme(theme);
    let whole = Rect::from_min_size(Pos2::ZERO, size);
    let inner = whole.shrink(MARGIN);
    let line = Rect::from_min_size(inner.min, vec2(inner.width(), 7.0 * GRID));
    let below = Rect::from_min_max(pos2(inner.left(), line.bottom() + GRID), inner.max);
    let mut shapes = Vec::new();
    // What is as wide as its words has its width in the second pass.
    for frame in 0..3 {
        let input = RawInput { screen_rect: Some(whole), time: Some(f64::from(frame)), ..RawInput::default() };
        let mut output = context.run_ui(input, |ui| {
            ui.scope_builder(UiBuilder::new().max_rect(inner), |ui| {
                heading(ui, line, title);
                ui.scope_builder(UiBuilder::new().max_rect(below), |ui| draw(ui, below));
            });
        });
        output.textures_delta.clear();
        shapes = output.shapes;
    }
    crate::svg::document(&shapes, whole, Palette::of(theme).background, title, &crate::svg::Pixels::default())
}

fn shapes(ui: &Ui, layer: LayerId) -> usize {
    ui.ctx().graphics(|g| g.get(layer).map_or(0, |list| list.next_idx().0))
}
