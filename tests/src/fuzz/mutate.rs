//! Changes of an input, drawn from a seed: the same seed gives the same bytes on every machine.

use super::Target;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`; 0 for none.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n.max(1) as u64) as usize
    }
}

/// Numbers at which something may overflow or be empty.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    (1 << 53) + 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Most bytes of a changed input.
const LONGEST: usize = 1 << 16;

/// Changes `bytes` in one to eight places; `others` are inputs that parts may be taken from.
pub fn mutate(target: &Target, bytes: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    let times = 1 << dice.below(4);
    for _ in 0..times {
        once(target, bytes, others, dice);
    }
    bytes.truncate(LONGEST);
    if let Some(repair) = target.repair.filter(|_| dice.below(2) == 0) {
        repair(bytes);
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, what: &[u8], over: bool) {
    let end = if over { (at + what.len()).min(bytes.len()) } else { at };
    bytes.splice(at..end, what.iter().copied());
}

fn once(target: &Target, bytes: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let left = bytes.len() - at;
    match dice.below(12) {
        0 if left > 0 => bytes[at] ^= 1 << dice.below(8),
        1 if left > 0 => bytes[at] = dice.next_u64() as u8,
        // A field of 1, 2, 4 or 8 bytes, such as a length.
        2 | 3 => {
            let (n, wide) = (NUMBERS[dice.below(NUMBERS.len())], 1 << dice.below(4));
            put(bytes, at, &n.to_le_bytes()[..wide], true);
        }
        // A number in letters.
        4 => number(bytes, at, dice),
        5 | 6 if !target.words.is_empty() => {
            let word = target.words[dice.below(target.words.len())].as_bytes();
            put(bytes, at, word, dice.below(2) == 0);
        }
        7 => bytes.truncate(at),
        8 => {
            let n = dice.below(left.min(64) + 1);
            bytes.drain(at..at + n);
        }
        // A part twice, or many times.
        9 => {
            let n = dice.below(left.min(64) + 1);
            let part = bytes[at..at + n].repeat(1 + dice.below(if n < 8 { 300 } else { 4 }));
            put(bytes, at, &part, false);
        }
        10 if !others.is_empty() => {
            let other = &others[dice.below(others.len())];
            let from = dice.below(other.len() + 1);
            let n = dice.below((other.len() - from).min(256) + 1);
            put(bytes, at, &other[from..from + n], dice.below(2) == 0);
        }
        _ if left > 1 => {
            let to = at + dice.below(left);
            bytes.swap(at, to);
        }
        _ => bytes.push(dice.next_u64() as u8),
    }
}

/// Another number where one stands in letters at or after `at`.
fn number(bytes: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let to = bytes[from..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| from + i);
    let n = NUMBERS[dice.below(NUMBERS.len())];
    let text = match dice.below(4) {
        0 => format!("-{n}"),
        1 => format!("{n}.5"),
        _ => n.to_string(),
    };
    bytes.splice(from..to, text.into_bytes());
}
