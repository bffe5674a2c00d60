use egui::accesskit::Role;
use egui_kittest::kittest::Queryable;
use ullage_panels::Action;
use ullage_panels::pictures::{history, text, timeline};

use crate::{Driven, asked, driven, samples};

fn save<D: 'static, S: 'static>(h: &mut Driven<D, S>, question: &str, entry: &str) -> Action {
    h.get_by_label(&format!("Copy or save: {question}")).click();
    h.run();
    h.get_by_label(entry).click();
    let mut all = asked(h);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn the_timeline_is_saved_as_what_was_painted() {
    let mut h = driven(timeline::show, samples::timeline(20));
    let question = "Where did the bytes go while it ran?";
    let Action::SaveFile { name, content } = save(&mut h, question, "Save picture (SVG)…") else { panic!() };
    assert_eq!(name, "timeline.svg");
    let svg = roxmltree::Document::parse(&content).unwrap();
    let texts: Vec<_> = svg.descendants().filter(|n| n.has_tag_name("text")).filter_map(|n| n.text()).collect();
    for words in [question, "prefill", "64 MiB", "KV cache", "memory limit 192 MiB", "rows gone"] {
        assert!(texts.contains(&words), "{words} is not in {texts:?}");
    }
    assert!(!content.contains("Save picture"), "the menu is no part of the picture");
    // The stack: each category's colour has a path of rectangles.
    let palette = ullage_panels::theme::Palette::of(egui::Theme::Dark);
    for used_for in [ullage_panels::view::UsedFor::Weights, ullage_panels::view::UsedFor::KvCache] {
        let c = palette.used_for(used_for);
        let fill = format!("#{:02x}{:02x}{:02x}", c.r(), c.g(), c.b());
        let paths = svg.descendants().filter(|n| n.has_tag_name("path") && n.attribute("fill") == Some(&fill));
        assert!(paths.filter_map(|n| n.attribute("d")).map(str::len).sum::<usize>() > 200, "{used_for:?}");
    }
    let Action::SavePng { name, rect } = save(&mut h, question, "Save picture (PNG)…") else { panic!() };
    assert!(name == "timeline.png" && rect.width() > 1000.0);
}

#[test]
fn data_is_copied_to_the_byte() {
    let data = samples::timeline(20);
    let mut h = driven(timeline::show, data.clone());
    let Action::Copy(csv) = save(&mut h, "Where did the bytes go while it ran?", "Copy data") else { panic!() };
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * data.moments.len(), "a line for each moment and tier");
    let last: Vec<_> = lines[lines.len() - 2].split(',').collect();
    let held = data.moments.last().unwrap().held[0];
    assert_eq!(last[2..4], ["memory".to_owned(), held.iter().sum::<u64>().to_string()]);
    assert_eq!(last[4..], held.map(|b| b.to_string()));

    let mut h = driven(text::show, samples::text());
    let Action::SaveFile { name, content } = save(&mut h, "What did it write?", "Save data (CSV)…") else { panic!() };
    assert_eq!(name, "text.csv");
    assert!(content.starts_with("sequence,position,token,text,part,kept\n1,0,"));
    assert!(content.contains("written") && content.contains("\",\""), "a comma is quoted");

    let mut h = driven(history::show, samples::history());
    let Action::Copy(csv) = save(&mut h, "What was tried before?", "Copy data") else { panic!() };
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.contains("\"H2O, 20 % of tokens\",123731968,92.4,"));
}

#[test]
fn the_menu_opens_under_the_secondary_button_too_and_by_keyboard() {
    let mut h = driven(timeline::show, samples::timeline(3));
    h.get_by_role(Role::Figure).click_secondary();
    h.run();
    assert!(h.query_by_label("Copy data").is_some());
    let mut h = driven(timeline::show, samples::timeline(3));
    h.get_by_label("Copy or save: Where did the bytes go while it ran?").focus();
    h.run();
    h.key_press(egui::Key::Enter);
    h.run();
    assert!(h.query_by_label("Copy data").is_some());
}

#[test]
fn a_course_is_copied_mark_by_mark_and_saved_as_painted() {
    use std::sync::Arc;
    use ullage_panels::pictures::learning;
    use ullage_panels::view::{Course, Learning, Mark};
    let mark = |step: u64, value: f64| Mark { step, seconds: step as f64, bytes: 1 << 20, value };
    let course = Course {
        run: "a, run".into(),
        loss: (1..=9).map(|s| mark(s, 1.0 / s as f64)).collect(),
        held_out: vec![mark(0, 1.5), mark(9, 0.25)],
        ..Course::default()
    };
    let data = Learning { run: Some(Arc::new(course)), ..Learning::default() };
    let mut h = driven(learning::show, data.clone());
    let Action::Copy(csv) = save(&mut h, learning::QUESTION, "Copy data") else { panic!() };
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 9 + 2);
    assert_eq!(lines[11], "\"a, run\",,held-out loss,9,9.000000,1048576,0.25");
    let mut h = driven(learning::show, data);
    let Action::SaveFile { name, content } = save(&mut h, learning::QUESTION, "Save picture (SVG)…") else {
        panic!()
    };
    assert_eq!(name, "learning.svg");
    let svg = roxmltree::Document::parse(&content).unwrap();
    let texts: Vec<_> = svg.descendants().filter(|n| n.has_tag_name("text")).filter_map(|n| n.text()).collect();
    for words in [learning::QUESTION, "loss (nats), less is better ↓", "steps →", "a step, predicted"] {
        assert!(texts.contains(&words), "{words} is not in {texts:?}");
    }
}
