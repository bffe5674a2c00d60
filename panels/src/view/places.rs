//! What lies where, and what moved.

use super::{Tier, UsedFor};

/// Everything held at the peak or at the moment scrubbed to, piece by piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// Which account, in words: `predicted`, `measured: run 3, at the peak`.
    pub what: String,
    /// False for a prediction: outlined, not filled.
    pub measured: bool,
    /// The pieces, largest first.
    pub pieces: Vec<Piece>,
    /// What moved between tiers and inside the cache.
    pub moved: Vec<Moved>,
    /// What stands beside the account: heap of the program, resident set, rounding; in bytes.
    pub beside: Vec<(String, i64)>,
    /// The limited tier is a GPU's.
    pub gpu: bool,
}

/// One tensor, cache or buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// `blk.3.ffn_up.weight`, `kv rows, layer 4`.
    pub name: String,
    /// Its group in the tree: `layer 3`, `embedding`, `scratch`.
    pub group: String,
    /// Type and shape, in words: `q4_1 (1536, 576)`.
    pub detail: String,
    /// What its bytes are used for.
    pub used_for: UsedFor,
    /// The tier that holds it.
    pub tier: Tier,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Bytes that moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// `disk read`, `cache shift`.
    pub what: String,
    /// In all.
    pub bytes: u64,
    /// For each decoded token, when that means something.
    pub per_token: Option<u64>,
}
