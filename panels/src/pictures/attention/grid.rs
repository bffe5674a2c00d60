//! Small maps of all heads: layers downwards, heads across; steps downwards in each, cache rows from the oldest to the newest.

use egui::epaint::Mesh;
use egui::{
    Align2, Color32, CursorIcon, EventFilter, FontId, Id, Key, Rect, Role, Sense, Shape, Stroke, StrokeKind, Ui,
    WidgetInfo, pos2, vec2,
};

use super::atlas::Atlas;
use super::color::{Code, dim, table};
use super::gone::Gone;
use super::{AttentionState, bar, readout, scrubbed, with_readout};
use crate::Linked;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Attention, Grid};
use crate::words;

/// What is kept between frames.
#[derive(Default)]
pub struct State {
    atlas: Atlas,
    gone: Gone,
}

/// Where the small maps lie: equal cells, with more room between heads of different KV heads.
#[derive(Clone, Copy, Debug)]
struct Cells {
    rect: Rect,
    layers: usize,
    heads: usize,
    /// Heads that share a KV head, and the room between such groups.
    shared: usize,
    gap: f32,
}

impl Cells {
    fn size(self) -> egui::Vec2 {
        let groups = self.heads.div_ceil(self.shared) as f32;
        vec2(
            (self.rect.width() - self.gap * (groups - 1.0)).max(1.0) / self.heads as f32,
            self.rect.height() / self.layers as f32,
        )
    }

    fn cell(self, layer: usize, head: usize) -> Rect {
        let size = self.size();
        let x = head as f32 * size.x + (head / self.shared) as f32 * self.gap;
        let space = |points: f32| if points > 10.0 { 2.0 } else { points * 0.15 };
        let min = self.rect.min + vec2(x, layer as f32 * size.y);
        Rect::from_min_size(min, size - vec2(space(size.x), space(size.y)))
    }

    fn at(self, at: egui::Pos2) -> Option<(usize, usize)> {
        let size = self.size();
        let group = self.shared as f32 * size.x + self.gap;
        let (x, y) = (at.x - self.rect.left(), at.y - self.rect.top());
        if x < 0.0 || y < 0.0 {
            return None;
        }
        let within = ((x % group) / size.x) as usize;
        let (layer, head) = ((y / size.y) as usize, (x / group) as usize * self.shared + within.min(self.shared - 1));
        (layer < self.layers && head < self.heads).then_some((layer, head))
    }
}

/// The small maps of all heads, dimmed by layer where keys are quantized.
fn maps(painter: &egui::Painter, data: &Attention, cells: Cells, state: &AttentionState, palette: &Palette) {
    let mut mesh: Option<Mesh> = None;
    for layer in 0..data.layers {
        for head in 0..data.heads {
            if let Some((texture, uv)) = state.grid.atlas.place(layer, head) {
                let mesh = mesh.get_or_insert_with(|| Mesh::with_texture(texture));
                mesh.add_rect_with_uv(cells.cell(layer, head), uv, Color32::WHITE);
            }
        }
    }
    painter.extend(mesh.map(Shape::mesh));
    for layer in 0..data.layers {
        if let Some([key, _]) = data.kept(layer)
            && key.quantized()
        {
            let last = cells.cell(layer, data.heads - 1);
            let row = Rect::from_min_max(cells.cell(layer, 0).min, last.max);
            painter.rect_filled(row, 0.0, palette.background.gamma_multiply(dim(key.bits)));
        }
    }
}

