//! The stack and what stands around it: axes, phases, the memory limit, rows that left the cache.

use std::sync::Arc;

use egui::{Align2, Color32, Mesh, Rect, Shape, Stroke, Ui, pos2, vec2};

use super::{Frame, MeshKey, axis, decimate};
use crate::pictures::words as say;
use crate::theme::GRID;
use crate::view::UsedFor;
use crate::words;

/// Pixel columns of a stack, at most: more would be drawn and not seen. Half of them while it grows, when it is made anew with every
/// moment.
const COLUMNS: usize = 2000;

/// Axes with their marks and units, and the phases.
pub fn ground(ui: &Ui, frame: &Frame<'_>) {
    let (p, plot) = (frame.palette, frame.plot);
    let painter = ui.painter();
    for (bytes, words) in axis::bytes(frame.top, (plot.height() / 56.0).max(2.0) as usize) {
        let y = frame.y(bytes);
        painter.hline(plot.x_range(), y, Stroke::new(1.0, say::mix(p.background, p.line, 0.6)));
        painter.text(pos2(plot.left() - 2.0 * GRID, y), Align2::RIGHT_CENTER, words, say::figures(), p.weak_text);
    }
    let foot = if frame.evicted.height() > 0.0 { frame.evicted.bottom() } else { plot.bottom() };
    painter.hline(plot.x_range(), plot.bottom(), Stroke::new(1.0, p.line));
    let mut free = plot.left();
    for (seconds, words) in axis::seconds(&frame.window, (plot.width() / 90.0).max(2.0) as usize) {
        let x = frame.x(seconds);
        painter.vline(x, foot..=foot + GRID, Stroke::new(1.0, p.line));
        let galley = painter.layout_no_wrap(words, say::figures(), p.weak_text);
        let rect = Align2::CENTER_TOP.anchor_size(pos2(x, foot + 5.0), galley.size());
        if rect.left() >= free - 8.0 * GRID && rect.right() <= plot.right() + 4.0 * GRID {
            painter.galley(rect.min, galley, p.weak_text);
            free = rect.right() + 6.0 * GRID;
        }
    }
    painter.text(
        pos2(plot.center().x, foot + 6.0 * GRID),
        Align2::CENTER_TOP,
        "time since the run’s start",
        say::captions(),
        p.weak_text,
    );
    phases(ui, frame);
}

fn phases(ui: &Ui, frame: &Frame<'_>) {
    let p = frame.palette;
    let clip = Rect::from_min_max(frame.phases.min, pos2(frame.phases.right(), frame.plot.bottom()));
    let painter = ui.painter().with_clip_rect(clip.intersect(ui.clip_rect()));
    for (i, span) in frame.data.phases.iter().enumerate() {
        if span.seconds.1 < frame.window.start || span.seconds.0 > frame.window.end {
            continue;
        }
        let (from, to) = (frame.x(span.seconds.0).max(clip.left()), frame.x(span.seconds.1).min(clip.right()));
        let band = Rect::from_min_max(pos2(from, frame.phases.top()), pos2(to.max(from + 1.0), frame.phases.bottom()));
        let fill = if i % 2 == 0 { p.raised } else { say::mix(p.raised, p.line, 0.5) };
        painter.rect_filled(band, 0.0, fill);
        painter.vline(from, band.top()..=frame.plot.bottom(), Stroke::new(1.0, p.line));
        let galley = painter.layout_no_wrap(span.name.clone(), say::captions(), p.text);
        // A name that does not fit is found by hovering.
        if galley.size().x + 2.0 * GRID <= band.width() {
            let at = pos2(band.left() + 1.5 * GRID, band.center().y - 0.5 * galley.size().y);
            painter.galley(at, galley, p.text);
        }
    }
}

