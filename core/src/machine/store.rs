//! Where the probed machine is kept, and how it gets there and back.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::{Machine, SCHEMA};
use crate::atomic_write;
use crate::error::{Error, Result};

/// A saved machine is a few kilobytes; a file larger than this is something else.
const FILE_LIMIT: u64 = 1 << 20;

/// The folder of the user's settings for Ullage: `$XDG_CONFIG_HOME/ullage`, `~/.config/ullage`, `%APPDATA%\ullage`.
pub fn config_dir() -> PathBuf {
    user_dir("XDG_CONFIG_HOME", ".config", "APPDATA", &|name| std::env::var_os(name))
}

/// The folder of what Ullage can make again: `$XDG_CACHE_HOME/ullage`, `~/.cache/ullage`, `%LOCALAPPDATA%\ullage`.
pub fn cache_dir() -> PathBuf {
    user_dir("XDG_CACHE_HOME", ".cache", "LOCALAPPDATA", &|name| std::env::var_os(name))
}

/// The XDG base directory rules; without a home, the system's folder for temporary files.
fn user_dir(xdg: &str, in_home: &str, windows: &str, var: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    // The rules say that a relative path is to be ignored.
    let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(xdg)
        .or_else(|| if cfg!(windows) { absolute(windows) } else { None })
        .or_else(|| Some(absolute("HOME")?.join(in_home)))
        .unwrap_or_else(std::env::temp_dir);
    base.join("ullage")
}

/// `$ULLAGE_MACHINE`, or `machine.json` among the user's settings.
pub(super) fn machine_file() -> PathBuf {
    match std::env::var_os("ULLAGE_MACHINE") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => config_dir().join("machine.json"),
    }
}

/// The machine saved at `path`; none when there is no such file; else why it cannot be used.
pub(super) fn load(path: &Path) -> std::result::Result<Option<Machine>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = String::new();
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_LIMIT {
        return Err("it is larger than 1 MiB".into());
    }
    // The version first: a file of another one may have other fields.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => return Err(format!("its schema is {schema}, this program reads {SCHEMA}")),
        None => return Err("it has no `schema`".into()),
    }
    let machine: Machine = serde_json::from_value(value).map_err(|error| error.to_string())?;
    machine.defect().map_or(Ok(Some(machine)), Err)
}

/// Refuses to replace what is no machine: a file at `path` that has neither the form of a saved one, of whichever version, nor
/// nothing in it. What cannot be read is left to the writing.
///
/// # Errors
/// [`Error::Refused`] with what to do.
pub(super) fn check(path: &Path) -> Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let mut text = Vec::new();
    if file.take(FILE_LIMIT + 1).read_to_end(&mut text).is_err() {
        return Ok(());
    }
    let ours = text.len() as u64 <= FILE_LIMIT
        && serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|value| {
            let part = |key: &str| value.get(key).is_some_and(serde_json::Value::is_object);
            value.get("schema").is_some_and(serde_json::Value::is_u64)
                && ["cpu", "memory", "speed"].into_iter().all(part)
        });
    if ours || text.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        format!("saving the machine in {}", path.display()),
        "what is there is no file of a machine; move it away, name another file in ULLAGE_MACHINE, or replace it with `ullage probe --force`",
    ))
}

