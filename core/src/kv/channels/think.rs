//! Key channels that the latest queries hardly use go: ThinK (arXiv 2407.21018, §3.2).

use std::sync::Arc;

use crate::kv::{Channels, Counts, Format, Learn, Needs, Seal, Side};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// Longest head that a row is narrowed of.
const LONGEST: usize = 256;
/// Rows that are read at a time to learn what keys are like.
const TILE: usize = 64;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Channels> = Entry {
    about: About {
        id: "think",
        title: "Key channels that matter (ThinK)",
        common: true,
        paper: "Xu et al., ThinK: Thinner Key Cache by Query-Driven Pruning, ICLR 2025, arXiv 2407.21018",
        sentence: "Drops, for each head, the key channels that add least to the scores of the prompt's last queries; the newest rows keep all.",
        knobs: &[
            Knob {
                id: "pruning_ratio",
                label: "Channels dropped",
                paper_name: "pruning_ratio",
                kind: KnobKind::Float { min: 0.0, max: 0.9 },
                default: Default::Float(0.4),
                unit: "of a key",
                sentence: "Part of the channels of older keys that goes.",
            },
            Knob {
                id: "window_size",
                label: "Observation window",
                paper_name: "window_size",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(32),
                unit: "tokens",
                sentence: "The prompt's last queries, which decide.",
            },
            Knob {
                id: "recent_size",
                label: "Newest tokens whole",
                paper_name: "recent_size",
                kind: KnobKind::Int { min: 0, max: 1 << 16 },
                default: Default::Int(32),
                unit: "rows",
                sentence: "The prompt's newest rows, which keep all channels, as all do that are generated.",
            },
        ],
        ..About::on(&axes::KV_CHANNELS)
    },
    build: |knobs| {
        Ok(Box::new(Think {
            ratio: knobs.float("pruning_ratio"),
            window: knobs.int("window_size"),
            recent: knobs.int("recent_size"),
        }))
    },
};

struct Think {
    ratio: f64,
    window: usize,
    recent: usize,
}

impl Channels for Think {
    fn needs(&self) -> Needs {
        Needs { queries: self.window, ..Needs::default() }
    }

    fn seal(&self, side: Side, d: usize, format: &Arc<dyn Format>) -> Result<Option<Arc<dyn Seal>>, String> {
        if side == Side::Values {
            return Ok(None);
        }
        if d > LONGEST {
            return Err(format!("heads of this model have {d} elements; at most {LONGEST} are narrowed"));
        }
        let left = d - (d as f64 * self.ratio) as usize;
        let bytes =
            format.row_bytes(left).map_err(|reason| format!("{left} of {d} channels would stay, and {reason}"))?;
        Ok(Some(Arc::new(Narrow { d, left, bytes, recent: self.recent, format: Arc::clone(format) })))
    }
}

/// Keys of `left` of their `d` channels, the same for all older rows of a head. The head's state is a bit for each channel that
/// stays.
struct Narrow {
    d: usize,
    left: usize,
    bytes: usize,
    recent: usize,
    format: Arc<dyn Format>,
}

fn stays(mask: &[u8], c: usize) -> bool {
    mask[c / 8] >> (c % 8) & 1 == 1
}

impl Seal for Narrow {
    fn group(&self) -> usize {
        1
    }

    fn group_bytes(&self) -> usize {
        self.bytes
    }

    fn state_bytes(&self) -> usize {
        self.d.div_ceil(8)
    }

    fn at_prompt(&self, rows: usize) -> usize {
        rows.saturating_sub(self.recent)
    }

    fn after_step(&self, _open: usize) -> usize {
        0
    }

    fn counts(&self, prompt: usize, rows: usize) -> Counts {
        let sealed = self.at_prompt(prompt);
        Counts { sealed, open: rows - sealed }
    }

    fn scratch(&self) -> usize {
        (TILE + 2) * self.d
    }

    /// A channel's score is Σ q² over the window and the heads of the group, times Σ k² over the rows: the squared Frobenius
    /// norm of Q_c · K_cᵀ.
    fn learn(&self, learn: Learn<'_>, state: &mut [u8], scratch: &mut [f32]) {
        let Learn { rows, read, queries, stride, group } = learn;
        let d = self.d;
        let (scores, rest) = scratch.split_at_mut(d);
        let (keys, tile) = rest.split_at_mut(d);
        scores.fill(0.0);
        keys.fill(0.0);
        for query in queries.chunks(stride.max(1)) {
            for head in query[..group * d].chunks_exact(d) {
                head.iter().zip(&mut *scores).for_each(|(q, s)| *s += q * q);
            }
        }
        for start in (0..rows).step_by(TILE) {
            let n = TILE.min(rows - start);
            read(start, n, &mut tile[..n * d]);
            for key in tile[..n * d].chunks_exact(d) {
                key.iter().zip(&mut *keys).for_each(|(k, s)| *s += k * k);
            }
        }
        keys.iter().zip(&mut *scores).for_each(|(k, s)| *s *= k);
        let mut order: [u16; LONGEST] = std::array::from_fn(|c| c as u16);
        let order = &mut order[..d];
        // Least first; ties drop the lower channel.
        order.sort_unstable_by(|a, b| {
            scores[usize::from(*a)].max(0.0).total_cmp(&scores[usize::from(*b)].max(0.0)).then(a.cmp(b))
        });
        state.fill(0);
        for c in &order[d - self.left..] {
            state[usize::from(c / 8)] |= 1 << (c % 8);
        }
    }

