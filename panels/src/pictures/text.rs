//! What was read and what was written: the prompt or the conversation, and every token of every sequence.

mod chat;
mod editor;
mod samples;

use egui::{Align, FontId, Layout, Rect, ScrollArea, Ui, UiBuilder, pos2, vec2};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::linked::Linked;
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::pictures::tokens::{self, Flow};
use crate::pictures::words as say;
use crate::scripts::Scripts;
use crate::table::Table;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Adapter, AdapterUse, Text, Written};
use crate::words;

use editor::Draft;

/// What the text picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextState {
    /// One sequence at a time, rather than side by side.
    pub one_by_one: bool,
    /// The sequence shown then, by its number.
    pub sequence: usize,
    /// In a chat: every token, those of the template too.
    pub every_token: bool,
    /// The message being written.
    pub message: String,
    #[serde(skip)]
    prompt: Draft,
    #[serde(skip)]
    system: Draft,
    #[serde(skip)]
    scripts: Scripts,
    #[serde(skip)]
    editing: Option<(usize, String)>,
}

/// How much of a sequence is shown: all, or up to the step scrubbed to.
fn shown(data: &Text, written: &Written) -> usize {
    let all = written.tokens.len();
    data.step.map_or(all, |step| written.prompt.saturating_add(step).min(all))
}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "text",
    tab: "text",
    title: "Text",
    question: "What did it write?",
    shows: |_| true,
    csv: |view| csv(&view.text),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.text, state, linked, actions))
    },
};

/// Draws prompt and sequences, or the conversation, in all the space of `ui`; what is pointed at is linked as a token.
pub fn show(ui: &mut Ui, data: &Text, state: &mut TextState, linked: &mut Linked, actions: &mut Vec<Action>) {
    if let Some(asked) = &data.samples {
        samples::show(ui, asked, &data.blocked, actions);
        return;
    }
    let font = FontId::proportional(TEXT[1]);
    ui.fonts_mut(|fonts| state.scripts.read(data, |c| fonts.has_glyph(&font, c)));
    let question = if data.chat { "What did it answer?" } else { ENTRY.question };
    Picture { name: "text", question }.show(
        ui,
        actions,
        || csv(data),
        |ui, rect, actions| {
            let strip = Rect::from_min_size(rect.min, vec2(rect.width(), 7.0 * GRID));
            header(ui, strip, data, state, actions);
            let below = Rect::from_min_max(pos2(rect.left(), strip.bottom() + 2.0 * GRID), rect.max);
            let (left, right) = if below.width() >= 680.0 {
                let wide = (below.width() * 0.32).min(420.0);
                let left = Rect::from_min_size(below.min, vec2(wide, below.height()));
                (left, Rect::from_min_max(pos2(left.right() + 6.0 * GRID, below.top()), below.max))
            } else {
                let left = Rect::from_min_size(below.min, vec2(below.width(), (below.height() * 0.3).max(72.0)));
                (left, Rect::from_min_max(pos2(below.left(), left.bottom() + 3.0 * GRID), below.max))
            };
            part(ui, left, |ui| asked(ui, left, data, state, actions));
            part(ui, right, |ui| {
                if data.chat && !state.every_token {
                    chat::show(ui, right, data, state, linked, actions);
                } else {
                    written(ui, right, data, state, linked, actions);
                }
            });
        },
    );
}

fn part(ui: &mut Ui, rect: Rect, add: impl FnOnce(&mut Ui)) {
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
        ui.set_clip_rect(rect.expand(3.0).intersect(ui.clip_rect()));
        add(ui);
    });
}

/// The line above: completion or chat, of which run, how the sequences lie.
fn header(ui: &mut Ui, strip: Rect, data: &Text, state: &mut TextState, actions: &mut Vec<Action>) {
    ui.scope_builder(UiBuilder::new().max_rect(strip).layout(Layout::left_to_right(Align::Center)), |ui| {
        if data.chats || data.chat {
            let modes = [(false, "Completion".to_owned()), (true, "Chat".to_owned())];
            if let Some(chat) = say::one_of(ui, "Mode", data.chat, &modes) {
                let what = if chat { "Chat" } else { "Completion" };
                let sets = vec![("run.chat".to_owned(), chat.to_string())];
                actions.push(Action::Set { what: what.to_owned(), sets, gesture: None });
            }
            ui.add_space(2.0 * GRID);
        }
        if let Some(adapter) = &data.adapter {
            adapter_switch(ui, adapter, actions);
            ui.add_space(2.0 * GRID);
        }
        if let Some(run) = &data.of_run {
            say::note(ui, format!("of {run}"));
        }
        if let Some(step) = data.step {
            say::note(ui, format!("as of decode step {}", words::count(step as u64)));
            if ui.button("Show all of it").clicked() {
                actions.push(Action::ScrubTo(None));
            }
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if data.chat {
                let views = [(false, "Conversation".to_owned()), (true, "Every token".to_owned())];
                if let Some(every) = say::one_of(ui, "Show", state.every_token, &reversed(&views)) {
                    state.every_token = every;
                }
            }
            if data.sequences.len() > 1 && (!data.chat || state.every_token) {
                let ways = [(false, "Side by side".to_owned()), (true, "One by one".to_owned())];
                if let Some(one) = say::one_of(ui, "Sequences", state.one_by_one, &reversed(&ways)) {
                    state.one_by_one = one;
                }
            }
        });
    });
}

