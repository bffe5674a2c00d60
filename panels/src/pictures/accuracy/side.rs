//! Beside the curves: the legend, the point chosen, and the sweeps that can be run.

use egui::{Align, Button, Id, Layout, Rect, RichText, Role, ScrollArea, Sense, Ui, UiBuilder, WidgetInfo, pos2, vec2};

use super::{AccuracyState, broken, of};
use crate::pictures::chart::{axis, marks};
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Accuracy, Axis, Dot, Series};
use crate::{Action, Linked, words};

/// Draws legend, choice and sweeps.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Accuracy,
    state: &mut AccuracyState,
    axis: &Axis,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    if rect.width() < 10.0 * GRID {
        return;
    }
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
        ScrollArea::vertical().id_salt("accuracy side").auto_shrink([false, false]).show(ui, |ui| {
            legend(ui, data, state);
            chosen(ui, data, state, axis, linked, actions);
            if !state.paper {
                sweeps(ui, data, actions);
            }
        });
    });
}

fn head(ui: &mut Ui, text: &str) {
    let palette = Palette::of(ui.theme());
    ui.label(RichText::new(text).size(TEXT[0]).color(palette.weak_text));
}

/// A line a series; pressing it hides or shows the series.
fn legend(ui: &mut Ui, data: &Accuracy, state: &mut AccuracyState) {
    let palette = Palette::of(ui.theme());
    head(ui, if state.paper { "Series" } else { "Series (press to hide)" });
    ui.spacing_mut().item_spacing.y = 0.0;
    for (index, series) in data.series.iter().enumerate() {
        let shown = !state.hidden.contains(&series.name);
        let mark = marks::mark(palette, index, !series.machine.is_empty());
        let elsewhere = if series.machine.is_empty() { String::new() } else { format!("on {}", series.machine) };
        let height = if elsewhere.is_empty() { 7.0 * GRID } else { 11.0 * GRID };
        let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
        let response = ui.interact(rect, Id::unique(("accuracy series", index)), Sense::click());
        response.widget_info(|| {
            let runs = series.dots.iter().filter(|d| !d.planned).count();
            WidgetInfo::selected(Role::CheckBox, true, shown, format!("{} ({runs} points) {elsewhere}", series.name))
        });
        if response.clicked() && !state.hidden.remove(&series.name) {
            state.hidden.insert(series.name.clone());
        }
        let painter = ui.painter().with_clip_rect(rect);
        if response.hovered() || response.has_focus() {
            painter.rect_filled(rect, crate::theme::CORNER, palette.raised);
        }
        let fade = |color: egui::Color32| if shown { color } else { color.gamma_multiply(0.4) };
        let line = rect.top() + 3.5 * GRID;
        mark.sample(&painter, pos2(rect.left() + 4.0 * GRID, line), fade(mark.color));
        let left = rect.left() + 9.0 * GRID;
        let font = egui::FontId::proportional(TEXT[1]);
        let text = painter.text(pos2(left, line), egui::Align2::LEFT_CENTER, &series.name, font, fade(palette.text));
        if !shown {
            painter.hline(text.x_range(), line, egui::Stroke::new(1.0, palette.weak_text));
        }
        if !elsewhere.is_empty() {
            let font = egui::FontId::proportional(TEXT[0]);
            let at = pos2(left, line + 4.5 * GRID);
            painter.text(at, egui::Align2::LEFT_CENTER, &elsewhere, font, fade(palette.weak_text));
        }
    }
    ui.spacing_mut().item_spacing.y = 2.0 * GRID;
}

