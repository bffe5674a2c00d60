//! Documents to rows of one length, packed once: which rows come when is `train.order`'s.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use super::{Dataset, Documents, LEARN};
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::train::batch::{Batch, NO_LOSS, Question, Rows, short};

/// Documents that a row with room left may look ahead at.
const AHEAD: usize = 64;

/// Most tokens of a text that asks nothing that are given to go on from.
const GIVEN: usize = 32;

/// A stretch of a document: inputs `start .. start + len`, which predict `start + 1 ..= start + len`.
#[derive(Clone, Copy, Debug)]
struct Piece {
    document: u32,
    start: u32,
    len: u32,
}

/// Documents and how they lie in rows.
#[derive(Debug, Default)]
struct Side {
    documents: Documents,
    pieces: Vec<Piece>,
    /// Where each row's pieces end.
    ends: Vec<usize>,
}

/// A data set in rows of one length. A document longer than a row is cut into pieces, each predicting its last token's
/// successor too; documents never attend to each other.
#[derive(Debug)]
pub struct Packed {
    learn: Side,
    held_out: Side,
    length: usize,
    fingerprint: String,
    answers: bool,
}

impl Packed {
    /// Packs `data` into rows of `length` tokens: with `share` several documents lie side by side in a row, otherwise each
    /// has its own; what is left of a row is padding without loss.
    ///
    /// # Errors
    /// [`Error::Config`] for a length of 0, or when no document has a token to learn.
    pub fn new(data: Dataset, length: usize, share: bool) -> Result<Self> {
        if length == 0 || length > 1 << 24 {
            return Err(Error::config("train.length", format!("`{length}` is not allowed; from 1 to {}", 1 << 24)));
        }
        scoped(Scope::Program, || {
            let mut hash = Sha256::new();
            for documents in [&data.train, &data.validation] {
                hash.update(bytemuck::cast_slice::<u32, u8>(&documents.tokens));
                documents.ends.iter().for_each(|end| hash.update((*end as u64).to_le_bytes()));
            }
            let hash = short(hash);
            let (learn, held_out) = (side(data.train, length, share), side(data.validation, length, share));
            if learn.ends.is_empty() {
                return Err(Error::config("train.data", "no document has a token to learn"));
            }
            let fingerprint = format!("{}x{length}{}:{hash}", learn.ends.len(), if share { "" } else { " apart" });
            Ok(Self { learn, held_out, length, fingerprint, answers: false })
        })
    }

    /// Says that each held-out document's targets are one answer. It holds only where each fits in a row.
    #[must_use]
    pub fn with_answers(mut self, yes: bool) -> Self {
        self.answers = yes && !self.held_out.ends.is_empty() && self.held_out.documents.longest() <= self.length + 1;
        self
    }

    /// The documents learned from.
    pub fn documents(&self) -> &Documents {
        &self.learn.documents
    }

    /// The documents held out.
    pub fn held_out_documents(&self) -> &Documents {
        &self.held_out.documents
    }

    /// What is to be known of the data before it is learned from: fields that are not used, records with nothing to learn, documents
    /// that no row holds whole.
    pub fn remarks(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (documents, of) in [(&self.learn.documents, "train.data"), (&self.held_out.documents, "train.validation")] {
            // A share that is held out is of the same file.
            if of == "train.validation" && documents.told() == self.learn.documents.told() {
                continue;
            }
            out.extend(documents.told().unused().map(|unused| format!("{of}: {unused}")));
            if documents.left_out() > 0 {
                out.push(format!("{of}: {} records have nothing to learn and are left out", documents.left_out()));
            }
        }
        let (all, longer) = (self.learn.documents.len(), self.learn.documents.longer_than(self.length));
        if longer > 0 {
            out.push(format!(
                "train.data: {longer} of {all} documents are longer than train.length = {} (the longest has {} tokens) and are \
                 learned in pieces, of which only the first begins at the beginning",
                self.length,
                self.learn.documents.longest()
            ));
        }
        out
    }

    /// Share of the positions of all rows that are no padding.
    pub fn filled(&self) -> f64 {
        let used: u64 = self.learn.pieces.iter().map(|p| u64::from(p.len)).sum();
        used as f64 / (self.learn.ends.len() * self.length) as f64
    }

