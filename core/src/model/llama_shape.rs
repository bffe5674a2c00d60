//! The shape of a Llama model (SmolLM2, Llama 2 and 3, TinyLlama, Mistral), from a GGUF header.
//!
//! Everything later arithmetic relies on is checked here: the hyperparameters lie within [`limits`], agree with each
//! other and with the tensors, and no tensor is left over that the forward pass would silently ignore.

use std::collections::BTreeSet;

use super::gguf::{Gguf, Value, ValueType};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::shape::{LayerShape, LayerTensors, ModelShape, Rope, TensorShape};

/// Largest hyperparameters believed. Together they keep every product of sizes (cache bytes, logits, attention maps,
/// with 8 bytes an element) below 2⁶³.
pub mod limits {
    /// Layers.
    pub const LAYERS: u64 = 1 << 10;
    /// Width of the residual stream, and heads × head size.
    pub const HIDDEN: u64 = 1 << 16;
    /// Heads of a layer.
    pub const HEADS: u64 = 1 << 11;
    /// Elements of a head.
    pub const HEAD_DIM: u64 = 1 << 12;
    /// Width of the feed-forward.
    pub const FF: u64 = 1 << 20;
    /// Tokens of the vocabulary.
    pub const VOCAB: u64 = 1 << 24;
    /// Trained context in tokens.
    pub const CONTEXT: u64 = 1 << 24;
    /// Bytes of a token's text.
    pub const TOKEN: usize = 16 << 10;
}

/// What a tensor is for: it decides the types it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Multiplied or looked up by rows: any type that decodes to numbers.
    Matrix,
    /// A norm's weight or the rotary divisors: f32.
    Vector,
}

/// What the keys are called where the hyperparameters came from, for messages.
pub(super) struct Names {
    pub layers: &'static str,
    pub hidden: &'static str,
    pub ff: &'static str,
    pub heads: &'static str,
    pub kv_heads: &'static str,
    pub head_dim: &'static str,
    pub vocab: &'static str,
    pub context: &'static str,
    pub norm_eps: &'static str,
    pub rope_dim: &'static str,
    pub rope_base: &'static str,
    pub rope_scale: &'static str,
}

const KEYS: Names = Names {
    layers: "llama.block_count",
    hidden: "llama.embedding_length",
    ff: "llama.feed_forward_length",
    heads: "llama.attention.head_count",
    kv_heads: "llama.attention.head_count_kv",
    head_dim: "llama.attention.key_length",
    vocab: "token_embd.weight",
    context: "llama.context_length",
    norm_eps: "llama.attention.layer_norm_rms_epsilon",
    rope_dim: "llama.rope.dimension_count",
    rope_base: "llama.rope.freq_base",
    rope_scale: "llama.rope.scaling.factor",
};

/// One layer's hyperparameters.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub heads: u64,
    pub kv_heads: u64,
    pub ff: u64,
}

/// A Llama model's hyperparameters, not checked yet.
pub(super) struct Hyper {
    pub name: String,
    pub hidden: u64,
    pub vocab: u64,
    pub context: u64,
    pub norm_eps: f32,
    pub head_dim: u64,
    pub rope_dim: u64,
    pub rope_base: f32,
    pub rope_scale: f32,
    pub tied: bool,
    pub rope_freqs: bool,
    pub layers: Vec<Layer>,
}

impl Hyper {
    /// Checks the numbers and lays out the tensors; `tensor(name, rows, cols, role)` gives each its type, or refuses it.
    pub(super) fn assemble(
        self,
        names: &Names,
        wrong: impl Fn(&str, String) -> Error,
        mut tensor: impl FnMut(String, usize, usize, Role) -> Result<TensorShape>,
    ) -> Result<ModelShape> {
        use Role::{Matrix, Vector};
        let within = |name: &str, value: u64, most: u64| match value {
            0 => Err(wrong(name, "is 0; convert the model again".into())),
            v if v > most => Err(wrong(name, format!("is {v}; at most {most} is supported"))),
            v => Ok(v as usize),
        };
        let hidden = within(names.hidden, self.hidden, limits::HIDDEN)?;
        let vocab = within(names.vocab, self.vocab, limits::VOCAB)?;
        let context = within(names.context, self.context, limits::CONTEXT)?;
        let head_dim = within(names.head_dim, self.head_dim, limits::HEAD_DIM)?;
        let rope_dim = within(names.rope_dim, self.rope_dim, limits::HEAD_DIM)?;
        within(names.layers, self.layers.len() as u64, limits::LAYERS)?;
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            return Err(wrong(
                names.rope_dim,
                format!("is {rope_dim}; it must be even and at most the head's {head_dim}"),
            ));
        }
        for (name, value) in
            [(names.norm_eps, self.norm_eps), (names.rope_base, self.rope_base), (names.rope_scale, self.rope_scale)]
        {
            if !value.is_finite() || value <= 0.0 {
                return Err(wrong(name, format!("is {value}; it must be a finite number above 0")));
            }
        }

