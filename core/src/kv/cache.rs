//! The rows themselves: per (layer, KV head) a list of chunks, each one buffer.
//!
//! A chunk of R rows is laid out `[scores 4·R][positions 4·R][keys k·R][values v·R]`, the first two only when the policy
//! keeps them. Row `r` of a head is row `r mod R` of chunk `r / R`, always in ascending position order.

use std::ops::Range;
use std::sync::Arc;

use super::{Format, RowMeta};
use crate::error::Result;
use crate::ledger::{Buffer, Category, Ledger, Tag};

/// The ledger row of cache payload.
pub const ROWS: Tag = Tag::device(Category::KvCache, "kv rows");
/// The ledger row of the staging layer that holds a whole prompt before it is compressed.
pub const STAGING: Tag = Tag::device(Category::KvCache, "kv staging");

/// Bytes of one row and where its parts lie in a chunk.
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

    fn scores(&self, rows: usize) -> Range<usize> {
        0..if self.meta.score { 4 * rows } else { 0 }
    }

    fn positions(&self, rows: usize) -> Range<usize> {
        let start = self.scores(rows).end;
        start..start + if self.meta.position { 4 * rows } else { 0 }
    }

    fn keys(&self, rows: usize) -> usize {
        self.positions(rows).end
    }

    fn values(&self, rows: usize) -> usize {
        self.keys(rows) + self.k * rows
    }
}

/// The ledger row of the positions that are kept for an observed head.
pub const TRAIL: Tag = Tag::host(Category::Observation, "row positions");

/// Positions of one head's rows, kept beside the cache only to be shown.
#[derive(Debug)]
struct Trail {
    head: usize,
    positions: Buffer,
}

#[derive(Debug, Default)]
struct Head {
    rows: usize,
    chunk_rows: usize,
    chunks: Vec<Buffer>,
}

/// One layer of one sequence's cache.
#[derive(Debug)]
pub struct LayerCache {
    layout: RowLayout,
    heads: Vec<Head>,
    tag: Tag,
    trail: Option<Trail>,
}

impl LayerCache {
    /// An empty layer whose heads make room in chunks of `chunk_rows[head]` rows, counted under `tag`.
    pub fn new(layout: RowLayout, chunk_rows: impl Iterator<Item = usize>, tag: Tag) -> Self {
        let heads = chunk_rows.map(|n| Head { chunk_rows: n.max(1), ..Head::default() }).collect();
        Self { layout, heads, tag, trail: None }
    }

    /// Keeps from now on the position of each row of `head`, which is empty and will hold at most `rows` rows.
    ///
    /// # Errors
    /// When the system has no memory for `4 · rows` bytes.
    pub fn follow(&mut self, ledger: &Arc<Ledger>, head: usize, rows: usize) -> Result<()> {
        self.trail = Some(Trail { head, positions: ledger.buffer(TRAIL, 4 * rows)? });
        Ok(())
    }

    /// Notes that row `row` of `head` is the token at `position`.
    fn note(&mut self, head: usize, row: usize, position: u32) {
        if let Some(trail) = self.trail.as_mut().filter(|t| t.head == head)
            && let Some(slot) = trail.positions.as_mut_slice::<u32>().get_mut(row)
        {
            *slot = position;
        }
    }

    /// Position of a row as far as anything here knows it: followed, kept for the policy, or else the row's own number, which
    /// is right for a cache that has dropped none.
    pub fn position_or_row(&self, head: usize, row: usize) -> u32 {
        let followed = self.trail.as_ref().filter(|t| t.head == head);
        let position = followed.and_then(|t| t.positions.as_slice::<u32>().get(row).copied());
        position.or_else(|| self.position(head, row)).unwrap_or(row as u32)
    }

    /// Bytes and places of a row.
    pub fn layout(&self) -> RowLayout {
        self.layout
    }

    /// KV heads.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Rows of a head.
    pub fn rows(&self, head: usize) -> usize {
        self.heads[head].rows
    }

    /// The longest head.
    pub fn max_rows(&self) -> usize {
        self.heads.iter().map(|h| h.rows).max().unwrap_or(0)
    }

    /// Bytes of its chunks.
    pub fn bytes(&self) -> u64 {
        self.heads.iter().flat_map(|h| &h.chunks).map(|b| b.len() as u64).sum()
    }

    /// Makes room for `rows` rows of `head`.
    ///
    /// # Errors
    /// Over budget; room made before stays.
    pub fn ensure(&mut self, ledger: &Arc<Ledger>, head: usize, rows: usize) -> Result<()> {
        let bytes = self.layout.bytes();
        let h = &mut self.heads[head];
        while h.chunks.len() * h.chunk_rows < rows {
            h.chunks.push(ledger.buffer(self.tag, bytes * h.chunk_rows)?);
        }
        Ok(())
    }

