//! Rows that go are merged into the kept row they resemble most, if they resemble it enough: D2O's token level
//! (arXiv 2406.13035, §3.3).
//!
//! The selection that it follows is H2O's, with a few first tokens kept (`kv.select.n_sink`). Everything here is decided for each
//! KV head by itself. The layer level of the paper, which gives concentrated layers less, is not here: every layer but the
//! protected ones has the same budget.

use crate::error::Result;
use crate::kv::{Fold, Folded, Merge, Positions, Select};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// Kept rows that are compared, and written, at a time.
const TILE: usize = 64;
/// Below this a key's length counts as this.
const SHORTEST: f32 = 1e-8;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Merge> = Entry {
    about: About {
        id: "d2o",
        title: "Merge into the most alike (D2O)",
        common: true,
        paper: "Wan et al., D2O: Dynamic Discriminative Operations for Efficient Long-Context Inference of LLMs, ICLR 2025, arXiv 2406.13035",
        sentence: "Merges a row that goes into the kept row with the most similar key, where their likeness is above a moving average.",
        knobs: &[
            Knob {
                id: "beta",
                label: "Weight of the newest likeness",
                paper_name: "beta",
                kind: KnobKind::Float { min: 0.0, max: 1.0 },
                default: Default::Float(0.7),
                unit: "",
                sentence: "The threshold becomes beta · the new mean + (1 − beta) · the threshold before.",
            },
            Knob {
                id: "merge",
                label: "Weights",
                paper_name: "",
                kind: KnobKind::Word { of: &["paper", "released"] },
                default: Default::Text("paper"),
                unit: "",
                sentence: "Weights by the exponential of the likeness, which sum to 1, or the released code's average of scaled rows.",
            },
            Knob {
                id: "self_weight",
                label: "Weight of the kept row",
                paper_name: "e_c",
                kind: KnobKind::Float { min: 0.0, max: 1000.0 },
                default: Default::Float(std::f64::consts::E),
                unit: "",
                sentence: "Beside the exponential of each merged row's likeness; e is that of a row to itself.",
            },
            Knob {
                id: "protect_first",
                label: "First layers left whole",
                paper_name: "",
                kind: KnobKind::Int { min: 0, max: 4096 },
                default: Default::Int(2),
                unit: "layers",
                sentence: "First layers that keep every row.",
            },
            Knob {
                id: "protect_last",
                label: "Last layers left whole",
                paper_name: "",
                kind: KnobKind::Int { min: 0, max: 4096 },
                default: Default::Int(1),
                unit: "layers",
                sentence: "Last layers that keep every row.",
            },
        ],
        ..About::on(&axes::KV_MERGE)
    },
    build: |knobs| {
        Ok(Box::new(D2o {
            beta: knobs.float("beta") as f32,
            released: knobs.text("merge") == "released",
            self_weight: knobs.float("self_weight") as f32,
            protect: [knobs.int("protect_first"), knobs.int("protect_last")],
        }))
    },
};

struct D2o {
    beta: f32,
    released: bool,
    self_weight: f32,
    protect: [usize; 2],
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn length(x: &[f32]) -> f32 {
    dot(x, x).sqrt().max(SHORTEST)
}

impl D2o {
    /// The threshold after losers of mean likeness `mean`, and remembers it. A state of zeros is that of no threshold yet.
    fn threshold(&self, mean: f32, state: &mut [u8]) -> f32 {
        let Ok(state) = <&mut [u8; 4]>::try_from(state) else { return mean };
        let before = f32::from_le_bytes(*state);
        let now = if before == 0.0 { mean } else { self.beta * mean + (1.0 - self.beta) * before };
        let now = if now == 0.0 { f32::MIN_POSITIVE } else { now };
        *state = now.to_le_bytes();
        now
    }
}

/// Rows of `0..rows` that are not in `kept` (ascending).
fn losers(rows: usize, kept: &[u32]) -> impl Iterator<Item = usize> {
    let mut kept = kept.iter().peekable();
    (0..rows).filter(move |row| kept.next_if(|k| **k as usize == *row).is_none())
}

impl Merge for D2o {
    fn state_bytes(&self) -> usize {
        4
    }

    fn scratch(&self, rows: usize, d: usize) -> usize {
        2 * rows + (2 * TILE + 2) * d + 2 * TILE
    }

