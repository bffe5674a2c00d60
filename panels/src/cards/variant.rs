//! One technique in its card: what it would cost, before it is chosen.

use egui::{Align, CursorIcon, Id, Rect, Role, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use crate::about::Subject;
use crate::kit::{self, BODY, SMALL};
use crate::shared::Shared;
use crate::theme::GRID;
use crate::view::{Card, Price, Variant};
use crate::{Action, words};

const INDENT: f32 = 20.0;

/// `292 → 148 MiB`; the unit once where both have the same.
pub(crate) fn before_after(price: &Price) -> String {
    let (before, after) = (words::bytes(price.before), words::bytes(price.after));
    match (before.split_once(' '), after.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} → {after}"),
        _ => format!("{before} → {after}"),
    }
}

/// `95 → 118 tok/s`; empty where the speed is unknown or changes by less than a hundredth.
pub(crate) fn speeds(price: &Price) -> String {
    let (before, after) = price.speed;
    let known = before.is_finite() && after.is_finite() && before > 0.0 && after > 0.0;
    if known && (after / before - 1.0).abs() >= 0.01 {
        format!("{} → {}", words::number(before), words::speed(after))
    } else {
        String::new()
    }
}

/// `+3 GiB in RAM, −1 GiB on disk`; empty where nothing moves.
pub(crate) fn elsewhere(price: &Price) -> String {
    let (host, disk) = price.elsewhere;
    let parts = [(host, "in RAM"), (disk, "on disk")];
    let parts =
        parts.into_iter().filter(|(by, _)| *by != 0).map(|(by, whither)| format!("{} {whither}", words::change(by)));
    parts.collect::<Vec<_>>().join(", ")
}

/// What choosing a variant asks for.
pub(crate) fn take(card: &Card, variant: &Variant) -> Action {
    Action::Set { what: format!("{}: {}", card.title, variant.title), sets: variant.sets.clone(), gesture: None }
}

/// What is said below the title, one line each: figures, then where bytes go, then accuracy.
fn lines(variant: &Variant) -> Vec<(String, String)> {
    let accuracy = || match variant.accuracy.as_str() {
        "" => "accuracy not measured here".to_owned(),
        said => said.to_owned(),
    };
    match (&variant.price, variant.chosen) {
        _ if !variant.refused.is_empty() => Vec::new(),
        (_, true) if variant.accuracy.is_empty() => Vec::new(),
        (_, true) => vec![(String::new(), accuracy())],
        (None, false) => vec![(words::UNKNOWN.to_owned(), accuracy())],
        (Some(price), false) => {
            let mut lines = vec![(before_after(price), speeds(price))];
            let moved = elsewhere(price);
            if !moved.is_empty() {
                lines.push((moved, String::new()));
            }
            lines.push((String::new(), accuracy()));
            lines
        }
    }
}

