//! The choices: sections of cards, one card an axis, with every variant's price beside it before it is chosen. Everything here
//! is drawn from data, so that a technique added to the catalogue needs nothing of these files.

mod knobs;
mod variant;

use std::collections::BTreeSet;

use egui::{Align, Id, Rect, Role, ScrollArea, Sense, Ui, WidgetInfo, pos2, vec2};
use serde::{Deserialize, Serialize};

use crate::about::Subject;
use crate::kit::{self, BODY, Icon, SMALL};
use crate::shared::Shared;
use crate::theme::GRID;
use crate::view::{Card, Mode, Section, Variant, View};
use crate::{Action, words};

pub(crate) use knobs::KnobsState;
pub(crate) use variant::take;

const HEADER: f32 = 36.0;

/// What the cards remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CardsState {
    /// Keys of the cards that are open; `None` until the first one was chosen to be.
    open: Option<BTreeSet<String>>,
    /// Keys of the cards that show all techniques.
    all: BTreeSet<String>,
    /// Keys of the cards whose chosen variant shows its own knobs.
    knobs: BTreeSet<String>,
    /// Advanced cards are shown.
    advanced: bool,
    /// What is being typed and dragged.
    #[serde(skip)]
    editing: KnobsState,
}

impl CardsState {
    fn is_open(&self, key: &str) -> bool {
        self.open.as_ref().is_some_and(|open| open.contains(key))
    }

    fn toggle(&mut self, key: &str) {
        let open = self.open.get_or_insert_default();
        if !open.remove(key) {
            open.insert(key.to_owned());
        }
    }

    /// Opens a card, and whatever hides it.
    fn reveal(&mut self, card: &Card) {
        self.open.get_or_insert_default().insert(card.key.clone());
        self.advanced |= card.advanced;
    }
}

/// Draws the modes and all sections.
pub(crate) fn show(ui: &mut Ui, view: &View, state: &mut CardsState, shared: &mut Shared<'_>) {
    let (modes, sections) = (&view.modes, &view.cards[..]);
    let p = kit::palette(ui);
    if modes.len() > 1 {
        mode_switch(ui, modes, shared.actions);
        kit::rule(ui);
    }
    if state.open.is_none()
        && let Some(card) = saves_most(sections)
    {
        state.reveal(card);
    }
    let asked = shared.linked.card.take();
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing = vec2(2.0 * GRID, 0.0);
        for section in sections {
            let asked_here = |c: &&Card| asked.as_deref() == Some(c.key.as_str());
            if let Some(card) = section.cards.iter().find(asked_here) {
                state.reveal(card);
            }
            let cards: Vec<&Card> = section.cards.iter().filter(|c| state.advanced || !c.advanced).collect();
            if cards.is_empty() {
                continue;
            }
            ui.add_space(4.0 * GRID);
            kit::label(ui, &section.title, SMALL, p.weak_text);
            ui.add_space(GRID);
            for one in cards {
                let response = card(ui, one, state, shared);
                if asked_here(&one) {
                    response.scroll_to_me(Some(Align::TOP));
                    *shared.subject = Subject::Card(one.key.clone());
                }
            }
        }
        if sections.iter().any(|s| s.cards.iter().any(|c| c.advanced)) {
            ui.add_space(4.0 * GRID);
            kit::tick(ui, &mut state.advanced, "Advanced choices", "Advanced choices").on_hover_text(
                "Also show choices that seldom have to be made, such as how room for the cache is made.",
            );
        }
        if sections.is_empty() {
            ui.add_space(4.0 * GRID);
            let why = match view.top.only_planned {
                true => "This model is planned by what its files say of it: there is nothing to choose of what is not computed.",
                false => "The choices appear here once a model is open.",
            };
            kit::paragraph(ui, why, BODY, p.weak_text);
        }
        ui.add_space(4.0 * GRID);
    });
}

fn mode_switch(ui: &mut Ui, modes: &[Mode], actions: &mut Vec<Action>) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        for mode in modes {
            let press = kit::Press {
                weight: kit::Weight::Quiet,
                on: mode.chosen,
                role: Role::RadioButton,
                ..kit::Press::new(&mode.label)
            };
            let response = press.show(ui);
            if response.clicked() && !mode.chosen {
                actions.push(Action::Mode(mode.id.clone()));
            }
            response.on_hover_text(&mode.sentence);
        }
    });
}

/// The card with the largest saving on offer: the one that is open at the first start.
fn saves_most(sections: &[Section]) -> Option<&Card> {
    let cards = sections.iter().flat_map(|s| &s.cards).filter(|c| !c.advanced);
    cards.filter_map(|c| best(c).map(|bytes| (bytes, c))).min_by_key(|(bytes, _)| *bytes).map(|(_, c)| c)
}

/// The lowest peak that a card's common variants offer below the present one.
fn best(card: &Card) -> Option<u64> {
    let offers = card.variants.iter().filter(|v| v.common && v.refused.is_empty());
    offers.filter_map(|v| v.price).filter(|p| p.after < p.before).map(|p| p.after).min()
}

fn card(ui: &mut Ui, card: &Card, state: &mut CardsState, shared: &mut Shared<'_>) -> egui::Response {
    let open = state.is_open(&card.key);
    let header = header(ui, card, open);
    if header.hovered() || header.has_focus() {
        *shared.subject = Subject::Card(card.key.clone());
    }
    if header.clicked() {
        state.toggle(&card.key);
    }
    if open {
        ui.push_id(&card.key, |ui| body(ui, card, state, shared));
    }
    kit::rule(ui);
    header
}

