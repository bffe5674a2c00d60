//! The window driven as a person or a screen reader does: by the names of what is on screen alone.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod desk;

use std::time::{Duration, Instant};

use desk::screen::Screen;
use egui::accesskit::Role;
use egui::{Key, Modifiers};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ullage_core::catalog::from_toml;
use ullage_core::ledger::alloc::CountingAlloc;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

#[test]
fn a_persons_first_minute() {
    let mut s = Screen::new();
    // It opens on the bundled model, over its limit, with one button that brings it back.
    s.until_label("Do it: ");
    s.until_label("over the limit");
    let off: Vec<bool> = s.harness.query_all_by_label("Run").map(|n| n.accesskit_node().is_disabled()).collect();
    assert!(!off.is_empty() && off.iter().all(|off| *off), "{off:?}");

    // Drag the limit up: it fits. Drag it down: it does not.
    s.harness.get_by_role_and_label(Role::Slider, "Memory limit").set_value_accesskit(64.0 * 1_048_576.0);
    s.until_label("to spare");
    s.harness.get_by_role_and_label(Role::Slider, "Memory limit").set_value_accesskit(11.0 * 1_048_576.0);
    s.until_label("over the limit");
    s.settle();
    let way_back = s.label("Do it: ").unwrap();
    s.click(&way_back);
    s.until_label("to spare");
    s.settle();

    // Run it: every measured stretch lands on its predicted one.
    s.harness.get_all_by_label("Run").next().unwrap().click();
    s.until("the run", |h| h.query_by_label("Stop").is_some());
    s.until("the end", |h| h.query_by_label("Stop").is_none());
    for used in ["weights", "KV cache"] {
        let figure = |account: &str| {
            let label = s.label(&format!("{account} {used}, ")).unwrap_or_else(|| panic!("no {account} {used}"));
            label.trim_start_matches(account).trim().to_owned()
        };
        assert_eq!(figure("Predicted"), figure("Measured"));
    }

    // Scrub to its beginning: the bars show that moment.
    s.click("Timeline");
    s.until("the cursor", |h| h.query_by_role_and_label(Role::Slider, "Moment shown").is_some());
    s.harness.get_by_role_and_label(Role::Slider, "Moment shown").set_value_accesskit(0.0);
    s.until("the moment", |h| {
        h.query_all_by_label_contains("At ").chain(h.query_all_by_label_contains("at 0")).next().is_some()
    });
    assert_eq!(s.harness.state_mut().session().moment(), Some(0));

    // Take it home and bring it back.
    let config = s.harness.state_mut().session().config().clone();
    let path = s.room.path().join("mine.toml");
    s.will_choose(&path);
    s.harness.key_press_modifiers(Modifiers::COMMAND, Key::E);
    s.until_label("mine.toml");
    assert_eq!(from_toml(&std::fs::read_to_string(&path).unwrap(), &[]).unwrap(), config);
    s.harness.get_by_role_and_label(Role::Slider, "Memory limit").set_value_accesskit(256.0 * 1_048_576.0);
    s.until("the change", |_| true);
    s.settle();
    assert_ne!(*s.harness.state_mut().session().config(), config);
    s.will_choose(&path);
    s.harness.key_press_modifiers(Modifiers::COMMAND, Key::O);
    s.until("the import", |_| true);
    let start = Instant::now();
    while *s.harness.state_mut().session().config() != config {
        s.harness.step();
        assert!(start.elapsed() < Duration::from_secs(60), "the import");
        std::thread::sleep(Duration::from_millis(5));
    }

    // Undo, by the keyboard.
    s.harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    s.harness.step();
    assert_ne!(*s.harness.state_mut().session().config(), config);
}

