//! Reading a header that nobody has vouched for: every length is held against the bytes that are left before it is used.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes read from the file at once while scanning; on an engine thread a larger block would have to be a buffer.
const CHUNK: usize = 64 << 10;

/// What a damaged file needs, said once.
pub(super) const AGAIN: &str = "the file is damaged or cut short: download or convert it again";

/// The header field a message is about. Copied freely: it becomes text only when something is wrong.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    /// A field known by name: a key, a tensor, `magic`.
    Name(&'a str),
    /// Part of the n-th entry of a list whose name is not known yet: `metadata[3].key`.
    Nth(&'static str, u64, &'static str),
    /// One element of an array: `tokenizer.ggml.tokens[17]`.
    Element(&'a str, u64),
    /// A part of a named thing: `blk.0.attn_q.weight.dims`.
    Part(&'a str, &'static str),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{}", plain(name)),
            Self::Nth(list, n, part) => write!(f, "{list}[{n}].{part}"),
            Self::Element(name, n) => write!(f, "{}[{n}]", plain(name)),
            Self::Part(name, part) => write!(f, "{}.{part}", plain(name)),
        }
    }
}

/// Text from the file as it may be shown: control characters escaped, and no more than a line of it.
pub(super) fn plain(text: &str) -> String {
    const MOST: usize = 96;
    let mut shown: String = text.escape_debug().take(MOST).collect();
    if shown.chars().count() == MOST {
        shown.push('…');
    }
    shown
}

/// Reads `into` from `offset` in full. `Ok(n)` with `n < into.len()` says that the file ended there.
pub(super) fn pread(file: &File, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match pread_once(file, offset + done as u64, &mut into[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(unix)]
fn pread_once(file: &File, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

#[cfg(windows)]
fn pread_once(file: &File, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}

/// A cursor over the file between `pos` and `end`, with one reused chunk behind it.
pub(super) struct Scanner<'a> {
    path: &'a Path,
    file: &'a File,
    end: u64,
    pos: u64,
    chunk: Vec<u8>,
    /// File offset of `chunk[0]`, and how much of the chunk is the file's.
    start: u64,
    filled: usize,
}

impl<'a> Scanner<'a> {
    /// Reads `file` from `pos` up to `end`, which must not exceed the file's length.
    pub(super) fn new(path: &'a Path, file: &'a File, pos: u64, end: u64) -> Self {
        Self { path, file, end, pos, chunk: Vec::new(), start: pos, filled: 0 }
    }

    /// The offset of the next byte in the file.
    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes between here and the end.
    pub(super) fn left(&self) -> u64 {
        self.end - self.pos
    }

    pub(super) fn error(&self, field: Field<'_>, message: impl Into<String>) -> Error {
        Error::model(self.path, field.to_string(), message)
    }

    fn need(&self, n: u64, field: Field<'_>) -> Result<()> {
        if n <= self.left() {
            return Ok(());
        }
        Err(self.error(field, format!("needs {n} bytes and {} are left; {AGAIN}", self.left())))
    }

    /// The next `n` bytes. The chunk grows to hold them, so the caller bounds `n`.
    pub(super) fn bytes(&mut self, n: usize, field: Field<'_>) -> Result<&[u8]> {
        self.need(n as u64, field)?;
        if self.pos + n as u64 > self.start + self.filled as u64 {
            self.refill(n, field)?;
        }
        let at = (self.pos - self.start) as usize;
        self.pos += n as u64;
        Ok(&self.chunk[at..at + n])
    }

    fn refill(&mut self, n: usize, field: Field<'_>) -> Result<()> {
        let want = (n.max(CHUNK) as u64).min(self.left()) as usize;
        if self.chunk.len() < want {
            self.chunk.resize(want, 0);
        }
        let got = pread(self.file, self.pos, &mut self.chunk[..want])
            .map_err(|e| Error::io(self.path, format!("cannot read {field}"), &e))?;
        self.start = self.pos;
        self.filled = got;
        if got < n {
            return Err(self.error(field, "the file became shorter while it was read: is it still being downloaded?"));
        }
        Ok(())
    }

    /// Passes over `n` bytes without reading them.
    pub(super) fn skip(&mut self, n: u64, field: Field<'_>) -> Result<()> {
        self.need(n, field)?;
        self.pos += n;
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N, field)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, field: Field<'_>) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: Field<'_>) -> Result<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A string's length, held against `most` and against the bytes left.
    pub(super) fn string_len(&mut self, field: Field<'_>, most: u64) -> Result<u64> {
        let len = self.u64(field)?;
        if len > self.left() {
            return Err(
                self.error(field, format!("declares a string of {len} bytes and {} are left; {AGAIN}", self.left()))
            );
        }
        if len > most {
            return Err(self.error(field, format!("is {len} bytes long; at most {most} are allowed here; {AGAIN}")));
        }
        Ok(len)
    }

    /// A string of at most `most` bytes; an error when it is not UTF-8.
    pub(super) fn string(&mut self, field: Field<'_>, most: u64) -> Result<&str> {
        let len = self.string_len(field, most)?;
        let path = self.path;
        let bytes = self.bytes(len as usize, field)?;
        std::str::from_utf8(bytes).map_err(|e| {
            Error::model(
                path,
                field.to_string(),
                format!("is not valid UTF-8 (byte {} of {len}); {AGAIN}", e.valid_up_to()),
            )
        })
    }
}
