//! A map on screen: square textures of the size that the zoom asks for, made when they come into sight and uploaded once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use egui::{Color32, ColorImage, Painter, Rect, TextureHandle, TextureOptions, pos2};

use super::pyramid::{Cells, Pyramid};

/// Texels of a tile's side; smaller where the device cannot.
const SIDE: usize = 256;
/// Cells taken in, and cells read for tiles, in one frame: what keeps a frame short while a large map arrives.
const CELLS_A_FRAME: usize = 3 << 17;
/// Tiles kept; beyond it, those not in sight go.
const KEPT: usize = 256;

struct Tile {
    texture: TextureHandle,
    /// The bytes whose colours it has, row by row: what is on the graphics card cannot be saved with the picture.
    values: Vec<u8>,
    /// Rows of texels in it, and rows of the source they came from.
    rows: usize,
    source_rows: usize,
    used: u64,
}

/// What part of a map is in sight, in cells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// First column and row.
    pub from: [f64; 2],
    /// Columns and rows.
    pub size: [f64; 2],
}

impl Sight {
    /// Where in `rect` a place of the map lies, in points.
    pub fn to_screen(self, rect: Rect, column: f64, row: f64) -> egui::Pos2 {
        pos2(
            rect.left() + ((column - self.from[0]) / self.size[0] * f64::from(rect.width())) as f32,
            rect.top() + ((row - self.from[1]) / self.size[1] * f64::from(rect.height())) as f32,
        )
    }

    /// Column and row of a point in `rect`.
    pub fn to_cell(self, rect: Rect, at: egui::Pos2) -> [f64; 2] {
        [
            self.from[0] + f64::from((at.x - rect.left()) / rect.width()) * self.size[0],
            self.from[1] + f64::from((at.y - rect.top()) / rect.height()) * self.size[1],
        ]
    }

    /// Points of a cell's sides.
    pub fn cell(self, rect: Rect) -> [f32; 2] {
        [(f64::from(rect.width()) / self.size[0]) as f32, (f64::from(rect.height()) / self.size[1]) as f32]
    }
}

/// How often sides are halved so that `cells` need no more than `pixels`.
fn halvings(cells: f64, pixels: f64) -> u32 {
    (cells / pixels.max(1.0)).log2().ceil().clamp(0.0, 31.0) as u32
}

/// The textures of one map.
#[derive(Default)]
pub struct Tiles {
    pyramid: Pyramid,
    whose: u64,
    seal: u64,
    colors: Vec<Color32>,
    tiles: HashMap<([u32; 2], [usize; 2]), Tile>,
    frame: u64,
}

impl Tiles {
    /// The largest byte of the map so far.
    pub fn largest(&self) -> u8 {
        self.pyramid.largest()
    }

    /// Takes in what is new of a map, `whose` telling maps apart; true when all of it is in.
    pub fn follow(&mut self, source: &impl Cells, whose: u64) -> bool {
        let seal = seal(source, self.pyramid.rows());
        let same = self.whose == whose
            && self.pyramid.columns() == source.columns()
            && self.pyramid.rows() <= source.rows()
            && self.seal == seal;
        if !same {
            (self.pyramid, self.whose) = (Pyramid::default(), whose);
            self.tiles.clear();
        }
        let before = self.pyramid.rows();
        let all = self.pyramid.advance(source, CELLS_A_FRAME);
        if !same || before != self.pyramid.rows() {
            self.seal = self::seal(source, self.pyramid.rows());
        }
        all
    }

