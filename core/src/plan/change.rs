//! Changes that bring a plan back within its budgets, as data: keys to set, and how to say it.

use super::{Inverse, Plan, Workload, plan};
use crate::bytes::Bytes;
use crate::catalog;
use crate::catalog::from_toml;
use crate::config::{Choice, Config, KnobValue, Knobs, KvBudget, PerKv, axes};
use crate::error::Result;
use crate::ledger::Tier;
use crate::machine::Machine;
use crate::schema::About;
use crate::shape::ModelShape;

/// Keys to set, and the words for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Dotted keys and their values as `--set` takes them.
    pub sets: Vec<(String, String)>,
    /// As a button says it: `Precision q8_0`.
    pub words: String,
}

impl Change {
    /// As arguments of the command line, quoted for a shell where a value has blanks.
    pub fn to_args(&self) -> String {
        let arg = |(key, value): &(String, String)| {
            let quote = if value.contains(char::is_whitespace) { "'" } else { "" };
            format!("--set {key}={quote}{value}{quote}")
        };
        self.sets.iter().map(arg).collect::<Vec<_>>().join(" ")
    }

    /// `config` with the change made.
    ///
    /// # Errors
    /// A change that does not go with the rest of `config`.
    pub fn apply(&self, config: &Config) -> Result<Config> {
        from_toml(&config.to_toml()?, &self.sets)
    }
}

/// A change that fits, and what it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct WayBack {
    /// What to set.
    pub change: Change,
    /// The plan with it: its peaks, and the speed predicted.
    pub plan: Plan,
}

/// What is tried, in the order of what it costs: first what changes only memory and speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Alloc,
    Context,
    Batch,
    Format,
    Stream,
    Weights,
    Select,
    StreamSmall,
    Least,
    LeastSelect,
}

/// One change that may fit.
struct Candidate {
    family: Family,
    change: Change,
    config: Config,
}

/// A list of candidates in the making.
struct Candidates<'a> {
    config: &'a Config,
    list: Vec<Candidate>,
}

impl Candidates<'_> {
    /// Adds what `make` makes of the configuration, unless that is nothing new or refused.
    fn add(&mut self, family: Family, words: String, sets: &[(&str, String)], make: &dyn Fn(&mut Config)) {
        let mut config = self.config.clone();
        make(&mut config);
        if config != *self.config && catalog::check(&config).is_ok() {
            let sets = sets.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
            self.list.push(Candidate { family, change: Change { sets, words }, config });
        }
    }
}

fn words(entry: &About) -> String {
    format!("{} {}", entry.axis.name(), entry.title)
}

/// Bits an element of the cache costs in this format.
fn cache_bits(entry: &About) -> f64 {
    crate::kv::format::bits("kv.format", &entry.id.into()).unwrap_or(0.0)
}

