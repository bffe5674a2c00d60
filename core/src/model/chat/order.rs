//! `<` and its like as Python has them: numbers with numbers, texts with texts, lists with lists, and errors between the rest, where
//! minijinja puts every value in one order.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::python::wrong;
use super::source::ORDERED;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Deepest nesting of lists that are compared.
const DEEPEST: usize = 64;

/// Adds the comparisons, and the filters and tests that compare.
pub(super) fn add(env: &mut Environment<'_>) {
    for (sign, filter, tests) in [
        ("<", ORDERED[0], ["<", "lt", "lessthan"]),
        (">", ORDERED[1], [">", "gt", "greaterthan"]),
        ("<=", ORDERED[2], ["<=", "le", "le"]),
        (">=", ORDERED[3], [">=", "ge", "ge"]),
    ] {
        env.add_filter(filter, move |state: &State<'_, '_>, a: Value, b: Value| compare(state, &a, &b, sign));
        for test in tests {
            env.add_test(test, move |state: &State<'_, '_>, a: Value, b: Value| compare(state, &a, &b, sign));
        }
    }
    env.add_filter("sort", |state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs| {
        let words = named(&given, &words, &["reverse", "case_sensitive", "attribute"])?;
        comparable(state, &value, &words, "attribute")?;
        filters::sort(state, value, words)
    });
    env.add_filter("min", |state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs| {
        let words = named(&given, &words, &["case_sensitive", "attribute"])?;
        comparable(state, &value, &words, "attribute")?;
        filters::min(state, value, words)
    });
    env.add_filter("max", |state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs| {
        let words = named(&given, &words, &["case_sensitive", "attribute"])?;
        comparable(state, &value, &words, "attribute")?;
        filters::max(state, value, words)
    });
    env.add_filter("unique", |state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs| {
        filters::unique(state, value, named(&given, &words, &["case_sensitive", "attribute"])?)
    });
    env.add_filter("dictsort", |state: &mut State<'_, '_>, value: Value, given: Rest<Value>, words: Kwargs| {
        let words = named(&given, &words, &["case_sensitive", "by", "reverse"])?;
        let by_value = words.peek::<Option<&str>>("by")? == Some("value");
        if value.kind() == ValueKind::Map {
            let keys: Vec<Value> = value.try_iter()?.collect();
            let of = |key: &Value| if by_value { value.get_item(key) } else { Ok(key.clone()) };
            let compared: Vec<Value> = keys.iter().map(of).collect::<Result<_>>()?;
            all(state, &compared)?;
        }
        filters::dictsort(&value, words)
    });
}

/// Arguments by their places and names as names alone.
fn named(given: &[Value], words: &Kwargs, names: &[&str]) -> Result<Kwargs> {
    if given.len() > names.len() {
        return Err(Error::new(ErrorKind::TooManyArguments, format!("takes at most {}", names.len())));
    }
    let mut out: Vec<(String, Value)> =
        names.iter().zip(given).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    for name in words.args() {
        out.push((name.to_owned(), words.get::<Value>(name)?));
    }
    Ok(out.into_iter().collect())
}

/// Whether what a filter puts in order can be.
fn comparable(state: &mut State<'_, '_>, value: &Value, words: &Kwargs, attribute: &str) -> Result<()> {
    // What cannot be gone over is the filter's to refuse.
    let Ok(items) = value.try_iter() else { return Ok(()) };
    let items: Vec<Value> = match words.peek::<Option<Value>>(attribute)?.filter(|a| !a.is_none()) {
        Some(attribute) => {
            let words = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[items.collect(), words.into()])?.try_iter()?.collect()
        }
        None => items.collect(),
    };
    all(state, &items)
}

/// Whether all of a list can be compared with its first.
fn all(state: &State<'_, '_>, items: &[Value]) -> Result<()> {
    let Some((first, rest)) = items.split_first() else { return Ok(()) };
    for item in rest {
        compare(state, item, first, "<")?;
    }
    Ok(())
}

fn compare(state: &State<'_, '_>, a: &Value, b: &Value, sign: &str) -> Result<bool> {
    let order = order(state, a, b, sign, 0)?;
    Ok(order.is_some_and(|order| match sign {
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        _ => order.is_ge(),
    }))
}

/// How `a` stands to `b`; nothing where one is no number.
fn order(state: &State<'_, '_>, a: &Value, b: &Value, sign: &str, depth: usize) -> Result<Option<Ordering>> {
    state.consume_fuel(1)?;
    if a.is_undefined() || b.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    let number = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(Value::from(i64::from(v.is_true()))),
        ValueKind::Number => Some(v.clone()),
        _ => None,
    };
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        let nan = |v: &Value| !v.is_integer() && f64::try_from(v.clone()).is_ok_and(f64::is_nan);
        return Ok((!nan(&a) && !nan(&b)).then(|| a.cmp(&b)));
    }
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => {
            state.consume_fuel(a.len().min(b.len()) as u64 / 64)?;
            return Ok(Some(a.cmp(b)));
        }
        _ if a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq && a.is_tuple() == b.is_tuple() => {}
        _ => {
            let message = format!("'{sign}' not supported between instances of {} and {}", a.kind(), b.kind());
            return Err(wrong(message));
        }
    }
    if depth > DEEPEST {
        return Err(wrong(format!("lists nested more than {DEEPEST} deep are not compared")));
    }
    for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
        state.consume_fuel(1)?;
        if a != b {
            return order(state, &a, &b, sign, depth + 1);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}
