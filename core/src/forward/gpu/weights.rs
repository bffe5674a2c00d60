//! Weights on the GPU: read, and requantized where asked, on the host piece by piece, uploaded, and their blocks cut in two ([`Planes`])
//! on the way to their final place.

use std::sync::Arc;

use crate::blocks::BlockType;
use crate::error::Result;
use crate::forward::gpu::{BLOCKS, FREQS, SCRATCH, UPLOAD, split_bytes, upload_bytes};
use crate::forward::rotary::Turn;
use crate::ledger::{Buffer, Ledger};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cuda::{DeviceBuffer, Kernels, Matrix, View};
use crate::ops::gpu::Planes;
use crate::place::{self, rows};
use crate::shape::{ModelShape, Role, TensorShape, Tensors};
use crate::weights::load;
use crate::weights::units::UnitLayout;

/// A unit on the GPU.
pub(super) struct Unit {
    buffer: DeviceBuffer,
    layout: UnitLayout,
}

impl Unit {
    /// Tensor `i`, shaped `t`.
    pub fn tensor(&self, i: usize, t: &TensorShape) -> Result<View<'_>> {
        self.buffer.part(self.layout.offsets[i], t.bytes() as usize)
    }

    /// The tensor of a role, of a layer whose tensors are `tensors`.
    pub fn role(&self, tensors: &Tensors, role: Role) -> Result<View<'_>> {
        let t = tensors.need(role)?;
        self.tensor(tensors.place(role).unwrap_or(0), t)
    }
}

/// A whole model on the GPU.
pub(super) struct Weights {
    pub small: Unit,
    pub freqs: DeviceBuffer,
    embedding: DeviceBuffer,
    pub layers: Vec<Unit>,
    head: Option<DeviceBuffer>,
}

impl Weights {
    /// The embedding.
    pub fn embedding(&self, shape: &ModelShape) -> Result<Matrix<'_>> {
        matrix(&shape.embedding, self.embedding.view())
    }

    /// The output head, or the embedding it is tied to.
    pub fn head(&self, shape: &ModelShape) -> Result<Matrix<'_>> {
        matrix(shape.head(), self.head.as_ref().unwrap_or(&self.embedding).view())
    }
}

fn matrix<'a>(t: &TensorShape, view: View<'a>) -> Result<Matrix<'a>> {
    Ok(Matrix { view, ty: t.block()?, rows: t.rows, cols: t.cols })
}

/// Carries tensors from the source to the GPU.
struct Loader<'a> {
    source: &'a Source,
    kernels: &'a Kernels,
    ledger: &'a Arc<Ledger>,
    team: &'a ThreadTeam,
    scratch: Option<Buffer>,
    upload: Buffer,
    /// Where blocks lie that are cut in two.
    blocks: DeviceBuffer,
    progress: &'a mut dyn FnMut(f32),
    whole: u64,
    done: u64,
}

impl Loader<'_> {
    fn tensor(&mut self, from: &TensorShape, to: &TensorShape, into: View<'_>) -> Result<()> {
        let row = to.row_bytes();
        let piece = (self.upload.len() / row.max(1)).max(1);
        for first in (0..to.rows).step_by(piece) {
            let n = piece.min(to.rows - first);
            let bytes = &mut self.upload.as_mut_slice::<u8>()[..n * row];
            load::rows(self.source, from, to, first, bytes, self.scratch.as_mut(), self.team)?;
            let device = self.kernels.device();
            if Planes::of(to.block()?).head == 0 {
                device.upload(bytes, into.part(first * row, n * row)?)?;
                continue;
            }
            let blocks = self.blocks.part(0, n * row)?;
            device.upload(bytes, blocks)?;
            self.kernels.split(blocks, matrix(to, into)?, first)?;
        }
        self.ledger.moved("disk read", from.bytes());
        self.ledger.moved("host to device", to.bytes());
        self.done += to.bytes();
        (self.progress)(self.done as f32 / self.whole as f32);
        Ok(())
    }

    fn unit<'a>(
        &mut self,
        tag: crate::ledger::Tag,
        layout: UnitLayout,
        pairs: impl Iterator<Item = (&'a TensorShape, &'a TensorShape)>,
    ) -> Result<Unit> {
        let buffer = self.kernels.device().buffer(self.ledger, tag, layout.bytes)?;
        for ((from, to), at) in pairs.zip(&layout.offsets) {
            self.tensor(from, to, buffer.part(*at, to.bytes() as usize)?)?;
        }
        Ok(Unit { buffer, layout })
    }

    fn single(&mut self, tag: crate::ledger::Tag, from: &TensorShape, to: &TensorShape) -> Result<DeviceBuffer> {
        Ok(self.unit(tag, UnitLayout::new([to]), std::iter::once((from, to)))?.buffer)
    }
}

