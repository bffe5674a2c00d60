//! OLMo 2 (arXiv 2501.00656): norms stand after each half of a layer and not before it, and whole rows of q and k are normed.
//! OLMo 3 adds a window to three layers of four, whose rotation is not stretched; its GGUF files call themselves `olmo2`.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, QkNorm, Turning, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::{ModelShape, Role};

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "olmo2",
    gguf_name: "olmo2",
    model_types: &["olmo2", "olmo3"],
    class: "Olmo2ForCausalLM",
    models: "OLMo 2 and 3",
    from_gguf,
    from_hf,
    hf_part,
    to_hf,
    ..Arch::DENSE
};

/// One layer in so many has no window, where others do and no file says it.
const PERIOD: u64 = 4;

fn described(mut hyper: Hyper) -> Hyper {
    let stretched = hyper.ropes.iter().any(|r| r.scale != 1.0 || !r.divisors.is_empty());
    if stretched && hyper.layers.iter().any(|l| l.window.is_some()) {
        hyper.ropes.push(Turning::plain(hyper.ropes[0].base));
    }
    let local = hyper.ropes.len() - 1;
    for layer in &mut hyper.layers {
        (layer.pre_norms, layer.post_norms, layer.qk_norm) = (false, true, QkNorm::Rows);
        layer.rope = Some(if layer.window.is_some() { local } else { 0 });
    }
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "olmo2" };
    keys.dense(&[])?;
    let mut hyper = keys.hyper("olmo2")?;
    let window = keys.window()?;
    let slides = |n: usize| !(n as u64 + 1).is_multiple_of(PERIOD);
    hyper.set_windows((0..hyper.layers.len()).map(|n| window.filter(|_| slides(n))).collect());
    Ok(described(hyper))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    let mut hyper = config.hyper("olmo2", path)?;
    if config.model_type.as_deref() == Some("olmo3") {
        hyper.set_windows(config.windows(path, |l| !(l + 1).is_multiple_of(PERIOD))?);
    }
    Ok(described(hyper))
}

fn hf_part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::QNorm => "self_attn.q_norm.weight",
        Role::KNorm => "self_attn.k_norm.weight",
        Role::PostAttnNorm => "post_attention_layernorm.weight",
        Role::PostFfnNorm => "post_feedforward_layernorm.weight",
        Role::AttnNorm | Role::FfnNorm => return None,
        role => return llama::hf_part(role),
    })
}

fn to_hf(shape: &ModelShape) -> serde_json::Value {
    let layers = || shape.layers.iter().map(|l| &l.attention);
    match layers().find_map(|a| a.window) {
        None => json!({
            "attention_bias": false,
        }),
        Some(window) => json!({
            "architectures": ["Olmo3ForCausalLM"],
            "model_type": "olmo3",
            "attention_bias": false,
            "sliding_window": window,
            "layer_types": super::kinds(shape),
        }),
    }
}
