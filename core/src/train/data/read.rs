//! Files to records: plain text, and JSONL of the four common forms.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::source::Source;
use super::{LARGEST, Place, Split};
use crate::error::{Error, Result};
use crate::model::chat::Message;

/// This data.
pub static SOURCE: Source = Source {
    form: "a file",
    what: "the documents of a .jsonl file, or of any other file as plain text",
    made: false,
    text: true,
    takes: |data| !data.is_empty(),
    open: super::packed,
};

/// Bytes of the longest line of JSONL.
const LONGEST_LINE: u64 = 16 << 20;

/// One document before its words are tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// `{"text": …}`, or a document of a text file.
    Text(String),
    /// `{"prompt": …, "response": …}`, or `{"instruction": …, "input": …, "output": …}`.
    Pair {
        /// What is asked.
        prompt: String,
        /// What is to be answered.
        response: String,
    },
    /// `{"messages": [{"role": …, "content": …}, …]}`.
    Chat(Vec<Message>),
}

/// Calls `each` with every record of `path` and its place.
///
/// # Errors
/// [`Error::Config`] at `key` naming the file, the line and the field; what `each` returns.
pub(super) fn each(
    key: &str,
    path: &Path,
    split: Split,
    each: &mut dyn FnMut(&Place, Record) -> Result<()>,
) -> Result<()> {
    let io = |e: std::io::Error| Error::config(key, format!("cannot read {}: {e}", path.display()));
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(Error::config(key, format!("{} is not a file", path.display())));
    }
    if meta.len() > LARGEST {
        return Err(Error::config(
            key,
            format!(
                "{} has {}, and at most {} are read at once: split it",
                path.display(),
                crate::Bytes(meta.len()),
                crate::Bytes(LARGEST)
            ),
        ));
    }
    // A file that grows while it is read is read as far as it was long.
    let file = File::open(path).map_err(io)?.take(meta.len());
    let place = Place { key: key.into(), path: path.into(), line: 1 };
    let is_jsonl =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl") || e.eq_ignore_ascii_case("ndjson"));
    if is_jsonl { jsonl(place, BufReader::new(file), each) } else { text(place, BufReader::new(file), split, each) }
}

/// Lines of a reader, each at most [`LONGEST_LINE`] bytes with its end; `None` at the end of the file.
fn line(place: &Place, reader: &mut dyn BufRead, limit: u64) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.take(limit).read_until(b'\n', &mut bytes).map_err(|e| place.wrong(format!("cannot be read: {e}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() as u64 == limit && bytes.last() != Some(&b'\n') {
        return Err(place.wrong(format!("the line is longer than {}", crate::Bytes(limit))));
    }
    String::from_utf8(bytes).map(Some).map_err(|e| {
        place.wrong(format!(
            "byte {} of the line is not UTF-8; save the file as UTF-8",
            e.utf8_error().valid_up_to() + 1
        ))
    })
}

fn text(
    mut place: Place,
    mut reader: impl BufRead,
    split: Split,
    each: &mut dyn FnMut(&Place, Record) -> Result<()>,
) -> Result<()> {
    let mut document = String::new();
    let mut here = place.clone();
    loop {
        let next = line(&here, &mut reader, LARGEST + 1)?;
        let ends = match &next {
            None => true,
            Some(line) => split == Split::BlankLines && line.trim().is_empty(),
        };
        if ends && !document.trim().is_empty() {
            each(&place, Record::Text(document.trim_end_matches(['\r', '\n']).to_owned()))?;
        }
        let Some(line) = next else { return Ok(()) };
        if ends {
            document.clear();
        } else {
            if document.is_empty() {
                place.line = here.line;
            }
            // A byte order mark is no text.
            document.push_str(if here.line == 1 { line.trim_start_matches('\u{feff}') } else { &line });
        }
        here.line += 1;
    }
}

fn jsonl(mut place: Place, mut reader: impl BufRead, each: &mut dyn FnMut(&Place, Record) -> Result<()>) -> Result<()> {
    while let Some(line) = line(&place, &mut reader, LONGEST_LINE)? {
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            let value: Value = serde_json::from_str(line).map_err(|e| {
                place.wrong(format!("is not JSON: {}", e.to_string().replace("line 1 column", "column")))
            })?;
            let record = record(&value).map_err(|message| place.wrong(message))?;
            each(&place, record)?;
        }
        place.line += 1;
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn text_of<'v>(value: Option<&'v Value>, field: &str) -> Result<&'v str, String> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("field `{field}`: is {}, a text is needed", kind(other))),
        None => Err(format!("field `{field}`: is missing")),
    }
}

/// The record that a line is.
fn record(value: &Value) -> Result<Record, String> {
    let Value::Object(fields) = value else {
        return Err(format!(
            "is {}; every line is an object such as {{\"prompt\": \"…\", \"response\": \"…\"}}",
            kind(value)
        ));
    };
    let forms = ["messages", "instruction", "prompt", "text"];
    let found: Vec<_> = forms.into_iter().filter(|f| fields.contains_key(*f)).collect();
    match found[..] {
        ["messages"] => messages(&fields["messages"]),
        ["instruction"] => instruction(fields),
        ["prompt"] => Ok(Record::Pair {
            prompt: text_of(fields.get("prompt"), "prompt")?.to_owned(),
            response: answer(fields, "response")?,
        }),
        ["text"] => {
            let text = text_of(fields.get("text"), "text")?;
            if text.is_empty() {
                return Err("field `text`: is empty".into());
            }
            Ok(Record::Text(text.to_owned()))
        }
        [] => Err(format!(
            "has {}; one of `messages`, `prompt` with `response`, `instruction` with `output`, or `text` is needed",
            if fields.is_empty() { "no field".into() } else { listed(fields.keys()) }
        )),
        _ => Err(format!("has {}, which are different forms of data; keep one", listed(found.iter()))),
    }
}

fn listed(names: impl Iterator<Item = impl std::fmt::Display>) -> String {
    names.take(8).map(|n| format!("`{}`", n.to_string().escape_debug())).collect::<Vec<_>>().join(", ")
}

fn answer(fields: &Map<String, Value>, field: &str) -> Result<String, String> {
    match text_of(fields.get(field), field)? {
        "" => Err(format!("field `{field}`: is empty, there is nothing to learn")),
        text => Ok(text.to_owned()),
    }
}

fn instruction(fields: &Map<String, Value>) -> Result<Record, String> {
    let instruction = text_of(fields.get("instruction"), "instruction")?;
    let input = match fields.get("input") {
        None | Some(Value::Null) => "",
        other => text_of(other, "input")?,
    };
    let prompt = if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n\n{input}") };
    Ok(Record::Pair { prompt, response: answer(fields, "output")? })
}

fn messages(value: &Value) -> Result<Record, String> {
    let Value::Array(list) = value else {
        return Err(format!("field `messages`: is {}, a list is needed", kind(value)));
    };
    let mut out = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let at = format!("messages[{i}]");
        let Value::Object(message) = message else {
            return Err(format!("field `{at}`: is {}, an object with `role` and `content` is needed", kind(message)));
        };
        let role = text_of(message.get("role"), &format!("{at}.role"))?;
        out.push(Message::new(role, text_of(message.get("content"), &format!("{at}.content"))?));
    }
    if out.is_empty() {
        return Err("field `messages`: is empty".into());
    }
    Ok(Record::Chat(out))
}