        let embedding = tensor("token_embd.weight".into(), vocab, hidden, Matrix)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (n, layer) in self.layers.iter().enumerate() {
            let heads = within(names.heads, layer.heads, limits::HEADS)?;
            let kv_heads = within(names.kv_heads, layer.kv_heads, limits::HEADS)?;
            let ff = within(names.ff, layer.ff, limits::FF)?;
            if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
                return Err(wrong(
                    names.kv_heads,
                    format!("is {kv_heads} in layer {n}; it must divide the {heads} query heads"),
                ));
            }
            within(names.heads, (heads * head_dim) as u64, limits::HIDDEN)?;
            let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
            let mut part = |part: &str, rows, cols, role| tensor(format!("blk.{n}.{part}.weight"), rows, cols, role);
            let tensors = LayerTensors {
                attn_norm: part("attn_norm", 1, hidden, Vector)?,
                q: part("attn_q", wide, hidden, Matrix)?,
                k: part("attn_k", narrow, hidden, Matrix)?,
                v: part("attn_v", narrow, hidden, Matrix)?,
                o: part("attn_output", hidden, wide, Matrix)?,
                ffn_norm: part("ffn_norm", 1, hidden, Vector)?,
                gate: part("ffn_gate", ff, hidden, Matrix)?,
                up: part("ffn_up", ff, hidden, Matrix)?,
                down: part("ffn_down", hidden, ff, Matrix)?,
            };
            layers.push(LayerShape { heads, kv_heads, head_dim, ff, tensors });
        }
        let output_norm = tensor("output_norm.weight".into(), 1, hidden, Vector)?;
        let output = if self.tied { None } else { Some(tensor("output.weight".into(), vocab, hidden, Matrix)?) };
        let rope_freqs =
            if self.rope_freqs { Some(tensor("rope_freqs.weight".into(), 1, rope_dim / 2, Vector)?) } else { None };
        Ok(ModelShape {
            name: self.name,
            arch: "llama".into(),
            hidden,
            vocab,
            context,
            norm_eps: self.norm_eps,
            rope: Rope { dim: rope_dim, base: self.rope_base, scale: self.rope_scale, interleaved: true },
            layers,
            embedding,
            output_norm,
            output,
            rope_freqs,
            adapter: None,
        })
    }
}

impl ModelShape {
    /// The shape of the model in `gguf`, its header and its tensors held against each other.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or tensor: a missing or contradictory one, an architecture other than `llama`,
    /// and whatever would change the numbers if it were ignored (experts, biases, windows, yarn).
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let arch = gguf.str("general.architecture")?;
        if arch != Some("llama") {
            let found = arch.map_or("is missing".into(), |a| format!("is `{}`", a.escape_debug()));
            return Err(gguf.error(
                "general.architecture",
                format!("{found}; supported: `llama` (SmolLM2, Llama 2 and 3, TinyLlama, Mistral)"),
            ));
        }
        refuse_what_would_be_ignored(gguf)?;
        let hyper = hyper(gguf)?;
        check_vocab(gguf, hyper.vocab)?;

        let mut expected = BTreeSet::new();
        let layers = hyper.layers.len();
        let shape = hyper.assemble(
            &KEYS,
            |field, message| gguf.error(field, message),
            |name, rows, cols, role| {
                let shape = find(gguf, name, rows, cols, role)?;
                expected.insert(shape.name.clone());
                Ok(shape)
            },
        )?;
        // One check a file keeps every biased, gated or experimental relative out, whatever it calls its tensors.
        if let Some(extra) = gguf.tensors().iter().find(|t| !expected.contains(&*t.name)) {
            let why = if extra.name.ends_with(".bias") { "biases" } else { "tensors beyond those of a Llama layer" };
            return Err(gguf.error(
                &*extra.name,
                format!("{why} are not supported, and leaving one out would change the results ({layers} layers of plain Llama were expected)"),
            ));
        }
        Ok(shape)
    }
}

