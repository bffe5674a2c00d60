//! Models that are planned by what they say of themselves: public ones by their hyper-parameters, beside what transformers counts and
//! their makers say; those that nothing here runs, with the reason; and models in several files.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use ullage_core::Error;
use ullage_core::blocks::BlockType;
use ullage_core::kv::Pipeline;
use ullage_core::model::gguf::{Gguf, GgufWriter};
use ullage_core::model::outline::{self, Keeps, Known};
use ullage_core::model::{Model, Source};
use ullage_tests::{config, fixture, run};

/// Writes a `config.json` into a folder of its own.
fn folder(root: &Path, name: &str, config: &Value) -> PathBuf {
    let dir = root.join(name.replace(['/', ' '], "_"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    dir
}

/// What a public model comes to: parameters, bytes of weights, and bytes that a token beyond every window costs in f16.
fn figures(dir: &Path) -> (u64, u64, u64) {
    match Model::open(dir.to_str().unwrap(), Path::new(".")) {
        Ok(model) => {
            assert!(matches!(model.runs(), Err(Error::OnlyPlanned { .. })), "{}", dir.display());
            let chosen = config(&[("kv.format", "f16"), ("run.context", "131072"), ("kv.alloc", "paged")]);
            let pipeline = Pipeline::new(&chosen, &model.shape).unwrap();
            // By the cache's own formulas: what 64 tokens more take.
            let at = |tokens: usize| pipeline.sequence_bytes(tokens, tokens);
            (model.shape.parameters(), model.shape.bytes(), (at(60_064) - at(60_000)) / 64)
        }
        Err(Error::OnlyPlanned { .. }) => {
            let of = outline::of(dir).unwrap().unwrap();
            let weights = of.weights.clone().unwrap();
            assert_eq!(weights.known, Known::BySizes);
            (of.parameters.unwrap(), weights.bytes, of.token_bytes())
        }
        Err(other) => panic!("{}: {other}", dir.display()),
    }
}

/// `tests/scripts/make_outline.py`.
#[test]
fn public_models_are_planned_from_their_published_sizes() {
    let root = tempfile::tempdir().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(fixture("outline/models.json")).unwrap()).unwrap();
    assert!(all.len() >= 20);
    let mut families = std::collections::BTreeSet::new();
    println!("{:<22} {:>8} {:>18} {:>16} {:>10}  by", "model", "says", "parameters", "weights B", "B a token");
    for model in &all {
        let name = model["name"].as_str().unwrap();
        let dir = folder(root.path(), name, &model["config"]);
        let (parameters, bytes, token) = figures(&dir);
        let by = model["by"].as_str().unwrap();
        println!("{name:<22} {:>8} {parameters:>18} {bytes:>16} {token:>10}  {by}", model["says"].as_str().unwrap());
        let counted = model["parameters"].as_u64().unwrap();
        let far = (parameters as f64 / counted as f64 - 1.0).abs();
        // A router's bias is no parameter to transformers.
        assert!(far < 1e-6, "{name}: {parameters} parameters, transformers counts {counted}");
        // Norms are held in f32.
        assert!((bytes as f64 / (2.0 * counted as f64) - 1.0).abs() < 1e-3, "{name}: {bytes} bytes");
        assert_eq!(token, model["token"].as_u64().unwrap(), "{name}: bytes a token, {by}");
        families.insert(model["config"]["model_type"].as_str().unwrap().to_owned());
    }
    assert!(families.len() >= 15, "{families:?}");
}

#[test]
fn kinds_of_layers_keep_what_they_keep() {
    let root = tempfile::tempdir().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&std::fs::read(fixture("outline/models.json")).unwrap()).unwrap();
    let of = |name: &str| {
        let found = all.iter().find(|m| m["name"] == name).unwrap();
        outline::of(&folder(root.path(), name, &found["config"])).unwrap().unwrap()
    };
    let jamba = of("Jamba-v0.1");
    assert!(jamba.why.contains("state space"), "{}", jamba.why);
    // 8192 channels of 16, and three inputs each.
    assert_eq!(jamba.kinds(), [(Keeps::State { state: 8192 * 19 }, 28), (Keeps::Full { row: 2048 }, 4)]);
    // As published: 4 GB at 256K tokens; the states are a few megabytes.
    assert_eq!(jamba.cache(256 << 10, 2), Some((4 << 30) + 28 * 8192 * 19 * 4));
    let next = of("Qwen3-Next-80B-A3B");
    assert!(next.why.contains("linear attention"), "{}", next.why);
    // 32 states of 128 × 128, and three inputs of 2 · 2048 + 4096 channels.
    assert_eq!(
        next.kinds(),
        [(Keeps::State { state: 32 * 128 * 128 + 3 * 8192 }, 36), (Keeps::Full { row: 1024 }, 12)]
    );
    let v3 = of("DeepSeek-V3");
    assert!(v3.why.contains("latent attention"), "{}", v3.why);
    assert_eq!(v3.kinds(), [(Keeps::Latent { row: 576 }, 61)]);
    // It runs in floats; its files are quantized.
    let mut said = all.iter().find(|m| m["name"] == "gpt-oss-120b").unwrap()["config"].clone();
    assert!(outline::of(&folder(root.path(), "oss", &said)).unwrap().is_none());
    said["quantization_config"] = serde_json::json!({ "quant_method": "mxfp4" });
    let oss = outline::of(&folder(root.path(), "oss4", &said)).unwrap().unwrap();
    assert_eq!(oss.kinds(), [(Keeps::Window { row: 1024, tokens: 128 }, 18), (Keeps::Full { row: 1024 }, 18)]);
    assert_eq!(oss.cache(1000, 2), Some(18 * 2048 * (128 + 1000)));
    let nemotron = of("Nemotron-H-8B");
    assert_eq!(nemotron.kinds().iter().map(|(_, n)| *n).collect::<Vec<_>>(), [24, 24, 4]);
    assert!(matches!(of("Falcon-H1-7B").kinds()[..], [(Keeps::Both { row: 512, .. }, 44)]));
}

