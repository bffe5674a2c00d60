//! Phi-3 and 4 (arXiv 2404.14219): a Llama that keeps q, k and v in one matrix, gate and up in another, turns a part of each head
//! in some sizes, by divisors of its own in long contexts (longrope), and may have a window in every layer.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::{ModelShape, Role};

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "phi3",
    gguf_name: "phi3",
    model_types: &["phi3"],
    class: "Phi3ForCausalLM",
    models: "Phi-3 and 4",
    from_gguf,
    from_hf,
    hf_part,
    to_hf,
    ..Arch::DENSE
};

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "phi3" };
    keys.dense(&[])?;
    let mut hyper = keys.hyper("phi3")?;
    hyper.set_windows(vec![keys.window()?; hyper.layers.len()]);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    let mut hyper = config.hyper("phi3", path)?;
    hyper.set_windows(config.windows(path, |_| true)?);
    Ok(hyper)
}

/// Roles of one name lie in it one after the other.
fn hf_part(role: Role) -> Option<&'static str> {
    match role {
        Role::Q | Role::K | Role::V => Some("self_attn.qkv_proj.weight"),
        Role::Gate | Role::Up => Some("mlp.gate_up_proj.weight"),
        role => llama::hf_part(role),
    }
}

fn to_hf(shape: &ModelShape) -> serde_json::Value {
    let attention = shape.layers.first().map(|l| &l.attention);
    let rope = &shape.ropes[0];
    json!({
        "sliding_window": attention.and_then(|a| a.window),
        "partial_rotary_factor": attention.map_or(1.0, |a| rope.dim as f64 / a.dim as f64),
        "original_max_position_embeddings": rope.long.as_ref().map_or(shape.context, |long| long.from),
    })
}