/// Whole or not at all: a reader sees the old file or the new one, never a part.
pub(super) fn save(machine: &Machine, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(machine)
        .map_err(|error| Error::Internal(format!("the machine cannot be written as JSON: {error}")))?;
    text.push('\n');
    let failed = |action: &str, error: &std::io::Error| Error::io(path, action, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| failed("cannot make the folder of", &e))?;
    }
    atomic_write::bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Disk, Gpu, Link};

    /// Every field set, none at its guess. Ten digits at most: serde_json may read longer ones one unit off.
    fn machine() -> Machine {
        let mut machine = Machine::default_guess();
        machine.probed = true;
        machine.speed.read = [12_345_678_901.5, 33_333_333_333.25];
        machine.disk.random =
            Link { latency_s: 2.7e-5, queue_depth: 2.0, curve: vec![(4096, 661.5e6), (65536, 1.0586e9)] };
        (machine.disk.note, machine.disk.free) = (Some("nota bene".into()), Some(1));
        machine.gpus.push(Gpu {
            name: "one".into(),
            memory: 1 << 37,
            available: 1 << 36,
            read: 4.3e12,
            f32_flops: 6e13,
            bf16_flops: 8e14,
            launch_s: 2.5e-6,
            upload_pinned: Link::flat(1e-5, 5e10),
            upload: Link::flat(1e-5, 1e10),
            download: Link::flat(1e-5, 4e10),
        });
        machine
    }

    #[test]
    fn what_is_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/machine.json");
        let saved = machine();
        for _ in 0..2 {
            saved.save_to(&path).unwrap();
            assert_eq!(load(&path).unwrap().unwrap(), saved);
        }
        let (loaded, warning) = Machine::load_or_guess_from(&path);
        assert!(
            loaded.probed && warning.unwrap().contains("no times of kernels"),
            "a program before this one saved it"
        );
        let disk = Disk { free: loaded.disk.free, ..saved.disk.clone() };
        assert_eq!((&loaded.speed, &loaded.disk, &loaded.gpus), (&saved.speed, &disk, &saved.gpus));
        assert_ne!(loaded.disk.free, Some(1), "what is free is today's");
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["machine.json"], "nothing else is left there");
    }

    #[test]
    fn a_damaged_file_is_a_warning_and_a_guess() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.json");
        assert_eq!(Machine::load_or_guess_from(&path).1, None, "no file is nothing to warn of");
        let whole = serde_json::to_string(&machine()).unwrap();
        let changed = |from: &str, to: &str| {
            assert!(whole.contains(from), "{from}");
            whole.replacen(from, to, 1).into_bytes()
        };
        for (damaged, why) in [
            (Vec::new(), "EOF"),
            (whole.as_bytes()[..whole.len() / 2].to_vec(), "EOF"),
            (b"[]".to_vec(), "schema"),
            (vec![0xff, 0xfe, 0x00], "UTF-8"),
            (changed("\"schema\":1", "\"schema\":999"), "999"),
            (changed("\"probed\":true", "\"probed\":7"), "expected a boolean"),
            (changed("12345678901.5", "-1.0"), "speed.read"),
            (changed("\"latency_s\":", "\"latency_s\":-"), "latency"),
            (vec![b' '; 2 << 20], "1 MiB"),
        ] {
            fs::write(&path, &damaged).unwrap();
            let (guess, warning) = Machine::load_or_guess_from(&path);
            let warning = warning.unwrap_or_default();
            assert!(!guess.probed && warning.contains(why) && warning.contains("machine.json"), "{why}: {warning}");
        }
    }

    #[test]
    fn what_is_no_machine_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.json");
        check(&path).unwrap();
        let whole = serde_json::to_string(&machine()).unwrap();
        // One of another version, or with a figure that cannot be, is a machine's all the same.
        for ours in [whole.clone(), whole.replacen("\"schema\":1", "\"schema\":999", 1), String::new()] {
            fs::write(&path, &ours).unwrap();
            check(&path).unwrap();
        }
        let large = [&whole.as_bytes()[..whole.len() - 1], &vec![b' '; 2 << 20], b"}"].concat();
        for foreign in [b"mine".to_vec(), b"{}".to_vec(), b"{\"schema\":1}".to_vec(), vec![0xff, 0xfe], large] {
            fs::write(&path, &foreign).unwrap();
            let error = check(&path).unwrap_err();
            assert!(error.kind() == "refused" && error.to_string().contains("--force"), "{error}");
        }
        check(dir.path()).unwrap();
    }

    #[test]
    fn another_processors_figures_are_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.json");
        let mut other = machine();
        other.cpu.model = "Difference Engine".into();
        other.save_to(&path).unwrap();
        let (guess, warning) = Machine::load_or_guess_from(&path);
        assert!(!guess.probed && warning.unwrap().contains("Difference Engine"));
    }

    #[test]
    fn a_save_that_fails_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        // The target is a folder with something in it: the rename fails after the write.
        let path = dir.path().join("machine.json");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(matches!(machine().save_to(&path), Err(Error::Io { .. })));
        assert!(path.join("inside").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn folders_follow_the_rules() {
        let dir = |vars: &'static [(&str, &str)]| {
            let var = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v));
            user_dir("XDG_CONFIG_HOME", ".config", "APPDATA", &var)
        };
        assert_eq!(dir(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/ullage"));
        assert_eq!(dir(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]), Path::new("/h/.config/ullage"));
        assert_eq!(dir(&[("XDG_CONFIG_HOME", ""), ("HOME", "/h")]), Path::new("/h/.config/ullage"));
        assert_eq!(dir(&[]), std::env::temp_dir().join("ullage"));
    }
}
