//! The dry device: reserves what another would hold, and computes nothing. A plan is a training step on it.

use std::sync::Arc;

use super::cpu::SCRATCH;
use super::device::{AdamW, Buf, Causal, Device, Dst, Mask, Round, Sgd, Sizes, Src, Turn, Weight, buffer_bytes};
use super::gpu::{self, Precision};
use crate::blocks::BlockType;
use crate::error::Result;
use crate::ledger::{Ledger, Reservation, Tag};
use crate::model::Source;
use crate::model::shape::TensorShape;

/// A device of reservations.
pub struct Dry {
    ledger: Arc<Ledger>,
    load: usize,
    /// Of a GPU; the CPU's when absent.
    precision: Option<Precision>,
    _scratch: Vec<Reservation>,
}

impl Dry {
    /// A device whose ops need `scratch` bytes, and whose loading needs `load` where types differ.
    ///
    /// # Errors
    /// Over budget, where `ledger` has one.
    pub fn new(ledger: &Arc<Ledger>, scratch: usize, load: usize) -> Result<Self> {
        let scratch = vec![ledger.reserve(SCRATCH, scratch as u64)?];
        Ok(Self { ledger: Arc::clone(ledger), load, precision: None, _scratch: scratch })
    }

    /// A GPU of that precision, whose largest calls are `sizes`.
    ///
    /// # Errors
    /// Over budget, where `ledger` has one.
    pub fn gpu(ledger: &Arc<Ledger>, sizes: &Sizes, precision: Precision) -> Result<Self> {
        let reserve = |(tag, bytes): (Tag, usize)| ledger.reserve(tag, bytes as u64);
        let scratch = gpu::scratch(sizes, precision).into_iter().map(reserve).collect::<Result<_>>()?;
        Ok(Self { ledger: Arc::clone(ledger), load: sizes.load, precision: Some(precision), _scratch: scratch })
    }
}

impl Device for Dry {
    fn activations(&self) -> BlockType {
        self.precision.map_or(BlockType::F32, Precision::activations)
    }

    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        Ok(Buf::new(ty, len, self.ledger.reserve(tag, buffer_bytes(ty, len) as u64)?))
    }

    fn upload(&self, _: &[u8], _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: Src<'_>, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn load(&self, _: &Source, from: &TensorShape, to: &TensorShape, _: &mut Buf) -> Result<()> {
        self.reserve_load(from, to, self.load)?;
        self.ledger.moved("disk read", from.bytes());
        Ok(())
    }

    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, load: usize) -> Result<()> {
        let reserve = |(tag, bytes): (Tag, usize)| self.ledger.reserve(tag, bytes as u64);
        if self.precision.is_some() {
            gpu::load_scratch(from, to, load).into_iter().map(reserve).collect::<Result<Vec<_>>>()?;
        } else if from.ty != to.ty {
            drop(reserve((crate::weights::load::SCRATCH, load))?);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: Src<'_>, _: Dst<'_>, _: usize) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _: Dst<'_>, _: usize, _: f32) -> Result<()> {
        Ok(())
    }

    fn axpy(&self, _: f32, _: Src<'_>, _: Dst<'_>, _: usize) -> Result<()> {
        Ok(())
    }

    fn scale(&self, _: Dst<'_>, _: usize, _: f32) -> Result<()> {
        Ok(())
    }

    fn square_sum(&self, _: Src<'_>, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn gather(&self, _: Src<'_>, _: Src<'_>, _: usize, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn scatter(&self, _: Src<'_>, _: Src<'_>, _: usize, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn embed(&self, _: Weight<'_>, _: Src<'_>, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn embed_vjp(&self, _: Src<'_>, _: Src<'_>, _: usize, _: usize, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn linear(&self, _: Src<'_>, _: usize, _: Weight<'_>, _: Option<Src<'_>>, _: Dst<'_>, _: bool) -> Result<()> {
        Ok(())
    }

    fn linear_dx(&self, _: Src<'_>, _: usize, _: Weight<'_>, _: Dst<'_>, _: bool) -> Result<()> {
        Ok(())
    }

    fn linear_dw(&self, _: Src<'_>, _: Src<'_>, _: usize, _: usize, _: usize, _: Dst<'_>, _: bool) -> Result<()> {
        Ok(())
    }

    fn bias_vjp(&self, _: Src<'_>, _: usize, _: usize, _: Dst<'_>, _: bool) -> Result<()> {
        Ok(())
    }

    fn rms_norm(&self, _: Src<'_>, _: Src<'_>, _: usize, _: usize, _: f32, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn rms_norm_vjp(
        &self,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: usize,
        _: usize,
        _: f32,
        _: Dst<'_>,
        _: Option<(Dst<'_>, bool)>,
    ) -> Result<()> {
        Ok(())
    }

    fn rope(&self, _: Dst<'_>, _: usize, _: usize, _: usize, _: Turn<'_>) -> Result<()> {
        Ok(())
    }

    fn attention(
        &self,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Causal,
        _: Dst<'_>,
        _: Dst<'_>,
    ) -> Result<()> {
        Ok(())
    }

    fn attention_vjp(
        &self,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Src<'_>,
        _: Causal,
        _: Dst<'_>,
        _: Dst<'_>,
        _: Dst<'_>,
    ) -> Result<()> {
        Ok(())
    }

    fn swiglu(&self, _: Src<'_>, _: Src<'_>, _: usize, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn swiglu_vjp(&self, _: Src<'_>, _: Dst<'_>, _: Dst<'_>, _: usize) -> Result<()> {
        Ok(())
    }

    fn dropout(&self, _: Src<'_>, _: Dst<'_>, _: usize, _: Mask, _: bool) -> Result<()> {
        Ok(())
    }

    fn lse(&self, _: Src<'_>, _: usize, _: usize, _: usize, _: Src<'_>, _: Dst<'_>, _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn softmax_vjp(
        &self,
        _: Dst<'_>,
        _: usize,
        _: usize,
        _: usize,
        _: Src<'_>,
        _: Src<'_>,
        _: f32,
        _: f32,
    ) -> Result<bool> {
        Ok(true)
    }

    fn adamw(&self, _: &mut Buf, _: Src<'_>, _: &mut Buf, _: &mut Buf, _: AdamW, _: Round<'_>) -> Result<()> {
        Ok(())
    }

    fn sgd(&self, _: &mut Buf, _: Src<'_>, _: Option<&mut Buf>, _: Sgd, _: Round<'_>) -> Result<()> {
        Ok(())
    }
}
