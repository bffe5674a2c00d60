//! What the program writes for its user, by one rule: it is looked at before the work starts, it is never written over what is
//! read or over what the program did not write, and by one process at a time; whole or not at all is [`crate::atomic_write`]'s.
//!
//! Whoever is about to work for a file says so with a [`Claim`] and keeps it until the file is there. What was written is
//! remembered in a small file of the same folder, [`MANIFEST`]; while it is written, a lock file stands beside it, whose lock
//! goes with the process, however that ends.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic_write;
use crate::bytes::hex;
use crate::error::{Error, Result};

/// The file of a folder that remembers what the program wrote there.
pub const MANIFEST: &str = ".ullage";

/// Bytes at either end of a file that its mark is made of.
const ENDS: u64 = 64 << 10;
/// Most bytes of a manifest that is read.
const LONGEST: u64 = 4 << 20;

/// What an output must not touch, and what its user insists on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// Files and folders that are read.
    pub inputs: Vec<PathBuf>,
    /// `--force`: files that the program did not write are replaced.
    pub force: bool,
}

/// A place that is being written. Others are refused until it is dropped.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    // Held, and removed when it is dropped.
    _lock: Lock,
}

impl Claim {
    /// Claims `names` in `folder`, which is made where it is not there; a name that ends in `/` is a folder of files. `what`
    /// names the lock: two claims of different names that may stand beside each other. `known` are those that are known for the
    /// program's own by their content.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that is read, that the program did not write and nobody insists on, or that another
    /// process writes; [`Error::Io`].
    pub fn new(folder: &Path, what: &str, names: &[&str], known: &[&str], care: &Care) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot make the folder", &e))?;
        let lock = Lock::take(&folder.join(format!(".{what}.lock")))
            .map_err(|e| Error::io(folder, format!("cannot write {what} here"), &e))?;
        let lock = lock.map_err(|process| {
            let by = if process.is_empty() { String::new() } else { format!(" (process {process})") };
            Error::refused(
                format!("writing {what} in {}", folder.display()),
                format!("another run of this program{by} is writing there; wait for its end, or name another folder"),
            )
        })?;
        let written = Manifest::read(&folder.join(MANIFEST));
        for name in names {
            let kind = name.ends_with('/');
            let name = name.trim_end_matches('/');
            let path = folder.join(name);
            refuse_input(&path, &care.inputs)?;
            if path.exists() && path.is_dir() != kind {
                let [is, wanted] = if kind { ["a file", "a folder"] } else { ["a folder", "a file"] };
                return Err(Error::refused(
                    format!("writing {}", path.display()),
                    format!("it is {is}, and {wanted} goes there; move it away, or name another place"),
                ));
            }
            let foreign = if care.force || known.contains(&name) { None } else { written.foreign(&path, name) };
            if let Some(foreign) = foreign {
                return Err(Error::refused(
                    format!("writing {}", path.display()),
                    format!(
                        "{} is there, and this program did not write it, or it was changed since; move it away, name another place, or replace it with --force",
                        foreign.display()
                    ),
                ));
            }
            // Nobody else writes it now.
            atomic_write::sweep(&path);
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// Writes the claimed `name` through `write`, and remembers it for the program's own.
    ///
    /// # Errors
    /// What `write` returns; a manifest that cannot be written.
    pub fn write<T>(&self, name: &str, write: impl FnOnce() -> Result<T>) -> Result<T> {
        // Remembered before it is there: a process that ends in between leaves a file that is its own.
        let before = self.begin(name)?;
        let done = write();
        match &done {
            Ok(_) => self.finish(name),
            // What was there before is there still.
            Err(_) => {
                let _ = self.remember(|files| {
                    files.remove(name);
                    files.extend(before);
                });
            }
        }
        done
    }

    /// From now on `name` is the program's own, whatever is in it; returns what was remembered of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&self, name: &str) -> Result<Files> {
        let mut before = Files::new();
        self.remember(|files| {
            before = files.iter().filter(|(key, _)| belongs(key, name)).map(|(k, v)| (k.clone(), v.clone())).collect();
            files.insert(name.to_owned(), None);
        })?;
        Ok(before)
    }

