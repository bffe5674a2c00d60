//! Qwen3, dense (arXiv 2505.09388, §2): a Llama whose heads of q and k are normed before they turn, with rows of q and k in
//! halves and no bias; a head's size is its own key.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, QkNorm, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "qwen3",
    gguf_name: "qwen3",
    model_types: &["qwen3"],
    class: "Qwen3ForCausalLM",
    models: "Qwen3",
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |shape| {
        let window = shape.layers.iter().find_map(|l| l.attention.window);
        json!({
            "use_sliding_window": window.is_some(),
            "sliding_window": window,
            "layer_types": super::kinds(shape),
            "attention_bias": false,
        })
    },
    ..Arch::DENSE
};

fn normed(mut hyper: Hyper) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.qk_norm = QkNorm::Heads);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "qwen3" };
    keys.dense(&[])?;
    keys.no_window()?;
    Ok(normed(keys.hyper("qwen3")?))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    let mut hyper = normed(config.hyper("qwen3", path)?);
    config.used_windows(path, &mut hyper)?;
    Ok(hyper)
}

pub(super) fn hf_part(role: Role) -> Option<&'static str> {
    match role {
        Role::QNorm => Some("self_attn.q_norm.weight"),
        Role::KNorm => Some("self_attn.k_norm.weight"),
        role => llama::hf_part(role),
    }
}
