//! Tiles that are skipped, with the vocabulary as it is and sorted: how many, and what they cost.

use std::sync::{Arc, Mutex};

use super::*;
use crate::device::Sizes;
use crate::device::cpu::Cpu;
use crate::ledger::Ledger;
use crate::ops::ThreadTeam;
use crate::rng::Philox;
use crate::train::engine::Techniques;
use crate::train::learner::{Param, Rules};
use crate::train::tests::{config, trainer};

const TAG: Tag = Tag::device(Category::Workspace, "test");
const ROWS: usize = 24;
const HIDDEN: usize = 16;
const VOCAB: usize = 1000;
const SCALE: f32 = 1.0 / ROWS as f32;

/// What one pass of the head gave.
struct Passed {
    loss: f64,
    dx: Vec<f32>,
    dw: Vec<f32>,
    /// How often each operation ran.
    ran: Vec<(&'static str, usize)>,
}

impl Passed {
    fn count(&self, name: &str) -> usize {
        self.ran.iter().filter(|(n, _)| *n == name).map(|(_, c)| c).sum()
    }
}

/// Few entries of the vocabulary, spread all over it, have nearly all of the probability: the head's rows `(VOCAB, HIDDEN)`,
/// tokens `(ROWS, HIDDEN)` and targets, most of them likely ones.
fn peaked() -> (Vec<f32>, Vec<f32>, Vec<u32>) {
    let random = Philox::new(5);
    let mut w: Vec<f32> = (0..(VOCAB * HIDDEN) as u64).map(|i| random.uniform(i) - 0.5).collect();
    let likely = |i: usize| i % 97 == 13;
    for (i, row) in w.chunks_mut(HIDDEN).enumerate() {
        row[0] = if likely(i) { 6.0 } else { -6.0 };
    }
    let mut x: Vec<f32> = (0..(ROWS * HIDDEN) as u64).map(|i| random.uniform(1 << 32 | i) - 0.5).collect();
    x.chunks_mut(HIDDEN).for_each(|row| row[0] = 3.0);
    (w, x, (0..ROWS as u32).map(|i| 13 + 97 * (i % 10)).collect())
}

/// One pass of a head that learns.
fn pass(tile: Tile, threads: usize) -> Passed {
    let (w, x, targets) = peaked();
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let team = Arc::new(ThreadTeam::new(threads).unwrap());
    let sizes = Sizes { rows: ROWS, cols: HIDDEN, hidden: HIDDEN, outputs: VOCAB, ..Sizes::default() };
    let device = Cpu::new(&ledger, &team, &sizes).unwrap();
    let d: &dyn Device = &device;
    let floats = |values: &[f32]| {
        let mut buf = d.buffer(TAG, BlockType::F32, values.len()).unwrap();
        d.upload(bytemuck::cast_slice(values), buf.all_mut()).unwrap();
        buf
    };
    let train = config(&[("train.params", "full"), ("train.optimizer", "sgd")]).train.unwrap();
    let rules =
        Rules { hold: train.grad_hold, clip: train.clip, round: train.round, seed: 0, gradients: BlockType::F32 };
    let mut learner = Learner::new(Techniques::new(&train).unwrap().optimizer, rules);
    learner.add(Param::new("head".into(), floats(&w), VOCAB, HIDDEN, 0, 0, true));
    learner.hold(d, 1, true).unwrap();
    learner.begin(1, 0.0);
    let (x, mut dx) = (floats(&x), floats(&[0.0; ROWS * HIDDEN]));
    let mut ids = d.buffer(TAG, BlockType::I32, ROWS).unwrap();
    d.upload(bytemuck::cast_slice(&targets), ids.all_mut()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::<&'static str>::new()));
    let hears = Arc::clone(&seen);
    d.meter().observe(Some(Box::new(move |span| hears.lock().unwrap().push(span.name))));
    let backward = Backward { hidden: HIDDEN, vocab: VOCAB, learns: true };
    let mut head = Head::new(d, tile, ROWS, None, Some(backward)).unwrap();
    let call = HeadCall { d, x: &x, targets: &ids, rows: ROWS, hidden: HIDDEN, vocab: VOCAB };
    let grad = HeadGrad { dx: &mut dx, parameter: Some(0), scale: SCALE };
    let loss = head.run(&call, HeadWeight::Learns(0), &mut learner, Some(grad), None).unwrap();
    let read = |x: Src<'_>, n: usize| {
        let mut out = vec![0.0f32; n];
        d.download(x, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    };
    let (dx, dw) = (read(dx.all(), ROWS * HIDDEN), read(learner.gradient(0).unwrap(), VOCAB * HIDDEN));
    let mut ran: Vec<(&'static str, usize)> = Vec::new();
    for name in seen.lock().unwrap().iter() {
        match ran.iter_mut().find(|(n, _)| n == name) {
            Some((_, count)) => *count += 1,
            None => ran.push((name, 1)),
        }
    }
    Passed { loss, dx, dw, ran }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn tiles_below_the_threshold_are_skipped_and_sorting_lets_more_of_them_be() {
    let whole = pass(Tile { rows: ROWS, vocab: VOCAB, eps: 0.0, sort: false }, 2);
    assert!(whole.dw.iter().filter(|v| **v != 0.0).count() > VOCAB * HIDDEN / 2, "the reference skips nothing");
    // Tiles of 8 × 50: three of tokens by twenty of the vocabulary, eleven of which hold a likely entry.
    let tile = Tile { rows: 8, vocab: 50, eps: 1e-6, sort: false };
    let every = pass(Tile { eps: 0.0, ..tile }, 2);
    assert_eq!((every.count("linear dx"), every.count("linear dw")), (60, 60));
    let plain = pass(tile, 2);
    assert_eq!((plain.count("linear dx"), plain.count("linear dw")), (33, 33), "{:?}", plain.ran);
    assert_eq!(plain.count("linear"), 60 + 33, "what is skipped is not computed again");
    let sorted = pass(Tile { sort: true, ..tile }, 2);
    // All eleven likely entries are in the first tile.
    assert_eq!((sorted.count("linear dx"), sorted.count("linear dw")), (3, 3), "{:?}", sorted.ran);
    for (name, got) in [("every tile", &every), ("as it is", &plain), ("sorted", &sorted)] {
        assert!((got.loss / whole.loss - 1.0).abs() < 1e-6, "{name}: {} {}", got.loss, whole.loss);
        // A probability that is left out is below 1e-6: an element of dx misses at most that of every entry, of dw of every row.
        let (left_out, rounding) = (if name == "every tile" { 0.0 } else { 1e-6 }, 5e-5);
        assert!(furthest(&got.dx, &whole.dx) <= SCALE * (left_out * VOCAB as f32 * 6.0 + rounding), "{name}: dx");
        assert!(furthest(&got.dw, &whole.dw) <= SCALE * (left_out * ROWS as f32 * 3.0 + rounding), "{name}: dw");
    }
    assert!(plain.dw != whole.dw && sorted.dw != whole.dw, "something was skipped");
}

/// Sorted and not, nothing skipped: the same sums in another order.
#[test]
fn sorting_changes_no_more_than_rounding_and_nothing_by_threads() {
    let tile = Tile { rows: 7, vocab: 90, eps: f32::MIN_POSITIVE, sort: false };
    let (plain, sorted) = (pass(tile, 2), pass(Tile { sort: true, ..tile }, 2));
    let tiles = VOCAB.div_ceil(Tile { sort: true, ..tile }.learning(HIDDEN, VOCAB).vocab);
    assert_eq!((plain.count("linear dx"), sorted.count("linear dx")), (4 * VOCAB.div_ceil(90), 4 * tiles));
    assert!((plain.loss / sorted.loss - 1.0).abs() < 1e-6);
    assert!(furthest(&plain.dx, &sorted.dx) <= 1e-6 && furthest(&plain.dw, &sorted.dw) <= 1e-6);
    let alone = pass(Tile { sort: true, ..tile }, 1);
    assert!(alone.dx == sorted.dx && alone.dw == sorted.dw && alone.loss == sorted.loss);
}

/// A sorted tile and its gathered rows take no more than the tile alone did; beside them is what the paper keeps: a logit and a
/// number for each entry.
#[test]
fn the_order_takes_eight_bytes_an_entry_and_the_plan_says_so() {
    let shape = crate::train::tests::shape(BlockType::F32, true);
    let base = [("train.params", "lora"), ("train.loss", "cut"), ("train.loss.block_n", "60")];
    let mut taken = Vec::new();
    for sort in ["false", "true"] {
        let sets = [&base[..], &[("train.loss.block_v", "70"), ("train.loss.sort_vocab", sort)]].concat();
        let config = config(&sets);
        let (mut t, ledger) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        t.backprop(&[crate::train::tests::batch(3, 1)], 1, 0.01, &mut |_| ()).unwrap();
        let planned = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        crate::train::plan::walk(&config, &shape, &planned, None).unwrap();
        let (planned, measured) = (planned.measured(), ledger.measured());
        assert_eq!(planned.tiers[&crate::ledger::Tier::Device], measured.tiers[&crate::ledger::Tier::Device]);
        let row = |tag: Tag| measured.rows.get(&format!("device.logits.{}", tag.name)).copied().unwrap_or(0);
        taken.push([LOGITS, GATHERED, ORDER].map(row));
    }
    let [plain, sorted] = taken[..] else { panic!("{taken:?}") };
    assert_eq!(plain, [4 * 60 * 70, 0, 0]);
    assert_eq!(sorted[2], (8 * shape.vocab + 4 * shape.hidden) as u64);
    // 60 · 70 / (60 + 64) is below the least of 64.
    assert_eq!(sorted[..2], [4 * 60 * 64, 4 * 64 * 64]);
    let tile = Tile { rows: 256, vocab: 4096, eps: 1e-9, sort: true };
    let narrow = tile.learning(576, 49152);
    assert_eq!(narrow.vocab, 256 * 4096 / (256 + 576));
    assert!(narrow.vocab * (256 + 576) <= 256 * 4096);
}

#[test]
fn a_plan_walks_one_of_the_pieces_that_are_alike() {
    let ledger = crate::ledger::Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let dry = crate::device::dry::Dry::new(&ledger, 0, 0).unwrap();
    for (whole, wide) in [(0, 3), (1, 3), (3, 3), (4, 3), (6, 3), (7, 3), (9, 3), (1 << 32, 1), (1 << 32, 7)] {
        let all: Vec<_> = super::pieces(&dry, whole, wide).collect();
        assert!(all.len() <= 3, "{whole} by {wide}: {all:?}");
        let sum: usize = all.iter().map(|(_, n, times)| n * times).sum();
        let count: usize = all.iter().map(|(.., times)| times).sum();
        assert_eq!((sum, count), (whole, whole.div_ceil(wide)), "{whole} by {wide}: {all:?}");
    }
}
