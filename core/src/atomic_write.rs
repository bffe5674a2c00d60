//! Files and folders that appear whole or not at all: written beside their place, put on the disk, then renamed into it. In a job
//! their bytes are counted before they are there ([`crate::ledger::files`]).
#![allow(unsafe_code, reason = "system calls")]

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::ledger::{Reservation, files};

/// A name beside `path` that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts names themselves on the disk, where the system allows it; what they name is there already.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Removes what it names when dropped; after a rename there is nothing left to remove.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        files::removed(&self.0);
    }
}

/// A file whose length is counted before it grows; what is written over what is there costs nothing.
#[derive(Debug)]
pub struct Counted {
    file: File,
    /// Where the next byte goes, and how far what was granted reaches.
    at: u64,
    reach: u64,
    room: Option<Reservation>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let end = self.at.saturating_add(bytes.len() as u64);
        if end > self.reach {
            if let Some(room) = &mut self.room {
                room.grow(end - self.reach).map_err(|e| std::io::Error::other(files::refused(e)))?;
            }
            self.reach = end;
        }
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

/// Where the bytes of a file in the making go.
pub type Out = BufWriter<Counted>;

/// A file in the making, beside its place; dropped before [`Self::commit`], it leaves no trace.
pub struct Pending {
    // Closed before what it names is removed.
    out: Out,
    part: Leftover,
    target: PathBuf,
}

impl Pending {
    /// Begins the file `path`, written through a buffer of `buffer` bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::OverBudget`].
    pub fn begin(path: &Path, buffer: usize) -> Result<Self> {
        let room = files::begin()?;
        let part = Leftover(beside(path));
        let file = File::create_new(&part.0).map_err(|e| Error::io(path, "cannot write", &e))?;
        let file = Counted { file, at: 0, reach: 0, room };
        Ok(Self { out: BufWriter::with_capacity(buffer, file), part, target: path.into() })
    }

    /// Where its bytes go.
    pub fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// Puts it on the disk, lets `check` read it back, and gives it its name, replacing what is there.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::OverBudget`], and what `check` returns; then the target is as it was.
    pub fn commit(mut self, check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let io = |e: &std::io::Error| Error::io(&self.target, "cannot write", e);
        self.out.flush().map_err(|e| io(&e))?;
        self.out.get_ref().file.sync_all().map_err(|e| io(&e))?;
        check(&self.part.0)?;
        fs::rename(&self.part.0, &self.target).map_err(|e| io(&e))?;
        if let Some(room) = self.out.get_mut().room.take() {
            files::finished(&self.target, room);
        }
        sync_folder(parent(&self.target));
        Ok(())
    }
}

/// Writes the file `path` through `fill`, replacing what is there once the new one is complete and on the disk.
///
/// # Errors
/// [`Error::Io`], [`Error::OverBudget`], and what `fill` returns; then the target is as it was.
pub fn file(path: &Path, fill: impl FnOnce(&mut Out) -> Result<()>) -> Result<()> {
    let mut new = Pending::begin(path, 32 << 10)?;
    fill(new.out())?;
    new.commit(|_| Ok(()))
}

/// Writes `bytes` as the file `path`, whole or not at all.
///
/// # Errors
/// [`Error::Io`], [`Error::OverBudget`]; then the target is as it was.
pub fn bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    file(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, "cannot write", &e)))
}

/// Removes what a killed process left beside `path` of a file or folder in the making. Only for one who knows that nobody
/// else writes it now.
pub fn sweep(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(parent(path))) else { return };
    let head = format!(".{}.", name.to_string_lossy());
    let made = |name: &str| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let middle = name.strip_prefix(&head).and_then(|rest| rest.strip_suffix(".part"));
        middle.and_then(|m| m.split_once('-')).is_some_and(|(process, n)| number(process) && number(n))
    };
    for entry in entries.flatten().filter(|e| made(&e.file_name().to_string_lossy())) {
        drop(Leftover(entry.path()));
    }
}

/// A folder in the making.
pub struct Folder<'a> {
    part: Leftover,
    target: PathBuf,
    ours: Box<dyn Fn(&str) -> bool + 'a>,
}

impl<'a> Folder<'a> {
    /// Begins the folder `target`. One that is there already is replaced at [`Self::commit`]; what it holds beside the files
    /// that `ours` knows by name stays in it: it is not for a program to delete what somebody else put there.
    ///
    /// # Errors
    /// [`Error::Io`]; a target that is a file.
    pub fn new(target: &Path, ours: impl Fn(&str) -> bool + 'a) -> Result<Self> {
        let io = |e: &std::io::Error| Error::io(target, "cannot write the folder", e);
        if target.exists() {
            fs::read_dir(target).map_err(|e| io(&e))?;
        }
        let folder = parent(target);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot make the folder", &e))?;
        let part = Leftover(beside(target));
        fs::create_dir(&part.0).map_err(|e| io(&e))?;
        Ok(Self { part, target: target.into(), ours: Box::new(ours) })
    }

