//! A tokenizer that only the `tokenizers` crate knows: the way out for `tokenizer.json` files that say what ours has not.

/// The crate's tokenizer, and how its tokens spell bytes.
#[derive(Debug)]
pub struct Foreign {
    inner: Box<tokenizers::Tokenizer>,
    /// Tokens are GPT-2's stand-ins for bytes; otherwise text in which ▁ is a space.
    pub(super) byte_level: bool,
}

impl Foreign {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The crate's words for what is wrong.
    pub fn new(json: &[u8], byte_level: bool) -> Result<Self, String> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        // Special tokens are found by us, where they are asked for: what a user typed stays text.
        inner.set_encode_special_tokens(true);
        Ok(Self { inner: Box::new(inner), byte_level })
    }

    /// Appends the ids of `text`; what the file has no token for becomes `unk`.
    pub(super) fn encode(&self, text: &str, unk: Option<u32>, out: &mut Vec<u32>) {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => out.extend_from_slice(encoding.get_ids()),
            Err(_) => out.extend(unk),
        }
    }
}
