//! Running text of tokens: each can be pointed at, those that left the cache are fainter, and however long it is only the rows on
//! screen are drawn. Rows are found once and extended as tokens come.

mod rows;

use std::sync::Arc;

use egui::mutex::Mutex;
use egui::text::{LayoutJob, LayoutSection, TextFormat};
use egui::{
    Align2, Color32, EventFilter, FontId, Galley, Key, Modifiers, Pos2, Rect, Response, Role, Sense, Stroke,
    StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use crate::linked::Linked;
use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::Written;
use crate::words;

use rows::{Piece, Rows};

/// Height of a row in points.
pub const ROW: f32 = 22.0;
/// Room left of the rows for positions.
const GUTTER: f32 = 48.0;

/// What to show of a sequence, and how.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// What a screen reader calls it.
    pub name: &'a str,
    /// The sequence.
    pub written: &'a Written,
    /// Tokens from here on.
    pub from: usize,
    /// And before here.
    pub to: usize,
    /// Positions beside the rows.
    pub gutter: bool,
    /// Written tokens lie on a tint.
    pub tint: bool,
    /// More is coming.
    pub live: bool,
    /// The token from which it differs from another: marked, and what comes before it is of less weight.
    pub differs: Option<usize>,
    /// Bring this token into view.
    pub reveal: Option<usize>,
}

impl<'a> Flow<'a> {
    /// All of a sequence.
    pub fn of(name: &'a str, written: &'a Written) -> Self {
        let to = written.tokens.len();
        Self { name, written, from: 0, to, gutter: true, tint: true, live: false, differs: None, reveal: None }
    }
}

/// What is said about a token.
pub fn describe(written: &Written, position: usize) -> String {
    let Some(token) = written.tokens.get(position) else { return String::new() };
    let mut text =
        format!("{}, token {}, position {}", say::quoted(&token.text), token.id, words::count(position as u64));
    match written.kept.get(position) {
        Some(share) if *share <= 0.0 => text.push_str(", gone from every head’s cache"),
        Some(share) if *share < 1.0 => {
            text.push_str(&format!(", still in {} of the heads’ caches", words::percent(f64::from(*share))))
        }
        Some(_) => text.push_str(", in every head’s cache"),
        None => {}
    }
    text
}

/// Colour of a token's text by the share of caches that hold it.
pub fn ink(palette: &Palette, base: Color32, kept: Option<f32>) -> Color32 {
    let kept = kept.filter(|k| k.is_finite()).unwrap_or(1.0).clamp(0.0, 1.0);
    say::mix(base, palette.background, 0.62 * (1.0 - kept))
}

