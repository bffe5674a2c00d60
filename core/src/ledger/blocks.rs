//! Blocks of equal size, and the list that finds them: what stands row by row or page by page. A [`super::Buffer`] for each would
//! take more for its own account than a small page holds.
#![allow(unsafe_code, reason = "memory that can fail")]

use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::{ALIGN, Ledger, Reservation, Tag, alloc};
use crate::error::{Error, Result};

/// Blocks from this size on begin at a cache line.
const LARGE: usize = 4096;
/// A full list grows by this part of its length.
const SPARE: usize = 8;
/// What the system's allocator writes before each block, and the unit of its sizes.
const HEADER: usize = 8;
const UNIT: usize = 16;

/// Two rows of the ledger: the bytes of blocks, and what finding them takes.
#[derive(Debug)]
pub struct BlockAccount {
    payload: Reservation,
    tables: Reservation,
}

impl BlockAccount {
    /// Nothing yet, under these tags, but `fixed` bytes of tables.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`].
    pub fn new(ledger: &Arc<Ledger>, payload: Tag, tables: Tag, fixed: u64) -> Result<Self> {
        Ok(Self { payload: ledger.reserve(payload, 0)?, tables: ledger.reserve(tables, fixed)? })
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        self.tables.grow(Blocks::table_bytes(bytes) as u64)?;
        let taken = self.payload.grow(bytes as u64);
        if taken.is_err() {
            self.tables.shrink(Blocks::table_bytes(bytes) as u64);
        }
        taken
    }

    fn give(&mut self, bytes: usize, blocks: usize) {
        self.payload.shrink((bytes * blocks) as u64);
        self.tables.shrink((Blocks::table_bytes(bytes) * blocks) as u64);
    }
}

/// Zeroed blocks of `bytes` bytes each. Dropped, it frees their memory; what was counted for them is its account's.
#[derive(Debug, Default)]
pub struct Blocks {
    bytes: usize,
    list: Vec<NonNull<u8>>,
}

