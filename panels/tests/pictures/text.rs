use std::sync::Arc;

use egui::accesskit::Role as Kind;
use egui::{Key, pos2};
use egui_kittest::SnapshotResults;
use egui_kittest::kittest::Queryable;
use ullage_panels::pictures::text::{TextState, show};
use ullage_panels::view::{Role, Text, Token, Written};
use ullage_panels::{Action, Linked};

use crate::{Driven, asked, driven, look, samples};

fn open(data: Text) -> Driven<Text, TextState> {
    driven(show, data)
}

#[test]
fn the_prompt_is_edited_as_one_step_of_undo() {
    let mut h = open(Text { prompt: "Once".into(), ..Text::default() });
    h.get_by_role_and_label(Kind::MultilineTextInput, "Prompt").focus();
    h.run();
    h.key_press(Key::End);
    h.run();
    h.get_by_role_and_label(Kind::MultilineTextInput, "Prompt").type_text(" \"upon\"");
    let first = asked(&mut h);
    let [Action::Set { what, sets, gesture: Some(gesture) }] = &first[..] else { panic!("{first:?}") };
    assert_eq!((what.as_str(), sets[0].0.as_str()), ("Prompt", "run.prompt"));
    assert_eq!(sets[0].1, "\"Once \\\"upon\\\"\"", "as TOML");
    h.state_mut().data.prompt = "Once \"upon\"".into();
    h.run();
    h.get_by_role_and_label(Kind::MultilineTextInput, "Prompt").type_text("!");
    let second = asked(&mut h);
    let [Action::Set { sets, gesture: again, .. }] = &second[..] else { panic!("{second:?}") };
    assert_eq!((sets[0].1.as_str(), *again), ("\"Once \\\"upon\\\"!\"", Some(*gesture)));
    h.state_mut().data.prompt = "Undone".into();
    h.run();
    assert_eq!(h.get_by_role_and_label(Kind::MultilineTextInput, "Prompt").value().as_deref(), Some("Undone"));
}

#[test]
fn a_token_under_the_pointer_is_told_to_all_pictures() {
    let mut h = open(samples::text());
    let text = h.get_by_label("Sequence 1").rect();
    h.hover_at(pos2(text.left() + 60.0, text.top() + 11.0));
    h.run_steps(60);
    assert_eq!(h.state().linked.token, Some(0));
    let said = h.get_by_label("Sequence 1").value().unwrap();
    assert!(said.contains("position 0") && said.contains("token "), "{said}");
    h.hover_at(pos2(text.left() + 100.0, text.top() + 11.0));
    h.run_steps(60);
    let further = h.state().linked.token.unwrap();
    assert!(further > 0 && h.query_all_by_label_contains(&format!("position {further}")).count() > 0);
}

#[test]
fn arrows_go_from_token_to_token() {
    let mut h = open(samples::text());
    let all = h.get_by_label("Sequence 1").value().unwrap();
    assert!(all.starts_with("Once upon a time") && all.ends_with("before midnight."));
    h.get_by_label("Sequence 1").focus();
    h.run();
    assert_eq!(h.state().linked.token, Some(0));
    for _ in 0..3 {
        h.key_press(Key::ArrowRight);
        h.run();
    }
    assert_eq!(h.state().linked.token, Some(3));
    h.key_press(Key::ArrowDown);
    h.run();
    assert!(h.state().linked.token.unwrap() > 6, "a row further");
    h.key_press(Key::End);
    h.run();
    assert_eq!(h.state().linked.token, Some(samples::text().sequences[0].tokens.len() - 1));
    let gone = samples::written(true).kept.iter().position(|k| *k == 0.0).unwrap();
    h.key_press(Key::Home);
    h.run();
    for _ in 0..gone {
        h.key_press(Key::ArrowRight);
    }
    h.run();
    assert!(h.get_by_label("Sequence 1").value().unwrap().contains("gone from every head"));
}

#[test]
fn scrubbing_shows_the_text_up_to_that_step() {
    let mut h = open(Text { step: Some(5), ..samples::text() });
    let data = samples::text();
    let expected: String =
        data.sequences[0].tokens[..data.sequences[0].prompt + 5].iter().map(|t| t.text.as_str()).collect();
    assert_eq!(h.get_by_label("Sequence 1").value(), Some(expected));
    h.get_by_label("Show all of it").click();
    assert_eq!(asked(&mut h), [Action::ScrubTo(None)]);
}

#[test]
fn tokens_come_one_by_one_and_long_texts_draw_only_what_is_seen() {
    let long: Vec<Token> = samples::written(false).tokens.iter().cycle().take(8000).cloned().collect();
    let data = Text {
        running: true,
        sequences: vec![Written { tokens: long, prompt: 7990, ..Written::default() }].into(),
        ..Text::default()
    };
    let mut h = open(data);
    let drawn = h.output().shapes.len();
    assert!(drawn < 400, "{drawn} shapes for 8,000 tokens");
    let next = Token { id: 9, text: " lighthouse".into() };
    Arc::make_mut(&mut h.state_mut().data.sequences)[0].tokens.push(next);
    h.run();
    assert!(h.get_by_label("Sequence 1").value().unwrap().ends_with(" lighthouse"));
    let view = h.ctx.content_rect().bottom();
    let bottom = h.get_by_label("Sequence 1").rect().bottom();
    assert!(bottom < view, "the newest row is in view: {bottom} of {view}");
}

