//! Writing a folder that `from_pretrained` reads, whole or not at all.

use std::io::Write;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::tokenizer::{LLAMA3, QWEN2};
use super::{CONFIG, INDEX, WEIGHTS, hf_names};
use crate::atomic_write;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::model::adapter::permute;
use crate::model::arch::{self, hf_keys::Llama3};
use crate::model::safetensors::{self, Declared};
use crate::model::tokenizer::{TokenKind, TokenizerSpec};
use crate::model::{Model, Source};
use crate::shape::{Kind, ModelShape, Role, TensorShape};

/// Files of a tokenizer, as Hugging Face names them.
pub(super) const WORDS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
];
/// Elements of rows that are asked for at once.
const PIECE: usize = 8 << 10;

/// Gives rows `first .. first + n` of a tensor, in GGUF's order, as f32.
pub type Tensors<'a> = dyn FnMut(&TensorShape, usize, usize, &mut [f32]) -> Result<()> + 'a;

/// What of a model was written beside its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of `model.safetensors`.
    pub bytes: u64,
    /// Why there is no `tokenizer.json`, when there is none.
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
    let rope_scaling = match (&shape.rope_freqs, rope.scale) {
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
        (None, 1.0) => Value::Null,
        (None, scale) => json!({ "rope_type": "linear", "factor": scale }),
    };
    let dtype = match ty {
        BlockType::F32 => "float32",
        BlockType::F16 => "float16",
        BlockType::Bf16 => "bfloat16",
        other => return Err(Error::refused(format!("safetensors of {other}"), "the types are f32, f16 and bf16")),
    };
    let mut out = json!({
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
        "rope_scaling": rope_scaling,
        "partial_rotary_factor": (rope.dim < layer.attention.dim).then(|| rope.dim as f64 / layer.attention.dim as f64),
        "tie_word_embeddings": shape.output.is_none(),
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
        "use_cache": true,
    });
    if let (Some(out), Value::Object(own)) = (out.as_object_mut(), (arch::of(shape)?.to_hf)(shape)) {
        out.extend(own);
    }
    Ok(out)
}

/// The files of the tokenizer, and why there is none.
fn words(model: &Model) -> Result<(Words, Option<String>)> {
    let mut out = Words::default();
    let tokenizer = model.tokenizer()?;
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
            Ok((out, tokenizer.is_none().then(|| "the folder it was opened from has none".into())))
        }
        Source::Gguf(_) | Source::Random { like: Some(_), .. } => {
            let Some(file) = model.source.gguf() else { return Ok((out, None)) };
            let spec = TokenizerSpec::from_gguf(file)?;
            let template = file.str(crate::model::chat::KEY)?;
            let bytes =
                |v: &Value| serde_json::to_vec_pretty(v).map_err(|e| Error::Internal(format!("writing JSON: {e}")));
            out.files
                .push(("tokenizer_config.json".into(), bytes(&about(&spec, &out.ids, template, model.shape.context))?));
            match (spec.model.as_str(), pre_tokenizer(&spec.pre)) {
                ("gpt2", Some(pre)) => {
                    let adds = tokenizer.as_ref().is_some_and(crate::model::tokenizer::Tokenizer::adds_bos);
                    out.files.push(("tokenizer.json".into(), bytes(&tokenizer_json(&spec, pre, adds, &out.ids))?));
                    Ok((out, None))
                }
                (kind, _) => {
                    let why = format!(
                        "the pre-tokenizer `{}` of a `{kind}` vocabulary has no form in tokenizer.json yet",
                        spec.pre
                    );
                    Ok((out, Some(why)))
                }
            }
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
    const RULES: u64 = 8 << 10;
    let beside = match &*model.source {
        Source::Random { like: None, .. } | Source::Absent { .. } => 0,
        Source::Hf(folder) => {
            let bytes = |name: &&str| std::fs::metadata(folder.dir().join(name)).map_or(0, |m| m.len());
            WORDS.iter().map(bytes).sum()
        }
        Source::Gguf(_) | Source::Random { like: Some(_), .. } => {
            let Some(file) = model.source.gguf() else { return Ok(CONFIGURATION) };
            let spec = TokenizerSpec::from_gguf(file)?;
            let template = file.str(crate::model::chat::KEY)?.map_or(0, escaped);
            let bpe = spec.model == "gpt2" && pre_tokenizer(&spec.pre).is_some();
            // Lines with their indentation, as they are set for reading.
            let vocab =
                spec.tokens.iter().enumerate().map(|(id, text)| 12 + id.to_string().len() as u64 + escaped(text));
            let kind = |id: usize| spec.types.get(id).map_or(TokenKind::Normal, |n| TokenKind::from(*n));
            let special =
                |id: &usize| matches!(kind(*id), TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
            let added = (0..spec.tokens.len()).filter(special).map(|id| 240 + spec.tokens.get(id).map_or(0, escaped));
            let merges = spec.merges.iter().map(|m| 40 + escaped(m));
            RULES + template + if bpe { vocab.chain(added).chain(merges).sum() } else { 0 }
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

/// How text is cut, for names whose pattern is known in this form.
fn pre_tokenizer(name: &str) -> Option<Value> {
    let level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let split = |pattern: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            level(false)
        ]})
    };
    Some(match name {
        "gpt-2" => level(true),
        "smollm" => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            level(true)
        ]}),
        "llama-bpe" | "llama3" | "llama-v3" => split(LLAMA3),
        "qwen2" => split(QWEN2),
        _ => return None,
    })
}

fn tokenizer_json(spec: &TokenizerSpec, pre: Value, adds_bos: bool, ids: &Ids) -> Value {
    let kind = |id: usize| spec.types.get(id).map_or(TokenKind::Normal, |n| TokenKind::from(*n));
    let mut added = Vec::new();
    let mut vocab = Map::new();
    for (id, text) in spec.tokens.iter().enumerate() {
        let special = match kind(id) {
            TokenKind::Control | TokenKind::Unknown => Some(true),
            TokenKind::UserDefined => Some(false),
            _ => None,
        };
        if let Some(special) = special {
            added.push(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": special
            }));
        }
        vocab.insert(text.to_owned(), id.into());
    }
    let merges: Vec<Value> = spec
        .merges
        .iter()
        .map(|m| {
            let first = m.chars().next().map_or(0, char::len_utf8);
            let (left, right) = m.split_at(m[first..].find(' ').map_or(m.len(), |at| first + at));
            json!([left, right.get(1..).unwrap_or_default()])
        })
        .collect();
    let bos = ids.bos.filter(|_| adds_bos).and_then(|id| Some((id, spec.tokens.get(id as usize)?)));
    let post = match bos {
        None => Value::Null,
        Some((id, text)) => json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": text, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [
                { "SpecialToken": { "id": text, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": text, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } }
            ],
            "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } }
        }),
    };
    let whole_words = ["llama-bpe", "llama3", "llama-v3"].contains(&spec.pre.as_str());
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole_words,
            "vocab": vocab, "merges": merges
        }
    })
}

fn about(spec: &TokenizerSpec, ids: &Ids, template: Option<&str>, context: usize) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| spec.tokens.get(id as usize));
    let mut out = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
        "bos_token": text(ids.bos),
        "eos_token": text(ids.eos),
        "unk_token": text(spec.unk),
        "pad_token": text(ids.pad),
    });
    if let (Some(template), Some(map)) = (template, out.as_object_mut()) {
        map.insert("chat_template".into(), template.into());
    }
    out
}
