//! Which kind of run reads which key, and what a configuration chooses that nothing reads.
//!
//! A choice without effect is named and not refused: a window keeps the choices of both kinds of run in one configuration, so
//! that switching fine-tuning on and off again loses nothing. What counts is a value that differs from its default, since a
//! configuration that was written whole has every key. A key that no kind of run knows is an error all the same.

use serde::Serialize;
use toml::{Table, Value};

use super::train::{ClipBy, Decay, Train, Validation};
use super::{Axis, Config, settings::Setting};

/// The kind of run that reads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadBy {
    /// Any.
    Every,
    /// One that generates and evaluates.
    Generating,
    /// A fine-tuning.
    Training,
}

impl ReadBy {
    /// Whether a run of `config` is of this kind.
    pub fn is(self, config: &Config) -> bool {
        match self {
            Self::Every => true,
            Self::Generating => config.train.is_none(),
            Self::Training => config.train.is_some(),
        }
    }
}

/// Sections and keys with who reads them: of several that begin a key, the longest.
static READ_BY: &[(&str, ReadBy)] = &[
    ("schema", ReadBy::Every),
    ("model", ReadBy::Every),
    ("machine", ReadBy::Every),
    ("budget", ReadBy::Every),
    ("weights", ReadBy::Every),
    ("place", ReadBy::Every),
    ("place.kv", ReadBy::Generating),
    ("kv", ReadBy::Generating),
    ("eval", ReadBy::Generating),
    ("observe", ReadBy::Generating),
    ("train", ReadBy::Training),
    ("run", ReadBy::Generating),
    ("run.seed", ReadBy::Every),
    ("run.engine", ReadBy::Every),
];

/// Who reads `key`, or a key under it.
pub fn read_by(key: &str) -> ReadBy {
    let under = |part: &str| key.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let longest = READ_BY.iter().filter(|(part, _)| under(part)).max_by_key(|(part, _)| part.len());
    longest.map_or(ReadBy::Every, |(_, by)| *by)
}

impl Axis {
    /// Who reads it.
    pub fn read_by(&self) -> ReadBy {
        read_by(self.key)
    }
}

impl Setting {
    /// Who reads it.
    pub fn read_by(&self) -> ReadBy {
        read_by(self.key)
    }
}

/// A key that another choice leaves without effect.
struct Idle {
    key: &'static str,
    /// Whether that is so.
    when: fn(&Config) -> bool,
    because: &'static str,
}

const fn idle(key: &'static str, when: fn(&Config) -> bool, because: &'static str) -> Idle {
    Idle { key, when, because }
}

fn trains(config: &Config, what: fn(&Train) -> bool) -> bool {
    config.train.as_ref().is_some_and(what)
}

fn greedy(config: &Config) -> bool {
    config.run.sampling.temperature == 0.0
}

/// A bundled task has held-out questions of its own.
fn brings_its_own(train: &Train) -> bool {
    train.data.starts_with("bundled:") && train.data.strip_prefix("bundled:") != Some("recall")
}

fn holds_nothing_out(config: &Config) -> bool {
    trains(config, |t| t.validation == Validation::Share(0.0) && !brings_its_own(t))
}

const GREEDY: &str = "run.sampling.temperature = 0 always takes the most likely token";
const CONSTANT: &str = "train.decay = constant does not fall";
const NOTHING: &str = "train.validation = 0 holds nothing out";

static IDLE: &[Idle] = &[
    idle("run.sampling.top_k", greedy, GREEDY),
    idle("run.sampling.top_p", greedy, GREEDY),
    idle("run.sampling.min_p", greedy, GREEDY),
    idle("run.system", |c| !c.run.chat, "run.chat = false sends the prompt as it stands"),
    idle("train.lr_end", |c| trains(c, |t| t.decay == Decay::Constant), CONSTANT),
    idle("train.decay_from", |c| trains(c, |t| t.decay == Decay::Constant), CONSTANT),
    idle("train.clip.at", |c| trains(c, |t| t.clip.by == ClipBy::None), "train.clip.by = none clips nothing"),
    idle("train.validation", |c| trains(c, brings_its_own), "a bundled task brings its own held-out questions"),
    idle("train.validate_every", holds_nothing_out, NOTHING),
    idle("train.validate_rows", holds_nothing_out, NOTHING),
];

/// Keys in which `mine` differs from `plain`, a choice and an evaluation being one.
fn differs(mine: &Table, plain: &Table) -> Vec<String> {
    /// Tables of keys, and not of one choice's knobs.
    const OF_KEYS: &[&str] = &["run.sampling", "train.clip"];
    let (mut out, mut open) = (Vec::new(), vec![(String::new(), mine, Some(plain))]);
    while let Some((path, mine, plain)) = open.pop() {
        for (key, value) in mine {
            let old = plain.and_then(|p| p.get(key));
            let key = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                _ if old == Some(value) => {}
                // A section that is there at all is a choice; one of tables is as many.
                Value::Table(inner) if path.is_empty() && old.is_none() && !inner.values().all(Value::is_table) => {
                    out.push(key);
                }
                Value::Table(inner) if path.is_empty() || OF_KEYS.contains(&key.as_str()) => {
                    open.push((key, inner, old.and_then(Value::as_table)));
                }
                _ => out.push(key),
            }
        }
    }
    out.sort();
    out
}

