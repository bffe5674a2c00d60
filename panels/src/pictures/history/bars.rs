//! Bars of bytes on one linear scale.

use egui::{Align2, Id, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{BytesBar, UsedFor};
use crate::words;

/// A bar in `rect`, whose whole width stands for `end` bytes.
pub fn show(ui: &Ui, rect: Rect, name: &str, bar: &BytesBar, end: f64, linked: &mut Linked) {
    let p = Palette::of(ui.theme());
    let scale = |bytes: u64| rect.left() + (bytes as f64 / end).min(1.0) as f32 * rect.width();
    let response = ui.interact(rect, Id::unique(("bar", name)), Sense::focusable_noninteractive());
    response.widget_info(|| WidgetInfo::labeled(Role::GraphicsObject, true, name));
    let value = || {
        let parts: Vec<_> = bar.segments.iter().map(|s| format!("{} {}", s.label, words::bytes(s.bytes))).collect();
        format!("{}: {}", words::bytes(bar.total()), parts.join(", "))
    };
    ui.accesskit_node_builder(response.id, |node| node.set_value(value()));
    let pointer = response.hover_pos();
    let (mut sum, mut under) = (0u64, None);
    for segment in &bar.segments {
        let from = scale(sum);
        sum = sum.saturating_add(segment.bytes);
        let part = Rect::from_min_max(pos2(from, rect.top()), pos2(scale(sum), rect.bottom()));
        let color = p.used_for(segment.used_for);
        if bar.measured {
            ui.painter().rect_filled(part, 0.0, color);
        } else {
            ui.painter().rect_stroke(part, 0.0, Stroke::new(1.5, color), StrokeKind::Inside);
        }
        let hovered = pointer.is_some_and(|at| part.contains(at));
        if hovered {
            under = Some(segment);
            linked.used_for = Some(segment.used_for);
        }
        if hovered || linked.used_for == Some(segment.used_for) {
            ui.painter().rect_stroke(part, 0.0, Stroke::new(1.5, p.text), StrokeKind::Inside);
        }
    }
    if let Some(limit) = bar.limit {
        ui.painter().vline(scale(limit), rect.y_range().expand(3.0), Stroke::new(2.0, p.text));
    }
    say::focus_ring(ui, &response);
    if let Some(segment) = under {
        response.on_hover_ui_at_pointer(|ui| {
            let share = segment.bytes as f64 / bar.total().max(1) as f64;
            ui.label(egui::RichText::new(&segment.label).color(p.text));
            say::note(ui, format!("{} · {}", words::exact(segment.bytes), words::percent(share)));
        });
    }
}

/// Both bars with their names and totals, one over the other.
pub fn pair(ui: &Ui, rect: Rect, names: &[String; 2], bars: &[BytesBar; 2], linked: &mut Linked) {
    let p = Palette::of(ui.theme());
    let end = BytesBar::scale_end(bars);
    let high = 0.5 * rect.height();
    for (i, (name, bar)) in names.iter().zip(bars).enumerate() {
        let top = rect.top() + i as f32 * high;
        let ink = p.weak_text;
        let at = pos2(rect.left(), top + 2.0);
        ui.painter().text(at, Align2::LEFT_TOP, format!("{} · {name}", ["A", "B"][i]), say::captions(), ink);
        let total = format!("{} at the peak", words::bytes(bar.total()));
        ui.painter().text(pos2(rect.right(), top + 2.0), Align2::RIGHT_TOP, total, say::figures(), p.text);
        let line = Rect::from_min_max(
            pos2(rect.left(), top + TEXT[0] + 2.0 * GRID),
            pos2(rect.right(), top + high - 2.0 * GRID),
        );
        show(ui, line, &format!("{} at its peak", ["A", "B"][i]), bar, end, linked);
    }
}

/// What each held by what it was for, and the difference: the legend of the bars.
pub fn differences(ui: &Ui, rect: Rect, bars: &[BytesBar; 2], linked: &mut Linked) {
    let p = Palette::of(ui.theme());
    let sum = |bar: &BytesBar, used_for: UsedFor| {
        bar.segments.iter().filter(|s| s.used_for == used_for).fold(0u64, |sum, s| sum.saturating_add(s.bytes))
    };
    let mut y = rect.top();
    for used_for in UsedFor::ALL {
        let [a, b] = [sum(&bars[0], used_for), sum(&bars[1], used_for)];
        let row = Rect::from_min_size(pos2(rect.left(), y), vec2(rect.width(), 5.0 * GRID));
        if a == 0 && b == 0 || row.bottom() > rect.bottom() {
            continue;
        }
        let response = ui.interact(row, Id::unique(("compared bytes", used_for)), Sense::focusable_noninteractive());
        let change = words::change(i64::try_from(i128::from(b) - i128::from(a)).unwrap_or(i64::MAX));
        let value = format!("A {}, B {}, {change}", words::bytes(a), words::bytes(b));
        response.widget_info(|| WidgetInfo::labeled(Role::GraphicsObject, true, used_for.label()));
        ui.accesskit_node_builder(response.id, |node| node.set_value(value.clone()));
        if response.hovered() || response.has_focus() {
            linked.used_for = Some(used_for);
        }
        if linked.used_for == Some(used_for) {
            ui.painter().rect_filled(row, 4.0, p.raised);
        }
        let square = Rect::from_center_size(pos2(row.left() + 2.5 * GRID, row.center().y), vec2(10.0, 10.0));
        ui.painter().rect_filled(square, 2.0, p.used_for(used_for));
        let put = |x: f32, align, text: &str, font, ink| {
            ui.painter().text(pos2(x, row.center().y), align, text, font, ink);
        };
        put(square.right() + 1.5 * GRID, Align2::LEFT_CENTER, used_for.label(), say::captions(), p.text);
        let right = row.right() - GRID;
        for (column, text) in [words::bytes(a), words::bytes(b), change].iter().enumerate() {
            put(right - (2 - column) as f32 * 92.0, Align2::RIGHT_CENTER, text, say::figures(), p.text);
        }
        y = row.bottom();
    }
}
