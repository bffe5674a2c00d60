//! The two bars: what would be held and what was held, on one linear scale with the memory limit as one line through both.

use egui::{
    Align, Color32, CornerRadius, CursorIcon, Id, Pos2, Rect, Response, Role, Sense, Shape, Stroke, StrokeKind, Ui,
    WidgetInfo, pos2, vec2,
};

use super::columns::Columns;
use super::{TopState, instant_of};
use crate::about::Subject;
use crate::kit::{self, BODY, SMALL};
use crate::shared::Shared;
use crate::theme::{GRID, Palette};
use crate::view::{BarSegment, Bars, BytesBar, Instant, Tier, Top, UsedFor};
use crate::words;

const BAR: f32 = 24.0;
const GAP: f32 = 4.0;
const THIN: f32 = 16.0;
const LEGEND: f32 = 24.0;
/// The longest a bar takes to reach its new length, in seconds.
const MOTION: f32 = 0.15;
/// Between the stripes of what is over the limit, in points.
const STRIPES: f32 = 6.0;

/// What the two bars show now.
struct Pair<'a> {
    predicted: Option<&'a Instant>,
    measured: Option<&'a Instant>,
}

impl<'a> Pair<'a> {
    fn bar(instant: Option<&'a Instant>, tier: Tier) -> Option<&'a BytesBar> {
        instant?.tiers.iter().find(|(t, _)| *t == tier).map(|(_, bar)| bar)
    }

    fn tier(&self, tier: Tier) -> [Option<&'a BytesBar>; 2] {
        [Self::bar(self.predicted, tier), Self::bar(self.measured, tier)]
    }

    /// Tiers other than the limited one where anything lives.
    fn elsewhere(&self) -> impl Iterator<Item = Tier> {
        [Tier::Host, Tier::Disk].into_iter().filter(|t| self.tier(*t).into_iter().flatten().any(|b| b.total() > 0))
    }
}

/// Draws the bars, the thin lines and the legend.
pub(crate) fn show(ui: &mut Ui, at: &Columns, top: &Top, state: &mut TopState, shared: &mut Shared<'_>) {
    let moment = shared.linked.moment;
    let pair = Pair {
        predicted: top.predicted.as_ref().and_then(|b| instant_of(b, &state.instant, moment)),
        measured: top.measured.as_ref().and_then(|b| instant_of(b, &state.instant, moment)),
    };
    let thin: Vec<Tier> = pair.elsewhere().collect();
    let height = 2.0 * BAR + GAP + THIN * thin.len() as f32 + LEGEND;
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let row = |y: f32, height: f32| Rect::from_x_y_ranges(at.bars.x_range(), rect.top() + y..=rect.top() + y + height);
    let rows = [row(0.0, BAR), row(BAR + GAP, BAR)];
    let device = pair.tier(Tier::Device);
    let drawn: Vec<BytesBar> = device.into_iter().flatten().cloned().collect();
    let limit = top.limit.bytes;
    let end = if drawn.is_empty() { limit.unwrap_or(0).max(1) as f64 * 1.1 } else { BytesBar::scale_end(&drawn) };
    let scale = Linear { left: at.bars.left(), width: at.bars.width(), end, still: state.dragging };
    let stale = top.measured.as_ref().is_some_and(|b| b.stale);
    let gpu = top.devices.iter().any(|d| d.chosen && d.gpu);
    let mut written = Vec::new();

    for (which, (bar, rect)) in device.into_iter().zip(rows).enumerate() {
        let measured = which == 1;
        label(ui, at, rect, if measured { "Measured" } else { "Predicted" });
        let p = kit::palette(ui);
        ui.painter().hline(rect.x_range(), rect.bottom(), Stroke::new(1.0, p.line));
        match bar {
            Some(bar) => paint(
                ui,
                rect,
                bar,
                &scale,
                Look { measured, stale: measured && stale, tier: Tier::Device },
                state,
                shared,
            ),
            None => written.push(nothing(ui, rect, top, measured)),
        }
        let area = Rect::from_x_y_ranges(at.readout.x_range(), rect.y_range());
        readout(ui, area, top, &pair, measured);
    }
    if let Some(limit) = limit {
        limit_line(ui, &scale, limit, (rows[0].top() - GAP, rows[1].bottom() + GAP), &written);
    }
    for (i, tier) in thin.iter().enumerate() {
        let area = row(2.0 * BAR + GAP + THIN * i as f32, THIN);
        thin_line(ui, at, area, *tier, pair.tier(*tier), &scale, gpu, (state, shared));
    }
    let legend_row = row(height - LEGEND, LEGEND);
    legend(ui, legend_row, device, state, shared);
    let area = Rect::from_x_y_ranges(at.readout.x_range(), legend_row.y_range());
    instants(ui, area, top, state, shared);
}

/// From bytes to points.
struct Linear {
    left: f32,
    width: f32,
    end: f64,
    /// While the slider is dragged, lengths follow at once.
    still: bool,
}

impl Linear {
    fn share(&self, bytes: u64) -> f32 {
        (bytes as f64 / self.end) as f32
    }

