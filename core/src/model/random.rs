//! Models made of random numbers, for memory and speed: `random:llama-1b`, `random:llama-8b@q4_0`,
//! `random:path/config.json@q8_0`, `random:path/model.gguf@f32#7`, `random:bundled:recall@f32`.
//!
//! Weights are made where they are to lie, block by block, from a counter: the same seed, tensor and row give the same
//! bytes on every machine and in any order. Matrices have a standard deviation near 1/√cols, so that hidden states and
//! logits stay finite; norms are ones. A GGUF file lends its shape and its words, and its matrices begin as those of a
//! model that is yet to be trained: 0.02, what adds to the residual stream divided by √(2 · layers) (GPT-2).

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::arch::hf_keys;
use super::arch::{Ask, Hyper, Layer, Turning};
use crate::blocks::{BlockType, place_scales};
use crate::error::{Error, Result};
use crate::shape::{ModelShape, TensorShape};
use crate::weights::format::{Formats, Target};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The types random weights can have: all that are multiplied with but f64.
pub const TYPES: [BlockType; 27] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::Bf16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Q8_1,
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::Q4K,
    BlockType::Q5K,
    BlockType::Q6K,
    BlockType::Q8K,
    BlockType::Iq1S,
    BlockType::Iq1M,
    BlockType::Iq2Xxs,
    BlockType::Iq2Xs,
    BlockType::Iq2S,
    BlockType::Iq3Xxs,
    BlockType::Iq3S,
    BlockType::Iq4Nl,
    BlockType::Iq4Xs,
    BlockType::Mxfp4,
    BlockType::Tq1_0,
    BlockType::Tq2_0,
];

/// Shapes known by name, as their `config.json` gives them.
struct Preset {
    name: &'static str,
    hidden: u64,
    layers: usize,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    ff: u64,
    vocab: u64,
    context: u64,
    rope_base: f32,
    tied: bool,
}

const PRESETS: [Preset; 3] = [
    // HuggingFaceTB/SmolLM2-135M
    Preset {
        name: "smollm2-135m",
        hidden: 576,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ff: 1536,
        vocab: 49_152,
        context: 8192,
        rope_base: 100_000.0,
        tied: true,
    },
    // meta-llama/Llama-3.2-1B
    Preset {
        name: "llama-1b",
        hidden: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        ff: 8192,
        vocab: 128_256,
        context: 131_072,
        rope_base: 500_000.0,
        tied: true,
    },
    // meta-llama/Llama-3.1-8B
    Preset {
        name: "llama-8b",
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ff: 14_336,
        vocab: 128_256,
        context: 131_072,
        rope_base: 500_000.0,
        tied: false,
    },
];

/// Where a random model's shape comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A shape known by name.
    Preset(&'static str),
    /// A Hugging Face `config.json`.
    Config(PathBuf),
    /// A GGUF file, or `bundled:NAME`: its shape and words, to be trained from nothing.
    File(String),
}

/// A random model as asked for: `random:SHAPE[@TYPE][#SEED]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomSpec {
    /// The shape.
    pub source: Source,
    /// The type of every matrix.
    pub ty: BlockType,
    /// Of the numbers.
    pub seed: u64,
}

impl std::fmt::Display for RandomSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Preset(name) => write!(f, "random:{name}@{}", self.ty),
            Source::Config(path) => write!(f, "random:{}@{}", path.display(), self.ty),
            Source::File(name) => write!(f, "random:{name}@{}", self.ty),
        }?;
        if self.seed == 0 { Ok(()) } else { write!(f, "#{}", self.seed) }
    }
}

/// How matrices are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// 1/√cols: hidden states keep their size through the layers.
    ByColumns,
    /// As a model before its first step: 0.02, and less for what adds to the residual stream of this many layers.
    Untrained(usize),
}

impl Spread {
    /// The standard deviation of `tensor`.
    fn deviation(self, tensor: &TensorShape) -> f32 {
        match self {
            Self::ByColumns => 1.0 / (tensor.cols as f32).sqrt(),
            Self::Untrained(layers) => {
                let adds = tensor.name.contains("attn_output") || tensor.name.contains("ffn_down");
                0.02 / if adds { (2.0 * layers as f32).sqrt() } else { 1.0 }
            }
        }
    }
}

