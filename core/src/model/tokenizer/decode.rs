//! From tokens back to text as they are generated.

use super::Tokenizer;

/// Turns a stream of tokens into text, giving out only whole characters: one that spans tokens waits for its last byte.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes, `None` when it completes none; control tokens have no text. Bytes that can no longer become
    /// UTF-8 come out as U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<String> {
        if tokenizer.is_control(id) {
            return None;
        }
        tokenizer.piece_into(id, &mut self.pending);
        self.take(false)
    }

    /// The text of what is still pending at the end.
    pub fn finish(&mut self) -> Option<String> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Option<String> {
        let mut text = String::new();
        let mut kept = self.pending.len();
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let at_end = invalid.as_ptr_range().end == self.pending.as_ptr_range().end;
            // An unfinished character can only stand at the end.
            if !invalid.is_empty() && at_end && !all && unfinished(invalid) {
                kept = self.pending.len() - invalid.len();
            } else if !invalid.is_empty() {
                text.push('\u{fffd}');
            }
        }
        self.pending.drain(..kept);
        (!text.is_empty()).then_some(text)
    }
}

impl Tokenizer {
    /// What each of `ids` stands for in their text, control tokens spelled out: a character whose bytes are spread over several
    /// tokens stands with the last of them, the others have no text. Bytes that are no UTF-8 come out as U+FFFD.
    pub fn spell(&self, ids: &[u32]) -> Vec<String> {
        let mut decoder = Decoder::new();
        let mut texts: Vec<String> = Vec::with_capacity(ids.len());
        for &id in ids {
            if self.is_control(id) {
                let rest = decoder.finish();
                if let (Some(rest), Some(before)) = (rest, texts.last_mut()) {
                    before.push_str(&rest);
                }
                texts.push(String::from_utf8_lossy(&self.piece(id)).into_owned());
            } else {
                texts.push(decoder.push(self, id).unwrap_or_default());
            }
        }
        if let (Some(rest), Some(last)) = (decoder.finish(), texts.last_mut()) {
            last.push_str(&rest);
        }
        texts
    }
}

/// Whether more bytes could still make this a character.
fn unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
