//! A record: an object in one of the forms that people have.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::model::chat::Message;

/// One document before its words are tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub what: What,
    /// What may be called in it, for the template: a list of objects.
    pub tools: Option<Value>,
    /// What its turns have beside who says what, which a template may use or not.
    pub extra: Extra,
    /// Its fields that nothing was made of.
    pub unused: Vec<String>,
}

/// Keys of turns beside who says what: the list's name, and theirs, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra(Vec<(&'static str, String)>);

impl Extra {
    fn add(&mut self, list: &'static str, key: &str) {
        if !self.0.iter().any(|(l, k)| *l == list && k == key) {
            self.0.push((list, key.to_owned()));
        }
    }

    /// Each key with the name that it is told by, such as `messages[].name`.
    pub fn keys(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(list, key)| (key.as_str(), format!("{list}[].{key}")))
    }
}

impl Record {
    /// A text and nothing else.
    pub fn text(text: String) -> Self {
        Self { what: What::Text(text), tools: None, extra: Extra::default(), unused: Vec::new() }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A text.
    Text(String),
    /// A prompt and what is to be answered.
    Pair(Pair),
    /// A conversation.
    Chat(Vec<Turn>),
}

/// A prompt and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What stands before: how to behave, and earlier turns.
    pub before: Vec<Turn>,
    /// What is asked.
    pub prompt: String,
    /// What is to be answered.
    pub response: String,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who says what.
    pub message: Message,
    /// What is said may be learned.
    pub learn: bool,
}

impl Turn {
    /// `content` said by `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { message: Message::new(role, content), learn: true }
    }
}

/// Names of lists of turns.
const TURNS: [&str; 3] = ["messages", "conversations", "conversation"];
/// Names of what is asked, the most telling first, with those of its answer.
const PAIRS: [(&str, &[&str]); 5] = [
    ("instruction", &["output", "response", "answer", "completion"]),
    ("prompt", &["response", "completion", "answer", "output"]),
    ("question", &["answer", "response", "output"]),
    ("query", &["response", "answer", "output"]),
    ("input", &["output", "response"]),
];
/// The name of a text.
const TEXT: &str = "text";
/// What a turn's speaker and words are called.
const ROLES: [&str; 2] = ["role", "from"];
const CONTENTS: [&str; 2] = ["content", "value"];
/// What a turn may do in the place of saying something.
pub(in super::super) const CALLS: [&str; 2] = ["tool_calls", "function_call"];
/// What may be called.
pub(in super::super) const TOOLS: &str = "tools";

/// Whether fields of these names make a record.
pub(super) fn is_form(names: &[String]) -> bool {
    let has = |name: &str| names.iter().any(|n| n == name);
    TURNS.iter().any(|name| has(name))
        || PAIRS.iter().any(|(asked, answers)| has(asked) && answers.iter().any(|name| has(name)))
}

/// Whether a record may have a field of this name that something is made of.
pub(super) fn is_known(name: &str) -> bool {
    let pairs = PAIRS.iter().flat_map(|(asked, answers)| answers.iter().chain([asked]));
    let others = ["input", "system", "history", "chosen", "rejected", TOOLS, TEXT];
    pairs.chain(&others).chain(&TURNS).any(|known| *known == name)
}

/// Whether a turn says something by this name, if nothing.
pub(super) fn is_said(name: &str) -> bool {
    CONTENTS.contains(&name)
}

pub(super) fn kind(value: &Value) -> &'static str {
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

/// An object's fields, with those that something was made of.
struct Fields<'v> {
    all: &'v Map<String, Value>,
    used: Vec<&'static str>,
}

impl<'v> Fields<'v> {
    /// The field, which counts as used; null is none.
    fn take(&mut self, name: &'static str) -> Option<&'v Value> {
        let value = self.all.get(name)?;
        self.used.push(name);
        (!value.is_null()).then_some(value)
    }

    fn has(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|v| !v.is_null())
    }
}

/// The record that a value is.
pub(super) fn record(value: &Value) -> Result<Record, String> {
    let Value::Object(all) = value else {
        return Err(format!(
            "is {}; every record is an object such as {{\"prompt\": \"…\", \"response\": \"…\"}}",
            kind(value)
        ));
    };
    let mut fields = Fields { all, used: Vec::new() };
    let mut extra = Extra::default();
    let what = what(&mut fields, &mut extra)?;
    let tools = if let What::Text(_) = what { None } else { tools(&mut fields)? };
    let empty = |v: &Value| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty);
    let unused = (all.iter())
        .filter(|(name, value)| !fields.used.contains(&name.as_str()) && !empty(value))
        .map(|(name, _)| name.clone())
        .collect();
    Ok(Record { what, tools, extra, unused })
}

