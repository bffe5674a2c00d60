//! Tokens broken into rows, at blanks where there are any.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use unicode_script::{Script, UnicodeScript};

use crate::view::Written;

/// A part of a token in one row: bytes of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its position.
    pub token: u32,
    /// From.
    pub start: u32,
    /// To.
    pub end: u32,
}

/// Rows of pieces, kept between frames.
#[derive(Debug, Default)]
pub struct Rows {
    pieces: Vec<Piece>,
    widths: Vec<f32>,
    /// Which pieces begin with a blank or an ideograph: a row may break before them.
    blanks: Vec<bool>,
    /// Index of the first piece of each row.
    starts: Vec<usize>,
    /// Which rows began because the one before was full.
    broken: Vec<bool>,
    /// How far the last row reaches.
    x: f32,
    /// What it was made of: tokens, width and scale, and a hash of the texts.
    done: Range<usize>,
    fitted: (f32, f32),
    hash: u64,
}

fn hash(written: &Written, tokens: Range<usize>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for token in &written.tokens[tokens] {
        token.text.hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether a row may break before a piece that begins so: Chinese and Japanese have no blanks between words (Unicode Annex 14,
/// class ID).
fn breaks_before(c: char) -> bool {
    c.is_whitespace() || matches!(c.script(), Script::Han | Script::Hiragana | Script::Katakana)
}

impl Rows {
    /// Rows of `tokens` within `width` points; `glyph` is the width of a character. Tokens that were there before are not measured
    /// again.
    pub fn update(
        &mut self,
        written: &Written,
        tokens: Range<usize>,
        width: f32,
        scale: f32,
        mut glyph: impl FnMut(char) -> f32,
    ) {
        let same = self.done.start == tokens.start
            && self.done.end <= tokens.end
            && self.fitted == (width, scale)
            && self.hash == hash(written, self.done.clone());
        if !same {
            *self = Self {
                done: tokens.start..tokens.start,
                fitted: (width, scale),
                starts: vec![0],
                broken: vec![false],
                ..Self::default()
            };
        }
        if self.starts.is_empty() {
            (self.starts, self.broken) = (vec![0], vec![false]);
        }
        if self.done.end < tokens.end || !same {
            for position in self.done.end..tokens.end {
                self.push(position as u32, &written.tokens[position].text, &mut glyph);
            }
            self.done = tokens.clone();
            self.hash = hash(written, tokens);
        }
    }

    fn push(&mut self, token: u32, text: &str, glyph: &mut impl FnMut(char) -> f32) {
        let mut from = 0;
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                self.starts.push(self.pieces.len());
                self.broken.push(false);
                self.x = 0.0;
            }
            self.line(token, from, line, glyph);
            from += line.len() + 1;
        }
    }

    fn line(&mut self, token: u32, from: usize, text: &str, glyph: &mut impl FnMut(char) -> f32) {
        let room = self.fitted.0;
        let mut start = 0;
        let mut wide = 0.0;
        for (at, c) in text.char_indices() {
            let w = glyph(if c.is_control() { ' ' } else { c });
            // A token that is wider than a row by itself is cut where the row is full.
            if wide + w > room && at > start {
                self.piece(Piece { token, start: (from + start) as u32, end: (from + at) as u32 }, wide, false);
                (start, wide) = (at, 0.0);
            }
            wide += w;
        }
        if start < text.len() {
            let blank = text[start..].starts_with(breaks_before);
            self.piece(Piece { token, start: (from + start) as u32, end: (from + text.len()) as u32 }, wide, blank);
        }
    }

    fn piece(&mut self, piece: Piece, wide: f32, blank: bool) {
        while self.x + wide > self.fitted.0
            && let Some(row) = self.starts.last().copied()
            && row < self.pieces.len()
        {
            // A word goes to the next row as a whole: from the last piece that begins with a blank.
            let word = if blank { self.pieces.len() } else { self.word(row).unwrap_or(self.pieces.len()) };
            self.starts.push(word);
            self.broken.push(true);
            self.x = self.widths[word..].iter().sum();
        }
        self.pieces.push(piece);
        self.widths.push(wide);
        self.blanks.push(blank);
        self.x += wide;
    }

    /// The last piece of the row that begins with a blank, unless it is the row's first.
    fn word(&self, row: usize) -> Option<usize> {
        (row + 1..self.pieces.len()).rev().find(|i| self.blanks[*i])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    fn range(&self, row: usize) -> Range<usize> {
        let start = self.starts.get(row).copied().unwrap_or(self.pieces.len());
        start..self.starts.get(row + 1).copied().unwrap_or(self.pieces.len())
    }

    /// True when a row began because the one before it was full.
    pub fn broken(&self, row: usize) -> bool {
        self.broken.get(row).copied().unwrap_or(false)
    }

    /// Pieces of a row.
    pub fn row(&self, row: usize) -> &[Piece] {
        &self.pieces[self.range(row)]
    }

    /// The row in which a token begins.
    pub fn row_of(&self, token: usize) -> Option<usize> {
        let piece = self.pieces.partition_point(|p| (p.token as usize) < token);
        (piece < self.pieces.len()).then(|| self.starts.partition_point(|s| *s <= piece).saturating_sub(1))
    }

    /// The token above or below one.
    pub fn beside(&self, token: usize, by: isize) -> usize {
        let Some(row) = self.row_of(token) else { return token };
        let column = self.row(row).iter().position(|p| p.token as usize == token).unwrap_or(0);
        let mut to = row.checked_add_signed(by);
        // Over empty rows.
        while let Some(next) = to
            && next < self.len()
            && self.row(next).is_empty()
        {
            to = next.checked_add_signed(by);
        }
        let row = to.map(|row| self.row(row)).unwrap_or_default();
        row.get(column).or(row.last()).map_or(token, |p| p.token as usize)
    }

    /// Where the text ends: row, and points from its start.
    pub fn end(&self) -> (usize, f32) {
        (self.len().saturating_sub(1), self.x)
    }
}
