//! The palette: every command by name, found by a few of its letters.

use egui::{
    Align, Align2, Area, EventFilter, Id, Key, Modal, Order, Rect, Role, ScrollArea, Sense, TextEdit, Ui, WidgetInfo,
    pos2, vec2,
};

use crate::action::Action;
use crate::kit::{self, BODY, SMALL};
use crate::pictures::Pictures;
use crate::theme::{CORNER, GRID};
use crate::top;
use crate::view::{AdapterUse, Card, View};
use crate::words;
use crate::{cards, keys};

const WIDE: f32 = 600.0;
const ROW: f32 = 28.0;
/// Rows in view at once.
const ROWS: f32 = 12.0;

/// What choosing a command does.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Asks the program for it.
    Ask(Action),
    /// Shows the picture of a tab.
    Show(&'static str),
    /// Copies a picture's data.
    Copy(fn(&View) -> String),
    /// Opens a card.
    Card(String),
    /// Opens the menu of models.
    Models,
    /// Moves the keyboard to the memory limit.
    Limit,
    /// Shows or folds the About panel.
    About,
    /// Lists the shortcuts.
    Shortcuts,
}

/// One command.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Its words.
    pub name: String,
    /// A figure or shortcut at the right.
    pub detail: String,
    /// What choosing it does.
    pub does: Does,
}

fn command(name: impl Into<String>, detail: impl Into<String>, does: Does) -> Command {
    Command { name: name.into(), detail: detail.into(), does }
}

/// Every command there is now: what can be run, pictures, what brings the peak down, every choice on every card, models.
pub(crate) fn all(view: &View, pictures: &Pictures) -> Vec<Command> {
    let mut list = Vec::new();
    let status = &view.status;
    let ask = |a: Action| Does::Ask(a);
    if status.running {
        let (name, action) = if status.paused { ("Resume", Action::Resume) } else { ("Pause", Action::Pause) };
        list.push(command(name, "Space", ask(action)));
        if status.paused {
            list.push(command("Step one token", "", ask(Action::Step)));
        }
        list.push(command("Stop", "", ask(Action::Stop)));
    } else if status.blocked.is_empty() {
        list.push(command("Run", "Space", ask(Action::Run)));
    }
    if let Some(way) = &view.top.way_back {
        list.push(command(
            format!("Bring it below the limit: {}", way.words),
            words::change(way.change),
            ask(top::take(way)),
        ));
    }
    for (name, what, keys, action) in
        [("Undo", &status.undo, "Ctrl-Z", Action::Undo), ("Redo", &status.redo, "Ctrl-Shift-Z", Action::Redo)]
    {
        if let Some(what) = what {
            list.push(command(format!("{name}: {what}"), keys, ask(action)));
        }
    }
    for (i, entry) in pictures.tabs(view).into_iter().enumerate() {
        let keys = keys::of_tab(i).unwrap_or_default();
        list.push(command(format!("Show {}", entry.title), keys, Does::Show(entry.tab)));
    }
    for entry in pictures.tabs(view) {
        list.push(command(format!("Copy the data of {}", entry.title), "CSV", Does::Copy(entry.csv)));
    }
    if let Some(adapter) = view.text.adapter.as_ref().filter(|a| !a.merging) {
        let uses = [(AdapterUse::On, "on"), (AdapterUse::Off, "off"), (AdapterUse::Merged, "merged")];
        for (how, words) in uses.into_iter().filter(|(how, _)| *how != adapter.now) {
            list.push(command(format!("Adapter {words}"), "", ask(Action::Adapter(how))));
        }
    }
    for mode in view.modes.iter().filter(|m| !m.chosen) {
        list.push(command(format!("Mode: {}", mode.label), "", ask(Action::Mode(mode.id.clone()))));
    }
    list.push(command("Open a model or configuration…", "Ctrl-O", ask(Action::OpenDialog)));
    list.push(command("Models", "", Does::Models));
    list.push(command("Memory limit", "Ctrl-L", Does::Limit));
    list.push(command("Export TOML…", "Ctrl-E", ask(Action::ExportDialog)));
    list.push(command("Copy configuration as TOML", "", ask(Action::CopyToml)));
    list.push(command("Measure this machine", "", ask(Action::Probe)));
    list.push(command("Show the folder of runs", "", ask(Action::ShowFolder)));
    list.push(command("Show or fold the About panel", "Ctrl-I", Does::About));
    list.push(command("Keyboard shortcuts", "F1", Does::Shortcuts));
    for card in view.cards.iter().flat_map(|s| &s.cards) {
        variants(card, &mut list);
    }
    for tick in view.top.limit.ticks.iter().filter(|t| t.named) {
        let sets = vec![("budget.device".to_owned(), top::toml(tick.bytes))];
        let set = Action::Set { what: format!("Memory limit {}", tick.label), sets, gesture: None };
        list.push(command(format!("Memory limit: {}", tick.label), words::bytes(tick.bytes), ask(set)));
    }
    for model in &view.top.recent {
        let size = model.bytes.map_or_else(String::new, words::bytes);
        list.push(command(
            format!("Open {} ({})", model.name, model.from),
            size,
            ask(Action::Open(model.path.clone())),
        ));
    }
    list
}