/// What may be called: a list of objects, which tables often hold as the text that it was written as.
fn tools(fields: &mut Fields<'_>) -> Result<Option<Value>, String> {
    let Some(value) = fields.take(TOOLS).filter(|value| *value != "") else { return Ok(None) };
    let needed = |what: &str| format!("field `tools`: {what}; a list of objects is needed");
    let list = match value {
        Value::String(text) => Cow::Owned(
            serde_json::from_str::<Value>(text).map_err(|e| needed(&format!("is a text that is not JSON ({e})")))?,
        ),
        value => Cow::Borrowed(value),
    };
    let items = list.as_array().ok_or_else(|| needed(&format!("is {}", kind(&list))))?;
    match items.iter().enumerate().find(|(_, tool)| !tool.is_object()) {
        Some((i, other)) => Err(needed(&format!("item {i} is {}", kind(other)))),
        None => Ok(Some(list.into_owned())),
    }
}

fn what(fields: &mut Fields<'_>, extra: &mut Extra) -> Result<What, String> {
    if let Some(name) = TURNS.into_iter().find(|name| fields.all.contains_key(*name)) {
        let list = fields.take(name);
        let mut out = turns(list.unwrap_or(&Value::Null), name, extra)?;
        if out.first().is_none_or(|first| first.message.role() != "system") {
            out.splice(0..0, system(fields)?);
        }
        return Ok(What::Chat(out));
    }
    let pair =
        PAIRS.into_iter().find(|(asked, answers)| fields.has(asked) && answers.iter().any(|name| fields.has(name)));
    // A field of a pair without its answer is a mistake, unless the record is a text.
    let asked =
        pair.or_else(|| PAIRS.into_iter().find(|(asked, _)| fields.all.contains_key(*asked) && !fields.has(TEXT)));
    if let Some((asked, answers)) = asked {
        let answer = answers.iter().find(|name| fields.all.contains_key(**name)).copied().unwrap_or(answers[0]);
        return pair_of(fields, asked, answer, extra);
    }
    if fields.all.contains_key(TEXT) {
        let text = text_of(fields.take(TEXT), TEXT)?;
        return if text.is_empty() { Err("field `text`: is empty".into()) } else { Ok(What::Text(text.into())) };
    }
    if fields.has("chosen") && fields.has("rejected") {
        return Err(
            "has `chosen` and `rejected`: pairs to prefer from are not for fine-tuning; keep `prompt` with `response`"
                .into(),
        );
    }
    Err(format!(
        "has {}; one of `messages` or `conversations`, `prompt` with `response`, `instruction` with `output`, `question` with \
         `answer`, or `text` is needed",
        if fields.all.is_empty() { "no field".into() } else { listed(fields.all.keys()) }
    ))
}

fn listed(names: impl Iterator<Item = impl std::fmt::Display>) -> String {
    names.take(8).map(|n| format!("`{}`", n.to_string().escape_debug())).collect::<Vec<_>>().join(", ")
}

/// What `system` says, where it says something.
fn system(fields: &mut Fields<'_>) -> Result<Option<Turn>, String> {
    let text = fields.take("system").map(|v| text_of(Some(v), "system")).transpose()?;
    Ok(text.filter(|text| !text.is_empty()).map(|text| Turn::new("system", text)))
}

fn pair_of(
    fields: &mut Fields<'_>,
    asked: &'static str,
    answer: &'static str,
    extra: &mut Extra,
) -> Result<What, String> {
    let (prompt, response) = (fields.take(asked), fields.take(answer));
    let mut before: Vec<Turn> = system(fields)?.into_iter().collect();
    before.extend(history(fields)?);
    // Both may be turns of a conversation.
    if let Some(list @ Value::Array(_)) = prompt.filter(|_| asked == "prompt") {
        before.extend(turns(list, asked, extra)?);
        before.iter_mut().for_each(|turn| turn.learn = false);
        match response {
            Some(list @ Value::Array(_)) => before.extend(turns(list, answer, extra)?),
            other => before.push(Turn::new("assistant", said(other, answer)?)),
        }
        return Ok(What::Chat(before));
    }
    let mut prompt = text_of(prompt, asked)?.to_owned();
    if asked == "instruction"
        && let Some(input) = fields.take("input")
    {
        let input = text_of(Some(input), "input")?;
        if !input.is_empty() {
            prompt = format!("{prompt}\n\n{input}");
        }
    }
    Ok(What::Pair(Pair { before, prompt, response: said(response, answer)? }))
}

/// What is to be learned, which is not nothing.
fn said(value: Option<&Value>, field: &str) -> Result<String, String> {
    match text_of(value, field)? {
        "" => Err(format!("field `{field}`: is empty, there is nothing to learn")),
        text => Ok(text.to_owned()),
    }
}

