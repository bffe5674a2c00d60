//! Curves, drawn by `egui_plot`: axes, grid, zoom and pan are the library's; the ticks in this program's units, the points by which
//! series are told apart and the error bars are items of ours.

pub mod axis;
pub mod marks;

use std::ops::RangeInclusive;

use egui::{Align2, Color32, Rangef, Rect, Sense, Shape, Stroke, Ui, UiBuilder, vec2};
use egui_plot::{
    AxisHints, GridInput, Line, LineStyle, Plot, PlotBounds, PlotGeometry, PlotItem, PlotItemBase, PlotPoint,
    PlotPoints, PlotResponse, PlotTransform, PlotUi,
};

use axis::Axis;
use marks::Mark;

use crate::pictures::words as say;
use crate::theme::{GRID, Palette, TEXT};

/// One side of a chart.
pub struct Side<'a> {
    /// The values in sight until somebody zooms; a double-click comes back to them.
    pub range: Axis,
    /// Ticks at round binary sizes instead of round decimal ones.
    pub binary: bool,
    /// A tick's value with its unit.
    pub write: Box<dyn Fn(f64) -> String + 'a>,
    /// What the values are; empty leaves the side without words.
    pub title: &'a str,
}

/// A chart: two sides, and how far it can be moved.
pub struct Chart<'a> {
    /// Its name among those shown at once. A chart of another name, such as one with another scale, forgets how this one was zoomed.
    pub name: String,
    /// Across; without words there are no ticks either, for a chart that stands above another.
    pub x: Side<'a>,
    /// Upwards.
    pub y: Side<'a>,
    /// Charts of one group keep to the same range across.
    pub group: Option<egui::Id>,
    /// What the pointer does in it.
    pub sense: Sense,
}

/// Points of space for the values at the left: the same in every chart, so that charts above each other are in line.
const LEFT: f32 = 15.0 * GRID;

impl<'a> Chart<'a> {
    /// Draws the chart in `rect`: the title of the upward side above it, the title of the other below. `None` where there is no room.
    pub fn show(self, ui: &mut Ui, rect: Rect, items: impl FnOnce(&mut PlotUi<'a>) + 'a) -> Option<PlotResponse<()>> {
        let p = Palette::of(ui.theme());
        let place = Rect::from_min_max(rect.min + vec2(0.0, 6.0 * GRID), rect.max - vec2(3.0 * GRID, 0.0));
        if place.width() < LEFT + 6.0 * GRID || place.height() < 18.0 * GRID {
            return None;
        }
        ui.painter().text(rect.min, Align2::LEFT_TOP, self.y.title, say::captions(), p.weak_text);
        let Self { name, x, y, group, sense } = self;
        let last = !x.title.is_empty();
        let mut plot = Plot::new(name)
            .sense(sense)
            .show_background(false)
            .show_x(false)
            .show_y(false)
            .show_axes([last, true])
            .allow_boxed_zoom(false)
            .allow_axis_zoom_drag(false)
            .allow_scroll(false)
            .allow_drag(sense.senses_drag())
            .set_margin_fraction(egui::Vec2::ZERO)
            .grid_color(p.line.gamma_multiply(0.5))
            // Every line has the same weight, however far apart.
            .grid_spacing(Rangef::new(1.0, 1.5))
            .x_grid_spacer(spacer(x.range, x.binary, 80.0))
            .y_grid_spacer(spacer(y.range, y.binary, 52.0))
            .custom_x_axes(vec![hints(AxisHints::new_x(), p, x.range, x.write, 11.0 * GRID).label(caption(x.title, p))])
            .custom_y_axes(vec![hints(AxisHints::new_y(), p, y.range, y.write, LEFT)]);
        for at in x.range.ends() {
            plot = plot.include_x(at);
        }
        for at in y.range.ends() {
            plot = plot.include_y(at);
        }
        if let Some(group) = group {
            plot = plot.link_axis(group, [true, false]);
        }
        let shown = ui.scope_builder(UiBuilder::new().max_rect(place), |ui| plot.show(ui, items)).inner;
        let frame = *shown.transform.frame();
        ui.painter().hline(frame.x_range(), frame.bottom(), Stroke::new(1.0, p.line));
        Some(shown)
    }
}

fn caption(text: &str, p: &Palette) -> egui::RichText {
    egui::RichText::new(text).size(TEXT[0]).color(p.weak_text)
}

fn hints<'a>(
    hints: AxisHints<'a>,
    p: &Palette,
    range: Axis,
    write: Box<dyn Fn(f64) -> String + 'a>,
    room: f32,
) -> AxisHints<'a> {
    let written = move |mark: egui_plot::GridMark, _: &RangeInclusive<f64>| write(range.value(mark.value));
    let hints = hints.formatter(written).min_thickness(room).label_spacing(Rangef::new(1.0, 1.5));
    hints.tick_label_color(p.weak_text).tick_label_font(say::captions())
}