fn hyper(gguf: &Gguf) -> Result<Hyper> {
    let missing = |key: &str| gguf.error(key, "is missing; a llama model needs it: convert the model again");
    let need = |key: &str| gguf.u64(key)?.ok_or_else(|| missing(key));
    let layers = need(KEYS.layers)?;
    if layers == 0 || layers > limits::LAYERS {
        return Err(gguf.error(KEYS.layers, format!("is {layers}; 1 to {} layers are supported", limits::LAYERS)));
    }
    let hidden = need(KEYS.hidden)?;
    let heads = per_layer(gguf, KEYS.heads, layers)?.ok_or_else(|| missing(KEYS.heads))?;
    let kv_heads = per_layer(gguf, KEYS.kv_heads, layers)?.unwrap_or_else(|| heads.clone());
    let ff = per_layer(gguf, KEYS.ff, layers)?.ok_or_else(|| missing(KEYS.ff))?;

    let head_dim = match gguf.u64(KEYS.head_dim)? {
        Some(dim) => dim,
        // ggml's rule: the first layer's heads share the residual width.
        None if heads[0] > 0 && hidden.is_multiple_of(heads[0]) => hidden / heads[0],
        None => {
            return Err(gguf.error(
                KEYS.heads,
                format!("is {}, which does not divide llama.embedding_length = {hidden}", heads[0]),
            ));
        }
    };
    let key = "llama.attention.value_length";
    if let Some(value_dim) = gguf.u64(key)?.filter(|&v| v != head_dim) {
        let message = format!("is {value_dim}; keys have {head_dim}, and heads of two sizes are not supported");
        return Err(gguf.error(key, message));
    }
    let embedding = gguf
        .tensor("token_embd.weight")
        .ok_or_else(|| gguf.error("token_embd.weight", "is missing; this file holds no llama model"))?;
    let vocab = embedding.rows as u64;
    let key = "llama.vocab_size";
    if let Some(declared) = gguf.u64(key)?.filter(|&v| v != vocab) {
        return Err(
            gguf.error(key, format!("is {declared}, token_embd.weight has {vocab} rows; convert the model again"))
        );
    }
    let name = gguf.str("general.name")?.filter(|n| !n.is_empty()).map_or_else(
        || gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        |n| n.chars().filter(|c| !c.is_control()).take(128).collect(),
    );
    Ok(Hyper {
        name,
        hidden,
        vocab,
        context: need(KEYS.context)?,
        norm_eps: gguf.f32(KEYS.norm_eps)?.ok_or_else(|| missing(KEYS.norm_eps))?,
        head_dim,
        rope_dim: gguf.u64(KEYS.rope_dim)?.unwrap_or(head_dim),
        rope_base: gguf.f32(KEYS.rope_base)?.unwrap_or(10_000.0),
        rope_scale: rope_scale(gguf)?,
        tied: gguf.tensor("output.weight").is_none(),
        rope_freqs: gguf.tensor("rope_freqs.weight").is_some(),
        layers: (0..layers as usize).map(|n| Layer { heads: heads[n], kv_heads: kv_heads[n], ff: ff[n] }).collect(),
    })
}

/// A hyperparameter given once or once a layer.
fn per_layer(gguf: &Gguf, key: &str, layers: u64) -> Result<Option<Vec<u64>>> {
    match gguf.entry(key).map(|e| &e.value) {
        None => Ok(None),
        Some(Value::Array(array)) if array.count != layers => {
            Err(gguf.error(key, format!("has {} elements for {layers} layers; convert the model again", array.count)))
        }
        Some(Value::Array(_)) => gguf.u64s(key).map(Some),
        Some(_) => Ok(gguf.u64(key)?.map(|value| vec![value; layers as usize])),
    }
}

/// The divisor of positions: `llama.rope.scaling.*`, or the key files had before it.
fn rope_scale(gguf: &Gguf) -> Result<f32> {
    let factor = gguf.f32(KEYS.rope_scale)?;
    match gguf.str("llama.rope.scaling.type")? {
        Some("linear") => factor.ok_or_else(|| gguf.error(KEYS.rope_scale, "is missing; linear scaling needs it")),
        Some("none") => Ok(1.0),
        None => Ok(factor.or(gguf.f32("llama.rope.scale_linear")?).unwrap_or(1.0)),
        Some(other) => Err(gguf.error(
            "llama.rope.scaling.type",
            format!(
                "is `{}`, which scales each frequency by its own rule and is not supported (none and linear are); \
                 use the model's original, unextended file",
                other.escape_debug()
            ),
        )),
    }
}

