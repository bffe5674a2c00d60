//! Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685; fine-tuning.md §3.1): y = Wx + s·B(Ax), A `(rank, in)`,
//! B `(out, rank)`.
//!
//! Read and written as PEFT does (a folder) and as llama.cpp does (a GGUF file). Inside, rows lie as the model's own do, in
//! GGUF's order; PEFT's files have Hugging Face's (see [`permute`]).

mod gguf_lora;
mod merge;
mod modules;
mod peft;
pub mod permute;
mod rewrite;
mod sum;
mod targets;
mod written;

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
use super::gguf::{Gguf, TensorInfo};
use super::safetensors::SafeFile;
use crate::blocks::{self, BlockType};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
pub use crate::shape::{AdapterKind, AdapterShape, LowRank, PartSpec, Role};
use crate::shape::{MOST_PARTS, ModelShape, Side, TensorShape};

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
    /// What B(Ax) is multiplied by.
    pub scale: f32,
}

/// Gives elements `from ..` of part `part` of the `i`-th of the factors that are written, as many as `out` has, in GGUF's order:
/// `(i, part, from, out)`; whole rows, or the whole shares of some outputs, or any stretch of the embedding's A. So a writer holds a
/// few rows, and never a tensor.
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
        if shape.linear(f.layer, f.linear).is_none() || f.rank == 0 {
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
    /// Where each part lies in the file, by layer and linear.
    places: Vec<BTreeMap<Role, Vec<Option<Place>>>>,
    /// What must be taken from the base first.
    rewrite: Option<rewrite::Rewrite>,
    /// Tensors that take the place of the model's: their names in the file, and the model's.
    saved: Vec<(String, String)>,
    store: Store,
}

/// A part in a file: its tensor, and the first of that one's outputs that is the linear's own.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    first: usize,
}

/// What a reader of one layout found: factors by layer, linear and part.
struct Found {
    shape: AdapterShape,
    places: Vec<BTreeMap<Role, Vec<Option<Place>>>>,
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
            places: found.places,
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
        let at = self.places.get(layer).and_then(|l| l.get(&linear)).and_then(|n| n.get(part)?.as_ref());
        let Some(Place { name, first }) = at else {
            return Err(Error::Internal(format!("part {part} of {linear:?} of layer {layer} is not in the file")));
        };
        let gone = || Error::model(&self.path, name.as_str(), "the tensor is missing");
        let low = self.shape.layers.get(layer).and_then(|l| l.get(&linear));
        let step = low.and_then(|low| low.kind.0.parts().get(part)?.step(low.rank));
        match &self.store {
            Store::Sum(_) | Store::Made(_) => Err(gone()),
            Store::Gguf(file) => {
                let t = file.tensor(name).ok_or_else(gone)?;
                if linear == Role::Embedding && step.is_none() {
                    return turned(file, t, from, out);
                }
                file.read_at(t, ((from + first * step.unwrap_or(0)) * t.ty.block_bytes()) as u64, out)
            }
            Store::Peft(file) => {
                let t = file.tensor(name).ok_or_else(gone)?;
                let elements = t.dims.iter().map(|d| *d as usize).product::<usize>();
                let one = t.bytes as usize / elements.max(1);
                let Some(step) = step.filter(|_| self.turned && linear.rotates()) else {
                    return file.read_at(t, ((from + first * step.unwrap_or(0)) * one) as u64, out);
                };
                let d = self.head_dims[layer];
                // One output's share of the tensor.
                let row = (one * step).max(1);
                out.chunks_exact_mut(row)
                    .zip(from / step.max(1)..)
                    .try_for_each(|(out, i)| file.read_at(t, ((first + permute::hf_row(i, d)) * row) as u64, out))
            }
        }
    }

    /// Whether the file has a part; a magnitude that it has not is that of the base's own rows, as PEFT has it.
    pub(crate) fn has(&self, layer: usize, linear: Role, part: usize) -> bool {
        match &self.store {
            Store::Sum(_) | Store::Made(_) => true,
            Store::Peft(_) | Store::Gguf(_) => {
                let parts = self.places.get(layer).and_then(|l| l.get(&linear));
                parts.is_some_and(|parts| parts.get(part).is_some_and(Option::is_some))
            }
        }
    }
}

