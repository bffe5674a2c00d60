use egui::accesskit::Role;
use egui::{Event, Key, MouseWheelUnit, TouchPhase, pos2, vec2};
use egui_kittest::SnapshotResults;
use egui_kittest::kittest::{NodeT as _, Queryable};
use ullage_panels::pictures::timeline::{TimelineState, show};
use ullage_panels::view::{Tier, Timeline, UsedFor};
use ullage_panels::{Action, Linked};

use crate::{Driven, asked, driven, look, samples};

fn open() -> Driven<Timeline, TimelineState> {
    driven(show, samples::timeline(40))
}

fn peak(data: &Timeline) -> usize {
    let most = data.moments.iter().map(|m| m.total(Tier::Device)).max().unwrap();
    data.moments.iter().position(|m| m.total(Tier::Device) == most).unwrap()
}

#[test]
fn the_cursor_is_a_slider_that_says_what_was_held() {
    let mut h = open();
    let value = h.get_by_role(Role::Slider).value().unwrap();
    assert!(value.starts_with("peak, ") && value.contains("weights 92 MiB") && value.contains("KV cache"), "{value}");
    let at = peak(&h.state().data);
    h.get_by_role(Role::Slider).increment_accesskit();
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(at + 1))]);
    assert_eq!(h.state().linked.moment, Some(at + 1));
    h.get_by_role(Role::Slider).set_value_accesskit(1.2);
    let moment = h.state().data.moments.iter().rposition(|m| m.seconds <= 1.2).unwrap();
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(moment))]);
    let value = h.get_by_role(Role::Slider).value().unwrap();
    let step = h.state().data.moments[moment].step;
    assert!(value.contains(&format!("decode step {step}")) && !value.starts_with("peak"), "{value}");
}

#[test]
fn a_moment_of_training_is_named_by_its_step_and_phase() {
    let mut data = samples::timeline(40);
    for span in data.phases.iter_mut().filter(|s| s.name == "decode") {
        span.name = "backward".into();
    }
    let mut h = driven(show, data);
    h.get_by_role(Role::Slider).set_value_accesskit(1.2);
    h.run();
    let moment = h.state().data.moments.iter().rposition(|m| m.seconds <= 1.2).unwrap();
    let step = h.state().data.moments[moment].step;
    let value = h.get_by_role(Role::Slider).value().unwrap();
    assert!(step > 0 && value.contains(&format!("step {step}, backward")), "{value}");
}

#[test]
fn keys_scrub_and_escape_goes_back_to_the_peak() {
    let mut h = open();
    h.get_by_role(Role::Slider).focus();
    h.run();
    h.key_press(Key::Home);
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(0))]);
    h.key_press(Key::ArrowRight);
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(1))]);
    h.key_press(Key::ArrowLeft);
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(0))]);
    let last = h.state().data.moments.len() - 1;
    h.key_press(Key::End);
    assert_eq!(asked(&mut h), [Action::ScrubTo(Some(last))]);
    assert!(h.get_by_role(Role::Slider).is_focused(), "arrows do not move the focus away");
    h.key_press(Key::Escape);
    assert_eq!(asked(&mut h), [Action::ScrubTo(None)]);
}

#[test]
fn scrolling_zooms_dragging_moves_and_a_double_click_shows_all() {
    let mut h = open();
    let plot = h.get_by_role(Role::GraphicsObject).rect();
    let at = pos2(plot.left() + 0.25 * plot.width(), plot.center().y);
    h.hover_at(at);
    h.event(Event::MouseWheel {
        unit: MouseWheelUnit::Point,
        delta: vec2(0.0, 240.0),
        phase: TouchPhase::Move,
        source: egui::MouseWheelSource::Wheel,
        modifiers: Default::default(),
    });
    h.run();
    let (from, to) = h.state().state.window.unwrap();
    let end = h.state().data.phases[2].seconds.1;
    assert!(to - from < 0.8 * end, "{from}..{to} of {end}");
    let under = from + 0.25 * (to - from);
    assert!((under - 0.25 * end).abs() < 0.01 * end, "what is under the pointer stays there: {under}");
    h.drag_at(at);
    h.run();
    h.hover_at(at - vec2(40.0, 0.0));
    h.run();
    h.drop_at(at - vec2(40.0, 0.0));
    h.run();
    let (later, _) = h.state().state.window.unwrap();
    assert!(later > from, "dragging left shows what came later");
    assert!(!asked(&mut h).iter().any(|a| matches!(a, Action::ScrubTo(_))), "moving is not scrubbing");
    h.get_by_label("Show all of it").click();
    h.run();
    assert_eq!(h.state().state.window, None);
}

