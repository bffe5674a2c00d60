//! Evaluations: each a list of cases (a prompt, then tokens forced one by one) and a scorer.
//!
//! Policies act on what was cached before a token, so only forced tokens after the prompt are scored: perplexity from a
//! single prefill would be the same for every policy (kv.md §7.1).

pub mod agreement;
mod fidelity;
pub mod metrics;
mod needle;
mod perplexity;
mod recall;
pub mod reference;
mod task;

use std::path::Path;

use crate::config::{Choice, Config};
use crate::error::{Error, Result};
use crate::model::text::Words;
use crate::schema::{self, Entry};

/// The tasks.
pub const ENTRIES: &[&Entry<dyn Task>] =
    &[&perplexity::ENTRY, &fidelity::ENTRY, &needle::ENTRY, &recall::ENTRY, &task::ENTRY];

/// A prompt, and the tokens forced after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Read at once.
    pub prompt: Vec<u32>,
    /// Scored one by one.
    pub forced: Vec<u32>,
}

impl Case {
    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.prompt.len() + self.forced.len()
    }
}

/// What cases are made from.
pub struct Material<'a> {
    /// The model's words.
    pub words: &'a Words,
    /// What relative paths are relative to.
    pub base: &'a Path,
    /// Of generated cases.
    pub seed: u64,
    /// Tokens a case may have.
    pub context: usize,
}

/// One evaluation.
pub trait Task: Send {
    /// Makes the cases.
    ///
    /// # Errors
    /// A missing or too short text, lengths that do not fit.
    fn cases(&mut self, material: &Material<'_>) -> Result<Vec<Case>>;
    /// True when each score also takes the logits of the uncompressed model.
    fn compares(&self) -> bool {
        false
    }
    /// Scores forced token `step` of case `case`: `logits`, `(vocab)`, are those before it.
    fn score(&mut self, case: usize, step: usize, logits: &[f32], target: u32, reference: Option<&[f32]>);
    /// The figures.
    fn finish(&mut self) -> serde_json::Value;
}

/// A task with its cases.
pub struct Prepared {
    /// Its id.
    pub id: String,
    /// Its scorer.
    pub task: Box<dyn Task>,
    /// Its cases.
    pub cases: Vec<Case>,
    /// The logits it compares with, when it does.
    pub reference: Option<reference::File>,
}

/// Builds every evaluation of `config`.
///
/// # Errors
/// What a task's cases say.
pub fn prepare(config: &Config, words: &Words, base: &Path) -> Result<Vec<Prepared>> {
    let material = Material { words, base, seed: config.run.seed, context: config.run.context };
    let mut out = Vec::new();
    for (id, knobs) in &config.eval {
        let key = format!("eval.{id}");
        let mut task = schema::build(ENTRIES, &key, &Choice { id: id.clone(), knobs: knobs.clone() })?;
        let cases = task.cases(&material)?;
        let reference = task.compares().then(|| reference::File::new(&cases));
        out.push(Prepared { id: id.clone(), task, cases, reference });
    }
    Ok(out)
}

/// The text that evaluations use when no file is named: public domain, in plain English.
pub(crate) const TEXT: &str = include_str!("../../../assets/text/plain.txt");

/// Reads the text of an evaluation: a file, or the bundled one for an empty name.
fn text(key: &str, file: &str, base: &Path) -> Result<String> {
    if file.is_empty() {
        return Ok(TEXT.to_owned());
    }
    let path = base.join(file);
    let bytes = std::fs::read(&path).map_err(|e| Error::config(key, format!("cannot read {}: {e}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| Error::config(key, format!("{} is not UTF-8 text", path.display())))
}

/// Windows of a text: `prompt` tokens read, `forced` tokens scored, as many as `limit` asks for.
fn windows(key: &str, ids: &[u32], prompt: usize, forced: usize, limit: usize) -> Result<Vec<Case>> {
    if ids.len() < prompt + 2 {
        return Err(Error::config(
            key,
            format!("the text has {} tokens; {} are needed for a prompt of {prompt}", ids.len(), prompt + 2),
        ));
    }
    let mut out: Vec<Case> = ids
        .chunks(prompt + forced)
        .filter(|w| w.len() > prompt + 1)
        .take(limit)
        .map(|w| Case { prompt: w[..prompt].to_vec(), forced: w[prompt..].to_vec() })
        .collect();
    out.truncate(limit.max(1));
    Ok(out)
}
