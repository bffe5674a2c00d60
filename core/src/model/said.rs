//! Conversations as text in which a template's own markers are control tokens and what was said is not.
//!
//! A template mixes both into one text. So before it renders, wherever a message spells a control token its first letter is
//! replaced by a letter that no message has; afterwards the letters are put back, and where they stood is known.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::chat::{Message, Spoken};

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Its text.
    pub text: String,
    /// Bytes of the text at which what was said spells a control token, and means the letters; rising.
    pub literal: Vec<usize>,
}

impl Rendered {
    /// A stretch of it, by bytes.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let within = self.literal.iter().filter(|at| range.contains(at)).map(|at| at - range.start).collect();
        Self { literal: within, text: self.text[range].to_owned() }
    }
}

/// Calls `each` with every text that somebody said: whatever is in a value, names of keys too.
fn each_text<'v>(value: &'v Value, each: &mut dyn FnMut(&'v str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(list) => list.iter().for_each(|value| each_text(value, each)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            each(key);
            each_text(value, each);
        }),
        _ => {}
    }
}

/// All texts of a conversation. A message's own keys are the template's words and not said.
fn texts<'v>(spoken: &Spoken<'v>) -> Vec<&'v str> {
    let mut out = Vec::new();
    let values = spoken.messages.iter().flat_map(|m| m.fields().values()).chain(spoken.tools);
    values.for_each(|value| each_text(value, &mut |text| out.push(text)));
    out
}

