//! Stands where the panels' workbench will.

use eframe::egui;
use serde::{Deserialize, Serialize};
use ullage_panels::Action;
use ullage_panels::view::View;

/// The workbench's own state.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Workbench {}

impl Workbench {
    /// Draws the view and returns what was asked for.
    pub fn show(&mut self, ui: &mut egui::Ui, view: &View) -> Vec<Action> {
        let mut out = Vec::new();
        ui.heading(&view.top.model.name);
        if let Some(back) = &view.top.way_back
            && ui.button(&back.words).clicked()
        {
            out.push(Action::Set { what: back.words.clone(), sets: back.sets.clone(), gesture: None });
        }
        if ui.button("Run").clicked() {
            out.push(Action::Run);
        }
        ui.label(view.status.doing.as_str());
        for n in &view.notices {
            ui.label(format!("{}: {}", n.title, n.detail));
        }
        out
    }
}
