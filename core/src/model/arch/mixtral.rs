//! Mixtral (arXiv 2401.04088): a Llama whose feed-forward is a router and experts. Its GGUF files call themselves `llama`.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper, Mixture, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::shape::Role;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "mixtral",
    gguf_name: "llama",
    model_types: &["mixtral"],
    class: "MixtralForCausalLM",
    models: "Mixtral",
    owns: |gguf| Ok(gguf.u64("llama.expert_count")?.is_some_and(|n| n > 0)),
    from_gguf,
    from_hf,
    hf_part,
    to_hf: |_| json!({ "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu" }),
    ..Arch::DENSE
};

fn with_experts(mut hyper: Hyper, count: u64, used: u64) -> Hyper {
    hyper
        .layers
        .iter_mut()
        .for_each(|l| l.experts = Some(Mixture { count, used, over_all: false, shared: None, bias: false }));
    hyper.interleaved = true;
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "llama" };
    keys.nothing_ignored()?;
    let (count, used) = (keys.need("expert_count")?, keys.need("expert_used_count")?);
    let mut hyper = with_experts(keys.hyper("mixtral")?, count, used);
    hyper.set_windows(vec![keys.window()?; hyper.layers.len()]);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, SILU)?;
    config.no_bias(path)?;
    let count = HfConfig::need(path, "num_local_experts", config.num_experts)?;
    let used = HfConfig::need(path, "num_experts_per_tok", config.num_experts_per_tok)?;
    let mut hyper = with_experts(config.hyper("mixtral", path)?, count, used);
    hyper.set_windows(config.windows(path, |_| true)?);
    Ok(hyper)
}

fn hf_part(role: Role) -> Option<&'static str> {
    match role {
        Role::Router => Some("block_sparse_moe.gate.weight"),
        Role::ExpertGate => Some("block_sparse_moe.experts.{}.w1.weight"),
        Role::ExpertDown => Some("block_sparse_moe.experts.{}.w2.weight"),
        Role::ExpertUp => Some("block_sparse_moe.experts.{}.w3.weight"),
        Role::Gate | Role::Up | Role::Down => None,
        role => llama::hf_part(role),
    }
}
