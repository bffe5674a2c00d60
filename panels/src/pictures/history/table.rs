//! The table of runs: only the rows on screen are drawn.

use std::cmp::Ordering;

use egui::{
    Align, Id, Key, Layout, Modifiers, Rect, RichText, Role, ScrollArea, Sense, Ui, UiBuilder, WidgetInfo, pos2, vec2,
};

use super::{HistoryState, Order};
use crate::action::Action;
use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{History, RunLine};
use crate::words;

const ROW: f32 = 8.0 * GRID;

/// A column: its title, its left edge and width, what it orders by, and whether it holds figures (to the right).
struct Column {
    title: &'static str,
    rect: (f32, f32),
    order: Option<Order>,
    figures: bool,
}

/// Runs in the order chosen, by index.
pub fn ordered(runs: &[RunLine], order: Order, reversed: bool) -> Vec<usize> {
    let mut all: Vec<usize> = (0..runs.len()).collect();
    // What has no figure comes last, whichever way round.
    let by = |a: Option<f64>, b: Option<f64>| match (a.filter(|v| v.is_finite()), b.filter(|v| v.is_finite())) {
        (Some(a), Some(b)) if reversed => a.total_cmp(&b),
        (Some(a), Some(b)) => b.total_cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    match order {
        Order::When if reversed => all.reverse(),
        Order::When => {}
        Order::Peak => all.sort_by(|a, b| by(runs[*a].peak.map(|p| p as f64), runs[*b].peak.map(|p| p as f64))),
        Order::Speed => all.sort_by(|a, b| by(runs[*a].speed, runs[*b].speed)),
        Order::Bytes => all.sort_by(|a, b| by(Some(runs[*a].bytes as f64), Some(runs[*b].bytes as f64))),
    }
    all
}

/// Columns over a width; the model and the folder's bytes only where there is room.
fn columns(width: f32) -> Vec<Column> {
    let mut left = 9.0 * GRID;
    let (model, bytes, accuracy) = (width >= 900.0, width >= 720.0, width >= 600.0);
    let fixed = left
        + 136.0
        + if model { 180.0 } else { 0.0 }
        + 92.0
        + 92.0
        + if accuracy { 150.0 } else { 0.0 }
        + if bytes { 84.0 } else { 0.0 };
    let all = [
        ("When", 136.0, Some(Order::When), false, true),
        ("Model", 180.0, None, false, model),
        ("Choices", (width - fixed).max(80.0), None, false, true),
        ("Peak", 92.0, Some(Order::Peak), true, true),
        ("Speed", 92.0, Some(Order::Speed), true, true),
        ("Accuracy", 150.0, None, false, accuracy),
        ("On disk", 84.0, Some(Order::Bytes), true, bytes),
    ];
    let mut out = Vec::new();
    for (title, wide, order, figures, shown) in all {
        if shown {
            out.push(Column { title, rect: (left, wide), order, figures });
            left += wide;
        }
    }
    out
}

fn cell(ui: &mut Ui, row: Rect, column: &Column, add: impl FnOnce(&mut Ui)) {
    let (left, wide) = column.rect;
    let pad = 2.0 * GRID;
    let rect =
        Rect::from_min_size(pos2(row.left() + left + pad, row.top()), vec2((wide - 2.0 * pad).max(1.0), row.height()));
    let layout =
        if column.figures { Layout::right_to_left(Align::Center) } else { Layout::left_to_right(Align::Center) };
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(layout), add);
}

pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &History,
    state: &mut HistoryState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let palette = Palette::of(ui.theme());
    let columns = columns(rect.width());
    let head = Rect::from_min_size(rect.min, vec2(rect.width(), ROW));
    for column in &columns {
        cell(ui, head, column, |ui| heading(ui, column, state));
    }
    ui.painter().hline(head.x_range(), head.bottom(), egui::Stroke::new(1.0, palette.line));
    let body = Rect::from_min_max(pos2(rect.left(), head.bottom()), rect.max);
    let order = ordered(&data.runs, state.order, state.reversed);
    ui.scope_builder(UiBuilder::new().max_rect(body).layout(Layout::top_down(Align::Min)), |ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        let area = ScrollArea::vertical().id_salt("runs").auto_shrink(false);
        area.show_rows(ui, ROW, order.len(), |ui, rows| {
            for run in order[rows].iter().map(|i| &data.runs[*i]) {
                line(ui, run, &columns, state, linked, actions);
            }
        });
    });
}

fn heading(ui: &mut Ui, column: &Column, state: &mut HistoryState) {
    let palette = Palette::of(ui.theme());
    let Some(order) = column.order else {
        say::note(ui, column.title);
        return;
    };
    let chosen = state.order == order;
    let mark = match (chosen, state.reversed) {
        (true, false) => " ⏷",
        (true, true) => " ⏶",
        _ => "",
    };
    let ink = if chosen { palette.text } else { palette.weak_text };
    let text = RichText::new(format!("{}{mark}", column.title)).size(TEXT[0]).color(ink);
    let response = ui.add(egui::Button::new(text).frame_when_inactive(false));
    let name = format!("Order by {}", column.title.to_lowercase());
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, chosen, &name));
    if response.clicked() {
        (state.reversed, state.order) = (chosen && !state.reversed, order);
    }
}

fn summary(run: &RunLine) -> String {
    let mut text = format!("{}, {}, {}", run.when, run.model, run.choices);
    if !run.error.is_empty() {
        text.push_str(&format!(", failed: {}", run.error));
    }
    if let Some(peak) = run.peak {
        text.push_str(&format!(", peak {}", words::bytes(peak)));
    }
    if let Some(speed) = run.speed {
        text.push_str(&format!(", {}", words::speed(speed)));
    }
    for part in [&run.accuracy, &if run.open { "on screen".to_owned() } else { String::new() }] {
        if !part.is_empty() {
            text.push_str(&format!(", {part}"));
        }
    }
    text
}

