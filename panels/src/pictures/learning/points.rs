//! Against bytes: every run a point at its measured peak, so that runs are compared at the same budget; the run on screen leaves
//! the trail it came by.

use egui::{Align2, Id, Key, Rect, Role, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::lines::Runs;
use super::{Figure, LearningState, inner};
use crate::pictures::accuracy::axis::Axis as Side;
use crate::pictures::accuracy::marks;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette};
use crate::view::{Course, Mark};
use crate::{Action, Linked, words};

/// The figure of a plot: what was held out, or the last steps where nothing was.
fn value(course: &Course, figure: Figure) -> Option<f64> {
    let last = |marks: &[Mark]| marks.last().map(|m| m.value).filter(|v| v.is_finite());
    match figure {
        Figure::HeldOut => last(&course.held_out),
        figure => last(figure.of(course)),
    }
}

/// Draws loss, and below it what is right, against the peak.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    (mine, others): Runs<'_>,
    state: &LearningState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let all: Vec<&Course> = mine.iter().copied().chain(others.iter().copied()).filter(|c| c.peak.is_some()).collect();
    let has = |f: Figure| !state.hidden.contains(&f) && all.iter().any(|c| value(c, f).is_some());
    let loss =
        if has(Figure::HeldOut) || state.hidden.contains(&Figure::Loss) { Figure::HeldOut } else { Figure::Loss };
    let right = [Figure::Answers, Figure::Tokens].into_iter().find(|f| has(*f));
    let places = match (has(loss), right) {
        (true, Some(right)) => {
            let (a, b) = rect.split_top_bottom_at_fraction(0.5);
            vec![(a, loss), (b, right)]
        }
        (true, None) => vec![(rect, loss)],
        (false, Some(right)) => vec![(rect, right)],
        (false, None) => Vec::new(),
    };
    if places.is_empty() {
        say::empty(ui, rect, "No run has a measured peak yet.", None, "");
        return;
    }
    let x = Side::around(all.iter().filter_map(|c| c.peak).map(|b| b as f64), true, false);
    for (place, figure) in places {
        let last = place.bottom() >= rect.bottom() - 1.0;
        let inner = inner(place, last);
        if !inner.is_positive() {
            return;
        }
        let trail = mine.into_iter().flat_map(|c| if figure == Figure::Loss { &[] } else { figure.of(c) });
        let values = all.iter().filter_map(|c| value(c, figure)).chain(trail.map(|m| m.value));
        let y = if figure.share() { Side::from_zero(1.0) } else { Side::around(values, false, true) };
        scales(ui, place, inner, (x, y), figure, last);
        let at = |bytes: u64, v: f64| {
            pos2(
                inner.left() + x.place(bytes as f64) as f32 * inner.width(),
                inner.bottom() - y.place(v) as f32 * inner.height(),
            )
        };
        let p = Palette::of(ui.theme());
        if let Some(course) = mine.filter(|_| figure != Figure::Loss) {
            let points: Vec<_> =
                figure.of(course).iter().filter(|m| m.bytes > 0).map(|m| at(m.bytes, m.value)).collect();
            if points.len() > 1 {
                ui.painter().add(egui::Shape::line(points.clone(), Stroke::new(1.0, p.accent.gamma_multiply(0.6))));
            }
            for point in points.iter().rev().skip(1) {
                ui.painter().circle_stroke(*point, 2.5, Stroke::new(1.0, p.accent.gamma_multiply(0.8)));
            }
        }
        for (i, course) in all.iter().enumerate() {
            let (Some(bytes), Some(v)) = (course.peak, value(course, figure)) else { continue };
            let here = mine.is_some_and(|m| std::ptr::eq(m, *course));
            point(ui, (i, here), course, figure, v, at(bytes, v), linked, actions);
        }
    }
}

fn scales(ui: &Ui, rect: Rect, inner: Rect, (x, y): (Side, Side), figure: Figure, last: bool) {
    let (p, painter, font) = (Palette::of(ui.theme()), ui.painter(), say::captions());
    let quiet = Stroke::new(1.0, p.line.gamma_multiply(0.5));
    for tick in y.ticks(((inner.height() / 48.0) as usize).max(2)) {
        let at = inner.bottom() - y.place(tick) as f32 * inner.height();
        painter.hline(inner.x_range(), at, quiet);
        let words = if figure.share() { words::percent(tick) } else { words::number(tick) };
        painter.text(pos2(inner.left() - 2.0 * GRID, at), Align2::RIGHT_CENTER, words, font.clone(), p.weak_text);
    }
    for tick in x.byte_ticks(((inner.width() / 96.0) as usize).max(3)) {
        let at = inner.left() + x.place(tick) as f32 * inner.width();
        painter.vline(at, inner.y_range(), quiet);
        if last {
            let place = pos2(at, inner.bottom() + 2.0 * GRID);
            painter.text(place, Align2::CENTER_TOP, words::bytes(tick as u64), font.clone(), p.weak_text);
        }
    }
    painter.hline(inner.x_range(), inner.bottom(), Stroke::new(1.0, p.line));
    let title = match figure.share() {
        true => format!("{}, more is better ↑", figure.label()),
        false => format!("{} (nats), less is better ↓", figure.label()),
    };
    painter.text(rect.min, Align2::LEFT_TOP, title, font.clone(), p.weak_text);
    if last {
        let at = pos2(inner.right(), rect.bottom());
        painter.text(at, Align2::RIGHT_BOTTOM, "measured peak in bytes →", font, p.weak_text);
    }
}

/// A run: a button of its own, so that the keyboard and a screen reader reach it.
fn point(
    ui: &Ui,
    (i, here): (usize, bool),
    course: &Course,
    figure: Figure,
    v: f64,
    at: egui::Pos2,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let p = Palette::of(ui.theme());
    let place = Rect::from_center_size(at, vec2(18.0, 18.0));
    let response = ui.interact(place, Id::unique(("learning run", figure.label(), i)), Sense::click());
    let chosen = linked.run.as_ref() == Some(&course.run);
    let peak = course.peak.map_or(words::UNKNOWN.to_owned(), words::bytes);
    let name = format!("{}: {peak}, {} {}", course.run, figure.label(), figure.value(v));
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, chosen, &name));
    let enter = response.has_focus() && ui.input(|input| input.key_pressed(Key::Enter));
    if response.clicked() {
        linked.run = Some(course.run.clone());
    }
    if response.double_clicked() || (enter && chosen) {
        actions.push(Action::OpenRun(course.run.clone()));
    }
    let (mark, ink) = if here { (marks::mark(p, 0, false), p.accent) } else { (marks::mark(p, i, true), p.weak_text) };
    let lit = response.hovered() || response.has_focus();
    if chosen || lit {
        ui.painter().circle_stroke(at, 10.0, Stroke::new(if chosen { 2.0 } else { 1.0 }, p.accent));
    }
    mark.point(ui.painter(), at, if here { 5.5 } else { 4.5 }, true, ink, p.background);
    response.on_hover_text(format!("{name}\n{}\nDouble-click opens it.", course.label));
}
