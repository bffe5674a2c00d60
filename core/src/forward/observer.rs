//! What a forward pass reports as it goes.

/// What a forward pass tells as it goes.
pub trait PassObserver {
    /// `done` of `total` units of this pass are computed.
    fn progress(&mut self, _done: usize, _total: usize) {}
    /// Rows left the cache: the sequence's index, layer, KV head, their positions where kept, and how many.
    fn evicted(&mut self, _sequence: usize, _layer: usize, _head: usize, _positions: &[u32], _count: usize) {}
    /// Rows were folded into others before they left: the sequence's index, layer, KV head, positions of row and survivor where kept,
    /// and how many.
    fn merged(&mut self, _sequence: usize, _layer: usize, _head: usize, _pairs: &[(u32, u32)], _count: usize) {}
    /// The last query's attention of each query head, `(heads, stride)`, the first `rows` of a head being cache rows.
    fn attention(&mut self, _sequence: usize, _layer: usize, _seen: &[f32], _rows: usize) {}
    /// One head's attention for each query of a pass.
    fn map(&mut self, _sequence: usize, _map: HeadRows<'_>) {}
    /// The residual stream `(rows, hidden)` after a layer.
    fn residual(&mut self, _layer: usize, _x: &[f32]) {}
}

/// What one query head looked at, a row a query.
pub struct HeadRows<'a> {
    /// Position of the first query; the rest follow one by one.
    pub first: usize,
    /// Queries.
    pub queries: usize,
    /// Cache rows that the last query sees; one less for each before it.
    pub rows: usize,
    /// Weights as [`crate::ops::cpu::packed_weight`] gives them, `(queries, stride)`.
    pub weights: &'a [u8],
    /// From one query's weights to the next's.
    pub stride: usize,
    /// Position of the token in a cache row.
    pub position: &'a dyn Fn(usize) -> u32,
}

/// Watches nothing.
pub struct Unwatched;

impl PassObserver for Unwatched {}