/// The point chosen: its configuration, and what can be done with it.
fn chosen(
    ui: &mut Ui,
    data: &Accuracy,
    state: &AccuracyState,
    axis: &Axis,
    linked: &Linked,
    actions: &mut Vec<Action>,
) {
    let is = |series: &Series, dot: &Dot| match &linked.run {
        Some(run) => dot.run == *run,
        None => dot.run.is_empty() && state.chosen.as_ref().is_some_and(|(s, d)| *s == series.name && *d == dot.label),
    };
    let found = data.series.iter().find_map(|s| s.dots.iter().find(|d| is(s, d)).map(|d| (s, d)));
    let Some((series, dot)) = found else { return };
    let palette = Palette::of(ui.theme());
    ui.add_space(4.0 * GRID);
    head(ui, if dot.planned { "Chosen, not run yet" } else { "Chosen" });
    ui.label(RichText::new(&dot.label).color(palette.text));
    let how = if dot.planned { "predicted" } else { "measured" };
    let bytes = ui.label(format!("{} {how}", words::bytes(dot.bytes)));
    bytes.on_hover_text(words::exact(dot.bytes));
    let why = if dot.planned { String::new() } else { broken(dot, axis) };
    if !why.is_empty() {
        ui.label(RichText::new(why).color(palette.text));
    } else if let Some(v) = of(&dot.values, &axis.id) {
        let error = of(&dot.errors, &axis.id).map_or(String::new(), |e| format!(" ± {}", axis::value(e, &axis.unit)));
        ui.label(format!("{} {}{error}", axis.label, axis::value(v, &axis.unit)));
    }
    for (key, value) in &dot.sets {
        ui.add(egui::Label::new(RichText::new(format!("{key} = {value}")).monospace().size(TEXT[0])).truncate());
    }
    ui.horizontal(|ui| {
        if !dot.run.is_empty() && ui.button("Open").on_hover_text("Show this run in every picture").clicked() {
            actions.push(Action::OpenRun(dot.run.clone()));
        }
        let take = ui.add_enabled(!dot.run.is_empty() || !dot.sets.is_empty(), Button::new("Take its choices"));
        let why = format!("The configuration becomes that of this point of {}", series.name);
        if take
            .on_hover_text(why)
            .on_disabled_hover_text("Measured elsewhere: its configuration is not known")
            .clicked()
        {
            actions.push(if dot.run.is_empty() {
                Action::Set { what: format!("take {}", dot.label), sets: dot.sets.clone(), gesture: None }
            } else {
                Action::TakeConfig(dot.run.clone())
            });
        }
    });
}

fn sweeps(ui: &mut Ui, data: &Accuracy, actions: &mut Vec<Action>) {
    let palette = Palette::of(ui.theme());
    if data.queued > 0 {
        ui.add_space(4.0 * GRID);
        head(ui, "Sweep");
        ui.horizontal(|ui| {
            let runs = if data.queued == 1 { "1 run to go".into() } else { format!("{} runs to go", data.queued) };
            ui.label(RichText::new(runs).color(palette.text));
            if ui.button("Stop").on_hover_text("Drop what is left of the sweep; what was measured stays").clicked() {
                actions.push(Action::StopSweep);
            }
        });
    }
    if data.sweeps.is_empty() {
        return;
    }
    ui.add_space(4.0 * GRID);
    head(ui, "Run a sweep");
    for (name, points) in &data.sweeps {
        let runs = if points.len() == 1 { "1 run".into() } else { format!("{} runs", points.len()) };
        let list =
            |p: &Vec<(String, String)>| p.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", ");
        let mut hint: Vec<String> = points.iter().take(8).map(list).collect();
        if points.len() > 8 {
            hint.push(format!("and {} more", points.len() - 8));
        }
        ui.horizontal(|ui| {
            let room = (ui.available_width() - 14.0 * GRID).max(20.0 * GRID);
            let button = ui.scope(|ui| {
                ui.set_max_width(room);
                ui.add(Button::new(name.as_str()).truncate())
            });
            ui.label(RichText::new(runs).size(TEXT[0]).color(palette.weak_text));
            if button.inner.on_hover_text(hint.join("\n")).clicked() {
                actions.push(Action::Sweep { name: name.clone(), points: points.clone() });
            }
        });
    }
}
