//! One head large: queries downwards, keys across, token text along both where it fits, keys that left struck out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use egui::epaint::{Mesh, TextShape};
use egui::{
    Align2, Color32, ColorImage, EventFilter, FontId, Id, Key, Painter, Rect, Role, Sense, Shape, Stroke, StrokeKind,
    TextureHandle, TextureOptions, Ui, WidgetInfo, pos2, vec2,
};

use super::color::{dim, table};
use super::gone::Gone;
use super::grid::held_rows;
use super::lens::Lens;
use super::pyramid::Cells;
use super::tiles::{Sight, Tiles};
use super::{AttentionState, bar, code, kept_words, readout, scrubbed, token, with_readout};
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Attention, Grid, Map};
use crate::{Action, Linked, words};

/// What is kept between frames.
#[derive(Default)]
pub struct State {
    tiles: Tiles,
    gone: Gone,
    lens: Lens,
    /// Row and column that the keyboard points at.
    cursor: Option<[usize; 2]>,
    hatch: Option<(Color32, TextureHandle)>,
    whose: u64,
}

/// The head's map: at full size where it was kept, or else its small map.
#[derive(Clone, Copy)]
enum Source<'a> {
    Full(&'a Map),
    Small { grid: &'a Grid, head: (usize, usize), of: (usize, usize) },
}

impl Cells for Source<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Full(map) => map.queries.len().min(map.values.len() / map.columns.max(1)),
            Self::Small { grid, of, .. } => grid.steps.len().min(grid.values.len() / (of.0 * of.1 * grid.bins).max(1)),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Full(map) => map.columns,
            Self::Small { grid, .. } => grid.bins,
        }
    }

    fn read(&self, row: usize, from: usize, out: &mut [u8]) {
        match self {
            Self::Full(map) => {
                let start = row * map.columns + from;
                let Some(values) = map.values.get(start..start + out.len()) else {
                    out.fill(0);
                    return;
                };
                let stride = map.columns.div_ceil(8);
                match map.held.get(row * stride..(row + 1) * stride) {
                    Some(bits) => {
                        for ((column, o), &v) in (from..).zip(out.iter_mut()).zip(values) {
                            *o = if bits[column / 8] >> (column % 8) & 1 == 1 { v.max(1) } else { 0 };
                        }
                    }
                    None => {
                        for ((column, o), &v) in (from..).zip(out.iter_mut()).zip(values) {
                            *o = if map.held(row, column) { v.max(1) } else { 0 };
                        }
                    }
                }
            }
            Self::Small { grid, head, of } => {
                let values = grid.row(row, *head, *of);
                for (o, &v) in out.iter_mut().zip(values.get(from..).unwrap_or(&[])) {
                    *o = v.max(1);
                }
            }
        }
    }
}

