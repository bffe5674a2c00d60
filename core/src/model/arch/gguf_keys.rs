//! Hyperparameters that the files of every architecture name alike, after a prefix: `llama.block_count`.

use super::turning::{Yarn, yarn_amplitude};
use super::{Hyper, Layer, Mixture, Names, Turning, limits};
use crate::blocks::BlockType;
use crate::error::Result;
use crate::model::gguf::{Gguf, Value};

/// Longrope's divisors.
pub const LONG: &str = "rope_factors_long.weight";
/// Longrope's divisors within the first context.
pub const SHORT: &str = "rope_factors_short.weight";

/// The keys of a prefix.
pub fn names(prefix: &str) -> Names {
    let key = |rest: &str| format!("{prefix}.{rest}").into();
    Names {
        layers: key("block_count"),
        hidden: key("embedding_length"),
        ff: key("feed_forward_length"),
        heads: key("attention.head_count"),
        kv_heads: key("attention.head_count_kv"),
        head_dim: key("attention.key_length"),
        vocab: "token_embd.weight".into(),
        context: key("context_length"),
        norm_eps: key("attention.layer_norm_rms_epsilon"),
        rope_dim: key("rope.dimension_count"),
        rope_base: key("rope.freq_base"),
        rope_scale: key("rope.scaling.factor"),
        rope_factors: "rope_factors".into(),
        window: key("attention.sliding_window"),
        experts: key("expert_count"),
        used: key("expert_used_count"),
        shared: key("expert_shared_feed_forward_length"),
    }
}

/// Reads the keys of one prefix.
pub struct Keys<'a> {
    /// The file.
    pub gguf: &'a Gguf,
    /// What its keys begin with.
    pub prefix: &'static str,
}

