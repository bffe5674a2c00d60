//! The pictures in the middle, one at a time, each behind its tab.

pub mod accuracy;
pub mod attention;
pub mod history;
pub mod learning;
pub mod places;
pub mod text;
pub mod timeline;
mod tokens;
mod waiting;
mod words;

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::View;
use crate::{Action, Linked};

/// Which picture shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tab {
    /// What was read and written.
    #[default]
    Text,
    /// What was held when.
    Timeline,
    /// What each head looked at.
    Attention,
    /// What each byte bought.
    Accuracy,
    /// What lies where.
    Where,
    /// Runs on disk.
    History,
}

impl Tab {
    /// All, in the order of the tabs.
    pub const ALL: [Self; 6] =
        [Self::Text, Self::Timeline, Self::Attention, Self::Accuracy, Self::Where, Self::History];

    /// The words on screen while `learning` is shown in place of accuracy.
    pub const fn label_while(self, learning: bool) -> &'static str {
        match self {
            Self::Accuracy if learning => "Learning",
            tab => tab.label(),
        }
    }

    /// The words on screen.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Text => "Text",
            Self::Timeline => "Timeline",
            Self::Attention => "Attention",
            Self::Accuracy => "Accuracy vs memory",
            Self::Where => "Where",
            Self::History => "History",
        }
    }
}

/// What the pictures remember.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pictures {
    text: text::TextState,
    timeline: timeline::TimelineState,
    attention: attention::AttentionState,
    accuracy: accuracy::AccuracyState,
    learning: learning::LearningState,
    places: places::PlacesState,
    history: history::HistoryState,
}

impl Pictures {
    /// Draws the picture of a tab in all the space there is.
    pub fn show(&mut self, ui: &mut Ui, tab: Tab, view: &View, linked: &mut Linked, actions: &mut Vec<Action>) {
        match tab {
            Tab::Text => text::show(ui, &view.text, &mut self.text, linked, actions),
            Tab::Timeline => timeline::show(ui, &view.timeline, &mut self.timeline, linked, actions),
            Tab::Attention => attention::show(ui, &view.attention, &mut self.attention, linked, actions),
            Tab::Accuracy => match &view.learning {
                Some(learning) => learning::show(ui, learning, &mut self.learning, linked, actions),
                None => accuracy::show(ui, &view.accuracy, &mut self.accuracy, linked, actions),
            },
            Tab::Where => places::show(ui, &view.places, &mut self.places, linked, actions),
            Tab::History => history::show(ui, &view.history, &mut self.history, linked, actions),
        }
    }
}
