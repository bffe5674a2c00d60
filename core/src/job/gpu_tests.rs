//! What a GPU computes is what the CPU does, for every choice that says it runs there; passes with a word where there is no GPU.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::path::Path;

use super::backend::{Backend, Cpu, Cuda};
use crate::catalog::{entries, from_toml};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::forward::cpu::{Forward, Unwatched};
use crate::forward::runner::Runner;
use crate::ledger::Ledger;
use crate::model::Model;
use crate::ops::ThreadTeam;
use crate::plan::Resolved;
use crate::schema::Platform;

/// A GPU with room for a small model, or none.
fn gpu(config: &Config) -> Option<Cuda> {
    match Cuda::open(0, config) {
        Ok(cuda) => Some(cuda),
        Err(e) => {
            crate::skip::pass_over(format!("no GPU: {e}"));
            None
        }
    }
}

fn config(sets: &[(&str, &str)]) -> Config {
    let base = [("run.context", "512"), ("budget.device", "3 GiB")];
    let sets: Vec<_> = base.iter().chain(sets).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    from_toml("", &sets).unwrap()
}

fn model(spec: &str) -> Model {
    Model::open(spec, Path::new(".")).unwrap()
}

/// What was loaded, with what it needs to run.
fn load<B: Backend>(backend: B, model: &Model, config: &Config) -> Result<(B::Runner, ThreadTeam)> {
    let ledger = Ledger::new(config.budget.device.0, u64::MAX, u64::MAX);
    let team = ThreadTeam::new(2)?;
    let runner = backend.load(model, Resolved::new(config, &model.shape)?, &ledger, &team, &mut |_| ())?;
    Ok((runner, team))
}

/// Logits after a prompt that is read in several batches, and after each of some tokens more.
fn logits<R: Runner>(
    r: &mut R,
    team: &ThreadTeam,
    config: &Config,
    tokens: &[u32],
    prompt: usize,
) -> Result<Vec<Vec<f32>>> {
    read_in(r, team, config, tokens, prompt, 64)
}

/// The same, in batches of `batch`.
fn read_in<R: Runner>(
    r: &mut R,
    team: &ThreadTeam,
    config: &Config,
    tokens: &[u32],
    prompt: usize,
    batch: usize,
) -> Result<Vec<Vec<f32>>> {
    let (mut seq, mut out) = (r.sequence(prompt)?, Vec::new());
    let mut workspace = r.workspace(team, Forward::prefill_shape(r.pipeline(), prompt, batch).with(config, false))?;
    r.prefill(&mut seq, &tokens[..prompt], &mut workspace, team, &mut Unwatched)?;
    out.push(r.logits(&workspace, 0).to_vec());
    let extent = Forward::decode_shape(r.pipeline(), r.shape(), prompt, tokens.len(), 1);
    let mut workspace = r.workspace(team, extent.with(config, false))?;
    for token in &tokens[prompt..] {
        r.decode(std::slice::from_mut(&mut seq), &[*token], &mut workspace, team, &mut Unwatched)?;
        out.push(r.logits(&workspace, 0).to_vec());
    }
    Ok(out)
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 + i * i * 31 + 13) % 49152).collect()
}

/// The largest difference, as a share of the largest logit.
fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let largest = a.iter().flatten().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(a.len() == b.len() && largest > 0.1, "{largest}");
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max) / largest
}

#[test]
fn every_choice_that_runs_on_a_gpu_computes_what_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    // Whole blocks of 256 elements in a row, so that every type of weights fits.
    let text = r#"{"model_type": "llama", "hidden_size": 512, "intermediate_size": 768, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 49152, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0}"#;
    std::fs::write(&path, text).unwrap();
    let (tokens, spec) = (tokens(150), format!("random:{}@q8_0", path.display()));
    let mut tried = 0;
    for entry in entries().filter(|e| e.runs(Platform::Cuda)) {
        let of_inference = ["weights.", "kv.", "place."].iter().any(|s| entry.axis.key.starts_with(s));
        if !of_inference {
            continue;
        }
        let choice = [(entry.axis.key, entry.id)];
        let (on_cpu, on_gpu) = (config(&choice), config(&[&choice[..], &[("machine.device", "cuda:0")]].concat()));
        let Some(cuda) = gpu(&on_gpu) else { return };
        let model = model(&spec);
        let (mut ours, team) = match load(cuda, &model, &on_gpu) {
            Ok(loaded) => loaded,
            // Types that have no kernel are refused by name before anything runs.
            Err(Error::Refused { .. }) => continue,
            Err(e) => panic!("{}: {e}", entry.id),
        };
        let (mut cpu, cpu_team) = load(Cpu, &model, &on_cpu).unwrap();
        let theirs = logits(&mut cpu, &cpu_team, &on_cpu, &tokens[..24], 20).unwrap();
        let ours = logits(&mut ours, &team, &on_gpu, &tokens[..24], 20).unwrap();
        let apart = apart(&theirs, &ours);
        println!("{}.{}: {apart:e}", entry.axis.key, entry.id);
        assert!(apart < 5e-3, "{}.{}: {apart}", entry.axis.key, entry.id);
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
}

