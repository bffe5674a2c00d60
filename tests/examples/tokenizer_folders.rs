//! Writes the tokenizers of tests/fixtures/tokenizer and of the bundled model as folders, for tests/scripts/check_written.py:
//! `cargo run --example tokenizer_folders -- DIR`.
#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use std::fs;
use std::path::Path;

use ullage_tests::words::{FAMILIES, save_bundled, written};

fn main() {
    let dir = std::env::args().nth(1).expect("name a folder to write to");
    let dir = Path::new(&dir);
    let put = |name: &str, json: String| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("tokenizer.json"), json).unwrap();
        fs::write(dir.join("tokenizer_config.json"), r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#).unwrap();
        fs::write(dir.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    };
    for family in FAMILIES {
        put(family, written("tiny-bpe.gguf", Some(family)).1);
    }
    for name in ["tiny-spm", "tiny-ugm"] {
        put(name, written(&format!("{name}.gguf"), None).1);
    }
    save_bundled(&dir.join("recall"));
}
