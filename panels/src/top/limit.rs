//! The memory limit: a field that reads sizes as people write them, and a logarithmic slider with round sizes below it and
//! familiar cards above it.

use egui::accesskit::Action as Ask;
use egui::{
    Align, CornerRadius, CursorIcon, EventFilter, Id, Key, Rect, Response, Role, Sense, Stroke, StrokeKind, TextEdit,
    Ui, WidgetInfo, pos2, vec2,
};

use super::scale::{Scale, Wish, place};
use super::{TopState, columns::Columns};
use crate::action::Action;
use crate::kit::{self, BODY, SMALL};
use crate::theme::{GRID, Palette};
use crate::view::{Limit, Tick};
use crate::words;

/// The key the limit is set by.
pub(crate) const KEY: &str = "budget.device";
/// How high the row is: names, rail, sizes.
pub(crate) const HEIGHT: f32 = 56.0;
/// How long a pause ends a series of steps by keyboard, in seconds.
const SERIES: f64 = 1.0;

/// The slider's id, so that shortcuts know when it has focus.
pub(crate) fn slider_id() -> Id {
    Id::unique("memory limit slider")
}

/// Bytes as the configuration keeps them: exact.
pub(crate) fn toml(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

fn set(bytes: u64, gesture: Option<u64>) -> Action {
    let what = format!("Memory limit {}", words::bytes(bytes));
    Action::Set { what, sets: vec![(KEY.into(), toml(bytes))], gesture }
}

/// Draws the row.
pub(crate) fn show(ui: &mut Ui, at: &Columns, limit: &Limit, state: &mut TopState, actions: &mut Vec<Action>) {
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), HEIGHT), Sense::hover());
    let p = kit::palette(ui);
    let middle = |from: f32, to: f32| Rect::from_x_y_ranges(from..=to, rect.center().y - 14.0..=rect.center().y + 14.0);
    let field_left = at.bars.left();
    kit::line(
        ui.painter(),
        middle(at.label.left(), at.label.right()),
        Align::Min,
        "Memory limit",
        kit::words(BODY),
        p.text,
    );
    field(ui, middle(field_left, field_left + 96.0), limit, state, actions);
    let track = Rect::from_x_y_ranges(field_left + 96.0 + 5.0 * GRID..=at.bars.right(), rect.y_range());
    slider(ui, track, limit, state, actions);
    let free = limit.free.map_or_else(String::new, |free| format!("{} free here", words::bytes(free)));
    kit::line(
        ui.painter(),
        middle(at.readout.left(), at.readout.right()),
        Align::Min,
        &free,
        kit::words(SMALL),
        p.weak_text,
    );
}

fn field(ui: &mut Ui, rect: Rect, limit: &Limit, state: &mut TopState, actions: &mut Vec<Action>) {
    let id = Id::unique("memory limit field");
    let p = kit::palette(ui);
    let shown = limit.bytes.map_or_else(|| "no limit".to_owned(), words::bytes);
    // The frame in which focus goes still has what was typed.
    let editing = ui.memory(|m| m.has_focus(id) || m.had_focus_last_frame(id));
    if !editing {
        state.limit_text.clone_from(&shown);
    }
    let wrong = editing && state.limit_text != shown && words::read_bytes(&state.limit_text).is_none();
    let edit = TextEdit::singleline(&mut state.limit_text)
        .id(id)
        .font(kit::figures(BODY))
        .margin(vec2(2.0 * GRID, GRID))
        .text_color(if wrong { p.alarm } else { p.text })
        .align(egui::Align2::LEFT_CENTER)
        .background_color(p.raised);
    let response = ui.place(rect, edit).accessible_name("Memory limit as text");
    if response.has_focus() || response.hovered() {
        let color = if wrong { p.alarm } else { p.accent };
        ui.painter().rect_stroke(response.rect, CornerRadius::same(6), Stroke::new(1.0, color), StrokeKind::Inside);
    }
    if response.lost_focus() && state.limit_text != shown {
        match words::read_bytes(&state.limit_text) {
            Some(bytes) if bytes > 0 => actions.push(set(bytes, None)),
            _ => {
                // What was typed is no size: the field goes back to what holds.
                state.limit_text.clone_from(&shown);
            }
        }
    }
    let exact = limit.bytes.map_or_else(|| "No limit is set.".to_owned(), words::exact);
    response.on_hover_text(format!("{exact}\nType a size such as 512 MiB, 4g or 1.5 GB."));
}

