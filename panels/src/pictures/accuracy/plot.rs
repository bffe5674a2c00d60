//! The curves themselves.

use egui::{
    Align2, FontId, Id, Key, Painter, Pos2, Rect, Response, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use super::axis::{self, Axis as Side};
use super::front::pareto;
use super::{AccuracyState, describe, marks, of};
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Accuracy, Axis, Dot, Series};
use crate::{Action, Linked, words};

/// Where things lie: bytes across, accuracy upwards.
struct Frame {
    inner: Rect,
    bytes: Side,
    value: Side,
}

impl Frame {
    fn at(&self, dot: &Dot, axis: &Axis) -> Option<Pos2> {
        let x = self.inner.left() + self.bytes.place(dot.bytes as f64) as f32 * self.inner.width();
        if dot.planned {
            return Some(pos2(x, self.inner.bottom()));
        }
        Some(pos2(x, self.height(of(&dot.values, &axis.id)?)))
    }

    fn height(&self, value: f64) -> f32 {
        self.inner.bottom() - self.value.place(value) as f32 * self.inner.height()
    }
}

/// Series that the legend has not switched off, with their numbers.
fn visible<'a>(data: &'a Accuracy, state: &AccuracyState) -> Vec<(usize, &'a Series)> {
    data.series.iter().enumerate().filter(|(_, s)| !state.hidden.contains(&s.name)).collect()
}

/// Draws the plot.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Accuracy,
    state: &mut AccuracyState,
    axis: &Axis,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let palette = Palette::of(ui.theme());
    let shown = visible(data, state);
    let dots = || shown.iter().flat_map(|(_, s)| &s.dots);
    let on_axis = |d: &&Dot| d.planned || of(&d.values, &axis.id).is_some();
    let spread = dots().filter(|d| !d.planned).flat_map(|d| {
        let value = of(&d.values, &axis.id);
        let error = of(&d.errors, &axis.id).unwrap_or(0.0);
        value.into_iter().flat_map(move |v| [v - error, v + error])
    });
    let frame = Frame {
        inner: Rect::from_min_max(rect.min + vec2(16.0 * GRID, 6.0 * GRID), rect.max - vec2(2.0 * GRID, 12.0 * GRID)),
        bytes: Side::around(dots().filter(on_axis).map(|d| d.bytes as f64), !state.linear, true),
        value: Side::around(spread, false, !axis.up),
    };
    if !frame.inner.is_positive() {
        return;
    }
    let painter = ui.painter().with_clip_rect(rect.expand(GRID).intersect(ui.clip_rect()));
    scales(&painter, rect, &frame, axis, palette);
    let named = staircase(&painter, &shown, &frame, axis, palette);
    lines(&painter, &shown, &frame, axis, palette, named);
    for (index, series) in &shown {
        for (i, dot) in series.dots.iter().enumerate() {
            if let Some(at) = frame.at(dot, axis) {
                point(ui, (*index, i, at), series, state, axis, linked, actions, &frame);
            }
        }
    }
}

fn scales(painter: &Painter, rect: Rect, frame: &Frame, axis: &Axis, palette: &Palette) {
    let (inner, font) = (frame.inner, FontId::proportional(TEXT[0]));
    let quiet = palette.line.gamma_multiply(0.5);
    for tick in frame.value.ticks((inner.height() / 56.0) as usize) {
        let y = frame.height(tick);
        painter.hline(inner.x_range(), y, Stroke::new(1.0, quiet));
        let at = pos2(inner.left() - 2.0 * GRID, y);
        painter.text(at, Align2::RIGHT_CENTER, axis::value(tick, &axis.unit), font.clone(), palette.weak_text);
    }
    for tick in frame.bytes.byte_ticks(((inner.width() / 96.0) as usize).max(3)) {
        let x = inner.left() + frame.bytes.place(tick) as f32 * inner.width();
        painter.vline(x, inner.y_range(), Stroke::new(1.0, quiet));
        let at = pos2(x, inner.bottom() + 2.0 * GRID);
        painter.text(at, Align2::CENTER_TOP, words::bytes(tick as u64), font.clone(), palette.weak_text);
    }
    painter.hline(inner.x_range(), inner.bottom(), Stroke::new(1.0, palette.line));
    let better = if axis.up { "more is better ↑" } else { "less is better ↓" };
    // Shares have their unit at every tick.
    let unit = if matches!(axis.unit.as_str(), "" | "%") { String::new() } else { format!(" ({})", axis.unit) };
    let title = format!("{}{unit}, {better}", axis.label);
    painter.text(rect.min, Align2::LEFT_TOP, title, font.clone(), palette.weak_text);
    let at = pos2(inner.right(), rect.bottom());
    painter.text(at, Align2::RIGHT_BOTTOM, "measured peak in bytes →", font, palette.weak_text);
}

