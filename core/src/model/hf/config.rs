//! `config.json`: what Hugging Face says about a model's shape.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::llama_shape::{Hyper, Layer, Names, limits};

/// What the fields are called, for messages.
pub(in crate::model) const KEYS: Names = Names {
    layers: "num_hidden_layers",
    hidden: "hidden_size",
    ff: "intermediate_size",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    vocab: "vocab_size",
    context: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    rope_dim: "head_dim",
    rope_base: "rope_theta",
    rope_scale: "rope_scaling.factor",
};

/// The fields that decide a Llama model's shape.
#[derive(Deserialize)]
struct HfConfig {
    model_type: Option<String>,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    max_position_embeddings: u64,
    rope_theta: Option<f32>,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<u64>,
    #[serde(alias = "num_experts")]
    num_local_experts: Option<u64>,
    rope_scaling: Option<HfRope>,
    /// Where newer writers put what were `rope_theta` and `rope_scaling`.
    rope_parameters: Option<HfRope>,
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

#[derive(Clone, Deserialize)]
struct HfRope {
    rope_theta: Option<f32>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<u64>,
}

/// One id, or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(this: Option<Self>) -> Vec<u32> {
        match this {
            None => Vec::new(),
            Some(Self::One(id)) => vec![id],
            Some(Self::Many(ids)) => ids,
        }
    }
}

/// Llama 3's divisors of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) struct Llama3 {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    pub original: f64,
}

impl Llama3 {
    /// One divisor a pair, `(dim / 2)`: frequencies whose wave is long against the original context turn `factor` times
    /// slower, short ones as before, those between in proportion.
    pub fn divisors(&self, dim: usize, base: f32) -> Vec<f32> {
        (0..dim / 2)
            .map(|i| {
                let wave = std::f64::consts::TAU * f64::from(base).powf(2.0 * i as f64 / dim as f64);
                let turns = self.original / wave;
                if turns > self.high {
                    1.0
                } else if turns < self.low {
                    self.factor as f32
                } else {
                    let smooth = (turns - self.low) / (self.high - self.low);
                    (1.0 / ((1.0 - smooth) / self.factor + smooth)) as f32
                }
            })
            .collect()
    }
}

/// What `config.json` says.
pub(in crate::model) struct HfModel {
    /// The shape, not checked yet.
    pub hyper: Hyper,
    /// Present when `hyper.rope_freqs`.
    pub llama3: Option<Llama3>,
    /// Beginning of text.
    pub bos: Vec<u32>,
    /// Ends of text.
    pub eos: Vec<u32>,
}

/// Largest `config.json` read.
const LARGEST: u64 = 1 << 20;

/// At most `limit` bytes of a text file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] for a longer one.
pub(in crate::model) fn text(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| Error::io(path, "cannot read", &e);
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(limit + 1).read_to_end(&mut text).map_err(io)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if text.len() as u64 > limit {
        return Err(Error::model(
            path,
            &*name,
            format!("is larger than {}: this is no model's {name}", crate::Bytes(limit)),
        ));
    }
    Ok(text)
}

/// Reads `path`.
///
/// # Errors
/// [`Error::Model`] naming the field that is missing, contradictory, or describes what is not a plain Llama.
pub(in crate::model) fn read(path: &Path) -> Result<HfModel> {
    let wrong = |field: &str, message: String| Err(Error::model(path, field, message));
    // serde's message names the missing or wrong field and the line.
    let c: HfConfig = match serde_json::from_slice(&text(path, LARGEST)?) {
        Ok(c) => c,
        Err(e) => return wrong("config.json", format!("{e}; a Hugging Face config.json of a Llama model is needed")),
    };
    if let Some(kind) = c.model_type.as_deref().filter(|t| !["llama", "mistral"].contains(t)) {
        return wrong("model_type", format!("is `{}`; supported: llama, mistral", kind.escape_debug()));
    }
    if let Some(act) = c.hidden_act.as_deref().filter(|a| !["silu", "swish"].contains(a)) {
        return wrong("hidden_act", format!("is `{}`; a plain Llama has silu", act.escape_debug()));
    }
    if c.attention_bias || c.mlp_bias {
        let field = if c.attention_bias { "attention_bias" } else { "mlp_bias" };
        return wrong(field, "is true; biases are not supported".into());
    }
    if let Some(n) = c.num_local_experts.filter(|&n| n > 0) {
        return wrong("num_local_experts", format!("is {n}; mixtures of experts are not supported yet"));
    }
    if let Some(n) = c.sliding_window.filter(|&n| n < c.max_position_embeddings) {
        let message = format!("is {n}; windowed layers are not supported yet, write null for full attention");
        return wrong("sliding_window", message);
    }
    let rope = c.rope_parameters.as_ref().or(c.rope_scaling.as_ref());
    let theta = c.rope_theta.or(c.rope_parameters.as_ref().and_then(|r| r.rope_theta)).unwrap_or(10_000.0);
    let (mut rope_scale, mut llama3) = (1.0, None);
    match rope.and_then(|r| Some((r.rope_type.as_deref()?, r))) {
        None | Some(("default", _)) => {}
        Some(("linear", r)) => rope_scale = r.factor.unwrap_or(1.0),
        // Llama 3 gives each frequency a divisor; a GGUF file carries them as a tensor.
        Some(("llama3", r)) => {
            let found = Llama3 {
                factor: r.factor.unwrap_or(8.0).into(),
                low: r.low_freq_factor.unwrap_or(1.0).into(),
                high: r.high_freq_factor.unwrap_or(4.0).into(),
                original: r.original_max_position_embeddings.unwrap_or(8192) as f64,
            };
            if !(found.factor > 0.0 && found.low > 0.0 && found.high > found.low && found.original > 0.0) {
                return wrong(
                    "rope_scaling",
                    format!("{found:?}: all above 0, and high_freq_factor above low_freq_factor"),
                );
            }
            llama3 = Some(found);
        }
        Some((other, _)) => {
            let message = format!("is `{}`; supported: default, linear, llama3", other.escape_debug());
            return wrong("rope_scaling.rope_type", message);
        }
    }
    // Checked before it sizes anything.
    if c.num_hidden_layers > limits::LAYERS {
        let message = format!("is {}; at most {} are supported", c.num_hidden_layers, limits::LAYERS);
        return wrong("num_hidden_layers", message);
    }
    let head_dim = match c.head_dim {
        Some(dim) => dim,
        None if c.num_attention_heads > 0 && c.hidden_size.is_multiple_of(c.num_attention_heads) => {
            c.hidden_size / c.num_attention_heads
        }
        None => {
            let message =
                format!("is {}, which does not divide hidden_size = {}", c.num_attention_heads, c.hidden_size);
            return wrong("num_attention_heads", message);
        }
    };
    let layer = Layer {
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        ff: c.intermediate_size,
    };
    let hyper = Hyper {
        name: String::new(),
        hidden: c.hidden_size,
        vocab: c.vocab_size,
        context: c.max_position_embeddings,
        norm_eps: c.rms_norm_eps,
        head_dim,
        rope_dim: head_dim,
        rope_base: theta,
        rope_scale,
        tied: c.tie_word_embeddings,
        rope_freqs: llama3.is_some(),
        layers: vec![layer; c.num_hidden_layers as usize],
    };
    Ok(HfModel { hyper, llama3, bos: Ids::list(c.bos_token_id), eos: Ids::list(c.eos_token_id) })
}
