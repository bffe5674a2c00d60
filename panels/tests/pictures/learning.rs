use std::sync::Arc;

use egui::accesskit::Role;
use egui::{Key, Theme};
use egui_kittest::SnapshotResults;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ullage_panels::pictures::{learning, text};
use ullage_panels::view::{Adapter, AdapterUse, Course, Fit, HeldOutQuestion, Learning, Mark, Samples, Text};
use ullage_panels::{Action, Linked};

use crate::{asked, driven, look, sized};

/// A run of so many steps whose loss falls by a noisy exponential: a sine of a large argument is noise enough.
fn course(name: &str, steps: u64, speed: f64, mib: u64) -> Course {
    let noise = |i: u64| (i as f64 * 12.9898 + speed * 78.233).sin() * 43_758.545;
    let noise = |i: u64| noise(i) - noise(i).floor() - 0.5;
    let mark = |step: u64, value: f64| Mark {
        step,
        seconds: 1.5 + step as f64 * 0.42 / speed,
        bytes: (mib - u64::from(step < 2) * 4) << 20,
        value,
    };
    let loss = |step: u64| 0.35 + 3.9 * (-speed * step as f64 / 30.0).exp();
    let every = (steps / 8).max(1);
    let at = || (0..=8).map(|i| i * every);
    Course {
        run: name.into(),
        label: format!("lora · {steps} steps"),
        verdict: String::new(),
        steps,
        loss: (1..=steps).map(|s| mark(s, loss(s) * (1.0 + 0.35 * noise(s)))).collect(),
        held_out: at().map(|s| mark(s, loss(s) * 1.04)).collect(),
        answers: at().map(|s| mark(s, (1.0 - (-(speed * s as f64) / 45.0).exp()).powi(3))).collect(),
        tokens: at().map(|s| mark(s, 1.0 - 0.9 * (-(speed * s as f64) / 25.0).exp())).collect(),
        peak: Some(mib << 20),
        predicted_peak: Some((mib << 20) + 40_000),
        step_seconds: Some(0.42 / speed),
        predicted_step_seconds: Some(0.39 / speed),
    }
}

fn runs() -> Learning {
    let mine = course("2026-11-24 14.03", 120, 1.0, 84);
    let others = [("2026-11-24 13.40", 120, 0.5, 61), ("2026-11-23 09.12", 80, 1.6, 210)];
    Learning {
        run: Some(Arc::new(mine)),
        others: others.map(|(n, steps, speed, mib)| Arc::new(course(n, steps, speed, mib))).into(),
        ..Learning::default()
    }
}

/// Three of many choices: one that fits, the chosen one, which does not, and one that cannot be.
fn choices() -> Learning {
    let fit = |choices: [&str; 4], mib: Option<u64>, chosen: bool| Fit {
        choices: choices.map(str::to_owned),
        peak: mib.map(|m| m << 20),
        refused: if mib.is_none() { "it cannot be held there".into() } else { String::new() },
        fits: mib.is_some_and(|m| m <= 300),
        step_seconds: mib.map(|m| m as f64 / 500.0),
        chosen,
        sets: vec![("train.optimizer".into(), "sgd".into())],
    };
    let fits = vec![
        fit(["All weights", "AdamW", "Keep all", "Whole"], Some(410), true),
        fit(["LoRA", "SGD", "Compute again", "Cut in tiles"], Some(140), false),
        fit(["LoRA", "AdamW", "Keep all", "Whole"], None, false),
    ];
    Learning { fits: Arc::new(fits), limit: Some(300 << 20), ..Learning::default() }
}

