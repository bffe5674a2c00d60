//! Filters, tests and functions of Jinja2's that minijinja has not, or has otherwise.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, escape_formatter};

use super::python::{capitalized, is_space, padded, replaced, wrong};
use super::source::{CALL, EACH, FILL, REST, TEXT};
use super::{json, order};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Deepest nesting of lists that is written as text.
const DEEPEST: usize = 64;

/// Adds them.
pub(super) fn add(env: &mut Environment<'_>) {
    minijinja_contrib::add_to_environment(env);
    // Those of them that say something else than Jinja2's are better missed than wrong.
    for own in ["pluralize", "pprint", "lines", "split", "bool", "chain", "zip"] {
        env.remove_filter(own);
    }
    env.remove_global("debug");
    env.set_formatter(|out, state, value| match float(value) {
        Some(text) => escape_formatter(out, state, &text.into()),
        None => {
            pay(state, value, 0)?;
            escape_formatter(out, state, value)
        }
    });
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", |state: &State<'_, '_>, value: Value| Ok::<_, Error>(text(state, &value)?.into_owned()));
    env.add_filter(TEXT, |state: &State<'_, '_>, value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => text(state, &value).map(|text| Value::from(text.into_owned())),
    });
    texts(env);
    escapes(env);
    order::add(env);
    env.add_function(CALL, call);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("center", |state: &State<'_, '_>, value: Value, width: Option<i64>| {
        padded(state, &text(state, &value)?, "center", width.unwrap_or(80), None)
    });
    env.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        let text = text(state, &value)?;
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        Ok::<_, Error>(words.filter(|word| !word.is_empty()).count())
    });
    env.add_filter("trim", |state: &State<'_, '_>, value: Value, letters: Option<String>| {
        let gone = |c: char| letters.as_ref().map_or_else(|| is_space(c), |l| l.contains(c));
        Ok::<_, Error>(text(state, &value)?.trim_matches(gone).to_owned())
    });
    env.add_filter("truncate", truncate);
    env.add_filter(FILL, fill);
    env.add_filter(EACH, each);
    env.add_filter("list", |state: &State<'_, '_>, value: Value| {
        let mut items = Vec::new();
        for item in each(value)?.try_iter()? {
            state.consume_fuel(1)?;
            items.push(item);
        }
        Ok::<_, Error>(Value::from(items))
    });
    env.add_filter("int", int);
    env.add_filter("float", |value: Value, default: Option<f64>| match value.as_str() {
        Some(text) => Ok(text.trim_matches(is_space).parse().unwrap_or(default.unwrap_or(0.0))),
        None => defined(&value).map(|v| f64::try_from(v.clone()).unwrap_or(default.unwrap_or(0.0))),
    });
    env.add_filter("indent", indent);
    // Of a dictionary it gives Python's attributes, which no template may have.
    env.add_filter("attr", |value: Value, name: String| match value.kind() {
        ValueKind::Map => Ok(Value::UNDEFINED),
        _ => value.get_attr(&name),
    });
    env.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.to_vec()));
    env.add_test("iterable", |v: Value| !v.is_none() && v.try_iter().is_ok());
    env.add_test("sequence", |v: Value| {
        matches!(
            v.kind(),
            ValueKind::Undefined | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String
        )
    });
    env.add_test("callable", |v: Value| {
        v.kind() == ValueKind::Plain || v.as_object().is_some_and(|o| format!("{o:?}").starts_with("<macro"))
    });
}

/// Calls a macro that takes more than its parameters.
fn call(state: &mut State<'_, '_>, of: Value, given: Rest<Value>, words: Kwargs) -> Result<Value> {
    let asked: Vec<Value> = of.get_attr("arguments")?.try_iter()?.collect();
    let own = asked.iter().filter(|name| name.as_str().is_none_or(|n| !REST.contains(&n)));
    let own: Vec<&str> = own.filter_map(Value::as_str).collect();
    let (places, more) = given.split_at(given.len().min(own.len()));
    let (mut named, mut others): (Vec<(&str, Value)>, Vec<(&str, Value)>) = (Vec::new(), Vec::new());
    for name in words.args() {
        let value = words.get::<Value>(name)?;
        let of_it = own.contains(&name) || name == "caller";
        if of_it { &mut named } else { &mut others }.push((name, value));
    }
    named.push((REST[0], Value::from(minijinja::value::Tuple::from(more.to_vec()))));
    named.push((REST[1], Value::from_pairs(others)));
    let mut args = places.to_vec();
    args.push(named.into_iter().collect::<Kwargs>().into());
    of.call(state, &args)
}

/// `default(default_value='', boolean=False)`.
fn default(value: Value, given: Rest<Value>, words: Kwargs) -> Result<Value> {
    let word = |i: usize, name: &str| -> Result<Option<Value>> {
        let word: Option<Value> = words.get(name)?;
        Ok(given.get(i).cloned().or(word))
    };
    let (other, lax) = (word(0, "default_value")?, word(1, "boolean")?.is_some_and(|v| v.is_true()));
    words.assert_all_used()?;
    let missing = value.is_undefined() || lax && !value.is_true();
    Ok(if missing { other.unwrap_or_else(|| "".into()) } else { value })
}

