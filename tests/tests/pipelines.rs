//! Tokenizers of Hugging Face's folders, held against the `tokenizers` library and transformers; tests/scripts/make_pipelines.py
//! and check_written.py made the fixtures.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ullage_core::config::train::Validation;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::model::tokenizer::{Foreign, Tokenizer, TokenizerSpec};
use ullage_core::train::data::{Dataset, Options};
use ullage_tests::words::{FAMILIES, fnv, folder, of_folder, save_bundled, written};
use ullage_tests::{config, fixture};

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("tokenizer").join(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn texts(of: &Value) -> Vec<&str> {
    of["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect()
}

/// Every pipeline of the fixture as the tokenizer of a folder, with what is recorded of it.
fn each(mut check: impl FnMut(&str, &Tokenizer, &[&str], &Value)) {
    let dir = folder();
    let of = || of_folder(dir.path()).unwrap().unwrap();
    each_in(dir.path(), |name, texts, recorded| check(name, &of(), texts, recorded));
}

/// As [`each`], in the folder `dir`.
fn each_in(dir: &Path, mut check: impl FnMut(&str, &[&str], &Value)) {
    let all = read("pipelines.json");
    let texts = texts(&all);
    let pipelines = all["pipelines"].as_array().unwrap();
    assert!(pipelines.len() >= 30 && texts.len() >= 70);
    for recorded in pipelines {
        let mut json = recorded["json"].clone();
        if let Some(name) = json["model"].as_str() {
            json["model"] = all["models"][name].clone();
        }
        fs::write(dir.join("tokenizer.json"), json.to_string()).unwrap();
        check(recorded["name"].as_str().unwrap(), &texts, recorded);
    }
}

#[test]
fn every_kind_gives_the_library_s_ids() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    each(|name, t, texts, recorded| {
        for (i, text) in texts.iter().enumerate() {
            let whole = ids(&recorded["ids"][i]);
            let plain = recorded["plain"].get(i.to_string()).map_or_else(|| whole.clone(), ids);
            // The stage that looks for added tokens is the crate's in the first, and ours in the others.
            let ours = t.encode_spans(text, true, Some(&[usize::MAX])).unwrap();
            // Every place that spells a special token taken as text is no special token at all.
            let literal = t.encode_spans(text, true, Some(&t.spelled(text))).unwrap();
            let mut got = vec![(t.encode(text, true, true), &whole), (ours.ids.clone(), &whole)];
            // The library's unigram and WordPiece models find their special tokens in text even so; ours stay text.
            // What is not known is no mark, but where that is what the text spells.
            let unk = t.find("<unk>").or_else(|| t.find("[UNK]")).filter(|_| *text != "<unk>");
            let marks = |ids: &[u32]| ids.iter().filter(|id| t.is_control(**id) && unk != Some(**id)).count();
            let none = marks(&t.encode("", true, false));
            match marks(&plain) == none {
                true => got.extend([(literal.ids, &plain), (t.encode(text, true, false), &plain)]),
                false => assert_eq!(
                    (marks(&literal.ids), marks(&t.encode(text, true, false))),
                    (none, none),
                    "{name}: {text:?}"
                ),
            }
            for (got, expected) in got {
                count += 1;
                if got != *expected {
                    wrong.push(format!("{name}: {text:?}: {got:?}, the library {expected:?}"));
                }
            }
            for (start, end) in ours.spans {
                assert!(start <= end && text.is_char_boundary(start) && text.is_char_boundary(end), "{name}: {text:?}");
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(count > 6000, "{count}");
}

#[test]
fn what_is_learned_is_told_by_the_places_of_the_whole_text() {
    let (question, answer) = ("What is the capital of France?", "Paris is the capital");
    let mut checked = 0;
    let whole = tempfile::tempdir().unwrap();
    let dir = &whole.path().join("model");
    save_bundled(dir);
    each_in(dir, |name, _, recorded| {
        for case in recorded.get("learned").and_then(Value::as_array).into_iter().flatten() {
            let of = |key: &str| case[key].as_str().unwrap();
            let record = match case["template"].as_str() {
                Some(template) => {
                    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": template });
                    fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
                    json!({ "messages": [
                        { "role": "user", "content": question }, { "role": "assistant", "content": answer }
                    ] })
                }
                None => json!({ "prompt": of("head"), "response": of("tail") }),
            };
            let model = Model::open(dir.to_str().unwrap(), Path::new(".")).unwrap();
            fs::write(dir.join("data.jsonl"), record.to_string()).unwrap();
            let options = Options {
                validation: Validation::Share(0.0),
                template: case["template"].is_string(),
                ..Options::new("data.jsonl")
            };
            let got = Dataset::open(&options, &Words::of(&model).unwrap(), dir).unwrap().train;
            let learned: Vec<bool> = ids(&case["learned"]).into_iter().map(|l| l == 1).collect();
            let expected: Vec<(u32, bool)> = ids(&case["ids"]).into_iter().zip(learned).collect();
            assert_eq!(got.document(0).collect::<Vec<_>>(), expected, "{name}: {case}");
            checked += 1;
        }
    });
    assert_eq!(checked, 18);
}

#[test]
fn one_place_is_a_marker_and_another_is_text() {
    each(|name, t, _, _| {
        let Some(marker) = ["<s>", "[CLS]"].into_iter().find(|m| t.find(m).is_some_and(|id| t.is_control(id))) else {
            panic!("{name} has no marker")
        };
        let id = t.find(marker).unwrap();
        let text = format!("ab {marker} cd{marker}{marker} ");
        let places = t.spelled(&text);
        let at: Vec<usize> = text.match_indices(marker).map(|(at, _)| at).collect();
        assert_eq!(places, at, "{name}");
        for literal in [&at[..1], &at[1..2], &at[2..], &at[..2], &at[1..]] {
            let got = t.encode_spans(&text, false, Some(literal)).unwrap();
            let found: Vec<usize> =
                got.ids.iter().zip(&got.spans).filter(|(i, _)| **i == id).map(|(_, (start, _))| *start).collect();
            let expected: Vec<usize> = at.iter().copied().filter(|at| !literal.contains(at)).collect();
            assert_eq!(found, expected, "{name}: {literal:?}");
        }
    });
}

#[test]
fn folders_of_older_files_give_transformers_ids() {
    let recorded = read("vocabularies/ids.json");
    let texts = texts(&recorded);
    for row in recorded["folders"].as_array().unwrap() {
        let (name, dir) = (row["name"].as_str().unwrap(), folder());
        for file in fs::read_dir(fixture("tokenizer/vocabularies").join(name)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        let t = of_folder(dir.path()).unwrap().unwrap();
        let mut theirs = 0;
        for (i, text) in texts.iter().enumerate() {
            let (got, expected) = (t.encode(text, true, true), ids(&row["ids"][i]));
            theirs += usize::from(got == expected);
            // Where transformers is not SentencePiece, and no special token is the reason, SentencePiece is right.
            let own = row["own"].get(i.to_string()).map(|own| [vec![1], ids(own)].concat());
            assert!(got == expected || Some(&got) == own.as_ref(), "{name}: {text:?}: {got:?}, not {expected:?}");
        }
        assert!(theirs + 3 >= texts.len(), "{name}: {theirs}");
        assert_eq!(t.decode(&t.encode("Hello world", false, false)), "Hello world", "{name}");
        // Written out, it is a pipeline that does the same.
        let json = t.pipeline().unwrap().json().unwrap();
        let bare = folder();
        fs::write(bare.path().join("tokenizer.json"), json).unwrap();
        let again = of_folder(bare.path()).unwrap().unwrap();
        assert!(texts.iter().all(|x| again.encode(x, true, true) == t.encode(x, true, true)), "{name}");
    }
}

#[test]
fn what_is_written_of_a_gguf_file_gives_transformers_the_same_ids() {
    let (checked, pre) = (read("written.json"), read("pre.json"));
    let (spm, ugm) = (read("spm.json"), read("vocabularies/ids.json"));
    let rows = spm["rows"].as_array().unwrap();
    let families =
        FAMILIES.map(|f| (f, "tiny-bpe.gguf", Some(f), texts(&pre), pre["ids"][f].as_array().unwrap().clone()));
    let more = [
        (
            "tiny-spm",
            "tiny-spm.gguf",
            None,
            rows.iter().map(|r| r["text"].as_str().unwrap()).collect(),
            rows.iter().map(|r| json!([vec![1], ids(r.get("parsed").unwrap_or(&r["ids"]))].concat())).collect(),
        ),
        ("tiny-ugm", "tiny-ugm.gguf", None, texts(&ugm), ugm["ugm"].as_array().unwrap().clone()),
    ];
    for (name, file, family, texts, expected) in families.into_iter().chain(more) {
        let (own, json) = written(file, family);
        let about = &checked[name];
        let hash = format!("{:016x}", fnv(json.as_bytes()));
        assert_eq!(
            about["fnv"], hash,
            "{name}: the file was not this one when transformers opened it: check_written.py"
        );
        let dir = folder();
        fs::write(dir.path().join("tokenizer.json"), &json).unwrap();
        let again = of_folder(dir.path()).unwrap().unwrap();
        // What transformers gave otherwise than llama.cpp.
        let differ = about["differ"].as_object().unwrap();
        for (i, text) in texts.iter().enumerate() {
            let theirs = ids(&expected[i]);
            assert_eq!(again.encode(text, true, true), theirs, "{name}: {text:?}, as a folder");
            assert_eq!(own.encode(text, true, true), theirs, "{name}: {text:?}");
        }
        assert!(differ.is_empty(), "{name}: {} texts differ", differ.len());
    }
    // A whole model's folder.
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("recall");
    save_bundled(&dir);
    let hash = format!("{:016x}", fnv(&fs::read(dir.join("tokenizer.json")).unwrap()));
    assert_eq!((&checked["recall"]["fnv"], &checked["recall"]["differ"]), (&json!(hash), &json!({})));
    let generation: Value = serde_json::from_slice(&fs::read(dir.join("generation_config.json")).unwrap()).unwrap();
    let model = Model::open("bundled:recall", Path::new(".")).unwrap();
    assert_eq!(ids(&generation["eos_token_id"]), model.tokenizer().unwrap().unwrap().ends());
}

#[test]
fn every_end_of_a_text_counts() {
    let (dir, all) = (folder(), read("pipelines.json"));
    let mut json = all["pipelines"][0]["json"].clone();
    json["model"] = all["models"]["level"].clone();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let path = dir.path().join("config.json");
    let base: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let ends = |config: Value, generation: Option<Value>, named: Value| {
        let mut whole = base.clone();
        whole["eos_token_id"] = config;
        fs::write(&path, whole.to_string()).unwrap();
        let _ = fs::remove_file(dir.path().join("generation_config.json"));
        if let Some(ids) = generation {
            let text = json!({ "eos_token_id": ids, "temperature": 0.6 }).to_string();
            fs::write(dir.path().join("generation_config.json"), text).unwrap();
        }
        fs::write(dir.path().join("tokenizer_config.json"), json!({ "eos_token": named }).to_string()).unwrap();
        let t = of_folder(dir.path()).unwrap().unwrap();
        (t.ends().to_vec(), t.eos())
    };
    assert_eq!(ends(json!(2), None, Value::Null), (vec![2], Some(2)));
    assert_eq!(ends(json!([5, 6, 7, 8, 9]), None, Value::Null), (vec![5, 6, 7, 8, 9], Some(5)));
    assert_eq!(ends(json!(5), Some(json!([5, 40, 41, 42])), json!("</s>")), (vec![2, 5, 40, 41, 42], Some(2)));
    assert_eq!(ends(Value::Null, Some(json!(7)), Value::Null), (vec![7], Some(7)));
    assert_eq!(ends(json!(-1), Some(json!([-1, null])), Value::Null), (vec![], None));
    assert_eq!(ends(json!([-1, 3, null]), Some(Value::Null), json!({ "content": "<s>" })), (vec![1, 3], Some(1)));
    assert_eq!(ends(json!([4_000_000_000_u32]), None, Value::Null), (vec![], None));
}

/// A table of characters that is none, at which the library panics.
const BROKEN_TABLE: &[u8] = br#"{"version":"1.0","added_tokens":[],"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;

#[test]
fn without_a_tokenizer_there_is_no_text_and_there_is_a_plan() {
    let dir = folder();
    let open = || {
        let model = Model::open(dir.path().to_str().unwrap(), Path::new(".")).unwrap();
        Words::of(&model).unwrap()
    };
    let text = config(&[("run.prompt", "Hello there")]);
    let tokens = config(&[("run.prompt", "tokens:7")]);
    for (file, content, says) in [
        ("tokenizer.model", &b""[..], "none is text"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>", "tokenizer.model"),
        ("tokenizer.model", b"\x0a\x09\x0a\x05<unk>\x18\x02", "none is text"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "ranks of tokens (tiktoken)"),
        ("tokenizer.json", b"{", "tokenizer.json"),
        ("tokenizer.json", BROKEN_TABLE, "damaged"),
        ("README", b"", "tokenizer.json there, or its tokenizer.model or tekken.json, or vocab.json with merges.txt"),
    ] {
        fs::write(dir.path().join(file), content).unwrap();
        let words = open();
        let error = words.readable(&text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(says) && error.to_string().contains("tokens:N"), "{error}");
        assert!(words.encode("x", false).unwrap_err().to_string().contains(says));
        words.readable(&tokens).unwrap();
        assert_eq!((words.prompt(&text).unwrap().len(), words.prompt(&tokens).unwrap().len()), (11, 7));
        fs::remove_file(dir.path().join(file)).unwrap();
    }
}

/// Gemma adds runs of spaces, spelled as SentencePiece spells them, as words and not as marks.
#[test]
fn what_was_added_is_decoded_as_the_rest_is() {
    let space = "\u{2581}";
    let added = |id: u32, content: &str| json!({ "id": id, "content": content, "special": false, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false });
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(4, &space.repeat(2)), added(5, &space.repeat(3))],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": space },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": space }, "content": " " }, { "type": "Fuse" }
        ] },
        "model": { "type": "BPE", "vocab": { "<unk>": 0, "a": 1, "b": 2, space: 3 }, "merges": [], "unk_token": "<unk>" }
    });
    let dir = folder();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let t = of_folder(dir.path()).unwrap().unwrap();
    // As the library decodes it.
    for (ids, whole) in [(vec![1, 4, 2], "a  b"), (vec![1, 3, 2, 5, 1], "a b   a"), (vec![5, 4, 3, 2], "      b")] {
        assert_eq!(t.decode(&ids), whole, "{ids:?}");
    }
}

#[test]
fn a_text_that_a_pipeline_has_no_token_for_is_an_error() {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "?" }
    });
    let spec = TokenizerSpec { tokens: ["a"].iter().collect(), ..TokenizerSpec::default() };
    let t = Tokenizer::foreign(spec, Foreign::new(json.to_string().as_bytes()).unwrap(), &[]).unwrap();
    assert_eq!(t.encode("a", false, false), [0]);
    let error = t.encode_spans("b", false, None).unwrap_err().to_string();
    assert!(error.contains("this text") && error.contains("UNK"), "{error}");
}
