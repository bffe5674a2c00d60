//! candle as an executor: every [`Op`] as calls of candle's tensors, on its CPU, CUDA and Metal devices.
//!
//! It is the visible reference: it shares nothing with our kernels but the description of the operations and the block
//! decoders that make f32 of stored weights, and it is slower. candle allocates on its own, and cannot fail but by ending the
//! process, so no wall can stand around it: [`bound`] says how much it will hold at most, that much is reserved as a guest row
//! before it is opened, and the allocator's [`Scope::Guest`] counts what it really held. Its CPU work runs on a pool of its
//! own, whose threads allocate under that scope.

pub mod bound;
mod ops;
mod rule;

/// An operation that candle is not taught.
fn unknown(op: &Op<'_>) -> Error {
    Error::refused(
        format!("run.engine = candle with {}", op.name()),
        "this operation is not written as calls of candle; run it with run.engine=ullage",
    )
}

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use candle_core::{DType, Tensor};

use super::{Buf, Cost, Device, Dst, Meter, Op, Src, buffer_bytes};
use crate::blocks::{self, BlockType, Scheme};
use crate::error::{Error, Result};
use crate::ledger::alloc::{self, Scope};
use crate::ledger::{Category, Ledger, Reservation, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::shape::TensorShape;

/// The guest row: all that candle may hold at once.
pub const GUEST: Tag = Tag::device(Category::Workspace, "candle tensors");

/// Bytes of a file that are decoded at once while loading.
const PIECE: usize = 256 << 10;

/// What all open devices of this process may hold together.
static ALLOWED: AtomicI64 = AtomicI64::new(0);

/// candle on one of its devices, with one job's ledger and threads.
pub struct Candle {
    device: candle_core::Device,
    pool: rayon::ThreadPool,
    team: Arc<ThreadTeam>,
    ledger: Arc<Ledger>,
    meter: Meter,
    row: Reservation,
}

/// An error of candle's.
fn said(error: candle_core::Error) -> Error {
    Error::Device(format!("candle: {error}"))
}

/// candle's device of a name as in `machine.device`: `cpu`, `cuda:0`, `metal:0`.
fn device(name: &str) -> Result<candle_core::Device> {
    let missing = |feature: &str| {
        Error::refused(
            format!("machine.device = {name}"),
            format!("this build has no such device; build with `--features {feature}`"),
        )
    };
    match name.split_once(':').map(|(kind, n)| (kind, n.parse::<usize>())) {
        Some(("cuda", Ok(n))) if candle_core::utils::cuda_is_available() => {
            candle_core::Device::new_cuda(n).map_err(said)
        }
        Some(("metal", Ok(n))) if candle_core::utils::metal_is_available() => {
            candle_core::Device::new_metal(n).map_err(said)
        }
        Some(("cuda", _)) => Err(missing("cuda")),
        Some(("metal", _)) => Err(missing("metal")),
        _ => Ok(candle_core::Device::Cpu),
    }
}

impl Candle {
    /// Opens candle's device `name` with `threads` threads, reserving `bound` bytes as the guest row. `team` is asked only
    /// whether the job was cancelled.
    ///
    /// # Errors
    /// [`Error::OverBudget`]; [`Error::Refused`] for a device that this build or machine does not have.
    pub fn open(name: &str, ledger: &Arc<Ledger>, team: &Arc<ThreadTeam>, threads: usize, bound: u64) -> Result<Self> {
        let device = device(name)?;
        let row = ledger.reserve(GUEST, bound)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("candle-{i}"))
            .start_handler(|_| {
                alloc::set_scope(Scope::Guest);
            })
            .build()
            .map_err(|e| Error::Internal(format!("cannot start candle's threads: {e}")))?;
        ALLOWED.fetch_add(bound as i64, Relaxed);
        Ok(Self { device, pool, team: Arc::clone(team), ledger: Arc::clone(ledger), meter: Meter::new(team), row })
    }

    /// Runs `work` on candle's threads.
    fn guest<T: Send>(&self, work: impl FnOnce(&candle_core::Device) -> candle_core::Result<T> + Send) -> Result<T> {
        let device = &self.device;
        self.pool.install(|| work(device)).map_err(said)
    }
}

