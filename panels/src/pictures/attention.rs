//! What each head looked at.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::Attention;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionState {}

/// Draws the picture.
pub fn show(
    ui: &mut Ui,
    _data: &Attention,
    _state: &mut AttentionState,
    _linked: &mut Linked,
    _actions: &mut Vec<Action>,
) {
    ui.heading("Which tokens did each head look at, and which are gone?");
}
