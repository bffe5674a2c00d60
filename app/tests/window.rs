//! The workbench without a screen: what a person does, through the session's actions and view alone.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod desk;

use std::path::Path;

use desk::{Desk, SHORT};
use ullage::window::{Start, store};
use ullage_core::catalog::from_toml;
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_panels::Action;
use ullage_panels::view::{Card, Tier, Variant, View};

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

fn card<'a>(view: &'a View, key: &str) -> &'a Card {
    view.cards.iter().flat_map(|s| &s.cards).find(|c| c.key == key).unwrap_or_else(|| panic!("no card {key}"))
}

fn variant<'a>(view: &'a View, key: &str, id: &str) -> &'a Variant {
    card(view, key).variants.iter().find(|v| v.id == id).unwrap_or_else(|| panic!("no variant {key} {id}"))
}

#[test]
fn a_first_minute_over_the_limit_back_below_it_run_and_taken_home() {
    let mut desk = Desk::new(None);
    // The first start: the bundled model, over the limit, one change away from fitting.
    let view = desk.until("the first start", |v| v.top.way_back.is_some());
    let bar = &view.top.predicted.as_ref().unwrap().instants[0].tiers[0].1;
    assert!(bar.overshoot() > 0 && !view.status.blocked.is_empty(), "{bar:?}");
    let back = view.top.way_back.clone().unwrap();
    assert!(back.change < 0, "{back:?}");
    desk.session.act(Action::Set { what: back.words.clone(), sets: back.sets, gesture: None });
    let view = desk.ready();
    let predicted = view.top.predicted.as_ref().unwrap().instants[0].tiers[0].1.clone();
    assert_eq!(predicted.overshoot(), 0);
    assert_eq!(view.status.undo.as_deref(), Some(back.words.as_str()));

    // Run: what is measured lands on what was predicted.
    let view = desk.run();
    assert_eq!(desk.failures(), Vec::<String>::new());
    let measured = view.top.measured.as_ref().unwrap();
    assert!(!measured.live && !measured.stale, "{measured:?}");
    let bar = &measured.instants[0].tiers[0].1;
    let gap = predicted.total() as i64 - bar.total() as i64;
    assert!((0..=(predicted.total() / 50).max(256 << 10) as i64).contains(&gap), "gap {gap}");
    assert!(bar.measured && bar.total() > 0);
    let text = &view.text.sequences[0];
    assert!(text.tokens.len() > text.prompt && text.prompt > 0 && !text.stop.is_empty());
    assert!(view.attention.grid.as_ref().is_some_and(|g| !g.steps.is_empty()), "the first start observes");
    assert_eq!(view.attention.tokens.len(), text.tokens.len());

    // Scrub: bars of a moment.
    assert!(view.timeline.moments.len() > 1 && !view.timeline.live);
    desk.session.act(Action::ScrubTo(Some(0)));
    let view = desk.session.view();
    let at = view.top.measured.as_ref().unwrap().instants.last().unwrap();
    assert!(at.name.starts_with("at "), "{}", at.name);
    assert_eq!(at.tiers[0].1.total(), view.timeline.moments[0].total(Tier::Device));

    // Export and import: the same configuration, with its evidence.
    let text = desk.exported();
    assert_eq!(from_toml(&text, &[]).unwrap(), *desk.session.config());
    assert!(text.contains("# predicted  peak device") && text.contains("# measured   peak device"), "{text}");
    let path = desk.room.path().join("mine.toml");
    desk.will_choose(&path);
    desk.session.act(Action::ExportDialog);
    desk.until("the export", |v| v.notices.iter().any(|n| n.title == "Saved"));
    let config = desk.session.config().clone();
    desk.set(&[("run.context", "64"), ("kv.format", "q4_0")]);
    assert_ne!(*desk.session.config(), config);
    desk.session.act(Action::Open(path.display().to_string()));
    desk.until("the import", |v| v.status.undo.as_deref() == Some("Open a configuration"));
    assert_eq!(*desk.session.config(), config);

    // The history has the run, and opens it without the model.
    let view = desk.until("the history", |v| v.history.runs.len() == 1);
    let run = &view.history.runs[0];
    assert_eq!((run.peak, run.error.as_str()), (Some(bar.total()), ""));
    assert!(run.bytes > 0 && view.history.bytes == run.bytes);
}