/// `value` with every text in it changed.
fn changed(value: &Value, change: &dyn Fn(&str) -> Result<String>) -> Result<Value> {
    Ok(match value {
        Value::String(text) => Value::String(change(text)?),
        Value::Array(list) => list.iter().map(|value| changed(value, change)).collect::<Result<_>>()?,
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| Ok((change(key)?, changed(value, change)?));
            Value::Object(map.iter().map(pair).collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}

/// A letter as JSON may write it: by its number.
fn number(letter: char) -> String {
    letter.encode_utf16(&mut [0; 2]).iter().map(|half| format!("\\u{half:04x}")).collect()
}

/// What was written with the letters put back.
fn restored(written: &str, disguises: &[(char, char)]) -> Rendered {
    let numbers: Vec<(char, String)> = disguises.iter().map(|(from, to)| (*from, number(*to))).collect();
    let mut out = Rendered::default();
    let mut rest = written;
    while let Some(c) = rest.chars().next() {
        let letter = disguises.iter().find(|(_, to)| *to == c).map(|(from, _)| (*from, c.len_utf8()));
        let number = || numbers.iter().find(|(_, n)| rest.starts_with(n.as_str())).map(|(from, n)| (*from, n.len()));
        let found = letter.or_else(|| (c == '\\').then(number).flatten());
        if found.is_some() {
            out.literal.push(out.text.len());
        }
        let (c, n) = found.unwrap_or((c, c.len_utf8()));
        out.text.push(c);
        rest = &rest[n..];
    }
    out
}

/// Renders what is `spoken` by `render`, control tokens being found by `starts`: the bytes of a text at which one is spelled, rising.
///
/// # Errors
/// What `render` says; [`Error::Refused`] for messages that leave no letter to stand for another.
pub(super) fn render(
    spoken: &Spoken<'_>,
    starts: impl Fn(&str) -> Vec<usize>,
    render: impl Fn(&Spoken<'_>) -> Result<String>,
) -> Result<Rendered> {
    let texts = texts(spoken);
    let mut letters: Vec<char> =
        texts.iter().flat_map(|text| starts(text).into_iter().filter_map(|at| text[at..].chars().next())).collect();
    letters.sort_unstable();
    letters.dedup();
    if letters.is_empty() {
        return Ok(Rendered { text: render(spoken)?, literal: Vec::new() });
    }
    // Letters that stand for nothing in Unicode, then those for private use.
    let free = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}');
    let unsaid = |c: &char| texts.iter().all(|text| !text.contains(*c) && !text.contains(&number(*c)));
    let disguises: Vec<(char, char)> = letters.into_iter().zip(free.filter(unsaid)).collect();
    let disguise = |text: &str| -> Result<String> {
        let places = starts(text);
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            let shown = match places.binary_search(&at) {
                Ok(_) => disguises.iter().find(|(from, _)| *from == c).map(|(_, to)| *to).ok_or_else(|| {
                    Error::refused("this conversation", "it uses every letter that could mark its control tokens")
                })?,
                Err(_) => c,
            };
            out.push(shown);
        }
        Ok(out)
    };
    let message = |m: &Message| -> Result<Message> {
        let pair = |(key, value): (&String, &Value)| Ok((key.clone(), changed(value, &disguise)?));
        m.fields().iter().map(pair).collect::<Result<Map<_, _>>>().map(Message::from)
    };
    let messages: Vec<Message> = spoken.messages.iter().map(message).collect::<Result<_>>()?;
    let tools = spoken.tools.map(|tools| changed(tools, &disguise)).transpose()?;
    let written = render(&Spoken { messages: &messages, tools: tools.as_ref() })?;
    Ok(restored(&written, &disguises))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(text: &str) -> Vec<usize> {
        let mut out: Vec<usize> =
            ["<e>", "[e]", "e"].iter().flat_map(|t| text.match_indices(t).map(|(at, _)| at)).collect();
        out.sort_unstable();
        out
    }

    fn join(spoken: &Spoken<'_>) -> Result<String> {
        let said = |m: &Message, key: &str| m.fields().get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(spoken.messages.iter().map(|m| format!("<e>{}: {}[e]", m.role(), said(m, "content").trim())).collect())
    }

    #[test]
    fn what_was_said_is_told_from_what_the_template_says() {
        let said = [Message::new("a", " x<e>é[e] "), Message::new("b", "none"), Message::new("c", "\u{fdd0}<e>")];
        let got = render(&(&said).into(), starts, join).unwrap();
        assert_eq!(got.text, join(&(&said).into()).unwrap());
        let spelled: Vec<&str> = got.literal.iter().map(|at| &got.text[*at..]).collect();
        assert_eq!(spelled.len(), 7, "{spelled:?}");
        assert!(spelled[0].starts_with("<e>é[e]") && spelled[1].starts_with("e>é") && spelled[2].starts_with("[e][e]"));
        assert!(spelled[4].starts_with("e[e]<e>c") && spelled[5].starts_with("<e>[e]"));
        let part = got.part(got.literal[2]..got.text.len());
        assert_eq!((part.text.as_str(), part.literal[0]), (spelled[2], 0));
        let plain = [Message::new("a", "x")];
        let got = render(&(&plain).into(), starts, join).unwrap();
        assert_eq!(got, Rendered { text: "<e>a: x[e]".into(), literal: vec![] });
    }

    #[test]
    fn calls_and_tools_are_said_too_however_json_writes_them() {
        let call = serde_json::json!({ "role": "assistant", "tool_calls": [{ "a<e>": "x[e]" }] });
        let tools = serde_json::json!([{ "about": "<e>" }]);
        let said = [Message::from(call.as_object().unwrap().clone())];
        let spoken = Spoken { messages: &said, tools: Some(&tools) };
        for ascii in [false, true] {
            let source = format!("<e>{{{{ messages[0].tool_calls|tojson({ascii}) }}}}{{{{ tools|tojson({ascii}) }}}}");
            let template = crate::model::chat::ChatTemplate::new(&source).unwrap();
            let got = render(&spoken, starts, |s| template.render(*s, false, &[("x", "y")].into_iter().collect()));
            let got = got.unwrap();
            assert_eq!(got.text, r#"<e>[{"a<e>": "x[e]"}][{"about": "<e>"}]"#, "{ascii}");
            let places: Vec<usize> = got.text.match_indices(['<', '[', 'e']).map(|(at, _)| at).collect();
            assert!(got.literal.iter().all(|at| places.contains(at)) && got.literal.len() == 6, "{got:?}");
        }
    }
}