/// Reads `random:SHAPE[@TYPE][#SEED]`, type f16 and seed 0 unless given; `None` when `spec` is not a random model at all.
///
/// # Errors
/// [`Error::Config`] at `model.path` when the shape or the type is unknown.
pub fn parse(spec: &str) -> Result<Option<RandomSpec>> {
    let Some(rest) = spec.strip_prefix("random:") else { return Ok(None) };
    let wrong = |message: String| Error::config("model.path", format!("`{spec}`: {message}"));
    let (rest, seed) = match rest.rsplit_once('#') {
        Some((rest, seed)) if !seed.contains(['/', '\\', '.']) => {
            let message = || wrong(format!("`{seed}` is not a seed; write a whole number after the #"));
            (rest, seed.parse().map_err(|_| message())?)
        }
        _ => (rest, 0),
    };
    // A path may hold an `@` itself; a type holds neither `/` nor `.`.
    let (shape, ty) = match rest.rsplit_once('@') {
        Some((shape, ty)) if !ty.contains(['/', '\\', '.']) => (shape, Some(ty)),
        _ => (rest, None),
    };
    let ty = match ty {
        None => BlockType::F16,
        Some(name) => BlockType::from_name(name).filter(|ty| TYPES.contains(ty)).ok_or_else(|| {
            let known: Vec<_> = TYPES.iter().map(|t| t.as_str()).collect();
            wrong(format!("`{name}` is not a type random weights can have; they are {}", known.join(", ")))
        })?,
    };
    let source = match PRESETS.iter().find(|p| p.name == shape) {
        Some(preset) => Source::Preset(preset.name),
        None if shape.ends_with(".json") => Source::Config(shape.into()),
        None if shape.ends_with(".gguf") || shape.starts_with("bundled:") => Source::File(shape.into()),
        None => {
            let known: Vec<_> = PRESETS.iter().map(|p| p.name).collect();
            return Err(wrong(format!(
                "`{shape}` is not a shape; write one of {}, bundled:recall, or the path of a config.json or a GGUF file",
                known.join(", ")
            )));
        }
    };
    Ok(Some(RandomSpec { source, ty, seed }))
}

/// The shape of a random model: matrices (embedding and head included) of its type, norms f32.
///
/// # Errors
/// [`Error::Refused`] when the type's blocks do not divide a row; [`Error::Model`] naming the key of a `config.json`
/// that cannot be read, or describes what is not a plain Llama.
pub fn shape(spec: &RandomSpec) -> Result<ModelShape> {
    let (hyper, path) = match &spec.source {
        Source::Preset(name) => {
            let preset = PRESETS.iter().find(|p| p.name == *name);
            let preset =
                preset.ok_or_else(|| Error::config("model.path", format!("`{name}` is not a random shape")))?;
            (preset.hyper(), Path::new(preset.name))
        }
        Source::Config(path) => (hf_keys::read(path)?.hyper, path.as_path()),
        Source::File(name) => {
            return Err(Error::Internal(format!("{name}: the shape of a file is known when it is open")));
        }
    };
    let ty = spec.ty;
    let mut shape = hyper.assemble(
        &hf_keys::names(),
        |field, message| Error::model(path, field, message),
        |Ask { name, role, rows, cols, .. }| {
            let ty = if role.kind().is_vector() { BlockType::F32 } else { ty };
            if ty.row_bytes(cols).is_none() {
                let per = ty.elems();
                let reason = format!("{name} has rows of {cols} elements, which are not whole blocks of {per}");
                return Err(Error::refused(spec.to_string(), reason));
            }
            Ok(TensorShape { name, ty: ty.into(), rows, cols })
        },
    )?;
    shape.name = spec.to_string();
    Ok(shape)
}

/// The shape that a `config.json` alone describes, in the type that it names, and its text.
///
/// # Errors
/// [`Error::Model`] naming the field.
pub fn of_config(path: &Path) -> Result<(ModelShape, Vec<u8>)> {
    let model = hf_keys::read(path)?;
    let ty = model.ty;
    let mut shape = model.hyper.assemble(
        &hf_keys::names(),
        |field, message| Error::model(path, field, message),
        |Ask { name, role, rows, cols, .. }| {
            let ty = if role.kind().is_vector() { BlockType::F32 } else { ty };
            Ok(TensorShape { name, ty: ty.into(), rows, cols })
        },
    )?;
    let absolute = std::path::absolute(path).ok();
    let folder = absolute.as_deref().and_then(Path::parent).and_then(Path::file_name);
    shape.name = folder.map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    Ok((shape, hf_keys::text(path, 1 << 20)?))
}

