//! What each byte bought.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::Accuracy;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccuracyState {}

/// Draws the picture.
pub fn show(
    ui: &mut Ui,
    _data: &Accuracy,
    _state: &mut AccuracyState,
    _linked: &mut Linked,
    _actions: &mut Vec<Action>,
) {
    ui.heading("What did each byte buy?");
}