/// Draws the map of one head.
pub fn show(
    ui: &mut Ui,
    rect: Rect,
    data: &Attention,
    state: &mut AttentionState,
    head: (usize, usize),
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let Some(source) = source(data, head, linked) else { return };
    let head = if let Source::Full(map) = source { map.head } else { head };
    if source.rows() == 0 || source.columns() == 0 {
        super::super::waiting::show(ui, rect, "No query yet", "Its rows appear while the answer is written.", None, "");
        return;
    }
    let palette = Palette::of(ui.theme());
    let (body, line) = with_readout(rect);
    let (body, legend) = body.split_left_right_at_x((body.right() - bar::WIDTH).max(body.left()));
    let full = matches!(source, Source::Full(_));
    let mut complete = state.map.follow(data, head, source);
    let code = code(data, head, full, state.map.tiles.largest());
    let colors = table(ui.theme(), state.scale, code);

    // The room for words is always there, so that the map does not move when they begin to fit.
    let cells = [source.columns(), source.rows()];
    let gutter = vec2(20.0 * GRID, if full { 16.0 } else { 9.0 } * GRID);
    let inner = Rect::from_min_max(body.min + gutter, body.max.max(body.min + gutter + vec2(1.0, 1.0)));
    let points: [f32; 2] = inner.size().into();

    let response = ui.interact(inner, Id::unique("attention map"), Sense::click_and_drag());
    navigate(ui, &response, inner, cells, &mut state.map);
    if keys(ui, &response, cells, points, &mut state.map) && data.grid.is_some() {
        state.large = false;
    }
    let map_state = &mut state.map;
    let sight = map_state.lens.sight(cells, points);
    let aim = Aim::of(&response, inner, sight, cells, map_state.cursor, linked.token);
    let said =
        aim.shown.map_or_else(|| summary(data, head, source), |c| describe(data, source, &map_state.gone, c[1], c[0]));
    name(&response, head, &said);
    if let (Some(at), true) = (aim.pointed, full) {
        linked.token = Some(at[0]);
    }
    if let (true, Some(at)) = (response.double_clicked(), aim.pointed) {
        scrub_to(data, source, at[1], actions);
    }

    let painter = ui.painter().with_clip_rect(inner.intersect(ui.clip_rect()));
    complete &= map_state.tiles.paint(&painter, inner, &source, sight, &colors);
    if !complete {
        ui.ctx().request_repaint();
    }
    let kept = data.kept(head.0);
    if let Some([key, _]) = kept.filter(|[key, _]| key.quantized()) {
        painter.rect_filled(inner, 0.0, palette.background.gamma_multiply(dim(key.bits)));
    }
    let last = scrubbed(data, linked).map(|step| rows_until(data, source, step));
    let sheet = Sheet { painter: &painter, inner, data, source, sight, aim, last, palette };
    sheet.marks(map_state);
    let frame = if response.has_focus() { palette.accent } else { palette.line };
    ui.painter().rect_stroke(inner, 0.0, Stroke::new(1.0, frame), StrokeKind::Outside);
    sheet.axes(ui.painter(), body, &map_state.gone);
    bar::show(ui.painter(), legend, ui.theme(), state.scale, code, kept);
    readout(ui, line, &said);
}

impl State {
    /// Turns to a head's map, takes in what is new of it; true when all of it is in.
    fn follow(&mut self, data: &Attention, head: (usize, usize), source: Source<'_>) -> bool {
        let whose = identity(data, head, matches!(source, Source::Full(_)));
        if self.whose != whose {
            (self.lens, self.cursor, self.whose) = (Lens::default(), None, whose);
        }
        self.gone.follow(data, head);
        self.tiles.follow(&source, whose)
    }
}

/// What is pointed at, cells as column and row.
#[derive(Clone, Copy)]
struct Aim {
    /// The cell under the pointer.
    pointed: Option<[usize; 2]>,
    /// The cell told of: that, or the keyboard's.
    shown: Option<[usize; 2]>,
    /// The token pointed at elsewhere.
    marked: Option<usize>,
}

impl Aim {
    fn of(
        response: &egui::Response,
        inner: Rect,
        sight: Sight,
        cells: [usize; 2],
        cursor: Option<[usize; 2]>,
        marked: Option<usize>,
    ) -> Self {
        let there = |c: &[usize; 2]| c[0] < cells[0] && c[1] < cells[1];
        let pointed = response.hover_pos().map(|at| sight.to_cell(inner, at).map(|c| c.max(0.0) as usize));
        let pointed = pointed.filter(there);
        Self { pointed, shown: pointed.or(cursor.filter(there)), marked }
    }
}

/// Tells screen readers what the map is of, and what is pointed at.
fn name(response: &egui::Response, head: (usize, usize), said: &str) {
    response.widget_info(|| {
        let name = format!("Attention of layer {}, head {}", head.0, head.1);
        let mut info = WidgetInfo::labeled(Role::Canvas, true, name);
        info.current_text_value = Some(said.to_owned());
        info
    });
}

/// The map of a head at full size where it is kept, else its small one; the head that is linked moves to the only one there is.
fn source<'a>(data: &'a Attention, head: (usize, usize), linked: &mut Linked) -> Option<Source<'a>> {
    match (&data.map, &data.grid) {
        (Some(map), _) if map.head == head => Some(Source::Full(map)),
        (_, Some(grid)) => Some(Source::Small { grid, head, of: (data.layers, data.heads) }),
        (Some(map), None) => {
            linked.head = Some(map.head);
            Some(Source::Full(map))
        }
        (None, None) => None,
    }
}

