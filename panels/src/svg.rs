//! A picture as SVG: the shapes it was painted with, written down.
//!
//! Every shape of egui has its element: rectangles, circles, ellipses, lines, paths, curves, bands, text with its font, size and
//! colour, meshes as paths of one colour each, textures as embedded PNG. Clip rectangles are kept. A viewer has other fonts than the
//! window, so each run of text is given the length it had. Not written: what another part of the program paints by itself (a paint
//! callback), and the blur of shadows.

mod image;
mod mesh;
mod text;

use std::fmt::Write as _;
use std::ops::Range;

use egui::epaint::{ClippedShape, ColorMode, CornerRadius, PathShape, PathStroke, RectShape};
use egui::{Color32, Context, LayerId, Pos2, Rect, Shape, Stroke, StrokeKind};

pub(crate) use image::want;
pub use image::{Pixels, remember, wanted};

/// The shapes `range` of a layer that lie in `rect` (points), as an SVG document on `background`, called `title` for whoever cannot
/// see it.
pub fn write(
    context: &Context,
    layer: LayerId,
    range: Range<usize>,
    rect: Rect,
    background: Color32,
    title: &str,
) -> String {
    let shapes: Vec<ClippedShape> = context.graphics(|graphics| {
        let list = graphics.get(layer);
        list.map_or_else(Vec::new, |list| list.all_entries().skip(range.start).take(range.len()).cloned().collect())
    });
    document(&shapes, rect, background, title, &image::all(context))
}

/// An SVG document of shapes as they were painted; see [`write`].
pub fn document(shapes: &[ClippedShape], rect: Rect, background: Color32, title: &str, pixels: &Pixels) -> String {
    let mut out = Writer { out: String::new(), origin: rect.min, pixels };
    let mut clips: Vec<Rect> = Vec::new();
    let mut open: Option<usize> = None;
    for clipped in shapes {
        let clip = clipped.clip_rect.intersect(rect);
        if !clip.is_positive() || !clipped.shape.visual_bounding_rect().intersects(clip) {
            continue;
        }
        let at = clips.iter().rposition(|c| *c == clip).unwrap_or_else(|| {
            clips.push(clip);
            clips.len() - 1
        });
        if open != Some(at) {
            out.out.push_str(if open.is_some() { "</g>\n" } else { "" });
            let _ = writeln!(out.out, "<g clip-path=\"url(#c{at})\">");
            open = Some(at);
        }
        out.shape(&clipped.shape);
    }
    if open.is_some() {
        out.out.push_str("</g>\n");
    }
    let (w, h) = (num(rect.width()), num(rect.height()));
    let mut head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">\n<title>{}</title>\n<defs>\n",
        escape(title)
    );
    for (i, clip) in clips.iter().enumerate() {
        let _ = writeln!(head, "<clipPath id=\"c{i}\"><rect {}/></clipPath>", out.area(*clip));
    }
    let _ = writeln!(head, "</defs>\n<rect width=\"{w}\" height=\"{h}\"{}/>", fill(background));
    head + &out.out + "</svg>\n"
}

/// Text for an element or an attribute. Characters that XML does not allow become the replacement character.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate: two decimals are a hundredth of a point.
fn num(v: f32) -> String {
    if !v.is_finite() {
        return "0".into();
    }
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" || text.is_empty() { "0".into() } else { text.to_owned() }
}

fn hex(color: Color32) -> (String, f32) {
    let [r, g, b, a] = color.to_srgba_unmultiplied();
    // An additive colour has no alpha of its own; shown at full weight it keeps its hue.
    if a == 0 && (color.r(), color.g(), color.b()) != (0, 0, 0) {
        return (format!("#{:02x}{:02x}{:02x}", color.r(), color.g(), color.b()), 1.0);
    }
    (format!("#{r:02x}{g:02x}{b:02x}"), f32::from(a) / 255.0)
}

fn paint(what: &str, color: Color32) -> String {
    let (hex, alpha) = hex(color);
    match alpha {
        0.0 => format!(" {what}=\"none\""),
        1.0 => format!(" {what}=\"{hex}\""),
        alpha => format!(" {what}=\"{hex}\" {what}-opacity=\"{}\"", format!("{alpha:.3}").trim_end_matches('0')),
    }
}

fn fill(color: Color32) -> String {
    paint("fill", color)
}

fn stroke(stroke: Stroke) -> String {
    if stroke.is_empty() {
        return String::new();
    }
    format!("{} stroke-width=\"{}\"", paint("stroke", stroke.color), num(stroke.width))
}

/// The colour of a path: a colour that varies along it is taken at its middle.
fn solid(path: &PathStroke, bounds: Rect) -> Stroke {
    let color = match &path.color {
        ColorMode::Solid(color) => *color,
        ColorMode::UV(of) => of(bounds, bounds.center()),
    };
    Stroke { width: path.width, color }
}

struct Writer<'a> {
    out: String,
    origin: Pos2,
    pixels: &'a Pixels,
}

