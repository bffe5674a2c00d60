//! Our engine against candle: on the bundled model and a real one they agree, what is altered is found, and what candle holds
//! is what was reserved for it at most.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ullage_core::Result;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::job::verify::{Spec, Verified, run};
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_core::model::Model;
use ullage_core::model::gguf::Gguf;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// What candle holds is counted for the process: one comparison at a time.
static ONE: Mutex<()> = Mutex::new(());

const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf");

fn config(sets: &[(&str, &str)]) -> Config {
    let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    from_toml("", &sets).unwrap()
}

fn verify(models: [&Model; 2], config: &Config, tokens: usize) -> Result<Verified> {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let spec = Spec { tokens, layers: true, device: "cpu".into() };
    run(models, config, &spec, &Arc::new(AtomicBool::new(false)))
}

/// That candle was counted at all, and stayed below its row.
fn within(v: &Verified, model: &Model) {
    let weights = 4 * model.shape.parameters();
    assert!(v.guest_held >= weights, "{} B counted, the weights alone are {weights} B in f32", v.guest_held);
    assert!(v.guest_held <= v.guest_reserved, "{} B held, {} B reserved", v.guest_held, v.guest_reserved);
}

#[test]
fn the_bundled_model_is_the_same_on_both_engines() {
    let model = Model::open("bundled:recall", Path::new(".")).unwrap();
    for (sets, tokens) in [(&[][..], 96), (&[("place.weights", "stream"), ("machine.threads", "1")], 7)] {
        let v = verify([&model, &model], &config(sets), tokens).unwrap();
        assert!(v.agrees(), "{:?}", v.beyond);
        assert_eq!((v.logits.positions, v.logits.same_token), (tokens, tokens));
        assert!(v.logits.largest.difference > 0.0, "two engines with the same bits are one engine");
        assert_eq!(v.layers.len(), model.shape.layers.len());
        within(&v, &model);
    }
}

#[test]
fn a_real_model_is_the_same_on_both_engines() {
    let Some(model) = ullage_tests::smollm2() else { return };
    let v = verify([&model, &model], &config(&[]), 24).unwrap();
    assert!(v.agrees(), "{:?}", v.beyond);
    within(&v, &model);
}

#[test]
fn one_altered_norm_is_found_and_its_layer_named() {
    let mut bytes = std::fs::read(BUNDLED).unwrap();
    let file = Gguf::open(Path::new(BUNDLED)).unwrap();
    let norm = file.tensor("blk.2.ffn_norm.weight").unwrap();
    let at = norm.offset as usize;
    for value in bytes[at..at + 4 * norm.cols].as_chunks_mut::<4>().0 {
        *value = (f32::from_le_bytes(*value) * 1.01).to_le_bytes();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("altered.gguf");
    std::fs::write(&path, bytes).unwrap();
    let right = Model::open("bundled:recall", Path::new(".")).unwrap();
    let altered = Model::open(path.to_str().unwrap(), Path::new(".")).unwrap();
    for models in [[&altered, &right], [&right, &altered]] {
        let v = verify(models, &config(&[]), 32).unwrap();
        assert!(!v.agrees());
        let said = v.beyond.join("\n");
        assert!(said.contains("KL of") && said.contains("after layer 2, the first"), "{said}");
        assert!(v.layers[1] < 1e-5 && v.layers[2] > 1e-3, "{:?}", v.layers);
    }
}

#[test]
fn what_candle_cannot_hold_is_over_budget_and_what_it_does_not_do_is_refused() {
    let model = Model::open("bundled:recall", Path::new(".")).unwrap();
    let over = verify([&model, &model], &config(&[("budget.device", "24 MiB")]), 16).unwrap_err();
    assert_eq!(over.exit_code(), 3, "{over}");
    assert!(over.to_string().contains("candle tensors"), "{over}");
    let refused = verify([&model, &model], &config(&[("weights.format", "q4_0")]), 16).unwrap_err();
    assert!(refused.to_string().contains("weights.format = q4_0 is refused"), "{refused}");
    let other = Model::open("random:smollm2-135m@q4_0", Path::new(".")).unwrap();
    assert!(verify([&model, &other], &config(&[]), 4).unwrap_err().to_string().contains("must be the same"));
}
