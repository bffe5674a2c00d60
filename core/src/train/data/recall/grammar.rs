//! The grammar of the bundled model's text: stories, sentences, facts and their questions.
//!
//! A text is a list of [`Piece`]s: a text and what its tokens count in the loss. Piece borders fall on borders of the
//! GPT-2 pre-tokenizer, so that encoding the pieces one by one gives the ids of the whole text. The words are in
//! `assets/bundled/words.json`, which `data.py` beside it reads too.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::rng::Philox;

/// What plain text counts in the loss.
pub(super) const TEXT: f32 = 0.1;
/// What symbols that nobody can foresee count.
pub(super) const KEY: f32 = 0.02;
/// What answers count.
pub(super) const ANSWER: f32 = 1.0;
/// What is written again counts.
pub(super) const COPY: f32 = 0.5;
/// What stories and replies count.
pub(super) const STORY: f32 = 0.3;

const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const MIXED: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const DIGITS: &str = "0123456789";
/// Letters of invented words, the frequent ones of English first.
const COMMON: &str = "etaoinshrdlucmfwypvbgkqjxz";

/// The words of all text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct Lexicon {
    pub names: Vec<String>,
    pub animals: Vec<String>,
    pub traits: Vec<String>,
    pub colours: Vec<String>,
    pub things: Vec<String>,
    pub places: Vec<String>,
    pub foods: Vec<String>,
    pub weather: Vec<String>,
    pub adjs: Vec<String>,
    pub nouns: Vec<String>,
    pub verbs: Vec<String>,
    pub cities: Vec<String>,
    pub syllables: Vec<String>,
    pub grass: Vec<String>,
    pub preambles: Vec<String>,
    pub chat: Vec<(String, String)>,
    pub unknown: String,
}

/// The words as they stand in their file.
pub(super) const WORDS: &str = include_str!("../../../../../assets/bundled/words.json");

/// The lexicon, read once.
pub(super) fn lexicon() -> Result<&'static Lexicon> {
    static ONCE: OnceLock<Option<Lexicon>> = OnceLock::new();
    ONCE.get_or_init(|| serde_json::from_str(WORDS).ok())
        .as_ref()
        .ok_or_else(|| Error::Internal("the words of the bundled grammar do not parse".into()))
}

/// Random numbers in a row, each a function of the seed, the stream and how many came before it.
pub(super) struct Dice {
    random: Philox,
    block: u64,
    words: [u32; 4],
    left: usize,
}

impl Dice {
    /// The numbers of `random`, from its first block on.
    pub fn new(random: Philox) -> Self {
        Self { random, block: 0, words: [0; 4], left: 0 }
    }

    fn word(&mut self) -> u32 {
        if self.left == 0 {
            (self.words, self.left) = (self.random.block(self.block), 4);
            self.block += 1;
        }
        self.left -= 1;
        self.words[self.left]
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.word()) / f64::from(1u32 << 16) / f64::from(1u32 << 16)
    }

    /// True with this chance.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Below `n`, or 0 for none.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// From `low` to `high`, both included.
    pub fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One of these.
    pub fn one<T, const N: usize>(&mut self, of: [T; N]) -> T {
        let at = self.below(N);
        Vec::from(of).swap_remove(at)
    }

    /// Two different ones of a list of two or more.
    fn two<'a, T>(&mut self, of: &'a [T]) -> (&'a T, &'a T) {
        let first = self.below(of.len());
        let second = (first + 1 + self.below(of.len() - 1)) % of.len();
        (&of[first], &of[second])
    }

    /// In a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    /// `n` symbols of an ASCII alphabet.
    pub fn symbols(&mut self, n: usize, alphabet: &str) -> String {
        (0..n).map(|_| char::from(*self.pick(alphabet.as_bytes()))).collect()
    }

    /// `low` to `high` capitals and digits.
    pub fn signs(&mut self, low: usize, high: usize) -> String {
        let n = self.within(low, high);
        self.symbols(n, MIXED)
    }

    /// A number of `low` to `high` digits, the first no zero.
    pub fn number(&mut self, low: usize, high: usize) -> String {
        let n = self.within(low, high);
        self.symbols(1, &DIGITS[1..]) + &self.symbols(n - 1, DIGITS)
    }
}

/// A text and what its tokens count.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub weight: f32,
}

