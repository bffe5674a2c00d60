//! The real SmolLM2 file, when it is on this machine: what its header says, and how fast it says it.
#![allow(clippy::unwrap_used)]

use ullage_core::blocks::BlockType;
use ullage_core::model::gguf::Gguf;
use ullage_core::shape::ModelShape;
use ullage_tests::skip::smollm2_file;

#[test]
fn header_facts() {
    let Some(path) = smollm2_file() else { return };
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
    let Some(path) = smollm2_file() else { return };
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
