//! Inference as data: what a pass is asked for is what a plan adds up, and any step of it may fail.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::sync::{Arc, Mutex};

use ullage_core::error::Error;
use ullage_core::forward::step::{Batch, pass_cost};
use ullage_core::ledger::Tier;
use ullage_core::machine::Machine;
use ullage_core::plan::{Workload, plan};
use ullage_core::shape::{Attention, Kind, ModelShape, TensorShape};
use ullage_tests::{Rig, config, fixture, ids, open, random};

/// Tiny models of every architecture that has a fixture, and the bundled shape's random twin.
fn models() -> Vec<Arc<ullage_core::model::Model>> {
    let folders = std::fs::read_dir(fixture("arch")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    let mut models: Vec<_> = folders.map(|p| open(p.to_str().unwrap())).collect();
    models.push(random("tiny", "q4_0"));
    assert!(models.len() >= 4, "{}", models.len());
    models
}

/// Arithmetic of one token, counted from the shapes: two for each weight it is multiplied with, and for each element of a query
/// four for each row it looks at.
fn by_hand(shape: &ModelShape, rows: usize) -> f64 {
    let layers = shape.layers.iter().map(|l| {
        let share = |t: &TensorShape, of: Kind| {
            let all = (t.rows * t.cols) as f64;
            l.ffn.experts().filter(|_| of == Kind::Stack).map_or(all, |(count, used)| all * used as f64 / count as f64)
        };
        let matrices = l.tensors.roles().filter(|(role, _)| !role.kind().is_vector());
        let seen = l.attention.window.map_or(rows, |w| w.min(rows));
        2.0 * matrices.map(|(role, t)| share(t, role.kind())).sum::<f64>() + 4.0 * (l.attention.q() * seen) as f64
    });
    let head = shape.head();
    layers.sum::<f64>() + 2.0 * (head.rows * head.cols) as f64
}

#[test]
fn a_decoding_step_takes_what_is_counted_by_hand_and_what_the_plan_said() {
    for model in models() {
        let config = config(&[("kv.format", "f32"), ("run.context", "64"), ("run.max_tokens", "2")]);
        let mut rig = Rig::new(&model, &config).unwrap();
        let tokens = ids(21, rig.forward.shape.vocab);
        let mut seq = rig.prefill(&tokens[..20]).unwrap().0;
        rig.forward.meter().observe(Some(Box::new(|_| ())));
        let before = (rig.forward.meter().total(), rig.forward.meter().operations());
        rig.decode(&mut seq, &tokens[20..]).unwrap();
        let after = (rig.forward.meter().total(), rig.forward.meter().operations());
        let (flops, read) = (after.0.flops - before.0.flops, after.0.read - before.0.read);
        let name = &model.shape.name;
        // The new token looks at the 20 rows before it and its own.
        assert!((flops / by_hand(&rig.forward.shape, 21) - 1.0).abs() < 1e-12, "{name}: {flops}");
        assert!(after.1 - before.1 > 8 * model.shape.layers.len() as u64, "{name}: {} steps", after.1 - before.1);
        // The plan's bytes of a step are those of its weights, and the cache's on top.
        let workload = Workload::generate(&config, 20, false);
        let planned = plan(&model.shape, &workload, &config, &Machine::default_guess()).unwrap().time.decode_bytes;
        let rows = |a: &Attention| a.window.map_or(20, |w| w.min(20));
        let cache: usize = model.shape.layers.iter().map(|l| 2 * 4 * l.attention.kv() * rows(&l.attention)).sum();
        assert_eq!(planned, (read + cache) as u64, "{name}");
    }
}

#[test]
fn what_a_batch_reads_is_read_once_and_experts_only_where_a_row_goes() {
    for model in models() {
        let shape = &model.shape;
        let cost = |rows| pass_cost(shape, Batch { rows, sequences: 1, cached: 0.0 }, true);
        let (one, many) = (cost(1), cost(64));
        let experts = shape.layers[0].ffn.experts();
        // A dense model reads every tensor once, whatever the batch; every expert has a row of 64 at most once as well.
        let whole: u64 = shape.tensors().map(TensorShape::bytes).sum();
        let embedding = if shape.output.is_some() { shape.embedding.bytes() } else { 0 };
        assert_eq!(many.read as u64, whole - embedding, "{}", shape.name);
        match experts {
            None => assert_eq!(one.read, many.read, "{}", shape.name),
            Some((count, used)) => assert!(used == count || one.read < many.read, "{}", shape.name),
        }
    }
}

#[test]
fn any_step_of_a_token_may_fail_and_nothing_is_left_of_it() {
    let model = random("tiny", "q4_0");
    let pairs = [("kv.select", "h2o"), ("kv.budget.rows", "12"), ("run.context", "64")];
    let mut rig = Rig::new(&model, &config(&pairs)).unwrap();
    let tokens = ids(24, rig.forward.shape.vocab);
    let idle = rig.ledger.held(Tier::Device);
    let steps = {
        let mut seq = rig.prefill(&tokens[..20]).unwrap().0;
        let before = rig.forward.meter().operations();
        rig.decode(&mut seq, &tokens[20..21]).unwrap();
        rig.forward.meter().operations() - before
    };
    assert_eq!(rig.ledger.held(Tier::Device), idle);
    let mut met = std::collections::BTreeSet::new();
    for n in 1..=steps {
        let mut seq = rig.prefill(&tokens[..20]).unwrap().0;
        rig.forward.meter().fail_at(n);
        match rig.decode(&mut seq, &tokens[20..21]) {
            Err(Error::Device(said)) => met.insert(said.split_once('(').unwrap().1.to_owned()),
            other => panic!("step {n}: {other:?}"),
        };
        drop(seq);
        assert_eq!(rig.ledger.held(Tier::Device), idle, "step {n}");
    }
    assert!(met.len() >= 7, "{met:?}");
    // The model is as it was: a whole run gives what it gave.
    let again = |rig: &mut Rig| {
        let mut seq = rig.prefill(&tokens[..20]).unwrap().0;
        rig.decode(&mut seq, &tokens[20..]).unwrap()
    };
    let fresh = again(&mut Rig::new(&model, &config(&pairs)).unwrap());
    assert_eq!(again(&mut rig), fresh);
}

#[test]
fn a_timeline_names_each_step_as_it_runs() {
    let model = random("tiny", "q4_0");
    let mut rig = Rig::new(&model, &config(&[("run.context", "64")])).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    rig.forward.meter().observe(Some(Box::new(move |span| sink.lock().unwrap().push(span.name))));
    rig.prefill(&ids(5, rig.forward.shape.vocab)).unwrap();
    let heard = heard.lock().unwrap();
    let layer =
        ["rms norm", "linears", "kv attend", "linears", "add", "rms norm", "linears", "swiglu", "linears", "add"];
    let mut expected = vec!["embedding"];
    model.shape.layers.iter().for_each(|_| expected.extend(layer));
    expected.extend(["rms norm", "logits"]);
    assert_eq!(*heard, expected);
}
