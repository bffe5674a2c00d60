//! The counting allocator: a second, independent account that checks the ledger.
//!
//! Payload goes through [`payload_alloc`], everything else through [`CountingAlloc`] (installed by the program as its
//! global allocator). Each thread has a scope: `Engine` on a job's threads, `Program` everywhere else. A block remembers
//! the scope it was made under in a header before it, so freeing it on another thread is counted right.
#![allow(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

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
        guest: HEAP[2].load(Relaxed),
        guest_peak: HEAP_PEAK[2].load(Relaxed),
        escaped: ESCAPED_COUNT.load(Relaxed),
        escaped_largest: ESCAPED_LARGEST.load(Relaxed),
    }
}

/// Starts the peaks and the escape count anew, at a job's start.
pub fn reset_peaks() {
    PAYLOAD_PEAK.store(PAYLOAD.load(Relaxed), Relaxed);
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

/// Zeroed payload memory of `size` bytes aligned to `align`, or null, and the block it lies in. Only [`super::Buffer`] calls
/// this, after reserving against the budget. An aligned `calloc` does not exist, and clearing by hand would touch every page:
/// so a little more is taken and aligned here.
pub(super) fn payload_alloc(size: usize, align: usize) -> (*mut u8, *mut u8) {
    let null = (std::ptr::null_mut(), std::ptr::null_mut());
    let Some(layout) = payload_layout(size, align) else { return null };
    // SAFETY: the layout's size is at least `align`, so not zero.
    let base = unsafe { System.alloc_zeroed(layout) };
    if base.is_null() {
        return null;
    }
    let now = PAYLOAD.fetch_add(size as i64, Relaxed) + size as i64;
    PAYLOAD_PEAK.fetch_max(now, Relaxed);
    // SAFETY: the offset is below `align`, and the block has `align` bytes more than `size`.
    (unsafe { base.add(base.align_offset(align)) }, base)
}

fn payload_layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(align)?, HEADER).ok()
}

/// Frees what [`payload_alloc`] gave.
///
/// # Safety
/// `base` came from `payload_alloc` with this very size and alignment and is not used again.
pub(super) unsafe fn payload_free(base: *mut u8, size: usize, align: usize) {
    PAYLOAD.fetch_sub(size as i64, Relaxed);
    if let Some(layout) = payload_layout(size, align) {
        // SAFETY: as above.
        unsafe { System.dealloc(base, layout) }
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

fn count(scope: u8, size: usize) {
    let i = usize::from(scope);
    let now = HEAP[i].fetch_add(size as i64, Relaxed) + size as i64;
    HEAP_PEAK[i].fetch_max(now, Relaxed);
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
        count(scope, layout.size());
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
            count(scope, layout.size());
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
            System.dealloc(ptr.sub(offset), whole);
        }
    }
}
