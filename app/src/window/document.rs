//! The configuration being edited: changes by key, undo and redo by gesture.

use toml::{Table, Value};
use ullage_core::catalog::from_toml;
use ullage_core::config::{Config, set_key};
use ullage_core::{Error, Result};
use ullage_panels::view::Sets;

/// Steps that can be taken back.
const DEPTH: usize = 500;

struct Step {
    what: String,
    other: Config,
    gesture: Option<u64>,
}

/// A configuration and its past.
pub struct Document {
    config: Config,
    undo: Vec<Step>,
    redo: Vec<Step>,
}

/// `config` with keys set, an empty value removing its key.
///
/// # Errors
/// A wrong key or value, or choices that refuse each other.
pub fn with(config: &Config, sets: &[(String, String)]) -> Result<Config> {
    let wrong = |e: String| Error::Internal(format!("rewriting the configuration: {e}"));
    let mut table = Table::try_from(config).map_err(|e| wrong(e.to_string()))?;
    for (key, value) in sets {
        if value.is_empty() { remove(&mut table, key) } else { set_key(&mut table, key, value)? }
    }
    from_toml(&toml::to_string(&table).map_err(|e| wrong(e.to_string()))?, &[])
}

fn remove(table: &mut Table, key: &str) {
    let mut parts: Vec<&str> = key.split('.').collect();
    let Some(last) = parts.pop() else { return };
    let mut here = table;
    for part in parts {
        match here.get_mut(part) {
            Some(Value::Table(next)) => here = next,
            _ => return,
        }
    }
    here.remove(last);
}

/// Keys and values in which `to` differs from `from`, as [`with`] takes them.
///
/// # Errors
/// Never for checked configurations.
pub fn difference(from: &Config, to: &Config) -> Result<Sets> {
    let wrong = |e: toml::ser::Error| Error::Internal(format!("comparing configurations: {e}"));
    let (from, to) = (Table::try_from(from).map_err(wrong)?, Table::try_from(to).map_err(wrong)?);
    let mut out = Sets::new();
    differ("", &from, &to, &mut out);
    Ok(out)
}

/// What a configuration chose that is no default, in a few words.
pub fn choices(config: &Config) -> String {
    let sets = difference(&Config::default(), config).unwrap_or_default();
    let shown = |key: &str| {
        [
            "weights.",
            "kv.",
            "place.",
            "run.context",
            "run.sequences",
            "train.params",
            "train.optimizer",
            "train.activations",
            "train.loss",
            "train.batch",
            "train.length",
            "train.steps",
        ]
        .iter()
        .any(|p| key.starts_with(p))
    };
    let words: Vec<_> = sets
        .iter()
        .filter(|(key, value)| shown(key) && !value.is_empty())
        .map(|(key, value)| format!("{} {}", key.rsplit('.').next().unwrap_or(key), value.trim_matches('"')))
        .collect();
    words.join(" · ")
}

/// A table that is one value: a choice with its knobs, a pair of formats, a budget, an evaluation's knobs.
fn whole(path: &str) -> bool {
    matches!(path, "kv.budget") || path.matches('.').count() >= 1
}

fn differ(path: &str, from: &Table, to: &Table, out: &mut Sets) {
    let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in to {
        match (from.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Table(old)), Value::Table(new)) if !whole(&under(key)) => differ(&under(key), old, new, out),
            (None, Value::Table(new)) if !whole(&under(key)) && !new.is_empty() => {
                differ(&under(key), &Table::new(), new, out)
            }
            _ => out.push((under(key), value.to_string())),
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        out.push((under(key), String::new()));
    }
}

impl Document {
    /// Starts with a configuration.
    pub fn new(config: Config) -> Self {
        Self { config, undo: Vec::new(), redo: Vec::new() }
    }

    /// As it is now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sets keys as one step; returns whether anything changed.
    ///
    /// # Errors
    /// As [`with`]; nothing has changed then.
    pub fn set(&mut self, what: &str, sets: &[(String, String)], gesture: Option<u64>) -> Result<bool> {
        let config = with(&self.config, sets)?;
        Ok(self.replace(what, config, gesture))
    }

    /// Takes another configuration as one step; returns whether anything changed.
    pub fn replace(&mut self, what: &str, config: Config, gesture: Option<u64>) -> bool {
        if config == self.config {
            return false;
        }
        let before = std::mem::replace(&mut self.config, config);
        self.redo.clear();
        let same = gesture.is_some() && self.undo.last().is_some_and(|s| s.gesture == gesture);
        if !same {
            if self.undo.len() == DEPTH {
                self.undo.remove(0);
            }
            self.undo.push(Step { what: what.to_owned(), other: before, gesture });
        }
        true
    }

