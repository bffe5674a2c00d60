//! One variant of every cache axis, resolved for a shape, a context and a prompt length: quotas, capacities, bytes.
//!
//! Pure: the plan and the run both ask here, so a cache cannot be sized in two ways.

use std::sync::Arc;

use super::cache::{LayerCache, ROWS, RowLayout};
use super::{Alloc, Channels, Format, Merge, Select, Split, When};
use crate::config::{Config, KvBudget};
use crate::error::{Error, Result};
use crate::ledger::{Ledger, Tag};
use crate::schema;
use crate::shape::ModelShape;

/// The techniques of a run and what they come to.
pub struct Pipeline {
    /// Which tokens stay.
    pub select: Box<dyn Select>,
    /// How rows are shared out.
    pub split: Box<dyn Split>,
    /// What happens to the rest.
    pub merge: Box<dyn Merge>,
    /// How keys are kept.
    pub k: Box<dyn Format>,
    /// How values are kept.
    pub v: Box<dyn Format>,
    /// How room is made.
    pub alloc: Box<dyn Alloc>,
    /// Row layout of each layer.
    pub rows: Vec<RowLayout>,
    heads: Vec<usize>,
    /// Tokens that each layer sees, where it has a window.
    windows: Vec<Option<usize>>,
    context: usize,
    /// Rows per layer and head that `kv.budget` grants; `None` when there is no budget.
    budget_rows: Option<usize>,
}

impl Pipeline {
    /// Resolves the cache axes of `config` for `shape`.
    ///
    /// # Errors
    /// A choice this shape forbids, or a budget that holds no row.
    pub fn new(config: &Config, shape: &ModelShape) -> Result<Self> {
        let kv = &config.kv;
        let select = schema::build(super::select::ENTRIES, "kv.select", &kv.select)?;
        let split = schema::build(super::split::ENTRIES, "kv.split", &kv.split)?;
        let merge = schema::build(super::merge::ENTRIES, "kv.merge", &kv.merge)?;
        let channels: Box<dyn Channels> = schema::build(super::channels::ENTRIES, "kv.channels", &kv.channels)?;
        let k = schema::build(super::format::ENTRIES, "kv.format.k", &kv.format.k)?;
        let v = schema::build(super::format::ENTRIES, "kv.format.v", &kv.format.v)?;
        let alloc = schema::build(super::alloc::ENTRIES, "kv.alloc", &kv.alloc)?;
        let meta = select.meta();
        let mut rows = Vec::with_capacity(shape.layers.len());
        for layer in &shape.layers {
            let (dk, dv) = channels.dims(layer.attention.dim);
            let refused = |key: &str, id: &str| {
                let what = format!("{key} = {id}");
                move |reason| Error::refused(what, reason)
            };
            rows.push(RowLayout {
                d: layer.attention.dim,
                k: k.row_bytes(dk).map_err(refused("kv.format.k", &kv.format.k.id))?,
                v: v.row_bytes(dv).map_err(refused("kv.format.v", &kv.format.v.id))?,
                meta,
            });
        }
        let heads = shape.layers.iter().map(|l| l.attention.kv_heads).collect();
        let windows = shape.layers.iter().map(|l| l.attention.window).collect();
        let mut out = Self {
            select,
            split,
            merge,
            k,
            v,
            alloc,
            rows,
            heads,
            windows,
            context: config.run.context,
            budget_rows: None,
        };
        out.budget_rows = match kv.budget {
            None => None,
            Some(_) if out.select.keeps_all() => None,
            Some(KvBudget::Rows(rows)) => Some(rows),
            Some(KvBudget::Ratio(ratio)) => Some(((ratio * config.run.context as f64) as usize).max(1)),
            Some(KvBudget::Bytes(bytes)) => Some(out.rows_for(bytes.0).ok_or_else(|| {
                Error::refused(
                    format!("kv.budget.bytes = {bytes}"),
                    format!(
                        "not even one row a head fits; one row of every layer and head takes {} B",
                        out.bytes_for_rows(1)
                    ),
                )
            })?),
        };
        if let (Some(KvBudget::Bytes(bytes)), true) = (kv.budget, out.select.keeps_all()) {
            let needed = out.sequence_bytes(out.context, out.context);
            if needed > bytes.0 {
                return Err(Error::refused(
                    "kv.select = full",
                    format!(
                        "a full cache of {} tokens takes {needed} B, kv.budget.bytes is {}; lower run.context or choose another kv.select",
                        out.context, bytes.0
                    ),
                ));
            }
        }
        Ok(out)
    }

