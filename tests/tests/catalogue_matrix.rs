//! Every entry of every axis through the properties that all techniques share, whatever they are: kv.md §1.8, weights-and-offload.md
//! §0.3, fine-tuning.md §0. No list of ids: a new entry is in the matrix by being in the catalogue.
//!
//! What a cell must hold: its plan is what its ledger measures (0 ≤ gap ≤ max(2 %, 256 KiB)) and nothing escapes it; it runs to
//! its end with finite numbers; twice the same is the same bits; where rows are kept and where weights live changes no bit.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ullage_core::catalog::{self, check_platform};
use ullage_core::config::{Axis, Config, axes};
use ullage_core::kv;
use ullage_core::ledger::{Category, Tier};
use ullage_core::model::Model;
use ullage_core::report::Report;
use ullage_core::schema::{self, About, Platform};
use ullage_tests::{Sets, of, random, run, run_dumped, sets, with};

/// The allocator counts for the whole program: one run at a time.
static ONE: Mutex<()> = Mutex::new(());

const CONTEXT: &str = "96";
/// Share of the context that a policy which drops rows is given.
const SHARE: &str = "0.25";

fn base() -> Config {
    let prompt = "tokens:40";
    ullage_tests::config(&[
        ("run.prompt", prompt),
        ("run.context", CONTEXT),
        ("run.max_tokens", "24"),
        ("run.batch", "16"),
        ("run.ignore_eos", "true"),
        ("machine.threads", "1"),
    ])
}

/// What chooses `entry`, with a budget for a policy that drops rows.
fn choose(entry: &About) -> Sets {
    let mut out = sets(&[(entry.axis.key, entry.id)]);
    if *entry.axis == axes::KV_SELECT && !keeps_all(entry) {
        out.extend(sets(&[("kv.budget.ratio", SHARE)]));
    }
    out
}

fn keeps_all(entry: &About) -> bool {
    schema::build(kv::select::ENTRIES, entry.axis.key, &entry.id.into()).unwrap().keeps_all()
}

