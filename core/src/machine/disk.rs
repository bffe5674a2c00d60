//! How fast the disk is: a temporary file of ours, read past the page cache where the system lets us, and through it.
#![allow(unsafe_code, reason = "system calls")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::link::Link;
use crate::error::{Error, Result};
use crate::ledger::{Category, Ledger, Tag};

/// What the disk under the cache folder can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// The folder that was probed.
    pub path: PathBuf,
    /// Bytes free for us there; none where the system does not say.
    pub free: Option<u64>,
    /// Bytes a second read front to back in large requests, past the page cache.
    pub sequential: f64,
    /// Bytes a second written and synced.
    pub write: f64,
    /// Random reads of 4 to 512 KiB past the page cache, one at a time.
    pub random: Link,
    /// The same reads when the file is already in the page cache.
    pub warm: Link,
    /// Why the page cache could not be passed by; then `sequential` and `random` are warm figures too.
    pub note: Option<String>,
}

/// Sizes of random reads, in bytes.
pub(super) const CHUNKS: [u64; 4] = [4 << 10, 16 << 10, 64 << 10, 512 << 10];
/// Sequential reads and writes go in requests of this size.
const LARGE: usize = 4 << 20;
/// What direct reads must be aligned to, in the file and in memory; 4096 serves every common disk.
const SECTOR: usize = 4096;
/// The most the temporary file may take.
const FILE_BYTES: u64 = 256 << 20;

/// Bytes the caller's ledger must grant [`probe`].
pub(super) const fn scratch_bytes() -> usize {
    LARGE + SECTOR
}

/// Probes the disk under `folder` (made if it is missing) within about `limit`.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written, [`Error::Cancelled`]. The file is gone in every case.
pub(super) fn probe(
    folder: &Path,
    ledger: &Arc<Ledger>,
    limit: Duration,
    progress: &mut dyn FnMut(&str, f32),
    cancelled: &dyn Fn() -> bool,
) -> Result<Disk> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot make the cache folder", &e))?;
    let free = free_bytes(folder);
    // Never more than an eighth of what is free, in whole large requests, and at least one of the largest chunk.
    let room = free.map_or(FILE_BYTES, |free| (free / 8).min(FILE_BYTES)) / LARGE as u64 * LARGE as u64;
    if room == 0 {
        let full = io::Error::new(io::ErrorKind::StorageFull, "less than 32 MiB free: too little to probe");
        return Err(Error::io(folder, "cannot probe the disk", &full));
    }
    let mut buffer = ledger.buffer(Tag::host(Category::Workspace, "disk probe"), scratch_bytes())?;
    let bytes = buffer.as_mut_slice::<u8>();
    let skip = bytes.as_ptr().align_offset(SECTOR).min(SECTOR);
    let block = &mut bytes[skip..skip + LARGE];

    let temporary = Temporary::new(folder)?;
    let path = temporary.0.as_path();
    progress("disk: write", 0.0);
    let (size, write) = fill(path, room, block, limit / 3, cancelled)?;

    progress("disk: sequential read", 0.35);
    let buffered = File::open(path).map_err(|e| Error::io(path, "cannot read", &e))?;
    let (direct, note) = match open_direct(path).and_then(|file| read_at(&file, block, 0).map(|()| file)) {
        Ok(file) => (Some(file), None),
        Err(error) => (None, Some(format!("the page cache could not be passed by ({error}): warm figures"))),
    };
    let cold = direct.as_ref().unwrap_or(&buffered);
    let failed = |e: io::Error| Error::io(path, "cannot read", &e);
    let began = Instant::now();
    let mut read = 0;
    while read < size && began.elapsed() < limit / 6 {
        stop_if(cancelled)?;
        read_at(cold, block, read).map_err(failed)?;
        read += block.len() as u64;
    }
    let sequential = read as f64 / began.elapsed().as_secs_f64().max(1e-9);

    let each = limit / 24;
    let mut random = |file: &File, from: f32, progress: &mut dyn FnMut(&str, f32)| -> Result<Link> {
        let mut times = Vec::new();
        for (i, chunk) in CHUNKS.into_iter().enumerate() {
            stop_if(cancelled)?;
            progress("disk: random reads", from + 0.07 * i as f32);
            let t = random_read_seconds(file, size, &mut block[..chunk as usize], each).map_err(failed)?;
            times.push((chunk, t));
        }
        Link::from_times(&times).ok_or_else(|| Error::Internal("the disk probe measured no time".into()))
    };
    let random_link = random(cold, 0.45, progress)?;
    // The page cache may hold nothing yet, or little of it: every page is touched once first.
    let mut at = 0;
    let mut large = vec![0; 32 << 10];
    let began = Instant::now();
    while at < size && began.elapsed() < limit / 6 {
        stop_if(cancelled)?;
        read_at(&buffered, &mut large, at).map_err(failed)?;
        at += large.len() as u64;
    }
    let warm = random(&buffered, 0.72, progress)?;
    Ok(Disk { path: folder.to_path_buf(), free, sequential, write, random: random_link, warm, note })
}