#[test]
fn what_fits_is_listed_least_first_and_chosen_by_a_press() {
    let mut h = driven(learning::show, choices());
    h.get_by_label("Run");
    h.get_by_label("Show: What fits").click();
    h.run();
    assert!(h.query_all_by_label("What fits, and what would it cost?").next().is_some());
    let value = |h: &crate::Driven<Learning, learning::LearningState>, name: &str| {
        h.get_by_label(name).accesskit_node().value().unwrap_or_default()
    };
    let (least, most) = ("LoRA, SGD, Compute again, Cut in tiles", "All weights, AdamW, Keep all, Whole");
    assert_eq!(value(&h, least), "140 MiB, fits");
    assert_eq!(value(&h, most), "410 MiB, 110 MiB over the limit");
    assert_eq!(value(&h, "LoRA, AdamW, Keep all, Whole"), "it cannot be held there");
    assert!(h.get_by_label(least).rect().top() < h.get_by_label(most).rect().top());
    h.get_by_label(most).click();
    h.run();
    assert_eq!(asked(&mut h), [], "it is chosen");
    h.get_by_label(least).click();
    h.run();
    let set = Action::Set { what: least.into(), sets: vec![("train.optimizer".into(), "sgd".into())], gesture: None };
    assert_eq!(asked(&mut h), [set]);
}

fn said() -> Text {
    let asked = |i: usize, right: bool| HeldOutQuestion {
        prompt: format!("English: the {} fox sleeps\nTova:", ["red", "blue"][i]),
        expected: Some(" rigo vaki gufo\n".into()),
        said: vec![
            (0, " the red fox sleeps in the".into()),
            (120, if right { " rigo vaki gufo\n" } else { " rigo nure gufo\n" }.into()),
        ],
    };
    let samples = Samples { asked: vec![asked(0, true), asked(1, false)], note: String::new(), can_run: true };
    Text { samples: Some(samples), ..Text::default() }
}

#[test]
fn values_are_read_at_a_step_by_pointer_and_by_keys() {
    let mut h = driven(learning::show, runs());
    // Without a pointer: the end.
    assert_eq!(h.get_by_label("right answers").accesskit_node().value().as_deref(), Some("80.6 %"));
    let slider = h.get_by_role_and_label(Role::Slider, "Step read");
    let spoken = slider.accesskit_node().value().unwrap();
    assert!(spoken.starts_with("step 120, loss of each step ") && spoken.contains("right answers 80.6 %"), "{spoken}");
    let rect = slider.rect();
    h.hover_at(rect.left_top() + egui::vec2(0.5 * rect.width(), 20.0));
    h.run();
    let spoken = h.get_by_role_and_label(Role::Slider, "Step read").accesskit_node().value().unwrap();
    assert!(spoken.starts_with("step 60,"), "{spoken}");
    h.hover_at(egui::pos2(1090.0, 550.0));
    h.run();
    h.get_by_role_and_label(Role::Slider, "Step read").focus();
    h.run();
    for _ in 0..2 {
        h.key_press(Key::ArrowLeft);
        h.run();
    }
    let spoken = h.get_by_role_and_label(Role::Slider, "Step read").accesskit_node().value().unwrap();
    assert!(spoken.starts_with("step 118,"), "{spoken}");
}

#[test]
fn against_bytes_every_run_is_a_point_that_opens() {
    let mut h = driven(learning::show, runs());
    h.get_by_label("Against: Bytes").click();
    h.run();
    let names: Vec<String> = h
        .query_all_by_label_contains("held-out loss ")
        .filter_map(|n| n.accesskit_node().label())
        .filter(|l| l.contains("MiB"))
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let left = |h: &crate::Driven<Learning, learning::LearningState>, part: &str| {
        h.get_all_by_label_contains(part).next().unwrap().rect().center().x
    };
    let (less, more) = (left(&h, "2026-11-24 13.40: 61 MiB"), left(&h, "2026-11-23 09.12: 210 MiB"));
    assert!(less < more, "more bytes lie farther right");
    h.get_all_by_label_contains("2026-11-23 09.12: 210 MiB").next().unwrap().focus();
    h.run();
    h.key_press(Key::Enter);
    h.run();
    h.key_press(Key::Enter);
    assert_eq!(asked(&mut h), [Action::OpenRun("2026-11-23 09.12".into())]);
    h.get_by_label("2 other runs").click();
    h.run();
    assert!(h.query_by_label_contains("210 MiB").is_none(), "the run on screen alone");
}

