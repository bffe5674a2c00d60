//! The curves themselves.

use egui::{
    Align2, FontId, Id, Key, Painter, Pos2, Rect, Response, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, vec2,
};
use egui_plot::{PlotTransform, PlotUi};

use super::front::pareto;
use super::{AccuracyState, broken, describe, of};
use crate::pictures::chart::axis::{self, Axis as Range};
use crate::pictures::chart::{self, Chart, Errors, Marks, Side, marks};
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Accuracy, Axis, Dot, Series};
use crate::{Action, Linked, words};

/// A series that the legend has not switched off, with its number and its look.
#[derive(Clone, Copy)]
struct Shown<'a> {
    index: usize,
    series: &'a Series,
    mark: marks::Mark,
}

/// Where things lie: bytes across, accuracy upwards.
#[derive(Clone, Copy)]
struct Scale<'a> {
    bytes: Range,
    value: Range,
    axis: &'a Axis,
}

impl<'a> Scale<'a> {
    fn around(shown: &[Shown<'a>], axis: &'a Axis, linear: bool) -> Self {
        let dots = || shown.iter().flat_map(|s| &s.series.dots);
        let on_axis = |d: &&Dot| d.planned || !broken(d, axis).is_empty() || of(&d.values, &axis.id).is_some();
        let spread = dots().filter(|d| !d.planned && broken(d, axis).is_empty()).flat_map(|d| {
            let value = of(&d.values, &axis.id);
            let error = of(&d.errors, &axis.id).unwrap_or(0.0);
            value.into_iter().flat_map(move |v| [v - error, v + error])
        });
        Self {
            bytes: Range::around(dots().filter(on_axis).map(|d| d.bytes as f64), !linear, true),
            value: Range::around(spread, false, !axis.up),
            axis,
        }
    }

    /// A measured point's value and place; `None` where this figure was not measured, or the point is broken: what is no number
    /// is on no curve, and best in nothing.
    fn measured(&self, dot: &Dot) -> Option<(f64, [f64; 2])> {
        let value = of(&dot.values, &self.axis.id).filter(|_| !dot.planned && !self.broken(dot))?;
        Some((value, [self.bytes.place(dot.bytes as f64), self.value.place(value)]))
    }

    /// Whether a point is crossed out.
    fn broken(&self, dot: &Dot) -> bool {
        !dot.planned && !broken(dot, self.axis).is_empty()
    }

    /// Where a point is on screen: what was not run, or is broken, lies on the lower edge.
    fn at(&self, dot: &Dot, transform: &PlotTransform) -> Option<Pos2> {
        let frame = transform.frame();
        let x = transform.position_from_point_x(self.bytes.place(dot.bytes as f64));
        let y = match dot.planned || self.broken(dot) {
            // Whole, so that it touches no tick's words.
            true => frame.bottom() - RADIUS,
            false => transform.position_from_point_y(self.measured(dot)?.1[1]),
        };
        // What was zoomed or moved out of sight is not there.
        Some(Pos2::new(x, y)).filter(|at| frame.expand(1.0).contains(*at))
    }
}

/// Draws the plot: lines, error bars, points and the Pareto front by `egui_plot`, and over each point a button.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Accuracy,
    state: &mut AccuracyState,
    axis: &Axis,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let p = Palette::of(ui.theme());
    let shown: Vec<Shown<'_>> = (data.series.iter().enumerate())
        .filter(|(_, s)| !state.hidden.contains(&s.name))
        .map(|(index, series)| Shown { index, series, mark: marks::mark(p, index, !series.machine.is_empty()) })
        .collect();
    let scale = Scale::around(&shown, axis, state.linear);
    let better = if axis.up { "more is better ↑" } else { "less is better ↓" };
    // Shares have their unit at every tick.
    let unit = if matches!(axis.unit.as_str(), "" | "%") { String::new() } else { format!(" ({})", axis.unit) };
    let title = format!("{}{unit}, {better}", axis.label);
    let chart = Chart {
        name: format!("accuracy {} {}", axis.id, state.linear),
        x: Side {
            range: scale.bytes,
            binary: true,
            write: Box::new(|v| words::bytes(v as u64)),
            title: "measured peak in bytes →",
        },
        y: Side { range: scale.value, binary: false, write: Box::new(|v| axis::value(v, &axis.unit)), title: &title },
        group: None,
        sense: Sense::CLICK | Sense::DRAG,
    };
    let items = shown.clone();
    let drawn = chart.show(ui, rect, move |plot| {
        staircase(plot, &items, &scale, p);
        items.iter().for_each(|s| curve(plot, s, &scale));
    });
    let Some(drawn) = drawn else { return };
    let painter = ui.painter().with_clip_rect(drawn.transform.frame().expand(2.0 * GRID).intersect(ui.clip_rect()));
    on_the_edge(&painter, &shown, &scale, &drawn.transform, p);
    names(&painter, &shown, &scale, &drawn.transform, state.paper, p);
    for s in &shown {
        for (i, dot) in s.series.dots.iter().enumerate() {
            if let Some(at) = scale.at(dot, &drawn.transform).filter(|_| !state.paper) {
                point(ui, s, (i, at), state, axis, linked, actions, &drawn.transform);
            }
        }
    }
}

