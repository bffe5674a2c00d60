//! What goes wrong while a run goes on: it is said, nothing that was done is lost, and the window lives.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]
#![allow(unsafe_code, reason = "system calls")]

mod desk;

use std::path::Path;

use desk::{Desk, LONG, SHORT, copy_of_model};
use ullage::window::{Start, history};
use ullage_core::job::fault::{self, Fault};
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_panels::Action;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

fn long(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    LONG.iter().chain(more).copied().collect()
}

/// Why the run of a folder failed, and how many tokens it wrote.
fn replayed(folder: &Path) -> (Option<String>, usize) {
    let live = history::replay(folder).unwrap();
    let written = &live.written[0];
    (live.error().map(|e| e.message.clone()), written.tokens.len() - written.prompt)
}

#[test]
fn a_panic_in_the_engine_ends_the_run_and_nothing_else() {
    let mut desk = Desk::new(None);
    desk.ready_after(&long(&[("run.prompt", "A defect in the middle")]));
    desk.writing();
    fault::arm("A defect in the middle", Fault::Panic);
    let view = desk.until("the end", |v| !v.status.running);
    let said = desk.failures().join("\n");
    assert!(said.contains("The run failed") && said.contains("please report it"), "{said}");
    assert!(said.contains("a fault that was asked for"), "{said}");
    assert!(view.text.sequences[0].tokens.len() > view.text.sequences[0].prompt + 5 && !view.timeline.live);
    let (error, written) = replayed(&desk.folder());
    assert!(error.unwrap().contains("report it") && written > 5, "what was written before is kept");
    desk.still_alive();
}

#[test]
fn a_device_that_is_lost_ends_the_run_and_keeps_what_it_wrote() {
    let mut desk = Desk::new(None);
    desk.ready_after(&long(&[("run.prompt", "A device in trouble")]));
    desk.writing();
    fault::arm("A device in trouble", Fault::Device);
    desk.until("the end", |v| !v.status.running);
    let said = desk.failures().join("\n");
    assert!(said.contains("The run failed") && said.contains("ILLEGAL_ADDRESS"), "{said}");
    let (error, written) = replayed(&desk.folder());
    assert!(error.unwrap().contains("the GPU failed") && written > 5, "what was written before is kept");
    desk.still_alive();
}

#[test]
fn a_model_cut_short_before_the_run_is_named_with_what_to_do() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("mine.gguf");
    copy_of_model(&path);
    let mut desk = Desk::within(room, Some(Start::Path(path.display().to_string())));
    desk.until("the model", |v| v.top.model.path.ends_with("mine.gguf"));
    desk.ready_after(&SHORT);
    let half = std::fs::metadata(&path).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(half).unwrap();
    desk.run();
    let said = desk.failures().join("\n");
    assert!(said.contains("became shorter") && said.contains("mine.gguf"), "{said}");
    assert!(said.contains("open the model again"), "{said}");
    desk.still_alive();
}

#[test]
fn a_model_cut_short_while_it_streams_from_the_disk_ends_the_run_with_what_it_wrote() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("mine.gguf");
    copy_of_model(&path);
    let mut desk = Desk::within(room, Some(Start::Path(path.display().to_string())));
    desk.until("the model", |v| v.top.model.path.ends_with("mine.gguf"));
    desk.ready_after(&long(&[("place.weights", "stream")]));
    desk.writing();
    let half = std::fs::metadata(&path).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(half).unwrap();
    let view = desk.until("the end", |v| !v.status.running);
    let said = desk.failures().join("\n");
    assert!(said.contains("became shorter") && said.contains("mine.gguf") && said.contains("open the model"), "{said}");
    assert!(view.text.sequences[0].tokens.len() > view.text.sequences[0].prompt + 5);
    assert!(replayed(&desk.folder()).1 > 5);
    desk.still_alive();
}

/// A file that was deleted stays readable to whoever has it open, where the system is one of those.
#[cfg(unix)]
#[test]
fn a_model_deleted_while_it_streams_is_read_to_the_end() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("mine.gguf");
    copy_of_model(&path);
    let mut desk = Desk::within(room, Some(Start::Path(path.display().to_string())));
    desk.until("the model", |v| v.top.model.path.ends_with("mine.gguf"));
    desk.ready_after(&[
        ("place.weights", "stream"),
        ("run.max_tokens", "300"),
        ("run.context", "400"),
        ("run.ignore_eos", "true"),
        ("budget.device", "unlimited"),
    ]);
    desk.writing();
    std::fs::remove_file(&path).unwrap();
    let view = desk.until("the end", |v| !v.status.running);
    assert_eq!(desk.failures(), Vec::<String>::new());
    assert_eq!(view.text.sequences[0].tokens.len() - view.text.sequences[0].prompt, 300);
    desk.still_alive();
}