fn variants(card: &Card, list: &mut Vec<Command>) {
    list.push(command(card.title.clone(), card.key.clone(), Does::Card(card.key.clone())));
    for variant in card.variants.iter().filter(|v| v.refused.is_empty() && !v.chosen) {
        let price = variant.price.map_or_else(String::new, |p| words::change(p.change()));
        list.push(command(format!("{}: {}", card.title, variant.title), price, Does::Ask(cards::take(card, variant))));
    }
}

/// How well `query` is found in `text`, all its letters in order: higher is better, `None` when it is not. Letters that begin
/// words and letters side by side count more.
pub(crate) fn score(query: &str, text: &str) -> Option<i32> {
    let letters: Vec<char> = query.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    if letters.is_empty() {
        return Some(0);
    }
    let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let begins = |i: usize| i == 0 || !text[i - 1].is_alphanumeric();
    // The best score of the letters so far whose last one is at each place; the next letter builds on it.
    let mut best: Vec<Option<i32>> = Vec::new();
    for (n, letter) in letters.iter().enumerate() {
        let mut next = vec![None; text.len()];
        let mut reach: Option<i32> = None;
        for i in 0..text.len() {
            if n > 0 && i > 0 {
                // Letters passed over cost a little, so that what is close together is found first.
                let passed = i.checked_sub(2).and_then(|j| best[j]);
                reach = reach.map(|r| r - 1).max(passed.map(|b| b - 1));
            }
            if text[i] != *letter {
                continue;
            }
            let own = if begins(i) { 8 } else { 1 };
            next[i] = if n == 0 {
                Some(own - (i as i32).min(6))
            } else {
                let beside = i.checked_sub(1).and_then(|j| best[j]).map(|b| b + 6);
                beside.max(reach).map(|b| b + own)
            };
        }
        best = next;
    }
    best.into_iter().flatten().max()
}

/// The palette while it is open.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PaletteState {
    /// True while it is on screen.
    pub open: bool,
    query: String,
    at: usize,
}

impl PaletteState {
    /// Opens it, empty.
    pub(crate) fn open(&mut self) {
        *self = Self { open: true, ..Self::default() };
    }
}

/// The commands that match, best first; the order of the list among equals.
pub(crate) fn matching<'a>(list: &'a [Command], query: &str) -> Vec<&'a Command> {
    let mut found: Vec<(i32, &Command)> = list.iter().filter_map(|c| score(query, &c.name).map(|s| (s, c))).collect();
    found.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    found.into_iter().map(|(_, c)| c).collect()
}

/// Draws it; what was chosen, if anything was.
pub(crate) fn show(ui: &mut Ui, view: &View, pictures: &Pictures, state: &mut PaletteState) -> Option<Does> {
    if !state.open {
        return None;
    }
    let id = Id::unique("palette");
    let area = Area::new(id).order(Order::Foreground).anchor(Align2::CENTER_TOP, vec2(0.0, 72.0));
    let list = all(view, pictures);
    let modal = Modal::new(id).area(area).show(ui.ctx(), |ui| contents(ui, &list, state));
    let done = modal.inner.is_some() || modal.should_close();
    if done {
        state.open = false;
    }
    modal.inner
}

