//! Reading weights into their final place: straight from the file where the format stays, block by block where it changes.

use std::sync::Mutex;

use crate::blocks;
use crate::error::{Error, Result};
use crate::ledger::{Buffer, Category, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::shape::TensorShape;

/// The ledger row of conversion scratch.
pub const SCRATCH: Tag = Tag::device(Category::Workspace, "load scratch");

/// Bytes of scratch aimed at per thread: small beside any model, large enough to read in long runs.
const PIECE: usize = 256 << 10;

/// Pieces listed at once: the list is bookkeeping and must stay small whatever the tensor's size.
const RUN: usize = 1024;

/// Rows converted at a time: `(bytes, rows)` of one thread's scratch for reading `from` into another type.
fn piece(from: &TensorShape) -> (usize, usize) {
    let row = from.row_bytes().next_multiple_of(4) + 4 * from.cols;
    let rows = (PIECE / row).clamp(1, from.rows.max(1));
    (rows * row, rows)
}

/// Scratch that `threads` threads need to read tensors stored as `from` and held as `to`; 0 when nothing changes type.
pub fn scratch_bytes<'a>(pairs: impl Iterator<Item = (&'a TensorShape, &'a TensorShape)>, threads: usize) -> usize {
    pairs.filter(|(a, b)| a.ty != b.ty).map(|(a, _)| piece(a).0.next_multiple_of(64) * threads).max().unwrap_or(0)
}

/// Reads `from` (as the source stores it) into `into` as type `to.ty`.
///
/// # Errors
/// What the source says, a type that cannot be converted, or cancellation.
pub fn tensor(
    source: &Source,
    from: &TensorShape,
    to: &TensorShape,
    into: &mut [u8],
    scratch: Option<&mut Buffer>,
    team: &ThreadTeam,
) -> Result<()> {
    rows(source, from, to, 0, into, scratch, team)
}

/// As [`tensor`], of the rows from `start` on that fill `into`.
///
/// # Errors
/// As [`tensor`].
pub fn rows(
    source: &Source,
    from: &TensorShape,
    to: &TensorShape,
    start: usize,
    into: &mut [u8],
    scratch: Option<&mut Buffer>,
    team: &ThreadTeam,
) -> Result<()> {
    let row = to.row_bytes();
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |e: Error| {
        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
    };
    if from.ty == to.ty {
        let rows = ((4 << 20) / row.max(1)).clamp(1, from.rows.max(1));
        for (run, into) in into.chunks_mut(rows * row * RUN).enumerate() {
            let pieces = Pieces::new(into, rows * row);
            team.run(pieces.count(), &|task, _| {
                let Some(mut out) = pieces.take(task) else { return };
                let first = start + (run * RUN + task) * rows;
                if let Err(e) = source.read_rows(from, first, out.len() / row, &mut out) {
                    fail(e);
                }
            })?;
        }
    } else {
        let (bytes, rows) = piece(from);
        let Some(scratch) = scratch else {
            return Err(Error::Internal(format!("no scratch to convert {}", from.name)));
        };
        let parts = Pieces::new(scratch.as_mut_slice::<u8>(), bytes.next_multiple_of(64));
        for (run, into) in into.chunks_mut(rows * row * RUN).enumerate() {
            let pieces = Pieces::new(into, rows * row);
            team.run(pieces.count(), &|task, worker| {
                let (Some(mut out), Some(mut part)) = (pieces.take(task), parts.take(worker)) else { return };
                let (first, n) = (start + (run * RUN + task) * rows, out.len() / row);
                let (wide, raw) = part.split_at_mut(4 * n * from.cols);
                let wide: &mut [f32] = bytemuck::cast_slice_mut(wide);
                let raw = &mut raw[..n * from.row_bytes()];
                let done = source.read_rows(from, first, n, raw).and_then(|()| {
                    blocks::decode(from.ty, raw, wide).and_then(|()| blocks::encode(to.ty, wide, &mut out)).map_err(
                        |e| Error::refused(format!("weights.format = {}", to.ty), format!("{}: {e}", from.name)),
                    )
                });
                if let Err(e) = done {
                    fail(e);
                }
            })?;
        }
    }
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// A slice cut into equal pieces that tasks take by number, each by one task at a time.
struct Pieces<'a>(Vec<Mutex<&'a mut [u8]>>);

impl<'a> Pieces<'a> {
    fn new(data: &'a mut [u8], size: usize) -> Self {
        Self(data.chunks_mut(size.max(1)).map(Mutex::new).collect())
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn take(&self, i: usize) -> Option<std::sync::MutexGuard<'_, &'a mut [u8]>> {
        self.0.get(i).map(|m| m.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
