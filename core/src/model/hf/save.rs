//! Writing a folder that `from_pretrained` reads, whole or not at all.

use std::io::Write;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::{Value, json};

use super::{CONFIG, INDEX, WEIGHTS, hf_names};
use crate::atomic_write;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::model::adapter::permute;
use crate::model::arch::{self, hf_keys::Llama3};
use crate::model::safetensors::{self, Declared};
use crate::model::tokenizer::{TokenKind, Tokenizer, TokenizerSpec, json as pipeline};
use crate::model::{Model, Source};
use crate::shape::{Kind, ModelShape, Role, TensorShape};

/// Files of a tokenizer, as Hugging Face names them.
pub(super) const WORDS: [&str; 15] = [
    JSON,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.model",
    "tekken.json",
    "qwen.tiktoken",
    "tiktoken.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
];
/// The whole of a tokenizer.
const JSON: &str = "tokenizer.json";
/// Elements of rows that are asked for at once.
const PIECE: usize = 8 << 10;

/// Gives rows `first .. first + n` of a tensor, in GGUF's order, as f32.
pub type Tensors<'a> = dyn FnMut(&TensorShape, usize, usize, &mut [f32]) -> Result<()> + 'a;

/// What of a model was written beside its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of `model.safetensors`.
    pub bytes: u64,
    /// Why there is no tokenizer, when there is none.
    pub no_tokenizer: Option<String>,
}

/// Writes `model`'s shape and words with the numbers that `tensors` gives, stored as `ty` (f32, f16 or bf16; vectors too), to
/// the folder `dir`.
///
/// # Errors
/// [`Error::Io`]; a folder that holds something else; frequency divisors that no configuration expresses; what `tensors`
/// returns.
pub fn save(dir: &Path, model: &Model, ty: BlockType, tensors: &mut Tensors<'_>) -> Result<Saved> {
    scoped(Scope::Program, || write(dir, model, ty, tensors))
}

/// Whether [`save`] can express `model` as a folder; for those who ask before they work for it.
///
/// # Errors
/// As [`save`], but for the file system's.
pub fn check(model: &Model, ty: BlockType) -> Result<()> {
    config(model, ty, &Ids::default()).map(drop)
}

fn write(dir: &Path, model: &Model, ty: BlockType, tensors: &mut Tensors<'_>) -> Result<Saved> {
    let shape = &model.shape;
    let new = atomic_write::Folder::new(dir, |name| {
        [CONFIG, WEIGHTS, INDEX].contains(&name) || WORDS.contains(&name) || name.ends_with(".safetensors")
    })?;
    let (words, no_tokenizer) = words(model)?;
    put(&new.file(CONFIG), &config(model, ty, &words.ids)?)?;
    for (name, content) in &words.files {
        let path = new.file(name);
        atomic_write::file(&path, |out| out.write_all(content).map_err(|e| Error::io(&path, "cannot write", &e)))?;
    }
    let arch = arch::of(shape)?;
    // The divisors are in the configuration.
    let list: Vec<_> = shape.roles().filter(|(_, role, _)| *role != Role::RopeFreqs).collect();
    let mut declared: Vec<Declared> = Vec::with_capacity(list.len());
    // How many of the list each holds: those of one name lie in it one after the other.
    let mut held: Vec<usize> = Vec::with_capacity(list.len());
    for (layer, role, t) in &list {
        let name = hf_names(arch, *role, *layer, 1).and_then(|mut names| names.pop());
        let name = name.ok_or_else(|| Error::Internal(format!("{} has no name in safetensors", t.name)))?;
        match (declared.last_mut(), held.last_mut()) {
            (Some(last), Some(n)) if last.name == name => {
                last.dims[0] += t.rows;
                *n += 1;
            }
            _ => {
                let vector = role.kind() == Kind::Vector;
                declared.push(Declared { name, ty, dims: if vector { vec![t.cols] } else { vec![t.rows, t.cols] } });
                held.push(1);
            }
        }
    }
    let mut held = held.into_iter();
    let bytes = declared.iter().map(Declared::bytes).sum();
    let mut next = list.into_iter();
    let mut wide = Vec::new();
    let mut narrow = Vec::new();
    safetensors::write(&new.file(WEIGHTS), &[("format", "pt")], &declared, |_, sink| {
        for (layer, role, t) in next.by_ref().take(held.next().unwrap_or(0)) {
            let head = head_dim(shape, layer, role);
            let less_one = arch.norm_less_one && role.kind() == Kind::Vector && role.gguf().ends_with("norm.weight");
            let step = if head.is_some() { 1 } else { (PIECE / t.cols.max(1)).max(1) };
            for first in (0..t.rows).step_by(step) {
                let n = step.min(t.rows - first);
                wide.resize(n * t.cols, 0.0);
                tensors(t, head.map_or(first, |d| permute::gguf_row(first, d)), n, &mut wide)?;
                if less_one {
                    wide.iter_mut().for_each(|w| *w -= 1.0);
                }
                match ty {
                    BlockType::F32 => sink(bytemuck::cast_slice(&wide))?,
                    BlockType::F16 => {
                        narrow.resize(wide.len(), 0u16);
                        bytemuck::cast_slice_mut::<u16, f16>(&mut narrow).convert_from_f32_slice(&wide);
                        sink(bytemuck::cast_slice(&narrow))?;
                    }
                    _ => {
                        narrow.resize(wide.len(), 0u16);
                        bytemuck::cast_slice_mut::<u16, bf16>(&mut narrow).convert_from_f32_slice(&wide);
                        sink(bytemuck::cast_slice(&narrow))?;
                    }
                }
            }
        }
        Ok(())
    })?;
    new.commit()?;
    Ok(Saved { bytes, no_tokenizer })
}

