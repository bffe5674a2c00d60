//! The legend, the values at the step pointed at, and what was predicted beside what was measured.

use egui::{Color32, Id, Rect, Role, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::lines::{Runs, look};
use super::{Figure, LearningState, Over, by};
use crate::kit;
use crate::pictures::chart::marks;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Course, Learning};
use crate::{Action, words};

/// Draws figures, costs and other runs down the side `rect`, as far as they have room.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Learning,
    (mine, others): Runs<'_>,
    state: &mut LearningState,
    actions: &mut Vec<Action>,
) {
    let p = Palette::of(ui.theme());
    ui.painter().vline(rect.left(), rect.y_range(), Stroke::new(1.0, p.line));
    let body = Rect::from_min_max(rect.min + vec2(4.0 * GRID, 0.0), rect.max);
    let mut y = body.top();
    let line = |ui: &Ui, y: &mut f32, left: &str, right: &str, ink: Color32| {
        let row = Rect::from_min_size(pos2(body.left(), *y), vec2(body.width(), 5.0 * GRID));
        let figure = kit::line(ui.painter(), row, egui::Align::Max, right, say::figures(), ink);
        let room = Rect::from_min_max(row.min, pos2(figure.left() - GRID, row.bottom()));
        kit::line(ui.painter(), room, egui::Align::Min, left, say::captions(), p.weak_text);
        *y += 5.0 * GRID;
    };
    let step = mine.and_then(|c| {
        let last = c.loss.last().into_iter().chain(c.held_out.last()).map(|m| m.step).max();
        state.at.filter(|_| state.over != Over::Bytes).or(last)
    });
    if let (Some(_), Some(step)) = (mine, step) {
        let head = if state.at.is_some() && state.over != Over::Bytes { "At step" } else { "So far: step" };
        let head = if data.live || head == "At step" { head } else { "At the end: step" };
        let at = pos2(body.left(), y);
        let words = format!("{head} {}", words::count(step));
        y = ui.painter().text(at, egui::Align2::LEFT_TOP, words, kit::words(TEXT[1]), p.text).bottom() + GRID;
    }
    for figure in Figure::ALL {
        let there = mine.iter().copied().chain(others.iter().copied()).any(|c| !figure.of(c).is_empty());
        if there {
            let row = Rect::from_min_size(pos2(body.left() - GRID, y), vec2(body.width() + GRID, 6.0 * GRID));
            let value = mine.zip(step).and_then(|(c, s)| by(figure.of(c), s)).map(|m| figure.value(m.value));
            entry(ui, row, figure, value, state);
            y = row.bottom();
        }
    }
    if let Some(course) = mine {
        y += 3.0 * GRID;
        costs(ui, course, &mut y, &line, p);
        let before = course.answers.first().filter(|m| m.step == 0).zip(course.answers.last());
        if let Some((first, last)) = before.filter(|(a, b)| b.step > a.step) {
            y += 2.0 * GRID;
            line(ui, &mut y, "right answers before", &words::percent(first.value), p.text);
            line(ui, &mut y, &format!("after {} steps", words::count(last.step)), &words::percent(last.value), p.text);
        }
    }
    if !others.is_empty() && y + 12.0 * GRID < body.bottom() {
        y += 3.0 * GRID;
        let at = pos2(body.left(), y);
        y = ui.painter().text(at, egui::Align2::LEFT_TOP, "Other runs", kit::words(TEXT[1]), p.text).bottom() + GRID;
        for (i, course) in others.iter().enumerate() {
            let row = Rect::from_min_size(pos2(body.left() - GRID, y), vec2(body.width() + GRID, 6.0 * GRID));
            if row.bottom() > body.bottom() {
                break;
            }
            other(ui, row, i + 1, course, state, actions);
            y = row.bottom();
        }
    }
    if !data.validate.is_empty() && !data.live && y + 12.0 * GRID < body.bottom() {
        let place = Rect::from_min_max(pos2(body.left(), body.bottom() - 8.0 * GRID), body.max);
        let pressed = kit::row(ui, place, |ui| {
            let hint =
                "The next run measures what is held out before its first step, too, so that the curve has a beginning.";
            ui.button("Measure on the way").on_hover_text(hint).clicked()
        });
        if pressed {
            actions.push(Action::Set { what: "Measure on the way".into(), sets: data.validate.clone(), gesture: None });
        }
    }
}

