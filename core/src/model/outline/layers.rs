//! What kinds of layers keep and how many numbers they have, by their sizes. Every size is a `u64` below 2³², so that products of
//! two do not overflow; of more they saturate.

use super::Keeps;

/// A size that no model has and that products of sizes stay small with.
const MOST: u64 = 1 << 32;

/// A product that saturates.
fn product(of: &[u64]) -> u64 {
    of.iter().fold(1u64, |all, n| all.saturating_mul((*n).min(MOST)))
}

/// A sum that saturates.
pub fn sum(of: &[u64]) -> u64 {
    of.iter().fold(0u64, |all, n| all.saturating_add(*n))
}

/// What mixes tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixer {
    /// Keys and values a head; `extra` are numbers beside its four matrices, `gated` doubles the queries' one.
    Attention { heads: u64, kv_heads: u64, dim: u64, value: u64, window: Option<u64>, gated: bool, extra: u64 },
    /// Multi-head latent attention: ranks of the queries (0 for none) and of keys and values, parts of a head.
    Latent { heads: u64, q_rank: u64, rank: u64, nope: u64, rope: u64, value: u64 },
    /// A selective state space (Mamba, arXiv 2312.00752); norms over dt, B and C where `normed`.
    Mamba1 { inner: u64, state: u64, conv: u64, dt: u64, normed: bool },
    /// A state space of heads (Mamba-2, arXiv 2405.21060).
    Mamba2 { heads: u64, dim: u64, state: u64, groups: u64, conv: u64 },
    /// A gated delta rule (arXiv 2412.06464): heads of keys and of values, and their sizes.
    Delta { keys: u64, key: u64, values: u64, value: u64, conv: u64 },
    /// A gated short convolution over the stream.
    Conv { length: u64 },
    /// A recurrence of heads whose numbers are not known (lightning attention and its like).
    Linear { heads: u64, dim: u64 },
    /// Attention beside Mamba-2.
    Both {
        heads: u64,
        kv_heads: u64,
        dim: u64,
        inner: u64,
        mamba_heads: u64,
        mamba_dim: u64,
        state: u64,
        groups: u64,
        conv: u64,
    },
    /// None.
    Nothing,
    /// One that is not known.
    Unknown,
}

impl Mixer {
    /// What it keeps of a context.
    pub fn keeps(self) -> Keeps {
        match self {
            Self::Attention { kv_heads, dim, value, window, .. } => {
                let row = product(&[kv_heads, dim.saturating_add(value)]);
                window.map_or(Keeps::Full { row }, |tokens| Keeps::Window { row, tokens })
            }
            Self::Latent { rank, rope, .. } => Keeps::Latent { row: rank.saturating_add(rope) },
            Self::Mamba1 { inner, state, conv, .. } => {
                Keeps::State { state: product(&[inner, state.saturating_add(conv.saturating_sub(1))]) }
            }
            Self::Mamba2 { heads, dim, state, groups, conv } => {
                Keeps::State { state: mamba2_state(product(&[heads, dim]), state, groups, conv) }
            }
            Self::Delta { keys, key, values, value, conv } => {
                let through = sum(&[product(&[2, keys, key]), product(&[values, value])]);
                let state = product(&[values, key, value]);
                Keeps::State { state: sum(&[state, product(&[through, conv.saturating_sub(1)])]) }
            }
            Self::Conv { .. } | Self::Unknown => Keeps::Unknown,
            Self::Linear { heads, dim } => Keeps::State { state: product(&[heads, dim, dim]) },
            Self::Both { kv_heads, dim, inner, state, groups, conv, .. } => {
                Keeps::Both { row: product(&[2, kv_heads, dim]), state: mamba2_state(inner, state, groups, conv) }
            }
            Self::Nothing => Keeps::Nothing,
        }
    }

