//! What is remembered between starts. A damaged or foreign file is put aside, never the end of the program.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ullage_core::atomic_write;
use ullage_core::{Error, Result};

/// A file larger than this is something else.
const LIMIT: u64 = 4 << 20;
/// Models remembered.
const RECENT: usize = 12;

/// A model opened before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// What to open.
    pub path: String,
    /// How it calls itself.
    pub name: String,
    /// Bytes of its file.
    pub bytes: u64,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// Models, the newest first.
    pub recent: Vec<Recent>,
    /// The last configuration as TOML; empty on the first start.
    pub config: String,
    /// The other machine planned for.
    pub plan_for: String,
    /// Inner size of the window and where it stood, in points.
    pub size: Option<[f32; 2]>,
    /// Its corner.
    pub position: Option<[f32; 2]>,
    /// The workbench's own state.
    pub layout: serde_json::Value,
}

impl Remembered {
    /// Puts a model at the front of the recent ones.
    pub fn opened(&mut self, recent: Recent) {
        self.recent.retain(|r| r.path != recent.path);
        self.recent.insert(0, recent);
        self.recent.truncate(RECENT);
    }
}

/// `$XDG_DATA_HOME/ullage`, `~/.local/share/ullage`, `%LOCALAPPDATA%\ullage`: runs and what is remembered.
pub fn data_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let windows = || if cfg!(windows) { absolute("LOCALAPPDATA") } else { None };
    absolute("XDG_DATA_HOME")
        .or_else(windows)
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("ullage")
}

/// The file under a data folder.
pub fn file(data: &Path) -> PathBuf {
    data.join("window.json")
}

/// Reads what is remembered: nothing when there is no such file. The second value says what was wrong with one that cannot be
/// used; it then lies beside its place under another name.
pub fn load(path: &Path) -> (Remembered, Option<String>) {
    let read = || -> std::result::Result<Option<Remembered>, String> {
        let length = match std::fs::metadata(path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        if length > LIMIT {
            return Err("it is larger than 4 MiB".into());
        }
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| e.to_string())
    };
    match read() {
        Ok(remembered) => (remembered.unwrap_or_default(), None),
        Err(why) => {
            let aside = path.with_extension("json.damaged");
            let kept = match std::fs::rename(path, &aside) {
                Ok(()) => format!(" It is kept as {}.", aside.display()),
                Err(_) => String::new(),
            };
            (Remembered::default(), Some(format!("{} cannot be read: {why}.{kept}", path.display())))
        }
    }
}

/// Writes it, whole or not at all.
///
/// # Errors
/// The file system's.
pub fn save(path: &Path, remembered: &Remembered) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot make the folder of what is remembered", &e))?;
    }
    let json = serde_json::to_vec_pretty(remembered)
        .map_err(|e| Error::Internal(format!("writing what is remembered: {e}")))?;
    atomic_write::bytes(path, &json)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_saved_comes_back_and_damage_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir.path().join("new/folder"));
        assert_eq!(load(&path), (Remembered::default(), None), "a first start is no damage");
        let mut r = Remembered { config: "schema = 1".into(), size: Some([800.0, 600.0]), ..Remembered::default() };
        for i in 0..20 {
            r.opened(Recent { path: format!("/m{}", i % 15), ..Recent::default() });
        }
        assert_eq!((r.recent.len(), r.recent[0].path.as_str()), (RECENT, "/m4"));
        save(&path, &r).unwrap();
        assert_eq!(load(&path), (r, None));
        for damage in [&b"{ \"recent\": 3 }"[..], b"\xff\xfe nonsense", b""] {
            std::fs::write(&path, damage).unwrap();
            let (fresh, why) = load(&path);
            assert_eq!(fresh, Remembered::default());
            assert!(why.unwrap().contains("window.json"));
            assert!(!path.exists() && path.with_extension("json.damaged").exists());
        }
        // Fields of another version are left alone, missing ones take their default.
        std::fs::write(&path, b"{\"plan_for\": \"x\", \"colour\": 3}").unwrap();
        assert_eq!(load(&path).0.plan_for, "x");
    }
}
