//! Qwen3 mixtures (arXiv 2505.09388, §2): a Qwen3 whose feed-forward is a router and narrow experts.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, QkNorm, qwen2_moe, qwen3};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "qwen3_moe",
    gguf_name: "qwen3moe",
    model_types: &["qwen3_moe"],
    class: "Qwen3MoeForCausalLM",
    models: "Qwen3 mixtures",
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |_| json!({ "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu" }),
    ..Arch::DENSE
};

fn normed(mut hyper: Hyper) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.qk_norm = QkNorm::Heads);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "qwen3moe" };
    keys.no_window()?;
    keys.nothing_ignored()?;
    let mut hyper = normed(keys.hyper("qwen3_moe")?);
    let mixture = keys.mixture(false)?;
    hyper.set_experts(mixture, keys.need("expert_feed_forward_length")?, |_| true);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    config.no_bias(path)?;
    let mut hyper = normed(config.hyper("qwen3_moe", path)?);
    config.used_windows(path, &mut hyper)?;
    config.some_experts(path, &mut hyper)?;
    Ok(hyper)
}

fn hf_part(role: Role) -> Option<&'static str> {
    qwen2_moe::expert_part(role).or_else(|| qwen3::hf_part(role))
}
