//! The header, checked in full before anything in it is believed.

use std::fs::File;
use std::path::Path;

use super::TensorInfo;
use super::scan::{AGAIN, Field, Scanner, plain};
use super::value::{Array, Entry, Value, ValueType};
use crate::blocks::BlockType;
use crate::error::Result;

/// Limits no real file comes near; they keep the header's memory and time small whatever the file's length.
pub mod limits {
    /// Metadata entries.
    pub const ENTRIES: u64 = 1 << 16;
    /// Tensors.
    pub const TENSORS: u64 = 1 << 18;
    /// Bytes of a key (the specification's own limit).
    pub const KEY: u64 = (1 << 16) - 1;
    /// Bytes of a tensor's name.
    pub const NAME: u64 = 128;
    /// Bytes of a string that stands alone, such as a chat template.
    pub const STRING: u64 = 16 << 20;
    /// Bytes of a string in an array.
    pub const ELEMENT: u64 = 1 << 20;
    /// Bytes of the whole header.
    pub const HEADER: u64 = 1 << 30;
    /// Dimensions of a tensor.
    pub const DIMS: u32 = 4;
    /// `general.alignment`, both ends included.
    pub const ALIGNMENT: (u64, u64) = (8, 64 << 10);
}

/// `general.alignment` when a file does not give one.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
/// Fewest bytes of a metadata entry: key length, one byte of key, type id, one byte of value.
const ENTRY_LEAST: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's entry: name length, one byte of name, dimension count, one dimension, type, offset.
const TENSOR_LEAST: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What a header says, once all of it has been found sound.
pub(super) struct Header {
    pub version: u32,
    pub alignment: u64,
    pub data_start: u64,
    pub entries: Vec<Entry>,
    /// Indices into `entries`, in order of key.
    pub by_key: Vec<u32>,
    pub tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, in order of name.
    pub by_name: Vec<u32>,
}

/// Reads and checks the header of `file`, which is `len` bytes long.
pub(super) fn read(path: &Path, file: &File, len: u64) -> Result<Header> {
    let mut scan = Scanner::new(path, file, 0, len.min(limits::HEADER));
    let version = magic_and_version(&mut scan, len)?;
    let tensor_count = count(&mut scan, "tensor_count", TENSOR_LEAST, limits::TENSORS)?;
    let entry_count = count(&mut scan, "metadata_kv_count", ENTRY_LEAST, limits::ENTRIES)?;
    // Both lists have to fit into the same bytes.
    let least = tensor_count * TENSOR_LEAST + entry_count * ENTRY_LEAST;
    if least > scan.left() {
        return Err(scan.error(
            Field::Name("metadata_kv_count"),
            format!(
                "{entry_count} entries and {tensor_count} tensors need at least {least} bytes and {} are left; {AGAIN}",
                scan.left()
            ),
        ));
    }

    let mut entries = Vec::with_capacity(entry_count as usize);
    for n in 0..entry_count {
        entries.push(entry(&mut scan, n)?);
    }
    let by_key = index(&entries, |e| &e.key).map_err(|(a, b)| {
        let (key, ty) = (&entries[b].key, entries[b].ty);
        scan.error(
            Field::Name(key),
            format!(
                "the key stands twice, as metadata entries {a} and {b} ({} and {ty}); remove one of them",
                entries[a].ty
            ),
        )
    })?;
    let alignment = alignment(&scan, &entries)?;

    let mut tensors = Vec::with_capacity(tensor_count as usize);
    for n in 0..tensor_count {
        tensors.push(tensor(&mut scan, n, alignment)?);
    }
    let by_name = index(&tensors, |t| &t.name).map_err(|(a, b)| {
        scan.error(
            Field::Part(&tensors[b].name, "name"),
            format!("tensors {a} and {b} have the same name; convert the file again"),
        )
    })?;

    // At most HEADER + 64 KiB, so this cannot wrap.
    let data_start = scan.pos().next_multiple_of(alignment);
    place(&scan, &mut tensors, data_start, len)?;
    Ok(Header { version, alignment, data_start, entries, by_key, tensors, by_name })
}

