//! What a training leaves for others: adapters as PEFT's folder and as GGUF, full fine-tunes as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::engine::Trainer;
use super::{learner::Param, params};
use crate::blocks::{self, BlockType};
use crate::config::train::{Dtype, Train};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::model::Model;
use crate::model::adapter::{About, Factors, save_gguf, save_peft};
use crate::model::hf;
use crate::schema;
use crate::shape::TensorShape;

/// The adapter as PEFT's folder, in the folder of a run.
pub const ADAPTER: &str = "adapter";
/// The adapter as GGUF.
pub const ADAPTER_GGUF: &str = "adapter.gguf";
/// The fine-tuned model.
pub const MODEL: &str = "model";

/// Writes what `trainer` has learned into `dir`, each whole or not at all; returns what was written.
///
/// # Errors
/// The file system's or the device's; a technique whose parameters no layout here knows.
pub fn export(trainer: &Trainer, model: &Model, train: &Train, dir: &Path) -> Result<Vec<PathBuf>> {
    scoped(Scope::Program, || {
        let params = trainer.learner.params();
        let adapted = params.iter().any(|p| p.adapter);
        if adapted { adapter(trainer, model, train, dir) } else { whole(trainer, model, train, dir) }
    })
}

/// Elements `from ..` of a parameter, as many as `out` has, in f32.
fn values(trainer: &Trainer, p: &Param, from: usize, out: &mut [f32]) -> Result<()> {
    let ty = p.buf.ty();
    if ty == BlockType::F32 {
        return trainer.device().download(p.buf.at(from), bytemuck::cast_slice_mut(out));
    }
    let mut stored = vec![0; ty.row_bytes(out.len()).unwrap_or(0)];
    trainer.device().download(p.buf.at(from), &mut stored)?;
    blocks::decode(ty, &stored, out).map_err(|e| Error::Internal(format!("{}: {e}", p.name)))
}

fn adapter(trainer: &Trainer, model: &Model, train: &Train, dir: &Path) -> Result<Vec<PathBuf>> {
    let choice = &train.params;
    let knobs = schema::find(params::ENTRIES, "train.params", &choice.id)?.settle("train.params", &choice.knobs)?;
    let rank = knobs.int("r");
    let about = About {
        rank,
        alpha: knobs.given_float("lora_alpha").unwrap_or(2.0 * rank as f64) as f32,
        rslora: knobs.flag("use_rslora"),
        // Not every adapter has one.
        dropout: knobs.given_float("lora_dropout").unwrap_or(0.0) as f32,
        base: model.path.clone(),
    };
    let mut read = Vec::new();
    for (layer, linears) in trainer.adapters().enumerate() {
        for (linear, kind, ids) in linears {
            let mut parts = Vec::with_capacity(ids.len());
            for p in ids.iter().filter_map(|id| trainer.learner.params().get(*id)) {
                let mut part = vec![0.0; p.len()];
                values(trainer, p, 0, &mut part)?;
                parts.push(part);
            }
            let rank = ids.first().and_then(|id| trainer.learner.params().get(*id)).map_or(rank, |a| a.rows);
            read.push((layer, linear, kind, rank, parts));
        }
    }
    let factors: Vec<Factors<'_>> = read
        .iter()
        .map(|(layer, linear, kind, rank, parts)| Factors {
            layer: *layer,
            linear: *linear,
            kind: *kind,
            rank: *rank,
            parts: parts.iter().map(Vec::as_slice).collect(),
        })
        .collect();
    let (folder, file) = (dir.join(ADAPTER), dir.join(ADAPTER_GGUF));
    save_peft(&folder, &model.shape, &about, &factors)?;
    if factors.iter().any(|f| !f.kind.0.gguf()) {
        return Ok(vec![folder]);
    }
    save_gguf(&file, &model.shape, &about, &factors)?;
    Ok(vec![folder, file])
}

fn whole(trainer: &Trainer, model: &Model, train: &Train, dir: &Path) -> Result<Vec<PathBuf>> {
    let ty = if train.dtype == Dtype::Bf16 { BlockType::Bf16 } else { BlockType::F32 };
    let by_name: BTreeMap<&str, &Param> = trainer.learner.params().iter().map(|p| (p.name.as_str(), p)).collect();
    let folder = dir.join(MODEL);
    let mut stored = Vec::new();
    hf::save(
        &folder,
        model,
        ty,
        &mut |t: &TensorShape, first, n, out: &mut [f32]| match by_name.get(t.name.as_str()) {
            Some(p) => values(trainer, p, first * t.cols, out),
            // What did not learn is as the model has it.
            None => {
                stored.resize(n * t.row_bytes(), 0);
                model.source.read_rows(t, first, n, &mut stored)?;
                blocks::decode(t.block()?, &stored, out).map_err(|e| Error::Internal(format!("{}: {e}", t.name)))
            }
        },
    )?;
    Ok(vec![folder])
}
