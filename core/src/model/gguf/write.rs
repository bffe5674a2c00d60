//! Writing GGUF files: whole or not at all.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use super::header::{DEFAULT_ALIGNMENT, limits};
use super::scan::pread;
use super::{Gguf, TensorInfo, ValueType};
use crate::atomic_write::{Out, Pending};
use crate::blocks::BlockType;
use crate::error::{Error, Result};

/// Metadata and tensor declarations of a file to be written.
///
/// Nothing reaches the disk before [`Self::write`], which streams the payload into a temporary file beside the target
/// and renames it once it is complete, on the disk, and read back as sound.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    keys: BTreeSet<Box<str>>,
    /// The metadata as it stands in the file.
    metadata: Vec<u8>,
    names: BTreeSet<Box<str>>,
    tensors: Vec<TensorInfo>,
    /// Bytes of the data section so far, padding included.
    data: u64,
    /// The first mistake; reported by `write`, so that the calls before it can be chained.
    wrong: Option<(String, String)>,
}

impl GgufWriter {
    /// An empty file of `general.architecture = arch`.
    pub fn new(arch: &str) -> Self {
        let mut out = Self::default();
        out.str("general.architecture", arch);
        out
    }

    fn fail(&mut self, field: &str, message: impl Into<String>) {
        self.wrong.get_or_insert((field.into(), message.into()));
    }

    fn key(&mut self, key: &str, ty: ValueType) -> bool {
        if key.is_empty() || key.len() as u64 > limits::KEY {
            self.fail("metadata", "a key has 1 to 65535 bytes");
        } else if key == "general.alignment" {
            self.fail(key, "is the writer's own");
        } else if !self.keys.insert(key.into()) {
            self.fail(key, "the key is given twice");
        } else {
            put_str(&mut self.metadata, key);
            self.metadata.extend((ty as u32).to_le_bytes());
            return true;
        }
        false
    }