fn identity(data: &Attention, head: (usize, usize), full: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&data.run, head, full).hash(&mut hasher);
    hasher.finish()
}

fn navigate(ui: &Ui, response: &egui::Response, inner: Rect, cells: [usize; 2], state: &mut State) {
    let points: [f32; 2] = inner.size().into();
    if let Some(at) = response.hover_pos() {
        let (scroll, pinch) = ui.input(|i| (i.smooth_scroll_delta().y, i.zoom_delta()));
        let factor = f64::from(pinch) * (f64::from(scroll) / 200.0).exp();
        if factor != 1.0 {
            let share = [(at.x - inner.left()) / points[0], (at.y - inner.top()) / points[1]].map(f64::from);
            state.lens.zoom(factor, share, cells, points);
        }
    }
    if response.dragged() {
        let by = response.drag_delta();
        state.lens.pan([f64::from(by.x / points[0]), f64::from(by.y / points[1])], cells, points);
    }
}

/// Arrows move the cell pointed at (shift: ten), + and − zoom, Home shows all; true when Escape asks for all heads.
fn keys(ui: &Ui, response: &egui::Response, cells: [usize; 2], points: [f32; 2], state: &mut State) -> bool {
    if !response.has_focus() {
        return false;
    }
    let filter = EventFilter { horizontal_arrows: true, vertical_arrows: true, escape: true, ..EventFilter::default() };
    ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
    let (by, zoom, home, escape) = ui.input(|i| {
        let pressed = |key| i.num_presses(key) as isize;
        let far = if i.modifiers.shift { 10 } else { 1 };
        let by = [
            (pressed(Key::ArrowRight) - pressed(Key::ArrowLeft)) * far,
            (pressed(Key::ArrowDown) - pressed(Key::ArrowUp)) * far,
        ];
        let zoom = pressed(Key::Plus) + pressed(Key::Equals) - pressed(Key::Minus);
        (by, zoom, i.key_pressed(Key::Home), i.key_pressed(Key::Escape))
    });
    if by != [0, 0] {
        let at = state.cursor.unwrap_or([0, cells[1] - 1]);
        let at = [0, 1].map(|a| at[a].saturating_add_signed(by[a]).min(cells[a] - 1));
        state.cursor = Some(at);
        state.lens.reveal(at, cells, points);
    }
    if zoom != 0 {
        let middle = state.cursor.map_or([0.5, 0.5], |at| {
            let sight = state.lens.sight(cells, points);
            [0, 1].map(|a| ((at[a] as f64 + 0.5 - sight.from[a]) / sight.size[a]).clamp(0.0, 1.0))
        });
        state.lens.zoom(1.5f64.powi(zoom as i32), middle, cells, points);
    }
    if home {
        state.lens = Lens::default();
    }
    escape
}

/// Position of a row's query: the token of decoding step `s` stands at `prompt + s − 1`.
fn query(data: &Attention, source: Source<'_>, row: usize) -> usize {
    match source {
        Source::Full(map) => map.queries.get(row).map_or(0, |&q| q as usize),
        Source::Small { grid, .. } => (data.prompt + grid.steps.get(row).copied().unwrap_or(0)).saturating_sub(1),
    }
}

/// Rows up to and with a decoding step.
fn rows_until(data: &Attention, source: Source<'_>, step: usize) -> usize {
    match source {
        Source::Full(map) => map.queries.partition_point(|&q| (q as usize) < data.prompt + step),
        Source::Small { grid, .. } => grid.steps.partition_point(|&s| s <= step),
    }
}

fn scrub_to(data: &Attention, source: Source<'_>, row: usize, actions: &mut Vec<Action>) {
    let step = (query(data, source, row) + 1).saturating_sub(data.prompt);
    let moment = data.moments.partition_point(|&s| s < step);
    if moment < data.moments.len() {
        actions.push(Action::ScrubTo(Some(moment)));
    }
}

