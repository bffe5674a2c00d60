//! What was read and written.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::Text;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextState {}

/// Draws the picture.
pub fn show(ui: &mut Ui, _data: &Text, _state: &mut TextState, _linked: &mut Linked, _actions: &mut Vec<Action>) {
    ui.heading("What was read, and what was written?");
}
