//! The workbench driven as a person or a screen reader does: by the names and roles of what is on screen.
#![allow(clippy::unwrap_used, reason = "tests")]

mod samples;

use std::sync::Arc;

use egui::{Key, Modifiers, Role, vec2};
use egui_kittest::kittest::{NodeT, Queryable};
use egui_kittest::{Harness, Node};
use samples::{GIB, MIB};
use ullage_panels::view::{Card, Kind, Mode, Price, Section, Sets, Variant, View};
use ullage_panels::{Action, Workbench, theme};

struct Bench {
    workbench: Workbench,
    view: View,
    actions: Vec<Action>,
}

fn harness(view: View) -> Harness<'static, Bench> {
    let bench = Bench { workbench: Workbench::default(), view, actions: Vec::new() };
    let mut harness = Harness::builder()
        .with_size(vec2(1280.0, 800.0))
        .with_max_steps(20)
        .with_context_setup(theme::install)
        .build_ui_state(|ui, bench: &mut Bench| bench.actions.extend(bench.workbench.show(ui, &bench.view)), bench);
    harness.run();
    harness
}

fn taken(harness: &mut Harness<'static, Bench>) -> Vec<Action> {
    std::mem::take(&mut harness.state_mut().actions)
}

fn sets(action: &Action) -> &Sets {
    match action {
        Action::Set { sets, .. } => sets,
        other => panic!("not a change: {other:?}"),
    }
}

fn slider<'a>(harness: &'a Harness<'static, Bench>) -> Node<'a> {
    harness.get_by_role_and_label(Role::Slider, "Memory limit")
}

fn limit_of(action: &Action) -> u64 {
    match sets(action).as_slice() {
        [(key, value)] if key == "budget.device" => ullage_panels::words::read_bytes(value).unwrap(),
        other => panic!("not the limit: {other:?}"),
    }
}

#[test]
fn notes_of_the_plan_stand_below_it() {
    let mut view = samples::view();
    let notes = ["run.context = 1000000 is more than the model was trained for", "kv.select has no effect here"];
    view.top.notes = notes.map(str::to_owned).to_vec();
    let harness = harness(view);
    for note in notes {
        let said = format!("Note: {note}");
        let node = harness.get_by_role_and_label(Role::Label, &said);
        assert!(node.rect().height() > 10.0 && node.rect().top() > slider(&harness).rect().bottom());
    }
}

#[test]
fn dragging_the_limit_sets_it_all_along_as_one_gesture() {
    let mut harness = harness(samples::view());
    let rect = slider(&harness).rect();
    assert_eq!(slider(&harness).value().as_deref(), Some("192 MiB"));
    let at = |share: f32| egui::pos2(rect.left() + 10.0 + (rect.width() - 20.0) * share, rect.center().y);
    harness.drag_at(at(0.3));
    harness.step();
    for share in [0.4, 0.5, 0.9] {
        harness.hover_at(at(share));
        harness.step();
    }
    harness.drop_at(at(0.9));
    harness.run();
    let actions = taken(&mut harness);
    let limits: Vec<u64> = actions.iter().map(limit_of).collect();
    assert!(limits.len() >= 3 && limits.is_sorted(), "{limits:?}");
    // From 16 MiB to 96 GiB are 12.6 octaves.
    let expected = (16.0 * MIB as f64) * (0.9 * (96.0 * 64.0f64).log2()).exp2();
    let last = *limits.last().unwrap() as f64;
    assert!((last / expected - 1.0).abs() < 0.05, "{last} of {expected}");
    let gestures: Vec<Option<u64>> =
        actions.iter().map(|a| if let Action::Set { gesture, .. } = a { *gesture } else { None }).collect();
    assert!(gestures[0].is_some() && gestures.iter().all(|g| *g == gestures[0]), "{gestures:?}");
}

#[test]
fn arrows_nudge_the_limit_and_shift_does_so_coarsely() {
    let mut harness = harness(samples::view());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::L);
    harness.run();
    harness.key_press(Key::ArrowRight);
    harness.run();
    assert_eq!(taken(&mut harness).iter().map(limit_of).collect::<Vec<_>>(), [196 * MIB]);
    harness.key_press_modifiers(Modifiers::SHIFT, Key::ArrowLeft);
    harness.run();
    assert_eq!(taken(&mut harness).iter().map(limit_of).collect::<Vec<_>>(), [160 * MIB]);
    harness.key_press(Key::End);
    harness.run();
    assert_eq!(taken(&mut harness).iter().map(limit_of).collect::<Vec<_>>(), [96 * GIB]);
    slider(&harness).set_value_accesskit(268_435_456.0);
    harness.run();
    assert_eq!(taken(&mut harness).iter().map(limit_of).collect::<Vec<_>>(), [256 * MIB]);
}

