//! `ullage check-plan`: planned against measured over a matrix of configurations, and random budgets against the wall.
//!
//! Each configuration runs as a program of its own, so that what its allocator and the system say of it is of nothing else: they
//! are the third account, and what they hold beyond the ledger is unexplained.

use std::path::Path;
use std::process::Command;
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
use ullage_core::report::{ByteReport, Report};
use ullage_core::rng::Philox;
use ullage_core::schema::{self, About, Default, KnobKind};
use ullage_core::{Error, Result};

use crate::args;
use crate::check_time::check_time;
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
    /// Bytes by the system's allocator, and of the resident set, less by the ledger, each at its peak.
    obtained: i64,
    resident: Option<i64>,
    /// What of that may be unexplained.
    tolerated: u64,
    ok: bool,
}

impl Row {
    /// The larger of the two, whichever way it goes.
    fn unexplained(&self) -> u64 {
        self.obtained.unsigned_abs().max(self.resident.map_or(0, i64::unsigned_abs))
    }
}

/// One random budget.
#[derive(Debug, Default, Serialize)]
struct Wall {
    pairs: usize,
    finished: usize,
    refused: usize,
    failures: Vec<String>,
}

pub(crate) type Sets = Vec<(String, String)>;

pub(crate) fn sets(pairs: &[(&str, &str)]) -> Sets {
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

/// Sizes at their edges: pages, prompts, sequences, tokens, evaluations.
fn edges() -> Vec<Sets> {
    let base = sets(&[("run.prompt", "x"), ("run.max_tokens", "4"), ("run.ignore_eos", "true")]);
    let pages: [&[(&str, &str)]; 5] = [
        &[("kv.alloc", "{ use = \"paged\", block = 1 }")],
        &[("kv.alloc", "{ use = \"paged\", block = 3 }")],
        &[("kv.alloc", "{ use = \"paged\", block = 16 }")],
        &[("kv.alloc", "{ use = \"paged\", block = 256 }")],
        &[],
    ];
    let formats: [&[(&str, &str)]; 2] = [&[("kv.format", "q4_0")], &[("kv.format", "f32")]];
    let depths: [&[(&str, &str)]; 2] = [&[("run.context", "2304")], &[("run.context", "2304"), ("run.sequences", "8")]];
    let mut all = cross(cross(cross(vec![base.clone()], &pages), &formats), &depths);
    all.iter_mut().for_each(|s| s.push(("prompt".into(), "2200".into())));
    for tokens in ["1", "2", "31", "33", "1000", "8192", "32768"] {
        let context = (tokens.parse::<usize>().unwrap_or(0) + 8).to_string();
        let sized = sets(&[("prompt", tokens), ("run.context", &context)]);
        all.push([base.clone(), sized.clone()].concat());
        all.push([base.clone(), sized, sets(&[("kv.select", "snapkv"), ("kv.budget.rows", "64")])].concat());
    }
    let sequences = ["1", "7", "100", "1000"].map(|n| vec![("run.sequences".to_owned(), n.to_owned())]);
    let short = sets(&[("prompt", "9"), ("run.context", "48")]);
    let alloc: [&[(&str, &str)]; 2] = [&[("kv.alloc", "paged")], &[("kv.alloc", "contiguous")]];
    all.extend(cross(sequences.iter().map(|s| [base.clone(), short.clone(), s.clone()].concat()).collect(), &alloc));
    for (most, context) in [("0", "64"), ("1", "64"), ("0", "40"), ("1", "40"), ("64", "64")] {
        all.push(
            [base.clone(), sets(&[("prompt", "40"), ("run.max_tokens", most), ("run.context", context)])].concat(),
        );
    }
    // What is written, and a text far larger than what is scored of it.
    all.push([base.clone(), sets(&[("prompt", "40"), (DUMP, "logits")])].concat());
    all.push(
        [base, sets(&[("prompt", "9"), ("eval.perplexity.file", LONG_TEXT), ("eval.perplexity.windows", "2")])]
            .concat(),
    );
    all
}

/// Not a key: the folder that a run dumps into.
const DUMP: &str = "dump";
/// A text of sixty megabytes.
const LONG_TEXT: &str = "sixty-megabytes.txt";

/// Trainings at their edges: what is learned is kept, and adapters are as large as what they adapt.
fn training_edges() -> Vec<Sets> {
    let kept = |params: &[(&str, &str)]| {
        let base = training().swap_remove(0);
        [base, sets(&[("train.out", "kept"), ("train.save_every", "1")]), sets(params)].concat()
    };
    vec![
        kept(&[("train.params", "full")]),
        kept(&[("train.params", "lora")]),
        kept(&[("train.params", "{ use = \"lora\", r = 256 }")]),
        kept(&[("train.params", "{ use = \"dora\", r = 64 }")]),
    ]
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

pub(crate) fn label(model: &str, sets: &Sets) -> String {
    let short = sets.iter().filter(|(k, _)| !FIXED.contains(&k.as_str()));
    let words: Vec<_> = short.map(|(k, v)| format!("{}={v}", k.rsplit('.').next().unwrap_or(k))).collect();
    format!("{} {}", model.rsplit('/').next().unwrap_or(model), words.join(" "))
}

/// A prompt of about `tokens` tokens.
pub(crate) fn prompt(model: &Model, tokens: usize) -> String {
    match model.tokenizer() {
        // A sentence of five tokens, and words of one each.
        Ok(Some(_)) => {
            let rest = ["", "The", "The sky", "The sky is", "The sky is blue"][tokens % 5];
            "The sky is blue. ".repeat(tokens / 5) + rest
        }
        _ => format!("tokens:{tokens}"),
    }
}

pub(crate) fn order(model: &Arc<Model>, machine: &Machine, sets: &Sets) -> Result<Order> {
    let mut sets = sets.clone();
    sets.retain(|(key, _)| key != DUMP);
    sets.push(("model.path".into(), format!("{:?}", model.path)));
    let config = from_toml("", &sets)?;
    Ok(Order {
        config,
        model: Arc::clone(model),
        machine: machine.clone(),
        base: ".".into(),
        dump: None,
        keep: None,
        folder: None,
        care: Care { inputs: Vec::new(), force: false },
    })
}

pub fn check_plan(args: &args::CheckPlan) -> Result<u8> {
    if args.time {
        return check_time(args);
    }
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
        // Warm-up: the file cache.
        measure(&model, &machine, path, first, None)?;
        let before = rows.len();
        for sets in &all {
            let row = measure(&model, &machine, path, sets, args.group)?;
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
    if args.edges {
        all.extend(if args.train { training_edges() } else { edges() });
    }
    for s in &mut all {
        // An edge names its tokens; everything else has the same prompt.
        let own = s.iter().position(|(key, _)| key == "prompt").map(|i| s.remove(i).1);
        s[0].1 = format!("{:?}", own.and_then(|n| n.parse().ok()).map_or(text.clone(), |n| prompt(model, n)));
        s.push(("machine.device".into(), args.device.clone()));
    }
    all.retain(|s| label(&model.path, &s[1..].to_vec()).contains(&args.only));
    let every = all.len();
    all.retain(|sets| runs(model, machine, sets));
    let without = every - all.len();
    (all, without)
}

/// What a run of the program needs beside its plan: code, threads' stacks, words and headers.
const PROGRAM: u64 = 24 << 20;

/// Runs a configuration as a program of its own, in a control group of `within` bytes where there are some, dumping where a
/// folder is named; its report.
pub(crate) fn child(config: &Path, within: Option<u64>, dump: Option<&Path>) -> Result<Report> {
    let io = |action: &str, e: &std::io::Error| Error::io(config, action, e);
    let own = std::env::current_exe().map_err(|e| io("cannot find this program", &e))?;
    let mut command = match within {
        None => Command::new(&own),
        Some(bytes) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", GROUP]).arg(&own).arg(bytes.to_string());
            shell
        }
    };
    command.arg("run").arg(config).arg("--json");
    if within.is_some() {
        // The group is what it is held to: the limit that a run keeps by itself leaves more beside it.
        command.arg("--overcommit");
    }
    if let Some(folder) = dump {
        command.arg("--dump").arg("--out").arg(folder);
    }
    let done = command.output().map_err(|e| io("cannot run this program", &e))?;
    serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr);
        let why = if done.status.code().is_none() { "it was killed" } else { said.trim() };
        Error::Internal(format!("a run ended without a report ({}): {why}", done.status))
    })
}

