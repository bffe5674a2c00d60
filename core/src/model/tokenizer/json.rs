//! A GGUF file's tokenizer, or a SentencePiece model, as a `tokenizer.json`: a pipeline that gives the same ids.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use serde_json::{Map, Value, json};

use super::spec::{TokenKind, TokenizerSpec};
use super::{pre, spm};
use crate::error::Result;

/// Bytes of the longest token that is joined of others; the longest real ones have about a hundred.
const LONGEST_JOINED: usize = 512;

/// The pipeline of `spec`, whose ids and flags are those that hold: what [`super::Tokenizer::settle`] leaves.
///
/// # Errors
/// [`crate::Error::Model`] for a kind of tokenizer or a name of a pre-tokenizer that is not known.
pub fn pipeline(spec: &TokenizerSpec) -> Result<Value> {
    let kind = |id: usize| spec.types.get(id).map_or(TokenKind::Normal, |n| TokenKind::from(*n));
    let mut added = Vec::new();
    for (id, text) in spec.tokens.iter().enumerate() {
        let special = match kind(id) {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined if !spec.whole_pieces => false,
            _ => continue,
        };
        added.push(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special
        }));
    }
    let (normalizer, pre_tokenizer, decoder, model) = match spec.model.as_str() {
        "gpt2" => {
            let (pre, whole) = byte_level(spec)?;
            let decoder =
                json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
            (Value::Null, pre, decoder, bpe(vocabulary(spec), merges(spec), None, false, whole))
        }
        "llama" | "t5" => {
            let (normalizer, pre) = spaces(spec, &kind);
            let fallback = has_bytes(spec);
            let model = match spec.model.as_str() {
                "t5" => unigram(spec, fallback),
                _ => {
                    let unk = spec.unk.and_then(|id| spec.tokens.get(id as usize));
                    let whole =
                        spec.whole_pieces && (0..spec.tokens.len()).any(|id| kind(id) == TokenKind::UserDefined);
                    bpe(vocabulary(spec), merges_by_score(spec, &kind), unk, fallback, whole)
                }
            };
            (normalizer, pre, space_decoder(spec, fallback), model)
        }
        other => return Err(spec.error("model", format!("the tokenizer `{other}` has no form in tokenizer.json"))),
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(spec),
        "decoder": decoder,
        "model": model
    }))
}

fn vocabulary(spec: &TokenizerSpec) -> Value {
    spec.tokens.iter().enumerate().map(|(id, text)| (text.to_owned(), id.into())).collect::<Map<_, _>>().into()
}

fn bpe(vocab: Value, merges: Vec<Value>, unk: Option<&str>, fallback: bool, whole_words: bool) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": unk.is_some(), "byte_fallback": fallback, "ignore_merges": whole_words,
        "vocab": vocab, "merges": merges
    })
}

fn unigram(spec: &TokenizerSpec, fallback: bool) -> Value {
    let scores = spec.scores.iter().copied().chain(std::iter::repeat(0.0));
    let vocab: Vec<Value> = spec.tokens.iter().zip(scores).map(|(text, score)| json!([text, score])).collect();
    json!({ "type": "Unigram", "unk_id": spec.unk, "vocab": vocab, "byte_fallback": fallback })
}

/// How text is cut before byte-level merges, and whether a word that is a token is taken whole.
fn byte_level(spec: &TokenizerSpec) -> Result<(Value, bool)> {
    let name = if spec.pre.is_empty() { "default" } else { &spec.pre };
    let found = pre::find(name).ok_or_else(|| spec.error("pre", format!("the pre-tokenizer `{name}` is not known")))?;
    let mut list: Vec<Value> = found
        .portable()
        .map(|p| json!({ "type": "Split", "pattern": { "Regex": p }, "behavior": "Isolated", "invert": false }))
        .collect();
    list.push(json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }));
    Ok((json!({ "type": "Sequence", "pretokenizers": list }), found.ignore_merges))
}

/// The merges of which both parts and the product are tokens, each once: those the library takes.
fn merges(spec: &TokenizerSpec) -> Vec<Value> {
    let known: HashSet<&str> = spec.tokens.iter().collect();
    let mut seen = HashSet::new();
    let mut product = String::new();
    let mut out = Vec::with_capacity(spec.merges.len());
    for merge in spec.merges.iter() {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let Some(at) = merge.get(first..).and_then(|rest| rest.find(' ')).map(|at| at + first) else { continue };
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        product.clear();
        product.push_str(left);
        product.push_str(right);
        if [left, right, &product].iter().all(|t| known.contains(t)) && seen.insert((left, right)) {
            out.push(json!([left, right]));
        }
    }
    out
}

