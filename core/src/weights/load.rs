//! Reading weights into their final place: straight from the file where the format stays, row by row where it changes.

use std::sync::Mutex;

use crate::blocks::{self, BlockType, Packed, Scheme};
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
    pairs
        .filter(|(a, b)| a.ty != b.ty)
        .map(|(a, b)| piece(a).0.next_multiple_of(64) * threads + beside(b))
        .max()
        .unwrap_or(0)
}

/// Bytes that a tensor's scheme keeps beside the payload until all of its rows are encoded.
fn beside(to: &TensorShape) -> usize {
    match to.ty {
        Scheme::Block(_) => 0,
        Scheme::Packed(scheme) => to.rows * scheme.row(to.cols).1,
    }
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
    let (bytes, _) = piece(from);
    let failed = Failed::default();
    if from.ty == to.ty {
        copy(source, from, start, into, &failed, team)?;
        return failed.end();
    }
    let Some(scratch) = scratch else {
        return Err(Error::Internal(format!("no scratch to convert {}", from.name)));
    };
    let kept = beside(to);
    let scratch = scratch.as_mut_slice::<u8>();
    let Some(cut) = scratch.len().checked_sub(kept) else {
        return Err(Error::Internal(format!("{} bytes of scratch to convert {}", scratch.len(), from.name)));
    };
    let (parts, kept) = scratch.split_at_mut(cut);
    let parts = Pieces::new(parts, bytes.next_multiple_of(64));
    let work = Conversion { source, from, to, ty: from.block()?, parts, failed: &failed, team };
    match to.ty {
        Scheme::Block(ty) => {
            work.each(start, to.row_bytes(), into, 0, &mut [], &|wide, out, _| blocks::encode(ty, wide, out))?;
        }
        Scheme::Packed(scheme) => work.pack(scheme, start, into, kept)?,
    }
    failed.end()
}

/// Rows `start ..` as they are, a few megabytes at a time on each thread.
fn copy(
    source: &Source,
    from: &TensorShape,
    start: usize,
    into: &mut [u8],
    failed: &Failed,
    team: &ThreadTeam,
) -> Result<()> {
    let row = from.row_bytes();
    let rows = ((4 << 20) / row.max(1)).clamp(1, from.rows.max(1));
    for (run, into) in into.chunks_mut(rows * row * RUN).enumerate() {
        let pieces = Pieces::new(into, rows * row);
        team.run(pieces.count(), &|task, _| {
            let Some(mut out) = pieces.take(task) else { return };
            let first = start + (run * RUN + task) * rows;
            failed.take(source.read_rows(from, first, out.len() / row, &mut out));
        })?;
    }
    Ok(())
}

/// The first error of several threads.
#[derive(Default)]
struct Failed(Mutex<Option<Error>>);

impl Failed {
    fn take(&self, done: Result<()>) {
        if let Err(e) = done {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        }
    }

    fn end(self) -> Result<()> {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// What encodes rows of f32: `(rows, their part of the payload, what is kept beside it)`.
type Encode<'a> = &'a (dyn Fn(&[f32], &mut [u8], &mut [u8]) -> Result<(), blocks::CodecError> + Sync);

/// A tensor on its way from the block type `ty` to another scheme.
struct Conversion<'a> {
    source: &'a Source,
    from: &'a TensorShape,
    to: &'a TensorShape,
    ty: BlockType,
    parts: Pieces<'a>,
    failed: &'a Failed,
    team: &'a ThreadTeam,
}

impl Conversion<'_> {
    /// Reads, decodes and encodes rows from `start` on, until `into`, of `row` bytes a row, is full.
    fn each(
        &self,
        start: usize,
        row: usize,
        into: &mut [u8],
        kept_row: usize,
        kept: &mut [u8],
        encode: Encode<'_>,
    ) -> Result<()> {
        let (from, rows) = (self.from, piece(self.from).1);
        let runs = into.chunks_mut((rows * row).max(1) * RUN).enumerate();
        let mut rest = kept;
        for (run, into) in runs {
            let here = into.len() / row.max(1) * kept_row;
            let (now, later) = rest.split_at_mut(here);
            let (pieces, beside) = (Pieces::new(into, rows * row), Pieces::new(now, rows * kept_row));
            self.team.run(pieces.count(), &|task, worker| {
                let (Some(mut out), Some(mut part)) = (pieces.take(task), self.parts.take(worker)) else { return };
                let mut kept = beside.take(task);
                let kept: &mut [u8] = kept.as_deref_mut().map_or(&mut [], |kept| kept);
                let (first, n) = (start + (run * RUN + task) * rows, out.len() / row);
                let (wide, raw) = part.split_at_mut(4 * n * from.cols);
                let wide: &mut [f32] = bytemuck::cast_slice_mut(wide);
                let raw = &mut raw[..n * from.row_bytes()];
                self.failed.take(self.source.read_rows(from, first, n, raw).and_then(|()| {
                    blocks::decode(self.ty, raw, wide).and_then(|()| encode(wide, &mut out, kept)).map_err(|e| {
                        Error::refused(format!("weights.format = {}", self.to.ty), format!("{}: {e}", from.name))
                    })
                }));
            })?;
            rest = later;
        }
        Ok(())
    }

    /// The whole matrix into a packed payload.
    fn pack(&self, scheme: &'static dyn Packed, start: usize, into: &mut [u8], kept: &mut [u8]) -> Result<()> {
        let (rows, cols) = (self.from.rows, self.from.cols);
        if start > 0 || scheme.bytes(rows, cols) != Some(into.len()) {
            return Err(Error::Internal(format!("{}: a part of a payload of {}", self.from.name, scheme.name())));
        }
        let (row, kept_row) = scheme.row(cols);
        self.each(0, row, &mut into[..rows * row], kept_row, kept, &|wide, out, kept| {
            scheme.encode(cols, wide, out, kept);
            Ok(())
        })?;
        scheme.seal(rows, cols, into, kept);
        Ok(())
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
