//! Small maps of all heads in one texture: a strip a layer, the heads side by side in it; new steps are added at the bottom of
//! every strip.

use std::sync::Arc;

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
        let longer = self.run == run
            && self.shape == shape
            && self.fold[1] == fold[1]
            && self.room == room
            && self.colors == colors
            && self.steps <= steps
            && self.steps.checked_sub(1).is_none_or(|last| grid.steps.get(last).copied() == self.newest);
        let grown = longer && self.fold == fold;
        if grown && self.steps == steps {
            return;
        }
        if longer && self.fold[0] < fold[0] && self.steps > 0 {
            self.fold_rows(fold[0]);
        } else if !grown {
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
        self.texture = Some(context.load_texture("attention heads", self.image(), TextureOptions::NEAREST));
    }

    /// The whole texture.
    fn image(&self) -> ColorImage {
        let [layers, heads, columns] = self.shape;
        let (width, rows) = (heads * columns, self.steps.div_ceil(self.fold[0]));
        let mut pixels = Vec::with_capacity(width * layers * self.room);
        for layer in 0..layers {
            pixels.extend(self.pixels(layer, 0..rows));
            pixels.resize(width * (layer + 1) * self.room, Color32::TRANSPARENT);
        }
        ColorImage::new([width, layers * self.room], pixels)
    }

    /// Leaves the pixels for the file of the picture.
    pub fn remember(&self, context: &Context) {
        if let Some(texture) = &self.texture {
            crate::svg::remember(context, texture.id(), Some(Arc::new(self.image())));
        }
    }

    /// More steps a row, from the rows there are: the steps themselves are not read again. Both numbers are powers of two.
    fn fold_rows(&mut self, steps_a_row: usize) {
        let [layers, heads, columns] = self.shape;
        let line = layers * heads * columns;
        let by = steps_a_row / self.fold[0];
        let rows = self.pooled.len() / line;
        for row in 0..rows {
            let (from, to) = (row * line, row / by * line);
            if from == to {
                continue;
            }
            let (before, here) = self.pooled.split_at_mut(from);
            let here = &here[..line];
            if row % by == 0 {
                before[to..to + line].copy_from_slice(here);
            } else {
                before[to..to + line].iter_mut().zip(here).for_each(|(o, v)| *o = (*o).max(*v));
            }
        }
        self.pooled.truncate(rows.div_ceil(by) * line);
        self.fold[0] = steps_a_row;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(steps: usize) -> Grid {
        let (layers, heads, bins) = (2, 3, 8);
        let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8;
        Grid {
            bins,
            steps: (1..=steps).collect(),
            rows: vec![9; steps],
            values: (0..steps * layers * heads * bins).map(value).collect(),
            ..Grid::default()
        }
    }

    #[test]
    fn rows_folded_as_steps_come_are_those_made_at_once() {
        let context = Context::default();
        let colors = [Color32::BLACK; 256];
        let mut grown = Atlas::default();
        for steps in 1..=100 {
            grown.follow(&context, "run", &grid(steps), [2, 3], [8, 16], &colors);
            let mut whole = Atlas::default();
            whole.follow(&context, "run", &grid(steps), [2, 3], [8, 16], &colors);
            assert_eq!((grown.fold, grown.steps), (whole.fold, whole.steps), "{steps}");
            assert!(grown.pooled == whole.pooled, "{steps} steps");
        }
        assert_eq!(grown.fold, [8, 1], "the rows were folded three times");
    }
}
