//! A change of configuration as data: keys to set, how to say it, and the plan with it.

use super::{Plan, Workload, plan};
use crate::catalog::from_toml;
use crate::config::Config;
use crate::error::Result;
use crate::machine::Machine;
use crate::shape::ModelShape;

/// Keys to set, and the words for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Dotted keys and their values as `--set` takes them.
    pub sets: Vec<(String, String)>,
    /// As a button says it: `Precision q8_0`.
    pub words: String,
}

impl Change {
    /// As arguments of the command line, quoted for a shell where a value has blanks.
    pub fn to_args(&self) -> String {
        let arg = |(key, value): &(String, String)| {
            let quote = if value.contains(char::is_whitespace) { "'" } else { "" };
            format!("--set {key}={quote}{value}{quote}")
        };
        self.sets.iter().map(arg).collect::<Vec<_>>().join(" ")
    }

    /// `config` with the change made.
    ///
    /// # Errors
    /// A change that does not go with the rest of `config`.
    pub fn apply(&self, config: &Config) -> Result<Config> {
        from_toml(&config.to_toml()?, &self.sets)
    }
}

/// A change that fits, and what it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct WayBack {
    /// What to set.
    pub change: Change,
    /// The plan with it: its peaks, and the speed predicted.
    pub plan: Plan,
}

/// The plan of `config`, if it keeps within the budgets.
pub(super) fn fitting(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<Plan> {
    plan(shape, workload, config, machine).ok().filter(|p| p.over.is_none())
}