#[test]
fn dragging_over_all_of_it_scrubs() {
    let mut h = open();
    let plot = h.get_by_role(Role::GraphicsObject).rect();
    let at = |share: f32| pos2(plot.left() + share * plot.width(), plot.center().y);
    h.drag_at(at(0.3));
    h.run();
    h.hover_at(at(0.5));
    h.run();
    h.drop_at(at(0.5));
    let end = h.state().data.phases[2].seconds.1;
    let moment = h.state().data.moments.iter().rposition(|m| m.seconds <= 0.5 * end + 1e-3);
    assert_eq!(asked(&mut h).last(), Some(&Action::ScrubTo(moment)));
}

#[test]
fn the_legend_says_bytes_and_hides() {
    let mut h = open();
    let cache = h.get_by_label("Show KV cache");
    assert!(cache.value().unwrap().ends_with(" B"), "exact bytes");
    let before = h.get_by_role(Role::Slider).value().unwrap();
    assert!(before.contains("KV cache"));
    cache.click();
    h.run();
    assert!(h.state().state.hidden[UsedFor::KvCache as usize]);
    assert!(!h.get_by_role(Role::Slider).value().unwrap().contains("KV cache"));
    h.get_by_label("Show KV cache").hover();
    h.run();
    assert_eq!(h.state().linked.used_for, Some(UsedFor::KvCache));
}

#[test]
fn another_tier_is_shown_when_there_is_one() {
    let mut h = open();
    h.get_by_label("Where: RAM").click();
    h.run();
    assert_eq!(h.state().state.tier, Tier::Host);
    assert!(h.query_by_label("Show KV cache").is_none() && h.query_by_label("Show weights").is_some());
    // A run without that tier falls back to one that it has.
    for moment in &mut h.state_mut().data.moments {
        moment.held[Tier::Host as usize] = [0; 9];
    }
    h.run();
    assert_eq!(h.state().state.tier, Tier::Device);
}

#[test]
fn hovering_says_exact_bytes() {
    let mut h = open();
    let plot = h.get_by_role(Role::GraphicsObject).rect();
    h.hover_at(pos2(plot.left() + 0.7 * plot.width(), plot.bottom() - 60.0));
    h.run_steps(60);
    assert_eq!(h.state().linked.used_for, Some(UsedFor::Weights));
    assert!(h.query_by_label("in all").is_some(), "the tooltip is open");
    let exact = format!("{} B", "96,468,992");
    assert!(h.query_all_by_label(&exact).next().is_some(), "weights to the byte");
}

#[test]
fn an_empty_timeline_has_the_button_that_fills_it() {
    let mut h = driven(show, Timeline::default());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), [Action::Run]);
    h.state_mut().data.live = true;
    h.run();
    assert!(h.query_by_label("Run").is_none());
}

#[test]
fn how_it_looks() {
    let mut results = SnapshotResults::new();
    let r = &mut results;
    let all = samples::timeline(40);
    let scrubbed = Linked { moment: Some(120), ..Linked::default() };
    look(r, "timeline_done", show, &all, &Linked::default());
    look(r, "timeline_scrubbed", show, &all, &scrubbed);
    let live =
        Timeline { live: true, evicted: Vec::new(), limits: [Some(24 << 30), None, None], ..samples::timeline(9) };
    look(r, "timeline_live", show, &live, &Linked::default());
    look(r, "timeline_empty", show, &Timeline::default(), &Linked::default());
    let blocked = Timeline { blocked: "It needs 100 MiB more than the memory limit.".into(), ..Timeline::default() };
    look(r, "timeline_blocked", show, &blocked, &Linked::default());
}

#[test]
fn an_empty_timeline_runs_only_what_can_be_run() {
    let mut h = driven(show, Timeline::default());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), [Action::Run]);
    let blocked = "It needs 9 MiB more than the memory limit.";
    let mut h = driven(show, Timeline { blocked: blocked.into(), ..Timeline::default() });
    h.get_by_label(blocked);
    assert!(h.get_by_label("Run").accesskit_node().is_disabled());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), []);
}
