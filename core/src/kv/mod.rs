//! The KV cache as a pipeline of independent choices: select · split · merge · channels · format · alloc, and read.
//!
//! A policy observes attention beside the output and decides which rows stay; a split shares them out over layers and heads;
//! a merge may fold what goes into what stays; channels and the format encode rows; the alloc makes room; the reader says
//! which rows a query looks at. None of them knows the others: a technique is one file on one of these axes.
//!
//! Order on write: select and merge → channels → format. Order on read: format⁻¹ → channels⁻¹ → attention.

pub mod alloc;
pub mod cache;
pub mod channels;
pub mod format;
pub mod merge;
mod pipeline;
pub mod read;
mod region;
mod room;
pub mod select;
pub mod split;

use std::sync::Arc;

pub use pipeline::Pipeline;
pub use room::{Counts, HeadLayout};

use crate::error::Result;

/// What a policy keeps beside each row's key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowMeta {
    /// An f32 score.
    pub score: bool,
    /// The u32 position of the token.
    pub position: bool,
}

/// What a technique asks to see of the pass. What several ask for merges by taking the larger ([`Needs::with`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Σ over all queries of A[q, row], averaged over the query heads of a group, added to the rows' scores.
    pub columns: bool,
    /// Σ over the last `window` queries of a prompt of A[q, row], for each query head, however the prompt is cut into
    /// batches.
    pub window: usize,
    /// The last `queries` queries of a prompt themselves, rotated, for each query head.
    pub queries: usize,
}

impl Needs {
    /// What both ask for.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            columns: self.columns || other.columns,
            window: self.window.max(other.window),
            queries: self.queries.max(other.queries),
        }
    }
}

/// Where keys stand (kv.md §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Mode A: keys are cached rotated at their true position; gaps remain gaps.
    Original,
    /// Mode B: keys are cached unrotated and rotated by their row index at every read (StreamingLLM).
    Reindex,
}

/// When rows leave, beside the end of a prompt, when every policy chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// Only at the end of the prompt: what is decoded stays, and the cache grows.
    Once,
    /// Before a decoding step appends its row, making room for it: never more than the quota.
    BeforeAppend,
    /// After attention has seen the newcomers, each time this many rows stand above the quota.
    Every(usize),
}

/// One (layer, KV head) as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// Rows held, in ascending position order.
    pub rows: usize,
    /// Their ranks, `(rows)`, when the policy ranks rows.
    pub scores: &'a [f32],
    /// Rows it may keep.
    pub quota: usize,
    /// Rows about to be appended after it chose; they stay whatever it keeps.
    pub newcomers: usize,
    /// Prompt tokens of this pass.
    pub prompt: usize,
}

/// What was observed of one KV head while a prompt was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Rows held.
    pub rows: usize,
    /// [`Needs::window`]: `(group, stride)`, the sums of each query head of the group.
    pub window: &'a [f32],
    /// Elements from one query head's sums to the next's.
    pub stride: usize,
    /// Query heads that share this KV head.
    pub group: usize,
    /// Queries that the sums are over: the policy's window, or the prompt where it is shorter.
    pub queries: usize,
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
    fn needs(&self) -> Needs {
        Needs::default()
    }
    /// Where keys stand.
    fn positions(&self) -> Positions {
        Positions::Original
    }
    /// When rows leave while decoding.
    fn rhythm(&self) -> Rhythm;
    /// True when a number for each row decides (high stays), which a split may compare over heads.
    fn ranks(&self) -> bool {
        self.meta().score
    }
    /// At the end of a prompt: the number of each row of one head into `out` `(rows)`, which holds the rows' stored scores.
    fn rank(&self, _seen: Seen<'_>, _out: &mut [f32]) {}
    /// Newest rows that stay whatever their rank, when a head may keep `quota` rows.
    fn always(&self, _prompt: usize, _quota: usize) -> usize {
        0
    }
    /// Writes the indices of the rows that stay, ascending, to the front of `keep` (as long as `rows`) and returns how
    /// many; at most `quota`. Works in place: `keep` is its only memory.
    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize;
}

/// kv.split: how rows are shared out over layers and heads.
pub trait Split: Send + Sync {
    /// Rows of (layer, head) when the average is `rows`. Their sum over all (layer, head) is at most `rows` times their number.
    /// For a split that shares at run time: the average of the layer, whose sum over its heads is a bound.
    fn quota(&self, rows: usize, layer: usize, head: usize) -> usize;
    /// How a layer's rows are shared at run time, from the ranks of the rows; `None` when [`Self::quota`] is all there is.
    fn share(&self) -> Option<&dyn Share> {
        None
    }
}