fn quoted(data: &Attention, position: usize) -> String {
    token(data, position).map_or_else(|| format!("token {position}"), |t| format!("“{t}” ({position})"))
}

fn summary(data: &Attention, head: (usize, usize), source: Source<'_>) -> String {
    let size = format!("{} queries", words::count(source.rows() as u64));
    let kept = kept_words(data, head.0).map_or_else(String::new, |kept| format!(" · {kept}"));
    match source {
        Source::Full(map) => format!(
            "Layer {}, head {} at full size: {size} × {} keys · scroll to zoom, drag to move{kept}",
            head.0,
            head.1,
            words::count(map.columns as u64)
        ),
        Source::Small { grid, .. } => format!(
            "Layer {}, head {}: {size} of {}, keys pooled to {} columns from the oldest held to the newest{kept}",
            head.0,
            head.1,
            if data.run.is_empty() { "the run" } else { &data.run },
            grid.bins
        ),
    }
}

fn describe(data: &Attention, source: Source<'_>, gone: &Gone, row: usize, column: usize) -> String {
    let at = query(data, source, row);
    match source {
        Source::Small { grid, head, of } => {
            let rows = grid.rows.get(row).copied().unwrap_or(0);
            let (from, to) = held_rows(column, grid.bins, rows);
            let share = f64::from(grid.row(row, head, of).get(column).copied().unwrap_or(0)) / 255.0;
            let weight = match grid.largest(row, head, of) {
                Some(largest) => format!("weight {}", words::number(share * f64::from(largest))),
                None => format!("{} of its largest weight", words::percent(share)),
            };
            let step = grid.steps.get(row).copied().unwrap_or(0);
            format!("Step {step}, query {} → rows {from} to {to} of {rows} held: {weight}", quoted(data, at))
        }
        Source::Full(map) => {
            let key = quoted(data, column);
            if column > at {
                return format!("Query {} → key {key}: it comes later", quoted(data, at));
            }
            let went = |step: usize| match gone.survivor(column) {
                Some(into) => format!("merged into {} at step {step}", quoted(data, into)),
                None => format!("dropped at step {step}"),
            };
            let state = match gone.step(column) {
                Some(step) if gone.row(data, map, column).is_some_and(|r| r <= row) => went(step),
                Some(step) => format!("kept here, {}", went(step)),
                None if map.held(row, column) && data.kept(map.head.0).is_some_and(|[key, _]| key.quantized()) => {
                    let [key, value] = data.kept(map.head.0).cloned().unwrap_or_default();
                    format!("kept as {}, its value as {}", key.name, value.name)
                }
                None if map.held(row, column) => "kept".into(),
                None => "not in the cache".into(),
            };
            let weight =
                if map.held(row, column) { words::number(f64::from(map.weight(row, column))) } else { "0".into() };
            format!("Query {} → key {key}: weight {weight}, {state}", quoted(data, at))
        }
    }
}

/// One tile of the hatch.
fn stripes(ink: Color32) -> ColorImage {
    let pixel = |i: usize| if (i % 8 + i / 8).is_multiple_of(8) { ink } else { Color32::TRANSPARENT };
    ColorImage::new([8, 8], (0..64).map(pixel).collect())
}

/// A map as it lies on the screen in a frame, and what is pointed at in it.
struct Sheet<'a> {
    /// Clipped to the map.
    painter: &'a Painter,
    inner: Rect,
    data: &'a Attention,
    source: Source<'a>,
    sight: Sight,
    aim: Aim,
    /// Rows up to the moment scrubbed to.
    last: Option<usize>,
    palette: &'a Palette,
}

