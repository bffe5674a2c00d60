//! What lies where.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::Places;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacesState {}

/// Draws the picture.
pub fn show(ui: &mut Ui, _data: &Places, _state: &mut PlacesState, _linked: &mut Linked, _actions: &mut Vec<Action>) {
    ui.heading("What lies where?");
}
