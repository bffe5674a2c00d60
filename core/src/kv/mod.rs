//! The KV cache as a pipeline: select · split · merge · channels · format · alloc.
//!
//! Each axis is a trait with a folder of variants. [`Pipeline`] holds one of each, resolved for a shape and a workload;
//! [`cache::LayerCache`] holds the rows. Ragged lengths per (layer, KV head) are the only layout.

pub mod alloc;
pub mod cache;
pub mod channels;
pub mod format;
pub mod merge;
mod pipeline;
pub mod select;
pub mod split;

pub use pipeline::Pipeline;

/// What a policy keeps beside each row's key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowMeta {
    /// An f32 score.
    pub score: bool,
    /// The u32 position of the token.
    pub position: bool,
}

/// What a policy asks of the attention it sees. Needs of several consumers merge by taking the larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing: attention stays fused.
    #[default]
    None,
    /// Σ over queries of A[q, row], averaged over the query heads of a group.
    ColumnSums,
}

/// Where keys stand (kv.md §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Mode A: keys are cached rotated at their true position; gaps remain gaps.
    Original,
    /// Mode B: keys are cached unrotated and rotated by their row index at every read (StreamingLLM).
    Reindex,
}

/// When rows leave while decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the newcomers are appended, making room for them: never more than the quota.
    BeforeAppend,
    /// After attention has seen the newcomers: the quota plus one for an instant.
    AfterAttention,
}

/// One (layer, KV head) as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// Rows held, in ascending position order.
    pub rows: usize,
    /// Their scores, `(rows)`, when the policy keeps any.
    pub scores: &'a [f32],
    /// Rows it may keep.
    pub quota: usize,
    /// Rows about to be appended after it chose; they stay whatever it keeps.
    pub newcomers: usize,
    /// Prompt tokens of this pass.
    pub prompt: usize,
}

/// kv.select: which tokens stay.
pub trait Select: Send + Sync {
    /// Rows the policy's own knobs ask for after a prompt of `prompt` tokens; `None` keeps every row.
    fn own_rows(&self, prompt: usize) -> Option<usize>;
    /// True when no budget can make it drop a row.
    fn keeps_all(&self) -> bool {
        false
    }
    /// Metadata it needs beside each row.
    fn meta(&self) -> RowMeta {
        RowMeta::default()
    }
    /// What it needs to see of the attention.
    fn need(&self) -> Need {
        Need::None
    }
    /// Where keys stand.
    fn positions(&self) -> Positions {
        Positions::Original
    }
    /// When rows leave while decoding.
    fn when(&self) -> When;
    /// Writes the indices of the rows that stay, ascending, to the front of `keep` (as long as `rows`) and returns how
    /// many; at most `quota`. Works in place: `keep` is its only memory.
    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize;
}

/// kv.split: how rows are shared out over layers and heads.
pub trait Split: Send + Sync {
    /// Rows of (layer, head) when the average is `rows`. Their sum over all (layer, head) is at most `rows` times their number.
    fn quota(&self, rows: usize, layer: usize, head: usize) -> usize;
}

/// Told by a merge of every row that it folds: the layer, the row, and the row that survives it; both as they stand before anything
/// is dropped.
pub type Folded<'a> = dyn FnMut(&cache::LayerCache, u32, u32) + 'a;

/// kv.merge: what happens to rows that go.
pub trait Merge: Send + Sync {
    /// Folds the rows of `head` not in `kept` (ascending) into those that are, before they are dropped, and tells `folded` which
    /// went into which. A row that is not told is gone with all it held.
    fn fold(&self, layer: &mut cache::LayerCache, head: usize, kept: &[u32], folded: &mut Folded<'_>);
}

/// kv.channels: which dimensions stay.
pub trait Channels: Send + Sync {
    /// Dimensions kept of a key and of a value of `d`.
    fn dims(&self, d: usize) -> (usize, usize);
}

/// kv.format: how a row of elements is kept.
pub trait Format: Send + Sync {
    /// Bytes of a row of `d` elements, or why such a row cannot be kept.
    ///
    /// # Errors
    /// The reason, in words.
    fn row_bytes(&self, d: usize) -> Result<usize, String>;
    /// Bits an element costs.
    fn bits(&self) -> f64;
    /// Encodes whole rows, `(rows, d)`.
    fn encode(&self, x: &[f32], out: &mut [u8]);
    /// Decodes whole rows, `(rows, d)`.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);
}

/// kv.alloc: how room is made. Rows of a head live in chunks of one size.
pub trait Alloc: Send + Sync {
    /// Rows of a chunk for a head that may hold `capacity` rows.
    fn chunk_rows(&self, capacity: usize) -> usize;
    /// True when all chunks are made before the first row.
    fn upfront(&self) -> bool;
}