/// Draws the small maps.
pub fn show(ui: &mut Ui, rect: Rect, data: &Attention, grid: &Grid, state: &mut AttentionState, linked: &mut Linked) {
    let palette = Palette::of(ui.theme());
    let (body, line) = with_readout(rect);
    let (body, legend) = body.split_left_right_at_x((body.right() - bar::WIDTH).max(body.left()));
    let font = FontId::proportional(TEXT[0]);
    let inner = Rect::from_min_max(body.min + vec2(16.0 * GRID, 5.0 * GRID), body.max);
    let shared = (data.heads / data.kv_heads.clamp(1, data.heads)).max(1);
    let gap = if shared > 1 && shared < data.heads { 1.5 * GRID } else { 0.0 };
    let cells = Cells { rect: inner, layers: data.layers, heads: data.heads, shared, gap };
    let colors = table(ui.theme(), state.scale, Code::Share);
    let pixels = cells.cell(0, 0).size() * ui.pixels_per_point();
    let shape = [data.layers, data.heads];
    let pixels = [pixels.x.max(1.0) as usize, pixels.y.max(1.0) as usize];
    state.grid.atlas.follow(ui.ctx(), &data.run, grid, shape, pixels, &colors);
    state.grid.gone.follow(data, linked.head.unwrap_or_default());

    let response = ui.interact(inner, Id::unique("attention heads"), Sense::click());
    keys(ui, &response, data, state, linked);
    let hovered = response.hover_pos().and_then(|at| cells.at(at));
    if let Some(head) = hovered {
        ui.ctx().set_cursor_icon(CursorIcon::PointingHand);
        if response.clicked_by(egui::PointerButton::Primary) {
            (linked.head, state.large) = (Some(head), true);
        }
    }
    let shown = hovered.or(linked.head);
    let words = shown.map_or_else(
        || format!("{} layers × {} heads, {} steps", data.layers, data.heads, grid.steps.len()),
        |head| describe(data, grid, &state.grid.gone, linked, head),
    );
    response.widget_info(|| {
        let mut info = WidgetInfo::labeled(Role::Grid, true, "Attention of all heads");
        info.current_text_value = Some(words.clone());
        info
    });

    let painter = ui.painter().with_clip_rect(body.intersect(ui.clip_rect()));
    maps(&painter, data, cells, state, palette);
    if let Some(step) = scrubbed(data, linked) {
        veil(&painter, cells, grid, step, palette);
    }
    labels(&painter, cells, &font, palette);
    let outline = |(layer, head): (usize, usize), stroke: Stroke| {
        if layer < data.layers && head < data.heads {
            painter.rect_stroke(cells.cell(layer, head).expand(1.0), 2.0, stroke, StrokeKind::Outside);
        }
    };
    if let Some(map) = &data.map {
        outline(map.head, Stroke::new(1.0, palette.weak_text));
    }
    if let Some(head) = linked.head {
        outline(head, Stroke::new(2.0, palette.accent));
    }
    if let Some(head) = hovered {
        outline(head, Stroke::new(1.5, palette.text));
    }
    if response.has_focus() {
        painter.rect_stroke(inner.expand(3.0), 2.0, Stroke::new(1.0, palette.accent), StrokeKind::Outside);
    }
    if crate::svg::wanted(ui.ctx()) {
        state.grid.atlas.remember(ui.ctx());
    }
    let kept = data.kept(shown.map_or(0, |(layer, _)| layer));
    bar::show(ui.painter(), legend, ui.theme(), state.scale, Code::Share, kept);
    readout(ui, line, &words);
}

fn keys(ui: &Ui, response: &egui::Response, data: &Attention, state: &mut AttentionState, linked: &mut Linked) {
    if !response.has_focus() {
        return;
    }
    let filter = EventFilter { horizontal_arrows: true, vertical_arrows: true, ..EventFilter::default() };
    ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
    let by = ui.input(|i| {
        let pressed = |key| i.num_presses(key) as isize;
        [pressed(Key::ArrowDown) - pressed(Key::ArrowUp), pressed(Key::ArrowRight) - pressed(Key::ArrowLeft)]
    });
    if by != [0, 0] {
        let (layer, head) = linked.head.unwrap_or_default();
        let moved = |at: usize, by: isize, count: usize| at.saturating_add_signed(by).min(count - 1);
        linked.head = Some((moved(layer, by[0], data.layers), moved(head, by[1], data.heads)));
    }
    if ui.input(|i| i.key_pressed(Key::Enter)) {
        linked.head = linked.head.or(Some((0, 0)));
        state.large = true;
    }
}

/// Steps after the one scrubbed to are covered, and a line is drawn where it lies.
fn veil(painter: &egui::Painter, cells: Cells, grid: &Grid, step: usize, palette: &Palette) {
    let share = grid.steps.partition_point(|&s| s <= step) as f32 / grid.steps.len().max(1) as f32;
    let cover = palette.background.gamma_multiply(0.75);
    for layer in 0..cells.layers {
        for head in 0..cells.heads {
            let cell = cells.cell(layer, head);
            let y = cell.top() + share * cell.height();
            painter.rect_filled(Rect::from_min_max(pos2(cell.left(), y), cell.max), 0.0, cover);
            painter.hline(cell.x_range(), y, Stroke::new(1.0, palette.accent));
        }
    }
}