fn magic_and_version(scan: &mut Scanner<'_>, len: u64) -> Result<u32> {
    let field = Field::Name("magic");
    if len < 24 {
        return Err(scan.error(field, format!("the file is {len} bytes long, a GGUF header has at least 24; {AGAIN}")));
    }
    let magic: [u8; 4] = scan.array(field)?;
    if &magic != b"GGUF" {
        let what = match &magic {
            b"lmgg" | b"fmgg" | b"tjgg" => "an older ggml file: convert it to GGUF with llama.cpp".into(),
            b"FUGG" => {
                "a byte-swapped (big-endian) GGUF file: convert the model again on a little-endian machine".into()
            }
            b"<!DO" | b"<htm" | b"<HTM" => "a web page: the download failed, fetch the model file itself".into(),
            b"vers" => "a Git LFS pointer, not the model: run `git lfs pull`".into(),
            b"PK\x03\x04" => "a zip archive: unpack it first".to_string(),
            other => format!("not a GGUF file: it starts with \"{}\"; choose a .gguf file", other.escape_ascii()),
        };
        return Err(scan.error(field, format!("this is {what}")));
    }
    let field = Field::Name("version");
    match scan.u32(field)? {
        v @ (2 | 3) => Ok(v),
        1 => Err(scan.error(
            field,
            "GGUF version 1 (August 2023, 32-bit counts) is not read; convert the model again with a current llama.cpp",
        )),
        v if v != 0 && v & 0xffff == 0 => Err(scan.error(
            field,
            format!(
                "the file is big-endian (version {} byte-swapped); convert the model again for little-endian machines",
                v.swap_bytes()
            ),
        )),
        v => Err(scan.error(
            field,
            format!("version {v} is unknown; versions 2 and 3 are read; is this a newer format, or a damaged file?"),
        )),
    }
}

/// A count of entries of at least `least` bytes each.
fn count(scan: &mut Scanner<'_>, name: &'static str, least: u64, most: u64) -> Result<u64> {
    let field = Field::Name(name);
    let n = scan.u64(field)?;
    if n > scan.left() / least {
        return Err(scan.error(
            field,
            format!(
                "declares {n} entries, the {} bytes left hold at most {}; {AGAIN}",
                scan.left(),
                scan.left() / least
            ),
        ));
    }
    if n > most {
        return Err(scan.error(field, format!("declares {n} entries, at most {most} are read; {AGAIN}")));
    }
    Ok(n)
}

fn entry(scan: &mut Scanner<'_>, n: u64) -> Result<Entry> {
    let field = Field::Nth("metadata", n, "key");
    let key: Box<str> = scan.string(field, limits::KEY)?.into();
    if key.is_empty() {
        return Err(scan.error(field, format!("the key is empty; {AGAIN}")));
    }
    let field = Field::Name(&key);
    let ty = value_type(scan, field)?;
    let at = scan.pos();
    let value = match ty {
        ValueType::Str => Value::Str(scan.string(field, limits::STRING)?.into()),
        ValueType::Array => Value::Array(array(scan, &key)?),
        scalar => {
            let size = scalar.size().unwrap_or(0) as usize;
            match decode(scalar, scan.bytes(size, field)?) {
                Ok(value) => value,
                Err(byte) => return Err(scan.error(field, format!("a bool is 0 or 1, this one is {byte}; {AGAIN}"))),
            }
        }
    };
    let bytes = scan.pos() - at;
    Ok(Entry { key, ty, value, at, bytes })
}

fn value_type(scan: &mut Scanner<'_>, field: Field<'_>) -> Result<ValueType> {
    let id = scan.u32(field)?;
    ValueType::from_id(id)
        .ok_or_else(|| scan.error(field, format!("has value type {id}; types 0 to 12 are known; {AGAIN}")))
}