/// Filters that write for HTML and addresses.
fn escapes(env: &mut Environment<'_>) {
    for (name, again) in [("e", false), ("escape", false), ("forceescape", true)] {
        env.add_filter(name, move |state: &State<'_, '_>, value: Value| {
            if value.is_safe() && !again {
                return Ok::<_, Error>(value);
            }
            let text = text(state, &value)?;
            state.consume_fuel(text.len() as u64 / 16)?;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match c {
                    '&' => out += "&amp;",
                    '<' => out += "&lt;",
                    '>' => out += "&gt;",
                    '\'' => out += "&#39;",
                    '"' => out += "&#34;",
                    c => out.push(c),
                }
            }
            Ok(Value::from_safe_string(out))
        });
    }
    env.add_filter("urlencode", |state: &State<'_, '_>, value: Value| {
        let quoted = |value: &Value, free: &str| -> Result<String> {
            let text = text(state, value)?;
            state.consume_fuel(text.len() as u64 / 16)?;
            let one = |b: u8| match b {
                b if b.is_ascii_alphanumeric() || free.as_bytes().contains(&b) => char::from(b).to_string(),
                b' ' if !free.contains('/') => "+".into(),
                b => format!("%{b:02X}"),
            };
            Ok(text.bytes().map(one).collect())
        };
        let pairs: Vec<(Value, Value)> = match value.kind() {
            ValueKind::Map => {
                value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect::<Result<_>>()?
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let pair = |item: Value| -> Result<_> { Ok((item.get_item(&0.into())?, item.get_item(&1.into())?)) };
                value.try_iter()?.map(pair).collect::<Result<_>>()?
            }
            _ => return quoted(&value, "-._~/"),
        };
        let pair = |(key, value): &(Value, Value)| Ok(quoted(key, "-._~")? + "=" + &quoted(value, "-._~")?);
        Ok::<_, Error>(pairs.iter().map(pair).collect::<Result<Vec<_>>>()?.join("&"))
    });
}

/// What can be gone over, as it is.
fn each(value: Value) -> Result<Value> {
    match value.is_none() {
        true => Err(wrong("none has no items to go over")),
        false => Ok(value),
    }
}

fn defined(value: &Value) -> Result<&Value> {
    match value.is_undefined() {
        true => Err(ErrorKind::UndefinedError.into()),
        false => Ok(value),
    }
}

/// `int(default=0, base=10)`.
fn int(value: Value, given: Rest<Value>, words: Kwargs) -> Result<Value> {
    let word = |i: usize, name: &str| -> Result<Option<Value>> {
        let word: Option<Value> = words.get(name)?;
        Ok(given.get(i).cloned().or(word))
    };
    let (default, base) = (word(0, "default")?.unwrap_or_else(|| 0.into()), word(1, "base")?);
    words.assert_all_used()?;
    let base = base.map_or(Ok(10), u32::try_from)?;
    let Some(text) = value.as_str() else {
        let number = f64::try_from(defined(&value)?.clone());
        return Ok(match number {
            Ok(n) if !value.is_integer() && value.kind() == ValueKind::Number => (n as i128).into(),
            Ok(_) if value.kind() == ValueKind::Bool => i64::from(value.is_true()).into(),
            Ok(_) => value,
            Err(_) => default,
        });
    };
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let marks = match base {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        2 => ["0b", "0B"],
        _ => ["", ""],
    };
    let digits = marks.iter().find_map(|mark| digits.strip_prefix(mark)).unwrap_or(digits);
    let plain = digits.starts_with(|c: char| c.is_ascii_alphanumeric()) && (2..=36).contains(&base);
    match i128::from_str_radix(digits, base).ok().filter(|_| plain) {
        Some(n) => Ok((sign * n).into()),
        None => Ok(text.parse::<f64>().ok().filter(|n| n.is_finite()).map_or(default, |n| (n as i128).into())),
    }
}

/// `indent(width=4, first=False, blank=False)`.
fn indent(state: &State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs) -> Result<String> {
    let word = |i: usize, name: &str| -> Result<Option<Value>> {
        let word: Option<Value> = words.get(name)?;
        Ok(given.get(i).cloned().or(word))
    };
    let is = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let (width, first, blank) = (word(0, "width")?, is(word(1, "first")?), is(word(2, "blank")?));
    words.assert_all_used()?;
    let text = text(state, &value)?;
    let by = match width {
        Some(by) if by.as_str().is_some() => by.to_string(),
        width => {
            let n = width.map_or(Ok(4), i64::try_from)?;
            state.consume_fuel(n.max(0) as u64 / 64)?;
            " ".repeat(usize::try_from(n).unwrap_or(0))
        }
    };
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        out += if i > 0 { "\n" } else { "" };
        if if i == 0 { first } else { blank || !line.is_empty() } {
            state.consume_fuel(by.len() as u64 / 64)?;
            out += &by;
        }
        out += line;
    }
    Ok(out)
}

