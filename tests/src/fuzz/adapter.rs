//! Any bytes, as the `adapter_config.json` beside the factors of an adapter.

use std::cell::RefCell;

use ullage_core::model::adapter::AdapterFile;
use ullage_core::shape::ModelShape;

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "adapter",
    run,
    seeds: || {
        vec![
            std::fs::read(crate::fixture("adapters/dora/adapter_config.json")).unwrap(),
            br#"{"peft_type":"LORA","r":2,"lora_alpha":6,"use_dora":true}"#.to_vec(),
            br#"{"peft_type":"LORA","r":8,"lora_alpha":1.5,"use_dora":true,"use_rslora":true,"rank_pattern":{"q_proj":2,"^model.layers.5.mlp.down_proj":2},"alpha_pattern":{"down_proj":4}}"#.to_vec(),
        ]
    },
    words: &[
        "\"peft_type\"",
        "\"LORA\"",
        "\"r\"",
        "\"lora_alpha\"",
        "\"use_rslora\"",
        "\"use_dora\"",
        "\"rank_pattern\"",
        "\"alpha_pattern\"",
        "\"q_proj\"",
        "\"modules_to_save\"",
        "null",
        "true",
        "0",
        "-1",
        "1e308",
        "18446744073709551615",
    ],
    ..PLAIN
};

thread_local! {
    static ROOM: RefCell<(Scratch, ModelShape)> = {
        let scratch = Scratch::new().with(&["adapters/dora/adapter_model.safetensors"]);
        RefCell::new((scratch, crate::bundled().shape.clone()))
    };
}

fn run(bytes: &[u8]) -> bool {
    ROOM.with_borrow(|(scratch, shape)| {
        let config = scratch.file("adapter_config.json", bytes);
        match AdapterFile::open(config.parent().unwrap(), shape, 1.0) {
            Ok(file) => {
                for (layer, adapted) in file.shape.layers.iter().enumerate() {
                    assert!(adapted.values().all(|low| low.rank > 0));
                    for (linear, _, tensors) in file.shape.tensors(shape, layer) {
                        for (part, t) in tensors.iter().enumerate() {
                            file.read_f32(layer, linear, part, 0, &mut vec![0.0; t.rows * t.cols]).unwrap();
                        }
                    }
                }
                true
            }
            Err(e) => {
                plain_error(&e);
                false
            }
        }
    })
}
