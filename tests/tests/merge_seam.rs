//! What a merge tells of the rows that it folds, through a merge that no catalogue has.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};

use ullage_core::forward::cpu::PassObserver;
use ullage_core::kv::cache::LayerCache;
use ullage_core::kv::{Folded, Merge};
use ullage_tests::{Rig, config, ids, random};

/// Every row that goes is taken up by the nearest that stays before it; those before the first are not taken up by any.
struct Before;

impl Merge for Before {
    fn fold(&self, layer: &mut LayerCache, head: usize, kept: &[u32], folded: &mut Folded<'_>) {
        for row in 0..layer.rows(head) as u32 {
            let after = kept.partition_point(|k| *k < row);
            if kept.get(after) != Some(&row) && after > 0 {
                folded(layer, row, kept[after - 1]);
            }
        }
    }
}

/// `(layer, head)` to `(position, survivor)`, and what left by name and in number.
#[derive(Default)]
struct Seen {
    merged: BTreeMap<(usize, usize), Vec<(u32, u32)>>,
    counts: (usize, usize),
}

impl PassObserver for Seen {
    fn evicted(&mut self, _: usize, _: usize, _: usize, _: &[u32], count: usize) {
        self.counts.1 += count;
    }

    fn merged(&mut self, _: usize, layer: usize, head: usize, pairs: &[(u32, u32)], count: usize) {
        self.merged.entry((layer, head)).or_default().extend(pairs);
        self.counts.0 += count;
    }
}

#[test]
fn each_folded_row_is_told_with_its_survivor_by_position() {
    let model = random("tiny", "f16");
    let pairs = [("kv.select", "h2o"), ("kv.budget.rows", "12"), ("run.context", "120")];
    let tokens = ids(80, 160);
    let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
    rig.forward.pipeline.merge = Box::new(Before);
    let mut seen = Seen::default();
    let seq = rig.watched(&tokens[..50], &tokens[50..], &mut seen).unwrap();
    assert!(!seen.merged.is_empty());
    let mut named = 0;
    for (l, layer) in seq.layers.iter().enumerate() {
        for h in 0..layer.heads() {
            let merged = &seen.merged[&(l, h)];
            named += merged.len();
            let held: BTreeSet<u32> = (0..layer.rows(h)).map(|r| layer.position(h, r).unwrap()).collect();
            let gone: BTreeSet<u32> = merged.iter().map(|(p, _)| *p).collect();
            assert_eq!(gone.len(), merged.len(), "a row is folded once");
            assert!(gone.is_disjoint(&held), "what was folded is gone");
            let into: BTreeMap<u32, u32> = merged.iter().copied().collect();
            for (position, survivor) in merged {
                assert!(survivor < position, "{position} into {survivor}");
                // A survivor may be folded itself later on; in the end one stands that is held, or none came before it.
                let mut at = *survivor;
                while let Some(next) = into.get(&at) {
                    at = *next;
                }
                assert!(held.contains(&at) || !gone.contains(&at), "{position} ends in {at}");
            }
        }
    }
    assert_eq!(seen.counts.0, named, "every fold is named where the policy keeps positions");
    assert!(seen.counts.0 <= seen.counts.1, "what is folded leaves: {:?}", seen.counts);
    assert!(2 * seen.counts.0 > seen.counts.1, "most of what left had something before it: {:?}", seen.counts);
    // The plain choice folds nothing and drops as many.
    let mut plain = Rig::new(&model, &config(&pairs)).unwrap();
    let mut unfolded = Seen::default();
    plain.watched(&tokens[..50], &tokens[50..], &mut unfolded).unwrap();
    assert_eq!((unfolded.merged.len(), unfolded.counts), (0, (0, seen.counts.1)));
}
