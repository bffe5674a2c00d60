//! Byte-level vocabularies by rank, as the pipeline that gives their ids: tiktoken's text files (a token in base64 and its rank on each
//! line), and Mistral's `tekken.json`.
//!
//! A rank says in which order tokens are joined, and is the id. How text is cut before is not in a text file: it is known for the
//! models whose class the configuration names, and for the files of Llama 3 and 4. Any other is an error, for another cut is another model's ids.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tokenizer::{Named, QWEN2};
use super::vocabulary::Made;
use crate::error::{Error, Result};
use crate::model::tokenizer::byte_to_char;

/// Bytes of the longest token that is joined of others; the longest real ones have some hundred.
const LONGEST: usize = 512;
/// Most ranks; real files have up to some 200 000.
const MOST: usize = 1 << 22;
/// How Llama 3 and GLM 4 cut text: Qwen's way, with up to three digits together.
const DIGITS: (&str, &str) = (r"\p{N}|", r"\p{N}{1,3}|");
/// Ranks of Llama 3's own file, by which it is known.
const LLAMA3: usize = 128_000;
/// Special tokens after them.
const LLAMA3_SPECIAL: usize = 256;
/// Ranks of Llama 4's own file, by which it is known.
const LLAMA4: usize = 200_000;
/// How Llama 4 cuts text: as tiktoken's o200k_base.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// A token's bytes, by rank.
type Ranks = Vec<Vec<u8>>;

/// What else a model's tokenizer is beside its ranks.
#[derive(Default)]
struct Kind {
    pattern: String,
    nfc: bool,
    /// Texts and ids.
    special: Vec<(String, usize)>,
    named: Vec<(&'static str, String)>,
    /// Stand before every text.
    before: Vec<&'static str>,
    /// The first rank's id.
    first: usize,
}

/// Whether a file of these bytes is a text file of ranks: its first line is a token and a number.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    parse(line).is_some()
}

/// A line's token and rank.
fn parse(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (token, rank) = line.split_once(' ')?;
    Some((base64::engine::general_purpose::STANDARD.decode(token).ok()?, rank.parse().ok()?))
}

/// A file of tiktoken's.
///
/// # Errors
/// [`Error::Model`] naming the line that is none, or a model whose way of cutting text is not known.
pub(super) fn from_tiktoken(path: &Path, bytes: &[u8], config: &Named) -> Result<Made> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut ranks = Ranks::new();
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let wrong = |message: &str| Err(Error::model(path, format!("line {}", n + 1), message));
        match parse(line) {
            Some((token, rank)) if rank == ranks.len() && rank < MOST && !token.is_empty() => ranks.push(token),
            Some((_, rank)) => {
                let next = ranks.len();
                let message = format!(
                    "is out of order, rank {rank} where {next} comes next: ranks count from 0, each with a token"
                );
                return wrong(&message);
            }
            None => return wrong("is not a token in base64, a space and its rank"),
        }
    }
    let kind = kind(&ranks, config).ok_or_else(|| {
        let class = config.text("tokenizer_class").unwrap_or("no class of such a one");
        let message = format!(
            "holds ranks of tokens (tiktoken) and does not say how text is cut; that is known for Llama 3 and 4, Qwen 1 and GLM 4, and \
             tokenizer_config.json names {}: put the model's tokenizer.json beside it",
            class.escape_debug()
        );
        Error::model(path, name, message)
    })?;
    pipeline(&ranks, &kind).map_err(|message| Error::model(path, "ranks", message))
}