/// The stacked areas, made again only when something about them changed.
pub fn stack(ui: &Ui, frame: &Frame<'_>, mesh: &mut Arc<Mesh>, made_of: &mut Option<MeshKey>, dimmed: Option<UsedFor>) {
    let wide = (frame.plot.width() * ui.pixels_per_point()).round().max(1.0) as usize;
    let key = MeshKey {
        version: frame.totals.version,
        window: (frame.window.start, frame.window.end),
        plot: frame.plot,
        top: frame.top,
        columns: wide.min(if frame.data.live { COLUMNS / 2 } else { COLUMNS }),
        dimmed: dimmed.filter(|u| frame.totals.present[*u as usize] && !frame.hidden[*u as usize]),
        limit: frame.limit(),
        ink: frame.palette.background,
    };
    if *made_of != Some(key) {
        *mesh = Arc::new(build(frame, &key));
        *made_of = Some(key);
    }
    ui.painter().with_clip_rect(frame.plot.intersect(ui.clip_rect())).add(Shape::Mesh(Arc::clone(mesh)));
}

fn build(frame: &Frame<'_>, key: &MeshKey) -> Mesh {
    let columns = decimate::columns(frame.totals, frame.window.clone(), key.columns);
    let wide = frame.plot.width() / key.columns as f32;
    let x = |column: usize| frame.plot.left() + column as f32 * wide;
    // Neighbours in which the same moment holds are one.
    let mut runs: Vec<decimate::Column> = Vec::with_capacity(columns.len());
    for column in columns {
        match runs.last_mut() {
            Some(run)
                if run.to == column.from
                    && run.least == run.most
                    && run.least == column.least
                    && run.least == column.most =>
            {
                run.to = column.to;
                run.last = column.last;
            }
            _ => runs.push(column),
        }
    }
    let color = |used_for: UsedFor, weight: f32| {
        let away = key.dimmed.is_some_and(|only| only != used_for);
        say::mix(frame.palette.background, frame.palette.used_for(used_for), weight * if away { 0.35 } else { 1.0 })
    };
    let heap = |layer: &mut Layer, moment: usize, x: (f32, f32)| {
        let mut sum = 0u64;
        for used_for in UsedFor::ALL {
            let bytes = frame.data.moments[moment].held[frame.tier as usize][used_for as usize];
            if bytes > 0 && !frame.hidden[used_for as usize] {
                let (low, high) = (frame.y(sum as f64), frame.y(sum.saturating_add(bytes) as f64));
                sum = sum.saturating_add(bytes);
                layer.put(used_for, Rect::from_min_max(pos2(x.0, high), pos2(x.1, low)));
            }
        }
    };
    // What was held only for a part of a pixel is drawn fainter behind what was always held.
    let mut behind = Layer::new(UsedFor::ALL.map(|used_for| color(used_for, 0.55)));
    let mut front = Layer::new(UsedFor::ALL.map(|used_for| color(used_for, 1.0)));
    for run in &runs {
        let at = (x(run.from), x(run.to));
        if frame.totals.bytes[run.most] != frame.totals.bytes[run.least] {
            heap(&mut behind, run.most, at);
        }
        heap(&mut front, run.least, at);
    }
    let mut mesh = behind.done();
    mesh.append(front.done());
    edge(&mut mesh, frame, &runs, &x);
    if let Some(limit) = key.limit {
        for run in runs.iter().filter(|run| frame.totals.bytes[run.most] > limit) {
            let (high, low) = (frame.y(frame.totals.bytes[run.most] as f64), frame.y(limit as f64));
            let rect = Rect::from_min_max(pos2(x(run.from), high), pos2(x(run.to), low));
            mesh.add_colored_rect(rect, frame.palette.alarm.gamma_multiply(0.6));
        }
    }
    mesh
}

/// Rectangles of each category, of which neighbours of the same height become one.
struct Layer {
    mesh: Mesh,
    colors: [Color32; 9],
    open: [Option<Rect>; 9],
}

impl Layer {
    fn new(colors: [Color32; 9]) -> Self {
        Self { mesh: Mesh::default(), colors, open: [None; 9] }
    }

    fn put(&mut self, used_for: UsedFor, rect: Rect) {
        let (open, color) = (&mut self.open[used_for as usize], self.colors[used_for as usize]);
        match open {
            Some(open) if open.right() == rect.left() && open.y_range() == rect.y_range() => open.max.x = rect.right(),
            _ => {
                if let Some(before) = open.replace(rect) {
                    self.mesh.add_colored_rect(before, color);
                }
            }
        }
    }

