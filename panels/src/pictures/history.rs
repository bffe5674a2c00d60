//! What was tried before: the runs on disk, to open, to take over, to delete; and two of them side by side.

mod bars;
mod compare;
mod table;

use egui::{Align, Layout, Rect, Ui, UiBuilder, pos2, vec2};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::linked::Linked;
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::pictures::words as say;
use crate::table::{Table, number};
use crate::theme::{GRID, Palette};
use crate::view::{History, Pair, RunLine};
use crate::words;

/// By what the runs are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Newest first.
    #[default]
    When,
    /// By peak.
    Peak,
    /// By speed.
    Speed,
    /// By the folder's bytes.
    Bytes,
}

/// What the history remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryState {
    /// The column that orders the runs.
    pub order: Order,
    /// From the other end of that order.
    pub reversed: bool,
    /// Picked to be compared, by name; two at most.
    pub picked: Vec<String>,
    #[serde(skip)]
    deleting: Option<String>,
    #[serde(skip)]
    revealed: Option<[String; 2]>,
}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "history",
    tab: "history",
    title: "History",
    question: "What was tried before?",
    shows: |_| true,
    csv: |view| csv(&view.history),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.history, state, linked, actions))
    },
};

/// Draws the table of runs in all the space of `ui`, or two runs side by side while `data` has a pair.
pub fn show(ui: &mut Ui, data: &History, state: &mut HistoryState, linked: &mut Linked, actions: &mut Vec<Action>) {
    if let Some(pair) = &data.pair {
        let picture = Picture { name: "comparison", question: "Where do the two runs differ?" };
        picture.show(
            ui,
            actions,
            || compare_csv(pair),
            |ui, rect, actions| compare::show(ui, rect, pair, state, linked, actions),
        );
        return;
    }
    state.revealed = None;
    let picture = Picture { name: ENTRY.id, question: ENTRY.question };
    picture.show(ui, actions, || csv(data), |ui, rect, actions| {
        if data.runs.is_empty() {
            let what = "Every run is kept here with what was chosen and what came of it, to open, to compare, to take over.";
            if say::empty(ui, rect, what, Some("Run"), &data.blocked) {
                actions.push(Action::Run);
            }
            return;
        }
        let exists = |name: &String| data.runs.iter().any(|run| run.name == *name);
        state.picked.retain(exists);
        state.deleting = state.deleting.take().filter(exists);
        let strip = Rect::from_min_size(rect.min, vec2(rect.width(), 7.0 * GRID));
        row(ui, strip, |ui| header(ui, data, actions));
        let foot = Rect::from_min_max(pos2(rect.left(), rect.bottom() - 10.0 * GRID), rect.max);
        let body = Rect::from_min_max(pos2(rect.left(), strip.bottom() + GRID), pos2(rect.right(), foot.top() - GRID));
        table::show(ui, body, data, state, linked, actions);
        ui.painter().hline(foot.x_range(), foot.top(), egui::Stroke::new(1.0, Palette::of(ui.theme()).line));
        row(ui, foot, |ui| footer(ui, data, state, linked, actions));
    });
}

fn row(ui: &mut Ui, rect: Rect, add: impl FnOnce(&mut Ui)) {
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::left_to_right(Align::Center)), add);
}

fn header(ui: &mut Ui, data: &History, actions: &mut Vec<Action>) {
    let runs = if data.runs.len() == 1 {
        "1 run".to_owned()
    } else {
        format!("{} runs", words::count(data.runs.len() as u64))
    };
    say::note(ui, format!("{runs} · {} on disk", words::bytes(data.bytes))).on_hover_text(words::exact(data.bytes));
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        if ui.button("Show the folder").on_hover_text(&data.folder).clicked() {
            actions.push(Action::ShowFolder);
        }
        let palette = Palette::of(ui.theme());
        let folder = egui::RichText::new(&data.folder).size(crate::theme::TEXT[0]).color(palette.weak_text);
        ui.add(egui::Label::new(folder).truncate());
    });
}

/// What can be done with the selected run, and with the two picked.
fn footer(ui: &mut Ui, data: &History, state: &mut HistoryState, linked: &Linked, actions: &mut Vec<Action>) {
    let palette = Palette::of(ui.theme());
    if let Some(run) = state.deleting.as_ref().and_then(|name| data.runs.iter().find(|run| run.name == *name)) {
        ui.label(format!("Delete {} and its {}? It cannot be brought back.", run.name, words::bytes(run.bytes)));
        let delete = egui::Button::new(egui::RichText::new("Delete").color(palette.alarm));
        let (delete, keep) = (ui.add(delete).clicked(), ui.button("Keep it").clicked());
        if delete {
            actions.push(Action::DeleteRun(run.name.clone()));
        }
        if delete || keep {
            state.deleting = None;
        }
        return;
    }
    let selected = linked.run.as_ref().and_then(|name| data.runs.iter().find(|run| run.name == *name));
    match selected {
        Some(run) => {
            let text = egui::RichText::new(&run.name).monospace().size(crate::theme::TEXT[0]);
            ui.label(text);
            if ui.button("Open").on_hover_text("Show this run in all pictures").clicked() {
                actions.push(Action::OpenRun(run.name.clone()));
            }
            if ui.button("Take its configuration").clicked() {
                actions.push(Action::TakeConfig(run.name.clone()));
            }
            if ui.button("Delete…").clicked() {
                state.deleting = Some(run.name.clone());
            }
            if !run.error.is_empty() {
                let text = egui::RichText::new(&run.error).size(crate::theme::TEXT[0]).color(palette.alarm);
                ui.add_sized(
                    vec2((ui.available_width() - 240.0).max(60.0), 5.0 * GRID),
                    egui::Label::new(text).truncate(),
                );
            }
        }
        None => {
            say::note(ui, "Select a run to open it, take its configuration or delete it.");
        }
    }
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        let pair = <[String; 2]>::try_from(state.picked.clone()).ok();
        let button = ui.add_enabled(pair.is_some(), say::primary("Compare", palette));
        if button.on_disabled_hover_text("Tick two runs to put them side by side.").clicked() {
            actions.push(Action::Compare(pair));
        }
        say::note(
            ui,
            match state.picked.len() {
                0 => "tick two runs to compare",
                1 => "tick one more",
                _ => "two runs ticked",
            },
        );
    });
}

fn csv(data: &History) -> String {
    let mut table = Table::new([
        "run",
        "when",
        "model",
        "choices",
        "peak_bytes",
        "tokens_per_second",
        "accuracy",
        "error",
        "folder_bytes",
    ]);
    for RunLine { name, when, model, choices, peak, speed, accuracy, error, bytes, .. } in &data.runs {
        let (peak, speed) = (number(*peak), number(speed.filter(|s| s.is_finite())));
        table.row([name, when, model, choices, &peak, &speed, accuracy, error, &bytes.to_string()]);
    }
    table.text()
}

fn compare_csv(pair: &Pair) -> String {
    let mut table = Table::new(["what", &pair.names[0], &pair.names[1], "difference"]);
    for figure in &pair.figures {
        table.row([&figure.label, &figure.values[0], &figure.values[1], &figure.change]);
    }
    for (key, [a, b]) in &pair.choices {
        table.row([key.as_str(), a, b, ""]);
    }
    table.text()
}