/// What is known of a model whose file has these ranks.
fn kind(ranks: &Ranks, config: &Named) -> Option<Kind> {
    let llama = || QWEN2.replacen(DIGITS.0, DIGITS.1, 1);
    let named = |pairs: &[(&'static str, &str)]| pairs.iter().map(|(n, text)| (*n, (*text).to_owned())).collect();
    let class = config.text("tokenizer_class").unwrap_or_default();
    let added = config.added();
    Some(match class {
        "QWenTokenizer" => {
            let fixed = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
            let all = fixed.into_iter().chain((0..205).map(|i| format!("<|extra_{i}|>")));
            Kind {
                pattern: QWEN2.into(),
                nfc: true,
                special: all.zip(ranks.len()..).collect(),
                named: named(&[("eos_token", "<|endoftext|>")]),
                ..Kind::default()
            }
        }
        "ChatGLM4Tokenizer" if !added.is_empty() => Kind {
            pattern: llama(),
            special: added,
            named: named(&[("eos_token", "<|endoftext|>")]),
            before: vec!["[gMASK]", "<sop>"],
            ..Kind::default()
        },
        // Their class is a plain one, or there is no configuration at all; Llama 4's tokens after its ranks are then not known.
        _ if ranks.len() == LLAMA3
            || (ranks.len() < LLAMA3 || ranks.len() == LLAMA4)
                && added.iter().any(|(text, _)| text == "<|begin_of_text|>") =>
        {
            let special = if added.is_empty() { llama3_special() } else { added };
            Kind {
                pattern: if ranks.len() == LLAMA4 { O200K.into() } else { llama() },
                special,
                named: named(&[("bos_token", "<|begin_of_text|>"), ("eos_token", "<|end_of_text|>")]),
                before: vec!["<|begin_of_text|>"],
                ..Kind::default()
            }
        }
        _ => return None,
    })
}

/// The tokens after Llama 3's ranks, where nothing names them.
fn llama3_special() -> Vec<(String, usize)> {
    let fixed = [(0, "begin_of_text"), (1, "end_of_text"), (6, "start_header_id"), (7, "end_header_id"), (9, "eot_id")];
    let mut reserved = 0..;
    let name = |i: usize| match fixed.iter().find(|(at, _)| *at == i) {
        Some((_, name)) => format!("<|{name}|>"),
        None => format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or(0)),
    };
    (0..LLAMA3_SPECIAL).map(name).zip(LLAMA3..).collect()
}

/// `tekken.json`.
#[derive(Deserialize)]
struct Tekken {
    config: Config,
    vocab: Vec<Entry>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// Special tokens of files that do not list them, from the first id on.
const TEKKEN: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Mistral's file, which says how text is cut: special tokens have the first ids, then come as many ranks as there is room for.
///
/// # Errors
/// [`Error::Model`] for a file that is none, or whose numbers do not fit.
pub(super) fn from_tekken(path: &Path, bytes: &[u8]) -> Result<Made> {
    let wrong = |field: &str, message: String| Error::model(path, field, message);
    let file: Tekken = serde_json::from_slice(bytes).map_err(|e| wrong("tekken.json", e.to_string()))?;
    let Config { pattern, default_vocab_size: all, default_num_special_tokens: first } = file.config;
    let count = all.checked_sub(first).filter(|n| *n <= file.vocab.len() && all <= MOST).ok_or_else(|| {
        let n = file.vocab.len();
        wrong("config", format!("asks for {all} tokens, {first} of them special, and the vocabulary has {n}"))
    })?;
    let mut ranks = Ranks::with_capacity(count);
    for entry in file.vocab.into_iter().take(count) {
        let token = base64::engine::general_purpose::STANDARD.decode(&entry.token_bytes);
        match token.ok().filter(|token| !token.is_empty() && entry.rank == ranks.len()) {
            Some(token) => ranks.push(token),
            None => return Err(wrong("vocab", format!("rank {} is out of order, or no token in base64", entry.rank))),
        }
    }
    let mut special: Vec<Option<String>> = vec![None; first];
    let listed = match file.special_tokens {
        Some(list) => list.into_iter().map(|s| (s.rank, s.token_str)).collect(),
        None => TEKKEN.iter().enumerate().map(|(i, text)| (i, (*text).to_owned())).collect::<Vec<_>>(),
    };
    for (rank, text) in listed {
        let room = special.get_mut(rank);
        *room.ok_or_else(|| wrong("special_tokens", format!("rank {rank} of {first} special tokens")))? = Some(text);
    }
    let special: Vec<(String, usize)> = (special.into_iter().enumerate())
        .map(|(id, text)| (text.unwrap_or_else(|| format!("<SPECIAL_{id}>")), id))
        .collect();
    let has = |text: &str| special.iter().any(|(t, _)| t == text);
    let names = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
    let named = names.into_iter().filter(|(_, text)| has(text)).map(|(name, text)| (name, text.to_owned())).collect();
    let before = if has("<s>") { vec!["<s>"] } else { Vec::new() };
    let kind = Kind { pattern, special, named, before, first, ..Kind::default() };
    pipeline(&ranks, &kind).map_err(|message| wrong("vocab", message))
}

/// The bytes of a token as a pipeline of bytes writes them.
fn shown(token: &[u8]) -> String {
    token.iter().map(|b| byte_to_char(*b)).collect()
}

/// Every way to join two tokens to a third, in the order in which they are joined: by the rank of what comes of it.
fn merges(ranks: &Ranks) -> std::result::Result<Vec<Value>, String> {
    let mut ids: HashMap<&[u8], usize> = HashMap::with_capacity(ranks.len());
    for (rank, token) in ranks.iter().enumerate() {
        if let Some(first) = ids.insert(token, rank) {
            return Err(format!("{first} and {rank} are the same token"));
        }
    }
    let mut out = Vec::new();
    for token in ranks.iter().filter(|token| (2..=LONGEST).contains(&token.len())) {
        let parts = (1..token.len()).filter_map(|at| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?)));
        let mut parts: Vec<(usize, usize)> = parts.collect();
        parts.sort_unstable();
        out.extend(parts.into_iter().map(|(a, b)| json!([shown(&ranks[a]), shown(&ranks[b])])));
    }
    Ok(out)
}

