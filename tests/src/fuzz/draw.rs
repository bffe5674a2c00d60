//! Configurations drawn from bytes: every key and knob of the catalogue and of the table of settings, each with values at and beyond
//! the edges of its range. No list of ids: a new entry is drawn by being in the catalogue.

use std::sync::OnceLock;

use ullage_core::catalog::{self, from_toml};
use ullage_core::config::settings::SETTINGS;
use ullage_core::config::{KnobKind, KnobValue, axes};

use crate::Sets;

/// Choices taken from bytes one by one; zero when none is left.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// From these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let wide = if n > 256 { self.byte() << 8 } else { 0 };
        (wide | self.byte()) % n.max(1)
    }

    fn one<'t, T: ?Sized>(&mut self, of: &[&'t T]) -> &'t T {
        of[self.below(of.len())]
    }
}

/// What a key may be given.
enum Values {
    /// By its table.
    Kind(KnobKind, Option<KnobValue>),
    /// One of these.
    Of(Vec<String>),
}

/// A key that can be set, with what must be chosen before it.
struct Key {
    before: Option<(String, String)>,
    key: String,
    values: Values,
}

/// Values of every kind, for keys that no table describes: those that a key takes are found by trying.
const ANY: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "64",
    "-1",
    "4096",
    "16777217",
    "9223372036854775807",
    "0.0",
    "0.05",
    "0.5",
    "1.0",
    "1e-30",
    "-0.5",
    "1e300",
    "nan",
    "inf",
    "true",
    "false",
    "\"\"",
    "\"x\"",
    "\"日本 é\"",
    "\"a b\"",
    "\"tokens:5\"",
    "\"tokens:0\"",
    "\"cpu\"",
    "\"none\"",
    "\"0 B\"",
    "\"1 B\"",
    "\"300 KiB\"",
    "\"8 MiB\"",
    "\"unlimited\"",
    "\"f32\"",
    "\"bf16\"",
    "\"auto\"",
    "\"whole\"",
    "\"global\"",
    "\"value\"",
    "\"matrix\"",
    "\"layer\"",
    "[]",
    "[0, 0]",
    "[1, 1]",
    "[0, 99]",
    "[4294967295, 4294967295]",
    "[\"\"]",
    "[\"a\", \"\\n\"]",
    "{}",
    "{ by = \"layer\", at = 0.5 }",
    "{ by = \"global\" }",
    "[{ tensors = \"*\", format = \"q8_0\" }]",
    "[{ tensors = \"*attn_q*\", format = \"q4_0\" }, { tensors = \"\", format = \"f32\" }]",
    "[{ role = \"user\", content = \"é\" }]",
];

/// What is hardly right anywhere.
const ODD: &[&str] = &[
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "\"18446744073709551615\"",
    "1e400",
    "-inf",
    "nan",
    "",
    "{ use = \"\" }",
    "{ use = 1 }",
    "[[1]]",
    "\"\\u0000\"",
    "\"cuda:99999999999999999999\"",
    "\"tokens:18446744073709551615\"",
    "\"bundled:nothing\"",
    "\"18446744073709551615 B\"",
    "\"-1 GiB\"",
    "1979-05-27",
    "\"\u{202e}\"",
    "[true, 0.5, \"x\"]",
];

/// Texts that mean something somewhere.
const TEXTS: &[&str] = &[
    "\"\"",
    "\"x\"",
    "\"日本 é\"",
    "\"tokens:5\"",
    "\"tokens:12\"",
    "\"bundled:task-tova\"",
    "\"bundled:recall\"",
    "\"8 MiB\"",
    "\"unlimited\"",
    "\"0 B\"",
    "\"64 MiB\"",
    "\"attn_q, ffn_down\"",
    "\"all\"",
];

/// Every key.
fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut out = Vec::new();
        for axis in axes::all().filter(|a| **a != axes::EVAL) {
            let places =
                std::iter::once(axis.key.to_owned()).chain(axis.parts.iter().map(|p| format!("{}.{p}", axis.key)));
            for place in places {
                let of = catalog::variants(axis).map(|e| e.id.to_owned()).collect();
                out.push(Key { before: None, key: place.clone(), values: Values::Of(of) });
                for (entry, knob) in catalog::variants(axis).flat_map(|e| e.knobs.iter().map(move |k| (e, k))) {
                    out.push(Key {
                        before: Some((place.clone(), entry.id.to_owned())),
                        key: format!("{place}.{}", knob.id),
                        values: Values::Kind(knob.kind, knob.default_value()),
                    });
                }
            }
        }
        for entry in catalog::variants(&axes::EVAL) {
            let key = format!("{}.{}", axes::EVAL.key, entry.id);
            out.push(Key { before: None, key: key.clone(), values: Values::Of(vec!["{}".into()]) });
            out.extend(entry.knobs.iter().map(|knob| Key {
                before: None,
                key: format!("{key}.{}", knob.id),
                values: Values::Kind(knob.kind, knob.default_value()),
            }));
        }
        out.extend(SETTINGS.iter().map(|s| Key {
            before: None,
            key: s.key.to_owned(),
            values: Values::Kind(s.kind, s.default()),
        }));
        others("", 0, &mut out);
        out
    })
}