    fn done(mut self) -> Mesh {
        for (open, color) in self.open.into_iter().zip(self.colors) {
            if let Some(rect) = open {
                self.mesh.add_colored_rect(rect, color);
            }
        }
        self.mesh
    }
}

/// The line along the top of the stack, steps and all.
fn edge(mesh: &mut Mesh, frame: &Frame<'_>, runs: &[decimate::Column], x: &dyn Fn(usize) -> f32) {
    let ink = say::mix(frame.palette.background, frame.palette.text, 0.85);
    let y = |moment: usize| frame.y(frame.totals.bytes[moment] as f64);
    let mut before: Option<(usize, f32)> = None;
    for run in runs {
        let (from, to) = (x(run.from), x(run.to));
        let (high, low) = (y(run.most), y(run.least));
        if run.most == run.least {
            mesh.add_colored_rect(Rect::from_min_max(pos2(from, high - 1.0), pos2(to, high)), ink);
        } else {
            mesh.add_colored_rect(Rect::from_min_max(pos2(from, high - 1.0), pos2(to, low)), ink.gamma_multiply(0.35));
            mesh.add_colored_rect(Rect::from_min_max(pos2(from, high - 1.0), pos2(to, high)), ink);
        }
        if let Some((end, level)) = before
            && end == run.from
        {
            let (a, b) = (level.min(high), level.max(high));
            mesh.add_colored_rect(Rect::from_min_max(pos2(from - 0.5, a - 1.0), pos2(from + 0.5, b)), ink);
        }
        before = Some((run.to, y(run.last)));
    }
}

/// What lies over the stack: the memory limit; and below it the rows that left the cache.
pub fn over(ui: &Ui, frame: &Frame<'_>) {
    let (p, plot) = (frame.palette, frame.plot);
    if let Some(limit) = frame.limit() {
        let words = format!("memory limit {}", words::bytes(limit));
        if limit as f64 <= frame.top {
            let y = frame.y(limit as f64);
            ui.painter().hline(plot.x_range(), y, Stroke::new(1.5, p.text));
            say::plate(ui, pos2(plot.right() - GRID, y - 3.0), Align2::RIGHT_BOTTOM, &words, p.text, p.background);
        } else {
            let words = format!("{words}, beyond this scale");
            say::plate(
                ui,
                pos2(plot.right() - GRID, plot.top() + 2.0),
                Align2::RIGHT_TOP,
                &words,
                p.weak_text,
                p.background,
            );
        }
    }
    if frame.evicted.height() > 0.0 {
        evictions(ui, frame);
    }
}

fn evictions(ui: &Ui, frame: &Frame<'_>) {
    let (p, lane) = (frame.palette, frame.evicted);
    let painter = ui.painter().with_clip_rect(lane.expand(1.0).intersect(ui.clip_rect()));
    let label = pos2(lane.left() - 2.0 * GRID, lane.center().y);
    ui.painter().text(label, Align2::RIGHT_CENTER, "rows gone", say::captions(), p.weak_text);
    let columns = (lane.width() / 2.0).max(1.0) as usize;
    let counts = decimate::counts(&frame.data.evicted, frame.window.clone(), columns);
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let wide = lane.width() / columns as f32;
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        // Logarithmic: the prompt's eviction is thousands of rows, a step's is a handful.
        let share = ((1 + count) as f64).ln() / (1.0 + most).ln();
        let high = 3.0 + share as f32 * (lane.height() - 4.0);
        let rect = Rect::from_min_size(
            pos2(lane.left() + i as f32 * wide, lane.bottom() - high),
            vec2((wide * 0.75).max(1.0), high),
        );
        painter.rect_filled(rect, 0.0, say::mix(p.background, p.used_for(UsedFor::KvCache), 0.9));
    }
    ui.painter().hline(lane.x_range(), lane.bottom(), Stroke::new(1.0, p.line));
}

/// The swatch of a category; hollow when it is hidden.
pub fn swatch(ui: &Ui, rect: Rect, color: Color32, filled: bool) {
    if filled {
        ui.painter().rect_filled(rect, 2.0, color);
    } else {
        ui.painter().rect_stroke(rect, 2.0, Stroke::new(1.5, color), egui::StrokeKind::Inside);
    }
}
