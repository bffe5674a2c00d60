//! Units of equal size in chunks of equal number: the room that rows, groups, positions or pages of one head stand in.

use bytemuck::Pod;

use crate::error::Result;
use crate::ledger::{BlockAccount, Blocks};

/// Chunks of `per_chunk` units of `unit` bytes each. Unit `i` is unit `i mod per_chunk` of chunk `i / per_chunk`.
#[derive(Debug, Default)]
pub(super) struct Region {
    /// Bytes of a unit; 0 for a region that holds nothing.
    pub unit: usize,
    /// Units of a chunk.
    pub per_chunk: usize,
    chunks: Blocks,
}

impl Region {
    /// An empty region.
    pub fn new(unit: usize, per_chunk: usize) -> Self {
        let per_chunk = per_chunk.max(1);
        Self { unit, per_chunk, chunks: Blocks::new(unit * per_chunk) }
    }

    /// Bytes of its chunks.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * self.unit * self.per_chunk) as u64
    }

    /// Makes room for `units` units.
    ///
    /// # Errors
    /// Over budget; room made before stays.
    pub fn ensure(&mut self, account: &mut BlockAccount, units: usize) -> Result<()> {
        if self.unit == 0 {
            return Ok(());
        }
        while self.chunks.len() * self.per_chunk < units {
            self.chunks.push(account)?;
        }
        Ok(())
    }

    /// Gives back the chunks after the first `units` units.
    pub fn trim(&mut self, account: &mut BlockAccount, units: usize) {
        self.chunks.truncate(units.div_ceil(self.per_chunk.max(1)), account);
    }

    /// One unit's bytes; empty where there is no room for it.
    pub fn unit(&self, i: usize) -> &[u8] {
        let at = i % self.per_chunk.max(1) * self.unit;
        let chunk = self.chunks.get(i / self.per_chunk.max(1));
        chunk.and_then(|c| c.get(at..at + self.unit)).unwrap_or(&[])
    }

    /// As [`Self::unit`], for writing.
    pub fn unit_mut(&mut self, i: usize) -> &mut [u8] {
        let at = i % self.per_chunk.max(1) * self.unit;
        let unit = self.unit;
        let chunk = self.chunks.get_mut(i / self.per_chunk.max(1));
        chunk.and_then(|c| c.get_mut(at..at + unit)).unwrap_or(&mut [])
    }

    /// Its units as numbers, for writing.
    pub fn cells_mut<T: Pod>(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.cells_mut()
    }

    /// Calls `f` with the bytes of each run of units `start..start + n` that lies in one chunk, its first unit counted from
    /// `start`, and its number of units.
    pub fn runs(&self, start: usize, n: usize, mut f: impl FnMut(&[u8], usize, usize)) {
        let mut done = 0;
        while done < n {
            let i = start + done;
            let at = i % self.per_chunk;
            let take = (self.per_chunk - at).min(n - done);
            let bytes = self.chunks.get(i / self.per_chunk).unwrap_or(&[]);
            f(&bytes[at * self.unit..(at + take) * self.unit], done, take);
            done += take;
        }
    }

    /// Moves `n` units from `from` down to `to < from`, in pieces that stay inside one chunk on both sides. Returns the bytes
    /// moved.
    fn move_down(&mut self, from: usize, to: usize, n: usize) -> u64 {
        let (size, unit) = (self.per_chunk, self.unit);
        let mut done = 0;
        while unit > 0 && done < n {
            let (f, t) = (from + done, to + done);
            let take = (size - f % size).min(size - t % size).min(n - done);
            let (source, target) = (f % size * unit, t % size * unit);
            let bytes = take * unit;
            let (cf, ct) = (f / size, t / size);
            if let Some((to, from)) = self.chunks.pair(ct, cf) {
                to[target..target + bytes].copy_from_slice(&from[source..source + bytes]);
            } else if let Some(chunk) = self.chunks.get_mut(cf) {
                chunk.copy_within(source..source + bytes, target);
            }
            done += take;
        }
        (n * unit) as u64
    }

    /// Keeps the units listed in `keep` (ascending, counted from `base`), moving them together in place; the room stays.
    /// Returns the bytes moved.
    pub fn retain(&mut self, keep: &[u32], base: usize) -> u64 {
        let (mut to, mut moved) = (0, 0);
        while to < keep.len() {
            let from = keep[to] as usize - base;
            let run = keep[to..].iter().zip(from..).take_while(|(k, f)| **k as usize - base == *f).count();
            if to != from {
                moved += self.move_down(from, to, run);
            }
            to += run;
        }
        moved
    }

    /// Drops the first `n` of `units` units, moving the rest to the front. Returns the bytes moved.
    pub fn drop_first(&mut self, n: usize, units: usize) -> u64 {
        if n == 0 || n >= units { 0 } else { self.move_down(n, 0, units - n) }
    }

    /// Becomes a copy of the first `units` units of `from`, in chunks of the same size.
    ///
    /// # Errors
    /// Over budget.
    pub fn copy_from(&mut self, account: &mut BlockAccount, from: &Self, units: usize) -> Result<()> {
        if self.chunks.is_empty() {
            *self = Self::new(from.unit, from.per_chunk);
        }
        self.ensure(account, units)?;
        for i in 0..if self.unit == 0 { 0 } else { units } {
            self.unit_mut(i).copy_from_slice(from.unit(i));
        }
        Ok(())
    }
}
