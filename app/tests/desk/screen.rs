//! The window around a session, without a display: drawn by egui's test harness, seen by the names of what is on screen.

use std::path::Path;
use std::time::{Duration, Instant};

use egui::vec2;
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use tempfile::TempDir;
use ullage::window::App;
use ullage::window::session::Session;
use ullage_panels::Action;
use ullage_panels::view::View;

use super::Answers;

pub struct Screen {
    pub harness: Harness<'static, App>,
    pub room: TempDir,
    pub answers: Answers,
}

impl Screen {
    /// A first start, in a folder of its own.
    pub fn new() -> Self {
        let room = tempfile::tempdir().unwrap();
        let (session, answers) = super::session(room.path(), None);
        let app = App::new(&egui::Context::default(), session, &serde_json::Value::Null);
        let harness = Harness::builder()
            .with_size(vec2(1280.0, 800.0))
            .with_max_steps(64)
            .with_context_setup(ullage_panels::theme::install)
            .build_ui_state(
                |ui, app: &mut App| {
                    app.listen(ui.ctx());
                    app.draw(ui);
                },
                app,
            );
        Self { harness, room, answers }
    }

    /// The next dialog answers with this file.
    pub fn will_choose(&self, path: &Path) {
        self.answers.lock().unwrap().push(ullage::window::files::Answer::Path(path.to_path_buf()));
    }

    pub fn session(&mut self) -> &mut Session {
        self.harness.state_mut().session()
    }

    pub fn act(&mut self, action: Action) {
        self.session().act(action);
    }

    /// Steps until something is as wanted.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut wanted: impl FnMut(&Harness<'static, App>) -> bool) {
        let start = Instant::now();
        loop {
            self.harness.step();
            if wanted(&self.harness) {
                return;
            }
            if start.elapsed() > Duration::from_secs(120) {
                let view = self.session().view();
                panic!("waiting for {what}: {:?} {:?}", view.notices, view.status);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Steps until the view is as wanted.
    #[track_caller]
    pub fn until_view(&mut self, what: &str, mut wanted: impl FnMut(&View) -> bool) {
        let start = Instant::now();
        loop {
            self.harness.step();
            let view = self.harness.state_mut().session().view();
            if wanted(view) {
                return;
            }
            let (notices, status) = (&view.notices, &view.status);
            assert!(start.elapsed() < Duration::from_secs(120), "waiting for {what}: {notices:?} {status:?}");
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    #[track_caller]
    pub fn until_label(&mut self, part: &str) {
        self.until(part, |h| h.query_all_by_label_contains(part).next().is_some());
    }

    pub fn click(&mut self, label: &str) {
        self.harness.get_by_label(label).click();
        self.harness.step();
    }

    /// Steps until the newest configuration is planned and priced.
    #[track_caller]
    pub fn settle(&mut self) {
        self.harness.step();
        let start = Instant::now();
        while !self.session().settled() {
            self.harness.step();
            assert!(start.elapsed() < Duration::from_secs(60), "the plan does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.harness.step();
    }

    /// The label of a node that begins with this.
    pub fn label(&self, start: &str) -> Option<String> {
        let nodes = self.harness.query_all_by_label_contains(start);
        nodes.filter_map(|n| n.accesskit_node().label()).find(|l| l.starts_with(start))
    }

    pub fn put_away_notices(&mut self) {
        for n in self.session().view().notices.clone() {
            self.act(Action::PutAway(n.id));
        }
    }
}