/// The ranks of a layer at the end of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Ranks<'a> {
    /// `(heads, stride)`.
    pub scores: &'a [f32],
    /// Elements from one head's ranks to the next's.
    pub stride: usize,
    /// Rows of each head that compete: the first ones; the rest stay whatever their rank.
    pub candidates: usize,
    /// Rows of a head that may stay of those that compete, on average.
    pub each: usize,
}

/// Shares decided at run time.
pub trait Share: Send + Sync {
    /// Elements of scratch for a layer of `heads` heads of `rows` rows.
    fn scratch(&self, heads: usize, rows: usize) -> usize;
    /// Most rows that a head may get where `candidates` compete and `each` stay on average.
    fn most(&self, heads: usize, candidates: usize, each: usize) -> usize;
    /// Writes how many of the competing rows each head keeps: their sum is `each · heads`, none above `candidates`.
    fn share(&self, ranks: Ranks<'_>, scratch: &mut [u32], out: &mut [usize]);
}

/// Told by a merge of every row that it folds: the layer, the row, and the row that survives it; both as they stand before anything
/// is dropped.
pub type Folded<'a> = dyn FnMut(&cache::LayerCache, u32, u32) + 'a;

/// What a merge works on: one head's rows before some of them go.
pub struct Fold<'a> {
    /// The rows: read and written in f32 ([`cache::LayerCache::keys`], [`cache::LayerCache::write`]).
    pub cache: &'a mut cache::LayerCache,
    /// KV head.
    pub head: usize,
    /// Rows that stay, ascending.
    pub kept: &'a [u32],
    /// Ranks of all rows, where the policy ranks them.
    pub scores: &'a [f32],
    /// The merge's own bytes of this head, zero before its first call.
    pub state: &'a mut [u8],
    /// As many elements as [`Merge::scratch`] asks for.
    pub scratch: &'a mut [f32],
}

/// kv.merge: what happens to rows that go.
pub trait Merge: Send + Sync {
    /// Bytes it remembers of each KV head.
    fn state_bytes(&self) -> usize {
        0
    }
    /// Elements of scratch for heads of `rows` rows of `d`.
    fn scratch(&self, _rows: usize, _d: usize) -> usize {
        0
    }
    /// True for a layer that keeps every row, because the technique leaves it alone.
    fn leaves_whole(&self, _layer: usize, _layers: usize) -> bool {
        false
    }
    /// Why it cannot work with what a policy decides, if it cannot.
    ///
    /// # Errors
    /// The reason, in words.
    fn follows(&self, _select: &dyn Select) -> std::result::Result<(), String> {
        Ok(())
    }
    /// Folds the rows of a head that are not kept into those that are, before they are dropped, and tells `folded` which went
    /// into which. A row that is not told is gone with all it held.
    ///
    /// # Errors
    /// What writing a row may meet.
    fn fold(&self, fold: Fold<'_>, folded: &mut Folded<'_>) -> Result<()>;
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// kv.channels: which dimensions stay.
pub trait Channels: Send + Sync {
    /// What it needs to see of the pass.
    fn needs(&self) -> Needs {
        Needs::default()
    }
    /// How rows of `side` are sealed with fewer dimensions, each of them kept as `format` keeps it; `None` when all stay.
    ///
    /// # Errors
    /// Why heads of `d` cannot be kept so, in words.
    fn seal(
        &self,
        side: Side,
        d: usize,
        format: &Arc<dyn Format>,
    ) -> std::result::Result<Option<Arc<dyn Seal>>, String>;
}

/// kv.format: how a row of elements is kept.
pub trait Format: Send + Sync {
    /// Bytes of a row of `d` elements, or why such a row cannot be kept. Of a format that seals: of an open row.
    ///
    /// # Errors
    /// The reason, in words.
    fn row_bytes(&self, d: usize) -> std::result::Result<usize, String>;
    /// Bits an element costs.
    fn bits(&self) -> f64;
    /// Encodes whole rows, `(rows, d)`.
    fn encode(&self, x: &[f32], out: &mut [u8]);
    /// Decodes whole rows, `(rows, d)`.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);
    /// How older rows of `side` are kept otherwise than new ones, if they are.
    ///
    /// # Errors
    /// Why heads of `d` cannot be kept so, in words.
    fn seal(&self, _side: Side, _d: usize) -> std::result::Result<Option<Arc<dyn Seal>>, String> {
        Ok(None)
    }
}

/// What is known of a head when its first rows are sealed, at the end of a prompt.
pub struct Learn<'a> {
    /// Rows that stay.
    pub rows: usize,
    /// Reads rows `start..start + n`, `n ≤ 64`, of this side into `(n, d)`.
    pub read: &'a mut dyn FnMut(usize, usize, &mut [f32]),
    /// [`Needs::queries`]: `(queries, group · d)`.
    pub queries: &'a [f32],
    /// Elements from one query to the next.
    pub stride: usize,
    /// Query heads of the group.
    pub group: usize,
}

