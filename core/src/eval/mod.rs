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

use std::io::Read as _;
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

/// Bytes of a text that are read at once for a first try.
const PIECE: usize = 64 << 10;
/// Tokens beyond those asked for that must stand in what was read: a token never reaches so far back.
const MARGIN: usize = 64;

/// The first `need` tokens of an evaluation's text, or all where there are fewer: of a file, or of the bundled text for an empty
/// name. No more of a file is read than that takes, however long it is.
fn beginning(m: &Material<'_>, key: &str, file: &str, need: usize) -> Result<Vec<u32>> {
    if file.is_empty() {
        return m.words.encode(TEXT, true);
    }
    let path = m.base.join(file);
    let unread = |e: std::io::Error| Error::config(key, format!("cannot read {}: {e}", path.display()));
    let mut file = std::fs::File::open(&path).map_err(unread)?;
    let (mut bytes, mut size) = (Vec::new(), PIECE.max(need.saturating_mul(4)));
    loop {
        let more = size - bytes.len();
        let whole = file.by_ref().take(more as u64).read_to_end(&mut bytes).map_err(unread)? < more;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            // The last character is cut.
            Err(e) if !whole && e.error_len().is_none() => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or(""),
            Err(_) => return Err(Error::config(key, format!("{} is not UTF-8 text", path.display()))),
        };
        // Cut where a word begins, so that none is encoded in part.
        let end = if whole { text.len() } else { text.rfind(char::is_whitespace).unwrap_or(text.len()) };
        let mut ids = m.words.encode(&text[..end], true)?;
        if whole || ids.len() >= need.saturating_add(MARGIN) {
            ids.truncate(need);
            return Ok(ids);
        }
        size = size.saturating_mul(2);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn the_beginning_of_a_long_text_is_that_of_the_whole() {
        let words = Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let m = Material { words: &words, base: dir.path(), seed: 0, context: 64 };
        let texts = [TEXT.repeat(9), "Ἰλιάδος μῆνιν ἄειδε, θεά. \n\n 日本語の文章。".repeat(3000), "a".repeat(200_000)];
        for text in texts {
            std::fs::write(dir.path().join("text"), &text).unwrap();
            let whole = words.encode(&text, true).unwrap();
            for need in [1, 100, PIECE / 5, PIECE, whole.len() - 1, whole.len(), whole.len() + 9] {
                let some = beginning(&m, "eval.x.file", "text", need).unwrap();
                assert!(some == whole[..need.min(whole.len())], "{need} of {}", whole.len());
            }
        }
        std::fs::write(dir.path().join("text"), [b"fine ".repeat(30_000), vec![0xff, 0xfe]].concat()).unwrap();
        assert!(beginning(&m, "eval.x.file", "text", 10).is_ok(), "no more is read than is needed");
        let error = beginning(&m, "eval.x.file", "text", 1 << 20).unwrap_err().to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}
