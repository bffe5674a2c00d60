//! Two runs side by side: what each wrote with the first differing token in view, what each held, and what was chosen differently.

use egui::{Align, Label, Layout, Rect, RichText, ScrollArea, Ui, UiBuilder, pos2, vec2};

use super::{HistoryState, bars, row};
use crate::action::Action;
use crate::linked::Linked;
use crate::pictures::tokens::{self, Flow};
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::Pair;
use crate::words;

pub fn show(
    ui: &mut Ui,
    rect: Rect,
    pair: &Pair,
    state: &mut HistoryState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let strip = Rect::from_min_size(rect.min, vec2(rect.width(), 7.0 * GRID));
    let mut reveal = state.revealed.as_ref() != Some(&pair.names);
    state.revealed = Some(pair.names.clone());
    row(ui, strip, |ui| {
        say::note(
            ui,
            match pair.first_difference {
                Some(at) => {
                    format!("The texts are the same up to position {} and differ from there.", words::count(at as u64))
                }
                None => "Both wrote the same, token for token.".to_owned(),
            },
        );
        if pair.first_difference.is_some() && ui.button("Go to the first difference").clicked() {
            reveal = true;
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if ui.button("End the comparison").clicked() {
                actions.push(Action::Compare(None));
            }
        });
    });
    let below = Rect::from_min_max(pos2(rect.left(), strip.bottom() + GRID), rect.max);
    let gap = 6.0 * GRID;
    let split = below.top() + (below.height() * 0.5).max(80.0);
    let half = 0.5 * (below.width() - gap);
    for i in 0..2 {
        let left = below.left() + i as f32 * (half + gap);
        let part = Rect::from_min_max(pos2(left, below.top()), pos2(left + half, split));
        text(ui, part, pair, i, reveal, linked);
    }
    let line = egui::Stroke::new(1.0, Palette::of(ui.theme()).line);
    ui.painter().vline(below.left() + half + 0.5 * gap, below.top()..=below.bottom(), line);
    ui.painter().hline(below.x_range(), split + 2.0 * GRID, line);
    let top = split + 4.0 * GRID;
    let held =
        Rect::from_min_max(pos2(below.left(), top), pos2(below.left() + half, (top + 26.0 * GRID).min(below.bottom())));
    bars::pair(ui, held, &pair.names, &pair.bars, linked);
    let parts = Rect::from_min_max(pos2(held.left(), held.bottom() + GRID), pos2(held.right(), below.bottom()));
    bars::differences(ui, parts, &pair.bars, linked);
    let right = Rect::from_min_max(pos2(below.left() + half + gap, top), below.max);
    ui.scope_builder(UiBuilder::new().max_rect(right).layout(Layout::top_down(Align::Min)), |ui| {
        let area = ScrollArea::vertical().id_salt("differences").auto_shrink(false);
        area.show(ui, |ui| figures(ui, pair));
    });
}

fn text(ui: &mut Ui, rect: Rect, pair: &Pair, i: usize, reveal: bool, linked: &mut Linked) {
    let p = Palette::of(ui.theme());
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
        ui.spacing_mut().item_spacing.y = GRID;
        let title = RichText::new(format!("{} · {}", ["A", "B"][i], pair.names[i])).size(TEXT[0]).color(p.weak_text);
        ui.add(Label::new(title).truncate());
        let written = &pair.text[i];
        if written.tokens.is_empty() {
            say::note(ui, "It wrote nothing.");
            return;
        }
        let height = rect.bottom() - ui.cursor().top();
        let last = written.tokens.len() - 1;
        let area =
            ScrollArea::vertical().id_salt(("compared", i)).max_height(height).auto_shrink(false).animated(false);
        area.show(ui, |ui| {
            let at = pair.first_difference;
            let flow = Flow {
                differs: at,
                reveal: at.filter(|_| reveal).map(|at| at.min(last)),
                gutter: rect.width() >= 320.0,
                ..Flow::of(["Text of A", "Text of B"][i], written)
            };
            tokens::show(ui, ("compared", i), flow, linked);
        });
    });
}

/// Figures and choices, a line each: what, A, B, and by how much.
fn figures(ui: &mut Ui, pair: &Pair) {
    let p = Palette::of(ui.theme());
    let wide = ui.available_width();
    let cell = |ui: &mut Ui, text: &str, ink, mono: bool| {
        let text = RichText::new(text).size(TEXT[0]).color(ink);
        ui.add(Label::new(if mono { text.monospace() } else { text }).wrap());
    };
    let grid = egui::Grid::new("comparison")
        .num_columns(4)
        .spacing(vec2(6.0 * GRID, GRID))
        .min_row_height(5.0 * GRID)
        .max_col_width(wide * 0.3);
    grid.show(ui, |ui| {
        for title in ["", "A", "B", "B against A"] {
            cell(ui, title, p.weak_text, false);
        }
        ui.end_row();
        for figure in &pair.figures {
            cell(ui, &figure.label, p.weak_text, false);
            for value in &figure.values {
                cell(ui, value, p.text, true);
            }
            cell(ui, &figure.change, p.text, true);
            ui.end_row();
        }
        if !pair.choices.is_empty() {
            cell(ui, "Chosen differently", p.text, false);
            ui.end_row();
        }
        for (key, values) in &pair.choices {
            cell(ui, key, p.weak_text, true);
            for value in values {
                cell(ui, if value.is_empty() { words::UNKNOWN } else { value }, p.text, true);
            }
            ui.end_row();
        }
    });
    if pair.choices.is_empty() {
        say::note(ui, "The same was chosen in both.");
    }
}
