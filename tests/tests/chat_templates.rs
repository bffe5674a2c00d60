//! Chat templates as transformers renders them: published ones of many models, and what Jinja2 and Python do in them
//! (`tests/scripts/make_templates.py`); and what goes on where one cannot be read.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use ullage_core::blocks::{self, BlockType};
use ullage_core::model::Model;
use ullage_core::model::chat::{ChatTemplate, Message, SpecialTokens, Spoken};
use ullage_core::model::gguf::{Gguf, GgufWriter};
use ullage_core::model::hf::save;
use ullage_core::model::text::Words;
use ullage_core::shape::TensorShape;
use ullage_tests::{bundled, config, fixture, run};

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("templates").join(name)).unwrap()).unwrap()
}

fn special(of: &Value) -> SpecialTokens {
    of.as_object().unwrap().iter().map(|(name, text)| (name.clone(), text.as_str().unwrap())).collect()
}

/// Where ours differs from the answer; an answer without a text is an error, which ours must be too.
fn differs(
    source: &str,
    (messages, tools): (&Value, Option<&Value>),
    add: bool,
    special: &SpecialTokens,
    answer: &Value,
) -> Option<String> {
    let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
    let (now, seconds) = ("2024-02-09T08:07:06".parse().unwrap(), 1_707_466_026);
    let spoken = Spoken { messages: &messages, tools };
    let got = ChatTemplate::new(source).and_then(|t| t.render_at(spoken, add, special, now, seconds));
    match (got, answer["text"].as_str()) {
        (Ok(got), Some(text)) if got == text => None,
        (Err(e), None) if e.exit_code() == 2 => None,
        (got, _) => Some(format!("{answer}\n{:?}", got.map_err(|e| e.to_string()))),
    }
}

#[test]
fn published_templates_write_the_prompts_that_transformers_writes() {
    let (sources, rendered) = (json("sources.json"), json("rendered.json"));
    let (mut texts, mut errors) = (0, 0);
    let mut wrong = Vec::new();
    for row in rendered["rows"].as_array().unwrap() {
        let name = row["template"].as_str().unwrap();
        let source = fs::read_to_string(fixture("templates").join(format!("{name}.jinja"))).unwrap();
        let chat = row["chat"].as_str().unwrap();
        let (add, special) = (row["add"].as_bool().unwrap(), special(&sources[name]["special"]));
        let spoken = (&rendered["chats"][chat], rendered["tools"].get(chat));
        let differs = differs(&source, spoken, add, &special, row);
        wrong.extend(differs.map(|d| format!("{name}, {chat}, {add}: {d}\n")));
        *(if row["text"].is_string() { &mut texts } else { &mut errors }) += 1;
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.concat());
    println!("{} templates, {texts} prompts and {errors} errors", sources.as_object().unwrap().len());
    assert!(sources.as_object().unwrap().len() >= 60 && texts > 1000 && errors > 100);
}

#[test]
fn what_python_does_in_a_template_is_done_here() {
    let (sources, answers) = (json("expressions.json"), json("answers.json"));
    let (sources, list) = (sources.as_array().unwrap(), answers["answers"].as_array().unwrap());
    assert!(sources.len() == list.len() && list.len() > 700);
    let special = special(&answers["special"]);
    let mut wrong = Vec::new();
    for (source, answer) in sources.iter().zip(list) {
        let source = source.as_str().unwrap();
        let differs = differs(source, (&answers["messages"], None), true, &special, answer);
        wrong.extend(differs.map(|d| format!("{source}: {d}\n")));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.concat());
}

/// A model's own numbers as a folder.
fn folder(model: &Model, dir: &Path) {
    let mut raw = Vec::new();
    save(dir, model, BlockType::F16, &mut |t: &TensorShape, first, n, out: &mut [f32]| {
        raw.resize(n * t.row_bytes(), 0);
        model.source.read_rows(t, first, n, &mut raw)?;
        blocks::decode(t.block()?, &raw, out)?;
        Ok(())
    })
    .unwrap();
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path.to_str().unwrap(), Path::new(".")).unwrap())
}