impl Config {
    /// What it chooses without effect, a line each: keys that this kind of run does not read, and keys that another choice leaves
    /// idle. Defaults are silent.
    pub fn without_effect(&self) -> Vec<String> {
        let plain = Self { train: self.train.as_ref().map(|_| Train::default()), ..Self::default() };
        let (Ok(mine), Ok(plain)) = (Table::try_from(self), Table::try_from(plain)) else { return Vec::new() };
        let (unread, read): (Vec<_>, Vec<_>) =
            differs(&mine, &plain).into_iter().partition(|key| !read_by(key).is(self));
        let mut out = Vec::new();
        if !unread.is_empty() {
            let kind = if self.train.is_some() { "a training" } else { "a run that generates" };
            out.push(format!("has no effect on {kind}: {}", unread.join(", ")));
        }
        let idle = IDLE.iter().filter(|i| read.iter().any(|key| key == i.key) && (i.when)(self));
        out.extend(idle.map(|i| format!("has no effect: {}, because {}", i.key, i.because)));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::config::{Observe, axes, settings};

    fn notes(sets: &[(&str, &str)]) -> Vec<String> {
        let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = from_toml("", &sets).unwrap();
        // Written whole and read again it says the same.
        assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap().without_effect(), config.without_effect());
        config.without_effect()
    }

    #[test]
    fn what_a_training_does_not_read_is_named_and_defaults_are_silent() {
        assert!(notes(&[]).is_empty() && notes(&[("train.steps", "3")]).is_empty());
        let plain = [("train.steps", "3"), ("kv.select", "full"), ("run.sequences", "1")];
        assert!(notes(&plain).is_empty(), "{:?}", notes(&plain));
        let generating = [
            ("kv.select", "h2o"),
            ("kv.format.k", "q8_0"),
            ("kv.budget.ratio", "0.2"),
            ("eval.recall.pairs", "8"),
            ("observe.bins", "32"),
            ("run.sequences", "2"),
            ("run.sampling.temperature", "0.5"),
        ];
        assert!(notes(&generating).is_empty(), "{:?}", notes(&generating));
        let read = [("train.steps", "3"), ("run.seed", "7"), ("weights.format", "q8_0"), ("budget.device", "1 GiB")];
        assert!(notes(&read).is_empty(), "{:?}", notes(&read));
        let both = notes(&[&generating[..], &read].concat());
        let keys = "eval.recall, kv.budget, kv.format, kv.select, observe, run.sampling.temperature, run.sequences";
        assert_eq!(both, [format!("has no effect on a training: {keys}")]);
    }

    #[test]
    fn what_another_choice_leaves_idle_is_named_with_it() {
        for (key, value, with, because) in [
            ("run.sampling.top_k", "5", ("run.sampling.temperature", "0.7"), "temperature = 0"),
            ("run.sampling.top_p", "0.5", ("run.sampling.temperature", "0.7"), "temperature = 0"),
            ("run.sampling.min_p", "0.1", ("run.sampling.temperature", "0.7"), "temperature = 0"),
            ("run.system", "Be brief", ("run.chat", "true"), "run.chat = false"),
            ("train.lr_end", "0.1", ("train.decay", "linear"), "train.decay = constant"),
            ("train.decay_from", "0.1", ("train.decay", "cosine"), "train.decay = constant"),
        ] {
            let said = notes(&[(key, value)]);
            assert_eq!(said.len(), 1, "{key}: {said:?}");
            assert!(said[0].starts_with(&format!("has no effect: {key}, because ")) && said[0].contains(because));
            assert!(notes(&[(key, value), with]).is_empty(), "{key} with {with:?}");
        }
        let task = ("train.data", "bundled:task-tova");
        assert!(notes(&[task, ("train.validation", "0.2")])[0].contains("train.validation, because a bundled task"));
        assert!(notes(&[task, ("train.validate_every", "5")]).is_empty());
        for data in ["a.jsonl", "tokens:8", "bundled:recall"] {
            assert!(notes(&[("train.data", data), ("train.validation", "0.2")]).is_empty(), "{data}");
            let nothing = [("train.data", data), ("train.validation", "0"), ("train.validate_every", "5")];
            assert!(notes(&nothing)[0].contains("validate_every, because train.validation = 0"), "{data}");
        }
        assert!(notes(&[("train.clip", "{ by = \"none\", at = 2.0 }")])[0].contains("train.clip.at"));
        assert!(notes(&[("train.clip", "{ by = \"global\", at = 2.0 }")]).is_empty());
    }

    #[test]
    fn every_key_says_who_reads_it() {
        let whole = Config { train: Some(Train::default()), observe: Some(Observe::default()), ..Config::default() };
        let table = Table::try_from(&whole).unwrap();
        let said = |key: &str| READ_BY.iter().any(|(part, _)| *part == key);
        let silent: Vec<&String> = table.keys().filter(|section| !said(section)).collect();
        assert!(silent.is_empty(), "{silent:?}");
        for axis in axes::all() {
            let training = axis.key.starts_with("train.");
            assert_eq!(axis.read_by() == ReadBy::Training, training, "{axis:?}");
        }
        for setting in settings::SETTINGS {
            assert!(setting.read_by().is(&whole) || setting.read_by() == ReadBy::Generating, "{}", setting.key);
        }
        for rule in IDLE {
            let section = rule.key.split('.').next().unwrap();
            assert!(table.contains_key(section), "{}", rule.key);
        }
        assert_eq!(
            (read_by("kv.select"), read_by("run.seed"), read_by("runner")),
            (ReadBy::Generating, ReadBy::Every, ReadBy::Every)
        );
    }
}
