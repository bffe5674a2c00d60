//! `run.parse_special`: whether the texts of control tokens, such as `<|im_end|>`, are those tokens.

use serde::{Deserialize, Serialize};

/// What a text that spells a control token becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "Form")]
pub enum ParseSpecial {
    /// The token in a prompt that is completed, text in what is said in a chat and in data.
    #[default]
    Auto,
    /// The token, wherever it stands; also `true`.
    Always,
    /// Text, unless a chat template put it there; also `false`.
    Never,
}

impl ParseSpecial {
    /// False for the default, which no file needs to say.
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether control tokens are parsed in a prompt that is completed.
    pub const fn in_completion(self) -> bool {
        !matches!(self, Self::Never)
    }

    /// Whether they are parsed in what somebody said in a chat, and in the texts of training data: neither is written by who
    /// knows the tokens.
    pub const fn in_text(self) -> bool {
        matches!(self, Self::Always)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "auto, always or never")]
enum Form {
    Flag(bool),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Auto,
    Always,
    Never,
}

impl From<Form> for ParseSpecial {
    fn from(form: Form) -> Self {
        match form {
            Form::Word(Word::Auto) => Self::Auto,
            Form::Flag(true) | Form::Word(Word::Always) => Self::Always,
            Form::Flag(false) | Form::Word(Word::Never) => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;

    #[test]
    fn words_and_flags_are_read_and_words_written() {
        for (text, read) in [
            ("auto", ParseSpecial::Auto),
            ("always", ParseSpecial::Always),
            ("never", ParseSpecial::Never),
            ("true", ParseSpecial::Always),
            ("false", ParseSpecial::Never),
        ] {
            let config = from_toml("", &[("run.parse_special".into(), text.into())]).unwrap();
            assert_eq!(config.run.parse_special, read, "{text}");
            assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config);
        }
        let error = from_toml("", &[("run.parse_special".into(), "maybe".into())]).unwrap_err().to_string();
        assert!(error.contains("run.parse_special") && error.contains("always"), "{error}");
    }
}