#[test]
fn nothing_new_means_no_frame() {
    let mut s = Screen::new();
    s.until_label("Do it: ");
    s.settle();
    let start = Instant::now();
    // What is found on the disk may still come; then there is silence.
    let quiet = loop {
        s.harness.run_steps(4);
        let delay = s.harness.output().viewport_output.values().map(|v| v.repaint_delay).min().unwrap();
        if delay > Duration::from_secs(60) || start.elapsed() > Duration::from_secs(20) {
            break delay;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(quiet > Duration::from_secs(60), "{quiet:?}");
}

/// Changes settings, as a card or a file would.
fn set(s: &mut Screen, sets: &[(&str, &str)]) {
    let sets = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    s.harness.state_mut().session().act(ullage_panels::Action::Set { what: "set".into(), sets, gesture: None });
    s.harness.step();
}

/// Learns an adapter in a few steps: the held-out questions, and the course it took.
fn learn(s: &mut Screen) {
    s.click("Fine-tune");
    set(
        s,
        &[
            ("train.steps", "8"),
            ("train.batch", "2"),
            ("train.length", "48"),
            ("train.lr", "1e-2"),
            ("train.validate_every", "4"),
            ("train.validate_rows", "6"),
            ("train.samples", "1"),
            ("train.sample_tokens", "6"),
        ],
    );
    s.settle();
    s.until_label("What the model says to held-out questions before and after");
    s.harness.get_all_by_label("Run").next().unwrap().click();
    s.until("training", |h| h.query_by_label("Stop").is_some());
    s.until("its end", |h| h.query_by_label("Stop").is_none());
    s.until_label("Before training: ");
    s.until_label("After 8 steps: ");
    s.until_label("The data has: ");
    // What is told of this machine may stand above, and leave too little room.
    for id in s.session().view().notices.iter().filter(|n| n.remedy.is_none()).map(|n| n.id).collect::<Vec<_>>() {
        s.session().act(ullage_panels::Action::PutAway(id));
    }
    s.click("Learning");
    s.until("the course", |h| h.query_by_role_and_label(Role::Slider, "Step read").is_some());
    let course = s.harness.get_by_role_and_label(Role::Slider, "Step read").accesskit_node().value().unwrap();
    for words in ["step 8", "loss of each step", "held-out loss", "right answers", "right next tokens"] {
        assert!(course.contains(words), "{course}");
    }
}

/// Runs what is chosen to its end; the tokens it wrote.
fn generate(s: &mut Screen) -> Vec<u32> {
    s.settle();
    let failed: Vec<_> = s.harness.state_mut().session().view().notices.iter().filter(|n| n.failure).cloned().collect();
    assert!(failed.is_empty(), "{failed:?}");
    s.harness.get_all_by_label("Run").next().unwrap().click();
    s.until("the run", |h| h.query_by_label("Stop").is_some());
    s.until("the end", |h| h.query_by_label("Stop").is_none());
    s.harness.step();
    let text = &s.harness.state_mut().session().view().text;
    let written = &text.sequences[0];
    written.tokens[written.prompt..].iter().map(|t| t.id).collect()
}

/// The measured bytes of the weights, as the bars say them.
fn weights(s: &Screen) -> String {
    let label = s.label("Measured weights, ").unwrap();
    label.rsplit('(').next().unwrap_or_default().to_owned()
}

/// Whether a button of a switch is the one that is on.
fn taken(s: &Screen, which: &str) -> bool {
    let node = s.harness.get_by_label(which);
    node.accesskit_node().toggled() == Some(egui::accesskit::Toggled::True)
}

/// Trains a few steps of an adapter, then generates without it, with it, and with it merged, by the names on screen alone.
#[test]
fn an_adapter_is_learned_then_switched_on_off_and_merged() {
    let mut s = Screen::new();
    s.until_label("Do it: ");
    set(&mut s, &[("budget.device", "unlimited"), ("run.context", "128"), ("run.max_tokens", "12")]);
    set(&mut s, &[("run.prompt", "\"English: the red fox sleeps\\nTova:\"")]);
    s.settle();
    assert!(s.harness.query_by_label("Adapter: On").is_none(), "there is none to switch");
    learn(&mut s);

    // Generate: off as it stands, then on by the button of the notice, then merged.
    s.until_label("An adapter was learned");
    s.click("Generate with it");
    s.click("Text");
    s.settle();
    s.until("the switch", |h| h.query_by_label("Adapter: On").is_some());
    assert!(taken(&s, "Adapter: On"));
    let with = s.harness.state_mut().session().config().clone();
    assert!(with.model.adapter.as_deref().is_some_and(|a| std::path::Path::new(a).is_file()));
    let on = generate(&mut s);
    let on_bytes = weights(&s);
    s.click("Adapter: Off");
    s.settle();
    assert!(taken(&s, "Adapter: Off") && s.harness.state_mut().session().config().model.adapter.is_none());
    let off = generate(&mut s);
    let off_bytes = weights(&s);
    s.click("Adapter: Merged");
    s.until("the merged model", |h| {
        let node = h.query_by_label("Adapter: Merged");
        node.is_some_and(|n| n.accesskit_node().toggled() == Some(egui::accesskit::Toggled::True))
    });
    s.settle();
    let config = s.harness.state_mut().session().config().clone();
    assert!(config.model.adapter.is_none() && std::path::Path::new(&config.model.path).is_file());
    let merged = generate(&mut s);
    assert!(on.len() == off.len() && on != off, "eight large steps change what it says: {on:?} {off:?}");
    // In the weights' own type what was learned is rounded: the first tokens agree, and a near tie may part them later.
    assert_eq!(on[..2], merged[..2], "{on:?} {merged:?}");
    assert!(on_bytes != off_bytes, "an adapter beside the weights is seen in the bars: {on_bytes}");
    assert_eq!(weights(&s), off_bytes, "a merged one is not");

    // Undo takes it back to without, and again to with.
    for which in ["Adapter: Off", "Adapter: On"] {
        s.harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
        s.harness.step();
        s.settle();
        assert!(taken(&s, which), "{which}");
    }
    assert_eq!(*s.harness.state_mut().session().config(), with);
    assert_eq!(generate(&mut s), on, "the same once more");
}

#[test]
fn a_window_that_is_closed_while_a_run_goes_on_says_that_it_saves_and_closes_itself() {
    let mut s = Screen::new();
    s.until_label("Do it: ");
    set(
        &mut s,
        &[
            ("run.max_tokens", "4000"),
            ("run.context", "4096"),
            ("run.ignore_eos", "true"),
            ("budget.device", "unlimited"),
        ],
    );
    s.settle();
    let context = s.harness.ctx.clone();
    let leave = |s: &mut Screen, asked: bool| {
        s.harness.state_mut().leave(&context, asked);
        s.harness.step();
        s.harness.output().viewport_output[&egui::ViewportId::ROOT].commands.clone()
    };
    let close = egui::ViewportCommand::Close;
    assert!(!leave(&mut s, false).contains(&close), "nobody asked");
    s.harness.get_all_by_label("Run").next().unwrap().click();
    s.until_view("tokens", |v| v.text.sequences.first().is_some_and(|t| t.tokens.len() > t.prompt + 2));
    assert!(leave(&mut s, true).contains(&egui::ViewportCommand::CancelClose), "it stays");
    assert!(s.session().leaving());
    let start = Instant::now();
    while !leave(&mut s, false).contains(&close) {
        assert!(start.elapsed() < Duration::from_secs(60), "it never closes");
        std::thread::sleep(Duration::from_millis(5));
    }
    s.until_view("the end", |v| !v.status.running);
    assert!(!leave(&mut s, true).contains(&egui::ViewportCommand::CancelClose), "the next request is not held up");
}
