//! Thrift's compact protocol, as far as it takes to see that a Parquet file's headers mean what they say.
//!
//! The reader of the tables believes the numbers in them: a list of two billion items is given room before its first item is read.
//! So every header is walked over first. Nothing is kept of it but a few numbers.

/// Deepest nesting of a header; real ones have six.
const DEEPEST: usize = 24;

const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// A header's bytes, read from the front.
pub(super) struct Thrift<'b> {
    rest: &'b [u8],
}

impl<'b> Thrift<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut out = 0;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            out |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Some(out);
            }
        }
        None
    }

    /// A whole number of any width.
    pub(super) fn number(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// What is in a list: its items' type and how many follow.
    fn list(&mut self) -> Option<(u8, u64)> {
        let head = self.byte()?;
        let n = u64::from(head >> 4);
        Some((head & 0xf, if n == 15 { self.varint()? } else { n }))
    }

    /// Goes through the fields of a struct; what `each` does not read (false) is passed over. Nothing for what is no struct.
    pub(super) fn fields(
        &mut self,
        depth: usize,
        each: &mut dyn FnMut(&mut Self, i64, u8) -> Option<bool>,
    ) -> Option<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = if head >> 4 == 0 { self.number()? } else { id + i64::from(head >> 4) };
            if !each(self, id, head & 0xf)? {
                self.skip(head & 0xf, depth + 1, true)?;
            }
        }
    }

    /// Passes over a value; the one of a truth that is a field is in the field's head.
    fn skip(&mut self, ty: u8, depth: usize, field: bool) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        match ty {
            1 | 2 if field => {}
            1..=3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => drop(self.take(8)?),
            BINARY => {
                let n = self.varint()?;
                self.take(usize::try_from(n).ok()?)?;
            }
            LIST | SET => {
                let (ty, n) = self.list()?;
                for _ in 0..n {
                    self.skip(ty, depth + 1, false)?;
                }
            }
            MAP => {
                let n = self.varint()?;
                let types = if n > 0 { self.byte()? } else { 0 };
                for _ in 0..n {
                    self.skip(types >> 4, depth + 1, false)?;
                    self.skip(types & 0xf, depth + 1, false)?;
                }
            }
            STRUCT => self.fields(depth, &mut |_, _, _| Some(false))?,
            _ => return None,
        }
        Some(())
    }
}

/// How deep the schema of a footer nests; nothing for one that is damaged.
pub(super) fn schema_depth(footer: &[u8]) -> Option<usize> {
    let mut deepest = None;
    let mut thrift = Thrift::new(footer);
    thrift.fields(0, &mut |thrift, id, ty| {
        if (id, ty) != (2, LIST) {
            return Some(false);
        }
        let (STRUCT, n) = thrift.list()? else { return None };
        // Children that are still to come, of each node that is open.
        let (mut open, mut most): (Vec<i64>, usize) = (Vec::new(), 0);
        for _ in 0..n {
            let mut children = 0;
            thrift.fields(1, &mut |thrift, id, ty| {
                let is = (id, ty) == (5, I32);
                if is {
                    children = thrift.number()?;
                }
                Some(is)
            })?;
            if let Some(last) = open.last_mut() {
                *last -= 1;
            }
            if children > 0 {
                open.push(children);
                most = most.max(open.len());
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        deepest = Some(most);
        Some(true)
    })?;
    deepest
}

/// What a page's header says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Page {
    /// Bytes of the header itself.
    pub header: usize,
    /// Bytes unpacked, and as they are in the file.
    pub unpacked: i64,
    pub packed: i64,
    /// Values of a dictionary, or of rows.
    pub dictionary: i64,
    pub values: i64,
}

impl Page {
    /// The header that `bytes` begin with; nothing for what is none, or goes on after them.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut out = Self::default();
        let mut thrift = Thrift::new(bytes);
        thrift.fields(0, &mut |thrift, id, ty| {
            match (id, ty) {
                (2, I32) => out.unpacked = thrift.number()?,
                (3, I32) => out.packed = thrift.number()?,
                // The heads of data pages, old and new, and of a dictionary: all begin with how many values there are.
                (5 | 7 | 8, STRUCT) => {
                    let of = if id == 7 { &mut out.dictionary } else { &mut out.values };
                    thrift.fields(1, &mut |thrift, id, ty| {
                        let is = (id, ty) == (1, I32);
                        if is {
                            *of = thrift.number()?;
                        }
                        Some(is)
                    })?;
                }
                _ => return Some(false),
            }
            Some(true)
        })?;
        out.header = bytes.len() - thrift.left();
        Some(out)
    }
}
