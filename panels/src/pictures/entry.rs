//! A picture as the workbench lists it.

use egui::Ui;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::view::View;
use crate::{Action, Linked};

/// A picture: a new one is a file with its entry, and that entry's line in [`PICTURES`](super::PICTURES).
pub struct Entry {
    /// Its name: of its files, and of what it remembers.
    pub id: &'static str,
    /// Its tab. Of several pictures with one tab, the first that has something to show stands there.
    pub tab: &'static str,
    /// The words on its tab.
    pub title: &'static str,
    /// The question it answers.
    pub question: &'static str,
    /// Whether the view has a part for it.
    pub shows: fn(&View) -> bool,
    /// Its data as CSV.
    pub csv: fn(&View) -> String,
    /// Starts it from what it remembered, if it did.
    pub open: fn(Option<&Value>) -> Box<dyn Shown>,
}

/// A picture that has been opened, with its state.
pub trait Shown {
    /// Draws its part of the view in all the space of `ui`, title and menu included.
    fn show(&mut self, ui: &mut Ui, view: &View, linked: &mut Linked, actions: &mut Vec<Action>);
    /// What it remembers between starts.
    fn remembered(&self) -> Value;
}

/// How a picture draws itself.
pub type Draw<S> = fn(&mut Ui, &View, &mut S, &mut Linked, &mut Vec<Action>);

struct Opened<S> {
    state: S,
    draw: Draw<S>,
}

impl<S: Serialize> Shown for Opened<S> {
    fn show(&mut self, ui: &mut Ui, view: &View, linked: &mut Linked, actions: &mut Vec<Action>) {
        (self.draw)(ui, view, &mut self.state, linked, actions);
    }

    fn remembered(&self) -> Value {
        serde_json::to_value(&self.state).unwrap_or_default()
    }
}

/// For [`Entry::open`]: a picture drawn by `draw`, its state what was remembered. What another version remembered is forgotten.
pub fn open<S: Default + Serialize + DeserializeOwned + 'static>(
    remembered: Option<&Value>,
    draw: Draw<S>,
) -> Box<dyn Shown> {
    let state = remembered.and_then(|v| S::deserialize(v).ok()).unwrap_or_default();
    Box::new(Opened { state, draw })
}
