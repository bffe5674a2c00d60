//! What a technique's entry in the catalogue is made of.
//!
//! An axis is a trait with a folder of variants; a variant is one file with a `static ENTRY: Entry<dyn Trait>` and one line in
//! its folder's `ENTRIES`. From [`About`] alone come validation, help, cards and tables; [`Entry::build`] makes what the trait
//! does from [`Settled`] knobs, which are complete, so that a default is written once.

use serde::Serialize;

use crate::config::Config;
use crate::config::knob::complete;
pub use crate::config::{Axis, Choice, Default, Knob, KnobKind, KnobValue, Knobs, axes};
use crate::error::{Error, Result};

/// What a run computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// The CPU.
    Cpu,
    /// A GPU of NVIDIA.
    Cuda,
}

/// What an entry says that nobody has tried elsewhere: it runs on the CPU.
pub const ON_CPU: &[Platform] = &[Platform::Cpu];
/// CPU and GPU.
pub const ON_ALL: &[Platform] = &[Platform::Cpu, Platform::Cuda];

impl Platform {
    /// What `config` runs on.
    pub fn of(config: &Config) -> Self {
        // What candle is asked for is the same on each of its devices.
        let ours = config.run.engine == crate::config::Engine::Ullage;
        if ours && config.gpu().is_some() { Self::Cuda } else { Self::Cpu }
    }

    /// Its name in a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cpu => "the CPU",
            Self::Cuda => "a GPU",
        }
    }
}

/// What a way back costs beside memory, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Next to nothing: the results are the same, and so is the speed.
    Nothing,
    /// Speed: the results are the same.
    Speed,
    /// Accuracy; in a training, it learns less or otherwise.
    Accuracy,
}

/// A change that an entry offers to a plan over its budget: its own choice, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// What it costs beside memory.
    pub cost: Cost,
    /// What share it keeps of the bytes that its axis decides, roughly: of one cost, those that keep more are tried first, and it
    /// is offered in place of what keeps more. An entry that offers nothing keeps everything.
    pub keeps: f64,
    /// Keys set after the axis's own: knobs and shared settings.
    pub sets: &'static [(&'static str, &'static str)],
    /// As a button says it; empty for the axis's name and the entry's title.
    pub words: &'static str,
}

impl Candidate {
    /// Its keys with that of `entry`'s axis before them.
    pub fn all_sets(&self, entry: &About) -> Vec<(String, String)> {
        let own = std::iter::once((entry.axis.key, entry.id));
        own.chain(self.sets.iter().copied()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// Its words, or the axis's name and the entry's title.
    pub fn say(&self, entry: &About) -> String {
        if self.words.is_empty() { format!("{} {}", entry.axis.name(), entry.title) } else { self.words.to_owned() }
    }
}

/// What is known of a technique without building it.
#[derive(Clone, Copy, Serialize)]
pub struct About {
    /// lower_snake_case; unique on its axis.
    pub id: &'static str,
    /// Its name on screen, after its axis's title: `Tokens to keep: First and recent`.
    pub title: &'static str,
    /// Shown without asking for all techniques.
    pub common: bool,
    /// The choice it is a value of.
    pub axis: &'static Axis,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it does, in one sentence.
    pub sentence: &'static str,
    /// Its parameters.
    pub knobs: &'static [Knob],
    /// What it runs on; a run on anything else refuses it by name.
    pub runs_on: &'static [Platform],
    /// Why it cannot go with the rest of a configuration, if it cannot.
    #[serde(skip)]
    pub composes: fn(&Config) -> Result<(), String>,
    /// The changes it offers to a plan over its budget.
    #[serde(skip)]
    pub candidates: &'static [Candidate],
}

/// One technique: what is known of it, and how `T`, the trait of its axis, is made from its knobs.
pub struct Entry<T: ?Sized + 'static> {
    /// What is known of it.
    pub about: About,
    /// Builds it.
    pub build: fn(&Settled) -> Result<Box<T>>,
}

impl<T: ?Sized> std::ops::Deref for Entry<T> {
    type Target = About;

