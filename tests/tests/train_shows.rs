//! What a training run tells of what its model can do, against the inference of what it wrote.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use ullage_core::ledger::Tier;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::report::Report;
use ullage_core::report::protocol::{Event, Numbered};
use ullage_core::train::data::{Dataset, Options};
use ullage_tests::{Rig, bundled, config, events, order, run};

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

/// What the inference engine finds of the task's held-out answers.
#[derive(Debug, Default)]
struct Found {
    /// Answers, and those that are right to the last token.
    asked: usize,
    answers: usize,
    /// Tokens to be said, what ends a text included, and those that were the most likely.
    targets: usize,
    tokens: usize,
    /// Those of them that end a text.
    ends: usize,
    right_ends: usize,
}

/// Reads every held-out answer of the task with the adapter, one token after the other.
fn by_inference(adapter: &std::path::Path) -> Found {
    let model = Model::open("bundled:recall", ".".as_ref()).unwrap().with_adapter(adapter, 1.0).unwrap();
    let words = Words::of(&model).unwrap();
    let data = Dataset::open(&Options::new("bundled:task-tova"), &words, ".".as_ref()).unwrap().validation;
    let mut rig = Rig::new(&model, &config(&[("kv.format", "f32")])).unwrap();
    let mut found = Found::default();
    for i in 0..data.len() {
        let (ids, learn): (Vec<u32>, Vec<bool>) = data.document(i).unzip();
        let first = learn.iter().position(|l| *l).unwrap();
        let logits = rig.logits(&ids[..first], &ids[first..ids.len() - 1]);
        let mut right = true;
        for (row, id) in logits.iter().zip(&ids[first..]) {
            let most = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
            let (hit, end) = (most == *id, Some(*id) == words.end());
            found.targets += 1;
            found.tokens += usize::from(hit);
            found.ends += usize::from(end);
            found.right_ends += usize::from(hit && end);
            right &= hit || end;
        }
        found.asked += 1;
        found.answers += usize::from(right);
    }
    found
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

    // Every answer of the task, token by token after the right ones before it, by the inference engine with the adapter: what was
    // told at the end is what it finds, which is far above chance and far from all.
    let told = events.iter().rev().find_map(|e| match e.event {
        Event::Validation { tokens, token_accuracy, accuracy, answers, .. } => {
            Some((tokens, token_accuracy, accuracy, answers))
        }
        _ => None,
    });
    let (tokens, Some(token_accuracy), Some(accuracy), answers) = told.unwrap() else { panic!("{told:?}") };
    let found = by_inference(&folder.path().join("adapter"));
    assert_eq!((tokens, answers), (found.targets, found.asked));
    let here = (token_accuracy * tokens as f64).round();
    assert!(token_accuracy > 0.1 && token_accuracy < 0.98, "{token_accuracy}");
    // Another order of the same sums may turn a near tie.
    assert!((here - found.tokens as f64).abs() < 4.0, "{here} of {tokens} were told, {found:?}");
    assert!((accuracy * answers as f64 - found.answers as f64).abs() < 1.5, "{accuracy} was told, {found:?}");

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
    // What ends a text is counted in training and is no part of what is asked there.
    let there = task["token_accuracy"].as_f64().unwrap() * (found.targets - found.ends) as f64;
    assert!((there - (found.tokens - found.right_ends) as f64).abs() < 4.0, "{there} and {found:?}");

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
