//! Properties of whole steps on a small model: what changes only memory gives the same bits, what changes only tiles nearly
//! so, and plans are what ledgers measure.

use std::sync::Arc;

use super::batch::{Batch, NO_LOSS};
use super::engine::{OnProgress, Setup, Stepped, Techniques, Trainer};
use super::gradient::Gradient;
use super::params::Role;
use super::weights::ADAPTERS;
use super::{plan, state};
use crate::blocks::BlockType;
use crate::catalog::from_toml;
use crate::config::Config;
use crate::device::cpu::{Cpu, scratch_bytes};
use crate::device::dry::Rates;
use crate::ledger::{Category, Ledger, Measured, Tier};
use crate::ops::{KernelTimes, ThreadTeam};
use crate::rng::Philox;
use crate::shape::{Act, Attention, Ffn, LayerShape, ModelShape, Rope, TensorShape};

mod adapted;

/// A small model; matrices stored as `ty`.
pub(crate) fn shape(ty: BlockType, tied: bool) -> ModelShape {
    let t = |name: &str, rows: usize, cols: usize| TensorShape {
        name: name.into(),
        ty: if rows == 1 { BlockType::F32 } else { ty }.into(),
        rows,
        cols,
    };
    let (hidden, ff, vocab) = (64, 96, 77);
    let layer = |l: usize| {
        let tensors = [
            (Role::AttnNorm, 1, hidden),
            (Role::Q, 64, hidden),
            (Role::K, 32, hidden),
            (Role::V, 32, hidden),
            (Role::O, hidden, 64),
            (Role::FfnNorm, 1, hidden),
            (Role::Gate, ff, hidden),
            (Role::Up, ff, hidden),
            (Role::Down, hidden, ff),
        ];
        let tensors =
            tensors.into_iter().map(|(role, rows, cols)| (role, t(&format!("blk.{l}.{}", role.gguf()), rows, cols)));
        LayerShape {
            attention: Attention {
                heads: 4,
                kv_heads: 2,
                dim: 16,
                scale: 0.25,
                window: None,
                rope: Some(0),
                cap: None,
            },
            ffn: Ffn::Dense { width: ff, act: Act::Silu },
            tensors: tensors.collect(),
        }
    };
    ModelShape {
        name: "small".into(),
        arch: "llama".into(),
        hidden,
        vocab,
        context: 128,
        norm_eps: 1e-5,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: None,
        ropes: vec![Rope::plain(16, 10_000.0, true)],
        layers: (0..3).map(layer).collect(),
        embedding: t("token_embd.weight", vocab, hidden),
        output_norm: t("output_norm.weight", 1, hidden),
        output: (!tied).then(|| t("output.weight", vocab, hidden)),
        rope_freqs: None,
        adapter: None,
    }
}

pub(crate) fn config(sets: &[(&str, &str)]) -> Config {
    let base = [("train.batch", "3"), ("train.length", "20"), ("machine.threads", "2"), ("train.lr", "0.01")];
    let sets: Vec<_> = base.iter().chain(sets).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    from_toml("", &sets).unwrap()
}

/// Rows of three documents, some without targets.
pub(crate) fn batch(sequences: usize, seed: u64) -> Batch {
    let (random, length) = (Philox::new(seed), 20);
    let n = sequences * length;
    let tokens: Vec<u32> = (0..n as u64).map(|i| random.below(i, 77) as u32).collect();
    let targets =
        (0..n).map(|i| if i % length == length - 1 || i % 7 == 3 { NO_LOSS } else { tokens[i + 1] }).collect();
    let segments = (0..n).map(|i| [0, 5, 11][(i % length >= 5) as usize + (i % length >= 11) as usize]).collect();
    Batch { tokens, targets, segments, sequences, length, filled: Vec::new() }
}

/// A trainer with weights from a formula, whatever their type.
pub(crate) fn trainer(
    config: &Config,
    shape: &ModelShape,
    threads: usize,
    budget: u64,
) -> crate::Result<(Trainer, Arc<Ledger>)> {
    let ledger = Ledger::new(budget, u64::MAX, u64::MAX);
    let train = config.train.as_ref().unwrap();
    let techniques = Techniques::of(config)?;
    let sizes = techniques.sizes(train, shape, threads);
    let team = Arc::new(ThreadTeam::new(threads)?);
    let device = Cpu::new(&ledger, &team, &sizes)?;
    let source = crate::model::Source::Random {
        spec: crate::model::random::parse("random:smollm2-135m@f32#3").unwrap().unwrap(),
        spread: crate::model::random::Spread::ByColumns,
        like: None,
    };
    let setup = Setup { shape, source: Some(&source), plan: false, train, seed: 7 };
    let trainer = Trainer::new(Box::new(device), &ledger, &setup, techniques, sizes.load, &mut |_| ())?;
    Ok((trainer, ledger))
}

pub(crate) fn values(trainer: &Trainer, id: usize) -> Vec<f32> {
    let p = &trainer.learner.params()[id];
    let mut bytes = vec![0u8; p.buf.bytes()];
    trainer.device().download(p.buf.all(), &mut bytes).unwrap();
    let mut out = vec![0.0; p.len()];
    crate::blocks::decode(p.buf.ty(), &bytes, &mut out).unwrap();
    out
}

fn all_values(trainer: &Trainer) -> Vec<Vec<f32>> {
    (0..trainer.learner.params().len()).map(|id| values(trainer, id)).collect()
}

/// Three steps; the last one's loss and everything that learned.
fn three(sets: &[(&str, &str)], shape: &ModelShape, threads: usize) -> (Vec<Stepped>, Vec<Vec<f32>>, Measured) {
    let config = config(sets);
    let (mut t, ledger) = trainer(&config, shape, threads, u64::MAX).unwrap();
    let accumulate = config.train.as_ref().unwrap().accumulate as u64;
    let rows = config.train.as_ref().unwrap().batch;
    let gradient = Techniques::new(config.train.as_ref().unwrap()).unwrap().gradient;
    let steps = (1..=3)
        .map(|step| {
            let batches: Vec<Batch> = (0..accumulate).map(|i| batch(rows, step * 10 + i)).collect();
            gradient.step(&mut t, &batches, step, 0.01, &mut |_| ()).unwrap()
        })
        .collect();
    t.evaluate(&batch(rows, 99)).unwrap();
    (steps, all_values(&t), ledger.measured())
}

