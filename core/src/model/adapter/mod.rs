//! Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685; fine-tuning.md §3.1): y = Wx + s·B(Ax), A `(rank, in)`,
//! B `(out, rank)`.
//!
//! Read and written as PEFT does (a folder) and as llama.cpp does (a GGUF file). Inside, rows lie as the model's own do, in
//! GGUF's order; PEFT's files have Hugging Face's (see [`permute`]).

mod gguf_lora;
mod merge;
mod peft;
pub mod permute;
mod rewrite;
mod sum;
mod targets;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use gguf_lora::save as save_gguf;
pub use merge::{Merged, merge};
pub use peft::save as save_peft;

use super::Source;
use super::gguf::Gguf;
use super::safetensors::SafeFile;
use crate::blocks::{self, BlockType};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::shape::MOST_PARTS;
use crate::shape::ModelShape;
pub use crate::shape::{AdapterKind, AdapterShape, LowRank, PartSpec, Role};

/// Largest rank that is supported, of whatever matrix.
pub const MOST_RANK: usize = 1024;

/// One adapted linear that is written.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Its layer.
    pub layer: usize,
    /// Which linear.
    pub linear: Role,
    /// By what scheme.
    pub kind: AdapterKind,
    /// Rows of A.
    pub rank: usize,
}

/// Gives elements `from ..` of part `part` of the `i`-th of the factors that are written, as many as `out` has, in GGUF's order:
/// `(i, part, from, out)`; whole rows, or the whole shares of some outputs. So a writer holds a few rows, and never a tensor.
pub type Numbers<'a> = dyn FnMut(usize, usize, usize, &mut [f32]) -> Result<()> + 'a;

/// Elements that are asked for at once, where rows are not longer.
const PIECE: usize = 8 << 10;

/// Asks for all rows of part `part` of the `i`-th factors, `(rows, cols)`, a few at a time.
fn by_rows(
    numbers: &mut Numbers<'_>,
    (i, part): (usize, usize),
    (rows, cols): (usize, usize),
    mut put: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let step = (PIECE / cols.max(1)).clamp(1, rows.max(1));
    let mut room = vec![0.0; step * cols];
    for first in (0..rows).step_by(step) {
        let room = &mut room[..step.min(rows - first) * cols];
        numbers(i, part, first * cols, room)?;
        put(room)?;
    }
    Ok(())
}

/// What an adapter says of itself when it is written.
#[derive(Clone, Debug)]
pub struct About {
    /// `r`.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f32,
    /// The scale is α / √r and not α / r.
    pub rslora: bool,
    /// `lora_dropout` that it was trained with.
    pub dropout: f32,
    /// What it belongs to: a model's name or path.
    pub base: String,
}

impl About {
    /// What B(Ax) is multiplied by.
    pub fn scale(&self, rank: usize) -> f32 {
        if self.rslora { self.alpha / (rank as f32).sqrt() } else { self.alpha / rank as f32 }
    }
}