#[test]
fn the_limit_can_be_typed_and_nonsense_changes_nothing() {
    let mut harness = harness(samples::view());
    for (text, expected) in [("1.5g", Some(1536 * MIB)), ("nonsense", None)] {
        harness.get_by_label("Memory limit as text").focus();
        harness.run();
        harness.key_press_modifiers(Modifiers::COMMAND, Key::A);
        harness.get_by_label("Memory limit as text").type_text(text);
        harness.run();
        harness.key_press(Key::Enter);
        harness.run();
        let limits: Vec<u64> = taken(&mut harness).iter().map(limit_of).collect();
        assert_eq!(limits, expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
    assert_eq!(harness.get_by_label("Memory limit as text").value().as_deref(), Some("192 MiB"));
}

#[test]
fn a_card_on_the_scale_brings_its_memory_and_its_bandwidth() {
    let mut harness = harness(samples::view());
    harness.get_by_label("Set the memory limit to H100").click();
    harness.run();
    let actions = taken(&mut harness);
    assert_eq!(actions[0], Action::PlanFor("H100".into()));
    assert_eq!(limit_of(&actions[1]), 80 * GIB);
}

#[test]
fn the_way_back_is_one_click() {
    let view = samples::view();
    let way = view.top.way_back.clone().unwrap();
    let mut harness = harness(view);
    harness.get_by_label("Do it: Keep 20 % of tokens (H2O)").click();
    harness.run();
    let actions = taken(&mut harness);
    assert_eq!(actions.iter().map(sets).collect::<Vec<_>>(), [&way.sets]);
}

#[test]
fn the_longest_context_that_fits_can_be_taken() {
    let mut harness = harness(samples::view());
    harness.get_by_label("Context: take the most that fits, 3,640").click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("run.context".to_owned(), "3640".to_owned())]);
}

#[test]
fn a_variant_says_its_price_and_is_chosen_by_a_click() {
    let mut harness = harness(samples::view());
    let node = harness.get_by_label("Tokens to keep: Heavy hitters (H2O)");
    assert_eq!(node.value().as_deref(), Some("293 → 149 MiB, −144 MiB, fits"));
    node.click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("kv.select".to_owned(), "h2o".to_owned())]);
    // What is refused says why and cannot be chosen; what is rare shows when asked for.
    assert!(harness.query_by_label("Tokens to keep: Scissorhands").is_none());
    harness.get_by_label("Tokens to keep: All techniques (1 more)").click();
    harness.run();
    harness.get_by_label("Tokens to keep: Scissorhands");
    let refused = harness.get_by_label("Tokens to keep: Pyramid");
    assert!(refused.accesskit_node().is_disabled());
    assert!(refused.value().unwrap().contains("one attention pattern"));
    refused.click();
    harness.run();
    assert_eq!(taken(&mut harness), []);
}

/// An axis nobody has heard of: every kind of knob, a long title, no price.
fn invented() -> Section {
    let knobs = vec![
        samples::knob("spin.flux.n", "Turns", Kind::Int { min: 1, max: 9 }, "3", "2", "turns"),
        samples::knob("spin.flux.share", "Share", Kind::Float { min: 0.0, max: 1.0 }, "0.5", "0.5", ""),
        samples::knob("spin.flux.fast", "Fast", Kind::Bool, "false", "false", ""),
        samples::knob("spin.flux.way", "Way", Kind::Word(vec!["left".into(), "right".into()]), "left", "left", ""),
        samples::knob("spin.flux.file", "File", Kind::Text, "", "", ""),
    ];
    let flux = Variant {
        id: "flux".into(),
        title: "Flux of a title that is much too long for the width of any panel there could be".into(),
        chosen: true,
        common: true,
        knobs,
        ..Variant::default()
    };
    let still = Variant {
        id: "still".into(),
        title: "Still".into(),
        common: true,
        sets: vec![("spin".into(), "still".into())],
        price: Some(Price { before: 5, after: 2, ..Price::default() }),
        ..Variant::default()
    };
    let card = Card { key: "spin".into(), title: "Spin".into(), variants: vec![flux, still], ..Card::default() };
    Section { title: "Invented".into(), cards: vec![card] }
}

