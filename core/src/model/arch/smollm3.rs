//! SmolLM3 (Hugging Face, 2025): a Llama of which every fourth layer does not turn its queries and keys (NoPE, arXiv 2501.18795).

use std::path::Path;

use serde_json::json;

use super::gguf_keys::Keys;
use super::hf_keys::{HfConfig, SILU};
use super::{Arch, Hyper};
use crate::error::{Error, Result};
use crate::model::gguf::Gguf;

/// The architecture.
pub(super) static ARCH: Arch = Arch {
    id: "smollm3",
    gguf_name: "smollm3",
    model_types: &["smollm3"],
    class: "SmolLM3ForCausalLM",
    models: "SmolLM3",
    from_gguf,
    from_hf,
    to_hf: |shape| {
        let layers = || shape.layers.iter().map(|l| &l.attention);
        let window = layers().find_map(|a| a.window);
        json!({
            "attention_bias": false,
            "mlp_bias": false,
            "no_rope_layers": layers().map(|a| u8::from(a.rope.is_some())).collect::<Vec<_>>(),
            "use_sliding_window": window.is_some(),
            "sliding_window": window,
            "layer_types": super::kinds(shape),
        })
    },
    ..Arch::DENSE
};

/// One layer in so many does not turn, unless a file says otherwise; its GGUF files never do.
const PERIOD: u64 = 4;

/// Whether layer `n` turns, where every `period`-th does not.
fn turns(n: usize, period: u64) -> bool {
    period == 0 || !(n as u64 + 1).is_multiple_of(period)
}

fn described(mut hyper: Hyper, turns: &dyn Fn(usize) -> bool) -> Hyper {
    hyper.interleaved = true;
    for (n, layer) in hyper.layers.iter_mut().enumerate() {
        layer.rope = turns(n).then_some(0);
    }
    hyper
}

fn from_gguf(gguf: &Gguf) -> Result<Hyper> {
    let keys = Keys { gguf, prefix: "smollm3" };
    keys.dense(&[])?;
    keys.no_window()?;
    Ok(described(keys.hyper("smollm3")?, &|n| turns(n, PERIOD)))
}

fn from_hf(config: &HfConfig, path: &Path) -> Result<Hyper> {
    config.dense(path, SILU)?;
    let mut hyper = config.hyper("smollm3", path)?;
    // Tied unless said otherwise.
    hyper.tied = config.tie_word_embeddings.unwrap_or(true);
    let layers = hyper.layers.len();
    let period = config.no_rope_layer_interval.unwrap_or(PERIOD);
    let mut hyper = match &config.no_rope_layers {
        None => described(hyper, &|n| turns(n, period)),
        Some(flags) if flags.len() >= layers => described(hyper, &|n| flags[n] != 0),
        Some(flags) => {
            let message = format!("has {} elements for {layers} layers", flags.len());
            return Err(Error::model(path, "no_rope_layers", message));
        }
    };
    if config.use_sliding_window {
        let slides: Vec<bool> = hyper.layers.iter().map(|l| l.rope.is_none()).collect();
        hyper.set_windows(config.windows(path, |l| slides.get(l as usize).is_some_and(|s| *s))?);
    }
    Ok(hyper)
}
