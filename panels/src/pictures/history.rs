//! Runs on disk.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::History;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryState {}

/// Draws the picture.
pub fn show(ui: &mut Ui, _data: &History, _state: &mut HistoryState, _linked: &mut Linked, _actions: &mut Vec<Action>) {
    ui.heading("What did I run before?");
}
