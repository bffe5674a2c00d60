//! Drawn configurations, planned for several shapes and brought back within budgets; nothing is run.

use std::sync::OnceLock;
use std::time::Duration;

use ullage_core::Error;
use ullage_core::catalog::{self, from_toml};
use ullage_core::config::Config;
use ullage_core::ledger::Tier;
use ullage_core::machine::Machine;
use ullage_core::model::random;
use ullage_core::plan::{Pass, Workload, plan, ways_back};
use ullage_core::shape::ModelShape;

use super::draw::{Choices, draw, seeds, told};
use super::{PLAIN, Target};
use crate::Sets;

pub(super) const TARGET: Target = Target {
    name: "draw_plan",
    run,
    seeds,
    tell: |bytes| drawn(bytes).tell(),
    heap: (256 << 20, 0),
    longest: Duration::from_secs(20),
    ..PLAIN
};

/// What is planned.
struct Drawn {
    shape: &'static ModelShape,
    prompt: usize,
    cases: usize,
    sets: Sets,
}

impl Drawn {
    fn tell(&self) -> String {
        let Self { shape, prompt, cases, sets } = self;
        format!("{} {prompt} tokens, {cases} cases: {}", shape.name, told(sets))
    }
}

fn drawn(bytes: &[u8]) -> Drawn {
    let mut c = Choices::new(bytes);
    let shape = &shapes()[c.below(shapes().len())];
    let (prompt, cases) = ([1, 5, 70, 3000][c.below(4)], c.below(4));
    Drawn { shape, prompt, cases, sets: draw(&mut c) }
}

fn shapes() -> &'static [ModelShape] {
    static SHAPES: OnceLock<Vec<ModelShape>> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let preset = |spec: &str| random::shape(&random::parse(spec).unwrap().unwrap()).unwrap();
        vec![
            crate::bundled().shape.clone(),
            crate::random("tiny", "q8_0").shape.clone(),
            crate::open(crate::fixture("arch/gemma3/model.gguf").to_str().unwrap()).shape.clone(),
            crate::open(crate::fixture("arch/mixtral/model.gguf").to_str().unwrap()).shape.clone(),
            preset("random:llama-8b@q4_k"),
        ]
    })
}

/// An error of a choice, not of ours: bad input or over budget.
fn chosen(error: &Error, what: &str) {
    assert!(matches!(error.exit_code(), 2 | 3) && !error.to_string().is_empty(), "{what}: {error}");
}

fn run(bytes: &[u8]) -> bool {
    let drawn = drawn(bytes);
    let what = || drawn.tell();
    let Drawn { shape, prompt, cases, ref sets } = drawn;
    let config = match from_toml("", sets) {
        Ok(config) => config,
        Err(e) => {
            chosen(&e, &what());
            assert_eq!(e.exit_code(), 2, "{}", what());
            return false;
        }
    };
    assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config, "{}", what());
    let mut workload = Workload::generate(&config, prompt, false);
    workload.passes.extend((0..cases).map(|i| Pass { prompt: prompt + i, decode: 3 * i, sequences: 1 }));
    workload.reference = cases == 2;
    let machine = Machine::default_guess();
    let _ = catalog::check_platform(&config);
    let planned = match plan(shape, &workload, &config, &machine) {
        Ok(planned) => planned,
        Err(e) => {
            chosen(&e, &what());
            return false;
        }
    };
    for tier in [Tier::Device, Tier::Host] {
        let (peak, mut tight) = (planned.peak(tier), config.clone());
        let Some(budget) = peak.checked_sub(1) else { continue };
        match tier {
            Tier::Host => tight.budget.host.0 = budget,
            _ => tight.budget.device.0 = budget,
        }
        one_byte_less(shape, &workload, &tight, &machine, &what);
    }
    true
}

/// A budget below what is needed is refused, and the ways back fit.
fn one_byte_less(
    shape: &ModelShape,
    workload: &Workload,
    tight: &Config,
    machine: &Machine,
    what: &dyn Fn() -> String,
) {
    let planned = plan(shape, workload, tight, machine).unwrap();
    // Cards and their like are planned against what a device has, not against what a plan of another budget says.
    assert!(planned.over.is_some(), "{}: one byte less is not refused", what());
    let ways = ways_back(shape, workload, tight, machine, 2);
    assert!(!ways.is_empty(), "{}: over budget without a way out", what());
    for way in ways {
        let changed = way.change.apply(tight).unwrap_or_else(|e| panic!("{}: {}: {e}", what(), way.change.to_args()));
        // Fewer sequences are fewer in the workload too.
        let mut less = workload.clone();
        less.passes.iter_mut().for_each(|p| p.sequences = p.sequences.min(changed.run.sequences));
        let over = plan(shape, &less, &changed, machine).unwrap().over;
        assert!(over.is_none(), "{}: {} does not fit: {over:?}", what(), way.change.to_args());
    }
}
