//! What Python's strings, lists and dictionaries can do, where templates ask it of them.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Answers a method that a value has not by itself.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let Some(args) = named(name, args)? else { return string_other(state, text, name, args) };
            string(state, text, name, &args)
        }
        ValueKind::Map => dictionary(value, name, args),
        ValueKind::Seq | ValueKind::Iterable => list(value, name, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

pub(super) fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// True for what Python takes for white space in text.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Pays for `bytes` that are about to be made.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<()> {
    state.consume_fuel(bytes as u64 / 64)
}

/// The arguments of a string's method by their places, each perhaps absent; nothing for methods that take any.
fn named(name: &str, args: &[Value]) -> Result<Option<Vec<Option<Value>>>> {
    let names: &[&str] = match name {
        "split" | "rsplit" => &["sep", "maxsplit"],
        "splitlines" => &["keepends"],
        "expandtabs" => &["tabsize"],
        // Python 3.13 takes the count by its name too.
        "replace" => &["", "", "count"],
        "strip" | "lstrip" | "rstrip" => &[""],
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => &["", "", ""],
        "center" | "ljust" | "rjust" => &["", ""],
        "partition" | "rpartition" | "removeprefix" | "removesuffix" | "zfill" | "join" => &[""],
        "upper" | "lower" | "casefold" | "swapcase" | "title" | "capitalize" | "isalnum" | "isalpha" | "isascii"
        | "isdecimal" | "isdigit" | "isnumeric" | "islower" | "isupper" | "isspace" | "istitle" => &[],
        _ => return Ok(None),
    };
    let (given, words): (Rest<Value>, Kwargs) = from_args(args)?;
    if given.len() > names.len() {
        return Err(Error::new(ErrorKind::TooManyArguments, format!("{name}() takes at most {}", names.len())));
    }
    let mut out: Vec<Option<Value>> = given.iter().cloned().map(Some).collect();
    for word in &names[given.len()..] {
        out.push(if word.is_empty() { None } else { words.get::<Option<Value>>(word)? });
    }
    words.assert_all_used()?;
    Ok(Some(out))
}

