//! A pipeline of the `tokenizers` crate: what comes with a Hugging Face folder.
//!
//! A text goes through it whole, special tokens included: added tokens that take in blanks, a normalizer, a space that is put in
//! front, and what the post-processor adds are the file's own. One thing the crate has not: a text in which one place that spells a
//! special token means it, and another does not. Then the crate's first stage, which looks for added tokens, is done here by the
//! crate's rules, and leaves those places to the stages that follow.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::normalizer::Range as At;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token,
};

use super::encoded::Encoded;

/// The crate's tokenizer, and how its tokens spell bytes.
#[derive(Debug)]
pub struct Foreign {
    inner: Box<tokenizers::Tokenizer>,
    /// Tokens are GPT-2's stand-ins for bytes; otherwise text in which ▁ is a space.
    pub(super) byte_level: bool,
    /// The decoder takes away a space at the beginning.
    pub(super) space_prefix: bool,
    /// What has no token becomes tokens that spell its bytes, `<0xNN>`.
    byte_fallback: bool,
    added: OnceLock<Result<Added, String>>,
}

/// The added tokens, by the stage in which they are looked for.
#[derive(Debug)]
struct Added {
    tokens: Vec<(u32, AddedToken)>,
    plain: Stage,
    normalized: Stage,
}

#[derive(Debug)]
struct Stage {
    find: AhoCorasick,
    /// For each pattern its place in [`Added::tokens`].
    of: Vec<usize>,
}

/// A stretch of a piece, and the place in [`Added::tokens`] of the token it is.
type Cut = (Option<usize>, Range<usize>);

