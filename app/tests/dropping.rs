//! Files dropped on the window, and what becomes of a dialog's answer.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod desk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use desk::screen::Screen;
use desk::{Desk, SHORT, copy_of_model};
use egui_kittest::kittest::Queryable as _;
use ullage::window::files::Answer;
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_panels::Action;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

#[derive(Debug)]
struct Dropped(PathBuf);

impl egui::DroppedFile for Dropped {
    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        panic!("the window opens files by path, away from its thread")
    }
}

fn drop_files(screen: &mut Screen, paths: &[&Path]) {
    for path in paths {
        screen.harness.input_mut().dropped_files.push(Arc::new(Dropped(path.to_path_buf())));
    }
    screen.harness.step();
}

/// What a failure says, on screen and in the view.
#[track_caller]
fn refused(screen: &mut Screen, path: &Path) -> String {
    screen.put_away_notices();
    drop_files(screen, &[path]);
    screen.until_view("the refusal", |v| v.notices.iter().any(|n| n.failure));
    screen.harness.step();
    let notice = screen.session().view().notices.iter().find(|n| n.failure).unwrap().clone();
    assert!(screen.harness.query_all_by_label_contains(&notice.title).next().is_some(), "{notice:?} is on screen");
    format!("{}: {}", notice.title, notice.detail)
}

/// A window that has its first plan.
fn window() -> Screen {
    let mut screen = Screen::new();
    screen.until_view("the first plan", |v| v.top.predicted.is_some());
    screen
}

#[test]
fn models_configurations_curves_and_runs_open_where_they_are_dropped() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    // A run folder of an earlier window.
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    desk.run();
    let run = desk.folder();

    let mut window = window();
    let model = at("dropped model.gguf");
    copy_of_model(&model);
    drop_files(&mut window, &[&model]);
    window.until_view("the model", |v| v.top.model.path == model.display().to_string() && v.top.predicted.is_some());

    std::fs::write(at("mine.toml"), "schema = 1\n[model]\npath = \"bundled:recall\"\n[run]\ncontext = 333\n").unwrap();
    drop_files(&mut window, &[&at("mine.toml")]);
    window.until_view("the configuration", |v| v.top.workload.iter().any(|f| f.value == 333));
    assert_eq!(window.session().config().model.path, "bundled:recall");

    std::fs::write(at("h200.csv"), "label,bytes,recall.accuracy\nall,12000000,0.99\n").unwrap();
    drop_files(&mut window, &[&at("h200.csv")]);
    window.until_view("the curve", |v| v.accuracy.series.iter().any(|s| s.name == "h200"));

    drop_files(&mut window, &[&run]);
    window.until_view("the run", |v| v.text.of_run.is_some());
    let name = run.file_name().unwrap().to_string_lossy().into_owned();
    let of_run = window.session().view().text.of_run.clone().unwrap();
    assert!(of_run.contains(&name), "{of_run}");

    // Several at once: each is opened.
    std::fs::write(at("l4.csv"), "label,bytes,recall.accuracy\nall,12000000,0.98\n").unwrap();
    std::fs::write(at("next.toml"), "schema = 1\n[run]\ncontext = 444\n").unwrap();
    drop_files(&mut window, &[&at("l4.csv"), &at("next.toml")]);
    window.until_view("both", |v| {
        v.accuracy.series.iter().any(|s| s.name == "l4") && v.top.workload.iter().any(|f| f.value == 444)
    });
    assert!(window.session().view().notices.iter().all(|n| !n.failure));
}

