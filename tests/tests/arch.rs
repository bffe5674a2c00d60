//! Each architecture beside PyTorch (tests/scripts/make_arch.py): the same tiny model as Hugging Face's folder and as GGUF gives
//! transformers' logits, whichever way its tokens come; its plan is what the ledger measures.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::Value;
use ullage_core::blocks::{self, BlockType};
use ullage_core::ledger::{ByCategory, Category};
use ullage_core::model::Model;
use ullage_core::model::hf::save;
use ullage_core::shape::TensorShape;
use ullage_tests::{Rig, bits, config, fixture, open, run};

const CONFIGS: [&[(&str, &str)]; 3] = [
    &[("kv.format", "f32")],
    &[("kv.format", "f32"), ("run.batch", "7"), ("kv.alloc", "paged")],
    &[("kv.format", "f32"), ("place.weights", "stream"), ("machine.threads", "1")],
];

fn models(name: &str) -> [Arc<Model>; 2] {
    let dir = fixture(&format!("arch/{name}"));
    [open(dir.to_str().unwrap()), open(dir.join("model.gguf").to_str().unwrap())]
}

fn logits(name: &str) -> (Vec<u32>, Vec<(usize, Vec<f64>)>) {
    let text = std::fs::read(fixture(&format!("arch/{name}/logits.json"))).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    let list = |v: &Value| v.as_array().unwrap().clone();
    let ids = list(&all["ids"]).iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let rows = list(&all["positions"]).into_iter().zip(list(&all["logits"]));
    let rows =
        rows.map(|(p, row)| (p.as_u64().unwrap() as usize, list(&row).iter().map(|v| v.as_f64().unwrap()).collect()));
    (ids, rows.collect())
}

/// Holds `name` against PyTorch: as a folder and as GGUF, prompts of several lengths, batched, streamed, decoded.
fn holds(name: &str) {
    let (ids, expected) = logits(name);
    let [folder, gguf] = models(name);
    let shape = &folder.shape;
    assert_eq!(shape.ropes, gguf.shape.ropes);
    for (a, b) in shape.layers.iter().zip(&gguf.shape.layers) {
        assert_eq!((&a.attention, &a.ffn), (&b.attention, &b.ffn));
    }
    let mut most = 0.0f64;
    for (what, model) in [("folder", &folder), ("gguf", &gguf)] {
        let mut first: Option<Vec<Vec<u32>>> = None;
        for sets in CONFIGS {
            let config = config(sets);
            for prompt in [1, 9, 30, ids.len()] {
                let mut rig = Rig::new(model, &config).unwrap();
                let got = rig.logits(&ids[..prompt], &ids[prompt..]);
                for (position, row) in expected.iter().filter(|(p, _)| *p + 1 >= prompt) {
                    let far = apart(&got[position + 1 - prompt], row);
                    assert!(
                        far < 1e-4,
                        "{name} {what} {sets:?}, prompt of {prompt}: position {position}: {far} of the largest logit from PyTorch"
                    );
                    most = most.max(far);
                }
                // Prefill, extend and decode, whatever the batch: the same bits, beyond a window as well.
                let mine = bits(&got);
                if prompt <= 30 {
                    let last = mine[mine.len() - (ids.len() - 29)..].to_vec();
                    assert_eq!(
                        *first.get_or_insert_with(|| last.clone()),
                        last,
                        "{name} {what} {sets:?}, prompt of {prompt}"
                    );
                } else {
                    assert_eq!(first.as_ref().and_then(|f| f.last()), mine.last(), "{name} {what} {sets:?}, whole");
                }
            }
        }
    }
    println!("{name:<12} at most {most:.1e} of the largest logit from PyTorch");
    kept(name, &folder, &ids, &expected);
    planned(&folder);
}

/// The largest difference of two rows of logits, as a part of the largest logit.
fn apart(mine: &[f32], row: &[f64]) -> f64 {
    let size = row.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    mine.iter().zip(row).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / size
}

/// Policies and quantized caches: one that has room for every row is PyTorch's still, one that has not differs and stays finite; rows in
/// fewer bits come as near as their bits.
fn kept(name: &str, model: &Model, ids: &[u32], expected: &[(usize, Vec<f64>)]) {
    let last = |sets: &[(&str, &str)]| {
        let mut rig = Rig::new(model, &config(sets)).unwrap();
        let got = rig.logits(&ids[..30], &ids[30..]);
        let (position, row) = expected.last().unwrap();
        apart(&got[position + 1 - 30], row)
    };
    for select in ["h2o", "window", "snapkv"] {
        let room = |rows: &str| last(&[("kv.format", "f32"), ("kv.select", select), ("kv.budget", rows)]);
        let (roomy, tight) = (room("{ rows = 64 }"), room("{ rows = 12 }"));
        assert!(roomy < 1e-4, "{name} {select} with room for all: {roomy}");
        // Where every layer has a window of its own there is nothing for a policy to choose.
        let chooses = model.shape.layers.iter().any(|l| l.attention.window.is_none());
        assert!(tight.is_finite() && (tight > 1e-4) == chooses, "{name} {select} with 12 rows: {tight}");
    }
    let halves = last(&[("kv.format", "f16")]);
    assert!(halves < 5e-3, "{name} in f16: {halves}");
    // Groups of eight rows of eight bits; heads of other sizes do not fill them.
    if model.shape.layers.iter().all(|l| l.attention.dim.is_multiple_of(8) && l.attention.window.is_none()) {
        let kivi =
            last(&[("kv.format", "{ use = \"kivi\", k_bits = 8, v_bits = 8, group_size = 8, residual_length = 8 }")]);
        assert!(kivi > 0.0 && kivi < 3e-2, "{name} in eight bits: {kivi}");
    }
}

