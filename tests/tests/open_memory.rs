//! Opening a model takes its payload and little beside: no tensor stands twice, and no file in memory.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, json};
use ullage_core::ledger::Tier;
use ullage_tests::peak::{Peak, alone, peak};
use ullage_tests::skip::{gemma3_file, smollm2_file};
use ullage_tests::{Rig, config, open};

#[global_allocator]
static ALLOC: Peak = Peak;

const HIDDEN: usize = 512;
const FF: usize = 2048;
const LAYERS: usize = 4;
const VOCAB: usize = 8192;

fn sizes() -> serde_json::Value {
    json!({"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FF, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": VOCAB, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true})
}

/// Names and shapes of the model's tensors.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let square = ["q_proj", "k_proj", "v_proj", "o_proj"];
        all.extend(square.map(|p| (name(&format!("self_attn.{p}")), vec![HIDDEN, HIDDEN])));
        all.push((name("mlp.gate_proj"), vec![FF, HIDDEN]));
        all.push((name("mlp.up_proj"), vec![FF, HIDDEN]));
        all.push((name("mlp.down_proj"), vec![HIDDEN, FF]));
        all.extend(["input_layernorm", "post_attention_layernorm"].map(|p| (name(p), vec![HIDDEN])));
    }
    all.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    all
}

/// A safetensors file of small numbers in bf16.
fn safetensors(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let text = serde_json::to_vec(&header).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&text).unwrap();
    // 0.01 in bf16.
    (0..at / 2).for_each(|_| file.write_all(&0x3c24u16.to_le_bytes()).unwrap());
    file.flush().unwrap();
}

/// Opens `path` and holds its weights; the most that buffers and heap held at once, in shares of the weights.
fn beyond(path: &str, sets: &[(&str, &str)]) -> f64 {
    let config = config(sets);
    let (rig, heap) = peak(|| Rig::new(&open(path), &config).unwrap());
    let payload = rig.ledger.held(Tier::Device);
    let buffers: u64 = rig.ledger.measured().tiers.values().map(|tier| tier.peak).sum();
    // Buffers are no heap: what is there beside them is lists, headers and what a file is read through.
    assert!(
        payload > 1 << 20 && buffers >= payload && heap > 0,
        "{path}: {payload} B of weights, {buffers} B, {heap} B"
    );
    (buffers as f64 + heap as f64) / payload as f64
}

#[test]
fn opening_takes_the_payload_and_a_twentieth_at_most() {
    let _one = alone();
    let room = tempfile::tempdir().unwrap();
    let all = tensors();
    for parts in [1, 2] {
        let folder = room.path().join(format!("parts-{parts}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), sizes().to_string()).unwrap();
        let names = match parts {
            1 => vec!["model.safetensors".to_owned()],
            _ => (1..=parts).map(|i| format!("model-{i:05}-of-{parts:05}.safetensors")).collect(),
        };
        let mut index = Map::new();
        for (name, some) in names.iter().zip(all.chunks(all.len().div_ceil(parts))) {
            safetensors(&folder.join(name), some);
            index.extend(some.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        }
        if parts > 1 {
            let text = json!({"metadata": {}, "weight_map": index}).to_string();
            std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
        }
        let share = beyond(folder.to_str().unwrap(), &[]);
        assert!(share <= 1.05, "{parts} parts: {share:.3} of the payload");
    }
    // Converted while it is read.
    let folder = room.path().join("parts-1");
    for format in ["f32", "q8_0", "q4_0"] {
        let share = beyond(folder.to_str().unwrap(), &[("weights.format", format)]);
        assert!(share <= 1.05, "{format}: {share:.3} of the payload");
    }
}

#[test]
fn real_files_open_in_their_payload() {
    let _one = alone();
    for file in [smollm2_file(), gemma3_file()].into_iter().flatten() {
        let share = beyond(file.to_str().unwrap(), &[]);
        assert!(share <= 1.05, "{}: {share:.3} of the payload", file.display());
    }
}
