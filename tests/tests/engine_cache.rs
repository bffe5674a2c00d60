//! Laws of the cache (kv.md §1.8): its bytes to the byte, and which rows stay.
#![allow(clippy::unwrap_used)]

use ullage_core::blocks::BlockType;
use ullage_core::forward::cpu::Sequence;
use ullage_core::kv::Pipeline;
use ullage_core::shape::{Act, Attention, Ffn, LayerShape, ModelShape, Role, Rope, TensorShape};
use ullage_tests::{Rig, bundled, config, ids, random};

/// A shape that only caches care about: `layers` layers of `kv_heads` heads of `d`.
fn shape(layers: usize, kv_heads: usize, d: usize, hidden: usize) -> ModelShape {
    let t = |name: &str, rows, cols| TensorShape { name: name.into(), ty: BlockType::F16.into(), rows, cols };
    let linears = [
        (Role::AttnNorm, 1, hidden),
        (Role::Q, 2 * kv_heads * d, hidden),
        (Role::K, kv_heads * d, hidden),
        (Role::V, kv_heads * d, hidden),
        (Role::O, hidden, 2 * kv_heads * d),
        (Role::FfnNorm, 1, hidden),
        (Role::Gate, hidden, hidden),
        (Role::Up, hidden, hidden),
        (Role::Down, hidden, hidden),
    ];
    let layer = LayerShape {
        attention: Attention {
            heads: 2 * kv_heads,
            kv_heads,
            dim: d,
            scale: 1.0,
            window: None,
            rope: Some(0),
            cap: None,
        },
        ffn: Ffn::Dense { width: hidden, act: Act::Silu },
        tensors: linears.map(|(role, rows, cols)| (role, t(role.word(), rows, cols))).into_iter().collect(),
    };
    ModelShape {
        name: "shape".into(),
        arch: "llama".into(),
        hidden,
        vocab: 256,
        context: 1 << 20,
        norm_eps: 1e-5,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: None,
        ropes: vec![Rope::plain(d, 10000.0, true)],
        layers: vec![layer; layers],
        embedding: t("e", 256, hidden),
        output_norm: t("f", 1, hidden),
        output: None,
        rope_freqs: None,
        adapter: None,
    }
}

/// Bytes of one sequence after a prompt that fills the context.
fn filled(shape: &ModelShape, n: usize, pairs: &[(&str, &str)]) -> u64 {
    let context = n.to_string();
    let all: Vec<_> = [("run.context", context.as_str())].iter().chain(pairs).copied().collect();
    Pipeline::new(&config(&all), shape).unwrap().sequence_bytes(n, n)
}

/// U2 against the golden table of kv.md §1.10, shapes A and T.
#[test]
fn bytes_are_those_of_the_golden_table() {
    let (a, t) = (shape(32, 8, 128, 4096), shape(2, 2, 64, 256));
    let window: &[(&str, &str)] = &[("kv.select", "window"), ("kv.select.n_sink", "4"), ("kv.select.window", "2044")];
    for (pairs, bytes_a, bytes_t) in [
        (&[][..], 4_294_967_296, 1_024_000),
        (&[("kv.format", "q8_0")], 2_281_701_376, 544_000),
        (&[("kv.format", "q4_0")], 1_207_959_552, 288_000),
        (window, 268_435_456, 1_024_000),
    ] {
        assert_eq!(filled(&a, 32_768, pairs), bytes_a, "shape A, {pairs:?}");
        assert_eq!(filled(&t, 1000, pairs), bytes_t, "shape T, {pairs:?}");
        // One row a page: nothing is rounded.
        let paged: Vec<_> = pairs.iter().chain(&[("kv.alloc", "paged"), ("kv.alloc.block", "1")]).copied().collect();
        assert_eq!(filled(&t, 1000, &paged), bytes_t, "shape T, {paged:?}");
    }
    // H2O: the table counts the rows kept. While decoding each head holds the newcomer too, for the instant between its
    // append and the eviction; contiguous room has that row from the start.
    let h2o = [("kv.select", "h2o"), ("kv.alloc", "paged"), ("kv.alloc.block", "1")];
    assert_eq!(filled(&a, 32_768, &h2o), 872_202_240);
    assert_eq!(filled(&t, 1000, &h2o), 211_200);
    assert_eq!(filled(&a, 32_768, &h2o[..1]), 872_202_240 + 32 * 8 * (2 * 128 * 2 + 8));
    assert_eq!(filled(&t, 1000, &h2o[..1]), 211_200 + 2 * 2 * (2 * 64 * 2 + 8));
    // Pages: the last one of each head is counted whole. 1000 tokens in pages of 16: 63 pages, 8 rows to spare.
    for (block, rows) in [("16", 1008), ("33", 1023), ("4096", 4096)] {
        let paged = [("kv.alloc", "paged"), ("kv.alloc.block", block)];
        assert_eq!(filled(&t, 1000, &paged), rows * 2 * 2 * (2 * 64 * 2), "pages of {block}");
    }
}

