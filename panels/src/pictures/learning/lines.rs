//! Curves over steps or seconds: losses above, shares that are right below, one line to read both at.

use egui::{Align2, EventFilter, Id, Key, Rect, Response, Sense, Stroke, Ui, WidgetInfo, accesskit, pos2};
use egui_plot::{PlotResponse, PlotUi};

use super::{Figure, LearningState, Over, by, smooth};
use crate::pictures::chart::axis::Axis as Range;
use crate::pictures::chart::{self, Chart, Marks, Side, marks};
use crate::pictures::words as say;
use crate::theme::Palette;
use crate::view::{Course, Mark};
use crate::words;

/// The run on screen and the others.
pub type Runs<'a> = (Option<&'a Course>, &'a [&'a Course]);

/// Where a mark stands across: its step, or its seconds.
fn along(over: Over, m: &Mark) -> f64 {
    if over == Over::Seconds { m.seconds } else { m.step as f64 }
}

/// Draws both plots and what is pointed at in them.
pub fn show(ui: &mut Ui, rect: Rect, (mine, others): Runs<'_>, over: Over, state: &mut LearningState) {
    let on = |f: &Figure| !state.hidden.contains(f);
    let all = || mine.iter().copied().chain(others.iter().copied());
    let has = |f: &Figure| all().any(|c| !f.of(c).is_empty());
    let losses: Vec<Figure> = Figure::LOSSES.into_iter().filter(on).collect();
    let shares: Vec<Figure> = Figure::SHARES.into_iter().filter(on).filter(has).collect();
    // The end of the run on screen is known before it is there.
    let end = mine.filter(|c| over == Over::Steps && c.steps > 0).map(|c| c.steps as f64);
    let reach = all().flat_map(|c| Figure::ALL.into_iter().flat_map(|f| f.of(c))).map(|m| along(over, m));
    let x = Range::from_zero(reach.filter(|v| v.is_finite()).chain(end).fold(0.0, f64::max)).with_room(0.015);
    let places = match (losses.is_empty(), shares.is_empty()) {
        (_, true) => vec![(rect, &losses)],
        (true, false) => vec![(rect, &shares)],
        (false, false) => {
            // The lower one has the words below both.
            let (a, b) = rect.split_top_bottom_at_fraction(0.54);
            vec![(a, &losses), (b, &shares)]
        }
    };
    let mut drawn: Vec<PlotResponse<()>> = Vec::new();
    for (place, figures) in places {
        let (first, last) = (drawn.is_empty(), place.bottom() >= rect.bottom() - 1.0);
        let figures = figures.clone();
        let chart = sides(&figures, x, all, over, (first, last));
        let p = Palette::of(ui.theme());
        let shown = chart.show(ui, place, move |plot| {
            for (i, course) in others.iter().enumerate() {
                for figure in figures.iter().filter(|f| **f != Figure::Loss || course.held_out.len() < 2) {
                    other(plot, i, course, *figure, over, p);
                }
            }
            if let Some(course) = mine {
                figures.iter().for_each(|f| own(plot, course, *f, over, p));
            }
        });
        let Some(shown) = shown else { return };
        drawn.push(shown);
    }
    if let Some(course) = mine {
        read(ui, rect, &drawn, course, over, state);
    }
}

/// The sides of the chart of some figures: all losses, or all shares.
fn sides<'a, I: Iterator<Item = &'a Course>>(
    figures: &[Figure],
    x: Range,
    all: impl Fn() -> I,
    over: Over,
    (first, last): (bool, bool),
) -> Chart<'static> {
    let share = figures.iter().any(|f| f.share());
    let values = all().flat_map(|c| figures.iter().flat_map(move |f| f.of(c))).map(|m| m.value);
    let y = if share { Range::from_zero(1.0) } else { Range::around(values, false, true) }.with_room(0.04);
    let title = match (last, over) {
        (false, _) => "",
        (true, Over::Seconds) => "seconds since the run began →",
        (true, _) => "steps →",
    };
    Chart {
        name: format!("learning {share} {over:?}"),
        x: Side { range: x, binary: false, write: Box::new(words::number), title },
        y: Side {
            range: y,
            binary: false,
            write: Box::new(if share { words::percent } else { words::number }),
            title: if share { "right, more is better ↑" } else { "loss (nats), less is better ↓" },
        },
        group: Some(Id::unique(("learning", over))),
        // One of them is enough for the keyboard: both are read at the same step.
        sense: if first { Sense::click_and_drag() } else { Sense::CLICK | Sense::DRAG },
    }
}

