//! Quest against NumPy (`scripts/make_quest.py`), and its laws on a real pass.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::kv::Pipeline;
use ullage_core::kv::cache::LayerCache;
use ullage_core::kv::read::Chosen;
use ullage_core::ledger::Ledger;
use ullage_core::ops::ThreadTeam;
use ullage_core::ops::cpu::{Attention, attend};
use ullage_tests::kv::{TINY, bytes, half_values, indices, numbers, pipeline, plan_holds, reference, values, weighted};
use ullage_tests::{Rig, assert_same, bundled, config, ids};

const N: usize = 75;

fn quest(page: usize, budget: usize, gqa: &str) -> Pipeline {
    let knobs =
        format!("{{ use = \"quest\", page_size = {page}, token_budget = {budget}, skip_layers = 0, gqa = \"{gqa}\" }}");
    pipeline(&[("kv.read", knobs.as_str()), ("run.context", "128")]).unwrap()
}

/// A layer's cache with `n` rows, appended `piece` at a time and described after each.
fn filled(p: &Pipeline, n: usize, piece: usize) -> LayerCache {
    let (_, kv, d) = TINY;
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let (k, v) = (half_values(12, N * kv * d), half_values(13, N * kv * d));
    let mut cache = p.sequence(&ledger, n).unwrap().remove(0);
    let mut scratch = vec![0.0; p.layout(0).scratch()];
    for first in (0..n).step_by(piece) {
        let rows = piece.min(n - first);
        for h in 0..kv {
            cache.ensure(h, first + rows).unwrap();
            let at = (first * kv + h) * d;
            cache.append(h, &k[at..], &v[at..], kv * d, first, rows);
            cache.describe(&*p.read, h, &mut scratch);
        }
    }
    cache
}

fn choose(p: &Pipeline, cache: &LayerCache, head: usize, queries: &[f32]) -> Vec<u32> {
    let (mut scratch, mut out) = (vec![0.0; 128], vec![0; 128]);
    let n = cache.choose(&*p.read, head, queries, &mut scratch, &mut out);
    out.truncate(n);
    out
}

#[test]
fn pages_and_outputs_are_numpys() {
    let (heads, kv, d) = TINY;
    let q: Vec<f32> = values(11, heads * d).iter().map(|x| 3.0 * x).collect();
    let team = ThreadTeam::new(2).unwrap();
    for case in reference("quest")["cases"].as_array().unwrap() {
        let gqa = case["gqa"].as_str().unwrap();
        let p = quest(8, case["token_budget"].as_u64().unwrap() as usize, gqa);
        let cache = filled(&p, N, N);
        let (lists_of, group) = if gqa == "per_query_head" { (heads, 1) } else { (kv, heads / kv) };
        let mut lists = Vec::new();
        for list in 0..lists_of {
            let pages = choose(&p, &cache, list * kv / lists_of, &q[list * group * d..(list + 1) * group * d]);
            assert_eq!(pages, indices(&case["pages"][list * group]), "{gqa}, {}", case["token_budget"]);
            lists.push(pages.len() as u32);
            lists.extend(&pages);
            lists.resize(lists.len().next_multiple_of(11), 0);
        }
        let chosen = Chosen::new(&cache, &lists, 11, lists_of / kv);
        let shape = Attention {
            heads,
            kv_heads: lists_of,
            dim: d,
            scale: 1.0 / (d as f32).sqrt(),
            window: None,
            cap: None,
            tokens: 1,
        };
        let (mut scratch, mut out) = (vec![0.0; shape.scratch(2, N)], vec![0.0; heads * d]);
        attend(&team, &q, &chosen, shape, &mut out, &mut scratch, None).unwrap();
        for (row, expected) in out.chunks(d).zip(numbers(&case["out"])) {
            assert!((weighted(row) - expected).abs() < 2e-3, "{} for {expected}", weighted(row));
        }
    }
}

/// No key of a page left out can beat its bound; the last page is always read; more budget reads no fewer of the best rows; and
/// pages kept up row by row are those made at once.
#[test]
fn what_is_left_out_could_not_have_mattered_more_than_its_bound() {
    let (_, kv, d) = TINY;
    for n in [9, 16, 17, 63, 75] {
        let (p, whole) = (quest(8, 24, "group_max"), quest(8, 1 << 20, "group_max"));
        let (one, all) = (filled(&p, n, 1), filled(&p, n, n));
        for h in 0..kv {
            let mut keys = vec![0.0; n * d];
            all.keys(h, 0, n, &mut keys);
            for seed in 0..20 {
                let q = values(100 + seed, d);
                let pages = choose(&p, &all, h, &q);
                assert_eq!(pages, choose(&p, &one, h, &q), "page by page or row by row");
                assert_eq!(pages.last(), Some(&((n as u32 - 1) / 8)), "the last page is read");
                assert_eq!(choose(&whole, &all, h, &q).len(), n.div_ceil(8));
                let product = |row: usize| keys[row * d..(row + 1) * d].iter().zip(&q).map(|(a, b)| a * b).sum::<f32>();
                // The bound by which the least of the chosen pages was chosen is at least the product of every row left out.
                let bound = |page: u32| {
                    let rows = page as usize * 8..n.min((page as usize + 1) * 8);
                    let channel = |c: usize| rows.clone().map(move |r| (r, c));
                    (0..d)
                        .map(|c| channel(c).map(|(r, c)| q[c] * keys[r * d + c]).fold(f32::NEG_INFINITY, f32::max))
                        .sum::<f32>()
                };
                let others = &pages[..pages.len() - 1];
                let least = others.iter().map(|p| bound(*p)).fold(f32::INFINITY, f32::min);
                for row in (0..n).filter(|r| !pages.contains(&((r / 8) as u32))) {
                    assert!(product(row) <= least + 1e-3, "row {row} of {n}: {} above {least}", product(row));
                }
                let mut best: Vec<usize> = (0..n).collect();
                best.sort_by(|a, b| product(*b).total_cmp(&product(*a)));
                let recall = |budget: usize| {
                    let pages = choose(&quest(8, budget, "group_max"), &all, h, &q);
                    best[..5.min(n)].iter().filter(|r| pages.contains(&((**r / 8) as u32))).count()
                };
                if seed < 3 {
                    let found: Vec<usize> = [24, 32, 48, 200].map(recall).to_vec();
                    assert!(found.windows(2).all(|w| w[0] <= w[1]) && found[3] == 5.min(n), "{found:?}");
                }
            }
        }
    }
}

