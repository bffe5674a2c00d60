//! A picture that the program has never heard of: a file with an entry, and a line in a list. Nothing else knows of it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod samples;

use egui::{Key, Modifiers, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use ullage_panels::pictures::{Entry, history, text};
use ullage_panels::view::{Token, View, Written};
use ullage_panels::{Action, Workbench, theme};

/// What the file of a new picture holds.
mod lengths {
    use egui::Ui;
    use serde::{Deserialize, Serialize};
    use ullage_panels::picture::Picture;
    use ullage_panels::pictures::{Entry, entry};
    use ullage_panels::view::View;
    use ullage_panels::{Action, Linked};

    /// The line.
    pub static ENTRY: Entry = Entry {
        id: "lengths",
        tab: "lengths",
        title: "Lengths",
        question: "How long is each text?",
        shows: |view| !view.text.sequences.is_empty(),
        csv,
        open: |remembered| entry::open(remembered, show),
    };

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    pub struct LengthsState {
        pressed: u32,
    }

    fn csv(view: &View) -> String {
        let line = |(i, w): (usize, &ullage_panels::view::Written)| format!("{i},{}\n", w.tokens.len());
        "sequence,tokens\n".to_owned() + &view.text.sequences.iter().enumerate().map(line).collect::<String>()
    }

    fn show(ui: &mut Ui, view: &View, state: &mut LengthsState, _: &mut Linked, actions: &mut Vec<Action>) {
        let picture = Picture { name: ENTRY.id, question: ENTRY.question };
        picture.show(
            ui,
            actions,
            || csv(view),
            |ui, _, _| {
                if ui.button(format!("Pressed {} times", state.pressed)).clicked() {
                    state.pressed += 1;
                }
            },
        );
    }
}

static PICTURES: &[&Entry] = &[&text::ENTRY, &lengths::ENTRY, &history::ENTRY];

struct Bench {
    workbench: Workbench,
    view: View,
    actions: Vec<Action>,
}

fn harness(view: View) -> Harness<'static, Bench> {
    let bench = Bench { workbench: Workbench::of(PICTURES), view, actions: Vec::new() };
    let mut harness = Harness::builder()
        .with_size(vec2(1280.0, 800.0))
        .with_max_steps(20)
        .with_context_setup(theme::install)
        .build_ui_state(|ui, bench: &mut Bench| bench.actions.extend(bench.workbench.show(ui, &bench.view)), bench);
    harness.run();
    harness
}

#[test]
fn a_new_picture_has_its_tab_its_keys_its_menu_and_its_memory() {
    let mut view = samples::view();
    let token = |text: &str| Token { id: 0, text: text.into() };
    std::sync::Arc::make_mut(&mut view.text).sequences =
        vec![Written { tokens: vec![token("to"), token(" be")], ..Written::default() }].into();
    let mut h = harness(view);
    h.key_press_modifiers(Modifiers::COMMAND, Key::Num2);
    h.run();
    assert_eq!(h.state().workbench.tab, "lengths");
    h.get_by_label("Pressed 0 times").click();
    h.run();
    h.get_by_label("Pressed 1 times");
    // The menu copies and saves.
    for (item, file) in [("Copy data", None), ("Save picture (SVG)…", Some("lengths.svg"))] {
        h.get_by_label("Copy or save: How long is each text?").click();
        h.run();
        h.get_by_label(item).click();
        h.run();
        match (h.state_mut().actions.pop().unwrap(), file) {
            (Action::Copy(csv), None) => assert!(csv.starts_with("sequence,tokens\n0,2\n"), "{csv}"),
            (Action::SaveFile { name, content }, Some(file)) => {
                assert_eq!(name, file);
                assert!(content.contains("How long is each text?") && content.contains("Pressed 1 times"), "{content}");
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    // The palette knows it.
    h.key_press_modifiers(Modifiers::COMMAND, Key::K);
    h.run();
    h.get_by_label("Command").type_text("copy data lengths");
    h.run();
    h.key_press(Key::Enter);
    h.run();
    assert!(matches!(h.state_mut().actions.pop(), Some(Action::Copy(csv)) if csv.starts_with("sequence,tokens")));
    let saved = serde_json::to_value(&h.state().workbench).unwrap();
    assert_eq!(saved["pictures"]["lengths"]["pressed"], 1);
}

#[test]
fn a_picture_without_its_part_of_the_view_has_no_tab_and_the_first_one_shows() {
    let mut h = harness(View::default());
    assert!(h.query_by_label("Lengths").is_none());
    h.state_mut().workbench.tab = "lengths".into();
    h.run();
    assert!(h.query_all_by_label("What did it write?").next().is_some());
}