/// Draws one choice of a card as a line: title, price, knobs while it is chosen.
pub(crate) fn show(ui: &mut Ui, card: &Card, variant: &Variant, shared: &mut Shared<'_>) {
    let p = kit::palette(ui);
    let refused = !variant.refused.is_empty();
    let room = ui.available_width() - INDENT;
    let reason = refused.then(|| ui.painter().layout(variant.refused.clone(), kit::words(SMALL), p.weak_text, room));
    let lines = lines(variant);
    let below = reason.as_ref().map_or(lines.len() as f32 * 16.0, |r| r.size().y);
    let (_, rect) = ui.allocate_space(vec2(ui.available_width(), 24.0 + below + 2.0 * GRID));
    let id = Id::unique(("variant", &card.key, &variant.id));
    let response = ui.interact(rect, id, if refused { Sense::hover() } else { Sense::click() });
    response.widget_info(|| {
        let mut info = WidgetInfo::selected(
            Role::RadioButton,
            !refused,
            variant.chosen,
            format!("{}: {}", card.title, variant.title),
        );
        info.current_text_value = Some(spoken(variant));
        info
    });
    if response.hovered() || response.has_focus() {
        *shared.subject = Subject::Variant { card: card.key.clone(), id: variant.id.clone() };
    }
    if response.clicked() && !variant.chosen {
        shared.actions.push(take(card, variant));
    }
    let painter = ui.painter();
    if response.hovered() && !refused {
        painter.rect_filled(rect.expand2(vec2(2.0 * GRID, 0.0)), crate::theme::CORNER, p.raised);
    }
    let first = Rect::from_min_size(pos2(rect.left() + INDENT, rect.top() + GRID), vec2(room, 20.0));
    let dot = pos2(rect.left() + 6.0, first.center().y);
    let ink = if refused { p.weak_text } else { p.text };
    painter.circle_stroke(
        dot,
        5.0,
        Stroke::new(
            1.5,
            if variant.chosen { p.accent } else { p.weak_text.gamma_multiply(if refused { 0.5 } else { 1.0 }) },
        ),
    );
    if variant.chosen {
        painter.circle_filled(dot, 2.5, p.accent);
    }
    let change = variant.price.filter(|_| !variant.chosen && !refused);
    let said = change.map_or_else(String::new, |price| words::change(price.change()));
    let font = kit::figures(BODY);
    let wide = kit::width(painter, &said, font.clone());
    // Over the limit is the one thing said in the alarm colour.
    let over = change.is_some_and(|price| !price.fits);
    kit::line(painter, first, Align::Max, &said, font, if over { p.alarm } else { p.text });
    let title = Rect::from_min_max(first.min, pos2(first.right() - wide - 2.0 * GRID, first.bottom()));
    kit::line(painter, title, Align::Min, &variant.title, kit::words(BODY), ink);
    if let Some(reason) = reason {
        painter.galley(pos2(first.left(), first.bottom()), reason, p.weak_text);
    }
    for (i, (left, right)) in lines.iter().enumerate() {
        let area = Rect::from_min_size(pos2(first.left(), first.bottom() + 16.0 * i as f32), vec2(room, 16.0));
        let used = kit::line(painter, area, Align::Min, left, kit::figures(SMALL), p.weak_text);
        let (rest, align, font) = if left.is_empty() {
            (area, Align::Min, kit::words(SMALL))
        } else {
            (Rect::from_min_max(pos2(used.right() + GRID, area.top()), area.max), Align::Max, kit::figures(SMALL))
        };
        kit::line(painter, rest, align, right, font, p.weak_text);
    }
    kit::focus_ring(ui, &response, rect.expand2(vec2(GRID, 0.0)));
    if refused {
        response.on_hover_text(&variant.refused);
    } else {
        response.on_hover_cursor(CursorIcon::PointingHand).on_hover_ui(|ui| tooltip(ui, variant));
    }
}

fn tooltip(ui: &mut Ui, variant: &Variant) {
    let p = kit::palette(ui);
    ui.set_max_width(360.0);
    kit::paragraph(ui, &variant.sentence, BODY, p.text);
    if let Some(price) = &variant.price {
        let exact = format!("{} → {}", words::exact(price.before), words::exact(price.after));
        ui.label(egui::RichText::new(exact).font(kit::figures(SMALL)).color(p.weak_text));
        if !price.fits && !variant.chosen {
            kit::paragraph(ui, "Would still be over the memory limit.", SMALL, p.alarm);
        }
    }
}

/// What a screen reader says after the name.
fn spoken(variant: &Variant) -> String {
    match (&variant.price, variant.refused.as_str()) {
        (_, reason) if !reason.is_empty() => format!("not possible here: {reason}"),
        (Some(price), _) if !variant.chosen => {
            let fits = if price.fits { "fits" } else { "over the limit" };
            format!("{}, {}, {fits}", before_after(price), words::change(price.change()))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn prices_name_their_unit_once_and_speeds_only_where_they_change() {
        let price =
            Price { before: 292 * MIB, after: 148 * MIB, elsewhere: (3 << 30, 0), speed: (95.0, 118.0), fits: true };
        assert_eq!(
            (before_after(&price), speeds(&price), elsewhere(&price)),
            ("292 → 148 MiB".into(), "95 → 118 tok/s".into(), "+3 GiB in RAM".into())
        );
        let price = Price { before: 2 << 30, after: 148 * MIB, speed: (95.0, 95.2), ..Price::default() };
        assert_eq!((before_after(&price), speeds(&price)), ("2 GiB → 148 MiB".into(), String::new()));
        for speed in [(f64::NAN, 1.0), (0.0, 1.0), (1.0, f64::INFINITY)] {
            assert_eq!(speeds(&Price { speed, ..price }), "");
        }
    }
}