#[test]
fn undo_and_redo_go_over_every_change() {
    let mut desk = Desk::new(None);
    desk.until("the model", |v| !v.top.model.name.is_empty());
    let before = desk.session.config().clone();
    for (i, mib) in [40, 30, 20].iter().enumerate() {
        let sets = vec![("budget.device".to_owned(), format!("{mib} MiB"))];
        desk.session.act(Action::Set { what: format!("limit {i}"), sets, gesture: Some(5) });
    }
    desk.set(&[("kv.select", "h2o"), ("kv.budget.ratio", "0.3")]);
    let after = desk.session.config().clone();
    desk.session.act(Action::Undo);
    desk.session.act(Action::Undo);
    assert_eq!(*desk.session.config(), before, "a drag is one step");
    desk.session.act(Action::Redo);
    desk.session.act(Action::Redo);
    assert_eq!(*desk.session.config(), after);
    // What is wrong changes nothing and is said.
    desk.set(&[("run.context", "-3")]);
    assert_eq!(*desk.session.config(), after);
    assert!(desk.failures().iter().any(|f| f.contains("run.context")), "{:?}", desk.failures());
}

#[test]
fn prices_are_known_before_the_click_and_come_true_after_it() {
    let mut desk = Desk::new(None);
    let view = desk.priced();
    let q8 = variant(&view, "kv.format", "q8_0").clone();
    let price = q8.price.unwrap();
    assert!(price.change() < 0, "{price:?}");
    desk.session.act(Action::Set { what: "Precision".into(), sets: q8.sets, gesture: None });
    let view = desk.settled("the new plan", |v| variant(v, "kv.format", "q8_0").chosen);
    let bar = &view.top.predicted.as_ref().unwrap().instants[0].tiers[0].1;
    assert_eq!(bar.total(), price.after);
    // A policy that drops rows is refused where it cannot work, with the reason.
    let all = view.cards.iter().flat_map(|s| &s.cards).flat_map(|c| &c.variants);
    let refused: Vec<_> = all.filter(|v| !v.refused.is_empty()).collect();
    assert!(!refused.is_empty());
    for v in refused {
        assert!(v.refused.len() > 10, "{}: {}", v.id, v.refused);
    }
}

#[test]
fn stopping_is_heard_at_once_and_what_was_done_is_kept() {
    let mut desk = Desk::new(None);
    desk.ready_after(&[
        ("run.max_tokens", "4000"),
        ("run.context", "4096"),
        ("run.ignore_eos", "true"),
        ("budget.device", "unlimited"),
    ]);
    desk.session.act(Action::Run);
    desk.until("tokens", |v| v.text.sequences.first().is_some_and(|s| s.tokens.len() > s.prompt + 5));
    // Pause, one token, go on.
    desk.session.act(Action::Pause);
    let view = desk.until("the pause", |v| v.status.paused);
    let paused = view.text.sequences[0].tokens.len();
    desk.session.act(Action::Step);
    let view = desk.until("one token", |v| v.status.paused && v.text.sequences[0].tokens.len() > paused);
    assert_eq!(view.text.sequences[0].tokens.len(), paused + 1);
    desk.session.act(Action::Resume);
    desk.until("more", |v| !v.status.paused && v.text.sequences[0].tokens.len() > paused + 3);
    desk.session.act(Action::Stop);
    let view = desk.until("the end", |v| !v.status.running);
    assert_eq!(view.text.summary, "stopped");
    assert!(view.text.sequences[0].tokens.len() > paused && !view.timeline.live);
    assert_eq!(desk.failures(), Vec::<String>::new(), "stopping is no failure");
    let view = desk.until("the history", |v| v.history.runs.len() == 1);
    assert!(view.history.runs[0].error.contains("cancelled"));
    // The next run starts as any other.
    desk.ready_after(&SHORT);
    let view = desk.run();
    assert!(view.top.measured.is_some_and(|m| !m.live));
}

