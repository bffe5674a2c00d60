//! `config.json`: what Hugging Face says about a model's shape.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::turning::{Yarn, long_amplitude, yarn_amplitude};
use super::{Hyper, Layer, Mixture, Names, Turning, by_model_type, hf_json, limits, model_types};
use crate::blocks::BlockType;
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
        rope_factors: "rope_scaling.short_factor and long_factor".into(),
        window: "sliding_window".into(),
        experts: "num_experts".into(),
        used: "num_experts_per_tok".into(),
        shared: "shared_expert_intermediate_size".into(),
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
    pub hidden_activation: Option<String>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    pub sliding_window: Option<u64>,
    #[serde(default)]
    pub use_sliding_window: bool,
    pub max_window_layers: Option<u64>,
    pub sliding_window_pattern: Option<u64>,
    pub layer_types: Option<Vec<String>>,
    pub rope_local_base_freq: Option<f32>,
    pub query_pre_attn_scalar: Option<f64>,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    pub embedding_multiplier: Option<f32>,
    pub residual_multiplier: Option<f32>,
    pub attention_multiplier: Option<f32>,
    pub logits_scaling: Option<f32>,
    pub no_rope_layers: Option<Vec<u8>>,
    pub no_rope_layer_interval: Option<u64>,
    pub num_experts: Option<u64>,
    pub num_experts_per_tok: Option<u64>,
    pub moe_intermediate_size: Option<u64>,
    pub shared_expert_intermediate_size: Option<u64>,
    #[serde(default)]
    pub norm_topk_prob: bool,
    pub decoder_sparse_step: Option<u64>,
    #[serde(default)]
    pub mlp_only_layers: Vec<u64>,
    pub clip_qkv: Option<f32>,
    pub swiglu_limit: Option<f32>,
    pub qkv_bias: Option<bool>,
    pub partial_rotary_factor: Option<f64>,
    /// Phi-3 says it beside its rotation.
    pub original_max_position_embeddings: Option<f64>,
    pub rope_scaling: Option<HfRope>,
    /// Where newer writers put what were `rope_theta` and `rope_scaling`.
    pub rope_parameters: Option<HfRopes>,
    pub dtype: Option<String>,
    pub bos_token_id: Option<Ids>,
    pub eos_token_id: Option<Ids>,
}

/// One rotation.
#[derive(Clone, Deserialize)]
#[allow(missing_docs)]
pub struct HfRope {
    pub rope_theta: Option<f32>,
    pub rope_type: Option<String>,
    pub factor: Option<f32>,
    pub low_freq_factor: Option<f32>,
    pub high_freq_factor: Option<f32>,
    pub original_max_position_embeddings: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub attention_factor: Option<f64>,
    pub beta_fast: Option<f64>,
    pub beta_slow: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub truncate: Option<bool>,
    pub short_factor: Option<Vec<f32>>,
    pub long_factor: Option<Vec<f32>>,
}

/// One rotation, or one for each kind of layer.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
#[allow(clippy::large_enum_variant, reason = "a configuration has one")]
pub enum HfRopes {
    Kinds { full_attention: HfRope, sliding_attention: Option<HfRope> },
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
    /// What its weights are stored as, by its own word.
    pub ty: BlockType,
    /// Beginning of text.
    pub bos: Vec<u32>,
    /// Ends of text.
    pub eos: Vec<u32>,
}

/// What a gate by x · σ(x) is called.
pub const SILU: &[&str] = &["silu", "swish"];

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
            format!(
                "is larger than {}, which what it is read as never is; a model is named by its folder, its config.json, or a .gguf \
                 or .safetensors file",
                crate::Bytes(limit)
            ),
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
    let read = hf_json::parse(&text(path, LARGEST)?).and_then(|mut value| {
        if let Some(map) = value.as_object_mut() {
            hf_json::one_name(map);
        }
        serde_json::from_value(value)
    });
    let config: HfConfig = match read {
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
    let llama3 = config.turning(path, hyper.rope_dim)?.1;
    let ty = match config.dtype.as_deref() {
        Some("float32") => BlockType::F32,
        Some("float16") => BlockType::F16,
        _ => BlockType::Bf16,
    };
    Ok(HfModel { hyper, llama3, ty, bos, eos })
}

impl HfConfig {
    fn wrong<T>(path: &Path, field: &str, message: String) -> Result<T> {
        Err(Error::model(path, field, message))
    }

    /// Refuses another activation than `acts`, the first of which is meant where none is named.
    pub fn only_act(&self, path: &Path, acts: &[&str]) -> Result<()> {
        match self.hidden_activation.as_deref().filter(|a| !acts.contains(a)) {
            None => Ok(()),
            Some(act) => {
                let kind = self.model_type.as_deref().unwrap_or("llama");
                let message = format!("is `{}`; a {} has {}", act.escape_debug(), kind.escape_debug(), acts[0]);
                Self::wrong(path, "hidden_act", message)
            }
        }
    }

