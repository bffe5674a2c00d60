//! The chat template of a folder, and the special tokens that it knows by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::arch::hf_keys::text;
use crate::model::chat::SpecialTokens;

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
/// A template in a file of its own, which goes before the configuration's.
const OWN: &str = "chat_template.jinja";
/// Where a processor of images keeps it.
const PROCESSOR: &str = "chat_template.json";
const KEY: &str = "chat_template";
/// Bytes of the largest of these files that is read.
const LARGEST: u64 = 16 << 20;

/// A template and where it stands.
#[derive(Debug)]
pub struct Found {
    /// Its text.
    pub source: String,
    /// The file it is in.
    pub path: PathBuf,
}

/// The template of `dir` that a conversation without tools is written by.
///
/// # Errors
/// A file that cannot be read or is no JSON; templates with names, none of which is the default.
pub(super) fn chat_template(dir: &Path) -> Result<Option<Found>> {
    let own = dir.join(OWN);
    if own.is_file() {
        let source = String::from_utf8(text(&own, LARGEST)?);
        let source = source.map_err(|_| Error::model(&own, OWN, "is not UTF-8 text"))?;
        return Ok(Some(Found { source, path: own }));
    }
    for name in [CONFIG, PROCESSOR] {
        let path = dir.join(name);
        if let Some(source) = object(&path)?.and_then(|mut o| o.remove(KEY)).map(|v| chosen(v, &path)).transpose()? {
            return Ok(source.map(|source| Found { source, path }));
        }
    }
    Ok(None)
}

/// The default of what a configuration calls its template: one, or several with names.
fn chosen(value: Value, path: &Path) -> Result<Option<String>> {
    let named: BTreeMap<String, Value> = match value {
        Value::Null => return Ok(None),
        Value::String(source) => return Ok(Some(source)),
        Value::Object(named) => named.into_iter().collect(),
        Value::Array(list) => list
            .into_iter()
            .filter_map(|mut one| Some((one.get("name")?.as_str()?.to_owned(), one.get_mut("template")?.take())))
            .collect(),
        _ => return Err(Error::model(path, KEY, "is neither a text nor templates with names")),
    };
    match named.get("default") {
        Some(Value::String(source)) => Ok(Some(source.clone())),
        _ => {
            let names: Vec<String> = named.keys().map(|n| n.escape_debug().to_string()).collect();
            let names = names.join(", ");
            Err(Error::model(path, KEY, format!("has templates named {names} and no `default`; name one so")))
        }
    }
}

/// The special tokens that `dir` names.
///
/// # Errors
/// A file that cannot be read or is no JSON.
pub(super) fn special_tokens(dir: &Path) -> Result<SpecialTokens> {
    let config = object(&dir.join(CONFIG))?.unwrap_or_default();
    // A configuration that lists its tokens says all; before there were lists the map had the last word.
    let map = match config.contains_key("added_tokens_decoder") {
        true => None,
        false => object(&dir.join(MAP))?,
    };
    Ok(SpecialTokens::of_folder(&config, map.as_ref()))
}

/// The JSON object in a file, where there is one.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = text(path, LARGEST)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    serde_json::from_slice(bytes).map(Some).map_err(|e| Error::model(path, name, e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(dir.path().join(name), content).unwrap());
        dir
    }

    /// What transformers 5.24 made of the same folders.
    #[test]
    fn the_template_is_the_one_that_transformers_takes() {
        let got = |files: &[(&str, &str)]| {
            let dir = folder(files);
            chat_template(dir.path()).map(|f| f.map(|f| f.source)).map_err(|e| e.to_string())
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        let list =
            r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        assert_eq!(got(&[]), Ok(None));
        assert_eq!(got(&[(CONFIG, r#"{"chat_template": null}"#)]), Ok(None));
        assert_eq!(got(&[(CONFIG, r#"{"chat_template": ""}"#)]), some(""));
        assert_eq!(got(&[(CONFIG, list)]), some("D"));
        assert_eq!(got(&[(CONFIG, list), (OWN, "J"), (PROCESSOR, r#"{"chat_template": "P"}"#)]), some("J"));
        assert_eq!(got(&[(CONFIG, "{}"), (PROCESSOR, r#"{"chat_template": "P"}"#)]), some("P"));
        assert_eq!(got(&[(CONFIG, r#"{"chat_template": {"default": "D"}}"#)]), some("D"));
        let error = got(&[(CONFIG, &list.replace("default", "rag"))]).unwrap_err();
        assert!(error.contains("rag, tool_use") && error.contains(CONFIG), "{error}");
        let error = got(&[(CONFIG, "{\n\"chat_template\": }")]).unwrap_err();
        assert!(error.contains("line 2") && error.contains(CONFIG), "{error}");
    }

    #[test]
    fn special_tokens_are_those_that_transformers_binds() {
        let got = |files: &[(&str, &str)]| special_tokens(folder(files).path()).unwrap();
        let plain = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
            "image_token": "<i>", "add_bos_token": true, "extra_special_tokens": {"audio_token": "<a>"},
            "additional_special_tokens": ["<x>"]}"#;
        let map = r#"{"bos_token": "<m>", "unk_token": {"content": "<u>"}, "additional_special_tokens": ["<x>"]}"#;
        let pairs = [("bos_token", "<s>"), ("eos_token", "</s>"), ("image_token", "<i>"), ("audio_token", "<a>")];
        let same = |got: &SpecialTokens, pairs: &[(&str, &str)]| {
            assert!(pairs.iter().all(|(name, text)| got.get(name) == Some(*text)), "{got:?}");
            assert_eq!(got.len(), pairs.len(), "{got:?}");
        };
        same(&got(&[]), &[]);
        same(&got(&[(CONFIG, plain)]), &pairs);
        let legacy = [&pairs[1..], &[("bos_token", "<m>"), ("unk_token", "<u>")]].concat();
        same(&got(&[(CONFIG, plain), (MAP, map)]), &legacy);
        let listed = plain.replacen('{', r#"{"added_tokens_decoder": {}, "#, 1);
        same(&got(&[(CONFIG, &listed), (MAP, map)]), &pairs);
    }
}
