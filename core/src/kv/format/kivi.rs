//! Keys quantized per channel, values per token, the newest tokens whole: KIVI (arXiv 2402.02750, §4, algorithm 1).

use std::sync::Arc;

use half::f16;

use crate::blocks::{self, BlockType};
use crate::kv::{Counts, Format, Seal, Side};
use crate::ops::cpu;
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

const BITS: KnobKind = KnobKind::Int { min: 2, max: 8 };

/// The catalogue entry.
pub static ENTRY: Entry<dyn Format> = Entry {
    about: About {
        id: "kivi",
        title: "kivi",
        common: true,
        paper: "Liu et al., KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, ICML 2024, arXiv 2402.02750",
        sentence: "2-bit keys by channel and values by token, with an f16 scale and minimum for each group: 3 bits an element at groups of 32; the newest tokens stay f16.",
        knobs: &[
            Knob {
                id: "k_bits",
                label: "Bits of keys",
                paper_name: "k_bits",
                kind: BITS,
                default: Default::Int(2),
                unit: "bits",
                sentence: "2, 4 or 8.",
            },
            Knob {
                id: "v_bits",
                label: "Bits of values",
                paper_name: "v_bits",
                kind: BITS,
                default: Default::Int(2),
                unit: "bits",
                sentence: "2, 4 or 8.",
            },
            Knob {
                id: "group_size",
                label: "Group size",
                paper_name: "group_size",
                kind: KnobKind::Int { min: 8, max: 1024 },
                default: Default::Int(32),
                unit: "elements",
                sentence: "Elements that share a scale and a minimum: tokens of a key channel, channels of a token's value.",
            },
            Knob {
                id: "residual_length",
                label: "Newest tokens whole",
                paper_name: "residual_length",
                kind: KnobKind::Int { min: 8, max: 1 << 16 },
                default: Default::Int(128),
                unit: "rows",
                sentence: "Newest tokens that are not quantized, a multiple of the group size; keys are quantized when so many have come.",
            },
        ],
        ..About::on(&axes::KV_FORMAT)
    },
    build: |knobs| {
        Ok(Box::new(Kivi {
            bits: [knobs.int("k_bits"), knobs.int("v_bits")],
            group: knobs.int("group_size"),
            residual: knobs.int("residual_length"),
        }))
    },
};

struct Kivi {
    bits: [usize; 2],
    group: usize,
    residual: usize,
}

impl Format for Kivi {
    fn row_bytes(&self, d: usize) -> Result<usize, String> {
        Ok(2 * d)
    }

    fn bits(&self) -> f64 {
        (self.bits[0] + self.bits[1]) as f64 / 2.0 + 32.0 / self.group as f64
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        // f16 takes rows of any length.
        let done = blocks::encode(BlockType::F16, x, out);
        debug_assert!(done.is_ok());
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        let done = cpu::decode_rows(BlockType::F16, bytes, out);
        debug_assert!(done.is_ok());
    }

    fn seal(&self, side: Side, d: usize) -> Result<Option<Arc<dyn Seal>>, String> {
        let Self { group, residual, .. } = *self;
        let (name, bits) = if side == Side::Keys { ("k_bits", self.bits[0]) } else { ("v_bits", self.bits[1]) };
        if !matches!(bits, 2 | 4 | 8) {
            return Err(format!("{name} = {bits} does not fill bytes evenly; 2, 4 or 8"));
        }
        if !residual.is_multiple_of(group) {
            return Err(format!("residual_length = {residual} is no multiple of group_size = {group}"));
        }
        if !d.is_multiple_of(if side == Side::Keys { 8 / bits } else { group }) || !group.is_multiple_of(8 / bits) {
            return Err(format!(
                "heads of this model have {d} elements, which groups of {group} do not divide; lower group_size"
            ));
        }
        Ok(Some(match side {
            Side::Keys => Arc::new(Keys { bits, group, residual, d }),
            Side::Values => Arc::new(Values { bits, group, residual, d }),
        }))
    }
}

/// Scale and minimum of a group as they are stored, and what a code stands for.
#[derive(Clone, Copy)]
struct Step {
    scale: f16,
    low: f16,
}

