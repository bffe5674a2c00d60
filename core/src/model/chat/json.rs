//! `tojson` as transformers has it: Python's `json.dumps`, nothing escaped for HTML.

use minijinja::State;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Deepest nesting that is written.
const DEEPEST: usize = 64;
/// Longest indent of a level.
const LONGEST_INDENT: usize = 16;

/// How it is written.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, what.into())
}

impl Style {
    fn of(given: &[Value], words: &Kwargs) -> Result<Self> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        if given.len() > names.len() {
            return Err(Error::new(ErrorKind::TooManyArguments, "tojson takes at most four arguments"));
        }
        let mut all = [const { None }; 4];
        for (i, (slot, name)) in all.iter_mut().zip(names).enumerate() {
            let word: Option<Value> = words.get(name)?;
            *slot = given.get(i).cloned().or(word).filter(|v| !v.is_none());
        }
        words.assert_all_used()?;
        let [ascii, indent, separators, sort] = all;
        let indent = match indent {
            None => None,
            Some(text) if text.as_str().is_some() => {
                Some(text.as_str().unwrap_or_default().chars().take(LONGEST_INDENT).collect())
            }
            Some(n) => Some(" ".repeat(usize::try_from(i64::try_from(n)?).unwrap_or(0).min(LONGEST_INDENT))),
        };
        let (item, key) = match separators {
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some(pair) => {
                let parts: Vec<Value> = pair.try_iter()?.collect();
                match &parts[..] {
                    [item, key] if item.as_str().is_some() && key.as_str().is_some() => {
                        (item.to_string(), key.to_string())
                    }
                    _ => return Err(bad("separators are two strings")),
                }
            }
        };
        let is = |v: Option<Value>| v.is_some_and(|v| v.is_true());
        Ok(Self { ascii: is(ascii), indent, item, key, sort: is(sort) })
    }
}

/// The filter.
pub(super) fn tojson(state: &State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs) -> Result<Value> {
    let style = Style::of(&given, &words)?;
    let mut out = String::new();
    write(state, &value, &style, 0, &mut out)?;
    Ok(out.into())
}

fn write(state: &State<'_, '_>, value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<()> {
    if depth > DEEPEST {
        return Err(bad(format!("nested more than {DEEPEST} deep")));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::None => *out += "null",
        ValueKind::Bool => *out += if value.is_true() { "true" } else { "false" },
        ValueKind::Number => *out += &number(value),
        ValueKind::String => string(state, value.as_str().unwrap_or_default(), style.ascii, out)?,
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort {
                keys.sort();
            }
            let items = keys.iter().map(|key| Ok((Some(key), value.get_item(key)?)));
            brackets(state, items, style, depth, ('{', '}'), out)?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            brackets(state, value.try_iter()?.map(|item| Ok((None, item))), style, depth, ('[', ']'), out)?;
        }
        kind => return Err(bad(format!("{kind} is no JSON"))),
    }
    Ok(())
}

fn brackets<'v>(
    state: &State<'_, '_>,
    items: impl Iterator<Item = Result<(Option<&'v Value>, Value)>>,
    style: &Style,
    depth: usize,
    (open, close): (char, char),
    out: &mut String,
) -> Result<()> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    };
    out.push(open);
    let mut empty = true;
    for item in items {
        let (key, value) = item?;
        state.consume_fuel(((style.item.len() + style.key.len()) / 64) as u64)?;
        *out += if empty { "" } else { &style.item };
        empty = false;
        line(out, depth + 1);
        if let Some(key) = key {
            match key.kind() {
                ValueKind::String => string(state, key.as_str().unwrap_or_default(), style.ascii, out)?,
                ValueKind::Number => string(state, &number(key), style.ascii, out)?,
                ValueKind::Bool => *out += if key.is_true() { "\"true\"" } else { "\"false\"" },
                ValueKind::None => *out += "\"null\"",
                kind => return Err(bad(format!("a key is a {kind}"))),
            }
            *out += &style.key;
        }
        write(state, &value, style, depth + 1, out)?;
    }
    if !empty {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn string(state: &State<'_, '_>, text: &str, ascii: bool, out: &mut String) -> Result<()> {
    state.consume_fuel(text.len() as u64 / 64)?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => *out += "\\\"",
            '\\' => *out += "\\\\",
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            '\u{8}' => *out += "\\b",
            '\u{c}' => *out += "\\f",
            c if c < ' ' || ascii && !(' '..='~').contains(&c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|half| *out += &format!("\\u{half:04x}"));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(n) if !value.is_integer() => match n {
            n if n.is_nan() => "NaN".into(),
            n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            n => float(n),
        },
        _ => value.to_string(),
    }
}

/// Python's `repr` of a float.
pub(super) fn float(n: f64) -> String {
    if !n.is_finite() {
        return if n.is_nan() {
            "nan"
        } else if n > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let exact = format!("{n:e}");
    let (digits, exponent) = exact.split_once('e').unwrap_or((&exact, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if n != 0.0 && !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.unsigned_abs())
        }
        _ => format!("{n:?}"),
    }
}