    fn encode(&self, x: &[f32], state: &[u8], out: &mut [u8]) {
        let mut narrow = [0.0; LONGEST];
        let kept = x.iter().enumerate().filter(|(c, _)| stays(state, *c)).map(|(_, x)| *x);
        narrow.iter_mut().zip(kept).for_each(|(n, x)| *n = x);
        self.format.encode(&narrow[..self.left], out);
    }

    fn decode(&self, bytes: &[u8], state: &[u8], _first: usize, out: &mut [f32]) {
        let mut narrow = [0.0; LONGEST];
        self.format.decode(bytes, &mut narrow[..self.left]);
        let mut next = narrow.iter();
        for (c, out) in out.iter_mut().enumerate() {
            *out = if stays(state, c) { next.next().copied().unwrap_or(0.0) } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BlockType;

    struct Plain;

    impl Format for Plain {
        fn row_bytes(&self, d: usize) -> Result<usize, String> {
            Ok(4 * d)
        }
        fn bits(&self) -> f64 {
            32.0
        }
        fn encode(&self, x: &[f32], out: &mut [u8]) {
            crate::blocks::encode(BlockType::F32, x, out).unwrap();
        }
        fn decode(&self, bytes: &[u8], out: &mut [f32]) {
            crate::ops::cpu::decode_rows(BlockType::F32, bytes, out).unwrap();
        }
    }

    fn narrow(d: usize, ratio: f64) -> Arc<dyn Seal> {
        let think = Think { ratio, window: 4, recent: 2 };
        think.seal(Side::Keys, d, &(Arc::new(Plain) as Arc<dyn Format>)).unwrap().unwrap()
    }

    /// kv.md, A9: a large key channel with tiny queries goes before a moderate one.
    #[test]
    fn the_worked_vector_drops_what_it_says() {
        let queries = [1.0, 0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 0.1];
        let keys = [[0.2, 1.0, 1.0, 3.0], [0.1, -1.0, 0.5, -3.0], [0.3, 1.0, -0.5, 3.0]];
        let seal = narrow(4, 0.5);
        let mut state = [0];
        let mut scratch = vec![0.0; seal.scratch()];
        let mut read = |start: usize, n: usize, out: &mut [f32]| {
            for (i, out) in out.chunks_exact_mut(4).take(n).enumerate() {
                out.copy_from_slice(&keys[start + i]);
            }
        };
        seal.learn(
            Learn { rows: 3, read: &mut read, queries: &queries, stride: 4, group: 1 },
            &mut state,
            &mut scratch,
        );
        assert_eq!(state, [0b0110]);
        let (mut bytes, mut out) = ([0; 8], [9.0; 4]);
        seal.encode(&keys[0], &state, &mut bytes);
        seal.decode(&bytes, &state, 0, &mut out);
        assert_eq!(out, [0.0, 1.0, 1.0, 0.0]);
    }

    /// Of all sets of channels of its size, the one that goes has the least sum of scores.
    #[test]
    fn no_other_set_of_channels_costs_less() {
        let d = 8;
        for seed in 0..20usize {
            let at = |i: usize, by: usize| ((i * 7919 + seed * by + 13) % 97) as f32 / 40.0 - 1.2;
            let queries: Vec<f32> = (0..3 * d).map(|i| at(i, 31)).collect();
            let keys: Vec<f32> = (0..5 * d).map(|i| at(i, 57)).collect();
            let score = |c: usize| {
                let square = |x: &[f32]| x.iter().skip(c).step_by(d).map(|v| f64::from(v * v)).sum::<f64>();
                square(&queries) * square(&keys)
            };
            let seal = narrow(d, 0.4);
            let mut state = [0];
            let mut scratch = vec![0.0; seal.scratch()];
            let mut read =
                |start: usize, n: usize, out: &mut [f32]| out.copy_from_slice(&keys[start * d..(start + n) * d]);
            let learn = Learn { rows: 5, read: &mut read, queries: &queries, stride: d, group: 1 };
            seal.learn(learn, &mut state, &mut scratch);
            let cost = |dropped: u8| (0..d).filter(|c| dropped >> c & 1 == 1).map(score).sum::<f64>();
            assert_eq!(state[0].count_ones(), 5);
            let best = (0..=255u8).filter(|s| s.count_ones() == 3).map(cost).fold(f64::INFINITY, f64::min);
            assert!(cost(!state[0]) <= best * 1.000_01, "{} {best}", cost(!state[0]));
        }
    }
}
