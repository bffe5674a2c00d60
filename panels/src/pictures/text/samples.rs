//! What a model in training says to held-out questions, before and after.

use egui::{Align, Layout, Rect, RichText, ScrollArea, Ui, UiBuilder, vec2};

use crate::action::Action;
use crate::picture::Picture;
use crate::pictures::words as say;
use crate::table::Table;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{HeldOutQuestion, Samples};
use crate::words;

/// Draws each held-out question with what was said to it, before training and after.
pub fn show(ui: &mut Ui, data: &Samples, blocked: &str, actions: &mut Vec<Action>) {
    let picture = Picture { name: "samples", question: "What does it say, before and after?" };
    picture.show(
        ui,
        actions,
        || csv(data),
        |ui, rect, actions| {
            ui.expand_to_include_rect(rect);
            if data.asked.is_empty() {
                let button = data.can_run.then_some("Run");
                if say::empty(ui, rect, &data.note, button, blocked) {
                    actions.push(Action::Run);
                }
                return;
            }
            let layout = Layout::top_down(Align::Min);
            ui.scope_builder(UiBuilder::new().max_rect(rect).layout(layout), |ui| {
                ui.set_clip_rect(rect.expand(2.0).intersect(ui.clip_rect()));
                ScrollArea::vertical().id_salt("samples").auto_shrink(false).show(ui, |ui| {
                    for (i, asked) in data.asked.iter().enumerate() {
                        if i > 0 {
                            crate::kit::rule(ui);
                        }
                        question(ui, i, asked, rect);
                    }
                    if !data.note.is_empty() {
                        say::note(ui, &data.note);
                    }
                });
            });
        },
    );
}

/// The words of a step: `before training`, `after 50 steps`.
fn when(step: u64, first: bool) -> String {
    match (step, first) {
        (0, _) => "before training".into(),
        (step, true) => format!("before this run, after {} steps", words::count(step)),
        (step, false) => format!("after {} steps", words::count(step)),
    }
}

/// An answer and what it should be, spaces at the ends aside.
fn right(asked: &HeldOutQuestion, text: &str) -> Option<bool> {
    asked.expected.as_ref().map(|e| text.trim() == e.trim())
}

fn question(ui: &mut Ui, i: usize, asked: &HeldOutQuestion, rect: Rect) {
    let p = Palette::of(ui.theme());
    ui.add_space(2.0 * GRID);
    say::note(ui, format!("Held-out question {}", i + 1));
    ui.add(egui::Label::new(RichText::new(&asked.prompt).monospace().size(TEXT[1]).color(p.text)).wrap());
    ui.add_space(GRID);
    let wide = (rect.width() * 0.28).clamp(120.0, 220.0);
    let row = |ui: &mut Ui, name: &str, text: &str, note: &str, ink: egui::Color32| {
        ui.horizontal_top(|ui| {
            let (place, _) = ui.allocate_exact_size(vec2(wide, 5.0 * GRID), egui::Sense::hover());
            crate::kit::line(ui.painter(), place, Align::Min, name, say::captions(), p.weak_text);
            ui.vertical(|ui| {
                let shown = if text.trim().is_empty() { "(nothing)" } else { text.trim() };
                let label = egui::Label::new(RichText::new(shown).monospace().size(TEXT[1]).color(ink)).wrap();
                let response = ui.add(label);
                let spoken = format!("{name}: {shown}");
                // Words alone are known by their value.
                ui.accesskit_node_builder(response.id, |node| node.set_value(spoken.clone()));
                if !note.is_empty() {
                    say::note(ui, note);
                }
            });
        });
    };
    for (at, (step, text)) in asked.said.iter().enumerate() {
        let (note, ink) = match right(asked, text) {
            Some(true) => ("right", p.text),
            Some(false) => ("not what the data has", p.weak_text),
            None => ("", p.text),
        };
        row(ui, &crate::kit::sentence(&when(*step, at == 0)), text, note, ink);
    }
    if let Some(expected) = &asked.expected {
        row(ui, "The data has", expected, "", p.text);
    }
    ui.add_space(2.0 * GRID);
}

/// Every answer, one a line.
fn csv(data: &Samples) -> String {
    let mut table = Table::new(["question", "prompt", "step", "said", "expected"]);
    for (i, asked) in data.asked.iter().enumerate() {
        for (step, text) in &asked.said {
            let expected = asked.expected.as_deref().unwrap_or_default();
            table.row([&(i + 1).to_string(), &asked.prompt, &step.to_string(), text, expected]);
        }
    }
    table.text()
}