impl Foreign {
    /// Reads a `tokenizer.json`. Truncation, padding and dropout are of a training's batches, and no part of what a text is.
    ///
    /// # Errors
    /// The crate's words for what is wrong.
    pub fn new(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.set_encode_special_tokens(false);
        if let tokenizers::ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            inner.with_model(bpe);
        }
        let part = |v: serde_json::Result<String>| v.unwrap_or_default();
        let decoder = part(serde_json::to_string(&inner.get_decoder()));
        let pre = part(serde_json::to_string(&inner.get_pre_tokenizer()));
        let byte_level = [&decoder, &pre].into_iter().any(|part| part.contains("\"type\":\"ByteLevel\""));
        let first = |kind: &str, but: &str| decoder.contains(kind) && !decoder.contains(but);
        let space_prefix = first("\"type\":\"Strip\"", "\"start\":0")
            || first("\"type\":\"Metaspace\"", "\"prepend_scheme\":\"never\"");
        let byte_fallback = decoder.contains("\"type\":\"ByteFallback\"")
            || match inner.get_model() {
                tokenizers::ModelWrapper::BPE(bpe) => bpe.byte_fallback,
                tokenizers::ModelWrapper::Unigram(unigram) => unigram.byte_fallback(),
                _ => false,
            };
        Ok(Self { inner: Box::new(inner), byte_level, space_prefix, byte_fallback, added: OnceLock::new() })
    }

    /// Whether tokens that spell a byte, `<0xNN>`, are that byte.
    pub fn byte_fallback(&self) -> bool {
        self.byte_fallback
    }

    /// As a `tokenizer.json`.
    ///
    /// # Errors
    /// The crate's words.
    pub fn json(&self) -> Result<String, String> {
        self.inner.to_string(false).map_err(|e| e.to_string())
    }

    /// Makes control tokens of texts that a configuration names as such and the file does not.
    ///
    /// # Errors
    /// The crate's words.
    pub fn add(&mut self, tokens: Vec<AddedToken>) -> Result<(), String> {
        self.inner.add_special_tokens(tokens).map_err(|e| e.to_string())?;
        self.added = OnceLock::new();
        Ok(())
    }

    /// Every token's text and id, and whether it was added: `Some(true)` as one that is no text.
    pub fn tokens(&self) -> impl Iterator<Item = (String, u32, Option<bool>)> {
        let added = self.inner.get_added_tokens_decoder();
        let mut tokens: Vec<_> = self
            .inner
            .get_vocab(true)
            .into_iter()
            .map(|(text, id)| {
                let special = added.get(&id).filter(|t| t.content == text).map(|t| t.special);
                (text, id, special)
            })
            .collect();
        // Of two texts with one id, the added one; the order of a map is no order.
        tokens.sort_by(|a, b| (a.1, a.2.is_some(), &a.0).cmp(&(b.1, b.2.is_some(), &b.0)));
        tokens.into_iter()
    }

    /// The tokens of `text`; `parse` as for [`super::Tokenizer::encode_spans`].
    pub(super) fn encode(&self, text: &str, special: bool, parse: Option<&[usize]>) -> Result<Encoded, String> {
        guarded(|| self.encoded(text, special, parse))
    }

    fn encoded(&self, text: &str, special: bool, parse: Option<&[usize]>) -> Result<Encoded, String> {
        let literal = |place: Range<usize>| match parse {
            None => true,
            Some(places) => {
                let first = places.partition_point(|at| *at < place.start);
                places.get(first).is_some_and(|at| *at < place.end)
            }
        };
        let pieces = match parse {
            Some([]) => self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text),
            _ => self.extract(text, false, &mut |place| literal(place))?,
        };
        let out = self.finish(pieces, text.len(), special)?;
        if parse.is_some_and(<[usize]>::is_empty) {
            return Ok(out);
        }
        // Some models spell their special tokens as pieces of text. Cut in two, such a place is none.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let slipped = out.ids.iter().zip(&out.spans).any(|(id, (start, end))| {
            let spelled = |content: &str| text.get(*start..*end).is_some_and(|text| text.contains(content));
            let special = || added.get(id).is_some_and(|t| t.special && spelled(&t.content));
            start < end && literal(*start..*end) && special()
        });
        match slipped {
            true => self.finish(self.extract(text, true, &mut |place| literal(place))?, text.len(), special),
            false => Ok(out),
        }
    }

    /// The stages after added tokens were looked for, of a text of `len` bytes.
    fn finish(&self, mut pieces: PreTokenizedString, len: usize, special: bool) -> Result<Encoded, String> {
        let said = |e: tokenizers::Error| e.to_string();
        if let Some(pre) = self.inner.get_pre_tokenizer() {
            pre.pre_tokenize(&mut pieces).map_err(said)?;
        }
        let model = self.inner.get_model();
        model.tokenize_in_pretokenized(&mut pieces, None).map_err(said)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte).map_err(said)?;
        // As they are before the post-processor, which may take blanks off them.
        let spans = encoding.get_offsets().to_vec();
        let whole = self.inner.post_process(encoding, None, special).map_err(said)?;
        let (mut of_text, mut before) = (spans.iter(), true);
        let spans = whole.get_special_tokens_mask().iter().map(|added| {
            let next = if *added == 0 { of_text.next() } else { None };
            before &= next.is_none();
            next.copied().unwrap_or(if before { (0, 0) } else { (len, len) })
        });
        Ok(Encoded { spans: spans.collect(), ids: whole.get_ids().to_vec() })
    }

    /// The bytes of `text` at which it spells a special token; rising. None where the file's normalizer fails.
    pub(super) fn spelled(&self, text: &str) -> Vec<usize> {
        let mut out = Vec::new();
        let found = guarded(|| {
            let pieces = self.extract(text, false, &mut |place| {
                out.push(place.start);
                true
            });
            pieces.map(drop)
        });
        out.sort_unstable();
        out.dedup();
        if found.is_ok() { out } else { Vec::new() }
    }

    /// The pieces of `text`, normalized, with added tokens found. `literal` is asked of every special token, by its place in the
    /// text, whether it is text there; `apart` cuts the text within such a place.
    fn extract(
        &self,
        text: &str,
        apart: bool,
        literal: &mut dyn FnMut(Range<usize>) -> bool,
    ) -> Result<PreTokenizedString, String> {
        let added = self.added.get_or_init(|| Added::new(&self.inner)).as_ref().map_err(Clone::clone)?;
        let mut pieces = PreTokenizedString::from(text);
        let said = |e: tokenizers::Error| e.to_string();
        pieces.split(|_, piece| Ok(added.cut(&added.plain, piece, apart, literal))).map_err(said)?;
        let normalizer = self.inner.get_normalizer();
        pieces
            .split(|_, mut piece| {
                // As the crate does: a piece that cannot be normalized stays as it is.
                let _ = normalizer.map(|n| n.normalize(&mut piece));
                Ok(added.cut(&added.normalized, piece, apart, literal))
            })
            .map_err(said)?;
        Ok(pieces)
    }
}

