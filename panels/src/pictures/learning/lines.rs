//! Curves over steps or seconds: losses above, shares that are right below, one line to read both at.

use egui::{Align2, EventFilter, Id, Key, Painter, Pos2, Rect, Sense, Shape, Stroke, Ui, WidgetInfo, accesskit, pos2};

use super::{Figure, LearningState, Over, by, inner, smooth};
use crate::pictures::accuracy::axis::Axis as Side;
use crate::pictures::accuracy::marks;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette};
use crate::view::{Course, Mark};
use crate::words;

/// The run on screen and the others.
pub type Runs<'a> = (Option<&'a Course>, &'a [&'a Course]);

/// One of the two plots.
struct Plot {
    inner: Rect,
    x: Side,
    y: Side,
    over: Over,
}

impl Plot {
    fn at(&self, m: &Mark) -> Pos2 {
        let x = match self.over {
            Over::Seconds => m.seconds,
            _ => m.step as f64,
        };
        pos2(
            self.inner.left() + self.x.place(x) as f32 * self.inner.width(),
            self.inner.bottom() - self.y.place(m.value) as f32 * self.inner.height(),
        )
    }
}

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
    let x = Side::from_zero(reach.chain(end).fold(0.0, f64::max));
    let (upper, lower) = match (losses.is_empty(), shares.is_empty()) {
        (_, true) => (Some(rect), None),
        (true, false) => (None, Some(rect)),
        (false, false) => {
            let (a, b) = rect.split_top_bottom_at_fraction(0.6);
            (Some(a), Some(b))
        }
    };
    let mut plots = Vec::new();
    for (place, figures, title) in
        [(upper, &losses, "loss (nats), less is better ↓"), (lower, &shares, "right, more is better ↑")]
    {
        let Some(place) = place else { continue };
        let inner = inner(place, place.bottom() >= rect.bottom() - 1.0);
        if !inner.is_positive() {
            return;
        }
        let share = figures.iter().any(|f| f.share());
        let values = all().flat_map(|c| figures.iter().flat_map(move |f| f.of(c))).map(|m| m.value);
        let y = if share { Side::from_zero(1.0) } else { Side::around(values, false, true) };
        let plot = Plot { inner, x, y, over };
        scales(ui, place, &plot, title, share, place.bottom() >= rect.bottom() - 1.0);
        let painter = ui.painter().with_clip_rect(inner.expand(GRID).intersect(ui.clip_rect()));
        for (i, course) in others.iter().enumerate() {
            for figure in figures.iter().filter(|f| **f != Figure::Loss || course.held_out.len() < 2) {
                other(&painter, &plot, i, course, *figure, ui);
            }
        }
        if let Some(course) = mine {
            figures.iter().for_each(|f| own(&painter, &plot, course, *f, ui));
        }
        plots.push(plot);
    }
    if let Some(course) = mine {
        read(ui, rect, &plots, course, over, state);
    }
}

fn scales(ui: &Ui, rect: Rect, plot: &Plot, title: &str, share: bool, last: bool) {
    let (p, painter, inner, font) = (Palette::of(ui.theme()), ui.painter(), plot.inner, say::captions());
    let quiet = Stroke::new(1.0, p.line.gamma_multiply(0.5));
    for tick in plot.y.ticks(((inner.height() / 48.0) as usize).max(2)) {
        let y = inner.bottom() - plot.y.place(tick) as f32 * inner.height();
        painter.hline(inner.x_range(), y, quiet);
        let words = if share { words::percent(tick) } else { words::number(tick) };
        painter.text(pos2(inner.left() - 2.0 * GRID, y), Align2::RIGHT_CENTER, words, font.clone(), p.weak_text);
    }
    for tick in plot.x.ticks(((inner.width() / 80.0) as usize).max(3)) {
        let x = inner.left() + plot.x.place(tick) as f32 * inner.width();
        painter.vline(x, inner.y_range(), quiet);
        if last {
            let at = pos2(x, inner.bottom() + 2.0 * GRID);
            painter.text(at, Align2::CENTER_TOP, words::number(tick), font.clone(), p.weak_text);
        }
    }
    painter.hline(inner.x_range(), inner.bottom(), Stroke::new(1.0, p.line));
    painter.text(rect.min, Align2::LEFT_TOP, title, font.clone(), p.weak_text);
    if last {
        let words = if plot.over == Over::Seconds { "seconds since the run began →" } else { "steps →" };
        painter.text(pos2(inner.right(), rect.bottom()), Align2::RIGHT_BOTTOM, words, font, p.weak_text);
    }
}

