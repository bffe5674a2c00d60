//! SnapKV against NumPy (`scripts/make_snapkv.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::{HeadView, Seen};
use ullage_core::ops::ThreadTeam;
use ullage_core::ops::cpu::{Aggregate, Attention, Observe, Window, attend};
use ullage_tests::kv::{Plain, TINY, bytes, indices, numbers, pipeline, plan_holds, reference, values};
use ullage_tests::{Rig, assert_same, bundled, config, ids};

const N: usize = 60;
const W: usize = 8;

/// Sums of the attention of the last `W` of `N` queries, which come in batches.
fn window_sums(batches: &[usize]) -> Vec<f32> {
    let (heads, kv_heads, dim) = TINY;
    let q: Vec<f32> = values(1, N * heads * dim).iter().map(|x| 4.0 * x).collect();
    let all =
        Plain { heads: kv_heads, dim, rows: 0, k: values(2, N * kv_heads * dim), v: vec![0.0; N * kv_heads * dim] };
    let team = ThreadTeam::new(2).unwrap();
    let mut sums = vec![0.0; heads * N];
    let mut first = 0;
    for tokens in batches {
        let kv = Plain { rows: first + tokens, k: all.k.clone(), v: all.v.clone(), ..all };
        let shape = Attention {
            heads,
            kv_heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            window: None,
            cap: None,
            tokens: *tokens,
        };
        let window = Window { sums: &mut sums, stride: N, from: (N - W).saturating_sub(first) };
        let (columns, rows, map) = (None, None, None);
        let observe =
            Observe { columns, aggregate: Aggregate::Mean, rows, last: 0, map, stride: N, window: Some(window) };
        let mut scratch = vec![0.0; shape.scratch(2, N)];
        let mut out = vec![0.0; tokens * heads * dim];
        attend(&team, &q[first * heads * dim..], &kv, shape, &mut out, &mut scratch, Some(observe)).unwrap();
        first += tokens;
    }
    sums
}

#[test]
fn rows_kept_are_numpys() {
    let reference = reference("snapkv");
    let sums = window_sums(&[N]);
    for batches in [&[25, 30, 5][..], &[53, 7], &[1; N]] {
        for (a, b) in window_sums(batches).iter().zip(&sums) {
            assert!((a - b).abs() < 1e-5, "sums do not depend on batches: {a} and {b}");
        }
    }
    let (heads, kv_heads, _) = TINY;
    for (h, expected) in reference["sums"].as_array().unwrap().iter().enumerate() {
        for (a, b) in sums[h * N..(h + 1) * N].iter().zip(numbers(expected)) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "head {h}: {a} for {b}");
        }
    }
    for case in reference["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].to_string().trim_matches('"').to_owned();
        let knobs = format!(
            "{{ use = \"snapkv\", window_size = {W}, kernel_size = {}, pooling = \"{}\", gqa_agg = \"{}\", max_capacity_prompt = {} }}",
            text("kernel_size"),
            text("pooling"),
            text("gqa_agg"),
            text("capacity")
        );
        let select = pipeline(&[("kv.select", knobs.as_str())]).unwrap().select;
        let group = heads / kv_heads;
        for (h, kept) in case["kept"].as_array().unwrap().iter().enumerate() {
            let mut ranks = vec![0.0; N];
            let window = &sums[h * group * N..];
            select.rank(Seen { rows: N, window, stride: N, group, queries: W }, &mut ranks);
            let quota = select.own_rows(N).unwrap();
            let mut keep = vec![0; N];
            let n = select.keep(HeadView { rows: N, scores: &ranks, quota, newcomers: 0, prompt: N }, &mut keep);
            assert_eq!(keep[..n], indices(kept), "{knobs}, head {h}");
        }
    }
}

/// A row that one query of the window looks at stays, and under the largest of neighbours so do they.
#[test]
fn a_planted_needle_stays_with_its_neighbours() {
    let knobs =
        "{ use = \"snapkv\", window_size = 4, kernel_size = 5, pooling = \"maxpool\", max_capacity_prompt = 9 }";
    let select = pipeline(&[("kv.select", knobs)]).unwrap().select;
    let mut sums = vec![0.001; 40];
    sums[17] = 0.5;
    let mut ranks = vec![0.0; 40];
    select.rank(Seen { rows: 40, window: &sums, stride: 40, group: 1, queries: 4 }, &mut ranks);
    let mut keep = vec![0; 40];
    let view = HeadView { rows: 40, scores: &ranks, quota: 9, newcomers: 0, prompt: 40 };
    assert_eq!(select.keep(view, &mut keep), 9);
    assert_eq!(keep[..9], [15, 16, 17, 18, 19, 36, 37, 38, 39]);
    // All alike: ties go to the lower position.
    let n = select.keep(HeadView { scores: &[0.2; 40], ..view }, &mut keep);
    assert_eq!(keep[..n], [0, 1, 2, 3, 4, 36, 37, 38, 39]);
}