    /// Paints what is in sight; true when nothing is left to be made.
    pub fn paint(
        &mut self,
        painter: &Painter,
        rect: Rect,
        source: &impl Cells,
        sight: Sight,
        colors: &[Color32; 256],
    ) -> bool {
        if self.colors != colors {
            self.colors = colors.to_vec();
            self.tiles.clear();
        }
        self.frame += 1;
        let context = painter.ctx();
        let side = SIDE.min(context.input(|i| i.max_texture_side));
        let per_point = f64::from(context.pixels_per_point());
        let fold = [
            halvings(sight.size[0], f64::from(rect.width()) * per_point),
            halvings(sight.size[1], f64::from(rect.height()) * per_point),
        ];
        let whole =
            [halvings(self.pyramid.columns() as f64, side as f64), halvings(self.pyramid.rows() as f64, side as f64)];
        let painter = painter.with_clip_rect(rect.intersect(painter.clip_rect()));
        let (mut left, mut done) = (CELLS_A_FRAME, true);
        // The whole map in one tile, always there: what shows until the tile of the right size is made.
        done &= self.make(context, source, whole, [0, 0], side, &mut left);
        let [columns, rows] = self.pyramid.size(fold);
        let tiles_along = |axis: usize, count: usize| {
            let texel = f64::from(1u32 << fold[axis]);
            let first = (sight.from[axis] / texel).floor().max(0.0) as usize / side;
            let end = (((sight.from[axis] + sight.size[axis]) / texel).ceil().max(0.0) as usize).min(count);
            first..end.div_ceil(side)
        };
        for down in tiles_along(1, rows) {
            for across in tiles_along(0, columns) {
                let mut texels = Rect::from_min_size(
                    pos2((across * side) as f32, (down * side) as f32),
                    egui::vec2(side.min(columns - across * side) as f32, side.min(rows - down * side) as f32),
                );
                done &= self.make(context, source, fold, [across, down], side, &mut left);
                let made = self.tiles.get(&(fold, [across, down])).map_or(0, |t| t.rows);
                self.draw(&painter, rect, sight, fold, [across, down], side, texels);
                texels.min.y += made as f32;
                if texels.is_positive() {
                    let factor = [0, 1].map(|a| 2f32.powi(fold[a] as i32 - whole[a] as i32));
                    let coarse = Rect::from_min_max(
                        pos2(texels.left() * factor[0], texels.top() * factor[1]),
                        pos2(texels.right() * factor[0], texels.bottom() * factor[1]),
                    );
                    self.draw(&painter, rect, sight, whole, [0, 0], side, coarse);
                }
            }
        }
        if self.tiles.len() > KEPT {
            let frame = self.frame;
            self.tiles.retain(|_, tile| tile.used == frame);
        }
        if crate::svg::wanted(context) {
            for tile in self.tiles.values().filter(|tile| tile.used == self.frame) {
                let [width, height] = tile.texture.size();
                let mut pixels: Vec<Color32> = tile.values.iter().map(|&v| self.colors[v as usize]).collect();
                pixels.resize(width * height, Color32::TRANSPARENT);
                let image = ColorImage::new([width, height], pixels);
                crate::svg::remember(context, tile.texture.id(), Some(Arc::new(image)));
            }
        }
        done
    }

    /// Makes as many rows of a tile, or of what is new in it, as there are cells left to read in this frame; true when it is
    /// whole and up to date.
    fn make(
        &mut self,
        context: &egui::Context,
        source: &impl Cells,
        fold: [u32; 2],
        at: [usize; 2],
        side: usize,
        left: &mut usize,
    ) -> bool {
        let [columns, rows] = self.pyramid.size(fold);
        let (from, first) = (at[0] * side, at[1] * side);
        let (width, height) = (side.min(columns.saturating_sub(from)), side.min(rows.saturating_sub(first)));
        if width == 0 || height == 0 {
            return true;
        }
        let source_rows = self.pyramid.rows().min((first + side) << fold[1]);
        let known = self.tiles.get_mut(&(fold, at)).map(|tile| {
            tile.used = self.frame;
            (tile.rows, tile.source_rows)
        });
        if known.is_some_and(|(_, known)| known == source_rows) {
            return true;
        }
        // Rows whose cells were all known stay as they are.
        let start = known.map_or(0, |(_, known)| (known >> fold[1]).saturating_sub(first).min(height - 1));
        let row_cells = width << fold[0].abs_diff(fold[1]).min(20);
        // A row at least is made by a frame that has made nothing yet, however much is under it.
        let fresh = usize::from(*left == CELLS_A_FRAME);
        let end = height.min(start + (*left / row_cells).max(fresh));
        if end == start {
            return false;
        }
        *left = left.saturating_sub((end - start) * row_cells);
        let mut values = vec![0; width * (end - start)];
        for (row, line) in (start..end).zip(values.chunks_exact_mut(width)) {
            self.pyramid.read(source, fold, first + row, from, line);
        }
        let mut pixels = Vec::with_capacity(width * side);
        pixels.extend(values.iter().map(|&v| self.colors[v as usize]));
        let source_rows = if end == height { source_rows } else { (first + end) << fold[1] };
        match self.tiles.get_mut(&(fold, at)) {
            Some(tile) => {
                let image = ColorImage::new([width, end - start], pixels);
                tile.texture.set_partial([0, start], image, TextureOptions::NEAREST);
                tile.values.truncate(width * start);
                tile.values.append(&mut values);
                (tile.rows, tile.source_rows) = (end, source_rows);
            }
            None => {
                // Room for rows to come, so that they are parts of this texture.
                pixels.resize(width * side, Color32::TRANSPARENT);
                let image = ColorImage::new([width, side], pixels);
                let name = format!("attention map {fold:?} {at:?}");
                let texture = context.load_texture(name, image, TextureOptions::NEAREST);
                self.tiles.insert((fold, at), Tile { texture, values, rows: end, source_rows, used: self.frame });
            }
        }
        end == height
    }