/// The Pareto front of what was measured here, as the best that any limit buys: a staircase. Returns where its name is written.
fn staircase(
    painter: &Painter,
    shown: &[(usize, &Series)],
    frame: &Frame,
    axis: &Axis,
    palette: &Palette,
) -> Vec<Rect> {
    let sign = if axis.up { 1.0 } else { -1.0 };
    let measured: Vec<(u64, f64)> = shown
        .iter()
        .filter(|(_, s)| s.machine.is_empty())
        .flat_map(|(_, s)| &s.dots)
        .filter(|d| !d.planned)
        .filter_map(|d| Some((d.bytes, sign * of(&d.values, &axis.id)?)))
        .collect();
    let front = pareto(&measured);
    let mut points: Vec<Pos2> = Vec::new();
    for i in front {
        let (bytes, goodness) = measured[i];
        let x = frame.inner.left() + frame.bytes.place(bytes as f64) as f32 * frame.inner.width();
        let y = frame.height(sign * goodness);
        if let Some(last) = points.last() {
            points.push(pos2(x, last.y));
        }
        points.push(pos2(x, y));
    }
    let Some(last) = points.last().copied() else { return Vec::new() };
    points.push(pos2(frame.inner.right(), last.y));
    let color = palette.accent.gamma_multiply(0.35);
    painter.add(egui::Shape::line(points, Stroke::new(5.0, color)));
    let text = "best measured here";
    let (at, anchor) = (pos2(frame.inner.right(), last.y - 5.0), Align2::RIGHT_BOTTOM);
    vec![painter.text(at, anchor, text, FontId::proportional(TEXT[0]), palette.accent)]
}

/// Lines and error bars, and each series' name at its end where there is room.
fn lines(
    painter: &Painter,
    shown: &[(usize, &Series)],
    frame: &Frame,
    axis: &Axis,
    palette: &Palette,
    mut named: Vec<Rect>,
) {
    for (index, series) in shown {
        let mark = marks::mark(palette, *index, !series.machine.is_empty());
        let measured: Vec<&Dot> = series.dots.iter().filter(|d| !d.planned).collect();
        let points: Vec<Pos2> = measured.iter().filter_map(|d| frame.at(d, axis)).collect();
        if points.len() > 1 {
            mark.line(painter, &points, 1.5, mark.color.gamma_multiply(0.8));
        }
        for dot in &measured {
            let (Some(at), Some(error)) = (frame.at(dot, axis), of(&dot.errors, &axis.id)) else { continue };
            let Some(value) = of(&dot.values, &axis.id) else { continue };
            let (top, bottom) = (frame.height(value + error), frame.height(value - error));
            let stroke = Stroke::new(1.0, mark.color.gamma_multiply(0.7));
            painter.vline(at.x, top..=bottom, stroke);
            for y in [top, bottom] {
                painter.hline(at.x - 3.0..=at.x + 3.0, y, stroke);
            }
        }
        if let (Some(first), true) = (points.first(), shown.len() > 1) {
            let galley = painter.layout_no_wrap(series.name.clone(), FontId::proportional(TEXT[0]), palette.weak_text);
            let place = Align2::RIGHT_BOTTOM.anchor_size(*first - vec2(8.0, 5.0), galley.size());
            let place = place.translate(vec2((frame.inner.left() + GRID - place.left()).max(0.0), 0.0));
            let free = named.iter().all(|r| !r.intersects(place)) && points.iter().all(|p| !place.contains(*p));
            if free && frame.inner.expand(8.0).contains_rect(place) {
                painter.galley(place.min, galley, palette.weak_text);
                named.push(place);
            }
        }
    }
}