// SAFETY: the blocks are owned as those of a Vec<Box<[u8]>> are; shared access only reads.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// No blocks, which will have `bytes` bytes each.
    pub const fn new(bytes: usize) -> Self {
        Self { bytes, list: Vec::new() }
    }

    /// What a block of `bytes` bytes takes beside them: its place in the list, which grows by an eighth and not to twice its
    /// length, and what the system's allocator puts before and after it.
    pub const fn table_bytes(bytes: usize) -> usize {
        let list = size_of::<usize>() + size_of::<usize>() / SPARE;
        let (asked, least) = (bytes + if bytes < LARGE { 0 } else { ALIGN }, 2 * UNIT);
        let obtained = (asked + HEADER).next_multiple_of(UNIT);
        list + if obtained < least { least } else { obtained } - bytes
    }

    const fn align(&self) -> usize {
        if self.bytes < LARGE { 1 } else { ALIGN }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One more, of zeros.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the tier has no room, or when the system itself has none; [`crate::Error::Cancelled`].
    pub fn push(&mut self, account: &mut BlockAccount) -> Result<()> {
        account.take(self.bytes)?;
        let stop = || account.payload.cancelled();
        let base = match self.bytes {
            0 => NonNull::dangling().as_ptr(),
            bytes => alloc::payload_alloc(bytes, self.align(), &stop).1,
        };
        match NonNull::new(base) {
            Some(base) => {
                if self.list.len() == self.list.capacity() {
                    self.list.reserve_exact(self.list.len() / SPARE + 2);
                }
                self.list.push(base);
            }
            None => {
                account.give(self.bytes, 1);
                return Err(account.payload.none_left(self.bytes as u64));
            }
        }
        if account.payload.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Gives back those after the first `n`.
    pub fn truncate(&mut self, n: usize, account: &mut BlockAccount) {
        let gone = self.list.len().saturating_sub(n);
        self.free_from(n);
        account.give(self.bytes, gone);
    }

    fn free_from(&mut self, n: usize) {
        for base in self.list.drain(n.min(self.list.len())..) {
            if self.bytes > 0 {
                let align = if self.bytes < LARGE { 1 } else { ALIGN };
                // SAFETY: `push` made it with this size and alignment, and it leaves the list here.
                unsafe { alloc::payload_free(base.as_ptr(), self.bytes, align) };
            }
        }
        self.list.shrink_to(self.list.len() + self.list.len() / SPARE + 2);
    }

    fn start(&self, base: NonNull<u8>) -> *mut u8 {
        // SAFETY: the offset is below the alignment that the block was made with.
        unsafe { base.as_ptr().add(base.as_ptr().align_offset(self.align())) }
    }

    /// Block `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let base = *self.list.get(i)?;
        // SAFETY: a live block of `bytes` initialized bytes.
        Some(unsafe { std::slice::from_raw_parts(self.start(base), self.bytes) })
    }

    /// As [`Self::get`], for writing.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut [u8]> {
        let base = *self.list.get(i)?;
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start(base), self.bytes) })
    }

    /// Block `to` for writing beside another, `from`.
    pub fn pair(&mut self, to: usize, from: usize) -> Option<(&mut [u8], &[u8])> {
        let (a, b) = (*self.list.get(to)?, *self.list.get(from)?);
        if to == from {
            return None;
        }
        // SAFETY: two different live blocks of `bytes` initialized bytes; `&mut self` makes the access exclusive.
        Some(unsafe {
            (
                std::slice::from_raw_parts_mut(self.start(a), self.bytes),
                std::slice::from_raw_parts(self.start(b), self.bytes),
            )
        })
    }

    /// All of them as numbers, for writing; a remainder shorter than one is left out.
    pub fn cells_mut<T: Pod>(&mut self) -> impl Iterator<Item = &mut T> {
        const { assert!(align_of::<T>() <= UNIT && size_of::<T>() > 0) };
        let (n, align) = (self.bytes / size_of::<T>(), self.align());
        self.list.iter_mut().flat_map(move |base| {
            let base = base.as_ptr();
            // SAFETY: each block is live, its own, aligned to UNIT at least, and has `n` numbers, which are plain data.
            unsafe { std::slice::from_raw_parts_mut(base.add(base.align_offset(align)).cast::<T>(), n) }
        })
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.free_from(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Category, Tier};

    const ROWS: Tag = Tag::device(Category::KvCache, "rows");
    const TABLES: Tag = Tag::device(Category::Workspace, "tables");

    #[test]
    fn blocks_are_zeroed_counted_and_given_back() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        for bytes in [1, 36, 576, 4096, 5000] {
            let mut account = BlockAccount::new(&ledger, ROWS, TABLES, 7).unwrap();
            let mut blocks = Blocks::new(bytes);
            for i in 0..9 {
                blocks.push(&mut account).unwrap();
                let block = blocks.get_mut(i).unwrap();
                assert!(block.len() == bytes && block.iter().all(|b| *b == 0));
                block.fill(i as u8 + 1);
            }
            assert_eq!(ledger.held(Tier::Device), (9 * (bytes + Blocks::table_bytes(bytes)) + 7) as u64);
            let (to, from) = blocks.pair(1, 4).unwrap();
            to.copy_from_slice(from);
            blocks.truncate(5, &mut account);
            assert_eq!((blocks.len(), blocks.get(1).unwrap()[0], blocks.get(4).unwrap()[bytes - 1]), (5, 5, 5));
            assert!(blocks.get(5).is_none() && blocks.pair(2, 2).is_none() && blocks.pair(2, 5).is_none());
            assert_eq!(ledger.held(Tier::Device), (5 * (bytes + Blocks::table_bytes(bytes)) + 7) as u64);
            drop((blocks, account));
            assert_eq!(ledger.held(Tier::Device), 0);
        }
    }

    #[test]
    fn a_refusal_counts_nothing() {
        let ledger = Ledger::new(1000, 0, 0);
        let mut account = BlockAccount::new(&ledger, ROWS, TABLES, 0).unwrap();
        let mut blocks = Blocks::new(600);
        blocks.push(&mut account).unwrap();
        let held = ledger.held(Tier::Device);
        assert!(blocks.push(&mut account).is_err() && blocks.len() == 1 && ledger.held(Tier::Device) == held);
    }

    /// What is said to be beside a block is what the allocator takes for it.
    #[test]
    fn tables_are_what_the_allocator_takes() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        for bytes in [8, 36, 68, 576, 1088, 3000, 5000, 70_000] {
            let mut account = BlockAccount::new(&ledger, ROWS, TABLES, 0).unwrap();
            let mut blocks = Blocks::new(bytes);
            (0..64).for_each(|_| blocks.push(&mut account).unwrap());
            let bases = blocks.list.iter().map(|b| alloc::obtained(b.as_ptr(), bytes + ALIGN)).sum::<i64>();
            let list = blocks.list.capacity() * size_of::<usize>();
            let (said, taken) = (64 * (bytes + Blocks::table_bytes(bytes)), bases as usize + list);
            // The allocator may give a free piece that is a unit longer: here and there, not each time.
            assert!(said + said / 20 >= taken && said <= taken + 64 * 32, "{bytes}: {said} said, {taken} taken");
        }
    }
}