/// Inverse frequencies of each rotation, one after the other, in a run with room for `context` tokens; a file's divisors belong to the
/// first.
fn frequencies(
    source: &Source,
    shape: &ModelShape,
    stored: &ModelShape,
    team: &ThreadTeam,
    loader: &mut Loader<'_>,
    context: usize,
) -> Result<Vec<f64>> {
    let divisors = match (&stored.rope_freqs, &shape.rope_freqs) {
        (Some(from), Some(to)) if to.ty == BlockType::F32 => {
            let mut values = vec![0f32; to.cols];
            load::rows(source, from, to, 0, bytemuck::cast_slice_mut(&mut values), loader.scratch.as_mut(), team)?;
            Some(values)
        }
        _ => None,
    };
    let turn = |(i, rope)| Turn::new(rope, divisors.as_deref().filter(|_| i == 0), context);
    Ok(shape.ropes.iter().enumerate().flat_map(|rope| turn(rope).freqs).collect())
}

/// Loads `model` for a run with room for `context` tokens; `progress` is called with the fraction done.
///
/// # Errors
/// Over budget, a damaged file, cancellation, the driver's.
pub(super) fn load(
    source: &Source,
    model: place::Model<'_>,
    kernels: &Kernels,
    ledger: &Arc<Ledger>,
    team: &ThreadTeam,
    context: usize,
    progress: &mut dyn FnMut(f32),
) -> Result<Weights> {
    let place::Model { stored, held, .. } = model;
    let scratch = match model.scratch() {
        0 => None,
        bytes => Some(ledger.buffer(SCRATCH, bytes)?),
    };
    let device = kernels.device();
    let (upload, blocks) =
        (ledger.buffer(UPLOAD, upload_bytes(held))?, device.buffer(ledger, BLOCKS, split_bytes(held))?);
    let whole = held.bytes();
    let mut loader = Loader { source, kernels, ledger, team, scratch, upload, blocks, progress, whole, done: 0 };
    let small = |s: &ModelShape| std::iter::once(s.output_norm.clone()).chain(s.rope_freqs.clone()).collect::<Vec<_>>();
    let (from, to) = (small(stored), small(held));
    let small = loader.unit(rows::NORMS, UnitLayout::small(held), from.iter().zip(&to))?;
    let frequencies = frequencies(source, held, stored, team, &mut loader, context)?;
    let freqs = device.buffer(ledger, FREQS, 8 * frequencies.len())?;
    device.upload(bytemuck::cast_slice(&frequencies), freqs.view())?;
    let embedding = loader.single(rows::EMBEDDING, &stored.embedding, &held.embedding)?;
    let mut layers = Vec::with_capacity(held.layers.len());
    for (l, (from, to)) in stored.layers.iter().zip(&held.layers).enumerate() {
        let pairs = from.tensors.all().zip(to.tensors.all());
        layers.push(loader.unit(rows::LAYERS, UnitLayout::layer(held, l), pairs)?);
    }
    let head = match (&stored.output, &held.output) {
        (Some(from), Some(to)) => Some(loader.single(rows::HEAD, from, to)?),
        _ => None,
    };
    Ok(Weights { small, freqs, embedding, layers, head })
}