fn string_other(state: &mut State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value> {
    match name {
        "format" => {
            // A field may ask for any width.
            let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            let asked = widths.map(|d| d.parse().unwrap_or(usize::MAX)).fold(text.len(), usize::saturating_add);
            pay(state, asked.saturating_mul(4))?;
            format(FormatStyle::StrFormat, text, args).map(Value::from)
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// A text given as an argument.
fn text_of(args: &[Option<Value>], at: usize) -> Result<&str> {
    let given = args.get(at).and_then(Option::as_ref).ok_or(ErrorKind::MissingArgument)?;
    given.as_str().ok_or_else(|| wrong(format!("a string is needed, not {}", given.kind())))
}

/// A text given as an argument, or none.
fn text_or_none(args: &[Option<Value>], at: usize) -> Result<Option<&str>> {
    match args.get(at).and_then(Option::as_ref) {
        Some(given) if !given.is_none() => text_of(args, at).map(Some),
        _ => Ok(None),
    }
}

fn number_or(args: &[Option<Value>], at: usize, default: i64) -> Result<i64> {
    match args.get(at).and_then(Option::as_ref) {
        Some(given) if !given.is_none() => i64::try_from(given.clone()),
        _ => Ok(default),
    }
}

fn string(state: &State<'_, '_>, s: &str, name: &str, args: &[Option<Value>]) -> Result<Value> {
    pay(state, s.len())?;
    let all = |of: fn(char) -> bool| Value::from(!s.is_empty() && s.chars().all(of));
    Ok(match name {
        "upper" => s.to_uppercase().into(),
        "lower" | "casefold" => s.to_lowercase().into(),
        "swapcase" => s.chars().flat_map(swapped).collect::<String>().into(),
        "title" => titled(s).into(),
        "capitalize" => capitalized(s).into(),
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isdecimal" => all(is_decimal),
        "isdigit" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => s.is_ascii().into(),
        "islower" => (s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)).into(),
        "isupper" => (s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)).into(),
        "istitle" => (s.chars().any(|c| c.is_uppercase() || c.is_lowercase()) && titled(s) == s).into(),
        "strip" | "lstrip" | "rstrip" => stripped(s, name, text_or_none(args, 0)?).into(),
        "removeprefix" => s.strip_prefix(text_of(args, 0)?).unwrap_or(s).into(),
        "removesuffix" => s.strip_suffix(text_of(args, 0)?).unwrap_or(s).into(),
        "replace" => replaced(state, s, text_of(args, 0)?, text_of(args, 1)?, number_or(args, 2, -1)?)?.into(),
        "partition" | "rpartition" => parted(s, text_of(args, 0)?, name == "rpartition")?,
        "split" | "rsplit" => {
            let most = usize::try_from(number_or(args, 1, -1)?).unwrap_or(usize::MAX);
            let parts = split(state, s, text_or_none(args, 0)?, most, name == "rsplit")?;
            parts.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            lines(state, s, args[0].as_ref().is_some_and(Value::is_true))?.into_iter().map(Value::from).collect()
        }
        "expandtabs" => expanded(state, s, number_or(args, 0, 8)?)?.into(),
        "center" | "ljust" | "rjust" => padded(state, s, name, number_or(args, 0, 0)?, text_or_none(args, 1)?)?.into(),
        "zfill" => {
            let (sign, digits) = s.split_at(usize::from(s.starts_with(['-', '+'])));
            let width = number_or(args, 0, 0)?.saturating_sub(sign.len() as i64);
            (sign.to_owned() + &padded(state, digits, "rjust", width, Some("0"))?).into()
        }
        "join" => {
            let list = args.first().and_then(Option::as_ref).ok_or(ErrorKind::MissingArgument)?;
            let mut out = String::new();
            for (i, item) in list.try_iter()?.enumerate() {
                let item = item
                    .as_str()
                    .map(ToOwned::to_owned)
                    .ok_or_else(|| wrong(format!("join: item {i} is no string but {}", item.kind())))?;
                pay(state, s.len() + item.len() + 64)?;
                out += if i > 0 { s } else { "" };
                out += &item;
            }
            out.into()
        }
        _ => searched(s, name, args)?,
    })
}

/// `startswith`, `find`, `count` and their like, within `[start:end]`.
fn searched(s: &str, name: &str, args: &[Option<Value>]) -> Result<Value> {
    let letters = s.chars().count() as i64;
    let within = |n: i64| if n < 0 { (n + letters).max(0) } else { n.min(letters) };
    let start = number_or(args, 1, 0)?;
    let (from, to) = (within(start), within(number_or(args, 2, letters)?));
    let byte = |n: i64| s.char_indices().nth(n as usize).map_or(s.len(), |(at, _)| at);
    // A start behind the end finds nothing, not even nothing.
    let part = if from <= to && start <= letters { &s[byte(from)..byte(to)] } else { "" };
    let beyond = from > to || start > letters;
    if matches!(name, "startswith" | "endswith") {
        let given = args.first().and_then(Option::as_ref).ok_or(ErrorKind::MissingArgument)?;
        let one = |what: &Value| match what.as_str() {
            Some(w) if name == "startswith" => Ok(!beyond && part.starts_with(w)),
            Some(w) => Ok(!beyond && part.ends_with(w)),
            None => Err(wrong(format!("{name} takes a string or a tuple of strings, not {}", what.kind()))),
        };
        if !given.is_tuple() {
            return one(given).map(Value::from);
        }
        for what in given.try_iter()? {
            if one(&what)? {
                return Ok(true.into());
            }
        }
        return Ok(false.into());
    }
    let what = text_of(args, 0)?;
    if name == "count" {
        return Ok(if beyond { 0 } else { part.matches(what).count() }.into());
    }
    let found = match name.starts_with('r') {
        _ if beyond => None,
        true => part.rfind(what),
        false => part.find(what),
    };
    match found {
        Some(at) => Ok((from + part[..at].chars().count() as i64).into()),
        None if name.ends_with("find") => Ok((-1).into()),
        None => Err(wrong("substring not found")),
    }
}

/// A digit of a decimal number: no fraction, no raised or circled one.
fn is_decimal(c: char) -> bool {
    let other = matches!(c, '²' | '³' | '¹' | '¼'..='¾' | '\u{2070}'..='\u{2189}' | '\u{2460}'..='\u{2793}' | '\u{3007}'..='\u{32bf}');
    c.is_numeric() && !other
}

fn swapped(c: char) -> Vec<char> {
    match c.is_uppercase() {
        true => c.to_lowercase().collect(),
        false => c.to_uppercase().collect(),
    }
}

/// A letter that begins a word.
fn head(out: &mut String, c: char) {
    let mut upper = c.to_uppercase();
    out.extend(upper.next());
    out.extend(upper.flat_map(char::to_lowercase));
}

/// `str.capitalize`.
pub(super) fn capitalized(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars();
    if let Some(c) = chars.next() {
        head(&mut out, c);
    }
    out + &chars.as_str().to_lowercase()
}

/// `str.title`: a letter after what is no letter is large.
fn titled(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => head(&mut out, c),
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn stripped<'s>(s: &'s str, name: &str, letters: Option<&str>) -> &'s str {
    let gone = |c: char| letters.map_or_else(|| is_space(c), |l| l.contains(c));
    let s = if name == "rstrip" { s } else { s.trim_start_matches(gone) };
    if name == "lstrip" { s } else { s.trim_end_matches(gone) }
}

/// `str.replace`.
pub(super) fn replaced(state: &State<'_, '_>, s: &str, old: &str, new: &str, count: i64) -> Result<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let times = s.matches(old).count().min(most);
    pay(state, times.saturating_mul(new.len().saturating_sub(old.len())))?;
    Ok(s.replacen(old, new, most))
}

