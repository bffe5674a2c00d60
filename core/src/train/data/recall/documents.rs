//! Documents of the bundled model's text, and the stretches of tokens they are set into.
//!
//! Kinds of document by weight: *haystack* (facts hidden in filler, questions at the end), *codes* (lines of key and value,
//! then the questions in another order: multi-query associative recall in text), *repeat* (random ids, groups of symbols or
//! words, given once and then again), *stories*, *chat* (short dialogues on all of these).

use std::collections::HashMap;

use super::grammar::{ANSWER, COPY, Dice, Fact, Filler, Item, KEY, Kind, Lexicon, Piece, STORY, TEXT, Writer};
use super::grammar::{code, join, piece};
use crate::error::{Error, Result};
use crate::model::text::Words;

/// Ids and what each counts in the loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Marked {
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Marked {
    fn push(&mut self, ids: &[u32], weight: f32) {
        self.ids.extend_from_slice(ids);
        self.weights.resize(self.ids.len(), weight);
    }

    fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        self.weights.truncate(n);
    }
}

/// Ids with a part of their own in this text.
#[derive(Clone, Debug)]
pub(super) struct Special {
    pub bos: u32,
    pub eos: u32,
    pub pad: u32,
    /// The first id that stands for text; those before it are specials.
    pub first: u32,
    /// Ids there are.
    pub vocab: u32,
    /// `<|system|>`, `<|user|>`, `<|assistant|>` and `<|endoftext|>` as they are written.
    pub written: Vec<(&'static str, u32)>,
}

impl Special {
    /// Those of a model's words.
    ///
    /// # Errors
    /// [`Error::Refused`] for words without the specials of the bundled model.
    pub fn of(words: &Words) -> Result<Self> {
        let other = || {
            Error::refused(
                "train.data = bundled:recall",
                "its text is in the bundled model's own words; train a model that has them, such as random:bundled:recall@f32",
            )
        };
        let tokenizer = words.tokenizer.as_ref().ok_or_else(other)?;
        let (Some(bos), Some(eos)) = (tokenizer.bos(), words.end()) else { return Err(other()) };
        let written = ["<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"]
            .into_iter()
            .map(|text| match words.encode_as(text, false, true)?[..] {
                [id] => Ok((text, id)),
                _ => Err(other()),
            })
            .collect::<Result<Vec<_>>>()?;
        let pad = tokenizer.pad().unwrap_or(0);
        let first = 1 + written.iter().map(|(_, id)| *id).chain([bos, eos, pad]).max().unwrap_or(0);
        if first as usize >= words.vocab() {
            return Err(other());
        }
        Ok(Self { bos, eos, pad, first, vocab: words.vocab() as u32, written })
    }
}

/// Most words whose ids are remembered.
const REMEMBERED: usize = 1 << 15;

/// Text to ids, the ids of words being remembered.
pub(super) struct Encoder<'a> {
    pub words: &'a Words,
    pub special: &'a Special,
    pub known: &'a mut HashMap<Box<str>, Box<[u32]>>,
}

impl Encoder<'_> {
    /// Appends the ids of `text`, which may be a special written out.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if let Some((_, id)) = self.special.written.iter().find(|(written, _)| *written == text) {
            out.push(*id);
            return Ok(());
        }
        // A blank between two signs begins a word of the pre-tokenizer: what lies between such blanks is encoded alone.
        let bytes = text.as_bytes();
        let begins = |i: usize| {
            bytes[i] == b' '
                && !bytes[i - 1].is_ascii_whitespace()
                && bytes.get(i + 1).is_some_and(|b| !b.is_ascii_whitespace())
        };
        let mut start = 0;
        for end in (1..bytes.len()).filter(|i| begins(*i)).chain([bytes.len()]) {
            let word = &text[start..end];
            start = end;
            if let Some(ids) = self.known.get(word) {
                out.extend_from_slice(ids);
                continue;
            }
            let ids = self.words.encode(word, false)?;
            out.extend_from_slice(&ids);
            if self.known.len() < REMEMBERED {
                self.known.insert(word.into(), ids.into());
            }
        }
        Ok(())
    }

    /// Ids of `text`.
    pub fn count(&mut self, text: &str) -> Result<usize> {
        let mut out = Vec::with_capacity(text.len());
        self.encode(text, &mut out)?;
        Ok(out.len())
    }

    /// The ids of all `pieces`, each with its piece's weight.
    pub fn pieces(&mut self, pieces: &[Piece]) -> Result<Marked> {
        let mut out = Marked::default();
        for Piece { text, weight } in pieces {
            self.encode(text, &mut out.ids)?;
            out.weights.resize(out.ids.len(), *weight);
        }
        Ok(out)
    }
}

