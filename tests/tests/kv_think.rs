//! ThinK against NumPy (`scripts/make_think.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::Pipeline;
use ullage_core::kv::cache::{LayerCache, STAGING};
use ullage_core::ledger::Ledger;
use ullage_tests::kv::{TINY, bytes, half_values, indices, numbers, pipeline, plan_holds, reference, values};
use ullage_tests::{Rig, assert_same, bundled, config, ids, open};

const N: usize = 50;
const W: usize = 8;

/// Channel `c` of each row times `(c · by mod of + 1) / 8`.
fn scaled(mut x: Vec<f32>, by: usize, of: usize, round: bool) -> Vec<f32> {
    let d = TINY.2;
    for (i, x) in x.iter_mut().enumerate() {
        *x *= (i % d * by % of + 1) as f32 / 8.0;
        *x = if round { half::f16::from_f32(*x).to_f32() } else { *x };
    }
    x
}

/// Queries `(W, heads · d)` and keys `(N, kv_heads · d)`.
fn inputs() -> (Vec<f32>, Vec<f32>) {
    let (heads, kv, d) = TINY;
    (scaled(values(31, W * heads * d), 7, 13, false), scaled(half_values(32, N * kv * d), 5, 11, true))
}

fn settled(p: &Pipeline, q: &[f32], k: &[f32]) -> LayerCache {
    let (heads, kv, d) = TINY;
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let mut cache = p.sequence(&ledger, N).unwrap().remove(0);
    let mut stage = p.staging(&ledger, 0, N, STAGING).unwrap();
    let keep: Vec<u32> = (0..N as u32).collect();
    let mut scratch = vec![0.0; p.layout(0).scratch()];
    for h in 0..kv {
        stage.append(h, &k[h * d..], &k[h * d..], kv * d, 0, N);
        let own = &q[h * heads / kv * d..];
        cache.settle(&stage, h, &keep, (own, heads * d, heads / kv), &mut scratch).unwrap();
    }
    cache
}

#[test]
fn channels_and_logits_are_numpys() {
    let (heads, kv, d) = TINY;
    let (q, k) = inputs();
    for case in reference("think")["cases"].as_array().unwrap() {
        let recent = case["recent_size"].as_u64().unwrap() as usize;
        let knobs = format!(
            "{{ use = \"think\", pruning_ratio = {}, window_size = {W}, recent_size = {recent} }}",
            case["pruning_ratio"]
        );
        let p = pipeline(&[("kv.channels", knobs.as_str()), ("run.context", "64")]).unwrap();
        let cache = settled(&p, &q, &k);
        for h in 0..kv {
            let mut keys = vec![0.0; N * d];
            cache.keys(h, 0, N, &mut keys);
            let kept = indices(&case["channels"][h]);
            for (row, key) in keys.chunks(d).enumerate() {
                let own = &k[(row * kv + h) * d..][..d];
                for (c, x) in key.iter().enumerate() {
                    let stays = row >= N - recent || kept.contains(&(c as u32));
                    assert_eq!(*x, if stays { own[c] } else { 0.0 }, "{knobs}: head {h}, row {row}, channel {c}");
                }
            }
            let query = &q[((W - 1) * heads + h * heads / kv) * d..][..d];
            for (key, expected) in keys.chunks(d).zip(numbers(&case["logits"][h])) {
                let ours: f64 = key.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum();
                assert!((ours - expected).abs() < 1e-4, "{ours} for {expected}");
            }
        }
        // Bytes are really freed: a mask a head, narrow keys but for the recent ones, whole values.
        let left = d - (d as f64 * case["pruning_ratio"].as_f64().unwrap()) as usize;
        let head = (N - recent) * 2 * left + (recent + 14) * 2 * d + 64 * 2 * d + d / 8;
        assert_eq!(cache.bytes(), (kv * head) as u64, "{knobs}");
    }
}