/// Holds `factors` against the model before anything is written.
///
/// # Errors
/// [`Error::Internal`] when a layer or a rank does not fit.
fn check(shape: &ModelShape, factors: &[Factors]) -> Result<()> {
    for f in factors {
        let there = shape.layers.get(f.layer).is_some_and(|layer| layer.tensors.get(f.linear).is_some());
        if !there || f.rank == 0 {
            let Factors { layer, linear, rank, .. } = f;
            return Err(Error::Internal(format!("an adapter of rank {rank} does not fit {linear:?} of layer {layer}")));
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Store {
    Peft(SafeFile),
    Gguf(Gguf),
    /// Several side by side: the factors of one linear are those of each, one after the other.
    Sum(Vec<AdapterFile>),
    /// A and B in memory, by layer and linear.
    Made(Vec<BTreeMap<Role, [Vec<f32>; 2]>>),
}

/// An opened adapter, held against the model it is for.
#[derive(Debug)]
pub struct AdapterFile {
    /// As the configuration calls it.
    pub path: PathBuf,
    /// Ranks, scales and types.
    pub shape: AdapterShape,
    /// SHA-256 of its numbers and its configuration: two trainings of one shape differ.
    pub hash: String,
    /// Elements of a head of the model.
    head_dims: Vec<usize>,
    /// Rows of q and k are in another order in the file.
    turned: bool,
    /// The file's tensors, by layer, linear and part.
    names: Vec<BTreeMap<Role, Vec<String>>>,
    /// What must be taken from the base first.
    rewrite: Option<rewrite::Rewrite>,
    /// Tensors that take the place of the model's: their names in the file, and the model's.
    saved: Vec<(String, String)>,
    store: Store,
}

/// What a reader of one layout found: factors by layer, linear and part.
struct Found {
    shape: AdapterShape,
    names: Vec<BTreeMap<Role, Vec<String>>>,
    rewrite: Option<rewrite::Rewrite>,
    saved: Vec<(String, String)>,
}

impl AdapterFile {
    /// Opens `path` for `model`: a folder or `.safetensors` file of PEFT's, or a GGUF file. Its scales are multiplied by
    /// `scale`.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field or tensor that is damaged, does not fit the model, or asks for what a plain LoRA
    /// has not; one that was learned beside a changed base, for [`Self::open_over`].
    pub fn open(path: &Path, model: &ModelShape, scale: f32) -> Result<Self> {
        let opened = scoped(Scope::Program, || Self::read_header(path, model, scale))?;
        opened.refuse_saved(path)?;
        match opened.rewrite {
            Some(rewrite) => Err(Error::refused(
                format!("{} (init_lora_weights = {})", path.display(), rewrite.name()),
                "it goes with a changed base, and is read with the model's own weights alone",
            )),
            None => Ok(opened),
        }
    }

    fn read_header(path: &Path, model: &ModelShape, scale: f32) -> Result<Self> {
        let missing = |e: Error| match e {
            Error::Io { path, action, message } => Error::model(path, "model.adapter", format!("{action}: {message}")),
            e => e,
        };
        let mut hash = Sha256::new();
        let (mut found, store) = if path.extension().is_some_and(|e| e == "gguf") {
            let file = Gguf::open(path).map_err(missing)?;
            hash_file(path, &mut hash).map_err(missing)?;
            (gguf_lora::open(&file, model)?, Store::Gguf(file))
        } else {
            let (weights, config) = peft::files(path).map_err(missing)?;
            let file = SafeFile::open(&weights).map_err(missing)?;
            hash_file(&weights, &mut hash).map_err(missing)?;
            hash_file(&config, &mut hash).map_err(missing)?;
            (peft::open(&file, &config, model)?, Store::Peft(file))
        };
        if found.shape.layers.iter().all(BTreeMap::is_empty) {
            return Err(Error::model(path, "model.adapter", "it adapts nothing: no lora_A and lora_B tensor is in it"));
        }
        for low in found.shape.layers.iter_mut().flat_map(BTreeMap::values_mut) {
            low.scale *= scale;
            low.strength = scale;
        }
        hash.update(scale.to_le_bytes());
        let turned = matches!(store, Store::Peft(_)) && model.interleaved();
        Ok(Self {
            path: path.into(),
            shape: found.shape,
            hash: hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
            head_dims: model.layers.iter().map(|l| l.attention.dim).collect(),
            turned,
            names: found.names,
            rewrite: found.rewrite,
            saved: found.saved,
            store,
        })
    }

    /// The files and folders that it is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        if let Store::Sum(parts) = &self.store {
            return parts.iter().flat_map(Self::files).collect();
        }
        if let Store::Made(_) = &self.store {
            return Vec::new();
        }
        let mut out = vec![self.path.clone()];
        if let Store::Peft(_) = self.store {
            out.extend(peft::files(&self.path).into_iter().flat_map(|(weights, config)| [weights, config]));
        }
        out
    }

    /// Reads a part as stored, rows in GGUF's order, into `out`.
    ///
    /// # Errors
    /// A file that was removed or shortened.
    pub fn read(&self, layer: usize, linear: Role, part: usize, out: &mut [u8]) -> Result<()> {
        self.read_from(layer, linear, part, 0, out)
    }

    /// As [`Self::read`], from element `from` on, which begins a row, as does what follows.
    fn read_from(&self, layer: usize, linear: Role, part: usize, from: usize, out: &mut [u8]) -> Result<()> {
        if matches!(self.store, Store::Sum(_) | Store::Made(_)) {
            return self.read_sum(layer, linear, part, from, bytemuck::cast_slice_mut(out));
        }
        let name = self.names.get(layer).and_then(|l| l.get(&linear)).and_then(|n| n.get(part));
        let Some(name) = name else {
            return Err(Error::Internal(format!("{linear:?} of layer {layer} is not adapted")));
        };
        let gone = || Error::model(&self.path, name.as_str(), "the tensor is missing");
        match &self.store {
            Store::Sum(_) | Store::Made(_) => Err(gone()),
            Store::Gguf(file) => {
                let t = file.tensor(name).ok_or_else(gone)?;
                file.read_at(t, (from * t.ty.block_bytes()) as u64, out)
            }
            Store::Peft(file) => {
                let t = file.tensor(name).ok_or_else(gone)?;
                let low = self.shape.layers.get(layer).and_then(|l| l.get(&linear));
                let step = low.and_then(|low| low.kind.0.parts().get(part)?.step(low.rank));
                let elements = t.dims.iter().map(|d| *d as usize).product::<usize>();
                let one = t.bytes as usize / elements.max(1);
                let Some(step) = step.filter(|_| self.turned && linear.rotates()) else {
                    return file.read_at(t, (from * one) as u64, out);
                };
                let d = self.head_dims[layer];
                // One output's share of the tensor.
                let row = (one * step).max(1);
                out.chunks_exact_mut(row)
                    .zip(from / step.max(1)..)
                    .try_for_each(|(out, i)| file.read_at(t, (permute::hf_row(i, d) * row) as u64, out))
            }
        }
    }
}

impl AdapterFile {
    /// Reads elements `from ..` of a part, which begin a row, as many as `out` has, in f32.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_f32(&self, layer: usize, linear: Role, part: usize, from: usize, out: &mut [f32]) -> Result<()> {
        let low = self.shape.layers.get(layer).and_then(|l| l.get(&linear));
        let ty = low.and_then(|low| low.types.get(part)).copied();
        let ty = ty.ok_or_else(|| Error::Internal(format!("{linear:?} of layer {layer} is not adapted")))?;
        if ty == BlockType::F32 {
            return self.read_from(layer, linear, part, from, bytemuck::cast_slice_mut(out));
        }
        let mut stored = vec![0; ty.row_bytes(out.len()).unwrap_or(0)];
        self.read_from(layer, linear, part, from, &mut stored)?;
        blocks::decode(ty, &stored, out).map_err(|e| Error::Internal(format!("{linear:?} of layer {layer}: {e}")))
    }
}

