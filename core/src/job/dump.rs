//! `--dump`: what a run computed, as safetensors, so that anyone can check it from Python.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::atomic_write::Pending;
use crate::error::{Error, Result};
use crate::ledger::files::{Output, Written, writing};
use crate::output::{Care, Claim};

/// The tensor of the logits before each generated token of sequence 0, `(steps, vocab)`.
pub const LOGITS: &str = "logits";

/// Room for the header, padded with spaces as the format allows, because the number of rows is known only at the end.
const HEADER: usize = 1024;

/// The file of the rows called `name`.
fn file(name: &str) -> String {
    format!("{name}.safetensors")
}

/// What a tensor of `rows` rows of `vocab` logits will take.
pub(super) fn written(rows: usize, vocab: usize) -> Written {
    let payload = [(rows as u64, "rows"), (vocab as u64, "tokens of the vocabulary"), (4, "B")];
    Written::new(Output::Dump, &[&payload, &[(8 + HEADER as u64, "B header")]])
}

struct Rows {
    path: PathBuf,
    file: Pending,
    rows: usize,
}

/// One safetensors file a tensor: `logits.safetensors` while generating, `TASK.safetensors` for each evaluation.
pub struct Dump {
    dir: PathBuf,
    claim: Claim,
    vocab: usize,
    open: BTreeMap<String, Rows>,
}

impl Dump {
    /// Into `dir`, rows of `vocab` logits of generating and of each of `tasks`.
    ///
    /// # Errors
    /// As [`Claim::new`].
    pub fn new<'a>(dir: &Path, vocab: usize, tasks: impl Iterator<Item = &'a str>, care: &Care) -> Result<Self> {
        let names: Vec<String> = std::iter::once(LOGITS).chain(tasks).map(file).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let claim = Claim::new(dir, "dump", &names, &[], care)?;
        Ok(Self { dir: dir.to_path_buf(), claim, vocab, open: BTreeMap::new() })
    }

    /// Appends a row of logits to tensor `name`.
    ///
    /// # Errors
    /// The file system's, or the wall's.
    pub fn row(&mut self, name: &str, logits: &[f32]) -> Result<()> {
        if !self.open.contains_key(name) {
            let path = self.dir.join(file(name));
            let mut file = writing(Output::Dump, || Pending::begin(&path, 32 << 10))?;
            file.out().write_all(&[b' '; 8 + HEADER]).map_err(|e| Error::io(&path, "cannot write", &e))?;
            self.open.insert(name.to_owned(), Rows { path, file, rows: 0 });
        }
        let Some(rows) = self.open.get_mut(name) else { return Ok(()) };
        rows.rows += 1;
        rows.file.out().write_all(bytemuck::cast_slice(logits)).map_err(|e| Error::io(&rows.path, "cannot write", &e))
    }

    /// Writes the headers and gives the files their names.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(self) -> Result<()> {
        for (name, rows) in self.open {
            let io = |e: std::io::Error| Error::io(&rows.path, "cannot write", &e);
            let bytes = rows.rows * self.vocab * 4;
            let mut header = format!(
                "{{\"logits\":{{\"dtype\":\"F32\",\"shape\":[{},{}],\"data_offsets\":[0,{bytes}]}}}}",
                rows.rows, self.vocab
            );
            header.push_str(&" ".repeat(HEADER.saturating_sub(header.len())));
            let mut new = rows.file;
            let out = new.out();
            out.seek(SeekFrom::Start(0)).map_err(io)?;
            out.write_all(&(HEADER as u64).to_le_bytes()).map_err(io)?;
            out.write_all(header.as_bytes()).map_err(io)?;
            self.claim.write(&file(&name), || new.commit(|_| Ok(())))?;
        }
        Ok(())
    }
}
