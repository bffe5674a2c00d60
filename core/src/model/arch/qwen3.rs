//! Qwen3, dense (arXiv 2505.09388, §2): a Llama whose heads of q and k are normed before they turn, with rows of q and k in
//! halves and no bias; a head's size is its own key.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::HfConfig;
use super::{Arch, Hyper, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "qwen3",
    gguf_name: "qwen3",
    model_types: &["qwen3"],
    models: "Qwen3",
    owns: |_| Ok(true),
    from_gguf,
    from_hf,
    hf_part,
    norm_less_one: false,
    to_hf: |_| {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_act": "silu",
            "attention_bias": false,
            "use_sliding_window": false,
        })
    },
};

fn normed(mut hyper: Hyper) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.qk_norm = true);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "qwen3" };
    keys.no_experts()?;
    keys.no_window()?;
    keys.nothing_ignored()?;
    Ok(normed(keys.hyper("qwen3")?))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, &["silu", "swish"])?;
    config.no_bias(path)?;
    config.no_experts(path)?;
    // `sliding_window` is written whether it is used or not.
    if config.use_sliding_window {
        config.no_window(path)?;
    }
    Ok(normed(config.hyper("qwen3", path)?))
}

fn hf_part(role: Role) -> Option<&'static str> {
    match role {
        Role::QNorm => Some("self_attn.q_norm.weight"),
        Role::KNorm => Some("self_attn.k_norm.weight"),
        role => llama::hf_part(role),
    }
}