    /// Where the file `name` goes until the folder is whole.
    pub fn file(&self, name: &str) -> PathBuf {
        self.part.0.join(name)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Io`]; then the target is as it was, or, where a file of somebody else could not be moved back into it, that
    /// file lies in a folder beside it, which the error names.
    pub fn commit(self) -> Result<()> {
        let Self { part, target, ours } = self;
        let io = |e: &std::io::Error| Error::io(&target, "cannot write the folder", e);
        sync_folder(&part.0);
        if target.exists() {
            exchange(&part.0, &target).map_err(|e| io(&e))?;
        } else {
            fs::rename(&part.0, &target).map_err(|e| io(&e))?;
        }
        files::renamed(&part.0, &target);
        // After an exchange what was there before has the temporary name, and goes with it.
        for entry in fs::read_dir(&part.0).into_iter().flatten().flatten() {
            let (name, at) = (entry.file_name(), entry.path());
            if ours(&name.to_string_lossy()) && !at.is_dir() {
                continue;
            }
            if let Err(e) = fs::rename(&at, target.join(&name)) {
                let error = Error::io(&at, "cannot move back what was in the folder before", &e);
                std::mem::forget(part);
                return Err(error);
            }
        }
        sync_folder(parent(&target));
        Ok(())
    }
}

/// Swaps two folders in one step, so that there is no moment without either.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = |p: &Path| std::ffi::CString::new(p.as_os_str().as_bytes()).map_err(std::io::Error::other);
    let (from, to) = (name(a)?, name(b)?);
    // SAFETY: both are strings that end in a zero and outlive the call.
    let done =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_EXCHANGE) };
    if done == 0 { Ok(()) } else { in_two_steps(a, b) }
}

#[cfg(not(target_os = "linux"))]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    in_two_steps(a, b)
}

/// For file systems that cannot exchange: the old folder is moved away, and back if the new one cannot take its place.
fn in_two_steps(new: &Path, target: &Path) -> std::io::Result<()> {
    let old = beside(target);
    fs::rename(target, &old)?;
    fs::rename(new, target).inspect_err(|_| {
        let _ = fs::rename(&old, target);
    })?;
    // As after an exchange.
    fs::rename(&old, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        file(&path, |out| out.write_all(b"one").map_err(|e| Error::io("x", "", &e))).unwrap();
        let failed = file(&path, |out| {
            out.write_all(b"two").map_err(|e| Error::io("x", "", &e))?;
            Err(Error::Cancelled)
        });
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn the_wall_stops_a_file_before_its_bytes_are_there_and_what_is_rewritten_counts_once() {
        use crate::ledger::{Ledger, Tier, files::accounted};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let ledger = Ledger::new(0, 0, 1000);
        let write = |n: usize| {
            file(&path, |out| {
                let io = |e: std::io::Error| Error::io("x", "cannot write", &e);
                out.write_all(&vec![b'-'; n]).map_err(io)?;
                // A header written last.
                out.seek(SeekFrom::Start(0)).map_err(io)?;
                out.write_all(&[b'+'; 100]).map_err(io)
            })
        };
        accounted(&ledger, || {
            write(600).unwrap();
            assert_eq!((ledger.held(Tier::Disk), fs::metadata(&path).unwrap().len()), (600, 600));
            // Both are there until the new one takes the old one's place.
            let error = write(401).unwrap_err();
            let Error::OverBudget(over) = &error else { panic!("{error}") };
            assert_eq!((over.needed, over.available, error.exit_code()), (1001, 400, 3));
            assert!(over.hint.as_ref().unwrap().contains("budget.disk"), "{error}");
            assert_eq!((ledger.held(Tier::Disk), fs::metadata(&path).unwrap().len()), (600, 600));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
            write(400).unwrap();
            assert_eq!((ledger.held(Tier::Disk), fs::metadata(&path).unwrap().len()), (400, 400));
            // Folders by their files.
            let target = folder.path().join("f");
            for (n, commit, after) in [(500, true, 900), (100, false, 900), (100, true, 500)] {
                let new = Folder::new(&target, |_| true).unwrap();
                bytes(&new.file("a"), &vec![0; n]).unwrap();
                if commit {
                    new.commit().unwrap();
                } else {
                    drop(new);
                }
                assert_eq!(ledger.held(Tier::Disk), after);
            }
        });
        assert_eq!(ledger.held(Tier::Disk), 0);
        write(5000).unwrap();
    }

    #[test]
    fn a_folder_is_replaced_whole_and_what_is_not_ours_stays_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep").join("adapter");
        let ours = |name: &str| name == "a" || name == "b";
        let make = |text: &str, name: &str, commit: bool| -> Result<()> {
            let new = Folder::new(&target, ours)?;
            fs::write(new.file(name), text).unwrap();
            if commit { new.commit() } else { Ok(()) }
        };
        make("1", "a", true).unwrap();
        make("2", "b", false).unwrap();
        assert!(target.join("a").exists() && !target.join("b").exists());
        make("2", "b", true).unwrap();
        assert!(!target.join("a").exists() && target.join("b").exists());
        // What somebody else put there stays, folders of any name too.
        fs::write(target.join("notes.txt"), "mine").unwrap();
        fs::create_dir(target.join("b.d")).unwrap();
        make("3", "a", true).unwrap();
        assert_eq!(fs::read_to_string(target.join("notes.txt")).unwrap(), "mine");
        assert!(target.join("a").exists() && !target.join("b").exists() && target.join("b.d").is_dir());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
        // Where a file system cannot exchange, the outcome is the same.
        let new = target.with_file_name("new");
        fs::create_dir(&new).unwrap();
        in_two_steps(&new, &target).unwrap();
        assert!(new.join("notes.txt").exists() && !target.join("notes.txt").exists());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        for name in ["m.gguf", ".m.gguf.12-0.part", ".m.gguf.12.part", ".m.gguf.a-0.part", "m.gguf.12-0.part"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join(".m.gguf.7-3.part")).unwrap();
        sweep(&path);
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort_unstable();
        assert_eq!(left, [".m.gguf.12.part", ".m.gguf.a-0.part", "m.gguf", "m.gguf.12-0.part"]);
    }
}
