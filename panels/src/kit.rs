//! The few pieces that all panels are made of: text that ends in … where space ends, buttons with painted signs, the ring of
//! what has focus.

use std::sync::Arc;

use egui::text::{LayoutJob, TextFormat, TextWrapping};
use egui::{
    Align, Align2, Color32, CornerRadius, CursorIcon, FontId, Galley, Layout, Painter, Pos2, Rect, Response, Role,
    Sense, Shape, Stroke, StrokeKind, Ui, UiBuilder, WidgetInfo, pos2, vec2,
};

use crate::theme::{CORNER, GRID, Palette, TEXT};

/// The font of figures: digits of one width.
pub(crate) fn figures(size: f32) -> FontId {
    FontId::monospace(size - 1.0)
}

/// The font of words.
pub(crate) fn words(size: f32) -> FontId {
    FontId::proportional(size)
}

/// The small size.
pub(crate) const SMALL: f32 = TEXT[0];
/// The size of most text.
pub(crate) const BODY: f32 = TEXT[1];

/// The palette in use.
pub(crate) fn palette(ui: &Ui) -> &'static Palette {
    Palette::of(ui.theme())
}

/// One line of text no wider than `width`, ending in … where it had to be cut.
pub(crate) fn elided(painter: &Painter, text: &str, font: FontId, color: Color32, width: f32) -> Arc<Galley> {
    let mut job = LayoutJob::single_section(text.to_owned(), TextFormat::simple(font, color));
    job.wrap = TextWrapping { max_width: width.max(0.0), max_rows: 1, break_anywhere: true, ..TextWrapping::default() };
    painter.layout_job(job)
}

/// How wide a text is.
pub(crate) fn width(painter: &Painter, text: &str, font: FontId) -> f32 {
    painter.layout_no_wrap(text.to_owned(), font, Color32::WHITE).size().x
}

/// Paints one line within `rect`, upright in its middle; returns where the text is.
pub(crate) fn line(painter: &Painter, rect: Rect, align: Align, text: &str, font: FontId, color: Color32) -> Rect {
    let galley = elided(painter, text, font, color, rect.width());
    let align = match align {
        Align::Min => Align2::LEFT_CENTER,
        Align::Center => Align2::CENTER_CENTER,
        Align::Max => Align2::RIGHT_CENTER,
    };
    let at = align.align_size_within_rect(galley.size(), rect);
    painter.galley(at.min, galley, color);
    at
}

/// Pieces of text in their own fonts and colours, one after the other.
pub(crate) fn pieces(parts: &[(&str, FontId, Color32)]) -> LayoutJob {
    let mut job = LayoutJob::default();
    for (text, font, color) in parts {
        let mut format = TextFormat::simple(font.clone(), *color);
        format.valign = Align::Center;
        job.append(text, 0.0, format);
    }
    job
}

/// A child that draws within `rect`, left to right and centred upright, and takes no space of its parent.
pub(crate) fn row<R>(ui: &mut Ui, rect: Rect, add: impl FnOnce(&mut Ui) -> R) -> R {
    let layout = Layout::left_to_right(Align::Center);
    add(&mut ui.new_child(UiBuilder::new().max_rect(rect).layout(layout)))
}

/// The same from the right.
pub(crate) fn row_from_right<R>(ui: &mut Ui, rect: Rect, add: impl FnOnce(&mut Ui) -> R) -> R {
    let layout = Layout::right_to_left(Align::Center);
    add(&mut ui.new_child(UiBuilder::new().max_rect(rect).layout(layout)))
}

/// The ring around what the keyboard speaks to.
pub(crate) fn focus_ring(ui: &Ui, response: &Response, rect: Rect) {
    if response.has_focus() {
        let stroke = Stroke::new(2.0, palette(ui).accent);
        ui.painter().rect_stroke(rect, CornerRadius::same(CORNER), stroke, StrokeKind::Inside);
    }
}

/// A line across the whole width that is left, taking one point of height and a grid step around it.
pub(crate) fn rule(ui: &mut Ui) {
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 1.0), Sense::hover());
    ui.painter().hline(rect.x_range(), rect.center().y, Stroke::new(1.0, palette(ui).line));
}

/// Signs, painted so that no font has to have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    Run,
    Pause,
    Step,
    Stop,
    Undo,
    Redo,
    Close,
    Theme,
    Model,
    Device,
    Down,
    Right,
    Left,
    Check,
}