/// Rows of a tensor that are decoded at once.
fn rows_at_once(t: &TensorShape) -> usize {
    (PIECE / t.row_bytes().max(4 * t.cols).max(1)).clamp(1, t.rows.max(1))
}

impl Candle {
    /// Reads `t` some rows at a time: the number of the first, and their values.
    fn pieces(
        &self,
        source: &Source,
        t: &TensorShape,
        mut each: impl FnMut(usize, Vec<f32>) -> Result<()> + Send,
    ) -> Result<()> {
        let (ty, rows) = (t.block()?, rows_at_once(t));
        for first in (0..t.rows).step_by(rows) {
            self.wait()?;
            let n = rows.min(t.rows - first);
            self.pool.install(|| {
                let mut stored = vec![0u8; n * t.row_bytes()];
                source.read_rows(t, first, n, &mut stored)?;
                let mut values = vec![0.0f32; n * t.cols];
                blocks::decode(ty, &stored, &mut values)
                    .map_err(|e| Error::refused(format!("{} as f32", t.name), e.to_string()))?;
                each(first, values)
            })?;
        }
        Ok(())
    }
}

impl Drop for Candle {
    fn drop(&mut self) {
        ALLOWED.fetch_sub(self.row.bytes() as i64, Relaxed);
    }
}

/// Elements `x.at..x.at + len`, as a view.
fn flat(x: Src<'_>, len: usize) -> Result<Tensor> {
    x.buf.memory::<Tensor>()?.narrow(0, x.at, len).map_err(said)
}

/// As [`flat`], `(rows, cols)`.
fn matrix(x: Src<'_>, rows: usize, cols: usize) -> Result<Tensor> {
    flat(x, rows * cols)?.reshape((rows, cols)).map_err(said)
}

/// A place that a result goes to.
struct Target {
    tensor: Tensor,
    at: usize,
}

impl Target {
    fn of(y: Dst<'_>) -> Result<Self> {
        Ok(Self { tensor: y.buf.memory::<Tensor>()?.clone(), at: y.at })
    }

    /// What is there, `(rows, cols)`.
    fn matrix(&self, rows: usize, cols: usize) -> candle_core::Result<Tensor> {
        self.tensor.narrow(0, self.at, rows * cols)?.reshape((rows, cols))
    }

    /// What is there.
    fn flat(&self, len: usize) -> candle_core::Result<Tensor> {
        self.tensor.narrow(0, self.at, len)
    }

    fn put(&self, value: &Tensor) -> candle_core::Result<()> {
        self.tensor.slice_set(&value.flatten_all()?.contiguous()?, 0, self.at)
    }
}

/// A tensor of `values` on `device`.
fn sent<T: candle_core::WithDType>(values: Vec<T>, device: &candle_core::Device) -> candle_core::Result<Tensor> {
    let n = values.len();
    Tensor::from_vec(values, n, device)
}

