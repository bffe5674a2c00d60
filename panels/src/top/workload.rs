//! How much there is to do: the workload's numbers, each with the largest that fits beside it.

use egui::{DragValue, Ui, vec2};

use super::TopState;
use crate::action::Action;
use crate::kit::{self, BODY, SMALL};
use crate::shared::Shared;
use crate::theme::GRID;
use crate::view::{Field, Top};
use crate::words;

/// Points below which there is room for the fields alone, beside the model's name.
const NARROW: f32 = 860.0;

/// Draws the fields, the last at the right. Where there is little room, what fits is told on hover alone.
pub(crate) fn show(ui: &mut Ui, top: &Top, state: &mut TopState, shared: &mut Shared<'_>) {
    let narrow = ui.available_width() < NARROW;
    for field in top.workload.iter().rev() {
        let most = fits(top, field);
        if let Some(most) = most.filter(|_| !narrow) {
            link(ui, field, most, shared);
        }
        number(ui, field, most.filter(|_| narrow), state, shared);
        ui.add_space(if narrow { GRID } else { 4.0 * GRID });
    }
}

/// The largest value of a field that fits: its own, or the strip's answers for context and sequences.
pub(crate) fn fits(top: &Top, field: &Field) -> Option<u64> {
    field.fits.or_else(|| match field.key.as_str() {
        "run.context" => top.longest_context.map(|n| n as u64),
        "run.sequences" => top.most_sequences.map(|n| n as u64),
        _ => None,
    })
}

fn set(field: &Field, value: u64, gesture: Option<u64>) -> Action {
    let what = format!("{} {}", field.label, words::count(value));
    Action::Set { what, sets: vec![(field.key.clone(), value.to_string())], gesture }
}

/// What the most that fits is, in words.
fn most_in_words(most: u64) -> String {
    format!("With everything else as chosen, {} is the most that fits below the memory limit.", words::count(most))
}

/// The largest value that fits, to be taken.
fn link(ui: &mut Ui, field: &Field, most: u64, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    let (text, over) = match most {
        0 => ("none fits".to_owned(), true),
        n => (format!("{} fit", words::count(n)), field.value > n),
    };
    if most == 0 || most == field.value {
        let text = if most == 0 { text } else { "the most that fits".to_owned() };
        kit::label(ui, &text, SMALL, if over { p.alarm } else { p.weak_text });
        return;
    }
    let name = format!("{}: take the most that fits, {}", field.label, words::count(most));
    let response = kit::link(ui, &text, &name, SMALL);
    if response.clicked() {
        shared.actions.push(set(field, most.clamp(field.min, field.max), None));
    }
    response.on_hover_text(format!("{} Click to take it.", most_in_words(most)));
}

/// The number and, left of it, its name; `most` is what fits where nothing else says it.
fn number(ui: &mut Ui, field: &Field, most: Option<u64>, state: &mut TopState, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    let mut value = field.value;
    ui.style_mut().override_font_id = Some(kit::figures(BODY));
    let top = field.max.max(field.min);
    let drag = DragValue::new(&mut value)
        .range(field.min..=top)
        .speed((field.value as f64 / 128.0).clamp(0.05, 64.0))
        .custom_formatter(|v, _| words::count(v as u64))
        .custom_parser(|text| words::read_bytes(text).map(|n| n as f64))
        .update_while_editing(false);
    let response = ui.add_sized(vec2(72.0, 28.0), drag).accessible_name(field.label.as_str());
    ui.style_mut().override_font_id = None;
    if response.drag_started() {
        state.gesture += 1;
    }
    if value != field.value {
        let gesture = response.dragged().then_some(state.gesture);
        shared.actions.push(set(field, value.clamp(field.min, top), gesture));
    }
    let said = most.map_or_else(String::new, most_in_words);
    let about = [field.sentence.as_str(), &said].join(" ");
    if !about.trim().is_empty() {
        response.on_hover_text(about.trim());
    }
    let over = most.is_some_and(|most| field.value > most);
    kit::label(ui, &field.label, BODY, if over { p.alarm } else { p.weak_text });
}
