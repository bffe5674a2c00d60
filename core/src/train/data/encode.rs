//! Records to marked tokens.

use std::ops::Range;

use super::read::{Pair, Turn, What};
use super::{Documents, LossOn, Options};
use crate::error::{Error, Result};
use crate::model::chat::Message;
use crate::model::text::Words;

/// The role whose words are learned.
const ASSISTANT: &str = "assistant";

/// Adds `what` to `out`; false where there is nothing in it to learn.
///
/// # Errors
/// Names the field: a conversation without a word of the assistant's, a template that refuses it or rewrites what came
/// before, a model without the template that is asked for.
pub(super) fn record(what: What, options: &Options, words: &Words, out: &mut Documents) -> Result<bool> {
    match what {
        What::Text(text) => {
            let ids = words.encode_as(&text, true, options.parse_special)?;
            Ok(out.push(ended(ids.into_iter().map(|id| (id, true)).collect(), words)))
        }
        What::Pair(Pair { before, prompt, response }) if options.template && words.has_template() => {
            let mut turns = before;
            turns.push(Turn::new("user", prompt));
            turns.push(Turn::new(ASSISTANT, response));
            chat(turns, options, words, out)
        }
        What::Pair(Pair { before, .. }) if !before.is_empty() => Err(Error::config(
            "system",
            "fields `system` and `history`: they are written by the model's chat template, which it has not or which \
             train.template = false leaves out; write them into the prompt",
        )),
        What::Pair(Pair { prompt, response, .. }) => match words.unread_template().filter(|_| options.template) {
            // Another form than the model's would be learned.
            Some(unread) => Err(unread),
            None => plain(&prompt, &response, options, words, out),
        },
        What::Chat(turns) if words.has_template() => chat(turns, options, words, out),
        What::Chat(_) => Err(words
            .unread_template()
            .unwrap_or_else(|| Error::config("messages", "field `messages`: this model has no chat template"))),
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

/// A conversation through the template, tokenized as the one text it is. What the assistant says is what each of its turns adds
/// to that text, found by rendering the conversation up to it: the tokens that stand for a letter of it are learned. The
/// template's markers are control tokens; a text that spells one is text, as it is when the model is asked, unless the options
/// say otherwise.
fn chat(turns: Vec<Turn>, options: &Options, words: &Words, out: &mut Documents) -> Result<bool> {
    let (on, parse) = (options.loss_on, options.parse_special);
    let learn: Vec<bool> = turns.iter().map(|turn| turn.learn).collect();
    let turns: Vec<Message> = turns.into_iter().map(|turn| turn.message).collect();
    if on == LossOn::Responses && turns.iter().all(|m| m.role != ASSISTANT) {
        return Err(Error::config("messages", "field `messages`: has no turn of role `assistant` to learn from"));
    }
    let whole = words.chat(&turns, false, parse)?;
    if on == LossOn::All {
        return Ok(out.push(words.encode_chat(&whole)?.into_iter().map(|id| (id, true)).collect()));
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
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
        done = tail.len();
        if learn[i] {
            parts.push(head.len()..tail.len());
        }
    }
    let mut ids = words.marked_chat(&whole, &parts)?;
    // What follows the last response has nothing to teach and is left out.
    ids.truncate(ids.iter().rposition(|(_, learn)| *learn).map_or(0, |at| at + 1));
    Ok(out.push(ids))
}
