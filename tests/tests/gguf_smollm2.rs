//! The real SmolLM2 file, when it is on this machine: what its header says, and how fast it says it.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use ullage_core::blocks::BlockType;
use ullage_core::model::gguf::Gguf;
use ullage_core::shape::ModelShape;

/// The file named by `ULLAGE_SMOLLM2`, or the one in the cache; `None`, with the reason printed, when there is none.
fn smollm2() -> Option<PathBuf> {
    let cached = || {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/ullage/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let path = std::env::var_os("ULLAGE_SMOLLM2").map(PathBuf::from).or_else(cached);
    let found = path.filter(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no SmolLM2 file; set ULLAGE_SMOLLM2=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    found
}

#[test]
fn header_facts() {
    let Some(path) = smollm2() else { return };
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.tensors().len(), 272);
    assert_eq!(gguf.str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.u32("llama.block_count").unwrap(), Some(30));
    assert_eq!(gguf.f32("llama.rope.freq_base").unwrap(), Some(100_000.0));
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 49_152);
    assert_eq!((&*tokens[0], &*tokens[1]), ("<|endoftext|>", "<|im_start|>"));
    assert_eq!(gguf.strings("tokenizer.ggml.merges").unwrap().len(), 48_900);
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.dims(), embedding.ty), (&[576, 49_152][..], BlockType::Q8_0));
    let last = gguf.tensors().iter().map(|t| t.offset + t.bytes).max();
    assert_eq!(last, Some(gguf.file_bytes()));
    assert_eq!(gguf.content_hash().unwrap().len(), 64);
}

#[test]
fn the_shape_agrees_with_the_file() {
    let Some(path) = smollm2() else { return };
    let gguf = Gguf::open(&path).unwrap();
    let shape = ModelShape::from_gguf(&gguf).unwrap();
    assert_eq!(shape.parameters(), 134_515_008);
    assert_eq!(shape.bytes(), gguf.tensors().iter().map(|t| t.bytes).sum::<u64>());
    let layer = &shape.layers[29];
    assert_eq!(
        (layer.attention.heads, layer.attention.kv_heads, layer.attention.dim, layer.ffn.width()),
        (9, 3, 64, 1536)
    );
    assert_eq!((shape.ropes[0].dim, shape.ropes[0].base, shape.context), (64, 100_000.0, 8192));
    // The same shape by name, but for the name and the types.
    let named = ullage_core::model::random::parse("random:smollm2-135m").unwrap().unwrap();
    let named = ullage_core::model::random::shape(&named).unwrap();
    assert_eq!((named.norm_eps, &named.ropes), (shape.norm_eps, &shape.ropes));
    let sizes = |s: &ModelShape| s.tensors().map(|t| (t.name.clone(), t.rows, t.cols)).collect::<Vec<_>>();
    assert_eq!(sizes(&named), sizes(&shape));
}