impl Step {
    fn of(x: impl Iterator<Item = f32>, bits: usize) -> Self {
        let (low, high) = x.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let most = ((1u32 << bits) - 1) as f32;
        Self { scale: f16::from_f32((high - low) / most), low: f16::from_f32(low) }
    }

    fn code(self, x: f32, bits: usize) -> u8 {
        let scale = self.scale.to_f32();
        if scale == 0.0 {
            return 0;
        }
        let most = ((1u32 << bits) - 1) as f32;
        ((x - self.low.to_f32()) / scale).round_ties_even().clamp(0.0, most) as u8
    }
}

/// Codes of `bits` bits in a row, lowest first.
fn put(codes: &mut [u8], i: usize, bits: usize, code: u8) {
    codes[i * bits / 8] |= code << (i * bits % 8);
}

fn get(codes: &[u8], i: usize, bits: usize) -> f32 {
    let mask = ((1u16 << bits) - 1) as u8;
    f32::from((codes[i * bits / 8] >> (i * bits % 8)) & mask)
}

fn half_at(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}

/// A group of tokens: `[scales d][minima d]` in f16, then each token's codes.
struct Keys {
    bits: usize,
    group: usize,
    residual: usize,
    d: usize,
}

impl Seal for Keys {
    fn group(&self) -> usize {
        self.group
    }

    fn group_bytes(&self) -> usize {
        4 * self.d + self.group * self.d * self.bits / 8
    }

    fn at_prompt(&self, rows: usize) -> usize {
        rows - rows % self.residual
    }

    fn after_step(&self, open: usize) -> usize {
        open - open % self.residual
    }

    fn counts(&self, prompt: usize, rows: usize) -> Counts {
        // A row more is open in the instant before a whole residual is sealed.
        let open = prompt % self.residual + (rows - prompt);
        Counts { sealed: rows - rows % self.residual, open: open.min(self.residual) }
    }

    fn encode(&self, x: &[f32], _state: &[u8], out: &mut [u8]) {
        let (d, bits) = (self.d, self.bits);
        let (steps, codes) = out.split_at_mut(4 * d);
        codes.fill(0);
        for c in 0..d {
            let step = Step::of(x.iter().skip(c).step_by(d).copied(), bits);
            steps[2 * c..2 * c + 2].copy_from_slice(&step.scale.to_le_bytes());
            steps[2 * (d + c)..2 * (d + c) + 2].copy_from_slice(&step.low.to_le_bytes());
            for (row, codes) in x.chunks_exact(d).zip(codes.chunks_exact_mut(d * bits / 8)) {
                put(codes, c, bits, step.code(row[c], bits));
            }
        }
    }

    fn decode(&self, bytes: &[u8], _state: &[u8], first: usize, out: &mut [f32]) {
        let (d, bits) = (self.d, self.bits);
        let (steps, codes) = bytes.split_at(4 * d);
        let width = d * bits / 8;
        let codes = &codes[first * width..];
        // Rows are counted once: a division in the loop over channels was moved out of it unguarded by an optimizer.
        let rows = out.len().checked_div(d).unwrap_or(0);
        for c in 0..d {
            let (scale, low) = (half_at(steps, c), half_at(steps, d + c));
            for r in 0..rows {
                out[r * d + c] = get(&codes[r * width..(r + 1) * width], c, bits) * scale + low;
            }
        }
    }
}

/// One token: `[scales][minima]` in f16, one each for a group of channels, then its codes.
struct Values {
    bits: usize,
    group: usize,
    residual: usize,
    d: usize,
}

impl Seal for Values {
    fn group(&self) -> usize {
        1
    }

    fn group_bytes(&self) -> usize {
        4 * (self.d / self.group) + self.d * self.bits / 8
    }

    fn at_prompt(&self, rows: usize) -> usize {
        rows.saturating_sub(self.residual)
    }

    fn after_step(&self, open: usize) -> usize {
        open.saturating_sub(self.residual)
    }

    fn counts(&self, prompt: usize, rows: usize) -> Counts {
        // The newcomer stands beside a full residual until the oldest token is sealed.
        let open = prompt.min(self.residual) + (rows - prompt);
        Counts {
            sealed: rows.saturating_sub(self.residual),
            open: open.min(self.residual + usize::from(rows > prompt)),
        }
    }