#[test]
fn a_card_made_of_any_data_draws_and_works() {
    let mut harness = harness(View { cards: std::sync::Arc::new(vec![invented()]), ..samples::view() });
    harness.get_by_label("Spin: Still").click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("spin".to_owned(), "still".to_owned())]);
    let title = invented().cards[0].variants[0].title.clone();
    harness.get_by_label(&format!("{title}: Advanced (5)")).click();
    harness.run();
    for label in ["Turns", "Share", "Fast", "Way", "File"] {
        assert_eq!(harness.get_all_by_label(label).count(), 1, "{label}");
    }
    harness.get_by_label("Fast").click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("spin.flux.fast".to_owned(), "true".to_owned())]);
    harness.get_by_label("Turns: back to the default").click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("spin.flux.n".to_owned(), String::new())]);
    harness.get_by_label("File").focus();
    harness.run();
    harness.get_by_label("File").type_text("notes.jsonl");
    harness.run();
    assert_eq!(taken(&mut harness), [], "nothing is said before it is complete");
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("spin.flux.file".to_owned(), "notes.jsonl".to_owned())]);
    harness.get_by_label("Way").click();
    harness.run();
    harness.get_by_label("right").click();
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("spin.flux.way".to_owned(), "right".to_owned())]);
}

#[test]
fn the_mode_switch_shows_what_there_is() {
    let mut harness = harness(samples::view());
    assert!(harness.query_by_label("Fine-tune").is_none());
    let mode = |id: &str, label: &str, chosen| Mode { id: id.into(), label: label.into(), chosen, ..Mode::default() };
    harness.state_mut().view.modes = vec![mode("generate", "Generate", true), mode("train", "Fine-tune", false)];
    harness.run();
    harness.get_by_label("Fine-tune").click();
    harness.run();
    assert_eq!(taken(&mut harness), [Action::Mode("train".into())]);
}

#[test]
fn a_stretch_of_a_bar_opens_the_card_that_governs_it() {
    let mut harness = harness(samples::view());
    assert!(harness.query_by_label("Precision: q8_0").is_none(), "closed");
    harness.get_by_label("Predicted KV cache, 180 MiB, 61.5 %").click();
    harness.run();
    harness.get_by_label("Precision: q8_0");
}

#[test]
fn a_command_is_found_by_a_few_letters() {
    let mut harness = harness(samples::view());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::K);
    harness.run();
    harness.get_by_label("Command").type_text("prec q8");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(sets(&taken(&mut harness)[0]), &[("kv.format".to_owned(), "q8_0".to_owned())]);
    assert!(harness.query_by_label("Command").is_none(), "closed");
    harness.key_press_modifiers(Modifiers::COMMAND, Key::K);
    harness.run();
    harness.get_by_label("Command").type_text("show hist");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(harness.state().workbench.tab, "history");
    assert_eq!(taken(&mut harness), []);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::K);
    harness.run();
    harness.key_press(Key::Escape);
    harness.run();
    assert!(harness.query_by_label("Command").is_none());
}

