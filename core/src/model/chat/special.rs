//! The special tokens that a template knows by name.

use minijinja::value::Value;
use serde_json::{Map, Value as Json};

use crate::error::Result;
use crate::model::gguf::Gguf;

/// Names such as `bos_token`, each with the token's text. What a model has not is not there, and undefined in a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(Vec<(String, String)>);

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for SpecialTokens {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(pairs: I) -> Self {
        let mut out = Self::default();
        pairs.into_iter().for_each(|(name, text)| out.set(name.into(), text.into()));
        out
    }
}

impl SpecialTokens {
    /// The text of the token of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    fn set(&mut self, name: String, text: String) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = text,
            None => self.0.push((name, text)),
        }
    }

    /// Names a token, where none has that name.
    pub(crate) fn or(&mut self, name: &str, text: String) {
        if self.get(name).is_none() {
            self.set(name.to_owned(), text);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where a model names none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that `tokenizer_config.json` and, over it, `special_tokens_map.json` name: every `…_token` that is a text or a token's
    /// description, and those of `extra_special_tokens` where they have names. Tokens in a list have none.
    pub(crate) fn of_folder(config: &Map<String, Json>, map: Option<&Map<String, Json>>) -> Self {
        let mut out = Self::default();
        let tokens = |of: &'_ Map<String, Json>| {
            let named = of.iter().filter(|(name, _)| name.ends_with("_token"));
            named.filter_map(|(name, value)| Some((name.clone(), text(value)?.to_owned()))).collect::<Vec<_>>()
        };
        let groups = ["extra_special_tokens", "model_specific_special_tokens"];
        let groups = groups.iter().filter_map(|group| config.get(*group)?.as_object());
        for (name, text) in
            tokens(config).into_iter().chain(groups.flat_map(tokens)).chain(map.into_iter().flat_map(tokens))
        {
            out.set(name, text);
        }
        out
    }

    /// Those that a GGUF file names, by the ids under `tokenizer.ggml`.
    ///
    /// # Errors
    /// A key of the wrong type.
    pub fn of_gguf(file: &Gguf) -> Result<Self> {
        const NAMES: [(&str, &str); 7] = [
            ("bos_token_id", "bos_token"),
            ("eos_token_id", "eos_token"),
            ("unknown_token_id", "unk_token"),
            // As ggml spells it.
            ("seperator_token_id", "sep_token"),
            ("padding_token_id", "pad_token"),
            ("cls_token_id", "cls_token"),
            ("mask_token_id", "mask_token"),
        ];
        let mut wanted = Vec::with_capacity(NAMES.len());
        for (key, name) in NAMES {
            if let Some(id) = file.u32(&format!("tokenizer.ggml.{key}"))? {
                wanted.push((u64::from(id), name));
            }
        }
        let mut out = Self::default();
        if file.entry("tokenizer.ggml.tokens").is_some() {
            file.each_string("tokenizer.ggml.tokens", |id, text| {
                wanted.iter().filter(|(at, _)| *at == id).for_each(|(_, name)| out.set((*name).into(), text.into()));
                Ok(())
            })?;
        }
        Ok(out)
    }

    /// For a template.
    pub(super) fn context(&self) -> Value {
        Value::from_pairs(self.0.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }
}

/// The text of a token: itself, or in its description.
fn text(value: &Json) -> Option<&str> {
    match value {
        Json::String(text) => Some(text),
        Json::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}
