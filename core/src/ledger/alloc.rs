//! The counting allocator: a second, independent account that checks the ledger.
//!
//! Payload goes through [`payload_alloc`], everything else through [`CountingAlloc`] (installed by the program as its
//! global allocator). Each thread has a scope: `Engine` on a job's threads, `Program` everywhere else. A block remembers
//! the scope it was made under in a header before it, so freeing it on another thread is counted right.
//!
//! Beside what was asked for, a third account counts what the system's allocator really took for it, headers and rounding
//! included: [`HeapCounts::obtained`].
#![allow(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An engine-thread heap allocation larger than this should have been a buffer: it counts as escaped.
pub const ESCAPE_BYTES: usize = 64 << 10;

/// Whose bytes an allocation counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Window, tokenizer, headers: outside the budget.
    Program = 0,
    /// Small bookkeeping of a job's threads: outside the budget, and watched for escapes.
    Engine = 1,
    /// What a library allocates for itself on a job's behalf; bounded by a guest row of the ledger.
    Guest = 2,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Program, Self::Engine, Self::Guest];
}

thread_local! {
    static SCOPE: Cell<u8> = const { Cell::new(Scope::Program as u8) };
}

static HEAP: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
static HEAP_PEAK: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
static OBTAINED: AtomicI64 = AtomicI64::new(0);
static OBTAINED_PEAK: AtomicI64 = AtomicI64::new(0);
static PAYLOAD: AtomicI64 = AtomicI64::new(0);
static PAYLOAD_PEAK: AtomicI64 = AtomicI64::new(0);
static ESCAPED_COUNT: AtomicU64 = AtomicU64::new(0);
static ESCAPED_LARGEST: AtomicU64 = AtomicU64::new(0);

/// What the allocator has counted since the program started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HeapCounts {
    /// Live bytes of buffers.
    pub payload: i64,
    /// Most bytes of buffers at once since [`reset_peaks`].
    pub payload_peak: i64,
    /// Live heap bytes made under [`Scope::Engine`].
    pub engine: i64,
    /// Most of them at once since [`reset_peaks`].
    pub engine_peak: i64,
    /// Live heap bytes made under [`Scope::Program`].
    pub program: i64,
    /// Most of them at once since [`reset_peaks`].
    pub program_peak: i64,
    /// What the system's allocator holds for all of this, buffers included, with its headers and rounding.
    pub obtained: i64,
    /// Most of it at once since [`reset_peaks`].
    pub obtained_peak: i64,
    /// Live heap bytes made under [`Scope::Guest`].
    pub guest: i64,
    /// Most of them at once since [`reset_peaks`].
    pub guest_peak: i64,
    /// Engine allocations above [`ESCAPE_BYTES`] that were no buffer.
    pub escaped: u64,
    /// The largest of them.
    pub escaped_largest: u64,
}

/// Reads the counters.
pub fn counts() -> HeapCounts {
    HeapCounts {
        payload: PAYLOAD.load(Relaxed),
        payload_peak: PAYLOAD_PEAK.load(Relaxed),
        engine: HEAP[1].load(Relaxed),
        engine_peak: HEAP_PEAK[1].load(Relaxed),
        program: HEAP[0].load(Relaxed),
        program_peak: HEAP_PEAK[0].load(Relaxed),
        obtained: OBTAINED.load(Relaxed),
        obtained_peak: OBTAINED_PEAK.load(Relaxed),
        guest: HEAP[2].load(Relaxed),
        guest_peak: HEAP_PEAK[2].load(Relaxed),
        escaped: ESCAPED_COUNT.load(Relaxed),
        escaped_largest: ESCAPED_LARGEST.load(Relaxed),
    }
}

/// Starts the peaks and the escape count anew, at a job's start.
pub fn reset_peaks() {
    kept().free_all();
    PAYLOAD_PEAK.store(PAYLOAD.load(Relaxed), Relaxed);
    OBTAINED_PEAK.store(OBTAINED.load(Relaxed), Relaxed);
    for (peak, now) in HEAP_PEAK.iter().zip(&HEAP) {
        peak.store(now.load(Relaxed), Relaxed);
    }
    ESCAPED_COUNT.store(0, Relaxed);
    ESCAPED_LARGEST.store(0, Relaxed);
}

/// Sets this thread's scope and returns the one before.
pub fn set_scope(scope: Scope) -> Scope {
    let before = SCOPE.with(|s| s.replace(scope as u8));
    Scope::ALL.get(usize::from(before)).copied().unwrap_or(Scope::Program)
}

