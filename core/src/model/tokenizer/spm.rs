//! SentencePiece BPE (`tokenizer.ggml.model = llama`): characters become symbols, and the neighbours whose joined text is the
//! token of highest score are joined until none is left; characters without a token become byte tokens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocab::Vocab;

/// What stands for a space in a token.
pub(super) const SPACE: &str = "\u{2581}";

/// Scores, made comparable, and the byte tokens.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    /// A key that orders as the score does.
    scores: Vec<u32>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
}

#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// A joined pair: the highest score first, then the leftmost; and how long the pair was when it was queued.
type Pair = (u32, Reverse<u32>, u32);

impl Spm {
    /// `scores` has one finite number a token, higher is joined first.
    pub fn new(vocab: &Vocab, scores: &[f32], unknown: Option<u32>) -> Self {
        let mut bytes = Box::new([None; 256]);
        for (byte, id) in bytes.iter_mut().enumerate() {
            // The byte token; failing that the character itself.
            *id = vocab.find(&format!("<0x{byte:02X}>")).or_else(|| {
                let c = u8::try_from(byte).ok().filter(u8::is_ascii)?;
                vocab.find((c as char).encode_utf8(&mut [0; 4]))
            });
        }
        Self { scores: scores.iter().map(|&s| key(s)).collect(), bytes, unknown }
    }

    /// Gives out the tokens of `text`, in which spaces are [`SPACE`] already, each with the bytes it stands for: those of its
    /// character for a byte token.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut impl FnMut(u32, usize, usize)) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                start: start as u32,
                len: c.len_utf8() as u32,
                prev: at.wrapping_sub(1),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let piece = |s: &Symbol, len: u32| &text[s.start as usize..(s.start + len) as usize];
        let propose = |symbols: &[Symbol], queue: &mut BinaryHeap<Pair>, left: u32| {
            let Some(a) = symbols.get(left as usize) else { return };
            let Some(b) = symbols.get(a.next as usize) else { return };
            let len = a.len + b.len;
            if let Some(&score) = vocab.find(piece(a, len)).and_then(|id| self.scores.get(id as usize)) {
                queue.push((score, Reverse(left), len));
            }
        };
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() as u32 {
            propose(&symbols, &mut queue, left);
        }
        while let Some((_, Reverse(left), len)) = queue.pop() {
            let Symbol { len: a, prev, next, .. } = symbols[left as usize];
            // Queued before one of the two was merged away or grew: a symbol that was merged away has length 0.
            let Some(&Symbol { len: b, next: after, .. }) = symbols.get(next as usize) else { continue };
            if a == 0 || a + b != len {
                continue;
            }
            symbols[next as usize].len = 0;
            symbols[left as usize].len = len;
            symbols[left as usize].next = after;
            if let Some(s) = symbols.get_mut(after as usize) {
                s.prev = left;
            }
            propose(&symbols, &mut queue, prev);
            propose(&symbols, &mut queue, left);
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            let text = piece(symbol, symbol.len);
            let (start, end) = (symbol.start as usize, (symbol.start + symbol.len) as usize);
            match vocab.find(text) {
                Some(id) => out(id, start, end),
                None => text
                    .bytes()
                    .filter_map(|b| self.bytes[b as usize].or(self.unknown))
                    .for_each(|id| out(id, start, end)),
            }
            at = symbol.next;
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.scores.capacity() * 4 + size_of_val(&*self.bytes)
    }
}

/// Orders as the numbers do; both zeros are equal.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The byte that `<0xNN>` spells.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(hex, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores() {
        let scores = [f32::NEG_INFINITY, -1e9, -2.0, -1.0, -1e-30, 0.0, 1e-30, 3.0, f32::INFINITY];
        assert!(scores.windows(2).all(|p| key(p[0]) < key(p[1])));
        assert_eq!(key(-0.0), key(0.0));
    }

    #[test]
    fn byte_tokens_are_two_hex_digits_and_nothing_else() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for bad in ["<0x-1>", "<0x+1>", "<0x>", "<0x1>", "<0x100>", "<0x 1>", "0x10", "<0x10", "", "<0xé>"] {
            assert_eq!(byte_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_highest_score_is_joined_first_and_what_is_left_becomes_bytes() {
        let tokens = ["<unk>", "a", "b", "ab", "bc", "c", "abc", "<0xC3>", "<0xA9>"];
        let vocab = Vocab::new(tokens.iter().collect()).unwrap();
        let ids = |scores: &[f32], text: &str| {
            let mut out = Vec::new();
            Spm::new(&vocab, scores, Some(0)).encode(&vocab, text, &mut |id, _, _| out.push(id));
            out
        };
        let scores = [0.0, 0.0, 0.0, -2.0, -1.0, 0.0, -9.0, 0.0, 0.0];
        assert_eq!(ids(&scores, "abb"), [3, 2]);
        assert_eq!(ids(&scores, "bcab"), [4, 3]);
        // "bc" before "ab", then "a" + "bc".
        assert_eq!(ids(&scores, "abc"), [6]);
        assert_eq!(ids(&scores, "aéb"), [1, 7, 8, 2]);
        assert_eq!(ids(&scores, "ü"), [7, 0]);
        assert_eq!(ids(&scores, ""), [0u32; 0]);
    }
}
