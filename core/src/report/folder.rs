//! The run folder: config.toml, report.json, timeline.csv and events.jsonl. Events are written as they come, so a run that is
//! killed leaves what it told; everything else is written whole or not at all.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Report;
use crate::error::{Error, Result};
use crate::ledger::{Category, Tier};
use crate::report::protocol::{Event, Numbered};

/// Writes `bytes` to `path` whole or not at all.
///
/// # Errors
/// The file system's; what was there before stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&part);
        Error::io(path, "cannot write", &e)
    })
}

/// A run folder being written.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    events: BufWriter<fs::File>,
}

impl Folder {
    /// Makes the folder; one that already holds a run is refused.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot make the run folder", &e))?;
        let path = dir.join("events.jsonl");
        if path.exists() {
            return Err(Error::config("--out", format!("{} already holds a run; name another folder", dir.display())));
        }
        let file = fs::File::create(&path).map_err(|e| Error::io(&path, "cannot create", &e))?;
        Ok(Self { dir: dir.to_path_buf(), events: BufWriter::new(file) })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The file system's, such as a full disk.
    pub fn event(&mut self, event: &Numbered) -> Result<()> {
        self.events(std::slice::from_ref(event))
    }

    /// Appends events in their order, with one write to the disk for them all.
    ///
    /// # Errors
    /// The file system's, such as a full disk.
    pub fn events(&mut self, events: &[Numbered]) -> Result<()> {
        let path = self.dir.join("events.jsonl");
        let io = |e: std::io::Error| Error::io(&path, "cannot write", &e);
        let mut due = false;
        for event in events {
            serde_json::to_writer(&mut self.events, event).map_err(|e| match e.io_error_kind() {
                Some(kind) => io(kind.into()),
                None => Error::Internal(format!("writing an event: {e}")),
            })?;
            self.events.write_all(b"\n").map_err(io)?;
            // What may be dropped need not be on disk at once.
            due |= !matches!(
                event.event,
                Event::Memory { .. } | Event::Progress { .. } | Event::Attention { .. } | Event::HeadMap { .. }
            );
        }
        if due {
            self.events.flush().map_err(io)?;
        }
        Ok(())
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(mut self, report: &Report) -> Result<()> {
        self.events.flush().map_err(|e| Error::io(&self.dir, "cannot write events", &e))?;
        if let Some(config) = &report.config {
            write_whole(&self.dir.join("config.toml"), config.to_toml()?.as_bytes())?;
        }
        if let Some(config) = &report.config {
            write_whole(&self.dir.join("llama.cpp.txt"), super::llama::command(config).as_bytes())?;
        }
        write_whole(&self.dir.join("timeline.csv"), timeline_csv(report).as_bytes())?;
        let json =
            serde_json::to_vec_pretty(report).map_err(|e| Error::Internal(format!("writing the report: {e}")))?;
        write_whole(&self.dir.join("report.json"), &json)
    }
}

/// `seconds,step,tier.category,…`
fn timeline_csv(report: &Report) -> String {
    let columns: Vec<(Tier, Category)> = Tier::ALL
        .iter()
        .flat_map(|t| Category::ALL.iter().map(move |c| (*t, *c)))
        .filter(|(t, c)| report.timeline.iter().any(|m| m.held.0.get(t).is_some_and(|by| by.contains_key(c))))
        .collect();
    let mut out = String::from("seconds,step");
    for (t, c) in &columns {
        out.push_str(&format!(",{t}.{c}"));
    }
    out.push('\n');
    for m in &report.timeline {
        out.push_str(&format!("{:.6},{}", m.seconds, m.step));
        for (t, c) in &columns {
            out.push_str(&format!(",{}", m.held.0.get(t).and_then(|by| by.get(c)).copied().unwrap_or(0)));
        }
        out.push('\n');
    }
    out
}

/// Replays a run folder: its report, from its events alone. A run that was killed, or whose disk was full, may end in the
/// middle of a line: that last line is left out.
///
/// # Errors
/// A folder without events, or a damaged line before the last, named.
pub fn replay(dir: &Path) -> Result<Report> {
    let mut report = Report::default();
    events(dir, &mut |event| report.add(&event))?;
    Ok(report)
}

/// Tells each event of a run folder in order, as [`replay`] takes them.
///
/// # Errors
/// As [`replay`].
pub fn events(dir: &Path, each: &mut dyn FnMut(Numbered)) -> Result<()> {
    let path = dir.join("events.jsonl");
    let file = fs::File::open(&path).map_err(|e| Error::io(&path, "cannot open the run folder's events", &e))?;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    for i in 1.. {
        line.clear();
        let n =
            lines.read_until(b'\n', &mut line).map_err(|e| Error::io(&path, format!("cannot read line {i}"), &e))?;
        if n == 0 || line.last() != Some(&b'\n') {
            break;
        }
        match serde_json::from_slice::<Numbered>(&line) {
            Ok(event) => each(event),
            Err(e) => {
                return Err(Error::model(&path, format!("line {i}"), format!("is not an event of this version: {e}")));
            }
        }
    }
    Ok(())
}
