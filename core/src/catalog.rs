//! The catalogue: every technique as data.
//!
//! A technique is one file that defines a `static ENTRY: Entry`, one line in [`ENTRIES`], and its tests. From the entry
//! alone come the TOML validation, the command line's help, the docs' table and (later) the cards on screen. What a
//! technique *does* is its [`Role`]: a constructor for the trait of its axis.

use serde::Serialize;

use crate::config::{Config, KnobValue, Knobs};
use crate::error::{Error, Result};
use crate::{eval, kv, place, train, weights};

/// One independent choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub enum Axis {
    #[serde(rename = "weights.format")]
    WeightsFormat,
    #[serde(rename = "kv.select")]
    KvSelect,
    #[serde(rename = "kv.split")]
    KvSplit,
    #[serde(rename = "kv.merge")]
    KvMerge,
    #[serde(rename = "kv.channels")]
    KvChannels,
    #[serde(rename = "kv.format")]
    KvFormat,
    #[serde(rename = "kv.alloc")]
    KvAlloc,
    #[serde(rename = "place.weights")]
    PlaceWeights,
    #[serde(rename = "place.kv")]
    PlaceKv,
    #[serde(rename = "train.params")]
    TrainParams,
    #[serde(rename = "train.gradient")]
    TrainGradient,
    #[serde(rename = "train.optimizer")]
    TrainOptimizer,
    #[serde(rename = "train.activations")]
    TrainActivations,
    #[serde(rename = "train.loss")]
    TrainLoss,
    #[serde(rename = "train.order")]
    TrainOrder,
    #[serde(rename = "eval")]
    Eval,
}

impl Axis {
    /// Its key in TOML.
    pub const fn key(self) -> &'static str {
        match self {
            Self::WeightsFormat => "weights.format",
            Self::KvSelect => "kv.select",
            Self::KvSplit => "kv.split",
            Self::KvMerge => "kv.merge",
            Self::KvChannels => "kv.channels",
            Self::KvFormat => "kv.format",
            Self::KvAlloc => "kv.alloc",
            Self::PlaceWeights => "place.weights",
            Self::PlaceKv => "place.kv",
            Self::TrainParams => "train.params",
            Self::TrainGradient => "train.gradient",
            Self::TrainOptimizer => "train.optimizer",
            Self::TrainActivations => "train.activations",
            Self::TrainLoss => "train.loss",
            Self::TrainOrder => "train.order",
            Self::Eval => "eval",
        }
    }

    /// All of them, in the order of their cards.
    pub const ALL: &[Self] = &[
        Self::WeightsFormat,
        Self::KvSelect,
        Self::KvSplit,
        Self::KvMerge,
        Self::KvChannels,
        Self::KvFormat,
        Self::KvAlloc,
        Self::PlaceWeights,
        Self::PlaceKv,
        Self::TrainParams,
        Self::TrainGradient,
        Self::TrainOptimizer,
        Self::TrainActivations,
        Self::TrainLoss,
        Self::TrainOrder,
        Self::Eval,
    ];

    /// How the choice is called on screen.
    pub const fn words(self) -> AxisWords {
        let (section, title, advanced, sentence) = match self {
            Self::WeightsFormat => ("Weights", "Precision", false, "In how many bits each weight is held."),
            Self::KvSelect => ("KV cache", "Tokens to keep", false, "Which tokens stay in the cache when it is full."),
            Self::KvSplit => {
                ("KV cache", "Shares of the heads", true, "How the kept rows are shared out over layers and heads.")
            }
            Self::KvMerge => {
                ("KV cache", "Dropped tokens", true, "What happens to the rows of tokens that do not stay.")
            }
            Self::KvChannels => ("KV cache", "Dimensions to keep", true, "Which dimensions of keys and values stay."),
            Self::KvFormat => {
                ("KV cache", "Precision", false, "In how many bits each element of a key or a value is kept.")
            }
            Self::KvAlloc => {
                ("KV cache", "Cache layout", true, "When room for the cache's rows is taken, and in what pieces.")
            }
            Self::PlaceWeights => {
                ("Where it lives", "Weights", false, "Which memory holds the weights, and how they get to the compute.")
            }
            Self::PlaceKv => ("Where it lives", "KV cache", false, "Which memory holds the cache."),
            Self::TrainParams => {
                ("Fine-tuning", "What learns", false, "Which weights change, or what is put beside them.")
            }
            Self::TrainGradient => ("Fine-tuning", "Gradient", true, "How a step comes by its gradient."),
            Self::TrainOptimizer => ("Fine-tuning", "Optimizer", false, "How a gradient becomes a step."),
            Self::TrainActivations => {
                ("Fine-tuning", "Activations", false, "What the forward pass leaves for the backward one.")
            }
            Self::TrainLoss => ("Fine-tuning", "Loss", false, "How much of the logits is held at once."),
            Self::TrainOrder => ("Fine-tuning", "Data order", true, "Which row of the data comes when."),
            Self::Eval => ("Accuracy", "Measured by", false, "What a run is measured by after it has generated."),
        };
        AxisWords { section, title, advanced, sentence }
    }

    /// Its title, with its section before it where another axis is called the same: `KV cache precision`.
    pub fn name(self) -> String {
        let words = self.words();
        let alone = Self::ALL.iter().filter(|other| other.words().title == words.title).count() == 1;
        if alone { words.title.to_owned() } else { format!("{} {}", words.section, words.title.to_lowercase()) }
    }
}

