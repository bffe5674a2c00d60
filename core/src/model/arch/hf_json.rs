//! `config.json` as it is found: with a byte-order mark, Python's `NaN` and `Infinity`, nulls for what is absent, and two names
//! for one field. What comes out has one name for each and no nulls.

use serde_json::{Map, Value};

/// Reads a text.
///
/// # Errors
/// serde's, with line and column.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let read = serde_json::from_slice(text).or_else(|e| match without_floats(text) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(e),
    });
    read.map(|mut value: Value| {
        without_nulls(&mut value);
        value
    })
}

/// The same text with nulls, as long, where Python writes numbers that JSON has not; `None` where it has none of them.
fn without_floats(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut at, mut inside, mut found) = (text.to_vec(), 0, false, false);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => inside = !inside,
            b'\\' if inside => at += 1,
            _ if inside => {}
            _ => {
                let word = [&b"-Infinity"[..], b"Infinity", b"NaN"].into_iter().find(|w| text[at..].starts_with(w));
                if let Some(word) = word {
                    // `NaN` is shorter than `null`: a zero stands for it, and nobody reads it.
                    let with: &[u8] = if word.len() >= 4 { b"null" } else { b"0" };
                    out[at..at + word.len()].fill(b' ');
                    out[at..at + with.len()].copy_from_slice(with);
                    at += word.len() - 1;
                    found = true;
                }
            }
        }
        at += 1;
    }
    found.then_some(out)
}

/// Null fields are absent ones. serde's own limit bounds the depth.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Names of a field, the first of which is kept; where several are there, the first that is.
const NAMES: &[&[&str]] = &[
    &["hidden_activation", "hidden_act"],
    &["num_experts", "num_local_experts", "n_routed_experts"],
    &["num_experts_per_tok", "num_experts_per_token", "moe_topk"],
    &["sliding_window_pattern", "_sliding_window_pattern"],
    &["rope_type", "type"],
    &["dtype", "torch_dtype"],
];

/// Gives fields, those of rotations too, one name each.
pub fn one_name(map: &mut Map<String, Value>) {
    for names in NAMES {
        let mut values: Vec<Value> = names.iter().filter_map(|name| map.remove(*name)).collect();
        if !values.is_empty() {
            map.insert(names[0].to_owned(), values.swap_remove(0));
        }
    }
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(rope)) = map.get_mut(key) else { continue };
        one_name(rope);
        rope.values_mut().filter_map(Value::as_object_mut).for_each(one_name);
        // Some write it empty.
        if rope.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_is_found() {
        let text = b"\xef\xbb\xbf{\"a\": null, \"limit\": [0.0, Infinity, -Infinity], \"n\": NaN, \"s\": \"NaN \\\" Infinity\",
            \"hidden_act\": \"x\", \"hidden_activation\": \"y\", \"rope_scaling\": {\"type\": \"linear\", \"rope_type\": \"yarn\", \"z\": null}}";
        let mut read = parse(text).unwrap();
        let map = read.as_object_mut().unwrap();
        one_name(map);
        assert!(!map.contains_key("a") && !map.contains_key("hidden_act"));
        assert_eq!((&map["s"], &map["hidden_activation"]), (&"NaN \" Infinity".into(), &"y".into()));
        assert_eq!(map["rope_scaling"], serde_json::json!({ "rope_type": "yarn" }));
        assert!(parse(b"{\"a\": nope}").is_err() && parse(b"{\"a\": Infinit}").is_err());
    }
}
