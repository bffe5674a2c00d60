//! The rows themselves: per (layer, KV head) their scores, positions, keys and values, each in chunks of its own.
//!
//! A head's rows stand in ascending position order. Each side of a head, keys or values, is its sealed rows (groups that are
//! encoded together, [`super::Seal`]) followed by its open rows; a format that seals nothing has only open ones. What the
//! techniques remember of a head lies in one buffer a layer.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::region::Region;
use super::room::{HeadLayout, RECORDS, REGIONS, RowLayout, SideLayout};
use super::{Alloc, Choose, Learn, Read};
use crate::error::{Error, Result};
use crate::ledger::{BlockAccount, Buffer, Category, Ledger, Tag};
use crate::ops::team::{SHARED, ThreadTeam};

/// The ledger row of cache payload.
pub const ROWS: Tag = Tag::device(Category::KvCache, "kv rows");
/// The ledger row of the staging layer that holds a whole prompt before it is compressed.
pub const STAGING: Tag = Tag::device(Category::KvCache, "kv staging");
/// The ledger row of what finds rows: the heads' own records, and the lists of their chunks.
pub const TABLES: Tag = Tag::device(Category::Workspace, "cache tables");
/// The ledger row of the positions that are kept for an observed head.
pub const TRAIL: Tag = Tag::host(Category::Observation, "row positions");

/// Positions of one head's rows, kept beside the cache only to be shown.
#[derive(Debug)]
struct Trail {
    head: usize,
    positions: Buffer,
}

/// Keys or values of one head.
#[derive(Debug, Default)]
struct SideRows {
    sealed: Region,
    /// Rows, a whole number of groups.
    sealed_rows: usize,
    open: Region,
}

impl SideRows {
    /// Decodes rows `start..start + n` into `out (n, d)`.
    fn read(&self, layout: &SideLayout, state: &[u8], start: usize, n: usize, out: &mut [f32]) {
        let d = out.len() / n.max(1);
        let mut done = 0;
        if let Some(seal) = &layout.seal {
            let group = seal.group();
            while done < n && start + done < self.sealed_rows {
                let (at, first) = ((start + done) / group, (start + done) % group);
                let take = (group - first).min(n - done).min(self.sealed_rows - start - done);
                seal.decode(self.sealed.unit(at), state, first, &mut out[done * d..(done + take) * d]);
                done += take;
            }
        }
        let from = start + done - self.sealed_rows.min(start + done);
        let rest = &mut out[done * d..n * d];
        self.open.runs(from, n - done, |bytes, at, take| {
            layout.format.decode(bytes, &mut rest[at * d..(at + take) * d]);
        });
    }

    /// Encodes `rows` rows behind the `held` that are there, row `i` at `x[i·stride..][..d]`.
    fn encode(&mut self, layout: &SideLayout, held: usize, x: &[f32], (stride, d): (usize, usize), rows: usize) {
        for i in 0..rows {
            let to = self.open.unit_mut(held + i - self.sealed_rows);
            layout.format.encode(&x[i * stride..i * stride + d], to);
        }
    }

    /// Keeps the rows listed in `keep`; a group of several rows never loses one.
    fn retain(&mut self, keep: &[u32]) -> u64 {
        let boundary = keep.partition_point(|r| (*r as usize) < self.sealed_rows);
        let (sealed, open) = keep.split_at(boundary);
        let moved = if sealed.len() == self.sealed_rows { 0 } else { self.sealed.retain(sealed, 0) };
        let moved = moved + self.open.retain(open, self.sealed_rows);
        self.sealed_rows = sealed.len();
        moved
    }
}

#[derive(Debug, Default)]
struct Head {
    rows: usize,
    scores: Region,
    positions: Region,
    k: SideRows,
    v: SideRows,
    pages: Region,
    /// Rows from this one on are not in their pages yet.
    stale: usize,
}

impl Head {
    fn new(layout: &HeadLayout, chunks: [usize; REGIONS]) -> Self {
        let units = layout.units(0, 0);
        let [scores, positions, ks, ko, vs, vo, pages] =
            std::array::from_fn(|i| Region::new(units[i].bytes, chunks[i]));
        let side = |sealed, open| SideRows { sealed, sealed_rows: 0, open };
        Self { rows: 0, scores, positions, k: side(ks, ko), v: side(vs, vo), pages, stale: 0 }
    }

