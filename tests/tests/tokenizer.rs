//! Token ids, held against llama.cpp's (tests/scripts/make_tokenizer.py made the fixtures).

#![allow(clippy::unwrap_used)] // A test fails by it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use ullage_core::model::gguf::Gguf;
use ullage_core::model::tokenizer::{Decoder, TokenKind, Tokenizer, TokenizerSpec};
use ullage_tests::skip::{gemma3_file, pass_over, smollm2_file};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn open(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(path).unwrap()).unwrap()
}

/// Holds a tokenizer against everything a fixture recorded.
fn check(tokenizer: &Tokenizer, recorded: &Value) {
    assert_eq!(tokenizer.vocab() as u64, recorded["vocab"].as_u64().unwrap());
    let all = 0..tokenizer.vocab() as u32;
    let ends: Vec<u32> = all.clone().filter(|&id| tokenizer.is_end_of_generation(id)).collect();
    assert_eq!(ends, ids(&recorded["end_of_generation"]));
    let control: Vec<u32> = all.clone().filter(|&id| tokenizer.kind(id) == Some(TokenKind::Control)).collect();
    assert_eq!(control, ids(&recorded["control"]));
    // FNV-1a over (length, bytes) of every piece.
    let mut hash = 0xcbf29ce484222325u64;
    for id in all {
        let piece = tokenizer.piece(id);
        for byte in (piece.len() as u32).to_le_bytes().into_iter().chain(piece) {
            hash = (hash ^ byte as u64).wrapping_mul(0x100000001b3);
        }
    }
    assert_eq!(format!("{hash:016x}"), recorded["pieces_fnv"].as_str().unwrap());

    let rows = recorded["rows"].as_array().unwrap();
    assert!(rows.len() >= 500);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let plain = ids(&row["ids"]);
        let or_plain = |key: &str| row.get(key).map_or_else(|| plain.clone(), ids);
        assert_eq!(tokenizer.encode(text, false, false), plain, "{text:?}");
        assert_eq!(tokenizer.encode(text, false, true), or_plain("parsed"), "specials parsed: {text:?}");
        assert_eq!(tokenizer.encode(text, true, false), or_plain("added"), "specials added: {text:?}");
    }
}

#[test]
fn smollm2_ids_are_those_of_llama_cpp() {
    let Some(path) = smollm2_file() else { return };
    let tokenizer = open(&path);
    check(&tokenizer, &json("smollm2.json"));
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity/smollm2.json");
    let parity: Value = serde_json::from_slice(&std::fs::read(parity).unwrap()).unwrap();
    let tokens = ids(&parity["tokens"]);
    assert_eq!(tokenizer.encode(parity["text"].as_str().unwrap(), true, false)[..tokens.len()], tokens);
}

#[test]
fn gemma3_ids_are_those_of_llama_cpp() {
    let Some(path) = gemma3_file() else { return };
    check(&open(&path), &json("gemma3.json"));
}

#[test]
fn sentencepiece_ids_are_those_of_llama_cpp() {
    check(&open(&fixture("tiny-spm.gguf")), &json("spm.json"));
}

