//! A choice on an axis: an id, or a table with `use` and knobs.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The value of a knob as written in TOML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum KnobValue {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<KnobValue>),
}

impl fmt::Display for KnobValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v}"),
            Self::Text(v) => write!(f, "{v}"),
            Self::List(v) => {
                let items: Vec<_> = v.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// Knobs by id. After [`crate::catalog::Entry::knobs`] every knob with a default is present and of its kind, so the getters
/// below fall back to zero only where a technique's own table forgot one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Knobs(pub BTreeMap<String, KnobValue>);

impl Knobs {
    /// A whole number.
    pub fn int(&self, id: &str) -> Option<usize> {
        match self.0.get(id) {
            Some(KnobValue::Int(v)) => usize::try_from(*v).ok(),
            _ => None,
        }
    }

    /// A number.
    pub fn float(&self, id: &str) -> Option<f64> {
        match self.0.get(id) {
            Some(KnobValue::Float(v)) => Some(*v),
            Some(KnobValue::Int(v)) => Some(*v as f64),
            _ => None,
        }
    }

    /// A word or text.
    pub fn text(&self, id: &str) -> Option<&str> {
        match self.0.get(id) {
            Some(KnobValue::Text(v)) => Some(v),
            _ => None,
        }
    }

    /// true or false.
    pub fn flag(&self, id: &str) -> Option<bool> {
        match self.0.get(id) {
            Some(KnobValue::Bool(v)) => Some(*v),
            _ => None,
        }
    }

    /// A list of whole numbers.
    pub fn ints(&self, id: &str) -> Vec<usize> {
        match self.0.get(id) {
            Some(KnobValue::List(v)) => v
                .iter()
                .filter_map(|v| if let KnobValue::Int(i) = v { usize::try_from(*i).ok() } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A variant and its knobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The variant.
    pub id: String,
    /// The knobs that were given; the rest keep their defaults.
    pub knobs: Knobs,
}

impl From<&str> for Choice {
    fn from(id: &str) -> Self {
        Self { id: id.to_owned(), knobs: Knobs::default() }
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.knobs.0.is_empty() {
            return s.serialize_str(&self.id);
        }
        let mut map = s.serialize_map(Some(1 + self.knobs.0.len()))?;
        map.serialize_entry("use", &self.id)?;
        for (key, value) in &self.knobs.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Choice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a variant's id, or a table with `use` and its knobs")
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Choice, E> {
                Ok(id.into())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choice, A::Error> {
                let mut knobs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, KnobValue>()? {
                    knobs.insert(key, value);
                }
                match knobs.remove("use") {
                    Some(KnobValue::Text(id)) => Ok(Choice { id, knobs: Knobs(knobs) }),
                    _ => Err(de::Error::custom("a table here needs `use = \"variant\"` beside its knobs")),
                }
            }
        }
        d.deserialize_any(Reader)
    }
}

/// One choice for keys and one for values: `"q8_0"` for both, or `{ k = "q8_0", v = "q4_0" }`.
#[derive(Clone, Debug, PartialEq)]
pub struct PerKv {
    /// Of keys.
    pub k: Choice,
    /// Of values.
    pub v: Choice,
}

impl PerKv {
    /// The same for both.
    pub fn both(id: &str) -> Self {
        Self { k: id.into(), v: id.into() }
    }
}

impl Serialize for PerKv {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.k == self.v {
            return self.k.serialize(s);
        }
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("k", &self.k)?;
        map.serialize_entry("v", &self.v)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for PerKv {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Two {
            k: Choice,
            v: Choice,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a format's id, or a table with `k` and `v`")]
        enum Either {
            Two(Two),
            One(Choice),
        }
        Ok(match Either::deserialize(d)? {
            Either::Two(two) => Self { k: two.k, v: two.v },
            Either::One(one) => Self { k: one.clone(), v: one },
        })
    }
}