/// Points of a line, a column of pixels keeping its first, lowest, highest and last.
pub fn thinned(points: impl Iterator<Item = Pos2>) -> Vec<Pos2> {
    let mut out: Vec<Pos2> = Vec::new();
    let mut column: Option<(i64, [Pos2; 4])> = None;
    let flush = |column: Option<(i64, [Pos2; 4])>, out: &mut Vec<Pos2>| {
        let Some((_, [first, low, high, last])) = column else { return };
        for p in [first, low, high, last] {
            if out.last() != Some(&p) {
                out.push(p);
            }
        }
    };
    for p in points.filter(|p| p.x.is_finite() && p.y.is_finite()) {
        let at = p.x.floor() as i64;
        match &mut column {
            Some((c, [_, low, high, last])) if *c == at => {
                if p.y < low.y {
                    *low = p;
                }
                if p.y > high.y {
                    *high = p;
                }
                *last = p;
            }
            _ => {
                flush(column, &mut out);
                column = Some((at, [p; 4]));
            }
        }
    }
    flush(column, &mut out);
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

fn own(painter: &Painter, plot: &Plot, course: &Course, figure: Figure, ui: &Ui) {
    let p = Palette::of(ui.theme());
    let (ink, width, dotted) = look(p, figure);
    let marks = figure.of(course);
    let line = |points: Vec<Pos2>, stroke: Stroke| {
        if points.len() > 1 {
            painter.add(Shape::line(points, stroke));
        } else if let [at] = points[..] {
            painter.circle_filled(at, 2.0, stroke.color);
        }
    };
    if figure == Figure::Loss {
        line(thinned(marks.iter().map(|m| plot.at(m))), Stroke::new(1.0, ink.gamma_multiply(0.35)));
        let smoothed: Vec<Mark> = smooth(marks).collect();
        line(thinned(smoothed.iter().map(|m| plot.at(m))), Stroke::new(width, ink));
        return;
    }
    let points = thinned(marks.iter().map(|m| plot.at(m)));
    line(points.clone(), Stroke::new(width, ink));
    if dotted && points.len() < 120 {
        for at in points {
            painter.circle(at, 3.5, if figure == Figure::Tokens { p.background } else { ink }, Stroke::new(1.5, ink));
        }
    }
}

fn other(painter: &Painter, plot: &Plot, i: usize, course: &Course, figure: Figure, ui: &Ui) {
    let p = Palette::of(ui.theme());
    let mark = marks::mark(p, i, true);
    let ink = p.weak_text.gamma_multiply(0.75);
    let points = thinned(figure.of(course).iter().map(|m| plot.at(m)));
    if points.len() > 1 {
        mark.line(painter, &points, 1.0, ink);
    }
    if let Some(last) = points.last() {
        mark.point(painter, *last, 3.5, figure != Figure::Tokens, ink, p.background);
    }
}

/// Reads the values at a step: where the pointer is, or where the arrow keys have moved to.
fn read(ui: &Ui, rect: Rect, plots: &[Plot], course: &Course, over: Over, state: &mut LearningState) {
    let Some(first) = plots.first() else { return };
    let area =
        Rect::from_min_max(first.inner.min, pos2(first.inner.right(), plots.last().map_or(0.0, |p| p.inner.bottom())));
    let response = ui.interact(area, Id::unique("learning read"), Sense::click_and_drag());
    let mut steps: Vec<Mark> = course.loss.iter().chain(&course.held_out).copied().collect();
    steps.sort_by_key(|m| m.step);
    let Some(last) = steps.last().map(|m| m.step) else { return };
    if let Some(pointer) = response.hover_pos() {
        let nearest = steps.iter().min_by(|a, b| {
            let far = |m: &Mark| (first.at(m).x - pointer.x).abs();
            far(a).total_cmp(&far(b))
        });
        state.at = nearest.map(|m| m.step);
    } else if !response.has_focus() {
        state.at = None;
    }
    let now = state.at.unwrap_or(last);
    if response.has_focus() {
        let filter = EventFilter { horizontal_arrows: true, ..EventFilter::default() };
        ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
        let by = ui.input(|i| {
            i64::from(i.num_presses(Key::ArrowRight) as i32 - i.num_presses(Key::ArrowLeft) as i32)
                + i64::from(i.num_accesskit_action_requests(response.id, accesskit::Action::Increment) as i32)
                - i64::from(i.num_accesskit_action_requests(response.id, accesskit::Action::Decrement) as i32)
        });
        state.at = Some(now.saturating_add_signed(by).min(last));
    }
    response.widget_info(|| WidgetInfo::slider(true, now as f64, "Step read"));
    ui.accesskit_node_builder(response.id, |node| {
        node.set_value(spoken(course, now));
        node.set_min_numeric_value(0.0);
        node.set_max_numeric_value(last as f64);
        node.add_action(accesskit::Action::Increment);
        node.add_action(accesskit::Action::Decrement);
    });
    say::focus_ring(ui, &response);
    let Some(at) = state.at else { return };
    let p = Palette::of(ui.theme());
    let Some(mark) = by(&steps, at).or(steps.first().copied()) else { return };
    let x = first.at(&mark).x;
    ui.painter().vline(x, area.y_range(), Stroke::new(1.0, p.text.gamma_multiply(0.4)));
    let words = if over == Over::Seconds {
        format!("{} s, step {}", words::number(mark.seconds), words::count(mark.step))
    } else {
        format!("step {}", words::count(mark.step))
    };
    say::plate(ui, pos2(x, rect.top()), Align2::CENTER_TOP, &words, p.text, p.raised);
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
        let value = |i: usize| ((i * 7919) % 1000) as f32;
        let points = (0..100_000).map(|i| pos2(i as f32 * 0.003, value(i)));
        let thin = thinned(points.clone());
        assert!(thin.len() <= 4 * 301, "{}", thin.len());
        for column in 0..300 {
            let of = |all: &mut dyn Iterator<Item = Pos2>| {
                all.filter(|p| p.x.floor() as i64 == column)
                    .fold((f32::MAX, f32::MIN), |(low, high), p| (low.min(p.y), high.max(p.y)))
            };
            assert_eq!(of(&mut points.clone()), of(&mut thin.iter().copied()), "column {column}");
        }
        assert_eq!(thinned([pos2(1.0, f32::NAN), pos2(2.0, 5.0)].into_iter()), [pos2(2.0, 5.0)]);
    }
}