const ROW: [(&str, u64); 4] = [("f32", 4 * 32), ("f16", 2 * 32), ("q8_0", 34), ("q4_0", 18)];

/// U2 on real caches: the ledger's row is the formula, at every length, for every policy, format and alloc.
#[test]
fn measured_cache_bytes_are_the_formula() {
    let model = random("tiny", "f16");
    const HEADS: u64 = 3 * 2;
    let tokens = ids(200, 160);
    for (format, element) in ROW {
        for (select, quota, extra, meta) in [("full", 120, 0, 0), ("window", 40, 0, 0), ("h2o", 40, 1, 8)] {
            for block in [None, Some(1), Some(16), Some(33)] {
                let mut pairs = vec![("kv.select", select), ("kv.format", format), ("run.context", "120")];
                if select != "full" {
                    pairs.push(("kv.budget.rows", "40"));
                }
                let size = block.map(|b: u64| b.to_string());
                if let Some(size) = &size {
                    pairs.extend([("kv.alloc", "paged"), ("kv.alloc.block", size.as_str())]);
                }
                let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
                for prompt in [1, 39, 40, 41, 70] {
                    let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
                    for step in 0..=50 {
                        let kept = (prompt as u64 + step).min(quota);
                        // Room ever needed: the newcomer stands beside a full quota until one row leaves.
                        let most = if step == 0 { kept } else { (prompt as u64 + step).min(quota + extra) };
                        let workspace = block.map_or((quota + extra).min(120), |b| most.div_ceil(b) * b);
                        let expected = HEADS * workspace * (2 * element + meta);
                        let bytes: u64 = seq.layers.iter().map(|l| l.bytes()).sum();
                        let what = format!("{select} {format} block {block:?} prompt {prompt} step {step}");
                        assert_eq!(bytes, expected, "{what}");
                        assert_eq!(
                            rig.ledger.now().0[&ullage_core::ledger::Tier::Device]
                                [&ullage_core::ledger::Category::KvCache],
                            expected,
                            "{what}"
                        );
                        for layer in &seq.layers {
                            assert!((0..layer.heads()).all(|h| layer.rows(h) as u64 == kept), "{what}");
                        }
                        if step < 50 {
                            rig.decode(&mut seq, &tokens[prompt + step as usize..][..1]).unwrap();
                        }
                    }
                }
            }
        }
    }
}

/// Rows leave in bunches where the policy says so: never more than the quota and the bunch, the quota after each eviction.
#[test]
fn rows_leave_every_few_tokens_where_the_rhythm_says_so() {
    let model = random("tiny", "f16");
    let select = "{ use = \"h2o\", hh_size = 12, recent_size = 8, interval = 7 }";
    for alloc in ["contiguous", "paged"] {
        let pairs = [("kv.select", select), ("kv.alloc", alloc), ("run.context", "160")];
        let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
        let tokens = ids(120, 160);
        let mut seq = rig.prefill(&tokens[..50]).unwrap().0;
        for step in 0..60 {
            // The seventh row above the quota is the last that attention sees before seven leave.
            let rows = 20 + step % 7;
            assert!(seq.layers.iter().all(|l| (0..2).all(|h| l.rows(h) == rows)), "{alloc}, step {step}");
            let bytes: u64 = seq.layers.iter().map(|l| l.bytes()).sum();
            assert_eq!(bytes, rig.forward.pipeline.sequence_bytes(50, 50 + step), "{alloc}, step {step}");
            rig.decode(&mut seq, &tokens[50 + step..=50 + step]).unwrap();
        }
    }
}

