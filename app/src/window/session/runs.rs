//! Runs: starting and ending them, sweeps, and those of the history.

use std::path::PathBuf;
use std::sync::Arc;

use ullage_core::config::Config;
use ullage_core::job::{Command, Order};
use ullage_core::output::Care;
use ullage_core::report::protocol::Failure;
use ullage_panels::view::Sets;
use ullage_panels::words as figures;

use super::super::files::FileRequest;
use super::super::live::{Live, Prompt, SeriesLabel};
use super::super::message::RunMessage;
use super::super::opened::Wanted;
use super::super::runner::Running;
use super::super::state::Point;
use super::super::{document, planner};
use super::Session;

impl Session {
    pub(super) fn replay(&mut self, live: Live) {
        self.state.moment = None;
        self.know_learned(&live);
        self.state.replayed = Some(live);
    }

    pub(super) fn open_run(&mut self, name: String) {
        self.state.moment = None;
        if self.state.live.as_ref().is_some_and(|l| l.name == name) {
            self.state.replayed = None;
        } else {
            self.order(FileRequest::Replay(name));
        }
    }

    pub(super) fn take(&mut self, name: &str) {
        let here = self.state.shown().filter(|l| l.name == name).and_then(|l| l.config().cloned());
        let card = || self.state.runs.iter().find(|c| c.line.name == name).and_then(|c| c.config.clone());
        match here.or_else(card) {
            Some(config) => {
                self.state.document.replace("Take a run's configuration", config, None);
                self.changed();
            }
            None => {
                self.notice("There is no configuration to take", &format!("Run {name} ended before it had one."), false)
            }
        }
    }

    pub(super) fn delete(&mut self, name: String) {
        if self.state.running && self.state.live.as_ref().is_some_and(|l| l.name == name) {
            self.notice("The run was not deleted", "It is going on; stop it first.", false);
            return;
        }
        if self.state.replayed.as_ref().is_some_and(|l| l.name == name) {
            self.state.replayed = None;
        }
        if self.state.pair.as_ref().is_some_and(|p| p.names.contains(&name)) {
            self.state.pair = None;
        }
        self.order(FileRequest::Delete(name));
    }

    /// Starts the configuration as it is.
    pub(super) fn run(&mut self, line: SeriesLabel) {
        let why = self.state.blocked();
        // A plan that is being made anew is no reason to wait: the run plans for itself.
        if !why.is_empty() && !self.state.planning {
            self.notice("It cannot run yet", &why, false);
            return;
        }
        let config = self.state.document.config().clone();
        self.start(config, line);
    }

