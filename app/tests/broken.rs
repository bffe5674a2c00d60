//! What is no number is a state of a result and never a good one: in the report, the table, a sweep, a training.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod common;

use std::path::Path;

use common::Room;
use serde_json::Value;
use ullage_core::model::gguf::Gguf;
use ullage_core::report::{Report, folder};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf");

/// The bundled model with what is no number in a norm of layer `layer`.
fn broken(room: &Room, layer: usize) -> String {
    let mut bytes = std::fs::read(MODEL).unwrap();
    let name = format!("blk.{layer}.ffn_norm.weight");
    let offset = Gguf::open(Path::new(MODEL)).unwrap().tensor(&name).unwrap().offset as usize;
    bytes[offset..offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    room.write("broken.gguf", bytes).display().to_string()
}

const SMALL: [&str; 8] = [
    "--set",
    "run.max_tokens=4",
    "--set",
    "run.context=512",
    "--set",
    "eval.fidelity={ prompt = 16, tokens = 3 }",
    "--set",
    "eval.recall={ pairs = 2, questions = 1, samples = 1 }",
];

#[test]
fn a_run_of_a_broken_model_says_where_it_diverged_and_has_no_figure() {
    let room = Room::new();
    let model = broken(&room, 2);
    let said = room.run(1, &[&["run", &model, "--out", "run"][..], &SMALL].concat());
    for words in [
        "error: the text diverged: NaN in the logits at token 0, first in layer 2",
        "error: eval.recall diverged: NaN in the logits at case 0, token 0, first in layer 2",
        "error: eval.fidelity diverged: NaN in the reference's logits at case 0, token 0",
    ] {
        assert!(said.err.contains(words), "{}", said.err);
    }
    assert!(said.out.contains("eval     recall: diverged: NaN in the logits at case 0, token 0"), "{}", said.out);
    let text = room.read("run/report.json");
    let report: Value = serde_json::from_str(&text).unwrap();
    for task in ["recall", "fidelity"] {
        assert_eq!(common::keys(&report["eval"][task]), ["diverged"], "no figure beside it");
    }
    assert_eq!((&report["output"]["stop"], &report["output"]["tokens"]), (&"diverged".into(), &Value::Array(vec![])));
    let whole: Report = serde_json::from_str(&text).unwrap();
    let again = folder::replay(&room.path("run")).unwrap();
    assert_eq!((&whole.eval, &whole.output), (&again.eval, &again.output), "the folder reads back");
    assert_eq!(again.diverged().len(), 3);
}

/// Finite values that no norm can take: 1 / √∞ makes zeros of them, and of zeros come logits that look like numbers.
#[test]
fn values_that_overflow_within_a_norm_are_no_figures() {
    let room = Room::new();
    let mut bytes = std::fs::read(MODEL).unwrap();
    let tensor = Gguf::open(Path::new(MODEL)).unwrap().tensor("blk.2.ffn_norm.weight").unwrap().clone();
    let at = tensor.offset as usize;
    for weight in bytes[at..at + tensor.bytes as usize].chunks_exact_mut(4) {
        let large = f32::from_le_bytes(weight.try_into().unwrap()) * 1e11;
        weight.copy_from_slice(&large.to_le_bytes());
    }
    let model = room.write("large.gguf", bytes).display().to_string();
    let said = room.run(1, &[&["run", &model, "--set", "run.sequences=2"][..], &SMALL].concat());
    for words in [
        "error: the text of sequence 1 diverged: inf in the squares of the residual stream at token 0, first in layer 2",
        "error: the text of sequence 2 diverged: inf in the squares of the residual stream at token 0, first in layer 2",
        "error: eval.recall diverged: inf in the squares of the residual stream at case 0, token 0, first in layer 2",
        "error: eval.fidelity diverged: inf in the squares of the residual stream at case 0, token 0, first in layer 2",
    ] {
        assert!(said.err.contains(words), "{}", said.err);
    }
}

#[test]
fn a_sweep_marks_a_point_that_diverged_and_keeps_it_off_the_front() {
    let room = Room::new();
    let bad = broken(&room, 1);
    std::fs::copy(MODEL, room.path("good.gguf")).unwrap();
    let over = format!("model.path=good.gguf,{bad}");
    let sweep = ["sweep", "good.gguf", "--over", &over, "--out", "points"];
    let said = room.run(0, &[&sweep[..], &SMALL].concat());
    assert!(said.err.contains("eval.recall diverged: NaN in the logits"), "{}", said.err);
    let mut csv = csv::Reader::from_reader(said.out.as_bytes());
    let head = csv.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let cell = |row: usize, name: &str| rows[row].get(head.iter().position(|h| h == name).unwrap()).unwrap().to_owned();
    assert_eq!((cell(0, "error").as_str(), cell(1, "error").as_str()), ("", "diverged"));
    for figure in ["recall.accuracy", "fidelity.kl_mean", "fidelity.same_next_token"] {
        assert!(cell(0, figure).parse::<f64>().is_ok() && cell(1, figure).is_empty(), "{figure}: {}", said.out);
    }
    let svg = room.read("points/sweep.svg");
    assert!(svg.contains("broken.gguf: diverged"), "the point is named in the picture");
    let rows = room.json(0, &[&sweep[..], &SMALL].concat());
    assert!(rows[0]["diverged"].as_object().unwrap().is_empty());
    assert_eq!(rows[1]["diverged"]["recall"]["layer"], 1);
    assert!(common::keys(&rows[1]["figures"]).iter().all(|f| !f.starts_with("recall") && !f.starts_with("fidelity")));
    // A sweep of which nothing is a number has failed.
    let over = format!("model.path={bad}");
    room.run(1, &[&["sweep", "good.gguf", "--over", &over, "--out", "none"][..], &SMALL].concat());
}

#[test]
fn an_evaluation_that_asks_nothing_is_refused() {
    let room = Room::new();
    for (set, words) in [
        ("eval.recall.samples=0", "eval.recall.samples: `0` is not allowed"),
        ("eval.needle.lengths=[]", "eval.needle.lengths: `[]` is not allowed; a list of whole numbers"),
        ("eval.needle.depths=[]", "eval.needle.depths: `[]` is not allowed"),
    ] {
        let said = room.run(2, &["run", "bundled:recall", "--set", set]);
        assert!(said.err.contains(words) && said.err.contains("at least one") == set.contains("[]"), "{}", said.err);
    }
}

fn training(more: &[&str]) -> Vec<String> {
    let sets = [
        "train.batch=1",
        "train.length=8",
        "train.params=full",
        "train.samples=0",
        "train.validation=0",
        "train.out=out",
        "machine.threads=1",
    ];
    let sets = sets.iter().chain(more).flat_map(|set| ["--set".to_owned(), (*set).to_owned()]);
    ["run", "bundled:recall"].map(str::to_owned).into_iter().chain(sets).collect()
}

/// The updates of the training state in the folder `out`.
fn state_of(room: &Room) -> Option<u64> {
    let bytes = std::fs::read(room.path("out/training_state.safetensors")).ok()?;
    let header: Value =
        serde_json::from_slice(&bytes[8..8 + u64::from_le_bytes(*bytes.first_chunk()?) as usize]).ok()?;
    let standing: Value = serde_json::from_str(header["__metadata__"]["standing"].as_str()?).ok()?;
    standing["step"].as_u64()
}

#[test]
fn a_training_whose_loss_is_no_number_stops_at_its_step_and_keeps_the_last_good_state() {
    let room = Room::new();
    let args = training(&[
        "train.data=tokens:6",
        "train.lr=100",
        "train.optimizer={ use = \"sgd\", momentum = 0.0 }",
        "train.steps=40",
        "train.save_every=1",
    ]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let report = room.json(1, &args);
    assert_eq!(report["error"]["kind"], "diverged", "{}", report["error"]);
    let place = &report["error"]["diverged"];
    let step = place["step"].as_u64().unwrap();
    let told = report["train"]["steps_table"].as_array().unwrap();
    assert_eq!(told.len() as u64, step - 1, "every step before it is told, and only those: {}", report["error"]);
    assert!(told.iter().all(|row| row[1].is_number() && row[2].is_number()));
    assert!(report["error"]["message"].as_str().unwrap().contains("train.lr"), "{}", report["error"]);
    // The state that is left has been shown to give a loss: that of the step before the one that did not.
    let left = state_of(&room);
    let good = if place["of"] == "the loss" { step - 2 } else { step - 1 };
    assert_eq!(left, Some(good).filter(|s| *s > 0), "{}", report["error"]);
    assert!(!room.path("out/training_state.safetensors.before").exists());
    assert!(!room.path("out/training_state.before").exists());
}

#[test]
fn a_training_that_comes_to_nothing_says_so() {
    let room = Room::new();
    let args = training(&["train.data=tokens:6", "train.lr=0.3", "train.steps=8"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = room.run(0, &args);
    assert!(said.out.contains("warning  collapsed: through the last 2 of 8 steps the loss was"), "{}", said.out);
    let room = Room::new();
    let args = training(&["train.data=tokens:1", "train.lr=0.001", "train.steps=8"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let report = room.json(0, &args);
    assert!(report["train"].get("collapsed").is_none(), "{}", report["train"]);
}

#[test]
fn a_choice_without_effect_is_named_in_the_plan_and_the_report() {
    let room = Room::new();
    let idle = ["kv.select=h2o", "run.sequences=2", "eval.recall.pairs=4", "train.lr_end=0.5"];
    let args = training(&[&["train.data=tokens:6", "train.steps=1"], &idle[..]].concat());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let notes = [
        "has no effect on a training: eval.recall, kv.select, run.sequences",
        "has no effect: train.lr_end, because train.decay = constant does not fall",
    ];
    let plan = [&["plan"], &args[1..]].concat();
    assert_eq!(room.json(0, &plan)["notes"], serde_json::json!(notes));
    let said = room.run(0, &plan);
    let run = room.run(0, &args);
    for note in notes {
        assert!(said.out.contains(&format!("note     {note}")), "{}", said.out);
        assert!(
            run.out.contains(&format!("note     {note}")) && run.err.contains(&format!("note: {note}")),
            "{}",
            run.err
        );
    }
    // The folder of the run before has a state, which a run does not go over unasked.
    let again: Vec<&str> = args.iter().map(|a| if *a == "train.out=out" { "train.out=again" } else { *a }).collect();
    let report = room.json(0, &again);
    assert_eq!(report["notes"], serde_json::json!(notes));
}