/// Bytes do not move and nothing breaks while a bounded cache runs to four times its context (endless generation).
#[test]
fn generating_four_contexts_changes_no_byte() {
    let model = random("tiny", "q8_0");
    let tokens = ids(4 * 96 + 40, 160);
    for pairs in [
        &[("kv.select", "window")][..],
        &[("kv.select", "window"), ("kv.select.positions", "original"), ("kv.alloc", "paged")],
        &[("kv.select", "h2o")],
        &[("kv.select", "h2o"), ("kv.alloc", "paged"), ("kv.alloc.block", "7")],
    ] {
        let all: Vec<_> = [("run.context", "96"), ("kv.budget.rows", "32")].iter().chain(pairs).copied().collect();
        let mut rig = Rig::new(&model, &config(&all)).unwrap();
        let mut seq = rig.prefill(&tokens[..40]).unwrap().0;
        rig.decode(&mut seq, &tokens[40..41]).unwrap();
        let bytes = |seq: &Sequence| seq.layers.iter().map(|l| l.bytes()).sum::<u64>();
        let before = bytes(&seq);
        for piece in tokens[41..].chunks(64) {
            let logits = rig.decode(&mut seq, piece).unwrap();
            assert!(logits.iter().flatten().all(|v| v.is_finite()), "{pairs:?}");
            assert_eq!(bytes(&seq), before, "{pairs:?}");
        }
        assert_eq!(seq.seen, tokens.len(), "positions count tokens, not rows");
        assert!(seq.layers.iter().all(|l| (0..l.heads()).all(|h| l.rows(h) == 32)), "{pairs:?}");
    }
}

/// U3, U4 for the window: after long generation the rows are exactly the sinks and the tail, each with its own key.
///
/// In layer 0 a key depends on its token and position alone, so a full run says which token each row is.
#[test]
fn a_window_is_exactly_sinks_and_tail() {
    let model = bundled();
    let (prompt, after) = (50, 150);
    let tokens = ids(prompt + after, 1000);
    let full = {
        let mut rig = Rig::new(&model, &config(&[("kv.format", "f32"), ("run.context", "256")])).unwrap();
        let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
        rig.decode(&mut seq, &tokens[prompt..]).unwrap();
        (0..4).map(|h| (rig.keys(&seq, 0, h), rig.values(&seq, 0, h))).collect::<Vec<_>>()
    };
    for (sinks, quota) in [("4", "36"), ("0", "20"), ("7", "8"), ("30", "10")] {
        for alloc in ["contiguous", "paged"] {
            let config = config(&[
                ("kv.format", "f32"),
                ("run.context", "256"),
                ("kv.alloc", alloc),
                ("kv.select", "window"),
                ("kv.select.positions", "original"),
                ("kv.select.n_sink", sinks),
                ("kv.budget.rows", quota),
            ]);
            let (sinks, quota) = (sinks.parse::<usize>().unwrap(), quota.parse::<usize>().unwrap());
            let sinks = sinks.min(quota - 1);
            let mut rig = Rig::new(&model, &config).unwrap();
            let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
            for seen in [prompt, prompt + 1, prompt + 2, prompt + 60, prompt + after] {
                let more = seen - seq.seen;
                let from = seq.seen;
                rig.decode(&mut seq, &tokens[from..from + more]).unwrap();
                let tail = quota - sinks;
                let expected: Vec<usize> = (0..sinks).chain(seen - tail..seen).collect();
                for (h, (keys, values)) in full.iter().enumerate() {
                    let kept = |all: &[Vec<f32>]| expected.iter().map(|p| all[*p].clone()).collect::<Vec<_>>();
                    assert!(rig.keys(&seq, 0, h) == kept(keys), "keys: {sinks} + {tail} at {seen}");
                    assert!(rig.values(&seq, 0, h) == kept(values), "values: {sinks} + {tail} at {seen}");
                }
            }
        }
    }
}