#[test]
fn recomputing_holding_and_threads_change_no_bit() {
    for params in ["full", "lora"] {
        for (ty, tied) in [(BlockType::F32, true), (BlockType::Q8_0, false)] {
            let shape = shape(ty, tied);
            let base = [("train.params", params), ("train.activations", "keep")];
            let (steps, weights, _) = three(&base, &shape, 1);
            assert!(steps.iter().all(|s| s.grad_norm > 0.0 && s.loss.is_finite()), "{steps:?}");
            for other in [
                &[("train.activations", "recompute")][..],
                &[("train.activations", "recompute"), ("train.activations.every", "2")],
                &[("train.activations", "recompute"), ("train.activations.every", "8")],
                &[("train.grad_hold", "layer")],
                &[("train.grad_hold", "matrix")],
                &[("train.grad_hold", "matrix"), ("train.activations", "recompute")],
            ] {
                for threads in [1, 2] {
                    let sets: Vec<_> = base.iter().chain(other).copied().collect();
                    let (s, w, _) = three(&sets, &shape, threads);
                    assert!(w == weights, "{params} {ty} {other:?} on {threads} threads: other weights");
                    let losses = |s: &[Stepped]| s.iter().map(|s| s.loss).collect::<Vec<_>>();
                    assert_eq!(losses(&s), losses(&steps), "{params} {ty} {other:?}");
                }
            }
        }
    }
}

const DROPOUT: [(&str, &str); 2] = [("train.params", "lora"), ("train.params.lora_dropout", "0.4")];

#[test]
fn dropout_drops_the_same_when_recomputed_held_and_on_any_threads() {
    let shape = shape(BlockType::Q8_0, false);
    let base = [DROPOUT[0], DROPOUT[1], ("train.accumulate", "2"), ("train.activations", "keep")];
    let (steps, weights, _) = three(&base, &shape, 1);
    for other in [
        &[("train.activations", "recompute")][..],
        &[("train.activations", "recompute"), ("train.activations.every", "2")],
        &[("train.activations", "keep")],
    ] {
        let sets: Vec<_> = base.iter().chain(other).copied().collect();
        let (s, w, _) = three(&sets, &shape, 3);
        assert!(w == weights && s == steps, "{other:?}");
    }
    // The first step has nothing to drop, as B is zero; later ones have.
    let (plain, _, _) = three(&[DROPOUT[0], base[2]], &shape, 1);
    assert_eq!(plain[0].loss, steps[0].loss);
    assert!(plain[2].loss != steps[2].loss);
}

#[test]
fn gradients_with_dropout_are_those_of_the_loss_and_answers_drop_nothing() {
    let shape = shape(BlockType::F32, false);
    let (mut t, _) = trainer(&config(&DROPOUT), &shape, 2, u64::MAX).unwrap();
    let (mut plain, _) = trainer(&config(&DROPOUT[..1]), &shape, 2, u64::MAX).unwrap();
    let values: Vec<Vec<f32>> = (t.learner.params().iter().enumerate())
        .map(|(id, p)| {
            let random = Philox::new(11).stream(id as u64);
            (0..p.len() as u64).map(|i| 0.1 * (2.0 * random.uniform(i) - 1.0)).collect()
        })
        .collect();
    let put = |t: &mut Trainer, along: &[Vec<f32>], by: f32| {
        let (d, learner) = t.parts();
        for (id, (value, along)) in values.iter().zip(along).enumerate() {
            let moved: Vec<f32> = value.iter().zip(along).map(|(v, a)| v + by * a).collect();
            d.upload(bytemuck::cast_slice(&moved), learner.param_mut(id).unwrap().buf.all_mut()).unwrap();
        }
    };
    let step = |t: &mut Trainer, step: u64| t.backprop(&[batch(3, 1)], step, 0.0, &mut |_| ()).unwrap().loss;
    for t in [&mut plain, &mut t] {
        put(t, &values, 0.0);
        let here = step(t, 5);
        let gradient: Vec<Vec<f32>> = (0..values.len())
            .map(|id| {
                let mut g = vec![0.0f32; values[id].len()];
                t.device().download(t.learner.gradient(id).unwrap(), bytemuck::cast_slice_mut(&mut g)).unwrap();
                g
            })
            .collect();
        let norm = gradient.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
        // Along the gradient the loss of the same step rises by its norm; a mask that backward did not share would show.
        let h = 1e-3 / norm as f32;
        put(t, &gradient, h);
        let up = step(t, 5);
        put(t, &gradient, -h);
        let slope = (up - step(t, 5)) / (2.0 * f64::from(h) * norm);
        assert!((slope / norm - 1.0).abs() < 0.01, "{slope} and not {norm} around {here}");
        put(t, &values, 0.0);
        assert_eq!(step(t, 5), here);
    }
    assert!(step(&mut t, 6) != step(&mut t, 5) && step(&mut plain, 6) == step(&mut plain, 5));
    assert_eq!(t.evaluate(&batch(3, 2)).unwrap(), plain.evaluate(&batch(3, 2)).unwrap());
}

#[test]
fn clipping_by_layer_is_the_same_however_long_gradients_are_held() {
    let shape = shape(BlockType::F32, false);
    let clip = ("train.clip", "{ by = \"layer\", at = 0.05 }");
    let (steps, weights, _) = three(&[("train.params", "full"), clip], &shape, 2);
    assert!(steps.iter().all(|s| s.clipped));
    let (_, held, _) = three(&[("train.params", "full"), clip, ("train.grad_hold", "layer")], &shape, 2);
    assert!(weights == held);
    let (_, free, _) = three(&[("train.params", "full")], &shape, 2);
    assert!(weights != free);
}

#[test]
fn tiles_of_the_loss_agree_and_cut_never_holds_all_logits() {
    let shape = shape(BlockType::F32, true);
    let base = [("train.params", "full"), ("train.optimizer", "sgd")];
    let (steps, weights, full) = three(&[base[0], base[1], ("train.loss", "full")], &shape, 2);
    let whole = (3 * 20 * 77 * 4) as u64;
    assert!(full.tiers[&Tier::Device].bytes[&Category::Logits] >= whole);
    for loss in [
        &[("train.loss", "chunked"), ("train.loss.chunk_tokens", "7")][..],
        &[("train.loss", "cut"), ("train.loss.block_n", "16"), ("train.loss.block_v", "10")],
    ] {
        let sets: Vec<_> = base.iter().chain(loss).copied().collect();
        let (s, w, measured) = three(&sets, &shape, 2);
        for (a, b) in s.iter().zip(&steps) {
            assert!((a.loss / b.loss - 1.0).abs() < 1e-5 && (a.grad_norm / b.grad_norm - 1.0).abs() < 1e-5);
        }
        for (a, b) in w.iter().flatten().zip(weights.iter().flatten()) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(0.01), "{loss:?}: {a} {b}");
        }
        assert!(measured.tiers[&Tier::Device].bytes[&Category::Logits] < whole / 2);
    }
}

