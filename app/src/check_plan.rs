//! `ullage check-plan`: planned against measured over a matrix of configurations, and random budgets against the wall.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use ullage_core::catalog::{self, from_toml};
use ullage_core::config::{Axis, axes};
use ullage_core::job::Order;
use ullage_core::kv;
use ullage_core::ledger::Tier;
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::output::Care;
use ullage_core::plan::{COMBINED, Workload, plan};
use ullage_core::report::ByteReport;
use ullage_core::rng::Philox;
use ullage_core::schema::{self, About, Default, KnobKind};
use ullage_core::{Error, Result};

use crate::args;
use crate::run::execute;
use crate::source::{self, say, say_json};

/// One configuration, planned and measured.
#[derive(Debug, Serialize)]
struct Row {
    configuration: String,
    planned: u64,
    measured: u64,
    gap: i64,
    allowed: u64,
    /// Payload by the counting allocator, or by a GPU's memory pool, less by the ledger; 0 when the two accounts agree.
    unaccounted: i64,
    escaped: u64,
    ok: bool,
}

/// One random budget.
#[derive(Debug, Default, Serialize)]
struct Wall {
    pairs: usize,
    finished: usize,
    refused: usize,
    failures: Vec<String>,
}

type Sets = Vec<(String, String)>;

fn sets(pairs: &[(&str, &str)]) -> Sets {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn cross(all: Vec<Sets>, choices: &[&[(&str, &str)]]) -> Vec<Sets> {
    all.iter().flat_map(|base| choices.iter().map(|c| base.iter().cloned().chain(sets(c)).collect())).collect()
}

/// What chooses an entry; a policy that drops rows is given a quarter of the context.
fn choose(entry: &About) -> Sets {
    let drops = *entry.axis == axes::KV_SELECT
        && schema::build(kv::select::ENTRIES, entry.axis.key, &entry.id.into()).is_ok_and(|p| !p.keeps_all());
    let own = sets(&[(entry.axis.key, entry.id)]);
    if drops { [own, sets(&[("kv.budget.ratio", "0.25")])].concat() } else { own }
}

/// Every base with every entry of an axis.
fn with_each(all: &[Sets], axis: &'static Axis) -> Vec<Sets> {
    let each = |base: &Sets| {
        let base = base.clone();
        catalog::variants(axis).map(move |e| [base.clone(), choose(e)].concat())
    };
    all.iter().flat_map(each).collect()
}

/// The matrix, from the catalogue: every entry of every axis of inference alone; every policy with every layout of the cache and
/// every place of the weights; each of these with a short context alone and a long one three times.
fn matrix() -> Vec<Sets> {
    let fixed = sets(&[("run.prompt", "x"), ("run.max_tokens", "12"), ("run.ignore_eos", "true")]);
    let sizes: [&[(&str, &str)]; 2] = [
        &[("run.context", "320"), ("run.sequences", "1")],
        &[("run.context", "1024"), ("run.sequences", "3"), ("kv.format", "{ k = \"q8_0\", v = \"q4_0\" }")],
    ];
    let bases = cross(vec![fixed], &sizes);
    let alone = axes::all().filter(|a| !a.key.starts_with("train.") && **a != axes::EVAL);
    let mut all: Vec<Sets> = alone.flat_map(|axis| with_each(&bases, axis)).collect();
    let cached = with_each(&with_each(&bases, &axes::KV_SELECT), &axes::KV_ALLOC);
    all.extend(with_each(&cached, &axes::PLACE_WEIGHTS));
    let host = sets(&[("place.weights.use", "stream"), ("place.weights.from", "host")]);
    all.extend(with_each(&bases, &axes::KV_SELECT).into_iter().map(|s| [s, host.clone()].concat()));
    all
}

/// The matrix of training, from the catalogue: every entry of every axis × how long gradients are held, and every combination of
/// what learns, optimizer, activations and loss.
fn training() -> Vec<Sets> {
    let fixed = sets(&[
        ("run.prompt", "x"),
        ("train.data", "tokens:12"),
        ("train.steps", "2"),
        ("train.batch", "2"),
        ("train.length", "64"),
        ("train.validation", "0.2"),
    ]);
    let held = cross(vec![fixed.clone()], &[&[("train.grad_hold", "all")], &[("train.grad_hold", "layer")]]);
    let combined = COMBINED.iter().fold(held.clone(), |all, axis| with_each(&all, axis));
    let rest = axes::all().filter(|a| a.key.starts_with("train.") && !COMBINED.contains(a));
    let mut all: Vec<Sets> = rest.flat_map(|axis| with_each(&held, axis)).collect();
    all.extend(combined);
    // Knobs that take bytes of their own are on: each flag turned and each number without effect at 0 given some.
    let turned = COMBINED.iter().flat_map(|axis| catalog::variants(axis)).flat_map(|e| {
        let values = e.knobs.iter().filter_map(|k| match (k.kind, k.default) {
            (KnobKind::Bool, Default::Bool(v)) => Some((k, (!v).to_string())),
            (KnobKind::Float { max, .. }, Default::Float(0.0)) => Some((k, (max / 8.0).to_string())),
            (KnobKind::Word { of: [_, other, ..] }, Default::Text(_)) => Some((k, (*other).to_owned())),
            _ => None,
        });
        values.map(move |(k, value)| [choose(e), vec![(format!("{}.{}", e.axis.key, k.id), value)]].concat())
    });
    all.extend(turned.map(|sets| [fixed.clone(), sets].concat()));
    all
}

/// Keys that every configuration of a matrix has alike.
const FIXED: [&str; 9] = [
    "machine.device",
    "run.prompt",
    "run.max_tokens",
    "run.ignore_eos",
    "train.data",
    "train.steps",
    "train.batch",
    "train.length",
    "train.validation",
];

fn label(model: &str, sets: &Sets) -> String {
    let short = sets.iter().filter(|(k, _)| !FIXED.contains(&k.as_str()));
    let words: Vec<_> = short.map(|(k, v)| format!("{}={v}", k.rsplit('.').next().unwrap_or(k))).collect();
    format!("{} {}", model.rsplit('/').next().unwrap_or(model), words.join(" "))
}

/// A prompt of about `tokens` tokens.
fn prompt(model: &Model, tokens: usize) -> String {
    match model.tokenizer() {
        Ok(Some(_)) => "The sky is blue. ".repeat(tokens / 5),
        _ => format!("tokens:{tokens}"),
    }
}

fn order(model: &Arc<Model>, machine: &Machine, sets: &Sets) -> Result<Order> {
    let mut sets = sets.clone();
    sets.push(("model.path".into(), format!("{:?}", model.path)));
    let config = from_toml("", &sets)?;
    Ok(Order {
        config,
        model: Arc::clone(model),
        machine: machine.clone(),
        base: ".".into(),
        dump: None,
        keep: None,
        care: Care { inputs: Vec::new(), force: false },
    })
}

pub fn check_plan(args: &args::CheckPlan) -> Result<u8> {
    let machine = source::machine();
    let mut models = vec!["bundled:recall".to_owned()];
    models.extend(args.models.iter().cloned());
    let mut rows = Vec::new();
    let mut wall = Wall::default();
    let mut passed_over = 0;
    for path in &models {
        let model = Arc::new(Model::open(path, Path::new("."))?);
        let (all, without) = chosen(&model, &machine, args);
        passed_over += without;
        let Some(first) = all.first() else { continue };
        // Warm-up: threads, code and file cache.
        execute(order(&model, &machine, first)?, None, true, &mut |_| ())?;
        let before = rows.len();
        for sets in &all {
            let row = measure(&model, &machine, path, sets)?;
            if !args.json {
                row.say(rows.is_empty());
            }
            rows.push(row);
        }
        if args.wall > 0 {
            let share = args.wall.div_ceil(models.len());
            let needed: Vec<u64> = rows[before..].iter().map(|r| r.planned).collect();
            try_wall(&model, &machine, &all, &needed, share, &mut wall)?;
        }
    }
    let bad = rows.iter().filter(|r| !r.ok).count() + wall.failures.len();
    if args.json {
        say_json(&serde_json::json!({ "rows": rows, "wall": wall, "ok": bad == 0 }))?;
    } else {
        summary(args, &rows, &wall, bad, passed_over);
    }
    Ok(u8::from(bad > 0))
}

/// The configurations of the matrix that the device runs, with the prompt of `model`; and how many it does not.
fn chosen(model: &Arc<Model>, machine: &Machine, args: &args::CheckPlan) -> (Vec<Sets>, usize) {
    let text = prompt(model, 200);
    let mut all = if args.train { training() } else { matrix() };
    all.iter_mut().for_each(|s| s[0].1 = format!("{text:?}"));
    all.iter_mut().for_each(|s| s.push(("machine.device".into(), args.device.clone())));
    let every = all.len();
    all.retain(|sets| runs(model, machine, sets));
    let without = every - all.len();
    (all, without)
}

/// Runs one configuration, and holds what was measured against its plan.
fn measure(model: &Arc<Model>, machine: &Machine, path: &str, sets: &Sets) -> Result<Row> {
    let report = execute(order(model, machine, sets)?, None, true, &mut |_| ())?;
    if let Some(error) = report.error {
        if error.kind == "cancelled" {
            return Err(Error::Cancelled);
        }
        return Err(Error::Internal(format!("{}: {}", label(path, sets), error.message)));
    }
    let peak = |r: &ByteReport| r.peak.get(&Tier::Device).copied().unwrap_or(0);
    let (planned, measured) = (peak(&report.plan), peak(&report.measured));
    let gap = planned as i64 - measured as i64;
    let allowed = (measured / 50).max(256 << 10);
    let both = measured + report.measured.peak.get(&Tier::Host).copied().unwrap_or(0);
    // Tiers peak at their own instants, so their sum is an upper bound of what the allocator saw at once.
    let unaccounted = match report.measured.rows.get("beside.pool used at most") {
        Some(pool) => (*pool as i64 - measured as i64).max(0),
        None => (report.program.payload_peak as i64 - both as i64).max(0),
    };
    Ok(Row {
        configuration: label(path, &sets[1..].to_vec()),
        planned,
        measured,
        gap,
        allowed,
        unaccounted,
        escaped: report.program.escaped,
        ok: gap >= 0 && gap as u64 <= allowed && unaccounted == 0 && report.program.escaped == 0,
    })
}

impl Row {
    /// A line of the table, below its head where it is the first.
    fn say(&self, first: bool) {
        if first {
            say(&format!("{:>12} {:>12} {:>9} {:>7}  configuration\n", "planned", "measured", "gap", ""));
        }
        let Self { planned, measured, gap, configuration, .. } = self;
        let mark = if self.ok { "ok" } else { "FAILED" };
        say(&format!("{planned:>12} {measured:>12} {gap:>+9} {mark:>7}  {configuration}\n"));
    }
}

/// What comes below the table.
fn summary(args: &args::CheckPlan, rows: &[Row], wall: &Wall, bad: usize, passed_over: usize) {
    let worst = rows.iter().map(|r| r.gap).max().unwrap_or(0);
    let least = rows.iter().map(|r| r.gap).min().unwrap_or(0);
    say(&format!("\n{} configurations, {bad} failed; gaps from {least:+} to {worst:+} B\n", rows.len()));
    if passed_over > 0 {
        say(&format!("{passed_over} configurations that {} does not run are passed over\n", args.device));
    }
    if wall.pairs > 0 {
        say(&format!(
            "wall: {} random budgets, {} finished within them, {} refused with exit 3\n",
            wall.pairs, wall.finished, wall.refused
        ));
        for failure in &wall.failures {
            say(&format!("wall FAILED: {failure}\n"));
        }
    }
}

/// Whether a device runs a configuration at all: it plans.
fn runs(model: &Arc<Model>, machine: &Machine, sets: &Sets) -> bool {
    order(model, machine, sets)
        .and_then(|o| plan(&model.shape, &Workload { passes: Vec::new(), reference: false }, &o.config, machine))
        .is_ok()
}

/// Random configurations, which need `needed`, under random budgets: each finishes within its budget or is refused with the right words.
fn try_wall(
    model: &Arc<Model>,
    machine: &Machine,
    all: &[Sets],
    needed: &[u64],
    pairs: usize,
    wall: &mut Wall,
) -> Result<()> {
    let rng = Philox::new(20_26);
    for i in 0..pairs as u64 {
        let which = rng.below(2 * i, all.len() as u64) as usize;
        let mut sets = all[which].clone();
        // From three tenths to three times what it needs, evenly in the logarithm: about half of them fit.
        let budget = (needed[which] as f64 * 0.3 * 10f64.powf(f64::from(rng.uniform(2 * i + 1)))) as u64;
        sets.push(("budget.device".into(), format!("{budget}")));
        let report = execute(order(model, machine, &sets)?, None, true, &mut |_| ())?;
        wall.pairs += 1;
        let peak = report.measured.peak.get(&Tier::Device).copied().unwrap_or(0);
        match &report.error {
            Some(e) if e.kind == "cancelled" => return Err(Error::Cancelled),
            None if peak > 0 && peak <= budget => wall.finished += 1,
            Some(e) if e.code == 3 && e.needed.is_some() && e.available.is_some() && e.hint.is_some() => {
                wall.refused += 1
            }
            None => {
                wall.failures.push(format!("{} under {budget}: peak {peak}", label(&model.path, &sets[1..].to_vec())))
            }
            Some(e) => {
                wall.failures.push(format!("{} under {budget}: {}", label(&model.path, &sets[1..].to_vec()), e.message))
            }
        }
    }
    Ok(())
}