/// Reads elements `from ..` of A `(rank, vocab)` of an embedding, of which llama.cpp keeps `t (vocab, rank)`.
fn turned(file: &Gguf, t: &TensorInfo, from: usize, out: &mut [u8]) -> Result<()> {
    let (one, rank, tokens) = (t.ty.block_bytes(), t.cols, t.rows);
    // The rows of A that are asked for, from a few tokens at a time.
    let (first, last) = (from / tokens.max(1), (from + out.len() / one.max(1)).div_ceil(tokens.max(1)));
    let piece = (PIECE / rank.max(1)).max(1);
    let mut room = vec![0; piece * rank * one];
    for token in (0..tokens).step_by(piece) {
        let n = piece.min(tokens - token);
        let room = &mut room[..n * rank * one];
        file.read_at(t, (token * rank * one) as u64, room)?;
        for (i, row) in room.chunks_exact(rank * one).enumerate() {
            for k in first..last.min(rank) {
                let at = (k * tokens + token + i).checked_sub(from).map(|at| at * one);
                let to = at.and_then(|at| out.get_mut(at..at + one));
                to.into_iter().for_each(|to| to.copy_from_slice(&row[k * one..(k + 1) * one]));
            }
        }
    }
    Ok(())
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

    /// Leaves out what it saved of the base's own: beside factors of an embedding or a head PEFT saves their weight whole, changed or not.
    ///
    /// # Errors
    /// A file that was removed or shortened.
    pub(crate) fn leave_own(&mut self, source: &Source, shape: &ModelShape) -> Result<()> {
        let Store::Peft(file) = &self.store else { return Ok(()) };
        let mut kept = Vec::new();
        for (name, own) in std::mem::take(&mut self.saved) {
            let w = match own.rsplit('.').nth(1) {
                Some("embed_tokens") => Some(&shape.embedding),
                Some("lm_head") => Some(shape.head()),
                _ => None,
            };
            let w = w.filter(|_| name.contains(".base_layer."));
            if w.map_or(Ok(false), |w| same(file, &name, source, w))? {
                continue;
            }
            kept.push((name, own));
        }
        self.saved = kept;
        Ok(())
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
    /// [`Error::Io`]; [`Error::Refused`] for what that layout, or none, can say.
    pub fn convert(&self, out: &Path, model: &ModelShape) -> Result<()> {
        self.refuse_saved(&self.path)?;
        let refuse = |why: String| Err(Error::refused(format!("writing {}", out.display()), why));
        let mut list = Vec::new();
        for layer in 0..self.shape.layers.len() {
            for (linear, low, _) in self.shape.tensors(model, layer) {
                if low.kind.0.gains().is_some_and(|part| !self.has(layer, linear, part)) {
                    let name = linear.target();
                    return refuse(format!(
                        "magnitudes of {name} of layer {layer} are not in it but the base's own; merge it instead"
                    ));
                }
                list.push(Factors { layer, linear, kind: low.kind, rank: low.rank, scale: low.scale });
            }
        }
        let Some(first) = list.first() else { return Err(Error::Internal("an adapter that adapts nothing".into())) };
        let about = About {
            rank: self.shape.rank(),
            alpha: first.scale * first.rank as f32,
            rslora: false,
            dropout: 0.0,
            base: model.name.clone(),
        };
        let mut numbers =
            |i: usize, part, from, out: &mut [f32]| self.read_f32(list[i].layer, list[i].linear, part, from, out);
        match out.extension().is_some_and(|e| e == "gguf") {
            true => save_gguf(out, model, &about, &list, &mut numbers),
            false => save_peft(out, model, &about, &list, &mut numbers),
        }
    }
}

/// Rows of a tensor that are compared.
const COMPARED: usize = 64;

/// Whether the tensor `name` of `file` is `w` of the model, as nearly as both are stored.
fn same(file: &SafeFile, name: &str, source: &Source, w: &TensorShape) -> Result<bool> {
    let Some(t) = file.tensor(name) else { return Ok(false) };
    let (Some(ty), Ok(of)) = (t.ty.filter(|ty| holds_factors(*ty)), w.block()) else { return Ok(false) };
    if *t.dims != [w.rows as u64, w.cols as u64] {
        return Ok(false);
    }
    let near = |ty| match ty {
        BlockType::F32 => 1e-6,
        BlockType::F16 => 1e-3,
        BlockType::Bf16 => 5e-3,
        _ => 0.3,
    };
    let own = t.bytes as usize / w.rows.max(1);
    let (mut theirs, mut ours) = (vec![0; own], vec![0; w.row_bytes()]);
    let (mut a, mut b) = (vec![0.0f32; w.cols], vec![0.0f32; w.cols]);
    let (mut off, mut all) = (0.0, 0.0);
    for row in (0..w.rows).step_by((w.rows / COMPARED).max(1)) {
        file.read_at(t, (row * own) as u64, &mut theirs)?;
        source.read_rows(w, row, 1, &mut ours)?;
        let decoded = blocks::decode(ty, &theirs, &mut a).and_then(|()| blocks::decode(of, &ours, &mut b));
        decoded.map_err(|e| Error::Internal(format!("{}: {e}", w.name)))?;
        let square = |v: f32| f64::from(v) * f64::from(v);
        off += a.iter().zip(&b).map(|(a, b)| square(a - b)).sum::<f64>();
        all += a.iter().map(|a| square(*a)).sum::<f64>();
    }
    let bound: f64 = near(ty) + near(of);
    Ok(off <= bound * bound * all)
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

/// A part found in a file: its name there, type, rows and columns; of several linears in one tensor, the first output that is its own.
#[derive(Clone)]
struct Factor {
    name: String,
    ty: BlockType,
    rows: u64,
    cols: u64,
    first: usize,
}

/// Puts the factors of a file together; `scale(rank, linear, layer)` is the layout's own.
struct Collector<'m> {
    model: &'m ModelShape,
    kind: AdapterKind,
    /// By layer; what is outside them comes last.
    found: Vec<BTreeMap<Role, [Option<Factor>; MOST_PARTS]>>,
}

impl<'m> Collector<'m> {
    fn new(model: &'m ModelShape, kind: AdapterKind) -> Self {
        Self { model, kind, found: vec![BTreeMap::new(); model.layers.len() + 1] }
    }

    /// Takes one tensor, the part `part` of the linears of a module: each gets what is its own of it. `layer` is none outside the layers.
    fn put(&mut self, layer: Option<u64>, linears: &[Role], part: usize, factor: &Factor) -> Result<(), String> {
        let layers = self.model.layers.len();
        let at = match layer {
            None => layers,
            Some(layer) => usize::try_from(layer)
                .ok()
                .filter(|l| *l < layers)
                .ok_or_else(|| format!("is of layer {layer}, and the model has {layers} layers"))?,
        };
        let spec = self.kind.0.parts().get(part).filter(|_| linears.len() > 1);
        let by_rows = spec.is_some_and(|s| s.rows == Side::Out);
        let by_cols = spec.is_some_and(|s| s.cols == Side::Out);
        let mut first = 0;
        for linear in linears {
            let mut own = factor.clone();
            if by_rows || by_cols {
                let outputs = self.model.linear(at, *linear).map_or(0, |w| w.rows);
                let side = if by_rows { &mut own.rows } else { &mut own.cols };
                (own.first, *side) = (first, outputs as u64);
                first += outputs;
            }
            let slot = &mut self.found[at].entry(*linear).or_default()[part];
            if slot.is_some() {
                return Err("is there twice, under two names".into());
            }
            *slot = Some(own);
        }
        let outputs = if by_rows { factor.rows } else { factor.cols };
        if (by_rows || by_cols) && first as u64 != outputs {
            return Err(format!("has {outputs} outputs; this model's has {first}: it is for another model"));
        }
        Ok(())
    }

    /// Checks shapes and ranks; `scale` gives the factor of a rank, or says why that rank cannot be.
    fn finish(
        self,
        wrong: impl Fn(&str, String) -> Error,
        scale: impl Fn(usize, Role, usize) -> Result<f32, String>,
    ) -> Result<Found> {
        let (mut shape, mut places) = (AdapterShape { layers: Vec::new() }, Vec::new());
        for (l, found) in self.found.into_iter().enumerate() {
            let (mut low, mut place) = (BTreeMap::new(), BTreeMap::new());
            for (linear, parts) in found {
                let Some(a) = parts.iter().flatten().next() else { continue };
                let outside = l == self.model.layers.len();
                let of = if outside { "this model".to_owned() } else { format!("layer {l} of this model") };
                let Some(w) = self.model.linear(l, linear) else {
                    return Err(wrong(&a.name, format!("{of} has no {}", linear.target())));
                };
                let rank = fits(self.kind, linear, &w, &parts, &wrong)?;
                let scale = scale(rank, linear, l).map_err(|m| wrong(&a.name, m))?;
                if !scale.is_finite() {
                    return Err(wrong(&a.name, format!("its scale is {scale}; α must be a finite number")));
                }
                let mut types = [BlockType::F32; MOST_PARTS];
                types.iter_mut().zip(&parts).for_each(|(ty, part)| *ty = part.as_ref().map_or(*ty, |p| p.ty));
                low.insert(linear, LowRank { kind: self.kind, rank, scale, strength: 1.0, types });
                let at = |part: Option<Factor>| part.map(|p| Place { name: p.name, first: p.first });
                place.insert(linear, parts.map(at).to_vec());
            }
            shape.layers.push(low);
            places.push(place);
        }
        Ok(Found { shape, places, rewrite: None, saved: Vec::new() })
    }
}

/// Holds the parts of a linear of weight `w` against it and each other, and gives their rank.
fn fits(
    kind: AdapterKind,
    linear: Role,
    w: &TensorShape,
    parts: &[Option<Factor>; MOST_PARTS],
    wrong: &impl Fn(&str, String) -> Error,
) -> Result<usize> {
    let specs = kind.0.parts();
    // A magnitude that is missing is that of the base's own rows.
    let missing =
        specs.iter().zip(parts).enumerate().find(|(i, (_, part))| part.is_none() && kind.0.gains() != Some(*i));
    if let Some((_, (spec, _))) = missing {
        let name = parts.iter().flatten().next().map_or("", |p| &p.name);
        return Err(wrong(name, format!("there is no {} beside it", spec.peft.trim_end_matches(".weight"))));
    }
    let [Some(a), Some(b), ..] = parts else { return Err(Error::Internal("an adapter without A or B".into())) };
    let side = |f: &Factor, own: bool, n: usize, what: &str| {
        let (rows, cols) = (f.rows, f.cols);
        let target = linear.target();
        match own {
            true => Ok(()),
            false => {
                Err(wrong(&f.name, format!("is ({rows}, {cols}); {target} has {n} {what}: it is for another model")))
            }
        }
    };
    side(a, a.cols == w.cols as u64, w.cols, "inputs")?;
    side(b, b.rows == w.rows as u64, w.rows, "outputs")?;
    if a.rows != b.cols {
        return Err(wrong(&b.name, format!("has rank {}, its lora_A has rank {}", b.cols, a.rows)));
    }
    // A rank above the matrix's smaller side says nothing that a smaller one could not, and is computed all the same: PEFT makes and
    // reads such adapters too.
    if a.rows == 0 || a.rows > MOST_RANK as u64 {
        return Err(wrong(&a.name, format!("has rank {}; from 1 to {MOST_RANK} is possible here", a.rows)));
    }
    let rank = a.rows as usize;
    for (spec, part) in specs.iter().zip(parts).skip(2) {
        let (Some(part), (rows, cols)) = (part, spec.dims(rank, w.rows, w.cols)) else { continue };
        if (part.rows, part.cols) != (rows as u64, cols as u64) {
            let found = (part.rows, part.cols);
            return Err(wrong(
                &part.name,
                format!("is {found:?}, {:?} is needed: it is for another model", (rows, cols)),
            ));
        }
    }
    Ok(rank)
}

/// Linears that `shape`'s architecture keeps as one, in order: where it does.
///
/// # Errors
/// [`Error::Internal`] for a description of no architecture.
pub(crate) fn shared(shape: &ModelShape) -> Result<Vec<Vec<Role>>> {
    Ok(modules::of(shape)?.into_iter().map(|m| m.linears).filter(|linears| linears.len() > 1).collect())
}

/// The types that factors may have.
fn holds_factors(ty: BlockType) -> bool {
    matches!(ty, BlockType::F32 | BlockType::F16 | BlockType::Bf16)
}

#[cfg(test)]
mod tests;