fn line(
    ui: &mut Ui,
    run: &RunLine,
    columns: &[Column],
    state: &mut HistoryState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let p = Palette::of(ui.theme());
    let (row, _) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), Sense::hover());
    let response = ui.interact(row, Id::unique(("run", &run.name)), Sense::click());
    let selected = linked.run.as_ref() == Some(&run.name);
    response.widget_info(|| WidgetInfo::selected(Role::Row, true, selected, summary(run)));
    if selected || response.hovered() {
        ui.painter().rect_filled(row, 0.0, if selected { say::mix(p.background, p.accent, 0.18) } else { p.raised });
    }
    if run.open {
        ui.painter().rect_filled(Rect::from_min_size(row.min, vec2(3.0, ROW)), 0.0, p.accent);
    }
    ui.painter().hline(row.x_range(), row.bottom(), egui::Stroke::new(1.0, say::mix(p.background, p.line, 0.5)));

    pick(ui, row, run, state);
    cells(ui, row, run, columns);
    say::focus_ring(ui, &response);
    if response.clicked() {
        linked.run = Some(run.name.clone());
    }
    let enter = response.has_focus() && selected && ui.input_mut(|i| i.consume_key(Modifiers::NONE, Key::Enter));
    if response.double_clicked() || enter {
        actions.push(Action::OpenRun(run.name.clone()));
    }
}

/// The tick that picks a run to be compared.
fn pick(ui: &mut Ui, row: Rect, run: &RunLine, state: &mut HistoryState) {
    let p = Palette::of(ui.theme());
    let mut ticked = state.picked.contains(&run.name);
    let tick = Rect::from_min_size(pos2(row.left() + 2.0 * GRID, row.top()), vec2(7.0 * GRID, ROW));
    let tickbox = ui
        .scope(|ui| {
            ui.visuals_mut().widgets.inactive.bg_stroke = egui::Stroke::new(1.0, p.weak_text);
            ui.put(tick, egui::Checkbox::without_text(&mut ticked))
        })
        .inner;
    let name = format!("Compare {}", run.name);
    tickbox.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, ticked, &name));
    if tickbox.changed() {
        state.picked.retain(|picked| *picked != run.name);
        if ticked {
            state.picked.push(run.name.clone());
            // The one ticked first makes room.
            let more = state.picked.len().saturating_sub(2);
            state.picked.drain(..more);
        }
    }
}

/// What is known of a run, column by column; of a failed one why it failed, in place of its figures.
fn cells(ui: &mut Ui, row: Rect, run: &RunLine, columns: &[Column]) {
    let p = Palette::of(ui.theme());
    let failed = !run.error.is_empty();
    for column in columns {
        if failed && matches!(column.title, "Peak" | "Speed" | "Accuracy") {
            continue;
        }
        cell(ui, row, column, |ui| {
            let small = |text: &str, ink| {
                egui::Label::new(RichText::new(text).size(TEXT[0]).color(ink)).truncate().selectable(false)
            };
            let figure = |text: String| {
                egui::Label::new(RichText::new(text).font(say::figures()).color(p.text)).selectable(false)
            };
            match column.title {
                "When" => drop(ui.add(small(&run.when, p.weak_text))),
                "Model" => drop(ui.add(small(&run.model, p.text))),
                "Choices" => drop(ui.add(small(&run.choices, p.text))),
                "Peak" => drop(ui.add(figure(run.peak.map_or_else(|| words::UNKNOWN.into(), words::bytes)))),
                "Speed" => drop(ui.add(figure(run.speed.map_or_else(|| words::UNKNOWN.into(), words::speed)))),
                "Accuracy" if run.accuracy.is_empty() => {
                    drop(ui.add(small(words::UNKNOWN, p.weak_text)).on_hover_text("Not measured in this run"))
                }
                "Accuracy" => drop(ui.add(small(&run.accuracy, p.text))),
                _ => drop(ui.add(figure(words::bytes(run.bytes)))),
            }
        });
    }
    if failed {
        let from = columns.iter().find(|c| c.title == "Peak").map_or(0.0, |c| c.rect.0);
        let last = |c: &&Column| matches!(c.title, "Speed" | "Accuracy");
        let to = columns.iter().rfind(last).map_or(from, |c| c.rect.0 + c.rect.1);
        let wide = Column { title: "", rect: (from, to - from), order: None, figures: false };
        cell(ui, row, &wide, |ui| {
            let text = RichText::new(format!("Failed: {}", run.error)).size(TEXT[0]).color(p.alarm);
            ui.add(egui::Label::new(text).truncate().selectable(false)).on_hover_text(&run.error);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_order_the_runs_and_unknown_comes_last() {
        let run = |peak, bytes| RunLine { peak, bytes, ..RunLine::default() };
        let runs = [run(Some(5), 1), run(None, 3), run(Some(9), 2)];
        assert_eq!(ordered(&runs, Order::Peak, false), [2, 0, 1]);
        assert_eq!(ordered(&runs, Order::Peak, true), [0, 2, 1]);
        assert_eq!(ordered(&runs, Order::Bytes, false), [1, 2, 0]);
        assert_eq!(
            (ordered(&runs, Order::When, false), ordered(&runs, Order::When, true)),
            (vec![0, 1, 2], vec![2, 1, 0])
        );
        for width in [500.0, 800.0, 1280.0, 3000.0] {
            let all = columns(width);
            assert!(all.windows(2).all(|w| w[0].rect.0 + w[0].rect.1 <= w[1].rect.0 + 0.1), "{width}");
        }
    }
}
