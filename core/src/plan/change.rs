//! Changes that bring a plan back within its budgets, as data: keys to set, and how to say it.

use super::way_back::{Change, WayBack, fitting};
use super::{Inverse, Workload, plan, walls};
use crate::bytes::Bytes;
use crate::catalog;
use crate::config::{Axis, Config, axes};
use crate::error::OverBudget;
use crate::ledger::{Tier, files};
use crate::machine::Machine;
use crate::schema::{self, About, Cost};
use crate::shape::ModelShape;
use crate::{kv, weights};

/// One change that may fit, and its kind: one of a kind is enough.
struct Candidate {
    kind: String,
    change: Change,
}

/// What entries on `axis` offer at `cost`, those that keep more first.
fn offers(axis: &'static Axis, cost: Cost) -> Vec<(&'static About, &'static schema::Candidate)> {
    let mut all: Vec<_> = catalog::variants(axis).flat_map(|e| e.candidates.iter().map(move |c| (e, c))).collect();
    all.retain(|(_, c)| c.cost == cost);
    all.sort_by(|a, b| b.1.keeps.total_cmp(&a.1.keeps));
    all
}

/// Several changes as one; a key set twice keeps the later value.
fn together(parts: &[&Change]) -> Change {
    let all: Vec<_> = parts.iter().flat_map(|c| &c.sets).cloned().collect();
    let later = |i: usize| all[i + 1..].iter().any(|(k, _)| *k == all[i].0);
    let sets = (0..all.len()).filter(|i| !later(*i)).map(|i| all[i].clone()).collect();
    let words: Vec<_> = parts.iter().map(|c| c.words.as_str()).collect();
    Change { sets, words: words.join(" · ") }
}

fn set(key: &str, value: impl ToString, words: String) -> Change {
    Change { sets: vec![(key.to_owned(), value.to_string())], words }
}

fn offered((entry, candidate): &(&'static About, &'static schema::Candidate)) -> Change {
    Change { sets: candidate.all_sets(entry), words: candidate.say(entry) }
}

