//! The table of all pieces: sorted, searched, and only the rows in sight laid out.

use std::hash::{DefaultHasher, Hash, Hasher};

use egui::{Align, Button, FontId, Label, Layout, Rect, RichText, Sense, TextEdit, Ui, UiBuilder, vec2};
use egui_extras::{Column, TableBuilder};
use serde::{Deserialize, Serialize};

use super::PlacesState;
use super::tree::Path;
use crate::Linked;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Piece, Places};
use crate::words;

/// A column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Its name.
    Name,
    /// Type and shape.
    Detail,
    /// What the bytes are used for.
    UsedFor,
    /// The tier that holds them.
    Tier,
    /// How many, the most first.
    #[default]
    Bytes,
}

impl By {
    const ALL: [Self; 5] = [Self::Name, Self::Detail, Self::UsedFor, Self::Tier, Self::Bytes];

    const fn label(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Detail => "Type and shape",
            Self::UsedFor => "Used for",
            Self::Tier => "Lives in",
            Self::Bytes => "Bytes",
        }
    }
}

/// How the table is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Sort {
    /// By which column.
    pub by: By,
    /// The other way round: names from z, bytes from the smallest.
    pub reversed: bool,
}

/// The order worked out last, and what for.
#[derive(Default)]
pub struct Order {
    key: u64,
    rows: Vec<usize>,
}

impl Order {
    fn follow(&mut self, data: &Places, sort: Sort, search: &str, path: &Path) {
        let mut hasher = DefaultHasher::new();
        (data.pieces.as_ptr() as usize, data.pieces.len(), &data.what, sort, search, path).hash(&mut hasher);
        data.pieces.iter().map(|p| p.bytes).fold(0u64, u64::wrapping_add).hash(&mut hasher);
        let key = hasher.finish();
        if self.key != key {
            (self.key, self.rows) = (key, order(&data.pieces, sort, search, path));
        }
    }
}

/// Indices of the pieces below `path` in which every word searched for occurs, sorted.
fn order(pieces: &[Piece], sort: Sort, search: &str, path: &Path) -> Vec<usize> {
    let wanted: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    let found = |p: &Piece| {
        let text = format!("{} {} {} {}", p.name, p.group, p.detail, p.used_for.label()).to_lowercase();
        wanted.iter().all(|w| text.contains(w))
    };
    let mut rows: Vec<usize> = (0..pieces.len()).filter(|&i| path.holds(&pieces[i]) && found(&pieces[i])).collect();
    rows.sort_by(|&a, &b| {
        let (a, b) = (&pieces[a], &pieces[b]);
        let order = match sort.by {
            By::Name => natural(&a.name).cmp(&natural(&b.name)),
            By::Detail => a.detail.cmp(&b.detail),
            By::UsedFor => a.used_for.cmp(&b.used_for),
            By::Tier => a.tier.cmp(&b.tier),
            By::Bytes => b.bytes.cmp(&a.bytes),
        };
        if sort.reversed { order.reverse() } else { order }
    });
    rows
}

/// A name so that layer 10 comes after layer 9: text and numbers in turn.
fn natural(name: &str) -> Vec<(&str, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - text);
        // Too long for a number, or none: after all that are numbers.
        parts.push((&rest[..text], rest[text..text + digits].parse().unwrap_or(u64::MAX)));
        rest = &rest[text + digits..];
    }
    parts
}

/// Draws the table.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Places,
    state: &mut PlacesState,
    pointed: Option<usize>,
    linked: &mut Linked,
) {
    if rect.width() < 20.0 * GRID || rect.height() < 16.0 * GRID {
        return;
    }
    let palette = Palette::of(ui.theme());
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
        ui.horizontal(|ui| {
            let hint = RichText::new("Search: a layer, a type, a use…").color(palette.weak_text);
            let edit = TextEdit::singleline(&mut state.search).hint_text(hint).desired_width(rect.width() * 0.55);
            let response = ui.add(edit).accessible_name("Search the pieces");
            if response.has_focus() && ui.input(|i| i.key_pressed(egui::Key::Escape)) {
                state.search.clear();
            }
            state.order.follow(data, state.sort, &state.search, &state.path);
            let bytes = state.order.rows.iter().fold(0u64, |s, &i| s.saturating_add(data.pieces[i].bytes));
            let count = state.order.rows.len();
            let text = format!("{} pieces · {}", words::count(count as u64), words::bytes(bytes));
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                ui.label(RichText::new(text).size(TEXT[0]).color(palette.weak_text)).on_hover_text(words::exact(bytes));
            });
        });
        if state.order.rows.is_empty() {
            ui.add_space(2.0 * GRID);
            ui.label(RichText::new("No piece has all these words.").color(palette.weak_text));
            return;
        }
        body(ui, data, state, pointed, linked);
    });
}

