//! How a head of a layer is laid out, and how many bytes its room takes: the one formula of the plan and of the run.

use std::sync::Arc;

use super::{Alloc, Format, Page, RowMeta, Seal};
use crate::ledger::{ALIGN, Blocks};

/// Bytes of a layer's own record and of a head's, what the allocator puts beside them included.
pub(super) const RECORDS: [usize; 2] = [448, 448];

/// Bytes of one open row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Elements of a head.
    pub d: usize,
    /// Bytes of a key.
    pub k: usize,
    /// Bytes of a value.
    pub v: usize,
    /// What lies beside them.
    pub meta: RowMeta,
}

impl RowLayout {
    /// Bytes of one row, metadata included.
    pub fn bytes(&self) -> usize {
        self.k + self.v + 4 * usize::from(self.meta.score) + 4 * usize::from(self.meta.position)
    }
}

/// Rows of one side of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that are sealed.
    pub sealed: usize,
    /// Most rows that were ever open.
    pub open: usize,
}

/// How one side of a head is kept.
#[derive(Clone)]
pub struct SideLayout {
    /// Of open rows.
    pub format: Arc<dyn Format>,
    /// Of older ones, where they are kept otherwise.
    pub seal: Option<Arc<dyn Seal>>,
    /// Bytes of an open row.
    pub open: usize,
}

impl SideLayout {
    /// Rows sealed of a prompt that leaves `rows` rows.
    pub fn at_prompt(&self, rows: usize) -> usize {
        self.seal.as_ref().map_or(0, |s| s.at_prompt(rows))
    }

    fn counts(&self, prompt: usize, rows: usize) -> Counts {
        self.seal.as_ref().map_or(Counts { sealed: 0, open: rows }, |s| s.counts(prompt, rows))
    }

    fn group(&self) -> usize {
        self.seal.as_ref().map_or(1, |s| s.group().max(1))
    }

    fn group_bytes(&self) -> usize {
        self.seal.as_ref().map_or(0, |s| s.group_bytes())
    }

    /// Bytes kept for each head.
    pub fn state(&self) -> usize {
        self.seal.as_ref().map_or(0, |s| s.state_bytes())
    }

    fn scratch(&self, d: usize) -> usize {
        self.seal.as_ref().map_or(0, |s| (s.group() * d).max(s.scratch()))
    }
}

/// How every head of a layer is laid out.
#[derive(Clone)]
pub struct HeadLayout {
    /// Of an open row.
    pub row: RowLayout,
    /// Keys.
    pub k: SideLayout,
    /// Values.
    pub v: SideLayout,
    /// What the reader keeps of runs of rows.
    pub page: Option<Page>,
    /// Bytes the merge remembers of each head.
    pub merge_state: usize,
}

impl std::fmt::Debug for HeadLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeadLayout").field("row", &self.row).field("page", &self.page).finish_non_exhaustive()
    }
}

/// The kinds of room of a head, in the order of [`HeadLayout::units`].
pub(super) const REGIONS: usize = 7;

/// Units of one kind of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units {
    /// Bytes of a unit.
    pub bytes: usize,
    /// Rows that a unit stands for.
    pub rows: usize,
    /// Units.
    pub count: usize,
}

impl HeadLayout {
    /// The same without anything that is sealed, remembered or kept for a reader: how a prompt is staged.
    #[must_use]
    pub fn staged(&self) -> Self {
        let open = |side: &SideLayout| SideLayout { seal: None, ..side.clone() };
        Self { row: self.row, k: open(&self.k), v: open(&self.v), page: None, merge_state: 0 }
    }

    /// True when rows are kept otherwise once they are older.
    pub fn seals(&self) -> bool {
        self.k.seal.is_some() || self.v.seal.is_some()
    }

    /// Bytes kept for each head beside its rows.
    pub fn state(&self) -> usize {
        self.k.state() + self.v.state() + self.merge_state
    }

    /// Elements of scratch that sealing and the reader need.
    pub fn scratch(&self) -> usize {
        let d = self.row.d;
        let pages = self.page.map_or(0, |p| p.rows * d);
        self.k.scratch(d).max(self.v.scratch(d)).max(pages)
    }