    fn pick(&self, side: &Side, which: &[usize]) -> Result<Batch> {
        scoped(Scope::Program, || {
            let room = which.len() * self.length;
            let array = || Vec::with_capacity(room);
            let mut out = Batch {
                tokens: array(),
                targets: array(),
                segments: array(),
                sequences: which.len(),
                length: self.length,
                filled: Vec::with_capacity(which.len()),
            };
            for (i, row) in which.iter().enumerate() {
                let Some(end) = side.ends.get(*row) else {
                    return Err(Error::Internal(format!("row {row} of {}", side.ends.len())));
                };
                let first = row.checked_sub(1).map_or(0, |before| side.ends[before]);
                for piece in &side.pieces[first..*end] {
                    let (start, len) = (piece.start as usize, piece.len as usize);
                    let marked = &side.documents.marked(piece.document as usize)[start..=start + len];
                    let begins = (out.tokens.len() - i * self.length) as u32;
                    out.tokens.extend(marked[..len].iter().map(|t| t & !LEARN));
                    out.targets.extend(marked[1..].iter().map(|t| if t & LEARN != 0 { t & !LEARN } else { NO_LOSS }));
                    out.segments.extend(std::iter::repeat_n(begins, len));
                }
                // What is left over is a document of its own, so that it sees nothing and nothing sees it.
                let (begins, whole) = (out.tokens.len() - i * self.length, (i + 1) * self.length);
                out.filled.push(begins as u32);
                out.tokens.resize(whole, 0);
                out.targets.resize(whole, NO_LOSS);
                out.segments.resize(whole, begins as u32);
            }
            Ok(out)
        })
    }
}

impl Rows for Packed {
    fn rows(&self) -> usize {
        self.learn.ends.len()
    }

    fn length(&self) -> usize {
        self.length
    }

    fn batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(&self.learn, which)
    }

    fn held_out(&self) -> usize {
        self.held_out.ends.len()
    }

    fn held_out_batch(&self, which: &[usize]) -> Result<Batch> {
        self.pick(&self.held_out, which)
    }

    fn question(&self, i: usize) -> Option<Question> {
        let marked = self.held_out.documents.marked(i);
        if marked.is_empty() {
            return None;
        }
        let learns = |t: &u32| *t & LEARN != 0;
        // Nothing predicts a text's first token. Where all else is learned nothing is asked: half of the text is given.
        let asked = marked.iter().position(learns).filter(|n| *n > 1);
        let n = asked.unwrap_or((marked.len() / 2).clamp(1, GIVEN));
        let ids = |part: &[u32]| part.iter().map(|t| t & !LEARN).collect();
        let end = marked[n..].iter().position(|t| !learns(t)).map_or(marked.len(), |at| n + at);
        Some(Question { prompt: ids(&marked[..n]), answer: ids(&marked[n..end]) })
    }

    fn answers(&self) -> bool {
        self.answers
    }

    fn remarks(&self) -> Vec<String> {
        Packed::remarks(self)
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// Lays documents out in rows: in their order, but a row with room left takes what fits from those that come soon.
fn side(documents: Documents, length: usize, share: bool) -> Side {
    let (pieces, ends) = rows(&documents, length, share);
    Side { documents, pieces, ends }
}

/// All pieces, row by row, and where each row ends.
fn rows(documents: &Documents, length: usize, share: bool) -> (Vec<Piece>, Vec<usize>) {
    let (mut pieces, mut ends) = (Vec::new(), Vec::new());
    let mut coming = (0..documents.len()).flat_map(|d| cut(documents, d, length));
    if !share {
        pieces.extend(coming);
        ends.extend(1..=pieces.len());
        return (pieces, ends);
    }
    let mut ahead: VecDeque<Piece> = coming.by_ref().take(AHEAD).collect();
    while !ahead.is_empty() {
        let mut room = length as u32;
        while let Some(piece) = ahead.iter().position(|p| p.len <= room).and_then(|at| ahead.remove(at)) {
            room -= piece.len;
            pieces.push(piece);
            ahead.extend(coming.next());
        }
        ends.push(pieces.len());
    }
    (pieces, ends)
}

/// The pieces of a document that have something to learn.
fn cut(documents: &Documents, document: usize, length: usize) -> impl Iterator<Item = Piece> + '_ {
    let marked = documents.marked(document);
    (0..marked.len().saturating_sub(1)).step_by(length).filter_map(move |start| {
        let len = length.min(marked.len() - 1 - start);
        let learns = marked[start + 1..=start + len].iter().any(|t| t & LEARN != 0);
        learns.then_some(Piece { document: document as u32, start: start as u32, len: len as u32 })
    })
}
