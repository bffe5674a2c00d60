//! The catalogue: every technique, as data, and what a configuration may ask of it.
//!
//! A technique is one file with a `static ENTRY` (see [`crate::schema`]), one line in the `ENTRIES` of its axis's folder, and
//! its tests. This is the one place that knows all axes; whoever builds the techniques of one area reads that area's lists.

use std::collections::BTreeMap;

use crate::config::{self, Axis, Choice, Config};
use crate::error::{Error, Result};
use crate::schema::{self, About, Entry, Platform, Settled};
use crate::{eval, kv, place, train, weights};

/// A technique whichever its axis.
pub trait Technique: Sync {
    /// What is known of it.
    fn about(&self) -> &About;

    /// Builds it, to see whether it can be.
    ///
    /// # Errors
    /// What the entry refuses to build.
    fn try_build(&self, knobs: &Settled) -> Result<()>;
}

impl<T: ?Sized> Technique for Entry<T> {
    fn about(&self) -> &About {
        &self.about
    }

    fn try_build(&self, knobs: &Settled) -> Result<()> {
        (self.build)(knobs).map(drop)
    }
}

/// The variants of an axis.
trait List: Sync {
    fn get(&self, i: usize) -> Option<&'static dyn Technique>;
}

impl<T: ?Sized> List for &'static [&'static Entry<T>] {
    fn get(&self, i: usize) -> Option<&'static dyn Technique> {
        <[_]>::get(self, i).map(|e| *e as &dyn Technique)
    }
}

/// By axis, the common ones first.
static LISTS: &[&dyn List] = &[
    &weights::format::ENTRIES,
    &kv::select::ENTRIES,
    &kv::split::ENTRIES,
    &kv::merge::ENTRIES,
    &kv::channels::ENTRIES,
    &kv::format::ENTRIES,
    &kv::read::ENTRIES,
    &kv::alloc::ENTRIES,
    &place::ENTRIES,
    &place::KV_ENTRIES,
    &train::params::ENTRIES,
    &train::gradient::ENTRIES,
    &train::optimizer::ENTRIES,
    &train::activations::ENTRIES,
    &train::loss::ENTRIES,
    &train::order::ENTRIES,
    &eval::ENTRIES,
];

/// Every technique.
pub fn techniques() -> impl Iterator<Item = &'static dyn Technique> {
    LISTS.iter().flat_map(|list| (0..).map_while(|i| list.get(i)))
}

/// What is known of every technique.
pub fn entries() -> impl Iterator<Item = &'static About> {
    techniques().map(Technique::about)
}