/// With the adapter, without it, or with it in the weights.
fn adapter_switch(ui: &mut Ui, adapter: &Adapter, actions: &mut Vec<Action>) {
    let scope = ui.scope(|ui| {
        say::note(ui, "Adapter");
        if adapter.merging {
            ui.disable();
        }
        let uses = [(AdapterUse::On, "On"), (AdapterUse::Off, "Off"), (AdapterUse::Merged, "Merged")];
        say::one_of(ui, "Adapter", adapter.now, &uses.map(|(u, words)| (u, words.to_owned())))
    });
    let about = "beside the weights, not at all, or in the weights of a model file of its own, which is made once";
    scope.response.on_hover_text(format!("{}: {about}", adapter.name));
    actions.extend(scope.inner.filter(|_| !adapter.merging).map(Action::Adapter));
}

/// In a layout from the right the first is the rightmost.
fn reversed<T: Clone>(choices: &[T]) -> Vec<T> {
    choices.iter().rev().cloned().collect()
}

fn caption(ui: &mut Ui, words: &str) {
    let palette = Palette::of(ui.theme());
    ui.label(egui::RichText::new(words).size(TEXT[0]).color(palette.weak_text));
}

/// What is asked: the prompt, or the system message; below it what of all texts cannot be drawn as it is written.
fn asked(ui: &mut Ui, rect: Rect, data: &Text, state: &mut TextState, actions: &mut Vec<Action>) {
    ui.spacing_mut().item_spacing.y = GRID;
    let caution = state.scripts.caution();
    let ink = Palette::of(ui.theme()).weak_text;
    let caution = (!caution.is_empty()).then(|| ui.painter().layout(caution, say::captions(), ink, rect.width()));
    let bottom = rect.bottom() - caution.as_ref().map_or(0.0, |said| said.size().y + 2.0 * GRID);
    if data.chat {
        caption(ui, "System message");
        let height = (bottom - ui.cursor().top() - 10.0 * GRID).max(48.0);
        let field = ("run.system", "System message", "What the model is told before the conversation");
        editor::show(ui, &mut state.system, field, &data.system, height, actions);
        ui.add_space(GRID);
        let clear = ui.add_enabled(!data.turns.is_empty(), egui::Button::new("Clear the conversation"));
        if clear.clicked() {
            state.editing = None;
            actions.push(Action::ClearChat);
        }
    } else {
        caption(ui, "Prompt");
        let height = bottom - ui.cursor().top();
        let field = ("run.prompt", "Prompt", "What the model goes on from");
        editor::show(ui, &mut state.prompt, field, &data.prompt, height, actions);
    }
    if let Some(caution) = caution {
        ui.add(egui::Label::new(caution));
    }
}

/// Every token of the sequences.
fn written(
    ui: &mut Ui,
    rect: Rect,
    data: &Text,
    state: &mut TextState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    if data.sequences.iter().all(|s| s.tokens.is_empty()) {
        let (what, button) = if data.running {
            ("Reading the prompt…", None)
        } else {
            ("What the model writes will appear here, token by token.", Some("Run"))
        };
        if say::empty(ui, rect, what, button, &data.blocked) {
            actions.push(Action::Run);
        }
        return;
    }
    let foot = Rect::from_min_max(pos2(rect.left(), rect.bottom() - 6.0 * GRID), rect.max);
    let mut body = Rect::from_min_max(rect.min, pos2(rect.right(), foot.top() - GRID));
    let count = data.sequences.len();
    let fit = ((body.width() / 200.0) as usize).max(1);
    state.sequence = state.sequence.min(count - 1);
    let side_by_side = !state.one_by_one && count <= fit;
    if count > 1 && !side_by_side {
        let tabs = Rect::from_min_size(body.min, vec2(body.width(), 7.0 * GRID));
        part(ui, tabs, |ui| {
            ScrollArea::horizontal().id_salt("sequences").show(ui, |ui| {
                let names: Vec<(usize, String)> = (0..count).map(|i| (i, format!("Sequence {}", i + 1))).collect();
                ui.horizontal(|ui| {
                    if let Some(sequence) = say::one_of(ui, "Sequence", state.sequence, &names) {
                        state.sequence = sequence;
                    }
                });
            });
        });
        body.min.y = tabs.bottom() + GRID;
    }
    let drawn = if side_by_side { 0..count } else { state.sequence..state.sequence + 1 };
    let gap = 6.0 * GRID;
    let wide = (body.width() - gap * (drawn.len() - 1) as f32) / drawn.len() as f32;
    for (column, i) in drawn.enumerate() {
        let at = pos2(body.left() + column as f32 * (wide + gap), body.top());
        let rect = Rect::from_min_size(at, vec2(wide, body.height()));
        if column > 0 {
            let line = egui::Stroke::new(1.0, Palette::of(ui.theme()).line);
            ui.painter().vline(rect.left() - 0.5 * gap, rect.y_range(), line);
        }
        part(ui, rect, |ui| sequence(ui, rect, data, i, linked));
    }
    part(ui, foot, |ui| legend(ui, foot, data));
}

