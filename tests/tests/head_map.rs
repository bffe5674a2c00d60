//! `observe.head`: what one head looks at, against an independent forward pass; and what keeping it costs.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ullage_core::job::Event;
use ullage_core::ledger::Tier;
use ullage_core::model::Model;
use ullage_core::plan::{self, Workload};
use ullage_core::report::Report;
use ullage_tests::naive::Naive;
use ullage_tests::{bundled, config, events, order, random, started};

/// One query's row: positions and weights.
type Row = (Vec<u32>, Vec<u8>);

/// Rows of sequence `id` by the query's position, each told once; the generated tokens; and `(step, position)` of what left
/// the KV head `(layer, head)`.
struct Told {
    rows: BTreeMap<usize, Row>,
    tokens: Vec<u32>,
    left: Vec<(usize, u32)>,
    report: Report,
    planned: ullage_core::ledger::Measured,
}

fn told(model: &Arc<Model>, pairs: &[(&str, &str)], id: usize, kv: (u16, u16)) -> Told {
    let (events, report) = events(order(model, &config(pairs)));
    assert_eq!(report.error, None);
    let mut rows = BTreeMap::new();
    let mut left = Vec::new();
    for e in &events {
        match &e.event {
            Event::HeadMap { sequence, query, runs, weights, .. } if *sequence == id => {
                let positions: Vec<u32> = runs.iter().flat_map(|(first, n)| *first..first + n).collect();
                assert_eq!(positions.len(), weights.len());
                assert!(rows.insert(*query, (positions, weights.clone())).is_none(), "query {query} told twice");
            }
            Event::Evicted { sequence, step, rows, .. } if *sequence == id => {
                left.extend(rows.iter().filter(|(l, h, _)| (*l, *h) == kv).map(|(_, _, p)| (*step, *p)));
            }
            _ => {}
        }
    }
    let planned = started(&events).unwrap().bytes.clone();
    Told { rows, tokens: report.output[id].tokens.clone(), left, report, planned }
}

/// The prompt of a random model, `tokens:N`.
fn prompt(model: &Model, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 13) % model.shape.vocab) as u32).collect()
}

#[test]
fn every_query_of_prompt_and_decoding_is_told_with_the_weights_of_the_naive_pass() {
    let model = random("tiny", "f32");
    let naive = Naive::new(&model);
    let heads = model.shape.layers[0].attention.heads;
    for (layer, head, batch) in [(0, 0, "512"), (1, heads - 1, "7"), (1, 1, "1")] {
        let at = format!("[{layer}, {head}]");
        let told = told(
            &model,
            &[
                ("run.prompt", "tokens:50"),
                ("run.max_tokens", "9"),
                ("run.context", "100"),
                ("run.batch", batch),
                ("run.ignore_eos", "true"),
                ("kv.format", "f32"),
                ("observe.head", &at),
            ],
            0,
            (0, 0),
        );
        let tokens: Vec<u32> = prompt(&model, 50).into_iter().chain(told.tokens).collect();
        // The last chosen token is never fed.
        assert_eq!(told.rows.keys().copied().collect::<Vec<_>>(), (0..58).collect::<Vec<_>>());
        let mut cache = naive.cache();
        for (i, token) in tokens.iter().take(58).enumerate() {
            let (_, paid) = naive.step(*token, |_, _| i, &mut cache);
            let (positions, weights) = &told.rows[&i];
            assert_eq!(*positions, (0..=i as u32).collect::<Vec<_>>());
            for (w, expected) in weights.iter().zip(&paid[layer][head]) {
                let expected = 255.0 * expected.sqrt();
                assert!((f64::from(*w) - expected).abs() < 0.6, "[{layer}, {head}] query {i}: {w} is not {expected}");
            }
        }
    }
}

#[test]
fn positions_are_those_of_the_rows_that_stayed() {
    let (model, prompt) = (random("tiny", "q4_0"), 60u32);
    let base = [
        ("run.prompt", "tokens:60"),
        ("run.max_tokens", "30"),
        ("run.context", "100"),
        ("run.ignore_eos", "true"),
        ("kv.budget.rows", "20"),
        ("observe.head", "[1, 0]"),
    ];
    for (alloc, batch) in [("contiguous", "512"), ("paged", "16")] {
        let run = |more: &[(&str, &str)], kv| {
            let more = [("kv.alloc", alloc), ("run.batch", batch)].into_iter().chain(more.iter().copied());
            told(&model, &base.iter().copied().chain(more).collect::<Vec<_>>(), 0, kv)
        };
        // First tokens and the most recent ones: known without looking.
        let window = run(&[("kv.select", "window"), ("kv.select.positions", "original")], (1, 0));
        for (query, (positions, _)) in &window.rows {
            let q = *query as u32;
            let expected: Vec<u32> = if q < prompt { (0..=q).collect() } else { (0..4).chain(q - 15..=q).collect() };
            assert_eq!(*positions, expected, "query {q}");
        }
        // Heavy hitters: what a step's row holds is what the row before held, less what was told to leave, and the query itself.
        let h2o = run(&[("kv.select", "h2o")], (1, 0));
        assert_eq!(h2o.rows.len(), 60 + 29);
        let mut before: Option<BTreeSet<u32>> = None;
        for step in 1..30usize {
            let query = 60 + step - 1;
            let now: BTreeSet<u32> = h2o.rows[&query].0.iter().copied().collect();
            assert_eq!((now.len(), now.last().copied()), (21, Some(query as u32)), "the quota and the newcomer");
            if let Some(before) = before {
                let gone: BTreeSet<u32> = h2o.left.iter().filter(|(s, _)| *s == step - 1).map(|(_, p)| *p).collect();
                assert_eq!(gone.len(), 1);
                let expected: BTreeSet<u32> = before.difference(&gone).copied().chain([query as u32]).collect();
                assert_eq!(now, expected, "step {step}");
            }
            before = Some(now);
        }
    }
}

