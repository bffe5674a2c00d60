//! The shape of a low-rank adapter: which linears of which layers it changes, at what rank, and the tensors that makes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ModelShape, Role, TensorShape};
use crate::blocks::BlockType;

/// One adapted linear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowRank {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// What B(Ax) is multiplied by: α / rank, or α / √rank (rsLoRA), times `model.adapter_scale`.
    pub scale: f32,
    /// How A is stored: f32, f16 or bf16.
    pub a: BlockType,
    /// How B is stored.
    pub b: BlockType,
}

/// What plans need of an adapter: ranks and types, a layer each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterShape {
    /// By layer, and in it by the role of the linear.
    pub layers: Vec<BTreeMap<Role, LowRank>>,
}

impl AdapterShape {
    /// An adapter of rank `rank` on `targets` of every layer of `shape`, held in f32.
    pub fn new(shape: &ModelShape, targets: &[Role], rank: usize, scale: f32) -> Self {
        let one = LowRank { rank, scale, a: BlockType::F32, b: BlockType::F32 };
        let of =
            |layer: &super::LayerShape| targets.iter().filter(|r| layer.tensors.has(**r)).map(|r| (*r, one)).collect();
        Self { layers: shape.layers.iter().map(of).collect() }
    }

    /// A and B of every adapted linear of layer `l`, in order, as tensors.
    pub fn tensors(&self, shape: &ModelShape, l: usize) -> Vec<(Role, LowRank, [TensorShape; 2])> {
        let (Some(low), Some(layer)) = (self.layers.get(l), shape.layers.get(l)) else { return Vec::new() };
        low.iter()
            .filter_map(|(role, low)| Some((*role, *low, layer.tensors.get(*role)?)))
            .map(|(role, low, w)| {
                let part = |suffix, ty: BlockType, rows, cols| TensorShape {
                    name: format!("{}.{suffix}", w.name),
                    ty: ty.into(),
                    rows,
                    cols,
                };
                (role, low, [part("lora_a", low.a, low.rank, w.cols), part("lora_b", low.b, w.rows, low.rank)])
            })
            .collect()
    }

    /// Payload bytes.
    pub fn bytes(&self, shape: &ModelShape) -> u64 {
        self.each(shape).map(|t| t.bytes()).sum()
    }

    /// Numbers in it.
    pub fn parameters(&self, shape: &ModelShape) -> u64 {
        self.each(shape).map(|t| t.rows as u64 * t.cols as u64).sum()
    }

    /// Every factor of every layer.
    pub(crate) fn each<'a>(&'a self, shape: &'a ModelShape) -> impl Iterator<Item = TensorShape> + 'a {
        (0..self.layers.len()).flat_map(|l| self.tensors(shape, l)).flat_map(|(_, _, ab)| ab)
    }

    /// The largest rank.
    pub fn rank(&self) -> usize {
        self.layers.iter().flat_map(BTreeMap::values).map(|l| l.rank).max().unwrap_or(0)
    }
}
