//! Any bytes, as the index of the shards of a Hugging Face folder.

use std::cell::RefCell;

use ullage_core::model::hf::HfFolder;

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "index",
    run,
    seeds: || {
        let tensors = SCRATCH.with_borrow(|s| {
            let file = ullage_core::model::safetensors::SafeFile::open(&s.path("model.safetensors")).unwrap();
            let names: Vec<_> = file.tensors().iter().map(|t| t.name.to_string()).collect();
            names
        });
        let all = |file: &str| {
            let map: Vec<_> = tensors.iter().map(|t| format!("\"{t}\": \"{file}\"")).collect();
            format!("{{\"metadata\": {{\"total_size\": 1}}, \"weight_map\": {{{}}}}}", map.join(", ")).into_bytes()
        };
        vec![all("model.safetensors"), br#"{"weight_map": {}}"#.to_vec(), all("missing.safetensors")]
    },
    words: &[
        "\"weight_map\"",
        "model.safetensors",
        "../",
        "/dev/zero",
        ".safetensors",
        "\\u0000",
        "model.norm.weight",
        "null",
    ],
    ..PLAIN
};

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch::new().with(&["arch/llama/config.json", "arch/llama/model.safetensors"]));
}

fn run(bytes: &[u8]) -> bool {
    SCRATCH.with_borrow(|s| {
        let index = s.file("model.safetensors.index.json", bytes);
        match HfFolder::open(index.parent().unwrap()) {
            Ok((folder, shape)) => {
                assert!(folder.content_hash().is_ok() && folder.file_bytes() > 0);
                let t = &shape.embedding;
                folder.read_rows(t, 0, 1, &mut vec![0; t.row_bytes()]).unwrap();
                true
            }
            Err(e) => {
                plain_error(&e);
                false
            }
        }
    })
}