/// An array: its framing is walked, its elements stay in the file.
fn array(scan: &mut Scanner<'_>, key: &str) -> Result<Array> {
    let field = Field::Name(key);
    let ty = value_type(scan, field)?;
    if ty == ValueType::Array {
        return Err(scan.error(field, "is an array of arrays, which no model needs and Ullage does not read"));
    }
    let count = scan.u64(field)?;
    let least = ty.size().unwrap_or(8);
    if count > scan.left() / least {
        return Err(scan.error(
            field,
            format!(
                "declares {count} elements of {ty}, the {} bytes left hold at most {}; {AGAIN}",
                scan.left(),
                scan.left() / least
            ),
        ));
    }
    let offset = scan.pos();
    match ty.size() {
        Some(size) => scan.skip(count * size, field)?,
        None => {
            for n in 0..count {
                let field = Field::Element(key, n);
                let len = scan.string_len(field, limits::ELEMENT)?;
                scan.skip(len, field)?;
            }
        }
    }
    Ok(Array { ty, count, offset, bytes: scan.pos() - offset })
}

/// A scalar from its bytes, of which there are exactly `ty.size()`; the byte at fault for a bool that is neither 0 nor 1.
pub(super) fn decode(ty: ValueType, bytes: &[u8]) -> Result<Value, u8> {
    let mut raw = [0u8; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    let wide = u64::from_le_bytes(raw);
    Ok(match ty {
        ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64 => Value::Unsigned(wide),
        ValueType::I8 => Value::Signed(wide as u8 as i8 as i64),
        ValueType::I16 => Value::Signed(wide as u16 as i16 as i64),
        ValueType::I32 => Value::Signed(wide as u32 as i32 as i64),
        ValueType::I64 => Value::Signed(wide as i64),
        ValueType::F32 => Value::Float(f64::from(f32::from_bits(wide as u32))),
        ValueType::F64 => Value::Float(f64::from_bits(wide)),
        ValueType::Bool if bytes[0] > 1 => return Err(bytes[0]),
        ValueType::Bool => Value::Bool(bytes[0] == 1),
        // Not scalars; their callers read them otherwise.
        ValueType::Str | ValueType::Array => Value::Unsigned(wide),
    })
}

fn alignment(scan: &Scanner<'_>, entries: &[Entry]) -> Result<u64> {
    let key = "general.alignment";
    let field = Field::Name(key);
    let Some(entry) = entries.iter().find(|e| &*e.key == key) else { return Ok(DEFAULT_ALIGNMENT) };
    let (&Value::Unsigned(value), ValueType::U32) = (&entry.value, entry.ty) else {
        return Err(scan.error(field, format!("is of type {}, it must be a u32; {AGAIN}", entry.ty)));
    };
    let (least, most) = limits::ALIGNMENT;
    if !value.is_power_of_two() || value < least || value > most {
        return Err(scan.error(field, format!("is {value}, it must be a power of two from {least} to {most}; {AGAIN}")));
    }
    Ok(value)
}

/// A tensor's entry; `offset` is still relative to the data section.
fn tensor(scan: &mut Scanner<'_>, n: u64, alignment: u64) -> Result<TensorInfo> {
    let field = Field::Nth("tensor", n, "name");
    let name: Box<str> = scan.string(field, limits::NAME)?.into();
    if name.is_empty() {
        return Err(scan.error(field, format!("the name is empty; {AGAIN}")));
    }
    let field = Field::Part(&name, "n_dims");
    let n_dims = scan.u32(field)?;
    if n_dims == 0 || n_dims > limits::DIMS {
        return Err(scan.error(field, format!("is {n_dims}, a tensor has 1 to {} dimensions; {AGAIN}", limits::DIMS)));
    }
    let field = Field::Part(&name, "dims");
    let mut dims = [1u64; limits::DIMS as usize];
    for dim in &mut dims[..n_dims as usize] {
        *dim = scan.u64(field)?;
    }
    if let Some(zero) = dims.iter().position(|&d| d == 0) {
        return Err(scan.error(field, format!("dimension {zero} is zero; {AGAIN}")));
    }
    let field_type = Field::Part(&name, "type");
    let id = scan.u32(field_type)?;
    let Some(ty) = BlockType::from_id(id) else {
        let why = match id {
            4 | 5 | 31..=33 | 36..=38 => "was withdrawn from ggml: requantize the model with a current llama.cpp",
            _ => "is not one Ullage knows: a newer format, or a damaged file",
        };
        return Err(scan.error(field_type, format!("tensor type {id} {why}")));
    };
    let shown = || format!("{:?}", &dims[..n_dims as usize]);
    let too_many = |scan: &Scanner<'_>| {
        scan.error(field, format!("{} has more elements than any file can hold; {AGAIN}", shown()))
    };
    let rows = dims[1..].iter().try_fold(1u64, |product, &d| product.checked_mul(d));
    let elements = rows.and_then(|rows| rows.checked_mul(dims[0]));
    let (Some(rows), Some(_)) = (rows, elements) else { return Err(too_many(scan)) };
    let (Ok(rows), Ok(cols)) = (usize::try_from(rows), usize::try_from(dims[0])) else { return Err(too_many(scan)) };
    if !cols.is_multiple_of(ty.elems()) {
        return Err(scan.error(
            field,
            format!(
                "rows of {cols} elements are not whole blocks: {ty} stores {} elements a block; {AGAIN}",
                ty.elems()
            ),
        ));
    }
    let bytes = ty.row_bytes(cols).and_then(|row| (row as u64).checked_mul(rows as u64));
    let Some(bytes) = bytes else { return Err(too_many(scan)) };
    let field = Field::Part(&name, "offset");
    let offset = scan.u64(field)?;
    if !offset.is_multiple_of(alignment) {
        return Err(
            scan.error(field, format!("is {offset}, not a multiple of the file's alignment {alignment}; {AGAIN}"))
        );
    }
    Ok(TensorInfo { name, ty, dims, n_dims: n_dims as u8, rows, cols, offset, bytes })
}

