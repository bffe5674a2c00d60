//! Ada-KV against NumPy (`scripts/make_adakv.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::{HeadView, Ranks, Seen};
use ullage_tests::kv::{TINY, bytes, indices, numbers, pipeline, plan_holds, reference};
use ullage_tests::{Rig, assert_same, bundled, config, ids};

const N: usize = 60;
const W: usize = 8;
const SNAP: &str =
    "{ use = \"snapkv\", window_size = 8, kernel_size = 7, pooling = \"maxpool\", max_capacity_prompt = CAP }";

/// What each head of `counts` heads gets of a layer.
fn shares(adakv: &str, scores: &[f32], stride: usize, candidates: usize, each: usize, counts: usize) -> Vec<usize> {
    let snap = SNAP.replace("CAP", "20");
    let p = pipeline(&[("kv.select", &snap), ("kv.split", adakv)]).unwrap();
    let share = p.split.share().unwrap();
    let mut scratch = vec![0; share.scratch(counts, stride)];
    let mut out = vec![0; counts];
    share.share(Ranks { scores, stride, candidates, each }, &mut scratch, &mut out);
    assert!(out.iter().all(|n| *n <= share.most(counts, candidates, each)), "{out:?}");
    out
}

#[test]
fn shares_and_rows_are_numpys() {
    let reference = reference("adakv");
    let (heads, kv_heads, _) = TINY;
    let sums: Vec<f32> = reference["sums"].as_array().unwrap().iter().flat_map(numbers).map(|x| x as f32).collect();
    let group = heads / kv_heads;
    for case in reference["cases"].as_array().unwrap() {
        let capacity = case["capacity"].as_u64().unwrap() as usize;
        let adakv =
            format!("{{ use = \"adakv\", floor_alpha = {}, normalize = {} }}", case["floor_alpha"], case["normalize"]);
        let snap = SNAP.replace("CAP", &capacity.to_string());
        let p = pipeline(&[("kv.select", &snap), ("kv.split", &adakv)]).unwrap();
        let mut ranks = vec![0.0; kv_heads * N];
        for (h, ranks) in ranks.chunks_exact_mut(N).enumerate() {
            p.select.rank(Seen { rows: N, window: &sums[h * group * N..], stride: N, group, queries: W }, ranks);
        }
        let got = shares(&adakv, &ranks, N, N - W, capacity - W, kv_heads);
        assert_eq!(got.iter().map(|n| *n as u32).collect::<Vec<_>>(), indices(&case["shares"]), "{adakv}");
        for (h, expected) in case["kept"].as_array().unwrap().iter().enumerate() {
            let mut keep = vec![0; N];
            let view =
                HeadView { rows: N, scores: &ranks[h * N..(h + 1) * N], quota: got[h] + W, newcomers: 0, prompt: N };
            let n = p.select.keep(view, &mut keep);
            assert_eq!(keep[..n], indices(expected), "{adakv}, head {h}");
        }
    }
}

/// kv.md, A4, and the laws of any sharing.
#[test]
fn shares_add_up_keep_the_floor_follow_the_heads_and_lose_least() {
    let scores = [0.30, 0.25, 0.20, 0.10, 0.08, 0.07, 0.60, 0.10, 0.09, 0.08, 0.07, 0.06];
    assert_eq!(shares("{ use = \"adakv\", floor_alpha = 0.0 }", &scores, 6, 6, 2, 2), [3, 1]);
    assert_eq!(shares("{ use = \"adakv\", floor_alpha = 0.5 }", &scores, 6, 6, 2, 2), [3, 1]);
    assert_eq!(shares("{ use = \"adakv\", floor_alpha = 1.0 }", &scores, 6, 6, 2, 2), [2, 2]);
    for seed in 0..30usize {
        let (heads, rows, each) = (4, 20, 3 + seed % 9);
        let scores: Vec<f32> =
            (0..heads * rows).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 * (i / rows + 1) as f32).collect();
        for floor in [0.0, 0.3, 0.7, 1.0] {
            let adakv = format!("{{ use = \"adakv\", floor_alpha = {floor:?} }}");
            let got = shares(&adakv, &scores, rows, rows, each, heads);
            assert_eq!(got.iter().sum::<usize>(), heads * each, "{got:?}");
            assert!(got.iter().all(|n| *n >= (each as f64 * floor) as usize && *n <= rows), "{got:?}");
            let turned: Vec<f32> = scores.chunks(rows).rev().flatten().copied().collect();
            let mut back = shares(&adakv, &turned, rows, rows, each, heads);
            back.reverse();
            assert_eq!(back, got, "heads in another order get the same");
            let kept = |counts: &[usize]| -> f32 {
                let best = |(h, n): (usize, &usize)| {
                    let mut own = scores[h * rows..(h + 1) * rows].to_vec();
                    own.sort_by(|a, b| b.total_cmp(a));
                    own[..*n].iter().sum::<f32>()
                };
                counts.iter().enumerate().map(best).sum()
            };
            assert!(kept(&got) >= kept(&[each; 4]) - 1e-3, "no less than even shares keep");
        }
    }
}

