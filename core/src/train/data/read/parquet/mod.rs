//! Parquet: tables as most published data sets are kept.
//!
//! The crate `parquet` reads them. It gives room for what a header says before it has seen it, so headers are held to the file
//! first ([`thrift`]): what a page unpacks to, and how many values it has, is no more than its bytes can hold.

mod thrift;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Number, Value};

use super::super::{LARGEST, Place};
use super::{record, table};
use crate::error::Result;
use thrift::Page;

/// How a file begins and ends.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Bytes of the largest footer that is read.
const LARGEST_FOOTER: u64 = 32 << 20;
/// Deepest nesting of a schema: lists of structs of lists take two levels each.
const DEEPEST: usize = 48;
/// Bytes within which a page's header ends.
const HEADERS: [usize; 2] = [4 << 10, 1 << 20];
/// Values of a column with lists that any page may have, and further ones for each of its bytes.
const VALUES: (i64, i64) = (1 << 16, 256);
/// Values that are assembled at a time.
const BATCH: usize = 256;
/// Bytes that a value costs beside its own.
const OVERHEAD: u64 = 32;

/// Calls `each` with every row of the file at `place`. Columns that no record has are not read.
pub(super) fn each(mut place: Place, each: &mut dyn FnMut(&Place, &Value) -> Result<()>) -> Result<()> {
    let whole = |message: String| place.whole(message);
    let io = |e: std::io::Error| place.whole(format!("cannot be read: {e}"));
    let mut file = File::open(&place.path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    check_footer(&mut file, length).map_err(whole)?;
    let reader = sound(|| SerializedFileReader::new(file.try_clone()?)).map_err(whole)?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema();
    let (taken, left): (Vec<&TypePtr>, Vec<&TypePtr>) =
        schema.get_fields().iter().partition(|field| record::is_known(field.name()));
    // They are named as the fields of a record are, without their values.
    let others: Vec<String> = left.iter().map(|field| field.name().to_owned()).collect();
    if taken.is_empty() {
        let row: Map<String, Value> = others.into_iter().map(|name| (name, true.into())).collect();
        return each(&place, &row.into());
    }
    let mut unpacked = 0;
    for group in metadata.row_groups() {
        check_group(&mut file, length, group, &mut unpacked).map_err(whole)?;
    }
    let fields = taken.into_iter().cloned().collect();
    let mut rows = sound(|| {
        let chosen = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
        Ok(RowIter::from_file(Some(chosen), &reader)?.with_batch_size(BATCH))
    })
    .map_err(whole)?;
    let mut held = 0;
    place.line = 0;
    while let Some(row) = sound(|| rows.next().transpose()).map_err(|e| place.whole(e))? {
        place.line += 1;
        let mut value = Map::new();
        for (name, field) in row.into_columns() {
            let cell = json(field, 0).map_err(|e| place.wrong(format!("field `{}`: {e}", name.escape_debug())))?;
            let cell = if let Value::String(text) = &cell { table::cell_of(text) } else { cell };
            held += size(&cell);
            value.insert(name, cell);
        }
        if held > LARGEST {
            let most = crate::Bytes(LARGEST);
            return Err(place.whole(format!("holds more than {most} unpacked, and no more is read at once: split it")));
        }
        value.extend(others.iter().map(|name| (name.clone(), true.into())));
        each(&place, &value.into())?;
    }
    Ok(())
}

/// What the crate answers, and its panics as answers: it was not made for files that lie.
fn sound<T>(work: impl FnOnce() -> parquet::errors::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(format!("is a Parquet table that is damaged or of a kind that is not read: {e}")),
        Err(_) => Err("is a Parquet table that is damaged: its pages do not fit its schema".into()),
    }
}

fn read_at(file: &mut File, at: u64, n: usize) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(n as u64).read_to_end(&mut out)?;
    Ok(out)
}

/// Holds the footer to what a file of `length` bytes can have.
fn check_footer(file: &mut File, length: u64) -> std::result::Result<(), String> {
    let io = |e: std::io::Error| format!("cannot be read: {e}");
    let cut = || Err("begins as a Parquet table and does not end as one: it is cut short; fetch it again".to_owned());
    if length < 12 {
        return cut();
    }
    let tail = read_at(file, length - 8, 8).map_err(io)?;
    if tail.get(4..) != Some(MAGIC) {
        return cut();
    }
    let bytes = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if bytes > length - 12 || bytes > LARGEST_FOOTER {
        return Err(format!("is a Parquet table that is damaged: a footer of {bytes} bytes in a file of {length}"));
    }
    let footer = read_at(file, length - 8 - bytes, bytes as usize).map_err(io)?;
    match thrift::schema_depth(&footer) {
        Some(depth) if depth <= DEEPEST => Ok(()),
        Some(depth) => Err(format!("is a Parquet table whose schema nests {depth} deep; {DEEPEST} are read")),
        None => Err("is a Parquet table whose footer is damaged; fetch it again".into()),
    }
}

