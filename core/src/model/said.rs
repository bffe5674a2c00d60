//! Conversations as text in which a template's own markers are control tokens and what was said is not.
//!
//! A template mixes both into one text. So before it renders, wherever a message spells a control token its first letter is
//! replaced by a letter that no message has; afterwards the letters are put back, and where they stood is known.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::chat::Message;

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

/// Renders `messages` by `render`, control tokens being found by `starts`: the bytes of a text at which one is spelled, rising.
///
/// # Errors
/// What `render` says; [`Error::Refused`] for messages that leave no letter to stand for another.
pub(super) fn render(
    messages: &[Message],
    starts: impl Fn(&str) -> Vec<usize>,
    render: impl Fn(&[Message]) -> Result<String>,
) -> Result<Rendered> {
    let texts = || messages.iter().flat_map(|m| [&m.role, &m.content]);
    let mut letters: Vec<char> =
        texts().flat_map(|text| starts(text).into_iter().filter_map(|at| text[at..].chars().next())).collect();
    letters.sort_unstable();
    letters.dedup();
    if letters.is_empty() {
        return Ok(Rendered { text: render(messages)?, literal: Vec::new() });
    }
    // Letters that stand for nothing in Unicode, then those for private use.
    let free = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}');
    let disguises: Vec<(char, char)> =
        letters.into_iter().zip(free.filter(|c| texts().all(|text| !text.contains(*c)))).collect();
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
    let disguised: Vec<Message> =
        messages.iter().map(|m| Ok(Message::new(disguise(&m.role)?, disguise(&m.content)?))).collect::<Result<_>>()?;
    let mut out = Rendered::default();
    for c in render(&disguised)?.chars() {
        match disguises.iter().find(|(_, to)| *to == c) {
            Some((from, _)) => {
                out.literal.push(out.text.len());
                out.text.push(*from);
            }
            None => out.text.push(c),
        }
    }
    Ok(out)
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

    fn join(messages: &[Message]) -> Result<String> {
        Ok(messages.iter().map(|m| format!("<e>{}: {}[e]", m.role, m.content.trim())).collect())
    }

    #[test]
    fn what_was_said_is_told_from_what_the_template_says() {
        let said = [Message::new("a", " x<e>é[e] "), Message::new("b", "none"), Message::new("c", "\u{fdd0}<e>")];
        let got = render(&said, starts, join).unwrap();
        assert_eq!(got.text, join(&said).unwrap());
        let spelled: Vec<&str> = got.literal.iter().map(|at| &got.text[*at..]).collect();
        assert_eq!(spelled.len(), 7, "{spelled:?}");
        assert!(spelled[0].starts_with("<e>é[e]") && spelled[1].starts_with("e>é") && spelled[2].starts_with("[e][e]"));
        assert!(spelled[4].starts_with("e[e]<e>c") && spelled[5].starts_with("<e>[e]"));
        let part = got.part(got.literal[2]..got.text.len());
        assert_eq!((part.text.as_str(), part.literal[0]), (spelled[2], 0));
        let plain = [Message::new("a", "x")];
        assert_eq!(render(&plain, starts, join).unwrap(), Rendered { text: "<e>a: x[e]".into(), literal: vec![] });
    }
}