    /// Numbers in it beside its norms, in a stream of `hidden` elements; `None` where they are not known.
    pub fn parameters(self, hidden: u64) -> Option<u64> {
        let h = hidden;
        Some(match self {
            Self::Attention { heads, kv_heads, dim, value, gated, extra, .. } => {
                let q = product(&[h, heads, dim, if gated { 2 } else { 1 }]);
                sum(&[
                    q,
                    product(&[h, kv_heads, dim]),
                    product(&[h, kv_heads, value]),
                    product(&[heads, value, h]),
                    extra,
                ])
            }
            Self::Latent { heads, q_rank, rank, nope, rope, value } => {
                let head = nope.saturating_add(rope);
                let q = match q_rank {
                    0 => product(&[h, heads, head]),
                    r => sum(&[product(&[h, r]), r, product(&[r, heads, head])]),
                };
                let kv = [product(&[h, rank + rope]), rank, product(&[rank, heads, nope.saturating_add(value)])];
                sum(&[q, sum(&kv), product(&[heads, value, h])])
            }
            Self::Mamba1 { inner, state, conv, dt, normed } => sum(&[
                product(&[h, 2, inner]),
                product(&[inner, conv]),
                inner,
                product(&[inner, sum(&[dt, state, state])]),
                product(&[dt, inner]),
                inner,
                product(&[inner, state]),
                inner,
                product(&[inner, h]),
                if normed { sum(&[dt, state, state]) } else { 0 },
            ]),
            Self::Mamba2 { heads, dim, state, groups, conv } => {
                mamba2_parameters(h, product(&[heads, dim]), heads, state, groups, conv, true)
            }
            Self::Delta { keys, key, values, value, conv } => {
                let (k, v) = (product(&[keys, key]), product(&[values, value]));
                let projected = product(&[h, sum(&[k, k, v, v])]);
                sum(&[
                    projected,
                    product(&[h, 2, values]),
                    product(&[sum(&[k, k, v]), conv]),
                    2 * values,
                    value,
                    product(&[v, h]),
                ])
            }
            Self::Conv { length } => sum(&[product(&[h, 3, h]), product(&[h, length]), product(&[h, h])]),
            Self::Both { heads, kv_heads, dim, inner, mamba_heads, state, groups, conv, .. } => {
                let attention = sum(&[product(&[2, h, heads, dim]), product(&[2, h, kv_heads, dim])]);
                // Its norm over what the recurrence gives is a choice of the model's; those published go without.
                sum(&[attention, mamba2_parameters(h, inner, mamba_heads, state, groups, conv, false)])
            }
            Self::Nothing => 0,
            Self::Linear { .. } | Self::Unknown => return None,
        })
    }
}

/// The state of a Mamba-2 of `inner` channels: that of its heads, and the inputs its convolution looks back at.
fn mamba2_state(inner: u64, state: u64, groups: u64, conv: u64) -> u64 {
    let through = sum(&[inner, product(&[2, groups, state])]);
    sum(&[product(&[inner, state]), product(&[through, conv.saturating_sub(1)])])
}

fn mamba2_parameters(h: u64, inner: u64, heads: u64, state: u64, groups: u64, conv: u64, normed: bool) -> u64 {
    let through = sum(&[inner, product(&[2, groups, state])]);
    let norm = if normed { inner } else { 0 };
    let own = sum(&[heads, heads, heads]);
    sum(&[
        product(&[h, sum(&[inner, through, heads])]),
        product(&[through, conv]),
        through,
        own,
        norm,
        product(&[inner, h]),
    ])
}

/// The feed-forward of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Width of a dense one, or of one beside the experts; 0 for none.
    pub dense: u64,
    /// Experts.
    pub experts: u64,
    /// Width of an expert.
    pub width: u64,
    /// Matrices of each: 3 with a gate, 2 without.
    pub matrices: u64,
    /// Numbers beside: a router's bias, the gate of a shared expert.
    pub extra: u64,
}

impl Feed {
    /// Numbers in it.
    pub fn parameters(self, hidden: u64) -> u64 {
        let dense = product(&[self.matrices, hidden, self.dense]);
        let experts = product(&[self.experts, self.matrices, hidden, self.width]);
        sum(&[dense, experts, product(&[hidden, self.experts]), self.extra])
    }
}