/// The Pareto front of what was measured here, as the best that any limit buys: a staircase.
fn front<'a>(shown: &[Shown<'a>], scale: &Scale<'a>) -> Vec<[f64; 2]> {
    let sign = if scale.axis.up { 1.0 } else { -1.0 };
    let here = shown.iter().filter(|s| s.series.machine.is_empty()).flat_map(|s| &s.series.dots);
    let measured: Vec<(u64, f64)> = here.filter_map(|d| Some((d.bytes, sign * scale.measured(d)?.0))).collect();
    let mut points: Vec<[f64; 2]> = Vec::new();
    for i in pareto(&measured) {
        let (bytes, goodness) = measured[i];
        let (x, y) = (scale.bytes.place(bytes as f64), scale.value.place(sign * goodness));
        points.extend(points.last().map(|last| [x, last[1]]));
        points.push([x, y]);
    }
    points.extend(points.last().map(|last| [scale.bytes.ends()[1], last[1]]));
    points
}

fn staircase<'a>(plot: &mut PlotUi<'a>, shown: &[Shown<'a>], scale: &Scale<'a>, p: &Palette) {
    let stroke = Stroke::new(5.0, p.accent.gamma_multiply(0.35));
    plot.line(chart::line("the best measured here", front(shown, scale), stroke, None));
}

/// The line, the error bars and the points of a series.
fn curve<'a>(plot: &mut PlotUi<'a>, s: &Shown<'a>, scale: &Scale<'a>) {
    let (name, color) = (&s.series.name, s.mark.color);
    let at: Vec<[f64; 2]> = s.series.dots.iter().filter_map(|d| Some(scale.measured(d)?.1)).collect();
    if at.len() > 1 {
        plot.line(chart::line(name, at.clone(), Stroke::new(1.5, color.gamma_multiply(0.8)), s.mark.dash));
    }
    let bar = |d: &Dot| {
        let ((value, [x, _]), error) = (scale.measured(d)?, of(&d.errors, &scale.axis.id)?);
        Some([x, scale.value.place(value - error), scale.value.place(value + error)])
    };
    let bars = s.series.dots.iter().filter_map(bar).collect();
    plot.add(Errors::new(name, bars, Stroke::new(1.0, color.gamma_multiply(0.7))));
    plot.add(Marks::new(name, at, s.mark, RADIUS, color));
}

