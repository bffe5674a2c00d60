//! Files and folders that appear whole or not at all: written beside their place, put on the disk, then renamed into it.
#![allow(unsafe_code, reason = "system calls")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

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
    }
}

/// Writes the file `path` through `fill`, replacing what is there once the new one is complete and on the disk.
///
/// # Errors
/// [`Error::Io`], and what `fill` returns; then the target is as it was.
pub fn file(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let io = |e: &std::io::Error| Error::io(path, "cannot write", e);
    let part = Leftover(beside(path));
    let mut out = BufWriter::with_capacity(32 << 10, File::create_new(&part.0).map_err(|e| io(&e))?);
    fill(&mut out)?;
    out.flush().map_err(|e| io(&e))?;
    out.get_ref().sync_all().map_err(|e| io(&e))?;
    drop(out);
    fs::rename(&part.0, path).map_err(|e| io(&e))?;
    sync_folder(parent(path));
    Ok(())
}

/// A folder in the making.
pub struct Folder {
    part: Leftover,
    target: PathBuf,
}

impl Folder {
    /// Begins the folder `target`. One that is there already is replaced at [`Self::commit`], if it holds nothing but
    /// files that `ours` knows by name: it is not for a program to delete what somebody else put there.
    ///
    /// # Errors
    /// [`Error::Io`], a target that is a file, or one that holds something else.
    pub fn new(target: &Path, ours: impl Fn(&str) -> bool) -> Result<Self> {
        let io = |e: &std::io::Error| Error::io(target, "cannot write the folder", e);
        if target.exists() {
            for entry in fs::read_dir(target).map_err(|e| io(&e))? {
                let entry = entry.map_err(|e| io(&e))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !ours(&name) || entry.path().is_dir() {
                    let message = format!("it holds `{name}`, which would be lost; choose another folder");
                    return Err(Error::Io { path: target.into(), action: "cannot replace the folder".into(), message });
                }
            }
        }
        let folder = parent(target);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot make the folder", &e))?;
        let part = Leftover(beside(target));
        fs::create_dir(&part.0).map_err(|e| io(&e))?;
        Ok(Self { part, target: target.into() })
    }

    /// Where the file `name` goes until the folder is whole.
    pub fn file(&self, name: &str) -> PathBuf {
        self.part.0.join(name)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Io`]; then the target is as it was.
    pub fn commit(self) -> Result<()> {
        let io = |e: &std::io::Error| Error::io(&self.target, "cannot write the folder", e);
        sync_folder(&self.part.0);
        if self.target.exists() {
            exchange(&self.part.0, &self.target).map_err(|e| io(&e))?;
        } else {
            fs::rename(&self.part.0, &self.target).map_err(|e| io(&e))?;
        }
        sync_folder(parent(&self.target));
        // After an exchange what was there before has the temporary name, and goes with it.
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
    let old = Leftover(beside(target));
    fs::rename(target, &old.0)?;
    fs::rename(new, target).inspect_err(|_| {
        let _ = fs::rename(&old.0, target);
    })
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
    fn a_folder_is_replaced_whole_and_never_with_what_is_not_ours() {
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
        fs::write(target.join("notes.txt"), "mine").unwrap();
        let error = make("3", "a", true).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
    }
}