/// Formats of the cache with their bits an element, the finest first.
fn cache_formats() -> Vec<(f64, &'static About)> {
    let bits = |e: &About| kv::format::bits(e.axis.key, &e.id.into()).unwrap_or(0.0);
    let mut all: Vec<_> = catalog::variants(&axes::KV_FORMAT).map(|e| (bits(e), e)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all
}

/// Every change worth trying, cheapest first: what changes only memory and speed, then what costs accuracy, least first, then
/// several at once. What an entry offers comes from the entry.
fn candidates(shape: &ModelShape, workload: &Workload, config: &Config) -> Vec<Candidate> {
    let mut all = Vec::new();
    let mut add = |kind: &str, change: Change| all.push(Candidate { kind: kind.to_owned(), change });
    let inference = || axes::all().filter(|a| !a.key.starts_with("train."));
    for axis in inference() {
        offers(axis, Cost::Nothing).iter().for_each(|o| add(axis.key, offered(o)));
    }
    let needed = workload.passes.iter().map(|p| p.prompt + p.decode).max().unwrap_or(1);
    let context =
        set("run.context", needed.min(config.run.context), format!("Context {}", needed.min(config.run.context)));
    if config.run.context > needed {
        add("context", context.clone());
    }
    for batch in [256, 128, 64, 32, 16].into_iter().filter(|b| *b < config.run.batch) {
        add("batch", set("run.batch", batch, format!("Prompt in batches of {batch}")));
    }
    // Cheaper rows, the finest first.
    let formats = cache_formats();
    let format = |e: &About| set(e.axis.key, e.id, format!("{} {}", e.axis.name(), e.title));
    formats.iter().for_each(|(_, e)| add("format", format(e)));
    let slower: Vec<_> = inference().flat_map(|axis| offers(axis, Cost::Speed)).collect();
    slower.iter().for_each(|o| add(&format!("slower {}", o.0.axis.key), offered(o)));
    // Coarser weights than the file's, the finest first.
    let stored = 8.0 * shape.bytes() as f64 / shape.parameters().max(1) as f64;
    let mut coarser: Vec<_> =
        weights::format::ENTRIES.iter().filter_map(|e| Some((e.scheme()?.bits(), &e.about))).collect();
    coarser.retain(|(bits, e)| config.weights.format.id == axes::WEIGHTS_FORMAT.default && e.common && *bits < stored);
    coarser.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, entry) in coarser {
        add("weights", set(entry.axis.key, entry.id, format!("Weights in {}", entry.title)));
    }
    // Fewer rows, each a little coarser: the coarsest common format where few stay.
    let common: Vec<_> = formats.iter().filter(|(bits, e)| e.common && *bits < 16.0).collect();
    let (fine, coarse) = (common.first().map(|(_, e)| format(e)), common.last().map(|(_, e)| format(e)));
    let small = |most: usize| {
        let batch = config.run.batch.min(most);
        set("run.batch", batch, format!("batches of {batch}"))
    };
    let fewer: Vec<_> = inference().flat_map(|axis| offers(axis, Cost::Accuracy)).collect();
    for offer in &fewer {
        let format = if offer.1.keeps >= 0.2 { &fine } else { &coarse };
        let parts: Vec<Change> = [offered(offer)].into_iter().chain(format.clone()).chain([small(64)]).collect();
        add(&format!("fewer {}", offer.0.axis.key), together(&parts.iter().collect::<Vec<_>>()));
    }
    // Several at once, from what still gives nearly the same tokens to the least that runs.
    let smallest =
        |cost| inference().filter_map(move |axis| offers(axis, cost).last().map(offered)).collect::<Vec<_>>();
    let compact = smallest(Cost::Nothing);
    let mut at_once: Vec<Change> = slower.first().map(offered).into_iter().chain([small(16)]).collect();
    at_once.extend(compact);
    add("small", together(&at_once.iter().collect::<Vec<_>>()));
    let mut least = smallest(Cost::Speed);
    least.extend([small(16), context]);
    for (_, entry) in formats.iter().filter(|(bits, e)| e.common && *bits <= 16.0) {
        let format = format(entry);
        add("least", together(&least.iter().chain([&format]).collect::<Vec<_>>()));
    }
    for offer in fewer.iter().filter(|o| o.1.keeps <= 0.1) {
        let few = offered(offer);
        add("least of all", together(&least.iter().chain([&few]).chain(&coarse).collect::<Vec<_>>()));
    }
    all
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
    if n > 0
        && let Some(change) = more_disk(shape, workload, config, machine)
    {
        let Ok(larger) = change.apply(config) else { return Vec::new() };
        if let Some(plan) = fitting(shape, workload, &larger, machine) {
            return vec![WayBack { change, plan }];
        }
        if walls(&larger, machine).at(Tier::Disk) < larger.budget.disk.0 {
            // The machine has no more.
            return Vec::new();
        }
        let ways = ways_back(shape, workload, &larger, machine, n);
        return ways.into_iter().map(|w| WayBack { change: together(&[&change, &w.change]), plan: w.plan }).collect();
    }
    if config.train.is_some() {
        let mut out = super::solve_train::ways_back(shape, workload, config, machine, n);
        if out.is_empty() && n > 0 {
            out.extend(larger_budget(shape, workload, config, machine));
        }
        return out;
    }
    let mut out: Vec<WayBack> = Vec::new();
    let mut done: Vec<String> = Vec::new();
    for Candidate { kind, change } in candidates(shape, workload, config) {
        if out.len() >= n {
            return out;
        }
        if done.contains(&kind) {
            continue;
        }
        // What is nothing new, or does not go with the rest, is no way back.
        let Ok(changed) = change.apply(config) else { continue };
        let plan = (changed != *config).then(|| fitting(shape, workload, &changed, machine)).flatten();
        if let Some(plan) = plan {
            done.push(kind);
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

/// The disk that `workload` needs, where it is more than there may be: nothing else makes files smaller.
fn more_disk(shape: &ModelShape, workload: &Workload, config: &Config, machine: &Machine) -> Option<Change> {
    if workload.files.is_empty() {
        return None;
    }
    let needed = plan(shape, workload, config, machine).ok()?.peak(Tier::Disk);
    let over = needed > walls(config, machine).at(Tier::Disk);
    over.then(|| set("budget.disk", format!("{needed} B"), format!("Disk limit {}", Bytes(needed))))
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

/// What fits in place of what a plan is `over` by, in words of the command line: the cheapest change, and on the disk what may be
/// left out.
pub fn hint(
    over: &OverBudget,
    shape: &ModelShape,
    workload: &Workload,
    config: &Config,
    machine: &Machine,
) -> Option<String> {
    let change = cheapest_change(shape, workload, config, machine).map(|c| c.to_args());
    if over.tier != Tier::Disk {
        return change;
    }
    let without = files::Output::named(&over.name).unwrap_or(files::Output::Other).without();
    Some(change.map_or_else(|| files::way_out(over), |change| format!("{change}, or {without}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
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
    fn what_entries_offer_is_tried_and_every_change_can_be_made_or_is_refused() {
        let shape = shape("smollm2-135m@f16");
        let bases: &[&[(&str, &str)]] = &[
            &[],
            &[("run.batch", "16"), ("kv.alloc", "paged"), ("kv.format.k", "q8_0")],
            &[("kv.select", "{ use = \"window\", n_sink = 2 }"), ("kv.budget.rows", "64")],
            &[("place.weights", "{ use = \"stream\", from = \"host\" }"), ("run.context", "40")],
            &[("weights.format", "q8_0"), ("run.sequences", "3")],
        ];
        let mut kinds = std::collections::BTreeSet::new();
        for base in bases {
            let config = config(base);
            let all = candidates(&shape, &workload(&config, 30), &config);
            for c in &all {
                assert!(!c.change.words.is_empty());
                match c.change.apply(&config) {
                    Ok(changed) if changed != config => drop(kinds.insert(c.kind.clone())),
                    Ok(_) => {}
                    Err(e) => assert!(matches!(e, crate::Error::Refused { .. }), "{}: {e}", c.change.to_args()),
                }
            }
            for entry in catalog::entries().filter(|e| !e.axis.key.starts_with("train.")) {
                for candidate in entry.candidates {
                    let sets = candidate.all_sets(entry);
                    assert!(
                        all.iter().any(|c| sets.iter().all(|s| c.change.sets.contains(s))),
                        "{} {sets:?}",
                        entry.id
                    );
                }
            }
        }
        assert!(kinds.len() >= 10, "{kinds:?}");
    }

    #[test]
    fn over_the_disk_only_a_larger_disk_fits_and_what_is_written_is_named() {
        use crate::ledger::files::{Output, Written};
        let shape = shape("smollm2-135m@f16");
        let machine = Machine::default_guess();
        let asked = |pairs: &[(&str, &str)]| {
            let config = config(pairs);
            let files =
                vec![Written::new(Output::Reference, &[&[(50, "B")]]), Written::new(Output::Dump, &[&[(20, "B")]])];
            let work = Workload { files, ..workload(&config, 30) };
            (config, work)
        };
        let (fits, work) = asked(&[("budget.disk", "70 B")]);
        assert_eq!(plan(&shape, &work, &fits, &machine).unwrap().over, None);
        for (limit, row, without) in [("69 B", "dump", "--dump"), ("49 B", "saved reference logits", "eval.fidelity")] {
            let (tight, work) = asked(&[("budget.disk", limit)]);
            let over = plan(&shape, &work, &tight, &machine).unwrap().over.unwrap();
            assert_eq!((over.tier, over.name.as_str(), over.needed), (Tier::Disk, row, 70));
            let said = hint(&over, &shape, &work, &tight, &machine).unwrap();
            assert!(said.starts_with("--set budget.disk='70 B', or ") && said.contains(without), "{said}");
        }
        // Memory that does not suffice either is found a way back too, beside it.
        let (tight, work) = asked(&[("budget.disk", "9 B"), ("budget.device", "300 MiB"), ("run.context", "4096")]);
        let ways = ways_back(&shape, &work, &tight, &machine, 3);
        assert!(!ways.is_empty());
        for way in ways {
            let changed = way.change.apply(&tight).unwrap();
            assert!(changed.budget.disk.0 == 70 && way.change.sets.len() > 1, "{:?}", way.change);
            assert_eq!(plan(&shape, &work, &changed, &machine).unwrap().over, None);
        }
        // Where the machine has no more, no budget helps.
        let mut full = machine.clone();
        full.disk.free = Some(60);
        let (plain, work) = asked(&[]);
        let over = plan(&shape, &work, &plain, &full).unwrap().over.unwrap();
        assert!(over.machine && cheapest_change(&shape, &work, &plain, &full).is_none());
        assert!(hint(&over, &shape, &work, &plain, &full).unwrap().contains("free some space there"));
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