#[test]
fn micro_batches_add_up_to_one_batch_of_any_make_up() {
    let shape = shape(BlockType::F32, true);
    let run = |batch_rows: &str, batches: Vec<Batch>| {
        let n = batches.len().to_string();
        let sets = [("train.params", "full"), ("train.optimizer", "sgd"), ("train.batch", batch_rows)];
        let config = config(&[sets[0], sets[1], sets[2], ("train.accumulate", &n)]);
        let (mut t, _) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        let s = t.backprop(&batches, 1, 0.1, &mut |_| ()).unwrap();
        (s, all_values(&t))
    };
    let whole = batch(4, 5);
    let mut ragged = whole.clone();
    ragged.targets[..30].fill(NO_LOSS);
    let part = |b: &Batch, rows: std::ops::Range<usize>| {
        let r = rows.start * 20..rows.end * 20;
        Batch {
            tokens: b.tokens[r.clone()].to_vec(),
            targets: b.targets[r.clone()].to_vec(),
            segments: b.segments[r].to_vec(),
            sequences: rows.len(),
            length: 20,
            filled: Vec::new(),
        }
    };
    let (a, wa) = run("4", vec![ragged.clone()]);
    let (b, wb) = run("2", vec![part(&ragged, 0..2), part(&ragged, 2..4)]);
    let (c, wc) = run("3", vec![part(&ragged, 0..1), part(&ragged, 1..4)]);
    for (s, w) in [(b, wb), (c, wc)] {
        assert_eq!(s.counted, a.counted);
        assert!((s.loss / a.loss - 1.0).abs() < 1e-6);
        let far = w.iter().flatten().zip(wa.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(far < 1e-6, "{far}");
    }
    // A batch without any target learns nothing, has no loss and is no error.
    let mut nothing = whole;
    nothing.targets.fill(NO_LOSS);
    let (s, _) = run("4", vec![nothing]);
    assert!(s.loss.is_nan() && (s.grad_norm, s.counted) == (0.0, 0), "{s:?}");
}

#[test]
fn adapters_begin_as_nothing_and_leave_the_base_as_it_is() {
    let shape = shape(BlockType::Q8_0, true);
    let config = config(&[("train.params", "lora"), ("train.params.r", "4"), ("train.params.target", "q,v,down")]);
    let (mut t, ledger) = trainer(&config, &shape, 2, u64::MAX).unwrap();
    let untouched = config_without_adapters(&shape);
    let b = batch(3, 4);
    let (loss, counted) = t.evaluate(&b).unwrap();
    assert_eq!((loss, counted), untouched, "before the first step the adapter adds nothing, bit for bit");
    for step in 1..=20 {
        t.backprop(std::slice::from_ref(&b), step, 0.02, &mut |_| ()).unwrap();
    }
    let (after, _) = t.evaluate(&b).unwrap();
    assert!(after < 0.8 * loss, "{after} {loss}");
    // r (m + n) for q, v and down of three layers; gradients, moments and nothing for what is frozen.
    let elements = 3 * 4 * ((64 + 64) + (32 + 64) + (64 + 96)) as u64;
    let measured = ledger.measured();
    let device = &measured.tiers[&Tier::Device];
    assert_eq!(device.bytes[&Category::Gradients], 4 * elements);
    assert_eq!(device.bytes[&Category::Optimizer], 8 * elements);
    assert_eq!(measured.rows[&format!("device.weights.{}", ADAPTERS.name)], 4 * elements);
    // Frozen A: only B has gradient and moments.
    let sets = [("train.params", "lora"), ("train.params.r", "4"), ("train.params.freeze_a", "true")];
    let (_, _, measured) = three(&sets, &shape, 1);
    let b_only = 3 * 4 * (64 + 32 + 32 + 64 + 96 + 96 + 64) as u64;
    assert_eq!(measured.tiers[&Tier::Device].bytes[&Category::Gradients], 4 * b_only);
}

/// A mean over no target is no number; a step of it must not decay weights or moments either.
#[test]
fn a_step_without_a_target_has_no_loss_and_changes_nothing() {
    let shape = shape(BlockType::F32, true);
    let decays = ("train.optimizer", "{ use = \"adamw\", weight_decay = 0.1 }");
    let sgd = ("train.optimizer", "{ use = \"sgd\", momentum = 0.0, weight_decay = 0.1 }");
    let all: [&[(&str, &str)]; 3] = [
        &[("train.params", "full"), decays],
        &[("train.params", "lora"), decays, ("train.grad_hold", "matrix")],
        &[("train.params", "full"), sgd, ("train.gradient", "mezo")],
    ];
    for sets in all {
        let config = config(sets);
        let (mut t, _) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        let gradient = Techniques::new(config.train.as_ref().unwrap()).unwrap().gradient;
        let learns = batch(3, 4);
        let empty = Batch { targets: vec![NO_LOSS; learns.rows()], ..learns.clone() };
        let state = |t: &Trainer| -> Vec<Vec<u8>> {
            let bufs = t.learner.params().iter().flat_map(|p| std::iter::once(&p.buf).chain(&p.state));
            let read = |buf: &crate::device::Buf| {
                let mut bytes = vec![0; buf.bytes()];
                t.device().download(buf.all(), &mut bytes).unwrap();
                bytes
            };
            bufs.map(read).collect()
        };
        let step = |t: &mut Trainer, batches: &[Batch], n| gradient.step(t, batches, n, 0.01, &mut |_| ()).unwrap();
        step(&mut t, std::slice::from_ref(&learns), 1);
        let before = state(&t);
        let none = step(&mut t, &[empty.clone(), empty.clone()], 2);
        assert!(none.loss.is_nan(), "{sets:?}: {none:?}");
        assert_eq!((none.counted, none.tokens, none.computed, none.grad_norm), (0, 0, 0, 0.0), "{sets:?}");
        assert!(state(&t) == before, "{sets:?}: what learns has changed");
        // Beside a batch that has targets it counts for nothing.
        let some = step(&mut t, &[empty, learns], 3);
        assert!(some.loss.is_finite() && some.counted > 0 && state(&t) != before, "{sets:?}: {some:?}");
    }
}

/// PEFT allows any rank: one above every side of every matrix needs scratch of its own width.
#[test]
fn adapters_of_a_rank_above_every_side_learn_and_are_planned() {
    for (params, activations) in [("lora", "keep"), ("dora", "recompute")] {
        plan_is_measured(&[("train.params", params), ("train.params.r", "200"), ("train.activations", activations)]);
    }
}

/// QLoRA: adapters learn over a base that is encoded as it is loaded, and the plan knows its bytes.
#[test]
fn adapters_learn_over_weights_in_any_scheme() {
    let shape = shape(BlockType::F32, false);
    let b = batch(3, 4);
    let mut losses = Vec::new();
    for format in ["original", "q8_0", "{ use = \"nf4\", block_size = 32 }"] {
        let sets = [("train.params", "lora"), ("train.params.r", "4"), ("weights.format", format)];
        let config = config(&sets);
        let (mut t, ledger) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        let before = t.evaluate(&b).unwrap();
        for step in 1..=20 {
            t.backprop(std::slice::from_ref(&b), step, 0.02, &mut |_| ()).unwrap();
        }
        losses.push(before.0);
        assert!(t.evaluate(&b).unwrap().0 < 0.8 * before.0, "{format}");
        let measured = ledger.measured();
        let held = crate::weights::format::Formats::new(&config).unwrap().held(&shape).unwrap();
        let row = format!("device.weights.{}", super::weights::FROZEN.name);
        assert_eq!(measured.rows[&row], held.bytes(), "{format}");
        let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk(&config, &shape, &free, None).unwrap();
        assert_eq!(free.measured().tiers[&Tier::Device], measured.tiers[&Tier::Device], "{format}");
    }
    // Each base is another one, and near the file's.
    let off = |i: usize| (losses[i] / losses[0] - 1.0).abs();
    assert!(off(1) > 0.0 && off(2) > 0.0 && off(1) < 0.01 && off(2) < 0.01 && losses[1] != losses[2], "{losses:?}");
}

/// Loss of batch 4 with the base alone: a model whose norms would learn, before they do.
fn config_without_adapters(shape: &ModelShape) -> (f64, usize) {
    let config = config(&[("train.params", "lora"), ("train.params.r", "1"), ("train.params.target", "k")]);
    trainer(&config, shape, 1, u64::MAX).unwrap().0.evaluate(&batch(3, 4)).unwrap()
}

#[test]
fn bf16_weights_learn_with_every_rounding() {
    let shape = shape(BlockType::F32, true);
    for (round, bytes) in [("nearest", 0), ("stochastic", 0), ("kahan", 2), ("master", 4)] {
        let sets = [("train.params", "full"), ("train.dtype", "bf16"), ("train.round", round)];
        let config = config(&sets);
        let (mut t, ledger) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        let b = batch(3, 4);
        let first = t.backprop(std::slice::from_ref(&b), 1, 0.01, &mut |_| ()).unwrap().loss;
        let mut last = first;
        for step in 2..=12 {
            last = t.backprop(std::slice::from_ref(&b), step, 0.01, &mut |_| ()).unwrap().loss;
        }
        assert!(last < 0.8 * first, "{round}: {first} → {last}");
        let params = t.learner.learning() as u64;
        let norms = 64 * 7;
        let held = ledger.measured().tiers[&Tier::Device].bytes[&Category::Optimizer];
        assert_eq!(held, 8 * params + bytes * (params - norms), "{round}");
    }
}

#[test]
fn plans_are_what_ledgers_measure() {
    let mut seen = 0;
    for (ty, tied) in [(BlockType::F32, true), (BlockType::Q4_1, false)] {
        let shape = shape(ty, tied);
        let (lora, r) = (("train.params", "lora"), ("train.params.r", "3"));
        for params in [&[("train.params", "full")][..], &[lora, r], &[lora, r, ("train.params.lora_dropout", "0.1")]] {
            for optimizer in [("train.optimizer", "adamw"), ("train.optimizer", "sgd")] {
                for activations in ["keep", "recompute"] {
                    for loss in ["full", "chunked", "cut"] {
                        for hold in ["all", "layer", "matrix"] {
                            let rest = [optimizer, ("train.activations", activations), ("train.loss", loss)];
                            let sets: Vec<_> =
                                params.iter().chain(&rest).copied().chain([("train.grad_hold", hold)]).collect();
                            let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
                            plan::walk(&config(&sets), &shape, &free, None).unwrap();
                            let (_, _, measured) = three(&sets, &shape, 2);
                            let (p, m) = (&free.measured().tiers[&Tier::Device], &measured.tiers[&Tier::Device]);
                            assert_eq!(p, m, "{sets:?}");
                            let planned = free.measured();
                            for (phase, accounts) in &measured.phases {
                                assert_eq!(planned.phases[phase], *accounts, "{sets:?} {phase}");
                            }
                            seen += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(seen >= 40, "{seen}");
}

/// Asserts that three steps of a small model hold what their plan says, and that two threads change no bit of them.
pub(crate) fn plan_is_measured(sets: &[(&str, &str)]) -> Measured {
    let shape = shape(BlockType::F32, true);
    let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    plan::walk(&config(sets), &shape, &free, None).unwrap();
    let (steps, weights, measured) = three(sets, &shape, 2);
    assert_eq!(free.measured().tiers[&Tier::Device], measured.tiers[&Tier::Device], "{sets:?}");
    for (phase, accounts) in &measured.phases {
        assert_eq!(free.measured().phases[phase], *accounts, "{sets:?} {phase}");
    }
    let (alone, same, _) = three(sets, &shape, 1);
    assert!(steps == alone && weights == same, "{sets:?}: other bits on another number of threads");
    measured
}

/// A gradient that only looks.
struct Looks;

impl Gradient for Looks {
    fn held(&self) -> bool {
        false
    }

    fn step(&self, t: &mut Trainer, batches: &[Batch], _: u64, _: f32, _: OnProgress<'_>) -> crate::Result<Stepped> {
        t.evaluate(&batches[0])?;
        Ok(Stepped::default())
    }
}

#[test]
fn a_plan_takes_the_step_of_its_gradient_and_not_backpropagations() {
    let (shape, config) = (shape(BlockType::F32, true), config(&[("train.params", "full")]));
    let planned = |techniques: Techniques| {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk_by(&config, &shape, &ledger, None, techniques).unwrap();
        ledger.measured()
    };
    let techniques = || Techniques::new(config.train.as_ref().unwrap()).unwrap();
    let (looks, learns) = (planned(Techniques { gradient: Arc::new(Looks), ..techniques() }), planned(techniques()));
    let bytes = |m: &Measured, of: Category| m.tiers[&Tier::Device].bytes.get(&of).copied().unwrap_or(0);
    assert!(bytes(&learns, Category::Gradients) > 0 && bytes(&looks, Category::Gradients) == 0);
    assert!(bytes(&looks, Category::Activations) < bytes(&learns, Category::Activations));
}

#[test]
fn any_operation_of_a_step_may_fail_and_nothing_is_left_of_it() {
    let shape = shape(BlockType::Q8_0, false);
    for sets in [&[("train.params", "full"), ("train.grad_hold", "layer")][..], &DROPOUT] {
        let (mut t, ledger) = trainer(&config(sets), &shape, 2, u64::MAX).unwrap();
        let step = |t: &mut Trainer| t.backprop(&[batch(3, 1)], 1, 0.01, &mut |_| ());
        step(&mut t).unwrap();
        let (before, held) = (t.device().meter().operations(), ledger.held(Tier::Device));
        step(&mut t).unwrap();
        let operations = t.device().meter().operations() - before;
        assert!(operations > 100, "{operations}");
        for n in (1..=operations).step_by(17).chain([operations]) {
            t.device().meter().fail_at(n);
            let failed = step(&mut t).unwrap_err();
            assert!(failed.to_string().contains("failed"), "operation {n}: {failed}");
            assert_eq!(ledger.held(Tier::Device), held, "operation {n} of {sets:?}");
        }
        assert!(step(&mut t).unwrap().loss.is_finite());
    }
}

#[test]
fn gradients_and_moments_have_the_bytes_of_the_formulas() {
    // fine-tuning.md §9: SmolLM2-135M.
    let shape =
        crate::model::random::shape(&crate::model::random::parse("random:smollm2-135m@f32").unwrap().unwrap()).unwrap();
    let planned = |sets: &[(&str, &str)]| {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk(&config(sets), &shape, &ledger, None).unwrap();
        let bytes = ledger.measured().tiers[&Tier::Device].bytes.clone();
        (bytes[&Category::Gradients], bytes[&Category::Optimizer])
    };
    let full = ("train.params", "full");
    assert_eq!(planned(&[full]), (4 * 134_515_008, 1_076_120_064));
    let (layer, embedding) = (4 * 3_540_096, 4 * 28_311_552);
    assert_eq!(planned(&[full, ("train.grad_hold", "layer")]).0, layer + embedding);
    assert_eq!(planned(&[full, ("train.grad_hold", "matrix")]).0, 4 * 1536 * 576 + embedding);
    let lora = [("train.params", "lora"), ("train.params.r", "16")];
    assert_eq!(planned(&lora), (4 * 4_884_480, 8 * 4_884_480));
    let half = [lora[0], lora[1], ("train.optimizer", "adamw"), ("train.optimizer.state_dtype", "bf16")];
    assert_eq!(planned(&half).1, 4 * 4_884_480);
    assert!(scratch_bytes(2, &crate::device::Sizes::default()) > 0);
}

#[test]
fn a_step_takes_the_arithmetic_of_its_products_and_the_time_of_its_bytes() {
    let shape = shape(BlockType::F32, true);
    let spent = |sets: &[(&str, &str)], rates: Rates| {
        let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk(&config(sets), &shape, &free, Some(rates)).unwrap()
    };
    // A machine that only its arithmetic holds up: seconds are operations.
    let arithmetic = Rates { flops: 1.0, bytes: f64::INFINITY, launch: 0.0, kernels: None };
    let full = [("train.params", "full"), ("train.activations", "keep"), ("train.loss", "full")];
    let train = config(&full).train.unwrap();
    let m = (train.batch * train.length) as f64;
    // A product forward and two backward; attention has two products forward and seven backward over half of all pairs.
    let linears: usize =
        shape.layers.iter().flat_map(|l| l.tensors.all()).filter(|t| t.rows > 1).map(|t| t.rows * t.cols).sum();
    let pairs: usize = shape.layers.iter().map(|l| l.attention.q() * train.length).sum();
    let head = (shape.vocab * shape.hidden) as f64;
    let expected = 6.0 * m * (linears as f64 + head) + 9.0 * m * pairs as f64;
    let step = spent(&full, arithmetic.clone());
    assert!((step.pass / expected - 1.0).abs() < 1e-9, "{} is not {expected}", step.pass);
    assert!(step.update == 0.0);
    // A forward more of everything but the head.
    let again = [full[0], ("train.activations", "recompute"), full[2]];
    let more = spent(&again, arithmetic).pass - step.pass;
    let forward = 2.0 * m * (linears + pairs) as f64;
    assert!(more > 0.5 * forward && more <= forward, "{more} of {forward}");
    // A machine that only its memory holds up: an update reads and writes weights and moments, and reads gradients twice.
    let memory = Rates { flops: f64::INFINITY, bytes: 1.0, launch: 0.0, kernels: None };
    let parameters: usize = shape.tensors().map(|t| t.rows * t.cols).sum();
    assert_eq!(spent(&full, memory).update, (4 * (2 * 3 + 2) * parameters) as f64);
    // A machine that only its launches hold up: adapters have more of them.
    let launches = Rates { flops: f64::INFINITY, bytes: f64::INFINITY, launch: 1.0, kernels: None };
    let (whole, adapters) = (spent(&full, launches.clone()), spent(&[("train.params", "lora")], launches.clone()));
    assert!(whole.pass > 50.0 && adapters.pass > whole.pass);
    // Projections are found in the first step of each two: of one step in one, of four in two, of five in three.
    let steps = |n: &str| {
        let sets = [full[0], full[1], full[2], ("train.optimizer", "galore"), ("train.optimizer.update_proj_gap", "2")];
        spent(&[&sets[..], &[("train.steps", n)]].concat(), launches.clone()).update
    };
    let (first, half) = (steps("1"), steps("4"));
    let other = 2.0 * half - first;
    assert!(other > 0.0 && first > 2.0 * other, "{first} and {other}");
    assert!((steps("5") / (0.6 * first + 0.4 * other) - 1.0).abs() < 1e-9);
    // A buffer is zeros before it is anything else: a row of every layer's stream at least.
    let kernels = KernelTimes { threads: 1, cleared: 1.0, ..KernelTimes::default() };
    let zeros = spent(&full, Rates { kernels: Some(kernels), ..launches });
    assert!(zeros.pass >= 4.0 * m * (shape.hidden * shape.layers.len()) as f64, "{}", zeros.pass);
}

#[test]
fn a_step_under_its_plan_fits_and_a_byte_less_is_refused_before_it_starts() {
    let shape = shape(BlockType::F32, true);
    let config = config(&[("train.params", "full")]);
    let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    plan::walk(&config, &shape, &free, None).unwrap();
    let peak = free.measured().tiers[&Tier::Device].peak;
    let (mut t, ledger) = trainer(&config, &shape, 2, peak).unwrap();
    t.backprop(&[batch(3, 1)], 1, 0.01, &mut |_| ()).unwrap();
    assert_eq!(ledger.measured().tiers[&Tier::Device].peak, peak);
    let short = Ledger::new(peak - 1, u64::MAX, u64::MAX);
    assert_eq!(plan::walk(&config, &shape, &short, None).unwrap_err().exit_code(), 3);
}

/// The small model of `tests/scripts/make_train.py`, its weights by the same formula.
pub(crate) fn formula_trainer(config: &Config, bias: bool) -> (Trainer, Arc<Ledger>) {
    let (mut shape, train) = (shape(BlockType::F32, true), config.train.as_ref().unwrap());
    if bias {
        for (l, layer) in shape.layers.iter_mut().enumerate() {
            for (role, cols) in [(Role::QBias, 64), (Role::KBias, 32), (Role::VBias, 32)] {
                let name = format!("blk.{l}.{}", role.gguf());
                layer.tensors.push(role, TensorShape { name, ty: BlockType::F32.into(), rows: 1, cols });
            }
        }
    }
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let techniques = Techniques::new(train).unwrap();
    let sizes = techniques.sizes(train, &shape, 2);
    let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(2).unwrap()), &sizes).unwrap();
    let setup = Setup { shape: &shape, source: None, plan: false, train, seed: 0 };
    let mut t = Trainer::new(Box::new(device), &ledger, &setup, techniques, 0, &mut |_| ()).unwrap();
    let (d, learner) = t.parts();
    for id in 0..learner.params().len() {
        let p = learner.param_mut(id).unwrap();
        let norm = p.name.contains("norm");
        let wave = |i: usize| (0.7 * i as f64 + 1.3 * id as f64).sin();
        let values: Vec<f32> =
            (0..p.len()).map(|i| if norm { 1.0 + 0.1 * wave(i) } else { 0.12 * wave(i) } as f32).collect();
        d.upload(bytemuck::cast_slice(&values), p.buf.all_mut()).unwrap();
    }
    (t, ledger)
}

/// The batch of a step of `tests/scripts/make_train.py`.
pub(crate) fn formula_batch(step: u64) -> Batch {
    let n = 60usize;
    let tokens: Vec<u32> = (0..n).map(|i| ((i * i * 7 + 3 * i + 11 * step as usize) % 77) as u32).collect();
    let targets = (0..n).map(|i| if i % 20 == 19 || i % 7 == 3 { NO_LOSS } else { tokens[i + 1] }).collect();
    let segments = (0..n).map(|i| [0, 5, 11][(i % 20 >= 5) as usize + (i % 20 >= 11) as usize]).collect();
    Batch { tokens, targets, segments, sequences: 3, length: 20, filled: Vec::new() }
}

/// Asserts that some of what was computed is what `some` of `tests/scripts/make_train.py` took of the reference.
pub(crate) fn same_as_some(what: &str, got: &[f32], want: &serde_json::Value, most: f64) {
    let norm: f64 = got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let exact = want["norm"].as_f64().unwrap();
    assert!((norm / exact - 1.0).abs() < most, "{what}: norm {norm}, {exact} in PyTorch");
    let some: Vec<f64> = want["some"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let size = some.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let every = (got.len() / 24).max(1);
    for (a, b) in got.iter().step_by(every).zip(&some) {
        assert!((f64::from(*a) - b).abs() <= most * size, "{what}: {a}, {b} in PyTorch (of {size})");
    }
}

/// `tests/scripts/make_train.py`: the same small model in PyTorch, float64.
#[test]
fn gradients_and_five_updates_are_those_of_pytorch() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/train/reference.json"));
    let all: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    for kind in ["plain", "bias"] {
        let reference = &all[kind];
        let config = config(&[
            ("train.params", "full"),
            ("train.optimizer", "{ use = \"adamw\", beta2 = 0.99, eps = 0.001, weight_decay = 0.1 }"),
            ("train.clip", "{ by = \"global\", at = 0.5 }"),
        ]);
        let (mut t, _) = formula_trainer(&config, kind == "bias");
        let same = |what: &str, got: &[f32], want: &serde_json::Value| {
            same_as_some(&format!("{kind} {what}"), got, want, 1e-4);
        };
        for step in 1..=5u64 {
            let b = formula_batch(step);
            let s = t.backprop(&[b], step, 0.002, &mut |_| ()).unwrap();
            let number = |key: &str| reference[key][step as usize - 1].as_f64().unwrap();
            assert!((s.loss / number("losses") - 1.0).abs() < 1e-5, "{kind} step {step}: {s:?}");
            assert!((s.grad_norm / number("norms") - 1.0).abs() < 1e-4, "{kind} step {step}: {s:?}");
            if step > 1 {
                continue;
            }
            for (id, p) in t.learner.params().iter().enumerate() {
                let mut g = vec![0.0f32; p.len()];
                let from = t.learner.gradient(id).unwrap();
                t.device().download(from, bytemuck::cast_slice_mut(&mut g)).unwrap();
                same(&format!("gradient of {}", p.name), &g, &reference["gradients"][&p.name]);
            }
        }
        for (id, p) in t.learner.params().iter().enumerate() {
            same(&p.name, &values(&t, id), &reference["weights"][&p.name]);
        }
    }
}

#[test]
fn a_state_that_is_taken_up_goes_on_bit_for_bit() {
    let shape = shape(BlockType::Q8_0, true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(state::FILE);
    let bf16 = [("train.params", "full"), ("train.dtype", "bf16"), ("train.round", "kahan")];
    let lora = [("train.params", "lora"), ("train.clip", "global"), ("train.optimizer", "sgd")];
    for sets in [bf16, lora] {
        let config = config(&sets);
        let run = |t: &mut Trainer, steps: std::ops::RangeInclusive<u64>| -> Vec<(f64, f64)> {
            let step = |i| t.backprop(&[batch(3, i)], i, 0.01, &mut |_| ()).unwrap();
            steps.map(step).map(|s| (s.loss, s.grad_norm)).collect()
        };
        let standing =
            state::Standing { step: 2, cursor: 6, seed: 7, data: "d".into(), model: "m".into(), choices: "c".into() };
        let (mut t, _) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        run(&mut t, 1..=2);
        state::save(&t, &standing, &path).unwrap();
        let went_on = run(&mut t, 3..=5);
        let (mut again, _) = trainer(&config, &shape, 1, u64::MAX).unwrap();
        let mut saved = state::Saved::open(&path).unwrap().unwrap();
        assert_eq!(saved.standing, standing);
        saved.restore(&mut again).unwrap();
        assert_eq!(run(&mut again, 3..=5), went_on);
        assert!(all_values(&again) == all_values(&t));
        let other = state::Standing { data: "e".into(), ..standing.clone() };
        assert!(standing.matches(&other, &path).unwrap_err().to_string().contains("data"));
    }
    // A state of another run, a cut one and none: told apart, and never half taken up without a word.
    let (mut t, _) = trainer(&config(&bf16), &shape, 1, u64::MAX).unwrap();
    assert!(state::Saved::open(&path).unwrap().unwrap().restore(&mut t).is_err());
    let whole = std::fs::read(&path).unwrap();
    for n in [0, 7, 9, 200, whole.len() - 1] {
        std::fs::write(&path, &whole[..n]).unwrap();
        assert!(state::Saved::open(&path).is_err(), "{n} of {} bytes", whole.len());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(state::Saved::open(&path).unwrap().is_none());
}

/// `tests/scripts/make_arch.py`: a tiny model of each architecture in PyTorch, float64.
#[test]
fn every_architectures_gradients_are_pytorchs() {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/arch")).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("logits.json")).unwrap()).unwrap();
        let model = crate::model::Model::open(dir.to_str().unwrap(), ".".as_ref()).unwrap();
        let tokens: Vec<u32> = all["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let length = tokens.len().to_string();
        for activations in ["keep", "recompute"] {
            let config = config(&[
                ("train.params", "full"),
                ("train.batch", "1"),
                ("train.length", &length),
                ("train.activations", activations),
                ("train.clip", "{ by = \"global\", at = 1e6 }"),
            ]);
            let train = config.train.as_ref().unwrap();
            let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
            let techniques = Techniques::new(train).unwrap();
            let sizes = techniques.sizes(train, &model.shape, 2);
            let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(2).unwrap()), &sizes).unwrap();
            let setup = Setup { shape: &model.shape, source: Some(&model.source), plan: false, train, seed: 0 };
            let made = Trainer::new(Box::new(device), &ledger, &setup, techniques, sizes.load, &mut |_| ());
            let Some(wanted) = all["gradients"].as_object() else {
                let refused = made.err().unwrap().to_string();
                assert!(refused.contains("experts"), "{name}: {refused}");
                continue;
            };
            let mut t = made.unwrap();
            let targets = tokens[1..].iter().copied().chain([NO_LOSS]).collect();
            let segments = vec![0; tokens.len()];
            let b = Batch {
                tokens: tokens.clone(),
                targets,
                segments,
                sequences: 1,
                length: tokens.len(),
                filled: Vec::new(),
            };
            let s = t.backprop(std::slice::from_ref(&b), 1, 1e-9, &mut |_| ()).unwrap();
            assert!((s.loss / all["loss"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{name}: {s:?}");
            assert_eq!(t.learner.params().len(), wanted.len(), "{name}");
            for (id, p) in t.learner.params().iter().enumerate() {
                let mut g = vec![0.0f32; p.len()];
                let from = t.learner.gradient(id).unwrap();
                t.device().download(from, bytemuck::cast_slice_mut(&mut g)).unwrap();
                let of = &wanted[&p.name];
                let norm: f64 = g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                let exact = of["norm"].as_f64().unwrap();
                assert!((norm / exact - 1.0).abs() < 2e-4, "{name} {}: norm {norm}, {exact} in PyTorch", p.name);
                let some: Vec<f64> = of["some"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                for (a, b) in g.iter().step_by((g.len() / 8).max(1)).zip(&some) {
                    assert!((f64::from(*a) - b).abs() <= 2e-4 * exact, "{name} {}: {a}, {b} in PyTorch", p.name);
                }
            }
            t.evaluate(&b).unwrap();
            let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
            plan::walk(&config, &model.shape, &free, None).unwrap();
            let peak = |l: &Ledger| l.measured().tiers[&Tier::Device].peak;
            assert_eq!(peak(&free), peak(&ledger), "{name} {activations}: planned and measured");
            seen.push(name.clone());
        }
    }
    assert!(seen.iter().any(|n| n == "llama"), "{seen:?}");
}

/// A file in `folder` of `shape`'s tensors in f32, with the values of `tests/scripts/make_dora.py`.
fn waves(shape: &ModelShape, folder: &std::path::Path) -> crate::model::Source {
    let path = folder.join("base.gguf");
    let mut out = crate::model::gguf::GgufWriter::new("llama");
    let names: Vec<&TensorShape> = shape.tensors().collect();
    for t in &names {
        let dims: &[usize] = if t.rows == 1 { &[t.cols] } else { &[t.cols, t.rows] };
        out.tensor(&t.name, BlockType::F32, dims);
    }
    let mut k = 0;
    out.write(&path, |info, sink| {
        let norm = info.name.contains("norm");
        let wave = |i: usize| (0.7 * i as f64 + 1.3 * f64::from(k)).sin();
        let values: Vec<f32> = (0..info.rows * info.cols)
            .map(|i| if norm { 1.0 + 0.1 * wave(i) } else { 0.12 * wave(i) } as f32)
            .collect();
        k += 1;
        sink.put(bytemuck::cast_slice(&values))
    })
    .unwrap();
    crate::model::Source::Gguf(crate::model::gguf::Gguf::open(&path).unwrap())
}

/// Compares numbers with the norm and some of the numbers that PEFT has.
fn is_pefts(what: &str, got: &[f32], want: &serde_json::Value) {
    let norm: f64 = got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let exact = want["norm"].as_f64().unwrap();
    assert!((norm / exact - 1.0).abs() < 1e-4, "{what}: norm {norm}, {exact} in PEFT");
    let some: Vec<f64> = want["some"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let size = some.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (a, b) in got.iter().step_by((got.len() / 4).max(1)).zip(&some) {
        assert!((f64::from(*a) - b).abs() <= 2e-4 * size, "{what}: {a}, {b} in PEFT (of {size})");
    }
}

/// Puts the values of `tests/scripts/make_dora.py` into the matrices that learn; the magnitudes that begin must be PEFT's, and
/// their number is returned.
fn wave_adapters(t: &mut Trainer, reference: &serde_json::Value, linears: usize) -> usize {
    let (mut linear, mut magnitudes) = (0usize, 0);
    for id in 0..t.learner.params().len() {
        let (name, len) = (t.learner.params()[id].name.clone(), t.learner.params()[id].len());
        if name.ends_with("lora_magnitude") {
            is_pefts(&name, &values(t, id), &reference["begin"][&name]);
            magnitudes += 1;
            continue;
        }
        let (at, size) = if name.ends_with("lora_a") { (40 + linear, 0.1) } else { (70 + linear, 0.05) };
        let wave = |i: usize| (size * (0.7 * i as f64 + 1.3 * at as f64).sin()) as f32;
        let numbers: Vec<f32> = (0..len).map(wave).collect();
        let (d, learner) = t.parts();
        d.upload(bytemuck::cast_slice(&numbers), learner.param_mut(id).unwrap().buf.all_mut()).unwrap();
        linear += usize::from(name.ends_with("lora_b"));
    }
    assert_eq!(linear, linears);
    magnitudes
}

/// `tests/scripts/make_dora.py` and `make_lora.py`: PEFT's adapters over the same small model, float64.
#[test]
fn adapters_learn_as_peft_has_them() {
    for params in ["lora", "dora"] {
        learns_as_peft_has_it(params);
    }
}

fn learns_as_peft_has_it(params: &str) {
    let file = format!("{}/../tests/fixtures/adapters/{params}.json", env!("CARGO_MANIFEST_DIR"));
    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let reference = &all["train"];
    let mut shape = shape(BlockType::F32, true);
    shape.ropes[0].interleaved = false;
    let config = config(&[
        ("train.params", &format!("{{ use = \"{params}\", r = 4, lora_alpha = 8 }}")),
        ("train.optimizer", "{ use = \"adamw\", beta2 = 0.99, eps = 0.001, weight_decay = 0.0 }"),
        ("train.clip", "{ by = \"global\", at = 0.5 }"),
    ]);
    // The base from the formula: through a file, as its tensors are no parameters.
    let dir = tempfile::tempdir().unwrap();
    let source = waves(&shape, dir.path());
    let train = config.train.as_ref().unwrap();
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let techniques = Techniques::of(&config).unwrap();
    let sizes = techniques.sizes(train, &shape, 2);
    let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(2).unwrap()), &sizes).unwrap();
    let setup = Setup { shape: &shape, source: Some(&source), plan: false, train, seed: 0 };
    let mut t = Trainer::new(Box::new(device), &ledger, &setup, techniques, 0, &mut |_| ()).unwrap();
    assert_eq!(wave_adapters(&mut t, reference, 21), if params == "dora" { 21 } else { 0 });
    let known = reference["weights"].as_object().unwrap();
    assert_eq!(t.learner.params().len(), known.len(), "every matrix that learns is PEFT's");
    for step in 1..=5u64 {
        let n = 60usize;
        let tokens: Vec<u32> = (0..n).map(|i| ((i * i * 7 + 3 * i + 11 * step as usize) % 77) as u32).collect();
        let targets = (0..n).map(|i| if i % 20 == 19 || i % 7 == 3 { NO_LOSS } else { tokens[i + 1] }).collect();
        let b = Batch { tokens, targets, segments: Vec::new(), sequences: 3, length: 20, filled: Vec::new() };
        let s = t.backprop(&[b], step, 0.002, &mut |_| ()).unwrap();
        let number = |key: &str| reference[key][step as usize - 1].as_f64().unwrap();
        assert!((s.loss / number("losses") - 1.0).abs() < 1e-5, "step {step}: {s:?}");
        assert!((s.grad_norm / number("norms") - 1.0).abs() < 1e-4, "step {step}: {s:?}");
        if step > 1 {
            continue;
        }
        for (id, p) in t.learner.params().iter().enumerate() {
            let mut g = vec![0.0f32; p.len()];
            t.device().download(t.learner.gradient(id).unwrap(), bytemuck::cast_slice_mut(&mut g)).unwrap();
            is_pefts(&format!("gradient of {}", p.name), &g, &reference["gradients"][&p.name]);
        }
    }
    for (id, p) in t.learner.params().iter().enumerate() {
        is_pefts(&p.name, &values(&t, id), &reference["weights"][&p.name]);
    }
}

/// Over a base in nf4, however gradients are held and whatever is recomputed: the same bits, in the plan's bytes.
#[test]
fn dora_over_nf4_is_planned_and_the_same_recomputed() {
    let shape = shape(BlockType::F32, false);
    let base = [("train.params", "dora"), ("weights.format", "{ use = \"nf4\", block_size = 32 }")];
    let (steps, weights, _) = three(&[base[0], base[1], ("train.activations", "keep")], &shape, 1);
    for more in [
        [("train.activations", "recompute"), ("train.grad_hold", "all")],
        [("train.activations", "keep"), ("train.grad_hold", "matrix")],
    ] {
        let sets = [base[0], base[1], more[0], more[1]];
        let (s, w, measured) = three(&sets, &shape, 2);
        assert!(w == weights && s[2].loss == steps[2].loss, "{more:?}");
        let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk(&config(&sets), &shape, &free, None).unwrap();
        assert_eq!(free.measured().tiers[&Tier::Device], measured.tiers[&Tier::Device], "{more:?}");
    }
    assert!(steps[2].loss < steps[0].loss);
}
