//! The catalogue of inference on every architecture: each entry alone, and each policy of the cache with each of its formats. A cell runs
//! to its end with finite numbers within its plan, or is refused with a reason; what only says where things lie changes no bit, and a
//! policy with room for every row changes nothing. Architectures are those of `fixtures/arch`, wider, with random weights.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use ullage_core::catalog;
use ullage_core::config::{Config, axes};
use ullage_core::kv;
use ullage_core::ledger::{Category, Tier};
use ullage_core::model::Model;
use ullage_core::plan::{Workload, plan};
use ullage_core::report::Report;
use ullage_core::schema::{self, About};
use ullage_tests::{Rig, Sets, bits, config, fixture, of, open, run_dumped, sets, with};

/// The allocator counts for the whole program: one run at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The fixtures, by name.
fn names() -> Vec<String> {
    let names = std::fs::read_dir(fixture("arch")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The architecture of a fixture with heads of 32 elements, which every format of the cache can hold.
fn wide(name: &str, folder: &Path) -> Arc<Model> {
    let text = std::fs::read(fixture(&format!("arch/{name}/config.json"))).unwrap();
    let mut said: Value = serde_json::from_slice(&text).unwrap();
    for (key, value) in [
        ("hidden_size", 128),
        ("head_dim", 32),
        ("intermediate_size", 64),
        ("moe_intermediate_size", 32),
        ("shared_expert_intermediate_size", 64),
    ] {
        if said.get(key).is_some_and(Value::is_number) {
            said[key] = json!(value);
        }
    }
    // A divisor for each pair that turns.
    for rope in ["rope_parameters", "rope_scaling"] {
        let part = said[rope]["partial_rotary_factor"].as_f64().unwrap_or(1.0);
        for key in ["long_factor", "short_factor"] {
            if let Some(list) = said[rope][key].as_array().cloned() {
                let pairs = (32.0 * part / 2.0) as usize;
                said[rope][key] = list.iter().cycle().take(pairs).cloned().collect();
            }
        }
    }
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, said.to_string()).unwrap();
    open(&format!("random:{}@f32", path.display()))
}

fn base() -> Config {
    config(&[
        ("run.prompt", "tokens:36"),
        ("run.context", "64"),
        ("run.max_tokens", "12"),
        ("run.batch", "16"),
        ("run.ignore_eos", "true"),
        ("machine.threads", "1"),
    ])
}

fn keeps_all(entry: &About) -> bool {
    schema::build(kv::select::ENTRIES, entry.axis.key, &entry.id.into()).unwrap().keeps_all()
}

/// What chooses `entry`, with a budget for a policy that drops rows.
fn choose(entry: &About) -> Sets {
    let mut out = sets(&[(entry.axis.key, entry.id)]);
    if *entry.axis == axes::KV_SELECT && !keeps_all(entry) {
        out.extend(sets(&[("kv.budget.ratio", "0.25")]));
    }
    out
}

/// Each entry of inference alone, then policies with formats.
fn choices() -> Vec<Sets> {
    let of_inference = |e: &&About| !e.axis.key.starts_with("train.") && *e.axis != axes::EVAL;
    let mut out: Vec<Sets> = catalog::entries().filter(of_inference).map(choose).collect();
    for select in catalog::variants(&axes::KV_SELECT) {
        out.extend(catalog::variants(&axes::KV_FORMAT).map(|format| [choose(select), choose(format)].concat()));
    }
    out
}

/// A run and its logits; nothing where the choices do not go together on this model, which says why.
fn cell(model: &Arc<Model>, sets: &Sets, what: &str) -> Option<(Report, Vec<Vec<f32>>)> {
    let guess = ullage_core::machine::Machine::default_guess();
    let chosen = with(&base(), sets);
    let planned = chosen.and_then(|c| plan(&model.shape, &Workload::default(), &c, &guess).map(|_| c));
    let config = match planned {
        Ok(config) => config,
        Err(error) => {
            let said = matches!(&error, ullage_core::Error::Refused { reason, .. } if !reason.is_empty());
            assert!(said, "{what}: {error}");
            return None;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let (report, logits) = run_dumped(model, &config, dir.path());
    assert_eq!(report.error, None, "{what}");
    assert_eq!(report.program.escaped, 0, "{what}: allocations beside the ledger");
    assert!(!logits.is_empty() && logits.iter().flatten().all(|v| v.is_finite()), "{what}: no number");
    for tier in [Tier::Device, Tier::Host] {
        let (planned, measured) = (of(&report.plan.peak, tier), of(&report.measured.peak, tier));
        let fits = planned >= measured && planned - measured <= (measured / 50).max(256 << 10);
        assert!(fits, "{what}: {tier:?} planned {planned}, measured {measured}");
        for category in [Category::Weights, Category::KvCache] {
            let of = |bytes: &std::collections::BTreeMap<Tier, _>| {
                let all: Option<&ullage_core::ledger::ByCategory> = bytes.get(&tier);
                all.and_then(|c| c.get(&category)).copied().unwrap_or(0)
            };
            let (planned, measured) = (of(&report.plan.bytes), of(&report.measured.bytes));
            assert!(measured <= planned, "{what}: {category:?} planned {planned}, measured {measured}");
        }
    }
    Some((report, logits))
}

fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let largest = a.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
    a.iter().flatten().zip(b.iter().flatten()).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn the_catalogue_of_inference_runs_on_every_architecture() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (mut ran, mut refused) = (0, 0);
    for name in names() {
        let model = wide(&name, folder.path());
        let plain = sets(&[("kv.format", "f32")]);
        let full = cell(&model, &plain, &name).unwrap().1;
        let (before, mut changed) = (ran, 0);
        for choice in choices() {
            let what = format!("{name}: {choice:?}");
            match cell(&model, &choice, &what) {
                Some((_, logits)) => {
                    ran += 1;
                    changed += usize::from(apart(&full, &logits) > 1e-6);
                }
                None => refused += 1,
            }
        }
        assert!(ran - before > 60 && changed > 30, "{name}: {} ran, {changed} changed", ran - before);
        for axis in [&axes::KV_ALLOC, &axes::PLACE_WEIGHTS, &axes::PLACE_KV] {
            for entry in catalog::variants(axis) {
                let what = format!("{name}: {}", entry.id);
                let Some((_, logits)) = cell(&model, &[plain.clone(), choose(entry)].concat(), &what) else { continue };
                assert!(bits(&full) == bits(&logits), "{what}: where it lies changed its bits");
            }
        }
        for entry in catalog::variants(&axes::KV_SELECT).filter(|e| !keeps_all(e)) {
            let room = [plain.clone(), choose(entry), sets(&[("kv.budget.ratio", "1.0")])].concat();
            let what = format!("{name}: {} with room for all", entry.id);
            let (report, logits) = cell(&model, &room, &what).unwrap();
            let far = apart(&full, &logits);
            assert!(report.evicted == 0 && far <= 1e-4, "{what}: {} left, {far}", report.evicted);
        }
    }
    println!("{ran} cells ran, {refused} do not go together");
}

/// A window that a policy keeps is one that the architecture has: PyTorch's logits of models with a window in every layer, given by the
/// same weights without one under a policy that keeps as many rows.
#[test]
fn a_policys_window_is_pytorchs_window() {
    for name in ["mistral", "phi3"] {
        let from = fixture(&format!("arch/{name}"));
        let folder = tempfile::tempdir().unwrap();
        let mut said: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let window = said["sliding_window"].as_u64().unwrap();
        said["sliding_window"] = Value::Null;
        std::fs::write(folder.path().join("config.json"), said.to_string()).unwrap();
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let model = open(folder.path().to_str().unwrap());
        let all: Value = serde_json::from_slice(&std::fs::read(from.join("logits.json")).unwrap()).unwrap();
        let ids: Vec<u32> = all["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let off = |sets: &[(&str, &str)]| {
            let got = Rig::new(&model, &config(sets)).unwrap().logits(&ids[..1], &ids[1..]);
            let rows = all["positions"].as_array().unwrap().iter().zip(all["logits"].as_array().unwrap());
            let far = rows.map(|(position, row)| {
                let row = row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
                let size = row.clone().fold(0.0f64, |m, v| m.max(v.abs()));
                let got = &got[position.as_u64().unwrap() as usize];
                row.zip(got).fold(0.0f64, |m, (a, b)| m.max((a - f64::from(*b)).abs())) / size
            });
            far.fold(0.0f64, f64::max)
        };
        let rows = format!("{{ rows = {window} }}");
        let policy = [("kv.format", "f32"), ("kv.select", "{ use = \"window\", n_sink = 0 }"), ("kv.budget", &rows)];
        let (without, with) = (off(&[("kv.format", "f32")]), off(&policy));
        println!("{name}: {with:e} with the policy, {without:.2} without");
        assert!(with < 1e-4 && without > 1e-2, "{name}: {with:e} with the policy, {without} without");
    }
}