    /// Bytes of one sequence's cache that keeps `rows` rows a head, metadata and the alloc's rounding included.
    fn bytes_for_rows(&self, rows: usize) -> u64 {
        self.per_head(|l, h| {
            let capacity = match self.windows[l] {
                Some(window) => window.min(self.context),
                None => self.with_newcomer(self.split.quota(rows, l, h)).min(self.context),
            };
            self.room_rows(capacity, capacity) as u64 * self.rows[l].bytes() as u64
        })
    }

    /// The inverse: most rows a head within `bytes`, found by search because rounding makes it no plain division.
    fn rows_for(&self, bytes: u64) -> Option<usize> {
        if self.bytes_for_rows(1) > bytes {
            return None;
        }
        let (mut fits, mut over) = (1, self.context + 1);
        while over - fits > 1 {
            let middle = fits + (over - fits) / 2;
            if self.bytes_for_rows(middle) <= bytes { fits = middle } else { over = middle }
        }
        Some(fits)
    }

    fn per_head(&self, mut f: impl FnMut(usize, usize) -> u64) -> u64 {
        let mut sum = 0;
        for (l, heads) in self.heads.iter().enumerate() {
            for h in 0..*heads {
                sum += f(l, h);
            }
        }
        sum
    }

    fn with_newcomer(&self, quota: usize) -> usize {
        match self.select.when() {
            When::BeforeAppend => quota,
            When::AfterAttention => quota.saturating_add(1),
        }
    }

    /// Rows in the chunks of one head that holds `rows` rows and may hold `capacity`.
    fn room_rows(&self, capacity: usize, rows: usize) -> usize {
        let chunk = self.alloc.chunk_rows(capacity);
        let held = if self.alloc.upfront() { capacity } else { rows.min(capacity) };
        held.div_ceil(chunk) * chunk
    }