/// Heads really hold different numbers of rows, each in its own room; the layer's sum is the plan's.
#[test]
fn heads_are_stored_as_long_as_they_are() {
    let model = bundled();
    let tokens = ids(200, 1000);
    let knobs = "{ use = \"snapkv\", window_size = 8, max_capacity_prompt = 40 }";
    let rig = |split: &str, alloc: &str| {
        let block = if alloc == "paged" {
            [("kv.alloc", "paged"), ("kv.alloc.block", "1")]
        } else {
            [("kv.alloc", "contiguous"), ("run.batch", "64")]
        };
        let pairs = [("kv.select", knobs), ("kv.split", split), ("run.context", "256"), block[0], block[1]];
        Rig::new(&model, &config(&pairs)).unwrap()
    };
    let mut ragged = 0;
    for alloc in ["contiguous", "paged"] {
        let mut rig = rig("adakv", alloc);
        let row = rig.forward.pipeline.rows[0].bytes() as u64;
        let (mut seq, _) = rig.prefill(&tokens[..150]).unwrap();
        let (layers, heads) = (seq.layers.len() as u64, seq.layers[0].heads());
        let grown = if alloc == "paged" { 0 } else { 256 - 150 };
        assert_eq!(bytes(&seq), layers * heads as u64 * (40 + grown) * row);
        assert_eq!(bytes(&seq), rig.forward.pipeline.sequence_bytes(150, 150));
        for l in &seq.layers {
            let rows: Vec<usize> = (0..heads).map(|h| l.rows(h)).collect();
            assert_eq!(rows.iter().sum::<usize>(), heads * 40);
            assert!(rows.iter().all(|n| *n >= 8 + 6), "{rows:?}: the floor and the window");
            ragged += usize::from(rows.iter().any(|n| *n != 40));
        }
        rig.decode(&mut seq, &tokens[150..]).unwrap();
        assert_eq!(bytes(&seq), rig.forward.pipeline.sequence_bytes(150, 200));
        for l in &seq.layers {
            assert_eq!((0..heads).map(|h| l.rows(h)).sum::<usize>(), heads * 90);
        }
    }
    assert!(ragged > 8, "layers with heads of different lengths: {ragged}");
    // All even is SnapKV.
    let even = rig("{ use = \"adakv\", floor_alpha = 1.0 }", "paged").logits(&tokens[..150], &tokens[150..]);
    assert_same(&even, &rig("uniform", "paged").logits(&tokens[..150], &tokens[150..]), "floor_alpha = 1");
    let free = rig("adakv", "paged").logits(&tokens[..150], &tokens[150..]);
    assert!(free.iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn the_plan_holds_and_what_cannot_be_shared_is_refused() {
    let model = bundled();
    for alloc in ["contiguous", "paged"] {
        for sequences in ["1", "3"] {
            plan_holds(
                &model,
                &config(&[
                    ("kv.select", "{ use = \"snapkv\", window_size = 16, max_capacity_prompt = 64 }"),
                    ("kv.split", "adakv"),
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
        (&[("kv.split", "adakv")][..], "ranks none"),
        (&[("kv.split", "adakv"), ("kv.select", "h2o")], "at every step"),
    ] {
        let error = pipeline(pairs).err().unwrap().to_string();
        assert!(error.contains("kv.split = adakv") && error.contains(word), "{error}");
    }
}
