//! A file of reference logits: those of the model as opened with nothing compressed, a row for each forced token.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::Case;
use crate::error::{Error, Result};

/// A file of f32 rows, one for each forced token of the cases in order.
pub struct File {
    key: String,
    open: Option<(PathBuf, fs::File)>,
}

impl File {
    /// Of these cases; nothing is opened yet.
    pub fn new(cases: &[Case]) -> Self {
        let mut hash = Sha256::new();
        for case in cases {
            for list in [&case.prompt, &case.forced] {
                hash.update((list.len() as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice::<u32, u8>(list));
            }
        }
        Self { key: crate::bytes::hex(&hash.finalize()), open: None }
    }

    /// Reads row `i` into `into`.
    ///
    /// # Errors
    /// A file that was removed or shortened.
    pub fn read(&mut self, i: usize, into: &mut [u8]) -> Result<()> {
        let Some((path, file)) = &self.open else { return Err(Error::Internal("the reference was not made".into())) };
        file.read_exact_at(into, (i * into.len()) as u64)
            .map_err(|e| Error::io(path, "cannot read reference logits", &e))
    }

    /// What names it: a hash of its cases.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// From now on, rows are read from this file.
    pub fn open(&mut self, path: PathBuf, file: fs::File) {
        self.open = Some((path, file));
    }
}
