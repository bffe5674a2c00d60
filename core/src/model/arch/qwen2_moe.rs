//! Qwen2 mixtures (arXiv 2407.10671, §2.2.2; Qwen1.5-MoE): a Qwen2 whose feed-forward is a router, narrow experts, and one that
//! every token goes through, times a gate of its own.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, qwen2};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "qwen2_moe",
    gguf_name: "qwen2moe",
    model_types: &["qwen2_moe"],
    class: "Qwen2MoeForCausalLM",
    models: "Qwen1.5 and Qwen2 mixtures",
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |_| json!({ "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "hidden_act": "silu" }),
    ..Arch::DENSE
};

fn biased(mut hyper: Hyper, bias: bool) -> Hyper {
    hyper.layers.iter_mut().for_each(|l| l.bias = bias);
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "qwen2moe" };
    keys.no_window()?;
    keys.nothing_ignored()?;
    let mut hyper = biased(keys.hyper("qwen2_moe")?, true);
    let mut mixture = keys.mixture(true)?;
    mixture.shared = Some(keys.need("expert_shared_feed_forward_length")?);
    hyper.set_experts(mixture, keys.need("expert_feed_forward_length")?, |_| true);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    let mut hyper = biased(config.hyper("qwen2_moe", path)?, config.qkv_bias.unwrap_or(true));
    config.used_windows(path, &mut hyper)?;
    let shared = HfConfig::need(path, "shared_expert_intermediate_size", config.shared_expert_intermediate_size)?;
    config.some_experts(path, &mut hyper)?;
    hyper.layers.iter_mut().filter_map(|l| l.experts.as_mut()).for_each(|e| e.shared = Some(shared));
    Ok(hyper)
}

fn hf_part(role: Role) -> Option<&'static str> {
    expert_part(role).or_else(|| qwen2::hf_part(role))
}

/// What it and its relatives call their experts.
pub(super) fn expert_part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Router => "mlp.gate.weight",
        Role::ExpertGate => "mlp.experts.{}.gate_proj.weight",
        Role::ExpertUp => "mlp.experts.{}.up_proj.weight",
        Role::ExpertDown => "mlp.experts.{}.down_proj.weight",
        Role::SharedRouter => "mlp.shared_expert_gate.weight",
        Role::SharedGate => "mlp.shared_expert.gate_proj.weight",
        Role::SharedUp => "mlp.shared_expert.up_proj.weight",
        Role::SharedDown => "mlp.shared_expert.down_proj.weight",
        _ => return None,
    })
}