    /// `name` is complete: the program's own as long as it stays as it is. Where that cannot be remembered, it stays the
    /// program's own whatever becomes of it.
    pub fn finish(&self, name: &str) {
        let now = contents(&self.folder.join(name), name);
        let _ = self.remember(|files| {
            files.retain(|key, _| !belongs(key, name));
            files.extend(now.into_iter().filter_map(|(key, path)| Some((key, Some(Mark::of(&path)?)))));
        });
    }

    fn remember(&self, change: impl FnOnce(&mut Files)) -> Result<()> {
        let path = self.folder.join(MANIFEST);
        Manifest::change(&path, change).map_err(|e| Error::io(&path, "cannot remember what is written here", &e))
    }
}

/// One file, or one folder of files, that is being written.
#[derive(Debug)]
pub struct Single {
    claim: Claim,
    name: String,
}

impl Single {
    /// Claims `path`, a folder of files where `folder` says so.
    ///
    /// # Errors
    /// As [`Claim::new`]; a path that names no file.
    pub fn claim(path: &Path, folder: bool, care: &Care) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::refused(format!("writing {}", path.display()), "it names no file"))?;
        let wanted = if folder { format!("{name}/") } else { name.clone() };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { claim: Claim::new(parent, &name, &[&wanted], &[], care)?, name })
    }

    /// Writes it through `write`, and remembers it for the program's own.
    ///
    /// # Errors
    /// As [`Claim::write`].
    pub fn write<T>(&self, write: impl FnOnce() -> Result<T>) -> Result<T> {
        self.claim.write(&self.name, write)
    }
}

/// What is remembered of files, by their names in the folder; nothing of one that is being written.
pub type Files = BTreeMap<String, Option<Mark>>;

/// Whether `key` is `name`, or a file of the folder `name`.
fn belongs(key: &str, name: &str) -> bool {
    key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
}

/// The files at `path`, itself or what it holds, by the names that a manifest gives them.
fn contents(path: &Path, name: &str) -> Vec<(String, PathBuf)> {
    if !path.is_dir() {
        return vec![(name.to_owned(), path.to_owned())];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| (format!("{name}/{}", e.file_name().to_string_lossy()), e.path())).collect()
}

/// Refuses to write where `path` is, or holds, something that is read.
fn refuse_input(path: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(target) = path.canonicalize() else { return Ok(()) };
    let ours: Vec<PathBuf> = contents(&target, "").into_iter().map(|(_, path)| path).collect();
    let read = inputs.iter().find(|input| {
        let Ok(whole) = input.canonicalize() else { return false };
        whole.starts_with(&target) || ours.iter().any(|path| same_file(path, &whole))
    });
    match read {
        None => Ok(()),
        Some(input) => Err(Error::refused(
            format!("writing {}", path.display()),
            format!("it would overwrite {}, which is read for it; name another place", input.display()),
        )),
    }
}

/// Whether two paths lead to one file, by whatever links.
#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What a file was when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its length.
    bytes: u64,
    /// SHA-256 of its first and last 64 KiB.
    ends: String,
}

impl Mark {
    fn of(path: &Path) -> Option<Self> {
        // Not through links: what one leads to was not written here.
        if !fs::symlink_metadata(path).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?;
        let bytes = file.metadata().ok()?.len();
        let (mut hash, mut end) = (Sha256::new(), Vec::with_capacity(bytes.min(ENDS) as usize));
        for from in [0, bytes.saturating_sub(ENDS)] {
            end.clear();
            file.seek(SeekFrom::Start(from)).ok()?;
            (&mut file).take(ENDS).read_to_end(&mut end).ok()?;
            hash.update(&end);
        }
        Some(Self { bytes, ends: hex(&hash.finalize()) })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    about: String,
    files: Files,
}

impl Manifest {
    /// One that is not there or is damaged remembers nothing.
    fn read(path: &Path) -> Self {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Changes what is remembered; others who want to wait for it, which is short.
    fn change(path: &Path, change: impl FnOnce(&mut Files)) -> std::io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        // Without locks two at once may forget each other's files, which are then asked for with --force.
        let _ = file.lock();
        let mut text = Vec::new();
        (&mut file).take(LONGEST).read_to_end(&mut text)?;
        let mut manifest: Self = serde_json::from_slice(&text).unwrap_or_default();
        manifest.about = "files here that ullage wrote, and may write again".into();
        change(&mut manifest.files);
        let text = serde_json::to_vec_pretty(&manifest)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)
    }

