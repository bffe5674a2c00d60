//! Hugging Face folders: written, opened again, sharded, damaged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ullage_core::Result;
use ullage_core::blocks::{self, BlockType};
use ullage_core::model::Model;
use ullage_core::model::hf::save;
use ullage_core::model::safetensors::{Declared, SafeFile, write};
use ullage_core::shape::{LayerShape, Role, TensorShape};
use ullage_tests::{Rig, assert_same, bundled, config, ids, run, smollm2};

/// Writes `model` with its own numbers.
fn export(model: &Model, dir: &Path, ty: BlockType) -> Result<Option<String>> {
    let mut raw = Vec::new();
    save(dir, model, ty, &mut |t: &TensorShape, first, n, out: &mut [f32]| {
        raw.resize(n * t.row_bytes(), 0);
        model.source.read_rows(t, first, n, &mut raw)?;
        blocks::decode(t.block()?, &raw, out)?;
        Ok(())
    })
    .map(|saved| saved.no_tokenizer)
}

fn opened(dir: &Path) -> Result<Arc<Model>> {
    Model::open(dir.to_str().unwrap(), Path::new(".")).map(Arc::new)
}

const TEXTS: [&str; 6] = [
    "Once upon a time, in 1984, there were 3 foxes.",
    "  spaces   and\n\n\ttabs \r\n",
    "don't I'll we've 'quoted' _under_score a+b=c; {}",
    "Ünïcödé 漢字 🦊 e\u{301}",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
];

fn same_words(a: &Model, b: &Model) {
    let (x, y) = (a.tokenizer().unwrap().unwrap(), b.tokenizer().unwrap().unwrap());
    for text in TEXTS {
        for (special, parse) in [(true, false), (false, true), (false, false)] {
            let (p, q) = (x.encode(text, special, parse), y.encode(text, special, parse));
            assert_eq!(p, q, "{text:?}");
            assert_eq!(x.decode(&p), y.decode(&q));
        }
    }
    assert_eq!((x.bos(), x.eos(), x.vocab(), x.adds_bos()), (y.bos(), y.eos(), y.vocab(), y.adds_bos()));
    let messages = [ullage_core::model::chat::Message::new("user", "Hello?")];
    let chat = |m: &Model| {
        m.chat_template().unwrap().map(|t| t.render(&messages, true, &m.special_tokens().unwrap()).unwrap())
    };
    assert_eq!(chat(a), chat(b));
}

#[test]
fn a_written_folder_opens_to_the_same_model_words_and_bits() {
    for model in [Some(bundled()), smollm2()].into_iter().flatten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("model");
        assert_eq!(export(&model, &dir, BlockType::F32).unwrap(), None);
        let again = opened(&dir).unwrap();
        let sizes = |m: &Model| m.shape.tensors().map(|t| (t.name.clone(), t.rows, t.cols)).collect::<Vec<_>>();
        assert_eq!(sizes(&again), sizes(&model));
        assert_eq!((again.shape.ropes.clone(), again.shape.context), (model.shape.ropes.clone(), model.shape.context));
        same_words(&model, &again);
        let (prompt, forced) = (ids(17, 900), ids(3, 500));
        let plain = Rig::new(&model, &config(&[("weights.format", "f32")])).unwrap().logits(&prompt, &forced);
        let folder_f32 = Rig::new(&again, &config(&[])).unwrap().logits(&prompt, &forced);
        assert_same(&plain, &folder_f32, &model.shape.name);
        let streamed = Rig::new(&again, &config(&[("place.weights", "stream")])).unwrap().logits(&prompt, &forced);
        assert_same(&plain, &streamed, "streamed from the folder");
    }
}

#[test]
fn halves_and_single_files_open_too_and_plans_hold() {
    let (folder, model) = (tempfile::tempdir().unwrap(), bundled());
    for (ty, close) in [(BlockType::Bf16, 0.1), (BlockType::F16, 0.02)] {
        let dir = folder.path().join(ty.to_string());
        export(&model, &dir, ty).unwrap();
        let again = opened(&dir.join("model.safetensors")).unwrap();
        let types = |l: &LayerShape| [Role::Down, Role::FfnNorm].map(|r| l.tensors.get(r).unwrap().ty);
        assert!(again.shape.layers.iter().all(|l| types(l) == [ty, BlockType::F32]));
        let (a, b) = (Rig::new(&model, &config(&[])), Rig::new(&again, &config(&[])));
        let (a, b) = (a.unwrap().logits(&ids(9, 900), &[]), b.unwrap().logits(&ids(9, 900), &[]));
        let most = a[0].iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(a[0].iter().zip(&b[0]).all(|(x, y)| (x - y).abs() <= close * most), "{ty}");
        let report = run(&again, &config(&[("run.max_tokens", "4")]));
        assert_eq!(report.error, None);
        let gaps = &report.gap.peak;
        assert!(!gaps.is_empty() && gaps.values().all(|gap| (0..=256 << 10).contains(gap)), "{gaps:?}");
    }
}

