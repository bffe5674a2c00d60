//! One layer as a description: what its attention and its feed-forward are, and its tensors by role.

use serde::{Deserialize, Serialize};

use super::{Role, TensorShape};
use crate::error::{Error, Result};

/// One transformer layer. Which norms and biases it has is said by its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerShape {
    /// How tokens look at each other.
    pub attention: Attention,
    /// What is done to each token.
    pub ffn: Ffn,
    /// Its tensors in load order.
    pub tensors: Tensors,
}

/// The attention of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head's key and value.
    pub dim: usize,
    /// Multiplied onto every score, usually `1 / √dim`.
    pub scale: f32,
    /// Tokens that a query sees, itself the last of them; `None` for all before it.
    pub window: Option<usize>,
    /// Which of [`super::ModelShape::ropes`] turns its queries and keys; `None` where nothing does (NoPE).
    pub rope: Option<usize>,
    /// Scores go through `cap · tanh(x / cap)`, after their scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f32>,
}

impl Attention {
    /// Elements of the queries of all heads.
    pub const fn q(&self) -> usize {
        self.heads * self.dim
    }

    /// Elements of the keys, and of the values, of all heads.
    pub const fn kv(&self) -> usize {
        self.kv_heads * self.dim
    }
}

/// What gates a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// x · σ(x) (SwiGLU).
    Silu,
    /// GELU by its tanh approximation (GeGLU).
    GeluTanh,
    /// `x · σ(1.702 x)` of a gate of at most 7, times up within ± 7 plus one (gpt-oss, arXiv 2508.10925, §2.2).
    ClampedSwiglu,
}

/// The feed-forward of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ffn {
    /// `down(act(gate(x)) · up(x))`.
    Dense {
        /// Outputs of gate and up.
        width: usize,
        /// The gate.
        act: Act,
    },
    /// A router chooses experts for each token; their outputs are added, weighted by a softmax over scores.
    Experts {
        /// Experts.
        count: usize,
        /// Experts of a token.
        used: usize,
        /// Outputs of an expert's gate and up.
        width: usize,
        /// The gate.
        act: Act,
        /// The softmax is over the scores of all experts, so that weights do not add up to one, and not of those chosen.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        over_all: bool,
        /// Width of an expert that every token goes through beside, times a gate of its own between 0 and 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<usize>,
    },
}

impl Ffn {
    /// Outputs of a gate; of an expert's in a mixture.
    pub const fn width(&self) -> usize {
        match self {
            Self::Dense { width, .. } | Self::Experts { width, .. } => *width,
        }
    }

    /// Width of the expert that every token goes through.
    pub const fn shared(&self) -> Option<usize> {
        match self {
            Self::Dense { .. } => None,
            Self::Experts { shared, .. } => *shared,
        }
    }

    /// Outputs of the widest gate in it.
    pub const fn widest(&self) -> usize {
        match self.shared() {
            Some(shared) if shared > self.width() => shared,
            _ => self.width(),
        }
    }

    /// The gate.
    pub const fn act(&self) -> Act {
        match self {
            Self::Dense { act, .. } | Self::Experts { act, .. } => *act,
        }
    }

    /// Experts, and those of a token.
    pub const fn experts(&self) -> Option<(usize, usize)> {
        match self {
            Self::Dense { .. } => None,
            Self::Experts { count, used, .. } => Some((*count, *used)),
        }
    }
}

/// The tensors of a layer by role, in load order. Linears are `(out, in)`, vectors `(1, n)`, the experts of a role
/// `(count · out, in)`, their biases `(1, count · out)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tensors(Vec<(Role, TensorShape)>);

impl Tensors {
    /// Appends a tensor; the order of calls is the load order.
    pub fn push(&mut self, role: Role, t: TensorShape) {
        self.0.push((role, t));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of a role in load order.
    pub fn place(&self, role: Role) -> Option<usize> {
        self.0.iter().position(|(r, _)| *r == role)
    }

    /// The tensor of a role, where the layer has one.
    pub fn get(&self, role: Role) -> Option<&TensorShape> {
        self.0.iter().find(|(r, _)| *r == role).map(|(_, t)| t)
    }

    /// The tensor of a role, to change.
    pub fn get_mut(&mut self, role: Role) -> Option<&mut TensorShape> {
        self.0.iter_mut().find(|(r, _)| *r == role).map(|(_, t)| t)
    }

    /// The tensor of a role that the description says is there.
    ///
    /// # Errors
    /// [`Error::Internal`] where it is not.
    pub fn need(&self, role: Role) -> Result<&TensorShape> {
        self.get(role).ok_or_else(|| Error::Internal(format!("a layer without {}", role.word())))
    }

    /// Whether the layer has it.
    pub fn has(&self, role: Role) -> bool {
        self.place(role).is_some()
    }

    /// Each with its role, in load order.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = (Role, &TensorShape)> {
        self.0.iter().map(|(r, t)| (*r, t))
    }

    /// In load order.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &TensorShape> {
        self.0.iter().map(|(_, t)| t)
    }

    /// In load order, with roles, for changing types.
    pub fn roles_mut(&mut self) -> impl ExactSizeIterator<Item = (Role, &mut TensorShape)> {
        self.0.iter_mut().map(|(r, t)| (*r, t))
    }
}

impl FromIterator<(Role, TensorShape)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (Role, TensorShape)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}
