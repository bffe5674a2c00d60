//! The tokenizer of a folder: its own pipeline, and what its configurations say of single tokens.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::vocabulary;
use crate::error::{Error, Result};
use crate::model::arch::byte_of;
use crate::model::arch::hf_keys::{Ids, text};
use crate::model::tokenizer::{Strings, TokenKind, Tokenizer, TokenizerSpec};

const CONFIG: &str = "tokenizer_config.json";
/// Where older folders name special tokens.
const SPECIAL: &str = "special_tokens_map.json";
/// Where older folders list what was added to `vocab.json`.
const ADDED: &str = "added_tokens.json";
const GENERATION: &str = "generation_config.json";
const LARGEST_CONFIG: u64 = 16 << 20;

/// How Qwen 2 cuts text.
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Special tokens by what they are called.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
/// Lists of further ones.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What the configurations beside a tokenizer say of it.
#[derive(Default)]
pub(super) struct Named {
    config: BTreeMap<String, Value>,
    special: BTreeMap<String, Value>,
}

impl Named {
    fn read(dir: &Path) -> Result<Self> {
        Ok(Self { config: config(dir)?, special: map(dir, SPECIAL)? })
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.config.get(name).filter(|v| !v.is_null()).or_else(|| self.special.get(name))
    }

    /// A switch of the tokenizer's configuration.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name).and_then(Value::as_bool)
    }

    /// A text, or the text of a token.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::String(text) => Some(text),
            token => token.get("content")?.as_str(),
        }
    }

    /// Texts and ids of what was added, where the configuration says both.
    pub fn added(&self) -> Vec<(String, usize)> {
        let list = self.config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
        let mut out: Vec<(String, usize)> = list
            .filter_map(|(id, token)| Some((token.get("content")?.as_str()?.to_owned(), id.parse().ok()?)))
            .collect();
        out.sort_by_key(|(_, id)| *id);
        out
    }

    /// Every token that is named, in the order in which those without an id get one.
    fn tokens(&self) -> Vec<AddedToken> {
        let mut by_id: Vec<(u64, &Value)> =
            (self.config.get("added_tokens_decoder").and_then(Value::as_object).into_iter())
                .flatten()
                .filter_map(|(id, token)| Some((id.parse().ok()?, token)))
                .collect();
        by_id.sort_by_key(|(id, _)| *id);
        let lists = LISTS.iter().filter_map(|name| self.get(name)).flat_map(|list| match list {
            Value::Array(list) => list.iter().collect::<Vec<_>>(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        });
        let named = NAMES.iter().filter_map(|name| self.get(name));
        let all = by_id.into_iter().map(|(_, token)| token).chain(named).chain(lists);
        all.filter_map(added).collect()
    }
}

/// A token as configurations write it: its text, which is special, or an object with its marks.
fn added(token: &Value) -> Option<AddedToken> {
    match token {
        Value::String(text) => Some(AddedToken::from(text.as_str(), true)),
        token => {
            let mark = |name: &str, default: bool| token.get(name).and_then(Value::as_bool).unwrap_or(default);
            let special = mark("special", true);
            let out = AddedToken::from(token.get("content")?.as_str()?, special);
            let out = out.lstrip(mark("lstrip", false)).rstrip(mark("rstrip", false));
            Some(out.single_word(mark("single_word", false)).normalized(mark("normalized", !special)))
        }
    }
    .filter(|token| !token.content.is_empty())
}

/// Ids that `config.json` and `generation_config.json` name: where a text begins, and every one that ends it.
fn ends(dir: &Path, eos: &[u32]) -> Result<Vec<u32>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Generation {
        eos_token_id: Option<Ids>,
    }
    let path = dir.join(GENERATION);
    let generation: Generation = match path.is_file() {
        true => serde_json::from_slice(&text(&path, LARGEST_CONFIG)?)
            .map_err(|e| Error::model(&path, "eos_token_id", e.to_string()))?,
        false => Generation::default(),
    };
    Ok([eos, &Ids::list(generation.eos_token_id.as_ref())].concat())
}