impl Added {
    fn new(inner: &tokenizers::Tokenizer) -> Result<Self, String> {
        let mut tokens: Vec<(u32, AddedToken)> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, t)| !t.content.is_empty()).collect();
        tokens.sort_by_key(|(id, _)| *id);
        let stage = |normalized: bool| {
            let of: Vec<usize> = (0..tokens.len()).filter(|i| tokens[*i].1.normalized == normalized).collect();
            let mut patterns = Vec::with_capacity(of.len());
            for i in &of {
                let mut pattern = NormalizedString::from(&*tokens[*i].1.content);
                if let Some(n) = inner.get_normalizer().filter(|_| normalized) {
                    n.normalize(&mut pattern).map_err(|e| e.to_string())?;
                }
                patterns.push(pattern.get().to_owned());
            }
            // A token that is normalized to nothing is found nowhere.
            let (of, patterns): (Vec<usize>, Vec<String>) =
                of.into_iter().zip(patterns).filter(|(_, pattern)| !pattern.is_empty()).unzip();
            let find = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
                .map_err(|e| format!("its added tokens cannot be looked for: {e}"))?;
            Ok::<_, String>(Stage { find, of })
        };
        let (plain, normalized) = (stage(false)?, stage(true)?);
        Ok(Self { tokens, plain, normalized })
    }

    /// Cuts a piece at the tokens of `stage`.
    fn cut(
        &self,
        stage: &Stage,
        piece: NormalizedString,
        apart: bool,
        literal: &mut dyn FnMut(Range<usize>) -> bool,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let shift = piece.offsets_original().0;
        let place = |range: Range<usize>| -> Range<usize> {
            let of = piece.convert_offsets(At::Normalized(range)).unwrap_or(0..0);
            shift + of.start..shift + of.end
        };
        let mut cuts: Vec<Cut> = Vec::new();
        let text = piece.get();
        let mut done = 0;
        for found in stage.find.find_iter(text) {
            let Some(at) = stage.of.get(found.pattern().as_usize()).copied() else { continue };
            let token = &self.tokens[at].1;
            let (mut start, mut end) = (found.start(), found.end());
            // As the crate does where special tokens are text: what was found is passed over, and nothing looked for in it.
            if token.special && literal(place(found.start()..found.end())) {
                if apart {
                    let middle = start + text[start..].chars().next().map_or(0, char::len_utf8);
                    if done < middle {
                        cuts.push((None, done..middle));
                        done = middle;
                    }
                }
                continue;
            }
            let (before, after) = (&text[..start], &text[end..]);
            let in_word = before.chars().next_back().is_some_and(of_word) || after.chars().next().is_some_and(of_word);
            if token.single_word && in_word {
                continue;
            }
            if token.lstrip {
                start = before.trim_end().len().max(done);
            }
            if token.rstrip {
                end += after.len() - after.trim_start().len();
            }
            if done < start {
                cuts.push((None, done..start));
            }
            cuts.push((Some(at), start..end));
            done = end;
        }
        if done < text.len() || cuts.is_empty() {
            cuts.push((None, done..text.len()));
        }
        let slices = cuts.into_iter().filter_map(|(token, range)| {
            let slice = piece.slice(At::Normalized(range))?;
            let token = token.map(|at| {
                let text = slice.get().to_owned();
                let len = text.len();
                vec![Token::new(self.tokens[at].0, text, (0, len))]
            });
            Some((slice, token))
        });
        slices.collect()
    }
}

/// What `work` comes to. The crate panics at some damaged files where it could say so, such as a table of characters that is none.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the file is damaged: the library cannot work with it".into()))
}

/// A letter, mark or digit, or what joins them.
fn of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
