//! What panels are given to draw: plain values, filled by the program from the engine's accounts.

mod accuracy;
mod attention;
mod cards;
mod data;
mod history;
mod learning;
mod places;
mod text;
mod timeline;
mod top;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use accuracy::{Accuracy, Axis, Dot, Series};
pub use attention::{Attention, Eviction, Grid, Kept, Map, Merge};
pub use cards::{Card, Kind, Knob, Price, Section, Variant};
pub use data::{Data, Sample};
pub use history::{Delta, History, Pair, RunLine};
pub use learning::{Course, Fit, HeldOutQuestion, Learning, Mark, Samples};
pub use places::{Moved, Piece, Places};
pub use text::{Adapter, AdapterUse, Chat, Role, Text, Token, Turn, Written};
pub use timeline::{Moment, Span, Timeline};
pub use top::{Bars, Device, Field, Instant, Limit, Mode, ModelLine, Recent, Status, Tick, Top, WayBack};

/// What bytes are used for: which colour and which place in a bar they have. The order is the order in every bar, the
/// second mark beside the colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsedFor {
    /// Weights.
    #[default]
    Weights,
    /// The KV cache.
    KvCache,
    /// Activations.
    Activations,
    /// Gradients.
    Gradients,
    /// Optimizer state.
    Optimizer,
    /// Output scores.
    Logits,
    /// Scratch.
    Workspace,
    /// Kept for display.
    Observation,
    /// Exemplars, indexes, external memories.
    Store,
}

impl UsedFor {
    /// All, in the order of the bars.
    pub const ALL: [Self; 9] = [
        Self::Weights,
        Self::KvCache,
        Self::Activations,
        Self::Gradients,
        Self::Optimizer,
        Self::Logits,
        Self::Workspace,
        Self::Observation,
        Self::Store,
    ];

    /// The words on screen.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::KvCache => "KV cache",
            Self::Activations => "activations",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer state",
            Self::Logits => "output scores",
            Self::Workspace => "scratch",
            Self::Observation => "kept for display",
            Self::Store => "store",
        }
    }
}

/// Everything a frame shows. Long parts are shared, so that a new frame costs what changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The modes there are; the switch shows when there is more than one.
    pub modes: Vec<Mode>,
    /// Above the pictures: what, where, how much.
    pub top: Top,
    /// Below them: what is going on.
    pub status: Status,
    /// The choices, by section.
    pub cards: Arc<Vec<Section>>,
    /// What was generated.
    pub text: Arc<Text>,
    /// What was held when.
    pub timeline: Arc<Timeline>,
    /// What each head looked at.
    pub attention: Arc<Attention>,
    /// What each byte bought.
    pub accuracy: Arc<Accuracy>,
    /// What training learned; `None` while generating, when the accuracy picture is shown in its place.
    pub learning: Option<Arc<Learning>>,
    /// What it learns from; `None` while generating.
    pub data: Option<Arc<Data>>,
    /// What lies where.
    pub places: Arc<Places>,
    /// Runs on disk.
    pub history: Arc<History>,
    /// What happened that has to be read, newest last.
    pub notices: Vec<Notice>,
}

/// A message that stays until it is put away: what happened, why, what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Which, for [`Action::PutAway`](crate::Action::PutAway).
    pub id: u64,
    /// What happened, in a few words.
    pub title: String,
    /// Why, where, and what to do.
    pub detail: String,
    /// True for a failure, which is drawn in the alarm colour.
    pub failure: bool,
    /// A change that would help: the button's words and the keys it sets.
    pub remedy: Option<(String, Sets)>,
}

/// Keys of the configuration and their new values as TOML, such as `("kv.format", "q8_0")`. An empty value removes the key.
pub type Sets = Vec<(String, String)>;

/// Where bytes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// What the memory limit limits: GPU memory, or the granted part of RAM.
    #[default]
    Device,
    /// RAM beside it.
    Host,
    /// Files.
    Disk,
}

impl Tier {
    /// All, in the order of the bars.
    pub const ALL: [Self; 3] = [Self::Device, Self::Host, Self::Disk];

    /// The words on screen, when the device is a GPU or not.
    pub const fn label(self, gpu: bool) -> &'static str {
        match self {
            Self::Device if gpu => "GPU memory",
            Self::Device => "memory",
            Self::Host => "RAM",
            Self::Disk => "disk",
        }
    }
}

/// One stretch of a bar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BarSegment {
    /// What the tooltip calls it.
    pub label: String,
    /// Its length.
    pub bytes: u64,
    /// What its bytes are used for, which is its colour.
    pub used_for: UsedFor,
    /// How its bytes come about, with this model's numbers in it; empty when there is no formula.
    pub formula: String,
    /// The key of the card that governs it, such as `kv.format`; empty when none does.
    pub governed_by: String,
}

/// The bytes of one tier at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BytesBar {
    /// Left to right.
    pub segments: Vec<BarSegment>,
    /// The memory limit, drawn as one line through the bars; none when there is none.
    pub limit: Option<u64>,
    /// Measured bars are filled, predicted ones outlined.
    pub measured: bool,
}

impl BytesBar {
    /// Bytes of all segments.
    pub fn total(&self) -> u64 {
        self.segments.iter().fold(0, |sum, s| sum.saturating_add(s.bytes))
    }

    /// Bytes beyond the limit: the hatched end of the bar.
    pub fn overshoot(&self) -> u64 {
        self.limit.map_or(0, |limit| self.total().saturating_sub(limit))
    }

    /// Where the common scale of these bars ends: 1.1 × the larger of limit and need, in bytes.
    pub fn scale_end(bars: &[Self]) -> f64 {
        let end = bars.iter().map(|bar| bar.total().max(bar.limit.unwrap_or(0))).max().unwrap_or(0);
        end.max(1) as f64 * 1.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(bytes: &[u64], limit: Option<u64>) -> BytesBar {
        let segment = |(b, u): (&u64, UsedFor)| BarSegment {
            label: u.label().into(),
            bytes: *b,
            used_for: u,
            ..BarSegment::default()
        };
        BytesBar { segments: bytes.iter().zip(UsedFor::ALL).map(segment).collect(), limit, measured: false }
    }

    #[test]
    fn overshoot_and_scale_follow_the_larger_of_limit_and_need() {
        let (over, under) = (bar(&[60, 70], Some(100)), bar(&[60], Some(100)));
        assert_eq!((over.overshoot(), under.overshoot(), bar(&[9], None).overshoot()), (30, 0, 0));
        assert!((BytesBar::scale_end(&[over, under.clone()]) - 143.0).abs() < 1e-9);
        assert!((BytesBar::scale_end(&[under]) - 110.0).abs() < 1e-9);
        assert!(BytesBar::scale_end(&[]) > 0.0, "never a division by zero");
        assert_eq!(bar(&[u64::MAX, 1], None).total(), u64::MAX);
    }
}
