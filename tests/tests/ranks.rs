//! Tokenizers by rank (tiktoken's files, `tekken.json`) give the ids of tiktoken and mistral_common (`tests/scripts/make_ranks.py`).
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_tests::fixture;
use ullage_tests::words::{folder, of_folder};

fn recorded() -> Value {
    serde_json::from_slice(&fs::read(fixture("tokenizer").join("ranks.json")).unwrap()).unwrap()
}

/// Whether the tokenizer of `dir` gives `ids` for each text, after `before`.
fn gives(dir: &Path, all: &Value, ids: &str, before: &[u32]) {
    let t = of_folder(dir).unwrap().unwrap();
    for (text, ids) in all["texts"].as_array().unwrap().iter().zip(all[ids].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(t.encode(text, true, false), [before, &ids].concat(), "{text:?}");
    }
}

#[test]
fn tekken_s_ids_are_mistral_common_s() {
    let (all, dir) = (recorded(), folder());
    fs::write(dir.path().join("tekken.json"), all["tekken"].to_string()).unwrap();
    gives(dir.path(), &all, "tekken_ids", &[]);
    let t = of_folder(dir.path()).unwrap().unwrap();
    assert_eq!((t.find("[INST]"), t.find("<SPECIAL_20>"), t.bos(), t.eos()), (Some(3), Some(20), Some(1), Some(2)));
    // A conversation's markers are tokens, where they are meant.
    assert_eq!(t.encode("[INST]", false, true), [3]);
}

#[test]
fn ranks_are_cut_as_the_model_that_is_named_cuts() {
    let (all, dir) = (recorded(), folder());
    let config = |config: Value| fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(dir.path().join("qwen.tiktoken"), all["ranks"].as_str().unwrap()).unwrap();
    config(json!({ "tokenizer_class": "QWenTokenizer" }));
    gives(dir.path(), &all, "qwen_ids", &[]);
    let t = of_folder(dir.path()).unwrap().unwrap();
    assert_eq!((t.find("<|endoftext|>"), t.find("<|extra_204|>"), t.eos()), (Some(1506), Some(1713), Some(1506)));
    // SentencePiece's name, and not its content.
    fs::rename(dir.path().join("qwen.tiktoken"), dir.path().join("tokenizer.model")).unwrap();
    let added = json!({ "1506": { "content": "<|begin_of_text|>" }, "1507": { "content": "<|eot_id|>" } });
    config(json!({ "tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added }));
    gives(dir.path(), &all, "llama_ids", &[1506]);
    assert_eq!(of_folder(dir.path()).unwrap().unwrap().find("<|eot_id|>"), Some(1507));
}

#[test]
fn what_is_not_known_or_damaged_says_so_and_the_model_opens() {
    let (all, dir) = (recorded(), folder());
    let ranks = all["ranks"].as_str().unwrap();
    let refused = |name: &str, content: &str, words: &[&str]| {
        fs::write(dir.path().join(name), content).unwrap();
        let error = of_folder(dir.path()).unwrap_err().to_string();
        for word in words.iter().chain(&[name]) {
            assert!(error.contains(word), "{word}: {error}");
        }
        // A plan needs no words.
        let model = Model::open(dir.path().to_str().unwrap(), Path::new(".")).unwrap();
        let words = Words::of(&model).unwrap();
        assert!(words.tokenizer.is_none() && words.missing().unwrap().contains(name));
        fs::remove_file(dir.path().join(name)).unwrap();
    };
    refused("tokenizer.model", ranks, &["tiktoken", "Llama 3", "tokenizer.json"]);
    refused(
        "tiktoken.model",
        &ranks.replacen("AQ== 1\n", "AQ== 7\n", 1),
        &["line 2", "out of order, rank 7 where 1 comes next"],
    );
    refused("qwen.tiktoken", &ranks.replacen("AQ== 1\n", "?\n", 1), &["line 2", "base64"]);
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "QWenTokenizer"}"#).unwrap();
    let few: String = ranks.lines().take(200).map(|l| format!("{l}\n")).collect();
    refused("qwen.tiktoken", &few, &["byte 200"]);
    refused("qwen.tiktoken", &ranks.replacen("AQ== 1\n", "AA== 1\n", 1), &["byte 1 "]);
    refused("tekken.json", "{}", &["config"]);
    for (key, value) in [("default_vocab_size", json!(99_999_999)), ("default_num_special_tokens", json!(9_999_999))] {
        let mut tekken = all["tekken"].clone();
        tekken["config"][key] = value;
        refused("tekken.json", &tekken.to_string(), &["config", "special"]);
    }
    let mut tekken = all["tekken"].clone();
    tekken["vocab"][5]["rank"] = json!(6);
    refused("tekken.json", &tekken.to_string(), &["vocab", "rank 6"]);
    tekken["vocab"][5]["rank"] = json!(5);
    tekken["config"]["pattern"] = json!("(");
    refused("tekken.json", &tekken.to_string(), &[]);
}