fn parted(s: &str, by: &str, last: bool) -> Result<Value> {
    if by.is_empty() {
        return Err(wrong("empty separator"));
    }
    let found = if last { s.rsplit_once(by) } else { s.split_once(by) };
    let parts = match found {
        Some((a, b)) => [a, by, b],
        None if last => ["", "", s],
        None => [s, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// `str.split` and `str.rsplit`.
fn split<'s>(state: &State<'_, '_>, s: &'s str, by: Option<&str>, most: usize, last: bool) -> Result<Vec<&'s str>> {
    if by == Some("") {
        return Err(wrong("empty separator"));
    }
    let limit = most.saturating_add(1);
    if let Some(by) = by {
        state.consume_fuel(s.matches(by).count().min(most) as u64)?;
        let mut parts: Vec<&str> = if last { s.rsplitn(limit, by).collect() } else { s.splitn(limit, by).collect() };
        if last {
            parts.reverse();
        }
        return Ok(parts);
    }
    let mut parts = Vec::new();
    let mut rest = s;
    loop {
        state.consume_fuel(1)?;
        rest = if last { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let at = if last { rest.rfind(is_space) } else { rest.find(is_space) };
        let (part, left) = match at {
            Some(at) if last => {
                let after = rest[at..].chars().next().map_or(0, char::len_utf8);
                (&rest[at + after..], &rest[..at])
            }
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        parts.push(part);
        rest = left;
    }
    if last {
        parts.reverse();
    }
    Ok(parts)
}

/// `str.splitlines`.
fn lines<'s>(state: &State<'_, '_>, s: &'s str, keep: bool) -> Result<Vec<&'s str>> {
    let mut out = Vec::new();
    let mut rest = s;
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    while let Some(at) = rest.find(ends) {
        state.consume_fuel(1)?;
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        out.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    Ok(out)
}

fn expanded(state: &State<'_, '_>, s: &str, size: i64) -> Result<String> {
    let size = usize::try_from(size).unwrap_or(0).min(1 << 20);
    let (mut out, mut column) = (String::with_capacity(s.len()), 0);
    for c in s.chars() {
        let n = if c != '\t' { 1 } else { size.saturating_sub(column % size.max(1)) };
        pay(state, n)?;
        match c {
            '\t' => out.extend(std::iter::repeat_n(' ', n)),
            c => out.push(c),
        }
        column = if matches!(c, '\n' | '\r') { 0 } else { column + n };
    }
    Ok(out)
}

/// `str.center`, `ljust`, `rjust`.
pub(super) fn padded(state: &State<'_, '_>, s: &str, name: &str, width: i64, fill: Option<&str>) -> Result<String> {
    let fill = fill.unwrap_or(" ");
    let mut letters = fill.chars();
    let (Some(fill), None) = (letters.next(), letters.next()) else {
        return Err(wrong("the fill character must be exactly one character long"));
    };
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(s.chars().count());
    state.consume_fuel(missing as u64 / 16)?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // CPython gives the odd one to the left where the width is odd too.
        _ => missing / 2 + (missing & width & 1),
    };
    let run = |n| std::iter::repeat_n(fill, n);
    Ok(run(left).chain(s.chars()).chain(run(missing - left)).collect())
}

fn dictionary(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let Some(map) = value.as_object() else { return Err(ErrorKind::UnknownMethod.into()) };
    let keys = || map.try_iter().into_iter().flatten();
    let get = |key: &Value| map.get_value(key);
    let none = |args| from_args::<()>(args);
    match name {
        "keys" => none(args).map(|()| keys().collect()),
        "values" => none(args).map(|()| keys().filter_map(|k| get(&k)).collect()),
        "items" => {
            let pair = |k: Value| get(&k).map(|v| Value::from(Tuple::from([k, v])));
            none(args).map(|()| keys().filter_map(pair).collect())
        }
        "copy" => none(args).map(|()| value.clone()),
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            Ok(get(key).or(default).unwrap_or_else(|| Value::from(())))
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn list(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match name {
        "copy" => from_args::<()>(args).map(|()| value.clone()),
        "count" => {
            let (what,): (&Value,) = from_args(args)?;
            Ok(value.try_iter()?.filter(|item| item == what).count().into())
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            at.map(Value::from).ok_or_else(|| wrong(format!("{what} is not in the list")))
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}
