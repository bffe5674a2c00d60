//! NF4: 4-bit NormalFloat with double quantization (QLoRA, Dettmers et al., arXiv 2305.14314, section 3 and appendix E;
//! `bitsandbytes/functional.py` has the same layout of codes).
//!
//! Blocks of the flattened matrix keep their largest magnitude; each weight is the nearest of 16 quantiles of a normal
//! distribution times that. With double quantization those maxima, less their mean over the matrix, are 8-bit floats in
//! blocks of 256 with one f32 scale: `4 + 8/64 + 32/(64 · 256) = 4.127` bits a weight.
//!
//! Payload of `(rows, cols)`: codes, two a byte, the first in the high half; then the maxima, f32 or 8-bit codes; then with
//! double quantization the second scales, f32, and the mean, f32.

use std::sync::OnceLock;

use super::format::Target;
use crate::blocks::{Packed, Scheme};
use crate::error::Error;
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<Target> = Entry {
    about: About {
        id: "nf4",
        title: "nf4",
        common: true,
        paper: "QLoRA (arXiv 2305.14314)",
        sentence: "Linears of layers in 4-bit quantiles of a normal distribution, with their scales quantized again: 4.127 bits a weight.",
        knobs: &[
            Knob {
                id: "block_size",
                label: "Block",
                paper_name: "blocksize",
                kind: KnobKind::Int { min: 32, max: 4096 },
                default: Default::Int(64),
                unit: "weights",
                sentence: "Weights that share a scale; a power of two.",
            },
            Knob {
                id: "double_quant",
                label: "Scales quantized too",
                paper_name: "Double Quantization",
                kind: KnobKind::Bool,
                default: Default::Bool(true),
                unit: "",
                sentence: "Scales are kept in 8 bits, in blocks of 256 with one f32 scale.",
            },
        ],
        ..About::on(&axes::WEIGHTS_FORMAT)
    },
    build: |knobs| {
        let block = knobs.int("block_size");
        if !block.is_power_of_two() {
            return Err(Error::config(
                "weights.format.block_size",
                format!("`{block}` is not allowed; a power of two"),
            ));
        }
        Ok(Box::new(Target::Linears(scheme(block, knobs.flag("double_quant")))))
    },
};

/// The 16 levels (appendix E).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Maxima that share a scale of the second quantization.
const SECOND: usize = 256;

/// The signed dynamic map of 8-bit floats (Dettmers et al., arXiv 2110.02861, section 2): a sign, a decimal exponent in
/// unary, and as much of a fraction as bits remain.
fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut map = [0.0f32; 256];
        let mut n = 0;
        for exponent in 0..7i32 {
            let parts = 1 << exponent;
            for k in 0..parts {
                let middle = 0.1 + 0.9 * (f64::from(k) + 0.5) / f64::from(parts);
                let value = (middle * 10f64.powi(exponent - 6)) as f32;
                map[128 + n] = value;
                map[126 - n] = -value;
                n += 1;
            }
        }
        map[255] = 1.0;
        map
    })
}

/// The middles between the levels: a value above the first `i` of them has code `i`.
fn middles() -> &'static [f64; 15] {
    static MIDDLES: OnceLock<[f64; 15]> = OnceLock::new();
    MIDDLES.get_or_init(|| std::array::from_fn(|i| f64::midpoint(f64::from(LEVELS[i]), f64::from(LEVELS[i + 1]))))
}

/// Both levels of each byte of codes.
fn pairs() -> &'static [[f32; 2]; 256] {
    static PAIRS: OnceLock<[[f32; 2]; 256]> = OnceLock::new();
    PAIRS.get_or_init(|| std::array::from_fn(|b| [LEVELS[b >> 4], LEVELS[b & 15]]))
}

/// Weights in NF4.
struct Nf4 {
    name: String,
    block: usize,
    double: bool,
}

/// The scheme of blocks of `block` weights, a power of two from 32 on.
pub(super) fn scheme(block: usize, double: bool) -> Scheme {
    let size = if block == 64 { String::new() } else { format!("block_size={block}") };
    let plain = if double { "" } else { "double_quant=false" };
    let knobs = [&*size, plain].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(",");
    let name = if knobs.is_empty() { "nf4".to_owned() } else { format!("nf4({knobs})") };
    Scheme::packed(Nf4 { name, block, double })
}

fn f32_at(bytes: &[u8], i: usize) -> f32 {
    bytes.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map_or(f32::NAN, f32::from_le_bytes)
}

/// The numbers of a payload, apart.
struct Parts<'a> {
    codes: &'a [u8],
    maxima: &'a [u8],
    second: &'a [u8],
    mean: f32,
}

