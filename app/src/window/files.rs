//! What touches the disk and the system's dialogs, away from the window.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ullage_core::atomic_write;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::ledger::Tier;
use ullage_core::machine::{Machine, Memory};
use ullage_core::plan::Plan;
use ullage_core::report::Report;
use ullage_core::report::protocol::ModelCard;
use ullage_core::{Error, Result};
use ullage_panels::words;

use super::clock;
use super::history;
use super::message::{FileMessage, Message};
use super::store::{self, Remembered};
use super::worker::{Outbox, Trouble};

/// What a dialog is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A file to open.
    Open,
    /// Where to save, with a name to suggest.
    Save(String),
}

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This file.
    Path(PathBuf),
    /// Nothing.
    Cancelled,
    /// This system has no dialogs.
    NoDialogs,
}

/// Asks a person for a file.
pub type Asker = Arc<dyn Fn(&Ask) -> Answer + Send + Sync>;

/// The system's own dialogs. They run on a thread of ours: on Linux they are another program's, reached over D-Bus.
pub fn system_dialogs() -> Asker {
    Arc::new(|ask| {
        if !has_dialogs() {
            return Answer::NoDialogs;
        }
        let dialog = rfd::FileDialog::new();
        let path = match ask {
            Ask::Open => dialog
                .set_title("Open a model, a configuration or a curve")
                .add_filter("Models, configurations, curves", &["gguf", "safetensors", "json", "toml", "csv"])
                .add_filter("All files", &["*"])
                .pick_file(),
            Ask::Save(name) => {
                let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or("toml").to_owned();
                dialog.set_file_name(name).add_filter(extension.to_uppercase(), &[extension]).save_file()
            }
        };
        path.map_or(Answer::Cancelled, Answer::Path)
    })
}

/// On Linux a dialog needs the session bus (the portal) or zenity.
fn has_dialogs() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let bus = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some_and(|v| !v.is_empty());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| Path::new(&dir).join("bus").exists());
    let paths = std::env::var_os("PATH").unwrap_or_default();
    bus || runtime || std::env::split_paths(&paths).any(|dir| dir.join("zenity").is_file())
}

/// An order of the file thread.
pub enum FileRequest {
    /// The machine, and the runs there are.
    Begin,
    /// The runs there are.
    List,
    /// Delete a run.
    Delete(String),
    /// Replay a run.
    Replay(String),
    /// Replay two.
    Pair([String; 2]),
    /// Save what is remembered.
    Remember(Box<Remembered>),
    /// Show a folder with the system's file manager.
    Show(PathBuf),
}

/// An order of the dialog thread.
pub enum DialogRequest {
    /// Ask what to open.
    Open,
    /// Ask where to save this.
    SaveFile { name: String, content: Vec<u8> },
    /// Ask where to save a picture, which is encoded there.
    SavePng { name: String, size: [usize; 2], rgba: Vec<u8> },
}

/// NVIDIA GPUs by what the driver lists. CUDA may number different ones in another order: they have no model's name then.
fn gpus(listed: &Path) -> Vec<String> {
    let model = |dir: PathBuf| {
        let text = std::fs::read_to_string(dir.join("information")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("Model:"))?;
        Some(line.trim().to_owned())
    };
    let dirs = std::fs::read_dir(listed).into_iter().flatten().flatten();
    let names: Vec<String> = dirs.filter_map(|d| model(d.path())).collect();
    let same = names.iter().all(|n| Some(n) == names.first());
    let name = |(i, n): (usize, &String)| match (same, names.len()) {
        (true, 1) => n.clone(),
        (true, _) => format!("{n} ({i})"),
        (false, _) => format!("NVIDIA GPU {i}"),
    };
    names.iter().enumerate().map(name).collect()
}

/// The folder of what a run learned, where the program chose it: it goes with the run.
fn learned(run: &Path, runs: &Path) -> Option<PathBuf> {
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join("report.json")).ok()?).ok()?;
    let state = PathBuf::from(report.get("train")?.get("state")?.as_str()?);
    let (dir, home) = (state.parent()?, std::path::absolute(runs.parent()?.join("learned")).ok()?);
    (dir.parent()? == home && dir.is_dir()).then(|| dir.to_path_buf())
}

