//! Models of random numbers: their shapes, and that what candle decodes from them is what was promised.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use ullage_core::Error;
use ullage_core::blocks::BlockType;
use ullage_core::model::Model;
use ullage_core::model::random::{Source, TYPES, fill, parse, shape};
use ullage_core::shape::{ModelShape, TensorShape};

fn model(spec: &str) -> ModelShape {
    shape(&parse(spec).unwrap().unwrap()).unwrap()
}

#[test]
fn the_named_shapes_have_the_published_sizes() {
    // Parameters as the models' own cards and safetensors indexes give them.
    assert_eq!(model("random:llama-1b").parameters(), 1_235_814_400);
    assert_eq!(model("random:llama-8b@q4_0").parameters(), 8_030_261_248);
    assert_eq!(model("random:smollm2-135m").parameters(), 134_515_008);
    let shape = model("random:llama-8b@q4_k");
    assert_eq!((shape.layers[0].attention.kv_heads, shape.layers[0].attention.dim, shape.context), (8, 128, 131_072));
    assert!(shape.head().ty == BlockType::Q4K && shape.output_norm.ty == BlockType::F32);
    assert_eq!(model("random:llama-1b").head().ty, BlockType::F16);
}

#[test]
fn what_is_not_a_random_model_is_told_apart() {
    assert_eq!(parse("model.gguf").unwrap(), None);
    assert_eq!(parse("bundled:recall").unwrap(), None);
    let spec = parse("random:a@b/config.json").unwrap().unwrap();
    assert_eq!((spec.source, spec.ty), (Source::Config("a@b/config.json".into()), BlockType::F16));
    let spec = parse("random:x/config.json@q8_0").unwrap().unwrap();
    assert_eq!((spec.source, spec.ty), (Source::Config("x/config.json".into()), BlockType::Q8_0));
    assert_eq!(parse(&spec_text("random:llama-1b@q4_0")).unwrap().unwrap().to_string(), "random:llama-1b@q4_0");
    for (bad, words) in [
        ("random:", "not a shape"),
        ("random:llama-9b", "llama-8b"),
        ("random:llama-1b@", "type"),
        ("random:llama-1b@q9", "q4_0"),
        ("random:llama-1b@f64", "not a type random weights can have"),
    ] {
        let said = parse(bad).unwrap_err();
        assert!(said.exit_code() == 2 && said.to_string().contains(words), "{said}");
    }
    // 576 is not a multiple of 256.
    let said = shape(&parse("random:smollm2-135m@q4_k").unwrap().unwrap()).unwrap_err();
    assert!(matches!(said, Error::Refused { .. }) && said.to_string().contains("576"), "{said}");
}

fn spec_text(text: &str) -> String {
    parse(text).unwrap().unwrap().to_string()
}

#[test]
fn a_config_json_gives_its_shape_or_names_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let good = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "rope_theta": 250000.0,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "tie_word_embeddings": false, "unknown": [1],
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0},
    });
    let read = |config: &serde_json::Value| {
        std::fs::write(&path, config.to_string()).unwrap();
        shape(&parse(&format!("random:{}@q8_0", path.display())).unwrap().unwrap())
    };
    let got = read(&good).unwrap();
    assert_eq!((got.hidden, got.vocab, got.context, got.layers.len()), (256, 1000, 4096, 3));
    assert_eq!(
        (got.layers[0].attention.heads, got.layers[0].attention.kv_heads, got.layers[0].attention.dim),
        (8, 2, 32)
    );
    assert_eq!((got.ropes[0].base, got.norm_eps), (250_000.0, 1e-6));
    assert!(got.output.is_some() && got.rope_freqs.is_some());
    for (key, value, field) in [
        ("model_type", serde_json::json!("mamba"), "model_type"),
        ("attention_bias", serde_json::json!(true), "attention_bias"),
        ("num_local_experts", serde_json::json!(8), "num_experts"),
        ("sliding_window", serde_json::json!(128), "sliding_window"),
        ("rope_scaling", serde_json::json!({"type": "spiral", "factor": 4.0}), "rope_scaling.rope_type"),
        ("num_hidden_layers", serde_json::json!(u64::MAX), "num_hidden_layers"),
        ("num_hidden_layers", serde_json::json!(0), "num_hidden_layers"),
        ("hidden_size", serde_json::json!(257), "num_attention_heads"),
        ("hidden_size", serde_json::json!(1u64 << 40), "hidden_size"),
        ("num_key_value_heads", serde_json::json!(3), "num_key_value_heads"),
        ("vocab_size", serde_json::json!(-1), "config.json"),
        ("rms_norm_eps", serde_json::json!(0.0), "rms_norm_eps"),
    ] {
        let mut config = good.clone();
        config[key] = value;
        let said = read(&config).unwrap_err();
        assert!(matches!(&said, Error::Model { field: found, .. } if found == field), "{key}: {said}");
    }
    assert!(matches!(shape(&parse("random:/none/config.json").unwrap().unwrap()), Err(Error::Io { .. })));
}