fn contents(ui: &mut Ui, list: &[Command], state: &mut PaletteState) -> Option<Does> {
    let p = kit::palette(ui);
    ui.set_width(WIDE.min(ui.ctx().content_rect().width() - 64.0));
    let (up, down, enter) = ui.input_mut(|i| {
        let mut take = |key| i.count_and_consume_key(egui::Modifiers::NONE, key);
        (take(Key::ArrowUp), take(Key::ArrowDown), take(Key::Enter) > 0)
    });
    let edit = TextEdit::singleline(&mut state.query)
        .id(Id::unique("palette query"))
        .hint_text("A few letters of a command, a technique, a model")
        .font(kit::words(BODY))
        .margin(vec2(2.0 * GRID, GRID + 2.0))
        .background_color(p.raised)
        .event_filter(EventFilter { horizontal_arrows: true, vertical_arrows: true, ..EventFilter::default() })
        .desired_width(f32::INFINITY);
    let response = ui.add(edit).accessible_name("Command");
    response.request_focus();
    let found = matching(list, &state.query);
    let typed = response.changed();
    if typed {
        state.at = 0;
    }
    state.at = (state.at + down).saturating_sub(up).min(found.len().saturating_sub(1));
    let mut chosen = if enter { found.get(state.at).map(|c| c.does.clone()) } else { None };
    ui.add_space(GRID);
    ui.spacing_mut().item_spacing.y = 0.0;
    ScrollArea::vertical().max_height(ROW * ROWS).auto_shrink([false, true]).show(ui, |ui| {
        for (i, command) in found.iter().enumerate() {
            let on = i == state.at;
            let response = row(ui, command, on);
            if on && (up + down > 0 || typed) {
                response.scroll_to_me(None);
            }
            if response.clicked() {
                chosen = Some(command.does.clone());
            }
        }
        if found.is_empty() {
            kit::label(ui, "No command has these letters.", BODY, p.weak_text);
        }
    });
    chosen
}

fn row(ui: &mut Ui, command: &Command, on: bool) -> egui::Response {
    let p = kit::palette(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), Sense::click());
    response.widget_info(|| WidgetInfo::selected(Role::ListBoxOption, true, on, &command.name));
    if !ui.is_rect_visible(rect) {
        return response;
    }
    let (fill, ink, weak) = match (on, response.hovered()) {
        (true, _) => (p.accent, p.background, p.background),
        (false, true) => (p.raised, p.text, p.weak_text),
        (false, false) => (egui::Color32::TRANSPARENT, p.text, p.weak_text),
    };
    ui.painter().rect_filled(rect, CORNER, fill);
    let inner = rect.shrink2(vec2(2.0 * GRID, 0.0));
    let font = kit::figures(SMALL);
    let wide = kit::width(ui.painter(), &command.detail, font.clone());
    kit::line(ui.painter(), inner, Align::Max, &command.detail, font, weak);
    let area = Rect::from_min_max(inner.min, pos2(inner.right() - wide - 3.0 * GRID, inner.bottom()));
    kit::line(ui.painter(), area, Align::Min, &command.name, kit::words(BODY), ink);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_found_in_order_and_word_beginnings_first() {
        assert_eq!(score("", "anything"), Some(0));
        assert_eq!(score("xyz", "Tokens to keep"), None);
        assert_eq!(score("keep tokens", "Tokens to keep"), None, "in order");
        let better = |query, a, b| score(query, a) > score(query, b);
        assert!(better("prq", "Precision: q8_0", "Export requested"));
        assert!(better("run", "Run", "Return undone"));
        assert!(better("h2o", "Tokens to keep: H2O", "Show 2 others"));
        assert!(score("É", "é").is_some(), "case is no matter");
    }

    #[test]
    fn equals_keep_their_order() {
        let list = ["Run", "Stop", "Undo"].map(|name| command(name, "", Does::About));
        let names = |query| matching(&list, query).into_iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(""), ["Run", "Stop", "Undo"]);
        assert_eq!(names("o"), ["Undo", "Stop"].map(|n| n).into_iter().rev().collect::<Vec<_>>());
    }
}