#[test]
fn every_pre_tokenizer_splits_as_in_llama_cpp() {
    let recorded = json("pre.json");
    let texts: Vec<&str> = recorded["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let file = Gguf::open(&fixture("tiny-bpe.gguf")).unwrap();
    let mut wrong = Vec::new();
    for (pre, same) in recorded["same"].as_object().unwrap() {
        let names = same.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).chain([pre.as_str()]);
        for name in names {
            let tokenizer =
                Tokenizer::new(TokenizerSpec { pre: name.into(), ..TokenizerSpec::from_gguf(&file).unwrap() }).unwrap();
            for (text, expected) in texts.iter().zip(recorded["ids"][pre].as_array().unwrap()) {
                let (mut got, mut expected) = (tokenizer.encode(text, true, true), ids(expected));
                if name != pre {
                    // A name that splits the same may differ in whether it adds the beginning of text.
                    let bos = tokenizer.bos().unwrap();
                    got.splice(..got.len().min(usize::from(got.first() == Some(&bos))), []);
                    expected.splice(..expected.len().min(usize::from(expected.first() == Some(&bos))), []);
                }
                if got != expected {
                    wrong.push(format!("{name}: {text:?}: {got:?}, llama.cpp {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// Holds the vocabulary of the file `path` against texts and ids in the form of llama.cpp's own tests.
fn is_llama_cpps(path: &Path, texts: &Path, ids: &Path) {
    let tokenizer = open(path);
    let (texts, expected) = (std::fs::read_to_string(texts).unwrap(), std::fs::read_to_string(ids).unwrap());
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let rows: Vec<Vec<u32>> =
        expected.lines().map(|l| l.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    // llama.cpp's own end in a separator.
    assert!(rows.len() >= 20 && texts.len().abs_diff(rows.len()) <= 1, "{} texts, {} rows", texts.len(), rows.len());
    let wrong: Vec<_> = texts.iter().zip(&rows).filter(|(t, row)| tokenizer.encode(t, false, false) != **row).collect();
    assert!(wrong.is_empty(), "{}: {} of {}: {:?}", path.display(), wrong.len(), rows.len(), wrong[0]);
}

/// `tests/scripts/make_vocabs.py`: the vocabularies that are always here.
#[test]
fn llama_cpp_vocabularies() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bundled/recall.gguf");
    for (name, path) in
        [("recall", bundled), ("tiny-bpe", fixture("tiny-bpe.gguf")), ("tiny-spm", fixture("tiny-spm.gguf"))]
    {
        is_llama_cpps(&path, &fixture("vocabs/texts.inp"), &fixture(&format!("vocabs/{name}.out")));
    }
}

/// The same of the models that CI fetches.
#[test]
fn llama_cpp_vocabularies_of_real_models() {
    let Some(smollm2) = smollm2_file() else { return };
    let Some(gemma3) = gemma3_file() else { return };
    for (name, path) in [("smollm2", smollm2), ("gemma3", gemma3)] {
        is_llama_cpps(&path, &fixture("vocabs/texts.inp"), &fixture(&format!("vocabs/{name}.out")));
    }
}

/// llama.cpp's own vocabularies and texts (the folder `models` of its sources), when they are at hand.
#[test]
fn llama_cpp_vocabularies_of_its_sources() {
    let Some(folder) = std::env::var_os("ULLAGE_LLAMA_VOCABS").map(PathBuf::from) else {
        return pass_over("set ULLAGE_LLAMA_VOCABS to the folder `models` of llama.cpp's sources");
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (texts, expected) = (path.with_extension("gguf.inp"), path.with_extension("gguf.out"));
        if path.extension().is_none_or(|e| e != "gguf") || !texts.exists() {
            continue;
        }
        // Kinds of tokenizers that we do not know are refused by name.
        if let Err(error) = Tokenizer::from_gguf(&Gguf::open(&path).unwrap()) {
            eprintln!("{error}");
            continue;
        }
        is_llama_cpps(&path, &texts, &expected);
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn text_survives_the_way_there_and_back() {
    for (file, recorded) in [("tiny-bpe.gguf", "pre.json"), ("tiny-spm.gguf", "spm.json")] {
        let tokenizer = open(&fixture(file));
        let recorded = json(recorded);
        let texts: Vec<&str> = match recorded.get("texts") {
            Some(texts) => texts.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect(),
            None => recorded["rows"].as_array().unwrap().iter().map(|r| r["text"].as_str().unwrap()).collect(),
        };
        // After a token of its own, SentencePiece puts a space in front once more.
        for text in texts.into_iter().filter(|t| !t.contains("<tool>")) {
            let ids = tokenizer.encode(text, false, false);
            // SentencePiece cannot tell its own sign for a space from a space, nor from the one it puts in front.
            assert_eq!(tokenizer.decode(&ids), text.replace('\u{2581}', " "), "{file}");
            let (mut decoder, mut streamed) = (Decoder::new(), String::new());
            for &id in &ids {
                streamed.extend(decoder.push(&tokenizer, id));
            }
            assert_eq!(decoder.finish(), None, "{text:?}");
            let prefix = if file.contains("spm") && !text.is_empty() { " " } else { "" };
            assert_eq!(streamed, format!("{prefix}{text}"), "{file}");
        }
    }
}

#[test]
fn a_character_over_several_tokens_waits_for_its_last_byte() {
    let tokenizer = open(&fixture("tiny-spm.gguf"));
    let byte = |b: u8| tokenizer.find(&format!("<0x{b:02X}>")).unwrap();
    let mut decoder = Decoder::new();
    let crab = "🦀".as_bytes();
    for &b in &crab[..3] {
        assert_eq!(decoder.push(&tokenizer, byte(b)), None);
    }
    assert_eq!(decoder.push(&tokenizer, byte(crab[3])).as_deref(), Some("🦀"));
    // A character broken off by text, one that begins no character, and one broken off by the end.
    assert_eq!(decoder.push(&tokenizer, byte(crab[0])), None);
    assert_eq!(decoder.push(&tokenizer, byte(b'a')).as_deref(), Some("\u{fffd}a"));
    assert_eq!(decoder.push(&tokenizer, byte(0x80)).as_deref(), Some("\u{fffd}"));
    assert_eq!(decoder.push(&tokenizer, byte(0xe2)), None);
    assert_eq!(decoder.push(&tokenizer, byte(0x82)), None);
    assert_eq!(decoder.finish().as_deref(), Some("\u{fffd}"));
    assert_eq!(decoder.finish(), None);
    // Control tokens have no text, and ids beyond the vocabulary have none either.
    assert_eq!(decoder.push(&tokenizer, tokenizer.eos().unwrap()), None);
    assert_eq!(decoder.push(&tokenizer, u32::MAX), None);
    assert_eq!(tokenizer.piece(u32::MAX), b"");
}

fn spec() -> TokenizerSpec {
    TokenizerSpec {
        path: "bad.gguf".into(),
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: ["a", "b", "ab", "<|im_end|>"].iter().collect(),
        merges: ["a b"].iter().collect(),
        ..TokenizerSpec::default()
    }
}

#[test]
fn what_a_damaged_file_says_is_refused_by_name() {
    let long = "x".repeat(20_000);
    let llama = || TokenizerSpec { model: "llama".into(), scores: vec![0.0; 4], ..spec() };
    let bad: Vec<(&str, TokenizerSpec)> = vec![
        ("tokenizer.ggml.model", TokenizerSpec { model: "bert".into(), ..spec() }),
        ("tokenizer.ggml.model", TokenizerSpec { model: String::new(), ..spec() }),
        ("tokenizer.ggml.pre", TokenizerSpec { pre: "nonsense".into(), ..spec() }),
        ("tokenizer.ggml.tokens", TokenizerSpec { tokens: [""; 0].iter().collect(), ..spec() }),
        ("tokenizer.ggml.tokens[2]", TokenizerSpec { tokens: ["a", "b", "a"].iter().collect(), ..spec() }),
        ("tokenizer.ggml.tokens[1]", TokenizerSpec { tokens: ["a", long.as_str()].iter().collect(), ..spec() }),
        (
            "tokenizer.ggml.tokens[1]",
            TokenizerSpec { tokens: ["a", "<0x-1>"].iter().collect(), types: vec![1, 6], ..spec() },
        ),
        ("tokenizer.ggml.token_type", TokenizerSpec { types: vec![1; 3], ..spec() }),
        ("tokenizer.ggml.token_type", TokenizerSpec { types: vec![1; 5], ..spec() }),
        ("tokenizer.ggml.scores", TokenizerSpec { scores: vec![], ..llama() }),
        ("tokenizer.ggml.scores", TokenizerSpec { scores: vec![0.0; 3], ..llama() }),
        ("tokenizer.ggml.scores[1]", TokenizerSpec { scores: vec![0.0, f32::NAN, 0.0, 0.0], ..llama() }),
        ("tokenizer.ggml.merges[0]", TokenizerSpec { merges: ["ab"].iter().collect(), ..spec() }),
        ("tokenizer.ggml.merges[1]", TokenizerSpec { merges: ["a b", "a "].iter().collect(), ..spec() }),
        ("tokenizer.ggml.merges[0]", TokenizerSpec { merges: [""].iter().collect(), ..spec() }),
        ("tokenizer.ggml.bos_token_id", TokenizerSpec { bos: Some(4), ..spec() }),
        ("tokenizer.ggml.eos_token_id", TokenizerSpec { eos: Some(u32::MAX), ..spec() }),
        ("tokenizer.ggml.eot_token_id", TokenizerSpec { eot: Some(4), ..spec() }),
        ("tokenizer.ggml.unknown_token_id", TokenizerSpec { unk: Some(4), ..llama() }),
        ("tokenizer.ggml.padding_token_id", TokenizerSpec { pad: Some(9), ..llama() }),
        ("tokenizer.ggml.add_bos_token", TokenizerSpec { add_bos: Some(true), ..spec() }),
    ];
    for (field, spec) in bad {
        let error = Tokenizer::new(spec).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with(&format!("{field}: ")), "{field}: {error}");
    }
    assert!(
        Tokenizer::new(TokenizerSpec { pre: "nonsense".into(), ..spec() }).unwrap_err().to_string().contains("smollm")
    );
}

#[test]
fn odd_vocabularies_are_used_as_far_as_they_go() {
    // No merges, an empty token, a merge whose product is no token, text the vocabulary cannot spell.
    let odd = TokenizerSpec {
        tokens: ["a", "b", "", "<|im_end|>"].iter().collect(),
        merges: ["a b", "ab ab"].iter().collect(),
        ..spec()
    };
    let tokenizer = Tokenizer::new(odd).unwrap();
    assert_eq!(tokenizer.encode("abab", false, true), [0, 1, 0, 1]);
    assert_eq!(tokenizer.encode("zaéb\0", false, true), [0, 1]);
    assert_eq!(tokenizer.encode("a<|im_end|>b", false, true), [0, 3, 1]);
    assert_eq!(tokenizer.token(4), "");
    assert_eq!(tokenizer.find("ab"), None);
    assert!(tokenizer.is_end_of_generation(3) && tokenizer.is_control(3));
}

#[test]
fn random_bytes_as_a_tokenizer_never_panic() {
    use proptest::prelude::*;
    let text = proptest::collection::vec("(<0x[0-9A-F-]{1,3}>|[ab ▁Ġ]{0,4}|.{0,3})", 0..12);
    let strategy = (
        text.clone(),
        text,
        proptest::collection::vec(-1i32..9, 0..12),
        any::<[Option<u8>; 4]>(),
        any::<[bool; 3]>(),
        ".{0,20}",
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) };
    let made = std::cell::Cell::new(0);
    proptest!(config, |((tokens, merges, types, at, flags, text) in strategy)| {
        let id = |n: usize| at[n].map(|id| id as u32 % 16);
        let types = if flags[2] { vec![] } else { types };
        let spec = TokenizerSpec {
            path: "bad.gguf".into(),
            model: if flags[0] { "gpt2" } else { "llama" }.into(),
            scores: vec![-1.0; tokens.len()],
            tokens: tokens.iter().collect(),
            merges: merges.iter().collect(),
            types,
            bos: id(0), eos: id(1), eot: id(2), unk: id(3),
            add_bos: flags[1].then_some(true),
            ..TokenizerSpec::default()
        };
        if let Ok(tokenizer) = Tokenizer::new(spec) {
            made.set(made.get() + 1);
            let ids = tokenizer.encode(&text, true, true);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab()));
            tokenizer.decode(&ids);
        }
    });
    assert!(made.get() >= 20, "of 2000 vocabularies only {} were one", made.get());
}

#[test]
fn smollm2_is_built_small() {
    let Some(path) = smollm2_file() else { return };
    let spec = TokenizerSpec::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    assert!(Tokenizer::new(spec).unwrap().heap_bytes() < 8_000_000);
}
