//! Buffers: the only way to hold payload. Reserve, count, then allocate; or fail with the typed over-budget error.
#![allow(unsafe_code, reason = "aligned memory that can fail")]

use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::{Ledger, Tag, alloc};
use crate::error::{Error, Result};

/// Alignment of every buffer: one cache line, and enough for any vector register.
pub const ALIGN: usize = 64;

/// Bytes counted against a tier's budget until dropped. Holds no memory itself: [`Buffer`] is a reservation with memory,
/// and regions made elsewhere (mapped, pinned, driver-reserved) register themselves by one of these.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    tag: Tag,
    bytes: u64,
    id: u64,
}

impl Reservation {
    pub(super) fn new(ledger: Arc<Ledger>, tag: Tag, bytes: u64, id: u64) -> Self {
        Self { ledger, tag, bytes, id }
    }

    /// What the bytes are for.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts `bytes` more under the same tag, or fails without counting anything.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the tier has no room.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        self.ledger.take(self.tag, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Whether the job is to end.
    pub(super) fn cancelled(&self) -> bool {
        self.ledger.cancelled()
    }

    /// The error of a system that has no `bytes` left for what was granted.
    pub(super) fn none_left(&self, bytes: u64) -> crate::Error {
        self.ledger.over(self.tag, bytes, Some(super::NO_MEMORY.into()))
    }

    /// Gives back `bytes` of what is counted.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.ledger.give(self.tag, bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.release(self.tag, self.bytes, self.id);
    }
}

/// A zero-initialized block of payload memory on the CPU, counted in the ledger for as long as it lives.
#[derive(Debug)]
pub struct Buffer {
    ptr: NonNull<u8>,
    base: *mut u8,
    len: usize,
    _reservation: Reservation,
}

// SAFETY: a Buffer owns its block as a Vec<u8> does; shared access only reads.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Reserves `len` bytes under `tag` and allocates them.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the tier has no room, or when the system itself has none; [`crate::Error::Cancelled`].
    pub fn new(ledger: &Arc<Ledger>, tag: Tag, len: usize) -> Result<Self> {
        let mut reservation = ledger.reserve(tag, len as u64)?;
        if len == 0 {
            return Ok(Self { ptr: NonNull::dangling(), base: std::ptr::null_mut(), len, _reservation: reservation });
        }
        let (ptr, base) = alloc::payload_alloc(len, ALIGN, &|| ledger.cancelled());
        let Some(ptr) = NonNull::new(ptr) else {
            reservation.shrink(len as u64);
            return Err(reservation.none_left(len as u64));
        };
        let made = Self { ptr, base, len, _reservation: reservation };
        if ledger.cancelled() { Err(Error::Cancelled) } else { Ok(made) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, read as elements of `T`; a remainder shorter than one element is left out.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        const { assert!(align_of::<T>() <= ALIGN && size_of::<T>() > 0) };
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the block is `len` initialized bytes aligned to ALIGN ≥ align_of::<T>(), and T is plain data.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// As [`Self::as_slice`], for writing.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        const { assert!(align_of::<T>() <= ALIGN && size_of::<T>() > 0) };
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.len / size_of::<T>()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` with this length and alignment; dropped once.
            unsafe { alloc::payload_free(self.base, self.len, ALIGN) }
        }
    }
}