/// `shape`, that of a file, with matrices of the type that `spec` asks for.
///
/// # Errors
/// [`Error::Refused`] when the type's blocks do not divide a row.
pub fn of_file(spec: &RandomSpec, shape: &ModelShape) -> Result<ModelShape> {
    let retyped = Formats::from(Target::block(spec.ty)).held(shape)?;
    Ok(ModelShape { name: spec.to_string(), ..retyped })
}

impl Preset {
    fn hyper(&self) -> Hyper {
        Hyper {
            arch: "llama",
            name: self.name.into(),
            hidden: self.hidden,
            vocab: self.vocab,
            context: self.context,
            norm_eps: 1e-5,
            head_dim: self.head_dim,
            rope_dim: self.head_dim,
            interleaved: true,
            ropes: vec![Turning::plain(self.rope_base)],
            scale: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            tied: self.tied,
            rope_freqs: false,
            layers: vec![Layer::plain(self.heads, self.kv_heads, self.ff); self.layers],
        }
    }
}

/// Fills `out` with rows `rows` of `tensor`, spread by its columns. Rows do not depend on each other: any split over threads gives the same bytes.
///
/// # Errors
/// [`Error::Refused`] when the type is not one of [`TYPES`]; [`Error::Internal`] when `out` does not hold exactly `rows`.
pub fn fill(tensor: &TensorShape, rows: Range<usize>, seed: u64, out: &mut [u8]) -> Result<()> {
    fill_spread(tensor, rows, seed, Spread::ByColumns, out)
}

/// As [`fill`], matrices being spread as `spread` says.
///
/// # Errors
/// As [`fill`].
pub fn fill_spread(tensor: &TensorShape, rows: Range<usize>, seed: u64, spread: Spread, out: &mut [u8]) -> Result<()> {
    let (name, ty) = (&tensor.name, tensor.block()?);
    let row_bytes = tensor.row_bytes();
    if rows.start > rows.end || rows.end > tensor.rows || row_bytes == 0 || out.len() != rows.len() * row_bytes {
        return Err(Error::Internal(format!(
            "{name}: rows {rows:?} of {} do not fill {} bytes at {row_bytes} a row",
            tensor.rows,
            out.len()
        )));
    }
    let ones = name.ends_with("norm.weight") || name == "rope_freqs.weight";
    if ones && ty == BlockType::F32 {
        out.chunks_exact_mut(4).for_each(|o| o.copy_from_slice(&1f32.to_le_bytes()));
        return Ok(());
    }
    let key = name.bytes().fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)));
    let deviation = spread.deviation(tensor);
    for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
        let mut random = Random { state: mix(key ^ row as u64) };
        match ty {
            BlockType::F32 => floats(&mut random, deviation, out, 4, |values, out| {
                for (value, out) in values.iter().zip(out.chunks_exact_mut(4)) {
                    out.copy_from_slice(&value.to_le_bytes());
                }
            }),
            BlockType::F16 => floats(&mut random, deviation, out, 2, |values, out| {
                let mut short = [f16::ZERO; PANEL];
                short[..values.len()].convert_from_f32_slice(values);
                for (value, out) in short.iter().zip(out.chunks_exact_mut(2)) {
                    out.copy_from_slice(&value.to_le_bytes());
                }
            }),
            BlockType::Bf16 => floats(&mut random, deviation, out, 2, |values, out| {
                for (value, out) in values.iter().zip(out.chunks_exact_mut(2)) {
                    // The upper half of an f32, rounded; no value here is near infinity.
                    let upper = ((value.to_bits() + 0x8000) >> 16) as u16;
                    out.copy_from_slice(&upper.to_le_bytes());
                }
            }),
            // Blocks take random quants; the scale is what gives them the deviation wanted. Deviations of the quants
            // alone: a whole number uniform over n values has √((n² − 1) / 12).
            BlockType::Q4_0 => blocks(&mut random, out, 18, &[deviation / 4.61]),
            BlockType::Q4_1 => blocks(&mut random, out, 20, &[deviation / 4.61, -7.5 * deviation / 4.61]),
            BlockType::Q5_0 => blocks(&mut random, out, 22, &[deviation / 9.23]),
            BlockType::Q5_1 => blocks(&mut random, out, 24, &[deviation / 9.23, -15.5 * deviation / 9.23]),
            BlockType::Q8_0 => blocks(&mut random, out, 34, &[deviation / 73.9]),
            // d·sc·q − dmin·m with sc and m over 0..64, q over 0..16: dmin = 7.5 d centres it, and then it deviates by 258 d.
            BlockType::Q4K => blocks(&mut random, out, 144, &[deviation / 258.0, 7.5 * deviation / 258.0]),
            BlockType::Q6K => {
                // sc·(q − 32), sc over a signed byte; ggml puts this scale last.
                for block in out.chunks_exact_mut(210) {
                    random.fill(&mut block[..208]);
                    block[208..].copy_from_slice(&f16::from_f32(deviation / 1367.0).to_le_bytes());
                }
            }
            BlockType::Mxfp4 => powers(&mut random, deviation, out),
            other => {
                let (unit, min) = spread_of(other).ok_or_else(|| {
                    Error::refused(format!("random weights as {other}"), "this type is not generated")
                })?;
                for block in out.chunks_exact_mut(other.block_bytes()) {
                    random.fill(block);
                    if other == BlockType::Tq2_0 {
                        // Of the four codes of a pair of bits, three are numbers; the fourth becomes 0.
                        block.iter_mut().for_each(|b| *b ^= (*b & (*b >> 1) & 0x55) << 1);
                    }
                    place_scales(other, block, deviation / unit, min * deviation / unit);
                }
            }
        }
    }
    Ok(())
}