    /// The x of a share of the scale, on its way there; never beyond the end.
    fn x(&self, ui: &Ui, id: impl std::hash::Hash + std::fmt::Debug, share: f32) -> f32 {
        let time = if self.still { 0.0 } else { ui.style().animation_time.min(MOTION) };
        let share = ui.ctx().animate_value_with_time(Id::unique(("bar", id)), share.min(1.0), time);
        self.left + share * self.width
    }
}

#[derive(Clone, Copy)]
struct Look {
    measured: bool,
    stale: bool,
    tier: Tier,
}

fn label(ui: &Ui, at: &Columns, rect: Rect, text: &str) {
    let p = kit::palette(ui);
    let area = Rect::from_x_y_ranges(at.label.x_range(), rect.y_range());
    kit::line(ui.painter(), area, Align::Min, text, kit::words(BODY), p.text);
}

/// Says in a bar's place why there is none; returns where the words stand.
fn nothing(ui: &Ui, rect: Rect, top: &Top, measured: bool) -> Rect {
    let p = kit::palette(ui);
    let text = match () {
        () if measured => "Not run yet",
        () if !top.no_plan.is_empty() => top.no_plan.as_str(),
        () if top.model.name.is_empty() && top.model.opening.is_none() => {
            "Open a model to see where its bytes would go"
        }
        () => "Working it out…",
    };
    let inner = rect.shrink2(vec2(2.0 * GRID, 0.0));
    kit::line(ui.painter(), inner, Align::Min, text, kit::words(SMALL), p.weak_text)
}

fn paint(
    ui: &mut Ui,
    rect: Rect,
    bar: &BytesBar,
    scale: &Linear,
    look: Look,
    state: &mut TopState,
    shared: &mut Shared<'_>,
) {
    let p = kit::palette(ui);
    let (mut sum, total) = (0u64, bar.total());
    for (i, segment) in bar.segments.iter().enumerate().filter(|(_, s)| s.bytes > 0) {
        let left = scale.x(ui, (look.measured, look.tier, i, 0), scale.share(sum));
        sum = sum.saturating_add(segment.bytes);
        let right = scale.x(ui, (look.measured, look.tier, i, 1), scale.share(sum));
        let stretch = Rect::from_x_y_ranges(left..=right.max(left + 1.5), rect.y_range());
        let color = p.used_for(segment.used_for);
        let lit = state.lit == Some(segment.used_for);
        fill(ui, stretch, color, look, lit, p);
        let id = Id::unique(("bar segment", look.measured, look.tier as u8, i));
        let response = ui.interact(stretch.expand2(vec2(1.0, 0.0)), id, Sense::click());
        point_at(&response, segment, total, look, shared);
        kit::focus_ring(ui, &response, stretch);
    }
    if bar.overshoot() > 0 && !look.stale {
        let limit = scale.x(ui, "limit", scale.share(bar.limit.unwrap_or(0)));
        let right = scale.x(ui, (look.measured, "over"), scale.share(total));
        hatch(ui, Rect::from_x_y_ranges(limit..=right.max(limit), rect.y_range()), p);
    }
}

/// Predicted is outlined, measured is filled.
fn fill(ui: &Ui, stretch: Rect, color: Color32, look: Look, lit: bool, p: &Palette) {
    let inner =
        Rect::from_min_max(stretch.min, pos2((stretch.right() - 1.0).max(stretch.left() + 0.5), stretch.bottom()));
    let color = if look.stale { color.gamma_multiply(0.35) } else { color };
    if look.measured {
        ui.painter().rect_filled(inner, CornerRadius::same(2), color);
    } else {
        ui.painter().rect_filled(inner, CornerRadius::same(2), color.gamma_multiply(if lit { 0.45 } else { 0.2 }));
        ui.painter().rect_stroke(inner, CornerRadius::same(2), Stroke::new(1.5, color), StrokeKind::Inside);
    }
    if lit {
        ui.painter().rect_stroke(inner, CornerRadius::same(2), Stroke::new(1.5, p.text), StrokeKind::Inside);
    }
}

fn point_at(response: &Response, segment: &BarSegment, total: u64, look: Look, shared: &mut Shared<'_>) {
    let account = if look.measured { "Measured" } else { "Predicted" };
    let share = words::percent(segment.bytes as f64 / total.max(1) as f64);
    response.widget_info(|| {
        let name = format!("{account} {}, {}, {share}", segment.label, words::bytes(segment.bytes));
        WidgetInfo::labeled(Role::Button, true, name)
    });
    if response.hovered() || response.has_focus() {
        shared.linked.used_for = Some(segment.used_for);
        *shared.subject = Subject::Segment { measured: look.measured, tier: look.tier, label: segment.label.clone() };
    }
    if response.clicked() && !segment.governed_by.is_empty() {
        shared.linked.card = Some(segment.governed_by.clone());
    }
    let response = if segment.governed_by.is_empty() {
        response.clone()
    } else {
        response.clone().on_hover_cursor(CursorIcon::PointingHand)
    };
    response.on_hover_ui(|ui| {
        let p = kit::palette(ui);
        ui.set_max_width(420.0);
        kit::paragraph(ui, &segment.label, BODY, p.text);
        let exact = format!("{} · {share} of {}", words::exact(segment.bytes), words::bytes(total));
        ui.label(egui::RichText::new(exact).font(kit::figures(SMALL)).color(p.text));
        if !segment.formula.is_empty() {
            ui.label(egui::RichText::new(&segment.formula).font(kit::figures(SMALL)).color(p.weak_text));
        }
        if !segment.governed_by.is_empty() {
            kit::paragraph(ui, "Click to open the choice that governs it.", SMALL, p.weak_text);
        }
    });
}

/// Stripes over what does not fit.
fn hatch(ui: &Ui, rect: Rect, p: &Palette) {
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 0.0, p.alarm.gamma_multiply(0.18));
    let stroke = Stroke::new(1.5, p.alarm);
    let mut x = rect.left() - rect.height();
    let mut shapes = Vec::new();
    while x < rect.right() {
        shapes.push(Shape::line_segment([pos2(x, rect.bottom()), pos2(x + rect.height(), rect.top())], stroke));
        x += STRIPES;
    }
    painter.extend(shapes);
    ui.painter().rect_stroke(rect, 0.0, stroke, StrokeKind::Inside);
}

