//! D2O's merging against NumPy (`scripts/make_d2o.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::cache::LayerCache;
use ullage_core::kv::{Fold, HeadView, Pipeline};
use ullage_core::ledger::Ledger;
use ullage_tests::kv::{TINY, bytes, indices, numbers, pipeline, plan_holds, reference, values, weighted};
use ullage_tests::{Rig, assert_same, bundled, config, ids};

const N: usize = 40;

fn d2o(how: &str, self_weight: f64) -> Pipeline {
    let merge = format!("{{ use = \"d2o\", merge = \"{how}\", self_weight = {self_weight:?} }}");
    let pairs = [
        ("kv.select", "{ use = \"h2o\", hh_size = 9, recent_size = 6, n_sink = 4 }"),
        ("kv.merge", merge.as_str()),
        ("kv.format", "f32"),
        ("run.context", "64"),
    ];
    pipeline(&pairs).unwrap()
}

/// A head's rows outside any pass, with what the merge remembers.
struct Head {
    p: Pipeline,
    cache: LayerCache,
    state: [u8; 4],
}

impl Head {
    fn new(p: Pipeline) -> Self {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        // Its last layer, which the merge leaves whole, has room for every row.
        let cache = p.sequence(&ledger, N).unwrap().pop().unwrap();
        Self { p, cache, state: [0; 4] }
    }

    fn append(&mut self, k: &[f32], v: &[f32], first: usize) {
        let (d, rows) = (TINY.2, k.len() / TINY.2);
        let held = self.cache.rows(0);
        self.cache.ensure(0, held + rows).unwrap();
        self.cache.append(0, k, v, d, first, rows);
    }

    /// Lets the policy choose by `scores`, merges and drops: rows kept, and which went into which.
    fn drop_rows(&mut self, scores: &[f32]) -> (Vec<u32>, Vec<(u32, u32)>) {
        let rows = self.cache.rows(0);
        let mut keep = vec![0; rows];
        let n = self.p.select.keep(HeadView { rows, scores, quota: 15, newcomers: 0, prompt: N }, &mut keep);
        keep.truncate(n);
        let mut scratch = vec![0.0; self.p.merge.scratch(rows, TINY.2)];
        let mut pairs = Vec::new();
        let fold = Fold {
            cache: &mut self.cache,
            head: 0,
            kept: &keep,
            scores,
            state: &mut self.state,
            scratch: &mut scratch,
        };
        self.p.merge.fold(fold, &mut |_, row, into| pairs.push((row, into))).unwrap();
        self.cache.retain(0, &keep);
        (keep, pairs)
    }

    fn rows(&self) -> [Vec<f32>; 2] {
        let n = self.cache.rows(0) * TINY.2;
        let (mut k, mut v) = (vec![0.0; n], vec![0.0; n]);
        self.cache.keys(0, 0, n / TINY.2, &mut k);
        self.cache.values(0, 0, n / TINY.2, &mut v);
        [k, v]
    }
}

/// Keys of which neighbours are alike, and values.
fn inputs(n: usize) -> (Vec<f32>, Vec<f32>) {
    let d = TINY.2;
    let raw = values(41, n * d);
    let mut k = raw.clone();
    k.iter_mut().skip(d).zip(&raw).for_each(|(k, before)| *k += 1.5 * before);
    (k, values(42, n * d))
}

#[test]
fn merged_rows_and_thresholds_are_numpys() {
    let d = TINY.2;
    let (k, v) = inputs(N + 3);
    let scores: Vec<f32> = values(43, N + 3).iter().map(|x| x.abs()).collect();
    for case in reference("d2o")["cases"].as_array().unwrap() {
        let mut head = Head::new(d2o(case["merge"].as_str().unwrap(), case["self_weight"].as_f64().unwrap()));
        let mut s = scores[..N].to_vec();
        head.append(&k[..N * d], &v[..N * d], 0);
        for (step, expected) in case["steps"].as_array().unwrap().iter().enumerate() {
            if step > 0 {
                let at = N + step - 1;
                head.append(&k[at * d..(at + 1) * d], &v[at * d..(at + 1) * d], at);
                s.push(scores[at]);
            }
            let (kept, mut pairs) = head.drop_rows(&s);
            assert_eq!(kept, indices(&expected["kept"]), "step {step}");
            pairs.sort_unstable();
            let theirs: Vec<(u32, u32)> =
                expected["pairs"].as_array().unwrap().iter().map(|p| (indices(p)[0], indices(p)[1])).collect();
            assert_eq!(pairs, theirs, "step {step}");
            let tau = f32::from_le_bytes(head.state);
            assert!((f64::from(tau) - expected["tau"].as_f64().unwrap()).abs() < 1e-5, "{tau} for {}", expected["tau"]);
            let [keys, values] = head.rows();
            for (name, ours) in [("keys", keys), ("values", values)] {
                for (row, (x, e)) in ours.chunks(d).zip(numbers(&expected[name])).enumerate() {
                    assert!((weighted(x) - e).abs() < 2e-3, "step {step}, {name} {row}: {} for {e}", weighted(x));
                }
            }
            s = kept.iter().map(|r| s[*r as usize]).collect();
        }
    }
}