/// An axis in the words of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AxisWords {
    /// The heading that its card stands under.
    pub section: &'static str,
    /// The card's title.
    pub title: &'static str,
    /// Shown only under Advanced.
    pub advanced: bool,
    /// What is chosen, in one sentence.
    pub sentence: &'static str,
}

/// The type and range of a knob.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum KnobKind {
    /// A whole number between two bounds, both allowed.
    Int {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// A number between two bounds, both allowed.
    Float {
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// true or false.
    Bool,
    /// One of a few words.
    Word {
        /// The words.
        of: &'static [&'static str],
    },
    /// A list of whole numbers between two bounds.
    Ints {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// Free text, such as a path.
    Text,
}

/// A default as it stands in a static table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Default {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(&'static str),
    Ints(&'static [i64]),
    /// Absent unless given.
    None,
}

/// A variant's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Knob {
    /// Its key in TOML.
    pub id: &'static str,
    /// Its words on screen.
    pub label: &'static str,
    /// Its name in the paper, where it differs.
    pub paper_name: &'static str,
    /// Type and range.
    pub kind: KnobKind,
    /// What it is when not given.
    pub default: Default,
    /// `rows`, `tokens`, `ratio`, or nothing.
    pub unit: &'static str,
    /// One sentence.
    pub sentence: &'static str,
}

/// What an entry builds. A closed list of axes; within one, any number of techniques.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Role {
    WeightsFormat(fn(&Knobs) -> Result<weights::format::Target>),
    Select(fn(&Knobs) -> Result<Box<dyn kv::Select>>),
    Split(fn(&Knobs) -> Result<Box<dyn kv::Split>>),
    Merge(fn(&Knobs) -> Result<Box<dyn kv::Merge>>),
    Channels(fn(&Knobs) -> Result<Box<dyn kv::Channels>>),
    KvFormat(fn(&Knobs) -> Result<Box<dyn kv::Format>>),
    Alloc(fn(&Knobs) -> Result<Box<dyn kv::Alloc>>),
    PlaceWeights(fn(&Knobs) -> Result<Box<dyn place::Placement>>),
    PlaceKv,
    TrainParams(fn(&Knobs) -> Result<Box<dyn train::params::Params>>),
    TrainGradient(fn(&Knobs) -> Result<Box<dyn train::gradient::Gradient>>),
    TrainOptimizer(fn(&Knobs) -> Result<Box<dyn train::optimizer::Optimizer>>),
    TrainActivations(fn(&Knobs) -> Result<Box<dyn train::activations::Activations>>),
    TrainLoss(fn(&Knobs) -> Result<Box<dyn train::loss::Loss>>),
    TrainOrder(fn(&Knobs) -> Result<Box<dyn train::order::Order>>),
    Eval(fn(&Knobs) -> Result<Box<dyn eval::Task>>),
}