/// Decoded by candle, as a reference of its own.
fn decode(t: &TensorShape, bytes: &[u8]) -> Vec<f32> {
    let plain = |dtype| {
        let raw = Tensor::from_raw_buffer(bytes, dtype, &[t.rows * t.cols], &Device::Cpu).unwrap();
        raw.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    };
    let dtype = match t.block().unwrap() {
        BlockType::F32 => return plain(DType::F32),
        BlockType::F16 => return plain(DType::F16),
        BlockType::Bf16 => return plain(DType::BF16),
        BlockType::Q4_0 => GgmlDType::Q4_0,
        BlockType::Q4_1 => GgmlDType::Q4_1,
        BlockType::Q5_0 => GgmlDType::Q5_0,
        BlockType::Q5_1 => GgmlDType::Q5_1,
        BlockType::Q8_0 => GgmlDType::Q8_0,
        BlockType::Q4K => GgmlDType::Q4K,
        BlockType::Q6K => GgmlDType::Q6K,
        BlockType::Q2K => GgmlDType::Q2K,
        BlockType::Q3K => GgmlDType::Q3K,
        BlockType::Q5K => GgmlDType::Q5K,
        // What candle does not know.
        other => {
            let mut values = vec![0.0; t.rows * t.cols];
            ullage_core::blocks::decode(other, bytes, &mut values).unwrap();
            return values;
        }
    };
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, (t.rows, t.cols)).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn matrix(ty: BlockType, rows: usize, cols: usize) -> TensorShape {
    TensorShape { name: "blk.0.attn_q.weight".into(), ty: ty.into(), rows, cols }
}

fn filled(t: &TensorShape, seed: u64) -> Vec<u8> {
    let mut out = vec![0; t.bytes() as usize];
    fill(t, 0..t.rows, seed, &mut out).unwrap();
    out
}

#[test]
fn every_type_deviates_by_one_over_the_root_of_the_columns() {
    for ty in TYPES {
        for cols in [256, 14_336] {
            let t = matrix(ty, 65_536 / cols * 4 + 1, cols);
            let values = decode(&t, &filled(&t, 3));
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            let wanted = 1.0 / (cols as f64).sqrt();
            assert!((deviation / wanted - 1.0).abs() < 0.05, "{ty} × {cols}: {deviation} for {wanted}");
            // Without a zero point, quants from -8 to 7 are half a step off centre.
            assert!(mean.abs() < 0.12 * wanted, "{ty} × {cols}: mean {mean} at {wanted}");
            assert!(values.iter().all(|v| v.abs() < 8.0 * wanted as f32), "{ty} × {cols}");
        }
    }
}

#[test]
fn rows_are_the_same_in_any_order_and_differ_by_seed_name_and_row() {
    for ty in TYPES {
        let t = matrix(ty, 16, 512);
        let whole = filled(&t, 1);
        let row = t.row_bytes();
        for rows in [0..1, 5..9, 15..16, 4..4] {
            let mut part = vec![0; rows.len() * row];
            fill(&t, rows.clone(), 1, &mut part).unwrap();
            assert!(part == whole[rows.start * row..rows.end * row], "{ty} {rows:?}");
        }
        let other = TensorShape { name: "blk.1.attn_q.weight".into(), ..t.clone() };
        assert!(whole != filled(&t, 2) && whole != filled(&other, 1) && whole[..row] != whole[row..2 * row], "{ty}");
    }
    let norm = TensorShape { name: "blk.0.attn_norm.weight".into(), ty: BlockType::F32.into(), rows: 1, cols: 64 };
    assert_eq!(decode(&norm, &filled(&norm, 1)), [1.0; 64]);
}

#[test]
fn a_wrong_range_or_type_is_an_error() {
    let t = matrix(BlockType::Q4_0, 4, 64);
    assert!(fill(&t, 0..4, 0, &mut [0; 35]).is_err());
    assert!(fill(&t, 3..5, 0, &mut [0; 72]).is_err());
    assert!(fill(&matrix(BlockType::Q4_0, 4, 65), 0..0, 0, &mut []).is_err());
    assert!(matches!(fill(&matrix(BlockType::F64, 1, 2), 0..1, 0, &mut [0; 16]), Err(Error::Refused { .. })));
}

#[test]
fn a_file_lends_its_shape_and_words_to_a_model_that_is_yet_to_be_trained() {
    let open = |path: &str| Model::open(path, Path::new(".")).unwrap();
    let (bundled, new, other) =
        (open("bundled:recall"), open("random:bundled:recall@f32#7"), open("random:bundled:recall@f32#8"));
    let sizes = |m: &Model| m.shape.tensors().map(|t| (t.name.clone(), t.rows, t.cols)).collect::<Vec<_>>();
    assert_eq!(sizes(&new), sizes(&bundled));
    assert!(new.hash != other.hash && new.shape.name == "random:bundled:recall@f32#7");
    let text = "<|user|>\nWhat is the pass key?";
    let ids = |m: &Model| m.tokenizer().unwrap().unwrap().encode(text, true, true);
    assert_eq!(ids(&new), ids(&bundled));
    assert!(new.chat_template().unwrap().is_some());
    let values = |m: &Model, t: &TensorShape| {
        let mut bytes = vec![0; t.bytes() as usize];
        m.source.read_rows(t, 0, t.rows, &mut bytes).unwrap();
        decode(t, &bytes)
    };
    for t in new.shape.tensors() {
        let x = values(&new, t);
        if t.rows == 1 {
            assert!(x.iter().all(|v| *v == 1.0), "{}", t.name);
            continue;
        }
        // GPT-2's start: what adds to the stream of 8 layers is √16 smaller.
        let wanted = if t.name.contains("output") || t.name.contains("down") { 0.005 } else { 0.02 };
        let deviation = (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        assert!((deviation / wanted - 1.0).abs() < 0.02, "{}: {deviation}", t.name);
        assert!(x != values(&other, t), "{}", t.name);
    }
    for (bad, words) in [("random:bundled:recall@f32#x", "seed"), ("random:bundled:none@f32", "none")] {
        let said = Model::open(bad, Path::new(".")).unwrap_err();
        assert!(said.exit_code() == 2 && said.to_string().contains(words), "{said}");
    }
}
