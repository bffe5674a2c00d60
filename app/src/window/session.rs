//! The workbench without a screen: what is open, what was chosen, what runs; actions in, a view out.
//!
//! Nothing here waits: plans, models, files and runs are on threads of their own and answer with messages.

mod adapter;
mod hear;
mod runs;
mod talk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ullage_core::catalog;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::config::train::Train;
use ullage_core::job::Command;
use ullage_core::machine::Machine;
use ullage_core::machine::cards::CARDS;
use ullage_core::machine::{self, Effort};
use ullage_core::model::discover;
use ullage_panels::Action;
use ullage_panels::view::{Data, Notice, Sets, View};

use super::document::Document;
use super::files::{self, Asker, DialogRequest, FileRequest};
use super::live::SeriesLabel;
use super::message::{Message, RunMessage};
use super::opened::{OpenModel, Wanted};
use super::planner::{PlanRequest, Planner};
use super::previewer::{PreviewRequest, Previewer};
use super::runner::{Pace, Running};
use super::state::State;
use super::store::{self, Remembered};
use super::worker::{Outbox, Wake, Worker};
use super::{Start, bars, opener, show};

/// What only the window itself can do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put text on the clipboard.
    Copy(String),
    /// Take a picture of this rectangle, in points.
    Shoot { name: String, rect: egui::Rect },
}

/// How a session starts.
pub struct Setup {
    /// Where runs and what is remembered are kept.
    pub data: PathBuf,
    /// What is remembered, and what was wrong with its file.
    pub remembered: (Remembered, Option<String>),
    /// What to open instead of the last configuration.
    pub open: Option<Start>,
    /// Asks for files.
    pub ask: Asker,
    /// Asks for a frame.
    pub wake: Wake,
    /// Whether a machine that was never measured is measured at once, in the background.
    pub probe: bool,
}

/// The first start: the bundled model under a limit that it exceeds.
const FIRST: &str = include_str!("../../../assets/first.toml");

/// Longest that a window which was asked to close waits for its run: a state of many gigabytes takes minutes to be written.
const LEAVING: Duration = Duration::from_secs(600);
/// Longest that is waited where the window is gone already.
const ENDING: Duration = Duration::from_secs(60);
/// Longest that is waited once nobody wants to.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A flag that whoever works looks at: set when this is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The workbench: its state, and the workers that change it.
pub struct Session {
    state: State,
    saved: Remembered,
    /// The section of fine-tuning while generating.
    kept_train: Option<Train>,
    /// The number of the newest question to the planner.
    asked: u64,
    run: Option<Running>,
    /// How often what runs is drawn.
    pace: Pace,
    /// Which sweep the run going on is a point of.
    series: SeriesLabel,
    /// Ends a merge that goes on.
    merge: Option<CancelOnDrop>,
    /// Whether an unmeasured machine is measured as soon as that is known.
    probes: bool,
    next_notice: u64,
    effects: Vec<Effect>,
    view: View,
    dirty: bool,
    /// True when more has changed than what a run going on has sent.
    slow: bool,
    planner: Planner,
    previewer: Previewer,
    /// What it was asked for last.
    previewed: Option<PreviewRequest>,
    opener: Worker<Wanted>,
    files: Worker<FileRequest>,
    dialogs: Worker<DialogRequest>,
    outbox: Outbox<Message>,
    inbox: Receiver<Message>,
}

