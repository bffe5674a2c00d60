//! Hugging Face's layout: a folder with `config.json`, `model.safetensors` (or shards and their index) and `tokenizer.json`.
//!
//! Opened, it is a model like one from a GGUF file: tensors have GGUF's names, rows of q and k are given in GGUF's order
//! ([`permute`]), vectors in f32. Written, it is what `from_pretrained` reads.

pub(super) mod config;
mod save;
mod tokenizer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use save::{Saved, Tensors, save};

use super::adapter::permute;
use super::llama_shape::{Names, Role};
use super::safetensors::{SafeFile, Tensor};
use super::tokenizer::Tokenizer;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::shape::{ModelShape, TensorShape};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of the largest index of shards that is read.
const LARGEST_INDEX: u64 = 16 << 20;
/// Most shards.
const SHARDS: usize = 4096;
/// Bytes of payload that the hash takes from each of [`SAMPLES`] places of a file.
const SAMPLE: usize = 4096;
const SAMPLES: u64 = 16;

/// Where a tensor is, and how it is given out.
#[derive(Debug)]
struct Place {
    file: usize,
    tensor: Tensor,
    /// Rows of a head, where rows are given in another order.
    turned: Option<usize>,
}

/// An opened folder.
#[derive(Debug)]
pub struct HfFolder {
    dir: PathBuf,
    files: Vec<SafeFile>,
    /// By GGUF's names.
    places: BTreeMap<String, Place>,
    /// `rope_freqs.weight`, which is computed from the configuration.
    divisors: Vec<f32>,
    /// From `config.json`.
    bos: Vec<u32>,
    eos: Vec<u32>,
    vocab: usize,
}

/// Hugging Face's name of a tensor that GGUF calls `name`.
pub(super) fn hf_name(name: &str) -> Option<String> {
    let plain = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let part = match part.strip_suffix(".weight")? {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            return Some(format!("model.layers.{layer}.{part}.weight"));
        }
    };
    Some(plain.into())
}

/// True for q and k, whose rows lie in another order.
fn turned(name: &str) -> bool {
    name.ends_with(".attn_q.weight") || name.ends_with(".attn_k.weight")
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a folder's weights, and what an index says of where each tensor is.
fn files(dir: &Path, weights: Option<&Path>) -> Result<(Vec<SafeFile>, Option<Index>)> {
    if let Some(path) = weights {
        return Ok((vec![SafeFile::open(path)?], None));
    }
    let (index, single) = (dir.join(INDEX), dir.join(WEIGHTS));
    if !index.exists() {
        if !single.exists() {
            let pickled = dir.join("pytorch_model.bin").exists();
            let why = if pickled {
                "only pytorch_model.bin, which is a Python pickle and may run code: save it again with safe_serialization=True"
            } else {
                "a folder of Hugging Face's has it, or model.safetensors.index.json with shards"
            };
            return Err(Error::model(dir, WEIGHTS, format!("is missing; {why}")));
        }
        return Ok((vec![SafeFile::open(&single)?], None));
    }
    let read: Index = serde_json::from_slice(&config::text(&index, LARGEST_INDEX)?)
        .map_err(|e| Error::model(&index, "weight_map", e.to_string()))?;
    let names: BTreeSet<&String> = read.weight_map.values().collect();
    if names.len() > SHARDS {
        return Err(Error::model(
            &index,
            "weight_map",
            format!("names {} files, at most {SHARDS} are opened", names.len()),
        ));
    }
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        // A plain name in this folder: an index must not reach elsewhere.
        if !name.ends_with(".safetensors") || name.contains(['/', '\\']) || name.starts_with('.') {
            let message = format!("names `{}`; a .safetensors file of this folder is needed", name.escape_debug());
            return Err(Error::model(&index, "weight_map", message));
        }
        out.push(SafeFile::open(&dir.join(name))?);
    }
    Ok((out, Some(read)))
}

impl HfFolder {
    /// True when `path` is for [`Self::open`]: a folder, or a `.safetensors` file.
    pub fn is_one(path: &Path) -> bool {
        path.is_dir() || path.extension().is_some_and(|e| e == "safetensors")
    }