    fn deref(&self) -> &About {
        &self.about
    }
}

impl About {
    /// What an entry on `axis` need not say: no knobs, on the CPU, goes with everything, offers nothing.
    pub const fn on(axis: &'static Axis) -> Self {
        Self {
            id: "",
            title: "",
            common: false,
            axis,
            paper: "the plain choice",
            sentence: "",
            knobs: &[],
            runs_on: ON_CPU,
            composes: |_| Ok(()),
            candidates: &[],
        }
    }

    /// Checks the knobs `given` at `key` and completes them with the defaults.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn settle(&self, key: &str, given: &Knobs) -> Result<Settled> {
        Ok(Settled { id: self.id, knobs: complete(self.id, self.knobs, key, given)? })
    }

    /// Whether it runs on `platform`.
    pub fn runs(&self, platform: Platform) -> bool {
        self.runs_on.contains(&platform)
    }
}

/// Complete knobs: every one that has a default is there, of its kind and in its range.
///
/// A getter of a knob that the entry's table does not declare with a default is a defect of the entry, which the catalogue's
/// test finds by building every entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    id: &'static str,
    knobs: Knobs,
}

impl Settled {
    fn lacks(&self, knob: &str) {
        debug_assert!(false, "`{}` reads `{knob}`, which its table does not declare with a default", self.id);
    }

    /// A whole number.
    pub fn int(&self, knob: &str) -> usize {
        self.given_int(knob).unwrap_or_else(|| {
            self.lacks(knob);
            0
        })
    }

    /// A number.
    pub fn float(&self, knob: &str) -> f64 {
        self.given_float(knob).unwrap_or_else(|| {
            self.lacks(knob);
            0.0
        })
    }

    /// A word or text.
    pub fn text(&self, knob: &str) -> &str {
        self.knobs.text(knob).unwrap_or_else(|| {
            self.lacks(knob);
            ""
        })
    }

    /// true or false.
    pub fn flag(&self, knob: &str) -> bool {
        self.knobs.flag(knob).unwrap_or_else(|| {
            self.lacks(knob);
            false
        })
    }

    /// A list of whole numbers.
    pub fn ints(&self, knob: &str) -> Vec<usize> {
        if !matches!(self.knobs.0.get(knob), Some(KnobValue::List(_))) {
            self.lacks(knob);
        }
        self.knobs.ints(knob)
    }

    /// A whole number that has no default: `None` unless given.
    pub fn given_int(&self, knob: &str) -> Option<usize> {
        self.knobs.int(knob)
    }

    /// A number that has no default: `None` unless given.
    pub fn given_float(&self, knob: &str) -> Option<f64> {
        self.knobs.float(knob)
    }

    /// A text that has no default: `None` unless given.
    pub fn given_text(&self, knob: &str) -> Option<&str> {
        self.knobs.text(knob)
    }
}

/// The entry of `id` in `list`, which stands at `key`.
///
/// # Errors
/// Names the key, the value and what is allowed.
pub fn find<T: ?Sized>(list: &[&'static Entry<T>], key: &str, id: &str) -> Result<&'static Entry<T>> {
    list.iter().copied().find(|e| e.id == id).ok_or_else(|| unknown(key, id, list.iter().map(|e| &e.about)))
}

/// `id` at `key` is none of `of`, which are all variants of one axis.
pub(crate) fn unknown<'a>(key: &str, id: &str, of: impl Iterator<Item = &'a About>) -> Error {
    let of: Vec<_> = of.collect();
    let axis = of.first().map_or("", |e| e.axis.key);
    let allowed: Vec<_> = of.iter().map(|e| e.id).collect();
    Error::config(key, format!("`{id}` is not a variant of {axis}; allowed: {}", allowed.join(", ")))
}

/// Builds what `choice`, which stands at `key`, chooses of `list`.
///
/// # Errors
/// Names the key, the value and what is allowed; what the entry refuses to build.
pub fn build<T: ?Sized>(list: &[&'static Entry<T>], key: &str, choice: &Choice) -> Result<Box<T>> {
    let entry = find(list, key, &choice.id)?;
    (entry.build)(&entry.settle(key, &choice.knobs)?)
}
