//! Tables: a line of names, then a record a line.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::super::Place;
use super::record;
use crate::error::Result;

/// What parts the columns of a table that begins so; none where it is no table. Its name says that it is one, or its first line has
/// the names of a record's fields and as many columns follow.
pub(super) fn delimiter(head: &[u8], named: &str) -> Option<u8> {
    let of_name = match named {
        "csv" => Some(b','),
        "tsv" | "tab" => Some(b'\t'),
        _ => None,
    };
    let columns = |delimiter: u8| -> Option<(Vec<String>, usize)> {
        let mut rows = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(head)
            .into_records();
        let names = rows.next()?.ok()?.iter().map(|name| name.trim().to_owned()).collect();
        let next = rows.next().and_then(|row| row.ok()).map_or(0, |row| row.len());
        Some((names, next))
    };
    let fits = |delimiter: &u8| {
        columns(*delimiter)
            .is_some_and(|(names, next)| names.len() > 1 && next == names.len() && record::is_form(&names))
    };
    [b',', b'\t', b';'].into_iter().find(fits).or(of_name)
}

/// Calls `each` with every row of `reader`.
pub(super) fn each(
    mut place: Place,
    reader: Box<dyn BufRead>,
    delimiter: u8,
    each: &mut dyn FnMut(&Place, &Value) -> Result<()>,
) -> Result<()> {
    let mut table = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
    let wrong = |place: &Place, e: csv::Error| place.wrong(format!("is no row of the table: {e}"));
    let names: Vec<String> =
        table.headers().map_err(|e| wrong(&place, e))?.iter().map(|name| name.trim().to_owned()).collect();
    let mut row = csv::StringRecord::new();
    loop {
        place.line = usize::try_from(table.position().line()).unwrap_or(usize::MAX);
        match table.read_record(&mut row) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) => return Err(wrong(&place, e)),
        }
        let fields: Map<String, Value> =
            names.iter().zip(&row).map(|(name, cell)| (name.clone(), cell_of(cell))).collect();
        each(&place, &fields.into())?;
    }
}

/// What a cell holds: text, or a list that was written out as JSON.
pub(super) fn cell_of(cell: &str) -> Value {
    match serde_json::from_str(cell) {
        Ok(Value::Array(list)) if list.iter().all(Value::is_object) && !list.is_empty() => Value::Array(list),
        _ => Value::String(cell.to_owned()),
    }
}
