//! The n-th reservation of a job fails, for every n, as if the system had no memory: a clean error, everything given back, and the next
//! run is as if nothing had been. Phases: load, prefill, decode, the steps of a training, what it writes, evaluations.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ullage_core::config::axes;
use ullage_core::job::fault;
use ullage_core::ledger::alloc::{CountingAlloc, counts};
use ullage_core::ledger::{Held, Phase};
use ullage_core::model::Model;
use ullage_core::report::Report;
use ullage_core::{catalog, config::Config};
use ullage_tests::{Sets, bundled, dumped, events, order, random, sets, with};

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// The allocator counts for the whole program: one walk at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Failures tried of one job at most, `few` where nobody asks for more; where it reserves more often they are spread over all of it.
fn most(few: u64) -> u64 {
    std::env::var("ULLAGE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// What a run came to, as bits: its tokens, its logits, its losses, its figures.
#[derive(Debug, PartialEq)]
struct Bits {
    tokens: Vec<Vec<u32>>,
    logits: Vec<Vec<u32>>,
    losses: Vec<u64>,
    eval: String,
}

fn bits(report: &Report, dump: &Path) -> Bits {
    let file = dump.join("logits.safetensors");
    let logits = if file.is_file() { dumped(&file) } else { Vec::new() };
    let steps = report.train.as_ref().map_or(&[][..], |t| &t.steps_table);
    Bits {
        tokens: report.output.iter().map(|o| o.tokens.clone()).collect(),
        logits: ullage_tests::bits(&logits),
        losses: steps.iter().map(|(_, loss, ..)| loss.to_bits()).collect(),
        eval: format!("{:?}", report.eval),
    }
}

/// Runs `config` with its `n`-th reservation failing (0 for none): the report, its bits, the phase in which the ledger ended and how
/// often it was asked.
fn run(model: &Arc<Model>, config: &Config, n: u64) -> (Report, Bits, Phase, u64) {
    let dir = tempfile::tempdir().unwrap();
    let watched = fault::arm_reservation(&config.run.prompt, n);
    let before = counts().payload;
    let mut order = order(model, config);
    order.base = dir.path().into();
    order.dump = config.train.is_none().then(|| dir.path().join("dump"));
    let report = events(order).1;
    let ledger = watched.get().expect("the job never had a ledger");
    assert_eq!(ledger.now(), Held::default(), "reservation {n}: the ledger is not back at its start");
    assert_eq!(counts().payload, before, "reservation {n}: memory is still held");
    let bits = bits(&report, &dir.path().join("dump"));
    (report, bits, ledger.phase(), ledger.reservations())
}

/// The last reservation of loading: those after it fail in another phase.
fn loaded(model: &Arc<Model>, config: &Config, from: u64, all: u64) -> u64 {
    let (mut low, mut high) = (from, all);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if run(model, config, middle).2 == Phase::Load { low = middle } else { high = middle - 1 }
    }
    low
}

/// Walks n over the reservations of `config` from number `from` on, about `few` of loading and as many of what comes after; tells
/// how many failed in each phase.
fn walk(what: &str, model: &Arc<Model>, config: &Config, from: u64, few: u64) {
    let (report, plain, _, all) = run(model, config, 0);
    assert_eq!(report.error, None, "{what}");
    let loaded = loaded(model, config, from, all);
    let mut failed: BTreeMap<Phase, u64> = BTreeMap::new();
    let mut told = Vec::new();
    for (first, last) in [(from, loaded), (loaded, all)] {
        let stride = (last - first).div_ceil(most(few)).max(1);
        told.push(format!("{} to {last} each {stride}.", first + 1));
        for (i, n) in (first + 1..=last).step_by(stride as usize).enumerate() {
            let (report, _, phase, asked) = run(model, config, n);
            let error = report.error;
            let error =
                error.unwrap_or_else(|| panic!("{what}: reservation {n} of {all} failed, and the run went through"));
            assert_eq!((error.kind.as_str(), error.code), ("over_budget", 3), "{what}: {n}: {}", error.message);
            assert!(error.message.contains("no memory left") && asked >= n, "{what}: {n}: {}", error.message);
            *failed.entry(phase).or_default() += 1;
            if i % 8 == 7 {
                assert!(run(model, config, 0).1 == plain, "{what}: after reservation {n} failed, other bits");
            }
        }
    }
    assert!(run(model, config, all + 1).1 == plain, "{what}: one failure after the last, and other bits");
    let phases: Vec<_> = failed.iter().map(|(p, n)| format!("{p} {n}")).collect();
    println!("{what}: {all} reservations, {} fail; by phase: {}", told.join(", "), phases.join(", "));
}

fn config(prompt: &str, pairs: &[&[(&str, &str)]]) -> Config {
    let small: &[(&str, &str)] = &[
        ("run.prompt", prompt),
        ("run.context", "40"),
        ("run.max_tokens", "6"),
        ("run.batch", "8"),
        ("run.ignore_eos", "true"),
        ("machine.threads", "1"),
    ];
    ullage_tests::config(&[small].into_iter().chain(pairs.iter().copied()).flatten().copied().collect::<Vec<_>>())
}

#[test]
fn load_prefill_and_decode_survive_every_failed_reservation() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = random("tiny", "q8_0");
    // Prompts are the names by which jobs are armed: each walk has its own.
    let walks: [(&str, &[(&str, &str)]); 6] = [
        ("resident", &[("run.sequences", "2"), ("run.sampling.temperature", "1")]),
        ("streamed", &[("place.weights", "{ use = \"stream\", from = \"host\" }")]),
        ("split", &[("place.weights", "split"), ("weights.format", "q4_0")]),
        ("paged", &[("kv.alloc", "{ use = \"paged\", block = 4 }"), ("kv.format.k", "q8_0"), ("kv.format.v", "q4_0")]),
        ("dropping", &[("kv.select", "h2o"), ("kv.merge", "d2o"), ("kv.budget.rows", "12")]),
        ("shown", &[("observe.head", "[0, 1]"), ("kv.read", "quest"), ("kv.select", "full")]),
    ];
    for (i, (what, pairs)) in walks.into_iter().enumerate() {
        walk(what, &model, &config(&format!("tokens:{}", 20 + i), &[pairs]), 0, 200);
    }
}