/// Holds the pages of the columns that are read to the bytes they have; adds to `unpacked` what they unpack to.
fn check_group(
    file: &mut File,
    length: u64,
    group: &RowGroupMetaData,
    unpacked: &mut u64,
) -> std::result::Result<(), String> {
    let known =
        |column: &&ColumnChunkMetaData| column.column_path().parts().first().is_some_and(|name| record::is_known(name));
    for column in group.columns().iter().filter(known) {
        let name = column.column_path().string();
        let bad =
            |what: &str| format!("is a Parquet table that is damaged: {what} in its column `{}`", name.escape_debug());
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let (Ok(start), Ok(bytes)) = (u64::try_from(start), u64::try_from(column.compressed_size())) else {
            return Err(bad("a place before the file's beginning"));
        };
        let end =
            start.checked_add(bytes).filter(|end| *end <= length).ok_or_else(|| bad("pages past the file's end"))?;
        let lists = column.column_descr().max_rep_level() > 0;
        let (mut at, mut values) = (start, 0);
        while at < end && values < column.num_values() {
            let page = header(file, at, end).map_err(|e| format!("cannot be read: {e}"))?;
            let page = page.ok_or_else(|| bad("no header of a page"))?;
            at += page.header as u64;
            let packed = u64::try_from(page.packed).ok().filter(|n| *n <= end - at);
            let packed = packed.ok_or_else(|| bad("a page past the column's end"))?;
            let most = most(column.compression(), packed);
            let size = u64::try_from(page.unpacked).ok().filter(|n| *n <= most);
            let size = size.ok_or_else(|| bad("a page of more than its bytes can hold"))?;
            // A value takes a bit at least in a dictionary; of rows any number may be the same one.
            let many = page.dictionary.max(page.values) < 0
                || page.dictionary > page.unpacked.saturating_mul(8)
                || lists && page.values > VALUES.0.saturating_add(page.unpacked.saturating_mul(VALUES.1));
            if many || page.values < 0 {
                return Err(bad("a page of more values than its bytes can hold"));
            }
            *unpacked += size;
            if *unpacked > LARGEST {
                let most = crate::Bytes(LARGEST);
                return Err(format!("unpacks to more than {most}, and no more is read at once: split it"));
            }
            at += packed;
            values = values.saturating_add(page.values);
        }
    }
    Ok(())
}

/// The header of the page at `at`.
fn header(file: &mut File, at: u64, end: u64) -> std::io::Result<Option<Page>> {
    for most in HEADERS {
        let bytes = read_at(file, at, usize::try_from(end - at).unwrap_or(most).min(most))?;
        let page = Page::read(&bytes);
        if page.is_some() || bytes.len() < most {
            return Ok(page);
        }
    }
    Ok(None)
}

/// Bytes that `packed` ones can unpack to: a copy of up to 64 bytes takes three in Snappy, one of any length a byte for every 255
/// in LZ4, 258 bytes two bits in Deflate, and a block of 128 KiB four bytes in Zstandard.
fn most(codec: Compression, packed: u64) -> u64 {
    let times = match codec {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => 32,
        Compression::LZ4 | Compression::LZ4_RAW => 256,
        Compression::GZIP(_) => 1040,
        _ => 32 << 10,
    };
    packed.saturating_mul(times).saturating_add(64)
}

/// About what a value costs in memory.
fn size(value: &Value) -> u64 {
    OVERHEAD
        + match value {
            Value::String(text) => text.len() as u64,
            Value::Array(list) => list.iter().map(size).sum(),
            Value::Object(map) => map.iter().map(|(key, value)| OVERHEAD + key.len() as u64 + size(value)).sum(),
            _ => 0,
        }
}

/// A field as JSON. A table has every key in every row: what is null within a row is not there, but for what is said.
fn json(field: Field, depth: usize) -> std::result::Result<Value, String> {
    let float = |n: f64| Number::from_f64(n).map_or(Value::Null, Value::Number);
    if depth > DEEPEST {
        return Err(format!("nests more than {DEEPEST} deep"));
    }
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(is) => is.into(),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) | Field::Date(n) | Field::TimeMillis(n) => n.into(),
        Field::Long(n) | Field::TimeMicros(n) | Field::TimestampMillis(n) | Field::TimestampMicros(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float16(n) => float(f64::from(n.to_f32())),
        Field::Float(n) => float(f64::from(n)),
        Field::Double(n) => float(n),
        Field::Decimal(_) => field.to_string().into(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err("is bytes that are no text (UTF-8)".into()),
        },
        Field::Group(row) => {
            let mut out = Map::new();
            for (name, field) in row.into_columns() {
                let value = json(field, depth + 1)?;
                if !value.is_null() || record::is_said(&name) {
                    out.insert(name, value);
                }
            }
            out.into()
        }
        Field::ListInternal(list) => {
            list.elements().iter().map(|item| json(item.clone(), depth + 1)).collect::<std::result::Result<_, _>>()?
        }
        Field::MapInternal(map) => {
            let mut out = Map::new();
            for (key, value) in map.entries() {
                let key = match json(key.clone(), depth + 1)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                out.insert(key, json(value.clone(), depth + 1)?);
            }
            out.into()
        }
    })
}