impl Session {
    /// Starts the workers and what they do first; returns at once.
    pub fn new(setup: Setup) -> Self {
        let Setup { data, remembered: (remembered, damage), open, ask, wake, probe } = setup;
        let (outbox, inbox) = Outbox::new(wake);
        let (runs, file, exports) = (data.join("runs"), store::file(&data), data.join("exports"));
        let files = Worker::start("ullage-files", outbox.clone(), move |r, out: &Outbox<Message>| {
            files::work(r, &runs, &file, out)
        });
        let dialogs = Worker::start("ullage-dialogs", outbox.clone(), move |r, out: &Outbox<Message>| {
            files::dialog(r, &ask, &exports, out)
        });
        let first = || from_toml(FIRST, &[]).unwrap_or_default();
        let (config, wrong) = match remembered.config.as_str() {
            "" => (first(), None),
            text => from_toml(text, &[]).map_or_else(|e| (first(), Some(e.to_string())), |c| (c, None)),
        };
        let mut session = Self {
            saved: remembered.clone(),
            state: State::new(config, data, remembered),
            kept_train: None,
            asked: 0,
            run: None,
            pace: Pace::default(),
            series: SeriesLabel::default(),
            merge: None,
            probes: probe,
            next_notice: 1,
            effects: Vec::new(),
            view: View::default(),
            dirty: true,
            slow: true,
            planner: Planner::start(outbox.clone()),
            previewer: Previewer::start(outbox.clone()),
            previewed: None,
            opener: Worker::start("ullage-opener", outbox.clone(), |wanted, out: &Outbox<Message>| {
                opener::work(wanted, out)
            }),
            files,
            dialogs,
            outbox,
            inbox,
        };
        let entries: Vec<_> = catalog::entries().collect();
        session.state.sections = Arc::new(show::cards::sections(session.state.document.config(), &entries));
        session.files.order(FileRequest::Begin);
        session.plan_for(session.state.remembered.plan_for.clone());
        let out = session.outbox.clone();
        let look = move || out.send(Message::Discovered(discover::models()));
        // Without it, only models opened before are listed.
        let _ = std::thread::Builder::new().name("ullage-discover".into()).spawn(look);
        if let Some(why) = damage {
            session.notice("What was remembered is lost", &why, false);
        }
        if let Some(why) = wrong {
            session.notice("The last configuration cannot be used", &why, false);
        }
        match open {
            Some(Start::Path(path)) => session.open(absolute(path)),
            Some(Start::Config(config)) => {
                session.state.document = Document::new(*config);
                session.changed();
            }
            None => session.changed(),
        }
        session
    }

    /// A message that stays until it is put away.
    pub fn notice(&mut self, title: &str, detail: &str, failure: bool) {
        self.notice_with(title, detail, failure, None);
    }

    fn notice_with(&mut self, title: &str, detail: &str, failure: bool, remedy: Option<(String, Sets)>) {
        // The same again is said once.
        self.state.notices.retain(|n| n.title != title || n.detail != detail);
        let id = self.next_notice;
        self.next_notice += 1;
        self.state.notices.push(Notice { id, title: title.into(), detail: detail.into(), failure, remedy });
        (self.dirty, self.slow) = (true, true);
    }

    /// Carries out what a panel asks for.
    pub fn act(&mut self, action: Action) {
        (self.dirty, self.slow) = (true, true);
        match action {
            Action::OpenDialog => {
                self.dialog(DialogRequest::Open);
            }
            Action::Open(path) => self.open(path),
            Action::Set { what, sets, gesture } => self.set(&what, &sets, gesture),
            Action::Mode(id) => self.mode(&id),
            Action::Undo => {
                if self.state.document.undo() {
                    self.changed();
                }
            }
            Action::Redo => {
                if self.state.document.redo() {
                    self.changed();
                }
            }
            Action::PlanFor(id) => {
                self.plan_for(id);
                self.changed();
            }
            Action::Adapter(how) => self.use_adapter(how),
            Action::Run => self.run(SeriesLabel::default()),
            Action::Pause => self.command(Command::Pause),
            Action::Resume => self.command(Command::Resume),
            Action::Step => self.command(Command::Step),
            Action::Stop => {
                self.state.queue.clear();
                self.state.stopping = self.run.is_some();
                self.command(Command::Cancel);
            }
            Action::Regenerate => self.regenerate(),
            Action::Say(text) => self.say(&text),
            Action::EditTurn { turn, content } => self.edit(turn, &content),
            Action::ClearChat => self.clear_chat(),
            Action::Sweep { name, points } => self.sweep(&name, points),
            Action::StopSweep => {
                self.state.queue.clear();
                self.ask();
            }
            Action::ScrubTo(moment) => self.state.moment = moment,
            Action::WatchHead(head) => self.watch(head),
            Action::OpenRun(name) => self.open_run(name),
            Action::TakeConfig(name) => self.take(&name),
            Action::Compare(None) => self.state.pair = None,
            Action::Compare(Some(pair)) => {
                self.order(FileRequest::Pair(pair));
            }
            Action::DeleteRun(name) => self.delete(name),
            Action::ShowFolder => {
                self.order(FileRequest::Show(self.state.runs_folder()));
            }
            Action::ExportDialog => {
                if let Some(text) = self.export() {
                    let name = self.state.opened.as_ref().map_or("ullage".to_owned(), |o| safe(&o.model.shape.name));
                    self.dialog(DialogRequest::SaveFile { name: format!("{name}.toml"), content: text.into_bytes() });
                }
            }
            Action::CopyToml => {
                if let Some(text) = self.export() {
                    self.effects.push(Effect::Copy(text));
                }
            }
            Action::Copy(text) => self.effects.push(Effect::Copy(text)),
            Action::SaveFile { name, content } => {
                self.dialog(DialogRequest::SaveFile { name, content: content.into_bytes() })
            }
            Action::SavePng { name, rect } => self.effects.push(Effect::Shoot { name, rect }),
            Action::Probe => self.probe(Effort::THOROUGH),
            Action::PutAway(id) => self.state.notices.retain(|n| n.id != id),
        }
    }

