//! Drawn configurations, run: each ends with exit code 0, 2 or 3, and one byte below its plan with 3 and a way out that runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ullage_core::bytes::Bytes;
use ullage_core::catalog::{self, from_toml};
use ullage_core::config::Config;
use ullage_core::job::{Command, Job, Order};
use ullage_core::ledger::Tier;
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::output::Care;
use ullage_core::report::Report;
use ullage_core::report::protocol::Failure;

use super::draw::{Choices, draw, seeds, told};
use super::{PLAIN, Target};
use crate::{Sets, fixture, sets};

pub(super) const TARGET: Target = Target {
    name: "draw_run",
    run,
    seeds,
    tell: |bytes| drawn(bytes).tell(),
    heap: (1 << 30, 0),
    longest: Duration::from_secs(120),
    ..PLAIN
};

/// What is run.
struct Drawn {
    model: String,
    training: bool,
    sets: Sets,
}

impl Drawn {
    fn tell(&self) -> String {
        format!("run {} {}{}", self.model, if self.training { "(training) " } else { "" }, told(&self.sets))
    }
}

fn drawn(bytes: &[u8]) -> Drawn {
    let mut models = models();
    let mut c = Choices::new(bytes);
    // Running the bundled model takes the longest.
    let model = models.swap_remove([0, 1, 1, 2, 3, 4, 5, 6, 7, 7][c.below(10)].min(models.len() - 1));
    let training = c.below(3) == 0;
    let sets = draw(&mut c).into_iter().filter(|(k, _)| training || !k.starts_with("train.")).collect();
    Drawn { model, training, sets }
}

/// After so long a run is cancelled: what is much work is no fault.
const LONG: Duration = Duration::from_secs(4);
/// A run that was cancelled and is not over by then hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Most memory that a tier is given here.
const MOST: u64 = 128 << 20;

/// The bundled model, a random one and one of every architecture.
fn models() -> Vec<String> {
    let mut archs: Vec<_> = std::fs::read_dir(fixture("arch")).unwrap().map(|f| f.unwrap().path()).collect();
    archs.sort();
    let tiny = fixture("engine/tiny.json").display().to_string();
    let mut out = vec!["bundled:recall".to_owned(), format!("random:{tiny}@q8_0"), format!("random:{tiny}@f32")];
    out.extend(archs.iter().map(|dir| dir.join("model.gguf").display().to_string()));
    out
}

/// An opened model, once for all runs.
fn open(config: &Config, base: &Path) -> ullage_core::Result<Arc<Model>> {
    static OPEN: Mutex<BTreeMap<String, Arc<Model>>> = Mutex::new(BTreeMap::new());
    if config.model.adapter.is_some() {
        return Model::of(&config.model, base).map(Arc::new);
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = open.get(&config.model.path) {
        return Ok(Arc::clone(model));
    }
    let model = Arc::new(Model::of(&config.model, base)?);
    open.insert(config.model.path.clone(), Arc::clone(&model));
    Ok(model)
}

/// What every run is given before what is drawn: little work.
fn base(model: &str, training: bool) -> Sets {
    let words = model.starts_with("bundled");
    let mut out = sets(&[
        ("run.prompt", if words { "Once upon" } else { "tokens:9" }),
        ("run.context", "48"),
        ("run.max_tokens", "3"),
        ("run.batch", "8"),
        ("machine.threads", "1"),
    ]);
    out.push(("model.path".into(), format!("{model:?}")));
    if training {
        let data = if words { "bundled:task-tova" } else { "tokens:8" };
        out.extend(sets(&[
            ("train.data", data),
            ("train.steps", "2"),
            ("train.batch", "2"),
            ("train.length", "16"),
            ("train.samples", "1"),
            ("train.sample_tokens", "2"),
            ("train.validate_rows", "2"),
        ]));
    }
    out
}

/// Less work and less memory than was drawn.
fn bound(config: &mut Config) {
    config.run.max_tokens = config.run.max_tokens.min(3);
    for budget in [&mut config.budget.device, &mut config.budget.host] {
        budget.0 = budget.0.min(MOST);
    }
    if let Some(train) = &mut config.train {
        train.steps = train.steps.min(2);
        train.warmup = train.warmup.min(train.steps);
        train.validate_rows = train.validate_rows.clamp(1, 2);
    }
}

/// A run to its end: its report, and whether it was cut short.
fn finish(config: &Config, model: &Arc<Model>, dir: &Path, what: &dyn Fn() -> String) -> (Report, bool) {
    let order = Order {
        config: config.clone(),
        model: Arc::clone(model),
        machine: Machine::default_guess(),
        base: dir.to_path_buf(),
        dump: None,
        // The same configuration runs several times in one folder.
        care: Care { force: true, ..Care::default() },
        keep: None,
        folder: None,
    };
    let job = Job::start(order).unwrap();
    let (start, mut report, mut cut) = (Instant::now(), Report::default(), false);
    loop {
        match job.events.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => report.add(&event),
            Err(RecvTimeoutError::Disconnected) => return (report, cut),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !cut && start.elapsed() > LONG {
            cut = true;
            job.send(Command::Cancel);
        }
        if start.elapsed() > LONG + HANGS {
            std::mem::forget(job);
            panic!("{}: it hangs, and is not to be cancelled", what());
        }
    }
}

/// Whether a run ended well; an error must be one of a choice, or the cancelling that was asked for.
fn ended(report: &Report, cut: bool, what: &dyn Fn() -> String) -> bool {
    match &report.error {
        None => true,
        Some(e) if cut && e.kind == "cancelled" => false,
        Some(e) => {
            assert!(matches!(e.code, 2 | 3), "{}: exit {}: {}", what(), e.code, e.message);
            false
        }
    }
}

/// The `--set` arguments of a hint.
fn arguments(hint: &str) -> Sets {
    let mut out = Sets::new();
    // What may be left out instead is said in words.
    let hint = hint.split(", or ").next().unwrap_or(hint);
    for part in hint.split("--set ").map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or_else(|| panic!("no argument: {hint}"));
        out.push((key.into(), value.trim_matches('\'').into()));
    }
    out
}

