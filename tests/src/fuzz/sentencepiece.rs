//! Any bytes, as a `tokenizer.model`.

use ullage_core::model::hf::HfFolder;

use super::tokenizer::exercise;
use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "sentencepiece",
    run,
    seeds: || {
        let read =
            |name: &str| std::fs::read(crate::fixture("tokenizer/vocabularies").join(name).join("tokenizer.model"));
        ["spm-bpe", "spm-bpe-pieces", "spm-unigram"].map(|name| read(name).unwrap()).to_vec()
    },
    words: &["\u{2581}", "<unk>", "<0x41>", "\n\u{e}\n\u{5}<unk>"],
    // Pairs of a piece that is joined in every way, and the library's tables of them.
    heap: (64 << 20, 4096),
    ..PLAIN
};

thread_local! {
    static FOLDER: (Scratch, HfFolder) = {
        let scratch = Scratch::new().with(&["arch/llama/config.json", "arch/llama/model.safetensors"]);
        let folder = HfFolder::open(&scratch.path("")).unwrap().0;
        (scratch, folder)
    };
}

fn run(bytes: &[u8]) -> bool {
    FOLDER.with(|(scratch, folder)| {
        scratch.file("tokenizer.model", bytes);
        match folder.tokenizer() {
            Ok(Some(t)) => {
                exercise(&t);
                true
            }
            Ok(None) => false,
            Err(e) => {
                plain_error(&e);
                false
            }
        }
    })
}
