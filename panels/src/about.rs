//! About what is pointed at or chosen: one sentence, the formula with this model's numbers in it, where it comes from.

use egui::{RichText, ScrollArea, Ui};

use crate::cards::chosen;
use crate::kit::{self, BODY, SMALL};
use crate::shared::Shared;
use crate::theme::{GRID, TEXT};
use crate::top::instant_of;
use crate::view::{BarSegment, Card, Kind, Knob, Section, Tier, Variant, View};
use crate::words;

/// What the panel speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Nothing was pointed at yet.
    #[default]
    Nothing,
    /// A card, by its key.
    Card(String),
    /// A variant.
    Variant {
        /// Key of its card.
        card: String,
        /// Its id.
        id: String,
    },
    /// A parameter, by its key.
    Knob(String),
    /// A stretch of a bar.
    Segment {
        /// Of the measured bar.
        measured: bool,
        /// Of which tier.
        tier: Tier,
        /// Its label.
        label: String,
    },
}

/// A subject with what the view says of it; what is no longer there is found as nothing.
enum Found<'a> {
    Nothing,
    Card(&'a Card),
    Variant(&'a Card, &'a Variant),
    Knob(&'a Knob),
    Segment(&'a BarSegment, u64, bool),
}

fn find<'a>(view: &'a View, subject: &Subject) -> Found<'a> {
    let cards = || view.cards.iter().flat_map(|s: &Section| &s.cards);
    let found = match subject {
        Subject::Nothing => None,
        Subject::Card(key) => cards().find(|c| c.key == *key).map(Found::Card),
        Subject::Variant { card, id } => cards()
            .find(|c| c.key == *card)
            .and_then(|card| card.variants.iter().find(|v| v.id == *id).map(|variant| Found::Variant(card, variant))),
        Subject::Knob(key) => cards()
            .flat_map(|c| c.knobs.iter().chain(c.variants.iter().flat_map(|v| &v.knobs)))
            .find(|k| k.key == *key)
            .map(Found::Knob),
        Subject::Segment { measured, tier, label } => {
            let bars = if *measured { view.top.measured.as_ref() } else { view.top.predicted.as_ref() };
            let bar = bars.and_then(|b| instant_of(b, "", None)).and_then(|i| i.tiers.iter().find(|(t, _)| t == tier));
            bar.and_then(|(_, bar)| {
                let segment = bar.segments.iter().find(|s| s.label == *label)?;
                Some(Found::Segment(segment, bar.total(), *measured))
            })
        }
    };
    found.unwrap_or(Found::Nothing)
}

/// The stretches of the predicted peak that a card governs.
fn governed<'a>(view: &'a View, key: &'a str) -> impl Iterator<Item = &'a BarSegment> {
    let peak = view.top.predicted.as_ref().and_then(|b| instant_of(b, "", None));
    peak.into_iter().flat_map(|i| &i.tiers).flat_map(|(_, bar)| &bar.segments).filter(move |s| s.governed_by == key)
}

/// Draws the panel's contents.
pub(crate) fn show(ui: &mut Ui, view: &View, shared: &mut Shared<'_>) {
    let found = find(view, shared.subject);
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 2.0 * GRID;
        match found {
            Found::Nothing => nothing(ui, view),
            Found::Card(card) => about_card(ui, view, card),
            Found::Variant(card, variant) => about_variant(ui, view, card, variant),
            Found::Knob(knob) => about_knob(ui, knob),
            Found::Segment(segment, total, measured) => about_segment(ui, view, segment, total, measured, shared),
        }
    });
}

fn title(ui: &mut Ui, over: &str, text: &str) {
    let p = kit::palette(ui);
    kit::paragraph(ui, over, SMALL, p.weak_text);
    kit::paragraph(ui, text, TEXT[2], p.text);
}

fn formula(ui: &mut Ui, segment: &BarSegment) {
    let p = kit::palette(ui);
    let text = if segment.formula.is_empty() {
        words::bytes(segment.bytes)
    } else {
        format!("{}\n= {}", segment.formula, words::bytes(segment.bytes))
    };
    kit::paragraph(ui, &segment.label, SMALL, p.weak_text);
    ui.add(egui::Label::new(RichText::new(text).font(kit::figures(SMALL)).color(p.text)).wrap());
}