impl Sheet<'_> {
    /// What lies over the cells: keys that left, the future, what is pointed at.
    fn marks(&self, state: &mut State) {
        let Aim { pointed, shown, marked } = self.aim;
        if let Source::Full(map) = self.source {
            self.strike(map, state);
            self.point(map, &state.gone, shown.map(|c| c[0]).or(marked));
        }
        self.cover();
        if let (Some(column), Source::Full(_), None) = (marked, self.source, pointed) {
            self.mark(column);
        }
        if let Some(at) = shown {
            self.crosshair(at);
        }
    }

    /// Hatches what keys that left would have covered, from the step at which they went.
    fn strike(&self, map: &Map, state: &mut State) {
        let Self { painter, inner, data, sight, last, palette, .. } = *self;
        let rows = last.unwrap_or(map.queries.len()).min(map.queries.len());
        let first = sight.from[0].max(0.0) as usize;
        let end = ((sight.from[0] + sight.size[0]).ceil() as usize).min(map.columns);
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        for column in first..end {
            let Some(row) = state.gone.row(data, map, column).filter(|&r| r < rows) else { continue };
            match runs.last_mut() {
                Some((_, to, r)) if *to == column && *r == row => *to = column + 1,
                _ => runs.push((column, column + 1, row)),
            }
        }
        if runs.is_empty() {
            return;
        }
        let ink = palette.weak_text.gamma_multiply(0.55);
        if state.hatch.as_ref().is_none_or(|(color, _)| *color != ink) {
            let texture = painter.ctx().load_texture("hatch", stripes(ink), TextureOptions::NEAREST_REPEAT);
            state.hatch = Some((ink, texture));
        }
        let Some((_, hatch)) = &state.hatch else { return };
        if crate::svg::wanted(painter.ctx()) {
            crate::svg::remember(painter.ctx(), hatch.id(), Some(Arc::new(stripes(ink))));
        }
        let per_tile = 8.0 / painter.pixels_per_point();
        let mut mesh = Mesh::with_texture(hatch.id());
        let bottom = sight.to_screen(inner, 0.0, rows as f64).y.min(inner.bottom());
        let edges = runs.len() < 400;
        for (from, to, row) in runs {
            let min = sight.to_screen(inner, from as f64, row as f64);
            let area = Rect::from_min_max(
                pos2(min.x.max(inner.left()), min.y.max(inner.top())),
                pos2(sight.to_screen(inner, to as f64, 0.0).x.min(inner.right()), bottom),
            );
            if area.is_positive() {
                let uv = Rect::from_min_max(
                    ((area.min - inner.min) / per_tile).to_pos2(),
                    ((area.max - inner.min) / per_tile).to_pos2(),
                );
                mesh.add_rect_with_uv(area, uv, Color32::WHITE);
                if edges && min.y > inner.top() {
                    painter.hline(area.x_range(), min.y, Stroke::new(1.0, palette.weak_text));
                }
            }
        }
        painter.add(Shape::mesh(mesh));
    }

    /// Points from where a key was merged to the column of the one that took it up; all of them where they can be told apart, else
    /// that of the key pointed at.
    fn point(&self, map: &Map, gone: &Gone, at: Option<usize>) {
        let Self { painter, inner, data, sight, last, palette, .. } = *self;
        let rows = last.unwrap_or(map.queries.len()).min(map.queries.len());
        let all = sight.cell(inner)[0] >= 6.0;
        let first = sight.from[0].max(0.0) as usize;
        let end = ((sight.from[0] + sight.size[0]).ceil() as usize).min(map.columns);
        for column in (first..end).filter(|c| all || at == Some(*c)) {
            let Some(survivor) = gone.survivor(column).filter(|s| *s < map.columns) else { continue };
            let Some(row) = gone.row(data, map, column).filter(|r| *r < rows) else { continue };
            let marked = at == Some(column);
            let ink = if marked { palette.accent } else { palette.text.gamma_multiply(0.8) };
            let stroke = Stroke::new(if marked { 2.0 } else { 1.0 }, ink);
            let [from, to] = [column, survivor].map(|c| sight.to_screen(inner, c as f64 + 0.5, row as f64));
            painter.circle_filled(from, 2.0, ink);
            painter.line_segment([from, to], stroke);
            let (side, size) = (if to.x > from.x { -1.0 } else { 1.0 }, 4.0);
            painter.line(vec![to + vec2(side * size, -size), to, to + vec2(side * size, size)], stroke);
        }
    }

    /// Covers the rows after the moment scrubbed to.
    fn cover(&self) {
        let Self { painter, inner, sight, palette, .. } = *self;
        let Some(rows) = self.last else { return };
        let y = sight.to_screen(inner, 0.0, rows as f64).y.clamp(inner.top(), inner.bottom());
        let after = Rect::from_min_max(pos2(inner.left(), y), inner.max);
        painter.rect_filled(after, 0.0, palette.background.gamma_multiply(0.75));
        painter.hline(inner.x_range(), y, Stroke::new(1.0, palette.accent));
    }

    /// Lights the column of the token that is pointed at elsewhere.
    fn mark(&self, column: usize) {
        let Self { painter, inner, sight, palette, .. } = *self;
        let [left, right] = [0.0, 1.0].map(|by| sight.to_screen(inner, column as f64 + by, 0.0).x);
        let column = Rect::from_x_y_ranges(left..=right.max(left + 1.0), inner.y_range());
        painter.rect_filled(column, 0.0, palette.accent.gamma_multiply(0.45));
    }

    /// Frames the cell told of, with lines through it where it is too small to be seen.
    fn crosshair(&self, [column, row]: [usize; 2]) {
        let Self { painter, inner, sight, palette, .. } = *self;
        let cell = Rect::from_two_pos(
            sight.to_screen(inner, column as f64, row as f64),
            sight.to_screen(inner, column as f64 + 1.0, row as f64 + 1.0),
        );
        let faint = Stroke::new(1.0, palette.text.gamma_multiply(0.35));
        if cell.width() < 4.0 || cell.height() < 4.0 {
            painter.vline(cell.center().x, inner.y_range(), faint);
            painter.hline(inner.x_range(), cell.center().y, faint);
        }
        painter.rect_stroke(cell.expand(1.0), 0.0, Stroke::new(1.5, palette.text), StrokeKind::Outside);
    }

    /// What stands beside the rows and above the columns, each side in words where cells leave room for them.
    fn axes(&self, painter: &Painter, body: Rect, gone: &Gone) {
        let Self { inner, data, source, sight, palette, .. } = *self;
        let full = matches!(source, Source::Full(_));
        let cell = sight.cell(inner);
        let words_fit = [full && cell[0] >= 13.0, cell[1] >= 13.0];
        let font = FontId::proportional(TEXT[0]);
        let title_y = if words_fit[0] { body.top() + 2.0 * GRID } else { inner.top() - 7.0 * GRID };
        let (down, across) = if full { ("query ↓", "key →") } else { ("query ↓", "oldest row held → newest") };
        painter.text(pos2(body.left(), title_y), Align2::LEFT_CENTER, down, font.clone(), palette.weak_text);
        if !words_fit[0] {
            painter.text(pos2(inner.left(), title_y), Align2::LEFT_CENTER, across, font.clone(), palette.weak_text);
        }
        let range = |axis: usize, count: usize| {
            let end = (sight.from[axis] + sight.size[axis]).ceil() as usize;
            (sight.from[axis].max(0.0) as usize)..end.min(count)
        };
        let marked = |axis: usize| self.aim.shown.map(|s| s[axis]);
        let words = Words { painter, body, inner, data, sight, palette, font };
        words.rows(range(1, source.rows()), |row| query(data, source, row), words_fit[1], marked(1));
        if full {
            words.columns(range(0, source.columns()), gone, words_fit[0], marked(0));
        }
    }
}

