//! Records to marked tokens.

use super::read::Record;
use super::{Documents, LossOn, Options};
use crate::error::{Error, Result};
use crate::model::chat::Message;
use crate::model::text::Words;

/// The role whose words are learned.
const ASSISTANT: &str = "assistant";

/// Adds `record` to `out`.
///
/// # Errors
/// Names the field: a conversation without a word of the assistant's, a template that refuses it or rewrites what came
/// before, a model without the template that is asked for.
pub(super) fn record(record: Record, options: &Options, words: &Words, out: &mut Documents) -> Result<()> {
    match record {
        Record::Text(text) => {
            let mut ids = words.encode_as(&text, true, options.parse_special)?;
            ids.extend(words.end());
            out.push(&[(ids, true)]);
            Ok(())
        }
        Record::Pair { prompt, response } if options.template && words.has_template() => {
            let turns = [Message::new("user", prompt), Message::new(ASSISTANT, response)];
            chat(&turns, options, words, out)
        }
        Record::Pair { prompt, response } => match words.unread_template().filter(|_| options.template) {
            // Another form than the model's would be learned.
            Some(unread) => Err(unread),
            None => plain(&prompt, &response, options, words, out),
        },
        Record::Chat(turns) if words.has_template() => chat(&turns, options, words, out),
        Record::Chat(_) => Err(words
            .unread_template()
            .unwrap_or_else(|| Error::config("messages", "field `messages`: this model has no chat template"))),
    }
}

/// A prompt and its response as they stand, then the end of the text.
pub(super) fn plain(prompt: &str, response: &str, options: &Options, words: &Words, out: &mut Documents) -> Result<()> {
    let prompt = words.encode_as(prompt, true, options.parse_special)?;
    let mut response = words.encode_as(response, false, options.parse_special)?;
    response.extend(words.end());
    out.push(&[(prompt, options.loss_on == LossOn::All), (response, true)]);
    Ok(())
}

/// A conversation through the template. What the assistant says is what each of its turns adds to the text: found by
/// rendering the conversation up to it, and tokenized apart, as it will be when the model writes it itself. The template's
/// markers are control tokens; a text that spells one is text, as it is when the model is asked, unless the options say
/// otherwise.
fn chat(turns: &[Message], options: &Options, words: &Words, out: &mut Documents) -> Result<()> {
    let (on, parse) = (options.loss_on, options.parse_special);
    if on == LossOn::Responses && turns.iter().all(|m| m.role != ASSISTANT) {
        return Err(Error::config("messages", "field `messages`: has no turn of role `assistant` to learn from"));
    }
    let whole = words.chat(turns, false, parse)?;
    if on == LossOn::All {
        out.push(&[(words.encode_chat(&whole)?, true)]);
        return Ok(());
    }
    let mut parts = Vec::new();
    let mut done = 0;
    for i in (0..turns.len()).filter(|i| turns[*i].role == ASSISTANT) {
        let head = words.chat(&turns[..i], true, parse)?.text;
        let tail = words.chat(&turns[..=i], false, parse)?.text;
        if head.len() < done || !tail.starts_with(&head) || !whole.text.starts_with(&tail) {
            return Err(Error::config(
                "messages",
                format!(
                    "field `messages[{i}]`: the model's chat template writes earlier turns differently once this one \
                     is there, so the response cannot be told apart; set the loss to all tokens"
                ),
            ));
        }
        parts.push((words.encode_chat(&whole.part(done..head.len()))?, false));
        parts.push((words.encode_chat(&whole.part(head.len()..tail.len()))?, true));
        done = tail.len();
    }
    // What follows the last response has nothing to teach and is left out.
    out.push(&parts);
    Ok(())
}
