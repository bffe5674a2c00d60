//! `--dump`: what a run computed, as safetensors, so that anyone can check it from Python.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The tensor of the logits before each generated token of sequence 0, `(steps, vocab)`.
pub const LOGITS: &str = "logits";

/// Room for the header, padded with spaces as the format allows, because the number of rows is known only at the end.
const HEADER: usize = 1024;

struct Rows {
    path: PathBuf,
    file: BufWriter<fs::File>,
    rows: usize,
}

/// One safetensors file a tensor: `logits.safetensors` while generating, `TASK.safetensors` for each evaluation.
pub struct Dump {
    dir: PathBuf,
    vocab: usize,
    open: BTreeMap<String, Rows>,
}

impl Dump {
    /// Into `dir`, rows of `vocab` logits.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(dir: &Path, vocab: usize) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot make the folder for --dump", &e))?;
        Ok(Self { dir: dir.to_path_buf(), vocab, open: BTreeMap::new() })
    }

    /// Appends a row of logits to tensor `name`.
    ///
    /// # Errors
    /// The file system's.
    pub fn row(&mut self, name: &str, logits: &[f32]) -> Result<()> {
        if !self.open.contains_key(name) {
            let path = self.dir.join(format!("{name}.safetensors.part"));
            let io = |e: std::io::Error| Error::io(&path, "cannot write", &e);
            let mut file = BufWriter::with_capacity(32 << 10, fs::File::create(&path).map_err(io)?);
            file.write_all(&[b' '; 8 + HEADER]).map_err(io)?;
            self.open.insert(name.to_owned(), Rows { path: path.clone(), file, rows: 0 });
        }
        let Some(rows) = self.open.get_mut(name) else { return Ok(()) };
        rows.rows += 1;
        rows.file.write_all(bytemuck::cast_slice(logits)).map_err(|e| Error::io(&rows.path, "cannot write", &e))
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
            let mut file = rows.file.into_inner().map_err(|e| io(e.into_error()))?;
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            file.write_all(&(HEADER as u64).to_le_bytes()).map_err(io)?;
            file.write_all(header.as_bytes()).map_err(io)?;
            file.sync_all().map_err(io)?;
            let path = self.dir.join(format!("{name}.safetensors"));
            fs::rename(&rows.path, &path).map_err(|e| Error::io(&path, "cannot write", &e))?;
        }
        Ok(())
    }
}