#[test]
fn the_keyboard_runs_pauses_undoes_and_changes_the_picture() {
    let mut harness = harness(samples::view());
    let press = |harness: &mut Harness<'static, Bench>, modifiers, key| {
        harness.key_press_modifiers(modifiers, key);
        harness.run();
        taken(harness)
    };
    assert_eq!(press(&mut harness, Modifiers::NONE, Key::Space), [Action::Run]);
    harness.state_mut().view.status = samples::running();
    assert_eq!(press(&mut harness, Modifiers::NONE, Key::Space), [Action::Pause]);
    harness.state_mut().view.status.paused = true;
    assert_eq!(press(&mut harness, Modifiers::NONE, Key::Space), [Action::Resume]);
    assert_eq!(press(&mut harness, Modifiers::COMMAND, Key::Z), [Action::Undo]);
    assert_eq!(press(&mut harness, Modifiers::COMMAND | Modifiers::SHIFT, Key::Z), [], "nothing to redo");
    harness.state_mut().view.status.redo = Some("it".into());
    assert_eq!(press(&mut harness, Modifiers::COMMAND | Modifiers::SHIFT, Key::Z), [Action::Redo]);
    assert_eq!(press(&mut harness, Modifiers::COMMAND, Key::O), [Action::OpenDialog]);
    assert_eq!(press(&mut harness, Modifiers::COMMAND, Key::E), [Action::ExportDialog]);
    let tabs = ["text", "timeline", "attention", "accuracy", "where", "history"];
    for (tab, key) in tabs.into_iter().zip([Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6]) {
        assert_eq!(press(&mut harness, Modifiers::COMMAND, key), []);
        assert_eq!(harness.state().workbench.tab, tab);
    }
    // In a text field, space and undo are the field's.
    harness.get_by_label("Memory limit as text").focus();
    harness.run();
    assert_eq!(press(&mut harness, Modifiers::NONE, Key::Space), []);
    assert_eq!(press(&mut harness, Modifiers::COMMAND, Key::Z), []);
    harness.key_press(Key::Escape);
    harness.run();
    harness.key_press(Key::F1);
    harness.run();
    harness.get_by_label("Close").click();
    harness.run();
    assert!(harness.query_by_label("Close").is_none());
}

#[test]
fn run_is_not_possible_while_something_stands_against_it() {
    let mut view = samples::view();
    view.status.blocked = "Over the memory limit by 100 MiB".into();
    Arc::make_mut(&mut view.text).blocked = view.status.blocked.clone();
    let mut harness = harness(view);
    // One below the pictures, one in the empty picture.
    assert_eq!(harness.query_all_by_label("Run").count(), 2);
    harness.query_all_by_label("Run").for_each(|run| run.click());
    harness.key_press(Key::Space);
    harness.run();
    assert_eq!(taken(&mut harness), []);
    let off: Vec<bool> = harness.query_all_by_label("Run").map(|run| run.accesskit_node().is_disabled()).collect();
    assert_eq!(off, [true; 2]);
}

#[test]
fn a_notice_offers_what_helps_and_goes_away() {
    let mut harness = harness(View { notices: vec![samples::over_budget()], ..samples::view() });
    harness.get_by_label("Keep 20 % of tokens").click();
    harness.run();
    let actions = taken(&mut harness);
    assert_eq!(sets(&actions[0]), &[("kv.select".to_owned(), "h2o".to_owned())]);
    assert_eq!(actions[1], Action::PutAway(7));
    harness.get_by_label("Put away: The run stopped at the memory limit").click();
    harness.run();
    assert_eq!(taken(&mut harness), [Action::PutAway(7)]);
}

#[test]
fn models_open_from_the_menu_by_path_and_from_the_palette() {
    let mut harness = harness(samples::view());
    harness.get_by_label("Model: SmolLM2-135M-Instruct Q4_1").click();
    harness.run();
    harness.get_by_label("Open Qwen2.5-7B-Instruct.Q4_K_M.gguf").click();
    harness.run();
    assert_eq!(taken(&mut harness), [Action::Open("/models/Qwen2.5-7B-Instruct.Q4_K_M.gguf".into())]);
    harness.get_by_label("Model: SmolLM2-135M-Instruct Q4_1").click();
    harness.run();
    harness.get_by_label("Path to open").focus();
    harness.run();
    harness.get_by_label("Path to open").type_text("~/x.gguf");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), [Action::Open("~/x.gguf".into())]);
}

#[test]
fn about_follows_what_is_pointed_at() {
    let mut harness = harness(samples::view());
    harness.get_by_label("Tokens to keep: Heavy hitters (H2O)").hover();
    harness.run();
    assert!(harness.query_all_by_label_contains("Zhang et al. 2023").count() > 0);
    harness.get_by_label("Fold the About panel").click();
    harness.run();
    assert!(harness.query_by_label("Fold the About panel").is_none());
    harness.get_by_label("Show the About panel").click();
    harness.run();
    harness.get_by_label("Fold the About panel");
}

#[test]
fn an_idle_window_repaints_nothing() {
    let mut harness = harness(samples::view());
    harness.step();
    let delay = harness.output().viewport_output.values().map(|v| v.repaint_delay).min().unwrap();
    assert!(delay > std::time::Duration::from_secs(60), "{delay:?}");
}

