//! The treemap: areas are bytes, colours what they are used for; outlined when predicted, filled when measured.

use egui::text::{LayoutJob, TextFormat};
use egui::{Color32, FontId, Id, Key, Painter, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::PlacesState;
use super::tree::{Path, Tile, tiers, tiles};
use crate::Linked;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::Places;
use crate::words;

/// Paints a filled or an outlined rectangle in a category's colour.
pub fn fill(painter: &Painter, rect: Rect, color: Color32, measured: bool) {
    if measured {
        painter.rect_filled(rect, 2.0, color);
    } else {
        painter.rect_filled(rect, 2.0, color.gamma_multiply(0.16));
        painter.rect_stroke(rect, 2.0, Stroke::new(1.5, color), StrokeKind::Inside);
    }
}

/// Black or white, whichever is more legible on a colour: at least 4.5:1 on any.
pub fn ink_on(color: Color32) -> Color32 {
    let linear = |v: u8| {
        let v = f32::from(v) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(color.r()) + 0.7152 * linear(color.g()) + 0.0722 * linear(color.b());
    // Where (1.05) / (l + 0.05) equals (l + 0.05) / 0.05.
    if luminance > 0.179 { Color32::BLACK } else { Color32::WHITE }
}

/// Draws the treemap.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Places,
    state: &mut PlacesState,
    pointed: Option<usize>,
    linked: &mut Linked,
) {
    let palette = Palette::of(ui.theme());
    let inner = Rect::from_min_max(rect.min + vec2(0.0, 5.0 * GRID), rect.max);
    if !inner.is_positive() {
        return;
    }
    let total: u64 = data.pieces.iter().filter(|p| state.path.holds(p)).fold(0, |s, p| s.saturating_add(p.bytes));
    let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
    let font = FontId::proportional(TEXT[0]);
    for (tier, column, bytes) in tiers(&data.pieces, &state.path, inner) {
        let text = format!("{}  {}", tier.label(data.gpu), words::bytes(bytes));
        let mut galley = painter.layout_no_wrap(text, font.clone(), palette.weak_text);
        if galley.size().x > column.width() - 2.0 {
            let name = tier.label(data.gpu).to_owned();
            galley = one_line(&painter, name, font.clone(), palette.weak_text, column.width());
        }
        painter.galley(pos2(column.left() + 1.0, rect.top()), galley, palette.weak_text);
    }
    // Read before it is written: what another picture pointed at fades the rest here.
    let asked = linked.used_for.filter(|_| !state.inside);
    state.inside = false;
    let mut next: Option<Path> = None;
    for (i, tile) in tiles(&data.pieces, &state.path, inner).iter().enumerate() {
        let drawn = tile.rect.shrink2(vec2(
            if tile.rect.width() > 6.0 { 1.0 } else { 0.0 },
            if tile.rect.height() > 6.0 { 1.0 } else { 0.0 },
        ));
        let id = Id::unique(("places tile", tile.tier, tile.used_for, &tile.group, tile.piece, i));
        let response = ui.interact(tile.rect, id, Sense::click());
        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, sentence(data, tile, total)));
        let lit = response.hovered() || response.has_focus();
        if response.hovered() {
            linked.used_for = Some(tile.used_for);
            (state.pointed, state.inside) = (tile.piece, true);
        }
        if response.clicked() || (response.has_focus() && ui.input(|i| i.key_pressed(Key::Enter))) {
            next = deeper(&state.path, tile);
        }
        if response.has_focus() && ui.input(|i| i.key_pressed(Key::Backspace)) {
            let mut path = state.path.clone();
            path.up();
            next = Some(path);
        }
        let fades = asked.is_some_and(|u| u != tile.used_for);
        let mut color = palette.used_for(tile.used_for);
        if fades {
            color = color.gamma_multiply(0.35);
        }
        fill(&painter, drawn, color, data.measured);
        let ink = match (fades, data.measured) {
            (true, _) => palette.weak_text,
            (false, true) => ink_on(color),
            (false, false) => palette.text,
        };
        words_in(&painter, drawn, data, tile, ink);
        let same = tile.piece.is_some() && tile.piece == pointed;
        if lit || same {
            painter.rect_stroke(drawn, 2.0, Stroke::new(2.0, palette.text), StrokeKind::Inside);
        }
        if response.has_focus() {
            painter.rect_stroke(drawn.shrink(2.0), 2.0, Stroke::new(1.0, palette.background), StrokeKind::Inside);
        }
        if lit {
            response.show_tooltip_ui(|ui| tooltip(ui, data, tile, total));
        }
    }
    if let Some(path) = next {
        state.path = path;
    }
}

