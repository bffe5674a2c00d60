//! The pipeline of a folder: `tokenizer.json`, or what is made of the files from before there was one.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::tokenizer::{Named, QWEN2};
use super::{ranks, sentencepiece};
use crate::error::{Error, Result};
use crate::model::arch::hf_keys::text;
use crate::model::tokenizer::{Foreign, json as pipeline};

const JSON: &str = "tokenizer.json";
/// SentencePiece's model, by the names it goes by.
const SENTENCEPIECE: [&str; 3] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];
/// Mistral's ranks, and tiktoken's by the names they go by beside SentencePiece's first.
const TEKKEN: &str = "tekken.json";
const TIKTOKEN: [&str; 2] = ["qwen.tiktoken", "tiktoken.model"];
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// GPT-2's only special token: what begins, ends and is unknown where a folder of its files names nothing.
const GPT2_SPECIAL: &str = "<|endoftext|>";
/// Bytes of the largest file that is read; the largest real ones have some 35 MB.
const LARGEST: u64 = 256 << 20;
/// Of a SentencePiece model; the largest real ones have some 5 MB.
const LARGEST_MODEL: u64 = 64 << 20;

/// A pipeline, and the file it is of.
pub(super) struct Vocabulary {
    pub path: PathBuf,
    pub foreign: Foreign,
    /// Names of special tokens that the file itself gives, for a configuration that gives none.
    pub named: Vec<(&'static str, String)>,
    /// It was made of other files than a `tokenizer.json`.
    pub made: bool,
}

/// The pipeline of `dir`; `None` without a file of one.
///
/// # Errors
/// A damaged file, or one of a kind that is not read.
pub(super) fn read(dir: &Path, config: &Named) -> Result<Option<Vocabulary>> {
    let here = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    let wrong = |path: &Path, name: &str, e: String| Error::model(path, name, e);
    if let Some(path) = here(JSON) {
        let bytes = text(&path, LARGEST)?;
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let foreign = Foreign::new(bytes).map_err(|e| wrong(&path, JSON, e))?;
        return Ok(Some(Vocabulary { path, foreign, named: Vec::new(), made: false }));
    }
    let (path, json, named) = if let Some(path) = here(TEKKEN) {
        let (json, named) = ranks::from_tekken(&path, &text(&path, LARGEST)?)?;
        (path, json, named)
    } else if let Some(path) = SENTENCEPIECE.iter().find_map(|name| here(name)) {
        let bytes = text(&path, LARGEST_MODEL)?;
        let (json, named) = match ranks::is_one(&bytes) {
            true => ranks::from_tiktoken(&path, &bytes, config)?,
            false => from_sentencepiece(&path, &bytes, config)?,
        };
        (path, json, named)
    } else if let Some(path) = TIKTOKEN.iter().find_map(|name| here(name)) {
        let (json, named) = ranks::from_tiktoken(&path, &text(&path, LARGEST_MODEL)?, config)?;
        (path, json, named)
    } else if let (Some(path), Some(merges)) = (here(VOCAB), here(MERGES)) {
        let (json, named) = from_merges(&path, &merges, config)?;
        (path, json, named)
    } else {
        return Ok(None);
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = serde_json::to_vec(&json).map_err(|e| Error::Internal(format!("writing JSON: {e}")))?;
    let foreign = Foreign::new(&bytes).map_err(|e| wrong(&path, &name, e))?;
    Ok(Some(Vocabulary { path, foreign, named, made: true }))
}

/// A `tokenizer.json`, and the names of special tokens.
pub(super) type Made = (Value, Vec<(&'static str, String)>);

fn from_sentencepiece(path: &Path, bytes: &[u8], config: &Named) -> Result<Made> {
    let mut spec = sentencepiece::read(path, bytes)?;
    // What the configuration calls legacy puts a space before what follows a special token too; that is the default.
    spec.prefix_once = config.flag("legacy") == Some(false);
    spec.add_bos = Some(config.flag("add_bos_token").unwrap_or(spec.model == "llama"));
    let t5 = config.text("tokenizer_class").is_some_and(|class| class.starts_with("T5"));
    spec.add_eos = Some(config.flag("add_eos_token").unwrap_or(t5));
    if let Some(prefix) = config.flag("add_prefix_space") {
        spec.add_space_prefix = Some(prefix);
    }
    let of = |name, id: Option<u32>| Some((name, spec.tokens.get(id? as usize)?.to_owned()));
    let named =
        [of("bos_token", spec.bos), of("eos_token", spec.eos), of("unk_token", spec.unk), of("pad_token", spec.pad)];
    Ok((pipeline::pipeline(&spec)?, named.into_iter().flatten().collect()))
}

/// GPT-2's files, or Qwen 2's, which the configuration names.
fn from_merges(vocab: &Path, merges: &Path, config: &Named) -> Result<Made> {
    let words: Map<String, Value> =
        serde_json::from_slice(&text(vocab, LARGEST)?).map_err(|e| Error::model(vocab, VOCAB, e.to_string()))?;
    let list =
        String::from_utf8(text(merges, LARGEST)?).map_err(|_| Error::model(merges, MERGES, "is not UTF-8 text"))?;
    let list: Vec<Value> = list
        .lines()
        .enumerate()
        .filter(|(n, line)| !(line.trim().is_empty() || *n == 0 && line.starts_with("#version")))
        .map(|(n, line)| {
            let pair: Vec<&str> = line.split_whitespace().collect();
            if pair.len() == 2 {
                Ok(json!(pair))
            } else {
                Err(Error::model(merges, format!("line {}", n + 1), "is not two texts with a space between"))
            }
        })
        .collect::<Result<_>>()?;
    let qwen2 = config.text("tokenizer_class").is_some_and(|class| class.starts_with("Qwen2"));
    let prefix = config.flag("add_prefix_space").unwrap_or(false);
    let level = json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": false, "use_regex": !qwen2 });
    let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
    let pre = if qwen2 { json!({ "type": "Sequence", "pretokenizers": [split, level] }) } else { level };
    let mut named = Vec::new();
    if words.contains_key(GPT2_SPECIAL) {
        named.push(("eos_token", GPT2_SPECIAL.to_owned()));
        if !qwen2 {
            named.extend(["bos_token", "unk_token"].map(|name| (name, GPT2_SPECIAL.to_owned())));
        }
    }
    let bos = config.text("bos_token").map(ToOwned::to_owned);
    let bos = bos.or_else(|| named.iter().find(|(name, _)| *name == "bos_token").map(|(_, text)| text.clone()));
    let bos = bos.filter(|_| config.flag("add_bos_token") == Some(true));
    let bos = bos.and_then(|bos| Some((words.get(&bos)?.as_u64()?, bos)));
    let post = match bos {
        Some((id, bos)) => json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { bos.clone(): { "id": bos, "ids": [id], "tokens": [bos] } }
        }),
        None => Value::Null,
    };
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": if qwen2 { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": words, "merges": list
        }
    });
    Ok((json, named))
}