fn stop_if(cancelled: &dyn Fn() -> bool) -> Result<()> {
    if cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Writes up to `room` bytes that do not compress, synced piece by piece so that `limit` holds on a slow disk too;
/// the bytes written, a multiple of `block`'s length, and how many a second.
fn fill(path: &Path, room: u64, block: &mut [u8], limit: Duration, cancelled: &dyn Fn() -> bool) -> Result<(u64, f64)> {
    let failed = |e: io::Error| Error::io(path, "cannot write", &e);
    let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let mut random = SplitMix(0x5eed);
    let (mut written, mut spent) = (0, Duration::ZERO);
    while written < room && (written == 0 || spent < limit) {
        stop_if(cancelled)?;
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let began = Instant::now();
        file.write_all(block).and_then(|()| file.sync_data()).map_err(failed)?;
        spent += began.elapsed();
        written += block.len() as u64;
    }
    Ok((written, written as f64 / spent.as_secs_f64().max(1e-9)))
}

/// Mean seconds of one read of `chunk`'s length at random aligned places of the file's first `size` bytes.
fn random_read_seconds(file: &File, size: u64, chunk: &mut [u8], limit: Duration) -> io::Result<f64> {
    let slots = (size / chunk.len() as u64).max(1);
    let mut random = SplitMix(chunk.len() as u64);
    let began = Instant::now();
    let mut reads = 0u32;
    while reads < 8 || (began.elapsed() < limit && reads < 4000) {
        read_at(file, chunk, random.next() % slots * chunk.len() as u64)?;
        reads += 1;
    }
    Ok(began.elapsed().as_secs_f64() / f64::from(reads))
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(not(unix))]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}

/// Opens a file for reads that go past the page cache.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no O_DIRECT"))
}

/// Bytes a program without privileges can still write under `folder`.
#[cfg(unix)]
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` ends in a NUL and lives through the call; `stat` is room for the one struct it writes.
    let done = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) };
    if done != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it filled the struct.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "32 bits wide on some systems")]
    Some(stat.f_bavail as u64 * stat.f_frsize as u64)
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// A file that goes when this does, whatever happens in between.
struct Temporary(PathBuf);

impl Temporary {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("probe-{}.tmp", std::process::id()));
        // A probe of ours that was killed may have left one under a number that has come round again.
        let _ = fs::remove_file(&path);
        File::create_new(&path).map_err(|e| Error::io(&path, "cannot create", &e))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Steele, Lea and Flood, *Fast splittable pseudorandom number generators* (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(0, scratch_bytes() as u64, 0)
    }

    #[test]
    fn a_probe_measures_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made/by/it");
        let mut seen = Vec::new();
        let disk = probe(&folder, &ledger(), Duration::from_millis(300), &mut |_, f| seen.push(f), &|| false).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!((disk.random.defect(), disk.warm.defect()), (None, None));
        assert!(disk.sequential > 0.0 && disk.write > 0.0 && disk.free.unwrap() > 0, "{disk:?}");
        assert!(seen.is_sorted() && seen.iter().all(|f| (0.0..=1.0).contains(f)), "{seen:?}");
        // A small read that misses the cache cannot be faster than one that hits it.
        if disk.note.is_none() {
            assert!(disk.random.fetch_seconds(1, 4096) > disk.warm.fetch_seconds(1, 4096), "{disk:?}");
        }
    }

    #[test]
    fn cancelled_anywhere_it_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for after in [0, 1, 3, 6] {
            let asked = std::cell::Cell::new(0);
            let stop = || asked.replace(asked.get() + 1) >= after;
            let result = probe(dir.path(), &ledger(), Duration::from_millis(100), &mut |_, _| {}, &stop);
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("cache");
        let result = probe(&below, &ledger(), Duration::from_millis(100), &mut |_, _| {}, &|| false);
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
        assert_eq!(free_bytes(&below), None);
    }

    #[test]
    fn random_places_differ_and_stay_inside() {
        let mut random = SplitMix(1);
        let places: std::collections::BTreeSet<u64> = (0..1000).map(|_| random.next() % 4096).collect();
        assert!(places.len() > 800 && places.iter().all(|p| *p < 4096));
    }
}
