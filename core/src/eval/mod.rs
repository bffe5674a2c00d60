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
use crate::error::{Diverged, Error, Result};
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

    /// Tokens that are read: the last is only asked for. So many must fit `run.context`.
    pub fn read(&self) -> usize {
        self.prompt.len() + self.forced.len().saturating_sub(1)
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
    /// The figures. One that is null is no number: the evaluation then counts as diverged (see [`metrics::figure`]).
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
    /// Where a value was no number: nothing is scored after that.
    pub diverged: Option<Diverged>,
}

impl Prepared {
    /// A task with the cases it makes of `material`.
    ///
    /// # Errors
    /// What its cases say; cases that ask nothing, which would be right or wrong whatever the model is.
    pub fn new(id: &str, mut task: Box<dyn Task>, material: &Material<'_>) -> Result<Self> {
        let cases = task.cases(material)?;
        let key = format!("eval.{id}");
        if cases.is_empty() {
            return Err(Error::config(key, "asks nothing: its keys make no case; ask for at least one"));
        }
        if let Some(i) = cases.iter().position(|c| c.prompt.is_empty() || c.forced.is_empty()) {
            let what = if cases[i].prompt.is_empty() { "has no prompt to read" } else { "asks for no token" };
            return Err(Error::config(key, format!("case {i} {what}; change what its cases are made from")));
        }
        let reference = task.compares().then(|| reference::File::new(&cases));
        Ok(Self { id: id.to_owned(), task, cases, reference, diverged: None })
    }

    /// Scores as [`Task::score`] does; logits that are no distribution end the evaluation as diverged, and are not scored.
    /// `layer` is the first whose output was no number, or more than a norm can take, where known: whatever the logits look like
    /// then, they are computed from zeros.
    pub fn score(
        &mut self,
        (case, step): (usize, usize),
        logits: &[f32],
        target: u32,
        reference: Option<&[f32]>,
        layer: Option<usize>,
    ) {
        let sides = [("the reference's logits", reference.unwrap_or_default(), None), ("the logits", logits, layer)];
        let broken = sides.into_iter().filter(|(_, row, _)| !row.is_empty());
        let mut broken = broken.filter_map(|(of, row, layer)| metrics::broken(row).map(|(_, v)| (of, v, layer)));
        let overflow = layer.map(|_| (metrics::SQUARES, f32::INFINITY, layer));
        match broken.next().or(overflow) {
            _ if self.diverged.is_some() => {}
            Some((of, value, layer)) => {
                let place = Diverged::new(of, f64::from(value));
                self.diverged = Some(Diverged { case: Some(case), token: Some(step), layer, ..place });
            }
            None => self.task.score(case, step, logits, target, reference),
        }
    }

    /// The figures, or `{ "diverged": where }` in their place.
    pub fn finish(&mut self) -> serde_json::Value {
        let result = if self.diverged.is_none() { self.task.finish() } else { serde_json::Value::Null };
        let place = self.diverged.clone().or_else(|| no_number(&self.id, &result));
        match place {
            Some(place) => serde_json::json!({ "diverged": place }),
            None => result,
        }
    }
}

