//! Zooming, moving, scrubbing: by pointer, by keyboard, by screen reader.

use egui::{
    CursorIcon, EventFilter, Id, Key, Rect, Response, Role, Sense, Stroke, Ui, WidgetInfo, accesskit, pos2, vec2,
};

use super::{Frame, TimelineState, readout};
use crate::action::Action;
use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::GRID;
use crate::words;

/// What the pointer is on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// The moment under it.
    pub under: Option<usize>,
}

/// What a drag that has begun does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Drag {
    #[default]
    Scrub,
    Move,
}

/// The least stretch on screen, of all of it.
const NEAREST: f64 = 1e-6;

/// Sets the window to `start` … `start + span`, inside 0 … `end`; `None` when that is all of it.
pub fn window(start: f64, span: f64, end: f64) -> Option<(f64, f64)> {
    let span = span.clamp(end * NEAREST, end);
    if !(span.is_finite() && start.is_finite()) || span >= end {
        return None;
    }
    let start = start.clamp(0.0, end - span);
    Some((start, start + span))
}

/// The window that shows `factor` times as much, the time `about` staying where it is.
pub fn zoomed(now: (f64, f64), about: f64, factor: f64, end: f64) -> Option<(f64, f64)> {
    let span = ((now.1 - now.0) * factor).clamp(end * NEAREST, end);
    let share = ((about - now.0) / (now.1 - now.0)).clamp(0.0, 1.0);
    window(about - share * span, span, end)
}

/// Reads the pointer over the picture and moves the window, the scrubbed moment and what is hovered.
pub fn steer(
    ui: &Ui,
    frame: &mut Frame<'_>,
    state: &mut TimelineState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) -> Looked {
    let end = frame.end;
    state.window = state.window.and_then(|(from, to)| window(from, to - from, end));
    let (from, to) = state.window.unwrap_or((0.0, end));
    frame.window = from..to;
    let foot = frame.plot.bottom().max(frame.evicted.bottom());
    let area =
        Rect::from_min_max(pos2(frame.plot.left(), frame.phases.top()), pos2(frame.plot.right(), foot + 6.0 * GRID));
    let id = Id::unique("timeline plot");
    let response = ui.interact(area, id, Sense::CLICK | Sense::DRAG);
    response.widget_info(|| WidgetInfo::labeled(Role::GraphicsObject, true, describe(frame)));

    if response.double_clicked() {
        state.window = None;
    }
    let pointer = response.hover_pos();
    if let Some(p) = pointer {
        let (scroll, pinch) = ui.input(|i| (i.smooth_scroll_delta(), f64::from(i.zoom_delta())));
        let factor = (-f64::from(scroll.y) / 240.0).exp() / pinch.max(1e-3);
        if (factor - 1.0).abs() > 1e-6 {
            state.window = zoomed((from, to), frame.seconds(p.x), factor, end);
        }
        if scroll.x != 0.0 {
            let by = f64::from(-scroll.x / frame.plot.width()) * (to - from);
            let (from, to) = state.window.unwrap_or((0.0, end));
            state.window = window(from + by, to - from, end);
        }
    }
    if response.drag_started() {
        let zoomed = state.window.is_some();
        let below = response.interact_pointer_pos().is_some_and(|p| p.y > foot);
        let drag = if zoomed && !below { Drag::Move } else { Drag::Scrub };
        ui.data_mut(|d| d.insert_temp(id, drag as u8));
    }
    let drag = if ui.data(|d| d.get_temp::<u8>(id)) == Some(Drag::Move as u8) { Drag::Move } else { Drag::Scrub };
    match (response.dragged(), drag) {
        (true, Drag::Move) => {
            let by = f64::from(-response.drag_delta().x / frame.plot.width()) * (to - from);
            state.window = window(from + by, to - from, end);
            ui.set_cursor_icon(CursorIcon::Grabbing);
        }
        (true, Drag::Scrub) => scrub_to(ui, frame, &response, linked, actions),
        (false, _) if response.clicked() => scrub_to(ui, frame, &response, linked, actions),
        _ => {}
    }
    if let Some((from, to)) = state.window {
        frame.window = from..to;
    } else {
        frame.window = 0.0..end;
    }
    let over = pointer.filter(|p| frame.plot.x_range().contains(p.x) && !response.dragged());
    let under = over.map(|p| frame.moment(p.x));
    if let Some(moment) = under {
        linked.used_for = over.and_then(|p| readout::used_for_at(frame, moment, p)).or(linked.used_for);
        let x = pointer.map_or(0.0, |p| p.x);
        let line = Stroke::new(1.0, frame.palette.weak_text);
        ui.painter().vline(x, frame.plot.y_range(), line);
        response.on_hover_ui_at_pointer(|ui| readout::tooltip(ui, frame, moment, x));
    }
    Looked { under }
}