/// Elements of a head, for a tensor whose rows Hugging Face keeps in another order.
fn head_dim(shape: &ModelShape, layer: Option<usize>, role: Role) -> Option<usize> {
    let layer = shape.layers.get(layer?)?;
    (shape.interleaved() && role.rotates()).then_some(layer.attention.dim)
}

fn put(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("writing JSON: {e}")))?;
    atomic_write::file(path, |out| writeln!(out, "{text}").map_err(|e| Error::io(path, "cannot write", &e)))
}

/// Ids that `config.json` names.
#[derive(Default)]
struct Ids {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
}

#[derive(Default)]
struct Words {
    files: Vec<(String, Vec<u8>)>,
    ids: Ids,
}

/// What `config.json` says of how the first rotation's positions are stretched; null where they are not.
fn scaling(model: &Model) -> Result<Value> {
    let (shape, rope) = (&model.shape, &model.shape.ropes[0]);
    Ok(match (&shape.rope_freqs, rope.scale) {
        (Some(t), _) => {
            let mut stored = vec![0.0f32; t.cols];
            model.source.read_rows(t, 0, 1, bytemuck::cast_slice_mut(&mut stored))?;
            let factor = stored.iter().copied().fold(1.0, f32::max);
            // Llama 3's own numbers, which a file of divisors does not name; held against the divisors.
            let guess = Llama3 { factor: factor.into(), low: 1.0, high: 4.0, original: 8192.0 };
            let same = guess.divisors(rope.dim, rope.base);
            if same.iter().zip(&stored).any(|(a, b)| (a - b).abs() > 1e-3 * b.abs()) {
                return Err(Error::refused(
                    "a Hugging Face folder of this model",
                    "its rotary divisors are not Llama 3's usual ones, and config.json cannot list them; save it as GGUF",
                ));
            }
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192
            })
        }
        // Divisors that are no rule's any more: `longrope` lists them.
        (None, _) if !rope.divisors.is_empty() => {
            let long = rope.long.as_ref();
            json!({
                "rope_type": "longrope",
                "short_factor": rope.divisors,
                "long_factor": long.map_or(&rope.divisors, |long| &long.divisors),
                "attention_factor": rope.amplitude,
                "original_max_position_embeddings": long.map_or(shape.context, |long| long.from),
            })
        }
        (None, _) if rope.dynamic.is_some() => {
            json!({ "rope_type": "dynamic", "factor": rope.dynamic.map(|d| d.factor) })
        }
        (None, 1.0) => Value::Null,
        (None, scale) => json!({ "rope_type": "linear", "factor": scale }),
    })
}