    /// What a head has room for that kept `prompt` rows at the prompt's end and has held `rows`: scores, positions, sealed and
    /// open keys, sealed and open values, pages.
    pub(super) fn units(&self, prompt: usize, rows: usize) -> [Units; REGIONS] {
        let meta = self.row.meta;
        let flag = |on: bool| Units { bytes: if on { 4 } else { 0 }, rows: 1, count: rows };
        let side = |s: &SideLayout| {
            let c = s.counts(prompt.min(rows), rows);
            let group = s.group();
            let sealed = Units { bytes: s.group_bytes(), rows: group, count: c.sealed / group };
            [sealed, Units { bytes: s.open, rows: 1, count: c.open }]
        };
        let ([ks, ko], [vs, vo]) = (side(&self.k), side(&self.v));
        let page = self.page.unwrap_or(Page { rows: 1, bytes: 0 });
        let pages = Units { bytes: page.bytes, rows: page.rows, count: rows.div_ceil(page.rows) };
        [flag(meta.score), flag(meta.position), ks, ko, vs, vo, pages]
    }

    /// Units of a chunk of each kind, for a head that will hold at most `capacity` rows.
    pub(super) fn chunks(&self, alloc: &dyn Alloc, prompt: usize, capacity: usize) -> [usize; REGIONS] {
        self.units(prompt, capacity).map(|u| alloc.chunk_rows(u.count * u.rows).div_ceil(u.rows).max(1))
    }

    /// Bytes of the room of a head that kept `prompt` rows at the prompt's end, has held `rows` and may hold `capacity`.
    pub fn bytes(&self, alloc: &dyn Alloc, prompt: usize, rows: usize, capacity: usize) -> u64 {
        let most = self.units(prompt, capacity);
        let now = if alloc.upfront() { most } else { self.units(prompt, rows.min(capacity)) };
        let chunks = self.chunks(alloc, prompt, capacity);
        let of = |i: usize| (now[i].count.min(most[i].count).next_multiple_of(chunks[i]) * now[i].bytes) as u64;
        (0..REGIONS).map(of).sum()
    }

    /// The most bytes that `heads` heads take which hold `rows` rows together, however those are shared out; nothing is sealed.
    pub fn bytes_shared(&self, alloc: &dyn Alloc, heads: usize, rows: usize) -> u64 {
        let of = |u: Units| {
            let chunk = if alloc.upfront() { 1 } else { alloc.chunk_rows(rows).div_ceil(u.rows).max(1) };
            // Each head's last chunk holds one row at least: Σ ⌈rows_h / c⌉ ≤ ⌊(rows + heads · (c − 1)) / c⌋.
            let whole = chunk * u.rows;
            ((rows + heads * (whole - 1)) / whole * chunk * u.bytes) as u64
        };
        self.units(rows, rows).map(of).iter().sum()
    }

    /// Bytes of the records of a layer of `heads` heads.
    pub fn tables(&self, heads: usize) -> u64 {
        let [layer, head] = RECORDS;
        (layer + heads * head) as u64
    }

    /// Bytes that finding the chunks of [`Self::bytes`] takes.
    pub fn chunk_tables(&self, alloc: &dyn Alloc, prompt: usize, rows: usize, capacity: usize) -> u64 {
        let most = self.units(prompt, capacity);
        let now = if alloc.upfront() { most } else { self.units(prompt, rows.min(capacity)) };
        let chunks = self.chunks(alloc, prompt, capacity);
        let of = |i: usize| match now[i].bytes {
            0 => 0,
            bytes => now[i].count.min(most[i].count).div_ceil(chunks[i]) * Blocks::table_bytes(bytes * chunks[i]),
        };
        (0..REGIONS).map(of).sum::<usize>() as u64
    }

    /// The most that finding the chunks of [`Self::bytes_shared`] takes.
    pub fn chunk_tables_shared(&self, alloc: &dyn Alloc, heads: usize, rows: usize) -> u64 {
        let of = |u: &Units| {
            if u.bytes == 0 {
                return 0;
            }
            if alloc.upfront() {
                // One chunk a head, of a size that is known later.
                return heads * (Blocks::table_bytes(0) + ALIGN);
            }
            let chunk = alloc.chunk_rows(rows).div_ceil(u.rows).max(1);
            let whole = chunk * u.rows;
            (rows + heads * (whole - 1)) / whole * Blocks::table_bytes(chunk * u.bytes)
        };
        self.units(rows, rows).iter().map(of).sum::<usize>() as u64
    }
}
