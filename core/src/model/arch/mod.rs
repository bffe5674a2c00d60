//! Architectures: one file each, which reads GGUF's keys and `config.json`'s and returns a description of the model.
//!
//! A description ([`ModelShape`]) is all that later code knows: plans, forward passes, training and adapters walk it, layer
//! by layer and tensor by tensor by [`Role`]. Everything later arithmetic relies on is checked on the way: the
//! hyperparameters lie within [`limits`], agree with each other and with the tensors, and no tensor is left over that the
//! forward pass would silently ignore.

mod gemma2;
mod gemma3;
pub(super) mod gguf_keys;
mod gpt_oss;
mod granite;
pub(super) mod hf_json;
pub(super) mod hf_keys;
mod hyper;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod turning;
mod vocab;

use std::collections::BTreeSet;
use std::path::Path;

pub(super) use hyper::{Ask, Hyper, Layer, Mixture, Names, QkNorm, Turning};
pub use vocab::byte_of;

use super::gguf::Gguf;
use crate::blocks::BlockType;
use crate::error::Result;
use crate::shape::{Kind, ModelShape, Role, TensorShape};
use hf_keys::HfConfig;

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
    /// Experts of a layer.
    pub const EXPERTS: u64 = 1 << 9;
    /// Tokens of the vocabulary.
    pub const VOCAB: u64 = 1 << 24;
    /// Trained context in tokens.
    pub const CONTEXT: u64 = 1 << 24;
    /// Bytes of a token's text.
    pub const TOKEN: usize = 16 << 10;
}

/// An architecture.
pub struct Arch {
    /// Its name in [`ModelShape::arch`].
    pub id: &'static str,
    /// `general.architecture` of its GGUF files, which it may share with relatives.
    pub gguf_name: &'static str,
    /// `model_type` of its `config.json`s.
    pub model_types: &'static [&'static str],
    /// What transformers calls its class.
    pub class: &'static str,
    /// Models that people know it by, for messages.
    pub models: &'static str,
    /// Whether a GGUF file of [`Self::gguf_name`] is one of its own and not a relative's.
    pub owns: fn(&Gguf) -> Result<bool>,
    /// Its hyperparameters from a GGUF header.
    pub from_gguf: fn(&Gguf) -> Result<Hyper>,
    /// Its hyperparameters from a `config.json`, whose path is for messages.
    pub from_hf: fn(&HfConfig, &Path) -> Result<Hyper>,
    /// What its GGUF files call a tensor of a layer, after `blk.N.`, where they call it otherwise than all do.
    pub gguf_part: fn(Role) -> Option<&'static str>,
    /// What Hugging Face calls a tensor of a layer, after `model.layers.N.`; `{}` stands for the number of an expert.
    pub hf_part: fn(Role) -> Option<&'static str>,
    /// How Hugging Face's tensors hold experts, where they hold all of a layer in one.
    pub hf_stacked: fn(Role) -> Option<Stacked>,
    /// Hugging Face stores norms less one.
    pub norm_less_one: bool,
    /// What its `config.json` says beside, or instead of, what all of them say.
    pub to_hf: fn(&ModelShape) -> serde_json::Value,
}

/// A tensor of Hugging Face's that holds a matrix of every expert of a layer, inputs first: `(experts, in, out)`, or a vector of
/// each, `(experts, out)`. Its outputs may be those of several matrices by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// Matrices whose outputs lie side by side.
    pub of: usize,
    /// Which of them this is, from 0.
    pub at: usize,
}

impl Arch {
    /// What a file of an architecture need not say where it is as a Llama: it says its names, and in what it differs.
    const DENSE: Self = Self {
        id: "",
        gguf_name: "",
        model_types: &[],
        class: "",
        models: "",
        owns: |_| Ok(true),
        from_gguf: llama::from_gguf,
        from_hf: llama::from_hf,
        gguf_part: |_| None,
        hf_part: llama::hf_part,
        hf_stacked: |_| None,
        norm_less_one: false,
        to_hf: |_| serde_json::Value::Null,
    };
}

/// Every architecture; one file and one line each, relatives after what they are relatives of.
const ARCHS: &[&Arch] = &[
    &llama::ARCH,
    &mistral::ARCH,
    &smollm3::ARCH,
    &granite::ARCH,
    &olmo2::ARCH,
    &phi3::ARCH,
    &qwen2::ARCH,
    &qwen3::ARCH,
    &gemma2::ARCH,
    &gemma3::ARCH,
    &mixtral::ARCH,
    &qwen2_moe::ARCH,
    &qwen3_moe::ARCH,
    &olmoe::ARCH,
    &gpt_oss::ARCH,
];

/// The architecture of an id.
///
/// # Errors
/// [`crate::Error::Internal`] for a name that no architecture has.
pub(super) fn by_id(id: &str) -> Result<&'static Arch> {
    let found = ARCHS.iter().find(|a| a.id == id);
    found.copied().ok_or_else(|| crate::Error::Internal(format!("no architecture `{id}`")))
}

/// The architecture of a description.
///
/// # Errors
/// As [`by_id`].
pub(super) fn of(shape: &ModelShape) -> Result<&'static Arch> {
    by_id(&shape.arch)
}

