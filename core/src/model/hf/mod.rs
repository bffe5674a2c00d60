//! Hugging Face's layout: a folder with `config.json`, `model.safetensors` (or shards and their index) and `tokenizer.json`.
//!
//! Opened, it is a model like one from a GGUF file: tensors have GGUF's names, rows of q and k are given in GGUF's order
//! ([`permute`]), vectors in f32. Written, it is what `from_pretrained` reads.

mod ranks;
mod save;
mod sentencepiece;
mod template;
mod tokenizer;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use save::{Saved, Tensors, check, save, words_bytes};
pub use template::Found;

use super::adapter::permute;
use super::arch::hf_keys::{HfModel, names, read, text};
use super::arch::{self, Arch, Ask, Stacked};
use super::chat::SpecialTokens;
use super::parts::Parts;
use super::safetensors::{SafeFile, Tensor};
use super::tokenizer::Tokenizer;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::shape::{Kind, ModelShape, Role, TensorShape};

const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
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
    /// One, or one an expert, each with the file it is in.
    parts: Vec<(usize, Tensor)>,
    /// The row of it that is the first; others before are another tensor's.
    first: usize,
    /// Rows of a head, where rows are given in another order.
    turned: Option<usize>,
    /// One is added to every number: a norm that is stored less one.
    less_one: bool,
    /// One part that holds all experts, inputs first.
    stacked: Option<Stacked>,
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

/// Hugging Face's names of what a model calls `role`: one, or one an expert.
pub(super) fn hf_names(arch: &Arch, role: Role, layer: Option<usize>, count: usize) -> Option<Vec<String>> {
    let Some(layer) = layer else {
        let name = match role {
            Role::Embedding => "model.embed_tokens.weight",
            Role::OutputNorm => "model.norm.weight",
            Role::Head => "lm_head.weight",
            _ => return None,
        };
        return Some(vec![name.into()]);
    };
    let part = (arch.hf_part)(role)?;
    let count = if (arch.hf_stacked)(role).is_some() { 1 } else { count };
    let name = |e: usize| format!("model.layers.{layer}.{}", part.replace("{}", &e.to_string()));
    Some((0..count).map(name).collect())
}

/// Which file each tensor is in.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a folder's weights, and what an index says of where each tensor is.
pub(super) fn files(dir: &Path, weights: Option<&Path>) -> Result<(Vec<SafeFile>, Option<Index>)> {
    let index = dir.join(INDEX);
    let shards = |of: &Path| -> Result<Option<Vec<SafeFile>>> {
        let Some(parts) = Parts::of(of) else { return Ok(None) };
        match parts.missing() {
            Some(missing) => Err(Error::model(of, "file", missing)),
            None => parts.all.iter().map(|path| SafeFile::open(path)).collect::<Result<_>>().map(Some),
        }
    };
    if let Some(path) = weights {
        // One shard stands for all of them.
        return Ok((shards(path)?.map_or_else(|| Ok(vec![SafeFile::open(path)?]), Ok::<_, Error>)?, None));
    }
    let single = dir.join(WEIGHTS);
    if index.exists() {
        return indexed(dir, &index).map(|(files, read)| (files, Some(read)));
    }
    if single.exists() {
        return Ok((vec![SafeFile::open(&single)?], None));
    }
    // Shards whose index was left behind.
    if let Some(files) = a_shard(dir).map_or(Ok(None), |shard| shards(&shard))? {
        return Ok((files, None));
    }
    let pickled = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
    let why = if pickled {
        "only pytorch_model.bin, which is a Python pickle and may run code: save it again with safe_serialization=True"
    } else {
        "a folder of Hugging Face's has it, or model.safetensors.index.json with shards"
    };
    Err(Error::model(dir, WEIGHTS, format!("is missing; {why}")))
}

/// Entries of a folder that are looked through for a shard.
const LOOKED: usize = 1 << 14;

/// A file of `dir` that is one of several of a model by its name, the first of them by name.
fn a_shard(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.take(LOOKED).filter_map(|e| Some(e.ok()?.path()));
    let shard = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model-") && name.ends_with(".safetensors") && Parts::of(p).is_some()
    };
    entries.filter(shard).min()
}

