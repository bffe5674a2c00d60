//! Gemma 3, text (arXiv 2503.19786): local layers with a window and, every sixth, a global one; each kind has its own
//! rotation. Heads of q and k are normed, so is what each half of a layer gives; GeGLU; embeddings times √width.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::HfConfig;
use super::{Arch, Hyper, QkNorm, Turning, llama};
use crate::error::{Error, Result};
use crate::model::gguf::{Gguf, Value};
use crate::shape::{Act, ModelShape, Role};

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "gemma3",
    gguf_name: "gemma3",
    model_types: &["gemma3_text"],
    class: "Gemma3ForCausalLM",
    models: "Gemma 3",
    from_gguf,
    from_hf,
    hf_part,
    norm_less_one: true,
    to_hf,
    ..Arch::DENSE
};

/// One global layer in so many, unless a file says otherwise.
const PERIOD: u64 = 6;
/// Base of the local layers' rotation, unless a file says otherwise.
const LOCAL_BASE: f32 = 10_000.0;
/// Layers of the one model (27B) that scales scores by the width of the stream over its heads and not by that of a head; its
/// GGUF files do not say so.
const LARGEST: usize = 62;

/// `hyper`, whose rotation is the global one, with local layers where `local` says so.
fn described(mut hyper: Hyper, window: u64, local_base: f32, local: &dyn Fn(usize) -> bool) -> Hyper {
    // Positions are stretched in global layers only.
    hyper.ropes.push(Turning::plain(local_base));
    hyper.embedding_scale = (hyper.hidden as f32).sqrt();
    for (n, layer) in hyper.layers.iter_mut().enumerate() {
        (layer.act, layer.qk_norm, layer.post_norms) = (Act::GeluTanh, QkNorm::Heads, true);
        if local(n) {
            (layer.window, layer.rope) = (Some(window), Some(1));
        }
    }
    hyper
}

/// Whether layer `n` is local, where every `period`-th is global; 0 for none.
fn local(n: usize, period: u64) -> bool {
    period == 0 || !(n as u64 + 1).is_multiple_of(period)
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "gemma3" };
    keys.dense(&[])?;
    let mut hyper = keys.hyper("gemma3")?;
    let window = keys.need("attention.sliding_window")?;
    let base = keys.f32("rope.freq_base_swa")?.unwrap_or(LOCAL_BASE);
    let (pattern, layers) = (keys.key("attention.sliding_window_pattern"), hyper.layers.len());
    if layers == LARGEST {
        hyper.scale = Some(1.0 / ((hyper.hidden / hyper.layers[0].heads.max(1)) as f32).sqrt());
    }
    // A period, or a flag for each layer.
    match gguf.entry(&pattern).map(|e| &e.value) {
        Some(Value::Array(a)) if a.count != layers as u64 => {
            Err(gguf.error(pattern, format!("has {} elements for {layers} layers; convert the model again", a.count)))
        }
        Some(Value::Array(_)) => {
            let flags = gguf.bools(&pattern)?;
            Ok(described(hyper, window, base, &|n| flags[n]))
        }
        _ => {
            let period = gguf.u64(&pattern)?.unwrap_or(PERIOD);
            Ok(described(hyper, window, base, &|n| local(n, period)))
        }
    }
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, &["gelu_pytorch_tanh"])?;
    let wrong = |field: &str, message: String| Err(Error::model(path, field, message));
    for (field, cap) in [
        ("attn_logit_softcapping", config.attn_logit_softcapping),
        ("final_logit_softcapping", config.final_logit_softcapping),
    ] {
        if let Some(v) = cap {
            return wrong(field, format!("is {v}; no Gemma 3 has it, write null"));
        }
    }
    let mut hyper = config.hyper("gemma3", path)?;
    let layers = hyper.layers.len();
    let Some(window) = config.sliding_window else {
        return wrong("sliding_window", "is missing; Gemma 3's local layers need it".into());
    };
    hyper.scale = config.query_pre_attn_scalar.map(|scalar| 1.0 / (scalar as f32).sqrt());
    // Tied unless said otherwise.
    hyper.tied = config.tie_word_embeddings.unwrap_or(true);
    let base = config.local_rope_base().unwrap_or(LOCAL_BASE);
    let Some(kinds) = &config.layer_types else {
        let period = config.sliding_window_pattern.unwrap_or(PERIOD);
        return Ok(described(hyper, window, base, &|n| local(n, period)));
    };
    if kinds.len() != layers {
        return wrong("layer_types", format!("has {} elements for {layers} layers", kinds.len()));
    }
    if let Some(other) = kinds.iter().find(|k| !["sliding_attention", "full_attention"].contains(&k.as_str())) {
        return wrong("layer_types", format!("names `{}`, which is not known", other.escape_debug()));
    }
    Ok(described(hyper, window, base, &|n| kinds[n] == "sliding_attention"))
}

pub(super) fn hf_part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::QNorm => "self_attn.q_norm.weight",
        Role::KNorm => "self_attn.k_norm.weight",
        Role::PostAttnNorm => "post_attention_layernorm.weight",
        Role::FfnNorm => "pre_feedforward_layernorm.weight",
        Role::PostFfnNorm => "post_feedforward_layernorm.weight",
        role => return llama::hf_part(role),
    })
}

fn to_hf(shape: &ModelShape) -> serde_json::Value {
    let layers = || shape.layers.iter().map(|l| &l.attention);
    let scale = layers().next().map_or(1.0, |a| f64::from(a.scale));
    json!({
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false,
        "sliding_window": layers().find_map(|a| a.window),
        "layer_types": super::kinds(shape),
        "rope_local_base_freq": shape.ropes.get(1).map_or(LOCAL_BASE, |r| r.base),
        "query_pre_attn_scalar": (1.0 / (scale * scale)).round(),
    })
}
