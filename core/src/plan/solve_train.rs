//! The plan of a training run asked backwards.

use serde::{Deserialize, Serialize};

use super::solve::{fits, largest};
use super::{Workload, plan};
use crate::config::train::{ClipBy, Hold, Train};
use crate::config::{Choice, Config, KnobValue, Knobs};
use crate::ledger::Tier;
use crate::machine::Machine;
use crate::model::shape::ModelShape;

/// What the budgets leave room for in training, everything else as chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainInverse {
    /// Largest `train.batch`; 0 when not even one row fits.
    pub largest_batch: usize,
    /// Longest `train.length`; 0 when not even two tokens fit.
    pub longest_length: usize,
}

/// `config` with its section changed.
fn with(config: &Config, change: &dyn Fn(&mut Train)) -> Config {
    let mut c = config.clone();
    if let Some(train) = &mut c.train {
        change(train);
    }
    c
}

impl TrainInverse {
    /// Searches both, each with the rest as chosen.
    pub fn of(shape: &ModelShape, config: &Config, machine: &Machine) -> Self {
        let workload = Workload::default();
        let fit = |c: &Config| fits(shape, c, &workload, machine);
        let largest_batch = largest(512, |n| fit(&with(config, &|t| t.batch = n)));
        let longest_length = largest(shape.context, |n| fit(&with(config, &|t| t.length = n.max(2))));
        Self { largest_batch, longest_length }
    }
}

fn knob(id: &str, knobs: &[(&str, i64)]) -> Choice {
    Choice { id: id.into(), knobs: Knobs(knobs.iter().map(|(k, v)| ((*k).to_owned(), KnobValue::Int(*v))).collect()) }
}

/// The cheapest change that makes `config` fit: what computes the same first, then smaller batches, then other methods; at
/// last the budget it needs. As `--set` arguments.
pub(super) fn cheapest_change(
    shape: &ModelShape,
    workload: &Workload,
    config: &Config,
    machine: &Machine,
) -> Option<String> {
    let train = config.train.as_ref()?;
    let fused = train.accumulate == 1 && train.clip.by != ClipBy::Global;
    // What computes the same, from the least slowdown on; each line keeps those before it.
    type Change<'a> = (String, Box<dyn Fn(&mut Train) + 'a>);
    let mut same: Vec<Change<'_>> = Vec::new();
    if train.loss.id == "full" {
        same.push(("--set train.loss=chunked".into(), Box::new(|t| t.loss = "chunked".into())));
    }
    if fused && train.grad_hold == Hold::All {
        same.push(("--set train.grad_hold=layer".into(), Box::new(|t| t.grad_hold = Hold::Layer)));
    }
    if train.activations.id == "keep" {
        same.push(("--set train.activations=recompute".into(), Box::new(|t| t.activations = "recompute".into())));
    }
    same.push((
        "--set train.loss='{ use = \"cut\", block_n = 128, block_v = 2048 }'".into(),
        Box::new(|t| t.loss = knob("cut", &[("block_n", 128), ("block_v", 2048)])),
    ));
    if fused && train.grad_hold != Hold::Matrix && train.clip.by != ClipBy::Layer {
        same.push(("--set train.grad_hold=matrix".into(), Box::new(|t| t.grad_hold = Hold::Matrix)));
    }
    let ok = |c: &Config| c.check().is_ok() && fits(shape, c, workload, machine);
    // One alone, then all up to there together.
    for (text, change) in &same {
        if ok(&with(config, &|t| change(t))) {
            return Some(text.clone());
        }
    }
    let mut words: Vec<&str> = Vec::new();
    let mut tightest = config.clone();
    for (text, change) in &same {
        words.push(text);
        tightest = with(&tightest, &|t| change(t));
        if ok(&tightest) {
            return Some(words.join(" "));
        }
    }
    // Fewer rows at once; where gradients are held to the end, as many to an update as before.
    for batch in [train.batch / 2, train.batch / 4, 1].into_iter().filter(|b| *b > 0 && *b < train.batch) {
        let c = with(&tightest, &|t| t.batch = batch);
        if ok(&c) {
            return Some(format!("{} --set train.batch={batch}", words.join(" ")));
        }
    }
    for length in [train.length / 2, train.length / 4, 64].into_iter().filter(|n| *n >= 2 && *n < train.length) {
        let c = with(&tightest, &|t| (t.batch, t.length) = (1, length));
        if ok(&c) {
            return Some(format!("{} --set train.batch=1 --set train.length={length}", words.join(" ")));
        }
    }
    for (text, change) in [
        (
            "--set train.optimizer='{ use = \"adamw\", state_dtype = \"bf16\" }'",
            &(|t: &mut Train| {
                t.optimizer = Choice {
                    id: "adamw".into(),
                    knobs: Knobs([("state_dtype".to_owned(), KnobValue::Text("bf16".into()))].into()),
                }
            }) as &dyn Fn(&mut Train),
        ),
        ("--set train.params=lora", &|t: &mut Train| t.params = "lora".into()),
        ("--set train.params=lora --set train.batch=1 --set train.length=64", &|t: &mut Train| {
            (t.params, t.batch, t.length) = ("lora".into(), 1, t.length.min(64));
        }),
    ] {
        let c = with(&tightest, change);
        if c != tightest && ok(&c) {
            return Some(format!("{} {text}", words.join(" ")).trim().to_owned());
        }
    }
    let whole = plan(shape, workload, config, machine).ok()?;
    let needs: Vec<_> = [("device", Tier::Device, config.budget.device.0), ("host", Tier::Host, config.budget.host.0)]
        .into_iter()
        .filter(|(_, tier, wall)| whole.peak(*tier) > *wall)
        .map(|(name, tier, _)| format!("--set budget.{name}='{} B'", whole.peak(tier)))
        .collect();
    Some(needs.join(" "))
}