impl Icon {
    /// Paints it in a square of 12 points around `center`.
    pub(crate) fn paint(self, painter: &Painter, center: Pos2, color: Color32) {
        let at = |x: f32, y: f32| pos2(center.x + x, center.y + y);
        let stroke = Stroke::new(1.5, color);
        let filled = |points: Vec<Pos2>| painter.add(Shape::convex_polygon(points, color, Stroke::NONE));
        let block = |a: Pos2, b: Pos2| painter.rect_filled(Rect::from_two_pos(a, b), 1.0, color);
        match self {
            Self::Run => drop(filled(vec![at(-3.5, -5.0), at(5.0, 0.0), at(-3.5, 5.0)])),
            Self::Pause => {
                block(at(-4.0, -5.0), at(-1.5, 5.0));
                block(at(1.5, -5.0), at(4.0, 5.0));
            }
            Self::Step => {
                filled(vec![at(-5.0, -5.0), at(2.0, 0.0), at(-5.0, 5.0)]);
                block(at(3.0, -5.0), at(5.0, 5.0));
            }
            Self::Stop => drop(block(at(-4.5, -4.5), at(4.5, 4.5))),
            Self::Undo | Self::Redo => {
                let side = if self == Self::Undo { 1.0 } else { -1.0 };
                let arc = (0..=12).map(|i| {
                    let angle = std::f32::consts::PI * (1.0 - i as f32 / 12.0) * 1.15 - 0.3;
                    at(-side * 4.5 * -angle.cos(), 2.0 - 4.5 * angle.sin())
                });
                let arc: Vec<Pos2> = arc.collect();
                let tip = at(-side * 4.5, 2.5);
                painter.line(arc, stroke);
                filled(vec![tip + vec2(-3.0, -2.0), tip + vec2(3.0, -2.0), tip + vec2(0.0, 2.5)]);
            }
            Self::Close => {
                painter.line_segment([at(-4.0, -4.0), at(4.0, 4.0)], stroke);
                painter.line_segment([at(-4.0, 4.0), at(4.0, -4.0)], stroke);
            }
            Self::Theme => {
                painter.circle_stroke(center, 6.0, stroke);
                let half = (0..=16).map(|i| {
                    let angle = std::f32::consts::PI * (i as f32 / 16.0 - 0.5);
                    at(6.0 * angle.cos(), 6.0 * angle.sin())
                });
                filled(half.collect());
            }
            Self::Model => {
                for (y, wide) in [(-4.5, 10.0), (-1.0, 10.0), (2.5, 6.0)] {
                    block(at(-5.0, y), at(-5.0 + wide, y + 2.0));
                }
            }
            Self::Device => {
                let body = Rect::from_center_size(center, vec2(8.0, 8.0));
                painter.rect_stroke(body, 1.0, stroke, StrokeKind::Middle);
                for i in [-2.5, 2.5] {
                    painter.line_segment([at(i, -4.0), at(i, -6.5)], stroke);
                    painter.line_segment([at(i, 4.0), at(i, 6.5)], stroke);
                    painter.line_segment([at(-4.0, i), at(-6.5, i)], stroke);
                    painter.line_segment([at(4.0, i), at(6.5, i)], stroke);
                }
            }
            Self::Down => drop(painter.line(vec![at(-3.5, -1.75), at(0.0, 1.75), at(3.5, -1.75)], stroke)),
            Self::Right => drop(painter.line(vec![at(-1.75, -3.5), at(1.75, 0.0), at(-1.75, 3.5)], stroke)),
            Self::Left => drop(painter.line(vec![at(1.75, -3.5), at(-1.75, 0.0), at(1.75, 3.5)], stroke)),
            Self::Check => drop(painter.line(vec![at(-4.0, 0.5), at(-1.0, 3.5), at(4.5, -3.5)], stroke)),
        }
    }
}

/// How much a button asks to be pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The one thing to do next.
    Primary,
    /// An ordinary button.
    Plain,
    /// No surface until it is pointed at.
    Quiet,
}

/// A button.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Press<'a> {
    /// Its words; none for a sign alone.
    pub text: &'a str,
    /// What a screen reader calls it where that is not its text.
    pub name: &'a str,
    /// A sign before the words.
    pub icon: Option<Icon>,
    /// A sign after them.
    pub after: Option<Icon>,
    /// How loud.
    pub weight: Weight,
    /// Pressed in, for a choice that stays.
    pub on: bool,
    /// Whether it can be pressed.
    pub enabled: bool,
    /// The width it may take at most.
    pub most: f32,
    /// What a screen reader takes it for.
    pub role: Role,
    /// Text size.
    pub size: f32,
}