impl AdapterFile {
    fn refuse_saved(&self, path: &Path) -> Result<()> {
        let Some((name, _)) = self.saved.first() else { return Ok(()) };
        Err(Error::refused(
            path.display().to_string(),
            format!(
                "it saved {} whole (modules_to_save), which takes the place of the base's own",
                name.escape_debug()
            ),
        ))
    }

    /// Puts what it saved whole in the place of the model's own tensors, where it did; `scale` is that of its factors.
    ///
    /// # Errors
    /// [`Error::Refused`] over a GGUF file or at another scale; a tensor that the model has not, or in another shape.
    pub(crate) fn replace(&self, source: &mut Arc<Source>, shape: &mut ModelShape, scale: f32) -> Result<()> {
        if self.saved.is_empty() {
            return Ok(());
        }
        let refuse = |why: &str| {
            let Err(Error::Refused { what, reason }) = self.refuse_saved(&self.path) else { return Ok(()) };
            Err(Error::Refused { what, reason: format!("{reason}; {why}") })
        };
        if scale != 1.0 {
            return refuse("that has no scale; set model.adapter_scale = 1");
        }
        match Arc::get_mut(source) {
            Some(Source::Hf(folder)) => {
                folder.replace(SafeFile::open(&peft::files(&self.path)?.0)?, &self.saved, shape)
            }
            _ => refuse("open the base's Hugging Face folder for it, or merge it with PEFT"),
        }
    }