/// One technique.
#[derive(Clone, Copy, Serialize)]
pub struct Entry {
    /// lower_snake_case; unique on its axis.
    pub id: &'static str,
    /// Its name on screen, after its axis's title: `Tokens to keep: First and recent`.
    pub title: &'static str,
    /// Shown without asking for all techniques.
    pub common: bool,
    /// The choice it is a value of.
    pub axis: Axis,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it does, in one sentence.
    pub sentence: &'static str,
    /// Its parameters.
    pub knobs: &'static [Knob],
    /// Why it cannot go with the rest of a configuration, if it cannot.
    #[serde(skip)]
    pub composes: fn(&Config) -> Result<(), String>,
    /// What it builds.
    #[serde(skip)]
    pub role: Role,
}

/// An entry with nothing to refuse.
pub fn with_all(_: &Config) -> Result<(), String> {
    Ok(())
}

/// Every technique, by axis, the common ones first.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    const LISTS: &[&[&Entry]] = &[
        weights::format::ENTRIES,
        kv::select::ENTRIES,
        kv::split::ENTRIES,
        kv::merge::ENTRIES,
        kv::channels::ENTRIES,
        kv::format::ENTRIES,
        kv::alloc::ENTRIES,
        place::ENTRIES,
        train::params::ENTRIES,
        train::gradient::ENTRIES,
        train::optimizer::ENTRIES,
        train::activations::ENTRIES,
        train::loss::ENTRIES,
        train::order::ENTRIES,
        eval::ENTRIES,
    ];
    LISTS.iter().flat_map(|list| list.iter().copied())
}

/// The variants of one axis.
pub fn variants(axis: Axis) -> impl Iterator<Item = &'static Entry> {
    entries().filter(move |e| e.axis == axis)
}

/// The entry of `id` on `axis`.
///
/// # Errors
/// Names the key, the value and what is allowed.
pub fn find(axis: Axis, key: &str, id: &str) -> Result<&'static Entry> {
    variants(axis).find(|e| e.id == id).ok_or_else(|| {
        let allowed: Vec<_> = variants(axis).map(|e| e.id).collect();
        Error::config(key, format!("`{id}` is not a variant of {}; allowed: {}", axis.key(), allowed.join(", ")))
    })
}

impl Entry {
    /// Checks `given` against the knobs and fills in the defaults.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn knobs(&self, key: &str, given: &Knobs) -> Result<Knobs> {
        for name in given.0.keys() {
            if !self.knobs.iter().any(|k| k.id == name) {
                let known: Vec<_> = self.knobs.iter().map(|k| k.id).collect();
                let known =
                    if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
                return Err(Error::config(format!("{key}.{name}"), format!("`{}` has no such knob; {known}", self.id)));
            }
        }
        let mut out = Knobs::default();
        for knob in self.knobs {
            let value = match given.0.get(knob.id) {
                Some(value) => Some(knob.check(&format!("{key}.{}", knob.id), value)?),
                None => knob.default_value(),
            };
            if let Some(value) = value {
                out.0.insert(knob.id.to_owned(), value);
            }
        }
        Ok(out)
    }
}