    fn leaves_whole(&self, layer: usize, layers: usize) -> bool {
        layer < self.protect[0] || layer + self.protect[1] >= layers
    }

    fn follows(&self, select: &dyn Select) -> std::result::Result<(), String> {
        if select.keeps_all() {
            return Err("kv.select = full drops no row that could be merged; choose h2o".to_owned());
        }
        if select.positions() == Positions::Reindex {
            return Err(
                "it compares keys as they are rotated, and this kv.select rotates them anew at every step; set kv.select.positions = original"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn fold(&self, fold: Fold<'_>, folded: &mut Folded<'_>) -> Result<()> {
        let Fold { cache, head, kept, state, scratch, .. } = fold;
        let (rows, d) = (cache.rows(head), cache.layout().d);
        let gone = rows - kept.len();
        if gone == 0 || kept.is_empty() {
            return Ok(());
        }
        let (likeness, rest) = scratch.split_at_mut(rows);
        let (target, rest) = rest.split_at_mut(rows);
        let target: &mut [u32] = bytemuck::cast_slice_mut(target);
        let (keys, rest) = rest.split_at_mut(TILE * d);
        let (values, rest) = rest.split_at_mut(TILE * d);
        let (row, rest) = rest.split_at_mut(2 * d);
        let (total, lengths) = rest.split_at_mut(TILE);
        let (k, v) = row.split_at_mut(d);
        likeness[..gone].fill(f32::NEG_INFINITY);
        // The nearest keeper of each loser, by the cosine of their keys; ties to the earlier one.
        for first in (0..kept.len()).step_by(TILE) {
            let n = TILE.min(kept.len() - first);
            for i in 0..n {
                cache.keys(head, kept[first + i] as usize, 1, &mut keys[i * d..(i + 1) * d]);
                lengths[i] = length(&keys[i * d..(i + 1) * d]);
            }
            for (at, loser) in losers(rows, kept).enumerate() {
                cache.keys(head, loser, 1, k);
                let own = length(k);
                for i in 0..n {
                    let cosine = dot(k, &keys[i * d..(i + 1) * d]) / (own * lengths[i]);
                    if cosine > likeness[at] {
                        (likeness[at], target[at]) = (cosine, (first + i) as u32);
                    }
                }
            }
        }
        let mean = likeness[..gone].iter().sum::<f32>() / gone as f32;
        // Losers that are all alike equal their mean, but for its rounding.
        let threshold = self.threshold(mean, state) - 1e-6;
        for (at, loser) in losers(rows, kept).enumerate() {
            if likeness[at] >= threshold {
                folded(cache, loser as u32, kept[target[at] as usize]);
            }
        }
        for first in (0..kept.len()).step_by(TILE) {
            let n = TILE.min(kept.len() - first);
            let own = if self.released { 1.0 } else { self.self_weight };
            for i in 0..n {
                cache.keys(head, kept[first + i] as usize, 1, &mut keys[i * d..(i + 1) * d]);
                cache.values(head, kept[first + i] as usize, 1, &mut values[i * d..(i + 1) * d]);
            }
            total[..n].fill(0.0);
            for (at, loser) in losers(rows, kept).enumerate() {
                let i = (target[at] as usize).wrapping_sub(first);
                if likeness[at] < threshold || i >= n {
                    continue;
                }
                let range = i * d..(i + 1) * d;
                if total[i] == 0.0 {
                    total[i] = own;
                    keys[range.clone()].iter_mut().chain(&mut values[range.clone()]).for_each(|x| *x *= own);
                }
                let weight = if self.released { likeness[at] } else { likeness[at].exp() };
                total[i] += if self.released { 1.0 } else { weight };
                cache.keys(head, loser, 1, k);
                cache.values(head, loser, 1, v);
                keys[range.clone()].iter_mut().zip(&*k).for_each(|(sum, x)| *sum += weight * x);
                values[range].iter_mut().zip(&*v).for_each(|(sum, x)| *sum += weight * x);
            }
            for i in (0..n).filter(|i| total[*i] > 0.0) {
                let range = i * d..(i + 1) * d;
                keys[range.clone()].iter_mut().chain(&mut values[range.clone()]).for_each(|x| *x /= total[i]);
                cache.write(head, kept[first + i] as usize, &keys[range.clone()], &values[range])?;
            }
        }
        Ok(())
    }
}
