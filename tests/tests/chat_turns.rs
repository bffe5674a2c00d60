//! A conversation goes through the chat template: earlier turns, then the prompt as the newest message.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use ullage_core::catalog::from_toml;
use ullage_core::config::{Config, Role, Turn};
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_tests::{bundled, config, smollm2};

fn conversation(prompt: &str, turns: &[(Role, &str)]) -> Config {
    let mut config = config(&[("run.chat", "true"), ("run.system", "Be brief.")]);
    config.run.prompt = prompt.into();
    config.run.turns = turns.iter().map(|(role, content)| Turn { role: *role, content: (*content).into() }).collect();
    ullage_core::catalog::check(&config).unwrap();
    config
}

/// One turn as a model was trained on it: before the role, after it, and after what was said.
type Form = [&'static str; 3];

/// ChatML, which SmolLM2 speaks.
const CHATML: Form = ["<|im_start|>", "\n", "<|im_end|>\n"];
/// What the bundled model speaks (assets/bundled/data.py).
const RECALL: Form = ["<|", "|>\n", "<|endoftext|>\n"];

fn written([before, after, end]: Form, turns: &[(&str, &str)]) -> String {
    let said: String = turns.iter().map(|(role, content)| format!("{before}{role}{after}{content}{end}")).collect();
    said + before + "assistant" + after
}

fn check(model: &Model, form: Form) {
    let words = Words::of(model).unwrap();
    let tokenizer = words.tokenizer.as_ref().unwrap();
    let config = conversation("And of Spain?", &[(Role::User, "The capital of France?"), (Role::Assistant, "Paris.")]);
    let expected = written(
        form,
        &[
            ("system", "Be brief."),
            ("user", "The capital of France?"),
            ("assistant", "Paris."),
            ("user", "And of Spain?"),
        ],
    );
    let got = words.prompt(&config).unwrap();
    assert_eq!(got, tokenizer.encode(&expected, false, true));
    // A turn less is a shorter prompt with the same beginning and end; none is the chat of a single message.
    let none = words.prompt(&conversation("And of Spain?", &[])).unwrap();
    assert_eq!(
        none,
        tokenizer.encode(&written(form, &[("system", "Be brief."), ("user", "And of Spain?")]), false, true)
    );
    assert!(none.len() < got.len() && got.ends_with(&none[none.len() - 5..]));
    // What was said survives the file.
    assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config);
}

#[test]
fn turns_stand_before_the_prompt_in_the_order_they_were_said() {
    check(&bundled(), RECALL);
}

#[test]
fn turns_stand_before_the_prompt_in_the_form_of_a_real_model() {
    let Some(model) = smollm2() else { return };
    check(&model, CHATML);
}