/// Runs `f` with this thread's allocations counted under `scope`.
pub fn scoped<T>(scope: Scope, f: impl FnOnce() -> T) -> T {
    struct Restore(Scope);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_scope(self.0);
        }
    }
    let _restore = Restore(set_scope(scope));
    f()
}

/// Bytes of a page of memory at most that is backed on its own.
const PAGE: usize = 4096;
/// Blocks from this size on are mapped by themselves and go back to the system when they are freed.
const MAPPED: i32 = 1 << 20;

/// Lets the system's allocator give large blocks back as soon as they are freed, where it can be told. By default it keeps
/// blocks of up to 32 MiB once it has seen one freed, and then holds more than anyone has asked for.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number of the allocator, which any thread may do at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

/// Gives what is free at the ends of the allocator's heaps back to the system, where it can be told.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: touches only memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that the system's allocator took for the block at `base`, of which `asked` were asked for.
pub(super) fn obtained(base: *mut u8, asked: usize) -> i64 {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let _ = asked;
        // SAFETY: `base` is a live block of this allocator. Its header has the size of a word.
        (unsafe { libc::malloc_usable_size(base.cast()) } + size_of::<usize>()) as i64
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = base;
        asked as i64
    }
}

/// Adds to what is live, and to its peak; most calls need no second write.
fn raise(now: &AtomicI64, peak: &AtomicI64, bytes: i64) {
    let now = now.fetch_add(bytes, Relaxed) + bytes;
    if now > peak.load(Relaxed) {
        peak.fetch_max(now, Relaxed);
    }
}

/// Bytes that are backed between two looks at whether anybody still wants them: some milliseconds.
const LOOK: usize = 8 << 20;

/// Makes the system back the pages of a block of zeros: until a page is written to, it is only promised. Ends early where
/// `stop` says so.
///
/// # Safety
/// `base` is a live block of `size` bytes.
unsafe fn back(base: *mut u8, size: usize, stop: &dyn Fn() -> bool) {
    for at in (0..size).step_by(LOOK) {
        let piece = LOOK.min(size - at);
        // SAFETY: the piece lies within the block, which is zero already.
        unsafe {
            if !populate(base.add(at), piece) {
                (0..piece).step_by(PAGE).chain([piece - 1]).for_each(|i| base.add(at + i).write_volatile(0));
            }
        }
        if stop() {
            return;
        }
    }
}

/// Makes zeros of a block. Ends early where `stop` says so.
///
/// # Safety
/// `base` is a live block of `size` bytes.
unsafe fn clear(base: *mut u8, size: usize, stop: &dyn Fn() -> bool) {
    for at in (0..size).step_by(LOOK) {
        // SAFETY: the piece lies within the block.
        unsafe { base.add(at).write_bytes(0, LOOK.min(size - at)) };
        if stop() {
            return;
        }
    }
}

/// Has the system back the pages from `base` on in one call, where it can: a fault a page takes it several times as long, and
/// a training step makes buffers anew.
///
/// # Safety
/// `size` bytes at `base` are of one live block.
unsafe fn populate(base: *mut u8, size: usize) -> bool {
    #[cfg(target_os = "linux")]
    {
        let (from, to) = (base as usize / PAGE * PAGE, (base as usize + size).next_multiple_of(PAGE));
        // SAFETY: whole pages that hold the block; what is in them stays.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_POPULATE_WRITE) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (base, size);
        false
    }
}

/// Zeroed payload memory of `size` bytes aligned to `align`, every page of it backed, or null, and the block it lies in. Only
/// the ledger's buffers and blocks call this, after reserving against the budget. An aligned `calloc` does not exist: so where
/// more than the allocator's own alignment is wanted, a little more is taken and aligned here. A block that is given up for
/// `stop` is freed by the one who asked.
pub(super) fn payload_alloc(size: usize, align: usize, stop: &dyn Fn() -> bool) -> (*mut u8, *mut u8) {
    let null = (std::ptr::null_mut(), std::ptr::null_mut());
    let Some(layout) = payload_layout(size, align) else { return null };
    let room = PAYLOAD_PEAK.load(Relaxed) - PAYLOAD.load(Relaxed) - size as i64;
    let base = if let Some(base) = kept().take(layout, room) {
        raise(&PAYLOAD, &PAYLOAD_PEAK, size as i64);
        // SAFETY: a live block of the layout's size, which nobody else holds.
        unsafe { clear(base, layout.size(), stop) };
        base
    } else {
        // SAFETY: the caller asks for at least a byte.
        let base = unsafe { System.alloc_zeroed(layout) };
        if base.is_null() {
            return null;
        }
        raise(&PAYLOAD, &PAYLOAD_PEAK, size as i64);
        raise(&OBTAINED, &OBTAINED_PEAK, obtained(base, layout.size()));
        if layout.size() >= PAGE {
            // SAFETY: the block has just been made.
            unsafe { back(base, layout.size(), stop) };
        }
        base
    };
    // SAFETY: the offset is below `align`, and the block has `align` bytes more than `size` where it is not 0.
    (unsafe { base.add(base.align_offset(align)) }, base)
}