#[test]
fn two_runs_stand_side_by_side_reopen_without_a_model_and_go_when_deleted() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    desk.run();
    desk.ready_after(&[("kv.select", "window"), ("kv.budget.rows", "6")]);
    desk.run();
    let view = desk.until("the history", |v| v.history.runs.len() == 2);
    let names = [view.history.runs[1].name.clone(), view.history.runs[0].name.clone()];
    desk.session.act(Action::Compare(Some(names.clone())));
    let view = desk.until("the pair", |v| v.history.pair.is_some());
    let pair = view.history.pair.as_ref().unwrap();
    assert_eq!(pair.names, names);
    let (a, b) = (&pair.text[0].tokens, &pair.text[1].tokens);
    match pair.first_difference {
        Some(at) => assert!(a[..at] == b[..at] && a.get(at) != b.get(at)),
        None => assert_eq!(a, b),
    }
    assert!(pair.choices.iter().any(|(k, [_, v])| k == "kv.select" && v == "window"), "{:?}", pair.choices);
    let peaks: Vec<_> = pair.bars.iter().map(ullage_panels::view::BytesBar::total).collect();
    assert!(peaks[1] < peaks[0], "{peaks:?}");

    // Another start, a model that is not there: the run folder opens all the same.
    let Desk { session, room, .. } = desk;
    drop(session);
    let folder = room.path().join("data/runs").join(&names[0]);
    let text = std::fs::read_to_string(folder.join("config.toml")).unwrap();
    std::fs::write(folder.join("config.toml"), text.replace("bundled:recall", "/gone.gguf")).unwrap();
    let mut desk = Desk::within(room, Some(Start::Path(folder.display().to_string())));
    let view = desk.until("the run", |v| v.text.of_run.is_some());
    assert!(view.text.sequences[0].tokens.len() > view.text.sequences[0].prompt);
    assert!(view.top.measured.is_some() && !view.timeline.moments.is_empty());
    desk.session.act(Action::DeleteRun(names[0].clone()));
    desk.until("the deletion", |v| v.history.runs.len() == 1);
    assert!(!folder.exists());
}

#[test]
fn a_model_that_is_gone_or_damaged_is_a_notice_and_the_window_goes_on() {
    let room = tempfile::tempdir().unwrap();
    let model = room.path().join("mine.gguf");
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bundled/recall.gguf");
    std::fs::copy(&bundled, &model).unwrap();
    let path = model.display().to_string();
    let mut desk = Desk::within(room, Some(Start::Path(path.clone())));
    desk.until("the model", |v| v.top.model.path == path);
    // The file vanishes: what is open still runs or says why; opening it again says why.
    std::fs::remove_file(&model).unwrap();
    desk.ready_after(&SHORT);
    desk.run();
    desk.session.act(Action::Open(path.clone()));
    desk.until("the notice", |v| v.notices.iter().any(|n| n.failure && n.detail.contains("mine.gguf")));
    // Half a file.
    let bytes = std::fs::read(&bundled).unwrap();
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    for n in desk.session.view().notices.clone() {
        desk.session.act(Action::PutAway(n.id));
    }
    desk.session.act(Action::Open(path));
    desk.until("the notice", |v| v.notices.iter().any(|n| n.failure));
    desk.session.act(Action::Open("bundled:recall".into()));
    desk.until("the bundled model", |v| v.top.model.path == "bundled:recall" && v.top.predicted.is_some());
    desk.ready_after(&SHORT);
    assert!(desk.run().top.measured.is_some());
}

#[test]
fn what_is_remembered_comes_back_and_a_damaged_file_is_a_notice() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    desk.set(&[("kv.format", "q8_0")]);
    let config = desk.session.config().clone();
    desk.session.remember(Some([900.0, 700.0]), Some([10.0, 20.0]), serde_json::json!({ "tab": 3 }));
    desk.session.close();
    let room = desk.room;
    let mut desk = Desk::within(room, None);
    assert_eq!(*desk.session.config(), config);
    let view = desk.until("the model", |v| !v.top.model.name.is_empty());
    assert_eq!(view.top.recent[0].path, "bundled:recall");
    desk.session.close();
    let file = store::file(&desk.room.path().join("data"));
    std::fs::write(&file, b"{ damaged").unwrap();
    let mut desk = Desk::within(desk.room, None);
    let view = desk.until("the model", |v| !v.top.model.name.is_empty());
    assert!(view.notices.iter().any(|n| n.detail.contains("window.json")), "{:?}", view.notices);
}

