//! The conversation: who said what, to be edited, answered again, and gone on with.

use egui::{Align, Key, KeyboardShortcut, Layout, Modifiers, Rect, RichText, ScrollArea, TextEdit, Ui, pos2};

use super::{TextState, part, shown};
use crate::action::Action;
use crate::linked::Linked;
use crate::pictures::tokens::{self, Flow};
use crate::pictures::words as say;
use crate::theme::{CORNER, GRID, Palette, TEXT};
use crate::view::{Role, Text, Turn, Written};

pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Text,
    state: &mut TextState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let composer = Rect::from_min_max(pos2(rect.left(), rect.bottom() - 17.0 * GRID), rect.max);
    let body = Rect::from_min_max(rect.min, pos2(rect.right(), composer.top() - 2.0 * GRID));
    if data.turns.is_empty() && !data.running {
        let what = "Say something below; the conversation and its answers will appear here.";
        say::empty(ui, body, what, None, "");
    } else {
        part(ui, body, |ui| {
            let area = ScrollArea::vertical().id_salt("conversation").auto_shrink(false).stick_to_bottom(true);
            area.show(ui, |ui| turns(ui, data, state, linked, actions));
        });
    }
    part(ui, composer, |ui| compose(ui, composer, data, state, actions));
}

/// What sequence 0 wrote, when it is the last answer (or is becoming it), and up to which token.
fn streamed(data: &Text) -> Option<(&Written, usize)> {
    let written = data.sequences.first()?;
    if data.running {
        return Some((written, written.tokens.len()));
    }
    let last = data.turns.last().filter(|turn| turn.role == Role::Assistant)?;
    let mut rest = last.content.trim();
    // The same text, but for blanks around it and what ends it (an end-of-turn token is no part of the message).
    for (i, token) in written.tokens.iter().enumerate().skip(written.prompt) {
        if rest.is_empty() {
            return Some((written, i));
        }
        let text = if i == written.prompt { token.text.trim_start() } else { &token.text };
        rest = rest.strip_prefix(text).or_else(|| (text.trim_end() == rest).then_some(""))?;
    }
    rest.is_empty().then_some((written, written.tokens.len()))
}

fn turns(ui: &mut Ui, data: &Text, state: &mut TextState, linked: &mut Linked, actions: &mut Vec<Action>) {
    ui.spacing_mut().item_spacing.y = 0.0;
    let answer = streamed(data);
    let answering = data.running && data.turns.last().is_none_or(|turn| turn.role == Role::User);
    for (i, turn) in data.turns.iter().enumerate() {
        let last = i + 1 == data.turns.len();
        let tokens = answer.filter(|_| last && turn.role == Role::Assistant);
        message(ui, data, (i, turn, last), tokens, state, linked, actions);
    }
    if answering {
        who(ui, Role::Assistant, |_| {});
        match answer {
            Some((written, to)) if to > written.prompt => spoken(ui, data, (written, to), linked),
            _ => drop(say::note(ui, "Reading the conversation…")),
        }
    }
}

fn who(ui: &mut Ui, role: Role, buttons: impl FnOnce(&mut Ui)) {
    let palette = Palette::of(ui.theme());
    let name = match role {
        Role::User => "You",
        Role::Assistant => "Model",
    };
    ui.horizontal(|ui| {
        let ink = if role == Role::User { palette.weak_text } else { palette.accent };
        ui.label(RichText::new(name).size(TEXT[0]).color(ink));
        ui.with_layout(Layout::right_to_left(Align::Center), buttons);
    });
}

fn spoken(ui: &mut Ui, data: &Text, (written, end): (&Written, usize), linked: &mut Linked) {
    let to = shown(data, written).min(end);
    let live = data.running && data.step.is_none() && written.stop.is_empty();
    let flow =
        Flow { from: written.prompt.min(to), to, live, gutter: false, tint: false, ..Flow::of("Answer", written) };
    tokens::show(ui, "answer", flow, linked);
}

fn small(ui: &mut Ui, words: &str, enabled: bool) -> bool {
    let palette = Palette::of(ui.theme());
    let text = RichText::new(words).size(TEXT[0]).color(palette.weak_text);
    ui.add_enabled(enabled, egui::Button::new(text).frame_when_inactive(false)).clicked()
}

fn message(
    ui: &mut Ui,
    data: &Text,
    (i, turn, last): (usize, &Turn, bool),
    tokens: Option<(&Written, usize)>,
    state: &mut TextState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let idle = !data.running;
    who(ui, turn.role, |ui| {
        if last && turn.role == Role::Assistant && small(ui, "Answer again", idle) {
            actions.push(Action::Regenerate);
        }
        if turn.role == Role::User && small(ui, "Edit", idle) {
            state.editing = Some((i, turn.content.clone()));
        }
    });
    let mut done = None;
    match &mut state.editing {
        Some((at, text)) if *at == i => {
            let edit = TextEdit::multiline(text).desired_width(f32::INFINITY).desired_rows(2);
            let response = ui.add(edit);
            ui.accesskit_node_builder(response.id, |node| node.set_label(format!("Message {}", i + 1)));
            let palette = Palette::of(ui.theme());
            ui.horizontal(|ui| {
                if ui.add(say::primary("Say this instead", palette)).clicked() {
                    done = Some(true);
                }
                if ui.button("Leave it").clicked() {
                    done = Some(false);
                }
                say::note(ui, "What came after it is forgotten.");
            });
        }
        _ => match tokens {
            Some(answer) => spoken(ui, data, answer, linked),
            None => drop(ui.add(egui::Label::new(turn.content.as_str()).wrap())),
        },
    }
    if let Some(change) = done
        && let Some((turn, content)) = state.editing.take()
        && change
    {
        actions.push(Action::EditTurn { turn, content });
    }
    if last && data.running {
        return;
    }
    ui.add_space(4.0 * GRID);
}

fn compose(ui: &mut Ui, rect: Rect, data: &Text, state: &mut TextState, actions: &mut Vec<Action>) {
    let palette = Palette::of(ui.theme());
    let frame = egui::Frame::new()
        .stroke(egui::Stroke::new(1.0, palette.line))
        .corner_radius(CORNER)
        .inner_margin(egui::Margin::symmetric(8, 6));
    let mut say_it = false;
    frame.show(ui, |ui| {
        ui.set_min_size(rect.size() - egui::vec2(18.0, 18.0));
        ui.horizontal(|ui| {
            let wide = ui.available_width() - 72.0;
            let edit = TextEdit::multiline(&mut state.message)
                .id_salt("message")
                .frame(egui::Frame::NONE)
                .desired_rows(2)
                .desired_width(wide)
                .hint_text(
                    RichText::new("Say something. Enter sends it, Shift and Enter begin a new line.")
                        .color(palette.weak_text),
                )
                .return_key(KeyboardShortcut::new(Modifiers::SHIFT, Key::Enter));
            let area = ScrollArea::vertical().id_salt("message").max_height(rect.height() - 20.0);
            let response = area.show(ui, |ui| ui.add(edit)).inner;
            ui.accesskit_node_builder(response.id, |node| node.set_label("Message"));
            let ready = data.blocked.is_empty() && !data.running && !state.message.trim().is_empty();
            let enter = response.has_focus() && ui.input(|i| i.key_pressed(Key::Enter) && i.modifiers.is_none());
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let button = ui.add_enabled(ready, say::primary("Send", palette));
                say_it = button.on_disabled_hover_text(&data.blocked).clicked() || (enter && ready);
            });
        });
    });
    if say_it {
        actions.push(Action::Say(std::mem::take(&mut state.message).trim().to_owned()));
    }
}
