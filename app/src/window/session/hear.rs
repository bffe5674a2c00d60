//! What workers tell, taken in.

use std::sync::Arc;

use ullage_panels::view::Section;

use super::super::files::{Done, Wish};
use super::super::history;
use super::super::opener::{Found, Wanted};
use super::super::planner::{Planned, Priced};
use super::super::runner::Told;
use super::super::store::Recent;
use super::{Message, Session};

impl Session {
    /// Takes in what workers have told; true when there was more than what a run going on tells.
    pub fn tick(&mut self) -> bool {
        let mut more = false;
        while let Ok(message) = self.inbox.try_recv() {
            more |= !matches!(message, Message::Run(Told::Events(_)));
            self.dirty = true;
            self.hear(message);
        }
        self.slow |= more;
        more
    }

    pub(super) fn hear(&mut self, message: Message) {
        match message {
            Message::Planned(p) if p.number == self.asked => {
                let Planned { plan, bars, sections, prompt, .. } = *p;
                self.prompt_tokens = prompt;
                self.predicted = bars;
                self.sections = Arc::new(carried(sections, &self.sections));
                match plan {
                    Ok(plan) => (self.plan, self.no_plan) = (Some(plan), String::new()),
                    Err(why) => {
                        (self.plan, self.no_plan, self.planning) = (None, why, false);
                        (self.way_back, self.inverse) = (None, None);
                    }
                }
                if self.plan.as_ref().is_some_and(|p| p.over.is_none()) {
                    self.way_back = None;
                }
            }
            Message::Priced(p) if p.number == self.asked => {
                let Priced { sections, inverse, train_inverse, fits, way_back, points, bars, pieces, .. } = *p;
                self.sections = Arc::new(sections);
                self.predicted = Some(bars);
                self.pieces = pieces;
                self.train_inverse = train_inverse;
                self.fits = Arc::new(fits);
                (self.inverse, self.way_back, self.planned_points) = (inverse, way_back, points);
                self.planning = false;
            }
            Message::Planned(_) | Message::Priced(_) => {}
            Message::Opened { wanted, found } => self.found(*wanted, found),
            Message::Merging(done, total) => self.merge_goes_on(done, total),
            Message::Merged(result) => self.merged(result),
            Message::Run(told) => self.told(told),
            Message::Files(done) => self.done(done),
            Message::Discovered(found) => self.discovered = found,
            Message::Probing(what, part) => self.probing = Some((what, part)),
            Message::Probed(result) => {
                self.probing = None;
                match result {
                    Ok(machine) => {
                        self.machine = Arc::from(machine);
                        self.ask();
                    }
                    Err(e) => self.notice("This machine was not measured", &e, true),
                }
            }
            Message::Shot { name, size, rgba } => self.wish(Wish::SavePng { name, size, rgba }),
            Message::Trouble { title, detail } => self.notice(&title, &detail, true),
        }
    }

    pub(super) fn found(&mut self, wanted: Wanted, found: Result<Found, String>) {
        if self.opening.as_ref() == Some(&wanted) {
            self.opening = None;
        }
        let path = wanted.path.clone();
        match found {
            Ok(Found::Model(opened)) => {
                let recent = Recent {
                    path: path.clone(),
                    name: super::super::show::top::file_name(&path).unwrap_or_else(|| opened.model.shape.name.clone()),
                    bytes: opened.model.file_bytes,
                };
                // What the switch of an adapter made comes back with that switch.
                if !std::path::Path::new(&path).starts_with(self.merges()) {
                    self.remembered.opened(recent);
                }
                self.opened = Some(opened);
                self.unopened = None;
                let mut config = self.document.config().clone();
                // An adapter belongs to the model it was learned on.
                if config.model.path != path {
                    let model = &mut config.model;
                    (model.path, model.adapter, model.adapter_scale) = (path, wanted.adapter, wanted.scale);
                    self.document.replace("Open a model", config, None);
                }
                self.changed();
            }
            Ok(Found::Config(config)) => {
                self.document.replace("Open a configuration", *config, None);
                self.changed();
            }
            Ok(Found::Run(live)) => self.replay(*live),
            Ok(Found::Curve(series)) => {
                self.curves.retain(|c| c.name != series.name);
                self.curves.push(series);
            }
            Err(why) => {
                if self.document.config().model.path == path {
                    (self.plan, self.predicted, self.inverse, self.way_back) = (None, None, None, None);
                    self.no_plan = "The model is not open.".into();
                    self.opened = None;
                }
                self.unopened = Some(wanted.clone());
                let path = match &wanted.adapter {
                    Some(adapter) => format!("{path} with {adapter}"),
                    None => path,
                };
                self.notice(&format!("{path} cannot be opened"), &why, true);
                // Nothing was open before it either: the bundled model is better than an empty window.
                if self.opened.is_none() && self.opening.is_none() && self.document.config().model.path != wanted.path {
                    self.changed();
                }
            }
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Machine(machine, why) => {
                self.machine = Arc::from(machine);
                if let Some(why) = why {
                    self.notice("This machine's figures are guesses", &why, false);
                }
                self.ask();
            }
            Done::Gpus(names) => self.gpus = names,
            Done::Free(memory) => Arc::make_mut(&mut self.machine).memory = memory,
            Done::Listed(cards) => {
                self.cards = Arc::new(cards);
                self.ask();
            }
            Done::Replayed(live) => self.replay(*live),
            Done::Paired(pair) => self.pair = Some(Box::new(history::pair(&pair[0], &pair[1]))),
            Done::Chosen(path) => self.open(path.display().to_string()),
            Done::Saved(path) => self.notice("Saved", &path.display().to_string(), false),
            Done::Failed { title, detail } => self.notice(&title, &detail, true),
        }
    }
}

/// New cards with the old ones' prices, until theirs come: a price that is a moment old is better than a flicker.
fn carried(mut new: Vec<Section>, old: &[Section]) -> Vec<Section> {
    let old: Vec<_> = old.iter().flat_map(|s| &s.cards).collect();
    for card in new.iter_mut().flat_map(|s| &mut s.cards) {
        let Some(was) = old.iter().find(|c| c.key == card.key) else { continue };
        for v in &mut card.variants {
            if let Some(was) = was.variants.iter().find(|w| w.id == v.id) {
                v.price = was.price;
                v.refused.clone_from(&was.refused);
                v.accuracy.clone_from(&was.accuracy);
            }
        }
    }
    new
}
