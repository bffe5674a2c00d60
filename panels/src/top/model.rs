//! The menus of models and of devices.

use egui::{
    Align, Id, Popup, PopupCloseBehavior, Rect, Response, Role, ScrollArea, Sense, TextEdit, Ui, WidgetInfo, vec2,
};

use super::TopState;
use crate::action::Action;
use crate::kit::{self, BODY, Icon, Press, SMALL, Weight};
use crate::theme::GRID;
use crate::view::{Device, Recent, Top};
use crate::words;

const WIDE: f32 = 440.0;

fn menu_id() -> Id {
    Id::unique("model menu")
}

/// Opens the menu of models, from elsewhere.
pub(crate) fn open_menu(ctx: &egui::Context) {
    Popup::open_id(ctx, menu_id());
}

/// The open model; its menu opens others.
pub(crate) fn model(ui: &mut Ui, top: &Top, state: &mut TopState, actions: &mut Vec<Action>, most: f32) {
    let line = &top.model;
    let text = match &line.opening {
        Some(what) => format!("Opening {what}…"),
        None if line.name.is_empty() => "Open a model".to_owned(),
        None => line.name.clone(),
    };
    let name = format!("Model: {text}");
    let press = Press {
        name: &name,
        icon: Some(Icon::Model),
        after: Some(Icon::Down),
        weight: Weight::Quiet,
        most,
        ..Press::new(&text)
    };
    let response = press.show(ui);
    Popup::menu(&response)
        .id(menu_id())
        .close_behavior(PopupCloseBehavior::CloseOnClickOutside)
        .accessible_name("Models")
        .width(WIDE)
        .show(|ui| {
            ui.set_width(WIDE);
            menu(ui, top, state, actions);
        });
    if !Popup::is_id_open(ui.ctx(), menu_id()) {
        let hint = if line.path.is_empty() { line.detail.clone() } else { format!("{}\n{}", line.detail, line.path) };
        if !hint.trim().is_empty() {
            response.on_hover_text(hint.trim());
        }
    }
}

fn menu(ui: &mut Ui, top: &Top, state: &mut TopState, actions: &mut Vec<Action>) {
    let p = kit::palette(ui);
    ui.horizontal(|ui| {
        let edit = TextEdit::singleline(&mut state.path_text)
            .id(Id::unique("model path"))
            .hint_text("Path of a model, configuration or run folder")
            .font(kit::words(BODY))
            .margin(vec2(2.0 * GRID, GRID))
            .background_color(p.raised)
            .desired_width(WIDE - 200.0);
        let response = ui.add(edit).accessible_name("Path to open");
        let ready = !state.path_text.trim().is_empty();
        let enter = response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
        let press = Press { enabled: ready, name: "Open the path", ..Press::new("Open") };
        if (press.show(ui).clicked() || enter) && ready {
            actions.push(Action::Open(state.path_text.trim().to_owned()));
            state.path_text.clear();
            ui.close();
        }
        if Press::new("Browse…").show(ui).clicked() {
            actions.push(Action::OpenDialog);
            ui.close();
        }
    });
    kit::rule(ui);
    ScrollArea::vertical().max_height(420.0).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        for (from, models) in groups(&top.recent) {
            ui.add_space(2.0 * GRID);
            kit::label(ui, &kit::sentence(from), SMALL, p.weak_text);
            for model in models {
                let size = model.bytes.map_or_else(String::new, words::bytes);
                let open = model.path == top.model.path;
                let name = format!("Open {}", model.name);
                let response = entry(ui, &model.name, &size, open, &name, true).on_hover_text(&model.path);
                if response.clicked() {
                    actions.push(Action::Open(model.path.clone()));
                    ui.close();
                }
            }
        }
        if top.recent.is_empty() {
            kit::paragraph(
                ui,
                "No models found on this disk. Type a path, browse, or drop a file on the window.",
                BODY,
                p.weak_text,
            );
        }
    });
}

/// Models by where they come from, in the order in which the places first appear.
fn groups(recent: &[Recent]) -> Vec<(&str, Vec<&Recent>)> {
    let mut groups: Vec<(&str, Vec<&Recent>)> = Vec::new();
    for model in recent {
        match groups.iter_mut().find(|(from, _)| *from == model.from) {
            Some((_, models)) => models.push(model),
            None => groups.push((&model.from, vec![model])),
        }
    }
    groups
}

