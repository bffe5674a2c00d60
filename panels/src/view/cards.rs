//! The choices: one card an axis of the catalogue, one variant a technique.

use super::Sets;

/// Cards under one heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// `Weights`, `KV cache`, `Where it lives`.
    pub title: String,
    /// In order.
    pub cards: Vec<Card>,
}

/// One axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// Its key, such as `kv.select`.
    pub key: String,
    /// Its words on screen: `Tokens to keep`.
    pub title: String,
    /// What it is about, in one sentence.
    pub sentence: String,
    /// Shown only under Advanced.
    pub advanced: bool,
    /// Its values, the common ones first; exactly one is chosen, or none when keys and values differ.
    pub variants: Vec<Variant>,
    /// What is chosen, when no single variant is: `q8_0 / q4_0`.
    pub mixed: Option<String>,
    /// Knobs beside the variants that belong to the axis whatever is chosen, such as the shared cache budget.
    pub knobs: Vec<Knob>,
}

/// One technique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// Its id.
    pub id: String,
    /// Its name on screen.
    pub title: String,
    /// What it does, in one sentence.
    pub sentence: String,
    /// Where it comes from.
    pub paper: String,
    /// True for the choice that is made.
    pub chosen: bool,
    /// Shown without asking for all techniques.
    pub common: bool,
    /// What choosing it sets.
    pub sets: Sets,
    /// What it would cost; `None` while not known yet.
    pub price: Option<Price>,
    /// Why it cannot be chosen here; empty when it can.
    pub refused: String,
    /// Accuracy measured with it on this model, in words; empty: not measured here.
    pub accuracy: String,
    /// Its own knobs, under Advanced, when it is chosen.
    pub knobs: Vec<Knob>,
}

/// Bytes of the limited tier at the peak, and tokens a second, now and with the change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Peak now, in bytes.
    pub before: u64,
    /// Peak then, in bytes.
    pub after: u64,
    /// What it moves to RAM and to disk, in bytes; negative frees.
    pub elsewhere: (i64, i64),
    /// Predicted decoding tokens a second now and then.
    pub speed: (f64, f64),
    /// True when it then is within every limit.
    pub fits: bool,
}

impl Price {
    /// The difference in bytes.
    pub fn change(&self) -> i64 {
        self.after as i64 - self.before as i64
    }
}

/// A parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knob {
    /// Its key, such as `kv.select.n_sink`.
    pub key: String,
    /// Its words on screen.
    pub label: String,
    /// The paper's name for it, where it differs.
    pub paper_name: String,
    /// What it is about, in one sentence.
    pub sentence: String,
    /// `rows`, `tokens`, `ratio`, or empty.
    pub unit: String,
    /// Type and range.
    pub kind: Kind,
    /// Its value as TOML, without quotes for a text.
    pub value: String,
    /// What it is when not given; empty when it has none.
    pub default: String,
}

/// The type and range of a knob.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kind {
    /// A whole number.
    Int {
        /// The least value allowed.
        min: i64,
        /// The greatest value allowed.
        max: i64,
    },
    /// A number.
    Float {
        /// The least value allowed.
        min: f64,
        /// The greatest value allowed.
        max: f64,
    },
    /// true or false.
    Bool,
    /// One of a few words.
    Word(Vec<String>),
    /// Free text.
    #[default]
    Text,
}
