//! What a training run tells of what its model can do, against the inference of what it wrote.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use ullage_core::ledger::Tier;
use ullage_core::model::Model;
use ullage_core::report::Report;
use ullage_core::report::protocol::{Event, Numbered};
use ullage_tests::{bundled, config, events, order, run};

const STEPS: &str = "24";

/// Trains a little on the bundled task into `out`.
fn train(out: &std::path::Path, more: &[(&str, &str)]) -> (Vec<Numbered>, Report) {
    let out = out.display().to_string();
    let mut sets = vec![
        ("train.data", "bundled:task-tova"),
        ("train.params", "lora"),
        ("train.steps", STEPS),
        ("train.batch", "2"),
        ("train.length", "128"),
        ("train.lr", "1e-2"),
        ("train.validate_every", "12"),
        ("train.samples", "2"),
        ("train.out", &out),
    ];
    sets.extend_from_slice(more);
    let (events, report) = events(order(&bundled(), &config(&sets)));
    assert_eq!(report.error, None);
    (events, report)
}

#[test]
fn accuracy_and_samples_are_those_of_the_adapter_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (events, report) = train(folder.path(), &[("train.loss", "cut")]);
    let trained = report.train.as_ref().unwrap();
    let steps: Vec<u64> = trained.task_accuracy.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 12, 24], "before, between and after");
    let (before, after) = (trained.task_accuracy[0].1, trained.task_accuracy[2].1);
    assert!(before < 0.05 && trained.token_accuracy[2].1 > trained.token_accuracy[0].1 + 0.1);
    assert_eq!(report.gap.peak.get(&Tier::Device), Some(&0), "what is shown takes nothing that was not planned");

    // The same questions, asked of the adapter by the inference engine.
    let adapter = folder.path().join("adapter.gguf");
    let path = adapter.display().to_string();
    let model = Arc::new(Model::open("bundled:recall", ".".as_ref()).unwrap().with_adapter(&adapter, 1.0).unwrap());
    let asked =
        [("model.adapter", &*path), ("eval.task.samples", "120"), ("run.max_tokens", "1"), ("run.context", "128")];
    let task = &run(&model, &config(&asked)).eval["task"];
    assert_eq!(task["n"], 120);
    let told = task["accuracy"].as_f64().unwrap();
    // Another order of the same sums may turn one near tie.
    assert!((told - after).abs() < 1.5 / 120.0, "{told} and {after}");
    // What ends a text is counted here and is no part of what is asked there: at most one more for each question.
    let tokens = events.iter().rev().find_map(|e| match e.event {
        Event::Validation { tokens, .. } => Some(tokens as f64),
        _ => None,
    });
    let (here, there) = (trained.token_accuracy[2].1 * tokens.unwrap(), task["token_accuracy"].as_f64().unwrap());
    let there = there * (tokens.unwrap() - 120.0);
    assert!(here > there - 4.0 && here < there + 124.0, "{here} and {there}");

    let samples = &trained.samples;
    let at: Vec<_> = samples.iter().map(|s| (s.step, s.index)).collect();
    assert_eq!(at, [(0, 0), (0, 1), (24, 0), (24, 1)]);
    for said in samples {
        assert_eq!(said.prompt, samples[said.index].prompt);
        assert!(said.prompt.contains("Tova:") && said.expected.is_some(), "{said:?}");
    }
    assert!(samples[0].text != samples[2].text, "it has learned something: {samples:?}");
    let mut same = 0;
    for said in &samples[2..] {
        let prompt = said.prompt.trim_start_matches("<s>").to_owned();
        let mut asking = config(&[("model.adapter", &path), ("run.max_tokens", "16"), ("run.context", "128")]);
        asking.run.prompt = prompt;
        let wrote = run(&model, &asking).output[0].text.clone();
        same += usize::from(wrote.trim_end() == said.text.trim_end());
    }
    assert!(same >= 1, "greedy decoding says the same, but for a near tie");

    // Numbers are the same whichever way logits are held, tile by tile or all at once.
    let other = tempfile::tempdir().unwrap();
    let (_, full) = train(other.path(), &[("train.loss", "full"), ("train.steps", "1"), ("train.validate_every", "1")]);
    let full = full.train.unwrap();
    assert_eq!((full.task_accuracy[0], full.token_accuracy[0]), (trained.task_accuracy[0], trained.token_accuracy[0]));
    assert_eq!(full.samples[..2], samples[..2]);

    // What is told reads back, and so does what was told before these figures existed.
    let again: Vec<Numbered> =
        events.iter().map(|e| serde_json::from_str(&serde_json::to_string(e).unwrap()).unwrap()).collect();
    assert_eq!(Report::fold(&again).train, report.train);
    let old = r#"{"n":7,"seconds":1.5,"event":{"event":"validation","step":20,"loss":1.25,"tokens":64}}"#;
    let old: Numbered = serde_json::from_str(old).unwrap();
    let Event::Validation { loss, accuracy: None, token_accuracy: None, answers: 0, .. } = old.event else { panic!() };
    assert!((loss - 1.25).abs() < 1e-12);
}

#[test]
fn data_that_is_no_task_has_samples_and_no_answers() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("notes.txt");
    let text: String =
        (0..40).map(|i| format!("The note number {i} says that the tank is half empty today.\n\n")).collect();
    std::fs::write(&data, text).unwrap();
    let data = data.display().to_string();
    let more =
        [("train.data", &*data), ("train.steps", "2"), ("train.validate_every", "1"), ("train.validation", "0.2")];
    let (_, report) = train(&folder.path().join("out"), &more);
    let trained = report.train.unwrap();
    assert!(trained.task_accuracy.is_empty(), "a text is no answer");
    assert_eq!(trained.token_accuracy.len(), 3);
    assert_eq!(trained.samples.len(), 4);
    assert!(trained.samples.iter().all(|s| s.expected.is_some() && !s.prompt.is_empty()), "{:?}", trained.samples);
    let (_, none) = train(&folder.path().join("none"), &[("train.samples", "0"), ("train.steps", "1")]);
    assert!(none.train.unwrap().samples.is_empty());
}