fn body(ui: &mut Ui, data: &Places, state: &mut PlacesState, pointed: Option<usize>, linked: &mut Linked) {
    let palette = Palette::of(ui.theme());
    let width = ui.available_width();
    ui.spacing_mut().item_spacing = vec2(2.0 * GRID, 0.0);
    // What does not fit goes, the least telling first; the treemap's colour says what for.
    let shown: &[By] = match width {
        w if w >= 460.0 => &By::ALL,
        w if w >= 340.0 => &[By::Name, By::Detail, By::Tier, By::Bytes],
        _ => &[By::Name, By::Bytes],
    };
    let mut table = TableBuilder::new(ui)
        .id_salt("places table")
        .striped(false)
        .sense(Sense::hover())
        .auto_shrink([false, false])
        .cell_layout(Layout::left_to_right(Align::Center));
    for by in shown {
        table = table.column(match by {
            By::Name => Column::remainder().at_least(90.0).clip(true),
            By::Detail => Column::exact(124.0).clip(true),
            By::UsedFor => Column::exact(88.0).clip(true),
            By::Tier => Column::exact(76.0).clip(true),
            By::Bytes => Column::exact(72.0).clip(true),
        });
    }
    let PlacesState { sort, order, pointed: next, .. } = state;
    table
        .header(6.0 * GRID, |mut row| {
            for &by in shown {
                row.col(|ui| header(ui, by, sort));
            }
        })
        .body(|body| {
            body.rows(5.5 * GRID, order.rows.len(), |mut row| {
                let i = order.rows[row.index()];
                let piece = &data.pieces[i];
                row.set_hovered(pointed == Some(i));
                for &by in shown {
                    row.col(|ui| cell(ui, by, piece, data, palette));
                }
                if row.response().contains_pointer() {
                    (*next, linked.used_for) = (Some(i), Some(piece.used_for));
                }
            });
        });
}

fn header(ui: &mut Ui, by: By, sort: &mut Sort) {
    let palette = Palette::of(ui.theme());
    let chosen = sort.by == by;
    let arrow = match (chosen, sort.reversed) {
        (false, _) => "",
        (true, false) => " ↓",
        (true, true) => " ↑",
    };
    let color = if chosen { palette.text } else { palette.weak_text };
    let text = RichText::new(format!("{}{arrow}", by.label())).size(TEXT[0]).color(color);
    let layout =
        if by == By::Bytes { Layout::right_to_left(Align::Center) } else { Layout::left_to_right(Align::Center) };
    ui.with_layout(layout, |ui| {
        ui.spacing_mut().button_padding = vec2(0.0, 0.0);
        if ui.add(Button::new(text).frame(false)).on_hover_text("Sort by this; again turns it round").clicked() {
            *sort = Sort { by, reversed: chosen && !sort.reversed };
        }
    });
}

fn cell(ui: &mut Ui, by: By, piece: &Piece, data: &Places, palette: &Palette) {
    let font = FontId::proportional(TEXT[0]);
    let text = |text: &str, color| RichText::new(text).font(font.clone()).color(color);
    match by {
        By::Name => {
            let (mark, _) = ui.allocate_exact_size(vec2(8.0, 8.0), Sense::hover());
            super::treemap::fill(ui.painter(), mark, palette.used_for(piece.used_for), data.measured);
            let name = if piece.name.is_empty() { &piece.group } else { &piece.name };
            ui.add(Label::new(text(name, palette.text)).truncate());
        }
        By::Detail => _ = ui.add(Label::new(text(&piece.detail, palette.weak_text)).truncate()),
        By::UsedFor => _ = ui.add(Label::new(text(piece.used_for.label(), palette.weak_text)).truncate()),
        By::Tier => _ = ui.add(Label::new(text(piece.tier.label(data.gpu), palette.weak_text)).truncate()),
        By::Bytes => {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let label = ui.add(Label::new(text(&words::bytes(piece.bytes), palette.text)));
                label.on_hover_text(words::exact(piece.bytes));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Tier, UsedFor};

    fn piece(name: &str, detail: &str, bytes: u64) -> Piece {
        let used_for = if name.starts_with("kv") { UsedFor::KvCache } else { UsedFor::Weights };
        Piece { name: name.into(), detail: detail.into(), bytes, used_for, tier: Tier::Device, ..Piece::default() }
    }

    #[test]
    fn rows_are_found_by_all_words_and_sorted_as_people_count() {
        let pieces = [
            piece("blk.10.ffn_up", "q4_1 (1536, 576)", 30),
            piece("blk.9.ffn_up", "q4_1 (1536, 576)", 20),
            piece("kv rows, layer 2", "f16", 90),
            piece("blk.9.attn_q", "q8_0 (576, 576)", 20),
        ];
        let names = |sort, search: &str, path: &Path| -> Vec<&str> {
            order(&pieces, sort, search, path).iter().map(|&i| pieces[i].name.as_str()).collect()
        };
        let all = Path::default();
        assert_eq!(names(Sort::default(), "", &all)[0], "kv rows, layer 2");
        let by_name = Sort { by: By::Name, reversed: false };
        assert_eq!(names(by_name, "BLK ffn", &all), ["blk.9.ffn_up", "blk.10.ffn_up"]);
        assert_eq!(names(by_name, "kv CACHE", &all), ["kv rows, layer 2"]);
        assert_eq!(names(Sort { by: By::Bytes, reversed: true }, "", &all).last(), Some(&"kv rows, layer 2"));
        assert_eq!(names(by_name, "q8_0 ffn", &all), Vec::<&str>::new());
        let weights = Path { used_for: Some(UsedFor::Weights), group: None };
        assert_eq!(names(by_name, "", &weights), ["blk.9.attn_q", "blk.9.ffn_up", "blk.10.ffn_up"]);
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = vec!["l10", "l2", "l02b", "l100", "a5", "12", "3"];
        names.sort_by_key(|n| natural(n));
        assert_eq!(names, ["3", "12", "a5", "l2", "l02b", "l10", "l100"]);
    }
}
