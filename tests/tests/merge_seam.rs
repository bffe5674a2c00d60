//! What a merge tells of the rows that it folds, through a merge that no catalogue has.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ullage_core::Result;
use ullage_core::forward::observer::PassObserver;
use ullage_core::kv::{Fold, Folded, Merge};
use ullage_tests::{Rig, config, ids, random};

/// Every row that goes is taken up by the nearest that stays before it, which becomes the mean of itself and of all that it takes
/// up at once; those before the first are not taken up by any. Remembers of each head how often it was asked.
#[derive(Default)]
struct Before {
    /// The most that it was asked for one head.
    most: Arc<AtomicU32>,
}

impl Merge for Before {
    fn state_bytes(&self) -> usize {
        4
    }

    fn scratch(&self, _rows: usize, d: usize) -> usize {
        4 * d
    }

    fn fold(&self, fold: Fold<'_>, folded: &mut Folded<'_>) -> Result<()> {
        let Fold { cache, head, kept, scores, state, scratch } = fold;
        assert_eq!(scores.len(), cache.rows(head), "a score for each row");
        let count = u32::from_le_bytes(state.try_into().unwrap()) + 1;
        state.copy_from_slice(&count.to_le_bytes());
        self.most.fetch_max(count, Ordering::Relaxed);
        let d = cache.layout().d;
        for (i, row) in kept.iter().enumerate() {
            let end = kept.get(i + 1).copied().unwrap_or(cache.rows(head) as u32);
            let (sum, one) = scratch.split_at_mut(2 * d);
            let (k, v) = sum.split_at_mut(d);
            cache.keys(head, *row as usize, 1, k);
            cache.values(head, *row as usize, 1, v);
            for gone in row + 1..end {
                folded(cache, gone, *row);
                let (ok, ov) = one.split_at_mut(d);
                cache.keys(head, gone as usize, 1, ok);
                cache.values(head, gone as usize, 1, ov);
                k.iter_mut().zip(ok).for_each(|(a, b)| *a += *b);
                v.iter_mut().zip(ov).for_each(|(a, b)| *a += *b);
            }
            let n = (end - row) as f32;
            sum.iter_mut().for_each(|x| *x /= n);
            cache.write(head, *row as usize, &sum[..d], &sum[d..])?;
        }
        Ok(())
    }
}

fn rig(pairs: &[(&str, &str)], merge: Before) -> Rig {
    let mut rig = Rig::new(&random("tiny", "f16"), &config(pairs)).unwrap();
    rig.with_merge(Box::new(merge));
    rig
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
    let mut rig = rig(&pairs, Before::default());
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

/// In layer 0 a row depends on its token and position alone, so a full run says what was folded: each row that stays is the mean
/// of the tokens from its own to the next that stays, in keys and in values.
#[test]
fn what_is_folded_is_in_the_row_that_took_it_up() {
    let tokens = ids(60, 160);
    let full = {
        let mut rig =
            Rig::new(&random("tiny", "f16"), &config(&[("kv.format", "f32"), ("run.context", "64")])).unwrap();
        let seq = rig.prefill(&tokens).unwrap().0;
        (0..2).map(|h| [rig.keys(&seq, 0, h), rig.values(&seq, 0, h)]).collect::<Vec<_>>()
    };
    let pairs = [("kv.select", "h2o"), ("kv.budget.rows", "12"), ("kv.format", "f32"), ("run.context", "64")];
    let mut rig = rig(&pairs, Before::default());
    let seq = rig.prefill(&tokens).unwrap().0;
    let mut moved = 0;
    for (h, full) in full.iter().enumerate() {
        let kept = Rig::positions(&seq, 0, h);
        for (side, ours) in [rig.keys(&seq, 0, h), rig.values(&seq, 0, h)].iter().enumerate() {
            for (i, row) in ours.iter().enumerate() {
                let from = kept[i] as usize;
                let end = kept.get(i + 1).map_or(tokens.len(), |p| *p as usize);
                moved += usize::from(end > from + 1);
                for (c, x) in row.iter().enumerate() {
                    let mean = full[side][from..end].iter().map(|r| f64::from(r[c])).sum::<f64>() / (end - from) as f64;
                    assert!((f64::from(*x) - mean).abs() < 1e-5, "head {h}, row {i}, channel {c}: {x} for {mean}");
                }
            }
        }
    }
    // Accumulated scores favour the first rows, so that few survivors take up what lies between.
    assert!(moved > 8, "rows that took others up: {moved}");
}

/// What a merge remembers of a head is the head's own, from the prompt on through every step, and so counted.
#[test]
fn a_merge_remembers_each_head_by_itself() {
    let pairs = [("kv.select", "h2o"), ("kv.budget.rows", "12"), ("run.context", "64")];
    let most = Arc::new(AtomicU32::new(0));
    let mut rig = rig(&pairs, Before { most: Arc::clone(&most) });
    let tokens = ids(60, 160);
    let mut seq = rig.prefill(&tokens[..30]).unwrap().0;
    let rows = rig.forward.pipeline.rows[0].bytes() as u64;
    assert_eq!(seq.layers[0].bytes(), 2 * (13 * rows + 4), "4 bytes a head");
    rig.decode(&mut seq, &tokens[30..]).unwrap();
    assert_eq!(most.load(Ordering::Relaxed), 1 + 30);
}
