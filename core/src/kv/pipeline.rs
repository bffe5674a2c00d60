//! One variant of every cache axis, resolved for a shape, a context and a prompt length: quotas, capacities, bytes.
//!
//! Pure: the plan and the run both ask here, so a cache cannot be sized in two ways.

use std::sync::Arc;

use super::cache::{LayerCache, ROWS};
use super::room::{HeadLayout, RowLayout, SideLayout};
use super::{Alloc, Channels, Format, Merge, Needs, Read, Rhythm, Select, Share, Side, Split};
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
    /// Which rows a query looks at.
    pub read: Box<dyn Read>,
    /// How room is made.
    pub alloc: Box<dyn Alloc>,
    /// Layout of an open row of each layer.
    pub rows: Vec<RowLayout>,
    /// What select, channels and the rest ask to see.
    pub needs: Needs,
    layouts: Vec<Arc<HeadLayout>>,
    heads: Vec<usize>,
    /// Tokens that a layer sees, where it has a window.
    windows: Vec<Option<usize>>,
    context: usize,
    /// Rows per layer and head that `kv.budget` grants; `None` when there is no budget.
    budget_rows: Option<usize>,
}

/// The layout of every layer's heads.
fn layouts(
    config: &Config,
    shape: &ModelShape,
    select: &dyn Select,
    merge: &dyn Merge,
    read: &dyn Read,
    channels: &dyn Channels,
    formats: [&Arc<dyn Format>; 2],
) -> Result<Vec<Arc<HeadLayout>>> {
    let kv = &config.kv;
    let key = |side| if side == Side::Keys { "kv.format.k" } else { "kv.format.v" };
    let id = |side| if side == Side::Keys { &kv.format.k.id } else { &kv.format.v.id };
    shape
        .layers
        .iter()
        .map(|layer| {
            let d = layer.attention.dim;
            let side = |side: Side, format: &Arc<dyn Format>| -> Result<SideLayout> {
                let by_format = |reason| Error::refused(format!("{} = {}", key(side), id(side)), reason);
                let by_channels = |reason| Error::refused(format!("kv.channels = {}", kv.channels.id), reason);
                let open = format.row_bytes(d).map_err(by_format)?;
                let of_format = format.seal(side, d).map_err(by_format)?;
                let of_channels = channels.seal(side, d, format).map_err(by_channels)?;
                let seal = match (of_format, of_channels) {
                    (Some(_), Some(_)) => {
                        return Err(by_channels(format!(
                            "it keeps older rows narrower, and {} = {} keeps them in groups of its own; choose one of the two",
                            key(side),
                            id(side)
                        )));
                    }
                    (of_format, of_channels) => of_format.or(of_channels),
                };
                Ok(SideLayout { format: Arc::clone(format), seal, open })
            };
            let (k, v) = (side(Side::Keys, formats[0])?, side(Side::Values, formats[1])?);
            let row = RowLayout { d, k: k.open, v: v.open, meta: select.meta() };
            let layout = HeadLayout { row, k, v, page: read.page(d), merge_state: merge.state_bytes() };
            // What a layer with a window holds is no technique's but the format's, row by row.
            Ok(Arc::new(if layer.attention.window.is_some() { layout.staged() } else { layout }))
        })
        .collect()
}

/// How a staging layer makes room.
struct OnePiece;

impl Alloc for OnePiece {
    fn chunk_rows(&self, capacity: usize) -> usize {
        capacity.max(1)
    }

    fn upfront(&self) -> bool {
        true
    }
}

