//! The plan of a training run asked backwards.

use serde::{Deserialize, Serialize};

use super::solve::{fits, largest};
use super::way_back::{Change, WayBack, fitting};
use super::{Plan, Workload, plan};
use crate::catalog;
use crate::config::train::{ClipBy, Hold, Train};
use crate::config::{Axis, Config, axes};
use crate::error::Result;
use crate::machine::Machine;
use crate::schema::{About, Cost};
use crate::shape::ModelShape;

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
        let longest_length = largest(shape.context, |n| n < 2 || fit(&with(config, &|t| t.length = n)));
        Self { largest_batch, longest_length: if longest_length < 2 { 0 } else { longest_length } }
    }
}

/// The axes whose choices a [`Combination`] has, with what training calls them.
pub static COMBINED: [&Axis; 4] =
    [&axes::TRAIN_PARAMS, &axes::TRAIN_OPTIMIZER, &axes::TRAIN_ACTIVATIONS, &axes::TRAIN_LOSS];

/// One choice of what learns, with which optimizer, activations and loss.
pub struct Combination {
    /// The variants, in the order of [`COMBINED`].
    pub entries: [&'static About; 4],
    /// Keys that make it, from what is chosen; none for what is.
    pub sets: Vec<(String, String)>,
    /// Its plan, or why there is none.
    pub plan: Result<Plan>,
}

/// Plans every combination of the catalogue's variants on [`COMBINED`], the rest of `config` as it is: a variant that is chosen
/// keeps its knobs, others have theirs at the defaults. Ends early, with what it has, when `stop` says so.
pub fn combinations(
    shape: &ModelShape,
    config: &Config,
    machine: &Machine,
    stop: &dyn Fn() -> bool,
) -> Vec<Combination> {
    if config.train.is_none() {
        return Vec::new();
    }
    let mut all: Vec<Vec<&'static About>> = vec![Vec::new()];
    for axis in COMBINED {
        let longer = |part: &Vec<_>| {
            let part = part.clone();
            catalog::variants(axis).map(move |e| part.iter().copied().chain([e]).collect())
        };
        all = all.iter().flat_map(longer).collect();
    }
    let chosen = config.choices();
    let mut out = Vec::with_capacity(all.len());
    for entries in all {
        let Ok(entries) = <[&'static About; 4]>::try_from(entries) else { continue };
        if stop() {
            break;
        }
        let is_chosen = |e: &About| chosen.iter().any(|(axis, _, choice)| *axis == e.axis && choice.id == e.id);
        let change = Change {
            sets: entries.iter().filter(|e| !is_chosen(e)).map(|e| (e.axis.key.to_owned(), e.id.to_owned())).collect(),
            words: String::new(),
        };
        let plan = change.apply(config).and_then(|c| plan(shape, &Workload::default(), &c, machine));
        out.push(Combination { entries, sets: change.sets, plan });
    }
    out
}

/// Keys to set and the words for it; later steps keep those before them.
type Step = (Vec<(String, String)>, String);

fn step(sets: &[(&str, String)], words: impl Into<String>) -> Step {
    (sets.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(), words.into())
}

/// What entries on the axes of training offer at `cost`, with what each keeps: in place of a choice that keeps more, or of itself
/// with other knobs.
fn offers(config: &Config, cost: Cost) -> Vec<(f64, &'static About, Step)> {
    let mut out = Vec::new();
    for (axis, _, choice) in config.choices().into_iter().filter(|(axis, ..)| axis.key.starts_with("train.")) {
        let floor = |e: &About| e.candidates.iter().map(|c| c.keeps).fold(f64::INFINITY, f64::min);
        let now = catalog::variants(axis).find(|e| e.id == choice.id).map_or(f64::INFINITY, floor);
        for entry in catalog::variants(axis) {
            for c in entry.candidates.iter().filter(|c| c.cost == cost) {
                let change = Change { sets: c.all_sets(entry), words: c.say(entry) };
                let other = c.keeps < now || (entry.id == choice.id && !c.sets.is_empty());
                if other && change.apply(config).is_ok_and(|changed| changed != *config) {
                    out.push((c.keeps, entry, (change.sets, change.words)));
                }
            }
        }
    }
    out
}

/// What computes the same, from the least slowdown on.
fn same(config: &Config, train: &Train) -> Vec<Step> {
    let fused = train.accumulate == 1 && train.clip.by != ClipBy::Global;
    let mut out: Vec<(f64, Step)> =
        offers(config, Cost::Nothing).into_iter().chain(offers(config, Cost::Speed)).map(|(k, _, s)| (k, s)).collect();
    if fused && train.grad_hold == Hold::All {
        out.push((0.6, step(&[("train.grad_hold", "layer".into())], "Gradients a layer at a time")));
    }
    if fused && train.grad_hold != Hold::Matrix && train.clip.by != ClipBy::Layer {
        out.push((0.05, step(&[("train.grad_hold", "matrix".into())], "Gradients a matrix at a time")));
    }
    out.sort_by(|a, b| b.0.total_cmp(&a.0));
    out.into_iter().map(|(_, step)| step).collect()
}

/// What learns less or otherwise, on top of all that computes the same.
fn other(config: &Config, train: &Train) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    for batch in [train.batch / 2, train.batch / 4, 1].into_iter().filter(|b| *b > 0 && *b < train.batch) {
        out.push(step(&[("train.batch", batch.to_string())], format!("Batch {batch}")));
    }
    let shorter = |length: usize| [("train.batch", "1".to_owned()), ("train.length", length.to_string())];
    for length in [train.length / 2, train.length / 4, 64].into_iter().filter(|n| *n >= 2 && *n < train.length) {
        out.push(step(&shorter(length), format!("Batch 1 · length {length}")));
    }
    let mut offered = offers(config, Cost::Accuracy);
    offered.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, entry, (sets, words)) in offered {
        out.push((sets.clone(), words.clone()));
        if *entry.axis == axes::TRAIN_PARAMS {
            let length = train.length.min(64);
            let (more, _) = step(&shorter(length), "");
            out.push(([sets, more].concat(), format!("{words} · batch 1 · length {length}")));
        }
    }
    out
}