#[test]
fn a_sweep_is_a_line_of_points_planned_before_they_are_run() {
    let mut desk = Desk::new(None);
    let view = desk.ready_after(&[("budget.device", "unlimited"), ("run.context", "512"), ("run.max_tokens", "8")]);
    let sweep = view.accuracy.sweeps.iter().find(|(name, _)| name.contains("H2O")).unwrap();
    assert!(sweep.1.len() >= 3);
    // A short one of the same kind.
    let measure = ("eval.recall".to_owned(), "{ pairs = 8, questions = 4, samples = 1 }".to_owned());
    let point = |ratio: &str| {
        vec![
            ("kv.select".to_owned(), "h2o".to_owned()),
            ("kv.budget.ratio".to_owned(), ratio.to_owned()),
            measure.clone(),
        ]
    };
    desk.session.act(Action::Sweep { name: "short".into(), points: vec![point("0.1"), point("0.5"), point("0.9")] });
    let view = desk.until("planned points", |v| v.accuracy.series.iter().any(|s| s.dots.iter().any(|d| d.planned)));
    assert!(view.status.queued > 0);
    let view = desk.until("the sweep", |v| {
        !v.status.running
            && v.accuracy
                .series
                .iter()
                .any(|s| s.name == "short" && s.dots.len() == 3 && s.dots.iter().all(|d| !d.planned))
    });
    let line = view.accuracy.series.iter().find(|s| s.name == "short").unwrap();
    assert!(line.dots.is_sorted_by(|a, b| a.bytes < b.bytes), "{line:?}");
    assert_eq!(view.accuracy.axes[0].label, "recall");
    for dot in &line.dots {
        let (_, value) = &dot.values[0];
        assert!((0.0..=1.0).contains(value) && !dot.run.is_empty() && !dot.sets.is_empty());
    }
    // Points that do not fit are said together, and the others are run.
    desk.set(&[("budget.device", "9 MiB")]);
    desk.session.act(Action::Sweep { name: "tight".into(), points: vec![point("0.95"), point("0.05"), point("1")] });
    let view = desk.until("the tight sweep", |v| {
        !v.status.running && v.status.queued == 0 && v.accuracy.series.iter().any(|s| s.name == "tight")
    });
    let notice = view.notices.iter().find(|n| n.title.starts_with("tight")).unwrap();
    assert!(!notice.failure && notice.detail.lines().count() == 2, "{notice:?}");
    for n in view.notices {
        desk.session.act(Action::PutAway(n.id));
    }
    desk.set(&[("budget.device", "unlimited")]);
    // What was measured is said on the card that chooses it.
    desk.ready_after(&[("kv.select", "h2o"), ("kv.budget.ratio", "0.5")]);
    let view = desk.priced();
    assert!(variant(&view, "kv.select", "h2o").accuracy.contains("recall"), "{:?}", variant(&view, "kv.select", "h2o"));
}

#[test]
fn closing_while_a_run_goes_on_keeps_what_it_did() {
    let mut desk = Desk::new(None);
    desk.ready_after(&[
        ("run.max_tokens", "4000"),
        ("run.context", "4096"),
        ("run.ignore_eos", "true"),
        ("budget.device", "unlimited"),
    ]);
    desk.session.act(Action::Run);
    desk.until("tokens", |v| v.text.sequences.first().is_some_and(|s| s.tokens.len() > s.prompt + 5));
    desk.session.close();
    let runs = desk.room.path().join("data/runs");
    let folder = std::fs::read_dir(runs).unwrap().next().unwrap().unwrap().path();
    let live = ullage::window::history::replay(&folder).unwrap();
    assert!(live.written[0].tokens.len() > live.written[0].prompt + 5);
    assert!(folder.join("report.json").is_file(), "the folder is whole");
}

/// The step of the training state at `path`.
fn state_of(path: &Path) -> Option<u64> {
    ullage_core::train::state::Saved::open(path).unwrap().map(|saved| saved.standing.step)
}