/// What was not run lies hollow on the lower edge, which the plot itself would cut it at; what is broken is crossed out there.
fn on_the_edge(painter: &Painter, shown: &[Shown<'_>], scale: &Scale<'_>, transform: &PlotTransform, p: &Palette) {
    for s in shown {
        let broken = s.series.dots.iter().filter(|d| scale.broken(d));
        for at in broken.filter_map(|d| scale.at(d, transform)) {
            cross(painter, at, RADIUS, s.mark.color);
        }
        for at in s.series.dots.iter().filter(|d| d.planned).filter_map(|d| scale.at(d, transform)) {
            painter.add(s.mark.shape(at, RADIUS, p.background, s.mark.color));
        }
    }
}

/// The mark of a broken point.
fn cross(painter: &Painter, at: Pos2, radius: f32, color: egui::Color32) {
    for side in [1.0, -1.0] {
        let arm = vec2(radius, side * radius);
        painter.line_segment([at - arm, at + arm], Stroke::new(2.0, color));
    }
}

/// Half the width of a point, and of one that is pointed at.
const RADIUS: f32 = 4.5;
const LIT: f32 = 5.5;

/// Where there is room: what the front is, the name of each series at its first point, and on paper, where nothing can be pointed
/// at, each point's own words.
fn names(
    painter: &Painter,
    shown: &[Shown<'_>],
    scale: &Scale<'_>,
    transform: &PlotTransform,
    paper: bool,
    p: &Palette,
) {
    let (frame, font) = (*transform.frame(), FontId::proportional(TEXT[0]));
    let mut taken: Vec<Rect> = Vec::new();
    if let Some([_, y]) = front(shown, scale).last().copied() {
        let at = Pos2::new(frame.right(), transform.position_from_point_y(y) - 5.0);
        if frame.expand(GRID).contains(at) {
            taken.push(painter.text(at, Align2::RIGHT_BOTTOM, "best measured here", font.clone(), p.accent));
        }
    }
    let dots = || shown.iter().flat_map(|s| s.series.dots.iter().map(move |d| (s, d)));
    let points: Vec<Pos2> = dots().filter_map(|(_, d)| scale.at(d, transform)).collect();
    // What is no number has nothing else that says so: it is written whatever stands there.
    let mut write = |at: Pos2, anchor: Align2, words: &str, always: bool| {
        let galley = painter.layout_no_wrap(words.to_owned(), font.clone(), p.weak_text);
        let place = anchor.anchor_size(at, galley.size());
        let place = place.translate(vec2((frame.left() + GRID - place.left()).max(0.0), 0.0));
        let free =
            taken.iter().all(|r| !r.intersects(place)) && points.iter().all(|at| !place.expand(GRID).contains(*at));
        if always || free && frame.expand(2.0 * GRID).contains_rect(place) {
            painter.galley(place.min, galley, p.weak_text);
            taken.push(place);
        }
    };
    for s in shown.iter().filter(|_| shown.len() > 1) {
        let first =
            s.series.dots.iter().filter(|d| !d.planned && !scale.broken(d)).find_map(|d| scale.at(d, transform));
        if let Some(first) = first {
            write(first - vec2(2.0 * GRID, 5.0), Align2::RIGHT_BOTTOM, &s.series.name, false);
        }
    }
    for (_, dot) in dots().filter(|_| paper) {
        if let Some(at) = scale.at(dot, transform) {
            if scale.broken(dot) {
                // Above it, since it lies on the edge, on the side with more room.
                let state = if dot.diverged.is_empty() { "infinite" } else { "diverged" };
                let (side, anchor) = match at.x > frame.center().x {
                    true => (-2.0 * GRID, Align2::RIGHT_BOTTOM),
                    false => (2.0 * GRID, Align2::LEFT_BOTTOM),
                };
                write(at + vec2(side, -5.0), anchor, &format!("{}: {state}", dot.label), true);
            } else {
                write(at + vec2(2.0 * GRID, 5.0), Align2::LEFT_TOP, &dot.label, false);
            }
        }
    }
}

/// One point: a button of its own, so that the keyboard and a screen reader reach it.
fn point(
    ui: &mut Ui,
    shown: &Shown<'_>,
    (i, at): (usize, Pos2),
    state: &mut AccuracyState,
    axis: &Axis,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
    transform: &PlotTransform,
) {
    let (palette, series) = (Palette::of(ui.theme()), shown.series);
    let dot = &series.dots[i];
    let place = Rect::from_center_size(at, vec2(18.0, 18.0));
    let response = ui.interact(place, Id::unique(("accuracy dot", shown.index, i)), Sense::click());
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
    let lit = response.hovered() || response.has_focus();
    let painter = ui.painter();
    if chosen || lit {
        let ring = if chosen { Stroke::new(2.0, palette.accent) } else { Stroke::new(1.0, palette.text) };
        painter.circle_stroke(at, 10.0, ring);
    }
    if response.has_focus() {
        painter.rect_stroke(place.expand(3.0), 3.0, Stroke::new(1.0, palette.accent), StrokeKind::Outside);
    }
    if lit {
        let fill = if dot.planned { palette.background } else { shown.mark.color };
        match !dot.planned && !broken(dot, axis).is_empty() {
            true => cross(painter, at, LIT, shown.mark.color),
            false => drop(painter.add(shown.mark.shape(at, LIT, fill, shown.mark.color))),
        }
        guide(painter, at, *transform.frame(), palette);
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

fn guide(painter: &Painter, at: Pos2, frame: Rect, palette: &Palette) {
    let stroke = Stroke::new(1.0, palette.text.gamma_multiply(0.25));
    painter.vline(at.x, at.y..=frame.bottom(), stroke);
    painter.hline(frame.left()..=at.x, at.y, stroke);
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
        if !dot.planned && !broken(dot, axis).is_empty() {
            ui.label(egui::RichText::new(broken(dot, axis)).color(palette.text));
        }
        if dot.planned {
            ui.label(quiet("not run yet; double-click takes its configuration".into()));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_point_is_on_no_front_however_good_it_looks() {
        let axis = Axis { id: "fidelity.kl_mean".into(), label: "KL".into(), unit: "nats".into(), up: false };
        let dot = |mib: u64, value: f64, diverged: &str| Dot {
            bytes: mib << 20,
            values: vec![(axis.id.clone(), value)],
            diverged: diverged.into(),
            ..Dot::default()
        };
        let ends = |diverged: &str| {
            let dots = vec![dot(8, 0.0, diverged), dot(12, f64::INFINITY, ""), dot(16, 0.5, ""), dot(32, 0.25, "")];
            let series = Series { name: "formats".into(), machine: String::new(), dots };
            let mark = marks::mark(Palette::of(egui::Theme::Dark), 0, false);
            let shown = [Shown { index: 0, series: &series, mark }];
            let scale = Scale::around(&shown, &axis, true);
            let front = front(&shown, &scale);
            let mib = |at: &[f64; 2]| (scale.bytes.value(at[0]) / 1_048_576.0).round();
            (front.first().map(mib), front.len())
        };
        assert_eq!(ends("fidelity diverged: NaN in the logits"), (Some(16.0), 4));
        assert_eq!(ends(""), (Some(8.0), 2), "a figure of 0 that was measured is the best");
    }
}