    /// Takes the last step back.
    pub fn undo(&mut self) -> bool {
        Self::go(&mut self.config, &mut self.undo, &mut self.redo)
    }

    /// Does it again.
    pub fn redo(&mut self) -> bool {
        Self::go(&mut self.config, &mut self.redo, &mut self.undo)
    }

    fn go(config: &mut Config, from: &mut Vec<Step>, to: &mut Vec<Step>) -> bool {
        let Some(step) = from.pop() else { return false };
        let other = std::mem::replace(config, step.other);
        // A gesture that was taken back is over.
        to.push(Step { what: step.what, other, gesture: None });
        true
    }

    /// What undo and redo would do.
    pub fn names(&self) -> (Option<String>, Option<String>) {
        (self.undo.last().map(|s| s.what.clone()), self.redo.last().map(|s| s.what.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use ullage_core::Bytes;
    use ullage_core::config::KvBudget;

    fn sets(of: &[(&str, &str)]) -> Sets {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn steps_of_a_drag_are_taken_back_together() {
        let mut d = Document::new(Config::default());
        for (i, mib) in [64, 32, 16].into_iter().enumerate() {
            let set = sets(&[("budget.device", &format!("{mib} MiB"))]);
            assert!(d.set("memory limit", &set, Some(7)).unwrap(), "{i}");
        }
        d.set("H2O", &sets(&[("kv.select", "h2o")]), None).unwrap();
        assert_eq!(d.names(), (Some("H2O".into()), None));
        assert!(d.undo());
        assert_eq!(d.config().budget.device, Bytes::mib(16));
        assert!(d.undo());
        assert_eq!(*d.config(), Config::default());
        assert!(!d.undo());
        assert!(d.redo() && d.redo() && !d.redo());
        assert_eq!((d.config().budget.device, d.config().kv.select.id.as_str()), (Bytes::mib(16), "h2o"));
        d.undo();
        // A new change forgets what was taken back; the same number after it is a gesture of its own.
        d.set("memory limit", &sets(&[("budget.device", "8 MiB")]), Some(7)).unwrap();
        assert_eq!(d.names(), (Some("memory limit".into()), None));
        d.undo();
        assert_eq!(d.config().budget.device, Bytes::mib(16));
    }

    #[test]
    fn an_empty_value_removes_and_a_wrong_one_changes_nothing() {
        let mut d = Document::new(Config::default());
        d.set("", &sets(&[("kv.select", "h2o"), ("kv.select.hh_size", "8"), ("kv.budget.ratio", "0.2")]), None)
            .unwrap();
        assert_eq!(d.config().kv.budget, Some(KvBudget::Ratio(0.2)));
        d.set("", &sets(&[("kv.budget", ""), ("kv.select.hh_size", ""), ("nothing.here", "")]), None).unwrap();
        assert_eq!((d.config().kv.budget, d.config().kv.select.knobs.0.len()), (None, 0));
        let before = d.config().clone();
        for wrong in [("kv.select", "h20"), ("run.context", "0"), ("kv.budget.ratio", "7"), ("speed", "3")] {
            assert!(d.set("", &sets(&[wrong]), None).is_err(), "{wrong:?}");
        }
        assert_eq!(*d.config(), before);
        assert!(!d.set("", &sets(&[("kv.select", "h2o")]), None).unwrap(), "the same is no step");
    }

    #[test]
    fn a_difference_leads_from_one_to_the_other() {
        let base = Config::default();
        for change in [
            &[("kv.select", "h2o"), ("kv.select.hh_size", "8"), ("kv.budget.rows", "64")][..],
            &[("kv.format", "{ k = \"q8_0\", v = \"q4_0\" }"), ("run.prompt", "\"3\"")],
            &[("eval.recall", "{}"), ("observe.bins", "32"), ("run.sampling.temperature", "0.5")],
            &[("eval.recall.pairs", "8"), ("eval.needle", "{}"), ("place.weights", "stream")],
        ] {
            let to = with(&base, &sets(change)).unwrap();
            let there = difference(&base, &to).unwrap();
            assert_eq!(with(&base, &there).unwrap(), to, "{there:?}");
            let back = difference(&to, &base).unwrap();
            assert_eq!(with(&to, &back).unwrap(), base, "{back:?}");
        }
    }
}