#[test]
fn closing_while_a_training_runs_waits_for_its_last_step_and_says_so() {
    let mut desk = Desk::new(None);
    let out = desk.room.path().join("out");
    desk.ready_after(&SHORT);
    desk.session.act(Action::Mode("train".into()));
    desk.set(&[
        ("train.steps", "1000000"),
        ("train.batch", "1"),
        ("train.length", "16"),
        ("train.validation", "0.1"),
        ("train.samples", "0"),
        ("train.out", &out.display().to_string()),
        ("budget.device", "unlimited"),
    ]);
    desk.settled("the plan of training", |v| v.status.blocked.is_empty());
    assert!(desk.session.leave(), "nothing goes on: nothing to wait for");
    desk.session.act(Action::Run);
    desk.until("two steps", |v| v.learning.as_ref().and_then(|l| l.run.as_ref()).is_some_and(|c| c.loss.len() > 2));
    let file = out.join("training_state.safetensors");
    assert_eq!(state_of(&file), None, "nothing was saved before");
    assert!(!desk.session.leave(), "the run is to be waited for");
    let view = desk.session.view();
    assert!(view.status.running && view.status.doing.contains("saving"), "{:?}", view.status);
    // Frames go on; the window closes itself once the run is over.
    let start = std::time::Instant::now();
    while !desk.session.left() {
        desk.session.tick();
        assert!(start.elapsed().as_secs() < 100, "{:?}", desk.session.view().status);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let learning = desk.session.view().learning.clone().unwrap();
    let told = learning.run.as_ref().unwrap().loss.last().unwrap().step;
    assert_eq!(state_of(&file), Some(told), "the last step that was told is on the disk");
    assert!(desk.session.leave(), "and the next request closes");
    desk.session.close();
}

#[test]
fn closing_again_does_not_wait() {
    let mut desk = Desk::new(None);
    let long = [("run.max_tokens", "4000"), ("run.context", "4096"), ("run.ignore_eos", "true")];
    desk.ready_after(&[&long[..], &[("budget.device", "unlimited")]].concat());
    desk.writing();
    assert!(!desk.session.leave());
    assert!(desk.session.leave(), "asked once more");
    desk.session.close();
}

#[test]
fn what_has_no_effect_and_what_to_be_wary_of_is_told_with_the_plan() {
    let mut desk = Desk::new(None);
    let view = desk.ready_after(&SHORT);
    assert_eq!(view.top.notes, Vec::<String>::new());
    desk.set(&[("train.steps", "3"), ("train.data", "random"), ("kv.select", "h2o"), ("kv.budget.ratio", "0.5")]);
    let view = desk.settled("the notes", |v| !v.top.notes.is_empty());
    let expected = desk.session.config().without_effect();
    assert!(view.top.notes.iter().any(|n| n.contains("kv.select")), "{:?}", view.top.notes);
    assert!(expected.iter().all(|note| view.top.notes.contains(note)), "{:?} {expected:?}", view.top.notes);
    desk.session.act(Action::Mode("generate".into()));
    desk.set(&[("run.context", "1000000"), ("kv.select", "full"), ("kv.budget", "")]);
    let view = desk.settled("the caution", |v| v.top.notes.iter().any(|n| n.contains("run.context = 1000000")));
    assert!(!view.top.notes.iter().any(|n| n.contains("kv.select")), "{:?}", view.top.notes);
}

#[test]
fn a_run_that_cannot_be_saved_goes_on_and_says_so() {
    let room = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(room.path().join("data")).unwrap();
    // A file where the folder of runs would be.
    std::fs::write(room.path().join("data/runs"), b"").unwrap();
    let mut desk = Desk::within(room, None);
    desk.ready_after(&SHORT);
    let view = desk.run();
    assert!(
        view.notices.iter().any(|n| n.title == "The run is not saved" && n.detail.contains("runs")),
        "{:?}",
        view.notices
    );
    assert!(view.top.measured.is_some() && view.text.sequences[0].tokens.len() > view.text.sequences[0].prompt);
}

#[test]
fn a_conversation_has_a_history_that_can_be_changed() {
    let mut desk = Desk::new(None);
    desk.ready_after(&[
        ("run.chat", "true"),
        ("run.max_tokens", "12"),
        ("budget.device", "unlimited"),
        ("run.prompt", "\"\""),
    ]);
    let mut say = |action: Action| {
        desk.settled("the plan", |v| !v.status.running);
        desk.session.act(action);
        desk.settled("the answer", |v| {
            !v.status.running && v.text.sequences.first().is_some_and(|s| !s.stop.is_empty())
        });
        let view = desk.session.view();
        let answer = view.text.sequences[0].tokens[view.text.sequences[0].prompt..]
            .iter()
            .map(|t| t.text.as_str())
            .collect::<String>();
        (view.text.turns.clone(), view.text.prompt.clone(), answer)
    };
    let fox = "Tell me a story about a fox.";
    let (turns, prompt, first) = say(Action::Say(fox.into()));
    let said = |turns: &[ullage_panels::view::Turn]| turns.iter().map(|t| t.content.clone()).collect::<Vec<_>>();
    assert_eq!((said(&turns), prompt.as_str()), (vec![fox.to_owned(), first.clone()], fox));
    assert!(!first.is_empty());
    let (turns, prompt, second) = say(Action::Say("And a lamb.".into()));
    assert_eq!(said(&turns), [fox, &first, "And a lamb.", &second]);
    assert_eq!(prompt, "And a lamb.");
    let (turns, prompt, again) = say(Action::EditTurn { turn: 0, content: fox.into() });
    assert_eq!(
        (turns.len(), prompt.as_str(), again.as_str()),
        (2, fox, first.as_str()),
        "what came after is forgotten"
    );
    let (turns, _, again) = say(Action::Regenerate);
    assert_eq!((turns.len(), again), (2, first), "greedy: the same answer");
    desk.session.act(Action::ClearChat);
    let view = desk.session.view();
    assert!(view.text.turns.is_empty() && view.text.sequences.is_empty() && view.text.prompt.is_empty());
    assert_eq!(desk.failures(), Vec::<String>::new());
}

#[test]
fn one_head_is_kept_whole_when_it_is_watched() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    desk.session.act(Action::WatchHead(Some((2, 5))));
    assert_eq!(desk.session.view().attention.chosen, Some((2, 5)));
    let view = desk.run();
    let map = view.attention.map.as_ref().unwrap();
    let tokens = view.text.sequences[0].tokens.len();
    // Every token but the last was a query, and saw no later one.
    assert_eq!((map.head, map.queries.len(), map.columns), ((2, 5), tokens - 1, tokens - 1));
    for q in 0..map.queries.len() {
        let sum: f32 = (0..map.columns).map(|c| map.weight(q, c)).sum();
        assert!((sum - 1.0).abs() < 0.05, "query {q}: weights sum to {sum}");
        assert!((0..map.columns).all(|c| map.held(q, c) == (c <= q)));
    }
    desk.session.act(Action::WatchHead(None));
    assert_eq!(desk.session.view().attention.chosen, None);
}

