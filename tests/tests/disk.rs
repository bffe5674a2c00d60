//! The disk is a tier like the others: what a job writes is planned from shapes, counted as it is written, and is what the file
//! system says; a wall below it ends the job before, and leaves nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use ullage_core::config::Config;
use ullage_core::ledger::Tier;
use ullage_core::report::Report;
use ullage_tests::{bundled, config, events, fixture, of, open, order, sets, with};

const STATE: &str = "disk.optimizer.training state";

/// Runs `config`, which names its paths from `dir` on; dumps into it where it does not train.
fn run(config: &Config, dir: &Path) -> Report {
    let mut order = order(&bundled(), config);
    order.base = dir.into();
    order.dump = config.train.is_none().then(|| dir.join("dump"));
    events(order).1
}

fn limited(config: &Config, bytes: u64) -> Config {
    with(config, &sets(&[("budget.disk", &format!("{bytes} B"))])).unwrap()
}

/// Bytes of a file, or of the files of a folder, but for what the program keeps for itself.
fn bytes(path: &Path) -> u64 {
    if path.is_file() {
        return fs::metadata(path).unwrap().len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().map(|e| e.unwrap().path());
    entries.filter(|p| p.file_name().unwrap() != ".ullage").map(|p| bytes(&p)).sum()
}

fn rows(report: &Report, name: &str) -> (u64, u64) {
    let of = |rows: &std::collections::BTreeMap<String, u64>| rows.get(name).copied().unwrap_or(0);
    (of(&report.plan.rows), of(&report.measured.rows))
}

/// Neither too little nor much too much.
#[track_caller]
fn close(planned: u64, measured: u64) {
    let allowed = (measured / 50).max(256 << 10);
    assert!(planned >= measured && planned - measured <= allowed, "planned {planned}, measured {measured}");
}

/// A byte less than is planned is refused before anything is written, and what the refusal says fits; exactly that is enough.
#[track_caller]
fn wall(config: &Config, planned: u64, row: &str, without: &str) {
    let dir = tempfile::tempdir().unwrap();
    let refused = run(&limited(config, planned - 1), dir.path()).error.unwrap();
    assert_eq!((refused.kind.as_str(), refused.code), ("over_budget", 3), "{}", refused.message);
    assert!(refused.message.contains(row) && refused.message.contains("disk"), "{}", refused.message);
    let hint = refused.hint.unwrap();
    assert!(hint.contains(&format!("--set budget.disk='{planned} B'")) && hint.contains(without), "{hint}");
    assert_eq!(bytes(dir.path()), 0, "nothing is left behind");
    let report = run(&limited(config, planned), dir.path());
    assert_eq!(report.error, None);
    assert!(of(&report.measured.peak, Tier::Disk) <= planned);
}

#[test]
fn a_dump_takes_what_is_planned_to_the_byte() {
    let config = config(&[
        ("run.prompt", "The river"),
        ("run.max_tokens", "12"),
        ("run.ignore_eos", "true"),
        ("run.context", "64"),
        ("eval.perplexity.windows", "2"),
        ("eval.perplexity.prompt", "8"),
        ("eval.perplexity.tokens", "5"),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let report = run(&config, dir.path());
    assert_eq!(report.error, None);
    let (planned, measured) = rows(&report, "disk.logits.dump");
    assert_eq!((planned, measured), (measured, bytes(&dir.path().join("dump"))), "planned, measured, on the disk");
    // By hand: twelve rows and ten, and two headers.
    let vocab = bundled().shape.vocab as u64;
    assert_eq!(measured, (12 + 10) * vocab * 4 + 2 * 1032);
    assert_eq!(of(&report.plan.peak, Tier::Disk), of(&report.measured.peak, Tier::Disk));
    println!("dump: planned {planned}, measured {measured}");
    wall(&config, planned, "dump", "--dump");
    // A text that ends sooner writes less than was planned.
    let sooner = with(&config, &sets(&[("run.stop", "[\"e\"]")])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let report = run(&sooner, dir.path());
    let (planned, measured) = rows(&report, "disk.logits.dump");
    assert!(planned > measured && measured == bytes(&dir.path().join("dump")), "{planned} {measured}");
}

/// A short training, in `train.out = out`.
fn training(more: &[(&str, &str)]) -> Config {
    let base = [
        ("train.data", "bundled:task-tova"),
        ("train.steps", "4"),
        ("train.batch", "1"),
        ("train.length", "32"),
        ("train.samples", "0"),
        ("train.validate_rows", "1"),
        ("train.save_every", "2"),
        ("train.out", "out"),
    ];
    config(&[&base, more].concat())
}

/// Trains, and holds plan, account and file system together; the most that the disk was planned to hold.
fn trains(what: &str, config: &Config, states: u64, export: &str, files: &[&str]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let report = run(config, dir.path());
    assert_eq!(report.error, None, "{what}");
    let out = dir.path().join("out");
    let (planned, measured) = rows(&report, STATE);
    assert_eq!(measured, states * bytes(&out.join("training_state.safetensors")), "{what}: states at once");
    close(planned, measured);
    println!("{what}: state planned {planned}, measured {measured}");
    let (planned, measured) = rows(&report, export);
    assert_eq!(measured, files.iter().map(|f| bytes(&out.join(f))).sum::<u64>(), "{what}: what is exported");
    close(planned, measured);
    println!("{what}: {export} planned {planned}, measured {measured}");
    let [planned, measured] = [&report.plan.peak, &report.measured.peak].map(|peak| of(peak, Tier::Disk));
    close(planned, measured);
    println!("{what}: peak planned {planned}, measured {measured}");
    let left: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|f| f == ".ullage" || !f.starts_with('.')), "{left:?}");
    planned
}

#[test]
fn trainings_count_states_while_they_are_there_and_what_they_export() {
    const ADAPTER: &str = "disk.weights.exported adapter";
    let lora = training(&[("train.params", "lora")]);
    let planned = trains("lora", &lora, 2, ADAPTER, &["adapter", "adapter.gguf"]);
    wall(&lora, planned, "training state", "train.out");
    // One that llama.cpp's layout has not, and states that are saved once.
    let dora = training(&[("train.params", "dora"), ("train.save_every", "0")]);
    let planned = trains("dora", &dora, 1, ADAPTER, &["adapter"]);
    wall(&dora, planned, "exported adapter", "train.out");
    let full = [("train.params", "full"), ("train.dtype", "bf16"), ("train.round", "kahan")];
    let full = training(&full);
    let planned = trains("full", &full, 2, "disk.weights.exported model", &["model"]);
    wall(&full, planned, "training state", "train.out");
}

/// Of a model that keeps q, k and v as one, what is exported has columns for the ranks of all; magnitudes of a part of them are refused
/// before anything is learned.
#[test]
fn an_export_of_linears_that_are_one_is_planned() {
    let model = open(fixture("arch/phi3/model.gguf").to_str().unwrap());
    let trained = |params: &str| {
        let dir = tempfile::tempdir().unwrap();
        let more = [("train.data", "tokens:6"), ("train.steps", "1"), ("train.length", "16"), ("train.params", params)];
        let mut order = order(&model, &training(&more));
        order.base = dir.path().into();
        let report = events(order).1;
        (report, ["adapter", "adapter.gguf"].map(|file| bytes(&dir.path().join("out").join(file))))
    };
    let (report, files) = trained("{ use = \"lora\", r = 8 }");
    assert_eq!(report.error, None);
    let (planned, measured) = rows(&report, "disk.weights.exported adapter");
    println!("planned {planned}, measured {measured}");
    assert_eq!(measured, files.iter().sum::<u64>());
    close(planned, measured);
    let (report, files) = trained("{ use = \"dora\", r = 2, target = \"q,v\" }");
    let message = report.error.unwrap().message;
    assert!(message.contains("q, k, v") && files == [0, 0], "{message}");
}

#[test]
fn a_training_that_goes_on_counts_the_state_it_goes_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let once = training(&[("train.params", "lora"), ("train.save_every", "0")]);
    let report = run(&once, dir.path());
    assert_eq!(report.error, None);
    let state = bytes(&dir.path().join("out/training_state.safetensors"));
    assert_eq!(rows(&report, STATE).1, state);
    let on = with(&once, &sets(&[("train.resume", "true"), ("train.steps", "5")]));
    let report = run(&on.unwrap(), dir.path());
    assert_eq!(report.error, None);
    let (planned, measured) = rows(&report, STATE);
    assert_eq!(measured, state + bytes(&dir.path().join("out/training_state.safetensors")));
    close(planned, measured);
}