/// A float as Python writes it.
fn float(value: &Value) -> Option<String> {
    let whole = value.kind() != ValueKind::Number || value.is_integer();
    f64::try_from(value.clone()).ok().filter(|_| !whole).map(json::float)
}

/// What `str(value)` gives; what is in a list or a dictionary is paid for before it is written.
fn text<'v>(state: &State<'_, '_>, value: &'v Value) -> Result<Cow<'v, str>> {
    Ok(match value.as_str() {
        Some(text) => text.into(),
        None => {
            pay(state, value, 0)?;
            float(value).unwrap_or_else(|| value.to_string()).into()
        }
    })
}

/// Pays for everything in `value`, which may be in it many times.
fn pay(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(wrong(format!("nested more than {DEEPEST} deep")));
    }
    state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        for item in value.try_iter()? {
            if value.kind() == ValueKind::Map {
                pay(state, &value.get_item(&item)?, depth + 1)?;
            }
            pay(state, &item, depth + 1)?;
        }
    }
    Ok(())
}

/// Filters over the text of whatever they are given.
fn texts(env: &mut Environment<'_>) {
    env.add_filter("upper", |state: &State<'_, '_>, value: Value| Ok::<_, Error>(text(state, &value)?.to_uppercase()));
    env.add_filter("lower", |state: &State<'_, '_>, value: Value| Ok::<_, Error>(text(state, &value)?.to_lowercase()));
    env.add_filter("capitalize", |state: &State<'_, '_>, value: Value| {
        Ok::<_, Error>(capitalized(&text(state, &value)?))
    });
    env.add_filter("title", |state: &State<'_, '_>, value: Value| {
        let text = text(state, &value)?;
        let words = text.split_inclusive(|c: char| matches!(c, '-' | '(' | '{' | '[' | '<') || c.is_whitespace());
        Ok::<_, Error>(words.map(capitalized).collect::<String>())
    });
    env.add_filter("replace", |state: &State<'_, '_>, value: Value, old: Value, new: Value, count: Option<i64>| {
        let (text, old, new) = (text(state, &value)?, text(state, &old)?, text(state, &new)?);
        replaced(state, &text, &old, &new, count.unwrap_or(-1))
    });
    env.add_filter("join", join);
}

/// `join(d='', attribute=None)`.
fn join(state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs) -> Result<String> {
    let word: (Option<Value>, Option<Value>) = (words.get("d")?, words.get("attribute")?);
    words.assert_all_used()?;
    let (by, attribute) = (given.first().cloned().or(word.0), given.get(1).cloned().or(word.1));
    let value = match attribute.filter(|a| !a.is_none()) {
        Some(attribute) => {
            let words = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[each(value)?, words.into()])?
        }
        None => each(value)?,
    };
    let by = by.unwrap_or_else(|| "".into());
    let by = text(state, &by)?;
    let mut out = String::new();
    for (i, item) in value.try_iter()?.enumerate() {
        let item = text(state, &item)?;
        state.consume_fuel(1 + (by.len() + item.len()) as u64 / 64)?;
        out += if i > 0 { &by } else { "" };
        out += &item;
    }
    Ok(out)
}

/// `truncate(length=255, killwords=False, end='...', leeway=5)`.
fn truncate(state: &State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs) -> Result<String> {
    let argument = |i: usize, name: &str| -> Result<Option<Value>> {
        let word: Option<Value> = words.get(name)?;
        Ok(given.get(i).cloned().or(word).filter(|v| !v.is_none()))
    };
    let number = |v: Option<Value>, default: usize| v.map_or(Ok(default), usize::try_from);
    let length = number(argument(0, "length")?, 255)?;
    let kill = argument(1, "killwords")?.is_some_and(|v| v.is_true());
    let end = argument(2, "end")?.map_or("...".to_owned(), |v| v.as_str().unwrap_or_default().to_owned());
    let leeway = number(argument(3, "leeway")?, 5)?;
    words.assert_all_used()?;
    let whole = value.as_str().ok_or_else(|| wrong(format!("a string is needed, not {}", value.kind())))?;
    state.consume_fuel(whole.len() as u64 / 64)?;
    let room = length.checked_sub(end.chars().count());
    let room = room.ok_or_else(|| wrong(format!("expected length >= {}, got {length}", end.chars().count())))?;
    if whole.chars().count() <= length.saturating_add(leeway) {
        return Ok(whole.to_owned());
    }
    let cut: String = whole.chars().take(room).collect();
    let kept = if kill { &*cut } else { cut.rsplit_once(' ').map_or(&*cut, |(head, _)| head) };
    Ok(kept.to_owned() + &end)
}

/// `text % values`.
fn fill(state: &mut State<'_, '_>, value: Value, values: Value) -> Result<Value> {
    let mut args = vec![value];
    match values.is_tuple() {
        true => args.extend(values.try_iter()?),
        false => args.push(values),
    }
    if args[0].as_str().is_none() {
        return Err(ErrorKind::InvalidOperation.into());
    }
    state.apply_filter("format", &args)
}