/// Places of a line's points in the part of a plot that is in sight, a column of pixels keeping its first, lowest, highest and last.
fn places(plot: &PlotUi<'_>, over: Over, marks: impl Iterator<Item = Mark>) -> Vec<[f64; 2]> {
    let (seen, column) = (plot.plot_bounds(), plot.transform().dvalue_dpos()[0].abs());
    // A line that leaves the plot goes on to its next points.
    let (low, high) = (seen.min()[0] - seen.width(), seen.max()[0] + seen.width());
    let points = marks.map(|m| [along(over, &m), m.value]).filter(|[x, _]| (low..=high).contains(x));
    thinned(points, column)
}

/// Points of a line, a column so wide keeping its first, lowest, highest and last.
fn thinned(points: impl Iterator<Item = [f64; 2]>, column: f64) -> Vec<[f64; 2]> {
    let mut out: Vec<[f64; 2]> = Vec::new();
    let mut open: Option<(i64, [[f64; 2]; 4])> = None;
    let flush = |open: Option<(i64, [[f64; 2]; 4])>, out: &mut Vec<[f64; 2]>| {
        let Some((_, [first, low, high, last])) = open else { return };
        for p in [first, low, high, last] {
            if out.last() != Some(&p) {
                out.push(p);
            }
        }
    };
    for p in points.filter(|p| p.iter().all(|v| v.is_finite())) {
        let at = (p[0] / column).floor() as i64;
        match &mut open {
            Some((c, [_, low, high, last])) if *c == at => {
                if p[1] < low[1] {
                    *low = p;
                }
                if p[1] > high[1] {
                    *high = p;
                }
                *last = p;
            }
            _ => {
                flush(open, &mut out);
                open = Some((at, [p; 4]));
            }
        }
    }
    flush(open, &mut out);
    out
}

/// How a figure of the run on screen looks: colour, width, and whether its values are few enough to be points.
pub fn look(p: &Palette, figure: Figure) -> (egui::Color32, f32, bool) {
    match figure {
        Figure::Loss => (p.text, 1.75, false),
        Figure::HeldOut | Figure::Answers => (p.accent, 2.0, true),
        Figure::Tokens => (p.weak_text, 1.5, true),
    }
}

fn own(plot: &mut PlotUi<'_>, course: &Course, figure: Figure, over: Over, p: &Palette) {
    let (ink, width, dotted) = look(p, figure);
    let (marks, name) = (figure.of(course), figure.label());
    if figure == Figure::Loss {
        let every = places(plot, over, marks.iter().copied());
        let smoothed = places(plot, over, smooth(marks));
        plot.line(chart::line(name, every, Stroke::new(1.0, ink.gamma_multiply(0.35)), None));
        plot.line(chart::line(name, smoothed, Stroke::new(width, ink), None));
        return;
    }
    let points = places(plot, over, marks.iter().copied());
    plot.line(chart::line(name, points.clone(), Stroke::new(width, ink), None));
    if dotted && points.len() < 120 {
        let dots = Marks::new(name, points, marks::mark(p, 0, false), 3.5, ink);
        plot.add(if figure == Figure::Tokens { dots.hollow(p.background) } else { dots });
    }
}

fn other(plot: &mut PlotUi<'_>, i: usize, course: &Course, figure: Figure, over: Over, p: &Palette) {
    // The first mark is the run's on screen.
    let mark = marks::mark(p, i + 1, true);
    let ink = p.weak_text.gamma_multiply(0.75);
    let points = places(plot, over, figure.of(course).iter().copied());
    let end: Vec<[f64; 2]> = points.last().copied().into_iter().collect();
    plot.line(chart::line(&course.run, points, Stroke::new(1.0, ink), mark.dash));
    let end = Marks::new(&course.run, end, mark, 3.5, ink);
    plot.add(if figure == Figure::Tokens { end.hollow(p.background) } else { end });
}