/// The first figure under `name` that is no number.
fn no_number(name: &str, figures: &serde_json::Value) -> Option<Diverged> {
    match figures {
        serde_json::Value::Null => Some(Diverged::new(name, f64::NAN)),
        serde_json::Value::Array(all) => all.iter().find_map(|v| no_number(name, v)),
        serde_json::Value::Object(all) => all.iter().find_map(|(key, v)| no_number(&format!("{name}.{key}"), v)),
        _ => None,
    }
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
        let task = schema::build(ENTRIES, &key, &Choice { id: id.clone(), knobs: knobs.clone() })?;
        out.push(Prepared::new(id, task, &material)?);
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
    // The rest of a text makes a window too where it has at least two tokens to score, or all that are asked for.
    let least = prompt + forced.min(2);
    let whole = ids.chunks(prompt + forced).filter(|w| w.len() >= least).take(limit);
    Ok(whole.map(|w| Case { prompt: w[..prompt].to_vec(), forced: w[prompt..].to_vec() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KnobValue, Knobs};
    use crate::model::Model;

    /// Every task of the catalogue by its smallest knobs, with its cases on the bundled model.
    fn all(more: &[(&str, &str, KnobValue)]) -> Result<Vec<Prepared>> {
        let model = Model::open("bundled:recall", Path::new(".")).unwrap();
        let words = Words::of(&model).unwrap();
        let mut config = Config::default();
        for entry in ENTRIES {
            let small = [("prompt", 16), ("tokens", 3), ("samples", 2), ("pairs", 3), ("questions", 2)];
            let mut knobs = Knobs::default();
            for (id, value) in small.into_iter().filter(|(id, _)| entry.knobs.iter().any(|k| k.id == *id)) {
                knobs.0.insert(id.to_owned(), KnobValue::Int(value));
            }
            if entry.id == "needle" {
                knobs.0.insert("lengths".into(), KnobValue::List(vec![KnobValue::Int(256)]));
            }
            for (_, knob, value) in more.iter().filter(|(task, ..)| *task == entry.id) {
                knobs.0.insert((*knob).to_owned(), value.clone());
            }
            config.eval.insert(entry.id.to_owned(), knobs);
        }
        prepare(&config, &words, Path::new("."))
    }

    #[test]
    fn every_evaluation_of_logits_that_are_no_numbers_has_diverged_and_says_where() {
        let vocab = 512;
        for bad in [f32::NAN, f32::INFINITY] {
            for mut task in all(&[]).unwrap() {
                let id = task.id.clone();
                let compares = task.reference.is_some();
                let good = vec![0.5f32; vocab];
                let mut broken = good.clone();
                broken[vocab - 1] = bad;
                let forced: Vec<Vec<u32>> = task.cases.iter().map(|c| c.forced.clone()).collect();
                for (case, tokens) in forced.iter().enumerate() {
                    for (step, target) in tokens.iter().enumerate() {
                        // From the second token of the first case on, and then never again a good one.
                        let (logits, layer) = if (case, step) == (0, 1) { (&broken, Some(3)) } else { (&good, None) };
                        task.score((case, step), logits, *target % vocab as u32, compares.then_some(&good), layer);
                    }
                }
                let result = task.finish();
                let place: Diverged = serde_json::from_value(result["diverged"].clone()).unwrap();
                assert_eq!((place.case, place.token, place.layer), (Some(0), Some(1), Some(3)), "{id}: {result}");
                assert_eq!(result.as_object().unwrap().len(), 1, "no figure beside it: {result}");
                let said = place.to_string();
                assert!(said.contains("the logits at case 0, token 1, first in layer 3"), "{said}");
            }
        }
    }

    #[test]
    fn a_good_evaluation_has_figures_and_one_against_a_broken_reference_diverges_by_it() {
        for mut task in all(&[]).unwrap() {
            let (good, nan) = (vec![0.5f32; 512], vec![f32::NAN; 512]);
            let compares = task.reference.is_some();
            for (case, tokens) in task.cases.clone().iter().enumerate() {
                for (step, target) in tokens.forced.iter().enumerate() {
                    task.score((case, step), &good, *target % 512, compares.then_some(&good), None);
                }
            }
            assert!(task.finish().get("diverged").is_none(), "{}", task.id);
            if compares {
                task.score((0, 0), &good, 0, Some(&nan), Some(2));
                let said = task.finish()["diverged"].to_string();
                assert!(said.contains("the reference's logits") && !said.contains("layer"), "{said}");
            }
        }
    }

    #[test]
    fn a_figure_that_is_no_number_is_no_figure() {
        let place = no_number("recall", &serde_json::json!({ "n": 3, "grid": [{ "accuracy": null }] })).unwrap();
        assert_eq!(place.of, "recall.grid.accuracy");
        assert!(no_number("x", &serde_json::json!({ "kl_mean": "infinite", "n": 0 })).is_none());
    }

    #[test]
    fn an_evaluation_that_asks_nothing_is_refused_by_its_key() {
        let none = KnobValue::List(Vec::new());
        for (task, knob, value) in [
            ("needle", "lengths", none.clone()),
            ("needle", "depths", none),
            ("recall", "samples", KnobValue::Int(0)),
            ("task", "samples", KnobValue::Int(0)),
            ("fidelity", "windows", KnobValue::Int(0)),
            ("perplexity", "tokens", KnobValue::Int(0)),
        ] {
            let error = all(&[(task, knob, value)]).err().map(|e| (e.kind(), e.to_string()));
            let (kind, said) = error.unwrap_or_else(|| panic!("{task}.{knob}"));
            assert!(kind == "config" && said.contains(&format!("eval.{task}.{knob}")), "{said}");
        }
        // One token of each window is a question.
        let one = all(&[("perplexity", "tokens", KnobValue::Int(1))]).unwrap();
        assert!(one.iter().find(|t| t.id == "perplexity").unwrap().cases.iter().all(|c| c.forced.len() == 1));
    }
}

#[cfg(test)]
mod texts {
    use super::*;
    use crate::model::Model;
    use crate::model::tokenizer::{Strings, TokenKind, Tokenizer, TokenizerSpec};

    /// A small SentencePiece model: a space before every text, and none where text goes on.
    fn pieces() -> Words {
        let chars = (' '..='~').map(|c| if c == ' ' { "▁".to_owned() } else { c.to_string() });
        let joined = ["▁c", "▁co", "▁-", "▁->", "▁1", "▁4", "▁T", "▁Th"].map(str::to_owned);
        let known = ["<unk>", "<s>", "</s>", "\n"].map(str::to_owned);
        let tokens: Vec<String> = known.into_iter().chain(chars).chain(joined).collect();
        let kind = |i: usize| match i {
            0 => TokenKind::Unknown,
            1 | 2 => TokenKind::Control,
            _ => TokenKind::Normal,
        };
        let spec = TokenizerSpec {
            model: "llama".into(),
            types: (0..tokens.len()).map(|i| kind(i) as i32).collect(),
            scores: (0..tokens.len()).map(|i| i as f32).collect(),
            tokens: tokens.iter().collect::<Strings>(),
            unk: Some(0),
            bos: Some(1),
            eos: Some(2),
            add_bos: Some(true),
            add_space_prefix: Some(true),
            ..TokenizerSpec::default()
        };
        Words::of_tokenizer(Tokenizer::new(spec).unwrap(), tokens.len())
    }

    #[test]
    fn what_is_asked_is_the_tokens_of_its_whole_text() {
        let bundled = Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap();
        for (words, prefix) in [(bundled, 0), (pieces(), 1)] {
            let t = words.tokenizer.as_ref().unwrap();
            for entry in [&needle::ENTRY, &recall::ENTRY] {
                let sets = [(format!("eval.{}.samples", entry.id), "2".into()), ("run.context".into(), "4096".into())];
                let config = crate::catalog::from_toml("", &sets).unwrap();
                for task in prepare(&config, &words, Path::new(".")).unwrap() {
                    assert!(task.cases.len() >= 2);
                    for case in &task.cases {
                        let ids = [&case.prompt[..], &case.forced[..]].concat();
                        let said = ids.iter().filter(|id| !t.is_control(**id));
                        let bytes: Vec<u8> = said.flat_map(|id| t.piece(*id)).collect();
                        let text = String::from_utf8(bytes).unwrap()[prefix..].to_owned();
                        // What is asked for last ends by a full stop, which is not asked.
                        let whole = words.encode(&(text.clone() + "."), true).unwrap();
                        assert!(whole.starts_with(&ids), "{}: {text}", entry.id);
                        let needle = case.prompt.len() <= 1024 && text.ends_with(char::is_numeric);
                        assert!(entry.id == "recall" || needle, "{text}");
                    }
                }
            }
        }
    }

    /// The last token of an answer is asked for and not read: a context that holds the rest is enough, and one less is not.
    #[test]
    fn a_context_that_holds_what_is_read_is_enough() {
        let words = Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap();
        let recall = |context: usize| {
            let sets = [("eval.recall.pairs".into(), "2".into()), ("run.context".into(), context.to_string())];
            prepare(&crate::catalog::from_toml("", &sets).unwrap(), &words, Path::new("."))
        };
        let cases = recall(4096).unwrap().into_iter().flat_map(|task| task.cases);
        let read = cases.map(|case| case.prompt.len() + case.forced.len() - 1).max().unwrap();
        assert!(recall(read).is_ok());
        let error = recall(read - 1).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(&format!("take {read} tokens, run.context is {}", read - 1)), "{error}");
    }

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