#[test]
fn evaluations_survive_every_failed_reservation() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = bundled();
    let plain = config("An evaluation", &[&[("run.max_tokens", "1")]]);
    let generating = run(&model, &plain, 0).3;
    let asked: Sets =
        sets(&[("eval.perplexity.windows", "1"), ("eval.perplexity.prompt", "8"), ("eval.perplexity.tokens", "4")]);
    let config = with(&plain, &asked).unwrap();
    walk("an evaluation", &model, &config, generating, 16);
}

#[test]
fn trainings_and_what_they_write_survive_every_failed_reservation() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = random("tiny", "f32");
    let train: &[(&str, &str)] = &[
        ("train.data", "tokens:6"),
        ("train.steps", "2"),
        ("train.batch", "2"),
        ("train.length", "8"),
        ("train.validation", "0.2"),
        ("train.samples", "0"),
    ];
    // Everything a training is made of, in turn, from the catalogue; the last one writes too.
    let kinds = axes::all().filter(|a| a.key.starts_with("train."));
    let entries = kinds.flat_map(catalog::variants).map(|e| (e.axis.key, e.id));
    let (mut walked, mut apart) = (0, Vec::new());
    for (i, (key, id)) in entries.enumerate() {
        let prompt = format!("tokens:{}", 10 + i);
        let hold = ("train.grad_hold", if i % 2 == 0 { "all" } else { "layer" });
        // What does not go with an adapter is tried with all weights.
        let tried = [("", ""), ("train.params", "full")].into_iter().find_map(|more| {
            let chosen = [hold, more, (key, id)];
            let all = train.iter().chain(&chosen).filter(|(_, v)| !v.is_empty());
            let sets: Vec<_> = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let config = with(&config(&prompt, &[]), &sets).ok()?;
            run(&model, &config, 0).0.error.is_none().then_some(config)
        });
        let what = format!("{key} = {id}");
        let Some(config) = tried else {
            apart.push(what);
            continue;
        };
        walked += 1;
        walk(&what, &model, &config, 0, 12);
        if key == axes::TRAIN_PARAMS.key {
            let more = [("train.out", "out"), ("train.save_every", "1"), ("train.validate_every", "1")];
            walk(&format!("{what}, written"), &model, &with(&config, &ullage_tests::sets(&more)).unwrap(), 0, 12);
        }
    }
    println!("{walked} kinds of training; not walked: {apart:?}");
    assert!(walked > apart.len(), "{apart:?}");
}