fn scrub_to(ui: &Ui, frame: &Frame<'_>, response: &Response, linked: &mut Linked, actions: &mut Vec<Action>) {
    if let Some(p) = response.interact_pointer_pos() {
        choose(Some(frame.moment(p.x)), linked, actions);
        ui.memory_mut(|m| m.request_focus(cursor_id()));
    }
}

fn choose(moment: Option<usize>, linked: &mut Linked, actions: &mut Vec<Action>) {
    if linked.moment != moment {
        linked.moment = moment;
        actions.push(Action::ScrubTo(moment));
    }
}

fn describe(frame: &Frame<'_>) -> String {
    let peak = frame.totals.peak().unwrap_or(0);
    format!(
        "Bytes held over time, {} moments, {} at most, at {}",
        words::count(frame.data.moments.len() as u64),
        words::bytes(frame.totals.bytes.get(peak).copied().unwrap_or(0)),
        frame.words(peak)
    )
}

fn cursor_id() -> Id {
    Id::unique("timeline cursor")
}

/// The cursor: a slider over all moments, at the one scrubbed to, or at the peak while none is.
pub fn cursor(
    ui: &Ui,
    frame: &Frame<'_>,
    chosen: Option<usize>,
    peak: usize,
    under: Option<usize>,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let at = chosen.unwrap_or(peak);
    let seconds = frame.totals.seconds.get(at).copied().unwrap_or(0.0);
    let x = frame.x(seconds).clamp(frame.plot.left(), frame.plot.right());
    let seen = frame.window.contains(&seconds) || seconds == frame.window.end;
    let foot = frame.plot.bottom().max(frame.evicted.bottom());
    let grip = Rect::from_center_size(pos2(x, foot), vec2(14.0, 14.0));
    let line = Rect::from_min_max(pos2(x - 4.0, frame.plot.top()), pos2(x + 4.0, grip.bottom()));
    let response = ui.interact(line.union(grip), cursor_id(), Sense::DRAG | Sense::FOCUSABLE);
    let value = value_text(frame, at, chosen.is_some());
    response.widget_info(|| WidgetInfo::slider(true, seconds, "Moment shown"));
    let (end, last) = (frame.end, frame.totals.bytes.len().saturating_sub(1));
    ui.accesskit_node_builder(response.id, |node| {
        node.set_value(value.clone());
        node.set_min_numeric_value(0.0);
        node.set_max_numeric_value(end);
        for action in [accesskit::Action::SetValue, accesskit::Action::Increment, accesskit::Action::Decrement] {
            node.add_action(action);
        }
    });
    let p = frame.palette;
    let active = response.hovered() || response.dragged() || response.has_focus();
    let ink = if chosen.is_some() || active { p.accent } else { p.weak_text };
    if seen {
        let width = if active { 2.0 } else { 1.5 };
        ui.painter().vline(x, frame.plot.top()..=foot, Stroke::new(width, ink));
        ui.painter().circle(pos2(x, foot), if active { 6.0 } else { 4.5 }, ink, Stroke::new(2.0, p.background));
        if response.has_focus() {
            ui.painter().circle_stroke(pos2(x, foot), 9.0, Stroke::new(1.5, p.accent));
        }
        if under.is_none() {
            let words = if chosen.is_some() { frame.time(seconds) } else { "peak".to_owned() };
            say::plate(ui, pos2(x, foot + 2.0 * GRID), egui::Align2::CENTER_TOP, &words, p.background, ink);
        }
    }
    if response.hovered() || response.dragged() {
        ui.set_cursor_icon(CursorIcon::ResizeHorizontal);
    }
    if response.dragged()
        && let Some(pointer) = response.interact_pointer_pos()
    {
        response.request_focus();
        choose(Some(frame.moment(pointer.x)), linked, actions);
    }
    if response.has_focus() {
        let filter = EventFilter { horizontal_arrows: true, escape: chosen.is_some(), ..Default::default() };
        ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
        if let Some(next) = by_keys(ui, at, last) {
            choose(next, linked, actions);
        }
    }
    let asked = ui.input(|i| {
        let more = i.num_accesskit_action_requests(response.id, accesskit::Action::Increment);
        let less = i.num_accesskit_action_requests(response.id, accesskit::Action::Decrement);
        let to = i.accesskit_action_requests(response.id, accesskit::Action::SetValue).filter_map(|r| match r.data {
            Some(accesskit::ActionData::NumericValue(value)) => Some(value),
            _ => None,
        });
        let to = to.last().map(|seconds| frame.totals.at(seconds).unwrap_or(0));
        to.or_else(|| (more != less).then(|| (at + more).saturating_sub(less).min(last)))
    });
    if let Some(moment) = asked {
        choose(Some(moment), linked, actions);
    }
}

