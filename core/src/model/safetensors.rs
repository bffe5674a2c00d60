//! safetensors files: our own reader and writer over positioned reads.
//!
//! The format: eight bytes with the header's length, a JSON header of names with dtype, shape and offsets, the payload. A
//! file is untrusted: the header's length is held against the file's, every tensor's bytes against its shape, and tensors
//! against each other, before anything is read or allocated by it.
//! <https://github.com/huggingface/safetensors>

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::atomic_write;
use crate::blocks::BlockType;
use crate::error::{Error, Result};

/// Bytes of the longest header; the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor.
const DIMS: usize = 8;
/// Where the payload of a file that we write begins: readers map it, and aligned numbers are faster there.
const ALIGN: usize = 8;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: Box<str>,
    /// F32, F16 or BF16; `None` for a dtype that no model here uses.
    pub ty: Option<BlockType>,
    /// Its dtype as written.
    pub dtype: Box<str>,
    /// Its dimensions, the contiguous one last.
    pub dims: Box<[u64]>,
    /// Where its payload starts, from the beginning of the file.
    pub offset: u64,
    /// Bytes of its payload.
    pub bytes: u64,
}

/// An open file whose header has been checked in full.
#[derive(Debug)]
pub struct SafeFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// By name.
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

fn width(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        _ => return None,
    })
}

fn block_type(dtype: &str) -> Option<BlockType> {
    match dtype {
        "F32" => Some(BlockType::F32),
        "F16" => Some(BlockType::F16),
        "BF16" => Some(BlockType::Bf16),
        _ => None,
    }
}

/// The dtype of a type that safetensors has.
pub fn dtype(ty: BlockType) -> Option<&'static str> {
    match ty {
        BlockType::F32 => Some("F32"),
        BlockType::F16 => Some("F16"),
        BlockType::Bf16 => Some("BF16"),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Info {
    dtype: Box<str>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries as they stand there, a name twice included.
#[derive(Default)]
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(Box<str>, Info)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut out = Header::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        out.metadata = map.next_value()?;
                    } else {
                        out.tensors.push((key.into(), map.next_value()?));
                    }
                }
                Ok(out)
            }
        }
        d.deserialize_map(Entries)
    }
}