fn slider(ui: &mut Ui, rect: Rect, limit: &Limit, state: &mut TopState, actions: &mut Vec<Action>) {
    let p = kit::palette(ui);
    let scale = Scale::new(limit.range);
    // Half a handle stays free at both ends.
    let rail = Rect::from_center_size(rect.center(), vec2(rect.width() - 20.0, 4.0));
    let x_of = |bytes: u64| rail.left() + scale.position(bytes) * rail.width();
    let grip = Rect::from_center_size(rect.center(), vec2(rect.width(), 20.0));
    let mut response = ui.interact(grip, slider_id(), Sense::click_and_drag());
    let now = limit.bytes.unwrap_or(scale.ends().1);
    let asked = ask(ui, &mut response, scale, rail, limit, state, now);
    if let Some((bytes, gesture)) = asked
        && Some(bytes) != limit.bytes
    {
        actions.push(set(bytes, Some(gesture)));
        response.mark_changed();
    }
    tell(ui, &response, scale, limit);
    let painter = ui.painter().clone();
    painter.rect_filled(rail, 2.0, p.line);
    painter.rect_filled(Rect::from_min_max(rail.min, pos2(x_of(now), rail.max.y)), 2.0, p.weak_text);
    if let Some(free) = limit.free {
        let x = x_of(free);
        painter.vline(x, rail.center().y - 6.0..=rail.center().y + 6.0, Stroke::new(1.0, p.weak_text));
    }
    marks(ui, rect, rail, scale, &limit.ticks, actions);
    let center = pos2(x_of(now), rail.center().y);
    let hot = response.hovered() || response.dragged() || response.has_focus();
    painter.circle(
        center,
        if hot { 9.0 } else { 8.0 },
        p.background,
        Stroke::new(if hot { 3.0 } else { 2.0 }, p.accent),
    );
    painter.circle_filled(center, 3.0, p.accent);
    if response.has_focus() {
        painter.circle_stroke(center, 12.0, Stroke::new(1.0, p.accent));
    }
    response.on_hover_cursor(CursorIcon::ResizeHorizontal);
}

/// What the pointer, the keyboard or a screen reader asks for, with the gesture it belongs to.
fn ask(
    ui: &Ui,
    response: &mut Response,
    scale: Scale,
    rail: Rect,
    limit: &Limit,
    state: &mut TopState,
    now: u64,
) -> Option<(u64, u64)> {
    if response.drag_started() || response.clicked() {
        response.request_focus();
        state.gesture += 1;
    }
    state.dragging = response.dragged();
    if response.has_focus() {
        let filter = EventFilter { horizontal_arrows: true, ..EventFilter::default() };
        ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
        let (by, coarse, end, time) = ui.input(|i| {
            let by = i.num_presses(Key::ArrowRight) as i32 - i.num_presses(Key::ArrowLeft) as i32;
            let end = if i.key_pressed(Key::Home) { Some(false) } else { i.key_pressed(Key::End).then_some(true) };
            (by, i.modifiers.shift, end, i.time)
        });
        if by != 0 || end.is_some() {
            if time - state.nudged > SERIES {
                state.gesture += 1;
            }
            state.nudged = time;
            let (least, most) = scale.ends();
            let bytes = match end {
                Some(true) => most,
                Some(false) => least,
                None => scale.nudge(now, by, coarse),
            };
            return Some((bytes, state.gesture));
        }
    }
    let (up, down, exactly) = ui.input(|i| {
        let exactly = i.accesskit_action_requests(response.id, Ask::SetValue).filter_map(|r| match r.data {
            Some(egui::accesskit::ActionData::NumericValue(v)) if v.is_finite() && v >= 1.0 => Some(v as u64),
            _ => None,
        });
        let exactly = exactly.last();
        let count = |ask| i.num_accesskit_action_requests(response.id, ask) as i32;
        (count(Ask::Increment), count(Ask::Decrement), exactly)
    });
    if let Some(bytes) = exactly {
        state.gesture += 1;
        return Some((bytes, state.gesture));
    }
    if up != down {
        state.gesture += 1;
        return Some((scale.nudge(now, up - down, false), state.gesture));
    }
    let pointer = response.interact_pointer_pos().filter(|_| response.dragged() || response.clicked())?;
    let bytes = scale.bytes((pointer.x - rail.left()) / rail.width());
    // Within a few points of a mark the mark is meant.
    let near = |tick: &&Tick| (scale.position(tick.bytes) * rail.width() + rail.left() - pointer.x).abs() <= 4.0;
    let bytes = limit.ticks.iter().find(near).map_or(bytes, |tick| tick.bytes);
    Some((bytes, state.gesture))
}

