//! Cards from the catalogue alone: an entry makes its variant appear, an axis its card.

use ullage_core::config::axes::{self, Axis};
use ullage_core::config::train::{Train, Validation};
use ullage_core::config::{Choice, Config, KnobValue, Knobs, KvBudget, settings};
use ullage_core::kv;
use ullage_core::schema::{self, About, KnobKind};
use ullage_panels::view::{Card, Kind, Knob, Section, Variant};

use super::super::words;

/// The choice of an axis in `config`: `Err` with both when keys and values differ.
fn chosen<'a>(config: &'a Config, axis: &Axis) -> Option<Result<&'a Choice, (&'a Choice, &'a Choice)>> {
    let all = config.choices();
    let mut of = all.iter().filter(|(a, ..)| *a == axis).map(|(.., choice)| *choice);
    let first = of.next()?;
    Some(match of.next() {
        Some(second) if second != first => Err((first, second)),
        _ => Ok(first),
    })
}

/// Every card of `config`, by section; prices and refusals are still to be filled in.
pub fn sections(config: &Config, entries: &[&'static About]) -> Vec<Section> {
    let mut out: Vec<Section> = Vec::new();
    let mut put = |title: &str, card: Card| match out.iter_mut().find(|s| s.title == title) {
        Some(section) => section.cards.push(card),
        None => out.push(Section { title: title.to_owned(), cards: vec![card] }),
    };
    let train = config.train.as_ref();
    // Fine-tuning has no cache and generating no gradients: what does not apply is not shown.
    let applies = |axis: &Axis| axis.key.starts_with("train.") == train.is_some();
    let mut axes: Vec<&'static Axis> = Vec::new();
    for entry in entries {
        if !axes.contains(&entry.axis) && applies(entry.axis) {
            axes.push(entry.axis);
        }
    }
    for axis in axes {
        let of: Vec<_> = entries.iter().copied().filter(|e| e.axis == axis).collect();
        let title = axis.section;
        match chosen(config, axis) {
            Some(choice) => {
                let card = card(config, axis, &of, choice);
                // One value that asks for nothing is no choice.
                if card.variants.len() > 1 || card.variants.iter().any(|v| !v.knobs.is_empty()) {
                    put(title, card);
                }
            }
            // An axis of which any number may be on.
            None if *axis == axes::EVAL => of.into_iter().for_each(|entry| put(title, switch(config, entry))),
            None => {}
        }
    }
    match train {
        Some(train) => {
            put("Fine-tuning", data(config, train));
            put("Fine-tuning", training(config));
            put("Fine-tuning", computation(config));
        }
        None => {
            put("Generation", generation(config));
            put("Generation", computation(config));
            put("Generation", observe(config));
        }
    }
    out
}

fn data(config: &Config, t: &Train) -> Card {
    Card {
        key: "train.data".into(),
        title: "Data".into(),
        sentence: "What it learns from.".into(),
        knobs: vec![
            Knob { sentence: ullage_core::train::data::sentence(), ..setting(config, "train.data") },
            setting(config, "train.loss_on"),
            plain(
                "train.validation",
                "Held out",
                match t.validation {
                    Validation::Share(_) => Kind::Float { min: 0.0, max: 0.9 },
                    Validation::File(_) => Kind::Text,
                },
                t.validation.to_string(),
                "0.05",
                "of the documents",
                "Not learned from, and read to see what was learned.",
            ),
            setting(config, "train.validate_every"),
            setting(config, "train.samples"),
            setting(config, "train.sample_tokens"),
            setting(config, "train.packing"),
            setting(config, "train.out"),
            setting(config, "train.resume"),
        ],
        ..Card::default()
    }
}

fn training(config: &Config) -> Card {
    Card {
        key: "train".into(),
        title: "Steps".into(),
        sentence: "How far each step goes, and in which arithmetic.".into(),
        advanced: true,
        knobs: vec![
            setting(config, "train.lr"),
            setting(config, "train.warmup"),
            setting(config, "train.decay"),
            setting(config, "train.accumulate"),
            setting(config, "train.grad_hold"),
            setting(config, "train.dtype"),
            setting(config, "train.round"),
            setting(config, "run.seed"),
        ],
        ..Card::default()
    }
}

fn card(config: &Config, axis: &Axis, entries: &[&'static About], choice: Result<&Choice, (&Choice, &Choice)>) -> Card {
    let key = axis.key;
    let variants = entries.iter().map(|entry| {
        let given = choice.ok().filter(|c| c.id == entry.id);
        Variant {
            id: entry.id.into(),
            title: entry.title.into(),
            sentence: entry.sentence.into(),
            paper: entry.paper.into(),
            chosen: given.is_some(),
            common: entry.common || given.is_some(),
            sets: sets(config, key, entry),
            knobs: given.map(|c| knobs(key, entry, &c.knobs)).unwrap_or_default(),
            ..Variant::default()
        }
    });
    Card {
        key: key.into(),
        title: axis.title.into(),
        sentence: axis.sentence.into(),
        advanced: axis.advanced,
        variants: variants.collect(),
        mixed: choice.err().map(|(k, v)| format!("{} / {}", k.id, v.id)),
        knobs: if *axis == axes::KV_SELECT { budget(config) } else { Vec::new() },
    }
}

/// True when a policy keeps every row whatever the budget.
pub fn keeps_all(entry: &About) -> bool {
    schema::build(kv::select::ENTRIES, entry.axis.key, &entry.id.into()).is_ok_and(|policy| policy.keeps_all())
}

/// What choosing an entry sets: a policy that drops rows brings a budget along, so that two of them are compared at the same bytes.
fn sets(config: &Config, key: &str, entry: &About) -> Vec<(String, String)> {
    let mut out = vec![(key.to_owned(), entry.id.to_owned())];
    if *entry.axis == axes::KV_SELECT {
        match (keeps_all(entry), config.kv.budget) {
            (true, Some(_)) => out.push(("kv.budget".into(), String::new())),
            (false, None) => out.push(("kv.budget.ratio".into(), "0.2".into())),
            _ => {}
        }
    }
    out
}

fn budget(config: &Config) -> Vec<Knob> {
    let rows = "Rows that stay for each layer and head; the same for every policy.";
    let share = "Rows that stay for each layer and head, as a share of the context; the same for every policy.";
    let bytes = "Bytes of one sequence's cache; the same for every policy.";
    let knob = |key: &str, kind, value: String, unit: &str, sentence: &str| {
        vec![plain(&format!("kv.budget.{key}"), "Keep", kind, value, "", unit, sentence)]
    };
    match config.kv.budget {
        Some(KvBudget::Ratio(r)) => {
            knob("ratio", Kind::Float { min: 0.01, max: 1.0 }, r.to_string(), "of the context", share)
        }
        Some(KvBudget::Rows(n)) => {
            let kind = Kind::Int { min: 1, max: config.run.context.max(1) as i64 };
            knob("rows", kind, n.to_string(), "rows a head", rows)
        }
        Some(KvBudget::Bytes(b)) => knob("bytes", Kind::Text, format!("{} B", b.0), "", bytes),
        None => Vec::new(),
    }
}

fn switch(config: &Config, entry: &'static About) -> Card {
    let key = format!("{}.{}", entry.axis.key, entry.id);
    let on = config.eval.get(entry.id);
    let variant = |id: &str, chosen: bool, value: &str| Variant {
        id: id.into(),
        title: words::capital(id),
        sentence: if id == "on" { entry.sentence.into() } else { "Not measured.".into() },
        paper: if id == "on" { entry.paper.into() } else { String::new() },
        chosen,
        common: true,
        sets: vec![(key.clone(), value.to_owned())],
        knobs: on.filter(|_| id == "on").map(|given| knobs(&key, entry, given)).unwrap_or_default(),
        ..Variant::default()
    };
    Card {
        title: entry.title.into(),
        sentence: entry.sentence.into(),
        variants: vec![variant("off", on.is_none(), ""), variant("on", on.is_some(), "{}")],
        key: key.clone(),
        ..Card::default()
    }
}

/// The knobs of an entry with the values given, defaults elsewhere.
pub fn knobs(key: &str, entry: &About, given: &Knobs) -> Vec<Knob> {
    let text = |value: &KnobValue| value.to_string();
    let of = |k: &schema::Knob| {
        let default = k.default_value().as_ref().map(text).unwrap_or_default();
        Knob {
            key: format!("{key}.{}", k.id),
            label: k.label.into(),
            paper_name: if k.paper_name == k.id { String::new() } else { k.paper_name.into() },
            sentence: k.sentence.into(),
            unit: k.unit.into(),
            kind: kind(k.kind),
            value: given.0.get(k.id).map_or_else(|| default.clone(), text),
            default,
        }
    };
    entry.knobs.iter().map(of).collect()
}

/// A kind of the catalogue as the screen has it.
fn kind(kind: KnobKind) -> Kind {
    match kind {
        KnobKind::Int { min, max } => Kind::Int { min, max },
        KnobKind::Float { min, max } => Kind::Float { min, max },
        KnobKind::Bool => Kind::Bool,
        KnobKind::Word { of } => Kind::Word(of.iter().map(|w| (*w).to_owned()).collect()),
        KnobKind::Ints { .. } | KnobKind::Text => Kind::Text,
    }
}

/// A key beside the axes, as the table of settings has it; what is not in the table is shown by its name.
fn setting(config: &Config, key: &str) -> Knob {
    let text = |value: Option<KnobValue>| value.map(|v| v.to_string()).unwrap_or_default();
    match settings::find(key) {
        Some(s) => {
            let value = (s.get)(config);
            // A number that is written in quotes is more than a field of numbers holds.
            let kind = if matches!(value, Some(KnobValue::Text(_))) && matches!(s.kind, KnobKind::Int { .. }) {
                Kind::Text
            } else {
                kind(s.kind)
            };
            plain(key, s.label, kind, text(value), &text(s.default()), s.unit, s.sentence)
        }
        None => plain(key, key, Kind::Text, String::new(), "", "", ""),
    }
}

/// One knob that no catalogue entry has.
fn plain(key: &str, label: &str, kind: Kind, value: String, default: &str, unit: &str, sentence: &str) -> Knob {
    let (key, label, default, unit) = (key.into(), label.into(), default.into(), unit.into());
    Knob { key, label, kind, value, default, unit, sentence: sentence.into(), paper_name: String::new() }
}

fn generation(config: &Config) -> Card {
    Card {
        key: "run.sampling".into(),
        title: "Next token".into(),
        sentence: "How the next token is chosen from the model's scores.".into(),
        advanced: true,
        knobs: vec![
            setting(config, "run.sampling.temperature"),
            setting(config, "run.sampling.top_k"),
            setting(config, "run.sampling.top_p"),
            setting(config, "run.sampling.min_p"),
            setting(config, "run.seed"),
            setting(config, "run.ignore_eos"),
            setting(config, "run.parse_special"),
        ],
        ..Card::default()
    }
}

fn computation(config: &Config) -> Card {
    Card {
        key: "computation".into(),
        title: "Computation".into(),
        sentence: "How much is computed at once, and in which arithmetic.".into(),
        advanced: true,
        knobs: vec![
            setting(config, "run.batch"),
            setting(config, "run.compute"),
            setting(config, "machine.threads"),
            setting(config, "budget.host"),
            setting(config, "budget.disk"),
        ],
        ..Card::default()
    }
}

fn observe(config: &Config) -> Card {
    let on = config.observe.as_ref();
    let variant = |id: &str, title: &str, sentence: &str, chosen, sets: &[(&str, &str)]| Variant {
        id: id.into(),
        title: title.into(),
        sentence: sentence.into(),
        chosen,
        common: true,
        sets: sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Variant::default()
    };
    let off = variant("off", "Nothing", "Nothing is kept for display.", on.is_none(), &[("observe", "")]);
    let mut thumbnails = variant(
        "thumbnails",
        "All heads, small",
        "The newest token's attention of every head, at every step, for the Attention picture; never the reason a run is refused.",
        on.is_some(),
        &[("observe.attention", "thumbnails")],
    );
    if on.is_some() {
        thumbnails.knobs = vec![setting(config, "observe.bins"), setting(config, "observe.limit")];
    }
    Card {
        key: "observe".into(),
        title: "Kept for display".into(),
        sentence: "What is kept only to be looked at; it is part of the configuration because it costs bytes.".into(),
        advanced: true,
        variants: vec![off, thumbnails],
        ..Card::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::super::document::with;
    use super::*;
    use ullage_core::catalog;
    use ullage_core::ledger::Category;

    #[test]
    fn a_seed_of_any_size_is_shown_as_it_is() {
        for (seed, kind) in [
            (0, Kind::Int { min: 0, max: i64::MAX }),
            (i64::MAX as u64, Kind::Int { min: 0, max: i64::MAX }),
            (i64::MAX as u64 + 1, Kind::Text),
            (u64::MAX, Kind::Text),
        ] {
            let config = with(&Config::default(), &[("run.seed".into(), seed.to_string())]).unwrap();
            let knob = setting(&config, "run.seed");
            assert_eq!((knob.value.clone(), knob.kind), (seed.to_string(), kind));
            // What the card sets is what it shows.
            assert_eq!(with(&Config::default(), &[(knob.key, knob.value)]).unwrap().run.seed, seed);
        }
    }

    #[test]
    fn every_entry_of_the_catalogue_is_on_a_card_and_every_variant_can_be_set() {
        let entries: Vec<_> = catalog::entries().collect();
        let config = Config::default();
        let tuning = Config { train: Some(Train::default()), ..Config::default() };
        let full = with(&tuning, &[("train.params".into(), "full".into())]).unwrap();
        let sections = [sections(&config, &entries), sections(&tuning, &entries)].concat();
        let cards: Vec<_> = sections.iter().flat_map(|s| &s.cards).collect();
        for entry in &entries {
            let own = format!("{}.{}", entry.axis.key, entry.id);
            let alone = entries.iter().filter(|e| e.axis == entry.axis).count() == 1;
            let shown = cards
                .iter()
                .any(|c| c.key == own || c.key == entry.axis.key && c.variants.iter().any(|v| v.id == entry.id));
            assert!(shown || alone && entry.knobs.is_empty(), "{own}");
        }
        for variant in cards.iter().flat_map(|c| &c.variants) {
            let training = variant.sets.iter().any(|(key, _)| key.starts_with("train."));
            // What does not go with an adapter is refused by name, and goes with all weights.
            let bases: &[&Config] = if training { &[&tuning, &full] } else { &[&config] };
            let tried: Vec<_> = bases.iter().map(|base| with(base, &variant.sets)).collect();
            let Some(set) = tried.iter().find_map(|t| t.as_ref().ok()) else { panic!("{:?}: {tried:?}", variant.sets) };
            for refused in tried.iter().filter_map(|t| t.as_ref().err()) {
                assert!(refused.to_string().contains("is refused"), "{:?}: {refused}", variant.sets);
            }
            let again = super::sections(set, &entries);
            let mut all = again.iter().flat_map(|s| &s.cards).flat_map(|c| &c.variants);
            assert!(all.any(|v| v.id == variant.id && v.chosen && v.title == variant.title), "{:?}", variant.sets);
        }
        for knob in cards.iter().flat_map(|c| c.knobs.iter().chain(c.variants.iter().flat_map(|v| &v.knobs))) {
            assert!(!knob.value.is_empty() || knob.default.is_empty(), "{}", knob.key);
            if !knob.value.is_empty() {
                // What is shown, set, changes nothing.
                let config = if knob.key.starts_with("train.") { &tuning } else { &config };
                let set = with(config, &[(knob.key.clone(), knob.value.clone())]).unwrap();
                assert_eq!(
                    (set.run, set.train.is_some()),
                    (config.run.clone(), config.train.is_some()),
                    "{}",
                    knob.key
                );
            }
        }
    }

    #[test]
    fn an_entry_nobody_has_heard_of_becomes_a_variant_with_its_knobs() {
        static NEW: About = About {
            id: "oracle_of_rows",
            title: "Oracle of rows",
            common: false,
            paper: "nobody, 2031",
            sentence: "Keeps what will be needed.",
            knobs: &[schema::Knob {
                id: "foresight",
                label: "Foresight",
                paper_name: "φ",
                kind: KnobKind::Float { min: 0.0, max: 1.0 },
                default: schema::Default::Float(0.5),
                unit: "tokens",
                sentence: "How far it sees.",
            }],
            ..About::on(&axes::KV_SELECT)
        };
        let entries: Vec<_> = catalog::entries().chain([&NEW]).collect();
        let mut config = Config::default();
        config.kv.select = "oracle_of_rows".into();
        let sections = sections(&config, &entries);
        let card = sections.iter().flat_map(|s| &s.cards).find(|c| c.key == "kv.select").unwrap();
        let v = card.variants.last().unwrap();
        assert_eq!((v.title.as_str(), v.chosen, v.common), ("Oracle of rows", true, true));
        assert_eq!(v.sets[0], ("kv.select".into(), "oracle_of_rows".into()));
        let [knob] = &v.knobs[..] else { panic!("{:?}", v.knobs) };
        assert_eq!(
            (knob.key.as_str(), knob.value.as_str(), knob.paper_name.as_str()),
            ("kv.select.foresight", "0.5", "φ")
        );
        assert_eq!(card.variants.iter().filter(|v| v.chosen).count(), 1);
    }

    #[test]
    fn every_key_on_a_card_is_in_the_table_of_settings() {
        let entries: Vec<_> = catalog::entries().collect();
        let config = Config { observe: Some(ullage_core::config::Observe::default()), ..Config::default() };
        let tuning = Config { train: Some(Train::default()), ..Config::default() };
        for sections in [sections(&config, &entries), sections(&tuning, &entries)] {
            for card in sections.iter().flat_map(|s| &s.cards) {
                let shown = card.knobs.iter().chain(card.variants.iter().flat_map(|v| &v.knobs));
                for knob in
                    shown.filter(|k| ["run.", "machine.", "observe.", "train.lr"].iter().any(|p| k.key.starts_with(p)))
                {
                    let s = settings::find(&knob.key).unwrap_or_else(|| panic!("{}", knob.key));
                    assert_eq!((knob.label.as_str(), &knob.kind), (s.label, &kind(s.kind)), "{}", knob.key);
                }
            }
        }
    }

    #[test]
    fn bytes_lead_to_cards_that_exist() {
        let entries: Vec<_> = catalog::entries().collect();
        let mut config = Config::default();
        config.observe = Some(ullage_core::config::Observe::default());
        let sections = sections(&config, &entries);
        for c in [Category::Weights, Category::KvCache, Category::Workspace, Category::Logits, Category::Observation] {
            let key = words::governs(c);
            assert!(sections.iter().flat_map(|s| &s.cards).any(|card| card.key == key), "{key}");
        }
    }
}
