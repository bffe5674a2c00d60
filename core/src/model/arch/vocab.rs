//! The vocabulary of a GGUF file, checked before anything is read from it.

use super::limits;
use crate::error::Result;
use crate::model::gguf::{Gguf, ValueType};

/// `tokenizer.ggml.token_type` of a token that stands for one byte, `<0x0A>`.
const BYTE: i32 = 6;

/// Checks the vocabulary's arrays: types, one entry a row of the embedding, no token longer than [`limits::TOKEN`], and
/// byte tokens that name a byte. A file without a vocabulary passes: it may still be planned and timed.
///
/// # Errors
/// [`Error::Model`] naming the array or the element.
pub(super) fn check(gguf: &Gguf, vocab: u64) -> Result<()> {
    let types = "tokenizer.ggml.token_type";
    for (key, allowed) in
        [("tokenizer.ggml.tokens", ValueType::Str), ("tokenizer.ggml.scores", ValueType::F32), (types, ValueType::I32)]
    {
        let Some(array) = gguf.array(key)? else { continue };
        if array.ty != allowed {
            let message =
                format!("is an array of {}, an array of {allowed} is needed; convert the model again", array.ty);
            return Err(gguf.error(key, message));
        }
        if array.count != vocab {
            let message =
                format!("has {} entries, token_embd.weight has {vocab} rows; convert the model again", array.count);
            return Err(gguf.error(key, message));
        }
    }
    let key = "tokenizer.ggml.tokens";
    if !gguf.has(key) {
        return Ok(());
    }
    let types = if gguf.has(types) { gguf.i32s(types)? } else { Vec::new() };
    gguf.each_string(key, |n, token| {
        let wrong = |message: String| Err(gguf.error(format!("{key}[{n}]"), message));
        if token.len() > limits::TOKEN {
            return wrong(format!("is {} bytes long; at most {} are supported", token.len(), limits::TOKEN));
        }
        if types.get(n as usize) == Some(&BYTE) && byte_of(token).is_none() {
            let shown = token.escape_debug();
            return wrong(format!(
                "is marked as a byte token but reads `{shown}`, not `<0x00>` to `<0xFF>`; convert the model again"
            ));
        }
        Ok(())
    })
}

/// The byte a token such as `<0x0A>` stands for.
pub fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // `from_str_radix` alone would take a sign.
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
