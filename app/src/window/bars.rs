//! Bars: the bytes of each tier at one instant, planned or measured.

use std::collections::BTreeMap;

use ullage_core::config::Config;
use ullage_core::ledger::{Account, ByCategory, Category, Held, Phase, Tier};
use ullage_core::model::outline::{Known, Outline};
use ullage_core::report::ByteReport;
use ullage_panels::view::{BarSegment, Bars, BytesBar, Instant};
use ullage_panels::words;

use super::words::{governs, tier, used_for};

/// How the bytes of a category come about at the peak, or at the peak of a phase; empty when nothing is known.
pub type Formula<'a> = &'a dyn Fn(Option<Phase>, Tier, Category) -> String;

/// For bars that are not explained.
pub fn unexplained(_: Option<Phase>, _: Tier, _: Category) -> String {
    String::new()
}

fn bar(by: &ByCategory, limit: Option<u64>, measured: bool, formula: impl Fn(Category) -> String) -> BytesBar {
    let segments = by.iter().filter(|(_, bytes)| **bytes > 0).map(|(c, bytes)| BarSegment {
        label: used_for(*c).label().into(),
        bytes: *bytes,
        used_for: used_for(*c),
        formula: formula(*c),
        governed_by: governs(*c).into(),
    });
    BytesBar { segments: segments.collect(), limit, measured }
}

/// The limit of a tier; `None` for none.
pub fn limit(config: &Config, tier: Tier) -> Option<u64> {
    let bytes = match tier {
        Tier::Device => config.budget.device,
        Tier::Host => config.budget.host,
        Tier::Disk => config.budget.disk,
    };
    (bytes != ullage_core::Bytes::UNLIMITED).then_some(bytes.0)
}

fn instant<'a>(
    name: String,
    config: &Config,
    measured: bool,
    formula: &dyn Fn(Tier, Category) -> String,
    by_tier: impl Fn(Tier) -> Option<&'a ByCategory>,
) -> Instant {
    let mut tiers = Vec::new();
    for t in Tier::ALL {
        let empty = ByCategory::new();
        let by = by_tier(*t).unwrap_or(&empty);
        if *t == Tier::Device || by.values().any(|b| *b > 0) {
            tiers.push((tier(*t), bar(by, limit(config, *t), measured, |c| formula(*t, c))));
        }
    }
    Instant { name, tiers }
}

/// The phase in which a tier had its peak, where one has just that peak.
fn peak_phase(phases: &BTreeMap<Phase, BTreeMap<Tier, Account>>, peak: u64) -> Option<Phase> {
    let holds = |accounts: &BTreeMap<Tier, Account>| accounts.get(&Tier::Device).is_some_and(|a| a.peak == peak);
    phases.iter().find(|(_, accounts)| peak > 0 && holds(accounts)).map(|(phase, _)| *phase)
}

/// The bars of an account: its peak, then its phases.
pub fn of(bytes: &ByteReport, config: &Config, measured: bool, formula: Formula<'_>) -> Bars {
    let peak = bytes.peak.get(&Tier::Device).copied().unwrap_or(0);
    let name = peak_phase(&bytes.phases, peak).map_or("peak".into(), |p| format!("peak ({p})"));
    let mut instants = vec![instant(name, config, measured, &|t, c| formula(None, t, c), |t| bytes.at_peak.get(&t))];
    for (phase, accounts) in &bytes.phases {
        let of = |t: Tier| accounts.get(&t).map(|a| &a.at_peak);
        instants.push(instant(phase.to_string(), config, measured, &|t, c| formula(Some(*phase), t, c), of));
    }
    Bars { instants, ..Bars::default() }
}

/// The bar of one moment of a run. What is only kept for display stands outside of what is predicted, and so outside of the bars.
pub fn moment(name: String, held: &Held, config: &Config) -> Instant {
    let counted =
        |by: &ByCategory| by.iter().filter(|(c, _)| **c != Category::Observation).map(|(c, b)| (*c, *b)).collect();
    let held: BTreeMap<Tier, ByCategory> = held.0.iter().map(|(tier, by)| (*tier, counted(by))).collect();
    instant(name, config, true, &|_, _| String::new(), |t| held.get(&t))
}

/// Bytes of the cache of a model that is only planned: all sequences, whole contexts, f16; `None` where a layer's kind is unknown.
fn outlined_cache(of: &Outline, config: &Config) -> Option<u64> {
    let one = of.cache(config.run.context as u64, 2)?;
    Some(one.saturating_mul(config.run.sequences as u64))
}

/// The bars of a model that is planned and not run: its weights, and the cache of whole contexts in f16.
pub fn outlined(of: &Outline, config: &Config) -> Bars {
    let weights = of.weights.as_ref().map_or(0, |w| w.bytes);
    let by =
        ByCategory::from([(Category::Weights, weights), (Category::KvCache, outlined_cache(of, config).unwrap_or(0))]);
    let formula = |_, category| match (category, &of.weights) {
        (Category::KvCache, _) => {
            let kinds = of.kinds().into_iter().map(|(kind, n)| format!("{n} × {}", kind.words()));
            kinds.collect::<Vec<_>>().join("; ") + "; 2 B an element"
        }
        (_, Some(w)) if w.known == Known::Exactly => "the tensors of the files' headers".into(),
        _ => "the sizes and the type that its configuration names".into(),
    };
    let name = format!("weights and the cache of {} tokens", words::count(config.run.context as u64));
    let instant = instant(name, config, false, &formula, |t| (t == Tier::Device).then_some(&by));
    Bars { instants: vec![instant], ..Bars::default() }
}

/// What to know before reading them.
pub fn outlined_note(of: &Outline, config: &Config) -> String {
    let cache = match outlined_cache(of, config) {
        Some(_) => "an f16 cache of whole contexts",
        None => "no cache, since its layers are of no known kind",
    };
    let weights = if of.weights.is_some() { "its weights" } else { "no weights, since nothing says their size" };
    format!("Planned from its description alone: {weights} and {cache}. What computing takes is not in it.")
}

/// A moment's name: `at 1.2 s`.
pub fn at(seconds: f64) -> String {
    format!("at {} s", words::number(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_comes_first_and_names_its_phase() {
        let by = |n| ByCategory::from([(Category::Weights, 10), (Category::KvCache, n)]);
        let account = |n| BTreeMap::from([(Tier::Device, Account { peak: 10 + n, at_peak: by(n), bytes: by(n) })]);
        let bytes = ByteReport {
            peak: [(Tier::Device, 40)].into(),
            at_peak: [(Tier::Device, by(30)), (Tier::Disk, ByCategory::new())].into(),
            phases: [(Phase::Load, account(0)), (Phase::Prefill, account(30)), (Phase::Decode, account(7))].into(),
            ..ByteReport::default()
        };
        let mut config = Config::default();
        config.budget.device = ullage_core::Bytes(25);
        let bars = of(&bytes, &config, false, &|phase, _, c| match (phase, c) {
            (None, Category::KvCache) => "2 · 15".into(),
            _ => String::new(),
        });
        let names: Vec<_> = bars.instants.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["peak (prefill)", "load", "prefill", "decode"]);
        let [(_, device)] = &bars.instants[0].tiers[..] else { panic!("an empty tier is not drawn") };
        assert_eq!((device.total(), device.overshoot(), device.limit), (40, 15, Some(25)));
        assert_eq!(
            (device.segments[1].formula.as_str(), device.segments[1].governed_by.as_str()),
            ("2 · 15", "kv.format")
        );
        assert_eq!(bars.instants[1].tiers[0].1.segments.len(), 1, "nothing of no bytes");
    }
}
