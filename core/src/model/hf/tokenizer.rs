//! `tokenizer.json`: our own tokenizer where it says the same, otherwise the `tokenizers` crate's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::arch::byte_of;
use crate::model::arch::hf_keys::text;
use crate::model::tokenizer::{Foreign, Strings, TokenKind, Tokenizer, TokenizerSpec};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// Bytes of the largest `tokenizer.json` that is read; the largest real ones have some 35 MB.
const LARGEST: u64 = 256 << 20;
const LARGEST_CONFIG: u64 = 16 << 20;

/// How text is cut, as `tokenizer.json` writes the patterns of the names that llama.cpp gives them.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Value,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The tokenizer of `dir`, `None` without a `tokenizer.json`; `bos` and `eos` are what `config.json` names.
pub(super) fn read(dir: &Path, bos: &[u32], eos: &[u32], vocab: usize) -> Result<Option<Tokenizer>> {
    let path = dir.join(TOKENIZER);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = text(&path, LARGEST)?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, TOKENIZER, e.to_string()))?;
    let config = config(dir)?;
    let tokens = tokens(&path, &file, vocab)?;
    let id = |name: &str| -> Option<u32> {
        let text = match config.get(name)? {
            Value::String(text) => text.as_str(),
            Value::Object(token) => token.get("content")?.as_str()?,
            _ => return None,
        };
        tokens.iter().position(|(t, _)| t == text).and_then(|i| u32::try_from(i).ok())
    };
    let within = |id: &u32| (*id as usize) < tokens.len();
    let bos = id("bos_token").or_else(|| bos.first().copied().filter(within));
    let eos_named = id("eos_token");
    let mut ends = eos_named.into_iter().chain(eos.iter().copied().filter(within));
    let eos = ends.next();
    let mut spec = TokenizerSpec {
        path: path.clone(),
        model: "gpt2".into(),
        tokens: tokens.iter().map(|(text, _)| text).collect(),
        types: tokens.iter().map(|(_, kind)| *kind as i32).collect(),
        bos,
        eos,
        eot: ends.find(|e| Some(*e) != eos),
        unk: id("unk_token"),
        pad: id("pad_token"),
        add_bos: Some(bos.is_some_and(|bos| adds(&file.post_processor, &config, bos, &tokens))),
        add_eos: Some(false),
        ..TokenizerSpec::default()
    };
    let byte_level = is(&file.decoder, "ByteLevel");
    match (byte_level, pre(&file.pre_tokenizer), merges(&file.model)) {
        (true, Some(pre), Some(merges)) if !folds(&file.normalizer) => {
            spec.pre = pre.into();
            spec.merges = merges;
            Tokenizer::new(spec).map(Some)
        }
        _ => {
            let foreign = Foreign::new(&bytes, byte_level).map_err(|e| Error::model(&path, TOKENIZER, e))?;
            Tokenizer::foreign(spec, foreign).map(Some)
        }
    }
}

fn config(dir: &Path) -> Result<BTreeMap<String, Value>> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_slice(&text(&path, LARGEST_CONFIG)?).map_err(|e| Error::model(&path, CONFIG, e.to_string()))
}

/// Every token's text and kind, by id. Ids without a token are places kept free, up to the embedding's rows.
fn tokens(path: &Path, file: &File, vocab: usize) -> Result<Vec<(String, TokenKind)>> {
    let mut out: Vec<Option<(String, TokenKind)>> = Vec::new();
    let mut put = |id: u64, text: &str, kind| -> Result<()> {
        let at = usize::try_from(id).ok().filter(|at| *at < vocab).ok_or_else(|| {
            let text: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            Error::model(path, "model.vocab", format!("gives `{text}` the id {id}, the embedding has {vocab} rows"))
        })?;
        if out.len() <= at {
            out.resize(at + 1, None);
        }
        out[at] = Some((text.to_owned(), kind));
        Ok(())
    };
    let bytes = file.model["byte_fallback"] == true;
    let kind = |text: &str| match bytes && byte_of(text).is_some() {
        true => TokenKind::Byte,
        false => TokenKind::Normal,
    };
    match &file.model["vocab"] {
        Value::Object(vocab) => {
            for (text, id) in vocab {
                put(id.as_u64().unwrap_or(u64::MAX), text, kind(text))?;
            }
        }
        // Unigram models list text and score.
        Value::Array(list) => {
            for (id, pair) in list.iter().enumerate() {
                let text = pair[0].as_str().unwrap_or_default();
                put(id as u64, text, kind(text))?;
            }
        }
        _ => return Err(Error::model(path, "model.vocab", "is missing")),
    }
    for token in &file.added_tokens {
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        put(token.id.into(), &token.content, kind)?;
    }
    Ok(out
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[UNUSED_{id}]"), TokenKind::Unused)))
        .collect())
}

fn is(value: &Value, kind: &str) -> bool {
    value["type"] == kind
}

/// True for a normalizer that changes text beyond what llama.cpp leaves out too (canonical composition).
fn folds(normalizer: &Value) -> bool {
    !normalizer.is_null() && !is(normalizer, "NFC")
}

/// The name llama.cpp gives a pre-tokenizer that is one of ours.
fn pre(value: &Value) -> Option<&'static str> {
    let byte_level = |v: &Value, regex: bool| {
        is(v, "ByteLevel") && v["add_prefix_space"] != true && v["use_regex"].as_bool().unwrap_or(true) == regex
    };
    if byte_level(value, true) {
        return Some("gpt-2");
    }
    let list = value["pretokenizers"].as_array().filter(|_| is(value, "Sequence"))?;
    match &list[..] {
        [digits, last] if is(digits, "Digits") && digits["individual_digits"] == true && byte_level(last, true) => {
            Some("smollm")
        }
        [split, last] if is(split, "Split") && split["behavior"] == "Isolated" && byte_level(last, false) => {
            match split["pattern"]["Regex"].as_str()? {
                LLAMA3 => Some("llama-bpe"),
                QWEN2 => Some("qwen2"),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The merges of a BPE model without anything that ours has not, `left right` each.
fn merges(model: &Value) -> Option<Strings> {
    let plain = model["type"].as_str().is_none_or(|t| t == "BPE")
        && model["byte_fallback"] != true
        && ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
            .iter()
            .all(|k| model[*k].is_null() || model[*k] == "");
    let list = model["merges"].as_array().filter(|_| plain)?;
    let mut out = Strings::new();
    for merge in list {
        let kept = match merge {
            Value::String(text) => out.push(text),
            Value::Array(pair) => out.push(&format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
            _ => return None,
        };
        if !kept {
            return None;
        }
    }
    Some(out)
}

/// Whether text begins with the token `bos`: as the post-processor says, or else the configuration.
fn adds(post: &Value, config: &BTreeMap<String, Value>, bos: u32, tokens: &[(String, TokenKind)]) -> bool {
    let text = tokens.get(bos as usize).map(|(text, _)| text.as_str());
    let begins = |post: &Value| {
        is(post, "TemplateProcessing") && text.is_some() && post["single"][0]["SpecialToken"]["id"].as_str() == text
    };
    let listed = post["processors"].as_array().is_some_and(|list| list.iter().any(begins));
    begins(post) || listed || (post.is_null() && config.get("add_bos_token").and_then(Value::as_bool) == Some(true))
}
