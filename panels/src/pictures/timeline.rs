//! What was held when.

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::view::Timeline;
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimelineState {}

/// Draws the picture.
pub fn show(
    ui: &mut Ui,
    _data: &Timeline,
    _state: &mut TimelineState,
    _linked: &mut Linked,
    _actions: &mut Vec<Action>,
) {
    ui.heading("Where did the bytes go while it ran?");
}
