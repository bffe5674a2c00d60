//! How planned bytes come about, with this model's numbers in it: `2 · 30 layers · 3 heads · 64 · 1638 rows · 2 B`.
//!
//! A formula is written from the same terms that it is computed by, and shown only when it comes to the plan's own bytes.

use std::fmt::Write as _;

use super::pieces::{Draft, Live, is_cache};
use super::terms::{Factor, Kinds, Term, n, named, value, write};
use super::{Workload, formula_train};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::forward::workspace;
use crate::kv::Format;
use crate::kv::cache::STAGING;
use crate::ledger::{Category, Phase, Tier};
use crate::place::rows;
use crate::shape::ModelShape;
use crate::weights::units::UnitLayout;

/// Bytes and how they come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formula {
    /// In words and numbers, its result at the end: `… = 36 MiB`.
    pub text: String,
    /// The result: exactly what the plan says is held.
    pub bytes: u64,
}

/// How the bytes of `category` in `tier` come about that the plan of `config` holds at its peak, or at the peak of one phase.
/// `None` when nothing is held there, or when no formula comes to exactly those bytes.
pub fn formula(
    stored: &ModelShape,
    workload: &Workload,
    config: &Config,
    phase: Option<Phase>,
    tier: Tier,
    category: Category,
) -> Option<Formula> {
    let draft = Draft::new(stored, workload, config).ok()?;
    let mut live = draft.at_peak(tier, phase);
    live.retain(|l| l.tag.category == category);
    let bytes: u64 = live.iter().map(|l| l.bytes).sum();
    let terms = match category {
        _ if tier == Tier::Disk => written(workload, &live),
        _ if config.train.is_some() => formula_train::terms(stored, config, &live).ok()?,
        Category::Weights => weights(&draft, &live),
        Category::KvCache => cache(&draft, &live),
        Category::Activations | Category::Logits => computed(&draft, &live),
        _ => named(&live),
    };
    // What does not come out exact is not a formula for these bytes.
    let exact = |terms: &Vec<Term>| !terms.is_empty() && value(terms) == Some(bytes);
    let terms = Some(terms).filter(exact).or_else(|| Some(named(&live)).filter(exact))?;
    let mut text = String::new();
    write(&terms, &mut text);
    let _ = write!(text, " = {}", Bytes(bytes).three_digits());
    Some(Formula { text, bytes })
}

/// Each file by what it is made of.
fn written(workload: &Workload, live: &[Live]) -> Vec<Term> {
    let of = |l: &Live| workload.files.iter().find(|w| w.output.tag() == l.tag && w.bytes() == l.bytes);
    let product = |factors: &Vec<(u64, String)>| Term(factors.iter().map(|(v, what)| n(*v, what.as_str())).collect());
    live.iter().filter_map(of).flat_map(|w| w.sum.iter().map(product)).collect()
}

/// Tensors by type, then their padding, then the slots of what is streamed.
fn weights(draft: &Draft, live: &[Live]) -> Vec<Term> {
    let mut kinds = Kinds::default();
    let (mut padding, mut slots, mut slot) = (0, 0u64, 0);
    let mut rest = Vec::new();
    for l in live {
        match draft.tensors(l) {
            Some((_, tensors)) => {
                tensors.iter().for_each(|t| kinds.add(t));
                padding += UnitLayout::new(tensors.iter().copied()).bytes as u64;
                padding -= tensors.iter().map(|t| t.bytes()).sum::<u64>();
            }
            None if l.tag == rows::SLOTS => (slots, slot) = (slots + 1, l.bytes),
            None => rest.push(*l),
        }
    }
    let mut out = kinds.terms();
    if padding > 0 {
        out.push(Term(vec![n(padding, "B padding")]));
    }
    if slots > 0 {
        out.push(Term(vec![n(slots, "slots"), n(slot, "B, the largest layer")]));
    }
    out.extend(named(&rest));
    out
}

/// One row's key or value of `d` elements: `64 · 2 B`, `2 blocks · 34 B`.
fn element(format: &dyn Format, d: usize, bytes: usize, what: &str) -> Vec<Factor> {
    let unit = if what.is_empty() { "B".to_owned() } else { format!("B {what}") };
    if bytes.is_multiple_of(d.max(1)) {
        return vec![n(d, ""), n(bytes / d.max(1), unit)];
    }
    for elems in [32, 64, 128, 256] {
        let block = format.row_bytes(elems).unwrap_or(0);
        if d.is_multiple_of(elems) && block * (d / elems) == bytes {
            return vec![n(d / elems, format!("blocks of {elems}")), n(block, unit)];
        }
    }
    vec![n(bytes, unit)]
}