    /// Opens a folder, or the one that a `.safetensors` file is in.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the field or tensor that is missing, damaged, contradictory or unknown.
    pub fn open(path: &Path) -> Result<(Self, ModelShape)> {
        scoped(Scope::Program, || Self::read_header(path))
    }

    fn read_header(path: &Path) -> Result<(Self, ModelShape)> {
        let (dir, weights) = match path.is_dir() {
            true => (path, None),
            false => (path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")), Some(path)),
        };
        let config_path = dir.join(CONFIG);
        if !config_path.is_file() {
            return Err(Error::model(dir, CONFIG, "is missing; a folder of Hugging Face's has it beside its weights"));
        }
        let config::HfModel { mut hyper, llama3, bos, eos } = config::read(&config_path)?;
        let (files, index) = files(dir, weights)?;
        hyper.name = std::path::absolute(dir)
            .ok()
            .and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "model".into());
        let tied = hyper.tied;
        let divisors = llama3.map_or(Vec::new(), |l| l.divisors(hyper.rope_dim as usize, hyper.rope_base));
        let mut places = BTreeMap::new();
        let head_dim = hyper.head_dim as usize;
        let names: &Names = &config::KEYS;
        let shape = hyper.assemble(
            names,
            |field, message| Error::model(&config_path, field, message),
            |name, rows, cols, role| {
                if name == "rope_freqs.weight" {
                    return Ok(TensorShape { name, ty: BlockType::F32.into(), rows, cols });
                }
                let (ty, place) = find(&files, index.as_ref(), dir, &name, rows, cols, head_dim)?;
                // Vectors are given out in f32 whatever they are stored as.
                let ty = if role == Role::Vector { BlockType::F32 } else { ty };
                places.insert(name.clone(), place);
                Ok(TensorShape { name, ty: ty.into(), rows, cols })
            },
        )?;
        let known: BTreeSet<&str> = places.values().map(|p| &*p.tensor.name).collect();
        for file in &files {
            let extra = file.tensors().iter().find(|t| {
                // A tied head may be saved beside the embedding; old files have the rotary frequencies.
                let copy = tied && &*t.name == "lm_head.weight";
                !known.contains(&*t.name) && !copy && !t.name.ends_with(".rotary_emb.inv_freq")
            });
            if let Some(extra) = extra {
                return Err(file.error(
                    extra.name.escape_debug().to_string(),
                    "is no tensor of a plain Llama, and leaving it out would change the results",
                ));
            }
        }
        let vocab = shape.vocab;
        Ok((Self { dir: dir.into(), files, places, divisors, bos, eos, vocab }, shape))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of all files of weights.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(SafeFile::file_bytes).sum()
    }

