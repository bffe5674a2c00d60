//! The walls of a run: what the configuration grants, and what the machine has.

use crate::bytes::Bytes;
use crate::config::Config;
use crate::ledger::{Tier, Walls};
use crate::machine::Machine;
use crate::shape::ModelShape;

/// What a run of `config` on `machine` may hold: its budgets, and no more than is free there now, unless the configuration
/// insists (`budget.overcommit`).
pub fn walls(config: &Config, machine: &Machine) -> Walls {
    let budget = &config.budget;
    let granted = [budget.device.0, budget.host.0, budget.disk.0];
    let own = Walls::of(granted[0], granted[1], granted[2]);
    if budget.overcommit {
        return own;
    }
    let memory = machine.memory.grant();
    let disk = machine.disk.free.unwrap_or(u64::MAX);
    // A GPU's memory is its own; what is free of it when it was probed says little about now, and its driver refuses.
    let there = match config.gpu() {
        None => [memory, memory, disk],
        Some(n) => [machine.gpus.get(n).map_or(u64::MAX, |gpu| gpu.memory), memory, disk],
    };
    let together = if config.gpu().is_none() { memory } else { u64::MAX };
    let tiers = std::array::from_fn(|i| granted[i].min(there[i]));
    Walls { tiers, together, machine: std::array::from_fn(|i| there[i] < granted[i]) }
}

/// Budgets that a configuration names and the machine does not have, in words; none where there are none.
pub fn beyond(config: &Config, machine: &Machine) -> Option<String> {
    let walls = walls(config, machine);
    let budget = &config.budget;
    let named = [("device", budget.device), ("host", budget.host), ("disk", budget.disk)];
    let over: Vec<_> = named
        .iter()
        .zip(Tier::ALL)
        .filter(|((_, set), tier)| *set != Bytes::UNLIMITED && walls.at(**tier) < set.0)
        .map(|((key, set), tier)| format!("budget.{key} = {set} is more than is free here: {}", Bytes(walls.at(*tier))))
        .collect();
    (!over.is_empty()).then(|| format!("{}; that is the limit (--overcommit to insist)", over.join(", ")))
}

/// What a reader of a plan or a run should know before its figures: budgets that are not there, and a context that the model was
/// never trained for.
pub fn cautions(config: &Config, shape: &ModelShape, machine: &Machine) -> Vec<String> {
    let trained = shape.context;
    let untrained = (trained > 0 && config.train.is_none() && config.run.context > trained).then(|| {
        format!(
            "run.context = {} is more than the {trained} tokens that {} was trained for: beyond them it may write nonsense",
            config.run.context, shape.name
        )
    });
    beyond(config, machine).into_iter().chain(untrained).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let sets: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml("", &sets).unwrap()
    }

    fn machine(free: u64) -> Machine {
        let mut machine = Machine::default_guess();
        (machine.memory.total, machine.memory.available) = (64 << 30, free);
        (machine.memory.cgroup_limit, machine.memory.cgroup_available) = (None, None);
        machine.disk.free = Some(7 << 30);
        machine
    }

    #[test]
    fn what_is_free_is_the_default_and_the_most() {
        let here = machine(10 << 30);
        let free = here.memory.grant();
        assert!(free < 10 << 30 && free > 9 << 30);
        let default = walls(&config(&[]), &here);
        assert_eq!((default.tiers, default.together), ([free, free, 7 << 30], free));
        assert_eq!(default.machine, [true; 3]);
        assert_eq!(beyond(&config(&[]), &here), None, "nobody named a budget");
        let small = walls(&config(&[("budget.device", "1 GiB")]), &here);
        assert_eq!((small.at(Tier::Device), small.machine[0], small.together), (1 << 30, false, free));
        let large = config(&[("budget.device", "11 GiB")]);
        assert_eq!(walls(&large, &here).at(Tier::Device), free);
        let said = beyond(&large, &here).unwrap();
        assert!(said.contains("budget.device = 11 GiB") && said.contains("--overcommit"), "{said}");
        let insists = config(&[("budget.device", "11 GiB"), ("budget.overcommit", "true")]);
        assert_eq!(walls(&insists, &here), Walls::of(11 << 30, u64::MAX, u64::MAX));
        assert_eq!(beyond(&insists, &here), None);
        assert_eq!(walls(&config(&[]), &machine(0)).at(Tier::Device), 0, "nothing free grants nothing");
    }
}
