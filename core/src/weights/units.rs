//! Units: the pieces in which weights are loaded, held and streamed. A unit is one buffer of tensors, each on a cache line.

use crate::error::Result;
use crate::ledger::{ALIGN, Buffer};
use crate::ops::cpu::Mat;
use crate::shape::{ModelShape, TensorShape};

/// Where each tensor of a unit lies in its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLayout {
    /// Byte offset of each tensor.
    pub offsets: Vec<usize>,
    /// Bytes of the buffer, the padding between tensors included.
    pub bytes: usize,
}

impl UnitLayout {
    /// Lays `tensors` out in order, each at a multiple of [`ALIGN`].
    pub fn new<'a>(tensors: impl IntoIterator<Item = &'a TensorShape>) -> Self {
        let (mut offsets, mut bytes) = (Vec::new(), 0usize);
        for t in tensors {
            bytes = bytes.next_multiple_of(ALIGN);
            offsets.push(bytes);
            bytes += t.bytes() as usize;
        }
        Self { offsets, bytes }
    }

    /// Of layer `l`.
    pub fn layer(shape: &ModelShape, l: usize) -> Self {
        Self::new(shape.layers[l].tensors.all())
    }

    /// Of what is neither layer nor embedding nor head: the output norm and the rope divisors.
    pub fn small(shape: &ModelShape) -> Self {
        Self::new(std::iter::once(&shape.output_norm).chain(shape.rope_freqs.as_ref()))
    }
}

/// A loaded unit.
#[derive(Debug)]
pub struct Unit {
    /// Its bytes.
    pub buffer: Buffer,
    /// Where tensors lie in them.
    pub layout: UnitLayout,
}

impl Unit {
    /// Tensor `i`, an f32 vector.
    pub fn vector(&self, i: usize, t: &TensorShape) -> &[f32] {
        let at = self.layout.offsets[i];
        bytemuck::cast_slice(&self.buffer.as_slice::<u8>()[at..at + 4 * t.cols * t.rows])
    }
}

/// One layer's weights, borrowed from wherever they are.
#[derive(Clone, Copy, Debug)]
pub struct LayerView<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// Where tensors lie in them.
    pub offsets: &'a [usize],
    /// Their shapes, in [`crate::shape::LayerTensors::all`] order.
    pub tensors: [&'a TensorShape; 9],
}

impl<'a> LayerView<'a> {
    /// Tensor `i` as a matrix.
    ///
    /// # Errors
    /// A type that cannot be multiplied with.
    pub fn mat(&self, i: usize) -> Result<Mat<'a>> {
        let (t, at) = (self.tensors[i], self.offsets[i]);
        Mat::new(t.ty, t.rows, t.cols, &self.data[at..at + t.bytes() as usize])
    }

    /// Tensor `i`, an f32 vector.
    pub fn vector(&self, i: usize) -> &'a [f32] {
        let (t, at) = (self.tensors[i], self.offsets[i]);
        bytemuck::cast_slice(&self.data[at..at + 4 * t.cols])
    }
}