/// Ticks of whatever part of an axis is in sight, one in at least so many points.
fn spacer<'a>(range: Axis, binary: bool, apart: f64) -> impl Fn(GridInput) -> Vec<egui_plot::GridMark> + 'a {
    move |input| {
        let (low, high) = input.bounds;
        // The recommended step is what a point of the screen spans.
        let most = ((high - low) / input.base_step_size / apart).clamp(2.0, 64.0) as usize;
        let seen = range.between(low, high);
        let ticks = if binary { seen.byte_ticks(most) } else { seen.ticks(most) };
        let places: Vec<f64> = ticks.into_iter().map(|v| range.place(v)).collect();
        let step = places.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
        let step_size = if step.is_finite() && step > 0.0 { step } else { high - low };
        places.into_iter().map(|value| egui_plot::GridMark { value, step_size }).collect()
    }
}

/// A line through points `(across, upwards)` in places of the axes; what is no number is left out.
pub fn line<'a>(name: impl Into<String>, points: Vec<[f64; 2]>, stroke: Stroke, dash: Option<f32>) -> Line<'a> {
    let points: Vec<[f64; 2]> = points.into_iter().filter(|p| p.iter().all(|v| v.is_finite())).collect();
    let style = dash.map_or(LineStyle::Solid, |length| LineStyle::Dashed { length });
    // A band would fill the steps of a line that goes straight up.
    Line::new(name, PlotPoints::new(points)).stroke(stroke).style(style).allow_hover(false).allow_band(false)
}

/// Points of one series.
pub struct Marks {
    base: PlotItemBase,
    /// Where, in places of the axes.
    at: Vec<[f64; 2]>,
    mark: Mark,
    radius: f32,
    color: Color32,
    /// The inside of hollow ones; `None` for filled ones.
    hollow: Option<Color32>,
}

impl Marks {
    /// Filled points.
    pub fn new(name: impl Into<String>, at: Vec<[f64; 2]>, mark: Mark, radius: f32, color: Color32) -> Self {
        let base = PlotItemBase::new(name.into());
        Self { base, at, mark, radius, color, hollow: None }
    }

    /// The same with `inside` as their inside.
    pub fn hollow(self, inside: Color32) -> Self {
        Self { hollow: Some(inside), ..self }
    }
}

impl PlotItem for Marks {
    fn shapes(&self, _: &Ui, transform: &PlotTransform, shapes: &mut Vec<Shape>) {
        for [x, y] in self.at.iter().copied().filter(|p| p.iter().all(|v| v.is_finite())) {
            let at = transform.position_from_point(&PlotPoint::new(x, y));
            shapes.push(self.mark.shape(at, self.radius, self.hollow.unwrap_or(self.color), self.color));
        }
    }

    fn initialize(&mut self, _: RangeInclusive<f64>) {}

    fn color(&self) -> Color32 {
        self.color
    }

    fn geometry(&self) -> PlotGeometry<'_> {
        PlotGeometry::None
    }

    fn bounds(&self) -> PlotBounds {
        PlotBounds::NOTHING
    }

    fn base(&self) -> &PlotItemBase {
        &self.base
    }

    fn base_mut(&mut self) -> &mut PlotItemBase {
        &mut self.base
    }
}

/// Error bars: from a low to a high value each, with caps as wide as on any chart.
pub struct Errors {
    base: PlotItemBase,
    /// Across, low, high; in places of the axes.
    bars: Vec<[f64; 3]>,
    stroke: Stroke,
}

impl Errors {
    /// Bars at `(across, low, high)`.
    pub fn new(name: impl Into<String>, bars: Vec<[f64; 3]>, stroke: Stroke) -> Self {
        Self { base: PlotItemBase::new(name.into()), bars, stroke }
    }
}

impl PlotItem for Errors {
    fn shapes(&self, _: &Ui, transform: &PlotTransform, shapes: &mut Vec<Shape>) {
        for [x, low, high] in self.bars.iter().copied().filter(|b| b.iter().all(|v| v.is_finite())) {
            let ends = [low, high].map(|y| transform.position_from_point(&PlotPoint::new(x, y)));
            shapes.push(Shape::line_segment(ends, self.stroke));
            for end in ends {
                shapes.push(Shape::line_segment([end - vec2(3.0, 0.0), end + vec2(3.0, 0.0)], self.stroke));
            }
        }
    }

    fn initialize(&mut self, _: RangeInclusive<f64>) {}

    fn color(&self) -> Color32 {
        self.stroke.color
    }

    fn geometry(&self) -> PlotGeometry<'_> {
        PlotGeometry::None
    }

    fn bounds(&self) -> PlotBounds {
        PlotBounds::NOTHING
    }

    fn base(&self) -> &PlotItemBase {
        &self.base
    }

    fn base_mut(&mut self) -> &mut PlotItemBase {
        &mut self.base
    }
}
