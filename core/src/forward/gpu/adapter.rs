//! A low-rank adapter on the GPU, beside the weights it changes: y += s · B(Ax), in the kernels of the weights themselves.

use std::sync::Arc;

use crate::error::Result;
use crate::forward::adapter::{Parts, layout};
use crate::forward::gpu::{UPLOAD, adapter_upload_bytes};
use crate::ledger::Ledger;
use crate::model::adapter::{AdapterFile, LowRank, Role};
use crate::ops::cuda::{Device, DeviceBuffer, Kernels, View};
use crate::place::rows;
use crate::shape::{ModelShape, TensorShape};

/// One layer's factors.
struct Layer {
    buffer: DeviceBuffer,
    offsets: Vec<usize>,
    parts: Vec<Parts>,
}

/// A loaded adapter: one buffer a layer.
pub(super) struct Held {
    layers: Vec<Layer>,
}

impl Held {
    /// Reads `file` and uploads it, factor by factor.
    ///
    /// # Errors
    /// Over budget; a file that was removed or shortened; the driver's.
    pub fn load(file: &AdapterFile, shape: &ModelShape, device: &Arc<Device>, ledger: &Arc<Ledger>) -> Result<Self> {
        let mut upload = ledger.buffer(UPLOAD, adapter_upload_bytes(shape))?;
        let mut layers = Vec::with_capacity(shape.layers.len());
        for l in 0..file.shape.layers.len() {
            let parts = file.shape.tensors(shape, l);
            let at = layout(&parts);
            let buffer = device.buffer(ledger, rows::ADAPTER, at.bytes)?;
            let mut offsets = at.offsets.iter();
            for (linear, _, tensors) in &parts {
                for ((part, t), offset) in tensors.iter().enumerate().zip(&mut offsets) {
                    let n = t.bytes() as usize;
                    let bytes = &mut upload.as_mut_slice::<u8>()[..n];
                    file.read(l, *linear, part, bytes)?;
                    device.upload(bytes, buffer.part(*offset, n)?)?;
                    ledger.moved("disk read", n as u64);
                    ledger.moved("host to device", n as u64);
                }
            }
            layers.push(Layer { buffer, offsets: at.offsets, parts });
        }
        Ok(Self { layers })
    }

    /// Adds scale · B(Ax) to `y (m, out)`, what the linear `role` of layer `l` made of `x (m, in)`; `low` is
    /// scratch for Ax.
    ///
    /// # Errors
    /// The kernels'.
    pub fn add(
        &self,
        k: &Kernels,
        l: usize,
        role: Role,
        x: View<'_>,
        m: usize,
        y: View<'_>,
        low: View<'_>,
    ) -> Result<()> {
        let Some(layer) = self.layers.get(l) else { return Ok(()) };
        let Some(i) = layer.parts.iter().position(|(linear, ..)| *linear == role) else { return Ok(()) };
        let (_, LowRank { rank, scale, .. }, parts) = &layer.parts[i];
        // A GPU runs adapters of two parts alone: `check` refuses others.
        let [a, b] = &parts[..] else { return Ok(()) };
        let factor = |part: usize, t: &TensorShape| layer.buffer.part(layer.offsets[2 * i + part], t.bytes() as usize);
        k.linear(a.block()?, factor(0, a)?, (*rank, a.cols), x, m, low, *rank)?;
        k.linear_add(b.block()?, factor(1, b)?, (b.rows, *rank), low, m, y, *scale)
    }
}
