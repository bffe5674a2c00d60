//! A task that no model knows beforehand and that can be measured exactly: a small made-up language.
//!
//! `bundled:task-tova` translates phrases such as *the red fox sleeps* into Tova, whose words are drawn from the seed and
//! whose order is animal, colour, verb. What is held out are **pairs** of colour and animal: a held-out phrase never occurs
//! in training, nor does its pair with another verb, while each of its words does, beside others. Who remembers
//! sentences answers none of them; who has learned words and order answers all.

use super::source::Source;
use crate::error::{Error, Result};
use crate::rng::Philox;

/// This data.
pub static SOURCE: Source = Source {
    form: "bundled:task-NAME",
    what: "a made-up language drawn from a seed, such as bundled:task-tova@7, whose held-out phrases tell learning from memory",
    made: true,
    text: true,
    takes: |data| data.starts_with("bundled:"),
    open: super::packed,
};

/// The name of the task.
pub const TOVA: &str = "task-tova";

const COLOURS: [&str; 10] = ["red", "blue", "green", "yellow", "white", "black", "brown", "purple", "golden", "silver"];
const ANIMALS: [&str; 12] =
    ["fox", "bear", "rabbit", "cat", "dog", "mouse", "owl", "duck", "frog", "turtle", "horse", "goat"];
const VERBS: [&str; 6] = ["sleeps", "waits", "rests", "turns", "sits", "falls"];
/// Words of the language.
const WORDS: usize = COLOURS.len() + ANIMALS.len() + VERBS.len();

const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
const VOWELS: &[u8] = b"aeiou";

/// Animals held out for each colour. Every colour keeps ten animals, every animal eight colours or more.
const HELD_OUT: usize = 2;

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What is asked, up to where the answer begins.
    pub prompt: String,
    /// The answer, its leading space and its line end included.
    pub response: String,
}

/// A generated task: everything follows from the seed.
#[derive(Clone, Debug)]
pub struct Task {
    train: Vec<Example>,
    held_out: Vec<Example>,
}

impl Task {
    /// The task called `task-tova`, or `task-tova@SEED`.
    ///
    /// # Errors
    /// [`Error::Config`] at `train.data` when there is no such task, or no such seed.
    pub fn find(name: &str) -> Result<Self> {
        let (task, seed) = name.split_once('@').unwrap_or((name, "0"));
        let wrong = |message: String| Error::config("train.data", format!("`bundled:{name}`: {message}"));
        if task != TOVA {
            return Err(wrong(format!("there is no bundled data `{task}`; there are `{TOVA}` and `recall`")));
        }
        seed.parse().map(Self::tova).map_err(|_| wrong(format!("`{seed}` is not a seed; a whole number, 0 or more")))
    }

    /// The language of `seed`.
    pub fn tova(seed: u64) -> Self {
        let rng = Philox::new(seed).stream(0x746f_7661);
        let words = words(&rng);
        let (animals, rest) = words.split_at(ANIMALS.len());
        let (colours, verbs) = rest.split_at(COLOURS.len());
        let row = super::permutation(ANIMALS.len(), rng.stream(0x746f_7662));
        let column = super::permutation(COLOURS.len(), rng.stream(0x746f_7663));
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (c, colour) in COLOURS.iter().enumerate() {
            for (a, animal) in ANIMALS.iter().enumerate() {
                // Two neighbours on a ring of animals, another place of it for every colour.
                let at = (row[a] as usize + ANIMALS.len() - column[c] as usize) % ANIMALS.len();
                let side = if at < HELD_OUT { &mut held_out } else { &mut train };
                for (v, verb) in VERBS.iter().enumerate() {
                    side.push(Example {
                        prompt: format!("English: the {colour} {animal} {verb}\nTova:"),
                        response: format!(" {} {} {}\n", animals[a], colours[c], verbs[v]),
                    });
                }
            }
        }
        let shuffled = |examples: Vec<Example>, stream| -> Vec<Example> {
            let order = super::permutation(examples.len(), rng.stream(stream));
            order.iter().map(|i| examples[*i as usize].clone()).collect()
        };
        Self { train: shuffled(train, 0x746f_7664), held_out: shuffled(held_out, 0x746f_7665) }
    }

    /// What is learned from: 600 phrases.
    pub fn train(&self) -> &[Example] {
        &self.train
    }

    /// What is measured with: 120 phrases, in no particular order.
    pub fn held_out(&self) -> &[Example] {
        &self.held_out
    }
}

/// [`WORDS`] different words of two syllables.
fn words(rng: &Philox) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(WORDS);
    let mut draw = 0;
    while out.len() < WORDS {
        let letter = |i: u64, of: &[u8]| char::from(of[rng.below(4 * draw + i, of.len() as u64) as usize]);
        let word: String =
            [CONSONANTS, VOWELS, CONSONANTS, VOWELS].iter().zip(0..).map(|(of, i)| letter(i, of)).collect();
        // No two words that differ in one letter only, so that a slip is a mistake and not another word.
        if out.iter().all(|w| w.bytes().zip(word.bytes()).filter(|(a, b)| a != b).count() > 1) {
            out.push(word);
        }
        draw += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words_of(example: &Example) -> [&str; 3] {
        let mut words = example.prompt.split_whitespace().skip(2);
        [(); 3].map(|()| words.next().unwrap())
    }

    #[test]
    fn held_out_pairs_never_occur_in_training_and_each_of_their_words_does() {
        for seed in [0, 1, 99] {
            let task = Task::tova(seed);
            assert_eq!((task.train().len(), task.held_out().len()), (600, 120));
            let pairs = |of: &[Example]| -> BTreeSet<(String, String)> {
                of.iter().map(words_of).map(|[c, a, _]| (c.to_owned(), a.to_owned())).collect()
            };
            let (train, held) = (pairs(task.train()), pairs(task.held_out()));
            assert!(train.is_disjoint(&held));
            assert_eq!((train.len(), held.len()), (100, 20));
            for colour in COLOURS {
                assert_eq!(train.iter().filter(|(c, _)| c == colour).count(), 10, "{colour}");
            }
            for animal in ANIMALS {
                assert!(train.iter().filter(|(_, a)| a == animal).count() >= 8, "{animal}");
            }
        }
    }

    #[test]
    fn an_answer_is_made_word_by_word_and_words_do_not_collide() {
        let task = Task::tova(3);
        let mut meaning = std::collections::BTreeMap::new();
        for e in task.train().iter().chain(task.held_out()) {
            let [c, a, v] = words_of(e);
            let answer: Vec<&str> = e.response.split_whitespace().collect();
            for (english, tova) in [a, c, v].into_iter().zip(answer) {
                assert_eq!(*meaning.entry(english.to_owned()).or_insert(tova.to_owned()), tova);
            }
        }
        let distinct: BTreeSet<_> = meaning.values().collect();
        assert_eq!((meaning.len(), distinct.len()), (WORDS, WORDS));
    }

    #[test]
    fn the_seed_is_the_language_and_an_unknown_name_is_named() {
        assert_eq!(Task::find("task-tova@7").unwrap().train(), Task::tova(7).train());
        assert_ne!(Task::tova(7).train()[0], Task::tova(8).train()[0]);
        for (name, word) in [("task-nova", "task-tova"), ("task-tova@x", "`x`"), ("recall", "recall")] {
            assert!(Task::find(name).unwrap_err().to_string().contains(word), "{name}");
        }
    }
}
