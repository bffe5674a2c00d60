//! Plans of training against figures worked out by hand from the papers' formulas (fine-tuning.md §9), over the shapes of five
//! models people train: what a plan says is the sum of a dry run's reservations, and these numbers know nothing of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use ullage_core::catalog::from_toml;
use ullage_core::ledger::{Category, Tier};
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::plan::{Workload, plan};
use ullage_core::shape::ModelShape;

/// Name, architecture, hidden, layers, feed-forward, heads, key–value heads, vocabulary, tied; bytes by hand.
struct Golden {
    name: &'static str,
    arch: &'static str,
    sizes: [usize; 6],
    tied: bool,
    parameters: u64,
    adamw: u64,
    galore: u64,
    lora: u64,
    dora: u64,
}

const GOLDEN: [Golden; 5] = [
    Golden {
        name: "SmolLM2-135M",
        arch: "llama",
        sizes: [576, 30, 1536, 9, 3, 49_152],
        tied: true,
        parameters: 134_515_008,
        adamw: 1_076_120_064,
        galore: 489_245_184,
        lora: 4_884_480,
        dora: 5_040_000,
    },
    Golden {
        name: "Qwen2.5-0.5B",
        arch: "qwen2",
        sizes: [896, 24, 4864, 14, 2, 151_936],
        tied: true,
        parameters: 494_032_768,
        adamw: 3_952_262_144,
        galore: 1_594_539_008,
        lora: 8_798_208,
        dora: 9_102_336,
    },
    Golden {
        name: "TinyLlama-1.1B",
        arch: "llama",
        sizes: [2048, 22, 5632, 32, 4, 32_000],
        tied: false,
        parameters: 1_100_048_384,
        adamw: 8_800_387_072,
        galore: 1_735_606_272,
        lora: 12_615_680,
        dora: 13_009_920,
    },
    Golden {
        name: "Llama-3-8B",
        arch: "llama",
        sizes: [4096, 32, 14_336, 32, 8, 128_256],
        tied: false,
        parameters: 8_030_261_248,
        adamw: 64_242_089_984,
        galore: 10_722_770_944,
        lora: 41_943_040,
        dora: 43_319_296,
    },
    Golden {
        name: "the 350M of GaLore's paper",
        arch: "llama",
        sizes: [1024, 24, 2736, 16, 16, 32_000],
        tied: false,
        parameters: 367_969_280,
        adamw: 2_943_754_240,
        galore: 915_152_896,
        lora: 7_477_248,
        dora: 7_731_456,
    },
];

impl Golden {
    fn shape(&self, folder: &Path) -> ModelShape {
        let [hidden, layers, ff, heads, kv, vocab] = self.sizes;
        let config = serde_json::json!({
            "architectures": [if self.arch == "qwen2" { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": self.arch, "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": ff,
            "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048, "tie_word_embeddings": self.tied, "hidden_act": "silu",
        });
        let path = folder.join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        Model::open(&format!("random:{}@f32", path.display()), Path::new(".")).unwrap().shape.clone()
    }

    /// Bytes of gradients and of optimizer state.
    fn planned(&self, shape: &ModelShape, sets: &[(&str, &str)]) -> (u64, u64) {
        let sets: Vec<_> = [("train.data", "tokens:1"), ("train.batch", "1"), ("train.length", "16")]
            .iter()
            .chain(sets)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let config = from_toml("", &sets).unwrap();
        let plan = plan(shape, &Workload::default(), &config, &Machine::default_guess()).unwrap();
        let bytes = plan.bytes.tiers[&Tier::Device].bytes.clone();
        (bytes[&Category::Gradients], bytes[&Category::Optimizer])
    }
}

#[test]
fn training_plans_have_the_bytes_that_were_worked_out_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    for g in &GOLDEN {
        let shape = g.shape(dir.path());
        assert_eq!(shape.parameters(), g.parameters, "{}", g.name);
        let full = ("train.params", "full");
        assert_eq!(g.planned(&shape, &[full]), (4 * g.parameters, g.adamw), "{}: AdamW", g.name);
        assert_eq!(g.planned(&shape, &[full, ("train.optimizer", "galore")]).1, g.galore, "{}: GaLore", g.name);
        for (params, count) in [("lora", g.lora), ("dora", g.dora)] {
            let rank = format!("{{ use = \"{params}\", r = 16 }}");
            let planned = g.planned(&shape, &[("train.params", &rank)]);
            assert_eq!(planned, (4 * count, 8 * count), "{}: {params}", g.name);
        }
    }
}