/// Every architecture of `tests/fixtures/arch`, whatever it scales, caps, turns, norms or sees through a window.
#[test]
fn every_architecture_on_a_gpu_computes_what_the_cpu_does() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/arch");
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let dir = entry.unwrap().path();
        let text = std::fs::read(dir.join("logits.json")).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let tokens: Vec<u32> = said["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        // Batches cross a window's edge; two rows and more after it, and one by one.
        for (prompt, batch) in [(1, 64), (9, 64), (30, 64), (30, 5), (tokens.len() - 1, 7)] {
            for (compute, most) in [("exact", 1e-4), ("half", 1e-2)] {
                let f32s = [("kv.format", "f32"), ("kv.alloc", "contiguous")];
                let there = [("machine.device", "cuda:0"), ("run.compute", compute)];
                let (on_cpu, on_gpu) = (config(&f32s), config(&[&f32s[..], &there].concat()));
                let Some(cuda) = gpu(&on_gpu) else { return };
                let model = model(dir.to_str().unwrap());
                let (mut ours, team) = match load(cuda, &model, &on_gpu) {
                    Ok(loaded) => loaded,
                    Err(e @ Error::Refused { .. }) => {
                        assert!(model.shape.layers.iter().any(|l| l.ffn.experts().is_some()), "{}: {e}", dir.display());
                        continue;
                    }
                    Err(e) => panic!("{}: {e}", dir.display()),
                };
                let (mut cpu, cpu_team) = load(Cpu, &model, &on_cpu).unwrap();
                let theirs = read_in(&mut cpu, &cpu_team, &on_cpu, &tokens, prompt, batch).unwrap();
                let ours = read_in(&mut ours, &team, &on_gpu, &tokens, prompt, batch).unwrap();
                let apart = apart(&theirs, &ours);
                println!("{}, {compute}, prompt of {prompt} by {batch}: {apart:e}", dir.display());
                assert!(apart < most, "{}, {compute}, prompt of {prompt} by {batch}: {apart:e}", dir.display());
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn launches_of_a_pass_are_those_that_its_steps_say() {
    let on_gpu = config(&[("machine.device", "cuda:0")]);
    let Some(cuda) = gpu(&on_gpu) else { return };
    let (mut r, team) = load(cuda, &model("random:smollm2-135m@q4_0"), &on_gpu).unwrap();
    let counted = |r: &crate::forward::gpu::GpuForward| (r.launched(), r.meter().total().launches as u64);
    // Replayed steps launch as many as those that are watched.
    let before = counted(&r);
    let replayed = logits(&mut r, &team, &on_gpu, &tokens(150), 100).unwrap();
    let between = counted(&r);
    r.meter().observe(Some(Box::new(|_| ())));
    let watched = logits(&mut r, &team, &on_gpu, &tokens(150), 100).unwrap();
    let after = counted(&r);
    assert_eq!(after.0 - between.0, after.1 - between.1);
    assert_eq!(after.0 - between.0, between.0 - before.0);
    assert_eq!(replayed, watched);
    // Five a layer and four around them.
    assert!(after.0 - between.0 < 50 * (30 * 5 + 4) + 2 * 30 * 22, "{after:?}");
}

#[test]
fn any_step_on_a_gpu_may_fail_and_the_next_pass_is_as_it_was() {
    let on_gpu = config(&[("machine.device", "cuda:0")]);
    let Some(cuda) = gpu(&on_gpu) else { return };
    let (mut r, team) = load(cuda, &model("random:smollm2-135m@q4_0"), &on_gpu).unwrap();
    let tokens = tokens(30);
    let whole = logits(&mut r, &team, &on_gpu, &tokens, 25).unwrap();
    for n in [1, 2, 7, 40, 150, 301, 302, 303, 304] {
        r.meter().fail_at(n);
        assert!(matches!(logits(&mut r, &team, &on_gpu, &tokens, 25), Err(Error::Device(_))), "step {n}");
    }
    assert_eq!(logits(&mut r, &team, &on_gpu, &tokens, 25).unwrap(), whole);
}
