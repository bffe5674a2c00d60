//! `config.json`: what Hugging Face says about a model's shape.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{Hyper, Layer, Names, Turning, by_model_type, limits, model_types};
use crate::error::{Error, Result};

/// What the fields are called, for messages.
pub fn names() -> Names {
    Names {
        layers: "num_hidden_layers".into(),
        hidden: "hidden_size".into(),
        ff: "intermediate_size".into(),
        heads: "num_attention_heads".into(),
        kv_heads: "num_key_value_heads".into(),
        head_dim: "head_dim".into(),
        vocab: "vocab_size".into(),
        context: "max_position_embeddings".into(),
        norm_eps: "rms_norm_eps".into(),
        rope_dim: "head_dim".into(),
        rope_base: "rope_theta".into(),
        rope_scale: "rope_scaling.factor".into(),
        window: "sliding_window".into(),
        experts: "num_local_experts".into(),
        used: "num_experts_per_tok".into(),
    }
}

/// The fields that decide a model's shape.
#[derive(Deserialize)]
#[allow(missing_docs)]
pub struct HfConfig {
    pub model_type: Option<String>,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: Option<u64>,
    pub head_dim: Option<u64>,
    pub vocab_size: u64,
    pub max_position_embeddings: u64,
    pub rope_theta: Option<f32>,
    pub rms_norm_eps: f32,
    #[serde(alias = "hidden_activation")]
    pub hidden_act: Option<String>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    pub sliding_window: Option<u64>,
    #[serde(default)]
    pub use_sliding_window: bool,
    #[serde(alias = "_sliding_window_pattern")]
    pub sliding_window_pattern: Option<u64>,
    pub layer_types: Option<Vec<String>>,
    pub rope_local_base_freq: Option<f32>,
    pub query_pre_attn_scalar: Option<f64>,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    #[serde(alias = "num_experts")]
    pub num_local_experts: Option<u64>,
    pub num_experts_per_tok: Option<u64>,
    pub rope_scaling: Option<HfRope>,
    /// Where newer writers put what were `rope_theta` and `rope_scaling`.
    pub rope_parameters: Option<HfRopes>,
    pub bos_token_id: Option<Ids>,
    pub eos_token_id: Option<Ids>,
}

/// One rotation.
#[derive(Clone, Deserialize)]
#[allow(missing_docs)]
pub struct HfRope {
    pub rope_theta: Option<f32>,
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    pub factor: Option<f32>,
    pub low_freq_factor: Option<f32>,
    pub high_freq_factor: Option<f32>,
    pub original_max_position_embeddings: Option<u64>,
}

/// One rotation, or one for each kind of layer.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum HfRopes {
    Kinds { full_attention: HfRope, sliding_attention: HfRope },
    One(HfRope),
}

/// One id, or several; a negative number or a null is none.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Ids {
    One(i64),
    Many(Vec<Option<i64>>),
}

impl Ids {
    /// All of them.
    pub fn list(this: Option<&Self>) -> Vec<u32> {
        let id = |id: &i64| u32::try_from(*id).ok();
        match this {
            None => Vec::new(),
            Some(Self::One(one)) => id(one).into_iter().collect(),
            Some(Self::Many(ids)) => ids.iter().flatten().filter_map(id).collect(),
        }
    }
}