/// Predicted and measured: time of a step, peak of memory.
fn costs(ui: &Ui, course: &Course, y: &mut f32, line: &dyn Fn(&Ui, &mut f32, &str, &str, Color32), p: &Palette) {
    let time = |s: Option<f64>| s.filter(|s| s.is_finite() && *s > 0.0).map_or(words::UNKNOWN.to_owned(), step_time);
    let bytes = |b: Option<u64>| b.map_or(words::UNKNOWN.to_owned(), words::bytes);
    line(ui, y, "a step, predicted", &time(course.predicted_step_seconds), p.weak_text);
    line(ui, y, "a step, measured", &time(course.step_seconds), p.text);
    line(ui, y, "peak, predicted", &bytes(course.predicted_peak), p.weak_text);
    line(ui, y, "peak, measured", &bytes(course.peak), p.text);
}

/// `84 ms`, `1.32 s`.
pub(super) fn step_time(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", words::number(1000.0 * seconds))
    } else {
        format!("{} s", words::number(seconds))
    }
}

/// A figure: its line, its name and its value; pressed, it is hidden or shown.
fn entry(ui: &Ui, row: Rect, figure: Figure, value: Option<String>, state: &mut LearningState) {
    let p = Palette::of(ui.theme());
    let response = ui.interact(row, Id::unique(("learning figure", figure.label())), Sense::click());
    if response.clicked() && !state.hidden.remove(&figure) {
        state.hidden.insert(figure);
    }
    let on = !state.hidden.contains(&figure);
    response.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, on, figure.label()));
    ui.accesskit_node_builder(response.id, |node| {
        node.set_value(value.clone().unwrap_or_else(|| words::UNKNOWN.into()))
    });
    let fade = |c: Color32| if on { c } else { c.gamma_multiply(0.45) };
    let (ink, width, dotted) = look(p, figure);
    let (y, left) = (row.center().y, row.left() + GRID);
    let painter = ui.painter();
    if response.hovered() {
        painter.rect_filled(row, 3.0, p.raised);
    }
    painter.hline(left..=left + 20.0, y, Stroke::new(width, fade(ink)));
    if dotted {
        let fill = if figure == Figure::Tokens { p.background } else { fade(ink) };
        painter.circle(pos2(left + 10.0, y), 3.5, fill, Stroke::new(1.5, fade(ink)));
    }
    let right = Rect::from_min_max(pos2(left + 28.0, row.top()), pos2(row.right(), row.bottom()));
    let shown = value.unwrap_or_else(|| words::UNKNOWN.into());
    let at = kit::line(painter, right, egui::Align::Max, &shown, say::figures(), fade(p.text));
    let room = Rect::from_min_max(right.min, pos2(at.left() - GRID, row.bottom()));
    let name = kit::line(painter, room, egui::Align::Min, figure.label(), say::captions(), fade(p.text));
    if !on {
        painter.hline(name.x_range(), y, Stroke::new(1.0, p.weak_text));
    }
    say::focus_ring(ui, &response);
    response.on_hover_text(figure.about());
}

/// Another run: pressed, it is opened.
fn other(ui: &Ui, row: Rect, i: usize, course: &Course, state: &LearningState, actions: &mut Vec<Action>) {
    let p = Palette::of(ui.theme());
    let response = ui.interact(row, Id::unique(("learning other", i)), Sense::click());
    let held = course.answers.last().map(|m| words::percent(m.value));
    let shown = held.or_else(|| course.held_out.last().map(|m| words::number(m.value))).unwrap_or_default();
    let name = format!("Open {}", course.run);
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    let painter = ui.painter();
    if response.hovered() {
        painter.rect_filled(row, 3.0, p.raised);
    }
    let mark = marks::mark(p, i, true);
    let at = pos2(row.left() + GRID + 10.0, row.center().y);
    if state.over == Over::Bytes {
        painter.add(mark.shape(at, 4.0, p.weak_text, p.weak_text));
    } else {
        mark.sample(painter, at, p.weak_text);
    }
    let right = Rect::from_min_max(pos2(row.left() + GRID + 28.0, row.top()), row.max);
    let figure = kit::line(painter, right, egui::Align::Max, &shown, say::figures(), p.weak_text);
    let room = Rect::from_min_max(right.min, pos2(figure.left() - GRID, row.bottom()));
    let words = if course.label.is_empty() { &course.run } else { &course.label };
    kit::line(painter, room, egui::Align::Min, words, say::captions(), p.weak_text);
    say::focus_ring(ui, &response);
    if response.clicked() {
        actions.push(Action::OpenRun(course.run.clone()));
    }
    let hint = [&course.run, &course.label, &course.verdict].map(String::as_str);
    response.on_hover_text(hint.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"));
}
