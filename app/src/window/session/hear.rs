//! What workers tell, taken in.

use std::sync::Arc;

use ullage_panels::view::Section;

use super::super::files::DialogRequest;
use super::super::message::{FileMessage, Message, Planned, Priced, RunMessage};
use super::super::opened::{OpenedItem, Wanted};
use super::super::store::Recent;
use super::super::{history, show};
use super::Session;
use ullage_core::machine::Effort;

impl Session {
    /// Takes in what workers have told; true when there was more than what a run going on tells.
    pub fn tick(&mut self) -> bool {
        let mut more = false;
        while let Ok(message) = self.inbox.try_recv() {
            more |= !matches!(message, Message::Run(RunMessage::Events(_)));
            self.dirty = true;
            self.hear(message);
        }
        self.slow |= more;
        more
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Plan(p) if p.number == self.asked => {
                let Planned { plan, bars, sections, prompt, notes, .. } = *p;
                self.state.prompt_tokens = prompt;
                self.state.predicted = bars;
                self.state.notes = notes;
                self.state.sections = Arc::new(carried(sections, &self.state.sections));
                match plan {
                    Ok(plan) => (self.state.plan, self.state.no_plan) = (Some(plan), String::new()),
                    Err(why) => {
                        (self.state.plan, self.state.no_plan, self.state.planning) = (None, why, false);
                        (self.state.way_back, self.state.inverse) = (None, None);
                    }
                }
                if self.state.plan.as_ref().is_some_and(|p| p.over.is_none()) {
                    self.state.way_back = None;
                }
            }
            Message::Prices(p) if p.number == self.asked => {
                let Priced { sections, inverse, train_inverse, fits, way_back, points, bars, pieces, .. } = *p;
                self.state.sections = Arc::new(sections);
                self.state.predicted = Some(bars);
                self.state.pieces = pieces;
                self.state.train_inverse = train_inverse;
                self.state.fits = Arc::new(fits);
                (self.state.inverse, self.state.way_back, self.state.planned_points) = (inverse, way_back, points);
                self.state.planning = false;
            }
            Message::Plan(_) | Message::Prices(_) => {}
            Message::Preview(data) => self.state.data_read = Arc::from(data),
            Message::Opened { wanted, item } => self.opened(*wanted, item),
            Message::MergeProgress { done, total } => self.merge_goes_on(done, total),
            Message::MergeResult(result) => self.merged(result),
            Message::Run(message) => self.run_sent(message),
            Message::Files(message) => self.files_sent(message),
            Message::Discovered(found) => self.state.discovered = found,
            Message::ProbeProgress(what, part) => self.state.probing = Some((what, part)),
            Message::ProbeResult(result) => {
                self.state.probing = None;
                match result {
                    Ok(machine) => {
                        self.state.machine = Arc::from(machine);
                        self.ask();
                    }
                    Err(e) => self.notice("This machine was not measured", &e, true),
                }
            }
            Message::Screenshot { name, size, rgba } => self.dialog(DialogRequest::SavePng { name, size, rgba }),
            Message::Trouble(trouble) => self.notice(&trouble.title, &trouble.detail, true),
        }
    }

    fn opened(&mut self, wanted: Wanted, item: Result<OpenedItem, String>) {
        if self.state.opening.as_ref() == Some(&wanted) {
            self.state.opening = None;
        }
        let path = wanted.path.clone();
        match item {
            Ok(OpenedItem::Model(opened)) => {
                let recent = Recent {
                    path: path.clone(),
                    name: show::model::file_name(&path).unwrap_or_else(|| opened.model.shape.name.clone()),
                    bytes: opened.model.file_bytes,
                };
                // What the switch of an adapter made comes back with that switch.
                if !std::path::Path::new(&path).starts_with(self.state.merged_folder()) {
                    self.state.remembered.opened(recent);
                }
                for note in opened.words.notes() {
                    self.notice("Not all of this model can be read", &note, false);
                }
                self.state.opened = Some(opened);
                self.state.outlined = None;
                self.configured_for(wanted);
            }
            Ok(OpenedItem::Outline(of)) => {
                self.forget_plan();
                self.state.outlined = Some(of);
                self.configured_for(wanted);
            }
            Ok(OpenedItem::Config(config)) => {
                self.state.document.replace("Open a configuration", *config, None);
                self.changed();
            }
            Ok(OpenedItem::Run(live)) => self.replay(*live),
            Ok(OpenedItem::Curve(series)) => {
                self.state.curves.retain(|c| c.name != series.name);
                self.state.curves.push(series);
            }
            Err(why) => {
                if self.state.document.config().model.path == path {
                    self.forget_plan();
                    self.state.no_plan = "The model is not open.".into();
                }
                self.state.unopened = Some(wanted.clone());
                let path = match &wanted.adapter {
                    Some(adapter) => format!("{path} with {adapter}"),
                    None => path,
                };
                self.notice(&format!("{path} cannot be opened"), &why, true);
                // Nothing was open before it either: the bundled model is better than an empty window.
                if self.state.opened.is_none()
                    && self.state.opening.is_none()
                    && self.state.document.config().model.path != wanted.path
                {
                    self.changed();
                }
            }
        }
    }

    /// The configuration is of the model that is open now.
    fn configured_for(&mut self, wanted: Wanted) {
        self.state.unopened = None;
        let mut config = self.state.document.config().clone();
        // An adapter belongs to the model it was learned on.
        if config.model.path != wanted.path {
            let model = &mut config.model;
            (model.path, model.adapter, model.adapter_scale) = (wanted.path, wanted.adapter, wanted.scale);
            model.adapters = wanted.more;
            self.state.document.replace("Open a model", config, None);
        }
        self.changed();
    }

    /// No model is open: nothing that was planned for one holds.
    fn forget_plan(&mut self) {
        let s = &mut self.state;
        (s.opened, s.outlined, s.plan, s.predicted, s.way_back) = (None, None, None, None, None);
        (s.inverse, s.train_inverse, s.fits, s.sections) = (None, None, Arc::default(), Arc::default());
        (s.pieces, s.notes, s.no_plan) = (Vec::new(), Vec::new(), String::new());
        // Answers to what was asked of the one before come too late.
        (self.asked, s.planning) = (self.asked + 1, false);
    }

    fn files_sent(&mut self, message: FileMessage) {
        match message {
            FileMessage::Machine(machine, why) => {
                self.state.machine = Arc::from(machine);
                let known = why.is_some() || self.state.machine.probed;
                if let Some(why) = why {
                    let why = format!("{why}. \"Measure this machine\" stands in the menu of machines.");
                    let part = if self.state.machine.probed { "Some of this machine's" } else { "This machine's" };
                    self.notice(&format!("{part} figures are guesses"), &why, false);
                }
                // A first start measures for two or three seconds beside everything else.
                if std::mem::take(&mut self.probes) && !known {
                    self.probe(Effort::QUICK);
                }
                self.ask();
            }
            FileMessage::Gpus(names) => self.state.gpus = names,
            FileMessage::Memory(memory) => Arc::make_mut(&mut self.state.machine).memory = memory,
            FileMessage::Runs(runs) => {
                self.state.runs = Arc::new(runs);
                self.ask();
            }
            FileMessage::Replay(live) => self.replay(*live),
            FileMessage::Pair(pair) => self.state.pair = Some(Box::new(history::pair(&pair[0], &pair[1]))),
            FileMessage::PathToOpen(path) => self.open(path.display().to_string()),
            FileMessage::SavedPath(path) => self.notice("Saved", &path.display().to_string(), false),
            FileMessage::Trouble(trouble) => self.notice(&trouble.title, &trouble.detail, true),
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
