//! JSON values one after the other, or in one list: lines, lines set for reading, lists of any length. One value is held at a time.

use std::io::BufRead;

use serde_json::Value;

use super::super::Place;
use crate::error::Result;

/// Bytes of the longest value.
const LONGEST: usize = 16 << 20;

/// Where a scan stands in a value.
#[derive(Default)]
struct Scan {
    value: Vec<u8>,
    /// Brackets and braces that are open.
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Scan {
    /// Takes the next byte of a value; true when it ends the value. A line that ends within a string ends it too: no JSON
    /// goes on after that, and what is wrong is said of this line.
    fn push(&mut self, b: u8) -> bool {
        self.value.push(b);
        if self.string {
            match b {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                b'\n' => return true,
                _ => {}
            }
            return !self.string && self.depth == 0;
        }
        match b {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// Calls `each` with every value of `reader`, which stands at `place`; in a `list` they are between brackets.
pub(super) fn each(
    mut place: Place,
    mut reader: Box<dyn BufRead>,
    list: bool,
    each: &mut dyn FnMut(&Place, &Value) -> Result<()>,
) -> Result<()> {
    let mut scan = Scan::default();
    // The line that is read, the one that a value began on, and whether the list has begun and ended.
    let (mut line, mut begun, mut ended) = (1, !list, false);
    let mut value = |scan: &mut Scan, place: &Place| -> Result<()> {
        let value = parse(&scan.value, place)?;
        *scan = Scan::default();
        each(place, &value)
    };
    loop {
        let chunk = reader.fill_buf().map_err(|e| place.wrong(format!("cannot be read: {e}")))?;
        if chunk.is_empty() {
            break;
        }
        for &b in chunk {
            if scan.value.is_empty() {
                place.line = line;
                match b {
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    b'[' if !begun => begun = true,
                    b']' if list && begun && !ended => ended = true,
                    b',' if list && begun && !ended => {}
                    _ if ended => return Err(place.wrong("goes on after its list has ended")),
                    _ => {
                        if scan.push(b) {
                            value(&mut scan, &place)?;
                        }
                    }
                }
            // A number or a word, which ends where it ends.
            } else if scan.depth == 0 && !scan.string && (b.is_ascii_whitespace() || (list && matches!(b, b',' | b']')))
            {
                value(&mut scan, &place)?;
                ended |= list && b == b']';
            } else {
                if scan.push(b) {
                    value(&mut scan, &place)?;
                }
                if scan.value.len() > LONGEST {
                    return Err(place.wrong(format!("a value longer than {}", crate::Bytes(LONGEST as u64))));
                }
            }
            line += usize::from(b == b'\n');
        }
        let read = chunk.len();
        reader.consume(read);
    }
    if !scan.value.is_empty() {
        value(&mut scan, &place)?;
    }
    if list && !ended {
        place.line = line;
        return Err(place.wrong("ends before its list does; it is cut short"));
    }
    Ok(())
}

fn parse(bytes: &[u8], place: &Place) -> Result<Value> {
    let text = std::str::from_utf8(bytes.trim_ascii_end()).map_err(|e| {
        place.wrong(format!("byte {} of the record is not UTF-8; save the file as UTF-8", e.valid_up_to() + 1))
    })?;
    serde_json::from_str(text)
        .map_err(|e| place.wrong(format!("is not JSON: {}", e.to_string().replace("line 1 column", "column"))))
}
