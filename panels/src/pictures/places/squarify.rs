//! Squarified treemaps (Bruls, Huizing and van Wijk 2000): rectangles whose areas are as given, as square as can be.

use egui::{Rect, pos2};

/// Rectangles within `rect`, one for each of `sizes` (largest first), with areas in their proportion. Sizes of 0 get an empty one.
pub fn squarify(sizes: &[u64], rect: Rect) -> Vec<Rect> {
    let total: f64 = sizes.iter().map(|&s| s as f64).sum();
    let (mut x, mut y) = (f64::from(rect.left()), f64::from(rect.top()));
    let (mut w, mut h) = (f64::from(rect.width()).max(0.0), f64::from(rect.height()).max(0.0));
    let mut out = Vec::with_capacity(sizes.len());
    let mut left = total;
    let mut start = 0;
    while start < sizes.len() {
        let short = w.min(h);
        if left <= 0.0 || short <= 0.0 {
            out.push(Rect::from_min_size(pos2(x as f32, y as f32), egui::Vec2::ZERO));
            start += 1;
            continue;
        }
        let scale = w * h / left;
        // A row grows while that makes its worst rectangle squarer.
        let (mut end, mut sum) = (start, 0.0);
        let mut worst = f64::INFINITY;
        while end < sizes.len() {
            let with = sum + sizes[end] as f64;
            let (largest, smallest) = (sizes[start] as f64 * scale, sizes[end] as f64 * scale);
            let area = with * scale;
            let now = (short * short * largest / (area * area)).max(area * area / (short * short * smallest));
            if end > start && (now > worst || now.is_nan()) {
                break;
            }
            (worst, sum, end) = (now, with, end + 1);
        }
        let deep = (sum * scale / short).min(w.max(h));
        let mut along = 0.0;
        for &size in &sizes[start..end] {
            let length = if sum > 0.0 { short * size as f64 / sum } else { 0.0 };
            let (min, max) = if w >= h {
                ((x, y + along), (x + deep, y + along + length))
            } else {
                ((x + along, y), (x + along + length, y + deep))
            };
            out.push(Rect::from_min_max(pos2(min.0 as f32, min.1 as f32), pos2(max.0 as f32, max.1 as f32)));
            along += length;
        }
        if w >= h {
            (x, w) = (x + deep, w - deep);
        } else {
            (y, h) = (y + deep, h - deep);
        }
        left -= sum;
        start = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(r: Rect) -> f64 {
        f64::from(r.width().max(0.0)) * f64::from(r.height().max(0.0))
    }

    #[test]
    fn areas_are_in_proportion_disjoint_and_within() {
        let mut seed = 0xDEAD_BEEF_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..200 {
            let mut sizes: Vec<u64> = (0..1 + next() % 60)
                .map(|_| match next() % 4 {
                    0 => next() % 10,
                    1 => next() % 1000,
                    2 => next() % 1_000_000,
                    _ => 500_000,
                })
                .collect();
            sizes.sort_by_key(|s| std::cmp::Reverse(*s));
            let rect = Rect::from_min_size(pos2(10.0, 20.0), egui::vec2(1.0 + (next() % 1200) as f32, 300.0));
            let tiles = squarify(&sizes, rect);
            assert_eq!(tiles.len(), sizes.len());
            let total: u64 = sizes.iter().sum();
            for (tile, &size) in tiles.iter().zip(&sizes) {
                let want = if total == 0 { 0.0 } else { size as f64 / total as f64 * area(rect) };
                // f32 places: the error is that of a side times a thousandth of a point.
                let slack = 1e-3 * f64::from(rect.width() + rect.height());
                assert!((area(*tile) - want).abs() < slack, "round {round}: {size} has {}, not {want}", area(*tile));
                assert!(rect.expand(1e-2).contains_rect(*tile));
            }
            for (i, a) in tiles.iter().enumerate() {
                for b in &tiles[..i] {
                    let both = a.intersect(*b);
                    let shared = if both.width() > 0.0 && both.height() > 0.0 { area(both) } else { 0.0 };
                    assert!(shared < 0.5, "round {round}: {a:?} and {b:?} share {shared}");
                }
            }
        }
    }

    #[test]
    fn equal_sizes_are_nearly_square_and_degenerate_input_is_harmless() {
        let tiles = squarify(&[1; 24], Rect::from_min_size(pos2(0.0, 0.0), egui::vec2(600.0, 400.0)));
        for t in tiles {
            let ratio = t.width() / t.height();
            assert!((0.5..=2.0).contains(&ratio), "{ratio}");
        }
        assert!(squarify(&[], Rect::ZERO).is_empty());
        assert_eq!(squarify(&[0, 0], Rect::from_min_size(pos2(0.0, 0.0), egui::vec2(9.0, 9.0))).len(), 2);
        assert_eq!(squarify(&[u64::MAX, 1], Rect::ZERO).len(), 2);
    }
}
