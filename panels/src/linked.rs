//! What the pictures share: hovering, scrubbing and selecting in one shows in the others.

use serde::{Deserialize, Serialize};

use crate::view::UsedFor;

/// What is pointed at and chosen, across pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Linked {
    /// Position of the token under the pointer, written by whoever is hovered this frame.
    #[serde(skip)]
    pub token: Option<usize>,
    /// The moment of the timeline scrubbed to, as its index; `None` for the end and the peak.
    #[serde(skip)]
    pub moment: Option<usize>,
    /// What bytes are used for, under the pointer.
    #[serde(skip)]
    pub used_for: Option<UsedFor>,
    /// The run selected everywhere, by name.
    pub run: Option<String>,
    /// The (layer, query head) selected.
    pub head: Option<(usize, usize)>,
    /// The card to open, by its axis' key: set where something it governs is clicked.
    #[serde(skip)]
    pub card: Option<String>,
}