#[test]
fn a_familiar_card_is_planned_for_but_not_run_on() {
    let mut desk = Desk::new(None);
    let view = desk.ready_after(&SHORT);
    let here = view.top.predicted_speed.unwrap().1;
    let tick = view.top.limit.ticks.iter().find(|t| t.label.contains("RTX 4090")).unwrap();
    desk.session.act(Action::PlanFor(tick.device.clone().unwrap()));
    let view = desk.settled("the plan", |v| v.top.predicted_speed.is_some_and(|(_, s)| s != here));
    assert!(view.top.predicted_speed.unwrap().1 > 5.0 * here);
    assert!(view.status.blocked.contains("plan for"), "{}", view.status.blocked);
    assert_eq!(view.top.devices.iter().filter(|d| d.chosen).count(), 1);
    desk.session.act(Action::Run);
    assert!(!desk.session.view().status.running);
    desk.session.act(Action::PlanFor(String::new()));
    desk.settled("this machine", |v| v.status.blocked.is_empty());
}

/// Latent attention as DeepSeek-V2 describes it, smaller: 576 elements a token in each of 4 layers.
const LATENT: &str = r#"{"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000, "intermediate_size": 512,
    "kv_lora_rank": 512, "q_lora_rank": null, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "moe_intermediate_size": 64, "n_routed_experts": null}"#;

