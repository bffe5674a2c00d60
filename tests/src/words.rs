//! Tokenizers without the models around them.

use std::fs;
use std::path::Path;

use ullage_core::Result;
use ullage_core::blocks::{self, BlockType};
use ullage_core::model::Model;
use ullage_core::model::gguf::Gguf;
use ullage_core::model::hf::{HfFolder, save};
use ullage_core::model::tokenizer::{Tokenizer, TokenizerSpec, json};

use crate::fixture;

/// The names of pre-tokenizers in `pre.json` that each cut text in a way of their own.
pub const FAMILIES: [&str; 19] = [
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "dbrx",
    "glm4",
    "qwen2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "bloom",
    "viking",
    "seed-coder",
    "bailingmoe",
    "minicpm5",
];

/// A folder of Hugging Face's with a small model, and no words.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("arch/llama").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Writes the bundled model as a folder, whose embedding has 1024 rows.
pub fn save_bundled(dir: &Path) {
    let model = Model::open("bundled:recall", Path::new(".")).unwrap();
    let mut raw = Vec::new();
    save(dir, &model, BlockType::Bf16, &mut |t, first, n, out| {
        raw.resize(n * t.row_bytes(), 0);
        model.source.read_rows(t, first, n, &mut raw)?;
        blocks::decode(t.block()?, &raw, out).unwrap();
        Ok(())
    })
    .unwrap();
}

/// The tokenizer of a folder.
pub fn of_folder(dir: &Path) -> Result<Option<Tokenizer>> {
    HfFolder::open(dir)?.0.tokenizer()
}

/// The tokenizer of a vocabulary under `fixtures/tokenizer`, its pre-tokenizer being `pre` where one is named, and the
/// `tokenizer.json` that is written of it.
pub fn written(name: &str, pre: Option<&str>) -> (Tokenizer, String) {
    let mut spec = TokenizerSpec::from_gguf(&Gguf::open(&fixture("tokenizer").join(name)).unwrap()).unwrap();
    if let Some(pre) = pre {
        spec.pre = pre.into();
    }
    let tokenizer = Tokenizer::new(spec.clone()).unwrap();
    tokenizer.settle(&mut spec);
    let json = json::pipeline(&spec).unwrap().to_string();
    (tokenizer, json)
}

/// FNV-1a.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