/// Keys that change the forward pass of relatives converted as `llama`.
fn refuse_what_would_be_ignored(gguf: &Gguf) -> Result<()> {
    let key = "llama.expert_count";
    if let Some(n) = gguf.u64(key)?.filter(|&n| n > 0) {
        return Err(gguf.error(key, format!("is {n}: mixtures of experts are not supported yet; choose a dense model")));
    }
    let key = "llama.attention.sliding_window";
    let context = gguf.u64(KEYS.context)?.unwrap_or(u64::MAX);
    if let Some(n) = gguf.u64(key)?.filter(|&n| n > 0 && n < context) {
        let message =
            format!("is {n}, below the context of {context}: windowed attention layers are not supported yet");
        return Err(gguf.error(key, message));
    }
    let key = "llama.attention.causal";
    if gguf.bool(key)? == Some(false) {
        return Err(gguf.error(key, "is false: encoders are not supported, choose a model that generates text"));
    }
    // 0 stands for "not used" in all of them; scales may also be one.
    for (key, one_is_neutral) in [
        ("llama.embedding_scale", true),
        ("llama.residual_scale", true),
        ("llama.logit_scale", true),
        ("llama.attention.scale", false),
        ("llama.attention.clamp_kqv", false),
        ("llama.attn_logit_softcapping", false),
        ("llama.final_logit_softcapping", false),
    ] {
        if let Some(v) = gguf.f32(key)?.filter(|&v| v != 0.0 && !(one_is_neutral && v == 1.0)) {
            return Err(
                gguf.error(key, format!("is {v}: no plain Llama has it, and leaving it out would change the results"))
            );
        }
    }
    Ok(())
}

/// Finds a tensor and holds its type and dimensions against what the hyperparameters say.
fn find(gguf: &Gguf, name: String, rows: usize, cols: usize, role: Role) -> Result<TensorShape> {
    let Some(info) = gguf.tensor(&name) else {
        return Err(gguf.error(
            name,
            format!("is missing; the hyperparameters ask for it, {cols} × {rows}: convert the model again"),
        ));
    };
    let wanted: &[u64] = match role {
        Role::Matrix => &[cols as u64, rows as u64],
        Role::Vector => &[cols as u64],
    };
    if info.dims() != wanted {
        return Err(gguf.error(
            format!("{name}.dims"),
            format!("are {:?}; the hyperparameters ask for {wanted:?}: convert the model again", info.dims()),
        ));
    }
    let fits = match role {
        Role::Matrix => holds_weights(info.ty),
        Role::Vector => info.ty == BlockType::F32,
    };
    if !fits {
        let wanted = if role == Role::Vector { "f32" } else { "a float or quantized type" };
        return Err(
            gguf.error(format!("{name}.type"), format!("is {}, {wanted} is needed: convert the model again", info.ty))
        );
    }
    Ok(TensorShape { name, ty: info.ty.into(), rows, cols })
}

/// Whether a matrix may be stored as `ty`: not the integers, and not the types ggml keeps for activations.
fn holds_weights(ty: BlockType) -> bool {
    use BlockType::{F64, I8, I16, I32, I64, Q8_1, Q8K};
    !matches!(ty, I8 | I16 | I32 | I64 | F64 | Q8_1 | Q8K)
}

/// `tokenizer.ggml.token_type` of a token that stands for one byte, `<0x0A>`.
const BYTE: i32 = 6;

/// Checks the vocabulary's arrays: types, one entry a row of the embedding, no token longer than [`limits::TOKEN`], and
/// byte tokens that name a byte. A file without a vocabulary passes: it may still be planned and timed.
///
/// # Errors
/// [`Error::Model`] naming the array or the element.
fn check_vocab(gguf: &Gguf, vocab: u64) -> Result<()> {
    let types = "tokenizer.ggml.token_type";
    for (key, allowed) in
        [("tokenizer.ggml.tokens", ValueType::Str), ("tokenizer.ggml.scores", ValueType::F32), (types, ValueType::I32)]
    {
        let Some(array) = gguf.array(key)? else { continue };
        if array.ty != allowed {
            let message =
                format!("is an array of {}, an array of {allowed} is needed; convert the model again", array.ty);
            return Err(gguf.error(key, message));
        }
        if array.count != vocab {
            let message =
                format!("has {} entries, token_embd.weight has {vocab} rows; convert the model again", array.count);
            return Err(gguf.error(key, message));
        }
    }
    let key = "tokenizer.ggml.tokens";
    if !gguf.has(key) {
        return Ok(());
    }
    let types = if gguf.has(types) { gguf.i32s(types)? } else { Vec::new() };
    gguf.each_string(key, |n, token| {
        let wrong = |message: String| Err(gguf.error(format!("{key}[{n}]"), message));
        if token.len() > limits::TOKEN {
            return wrong(format!("is {} bytes long; at most {} are supported", token.len(), limits::TOKEN));
        }
        if types.get(n as usize) == Some(&BYTE) && byte_of(token).is_none() {
            let shown = token.escape_debug();
            return wrong(format!(
                "is marked as a byte token but reads `{shown}`, not `<0x00>` to `<0xFF>`; convert the model again"
            ));
        }
        Ok(())
    })
}

/// The byte a token such as `<0x0A>` stands for.
pub fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // `from_str_radix` alone would take a sign.
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