fn labels(painter: &egui::Painter, cells: Cells, font: &FontId, palette: &Palette) {
    let size = cells.size();
    let every = (14.0 / size.y).ceil().max(1.0) as usize;
    for layer in (0..cells.layers).step_by(every) {
        let cell = cells.cell(layer, 0);
        let at = pos2(cells.rect.left() - 2.0 * GRID, cell.top() + size.y.min(14.0) / 2.0);
        painter.text(at, Align2::RIGHT_CENTER, format!("layer {layer}"), font.clone(), palette.weak_text);
    }
    let every = (52.0 / size.x).ceil().max(1.0) as usize;
    for head in (0..cells.heads).step_by(every) {
        let cell = cells.cell(0, head);
        let (at, anchor) = if every == 1 {
            (pos2(cell.center().x, cells.rect.top() - GRID), Align2::CENTER_BOTTOM)
        } else {
            (pos2(cell.left(), cells.rect.top() - GRID), Align2::LEFT_BOTTOM)
        };
        painter.text(at, anchor, format!("head {head}"), font.clone(), palette.weak_text);
    }
}

/// What a head did, in a line.
fn describe(data: &Attention, grid: &Grid, gone: &Gone, linked: &Linked, head: (usize, usize)) -> String {
    let at = match scrubbed(data, linked) {
        Some(step) => grid.steps.partition_point(|&s| s <= step).max(1) - 1,
        None => grid.steps.len().max(1) - 1,
    };
    let mut text = format!("Layer {}, head {}", head.0, head.1);
    let (Some(step), Some(&rows)) = (grid.steps.get(at), grid.rows.get(at)) else { return text };
    let row = grid.row(at, head, (data.layers, data.heads));
    let heaviest = row.iter().enumerate().max_by_key(|&(i, v)| (*v, std::cmp::Reverse(i))).map_or(0, |(i, _)| i);
    let (from, to) = held_rows(heaviest, grid.bins, rows);
    text += &format!(" · step {step}: ");
    text += &match grid.largest(at, head, (data.layers, data.heads)) {
        Some(weight) => format!("largest weight {} on ", words::number(f64::from(weight))),
        None => "most on ".into(),
    };
    text += &if from == to { format!("row {from}") } else { format!("rows {from} to {to}") };
    text += &format!(" of the {} held, oldest first", words::count(rows as u64));
    let left = gone.count(data, head);
    if left > 0 {
        text += &format!(" · {} dropped so far", words::count(u64::from(left)));
    }
    if let Some(kept) = super::kept_words(data, head.0) {
        text += &format!(" · {kept}");
    }
    text
}

/// Which of `rows` cache rows a bin stands for, first and last.
pub fn held_rows(bin: usize, bins: usize, rows: usize) -> (usize, usize) {
    let (bins, rows) = (bins.max(1), rows.max(1));
    let from = (bin * rows / bins).min(rows - 1);
    (from, (((bin + 1) * rows).div_ceil(bins)).clamp(from + 1, rows) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_of_a_cell_finds_its_head() {
        for (layers, heads, shared) in [(30, 9, 3), (2, 1, 1), (32, 32, 4), (5, 7, 2)] {
            let rect = Rect::from_min_size(pos2(40.0, 20.0), vec2(800.0, 400.0));
            let cells = Cells { rect, layers, heads, shared, gap: 6.0 };
            for layer in 0..layers {
                for head in 0..heads {
                    let cell = cells.cell(layer, head);
                    assert!(rect.expand(0.1).contains_rect(cell));
                    for at in [cell.center(), cell.min + vec2(0.3, 0.3), cell.max - vec2(0.3, 0.3)] {
                        assert_eq!(cells.at(at), Some((layer, head)));
                    }
                }
            }
            assert_eq!(cells.at(rect.min - vec2(1.0, 0.0)), None);
        }
    }

    #[test]
    fn bins_cover_the_rows_in_order() {
        for (bins, rows) in [(64, 200), (64, 64), (64, 7), (8, 1), (3, 100)] {
            assert_eq!(held_rows(0, bins, rows).0, 0);
            assert_eq!(held_rows(bins - 1, bins, rows).1, rows - 1);
            for bin in 1..bins {
                let (before, now) = (held_rows(bin - 1, bins, rows), held_rows(bin, bins, rows));
                assert!(before.0 <= now.0 && now.0 <= now.1 && now.0 <= before.1 + 1);
            }
        }
    }
}
