//! Plain text: documents between blank lines, or one.

use std::io::{BufRead, Read};

use super::super::{LARGEST, Place, Split};
use crate::error::Result;

/// The next line of a reader; `None` at the end of the file.
fn line(place: &Place, reader: &mut dyn BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.take(LARGEST + 1).read_until(b'\n', &mut bytes).map_err(|e| place.wrong(format!("cannot be read: {e}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        place.wrong(format!(
            "byte {} of the line is not UTF-8; save the file as UTF-8",
            e.utf8_error().valid_up_to() + 1
        ))
    })?;
    // Lines end alike, whichever system wrote them.
    if text.ends_with("\r\n") {
        text.truncate(text.len() - 2);
        text.push('\n');
    }
    Ok(Some(text))
}

/// Calls `each` with every document of `reader`.
pub(super) fn each(
    mut place: Place,
    mut reader: Box<dyn BufRead>,
    split: Split,
    each: &mut dyn FnMut(&Place, String) -> Result<()>,
) -> Result<()> {
    let mut document = String::new();
    let mut here = place.clone();
    loop {
        let next = line(&here, &mut reader)?;
        let ends = match &next {
            None => true,
            Some(line) => split == Split::BlankLines && line.trim().is_empty(),
        };
        if ends && !document.trim().is_empty() {
            each(&place, document.trim_end_matches(['\r', '\n']).to_owned())?;
        }
        let Some(line) = next else { return Ok(()) };
        if ends {
            document.clear();
        } else {
            if document.is_empty() {
                place.line = here.line;
            }
            document.push_str(&line);
        }
        here.line += 1;
    }
}