/// Layers · heads · rows · bytes of a row, and the staging layer.
fn cache(draft: &Draft, live: &[Live]) -> Vec<Term> {
    let p = &draft.resolved.pipeline;
    let sequences = draft.sequences(live).max(1);
    if !draft.row_by_row(live) {
        return cache_by_layer(draft, live);
    }
    // Layers that hold the same number of rows of the same kind in every head stand together.
    let mut alike: Vec<(usize, usize, usize, usize)> = Vec::new();
    for (l, layout) in p.rows.iter().enumerate() {
        let held: Vec<usize> = (0..p.heads(l)).map(|h| draft.rows_of(live, l, h)).collect();
        let same = held.iter().all(|r| Some(r) == held.first());
        // Where heads differ, a layer's rows are counted together.
        let (heads, rows) =
            if same { (held.len(), held.first().copied().unwrap_or(0)) } else { (1, held.iter().sum()) };
        let last = alike.last_mut().filter(|a| a.2 == heads && a.3 == rows && p.rows[a.0] == *layout);
        match last {
            Some(last) => last.1 += 1,
            None => alike.push((l, 1, heads, rows)),
        }
    }
    alike.retain(|a| a.3 > 0);
    let mut out = Vec::new();
    for (first, layers, heads, rows) in alike {
        let layout = p.rows[first];
        let (k, v) = (&*p.layout(first).k.format, &*p.layout(first).v.format);
        let mut factors = Vec::new();
        let plain = layout.k == layout.v && !layout.meta.score && !layout.meta.position;
        if plain {
            factors.push(n(2u64, ""));
        }
        let mut each = rows;
        if sequences > 1 && rows.is_multiple_of(sequences) {
            factors.push(n(sequences, "sequences"));
            each = rows / sequences;
        }
        factors.extend([n(layers, "layers"), n(heads, "heads")]);
        let row = if plain {
            element(k, layout.d, layout.k, "")
        } else {
            let mut parts =
                vec![Term(element(k, layout.d, layout.k, "keys")), Term(element(v, layout.d, layout.v, "values"))];
            let meta = [(layout.meta.score, "B score"), (layout.meta.position, "B position")];
            parts.extend(meta.into_iter().filter(|(kept, _)| *kept).map(|(_, what)| Term(vec![n(4u64, what)])));
            vec![Factor::Sum(parts)]
        };
        let mut row = row.into_iter();
        // The order of the papers: elements of a head before its rows, bytes last.
        if plain && row.len() > 1 {
            factors.extend(row.next());
        }
        let page = p.alloc.chunk_rows(each);
        if !p.alloc.upfront() && page > 1 && each.is_multiple_of(page) {
            factors.extend([n(each / page, "pages"), n(page, "rows")]);
        } else {
            factors.push(n(each, "rows"));
        }
        factors.extend(row);
        out.push(Term(factors));
    }
    beside_rows(live, &mut out);
    out
}

/// What of the cache's category is no row that stays.
fn beside_rows(live: &[Live], out: &mut Vec<Term>) {
    for l in live.iter().filter(|l| l.tag == STAGING) {
        out.push(Term(vec![n(l.bytes, "B staging, one layer's whole prompt")]));
    }
    let rest: Vec<Live> = live.iter().copied().filter(|l| !is_cache(l.tag)).collect();
    out.extend(named(&rest));
}

/// Layers that take the same bytes, where a head's bytes are not its rows' alone: sealed groups, pages, what is remembered.
fn cache_by_layer(draft: &Draft, live: &[Live]) -> Vec<Term> {
    let mut alike: Vec<(usize, u64)> = Vec::new();
    for l in 0..draft.resolved.held.layers.len() {
        let bytes = draft.cache_bytes(live, l);
        match alike.last_mut().filter(|a| a.1 == bytes) {
            Some(last) => last.0 += 1,
            None => alike.push((1, bytes)),
        }
    }
    let filled = alike.into_iter().filter(|(_, bytes)| *bytes > 0);
    let mut out: Vec<Term> = filled
        .map(|(layers, bytes)| Term(vec![n(layers, "layers"), n(bytes, "B of keys, values and what goes with them")]))
        .collect();
    beside_rows(live, &mut out);
    out
}

