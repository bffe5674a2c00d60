//! A file in several parts, as llama.cpp's `gguf-split` cuts them: each is a GGUF file of its own, the first has the metadata, and
//! `split.no`, `split.count` say which it is. Opened as one, payloads of later parts lie behind those of the first.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Gguf, header};
use crate::error::{Error, Result};
use crate::model::parts::Parts;

/// A later part: its file, its length, bytes of its header, and where its bytes begin among all.
#[derive(Debug)]
pub(super) struct Later {
    pub path: PathBuf,
    pub file: File,
    pub len: u64,
    pub header: u64,
    pub base: u64,
}

/// The first part's path, where `path` is a later one that says so by its name and all are there.
pub(super) fn first(path: &Path) -> Option<PathBuf> {
    let parts = Parts::of(path)?;
    (parts.this > 1 && parts.missing().is_none()).then(|| parts.all[0].clone())
}

/// Opens the other parts of `file`; false where it has none.
///
/// # Errors
/// [`Error::Model`]: parts that are missing, that are of another model, or that name one tensor twice.
pub(super) fn open(file: &mut Gguf) -> Result<bool> {
    let count = file.u64("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(false);
    }
    let number = file.u64("split.no")?.unwrap_or(0).saturating_add(1);
    let Some(parts) = Parts::of(&file.path).filter(|p| p.all.len() as u64 == count && p.this as u64 == number) else {
        let message = format!(
            "part {number} of {count}; the others are missing: they are found by their names, which end in -00001-of-{count:05}.gguf"
        );
        return Err(file.error("split.count", message));
    };
    if let Some(missing) = parts.missing() {
        return Err(file.error("split.count", missing));
    }
    if parts.this != 1 {
        return Err(file.error("split.no", format!("part {number} of {count}; open the first")));
    }
    let mut base = file.len;
    for (i, path) in parts.all.iter().enumerate().skip(1) {
        let io = |e: std::io::Error| Error::io(path, "cannot open the model", &e);
        let opened = File::open(path).map_err(io)?;
        let len = opened.metadata().map_err(io)?.len();
        let part = header::read(path, &opened, len)?;
        let said = |key: &str| {
            let entry = part.entries.iter().find(|e| &*e.key == key);
            match entry.map(|e| &e.value) {
                Some(super::Value::Unsigned(n)) => Some(*n),
                Some(super::Value::Signed(n)) => u64::try_from(*n).ok(),
                _ => None,
            }
        };
        if (said("split.no"), said("split.count")) != (Some(i as u64), Some(count)) {
            let message = format!("is no part {} of {count} of {}", i + 1, file.path.display());
            return Err(Error::model(path, "split.no", message));
        }
        file.tensors.extend(part.tensors.into_iter().map(|mut t| {
            t.offset += base;
            t
        }));
        let header = part.data_start.min(len);
        file.later.push(Later { path: path.clone(), file: opened, len, header, base });
        base = base.checked_add(len).ok_or_else(|| Error::model(path, "file", "is too long"))?;
    }
    file.by_name = header::index(&file.tensors, |t| &t.name).map_err(|(a, _)| {
        let name = super::plain(&file.tensors[a].name);
        file.error(name, "is in two parts of the file; fetch them again")
    })?;
    Ok(true)
}
