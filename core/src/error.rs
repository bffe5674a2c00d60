//! What can go wrong, said so that the reader knows what is wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::accounts::{Category, Tier};
use crate::bytes::Bytes;

/// Every fallible call of the engine returns this.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One error type for the engine; its variants decide the exit code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A configuration key is unknown, of the wrong kind, or contradicts another.
    #[error("configuration: {key}: {message}")]
    Config {
        /// The dotted key, such as `kv.budget.ratio`.
        key: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A model file is damaged, hostile, or of a kind Ullage does not know.
    #[error("{field}: {message}\n  in {}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The header field or tensor at fault.
        field: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// Two choices, or a choice and this model, cannot work together.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// The choice, such as `weights.format = q4_k`.
        what: String,
        /// Why it cannot work here.
        reason: String,
    },
    /// A model that is planned, and that nothing here runs.
    #[error("{what} is planned and not run: {reason}")]
    OnlyPlanned {
        /// The model.
        what: String,
        /// Why it is not run.
        reason: String,
    },
    /// A reservation would cross the wall.
    #[error("{0}")]
    OverBudget(Box<OverBudget>),
    /// The file system said no.
    #[error("{action}: {message}\n  {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, such as `cannot read`.
        action: String,
        /// The system's words.
        message: String,
    },
    /// The GPU or its driver said no.
    #[error("device: {0}")]
    Device(String),
    /// What was computed is no number any more.
    #[error("diverged: {place}; {remedy}")]
    Diverged {
        /// What, and where.
        place: Box<Diverged>,
        /// What to do about it.
        remedy: String,
    },
    /// The user cancelled the job.
    #[error("cancelled")]
    Cancelled,
    /// A defect of Ullage itself: a panic caught at the job's edge.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

/// A refused reservation: what was needed, what was left, and the cheapest change that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverBudget {
    /// The tier whose budget would be crossed.
    pub tier: Tier,
    /// What the bytes were for.
    pub category: Category,
    /// The named row of the ledger, such as `kv rows`.
    pub name: String,
    /// Bytes the tier would hold in all: of a plan at its peak, of a run had this been granted.
    pub needed: u64,
    /// Bytes this row alone would hold had this been granted.
    #[serde(default)]
    pub row: u64,
    /// The tier's budget.
    pub budget: u64,
    /// Bytes that were still free in it when this was asked for.
    pub available: u64,
    /// The cheapest change that fits, as a `--set` argument and its effect.
    pub hint: Option<String>,
    /// True where that is what the machine has free, and no budget of the configuration's.
    #[serde(default)]
    pub machine: bool,
}

/// Where a measurement ended because a value in it was no number: a state of its result, in place of figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// What the value is of: `the logits`, `the loss`, `the gradient of NAME`, the name of a figure.
    pub of: String,
    /// The value: `NaN`, `inf` or `-inf`.
    pub value: String,
    /// The evaluation's case, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<usize>,
    /// The forced token of the case, or the generated one, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<usize>,
    /// The training's step, from 1; where held-out rows were read, the updates made before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The first layer that gave such a value, from 0, where that could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl Diverged {
    /// `value` in what `of` names.
    pub fn new(of: impl Into<String>, value: f64) -> Self {
        Self { of: of.into(), value: value.to_string(), ..Self::default() }
    }
}

impl std::fmt::Display for Diverged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { of, value, case, token, step, layer } = self;
        let part = |name: &str, at: &Option<usize>| at.map(|at| format!("{name} {at}"));
        let step = step.map(|step| format!("step {step}"));
        let first = layer.map(|layer| format!("first in layer {layer}"));
        let at: Vec<_> = [part("case", case), part("token", token), step, first].into_iter().flatten().collect();
        let at = if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) };
        write!(f, "{value} in {of}{at}")
    }
}

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tier, category, name, needed, row, budget, available, hint, machine } = self;
        let wall = if *machine { "this machine has free for it" } else { "the budget is" };
        // Events of before this was told have 0.
        let row = if *row > 0 { format!("{} ({row} B) for ", Bytes(*row)) } else { String::new() };
        write!(
            f,
            "over budget: {tier} needs {} ({needed} B) in all; {row}{name} ({category}) no longer fit: {wall} {} ({budget} B), {} of it still free",
            Bytes(*needed),
            Bytes(*budget),
            Bytes(*available)
        )?;
        if let Some(hint) = hint {
            write!(f, "\n  what fits: {hint}")?;
        }
        Ok(())
    }
}

impl Error {
    /// A configuration error at `key`.
    pub fn config(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config { key: key.into(), message: message.into() }
    }

    /// A model-file error at `field`.
    pub fn model(path: impl AsRef<Path>, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Model { path: path.as_ref().to_path_buf(), field: field.into(), message: message.into() }
    }

    /// A refused combination.
    pub fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), reason: reason.into() }
    }

    /// What was computed is no number any more: where, and what to do.
    pub fn diverged(place: Diverged, remedy: impl Into<String>) -> Self {
        Self::Diverged { place: Box::new(place), remedy: remedy.into() }
    }

    /// The same, of what diverged in step `step` of a training.
    #[must_use]
    pub fn at_step(self, step: u64) -> Self {
        match self {
            Self::Diverged { place, remedy } => Self::diverged(Diverged { step: Some(step), ..*place }, remedy),
            other => other,
        }
    }

    /// A file-system error while doing `action` to `path`; one for want of room says what to do. A writer that the wall stopped
    /// stays over budget.
    pub fn io(path: impl AsRef<Path>, action: impl Into<String>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if let Some(over @ Self::OverBudget(_)) = error.get_ref().and_then(|e| e.downcast_ref::<Self>()) {
            return over.clone();
        }
        let mut message = error.to_string();
        if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
            message += "; free some space there, or name a place on another disk";
        }
        Self::Io { path: path.as_ref().to_path_buf(), action: action.into(), message }
    }

    /// The `error.kind` of a report.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Model { .. } => "model",
            Self::Refused { .. } => "refused",
            Self::OnlyPlanned { .. } => "only_planned",
            Self::OverBudget(_) => "over_budget",
            Self::Io { .. } => "io",
            Self::Device(_) => "device",
            Self::Diverged { .. } => "diverged",
            Self::Cancelled => "cancelled",
            Self::Internal(_) => "internal",
        }
    }

    /// The program's exit code: 1 the run failed, 2 bad arguments or input, 3 over budget, or planned and not run.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::Model { .. } | Self::Refused { .. } => 2,
            Self::OverBudget(_) | Self::OnlyPlanned { .. } => 3,
            Self::Io { .. } | Self::Device(_) | Self::Diverged { .. } | Self::Cancelled | Self::Internal(_) => 1,
        }
    }
}