    /// Writes it to `out` in f32: as GGUF where that is what its name ends in, otherwise as a folder of PEFT's.
    ///
    /// # Errors
    /// [`Error::Io`]; scales that differ by linear beyond what one α and the ranks express.
    pub fn convert(&self, out: &Path, model: &ModelShape) -> Result<()> {
        self.refuse_saved(&self.path)?;
        let mut list = Vec::new();
        let mut about: Option<About> = None;
        for layer in 0..self.shape.layers.len() {
            for (linear, low, _) in self.shape.tensors(model, layer) {
                let alpha = low.scale * low.rank as f32;
                let known = about.get_or_insert_with(|| About {
                    rank: self.shape.rank(),
                    alpha,
                    rslora: false,
                    dropout: 0.0,
                    base: model.name.clone(),
                });
                if (known.alpha - alpha).abs() > 1e-6 * alpha.abs() {
                    return Err(Error::refused(
                        format!("writing {}", out.display()),
                        format!("its linears have no one α ({} and {alpha}); merge it instead", known.alpha),
                    ));
                }
                list.push(Factors { layer, linear, kind: low.kind, rank: low.rank });
            }
        }
        let mut numbers =
            |i: usize, part, from, out: &mut [f32]| self.read_f32(list[i].layer, list[i].linear, part, from, out);
        let about = about.ok_or_else(|| Error::Internal("an adapter that adapts nothing".into()))?;
        match out.extension().is_some_and(|e| e == "gguf") {
            true => save_gguf(out, model, &about, &list, &mut numbers),
            false => save_peft(out, model, &about, &list, &mut numbers),
        }
    }
}

/// Adds a file's bytes to a hash.
fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let io = |e| Error::io(path, "cannot read", &e);
    let mut file = File::open(path).map_err(io)?;
    let mut piece = [0; 16 << 10];
    loop {
        match file.read(&mut piece).map_err(io)? {
            0 => return Ok(()),
            n => hash.update(&piece[..n]),
        }
    }
}

/// A part found in a file: its name there, type, rows and columns.
#[derive(Clone)]
struct Factor {
    name: String,
    ty: BlockType,
    rows: u64,
    cols: u64,
}

/// Puts the factors of a file together; `scale(rank, linear, layer)` is the layout's own.
struct Collector<'m> {
    model: &'m ModelShape,
    kind: AdapterKind,
    found: Vec<BTreeMap<Role, [Option<Factor>; MOST_PARTS]>>,
}

impl<'m> Collector<'m> {
    fn new(model: &'m ModelShape, kind: AdapterKind) -> Self {
        Self { model, kind, found: model.layers.iter().map(|_| BTreeMap::new()).collect() }
    }

    /// Takes one factor.
    fn put(&mut self, layer: u64, linear: Role, part: usize, factor: Factor) -> Result<(), String> {
        let layers = self.found.len();
        let slot = usize::try_from(layer).ok().and_then(|l| self.found.get_mut(l));
        let slot = slot.ok_or_else(|| format!("is of layer {layer}, and the model has {layers} layers"))?;
        let slot = &mut slot.entry(linear).or_default()[part];
        if slot.is_some() {
            return Err("is there twice, under two names".into());
        }
        *slot = Some(factor);
        Ok(())
    }

