//! Qwen2 (arXiv 2407.10671): a Llama with biases on q, k and v, and rows of q and k in halves.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "qwen2",
    gguf_name: "qwen2",
    model_types: &["qwen2"],
    class: "Qwen2ForCausalLM",
    models: "Qwen2 and 2.5",
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |shape| {
        let window = shape.layers.iter().find_map(|l| l.attention.window);
        json!({
            "use_sliding_window": window.is_some(),
            "sliding_window": window,
            "layer_types": super::kinds(shape),
        })
    },
    ..Arch::DENSE
};

fn biased(mut hyper: Hyper) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.bias = true);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "qwen2" };
    keys.dense(&[])?;
    keys.no_window()?;
    Ok(biased(keys.hyper("qwen2")?))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    config.no_experts(path)?;
    let mut hyper = biased(config.hyper("qwen2", path)?);
    config.used_windows(path, &mut hyper)?;
    Ok(hyper)
}

pub(super) fn hf_part(role: Role) -> Option<&'static str> {
    match role {
        Role::QBias => Some("self_attn.q_proj.bias"),
        Role::KBias => Some("self_attn.k_proj.bias"),
        Role::VBias => Some("self_attn.v_proj.bias"),
        role => llama::hf_part(role),
    }
}
