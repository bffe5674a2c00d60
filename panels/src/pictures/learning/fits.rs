//! What fits: every choice of what learns, optimizer, activations and loss with its predicted peak, on one scale with the limit.

use egui::{Align, Id, Rect, Role, ScrollArea, Sense, Stroke, StrokeKind, Ui, UiBuilder, WidgetInfo, pos2, vec2};

use super::side::step_time;
use crate::pictures::words as say;
use crate::table::{Table, number};
use crate::theme::{GRID, Palette};
use crate::view::{Fit, Learning};
use crate::{Action, kit, words};

/// The question of this page, which is its title.
pub const QUESTION: &str = "What fits, and what would it cost?";

const ROW: f32 = 7.0 * GRID;
const HEADS: [&str; 4] = ["What learns", "Optimizer", "Activations", "Loss"];

/// Where the columns of a row are.
struct Columns {
    words: [Rect; 4],
    bar: Rect,
    peak: Rect,
    time: Rect,
}

impl Columns {
    fn of(row: Rect) -> Self {
        let figure = 21.0 * GRID;
        let each = ((row.width() - 2.0 * figure) * 0.62 / 4.0).min(38.0 * GRID);
        let part = |from: f32, wide: f32| Rect::from_min_max(pos2(from, row.top()), pos2(from + wide, row.bottom()));
        let left = row.left() + 5.0 * GRID;
        let words = [0, 1, 2, 3].map(|i| part(left + i as f32 * each, each - 2.0 * GRID));
        let time = part(row.right() - figure + 2.0 * GRID, figure - 3.0 * GRID);
        let peak = part(time.left() - figure, figure - 2.0 * GRID);
        let from = words[3].right() + 2.0 * GRID;
        Self { words, bar: part(from, (peak.left() - from).max(0.0)), peak, time }
    }
}

/// Draws the page: the least first; pressed, a row is chosen.
pub fn show(ui: &mut Ui, rect: Rect, data: &Learning, actions: &mut Vec<Action>) {
    let p = Palette::of(ui.theme());
    let mut all: Vec<&Fit> = data.fits.iter().collect();
    all.sort_by_key(|f| (f.peak.is_none(), f.peak, !f.chosen));
    let most = all.iter().filter_map(|f| f.peak).chain(data.limit).max().unwrap_or(1);
    // Where the limit is far away, the bars would be slivers beside it.
    let largest = all.iter().filter_map(|f| f.peak).max().unwrap_or(1);
    let end = 1.05 * most.min(4 * largest) as f64;
    let (head, below) = rect.split_top_bottom_at_y(rect.top() + 6.0 * GRID);
    let columns = Columns::of(head);
    for (at, text) in columns.words.iter().zip(HEADS) {
        kit::line(ui.painter(), *at, Align::Min, text, say::captions(), p.weak_text);
    }
    let wide = Rect::from_min_max(pos2(columns.peak.left() - 8.0 * GRID, head.top()), columns.peak.max);
    kit::line(ui.painter(), wide, Align::Max, "predicted peak", say::captions(), p.weak_text);
    kit::line(ui.painter(), columns.time, Align::Max, "a step", say::captions(), p.weak_text);
    let limit = data.limit.filter(|l| *l as f64 <= end);
    if let Some(limit) = limit {
        // Beside its line, on the side with more room.
        let x = columns.bar.left() + (limit as f64 / end) as f32 * columns.bar.width();
        let left = x > columns.bar.center().x;
        let from = if left { pos2(columns.bar.left(), head.top()) } else { pos2(x, head.top()) };
        let to = if left { pos2(x, head.bottom()) } else { pos2(wide.left(), head.bottom()) };
        let align = if left { Align::Max } else { Align::Min };
        let words = format!("limit {}", words::bytes(limit));
        kit::line(ui.painter(), Rect::from_min_max(from, to), align, &words, say::captions(), p.weak_text);
    }
    ui.painter().hline(rect.x_range(), head.bottom(), Stroke::new(1.0, p.line));
    ui.scope_builder(UiBuilder::new().max_rect(below), |ui| {
        ScrollArea::vertical().id_salt("what fits").auto_shrink([false, false]).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 0.0;
            for fit in all {
                let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), Sense::hover());
                row(ui, rect, fit, limit, end, actions);
            }
        });
    });
}

