//! A text of the configuration, edited in place: what is typed is shown at once and asked for, and a change from elsewhere (undo,
//! another file) replaces it.

use egui::{Id, ScrollArea, TextEdit, Ui};

use crate::action::Action;
use crate::pictures::words as say;
use crate::theme::Palette;

/// What is in an editor between frames.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    text: String,
    seen: String,
    /// HeldOutQuestion for and not seen to have arrived.
    sent: Vec<String>,
    gesture: Option<u64>,
}

impl Draft {
    /// Takes over what the configuration says, unless it is what was asked for on the way to what is typed now.
    fn follow(&mut self, now: &str) {
        if self.seen == now {
            return;
        }
        now.clone_into(&mut self.seen);
        match self.sent.iter().position(|sent| sent == now) {
            Some(arrived) => drop(self.sent.drain(..=arrived)),
            None => {
                now.clone_into(&mut self.text);
                self.sent.clear();
            }
        }
    }

    fn typed(&mut self) -> String {
        // A program that never answers must not make this grow.
        if self.sent.len() >= 64 {
            self.sent.clear();
        }
        self.sent.push(self.text.clone());
        self.text.clone()
    }
}

/// Editing of the text at `key`, which is `now`; `what` is what undo and a screen reader call it.
pub fn show(
    ui: &mut Ui,
    draft: &mut Draft,
    (key, what, hint): (&str, &str, &'static str),
    now: &str,
    height: f32,
    actions: &mut Vec<Action>,
) {
    draft.follow(now);
    let palette = Palette::of(ui.theme());
    let id = Id::unique(("editor", key));
    let frame = egui::Frame::new()
        .stroke(egui::Stroke::new(1.0, if ui.memory(|m| m.has_focus(id)) { palette.accent } else { palette.line }))
        .corner_radius(crate::theme::CORNER)
        .inner_margin(egui::Margin::symmetric(8, 6));
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        let inside = (height - 16.0).max(40.0);
        ScrollArea::vertical().id_salt(id).max_height(inside).auto_shrink(false).show(ui, |ui| {
            let edit = TextEdit::multiline(&mut draft.text)
                .id(id)
                .frame(egui::Frame::NONE)
                .desired_width(f32::INFINITY)
                .min_size(egui::vec2(0.0, inside))
                .hint_text(egui::RichText::new(hint).color(palette.weak_text));
            let response = ui.add(edit);
            ui.accesskit_node_builder(response.id, |node| node.set_label(what));
            if response.gained_focus() || draft.gesture.is_none() {
                draft.gesture = Some(ui.input(|i| i.time.to_bits()) ^ id.value());
            }
            if response.changed() {
                let sets = vec![(key.to_owned(), say::toml(&draft.typed()))];
                actions.push(Action::Set { what: what.to_owned(), sets, gesture: draft.gesture });
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answers_do_not_undo_typing_and_other_changes_do_replace_it() {
        let mut draft = Draft::default();
        draft.follow("Once");
        assert_eq!(draft.text, "Once");
        for text in ["Once u", "Once up", "Once upo"] {
            draft.text = text.into();
            assert_eq!(draft.typed(), text);
        }
        draft.follow("Once u");
        assert_eq!(draft.text, "Once upo", "an answer to what was typed before");
        draft.follow("Once upo");
        assert!(draft.sent.is_empty() && draft.text == "Once upo");
        draft.follow("Once");
        assert_eq!(draft.text, "Once", "undone");
    }
}
