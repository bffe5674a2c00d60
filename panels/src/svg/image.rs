//! Textures: their pixels are with the graphics card, so whoever uploads one that should be saved with its picture says so here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use egui::{Color32, ColorImage, Context, Id, Rect, TextureId};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

use super::{Writer, num};

/// Pixels of the textures that are remembered.
pub type Pixels = Arc<BTreeMap<u64, Arc<ColorImage>>>;

fn key(texture: TextureId) -> u64 {
    match texture {
        TextureId::Managed(id) => 2 * id,
        TextureId::User(id) => 2 * id + 1,
    }
}

fn home() -> Id {
    Id::unique("pixels of textures")
}

/// Keeps the pixels of a texture, so that a saved picture has them; `None` forgets them.
pub fn remember(context: &Context, texture: TextureId, pixels: Option<Arc<ColorImage>>) {
    context.data_mut(|data| {
        let all = data.get_temp_mut_or_default::<Pixels>(home());
        let all = Arc::make_mut(all);
        match pixels {
            Some(pixels) => all.insert(key(texture), pixels),
            None => all.remove(&key(texture)),
        };
    });
}

fn asked() -> Id {
    Id::unique("pixels of textures are wanted")
}

/// True while a picture may be about to be saved: whoever draws textures then says what is in them with [`remember`]. At any other
/// time nothing need be kept of them.
pub fn wanted(context: &Context) -> bool {
    context.data(|data| data.get_temp(asked())).unwrap_or(false)
}

/// Says whether a picture may be about to be saved; when it no longer may, what was remembered is forgotten.
pub(crate) fn want(context: &Context, whether: bool) {
    if wanted(context) != whether {
        context.data_mut(|data| {
            data.insert_temp(asked(), whether);
            data.insert_temp(home(), Pixels::default());
        });
    }
}

pub(super) fn all(context: &Context) -> Pixels {
    context.data(|data| data.get_temp::<Pixels>(home())).unwrap_or_default()
}

impl Writer<'_> {
    /// The part `uv` of a texture over `rect`; its outline when its pixels are not known.
    pub(super) fn picture(&mut self, texture: TextureId, rect: Rect, uv: Rect, tint: Color32) {
        let pixels = self.pixels.get(&key(texture));
        // More than rounding beyond the texture's edge.
        let once = Rect::from_min_max(egui::Pos2::ZERO, egui::pos2(1.0, 1.0)).expand(0.01);
        if let Some(pixels) = pixels
            && !once.contains_rect(uv)
        {
            return self.repeated(pixels, rect, uv);
        }
        let png = pixels.and_then(|pixels| png(pixels, uv));
        let Some(png) = png else {
            let area = self.area(rect);
            let _ = writeln!(self.out, "<rect {area} fill=\"none\" stroke=\"#808080\" stroke-dasharray=\"4 4\"/>");
            return;
        };
        let opacity = f32::from(tint.a()) / 255.0;
        let opacity = if opacity < 1.0 { format!(" opacity=\"{}\"", num(opacity)) } else { String::new() };
        let _ = writeln!(
            self.out,
            "<image {} preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\"{opacity} href=\"data:image/png;base64,{}\"/>",
            self.area(rect),
            STANDARD.encode(&png)
        );
    }
}

impl Writer<'_> {
    /// A texture that repeats over `rect`, the corner of which is at `uv.min`.
    fn repeated(&mut self, pixels: &ColorImage, rect: Rect, uv: Rect) {
        let whole = Rect::from_min_max(egui::Pos2::ZERO, egui::pos2(1.0, 1.0));
        let Some(png) = png(pixels, whole).filter(|_| uv.is_positive()) else { return };
        let tile = rect.size() / uv.size();
        let (x, y) = self.at(rect.min - uv.min.to_vec2() * tile);
        let (w, h) = (num(tile.x), num(tile.y));
        // Where it stands in the file is a name that nothing else has.
        let name = format!("p{}", self.out.len());
        let _ = writeln!(
            self.out,
            "<pattern id=\"{name}\" patternUnits=\"userSpaceOnUse\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"><image width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/></pattern>\n<rect {} fill=\"url(#{name})\"/>",
            STANDARD.encode(&png),
            self.area(rect)
        );
    }
}

/// The part `uv` of an image as PNG; `None` when there is nothing in it.
fn png(image: &ColorImage, uv: Rect) -> Option<Vec<u8>> {
    let [w, h] = image.size;
    let cut = |low: f32, high: f32, n: usize| {
        let low = ((low * n as f32).round().max(0.0) as usize).min(n);
        let high = ((high * n as f32).round().max(0.0) as usize).min(n);
        low..high.max(low)
    };
    let (columns, rows) = (cut(uv.left(), uv.right(), w), cut(uv.top(), uv.bottom(), h));
    if columns.is_empty() || rows.is_empty() || image.pixels.len() < w * h {
        return None;
    }
    let mut bytes = Vec::with_capacity(columns.len() * rows.len() * 4);
    for row in rows.clone() {
        for pixel in &image.pixels[row * w + columns.start..row * w + columns.end] {
            bytes.extend_from_slice(&pixel.to_srgba_unmultiplied());
        }
    }
    let mut out = Cursor::new(Vec::new());
    let (width, height) = (u32::try_from(columns.len()).ok()?, u32::try_from(rows.len()).ok()?);
    PngEncoder::new(&mut out).write_image(&bytes, width, height, ExtendedColorType::Rgba8).ok()?;
    Some(out.into_inner())
}
