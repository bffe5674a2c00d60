//! Numbers in JSON that come back as they were. JSON has no word for what is no number: `null` would hide it, and no reader of
//! a number takes it back. So an infinite value is written `"infinite"` or `"-infinite"`, what is no number `"NaN"`.
//!
//! As serde's `with`: [`one`] for a number, [`maybe`] for one that may be absent, [`list`] for several, [`pairs`] and [`rows`] for the tables of a report.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What an infinite value is called.
pub const INFINITE: &str = "infinite";

/// A number that goes through JSON whatever it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            v if v.is_finite() => s.serialize_f64(v),
            v if v.is_nan() => s.serialize_str("NaN"),
            v if v > 0.0 => s.serialize_str(INFINITE),
            _ => s.serialize_str("-infinite"),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = f64;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, \"infinite\", \"-infinite\" or \"NaN\"")
            }
            fn visit_f64<E>(self, v: f64) -> Result<f64, E> {
                Ok(v)
            }
            fn visit_u64<E>(self, v: u64) -> Result<f64, E> {
                Ok(v as f64)
            }
            fn visit_i64<E>(self, v: i64) -> Result<f64, E> {
                Ok(v as f64)
            }
            // What was written before these words were.
            fn visit_unit<E>(self) -> Result<f64, E> {
                Ok(f64::NAN)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<f64, E> {
                match v {
                    "NaN" => Ok(f64::NAN),
                    INFINITE => Ok(f64::INFINITY),
                    "-infinite" => Ok(f64::NEG_INFINITY),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        d.deserialize_any(Reader).map(Number)
    }
}

macro_rules! form {
    ($(#[$doc:meta])* $name:ident, $ty:ty, $form:ty, $to:expr, $from:expr) => {
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// Writes it.
            ///
            /// # Errors
            /// The writer's.
            pub fn serialize<S: Serializer>(of: &$ty, s: S) -> Result<S::Ok, S::Error> {
                let form: $form = $to(of);
                form.serialize(s)
            }

            /// Reads it.
            ///
            /// # Errors
            /// What is neither a number nor one of the words.
            pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$ty, D::Error> {
                <$form>::deserialize(d).map($from)
            }
        }
    };
}

form!(
    /// A number.
    one, f64, Number, |v: &f64| Number(*v), |n: Number| n.0
);
form!(
    /// A number that may be absent.
    maybe, Option<f64>, Option<Number>, |v: &Option<f64>| v.map(Number), |n: Option<Number>| n.map(|n| n.0)
);
form!(
    /// A list of numbers.
    list,
    Vec<f64>,
    Vec<Number>,
    |all: &Vec<f64>| all.iter().map(|v| Number(*v)).collect(),
    |all: Vec<Number>| all.into_iter().map(|n| n.0).collect()
);
form!(
    /// Numbers by step.
    pairs, Vec<(u64, f64)>, Vec<(u64, Number)>,
    |all: &Vec<(u64, f64)>| all.iter().map(|(i, v)| (*i, Number(*v))).collect(),
    |all: Vec<(u64, Number)>| all.into_iter().map(|(i, n)| (i, n.0)).collect()
);
form!(
    /// Three numbers by step.
    rows, Vec<(u64, f64, f64, f64)>, Vec<(u64, Number, Number, Number)>,
    |all: &Vec<(u64, f64, f64, f64)>| all.iter().map(|(i, a, b, c)| (*i, Number(*a), Number(*b), Number(*c))).collect(),
    |all: Vec<(u64, Number, Number, Number)>| all.into_iter().map(|(i, a, b, c)| (i, a.0, b.0, c.0)).collect()
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_number_comes_back_as_it_was_and_none_is_null() {
        #[derive(Serialize, Deserialize)]
        struct Of {
            #[serde(with = "one")]
            one: f64,
            #[serde(with = "maybe", default, skip_serializing_if = "Option::is_none")]
            maybe: Option<f64>,
            #[serde(with = "list")]
            list: Vec<f64>,
            #[serde(with = "pairs")]
            pairs: Vec<(u64, f64)>,
            #[serde(with = "rows")]
            rows: Vec<(u64, f64, f64, f64)>,
        }
        for v in [0.0, -1.5, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let text = serde_json::to_string(&Of {
                one: v,
                maybe: Some(v),
                list: vec![v],
                pairs: vec![(3, v)],
                rows: vec![(4, v, 1.0, v)],
            })
            .unwrap();
            assert!(!text.contains("null"), "{text}");
            let back: Of = serde_json::from_str(&text).unwrap();
            for got in [back.one, back.maybe.unwrap(), back.list[0], back.pairs[0].1, back.rows[0].1, back.rows[0].3] {
                assert!(got == v || got.is_nan() && v.is_nan(), "{text}");
            }
        }
        let read = |text: &str| serde_json::from_str::<Number>(text);
        assert!(read("null").unwrap().0.is_nan() && read("7").unwrap().0 == 7.0);
        assert!(read("\"many\"").unwrap_err().to_string().contains("infinite"));
    }
}
