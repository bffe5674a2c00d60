//! Meshes: triangles of one colour as one path, rectangles among them as rectangles; a textured rectangle as a picture.

use std::fmt::Write as _;

use egui::epaint::{Mesh, Vertex};
use egui::{Color32, Rect, Stroke, TextureId};

use super::{Writer, num};

impl Writer<'_> {
    pub(super) fn mesh(&mut self, mesh: &Mesh) {
        if !mesh.is_valid() {
            return;
        }
        if mesh.texture_id != TextureId::default() {
            for quad in mesh.vertices.chunks_exact(4) {
                let rect = Rect::from_points(&[quad[0].pos, quad[1].pos, quad[2].pos, quad[3].pos]);
                let uv = Rect::from_points(&[quad[0].uv, quad[1].uv, quad[2].uv, quad[3].uv]);
                self.picture(mesh.texture_id, rect, uv, quad[0].color);
            }
            return;
        }
        let corner = |i: u32| mesh.vertices[i as usize];
        let mut triangles = mesh.indices.chunks_exact(3).map(|t| [corner(t[0]), corner(t[1]), corner(t[2])]).peekable();
        let (mut path, mut color) = (String::new(), None);
        while let Some(triangle) = triangles.next() {
            let own = middle(&triangle);
            if color.is_some_and(|color| color != own) {
                self.path(&path, color.unwrap_or_default(), Stroke::NONE);
                path.clear();
            }
            color = Some(own);
            // Two triangles that make an upright rectangle of one colour are one.
            if let Some(next) = triangles.peek()
                && let Some(rect) = upright(&triangle, next)
                && middle(next) == own
            {
                triangles.next();
                let (x, y) = self.at(rect.min);
                let _ = write!(path, "M{x} {y}h{0}v{1}h-{0}Z", num(rect.width()), num(rect.height()));
            } else {
                let [a, b, c] = triangle.map(|v| self.pair(v.pos));
                let _ = write!(path, "M{a}L{b} {c}Z");
            }
        }
        if let Some(color) = color {
            self.path(&path, color, Stroke::NONE);
        }
    }
}

/// The colour of a triangle: the mean of its corners (SVG has no colour that varies over a triangle).
fn middle(triangle: &[Vertex; 3]) -> Color32 {
    if triangle[0].color == triangle[1].color && triangle[1].color == triangle[2].color {
        return triangle[0].color;
    }
    let mean = |of: fn(Color32) -> u8| (triangle.iter().map(|v| u32::from(of(v.color))).sum::<u32>() / 3) as u8;
    Color32::from_rgba_premultiplied(mean(|c| c.r()), mean(|c| c.g()), mean(|c| c.b()), mean(|c| c.a()))
}

/// The rectangle that two triangles make, when every corner of both is one of its corners and all four are used.
fn upright(a: &[Vertex; 3], b: &[Vertex; 3]) -> Option<Rect> {
    let corners = || a.iter().chain(b).map(|v| v.pos);
    let rect = corners().fold(Rect::NOTHING, |rect, p| rect.union(Rect::from_min_max(p, p)));
    let at = |p: egui::Pos2| {
        let (left, right) = (p.x == rect.left(), p.x == rect.right());
        let (top, bottom) = (p.y == rect.top(), p.y == rect.bottom());
        ((left || right) && (top || bottom)).then(|| 1u8 << (2 * u8::from(bottom) + u8::from(right)))
    };
    let half = |t: &[Vertex; 3]| t.iter().try_fold(0u8, |seen, v| at(v.pos).map(|bit| seen | bit));
    let (first, second) = (half(a)?, half(b)?);
    // Three corners each; the two they share are opposite ones.
    let shared = first & second;
    let opposite = shared == 0b1001 || shared == 0b0110;
    (first.count_ones() == 3 && second.count_ones() == 3 && first | second == 0b1111 && opposite).then_some(rect)
}