    /// Takes pictures of the screen: name, width and height, and four bytes a pixel.
    pub fn shutter(&self) -> impl FnOnce(String, [usize; 2], Vec<u8>) + Send + use<> {
        let out = self.outbox.clone();
        move |name, size, rgba| out.send(Message::Screenshot { name, size, rgba })
    }

    /// What only the window can do, since the last call.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn order(&mut self, request: FileRequest) {
        if !self.files.order(request) {
            self.notice("The disk is busy", "Try again when what is being read or written is done.", true);
        }
    }

    fn dialog(&mut self, request: DialogRequest) {
        if !self.dialogs.order(request) {
            self.notice("A dialog is open already", "Answer it first.", false);
        }
    }

    /// Generating or fine-tuning. What was chosen of the other comes back with it.
    fn mode(&mut self, id: &str) {
        let mut config = self.state.document.config().clone();
        let what = match (id, config.train.is_some()) {
            ("train", false) => {
                // A random model has no words to learn in.
                let words = self.state.opened.as_ref().is_none_or(|o| o.words.tokenizer.is_some());
                let data = if words { "bundled:task-tova" } else { "random" };
                // A rate for adapters: at the file's default the first run would show no learning.
                let first = || Train { data: data.into(), length: 128, steps: 50, lr: 1e-3, ..Train::default() };
                config.train = Some(self.kept_train.take().unwrap_or_else(first));
                // What training cannot do with: undo brings it back.
                let plain = Config::default();
                (config.place.weights, config.weights) = (plain.place.weights, plain.weights);
                (config.model.adapter, config.model.adapter_scale) = (None, 1.0);
                config.model.adapters.clear();
                "Fine-tune"
            }
            ("generate", true) => {
                self.kept_train = config.train.take();
                "Generate"
            }
            _ => return,
        };
        match ullage_core::catalog::check(&config) {
            Ok(()) => {
                self.state.document.replace(what, config, None);
                self.changed();
            }
            Err(e) => self.notice(&format!("{what}: not possible here"), &e.to_string(), true),
        }
    }

    /// Opens whatever lies at `path`.
    pub fn open(&mut self, path: String) {
        (self.dirty, self.slow) = (true, true);
        let path = home(path.trim().trim_matches('"'));
        if path.is_empty() {
            return;
        }
        self.open_model(Wanted::at(path));
    }

    fn open_model(&mut self, wanted: Wanted) {
        self.state.opening = Some(wanted.clone());
        if !self.opener.order(wanted) {
            self.state.opening = None;
            self.notice("Too much is being opened", "Wait until it is done.", true);
        }
    }

    /// Sets keys of the configuration.
    pub fn set(&mut self, what: &str, sets: &[(String, String)], gesture: Option<u64>) {
        match self.state.document.set(what, sets, gesture) {
            Ok(true) => self.changed(),
            Ok(false) => {}
            Err(e) => self.notice(&format!("{what}: not changed"), &e.to_string(), true),
        }
    }

    /// After any change: the model that the configuration names is opened, and everything is planned again.
    fn changed(&mut self) {
        (self.dirty, self.slow) = (true, true);
        self.know_adapter();
        let wanted = Wanted::of(self.state.document.config());
        let is = |other: &Option<Wanted>| other.as_ref() == Some(&wanted);
        let open = self.state.opened.as_ref().is_some_and(|o| o.wanted == wanted)
            || self.state.outlined.as_ref().is_some_and(|o| o.wanted == wanted);
        if !open && !is(&self.state.opening) && !is(&self.state.unopened) {
            self.state.unopened = None;
            self.open_model(wanted);
        }
        self.ask();
    }

    fn ask(&mut self) {
        let wanted = Wanted::of(self.state.document.config());
        if let Some(of) = self.state.outlined.as_ref().filter(|o| o.wanted == wanted) {
            let config = self.state.document.config();
            self.state.predicted = Some(bars::outlined(&of.outline, config));
            self.state.notes = vec![bars::outlined_note(&of.outline, config)];
            return;
        }
        let Some(opened) = self.state.opened.as_ref().filter(|o| o.wanted == wanted) else { return };
        let opened = Arc::clone(opened);
        self.preview(&opened);
        self.asked += 1;
        self.state.planning = true;
        self.planner.ask(PlanRequest {
            number: self.asked,
            config: self.state.document.config().clone(),
            opened,
            machine: self.state.planned_machine(),
            runs: Arc::clone(&self.state.runs),
            points: self.state.queue.iter().map(|p| p.config.clone()).collect(),
        });
    }

    /// Reads the training data, where they or how they are read changed.
    fn preview(&mut self, opened: &Arc<OpenModel>) {
        let config = self.state.document.config().clone();
        if config.train.is_none() {
            return;
        }
        let request = PreviewRequest { config, opened: Arc::clone(opened) };
        if self.previewed.as_ref().is_some_and(|before| before.same(&request)) {
            return;
        }
        let file = request.config.train.as_ref().map(|t| t.data.clone()).unwrap_or_default();
        let before = std::mem::take(&mut self.state.data_read);
        // The same data read in another way: what was shown stays until it is known.
        let kept = if before.file == file { (*before).clone() } else { Data::default() };
        self.state.data_read = Arc::new(Data { file, reading: true, ..kept });
        self.previewed = Some(request.clone());
        self.previewer.ask(request);
    }

    fn plan_for(&mut self, id: String) {
        let found = CARDS.iter().find(|c| c.id == id || c.name == id);
        self.state.familiar = found.map(|card| (card, Arc::new(Machine::like(card))));
        self.state.remembered.plan_for = found.map_or(String::new(), |card| card.id.to_owned());
    }

    fn export(&mut self) -> Option<String> {
        let config = self.state.document.config();
        let card = self.state.opened.as_ref().map(|o| ullage_core::job::infer::card(&o.model));
        let run = self.state.live.as_ref().filter(|l| l.finished() && l.config() == Some(config));
        let machine = format!("{}, {} threads", self.state.machine.cpu.model, config.threads());
        let run = run.map(|l| (l.name.as_str(), &l.report));
        match files::export(config, card.as_ref(), &machine, self.state.plan.as_deref(), run) {
            Ok(text) => Some(text),
            Err(e) => {
                self.notice("The configuration cannot be exported", &e.to_string(), true);
                None
            }
        }
    }

    fn probe(&mut self, effort: Effort) {
        if self.run.is_some() || self.state.probing.is_some() {
            self.notice("This machine cannot be measured now", "A run would disturb it; stop it first.", false);
            return;
        }
        let out = self.outbox.clone();
        let run = move || {
            let mut tell = |what: &str, part| out.send(Message::ProbeProgress(what.to_owned(), part));
            let done = Machine::place(false).and_then(|_| machine::probe(effort, &mut tell, &|| false));
            let saved = done.and_then(|m| m.save(false).map(|_| Box::new(m)));
            out.send(Message::ProbeResult(saved.map_err(|e| e.to_string())));
        };
        match std::thread::Builder::new().name("ullage-probe".into()).spawn(run) {
            Ok(_) => self.state.probing = Some(("starting".into(), 0.0)),
            Err(e) => self.notice("This machine was not measured", &e.to_string(), true),
        }
    }

    /// True when the newest configuration has its plan and its prices, and nothing is being opened.
    pub fn settled(&self) -> bool {
        !self.state.planning && self.state.opening.is_none() && self.state.merging.is_none()
    }

    /// What there is to draw.
    pub fn view(&mut self) -> &View {
        if std::mem::take(&mut self.dirty) {
            let slow = std::mem::take(&mut self.slow);
            let before = std::mem::take(&mut self.view);
            if let Some(live) = self.state.shown_mut() {
                live.count_gone();
            }
            self.view = show::view(&self.state, before, slow);
        }
        &self.view
    }

    /// Says how long a frame's logic and layout took: what runs is drawn the rarer, the more a frame costs.
    pub fn frame_took(&self, frame: Duration) {
        self.pace.took(frame);
    }

    /// The moment scrubbed to.
    pub fn moment(&self) -> Option<usize> {
        self.state.moment
    }

    /// The configuration as it is chosen now.
    pub fn config(&self) -> &Config {
        self.state.document.config()
    }

    /// Where the window stands and what its panels remember; saved when it differs from what is.
    pub fn remember(&mut self, size: Option<[f32; 2]>, position: Option<[f32; 2]>, layout: serde_json::Value) {
        let r = &mut self.state.remembered;
        r.size = size.or(r.size);
        r.position = position.or(r.position);
        r.layout = layout;
        r.config = self.state.document.config().to_toml().unwrap_or_default();
        if *r != self.saved && self.files.order(FileRequest::Remember(Box::new(r.clone()))) {
            self.saved = r.clone();
        }
    }

    /// Asked to close: true when the window may go at once. Otherwise a run is asked to end, which leaves what it did on the disk
    /// (a training the state of its last step), and the window stays until [`Self::left`], or until it is asked again.
    pub fn leave(&mut self) -> bool {
        if self.run.is_none() || self.state.leaving.is_some() {
            return true;
        }
        self.state.queue.clear();
        self.state.leaving = Some(Instant::now());
        self.state.stopping = true;
        (self.dirty, self.slow) = (true, true);
        self.command(Command::Cancel);
        false
    }

    /// True when the window was asked to close, and what it waited for is over, or has taken longer than is waited for.
    pub fn left(&self) -> bool {
        self.state.leaving.is_some_and(|since| self.run.is_none() || since.elapsed() > LEAVING)
    }

    /// True while the window waits for a run to end before it closes.
    pub fn leaving(&self) -> bool {
        self.state.leaving.is_some()
    }

    /// Ends the run, keeping what it did, and what is being written.
    pub fn close(&mut self) {
        self.state.queue.clear();
        self.command(Command::Cancel);
        let mut over = self.run.is_none();
        // Where the window could ask, it has waited already, or was told not to.
        files::wait_until(if self.leaving() { AT_ONCE } else { ENDING }, || {
            while let Ok(message) = self.inbox.try_recv() {
                over |= matches!(message, Message::Run(RunMessage::Ended));
            }
            over
        });
        // What was ordered of the disk is done before the process ends; nobody reads the answers any more.
        let (_, nobody) = Outbox::<Message>::new(Arc::new(|| ()));
        self.inbox = nobody;
        self.files.finish();
    }
}

/// `~/x` under the home folder.
fn home(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest).display().to_string(),
        _ => path.to_owned(),
    }
}

/// A path of this folder's as one from anywhere; the names of bundled and random models stay.
fn absolute(path: String) -> String {
    if path.starts_with("bundled:") || path.starts_with("random:") {
        return path;
    }
    std::path::absolute(&path).map_or(path, |p| p.display().to_string())
}

/// A file name of a model's name.
fn safe(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_alphanumeric() || "-._".contains(c) { c } else { '-' }).take(80).collect();
    if safe.trim_matches(['-', '.']).is_empty() { "ullage".into() } else { safe }
}