#[test]
fn nonsense_is_refused_by_name_and_changes_nothing() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let mut window = window();
    let config = window.session().config().clone();
    std::fs::write(at("holiday.jpeg"), [0xFF, 0xD8, 0xFF, 0xE0, 0, 16, b'J', b'F', b'I', b'F']).unwrap();
    std::fs::write(at("empty.gguf"), []).unwrap();
    std::fs::write(at("wrong.toml"), "schema = 1\n[run]\ncontext = \"long\"\n").unwrap();
    std::fs::write(at("words.csv"), "a,b\n1,2\n").unwrap();
    std::fs::create_dir(at("photos")).unwrap();
    for (name, word) in [
        ("holiday.jpeg", "gguf"),
        ("empty.gguf", "empty.gguf"),
        ("wrong.toml", "run.context"),
        ("words.csv", "bytes"),
        ("photos", "photos"),
        ("gone.gguf", "gone.gguf"),
    ] {
        let said = refused(&mut window, &at(name));
        assert!(said.contains(name) && said.to_lowercase().contains(word), "{name}: {said}");
        assert_eq!(*window.session().config(), config, "{name}");
    }
    // A file dropped after all of these opens.
    window.put_away_notices();
    copy_of_model(&at("mine.gguf"));
    drop_files(&mut window, &[&at("mine.gguf")]);
    window.until_view("the model", |v| v.top.model.path.ends_with("mine.gguf") && v.top.predicted.is_some());
}

#[test]
fn files_held_over_the_window_say_what_dropping_does() {
    let mut window = window();
    let before = window.harness.output().shapes.len();
    window
        .harness
        .input_mut()
        .hovered_files
        .push(egui::HoveredFile { path: Some("m.gguf".into()), ..Default::default() });
    window.harness.step();
    assert!(window.harness.output().shapes.len() > before, "the veil and its words");
}

#[test]
fn a_dialogs_answer_is_opened_or_written_and_none_changes_nothing() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    let config = desk.session.config().clone();
    let answer = |desk: &Desk, answer| desk.answers.lock().unwrap().push(answer);

    // Put away without an answer.
    desk.session.act(Action::OpenDialog);
    desk.session.act(Action::CopyToml);
    let model = desk.room.path().join("chosen.gguf");
    copy_of_model(&model);
    // The next one can be asked only when the last is answered.
    let start = Instant::now();
    loop {
        answer(&desk, Answer::Path(model.clone()));
        desk.session.act(Action::OpenDialog);
        std::thread::sleep(Duration::from_millis(50));
        desk.session.tick();
        if desk.session.view().top.model.path.ends_with("chosen.gguf") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(desk.session.config().run, config.run);

    // Where nothing can be written: said with the path, and nothing is left behind.
    desk.answers.lock().unwrap().clear();
    let nowhere = desk.room.path().join("missing/folder/mine.toml");
    answer(&desk, Answer::Path(nowhere.clone()));
    desk.session.act(Action::ExportDialog);
    let view = desk.until("the refusal", |v| v.notices.iter().any(|n| n.failure));
    let notice = view.notices.iter().find(|n| n.failure).unwrap();
    assert!(notice.title.contains("mine.toml") && notice.detail.contains("untouched"), "{notice:?}");
    assert!(!nowhere.exists());

    // A system without dialogs: opening says what to do instead, saving goes to a folder that it names.
    for n in view.notices {
        desk.session.act(Action::PutAway(n.id));
    }
    answer(&desk, Answer::NoDialogs);
    desk.session.act(Action::OpenDialog);
    desk.until("the advice", |v| v.notices.iter().any(|n| n.detail.contains("drop the file on the window")));
    answer(&desk, Answer::NoDialogs);
    desk.session.act(Action::SaveFile { name: "timeline.csv".into(), content: "seconds\n1\n".into() });
    let view = desk.until("the file", |v| v.notices.iter().any(|n| n.title == "Saved"));
    let path = view.notices.iter().find(|n| n.title == "Saved").unwrap().detail.clone();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "seconds\n1\n");
    assert!(Path::new(&path).starts_with(desk.room.path().join("data/exports")));
}

#[test]
fn a_picture_of_the_screen_is_written_as_png() {
    let mut desk = Desk::new(None);
    desk.until("the model", |v| v.top.predicted.is_some());
    let path = desk.room.path().join("timeline.png");
    desk.will_choose(&path);
    desk.session.shutter()("timeline.png".into(), [2, 1], vec![255, 0, 0, 255, 0, 0, 255, 255]);
    desk.until("the file", |v| v.notices.iter().any(|n| n.title == "Saved"));
    let image = image::open(&path).unwrap().to_rgba8();
    assert_eq!((image.dimensions(), image.get_pixel(1, 0).0), ((2, 1), [0, 0, 255, 255]));
}