fn name(sets: &Sets) -> String {
    sets.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

fn variants(axis: &'static Axis) -> Vec<&'static About> {
    catalog::variants(axis).collect()
}

/// The plan's law, for every tier: never low, and high by a fiftieth or 256 KiB at most.
fn planned_is_measured(report: &Report, what: &str) {
    assert_eq!(report.error, None, "{what}");
    assert_eq!(report.program.escaped, 0, "{what}: allocations beside the ledger");
    for tier in [Tier::Device, Tier::Host] {
        let (planned, measured) = (of(&report.plan.peak, tier), of(&report.measured.peak, tier));
        assert!(planned >= measured, "{what}: {tier:?} planned {planned}, measured {measured}");
        assert!(planned - measured <= (measured / 50).max(256 << 10), "{what}: {tier:?} {planned} and {measured}");
    }
}

/// Bytes of a category on the device at their most, planned and measured.
fn category(report: &Report, category: Category) -> (u64, u64) {
    let of = |bytes: &BTreeMap<Tier, _>| -> u64 {
        let all: Option<&BTreeMap<Category, u64>> = bytes.get(&Tier::Device);
        all.and_then(|c| c.get(&category)).copied().unwrap_or(0)
    };
    (of(&report.plan.bytes), of(&report.measured.bytes))
}

/// Choices that do not go together, or not with this shape, are refused with a reason and counted; anything else is an error.
fn refused(error: &ullage_core::Error, what: &str) {
    assert!(matches!(error, ullage_core::Error::Refused { reason, .. } if !reason.is_empty()), "{what}: {error}");
}

/// A run of `config`, its logits, and the law of plans; `None` where the choices do not compose.
fn cell(model: &Arc<Model>, config: &Config, what: &str) -> Option<(Report, Vec<Vec<f32>>)> {
    if let Err(error) = plan(model, config) {
        refused(&error, what);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (report, logits) = run_dumped(model, config, dir.path());
    planned_is_measured(&report, what);
    assert!(!logits.is_empty() && logits.iter().flatten().all(|v| v.is_finite()), "{what}: no number");
    let (planned, measured) = category(&report, Category::KvCache);
    assert!(measured <= planned, "{what}: the cache planned {planned}, measured {measured}");
    Some((report, logits))
}

fn plan(model: &Model, config: &Config) -> ullage_core::Result<()> {
    let workload = ullage_core::plan::Workload::default();
    ullage_core::plan::plan(&model.shape, &workload, config, &ullage_core::machine::Machine::default_guess()).map(drop)
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    ullage_tests::bits(a) == ullage_tests::bits(b)
}

/// Axes of inference that decide what is computed; layout and placement only decide where it is.
fn deciding() -> impl Iterator<Item = &'static Axis> {
    let where_only = |a: &Axis| [&axes::KV_ALLOC, &axes::PLACE_WEIGHTS, &axes::PLACE_KV].contains(&a);
    axes::all().filter(move |a| !a.key.starts_with("train.") && **a != axes::EVAL && !where_only(a))
}

/// Every choice of the axes that decide: each entry alone, each entry of the cache with every policy, and each with every format.
fn choices() -> Vec<Sets> {
    let mut out: Vec<Sets> = vec![Sets::new()];
    let mut add = |sets: Sets| {
        if !out.contains(&sets) {
            out.push(sets);
        }
    };
    for axis in deciding() {
        for entry in variants(axis) {
            add(choose(entry));
            if !axis.key.starts_with("kv.") {
                continue;
            }
            for other in [&axes::KV_SELECT, &axes::KV_FORMAT].into_iter().filter(|other| *other != axis) {
                variants(other).into_iter().for_each(|o| add([choose(o), choose(entry)].concat()));
            }
        }
    }
    out
}

/// U1, U2, U4, U8, U11, I1, I2 for every entry of the cache, the weights and their places.
#[test]
fn every_entry_of_inference_keeps_the_universal_properties() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = random("tiny", "q8_0");
    let base = base();
    let (mut cells, mut apart) = (0, 0);
    for choice in choices() {
        let Ok(config) = with(&base, &choice).inspect_err(|e| refused(e, &name(&choice))) else {
            apart += 1;
            continue;
        };
        let Some((_, logits)) = cell(&model, &config, &name(&choice)) else {
            apart += 1;
            continue;
        };
        let again = cell(&model, &config, &name(&choice)).unwrap().1;
        assert!(same_bits(&logits, &again), "{}: another run, other bits", name(&choice));
        for alloc in variants(&axes::KV_ALLOC) {
            for place in variants(&axes::PLACE_WEIGHTS) {
                for kv_place in variants(&axes::PLACE_KV) {
                    let put = [choose(alloc), choose(place), choose(kv_place)].concat();
                    let what = format!("{} {}", name(&choice), name(&put));
                    let Ok(config) = with(&config, &put).inspect_err(|e| refused(e, &what)) else {
                        apart += 1;
                        continue;
                    };
                    let Some((_, other)) = cell(&model, &config, &what) else {
                        apart += 1;
                        continue;
                    };
                    cells += 1;
                    assert!(same_bits(&logits, &other), "{what}: where it is kept changed its bits");
                }
            }
        }
    }
    println!("inference: {cells} cells ran, {apart} do not compose");
    let entries = catalog::entries().filter(|e| !e.axis.key.starts_with("train.") && *e.axis != axes::EVAL).count();
    assert!(cells > entries, "{cells} cells for {entries} entries");
}

/// U1: a policy with room for every row gives the full cache's numbers.
#[test]
fn a_policy_with_room_for_every_row_is_the_full_cache() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = random("tiny", "f32");
    let base = with(&base(), &sets(&[("kv.format", "f32")])).unwrap();
    let full = cell(&model, &base, "the full cache").unwrap().1;
    let largest = full.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
    for entry in variants(&axes::KV_SELECT).into_iter().filter(|e| !keeps_all(e)) {
        let choice = [choose(entry), sets(&[("kv.budget.ratio", "1.0")])].concat();
        let config = with(&base, &choice).unwrap();
        let (report, logits) = cell(&model, &config, entry.id).unwrap();
        assert_eq!(report.evicted, 0, "{}: dropped rows that had room", entry.id);
        let apart = full.iter().flatten().zip(logits.iter().flatten()).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        // Keys rotated when read differ by one rounding from keys rotated when written.
        assert!(apart <= 1e-4 * largest, "{}: {apart} of {largest}", entry.id);
    }
}

