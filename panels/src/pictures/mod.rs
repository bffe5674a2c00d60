//! The pictures in the middle, one at a time, each behind its tab.

pub mod accuracy;
pub mod attention;
pub(crate) mod chart;
pub mod data;
pub mod entry;
pub mod history;
pub mod learning;
pub mod places;
pub mod text;
pub mod timeline;
mod tokens;
mod waiting;
mod words;

use std::collections::BTreeMap;

use egui::Ui;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use entry::{Entry, Shown};

use crate::view::View;
use crate::{Action, Linked};

/// Every picture there is, in the order of their tabs.
pub static PICTURES: &[&Entry] = &[
    &text::ENTRY,
    &timeline::ENTRY,
    &attention::ENTRY,
    &data::ENTRY,
    &learning::ENTRY,
    &accuracy::ENTRY,
    &places::ENTRY,
    &history::ENTRY,
];

/// The pictures with what they remember. Each is opened when it is first shown.
pub struct Pictures {
    all: &'static [&'static Entry],
    opened: BTreeMap<&'static str, Box<dyn Shown>>,
    remembered: BTreeMap<String, Value>,
}

impl Default for Pictures {
    fn default() -> Self {
        Self::of(PICTURES)
    }
}

impl Pictures {
    /// These pictures, remembering nothing.
    pub fn of(all: &'static [&'static Entry]) -> Self {
        Self { all, opened: BTreeMap::new(), remembered: BTreeMap::new() }
    }

    /// The picture of each tab, in order, as far as the view has something for it.
    pub fn tabs(&self, view: &View) -> Vec<&'static Entry> {
        let mut tabs: Vec<&'static Entry> = Vec::new();
        for entry in self.all.iter().copied().filter(|e| (e.shows)(view)) {
            if tabs.iter().all(|t| t.tab != entry.tab) {
                tabs.push(entry);
            }
        }
        tabs
    }

    /// The picture of a tab; the first where there is no such tab.
    pub fn of_tab(&self, tab: &str, view: &View) -> Option<&'static Entry> {
        let tabs = self.tabs(view);
        tabs.iter().find(|e| e.tab == tab).or(tabs.first()).copied()
    }

    /// Draws the picture of a tab in all the space there is.
    pub fn show(&mut self, ui: &mut Ui, tab: &str, view: &View, linked: &mut Linked, actions: &mut Vec<Action>) {
        let Some(entry) = self.of_tab(tab, view) else { return };
        let open = || (entry.open)(self.remembered.get(entry.id));
        self.opened.entry(entry.id).or_insert_with(open).show(ui, view, linked, actions);
    }
}

impl Serialize for Pictures {
    /// What each picture remembers, by its id; of those not opened, what they remembered before.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = self.remembered.clone();
        all.extend(self.opened.iter().map(|(id, picture)| ((*id).to_owned(), picture.remembered())));
        all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Pictures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { remembered: BTreeMap::deserialize(deserializer)?, ..Self::default() })
    }
}