fn run_folder(runs: &Path, name: &str) -> Result<PathBuf> {
    // A name from the history is one part of a path; anything else is not followed.
    let plain = Path::new(name).file_name().is_some_and(|n| n == name);
    if plain { Ok(runs.join(name)) } else { Err(Error::config("the run's name", format!("`{name}` is no run folder"))) }
}

/// Does one order of the file thread.
pub fn work(request: FileRequest, runs: &Path, store_file: &Path, outbox: &Outbox<Message>) {
    let tell = |done: FileMessage| outbox.send(Message::Files(done));
    let failed = |title: &str, e: &dyn std::fmt::Display| {
        tell(FileMessage::Trouble(Trouble { title: title.to_owned(), detail: e.to_string() }));
    };
    match request {
        FileRequest::Begin => {
            let (machine, why) = Machine::load_or_guess();
            tell(FileMessage::Machine(Box::new(machine), why));
            if cfg!(feature = "cuda") {
                tell(FileMessage::Gpus(gpus(Path::new("/proc/driver/nvidia/gpus"))));
            }
            tell(FileMessage::Runs(history::list(runs)));
        }
        FileRequest::List => {
            tell(FileMessage::Memory(Memory::now()));
            tell(FileMessage::Runs(history::list(runs)));
        }
        FileRequest::Delete(name) => {
            let gone = run_folder(runs, &name).and_then(|dir| {
                // Only what is a run is deleted, whatever the name.
                let run = dir.join("events.jsonl").is_file() || dir.join("report.json").is_file();
                if !run {
                    return Err(Error::config(name.as_str(), "is no run folder (any more)"));
                }
                if let Some(learned) = learned(&dir, runs) {
                    std::fs::remove_dir_all(&learned).map_err(|e| Error::io(&learned, "cannot delete", &e))?;
                }
                std::fs::remove_dir_all(&dir).map_err(|e| Error::io(&dir, "cannot delete", &e))
            });
            if let Err(e) = gone {
                failed("The run was not deleted", &e);
            }
            tell(FileMessage::Runs(history::list(runs)));
        }
        FileRequest::Replay(name) => match run_folder(runs, &name).and_then(|dir| history::replay(&dir)) {
            Ok(live) => tell(FileMessage::Replay(Box::new(live))),
            Err(e) => failed("The run cannot be opened", &e),
        },
        FileRequest::Pair([a, b]) => {
            let one = |name: &str| run_folder(runs, name).and_then(|dir| history::replay(&dir));
            match one(&a).and_then(|a| Ok([a, one(&b)?])) {
                Ok(pair) => tell(FileMessage::Pair(Box::new(pair))),
                Err(e) => failed("The runs cannot be compared", &e),
            }
        }
        FileRequest::Remember(remembered) => {
            if let Err(e) = store::save(store_file, &remembered) {
                failed("Layout and recent models are not remembered", &e);
            }
        }
        FileRequest::Show(path) => {
            if let Err(e) = std::fs::create_dir_all(&path)
                .map_err(|e| e.to_string())
                .and_then(|()| ::opener::open(&path).map_err(|e| e.to_string()))
            {
                failed("The folder cannot be shown", &format!("{}: {e}", path.display()));
            }
        }
    }
}

/// Does one order of the dialog thread; without dialogs, files go to `fallback`.
pub fn dialog(request: DialogRequest, ask: &Asker, fallback: &Path, outbox: &Outbox<Message>) {
    let tell = |done: FileMessage| outbox.send(Message::Files(done));
    let failed =
        |title: String, e: &dyn std::fmt::Display| tell(FileMessage::Trouble(Trouble { title, detail: e.to_string() }));
    let (name, content) = match request {
        DialogRequest::Open => {
            match ask(&Ask::Open) {
                Answer::Path(path) => tell(FileMessage::PathToOpen(path)),
                Answer::Cancelled => {}
                Answer::NoDialogs => failed(
                    "This system has no file dialog".into(),
                    &"Type or paste the path where the model's name is, or drop the file on the window.",
                ),
            }
            return;
        }
        DialogRequest::SaveFile { name, content } => (name, Ok(content)),
        DialogRequest::SavePng { name, size, rgba } => (name, png(size, rgba)),
    };
    let content = match content {
        Ok(content) => content,
        Err(e) => return failed(format!("{name} was not saved"), &e),
    };
    let path = match ask(&Ask::Save(name.clone())) {
        Answer::Path(path) => path,
        Answer::Cancelled => return,
        Answer::NoDialogs => match free_name(fallback, &name) {
            Ok(path) => path,
            Err(e) => return failed(format!("{name} was not saved"), &e),
        },
    };
    match atomic_write::bytes(&path, &content) {
        Ok(()) => tell(FileMessage::SavedPath(path)),
        Err(e) => {
            failed(format!("{} was not saved", path.display()), &format!("{e}\nWhat was there before is untouched."))
        }
    }
}

