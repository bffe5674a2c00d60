//! KIVI against NumPy (`scripts/make_kivi.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::cache::{LayerCache, STAGING};
use ullage_core::kv::{HeadView, Pipeline};
use ullage_core::ledger::Ledger;
use ullage_tests::kv::{TINY, bytes, half_values, indices, numbers, pipeline, plan_holds, reference, weighted};
use ullage_tests::{Rig, assert_same, bundled, config, ids};

fn kivi(bits: u64, group: u64, residual: u64) -> Pipeline {
    let knobs = format!(
        "{{ use = \"kivi\", k_bits = {bits}, v_bits = {bits}, group_size = {group}, residual_length = {residual} }}"
    );
    let pairs = [("kv.format", knobs.as_str()), ("kv.alloc", "paged"), ("kv.alloc.block", "1"), ("run.context", "512")];
    pipeline(&pairs).unwrap()
}

/// A head that has read `prompt` rows and then `decoded`, with the sealed rows of keys and values after each.
fn filled(p: &Pipeline, k: &[f32], v: &[f32], prompt: usize, decoded: usize) -> (LayerCache, Vec<[usize; 2]>) {
    let d = TINY.2;
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let mut cache = p.sequence(&ledger, prompt).unwrap().remove(0);
    let mut stage = p.staging(&ledger, 0, prompt, STAGING).unwrap();
    stage.append(0, k, v, d, 0, prompt);
    let mut keep = vec![0; prompt];
    let view = HeadView { rows: prompt, scores: &[], quota: usize::MAX, newcomers: 0, prompt };
    assert_eq!(p.select.keep(view, &mut keep), prompt);
    let mut scratch = vec![0.0; p.layout(0).scratch()];
    cache.settle(&stage, 0, &keep, (&[], 0, 1), &mut scratch).unwrap();
    let sealed = |cache: &LayerCache| [cache.sealed(0).0, cache.sealed(0).1];
    let mut lengths = vec![sealed(&cache)];
    for row in prompt..prompt + decoded {
        cache.ensure(0, row + 1).unwrap();
        cache.append(0, &k[row * d..], &v[row * d..], d, row, 1);
        cache.seal(0, &mut scratch).unwrap();
        lengths.push(sealed(&cache));
    }
    (cache, lengths)
}

#[test]
fn rows_and_residuals_are_numpys() {
    let d = TINY.2;
    for case in reference("kivi")["cases"].as_array().unwrap() {
        let of = |key: &str| case[key].as_u64().unwrap();
        let (prompt, decoded) = (of("prompt") as usize, of("decoded") as usize);
        let n = prompt + decoded;
        let (mut k, v) = (half_values(20, n * d), half_values(21, n * d));
        k.iter_mut().skip(5).step_by(d).for_each(|x| *x *= 8.0);
        let p = kivi(of("bits"), of("group_size"), of("residual_length"));
        let (cache, lengths) = filled(&p, &k, &v, prompt, decoded);
        for (ours, theirs) in lengths.iter().zip(case["sealed"].as_array().unwrap()) {
            assert_eq!(ours.map(|n| n as u32).to_vec(), indices(theirs));
        }
        let (mut keys, mut values) = (vec![0.0; n * d], vec![0.0; n * d]);
        cache.keys(0, 0, n, &mut keys);
        cache.values(0, 0, n, &mut values);
        for (name, ours) in [("keys", &keys), ("values", &values)] {
            for (row, (x, expected)) in ours.chunks(d).zip(numbers(&case[name])).enumerate() {
                assert!((weighted(x) - expected).abs() < 2e-3, "{name} {row}: {} for {expected}", weighted(x));
            }
        }
        for (name, ours) in [("key", &keys), ("value", &values)] {
            for (x, expected) in ours[3 * d..4 * d].iter().zip(numbers(&case[name])) {
                assert!((f64::from(*x) - expected).abs() < 1e-6, "{name}: {x} for {expected}");
            }
        }
        // Read in tiles, wherever they begin.
        for (start, rows) in [(0, 64), (13, 40), (n - 30, 30)] {
            let mut tile = vec![0.0; rows * d];
            cache.keys(0, start, rows, &mut tile);
            assert_eq!(tile, keys[start * d..(start + rows) * d], "rows {start}..");
        }
    }
}

/// U2: the golden bytes of kv.md §1.10, shape T (2 layers, 2 heads of 64, 1000 tokens), from the pipeline's formula.
#[test]
fn bytes_are_those_of_the_golden_table() {
    let model = ullage_tests::open("random:smollm2-135m@f16");
    let (layers, heads) = (30, 3);
    for (bits, expected) in [(2, 288_512), (4, 401_664)] {
        let knobs = format!("{{ use = \"kivi\", k_bits = {bits}, v_bits = {bits} }}");
        let pairs =
            [("kv.format", knobs.as_str()), ("kv.alloc", "paged"), ("kv.alloc.block", "1"), ("run.context", "1000")];
        let p = Pipeline::new(&config(&pairs), &model.shape).unwrap();
        // Heads of 64 as in shape T, which has four of them in all.
        assert_eq!(p.sequence_bytes(1000, 1000) * 4, expected * layers * heads);
    }
}

