//! When which key of a head left the cache.

use std::collections::BTreeMap;

use crate::view::{Attention, Map, Merge};

/// Evictions of one head by position, and how many every head has had; both follow a list that only grows.
#[derive(Default)]
pub struct Gone {
    run: String,
    seen: usize,
    head: (usize, usize),
    /// Decoding step by position; `u32::MAX` for one that is there.
    steps: Vec<u32>,
    /// `(layers, kv_heads)`.
    counts: Vec<u32>,
    /// Merges taken in, and what the head's keys went into, by position.
    merged: usize,
    survivors: BTreeMap<u32, u32>,
}

/// The KV head that a query head reads.
pub fn kv_head(data: &Attention, head: usize) -> usize {
    let kv_heads = data.kv_heads.clamp(1, data.heads.max(1));
    head / (data.heads / kv_heads).max(1)
}

impl Gone {
    /// Takes in what is new, for the query head shown.
    pub fn follow(&mut self, data: &Attention, head: (usize, usize)) {
        let kv = (head.0, kv_head(data, head.1));
        if self.run != data.run
            || self.seen > data.evictions.len()
            || self.merged > data.merges.len()
            || self.head != kv
        {
            *self = Self { run: data.run.clone(), head: kv, ..Self::default() };
        }
        let kv_heads = data.kv_heads.max(1);
        self.counts.resize(data.layers * kv_heads, 0);
        for e in &data.evictions[self.seen..] {
            let (layer, head) = (usize::from(e.layer), usize::from(e.head));
            if let Some(count) = self.counts.get_mut(layer * kv_heads + head) {
                *count += 1;
            }
            let position = e.position as usize;
            // A position beyond the tokens and the map can be nothing on screen.
            if (layer, head) == kv && position < data.tokens.len().max(data.map.as_ref().map_or(0, |m| m.columns)) {
                if self.steps.len() <= position {
                    self.steps.resize(position + 1, u32::MAX);
                }
                let step = u32::try_from(e.step).unwrap_or(u32::MAX - 1);
                self.steps[position] = self.steps[position].min(step);
            }
        }
        self.seen = data.evictions.len();
        let own = |m: &&Merge| (usize::from(m.layer), usize::from(m.head)) == kv;
        self.survivors.extend(data.merges[self.merged..].iter().filter(own).map(|m| (m.position, m.survivor)));
        self.merged = data.merges.len();
    }

    /// The position whose row took up that of another, when one did.
    pub fn survivor(&self, position: usize) -> Option<usize> {
        self.survivors.get(&u32::try_from(position).ok()?).map(|&p| p as usize)
    }

    /// The step at which a position left, when it did.
    pub fn step(&self, position: usize) -> Option<usize> {
        self.steps.get(position).copied().filter(|&s| s != u32::MAX).map(|s| s as usize)
    }

    /// Rows that left a query head's cache.
    pub fn count(&self, data: &Attention, (layer, head): (usize, usize)) -> u32 {
        self.counts.get(layer * data.kv_heads.max(1) + kv_head(data, head)).copied().unwrap_or(0)
    }

    /// The first row of the map that the key of `column` was gone from, when it left. What the map itself says comes first.
    pub fn row(&self, data: &Attention, map: &Map, column: usize) -> Option<usize> {
        let step = self.step(column)?;
        let first = map.queries.partition_point(|&q| (q as usize) < column);
        if map.held.is_empty() {
            return Some(map.queries.partition_point(|&q| (q as usize) < data.prompt + step).max(first));
        }
        let (mut low, mut high) = (first, map.queries.len());
        while low < high {
            let middle = (low + high) / 2;
            if map.held(middle, column) { low = middle + 1 } else { high = middle }
        }
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::view::Eviction;

    #[test]
    fn a_merged_key_points_at_its_survivor_in_its_own_head_alone() {
        let merge = |layer, head, position, survivor| Merge { step: 1, layer, head, position, survivor };
        let mut data = Attention {
            layers: 2,
            heads: 4,
            kv_heads: 2,
            merges: Arc::new(vec![merge(1, 1, 2, 5), merge(0, 1, 3, 6)]),
            ..Attention::default()
        };
        let mut gone = Gone::default();
        gone.follow(&data, (1, 3));
        assert_eq!((gone.survivor(2), gone.survivor(3)), (Some(5), None));
        Arc::make_mut(&mut data.merges).push(merge(1, 1, 3, 7));
        gone.follow(&data, (1, 3));
        assert_eq!((gone.survivor(2), gone.survivor(3), gone.survivor(usize::MAX)), (Some(5), Some(7), None));
        gone.follow(&data, (0, 2));
        assert_eq!((gone.survivor(2), gone.survivor(3)), (None, Some(6)));
    }

    #[test]
    fn a_key_is_gone_from_its_step_on_for_the_heads_that_share_it() {
        let eviction = |step, layer, head, position| Eviction { step, layer, head, position };
        let mut data = Attention {
            run: "r".into(),
            layers: 2,
            heads: 4,
            kv_heads: 2,
            prompt: 4,
            tokens: Arc::new(vec!["t".into(); 8]),
            evictions: Arc::new(vec![eviction(0, 1, 1, 2), eviction(2, 1, 0, 3)]),
            ..Attention::default()
        };
        let map = Map { head: (1, 2), queries: (0..8).collect(), columns: 8, values: vec![1; 64], held: vec![] };
        let mut gone = Gone::default();
        gone.follow(&data, (1, 2));
        assert_eq!((gone.step(2), gone.step(3), gone.row(&data, &map, 2)), (Some(0), None, Some(4)));
        Arc::make_mut(&mut data.evictions).push(eviction(3, 1, 1, 6));
        gone.follow(&data, (1, 2));
        assert_eq!((gone.step(6), gone.row(&data, &map, 6)), (Some(3), Some(7)));
        assert_eq!((gone.count(&data, (1, 3)), gone.count(&data, (1, 0)), gone.count(&data, (0, 0))), (2, 1, 0));
        // What the map holds decides over the step.
        let mut held = vec![0xFF_u8; 8];
        held[5..].fill(0b1111_1011);
        let map = Map { held, ..map };
        assert_eq!(gone.row(&data, &map, 2), Some(5));
        gone.follow(&data, (1, 0));
        assert_eq!((gone.step(2), gone.step(3)), (None, Some(2)));
    }
}