    fn array(&mut self, key: &str, ty: ValueType, count: usize) -> bool {
        let ok = self.key(key, ValueType::Array);
        if ok {
            self.metadata.extend((ty as u32).to_le_bytes());
            self.metadata.extend((count as u64).to_le_bytes());
        }
        ok
    }

    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        if value.len() as u64 > limits::STRING {
            self.fail(key, format!("is {} bytes long, at most {} are allowed", value.len(), limits::STRING));
        } else if self.key(key, ValueType::Str) {
            put_str(&mut self.metadata, value);
        }
        self
    }

    /// Adds an array of strings.
    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        if values.iter().any(|v| v.as_ref().len() as u64 > limits::ELEMENT) {
            self.fail(key, format!("holds a string of more than {} bytes", limits::ELEMENT));
        } else if self.array(key, ValueType::Str, values.len()) {
            for value in values {
                put_str(&mut self.metadata, value.as_ref());
            }
        }
        self
    }

    /// Copies every entry of `from` for which `keep(key)` holds, as it stands there. `general.alignment`, what says which part of
    /// several it is, and keys that this writer has already are left out.
    ///
    /// # Errors
    /// When `from` can no longer be read.
    pub fn copy_metadata(&mut self, from: &Gguf, keep: impl Fn(&str) -> bool) -> Result<&mut Self> {
        for entry in &from.entries {
            // What is written is whole.
            let own = &*entry.key == "general.alignment" || entry.key.starts_with("split.");
            if own || self.keys.contains(&entry.key) || !keep(&entry.key) {
                continue;
            }
            if self.key(&entry.key, entry.ty) {
                let start = self.metadata.len();
                // The header's reader has bounded this by limits::HEADER.
                self.metadata.resize(start + entry.bytes as usize, 0);
                let got = pread(&from.file, entry.at, &mut self.metadata[start..])
                    .map_err(|e| Error::io(&from.path, format!("cannot read {}", entry.key), &e))?;
                if (got as u64) < entry.bytes {
                    return Err(from.error(&*entry.key, "the file became shorter after it was opened; open it again"));
                }
            }
        }
        Ok(self)
    }

    /// Declares a tensor; `dims` in ggml's order, the contiguous one first. Payloads follow in the order of declaration.
    pub fn tensor(&mut self, name: &str, ty: BlockType, dims: &[usize]) -> &mut Self {
        match self.declare(name, ty, dims) {
            Ok(info) => self.tensors.push(info),
            Err(message) => self.fail(name, message),
        }
        self
    }

    fn declare(&mut self, name: &str, ty: BlockType, dims: &[usize]) -> Result<TensorInfo, String> {
        if name.is_empty() || name.len() as u64 > limits::NAME {
            return Err(format!("a tensor's name has 1 to {} bytes", limits::NAME));
        }
        if dims.is_empty() || dims.len() > limits::DIMS as usize || dims.contains(&0) {
            return Err(format!("dims {dims:?}: 1 to {} of them, none zero", limits::DIMS));
        }
        let cols = dims[0];
        let row = ty.row_bytes(cols).ok_or_else(|| {
            format!("rows of {cols} elements are not whole blocks: {ty} stores {} elements a block", ty.elems())
        })?;
        let rows = dims[1..].iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        let sized = rows.and_then(|rows| Some((rows, (row as u64).checked_mul(rows as u64)?)));
        let sized = sized.and_then(|(rows, bytes)| {
            let next = self.data.checked_add(bytes)?.checked_next_multiple_of(DEFAULT_ALIGNMENT)?;
            Some((rows, bytes, next))
        });
        let (rows, bytes, next) = sized.ok_or_else(|| format!("dims {dims:?}: more bytes than a file can hold"))?;
        if !self.names.insert(name.into()) {
            return Err("the tensor is declared twice".into());
        }
        let offset = std::mem::replace(&mut self.data, next);
        let mut all = [1; 4];
        for (to, &from) in all.iter_mut().zip(dims) {
            *to = from as u64;
        }
        Ok(TensorInfo { name: name.into(), ty, dims: all, n_dims: dims.len() as u8, rows, cols, offset, bytes })
    }

    /// Bytes the file will have.
    pub fn file_bytes(&self) -> u64 {
        (self.header().len() as u64).saturating_add(self.data)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.metadata.len() + 64 * self.tensors.len() + 64);
        out.extend(b"GGUF");
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        out.extend(&self.metadata);
        for t in &self.tensors {
            put_str(&mut out, &t.name);
            out.extend(u32::from(t.n_dims).to_le_bytes());
            for dim in t.dims() {
                out.extend(dim.to_le_bytes());
            }
            out.extend(t.ty.id().to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        out
    }

    /// Writes the file to `path`, replacing what is there only once the new one is complete; returns its bytes.
    /// `payload` is called once a tensor, in order of declaration, and must put exactly that tensor's bytes.
    ///
    /// # Errors
    /// The first wrong declaration, a payload that is too short or too long, what `payload` returns, and
    /// [`Error::Io`]; in all of them the target is as it was and the temporary file is gone.
    pub fn write(
        &self,
        path: &Path,
        mut payload: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<()>,
    ) -> Result<u64> {
        if let Some((field, message)) = &self.wrong {
            return Err(Error::model(path, field, message));
        }
        let io = |e: &std::io::Error| Error::io(path, "cannot write", e);
        let mut new = Pending::begin(path, 256 << 10)?;
        let out = new.out();
        let header = self.header();
        out.write_all(&header).map_err(|e| io(&e))?;
        for info in &self.tensors {
            let mut sink = TensorSink { out: &mut *out, path, info, left: info.bytes };
            payload(info, &mut sink)?;
            if sink.left > 0 {
                let message = format!("{} of its {} bytes were not given", sink.left, info.bytes);
                return Err(Error::model(path, &*info.name, message));
            }
            let padding = (info.bytes.next_multiple_of(DEFAULT_ALIGNMENT) - info.bytes) as usize;
            out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding]).map_err(|e| io(&e))?;
        }
        // What this cannot read back, nobody should be given.
        // What is written is looked at alone, be it one of several parts.
        new.commit(|part| {
            let file = std::fs::File::open(part).map_err(|e| Error::io(part, "cannot read", &e))?;
            Gguf::from_file(file, part).map(drop)
        })?;
        Ok(header.len() as u64 + self.data)
    }
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $one:ident, $many:ident, $t:ty, $ty:ident;)+) => {
        impl GgufWriter {
            $(
                #[doc = concat!("Adds a `", stringify!($t), "`.")]
                pub fn $one(&mut self, key: &str, value: $t) -> &mut Self {
                    if self.key(key, ValueType::$ty) {
                        self.metadata.extend(value.to_le_bytes());
                    }
                    self
                }

                #[doc = concat!("Adds an array of `", stringify!($t), "`.")]
                pub fn $many(&mut self, key: &str, values: &[$t]) -> &mut Self {
                    if self.array(key, ValueType::$ty, values.len()) {
                        for value in values {
                            self.metadata.extend(value.to_le_bytes());
                        }
                    }
                    self
                }
            )+
        }
    };
}

scalars! {
    u8, u8s, u8, U8;
    u32, u32s, u32, U32;
    i32, i32s, i32, I32;
    u64, u64s, u64, U64;
    f32, f32s, f32, F32;
}

impl GgufWriter {
    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        if self.key(key, ValueType::Bool) {
            self.metadata.push(u8::from(value));
        }
        self
    }
}

/// Takes the payload of one tensor while a file is written.
#[derive(Debug)]
pub struct TensorSink<'a> {
    out: &'a mut Out,
    path: &'a Path,
    info: &'a TensorInfo,
    left: u64,
}

impl TensorSink<'_> {
    /// Appends `bytes` to the tensor's payload.
    ///
    /// # Errors
    /// When there are more than the tensor has, or the disk is full.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let n = bytes.len() as u64;
        if n > self.left {
            let message = format!("{} bytes more than its {} were given", n - self.left, self.info.bytes);
            return Err(Error::model(self.path, &*self.info.name, message));
        }
        self.out.write_all(bytes).map_err(|e| Error::io(self.path, format!("cannot write {}", self.info.name), &e))?;
        self.left -= n;
        Ok(())
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
