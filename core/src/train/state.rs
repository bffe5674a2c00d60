//! The training state: everything that a run needs to go on as if it had not stopped, in one safetensors file that is
//! written whole or not at all.
//!
//! Tensors are named after parameters: `param.NAME`, `state.SLOT.NAME`, `copy.NAME`; where the run stands is in the
//! metadata. Random numbers are functions of (seed, step, element), so no generator has a state to save.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::broken::{REMEDY, broken_in};
use super::engine::Trainer;
use super::learner::Param;
use crate::atomic_write;
use crate::blocks::BlockType;
use crate::device::{Buf, Device};
use crate::error::{Diverged, Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::files::{self, Output};

/// The file's name in a run's folder.
pub const FILE: &str = "training_state.safetensors";

/// Bytes carried at once between a file and a device.
const CARRY: usize = 32 << 10;
/// Most bytes of a header that is read.
const HEADER: u64 = 64 << 20;

/// Where a run stands, and what it is a run of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Updates made.
    pub step: u64,
    /// Rows of the data that were drawn.
    pub cursor: u64,
    /// `run.seed`.
    pub seed: u64,
    /// What data it learns from, by [`super::batch::Rows::fingerprint`].
    pub data: String,
    /// What the numbers of the model that training began from are known by (`Model::content`).
    pub model: String,
    /// The choices that the next losses depend on, as TOML.
    pub choices: String,
}

impl Standing {
    /// Checks that `self`, from a file, can go on as `now`, which says what was asked.
    ///
    /// # Errors
    /// Names every key that differs, with its two values.
    pub fn matches(&self, now: &Self, path: &Path) -> Result<()> {
        let mut differs = Vec::new();
        if self.model != now.model {
            differs.push(format!(
                "model.path names another model than the one the saved state began from (hash {} here and {} in the saved state)",
                short(&now.model),
                short(&self.model)
            ));
        }
        if self.data != now.data {
            differs.push(format!(
                "train.data gives other rows than those the saved state learned from ({} here and {} in the saved state)",
                short(&now.data),
                short(&self.data)
            ));
        }
        let (ours, theirs) = (keys(&now.choices), keys(&self.choices));
        let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let said = |of: &BTreeMap<String, String>, key| of.get(key).map_or("not set", String::as_str).to_owned();
        for key in all.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)) {
            differs.push(format!("{key} is {} here and {} in the saved state", said(&ours, key), said(&theirs, key)));
        }
        if self.seed != now.seed {
            differs.push(format!("run.seed is {} here and {} in the saved state", now.seed, self.seed));
        }
        if differs.is_empty() {
            return Ok(());
        }
        Err(Error::refused(
            "train.resume",
            format!(
                "{}; set it as it was to go on, or set train.resume=false and another train.out to begin anew\n  {}",
                differs.join("; "),
                path.display()
            ),
        ))
    }
}

/// The beginning of a hash, enough to tell two apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The values of the `[train]` section `text`, by dotted key.
fn keys(text: &str) -> BTreeMap<String, String> {
    fn walk(at: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    // The id of a choice stands under `use` in a table and alone without one.
                    walk(&if key == "use" { at.to_owned() } else { format!("{at}.{key}") }, value, out);
                }
            }
            value => drop(out.insert(at.to_owned(), value.to_string())),
        }
    }
    let mut out = BTreeMap::new();
    match text.parse::<toml::Table>() {
        Ok(table) => walk("train", &toml::Value::Table(table), &mut out),
        // Only a damaged file has one that is no TOML.
        Err(_) => drop(out.insert("train".into(), text.trim().to_owned())),
    }
    out
}

#[derive(Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

fn dtype(ty: BlockType) -> &'static str {
    if ty == BlockType::Bf16 { "BF16" } else { "F32" }
}

