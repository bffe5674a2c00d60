//! Merging: a GGUF file with W + scale · BA in place of W, for every runtime.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use super::{AdapterFile, LowRank, Role};
use crate::blocks::{self, BlockType, Scheme};
use crate::error::{Error, Result};
use crate::model::gguf::{Gguf, GgufWriter, TensorInfo, TensorSink};
use crate::model::{Model, Source};
use crate::ops::ThreadTeam;
use crate::shape::{ModelShape, TensorShape};
use crate::weights::format::{Formats, Target};

/// Bytes of f32 rows worked on at once.
const RUN: usize = 8 << 20;

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Bytes of the file.
    pub bytes: u64,
    /// Matrices that an adapter changed.
    pub matrices: usize,
}

/// llama.cpp's number for a file whose matrices are of one type (`general.file_type`).
fn file_type(ty: BlockType) -> Option<u32> {
    Some(match ty {
        BlockType::F32 => 0,
        BlockType::F16 => 1,
        BlockType::Q4_0 => 2,
        BlockType::Q4_1 => 3,
        BlockType::Q8_0 => 7,
        BlockType::Q5_0 => 8,
        BlockType::Q5_1 => 9,
        BlockType::Q2K => 10,
        BlockType::Q3K => 12,
        BlockType::Q4K => 15,
        BlockType::Q5K => 17,
        BlockType::Q6K => 18,
        BlockType::Iq4Nl => 25,
        BlockType::Bf16 => 32,
        BlockType::Mxfp4 => 38,
        _ => return None,
    })
}

/// The parts of one linear in f32: A, which every row takes part in, and of the others what the rows at hand need.
struct Delta<'a> {
    file: &'a AdapterFile,
    layer: usize,
    linear: Role,
    low: LowRank,
    /// Rows and columns of the linear.
    dims: (usize, usize),
    parts: Vec<Vec<f32>>,
    /// The first of the rows at hand.
    first: usize,
}

impl<'a> Delta<'a> {
    fn new(file: &'a AdapterFile, layer: usize, linear: Role, low: LowRank, w: &TensorShape) -> Result<Self> {
        let parts = vec![Vec::new(); low.kind.0.parts().len()];
        let mut out = Self { file, layer, linear, low, dims: (w.rows, w.cols), parts, first: 0 };
        out.read(0, 0..low.rank * w.cols)?;
        if linear == Role::Embedding {
            out.read(1, 0..low.rank * w.rows)?;
        }
        Ok(out)
    }

    /// Reads these elements of a part.
    fn read(&mut self, part: usize, elements: Range<usize>) -> Result<()> {
        let Some(into) = self.parts.get_mut(part) else { return Ok(()) };
        into.resize(elements.len(), 0.0);
        self.file.read_f32(self.layer, self.linear, part, elements.start, into)
    }

    /// Takes what rows `first .. first + n` need to hand.
    fn rows(&mut self, first: usize, n: usize) -> Result<()> {
        self.first = first;
        // A row of the embedding is one of its inputs, and takes part of both.
        if self.linear == Role::Embedding {
            return Ok(());
        }
        for (part, spec) in self.low.kind.0.parts().iter().enumerate() {
            let there = self.file.has(self.layer, self.linear, part);
            if let Some(step) = spec.step(self.low.rank).filter(|_| there) {
                self.read(part, first * step..(first + n).min(self.dims.0) * step)?;
            }
        }
        Ok(())
    }