/// Draws the tokens in the width there is, as high as they need.
pub fn show(
    ui: &mut Ui,
    salt: impl std::hash::Hash + std::fmt::Debug,
    flow: Flow<'_>,
    linked: &mut Linked,
) -> Response {
    let id = ui.scope_id().with(("tokens", salt));
    let font = FontId::proportional(TEXT[1]);
    let gutter = if flow.gutter { GUTTER } else { 0.0 };
    let width = (ui.available_width() - gutter - 2.0 * GRID).max(40.0);
    let cache = ui.data_mut(|d| d.get_temp_mut_or_default::<Arc<Mutex<Rows>>>(id).clone());
    let mut rows = cache.lock();
    let to = flow.to.min(flow.written.tokens.len());
    let scale = ui.pixels_per_point();
    ui.fonts_mut(|fonts| {
        rows.update(flow.written, flow.from.min(to)..to, width, scale, |c| fonts.glyph_width(&font, c))
    });
    let count = rows.len().max(1);
    let size = vec2(gutter + width + 2.0 * GRID, count as f32 * ROW);
    let (rect, response) = ui.allocate_exact_size(size, Sense::CLICK | Sense::FOCUSABLE);
    let origin = pos2(rect.left() + gutter, rect.top());

    let mut at: Option<usize> = ui.data(|d| d.get_temp::<usize>(id.with("at")));
    if response.has_focus() {
        let now = at.unwrap_or(flow.from).clamp(flow.from, to.saturating_sub(1).max(flow.from));
        let next = by_keys(ui, &response, now, flow.from..to, &rows);
        if at != Some(next) {
            ui.data_mut(|d| d.insert_temp(id.with("at"), next));
            if let Some(row) = rows.row_of(next) {
                ui.scroll_to_rect(
                    Rect::from_min_size(pos2(rect.left(), rect.top() + row as f32 * ROW), vec2(1.0, ROW)),
                    None,
                );
            }
            at = Some(next);
        }
        linked.token = at;
    } else {
        at = None;
    }
    if let Some(row) = flow.reveal.and_then(|token| rows.row_of(token)) {
        let around = Rect::from_min_size(pos2(rect.left(), rect.top() + row as f32 * ROW), vec2(1.0, ROW));
        ui.scroll_to_rect(around, Some(egui::Align::Center));
    }

    let mut visible = 0..count;
    let clip = ui.clip_rect();
    visible.start = (((clip.top() - rect.top()) / ROW).floor().max(0.0) as usize).min(count);
    visible.end = (((clip.bottom() - rect.top()) / ROW).ceil().max(0.0) as usize).min(count);
    let mut painter = Painting { ui, flow, rows: &rows, origin, palette: Palette::of(ui.theme()), font };
    let pointer = response.hover_pos();
    let mut under = None;
    let galleys: Vec<(usize, Arc<Galley>)> = visible.clone().map(|row| (row, painter.layout(row))).collect();
    if let Some(p) = pointer {
        under = galleys.iter().find_map(|(row, galley)| painter.hit(*row, galley, p));
        linked.token = under.or(linked.token);
    }
    let outlined = linked.token;
    for (row, galley) in &galleys {
        painter.paint(*row, galley, outlined);
    }
    painter.caret();
    drop(rows);

    let value = match at.or(under) {
        Some(position) => describe(flow.written, position),
        None => String::new(),
    };
    response.widget_info(|| WidgetInfo::labeled(Role::Document, true, flow.name));
    ui.accesskit_node_builder(response.id, |node| {
        let text = || flow.written.tokens[flow.from.min(to)..to].iter().map(|t| t.text.as_str()).collect::<String>();
        node.set_value(if value.is_empty() { text() } else { value.clone() });
    });
    say::focus_ring(ui, &response);
    if let Some(position) = under {
        return response.on_hover_ui_at_pointer(|ui| tooltip(ui, flow.written, position));
    }
    response
}

fn tooltip(ui: &mut Ui, written: &Written, position: usize) {
    let palette = Palette::of(ui.theme());
    let Some(token) = written.tokens.get(position) else { return };
    ui.label(egui::RichText::new(say::quoted(&token.text)).monospace().color(palette.text));
    let part = if position < written.prompt { "prompt" } else { "written" };
    say::note(ui, format!("position {} · token {} · {part}", words::count(position as u64), token.id));
    if let Some(share) = written.kept.get(position) {
        say::note(ui, format!("kept in {} of the heads’ caches", words::percent(f64::from(*share))));
    }
}

fn by_keys(ui: &Ui, response: &Response, now: usize, tokens: std::ops::Range<usize>, rows: &Rows) -> usize {
    let filter = EventFilter { horizontal_arrows: true, vertical_arrows: true, ..Default::default() };
    ui.memory_mut(|m| m.set_focus_lock_filter(response.id, filter));
    let last = tokens.end.saturating_sub(1).max(tokens.start);
    ui.input_mut(|i| {
        let mut now = now;
        let mut count = |key| i.count_and_consume_key(Modifiers::NONE, key);
        now = (now + count(Key::ArrowRight)).saturating_sub(count(Key::ArrowLeft));
        for _ in 0..count(Key::ArrowDown) {
            now = rows.beside(now, 1);
        }
        for _ in 0..count(Key::ArrowUp) {
            now = rows.beside(now, -1);
        }
        now = if count(Key::Home) > 0 { tokens.start } else { now };
        now = if count(Key::End) > 0 { last } else { now };
        now.clamp(tokens.start, last)
    })
}

struct Painting<'a> {
    ui: &'a Ui,
    flow: Flow<'a>,
    rows: &'a Rows,
    origin: Pos2,
    palette: &'static Palette,
    font: FontId,
}