    /// Gives back chunks that hold no row.
    fn trim(&mut self, head: usize) {
        let h = &mut self.heads[head];
        h.chunks.truncate(h.rows.div_ceil(h.chunk_rows));
    }

    /// Appends `rows` rows of `head`, row `i` at `k[i·stride..][..d]`, the first of them at position `first`; room must have
    /// been made.
    pub fn append(
        &mut self,
        head: usize,
        k: &[f32],
        v: &[f32],
        stride: usize,
        first: usize,
        rows: usize,
        formats: (&dyn Format, &dyn Format),
    ) {
        let RowLayout { d, k: kb, v: vb, meta } = self.layout;
        let layout = self.layout;
        for i in 0..rows {
            self.note(head, self.heads[head].rows + i, (first + i) as u32);
        }
        let h = &mut self.heads[head];
        for i in 0..rows {
            let (chunk, at) = (h.rows / h.chunk_rows, h.rows % h.chunk_rows);
            let n = h.chunk_rows;
            let bytes = h.chunks[chunk].as_mut_slice::<u8>();
            let (ks, vs) = (layout.keys(n) + at * kb, layout.values(n) + at * vb);
            formats.0.encode(&k[i * stride..i * stride + d], &mut bytes[ks..ks + kb]);
            formats.1.encode(&v[i * stride..i * stride + d], &mut bytes[vs..vs + vb]);
            if meta.score {
                bytes[layout.scores(n)][4 * at..4 * at + 4].copy_from_slice(&0f32.to_le_bytes());
            }
            if meta.position {
                bytes[layout.positions(n)][4 * at..4 * at + 4].copy_from_slice(&((first + i) as u32).to_le_bytes());
            }
            h.rows += 1;
        }
    }

    /// Drops every row.
    pub fn clear(&mut self, keep_room: bool) {
        for head in 0..self.heads.len() {
            self.heads[head].rows = 0;
            if !keep_room {
                self.trim(head);
            }
        }
    }

    /// Keeps the first `rows` rows of every head.
    pub fn truncate(&mut self, rows: usize, keep_room: bool) {
        for head in 0..self.heads.len() {
            self.heads[head].rows = self.heads[head].rows.min(rows);
            if !keep_room {
                self.trim(head);
            }
        }
    }

    /// Keeps the rows listed in `keep` (ascending), moving them together in place; the room stays, for the rows to come.
    /// Returns the bytes moved.
    pub fn retain(&mut self, head: usize, keep: &[u32]) -> u64 {
        let layout = self.layout;
        let mut moved = 0;
        if let Some(trail) = self.trail.as_mut().filter(|t| t.head == head) {
            let positions = trail.positions.as_mut_slice::<u32>();
            for (to, from) in keep.iter().enumerate() {
                positions[to] = positions[*from as usize];
            }
        }
        let h = &mut self.heads[head];
        let mut to = 0;
        while to < keep.len() {
            let from = keep[to] as usize;
            let run = keep[to..].iter().zip(from..).take_while(|(k, f)| **k as usize == *f).count();
            if to != from {
                moved += h.move_down(layout, from, to, run);
            }
            to += run;
        }
        h.rows = keep.len();
        moved
    }

    /// Drops the first `n` rows of `head`, moving the others up in place. Returns the bytes moved.
    pub fn drop_first(&mut self, head: usize, n: usize) -> u64 {
        let layout = self.layout;
        if let Some(trail) = self.trail.as_mut().filter(|t| t.head == head) {
            let rows = self.heads[head].rows;
            trail.positions.as_mut_slice::<u32>().copy_within(n..rows, 0);
        }
        let h = &mut self.heads[head];
        let stay = h.rows.saturating_sub(n);
        let moved = if n > 0 && stay > 0 { h.move_down(layout, n, 0, stay) } else { 0 };
        h.rows = stay;
        moved
    }

    /// Appends row `row` of `from`'s `head`; both layers have one layout. Room must have been made. Returns bytes moved.
    pub fn append_from(&mut self, head: usize, from: &Self, row: usize) -> u64 {
        let layout = self.layout;
        let to = self.heads[head].rows;
        self.note(head, to, from.position_or_row(head, row));
        self.heads[head].rows += 1;
        let source = &from.heads[head];
        let (sc, sa) = (source.chunk_rows, row % source.chunk_rows);
        let src = source.chunks[row / sc].as_slice::<u8>();
        let h = &mut self.heads[head];
        let (dc, da) = (h.chunk_rows, to % h.chunk_rows);
        let dst = h.chunks[to / dc].as_mut_slice::<u8>();
        for (s, d, n) in layout.parts(sc, sa).into_iter().zip(layout.parts(dc, da)).map(|(s, d)| (s.0, d.0, s.1)) {
            dst[d..d + n].copy_from_slice(&src[s..s + n]);
        }
        layout.bytes() as u64
    }

