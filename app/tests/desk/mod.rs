//! A session in a folder of its own, driven by actions and watched through its view; [`screen`] puts the window around it.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

pub mod screen;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use ullage::window::Start;
use ullage::window::files::{Answer, Ask, Asker};
use ullage::window::session::{Effect, Session, Setup};
use ullage::window::store;
use ullage_panels::Action;
use ullage_panels::view::View;

/// What dialogs answer, the last first; nothing once there is none left.
pub type Answers = Arc<Mutex<Vec<Answer>>>;

/// A session with its data in `room`, and where its dialogs' answers are put.
pub fn session(room: &Path, open: Option<Start>) -> (Session, Answers) {
    let answers = Answers::default();
    let mine = Arc::clone(&answers);
    let ask: Asker = Arc::new(move |_: &Ask| mine.lock().unwrap().pop().unwrap_or(Answer::Cancelled));
    let data = room.join("data");
    let remembered = store::load(&store::file(&data));
    let session = Session::new(Setup { data, remembered, open, ask, wake: Arc::new(|| ()), probe: false });
    (session, answers)
}

pub struct Desk {
    pub session: Session,
    pub room: TempDir,
    pub answers: Answers,
}

impl Desk {
    pub fn new(open: Option<Start>) -> Self {
        Self::within(tempfile::tempdir().unwrap(), open)
    }

    pub fn within(room: TempDir, open: Option<Start>) -> Self {
        let (session, answers) = session(room.path(), open);
        Self { session, room, answers }
    }

    /// The next dialog answers with this file.
    pub fn will_choose(&self, path: &Path) {
        self.answers.lock().unwrap().push(Answer::Path(path.to_path_buf()));
    }

    #[track_caller]
    fn wait(&mut self, what: &str, settled: bool, mut wanted: impl FnMut(&View) -> bool) -> View {
        let start = Instant::now();
        loop {
            self.session.tick();
            let ready = !settled || self.session.settled();
            let view = self.session.view();
            if ready && wanted(view) {
                return view.clone();
            }
            let said: Vec<_> = view.notices.iter().map(|n| format!("{}: {}", n.title, n.detail)).collect();
            assert!(start.elapsed() < Duration::from_secs(120), "waiting for {what}: {said:?} {:?}", view.status);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the view is as wanted.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl FnMut(&View) -> bool) -> View {
        self.wait(what, false, wanted)
    }

    /// As [`Self::until`], once the newest configuration is planned and priced.
    #[track_caller]
    pub fn settled(&mut self, what: &str, wanted: impl FnMut(&View) -> bool) -> View {
        self.wait(what, true, wanted)
    }

    /// Waits for the prices of the present configuration.
    #[track_caller]
    pub fn priced(&mut self) -> View {
        self.settled("prices", |v| v.top.predicted.is_some())
    }

    /// Waits until the present configuration can be run.
    #[track_caller]
    pub fn ready(&mut self) -> View {
        self.settled("a plan", |v| v.top.predicted.is_some() && v.status.blocked.is_empty())
    }

    pub fn set(&mut self, sets: &[(&str, &str)]) {
        let sets = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.session.act(Action::Set { what: "set".into(), sets, gesture: None });
    }

    /// Sets keys once the model is open, and waits until it can be run.
    #[track_caller]
    pub fn ready_after(&mut self, sets: &[(&str, &str)]) -> View {
        self.until("the model", |v| v.top.predicted.is_some());
        self.set(sets);
        self.settled("a plan", |v| v.status.blocked.is_empty())
    }

    /// Runs what is configured to its end.
    #[track_caller]
    pub fn run(&mut self) -> View {
        self.ready();
        self.session.act(Action::Run);
        self.until("the run to begin", |v| v.status.running || v.top.measured.is_some());
        self.until("the run's end", |v| !v.status.running)
    }

    /// Runs until some tokens are written.
    #[track_caller]
    pub fn writing(&mut self) -> View {
        self.session.act(Action::Run);
        self.until("tokens", |v| {
            let written = v.text.sequences.first().is_some_and(|s| s.tokens.len() > s.prompt + 5);
            assert!(v.status.running || written, "it ended early: {:?}", v.notices);
            written
        })
    }

    /// The configuration as it would be exported.
    pub fn exported(&mut self) -> String {
        self.session.act(Action::CopyToml);
        let effects = self.session.effects();
        let [Effect::Copy(text)] = &effects[..] else { panic!("{effects:?}") };
        text.clone()
    }

    pub fn failures(&mut self) -> Vec<String> {
        self.session.view().notices.iter().filter(|n| n.failure).map(|n| format!("{}: {}", n.title, n.detail)).collect()
    }

    /// The folder of the newest run.
    pub fn folder(&self) -> PathBuf {
        let runs = std::fs::read_dir(self.room.path().join("data/runs")).unwrap();
        runs.map(|d| d.unwrap().path()).max().unwrap()
    }

    /// After whatever went wrong: another run ends well.
    #[track_caller]
    pub fn still_alive(&mut self) {
        self.session.act(Action::Open("bundled:recall".into()));
        self.until("the bundled model", |v| v.top.model.path == "bundled:recall" && v.top.model.opening.is_none());
        for n in self.session.view().notices.clone() {
            self.session.act(Action::PutAway(n.id));
        }
        let sets: Vec<_> =
            SHORT.iter().copied().chain([("place.weights", "resident"), ("run.prompt", "Go on")]).collect();
        self.ready_after(&sets);
        let view = self.run();
        assert!(view.top.measured.is_some_and(|m| !m.live), "{:?}", view.notices);
        assert!(view.text.sequences[0].tokens.len() > view.text.sequences[0].prompt);
    }
}

/// A run that is over in a blink.
pub const SHORT: [(&str, &str); 3] = [("run.max_tokens", "12"), ("run.context", "96"), ("budget.device", "unlimited")];

/// A run that goes on until it is stopped.
pub const LONG: [(&str, &str); 4] =
    [("run.max_tokens", "4000"), ("run.context", "4096"), ("run.ignore_eos", "true"), ("budget.device", "unlimited")];

/// A copy of the bundled model's file.
pub fn copy_of_model(to: &Path) {
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bundled/recall.gguf"), to).unwrap();
}
