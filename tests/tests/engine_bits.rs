//! What only changes memory or speed gives the same bits: logits compared exactly, through whole jobs.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use ullage_core::model::Model;
use ullage_tests::{Rig, assert_same, bundled, config, ids, open, random, run_dumped, smollm2};

type RopeLayout = &'static [(&'static str, &'static str)];

/// Ways to run the same computation.
const SAME: &[(&str, RopeLayout)] = &[
    ("one thread", &[("machine.threads", "1")]),
    ("three threads", &[("machine.threads", "3")]),
    ("batches of 1", &[("run.batch", "1")]),
    ("batches of 7", &[("run.batch", "7")]),
    ("batches of 64", &[("run.batch", "64"), ("machine.threads", "1")]),
    ("paged by 1", &[("kv.alloc", "paged"), ("kv.alloc.block", "1")]),
    ("paged by 16", &[("kv.alloc", "paged"), ("kv.alloc.block", "16"), ("run.batch", "7")]),
    ("paged by 33", &[("kv.alloc", "paged"), ("kv.alloc.block", "33"), ("machine.threads", "1")]),
    ("streamed from disk", &[("place.weights", "stream"), ("place.weights.prefetch", "0")]),
    (
        "streamed from disk, 1 ahead",
        &[("place.weights", "stream"), ("place.weights.prefetch", "1"), ("run.batch", "64")],
    ),
    (
        "streamed from disk, 2 ahead",
        &[("place.weights", "stream"), ("place.weights.prefetch", "2"), ("machine.threads", "1")],
    ),
    (
        "streamed from host",
        &[("place.weights", "stream"), ("place.weights.from", "host"), ("place.weights.prefetch", "0")],
    ),
    (
        "streamed from host, 2 ahead",
        &[("place.weights", "stream"), ("place.weights.from", "host"), ("place.weights.prefetch", "2")],
    ),
    (
        "streamed, 4 ahead, paged, batches of 33",
        &[("place.weights", "stream"), ("place.weights.prefetch", "4"), ("kv.alloc", "paged"), ("run.batch", "33")],
    ),
    ("three sequences", &[("run.sequences", "3")]),
    (
        "three sequences, streamed, paged",
        &[("run.sequences", "3"), ("place.weights", "stream"), ("kv.alloc", "paged"), ("kv.alloc.block", "1")],
    ),
    ("observed", &[("observe.attention", "thumbnails")]),
    ("one head observed", &[("observe.attention", "none"), ("observe.head", "[1, 3]"), ("run.batch", "33")]),
    ("both observed, three sequences", &[("observe.head", "[0, 0]"), ("run.sequences", "3")]),
    ("a tight wall", &[("budget.device", "64 MiB")]),
];

/// What is computed: each of these may give other logits than the rest, never than itself.
const BASES: &[(&str, RopeLayout)] = &[
    ("full f32", &[("kv.format", "f32")]),
    ("full f16", &[]),
    ("full q8_0 q4_0", &[("kv.format.k", "q8_0"), ("kv.format.v", "q4_0")]),
    ("window", &[("kv.select", "window"), ("kv.budget.rows", "50")]),
    ("window, original", &[("kv.select", "window"), ("kv.select.positions", "original"), ("kv.budget.rows", "50")]),
    ("h2o", &[("kv.select", "h2o"), ("kv.budget.rows", "50")]),
];

fn same_bits(model: &Arc<Model>, prompt: &str, bases: &[(&str, RopeLayout)], tokens: &str) {
    for (base, pairs) in bases {
        let mut common = vec![
            ("run.prompt", prompt),
            ("run.max_tokens", tokens),
            ("run.context", "256"),
            ("run.ignore_eos", "true"),
            ("machine.threads", "2"),
        ];
        common.extend_from_slice(pairs);
        let logits = |more: RopeLayout| {
            let dir = tempfile::tempdir().unwrap();
            let pairs: Vec<_> = common.iter().chain(more).copied().collect();
            let (report, rows) = run_dumped(model, &config(&pairs), dir.path());
            let tokens: Vec<_> = report.output.into_iter().map(|o| o.tokens).collect();
            (rows, tokens)
        };
        let (reference, tokens) = logits(&[]);
        assert!(reference.iter().flatten().all(|v| v.is_finite()), "{base}: not finite");
        for (name, more) in SAME {
            let (rows, others) = logits(more);
            assert_same(&reference, &rows, &format!("{base}, {name}"));
            assert!(others.iter().all(|t| *t == tokens[0]), "{base}, {name}: other tokens");
        }
    }
}

const PROMPT: &str = "\"The sky is blue. code QZTF -> 58 code ABCD -> 12 Once upon a time there was a small fox in the forest. It walked past the tall door and saw a lamb near the harbour. code QZTF ->\"";

#[test]
fn the_bundled_model_has_the_same_bits_however_it_is_run() {
    same_bits(&bundled(), PROMPT, BASES, "8");
}

