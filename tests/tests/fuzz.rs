//! Every fuzz target over its seeds, its corpus and mutations of both: never a panic, never long, never more memory than the input
//! warrants; and drawn configurations, planned and run.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use ullage_core::catalog;
use ullage_core::config::settings::SETTINGS;
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_tests::fuzz::mutate::{Dice, mutate};
use ullage_tests::fuzz::{TARGETS, Target, draw, ran};

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// Peaks are counted for the process: one measurement at a time.
static ONE: Mutex<()> = Mutex::new(());

/// How many mutations each reader gets, and how many configurations are drawn: few where nobody asks for more.
fn times(variable: &str, few: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).unwrap()
}

/// Runs `bytes`, which are sound or not, and holds what that takes against what is allowed.
fn holds(target: &Target, name: &str, bytes: &[u8]) -> bool {
    let done = ran(target, bytes);
    if let Some(fault) = done.fault(target, bytes.len()) {
        panic!("{} {name}: {fault}\n{}", target.name, (target.tell)(bytes));
    }
    done.sound
}

#[test]
fn seeds_and_corpora_and_mutations_of_them_are_answered() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    // Configurations have tests of their own below.
    for target in TARGETS.iter().filter(|t| !t.name.starts_with("draw")) {
        let inputs = target.inputs();
        let sound = inputs.iter().filter(|(name, bytes)| holds(target, name, bytes)).count();
        assert!(sound > 0, "{}: no seed is sound", target.name);
        let all: Vec<Vec<u8>> = inputs.into_iter().map(|(_, bytes)| bytes).collect();
        let mut dice = Dice::new(26);
        let runs = times("ULLAGE_FUZZ_RUNS", 150);
        for i in 0..runs {
            let mut bytes = all[dice.below(all.len())].clone();
            mutate(target, &mut bytes, &all, &mut dice);
            holds(target, &format!("mutation {i}"), &bytes);
        }
        println!("{}: {} inputs, {sound} sound, {runs} mutations", target.name, all.len());
    }
}

#[test]
fn a_fault_is_found() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let plain = target("toml");
    let faulty = |run: fn(&[u8]) -> bool| {
        let t = Target { run, longest: std::time::Duration::from_millis(1), ..*plain };
        ran(&t, b"x").fault(&t, 1).unwrap_or_default()
    };
    assert!(faulty(|bytes| bytes[7] == 0).starts_with("panics: index out of bounds"));
    let sleeps = |_: &[u8]| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        true
    };
    assert!(faulty(sleeps).starts_with("takes"));
    assert!(faulty(|_| std::hint::black_box(vec![1u8; 64 << 20])[3] == 1).starts_with("holds 6"));
    assert_eq!(faulty(|_| true), "");
}

#[test]
fn a_wrapper_stands_for_every_target() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let bins: Vec<&str> = table["bin"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert_eq!(bins, names);
}

#[test]
fn every_key_is_drawn() {
    let (keys, untold) = draw::size();
    println!("{keys} keys, {untold} of them choices or in no table");
    let knobs = catalog::entries().flat_map(|e| e.knobs.iter().map(|k| k.id));
    for key in SETTINGS.iter().map(|s| s.key).chain(knobs) {
        assert!(draw::names().any(|n| n == key || n.ends_with(&format!(".{key}"))), "{key}");
    }
    // Keys of no table, by what the configuration itself says that it takes.
    for key in ["kv.budget.rows", "train.save_every", "observe.head", "weights.override"] {
        assert!(draw::names().any(|n| n == key), "{key}");
    }
    let mut seen: std::collections::BTreeSet<String> = Default::default();
    let mut dice = Dice::new(3);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..64).map(|_| dice.next_u64() as u8).collect();
        seen.extend(draw::draw(&mut draw::Choices::new(&bytes)).into_iter().map(|(k, _)| k));
    }
    let missing: Vec<_> = draw::names().filter(|n| !seen.contains(*n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn drawn(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 3..most)
}

fn cases(variable: &str, few: usize) -> ProptestConfig {
    // Shrinking runs what hangs or takes long again and again.
    let cases = times(variable, few) as u32;
    // The same few everywhere; who asks for more gets others each time.
    let rng_seed = if cases as usize == few { RngSeed::Fixed(26) } else { RngSeed::Random };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 64, rng_seed, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases("ULLAGE_FUZZ_PLANS", 300))]
    #[test]
    fn drawn_configurations_plan_or_say_why_not(bytes in drawn(80)) {
        let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
        holds(target("draw_plan"), "a drawn configuration", &bytes);
    }
}

proptest! {
    #![proptest_config(cases("ULLAGE_FUZZ_JOBS", 40))]
    #[test]
    fn drawn_configurations_run_or_say_why_not(bytes in drawn(60)) {
        let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
        holds(target("draw_run"), "a drawn configuration", &bytes);
    }
}

/// What was found once stays mended.
#[test]
fn configurations_that_failed_once_are_answered() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    for target in ["draw_plan", "draw_run"].map(target) {
        for (name, bytes) in target.inputs().into_iter().filter(|(name, _)| !name.starts_with("seed")) {
            holds(target, &name, &bytes);
        }
    }
}
