//! Bars of bytes on one linear scale.

use egui::{Id, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2};

use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::BytesBar;
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
        ui.painter().text(at, egui::Align2::LEFT_TOP, format!("{} · {name}", ["A", "B"][i]), say::captions(), ink);
        let total = format!("{} at the peak", words::bytes(bar.total()));
        ui.painter().text(pos2(rect.right(), top + 2.0), egui::Align2::RIGHT_TOP, total, say::figures(), p.text);
        let line = Rect::from_min_max(
            pos2(rect.left(), top + TEXT[0] + 2.0 * GRID),
            pos2(rect.right(), top + high - 2.0 * GRID),
        );
        show(ui, line, &format!("{} at its peak", ["A", "B"][i]), bar, end, linked);
    }
}
