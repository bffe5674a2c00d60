//! What a training leaves for others: adapters as PEFT's folder and as GGUF, full fine-tunes as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::engine::Trainer;
use super::{learner::Param, params};
use crate::blocks::{self, BlockType};
use crate::config::train::{Dtype, Train};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::files::{Output, writing};
use crate::model::Model;
use crate::model::adapter::{About, Factors, save_gguf, save_peft, shared};
use crate::model::hf;
use crate::output::Claim;
use crate::schema;
use crate::shape::TensorShape;

/// The adapter as PEFT's folder, in the folder of a run.
pub const ADAPTER: &str = "adapter";
/// The adapter as GGUF.
pub const ADAPTER_GGUF: &str = "adapter.gguf";
/// The fine-tuned model.
pub const MODEL: &str = "model";

/// What a training writes into its folder beside its state, as [`crate::output::Claim::new`] takes it.
pub fn outputs(train: &Train) -> &'static [&'static str] {
    const FULL: &[&str] = &["model/"];
    if params::adapts(&train.params) { &["adapter/", ADAPTER_GGUF] } else { FULL }
}

/// Whether what is learned can be written, asked before anything is learned.
///
/// # Errors
/// A model that no Hugging Face folder expresses, where all of it learns; magnitudes of a part of what the model keeps as one.
pub fn check(model: &Model, train: &Train) -> Result<()> {
    if !params::adapts(&train.params) {
        return hf::check(model, stored(train));
    }
    let built = schema::build(params::ENTRIES, "train.params", &train.params)?;
    for group in shared(&model.shape)? {
        let on: Vec<_> = group.iter().filter_map(|role| built.adapt(*role)).collect();
        let gains = on.iter().map(|a| a.kind()).find(|kind| kind.0.gains().is_some());
        if let Some(kind) = gains.filter(|_| on.len() < group.len()) {
            let words = group.iter().map(|role| role.word()).collect::<Vec<_>>().join(", ");
            return Err(Error::refused(
                format!("train.params = {} on a part of {words}", kind.0.id()),
                format!(
                    "{} keeps them as one, of which all or none can be written; target all of them",
                    model.shape.arch
                ),
            ));
        }
    }
    Ok(())
}

/// The type of a fine-tuned model's tensors.
pub(super) fn stored(train: &Train) -> BlockType {
    if train.dtype == Dtype::Bf16 { BlockType::Bf16 } else { BlockType::F32 }
}

/// Writes what `trainer` has learned into the folder of `claim`, each whole or not at all and a few rows at a time; returns what
/// was written.
///
/// # Errors
/// The file system's or the device's; a technique whose parameters no layout here knows.
pub fn export(trainer: &Trainer, model: &Model, train: &Train, dir: &Path, claim: &Claim) -> Result<Vec<PathBuf>> {
    scoped(Scope::Program, || {
        let params = trainer.learner.params();
        let adapted = params.iter().any(|p| p.adapter);
        if adapted {
            writing(Output::Adapter, || adapter(trainer, model, train, dir, claim))
        } else {
            writing(Output::Model, || whole(trainer, model, train, dir, claim))
        }
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

fn adapter(trainer: &Trainer, model: &Model, train: &Train, dir: &Path, claim: &Claim) -> Result<Vec<PathBuf>> {
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
    let params = trainer.learner.params();
    let (mut factors, mut ids_of) = (Vec::new(), Vec::new());
    for (layer, linears) in trainer.adapters().enumerate() {
        for (linear, kind, ids) in linears {
            let rank = ids.first().and_then(|id| params.get(*id)).map_or(rank, |a| a.rows);
            let w = model.shape.layers[layer].tensors.need(linear)?;
            for (spec, id) in kind.0.parts().iter().zip(ids) {
                let (rows, cols) = spec.dims(rank, w.rows, w.cols);
                if params.get(*id).is_none_or(|p| p.len() != rows * cols) {
                    return Err(Error::Internal(format!("{linear:?} of layer {layer} has no {}", spec.suffix)));
                }
            }
            factors.push(Factors { layer, linear, kind, rank, scale: about.scale(rank) });
            ids_of.push(ids);
        }
    }
    let mut numbers = |i: usize, part: usize, from, out: &mut [f32]| {
        let p = ids_of.get(i).and_then(|ids| params.get(*ids.get(part)?));
        values(trainer, p.ok_or_else(|| Error::Internal(format!("an adapter without part {part}")))?, from, out)
    };
    let (folder, file) = (dir.join(ADAPTER), dir.join(ADAPTER_GGUF));
    claim.write(ADAPTER, || save_peft(&folder, &model.shape, &about, &factors, &mut numbers))?;
    if factors.iter().any(|f| !f.kind.0.gguf()) {
        return Ok(vec![folder]);
    }
    claim.write(ADAPTER_GGUF, || save_gguf(&file, &model.shape, &about, &factors, &mut numbers))?;
    Ok(vec![folder, file])
}

fn whole(trainer: &Trainer, model: &Model, train: &Train, dir: &Path, claim: &Claim) -> Result<Vec<PathBuf>> {
    let ty = stored(train);
    let by_name: BTreeMap<&str, &Param> = trainer.learner.params().iter().map(|p| (p.name.as_str(), p)).collect();
    let folder = dir.join(MODEL);
    let mut stored = Vec::new();
    let mut tensors = |t: &TensorShape, first, n, out: &mut [f32]| {
        match by_name.get(t.name.as_str()) {
            Some(p) => values(trainer, p, first * t.cols, out),
            // What did not learn is as the model has it.
            None => {
                stored.resize(n * t.row_bytes(), 0);
                model.source.read_rows(t, first, n, &mut stored)?;
                blocks::decode(t.block()?, &stored, out).map_err(|e| Error::Internal(format!("{}: {e}", t.name)))
            }
        }
    };
    claim.write(MODEL, || hf::save(&folder, model, ty, &mut tensors))?;
    Ok(vec![folder])
}