/// Every change worth trying, cheapest first: what changes only memory and speed, then what costs accuracy, least first, then
/// several at once.
fn candidates(shape: &ModelShape, workload: &Workload, config: &Config) -> Vec<Candidate> {
    let mut all = Candidates { config, list: Vec::new() };
    for entry in catalog::variants(&axes::KV_ALLOC) {
        let sets = [("kv.alloc", entry.id.to_owned())];
        all.add(Family::Alloc, words(entry), &sets, &|c| c.kv.alloc = entry.id.into());
    }
    let needed = workload.passes.iter().map(|p| p.prompt + p.decode).max().unwrap_or(1);
    if config.run.context > needed {
        let sets = [("run.context", needed.to_string())];
        all.add(Family::Context, format!("Context {needed}"), &sets, &|c| c.run.context = needed);
    }
    for batch in [256, 128, 64, 32, 16].into_iter().filter(|b| *b < config.run.batch) {
        let sets = [("run.batch", batch.to_string())];
        all.add(Family::Batch, format!("Prompt in batches of {batch}"), &sets, &|c| c.run.batch = batch);
    }
    // Cheaper rows, the finest first.
    let mut formats: Vec<_> = catalog::variants(&axes::KV_FORMAT).collect();
    formats.sort_by(|a, b| cache_bits(b).total_cmp(&cache_bits(a)));
    for entry in formats {
        let sets = [("kv.format", entry.id.to_owned())];
        all.add(Family::Format, words(entry), &sets, &|c| c.kv.format = PerKv::both(entry.id));
    }
    let original = config.weights.format.id == "original";
    let streamed = Choice::from("stream");
    if original {
        let sets = [("place.weights", "stream".to_owned())];
        all.add(Family::Stream, "Weights streamed layer by layer".into(), &sets, &|c| {
            c.place.weights = streamed.clone();
        });
    }
    // Coarser weights than the file's, the finest first.
    let stored = 8.0 * shape.bytes() as f64 / shape.parameters().max(1) as f64;
    let formats = crate::weights::format::ENTRIES.iter();
    let mut coarser: Vec<_> = formats.filter_map(|e| Some((e.scheme()?.bits(), &e.about))).collect();
    coarser.retain(|(bits, e)| original && e.common && *bits < stored);
    coarser.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, entry) in coarser {
        let sets = [("weights.format", entry.id.to_owned())];
        let words = format!("Weights in {}", entry.title);
        all.add(Family::Weights, words, &sets, &|c| c.weights.format = entry.id.into());
    }
    for (ratio, format) in [(0.5, "q8_0"), (0.2, "q8_0"), (0.1, "q4_0"), (0.05, "q4_0")] {
        let batch = config.run.batch.min(64);
        let sets = [
            ("kv.select", "h2o".to_owned()),
            ("kv.budget.ratio", ratio.to_string()),
            ("kv.format", format.to_owned()),
            ("run.batch", batch.to_string()),
        ];
        let words = format!("Keep {} % of tokens (H2O) · precision {format}", 100.0 * ratio);
        all.add(Family::Select, words, &sets, &|c| {
            c.kv.select = "h2o".into();
            c.kv.budget = Some(KvBudget::Ratio(ratio));
            c.kv.format = PerKv::both(format);
            c.run.batch = batch;
        });
    }
    if !original {
        return all.list;
    }
    let batch = config.run.batch.min(16);
    let sets =
        [("place.weights", "stream".to_owned()), ("run.batch", batch.to_string()), ("kv.alloc", "paged".to_owned())];
    let text = format!("Weights streamed · prompt in batches of {batch} · cache in pages");
    all.add(Family::StreamSmall, text, &sets, &|c| {
        c.place.weights = streamed.clone();
        c.run.batch = batch;
        c.kv.alloc = "paged".into();
    });
    // Several at once, from what still gives nearly the same tokens to the least that runs.
    let least = Choice { id: "stream".into(), knobs: Knobs([("prefetch".to_owned(), KnobValue::Int(0))].into()) };
    let context = needed.min(config.run.context);
    let sets = |rest: &[(&'static str, String)]| {
        let mut sets = vec![
            ("place.weights", "stream".to_owned()),
            ("place.weights.prefetch", "0".to_owned()),
            ("run.batch", batch.to_string()),
            ("run.context", context.to_string()),
        ];
        sets.extend_from_slice(rest);
        sets
    };
    for format in ["f16", "q8_0", "q4_0"] {
        let text =
            format!("Weights streamed, none ahead · batches of {batch} · context {context} · precision {format}");
        all.add(Family::Least, text, &sets(&[("kv.format", format.to_owned())]), &|c| {
            c.place.weights = least.clone();
            c.run.batch = batch;
            c.run.context = context;
            c.kv.format = PerKv::both(format);
        });
    }
    let rest =
        [("kv.select", "h2o".to_owned()), ("kv.budget.ratio", "0.1".to_owned()), ("kv.format", "q4_0".to_owned())];
    let text = format!(
        "Weights streamed, none ahead · batches of {batch} · context {context} · keep 10 % of tokens (H2O) · precision q4_0"
    );
    all.add(Family::LeastSelect, text, &sets(&rest), &|c| {
        c.place.weights = least.clone();
        c.run.batch = batch;
        c.run.context = context;
        c.kv.select = "h2o".into();
        c.kv.budget = Some(KvBudget::Ratio(0.1));
        c.kv.format = PerKv::both("q4_0");
    });
    all.list
}

/// The `n` cheapest changes that make `config` fit, each of another kind, with what they come to: what changes only memory and
/// speed first, then what costs accuracy, least first; at last fewer sequences, or the budget that it needs.
pub fn ways_back(
    shape: &ModelShape,
    workload: &Workload,
    config: &Config,
    machine: &Machine,
    n: usize,
) -> Vec<WayBack> {
    if config.train.is_some() {
        let mut out = super::solve_train::ways_back(shape, workload, config, machine, n);
        if out.is_empty() && n > 0 {
            out.extend(larger_budget(shape, workload, config, machine));
        }
        return out;
    }
    let mut out: Vec<WayBack> = Vec::new();
    let mut done: Vec<Family> = Vec::new();
    for Candidate { family, change, config } in candidates(shape, workload, config) {
        if out.len() >= n {
            return out;
        }
        if done.contains(&family) {
            continue;
        }
        if let Some(plan) = fitting(shape, workload, &config, machine) {
            done.push(family);
            out.push(WayBack { change, plan });
        }
    }
    if out.len() < n && config.run.sequences > 1 {
        let most = Inverse::of(shape, workload, config, machine).most_sequences;
        if (1..config.run.sequences).contains(&most) {
            let change = Change {
                sets: vec![("run.sequences".into(), most.to_string())],
                words: if most == 1 { "One sequence".into() } else { format!("{most} sequences") },
            };
            let mut config = config.clone();
            config.run.sequences = most;
            let mut workload = workload.clone();
            workload.passes.iter_mut().for_each(|p| p.sequences = p.sequences.min(most));
            out.extend(fitting(shape, &workload, &config, machine).map(|plan| WayBack { change, plan }));
        }
    }
    if out.is_empty() && n > 0 {
        out.extend(larger_budget(shape, workload, config, machine));
    }
    out
}

