//! Text to token ids and back, from the metadata of a GGUF file; ids are those of llama.cpp.
//!
//! Two kinds: byte-level BPE (`bpe.rs`, cut up front by `pre.rs`) and SentencePiece BPE (`spm.rs`). Both first look for special
//! tokens in the text. Merging is our own rather than the `tokenizers` crate's: its BPE wants every merge's product in the
//! vocabulary, and cannot order SentencePiece's merges by score; only its regular expressions are used. Everything a file says
//! is checked in [`Tokenizer::new`]; after that nothing can fail.

mod bpe;
mod decode;
mod foreign;
mod pre;
mod spec;
mod spm;
mod vocab;

pub use decode::Decoder;
pub use foreign::Foreign;
pub use spec::{TokenKind, TokenizerSpec};
pub use vocab::Strings;

use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::model::said::Rendered;
use vocab::Vocab;

/// Bytes of the longest token that is believed.
const LONGEST_TOKEN: usize = 16 << 10;
/// Most tokens and most merges that are believed; the largest real vocabularies have 262,144.
const MOST_TOKENS: usize = 1 << 22;

/// Tokens that end a turn or a text, by their text, where the file does not name them; from llama.cpp.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Fill-in-the-middle: padding, the next file, the next repository.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|file_sep|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
];

/// Further tokens that are control tokens whatever their type says; from llama.cpp.
const CONTROLS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// The tokenizer of one model. Holds 2.4 MB for 49,152 tokens, counted under `program`.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    kinds: Vec<TokenKind>,
    model: Model,
    /// Tokens looked for in the text before anything else, the longest first.
    special: Vec<u32>,
    ends: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
}

#[derive(Debug)]
enum Model {
    Bpe { bpe: bpe::Bpe, splitter: pre::Splitter, whole_words: bool },
    Spm(spm::Spm),
    Foreign(Foreign),
}

/// A stretch of the input: text still to be encoded, with its first byte's place in the whole; or a special token.
#[derive(Clone, Copy)]
enum Fragment<'t> {
    Text(usize, &'t str),
    Token(u32),
}

