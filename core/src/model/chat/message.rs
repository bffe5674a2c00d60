//! What a template is given: messages with every key that they have, and what may be called.

use minijinja::Value as Shown;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation: `role`, `content` and whatever else it has (`tool_calls`, `name`, …), in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// `content` said by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let text = |name: &str, text: String| (name.to_owned(), Value::String(text));
        [text("role", role.into()), text("content", content.into())].into_iter().collect::<Map<_, _>>().into()
    }

    /// `system`, `user` or `assistant`, or what else the template knows.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Everything that it has.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The same without one of its keys.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let kept = self.fields.iter().filter(|(name, _)| *name != key);
        kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
    }

    /// The same with `value` at one of its keys.
    #[must_use]
    pub fn with(&self, key: &str, value: Value) -> Self {
        let mut fields = self.fields.clone();
        fields.insert(key.to_owned(), value);
        fields.into()
    }

    /// Bytes of its text.
    pub(crate) fn bytes(&self) -> usize {
        self.fields.iter().map(|(key, value)| key.len() + bytes(value)).sum()
    }
}

impl From<Map<String, Value>> for Message {
    fn from(fields: Map<String, Value>) -> Self {
        Self { fields }
    }
}

/// Bytes of the text in a value, and one for each part.
pub(super) fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(|v| 1 + bytes(v)).sum(),
        Value::Object(map) => map.iter().map(|(key, v)| 1 + key.len() + bytes(v)).sum(),
        _ => 8,
    }
}

/// A value as a template sees it.
pub(super) fn shown(value: &Value) -> Shown {
    match value {
        Value::Null => Shown::from(()),
        Value::Bool(is) => Shown::from(*is),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Shown::from(n),
            (_, Some(n)) => Shown::from(n),
            _ => Shown::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Shown::from(text),
        Value::Array(list) => list.iter().map(shown).collect(),
        Value::Object(map) => shown_map(map),
    }
}

/// The same of what has keys, in their order.
fn shown_map(map: &Map<String, Value>) -> Shown {
    Shown::from_pairs(map.iter().map(|(key, value)| (key.as_str(), shown(value))))
}

/// What a turn thought goes by several names; transformers gives it to templates by two of them.
const THOUGHT: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as a template sees it.
pub(super) fn shown_message(message: &Message) -> Shown {
    let fields = message.fields();
    let Some(thought) = THOUGHT.iter().find_map(|name| fields.get(*name).filter(|v| !v.is_null())) else {
        return shown_map(fields);
    };
    let mut all = Map::from_iter([(THOUGHT[1].to_owned(), thought.clone())]);
    all.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    all.insert(THOUGHT[0].to_owned(), thought.clone());
    shown_map(&all)
}

/// What a template renders: a conversation, and the tools that may be called in it.
#[derive(Clone, Copy, Debug)]
pub struct Spoken<'a> {
    /// Its turns.
    pub messages: &'a [Message],
    /// A list of their descriptions; none is none to a template too.
    pub tools: Option<&'a Value>,
}

impl Spoken<'_> {
    /// Bytes of all of its text.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(Message::bytes).sum::<usize>() + self.tools.map_or(0, bytes)
    }
}

impl<'a> From<&'a [Message]> for Spoken<'a> {
    fn from(messages: &'a [Message]) -> Self {
        Self { messages, tools: None }
    }
}

impl<'a, const N: usize> From<&'a [Message; N]> for Spoken<'a> {
    fn from(messages: &'a [Message; N]) -> Self {
        Self { messages, tools: None }
    }
}

impl<'a> From<&'a Vec<Message>> for Spoken<'a> {
    fn from(messages: &'a Vec<Message>) -> Self {
        Self { messages, tools: None }
    }
}