/// The merges of a vocabulary whose tokens have scores: every way to join a token of two others, the highest score first.
fn merges_by_score(spec: &TokenizerSpec, kind: &dyn Fn(usize) -> TokenKind) -> Vec<Value> {
    let joined = |id: usize| match kind(id) {
        TokenKind::Normal => true,
        TokenKind::UserDefined => !spec.whole_pieces,
        _ => false,
    };
    let known: HashMap<&str, usize> = spec
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, text)| joined(*id) && text.len() <= LONGEST_JOINED)
        .map(|(id, text)| (text, id))
        .collect();
    let mut out: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (&text, &id) in &known {
        let score = spec.scores.get(id).copied().unwrap_or(0.0);
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if known.contains_key(left) && known.contains_key(right) {
                out.push((score, id, left, right));
            }
        }
    }
    out.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    out.into_iter().map(|(_, _, left, right)| json!([left, right])).collect()
}

/// Whether every byte has a token.
fn has_bytes(spec: &TokenizerSpec) -> bool {
    let found: HashSet<u8> = spec.tokens.iter().filter_map(spm::byte_of).collect();
    found.len() == 256
}

/// What SentencePiece makes of a text before it looks for pieces: the normalizer, and the pre-tokenizer.
fn spaces(spec: &TokenizerSpec, kind: &dyn Fn(usize) -> TokenKind) -> (Value, Value) {
    let replace = |pattern: Value, by: &str| json!({ "type": "Replace", "pattern": pattern, "content": by });
    let prefix = spec.add_space_prefix.unwrap_or(true);
    let mut normalizers = Vec::new();
    if !spec.charsmap.is_empty() {
        let map = base64::engine::general_purpose::STANDARD.encode(&spec.charsmap);
        normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": map }));
    }
    if spec.remove_extra_whitespaces {
        normalizers.push(replace(json!({ "Regex": r"\A +| +\z" }), ""));
        normalizers.push(replace(json!({ "Regex": " {2,}" }), " "));
    }
    if prefix && !spec.prefix_once {
        normalizers.push(json!({ "type": "Prepend", "prepend": spm::SPACE }));
    }
    normalizers.push(replace(json!({ "String": " " }), spm::SPACE));
    let mut cuts = Vec::new();
    if prefix && spec.prefix_once {
        cuts.push(json!({ "type": "Metaspace", "replacement": spm::SPACE, "prepend_scheme": "first", "split": false }));
    }
    let mut whole: Vec<&str> = (spec.tokens.iter().enumerate())
        .filter(|(id, _)| spec.whole_pieces && kind(*id) == TokenKind::UserDefined)
        .map(|(_, text)| text)
        .collect();
    if !whole.is_empty() {
        whole.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let pattern: Vec<String> = whole.into_iter().map(escaped).collect();
        let pattern = json!({ "Regex": pattern.join("|") });
        cuts.push(json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }));
    }
    let pre = if cuts.is_empty() { Value::Null } else { json!({ "type": "Sequence", "pretokenizers": cuts }) };
    (json!({ "type": "Sequence", "normalizers": normalizers }), pre)
}

/// A regular expression for `text` itself.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() || c == ' ' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn space_decoder(spec: &TokenizerSpec, fallback: bool) -> Value {
    let mut list = vec![json!({ "type": "Replace", "pattern": { "String": spm::SPACE }, "content": " " })];
    if fallback {
        list.push(json!({ "type": "ByteFallback" }));
    }
    list.push(json!({ "type": "Fuse" }));
    if spec.add_space_prefix.unwrap_or(true) {
        list.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": list })
}

/// What is added around a text.
fn post_processor(spec: &TokenizerSpec) -> Value {
    let token = |id: Option<u32>, adds: Option<bool>| {
        let id = id.filter(|_| adds == Some(true))?;
        Some((id, spec.tokens.get(id as usize)?))
    };
    let (bos, eos) = (token(spec.bos, spec.add_bos), token(spec.eos, spec.add_eos));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let around = |sequence: &str, of: u8| {
        let token =
            |t: Option<(u32, &str)>| t.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": of } }));
        let middle = Some(json!({ "Sequence": { "id": sequence, "type_id": of } }));
        [token(bos), middle, token(eos)].into_iter().flatten().collect::<Vec<_>>()
    };
    let pair = [around("A", 0), around("B", 1)].concat();
    let special: Map<_, _> = (bos.into_iter().chain(eos))
        .map(|(id, text)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special
    })
}