/// Runs a completion, and a chat that must be refused with `words`; gives the notes of the first.
fn completes_and_has_no_chat(model: &Arc<Model>, words: &[&str]) -> Vec<String> {
    let short = [("run.max_tokens", "2"), ("run.prompt", "Once upon a time"), ("run.chat", "false")];
    let report = run(model, &config(&short));
    assert_eq!(report.error, None);
    let chat = run(model, &config(&[&short[..2], &[("run.chat", "true")]].concat())).error.unwrap();
    for word in words {
        assert!(chat.message.contains(word), "{word}: {}", chat.message);
        assert!(report.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", report.notes);
    }
    report.notes
}

#[test]
fn a_template_that_cannot_be_read_stops_chat_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    folder(&bundled(), &path);
    assert!(Words::of(&open(&path)).unwrap().has_template());
    for (name, text, says) in [
        ("chat_template.jinja", "{% for m in messages %}\n{{ m. }}", ["chat_template.jinja", "line 2"]),
        (
            "tokenizer_config.json",
            "{\n\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}",
            ["tokenizer_config.json", "rag"],
        ),
    ] {
        let old = fs::read(path.join(name)).ok();
        fs::write(path.join(name), text).unwrap();
        let notes = completes_and_has_no_chat(&open(&path), &says);
        assert_eq!(notes.len(), 1, "{notes:?}");
        // Nor are prompts and responses learned in another form than the model's.
        let words = Words::of(&open(&path)).unwrap();
        let unread = words.unread_template().unwrap().to_string();
        assert!(unread.contains(name), "{unread}");
        match old {
            Some(old) => fs::write(path.join(name), old).unwrap(),
            None => fs::remove_file(path.join(name)).unwrap(),
        }
    }
    // The same in a GGUF file.
    let model = bundled();
    let file = model.source.gguf().unwrap();
    let mut bytes = fs::read(file.path()).unwrap();
    let at = bytes.windows(6).position(|w| w == b"{% for").unwrap();
    bytes[at..at + 6].copy_from_slice(b"{% far");
    let broken = dir.path().join("broken.gguf");
    fs::write(&broken, bytes).unwrap();
    completes_and_has_no_chat(&open(&broken), &["broken.gguf", "tokenizer.chat_template", "line 1"]);
}

#[test]
fn a_tokenizer_that_cannot_be_read_stops_text_and_no_plan() {
    let dir = tempfile::tempdir().unwrap();
    folder(&bundled(), dir.path());
    fs::write(dir.path().join("tokenizer.json"), "{\n\"model\": }").unwrap();
    let model = open(dir.path());
    let short = |prompt: &'static str| config(&[("run.max_tokens", "2"), ("run.prompt", prompt)]);
    let error = run(&model, &short("Once upon a time")).error.unwrap().message;
    assert!(error.contains("tokenizer.json") && error.contains("line 2"), "{error}");
    let report = run(&model, &short("tokens:9"));
    assert_eq!(report.error, None);
    assert!(report.notes[0].contains("tokenizer.json") && report.notes[0].contains("line 2"), "{:?}", report.notes);
    let prepared = ullage_core::job::infer::prepare(&model, &short("Once upon a time"), Path::new(".")).unwrap();
    assert_eq!(prepared.prompt.len(), 16, "a token a byte");
}

#[test]
fn a_gguf_file_names_every_special_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("words.gguf");
    let mut out = GgufWriter::new("llama");
    out.strings("tokenizer.ggml.tokens", &["<s>", "</s>", "<unk>", "<pad>", "[SEP]", "[CLS]", "[MASK]"]);
    let keys = ["bos", "eos", "unknown", "padding", "seperator", "cls", "mask"];
    for (id, key) in keys.iter().enumerate() {
        out.u32(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
    }
    out.write(&path, |_, _| Ok(())).unwrap();
    let special = SpecialTokens::of_gguf(&Gguf::open(&path).unwrap()).unwrap();
    let names = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
    let texts: Vec<_> = names.iter().map(|name| special.get(name).unwrap()).collect();
    assert_eq!(texts, ["<s>", "</s>", "<unk>", "<pad>", "[SEP]", "[CLS]", "[MASK]"]);
}