#[test]
fn what_is_not_run_says_why_and_costs_exit_3() {
    let root = tempfile::tempdir().unwrap();
    let base = json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 40, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "head_dim": null, "attention_bias": null });
    let with = |more: Value| {
        let mut config = base.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let method = |m: &str| with(json!({ "quantization_config": { "quant_method": m, "bits": 4 } }));
    for (name, config, why) in [
        ("bitsandbytes", method("bitsandbytes"), "quantized by bitsandbytes"),
        ("gptq", method("gptq"), "quantized by gptq"),
        ("awq", method("awq"), "quantized by awq"),
        ("compressed", method("compressed-tensors"), "quantized by compressed-tensors"),
        ("mxfp4", method("mxfp4"), "quantized by mxfp4"),
        ("vision", json!({ "model_type": "some_vl", "vision_config": {}, "text_config": base }), "tower for pictures"),
        ("unknown", with(json!({ "model_type": "nobody_knows" })), "`nobody_knows` is not computed"),
        (
            "hybrid",
            with(json!({ "model_type": "x", "layer_types": ["mamba", "attention"], "time_step_limit": [0.0, 1.0] })),
            "state space",
        ),
    ] {
        let dir = folder(root.path(), name, &config);
        let error = Model::open(dir.to_str().unwrap(), Path::new(".")).unwrap_err();
        assert_eq!((error.exit_code(), error.kind()), (3, "only_planned"), "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
        let of = outline::of(&dir.join("config.json")).unwrap().unwrap();
        assert_eq!(of.layers.len(), 2, "{name}");
        assert!(of.table(4096).contains(why), "{name}");
    }
    // What a quantized folder's headers say is exact.
    let dir = folder(root.path(), "packed", &method("gptq"));
    let header = br#"{"model.layers.0.self_attn.q_proj.qweight":{"dtype":"I32","shape":[8,64],"data_offsets":[0,2048]},"model.layers.0.self_attn.q_proj.scales":{"dtype":"F16","shape":[1,64],"data_offsets":[2048,2176]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend(std::iter::repeat_n(0u8, 2176));
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
    let weights = outline::of(&dir).unwrap().unwrap().weights.unwrap();
    assert_eq!((weights.bytes, weights.known), (2176, Known::Exactly));
    assert_eq!(weights.types.into_iter().collect::<Vec<_>>(), [("F16".to_owned(), 128), ("I32".to_owned(), 2048)]);
    // A configuration alone is planned; what would run it is told why it does not.
    let dir = folder(root.path(), "bare", &base);
    let model = Model::open(dir.to_str().unwrap(), Path::new(".")).unwrap();
    assert!(matches!(&*model.source, Source::Absent { .. }));
    let failed = run(&Arc::new(model), &config(&[])).error.unwrap();
    assert_eq!((&*failed.kind, failed.code), ("only_planned", 3), "{}", failed.message);
    assert!(failed.message.contains("no weights beside its config.json"), "{}", failed.message);
    // Sizes that no model has are no reason to end otherwise.
    for (field, value) in
        [("num_hidden_layers", json!(1u64 << 40)), ("hidden_size", json!(-1)), ("num_attention_heads", json!(0))]
    {
        let mut config = with(json!({ "model_type": "nobody_knows" }));
        config[field] = value;
        let dir = folder(root.path(), field, &config);
        let _ = outline::of(&dir).map(|of| of.map(|of| of.table(u64::MAX)));
    }
}

/// Cuts the tiny model of a fixture as llama.cpp's `gguf-split` does: metadata in the first part, tensors in all.
fn split(from: &Path, dir: &Path, count: usize) -> Vec<PathBuf> {
    let whole = Gguf::open(from).unwrap();
    let tensors = whole.tensors();
    let each = tensors.len().div_ceil(count);
    let mut out = Vec::new();
    for (no, own) in tensors.chunks(each).enumerate() {
        let mut writer = GgufWriter::new("qwen2");
        if no == 0 {
            writer.copy_metadata(&whole, |_| true).unwrap();
        }
        for (key, value) in [("split.no", no), ("split.count", count), ("split.tensors.count", tensors.len())] {
            writer.u32(key, value as u32);
        }
        for t in own {
            let dims: Vec<usize> = t.dims().iter().map(|d| *d as usize).collect();
            writer.tensor(&t.name, t.ty, &dims);
        }
        let path = dir.join(format!("tiny-{:05}-of-{count:05}.gguf", no + 1));
        writer
            .write(&path, |info, sink| {
                let t = own.iter().find(|t| t.name == info.name).unwrap();
                let mut bytes = vec![0; t.bytes as usize];
                whole.read_at(t, 0, &mut bytes)?;
                sink.put(&bytes)
            })
            .unwrap();
        out.push(path);
    }
    out
}

#[test]
fn several_files_open_as_one_and_one_alone_says_so() {
    let from = fixture("arch/qwen2/model.gguf");
    let dir = tempfile::tempdir().unwrap();
    let parts = split(&from, dir.path(), 3);
    assert_eq!(parts.len(), 3);
    let whole = Model::open(from.to_str().unwrap(), Path::new(".")).unwrap();
    // Whichever part is named.
    for part in &parts {
        let model = Model::open(part.to_str().unwrap(), Path::new(".")).unwrap();
        assert_eq!(model.shape, whole.shape);
        assert_eq!(model.files().len(), 3);
        for t in whole.shape.tensors() {
            let rows = |m: &Model| {
                let mut out = vec![0; t.bytes() as usize];
                m.source.read_rows(t, 0, t.rows, &mut out).unwrap();
                out
            };
            assert!(rows(&model) == rows(&whole), "{}", t.name);
        }
        let bytes: u64 = parts.iter().map(|p| p.metadata().unwrap().len()).sum();
        assert_eq!(model.file_bytes, bytes);
    }
    let alone = tempfile::tempdir().unwrap();
    let one = alone.path().join(parts[0].file_name().unwrap());
    std::fs::copy(&parts[0], &one).unwrap();
    let error = Model::open(one.to_str().unwrap(), Path::new(".")).unwrap_err().to_string();
    assert!(error.contains("part 1 of 3; the others are missing"), "{error}");
    std::fs::copy(&parts[1], alone.path().join(parts[1].file_name().unwrap())).unwrap();
    let error = Model::open(one.to_str().unwrap(), Path::new(".")).unwrap_err().to_string();
    assert!(error.contains("tiny-00003-of-00003.gguf is missing"), "{error}");
    // Of another model, or under a name that says nothing.
    std::fs::copy(&parts[1], alone.path().join(parts[2].file_name().unwrap())).unwrap();
    let error = Model::open(one.to_str().unwrap(), Path::new(".")).unwrap_err().to_string();
    assert!(error.contains("is no part 3 of 3"), "{error}");
    let renamed = alone.path().join("model.gguf");
    std::fs::copy(&parts[0], &renamed).unwrap();
    let error = Model::open(renamed.to_str().unwrap(), Path::new(".")).unwrap_err().to_string();
    assert!(error.contains("part 1 of 3; the others are missing"), "{error}");
}

#[test]
fn shards_open_without_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("arch/llama");
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let names: Vec<&String> = header.as_object().unwrap().keys().filter(|k| *k != "__metadata__").collect();
    for (no, own) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let (mut entries, mut payload) = (serde_json::Map::new(), Vec::new());
        for name in own {
            let t = &header[*name];
            let at = |i: usize| t["data_offsets"][i].as_u64().unwrap() as usize;
            let begin = payload.len();
            payload.extend_from_slice(&bytes[8 + size + at(0)..8 + size + at(1)]);
            entries.insert(
                (*name).clone(),
                json!({ "dtype": t["dtype"], "shape": t["shape"], "data_offsets": [begin, payload.len()] }),
            );
        }
        let text = serde_json::to_vec(&entries).unwrap();
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text);
        file.extend(payload);
        std::fs::write(dir.path().join(format!("model-0000{}-of-00002.safetensors", no + 1)), file).unwrap();
    }
    let whole = Model::open(from.to_str().unwrap(), Path::new(".")).unwrap();
    let shard = dir.path().join("model-00002-of-00002.safetensors");
    for path in [dir.path(), &shard] {
        let model = Model::open(path.to_str().unwrap(), Path::new(".")).unwrap();
        assert_eq!(model.shape.layers, whole.shape.layers);
    }
    std::fs::remove_file(dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    for path in [dir.path(), &shard] {
        let error = Model::open(path.to_str().unwrap(), Path::new(".")).unwrap_err().to_string();
        assert!(error.contains("part 2 of 2; model-00001-of-00002.safetensors is missing"), "{error}");
    }
}