fn payload_layout(size: usize, align: usize) -> Option<Layout> {
    let more = if align > HEADER { align } else { 0 };
    Layout::from_size_align(size.checked_add(more)?, HEADER).ok()
}

/// Frees what [`payload_alloc`] gave.
///
/// # Safety
/// `base` came from `payload_alloc` with this very size and alignment and is not used again.
pub(super) unsafe fn payload_free(base: *mut u8, size: usize, align: usize) {
    PAYLOAD.fetch_sub(size as i64, Relaxed);
    if let Some(layout) = payload_layout(size, align) {
        if kept().keep(base, layout) {
            return;
        }
        OBTAINED.fetch_sub(obtained(base, layout.size()), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(base, layout) }
    }
}

/// Blocks of buffers that were freed and are kept for the next of their size: what is done over and over, such as a training
/// step, would have the system back the same pages anew each time, on one thread, while all others wait. Never more than what
/// buffers have held at their peak is held in all, so that keeping takes nothing that was not taken before.
struct Kept {
    /// How many [`KeepFreed`] are held.
    users: usize,
    /// Address and layout of each, the one that was freed first at the front.
    blocks: Vec<(usize, Layout)>,
    bytes: i64,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { users: 0, blocks: Vec::new(), bytes: 0 });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    /// Keeps a block that would go back to the system, while anybody wants that.
    fn keep(&mut self, base: *mut u8, layout: Layout) -> bool {
        let keeps = self.users > 0 && layout.size() >= MAPPED as usize;
        if keeps {
            self.blocks.push((base as usize, layout));
            self.bytes += layout.size() as i64;
        }
        keeps
    }

    /// A kept block of this layout; without one, frees what has no room beside a new one, in the `room` bytes that would then
    /// be left of the peak.
    fn take(&mut self, layout: Layout, room: i64) -> Option<*mut u8> {
        if self.bytes == 0 {
            return None;
        }
        if let Some(i) = self.blocks.iter().rposition(|(_, of)| *of == layout) {
            let (base, _) = self.blocks.remove(i);
            self.bytes -= layout.size() as i64;
            return Some(base as *mut u8);
        }
        let mut freed = 0;
        while self.bytes > room && freed < self.blocks.len() {
            self.bytes -= self.blocks[freed].1.size() as i64;
            freed += 1;
        }
        self.free(freed);
        None
    }

    /// Frees the first `n` blocks, which are counted out already.
    fn free(&mut self, n: usize) {
        for (base, layout) in self.blocks.drain(..n) {
            let base = base as *mut u8;
            OBTAINED.fetch_sub(obtained(base, layout.size()), Relaxed);
            // SAFETY: it came from the system with this layout, and nobody holds it.
            unsafe { System.dealloc(base, layout) };
        }
    }

    fn free_all(&mut self) {
        self.bytes = 0;
        self.free(self.blocks.len());
    }
}

/// While this is held, large blocks of buffers are kept when they are freed, for the next buffer of their size.
#[derive(Debug)]
pub struct KeepFreed(());

/// Keeps large blocks from now on, until what this returns is dropped.
#[must_use]
pub fn keep_freed() -> KeepFreed {
    kept().users += 1;
    KeepFreed(())
}

impl Drop for KeepFreed {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.users -= 1;
        if kept.users == 0 {
            kept.free_all();
        }
    }
}

/// The global allocator of the program: the system's, with a header that remembers the scope of each block.
pub struct CountingAlloc;

const HEADER: usize = 16;

fn with_header(layout: Layout) -> Option<(Layout, usize)> {
    let offset = HEADER.max(layout.align());
    let whole = Layout::from_size_align(layout.size().checked_add(offset)?, layout.align().max(HEADER)).ok()?;
    Some((whole, offset))
}

