//! Which tokens did each head look at, and which are gone: small maps of all heads, then one of them large.

mod atlas;
mod bar;
pub mod color;
mod gone;
mod grid;
mod lens;
mod map;
mod pyramid;
mod tiles;

use egui::{Align, Layout, Rect, Ui, UiBuilder, pos2};
use serde::{Deserialize, Serialize};

use self::color::{Code, Scale};
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::table::Table;
use crate::theme::{GRID, Palette};
use crate::view::{Attention, Kept};
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttentionState {
    /// One head is shown large, the one that is linked.
    pub large: bool,
    /// How weights become colours.
    pub scale: Scale,
    #[serde(skip)]
    grid: grid::State,
    #[serde(skip)]
    map: map::State,
}

impl AttentionState {
    /// One head is shown large from the start.
    pub fn large() -> Self {
        Self { large: true, ..Self::default() }
    }
}

/// The key that keeps small maps of all heads, and its value.
const KEEP: (&str, &str) = ("observe.attention", "thumbnails");

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "attention",
    tab: "attention",
    title: "Attention",
    question: "Which tokens did each head look at, and which are gone?",
    shows: |_| true,
    csv: |view| csv_of_grid(&view.attention),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.attention, state, linked, actions))
    },
};

/// Draws the small maps of all heads, or the linked head large, in all the space of `ui`.
pub fn show(ui: &mut Ui, data: &Attention, state: &mut AttentionState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let head = linked.head.or(data.map.as_ref().map(|m| m.head)).unwrap_or_default();
    let head = (head.0.min(data.layers.saturating_sub(1)), head.1.min(data.heads.saturating_sub(1)));
    let large = state.large;
    let csv = move || if large { csv_of_head(data, head) } else { csv_of_grid(data) };
    let picture = Picture { name: ENTRY.id, question: ENTRY.question };
    picture.show(ui, actions, csv, |ui, rect, actions| {
        // What is painted takes its room too.
        ui.expand_to_include_rect(rect);
        let empty = data.grid.as_ref().is_none_or(|g| g.steps.is_empty());
        if data.layers == 0 || data.heads == 0 || (empty && data.map.is_none()) {
            waiting(ui, rect, data, actions);
            return;
        }
        if empty {
            state.large = true;
        }
        let (top, below) = rect.split_top_bottom_at_y(rect.top() + 9.0 * GRID);
        controls(ui, top, data, state, head, actions);
        if state.large {
            map::show(ui, below, data, state, head, linked, actions);
        } else if let Some(grid) = &data.grid {
            grid::show(ui, below, data, grid, state, linked);
        }
    });
}

fn waiting(ui: &mut Ui, rect: Rect, data: &Attention, actions: &mut Vec<Action>) {
    let note = if data.note.is_empty() { String::new() } else { format!("\n{}.", data.note.trim_end_matches('.')) };
    if data.observed {
        let why = format!("A small map of every layer and head fills in while the answer is written.{note}");
        if super::waiting::show(ui, rect, "What each head looks at", &why, Some("Run"), &data.blocked) {
            actions.push(Action::Run);
        }
    } else {
        let why = format!(
            "Attention is not kept for display. Keeping a small map of every layer and head takes RAM beside the memory \
             limit, at most what observe.limit says, and does not change what is computed.{note}"
        );
        if super::waiting::show(ui, rect, "What each head looks at", &why, Some("Keep attention for display"), "") {
            actions.push(Action::Set {
                what: "keep attention for display".into(),
                sets: vec![(KEEP.0.into(), KEEP.1.into())],
                gesture: None,
            });
        }
    }
}

fn controls(
    ui: &mut Ui,
    rect: Rect,
    data: &Attention,
    state: &mut AttentionState,
    head: (usize, usize),
    actions: &mut Vec<Action>,
) {
    let palette = Palette::of(ui.theme());
    let layout = Layout::left_to_right(Align::Center);
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(layout), |ui| {
        let grid = data.grid.as_ref().is_some_and(|g| !g.steps.is_empty());
        if grid && ui.selectable_label(!state.large, "All heads").clicked() {
            state.large = false;
        }
        let name = format!("Layer {}, head {}", head.0, head.1);
        if ui.selectable_label(state.large, name).clicked() {
            state.large = true;
        }
        ui.add_space(4.0 * GRID);
        ui.label(egui::RichText::new("Colours").color(palette.weak_text));
        let log = "Equal ratios are equal steps: small weights stay visible beside a large one";
        ui.selectable_value(&mut state.scale, Scale::Log, "log").on_hover_text(log);
        let linear = "Equal differences are equal steps";
        ui.selectable_value(&mut state.scale, Scale::Linear, "linear").on_hover_text(linear);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if data.chosen == Some(head) {
                let stop = "Layer and head are kept at full size in the next run; press to keep none";
                if ui.button("Do not keep at full size").on_hover_text(stop).clicked() {
                    actions.push(Action::WatchHead(None));
                }
            } else if state.large && data.map.as_ref().is_none_or(|m| m.head != head) {
                let why = "Every query and key of this head, beside the small maps";
                if ui.button("Watch this head at full size in the next run").on_hover_text(why).clicked() {
                    actions.push(Action::WatchHead(Some(head)));
                }
            }
            if !data.note.is_empty() {
                ui.add(egui::Label::new(egui::RichText::new(&data.note).color(palette.weak_text)).truncate());
            }
        });
    });
}