/// Plan = ledger, finite losses and determinism for every combination of what a training is made of; axes that say how it is
/// computed, and not what, change no bit of the losses.
#[test]
fn every_combination_of_training_is_planned_as_measured() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let model = random("tiny", "q8_0");
    let base = ullage_tests::config(&[
        ("run.prompt", "tokens:4"),
        ("machine.threads", "1"),
        ("train.data", "tokens:6"),
        ("train.steps", "2"),
        ("train.batch", "2"),
        ("train.length", "16"),
        ("train.validation", "0.2"),
        ("train.samples", "0"),
    ]);
    let of_training: Vec<_> = axes::all().filter(|a| a.key.starts_with("train.")).collect();
    let mut all: Vec<Sets> = vec![Sets::new()];
    for axis in of_training.iter().filter(|a| ***a != axes::TRAIN_ORDER) {
        let longer = |part: &Sets| {
            let part = part.clone();
            variants(axis).into_iter().map(move |e| [part.clone(), choose(e)].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all.extend(variants(&axes::TRAIN_ORDER).into_iter().map(choose));
    let mut losses: BTreeMap<Sets, Vec<(u64, u64)>> = BTreeMap::new();
    let (mut cells, mut apart) = (0, 0);
    for choice in all {
        let what = name(&choice);
        let Ok(config) = with(&base, &choice).inspect_err(|e| refused(e, &what)) else {
            apart += 1;
            continue;
        };
        if let Err(error) = plan(&model, &config) {
            refused(&error, &what);
            apart += 1;
            continue;
        }
        let report = run(&model, &config);
        planned_is_measured(&report, &what);
        for c in [Category::Gradients, Category::Optimizer, Category::Activations, Category::Logits] {
            let (planned, measured) = category(&report, c);
            assert!(planned >= measured, "{what}: {c:?} planned {planned}, measured {measured}");
            assert!(planned - measured <= (measured / 50).max(4 << 10), "{what}: {c:?} {planned} for {measured}");
        }
        let steps = report.train.unwrap().steps_table;
        assert!(steps.len() == 2 && steps.iter().all(|(_, loss, ..)| loss.is_finite()), "{what}: {steps:?}");
        let bits: Vec<_> = steps.iter().map(|(step, loss, ..)| (*step, loss.to_bits())).collect();
        let rest: Sets = choice.into_iter().filter(|(k, _)| k != axes::TRAIN_ACTIVATIONS.key).collect();
        let first = losses.entry(rest).or_insert_with(|| bits.clone());
        assert!(*first == bits, "{what}: what is kept changed the loss");
        cells += 1;
    }
    println!("training: {cells} combinations ran, {apart} do not compose");
}

/// An entry that does not say it runs on a GPU is refused there by name, and one that says so plans.
#[test]
fn a_gpu_runs_what_says_so_and_refuses_the_rest_by_name() {
    let model = random("tiny", "q8_0");
    let training = sets(&[("train.data", "tokens:6"), ("train.length", "16")]);
    let (mut runs, mut not) = (0, 0);
    for entry in catalog::entries().filter(|e| *e.axis != axes::EVAL) {
        let mut all = sets(&[("machine.device", "cuda:0")]);
        all.extend(if entry.axis.key.starts_with("train.") { training.clone() } else { Sets::new() });
        all.extend(choose(entry));
        let Ok(config) = with(&base(), &all).inspect_err(|e| refused(e, entry.id)) else { continue };
        match (check_platform(&config), entry.runs(Platform::Cuda)) {
            (Ok(()), true) => runs += 1,
            (Err(e), false) => {
                let text = e.to_string();
                assert!(text.contains(entry.axis.key) && text.contains(entry.id) && text.contains("a GPU"), "{text}");
                assert!(plan(&model, &config).is_err(), "{}: planned on a GPU that does not run it", entry.id);
                not += 1;
            }
            (said, says) => panic!("{} = {}: runs_on says {says}, the check {said:?}", entry.axis.key, entry.id),
        }
    }
    println!("GPU: {runs} entries run there, {not} are refused by name");
    assert!(runs > 0 && not > 0);
}