/// Documents from dice.
pub(super) struct Maker<'a> {
    pub encoder: Encoder<'a>,
    pub lexicon: &'static Lexicon,
    pub dice: Dice,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    Haystack,
    Codes,
    Repeat,
    Stories,
    Chat,
}

/// Kinds of document in a hundred.
const KINDS: [(Document, usize); 5] = [
    (Document::Haystack, 45),
    (Document::Codes, 20),
    (Document::Repeat, 11),
    (Document::Stories, 14),
    (Document::Chat, 10),
];

/// Tokens below which what is left of a stretch stays empty.
const LEAST: usize = 48;

impl Maker<'_> {
    fn writer(&mut self) -> Writer<'_> {
        Writer { lexicon: self.lexicon, dice: &mut self.dice }
    }

    /// `n + 1` ids, of which the first `n` are read and the last `n` are predicted: documents of one kind, and padding that
    /// counts nothing. A token's weight is what predicting it counts.
    ///
    /// # Errors
    /// What the tokenizer says of a text that it cannot encode.
    pub fn stretch(&mut self, n: usize) -> Result<Marked> {
        let mut at = self.dice.below(100);
        let mut kind = Document::Haystack;
        for (k, share) in KINDS {
            if at < share {
                kind = k;
                break;
            }
            at -= share;
        }
        let mut out = Marked::default();
        while n + 1 >= out.ids.len() + LEAST {
            let room = n - 1 - out.ids.len();
            let size = match kind {
                Document::Haystack | Document::Codes if !self.dice.chance(0.8) => self.dice.within(room.min(64), room),
                _ => room,
            };
            let document = match kind {
                Document::Haystack => {
                    let pieces = self.haystack(size)?;
                    self.encoder.pieces(&pieces)?
                }
                Document::Codes => {
                    let pieces = self.code_list(size);
                    self.encoder.pieces(&pieces)?
                }
                Document::Repeat => self.repeat(size)?,
                Document::Stories => {
                    let pieces = self.told();
                    self.encoder.pieces(&pieces)?
                }
                Document::Chat => {
                    let pieces = self.chat(size)?;
                    self.encoder.pieces(&pieces)?
                }
            };
            out.push(&[self.encoder.special.bos], 0.0);
            out.ids.extend_from_slice(&document.ids);
            out.weights.extend_from_slice(&document.weights);
            out.push(&[self.encoder.special.eos], TEXT);
        }
        out.truncate(n + 1);
        out.ids.resize(n + 1, self.encoder.special.pad);
        out.weights.resize(n + 1, 0.0);
        Ok(out)
    }

    /// Facts in about `n` tokens of filler, then the questions. Facts lie at `depths` (0 the start), or anywhere.
    fn hide(
        &mut self,
        n: usize,
        facts: Vec<Item>,
        questions: Vec<Item>,
        kind: Option<Kind>,
        depths: Option<&[f64]>,
        preamble: Option<String>,
    ) -> Result<Vec<Piece>> {
        let head = preamble.map(|text| Item { line: true, pieces: vec![piece(text, TEXT)] });
        let mut taken = 4;
        for piece in head.iter().chain(&questions).chain(&facts).flat_map(|item| &item.pieces) {
            taken += self.encoder.count(&piece.text)? + 1;
        }
        let mut room = n.saturating_sub(taken);
        let mut filler = Filler::new(&mut self.writer(), kind);
        let mut sentences = Vec::new();
        loop {
            let sentence = filler.next(&mut self.writer());
            match room.checked_sub(self.encoder.count(&format!(" {sentence}"))?) {
                Some(left) => room = left,
                None => break,
            }
            sentences.push(Item::sentence(sentence, TEXT));
        }
        let whole = sentences.len() as f64;
        let mut placed: Vec<(usize, Item)> = Vec::with_capacity(facts.len());
        for (i, fact) in facts.into_iter().enumerate() {
            let depth = depths.and_then(|d| d.get(i).copied()).unwrap_or_else(|| self.dice.unit());
            placed.push(((depth * whole).round() as usize, fact));
        }
        placed.sort_by_key(|(at, _)| *at);
        // One walk over both, facts before the sentence they are placed at.
        let mut out: Vec<Item> = head.into_iter().collect();
        let mut placed = placed.into_iter().peekable();
        for (i, sentence) in sentences.into_iter().enumerate() {
            while let Some((_, fact)) = placed.next_if(|(at, _)| *at <= i) {
                out.push(fact);
            }
            out.push(sentence);
        }
        out.extend(placed.map(|(_, fact)| fact));
        out.extend(questions);
        Ok(join(out))
    }

    /// One to three kinds of facts in filler, and questions on some of them.
    pub fn haystack(&mut self, n: usize) -> Result<Vec<Piece>> {
        let left = (n as f64 * (0.05 + 0.45 * self.dice.unit())) as usize;
        let mut kinds = [0, 1, 2, 3];
        self.dice.shuffle(&mut kinds);
        let count = self.dice.one([1, 1, 1, 2, 2, 3]);
        let share = left / count;
        let mut facts: Vec<Fact> = Vec::new();
        for kind in kinds.into_iter().take(count) {
            let mut w = self.writer();
            let some = |w: &mut Writer<'_>, most: usize, each: usize| w.dice.within(1, most).min(share / each).max(1);
            match kind {
                0 => facts.push(w.passkey(None)),
                1 => {
                    let n = some(&mut w, 12, 40);
                    let names = w.distinct(n, Writer::place_name);
                    facts.extend(names.iter().map(|who| w.special(who, None)));
                }
                2 => {
                    let n = some(&mut w, 48, 30);
                    facts.extend(w.codes(n));
                }
                _ => {
                    let n = some(&mut w, 48, 30);
                    facts.extend(w.pairs(n));
                }
            }
        }
        let mut questions: Vec<Item> = facts.iter().map(Fact::question).collect();
        self.dice.shuffle(&mut questions);
        questions.truncate((left / 20).max(1));
        let preamble = self.dice.chance(0.4).then(|| self.dice.pick(&self.lexicon.preambles).clone());
        self.hide(n, facts.into_iter().map(|f| f.said).collect(), questions, None, None, preamble)
    }

    /// Lines of key and value, then every question.
    pub fn code_list(&mut self, n: usize) -> Vec<Piece> {
        let lines = ((n as f64 * (0.2 + 0.8 * self.dice.unit())) as usize / 22).max(1);
        let facts = if self.dice.chance(0.8) { self.writer().codes(lines) } else { self.writer().pairs(lines) };
        let mut questions: Vec<Item> = facts.iter().map(Fact::question).collect();
        self.dice.shuffle(&mut questions);
        join(facts.into_iter().map(|f| f.said).chain(questions).collect())
    }

    /// A story; at times after the start of some other sentence, so that any prompt ends in a story.
    pub fn told(&mut self) -> Vec<Piece> {
        let mut items = Vec::new();
        if self.dice.chance(0.35) {
            let whole = if self.dice.chance(0.5) { self.writer().babble() } else { self.writer().fact_sentence() };
            let words: Vec<&str> = whole[..whole.len() - 1].split(' ').collect();
            let some = self.dice.within(1, words.len());
            let adj = self.dice.pick(&self.lexicon.adjs);
            let pieces = vec![piece(words[..some].join(" "), KEY), piece(format!(" {adj}."), STORY)];
            items.push(Item { line: false, pieces });
        }
        items.extend(self.writer().story(None).into_iter().map(|s| Item::sentence(s, STORY)));
        join(items)
    }

    /// Something, and the same again. Random ids carry no text at all: attention is all that helps.
    fn repeat(&mut self, n: usize) -> Result<Marked> {
        let size = self.dice.within(4, (n / 2).saturating_sub(8).clamp(5, 400));
        let u = self.dice.unit();
        let mut out = Marked::default();
        let mut mark = Marked::default();
        let once = if u < 0.4 {
            let Special { first, vocab, .. } = *self.encoder.special;
            let ids: Vec<u32> = (0..size).map(|_| first + self.dice.below((vocab - first) as usize) as u32).collect();
            Marked { weights: vec![0.0; ids.len()], ids }
        } else {
            self.encoder.encode("Copy:", &mut out.ids)?;
            out.weights.resize(out.ids.len(), TEXT);
            self.encoder.encode("\nCopy:", &mut mark.ids)?;
            mark.weights.resize(mark.ids.len(), TEXT);
            let mut pieces = Vec::new();
            let l = self.lexicon;
            if u < 0.7 {
                pieces.extend((0..size / 5 + 1).map(|_| piece(format!(" {}", self.dice.signs(1, 6)), KEY)));
            } else if u < 0.9 {
                let lists = [&l.nouns, &l.animals, &l.things, &l.places, &l.cities, &l.names, &l.adjs, &l.foods];
                for _ in 0..size {
                    let list = *self.dice.pick(&lists);
                    pieces.push(piece(format!(" {}", self.dice.pick(list)), KEY));
                }
            } else {
                pieces.extend((0..size / 12 + 1).map(|_| piece(format!(" {}", self.writer().fact_sentence()), TEXT)));
            }
            self.encoder.pieces(&pieces)?
        };
        out.ids.extend_from_slice(&once.ids);
        out.weights.extend_from_slice(&once.weights);
        for _ in 0..self.dice.within(1, 3) {
            out.push(&mark.ids, TEXT);
            out.push(&once.ids, COPY);
        }
        out.truncate(n);
        Ok(out)
    }

    /// Short dialogues in the chat template.
    pub fn chat(&mut self, n: usize) -> Result<Vec<Piece>> {
        let mut out: Vec<Piece> = Vec::new();
        let mut turn = |role: &str, text: Vec<Piece>| {
            out.push(piece(format!("<|{role}|>"), TEXT));
            out.push(piece("\n", TEXT));
            out.extend(text);
            out.push(piece("<|endoftext|>", STORY));
            out.push(piece("\n", TEXT));
        };
        let l = self.lexicon;
        if self.dice.chance(0.2) {
            turn("system", vec![piece("You are a small model that remembers.", TEXT)]);
        }
        for _ in 0..self.dice.within(1, 2) {
            let u = self.dice.unit();
            if u < 0.35 {
                let a = self.dice.pick(&l.animals);
                let (ask, tale) = if self.dice.chance(0.3) {
                    let ask = self.dice.one(["Tell me a story.", "Please tell me a story.", "Write a short story."]);
                    (ask.to_owned(), self.writer().story(None))
                } else {
                    let ask = self.dice.one(["Tell me", "Please tell me", "Write"]);
                    (format!("{ask} a story about a {a}."), self.writer().story(Some(a)))
                };
                turn("user", vec![piece(ask, TEXT)]);
                turn("assistant", join(tale.into_iter().map(|s| Item::sentence(s, STORY)).collect()));
            } else if u < 0.55 {
                let (ask, answer) = if self.dice.chance(0.5) {
                    self.dice.pick(&l.chat).clone()
                } else {
                    let strange = self.writer().babble();
                    let strange = &strange[..strange.len() - 1];
                    let ask = if self.dice.chance(0.5) {
                        format!("{strange}?")
                    } else {
                        let what = self.dice.one(["What", "Where", "How", "Who", "Why"]);
                        let is = self.dice.one(["is", "are", "was", "do"]);
                        format!("{what} {is} {}?", strange.to_lowercase())
                    };
                    (ask, l.unknown.clone())
                };
                turn("user", vec![piece(ask, TEXT)]);
                turn("assistant", vec![piece(answer, STORY)]);
            } else {
                let (text, reply) = self.looked_up(n)?;
                turn("user", text);
                turn("assistant", reply);
            }
        }
        // The document's own end follows the last turn.
        out.truncate(out.len().saturating_sub(2));
        Ok(out)
    }

    /// A user's text with facts in it and a question, and the reply.
    fn looked_up(&mut self, n: usize) -> Result<(Vec<Piece>, Vec<Piece>)> {
        let count = self.dice.within(1, 4);
        let who = self.writer().distinct(count, Writer::place_name);
        let size = self.dice.within(40, (n / 2).clamp(50, 900));
        let (facts, ask, key) = if self.dice.chance(0.5) {
            let fact = self.writer().passkey(None);
            (vec![fact], " What is the pass key?".to_owned(), 0)
        } else {
            let facts: Vec<Fact> = who.iter().map(|name| self.writer().special(name, None)).collect();
            let key = self.dice.below(facts.len());
            (facts, format!(" What is the special number for {}?", who[key]), key)
        };
        let asked = &facts[key];
        // As the fact was said, up to its number, which is the answer.
        let until = asked.said.pieces.iter().position(|p| p.text.bytes().any(|b| b.is_ascii_digit())).unwrap_or(0);
        let mut reply = asked.said.pieces[..until].iter().map(|p| piece(&p.text, TEXT)).collect::<Vec<_>>();
        reply.extend(asked.answer.iter().cloned());
        let mut text = self.hide(size, facts.into_iter().map(|f| f.said).collect(), Vec::new(), None, None, None)?;
        text.push(piece(ask, TEXT));
        Ok((text, reply))
    }
}