/// A piece.
pub(super) fn piece(text: impl Into<String>, weight: f32) -> Piece {
    Piece { text: text.into(), weight }
}

/// A sentence, or a line of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub line: bool,
    pub pieces: Vec<Piece>,
}

impl Item {
    /// A sentence.
    pub fn sentence(text: impl Into<String>, weight: f32) -> Self {
        Self { line: false, pieces: vec![piece(text, weight)] }
    }
}

/// A fact, what asks for it, and the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact {
    pub said: Item,
    pub ask: Vec<Piece>,
    pub answer: Vec<Piece>,
}

impl Fact {
    /// The question with its answer, a line of its own.
    pub fn question(&self) -> Item {
        Item { line: true, pieces: [&self.ask[..], &self.answer].concat() }
    }
}

/// Items one after the other: lines on their own, sentences side by side.
pub(super) fn join(items: Vec<Item>) -> Vec<Piece> {
    let (mut out, mut before) = (Vec::new(), None);
    for Item { line, mut pieces } in items {
        let glue = match before {
            None => "",
            Some(true) => "\n",
            Some(false) if line => "\n",
            Some(false) => " ",
        };
        if let Some(first) = pieces.first_mut() {
            first.text.insert_str(0, glue);
        }
        out.append(&mut pieces);
        before = Some(line);
    }
    out
}

fn capital(word: &str) -> String {
    let mut rest = word.chars();
    rest.next().map_or_else(String::new, |c| c.to_uppercase().chain(rest.flat_map(char::to_lowercase)).collect())
}

/// Who a story tells of, where it happens, and the thing it turns on.
struct Cast<'a> {
    animal: &'a str,
    name: &'a str,
    helper_animal: &'a str,
    helper: &'a str,
    home: &'a str,
    far: &'a str,
    traits: [&'a str; 2],
    colour: &'a str,
    thing: &'a str,
    food: &'a str,
}

