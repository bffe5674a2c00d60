//! What each tensor is to a model.

use serde::{Deserialize, Serialize};

/// What a tensor is to a model; those of a layer in the order they are computed, which is the order they are loaded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Role {
    Embedding,
    AttnNorm,
    Q,
    K,
    V,
    O,
    QBias,
    KBias,
    VBias,
    OBias,
    Sinks,
    QNorm,
    KNorm,
    PostAttnNorm,
    FfnNorm,
    Gate,
    Up,
    Down,
    Router,
    RouterBias,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    ExpertGateBias,
    ExpertUpBias,
    ExpertDownBias,
    SharedRouter,
    SharedGate,
    SharedUp,
    SharedDown,
    PostFfnNorm,
    OutputNorm,
    Head,
    RopeFreqs,
}

/// What numbers a tensor holds: it decides the types it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Multiplied or looked up by rows: any type that decodes to numbers.
    Matrix,
    /// Matrices of one shape, one an expert, one after the other.
    Stack,
    /// A norm's weight, a bias, scores of sinks or the rotary divisors: f32.
    Vector,
    /// Vectors of one length, one an expert, one after the other in one row: f32.
    Vectors,
}

impl Kind {
    /// Held as one row of f32 whatever it is stored as.
    pub const fn is_vector(self) -> bool {
        matches!(self, Self::Vector | Self::Vectors)
    }
}

impl Role {
    /// The linears that every dense layer has, in the order they are computed.
    pub const LINEARS: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// A short name; of linears, the word of a `target` knob.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::AttnNorm => "attn_norm",
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::QBias => "q_bias",
            Self::KBias => "k_bias",
            Self::VBias => "v_bias",
            Self::OBias => "o_bias",
            Self::Sinks => "sinks",
            Self::QNorm => "q_norm",
            Self::KNorm => "k_norm",
            Self::PostAttnNorm => "post_attn_norm",
            Self::FfnNorm => "ffn_norm",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
            Self::Router => "router",
            Self::RouterBias => "router_bias",
            Self::ExpertGate => "expert_gate",
            Self::ExpertUp => "expert_up",
            Self::ExpertDown => "expert_down",
            Self::ExpertGateBias => "expert_gate_bias",
            Self::ExpertUpBias => "expert_up_bias",
            Self::ExpertDownBias => "expert_down_bias",
            Self::SharedRouter => "shared_router",
            Self::SharedGate => "shared_gate",
            Self::SharedUp => "shared_up",
            Self::SharedDown => "shared_down",
            Self::PostFfnNorm => "post_ffn_norm",
            Self::OutputNorm => "output_norm",
            Self::Head => "head",
            Self::RopeFreqs => "rope_freqs",
        }
    }

    /// Its name in GGUF: of a layer's tensors what follows `blk.N.`.
    pub const fn gguf(self) -> &'static str {
        match self {
            Self::Embedding => "token_embd.weight",
            Self::AttnNorm => "attn_norm.weight",
            Self::Q => "attn_q.weight",
            Self::K => "attn_k.weight",
            Self::V => "attn_v.weight",
            Self::O => "attn_output.weight",
            Self::QBias => "attn_q.bias",
            Self::KBias => "attn_k.bias",
            Self::VBias => "attn_v.bias",
            Self::OBias => "attn_output.bias",
            Self::Sinks => "attn_sinks.weight",
            Self::QNorm => "attn_q_norm.weight",
            Self::KNorm => "attn_k_norm.weight",
            Self::PostAttnNorm => "post_attention_norm.weight",
            Self::FfnNorm => "ffn_norm.weight",
            Self::Gate => "ffn_gate.weight",
            Self::Up => "ffn_up.weight",
            Self::Down => "ffn_down.weight",
            Self::Router => "ffn_gate_inp.weight",
            Self::RouterBias => "ffn_gate_inp.bias",
            Self::ExpertGate => "ffn_gate_exps.weight",
            Self::ExpertUp => "ffn_up_exps.weight",
            Self::ExpertDown => "ffn_down_exps.weight",
            Self::ExpertGateBias => "ffn_gate_exps.bias",
            Self::ExpertUpBias => "ffn_up_exps.bias",
            Self::ExpertDownBias => "ffn_down_exps.bias",
            Self::SharedRouter => "ffn_gate_inp_shexp.weight",
            Self::SharedGate => "ffn_gate_shexp.weight",
            Self::SharedUp => "ffn_up_shexp.weight",
            Self::SharedDown => "ffn_down_shexp.weight",
            Self::PostFfnNorm => "post_ffw_norm.weight",
            Self::OutputNorm => "output_norm.weight",
            Self::Head => "output.weight",
            Self::RopeFreqs => "rope_freqs.weight",
        }
    }

    /// What most of Hugging Face's models call a linear that an adapter may change, within its layer if it has one; empty for other roles.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::Embedding => "model.embed_tokens",
            Self::Head => "lm_head",
            _ => "",
        }
    }

    /// Its name in `target_modules`: `q_proj`.
    pub fn target(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// What numbers it holds.
    pub const fn kind(self) -> Kind {
        match self {
            Self::AttnNorm
            | Self::QBias
            | Self::KBias
            | Self::VBias
            | Self::OBias
            | Self::Sinks
            | Self::RouterBias
            | Self::QNorm
            | Self::KNorm
            | Self::PostAttnNorm
            | Self::FfnNorm
            | Self::SharedRouter
            | Self::PostFfnNorm
            | Self::OutputNorm
            | Self::RopeFreqs => Kind::Vector,
            Self::ExpertGate | Self::ExpertUp | Self::ExpertDown => Kind::Stack,
            Self::ExpertGateBias | Self::ExpertUpBias | Self::ExpertDownBias => Kind::Vectors,
            Self::Embedding
            | Self::Q
            | Self::K
            | Self::V
            | Self::O
            | Self::Gate
            | Self::Up
            | Self::Down
            | Self::Router
            | Self::SharedGate
            | Self::SharedUp
            | Self::SharedDown
            | Self::Head => Kind::Matrix,
        }
    }

    /// The bias of a linear.
    pub const fn bias(self) -> Option<Self> {
        match self {
            Self::Q => Some(Self::QBias),
            Self::K => Some(Self::KBias),
            Self::V => Some(Self::VBias),
            Self::O => Some(Self::OBias),
            Self::Router => Some(Self::RouterBias),
            Self::ExpertGate => Some(Self::ExpertGateBias),
            Self::ExpertUp => Some(Self::ExpertUpBias),
            Self::ExpertDown => Some(Self::ExpertDownBias),
            _ => None,
        }
    }

    /// Whether rows of its heads lie side by side in pairs that turn, where the rotation is interleaved.
    pub const fn rotates(self) -> bool {
        matches!(self, Self::Q | Self::K | Self::QBias | Self::KBias)
    }
}
