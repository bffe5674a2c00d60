//! A technique's parameters, each drawn by the kind of value it takes.

use std::collections::HashMap;

use egui::{Align, ComboBox, DragValue, Id, Rect, Response, Sense, TextEdit, Ui, pos2, vec2};

use crate::about::Subject;
use crate::kit::{self, BODY, Icon, Press};
use crate::shared::Shared;
use crate::theme::GRID;
use crate::view::{Kind, Knob};
use crate::{Action, words};

/// What is being edited.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KnobsState {
    /// Text as typed, by key.
    typed: HashMap<String, String>,
    /// The number of the last drag.
    gesture: u64,
}

fn set(knob: &Knob, value: String, gesture: Option<u64>) -> Action {
    let what =
        if value.is_empty() { format!("{}: as by default", knob.label) } else { format!("{} {value}", knob.label) };
    Action::Set { what, sets: vec![(knob.key.clone(), value)], gesture }
}

/// What a knob's tooltip says: the sentence, the paper's name, its range, its default.
pub(crate) fn hint(knob: &Knob) -> String {
    let mut lines = vec![knob.sentence.clone()];
    if !knob.paper_name.is_empty() {
        lines.push(format!("In the paper: {}", knob.paper_name));
    }
    match &knob.kind {
        Kind::Int { min, max } => lines.push(range(
            &min.to_string(),
            &if *max == i64::MAX { String::new() } else { max.to_string() },
            &knob.unit,
        )),
        Kind::Float { min, max } => lines.push(range(
            &words::number(*min),
            &if max.is_finite() && *max < 1e300 { words::number(*max) } else { String::new() },
            &knob.unit,
        )),
        Kind::Bool | Kind::Word(_) | Kind::Text => {}
    }
    if !knob.default.is_empty() {
        lines.push(format!("By default {}", knob.default));
    }
    lines.retain(|l| !l.is_empty());
    lines.join("\n")
}

fn range(min: &str, max: &str, unit: &str) -> String {
    let text = if max.is_empty() { format!("From {min}") } else { format!("From {min} to {max}") };
    if unit.is_empty() { text } else { format!("{text} {unit}") }
}

/// Draws it: name at the left, value at the right, and a sign to go back to the default where it is not that.
pub(crate) fn show(ui: &mut Ui, knob: &Knob, state: &mut KnobsState, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    let (_, rect) = ui.allocate_space(vec2(ui.available_width(), 32.0));
    let wide = (rect.width() * 0.44).clamp(96.0, 160.0);
    let value =
        Rect::from_min_max(pos2(rect.right() - wide, rect.top() + 2.0), pos2(rect.right(), rect.bottom() - 2.0));
    let differs = !knob.default.is_empty() && !knob.value.is_empty() && !same(&knob.value, &knob.default);
    let reset = Rect::from_min_max(pos2(value.left() - 32.0, rect.top()), pos2(value.left() - GRID, rect.bottom()));
    let name = Rect::from_min_max(
        pos2(rect.left() + 20.0, rect.top()),
        pos2(if differs { reset.left() } else { value.left() - 2.0 * GRID }, rect.bottom()),
    );
    kit::line(ui.painter(), name, Align::Min, &knob.label, kit::words(BODY), p.weak_text);
    let area = ui.interact(name, Id::unique(("knob name", &knob.key)), Sense::hover());
    if ui.rect_contains_pointer(rect) {
        *shared.subject = Subject::Knob(knob.key.clone());
    }
    area.on_hover_text(hint(knob));
    if differs {
        let name = format!("{}: back to the default", knob.label);
        let response = kit::row(ui, reset, |ui| Press::sign(Icon::Undo, &name).show(ui));
        if response.on_hover_text(format!("Back to the default, {}", knob.default)).clicked() {
            shared.actions.push(set(knob, String::new(), None));
        }
    }
    let response = widget(ui, value, knob, state, shared.actions);
    response.on_hover_text(hint(knob));
}

