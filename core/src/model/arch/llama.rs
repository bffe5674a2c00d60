//! Llama (Touvron et al., arXiv 2302.13971; Llama 2 and 3, SmolLM2, TinyLlama, Mistral without its window): RMS norm before
//! each half of a layer, rotary positions, grouped queries, SwiGLU.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "llama",
    gguf_name: "llama",
    model_types: &["llama"],
    class: "LlamaForCausalLM",
    models: "SmolLM2, Llama 2 and 3, TinyLlama, Mistral",
    to_hf: |_| {
        json!({
            "attention_bias": false,
            "mlp_bias": false,
        })
    },
    ..Arch::DENSE
};

pub(super) fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "llama" };
    keys.dense(&[])?;
    keys.no_window()?;
    // Its converter moves the rows of q and k so that pairs lie side by side.
    Ok(Hyper { interleaved: true, ..keys.hyper("llama")? })
}

pub(super) fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    config.no_window(path)?;
    Ok(Hyper { interleaved: true, ..config.hyper("llama", path)? })
}

/// What every relative calls its tensors.
pub(super) fn hf_part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::AttnNorm => "input_layernorm.weight",
        Role::Q => "self_attn.q_proj.weight",
        Role::K => "self_attn.k_proj.weight",
        Role::V => "self_attn.v_proj.weight",
        Role::O => "self_attn.o_proj.weight",
        Role::FfnNorm => "post_attention_layernorm.weight",
        Role::Gate => "mlp.gate_proj.weight",
        Role::Up => "mlp.up_proj.weight",
        Role::Down => "mlp.down_proj.weight",
        _ => return None,
    })
}