/// Where the keys lead from a moment: arrows one, with shift a twentieth of all; Home and End; Escape back to the peak.
fn by_keys(ui: &Ui, at: usize, last: usize) -> Option<Option<usize>> {
    ui.input_mut(|i| {
        let far = (last / 20).max(1);
        for (modifiers, by) in [(egui::Modifiers::SHIFT, far), (egui::Modifiers::NONE, 1)] {
            let (back, on) = (
                i.count_and_consume_key(modifiers, Key::ArrowLeft),
                i.count_and_consume_key(modifiers, Key::ArrowRight),
            );
            if back != on {
                return Some(Some((at + on * by).saturating_sub(back * by).min(last)));
            }
        }
        let none = egui::Modifiers::NONE;
        if i.consume_key(none, Key::Home) {
            Some(Some(0))
        } else if i.consume_key(none, Key::End) {
            Some(Some(last))
        } else {
            i.consume_key(none, Key::Escape).then_some(None)
        }
    })
}

/// What the slider says: the moment, what is held, and of what.
fn value_text(frame: &Frame<'_>, at: usize, chosen: bool) -> String {
    let mut text = format!("{}{}", if chosen { "" } else { "peak, " }, frame.words(at));
    if let Some(moment) = frame.data.moments.get(at) {
        text.push_str(&format!(": {}", words::bytes(frame.totals.bytes.get(at).copied().unwrap_or(0))));
        for used_for in crate::view::UsedFor::ALL {
            let bytes = moment.held[frame.tier as usize][used_for as usize];
            if bytes > 0 && !frame.hidden[used_for as usize] {
                text.push_str(&format!(", {} {}", used_for.label(), words::bytes(bytes)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_stays_inside_and_keeps_what_is_under_the_pointer() {
        assert_eq!(window(-3.0, 2.0, 10.0), Some((0.0, 2.0)));
        assert_eq!(window(9.0, 4.0, 10.0), Some((6.0, 10.0)));
        assert_eq!(window(0.0, 10.0, 10.0), None, "all of it is no zoom");
        assert_eq!(window(f64::NAN, 1.0, 10.0), None);
        let (from, to) = zoomed((0.0, 10.0), 4.0, 0.5, 10.0).unwrap_or_default();
        assert!(((4.0 - from) / (to - from) - 0.4).abs() < 1e-12 && (to - from - 5.0).abs() < 1e-12);
        assert_eq!(zoomed((2.0, 4.0), 3.0, 100.0, 10.0), None);
        let nearest = (0..200).fold((0.0, 10.0), |now, _| zoomed(now, 3.3, 0.5, 10.0).unwrap_or(now));
        assert!(nearest.0 <= 3.3 && nearest.1 >= 3.3 && nearest.1 - nearest.0 >= 10.0 * NEAREST * 0.99);
    }
}