/// Of a type whose every byte is random, the deviation of its elements with a scale of one, and how many times the scale its minimum
/// is, for them to be around 0.
const fn spread_of(ty: BlockType) -> Option<(f32, f32)> {
    Some(match ty {
        BlockType::Q8_1 | BlockType::Q8K => (73.9, 0.0),
        BlockType::Q2K => (13.85, 1.5),
        BlockType::Q3K => (43.3, 0.0),
        BlockType::Q5K => (525.0, 15.5),
        BlockType::Iq1S | BlockType::Iq1M => (7.21, 0.0),
        BlockType::Iq2Xxs => (53.4, 0.0),
        BlockType::Iq2Xs => (55.9, 0.0),
        BlockType::Iq2S => (56.4, 0.0),
        BlockType::Iq3Xxs => (142.4, 0.0),
        BlockType::Iq3S => (139.8, 0.0),
        BlockType::Iq4Nl => (67.2, 0.0),
        BlockType::Iq4Xs => (1247.0, 0.0),
        BlockType::Tq1_0 => (0.818, 0.0),
        BlockType::Tq2_0 => (0.707, 0.0),
        _ => return None,
    })
}

/// Blocks of mxfp4, whose scales are powers of two: of the two around the one that would be right, as many of each as make it so.
fn powers(random: &mut Random, deviation: f32, out: &mut [u8]) {
    // Twice the levels deviate by 5.85, and the byte 128 means one half of a two.
    let wanted = deviation / 5.85;
    let low = wanted.log2().floor();
    let of_four = ((wanted / low.exp2()).powi(2) - 1.0) / 3.0;
    for block in out.chunks_exact_mut(17) {
        let above = ((random.next() >> 40) as f32) < of_four * (1 << 24) as f32;
        random.fill(&mut block[1..]);
        block[0] = (128.0 + low) as u8 + u8::from(above);
    }
}

/// Blocks of `bytes` that begin with f16 `scales`; the rest is random.
fn blocks(random: &mut Random, out: &mut [u8], bytes: usize, scales: &[f32]) {
    for block in out.chunks_exact_mut(bytes) {
        let (head, quants) = block.split_at_mut(2 * scales.len());
        for (scale, to) in scales.iter().zip(head.chunks_exact_mut(2)) {
            to.copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
        }
        random.fill(quants);
    }
}

/// Values made at once, on the stack.
const PANEL: usize = 256;

/// Uniform values of the given standard deviation, `size` bytes each once `store` has written them.
fn floats(random: &mut Random, deviation: f32, out: &mut [u8], size: usize, store: impl Fn(&[f32], &mut [u8])) {
    // A 32-bit integer as uniform over ±√3 of the deviation.
    let scale = deviation * 3f32.sqrt() / 2_147_483_648.0;
    let mut values = [0f32; PANEL];
    for out in out.chunks_mut(PANEL * size) {
        let values = &mut values[..out.len() / size];
        for pair in values.chunks_mut(2) {
            let both = random.next();
            for (value, half) in pair.iter_mut().zip([both as u32, (both >> 32) as u32]) {
                *value = half as i32 as f32 * scale;
            }
        }
        store(values, out);
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter and a mixing function, so a row starts anywhere.
struct Random {
    state: u64,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    fn fill(&mut self, out: &mut [u8]) {
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            let last = self.next().to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