/// What writes the words of both sides.
struct Words<'a> {
    painter: &'a Painter,
    body: Rect,
    inner: Rect,
    data: &'a Attention,
    sight: Sight,
    palette: &'a Palette,
    font: FontId,
}

impl Words<'_> {
    fn ink(&self, marked: bool) -> Color32 {
        if marked { self.palette.text } else { self.palette.weak_text }
    }

    /// Beside the rows: the words of their queries where they fit, their positions at some of them elsewhere.
    fn rows(&self, rows: std::ops::Range<usize>, query: impl Fn(usize) -> usize, fit: bool, marked: Option<usize>) {
        let Self { painter, body, inner, sight, palette, font, .. } = self;
        if !fit {
            for row in ticks(rows, sight.cell(*inner)[1], 40.0) {
                let y = sight.to_screen(*inner, 0.0, row as f64 + 0.5).y;
                painter.hline(inner.left() - GRID..=inner.left(), y, Stroke::new(1.0, palette.line));
                let (at, text) = (pos2(inner.left() - 1.5 * GRID, y), words::count(query(row) as u64));
                painter.text(at, Align2::RIGHT_CENTER, text, font.clone(), palette.weak_text);
            }
            return;
        }
        let clip = painter.with_clip_rect(Rect::from_x_y_ranges(body.left()..=inner.left() - GRID, inner.y_range()));
        for row in rows {
            let position = query(row);
            let text = token(self.data, position).unwrap_or_else(|| position.to_string());
            let y = sight.to_screen(*inner, 0.0, row as f64 + 0.5).y;
            let ink = self.ink(marked == Some(row));
            let galley = clip.layout_no_wrap(text, font.clone(), ink);
            // Long words lose their beginning's neighbour, not their own: they start at the left edge.
            let x = (inner.left() - 2.0 * GRID - galley.size().x).max(body.left());
            clip.galley(pos2(x, y - galley.size().y / 2.0), galley, ink);
        }
    }

    /// Above the columns: the words of their keys where they fit, upright and struck out once their rows are gone; their positions at
    /// some of them elsewhere.
    fn columns(&self, columns: std::ops::Range<usize>, gone: &Gone, fit: bool, marked: Option<usize>) {
        let Self { painter, body, inner, sight, palette, font, .. } = self;
        if !fit {
            for column in ticks(columns, sight.cell(*inner)[0], 64.0) {
                let x = sight.to_screen(*inner, column as f64 + 0.5, 0.0).x;
                painter.vline(x, inner.top() - GRID..=inner.top(), Stroke::new(1.0, palette.line));
                let (at, text) = (pos2(x, inner.top() - GRID), words::count(column as u64));
                painter.text(at, Align2::CENTER_BOTTOM, text, font.clone(), palette.weak_text);
            }
            return;
        }
        let clip = painter.with_clip_rect(Rect::from_x_y_ranges(inner.x_range(), body.top()..=inner.top() - GRID));
        for column in columns {
            let text = token(self.data, column).unwrap_or_else(|| column.to_string());
            let (marked, left) = (marked == Some(column), gone.step(column).is_some());
            let galley = clip.layout_no_wrap(text, font.clone(), self.ink(marked));
            let x = sight.to_screen(*inner, column as f64 + 0.5, 0.0).x;
            let length = galley.size().x.min(inner.top() - body.top() - 2.0 * GRID);
            let at = pos2(x - galley.size().y / 2.0, inner.top() - 1.5 * GRID);
            let opacity = if left && !marked { 0.7 } else { 1.0 };
            let turned = TextShape::new(at, galley, self.ink(marked)).with_angle(-std::f32::consts::FRAC_PI_2);
            clip.add(turned.with_opacity_factor(opacity));
            if left {
                clip.vline(x, at.y - length..=at.y, Stroke::new(1.0, palette.weak_text));
            }
        }
    }
}

/// Round places in a range, at least `apart` points from each other when each is `points` wide.
fn ticks(range: std::ops::Range<usize>, points: f32, apart: f32) -> impl Iterator<Item = usize> {
    let least = (apart / points.max(1e-6)).max(1.0);
    let power = 10f32.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= least).unwrap_or(least) as usize;
    let step = step.max(1);
    (range.start.div_ceil(step)..).map(move |i| i * step).take_while(move |&at| at < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_never_crowded() {
        for (points, apart) in [(0.25, 64.0), (1.3, 40.0), (20.0, 40.0), (100.0, 64.0)] {
            let all: Vec<usize> = ticks(1003..5000, points, apart).collect();
            assert!(all.windows(2).all(|w| (w[1] - w[0]) as f32 * points >= apart), "{all:?}");
            let step = all[1] - all[0];
            let first = step / 10usize.pow(step.ilog10());
            assert!([1, 2, 5].contains(&first) && all.iter().all(|a| a % step == 0));
        }
        assert_eq!(ticks(5..5, 1.0, 10.0).count(), 0);
    }
}
