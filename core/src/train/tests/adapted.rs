//! Adapters on architectures that scale, cap, or norm otherwise than a Llama.

use super::*;

/// `tests/scripts/make_arch.py`: adapters on every linear of models with factors, norms after each half, caps.
#[test]
fn adapters_of_other_architectures_learn_as_pytorchs_do() {
    for name in ["granite", "olmo2", "gemma2"] {
        let dir = format!("{}/../tests/fixtures/arch/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read(format!("{dir}/logits.json")).unwrap();
        let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let model = crate::model::Model::open(&dir, ".".as_ref()).unwrap();
        let tokens: Vec<u32> = all["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let length = tokens.len();
        let config = config(&[
            ("train.params", "{ use = \"lora\", r = 2, lora_alpha = 4 }"),
            ("train.batch", "1"),
            ("train.length", &length.to_string()),
            ("train.clip", "{ by = \"global\", at = 1e6 }"),
        ]);
        let train = config.train.as_ref().unwrap();
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let techniques = Techniques::new(train).unwrap();
        let sizes = techniques.sizes(train, &model.shape, 2);
        let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(2).unwrap()), &sizes).unwrap();
        let setup = Setup { shape: &model.shape, source: Some(&model.source), plan: false, train, seed: 0 };
        let mut t = Trainer::new(Box::new(device), &ledger, &setup, techniques, sizes.load, &mut |_| ()).unwrap();
        let wanted = all["lora"]["gradients"].as_object().unwrap();
        wave_adapters(&mut t, &all["lora"], wanted.len() / 2);
        assert_eq!(t.learner.params().len(), wanted.len(), "{name}");
        let targets = tokens[1..].iter().copied().chain([NO_LOSS]).collect();
        let segments = vec![0; length];
        let b = Batch { tokens, targets, segments, sequences: 1, length, filled: Vec::new() };
        let s = t.backprop(std::slice::from_ref(&b), 1, 1e-9, &mut |_| ()).unwrap();
        assert!((s.loss / all["lora"]["loss"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{name}: {s:?}");
        for (id, p) in t.learner.params().iter().enumerate() {
            let mut g = vec![0.0f32; p.len()];
            t.device().download(t.learner.gradient(id).unwrap(), bytemuck::cast_slice_mut(&mut g)).unwrap();
            is_pefts(&format!("{name}: gradient of {}", p.name), &g, &wanted[&p.name]);
        }
    }
}

/// Every dense architecture of `tests/fixtures/arch` learns, by all of its weights and by adapters: a step lowers the loss of its own batch,
/// and what is held is what a plan says.
#[test]
fn every_dense_architecture_learns_by_its_weights_and_by_adapters() {
    let mut dense = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/arch")).unwrap() {
        let dir = entry.unwrap().path();
        let model = crate::model::Model::open(dir.to_str().unwrap(), ".".as_ref()).unwrap();
        if model.shape.layers.iter().any(|l| l.ffn.experts().is_some()) {
            continue;
        }
        let tokens: Vec<u32> = (0..40).map(|i| (i * i * 5 + 3 * i + 1) % 48).collect();
        for params in ["full", "{ use = \"lora\", r = 3 }", "{ use = \"dora\", r = 3 }"] {
            let what = format!("{} {params}", dir.display());
            let config = config(&[
                ("train.params", params),
                ("train.batch", "1"),
                ("train.length", "40"),
                ("train.optimizer", "sgd"),
            ]);
            let train = config.train.as_ref().unwrap();
            let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
            let techniques = Techniques::new(train).unwrap();
            let sizes = techniques.sizes(train, &model.shape, 2);
            let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(2).unwrap()), &sizes).unwrap();
            let setup = Setup { shape: &model.shape, source: Some(&model.source), plan: false, train, seed: 0 };
            let mut t = Trainer::new(Box::new(device), &ledger, &setup, techniques, sizes.load, &mut |_| ()).unwrap();
            let targets = tokens[1..].iter().copied().chain([NO_LOSS]).collect();
            let (tokens, segments) = (tokens.clone(), vec![0; 40]);
            let b = Batch { tokens, targets, segments, sequences: 1, length: 40, filled: Vec::new() };
            let mut step = |n| t.backprop(std::slice::from_ref(&b), n, 0.02, &mut |_| ()).unwrap().loss;
            let (first, second) = (step(1), step(2));
            assert!(second < first && first.is_finite(), "{what}: {first} and then {second}");
            t.evaluate(&b).unwrap();
            let free = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
            plan::walk(&config, &model.shape, &free, None).unwrap();
            let peak = |l: &Ledger| l.measured().tiers[&Tier::Device].peak;
            assert_eq!(peak(&free), peak(&ledger), "{what}: planned and measured");
        }
        dense += 1;
    }
    assert!(dense >= 13, "{dense}");
}
