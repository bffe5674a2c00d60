//! `tokenizer.model`: SentencePiece's own file, as the pipeline that gives its ids.

use std::path::Path;

use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};

use crate::error::{Error, Result};
use crate::model::tokenizer::{Strings, TokenKind, TokenizerSpec};

/// What is read of a `ModelProto`; numbers of fields and defaults are those of sentencepiece_model.proto.
#[derive(Default)]
struct ModelProto {
    pieces: Vec<Piece>,
    trainer: Trainer,
    normalizer: Normalizer,
}

struct Piece {
    piece: String,
    score: f32,
    kind: i32,
}

struct Trainer {
    model: i32,
    unk: i32,
    bos: i32,
    eos: i32,
    pad: i32,
}

struct Normalizer {
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Trainer {
    fn default() -> Self {
        Self { model: 1, unk: 0, bos: 1, eos: 2, pad: -1 }
    }
}

impl Default for Normalizer {
    fn default() -> Self {
        let charsmap = Vec::new();
        Self { charsmap, add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true }
    }
}

/// One field's number, how it is written, and what is left from it on.
type Field<'a, 'b> = (u32, WireType, &'a mut &'b [u8]);

/// Calls `each` with every field of a message; what it does not take (false) is passed over.
fn fields(
    mut bytes: &[u8],
    mut each: impl FnMut(Field<'_, '_>) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let (tag, wire) = encoding::decode_key(&mut bytes)?;
        if !each((tag, wire, &mut bytes))? {
            encoding::skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
        }
    }
    Ok(())
}

/// A message within a message.
fn inner((_, wire, rest): Field<'_, '_>) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    encoding::bytes::merge(wire, &mut out, rest, DecodeContext::default())?;
    Ok(out)
}

impl ModelProto {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut out = Self::default();
        fields(bytes, |field| {
            match field.0 {
                1 => out.pieces.push(Piece::decode(&inner(field)?)?),
                2 => out.trainer.decode(&inner(field)?)?,
                3 => out.normalizer.decode(&inner(field)?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(out)
    }
}

impl Piece {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut out = Self { piece: String::new(), score: 0.0, kind: TokenKind::Normal as i32 };
        fields(bytes, |(tag, wire, rest)| {
            let context = DecodeContext::default();
            match tag {
                1 => encoding::string::merge(wire, &mut out.piece, rest, context)?,
                2 => encoding::float::merge(wire, &mut out.score, rest, context)?,
                3 => encoding::int32::merge(wire, &mut out.kind, rest, context)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(out)
    }
}

impl Trainer {
    fn decode(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        fields(bytes, |(tag, wire, rest)| {
            let number = match tag {
                3 => &mut self.model,
                40 => &mut self.unk,
                41 => &mut self.bos,
                42 => &mut self.eos,
                43 => &mut self.pad,
                _ => return Ok(false),
            };
            encoding::int32::merge(wire, number, rest, DecodeContext::default()).map(|()| true)
        })
    }
}

impl Normalizer {
    fn decode(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        fields(bytes, |(tag, wire, rest)| {
            let context = DecodeContext::default();
            let flag = match tag {
                2 => return encoding::bytes::merge(wire, &mut self.charsmap, rest, context).map(|()| true),
                3 => &mut self.add_dummy_prefix,
                4 => &mut self.remove_extra_whitespaces,
                5 => &mut self.escape_whitespaces,
                _ => return Ok(false),
            };
            encoding::bool::merge(wire, flag, rest, context).map(|()| true)
        })
    }
}

/// What the file at `path`, of which `bytes` are the content, says of its tokenizer.
///
/// # Errors
/// [`Error::Model`] for a file that is none, a model that is neither unigram nor BPE, one without a piece of text.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<TokenizerSpec> {
    let wrong = |field: &str, message: String| Error::model(path, field, message);
    let proto = ModelProto::decode(bytes).map_err(|e| {
        let message = format!("is not a SentencePiece model ({e}); put the tokenizer.json of this model beside it");
        wrong("tokenizer.model", message)
    })?;
    let ModelProto { pieces, trainer, normalizer } = proto;
    let model = match trainer.model {
        1 => "t5",
        2 => "llama",
        other => {
            let message =
                format!("is {other}; 1 (unigram) and 2 (BPE) are read: put the model's tokenizer.json beside it");
            return Err(wrong("trainer_spec.model_type", message));
        }
    };
    if !normalizer.escape_whitespaces {
        return Err(wrong(
            "normalizer_spec.escape_whitespaces",
            "is false, which is not read; use a tokenizer.json".into(),
        ));
    }
    let (mut tokens, mut types, mut scores) = (Strings::new(), Vec::new(), Vec::new());
    for piece in &pieces {
        if !tokens.push(&piece.piece) {
            return Err(wrong("pieces", "more than 4 GiB of text".into()));
        }
        types.push(piece.kind);
        scores.push(piece.score);
    }
    if !types.contains(&(TokenKind::Normal as i32)) {
        let message =
            format!("{} of them, and none is text; it is no SentencePiece model, or damaged or cut short", types.len());
        return Err(wrong("pieces", message));
    }
    let id = |id: i32| u32::try_from(id).ok().filter(|id| (*id as usize) < types.len());
    Ok(TokenizerSpec {
        path: path.into(),
        model: model.into(),
        bos: id(trainer.bos),
        eos: id(trainer.eos),
        unk: id(trainer.unk),
        pad: id(trainer.pad),
        add_space_prefix: Some(normalizer.add_dummy_prefix),
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces,
        charsmap: normalizer.charsmap,
        whole_pieces: true,
        tokens,
        types,
        scores,
        ..TokenizerSpec::default()
    })
}
