//! Mistral (arXiv 2310.06825): a Llama whose tokens see a window of those before, in every layer. Later ones have no window and
//! are Llamas. Its GGUF files call themselves `llama`.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::HfConfig;
use super::{Arch, Hyper, llama};
use crate::error::Result;
use crate::model::gguf::Gguf;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "mistral",
    gguf_name: "llama",
    model_types: &["mistral"],
    models: "Mistral with its window",
    owns: |gguf| Ok(Keys { gguf, prefix: "llama" }.window()?.is_some()),
    from_gguf,
    from_hf,
    hf_part: llama::hf_part,
    norm_less_one: false,
    to_hf: |shape| {
        json!({
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "hidden_act": "silu",
            "sliding_window": shape.layers.first().and_then(|l| l.attention.window),
        })
    },
};

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "llama" };
    keys.no_experts()?;
    keys.nothing_ignored()?;
    let mut hyper = Hyper { interleaved: true, ..keys.hyper("mistral")? };
    hyper.set_windows(vec![keys.window()?; hyper.layers.len()]);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.only_act(path, &["silu", "swish"])?;
    config.no_bias(path)?;
    config.no_experts(path)?;
    let mut hyper = Hyper { interleaved: true, ..config.hyper("mistral", path)? };
    hyper.set_windows(config.windows(path, |_| true)?);
    Ok(hyper)
}
