//! Units: the pieces in which weights are loaded, held and streamed. A unit is one buffer of tensors, each on a cache line.

use crate::error::{Error, Result};
use crate::ledger::{ALIGN, Buffer};
use crate::ops::cpu::Mat;
use crate::shape::{ModelShape, Role, TensorShape, Tensors};

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
    /// Their shapes by role, in the order of `offsets`.
    pub tensors: &'a Tensors,
}

impl<'a> LayerView<'a> {
    /// The layer's tensor of a role, and its bytes.
    fn of(&self, role: Role) -> Result<(&'a TensorShape, &'a [u8])> {
        let place = self.tensors.place(role).and_then(|i| Some((self.tensors.get(role)?, *self.offsets.get(i)?)));
        let found = place.and_then(|(t, at)| Some((t, self.data.get(at..at + t.bytes() as usize)?)));
        found.ok_or_else(|| Error::Internal(format!("a layer without {}", role.word())))
    }

    /// Whether the layer has a tensor of this role.
    pub fn has(&self, role: Role) -> bool {
        self.tensors.has(role)
    }

    /// The tensor of a role as a matrix.
    ///
    /// # Errors
    /// A type that cannot be multiplied with; [`Error::Internal`] where the layer has none.
    pub fn mat(&self, role: Role) -> Result<Mat<'a>> {
        let (t, data) = self.of(role)?;
        Mat::new(t.ty, t.rows, t.cols, data)
    }

    /// The matrix of expert `e` of `count`, of a role that has one for each.
    ///
    /// # Errors
    /// As [`Self::mat`].
    pub fn expert(&self, role: Role, e: usize, count: usize) -> Result<Mat<'a>> {
        let all = self.mat(role)?;
        let rows = all.rows() / count.max(1);
        all.slice(e * rows, rows)
    }

    /// The tensor of a role as an f32 vector.
    ///
    /// # Errors
    /// [`Error::Internal`] where the layer has none.
    pub fn vector(&self, role: Role) -> Result<&'a [f32]> {
        Ok(bytemuck::cast_slice(self.of(role)?.1))
    }
}