impl Pipeline {
    /// Resolves the cache axes of `config` for `shape`.
    ///
    /// # Errors
    /// A choice this shape forbids, choices that cannot work together, or a budget that holds no row.
    pub fn new(config: &Config, shape: &ModelShape) -> Result<Self> {
        let kv = &config.kv;
        let select: Box<dyn Select> = schema::build(super::select::ENTRIES, "kv.select", &kv.select)?;
        let split = schema::build(super::split::ENTRIES, "kv.split", &kv.split)?;
        let merge: Box<dyn Merge> = schema::build(super::merge::ENTRIES, "kv.merge", &kv.merge)?;
        let channels: Box<dyn Channels> = schema::build(super::channels::ENTRIES, "kv.channels", &kv.channels)?;
        let k: Arc<dyn Format> = schema::build(super::format::ENTRIES, "kv.format.k", &kv.format.k)?.into();
        let v: Arc<dyn Format> = schema::build(super::format::ENTRIES, "kv.format.v", &kv.format.v)?.into();
        let read: Box<dyn Read> = schema::build(super::read::ENTRIES, "kv.read", &kv.read)?;
        let alloc = schema::build(super::alloc::ENTRIES, "kv.alloc", &kv.alloc)?;
        let layouts = layouts(config, shape, &*select, &*merge, &*read, &*channels, [&k, &v])?;
        let needs = select.needs().with(channels.needs());
        let heads = shape.layers.iter().map(|l| l.attention.kv_heads).collect();
        let windows = shape.layers.iter().map(|l| l.attention.window).collect();
        let rows = layouts.iter().map(|l| l.row).collect();
        let context = config.run.context;
        let mut out = Self {
            select,
            split,
            merge,
            read,
            alloc,
            rows,
            needs,
            layouts,
            heads,
            windows,
            context,
            budget_rows: None,
        };
        out.agree(config)?;
        out.budget_rows = out.budget(config)?;
        Ok(out)
    }

    /// The same with another merge, which may be one that no catalogue has.
    #[must_use]
    pub fn with_merge(mut self, merge: Box<dyn Merge>) -> Self {
        for (layout, _) in self.layouts.iter_mut().zip(&self.windows).filter(|(_, w)| w.is_none()) {
            *layout = Arc::new(HeadLayout { merge_state: merge.state_bytes(), ..HeadLayout::clone(layout) });
        }
        Self { merge, ..self }
    }

    /// Whether the choices can work together.
    fn agree(&self, config: &Config) -> Result<()> {
        let kv = &config.kv;
        let refused = |key: &str, id: &str, reason: String| Err(Error::refused(format!("{key} = {id}"), reason));
        let once = self.select.rhythm() == Rhythm::Once;
        if self.layouts.iter().any(|l| l.seals()) && !once {
            let by =
                [("kv.channels", &kv.channels.id), ("kv.format.k", &kv.format.k.id), ("kv.format.v", &kv.format.v.id)];
            let (key, id) = by[match self.layouts.iter().any(|l| l.k.seal.is_some()) {
                _ if kv.channels.id != "all" => 0,
                true => 1,
                false => 2,
            }];
            let reason = format!(
                "its older rows are sealed for good, and kv.select = {} drops single rows while decoding; choose a kv.select that chooses once, at the prompt's end",
                kv.select.id
            );
            return refused(key, id, reason);
        }
        if let Err(reason) = self.merge.follows(&*self.select) {
            return refused("kv.merge", &kv.merge.id, reason);
        }
        if let Err(reason) = self.read.reads(self.select.positions(), self.needs) {
            return refused("kv.read", &kv.read.id, reason);
        }
        if self.split.share().is_some() {
            let reason = if !self.select.ranks() || !once {
                format!(
                    "it shares a layer's rows over its heads once, by the ranks of a prompt's rows, and kv.select = {} {}",
                    kv.select.id,
                    if once { "ranks none" } else { "chooses anew at every step" }
                )
            } else if self.layouts.iter().any(|l| l.seals()) {
                "heads of different lengths seal their rows at different times, which no plan bounds; choose kv.channels = all and a kv.format that keeps row by row".to_owned()
            } else {
                return Ok(());
            };
            return refused("kv.split", &kv.split.id, reason);
        }
        Ok(())
    }

    /// Rows a head that `kv.budget` grants.
    fn budget(&self, config: &Config) -> Result<Option<usize>> {
        let context = self.context;
        let bytes = match config.kv.budget {
            None => return Ok(None),
            Some(KvBudget::Bytes(bytes)) => bytes,
            Some(_) if self.select.keeps_all() => return Ok(None),
            Some(KvBudget::Rows(rows)) => return Ok(Some(rows)),
            Some(KvBudget::Ratio(ratio)) => return Ok(Some(((ratio * context as f64) as usize).max(1))),
        };
        let refused = |reason| Err(Error::refused(format!("kv.budget.bytes = {bytes}"), reason));
        if self.select.keeps_all() {
            let needed = self.sequence_bytes(context, context);
            if needed > bytes.0 {
                return Err(Error::refused(
                    format!("kv.select = {}", config.kv.select.id),
                    format!(
                        "a full cache of {context} tokens takes {needed} B, kv.budget.bytes is {}; lower run.context or choose another kv.select",
                        bytes.0
                    ),
                ));
            }
            return Ok(None);
        }
        if self.select.rhythm() == Rhythm::Once {
            return refused(format!(
                "kv.select = {} chooses once and its cache grows while decoding, so that no number of rows keeps it within bytes; set kv.budget.rows or kv.budget.ratio",
                config.kv.select.id
            ));
        }
        match self.rows_for(bytes.0) {
            Some(rows) => Ok(Some(rows)),
            None => refused(format!(
                "not even one row a head fits; one row of every layer and head takes {} B",
                self.bytes_for_rows(1)
            )),
        }
    }