fn sequence(ui: &mut Ui, rect: Rect, data: &Text, i: usize, linked: &mut Linked) {
    let written = &data.sequences[i];
    let to = shown(data, written);
    ui.spacing_mut().item_spacing.y = GRID;
    let (name, prompt, new) =
        (format!("Sequence {}", i + 1), written.prompt.min(to), to.saturating_sub(written.prompt));
    let title = if data.sequences.len() > 1 { format!("{name} · ") } else { String::new() };
    let stop =
        if written.stop.is_empty() || data.step.is_some() { String::new() } else { format!(" · {}", written.stop) };
    let figures =
        format!("{title}{} tokens read, {} written{stop}", words::count(prompt as u64), words::count(new as u64));
    let palette = Palette::of(ui.theme());
    let text = egui::RichText::new(figures).size(TEXT[0]).color(palette.weak_text);
    ui.add(egui::Label::new(text).truncate());
    let live = data.running && written.stop.is_empty() && data.step.is_none();
    let height = rect.bottom() - ui.cursor().top();
    let area =
        ScrollArea::vertical().id_salt(("sequence", i)).max_height(height).auto_shrink(false).stick_to_bottom(live);
    area.show(ui, |ui| {
        let flow = Flow { to, live, gutter: rect.width() >= 320.0, ..Flow::of(&name, written) };
        tokens::show(ui, i, flow, linked);
    });
}

/// What tint and faintness mean.
fn legend(ui: &mut Ui, rect: Rect, data: &Text) {
    let p = Palette::of(ui.theme());
    let y = rect.center().y;
    let mut x = rect.left();
    let tint = Rect::from_min_size(pos2(x, y - 6.0), vec2(16.0, 12.0));
    ui.painter().rect_filled(tint, 2.0, say::mix(p.background, p.accent, 0.16));
    let write = |x: f32, text: &str| {
        ui.painter().text(pos2(x, y), egui::Align2::LEFT_CENTER, text, say::captions(), p.weak_text).right()
    };
    x = write(tint.right() + 1.5 * GRID, "written by the model") + 6.0 * GRID;
    if data.sequences.iter().any(|s| s.kept.iter().any(|k| *k < 1.0)) {
        x = write(x, "in the cache of all heads") + 2.0 * GRID;
        for share in [1.0, 0.75, 0.5, 0.25, 0.0] {
            let galley = ui.painter().layout_no_wrap("Aa".into(), say::captions(), tokens::ink(p, p.text, Some(share)));
            let at = pos2(x, y - 0.5 * galley.size().y);
            let right = x + galley.size().x;
            if share == 0.0 {
                let stroke = egui::Stroke::new(1.0, tokens::ink(p, p.text, Some(0.0)));
                ui.painter().hline(x..=right, y, stroke);
            }
            ui.painter().galley(at, galley, p.text);
            x = right + GRID;
        }
        x = write(x + GRID, "of none") + 6.0 * GRID;
    }
    let galley = ui.painter().layout_no_wrap(data.summary.clone(), say::captions(), p.text);
    if !data.summary.is_empty() && !data.running && rect.right() - x >= galley.size().x + GRID {
        ui.painter().galley(pos2(rect.right() - galley.size().x - GRID, y - 0.5 * galley.size().y), galley, p.text);
    }
}

/// Every token, one a line.
fn csv(data: &Text) -> String {
    let mut table = Table::new(["sequence", "position", "token", "text", "part", "kept"]);
    for (i, written) in data.sequences.iter().enumerate() {
        for (position, token) in written.tokens.iter().enumerate() {
            let part = if position < written.prompt { "prompt" } else { "written" };
            let kept = written.kept.get(position).map(|k| format!("{k:.4}")).unwrap_or_default();
            let [sequence, position, id] = [(i + 1).to_string(), position.to_string(), token.id.to_string()];
            table.row([&sequence, &position, &id, &token.text, part, &kept]);
        }
    }
    table.text()
}