#[test]
fn sequences_lie_side_by_side_or_behind_tabs() {
    let sequences: Vec<_> = (0..3).map(|i| samples::written(i == 1)).collect();
    let mut h = open(Text { sequences: sequences.into(), ..samples::text() });
    let [a, b] = ["Sequence 1", "Sequence 3"].map(|name| h.get_by_label(name).rect());
    assert!(a.right() <= b.left(), "side by side");
    h.get_by_label("Sequences: One by one").click();
    h.run();
    assert!(h.query_by_label("Sequence 1").is_some() && h.query_by_label("Sequence 3").is_none());
    h.get_by_label("Sequence: Sequence 3").click();
    h.run();
    assert!(h.query_by_label("Sequence 3").is_some());
}

#[test]
fn a_conversation_is_had_edited_and_answered_again() {
    let mut h = open(samples::chat());
    h.get_by_label("Message").focus();
    h.run();
    h.get_by_label("Message").type_text("And in a tank?");
    h.run();
    h.key_press(Key::Enter);
    assert_eq!(asked(&mut h), [Action::Say("And in a tank?".into())]);
    assert_eq!(h.state().state.message, "");
    h.get_by_label("Answer again").click();
    assert_eq!(asked(&mut h), [Action::Regenerate]);
    h.get_all_by_label("Edit").next().unwrap().click();
    h.run();
    h.get_by_label("Message 1").focus();
    h.run();
    h.get_by_label("Message 1").type_text("Well: ");
    h.run();
    h.get_by_label("Say this instead").click();
    let edited = asked(&mut h);
    let [Action::EditTurn { turn: 0, content }] = &edited[..] else { panic!("{edited:?}") };
    assert!(content.contains("Well: ") && content.contains("headspace"));
    h.get_by_label("Clear the conversation").click();
    assert_eq!(asked(&mut h), [Action::ClearChat]);
    h.get_by_label("Mode: Completion").click();
    let sets = vec![("run.chat".to_owned(), "false".to_owned())];
    assert_eq!(asked(&mut h), [Action::Set { what: "Completion".into(), sets, gesture: None }]);
}

#[test]
fn the_last_answer_is_its_tokens_and_all_can_be_seen() {
    let mut h = open(samples::chat());
    let said = h.get_by_label("Answer").value().unwrap();
    assert!(said.starts_with("Ullage is the space"), "{said}");
    h.get_by_label("Show: Every token").click();
    h.run();
    assert!(h.get_by_label("Sequence 1").value().unwrap().starts_with("<|im_start|>system"));
    // An answer that is not what the run wrote is plain text.
    let mut other = samples::chat();
    other.turns.last_mut().unwrap().content = "Something else.".into();
    let h = open(other);
    assert!(h.query_by_label("Answer").is_none() && h.query_by_label("Something else.").is_some());
}

#[test]
fn nothing_is_sent_while_it_answers() {
    let mut data = samples::chat();
    data.running = true;
    data.turns.pop();
    assert_eq!(data.turns.last().unwrap().role, Role::User);
    let mut h = open(data);
    h.get_by_label("Message").focus();
    h.run();
    h.get_by_label("Message").type_text("Wait");
    h.run();
    h.key_press(Key::Enter);
    assert_eq!(asked(&mut h), []);
    assert!(h.get_by_role_and_label(Kind::Document, "Answer").value().unwrap().starts_with("Ullage"));
}

#[test]
fn an_empty_text_has_the_button_that_fills_it() {
    let mut h = open(Text::default());
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), [Action::Run]);
    h.state_mut().data.blocked = "No model is open.".into();
    h.run();
    h.get_by_label("Run").click();
    assert_eq!(asked(&mut h), []);
    assert!(h.query_by_label("No model is open.").is_some());
}

#[test]
fn how_it_looks() {
    let mut results = SnapshotResults::new();
    let r = &mut results;
    let none = Linked::default();
    look(r, "text_done", show, &samples::text(), &none);
    look(r, "text_scrubbed", show, &Text { step: Some(9), ..samples::text() }, &none);
    let mut live = Text { running: true, of_run: None, ..samples::text() };
    for written in Arc::make_mut(&mut live.sequences) {
        written.tokens.truncate(written.prompt + 12);
        written.stop.clear();
    }
    look(r, "text_live", show, &live, &none);
    look(r, "text_empty", show, &Text { chats: true, ..Text::default() }, &none);
    look(r, "chat", show, &samples::chat(), &none);
}

#[test]
fn a_script_that_no_font_has_is_named_below_the_prompt() {
    let mut h = open(Text { prompt: "Wein, vin, вино".into(), ..Text::default() });
    assert!(h.query_by_label_contains("No font").is_none());
    // As the window has it; tests otherwise fail on what cannot be drawn.
    h.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    h.state_mut().data.prompt = "Tell me of ไวน์ and יין".into();
    h.run();
    h.get_by_label_contains("No font of this system has Hebrew, Thai");
    h.get_by_label_contains("from right to left");
}
