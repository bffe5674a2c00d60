//! Mistral (arXiv 2310.06825): a Llama whose tokens see a window of those before, in every layer. Later ones have no window and
//! are Llamas. Its GGUF files call themselves `llama`.

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper};
use crate::error::Result;
use crate::model::gguf::Gguf;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "mistral",
    gguf_name: "llama",
    model_types: &["mistral"],
    class: "MistralForCausalLM",
    models: "Mistral with its window",
    owns: |gguf| Ok(Keys { gguf, prefix: "llama" }.window()?.is_some()),
    from_gguf,
    from_hf,
    to_hf: |shape| {
        json!({
            "sliding_window": shape.layers.first().and_then(|l| l.attention.window),
        })
    },
    ..Arch::DENSE
};

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "llama" };
    keys.dense(&[])?;
    let mut hyper = Hyper { interleaved: true, ..keys.hyper("mistral")? };
    hyper.set_windows(vec![keys.window()?; hyper.layers.len()]);
    Ok(hyper)
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    let mut hyper = Hyper { interleaved: true, ..config.hyper("mistral", path)? };
    hyper.set_windows(config.windows(path, |_| true)?);
    Ok(hyper)
}