/// What an exam asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exam {
    /// The pass key, in the sentences of pass key tests.
    Passkey,
    /// One of five special numbers among sentences.
    Needle,
    /// The same among words never seen.
    Babble,
    /// Each of sixteen lines of code and value.
    Codes,
}

impl Exam {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Passkey, "passkey"), (Self::Needle, "needle"), (Self::Babble, "babble"), (Self::Codes, "codes")];
}

impl Maker<'_> {
    /// An exam of at most `n` tokens, the fact that is asked for lying at `depth`; answers count 1, the rest nothing.
    ///
    /// # Errors
    /// What the tokenizer says of a text that it cannot encode.
    pub fn exam(&mut self, exam: Exam, n: usize, depth: f64) -> Result<Marked> {
        // Room for the first token and what rounding of depths adds.
        let n = n.saturating_sub(2);
        let pieces = match exam {
            Exam::Passkey => {
                let fact = self.writer().passkey(None);
                self.hide(n, vec![fact.said.clone()], vec![fact.question()], Some(Kind::Grass), Some(&[depth]), None)?
            }
            Exam::Needle | Exam::Babble => {
                let who = self.writer().distinct(5, Writer::place_name);
                let facts: Vec<Fact> = who.iter().map(|name| self.writer().special(name, None)).collect();
                let question = facts[0].question();
                let kind = if exam == Exam::Needle { Kind::Facts } else { Kind::Babble };
                let said = facts.into_iter().map(|f| f.said).collect();
                self.hide(n, said, vec![question], Some(kind), Some(&[depth]), None)?
            }
            Exam::Codes => {
                let keys = self.writer().distinct(16, |w| w.dice.symbols(4, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
                let facts: Vec<Fact> = keys.iter().map(|key| code(key, &self.dice.number(2, 2))).collect();
                let mut questions: Vec<Item> = facts.iter().map(Fact::question).collect();
                self.dice.shuffle(&mut questions);
                let said = facts.into_iter().map(|f| f.said).collect();
                self.hide(n, said, questions, Some(Kind::Facts), Some(&[0.0; 16]), None)?
            }
        };
        let mut out = Marked::default();
        out.push(&[self.encoder.special.bos], 0.0);
        let rest = self.encoder.pieces(&pieces)?;
        out.ids.extend(rest.ids);
        out.weights.extend(rest.weights.iter().map(|w| if *w == ANSWER { ANSWER } else { 0.0 }));
        Ok(out)
    }
}