/// What a run plans is what it measures: weights, cache, activations to the byte.
fn planned(model: &Arc<Model>) {
    for sets in [
        &[("kv.alloc", "contiguous")][..],
        &[("kv.alloc", "paged"), ("run.batch", "5")],
        &[("place.weights", "stream")],
        &[("kv.select", "h2o"), ("kv.budget", "{ rows = 12 }")],
        &[("weights.format", "f32"), ("run.sequences", "2")],
    ] {
        let base = [("run.max_tokens", "12"), ("run.context", "64"), ("run.prompt", "tokens:30")];
        let report = run(model, &config(&[&base, sets].concat()));
        assert_eq!(report.error, None, "{sets:?}");
        for (tier, measured) in &report.measured.bytes {
            for category in [Category::Weights, Category::KvCache, Category::Activations] {
                let of = |all: &ByCategory| all.get(&category).copied().unwrap_or(0);
                let planned = report.plan.bytes.get(tier).map_or(0, of);
                assert_eq!(planned, of(measured), "{sets:?} {tier:?} {category:?}");
            }
        }
        let gaps = &report.gap.peak;
        assert!(!gaps.is_empty() && gaps.values().all(|gap| *gap >= 0), "{sets:?}: {gaps:?}");
    }
}

/// A folder that is written of each dense one, from GGUF, gives the same bits.
#[test]
fn a_written_folder_of_each_is_the_same_model() {
    for name in names() {
        let [_, gguf] = models(&name);
        let (folder, mut raw) = (tempfile::tempdir().unwrap(), Vec::new());
        let dir = folder.path().join("model");
        let saved = save(&dir, &gguf, BlockType::F32, &mut |t: &TensorShape, first, n, out: &mut [f32]| {
            raw.resize(n * t.row_bytes(), 0);
            gguf.source.read_rows(t, first, n, &mut raw)?;
            blocks::decode(t.block()?, &raw, out)?;
            Ok(())
        });
        if gguf.shape.layers.iter().any(|l| l.ffn.experts().is_some()) {
            assert!(saved.unwrap_err().to_string().contains("experts"), "{name}");
            continue;
        }
        saved.unwrap();
        let again = open(dir.to_str().unwrap());
        assert_eq!(again.shape.arch, gguf.shape.arch, "{name}");
        let (ids, _) = logits(&name);
        let run = |model: &Model, sets: &[(&str, &str)]| {
            let base = [("kv.format", "f32")];
            Rig::new(model, &config(&[&base, sets].concat())).unwrap().logits(&ids[..20], &ids[20..])
        };
        let (a, b) = (run(&gguf, &[("weights.format", "f32")]), run(&again, &[]));
        assert!(bits(&a) == bits(&b), "{name}");
    }
}

#[test]
fn every_architecture_is_pytorchs() {
    let names = names();
    assert!(names.iter().any(|n| n == "llama"), "{names:?}");
    names.iter().for_each(|name| holds(name));
}

/// The fixtures.
fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixture("arch"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// `tests/scripts/make_rope.py`: a base that grows with the text is that of a run's room, so a text that fills it has PyTorch's logits; within
/// the context nothing grows.
#[test]
fn a_rotation_that_grows_with_the_text_is_pytorchs() {
    let text = std::fs::read(fixture("rope/dynamic.json")).unwrap();
    let said: Value = serde_json::from_slice(&text).unwrap();
    let from = fixture("arch/llama");
    let folder = tempfile::tempdir().unwrap();
    let mut own: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    (own["rope_parameters"], own["max_position_embeddings"]) = (said["rope"].clone(), said["context"].clone());
    std::fs::write(folder.path().join("config.json"), own.to_string()).unwrap();
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let model = open(folder.path().to_str().unwrap());
    let ids: Vec<u32> = said["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let few = said["few"].as_u64().unwrap() as usize;
    for (name, ids, room) in [("whole", &ids[..], ids.len()), ("within", &ids[..few], 16)] {
        let row: Vec<f64> = said[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let off = |context: usize| {
            let config = config(&[("kv.format", "f32"), ("run.context", &context.to_string())]);
            apart(&Rig::new(&model, &config).unwrap().prefill(ids).unwrap().1, &row)
        };
        println!("{name}: {:e} with room for {room}", off(room));
        assert!(off(room) < 1e-4, "{name}: {:e}", off(room));
        assert!(off(4 * room) > 1e-3, "{name}: more room turns slower");
    }
}