/// The files that an index names.
fn indexed(dir: &Path, index: &Path) -> Result<(Vec<SafeFile>, Index)> {
    let wrong = |message: String| Err(Error::model(index, "weight_map", message));
    let read: Index = serde_json::from_slice(&text(index, LARGEST_INDEX)?)
        .map_err(|e| Error::model(index, "weight_map", e.to_string()))?;
    let names: BTreeSet<&String> = read.weight_map.values().collect();
    if names.len() > SHARDS {
        return wrong(format!("names {} files, at most {SHARDS} are opened", names.len()));
    }
    // A plain name in this folder: an index must not reach elsewhere.
    let plain = |name: &str| name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.');
    if let Some(name) = names.iter().find(|name| !plain(name)) {
        return wrong(format!("names `{}`; a .safetensors file of this folder is needed", name.escape_debug()));
    }
    let gone: Vec<_> = names.iter().filter(|name| !dir.join(name).is_file()).collect();
    if let Some(first) = gone.first() {
        let (here, all) = (names.len() - gone.len(), names.len());
        return wrong(format!("{here} of {all} parts are here; {} is missing: fetch it", first.escape_debug()));
    }
    let files = names.iter().map(|name| SafeFile::open(&dir.join(name))).collect::<Result<_>>()?;
    Ok((files, read))
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
        let HfModel { mut hyper, llama3, bos, eos, .. } = read(&config_path)?;
        let (files, index) = files(dir, weights)?;
        hyper.name = std::path::absolute(dir)
            .ok()
            .and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "model".into());
        let tied = hyper.tied;
        let divisors = llama3.map_or(Vec::new(), |l| l.divisors(hyper.rope_dim as usize, hyper.ropes[0].base));
        let mut places = BTreeMap::new();
        let arch = arch::by_id(hyper.arch)?;
        let mut finder = Finder {
            files: &files,
            index: index.as_ref(),
            dir,
            arch,
            turned: hyper.interleaved.then_some(hyper.head_dim as usize),
            cut: BTreeMap::new(),
        };
        let shape = hyper.assemble(
            &names(),
            |field, message| Error::model(&config_path, field, message),
            |ask| {
                let Ask { name, role, rows, cols, .. } = ask.clone();
                if role == Role::RopeFreqs {
                    return Ok(TensorShape { name, ty: BlockType::F32.into(), rows, cols });
                }
                let (ty, place) = finder.find(&ask)?;
                // Vectors are given out in f32 whatever they are stored as.
                let ty = if role.kind().is_vector() { BlockType::F32 } else { ty };
                places.insert(name.clone(), place);
                Ok(TensorShape { name, ty: ty.into(), rows, cols })
            },
        )?;
        finder.whole()?;
        let known: BTreeSet<&str> = places.values().flat_map(|p| &p.parts).map(|(_, t)| &*t.name).collect();
        for file in &files {
            let extra = file.tensors().iter().find(|t| {
                // A tied head may be saved beside the embedding; old files have the rotary frequencies.
                let copy = tied && &*t.name == "lm_head.weight";
                !known.contains(&*t.name) && !copy && !t.name.ends_with(".rotary_emb.inv_freq")
            });
            if let Some(extra) = extra {
                return Err(file.error(
                    extra.name.escape_debug().to_string(),
                    format!("is no tensor of a plain {}, and leaving it out would change the results", arch.id),
                ));
            }
        }
        let vocab = shape.vocab;
        Ok((Self { dir: dir.into(), files, places, divisors, bos, eos, vocab }, shape))
    }

    /// Takes tensors of `file`, which are named there and here, in the place of its own of those names.
    ///
    /// # Errors
    /// A tensor that it has not, of another shape or type, or that is the output head as well.
    pub(crate) fn replace(&mut self, file: SafeFile, saved: &[(String, String)], shape: &mut ModelShape) -> Result<()> {
        let at = self.files.len();
        for (name, own) in saved {
            let wrong = |message: String| file.error(name.as_str(), message);
            let is = |place: &Place| place.parts.len() == 1 && *place.parts[0].1.name == **own;
            let found = self.places.iter_mut().find(|(_, place)| is(place));
            let Some((gguf, place)) = found else {
                return Err(wrong(format!("was saved whole, and the model has no {own}")));
            };
            let t = file.tensor(name).cloned().ok_or_else(|| wrong("is missing".into()))?;
            if t.dims != place.parts[0].1.dims {
                let theirs = &place.parts[0].1.dims;
                return Err(wrong(format!(
                    "is {:?}, the model's {own} is {theirs:?}: it was resized, or is another model's",
                    t.dims
                )));
            }
            let ty = t.ty.ok_or_else(|| wrong(format!("is {}; F32, F16 or BF16 is needed", t.dtype)))?;
            if shape.output.is_none() && *gguf == shape.embedding.name {
                return Err(wrong(
                    "was saved whole, and the model's output head is tied to it; merge it with PEFT".into(),
                ));
            }
            place.parts = vec![(at, t)];
            // Vectors are given out in f32 whatever they are stored as.
            let held = shape.tensors_mut().find(|held| held.name == *gguf && held.rows > 1);
            held.into_iter().for_each(|held| held.ty = ty.into());
        }
        self.files.push(file);
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder and the files of it that are read.
    pub fn paths(&self) -> Vec<PathBuf> {
        let named = [CONFIG, INDEX].into_iter().chain(save::WORDS).map(|name| self.dir.join(name));
        let weights = self.files.iter().map(|file| file.path().to_owned());
        std::iter::once(self.dir.clone()).chain(named).chain(weights).collect()
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
        hash.update(text(&self.dir.join(CONFIG), 1 << 20)?);
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
        let each = t.rows / place.parts.len().max(1);
        // Rows of one part after the other.
        let mut done = 0;
        while done < n {
            let (part, at) = ((first + done) / each, (first + done) % each);
            let take = (each - at).min(n - done);
            let (file, from) = &place.parts[part];
            let out = &mut out[done * t.row_bytes()..(done + take) * t.row_bytes()];
            if let Some(stacked) = place.stacked {
                across(&self.files[*file], from, stacked, t, at, out)?;
                done += take;
                continue;
            }
            self.read_part(&self.files[*file], from, place, (t, each), place.first + at, out)?;
            done += take;
        }
        Ok(())
    }

    /// Rows from `first` on of one part, which has `each` rows of `t`.
    fn read_part(
        &self,
        file: &SafeFile,
        from: &Tensor,
        place: &Place,
        (t, each): (&TensorShape, usize),
        first: usize,
        out: &mut [u8],
    ) -> Result<()> {
        // Of the stored tensor, which may be higher than the part that is asked for.
        let height = if from.dims.len() > 1 { from.dims[0] as usize } else { each };
        let row = from.bytes as usize / height.max(1);
        match place.turned {
            Some(d) => out
                .chunks_exact_mut(row.max(1))
                .enumerate()
                .try_for_each(|(i, out)| file.read_at(from, (permute::hf_row(first + i, d) * row) as u64, out))?,
            None if row == t.row_bytes() => file.read_at(from, (first * row) as u64, out)?,
            // A vector in two bytes a number.
            None => {
                let mut piece = [0u8; 2 * PIECE];
                for (i, out) in out.chunks_mut(4 * PIECE).enumerate() {
                    let raw = &mut piece[..out.len() / 2];
                    file.read_at(from, (first * row + 2 * i * PIECE) as u64, raw)?;
                    cast(from.ty, raw, out);
                }
            }
        }
        if place.less_one {
            for b in out.as_chunks_mut::<4>().0 {
                *b = (f32::from_le_bytes(*b) + 1.0).to_le_bytes();
            }
        }
        Ok(())
    }

    /// Its tokenizer; `None` without a file of one: `tokenizer.json`, `tokenizer.model`, or `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// A damaged one, one of a kind that is not read, one with ids far beyond the embedding's rows.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        tokenizer::read(&self.dir, &self.bos, &self.eos, self.vocab)
    }

    /// Its chat template and where that stands, where it has one.
    ///
    /// # Errors
    /// A file that cannot be read; templates with names, none of which is the default.
    pub fn chat_template(&self) -> Result<Option<Found>> {
        template::chat_template(&self.dir)
    }

    /// The special tokens that its tokenizer names.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        template::special_tokens(&self.dir)
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