/// Keys that are in no table, found by what an unknown key is told: `allowed: a, b, c`.
fn others(section: &str, depth: usize, out: &mut Vec<Key>) {
    let under = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let Err(error) = from_toml("", &[(under("no_such_key"), "1".into())]) else { return };
    let text = error.to_string();
    let Some((_, allowed)) = text.split_once("is not a key here; allowed: ") else { return };
    for name in allowed.trim().split(", ") {
        let key = under(name);
        if out.iter().any(|k| k.key == key) || key == "model.path" {
            continue;
        }
        let takes = |value: &&&str| match from_toml("", &[(key.clone(), (**value).to_owned())]) {
            Ok(_) => true,
            Err(ullage_core::Error::Config { key: at, .. }) => !at.starts_with(&key),
            Err(_) => true,
        };
        let of: Vec<_> = ANY.iter().filter(takes).map(|v| (*v).to_owned()).collect();
        out.push(Key {
            before: None,
            key: key.clone(),
            values: Values::Of(if of.is_empty() { vec!["{}".into()] } else { of }),
        });
        if depth < 2 {
            others(&key, depth + 1, out);
        }
    }
}

/// A value at, near or beyond the edges of `kind`.
fn value(kind: &KnobKind, default: Option<&KnobValue>, c: &mut Choices<'_>) -> String {
    let of_default = || match default {
        Some(KnobValue::Text(text)) => format!("{text:?}"),
        Some(other) => other.to_string(),
        None => "1".into(),
    };
    match (*kind, c.below(16)) {
        (_, 0) => c.one(ODD).to_owned(),
        (_, 1) => of_default(),
        (KnobKind::Int { min, max }, 2) => c.one(&[&min.saturating_sub(1), &max.saturating_add(1)]).to_string(),
        (KnobKind::Int { min, max }, 3) => c.one(&[&min, &max]).to_string(),
        (KnobKind::Int { min, max }, 4) => (min + (1 << c.below(40)) + c.below(3) as i64).min(max).to_string(),
        (KnobKind::Int { min, max }, _) => (min + c.below(20) as i64).min(max).to_string(),
        (KnobKind::Float { min, max }, 2) => {
            c.one(&["nan", "inf", "-inf", &*format!("{:?}", max * 2.0 + 1.0), &*format!("{:?}", min - 1.0)]).to_owned()
        }
        (KnobKind::Float { min, max }, 3) => format!("{:?}", c.one(&[&min, &max])),
        // Through whole numbers: nothing here depends on how a float is drawn.
        (KnobKind::Float { min, max }, 4) => format!("{:?}", (min + 10f64.powi(c.below(60) as i32 - 40)).min(max)),
        (KnobKind::Float { min, max }, _) => format!("{:?}", min + (max - min).min(2.0) * c.below(65) as f64 / 64.0),
        (KnobKind::Bool, n) => (n % 2 == 0).to_string(),
        (KnobKind::Word { of }, _) => c.one(of).to_owned(),
        (KnobKind::Ints { .. }, 2) => "[]".into(),
        (KnobKind::Ints { min, max }, n) => {
            let each: Vec<_> = (0..1 + c.below(4))
                .map(|_| {
                    if n == 3 {
                        c.one(&[&min, &max]).to_string()
                    } else {
                        (min + c.below(40) as i64).min(max).to_string()
                    }
                })
                .collect();
            format!("[{}]", each.join(", "))
        }
        (KnobKind::Text, 2) => format!("\"{}\"", "é".repeat(3000)),
        (KnobKind::Text, _) => c.one(TEXTS).to_owned(),
    }
}

/// `--set` arguments drawn from `c`, until it is used up or there are many.
pub fn draw(c: &mut Choices<'_>) -> Sets {
    let keys = keys();
    let mut out = Sets::new();
    while !c.0.is_empty() && out.len() < 24 {
        let key = &keys[c.below(keys.len())];
        let value = match &key.values {
            Values::Kind(kind, default) => value(kind, default.as_ref(), c),
            Values::Of(_) if c.below(32) == 31 => c.one(ODD).to_owned(),
            Values::Of(of) => of[c.below(of.len())].clone(),
        };
        // What is chosen already keeps its other knobs.
        out.extend(key.before.iter().filter(|b| !out.contains(b)).cloned().collect::<Vec<_>>());
        out.push((key.key.clone(), value));
    }
    out
}

/// How many keys there are to draw from, and of how many of them nothing is known but what they take.
pub fn size() -> (usize, usize) {
    let of = keys().iter().filter(|k| matches!(k.values, Values::Of(_))).count();
    (keys().len(), of)
}

/// Every key that can be drawn.
pub fn names() -> impl Iterator<Item = &'static str> {
    keys().iter().map(|k| k.key.as_str())
}

/// As arguments of the command line.
pub fn told(sets: &Sets) -> String {
    let short = |v: &str| {
        if v.len() > 80 {
            format!("{}… ({} B)", v.chars().take(40).collect::<String>(), v.len())
        } else {
            v.to_owned()
        }
    };
    sets.iter().map(|(k, v)| format!("--set {k}='{}'", short(v))).collect::<Vec<_>>().join(" ")
}

/// Bytes to draw from, for a start: a few of each length.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut dice = super::mutate::Dice::new(7);
    (0..64).map(|i| (0..8 + i).map(|_| dice.next_u64() as u8).collect()).collect()
}
