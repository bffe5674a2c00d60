//! Files to records: JSON in lines or as a list, tables as text or in Parquet, plain text. What a file is, its content says; its name decides only where
//! the content leaves it open.

mod parquet;
mod record;
mod table;
mod text;
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use serde_json::Value;

pub(super) use record::{CALLS, Extra, Pair, Record, TOOLS, Turn, What, joined};

use super::source::Source;
use super::{LARGEST, Place, Split};
use crate::error::{Error, Result};

/// This data.
pub static SOURCE: Source = Source {
    form: "a file",
    what: "the documents of a file of JSON (in lines or a list), of a table (CSV, TSV, Parquet), or of plain text",
    made: false,
    text: true,
    takes: |data| !data.is_empty(),
    open: super::packed,
};

/// Bytes by which a file is told.
const HEAD: usize = 64 << 10;
/// Fields that are listed by name.
const NAMED: usize = 8;

/// What a file was read as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Such as `JSON lines`.
    pub kind: &'static str,
    /// Records read.
    pub records: usize,
    /// Fields of records that nothing was made of, and in how many.
    pub unused: BTreeMap<String, usize>,
}

impl Told {
    /// What the file had and nothing was made of, as a sentence; none where all was used.
    pub fn unused(&self) -> Option<String> {
        let mut list: Vec<(&String, &usize)> = self.unused.iter().collect();
        list.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        let names: Vec<String> =
            list.iter().take(NAMED).map(|(name, n)| format!("`{}` ({n})", name.escape_debug())).collect();
        let more = if list.len() > NAMED { format!(" and {} more", list.len() - NAMED) } else { String::new() };
        (!names.is_empty())
            .then(|| format!("fields of the {} records that are not used: {}{more}", self.records, names.join(", ")))
    }
}

/// What a head looks like.
enum Kind {
    Values { list: bool },
    Table(u8),
    Parquet,
    Text,
}

/// Calls `each` with every record of `path` and its place, which gives the fields that nothing was made of; says what the file is.
///
/// # Errors
/// [`Error::Config`] at `key` naming the file, the line and the field; what `each` returns.
pub(super) fn each(
    key: &str,
    path: &Path,
    split: Split,
    each: &mut dyn FnMut(&Place, Record) -> Result<Vec<String>>,
) -> Result<Told> {
    let (mut reader, named) = open(key, path)?;
    let mut place = Place { key: key.into(), path: path.into(), line: 1, rows: false };
    let head = reader.fill_buf().map_err(|e| place.wrong(format!("cannot be read: {e}")))?;
    let kind = kind(head, &named);
    let mut told = Told {
        kind: match &kind {
            Kind::Values { list: true } => "a JSON list",
            Kind::Values { list: false } => "JSON lines",
            Kind::Table(b'\t') => "a table (TSV)",
            Kind::Table(_) => "a table (CSV)",
            Kind::Parquet => "a table (Parquet)",
            Kind::Text => "plain text",
        },
        ..Told::default()
    };
    let mut whole = |place: &Place, value: &Value| -> Result<()> {
        let record = record::record(value).map_err(|message| place.wrong(message))?;
        told.records += 1;
        for name in each(place, record)? {
            *told.unused.entry(name).or_default() += 1;
        }
        Ok(())
    };
    match kind {
        Kind::Values { list } => values::each(place, reader, list, &mut whole)?,
        Kind::Table(delimiter) => table::each(place, reader, delimiter, &mut whole)?,
        Kind::Parquet => {
            place.rows = true;
            parquet::each(place, &mut whole)?;
        }
        Kind::Text => {
            let mut records = 0;
            text::each(place, reader, split, &mut |place, text| {
                records += 1;
                each(place, Record::text(text)).map(drop)
            })?;
            told.records = records;
        }
    }
    Ok(told)
}

/// The file from after its byte order mark, as UTF-8; and how its name ends, in small letters.
fn open(key: &str, path: &Path) -> Result<(Box<dyn BufRead>, String)> {
    let wrong = |message: String| Error::config(key, format!("{} {message}", path.display()));
    let io = |e: std::io::Error| Error::config(key, format!("cannot read {}: {e}", path.display()));
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(wrong("is not a file".into()));
    }
    if meta.len() > LARGEST {
        return Err(wrong(format!(
            "has {}, and at most {} are read at once: split it",
            crate::Bytes(meta.len()),
            crate::Bytes(LARGEST)
        )));
    }
    let named = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    // A file that grows while it is read is read as far as it was long.
    let mut reader = BufReader::with_capacity(HEAD, File::open(path).map_err(io)?.take(meta.len()));
    let head = reader.fill_buf().map_err(io)?;
    if let Some((_, what, instead)) = OTHERS.iter().find(|(begins, ..)| head.starts_with(begins)) {
        return Err(wrong(format!("is {what}; {instead}")));
    }
    match head {
        [0xef, 0xbb, 0xbf, ..] => {
            reader.consume(3);
            Ok((Box::new(reader), named))
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            let little = head[0] == 0xff;
            let mut bytes = Vec::with_capacity(meta.len() as usize);
            reader.read_to_end(&mut bytes).map_err(io)?;
            let units = bytes[2..]
                .chunks_exact(2)
                .map(|b| if little { u16::from_le_bytes([b[0], b[1]]) } else { u16::from_be_bytes([b[0], b[1]]) });
            let text: String = char::decode_utf16(units)
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| wrong("begins as UTF-16 and is none; save it as UTF-8".into()))?;
            Ok((Box::new(Cursor::new(text)), named))
        }
        _ => Ok((Box::new(reader), named)),
    }
}

/// Files that are told and not read: how they begin, what they are, and what to do.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (&[0x1f, 0x8b], "compressed (gzip)", "unpack it first: gunzip FILE"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "compressed (zstd)", "unpack it first: unzstd FILE"),
    (b"PK\x03\x04", "an archive (zip), or a spreadsheet", "unpack it, or save its table as CSV"),
    (b"SQLite format 3\0", "a database", "save its table as CSV"),
];

fn kind(head: &[u8], named: &str) -> Kind {
    let json = ["json", "jsonl", "ndjson"].contains(&named);
    let start = head.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(head.len());
    let rest = &head[start..];
    if head.starts_with(parquet::MAGIC) {
        return Kind::Parquet;
    }
    match rest.first() {
        Some(b'{') if json || begins_with_object(rest) => Kind::Values { list: false },
        // Records in a list; a line of a .jsonl file may itself be a list, which is no record.
        Some(b'[') => {
            let inner = rest[1..].iter().position(|b| !b.is_ascii_whitespace()).map(|at| &rest[1 + at..]);
            let objects = inner.is_some_and(|inner| inner.starts_with(b"{") && (json || begins_with_object(inner)));
            match objects || named == "json" {
                true => Kind::Values { list: true },
                false if json => Kind::Values { list: false },
                false => Kind::Text,
            }
        }
        Some(_) if json => Kind::Values { list: false },
        _ => table::delimiter(rest, named).map_or(Kind::Text, Kind::Table),
    }
}

/// Whether what begins here is a JSON object, as far as it can be seen.
fn begins_with_object(head: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(head).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => true,
        Some(Err(e)) => e.is_eof() && head.len() > HEAD / 2,
        None => false,
    }
}