/// The `config.json` of `model` with weights stored as `ty`.
fn config(model: &Model, ty: BlockType, ids: &Ids) -> Result<Value> {
    let shape = &model.shape;
    let Some(layer) = shape.layers.first() else { return Err(Error::Internal("a model without layers".into())) };
    let odd = |l: &crate::shape::LayerShape| (l.attention.heads, l.attention.kv_heads, l.attention.dim, l.ffn.clone());
    if shape.layers.iter().any(|l| odd(l) != odd(layer)) {
        return Err(Error::refused(
            "a Hugging Face folder of this model",
            "its layers are of different sizes; save it as GGUF",
        ));
    }
    if layer.ffn.experts().is_some() {
        return Err(Error::refused(
            "a Hugging Face folder of this model",
            "its experts cannot be written apart so far; save it as GGUF",
        ));
    }
    let rope = &shape.ropes[0];
    let dtype = match ty {
        BlockType::F32 => "float32",
        BlockType::F16 => "float16",
        BlockType::Bf16 => "bfloat16",
        other => return Err(Error::refused(format!("safetensors of {other}"), "the types are f32, f16 and bf16")),
    };
    let arch = arch::of(shape)?;
    let mut out = json!({
        "architectures": [arch.class],
        "model_type": arch.model_types.first(),
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": layer.ffn.width(),
        "num_hidden_layers": shape.layers.len(),
        "num_attention_heads": layer.attention.heads,
        "num_key_value_heads": layer.attention.kv_heads,
        "head_dim": layer.attention.dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": rope.base,
        "rope_scaling": scaling(model)?,
        "partial_rotary_factor": (rope.dim < layer.attention.dim).then(|| rope.dim as f64 / layer.attention.dim as f64),
        "tie_word_embeddings": shape.output.is_none(),
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
        "use_cache": true,
    });
    if let (Some(out), Value::Object(own)) = (out.as_object_mut(), (arch.to_hf)(shape)) {
        out.extend(own);
    }
    Ok(out)
}

