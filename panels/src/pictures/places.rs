//! Where is every byte: a treemap of all pieces, the table of them, what moved, and what stands beside the account.

mod beside;
mod squarify;
mod table;
mod tree;
mod treemap;

use egui::{Align, Layout, Rect, RichText, Sense, Ui, UiBuilder, vec2};
use serde::{Deserialize, Serialize};

use self::tree::Path;
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::table::Table;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Places, UsedFor};
use crate::{Action, Linked, words};

/// What the picture remembers.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacesState {
    /// The column that the table is sorted by, and whether it goes up.
    sort: table::Sort,
    /// What the table is searched for.
    #[serde(skip)]
    search: String,
    #[serde(skip)]
    path: Path,
    #[serde(skip)]
    order: table::Order,
    /// The piece under the pointer in the treemap or the table.
    #[serde(skip)]
    pointed: Option<usize>,
    /// The pointer is in the treemap, which needs no fading to be found.
    #[serde(skip)]
    inside: bool,
}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "places",
    tab: "where",
    title: "Where",
    question: "Where is every byte?",
    shows: |_| true,
    csv: |view| csv(&view.places),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.places, state, linked, actions))
    },
};

/// Draws title, trail, legend, treemap and table in all the space of `ui`; asks for a model where nothing is open.
pub fn show(ui: &mut Ui, data: &Places, state: &mut PlacesState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let picture = Picture { name: ENTRY.id, question: ENTRY.question };
    picture.show(ui, actions, || csv(data), |ui, rect, actions| {
        // What is painted takes its room too.
        ui.expand_to_include_rect(rect);
        if data.pieces.iter().all(|p| p.bytes == 0) {
            let why = "Every tensor, cache and buffer with its bytes, by where it lives: predicted as soon as a model \
                       is open, measured after a run.";
            if super::waiting::show(ui, rect, "Every byte has a place", why, Some("Open a model…"), "") {
                actions.push(Action::OpenDialog);
            }
            return;
        }
        if !data.pieces.iter().any(|p| p.bytes > 0 && state.path.holds(p)) {
            state.path = Path::default();
        }
        let (top, below) = rect.split_top_bottom_at_y(rect.top() + 9.0 * GRID);
        trail(ui, top, data, state);
        let (chips, below) = below.split_top_bottom_at_y(below.top() + 8.0 * GRID);
        legend(ui, chips, data, state, linked);
        let below = Rect::from_min_max(below.min + vec2(0.0, GRID), below.max);
        let (map, list) = if below.width() >= 700.0 {
            let (map, list) = below.split_left_right_at_fraction(0.55);
            (map, Rect::from_min_max(list.min + vec2(6.0 * GRID, 0.0), list.max))
        } else {
            let (map, list) = below.split_top_bottom_at_fraction(0.5);
            (map, Rect::from_min_max(list.min + vec2(0.0, 3.0 * GRID), list.max))
        };
        let pointed = state.pointed.take();
        treemap::show(ui, map, data, state, pointed, linked);
        // The table comes first where there is no room for both.
        let lists = if list.height() < 50.0 * GRID { 0.0 } else { beside::height(data).min(0.4 * list.height()) };
        let (table, under) = list.split_top_bottom_at_y(list.bottom() - lists);
        ui.scope(|ui| {
            // A row that is cut in two does not run into the lists below.
            ui.set_clip_rect(table.intersect(ui.clip_rect()));
            table::show(ui, table, data, state, pointed, linked);
        });
        beside::show(ui, under, data);
    });
}