#[test]
fn a_run_folder_that_vanishes_is_said_and_the_run_goes_to_its_end() {
    let mut desk = Desk::new(None);
    desk.ready_after(&[
        ("run.max_tokens", "400"),
        ("run.context", "512"),
        ("run.ignore_eos", "true"),
        ("budget.device", "unlimited"),
    ]);
    desk.writing();
    std::fs::remove_dir_all(desk.folder()).unwrap();
    let view = desk.until("the end", |v| !v.status.running);
    let said = desk.failures().join("\n");
    assert!(said.contains("The run is not saved") && said.contains("runs"), "{said}");
    assert!(view.top.measured.is_some_and(|m| !m.live), "it ended well");
    assert_eq!(view.text.sequences[0].tokens.len() - view.text.sequences[0].prompt, 400);
    desk.still_alive();
}

/// A disk that takes no more: files of this process may grow to 48 KiB and no further. It needs a process of its own.
#[cfg(unix)]
#[test]
fn a_full_disk_is_said_and_the_run_goes_to_its_end() {
    const CHILD: &str = "ULLAGE_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_none() {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["a_full_disk_is_said_and_the_run_goes_to_its_end", "--exact", "--test-threads=1"]).env(CHILD, "1");
        let done = test.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    // SAFETY: both calls only change how this process is treated; the structure outlives the call that reads it.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: 48 << 10, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
    let mut desk = Desk::new(None);
    desk.ready_after(&[
        ("run.max_tokens", "900"),
        ("run.context", "1024"),
        ("run.ignore_eos", "true"),
        ("budget.device", "unlimited"),
    ]);
    let view = desk.run();
    let said = desk.failures().join("\n");
    assert!(said.contains("The run is not saved") && said.contains("events.jsonl"), "{said}");
    assert!(said.contains("It goes on") && !said.contains("internal error"), "{said}");
    assert!(view.top.measured.is_some_and(|m| !m.live), "it ended well");
    assert_eq!(view.text.sequences[0].tokens.len() - view.text.sequences[0].prompt, 900);
    // What the disk took is a run that opens.
    assert!(replayed(&desk.folder()).1 > 0);
    desk.still_alive();
}

#[test]
fn stopping_ends_a_run_in_every_phase() {
    let mut desk = Desk::new(None);
    // While the prompt is read: long enough that its end is not meant.
    let prompt = "the old lighthouse keeper counted the bottles that the sea brought him. ".repeat(120);
    desk.ready_after(&long(&[]));
    let sets = vec![("run.prompt".to_owned(), format!("{prompt:?}"))];
    desk.session.act(Action::Set { what: "a prompt".into(), sets, gesture: None });
    desk.ready_after(&[("run.batch", "16")]);
    desk.session.act(Action::Run);
    desk.until("the prompt", |v| v.status.running && v.status.doing == "reading the prompt");
    desk.session.act(Action::Stop);
    let view = desk.until("the end in prefill", |v| !v.status.running);
    assert_eq!((view.text.summary.as_str(), desk.failures()), ("stopped", Vec::new()));
    // While it writes, and while it waits for a command.
    for paused in [false, true] {
        desk.writing();
        if paused {
            desk.session.act(Action::Pause);
            desk.until("the pause", |v| v.status.paused);
        }
        desk.session.act(Action::Stop);
        let view = desk.until("the end in decode", |v| !v.status.running);
        assert_eq!((view.text.summary.as_str(), desk.failures()), ("stopped", Vec::new()));
    }
    // While it learns.
    desk.session.act(Action::Mode("train".into()));
    desk.ready_after(&[("train.steps", "100000"), ("train.batch", "2"), ("train.length", "64")]);
    desk.session.act(Action::Run);
    desk.until("a step", |v| v.status.progress.is_some_and(|(done, _)| done >= 1) && v.status.doing == "training");
    desk.session.act(Action::Stop);
    desk.until("the end of training", |v| !v.status.running);
    assert_eq!(desk.failures(), Vec::<String>::new());
    assert!(replayed_kind(&desk.folder()).contains("cancelled"));
}

fn replayed_kind(folder: &Path) -> String {
    history::replay(folder).unwrap().error().map(|e| e.kind.clone()).unwrap_or_default()
}

#[test]
fn closing_keeps_the_folder_of_a_run_that_waits_and_of_one_that_learns() {
    let mut desk = Desk::new(None);
    desk.ready_after(&long(&[]));
    desk.writing();
    desk.session.act(Action::Pause);
    desk.until("the pause", |v| v.status.paused);
    desk.session.close();
    let folder = desk.folder();
    assert!(folder.join("report.json").is_file() && replayed(&folder).1 > 5);

    let mut desk = Desk::new(None);
    desk.until("the model", |v| v.top.predicted.is_some());
    desk.session.act(Action::Mode("train".into()));
    desk.ready_after(&[
        ("train.steps", "100000"),
        ("train.batch", "2"),
        ("train.length", "64"),
        ("budget.device", "unlimited"),
    ]);
    desk.session.act(Action::Run);
    desk.until("a step", |v| v.status.speed.is_some());
    desk.session.close();
    let folder = desk.folder();
    assert!(folder.join("report.json").is_file());
    let live = history::replay(&folder).unwrap();
    assert!(live.report.train.is_some_and(|t| t.steps > 0), "its steps are kept");
}
