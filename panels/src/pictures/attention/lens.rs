//! Which part of a map is in sight: zoomed by scrolling, moved by dragging, always within the map.

use super::tiles::Sight;

/// Zoom and place. At zoom 1 the map fills the space; each axis stops where its cells are large enough to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lens {
    zoom: f64,
    /// First column and row in sight, as a share of the map.
    at: [f64; 2],
}

impl Default for Lens {
    fn default() -> Self {
        Self { zoom: 1.0, at: [0.0; 2] }
    }
}

/// Points of a cell's side beyond which an axis is not enlarged.
const LARGEST_CELL: f64 = 40.0;

impl Lens {
    fn zooms(self, cells: [usize; 2], points: [f32; 2]) -> [f64; 2] {
        [0, 1].map(|a| {
            let most = LARGEST_CELL * cells[a] as f64 / f64::from(points[a]).max(1.0);
            self.zoom.clamp(1.0, most.max(1.0))
        })
    }

    /// What is in sight of a map of so many columns and rows in so many points.
    pub fn sight(self, cells: [usize; 2], points: [f32; 2]) -> Sight {
        let zooms = self.zooms(cells, points);
        let share = |a: usize| self.at[a].clamp(0.0, 1.0 - 1.0 / zooms[a]);
        Sight {
            from: [0, 1].map(|a| share(a) * cells[a].max(1) as f64),
            size: [0, 1].map(|a| cells[a].max(1) as f64 / zooms[a]),
        }
    }

    /// Zooms by a factor, keeping what lies at `pointer` (shares of the space) where it is.
    pub fn zoom(&mut self, factor: f64, pointer: [f64; 2], cells: [usize; 2], points: [f32; 2]) {
        let before = self.zooms(cells, points);
        let most = [0, 1].map(|a| LARGEST_CELL * cells[a] as f64 / f64::from(points[a]).max(1.0));
        self.zoom = (self.zoom * factor).clamp(1.0, most[0].max(most[1]).max(1.0));
        let after = self.zooms(cells, points);
        for a in 0..2 {
            let at = self.at[a] + pointer[a] / before[a] - pointer[a] / after[a];
            self.at[a] = at.clamp(0.0, 1.0 - 1.0 / after[a]);
        }
    }

    /// Moves by shares of the space.
    pub fn pan(&mut self, by: [f64; 2], cells: [usize; 2], points: [f32; 2]) {
        let zooms = self.zooms(cells, points);
        for a in 0..2 {
            self.at[a] = (self.at[a] - by[a] / zooms[a]).clamp(0.0, 1.0 - 1.0 / zooms[a]);
        }
    }

    /// Moves as little as brings a cell into sight.
    pub fn reveal(&mut self, cell: [usize; 2], cells: [usize; 2], points: [f32; 2]) {
        let zooms = self.zooms(cells, points);
        for a in 0..2 {
            let all = cells[a].max(1) as f64;
            let (first, last) = (cell[a] as f64 / all, (cell[a] + 1) as f64 / all);
            let at = self.at[a].min(first).max(last - 1.0 / zooms[a]);
            self.at[a] = at.clamp(0.0, 1.0 - 1.0 / zooms[a]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: [usize; 2] = [4096, 512];
    const POINTS: [f32; 2] = [1000.0, 400.0];

    #[test]
    fn zooming_keeps_what_is_under_the_pointer_and_stays_within_the_map() {
        let mut lens = Lens::default();
        let pointer = [0.3, 0.6];
        let under = |l: Lens| {
            let s = l.sight(CELLS, POINTS);
            [0, 1].map(|a| s.from[a] + pointer[a] * s.size[a])
        };
        let before = under(lens);
        for _ in 0..12 {
            lens.zoom(1.3, pointer, CELLS, POINTS);
            let now = under(lens);
            assert!((now[0] - before[0]).abs() < 1e-6 && (now[1] - before[1]).abs() < 1e-6);
        }
        lens.zoom(1e9, pointer, CELLS, POINTS);
        let sight = lens.sight(CELLS, POINTS);
        assert!((1000.0 / sight.size[0] - 40.0).abs() < 1e-9 && (400.0 / sight.size[1] - 40.0).abs() < 1e-9);
        for by in [[5.0, 5.0], [-900.0, -900.0]] {
            lens.pan(by, CELLS, POINTS);
            let s = lens.sight(CELLS, POINTS);
            assert!((0..2).all(|a| s.from[a] >= 0.0 && s.from[a] + s.size[a] <= CELLS[a] as f64 + 1e-6));
        }
        lens.zoom(0.0, pointer, CELLS, POINTS);
        assert_eq!(lens.sight(CELLS, POINTS), Lens::default().sight(CELLS, POINTS));
    }

    #[test]
    fn revealing_a_cell_brings_it_into_sight() {
        let mut lens = Lens::default();
        lens.zoom(20.0, [0.0, 0.0], CELLS, POINTS);
        for cell in [[4095, 511], [0, 0], [2000, 300]] {
            lens.reveal(cell, CELLS, POINTS);
            let s = lens.sight(CELLS, POINTS);
            for (a, &at) in cell.iter().enumerate() {
                let (first, last) = (at as f64, at as f64 + 1.0);
                assert!(s.from[a] <= first + 1e-6 && s.from[a] + s.size[a] >= last - 1e-6);
            }
        }
    }
}