/// One point: a button of its own, so that the keyboard and a screen reader reach it.
fn point(
    ui: &mut Ui,
    (index, i, at): (usize, usize, Pos2),
    series: &Series,
    state: &mut AccuracyState,
    axis: &Axis,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
    frame: &Frame,
) {
    let palette = Palette::of(ui.theme());
    let dot = &series.dots[i];
    let place = Rect::from_center_size(at, vec2(18.0, 18.0));
    let response = ui.interact(place, Id::unique(("accuracy dot", index, i)), Sense::click());
    let own = (series.name.clone(), dot.label.clone());
    let chosen =
        if dot.run.is_empty() { state.chosen.as_ref() == Some(&own) } else { linked.run.as_ref() == Some(&dot.run) };
    response.widget_info(|| {
        let name = format!("{} · {}", series.name, describe(dot, axis));
        WidgetInfo::selected(Role::Button, true, chosen, name)
    });
    let enter = response.has_focus() && ui.input(|input| input.key_pressed(Key::Enter));
    if response.clicked() {
        if dot.run.is_empty() {
            (state.chosen, linked.run) = (Some(own), None);
        } else {
            (state.chosen, linked.run) = (None, Some(dot.run.clone()));
        }
    }
    if response.double_clicked() || (enter && chosen) {
        open(dot, actions);
    }
    let mark = marks::mark(palette, index, !series.machine.is_empty());
    let lit = response.hovered() || response.has_focus();
    let painter = ui.painter();
    if chosen || lit {
        let ring = if chosen { Stroke::new(2.0, palette.accent) } else { Stroke::new(1.0, palette.text) };
        painter.circle_stroke(at, 10.0, ring);
    }
    if response.has_focus() {
        painter.rect_stroke(place.expand(3.0), 3.0, Stroke::new(1.0, palette.accent), StrokeKind::Outside);
    }
    mark.point(painter, at, if lit { 5.5 } else { 4.5 }, !dot.planned, mark.color, palette.background);
    if lit {
        guide(painter, at, frame, palette);
        tooltip(&response, series, dot, axis);
    }
}

/// Double-click: the run is shown everywhere; what was not run becomes the configuration.
fn open(dot: &Dot, actions: &mut Vec<Action>) {
    if !dot.run.is_empty() {
        actions.push(Action::OpenRun(dot.run.clone()));
    } else if !dot.sets.is_empty() {
        actions.push(Action::Set { what: format!("take {}", dot.label), sets: dot.sets.clone(), gesture: None });
    }
}

fn guide(painter: &Painter, at: Pos2, frame: &Frame, palette: &Palette) {
    let stroke = Stroke::new(1.0, palette.text.gamma_multiply(0.25));
    painter.vline(at.x, at.y..=frame.inner.bottom(), stroke);
    painter.hline(frame.inner.left()..=at.x, at.y, stroke);
}

fn tooltip(response: &Response, series: &Series, dot: &Dot, axis: &Axis) {
    response.show_tooltip_ui(|ui| {
        ui.set_max_width(320.0);
        let palette = Palette::of(ui.theme());
        ui.label(egui::RichText::new(&dot.label).color(palette.text));
        let quiet = |text: String| egui::RichText::new(text).color(palette.weak_text).size(TEXT[0]);
        let machine =
            if series.machine.is_empty() { String::new() } else { format!(", measured on {}", series.machine) };
        ui.label(quiet(format!("{}{machine}", series.name)));
        let how = if dot.planned { "predicted" } else { "measured" };
        ui.label(quiet(format!("{} {how} ({})", words::bytes(dot.bytes), words::exact(dot.bytes))));
        for (id, v) in &dot.values {
            let unit = if *id == axis.id { axis.unit.as_str() } else { "" };
            let label = if *id == axis.id { &axis.label } else { id };
            let error = of(&dot.errors, id).map_or(String::new(), |e| format!(" ± {}", axis::value(e, unit)));
            ui.label(quiet(format!("{label} {}{error}", axis::value(*v, unit))));
        }
        if dot.planned {
            ui.label(quiet("not run yet; double-click takes its configuration".into()));
        }
    });
}