/// Llama 3's divisors of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
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
pub struct HfModel {
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
pub fn text(path: &Path, limit: u64) -> Result<Vec<u8>> {
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
/// [`Error::Model`] naming the field that is missing, contradictory, or describes what no architecture here is.
pub fn read(path: &Path) -> Result<HfModel> {
    let wrong = |field: &str, message: String| Err(Error::model(path, field, message));
    // serde's message names the missing or wrong field and the line.
    let config: HfConfig = match serde_json::from_slice(&text(path, LARGEST)?) {
        Ok(c) => c,
        Err(e) => {
            return wrong("config.json", format!("{e}; a Hugging Face config.json of a language model is needed"));
        }
    };
    let kind = config.model_type.as_deref().unwrap_or("llama");
    let Some(arch) = by_model_type(kind) else {
        return wrong("model_type", format!("is `{}`; supported: {}", kind.escape_debug(), model_types()));
    };
    let hyper = (arch.from_hf)(&config, path)?;
    let (bos, eos) = (Ids::list(config.bos_token_id.as_ref()), Ids::list(config.eos_token_id.as_ref()));
    Ok(HfModel { hyper, llama3: config.turning(path)?.1, bos, eos })
}

impl HfConfig {
    fn wrong<T>(path: &Path, field: &str, message: String) -> Result<T> {
        Err(Error::model(path, field, message))
    }

    /// Refuses another activation than `acts`, the first of which is meant where none is named.
    pub fn only_act(&self, path: &Path, acts: &[&str]) -> Result<()> {
        match self.hidden_act.as_deref().filter(|a| !acts.contains(a)) {
            None => Ok(()),
            Some(act) => {
                let kind = self.model_type.as_deref().unwrap_or("llama");
                let message = format!("is `{}`; a {} has {}", act.escape_debug(), kind.escape_debug(), acts[0]);
                Self::wrong(path, "hidden_act", message)
            }
        }
    }

    /// Refuses biases.
    pub fn no_bias(&self, path: &Path) -> Result<()> {
        if !self.attention_bias && !self.mlp_bias {
            return Ok(());
        }
        let field = if self.attention_bias { "attention_bias" } else { "mlp_bias" };
        Self::wrong(path, field, "is true; biases are not supported".into())
    }

    /// Refuses experts.
    pub fn no_experts(&self, path: &Path) -> Result<()> {
        match self.num_local_experts.filter(|&n| n > 0) {
            None => Ok(()),
            Some(n) => {
                let message = format!("is {n}; mixtures of experts are supported as `mixtral` only");
                Self::wrong(path, "num_local_experts", message)
            }
        }
    }

    /// Refuses a window on every layer.
    pub fn no_window(&self, path: &Path) -> Result<()> {
        match self.sliding_window.filter(|&n| n < self.max_position_embeddings) {
            None => Ok(()),
            Some(n) => {
                let message = format!("is {n}; windowed layers are not supported here, write null for full attention");
                Self::wrong(path, "sliding_window", message)
            }
        }
    }

    /// The rotation of layers that see everything.
    fn rope(&self) -> Option<&HfRope> {
        match &self.rope_parameters {
            Some(HfRopes::One(rope)) => Some(rope),
            Some(HfRopes::Kinds { full_attention, .. }) => Some(full_attention),
            None => self.rope_scaling.as_ref(),
        }
    }

    /// Base of the rotation of layers with a window, where it is said apart.
    pub fn local_rope_base(&self) -> Option<f32> {
        match &self.rope_parameters {
            Some(HfRopes::Kinds { sliding_attention, .. }) => sliding_attention.rope_theta,
            _ => self.rope_local_base_freq,
        }
    }

    /// The rotation of layers that see everything, and Llama 3's divisors where it has them.
    fn turning(&self, path: &Path) -> Result<(Turning, Option<Llama3>)> {
        let rope = self.rope();
        let base = self.rope_theta.or(rope.and_then(|r| r.rope_theta)).unwrap_or(10_000.0);
        let plain = Turning { base, scale: 1.0 };
        match rope.and_then(|r| Some((r.rope_type.as_deref()?, r))) {
            None | Some(("default", _)) => Ok((plain, None)),
            Some(("linear", r)) => Ok((Turning { scale: r.factor.unwrap_or(1.0), ..plain }, None)),
            // Llama 3 gives each frequency a divisor; a GGUF file carries them as a tensor.
            Some(("llama3", r)) => {
                let found = Llama3 {
                    factor: r.factor.unwrap_or(8.0).into(),
                    low: r.low_freq_factor.unwrap_or(1.0).into(),
                    high: r.high_freq_factor.unwrap_or(4.0).into(),
                    original: r.original_max_position_embeddings.unwrap_or(8192) as f64,
                };
                if !(found.factor > 0.0 && found.low > 0.0 && found.high > found.low && found.original > 0.0) {
                    return Self::wrong(
                        path,
                        "rope_scaling",
                        format!("{found:?}: all above 0, and high_freq_factor above low_freq_factor"),
                    );
                }
                Ok((plain, Some(found)))
            }
            Some((other, _)) => {
                let message = format!("is `{}`; supported: default, linear, llama3", other.escape_debug());
                Self::wrong(path, "rope_scaling.rope_type", message)
            }
        }
    }

    /// What all architectures share, as a plain Llama with rows of q and k in halves; `arch` is the id of the architecture.
    pub fn hyper(&self, arch: &'static str, path: &Path) -> Result<Hyper> {
        let (turning, llama3) = self.turning(path)?;
        // Checked before it sizes anything.
        if self.num_hidden_layers > limits::LAYERS {
            let message = format!("is {}; at most {} are supported", self.num_hidden_layers, limits::LAYERS);
            return Self::wrong(path, "num_hidden_layers", message);
        }
        let head_dim = match self.head_dim {
            Some(dim) => dim,
            None if self.num_attention_heads > 0 && self.hidden_size.is_multiple_of(self.num_attention_heads) => {
                self.hidden_size / self.num_attention_heads
            }
            None => {
                let message = format!(
                    "is {}, which does not divide hidden_size = {}",
                    self.num_attention_heads, self.hidden_size
                );
                return Self::wrong(path, "num_attention_heads", message);
            }
        };
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        let layer = Layer::plain(self.num_attention_heads, kv_heads, self.intermediate_size);
        Ok(Hyper {
            arch,
            name: String::new(),
            hidden: self.hidden_size,
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            norm_eps: self.rms_norm_eps,
            head_dim,
            rope_dim: head_dim,
            interleaved: false,
            ropes: vec![turning],
            scale: None,
            embedding_scale: 1.0,
            tied: self.tie_word_embeddings.unwrap_or(false),
            rope_freqs: llama3.is_some(),
            layers: vec![layer; self.num_hidden_layers as usize],
        })
    }
}