/// The files of the tokenizer, and why there is none.
fn words(model: &Model) -> Result<(Words, Option<String>)> {
    let mut out = Words::default();
    // Where nothing was read with it, a tokenizer that cannot be read stops nothing.
    let (tokenizer, why) = match model.tokenizer() {
        Ok(tokenizer) => (tokenizer, None),
        Err(e) => (None, Some(e.to_string())),
    };
    if let Some(t) = &tokenizer {
        out.ids = Ids { bos: t.bos(), eos: t.eos(), pad: t.pad() };
    }
    match &*model.source {
        Source::Random { like: None, .. } | Source::Absent { .. } => {
            Ok((out, Some("a random model has no words".into())))
        }
        Source::Hf(folder) => {
            for name in WORDS {
                let path = folder.dir().join(name);
                if path.is_file() {
                    let content = std::fs::read(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
                    out.files.push((name.into(), content));
                }
            }
            // A tokenizer of older files is written as the pipeline that was made of them too.
            let made =
                tokenizer.as_ref().and_then(Tokenizer::pipeline).filter(|_| out.files.iter().all(|(n, _)| n != JSON));
            if let Some(made) = made {
                let json = made.json().map_err(|e| Error::Internal(format!("writing {JSON}: {e}")))?;
                out.files.push((JSON.into(), json.into_bytes()));
            }
            let none = || why.unwrap_or_else(|| "the folder it was opened from has none".into());
            Ok((out, tokenizer.is_none().then(none)))
        }
        Source::Gguf(_) | Source::Random { like: Some(_), .. } => {
            let (Some(file), Some(tokenizer)) = (model.source.gguf(), tokenizer) else { return Ok((out, why)) };
            let mut spec = TokenizerSpec::from_gguf(file)?;
            tokenizer.settle(&mut spec);
            let template = file.str(crate::model::chat::KEY)?;
            let internal = |e: serde_json::Error| Error::Internal(format!("writing JSON: {e}"));
            let about = serde_json::to_vec_pretty(&about(&spec, template, model.shape.context)).map_err(internal)?;
            let json = serde_json::to_vec(&pipeline::pipeline(&spec)?).map_err(internal)?;
            let ends = Some(tokenizer.ends()).filter(|ends| !ends.is_empty());
            let generation = json!({ "bos_token_id": out.ids.bos, "eos_token_id": ends, "pad_token_id": out.ids.pad });
            let generation = serde_json::to_vec_pretty(&generation).map_err(internal)?;
            out.files.push(("tokenizer_config.json".into(), about));
            out.files.push((JSON.into(), json));
            out.files.push(("generation_config.json".into(), generation));
            Ok((out, None))
        }
    }
}

/// Most bytes of what is written beside the weights: the configuration, and the files of the words, from the vocabulary and not from
/// what is written.
///
/// # Errors
/// A damaged tokenizer.
pub fn words_bytes(model: &Model) -> Result<u64> {
    const CONFIGURATION: u64 = 4 << 10;
    // Rules for how text is cut, and the fields around them.
    const RULES: u64 = 12 << 10;
    let beside = match &*model.source {
        Source::Random { like: None, .. } | Source::Absent { .. } => 0,
        Source::Hf(folder) => {
            let bytes = |name: &str| std::fs::metadata(folder.dir().join(name)).map_or(0, |m| m.len());
            let own: u64 = WORDS.iter().map(|name| bytes(name)).sum();
            let made = match bytes(JSON) {
                0 => folder
                    .tokenizer()
                    .ok()
                    .flatten()
                    .and_then(|t| t.pipeline()?.json().ok())
                    .map_or(0, |j| j.len() as u64),
                _ => 0,
            };
            own + made
        }
        Source::Gguf(_) | Source::Random { like: Some(_), .. } => {
            let Some(file) = model.source.gguf() else { return Ok(CONFIGURATION) };
            let Ok(spec) = TokenizerSpec::from_gguf(file) else { return Ok(CONFIGURATION) };
            let template = file.str(crate::model::chat::KEY)?.map_or(0, escaped);
            let texts = || spec.tokens.iter().map(escaped);
            // A token with its id or its score; as an added one too; as one that ends a text.
            let vocab: u64 = texts().map(|text| text + 24).sum();
            let kind = |id: usize| spec.types.get(id).map_or(TokenKind::Normal, |n| TokenKind::from(*n));
            let special =
                |id: &usize| matches!(kind(*id), TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
            let added = (0..spec.tokens.len()).filter(special).map(|id| 160 + spec.tokens.get(id).map_or(0, escaped));
            let merges: u64 = match spec.model.as_str() {
                // A token of some letters is joined in as many ways, less one.
                "llama" => {
                    spec.tokens.iter().map(|t| (t.chars().count() as u64).saturating_sub(1) * (escaped(t) + 10)).sum()
                }
                _ => spec.merges.iter().map(|m| 10 + escaped(m)).sum(),
            };
            let charsmap = spec.charsmap.len() as u64 * 4 / 3 + 4;
            RULES + template + vocab + added.sum::<u64>() + merges + charsmap
        }
    };
    Ok(CONFIGURATION + beside)
}

/// Bytes of `text` in JSON.
fn escaped(text: &str) -> u64 {
    let one = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        c if (c as u32) < 0x20 => 6,
        c => c.len_utf8() as u64,
    };
    text.chars().map(one).sum()
}

fn about(spec: &TokenizerSpec, template: Option<&str>, context: usize) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| spec.tokens.get(id as usize));
    let mut out = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
        "bos_token": text(spec.bos),
        "eos_token": text(spec.eos),
        "unk_token": text(spec.unk),
        "pad_token": text(spec.pad),
    });
    if let (Some(template), Some(map)) = (template, out.as_object_mut()) {
        map.insert("chat_template".into(), template.into());
    }
    out
}
