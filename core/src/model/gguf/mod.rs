//! GGUF files: our own reader and writer.
//!
//! A model file is untrusted input. [`Gguf::open`] checks the whole header before anything in it is believed, and holds
//! memory in proportion to the entries it keeps: arrays (vocabularies, merges) stay in the file until asked for. Payload
//! is read with positioned reads straight into its final buffer, never mapped, so a file that shrinks under us is an
//! error and not a signal. The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cut;
mod header;
mod scan;
mod split;
mod value;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use header::limits;
pub use value::{Array, Entry, Value, ValueType};
pub use write::{GgufWriter, TensorSink};

use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use scan::{AGAIN, Field, Scanner, plain, pread};

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: Box<str>,
    /// How its elements are stored.
    pub ty: BlockType,
    dims: [u64; 4],
    n_dims: u8,
    /// Product of all dimensions but the first; 1 for a vector.
    pub rows: usize,
    /// The first, contiguous dimension: elements of a row.
    pub cols: usize,
    /// Where its payload starts, from the beginning of the file, or of all its parts laid one behind the other.
    pub offset: u64,
    /// Bytes of its payload; at least one.
    pub bytes: u64,
}

impl TensorInfo {
    /// Its dimensions in ggml's order: the contiguous one first, `(in, out)` for a linear.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..usize::from(self.n_dims)]
    }
}

/// An open GGUF file whose header has been checked in full.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    len: u64,
    version: u32,
    alignment: u64,
    data_start: u64,
    entries: Vec<Entry>,
    by_key: Vec<u32>,
    tensors: Vec<TensorInfo>,
    by_name: Vec<u32>,
    /// Tensors that one of the file's is made of, by its name.
    cut: BTreeMap<Box<str>, Vec<TensorInfo>>,
    /// Later parts of a file in several, in order.
    later: Vec<split::Later>,
}