impl<'a> Press<'a> {
    /// A plain button.
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            name: text,
            icon: None,
            after: None,
            weight: Weight::Plain,
            on: false,
            enabled: true,
            most: f32::INFINITY,
            role: Role::Button,
            size: BODY,
        }
    }

    /// A quiet button that is a sign alone.
    pub(crate) fn sign(icon: Icon, name: &'a str) -> Self {
        Self { text: "", name, icon: Some(icon), weight: Weight::Quiet, ..Self::new("") }
    }

    /// Draws it where the layout has it.
    pub(crate) fn show(self, ui: &mut Ui) -> Response {
        let pad = if self.text.is_empty() { GRID * 2.0 } else { GRID * 3.0 };
        let signs = [self.icon, self.after].into_iter().flatten().count() as f32;
        let gap = if self.text.is_empty() { 0.0 } else { GRID * 2.0 };
        let around = 2.0 * pad + signs * (12.0 + gap);
        let p = palette(ui);
        let galley = elided(ui.painter(), self.text, words(self.size), Color32::PLACEHOLDER, self.most - around);
        let size = vec2(around + galley.size().x, if self.size < BODY { 24.0 } else { 28.0 });
        let sense = if self.enabled { Sense::click() } else { Sense::hover() };
        let (rect, response) = ui.allocate_exact_size(size, sense);
        let (name, role) = (self.name, self.role);
        response.widget_info(|| match role {
            Role::Button => WidgetInfo::labeled(role, self.enabled, name),
            _ => WidgetInfo::selected(role, self.enabled, self.on, name),
        });
        if ui.is_rect_visible(rect) {
            let hot = self.enabled && (response.hovered() || response.is_pointer_button_down_on());
            let (fill, mut ink) = match (self.weight, self.enabled) {
                (Weight::Primary, true) => (p.accent, p.background),
                (Weight::Quiet, _) if !hot && !self.on => (Color32::TRANSPARENT, p.text),
                _ => (p.raised, p.text),
            };
            if !self.enabled {
                ink = p.weak_text.gamma_multiply(0.7);
            }
            ui.painter().rect_filled(rect, CornerRadius::same(CORNER), fill);
            if hot {
                let edge = if self.weight == Weight::Primary { p.text } else { p.weak_text };
                let stroke = Stroke::new(1.0, edge);
                ui.painter().rect_stroke(rect, CornerRadius::same(CORNER), stroke, StrokeKind::Inside);
            }
            let mut x = rect.left() + pad;
            if let Some(icon) = self.icon {
                icon.paint(ui.painter(), pos2(x + 6.0, rect.center().y), ink);
                x += 12.0 + gap;
            }
            let down = rect.center().y - galley.size().y / 2.0;
            let wide = galley.size().x;
            ui.painter().galley_with_override_text_color(pos2(x, down), galley, ink);
            if let Some(icon) = self.after {
                icon.paint(ui.painter(), pos2(x + wide + gap + 6.0, rect.center().y), ink);
            }
            focus_ring(ui, &response, rect);
        }
        if self.enabled { response.on_hover_cursor(CursorIcon::PointingHand) } else { response }
    }
}

/// A box to tick, with words after it.
pub(crate) fn tick(ui: &mut Ui, on: &mut bool, text: &str, name: &str) -> Response {
    let p = palette(ui);
    let galley = elided(ui.painter(), text, words(BODY), p.text, ui.available_width() - 24.0);
    let wide = if text.is_empty() { 16.0 } else { 24.0 + galley.size().x };
    let (rect, mut response) = ui.allocate_exact_size(vec2(wide, 28.0), Sense::click());
    if response.clicked() {
        *on = !*on;
        response.mark_changed();
    }
    response.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, *on, name));
    let square = Rect::from_center_size(pos2(rect.left() + 8.0, rect.center().y), vec2(16.0, 16.0));
    let edge = if response.hovered() { p.text } else { p.weak_text };
    if *on {
        ui.painter().rect_filled(square, 4.0, p.accent);
        Icon::Check.paint(ui.painter(), square.center(), p.background);
    } else {
        ui.painter().rect_stroke(square, 4.0, Stroke::new(1.5, edge), StrokeKind::Inside);
    }
    ui.painter().galley(pos2(rect.left() + 24.0, rect.center().y - galley.size().y / 2.0), galley, p.text);
    focus_ring(ui, &response, rect.expand2(vec2(GRID, 0.0)));
    response.on_hover_cursor(CursorIcon::PointingHand)
}

/// Words that do something when clicked, in the accent colour.
pub(crate) fn link(ui: &mut Ui, text: &str, name: &str, size: f32) -> Response {
    let p = palette(ui);
    let galley = elided(ui.painter(), text, words(size), p.accent, ui.available_width());
    let (rect, response) = ui.allocate_exact_size(vec2(galley.size().x, galley.size().y.max(20.0)), Sense::click());
    response.widget_info(|| WidgetInfo::labeled(Role::Link, true, name));
    let at = pos2(rect.left(), rect.center().y - galley.size().y / 2.0);
    let under = at.y + galley.size().y;
    ui.painter().galley(at, galley, p.accent);
    if response.hovered() {
        ui.painter().hline(rect.x_range(), under, Stroke::new(1.0, p.accent));
    }
    focus_ring(ui, &response, rect.expand(2.0));
    response.on_hover_cursor(CursorIcon::PointingHand)
}

/// A label of `text` in a colour and size, on one line that is cut where space ends.
pub(crate) fn label(ui: &mut Ui, text: &str, size: f32, color: Color32) -> Response {
    ui.add(egui::Label::new(egui::RichText::new(text).size(size).color(color)).truncate().selectable(false))
}

/// A paragraph.
pub(crate) fn paragraph(ui: &mut Ui, text: &str, size: f32, color: Color32) -> Response {
    ui.add(egui::Label::new(egui::RichText::new(text).size(size).color(color)).wrap())
}

/// With a capital first letter.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