    /// Draws part of a tile, `texels` of all at that size.
    fn draw(
        &self,
        painter: &Painter,
        rect: Rect,
        sight: Sight,
        fold: [u32; 2],
        at: [usize; 2],
        side: usize,
        texels: Rect,
    ) {
        let Some(tile) = self.tiles.get(&(fold, at)) else { return };
        let [width, height] = tile.texture.size().map(|s| s as f32);
        let texels = texels.intersect(Rect::from_min_max(
            pos2((at[0] * side) as f32, (at[1] * side) as f32),
            pos2((at[0] * side) as f32 + width, (at[1] * side + tile.rows) as f32),
        ));
        let [x, y] = fold.map(|f| f64::from(1u32 << f));
        let screen = Rect::from_min_max(
            sight.to_screen(rect, f64::from(texels.left()) * x, f64::from(texels.top()) * y),
            sight.to_screen(rect, f64::from(texels.right()) * x, f64::from(texels.bottom()) * y),
        );
        let uv = Rect::from_min_max(
            pos2((texels.left() - (at[0] * side) as f32) / width, (texels.top() - (at[1] * side) as f32) / height),
            pos2((texels.right() - (at[0] * side) as f32) / width, (texels.bottom() - (at[1] * side) as f32) / height),
        );
        painter.image(tile.texture.id(), screen, uv, Color32::WHITE);
    }
}

/// A fingerprint of the first and the last of `rows` rows: another map, or the same one replayed, has another.
fn seal(source: &impl Cells, rows: usize) -> u64 {
    let rows = rows.min(source.rows());
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    let mut line = vec![0; source.columns()];
    for row in [0, rows.saturating_sub(1)] {
        if row < rows {
            source.read(row, 0, &mut line);
            line.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_texel_is_never_smaller_than_a_pixel_and_less_than_two() {
        for cells in [1.0, 3.0, 100.0, 4096.0, 1e6] {
            for pixels in [1.0, 64.0, 450.0, 1280.0] {
                let texels = cells / f64::from(1u32 << halvings(cells, pixels));
                assert!(texels <= pixels, "{cells} in {pixels}");
                assert!(halvings(cells, pixels) == 0 || 2.0 * texels > pixels);
            }
        }
    }

    #[test]
    fn places_on_screen_and_in_the_map_are_each_others_inverse() {
        let rect = Rect::from_min_size(pos2(30.0, 50.0), egui::vec2(400.0, 200.0));
        let sight = Sight { from: [1000.5, 7.0], size: [80.0, 16.0] };
        let cell = sight.to_cell(rect, sight.to_screen(rect, 1033.25, 19.5));
        assert!((cell[0] - 1033.25).abs() < 1e-3 && (cell[1] - 19.5).abs() < 1e-3);
        assert_eq!(sight.cell(rect), [5.0, 12.5]);
    }
}