/// The tokenizer of `dir`, `None` without a file of one; `bos` and `eos` are what `config.json` names.
pub(super) fn read(dir: &Path, bos: &[u32], eos: &[u32], vocab: usize) -> Result<Option<Tokenizer>> {
    let named = Named::read(dir)?;
    let Some(mut words) = vocabulary::read(dir, &named)? else { return Ok(None) };
    let wrong = |field: &str, e: String| Error::model(&words.path, field, e);
    // What is named as a special token is one, whether or not the pipeline's file says so.
    let known: BTreeMap<String, Option<bool>> = words.foreign.tokens().map(|(text, _, added)| (text, added)).collect();
    let mut add: Vec<AddedToken> = named.tokens();
    add.extend(words.named.iter().map(|(_, text)| AddedToken::from(text.as_str(), true)));
    if words.made {
        let mut more: Vec<(u64, String)> =
            map(dir, ADDED)?.into_iter().filter_map(|(text, id)| Some((id.as_u64()?, text))).collect();
        more.sort();
        add.splice(0..0, more.into_iter().map(|(_, text)| AddedToken::from(text, false).normalized(false)));
    }
    let mut seen = std::collections::HashSet::new();
    add.retain(|token| known.get(&token.content).is_none_or(Option::is_none) && seen.insert(token.content.clone()));
    if !add.is_empty() {
        words.foreign.add(add).map_err(|e| wrong("added_tokens_decoder", e))?;
    }
    let tokens = tokens(&words, vocab)?;
    let id = |name: &str| -> Option<u32> {
        let text =
            named.text(name).or_else(|| words.named.iter().find(|(n, _)| *n == name).map(|(_, text)| &**text))?;
        tokens.iter().position(|(t, _)| t == text).and_then(|i| u32::try_from(i).ok())
    };
    let within = |id: &u32| (*id as usize) < tokens.len();
    let mut ends: Vec<u32> = ends(dir, eos)?.into_iter().filter(within).collect();
    let eos = id("eos_token").or_else(|| ends.first().copied());
    ends.extend(eos);
    let spec = TokenizerSpec {
        path: words.path.clone(),
        model: "gpt2".into(),
        tokens: tokens.iter().map(|(text, _)| text).collect::<Strings>(),
        types: tokens.iter().map(|(_, kind)| *kind as i32).collect(),
        bos: id("bos_token").or_else(|| bos.first().copied().filter(within)),
        eos,
        unk: id("unk_token"),
        pad: id("pad_token"),
        ..TokenizerSpec::default()
    };
    Tokenizer::foreign(spec, words.foreign, &ends).map(Some)
}

fn config(dir: &Path) -> Result<BTreeMap<String, Value>> {
    map(dir, CONFIG)
}

/// The object that the file `name` of `dir` holds; empty without one.
fn map(dir: &Path, name: &str) -> Result<BTreeMap<String, Value>> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let bytes = text(&path, LARGEST_CONFIG)?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    serde_json::from_slice(bytes).map_err(|e| Error::model(&path, name, e.to_string()))
}

/// Every token's text and kind, by id, as the pipeline has them. Ids without a token are places kept free. An embedding may have
/// fewer rows than there are tokens: a text with one of the others is refused when it comes.
fn tokens(words: &vocabulary::Vocabulary, vocab: usize) -> Result<Vec<(String, TokenKind)>> {
    let bytes = words.foreign.byte_fallback();
    let all: Vec<_> = words.foreign.tokens().collect();
    let most = vocab.saturating_add(all.len());
    let mut out: Vec<Option<(String, TokenKind)>> = Vec::new();
    for (text, id, special) in all {
        let at = usize::try_from(id).ok().filter(|at| *at < most).ok_or_else(|| {
            let text: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            let message = format!("gives `{text}` the id {id}, the embedding has {vocab} rows");
            Error::model(&words.path, "model.vocab", message)
        })?;
        let kind = match special {
            Some(true) => TokenKind::Control,
            Some(false) => TokenKind::UserDefined,
            None if bytes && byte_of(&text).is_some() => TokenKind::Byte,
            None => TokenKind::Normal,
        };
        if out.len() <= at {
            out.resize(at + 1, None);
        }
        out[at] = Some((text, kind));
    }
    Ok(out
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[UNUSED_{id}]"), TokenKind::Unused)))
        .collect())
}