/// The variants of one axis.
pub fn variants(axis: &'static Axis) -> impl Iterator<Item = &'static About> {
    entries().filter(move |e| e.axis == axis)
}

/// The entry of `id` on `axis`.
///
/// # Errors
/// Names the key, the value and what is allowed.
pub fn find(axis: &'static Axis, key: &str, id: &str) -> Result<&'static About> {
    variants(axis).find(|e| e.id == id).ok_or_else(|| schema::unknown(key, id, variants(axis)))
}

/// Every choice of `config` with its key: those on axes, then its evaluations.
fn chosen(config: &Config) -> impl Iterator<Item = (&'static Axis, String, Choice)> {
    let axes = config.choices().into_iter().map(|(axis, key, choice)| (axis, key, choice.clone()));
    let eval = config.eval.iter().map(|(task, knobs)| {
        (&config::axes::EVAL, format!("eval.{task}"), Choice { id: task.clone(), knobs: knobs.clone() })
    });
    axes.chain(eval)
}

/// Checks every key of `config` against the catalogue and the rules that need no model.
///
/// # Errors
/// The first thing wrong: the key, the value, and what is allowed; or what cannot go together, and why.
pub fn check(config: &Config) -> Result<()> {
    config.check()?;
    config.train.as_ref().map_or(Ok(()), train::data::check)?;
    for (axis, key, choice) in chosen(config) {
        let entry = find(axis, &key, &choice.id)?;
        entry.settle(&key, &choice.knobs)?;
        (entry.composes)(config).map_err(|reason| Error::refused(format!("{key} = {}", entry.id), reason))?;
    }
    Ok(())
}

/// Checks that what `config` computes on runs each of its choices: those of fine-tuning in a training, otherwise the others.
///
/// # Errors
/// The first choice that it does not run, with those of its axis that it does.
pub fn check_platform(config: &Config) -> Result<()> {
    let platform = Platform::of(config);
    for (axis, key, choice) in chosen(config) {
        // What this kind of run does not read is not asked for: a training has no cache of its own.
        if !axis.read_by().is(config) || find(axis, &key, &choice.id)?.runs(platform) {
            continue;
        }
        let runs: Vec<_> = variants(axis).filter(|e| e.runs(platform)).map(|e| e.id).collect();
        let runs = if runs.is_empty() { "none of this axis".to_owned() } else { runs.join(", ") };
        return Err(Error::refused(
            format!("{key} = {}", choice.id),
            format!("{} runs so far: {runs}", platform.words()),
        ));
    }
    Ok(())
}

/// Reads TOML, applies the overrides in order, checks everything.
///
/// # Errors
/// [`Error::Config`] naming the key (and, for syntax, the line), or [`Error::Refused`].
pub fn from_toml(text: &str, overrides: &[(String, String)]) -> Result<Config> {
    let config = config::parse(text, overrides)?;
    check(&config)?;
    Ok(config)
}

/// The variants of every axis, by its key.
pub fn by_axis() -> BTreeMap<&'static str, Vec<&'static About>> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    entries().for_each(|e| out.entry(e.axis.key).or_default().push(e));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Knobs, axes};

    #[test]
    fn ids_are_unique_on_their_axis_and_defaults_pass_their_own_check() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in entries() {
            assert!(seen.insert((entry.axis, entry.id)), "{} twice on {:?}", entry.id, entry.axis);
            assert!(entry.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", entry.id);
            assert!(entry.sentence.ends_with('.') && !entry.paper.is_empty(), "{}", entry.id);
            assert!(!entry.title.is_empty() && !entry.title.ends_with('.'), "{}", entry.id);
            assert!(entry.runs(Platform::Cpu), "{}: every technique runs on the CPU", entry.id);
            for knob in entry.knobs {
                assert!(knob.label.starts_with(char::is_uppercase) && knob.sentence.ends_with('.'), "{}", knob.id);
                if let Some(value) = knob.default_value() {
                    knob.kind.check("k", &value).unwrap();
                }
            }
        }
    }

    #[test]
    fn every_entry_builds_from_its_defaults_and_reads_only_knobs_it_declares() {
        for technique in techniques() {
            let about = technique.about();
            let settled = about.settle("k", &Knobs::default()).unwrap();
            technique.try_build(&settled).unwrap_or_else(|e| panic!("{}: {e}", about.id));
        }
    }

    #[test]
    fn every_axis_has_a_card_of_its_own_with_something_common_on_it() {
        let mut titles = std::collections::BTreeSet::new();
        for axis in axes::all() {
            assert!(titles.insert((axis.section, axis.title)), "{axis:?} has the words of another axis");
            assert!(axis.sentence.ends_with('.') && !axis.title.ends_with('.'));
            assert!(variants(axis).any(|e| e.common), "{axis:?}");
            assert!(axis.default.is_empty() || find(axis, axis.key, axis.default).is_ok(), "{axis:?}");
            let mut names = std::collections::BTreeSet::new();
            assert!(variants(axis).all(|e| names.insert(e.title)), "{axis:?} has a title twice");
        }
        assert!(entries().all(|e| axes::all().any(|axis| axis == e.axis)));
    }

    #[test]
    fn a_list_holds_one_axis_and_an_axis_has_one_list() {
        let mut seen = std::collections::BTreeSet::new();
        for list in LISTS {
            let of: Vec<_> = (0..).map_while(|i| list.get(i)).map(|t| t.about().axis).collect();
            assert!(of.iter().all(|axis| *axis == of[0]) && seen.insert(of[0]), "{of:?}");
        }
        assert_eq!(seen.len(), axes::all().count());
    }

    #[test]
    fn an_unknown_variant_names_the_allowed_ones() {
        let Err(error) = find(&axes::KV_SELECT, "kv.select", "h20") else { panic!() };
        let text = error.to_string();
        assert!(text.contains("kv.select") && text.contains("h20") && text.contains("h2o"), "{text}");
    }

    #[test]
    fn a_gpu_refuses_by_name_what_does_not_say_that_it_runs_there() {
        // Every variant of every axis, chosen alone: it plans on a GPU exactly if it says so.
        for about in entries().filter(|e| !e.axis.key.starts_with("train.") && e.axis != &axes::EVAL) {
            let mut sets = vec![("machine.device".to_owned(), "cuda:0".to_owned())];
            sets.push((about.axis.key.to_owned(), about.id.to_owned()));
            let Ok(config) = from_toml("", &sets) else { continue };
            match check_platform(&config) {
                Ok(()) => assert!(about.runs(Platform::Cuda), "{}", about.id),
                Err(e) => {
                    assert!(!about.runs(Platform::Cuda), "{e}");
                    assert!(e.to_string().contains(about.id) && e.to_string().contains("a GPU"), "{e}");
                }
            }
        }
    }
}