/// The architecture that a `config.json` of this `model_type` is of.
pub(super) fn by_model_type(kind: &str) -> Option<&'static Arch> {
    ARCHS.iter().find(|a| a.model_types.contains(&kind)).copied()
}

/// Whether any architecture's GGUF files call themselves so.
pub(super) fn has_gguf_name(name: &str) -> bool {
    ARCHS.iter().any(|a| a.gguf_name == name)
}

/// What GGUF files of known architectures call themselves, with models of each, for messages.
pub(super) fn gguf_names() -> String {
    ARCHS.iter().map(|a| format!("`{}` ({})", a.gguf_name, a.models)).collect::<Vec<_>>().join(", ")
}

/// Every `model_type` that is known, for messages.
pub(super) fn model_types() -> String {
    ARCHS.iter().flat_map(|a| a.model_types).copied().collect::<Vec<_>>().join(", ")
}

/// What `config.json` calls each layer's attention.
fn kinds(shape: &ModelShape) -> Vec<&'static str> {
    let kind = |window: Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    shape.layers.iter().map(|l| kind(l.attention.window)).collect()
}

impl ModelShape {
    /// The shape of the model in `gguf`, its header and its tensors held against each other.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key or tensor: a missing or contradictory one, an architecture that is not known,
    /// and whatever would change the numbers if it were ignored.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let key = "general.architecture";
        let name = gguf.str(key)?;
        let mut arch = None;
        // Of relatives under one name, the particular ones stand after the plain one.
        for known in ARCHS.iter().rev().filter(|a| Some(a.gguf_name) == name) {
            if (known.owns)(gguf)? {
                arch = Some(*known);
                break;
            }
        }
        let Some(arch) = arch else {
            let found = name.map_or("is missing".into(), |a| format!("is `{}`", a.escape_debug()));
            return Err(gguf.error(key, format!("{found}; supported: {}", gguf_names())));
        };
        let hyper = (arch.from_gguf)(gguf)?;
        vocab::check(gguf, hyper.vocab)?;
        let mut expected = BTreeSet::new();
        let layers = hyper.layers.len();
        let shape = hyper.assemble(
            &gguf_keys::names(arch.gguf_name),
            |field, message| gguf.error(field, message),
            |mut ask| {
                if let (Some(n), Some(part)) = (ask.layer, (arch.gguf_part)(ask.role)) {
                    ask.name = format!("blk.{n}.{part}");
                }
                let shape = find(gguf, ask)?;
                expected.insert(shape.name.clone());
                Ok(shape)
            },
        )?;
        // One check a file keeps every biased, gated or experimental relative out, whatever it calls its tensors.
        let known = |name: &str| {
            expected.contains(name)
                || gguf.cut(name).is_some_and(|parts| parts.iter().all(|part| expected.contains(&*part.name)))
                // What a rotation was made of.
                || [gguf_keys::LONG, gguf_keys::SHORT].contains(&name) && shape.ropes.iter().any(|r| r.long.is_some())
        };
        if let Some(extra) = gguf.tensors().iter().find(|t| !known(&t.name)) {
            let why = match extra.name.ends_with(".bias") {
                true => "biases".to_owned(),
                false => format!("tensors beyond those of a {} layer", arch.id),
            };
            return Err(gguf.error(
                &*extra.name,
                format!(
                    "{why} are not supported, and leaving one out would change the results ({layers} layers of plain {} were expected)",
                    arch.id
                ),
            ));
        }
        Ok(shape)
    }
}

/// Finds a tensor and holds its type and dimensions against what the hyperparameters say.
fn find(gguf: &Gguf, ask: Ask) -> Result<TensorShape> {
    let Ask { name, role, rows, cols, count, .. } = ask;
    let Some(info) = gguf.tensor(&name) else {
        return Err(gguf.error(
            name,
            format!("is missing; the hyperparameters ask for it, {cols} × {rows}: convert the model again"),
        ));
    };
    let (wide, each, many) = (cols as u64, (rows / count.max(1)) as u64, count as u64);
    let narrow = wide / many.max(1);
    let wanted: &[u64] = match role.kind() {
        Kind::Matrix => &[wide, each],
        Kind::Stack => &[wide, each, many],
        Kind::Vector => &[wide],
        Kind::Vectors => &[narrow, many],
    };
    if info.dims() != wanted {
        return Err(gguf.error(
            format!("{name}.dims"),
            format!("are {:?}; the hyperparameters ask for {wanted:?}: convert the model again", info.dims()),
        ));
    }
    let (fits, types) = match role.kind().is_vector() {
        true => (info.ty == BlockType::F32, "f32"),
        false => (holds_weights(info.ty), "a float or quantized type"),
    };
    if !fits {
        return Err(
            gguf.error(format!("{name}.type"), format!("is {}, {types} is needed: convert the model again", info.ty))
        );
    }
    Ok(TensorShape { name, ty: info.ty.into(), rows, cols })
}

/// Whether a matrix may be stored as `ty`: not the integers, and not the types ggml keeps for activations.
fn holds_weights(ty: BlockType) -> bool {
    use BlockType::{F64, I8, I16, I32, I64, Q8_1, Q8K};
    !matches!(ty, I8 | I16 | I32 | I64 | F64 | Q8_1 | Q8K)
}
