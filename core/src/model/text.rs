//! From prompt to tokens and from tokens to text that may be shown.

use std::ops::Range;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::chat::{ChatTemplate, Message, SpecialTokens, Spoken};
use crate::model::said::{self, Rendered};
use crate::model::tokenizer::{Encoded, Tokenizer};
use crate::model::{Model, Source};

/// A prompt of `n` tokens for which the context has no room.
pub(crate) fn too_long(n: usize, context: usize) -> Error {
    let why = format!("the prompt has {n} tokens and the context {context}; raise run.context or shorten the prompt");
    Error::config("run.context", why)
}

/// Why a random model has no tokenizer.
const RANDOM: &str = "a random model has no tokenizer, and nothing to remember";

/// Why `model` has none, where nothing is wrong with a file.
pub fn no_tokenizer(model: &Model) -> String {
    match &*model.source {
        Source::Hf(folder) => format!(
            "{} has no tokenizer: put the model's tokenizer.json there, or its tokenizer.model or tekken.json, or vocab.json with merges.txt",
            folder.dir().display()
        ),
        Source::Absent { name } => format!(
            "of {name} there is its config.json and no weights: it is planned, and its words are not read; put its weights there"
        ),
        _ => RANDOM.into(),
    }
}

/// A model's words: what a run needs of its tokenizer.
#[derive(Debug)]
pub struct Words {
    /// None for a random model, and for one whose tokenizer is missing or cannot be read.
    pub tokenizer: Option<Tokenizer>,
    /// Why there is none.
    missing: Option<String>,
    template: Option<ChatTemplate>,
    special: SpecialTokens,
    /// Why the tokenizer cannot be read, and why the template cannot.
    unread: [Option<String>; 2],
    vocab: usize,
}

/// What was read, or why it could not be, in one line.
fn or_why<T>(read: Result<Option<T>>) -> (Option<T>, Option<String>) {
    match read {
        Ok(read) => (read, None),
        Err(e) => (None, Some(e.to_string().replace("\n  ", " "))),
    }
}