/// Where one is in the tree, each part a way back; and which account it is.
fn trail(ui: &mut Ui, rect: Rect, data: &Places, state: &mut PlacesState) {
    let palette = Palette::of(ui.theme());
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::left_to_right(Align::Center)), |ui| {
        let top = state.path == Path::default();
        if ui.selectable_label(top, "Everything").clicked() {
            state.path = Path::default();
        }
        let arrow = || RichText::new("›").color(palette.weak_text);
        if let Some(used_for) = state.path.used_for {
            ui.label(arrow());
            if ui.selectable_label(state.path.group.is_none(), used_for.label()).clicked() {
                state.path.group = None;
            }
        }
        if let Some(group) = state.path.group.clone() {
            ui.label(arrow());
            _ = ui.selectable_label(true, group);
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let bytes: u64 = data.pieces.iter().filter(|p| state.path.holds(p)).map(|p| p.bytes).sum();
            let text = format!("{} · {}", data.what, words::bytes(bytes));
            let how = if data.measured { "filled: measured" } else { "outlined: predicted" };
            let label = egui::Label::new(RichText::new(text).color(palette.weak_text)).truncate();
            ui.add(label).on_hover_text(format!("{} · {how}", words::exact(bytes)));
        });
    });
}

/// What bytes are used for, each with its colour and bytes; a press goes into it.
fn legend(ui: &mut Ui, rect: Rect, data: &Places, state: &mut PlacesState, linked: &mut Linked) {
    let palette = Palette::of(ui.theme());
    let mut bytes = [0u64; 9];
    for piece in &data.pieces {
        bytes[piece.used_for as usize] = bytes[piece.used_for as usize].saturating_add(piece.bytes);
    }
    let shown: Vec<(UsedFor, u64)> = UsedFor::ALL.into_iter().zip(bytes).filter(|(_, b)| *b > 0).collect();
    let mut x = rect.left();
    let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
    let line = |text: String| painter.layout_no_wrap(text, egui::FontId::proportional(TEXT[0]), palette.text);
    let whole = |(used_for, bytes): (UsedFor, u64)| format!("{}  {}", used_for.label(), words::bytes(bytes));
    let width: f32 = shown.iter().map(|s| line(whole(*s)).size().x + 10.0 * GRID).sum();
    for (used_for, bytes) in shown {
        let text = whole((used_for, bytes));
        let galley = line(if width > rect.width() { used_for.label().to_owned() } else { text.clone() });
        let chip = Rect::from_min_size(egui::pos2(x, rect.top()), vec2(galley.size().x + 9.0 * GRID, 7.0 * GRID));
        let response = ui.interact(chip, egui::Id::unique(("places legend", used_for)), Sense::click());
        let chosen = state.path.used_for == Some(used_for);
        response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, true, chosen, text.clone()));
        if response.hovered() || response.has_focus() {
            painter.rect_filled(chip, crate::theme::CORNER, palette.raised);
            linked.used_for = Some(used_for);
        }
        if chosen || response.has_focus() {
            let stroke = egui::Stroke::new(1.0, palette.accent);
            painter.rect_stroke(chip, crate::theme::CORNER, stroke, egui::StrokeKind::Inside);
        }
        if response.clicked() {
            state.path = if chosen { Path::default() } else { Path { used_for: Some(used_for), group: None } };
        }
        let color = palette.used_for(used_for);
        let square = Rect::from_center_size(egui::pos2(x + 4.0 * GRID, chip.center().y), vec2(10.0, 10.0));
        treemap::fill(&painter, square, color, data.measured);
        let at = egui::pos2(x + 7.0 * GRID, chip.center().y - galley.size().y / 2.0);
        painter.galley(at, galley, palette.text);
        x = chip.right() + GRID;
    }
}

fn csv(data: &Places) -> String {
    let mut table = Table::new(["name", "group", "type and shape", "used for", "lives in", "bytes"]);
    for p in &data.pieces {
        let (used_for, tier) = (p.used_for.label(), p.tier.label(data.gpu));
        table.row([&p.name, &p.group, &p.detail, used_for, tier, &p.bytes.to_string()]);
    }
    for m in &data.moved {
        table.row([&m.what, "moved", "", "", "", &m.bytes.to_string()]);
    }
    for (what, bytes) in &data.beside {
        table.row([what, "beside the account", "", "", "", &bytes.to_string()]);
    }
    table.text()
}