/// Makes a control group of so many bytes, of either version, and becomes the program in it.
const GROUP: &str = r#"
    bytes=$1; shift
    if [ -d /sys/fs/cgroup/memory ]; then top=/sys/fs/cgroup/memory limit=memory.limit_in_bytes
    else top=/sys/fs/cgroup limit=memory.max; fi
    own=$top/ullage-$$
    mkdir "$own" && echo "$bytes" > "$own/$limit" && echo $$ > "$own/cgroup.procs" || exit 1
    "$0" "$@"; code=$?
    echo $$ > "$top/cgroup.procs"; rmdir "$own"; exit $code
"#;

/// Runs one configuration, and holds what was measured against its plan.
fn measure(model: &Arc<Model>, machine: &Machine, path: &str, sets: &Sets, group: Option<f64>) -> Result<Row> {
    let mut order = order(model, machine, sets)?;
    let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), "cannot make a folder", &e))?;
    order.base = folder.path().into();
    let value = |wanted: &str| sets.iter().find(|(key, _)| key == wanted).map(|(_, value)| folder.path().join(value));
    if let Some(text) = value("eval.perplexity.file") {
        let long = "The sky is blue. ".repeat(60_000_000 / 17);
        std::fs::write(&text, long).map_err(|e| Error::io(&text, "cannot write a text", &e))?;
    }
    let dump = value(DUMP);
    order.dump.clone_from(&dump);
    let config = folder.path().join("config.toml");
    let text = order.config.to_toml()?;
    std::fs::write(&config, text).map_err(|e| Error::io(&config, "cannot write a configuration", &e))?;
    let within = match group {
        None => None,
        Some(times) => {
            let workload = workload_of(&order)?;
            let planned = plan(&model.shape, &workload, &order.config, machine)?;
            Some((times * (planned.bytes.together + PROGRAM) as f64) as u64)
        }
    };
    let report = child(&config, within, dump.as_deref())?;
    if let Some(error) = report.error {
        if error.kind == "cancelled" {
            return Err(Error::Cancelled);
        }
        return Err(Error::Internal(format!("{}: {}", label(path, sets), error.message)));
    }
    Ok(Row::of(label(path, &sets[1..].to_vec()), &report))
}