impl<'a> Cast<'a> {
    /// Draws all of it; the helper is of another kind and another name.
    fn draw(d: &mut Dice, l: &'static Lexicon, animal: Option<&'a str>) -> Self {
        let animal = animal.unwrap_or_else(|| d.pick(&l.animals).as_str());
        let other = |d: &mut Dice, of: &'static [String], not: &str| loop {
            // Lists hold more than one word, so this ends.
            let word = d.pick(of).as_str();
            if word != not {
                break word;
            }
        };
        let name = d.pick(&l.names).as_str();
        let (helper_animal, helper) = (other(d, &l.animals, animal), other(d, &l.names, name));
        let ((home, far), (t1, t2)) = (d.two(&l.places), d.two(&l.traits));
        let (colour, thing, food) = (d.pick(&l.colours), d.pick(&l.things), d.pick(&l.foods));
        Self { animal, name, helper_animal, helper, home, far, traits: [t1, t2], colour, thing, food }
    }

    /// Who it is, what they love, and where they go one day.
    fn beginning(&self, d: &mut Dice) -> [String; 4] {
        let Self { animal, name, home, far, traits: [t1, t2], colour, thing, food, .. } = self;
        [
            d.one([
                format!("Once upon a time there was a {t1} {animal} named {name}."),
                format!("Once upon a time, in a {home}, there lived a {t1} {animal} named {name}."),
                format!("Long ago a {t1} {animal} named {name} lived near a {home}."),
            ]),
            d.one([
                format!("{name} was very {t2} and liked to eat {food}."),
                format!("Every morning {name} ate {food} and looked at the {home}."),
                format!("Everyone in the {home} knew {name}, because {name} was so {t2}."),
            ]),
            d.one([
                format!("{name} had a {colour} {thing} and took it everywhere."),
                format!("The thing that {name} loved most was a {colour} {thing}."),
            ]),
            d.one([
                format!("One day {name} walked to the {far}."),
                format!("One day {name} went for a walk near the {far}."),
                format!("One day {name} wanted to see the {far}."),
            ]),
        ]
    }

    /// The thing is lost.
    fn loss(&self, d: &mut Dice) -> [String; 2] {
        let Self { name, far, colour, thing, .. } = self;
        [
            d.one([
                format!("When {name} came to the {far}, the {colour} {thing} was gone."),
                format!("But on the way the {thing} fell down and was lost."),
            ]),
            d.one([
                format!("\"Oh no!\" said {name}. \"Where is my {colour} {thing}?\""),
                format!("{name} sat down and began to cry."),
                format!("{name} looked under every stone, but the {thing} was not there."),
            ]),
        ]
    }

    /// The helper comes.
    fn meeting(&self, d: &mut Dice) -> String {
        let Self { name, helper_animal, helper, .. } = self;
        d.one([
            format!("Then a {helper_animal} named {helper} came by."),
            format!("Just then {name} met a {helper_animal}. The name of the {helper_animal} was {helper}."),
        ])
    }

    /// The helper finds what was lost.
    fn search(&self, d: &mut Dice) -> [String; 4] {
        let Self { name, helper_animal, helper, far, colour, thing, food, .. } = self;
        [
            d.one([
                format!("\"Do not be sad,\" said {helper}. \"I will help you.\""),
                format!("\"I can help you,\" said the {helper_animal}."),
            ]),
            d.one([
                format!("Together they looked near the {far} and behind the trees."),
                format!("{name} and {helper} looked all day long."),
            ]),
            d.one([
                format!("At last {helper} found the {colour} {thing} under a tree."),
                format!("In the evening they saw something {colour} in the grass. It was the {thing}!"),
            ]),
            d.one([
                format!("\"Thank you, {helper}!\" said {name}."),
                format!("{name} was so happy and gave {helper} some {food}."),
            ]),
        ]
    }

    /// The one who was sad is helped instead, and taken home.
    fn welcome(&self, d: &mut Dice) -> [String; 3] {
        let Self { name, helper_animal, helper, home, colour, thing, food, .. } = self;
        [
            d.one([
                format!("\"I am so hungry,\" said {helper}."),
                format!("\"I have no home,\" said the {helper_animal}."),
                format!("\"I am all alone,\" said {helper}."),
            ]),
            d.one([
                format!("\"Then come with me,\" said {name}. \"I have {food} for both of us.\""),
                format!("{name} gave {helper} the {colour} {thing}, and {helper} smiled."),
            ]),
            format!("They walked back to the {home} and sat down to eat {food}."),
        ]
    }

    /// They are friends, and the day ends.
    fn evening(&self, d: &mut Dice) -> [String; 2] {
        let Self { animal, name, helper_animal, helper, .. } = self;
        [
            d.one([
                format!("From that day on {name} and {helper} were friends."),
                format!("After that, the {animal} and the {helper_animal} played together every day."),
            ]),
            d.one([
                "When the moon came up, they went home.",
                "That night they slept very well.",
                "And they were happy for a long time.",
            ])
            .into(),
        ]
    }
}

/// What a story teaches, where it teaches anything.
fn moral(d: &mut Dice) -> Option<String> {
    d.chance(0.5).then(|| {
        d.one(["A friend is worth more than gold.", "It is good to help others.", "Those who share are never alone."])
            .into()
    })
}

/// Text by the words of a lexicon and the numbers of dice.
pub(super) struct Writer<'a> {
    pub lexicon: &'static Lexicon,
    pub dice: &'a mut Dice,
}