/// U1–U5, U9, U12: chosen once, whatever the batches; what is decoded stays; bytes are the formula's.
#[test]
fn a_prompt_is_cut_once_and_then_the_cache_grows() {
    let model = bundled();
    let tokens = ids(160, 1000);
    let set = |capacity: &str, batch: &str| {
        let knobs = format!("{{ use = \"snapkv\", window_size = 8, max_capacity_prompt = {capacity} }}");
        let pairs = [
            ("kv.select", knobs.as_str()),
            ("kv.alloc", "paged"),
            ("kv.alloc.block", "1"),
            ("run.context", "256"),
            ("run.batch", batch),
        ];
        Rig::new(&model, &config(&pairs)).unwrap()
    };
    let mut rig = set("40", "512");
    let per_row = rig.forward.pipeline.rows[0].bytes() as u64;
    assert_eq!(per_row, 2 * 2 * rig.forward.pipeline.rows[0].d as u64 + 4, "two f16 rows and a position, no score");
    let layers = model.shape.layers.len() as u64;
    let heads = model.shape.layers[0].attention.kv_heads;
    for prompt in [1, 7, 8, 9, 39, 40, 41, 120] {
        let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
        let kept = prompt.min(40);
        let chosen: Vec<_> = (0..heads).map(|h| Rig::positions(&seq, 3, h)).collect();
        for (h, positions) in chosen.iter().enumerate() {
            assert!(positions.windows(2).all(|w| w[0] < w[1]), "ascending, no repeats");
            let window: Vec<u32> = (prompt.saturating_sub(8) as u32..prompt as u32).collect();
            assert!(positions.len() == kept && positions.ends_with(&window), "head {h} of {prompt}: {positions:?}");
        }
        for step in 0..30 {
            assert_eq!(bytes(&seq), layers * heads as u64 * (kept + step) as u64 * per_row, "{prompt} + {step}");
            rig.decode(&mut seq, &tokens[prompt + step..=prompt + step]).unwrap();
        }
        for (h, chosen) in chosen.iter().enumerate() {
            let grown: Vec<u32> = chosen.iter().copied().chain(prompt as u32..prompt as u32 + 30).collect();
            assert_eq!(Rig::positions(&seq, 3, h), grown, "nothing leaves while decoding");
        }
    }
    // Again, and in small batches: the same choice.
    let whole = rig.prefill(&tokens[..120]).unwrap().0;
    let small = set("40", "7").prefill(&tokens[..120]).unwrap().0;
    for l in 0..layers as usize {
        for h in 0..heads {
            assert_eq!(Rig::positions(&whole, l, h), Rig::positions(&small, l, h), "layer {l}, head {h}");
        }
    }
    // A capacity that holds the prompt is the full cache, bit for bit.
    let mut full = Rig::new(&model, &config(&[("run.context", "256")])).unwrap();
    assert_same(
        &set("120", "512").logits(&tokens[..120], &tokens[120..]),
        &full.logits(&tokens[..120], &tokens[120..]),
        "U1",
    );
}

#[test]
fn the_plan_holds_and_bytes_that_cannot_be_kept_are_refused() {
    let model = bundled();
    for alloc in ["contiguous", "paged"] {
        let mut pairs = vec![
            ("kv.select", "{ use = \"snapkv\", window_size = 16, max_capacity_prompt = 64 }"),
            ("kv.alloc", alloc),
            ("run.prompt", "tokens:300"),
            ("run.max_tokens", "40"),
            ("run.context", "512"),
            ("run.ignore_eos", "true"),
        ];
        plan_holds(&model, &config(&pairs));
        pairs.push(("run.sequences", "3"));
        plan_holds(&model, &config(&pairs));
    }
    let error = pipeline(&[("kv.select", "snapkv"), ("kv.budget.bytes", "1 MiB")]).err().unwrap().to_string();
    assert!(error.contains("kv.budget.bytes") && error.contains("snapkv"), "{error}");
}
