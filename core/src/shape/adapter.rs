//! The shape of a low-rank adapter: which linears of which layers it changes, at what rank, and the tensors that makes.

use serde::{Deserialize, Serialize};

use super::{LayerShape, ModelShape, TensorShape};
use crate::blocks::BlockType;

/// The linears of a layer that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Linear {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Linear {
    /// In load order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its place in [`super::LayerTensors::all`].
    pub const fn tensor(self) -> usize {
        match self {
            Self::Q => 1,
            Self::K => 2,
            Self::V => 3,
            Self::O => 4,
            Self::Gate => 6,
            Self::Up => 7,
            Self::Down => 8,
        }
    }

    /// What Hugging Face calls it, within a layer.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Its name in `target` lists: `q_proj`.
    pub fn target(self) -> &'static str {
        self.module().split_once('.').map_or("", |(_, name)| name)
    }

    /// True for those whose rows Hugging Face keeps in another order.
    pub const fn turned(self) -> bool {
        matches!(self, Self::Q | Self::K)
    }

    /// Its weight in a layer.
    pub fn of(self, layer: &LayerShape) -> &TensorShape {
        layer.tensors.all()[self.tensor()]
    }
}

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
    /// By layer, and in it by [`Linear::ALL`].
    pub layers: Vec<[Option<LowRank>; 7]>,
}

impl AdapterShape {
    /// An adapter of rank `rank` on `targets` of every layer of `shape`, held in f32.
    pub fn new(shape: &ModelShape, targets: &[Linear], rank: usize, scale: f32) -> Self {
        let one = LowRank { rank, scale, a: BlockType::F32, b: BlockType::F32 };
        let layer = Linear::ALL.map(|l| targets.contains(&l).then_some(one));
        Self { layers: vec![layer; shape.layers.len()] }
    }

    /// A and B of every adapted linear of layer `l`, in order, as tensors.
    pub fn tensors(&self, shape: &ModelShape, l: usize) -> Vec<(Linear, LowRank, [TensorShape; 2])> {
        let (Some(low), Some(layer)) = (self.layers.get(l), shape.layers.get(l)) else { return Vec::new() };
        let pairs = Linear::ALL.into_iter().zip(low).filter_map(|(linear, low)| Some((linear, (*low)?)));
        pairs
            .map(|(linear, low)| {
                let w = linear.of(layer);
                let part = |suffix, ty: BlockType, rows, cols| TensorShape {
                    name: format!("{}.{suffix}", w.name),
                    ty: ty.into(),
                    rows,
                    cols,
                };
                (linear, low, [part("lora_a", low.a, low.rank, w.cols), part("lora_b", low.b, w.rows, low.rank)])
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
        self.layers.iter().flatten().flatten().map(|l| l.rank).max().unwrap_or(0)
    }
}