/// The golden bytes of kv.md §1.10, shape T, and that no ratio changes nothing.
#[test]
fn bytes_are_those_of_the_golden_table() {
    let model = open("random:smollm2-135m@f16");
    let pairs = [("kv.channels", "think"), ("kv.alloc", "paged"), ("kv.alloc.block", "1"), ("run.context", "1000")];
    let p = Pipeline::new(&config(&pairs), &model.shape).unwrap();
    assert_eq!(p.sequence_bytes(1000, 1000) * 4, 830_432 * 30 * 3);
    // λ of 0.4 on half of the cache: a fifth less, but for the newest rows.
    let full = Pipeline::new(&config(&pairs[1..]), &model.shape).unwrap();
    let share = p.sequence_bytes(1000, 1000) as f64 / full.sequence_bytes(1000, 1000) as f64;
    assert!((0.80..0.82).contains(&share), "{share}");
}

#[test]
fn a_real_pass_loses_by_the_ratio_and_holds_the_formula() {
    let model = bundled();
    let tokens = ids(200, 1000);
    let rig = |channels: &str, alloc: &str| {
        let pairs = [("kv.channels", channels), ("kv.alloc", alloc), ("run.context", "256"), ("run.batch", "32")];
        Rig::new(&model, &config(&pairs)).unwrap()
    };
    let full = rig("all", "paged").logits(&tokens[..150], &tokens[150..]);
    let same = rig("{ use = \"think\", pruning_ratio = 0.0 }", "paged").logits(&tokens[..150], &tokens[150..]);
    assert_same(&full, &same, "a ratio of 0");
    let short = rig("{ use = \"think\", pruning_ratio = 0.5, recent_size = 32 }", "paged")
        .logits(&tokens[..20], &tokens[20..60]);
    assert_same(&rig("all", "paged").logits(&tokens[..20], &tokens[20..60]), &short, "a prompt of recent rows only");
    let far = |ratio: &str| {
        let ours = rig(&format!("{{ use = \"think\", pruning_ratio = {ratio} }}"), "paged")
            .logits(&tokens[..150], &tokens[150..]);
        assert!(ours[0] == full[0] && ours[1] != full[1], "the prompt itself is read whole");
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        full[1..].iter().flatten().zip(ours[1..].iter().flatten()).map(square).sum::<f64>()
    };
    let (little, much) = (far("0.1"), far("0.8"));
    assert!(little * 4.0 < much, "{little} and {much}");
    for alloc in ["contiguous", "paged"] {
        for prompt in [1, 32, 33, 100] {
            let mut rig = rig("think", alloc);
            let (mut seq, _) = rig.prefill(&tokens[..prompt]).unwrap();
            for step in 0..40 {
                assert_eq!(
                    bytes(&seq),
                    rig.forward.pipeline.sequence_bytes(prompt, prompt + step),
                    "{alloc} {prompt} {step}"
                );
                rig.decode(&mut seq, &tokens[prompt + step..=prompt + step]).unwrap();
            }
        }
    }
}

#[test]
fn the_plan_holds_and_what_cannot_be_narrowed_is_refused() {
    let model = bundled();
    for select in ["full", "{ use = \"snapkv\", window_size = 16, max_capacity_prompt = 100 }"] {
        for alloc in ["contiguous", "paged"] {
            for sequences in ["1", "3"] {
                plan_holds(
                    &model,
                    &config(&[
                        ("kv.channels", "think"),
                        ("kv.select", select),
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
    }
    for (pairs, words) in [
        (vec![("kv.channels", "think"), ("kv.select", "h2o")], ["kv.channels = think", "sealed for good"]),
        (vec![("kv.channels", "think"), ("kv.format", "q8_0")], ["kv.channels = think", "blocks of 32"]),
        (vec![("kv.channels", "think"), ("kv.format", "kivi")], ["kv.channels = think", "groups of its own"]),
    ] {
        let error = pipeline(&pairs).err().unwrap().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
}