    /// Checks shapes and ranks; `scale` gives the factor of a rank, or says why that rank cannot be.
    fn finish(
        self,
        wrong: impl Fn(&str, String) -> Error,
        scale: impl Fn(usize, Role, usize) -> Result<f32, String>,
    ) -> Result<Found> {
        let mut shape = AdapterShape { layers: Vec::with_capacity(self.found.len()) };
        let mut names = Vec::with_capacity(self.found.len());
        for (l, (found, layer)) in self.found.into_iter().zip(&self.model.layers).enumerate() {
            let (mut low, mut name) = (BTreeMap::new(), BTreeMap::new());
            for (linear, parts) in found {
                let specs = self.kind.0.parts();
                let Some(a) = parts.iter().flatten().next().cloned() else { continue };
                if let Some((missing, _)) = specs.iter().zip(&parts).find(|(_, part)| part.is_none()) {
                    let missing = missing.peft.trim_end_matches(".weight");
                    return Err(wrong(&a.name, format!("there is no {missing} beside it")));
                }
                let parts: Vec<Factor> = parts.into_iter().flatten().collect();
                let [a, b, ..] = &parts[..] else { continue };
                let Some(w) = layer.tensors.get(linear) else {
                    return Err(wrong(&a.name, format!("layer {l} of this model has no {}", linear.target())));
                };
                let (rows, cols) = (w.rows as u64, w.cols as u64);
                if a.cols != cols {
                    return Err(wrong(
                        &a.name,
                        format!(
                            "is ({}, {}); {} of layer {l} has {cols} inputs: it is for another model",
                            a.rows,
                            a.cols,
                            linear.target()
                        ),
                    ));
                }
                if b.rows != rows {
                    return Err(wrong(
                        &b.name,
                        format!(
                            "is ({}, {}); {} of layer {l} has {rows} outputs: it is for another model",
                            b.rows,
                            b.cols,
                            linear.target()
                        ),
                    ));
                }
                if a.rows != b.cols {
                    return Err(wrong(&b.name, format!("has rank {}, its lora_A has rank {}", b.cols, a.rows)));
                }
                // A rank above the matrix's smaller side says nothing that a smaller one could not, and is computed all the same:
                // PEFT makes and reads such adapters too.
                if a.rows == 0 || a.rows > MOST_RANK as u64 {
                    return Err(wrong(&a.name, format!("has rank {}; from 1 to {MOST_RANK} is possible here", a.rows)));
                }
                let rank = a.rows as usize;
                for (spec, part) in specs.iter().zip(&parts).skip(2) {
                    let (rows, cols) = spec.dims(rank, w.rows, w.cols);
                    if (part.rows, part.cols) != (rows as u64, cols as u64) {
                        return Err(wrong(
                            &part.name,
                            format!(
                                "is ({}, {}), ({rows}, {cols}) is needed: it is for another model",
                                part.rows, part.cols
                            ),
                        ));
                    }
                }
                let scale = scale(rank, linear, l).map_err(|m| wrong(&a.name, m))?;
                if !scale.is_finite() {
                    return Err(wrong(&a.name, format!("its scale is {scale}; α must be a finite number")));
                }
                let mut types = [BlockType::F32; MOST_PARTS];
                types.iter_mut().zip(&parts).for_each(|(ty, part)| *ty = part.ty);
                low.insert(linear, LowRank { kind: self.kind, rank, scale, strength: 1.0, types });
                name.insert(linear, parts.into_iter().map(|p| p.name).collect());
            }
            shape.layers.push(low);
            names.push(name);
        }
        Ok(Found { shape, names, rewrite: None, saved: Vec::new() })
    }
}

/// The types that factors may have.
fn holds_factors(ty: BlockType) -> bool {
    matches!(ty, BlockType::F32 | BlockType::F16 | BlockType::Bf16)
}

#[cfg(test)]
mod tests;
