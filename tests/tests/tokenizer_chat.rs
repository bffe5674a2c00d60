//! Chat templates, held against Python's Jinja (tests/scripts/make_chat.py made the fixture).

#![allow(clippy::unwrap_used)] // A test fails by it.

use std::path::Path;

use serde_json::Value;
use ullage_core::model::chat::{ChatTemplate, Message, SpecialTokens};

#[test]
fn prompts_are_those_of_python() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer/chat.json");
    let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = recorded["rows"].as_array().unwrap();
    assert!(rows.len() >= 90);
    for row in rows {
        let name = row["template"].as_str().unwrap();
        let template = ChatTemplate::new(recorded["templates"][name].as_str().unwrap()).unwrap();
        let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
        let add = row["add_generation_prompt"].as_bool().unwrap();
        let special: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect();
        let got = template.render(&messages, add, &special);
        match row.get("error") {
            None => assert_eq!(got.unwrap(), row["text"].as_str().unwrap(), "{name}"),
            Some(words) => {
                let error = got.unwrap_err();
                assert_eq!(error.exit_code(), 2);
                assert!(error.to_string().contains(words.as_str().unwrap()), "{name}: {error}");
            }
        }
    }
}