#[test]
fn a_model_that_is_only_planned_has_its_bar_and_says_why_it_does_not_run() {
    let room = tempfile::tempdir().unwrap();
    let config = room.path().join("config.json");
    std::fs::write(&config, LATENT).unwrap();
    let mut desk = Desk::within(room, None);
    desk.ready_after(&SHORT);
    let path = config.display().to_string();
    desk.session.act(Action::Open(path.clone()));
    let kv = |view: &View| {
        let bars = view.top.predicted.as_ref().unwrap();
        let (tier, bar) = &bars.instants[0].tiers[0];
        assert_eq!((*tier, bars.instants.len()), (Tier::Device, 1));
        let of = |label: &str| bar.segments.iter().find(|s| s.label == label).map_or(0, |s| s.bytes);
        (of("KV cache"), bar.segments.iter().map(|s| s.label.clone()).collect::<Vec<_>>())
    };
    let sets = |context: &str| vec![("run.context".to_owned(), context.to_owned())];
    desk.session.act(Action::Set { what: "Context".into(), sets: sets("1000"), gesture: None });
    let view = desk.settled("the outline", |v| v.top.model.path == path && v.top.predicted.is_some());
    assert!(view.top.model.detail.contains("only planned"), "{}", view.top.model.detail);
    assert!(view.status.blocked.contains("planned, not run"), "{}", view.status.blocked);
    assert!(view.top.notes.iter().any(|n| n.contains("from its description alone")), "{:?}", view.top.notes);
    assert_eq!(kv(&view).0, 576 * 4 * 1000 * 2, "{:?}", kv(&view));
    assert_eq!(desk.failures(), Vec::<String>::new());
    // The knobs that matter to it act; what runs, does not begin.
    desk.session.act(Action::Set { what: "Context".into(), sets: sets("3000"), gesture: None });
    let view = desk.settled("the longer context", |v| kv(v).0 == 576 * 4 * 3000 * 2);
    assert!(view.cards.is_empty(), "nothing to choose of what is not computed");
    desk.session.act(Action::Run);
    assert!(!desk.session.view().status.running);
    // And back to one that runs.
    desk.session.act(Action::Open("bundled:recall".into()));
    desk.settled("the bundled model", |v| v.top.model.path == "bundled:recall" && !v.cards.is_empty());
    desk.ready_after(&SHORT);
    assert!(desk.run().top.measured.is_some());
}

#[test]
fn training_data_are_shown_before_they_are_learned() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("talks.jsonl");
    let record = |a: &str, b: &str| format!("{{\"prompt\": \"{a}\", \"completion\": \"{b}\"}}\n");
    std::fs::write(&file, record("What is it?", "A bottle.") + &record("And in it?", "Wine. 葡萄酒")).unwrap();
    let set = |key: &str, value: String| (key.to_owned(), value);
    let mut desk = Desk::within(room, None);
    desk.ready_after(&SHORT);
    assert!(desk.session.view().data.is_none());
    let data =
        vec![set("train.data", format!("{:?}", file.display().to_string())), set("train.validation", "0".into())];
    desk.session.act(Action::Set { what: "Data".into(), sets: data, gesture: None });
    let view = desk.until("the data", |v| v.data.as_ref().is_some_and(|d| !d.first.is_empty() && !d.reading));
    let data = view.data.unwrap();
    assert!(data.summary.contains("JSON lines, 2 records. 2 documents"), "{}", data.summary);
    let learned: String = data.first[1].text.iter().filter(|(_, learned)| *learned).map(|(t, _)| t.as_str()).collect();
    let read: String = data.first[1].text.iter().filter(|(_, learned)| !*learned).map(|(t, _)| t.as_str()).collect();
    assert!(learned.contains("Wine. 葡萄酒") && !learned.contains("And in it?"), "{learned:?}");
    assert!(read.contains("And in it?") && !read.contains("Wine"), "{read:?}");
    // Read in another way, it is another text that is learned.
    desk.session.act(Action::Set {
        what: "Loss".into(),
        sets: vec![set("train.loss_on", "\"all\"".into())],
        gesture: None,
    });
    let all = |v: &View| v.data.as_ref().is_some_and(|d| !d.reading && d.first[1].learned > data.first[1].learned);
    desk.until("all of it", all);
    // What is wrong is said in its place.
    std::fs::write(&file, "{\"prompt\": 3}\n").unwrap();
    desk.session.act(Action::Set { what: "Loss".into(), sets: vec![set("train.length", "64".into())], gesture: None });
    let view = desk.until("the error", |v| v.data.as_ref().is_some_and(|d| !d.wrong.is_empty()));
    assert!(view.data.unwrap().wrong.contains("talks.jsonl:1"));
    // What is made has rows.
    desk.session.act(Action::Set {
        what: "Data".into(),
        sets: vec![set("train.data", "\"random\"".into())],
        gesture: None,
    });
    let view = desk.until("rows", |v| v.data.as_ref().is_some_and(|d| d.what == "row"));
    assert_eq!(view.data.unwrap().first[0].tokens, 64);
}