/// Earlier turns, in pairs of what was asked and answered.
fn history(fields: &mut Fields<'_>) -> Result<Vec<Turn>, String> {
    let Some(value) = fields.take("history") else { return Ok(Vec::new()) };
    let needed = |at: String, value: &Value| format!("field `{at}`: is {}, a list of two texts is needed", kind(value));
    let list = value.as_array().ok_or_else(|| needed("history".into(), value))?;
    let mut out = Vec::with_capacity(2 * list.len());
    for (i, pair) in list.iter().enumerate() {
        let at = format!("history[{i}]");
        let Some([asked, answered]) = pair.as_array().map(Vec::as_slice) else { return Err(needed(at, pair)) };
        out.push(Turn::new("user", text_of(Some(asked), &at)?));
        out.push(Turn::new("assistant", text_of(Some(answered), &at)?));
    }
    Ok(out)
}

/// The turns of a list, whichever words it has for who speaks.
fn turns(value: &Value, field: &'static str, extra: &mut Extra) -> Result<Vec<Turn>, String> {
    let Value::Array(list) = value else {
        return Err(format!("field `{field}`: is {}, a list is needed", kind(value)));
    };
    let mut out = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let Value::Object(all) = message else {
            return Err(format!("field `{at}`: is {}, an object with `role` and `content` is needed", kind(message)));
        };
        let named = |names: [&'static str; 2]| names.into_iter().find(|n| all.contains_key(*n)).unwrap_or(names[0]);
        let (who, said) = (named(ROLES), named(CONTENTS));
        let role = role(text_of(all.get(who), &format!("{at}.{who}"))?);
        let calls = CALLS.iter().any(|name| all.get(*name).is_some_and(|calls| !calls.is_null()));
        match all.get(said) {
            // What is called is said in no words.
            None | Some(Value::Null) if calls => {}
            Some(Value::Array(parts)) => of_text(parts, &format!("{at}.{said}"))?,
            other => drop(text_of(other, &format!("{at}.{said}"))?),
        }
        let learn = learned(all, &at)?;
        let mut fields = Map::new();
        for (name, value) in all {
            match name.as_str() {
                "weight" => {}
                name if name == who => drop(fields.insert("role".into(), role.into())),
                name if name == said => drop(fields.insert("content".into(), value.clone())),
                name => {
                    fields.insert(name.into(), value.clone());
                    if !value.is_null() {
                        extra.add(field, name);
                    }
                }
            }
        }
        out.push(Turn { message: fields.into(), learn });
    }
    Ok(out)
}

/// The role of a speaker, by any of its names.
fn role(name: &str) -> &str {
    match name {
        "human" => "user",
        "gpt" | "bot" | "model" | "chatgpt" | "bard" | "bing" => "assistant",
        "function_response" | "observation" => "tool",
        other => other,
    }
}

/// Whether a turn's `weight` leaves it in the loss.
fn learned(turn: &Map<String, Value>, at: &str) -> Result<bool, String> {
    match turn.get("weight") {
        None | Some(Value::Null) => Ok(true),
        Some(Value::Bool(weight)) => Ok(*weight),
        Some(weight) if weight.as_f64() == Some(0.0) => Ok(false),
        Some(weight) if weight.as_f64() == Some(1.0) => Ok(true),
        Some(weight) => {
            let weight: String = weight.to_string().chars().take(40).collect();
            Err(format!("field `{at}.weight`: is {weight}; 0 leaves the turn out of the loss, 1 keeps it"))
        }
    }
}

/// Checks that all parts of a content are text.
fn of_text(parts: &[Value], at: &str) -> Result<(), String> {
    for (i, part) in parts.iter().enumerate() {
        match (part, part["type"].as_str()) {
            (Value::String(_), _) => {}
            (_, Some("text") | None) => drop(text_of(part.get("text"), &format!("{at}[{i}].text"))?),
            (_, Some(other)) => {
                let other: String = other.chars().take(40).flat_map(char::escape_debug).collect();
                return Err(format!("field `{at}[{i}]`: is of type `{other}`; only text is learned from"));
            }
        }
    }
    Ok(())
}

/// A message for a template that takes texts: parts of its content as one.
pub(in super::super) fn joined(message: &Message) -> Message {
    let text = |part: &Value| part.as_str().or_else(|| part["text"].as_str()).unwrap_or_default().to_owned();
    let of = |(name, value): (&String, &Value)| match value {
        Value::Array(parts) if name == "content" => (name.clone(), parts.iter().map(text).collect::<String>().into()),
        value => (name.clone(), value.clone()),
    };
    message.fields().iter().map(of).collect::<Map<_, _>>().into()
}