impl Nf4 {
    fn parts<'a>(&self, elements: usize, payload: &'a [u8]) -> Parts<'a> {
        let blocks = elements / self.block;
        let (codes, rest) = payload.split_at(elements / 2);
        if !self.double {
            return Parts { codes, maxima: rest, second: &[], mean: 0.0 };
        }
        let (maxima, rest) = rest.split_at(blocks);
        let (second, mean) = rest.split_at(4 * blocks.div_ceil(SECOND));
        Parts { codes, maxima, second, mean: f32_at(mean, 0) }
    }

    /// The largest magnitude of block `i`.
    fn maximum(&self, parts: &Parts<'_>, i: usize) -> f32 {
        if !self.double {
            return f32_at(parts.maxima, i);
        }
        dynamic_map()[usize::from(parts.maxima[i])] * f32_at(parts.second, i / SECOND) + parts.mean
    }
}

impl Packed for Nf4 {
    fn name(&self) -> &str {
        &self.name
    }

    fn unit(&self) -> usize {
        self.block
    }

    fn bits(&self) -> f64 {
        let block = self.block as f64;
        4.0 + if self.double { 8.0 / block + 32.0 / (block * SECOND as f64) } else { 32.0 / block }
    }

    fn bytes(&self, rows: usize, cols: usize) -> Option<usize> {
        let elements = rows.checked_mul(cols).filter(|_| cols.is_multiple_of(self.block))?;
        let blocks = elements / self.block;
        let maxima = if self.double { blocks + 4 * blocks.div_ceil(SECOND) + 4 } else { 4 * blocks };
        (elements / 2).checked_add(maxima)
    }

    fn row(&self, cols: usize) -> (usize, usize) {
        (cols / 2, 4 * (cols / self.block))
    }

    fn encode(&self, _: usize, x: &[f32], payload: &mut [u8], beside: &mut [u8]) {
        let middles = middles();
        let blocks = x.chunks_exact(self.block).zip(payload.chunks_exact_mut(self.block / 2));
        for ((x, codes), kept) in blocks.zip(beside.chunks_exact_mut(4)) {
            let most = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            kept.copy_from_slice(&most.to_le_bytes());
            let by = most.max(1e-38);
            let code = |v: f32| middles.iter().map(|m| u8::from(f64::from(v / by) > *m)).sum::<u8>();
            for (pair, byte) in x.as_chunks::<2>().0.iter().zip(codes) {
                *byte = code(pair[0]) << 4 | code(pair[1]);
            }
        }
    }

    fn seal(&self, rows: usize, cols: usize, payload: &mut [u8], beside: &[u8]) {
        let elements = rows * cols;
        let blocks = elements / self.block;
        let rest = &mut payload[elements / 2..];
        if !self.double {
            rest[..4 * blocks].copy_from_slice(&beside[..4 * blocks]);
            return;
        }
        let map = dynamic_map();
        let sum: f64 = (0..blocks).map(|i| f64::from(f32_at(beside, i))).sum();
        let mean = (sum / blocks.max(1) as f64) as f32;
        let (codes, rest) = rest.split_at_mut(blocks);
        let (second, last) = rest.split_at_mut(4 * blocks.div_ceil(SECOND));
        last[..4].copy_from_slice(&mean.to_le_bytes());
        for (g, (codes, kept)) in codes.chunks_mut(SECOND).zip(second.chunks_exact_mut(4)).enumerate() {
            let centred = |i: usize| f32_at(beside, g * SECOND + i) - mean;
            let most = (0..codes.len()).fold(0.0f32, |most, i| most.max(centred(i).abs()));
            kept.copy_from_slice(&most.to_le_bytes());
            for (i, code) in codes.iter_mut().enumerate() {
                let v = f64::from(centred(i) / most.max(1e-38));
                let above = |m: &[f32]| f64::midpoint(f64::from(m[0]), f64::from(m[1])) < v;
                // The map rises, so the middles below `v` are the first ones.
                let (mut low, mut high) = (0, map.len() - 1);
                while low < high {
                    let at = usize::midpoint(low, high);
                    if above(&map[at..at + 2]) { low = at + 1 } else { high = at }
                }
                *code = low as u8;
            }
        }
    }

