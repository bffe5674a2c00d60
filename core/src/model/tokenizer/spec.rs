//! What a model file says about its tokenizer.

use std::path::PathBuf;

use super::vocab::Strings;
use crate::error::{Error, Result};
use crate::model::gguf::Gguf;

/// `tokenizer.ggml.*` of a file, before any of it is believed. Numbers absent from the file are `None`.
#[derive(Clone, Debug, Default)]
pub struct TokenizerSpec {
    /// The file, for messages.
    pub path: PathBuf,
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (SentencePiece unigram).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer; empty when absent.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: the text of every token.
    pub tokens: Strings,
    /// `tokenizer.ggml.token_type`: one of [`TokenKind`]'s numbers a token; empty when absent.
    pub types: Vec<i32>,
    /// `tokenizer.ggml.scores`: one a token; empty when absent.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`: `left right` each, the first learned first.
    pub merges: Strings,
    /// `tokenizer.ggml.bos_token_id`: beginning of text.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`: end of text.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: end of a turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: end of a message.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.ggml.remove_extra_whitespaces`: of a run of spaces one is left, and none at either end.
    pub remove_extra_whitespaces: bool,
    /// `tokenizer.ggml.precompiled_charsmap`: SentencePiece's normalization of characters; empty when there is none.
    pub charsmap: Vec<u8>,
    /// The space goes before the whole text alone, and not before what follows a special token too. No key of GGUF's.
    pub prefix_once: bool,
    /// User-defined tokens are found in the text as it is normalized, and text goes on after them, as in SentencePiece. No key of
    /// GGUF's: llama.cpp cuts the text at them first.
    pub whole_pieces: bool,
}

/// What kind of token it is; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    /// A number outside the known ones.
    Undefined = 0,
    /// Text.
    Normal = 1,
    /// What stands for text that has no token.
    Unknown = 2,
    /// Steers the model and is no text, such as `<|im_start|>`.
    Control = 3,
    /// Text that is always a token of its own.
    UserDefined = 4,
    /// A place kept free.
    Unused = 5,
    /// One byte, `<0xNN>`.
    Byte = 6,
}

impl From<i32> for TokenKind {
    fn from(n: i32) -> Self {
        match n {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }
}

impl TokenizerSpec {
    /// Reads the metadata of `file`.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing or of the wrong type.
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let model = file.str(&key("model"))?.ok_or_else(|| {
            file.error(
                key("model"),
                "the file has no tokenizer; use a GGUF made with its tokenizer (llama.cpp's converter adds it)",
            )
        })?;
        let strings = |name: &str| -> Result<Strings> {
            let (key, mut list) = (key(name), Strings::new());
            file.each_string(&key, |n, text| {
                list.push(text)
                    .then_some(())
                    .ok_or_else(|| file.error(format!("{key}[{n}]"), "more than 4 GiB of text"))
            })?;
            Ok(list)
        };
        let present = |name: &str| file.entry(&key(name)).is_some();
        Ok(Self {
            path: file.path().to_path_buf(),
            model: model.to_owned(),
            pre: file.str(&key("pre"))?.unwrap_or_default().to_owned(),
            tokens: strings("tokens")?,
            types: if present("token_type") { file.i32s(&key("token_type"))? } else { Vec::new() },
            scores: if present("scores") { file.f32s(&key("scores"))? } else { Vec::new() },
            merges: if present("merges") { strings("merges")? } else { Strings::new() },
            bos: file.u32(&key("bos_token_id"))?,
            eos: file.u32(&key("eos_token_id"))?,
            eot: file.u32(&key("eot_token_id"))?,
            eom: file.u32(&key("eom_token_id"))?,
            unk: file.u32(&key("unknown_token_id"))?,
            pad: file.u32(&key("padding_token_id"))?,
            add_bos: file.bool(&key("add_bos_token"))?,
            add_eos: file.bool(&key("add_eos_token"))?,
            add_space_prefix: file.bool(&key("add_space_prefix"))?,
            // llama.cpp leaves these to unigram models.
            remove_extra_whitespaces: model == "t5" && file.bool(&key("remove_extra_whitespaces"))?.unwrap_or(false),
            charsmap: if model == "t5" && present("precompiled_charsmap") {
                file.i32s(&key("precompiled_charsmap"))?.into_iter().map(|b| b as u8).collect()
            } else {
                Vec::new()
            },
            prefix_once: false,
            whole_pieces: false,
        })
    }

    /// An error about `tokenizer.ggml.<name>`.
    pub(super) fn error(&self, name: &str, message: impl Into<String>) -> Error {
        Error::model(&self.path, format!("tokenizer.ggml.{name}"), message)
    }
}