impl Tokenizer {
    /// Reads and builds the tokenizer of `file`.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key that is missing, of the wrong type or inconsistent.
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        Self::new(TokenizerSpec::from_gguf(file)?)
    }

    /// Builds a tokenizer from what a file says, after checking it.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key that is inconsistent: an unknown model or pre-tokenizer, an empty vocabulary, arrays of
    /// different lengths, a token that is too long or there twice, a byte token that is no byte, a score that is no number, a merge that is
    /// not two texts, an id beyond the vocabulary.
    pub fn new(mut spec: TokenizerSpec) -> Result<Self> {
        let vocab = check_vocab(&mut spec)?;
        let count = vocab.len();
        let id = |name: &str, given: Option<u32>, default: Option<u32>| match given {
            Some(id) if id as usize >= count => Err(spec.error(name, format!("{id} is not one of the {count} tokens"))),
            given => Ok(given.or(default.filter(|&id| (id as usize) < count))),
        };
        let pre_name = if spec.pre.is_empty() { "default" } else { &spec.pre };
        let (pre, bos, eos, unk) = match spec.model.as_str() {
            "gpt2" => {
                let pre = pre::find(pre_name).ok_or_else(|| {
                    spec.error(
                        "pre",
                        format!("the pre-tokenizer `{pre_name}` is not known; known are: {}", pre::known()),
                    )
                })?;
                (Some(pre), pre.has_bos.then_some(11), Some(11), None)
            }
            "llama" => (None, Some(1), Some(2), Some(0)),
            other => {
                let message = format!(
                    "the tokenizer `{other}` is not known; known are `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE)"
                );
                return Err(spec.error("model", message));
            }
        };
        let bos = id("bos_token_id", spec.bos, bos)?;
        let eos = id("eos_token_id", spec.eos, eos)?;
        let unk = id("unknown_token_id", spec.unk, unk)?;
        let pad = id("padding_token_id", spec.pad, None)?;
        let named = [eos, id("eot_token_id", spec.eot, None)?, id("eom_token_id", spec.eom, None)?];
        let add_bos = wants(&spec, "bos", spec.add_bos, bos, pre.is_none_or(|p| p.add_bos))?;
        let add_eos = wants(&spec, "eos", spec.add_eos, eos, false)?;

        let (kinds, ends) = kinds(&spec, &vocab, &named);
        let special = specials(&kinds, &vocab);

        let mut vocab = vocab;
        let model = match pre {
            None => Model::Spm(spm::Spm::new(&vocab, &spec.scores, unk)),
            Some(pre) => {
                let bpe = bpe::Bpe::new(&mut vocab, &spec.merges).map_err(|n| {
                    let merge = spec.merges.get(n).unwrap_or_default();
                    spec.error(
                        &format!("merges[{n}]"),
                        format!("`{}` is not two texts with a space between", short(merge)),
                    )
                })?;
                Model::Bpe { bpe, splitter: pre::Splitter::new(&pre)?, whole_words: pre.ignore_merges }
            }
        };
        let space_prefix = spec.add_space_prefix.unwrap_or(pre.is_none()) && pre.is_none();
        Ok(Self { vocab, kinds, model, special, ends, bos, eos, unk, pad, add_bos, add_eos, space_prefix })
    }

    /// A tokenizer around one of the `tokenizers` crate's, with what `spec` says of its tokens; `spec.model` and merges are of
    /// no account.
    ///
    /// # Errors
    /// As [`Self::new`], for what concerns tokens.
    pub fn foreign(mut spec: TokenizerSpec, foreign: Foreign) -> Result<Self> {
        let vocab = check_vocab(&mut spec)?;
        let named = [spec.eos, spec.eot, spec.eom];
        let within = |id: &Option<u32>| id.is_none_or(|id| (id as usize) < vocab.len());
        if !named.iter().chain([&spec.bos, &spec.unk, &spec.pad]).all(within) {
            return Err(spec.error("tokens", "a special token's id is not one of the vocabulary"));
        }
        let (kinds, ends) = kinds(&spec, &vocab, &named);
        let special = specials(&kinds, &vocab);
        let add_bos = spec.add_bos.unwrap_or(false) && spec.bos.is_some();
        let add_eos = spec.add_eos.unwrap_or(false) && spec.eos.is_some();
        let TokenizerSpec { bos, eos, unk, pad, .. } = spec;
        let space_prefix = !foreign.byte_level;
        let model = Model::Foreign(foreign);
        Ok(Self { vocab, kinds, model, special, ends, bos, eos, unk, pad, add_bos, add_eos, space_prefix })
    }

    /// The ids of `text`. With `add_special`, the beginning and end tokens that the model asks for are added; with `parse_special`,
    /// the texts of control tokens in `text` become those tokens (for templates, never for what a user typed).
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        self.encode_but(text, add_special, parse_special.then_some(&[] as &[usize]))
    }

    /// The ids of a piece of a rendered conversation: its markers are control tokens, and what was said is text.
    pub fn encode_rendered(&self, piece: &Rendered) -> Vec<u32> {
        self.encode_but(&piece.text, false, Some(&piece.literal))
    }

    /// The bytes of `text` at which it spells a token that is found only where control tokens are parsed; rising.
    pub fn spelled(&self, text: &str) -> Vec<usize> {
        let mut out = Vec::new();
        let letters = letters(text);
        for special in self.special.iter().filter(|id| self.kinds[**id as usize] != TokenKind::UserDefined) {
            let special = self.vocab.text(*special);
            if !special.bytes().all(|b| letters[b as usize]) {
                continue;
            }
            let mut from = 0;
            while let Some(at) = text[from..].find(special).map(|at| from + at) {
                out.push(at);
                from = at + first_letter(special);
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// As [`Self::encode`]: `parse` are the bytes at which no control token is meant, where they are parsed at all.
    fn encode_but(&self, text: &str, add_special: bool, parse: Option<&[usize]>) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        out.extend(self.bos.filter(|_| add_special && self.add_bos));
        let mut scratch = bpe::Scratch::default();
        let mut buffer = String::new();
        let mut after_special = true;
        for fragment in self.fragments(text, parse) {
            match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                }
                Fragment::Text(_, text) => {
                    match &self.model {
                        Model::Bpe { bpe, splitter, whole_words } => {
                            splitter.split(text, &mut |word| match whole_words
                                .then(|| bpe.whole(&self.vocab, word, &mut buffer))
                                .flatten()
                            {
                                Some(id) => out.push(id),
                                None => bpe.encode(&self.vocab, word, &mut scratch, &mut out),
                            })
                        }
                        Model::Spm(spm) => {
                            buffer.clear();
                            if self.space_prefix && after_special {
                                buffer.push_str(spm::SPACE);
                            }
                            for (n, part) in text.split(' ').enumerate() {
                                buffer.push_str(if n == 0 { "" } else { spm::SPACE });
                                buffer.push_str(part);
                            }
                            spm.encode(&self.vocab, &buffer, &mut out);
                        }
                        Model::Foreign(foreign) => foreign.encode(text, self.unk, &mut out),
                    }
                    after_special = false;
                }
            }
        }
        out.extend(self.eos.filter(|_| add_special && self.add_eos));
        out
    }

    /// Cuts `text` at special tokens: the longest first over the whole text, then the next.
    fn fragments<'t>(&self, text: &'t str, parse: Option<&[usize]>) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if text.is_empty() {
            return fragments;
        }
        fragments.push(Fragment::Text(0, text));
        let bytes = letters(text);
        for &id in &self.special {
            let special = self.vocab.text(id);
            let always = self.kinds[id as usize] == TokenKind::UserDefined;
            let Some(literal) = (if always { Some(&[][..]) } else { parse }) else { continue };
            if !special.bytes().all(|b| bytes[b as usize]) || !text.contains(special) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(mut start, mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                let mut from = 0;
                while let Some(at) = rest[from..].find(special).map(|at| from + at) {
                    if literal.binary_search(&(start + at)).is_ok() {
                        from = at + first_letter(special);
                        continue;
                    }
                    cut.extend((at > 0).then_some(Fragment::Text(start, &rest[..at])));
                    cut.push(Fragment::Token(id));
                    (start, rest, from) = (start + at + special.len(), &rest[at + special.len()..], 0);
                }
                cut.extend((!rest.is_empty()).then_some(Fragment::Text(start, rest)));
            }
            fragments = cut;
        }
        fragments
    }

    /// The text of `ids` without control tokens and without the space that SentencePiece put in front. Bytes that are no UTF-8 come
    /// out as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids.iter().filter(|&&id| !self.is_control(id)) {
            self.piece_into(id, &mut bytes);
        }
        if self.space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token, control tokens spelled out; empty for an id beyond the vocabulary.
    pub fn piece(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.piece_into(id, &mut bytes);
        bytes
    }

    fn piece_into(&self, id: u32, out: &mut Vec<u8>) {
        let Some(kind) = self.kinds.get(id as usize) else { return };
        let text = self.vocab.text(id);
        match (kind, &self.model) {
            (TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined, _) => out.extend(text.bytes()),
            (TokenKind::Normal, Model::Spm(_) | Model::Foreign(Foreign { byte_level: false, .. })) => {
                out.extend(text.replace(spm::SPACE, " ").bytes());
            }
            (TokenKind::Normal, Model::Bpe { .. } | Model::Foreign(_)) => {
                for c in text.chars() {
                    match bpe::char_to_byte(c) {
                        Some(byte) => out.push(byte),
                        None => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                    }
                }
            }
            (TokenKind::Byte, _) => out.extend(spm::byte_of(text)),
            (TokenKind::Unused | TokenKind::Undefined, _) => {}
        }
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.kinds.len()
    }

    /// The token's text as the file spells it, such as `Ġthe`; empty for an id beyond the vocabulary.
    pub fn token(&self, id: u32) -> &str {
        if (id as usize) < self.kinds.len() { self.vocab.text(id) } else { "" }
    }

    /// The id of the token that the file spells `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.find(text).filter(|&id| (id as usize) < self.kinds.len())
    }

    /// Whether `id` steers the model and is no text (the unknown token included).
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// What kind of token `id` is.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Whether generation ends at `id`: the end of the text, of a turn or of a message.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// Beginning of text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what has none.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Whether [`Self::encode`] adds the beginning-of-text token when asked for special tokens.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Heap bytes of the tables, compiled patterns left out.
    pub fn heap_bytes(&self) -> usize {
        let model = match &self.model {
            Model::Bpe { bpe, .. } => bpe.heap_bytes(),
            Model::Spm(spm) => spm.heap_bytes(),
            // The crate does not tell.
            Model::Foreign(_) => 0,
        };
        self.vocab.heap_bytes() + self.kinds.capacity() + (self.special.capacity() + self.ends.capacity()) * 4 + model
    }
}

