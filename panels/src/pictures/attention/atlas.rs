//! Small maps of all heads in one texture: a strip a layer, the heads side by side in it; new steps are added at the bottom of
//! every strip.

use egui::{Color32, ColorImage, Context, Rect, TextureHandle, TextureOptions, pos2};

use crate::view::Grid;

/// The texture, and what it was made from.
#[derive(Default)]
pub struct Atlas {
    run: String,
    /// Layers, heads, columns of a head.
    shape: [usize; 3],
    /// Steps that are one row, bins that are one column.
    fold: [usize; 2],
    /// Rows that a strip has room for.
    room: usize,
    /// Steps taken in, and the newest of them.
    steps: usize,
    newest: Option<usize>,
    /// The largest of each, `(rows, layers, heads · columns)`.
    pooled: Vec<u8>,
    colors: Vec<Color32>,
    texture: Option<TextureHandle>,
}

impl Atlas {
    /// Brings the texture up to date for maps shown in `pixels` (width, height) each.
    pub fn follow(
        &mut self,
        context: &Context,
        run: &str,
        grid: &Grid,
        [layers, heads]: [usize; 2],
        pixels: [usize; 2],
        colors: &[Color32; 256],
    ) {
        let side = context.input(|i| i.max_texture_side);
        let steps = grid.steps.len().min(grid.values.len() / (layers * heads * grid.bins).max(1));
        if steps == 0 || layers == 0 || heads == 0 || grid.bins == 0 {
            *self = Self::default();
            return;
        }
        // No more columns and rows than pixels, so that none is passed over; powers of two, so that they seldom change.
        let power = |n: usize| 1usize << n.max(1).ilog2();
        let bins_a_column = grid.bins.div_ceil(pixels[0].min(side / heads).max(1)).next_power_of_two();
        let room = power(pixels[1].min(side / layers).max(1));
        let steps_a_row = steps.div_ceil(room).next_power_of_two();
        let fold = [steps_a_row, bins_a_column];
        let shape = [layers, heads, grid.bins.div_ceil(bins_a_column)];
        let grown = self.run == run
            && self.shape == shape
            && self.fold == fold
            && self.room == room
            && self.colors == colors
            && self.steps <= steps
            && self.steps.checked_sub(1).is_none_or(|last| grid.steps.get(last).copied() == self.newest);
        if grown && self.steps == steps {
            return;
        }
        if !grown {
            *self = Self { run: run.to_owned(), shape, fold, room, colors: colors.to_vec(), ..Self::default() };
        }
        let first = self.steps / steps_a_row;
        self.pool(grid, steps);
        self.newest = grid.steps.get(steps - 1).copied();
        let rows = steps.div_ceil(steps_a_row);
        if grown && self.texture.is_some() {
            let width = heads * shape[2];
            for layer in 0..layers {
                let pixels = self.pixels(layer, first..rows);
                if let Some(texture) = &mut self.texture {
                    let image = ColorImage::new([width, rows - first], pixels);
                    texture.set_partial([0, layer * room + first], image, TextureOptions::NEAREST);
                }
            }
            return;
        }
        let mut pixels = Vec::with_capacity(heads * shape[2] * layers * room);
        for layer in 0..layers {
            pixels.extend(self.pixels(layer, 0..rows));
            pixels.resize(heads * shape[2] * (layer + 1) * room, Color32::TRANSPARENT);
        }
        let image = ColorImage::new([heads * shape[2], layers * room], pixels);
        self.texture = Some(context.load_texture("attention heads", image, TextureOptions::NEAREST));
    }

    fn pool(&mut self, grid: &Grid, steps: usize) {
        let [layers, heads, columns] = self.shape;
        let line = layers * heads * columns;
        self.pooled.resize(steps.div_ceil(self.fold[0]) * line, 0);
        for step in self.steps..steps {
            let out = &mut self.pooled[step / self.fold[0] * line..][..line];
            let values = &grid.values[step * layers * heads * grid.bins..][..layers * heads * grid.bins];
            for (out, bins) in out.chunks_exact_mut(columns).zip(values.chunks_exact(grid.bins)) {
                for (o, bins) in out.iter_mut().zip(bins.chunks(self.fold[1])) {
                    // 0 is "not in the cache" to the colours; every bin of a thumbnail is in it.
                    *o = bins.iter().fold((*o).max(1), |o, &v| o.max(v));
                }
            }
        }
        self.steps = steps;
    }

    fn pixels(&self, layer: usize, rows: std::ops::Range<usize>) -> Vec<Color32> {
        let [layers, heads, columns] = self.shape;
        let width = heads * columns;
        rows.flat_map(|row| &self.pooled[(row * layers + layer) * width..][..width])
            .map(|&v| self.colors[v as usize])
            .collect()
    }

    /// The texture and where in it a head's map lies; `None` when there is none.
    pub fn place(&self, layer: usize, head: usize) -> Option<(egui::TextureId, Rect)> {
        let texture = self.texture.as_ref()?;
        let [layers, heads, _] = self.shape;
        if self.steps == 0 || layer >= layers || head >= heads {
            return None;
        }
        // The last row may stand for fewer steps than the others: it is drawn as high as it is full.
        let rows = self.steps as f32 / self.fold[0] as f32;
        let (x, y) = (1.0 / heads as f32, 1.0 / layers as f32);
        let min = pos2(head as f32 * x, layer as f32 * y);
        Some((texture.id(), Rect::from_min_max(min, pos2(min.x + x, min.y + y * rows / self.room as f32))))
    }
}