/// What a configuration computes.
pub(crate) fn workload_of(order: &Order) -> Result<Workload> {
    if order.config.train.is_some() {
        return ullage_core::job::train::workload(order);
    }
    Ok(ullage_core::job::infer::prepare(&order.model, &order.config, &order.base)?.workload)
}

impl Row {
    fn of(configuration: String, report: &Report) -> Self {
        let peak = |r: &ByteReport| r.peak.get(&Tier::Device).copied().unwrap_or(0);
        let (planned, measured) = (peak(&report.plan), peak(&report.measured));
        let gap = planned as i64 - measured as i64;
        let allowed = (measured / 50).max(256 << 10);
        let on_cpu = report.machine.device == "cpu";
        // What the program's own memory holds: a GPU's is the driver's.
        let host = report.measured.peak.get(&Tier::Host).copied().unwrap_or(0);
        let held = if on_cpu { report.measured.together } else { host };
        let unaccounted = match report.measured.rows.get("beside.pool used at most") {
            Some(pool) => (*pool as i64 - measured as i64).max(0),
            None => (report.program.payload_peak as i64 - (measured + host) as i64).max(0),
        };
        let escaped = report.program.escaped;
        let (obtained, resident) = (
            report.program.obtained as i64 - held as i64,
            report.program.resident.filter(|_| on_cpu).map(|r| r as i64 - held as i64),
        );
        let tolerated = (held / 100).max(2 << 20);
        let mut row = Self {
            configuration,
            planned,
            measured,
            gap,
            allowed,
            unaccounted,
            escaped,
            obtained,
            resident,
            tolerated,
            ok: gap >= 0 && gap as u64 <= allowed && unaccounted == 0 && escaped == 0,
        };
        row.ok &= !on_cpu || row.unexplained() <= tolerated;
        row
    }
}

impl Row {
    /// A line of the table, below its head where it is the first.
    fn say(&self, first: bool) {
        if first {
            say(&format!(
                "{:>12} {:>12} {:>9} {:>10} {:>10} {:>7}  configuration\n",
                "planned", "measured", "gap", "allocator", "resident", ""
            ));
        }
        let Self { planned, measured, gap, configuration, obtained, .. } = self;
        let resident = self.resident.map_or_else(String::new, |r| format!("{r:+}"));
        let mark = if self.ok { "ok" } else { "FAILED" };
        say(&format!(
            "{planned:>12} {measured:>12} {gap:>+9} {obtained:>+10} {resident:>10} {mark:>7}  {configuration}\n"
        ));
    }
}

/// What comes below the table.
fn summary(args: &args::CheckPlan, rows: &[Row], wall: &Wall, bad: usize, passed_over: usize) {
    let worst = rows.iter().map(|r| r.gap).max().unwrap_or(0);
    let least = rows.iter().map(|r| r.gap).min().unwrap_or(0);
    say(&format!("\n{} configurations, {bad} failed; gaps from {least:+} to {worst:+} B\n", rows.len()));
    // By the share of what is tolerated, so that a small run counts as a large one does.
    let share = |r: &&Row| r.unexplained() as f64 / r.tolerated.max(1) as f64;
    if let Some(most) = rows.iter().max_by(|a, b| share(a).total_cmp(&share(b))) {
        say(&format!(
            "largest unexplained difference: allocator {:+} B, resident set {} B of {} B ({} B tolerated): {}\n",
            most.obtained,
            most.resident.map_or_else(|| "?".into(), |r| format!("{r:+}")),
            most.measured,
            most.tolerated,
            most.configuration
        ));
    }
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
    order(model, machine, sets).and_then(|o| plan(&model.shape, &Workload::default(), &o.config, machine)).is_ok()
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
