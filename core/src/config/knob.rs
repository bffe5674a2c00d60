//! A parameter: its type and range, what it is when not given, and its words.

use serde::Serialize;

use super::{KnobValue, Knobs};
use crate::error::{Error, Result};

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
    /// A list of whole numbers between two bounds, at least one.
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

impl Knob {
    /// A number from 0 to 1, without a unit.
    pub const fn share(
        id: &'static str,
        label: &'static str,
        paper_name: &'static str,
        default: f64,
        sentence: &'static str,
    ) -> Self {
        let kind = KnobKind::Float { min: 0.0, max: 1.0 };
        Self { id, label, paper_name, kind, default: Default::Float(default), unit: "", sentence }
    }
}

impl KnobKind {
    /// What is allowed, as an error says it.
    pub fn allowed(&self) -> String {
        match self {
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Float { min, max } => format!("a number from {min} to {max}"),
            Self::Bool => "true or false".into(),
            Self::Word { of } => format!("one of: {}", of.join(", ")),
            Self::Ints { min, max } => format!("a list of whole numbers from {min} to {max}, at least one"),
            Self::Text => "a text in quotes".into(),
        }
    }

    /// `value` as a knob of this kind keeps it: a whole number becomes a float where a float is asked for.
    ///
    /// # Errors
    /// Names `key`, the value and what is allowed.
    pub fn check(&self, key: &str, value: &KnobValue) -> Result<KnobValue> {
        let whole = |v: &KnobValue, min: i64, max: i64| matches!(v, KnobValue::Int(i) if (min..=max).contains(i));
        let fits = match (*self, value) {
            (Self::Int { min, max }, v) => whole(v, min, max),
            (Self::Float { min, max }, KnobValue::Float(v)) => (min..=max).contains(v),
            (Self::Float { min, max }, KnobValue::Int(v)) if (min..=max).contains(&(*v as f64)) => {
                return Ok(KnobValue::Float(*v as f64));
            }
            (Self::Bool, KnobValue::Bool(_)) | (Self::Text, KnobValue::Text(_)) => true,
            (Self::Word { of }, KnobValue::Text(v)) => of.contains(&v.as_str()),
            (Self::Ints { min, max }, KnobValue::List(vs)) => !vs.is_empty() && vs.iter().all(|v| whole(v, min, max)),
            _ => false,
        };
        if fits {
            return Ok(value.clone());
        }
        Err(Error::config(key, format!("`{value}` is not allowed; {}", self.allowed())))
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
}

/// Checks `given` against `knobs`, the parameters of what is called `id`, and fills in the defaults.
///
/// # Errors
/// Names the key, the value and what is allowed.
pub fn complete(id: &str, knobs: &[Knob], key: &str, given: &Knobs) -> Result<Knobs> {
    for name in given.0.keys() {
        if !knobs.iter().any(|k| k.id == name) {
            let known: Vec<_> = knobs.iter().map(|k| k.id).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
            return Err(Error::config(format!("{key}.{name}"), format!("`{id}` has no such knob; {known}")));
        }
    }
    let mut out = Knobs::default();
    for knob in knobs {
        let value = match given.0.get(knob.id) {
            Some(value) => Some(knob.kind.check(&format!("{key}.{}", knob.id), value)?),
            None => knob.default_value(),
        };
        if let Some(value) = value {
            out.0.insert(knob.id.to_owned(), value);
        }
    }
    Ok(out)
}
