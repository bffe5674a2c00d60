use egui::Key;
use egui_kittest::SnapshotResults;
use egui_kittest::kittest::Queryable;
use ullage_panels::pictures::history::{HistoryState, Order, show};
use ullage_panels::view::History;
use ullage_panels::{Action, Linked};

use crate::{Driven, asked, driven, look, samples};

fn open(data: History) -> Driven<History, HistoryState> {
    driven(show, data)
}

fn select(h: &mut Driven<History, HistoryState>, contains: &str) -> String {
    h.get_all_by_label_contains(contains).find(|n| n.rect().width() > 900.0).unwrap().click();
    h.run();
    h.state().linked.run.clone().unwrap()
}

#[test]
fn a_run_is_selected_everywhere_and_opened_or_taken() {
    let mut h = open(samples::history());
    let name = select(&mut h, "window of 512 tokens");
    assert_eq!(name, samples::history().runs[3].name);
    h.get_by_label("Open").click();
    assert_eq!(asked(&mut h), [Action::OpenRun(name.clone())]);
    h.get_by_label("Take its configuration").click();
    assert_eq!(asked(&mut h), [Action::TakeConfig(name.clone())]);
    let row = h.get_all_by_label_contains("window of 512 tokens").find(|n| n.rect().width() > 900.0).unwrap();
    row.focus();
    h.run();
    h.key_press(Key::Enter);
    assert_eq!(asked(&mut h), [Action::OpenRun(name)]);
}

#[test]
fn deleting_asks_first() {
    let mut h = open(samples::history());
    let name = select(&mut h, "nothing changed");
    h.get_by_label("Delete…").click();
    assert_eq!(asked(&mut h), [], "not yet");
    assert!(h.query_all_by_label_contains("It cannot be brought back").next().is_some());
    h.get_by_label("Keep it").click();
    assert_eq!(asked(&mut h), []);
    h.get_by_label("Delete…").click();
    h.run();
    h.get_by_label("Delete").click();
    assert_eq!(asked(&mut h), [Action::DeleteRun(name)]);
    assert!(h.query_by_label("Keep it").is_none());
}

#[test]
fn two_are_ticked_and_compared() {
    let mut h = open(samples::history());
    let names: Vec<_> = samples::history().runs.into_iter().map(|run| run.name).collect();
    h.get_by_label("Compare").click();
    assert_eq!(asked(&mut h), [], "with none ticked");
    for name in &names[..3] {
        h.get_by_label(&format!("Compare {name}")).click();
        h.run();
    }
    assert_eq!(h.state().state.picked, names[1..3], "the first makes room");
    h.get_by_label("Compare").click();
    assert_eq!(asked(&mut h), [Action::Compare(Some([names[1].clone(), names[2].clone()]))]);
    h.state_mut().data.runs.remove(1);
    h.run();
    assert_eq!(h.state().state.picked, names[2..3], "a run that is gone is not ticked");
}

#[test]
fn a_failed_run_says_why_and_the_disk_is_shown() {
    let mut h = open(samples::history());
    assert!(h.query_all_by_label_contains("failed: over the memory limit").next().is_some());
    assert!(h.query_all_by_label_contains("on disk").next().is_some());
    h.get_by_label("Show the folder").click();
    assert_eq!(asked(&mut h), [Action::ShowFolder]);
    h.get_by_label("Order by peak").click();
    h.run();
    assert_eq!((h.state().state.order, h.state().state.reversed), (Order::Peak, false));
    h.get_by_label("Order by peak").click();
    h.run();
    assert!(h.state().state.reversed);
}

#[test]
fn two_texts_are_shown_where_they_part() {
    // A long text, so that the first difference is far down.
    let mut data = samples::compared();
    let pair = data.pair.as_mut().unwrap();
    for text in &mut pair.text {
        let before: Vec<_> = text.tokens.iter().cycle().take(3000).cloned().collect();
        text.tokens.splice(0..0, before);
        text.prompt += 3000;
        text.kept.clear();
    }
    pair.first_difference = pair.first_difference.map(|at| at + 3000);
    let at = pair.first_difference.unwrap();
    let mut h = open(data);
    let text = h.get_by_label("Text of A").rect();
    assert!(text.top() < -1000.0, "scrolled to the difference: {text:?}");
    assert!(h.query_all_by_label_contains("the same up to position 3,1").next().is_some(), "{at}");
    for name in ["A at its peak", "B at its peak"] {
        assert!(h.get_by_label(name).value().unwrap().contains("KV cache"), "{name}");
    }
    for shown in ["−61 MiB", "kv.select", "h2o", "same next token"] {
        assert!(h.query_all_by_label(shown).next().is_some(), "{shown}");
    }
    h.get_by_label("End the comparison").click();
    assert_eq!(asked(&mut h), [Action::Compare(None)]);
}

#[test]
fn an_empty_history_has_the_button_that_fills_it() {
    let mut h = open(History::default());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), [Action::Run]);
}

#[test]
fn how_it_looks() {
    let mut results = SnapshotResults::new();
    let r = &mut results;
    let selected = Linked { run: Some(samples::history().runs[1].name.clone()), ..Linked::default() };
    look(r, "history_runs", show, &samples::history(), &selected);
    look(r, "history_compared", show, &samples::compared(), &Linked::default());
    look(r, "history_empty", show, &History::default(), &Linked::default());
}