fn free_name(folder: &Path, name: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot make the folder", &e))?;
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
    let named = |i: usize| folder.join(if i == 1 { name.to_owned() } else { format!("{stem}-{i}.{end}") });
    Ok((1..10_000).map(named).find(|p| !p.exists()).unwrap_or_else(|| named(10_000)))
}

fn png([width, height]: [usize; 2], rgba: Vec<u8>) -> Result<Vec<u8>> {
    let wrong = |e: &dyn std::fmt::Display| Error::Internal(format!("encoding the picture: {e}"));
    let image = image::RgbaImage::from_raw(width as u32, height as u32, rgba)
        .ok_or_else(|| wrong(&"its size is not its data's"))?;
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, image::ImageFormat::Png).map_err(|e| wrong(&e))?;
    Ok(out.into_inner())
}

/// A configuration as it is exported: what is known of it as comments, so that the file stays one the command line runs.
///
/// # Errors
/// Never for checked configurations.
pub fn export(
    config: &Config,
    model: Option<&ModelCard>,
    machine: &str,
    plan: Option<&Plan>,
    run: Option<(&str, &Report)>,
) -> Result<String> {
    let mut head = vec![format!("exported   {}", clock::now())];
    if let Some(m) = model {
        head.push(format!("model      {} ({}, {} parameters), {}", m.name, m.arch, m.parameters, m.hash));
    }
    head.push(format!("machine    {machine}"));
    let tiers = |peak: &dyn Fn(Tier) -> u64| {
        let held = Tier::ALL.iter().filter(|t| peak(**t) > 0);
        held.map(|t| format!("{t} {} ({} B)", words::bytes(peak(*t)), peak(*t))).collect::<Vec<_>>().join(", ")
    };
    if let Some(p) = plan {
        head.push(format!("predicted  peak {}", tiers(&|t| p.peak(t))));
        let t = &p.time;
        let guess = if t.probed { "" } else { " (guessed: the machine is not probed)" };
        head.push(format!(
            "predicted  prefill {:.1} tok/s, decode {:.1} tok/s{guess}",
            t.prefill_tokens_per_second, t.decode_tokens_per_second
        ));
    }
    if let Some((name, r)) = run {
        head.push(format!(
            "measured   peak {} in run {name}",
            tiers(&|t| r.measured.peak.get(&t).copied().unwrap_or(0))
        ));
        let s = &r.speed;
        head.push(format!(
            "measured   prefill {:.1} tok/s, decode {:.1} tok/s",
            s.prefill_tokens_per_second, s.decode_tokens_per_second
        ));
        head.extend(r.diverged().iter().map(|(what, place)| format!("measured   {what} diverged: {place}")));
        for (task, result) in &r.eval {
            for (name, value) in result.as_object().into_iter().flatten() {
                let said = value.as_f64().map(|v| history::said(&format!("{task}.{name}"), v)).unwrap_or_default();
                if !said.is_empty() {
                    head.push(format!("measured   {said}"));
                }
            }
        }
    }
    let head: String = head.iter().flat_map(|l| l.lines()).map(|l| format!("# {l}\n")).collect();
    let text = format!("{head}\n{}", config.to_toml()?);
    // What is given away means the same when it comes back.
    if from_toml(&text, &[])? != *config {
        return Err(Error::Internal("the exported configuration does not read back as it was".into()));
    }
    Ok(text)
}