impl Knob {
    /// The default as a value, if there is one.
    pub fn default_value(&self) -> Option<KnobValue> {
        match self.default {
            Default::Int(v) => Some(KnobValue::Int(v)),
            Default::Float(v) => Some(KnobValue::Float(v)),
            Default::Bool(v) => Some(KnobValue::Bool(v)),
            Default::Text(v) => Some(KnobValue::Text(v.to_owned())),
            Default::Ints(v) => Some(KnobValue::List(v.iter().map(|i| KnobValue::Int(*i)).collect())),
            Default::None => None,
        }
    }

    fn check(&self, key: &str, value: &KnobValue) -> Result<KnobValue> {
        let wrong = |allowed: String| Err(Error::config(key, format!("`{value}` is not allowed; {allowed}")));
        match (self.kind, value) {
            (KnobKind::Int { min, max }, KnobValue::Int(v)) if (min..=max).contains(v) => Ok(value.clone()),
            (KnobKind::Int { min, max }, _) => wrong(format!("a whole number from {min} to {max}")),
            (KnobKind::Float { min, max }, KnobValue::Float(v)) if (min..=max).contains(v) => Ok(value.clone()),
            (KnobKind::Float { min, max }, KnobValue::Int(v)) if (min..=max).contains(&(*v as f64)) => {
                Ok(KnobValue::Float(*v as f64))
            }
            (KnobKind::Float { min, max }, _) => wrong(format!("a number from {min} to {max}")),
            (KnobKind::Bool, KnobValue::Bool(_)) => Ok(value.clone()),
            (KnobKind::Bool, _) => wrong("true or false".into()),
            (KnobKind::Word { of }, KnobValue::Text(v)) if of.contains(&v.as_str()) => Ok(value.clone()),
            (KnobKind::Word { of }, _) => wrong(format!("one of: {}", of.join(", "))),
            (KnobKind::Ints { min, max }, KnobValue::List(vs))
                if vs.iter().all(|v| matches!(v, KnobValue::Int(i) if (min..=max).contains(i))) =>
            {
                Ok(value.clone())
            }
            (KnobKind::Ints { min, max }, _) => wrong(format!("a list of whole numbers from {min} to {max}")),
            (KnobKind::Text, KnobValue::Text(_)) => Ok(value.clone()),
            (KnobKind::Text, _) => wrong("a text in quotes".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_on_their_axis_and_defaults_pass_their_own_check() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in entries() {
            assert!(seen.insert((entry.axis, entry.id)), "{} twice on {:?}", entry.id, entry.axis);
            assert!(entry.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", entry.id);
            assert!(entry.sentence.ends_with('.') && !entry.paper.is_empty(), "{}", entry.id);
            assert!(!entry.title.is_empty() && !entry.title.ends_with('.'), "{}", entry.id);
            for knob in entry.knobs {
                assert!(knob.label.starts_with(char::is_uppercase) && knob.sentence.ends_with('.'), "{}", knob.id);
                if let Some(value) = knob.default_value() {
                    knob.check("k", &value).unwrap();
                }
            }
        }
    }

    #[test]
    fn every_axis_has_a_card_of_its_own_with_something_common_on_it() {
        let mut titles = std::collections::BTreeSet::new();
        for axis in Axis::ALL {
            let words = axis.words();
            assert!(titles.insert((words.section, words.title)), "{axis:?} has the words of another axis");
            assert!(words.sentence.ends_with('.') && !words.title.ends_with('.'));
            assert!(variants(*axis).any(|e| e.common), "{axis:?}");
            let mut names = std::collections::BTreeSet::new();
            assert!(variants(*axis).all(|e| names.insert(e.title)), "{axis:?} has a title twice");
        }
        assert!(entries().all(|e| Axis::ALL.contains(&e.axis)));
    }

    #[test]
    fn an_unknown_variant_names_the_allowed_ones() {
        let Err(error) = find(Axis::KvSelect, "kv.select", "h20") else { panic!() };
        let text = error.to_string();
        assert!(text.contains("kv.select") && text.contains("h20") && text.contains("h2o"), "{text}");
    }
}