    /// A file at `path` that the program did not write, or not as it is now; a link, or a folder within, is one.
    fn foreign(&self, path: &Path, name: &str) -> Option<PathBuf> {
        fs::symlink_metadata(path).ok()?;
        // One that was being written when its process ended.
        if matches!(self.files.get(name), Some(None)) {
            return None;
        }
        let ours = |(key, path): &(String, PathBuf)| match self.files.get(key) {
            Some(Some(mark)) => Mark::of(path).as_ref() == Some(mark),
            Some(None) => true,
            None => false,
        };
        contents(path, name).into_iter().find(|file| !ours(file)).map(|(_, path)| path)
    }
}

/// A lock file, held as long as this is.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    // The system lets go of it when it is closed, by whatever end of the process.
    _file: File,
}

impl Lock {
    /// Takes the lock, or says which process has it.
    fn take(path: &Path) -> std::io::Result<Result<Self, String>> {
        loop {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut process = String::new();
                    let _ = file.take(20).read_to_string(&mut process);
                    return Ok(Err(process.trim().to_owned()));
                }
                // Some file systems know no locks: there everything else still holds.
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // The one before may have removed it between opening and locking: then this is a lock on nothing.
            if still_there(&file, path) {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Ok(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked, so that nobody's lock is removed but this one.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn still_there(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path, text: &str) -> Result<()> {
        atomic_write::bytes(path, text.as_bytes())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_it_wrote_is_replaced_and_what_it_did_not_write_only_when_insisted_on() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("deep/out.gguf");
        let claim = |force: bool| Single::claim(&path, false, &Care { force, ..Care::default() });
        for content in ["one", "two"] {
            claim(false).unwrap().write(|| text(&path, content)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(path.parent().unwrap()), [MANIFEST, "out.gguf"], "no lock is left");
        // Changed by somebody, in its middle or by another file of its name.
        fs::write(&path, "tw0").unwrap();
        let error = claim(false).unwrap_err().to_string();
        assert!(error.contains("out.gguf") && error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "tw0");
        claim(true).unwrap().write(|| text(&path, "three")).unwrap();
        claim(false).unwrap();
        // A write that fails changes neither the file nor whose it is.
        let failed = claim(false).unwrap().write(|| Err::<(), _>(Error::Cancelled));
        assert!(matches!(failed, Err(Error::Cancelled)) && claim(false).is_ok());
        fs::write(&path, "four").unwrap();
        assert!(claim(false).is_err(), "it is known by its content still");
        // A folder in a file's place is never replaced.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(claim(true).unwrap_err().to_string().contains("it is a folder"));
    }

    #[test]
    fn a_process_that_ends_while_it_writes_leaves_what_is_its_own() {
        let room = tempfile::tempdir().unwrap();
        let claim = || Claim::new(room.path(), "run", &["events.jsonl"], &[], &Care::default());
        let first = claim().unwrap();
        first.begin("events.jsonl").unwrap();
        fs::write(room.path().join("events.jsonl"), "1\n2").unwrap();
        drop(first);
        let second = claim().unwrap();
        second.finish("events.jsonl");
        drop(second);
        claim().unwrap();
        fs::write(room.path().join("events.jsonl"), "mine").unwrap();
        claim().unwrap_err();
        // A manifest that is damaged remembers nothing, and is whole after the next write.
        fs::write(room.path().join(MANIFEST), "{").unwrap();
        fs::write(room.path().join("b"), "x").unwrap();
        Claim::new(room.path(), "b", &["b"], &[], &Care::default()).unwrap_err();
        let forced = Care { force: true, ..Care::default() };
        Claim::new(room.path(), "b", &["b"], &[], &forced).unwrap().finish("b");
        Claim::new(room.path(), "b", &["b"], &[], &Care::default()).unwrap();
    }

    #[test]
    fn a_folder_is_its_own_file_by_file() {
        let room = tempfile::tempdir().unwrap();
        let (folder, name) = (room.path().join("model"), "model");
        let claim =
            |force: bool| Claim::new(room.path(), "training", &["model/"], &[], &Care { force, ..Care::default() });
        fs::create_dir(&folder).unwrap();
        let write = |claim: Claim| {
            claim.write(name, || {
                let new = atomic_write::Folder::new(&folder, |n| n == "config.json")?;
                text(&new.file("config.json"), "{}")?;
                new.commit()
            })
        };
        // An empty folder is nobody's.
        write(claim(false).unwrap()).unwrap();
        write(claim(false).unwrap()).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        let error = claim(false).unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("--force"), "{error}");
        write(claim(true).unwrap()).unwrap();
        assert_eq!(names(&folder), ["config.json", "notes.txt"], "insisted on, and still not lost");
        fs::remove_file(folder.join("notes.txt")).unwrap();
        fs::write(folder.join("config.json"), "{ }").unwrap();
        claim(false).unwrap_err();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "a file").unwrap();
        assert!(claim(true).unwrap_err().to_string().contains("it is a file"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_read_is_not_written_by_any_name_or_link_however_insisted_on() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        fs::create_dir_all(at("hf/inner")).unwrap();
        for name in ["m.gguf", "other.gguf", "hf/config.json", "hf/inner/x"] {
            fs::write(at(name), "model").unwrap();
        }
        fs::hard_link(at("m.gguf"), at("hard.gguf")).unwrap();
        std::os::unix::fs::symlink(at("m.gguf"), at("soft.gguf")).unwrap();
        std::os::unix::fs::symlink(at("hf"), at("hf-link")).unwrap();
        let refused = |out: &str, folder: bool, input: &str| {
            let care = Care { inputs: vec![at(input)], force: true };
            Single::claim(&at(out), folder, &care).err().map(|e| e.to_string())
        };
        for (out, folder, input) in [
            ("m.gguf", false, "m.gguf"),
            ("hf/../m.gguf", false, "m.gguf"),
            ("hard.gguf", false, "m.gguf"),
            ("soft.gguf", false, "m.gguf"),
            ("m.gguf", false, "soft.gguf"),
            ("hf", true, "hf"),
            ("hf-link", true, "hf/config.json"),
            ("hf", true, "hf/inner/x"),
            ("hf/config.json", false, "hf/config.json"),
        ] {
            let error = refused(out, folder, input).unwrap_or_else(|| panic!("{out} is not {input}"));
            assert!(error.contains("which is read"), "{error}");
        }
        assert_eq!(refused("other.gguf", false, "m.gguf"), None);
        assert_eq!(refused("new.gguf", false, "m.gguf"), None);
        // A link to what is not read is somebody's all the same.
        std::os::unix::fs::symlink(at("other.gguf"), at("link.gguf")).unwrap();
        let care = Care::default();
        Single::claim(&at("link.gguf"), false, &care).unwrap_err();
    }

    #[test]
    fn one_writes_at_a_time_and_a_lock_goes_with_its_holder() {
        let room = tempfile::tempdir().unwrap();
        let claim = |what: &str| Claim::new(room.path(), what, &["x"], &[], &Care::default());
        let first = claim("training").unwrap();
        let error = claim("training").unwrap_err().to_string();
        let (folder, process) = (room.path().display().to_string(), std::process::id().to_string());
        assert!(error.contains(&folder) && error.contains(&process) && error.contains("another run"), "{error}");
        claim("run").unwrap();
        drop(first);
        claim("training").unwrap();
        // What a killed process left is no lock.
        fs::write(room.path().join(".training.lock"), "123").unwrap();
        drop(claim("training").unwrap());
        assert_eq!(names(room.path()), Vec::<String>::new());
    }

    #[test]
    fn threads_that_race_for_a_lock_hold_it_one_at_a_time() {
        let room = tempfile::tempdir().unwrap();
        let (path, held) = (room.path().join(".a.lock"), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut got = 0;
                    while got < 200 {
                        let Ok(lock) = Lock::take(&path).unwrap() else { continue };
                        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                        got += 1;
                    }
                });
            }
        });
    }

    /// A disk that is full at any point of a write: what was there stays, nothing is left beside it, and the error says where
    /// and what to do.
    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_part() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("report.json");
        let claim = || Single::claim(&path, false, &Care::default()).unwrap();
        claim().write(|| text(&path, "old")).unwrap();
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = claim().write(|| {
            atomic_write::file(&path, |out| {
                out.write_all(b"ne").unwrap();
                Err(Error::io(&path, "cannot write", &full))
            })
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("report.json") && error.contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(room.path()), [MANIFEST, "report.json"]);
        claim();
    }
}
