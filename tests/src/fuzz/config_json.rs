//! Any bytes, as the `config.json` of a Hugging Face folder: the shape that they describe, and its plan.

use std::cell::RefCell;

use ullage_core::blocks::BlockType;
use ullage_core::config::Config;
use ullage_core::machine::Machine;
use ullage_core::model::random::{self, RandomSpec, Source};
use ullage_core::plan::{Workload, plan};

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "config_json",
    run,
    seeds: || {
        ["llama", "qwen2", "qwen3", "gemma3", "mixtral"]
            .map(|a| std::fs::read(crate::fixture(&format!("arch/{a}/config.json"))).unwrap())
            .to_vec()
    },
    words: &[
        "\"hidden_size\"",
        "\"num_hidden_layers\"",
        "\"head_dim\"",
        "\"vocab_size\"",
        "\"rope_scaling\"",
        "\"llama3\"",
        "\"rope_parameters\"",
        "\"sliding_window\"",
        "\"layer_types\"",
        "\"num_local_experts\"",
        "null",
        "true",
        "-1",
        "0",
        "18446744073709551615",
        "9223372036854775807",
        "4294967295",
        "1e38",
        "1e-45",
        "1e400",
        "[]",
        "{}",
    ],
    // Shapes of many layers are described layer by layer.
    heap: (64 << 20, 64),
    ..PLAIN
};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

fn run(bytes: &[u8]) -> bool {
    let path = SCRATCH.with_borrow(|s| s.file("config.json", bytes));
    let spec = RandomSpec { source: Source::Config(path), ty: BlockType::F16, seed: 0 };
    let shape = match random::shape(&spec) {
        Ok(shape) => shape,
        Err(e) => {
            plain_error(&e);
            return false;
        }
    };
    let config = Config::default();
    let workload = Workload::generate(&config, 5, false);
    let planned = plan(&shape, &workload, &config, &Machine::default_guess());
    let _ = planned.map_err(|e| plain_error(&e));
    assert!(shape.bytes() > 0 && shape.parameters() > 0);
    true
}
