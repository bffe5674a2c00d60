//! candle's steps are the CPU's: forward, backward and update, two implementations that share no arithmetic.

use std::sync::Arc;

use super::Candle;
use crate::blocks::BlockType;
use crate::config::Config;
use crate::device::cpu::Cpu;
use crate::device::{Device, Weight};
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::ThreadTeam;
use crate::rng::Philox;
use crate::shape::ModelShape;
use crate::train::engine::{Setup, Techniques, Trainer};
use crate::train::tests::{batch, config, shape};

const TAG: Tag = Tag::device(Category::Workspace, "test");

fn team() -> Arc<ThreadTeam> {
    Arc::new(ThreadTeam::new(2).unwrap())
}

fn candle(ledger: &Arc<Ledger>) -> Candle {
    Candle::open("cpu", ledger, &team(), 2, 1 << 20).unwrap()
}

fn trainer(config: &Config, shape: &ModelShape, on_candle: bool) -> Trainer {
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let train = config.train.as_ref().unwrap();
    let techniques = Techniques::new(train).unwrap();
    let sizes = techniques.sizes(train, shape, 2);
    let device: Box<dyn Device> =
        if on_candle { Box::new(candle(&ledger)) } else { Box::new(Cpu::new(&ledger, &team(), &sizes).unwrap()) };
    let source = crate::model::Source::Random {
        spec: crate::model::random::parse("random:smollm2-135m@f32#3").unwrap().unwrap(),
        spread: crate::model::random::Spread::ByColumns,
        like: None,
    };
    let setup = Setup { shape, source: Some(&source), plan: false, train, seed: 7 };
    Trainer::new(device, &ledger, &setup, techniques, sizes.load, &mut |_| ()).unwrap()
}

/// Losses, gradient norms and clippings of three steps, and everything that learned.
fn three(config: &Config, shape: &ModelShape, on_candle: bool) -> (Vec<(f64, f64, bool)>, Vec<(String, Vec<f32>)>) {
    let mut t = trainer(config, shape, on_candle);
    let steps = (1..=3)
        .map(|step| {
            let s = t.backprop(&[batch(3, step), batch(2, 10 + step)], step, 0.01, &mut |_| ()).unwrap();
            (s.loss, s.grad_norm, s.clipped)
        })
        .collect();
    let values = t.learner.params().iter().map(|p| {
        let mut bytes = vec![0u8; p.buf.bytes()];
        t.device().download(p.buf.all(), &mut bytes).unwrap();
        (p.name.clone(), bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    });
    (steps, values.collect())
}

/// The largest difference of `a` from `b`, as a fraction of the largest of `b`.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let size = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / size).fold(0.0, f32::max)
}

#[test]
fn three_steps_on_candle_are_the_cpus() {
    let sgd: &[(&str, &str)] = &[("train.params", "full"), ("train.optimizer", "sgd"), ("train.loss", "full")];
    let cut: &[(&str, &str)] = &[("train.params", "full"), ("train.optimizer", "sgd"), ("train.loss", "cut")];
    let dropping = "{ use = \"lora\", r = 4, lora_dropout = 0.3 }";
    let lora: &[(&str, &str)] =
        &[("train.params", dropping), ("train.optimizer", "adamw"), ("train.clip", "{ by = \"global\", at = 0.05 }")];
    for (sets, ty, tied) in [(sgd, BlockType::F32, true), (cut, BlockType::F32, false), (lora, BlockType::Q8_0, false)]
    {
        let (config, shape) = (config(sets), shape(ty, tied));
        let ((ours, a), (theirs, b)) = (three(&config, &shape, false), three(&config, &shape, true));
        for ((loss, norm, clipped), (other, other_norm, other_clipped)) in ours.iter().zip(&theirs) {
            assert!((loss - other).abs() < 1e-5 * loss, "{sets:?}: loss {loss} and {other}");
            assert!((norm - other_norm).abs() < 1e-4 * norm, "{sets:?}: norm {norm} and {other_norm}");
            assert_eq!(clipped, other_clipped);
        }
        assert!(!a.is_empty() && a.len() == b.len());
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            assert!(apart(a, b) < 2e-3, "{sets:?}: {name} differs by {}", apart(a, b));
            assert!(a.iter().any(|v| *v != 0.0), "{name}");
        }
    }
}

#[test]
fn a_wrong_operation_is_seen_in_the_loss() {
    // The comparison above is only worth what it finds: another epsilon of the norms, another base of the rotations.
    let (config, shape) =
        (config(&[("train.params", "full"), ("train.optimizer", "sgd")]), shape(BlockType::F32, true));
    let right = three(&config, &shape, true).0[0].0;
    let mut wrong = shape.clone();
    wrong.norm_eps = 1e-3;
    let other = three(&config, &wrong, false).0[0].0;
    assert!((right - other).abs() > 1e-5 * right, "{right} and {other}");
}

#[test]
fn operations_beside_a_step_are_the_cpus() {
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let sizes = crate::device::Sizes { rows: 16, cols: 64, hidden: 64, outputs: 64, ..Default::default() };
    let (cpu, candle) = (Cpu::new(&ledger, &team(), &sizes).unwrap(), candle(&ledger));
    let random: Vec<f32> = (0..512).map(|i| Philox::new(4).uniform(i) - 0.5).collect();
    let run = |d: &dyn Device| {
        let put = |values: &[f32]| {
            let mut buf = d.buffer(TAG, BlockType::F32, values.len()).unwrap();
            d.upload(bytemuck::cast_slice(values), buf.all_mut()).unwrap();
            buf
        };
        let (x, mut y) = (put(&random), put(&[0.5; 128]));
        let mut ids = d.buffer(TAG, BlockType::I32, 4).unwrap();
        d.upload(bytemuck::cast_slice(&[1u32, 2, 5, 7]), ids.all_mut()).unwrap();
        d.scatter(x.at(3), ids.all(), 4, 16, y.all_mut()).unwrap();
        d.axpy(0.25, x.at(7), y.at_mut(3), 100).unwrap();
        d.scale(y.at_mut(9), 50, -1.5).unwrap();
        d.fill(y.at_mut(120), 4, 2.0).unwrap();
        // The second half of a matrix, with a bias, added.
        d.linear(x.at(64), 2, Weight::of(&x, 16, 16).rows(8, 8), Some(x.at(5)), y.at_mut(11), true).unwrap();
        d.bias_vjp(x.at(1), 5, 8, y.at_mut(40), true).unwrap();
        let mut out = vec![0.0f32; 128];
        d.download(y.all(), bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    };
    let (ours, theirs) = (run(&cpu), run(&candle));
    assert!(apart(&theirs, &ours) < 1e-6, "{}", apart(&theirs, &ours));
    assert!(ours.iter().any(|v| *v != 0.5));
}

#[test]
fn the_guest_row_is_a_wall_and_a_missing_device_is_named() {
    let ledger = Ledger::new(1000, u64::MAX, u64::MAX);
    let over = Candle::open("cpu", &ledger, &team(), 1, 1001).err().unwrap();
    assert_eq!(over.exit_code(), 3, "{over}");
    assert!(over.to_string().contains("candle tensors"), "{over}");
    if !cfg!(feature = "metal") {
        let missing = Candle::open("metal:0", &ledger, &team(), 1, 10).err().unwrap();
        assert!(missing.to_string().contains("--features metal"), "{missing}");
    }
}
