//! Granite 3, dense (IBM, 2024): a Llama with four factors (Maximal Update Parametrization, arXiv 2203.03466): on embeddings, on
//! scores, on what each half of a layer adds, and on logits.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper};
use crate::error::Result;
use crate::model::gguf::Gguf;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "granite",
    gguf_name: "granite",
    model_types: &["granite"],
    class: "GraniteForCausalLM",
    models: "Granite 3",
    from_gguf,
    from_hf,
    to_hf: |shape| {
        json!({
            "attention_bias": false,
            "mlp_bias": false,
            "embedding_multiplier": shape.embedding_scale,
            "attention_multiplier": shape.layers.first().map(|l| l.attention.scale),
            "residual_multiplier": shape.residual_scale,
            "logits_scaling": 1.0 / shape.logit_scale,
        })
    },
    ..Arch::DENSE
};

/// The keys of its factors.
const FACTORS: [&str; 4] = ["embedding_scale", "attention.scale", "residual_scale", "logit_scale"];

/// `hyper` with its factors on embeddings, scores and sums, and with what logits are divided by.
fn scaled(mut hyper: Hyper, [embeddings, scores, sums, logits]: [Option<f32>; 4]) -> Hyper {
    hyper.interleaved = true;
    (hyper.embedding_scale, hyper.scale) = (embeddings.unwrap_or(1.0), scores);
    (hyper.residual_scale, hyper.logit_scale) = (sums.unwrap_or(1.0), 1.0 / logits.unwrap_or(1.0));
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "granite" };
    keys.dense(&FACTORS)?;
    keys.no_window()?;
    let mut factors = [None; 4];
    for (to, rest) in factors.iter_mut().zip(FACTORS) {
        // 0 stands for "not used" in all of them.
        *to = keys.f32(rest)?.filter(|v| *v != 0.0);
    }
    Ok(scaled(keys.hyper("granite")?, factors))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    // Scores have no factor but this one.
    let scores = config.attention_multiplier.or(Some(1.0));
    let factors = [config.embedding_multiplier, scores, config.residual_multiplier, config.logits_scaling];
    Ok(scaled(config.hyper("granite", path)?, factors))
}
