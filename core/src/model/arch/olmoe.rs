//! OLMoE (arXiv 2409.02060): a Llama whose feed-forward is a router and experts, weighted by a softmax over all of them; whole
//! rows of q and k are normed, in halves.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, QkNorm, qwen2_moe, qwen3};
use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "olmoe",
    gguf_name: "olmoe",
    model_types: &["olmoe"],
    class: "OlmoeForCausalLM",
    models: "OLMoE",
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |_| json!({ "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_act": "silu" }),
    ..Arch::DENSE
};

fn normed(mut hyper: Hyper) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.qk_norm = QkNorm::Rows);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "olmoe" };
    keys.no_window()?;
    keys.nothing_ignored()?;
    let mut hyper = normed(keys.hyper("olmoe")?);
    let (mixture, width) = (keys.mixture(true)?, hyper.layers[0].ff);
    hyper.set_experts(mixture, width, |_| true);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    config.no_bias(path)?;
    if let Some(clip) = config.clip_qkv {
        let message = format!("is {clip}: queries, keys and values that are clipped are not supported");
        return Err(Error::model(path, "clip_qkv", message));
    }
    let mut hyper = normed(config.hyper("olmoe", path)?);
    config.some_experts(path, &mut hyper)?;
    Ok(hyper)
}

fn hf_part(role: Role) -> Option<&'static str> {
    qwen2_moe::expert_part(role).or_else(|| qwen3::hf_part(role))
}