#[test]
fn sequences_are_told_apart_and_each_row_sums_to_one() {
    let model = bundled();
    let pairs = [
        ("run.prompt", "\"The sky is blue. Once upon a time\""),
        ("run.max_tokens", "6"),
        ("run.sequences", "3"),
        ("run.ignore_eos", "true"),
        ("run.sampling.temperature", "1.0"),
        ("kv.select", "window"),
        ("observe.head", "[7, 7]"),
    ];
    let all: Vec<Told> = (0..3).map(|id| told(&model, &pairs, id, (7, 3))).collect();
    // The prompt was read once, by the first; the others tell what they decode.
    assert!(all[0].rows.len() > all[1].rows.len() && all[1].rows.keys().eq(all[2].rows.keys()));
    assert_eq!(all[1].rows.len(), 5);
    for (positions, weights) in all.iter().flat_map(|t| t.rows.values()) {
        let sum: f64 = weights.iter().map(|w| (f64::from(*w) / 255.0).powi(2)).sum();
        assert!((sum - 1.0).abs() < 0.05, "{sum} over {positions:?}");
    }
}

#[test]
fn what_it_costs_is_planned_to_the_byte_and_never_on_the_device() {
    let model = random("tiny", "f16");
    for more in [
        &[][..],
        &[("run.batch", "16")],
        &[("kv.select", "h2o"), ("kv.budget.rows", "20"), ("run.sequences", "3")],
        &[("kv.select", "window"), ("kv.budget.rows", "30"), ("kv.alloc", "paged")],
        &[("observe.attention", "none"), ("eval.perplexity.prompt", "20"), ("eval.perplexity.tokens", "10")],
    ] {
        let eval = more.iter().any(|(k, _)| k.starts_with("eval"));
        let model = if eval { bundled() } else { Arc::clone(&model) };
        let text = if eval { "Once upon a time" } else { "tokens:70" };
        let base = [("run.prompt", text), ("run.max_tokens", "12"), ("run.context", "128"), ("run.ignore_eos", "true")];
        let pairs: Vec<_> = base.iter().chain(more).copied().collect();
        let plain = told(&model, &pairs, 0, (0, 0));
        let shown: Vec<_> = pairs.iter().copied().chain([("observe.head", "[1, 2]")]).collect();
        let shown = told(&model, &shown, 0, (0, 0));
        let rows = |m: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            m.iter().filter(|(k, _)| k.contains("observation")).map(|(k, v)| (k.clone(), *v)).collect()
        };
        let planned = rows(&shown.planned.rows);
        assert_eq!(planned, rows(&shown.report.measured.rows), "{more:?}");
        assert!(planned["host.observation.head map"] > 0 && planned["host.observation.row positions"] > 0);
        assert_eq!(shown.planned.tiers[&Tier::Device], plain.planned.tiers[&Tier::Device], "{more:?}");
        assert_eq!(shown.report.measured.peak[&Tier::Device], plain.report.measured.peak[&Tier::Device]);
        assert_eq!(shown.tokens, plain.tokens);
    }
}

#[test]
fn the_limit_ends_it_and_a_head_that_is_not_there_is_refused() {
    let model = random("tiny", "f16");
    let base =
        [("run.prompt", "tokens:40"), ("run.max_tokens", "5"), ("run.context", "64"), ("observe.head", "[0, 1]")];
    let with = |limit: &str| {
        let pairs: Vec<_> = base.iter().copied().chain([("observe.limit", limit)]).collect();
        told(&model, &pairs, 0, (0, 0)).rows.len()
    };
    assert_eq!(with("1 MiB"), 44);
    // Queries 0, 1, 2, … cost 1 + 8, 2 + 8, 3 + 8, … bytes.
    assert_eq!((with("30 B"), with("29 B"), with("0 B")), (3, 2, 0));
    for (head, device, words) in [
        ("[3, 0]", "cpu", "observe.head: there is no head [3, 0]"),
        ("[0, 99]", "cpu", "observe.head: there is no head [0, 99]"),
        ("[0, 1]", "cuda:0", "observe.head is refused: a GPU keeps nothing"),
    ] {
        let config = config(&[("observe.head", head), ("machine.device", device), ("run.context", "64")]);
        let work = Workload::generate(&config, 10, false);
        let machine = ullage_core::machine::Machine::default_guess();
        let error = plan::plan(&model.shape, &work, &config, &machine).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
