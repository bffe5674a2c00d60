//! Which scripts of a text cannot be drawn as they are written, and why: no installed font has them, or they run from right to left.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use unicode_script::{Script, UnicodeScript};

use crate::view::Text;

/// What was met in texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Met {
    /// Scripts of characters that no font has.
    missing: BTreeSet<&'static str>,
    right_to_left: bool,
}

impl Met {
    /// Reads a text; `has` says whether any font has a character.
    fn read(&mut self, text: &str, has: &mut impl FnMut(char) -> bool) {
        for c in text.chars().filter(|c| !c.is_ascii() && !c.is_control() && *c != char::REPLACEMENT_CHARACTER) {
            let script = c.script();
            self.right_to_left |= right_to_left(script);
            // A mark is drawn with the character before it, or not at all.
            if script == Script::Inherited || self.missing.contains(name(script)) || has(c) {
                continue;
            }
            self.missing.insert(name(script));
        }
    }
}

/// What a script is called; signs belong to none.
fn name(script: Script) -> &'static str {
    match script {
        Script::Common | Script::Inherited | Script::Unknown => "some signs and emoji",
        script => script.full_name(),
    }
}

/// The living scripts that run from right to left (Unicode, Bidi_Class R and AL).
fn right_to_left(script: Script) -> bool {
    use Script as S;
    matches!(
        script,
        S::Arabic
            | S::Hebrew
            | S::Syriac
            | S::Thaana
            | S::Nko
            | S::Adlam
            | S::Samaritan
            | S::Mandaic
            | S::Hanifi_Rohingya
    )
}

/// The texts of the text picture, each read once and then only what came to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scripts {
    asked: (u64, Met),
    /// Of which run, and how many tokens of each sequence were read.
    read: (Option<String>, Vec<usize>),
    written: Met,
}

impl Scripts {
    /// Reads what is new in `data`; `has` says whether any font has a character.
    pub(crate) fn read(&mut self, data: &Text, mut has: impl FnMut(char) -> bool) {
        let texts = [&data.prompt, &data.system].into_iter().chain(data.turns.iter().map(|turn| &turn.content));
        let mut hasher = DefaultHasher::new();
        texts.clone().for_each(|text| text.hash(&mut hasher));
        if self.asked.0 != hasher.finish() {
            self.asked = (hasher.finish(), Met::default());
            texts.for_each(|text| self.asked.1.read(text, &mut has));
        }
        let (run, counts) = &mut self.read;
        let shrunk =
            || counts.iter().enumerate().any(|(i, n)| data.sequences.get(i).is_none_or(|s| s.tokens.len() < *n));
        if *run != data.of_run || shrunk() {
            (*run, *counts, self.written) = (data.of_run.clone(), Vec::new(), Met::default());
        }
        counts.resize(data.sequences.len(), 0);
        for (sequence, count) in data.sequences.iter().zip(counts) {
            for token in &sequence.tokens[*count..] {
                self.written.read(&token.text, &mut has);
            }
            *count = sequence.tokens.len();
        }
    }

    /// What cannot be drawn as it is written; empty where all can.
    pub(crate) fn caution(&self) -> String {
        let missing: BTreeSet<_> = self.asked.1.missing.union(&self.written.missing).copied().collect();
        let mut said = Vec::new();
        if !missing.is_empty() {
            let names = missing.into_iter().collect::<Vec<_>>().join(", ");
            said.push(format!("No font of this system has {names}: install one, such as Noto Sans, and start again."));
        }
        if self.asked.1.right_to_left || self.written.right_to_left {
            said.push(
                "Words from right to left are joined and turned; the words of a line still stand left to right.".into(),
            );
        }
        said.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::view::{Token, Written};

    fn data(prompt: &str, tokens: &[&str]) -> Text {
        let tokens = tokens.iter().map(|t| Token { id: 0, text: (*t).into() }).collect();
        let sequences = Arc::new(vec![Written { tokens, ..Written::default() }]);
        Text { prompt: prompt.into(), sequences, ..Text::default() }
    }

    #[test]
    fn a_script_without_a_font_is_named_and_forgotten_with_its_text() {
        let mut scripts = Scripts::default();
        let latin = |c: char| c.script() == Script::Latin || c.script() == Script::Han;
        scripts.read(&data("naïve 中文", &["é", " plain"]), latin);
        assert_eq!(scripts.caution(), "");
        scripts.read(&data("สวัสดี ☃", &["é", " plain", " नमस्ते"]), latin);
        let said = scripts.caution();
        assert!(said.contains("has Devanagari, Thai, some signs and emoji:"), "{said}");
        scripts.read(&data("hello", &["é"]), latin);
        assert_eq!(scripts.caution(), "");
    }

    #[test]
    fn right_to_left_is_said() {
        for (text, says) in [("שלום", true), ("سلام عليكم", true), ("ދިވެހި", true), ("Ελληνικά", false)]
        {
            let mut scripts = Scripts::default();
            scripts.read(&data(text, &[]), |_| true);
            assert_eq!(scripts.caution().contains("right to left"), says, "{text}");
        }
    }

    #[test]
    fn what_was_read_is_not_read_again() {
        let mut scripts = Scripts::default();
        let mut asked = Vec::new();
        scripts.read(&data("", &["ж"]), |c| {
            asked.push(c);
            true
        });
        scripts.read(&data("", &["ж", "д"]), |c| {
            asked.push(c);
            true
        });
        assert_eq!(asked, ['ж', 'д']);
        // Another run of the same length is another text.
        scripts.read(&Text { of_run: Some("b".into()), ..data("", &["к", "к"]) }, |c| {
            asked.push(c);
            true
        });
        assert_eq!(asked, ['ж', 'д', 'к', 'к']);
    }
}