impl Device for Candle {
    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        Ok(vec![("candle tensors held", alloc::counts().guest_peak.max(0) as u64)])
    }

    /// Values of every type are f32 here, ids u32; bytes are in the guest row, whatever the tag.
    fn buffer(&self, _: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        let dtype = if ty == BlockType::I32 { DType::U32 } else { DType::F32 };
        Ok(Buf::new(ty, len, self.guest(|device| Tensor::zeros(len.max(1), dtype, device))?))
    }

    fn upload(&self, from: &[u8], to: Dst<'_>) -> Result<()> {
        let ty = to.buf.ty();
        let to = Target::of(to)?;
        self.guest(|device| {
            let value = match ty {
                BlockType::I32 => sent(from.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(), device)?,
                _ => {
                    let mut values = vec![0.0f32; from.len() / ty.block_bytes() * ty.elems()];
                    blocks::decode(ty, from, &mut values).map_err(candle_core::Error::wrap)?;
                    sent(values, device)?
                }
            };
            if value.elem_count() == 0 { Ok(()) } else { to.put(&value) }
        })
    }

    fn download(&self, from: Src<'_>, to: &mut [u8]) -> Result<()> {
        let ty = from.buf.ty();
        let n = to.len() / ty.block_bytes() * ty.elems();
        let x = flat(from, n)?;
        self.guest(|_| {
            match ty {
                BlockType::I32 => to.copy_from_slice(bytemuck::cast_slice(&x.to_vec1::<u32>()?)),
                _ => blocks::encode(ty, &x.to_vec1::<f32>()?, to).map_err(candle_core::Error::wrap)?,
            }
            Ok(())
        })
    }

    /// f32 of every element, whatever the scheme.
    fn tensor(&self, tag: Tag, t: &TensorShape) -> Result<Buf> {
        match t.ty {
            Scheme::Block(ty) => self.buffer(tag, ty, t.rows * t.cols),
            Scheme::Packed(_) => {
                let values = self.guest(|device| Tensor::zeros((t.rows * t.cols).max(1), DType::F32, device))?;
                Ok(Buf::new(BlockType::I8, t.bytes() as usize, values).packed(t.ty))
            }
        }
    }

    fn load(&self, source: &Source, from: &TensorShape, to: &TensorShape, into: &mut Buf) -> Result<()> {
        self.ledger.moved("disk read", from.bytes());
        let target = Target::of(into.all_mut())?.tensor;
        let device = &self.device;
        let put = |first: usize, values: Vec<f32>| {
            let put = sent(values, device).and_then(|piece| target.slice_set(&piece, 0, first * from.cols));
            put.map_err(said)
        };
        let failed = |e: blocks::CodecError| Error::refused(format!("{} as {}", from.name, to.ty), e.to_string());
        match to.ty {
            Scheme::Block(ty) => self.pieces(source, from, |first, mut values| {
                if from.ty != to.ty {
                    // What is held in another type is what that type makes of it.
                    let mut held = vec![0u8; buffer_bytes(ty, values.len())];
                    blocks::encode(ty, &values, &mut held).map_err(failed)?;
                    blocks::decode(ty, &held, &mut values).map_err(failed)?;
                }
                put(first, values)
            }),
            Scheme::Packed(scheme) => {
                let (own, kept) = scheme.row(from.cols);
                let (mut payload, mut beside) =
                    self.pool.install(|| (vec![0u8; to.bytes() as usize], vec![0u8; from.rows * kept]));
                self.pieces(source, from, |first, values| {
                    let rows = values.len() / from.cols;
                    let beside = &mut beside[first * kept..][..rows * kept];
                    scheme.encode(from.cols, &values, &mut payload[first * own..][..rows * own], beside);
                    Ok(())
                })?;
                scheme.seal(from.rows, from.cols, &mut payload, &beside);
                let rows = rows_at_once(from);
                for first in (0..from.rows).step_by(rows) {
                    self.pool.install(|| {
                        let mut values = vec![0.0f32; rows.min(from.rows - first) * from.cols];
                        scheme.decode(from.rows, from.cols, &payload, first * from.cols, &mut values);
                        put(first, values)
                    })?;
                }
                Ok(())
            }
        }
    }

    fn wait(&self) -> Result<()> {
        if self.team.cancelled() {
            return Err(Error::Cancelled);
        }
        self.device.synchronize().map_err(said)
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn execute(&self, op: Op<'_>, _: &Cost) -> Result<()> {
        let name = op.name();
        ops::execute(self, op)?;
        // No wall can stop candle while it allocates, so the run stops at the operation's end.
        let (held, allowed) = (alloc::counts().guest, ALLOWED.load(Relaxed));
        if held > allowed {
            return Err(Error::Internal(format!("candle holds {held} B after {name}, its bound is {allowed} B")));
        }
        Ok(())
    }
}
