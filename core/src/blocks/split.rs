//! Blocks taken apart into whole numbers: what a product in integers multiplies with.
//!
//! Every type but the plain ones is `x = d·s·q − e·m`: one or two f32 factors of a block, a small whole scale and minimum for each
//! 16 elements, and a whole code for each element. Grid types are so too: their halves and eighths go into `d`.

use super::codebook::{IQ4, MXFP4, half_e8m0};
use super::k::six_bit_pair;
use super::plain::f16_to_f32;
use super::{BlockType, iq, ternary};

/// Elements that share a scale, at least.
pub const RUN: usize = 16;

/// A block of up to 256 elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Factor of the scales.
    pub d: f32,
    /// Factor of the minima.
    pub e: f32,
    /// Whether the type has minima.
    pub has_minima: bool,
    /// Scales of runs of [`RUN`] elements.
    pub scales: [i16; 16],
    /// Minima of runs.
    pub minima: [i16; 16],
    /// Codes of elements.
    pub codes: [i8; 256],
}

impl Split {
    const fn of(d: f32) -> Self {
        Self { d, e: 0.0, has_minima: false, scales: [1; 16], minima: [1; 16], codes: [0; 256] }
    }

    const fn with_minima(d: f32, e: f32) -> Self {
        Self { e, has_minima: true, ..Self::of(d) }
    }

    /// Element `k`.
    pub fn value(&self, k: usize) -> f32 {
        let scaled = self.d * f32::from(self.scales[k / RUN]) * f32::from(self.codes[k]);
        if self.has_minima { scaled - self.e * f32::from(self.minima[k / RUN]) } else { scaled }
    }

    /// Codes from unsigned ones, less `offset`.
    fn fill(mut self, offset: i16, code: impl Fn(usize) -> u8) -> Self {
        for (k, q) in self.codes.iter_mut().enumerate() {
            *q = (i16::from(code(k)) - offset) as i8;
        }
        self
    }

    /// The same of a block of 32.
    fn fill32(mut self, offset: i16, code: impl Fn(usize) -> u8) -> Self {
        for (k, q) in self.codes[..32].iter_mut().enumerate() {
            *q = (i16::from(code(k)) - offset) as i8;
        }
        self
    }

    /// Codes of `runs` of 8 elements.
    fn eights(mut self, run: impl Fn(usize) -> [i8; 8]) -> Self {
        for (i, q) in self.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *q = run(i);
        }
        self
    }

    fn scales(mut self, scale: impl Fn(usize) -> i16) -> Self {
        self.scales = std::array::from_fn(scale);
        self
    }
}