impl Gguf {
    /// Opens `path` and checks its header, which counts as `program` in the account whatever thread this is.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Model`] naming the field for anything wrong in it.
    pub fn open(path: &Path) -> Result<Self> {
        let named = split::first(path);
        let path = named.as_deref().unwrap_or(path);
        let wrong = |e| Error::io(path, "cannot open the model", &e);
        // Asked before opening: opening a pipe would wait for its writer.
        let meta = std::fs::metadata(path).map_err(wrong)?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "a folder" } else { "not a regular file" };
            return Err(Error::model(path, "file", format!("this is {what}; choose a .gguf file")));
        }
        let file = File::open(path).map_err(wrong)?;
        scoped(Scope::Program, || {
            let mut out = Self::from_file(file, path)?;
            if split::open(&mut out)? {
                out.cut = cut::parts(&out);
            }
            Ok(out)
        })
    }

    /// As [`Self::open`], for a file that is open already and counted under the thread's own scope, and for it alone where it is one of
    /// several parts; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        let len = file.metadata().map_err(|e| Error::io(path, "cannot open the model", &e))?.len();
        let header::Header { version, alignment, data_start, entries, by_key, tensors, by_name } =
            header::read(path, &file, len)?;
        let mut out = Self {
            path: path.into(),
            file,
            len,
            version,
            alignment,
            data_start,
            entries,
            by_key,
            tensors,
            by_name,
            cut: BTreeMap::new(),
            later: Vec::new(),
        };
        out.cut = cut::parts(&out);
        Ok(out)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor payloads in the file, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The paths of all its parts.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path()).chain(self.later.iter().map(|part| &*part.path))
    }

    /// Bytes of the whole file, of all its parts, when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.len + self.later.iter().map(|part| part.len).sum::<u64>()
    }

    /// Bytes before the first tensor's payload.
    pub fn header_bytes(&self) -> u64 {
        self.data_start.min(self.len)
    }

    /// All metadata, in the file's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensors that the one called `name` is made of, where it is several in one.
    pub fn cut(&self, name: &str) -> Option<&[TensorInfo]> {
        self.cut.get(name).map(Vec::as_slice)
    }

    /// The tensor called `name`, a part of another one included.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        if let Some(part) = self.cut.values().flatten().find(|part| &*part.name == name) {
            return Some(part);
        }
        let at = self.by_name.binary_search_by(|&i| (*self.tensors[i as usize].name).cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }

    /// The metadata entry at `key`.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        let at = self.by_key.binary_search_by(|&i| (*self.entries[i as usize].key).cmp(key)).ok()?;
        Some(&self.entries[self.by_key[at] as usize])
    }

    /// Whether there is an entry at `key`.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// An error about `field` of this file.
    pub fn error(&self, field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::model(&self.path, field, message)
    }

    fn wrong_type(&self, entry: &Entry, wanted: &str) -> Error {
        let found = match &entry.value {
            Value::Array(a) => format!("an array of {}", a.ty),
            _ => format!("a {}", entry.ty),
        };
        self.error(plain(&entry.key), format!("is {found}, {wanted} is needed; convert the model again"))
    }

    /// The string at `key`; `None` when absent.
    ///
    /// # Errors
    /// Names `key` when it is not a string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.entry(key)
            .map(|entry| match &entry.value {
                Value::Str(text) => Ok(&**text),
                _ => Err(self.wrong_type(entry, "a string")),
            })
            .transpose()
    }

    /// The whole number at `key`, of any integer type; `None` when absent.
    ///
    /// # Errors
    /// Names `key` when it is not an integer, or negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.entry(key)
            .map(|entry| match entry.value {
                Value::Unsigned(v) => Ok(v),
                Value::Signed(v) => {
                    u64::try_from(v).map_err(|_| self.error(key, format!("is {v}, it cannot be negative")))
                }
                _ => Err(self.wrong_type(entry, "a whole number")),
            })
            .transpose()
    }

    /// As [`Self::u64`], below 2³².
    ///
    /// # Errors
    /// As [`Self::u64`], and when the number is larger.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.u64(key)?
            .map(|v| u32::try_from(v).map_err(|_| self.error(key, format!("is {v}, at most {} is allowed", u32::MAX))))
            .transpose()
    }

    /// The number at `key`, `f32` or `f64`; `None` when absent.
    ///
    /// # Errors
    /// Names `key` when it is not a float.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.entry(key)
            .map(|entry| match entry.value {
                Value::Float(v) => Ok(v as f32),
                _ => Err(self.wrong_type(entry, "an f32")),
            })
            .transpose()
    }

    /// The bool at `key`; `None` when absent.
    ///
    /// # Errors
    /// Names `key` when it is not a bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.entry(key)
            .map(|entry| match entry.value {
                Value::Bool(v) => Ok(v),
                _ => Err(self.wrong_type(entry, "a bool")),
            })
            .transpose()
    }

    /// The array at `key`, still in the file; `None` when absent.
    ///
    /// # Errors
    /// Names `key` when it is not an array.
    pub fn array(&self, key: &str) -> Result<Option<Array>> {
        self.entry(key)
            .map(|entry| match entry.value {
                Value::Array(array) => Ok(array),
                _ => Err(self.wrong_type(entry, "an array")),
            })
            .transpose()
    }

    /// The array at `key`, which has to be there and of one of the types `allowed`.
    fn required(&self, key: &str, allowed: &[ValueType], wanted: &str) -> Result<Array> {
        let array = self.array(key)?.ok_or_else(|| self.error(key, "is missing; convert the model again"))?;
        if !allowed.contains(&array.ty) {
            return Err(self.error(key, format!("is an array of {}, {wanted} is needed; {AGAIN}", array.ty)));
        }
        Ok(array)
    }

    /// Calls `each` with the index and text of every string of the array at `key`, in order; nothing is allocated a string.
    ///
    /// # Errors
    /// Names `key` when it is absent or not an array of strings, the element when it is not UTF-8; what `each` returns.
    pub fn each_string(&self, key: &str, mut each: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
        let array = self.required(key, &[ValueType::Str], "an array of strings")?;
        let mut scan = Scanner::new(&self.path, &self.file, array.offset, array.offset + array.bytes);
        for n in 0..array.count {
            each(n, scan.string(Field::Element(key, n), limits::ELEMENT)?)?;
        }
        Ok(())
    }

    /// All strings of the array at `key`.
    ///
    /// # Errors
    /// As [`Self::each_string`].
    pub fn strings(&self, key: &str) -> Result<Vec<String>> {
        let mut out = Vec::new();
        self.each_string(key, |_, text| {
            out.push(text.to_owned());
            Ok(())
        })?;
        Ok(out)
    }

    fn scalars<T>(
        &self,
        key: &str,
        allowed: &[ValueType],
        wanted: &str,
        each: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        let array = self.required(key, allowed, wanted)?;
        let size = array.ty.size().unwrap_or(1) as usize;
        let mut scan = Scanner::new(&self.path, &self.file, array.offset, array.offset + array.bytes);
        let mut out = Vec::with_capacity(array.count as usize);
        for n in 0..array.count {
            let field = Field::Element(key, n);
            let value = header::decode(array.ty, scan.bytes(size, field)?)
                .map_err(|byte| scan.error(field, format!("a bool is 0 or 1, this one is {byte}; {AGAIN}")))?;
            out.push(
                each(&value).ok_or_else(|| scan.error(field, format!("is {value}, {wanted} is needed; {AGAIN}")))?,
            );
        }
        Ok(out)
    }

    /// All numbers of the `f32` or `f64` array at `key`.
    ///
    /// # Errors
    /// Names `key` when it is absent or of another type.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.scalars(key, &[ValueType::F32, ValueType::F64], "an array of f32", |v| match v {
            Value::Float(v) => Some(*v as f32),
            _ => None,
        })
    }

    /// All numbers of the integer array at `key`.
    ///
    /// # Errors
    /// Names `key` when it is absent or of another type, the element when it is beyond `i32`.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.scalars(key, INTEGERS, "an array of i32", |v| match v {
            Value::Unsigned(v) => i32::try_from(*v).ok(),
            Value::Signed(v) => i32::try_from(*v).ok(),
            _ => None,
        })
    }

    /// All flags of the array of bools at `key`.
    ///
    /// # Errors
    /// Names `key` when it is absent or of another type.
    pub fn bools(&self, key: &str) -> Result<Vec<bool>> {
        self.scalars(key, &[ValueType::Bool], "an array of bools", |v| match v {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    /// All numbers of the integer array at `key`.
    ///
    /// # Errors
    /// Names `key` when it is absent or of another type, the element when it is negative.
    pub fn u64s(&self, key: &str) -> Result<Vec<u64>> {
        self.scalars(key, INTEGERS, "an array of whole numbers", |v| match v {
            Value::Unsigned(v) => Some(*v),
            Value::Signed(v) => u64::try_from(*v).ok(),
            _ => None,
        })
    }

    /// Reads `into.len()` bytes of a tensor's payload, starting at its byte `from`, straight into `into`.
    /// Safe to call from several threads at once.
    ///
    /// # Errors
    /// [`Error::Model`] naming the tensor when the range is not within it or the file has become shorter,
    /// [`Error::Io`] when the system cannot read.
    pub fn read_at(&self, tensor: &TensorInfo, from: u64, into: &mut [u8]) -> Result<()> {
        let wanted = into.len() as u64;
        if from.checked_add(wanted).is_none_or(|end| end > tensor.bytes) {
            let message =
                format!("bytes {from} to {} were asked for, it has {}", from.saturating_add(wanted), tensor.bytes);
            return Err(self.error(plain(&tensor.name), message));
        }
        let part = self.later.iter().rev().find(|part| part.base <= tensor.offset);
        let (file, base) = part.map_or((&self.file, 0), |part| (&part.file, part.base));
        let got = pread(file, tensor.offset - base + from, into)
            .map_err(|e| Error::io(&self.path, format!("cannot read {}", plain(&tensor.name)), &e))?;
        if got < into.len() {
            return Err(self.error(
                plain(&tensor.name),
                format!(
                    "the file became shorter after it was opened: {wanted} bytes wanted, {got} there; \
                     open the model again once the file is whole"
                ),
            ));
        }
        Ok(())
    }

    /// Adds samples of every tensor's payload to `hash`: its beginning, its middle and its end, a few kilobytes each, and all of
    /// a tensor that is no longer. Two files of one header whose numbers differ in every tensor they differ in throughout, as
    /// fine-tunes do, are told apart; a change of a few numbers between the samples is not seen.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn sample(&self, hash: &mut Sha256) -> Result<()> {
        const SAMPLE: u64 = 4096;
        let mut room = [0; SAMPLE as usize];
        for t in self.tensors() {
            let n = t.bytes.min(SAMPLE);
            let last = t.bytes - n;
            let mut places = vec![0, last / 2, last];
            places.dedup();
            for at in places {
                self.read_at(t, at, &mut room[..n as usize])?;
                hash.update(&room[..n as usize]);
            }
        }
        Ok(())
    }

    /// SHA-256 (hex) of the header and the file's length. It tells models apart by their shape, types and metadata
    /// without reading the payload: two fine-tunes with equal headers share it.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`] when the header can no longer be read.
    pub fn content_hash(&self) -> Result<String> {
        let mut scan = Scanner::new(&self.path, &self.file, 0, self.header_bytes());
        let mut hash = Sha256::new();
        while scan.left() > 0 {
            let n = scan.left().min(64 << 10) as usize;
            hash.update(scan.bytes(n, Field::Name("header"))?);
        }
        hash.update(self.len.to_le_bytes());
        for part in &self.later {
            let mut scan = Scanner::new(&part.path, &part.file, 0, part.header);
            while scan.left() > 0 {
                let n = scan.left().min(64 << 10) as usize;
                hash.update(scan.bytes(n, Field::Name("header"))?);
            }
            hash.update(part.len.to_le_bytes());
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

const INTEGERS: &[ValueType] = &[
    ValueType::U8,
    ValueType::I8,
    ValueType::U16,
    ValueType::I16,
    ValueType::U32,
    ValueType::I32,
    ValueType::U64,
    ValueType::I64,
];
