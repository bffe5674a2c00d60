//! What each head looked at.

use std::sync::Arc;

/// The attention picture of sequence 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Which run, in words.
    pub run: String,
    /// Layers and query heads; KV heads are shared by `heads / kv_heads` neighbours each.
    pub layers: usize,
    /// Query heads a layer.
    pub heads: usize,
    /// KV heads a layer.
    pub kv_heads: usize,
    /// Small maps of all heads; `None` when nothing was kept for display.
    pub grid: Option<Arc<Grid>>,
    /// The head kept at full size, if one was.
    pub map: Option<Arc<Map>>,
    /// The head that will be kept at full size in the next run: (layer, head).
    pub chosen: Option<(usize, usize)>,
    /// Rows that left a head's cache.
    pub evictions: Arc<Vec<Eviction>>,
    /// Those of them that another row took up.
    pub merges: Arc<Vec<Merge>>,
    /// How keys and values are kept, by layer; the last stands for all layers after it. Empty when it is not known.
    pub formats: Arc<Vec<[Kept; 2]>>,
    /// Tokens of the sequence by position, the prompt's first.
    pub tokens: Arc<Vec<String>>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Why there is nothing to see, or less than all: `observe.limit was reached at step 80`.
    pub note: String,
    /// Attention is being kept for display as configured.
    pub observed: bool,
    /// Why it cannot be run now; empty when it can.
    pub blocked: String,
    /// Decoding step of each moment of the timeline, so that scrubbing there shows here; empty when there is none.
    pub moments: Arc<Vec<usize>>,
}

impl Attention {
    /// How the keys and the values of a layer are kept, where it is known.
    pub fn kept(&self, layer: usize) -> Option<&[Kept; 2]> {
        self.formats.get(layer).or(self.formats.last())
    }
}

/// In what type elements are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Its name: `q4_0`.
    pub name: String,
    /// Bits an element costs.
    pub bits: f64,
}

impl Kept {
    /// Fewer bits than the half-precision floats that a model computes with.
    pub fn quantized(&self) -> bool {
        self.bits < 16.0
    }
}

/// Attention of the newest token over the cache's rows, pooled to a few columns, for every head and step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// Columns of a row.
    pub bins: usize,
    /// Decoding step of each row.
    pub steps: Vec<usize>,
    /// Cache rows that the columns of each row stand for.
    pub rows: Vec<usize>,
    /// `(steps, layers, heads, bins)`: 255 is the head's largest weight in that step.
    pub values: Vec<u8>,
    /// `(steps, layers, heads)`: that largest weight, 0 … 1; empty when it was not told.
    pub largest: Vec<f32>,
}

impl Grid {
    /// The row of a step for one head, `(bins)`.
    pub fn row(&self, at: usize, (layer, head): (usize, usize), (layers, heads): (usize, usize)) -> &[u8] {
        let start = ((at * layers + layer) * heads + head) * self.bins;
        self.values.get(start..start + self.bins).unwrap_or(&[])
    }
}

/// Attention of one head at full size: a row a query, a column a position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    /// Which head: (layer, query head).
    pub head: (usize, usize),
    /// Position of the query of each row.
    pub queries: Vec<u32>,
    /// Positions that a row has room for, held or not.
    pub columns: usize,
    /// `(queries, columns)`: the square root of the weight, 255 for 1. 0 where the key was not in the cache.
    pub values: Vec<u8>,
    /// Which of `values` were in the cache at all: `(queries, columns)`, one bit each, rows padded to bytes; when empty, every
    /// key up to its query was.
    pub held: Vec<u8>,
}

impl Grid {
    /// The largest weight of a head in a step, when it was told.
    pub fn largest(&self, at: usize, (layer, head): (usize, usize), (layers, heads): (usize, usize)) -> Option<f32> {
        self.largest.get((at * layers + layer) * heads + head).copied()
    }
}

impl Map {
    /// The weight of a cell, 0 … 1.
    pub fn weight(&self, query: usize, column: usize) -> f32 {
        let v = f32::from(self.values.get(query * self.columns + column).copied().unwrap_or(0)) / 255.0;
        v * v
    }

    /// True when the key of `column` was in the cache when `query` looked.
    pub fn held(&self, query: usize, column: usize) -> bool {
        if self.held.is_empty() {
            return self.queries.get(query).is_some_and(|&q| column <= q as usize);
        }
        let stride = self.columns.div_ceil(8);
        self.held.get(query * stride + column / 8).is_some_and(|b| b >> (column % 8) & 1 == 1)
    }
}

/// A row that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// Decoding step; 0 at the end of the prompt.
    pub step: usize,
    /// Layer, from 0.
    pub layer: u16,
    /// KV head within the layer, from 0.
    pub head: u16,
    /// Position of its token.
    pub position: u32,
}

/// A row that was folded into another before it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Decoding step; 0 at the end of the prompt.
    pub step: usize,
    /// Layer, from 0.
    pub layer: u16,
    /// KV head within the layer, from 0.
    pub head: u16,
    /// Position of its token.
    pub position: u32,
    /// Position of the token whose row survives it.
    pub survivor: u32,
}