/// Whether two values mean the same: `0.20` and `0.2` do.
fn same(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

fn widget(ui: &mut Ui, rect: Rect, knob: &Knob, state: &mut KnobsState, actions: &mut Vec<Action>) -> Response {
    let given = if knob.value.is_empty() { &knob.default } else { &knob.value };
    let suffix = if knob.unit.is_empty() { String::new() } else { format!(" {}", knob.unit) };
    match &knob.kind {
        Kind::Int { min, max } => {
            let (low, high) = (*min, (*max).max(*min));
            let before = given.parse::<i64>().unwrap_or(low);
            let mut now = before;
            let speed = (before.unsigned_abs() as f64 / 64.0).clamp(0.05, 1e6);
            let drag = DragValue::new(&mut now).range(low..=high).speed(speed).suffix(suffix).clip_text(true);
            let response = number(ui, rect, drag.update_while_editing(false), knob, state);
            if now != before {
                actions.push(set(knob, now.to_string(), response.dragged().then_some(state.gesture)));
            }
            response
        }
        Kind::Float { min, max } => {
            let (low, high) = (*min, max.max(*min));
            let before = given.parse::<f64>().unwrap_or(low);
            let mut now = before;
            let speed = if (high - low).is_finite() && high - low <= 100.0 {
                (high - low) / 200.0
            } else {
                before.abs().max(0.1) / 64.0
            };
            let drag = DragValue::new(&mut now)
                .range(low..=high)
                .speed(speed)
                .custom_formatter(|v, _| decimal(v))
                .suffix(suffix)
                .clip_text(true);
            let response = number(ui, rect, drag.update_while_editing(false), knob, state);
            if now != before {
                actions.push(set(knob, float(now), response.dragged().then_some(state.gesture)));
            }
            response
        }
        Kind::Bool => {
            let before = given == "true";
            let mut now = before;
            let response = kit::row_from_right(ui, rect, |ui| kit::tick(ui, &mut now, "", &knob.label));
            if now != before {
                actions.push(set(knob, now.to_string(), None));
            }
            response
        }
        Kind::Word(of) => {
            let combo = ComboBox::from_id_salt(("knob", &knob.key))
                .selected_text(given.as_str())
                .width(rect.width())
                .truncate();
            let inner = kit::row_from_right(ui, rect, |ui| {
                combo.show_ui(ui, |ui| {
                    for word in of {
                        let response = ui.selectable_label(word == given, word.as_str());
                        if response.clicked() && word != given {
                            actions.push(set(knob, word.clone(), None));
                        }
                    }
                })
            });
            inner.response.accessible_name(knob.label.as_str())
        }
        Kind::Text => text(ui, rect, knob, state, actions),
    }
}

/// A figure with no more than six decimals and no zeros at its end.
fn decimal(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// A float as TOML reads it back: with a point.
fn float(value: f64) -> String {
    let text = format!("{value}");
    if text.contains(['.', 'e', 'E']) { text } else { format!("{text}.0") }
}

fn number(ui: &mut Ui, rect: Rect, drag: DragValue<'_>, knob: &Knob, state: &mut KnobsState) -> Response {
    let before = ui.style_mut().override_font_id.replace(kit::figures(BODY));
    let response = ui.place(rect, drag).accessible_name(knob.label.as_str());
    ui.style_mut().override_font_id = before;
    if response.drag_started() {
        state.gesture += 1;
    }
    response
}

fn text(ui: &mut Ui, rect: Rect, knob: &Knob, state: &mut KnobsState, actions: &mut Vec<Action>) -> Response {
    let p = kit::palette(ui);
    let id = Id::unique(("knob text", &knob.key));
    // The frame in which focus goes still has what was typed.
    let editing = ui.memory(|m| m.has_focus(id) || m.had_focus_last_frame(id));
    let typed = state.typed.entry(knob.key.clone()).or_default();
    if !editing {
        typed.clone_from(&knob.value);
    }
    let edit = TextEdit::singleline(typed)
        .id(id)
        .hint_text(knob.default.clone())
        .font(kit::words(BODY))
        .margin(vec2(2.0 * GRID, GRID))
        .align(egui::Align2::LEFT_CENTER)
        .background_color(p.raised);
    let response = ui.place(rect, edit).accessible_name(knob.label.as_str());
    // Said once, when it is complete: a path half typed is no path.
    if response.lost_focus() && *typed != knob.value {
        actions.push(set(knob, typed.trim().to_owned(), None));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_point_and_equal_values_are_the_default() {
        for (value, text) in [(1.0, "1.0"), (0.25, "0.25"), (1e-7, "0.0000001")] {
            assert_eq!(float(value), text);
            assert!(text.parse::<f64>() == Ok(value));
        }
        assert!(same("0.20", "0.2") && same("h2o", "h2o") && !same("1", "2") && !same("a", "b"));
    }

    #[test]
    fn hints_leave_out_what_is_not_there() {
        let knob = Knob {
            sentence: "How many.".into(),
            kind: Kind::Int { min: 1, max: i64::MAX },
            unit: "rows".into(),
            ..Knob::default()
        };
        assert_eq!(hint(&knob), "How many.\nFrom 1 rows");
        assert_eq!(hint(&Knob::default()), "");
    }
}