    /// Makes row `r` of the base, `(cols)`, one of those at hand, that of the merged weight.
    fn apply(&self, r: usize, w: &mut [f32]) {
        let [a, b, ..] = &self.parts[..] else { return };
        let rank = self.low.rank;
        if self.linear == Role::Embedding {
            for (w, b) in w.iter_mut().zip(b.chunks_exact(rank)) {
                let a = a.iter().skip(r).step_by(self.dims.1);
                *w += self.low.scale * b.iter().zip(a).map(|(b, a)| b * a).sum::<f32>();
            }
            return;
        }
        let r = r - self.first;
        let length = |w: &[f32]| w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
        let base = length(w);
        for (b, a) in b[r * rank..(r + 1) * rank].iter().zip(a.chunks_exact(w.len())) {
            let f = self.low.scale * b;
            w.iter_mut().zip(a).for_each(|(w, a)| *w += f * a);
        }
        let scheme = self.low.kind.0;
        let Some(magnitudes) = scheme.gains().and_then(|i| self.parts.get(i)) else { return };
        // As PEFT has it where a file has none: the base's own.
        let of = magnitudes.get(r).copied().unwrap_or(base);
        let gain = 1.0 + self.low.strength * (scheme.gain(of, length(w)) - 1.0);
        w.iter_mut().for_each(|w| *w *= gain);
    }
}

/// Writes `model` with its adapter merged in to `out`, whole or not at all; matrices become `target`'s type, where that
/// is not the original's.
///
/// # Errors
/// A model that is no GGUF file, or has no adapter; a type whose blocks do not fit, or that cannot be written; [`Error::Io`],
/// cancellation.
pub fn merge(
    model: &Model,
    target: Target,
    out: &Path,
    team: &ThreadTeam,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Merged> {
    let Some(adapter) = &model.adapter else {
        return Err(Error::refused("merging", "no adapter is given"));
    };
    let Source::Gguf(file) = &*model.source else {
        return Err(Error::refused(
            format!("merging into {}", model.path),
            "a GGUF file is written from a GGUF file, whose metadata and tokenizer it keeps; convert the model first",
        ));
    };
    let outside = adapter.shape.outside(&model.shape);
    if model.shape.output.is_none() && outside.is_some_and(|low| !low.is_empty()) {
        return Err(Error::refused(
            format!("merging into {}", model.path),
            "its head is its embedding, of which the adapter changes one alone; run it beside the weights",
        ));
    }
    let held = Formats::from(target).held(&model.shape)?;
    let mut writer = GgufWriter::default();
    if let Some(n) = target.scheme().and_then(Scheme::block).and_then(file_type) {
        writer.u32("general.file_type", n);
    }
    writer.copy_metadata(file, |_| true)?;
    let becomes = types(file, &model.shape, &held, target)?;
    for (t, ty) in file.tensors().iter().zip(&becomes) {
        let dims: Vec<usize> = t.dims().iter().map(|d| *d as usize).collect();
        writer.tensor(&t.name, *ty, &dims);
    }
    let (total, mut done, mut matrices) = (file.tensors().iter().map(|t| t.bytes).sum(), 0, 0);
    let mut tensors = file.tensors().iter();
    let bytes = writer.write(out, |info, sink| {
        let Some(from) = tensors.next() else { return Ok(()) };
        // Several matrices in one are changed one after the other.
        for from in file.cut(&from.name).unwrap_or(std::slice::from_ref(from)) {
            let place = place(&model.shape, &from.name);
            let low =
                place.and_then(|(l, linear)| adapter.shape.layers.get(l).and_then(|low| low.get(&linear)).copied());
            let delta = match (place, low) {
                (Some((l, linear)), Some(low)) => {
                    matrices += 1;
                    let w = model.shape.linear(l, linear);
                    let w = w.ok_or_else(|| Error::Internal(format!("no {linear:?} in layer {l}")))?;
                    Some(Delta::new(adapter, l, linear, low, &w)?)
                }
                _ => None,
            };
            tensor(file, from, info, delta, sink, team)?;
        }
        done += from.bytes;
        progress(done, total);
        Ok(())
    })?;
    Ok(Merged { bytes, matrices })
}

/// Layer and linear of a tensor, if it is one's weight; the number of layers for what is outside them.
fn place(shape: &ModelShape, name: &str) -> Option<(usize, Role)> {
    if name == shape.embedding.name {
        return Some((shape.layers.len(), Role::Embedding));
    }
    if shape.output.as_ref().is_some_and(|head| head.name == name) {
        return Some((shape.layers.len(), Role::Head));
    }
    let layer: usize = name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()?;
    let of = shape.layers.get(layer)?;
    of.tensors.roles().find(|(r, t)| Role::LINEARS.contains(r) && t.name == name).map(|(r, _)| (layer, r))
}

/// The type that each tensor of `file` becomes; what is no matrix stays as it is.
///
/// # Errors
/// A scheme that a GGUF file does not know.
fn types<'a>(file: &'a Gguf, stored: &ModelShape, held: &ModelShape, target: Target) -> Result<Vec<BlockType>> {
    let mut changed: std::collections::BTreeMap<&str, BlockType> = std::collections::BTreeMap::new();
    if target.scheme().is_some() {
        for (s, h) in stored.tensors().zip(held.tensors()).filter(|(s, _)| s.rows > 1) {
            changed.insert(&s.name, h.block()?);
        }
    }
    // Of several in one, as the first: they are alike.
    let name = |t: &'a TensorInfo| file.cut(&t.name).map_or(&*t.name, |parts| &*parts[0].name);
    Ok(file.tensors().iter().map(|t| changed.get(name(t)).copied().unwrap_or(t.ty)).collect())
}