/// A line of a menu: words at the left, a figure at the right.
pub(crate) fn entry(ui: &mut Ui, text: &str, figure: &str, on: bool, name: &str, enabled: bool) -> Response {
    let p = kit::palette(ui);
    let sense = if enabled { Sense::click() } else { Sense::hover() };
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 28.0), sense);
    response.widget_info(|| WidgetInfo::selected(Role::MenuItem, enabled, on, name));
    if enabled && response.hovered() {
        ui.painter().rect_filled(rect, crate::theme::CORNER, p.raised);
    }
    let inner = rect.shrink2(vec2(2.0 * GRID, 0.0));
    if on {
        Icon::Check.paint(ui.painter(), egui::pos2(inner.left() + 6.0, inner.center().y), p.accent);
    }
    let font = kit::figures(SMALL);
    let wide = kit::width(ui.painter(), figure, font.clone());
    kit::line(ui.painter(), inner, Align::Max, figure, font, p.weak_text);
    let area = Rect::from_x_y_ranges(inner.left() + 20.0..=inner.right() - wide - 2.0 * GRID, inner.y_range());
    kit::line(ui.painter(), area, Align::Min, text, kit::words(BODY), if enabled { p.text } else { p.weak_text });
    kit::focus_ring(ui, &response, rect);
    response
}

/// Where it runs, or what it is planned for.
pub(crate) fn device(ui: &mut Ui, top: &Top, actions: &mut Vec<Action>, most: f32) {
    let Some(chosen) = top.devices.iter().find(|d| d.chosen).or(top.devices.first()) else { return };
    let text = if chosen.runs { chosen.name.clone() } else { format!("{} (plan only)", chosen.name) };
    let name = format!("Device: {text}");
    let press = Press {
        name: &name,
        icon: Some(Icon::Device),
        after: Some(Icon::Down),
        weight: Weight::Quiet,
        most,
        ..Press::new(&text)
    };
    let response = press.show(ui);
    Popup::menu(&response).id(Id::unique("device menu")).accessible_name("Devices").width(360.0).show(|ui| {
        ui.set_width(360.0);
        ui.spacing_mut().item_spacing.y = 0.0;
        let p = kit::palette(ui);
        for (runs, title) in [(true, "Run on"), (false, "Plan only, for a machine that is not here")] {
            let devices: Vec<&Device> = top.devices.iter().filter(|d| d.runs == runs).collect();
            if devices.is_empty() {
                continue;
            }
            ui.add_space(GRID);
            kit::label(ui, title, SMALL, p.weak_text);
            for device in devices {
                let name = format!("Use {}", device.name);
                let response = entry(ui, &device.name, &device.detail, device.chosen, &name, true);
                if response.clicked() {
                    choose(device, chosen, actions);
                    ui.close();
                }
            }
        }
        kit::rule(ui);
        ui.add_space(GRID);
        let probe = entry(ui, "Measure this machine", "", false, "Measure this machine", true);
        if probe.clicked() {
            actions.push(Action::Probe);
            ui.close();
        }
        probe.on_hover_text(
            "Measures memory and disk bandwidth, so that predicted speeds are this machine's own. Takes a few seconds.",
        );
    });
    response.on_hover_text(if chosen.detail.is_empty() { chosen.name.as_str() } else { chosen.detail.as_str() });
}

fn choose(device: &Device, before: &Device, actions: &mut Vec<Action>) {
    if device.id.is_empty() || !device.runs {
        actions.push(Action::PlanFor(device.name.clone()));
        return;
    }
    if !before.runs {
        actions.push(Action::PlanFor(String::new()));
    }
    let sets = vec![("machine.device".to_owned(), device.id.clone())];
    actions.push(Action::Set { what: format!("Run on {}", device.name), sets, gesture: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_grouped_by_where_they_come_from_in_order() {
        let model = |name: &str, from: &str| Recent { name: name.into(), from: from.into(), ..Recent::default() };
        let recent = [model("a", "recent"), model("b", "Ollama"), model("c", "recent")];
        let names: Vec<(&str, Vec<&str>)> =
            groups(&recent).into_iter().map(|(from, m)| (from, m.iter().map(|m| m.name.as_str()).collect())).collect();
        assert_eq!(names, [("recent", vec!["a", "c"]), ("Ollama", vec!["b"])]);
    }
}