    pub(super) fn start(&mut self, config: Config, line: SeriesLabel) {
        if self.state.running {
            self.notice("A run is going on", "Stop it, or wait until it is done.", false);
            return;
        }
        let Some(opened) = self.state.opened.clone().filter(|o| o.wanted == Wanted::of(&config)) else {
            self.notice("There is nothing to run", &self.state.blocked(), false);
            return;
        };
        let keep = self.keep(&config);
        let order = Order {
            config,
            model: Arc::clone(&opened.model),
            machine: self.state.machine.now(),
            base: PathBuf::from("."),
            dump: None,
            keep,
            // The window's own history is no output of the run.
            folder: None,
            care: Care::default(),
        }
        .on_its_disk();
        self.state.moment = None;
        self.state.stopping = false;
        self.state.replayed = None;
        self.series = line.clone();
        match Running::start(order, opened, self.state.runs_folder(), line, self.pace.clone(), self.outbox.clone()) {
            Ok(running) => {
                (self.run, self.state.running) = (Some(running), true);
                self.state.live = Some(Live::new("new run".into(), Prompt::default()));
            }
            Err(e) => self.notice("The run did not start", &e.to_string(), true),
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        if let Some(running) = &self.run {
            running.send(command);
        }
    }

    pub(super) fn run_sent(&mut self, message: RunMessage) {
        match message {
            RunMessage::Began { name, prompt } => self.state.live = Some(Live::new(name, prompt)),
            RunMessage::Events(events) => {
                // The view lets go of what it shares, so that what comes is added in place and not to a copy of it all.
                self.view.text = Arc::default();
                self.view.timeline = Arc::default();
                self.view.attention = Arc::default();
                self.view.learning = None;
                if let Some(live) = &mut self.state.live {
                    events.iter().for_each(|e| live.add(e));
                }
            }
            RunMessage::Unsaved(why) => {
                self.notice(
                    "The run is not saved",
                    &format!(
                        "{why}\nIt goes on; what it shows is lost when the window closes. Save what is to be kept from the \
                         pictures’ menus; before the next run, make room there or see that the folder can be written."
                    ),
                    true,
                );
            }
            RunMessage::Ended => self.over(),
        }
    }

    pub(super) fn over(&mut self) {
        (self.run, self.state.running) = (None, false);
        self.state.stopping = false;
        let Some(live) = &mut self.state.live else { return };
        live.close();
        let config = live.config().cloned();
        if let Some(error) = live.error().filter(|e| e.kind != "cancelled").cloned() {
            let series = std::mem::take(&mut self.series);
            match (error.needed, config) {
                (Some(needed), Some(config)) => self.too_large(&error, needed, &config, &series),
                _ => self.notice("The run failed", &error.message, true),
            }
        }
        let diverged: Vec<_> = (self.state.live.iter().filter(|l| l.error().is_none()))
            .flat_map(|l| l.report.diverged())
            .map(|(what, place)| format!("{what}: {place}"))
            .collect();
        if !diverged.is_empty() {
            self.notice("What was computed is no number", &format!("It diverged. {}.", diverged.join("; ")), true);
        }
        self.learned();
        self.files.order(FileRequest::List);
        if let Some(Point { line, config }) = self.state.queue.pop_front() {
            self.start(config, line);
            if !self.state.running {
                // What stopped this point would stop the others.
                self.state.queue.clear();
            }
        }
    }

    /// A run was refused for a limit: on its own it is said with what would help, a point of a sweep joins those that did not fit.
    fn too_large(&mut self, error: &Failure, needed: u64, config: &Config, line: &SeriesLabel) {
        let limit = config.budget.device.0;
        let words = format!("{} of {}", figures::bytes(needed), figures::bytes(limit));
        if line.series.is_empty() {
            let remedy = error.hint.as_ref().map(|hint| {
                let sets = planner::arguments(hint);
                (planner::in_words(&sets), sets)
            });
            let remedy = remedy.filter(|(_, sets)| !sets.is_empty());
            let detail = format!("It would hold {words} at its peak ({needed} B). It was stopped before it took them.");
            self.notice_with("The run does not fit the memory limit", &detail, true, remedy);
            return;
        }
        let title = format!("{}: not every point fits the memory limit", line.series);
        let before = self
            .state
            .notices
            .iter()
            .position(|n| n.title == title)
            .map(|at| self.state.notices.remove(at).detail + "\n");
        let detail = format!("{}{}: {words}", before.unwrap_or_default(), line.label);
        self.notice(&title, &detail, false);
    }

    pub(super) fn sweep(&mut self, name: &str, points: Vec<Sets>) {
        let base = self.state.document.config().clone();
        for sets in points {
            let label = point_label(&sets);
            match document::with(&base, &sets) {
                Ok(config) => {
                    let line = SeriesLabel { series: name.to_owned(), label };
                    self.state.queue.push_back(Point { line, config });
                }
                Err(e) => self.notice(&format!("{name}: a point is left out"), &format!("{label}: {e}"), false),
            }
        }
        if !self.state.running
            && let Some(Point { line, config }) = self.state.queue.pop_front()
        {
            self.start(config, line);
        }
        self.ask();
    }

    pub(super) fn watch(&mut self, head: Option<(usize, usize)>) {
        let value = head.map_or(String::new(), |(layer, head)| format!("[{layer}, {head}]"));
        self.set("Keep a head at full size", &[("observe.head".into(), value)], None);
    }
}

/// A point of a sweep in words: what it chooses, not what it measures.
fn point_label(sets: &[(String, String)]) -> String {
    let chooses = |key: &str| ["kv.", "weights.", "place.", "train."].iter().any(|p| key.starts_with(p));
    let own: Vec<_> = sets.iter().filter(|(key, _)| chooses(key)).cloned().collect();
    planner::in_words(if own.is_empty() { sets } else { &own })
}
