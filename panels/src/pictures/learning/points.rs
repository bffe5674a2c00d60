//! Against bytes: every run a point at its measured peak, so that runs are compared at the same budget; the run on screen leaves
//! the trail it came by.

use egui::{Id, Key, Rect, Role, Sense, Stroke, Ui, WidgetInfo, vec2};
use egui_plot::{PlotPoint, PlotUi};

use super::lines::Runs;
use super::{Figure, LearningState};
use crate::pictures::chart::axis::Axis as Range;
use crate::pictures::chart::{self, Chart, Marks, Side, marks};
use crate::pictures::words as say;
use crate::theme::Palette;
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
    // The first mark is the run's on screen, as in the legend.
    let others = others.iter().enumerate().map(|(i, c)| (i + 1, *c));
    let all: Vec<(usize, &Course)> =
        mine.iter().map(|c| (0, *c)).chain(others).filter(|(_, c)| c.peak.is_some()).collect();
    let has = |f: Figure| !state.hidden.contains(&f) && all.iter().any(|(_, c)| value(c, f).is_some());
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
        let none = all.iter().all(|(_, c)| c.loss.is_empty() && c.held_out.is_empty());
        let why = if none { "No run has a measured peak yet." } else { "Every figure is switched off in the legend." };
        say::empty(ui, rect, why, None, "");
        return;
    }
    let on_the_way = mine.into_iter().flat_map(|c| c.held_out.iter().chain(&c.answers)).map(|m| m.bytes);
    let bytes = all.iter().filter_map(|(_, c)| c.peak).chain(on_the_way).filter(|b| *b > 0);
    let x = Range::around(bytes.map(|b| b as f64), true, false);
    for (place, figure) in places {
        let last = place.bottom() >= rect.bottom() - 1.0;
        let trail = mine.filter(|_| figure != Figure::Loss).map_or(&[][..], |c| figure.of(c));
        let values = all.iter().filter_map(|(_, c)| value(c, figure)).chain(trail.iter().map(|m| m.value));
        let y = if figure.share() { Range::from_zero(1.0) } else { Range::around(values, false, true) }.with_room(0.04);
        let p = Palette::of(ui.theme());
        let title = title(figure);
        let chart = sides(figure, (x, y), &title, last);
        let Some(drawn) = chart.show(ui, place, move |plot| on_its_way(plot, trail, x, p)) else { return };
        for (i, course) in &all {
            let (Some(bytes), Some(v)) = (course.peak, value(course, figure)) else { continue };
            let at = drawn.transform.position_from_point(&PlotPoint::new(x.place(bytes as f64), v));
            if drawn.transform.frame().expand(1.0).contains(at) {
                point(ui, (*i, *i == 0), course, figure, v, at, linked, actions);
            }
        }
    }
}

fn title(figure: Figure) -> String {
    match figure.share() {
        true => format!("{}, more is better ↑", figure.label()),
        false => format!("{} (nats), less is better ↓", figure.label()),
    }
}

fn sides<'a>(figure: Figure, (x, y): (Range, Range), title: &'a str, last: bool) -> Chart<'a> {
    let write = if figure.share() { words::percent } else { words::number };
    Chart {
        name: format!("learning bytes {}", figure.share()),
        x: Side {
            range: x,
            binary: true,
            write: Box::new(|v| words::bytes(v as u64)),
            title: if last { "measured peak in bytes →" } else { "" },
        },
        y: Side { range: y, binary: false, write: Box::new(write), title },
        group: Some(Id::unique("learning bytes")),
        sense: Sense::CLICK | Sense::DRAG,
    }
}

/// The trail that the run on screen came by: its values so far at the peak it had then.
fn on_its_way(plot: &mut PlotUi<'_>, trail: &[Mark], x: Range, p: &Palette) {
    let mut at: Vec<[f64; 2]> =
        trail.iter().filter(|m| m.bytes > 0).map(|m| [x.place(m.bytes as f64), m.value]).collect();
    plot.line(chart::line("on its way", at.clone(), Stroke::new(1.0, p.accent.gamma_multiply(0.6)), None));
    at.pop();
    let ink = p.accent.gamma_multiply(0.8);
    plot.add(Marks::new("on its way", at, marks::mark(p, 0, false), 2.5, ink).hollow(p.background));
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
    ui.painter().add(mark.shape(at, if here { 5.5 } else { 4.5 }, ink, ink));
    response.on_hover_text(format!("{name}\n{}\nDouble-click opens it.", course.label));
}