    /// Refuses what a dense layer without biases has not: another gate than these, biases, experts.
    pub fn dense(&self, path: &Path, acts: &[&str]) -> Result<()> {
        self.only_act(path, acts)?;
        self.no_bias(path)?;
        self.no_experts(path)
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
        match self.num_experts.filter(|&n| n > 0) {
            None => Ok(()),
            Some(n) => {
                let message = format!("is {n}; a {} has no experts", self.model_type.as_deref().unwrap_or("llama"));
                Self::wrong(path, "num_experts", message)
            }
        }
    }

    /// Refuses a window, which the architecture does not have.
    pub fn no_window(&self, path: &Path) -> Result<()> {
        match self.sliding_window.filter(|&n| n > 0 && n < self.max_position_embeddings) {
            None => Ok(()),
            Some(n) => {
                let kind = self.model_type.as_deref().unwrap_or("llama").escape_debug();
                let message = format!("is {n}; a {kind} has no window, write null (a `mistral` has one)");
                Self::wrong(path, "sliding_window", message)
            }
        }
    }

    /// The window of each layer: those of `layer_types` that slide, or where it is not said, those that `slides`.
    pub fn windows(&self, path: &Path, slides: impl Fn(u64) -> bool) -> Result<Vec<Option<u64>>> {
        let layers = self.num_hidden_layers;
        let window = self.sliding_window.filter(|&n| n > 0 && n < self.max_position_embeddings);
        let Some(kinds) = &self.layer_types else {
            return Ok((0..layers.min(limits::LAYERS)).map(|l| window.filter(|_| slides(l))).collect());
        };
        if kinds.len() as u64 != layers {
            let message = format!("has {} elements for {layers} layers", kinds.len());
            return Self::wrong(path, "layer_types", message);
        }
        let one = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(window),
            other => Self::wrong(path, "layer_types", format!("names `{}`, which is not known", other.escape_debug())),
        };
        kinds.iter().map(one).collect()
    }

    /// Windows where `use_sliding_window` says that they are used: in layers from `max_window_layers` on.
    pub fn used_windows(&self, path: &Path, hyper: &mut Hyper) -> Result<()> {
        if self.use_sliding_window {
            let from = self.max_window_layers.unwrap_or(28);
            hyper.set_windows(self.windows(path, |l| l >= from)?);
        }
        Ok(())
    }

    /// Makes layers mixtures, all of them or those that the configuration says, whose experts have a width of their own where it
    /// gives one.
    pub fn some_experts(&self, path: &Path, hyper: &mut Hyper) -> Result<()> {
        let count = Self::need(path, "num_experts", self.num_experts)?;
        let used = Self::need(path, "num_experts_per_tok", self.num_experts_per_tok)?;
        let every = self.decoder_sparse_step.unwrap_or(1).max(1);
        let mixture = Mixture { count, used, over_all: !self.norm_topk_prob, shared: None, bias: false };
        let routed = |l: u64| (l + 1).is_multiple_of(every) && !self.mlp_only_layers.contains(&l);
        hyper.set_experts(mixture, self.moe_intermediate_size.unwrap_or(self.intermediate_size), routed);
        Ok(())
    }

    /// A number that an architecture needs.
    pub fn need(path: &Path, field: &str, value: Option<u64>) -> Result<u64> {
        value.ok_or_else(|| Error::model(path, field, "is missing; this architecture needs it"))
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
            Some(HfRopes::Kinds { sliding_attention, .. }) => sliding_attention.as_ref().and_then(|r| r.rope_theta),
            _ => self.rope_local_base_freq,
        }
    }

    /// Elements of a head of `head_dim` that turn.
    fn rope_dim(&self, head_dim: u64) -> u64 {
        let part = self.rope().and_then(|r| r.partial_rotary_factor).or(self.partial_rotary_factor).unwrap_or(1.0);
        // As Python's int(), of what may be any number; what comes of it is checked with the rest.
        (head_dim as f64 * part).clamp(0.0, 1e9) as u64
    }

    /// The rotation of layers that see everything, `dim` elements of a head, and Llama 3's divisors where it has them.
    fn turning(&self, path: &Path, dim: u64) -> Result<(Turning, Option<Llama3>)> {
        let rope = self.rope();
        let base = self.rope_theta.or(rope.and_then(|r| r.rope_theta)).unwrap_or(10_000.0);
        let plain = Turning::plain(base);
        // Rotations of kinds of layers that are not known would be passed over.
        if let (Some(HfRopes::One(r)), None) = (&self.rope_parameters, self.rope_theta)
            && r.rope_type.is_none()
            && r.rope_theta.is_none()
        {
            let message = "names neither rope_type nor rope_theta, nor full_attention and sliding_attention".into();
            return Self::wrong(path, "rope_parameters", message);
        }
        let Some((kind, r)) = rope.and_then(|r| Some((r.rope_type.as_deref()?, r))) else { return Ok((plain, None)) };
        // Phi-3's first files called longrope so.
        let kind = if r.long_factor.is_some() && ["su", "yarn"].contains(&kind) { "longrope" } else { kind };
        match kind {
            "default" => Ok((plain, None)),
            "linear" => Ok((Turning { scale: r.factor.unwrap_or(1.0), ..plain }, None)),
            "dynamic" => match r.factor {
                Some(factor) => Ok((Turning { dynamic: Some(factor), ..plain }, None)),
                None => Self::wrong(path, "rope_scaling.factor", "is missing; dynamic scaling needs it".into()),
            },
            // Llama 3 gives each frequency a divisor; a GGUF file carries them as a tensor.
            "llama3" => {
                let found = Llama3 {
                    factor: r.factor.unwrap_or(8.0).into(),
                    low: r.low_freq_factor.unwrap_or(1.0).into(),
                    high: r.high_freq_factor.unwrap_or(4.0).into(),
                    original: r.original_max_position_embeddings.unwrap_or(8192.0),
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
            "yarn" => Ok((self.yarn(r, plain, path, dim)?, None)),
            "longrope" => Ok((self.longrope(r, plain, path)?, None)),
            other => {
                let message = format!(
                    "is `{}`; supported: default, linear, dynamic, llama3, yarn, longrope",
                    other.escape_debug()
                );
                Self::wrong(path, "rope_scaling.rope_type", message)
            }
        }
    }

    /// Tokens that a model was first trained on, as its rotation says it.
    fn original(&self, r: &HfRope) -> f64 {
        let said = self.original_max_position_embeddings.or(r.original_max_position_embeddings);
        said.unwrap_or(self.max_position_embeddings as f64)
    }

    fn yarn(&self, r: &HfRope, plain: Turning, path: &Path, dim: u64) -> Result<Turning> {
        let original = self.original(r);
        let factor = r.factor.map_or(self.max_position_embeddings as f64 / original, f64::from);
        let yarn = Yarn {
            factor,
            original,
            fast: r.beta_fast.filter(|b| *b != 0.0).unwrap_or(32.0),
            slow: r.beta_slow.filter(|b| *b != 0.0).unwrap_or(1.0),
            whole: r.truncate.unwrap_or(true),
        };
        let sound = [yarn.factor, yarn.original, yarn.fast, yarn.slow].iter().all(|v| v.is_finite() && *v > 0.0);
        if !sound || plain.base <= 1.0 || dim == 0 || dim > limits::HEAD_DIM {
            let message =
                format!("{yarn:?} with a base of {} over {dim} elements: all above 0, the base above 1", plain.base);
            return Self::wrong(path, "rope_scaling", message);
        }
        let amplitude = match (r.attention_factor, r.mscale, r.mscale_all_dim) {
            (Some(given), ..) => given,
            (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => yarn_amplitude(factor, a) / yarn_amplitude(factor, b),
            _ => yarn_amplitude(factor, 1.0),
        };
        let divisors = yarn.divisors(dim as usize, plain.base);
        Ok(Turning { divisors, amplitude: amplitude as f32, ..plain })
    }

    fn longrope(&self, r: &HfRope, plain: Turning, path: &Path) -> Result<Turning> {
        let (Some(short), Some(long)) = (&r.short_factor, &r.long_factor) else {
            return Self::wrong(path, "rope_scaling", "is longrope without short_factor and long_factor".into());
        };
        let original = self.original(r);
        let factor = r.factor.map_or(self.max_position_embeddings as f64 / original, f64::from);
        let amplitude = r.attention_factor.unwrap_or_else(|| long_amplitude(factor, original));
        Ok(Turning {
            divisors: short.clone(),
            amplitude: amplitude as f32,
            long: Some((original.clamp(0.0, 1e9) as u64, long.clone())),
            ..plain
        })
    }

    /// What all architectures share, as a plain Llama with rows of q and k in halves; `arch` is the id of the architecture.
    pub fn hyper(&self, arch: &'static str, path: &Path) -> Result<Hyper> {
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
        let rope_dim = self.rope_dim(head_dim);
        let (turning, llama3) = self.turning(path, rope_dim)?;
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
            rope_dim,
            interleaved: false,
            ropes: vec![turning],
            scale: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            tied: self.tie_word_embeddings.unwrap_or(false),
            rope_freqs: llama3.is_some(),
            layers: vec![layer; self.num_hidden_layers as usize],
        })
    }
}