#[test]
fn what_is_remembered_survives_a_start() {
    let mut harness = harness(samples::view());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Num3);
    harness.get_by_label("Fold the About panel").click();
    harness.get_by_label("Advanced choices").click_accesskit();
    harness.run();
    let saved = serde_json::to_string(&harness.state().workbench).unwrap();
    let again: Workbench = serde_json::from_str(&saved).unwrap();
    assert_eq!(again.tab, "attention");
    assert_eq!(serde_json::to_string(&again).unwrap(), saved);
    assert!(saved.contains("\"about_folded\":true") && saved.contains("\"advanced\":true"), "{saved}");
    // A file of another version is no reason to start with nothing.
    let older: Workbench = serde_json::from_str("{\"gone\": 1}").unwrap();
    assert_eq!(older.tab, "", "the first tab");
}

/// The window's smallest size: every picture's name is there whole, and none lies over another.
#[test]
fn every_tab_is_there_in_the_smallest_window() {
    for (width, rows) in [(720.0, 2), (1280.0, 1)] {
        let mut harness = harness(samples::view());
        harness.set_size(vec2(width, 480.0));
        harness.run();
        let tabs: Vec<egui::Rect> = harness.get_all_by_role(Role::Tab).map(|n| n.rect()).collect();
        assert!(tabs.len() >= 5, "{tabs:?}");
        // The column beside it begins where its button does.
        let end = width - 40.0;
        assert!(tabs.iter().all(|r| r.right() <= end && r.width() > 20.0), "{tabs:?}");
        let apart = |i: usize| tabs[i + 1..].iter().all(|r| !r.shrink(1.0).intersects(tabs[i].shrink(1.0)));
        assert!((0..tabs.len()).all(apart), "{tabs:?}");
        let tops: std::collections::BTreeSet<i32> = tabs.iter().map(|r| r.top() as i32).collect();
        assert_eq!(tops.len(), rows, "{tabs:?}");
    }
}

#[test]
fn nothing_at_all_still_draws() {
    let mut harness = harness(View::default());
    harness.get_by_label("Model: Open a model");
    harness.set_size(vec2(640.0, 480.0));
    harness.run();
    harness.set_size(vec2(3840.0, 2160.0));
    harness.run();
}

/// Upright lines as thick as the limit's, and the rectangle of `words`, of what was painted.
fn limit_and_words(shape: &egui::Shape, words: &str, lines: &mut Vec<egui::Rect>, at: &mut Option<egui::Rect>) {
    match shape {
        egui::Shape::Vec(shapes) => shapes.iter().for_each(|s| limit_and_words(s, words, lines, at)),
        egui::Shape::LineSegment { points: [a, b], stroke } if a.x == b.x && stroke.width == 2.0 => {
            lines.push(egui::Rect::from_two_pos(*a, *b));
        }
        egui::Shape::Text(text) if text.galley.text() == words => *at = Some(text.visual_bounding_rect()),
        _ => {}
    }
}

#[test]
fn the_limit_stops_short_of_the_words_where_no_bar_is() {
    for (words, limit) in [("No model is open.", 20 * MIB), ("No model is open.", 150 * MIB), ("Not run yet", 20 * MIB)]
    {
        let mut view = samples::view();
        let run = words != "Not run yet";
        let bars = samples::bars(8192 * samples::TOKEN, Some(limit), run);
        view.top.limit.bytes = Some(limit);
        (view.top.predicted, view.top.measured) = if run { (None, Some(bars)) } else { (Some(bars), None) };
        view.top.no_plan = words.into();
        let harness = harness(view);
        let (mut lines, mut at) = (Vec::new(), None);
        harness.output().shapes.iter().for_each(|s| limit_and_words(&s.shape, words, &mut lines, &mut at));
        let at = at.unwrap();
        let near: Vec<_> =
            lines.iter().filter(|l| l.bottom() > at.top() - 40.0 && l.top() < at.bottom() + 40.0).collect();
        assert!(near.iter().map(|l| l.height()).sum::<f32>() > 20.0, "the limit is drawn: {lines:?}");
        assert_eq!(near.iter().any(|l| at.x_range().contains(l.center().x)), limit < 100 * MIB, "{words}: {near:?}");
        assert!(near.iter().all(|l| !l.expand(1.0).intersects(at)), "{words} at {at:?} is crossed by one of {near:?}");
    }
}