/// Waits until `done` or the time is over.
pub fn wait_until(most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn told(f: impl FnOnce(&Outbox<Message>)) -> Vec<FileMessage> {
        let (outbox, inbox) = Outbox::new(Arc::new(|| ()));
        f(&outbox);
        inbox.try_iter().map(|m| if let Message::Files(done) = m { done } else { panic!() }).collect()
    }

    fn asks(answer: Answer) -> Asker {
        Arc::new(move |_| answer.clone())
    }

    #[test]
    fn a_save_that_fails_leaves_what_was_there_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        // A folder with something in it cannot be replaced: as with a full disk, the write fails at its end.
        let path = dir.path().join("taken.toml");
        std::fs::create_dir_all(path.join("inside")).unwrap();
        let save = || DialogRequest::SaveFile { name: "a.toml".into(), content: b"x".to_vec() };
        let done = told(|o| dialog(save(), &asks(Answer::Path(path.clone())), dir.path(), o));
        let [FileMessage::Trouble(Trouble { title, detail })] = &done[..] else { panic!() };
        assert!(title.contains("taken.toml") && detail.contains("untouched"), "{title} {detail}");
        assert!(path.join("inside").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left");
        // Nothing is written when nobody says where.
        assert!(told(|o| dialog(save(), &asks(Answer::Cancelled), dir.path(), o)).is_empty());
        // Without dialogs a name that is free is taken.
        for name in ["a.toml", "a-2.toml"] {
            let done = told(|o| dialog(save(), &asks(Answer::NoDialogs), dir.path(), o));
            let [FileMessage::SavedPath(path)] = &done[..] else { panic!() };
            assert_eq!(*path, dir.path().join(name));
        }
    }

    #[test]
    fn a_picture_is_a_png_of_its_size() {
        let bytes = png([2, 1], vec![255, 0, 0, 255, 0, 0, 255, 255]).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().to_rgba8();
        assert_eq!((image.dimensions(), image.get_pixel(1, 0).0), ((2, 1), [0, 0, 255, 255]));
        assert!(png([2, 2], vec![0; 4]).is_err());
    }

    #[test]
    fn gpus_have_their_names_unless_their_order_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        assert!(gpus(dir.path()).is_empty() && gpus(&dir.path().join("none")).is_empty());
        let put = |bus: &str, model: &str| {
            std::fs::create_dir_all(dir.path().join(bus)).unwrap();
            std::fs::write(dir.path().join(bus).join("information"), format!("Model: \t {model}\nIRQ: 3\n")).unwrap();
        };
        put("0000:01:00.0", "NVIDIA H100");
        assert_eq!(gpus(dir.path()), ["NVIDIA H100"]);
        put("0000:02:00.0", "NVIDIA H100");
        assert_eq!(gpus(dir.path()), ["NVIDIA H100 (0)", "NVIDIA H100 (1)"]);
        put("0000:03:00.0", "NVIDIA L4");
        assert_eq!(gpus(dir.path())[1], "NVIDIA GPU 1");
    }

    #[test]
    fn only_run_folders_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        std::fs::create_dir_all(runs.join("a")).unwrap();
        std::fs::create_dir_all(runs.join("mine")).unwrap();
        std::fs::write(runs.join("a/events.jsonl"), "").unwrap();
        std::fs::write(dir.path().join("events.jsonl"), "").unwrap();
        for (name, fails) in [("a", false), ("mine", true), ("..", true), ("../runs", true), ("", true)] {
            let done = told(|o| work(FileRequest::Delete(name.into()), &runs, &dir.path().join("w.json"), o));
            assert_eq!(done.iter().any(|d| matches!(d, FileMessage::Trouble(_))), fails, "{name}");
        }
        assert!(!runs.join("a").exists() && runs.join("mine").exists());
    }

    #[test]
    fn an_export_reads_back_exactly_and_carries_its_evidence() {
        let mut config = Config::default();
        config.budget.device = ullage_core::Bytes(12_345_678);
        config.kv.select = "h2o".into();
        config.run.prompt = "# not a comment\n\"quoted\" = 3".into();
        let model = ModelCard { name: "two\nlines".into(), hash: "sha256:ab".into(), ..ModelCard::default() };
        let text = export(&config, Some(&model), "a machine", None, None).unwrap();
        assert_eq!(from_toml(&text, &[]).unwrap(), config);
        assert!(
            text.contains("# model      two\n# lines")
                && text.contains("sha256:ab")
                && text.contains("# machine    a machine")
        );
    }
}