/// What the forward pass holds for the batch it computes, from its extent.
fn computed(draft: &Draft, live: &[Live]) -> Vec<Term> {
    let mut out = Vec::new();
    for l in live {
        let terms = draft.rooms.get(l.nth).filter(|_| draft.resolved.gpu.is_none()).and_then(|e| {
            let factors = workspace::factors(&draft.resolved.held, *e, l.tag)?;
            Some(Term(
                factors
                    .into_iter()
                    .map(|(count, parts)| match parts.as_slice() {
                        [] => n(count.0, count.1),
                        parts => Factor::Sum(parts.iter().map(|(v, what)| Term(vec![n(*v, *what)])).collect()),
                    })
                    .collect(),
            ))
        });
        out.extend(terms.map_or_else(|| named(std::slice::from_ref(l)), |t| vec![t]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::files::{Output, Written};
    use crate::machine::Machine;
    use crate::plan::tests::{matrix, shape, workload};
    use crate::plan::{Pass, plan};

    /// Reads the written formula back and computes it: numbers, `·`, `+` and brackets; words are skipped.
    fn computed(text: &str) -> u64 {
        fn sum(rest: &mut &str) -> u64 {
            let mut total = 0;
            let mut product = 1;
            let mut fresh = true;
            while let Some(c) = rest.chars().next() {
                if c.is_ascii_digit() && fresh {
                    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == ',')).unwrap_or(rest.len());
                    product *= rest[..end].replace(',', "").parse::<u64>().unwrap();
                    *rest = &rest[end..];
                    fresh = false;
                    continue;
                }
                *rest = &rest[c.len_utf8()..];
                match c {
                    '(' => product *= sum(rest),
                    ')' => break,
                    '+' => {
                        total += product;
                        (product, fresh) = (1, true);
                    }
                    '·' => fresh = true,
                    _ => {}
                }
            }
            total + product
        }
        let mut left = text.split(" = ").next().unwrap();
        sum(&mut left)
    }

    #[test]
    fn the_reader_of_formulas_reads() {
        for (text, value) in [("2 · 30 layers · 64 = 3 KiB", 3840), ("3 · (2 · 5 B k + 4 B s) + 12,000 B = x", 12_042)]
        {
            assert_eq!(computed(text), value);
        }
    }

    #[test]
    fn what_is_written_comes_to_the_planned_bytes_and_weights_and_cache_always_have_one() {
        let machine = Machine::default_guess();
        let (mut formulas, mut spelt) = (0, 0);
        for (shape, config, workload) in matrix() {
            let planned = plan(&shape, &workload, &config, &machine).unwrap().bytes;
            let accounts =
                std::iter::once((None, &planned.tiers)).chain(planned.phases.iter().map(|(p, a)| (Some(*p), a)));
            for (phase, tiers) in accounts {
                for (tier, account) in tiers {
                    for (category, bytes) in &account.at_peak {
                        let f = formula(&shape, &workload, &config, phase, *tier, *category);
                        let f = f.unwrap_or_else(|| panic!("{category} of {}", config.to_toml().unwrap()));
                        assert_eq!(f.bytes, *bytes, "{}", f.text);
                        assert_eq!(computed(&f.text), *bytes, "{}", f.text);
                        formulas += 1;
                        if *category == Category::KvCache && *tier == Tier::Device {
                            assert!(f.text.contains("layers") || f.text.contains("staging"), "{}", f.text);
                        }
                        if *category == Category::Weights && *tier == Tier::Device {
                            assert!(f.text.contains(" weights in "), "{}", f.text);
                        }
                        spelt += usize::from(f.text.contains("tokens · "));
                    }
                }
            }
        }
        assert!(formulas > 1000 && spelt > 300, "{formulas} {spelt}");
    }

    #[test]
    fn a_training_comes_to_its_planned_bytes_and_nothing_of_it_is_only_named() {
        let machine = Machine::default_guess();
        let (mut formulas, mut configs) = (0, 0);
        for spec in ["smollm2-135m@q4_1", "smollm2-135m@f16"] {
            let shape = shape(spec);
            for params in ["lora", "full"] {
                for more in [
                    &[][..],
                    &[("train.activations", "keep"), ("train.loss", "cut"), ("train.optimizer", "sgd")],
                    &[("train.activations", "{ use = \"recompute\", every = 4 }"), ("train.loss", "full")],
                    &[("train.grad_hold", "layer"), ("train.dtype", "bf16"), ("train.round", "kahan")],
                    &[("train.grad_hold", "matrix"), ("train.dtype", "bf16"), ("train.round", "master")],
                    &[("machine.device", "cuda:0"), ("train.grad_dtype", "bf16"), ("train.activations", "keep")],
                ] {
                    let mut sets = vec![("train.params", params), ("train.batch", "2"), ("train.length", "64")];
                    sets.extend_from_slice(more);
                    let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                    let config = crate::catalog::from_toml("", &sets).unwrap();
                    let state = Written::new(Output::State, &[&[(5000, "B of what learns")], &[(88, "B header")]]);
                    let adapter = Written::new(Output::Adapter, &[&[(2, "files"), (300, "values"), (4, "B")]]);
                    let files = vec![Written { replaced: true, ..state }, adapter];
                    let work = Workload { files, ..Workload::default() };
                    let planned = plan(&shape, &work, &config, &machine).unwrap().bytes;
                    let accounts = std::iter::once((None, &planned.tiers))
                        .chain(planned.phases.iter().map(|(p, a)| (Some(*p), a)));
                    for (phase, tiers) in accounts {
                        for (tier, account) in tiers {
                            for (category, bytes) in &account.at_peak {
                                let f = formula(&shape, &work, &config, phase, *tier, *category);
                                let f = f.unwrap_or_else(|| panic!("{category} of {sets:?}"));
                                assert_eq!((f.bytes, computed(&f.text)), (*bytes, *bytes), "{}", f.text);
                                // Kernels' own scratch has no terms of its own; what a layer learns with has.
                                let only =
                                    ["B gradients", "B optimizer", "B kept", "B layer", "B logits", "B recomputed"];
                                let tied = f.text.contains("B gradients") && params == "full" && more.len() == 3;
                                assert!(tied || only.iter().all(|w| !f.text.contains(w)), "{}: {sets:?}", f.text);
                                if *category == Category::Weights {
                                    assert!(
                                        !f.text.contains("B frozen") && !f.text.contains("B adapters"),
                                        "{}",
                                        f.text
                                    );
                                }
                                formulas += 1;
                            }
                        }
                    }
                    configs += 1;
                }
            }
        }
        assert!(formulas > 300 && configs == 24, "{formulas} {configs}");
        let config = crate::catalog::from_toml("", &[("train.batch".into(), "2".into())]).unwrap();
        let shape = shape("smollm2-135m@q4_1");
        let of = |category| {
            formula(&shape, &Workload::default(), &config, Some(Phase::Backward), Tier::Device, category).unwrap().text
        };
        assert_eq!(of(Category::Gradients), "2,442,240 numbers that learn · 4 B = 9.32 MiB");
    }

    #[test]
    fn formulas_read_as_the_papers_write_them() {
        let shape = shape("smollm2-135m@q4_1");
        let config = |pairs: &[(&str, &str)]| {
            let sets: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            crate::catalog::from_toml("", &sets).unwrap()
        };
        let cache = |pairs: &[(&str, &str)]| {
            let config = config(pairs);
            let work = workload(&config, 1000);
            formula(&shape, &work, &config, Some(Phase::Decode), Tier::Device, Category::KvCache).unwrap().text
        };
        assert_eq!(
            cache(&[("kv.select", "window"), ("kv.budget.rows", "1638")]),
            "2 · 30 layers · 3 heads · 64 · 1638 rows · 2 B = 36 MiB"
        );
        assert_eq!(
            cache(&[("kv.format", "q8_0"), ("run.sequences", "2")]),
            "2 · 2 sequences · 30 layers · 3 heads · 2 blocks of 32 · 2048 rows · 34 B = 47.8 MiB"
        );
        assert_eq!(
            cache(&[("kv.select", "h2o"), ("kv.budget.rows", "159"), ("kv.alloc", "paged"), ("kv.format.v", "q4_0")]),
            "30 layers · 3 heads · 10 pages · 16 rows · (64 · 2 B keys + 2 blocks of 32 · 18 B values + 4 B score + 4 B position) = 2.36 MiB"
        );
        let config = config(&[]);
        let of = |category, passes| {
            let work = Workload { passes, ..Workload::default() };
            formula(&shape, &work, &config, Some(Phase::Prefill), Tier::Device, category).unwrap().text
        };
        let passes = || vec![Pass { prompt: 100, decode: 3, sequences: 1 }];
        assert_eq!(of(Category::Logits, passes()), "1 sequence · 49,152 tokens of the vocabulary · 4 B = 192 KiB");
        let activations = of(Category::Activations, passes());
        assert!(activations.starts_with("100 tokens · 576 hidden · 4 B + 100 tokens · ("), "{activations}");
    }
}