#[test]
fn figures_hide_and_empty_pictures_say_what_will_be_there() {
    let mut h = driven(learning::show, runs());
    for figure in ["right answers", "right next tokens", "loss of each step", "held-out loss"] {
        h.get_by_label(figure).click();
        h.run();
    }
    h.get_by_label("right answers").click();
    h.run();
    let live = Learning { live: true, ..Learning::default() };
    driven(learning::show, live).get_by_label("Waiting for the first step…");
    let mut h = driven(learning::show, Learning::default());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), [Action::Run]);
    // What is no number draws and is said as unknown.
    let mut odd = course("odd", 10, 1.0, 9);
    odd.loss.iter_mut().for_each(|m| (m.value, m.seconds) = (f64::NAN, f64::INFINITY));
    (odd.held_out, odd.peak) = (Vec::new(), None);
    let data = Learning { run: Some(Arc::new(odd)), ..Learning::default() };
    for over in ["Against: Seconds", "Against: Bytes", "Against: Steps"] {
        let mut h = driven(learning::show, data.clone());
        h.get_by_label(over).click();
        h.run();
    }
}

#[test]
fn answers_before_and_after_stand_under_their_question() {
    let h = driven(text::show, said());
    h.get_by_label("After 120 steps: rigo vaki gufo");
    h.get_by_label("After 120 steps: rigo nure gufo");
    assert_eq!(h.query_all_by_label("Before training: the red fox sleeps in the").count(), 2);
    let note = "What the model says to held-out questions before and after training will appear here.";
    let empty = Samples { note: note.into(), can_run: true, ..Samples::default() };
    let mut none = sized(text::show, Text { samples: Some(empty), ..Text::default() }, Theme::Light, [600.0, 300.0]);
    none.get_by_label(note);
    none.get_by_label("Run").click();
    assert_eq!(asked(&mut none), [Action::Run]);
}

/// A prompt with an adapter that is on.
fn with_adapter() -> Text {
    let name = "runs/adapter.gguf".to_owned();
    let adapter = Some(Adapter { now: AdapterUse::On, name, merging: false });
    Text { prompt: "English: the red fox sleeps\nTova:".into(), chats: true, adapter, ..Text::default() }
}

#[test]
fn an_adapter_is_switched_unless_it_is_being_merged() {
    let mut h = driven(text::show, with_adapter());
    h.get_by_label("Adapter: Off").click();
    assert_eq!(asked(&mut h), [Action::Adapter(AdapterUse::Off)]);
    h.get_by_label("Adapter: On").click();
    assert_eq!(asked(&mut h), [], "it is on");
    let mut data = with_adapter();
    if let Some(adapter) = &mut data.adapter {
        adapter.merging = true;
    }
    let mut h = driven(text::show, data);
    h.get_by_label("Adapter: Merged").click();
    assert_eq!(asked(&mut h), []);
    assert!(driven(text::show, Text::default()).query_by_label("Adapter: On").is_none());
}

/// The picture on its second page.
fn second(
    ui: &mut egui::Ui,
    data: &Learning,
    state: &mut learning::LearningState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    state.page = learning::Page::Fits;
    learning::show(ui, data, state, linked, actions);
}

#[test]
fn learning_looks_like_this() {
    let mut results = SnapshotResults::new();
    look(&mut results, "learning", learning::show, &runs(), &Linked::default());
    let live = Learning { others: Vec::new(), live: true, ..runs() };
    look(&mut results, "learning_live", learning::show, &live, &Linked::default());
    look(&mut results, "learning_empty", learning::show, &Learning::default(), &Linked::default());
    look(&mut results, "what_fits", second, &choices(), &Linked::default());
    look(&mut results, "adapter", text::show, &with_adapter(), &Linked::default());
    look(&mut results, "samples", text::show, &said(), &Linked::default());
}
