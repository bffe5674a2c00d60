//! Text to token ids and back.
//!
//! From the metadata of a GGUF file the ids are llama.cpp's. Two kinds: byte-level BPE (`bpe.rs`, cut up front by `pre.rs`) and
//! SentencePiece BPE (`spm.rs`). Both first look for special tokens in the text. Merging is our own rather than the `tokenizers`
//! crate's: its BPE wants every merge's product in the vocabulary, and cannot order SentencePiece's merges by score; only its
//! regular expressions are used. Everything a file says is checked in [`Tokenizer::new`].
//!
//! What comes with a Hugging Face folder, and a GGUF file's unigram model, is a pipeline of the `tokenizers` crate (`foreign.rs`),
//! which gets every text whole. `json.rs` writes a GGUF file's tokenizer as such a pipeline.

mod bpe;
mod decode;
mod encoded;
mod foreign;
pub mod json;
mod pre;
mod spec;
mod spm;
mod vocab;

pub(crate) use bpe::byte_to_char;
pub use decode::Decoder;
pub use encoded::Encoded;
pub use foreign::Foreign;
pub use spec::{TokenKind, TokenizerSpec};
pub use vocab::Strings;

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::said::Rendered;
use encoded::Stretched;
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

/// A stretch of the input, with its first byte's place in the whole: text still to be encoded, or a special token.
#[derive(Clone, Copy)]
enum Fragment<'t> {
    Text(usize, &'t str),
    Token(usize, u32),
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
        if spec.model == "t5" {
            return Self::unigram(spec);
        }
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
                    "the tokenizer `{other}` is not known; known are `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) and `t5` \
                     (unigram)"
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

    /// A unigram model, through the crate's pipeline.
    fn unigram(mut spec: TokenizerSpec) -> Result<Self> {
        let count = spec.tokens.len();
        let within = |id: &u32| (*id as usize) < count;
        spec.eos = spec.eos.or(Some(1)).filter(within);
        spec.unk = spec.unk.or(Some(2)).filter(within);
        spec.add_bos = Some(spec.add_bos.unwrap_or(false));
        spec.add_eos = Some(spec.add_eos.unwrap_or(true));
        let wrong = |e: String| Error::model(&spec.path, "tokenizer.ggml.tokens", e);
        let json = serde_json::to_vec(&json::pipeline(&spec)?).map_err(|e| wrong(e.to_string()))?;
        let foreign = Foreign::new(&json).map_err(wrong)?;
        let named = [spec.eos, spec.eot, spec.eom];
        let (kinds, ends) = kinds(&spec, &check_vocab(&mut spec.clone())?, &named);
        spec.types = kinds.iter().map(|kind| *kind as i32).collect();
        Self::foreign(spec, foreign, &ends)
    }

    /// Writes into `spec`, from which this was built, what holds: kinds, ids by default, and what is added.
    pub fn settle(&self, spec: &mut TokenizerSpec) {
        spec.types = self.kinds.iter().map(|kind| *kind as i32).collect();
        (spec.bos, spec.eos, spec.unk, spec.pad) = (self.bos, self.eos, self.unk, self.pad);
        (spec.add_bos, spec.add_eos) = (Some(self.add_bos), Some(self.add_eos));
        if spec.model != "gpt2" {
            spec.add_space_prefix = Some(self.space_prefix);
        }
        if spec.tokens.iter().any(str::is_empty) {
            spec.tokens = (0..self.kinds.len()).map(|id| self.vocab.text(id as u32)).collect();
        }
    }

    /// A tokenizer around one of the `tokenizers` crate's, with what `spec` says of its tokens; model, merges and what is added
    /// are the pipeline's own. `ends` end generation.
    ///
    /// # Errors
    /// As [`Self::new`], for what concerns tokens.
    pub fn foreign(mut spec: TokenizerSpec, foreign: Foreign, ends: &[u32]) -> Result<Self> {
        let vocab = check_vocab(&mut spec)?;
        let count = vocab.len();
        if ![spec.bos, spec.eos, spec.unk, spec.pad].iter().flatten().chain(ends).all(|id| (*id as usize) < count) {
            return Err(spec.error("tokens", "a special token's id is not one of the vocabulary"));
        }
        let kinds =
            spec.types.iter().map(|&n| TokenKind::from(n)).chain(std::iter::repeat(TokenKind::Normal)).take(count);
        let mut ends = ends.to_vec();
        ends.sort_unstable();
        ends.dedup();
        let added = foreign.encode("", true, None).map(|e| e.ids).unwrap_or_default();
        let TokenizerSpec { bos, eos, unk, pad, .. } = spec;
        Ok(Self {
            vocab,
            kinds: kinds.collect(),
            space_prefix: foreign.space_prefix,
            model: Model::Foreign(foreign),
            special: Vec::new(),
            ends,
            bos,
            eos,
            unk,
            pad,
            add_bos: bos.is_some() && added.first() == bos.as_ref(),
            add_eos: eos.is_some() && added.last() == eos.as_ref(),
        })
    }

    /// The pipeline as a `tokenizer.json`, where it is one.
    pub fn pipeline(&self) -> Option<&Foreign> {
        match &self.model {
            Model::Foreign(foreign) => Some(foreign),
            _ => None,
        }
    }

    /// The ids of `text`. With `add_special`, the beginning and end tokens that the model asks for are added; with `parse_special`,
    /// the texts of control tokens in `text` become those tokens (for templates, never for what a user typed). Where a folder's own
    /// pipeline fails there is none: [`Self::encode_spans`] says why.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        self.encode_spans(text, add_special, parse_special.then_some(&[])).map(|e| e.ids).unwrap_or_default()
    }

    /// The ids of a piece of a rendered conversation: its markers are control tokens, and what was said is text.
    pub fn encode_rendered(&self, piece: &Rendered) -> Vec<u32> {
        self.encode_spans(&piece.text, false, Some(&piece.literal)).map(|e| e.ids).unwrap_or_default()
    }

    /// The bytes of `text` at which it spells a token that is found only where control tokens are parsed; rising.
    pub fn spelled(&self, text: &str) -> Vec<usize> {
        if let Model::Foreign(foreign) = &self.model {
            return foreign.spelled(text);
        }
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

    /// The tokens of `text` with their places. `parse` are the bytes at which no control token is meant, where they are parsed at
    /// all; without it every text that spells one is text.
    ///
    /// # Errors
    /// [`Error::Refused`] where a folder's own pipeline has no tokens for the text.
    pub fn encode_spans(&self, text: &str, add_special: bool, parse: Option<&[usize]>) -> Result<Encoded> {
        if let Model::Foreign(foreign) = &self.model {
            return foreign.encode(text, add_special, parse).map_err(|why| Error::refused("this text", why));
        }
        let mut out = Encoded::for_text(text.len());
        self.bos.filter(|_| add_special && self.add_bos).inspect(|id| out.push(*id, 0, 0));
        let mut scratch = bpe::Scratch::default();
        let mut buffer = String::new();
        let mut after_special = true;
        for fragment in self.fragments(text, parse) {
            match fragment {
                Fragment::Token(start, id) => {
                    out.push(id, start, start + self.vocab.text(id).len());
                    after_special = true;
                }
                Fragment::Text(start, text) => {
                    self.encode_text(text, start, after_special, &mut scratch, &mut buffer, &mut out);
                    after_special = false;
                }
            }
        }
        self.eos.filter(|_| add_special && self.add_eos).inspect(|id| out.push(*id, text.len(), text.len()));
        Ok(out)
    }

    /// Appends the tokens of a stretch without special tokens, which begins at byte `start` of the whole.
    fn encode_text(
        &self,
        text: &str,
        start: usize,
        after_special: bool,
        scratch: &mut bpe::Scratch,
        buffer: &mut String,
        out: &mut Encoded,
    ) {
        match &self.model {
            Model::Bpe { bpe, splitter, whole_words } => {
                let mut at = start;
                splitter.split(text, &mut |word| {
                    match whole_words.then(|| bpe.whole(&self.vocab, word, buffer)).flatten() {
                        Some(id) => out.push(id, at, at + word.len()),
                        None => bpe.encode(&self.vocab, word, scratch, &mut |id, a, b| out.push(id, at + a, at + b)),
                    }
                    at += word.len();
                });
            }
            Model::Spm(spm) => {
                buffer.clear();
                if self.space_prefix && after_special {
                    buffer.push_str(spm::SPACE);
                }
                let mut places = Stretched::new(text, buffer.len(), spm::SPACE.len());
                for (n, part) in text.split(' ').enumerate() {
                    buffer.push_str(if n == 0 { "" } else { spm::SPACE });
                    buffer.push_str(part);
                }
                let mut last = (0, (0, 0));
                spm.encode(&self.vocab, buffer, &mut |id, a, b| {
                    // Byte tokens of one character share its place.
                    if last.0 != b {
                        last = (b, (places.place(a), places.place(b)));
                    }
                    let (a, b) = last.1;
                    out.push(id, start + a, start + b);
                });
            }
            Model::Foreign(_) => {}
        }
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
                    cut.push(Fragment::Token(start + at, id));
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
            // A pipeline's decoder turns what was added as well: Gemma's runs of spaces.
            (TokenKind::Normal, Model::Spm(_))
            | (TokenKind::Normal | TokenKind::UserDefined, Model::Foreign(Foreign { byte_level: false, .. })) => {
                out.extend(text.replace(spm::SPACE, " ").bytes());
            }
            (TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined, _) => out.extend(text.bytes()),
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

    /// Every token at which generation ends, rising.
    pub fn ends(&self) -> &[u32] {
        &self.ends
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
    let scores_needed = matches!(&*spec.model, "llama" | "t5");
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