    /// Bytes of one sequence's cache that keeps `rows` rows a head, metadata and the alloc's rounding included.
    fn bytes_for_rows(&self, rows: usize) -> u64 {
        let state: u64 = (0..self.heads.len()).map(|l| self.state_bytes(l)).sum();
        state
            + self.per_head(|l, h| {
                let capacity = match self.windows[l] {
                    Some(window) => window.min(self.context),
                    None => self.above(self.share_of(rows, l, h)).min(self.context),
                };
                self.layouts[l].bytes(&*self.alloc, capacity, capacity, capacity)
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

    /// Rows of a quota with what stands above it until rows leave.
    fn above(&self, quota: usize) -> usize {
        match self.select.rhythm() {
            Rhythm::BeforeAppend | Rhythm::Once => quota,
            Rhythm::Every(rows) => quota.saturating_add(rows),
        }
    }

    fn share_of(&self, rows: usize, layer: usize, head: usize) -> usize {
        if self.merge.leaves_whole(layer, self.heads.len()) {
            return usize::MAX;
        }
        self.split.quota(rows, layer, head).max(1)
    }

    /// Tokens that a layer sees, where it has a window: it holds those rows and no others, whatever the policy, which
    /// chooses in the layers that see everything.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows[layer]
    }

    /// Rows that (layer, head) keeps after a prompt of `prompt` tokens, a window being no policy's; on average over the layer's heads where they share at run
    /// time.
    pub fn quota(&self, layer: usize, head: usize, prompt: usize) -> usize {
        if self.windows[layer].is_some() {
            return usize::MAX;
        }
        let rows = self.budget_rows.or_else(|| self.select.own_rows(prompt));
        rows.map_or(usize::MAX, |rows| self.share_of(rows, layer, head))
    }

    /// How the heads of `layer` share their rows once a prompt of `prompt` tokens is read, where that is decided then: the split,
    /// rows that always stay, and rows a head on average beside them.
    pub fn shared(&self, layer: usize, prompt: usize) -> Option<(&dyn Share, usize, usize)> {
        let quota = self.quota(layer, 0, prompt);
        let share = self.split.share().filter(|_| quota < prompt)?;
        let always = self.select.always(prompt, quota).min(quota);
        Some((share, always, quota - always))
    }

    /// Most rows that (layer, head) holds outside staging.
    pub fn capacity(&self, layer: usize, head: usize, prompt: usize) -> usize {
        if let Some(window) = self.windows[layer] {
            return window.min(self.context);
        }
        let kept = match self.shared(layer, prompt) {
            Some((share, always, each)) => share.most(self.heads[layer], prompt - always, each) + always,
            None => self.quota(layer, head, prompt),
        };
        match self.select.rhythm() {
            Rhythm::Once => kept.min(prompt) + self.context.saturating_sub(prompt),
            _ => self.above(kept).min(self.context),
        }
    }

    /// Rows that (layer, head) holds at depth `seen`; on average where heads share.
    fn rows_at(&self, layer: usize, head: usize, prompt: usize, seen: usize) -> usize {
        if let Some(window) = self.windows[layer] {
            return seen.min(window).min(self.context);
        }
        let quota = self.quota(layer, head, prompt);
        match self.select.rhythm() {
            // A prompt is cut to its quota before it takes room.
            _ if seen <= prompt => seen.min(quota),
            Rhythm::Once => quota.min(prompt) + seen - prompt,
            _ => (quota.min(prompt) + seen - prompt).min(self.above(quota)).min(self.context),
        }
    }

    /// Context in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// True when decoding may go on past the context, because no head ever grows beyond it.
    pub fn endless(&self, prompt: usize) -> bool {
        let bounded =
            |l: usize| self.windows[l].is_some() || (0..self.heads[l]).all(|h| self.quota(l, h, prompt) < self.context);
        self.select.rhythm() != Rhythm::Once && prompt <= self.context && (0..self.heads.len()).all(bounded)
    }

    /// True when a prompt must be read whole before rows leave or are sealed: it does not stay as it is read.
    pub fn stages(&self, prompt: usize) -> bool {
        let cut = |l: usize| (0..self.heads[l]).any(|h| self.quota(l, h, prompt) < prompt);
        let sealed = |l: usize| self.layouts[l].k.at_prompt(prompt) + self.layouts[l].v.at_prompt(prompt) > 0;
        (0..self.heads.len()).any(|l| cut(l) || sealed(l))
    }

    /// True when older rows are kept otherwise than new ones.
    pub fn seals(&self) -> bool {
        self.layouts.iter().any(|l| l.seals())
    }

    /// True when a head's bytes are its rows' and nothing else.
    pub fn row_by_row(&self, layer: usize, prompt: usize) -> bool {
        let l = &self.layouts[layer];
        !l.seals() && l.page.is_none() && l.state() == 0 && self.shared(layer, prompt).is_none()
    }

    /// Bytes that are remembered of a layer's heads.
    fn state_bytes(&self, layer: usize) -> u64 {
        (self.layouts[layer].state() * self.heads[layer]) as u64
    }

    /// Bytes of one layer of one sequence when it has seen `seen` tokens, `prompt` of them its prompt: exact, or the most that it
    /// can be where heads share their rows at run time.
    pub fn layer_bytes(&self, layer: usize, prompt: usize, seen: usize) -> u64 {
        let (heads, layout) = (self.heads[layer], &self.layouts[layer]);
        let rooms = match self.shared(layer, prompt) {
            Some(_) if seen < prompt => 0,
            Some(_) => {
                let rows = |seen: usize| heads * self.rows_at(layer, 0, prompt, seen);
                layout.bytes_shared(&*self.alloc, heads, rows(if self.alloc.upfront() { self.context } else { seen }))
            }
            None => (0..heads)
                .map(|h| {
                    let kept = self.rows_at(layer, h, prompt, prompt);
                    let rows = self.rows_at(layer, h, prompt, seen);
                    layout.bytes(&*self.alloc, kept, rows, self.capacity(layer, h, prompt))
                })
                .sum(),
        };
        self.state_bytes(layer) + rooms
    }

    /// Bytes of one sequence's cache when it has seen `seen` tokens, `prompt` of them its prompt.
    pub fn sequence_bytes(&self, prompt: usize, seen: usize) -> u64 {
        (0..self.heads.len()).map(|l| self.layer_bytes(l, prompt, seen)).sum()
    }

    /// Bytes that one layer of one sequence takes to find its rows: as [`Self::layer_bytes`].
    pub fn layer_tables(&self, layer: usize, prompt: usize, seen: usize) -> u64 {
        let (heads, layout) = (self.heads[layer], &self.layouts[layer]);
        let chunks = match self.shared(layer, prompt) {
            Some(_) if seen < prompt => 0,
            Some(_) => {
                let rows = |seen: usize| heads * self.rows_at(layer, 0, prompt, seen);
                let rows = rows(if self.alloc.upfront() { self.context } else { seen });
                layout.chunk_tables_shared(&*self.alloc, heads, rows)
            }
            None => (0..heads)
                .map(|h| {
                    let (kept, rows) = (self.rows_at(layer, h, prompt, prompt), self.rows_at(layer, h, prompt, seen));
                    layout.chunk_tables(&*self.alloc, kept, rows, self.capacity(layer, h, prompt))
                })
                .sum(),
        };
        layout.tables(heads) + chunks
    }

    /// Bytes that one sequence's cache takes to find its rows, when it has seen `seen` tokens, `prompt` of them its prompt: the
    /// heads' records and the lists of their chunks, with what the allocator puts beside each.
    pub fn sequence_tables(&self, prompt: usize, seen: usize) -> u64 {
        (0..self.heads.len()).map(|l| self.layer_tables(l, prompt, seen)).sum()
    }

    /// The same of a staging layer for `rows` rows, shaped like `layer`.
    fn stage_tables(&self, layer: usize, rows: usize) -> u64 {
        let (heads, layout) = (self.heads[layer], self.layouts[layer].staged());
        layout.tables(heads) + heads as u64 * layout.chunk_tables(&OnePiece, rows, rows, rows)
    }

    /// The same of the staging layer of [`Self::staging_bytes`].
    pub fn staging_tables(&self, rows: usize) -> u64 {
        (0..self.heads.len()).map(|l| self.stage_tables(l, rows)).max().unwrap_or(0)
    }

    /// Rows that (layer, head) has room for when the sequence has seen `seen` tokens, `prompt` of them its prompt.
    pub fn held_rows(&self, layer: usize, head: usize, prompt: usize, seen: usize) -> usize {
        let capacity = self.capacity(layer, head, prompt);
        let chunk = self.alloc.chunk_rows(capacity);
        let rows = if self.alloc.upfront() { capacity } else { self.rows_at(layer, head, prompt, seen).min(capacity) };
        rows.div_ceil(chunk) * chunk
    }

    /// Bytes of the positions that are kept for an observed KV head, of each sequence.
    pub fn trail_bytes(&self, layer: usize, head: usize, prompt: usize) -> u64 {
        4 * self.capacity(layer, head, prompt) as u64
    }

    /// KV heads of a layer.
    pub fn heads(&self, layer: usize) -> usize {
        self.heads[layer]
    }

    /// How the heads of a layer are laid out.
    pub fn layout(&self, layer: usize) -> &Arc<HeadLayout> {
        &self.layouts[layer]
    }

    /// Bytes that one decoding step reads of one sequence's rows at depth `seen`.
    pub fn read_bytes(&self, prompt: usize, seen: usize) -> u64 {
        self.per_head(|l, h| {
            let (kept, rows) = (self.rows_at(l, h, prompt, prompt), self.rows_at(l, h, prompt, seen));
            let layout = &self.layouts[l];
            let all: u64 = layout.units(kept, rows).iter().map(|u| (u.bytes * u.count) as u64).sum();
            match (layout.page, self.read.most_pages(l)) {
                (Some(page), Some(most)) if rows > 0 => {
                    let pages = rows.div_ceil(page.rows);
                    let known = (pages * page.bytes) as u64;
                    known + (all - known) * most.min(pages) as u64 / pages as u64
                }
                _ => all,
            }
        })
    }

    /// Rows of a head at depth `seen`, on average over layers and heads.
    pub fn mean_rows(&self, prompt: usize, seen: usize) -> f64 {
        let heads: usize = self.heads.iter().sum();
        self.per_head(|l, h| self.rows_at(l, h, prompt, seen) as u64) as f64 / heads.max(1) as f64
    }

    /// Bytes of the staging layer that holds `rows` rows of the widest layer.
    pub fn staging_bytes(&self, rows: usize) -> u64 {
        self.heads.iter().zip(&self.rows).map(|(heads, r)| (heads * rows * r.bytes()) as u64).max().unwrap_or(0)
    }

    /// An empty cache for one sequence; room is made up front where the alloc says so and the shares are known.
    ///
    /// # Errors
    /// Over budget.
    pub fn sequence(&self, ledger: &Arc<Ledger>, prompt: usize) -> Result<Vec<LayerCache>> {
        let mut layers = Vec::with_capacity(self.heads.len());
        for (l, heads) in self.heads.iter().enumerate() {
            let mut cache = LayerCache::new(Arc::clone(&self.layouts[l]), *heads, ROWS, ledger)?;
            for h in 0..if self.shared(l, prompt).is_some() { 0 } else { *heads } {
                let kept = self.rows_at(l, h, prompt, prompt);
                cache.open(&*self.alloc, h, kept, self.capacity(l, h, prompt))?;
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

    /// Bytes that finding the rows of [`Self::window_stages`] takes.
    pub fn window_stage_tables(&self, rows: usize, batch: usize) -> u64 {
        self.window_stages(rows, batch).iter().map(|(l, rows)| self.stage_tables(*l, *rows)).sum()
    }

    /// A staging layer for `rows` rows, shaped like `layer`, counted under `tag`.
    ///
    /// # Errors
    /// Over budget.
    pub fn staging(&self, ledger: &Arc<Ledger>, layer: usize, rows: usize, tag: Tag) -> Result<LayerCache> {
        let heads = self.heads[layer];
        let mut cache = LayerCache::new(Arc::new(self.layouts[layer].staged()), heads, tag, ledger)?;
        for h in 0..heads {
            cache.open(&OnePiece, h, rows, rows)?;
        }
        Ok(cache)
    }
}