/// Every tensor of a state, by name, in order.
fn tensors(params: &[Param]) -> impl Iterator<Item = (String, &Buf, [usize; 2])> {
    params.iter().flat_map(|p| {
        let shape = [p.rows, p.cols];
        let state = p.slots.iter().zip(&p.state);
        let state = state.map(move |(s, buf)| (format!("state.{}.{}", s.name, p.name), buf, [s.rows, s.cols]));
        std::iter::once((format!("param.{}", p.name), &p.buf, shape))
            .chain(state)
            .chain(p.copy.iter().map(move |buf| (format!("copy.{}", p.name), buf, shape)))
    })
}

/// The file beside a state that holds the one before it.
fn before(path: &Path) -> PathBuf {
    path.with_extension("safetensors.before")
}

/// Keeps the state at `path`, where there is one, beside the next that is saved there: until a step has shown that the next is
/// good. A link, so that it takes no room and no time; on a file system without them nothing is kept.
pub fn keep_before(path: &Path) {
    proven(path);
    if std::fs::hard_link(path, before(path)).is_ok() {
        files::linked(path, &before(path));
    }
}

/// The state at `path` is good: the one before it may go.
pub fn proven(path: &Path) {
    let _ = std::fs::remove_file(before(path));
    files::removed(&before(path));
}

/// The state at `path` leads to no number: the one before it takes its place again. True where there was one.
pub fn take_back(path: &Path) -> bool {
    let done = std::fs::rename(before(path), path).is_ok();
    if done {
        files::renamed(&before(path), path);
    }
    done
}

/// Writes the state of `trainer` to `path`, whole or not at all: into a file beside it, to the disk, and then in its place. It is not cancelled.
///
/// # Errors
/// The file system's or the device's, or [`Error::Diverged`] when a value of it is no number; what was there before stays.
pub fn save(trainer: &Trainer, standing: &Standing, path: &Path) -> Result<()> {
    // A file's header and what passes through it are the program's, as everything that is written.
    let write = || atomic_write::file(path, |out| write(trainer, standing, path, out));
    scoped(Scope::Program, || files::writing(Output::State, write))
}

fn write(trainer: &Trainer, standing: &Standing, path: &Path, file: &mut impl Write) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, "cannot write the training state", &e);
    let mut header: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    let json = |e: serde_json::Error| Error::Internal(format!("writing a training state: {e}"));
    let mut at = 0u64;
    for (name, buf, shape) in tensors(trainer.learner.params()) {
        let end = at + buf.bytes() as u64;
        let entry = Entry { dtype: dtype(buf.ty()).into(), shape: shape.to_vec(), data_offsets: [at, end] };
        header.insert(name, serde_json::to_value(entry).map_err(json)?);
        at = end;
    }
    let text = serde_json::to_string(standing).map_err(json)?;
    header.insert("__metadata__".into(), serde_json::json!({ "format": "ullage training state 1", "standing": text }));
    let mut header = serde_json::to_vec(&header).map_err(json)?;
    header.resize(header.len().next_multiple_of(64), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(io)?;
    let mut room = vec![0u8; CARRY];
    for (name, buf, _) in tensors(trainer.learner.params()) {
        carry(buf, |at, n| {
            trainer.device().download(buf.at(at), &mut room[..n])?;
            if let Some((_, value)) = broken_in(buf.ty(), &room[..n]) {
                let of = format!("{} of the training state", name.trim_start_matches("param."));
                let place = Diverged { step: Some(standing.step), ..Diverged::new(of, f64::from(value)) };
                return Err(Error::diverged(place, REMEDY));
            }
            file.write_all(&room[..n]).map_err(io)
        })?;
    }
    Ok(())
}

/// Calls `each(first element, bytes)` over a buffer of plain elements.
fn carry(buf: &Buf, mut each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
    let size = buf.ty().block_bytes();
    for at in (0..buf.len()).step_by(CARRY / size) {
        each(at, (CARRY / size).min(buf.len() - at) * size)?;
    }
    Ok(())
}