/// A hybrid and a model of latent attention as GGUF: kinds by their tensors.
#[test]
fn a_header_tells_kinds_of_layers_by_their_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let mut writer = GgufWriter::new("jamba");
    for (key, n) in [
        ("jamba.block_count", 4),
        ("jamba.embedding_length", 64),
        ("jamba.context_length", 512),
        ("jamba.ssm.inner_size", 128),
        ("jamba.ssm.state_size", 16),
        ("jamba.attention.head_count", 4),
    ] {
        writer.u32(key, n);
    }
    let tensors: [(&str, &[usize]); 7] = [
        ("blk.0.ssm_conv1d.weight", &[4, 128]),
        ("blk.1.attn_k.weight", &[64, 32]),
        ("blk.1.attn_v.weight", &[64, 32]),
        ("blk.2.ffn_up.weight", &[64, 96]),
        ("blk.3.attn_kv_a_mqa.weight", &[64, 40]),
        ("output_norm.weight", &[64]),
        ("token_embd.weight", &[64, 10]),
    ];
    for (name, dims) in &tensors {
        writer.tensor(name, BlockType::F32, dims);
    }
    writer.write(&path, |info, sink| sink.put(&vec![0u8; info.bytes as usize])).unwrap();
    let of = outline::of(&path).unwrap().unwrap();
    let state = Keeps::State { state: 128 * 16 + 3 * 128 };
    assert_eq!(of.layers, [state, Keeps::Full { row: 64 }, Keeps::Nothing, Keeps::Latent { row: 40 }]);
    let numbers: u64 = tensors.iter().map(|(_, dims)| dims.iter().product::<usize>() as u64).sum();
    assert_eq!((of.parameters, of.weights.unwrap().bytes), (Some(numbers), 4 * numbers));
    let error = Model::open(path.to_str().unwrap(), Path::new(".")).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[test]
