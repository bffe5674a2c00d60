//! Records to marked tokens.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

use super::read::{CALLS, Extra, Pair, Record, TOOLS, Turn, What, joined};
use super::{Documents, LossOn, Options};
use crate::error::{Error, Result};
use crate::model::chat::{Message, Spoken};
use crate::model::said::Rendered;
use crate::model::text::Words;

/// The role whose words are learned.
const ASSISTANT: &str = "assistant";

/// What became of a record.
pub(super) struct Done {
    /// There is something in it to learn.
    pub learns: bool,
    /// Its fields that nothing was made of.
    pub unused: Vec<String>,
}

/// Makes documents of the records of one file.
pub(super) struct Encoder<'a> {
    options: &'a Options,
    words: &'a Words,
    /// Fields that the template was seen to use.
    used: BTreeSet<String>,
}

/// A conversation for the template.
struct Talk {
    messages: Vec<Message>,
    /// Which of them may be learned.
    learn: Vec<bool>,
    tools: Option<Value>,
}

impl<'a> Encoder<'a> {
    /// Nothing seen yet.
    pub(super) fn new(options: &'a Options, words: &'a Words) -> Self {
        Self { options, words, used: BTreeSet::new() }
    }

    /// Adds `record` to `out`.
    ///
    /// # Errors
    /// Names the field: a template that refuses it or rewrites what came
    /// before, a model without the template that is asked for.
    pub(super) fn record(&mut self, record: Record, out: &mut Documents) -> Result<Done> {
        let Record { what, tools, extra, mut unused } = record;
        let (options, words) = (self.options, self.words);
        let apart = |unused: &mut Vec<String>| unused.extend(tools.is_some().then(|| TOOLS.to_owned()));
        let learns = match what {
            What::Text(text) => {
                let ids = words.encode_as(&text, true, options.parse_special)?;
                out.push(ended(ids.into_iter().map(|id| (id, true)).collect(), words))
            }
            What::Pair(Pair { before, prompt, response }) if options.template && words.has_template() => {
                let mut turns = before;
                turns.push(Turn::new("user", prompt));
                turns.push(Turn::new(ASSISTANT, response));
                self.chat(Talk::of(turns, tools, words), &extra, &mut unused, out)?
            }
            What::Pair(Pair { before, .. }) if !before.is_empty() => {
                return Err(Error::config(
                    "system",
                    "fields `system` and `history`: they are written by the model's chat template, which it has not or \
                     which train.template = false leaves out; write them into the prompt",
                ));
            }
            What::Pair(Pair { prompt, response, .. }) => match words.unread_template().filter(|_| options.template) {
                // Another form than the model's would be learned.
                Some(unread) => return Err(unread),
                None => {
                    apart(&mut unused);
                    plain(&prompt, &response, options, words, out)?
                }
            },
            What::Chat(turns) if words.has_template() => {
                self.chat(Talk::of(turns, tools, words), &extra, &mut unused, out)?
            }
            What::Chat(_) => {
                return Err(words.unread_template().unwrap_or_else(|| {
                    Error::config("messages", "field `messages`: this model has no chat template")
                }));
            }
        };
        Ok(Done { learns, unused })
    }

    /// A conversation through the template, tokenized as the one text it is. What the assistant says is what each of its turns adds
    /// to that text, found by rendering the conversation up to it: the tokens that stand for a letter of it are learned. The
    /// template's markers are control tokens; a text that spells one is text, as it is when the model is asked, unless the options
    /// say otherwise.
    fn chat(&mut self, mut talk: Talk, extra: &Extra, unused: &mut Vec<String>, out: &mut Documents) -> Result<bool> {
        let (on, words) = (self.options.loss_on, self.words);
        let learns = on == LossOn::All || talk.messages.iter().any(|m| m.role() == ASSISTANT);
        if talk.messages.is_empty() || !learns {
            return Ok(false);
        }
        let mut whole = self.written(&talk.messages, talk.tools.as_ref(), false);
        // A template that puts texts together may not know a turn that only calls.
        if whole.is_err() && talk.fill_in() {
            whole = self.written(&talk.messages, talk.tools.as_ref(), false);
        }
        let whole = whole?;
        self.uses(&talk, &whole, extra, unused);
        if on == LossOn::All {
            return Ok(out.push(words.encode_chat(&whole)?.into_iter().map(|id| (id, true)).collect()));
        }
        let mut ids = words.marked_chat(&whole, &self.parts(&talk, &whole)?)?;
        // What follows the last response has nothing to teach and is left out.
        ids.truncate(ids.iter().rposition(|(_, learn)| *learn).map_or(0, |at| at + 1));
        Ok(out.push(ids))
    }

    fn written(&self, messages: &[Message], tools: Option<&Value>, ask: bool) -> Result<Rendered> {
        self.words.chat(Spoken { messages, tools }, ask, self.options.parse_special)
    }