/// kv.md §3.0: a row like its keeper changes nothing, a merged row is no longer than the longest, and a threshold that none reaches is
/// plain eviction.
#[test]
fn merging_is_convex_and_a_row_like_its_keeper_changes_nothing() {
    let d = TINY.2;
    let (k, v) = inputs(N);
    let scores: Vec<f32> = values(43, N).iter().map(|x| x.abs()).collect();
    let mut head = Head::new(d2o("paper", std::f64::consts::E));
    let same: Vec<f32> = (0..N).flat_map(|_| k[..d].to_vec()).collect();
    head.append(&same, &same, 0);
    let (_, pairs) = head.drop_rows(&scores);
    assert_eq!(pairs.len(), N - 15, "all are alike");
    for x in head.rows().iter().flat_map(|r| r.chunks(d)) {
        assert!(x.iter().zip(&k[..d]).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs().max(1.0)));
    }
    let mut head = Head::new(d2o("paper", std::f64::consts::E));
    head.append(&k, &v, 0);
    let (kept, pairs) = head.drop_rows(&scores);
    assert!(!pairs.is_empty() && pairs.len() < N - 15, "some merge and some go: {}", pairs.len());
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (i, (x, row)) in head.rows()[0].chunks(d).zip(&kept).enumerate() {
        let of = |r: u32| norm(&k[r as usize * d..(r as usize + 1) * d]);
        let most = pairs.iter().filter(|p| p.1 == *row).map(|p| of(p.0)).fold(of(*row), f32::max);
        assert!(norm(x) <= most * 1.0001, "row {i}: {} above {most}", norm(x));
        if pairs.iter().all(|p| p.1 != *row) {
            assert_eq!(x, &k[*row as usize * d..(*row as usize + 1) * d], "nothing went into it");
        }
    }
}

/// On a real pass: protected layers stay whole, the others are as plain eviction leaves them in number, and numbers move.
#[test]
fn a_real_pass_merges_where_it_may() {
    let model = bundled();
    let tokens = ids(160, 1000);
    let rig = |merge: &str| {
        let pairs = [
            ("kv.select", "{ use = \"h2o\", hh_size = 30, recent_size = 10, n_sink = 4 }"),
            ("kv.merge", merge),
            ("run.context", "192"),
            ("run.batch", "32"),
        ];
        Rig::new(&model, &config(&pairs)).unwrap()
    };
    let mut merging = rig("d2o");
    let (mut seq, _) = merging.prefill(&tokens[..120]).unwrap();
    merging.decode(&mut seq, &tokens[120..]).unwrap();
    let last = seq.layers.len() - 1;
    for (l, layer) in seq.layers.iter().enumerate() {
        for h in 0..layer.heads() {
            let whole = l < 2 || l == last;
            assert_eq!(layer.rows(h), if whole { 160 } else { 40 }, "layer {l}");
            let held = Rig::positions(&seq, l, h);
            assert!(held.windows(2).all(|w| w[0] < w[1]) && held.starts_with(&[0, 1, 2, 3]), "sinks stay: {held:?}");
        }
    }
    assert!(!merging.forward.pipeline.endless(120), "layers that stay whole end with the context");
    let state = 4 * (seq.layers.len() * seq.layers[0].heads()) as u64;
    let plain = "{ use = \"d2o\", self_weight = 1000.0 }";
    let one = merging.logits(&tokens[..120], &tokens[120..]);
    let other = rig(plain).logits(&tokens[..120], &tokens[120..]);
    assert!(one[1] != other[1], "how much a row weighs is in the logits");
    assert_same(&one, &rig("d2o").logits(&tokens[..120], &tokens[120..]), "from a fresh state, the same");
    assert_eq!(bytes(&seq), merging.forward.pipeline.sequence_bytes(120, 160));
    let rooms: u64 = (0..=last).map(|l| merging.forward.pipeline.layer_bytes(l, 120, 160)).sum();
    assert!(rooms > state);
}

#[test]
fn the_plan_holds_and_what_drops_nothing_is_refused() {
    let model = bundled();
    for alloc in ["contiguous", "paged"] {
        for sequences in ["1", "3"] {
            plan_holds(
                &model,
                &config(&[
                    ("kv.select", "{ use = \"h2o\", heavy_ratio = 0.15, recent_ratio = 0.05, n_sink = 4 }"),
                    ("kv.merge", "d2o"),
                    ("kv.alloc", alloc),
                    ("run.sequences", sequences),
                    ("run.prompt", "tokens:300"),
                    ("run.max_tokens", "40"),
                    ("run.context", "512"),
                    ("run.ignore_eos", "true"),
                ]),
            );
        }
    }
    for (pairs, word) in [
        (vec![("kv.merge", "d2o")], "full"),
        (vec![("kv.merge", "d2o"), ("kv.select", "window")], "positions = original"),
    ] {
        let error = pipeline(&pairs).err().unwrap().to_string();
        assert!(error.contains("kv.merge = d2o") && error.contains(word), "{error}");
    }
}
