//! Tokens with the places of a text that they stand for.

use std::ops::Range;

/// Tokens of a text, each with the bytes of the text that it stands for. What was added before the text or after it stands for
/// nothing: an empty stretch at that end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens.
    pub ids: Vec<u32>,
    /// As many as `ids`: where each begins in the text, and where it ends.
    pub spans: Vec<(usize, usize)>,
}

impl Encoded {
    /// Nothing, with room for the tokens of a text of `bytes` bytes.
    pub(super) fn for_text(bytes: usize) -> Self {
        let room = bytes / 3 + 2;
        Self { ids: Vec::with_capacity(room), spans: Vec::with_capacity(room) }
    }

    /// Adds a token.
    pub(super) fn push(&mut self, id: u32, start: usize, end: usize) {
        self.ids.push(id);
        self.spans.push((start, end));
    }

    /// For each token whether it is of one of `parts`, which are stretches of the text of `len` bytes. A token over the beginning
    /// of a part is: it cannot be written without what the part begins with. A control token there is not, as `is_control` says:
    /// it took in blanks, and is not what is said. What was added at the end is of a part that goes to the end.
    pub fn of(&self, parts: &[Range<usize>], len: usize, is_control: impl Fn(u32) -> bool) -> Vec<bool> {
        let of = |(id, (start, end)): (&u32, &(usize, usize))| {
            parts.iter().any(|part| match start == end {
                true => part.contains(start) || (*start == len && part.end == len),
                false => *end > part.start && *start < part.end && (*start >= part.start || !is_control(*id)),
            })
        };
        self.ids.iter().zip(&self.spans).map(of).collect()
    }
}

/// Places of a text, for the bytes of a copy of it in which every space is longer.
pub(super) struct Stretched<'t> {
    rest: std::str::Chars<'t>,
    /// Bytes of what stands for a space.
    space: usize,
    text: usize,
    copy: usize,
}

impl<'t> Stretched<'t> {
    /// `before` bytes stand before the copy; `space` stand for each space.
    pub fn new(text: &'t str, before: usize, space: usize) -> Self {
        Self { rest: text.chars(), space, text: 0, copy: before }
    }

    /// The byte of the text that byte `at` of the copy stands for; `at` must not fall from call to call.
    pub fn place(&mut self, at: usize) -> usize {
        while self.copy < at {
            let Some(c) = self.rest.next() else { break };
            self.text += c.len_utf8();
            self.copy += if c == ' ' { self.space } else { c.len_utf8() };
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_over_the_border_is_learned_and_a_control_token_there_is_not() {
        let spans = vec![(0, 0), (0, 2), (2, 5), (5, 5), (5, 6), (6, 6)];
        let of = |ids: [u32; 6], part: Range<usize>| {
            let encoded = Encoded { ids: ids.to_vec(), spans: spans.clone() };
            encoded.of(&[part], 6, |id| id == 9).iter().map(|l| char::from(b'0' + u8::from(*l))).collect::<String>()
        };
        assert_eq!(of([1; 6], 3..6), "001111");
        assert_eq!(of([1, 1, 9, 1, 1, 1], 3..6), "000111");
        assert_eq!(of([1, 1, 9, 1, 1, 1], 2..5), "001000");
        assert_eq!(of([1; 6], 5..6), "000111");
        assert_eq!(of([1; 6], 0..2), "110000");
    }

    #[test]
    fn places_of_a_copy_are_those_of_the_text() {
        let mut s = Stretched::new("a é b", 3, 3);
        assert_eq!([0, 3, 4, 7, 9, 12, 13, 99].map(|at| s.place(at)), [0, 0, 1, 2, 4, 5, 6, 6]);
    }
}
