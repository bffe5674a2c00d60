//! An export holds a few rows of what it writes, and never a tensor: it happens while the training's own memory is held.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ullage_core::model::Model;
use ullage_core::model::adapter::{AdapterFile, merge};
use ullage_core::ops::ThreadTeam;
use ullage_core::weights::format::Target;
use ullage_tests::peak::{Peak, alone, peak};
use ullage_tests::{config, events, open, order};

#[global_allocator]
static ALLOC: Peak = Peak;

/// A model of two layers whose adapters of rank 256 are 21 MiB, the largest tensor among them 1.5 MiB.
fn model(folder: &Path) -> String {
    let text = r#"{"model_type":"llama","hidden_size":576,"intermediate_size":1536,"num_hidden_layers":2,"num_attention_heads":9,"num_key_value_heads":9,"vocab_size":512,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true}"#;
    let path = folder.join("wide.json");
    std::fs::write(&path, text).unwrap();
    format!("random:{}@f32", path.display())
}

const LARGEST: u64 = 256 * 1536 * 4;
/// What a job and its lists, headers and write buffers take beside.
const SMALL: u64 = 1 << 20;

/// One step into `out`; the most heap of the whole job.
fn train(model: &str, out: &Path, more: &[(&str, &str)]) -> u64 {
    let out = out.display().to_string();
    let base = [
        ("train.data", "tokens:4"),
        ("train.batch", "1"),
        ("train.length", "8"),
        ("train.steps", "1"),
        ("train.out", &out),
    ];
    let (model, config) = (open(model), config(&[&base[..], &[("machine.threads", "1")], more].concat()));
    let ((_, report), peak) = peak(|| events(order(&model, &config)));
    assert_eq!(report.error, None);
    peak as u64
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_trained_adapter_is_written_without_being_held() {
    let _one = alone();
    let room = tempfile::tempdir().unwrap();
    let (model, out) = (model(room.path()), room.path().join("out"));
    let held = train(&model, &out, &[("train.params", "{ use = \"lora\", r = 256 }")]);
    let (peft, gguf) = (out.join("adapter/adapter_model.safetensors"), out.join("adapter.gguf"));
    let written = bytes(&peft) + bytes(&gguf);
    eprintln!("{written} B of adapters, {held} B of heap at most, the largest tensor {LARGEST} B");
    assert!(written > 39 << 20 && held < SMALL, "{held} B of heap for {written} B");

    // From one layout to the other, and into the weights.
    let base = Model::open(&model, Path::new(".")).unwrap();
    let file = AdapterFile::open(&gguf, &base.shape, 1.0).unwrap();
    let (done, held) = peak(|| file.convert(&room.path().join("peft"), &base.shape));
    done.unwrap();
    assert!((held as u64) < SMALL, "{held} B");
    let again = std::fs::read(room.path().join("peft/adapter_model.safetensors")).unwrap();
    assert!(again == std::fs::read(&peft).unwrap(), "byte for byte");
    let file = AdapterFile::open(&peft, &base.shape, 1.0).unwrap();
    let (done, held) = peak(|| file.convert(&room.path().join("again.gguf"), &base.shape));
    done.unwrap();
    assert!((held as u64) < SMALL, "{held} B");
    let pair = [&gguf, &room.path().join("again.gguf")].map(|p| AdapterFile::open(p, &base.shape, 1.0).unwrap());
    assert_eq!(pair[0].shape, pair[1].shape);
}

#[test]
fn a_full_fine_tune_is_written_without_being_held() {
    let _one = alone();
    let room = tempfile::tempdir().unwrap();
    let (model, out) = (model(room.path()), room.path().join("out"));
    let held =
        train(&model, &out, &[("train.params", "full"), ("train.optimizer", "{ use = \"sgd\", momentum = 0.0 }")]);
    let written = bytes(&out.join("model/model.safetensors"));
    eprintln!("{written} B of weights, {held} B of heap at most");
    assert!(written > 20 << 20 && held < SMALL, "{held} B of heap for {written} B");
}

/// A merge holds its run of rows, decoded and encoded, and of the adapter one tensor and those rows' share of the others.
#[test]
fn a_merge_holds_one_tensor_of_the_adapter() {
    let _one = alone();
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out");
    train("bundled:recall", &out, &[("train.params", "{ use = \"lora\", r = 128 }")]);
    let model = Model::open("bundled:recall", Path::new(".")).unwrap();
    let model = model.with_adapter(&out.join("adapter"), 1.0).unwrap();
    let team = ThreadTeam::new(1).unwrap();
    let merged = room.path().join("merged.gguf");
    let (done, held) = peak(|| merge(&model, Target::Original, &merged, &team, &mut |_, _| ()));
    eprintln!("{held} B of heap at most, {} B written", done.unwrap().bytes);
    let rows = model.shape.tensors().map(|t| 3 * 4 * t.rows * t.cols).max().unwrap().min(3 * (8 << 20)) as i64;
    assert!(held < rows + (SMALL as i64), "{held} B, of rows {rows} B");
}