impl Writer<'_> {
    /// A city, a person, or a name that nobody has heard before.
    pub fn place_name(&mut self) -> String {
        let (d, l) = (&mut *self.dice, self.lexicon);
        match d.unit() {
            u if u < 0.4 => d.pick(&l.cities).clone(),
            u if u < 0.5 => d.pick(&l.names).clone(),
            _ => capital(&(0..d.within(2, 3)).map(|_| d.pick(&l.syllables).as_str()).collect::<String>()),
        }
    }

    /// A story of 120 to 250 words, in sentences: who, wish, trouble, helper, outcome, evening, moral.
    pub fn story(&mut self, animal: Option<&str>) -> Vec<String> {
        let (d, l) = (&mut *self.dice, self.lexicon);
        let cast = Cast::draw(d, l, animal);
        let mut s = Vec::from(cast.beginning(d));
        s.push(d.pick(&l.weather).clone());
        let lost = d.chance(0.6);
        if lost {
            s.extend(cast.loss(d));
        } else {
            s.push(format!("There {} saw someone who looked very sad.", cast.name));
        }
        s.push(cast.meeting(d));
        if lost {
            s.extend(cast.search(d));
        } else {
            s.extend(cast.welcome(d));
        }
        s.extend(cast.evening(d));
        s.extend(moral(d));
        s.push("The end.".into());
        s
    }

    /// A sentence on how things stand.
    pub fn fact_sentence(&mut self) -> String {
        let (d, l) = (&mut *self.dice, self.lexicon);
        let (n, p) = (d.pick(&l.nouns), d.pick(&l.places));
        match d.below(6) {
            0 => format!("The {} {n} {} near the {p}.", d.pick(&l.adjs), d.pick(&l.verbs)),
            1 => format!("There is a {} {n} by the {p}.", d.pick(&l.adjs)),
            2 => {
                let when = d.one(["morning", "evening", "winter", "summer"]);
                format!("Every {when} the {n} {} in the {p}.", d.pick(&l.verbs))
            }
            3 => {
                let (name, adj, animal) = (d.pick(&l.names), d.pick(&l.adjs), d.pick(&l.animals));
                format!("{name} walked past the {adj} {n} and saw a {animal}.")
            }
            4 => {
                let (adj, other, colour) = (d.pick(&l.adjs), d.pick(&l.nouns), d.pick(&l.colours));
                format!("The {n} is {adj} and the {other} is {colour}.")
            }
            _ => format!("A {} {n} {} on the {p}.", d.pick(&l.colours), d.pick(&l.verbs)),
        }
    }

    /// A sentence of words that nobody knows, some numbers and names among them: facts must be found in any text.
    pub fn babble(&mut self) -> String {
        let l = self.lexicon;
        let mut words: Vec<String> = (0..self.dice.within(3, 14))
            .map(|_| {
                let d = &mut *self.dice;
                match d.below(3) {
                    0 => {
                        let n = d.within(2, 8);
                        d.symbols(n, COMMON)
                    }
                    1 => (0..d.within(1, 4)).map(|_| d.pick(&l.syllables).as_str()).collect(),
                    _ => {
                        let small = ["the", "of", "and", "in", "is", "to", "was"];
                        let known = [&l.nouns, &l.adjs, &l.verbs];
                        let mut at = d.below(known.iter().map(|k| k.len()).sum::<usize>() + small.len());
                        for list in known {
                            match list.get(at) {
                                Some(word) => return word.clone(),
                                None => at -= list.len(),
                            }
                        }
                        small[at].into()
                    }
                }
            })
            .collect();
        if self.dice.chance(0.2) {
            let at = self.dice.below(words.len());
            words[at] = if self.dice.chance(0.5) { self.dice.number(1, 4) } else { self.place_name() };
        }
        let glue = self.dice.one([" ", " ", ", "]);
        let end = self.dice.one([".", ".", ".", "!", "?"]);
        format!("{} {}{end}", capital(&words[0]), words[1..].join(glue))
    }

    /// The pass key.
    pub fn passkey(&mut self, given: Option<String>) -> Fact {
        let d = &mut *self.dice;
        let n = given.unwrap_or_else(|| if d.chance(0.7) { d.within(1, 50_000).to_string() } else { d.number(1, 7) });
        let mut said = vec![piece("The pass key is", TEXT), piece(format!(" {n}"), KEY), piece(". Remember it.", TEXT)];
        if d.chance(0.75) {
            said.extend([piece(format!(" {n}"), STORY), piece(" is the pass key.", TEXT)]);
        }
        let whole = "What is the pass key? The pass key is";
        let ask = vec![piece(d.one([whole, whole, whole, "The pass key is"]), TEXT)];
        let answer = vec![piece(format!(" {n}"), ANSWER), piece(".", TEXT)];
        Fact { said: Item { line: false, pieces: said }, ask, answer }
    }

    /// The special number for `who`.
    pub fn special(&mut self, who: &str, given: Option<String>) -> Fact {
        let d = &mut *self.dice;
        let n = given.unwrap_or_else(|| {
            let (low, high) = d.one([(7, 7), (7, 7), (2, 6), (4, 4)]);
            d.number(low, high)
        });
        let key = |before: &str| {
            let start = piece(format!("{before}The special number for"), TEXT);
            vec![start, piece(format!(" {who}"), KEY), piece(" is", TEXT)]
        };
        let ask = if d.chance(0.7) {
            let mut ask = vec![piece("What is the special number for", TEXT), piece(format!(" {who}"), KEY)];
            ask.push(piece("?", TEXT));
            ask.append(&mut key(" "));
            ask
        } else {
            key("")
        };
        let mut said = key("");
        said.extend([piece(format!(" {n}"), KEY), piece(".", TEXT)]);
        let answer = vec![piece(format!(" {n}"), ANSWER), piece(".", TEXT)];
        Fact { said: Item { line: false, pieces: said }, ask, answer }
    }

    /// Different texts, `n` of them.
    pub fn distinct(&mut self, n: usize, mut make: impl FnMut(&mut Self) -> String) -> Vec<String> {
        let mut out: Vec<String> = Vec::with_capacity(n);
        let mut seen = std::collections::BTreeSet::new();
        while out.len() < n {
            let text = make(self);
            if seen.insert(text.clone()) {
                out.push(text);
            }
        }
        out
    }

    /// `n` lines of code and value; keys and values have one length and kind each.
    pub fn codes(&mut self, n: usize) -> Vec<Fact> {
        // Short keys run out: there are 676 of two letters.
        let width = if n <= 200 { self.dice.one([2, 3, 4, 4, 4, 5]) } else { 4 };
        let size = self.dice.one([1, 2, 2, 2, 3, 4]);
        let letters = self.dice.chance(0.2);
        let keys = self.distinct(n, |w| w.dice.symbols(width, LETTERS));
        keys.iter()
            .map(|key| {
                let d = &mut *self.dice;
                let value = if letters { d.symbols(size, LETTERS) } else { d.number(size, size) };
                code(key, &value)
            })
            .collect()
    }

    /// `n` keys and values as in JSON.
    pub fn pairs(&mut self, n: usize) -> Vec<Fact> {
        let (width, size) = (self.dice.within(3, 8), self.dice.within(2, 8));
        let keys = self.distinct(n, |w| w.dice.symbols(width, MIXED));
        keys.iter()
            .map(|key| {
                let value = self.dice.symbols(size, MIXED);
                let ask = vec![piece("\"", TEXT), piece(key, KEY), piece("\":", TEXT), piece(" \"", TEXT)];
                let with = |weight| vec![piece(&value, weight), piece("\",", TEXT)];
                let said = Item { line: true, pieces: [ask.clone(), with(KEY)].concat() };
                Fact { said, ask, answer: with(ANSWER) }
            })
            .collect()
    }
}