    fn regions(&self) -> [&Region; REGIONS] {
        [&self.scores, &self.positions, &self.k.sealed, &self.k.open, &self.v.sealed, &self.v.open, &self.pages]
    }

    fn regions_mut(&mut self) -> [&mut Region; REGIONS] {
        [
            &mut self.scores,
            &mut self.positions,
            &mut self.k.sealed,
            &mut self.k.open,
            &mut self.v.sealed,
            &mut self.v.open,
            &mut self.pages,
        ]
    }

    /// Units of each kind that its rows fill now.
    fn filled(&self, layout: &HeadLayout) -> [usize; REGIONS] {
        let group = |side: &SideLayout| side.seal.as_ref().map_or(1, |s| s.group());
        let page = layout.page.map_or(1, |p| p.rows);
        [
            self.rows,
            self.rows,
            self.k.sealed_rows / group(&layout.k),
            self.rows - self.k.sealed_rows,
            self.v.sealed_rows / group(&layout.v),
            self.rows - self.v.sealed_rows,
            self.rows.div_ceil(page),
        ]
    }
}

/// One layer of one sequence's cache.
#[derive(Debug)]
pub struct LayerCache {
    layout: Arc<HeadLayout>,
    heads: Vec<Head>,
    /// What is remembered of each head: of its keys, of its values, and by the merge.
    state: Option<Buffer>,
    trail: Option<Trail>,
    account: BlockAccount,
}

// What the plan counts for them is no less than they take.
const _: () = assert!(size_of::<LayerCache>() <= RECORDS[0] && size_of::<Head>() <= RECORDS[1]);

impl LayerCache {
    /// An empty layer of `heads` heads without room, counted under `tag`.
    ///
    /// # Errors
    /// Over budget: what is remembered of each head is taken at once.
    pub fn new(layout: Arc<HeadLayout>, heads: usize, tag: Tag, ledger: &Arc<Ledger>) -> Result<Self> {
        let bytes = layout.state() * heads;
        let account = BlockAccount::new(ledger, tag, Tag { tier: tag.tier, ..TABLES }, layout.tables(heads))?;
        let state = if bytes > 0 { Some(ledger.buffer(tag, bytes)?) } else { None };
        let heads = (0..heads).map(|_| Head::new(&layout, [1; REGIONS])).collect();
        Ok(Self { layout, heads, state, trail: None, account })
    }