    /// The stretches of `whole` that are learned.
    fn parts(&self, talk: &Talk, whole: &Rendered) -> Result<Vec<Range<usize>>> {
        let tools = talk.tools.as_ref();
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut done = 0;
        for (i, message) in talk.messages.iter().enumerate().filter(|(_, m)| m.role() == ASSISTANT) {
            let tail = self.written(&talk.messages[..=i], tools, false)?.text;
            let head = self.head(talk, i, &tail)?;
            if head < done || !whole.text.starts_with(&tail) {
                return Err(Error::config(
                    "messages",
                    format!(
                        "field `messages[{i}]`: the model's chat template writes earlier turns differently once this one \
                         is there, so the response cannot be told apart; set the loss to all tokens"
                    ),
                ));
            }
            done = tail.len();
            // A call that the template does not write is nothing to learn the silence of.
            let calls = CALLS.into_iter().filter(|key| message.fields().get(*key).is_some_and(|v| !v.is_null()));
            let mut silent = false;
            for key in calls {
                let mut less = talk.messages[..=i].to_vec();
                less[i] = message.without(key);
                silent = self.written(&less, tools, false).is_ok_and(|less| less.text == tail);
            }
            if talk.learn[i] && !silent {
                parts.push(head..tail.len());
            }
        }
        Ok(parts)
    }

    /// Where in `tail`, the conversation up to its message `i`, that message's words begin. It is what the template writes when it asks
    /// for them; where it writes another beginning then (of a conversation that opens with the assistant, say), it is as far as the
    /// conversation stays the same when the message begins with another letter.
    fn head(&self, talk: &Talk, i: usize, tail: &str) -> Result<usize> {
        let tools = talk.tools.as_ref();
        if let Ok(asked) = self.written(&talk.messages[..i], tools, true)
            && tail.starts_with(&asked.text)
        {
            return Ok(asked.text.len());
        }
        let mut other = talk.messages[..=i].to_vec();
        let said = other[i].fields().get("content").and_then(Value::as_str).unwrap_or_default();
        let letter = if said.trim_start().starts_with('x') { "y" } else { "x" };
        other[i] = other[i].with("content", letter.into());
        let other = self.written(&other, tools, false)?.text;
        let same = tail.chars().zip(other.chars()).take_while(|(a, b)| a == b);
        Ok(same.map(|(c, _)| c.len_utf8()).sum())
    }

    /// Adds to `unused` what the template writes nothing of: leaving it out changes no letter of `whole`.
    fn uses(&mut self, talk: &Talk, whole: &Rendered, extra: &Extra, unused: &mut Vec<String>) {
        let same = |messages: &[Message], tools: Option<&Value>| {
            self.written(messages, tools, false).is_ok_and(|less| less.text == whole.text)
        };
        let mut found = Vec::new();
        let tools = talk.tools.as_ref();
        if tools.is_some_and(|t| t.as_array().is_some_and(|t| !t.is_empty())) && !self.used.contains(TOOLS) {
            found.push((TOOLS.to_owned(), same(&talk.messages, None)));
        }
        for (key, name) in extra.keys().filter(|(_, name)| !self.used.contains(name)) {
            let less: Vec<Message> = talk.messages.iter().map(|m| m.without(key)).collect();
            found.push((name, same(&less, tools)));
        }
        for (name, idle) in found {
            if idle {
                unused.push(name);
            } else {
                self.used.insert(name);
            }
        }
    }
}

impl Talk {
    fn of(turns: Vec<Turn>, tools: Option<Value>, words: &Words) -> Self {
        let learn = turns.iter().map(|turn| turn.learn).collect();
        let parts = |m: &Message| m.fields().get("content").is_some_and(Value::is_array);
        let join = turns.iter().any(|turn| parts(&turn.message)) && !words.takes_parts();
        let message = |turn: Turn| if join { joined(&turn.message) } else { turn.message };
        Self { messages: turns.into_iter().map(message).collect(), learn, tools }
    }

    /// Makes what is said nowhere a text of no letters; false where there is none.
    fn fill_in(&mut self) -> bool {
        let mut filled = false;
        for message in &mut self.messages {
            if message.fields().get("content").is_none_or(Value::is_null) {
                *message = message.with("content", "".into());
                filled = true;
            }
        }
        filled
    }
}

/// A text's tokens with the one that ends a text, which the tokenizer may have added itself.
fn ended(mut ids: Vec<(u32, bool)>, words: &Words) -> Vec<(u32, bool)> {
    let last = ids.last().map(|(id, _)| *id);
    ids.extend(words.end().filter(|end| last != Some(*end)).map(|end| (end, true)));
    ids
}

/// A prompt and its response as they stand, tokenized as one text, then the end of the text.
pub(super) fn plain(
    prompt: &str,
    response: &str,
    options: &Options,
    words: &Words,
    out: &mut Documents,
) -> Result<bool> {
    let mut ids = words.marked_pair(prompt, response, options.parse_special)?;
    if options.loss_on == LossOn::All {
        ids.iter_mut().for_each(|(_, learn)| *learn = true);
    }
    Ok(out.push(ended(ids, words)))
}