/// The card's name, what is chosen, and while it is closed the lowest peak it has on offer.
fn header(ui: &mut Ui, card: &Card, open: bool) -> egui::Response {
    let p = kit::palette(ui);
    let (_, rect) = ui.allocate_space(vec2(ui.available_width(), HEADER));
    let response = ui.interact(rect, Id::unique(("card", &card.key)), Sense::click());
    let chosen = chosen(card).map_or_else(|| card.mixed.clone().unwrap_or_default(), |v| v.title.clone());
    response.widget_info(|| {
        let mut info = WidgetInfo::selected(Role::DisclosureTriangle, true, open, &card.title);
        info.current_text_value = Some(chosen.clone());
        info
    });
    if response.hovered() {
        ui.painter().rect_filled(rect.expand2(vec2(2.0 * GRID, 0.0)), crate::theme::CORNER, p.raised);
    }
    let icon = if open { Icon::Down } else { Icon::Right };
    icon.paint(ui.painter(), pos2(rect.left() + 6.0, rect.center().y), p.weak_text);
    let area = Rect::from_min_max(pos2(rect.left() + 20.0, rect.top()), rect.max);
    let title = kit::width(ui.painter(), &card.title, kit::words(BODY)).min(area.width() * 0.65);
    let left = Rect::from_min_max(area.min, pos2(area.left() + title + 1.0, area.bottom()));
    kit::line(ui.painter(), left, Align::Min, &card.title, kit::words(BODY), p.text);
    let right = Rect::from_min_max(pos2(left.right() + 2.0 * GRID, area.top()), area.max);
    kit::line(ui.painter(), right, Align::Max, &chosen, kit::words(BODY), p.accent);
    kit::focus_ring(ui, &response, rect.expand2(vec2(GRID, 0.0)));
    let mut hint = card.sentence.clone();
    if let Some(bytes) = best(card) {
        hint = format!("{hint}\nBrings the peak down to {} at best.", words::bytes(bytes));
    }
    response.on_hover_cursor(egui::CursorIcon::PointingHand).on_hover_text(hint.trim())
}

/// The chosen variant.
pub(crate) fn chosen(card: &Card) -> Option<&Variant> {
    card.variants.iter().find(|v| v.chosen)
}

fn body(ui: &mut Ui, card: &Card, state: &mut CardsState, shared: &mut Shared<'_>) {
    let all = state.all.contains(&card.key);
    for one in card.variants.iter().filter(|v| all || v.common || v.chosen) {
        variant::show(ui, card, one, shared);
        if one.chosen && !one.knobs.is_empty() {
            own_knobs(ui, card, one, state, shared);
        }
    }
    let rare = card.variants.iter().filter(|v| !v.common && !v.chosen).count();
    if rare > 0 {
        ui.horizontal(|ui| {
            ui.add_space(20.0);
            let text = if all { "Common techniques only".to_owned() } else { format!("All techniques ({rare} more)") };
            let name = format!("{}: {text}", card.title);
            if kit::link(ui, &text, &name, SMALL).clicked() && !state.all.remove(&card.key) {
                state.all.insert(card.key.clone());
            }
        });
        ui.add_space(GRID);
    }
    if !card.knobs.is_empty() {
        ui.add_space(GRID);
        for knob in &card.knobs {
            knobs::show(ui, knob, &mut state.editing, shared);
        }
    }
    ui.add_space(2.0 * GRID);
}

/// Knobs of the chosen variant, behind a toggle.
fn own_knobs(ui: &mut Ui, card: &Card, variant: &Variant, state: &mut CardsState, shared: &mut Shared<'_>) {
    let open = state.knobs.contains(&card.key);
    ui.horizontal(|ui| {
        ui.add_space(20.0);
        let text = if open { "Fewer settings".to_owned() } else { format!("Advanced ({})", variant.knobs.len()) };
        let name = format!("{}: {text}", variant.title);
        if kit::link(ui, &text, &name, SMALL).clicked() && !state.knobs.remove(&card.key) {
            state.knobs.insert(card.key.clone());
        }
    });
    if open {
        for knob in &variant.knobs {
            knobs::show(ui, knob, &mut state.editing, shared);
        }
    }
    ui.add_space(GRID);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Price;

    fn variant(after: u64, common: bool, refused: &str) -> Variant {
        let price = Some(Price { before: 100, after, ..Price::default() });
        Variant { price, common, refused: refused.into(), ..Variant::default() }
    }

    #[test]
    fn the_card_that_saves_most_is_the_first_to_be_open() {
        let card = |key: &str, variants| Card { key: key.into(), variants, ..Card::default() };
        let sections = [Section {
            title: String::new(),
            cards: vec![
                card("a", vec![variant(100, true, ""), variant(80, true, "")]),
                card("b", vec![variant(60, true, ""), variant(10, false, "")]),
                card("c", vec![variant(20, true, "needs a GPU"), variant(120, true, "")]),
            ],
        }];
        assert_eq!(saves_most(&sections).map(|c| c.key.as_str()), Some("b"));
        assert_eq!(saves_most(&[]), None);
    }
}
