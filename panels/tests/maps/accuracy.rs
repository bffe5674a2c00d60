use egui::{Key, Theme};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ullage_panels::Action;
use ullage_panels::pictures::accuracy::show;
use ullage_panels::view::Accuracy;

use super::{harness, look, samples};

const ROOM: [f32; 2] = [1000.0, 560.0];

#[test]
fn a_point_is_a_run_pressed_it_is_selected_and_twice_it_opens() {
    let mut shown = harness(show, samples::accuracy(), Theme::Dark, ROOM);
    let dot = shown.get_by_label_contains("H2O · H2O 20 %: 21 MiB, recall 63 %");
    dot.click();
    shown.run();
    assert_eq!(shown.state().linked.run.as_deref(), Some("run 5"));
    assert!(shown.state().actions.is_empty());
    shown.get_by_label("Take its choices").click();
    shown.run();
    assert_eq!(shown.state_mut().actions.pop(), Some(Action::TakeConfig("run 5".into())));
    // Long enough for the next two clicks to be a pair.
    shown.run_steps(60);
    let at = shown.get_by_label_contains("window · window 40 %").rect().center();
    for _ in 0..2 {
        shown.hover_at(at);
        shown.drag_at(at);
        shown.drop_at(at);
        shown.step();
    }
    assert_eq!(shown.state().actions, [Action::OpenRun("run 9".into())]);
}

#[test]
fn the_keyboard_opens_a_chosen_point() {
    let mut shown = harness(show, samples::accuracy(), Theme::Dark, ROOM);
    shown.get_by_label_contains("precision · q8_0").focus();
    shown.run();
    shown.key_press(Key::Enter);
    shown.run();
    assert_eq!(shown.state().linked.run.as_deref(), Some("run 2"));
    shown.key_press(Key::Enter);
    shown.run();
    assert_eq!(shown.state().actions, [Action::OpenRun("run 2".into())]);
}

#[test]
fn what_was_not_run_lies_on_the_axis_and_gives_its_configuration() {
    let mut shown = harness(show, samples::accuracy(), Theme::Light, ROOM);
    let dots = ["H2O · H2O 60 %: 33.8 MiB predicted, not run yet", "H2O · H2O 80 %: 40 MiB predicted, not run yet"];
    let rects = dots.map(|d| shown.get_by_label(d).rect());
    assert!((rects[0].center().y - rects[1].center().y).abs() < 0.1);
    let lowest = shown.get_by_label_contains("window · window 10 %").rect().center().y;
    assert!(rects[0].center().y > lowest);
    shown.get_by_label(dots[0]).click();
    shown.run();
    shown.get_by_label("Chosen, not run yet");
    shown.get_by_label("Take its choices").click();
    shown.run();
    assert!(matches!(&shown.state().actions[..], [Action::Set { sets, .. }] if sets[0].0 == "kv.select"));
}

#[test]
fn more_bytes_lie_further_right_and_more_accuracy_higher_on_every_axis() {
    for (axis, linear) in [("recall", false), ("recall", true), ("KL to the uncompressed model", false)] {
        let mut shown = harness(show, samples::accuracy(), Theme::Dark, ROOM);
        shown.get_by_label(axis).click();
        if linear {
            shown.get_by_label("linear").click();
        }
        shown.run();
        let up = axis == "recall";
        let at = |label: &str| shown.get_by_label_contains(label).rect().center();
        let points =
            ["window · window 10 %", "window · window 20 %", "window · window 40 %", "window · window 80 %"].map(at);
        assert!(points.windows(2).all(|w| w[0].x < w[1].x));
        assert!(points.windows(2).all(|w| (w[0].y > w[1].y) == up), "{points:?}");
    }
}

#[test]
fn many_measures_are_a_list_to_choose_from() {
    let mut data = samples::accuracy();
    data.axes.push(ullage_panels::view::Axis { id: "needle".into(), label: "needle".into(), ..Default::default() });
    let mut shown = harness(show, data, Theme::Dark, ROOM);
    shown.get_by_label("Accuracy shown").click();
    shown.run();
    shown.get_by_label("needle").click();
    shown.run();
    assert_eq!(shown.state().state.axis, "needle");
    assert!(shown.query_by_label_contains("window · window 40 %").is_none(), "nothing was measured on it");
    shown.get_by_label_contains("H2O · H2O 60 %: 33.8 MiB predicted");
}

#[test]
fn the_legend_hides_a_series_and_names_where_it_was_measured() {
    let mut shown = harness(show, samples::accuracy(), Theme::Dark, ROOM);
    shown.get_by_label("SnapKV (2 points) on an H100, 80 GB");
    shown.get_by_label_contains("window (4 points)").click();
    shown.run();
    assert!(shown.query_by_label_contains("window · window 40 %").is_none());
    shown.get_by_label_contains("H2O · H2O 40 %");
    shown.get_by_label_contains("window (4 points)").click();
    shown.run();
    shown.get_by_label_contains("window · window 40 %");
}

#[test]
fn sweeps_start_with_their_points_and_stop() {
    let data = samples::accuracy();
    let mut shown = harness(show, data.clone(), Theme::Dark, ROOM);
    shown.get_by_label("2 runs to go");
    shown.get_by_label("Stop").click();
    shown.run();
    shown.get_by_label("Precision").click();
    shown.run();
    let (name, points) = data.sweeps[1].clone();
    assert_eq!(shown.state().actions, [Action::StopSweep, Action::Sweep { name, points }]);
    let waiting = Accuracy { series: vec![], queued: 0, ..data.clone() };
    let mut shown = harness(show, waiting, Theme::Dark, ROOM);
    shown.get_by_label("Run “Tokens to keep (SnapKV)”").click();
    shown.run();
    assert!(matches!(&shown.state().actions[..], [Action::Sweep { points, .. }] if points.len() == 4));
    let none = Accuracy::default();
    assert!(harness(show, none, Theme::Dark, ROOM).query_by_label_contains("Run").is_none());
}

#[test]
fn values_that_are_not_numbers_and_single_points_do_no_harm() {
    let mut data = samples::accuracy();
    data.series[0].dots[0].values[0].1 = f64::NAN;
    data.series[0].dots[1].errors[0].1 = f64::INFINITY;
    data.series[1].dots.iter_mut().for_each(|d| d.bytes = 0);
    let mut shown = harness(show, data.clone(), Theme::Dark, ROOM);
    assert!(shown.query_by_label_contains("NaN").is_none());
    shown.get_by_label("linear").click();
    shown.run();
    data.series.truncate(1);
    data.series[0].dots.truncate(1);
    harness(show, data, Theme::Dark, [200.0, 90.0]);
}

#[test]
fn how_it_looks() {
    let mut results = egui_kittest::SnapshotResults::new();
    look(&mut results, "accuracy_empty", show, &Accuracy { series: vec![], queued: 0, ..samples::accuracy() }, |_| {});
    let full = Accuracy { queued: 0, ..samples::accuracy() };
    look(&mut results, "accuracy", show, &full, |h| h.state_mut().linked.run = Some("run 6".into()));
    look(&mut results, "accuracy_live", show, &samples::accuracy(), |h| {
        h.get_by_label("KL to the uncompressed model").accesskit_node();
        h.get_by_label("KL to the uncompressed model").click();
    });
}