/// One tensor: copied as it stands, or decoded, changed and encoded run by run.
fn tensor(
    file: &Gguf,
    from: &TensorInfo,
    to: &TensorInfo,
    mut delta: Option<Delta<'_>>,
    sink: &mut TensorSink<'_>,
    team: &ThreadTeam,
) -> Result<()> {
    let (cols, rows) = (from.cols, from.rows);
    let (stored, written) = (from.bytes as usize / rows.max(1), to.bytes as usize / to.rows.max(1));
    let run = (RUN / (4 * cols).max(1)).clamp(1, rows.max(1));
    let copied = from.ty == to.ty && delta.is_none();
    let (mut raw, mut out) = (vec![0; run * stored], vec![0; if copied { 0 } else { run * written }]);
    let mut wide = vec![0.0; if copied { 0 } else { run * cols }];
    for start in (0..rows).step_by(run) {
        let n = run.min(rows - start);
        file.read_at(from, (start * stored) as u64, &mut raw[..n * stored])?;
        if copied {
            sink.put(&raw[..n * stored])?;
            continue;
        }
        if let Some(delta) = &mut delta {
            delta.rows(start, n)?;
        }
        let delta = delta.as_ref();
        // A task takes a few rows, each row being done by one.
        let rows_each = n.div_ceil(4 * team.threads()).max(1);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let pieces: Vec<_> = (raw[..n * stored].chunks(rows_each * stored))
            .zip(wide[..n * cols].chunks_mut(rows_each * cols))
            .zip(out[..n * written].chunks_mut(rows_each * written))
            .map(|((raw, wide), out)| Mutex::new((raw, wide, out)))
            .collect();
        team.run(pieces.len(), &|task, _| {
            let Some(piece) = pieces.get(task) else { return };
            let mut piece = piece.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (raw, wide, out) = &mut *piece;
            let done = blocks::decode(from.ty, raw, wide).and_then(|()| {
                if let Some(delta) = delta {
                    let first = start + task * rows_each;
                    wide.chunks_exact_mut(cols).enumerate().for_each(|(i, row)| delta.apply(first + i, row));
                }
                blocks::encode(to.ty, wide, out)
            });
            if let Err(e) = done {
                let error = Error::refused(
                    format!("writing {} as {}", from.name, to.ty),
                    format!("{e}; choose another --type, such as q8_0 or f16"),
                );
                failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
            }
        })?;
        drop(pieces);
        if let Some(e) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(e);
        }
        sink.put(&out[..n * written])?;
    }
    Ok(())
}