impl Words {
    /// Reads them from the model's header. What cannot be read of them is missing where it is needed, a template for a chat and a
    /// tokenizer for text, and is told by [`Self::notes`]: a plan needs neither.
    ///
    /// # Errors
    /// None today.
    pub fn of(model: &Model) -> Result<Self> {
        let (tokenizer, no_tokenizer) = or_why(model.tokenizer());
        let (template, no_template) = or_why(model.chat_template());
        let (mut special, no_special) = or_why(model.special_tokens().map(Some));
        // llama.cpp's defaults, where a GGUF file names none.
        if let (Some(special), Some(t), Some(_)) = (&mut special, &tokenizer, model.source.gguf()) {
            let text = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(&t.piece(id)).into_owned());
            special.or("bos_token", text(t.bos()).unwrap_or_default());
            special.or("eos_token", text(t.eos()).unwrap_or_default());
        }
        // A template without its tokens would write another prompt.
        let template = template.filter(|_| no_special.is_none());
        let missing = tokenizer.is_none().then(|| no_tokenizer.clone().unwrap_or_else(|| self::no_tokenizer(model)));
        let unread = [no_tokenizer, no_template.or(no_special)];
        let special = special.unwrap_or_default();
        Ok(Self { tokenizer, missing, template, special, unread, vocab: model.shape.vocab })
    }

    /// Those of a tokenizer alone.
    #[cfg(test)]
    pub(crate) fn of_tokenizer(tokenizer: Tokenizer, vocab: usize) -> Self {
        let special = SpecialTokens::default();
        Self { tokenizer: Some(tokenizer), missing: None, template: None, special, unread: [None, None], vocab }
    }

    /// Why there is no tokenizer.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// What of the words could not be read, with the file and the line.
    pub fn notes(&self) -> Vec<String> {
        let parts = ["the tokenizer", "the chat template"].iter().zip(["text", "a chat"]).zip(&self.unread);
        parts
            .filter_map(|((part, none), why)| {
                Some(format!("{part} cannot be read, so there is no {none}: {}", why.as_ref()?))
            })
            .collect()
    }

    /// Whether the prompt of `config` can be read: a text needs a tokenizer, `tokens:N` none. A plan needs no more than its
    /// length, and counts a token a byte of a prompt that cannot be read.
    ///
    /// # Errors
    /// [`Error::Refused`] saying which files are missing or what is wrong with them.
    pub fn readable(&self, config: &Config) -> Result<()> {
        let random = self.missing() == Some(RANDOM);
        match self.tokenizer.is_some() || random || config.run.prompt.starts_with("tokens:") {
            true => Ok(()),
            false => Err(self.no_words("run.prompt")),
        }
    }

    /// Text asked of a model without a tokenizer.
    pub fn no_words(&self, what: &str) -> Error {
        let instead = match what {
            "run.prompt" => "set run.prompt = \"tokens:N\" for N tokens whatever they are",
            _ => "set train.data=random to train without text",
        };
        Error::refused(what, format!("{}; {instead}", self.missing().unwrap_or_default()))
    }

    /// Why the model's chat template cannot be used, where it has one.
    pub fn unread_template(&self) -> Option<Error> {
        self.unread[1].as_ref().map(|_| Error::refused("a conversation", self.no_template()))
    }

    /// Why there is no chat.
    fn no_template(&self) -> String {
        let why = self.unread.iter().flatten().next();
        why.map_or("this model has no chat template".into(), |why| {
            format!("this model's chat template or tokenizer cannot be read: {why}")
        })
    }

    /// The prompt of `config` in tokens. A model without words has as many made-up ids as it has bytes, or as `tokens:N` says: for
    /// a plan, and for a random model.
    ///
    /// # Errors
    /// A chat asked of a model without a template; a vocabulary larger than the embedding; more repeated ids than the context has room
    /// for.
    pub fn prompt(&self, config: &Config) -> Result<Vec<u32>> {
        let run = &config.run;
        let ids = match &self.tokenizer {
            None => {
                // `tokens:N` asks for N tokens, whatever they are.
                let n = match run.prompt.strip_prefix("tokens:") {
                    Some(n) => n
                        .trim()
                        .parse()
                        .map_err(|_| Error::config("run.prompt", format!("`{}` is not tokens:NUMBER", run.prompt)))?,
                    None => run.prompt.len(),
                };
                // Before a list of them is made.
                if n > run.context {
                    return Err(too_long(n, run.context));
                }
                (0..n).map(|i| ((i * 7919 + 13) % self.vocab) as u32).collect()
            }
            Some(t) if run.chat => {
                let mut messages = Vec::new();
                if !run.system.is_empty() {
                    messages.push(Message::new("system", run.system.as_str()));
                }
                messages.extend(run.turns.iter().map(|t| Message::new(t.role.as_str(), t.content.as_str())));
                messages.push(Message::new("user", run.prompt.as_str()));
                if !self.has_template() {
                    return Err(Error::config("run.chat", format!("{}; set run.chat = false", self.no_template())));
                }
                return self.encode_chat(&self.chat(&messages, true, run.parse_special.in_text())?);
            }
            Some(_) => return self.encode_as(&run.prompt, true, run.parse_special.in_completion()),
        };
        self.check(ids)
    }

    /// True when conversations can be written as this model expects them.
    pub fn has_template(&self) -> bool {
        self.template.is_some() && self.tokenizer.is_some()
    }

    /// Whether the model's template writes a content that is a list of parts; otherwise it takes texts.
    pub fn takes_parts(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::takes_parts)
    }

    /// A conversation in the words of the model's template; with `ask` it ends where the assistant begins. What was said stays
    /// text, whatever it spells, unless `parse_special` says that control tokens are meant there too.
    ///
    /// # Errors
    /// A model without a template, or what the template says.
    pub fn chat<'a>(&self, spoken: impl Into<Spoken<'a>>, ask: bool, parse_special: bool) -> Result<Rendered> {
        let (Some(t), Some(template)) = (&self.tokenizer, &self.template) else {
            return Err(Error::refused("a conversation", self.no_template()));
        };
        let render = |spoken: &Spoken<'_>| template.render(*spoken, ask, &self.special);
        let spoken = spoken.into();
        if parse_special {
            return Ok(Rendered { text: render(&spoken)?, literal: Vec::new() });
        }
        said::render(&spoken, |text| t.spelled(text), render)
    }

    /// A rendered conversation in tokens: the texts of control tokens are those tokens, where nobody said them.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_chat(&self, said: &Rendered) -> Result<Vec<u32>> {
        self.spans(&said.text, false, Some(&said.literal)).map(|e| e.ids)
    }

    /// A rendered conversation in tokens, and for each whether it is of one of `parts`, stretches of its text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn marked_chat(&self, said: &Rendered, parts: &[Range<usize>]) -> Result<Vec<(u32, bool)>> {
        let encoded = self.spans(&said.text, false, Some(&said.literal))?;
        Ok(self.marked(&encoded, parts, said.text.len()))
    }

    /// A prompt with its response in tokens, tokenized as one text, and for each whether it is of the response. Beginning and end
    /// that the model asks for are added.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn marked_pair(&self, prompt: &str, response: &str, parse_special: bool) -> Result<Vec<(u32, bool)>> {
        let text = [prompt, response].concat();
        let encoded = self.spans(&text, true, parse_special.then_some(&[]))?;
        let response = prompt.len()..text.len();
        Ok(self.marked(&encoded, std::slice::from_ref(&response), text.len()))
    }

    /// A text in tokens, each with the bytes of it that it stands for; with `special` the beginning that the model asks for is added.
    /// What asks a model for a part of a text makes the whole text first and finds the part by its place: tokens of parts that were
    /// written apart are not those of the text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn placed(&self, text: &str, special: bool) -> Result<Encoded> {
        let mut encoded = self.spans(text, special, None)?;
        // What a model asks for after a text is none of it.
        let control = |id| self.tokenizer.as_ref().is_some_and(|t| t.is_control(id));
        let after = |i: usize| encoded.spans[i] == (text.len(), text.len()) && control(encoded.ids[i]);
        let kept = (0..encoded.ids.len()).rev().find(|i| text.is_empty() || !after(*i)).map_or(0, |i| i + 1);
        encoded.ids.truncate(kept);
        encoded.spans.truncate(kept);
        Ok(encoded)
    }

    fn marked(&self, encoded: &Encoded, parts: &[Range<usize>], len: usize) -> Vec<(u32, bool)> {
        let control = |id| self.tokenizer.as_ref().is_some_and(|t| t.is_control(id));
        encoded.ids.iter().copied().zip(encoded.of(parts, len, control)).collect()
    }

    fn spans(&self, text: &str, special: bool, parse: Option<&[usize]>) -> Result<Encoded> {
        match &self.tokenizer {
            Some(t) => {
                let encoded = t.encode_spans(text, special, parse)?;
                self.check_ids(&encoded.ids).map(|()| encoded)
            }
            None => Err(Error::refused("text for this model", self.missing().unwrap_or_default())),
        }
    }

    /// The token that ends a text, where the model has one.
    pub fn end(&self) -> Option<u32> {
        self.tokenizer.as_ref().and_then(Tokenizer::eos).filter(|id| (*id as usize) < self.vocab)
    }

    /// Plain text in tokens, control tokens being text; with `special` the beginning and end that the model asks for are added.
    ///
    /// # Errors
    /// A random model has no words.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.encode_as(text, special, false)
    }

    /// As [`Self::encode`]; with `parse_special` the texts of control tokens are those tokens.
    ///
    /// # Errors
    /// A random model has no words.
    pub fn encode_as(&self, text: &str, special: bool, parse_special: bool) -> Result<Vec<u32>> {
        self.spans(text, special, parse_special.then_some(&[])).map(|e| e.ids)
    }

    /// Ids there are.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    fn check(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        self.check_ids(&ids).map(|()| ids)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.vocab) {
            Some(id) => Err(Error::refused(
                "this model",
                format!("its tokenizer gives id {id}, its embedding has {} rows", self.vocab),
            )),
            None => Ok(()),
        }
    }

    /// True for a token that ends the text.
    pub fn ends(&self, id: u32) -> bool {
        self.tokenizer.as_ref().is_some_and(|t| t.is_end_of_generation(id))
    }
}

/// Holds back text that may be the beginning of a stop string.
#[derive(Debug, Default)]
pub struct StopFilter {
    held: String,
}

impl StopFilter {
    /// Adds `text`; returns what may be shown and whether a stop string was met (which is not shown).
    pub fn push(&mut self, text: &str, stops: &[String]) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| self.held.find(s.as_str())).min() {
            let shown = self.held[..at].to_owned();
            self.held.clear();
            return (shown, true);
        }
        let keep = (0..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| stops.iter().any(|s| s.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back when the sequence ends otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_split_over_tokens_is_never_shown() {
        let stops = ["END".to_owned(), "\n\n".to_owned()];
        let mut f = StopFilter::default();
        assert_eq!(f.push("héllo E", &stops), ("héllo ".into(), false));
        assert_eq!(f.push("N", &stops), (String::new(), false));
        assert_eq!(f.push("ough", &stops), ("ENough".into(), false));
        assert_eq!(f.push("\n", &stops), (String::new(), false));
        assert_eq!(f.push("\nmore", &stops), (String::new(), true));
        assert_eq!(f.finish(), "");
        assert_eq!(f.push("E", &stops), (String::new(), false));
        assert_eq!(f.finish(), "E");
    }
}