    /// Calls `f` with each run of rows `start..start + n` of `head` that lies in one chunk: chunk bytes, its row count, first
    /// row in the chunk, rows.
    fn runs(&self, head: usize, start: usize, n: usize, mut f: impl FnMut(&[u8], usize, usize, usize, usize)) {
        let h = &self.heads[head];
        let mut done = 0;
        while done < n {
            let row = start + done;
            let at = row % h.chunk_rows;
            let take = (h.chunk_rows - at).min(n - done);
            f(h.chunks[row / h.chunk_rows].as_slice(), h.chunk_rows, at, take, done);
            done += take;
        }
    }

    /// Decodes keys `(n, d)` of rows `start..start + n`.
    pub fn keys(&self, head: usize, start: usize, n: usize, format: &dyn Format, out: &mut [f32]) {
        let RowLayout { d, k, .. } = self.layout;
        self.runs(head, start, n, |bytes, rows, at, take, done| {
            let from = self.layout.keys(rows) + at * k;
            format.decode(&bytes[from..from + take * k], &mut out[done * d..(done + take) * d]);
        });
    }

    /// Decodes values `(n, d)` of rows `start..start + n`.
    pub fn values(&self, head: usize, start: usize, n: usize, format: &dyn Format, out: &mut [f32]) {
        let RowLayout { d, v, .. } = self.layout;
        self.runs(head, start, n, |bytes, rows, at, take, done| {
            let from = self.layout.values(rows) + at * v;
            format.decode(&bytes[from..from + take * v], &mut out[done * d..(done + take) * d]);
        });
    }

    /// Adds the stored scores of `head` to `sums` `(rows)`, stores the totals, and leaves them in `sums`.
    pub fn add_scores(&mut self, head: usize, sums: &mut [f32]) {
        let layout = self.layout;
        let h = &mut self.heads[head];
        for (row, sum) in sums.iter_mut().enumerate().take(h.rows) {
            let n = h.chunk_rows;
            let bytes = &mut h.chunks[row / n].as_mut_slice::<u8>()[layout.scores(n)];
            let scores: &mut [f32] = bytemuck::cast_slice_mut(bytes);
            scores[row % n] += *sum;
            *sum = scores[row % n];
        }
    }

    /// Position of a row, where positions are kept.
    pub fn position(&self, head: usize, row: usize) -> Option<u32> {
        let h = &self.heads[head];
        let n = h.chunk_rows;
        let bytes = &h.chunks.get(row / n)?.as_slice::<u8>()[self.layout.positions(n)];
        bytemuck::cast_slice::<u8, u32>(bytes).get(row % n).copied()
    }
}

impl RowLayout {
    /// Offset and bytes of each part of row `at` in a chunk of `rows` rows.
    fn parts(&self, rows: usize, at: usize) -> [(usize, usize); 4] {
        let (score, position) = (4 * usize::from(self.meta.score), 4 * usize::from(self.meta.position));
        [
            (self.scores(rows).start + at * score, score),
            (self.positions(rows).start + at * position, position),
            (self.keys(rows) + at * self.k, self.k),
            (self.values(rows) + at * self.v, self.v),
        ]
    }
}

impl Head {
    /// Moves `n` rows from `from` down to `to < from`, in pieces that stay inside one chunk on both sides.
    fn move_down(&mut self, layout: RowLayout, from: usize, to: usize, n: usize) -> u64 {
        let size = self.chunk_rows;
        let mut done = 0;
        while done < n {
            let (f, t) = (from + done, to + done);
            let take = (size - f % size).min(size - t % size).min(n - done);
            let parts = layout.parts(size, f % size).into_iter().zip(layout.parts(size, t % size));
            let (cf, ct) = (f / size, t / size);
            if cf == ct {
                let bytes = self.chunks[cf].as_mut_slice::<u8>();
                for (s, d) in parts {
                    bytes.copy_within(s.0..s.0 + s.1 * take, d.0);
                }
            } else if let Ok([src, dst]) = self.chunks.get_disjoint_mut([cf, ct]) {
                let (src, dst) = (src.as_slice::<u8>(), dst.as_mut_slice::<u8>());
                for (s, d) in parts {
                    dst[d.0..d.0 + d.1 * take].copy_from_slice(&src[s.0..s.0 + s.1 * take]);
                }
            }
            done += take;
        }
        (layout.bytes() * n) as u64
    }
}
