//! The probe of a GPU: what its memory, its arithmetic, its launches and its link to the host do in a second.

use std::sync::Arc;
use std::time::Instant;

use super::{Gpu, Link};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::cuda::{Blas, Device, Kernels, Operand, Pinned, count};

/// Side of the square products.
const SIDE: usize = 4096;
/// What is copied within the GPU's memory: far larger than its cache.
const COPY: usize = 256 << 20;
/// What is sent over the link at a time.
const CHUNKS: [usize; 5] = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20];
/// Kernels of a queue that is timed; fewer than a driver queues before it makes the host wait.
const QUEUE: usize = 500;
/// cuBLAS's scratch.
const SCRATCH: usize = 32 << 20;

/// Rounds of which the best counts.
const ROUNDS: usize = 5;

/// Every GPU of this machine, in the driver's order; none where there is no driver.
///
/// # Errors
/// Cancelled. A GPU that cannot be measured (its memory is taken) is an error that names it.
pub(super) fn probe(cancelled: &dyn Fn() -> bool) -> Result<Vec<Gpu>> {
    (0..count()).map(|ordinal| one(ordinal, cancelled)).collect()
}

/// Seconds of `what`, the best of some rounds after one that does not count.
fn best(device: &Device, cancelled: &dyn Fn() -> bool, mut what: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        device.wait()?;
        let start = Instant::now();
        what()?;
        device.wait()?;
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

fn one(ordinal: usize, cancelled: &dyn Fn() -> bool) -> Result<Gpu> {
    let largest = 2 * COPY + SCRATCH + (64 << 20);
    let device = Device::open(ordinal, largest as u64)?;
    let (total, free) = device.memory()?;
    // The probe keeps to a wall of its own.
    let ledger = Ledger::new(largest as u64, 2 * CHUNKS[4] as u64, 0);
    let buffer = |bytes: usize| device.buffer(&ledger, Tag::device(Category::Workspace, "gpu probe"), bytes);
    let kernels = Kernels::new(Arc::clone(&device))?;
    let blas = Blas::new(&device, buffer(SCRATCH)?)?;
    let (a, b) = (buffer(COPY)?, buffer(COPY)?);
    const COPIES: usize = 10;
    let copied = best(&device, cancelled, || (0..COPIES).try_for_each(|_| device.copy(a.view(), b.view())))?;
    let launched = best(&device, cancelled, || (0..QUEUE).try_for_each(|_| kernels.add(a.view(), b.view(), 1)))?;
    let flops = |ty: BlockType| -> Result<f64> {
        let n = SIDE * SIDE * ty.block_bytes();
        let (x, y, z) = (a.part(0, n)?, a.part(n, n)?, b.part(0, n)?);
        let of = |view| Operand { view, ty, ld: SIDE, turned: false };
        const PRODUCTS: usize = 4;
        let seconds = best(&device, cancelled, || {
            (0..PRODUCTS).try_for_each(|_| blas.product((SIDE, SIDE, SIDE), of(x), of(y), of(z), false))
        })?;
        Ok((PRODUCTS * 2) as f64 * (SIDE as f64).powi(3) / seconds)
    };
    let (f32_flops, bf16_flops) = (flops(BlockType::F32)?, flops(BlockType::Bf16)?);
    let mut plain = ledger.buffer(Tag::host(Category::Workspace, "gpu probe"), CHUNKS[4])?;
    // Zeroed memory may be one shared page until it is written.
    plain.as_mut_slice::<u8>().fill(1);
    let mut pinned = Pinned::new(&device, &ledger, Tag::host(Category::Workspace, "pinned"), CHUNKS[4])?;
    let link = |send: &mut dyn FnMut(usize) -> Result<()>| -> Result<Link> {
        let mut times = Vec::with_capacity(CHUNKS.len());
        for chunk in CHUNKS {
            times.push((chunk as u64, best(&device, cancelled, || send(chunk))?));
        }
        Link::from_times(&times).ok_or_else(|| Error::Device(format!("the link to cuda:{ordinal} took no time")))
    };
    let upload = link(&mut |n| device.upload(&plain.as_slice::<u8>()[..n], a.part(0, n)?))?;
    let upload_pinned = link(&mut |n| device.upload(&pinned.bytes()[..n], a.part(0, n)?))?;
    let download = link(&mut |n| device.download(a.part(0, n)?, &mut pinned.bytes_mut()[..n]))?;
    Ok(Gpu {
        name: device.name().0,
        memory: total,
        available: free,
        // A byte copied is a byte read and one written.
        read: (2 * COPIES * COPY) as f64 / copied,
        f32_flops,
        bf16_flops,
        launch_s: launched / QUEUE as f64,
        upload_pinned,
        upload,
        download,
    })
}