/// Which bytes occur in `text`.
fn letters(text: &str) -> [bool; 256] {
    let mut out = [false; 256];
    text.bytes().for_each(|b| out[b as usize] = true);
    out
}

/// Bytes of the first letter of a token's text, which is never empty.
fn first_letter(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

/// The vocabulary of `spec`, which is left without it, once its arrays agree.
fn check_vocab(spec: &mut TokenizerSpec) -> Result<Vocab> {
    let count = spec.tokens.len();
    if count == 0 {
        return Err(spec.error("tokens", "the vocabulary is empty"));
    }
    for (name, len) in [("tokens", count), ("merges", spec.merges.len())] {
        if len > MOST_TOKENS {
            return Err(spec.error(name, format!("{len} entries; at most {MOST_TOKENS} are believed")));
        }
    }
    let scores_needed = spec.model == "llama";
    for (name, len, needed) in [("token_type", spec.types.len(), false), ("scores", spec.scores.len(), scores_needed)] {
        if len != count && (needed || len != 0) {
            return Err(spec.error(name, format!("{len} entries for {count} tokens")));
        }
    }
    if let Some(n) = spec.scores.iter().position(|s| s.is_nan()) {
        return Err(spec.error(&format!("scores[{n}]"), "not a number"));
    }
    if let Some((n, text)) = spec.tokens.iter().enumerate().find(|(_, text)| text.len() > LONGEST_TOKEN) {
        let message = format!("a token of {} bytes; at most {LONGEST_TOKEN} are believed", text.len());
        return Err(spec.error(&format!("tokens[{n}]"), message));
    }
    for (n, text) in spec.tokens.iter().enumerate() {
        if spec.types.get(n) == Some(&(TokenKind::Byte as i32)) && spm::byte_of(text).is_none() {
            let message = format!("`{}` is typed as a byte and does not spell one, such as <0x0A>", short(text));
            return Err(spec.error(&format!("tokens[{n}]"), message));
        }
    }
    let mut tokens = std::mem::take(&mut spec.tokens);
    if tokens.iter().any(str::is_empty) {
        // An empty text could be found everywhere.
        tokens = tokens
            .iter()
            .enumerate()
            .map(|(n, text)| if text.is_empty() { format!("[EMPTY_{n}]") } else { text.to_owned() })
            .collect();
    }
    Vocab::new(tokens).map_err(|(first, second, text)| {
        spec.error(&format!("tokens[{second}]"), format!("`{}` is there already, as token {first}", short(&text)))
    })
}

/// The kind of every token, and the ids that end generation, in order.
fn kinds(spec: &TokenizerSpec, vocab: &Vocab, named_ends: &[Option<u32>]) -> (Vec<TokenKind>, Vec<u32>) {
    let mut kinds: Vec<TokenKind> = match spec.types.len() {
        0 => vec![TokenKind::Normal; vocab.len()],
        _ => spec.types.iter().map(|&n| TokenKind::from(n)).collect(),
    };
    let mut ends: Vec<u32> = ENDS.iter().filter_map(|text| vocab.find(text)).collect();
    // Some files type such tokens as text.
    for id in ends.iter().copied().chain(CONTROLS.iter().filter_map(|text| vocab.find(text))) {
        kinds[id as usize] = TokenKind::Control;
    }
    ends.extend(named_ends.iter().flatten());
    ends.sort_unstable();
    ends.dedup();
    (kinds, ends)
}

/// Tokens looked for in a text before anything else, the longest first.
fn specials(kinds: &[TokenKind], vocab: &Vocab) -> Vec<u32> {
    let mut out: Vec<u32> = (0..kinds.len() as u32)
        .filter(|&id| matches!(kinds[id as usize], TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown))
        .collect();
    // Stable: of two as long as each other, the lower id.
    out.sort_by_key(|&id| std::cmp::Reverse(vocab.text(id).len()));
    out
}

/// Whether the `bos` or `eos` token is added: what the file says, which has to be possible, or else the default.
fn wants(spec: &TokenizerSpec, name: &str, given: Option<bool>, id: Option<u32>, default: bool) -> Result<bool> {
    match (given, id) {
        (Some(true), None) => {
            Err(spec.error(&format!("add_{name}_token"), format!("is true, but the file names no {name}_token_id")))
        }
        (given, id) => Ok(given.unwrap_or(default) && id.is_some()),
    }
}

/// At most 40 characters of a text from a file.
fn short(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}
