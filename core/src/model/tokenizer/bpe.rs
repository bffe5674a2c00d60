//! Byte-level byte-pair encoding (`tokenizer.ggml.model = gpt2`): bytes become symbols, and the neighbours whose merge was
//! learned earliest are joined until none is left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::vocab::{Strings, Vocab};

/// GPT-2's printable stand-in for each byte.
pub(crate) fn byte_to_char(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as char,
        // The 68 others, in order, from U+0100.
        0..=0x20 => char::from_u32(0x100 + byte as u32).unwrap_or('\u{fffd}'),
        0x7f..=0xa0 => char::from_u32(0x121 + (byte - 0x7f) as u32).unwrap_or('\u{fffd}'),
        0xad => '\u{143}',
    }
}

/// The inverse of [`byte_to_char`].
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    match c as u32 {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The learned merges. Symbols are vocabulary ids; texts that merges name but the vocabulary lacks have ids past its end.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    /// The pair of symbols → (rank, the symbol they make).
    merges: HashMap<(u32, u32), (u32, u32)>,
    bytes: Box<[u32; 256]>,
    /// Tokens of the vocabulary; symbols from here on are not tokens.
    tokens: u32,
}

/// Buffers of one encoding, kept so that words do not allocate.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    // (rank, position of the left symbol): the earliest merge first, then the leftmost; and the pair when it was queued.
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl Bpe {
    /// Reads the merges, `left right` each, and adds to `vocab` the texts that they need.
    ///
    /// # Errors
    /// The number of the first merge that is not two texts.
    pub fn new(vocab: &mut Vocab, merges: &Strings) -> Result<Self, usize> {
        let tokens = vocab.len() as u32;
        let mut map = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            // The left part is never empty, and may itself begin with a space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let space = merge.get(first..).and_then(|rest| rest.find(' ')).ok_or(rank)? + first;
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            if right.is_empty() {
                return Err(rank);
            }
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let mut id = |text: &str| vocab.intern(text).ok_or(rank);
            let (left, right, product) = (id(left)?, id(right)?, id(&joined)?);
            map.entry((left, right)).or_insert((rank as u32, product));
        }
        let mut bytes = Box::new([0; 256]);
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = vocab.intern(byte_to_char(byte as u8).encode_utf8(&mut [0; 4])).ok_or(0usize)?;
        }
        Ok(Self { merges: map, bytes, tokens })
    }

    /// Gives out the tokens of one word, as the pre-tokenizer cut it, each with the bytes of the word it stands for.
    pub fn encode(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch, out: &mut impl FnMut(u32, usize, usize)) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        let last = word.len().saturating_sub(1);
        symbols.extend(word.bytes().enumerate().map(|(i, byte)| Symbol {
            id: self.bytes[byte as usize],
            prev: if i == 0 { NONE } else { i as u32 - 1 },
            next: if i == last { NONE } else { i as u32 + 1 },
        }));
        let propose = |symbols: &[Symbol], queue: &mut BinaryHeap<_>, left: u32| {
            let Some(a) = symbols.get(left as usize) else { return };
            let Some(b) = symbols.get(a.next as usize) else { return };
            if let Some(&(rank, _)) = self.merges.get(&(a.id, b.id)) {
                queue.push(Reverse((rank, left, a.id, b.id)));
            }
        };
        for left in 0..last as u32 {
            propose(symbols, queue, left);
        }
        while let Some(Reverse((_, left, a, b))) = queue.pop() {
            let Symbol { id, prev, next } = symbols[left as usize];
            // Queued before one of the two was merged away: a merged-away symbol has no id.
            if id != a || symbols.get(next as usize).is_none_or(|s| s.id != b) {
                continue;
            }
            let Some(&(_, product)) = self.merges.get(&(a, b)) else { continue };
            let after = symbols[next as usize].next;
            symbols[next as usize].id = NONE;
            symbols[left as usize].id = product;
            symbols[left as usize].next = after;
            if let Some(s) = symbols.get_mut(after as usize) {
                s.prev = left;
            }
            propose(symbols, queue, prev);
            propose(symbols, queue, left);
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            let (start, end) = (at as usize, (symbol.next as usize).min(word.len()));
            if symbol.id < self.tokens {
                out(symbol.id, start, end);
            } else {
                // Not a token: its characters, as far as they are; what has no token at all is lost, as in llama.cpp.
                let mut buffer = [0; 4];
                let chars = vocab.text(symbol.id).chars();
                chars
                    .filter_map(|c| vocab.find(c.encode_utf8(&mut buffer)))
                    .filter(|&id| id < self.tokens)
                    .for_each(|id| out(id, start, end));
            }
            at = symbol.next;
        }
    }

    /// The whole of `word` as one token, for tokenizers that look there before they merge.
    pub fn whole(&self, vocab: &Vocab, word: &str, buffer: &mut String) -> Option<u32> {
        buffer.clear();
        buffer.extend(word.bytes().map(byte_to_char));
        vocab.find(buffer).filter(|&id| id < self.tokens)
    }

    pub fn heap_bytes(&self) -> usize {
        // A bucket is the pair, the value and one control byte.
        self.merges.capacity() * 8 / 7 * 17 + 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_printable_character() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            let c = byte_to_char(byte);
            assert!(!c.is_whitespace() && !c.is_control(), "{byte}");
            assert!(seen.insert(c));
            assert_eq!(char_to_byte(c), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(char_to_byte('中'), None);
    }

    /// The definition, followed literally: join the pair of lowest rank, leftmost first, until none is left.
    fn slow(merges: &[(&str, &str)], word: &str) -> Vec<String> {
        let mut parts: Vec<String> = word.bytes().map(|b| byte_to_char(b).to_string()).collect();
        loop {
            let best = parts
                .windows(2)
                .enumerate()
                .filter_map(|(i, p)| Some((merges.iter().position(|m| m.0 == p[0] && m.1 == p[1])?, i)))
                .min();
            let Some((_, i)) = best else { return parts };
            let right = parts.remove(i + 1);
            parts[i] += &right;
        }
    }

    #[test]
    fn merges_in_order_of_rank_then_from_the_left() {
        let merges =
            [("a", "a"), ("b", "a"), ("aa", "a"), ("a", "b"), ("aa", "aa"), ("ab", "ab"), ("ba", "b"), ("c", "aa")];
        let mut tokens: Vec<String> = ["a", "b", "c"].map(String::from).into();
        tokens.extend(merges.iter().map(|(l, r)| format!("{l}{r}")).filter(|t| t != "baa"));
        let mut vocab = Vocab::new(tokens.iter().collect()).unwrap();
        let bpe = Bpe::new(&mut vocab, &merges.iter().map(|(l, r)| format!("{l} {r}")).collect()).unwrap();
        let mut scratch = Scratch::default();
        let mut state = 1u64;
        for n in 0..2000 {
            let word: String = (0..n % 23)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ['a', 'a', 'b', 'c'][(state >> 62) as usize]
                })
                .collect();
            let mut ids = Vec::new();
            let mut end = 0;
            bpe.encode(&vocab, &word, &mut scratch, &mut |id, from, to| {
                assert_eq!((from, to), (end, end + vocab.text(id).len()));
                ids.push(id);
                end = to;
            });
            let got: Vec<&str> = ids.iter().map(|&id| vocab.text(id)).collect();
            assert_eq!(got, slow(&merges, &word), "{word}");
        }
    }

    #[test]
    fn merges_that_do_not_split_are_refused() {
        for bad in ["ab", "a ", "", " ", "  "] {
            let mut vocab = Vocab::new(["a", "b"].iter().collect()).unwrap();
            assert_eq!(Bpe::new(&mut vocab, &["a b", bad].iter().collect()).unwrap_err(), 1, "{bad:?}");
        }
    }
}