fn a_vocabulary_without_weights_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.gguf");
    let mut writer = GgufWriter::new("falcon");
    writer.u32("falcon.block_count", 2);
    writer.write(&path, |_, _| Ok(())).unwrap();
    let error = Model::open(path.to_str().unwrap(), Path::new(".")).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("a vocabulary"), "{error}");
}

#[test]
fn the_files_of_a_folder_open_the_folder() {
    let folder = fixture("arch/qwen2");
    let of = |path: &Path| Model::open(path.to_str().unwrap(), Path::new(".")).unwrap();
    let whole = of(&folder);
    let config = of(&folder.join("config.json"));
    assert_eq!((config.hash, config.file_bytes), (whole.hash.clone(), whole.file_bytes));
    // Without weights beside it, a configuration is planned by itself.
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), alone.path().join("config.json")).unwrap();
    let bare = of(&alone.path().join("config.json"));
    assert_eq!(bare.file_bytes, 0);
    assert!(bare.runs().is_err());
}

/// MiniLM's numbers: 22.7 million, nothing kept of a text that is read at once.
#[test]
fn an_encoder_keeps_nothing_and_has_no_head() {
    let root = tempfile::tempdir().unwrap();
    let said = serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 512
    });
    let outline = outline::of(&folder(root.path(), "bert", &said)).unwrap().unwrap();
    assert!(outline.why.contains("`bert`"), "{}", outline.why);
    assert_eq!(outline.cache(512, 2), Some(0));
    // The configuration says nothing of biases, places and kinds, 0.3 million of them.
    let parameters = outline.parameters.unwrap();
    assert!((22_200_000..22_800_000).contains(&parameters), "{parameters}");
}