/// What a press on a tile goes into, when there is more in it than it shows.
fn deeper(path: &Path, tile: &Tile) -> Option<Path> {
    if path.group.is_some() || (path.used_for.is_some() && tile.group.is_empty()) {
        return None;
    }
    let group = (!tile.group.is_empty() && (tile.count > 1 || path.used_for.is_some())).then(|| tile.group.clone());
    Some(Path { used_for: Some(tile.used_for), group })
}

fn name<'a>(data: &'a Places, tile: &'a Tile) -> std::borrow::Cow<'a, str> {
    match tile.piece.and_then(|i| data.pieces.get(i)) {
        Some(piece) if piece.name.is_empty() => piece.group.as_str().into(),
        Some(piece) => piece.name.as_str().into(),
        None if tile.group.is_empty() => format!("{} smaller ones", tile.count).into(),
        None => tile.group.as_str().into(),
    }
}

fn sentence(data: &Places, tile: &Tile, total: u64) -> String {
    format!(
        "{}: {}, {} in {}, {}",
        name(data, tile),
        words::bytes(tile.bytes),
        tile.used_for.label(),
        tile.tier.label(data.gpu),
        words::percent(tile.bytes as f64 / total.max(1) as f64)
    )
}

fn tooltip(ui: &mut Ui, data: &Places, tile: &Tile, total: u64) {
    let palette = Palette::of(ui.theme());
    ui.set_max_width(320.0);
    ui.label(egui::RichText::new(name(data, tile)).color(palette.text));
    let quiet = |text: String| egui::RichText::new(text).color(palette.weak_text).size(TEXT[0]);
    let share = words::percent(tile.bytes as f64 / total.max(1) as f64);
    let how = if data.measured { "measured" } else { "predicted" };
    ui.label(quiet(format!("{} {how} ({}), {share}", words::bytes(tile.bytes), words::exact(tile.bytes))));
    ui.label(quiet(format!("{} in {}", tile.used_for.label(), tile.tier.label(data.gpu))));
    match tile.piece.and_then(|i| data.pieces.get(i)) {
        Some(piece) if !piece.detail.is_empty() => _ = ui.label(quiet(piece.detail.clone())),
        Some(_) => {}
        None => _ = ui.label(quiet(format!("{} pieces; press to see them", words::count(tile.count as u64)))),
    }
}

fn words_in(painter: &Painter, rect: Rect, data: &Places, tile: &Tile, ink: Color32) {
    let inside = rect.shrink2(vec2(5.0, 4.0));
    if inside.width() < 14.0 || inside.height() < 12.0 {
        return;
    }
    let font = FontId::proportional(TEXT[0]);
    let whole = name(data, tile);
    // `blk.3.ffn_up.weight` in its layer's place: what tells it apart comes first.
    let short = match tile.piece {
        Some(_) if inside.width() < 110.0 => whole.splitn(3, '.').nth(2).filter(|_| whole.starts_with("blk.")),
        _ => None,
    };
    let text = short.unwrap_or(&whole);
    let mut first = painter.layout_no_wrap(text.to_owned(), font.clone(), ink);
    if first.size().x > inside.width() {
        // `layer 12` cut short would be every layer: its number alone is better.
        let last = text.rsplit(' ').next().filter(|t| t.len() < text.len() && t.bytes().all(|b| b.is_ascii_digit()));
        first = one_line(painter, last.unwrap_or(text).to_owned(), font.clone(), ink, inside.width());
    }
    let height = first.size().y;
    painter.galley(inside.min, first, ink);
    // A figure is whole or not there.
    let second = painter.layout_no_wrap(words::bytes(tile.bytes), font, ink.gamma_multiply(0.85));
    if inside.height() >= 2.0 * height && second.size().x <= inside.width() {
        painter.galley(inside.min + vec2(0.0, height), second, ink);
    }
}

/// A line of text, cut with an ellipsis where the space ends.
fn one_line(painter: &Painter, text: String, font: FontId, ink: Color32, width: f32) -> std::sync::Arc<egui::Galley> {
    let mut job = LayoutJob::single_section(text, TextFormat::simple(font, ink));
    job.wrap = egui::text::TextWrapping::truncate_at_width(width.max(1.0));
    painter.layout_job(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::{DARK, LIGHT};
    use crate::view::UsedFor;

    #[test]
    fn words_on_a_tile_are_legible_on_every_category() {
        let luminance = |c: Color32| {
            let [r, g, b] = [c.r(), c.g(), c.b()].map(|v| {
                let v = f64::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            });
            0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        };
        for palette in [DARK, LIGHT] {
            for used_for in UsedFor::ALL {
                let color = palette.used_for(used_for);
                let (a, b) = (luminance(color), luminance(ink_on(color)));
                assert!(a.max(b) / a.min(b) >= 4.5, "{used_for:?}");
            }
        }
    }
}