fn pipeline(ranks: &Ranks, kind: &Kind) -> std::result::Result<Made, String> {
    if let Some(missing) = (0..=u8::MAX).find(|b| !ranks.iter().any(|token| token[..] == [*b])) {
        return Err(format!("byte {missing} is no token, so that not every text has tokens"));
    }
    let special: HashMap<&str, usize> = kind.special.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut vocab: Map<String, Value> =
        ranks.iter().enumerate().map(|(rank, token)| (shown(token), (kind.first + rank).into())).collect();
    vocab.extend(kind.special.iter().map(|(text, id)| (text.clone(), (*id).into())));
    let added: Vec<Value> = (kind.special.iter())
        .map(|(text, id)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true
            })
        })
        .collect();
    let before: Vec<(&str, usize)> = kind.before.iter().filter_map(|text| Some((*text, *special.get(text)?))).collect();
    let sequence = |id: &str, of: usize| json!({ "Sequence": { "id": id, "type_id": of } });
    let head = |of: usize| before.iter().map(move |(text, _)| json!({ "SpecialToken": { "id": text, "type_id": of } }));
    let tokens: Map<String, Value> = (before.iter())
        .map(|(text, id)| ((*text).to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    let post = match before.is_empty() {
        true => Value::Null,
        false => json!({
            "type": "TemplateProcessing",
            "single": head(0).chain([sequence("A", 0)]).collect::<Vec<_>>(),
            "pair": head(0).chain([sequence("A", 0)]).chain(head(1)).chain([sequence("B", 1)]).collect::<Vec<_>>(),
            "special_tokens": tokens
        }),
    };
    let split =
        json!({ "type": "Split", "pattern": { "Regex": kind.pattern }, "behavior": "Isolated", "invert": false });
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": if kind.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, level] },
        "post_processor": post,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": true, "vocab": vocab, "merges": merges(ranks)?
        }
    });
    Ok((json, kind.named.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_llama_3_s_ranks_has_the_ids_that_it_was_published_with() {
        let all = llama3_special();
        for (text, id) in [
            ("<|begin_of_text|>", 128_000),
            ("<|end_of_text|>", 128_001),
            ("<|reserved_special_token_0|>", 128_002),
            ("<|start_header_id|>", 128_006),
            ("<|end_header_id|>", 128_007),
            ("<|reserved_special_token_4|>", 128_008),
            ("<|eot_id|>", 128_009),
            ("<|reserved_special_token_250|>", 128_255),
        ] {
            assert!(all.contains(&(text.to_owned(), id)), "{text}: {all:?}");
        }
        assert_eq!(all.len(), 256);
    }
}