    /// Says how an empty head makes room: it keeps `prompt` rows of its prompt and may hold `capacity`. Takes that room where the
    /// alloc says so.
    ///
    /// # Errors
    /// Over budget.
    pub fn open(&mut self, alloc: &dyn Alloc, head: usize, prompt: usize, capacity: usize) -> Result<()> {
        for region in self.heads[head].regions_mut() {
            region.trim(&mut self.account, 0);
        }
        self.heads[head] = Head::new(&self.layout, self.layout.chunks(alloc, prompt, capacity));
        if alloc.upfront() {
            let units = self.layout.units(prompt, capacity);
            for (region, unit) in self.heads[head].regions_mut().into_iter().zip(units) {
                region.ensure(&mut self.account, unit.count)?;
            }
        }
        Ok(())
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

    /// Bytes of an open row.
    pub fn layout(&self) -> RowLayout {
        self.layout.row
    }

    /// How its heads are laid out.
    pub fn heads_layout(&self) -> &HeadLayout {
        &self.layout
    }

    /// KV heads.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Rows of a head.
    pub fn rows(&self, head: usize) -> usize {
        self.heads[head].rows
    }

    /// Sealed rows of a head: of its keys and of its values.
    pub fn sealed(&self, head: usize) -> (usize, usize) {
        (self.heads[head].k.sealed_rows, self.heads[head].v.sealed_rows)
    }

    /// The longest head.
    pub fn max_rows(&self) -> usize {
        self.heads.iter().map(|h| h.rows).max().unwrap_or(0)
    }

    /// Bytes of its room.
    pub fn bytes(&self) -> u64 {
        let rooms: u64 = self.heads.iter().flat_map(Head::regions).map(Region::bytes).sum();
        rooms + self.state.as_ref().map_or(0, |s| s.len() as u64)
    }

    /// Bytes that reading `rows` rows of a head takes, its metadata left out, when it holds more than that: an average row.
    pub fn read_bytes(&self, head: usize, rows: usize) -> u64 {
        let (h, l) = (&self.heads[head], &*self.layout);
        let side = |s: &SideRows, l: &SideLayout| {
            let group = l.seal.as_ref().map_or(1, |s| s.group());
            s.sealed_rows / group * s.sealed.unit + (h.rows - s.sealed_rows) * s.open.unit
        };
        let all = (side(&h.k, &l.k) + side(&h.v, &l.v)) as u64;
        if rows >= h.rows { all } else { all * rows as u64 / h.rows as u64 }
    }

    /// Makes room for `rows` rows of `head`, the newest of them open.
    ///
    /// # Errors
    /// Over budget; room made before stays.
    pub fn ensure(&mut self, head: usize, rows: usize) -> Result<()> {
        let page = self.layout.page.map_or(1, |p| p.rows);
        let (account, h) = (&mut self.account, &mut self.heads[head]);
        h.scores.ensure(account, rows)?;
        h.positions.ensure(account, rows)?;
        h.k.open.ensure(account, rows - h.k.sealed_rows)?;
        h.v.open.ensure(account, rows - h.v.sealed_rows)?;
        h.pages.ensure(account, rows.div_ceil(page))
    }

    /// Gives back chunks that hold no row.
    fn trim(&mut self, head: usize) {
        let filled = self.heads[head].filled(&self.layout);
        for (region, units) in self.heads[head].regions_mut().into_iter().zip(filled) {
            region.trim(&mut self.account, units);
        }
    }

    /// Appends `rows` rows of `head`, row `i` at `k[i·stride..][..d]`, the first of them at position `first`; room must have
    /// been made.
    pub fn append(&mut self, head: usize, k: &[f32], v: &[f32], stride: usize, first: usize, rows: usize) {
        let layout = Arc::clone(&self.layout);
        self.note_rows(head, first, rows);
        let (h, wide) = (&mut self.heads[head], (stride, layout.row.d));
        h.k.encode(&layout.k, h.rows, k, wide, rows);
        h.v.encode(&layout.v, h.rows, v, wide, rows);
        h.rows += rows;
    }

    /// Makes room for rows of every head and appends them: `k` and `v` are `(rows, heads, d)`, the first row at position `first`.
    /// Many of them are encoded side by side.
    ///
    /// # Errors
    /// Over budget, or [`Error::Cancelled`]: the rows before them are still there.
    pub fn append_all(&mut self, team: &ThreadTeam, k: &[f32], v: &[f32], first: usize, rows: usize) -> Result<()> {
        let layout = Arc::clone(&self.layout);
        let d = layout.row.d;
        let stride = self.heads.len() * d;
        for head in 0..self.heads.len() {
            self.ensure(head, self.heads[head].rows + rows)?;
        }
        if rows * stride < SHARED {
            (0..self.heads.len()).for_each(|h| self.append(h, &k[h * d..], &v[h * d..], stride, first, rows));
            return Ok(());
        }
        (0..self.heads.len()).for_each(|h| self.note_rows(h, first, rows));
        let sides = self.heads.iter_mut().enumerate().flat_map(|(head, h)| {
            [(&mut h.k, &layout.k, h.rows, &k[head * d..]), (&mut h.v, &layout.v, h.rows, &v[head * d..])]
        });
        // Each is one task's: nobody waits.
        let sides: Vec<_> = sides.map(Mutex::new).collect();
        team.run(sides.len(), &|i, _| {
            let (side, of, held, x) = &mut *sides[i].lock().unwrap_or_else(PoisonError::into_inner);
            side.encode(of, *held, x, (stride, d), rows);
        })?;
        drop(sides);
        self.heads.iter_mut().for_each(|h| h.rows += rows);
        Ok(())
    }

    /// Writes what is kept beside keys and values of `rows` rows to come, the first of them at position `first`.
    fn note_rows(&mut self, head: usize, first: usize, rows: usize) {
        let meta = self.layout.row.meta;
        for i in 0..rows {
            self.note(head, self.heads[head].rows + i, (first + i) as u32);
        }
        let h = &mut self.heads[head];
        h.stale = h.stale.min(h.rows);
        for i in 0..rows {
            if meta.score {
                h.scores.unit_mut(h.rows + i).copy_from_slice(&0f32.to_le_bytes());
            }
            if meta.position {
                h.positions.unit_mut(h.rows + i).copy_from_slice(&((first + i) as u32).to_le_bytes());
            }
        }
    }

    /// Writes key and value of an open row, `(d)` each.
    ///
    /// # Errors
    /// A sealed row, which never changes.
    pub fn write(&mut self, head: usize, row: usize, k: &[f32], v: &[f32]) -> Result<()> {
        let h = &mut self.heads[head];
        if row < h.k.sealed_rows.max(h.v.sealed_rows) || row >= h.rows {
            return Err(Error::Internal(format!(
                "row {row} of head {head} is sealed or not there, and cannot be written"
            )));
        }
        h.stale = h.stale.min(row);
        self.layout.k.format.encode(k, h.k.open.unit_mut(row - h.k.sealed_rows));
        self.layout.v.format.encode(v, h.v.open.unit_mut(row - h.v.sealed_rows));
        Ok(())
    }

    /// Drops every row.
    pub fn clear(&mut self, keep_room: bool) {
        self.truncate(0, keep_room);
    }

    /// Keeps the first `rows` rows of every head, of which none newer may be sealed.
    pub fn truncate(&mut self, rows: usize, keep_room: bool) {
        for head in 0..self.heads.len() {
            let h = &mut self.heads[head];
            h.rows = h.rows.min(rows);
            h.stale = h.stale.min(h.rows);
            h.k.sealed_rows = h.k.sealed_rows.min(h.rows);
            h.v.sealed_rows = h.v.sealed_rows.min(h.rows);
            if !keep_room {
                self.trim(head);
            }
        }
    }

    /// Keeps the rows listed in `keep` (ascending), moving them together in place; the room stays, for the rows to come.
    /// Returns the bytes moved.
    pub fn retain(&mut self, head: usize, keep: &[u32]) -> u64 {
        if let Some(trail) = self.trail.as_mut().filter(|t| t.head == head) {
            let positions = trail.positions.as_mut_slice::<u32>();
            for (to, from) in keep.iter().enumerate() {
                positions[to] = positions[*from as usize];
            }
        }
        let h = &mut self.heads[head];
        let still = keep.iter().zip(0..).take_while(|(k, i)| *k == i).count();
        h.stale = h.stale.min(still);
        let moved = h.scores.retain(keep, 0) + h.positions.retain(keep, 0) + h.k.retain(keep) + h.v.retain(keep);
        h.rows = keep.len();
        moved
    }

    /// Drops the first `n` rows of `head`, which seals none, moving the others up in place. Returns the bytes moved.
    pub fn drop_first(&mut self, head: usize, n: usize) -> u64 {
        if let Some(trail) = self.trail.as_mut().filter(|t| t.head == head) {
            let rows = self.heads[head].rows;
            trail.positions.as_mut_slice::<u32>().copy_within(n..rows, 0);
        }
        let h = &mut self.heads[head];
        let rows = h.rows;
        let moved = [&mut h.scores, &mut h.positions, &mut h.k.open, &mut h.v.open].map(|r| r.drop_first(n, rows));
        h.rows = rows.saturating_sub(n);
        h.stale = 0;
        moved.iter().sum()
    }

    /// Appends row `row` of `from`'s `head`; both layers have one layout and seal nothing. Room must have been made. Returns
    /// bytes moved.
    pub fn append_from(&mut self, head: usize, from: &Self, row: usize) -> u64 {
        let to = self.heads[head].rows;
        self.note(head, to, from.position_or_row(head, row));
        let (h, source) = (&mut self.heads[head], &from.heads[head]);
        h.scores.unit_mut(to).copy_from_slice(source.scores.unit(row));
        h.positions.unit_mut(to).copy_from_slice(source.positions.unit(row));
        h.k.open.unit_mut(to).copy_from_slice(source.k.open.unit(row));
        h.v.open.unit_mut(to).copy_from_slice(source.v.open.unit(row));
        h.rows += 1;
        self.layout.row.bytes() as u64
    }

    /// What is remembered of a head, of its keys, of its values and by the merge.
    fn state_ranges(&self, head: usize) -> [Range<usize>; 3] {
        let l = &self.layout;
        let start = head * l.state();
        let (k, v) = (start + l.k.state(), start + l.k.state() + l.v.state());
        [start..k, k..v, v..v + l.merge_state]
    }

    fn state_of(&self, head: usize, which: usize) -> &[u8] {
        let range = self.state_ranges(head)[which].clone();
        self.state.as_ref().and_then(|s| s.as_slice::<u8>().get(range)).unwrap_or(&[])
    }

    /// Calls `f` with the bytes that the merge remembers of `head`, and with this cache, whose own state `f` does not see.
    pub fn with_merge_state<T>(&mut self, head: usize, f: impl FnOnce(&mut Self, &mut [u8]) -> T) -> T {
        let [_, _, range] = self.state_ranges(head);
        let mut state = self.state.take();
        let bytes = state.as_mut().and_then(|s| s.as_mut_slice::<u8>().get_mut(range)).unwrap_or(&mut []);
        let out = f(self, bytes);
        self.state = state;
        out
    }

    /// Takes the rows of `stage`'s `head` that are listed in `keep`, sealing the oldest of them; the head is empty, and `stage`
    /// has the open rows' layout. `learn` holds the queries that a seal may ask for, `(queries, stride)`. Returns bytes moved.
    ///
    /// # Errors
    /// Over budget.
    pub fn settle(
        &mut self,
        stage: &Self,
        head: usize,
        keep: &[u32],
        (queries, stride, group): (&[f32], usize, usize),
        scratch: &mut [f32],
    ) -> Result<u64> {
        let layout = Arc::clone(&self.layout);
        let d = layout.row.d;
        let ranges = self.state_ranges(head);
        for (i, row) in keep.iter().enumerate() {
            self.note(head, i, stage.position_or_row(head, *row as usize));
        }
        let h = &mut self.heads[head];
        let source = &stage.heads[head];
        let account = &mut self.account;
        for (which, side) in [&layout.k, &layout.v].into_iter().enumerate() {
            let sealed = side.at_prompt(keep.len());
            let (to, from) = if which == 0 { (&mut h.k, &source.k) } else { (&mut h.v, &source.v) };
            let from_layout = if which == 0 { &stage.layout.k } else { &stage.layout.v };
            if let Some(seal) = side.seal.as_ref().filter(|_| sealed > 0) {
                let state = self.state.as_mut().and_then(|s| s.as_mut_slice::<u8>().get_mut(ranges[which].clone()));
                let state = state.unwrap_or(&mut []);
                let mut read = |start: usize, n: usize, out: &mut [f32]| {
                    for (row, out) in keep[start..start + n].iter().zip(out.chunks_exact_mut(d)) {
                        from.read(from_layout, &[], *row as usize, 1, out);
                    }
                };
                let learn = Learn { rows: keep.len(), read: &mut read, queries, stride, group };
                seal.learn(learn, state, scratch);
                let g = seal.group();
                to.sealed.ensure(account, sealed / g)?;
                for at in 0..sealed / g {
                    read(at * g, g, &mut scratch[..g * d]);
                    seal.encode(&scratch[..g * d], state, to.sealed.unit_mut(at));
                }
            }
            to.sealed_rows = sealed;
            to.open.ensure(account, keep.len() - sealed)?;
            for (i, row) in keep[sealed..].iter().enumerate() {
                to.open.unit_mut(i).copy_from_slice(from.open.unit(*row as usize));
            }
        }
        h.scores.ensure(account, keep.len())?;
        h.positions.ensure(account, keep.len())?;
        h.pages.ensure(account, keep.len().div_ceil(layout.page.map_or(1, |p| p.rows)))?;
        for (i, row) in keep.iter().enumerate() {
            h.scores.unit_mut(i).copy_from_slice(source.scores.unit(*row as usize));
            h.positions.unit_mut(i).copy_from_slice(source.positions.unit(*row as usize));
        }
        (h.rows, h.stale) = (keep.len(), 0);
        Ok((layout.row.bytes() * keep.len()) as u64)
    }

    /// After a decoding step: seals the oldest open rows of `head` where their format says so. Returns bytes moved.
    ///
    /// # Errors
    /// Over budget.
    pub fn seal(&mut self, head: usize, scratch: &mut [f32]) -> Result<u64> {
        let layout = Arc::clone(&self.layout);
        let d = layout.row.d;
        let mut moved = 0;
        for (which, side) in [&layout.k, &layout.v].into_iter().enumerate() {
            let Some(seal) = &side.seal else { continue };
            let range = self.state_ranges(head)[which].clone();
            let state = self.state.as_ref().and_then(|s| s.as_slice::<u8>().get(range)).unwrap_or(&[]);
            let h = &mut self.heads[head];
            let rows = if which == 0 { &mut h.k } else { &mut h.v };
            let (open, group) = (h.rows - rows.sealed_rows, seal.group());
            let n = seal.after_step(open);
            if n == 0 {
                continue;
            }
            h.stale = h.stale.min(rows.sealed_rows);
            rows.sealed.ensure(&mut self.account, (rows.sealed_rows + n) / group)?;
            for first in (0..n).step_by(group) {
                let x = &mut scratch[..group * d];
                rows.open.runs(first, group, |bytes, at, take| {
                    side.format.decode(bytes, &mut x[at * d..(at + take) * d]);
                });
                seal.encode(x, state, rows.sealed.unit_mut((rows.sealed_rows + first) / group));
            }
            moved += rows.open.drop_first(n, open);
            rows.sealed_rows += n;
        }
        Ok(moved)
    }

    /// Brings the pages of `head` up to date with its rows.
    pub fn describe(&mut self, reader: &dyn Read, head: usize, scratch: &mut [f32]) {
        let Some(page) = self.layout.page else { return };
        let d = self.layout.row.d;
        let (rows, stale) = (self.heads[head].rows, self.heads[head].stale);
        if stale >= rows {
            return;
        }
        for i in stale / page.rows..rows.div_ceil(page.rows) {
            let n = page.rows.min(rows - i * page.rows);
            let keys = &mut scratch[..n * d];
            self.keys(head, i * page.rows, n, keys);
            reader.describe(keys, d, self.heads[head].pages.unit_mut(i));
        }
        self.heads[head].stale = rows;
    }

    /// The pages of `head` that a reader chooses for `queries` `(queries, d)`, ascending, into `out`; how many.
    pub fn choose(
        &self,
        reader: &dyn Read,
        head: usize,
        queries: &[f32],
        scratch: &mut [f32],
        out: &mut [u32],
    ) -> usize {
        let h = &self.heads[head];
        let pages = h.rows.div_ceil(self.layout.page.map_or(1, |p| p.rows));
        let page = |i: usize| h.pages.unit(i);
        reader.choose(Choose { queries, d: self.layout.row.d, pages, page: &page, scratch }, out)
    }

    /// Becomes a copy of `from`, which stands at the end of the same prompt; this layer is empty.
    ///
    /// # Errors
    /// Over budget.
    pub fn copy_from(&mut self, from: &Self) -> Result<()> {
        for (head, source) in from.heads.iter().enumerate() {
            for row in 0..source.rows {
                self.note(head, row, from.position_or_row(head, row));
            }
            let filled = source.filled(&self.layout);
            let h = &mut self.heads[head];
            for (i, region) in h.regions_mut().into_iter().enumerate() {
                region.copy_from(&mut self.account, source.regions()[i], filled[i])?;
            }
            (h.rows, h.stale) = (source.rows, source.stale);
            (h.k.sealed_rows, h.v.sealed_rows) = (source.k.sealed_rows, source.v.sealed_rows);
        }
        if let (Some(to), Some(from)) = (&mut self.state, &from.state) {
            to.as_mut_slice::<u8>().copy_from_slice(from.as_slice());
        }
        Ok(())
    }

    /// Decodes keys `(n, d)` of rows `start..start + n`.
    pub fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let out = &mut out[..n * self.layout.row.d];
        self.heads[head].k.read(&self.layout.k, self.state_of(head, 0), start, n, out);
    }

    /// Decodes values `(n, d)` of rows `start..start + n`.
    pub fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let out = &mut out[..n * self.layout.row.d];
        self.heads[head].v.read(&self.layout.v, self.state_of(head, 1), start, n, out);
    }

    /// Adds the stored scores of `head` to `sums` `(rows)`, stores the totals, and leaves them in `sums`.
    pub fn add_scores(&mut self, head: usize, sums: &mut [f32]) {
        let h = &mut self.heads[head];
        for (cell, sum) in h.scores.cells_mut::<f32>().take(h.rows).zip(sums) {
            *cell += *sum;
            *sum = *cell;
        }
    }

    /// Position of a row, where positions are kept.
    pub fn position(&self, head: usize, row: usize) -> Option<u32> {
        let bytes = self.heads[head].positions.unit(row);
        bytes.try_into().ok().map(u32::from_le_bytes)
    }
}