impl SafeFile {
    /// Opens `path` and checks its header.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field for anything wrong, [`Error::Io`] when it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::io(path, "cannot open", &e);
        let wrong = |field: &str, message: String| Error::model(path, field, message);
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(wrong("file", "this is not a regular file; a .safetensors file is needed".into()));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut head = [0; 8];
        if len < 8 {
            return Err(wrong("header", format!("the file has {len} bytes, a header begins with 8")));
        }
        file.read_exact_at(&mut head, 0).map_err(io)?;
        let size = u64::from_le_bytes(head);
        if size > LONGEST_HEADER || size > len - 8 {
            return Err(wrong(
                "header",
                format!("is said to have {size} bytes; the file has {len}, and at most {LONGEST_HEADER} are read"),
            ));
        }
        let mut text = vec![0; size as usize];
        file.read_exact_at(&mut text, 8).map_err(io)?;
        let header: Header = serde_json::from_slice(&text).map_err(|e| wrong("header", format!("{e}")))?;
        let data = len - 8 - size;
        let mut tensors = Vec::with_capacity(header.tensors.len());
        for (name, info) in header.tensors {
            let shown = shown(&name);
            let width = width(&info.dtype)
                .ok_or_else(|| wrong(&shown, format!("dtype `{}` is not known", info.dtype.escape_debug())))?;
            if info.shape.len() > DIMS {
                return Err(wrong(
                    &shown,
                    format!("has {} dimensions, at most {DIMS} are supported", info.shape.len()),
                ));
            }
            let bytes = info.shape.iter().try_fold(width, |n, d| n.checked_mul(*d));
            let (start, end) = info.data_offsets;
            let held = end.checked_sub(start).filter(|_| end <= data);
            let (Some(bytes), Some(held)) = (bytes, held) else {
                return Err(wrong(
                    &shown,
                    format!("shape {:?} at {start} to {end} does not lie in {data} bytes", info.shape),
                ));
            };
            if bytes != held {
                return Err(wrong(
                    &shown,
                    format!("shape {:?} of {} takes {bytes} bytes, its offsets hold {held}", info.shape, info.dtype),
                ));
            }
            let ty = block_type(&info.dtype);
            let offset = 8 + size + start;
            tensors.push(Tensor { name, ty, dtype: info.dtype, dims: info.shape.into(), offset, bytes });
        }
        // Side by side without gap or overlap: so no byte has two meanings, and none is hidden.
        tensors.sort_by_key(|t| (t.offset, t.bytes));
        let mut at = 8 + size;
        for t in &tensors {
            if t.offset != at {
                let place = t.offset - 8 - size;
                return Err(wrong(
                    &shown(&t.name),
                    format!("begins at {place}, the one before ends at {}", at - 8 - size),
                ));
            }
            at += t.bytes;
        }
        if at != len {
            return Err(wrong("file", format!("{} bytes follow the last tensor", len - at)));
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|w| w[0].name == w[1].name) {
            return Err(wrong(&shown(&pair[0].name), "is there twice".into()));
        }
        Ok(Self { path: path.into(), file, len, tensors, metadata: header.metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the whole file when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.len
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let at = self.tensors.binary_search_by(|t| (*t.name).cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// An error about `field` of this file.
    pub fn error(&self, field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::model(&self.path, field, message)
    }

    /// Reads `into.len()` bytes of a tensor's payload from its byte `from` on. Safe from several threads at once.
    ///
    /// # Errors
    /// [`Error::Model`] when the range is not within it, [`Error::Io`] when the file cannot be read any more.
    pub fn read_at(&self, tensor: &Tensor, from: u64, into: &mut [u8]) -> Result<()> {
        let end = from.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > tensor.bytes) {
            let message = format!("{} bytes from {from} were asked for, it has {}", into.len(), tensor.bytes);
            return Err(self.error(shown(&tensor.name), message));
        }
        self.file
            .read_exact_at(into, tensor.offset + from)
            .map_err(|e| Error::io(&self.path, format!("cannot read {}", shown(&tensor.name)), &e))
    }
}

/// A name as it may be shown.
fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// F32, F16 or BF16.
    pub ty: BlockType,
    /// Its dimensions, the contiguous one last.
    pub dims: Vec<usize>,
}

impl Declared {
    /// Bytes of its payload.
    pub fn bytes(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product::<u64>() * self.ty.block_bytes() as u64
    }
}

/// Writes `tensors` to `path`, whole or not at all; `payload` is called once a tensor, in order, and must put exactly its
/// bytes.
///
/// # Errors
/// A type that the format has not, a payload of another length, what `payload` returns, [`Error::Io`].
pub fn write(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: &[Declared],
    mut payload: impl FnMut(&Declared, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    let about: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    header.insert("__metadata__".into(), about.into());
    let mut at = 0;
    for t in tensors {
        let dtype = dtype(t.ty)
            .ok_or_else(|| Error::model(path, t.name.as_str(), format!("safetensors has no type {}", t.ty)))?;
        let end = at + t.bytes();
        let info = serde_json::json!({ "dtype": dtype, "shape": t.dims, "data_offsets": [at, end] });
        if header.insert(t.name.clone(), info).is_some() {
            return Err(Error::model(path, t.name.as_str(), "the tensor is declared twice"));
        }
        at = end;
    }
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("a safetensors header: {e}")))?;
    text.resize(text.len().next_multiple_of(ALIGN), b' ');
    atomic_write::file(path, |out| {
        let io = |e: std::io::Error| Error::io(path, "cannot write", &e);
        out.write_all(&(text.len() as u64).to_le_bytes()).and_then(|()| out.write_all(&text)).map_err(io)?;
        for t in tensors {
            let mut left = t.bytes();
            payload(t, &mut |bytes| {
                left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| Error::model(path, t.name.as_str(), "more bytes than its shape were given"))?;
                out.write_all(bytes).map_err(io)
            })?;
            if left > 0 {
                return Err(Error::model(path, t.name.as_str(), format!("{left} bytes were not given")));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn opened(bytes: &[u8]) -> Result<SafeFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        SafeFile::open(&path)
    }

    #[test]
    fn what_is_written_reads_back_and_other_readers_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensors = [
            Declared { name: "b".into(), ty: BlockType::F32, dims: vec![2, 3] },
            Declared { name: "a".into(), ty: BlockType::Bf16, dims: vec![4] },
        ];
        let bytes: Vec<u8> = (0..32).collect();
        write(&path, &[("format", "pt")], &tensors, |t, put| {
            let part = if t.name == "b" { &bytes[..24] } else { &bytes[24..] };
            part.chunks(5).try_for_each(put)
        })
        .unwrap();
        let ours = SafeFile::open(&path).unwrap();
        assert_eq!(ours.metadata()["format"], "pt");
        let mut got = [0; 8];
        ours.read_at(ours.tensor("a").unwrap(), 0, &mut got).unwrap();
        assert_eq!(got, bytes[24..]);
        assert!(ours.read_at(ours.tensor("a").unwrap(), 1, &mut got).is_err());
        // The reference implementation.
        let file = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
        let b = theirs.tensor("b").unwrap();
        assert_eq!((b.shape(), b.data(), b.dtype()), (&[2, 3][..], &bytes[..24], safetensors::Dtype::F32));
        let short = write(&path, &[], &tensors, |_, put| put(&[0; 3]));
        assert!(short.unwrap_err().to_string().contains("not given"));
        assert_eq!(std::fs::read(&path).unwrap(), file, "the old file stays");
    }

    #[test]
    fn damaged_and_hostile_headers_are_named() {
        let one = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(opened(&raw(one, &[0; 8])).is_ok());
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        for (bytes, word) in [
            (vec![1, 2, 3], "header"),
            (huge, "header"),
            (raw(one, &[0; 9]), "follow"),
            (raw(one, &[0; 7]), "does not lie"),
            (raw(&one.replace("[2]", "[3]"), &[0; 8]), "takes 12"),
            (raw(&one.replace("[2]", "[4611686018427387904,4]"), &[0; 8]), "does not lie"),
            (raw(&one.replace("[0,8]", "[8,0]"), &[0; 8]), "does not lie"),
            (raw(&one.replace("F32", "F31"), &[0; 8]), "F31"),
            (raw(&one.replace("[0,8]", "[1,9]"), &[0; 9]), "begins at 1"),
            (
                raw(&one.replace("}}", "},\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}"), &[0; 16]),
                "twice",
            ),
            (
                raw(&one.replace("}}", "},\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"), &[0; 8]),
                "before ends",
            ),
            (raw(&one.replace("[2]", "[2,1,1,1,1,1,1,1,1]"), &[0; 8]), "dimensions"),
            (raw("[]", &[]), "header"),
            (raw("{\"x\":", &[]), "header"),
        ] {
            let error = opened(&bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