/// U3, U4, U5, U12 for H2O: sets strictly ascend without repeats, hold the recent rows, and depend on the past only.
#[test]
fn heavy_hitters_stay_in_order_and_decisions_depend_on_the_past_only() {
    let model = bundled();
    let config = config(&[
        ("kv.select", "h2o"),
        ("kv.select.hh_size", "10"),
        ("kv.select.recent_size", "14"),
        ("run.context", "256"),
        ("run.batch", "32"),
    ]);
    let mut rig = Rig::new(&model, &config).unwrap();
    let tokens = ids(140, 1000);
    let mut other = tokens.clone();
    other[101..].iter_mut().for_each(|t| *t = (*t + 17) % 1000);
    let history = |rig: &mut Rig, tokens: &[u32], prompt: usize| {
        let mut seq = rig.prefill(&tokens[..prompt]).unwrap().0;
        let mut sets = Vec::new();
        for step in prompt..=tokens.len() {
            let mut now = Vec::new();
            for l in 0..8 {
                for h in 0..4 {
                    let kept = Rig::positions(&seq, l, h);
                    assert!(kept.windows(2).all(|w| w[0] < w[1]), "ascending, no repeats");
                    assert!(kept.iter().all(|p| (*p as usize) < step));
                    assert_eq!(kept.len(), step.min(24), "the budget fixed at prefill holds");
                    let recent: Vec<u32> = (step.saturating_sub(14) as u32..step as u32).collect();
                    assert!(kept.ends_with(&recent), "recent rows stay: {kept:?} at {step}");
                    now.push(kept);
                }
            }
            sets.push(now);
            if step < tokens.len() {
                rig.decode(&mut seq, &tokens[step..=step]).unwrap();
            }
        }
        sets
    };
    for prompt in [1, 23, 24, 25, 60] {
        let sets = history(&mut rig, &tokens, prompt);
        assert_eq!(sets, history(&mut rig, &tokens, prompt), "deterministic");
        let changed = history(&mut rig, &other, prompt);
        // The set after token t is entry t − prompt + 1; tokens from 101 on differ.
        assert_eq!(sets[..102 - prompt], changed[..102 - prompt], "decisions before a change of the future");
        // Heads choose for themselves: not all agree on this text.
        assert!(sets.last().unwrap().iter().any(|s| s != &sets.last().unwrap()[0]), "every head keeps the same rows");
    }
}

/// U12: all tokens equal, so that scores tie wherever they can; prompts around the budget; one token.
#[test]
fn adversarial_prompts_neither_break_nor_bloat() {
    let model = random("tiny", "f16");
    for select in ["window", "h2o"] {
        for budget in [1usize, 2, 3, 17] {
            let rows = budget.to_string();
            let config =
                config(&[("kv.select", select), ("kv.budget.rows", &rows), ("run.context", "64"), ("run.batch", "5")]);
            let mut rig = Rig::new(&model, &config).unwrap();
            for prompt in [1, budget.max(2) - 1, budget, budget + 1, 40] {
                for tokens in [vec![7; prompt + 30], ids(prompt + 30, 160)] {
                    let (mut seq, first) = rig.prefill(&tokens[..prompt]).unwrap();
                    let rest = rig.decode(&mut seq, &tokens[prompt..]).unwrap();
                    assert!(
                        first.iter().chain(rest.iter().flatten()).all(|v| v.is_finite()),
                        "{select} {budget} {prompt}"
                    );
                    for l in &seq.layers {
                        assert!((0..2).all(|h| l.rows(h) == (prompt + 30).min(budget)), "{select} {budget} {prompt}");
                    }
                }
            }
        }
    }
}

/// `kv.budget.bytes` is never crossed, and one row more would not fit.
#[test]
fn a_budget_in_bytes_is_filled_and_never_crossed() {
    let model = random("tiny", "f16");
    for select in ["window", "h2o"] {
        for bytes in [3000u64, 10_000, 30_001] {
            for alloc in ["contiguous", "paged"] {
                let text = format!("{bytes} B");
                let pairs = [
                    ("kv.select", select),
                    ("kv.budget.bytes", text.as_str()),
                    ("kv.alloc", alloc),
                    ("kv.alloc.block", "4"),
                    ("run.context", "200"),
                ];
                let pairs = if alloc == "paged" { &pairs[..] } else { &[pairs[0], pairs[1], pairs[4]] };
                let config = config(pairs);
                let Ok(mut rig) = Rig::new(&model, &config) else {
                    // A page a head may be more than the smallest budget: then no row fits, and that is said.
                    assert!(alloc == "paged" && bytes == 3000, "{pairs:?}");
                    continue;
                };
                let mut seq = rig.prefill(&ids(90, 160)).unwrap().0;
                rig.decode(&mut seq, &ids(150, 160)).unwrap();
                let held: u64 = seq.layers.iter().map(|l| l.bytes()).sum();
                assert!(held <= bytes, "{pairs:?}: {held}");
                let row = 6 * seq.layers[0].layout().bytes() as u64 * if alloc == "paged" { 4 } else { 1 };
                assert!(held + row > bytes, "{pairs:?}: {held} of {bytes} used, a row takes {row}");
            }
        }
    }
}