/// Rows from `first` on of a tensor that holds all experts, inputs first: their outputs are rows here. A vector's one row is the
/// outputs of all experts.
fn across(
    file: &SafeFile,
    from: &Tensor,
    stacked: Stacked,
    t: &TensorShape,
    first: usize,
    out: &mut [u8],
) -> Result<()> {
    let outputs = from.dims.last().map_or(0, |d| *d as usize / stacked.of);
    let inputs = if from.dims.len() > 2 { from.dims[1] as usize } else { 1 };
    let stored = from.ty.map_or(4, BlockType::block_bytes);
    let held = t.row_bytes() / t.cols.max(1);
    // Of one expert after the other, and as much of a line of it as there is room for.
    let (mut piece, mut wide, most) = ([0u8; 4 * PIECE], [0u8; 4 * PIECE], PIECE / stacked.of);
    let (start, n) = if inputs == 1 { (0, t.cols) } else { (first, out.len() / t.row_bytes().max(1)) };
    let mut done = 0;
    while done < n {
        let (expert, at) = ((start + done) / outputs.max(1), (start + done) % outputs.max(1));
        let take = (outputs - at).min(n - done).min(most);
        for i in 0..inputs {
            let line = (expert * inputs + i) * outputs + at;
            let raw = &mut piece[..take * stacked.of * stored];
            file.read_at(from, (line * stacked.of * stored) as u64, raw)?;
            let mine = raw.chunks_exact(stored).skip(stacked.at).step_by(stacked.of);
            for (wide, raw) in wide.chunks_exact_mut(stored).zip(mine) {
                wide.copy_from_slice(raw);
            }
            if held != stored {
                piece[..take * stored].copy_from_slice(&wide[..take * stored]);
                cast(from.ty, &piece[..take * stored], &mut wide[..take * held]);
            }
            for (r, number) in wide[..take * held].chunks_exact(held).enumerate() {
                let to = ((done + r) * inputs + i) * held;
                out[to..to + held].copy_from_slice(number);
            }
        }
        done += take;
    }
    Ok(())
}

