//! Whole steps: losses on a small model beside the CPU's, then time and peak at the shapes of real models, planned and
//! measured, under a limit where one is given.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::device::Device;
use ullage_core::device::cpu::Cpu;
use ullage_core::device::gpu::{Gpu, Precision};
use ullage_core::ledger::{Ledger, Measured, Tier};
use ullage_core::model::Model;
use ullage_core::ops::{ThreadTeam, cuda};
use ullage_core::rng::Philox;
use ullage_core::train::batch::Batch;
use ullage_core::train::engine::{Setup, Stepped, Techniques, Trainer};
use ullage_core::train::plan;
use ullage_core::{Error, Result};

type Sets<'a> = &'a [(&'a str, &'a str)];

fn config(sets: &[(&str, &str)]) -> Result<Config> {
    let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    from_toml("", &sets)
}

fn batch(sequences: usize, length: usize, vocab: usize, seed: u64) -> Batch {
    let random = Philox::new(seed);
    let n = sequences * length;
    let ids: Vec<u32> = (0..=n as u64).map(|i| random.below(i, vocab as u64) as u32).collect();
    Batch {
        tokens: ids[..n].to_vec(),
        targets: ids[1..].to_vec(),
        segments: Vec::new(),
        sequences,
        length,
        filled: Vec::new(),
    }
}

struct Opened {
    trainer: Trainer,
    ledger: Arc<Ledger>,
    device: Option<Arc<cuda::Device>>,
}

fn open(config: &Config, model: &Model, budget: u64) -> Result<Opened> {
    let train = plan::section(config)?;
    let ledger = Ledger::new(budget, u64::MAX, u64::MAX);
    let techniques = Techniques::new(train)?;
    let threads = config.threads();
    let sizes = techniques.sizes(train, &model.shape, threads);
    let team = Arc::new(ThreadTeam::new(threads)?);
    let (device, held): (Box<dyn Device>, _) = match config.gpu() {
        None => (Box::new(Cpu::new(&ledger, &team, &sizes)?), None),
        Some(gpu) => {
            let device = cuda::Device::open(gpu, budget)?;
            let gpu = Gpu::new(&device, &ledger, &team, &sizes, Precision::of(train))?;
            println!("  {:?}", gpu.beside()?);
            (Box::new(gpu), Some(device))
        }
    };
    let source = Some(&*model.source);
    let setup = Setup { shape: &model.shape, source, plan: false, train, seed: 7 };
    let trainer = Trainer::new(device, &ledger, &setup, techniques, sizes.load, &mut |_| ())?;
    Ok(Opened { trainer, ledger, device: held })
}

fn steps(o: &mut Opened, config: &Config, vocab: usize, n: u64) -> Result<Vec<Stepped>> {
    let train = plan::section(config)?;
    (1..=n)
        .map(|step| {
            let batch = batch(train.batch, train.length, vocab, 40 + step % 2);
            o.trainer.backprop(&[batch], step, train.lr as f32, &mut |_| ())
        })
        .collect()
}