    /// Tokens that a layer sees, where it has a window: it holds those rows and no others, whatever the policy, which
    /// chooses in the layers that see everything.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows[layer]
    }

    /// Rows that (layer, head) keeps after a prompt of `prompt` tokens; a window is no policy's.
    pub fn quota(&self, layer: usize, head: usize, prompt: usize) -> usize {
        if self.windows[layer].is_some() {
            return usize::MAX;
        }
        let rows = self.budget_rows.or_else(|| self.select.own_rows(prompt));
        rows.map_or(usize::MAX, |rows| self.split.quota(rows, layer, head).max(1))
    }

    /// Most rows that (layer, head) holds outside staging.
    pub fn capacity(&self, layer: usize, head: usize, prompt: usize) -> usize {
        if let Some(window) = self.windows[layer] {
            return window.min(self.context);
        }
        self.with_newcomer(self.quota(layer, head, prompt)).min(self.context)
    }

    /// Context in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// True when a prompt must be read whole before rows leave: it does not fit where it will stay.
    pub fn stages(&self, prompt: usize) -> bool {
        self.heads.iter().enumerate().any(|(l, heads)| (0..*heads).any(|h| self.quota(l, h, prompt) < prompt))
    }

    /// Bytes of one sequence's rows when it has seen `seen` tokens, `prompt` of them its prompt.
    pub fn sequence_bytes(&self, prompt: usize, seen: usize) -> u64 {
        self.per_head(|l, h| self.held_rows(l, h, prompt, seen) as u64 * self.rows[l].bytes() as u64)
    }

    /// Rows that (layer, head) has room for when the sequence has seen `seen` tokens, `prompt` of them its prompt.
    pub fn held_rows(&self, layer: usize, head: usize, prompt: usize, seen: usize) -> usize {
        let capacity = self.capacity(layer, head, prompt);
        // A prompt is cut to its quota before it takes room; a newcomer needs one row more for an instant.
        let rows = if seen <= prompt { seen.min(self.quota(layer, head, prompt)) } else { seen };
        self.room_rows(capacity, rows)
    }

    /// Bytes of the positions that are kept for an observed KV head, of each sequence.
    pub fn trail_bytes(&self, layer: usize, head: usize, prompt: usize) -> u64 {
        4 * self.capacity(layer, head, prompt) as u64
    }

    /// KV heads of a layer.
    pub fn heads(&self, layer: usize) -> usize {
        self.heads[layer]
    }

    /// Bytes that one decoding step reads of one sequence's rows at depth `seen`.
    pub fn read_bytes(&self, prompt: usize, seen: usize) -> u64 {
        self.per_head(|l, h| (self.capacity(l, h, prompt).min(seen) * self.rows[l].bytes()) as u64)
    }

    /// Rows of a head at depth `seen`, on average over layers and heads.
    pub fn mean_rows(&self, prompt: usize, seen: usize) -> f64 {
        let heads: usize = self.heads.iter().sum();
        self.per_head(|l, h| self.capacity(l, h, prompt).min(seen) as u64) as f64 / heads.max(1) as f64
    }

    /// Bytes of the staging layer that holds `rows` rows of the widest layer.
    pub fn staging_bytes(&self, rows: usize) -> u64 {
        self.heads.iter().zip(&self.rows).map(|(heads, r)| (heads * rows * r.bytes()) as u64).max().unwrap_or(0)
    }

    /// An empty cache for one sequence; room is made up front where the alloc says so.
    ///
    /// # Errors
    /// Over budget.
    pub fn sequence(&self, ledger: &Arc<Ledger>, prompt: usize) -> Result<Vec<LayerCache>> {
        let mut layers = Vec::with_capacity(self.heads.len());
        for (l, heads) in self.heads.iter().enumerate() {
            let chunk_rows = (0..*heads).map(|h| self.alloc.chunk_rows(self.capacity(l, h, prompt)));
            let mut cache = LayerCache::new(self.rows[l], chunk_rows, ROWS);
            if self.alloc.upfront() {
                for h in 0..*heads {
                    cache.ensure(ledger, h, self.capacity(l, h, prompt))?;
                }
            }
            layers.push(cache);
        }
        Ok(layers)
    }

    /// Of each kind of layer with a window, one: through it passes what a batch of `batch` tokens and the window before it
    /// are, when they do not fit where they stay. `rows` is the most that a sequence has seen.
    pub fn window_stages(&self, rows: usize, batch: usize) -> Vec<(usize, usize)> {
        let mut out: Vec<(usize, usize)> = Vec::new();
        for (l, window) in self.windows.iter().enumerate().filter_map(|(l, w)| Some((l, (*w)?))) {
            let most = (window + batch).min(rows);
            if rows <= window || batch < 2 {
                continue;
            }
            match out.iter_mut().find(|(of, _)| self.rows[*of] == self.rows[l] && self.heads[*of] == self.heads[l]) {
                Some((_, rows)) => *rows = most.max(*rows),
                None => out.push((l, most)),
            }
        }
        out
    }

    /// Bytes of [`Self::window_stages`].
    pub fn window_stage_bytes(&self, rows: usize, batch: usize) -> usize {
        self.window_stages(rows, batch).iter().map(|(l, rows)| self.heads[*l] * rows * self.rows[*l].bytes()).sum()
    }

    /// A staging layer for `rows` rows, shaped like `layer`, counted under `tag`.
    ///
    /// # Errors
    /// Over budget.
    pub fn staging(&self, ledger: &Arc<Ledger>, layer: usize, rows: usize, tag: Tag) -> Result<LayerCache> {
        let heads = self.heads[layer];
        let mut cache = LayerCache::new(self.rows[layer], std::iter::repeat_n(rows, heads), tag);
        for h in 0..heads {
            cache.ensure(ledger, h, rows)?;
        }
        Ok(cache)
    }
}