/// Rows of one side that are kept apart from the newest ones, in groups that are encoded together and never change again.
///
/// A head's rows are, in order, its sealed ones (a whole number of groups) and its open ones, each a row as the format keeps
/// it. Open rows are sealed oldest first: at the end of a prompt, and after a decoding step.
pub trait Seal: Send + Sync {
    /// Rows of a group.
    fn group(&self) -> usize;
    /// Bytes of a group.
    fn group_bytes(&self) -> usize;
    /// Bytes that are kept for each head.
    fn state_bytes(&self) -> usize {
        0
    }
    /// Rows that are sealed of a prompt that leaves `rows` rows.
    fn at_prompt(&self, rows: usize) -> usize;
    /// Rows that are sealed after a decoding step that leaves `open` open ones.
    fn after_step(&self, open: usize) -> usize;
    /// Sealed rows, and the most rows that were ever open, of a head that kept `prompt` rows at the prompt's end and has `rows`
    /// now.
    fn counts(&self, prompt: usize, rows: usize) -> Counts;
    /// Elements of scratch for [`Self::learn`].
    fn scratch(&self) -> usize {
        0
    }
    /// Fills the head's state before its first rows are sealed.
    fn learn(&self, _learn: Learn<'_>, _state: &mut [u8], _scratch: &mut [f32]) {}
    /// Encodes one group, `(group, d)`.
    fn encode(&self, x: &[f32], state: &[u8], out: &mut [u8]);
    /// Decodes rows `first..first + n` of a group into `out (n, d)`.
    fn decode(&self, bytes: &[u8], state: &[u8], first: usize, out: &mut [f32]);
}

/// kv.alloc: how room is made. Rows of a head live in chunks of one size.
pub trait Alloc: Send + Sync {
    /// Rows of a chunk for a head that may hold `capacity` rows.
    fn chunk_rows(&self, capacity: usize) -> usize;
    /// True when all chunks are made before the first row.
    fn upfront(&self) -> bool;
}

/// Consecutive rows of a head that a reader knows something about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Rows.
    pub rows: usize,
    /// Bytes that are kept for it.
    pub bytes: usize,
}

/// A decoding step's choice: the queries of one head or of a group, and what is known of its pages.
pub struct Choose<'a> {
    /// `(queries, d)`, rotated.
    pub queries: &'a [f32],
    /// Elements of a head.
    pub d: usize,
    /// Pages, the last of them perhaps partly filled.
    pub pages: usize,
    /// What is kept of a page.
    pub page: &'a dyn Fn(usize) -> &'a [u8],
    /// An element for each page.
    pub scratch: &'a mut [f32],
}

/// kv.read: which rows a query looks at while decoding. Nothing is dropped: what is held and what is read are counted apart.
pub trait Read: Send + Sync {
    /// What is kept for each page of keys of `d` elements; `None` for a reader that reads everything.
    fn page(&self, _d: usize) -> Option<Page> {
        None
    }
    /// Writes what is kept of a page from its keys, `(n, d)`, as they are stored.
    fn describe(&self, _keys: &[f32], _d: usize, _out: &mut [u8]) {}
    /// Most pages that a query of `layer` reads; `None` when that layer reads everything.
    fn most_pages(&self, _layer: usize) -> Option<usize> {
        None
    }
    /// True when every query head chooses for itself, false when the heads of a group choose together.
    fn by_query_head(&self) -> bool {
        false
    }
    /// Writes the pages to read, ascending, to the front of `out` and returns how many.
    fn choose(&self, _choose: Choose<'_>, _out: &mut [u32]) -> usize {
        0
    }
    /// Why it cannot read what the other choices keep, if it cannot.
    ///
    /// # Errors
    /// The reason, in words.
    fn reads(&self, _positions: Positions, _needs: Needs) -> std::result::Result<(), String> {
        Ok(())
    }
}