/// Up to `n` changes that make `config` fit, cheapest first: one that computes the same, several of those together, smaller
/// batches, other methods.
pub(super) fn ways_back(
    shape: &ModelShape,
    workload: &Workload,
    config: &Config,
    machine: &Machine,
    n: usize,
) -> Vec<WayBack> {
    let Some(train) = &config.train else { return Vec::new() };
    let mut out: Vec<WayBack> = Vec::new();
    let mut attempt = |steps: &[&Step]| {
        if out.len() >= n {
            return false;
        }
        // A step whose keys a later one sets again has nothing left to say.
        let over = |at: usize, key: &str| steps[at + 1..].iter().any(|(sets, _)| sets.iter().any(|(k, _)| k == key));
        let kept: Vec<&Step> =
            (0..steps.len()).filter(|i| !steps[*i].0.iter().all(|(key, _)| over(*i, key))).map(|i| steps[i]).collect();
        let sets = kept.iter().flat_map(|(sets, _)| sets.iter().cloned()).collect();
        let words: Vec<&str> = kept.iter().map(|(_, words)| words.as_str()).collect();
        let change = Change { sets, words: words.join(" · ") };
        let Ok(changed) = change.apply(config) else { return false };
        let plan = (changed != *config).then(|| fitting(shape, workload, &changed, machine)).flatten();
        out.extend(plan.map(|plan| WayBack { change, plan }));
        out.len() >= n
    };
    let (same, other) = (same(config, train), other(config, train));
    for step in &same {
        if attempt(&[step]) {
            return out;
        }
    }
    for end in 2..=same.len() {
        if attempt(&same[..end].iter().collect::<Vec<_>>()) {
            return out;
        }
    }
    for step in &other {
        let all: Vec<&Step> = same.iter().chain(std::iter::once(step)).collect();
        if attempt(&all) {
            return out;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::ledger::Tier;
    use crate::plan::tests::shape;

    #[test]
    fn every_combination_is_planned_as_it_would_be_alone() {
        let (shape, machine) = (shape("smollm2-135m@q4_1"), Machine::default_guess());
        let text = "[train]\nparams = { use = \"lora\", r = 3 }\nbatch = 1\nlength = 64";
        let config = from_toml(text, &[]).unwrap();
        let all = combinations(&shape, &config, &machine, &|| false);
        let variants: usize = COMBINED.iter().map(|a| catalog::variants(a).count()).product();
        assert_eq!(all.len(), variants);
        let mut peaks = Vec::new();
        for c in &all {
            let mut sets = c.sets.clone();
            sets.sort();
            let mut keys: Vec<_> = c.entries.iter().map(|e| e.axis.key).collect();
            keys.dedup();
            assert_eq!(keys.len(), 4);
            let alone = from_toml(text, &sets).and_then(|c| plan(&shape, &Workload::default(), &c, &machine));
            match (&c.plan, alone) {
                (Ok(planned), Ok(alone)) => {
                    assert_eq!(planned.bytes, alone.bytes);
                    peaks.push(alone.peak(Tier::Device));
                }
                (Err(refused), Err(alone)) => assert_eq!(refused.to_string(), alone.to_string()),
                (one, other) => panic!("{sets:?}: {:?} and {:?}", one.is_ok(), other.is_ok()),
            }
        }
        assert_eq!(all.iter().filter(|c| c.sets.is_empty()).count(), 1, "what is chosen is one of them");
        assert!(2 * peaks.len() > all.len(), "most go together");
        peaks.sort_unstable();
        assert!(peaks[peaks.len() - 1] > 2 * peaks[0]);
        assert!(combinations(&shape, &config, &machine, &|| true).is_empty());
    }

    #[test]
    fn a_way_back_says_each_thing_once() {
        let (shape, machine) = (shape("smollm2-135m@q4_1"), Machine::default_guess());
        let mut config = from_toml("[train]\nbatch = 8\nlength = 128", &[]).unwrap();
        let whole = plan(&shape, &Workload::default(), &config, &machine).unwrap().peak(Tier::Device);
        for percent in [30, 40, 50, 60, 80] {
            config.budget.device.0 = whole / 100 * percent;
            for back in ways_back(&shape, &Workload::default(), &config, &machine, 8) {
                assert!(back.change.words.matches("Gradients").count() <= 1, "{}", back.change.words);
                let mut keys: Vec<_> = back.change.sets.iter().map(|(k, _)| k).collect();
                keys.sort();
                let n = keys.len();
                keys.dedup();
                assert_eq!(keys.len(), n, "{:?}", back.change.sets);
            }
        }
    }
}