/// The same tensors in two files with an index.
fn shard(dir: &Path) {
    let whole = SafeFile::open(&dir.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", part + 1);
        let mine: Vec<_> = whole.tensors().iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, t)| t).collect();
        let declared: Vec<Declared> = mine
            .iter()
            .map(|t| Declared {
                name: t.name.to_string(),
                ty: t.ty.unwrap(),
                dims: t.dims.iter().map(|d| *d as usize).collect(),
            })
            .collect();
        declared.iter().for_each(|d| drop(map.insert(d.name.clone(), name.clone().into())));
        let mut next = mine.iter();
        write(&dir.join(&name), &[], &declared, |_, put| {
            let t = next.next().unwrap();
            let mut bytes = vec![0; t.bytes as usize];
            whole.read_at(t, 0, &mut bytes)?;
            put(&bytes)
        })
        .unwrap();
    }
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_one_model_and_an_index_reaches_nowhere_else() {
    let (folder, model) = (tempfile::tempdir().unwrap(), bundled());
    let dir = folder.path().join("m");
    export(&model, &dir, BlockType::F32).unwrap();
    let whole = opened(&dir).unwrap();
    let logits = |m: &Model| Rig::new(m, &config(&[])).unwrap().logits(&ids(9, 900), &[]);
    let expected = logits(&whole);
    shard(&dir);
    assert_same(&expected, &logits(&opened(&dir).unwrap()), "sharded");
    let index = dir.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    for (to, word) in [("../x.safetensors", "../x"), ("/etc/passwd", "passwd"), ("gone.safetensors", "gone")] {
        fs::write(&index, text.replace("model-00001-of-00002.safetensors", to)).unwrap();
        let error = opened(&dir).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // A tensor that the index has in the other file.
    fs::write(&index, text.replacen("model-00001-of-00002", "model-00002-of-00002", 1)).unwrap();
    assert!(opened(&dir).unwrap_err().to_string().contains("missing"));
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let (folder, model) = (tempfile::tempdir().unwrap(), bundled());
    let dir = folder.path().join("m");
    let fails = |change: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(&dir);
        export(&model, &dir, BlockType::F32).unwrap();
        change(&dir);
        let opened = opened(&dir).and_then(|m| m.tokenizer().map(|_| m));
        opened.err().map_or_else(|| panic!("it opened"), |e| e.to_string())
    };
    let swap = |file: &'static str, from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let bytes = fs::read(dir.join(file)).unwrap();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("{from}"));
            fs::write(dir.join(file), [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()).unwrap();
        }
    };
    const CONFIG: &str = "config.json";
    let cases: [(&dyn Fn(&Path), &[&str]); 13] = [
        (&|d| fs::remove_file(d.join(CONFIG)).unwrap(), &["config.json", "missing"]),
        (
            &|d| fs::rename(d.join("model.safetensors"), d.join("pytorch_model.bin")).unwrap(),
            &["model.safetensors", "missing", "pickle"],
        ),
        (&swap(CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 320"), &["asks for"]),
        (&swap(CONFIG, "\"num_hidden_layers\": 8", "\"num_hidden_layers\": 7"), &["model.layers.7"]),
        (&swap(CONFIG, "\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9"), &["model.layers.8", "missing"]),
        (&swap(CONFIG, "\"num_hidden_layers\": 8", "\"num_hidden_layers\": 99999999999"), &["num_hidden_layers"]),
        (&swap(CONFIG, "\"attention_bias\": false", "\"attention_bias\": true"), &["attention_bias"]),
        (&swap(CONFIG, "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""), &["hidden_act", "gelu"]),
        (
            &swap(CONFIG, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"),
            &["lm_head.weight", "missing"],
        ),
        (&swap("model.safetensors", "model.norm.weight", "model.nord.weight"), &["model.norm.weight"]),
        (&swap("model.safetensors", "\"F32\"", "\"I32\""), &["I32"]),
        (&swap("tokenizer.json", "\"<|pad|>\":0", "\"<|pad|>\":70000"), &["70000", "1024 rows"]),
        (&|d| fs::write(d.join("tokenizer.json"), "{").unwrap(), &["tokenizer.json"]),
    ];
    for (change, words) in cases {
        let error = fails(change);
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    // Without weights of any kind it is planned, and not run.
    let _ = fs::remove_dir_all(&dir);
    export(&model, &dir, BlockType::F32).unwrap();
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let planned = opened(&dir).unwrap();
    assert_eq!(planned.shape.parameters(), model.shape.parameters());
    let error = planned.runs().unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("model.safetensors"), "{error}");
}

/// A tokenizer.json that ours is not built from goes through the `tokenizers` crate: the same vocabulary with a
/// pre-tokenizer that has no name here.
#[test]
fn an_unknown_pre_tokenizer_is_the_crates() {
    let (folder, model) = (tempfile::tempdir().unwrap(), bundled());
    let dir = folder.path().join("m");
    export(&model, &dir, BlockType::F32).unwrap();
    let path = dir.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    json["pre_tokenizer"] = serde_json::json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": gpt2 }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }
    ]});
    fs::write(&path, json.to_string()).unwrap();
    same_words(&model, &opened(&dir).unwrap());
}