impl Painting<'_> {
    /// What is drawn of a piece: without the blank at which its row was broken.
    fn text(&self, row: usize, piece: &Piece) -> &str {
        let token = &self.flow.written.tokens[piece.token as usize];
        let text = token.text.get(piece.start as usize..piece.end as usize).unwrap_or_default();
        let first = self.rows.row(row).first().is_some_and(|first| std::ptr::eq(first, piece));
        if first && self.rows.broken(row) { text.strip_prefix(' ').unwrap_or(text) } else { text }
    }

    fn format(&self, token: usize) -> TextFormat {
        let (p, written) = (self.palette, self.flow.written);
        let mut format = TextFormat::simple(self.font.clone(), p.text);
        format.line_height = Some(ROW);
        format.valign = egui::Align::Center;
        let base = if self.flow.differs.is_some_and(|at| token < at) { p.weak_text } else { p.text };
        let kept = written.kept.get(token).copied();
        format.color = ink(p, base, kept);
        if kept.is_some_and(|k| k <= 0.0) {
            format.strikethrough = Stroke::new(1.0, format.color);
        }
        if self.flow.differs == Some(token) {
            (format.background, format.color) = (p.accent, p.background);
        } else if self.flow.tint && token >= written.prompt {
            format.background = say::mix(p.background, p.accent, 0.16);
        }
        format
    }

    fn layout(&self, row: usize) -> Arc<Galley> {
        let mut job = LayoutJob { break_on_newline: false, ..LayoutJob::default() };
        for piece in self.rows.row(row) {
            let (from, format) = (job.text.len(), self.format(piece.token as usize));
            // Character for character, so that glyphs can be found again.
            job.text.extend(self.text(row, piece).chars().map(|c| if c.is_control() { ' ' } else { c }));
            let byte_range = from.into()..job.text.len().into();
            match job.sections.last_mut() {
                Some(section) if section.format == format => section.byte_range.end = byte_range.end,
                _ => job.sections.push(LayoutSection { leading_space: 0.0, byte_range: byte_range.into(), format }),
            }
        }
        self.ui.painter().layout_job(job)
    }

    /// Where each piece of a row lies.
    fn places(&self, row: usize, galley: &Galley) -> Vec<(usize, Rect)> {
        let y = self.origin.y + row as f32 * ROW;
        let mut x = self.origin.x;
        let mut at = 0;
        let Some(line) = galley.rows.first() else { return Vec::new() };
        let pieces = self.rows.row(row).iter();
        pieces
            .map(|piece| {
                at += self.text(row, piece).chars().count();
                let end = self.origin.x + line.pos.x + line.row.x_offset(egui::text::CharIndex(at));
                let rect = Rect::from_min_max(pos2(x, y), pos2(end.max(x), y + ROW));
                x = end;
                (piece.token as usize, rect)
            })
            .collect()
    }

    fn hit(&self, row: usize, galley: &Galley, p: Pos2) -> Option<usize> {
        let y = self.origin.y + row as f32 * ROW;
        if !(y..y + ROW).contains(&p.y) {
            return None;
        }
        self.places(row, galley).into_iter().find(|(_, rect)| rect.contains(p)).map(|(token, _)| token)
    }

    fn paint(&mut self, row: usize, galley: &Arc<Galley>, outlined: Option<usize>) {
        let p = self.palette;
        let y = self.origin.y + row as f32 * ROW;
        let painter = self.ui.painter();
        let pieces = self.rows.row(row);
        if self.flow.gutter
            && let Some(first) = pieces.first()
        {
            let at = pos2(self.origin.x - 3.0 * GRID, y + 0.5 * ROW);
            let position = words::count(u64::from(first.token));
            painter.text(at, Align2::RIGHT_CENTER, position, say::figures(), say::mix(p.weak_text, p.background, 0.3));
        }
        painter.galley(pos2(self.origin.x, y + 0.5 * (ROW - galley.size().y)), Arc::clone(galley), p.text);
        if let Some(token) = outlined
            && pieces.iter().any(|piece| piece.token as usize == token)
        {
            for (_, rect) in self.places(row, galley).into_iter().filter(|(t, _)| *t == token) {
                painter.rect_stroke(
                    rect.expand2(vec2(1.0, -1.0)),
                    3.0,
                    Stroke::new(1.5, p.accent),
                    StrokeKind::Outside,
                );
            }
        }
    }

    /// Where the next token will come.
    fn caret(&self) {
        if self.flow.live {
            let (row, x) = self.rows.end();
            let at = self.origin + vec2(x + 2.0, row as f32 * ROW + 4.0);
            self.ui.painter().rect_filled(Rect::from_min_size(at, vec2(7.0, ROW - 8.0)), 1.0, self.palette.accent);
        }
    }
}

#[cfg(test)]
#[path = "tokens/tests.rs"]
mod tests;