#[test]
fn a_hugging_face_folder_opens_as_a_model_by_itself_and_by_its_files() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/arch/llama");
    for file in ["", "config.json", "model.safetensors"] {
        let path = fixture.join(file).display().to_string();
        let mut desk = Desk::new(Some(Start::Path(path.clone())));
        let view = desk.settled("the folder", |v| v.top.model.path == path && v.top.predicted.is_some());
        assert!(view.top.model.detail.starts_with("llama"), "{}", view.top.model.detail);
        // It has no tokenizer, and that is all that keeps it from running.
        assert!(!view.status.blocked.contains("no weights"), "{}", view.status.blocked);
    }
}

#[test]
fn a_curve_measured_elsewhere_is_drawn_with_its_machine() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    let path = desk.room.path().join("server.csv");
    std::fs::write(&path, "label,bytes,recall.accuracy,machine\nh2o 0.2,7000000,0.5,H200\nall,12000000,0.99,H200\n")
        .unwrap();
    desk.session.act(Action::Open(path.display().to_string()));
    let view = desk.until("the curve", |v| v.accuracy.series.iter().any(|s| s.name == "server"));
    let line = view.accuracy.series.iter().find(|s| s.name == "server").unwrap();
    assert_eq!((line.machine.as_str(), line.dots.len(), line.dots[0].label.as_str()), ("H200", 2, "h2o 0.2"));
    assert_eq!(view.accuracy.axes[0].label, "recall");
}

#[test]
fn fine_tuning_is_a_mode_with_choices_prices_and_runs_of_its_own() {
    let mut desk = Desk::new(None);
    desk.ready_after(&SHORT);
    let before = desk.session.config().clone();
    desk.session.act(Action::Mode("train".into()));
    desk.set(&[
        ("train.steps", "3"),
        ("train.batch", "2"),
        ("train.length", "48"),
        ("train.validation", "0.1"),
        ("train.validate_rows", "4"),
    ]);
    let view = desk.settled("the plan of training", |v| v.top.predicted.is_some() && v.status.blocked.is_empty());
    assert!(view.modes.iter().any(|m| m.id == "train" && m.chosen));
    let cards: Vec<&str> = view.cards.iter().flat_map(|s| &s.cards).map(|c| c.key.as_str()).collect();
    assert!(cards.contains(&"train.params") && !cards.iter().any(|key| key.starts_with("kv.")), "no cache: {cards:?}");
    let keys: Vec<_> = view.top.workload.iter().map(|f| (f.key.as_str(), f.value)).collect();
    assert_eq!(keys, [("train.batch", 2), ("train.length", 48), ("train.steps", 3)]);
    // Without a limit the most that is looked for fits; under one, fewer rows.
    let open = view.top.workload[0].fits.unwrap();
    let peak = view.top.predicted.as_ref().unwrap().instants[0].tiers[0].1.total();
    desk.set(&[("budget.device", &format!("{peak} B"))]);
    let view = desk.settled("the inverse", |v| v.top.workload[0].fits.is_some_and(|n| n < open));
    assert_eq!(view.top.workload[0].fits, Some(2));
    // Learning everything costs gradients and optimizer state: its price says so before the click.
    let full = variant(&view, "train.params", "full");
    assert!(full.price.is_some_and(|p| p.change() > 0 && !p.fits), "{:?} {}", full.price, full.refused);
    let view = desk.run();
    assert_eq!(desk.failures(), Vec::<String>::new());
    let bar = |bars: &Option<ullage_panels::view::Bars>| bars.as_ref().unwrap().instants[0].tiers[0].1.total() as i64;
    let gap = bar(&view.top.predicted) - bar(&view.top.measured);
    assert!((0..=(peak / 50).max(256 << 10) as i64).contains(&gap), "gap {gap}");
    assert!(view.text.summary.contains("3 steps") && view.text.summary.contains("held out"), "{}", view.text.summary);
    assert!(view.status.speed.is_some_and(|s| s > 0.0) && !view.timeline.moments.is_empty());
    let view = desk.until("the history", |v| v.history.runs.len() == 1);
    assert!(view.history.runs[0].accuracy.contains("held out"), "{:?}", view.history.runs[0]);
    // Back to generating, and to training as it was left.
    let train = desk.session.config().train.clone();
    desk.session.act(Action::Mode("generate".into()));
    assert_eq!(desk.session.config().train, None);
    assert_eq!(desk.session.config().run, before.run);
    desk.session.act(Action::Mode("train".into()));
    assert_eq!(desk.session.config().train, train);
    let text = desk.exported();
    assert_eq!(from_toml(&text, &[]).unwrap(), *desk.session.config());
}
