//! Pieces as nested rectangles: tiers side by side, in each what bytes are used for, then groups, then pieces.

use std::collections::HashMap;

use egui::{Rect, pos2};

use super::squarify::squarify;
use crate::view::{Piece, Tier, UsedFor};

/// How far one has gone into the tree; each part only where the ones before it are there or do not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path {
    /// Only what is used for this.
    pub used_for: Option<UsedFor>,
    /// Only this group.
    pub group: Option<String>,
}

impl Path {
    /// True when a piece lies below.
    pub fn holds(&self, piece: &Piece) -> bool {
        self.used_for.is_none_or(|u| u == piece.used_for) && self.group.as_ref().is_none_or(|g| *g == piece.group)
    }

    /// One step back; false at the top.
    pub fn up(&mut self) -> bool {
        self.group.take().is_some() || self.used_for.take().is_some()
    }
}

/// A rectangle of the treemap.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// Where, in points.
    pub rect: Rect,
    /// In which tier.
    pub tier: Tier,
    /// What its bytes are used for.
    pub used_for: UsedFor,
    /// The group; empty for what was too small to be drawn alone.
    pub group: String,
    /// The piece, when it is a single one.
    pub piece: Option<usize>,
    /// Pieces in it.
    pub count: usize,
    /// Bytes in it.
    pub bytes: u64,
}

/// Children that one parent shows; the smaller ones are one tile.
const CHILDREN: usize = 120;
/// Square points below which a tile is drawn with the other small ones.
const SMALLEST: f64 = 12.0;

/// Tiers with bytes below `path`, in order: where each lies and how much it holds.
pub fn tiers(pieces: &[Piece], path: &Path, rect: Rect) -> Vec<(Tier, Rect, u64)> {
    let mut bytes = [0u64; 3];
    for piece in pieces.iter().filter(|p| path.holds(p)) {
        bytes[piece.tier as usize] = bytes[piece.tier as usize].saturating_add(piece.bytes);
    }
    let total: f64 = bytes.iter().map(|&b| b as f64).sum();
    let mut x = f64::from(rect.left());
    let mut out = Vec::new();
    for tier in Tier::ALL {
        let held = bytes[tier as usize];
        if held > 0 {
            let end = x + f64::from(rect.width()) * held as f64 / total;
            let column = Rect::from_min_max(pos2(x as f32, rect.top()), pos2(end as f32, rect.bottom()));
            out.push((tier, column, held));
            x = end;
        }
    }
    out
}

/// The tiles below `path`: groups at the top, pieces within groups when what they are used for was chosen. Every tile has an
/// area in proportion to its bytes, over all tiers.
pub fn tiles(pieces: &[Piece], path: &Path, rect: Rect) -> Vec<Tile> {
    let mut out = Vec::new();
    for (tier, column, _) in tiers(pieces, path, rect) {
        let below: Vec<usize> =
            (0..pieces.len()).filter(|&i| pieces[i].tier == tier && path.holds(&pieces[i])).collect();
        for (used_for, members, area) in split(pieces, &below, column, |p| p.used_for) {
            let Some(used_for) = used_for else { continue };
            for (group, members, area) in split(pieces, &members, area, |p| p.group.as_str()) {
                let tile = |members: &[usize], rect: Rect| Tile {
                    rect,
                    tier,
                    used_for,
                    group: group.unwrap_or_default().to_owned(),
                    piece: (members.len() == 1).then(|| members[0]),
                    count: members.len(),
                    bytes: sum(pieces, members),
                };
                if path.used_for.is_none() && path.group.is_none() {
                    out.push(tile(&members, area));
                    continue;
                }
                // One key a piece: no two are put together.
                for (_, members, area) in split(pieces, &members, area, |p| std::ptr::from_ref(p) as usize) {
                    out.push(tile(&members, area));
                }
            }
        }
    }
    out
}

fn sum(pieces: &[Piece], members: &[usize]) -> u64 {
    members.iter().fold(0, |sum, &i| sum.saturating_add(pieces[i].bytes))
}