/// The plan of `config`, if it keeps within the budgets.
pub(super) fn fitting(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<Plan> {
    plan(shape, workload, config, machine).ok().filter(|p| p.over.is_none())
}

/// The budgets that `config` needs as it is.
fn larger_budget(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<WayBack> {
    let whole = plan(shape, workload, config, machine).ok()?;
    let mut larger = config.clone();
    let walls = [
        ("device", "Memory limit", Tier::Device, &mut larger.budget.device),
        ("host", "RAM limit", Tier::Host, &mut larger.budget.host),
    ];
    let mut change = Change::default();
    let mut says = Vec::new();
    for (key, name, tier, wall) in walls {
        let peak = whole.peak(tier);
        if peak > wall.0 {
            *wall = Bytes(peak);
            change.sets.push((format!("budget.{key}"), format!("{peak} B")));
            says.push(format!("{name} {}", Bytes(peak)));
        }
    }
    change.words = says.join(" · ");
    if change.sets.is_empty() {
        return None;
    }
    fitting(shape, workload, &larger, machine).map(|plan| WayBack { change, plan })
}

/// The first of [`ways_back`].
pub fn cheapest_change(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<Change> {
    ways_back(shape, workload, config, machine, 1).pop().map(|w| w.change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{shape, workload};

    fn config(pairs: &[(&str, &str)]) -> Config {
        let sets: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml("", &sets).unwrap()
    }

    #[test]
    fn arguments_are_what_a_shell_takes() {
        let set = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let change = Change { sets: vec![set("kv.format", "q8_0"), set("budget.device", "12 B")], words: "x".into() };
        assert_eq!(change.to_args(), "--set kv.format=q8_0 --set budget.device='12 B'");
        assert_eq!(Change::default().to_args(), "");
    }

    #[test]
    fn every_candidate_sets_what_it_was_planned_with() {
        let shape = shape("smollm2-135m@f16");
        let bases: &[&[(&str, &str)]] = &[
            &[],
            &[("run.batch", "16"), ("kv.alloc", "paged"), ("kv.format.k", "q8_0")],
            &[("kv.select", "{ use = \"window\", n_sink = 2 }"), ("kv.budget.rows", "64")],
            &[("place.weights", "{ use = \"stream\", from = \"host\" }"), ("run.context", "40")],
            &[("weights.format", "q8_0"), ("run.sequences", "3")],
        ];
        let mut families = Vec::new();
        for base in bases {
            let config = config(base);
            for c in candidates(&shape, &workload(&config, 30), &config) {
                assert_eq!(c.change.apply(&config).unwrap(), c.config, "{}", c.change.to_args());
                assert!(!c.change.words.is_empty());
                if !families.contains(&c.family) {
                    families.push(c.family);
                }
            }
        }
        assert_eq!(families.len(), 10, "{families:?}");
    }

    #[test]
    fn ways_back_fit_differ_in_kind_and_begin_with_the_cheapest() {
        let shape = shape("smollm2-135m@f16");
        let machine = Machine::default_guess();
        for budget in ["290 MiB", "300 MiB", "340 MiB", "100 MiB", "20 MiB", "1 MiB"] {
            let config = config(&[("budget.device", budget), ("run.context", "4096"), ("run.max_tokens", "400")]);
            let work = workload(&config, 3000);
            let ways = ways_back(&shape, &work, &config, &machine, 4);
            assert!(!ways.is_empty(), "{budget}");
            assert_eq!(cheapest_change(&shape, &work, &config, &machine).as_ref(), Some(&ways[0].change));
            for way in &ways {
                let changed = way.change.apply(&config).unwrap();
                let planned = plan(&shape, &work, &changed, &machine).unwrap();
                assert_eq!(planned, way.plan, "{}", way.change.to_args());
                assert!(planned.over.is_none() && planned.time.decode_tokens_per_second > 0.0);
            }
            let keys: Vec<_> = ways.iter().map(|w| w.change.sets.iter().map(|(k, _)| k).collect::<Vec<_>>()).collect();
            assert!((1..keys.len()).all(|i| !keys[..i].contains(&keys[i])), "{keys:?}");
        }
        // Three sequences that do not fit: fewer do, and nothing else is asked for when it is the only way.
        let config = config(&[("run.sequences", "3"), ("budget.device", "400 MiB"), ("run.context", "4096")]);
        let work = workload(&config, 3000);
        let all = ways_back(&shape, &work, &config, &machine, 99);
        assert!(all.iter().any(|w| w.change.sets == [("run.sequences".into(), "1".into())]), "{all:?}");
        assert!(ways_back(&shape, &work, &config, &machine, 0).is_empty());
    }
}