impl Keys<'_> {
    /// A whole key.
    pub fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    /// A whole number, where the file has it.
    pub fn u64(&self, rest: &str) -> Result<Option<u64>> {
        self.gguf.u64(&self.key(rest))
    }

    /// A number, where the file has it.
    pub fn f32(&self, rest: &str) -> Result<Option<f32>> {
        self.gguf.f32(&self.key(rest))
    }

    fn missing(&self, rest: &str) -> crate::Error {
        let message = format!("is missing; a {} model needs it: convert the model again", self.prefix);
        self.gguf.error(self.key(rest), message)
    }

    /// A whole number that must be there.
    pub fn need(&self, rest: &str) -> Result<u64> {
        self.u64(rest)?.ok_or_else(|| self.missing(rest))
    }

    /// A hyperparameter given once or once a layer.
    fn per_layer(&self, rest: &str, layers: u64) -> Result<Option<Vec<u64>>> {
        let key = self.key(rest);
        match self.gguf.entry(&key).map(|e| &e.value) {
            None => Ok(None),
            Some(Value::Array(array)) if array.count != layers => {
                let message = format!("has {} elements for {layers} layers; convert the model again", array.count);
                Err(self.gguf.error(key, message))
            }
            Some(Value::Array(_)) => self.gguf.u64s(&key).map(Some),
            Some(_) => Ok(self.gguf.u64(&key)?.map(|value| vec![value; layers as usize])),
        }
    }

    /// The rotation of `dim` elements of a head: `rope.scaling.*`, or the key files had before it, and tensors of divisors.
    fn turning(&self, dim: u64) -> Result<Turning> {
        let plain = Turning::plain(self.f32("rope.freq_base")?.unwrap_or(10_000.0));
        let factor = self.f32("rope.scaling.factor")?;
        let key = self.key("rope.scaling.type");
        let needs = || self.gguf.error(self.key("rope.scaling.factor"), "is missing; this scaling needs it");
        if let Some(long) = self.factors(LONG, dim)? {
            let original = match self.u64("rope.scaling.original_context_length")? {
                Some(tokens) => tokens,
                None => self.need("context_length")?,
            };
            let divisors = self.factors(SHORT, dim)?.unwrap_or_default();
            let amplitude = self.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
            return Ok(Turning { divisors, amplitude, long: Some((original, long)), ..plain });
        }
        match self.gguf.str(&key)? {
            Some("linear") => Ok(Turning { scale: factor.ok_or_else(needs)?, ..plain }),
            Some("none") => Ok(plain),
            None => Ok(Turning { scale: factor.or(self.f32("rope.scale_linear")?).unwrap_or(1.0), ..plain }),
            Some("yarn") => self.yarn(plain, factor.ok_or_else(needs)?.into(), dim),
            Some(other) => Err(self.gguf.error(
                key,
                format!(
                    "is `{}`, which is not supported (none, linear, yarn and longrope are); \
                     use the model's original, unextended file",
                    other.escape_debug()
                ),
            )),
        }
    }

    fn yarn(&self, plain: Turning, factor: f64, dim: u64) -> Result<Turning> {
        let original = match self.u64("rope.scaling.original_context_length")? {
            Some(tokens) => tokens,
            None => self.need("context_length")?,
        };
        let number = |rest: &str, usual: f32| Ok::<f64, crate::Error>(self.f32(rest)?.unwrap_or(usual).into());
        let yarn = Yarn {
            factor,
            original: original as f64,
            fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
            slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
            whole: true,
        };
        let sound = [yarn.factor, yarn.original, yarn.fast, yarn.slow].iter().all(|v| v.is_finite() && *v > 0.0);
        if !sound || plain.base <= 1.0 || dim == 0 || dim > limits::HEAD_DIM {
            let message = format!("{yarn:?} with a base of {}: all above 0, the base above 1", plain.base);
            return Err(self.gguf.error(self.key("rope.scaling.type"), message));
        }
        let amplitude = number("rope.scaling.attn_factor", 1.0)? * yarn_amplitude(factor, 1.0);
        let divisors = yarn.divisors(dim as usize, plain.base);
        Ok(Turning { divisors, amplitude: amplitude as f32, ..plain })
    }

    /// A tensor of divisors, one for each pair of `dim` elements that turn.
    fn factors(&self, name: &str, dim: u64) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.gguf.tensor(name) else { return Ok(None) };
        if info.ty != BlockType::F32 || info.dims() != [dim / 2] || dim > limits::HEAD_DIM {
            let message = format!("is {} {:?}; {} numbers in f32 are needed", info.ty, info.dims(), dim / 2);
            return Err(self.gguf.error(name, message));
        }
        let mut out = vec![0.0f32; info.cols];
        self.gguf.read_at(info, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(Some(out))
    }

    /// The layers' sizes.
    fn layers(&self, hidden: u64) -> Result<(Vec<Layer>, u64)> {
        let (head_count, ff) = ("attention.head_count", "feed_forward_length");
        let layers = self.need("block_count")?;
        if layers == 0 || layers > limits::LAYERS {
            let message = format!("is {layers}; 1 to {} layers are supported", limits::LAYERS);
            return Err(self.gguf.error(self.key("block_count"), message));
        }
        let heads = self.per_layer(head_count, layers)?.ok_or_else(|| self.missing(head_count))?;
        let kv_heads = self.per_layer("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let ff = self.per_layer(ff, layers)?.ok_or_else(|| self.missing(ff))?;
        let head_dim = match self.u64("attention.key_length")? {
            Some(dim) => dim,
            // ggml's rule: the first layer's heads share the residual width.
            None if heads[0] > 0 && hidden.is_multiple_of(heads[0]) => hidden / heads[0],
            None => {
                let message =
                    format!("is {}, which does not divide {} = {hidden}", heads[0], self.key("embedding_length"));
                return Err(self.gguf.error(self.key(head_count), message));
            }
        };
        let plain = (0..layers as usize).map(|n| Layer::plain(heads[n], kv_heads[n], ff[n])).collect();
        Ok((plain, head_dim))
    }

    /// What all architectures share, as a plain Llama with rows of q and k in halves; `arch` is the id of the architecture.
    pub fn hyper(&self, arch: &'static str) -> Result<Hyper> {
        let gguf = self.gguf;
        let hidden = self.need("embedding_length")?;
        let (layers, head_dim) = self.layers(hidden)?;
        if let Some(value_dim) = self.u64("attention.value_length")?.filter(|&v| v != head_dim) {
            let message = format!("is {value_dim}; keys have {head_dim}, and heads of two sizes are not supported");
            return Err(gguf.error(self.key("attention.value_length"), message));
        }
        let embedding = gguf.tensor("token_embd.weight").ok_or_else(|| {
            gguf.error("token_embd.weight", format!("is missing; this file holds no {} model", self.prefix))
        })?;
        let vocab = embedding.rows as u64;
        if let Some(declared) = self.u64("vocab_size")?.filter(|&v| v != vocab) {
            let message = format!("is {declared}, token_embd.weight has {vocab} rows; convert the model again");
            return Err(gguf.error(self.key("vocab_size"), message));
        }
        let name = gguf.str("general.name")?.filter(|n| !n.is_empty()).map_or_else(
            || gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            |n| n.chars().filter(|c| !c.is_control()).take(128).collect(),
        );
        let eps = "attention.layer_norm_rms_epsilon";
        let rope_dim = self.u64("rope.dimension_count")?.unwrap_or(head_dim);
        Ok(Hyper {
            arch,
            name,
            hidden,
            vocab,
            context: self.need("context_length")?,
            norm_eps: self.f32(eps)?.ok_or_else(|| self.missing(eps))?,
            head_dim,
            rope_dim,
            interleaved: false,
            ropes: vec![self.turning(rope_dim)?],
            scale: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            tied: gguf.tensor("output.weight").is_none(),
            rope_freqs: gguf.tensor("rope_freqs.weight").is_some(),
            layers,
        })
    }

    /// The experts that the file names, weighted by a softmax over all of them where it does not say otherwise and `over_all`.
    pub fn mixture(&self, over_all: bool) -> Result<Mixture> {
        let normed = self.gguf.bool(&self.key("expert_weights_norm"))?;
        let (count, used) = (self.need("expert_count")?, self.need("expert_used_count")?);
        Ok(Mixture { count, used, over_all: normed.map_or(over_all, |normed| !normed), shared: None, bias: false })
    }

    /// The window that the file names, where it is shorter than the context.
    pub fn window(&self) -> Result<Option<u64>> {
        let context = self.u64("context_length")?.unwrap_or(u64::MAX);
        Ok(self.u64("attention.sliding_window")?.filter(|&n| n > 0 && n < context))
    }

    /// Refuses a window, which the architecture does not have.
    pub fn no_window(&self) -> Result<()> {
        match self.window()? {
            None => Ok(()),
            Some(n) => {
                let message = format!(
                    "is {n}, below the context: windowed attention layers of {} are not supported",
                    self.prefix
                );
                Err(self.gguf.error(self.key("attention.sliding_window"), message))
            }
        }
    }

    /// Refuses experts.
    pub fn no_experts(&self) -> Result<()> {
        match self.u64("expert_count")?.filter(|&n| n > 0) {
            None => Ok(()),
            Some(n) => {
                let message = format!(
                    "is {n}: mixtures of experts of {} are not supported yet; choose a dense model",
                    self.prefix
                );
                Err(self.gguf.error(self.key("expert_count"), message))
            }
        }
    }

    /// Refuses experts, and what a plain dense layer has not but for what the architecture `reads`.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key.
    pub fn dense(&self, reads: &[&str]) -> Result<()> {
        self.no_experts()?;
        self.nothing_ignored_but(reads)
    }

    /// Refuses keys that would change the forward pass of whatever has them.
    pub fn nothing_ignored(&self) -> Result<()> {
        self.nothing_ignored_but(&[])
    }

    /// As [`Self::nothing_ignored`], but for those that the architecture `reads`.
    pub fn nothing_ignored_but(&self, reads: &[&str]) -> Result<()> {
        let key = self.key("attention.causal");
        if self.gguf.bool(&key)? == Some(false) {
            return Err(self
                .gguf
                .error(key, "is false: encoders are not supported, choose a model that generates text"));
        }
        // 0 stands for "not used" in all of them; scales may also be one.
        for (rest, one_is_neutral) in [
            ("embedding_scale", true),
            ("residual_scale", true),
            ("logit_scale", true),
            ("attention.scale", false),
            ("attention.clamp_kqv", false),
            ("attn_logit_softcapping", false),
            ("final_logit_softcapping", false),
        ] {
            if reads.contains(&rest) {
                continue;
            }
            if let Some(v) = self.f32(rest)?.filter(|&v| v != 0.0 && !(one_is_neutral && v == 1.0)) {
                let message =
                    format!("is {v}: no plain {} has it, and leaving it out would change the results", self.prefix);
                return Err(self.gguf.error(self.key(rest), message));
            }
        }
        Ok(())
    }
}
