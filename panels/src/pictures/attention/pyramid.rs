//! A map at every size: each level holds the largest of 2 × 2 cells of the one below, so that a single heavy cell is still
//! there when a pixel covers a thousand.

/// Bytes in rows and columns; 0 is "not in the cache".
pub trait Cells {
    /// Rows.
    fn rows(&self) -> usize;
    /// Cells of a row.
    fn columns(&self) -> usize;
    /// The cells `from..from + out.len()` of a row.
    fn read(&self, row: usize, from: usize, out: &mut [u8]);
}

/// One level above the source.
struct Level {
    columns: usize,
    /// Source-level rows (of the level below) that went in.
    eaten: usize,
    values: Vec<u8>,
}

/// The levels above a source that only grows downwards.
#[derive(Default)]
pub struct Pyramid {
    columns: usize,
    rows: usize,
    levels: Vec<Level>,
    largest: u8,
}

impl Pyramid {
    /// Rows of the source that went in.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the source.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The largest byte so far.
    pub fn largest(&self) -> u8 {
        self.largest
    }

    /// Takes in rows of the source that are not in yet, at most about `cells` cells of them; true when all are in.
    pub fn advance(&mut self, source: &impl Cells, cells: usize) -> bool {
        if self.columns != source.columns() || source.rows() < self.rows {
            *self = Self { columns: source.columns(), ..Self::default() };
        }
        if self.columns == 0 {
            return true;
        }
        let mut row = vec![0; self.columns];
        let end = source.rows().min(self.rows + (cells / self.columns).max(1));
        for r in self.rows..end {
            source.read(r, 0, &mut row);
            self.largest = self.largest.max(row.iter().copied().max().unwrap_or(0));
            self.push(0, &row);
        }
        self.rows = end;
        if self.levels.is_empty() {
            return self.rows == source.rows();
        }
        // Levels above the first follow whole rows, and the odd one at the end as far as it is known.
        let mut level = 1;
        loop {
            let below = &self.levels[level - 1];
            let below_rows = below.values.len() / below.columns;
            if below_rows <= 1 && below.columns <= 1 {
                break;
            }
            if self.levels.len() == level {
                self.levels.push(Level { columns: below.columns.div_ceil(2), eaten: 0, values: Vec::new() });
            }
            let (lower, upper) = self.levels.split_at_mut(level);
            let (below, above) = (&lower[level - 1], &mut upper[0]);
            // The last row of the level below may have changed: it is the largest of what came so far.
            let from = (above.eaten.saturating_sub(1)) / 2 * 2;
            above.values.truncate(from / 2 * above.columns);
            above.eaten = from;
            for r in from..below_rows {
                fold(above, &below.values[r * below.columns..(r + 1) * below.columns]);
            }
            level += 1;
        }
        self.rows == source.rows()
    }

    fn push(&mut self, level: usize, row: &[u8]) {
        if self.levels.len() == level {
            self.levels.push(Level { columns: row.len().div_ceil(2), eaten: 0, values: Vec::new() });
        }
        fold(&mut self.levels[level], row);
    }

    /// Rows and columns when `2^down` rows and `2^across` columns are one.
    pub fn size(&self, [across, down]: [u32; 2]) -> [usize; 2] {
        [self.columns.div_ceil(1 << across), self.rows.div_ceil(1 << down)]
    }

    /// The largest of each `2^down` × `2^across` cells in columns `from..from + out.len()` of row `row` of that size.
    pub fn read(&self, source: &impl Cells, fold: [u32; 2], row: usize, from: usize, out: &mut [u8]) {
        out.fill(0);
        let base = (fold[0].min(fold[1]) as usize).min(self.levels.len());
        let [across, down] = fold.map(|f| f as usize - base);
        let base_columns = if base == 0 { self.columns } else { self.levels[base - 1].columns };
        let base_rows = if base == 0 { self.rows } else { self.levels[base - 1].values.len() / base_columns.max(1) };
        let (first, last) = (from << across, ((from + out.len()) << across).min(base_columns));
        if first >= last {
            return;
        }
        let mut line = Vec::new();
        for r in row << down..((row + 1) << down).min(base_rows) {
            let cells = if base == 0 {
                line.resize(last - first, 0);
                source.read(r, first, &mut line);
                &line[..]
            } else {
                &self.levels[base - 1].values[r * base_columns + first..r * base_columns + last]
            };
            if across == 0 {
                for (o, &v) in out.iter_mut().zip(cells) {
                    *o = (*o).max(v);
                }
            } else {
                for (o, chunk) in out.iter_mut().zip(cells.chunks(1 << across)) {
                    *o = chunk.iter().fold(*o, |o, &v| o.max(v));
                }
            }
        }
    }
}

