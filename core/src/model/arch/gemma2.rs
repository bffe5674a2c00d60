//! Gemma 2 (arXiv 2408.00118): local and global layers in turn, of one rotation; scores and logits are capped; what each half of
//! a layer reads and gives is normed; GeGLU; embeddings times √width.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::HfConfig;
use super::{Arch, Hyper, gemma3};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::{Act, ModelShape};

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "gemma2",
    gguf_name: "gemma2",
    model_types: &["gemma2"],
    class: "Gemma2ForCausalLM",
    models: "Gemma 2",
    from_gguf,
    from_hf,
    hf_part: gemma3::hf_part,
    norm_less_one: true,
    to_hf,
    ..Arch::DENSE
};

/// Caps of scores and of logits, unless a file says otherwise.
const CAPS: [f32; 2] = [50.0, 30.0];
/// A local layer's window, unless a file says otherwise.
const WINDOW: u64 = 4096;
/// Layers of the one model (27B) that scales scores by the width of the stream over its heads and not by that of a head; its
/// GGUF files do not say so.
const LARGEST: usize = 46;

fn described(mut hyper: Hyper, [scores, logits]: [Option<f32>; 2]) -> Hyper {
    hyper.embedding_scale = (hyper.hidden as f32).sqrt();
    hyper.logit_cap = logits;
    for layer in &mut hyper.layers {
        (layer.act, layer.post_norms, layer.cap) = (Act::GeluTanh, true, scores);
    }
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "gemma2" };
    let read = ["attn_logit_softcapping", "final_logit_softcapping"];
    keys.dense(&read)?;
    let mut hyper = keys.hyper("gemma2")?;
    // A window is there whether it is said or not.
    let said = keys.u64("attention.sliding_window")?.unwrap_or(WINDOW);
    let window = Some(said).filter(|w| *w < hyper.context);
    hyper.set_windows((0..hyper.layers.len()).map(|n| window.filter(|_| n % 2 == 0)).collect());
    if hyper.layers.len() == LARGEST {
        hyper.scale = Some(1.0 / ((hyper.hidden / hyper.layers[0].heads.max(1)) as f32).sqrt());
    }
    let mut caps = CAPS.map(Some);
    for (cap, rest) in caps.iter_mut().zip(read) {
        *cap = keys.f32(rest)?.or(*cap).filter(|v| *v != 0.0);
    }
    Ok(described(hyper, caps))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, &["gelu_pytorch_tanh"])?;
    let mut hyper = config.hyper("gemma2", path)?;
    hyper.set_windows(config.windows(path, |l| l % 2 == 0)?);
    hyper.scale = Some(1.0 / config.query_pre_attn_scalar.unwrap_or(256.0).sqrt() as f32);
    // Tied unless said otherwise.
    hyper.tied = config.tie_word_embeddings.unwrap_or(true);
    Ok(described(hyper, [config.attn_logit_softcapping, config.final_logit_softcapping]))
}

fn to_hf(shape: &ModelShape) -> serde_json::Value {
    let layers = || shape.layers.iter().map(|l| &l.attention);
    let first = layers().next();
    let scale = first.map_or(1.0, |a| f64::from(a.scale));
    json!({
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false,
        "sliding_window": layers().find_map(|a| a.window),
        "layer_types": super::kinds(shape),
        "query_pre_attn_scalar": (1.0 / (scale * scale)).round(),
        "attn_logit_softcapping": first.and_then(|a| a.cap),
        "final_logit_softcapping": shape.logit_cap,
    })
}