/// What a stored byte of the picture on screen stands for.
fn code(data: &Attention, head: (usize, usize), large: bool, largest: u8) -> Code {
    match &data.map {
        Some(map) if large && map.head == head => {
            let largest = f32::from(largest) / 255.0;
            Code::Root { top: color::round_up(largest * largest) }
        }
        _ => Code::Share,
    }
}

/// The decoding step scrubbed to, if it is known.
fn scrubbed(data: &Attention, linked: &Linked) -> Option<usize> {
    linked.moment.and_then(|m| data.moments.get(m).copied())
}

/// A token's words for an axis or a sentence: what it says, with what cannot be seen made visible.
fn token(data: &Attention, position: usize) -> Option<String> {
    let text = data.tokens.get(position)?;
    let shown = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    Some(shown)
}

/// How a layer's keys and values are kept, where either is quantized.
fn kept_words(data: &Attention, layer: usize) -> Option<String> {
    let [key, value] = data.kept(layer).filter(|kept| kept.iter().any(Kept::quantized))?;
    let said = |kept: &Kept| format!("{} ({} bits)", kept.name, crate::words::number(kept.bits));
    Some(format!("keys {}, values {}", said(key), said(value)))
}

/// Splits what is left into a body and the line under it that reads out what is pointed at.
fn with_readout(rect: Rect) -> (Rect, Rect) {
    rect.split_top_bottom_at_y((rect.bottom() - 6.0 * GRID).max(rect.top()))
}

fn readout(ui: &Ui, rect: Rect, text: &str) {
    let palette = Palette::of(ui.theme());
    let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
    let font = egui::FontId::proportional(crate::theme::TEXT[0]);
    let at = pos2(rect.left(), rect.center().y);
    painter.text(at, egui::Align2::LEFT_CENTER, text, font, palette.weak_text);
}

fn csv_of_grid(data: &Attention) -> String {
    csv_of_heads(data, |_| true)
}

/// Rows of the small maps of some heads.
fn csv_of_heads(data: &Attention, wanted: impl Fn((usize, usize)) -> bool) -> String {
    let bins = data.grid.as_ref().map_or(0, |g| g.bins);
    let head = ["step", "layer", "head", "rows held"].map(str::to_owned).into_iter();
    let mut table = Table::new(head.chain((0..bins).map(|bin| format!("share of largest in bin {bin}"))));
    let Some(grid) = &data.grid else { return table.text() };
    for (at, step) in grid.steps.iter().enumerate() {
        for layer in 0..data.layers {
            for head in (0..data.heads).filter(|head| wanted((layer, *head))) {
                let rows = grid.rows.get(at).copied().unwrap_or(0);
                let about = [*step, layer, head, rows].map(|v| v.to_string()).into_iter();
                let row = grid.row(at, (layer, head), (data.layers, data.heads));
                table.row(about.chain(row.iter().map(|v| format!("{:.4}", f32::from(*v) / 255.0))));
            }
        }
    }
    table.text()
}

fn csv_of_head(data: &Attention, head: (usize, usize)) -> String {
    let Some(map) = data.map.as_ref().filter(|m| m.head == head) else {
        return csv_of_heads(data, |h| h == head);
    };
    let mut table = Table::new(["layer", "head", "query", "query token", "key", "key token", "weight"]);
    for (row, &query) in map.queries.iter().enumerate() {
        for column in (0..map.columns).filter(|&c| map.held(row, c)) {
            let word = |at: usize| data.tokens.get(at).map_or("", String::as_str);
            let [layer, head, key] = [head.0, head.1, column].map(|v| v.to_string());
            let weight = format!("{:.6}", map.weight(row, column));
            table.row([&layer, &head, &query.to_string(), word(query as usize), &key, word(column), &weight]);
        }
    }
    table.text()
}