    fn encode(&self, x: &[f32], _state: &[u8], out: &mut [u8]) {
        let groups = self.d / self.group;
        let (steps, codes) = out.split_at_mut(4 * groups);
        codes.fill(0);
        for (g, x) in x.chunks_exact(self.group).enumerate() {
            let step = Step::of(x.iter().copied(), self.bits);
            steps[2 * g..2 * g + 2].copy_from_slice(&step.scale.to_le_bytes());
            steps[2 * (groups + g)..2 * (groups + g) + 2].copy_from_slice(&step.low.to_le_bytes());
            for (i, x) in x.iter().enumerate() {
                put(codes, g * self.group + i, self.bits, step.code(*x, self.bits));
            }
        }
    }

    fn decode(&self, bytes: &[u8], _state: &[u8], _first: usize, out: &mut [f32]) {
        let groups = self.d / self.group;
        let (steps, codes) = bytes.split_at(4 * groups);
        for (g, out) in out.chunks_exact_mut(self.group).enumerate() {
            let (scale, low) = (half_at(steps, g), half_at(steps, groups + g));
            for (i, out) in out.iter_mut().enumerate() {
                *out = get(codes, g * self.group + i, self.bits) * scale + low;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_quantized_as_the_worked_vector_says() {
        // kv.md, A10: (−1, −.4, .1, .6, 2) in 2 bits.
        let x = [-1.0, -0.4, 0.1, 0.6, 2.0];
        let step = Step::of(x.into_iter(), 2);
        assert_eq!((step.scale.to_f32(), step.low.to_f32()), (1.0, -1.0));
        assert_eq!(x.map(|x| step.code(x, 2)), [0, 1, 1, 2, 3]);
        let flat = Step::of([0.25; 4].into_iter(), 2);
        assert_eq!((flat.scale.to_f32(), flat.code(0.25, 2), flat.low.to_f32()), (0.0, 0, 0.25));
    }

    #[test]
    fn residuals_have_the_published_lengths() {
        // kv.md, A11, with a residual of 8: (prompt, open keys, open values).
        let keys = Keys { bits: 2, group: 8, residual: 8, d: 8 };
        let values = Values { bits: 2, group: 8, residual: 8, d: 8 };
        for (n, k, v) in [(5, 5, 5), (8, 0, 8), (13, 5, 8)] {
            assert_eq!((n - keys.at_prompt(n), n - values.at_prompt(n)), (k, v), "{n}");
        }
        // Then token by token, against counting by hand.
        for prompt in 0..40 {
            let (mut k, mut v) = (keys.at_prompt(prompt), values.at_prompt(prompt));
            let (mut most_k, mut most_v) = (prompt - k, prompt - v);
            for rows in prompt + 1..prompt + 40 {
                (most_k, most_v) = (most_k.max(rows - k), most_v.max(rows - v));
                k += keys.after_step(rows - k);
                v += values.after_step(rows - v);
                assert_eq!(rows - k, rows % 8);
                assert_eq!(rows - v, rows.min(8));
                assert_eq!(keys.counts(prompt, rows), Counts { sealed: k, open: most_k }, "{prompt} {rows}");
                assert_eq!(values.counts(prompt, rows), Counts { sealed: v, open: most_v }, "{prompt} {rows}");
            }
        }
    }

    #[test]
    fn an_element_is_off_by_half_a_step_at_most() {
        let d = 16;
        let x: Vec<f32> = (0..8 * d).map(|i| ((i * 7919) % 1009) as f32 / 300.0 - 1.7).collect();
        for bits in [2, 4, 8] {
            let seals: [Box<dyn Seal>; 2] = [
                Box::new(Keys { bits, group: 8, residual: 8, d }),
                Box::new(Values { bits, group: 8, residual: 8, d }),
            ];
            for seal in seals {
                let n = seal.group();
                let mut bytes = vec![0xff; seal.group_bytes()];
                let mut out = vec![0.0; n * d];
                seal.encode(&x[..n * d], &[], &mut bytes);
                seal.decode(&bytes, &[], 0, &mut out);
                for (x, y) in x.iter().zip(&out) {
                    // The widest group spans 3.4; scale and minimum are rounded to f16.
                    let step = 3.4 / ((1 << bits) - 1) as f32;
                    assert!((x - y).abs() <= 0.5 * step + 4e-3, "{bits} bits: {x} became {y}");
                }
            }
        }
    }
}