/// Adds a row of the level below.
fn fold(level: &mut Level, row: &[u8]) {
    if level.eaten.is_multiple_of(2) {
        level.values.extend(row.chunks(2).map(|pair| pair.iter().copied().max().unwrap_or(0)));
    } else {
        let start = level.values.len() - level.columns;
        for (o, pair) in level.values[start..].iter_mut().zip(row.chunks(2)) {
            *o = pair.iter().fold(*o, |o, &v| o.max(v));
        }
    }
    level.eaten += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    pub struct Plain {
        pub columns: usize,
        pub values: Vec<u8>,
    }

    impl Cells for Plain {
        fn rows(&self) -> usize {
            self.values.len() / self.columns
        }
        fn columns(&self) -> usize {
            self.columns
        }
        fn read(&self, row: usize, from: usize, out: &mut [u8]) {
            let start = row * self.columns + from;
            out.copy_from_slice(&self.values[start..start + out.len()]);
        }
    }

    /// The largest cell of a block, looked up cell by cell.
    fn brute(source: &Plain, fold: [u32; 2], row: usize, column: usize) -> u8 {
        let (w, h) = (1 << fold[0], 1 << fold[1]);
        (row * h..((row + 1) * h).min(source.rows()))
            .flat_map(|r| (column * w..((column + 1) * w).min(source.columns)).map(move |c| (r, c)))
            .map(|(r, c)| source.values[r * source.columns + c])
            .max()
            .unwrap_or(0)
    }

    fn noise(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn every_size_shows_the_largest_cell_under_each_pixel_however_the_rows_came() {
        let mut seed = 0x9E37_79B9_7F4A_7C15;
        for (rows, columns) in [(1, 1), (1, 9), (7, 3), (33, 65), (64, 64), (50, 1)] {
            let all: Vec<u8> = (0..rows * columns)
                .map(|_| if noise(&mut seed).is_multiple_of(11) { (noise(&mut seed) % 256) as u8 } else { 0 })
                .collect();
            let (mut pyramid, mut known) = (Pyramid::default(), 0);
            while known < rows {
                known = rows.min(known + 1 + (noise(&mut seed) % 5) as usize);
                let source = Plain { columns, values: all[..known * columns].to_vec() };
                while !pyramid.advance(&source, columns * 2) {}
                for fold in [[0, 0], [1, 1], [2, 0], [0, 3], [3, 1], [2, 5], [7, 7], [9, 2]] {
                    let [w, h] = pyramid.size(fold);
                    for row in 0..h {
                        let from = w / 3;
                        let mut out = vec![0; w - from];
                        pyramid.read(&source, fold, row, from, &mut out);
                        for (i, &v) in out.iter().enumerate() {
                            assert_eq!(v, brute(&source, fold, row, from + i), "{known} × {columns}, {fold:?}");
                        }
                    }
                }
                assert_eq!(pyramid.largest(), source.values.iter().copied().max().unwrap_or(0));
            }
        }
    }

    #[test]
    fn one_heavy_cell_is_seen_at_every_size() {
        let mut source = Plain { columns: 300, values: vec![1; 300 * 200] };
        source.values[123 * 300 + 217] = 255;
        let mut pyramid = Pyramid::default();
        assert!(pyramid.advance(&source, usize::MAX));
        for across in 0..10 {
            for down in 0..10 {
                let mut out = vec![0; pyramid.size([across, down])[0]];
                pyramid.read(&source, [across, down], 123 >> down, 0, &mut out);
                assert_eq!(out[217 >> across], 255);
            }
        }
    }

    #[test]
    fn a_map_that_shrank_or_widened_starts_again() {
        let mut pyramid = Pyramid::default();
        pyramid.advance(&Plain { columns: 4, values: vec![9; 40] }, usize::MAX);
        let other = Plain { columns: 4, values: vec![3; 8] };
        assert!(pyramid.advance(&other, usize::MAX));
        assert_eq!((pyramid.rows(), pyramid.largest()), (2, 3));
        assert!(pyramid.advance(&Plain { columns: 0, values: vec![] }, 1));
    }
}
