//! What a plan costs: microseconds each, and the time of all that a step of the memory slider asks for.
//!
//! `cargo run --release -p ullage-core --example plan_cost`
#![allow(clippy::unwrap_used, reason = "an example: a panic is the failure")]

use std::hint::black_box;
use std::time::Instant;

use ullage_core::catalog;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::config::axes;
use ullage_core::ledger::{Category, Tier};
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::plan::{Inverse, Workload, formula, pieces, plan, ways_back};

/// Microseconds of the fastest of several rounds.
fn micros(rounds: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e6
}

/// `config` with every variant of every axis, one at a time: what the prices on the cards need.
fn variants(config: &Config) -> Vec<Config> {
    let text = config.to_toml().unwrap();
    let axes = axes::all().filter(|a| **a != axes::EVAL);
    axes.flat_map(catalog::variants)
        .filter_map(|e| from_toml(&text, &[(e.axis.key.into(), e.id.into())]).ok())
        .collect()
}

fn main() {
    let machine = Machine::default_guess();
    println!("microseconds: one plan, all variants (how many), the inverse, four ways back, pieces, a formula");
    for model in ["random:smollm2-135m@q4_0", "random:llama-1b@q4_k", "random:llama-8b@q4_k"] {
        let shape = Model::open(model, std::path::Path::new(".")).unwrap().shape;
        for sets in [
            &[][..],
            &[("kv.select", "h2o"), ("kv.budget.ratio", "0.2"), ("kv.alloc", "paged")],
            &[("kv.select", "window"), ("kv.budget.bytes", "64 MiB"), ("place.weights", "stream")],
        ] {
            let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let mut config = from_toml("[run]\ncontext = 8192\nmax_tokens = 1024\n", &sets).unwrap();
            let workload = Workload::generate(&config, 7000, false);
            let peak = plan(&shape, &workload, &config, &machine).unwrap().peak(Tier::Device);
            config.budget.device.0 = peak / 2;
            let all = variants(&config);
            let one = micros(50, || {
                black_box(plan(&shape, &workload, &config, &machine).unwrap());
            });
            let cards = micros(20, || {
                all.iter().for_each(|c| {
                    let _ = black_box(plan(&shape, &workload, c, &machine));
                });
            });
            let inverse = micros(20, || {
                black_box(Inverse::of(&shape, &workload, &config, &machine));
            });
            let ways = micros(20, || {
                black_box(ways_back(&shape, &workload, &config, &machine, 4));
            });
            let apart = micros(20, || {
                black_box(pieces(&shape, &workload, &config, None).unwrap());
            });
            let said = micros(20, || {
                black_box(formula(&shape, &workload, &config, None, Tier::Device, Category::KvCache));
            });
            let (name, n) = (model.trim_start_matches("random:"), all.len());
            println!("{name:18} {one:8.1} {cards:9.1} ({n}) {inverse:9.1} {ways:9.1} {apart:8.1} {said:8.1}");
        }
    }
}