/// Losses and gradient norms of the first steps, on the CPU, on a GPU in f32, and in bf16.
fn small() -> Result<usize> {
    let dir = std::env::temp_dir().join("ullage-train-gpu");
    let path = dir.join("config.json");
    let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
        "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 1000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true}"#;
    let write = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
    write.map_err(|e| Error::io(&path, "cannot write", &e))?;
    let variants: [(&str, &str, Sets<'_>); 6] = [
        ("full, keep", "f32", &[("train.params", "full"), ("train.activations", "keep")]),
        (
            "full, recompute, layer, cut",
            "f32",
            &[("train.params", "full"), ("train.grad_hold", "layer"), ("train.loss", "cut")],
        ),
        ("lora q4_0", "q4_0", &[("train.params", "lora"), ("train.activations", "keep")]),
        (
            "lora q4_k, chunked",
            "q4_k",
            &[("train.params", "lora"), ("train.loss", "chunked"), ("train.loss.chunk_tokens", "50")],
        ),
        ("full bf16, master", "bf16", &[("train.params", "full"), ("train.dtype", "bf16"), ("train.round", "master")]),
        (
            "full bf16, sgd, stochastic",
            "bf16",
            &[
                ("train.params", "full"),
                ("train.dtype", "bf16"),
                ("train.optimizer", "sgd"),
                ("train.round", "stochastic"),
            ],
        ),
    ];
    let mut failed = 0;
    for (name, ty, sets) in variants {
        let model = Model::open(&format!("random:{}@{ty}", path.display()), Path::new("."))?;
        let mut runs = Vec::new();
        for device in [("cpu", "f32"), ("cuda:0", "f32"), ("cuda:0", "bf16")] {
            let base = [
                ("train.batch", "2"),
                ("train.length", "100"),
                ("train.lr", "0.002"),
                ("machine.threads", "4"),
                ("machine.device", device.0),
                ("train.compute", device.1),
            ];
            let config = config(&[&base[..], sets].concat())?;
            let mut o = open(&config, &model, u64::MAX)?;
            runs.push(steps(&mut o, &config, model.shape.vocab, 5)?);
        }
        let row =
            |run: &[Stepped]| -> String { run.iter().map(|s| format!("{:.5}/{:.4} ", s.loss, s.grad_norm)).collect() };
        println!("{name}: loss/gradient norm of 5 steps");
        for (what, most, run) in
            [("CPU f32 ", 0.0, &runs[0]), ("GPU f32 ", 2e-4, &runs[1]), ("GPU bf16", 2e-2, &runs[2])]
        {
            let far = run.iter().zip(&runs[0]).map(|(a, b)| (a.loss / b.loss - 1.0).abs()).fold(0.0, f64::max);
            let bad = far.is_nan() || far > most;
            failed += usize::from(bad);
            println!("  {} {what} {}  apart {far:.1e}", if bad { "FAIL" } else { "ok  " }, row(run));
        }
    }
    Ok(failed)
}

fn peak(m: &Measured) -> u64 {
    m.tiers.get(&Tier::Device).map_or(0, |a| a.peak)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn one(name: &str, model: &Model, sets: Sets<'_>, budget: u64, n: u64) -> Result<usize> {
    let base = [("machine.device", "cuda:0"), ("train.lr", "0.0001"), ("machine.threads", "16")];
    let config = config(&[&base[..], sets].concat())?;
    let planned = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    plan::walk(&config, &model.shape, &planned, None)?;
    let planned = peak(&planned.measured());
    println!("\n{name}: planned peak {:.1} MiB", mib(planned));
    let start = Instant::now();
    let mut o = open(&config, model, budget)?;
    let load = start.elapsed().as_secs_f64();
    let vocab = model.shape.vocab;
    let first = steps(&mut o, &config, vocab, 3)?;
    let start = Instant::now();
    let last = steps(&mut o, &config, vocab, n)?;
    let ms = start.elapsed().as_secs_f64() * 1e3 / n as f64;
    let measured = o.ledger.measured();
    let used = peak(&measured);
    let tokens = last[0].tokens as f64;
    let gap = planned as f64 / used as f64 - 1.0;
    println!(
        "  {ms:.1} ms a step, {:.0} tokens/s; peak {:.1} MiB, planned {:+.2} %",
        tokens / ms * 1e3,
        mib(used),
        100.0 * gap
    );
    println!(
        "  loaded in {load:.1} s; losses {:.4} {:.4} … {:.4}",
        first[0].loss,
        first[1].loss,
        last[n as usize - 1].loss
    );
    if let Some(account) = measured.tiers.get(&Tier::Device) {
        println!(
            "  at peak {:?}",
            account.at_peak.iter().map(|(c, b)| (c.as_str(), mib(*b) as u64)).collect::<Vec<_>>()
        );
    }
    if let Some(device) = &o.device {
        println!("  {:?}", device.counts()?.iter().map(|(n, b)| (*n, mib(*b) as u64)).collect::<Vec<_>>());
    }
    let bad = used > planned || gap > 0.05 || !last.iter().all(|s| s.loss.is_finite()) || used > budget;
    println!("{} {name}", if bad { "FAIL" } else { "ok  " });
    Ok(usize::from(bad))
}

pub fn all() -> Result<usize> {
    let mut failed = small()?;
    let full: Sets<'_> = &[("train.params", "full"), ("train.dtype", "bf16"), ("train.length", "512")];
    let lora: Sets<'_> = &[("train.params", "lora"), ("train.dtype", "bf16"), ("train.length", "512")];
    let keep: Sets<'_> = &[("train.activations", "keep")];
    let small_state: Sets<'_> =
        &[("train.optimizer", "adamw"), ("train.optimizer.state_dtype", "bf16"), ("train.grad_dtype", "bf16")];
    let by_layer: Sets<'_> = &[("train.grad_hold", "layer")];
    let alone: Sets<'_> = &[("train.batch", "1")];
    let small: [(&str, Vec<Sets<'_>>); 8] = [
        ("full, keep, bf16 gradients and moments", vec![full, keep, small_state]),
        ("full, recompute, bf16 gradients and moments", vec![full, small_state]),
        ("full, keep, f32 gradients by layer, bf16 moments", vec![full, keep, &small_state[..2], by_layer]),
        ("lora, keep", vec![lora, keep]),
        ("lora, recompute", vec![lora]),
        ("full, keep, f32 gradients and moments", vec![full, keep]),
        ("lora f32, keep", vec![&lora[..1], &lora[2..], keep]),
        ("lora, keep, cut", vec![lora, keep, &[("train.loss", "cut")]]),
    ];
    let limited: [(&str, Vec<Sets<'_>>); 2] =
        [("lora, recompute, 12 GiB", vec![lora, alone]), ("lora, keep, 12 GiB", vec![lora, alone, keep])];
    let models = [
        ("random:smollm2-135m@bf16", &small[..], u64::MAX, 20),
        ("random:llama-8b@q4_0", &limited[..1], 12 << 30, 10),
        ("random:llama-1b@bf16", &small[..6], u64::MAX, 10),
        ("random:llama-8b@q4_0", &limited[1..], 12 << 30, 10),
    ];
    for (path, cases, budget, n) in models {
        let model = Model::open(path, Path::new("."))?;
        for (name, sets) in cases {
            let result = one(&format!("{path} {name}"), &model, &sets.concat(), budget, n);
            failed += result.unwrap_or_else(|e| {
                println!("FAIL {path} {name}: {e}");
                1
            });
        }
    }
    Ok(failed)
}