    /// SHA-256 (hex) of the configuration, of every tensor's name, shape and place, and of samples of the payload, which tell
    /// fine-tunes of one shape apart.
    ///
    /// # Errors
    /// Files that cannot be read any more.
    pub fn content_hash(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(config::text(&self.dir.join(CONFIG), 1 << 20)?);
        let mut sample = [0; SAMPLE];
        for file in &self.files {
            hash.update(file.file_bytes().to_le_bytes());
            for t in file.tensors() {
                hash.update(format!("{} {} {:?} {}\n", t.name, t.dtype, t.dims, t.offset));
                let n = t.bytes.min(SAMPLE as u64);
                for i in 0..SAMPLES.min(t.bytes.div_ceil(SAMPLE as u64)) {
                    let at = (t.bytes - n) / SAMPLES.max(2).saturating_sub(1) * i;
                    file.read_at(t, at, &mut sample[..n as usize])?;
                    hash.update(&sample[..n as usize]);
                }
            }
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Rows `first .. first + n` of `t`, in GGUF's order and as `t.ty`, into `out`.
    ///
    /// # Errors
    /// A file that was removed or shortened.
    pub fn read_rows(&self, t: &TensorShape, first: usize, n: usize, out: &mut [u8]) -> Result<()> {
        let out = &mut out[..n * t.row_bytes()];
        if t.name == "rope_freqs.weight" {
            out.copy_from_slice(bytemuck::cast_slice(&self.divisors));
            return Ok(());
        }
        let gone = || Error::model(&self.dir, t.name.as_str(), "the tensor is missing");
        let place = self.places.get(&t.name).ok_or_else(gone)?;
        let (file, from) = (&self.files[place.file], &place.tensor);
        let row = from.bytes as usize / t.rows.max(1);
        match place.turned {
            Some(d) => out
                .chunks_exact_mut(row.max(1))
                .enumerate()
                .try_for_each(|(i, out)| file.read_at(from, (permute::hf_row(first + i, d) * row) as u64, out)),
            None if row == t.row_bytes() => file.read_at(from, (first * row) as u64, out),
            // A vector in two bytes a number: read into the back half, widened from the front.
            None => {
                let values = out.len() / 4;
                let mut piece = [0u8; 2 * PIECE];
                for (i, out) in out.chunks_mut(4 * PIECE).enumerate() {
                    let raw = &mut piece[..out.len() / 2];
                    file.read_at(from, (first * row + 2 * i * PIECE) as u64, raw)?;
                    cast(from.ty, raw, out);
                }
                debug_assert_eq!(values, n * t.cols);
                Ok(())
            }
        }
    }

    /// Its tokenizer; `None` without a `tokenizer.json`.
    ///
    /// # Errors
    /// A damaged one, or one with more tokens than the embedding has rows.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        tokenizer::read(&self.dir, &self.bos, &self.eos, self.vocab)
    }

    /// The text of its chat template, where it has one.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>> {
        tokenizer::chat_template(&self.dir)
    }
}

/// Numbers widened at once.
const PIECE: usize = 1024;

/// Two-byte floats to f32, both little-endian.
fn cast(ty: Option<BlockType>, raw: &[u8], out: &mut [u8]) {
    let mut wide = [0f32; PIECE];
    let n = raw.len() / 2;
    let shorts: Vec<u16> = raw.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    match ty {
        Some(BlockType::F16) => bytemuck::cast_slice::<u16, f16>(&shorts).convert_to_f32_slice(&mut wide[..n]),
        _ => bytemuck::cast_slice::<u16, bf16>(&shorts).convert_to_f32_slice(&mut wide[..n]),
    }
    out.copy_from_slice(bytemuck::cast_slice(&wide[..n]));
}

/// Finds the tensor that GGUF calls `name` and holds it against what the configuration asks for.
fn find(
    files: &[SafeFile],
    index: Option<&Index>,
    dir: &Path,
    name: &str,
    rows: usize,
    cols: usize,
    head_dim: usize,
) -> Result<(BlockType, Place)> {
    let theirs = hf_name(name).ok_or_else(|| Error::Internal(format!("{name} has no name in safetensors")))?;
    let wanted_file = index.map(|i| i.weight_map.get(&theirs).map(String::as_str));
    let found = files.iter().enumerate().find_map(|(i, file)| {
        let fits = match wanted_file {
            Some(wanted) => file.path().file_name().is_some_and(|n| Some(n.to_string_lossy().as_ref()) == wanted),
            None => true,
        };
        file.tensor(&theirs).filter(|_| fits).map(|t| (i, file, t))
    });
    let Some((at, file, t)) = found else {
        return Err(Error::model(dir, theirs, format!("is missing; {CONFIG} asks for it, ({rows}, {cols})")));
    };
    let wanted: &[u64] = if rows == 1 && t.dims.len() == 1 { &[cols as u64] } else { &[rows as u64, cols as u64] };
    if t.dims[..] != *wanted {
        return Err(file.error(theirs, format!("is {:?}; {CONFIG} asks for {wanted:?}", t.dims)));
    }
    let ty = t.ty.ok_or_else(|| file.error(&*t.name, format!("is {}; F32, F16 or BF16 is needed", t.dtype)))?;
    let turned = turned(name).then_some(head_dim);
    Ok((ty, Place { file: at, tensor: t.clone(), turned }))
}