/// The limit through both bars; it stops short of the words in a bar's place.
fn limit_line(ui: &Ui, scale: &Linear, limit: u64, (top, bottom): (f32, f32), words: &[Rect]) {
    let p = kit::palette(ui);
    let x = scale.x(ui, "limit", scale.share(limit));
    let mut from = top;
    for words in words.iter().map(|w| w.expand(GAP)).filter(|w| w.x_range().contains(x)) {
        ui.painter().vline(x, from..=words.top().max(from), Stroke::new(2.0, p.text));
        from = words.bottom().min(bottom);
    }
    ui.painter().vline(x, from..=bottom, Stroke::new(2.0, p.text));
    let flag: Vec<Pos2> = vec![pos2(x - 4.0, top - 2.0), pos2(x + 4.0, top - 2.0), pos2(x, top + 4.0)];
    ui.painter().add(Shape::convex_polygon(flag, p.text, Stroke::NONE));
}

/// RAM or disk: predicted a hairline frame, measured filled below it, and the bytes in words.
fn thin_line(
    ui: &mut Ui,
    at: &Columns,
    area: Rect,
    tier: Tier,
    [predicted, measured]: [Option<&BytesBar>; 2],
    scale: &Linear,
    gpu: bool,
    (state, shared): (&mut TopState, &mut Shared<'_>),
) {
    let p = kit::palette(ui);
    let label = Rect::from_x_y_ranges(at.label.x_range(), area.y_range());
    kit::line(ui.painter(), label, Align::Min, &kit::sentence(tier.label(gpu)), kit::words(SMALL), p.weak_text);
    let both = predicted.is_some() && measured.is_some();
    for (bar, measured) in [(predicted, false), (measured, true)] {
        let y = area.center().y
            + match (measured, both) {
                (_, false) => -2.0,
                (false, true) => -4.5,
                (true, true) => 0.5,
            };
        if let Some(bar) = bar {
            let line = Rect::from_x_y_ranges(area.x_range(), y..=y + 4.0);
            paint(ui, line, bar, scale, Look { measured, stale: false, tier }, state, shared);
            if bar.total() as f64 > scale.end {
                // Longer than the scale: it goes on beyond the edge.
                let tip = pos2(area.right() + 5.0, y + 2.0);
                ui.painter().add(Shape::convex_polygon(
                    vec![tip + vec2(-4.0, -4.0), tip, tip + vec2(-4.0, 4.0)],
                    p.weak_text,
                    Stroke::NONE,
                ));
            }
        }
    }
    let figure = |bar: Option<&BytesBar>| bar.map_or_else(|| words::UNKNOWN.to_owned(), |b| words::bytes(b.total()));
    let text = match measured {
        Some(_) => format!("{} predicted, {} measured", figure(predicted), figure(measured)),
        None => figure(predicted),
    };
    let readout = Rect::from_x_y_ranges(at.readout.x_range(), area.y_range());
    kit::line(ui.painter(), readout, Align::Min, &text, kit::words(SMALL), p.weak_text);
}

fn readout(ui: &Ui, area: Rect, top: &Top, pair: &Pair<'_>, measured: bool) {
    let p = kit::palette(ui);
    let total = |instant: Option<&Instant>| Pair::bar(instant, Tier::Device).map(BytesBar::total);
    let (predicted, held) = (total(pair.predicted), total(pair.measured));
    let Some(bytes) = (if measured { held } else { predicted }) else { return };
    let instant = if measured { pair.measured } else { pair.predicted };
    let bars = if measured { top.measured.as_ref() } else { top.predicted.as_ref() };
    let mut said = String::new();
    match (bars, measured, predicted) {
        (Some(Bars { stale: true, .. }), true, _) => said.push_str("from an earlier configuration"),
        (Some(Bars { live: true, .. }), true, _) => said.push_str("so far"),
        (_, true, Some(planned)) => said.push_str(&gap(planned, bytes)),
        _ => {
            said.push_str(instant.map_or("", |i| i.name.as_str()));
            if let Some((_, decode)) = top.predicted_speed {
                said.push_str(" · ");
                said.push_str(&words::speed(decode));
                if !top.probed {
                    said.push_str(" (a guess)");
                }
            }
        }
    }
    let weight = if measured && bars.is_some_and(|b| b.stale) { p.weak_text } else { p.text };
    let figure = words::bytes(bytes);
    let font = kit::figures(crate::theme::TEXT[2]);
    let wide = kit::width(ui.painter(), &figure, font.clone());
    kit::line(ui.painter(), area, Align::Min, &figure, font, weight);
    let rest = Rect::from_min_max(pos2(area.left() + wide.max(72.0) + 2.0 * GRID, area.top()), area.max);
    kit::line(ui.painter(), rest, Align::Min, &said, kit::words(SMALL), p.weak_text);
}

/// How far the prediction was from what was measured, in words.
pub(crate) fn gap(predicted: u64, measured: u64) -> String {
    match predicted.cmp(&measured) {
        std::cmp::Ordering::Equal => "as predicted, to the byte".into(),
        std::cmp::Ordering::Greater => format!("prediction {} too high", words::bytes(predicted - measured)),
        std::cmp::Ordering::Less => format!("prediction {} too low", words::bytes(measured - predicted)),
    }
}

/// Every use with its bytes, in the order of the bars; those that find no room are named on hover.
fn legend(ui: &mut Ui, rect: Rect, device: [Option<&BytesBar>; 2], state: &TopState, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    let sum = |bar: Option<&BytesBar>, what: UsedFor| {
        bar.map_or(0, |b| b.segments.iter().filter(|s| s.used_for == what).fold(0u64, |n, s| n.saturating_add(s.bytes)))
    };
    let filled = device[0].is_none();
    let entries: Vec<(UsedFor, u64)> = UsedFor::ALL
        .into_iter()
        .map(|what| (what, sum(if filled { device[1] } else { device[0] }, what)))
        .filter(|(what, bytes)| *bytes > 0 || sum(device[1], *what) > 0)
        .collect();
    let mut x = rect.left();
    for (i, (what, bytes)) in entries.iter().enumerate() {
        let job = kit::pieces(&[
            (what.label(), kit::words(SMALL), p.weak_text),
            ("  ", kit::words(SMALL), p.weak_text),
            (&words::bytes(*bytes), kit::figures(SMALL), p.text),
        ]);
        let galley = ui.painter().layout_job(job);
        let wide = 16.0 + galley.size().x;
        let last = i + 1 == entries.len();
        if x + wide > rect.right() - if last { 0.0 } else { 72.0 } {
            let rest: Vec<String> =
                entries[i..].iter().map(|(w, b)| format!("{}  {}", w.label(), words::bytes(*b))).collect();
            let area = Rect::from_min_max(pos2(x, rect.top()), rect.max);
            let response = ui.interact(area, Id::unique("rest of the legend"), Sense::hover());
            kit::line(
                ui.painter(),
                area,
                Align::Min,
                &format!("and {} more", rest.len()),
                kit::words(SMALL),
                p.weak_text,
            );
            response.on_hover_text(rest.join("\n"));
            return;
        }
        let area = Rect::from_min_size(pos2(x, rect.top()), vec2(wide, rect.height()));
        let response = ui.interact(area, Id::unique(("legend", what.label())), Sense::hover());
        response.widget_info(|| {
            WidgetInfo::labeled(Role::Label, true, format!("{} {}", what.label(), words::bytes(*bytes)))
        });
        if response.hovered() {
            shared.linked.used_for = Some(*what);
        }
        let mark = Rect::from_center_size(pos2(x + 5.0, rect.center().y), vec2(10.0, 10.0));
        let look = Look { measured: filled, stale: false, tier: Tier::Device };
        fill(ui, mark, p.used_for(*what), look, state.lit == Some(*what), p);
        ui.painter().galley(pos2(x + 16.0, rect.center().y - galley.size().y / 2.0), galley, p.text);
        response.on_hover_text(words::exact(*bytes));
        x += wide + 5.0 * GRID;
    }
}

/// The instants to switch between: the peak, then the phases.
fn instants(ui: &mut Ui, rect: Rect, top: &Top, state: &mut TopState, shared: &mut Shared<'_>) {
    let Some(bars) = top.predicted.as_ref().or(top.measured.as_ref()) else { return };
    if bars.instants.len() < 2 {
        return;
    }
    let chosen = instant_of(bars, &state.instant, None).map(|i| i.name.clone());
    kit::row(ui, rect, |ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        for (i, instant) in bars.instants.iter().enumerate() {
            let text = if i == 0 { "Peak".to_owned() } else { kit::sentence(&instant.name) };
            let press = kit::Press {
                weight: kit::Weight::Quiet,
                on: chosen.as_ref() == Some(&instant.name),
                role: Role::RadioButton,
                size: SMALL,
                ..kit::Press::new(&text)
            };
            let response = press.show(ui);
            if response.clicked() {
                state.instant = if i == 0 { String::new() } else { instant.name.clone() };
                if shared.linked.moment.take().is_some() {
                    shared.actions.push(crate::Action::ScrubTo(None));
                }
            }
            response.on_hover_text(format!("Show the bars at this instant: {}", instant.name));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_said_with_its_direction() {
        assert_eq!(gap(292 << 20, 286 << 20), "prediction 6 MiB too high");
        assert_eq!(gap(1 << 20, 3 << 20), "prediction 2 MiB too low");
        assert_eq!(gap(7, 7), "as predicted, to the byte");
    }
}