    fn decode(&self, rows: usize, cols: usize, payload: &[u8], at: usize, out: &mut [f32]) {
        let (parts, pairs) = (self.parts(rows * cols, payload), pairs());
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            // To the end of the block that `at` is in.
            let n = (self.block - at % self.block).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            let by = self.maximum(&parts, at / self.block);
            for (out, byte) in now.as_chunks_mut::<2>().0.iter_mut().zip(&parts.codes[at / 2..]) {
                let [a, b] = pairs[usize::from(*byte)];
                *out = [a * by, b * by];
            }
            (at, rest) = (at + n, later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BlockType;
    use crate::ops::ThreadTeam;
    use crate::ops::cpu::{Mat, linear, linear_scratch, vjp};

    /// The whole of a matrix through the scheme, as loading does it.
    fn encoded(scheme: Scheme, rows: usize, cols: usize, x: &[f32]) -> Vec<u8> {
        let Scheme::Packed(packed) = scheme else { panic!() };
        let mut payload = vec![0; packed.bytes(rows, cols).unwrap()];
        let (row, beside) = packed.row(cols);
        let mut kept = vec![0; rows * beside];
        packed.encode(cols, x, &mut payload[..rows * row], &mut kept);
        packed.seal(rows, cols, &mut payload, &kept);
        payload
    }

    fn decoded(scheme: Scheme, rows: usize, cols: usize, payload: &[u8]) -> Vec<f32> {
        let Scheme::Packed(packed) = scheme else { panic!() };
        let mut out = vec![f32::NAN; rows * cols];
        packed.decode(rows, cols, payload, 0, &mut out);
        out
    }

    /// The formula of `make_nf4.py`.
    fn weights(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        (0..(rows * cols) as u64)
            .map(|i| {
                let x = ((i + seed) * 2_654_435_761 + 97) % (1 << 32);
                let x = ((x ^ (x >> 15)) * 2_246_822_519) % (1 << 32);
                let x = x ^ (x >> 13);
                let total: i64 = (0..4).map(|k| ((x >> (8 * k)) & 255) as i64 - 128).sum();
                (total as f64 * (1 + i / cols as u64 % 5) as f64 / 8192.0) as f32
            })
            .collect()
    }

    /// `tests/scripts/make_nf4.py`: the paper's definition in PyTorch.
    #[test]
    fn codes_and_values_are_those_of_the_paper_s_definition() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/weights/nf4.json"));
        let all: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        let numbers =
            |v: &serde_json::Value| v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>();
        let close = |got: &[f32], want: &[f64]| {
            assert_eq!(got.len(), want.len());
            for (a, b) in got.iter().zip(want) {
                assert!((f64::from(*a) - b).abs() <= 2e-7 * b.abs(), "{a} {b}");
            }
        };
        close(&LEVELS, &numbers(&all["levels"]));
        close(dynamic_map(), &numbers(&all["map"]));
        let weighted = |codes: &mut dyn Iterator<Item = u8>| {
            codes.enumerate().map(|(i, c)| u64::from(c) * (1 + i as u64 % 251)).sum::<u64>()
        };
        let cases = all["cases"].as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let whole = |key: &str| case[key].as_u64().unwrap();
            let (rows, cols, block) = (whole("rows") as usize, whole("cols") as usize, whole("block_size") as usize);
            let double = case["double_quant"].as_bool().unwrap();
            let x = weights(rows, cols, whole("seed"));
            let scheme = scheme(block, double);
            let payload = encoded(scheme, rows, cols, &x);
            let nf4 = Nf4 { name: String::new(), block, double };
            let parts = nf4.parts(rows * cols, &payload);
            let mut codes = parts.codes.iter().flat_map(|b| [b >> 4, b & 15]);
            assert_eq!(weighted(&mut codes), whole("codes_sum"), "{case}");
            let first: Vec<f64> = parts.codes.iter().flat_map(|b| [b >> 4, b & 15]).take(96).map(f64::from).collect();
            assert_eq!(first, numbers(&case["codes"]));
            if double {
                assert_eq!(weighted(&mut parts.maxima.iter().copied()), whole("scale_codes_sum"));
                let first: Vec<f64> = parts.maxima.iter().take(64).map(|c| f64::from(*c)).collect();
                assert_eq!(first, numbers(&case["scale_codes"]));
                let second: Vec<f32> = (0..parts.second.len() / 4).map(|i| f32_at(parts.second, i)).collect();
                close(&second, &numbers(&case["second"]));
                close(&[parts.mean], &[case["mean"].as_f64().unwrap()]);
            }
            let out = decoded(scheme, rows, cols, &payload);
            let shown: Vec<f32> = out.iter().step_by((out.len() / 40).max(1)).copied().collect();
            close(&shown, &numbers(&case["decoded"]));
            let error = out.iter().zip(&x).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
            assert!((error / case["error"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{error} {case}");
        }
    }

    #[test]
    fn known_codes_exact_levels_and_the_bound_of_the_error() {
        let middles = middles();
        let code = |v: f64| middles.iter().filter(|m| v > **m).count();
        // fine-tuning.md §9.1.
        assert_eq!((code(0.05), code(-0.3), code(0.9), code(0.0)), (8, 4, 15, 7));
        // Levels times a power of two come back exactly, zeros stay zero.
        let x: Vec<f32> = (0..256).map(|i| if i < 64 { 0.0 } else { LEVELS[i % 16] * 0.5 }).collect();
        let plain = scheme(64, false);
        assert_eq!(decoded(plain, 2, 128, &encoded(plain, 2, 128, &x)), x);
        let x = weights(40, 192, 3);
        for double in [false, true] {
            let scheme = scheme(64, double);
            let out = decoded(scheme, 40, 192, &encoded(scheme, 40, 192, &x));
            for (x, out) in x.chunks(64).zip(out.chunks(64)) {
                let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // Half of the widest gap, and what the second quantization moves.
                assert!(x.iter().zip(out).all(|(a, b)| (a - b).abs() <= (0.153 + 0.02) * most), "{double}");
            }
        }
    }

    #[test]
    fn any_stretch_decodes_to_the_bits_of_the_whole() {
        for (block, double) in [(64, true), (128, false), (32, true)] {
            let scheme = scheme(block, double);
            let Scheme::Packed(packed) = scheme else { panic!() };
            let payload = encoded(scheme, 9, 384, &weights(9, 384, 11));
            let whole = decoded(scheme, 9, 384, &payload);
            for (at, n) in [(0, 32), (32, 96), (384, 384), (384 + 96, 160), (9 * 384 - 32, 32)] {
                let mut out = vec![f32::NAN; n];
                packed.decode(9, 384, &payload, at, &mut out);
                assert_eq!(out, whole[at..at + n], "{block} {at} {n}");
            }
        }
    }

    /// A product with the payload is the product with what it decodes to, bit for bit, whatever the cut.
    #[test]
    fn products_forward_and_back_are_those_of_the_decoded_matrix() {
        let (rows, cols) = (70, 1600);
        let (scheme, plain) = (scheme(64, true), BlockType::F32);
        let payload = encoded(scheme, rows, cols, &weights(rows, cols, 5));
        let values = decoded(scheme, rows, cols, &payload);
        let (packed, wide) = (
            Mat::new(scheme, rows, cols, &payload).unwrap(),
            Mat::new(plain, rows, cols, bytemuck::cast_slice(&values)).unwrap(),
        );
        assert!(Mat::new(scheme, rows, cols, &payload[1..]).is_err());
        for threads in [1, 3] {
            let team = ThreadTeam::new(threads).unwrap();
            for m in [1, 5, 100] {
                let x: Vec<f32> = weights(m, cols, 1).iter().map(|v| 3.0 * v).collect();
                let dy: Vec<f32> = weights(m, rows, 2);
                for (first, n) in [(0, rows), (13, 41)] {
                    let both = [packed.slice(first, n).unwrap(), wide.slice(first, n).unwrap()].map(|w| {
                        let mut scratch = vec![0.0; linear_scratch(threads, cols).max(vjp::dx_scratch(threads))];
                        let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * cols]);
                        linear(&team, &x, m, w, &mut y, n, &mut scratch).unwrap();
                        vjp::linear_dx(&team, &dy[..m * n], m, w, &mut dx, false, &mut scratch).unwrap();
                        (y, dx)
                    });
                    assert!(both[0] == both[1] && both[0].0.iter().any(|v| *v != 0.0), "{threads} {m} {first}");
                }
            }
        }
        assert!(packed.slice(60, 11).is_err());
    }

    #[test]
    fn bytes_are_the_paper_s_bits() {
        let nf4 = scheme(64, true);
        assert!((nf4.bits() - 4.127).abs() < 1e-3, "{}", nf4.bits());
        // fine-tuning.md §9: the linears of SmolLM2-135M come to 54 768 960 B, where every matrix rounds its second scales up
        // and keeps its mean.
        let (h, kv, ff) = (576, 192, 1536);
        let linears = [(h, h), (kv, h), (kv, h), (h, h), (ff, h), (ff, h), (h, ff)];
        let exact: f64 = linears.iter().map(|(m, n)| 30.0 * (m * n) as f64 * nf4.bits() / 8.0).sum();
        assert_eq!(exact, 54_768_960.0);
        let held: usize = linears.iter().map(|(m, n)| 30 * nf4.bytes(*m, *n).unwrap()).sum();
        assert!((held as f64 - exact) >= 30.0 * 7.0 * 4.0 && (held as f64 - exact) < 30.0 * 7.0 * 8.0, "{held}");
        assert_eq!(scheme(64, false).bytes(3, 128), Some(3 * 64 + 4 * 6));
        assert_eq!(nf4.bytes(3, 100), None);
        assert_eq!((nf4.name(), scheme(128, false).name()), ("nf4", "nf4(block_size=128,double_quant=false)"));
        assert!(scheme(64, true) == nf4 && scheme(128, true) != nf4);
    }
}