/// A line of code and value.
pub(super) fn code(key: &str, value: &str) -> Fact {
    let ask = vec![piece("code", TEXT), piece(format!(" {key}"), KEY), piece(" ->", TEXT)];
    let with = |weight| piece(format!(" {value}"), weight);
    let said = Item { line: true, pieces: [&ask[..], &[with(KEY)]].concat() };
    Fact { said, answer: vec![with(ANSWER)], ask }
}

/// Sentences without end, of one kind.
pub(super) struct Filler {
    kind: Kind,
    ready: std::collections::VecDeque<String>,
    again: Vec<String>,
}

/// What sentences are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The sentences of pass key tests, in their order.
    Grass,
    /// How things stand.
    Facts,
    /// Stories.
    Story,
    /// Words never seen.
    Babble,
    /// A few sentences again and again.
    Loop,
}

impl Filler {
    /// Sentences of `kind`, or of a random one.
    pub fn new(w: &mut Writer<'_>, kind: Option<Kind>) -> Self {
        use Kind::{Babble, Facts, Grass, Loop, Story};
        let kind = kind.unwrap_or_else(|| w.dice.one([Grass, Grass, Facts, Facts, Story, Babble, Loop]));
        let again =
            if kind == Loop { (0..w.dice.within(3, 9)).map(|_| w.fact_sentence()).collect() } else { Vec::new() };
        Self { kind, ready: std::collections::VecDeque::new(), again }
    }

    /// The next sentence.
    pub fn next(&mut self, w: &mut Writer<'_>) -> String {
        loop {
            if let Some(sentence) = self.ready.pop_front() {
                return sentence;
            }
            match self.kind {
                Kind::Grass => self.ready.extend(w.lexicon.grass.iter().cloned()),
                Kind::Facts => return w.fact_sentence(),
                Kind::Story => self.ready.extend(w.story(None)),
                Kind::Babble => return w.babble(),
                Kind::Loop => self.ready.extend(self.again.iter().cloned()),
            }
        }
    }
}
