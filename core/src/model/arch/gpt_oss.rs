//! gpt-oss (arXiv 2508.10925): mixtures of experts whose matrices and router have biases and whose gate is clamped; every other layer
//! has a window; each query head has a score that takes a part of its softmax.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, Mixture, Stacked, qwen2};
use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::shape::{Act, Role};

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "gpt_oss",
    gguf_name: "gpt-oss",
    model_types: &["gpt_oss"],
    class: "GptOssForCausalLM",
    models: "gpt-oss",
    from_gguf,
    from_hf,
    gguf_part,
    hf_part,
    hf_stacked,
    to_hf: |_| json!({ "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_act": "silu" }),
    ..Arch::DENSE
};

/// What a gate is clamped to in every one of them.
const LIMIT: f32 = 7.0;

fn described(mut hyper: Hyper, count: u64, used: u64) -> Hyper {
    for layer in &mut hyper.layers {
        (layer.bias, layer.o_bias, layer.sinks, layer.act) = (true, true, true, Act::ClampedSwiglu);
        layer.experts = Some(Mixture { count, used, over_all: false, shared: None, bias: true });
    }
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "gpt-oss" };
    keys.nothing_ignored()?;
    let mut hyper = described(keys.hyper("gpt_oss")?, keys.need("expert_count")?, keys.need("expert_used_count")?);
    let width = keys.need("expert_feed_forward_length")?;
    hyper.layers.iter_mut().for_each(|l| l.ff = width);
    let window = keys.window()?;
    hyper.set_windows((0..hyper.layers.len()).map(|l| window.filter(|_| l.is_multiple_of(2))).collect());
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    if let Some(other) = config.swiglu_limit.filter(|limit| *limit != LIMIT) {
        return Err(Error::model(path, "swiglu_limit", format!("is {other}; a gpt_oss has {LIMIT}")));
    }
    let count = HfConfig::need(path, "num_local_experts", config.num_experts)?;
    let used = HfConfig::need(path, "num_experts_per_tok", config.num_experts_per_tok)?;
    let mut hyper = described(config.hyper("gpt_oss", path)?, count, used);
    hyper.set_windows(config.windows(path, |l| l.is_multiple_of(2))?);
    Ok(hyper)
}

/// The norm of what the experts read is called after where it stands.
fn gguf_part(role: Role) -> Option<&'static str> {
    (role == Role::FfnNorm).then_some("post_attention_norm.weight")
}

fn hf_part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::OBias => "self_attn.o_proj.bias",
        Role::Sinks => "self_attn.sinks",
        Role::Router => "mlp.router.weight",
        Role::RouterBias => "mlp.router.bias",
        Role::ExpertGate | Role::ExpertUp => "mlp.experts.gate_up_proj",
        Role::ExpertGateBias | Role::ExpertUpBias => "mlp.experts.gate_up_proj_bias",
        Role::ExpertDown => "mlp.experts.down_proj",
        Role::ExpertDownBias => "mlp.experts.down_proj_bias",
        role => return qwen2::hf_part(role),
    })
}

/// Outputs of gate and up come by turns.
fn hf_stacked(role: Role) -> Option<Stacked> {
    match role {
        Role::ExpertGate | Role::ExpertGateBias => Some(Stacked { of: 2, at: 0 }),
        Role::ExpertUp | Role::ExpertUpBias => Some(Stacked { of: 2, at: 1 }),
        Role::ExpertDown | Role::ExpertDownBias => Some(Stacked { of: 1, at: 0 }),
        _ => None,
    }
}