/// Finds tensors in the files of a folder.
struct Finder<'a> {
    files: &'a [SafeFile],
    index: Option<&'a Index>,
    dir: &'a Path,
    arch: &'a Arch,
    /// Rows of a head, where those of q and k are given in another order.
    turned: Option<usize>,
    /// Of tensors that hold several of ours, one after the other: rows that were given to those that came, and all.
    cut: BTreeMap<String, (usize, u64)>,
}

impl Finder<'_> {
    /// Finds what the configuration asks for, and holds it against that.
    fn find(&mut self, ask: &Ask) -> Result<(BlockType, Place)> {
        let theirs = hf_names(self.arch, ask.role, ask.layer, ask.count)
            .ok_or_else(|| Error::Internal(format!("{} has no name in safetensors", ask.name)))?;
        let role = ask.role;
        if let Some(stacked) = (self.arch.hf_stacked)(role) {
            return self.stack(ask, theirs.into_iter().next().unwrap_or_default(), stacked);
        }
        let shared = |other: &Role| *other != role && (self.arch.hf_part)(*other) == (self.arch.hf_part)(role);
        let shared = ask.layer.is_some() && Role::LINEARS.contains(&role) && Role::LINEARS.iter().any(shared);
        let mut first = 0;
        let mut parts = Vec::with_capacity(theirs.len());
        let mut ty = None;
        for name in theirs {
            let rows = if shared { None } else { Some(ask.rows / ask.count.max(1)) };
            let (file, t) = self.one(name, rows, ask.cols)?;
            if shared {
                let (given, _) = self.cut.entry(t.name.to_string()).or_insert((0, t.dims[0]));
                first = *given;
                *given += ask.rows;
                if *given as u64 > t.dims[0] {
                    let message = format!("has {} rows; {CONFIG} asks for more than {given}", t.dims[0]);
                    return Err(self.files[file].error(&*t.name, message));
                }
            }
            let of = t.ty.ok_or_else(|| {
                self.files[file].error(&*t.name, format!("is {}; F32, F16 or BF16 is needed", t.dtype))
            })?;
            if *ty.get_or_insert(of) != of {
                return Err(self.files[file].error(&*t.name, "is of another type than the experts before it"));
            }
            parts.push((file, t));
        }
        let ty = ty.ok_or_else(|| Error::Internal(format!("{} of no tensor", ask.name)))?;
        let turned = self.turned.filter(|_| ask.role.rotates());
        let norm = ask.role.kind() == Kind::Vector && ask.role.gguf().ends_with("norm.weight");
        Ok((ty, Place { parts, first, turned, less_one: self.arch.norm_less_one && norm, stacked: None }))
    }

    /// As [`Self::find`], of a tensor that holds what every expert of a layer has.
    fn stack(&self, ask: &Ask, name: String, stacked: Stacked) -> Result<(BlockType, Place)> {
        let count = ask.count.max(1);
        let wanted: Vec<usize> = match ask.role.kind().is_vector() {
            true => vec![count, stacked.of * (ask.cols / count)],
            false => vec![count, ask.cols, stacked.of * (ask.rows / count)],
        };
        let (at, t) = self.lies(&name, || format!("{wanted:?}"))?;
        let file = &self.files[at];
        if !t.dims.iter().map(|d| *d as usize).eq(wanted.iter().copied()) {
            return Err(file.error(name, format!("is {:?}; {CONFIG} asks for {wanted:?}", t.dims)));
        }
        let ty = t.ty.ok_or_else(|| file.error(&*t.name, format!("is {}; F32, F16 or BF16 is needed", t.dtype)))?;
        Ok((ty, Place { parts: vec![(at, t)], first: 0, turned: None, less_one: false, stacked: Some(stacked) }))
    }

    /// That every row of what was cut is given.
    fn whole(&self) -> Result<()> {
        match self.cut.iter().find(|(_, (given, all))| *given as u64 != *all) {
            None => Ok(()),
            Some((name, (given, all))) => {
                Err(Error::model(self.dir, name.as_str(), format!("has {all} rows; {CONFIG} asks for {given}")))
            }
        }
    }

    /// Where the tensor of this name lies; `asked` says of what shape it should be.
    fn lies(&self, theirs: &str, asked: impl Fn() -> String) -> Result<(usize, Tensor)> {
        let wanted_file = self.index.map(|i| i.weight_map.get(theirs).map(String::as_str));
        let found = self.files.iter().enumerate().find_map(|(i, file)| {
            let fits = match wanted_file {
                Some(wanted) => file.path().file_name().is_some_and(|n| Some(n.to_string_lossy().as_ref()) == wanted),
                None => true,
            };
            file.tensor(theirs).filter(|_| fits).map(|t| (i, t.clone()))
        });
        found.ok_or_else(|| Error::model(self.dir, theirs, format!("is missing; {CONFIG} asks for it, {}", asked())))
    }

    /// The tensor of this name, which has `rows` rows, or as many as it likes.
    fn one(&self, theirs: String, rows: Option<usize>, cols: usize) -> Result<(usize, Tensor)> {
        let asked = || format!("({}, {cols})", rows.map_or("any".into(), |r| r.to_string()));
        let (at, t) = self.lies(&theirs, asked)?;
        let file = &self.files[at];
        let rows = match rows {
            Some(rows) => rows,
            None => t.dims.first().map_or(0, |d| *d as usize),
        };
        let wanted: &[u64] = if rows == 1 && t.dims.len() == 1 { &[cols as u64] } else { &[rows as u64, cols as u64] };
        if t.dims[..] != *wanted {
            return Err(file.error(theirs, format!("is {:?}; {CONFIG} asks for {wanted:?}", t.dims)));
        }
        Ok((at, t))
    }
}
