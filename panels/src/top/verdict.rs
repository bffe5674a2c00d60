//! One line below the bars: whether it fits, and if not, the cheapest thing that brings it back.

use egui::{Align, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use super::columns::Columns;
use super::{TopState, instant_of};
use crate::action::Action;
use crate::kit::{self, BODY, Icon, Press, Weight};
use crate::theme::GRID;
use crate::view::{Tier, Top, WayBack};
use crate::words;

/// Where the peak stands against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Nothing predicted, or no limit set.
    Open,
    /// Bytes to spare.
    Fits(u64),
    /// Bytes too many.
    Over(u64),
}

/// Where the predicted peak stands.
pub(crate) fn stand(top: &Top) -> Stand {
    let peak = top.predicted.as_ref().and_then(|b| instant_of(b, "", None));
    let device = peak.and_then(|i| i.tiers.iter().find(|(t, _)| *t == Tier::Device));
    match (device, top.limit.bytes) {
        (Some((_, bar)), Some(limit)) if bar.total() > limit => Stand::Over(bar.total() - limit),
        (Some((_, bar)), Some(limit)) => Stand::Fits(limit - bar.total()),
        _ => Stand::Open,
    }
}

/// `Precision q8_0: −84 MiB, same next token 99.1 %`.
pub(crate) fn words_of(way: &WayBack) -> String {
    let accuracy = if way.accuracy.is_empty() { "accuracy not measured here" } else { &way.accuracy };
    format!("{}: {}, {accuracy}", way.words, words::change(way.change))
}

/// What taking the way back asks for.
pub(crate) fn take(way: &WayBack) -> Action {
    Action::Set { what: way.words.clone(), sets: way.sets.clone(), gesture: None }
}

/// Draws the line.
pub(crate) fn show(ui: &mut Ui, at: &Columns, top: &Top, _state: &TopState, actions: &mut Vec<Action>) {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 32.0), Sense::hover());
    let said = match stand(top) {
        Stand::Open => None,
        Stand::Fits(spare) => Some(format!("Fits, with {} to spare", words::bytes(spare))),
        Stand::Over(by) => Some(format!("{} over the limit", words::bytes(by))),
    };
    if let Some(said) = said {
        response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &said));
    }
    let p = kit::palette(ui);
    let line = Rect::from_min_max(pos2(at.bars.left(), rect.top()), rect.max);
    match stand(top) {
        Stand::Open => {}
        Stand::Fits(spare) => {
            Icon::Check.paint(ui.painter(), pos2(line.left() + 6.0, line.center().y), p.text);
            let text = format!("Fits, with {} to spare", words::bytes(spare));
            let area = Rect::from_min_max(pos2(line.left() + 20.0, line.top()), line.max);
            kit::line(ui.painter(), area, Align::Min, &text, kit::words(BODY), p.text);
        }
        Stand::Over(by) => {
            let text = format!("{} over the limit", words::bytes(by));
            let said = kit::line(ui.painter(), line, Align::Min, &text, kit::words(BODY), p.alarm);
            let rest = Rect::from_min_max(pos2(said.right() + 4.0 * GRID, line.top()), line.max);
            match &top.way_back {
                Some(way) => way_back(ui, rest, way, actions),
                None => {
                    let text = match top.only_planned {
                        true => "Raise the limit, or shorten the context.",
                        false => "Nothing single brings it back: raise the limit, or combine choices at the left.",
                    };
                    kit::line(ui.painter(), rest, Align::Min, text, kit::words(BODY), p.weak_text);
                }
            }
        }
    }
}

fn way_back(ui: &mut Ui, rect: Rect, way: &WayBack, actions: &mut Vec<Action>) {
    let p = kit::palette(ui);
    kit::row(ui, rect, |ui| {
        ui.spacing_mut().item_spacing.x = 3.0 * GRID;
        let text = words_of(way);
        let room = ui.available_width() - 96.0;
        let galley = kit::elided(ui.painter(), &text, kit::words(BODY), p.text, room);
        ui.add(egui::Label::new(galley).selectable(false)).on_hover_text(&text);
        let name = format!("Do it: {}", way.words);
        let press = Press { weight: Weight::Primary, name: &name, ..Press::new("Do it") };
        let response = press.show(ui);
        if response.clicked() {
            actions.push(take(way));
        }
        let keys: Vec<String> = way.sets.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        response.on_hover_text(keys.join("\n"));
    });
}