fn row(ui: &Ui, rect: Rect, fit: &Fit, limit: Option<u64>, end: f64, actions: &mut Vec<Action>) {
    let p = Palette::of(ui.theme());
    let name = fit.choices.join(", ");
    let possible = fit.refused.is_empty();
    let sense = if possible && !fit.chosen { Sense::click() } else { Sense::focusable_noninteractive() };
    let response = ui.interact(rect, Id::unique(("what fits", &fit.choices)), sense);
    response.widget_info(|| WidgetInfo::selected(Role::RadioButton, possible, fit.chosen, &name));
    let over = fit.peak.filter(|_| !fit.fits).zip(limit).map(|(peak, limit)| peak.saturating_sub(limit));
    let value = match (fit.peak, over) {
        (None, _) => fit.refused.clone(),
        (Some(peak), Some(over)) if over > 0 => {
            format!("{}, {} over the limit", words::bytes(peak), words::bytes(over))
        }
        (Some(peak), _) if !fit.fits => format!("{}, over a limit", words::bytes(peak)),
        (Some(peak), _) => format!("{}, fits", words::bytes(peak)),
    };
    ui.accesskit_node_builder(response.id, |node| node.set_value(value.clone()));
    if !ui.is_rect_visible(rect) {
        return;
    }
    let painter = ui.painter();
    if fit.chosen || response.hovered() && possible {
        painter.rect_filled(rect.shrink2(vec2(0.0, 1.0)), 4.0, p.raised);
    }
    let centre = pos2(rect.left() + 2.5 * GRID, rect.center().y);
    painter.circle_stroke(centre, 4.0, Stroke::new(1.0, if possible { p.weak_text } else { p.line }));
    if fit.chosen {
        painter.circle_filled(centre, 2.5, p.accent);
    }
    let columns = Columns::of(rect);
    let ink = if possible && fit.fits { p.text } else { p.weak_text };
    for (at, text) in columns.words.iter().zip(&fit.choices) {
        kit::line(painter, *at, Align::Min, text, say::captions(), ink);
    }
    let Some(peak) = fit.peak else {
        let room = Rect::from_min_max(columns.bar.min, columns.time.max);
        kit::line(painter, room, Align::Min, &fit.refused, say::captions(), p.weak_text);
        say::focus_ring(ui, &response);
        response.on_hover_text(&fit.refused);
        return;
    };
    let at = |bytes: u64| columns.bar.left() + (bytes as f64 / end).min(1.0) as f32 * columns.bar.width();
    // Predicted is outlined.
    let bar = Rect::from_min_max(columns.bar.min, pos2(at(peak), columns.bar.bottom())).shrink2(vec2(0.0, 2.0 * GRID));
    let stroke = Stroke::new(1.5, if fit.fits { p.accent } else { p.alarm });
    painter.rect_stroke(bar, 1.0, stroke, StrokeKind::Inside);
    if let Some(limit) = limit {
        painter.vline(at(limit), rect.y_range(), Stroke::new(1.0, p.text));
    }
    let figure = if fit.fits { p.text } else { p.alarm };
    kit::line(painter, columns.peak, Align::Max, &words::bytes(peak), say::figures(), figure);
    let time = fit.step_seconds.map_or(words::UNKNOWN.to_owned(), step_time);
    kit::line(painter, columns.time, Align::Max, &time, say::figures(), p.weak_text);
    say::focus_ring(ui, &response);
    if response.clicked() {
        actions.push(Action::Set { what: name.clone(), sets: fit.sets.clone(), gesture: None });
    }
    response.on_hover_text(format!("{name}\n{} · {value}", words::exact(peak)));
}

/// Every combination, one a line.
pub fn csv(data: &Learning) -> String {
    let head = [
        "params",
        "optimizer",
        "activations",
        "loss",
        "predicted_peak_bytes",
        "fits",
        "predicted_step_seconds",
        "refused",
    ];
    let mut table = Table::new(head);
    for f in &*data.fits {
        let [params, optimizer, activations, loss] = &f.choices;
        let seconds = number(f.step_seconds.map(|s| format!("{s:.6}")));
        let (peak, fits) = (number(f.peak), f.fits.to_string());
        table.row([params, optimizer, activations, loss, &peak, &fits, &seconds, &f.refused]);
    }
    table.text()
}