/// Makes offsets absolute; every tensor must lie within the file and none on another.
fn place(scan: &Scanner<'_>, tensors: &mut [TensorInfo], data_start: u64, len: u64) -> Result<()> {
    for t in tensors.iter_mut() {
        let end = t.offset.checked_add(data_start).and_then(|at| Some((at, at.checked_add(t.bytes)?)));
        match end {
            Some((at, end)) if end <= len => t.offset = at,
            _ => {
                let short = end.map_or(u64::MAX, |(_, end)| end - len);
                return Err(scan.error(
                    Field::Part(&t.name, "offset"),
                    format!(
                        "its {} bytes at offset {} of the data end {short} bytes behind the end of the file ({len} bytes); \
                         the download was cut short or the file is damaged: fetch it again",
                        t.bytes, t.offset
                    ),
                ));
            }
        }
    }
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| tensors[i as usize].offset);
    for pair in order.windows(2) {
        let (a, b) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if a.offset + a.bytes > b.offset {
            return Err(scan.error(
                Field::Part(&b.name, "offset"),
                format!(
                    "its data overlaps that of {} by {} bytes; {AGAIN}",
                    plain(&a.name),
                    a.offset + a.bytes - b.offset
                ),
            ));
        }
    }
    Ok(())
}

/// Indices in order of name; the pair at fault when a name stands twice.
pub(super) fn index<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<u32>, (usize, usize)> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let text = |i: u32| name(&items[i as usize]);
    order.sort_unstable_by(|&a, &b| text(a).cmp(text(b)).then(a.cmp(&b)));
    match order.windows(2).find(|pair| text(pair[0]) == text(pair[1])) {
        Some(pair) => Err((pair[0] as usize, pair[1] as usize)),
        None => Ok(order),
    }
}