/// The quantized part never changes once written; keys by channel beat keys by token where one channel stands out, values the other
/// way round.
#[test]
fn what_is_sealed_stays_and_channels_that_stand_out_cost_little() {
    let d = TINY.2;
    let (mut k, v) = (half_values(1, 200 * d), half_values(2, 200 * d));
    k.iter_mut().skip(7).step_by(d).for_each(|x| *x += 20.0);
    let p = kivi(2, 32, 32);
    let (early, _) = filled(&p, &k, &v, 100, 0);
    let (late, _) = filled(&p, &k, &v, 100, 100);
    let (mut a, mut b) = (vec![0.0; 64 * d], vec![0.0; 64 * d]);
    early.keys(0, 0, 64, &mut a);
    late.keys(0, 0, 64, &mut b);
    assert_eq!(a, b, "keys");
    early.values(0, 0, 64, &mut a);
    late.values(0, 0, 64, &mut b);
    assert_eq!(a, b, "values");
    let error = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from((x - y) * (x - y))).sum::<f64>();
    late.keys(0, 0, 64, &mut a);
    let by_channel = error(&a, &k[..64 * d]);
    // The same keys where values stand are quantized by token.
    let (swapped, _) = filled(&p, &v, &k, 100, 100);
    swapped.values(0, 0, 64, &mut a);
    let by_token = error(&a, &k[..64 * d]);
    assert!(by_channel * 4.0 < by_token, "{by_channel} by channel, {by_token} by token");
}

/// U1 below the residual, bytes by the formula at every step, and fewer bits cost more.
#[test]
fn a_real_pass_holds_the_formula_and_loses_by_the_bits() {
    let model = bundled();
    let tokens = ids(230, 1000);
    let rig = |knobs: &str, alloc: &str| {
        Rig::new(
            &model,
            &config(&[("kv.format", knobs), ("kv.alloc", alloc), ("run.context", "256"), ("run.batch", "64")]),
        )
        .unwrap()
    };
    let full = rig("f16", "paged").logits(&tokens[..100], &tokens[100..120]);
    let whole = rig("{ use = \"kivi\", residual_length = 128 }", "paged").logits(&tokens[..100], &tokens[100..120]);
    assert_same(&full, &whole, "fewer tokens than the residual");
    for alloc in ["contiguous", "paged"] {
        for prompt in [1, 31, 32, 33, 64, 100] {
            let mut rig = rig("{ use = \"kivi\", group_size = 32, residual_length = 32 }", alloc);
            let (mut seq, _) = rig.prefill(&tokens[..prompt]).unwrap();
            for step in 0..80 {
                let planned = rig.forward.pipeline.sequence_bytes(prompt, prompt + step);
                assert_eq!(bytes(&seq), planned, "{alloc}, {prompt} + {step}");
                rig.decode(&mut seq, &tokens[prompt + step..=prompt + step]).unwrap();
            }
        }
    }
    let far = |knobs: &str| {
        let full = rig("f16", "paged").logits(&tokens[..160], &tokens[160..]);
        let ours = rig(knobs, "paged").logits(&tokens[..160], &tokens[160..]);
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        full[1..].iter().flatten().zip(ours[1..].iter().flatten()).map(square).sum::<f64>()
    };
    let of = |bits: u64, residual: u64| {
        far(&format!(
            "{{ use = \"kivi\", k_bits = {bits}, v_bits = {bits}, group_size = 32, residual_length = {residual} }}"
        ))
    };
    let (two, four, eight) = (of(2, 32), of(4, 32), of(8, 32));
    assert!(two > four && four > eight && eight > 0.0, "{two} {four} {eight}");
}

#[test]
fn the_plan_holds_and_what_cannot_be_sealed_is_refused() {
    let model = bundled();
    let knobs = "{ use = \"kivi\", residual_length = 32 }";
    for select in ["full", "{ use = \"snapkv\", window_size = 16, max_capacity_prompt = 100 }"] {
        for alloc in ["contiguous", "paged"] {
            for sequences in ["1", "3"] {
                plan_holds(
                    &model,
                    &config(&[
                        ("kv.format", knobs),
                        ("kv.select", select),
                        ("kv.alloc", alloc),
                        ("run.sequences", sequences),
                        ("run.prompt", "tokens:300"),
                        ("run.max_tokens", "90"),
                        ("run.context", "512"),
                        ("run.ignore_eos", "true"),
                    ]),
                );
            }
        }
    }
    for (pairs, words) in [
        (vec![("kv.format", "kivi"), ("kv.select", "h2o")], ["kivi", "sealed for good"]),
        (vec![("kv.format", "kivi"), ("kv.split", "adakv"), ("kv.select", "snapkv")], ["adakv", "seal"]),
        (vec![("kv.format", "{ use = \"kivi\", k_bits = 3 }")], ["k_bits = 3", "2, 4 or 8"]),
        (vec![("kv.format", "{ use = \"kivi\", residual_length = 100 }")], ["residual_length = 100", "multiple"]),
        (vec![("kv.format", "{ use = \"kivi\", group_size = 64 }")], ["32 elements", "64"]),
    ] {
        let error = pipeline(&pairs).err().unwrap().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
}