/// Whether [`split`] knows `ty`: every type that decodes and whose blocks are of more than one element.
pub fn can_split(ty: BlockType) -> bool {
    ty.elems() > 1
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16_to_f32([b[at], b[at + 1]])
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Nibble `k` of a block of 32, whose high halves are its last sixteen.
fn nibble(b: &[u8], k: usize) -> u8 {
    b[k % 16] >> (4 * (k / 16)) & 15
}

/// Nibble `i` of `b`, low first.
fn half_byte(b: &[u8], i: usize) -> i16 {
    i16::from(b[i / 2] >> (4 * (i % 2)) & 15)
}

/// The block at the start of `b`, which is a whole one of `ty`; zeros for a type that [`can_split`] does not know.
pub fn split(ty: BlockType, b: &[u8]) -> Split {
    let fifth = |at: usize, k: usize| ((u32_at(b, at) >> k & 1) << 4) as u8;
    // Of a super-block of 256, the 32 elements that k is of, and its place in them.
    let at32 = |k: usize| (k / 32, k % 32);
    match ty {
        BlockType::Q4_0 => Split::of(half_at(b, 0)).fill32(8, |k| nibble(&b[2..], k)),
        BlockType::Q4_1 => Split::with_minima(half_at(b, 0), -half_at(b, 2)).fill32(0, |k| nibble(&b[4..], k)),
        BlockType::Q5_0 => Split::of(half_at(b, 0)).fill32(16, |k| nibble(&b[6..], k) | fifth(2, k)),
        BlockType::Q5_1 => {
            Split::with_minima(half_at(b, 0), -half_at(b, 2)).fill32(0, |k| nibble(&b[8..], k) | fifth(4, k))
        }
        BlockType::Q8_0 => Split::of(half_at(b, 0)).fill32(0, |k| b[2 + k]),
        BlockType::Q8_1 => Split::of(half_at(b, 0)).fill32(0, |k| b[4 + k]),
        BlockType::Iq4Nl => Split::of(half_at(b, 0)).fill32(0, |k| IQ4[usize::from(nibble(&b[2..], k))] as u8),
        BlockType::Mxfp4 => Split::of(half_e8m0(b[0])).fill32(0, |k| MXFP4[usize::from(nibble(&b[1..], k))] as u8),
        BlockType::Q2K => {
            let mut s = Split::with_minima(half_at(b, 80), half_at(b, 82)).scales(|j| i16::from(b[j] & 15));
            s.minima = std::array::from_fn(|j| i16::from(b[j] >> 4));
            s.fill(0, |k| b[16 + 32 * (k / 128) + k % 32] >> (2 * (k / 32 % 4)) & 3)
        }
        BlockType::Q3K => {
            let packed = &b[96..108];
            let scale = |j: usize| packed[j % 8] >> (4 * (j / 8)) & 15 | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
            Split::of(half_at(b, 108)).scales(|j| i16::from(scale(j)) - 32).fill(4, |k| {
                b[32 + 32 * (k / 128) + k % 32] >> (2 * (k / 32 % 4)) & 3 | (b[k % 32] >> (k / 32) & 1) << 2
            })
        }
        BlockType::Q4K | BlockType::Q5K => {
            let packed: [u8; 12] = std::array::from_fn(|i| b[4 + i]);
            let pair = |j: usize| six_bit_pair(&packed, j / 2);
            let mut s = Split::with_minima(half_at(b, 0), half_at(b, 2)).scales(|j| i16::from(pair(j).0));
            s.minima = std::array::from_fn(|j| i16::from(pair(j).1));
            let low = if ty == BlockType::Q4K { 16 } else { 48 };
            s.fill(0, |k| {
                let (part, l) = at32(k);
                let fifth = if ty == BlockType::Q5K { (b[16 + l] >> part & 1) << 4 } else { 0 };
                b[low + 32 * (part / 2) + l] >> (4 * (part % 2)) & 15 | fifth
            })
        }
        BlockType::Q6K => Split::of(half_at(b, 208)).scales(|j| i16::from(b[192 + j] as i8)).fill(32, |k| {
            let (half, quarter, l) = (k / 128, k / 32 % 4, k % 32);
            b[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15
                | (b[128 + 32 * half + l] >> (2 * quarter) & 3) << 4
        }),
        BlockType::Q8K => Split::of(f32::from_bits(u32_at(b, 0))).fill(0, |k| b[4 + k]),
        BlockType::Iq4Xs => {
            let scale = |s: usize| half_byte(&b[4..8], s) | ((u16_at(b, 2) >> (2 * s) & 3) << 4) as i16;
            (Split::of(half_at(b, 0)).scales(|j| scale(j / 2) - 32))
                .fill(0, |k| IQ4[usize::from(nibble(&b[8 + 16 * (k / 32)..], k % 32))] as u8)
        }
        BlockType::Tq1_0 => Split::of(half_at(b, 52)).fill(1, |k| ternary::tq1_digit(b, k)),
        BlockType::Tq2_0 => Split::of(half_at(b, 64)).fill(1, |k| b[32 * (k / 128) + k % 32] >> (2 * (k / 32 % 4)) & 3),
        _ => grid(ty, b),
    }
}

/// The types of grids.
fn grid(ty: BlockType, b: &[u8]) -> Split {
    let odd = |s: i16| 2 * s + 1;
    match ty {
        BlockType::Iq2Xxs => {
            let word = |i: usize| u32_at(b, 6 + 8 * (i / 4));
            (Split::of(half_at(b, 0) * 0.125).scales(|j| odd((word(2 * j) >> 28) as i16))).eights(|i| {
                let entry = b[2 + 8 * (i / 4) + i % 4];
                signed(&iq::IQ2_XXS[usize::from(entry)], iq::even_signs(word(i) >> (7 * (i % 4))))
            })
        }
        BlockType::Iq2Xs => {
            let code = |i: usize| u16_at(b, 2 + 2 * i);
            (Split::of(half_at(b, 0) * 0.125).scales(|j| odd(half_byte(&b[66..], j))))
                .eights(|i| signed(&iq::IQ2_XS[usize::from(code(i) & 511)], iq::even_signs(u32::from(code(i) >> 9))))
        }
        BlockType::Iq2S => (Split::of(half_at(b, 0) * 0.125).scales(|j| odd(half_byte(&b[74..], j)))).eights(|i| {
            let high = usize::from(b[66 + i / 4] >> (2 * (i % 4)) & 3);
            signed(&iq::IQ2_S[usize::from(b[2 + i]) | high << 8], b[34 + i])
        }),
        BlockType::Iq3Xxs => {
            let word = |i: usize| u32_at(b, 66 + 4 * (i / 4));
            (Split::of(half_at(b, 0) * 0.25).scales(|j| odd((word(2 * j) >> 28) as i16))).eights(|i| {
                let [low, high] = [0, 1].map(|half| iq::IQ3_XXS[usize::from(b[2 + 2 * i + half])]);
                signed(&joined(low, high), iq::even_signs(word(i) >> (7 * (i % 4))))
            })
        }
        BlockType::Iq3S => {
            let entry = |i: usize| usize::from(b[2 + i]) | usize::from(b[66 + i / 8] >> (i % 8) & 1) << 8;
            (Split::of(half_at(b, 0)).scales(|j| odd(half_byte(&b[106..], j / 2))))
                .eights(|i| signed(&joined(iq::IQ3_S[entry(2 * i)], iq::IQ3_S[entry(2 * i + 1)]), b[74 + i]))
        }
        BlockType::Iq1S => {
            let word = |i: usize| u16_at(b, 34 + 2 * (i / 4));
            (Split::of(half_at(b, 0) * 0.125).scales(|j| odd((word(2 * j) >> 12 & 7) as i16))).eights(|i| {
                let high = usize::from(word(i) >> (3 * (i % 4)) & 7);
                shifted(usize::from(b[2 + i]) | high << 8, word(i) & 0x8000 != 0)
            })
        }
        BlockType::Iq1M => {
            let word = |k: usize| u16_at(b, 48 + 2 * k);
            (Split::of(iq::iq1_m_scale(b) * 0.125).scales(|j| odd((word(j / 4) >> (3 * (j % 4)) & 7) as i16))).eights(
                |i| {
                    let high = half_byte(&b[32..48], i) as usize;
                    shifted(usize::from(b[i]) | (high & 7) << 8, high & 8 != 0)
                },
            )
        }
        _ => Split::of(0.0),
    }
}

fn joined(low: [i8; 4], high: [i8; 4]) -> [i8; 8] {
    std::array::from_fn(|j| if j < 4 { low[j] } else { high[j - 4] })
}

fn signed(grid: &[i8; 8], signs: u8) -> [i8; 8] {
    std::array::from_fn(|j| if signs >> j & 1 == 1 { -grid[j] } else { grid[j] })
}

/// A run of iq1 in eighths.
fn shifted(entry: usize, down: bool) -> [i8; 8] {
    iq::IQ1[entry].map(|g| 8 * g + if down { -1 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{decode, synthetic};

    #[test]
    fn what_is_taken_apart_is_what_decodes() {
        for ty in BlockType::ALL.iter().copied().filter(|ty| can_split(*ty)) {
            let bytes = synthetic(ty, 40 * ty.elems(), 7).unwrap();
            let mut plain = vec![0.0; 40 * ty.elems()];
            decode(ty, &bytes, &mut plain).unwrap();
            for (block, plain) in bytes.chunks(ty.block_bytes()).zip(plain.chunks(ty.elems())) {
                let split = split(ty, block);
                for (k, x) in plain.iter().enumerate() {
                    assert_eq!(
                        split.value(k).to_bits(),
                        x.to_bits(),
                        "{ty} element {k}: {} is not {x}",
                        split.value(k)
                    );
                }
            }
        }
    }
}