/// Reads the values at a step: where the pointer is, or where the arrow keys have moved to.
fn read(ui: &Ui, rect: Rect, plots: &[PlotResponse<()>], course: &Course, over: Over, state: &mut LearningState) {
    let (Some(first), Some(last)) = (plots.first(), plots.last()) else { return };
    let frame = *first.transform.frame();
    let mut steps: Vec<Mark> = course.loss.iter().chain(&course.held_out).copied().collect();
    steps.sort_by_key(|m| m.step);
    let Some(end) = steps.last().map(|m| m.step) else { return };
    if let Some(pointer) = plots.iter().find_map(|p| p.response.hover_pos()) {
        let place = first.transform.value_from_position(pointer).x;
        let nearest = steps.iter().min_by(|a, b| {
            let far = |m: &Mark| (along(over, m) - place).abs();
            far(a).total_cmp(&far(b))
        });
        state.at = nearest.map(|m| m.step);
    } else if !first.response.has_focus() {
        state.at = None;
    }
    by_keys(ui, &first.response, end, state);
    spoken_slider(ui, &first.response, course, end, state);
    say::focus_ring(ui, &first.response);
    let Some(at) = state.at else { return };
    let p = Palette::of(ui.theme());
    let Some(mark) = by(&steps, at).or(steps.first().copied()) else { return };
    let x = first.transform.position_from_point_x(along(over, &mark));
    if !frame.x_range().contains(x) {
        return;
    }
    let down = frame.top()..=last.transform.frame().bottom();
    ui.painter().vline(x, down, Stroke::new(1.0, p.text.gamma_multiply(0.4)));
    let words = if over == Over::Seconds {
        format!("{} s, step {}", words::number(mark.seconds), words::count(mark.step))
    } else {
        format!("step {}", words::count(mark.step))
    };
    say::plate(ui, pos2(x, rect.top()), Align2::CENTER_TOP, &words, p.text, p.raised);
}

/// Moves the step read by the arrow keys, and by a screen reader's requests.
fn by_keys(ui: &Ui, response: &Response, end: u64, state: &mut LearningState) {
    if !response.has_focus() {
        return;
    }
    let filter = EventFilter { horizontal_arrows: true, ..EventFilter::default() };
    ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
    let by = ui.input(|i| {
        i64::from(i.num_presses(Key::ArrowRight) as i32 - i.num_presses(Key::ArrowLeft) as i32)
            + i64::from(i.num_accesskit_action_requests(response.id, accesskit::Action::Increment) as i32)
            - i64::from(i.num_accesskit_action_requests(response.id, accesskit::Action::Decrement) as i32)
    });
    state.at = Some(state.at.unwrap_or(end).saturating_add_signed(by).min(end));
}

/// What is read, for a screen reader: a slider whose value says every figure.
fn spoken_slider(ui: &Ui, response: &Response, course: &Course, end: u64, state: &LearningState) {
    let now = state.at.unwrap_or(end);
    response.widget_info(|| WidgetInfo::slider(true, now as f64, "Step read"));
    ui.accesskit_node_builder(response.id, |node| {
        node.set_value(spoken(course, now));
        node.set_min_numeric_value(0.0);
        node.set_max_numeric_value(end as f64);
        node.add_action(accesskit::Action::Increment);
        node.add_action(accesskit::Action::Decrement);
    });
}

/// What the values at a step are, in words.
pub fn spoken(course: &Course, step: u64) -> String {
    let mut out = format!("step {}", words::count(step));
    for figure in Figure::ALL {
        if let Some(m) = by(figure.of(course), step) {
            out += &format!(", {} {}", figure.label(), figure.value(m.value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_every_extreme_and_few_points() {
        let value = |i: usize| ((i * 7919) % 1000) as f64;
        let points = (0..100_000).map(|i| [f64::from(i) * 0.003, value(i as usize)]);
        let thin = thinned(points.clone(), 1.0);
        assert!(thin.len() <= 4 * 301, "{}", thin.len());
        for column in 0..300 {
            let of = |all: &mut dyn Iterator<Item = [f64; 2]>| {
                all.filter(|p| p[0].floor() as i64 == column)
                    .fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p[1]), high.max(p[1])))
            };
            assert_eq!(of(&mut points.clone()), of(&mut thin.iter().copied()), "column {column}");
        }
        assert_eq!(thinned([[1.0, f64::NAN], [2.0, 5.0]].into_iter(), 1.0), [[2.0, 5.0]]);
    }
}
