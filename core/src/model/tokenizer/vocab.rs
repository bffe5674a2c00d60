//! The vocabulary: every token's text in one allocation, and an index from text to id.

use std::hash::{BuildHasher, RandomState};

/// A list of strings kept end to end in one allocation: 49,152 tokens cost two allocations, not 49,152.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `s`; false when the whole would pass 4 GiB.
    pub fn push(&mut self, s: &str) -> bool {
        match u32::try_from(self.text.len() + s.len()) {
            Ok(end) if self.ends.len() < u32::MAX as usize => {
                self.text.push_str(s);
                self.ends.push(end);
                true
            }
            _ => false,
        }
    }

    /// How many strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        self.text.get(start..end)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * 4
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    /// # Panics
    /// When the whole passes 4 GiB.
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        let mut list = Self::new();
        for s in iter {
            assert!(list.push(s.as_ref()), "more than 4 GiB of strings");
        }
        list
    }
}

const EMPTY: u32 = u32::MAX;

/// Strings with an index: open addressing over ids, so that no text is kept twice. The hash is keyed at random, so a
/// hostile vocabulary cannot make every token collide.
#[derive(Clone, Debug)]
pub(super) struct Vocab {
    strings: Strings,
    slots: Vec<u32>,
    hash: RandomState,
    longest: usize,
}

impl Vocab {
    /// Indexes `strings`; the ids of two equal ones and their text as the error.
    pub fn new(strings: Strings) -> Result<Self, (u32, u32, String)> {
        let longest = strings.iter().map(str::len).max().unwrap_or(0);
        let mut vocab = Self { strings, slots: Vec::new(), hash: RandomState::new(), longest };
        match vocab.rehash() {
            Ok(()) => Ok(vocab),
            Err((first, second)) => Err((first, second, vocab.text(first).to_owned())),
        }
    }

    fn rehash(&mut self) -> Result<(), (u32, u32)> {
        let slots = (self.strings.len() * 2).next_power_of_two().max(16);
        self.slots = vec![EMPTY; slots];
        for id in 0..self.strings.len() as u32 {
            let text = self.strings.get(id as usize).unwrap_or_default();
            match self.probe(text) {
                (_, Some(first)) => return Err((first, id)),
                (slot, None) => self.slots[slot] = id,
            }
        }
        Ok(())
    }

    /// The slot where `text` is or would go, and its id if it is there.
    fn probe(&self, text: &str) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let mut slot = self.hash.hash_one(text) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return (slot, None),
                id if self.text(id) == text => return (slot, Some(id)),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// The id of `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest { None } else { self.probe(text).1 }
    }

    /// The id of `text`, which is added if it is not there; `None` when there is no room.
    pub fn intern(&mut self, text: &str) -> Option<u32> {
        if let Some(id) = self.find(text) {
            return Some(id);
        }
        let id = u32::try_from(self.strings.len()).ok()?;
        if !self.strings.push(text) {
            return None;
        }
        self.longest = self.longest.max(text.len());
        if self.strings.len() * 2 > self.slots.len() {
            self.rehash().ok()?;
        } else {
            let (slot, _) = self.probe(text);
            self.slots[slot] = id;
        }
        Some(id)
    }

    /// The text of `id`, empty when there is none.
    pub fn text(&self, id: u32) -> &str {
        self.strings.get(id as usize).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.strings.len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.strings.heap_bytes() + self.slots.capacity() * 4
    }
}