fn tell(ui: &Ui, response: &Response, scale: Scale, limit: &Limit) {
    let (least, most) = scale.ends();
    let value = limit.bytes.map_or(f64::INFINITY, |b| b as f64);
    response.widget_info(|| {
        let mut info = WidgetInfo::slider(true, value.min(most as f64), "Memory limit");
        info.current_text_value = Some(limit.bytes.map_or_else(|| "no limit".into(), words::bytes));
        info
    });
    ui.ctx().accesskit_node_builder(response.id, |node| {
        node.set_min_numeric_value(least as f64);
        node.set_max_numeric_value(most as f64);
        for action in [Ask::SetValue, Ask::Increment, Ask::Decrement] {
            node.add_action(action);
        }
    });
}

/// Round sizes below the rail, cards and machines above it; each can be clicked.
fn marks(ui: &mut Ui, rect: Rect, rail: Rect, scale: Scale, ticks: &[Tick], actions: &mut Vec<Action>) {
    let p = kit::palette(ui);
    for named in [false, true] {
        let ticks: Vec<&Tick> = ticks.iter().filter(|t| t.named == named).collect();
        let (font, color) = if named { (kit::words(SMALL), p.text) } else { (kit::figures(SMALL), p.weak_text) };
        let x_of = |tick: &Tick| rail.left() + scale.position(tick.bytes) * rail.width();
        // The first and last are the scale's ends; then every other one, so that what stays is spread out.
        let weigh = |i: usize| match i {
            i if i == 0 || i + 1 == ticks.len() => 9,
            i => (i as u32).trailing_zeros(),
        };
        let wishes: Vec<Wish> = ticks
            .iter()
            .enumerate()
            .map(|(i, t)| Wish {
                x: x_of(t),
                width: kit::width(ui.painter(), &t.label, font.clone()),
                weight: weigh(i),
            })
            .collect();
        let placed = place(&wishes, (rect.left(), rect.right()), 2.0 * GRID);
        for ((tick, wish), left) in ticks.iter().zip(&wishes).zip(placed) {
            let x = x_of(tick);
            let (from, to) =
                if named { (rail.top() - 8.0, rail.top() - 2.0) } else { (rail.bottom() + 2.0, rail.bottom() + 8.0) };
            ui.painter().vline(x, from..=to, Stroke::new(1.0, if left.is_some() { p.weak_text } else { p.line }));
            let rows = if named { rect.top()..=rail.top() - 8.0 } else { rail.bottom() + 8.0..=rect.bottom() };
            let Some(left) = left else { continue };
            let at = Rect::from_x_y_ranges(left..=left + wish.width, rows);
            mark(ui, at, tick, font.clone(), color, p, actions);
        }
    }
}

fn mark(
    ui: &mut Ui,
    at: Rect,
    tick: &Tick,
    font: egui::FontId,
    color: egui::Color32,
    p: &Palette,
    actions: &mut Vec<Action>,
) {
    let response = ui.interact(at, Id::unique(("limit mark", &tick.label, tick.bytes)), Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("Set the memory limit to {}", tick.label)));
    let color = if response.hovered() { p.accent } else { color };
    let galley = kit::elided(ui.painter(), &tick.label, font, color, at.width() + 1.0);
    let up = at.center().y - galley.size().y / 2.0;
    ui.painter().galley(pos2(at.left(), up), galley, color);
    kit::focus_ring(ui, &response, at.expand(2.0));
    if response.clicked() {
        if let Some(device) = &tick.device {
            actions.push(Action::PlanFor(device.clone()));
        }
        actions.push(set(tick.bytes, None));
    }
    let mut hint = words::bytes(tick.bytes);
    if !tick.detail.is_empty() {
        hint = format!("{hint}\n{}", tick.detail);
    }
    response.on_hover_cursor(CursorIcon::PointingHand).on_hover_text(hint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_exactly() {
        for bytes in [1, 1000, 1536, 192 << 20, 1234 << 20, (3 << 30) + 1, 24 << 30] {
            let text = toml(bytes);
            assert_eq!(words::read_bytes(&text), Some(bytes), "{text}");
        }
    }
}