fn paper(ui: &mut Ui, text: &str) {
    if !text.is_empty() {
        let p = kit::palette(ui);
        kit::paragraph(ui, text, SMALL, p.weak_text);
    }
}

fn nothing(ui: &mut Ui, view: &View) {
    let p = kit::palette(ui);
    title(ui, "About", if view.top.model.name.is_empty() { "Ullage" } else { &view.top.model.name });
    if !view.top.model.detail.is_empty() {
        kit::paragraph(ui, &view.top.model.detail, BODY, p.text);
    }
    let text = "Point at a choice or at a stretch of a bar: what it does, its formula with this model’s numbers, and the paper it comes from are said here.";
    kit::paragraph(ui, text, BODY, p.weak_text);
}

fn about_card(ui: &mut Ui, view: &View, card: &Card) {
    let p = kit::palette(ui);
    title(ui, "About this choice", &card.title);
    kit::paragraph(ui, &card.sentence, BODY, p.text);
    if let Some(variant) = chosen(card) {
        kit::paragraph(ui, &format!("Chosen: {}", variant.title), BODY, p.accent);
        kit::paragraph(ui, &variant.sentence, BODY, p.text);
        paper(ui, &variant.paper);
    }
    for segment in governed(view, &card.key) {
        formula(ui, segment);
    }
}

fn about_variant(ui: &mut Ui, view: &View, card: &Card, variant: &Variant) {
    let p = kit::palette(ui);
    title(ui, &card.title, &variant.title);
    kit::paragraph(ui, &variant.sentence, BODY, p.text);
    if !variant.refused.is_empty() {
        kit::paragraph(ui, &format!("Not possible here: {}", variant.refused), BODY, p.text);
    }
    match variant.accuracy.as_str() {
        "" => kit::paragraph(ui, "Its cost in accuracy was not measured on this model yet.", SMALL, p.weak_text),
        said => kit::paragraph(ui, &format!("Measured here: {said}"), BODY, p.text),
    };
    if variant.chosen {
        for segment in governed(view, &card.key) {
            formula(ui, segment);
        }
    }
    paper(ui, &variant.paper);
}

fn about_knob(ui: &mut Ui, knob: &Knob) {
    let p = kit::palette(ui);
    title(ui, &knob.key, &knob.label);
    kit::paragraph(ui, &knob.sentence, BODY, p.text);
    if !knob.paper_name.is_empty() {
        kit::paragraph(ui, &format!("In the paper: {}", knob.paper_name), SMALL, p.weak_text);
    }
    if let Kind::Word(of) = &knob.kind {
        kit::paragraph(ui, &format!("One of {}", of.join(", ")), SMALL, p.weak_text);
    }
    if !knob.default.is_empty() {
        kit::paragraph(ui, &format!("By default {}", knob.default), SMALL, p.weak_text);
    }
}

fn about_segment(ui: &mut Ui, view: &View, segment: &BarSegment, total: u64, measured: bool, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    title(ui, if measured { "Measured" } else { "Predicted" }, &kit::sentence(&segment.label));
    let share = words::percent(segment.bytes as f64 / total.max(1) as f64);
    kit::paragraph(ui, &format!("{}, {share} of the peak", words::bytes(segment.bytes)), BODY, p.text);
    ui.label(RichText::new(words::exact(segment.bytes)).font(kit::figures(SMALL)).color(p.weak_text));
    if !segment.formula.is_empty() {
        ui.add(egui::Label::new(RichText::new(&segment.formula).font(kit::figures(SMALL)).color(p.text)).wrap());
    }
    let governs = view.cards.iter().flat_map(|s| &s.cards).find(|c| c.key == segment.governed_by);
    if let Some(card) = governs {
        kit::paragraph(ui, &card.sentence, BODY, p.text);
        let text = format!("Open “{}”", card.title);
        if kit::link(ui, &text, &text, BODY).clicked() {
            shared.linked.card = Some(card.key.clone());
        }
    }
}
