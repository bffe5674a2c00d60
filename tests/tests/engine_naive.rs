//! The engine against an independent forward pass in f64: logits, cached keys, scores, and what the policies keep.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use ullage_core::forward::cpu::Sequence;
use ullage_core::model::Model;
use ullage_tests::naive::{Cache, Naive, Rows};
use ullage_tests::{Rig, bundled, config, ids, random};

/// Largest difference over the largest value.
fn difference(ours: &[f32], naive: &[f64]) -> f64 {
    let top = naive.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = ours.iter().zip(naive).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    worst / top.max(1e-30)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

fn models() -> Vec<(&'static str, Arc<Model>)> {
    vec![
        ("f32", random("tiny", "f32")),
        ("f16", random("tiny", "f16")),
        ("q4_0", random("tiny", "q4_0")),
        ("bundled", bundled()),
    ]
}

/// Every token attends to all before it, in prefill and decode, for every kind of head grouping and weight type here.
#[test]
fn logits_are_those_of_the_naive_pass() {
    for (name, model) in models() {
        let naive = Naive::new(&model);
        let tokens = ids(40, 160);
        let ours = Rig::new(&model, &config(&[("kv.format", "f32"), ("run.context", "64"), ("run.batch", "7")]))
            .unwrap()
            .logits(&tokens[..30], &tokens[30..]);
        let mut cache = naive.cache();
        let mut worst = 0.0f64;
        for (i, token) in tokens.iter().enumerate() {
            let (logits, _) = naive.step(*token, |_, _| i, &mut cache);
            if i >= 29 {
                worst = worst.max(difference(&ours[i - 29], &logits));
            }
        }
        println!("{name}: logits differ by at most {worst:.2e} of the largest");
        assert!(worst < 2e-5, "{name}: {worst:e}");
    }
}

/// U6: turning a cached key back by its position (mode A) gives the key before rotation; mode B stores that key itself.
#[test]
fn turned_back_by_its_position_a_key_is_the_one_before_rotation() {
    for (name, model) in [("tiny", random("tiny", "f32")), ("bundled", bundled())] {
        let naive = Naive::new(&model);
        let tokens = ids(48, 160);
        let mut cache = naive.cache();
        for (i, token) in tokens.iter().enumerate() {
            naive.step(*token, |_, _| i, &mut cache);
        }
        for (select, positions) in
            [("full", None), ("h2o", None), ("window", Some("original")), ("window", Some("reindex"))]
        {
            let mut pairs = vec![("kv.format", "f32"), ("kv.select", select), ("run.context", "64")];
            if select != "full" {
                pairs.push(("kv.budget.rows", "20"));
            }
            pairs.extend(positions.map(|p| ("kv.select.positions", p)));
            let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
            // Prefill alone: no layer has read a compressed history yet, so hidden states are the full model's.
            let seq = rig.prefill(&tokens).unwrap().0;
            for (l, layer) in cache.iter().enumerate() {
                for (h, expected) in layer.iter().enumerate() {
                    let kept: Vec<usize> = match select {
                        "full" => (0..48).collect(),
                        "h2o" => Rig::positions(&seq, l, h).into_iter().map(|p| p as usize).collect(),
                        _ => (0..4).chain(32..48).collect(),
                    };
                    for (row, position) in rig.keys(&seq, l, h).iter().zip(&kept) {
                        let back = if positions == Some("reindex") { 0.0 } else { -(*position as f64) };
                        let unturned: Vec<f32> = naive.turn(&wide(row), back).iter().map(|v| *v as f32).collect();
                        let off = difference(&unturned, &expected.k[*position]);
                        assert!(
                            off < 2e-5,
                            "{name} {select} {positions:?} layer {l} head {h} position {position}: {off:e}"
                        );
                    }
                    for (row, position) in rig.values(&seq, l, h).iter().zip(&kept) {
                        assert!(difference(row, &expected.v[*position]) < 2e-5, "values of {name} {select}");
                    }
                }
            }
        }
    }
}

/// The engine's own rows as a naive cache, each key turned back by its entry of `at` and to be read at `read`.
fn lift(
    rig: &Rig,
    naive: &Naive,
    seq: &Sequence,
    stored_at: impl Fn(usize) -> f64,
    read_at: impl Fn(usize) -> usize,
) -> Cache {
    let layer = |l: usize| {
        let head = |h: usize| Rows {
            k: rig.keys(seq, l, h).iter().enumerate().map(|(i, k)| naive.turn(&wide(k), -stored_at(i))).collect(),
            v: rig.values(seq, l, h).iter().map(|v| wide(v)).collect(),
            at: (0..seq.layers[l].rows(h)).map(&read_at).collect(),
        };
        (0..seq.layers[l].heads()).map(head).collect()
    };
    (0..seq.layers.len()).map(layer).collect()
}

/// Mode B is attention over the kept rows at positions 0, 1, 2 …, the query at the last; mode A the same rows at their true
/// positions. Checked against the naive pass over the engine's own rows, long after the first eviction, in every format.
#[test]
fn a_window_attends_to_its_kept_rows_at_the_right_positions() {
    let (sinks, quota, prompt) = (4usize, 24usize, 40usize);
    for (name, model) in [("tiny", random("tiny", "f16")), ("bundled", bundled())] {
        let naive = Naive::new(&model);
        for (format, allowed) in [("f32", 2e-5), ("f16", 2e-3), ("q8_0", 4e-2)] {
            for mode in ["reindex", "original"] {
                let config = config(&[
                    ("kv.select", "window"),
                    ("kv.select.positions", mode),
                    ("kv.budget.rows", "24"),
                    ("kv.format", format),
                    ("run.context", "48"),
                ]);
                let mut rig = Rig::new(&model, &config).unwrap();
                let tokens = ids(prompt + 100, 160);
                let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
                let mut worst = 0.0f64;
                for (i, token) in tokens.iter().enumerate().skip(prompt) {
                    let check = [0, 1, 30, 99].contains(&(i - prompt));
                    let mut cache = check.then(|| {
                        // Rows held: the sinks, then the tail up to token i − 1. Re-indexed ones are stored unturned.
                        let true_at = |row: usize| if row < sinks { row } else { i - quota + row };
                        let stored = |row: usize| if mode == "reindex" { 0.0 } else { true_at(row) as f64 };
                        let mut cache = lift(&rig, &naive, &seq, stored, true_at);
                        for rows in cache.iter_mut().flatten() {
                            // Room for the newcomer: the oldest row of the tail leaves.
                            rows.k.remove(sinks);
                            rows.v.remove(sinks);
                            rows.at.remove(sinks);
                            if mode == "reindex" {
                                rows.at = (0..rows.k.len()).collect();
                            }
                        }
                        cache
                    });
                    let ours = rig.decode(&mut seq, &[*token]).unwrap();
                    if let Some(cache) = &mut cache {
                        let at = if mode == "reindex" { quota - 1 } else { i };
                        let (logits, _) = naive.step(*token, |_, _| at, cache);
                        worst = worst.max(difference(&ours[0], &logits));
                    }
                }
                // Only the newcomer's own row is rounded by the format: the rows before it are read as they are stored.
                println!("{name} {format} {mode}: {worst:.2e}");
                assert!(worst < allowed, "{name} {format} {mode}: {worst:e}");
            }
        }
    }
}

/// U7: while nothing is dropped each head's scores sum to the number of queries, and each is the naive column sum.
#[test]
fn scores_are_column_sums_and_conserve_mass() {
    for (name, model) in [("tiny", random("tiny", "f32")), ("bundled", bundled())] {
        let naive = Naive::new(&model);
        let tokens = ids(60, 160);
        let group = model.shape.layers[0].attention.heads / model.shape.layers[0].attention.kv_heads;
        let mut sums: Vec<Vec<Vec<f64>>> =
            vec![vec![vec![0.0; 60]; model.shape.layers[0].attention.kv_heads]; model.shape.layers.len()];
        let mut cache = naive.cache();
        let mut at = [Vec::new(), Vec::new()];
        for (i, token) in tokens.iter().enumerate() {
            let (_, paid) = naive.step(*token, |_, _| i, &mut cache);
            for (l, heads) in paid.iter().enumerate() {
                for (h, p) in heads.iter().enumerate() {
                    p.iter().zip(&mut sums[l][h / group]).for_each(|(p, s)| *s += p / group as f64);
                }
            }
            if i == 44 || i == 59 {
                at[usize::from(i == 59)] = sums.clone();
            }
        }
        for batch in ["512", "7", "1"] {
            let config = config(&[
                ("kv.select", "h2o"),
                ("kv.budget.rows", "64"),
                ("kv.format", "f32"),
                ("run.context", "64"),
                ("run.batch", batch),
            ]);
            let mut rig = Rig::new(&model, &config).unwrap();
            let mut seq = rig.prefill(&tokens[..45]).unwrap().0;
            for (phase, queries) in [(0, 45), (1, 60)] {
                let from = seq.seen;
                rig.decode(&mut seq, &tokens[from..queries]).unwrap();
                for (l, heads) in at[phase].iter().enumerate() {
                    for (h, expected) in heads.iter().enumerate() {
                        let scores = Rig::scores(&mut seq, l, h);
                        let sum: f64 = scores.iter().map(|v| f64::from(*v)).sum();
                        assert!(
                            (sum - queries as f64).abs() < 1e-3,
                            "{name}, batch {batch}: {sum} after {queries} queries"
                        );
                        for (row, (s, e)) in scores.iter().zip(expected).enumerate() {
                            assert!(
                                (f64::from(*s) - e).abs() < 1e-4 * e.max(1.0),
                                "{name}, batch {batch}, layer {l} head {h} row {row}: {s} for {e}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// One head's naive H2O state: the positions kept and their scores, beside its rows.
struct Heavy {
    rows: Rows,
    scores: Vec<f64>,
}

impl Heavy {
    /// Keeps the `heavy` best of all but the last `recent`, and those; returns the mass dropped.
    fn evict(&mut self, heavy: usize, recent: usize) -> f64 {
        let n = self.scores.len();
        if n <= heavy + recent {
            return 0.0;
        }
        let mut best: Vec<usize> = (0..n - recent).collect();
        best.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]).then(a.cmp(b)));
        best.truncate(heavy);
        best.sort_unstable();
        best.extend(n - recent..n);
        let before: f64 = self.scores.iter().sum();
        self.scores = best.iter().map(|i| self.scores[*i]).collect();
        self.rows = Rows {
            k: best.iter().map(|i| self.rows.k[*i].clone()).collect(),
            v: best.iter().map(|i| self.rows.v[*i].clone()).collect(),
            at: best.iter().map(|i| self.rows.at[*i]).collect(),
        };
        before - self.scores.iter().sum::<f64>()
    }
}

/// H2O as the paper says, run by hand beside the engine: the set kept after the prompt, then every step's sets, scores and
/// logits, with the budget that the prompt fixed.
#[test]
fn h2o_keeps_what_a_naive_h2o_keeps() {
    // Heads in groups of 3 and of 2; 0.2 and 0.1 of 50 are 10 and 5 rows.
    for (name, model) in [("tiny", random("tiny", "f32")), ("bundled", bundled())] {
        let naive = Naive::new(&model);
        let (prompt, steps, heavy, recent) = (50, 40, 10, 5);
        let tokens = ids(prompt + steps, 160);
        let config = config(&[
            ("kv.select", "h2o"),
            ("kv.select.heavy_ratio", "0.2"),
            ("kv.select.recent_ratio", "0.1"),
            ("kv.format", "f32"),
            ("run.context", "128"),
            ("run.batch", "16"),
        ]);
        let mut rig = Rig::new(&model, &config).unwrap();
        let group = model.shape.layers[0].attention.heads / model.shape.layers[0].attention.kv_heads;
        let shapes = &model.shape.layers;
        let mut state: Vec<Vec<Heavy>> = shapes
            .iter()
            .map(|l| (0..l.attention.kv_heads).map(|_| Heavy { rows: Rows::default(), scores: Vec::new() }).collect())
            .collect();
        let (mut seq, first) = rig.prefill(&tokens[..prompt]).unwrap();
        let mut ours = vec![first];
        let mut dropped = 0.0;
        for (i, token) in tokens.iter().enumerate() {
            let mut cache: Cache = state.iter().map(|l| l.iter().map(|h| h.rows.clone()).collect()).collect();
            let (logits, paid) = naive.step(*token, |_, _| i, &mut cache);
            for (l, heads) in state.iter_mut().enumerate() {
                for (h, head) in heads.iter_mut().enumerate() {
                    head.rows = cache[l][h].clone();
                    head.scores.push(0.0);
                    for p in &paid[l][h * group..(h + 1) * group] {
                        p.iter().zip(&mut head.scores).for_each(|(p, s)| *s += p / group as f64);
                    }
                    if i + 1 >= prompt {
                        dropped += head.evict(heavy, recent);
                    }
                }
            }
            if i + 1 < prompt {
                continue;
            }
            if i + 1 > prompt {
                ours = rig.decode(&mut seq, &[*token]).unwrap();
            }
            let off = difference(&ours[0], &logits);
            assert!(off < 1e-4, "{name}: logits after token {i} differ by {off:e}");
            for (l, heads) in state.iter().enumerate() {
                for (h, head) in heads.iter().enumerate() {
                    let kept: Vec<usize> = Rig::positions(&seq, l, h).into_iter().map(|p| p as usize).collect();
                    assert_eq!(kept, head.rows.at, "{name}: layer {l}, head {h}, after token {i}");
                    for (s, e) in Rig::scores(&mut seq, l, h).iter().zip(&head.scores) {
                        assert!((f64::from(*s) - e).abs() < 1e-3, "{name}: a score of {s} for {e}");
                    }
                }
            }
        }
        // U7 after eviction: what is left is the queries less what was dropped.
        let left: f64 = state.iter().flatten().flat_map(|h| &h.scores).sum();
        let queries = ((prompt + steps) * shapes.len() * shapes[0].attention.kv_heads) as f64;
        assert!((left - (queries - dropped)).abs() < 1e-6 * queries);
    }
}