/// A training state that was opened: its header is read and checked, its tensors are not.
pub struct Saved {
    path: PathBuf,
    file: File,
    start: u64,
    entries: BTreeMap<String, Entry>,
    /// Where the run stood.
    pub standing: Standing,
}

impl Saved {
    /// Opens the state at `path`; none when there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "cannot open the training state", &e)),
        };
        let damaged = |what: &str| Error::model(path, "training state", format!("{what}; delete it to begin anew"));
        let io = |e: std::io::Error| Error::io(path, "cannot read the training state", &e);
        let whole = file.metadata().map_err(io)?.len();
        let mut len = [0u8; 8];
        file.read_exact(&mut len).map_err(|_| damaged("it is shorter than its header's length"))?;
        let len = u64::from_le_bytes(len);
        if len > HEADER || len + 8 > whole {
            return Err(damaged("its header does not fit into it"));
        }
        let mut header = vec![0u8; len as usize];
        file.read_exact(&mut header).map_err(io)?;
        let mut header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| damaged(&format!("its header is no JSON: {e}")))?;
        let standing = header.remove("__metadata__");
        let standing = standing.as_ref().and_then(|m| m.get("standing")).and_then(|s| s.as_str());
        let standing: Standing = standing
            .and_then(|s| serde_json::from_str(s).ok())
            .ok_or_else(|| damaged("its metadata does not say where the run stood"))?;
        let mut entries = BTreeMap::new();
        for (name, value) in header {
            let entry: Entry =
                serde_json::from_value(value).map_err(|e| damaged(&format!("the entry of {name}: {e}")))?;
            let [from, to] = entry.data_offsets;
            if from > to || to > whole - 8 - len {
                return Err(damaged(&format!("{name} lies outside it")));
            }
            entries.insert(name, entry);
        }
        Ok(Some(Self { path: path.to_owned(), file, start: 8 + len, entries, standing }))
    }

    /// Puts every tensor where it belongs in `trainer`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; the device's.
    pub fn restore(&mut self, trainer: &mut Trainer) -> Result<()> {
        let (device, learner) = trainer.parts();
        for id in 0..learner.params().len() {
            let p = learner.param_mut(id)?;
            let (name, shape) = (p.name.clone(), [p.rows, p.cols]);
            self.tensor(device, &format!("param.{name}"), shape, &mut p.buf)?;
            for (slot, buf) in p.slots.iter().zip(&mut p.state) {
                self.tensor(device, &format!("state.{}.{name}", slot.name), [slot.rows, slot.cols], buf)?;
            }
            if let Some(copy) = &mut p.copy {
                self.tensor(device, &format!("copy.{name}"), shape, copy)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, d: &dyn Device, name: &str, shape: [usize; 2], into: &mut Buf) -> Result<()> {
        let wrong = |what: String| Error::model(&self.path, name, what);
        let Some(entry) = self.entries.get(name) else {
            return Err(wrong("the training state has no such tensor: it is of a run with other choices".into()));
        };
        let [from, to] = entry.data_offsets;
        if entry.shape != shape || entry.dtype != dtype(into.ty()) || to - from != into.bytes() as u64 {
            return Err(wrong(format!(
                "is {} {:?} in the training state and {} {shape:?} in this run",
                entry.dtype,
                entry.shape,
                dtype(into.ty())
            )));
        }
        let io = |e: std::io::Error| Error::io(&self.path, "cannot read the training state", &e);
        self.file.seek(SeekFrom::Start(self.start + from)).map_err(io)?;
        let mut room = vec![0u8; CARRY];
        let size = into.ty().block_bytes();
        for at in (0..into.len()).step_by(CARRY / size) {
            let n = (CARRY / size).min(into.len() - at) * size;
            self.file.read_exact(&mut room[..n]).map_err(io)?;
            d.upload(&room[..n], into.at_mut(at))?;
        }
        Ok(())
    }
}
