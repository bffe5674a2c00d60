//! The shape of a model: all that plans need, read from the header alone.

use serde::{Deserialize, Serialize};

mod adapter;
pub(crate) mod dora;
mod layer;
mod role;
mod rope;

pub use adapter::{
    AdapterKind, AdapterScheme, AdapterShape, LowRank, MOST_PARTS, PART_A, PART_B, PartSpec, SCHEMES, Side,
};
pub use layer::{Act, Attention, Ffn, LayerShape, Tensors};
pub use role::{Kind, Role};
pub use rope::{Dynamic, Long, Rope};

use crate::blocks::{BlockType, Scheme};
use crate::error::{Error, Result};

/// Everything about a model but its numbers: a description that plans, forward passes and training walk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// The model's own name, or the file's.
    pub name: String,
    /// The id of its architecture, such as `llama`.
    pub arch: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the output head.
    pub vocab: usize,
    /// Trained context length in tokens.
    pub context: usize,
    /// ε of every RMS norm.
    pub norm_eps: f32,
    /// Multiplied onto embedding rows; 1 for none.
    pub embedding_scale: f32,
    /// Multiplied onto what each half of a layer adds to the stream; 1 for none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub residual_scale: f32,
    /// Multiplied onto logits; 1 for none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_scale: f32,
    /// Logits go through `cap · tanh(x / cap)`, after their scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_cap: Option<f32>,
    /// Its rotations, at least one; [`Attention::rope`] says which of them turns a layer.
    pub ropes: Vec<Rope>,
    /// One entry a layer.
    pub layers: Vec<LayerShape>,
    /// `token_embd.weight`, `(vocab, hidden)`.
    pub embedding: TensorShape,
    /// `output_norm.weight`, `(1, hidden)`.
    pub output_norm: TensorShape,
    /// `output.weight`, `(vocab, hidden)`; absent when the head is tied to the embedding.
    pub output: Option<TensorShape>,
    /// `rope_freqs.weight` (Llama 3): divisors of the rotary frequencies, `(1, rope.dim / 2)`; they belong to the first rotation.
    pub rope_freqs: Option<TensorShape>,
    /// The low-rank adapter that runs beside the weights, if one does. No part of the model's own bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterShape>,
}

/// One tensor: `rows` rows of `cols` elements stored as `ty`. In a file that is a ggml block type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorShape {
    /// Its name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its elements are stored.
    pub ty: Scheme,
    /// Outputs of a linear; 1 for a vector.
    pub rows: usize,
    /// Inputs of a linear; the contiguous dimension.
    pub cols: usize,
}

impl TensorShape {
    /// Payload bytes. The reader has checked that rows are whole blocks and that nothing overflows.
    pub fn bytes(&self) -> u64 {
        self.ty.bytes(self.rows, self.cols).unwrap_or(0) as u64
    }

    /// Bytes of one row of blocks; 0 for a scheme whose payload is not rows one after the other.
    pub fn row_bytes(&self) -> usize {
        self.ty.block().and_then(|ty| ty.row_bytes(self.cols)).unwrap_or(0)
    }

    /// Its block type.
    ///
    /// # Errors
    /// [`Error::Refused`] for a scheme that is none.
    pub fn block(&self) -> Result<BlockType> {
        self.ty
            .block()
            .ok_or_else(|| Error::refused(format!("{} in {}", self.name, self.ty), "a ggml block type is needed here"))
    }
}

/// A factor that changes nothing.
pub(crate) const fn one() -> f32 {
    1.0
}

fn is_one(x: &f32) -> bool {
    *x == 1.0
}

impl ModelShape {
    /// Every tensor of the model once, in load order: embedding, layers, output norm, output head, rope divisors.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorShape> {
        std::iter::once(&self.embedding)
            .chain(self.layers.iter().flat_map(|l| l.tensors.all()))
            .chain(std::iter::once(&self.output_norm))
            .chain(self.output.as_ref())
            .chain(self.rope_freqs.as_ref())
    }

    /// As [`Self::tensors`], each with its role, and of a layer's with the layer.
    pub fn roles(&self) -> impl Iterator<Item = (Option<usize>, Role, &TensorShape)> {
        let layers = self.layers.iter().enumerate();
        std::iter::once((None, Role::Embedding, &self.embedding))
            .chain(layers.flat_map(|(l, layer)| layer.tensors.roles().map(move |(role, t)| (Some(l), role, t))))
            .chain(std::iter::once((None, Role::OutputNorm, &self.output_norm)))
            .chain(self.output.as_ref().map(|t| (None, Role::Head, t)))
            .chain(self.rope_freqs.as_ref().map(|t| (None, Role::RopeFreqs, t)))
    }

    /// As [`Self::tensors`], for changing schemes.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorShape> {
        std::iter::once(&mut self.embedding)
            .chain(self.layers.iter_mut().flat_map(|l| l.tensors.roles_mut().map(|(_, t)| t)))
            .chain(std::iter::once(&mut self.output_norm))
            .chain(self.output.as_mut())
            .chain(self.rope_freqs.as_mut())
    }

    /// Payload bytes of the whole model.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(TensorShape::bytes).sum()
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors().map(|t| t.rows as u64 * t.cols as u64).sum()
    }

    /// Whether pairs that turn lie side by side, `(2i, 2i + 1)`; one answer for all rotations of a model.
    pub fn interleaved(&self) -> bool {
        self.ropes.first().is_some_and(|r| r.interleaved)
    }

    /// Pairs of a head that turn; one number for all rotations of a model.
    pub fn half(&self) -> usize {
        self.ropes.first().map_or(0, |r| r.dim / 2)
    }

    /// The largest of a number of each layer.
    pub fn widest(&self, of: impl Fn(&LayerShape) -> usize) -> usize {
        self.layers.iter().map(of).max().unwrap_or(0)
    }

    /// The weight that an adapter changes, as a linear `(out, in)`: of layer `l`, or where `l` is the number of layers, of what stands
    /// outside them. The embedding is one from tokens to rows, `(hidden, vocab)`, whichever way it is stored.
    pub fn linear(&self, l: usize, role: Role) -> Option<TensorShape> {
        let outside = l == self.layers.len();
        match role {
            Role::Embedding if outside => {
                Some(TensorShape { rows: self.hidden, cols: self.vocab, ..self.embedding.clone() })
            }
            Role::Head if outside => Some(TensorShape { name: role.gguf().into(), ..self.head().clone() }),
            role => self.layers.get(l)?.tensors.get(role).cloned(),
        }
    }

    /// The tensor the output head multiplies by: `output`, or the tied embedding.
    pub fn head(&self) -> &TensorShape {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}