/// U1 and the two accounts: a budget that holds everything changes no bit; a small one reads less and holds the pages' bytes
/// beside all rows.
#[test]
fn held_and_read_bytes_are_apart() {
    let model = bundled();
    let tokens = ids(230, 1000);
    let logits = |read: &str| {
        let mut rig = Rig::new(&model, &config(&[("kv.read", read), ("run.context", "256")])).unwrap();
        let (mut seq, first) = rig.prefill(&tokens[..200]).unwrap();
        let mut out = vec![first];
        out.extend(rig.decode(&mut seq, &tokens[200..]).unwrap());
        (out, bytes(&seq), rig.ledger.measured().moved["cache read"], rig)
    };
    let (full, held, read, _) = logits("all");
    let (same, more, all, rig) = logits("{ use = \"quest\", token_budget = 256 }");
    assert_same(&full, &same, "a budget above the rows");
    let (layers, heads) = (model.shape.layers.len() as u64, model.shape.layers[0].attention.kv_heads as u64);
    let d = rig.forward.pipeline.rows[0].d as u64;
    assert_eq!(more - held, layers * heads * 256 / 16 * 4 * d, "minima and maxima in f16 of 16 pages");
    assert_eq!(all, read);
    for gqa in ["per_query_head", "group_max"] {
        let (few, also, less, _) = logits(&format!("{{ use = \"quest\", token_budget = 48, gqa = \"{gqa}\" }}"));
        assert!(few.iter().flatten().all(|x| x.is_finite()) && also == more);
        assert!(full[0] == few[0] && full[1] != few[1], "the prompt is read densely");
        assert!(less < read * 3 / 4, "{gqa}: {less} of {read} bytes");
        if gqa == "group_max" {
            // Two layers whole, the rest the bounds of every page and three pages' rows, of which the last is partly filled.
            let row = 4 * d;
            let of = |n: u64| {
                let last = n - (n - 1) / 16 * 16;
                heads * (2 * n * row + (layers - 2) * (n.div_ceil(16) * 4 * d + (32 + last) * row))
            };
            assert_eq!(less, (201..=230).map(of).sum::<u64>());
        }
    }
}

/// With rows that leave, pages are of what is kept; with keys that are rotated anew there are none.
#[test]
fn it_goes_with_policies_and_formats_or_says_why_not() {
    let model = bundled();
    let tokens = ids(160, 1000);
    for (select, format) in [
        ("{ use = \"window\", positions = \"original\", window = 60 }", "f16"),
        ("{ use = \"window\", positions = \"original\", window = 60 }", "q8_0"),
    ] {
        let knobs = "{ use = \"quest\", token_budget = 24, page_size = 8 }";
        let pairs = [("kv.select", select), ("kv.format", format), ("kv.read", knobs), ("run.context", "256")];
        let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
        let logits = rig.logits(&tokens[..100], &tokens[100..]);
        assert!(logits.iter().flatten().all(|x| x.is_finite()));
        for alloc in ["contiguous", "paged"] {
            let mut pairs = pairs.to_vec();
            pairs.extend([
                ("kv.alloc", alloc),
                ("run.prompt", "tokens:100"),
                ("run.max_tokens", "40"),
                ("run.ignore_eos", "true"),
            ]);
            plan_holds(&model, &config(&pairs));
        }
    }
    let error = pipeline(&[("kv.read", "quest"), ("kv.select", "window")]).err().unwrap().to_string();
    assert!(error.contains("kv.read = quest") && error.contains("positions = original"), "{error}");
    let error = pipeline(&[("kv.read", "quest"), ("kv.select", "h2o")]).err().unwrap().to_string();
    assert!(error.contains("kv.read = quest") && error.contains("every row"), "{error}");
    // What is shown of the attention is by the rows held.
    for device in ["none", "thumbnails"] {
        plan_holds(
            &model,
            &config(&[
                ("kv.read", "{ use = \"quest\", token_budget = 32 }"),
                ("observe.attention", device),
                ("observe.head", "[3, 1]"),
                ("run.prompt", "tokens:300"),
                ("run.max_tokens", "20"),
                ("run.context", "512"),
                ("run.ignore_eos", "true"),
            ]),
        );
    }
}