/// Shares `rect` out over the members by key, the largest first; the small ones come last, as one without a key.
fn split<'a, K: Copy + Eq + std::hash::Hash>(
    pieces: &'a [Piece],
    members: &[usize],
    rect: Rect,
    key: impl Fn(&'a Piece) -> K,
) -> Vec<(Option<K>, Vec<usize>, Rect)> {
    let mut of: HashMap<K, usize> = HashMap::new();
    let mut parts: Vec<(Option<K>, Vec<usize>, u64)> = Vec::new();
    for &i in members.iter().filter(|&&i| pieces[i].bytes > 0) {
        let k = key(&pieces[i]);
        let at = *of.entry(k).or_insert_with(|| {
            parts.push((Some(k), Vec::new(), 0));
            parts.len() - 1
        });
        parts[at].1.push(i);
        parts[at].2 = parts[at].2.saturating_add(pieces[i].bytes);
    }
    parts.sort_by_key(|p| std::cmp::Reverse(p.2));
    let total: f64 = parts.iter().map(|p| p.2 as f64).sum();
    let area = f64::from(rect.width()) * f64::from(rect.height());
    let alone = parts.iter().take(CHILDREN).take_while(|p| p.2 as f64 / total * area >= SMALLEST).count().max(1);
    if parts.len() > alone + 1 {
        let mut rest = (None, Vec::new(), 0u64);
        for (_, members, bytes) in parts.drain(alone..) {
            rest.1.extend(members);
            rest.2 = rest.2.saturating_add(bytes);
        }
        let at = parts.partition_point(|p| p.2 >= rest.2);
        parts.insert(at, rest);
    }
    let sizes: Vec<u64> = parts.iter().map(|p| p.2).collect();
    let rects = squarify(&sizes, rect);
    parts.into_iter().zip(rects).map(|((k, members, _), r)| (k, members, r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<Piece> {
        let mut out = Vec::new();
        for layer in 0..30 {
            for part in 0..7_u64 {
                out.push(Piece {
                    name: format!("blk.{layer}.{part}"),
                    group: format!("layer {layer}"),
                    used_for: UsedFor::Weights,
                    tier: if layer < 20 { Tier::Device } else { Tier::Host },
                    bytes: 10_000 + 3_000 * part,
                    ..Piece::default()
                });
            }
            out.push(Piece {
                name: format!("kv rows, layer {layer}"),
                group: format!("layer {layer}"),
                used_for: UsedFor::KvCache,
                bytes: 60_000,
                ..Piece::default()
            });
        }
        for i in 0..500 {
            let (name, group) = (format!("small {i}"), format!("g {i}"));
            out.push(Piece { name, group, used_for: UsedFor::Workspace, bytes: 1, ..Piece::default() });
        }
        out.push(Piece { name: "nothing".into(), ..Piece::default() });
        out
    }

    #[test]
    fn tiles_have_areas_by_their_bytes_over_all_tiers_and_lose_nothing() {
        let pieces = pieces();
        let rect = Rect::from_min_size(pos2(0.0, 0.0), egui::vec2(700.0, 400.0));
        for path in [
            Path::default(),
            Path { used_for: Some(UsedFor::Weights), group: None },
            Path { used_for: Some(UsedFor::Weights), group: Some("layer 3".into()) },
            Path { used_for: None, group: Some("layer 25".into()) },
        ] {
            let tiles = tiles(&pieces, &path, rect);
            let bytes: u64 = tiles.iter().map(|t| t.bytes).sum();
            let held: Vec<&Piece> = pieces.iter().filter(|p| path.holds(p) && p.bytes > 0).collect();
            assert_eq!(bytes, held.iter().map(|p| p.bytes).sum::<u64>());
            assert_eq!(tiles.iter().map(|t| t.count).sum::<usize>(), held.len());
            assert!(tiles.len() <= 260, "{} tiles", tiles.len());
            for tile in &tiles {
                let (w, h) = (f64::from(tile.rect.width()), f64::from(tile.rect.height()));
                let want = 280_000.0 * tile.bytes as f64 / bytes as f64;
                assert!((w * h - want).abs() < 2.0, "{tile:?}: {} not {want}", w * h);
                if let Some(i) = tile.piece {
                    assert_eq!((pieces[i].tier, pieces[i].used_for), (tile.tier, tile.used_for));
                }
            }
        }
        assert!(tiles(&[], &Path::default(), rect).is_empty());
    }

    #[test]
    fn stepping_back_ends_at_the_top() {
        let mut path = Path { used_for: Some(UsedFor::KvCache), group: Some("layer 1".into()) };
        assert!(path.up() && path.group.is_none() && path.up() && path == Path::default() && !path.up());
    }
}
