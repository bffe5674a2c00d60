//! The shape of an adapter: which linears of which layers it changes, by what scheme, at what rank, and the tensors that makes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ModelShape, Role, TensorShape};
use crate::blocks::BlockType;

/// One side of a tensor of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// One.
    One,
    /// The rank.
    Rank,
    /// Inputs of the linear.
    In,
    /// Outputs of the linear.
    Out,
}

/// A tensor of an adapter: what a scheme says once, for files, memory, training and plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// What follows the weight's name: in GGUF, in training states and in plans.
    pub suffix: &'static str,
    /// What follows the module's name in PEFT's files.
    pub peft: &'static str,
    /// Rows.
    pub rows: Side,
    /// Columns.
    pub cols: Side,
}

/// `(rank, in)`; part 0 of every scheme.
pub const PART_A: PartSpec = PartSpec { suffix: "lora_a", peft: "lora_A.weight", rows: Side::Rank, cols: Side::In };
/// `(out, rank)`; part 1 of every scheme.
pub const PART_B: PartSpec = PartSpec { suffix: "lora_b", peft: "lora_B.weight", rows: Side::Out, cols: Side::Rank };

/// A kind of low-rank adapter on a linear of weight W: it computes with `W + s · BA`, each row of it perhaps times a gain.
pub trait AdapterScheme: Sync + std::fmt::Debug {
    /// lower_snake_case.
    fn id(&self) -> &'static str;

    /// Its tensors: A, B, then those of its own.
    fn parts(&self) -> &'static [PartSpec];

    /// The field of PEFT's configuration that is true for this scheme alone.
    fn flag(&self) -> Option<&'static str> {
        None
    }

    /// Whether llama.cpp's layout holds it.
    fn gguf(&self) -> bool {
        true
    }

    /// The part that gains of rows are made of, if rows have gains.
    fn gains(&self) -> Option<usize> {
        None
    }

    /// The gain of a row of `W + s · BA` of Euclidean length `norm`, where `of` is the row's number in that part.
    fn gain(&self, _of: f32, _norm: f32) -> f32 {
        1.0
    }
}

/// LoRA (Hu et al., arXiv 2106.09685): A and B and nothing else.
#[derive(Debug)]
struct Lora;

impl AdapterScheme for Lora {
    fn id(&self) -> &'static str {
        "lora"
    }

    fn parts(&self) -> &'static [PartSpec] {
        &[PART_A, PART_B]
    }
}

/// The schemes that are known.
pub const SCHEMES: &[&dyn AdapterScheme] = &[&Lora, &super::dora::Dora];

/// Most tensors of a scheme.
pub const MOST_PARTS: usize = 4;

/// One of [`SCHEMES`].
#[derive(Clone, Copy, Debug)]
pub struct AdapterKind(pub &'static dyn AdapterScheme);

impl AdapterKind {
    /// The scheme of that id.
    pub fn find(id: &str) -> Option<Self> {
        SCHEMES.iter().find(|s| s.id() == id).map(|s| Self(*s))
    }
}

impl PartialEq for AdapterKind {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Default for AdapterKind {
    fn default() -> Self {
        Self(&Lora)
    }
}

impl Serialize for AdapterKind {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0.id())
    }
}

impl<'de> Deserialize<'de> for AdapterKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let id = String::deserialize(d)?;
        Self::find(&id).ok_or_else(|| serde::de::Error::custom(format!("`{id}` is no scheme of adapters")))
    }
}

impl PartSpec {
    /// Rows and columns on a linear of `rows` outputs and `cols` inputs.
    pub const fn dims(&self, rank: usize, rows: usize, cols: usize) -> (usize, usize) {
        const fn side(side: Side, rank: usize, rows: usize, cols: usize) -> usize {
            match side {
                Side::One => 1,
                Side::Rank => rank,
                Side::In => cols,
                Side::Out => rows,
            }
        }
        (side(self.rows, rank, rows, cols), side(self.cols, rank, rows, cols))
    }

    /// The tensor on the linear whose weight is `w`, stored as `ty`.
    fn tensor(&self, w: &TensorShape, rank: usize, ty: BlockType) -> TensorShape {
        let (rows, cols) = self.dims(rank, w.rows, w.cols);
        TensorShape { name: format!("{}.{}", w.name, self.suffix), ty: ty.into(), rows, cols }
    }

    /// Elements from one output of the linear to the next, where the tensor has one for each.
    pub fn step(&self, rank: usize) -> Option<usize> {
        match (self.rows, self.cols) {
            (Side::Out, Side::Rank) => Some(rank),
            (Side::Out, Side::One) | (Side::One, Side::Out) => Some(1),
            _ => None,
        }
    }
}

/// One adapted linear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowRank {
    /// By what scheme.
    #[serde(default)]
    pub kind: AdapterKind,
    /// Rows of A and columns of B.
    pub rank: usize,
    /// What B(Ax) is multiplied by: α / rank, or α / √rank (rsLoRA), times `model.adapter_scale`.
    pub scale: f32,
    /// `model.adapter_scale`: how far a gain goes from 1 to what was trained.
    pub strength: f32,
    /// How each part is stored in its file: f32, f16 or bf16.
    pub types: [BlockType; MOST_PARTS],
}

/// What plans need of an adapter: ranks and types, a layer each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterShape {
    /// By layer, and in it by the role of the linear; what stands outside all layers (embedding, head) comes last.
    pub layers: Vec<BTreeMap<Role, LowRank>>,
}

impl AdapterShape {
    /// What is outside the layers of `shape`, by role.
    pub fn outside(&self, shape: &ModelShape) -> Option<&BTreeMap<Role, LowRank>> {
        self.layers.get(shape.layers.len())
    }

    /// The tensors of every adapted linear of layer `l`, in order; of those outside all layers for `l` = their number.
    pub fn tensors(&self, shape: &ModelShape, l: usize) -> Vec<(Role, LowRank, Vec<TensorShape>)> {
        let low = self.layers.get(l).into_iter().flatten();
        low.filter_map(|(role, low)| Some((*role, *low, shape.linear(l, *role)?)))
            .map(|(role, low, w)| {
                let parts = low.kind.0.parts().iter().zip(low.types).enumerate();
                // Gains are computed from their part when it is loaded, and held in its place.
                let held = |i, ty| if low.kind.0.gains() == Some(i) { BlockType::F32 } else { ty };
                (role, low, parts.map(|(i, (part, ty))| part.tensor(&w, low.rank, held(i, ty))).collect())
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

    /// Every tensor of every layer.
    pub(crate) fn each<'a>(&'a self, shape: &'a ModelShape) -> impl Iterator<Item = TensorShape> + 'a {
        (0..self.layers.len()).flat_map(|l| self.tensors(shape, l)).flat_map(|(_, _, parts)| parts)
    }

    /// The largest rank.
    pub fn rank(&self) -> usize {
        self.layers.iter().flat_map(BTreeMap::values).map(|l| l.rank).max().unwrap_or(0)
    }

    /// The first kind in it that multiplies rows by gains.
    pub fn gains(&self) -> Option<AdapterKind> {
        self.layers.iter().flat_map(BTreeMap::values).map(|l| l.kind).find(|k| k.0.gains().is_some())
    }
}
