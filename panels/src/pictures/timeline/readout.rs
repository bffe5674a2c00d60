//! The figures of one moment: beside the picture, where they are the legend too, and in the tooltip.

use egui::{Align2, FontId, Pos2, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use super::{Frame, TimelineState, paint};
use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::{GRID, TEXT};
use crate::view::UsedFor;
use crate::words;

/// What the pointer is on within the stack of a moment.
pub fn used_for_at(frame: &Frame<'_>, moment: usize, p: Pos2) -> Option<UsedFor> {
    let held = frame.data.moments.get(moment)?.held[frame.tier as usize];
    let mut sum = 0u64;
    UsedFor::ALL.into_iter().filter(|u| !frame.hidden[*u as usize]).find(|u| {
        let low = frame.y(sum as f64);
        sum = sum.saturating_add(held[*u as usize]);
        let high = frame.y(sum as f64);
        held[*u as usize] > 0 && p.y <= low && p.y >= high
    })
}

/// The exact bytes of a moment.
pub fn tooltip(ui: &mut Ui, frame: &Frame<'_>, moment: usize, x: f32) {
    let p = frame.palette;
    ui.label(egui::RichText::new(frame.words(moment)).color(p.text));
    let Some(held) = frame.data.moments.get(moment).map(|m| m.held[frame.tier as usize]) else { return };
    egui::Grid::new("timeline tooltip").num_columns(2).spacing(vec2(4.0 * GRID, 2.0)).min_row_height(4.0 * GRID).show(
        ui,
        |ui| {
            let mut line = |name: &str, bytes: u64, ink| {
                ui.label(egui::RichText::new(name).size(TEXT[0]).color(ink));
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    ui.label(egui::RichText::new(words::exact(bytes)).font(say::figures()).color(ink));
                });
                ui.end_row();
            };
            for used_for in
                UsedFor::ALL.into_iter().rev().filter(|u| held[*u as usize] > 0 && !frame.hidden[*u as usize])
            {
                line(used_for.label(), held[used_for as usize], p.weak_text);
            }
            let total = frame.totals.bytes.get(moment).copied().unwrap_or(0);
            line("in all", total, p.text);
            match frame.limit() {
                Some(limit) if total <= limit => line("below the memory limit by", limit - total, p.weak_text),
                Some(limit) => line("over the memory limit by", total - limit, p.alarm),
                None => {}
            }
        },
    );
    let pixel = (frame.window.end - frame.window.start) / f64::from(frame.plot.width());
    let at = frame.seconds(x);
    let near = frame.data.evicted.iter().filter(|(s, _)| (s - at).abs() <= 2.0 * pixel);
    let rows = near.fold(0u64, |sum, (_, rows)| sum.saturating_add(*rows));
    if rows > 0 {
        say::note(ui, format!("{} rows left the cache here", words::count(rows)));
    }
}

/// The figures beside the picture: the moment, what it holds, and of what; each line hides and shows its part.
pub fn show(
    ui: &Ui,
    rect: Rect,
    frame: &Frame<'_>,
    state: &mut TimelineState,
    at: usize,
    what: &str,
    linked: &mut Linked,
) {
    let p = frame.palette;
    let painter = ui.painter();
    let left = rect.left() + 4.0 * GRID;
    painter.vline(rect.left(), rect.y_range(), egui::Stroke::new(1.0, p.line));
    let total = frame.totals.bytes.get(at).copied().unwrap_or(0);
    let mut y = rect.top();
    let mut line = |text: &str, font: FontId, ink| {
        let galley = painter.layout(text.to_owned(), font, ink, rect.right() - left);
        let high = galley.size().y;
        painter.galley(pos2(left, y), galley, ink);
        y += high + GRID;
    };
    line(what, say::captions(), p.weak_text);
    line(&words::bytes(total), FontId::monospace(TEXT[3]), p.text);
    line(&frame.words(at), say::captions(), p.text);
    match frame.limit() {
        Some(limit) if total <= limit => {
            let free = format!("{} free below the limit", words::bytes(limit - total));
            line(&free, say::captions(), p.weak_text);
        }
        Some(limit) => line(&format!("{} over the limit", words::bytes(total - limit)), say::captions(), p.alarm),
        None => line("no memory limit", say::captions(), p.weak_text),
    }
    y += 2.0 * GRID;
    // Top of the stack first, as it lies.
    for used_for in UsedFor::ALL.into_iter().rev().filter(|u| frame.totals.present[*u as usize]) {
        let row = Rect::from_min_size(pos2(left - 2.0 * GRID, y), vec2(rect.right() - left + 2.0 * GRID, 6.0 * GRID));
        if row.bottom() > rect.bottom() {
            break;
        }
        let bytes = frame.data.moments.get(at).map_or(0, |m| m.held[frame.tier as usize][used_for as usize]);
        entry(ui, row, frame, state, used_for, Some(bytes), linked);
        y = row.bottom();
    }
}

/// The legend alone, in one line, where there is no room beside the picture.
pub fn legend(ui: &Ui, strip: Rect, frame: &Frame<'_>, state: &mut TimelineState, linked: &mut Linked) {
    let mut x = strip.left() - 2.0 * GRID;
    for used_for in UsedFor::ALL.into_iter().filter(|u| frame.totals.present[*u as usize]) {
        let galley = ui.painter().layout_no_wrap(used_for.label().to_owned(), say::captions(), frame.palette.text);
        let wide = galley.size().x + 8.0 * GRID;
        if x + wide > strip.right() + GRID {
            break;
        }
        let row = Rect::from_min_size(pos2(x, strip.top()), vec2(wide, strip.height()));
        entry(ui, row, frame, state, used_for, None, linked);
        x += wide;
    }
}

fn entry(
    ui: &Ui,
    row: Rect,
    frame: &Frame<'_>,
    state: &mut TimelineState,
    used_for: UsedFor,
    bytes: Option<u64>,
    linked: &mut Linked,
) {
    let p = frame.palette;
    let shown = !state.hidden[used_for as usize];
    let response = ui.interact(row, egui::Id::unique(("timeline legend", used_for)), Sense::click());
    let name = format!("Show {}", used_for.label());
    response.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, shown, &name));
    let value = bytes.map(words::exact);
    ui.accesskit_node_builder(response.id, |node| {
        if let Some(value) = &value {
            node.set_value(value.clone());
        }
    });
    if response.hovered() || response.has_focus() {
        linked.used_for = Some(used_for);
    }
    if linked.used_for == Some(used_for) {
        ui.painter().rect_filled(row, 4.0, p.raised);
    }
    let square = Rect::from_center_size(pos2(row.left() + 3.5 * GRID, row.center().y), vec2(12.0, 12.0));
    paint::swatch(ui, square, p.used_for(used_for), shown);
    let ink = if shown { p.text } else { p.weak_text };
    let at = pos2(square.right() + 1.5 * GRID, row.center().y);
    ui.painter().text(at, Align2::LEFT_CENTER, used_for.label(), say::captions(), ink);
    if let Some(bytes) = bytes {
        let at = pos2(row.right() - GRID, row.center().y);
        ui.painter().text(at, Align2::RIGHT_CENTER, words::bytes(bytes), say::figures(), ink);
    }
    say::focus_ring(ui, &response);
    if response.clicked() {
        state.hidden[used_for as usize] = shown;
    }
    response.on_hover_text(if shown { "Leave it out of the picture" } else { "Show it again" });
}
