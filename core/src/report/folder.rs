//! The run folder: config.toml, report.json, timeline.csv and events.jsonl. Events are written as they come, so a run that is
//! killed leaves what it told; everything else is written whole or not at all.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Report;
use crate::atomic_write;
use crate::error::{Error, Result};
use crate::ledger::files::{Output, Written, refused};
use crate::ledger::{Category, Ledger, Reservation, Tier};
use crate::output::{Care, Claim};
use crate::report::protocol::{Event, Numbered};

/// What a run folder holds of its own.
const FILES: [&str; 5] = [EVENTS, "report.json", "config.toml", "timeline.csv", "llama.cpp.txt"];
const EVENTS: &str = "events.jsonl";

/// What a plan allows for a run's folder. What a run tells depends on what happens in it and on how long it takes, so no formula is
/// exact; an ordinary run takes a tenth of it, and one that shows attention may take more: that counts as it is written.
const ALLOWANCE: u64 = 256 << 10;

/// What a run's folder is planned with.
pub fn written() -> Written {
    Written::new(Output::Folder, &[&[(ALLOWANCE, "B allowance")]])
}

/// A run folder being written.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    events: BufWriter<fs::File>,
    claim: Claim,
    /// What is written, where it counts.
    room: Option<RefCell<Reservation>>,
}

impl Folder {
    /// Makes the folder. One that already holds a run is refused, unless its user insists.
    ///
    /// # Errors
    /// The file system's; as [`Claim::new`].
    pub fn create(dir: &Path, care: &Care) -> Result<Self> {
        if dir.join(EVENTS).exists() && !care.force {
            let message = format!(
                "{} already holds a run; name another folder, or replace what is there with --force",
                dir.display()
            );
            return Err(Error::config("--out", message));
        }
        Self::again(dir, care)
    }

    /// Makes the folder, or takes one in the place of an earlier run, whose own files go; others stay.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn again(dir: &Path, care: &Care) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot make the run folder", &e))?;
        let path = dir.join(EVENTS);
        let claim = Claim::new(dir, "run", &FILES, &[], care)?;
        for old in FILES.iter().map(|name| dir.join(name)).filter(|old| old.exists()) {
            fs::remove_file(&old).map_err(|e| Error::io(&old, "cannot replace", &e))?;
        }
        claim.begin(EVENTS)?;
        let file = fs::File::create(&path).map_err(|e| Error::io(&path, "cannot create", &e))?;
        Ok(Self { dir: dir.to_path_buf(), events: BufWriter::new(file), claim, room: None })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on what is written counts on `ledger`, the one of the run it tells of.
    ///
    /// # Errors
    /// [`Error::OverBudget`].
    pub fn within(&mut self, ledger: &Arc<Ledger>) -> Result<()> {
        self.room = Some(RefCell::new(ledger.reserve(Output::Folder.tag(), 0)?));
        Ok(())
    }

    /// Counts `bytes` that are about to be written.
    fn take(&self, bytes: usize) -> Result<()> {
        self.room.as_ref().map_or(Ok(()), |room| room.borrow_mut().grow(bytes as u64).map_err(refused))
    }

    /// Writes `bytes` as the file `name` of the folder, whole or not at all.
    ///
    /// # Errors
    /// The file system's, or the wall's.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.take(bytes.len())?;
        self.claim.write(name, || atomic_write::bytes(&self.dir.join(name), bytes))
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The file system's, such as a full disk, or the wall's.
    pub fn event(&mut self, event: &Numbered) -> Result<()> {
        self.events(std::slice::from_ref(event))
    }

    /// Appends events in their order, with one write to the disk for them all.
    ///
    /// # Errors
    /// The file system's, such as a full disk, or the wall's.
    pub fn events(&mut self, events: &[Numbered]) -> Result<()> {
        let path = self.dir.join(EVENTS);
        let io = |e: std::io::Error| Error::io(&path, "cannot write", &e);
        let (mut due, mut line) = (false, Vec::new());
        for event in events {
            line.clear();
            serde_json::to_writer(&mut line, event).map_err(|e| Error::Internal(format!("writing an event: {e}")))?;
            line.push(b'\n');
            match self.take(line.len()) {
                // What only shows the present may be dropped.
                Err(Error::OverBudget(_)) if matches!(event.event, Event::Memory { .. } | Event::Progress { .. }) => {
                    continue;
                }
                taken => taken?,
            }
            self.events.write_all(&line).map_err(io)?;
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
        self.claim.finish(EVENTS);
        if let Some(config) = &report.config {
            self.put("config.toml", config.to_toml()?.as_bytes())?;
            self.put("llama.cpp.txt", super::llama::command(config).as_bytes())?;
        }
        self.put("timeline.csv", timeline_csv(report).as_bytes())?;
        let json =
            serde_json::to_vec_pretty(report).map_err(|e| Error::Internal(format!("writing the report: {e}")))?;
        self.put("report.json", &json)
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
    let path = dir.join(EVENTS);
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