fn run(bytes: &[u8]) -> bool {
    let drawn = drawn(bytes);
    let what = || drawn.tell();
    let mut config = match from_toml("", &[base(&drawn.model, drawn.training), drawn.sets.clone()].concat()) {
        Ok(config) => config,
        Err(e) => {
            assert_eq!(e.exit_code(), 2, "{}: {e}", what());
            return false;
        }
    };
    bound(&mut config);
    if let Err(e) = catalog::check(&config) {
        assert_eq!(e.exit_code(), 2, "{}: {e}", what());
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = match open(&config, dir.path()) {
        Ok(model) => model,
        Err(e) => {
            assert_eq!(e.exit_code(), 2, "{}: {e}", what());
            return false;
        }
    };
    let (report, cut) = finish(&config, &model, dir.path(), &what);
    if !ended(&report, cut, &what) {
        if let Some(over) = report.error.filter(|e| e.code == 3) {
            way_out(&config, &model, dir.path(), &over, &what);
        }
        return false;
    }
    for (tier, peak) in report.plan.peak.iter().filter(|(_, peak)| **peak > 0) {
        let mut tight = config.clone();
        let (key, budget) = match tier {
            Tier::Device => ("budget.device", &mut tight.budget.device),
            Tier::Host => ("budget.host", &mut tight.budget.host),
            Tier::Disk => continue,
        };
        *budget = Bytes(peak - 1);
        let what = || format!("{} --set {key}='{} B'", what(), peak - 1);
        let (report, _) = finish(&tight, &model, dir.path(), &what);
        let over = report.error.unwrap_or_else(|| panic!("{}: one byte below the plan, and it ran", what()));
        assert_eq!(over.code, 3, "{}: {}", what(), over.message);
        way_out(&tight, &model, dir.path(), &over, &what);
    }
    true
}

/// What is printed beside a refusal, done: it runs.
fn way_out(config: &Config, model: &Arc<Model>, dir: &Path, over: &Failure, what: &dyn Fn() -> String) {
    let hint = over.hint.as_ref().unwrap_or_else(|| panic!("{}: no way out: {}", what(), over.message));
    let changed = from_toml(&config.to_toml().unwrap(), &arguments(hint));
    let changed = changed.unwrap_or_else(|e| panic!("{}: {hint}: {e}", what()));
    // A larger budget than this machine should be asked for is not taken up.
    if changed.budget.device.0 > 2 * MOST && config.budget.device.0 <= MOST {
        return;
    }
    let what = || format!("{} and then {hint}", what());
    let (report, cut) = finish(&changed, model, dir, &what);
    assert!(ended(&report, cut, &what) || cut, "{}: {:?}", what(), report.error);
}