fn count(scope: u8, size: usize, obtained: i64) {
    let i = usize::from(scope);
    raise(&HEAP[i], &HEAP_PEAK[i], size as i64);
    raise(&OBTAINED, &OBTAINED_PEAK, obtained);
    if scope == Scope::Engine as u8 && size > ESCAPE_BYTES {
        ESCAPED_COUNT.fetch_add(1, Relaxed);
        ESCAPED_LARGEST.fetch_max(size as u64, Relaxed);
    }
}

// SAFETY: every block is a System block shifted by `offset`, whose byte just before the pointer holds the scope; layouts
// are recomputed from the caller's in the same way on free.
unsafe impl GlobalAlloc for CountingAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, offset)) = with_header(layout) else { return std::ptr::null_mut() };
        // SAFETY: `whole` has non-zero size.
        let base = unsafe { System.alloc(whole) };
        if base.is_null() {
            return base;
        }
        let scope = SCOPE.try_with(Cell::get).unwrap_or(0);
        count(scope, layout.size(), obtained(base, whole.size()));
        // SAFETY: offset ≥ 16 bytes lie before the block inside the allocation.
        unsafe {
            *base.add(offset - 1) = scope;
            base.add(offset)
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((whole, offset)) = with_header(layout) else { return std::ptr::null_mut() };
        // SAFETY: `whole` has non-zero size; the rest as in `alloc`.
        unsafe {
            let base = System.alloc_zeroed(whole);
            if base.is_null() {
                return base;
            }
            let scope = SCOPE.try_with(Cell::get).unwrap_or(0);
            count(scope, layout.size(), obtained(base, whole.size()));
            *base.add(offset - 1) = scope;
            base.add(offset)
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some((whole, offset)) = with_header(layout) else { return };
        // SAFETY: `ptr` came from `alloc` with this layout, so the scope byte and the base are where they were put.
        unsafe {
            let scope = *ptr.sub(1);
            HEAP[usize::from(scope).min(2)].fetch_sub(layout.size() as i64, Relaxed);
            let base = ptr.sub(offset);
            OBTAINED.fetch_sub(obtained(base, whole.size()), Relaxed);
            System.dealloc(base, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_kept_for_its_size_and_within_the_peak() {
        let mut kept = Kept { users: 0, blocks: Vec::new(), bytes: 0 };
        let layout = |mib: usize| Layout::from_size_align(mib << 20, HEADER).unwrap();
        let make = |mib: usize| {
            // SAFETY: of non-zero size.
            let base = unsafe { System.alloc_zeroed(layout(mib)) };
            raise(&OBTAINED, &OBTAINED_PEAK, obtained(base, mib << 20));
            base
        };
        let blocks = [make(1), make(2), make(3)];
        assert!(!kept.keep(blocks[0], layout(1)), "nobody asked for it");
        kept.users = 1;
        assert!(!kept.keep(blocks[0], Layout::new::<[u8; 4096]>()), "the system's own allocator keeps small ones");
        for (i, base) in blocks.iter().enumerate() {
            assert!(kept.keep(*base, layout(i + 1)));
        }
        assert_eq!(kept.take(layout(2), 0), Some(blocks[1]));
        assert!(kept.keep(blocks[1], layout(2)));
        // Room for 5 MiB beside a new block: the one that was freed first goes.
        assert_eq!(kept.take(layout(4), 5 << 20), None);
        assert_eq!((kept.bytes, kept.blocks.len()), (5 << 20, 2));
        assert_eq!(kept.take(layout(1), 5 << 20), None, "it is gone");
        assert_eq!(kept.take(layout(9), -1), None);
        assert_eq!((kept.bytes, kept.blocks.len()), (0, 0), "a new peak leaves room for none");
    }

    #[test]
    fn what_is_kept_comes_back_as_zeros() {
        let _keeping = keep_freed();
        let (size, never) = ((3 << 20) + 12_345, || false);
        // Other tests' buffers may need its room in between, seldom.
        let again = (0..1000).any(|_| {
            let (at, base) = payload_alloc(size, 64, &never);
            // SAFETY: a live block of `size` bytes from `at` on, freed once.
            unsafe {
                at.write_bytes(0xff, size);
                payload_free(base, size, 64);
            }
            let (again, block) = payload_alloc(size, 64, &never);
            // SAFETY: as above.
            unsafe {
                assert!(std::slice::from_raw_parts(again, size).iter().all(|b| *b == 0));
                payload_free(block, size, 64);
            }
            again == at
        });
        assert!(again, "no block came back");
    }
}