impl Writer<'_> {
    fn at(&self, p: Pos2) -> (String, String) {
        (num(p.x - self.origin.x), num(p.y - self.origin.y))
    }

    fn pair(&self, p: Pos2) -> String {
        let (x, y) = self.at(p);
        format!("{x} {y}")
    }

    fn area(&self, rect: Rect) -> String {
        let (x, y) = self.at(rect.min);
        format!("x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"", num(rect.width()), num(rect.height()))
    }

    fn turn(&self, radians: f32, about: Pos2) -> String {
        if radians == 0.0 {
            return String::new();
        }
        let (x, y) = self.at(about);
        format!(" transform=\"rotate({} {x} {y})\"", num(radians.to_degrees()))
    }

    fn path(&mut self, d: &str, fill_color: Color32, line: Stroke) {
        let _ = writeln!(self.out, "<path d=\"{d}\"{}{}/>", fill(fill_color), stroke(line));
    }

    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Noop => {}
            Shape::Vec(shapes) => shapes.iter().for_each(|shape| self.shape(shape)),
            Shape::Rect(rect) => self.rect(rect),
            Shape::Circle(c) => {
                let (x, y) = self.at(c.center);
                let _ = writeln!(
                    self.out,
                    "<circle cx=\"{x}\" cy=\"{y}\" r=\"{}\"{}{}/>",
                    num(c.radius.max(0.0)),
                    fill(c.fill),
                    stroke(c.stroke)
                );
            }
            Shape::Ellipse(e) => {
                let (x, y) = self.at(e.center);
                let _ = writeln!(
                    self.out,
                    "<ellipse cx=\"{x}\" cy=\"{y}\" rx=\"{}\" ry=\"{}\"{}{}{}/>",
                    num(e.radius.x.max(0.0)),
                    num(e.radius.y.max(0.0)),
                    fill(e.fill),
                    stroke(e.stroke),
                    self.turn(e.angle, e.center)
                );
            }
            Shape::LineSegment { points: [a, b], stroke: line } => {
                let ((x1, y1), (x2, y2)) = (self.at(*a), self.at(*b));
                let _ = writeln!(self.out, "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"{}/>", stroke(*line));
            }
            Shape::Path(path) => self.polyline(path),
            Shape::Band(band) => {
                let (over, under) = (band.points.iter(), band.points.iter().rev());
                let turn = egui::emath::Rot2::from_angle(band.angle);
                let points = over.map(|p| (p.x, p.y.min)).chain(under.map(|p| (p.x, p.y.max)));
                let points = points.map(|(x, y)| (turn * egui::vec2(x, y)).to_pos2()).collect();
                self.polyline(&PathShape { points, closed: true, fill: band.fill, stroke: band.stroke.into() });
            }
            Shape::Text(text) => self.text(text),
            Shape::Mesh(mesh) => self.mesh(mesh),
            Shape::QuadraticBezier(curve) => {
                let [a, b, c] = curve.points.map(|p| self.pair(p));
                let end = if curve.closed { " Z" } else { "" };
                let line = solid(&curve.stroke, curve.visual_bounding_rect());
                self.path(&format!("M{a} Q{b} {c}{end}"), curve.fill, line);
            }
            Shape::CubicBezier(curve) => {
                let [a, b, c, d] = curve.points.map(|p| self.pair(p));
                let end = if curve.closed { " Z" } else { "" };
                let line = solid(&curve.stroke, curve.visual_bounding_rect());
                self.path(&format!("M{a} C{b} {c} {d}{end}"), curve.fill, line);
            }
            Shape::Callback(_) => self.out.push_str("<!-- painted by the graphics card -->\n"),
        }
    }

    fn polyline(&mut self, path: &PathShape) {
        let mut d = String::new();
        for (i, p) in path.points.iter().enumerate() {
            let _ = write!(d, "{}{}", if i == 0 { "M" } else { " L" }, self.pair(*p));
        }
        d.push_str(if path.closed { " Z" } else { "" });
        let line = solid(&path.stroke, path.visual_bounding_rect());
        if !path.points.is_empty() {
            self.path(&d, path.fill, line);
        }
    }

    fn rect(&mut self, shape: &RectShape) {
        if let Some(brush) = &shape.brush
            && brush.fill_texture_id != egui::TextureId::default()
        {
            return self.picture(brush.fill_texture_id, shape.rect, brush.uv, shape.fill);
        }
        // SVG strokes lie on the edge; the others are the edge of a rectangle half a stroke away.
        let by = match (shape.stroke.is_empty(), shape.stroke_kind) {
            (true, _) | (_, StrokeKind::Middle) => 0.0,
            (_, StrokeKind::Inside) => -0.5 * shape.stroke.width,
            (_, StrokeKind::Outside) => 0.5 * shape.stroke.width,
        };
        let rect = shape.rect.expand(by);
        let (fill, line, turn) = (fill(shape.fill), stroke(shape.stroke), self.turn(shape.angle, shape.rect.center()));
        let CornerRadius { nw, ne, sw, se } = shape.corner_radius;
        let most = 0.5 * rect.width().min(rect.height()).max(0.0);
        let radius = |r: u8| if r == 0 { 0.0 } else { (f32::from(r) + by).clamp(0.0, most) };
        if nw == ne && ne == sw && sw == se {
            let round = if radius(nw) > 0.0 { format!(" rx=\"{}\"", num(radius(nw))) } else { String::new() };
            let _ = writeln!(self.out, "<rect {}{round}{fill}{line}{turn}/>", self.area(rect));
            return;
        }
        let [nw, ne, se, sw] = [nw, ne, se, sw].map(radius);
        let (l, t) = (rect.left() - self.origin.x, rect.top() - self.origin.y);
        let (r, b) = (l + rect.width(), t + rect.height());
        let arc = |r: f32, x: f32, y: f32| {
            if r > 0.0 { format!("A{0} {0} 0 0 1 {1} {2}", num(r), num(x), num(y)) } else { String::new() }
        };
        let _ = writeln!(
            self.out,
            "<path d=\"M{} {}H{}{}V{}{}H{}{}V{}{}Z\"{fill}{line}{turn}/>",
            num(l + nw),
            num(t),
            num(r - ne),
            arc(ne, r, t + ne),
            num(b - se),
            arc(se, r - se, b),
            num(l + sw),
            arc(sw, l, b - sw),
            num(t + nw),
            arc(nw, l + nw, t),
        );
    }
}

#[cfg(test)]
mod tests;