#[test]
fn random_models_have_the_same_bits_however_they_are_run() {
    // Types with kernels of their own, and widths that no tile divides. A random model is streamed from its generator.
    for ty in ["f16", "q4_0", "f32"] {
        same_bits(&random("tiny", ty), "tokens:100", &BASES[1..], "6");
    }
}

#[test]
fn smollm2_has_the_same_bits_however_it_is_run() {
    let Some(model) = smollm2() else { return };
    let prompt = "\"Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice she had peeped into the book her sister was reading.\"";
    let common = [("run.prompt", prompt), ("run.max_tokens", "3"), ("run.context", "64")];
    let logits = |more: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        let pairs: Vec<_> = common.iter().chain(more).copied().collect();
        run_dumped(&model, &config(&pairs), dir.path()).1
    };
    let reference = logits(&[("machine.threads", "2")]);
    for more in [
        &[("machine.threads", "1"), ("run.batch", "7")][..],
        &[("place.weights", "stream"), ("place.weights.prefetch", "1")],
        &[("kv.alloc", "paged"), ("kv.alloc.block", "33"), ("run.sequences", "3")],
    ] {
        assert_same(&reference, &logits(more), &format!("{more:?}"));
    }
}

/// U1: a budget that holds every row drops none and changes no bit.
#[test]
fn a_budget_that_holds_all_rows_is_the_full_cache() {
    let model = bundled();
    let (prompt, forced) = (ids(70, 1024), ids(20, 1000));
    let logits = |pairs: &[(&str, &str)]| {
        let all: Vec<_> = [("run.context", "96")].iter().chain(pairs).copied().collect();
        Rig::new(&model, &config(&all)).unwrap().logits(&prompt, &forced)
    };
    for format in ["f32", "f16", "q8_0", "q4_0"] {
        let full = logits(&[("kv.format", format)]);
        for (name, pairs) in [
            ("h2o by ratio", &[("kv.select", "h2o"), ("kv.budget.ratio", "1.0")][..]),
            ("h2o by rows", &[("kv.select", "h2o"), ("kv.budget.rows", "90")]),
            (
                "h2o by its own sizes",
                &[("kv.select", "h2o"), ("kv.select.hh_size", "40"), ("kv.select.recent_size", "50")],
            ),
            ("window, original", &[("kv.select", "window"), ("kv.select.positions", "original")]),
            (
                "window by rows",
                &[("kv.select", "window"), ("kv.select.positions", "original"), ("kv.budget.rows", "90")],
            ),
        ] {
            let all: Vec<_> = [("kv.format", format)].iter().chain(pairs).copied().collect();
            assert_same(&full, &logits(&all), &format!("{name} in {format}"));
        }
    }
    // Mode B rounds keys before their rotation and mode A after it, so only a cache that rounds nothing can agree.
    let full = logits(&[("kv.format", "f32")]);
    let reindexed = logits(&[("kv.format", "f32"), ("kv.select", "window"), ("kv.select.positions", "reindex")]);
    assert_same(&full, &reindexed, "window, reindexed, in f32");
}

/// Running the same order twice, beside another run, gives the same tokens: no state is left behind (U8, U9).
#[test]
fn runs_leave_nothing_behind() {
    let model = random("tiny", "q8_0");
    let mut rig =
        Rig::new(&model, &config(&[("run.context", "128"), ("kv.select", "h2o"), ("kv.budget.rows", "24")])).unwrap();
    let (a, b) = (ids(60, 160), ids(45, 150));
    let first = rig.logits(&a, &b[..10]);
    rig.logits(&b, &a[..20]);
    rig.logits(&a[..1], &b);
    assert_same(&first, &rig.logits(&a, &b[..10]), "after other prompts");
    assert_eq!(
        rig.ledger.measured().rows["device.kv_cache.kv rows"],
        2 * 3 * (24 + 1) * (2 * 64 + 8),
        "one sequence at a time"
    );
}

/// The logits of a dump are those of the forward pass, and their header is right.
#[test]
fn a_dump_is_what_was_computed() {
    let model = open("bundled:recall");
    let config =
        config(&[("run.prompt", PROMPT), ("run.max_tokens", "5"), ("run.context", "128"), ("run.ignore_eos", "true")]);
    let dir = tempfile::tempdir().unwrap();
    let (report, rows) = run_dumped(&model, &config, dir.path());
    let prompt = model.tokenizer().unwrap().unwrap().encode(&config.run.prompt, true, false);
    let tokens = &report.output[0].tokens;
    assert_eq!(tokens.len(), 5);
    let mine = Rig::new(&model, &config).unwrap().logits(&prompt, &tokens[..4]);
    assert_same(&mine, &rows, "dump");
    let bytes = std::fs::read(Path::new(dir.path()).join("logits.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().shape(), [5, 1024]);
}
