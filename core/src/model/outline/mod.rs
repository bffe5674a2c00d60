//! Models that are planned and not run: what a header or a `config.json` says of one that no code here computes.
//!
//! An [`Outline`] is less than a [`crate::shape::ModelShape`]: the bytes of its weights, and what each kind of its layers keeps of a
//! context. Nothing of it is ever computed with, so that a family that is described wrong costs a wrong figure and no wrong text.

mod config;
mod gguf;
mod layers;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::gguf::Gguf;
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// What a layer keeps of a context of a sequence, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Keeps {
    /// Keys and values of every token.
    Full {
        /// Elements a token.
        row: u64,
    },
    /// Keys and values of the last tokens.
    Window {
        /// Elements a token.
        row: u64,
        /// Tokens.
        tokens: u64,
    },
    /// A compressed vector and a turned key of every token, shared by all heads (multi-head latent attention, arXiv 2405.04434).
    Latent {
        /// Elements a token.
        row: u64,
    },
    /// A state of one size, however long the context: a recurrence's, and the inputs of a short convolution.
    State {
        /// Elements, counted at four bytes each as llama.cpp keeps them.
        state: u64,
    },
    /// Both of a layer in which attention and a recurrence stand side by side.
    Both {
        /// Elements a token.
        row: u64,
        /// Elements of the recurrence.
        state: u64,
    },
    /// Nothing: a feed-forward alone.
    Nothing,
    /// Its description does not say.
    Unknown,
}

impl Keeps {
    /// Bytes at a context of `tokens` tokens with `element` bytes an element of a row; `None` where it is not known.
    pub fn bytes(self, tokens: u64, element: u64) -> Option<u64> {
        let rows = |row: u64, tokens: u64| row.saturating_mul(tokens).saturating_mul(element);
        Some(match self {
            Self::Full { row } | Self::Latent { row } => rows(row, tokens),
            Self::Window { row, tokens: window } => rows(row, tokens.min(window)),
            Self::State { state } => state.saturating_mul(4),
            Self::Both { row, state } => rows(row, tokens).saturating_add(state.saturating_mul(4)),
            Self::Nothing => 0,
            Self::Unknown => return None,
        })
    }

    /// Elements that one more token costs a context that is longer than every window.
    pub const fn row(self) -> u64 {
        match self {
            Self::Full { row } | Self::Latent { row } | Self::Both { row, .. } => row,
            _ => 0,
        }
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::Full { row } => format!("attention, {row} elements a token"),
            Self::Window { row, tokens } => format!("attention over {tokens} tokens, {row} elements each"),
            Self::Latent { row } => format!("latent attention, {row} elements a token"),
            Self::State { state } => format!("a recurrence, {state} elements in all"),
            Self::Both { row, state } => {
                format!("attention, {row} elements a token, beside a recurrence, {state} in all")
            }
            Self::Nothing => "a feed-forward alone".into(),
            Self::Unknown => "a kind that is not known".into(),
        }
    }
}

/// Where the bytes of the weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// From the headers of the files, to the byte.
    Exactly,
    /// From sizes in a configuration, at the type that it names.
    BySizes,
}

/// The weights of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// Payload bytes.
    pub bytes: u64,
    /// By type.
    pub types: BTreeMap<String, u64>,
    /// Where they come from.
    pub known: Known,
}

/// A model that is planned and not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The model's own name, or its folder's.
    pub name: String,
    /// What its file calls its architecture.
    pub arch: String,
    /// Why it is not run.
    pub why: String,
    /// Numbers in its weights, where its sizes say them.
    pub parameters: Option<u64>,
    /// Where they are known.
    pub weights: Option<Weights>,
    /// Trained context in tokens; 0 where it is not said.
    pub context: u64,
    /// What each layer keeps, in order.
    pub layers: Vec<Keeps>,
}

impl Outline {
    /// Bytes of a sequence's cache at a context of `tokens` tokens in `element` bytes an element; `None` where a layer is of no known
    /// kind.
    pub fn cache(&self, tokens: u64, element: u64) -> Option<u64> {
        self.layers.iter().map(|l| l.bytes(tokens, element)).try_fold(0u64, |sum, n| Some(sum.saturating_add(n?)))
    }

    /// Bytes that one more token costs in f16, windows being full.
    pub fn token_bytes(&self) -> u64 {
        self.layers.iter().fold(0u64, |sum, l| sum.saturating_add(2 * l.row()))
    }

    /// The same kinds together, in order of their first.
    pub fn kinds(&self) -> Vec<(Keeps, usize)> {
        let mut out: Vec<(Keeps, usize)> = Vec::new();
        for layer in &self.layers {
            match out.iter_mut().find(|(kind, _)| kind == layer) {
                Some((_, n)) => *n += 1,
                None => out.push((*layer, 1)),
            }
        }
        out
    }

    /// The refusal of whatever would run it.
    pub fn refusal(&self) -> Error {
        Error::OnlyPlanned { what: format!("{} ({})", self.name, self.arch), reason: self.why.clone() }
    }

    /// As a plan shows it, with the cache at a context of `tokens` tokens.
    pub fn table(&self, tokens: u64) -> String {
        let mut out = format!("{} ({})\nonly planned: {}\n\n", self.name, self.arch, self.why);
        if let Some(n) = self.parameters {
            out += &format!("parameters  {n}\n");
        }
        match &self.weights {
            Some(w) => {
                let how =
                    if w.known == Known::Exactly { "from the files' headers" } else { "by the configuration's sizes" };
                out += &format!("weights     {} ({} B), {how}\n", Bytes(w.bytes), w.bytes);
                for (ty, bytes) in &w.types {
                    out += &format!("  {ty:<10}{bytes:>20} B\n");
                }
            }
            None => out += "weights     not known: its configuration does not give every size\n",
        }
        out += &format!("cache       {} B a token in f16", self.token_bytes());
        out += &match self.cache(tokens, 2) {
            Some(bytes) => format!(", {} ({bytes} B) at {tokens} tokens\n", Bytes(bytes)),
            None => ", of those layers whose kind is known\n".into(),
        };
        for (kind, n) in self.kinds() {
            out += &format!("  {n:>4} layers: {}\n", kind.words());
        }
        if self.context > 0 {
            out += &format!("context     {} trained\n", self.context);
        }
        out
    }
}

/// The outline of what lies at `path`, where that is a model which is planned and not run; `None` where it is run, or is no model.
///
/// # Errors
/// A damaged file.
pub fn of(path: &Path) -> Result<Option<Outline>> {
    let path = super::open::whole(path.to_path_buf());
    if path.is_dir() || path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
        return config::of(&path);
    }
    match Gguf::open(&path) {
        Ok(file) => gguf::of(&file),
        // Whoever opens it says what is wrong with it.
        Err(_) => Ok(None),
    }
}

/// The outline of a GGUF file that is open, where its architecture is not run.
///
/// # Errors
/// Metadata of another type than it has.
pub fn of_gguf(file: &Gguf) -> Result<Option<Outline>> {
    gguf::of(file)
}
