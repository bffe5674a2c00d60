//! The Llama shape from a header: what it says, and what it refuses by name.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ullage_core::Error;
use ullage_core::blocks::BlockType;
use ullage_core::model::arch::byte_of;
use ullage_core::model::gguf::{Gguf, GgufWriter};
use ullage_core::shape::{ModelShape, Role};

/// A Llama of two layers as the things a file declares, so that each of them can be changed.
struct Tiny {
    arch: &'static str,
    numbers: Vec<(&'static str, u32)>,
    floats: Vec<(&'static str, f32)>,
    arrays: Vec<(&'static str, Vec<i32>)>,
    texts: Vec<(&'static str, &'static str)>,
    bools: Vec<(&'static str, bool)>,
    tokens: Vec<String>,
    types: Vec<i32>,
    tensors: Vec<(String, BlockType, Vec<usize>)>,
}

const HIDDEN: usize = 64;
const FF: usize = 96;
const VOCAB: usize = 40;

impl Tiny {
    fn new() -> Self {
        use BlockType::{F32, Q4_0, Q8_0};
        let mut tensors = vec![("token_embd.weight".into(), Q8_0, vec![HIDDEN, VOCAB])];
        for n in 0..2 {
            for (part, ty, dims) in [
                ("attn_norm", F32, vec![HIDDEN]),
                ("attn_q", Q4_0, vec![HIDDEN, 64]),
                ("attn_k", Q4_0, vec![HIDDEN, 32]),
                ("attn_v", Q4_0, vec![HIDDEN, 32]),
                ("attn_output", Q4_0, vec![64, HIDDEN]),
                ("ffn_norm", F32, vec![HIDDEN]),
                ("ffn_gate", Q4_0, vec![HIDDEN, FF]),
                ("ffn_up", Q4_0, vec![HIDDEN, FF]),
                ("ffn_down", Q4_0, vec![FF, HIDDEN]),
            ] {
                tensors.push((format!("blk.{n}.{part}.weight"), ty, dims));
            }
        }
        tensors.push(("output_norm.weight".into(), F32, vec![HIDDEN]));
        let mut tokens: Vec<String> = (0..VOCAB).map(|n| format!("t{n}")).collect();
        tokens[3] = "<0x0A>".into();
        let mut types = vec![1; VOCAB];
        types[3] = 6;
        Self {
            arch: "llama",
            numbers: vec![
                ("llama.block_count", 2),
                ("llama.context_length", 512),
                ("llama.embedding_length", HIDDEN as u32),
                ("llama.feed_forward_length", FF as u32),
                ("llama.attention.head_count", 4),
                ("llama.attention.head_count_kv", 2),
            ],
            floats: vec![("llama.attention.layer_norm_rms_epsilon", 1e-5)],
            arrays: vec![],
            texts: vec![],
            bools: vec![],
            tokens,
            types,
            tensors,
        }
    }

    fn set(&mut self, key: &'static str, value: u32) {
        self.numbers.retain(|(k, _)| *k != key);
        self.numbers.push((key, value));
    }

    fn tensor(&mut self, name: &str) -> &mut (String, BlockType, Vec<usize>) {
        self.tensors.iter_mut().find(|(n, ..)| n == name).unwrap()
    }

    fn write(&self, path: &Path) {
        let mut w = GgufWriter::new(self.arch);
        for (k, v) in &self.numbers {
            w.u32(k, *v);
        }
        for (k, v) in &self.floats {
            w.f32(k, *v);
        }
        for (k, v) in &self.arrays {
            w.i32s(k, v);
        }
        for (k, v) in &self.texts {
            w.str(k, v);
        }
        for (k, v) in &self.bools {
            w.bool(k, *v);
        }
        if !self.tokens.is_empty() {
            w.strings("tokenizer.ggml.tokens", &self.tokens).i32s("tokenizer.ggml.token_type", &self.types);
        }
        for (n, ty, dims) in &self.tensors {
            w.tensor(n, *ty, dims);
        }
        w.write(path, |t, sink| sink.put(&vec![0; t.bytes as usize])).unwrap();
    }

    fn shape(&self) -> Result<ModelShape, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        self.write(&path);
        ModelShape::from_gguf(&Gguf::open(&path).unwrap())
    }
}

#[test]
fn the_shape_is_what_the_file_holds() {
    let shape = Tiny::new().shape().unwrap();
    assert_eq!((&*shape.name, &*shape.arch, shape.layers.len()), ("tiny", "llama", 2));
    assert_eq!((shape.hidden, shape.vocab, shape.context), (HIDDEN, VOCAB, 512));
    let layer = &shape.layers[1];
    assert_eq!(
        (layer.attention.heads, layer.attention.kv_heads, layer.attention.dim, layer.ffn.width()),
        (4, 2, 16, FF)
    );
    let down = layer.tensors.get(Role::Down).unwrap();
    assert_eq!((down.rows, down.cols), (HIDDEN, FF));
    assert_eq!(
        (shape.ropes[0].dim, shape.ropes[0].base, shape.ropes[0].scale, shape.interleaved()),
        (16, 1e4, 1.0, true)
    );
    assert!(shape.output.is_none() && shape.head().name == "token_embd.weight");
    let layers = 2 * (2 * 64 * 4 + (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) / 32 * 18);
    assert_eq!(shape.bytes(), (layers + 64 * 4 + 40 * 64 / 32 * 34) as u64);
}

#[test]
fn what_a_file_may_add_is_read() {
    let mut tiny = Tiny::new();
    tiny.numbers.retain(|(k, _)| !k.contains("feed_forward") && !k.contains("head_count_kv"));
    tiny.arrays = vec![("llama.feed_forward_length", vec![96, 32]), ("llama.attention.head_count_kv", vec![2, 4])];
    for (name, dims) in [
        ("blk.1.ffn_gate.weight", [HIDDEN, 32]),
        ("blk.1.ffn_up.weight", [HIDDEN, 32]),
        ("blk.1.ffn_down.weight", [32, HIDDEN]),
        ("blk.1.attn_k.weight", [HIDDEN, 64]),
        ("blk.1.attn_v.weight", [HIDDEN, 64]),
    ] {
        tiny.tensor(name).2 = dims.to_vec();
    }
    tiny.tensors.push(("output.weight".into(), BlockType::F16, vec![HIDDEN, VOCAB]));
    tiny.tensors.push(("rope_freqs.weight".into(), BlockType::F32, vec![8]));
    tiny.texts = vec![("llama.rope.scaling.type", "linear"), ("general.name", "Tiny\u{1b}[2J")];
    tiny.floats.extend([("llama.rope.scaling.factor", 4.0), ("llama.rope.freq_base", 5e5)]);
    let shape = tiny.shape().unwrap();
    assert_eq!(
        shape.layers.iter().map(|l| (l.ffn.width(), l.attention.kv_heads)).collect::<Vec<_>>(),
        [(96, 2), (32, 4)]
    );
    assert_eq!((shape.ropes[0].scale, shape.ropes[0].base), (4.0, 5e5));
    assert_eq!(shape.head().ty, BlockType::F16);
    assert_eq!(shape.rope_freqs.as_ref().map(|t| (t.rows, t.cols)), Some((1, 8)));
    assert_eq!(shape.name, "Tiny[2J", "no control characters reach the screen");

    let mut bare = Tiny::new();
    bare.tokens.clear();
    bare.types.clear();
    assert!(bare.shape().is_ok(), "a file without a vocabulary can still be planned");
}

/// The field that is named, words of the message, and the change that brings it about.
type Contradiction = (&'static str, &'static str, Box<dyn Fn(&mut Tiny)>);

/// Of the architecture and its sizes.
fn sizes() -> Vec<Contradiction> {
    vec![
        ("general.architecture", "supported: `llama`", Box::new(|t| t.arch = "mamba")),
        ("general.architecture", "`\\u{1b}", Box::new(|t| t.arch = "\u{1b}[31m")),
        ("llama.block_count", "missing", Box::new(|t| t.numbers.retain(|(k, _)| *k != "llama.block_count"))),
        ("llama.block_count", "is 0", Box::new(|t| t.set("llama.block_count", 0))),
        ("llama.block_count", "1024 layers", Box::new(|t| t.set("llama.block_count", u32::MAX))),
        ("blk.2.attn_norm.weight", "missing", Box::new(|t| t.set("llama.block_count", 3))),
        ("blk.1.attn_norm.weight", "beyond those", Box::new(|t| t.set("llama.block_count", 1))),
        ("llama.context_length", "is 0", Box::new(|t| t.set("llama.context_length", 0))),
        ("llama.context_length", "at most", Box::new(|t| t.set("llama.context_length", u32::MAX))),
        (
            "llama.context_length",
            "whole number",
            Box::new(|t| {
                t.numbers.retain(|(k, _)| *k != "llama.context_length");
                t.floats.push(("llama.context_length", 512.0));
            }),
        ),
        ("token_embd.weight.dims", "[64, 40]", Box::new(|t| t.set("llama.embedding_length", 128))),
        ("llama.attention.head_count", "divide", Box::new(|t| t.set("llama.attention.head_count", 7))),
        ("llama.attention.head_count", "divide", Box::new(|t| t.set("llama.attention.head_count", 0))),
        ("llama.attention.head_count_kv", "divide", Box::new(|t| t.set("llama.attention.head_count_kv", 3))),
        ("llama.attention.head_count_kv", "divide", Box::new(|t| t.set("llama.attention.head_count_kv", 8))),
        ("llama.attention.head_count_kv", "is 0", Box::new(|t| t.set("llama.attention.head_count_kv", 0))),
        ("llama.attention.key_length", "at most", Box::new(|t| t.set("llama.attention.key_length", 1 << 31))),
        ("llama.attention.value_length", "two sizes", Box::new(|t| t.set("llama.attention.value_length", 32))),
        (
            "llama.feed_forward_length",
            "3 elements",
            Box::new(|t| {
                t.numbers.retain(|(k, _)| *k != "llama.feed_forward_length");
                t.arrays.push(("llama.feed_forward_length", vec![96; 3]));
            }),
        ),
        (
            "llama.feed_forward_length[1]",
            "is -96",
            Box::new(|t| {
                t.numbers.retain(|(k, _)| *k != "llama.feed_forward_length");
                t.arrays.push(("llama.feed_forward_length", vec![96, -96]));
            }),
        ),
        ("llama.attention.layer_norm_rms_epsilon", "missing", Box::new(|t| t.floats.clear())),
        ("llama.attention.layer_norm_rms_epsilon", "NaN", Box::new(|t| t.floats[0].1 = f32::NAN)),
    ]
}

/// Of rotations, and of what would change the numbers if it were ignored.
fn numbers() -> Vec<Contradiction> {
    vec![
        ("llama.rope.freq_base", "above 0", Box::new(|t| t.floats.push(("llama.rope.freq_base", -1.0)))),
        ("llama.rope.dimension_count", "even", Box::new(|t| t.set("llama.rope.dimension_count", 15))),
        ("llama.rope.dimension_count", "at most", Box::new(|t| t.set("llama.rope.dimension_count", 32))),
        ("llama.rope.scaling.type", "`su`", Box::new(|t| t.texts.push(("llama.rope.scaling.type", "su")))),
        ("llama.rope.scaling.factor", "missing", Box::new(|t| t.texts.push(("llama.rope.scaling.type", "yarn")))),
        ("llama.rope.scaling.factor", "missing", Box::new(|t| t.texts.push(("llama.rope.scaling.type", "linear")))),
        ("llama.rope.scaling.factor", "inf", Box::new(|t| t.floats.push(("llama.rope.scaling.factor", f32::INFINITY)))),
        ("llama.expert_used_count", "missing", Box::new(|t| t.set("llama.expert_count", 8))),
        ("llama.attention.causal", "encoders", Box::new(|t| t.bools.push(("llama.attention.causal", false)))),
        ("llama.logit_scale", "is 0.5", Box::new(|t| t.floats.push(("llama.logit_scale", 0.5)))),
        ("llama.vocab_size", "40 rows", Box::new(|t| t.set("llama.vocab_size", 41))),
    ]
}

/// Of tensors that are missing, beyond those, or not what the sizes say.
fn tensors() -> Vec<Contradiction> {
    vec![
        ("token_embd.weight", "no llama model", Box::new(|t| drop(t.tensors.remove(0)))),
        ("output_norm.weight", "missing", Box::new(|t| drop(t.tensors.pop()))),
        (
            "blk.0.attn_q.bias",
            "biases",
            Box::new(|t| t.tensors.push(("blk.0.attn_q.bias".into(), BlockType::F32, vec![64]))),
        ),
        (
            "blk.0.attn_q_norm.weight",
            "beyond",
            Box::new(|t| {
                t.tensors.push(("blk.0.attn_q_norm.weight".into(), BlockType::F32, vec![16]));
            }),
        ),
        ("blk.1.ffn_down.weight.dims", "[96, 64]", Box::new(|t| t.tensor("blk.1.ffn_down.weight").2 = vec![64, 96])),
        ("blk.1.attn_q.weight.dims", "[64, 32, 2]", Box::new(|t| t.tensor("blk.1.attn_q.weight").2 = vec![64, 32, 2])),
        ("blk.1.attn_q.weight.type", "is i8", Box::new(|t| t.tensor("blk.1.attn_q.weight").1 = BlockType::I8)),
        (
            "blk.0.attn_norm.weight.type",
            "f32 is needed",
            Box::new(|t| t.tensor("blk.0.attn_norm.weight").1 = BlockType::F16),
        ),
        (
            "rope_freqs.weight.dims",
            "[8]",
            Box::new(|t| t.tensors.push(("rope_freqs.weight".into(), BlockType::F32, vec![4]))),
        ),
    ]
}

/// Of the vocabulary.
fn vocabulary() -> Vec<Contradiction> {
    vec![
        ("tokenizer.ggml.tokens", "39 entries", Box::new(|t| drop(t.tokens.pop()))),
        ("tokenizer.ggml.token_type", "41 entries", Box::new(|t| t.types.push(1))),
        (
            "tokenizer.ggml.scores",
            "array of i32",
            Box::new(|t| t.arrays.push(("tokenizer.ggml.scores", vec![0; VOCAB]))),
        ),
        ("tokenizer.ggml.tokens[3]", "`<0x-1>`", Box::new(|t| t.tokens[3] = "<0x-1>".into())),
        ("tokenizer.ggml.tokens[5]", "20000 bytes", Box::new(|t| t.tokens[5] = "x".repeat(20_000))),
    ]
}

#[test]
fn every_contradiction_is_refused_by_the_name_of_its_field() {
    // llama.cpp#25969, #26690; CVE-2025-49847; mistral.rs#2425, #2215; and everything a Llama must have.
    for (field, words, change) in [sizes(), numbers(), tensors(), vocabulary()].into_iter().flatten() {
        let mut tiny = Tiny::new();
        change(&mut tiny);
        match tiny.shape() {
            Err(Error::Model { field: found, message, .. }) => {
                assert_eq!(found, field, "{message}");
                assert!(message.contains(words), "{field}: `{message}` does not say `{words}`");
            }
            other => panic!("{field}: not refused: {other:?}"),
        }
    }
}

#[test]
fn byte_tokens_are_two_digits_and_nothing_else() {
    assert_eq!((byte_of("<0x0A>"), byte_of("<0xff>")), (Some(10), Some(255)));
    for bad in ["<0x-1>", "<0x+1>", "<0x1>", "<0x100>", "<0x>", "0x0A", "<0xGG>", "<0x é>"] {
        assert_eq!(byte_of(bad), None, "{bad}");
    }
}

#[test]
fn a_whole_small_llama_is_in_the_corpus() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf/llama.gguf");
    let mut tiny = Tiny::new();
    // A kilobyte or two: the fuzzer is at its best on small inputs.
    tiny.set("llama.block_count", 1);
    tiny.tensors.retain(|(n, ..)| !n.starts_with("blk.1."));
    tiny.tokens.clear();
    tiny.types.clear();
    if std::env::var_os("ULLAGE_WRITE_CORPUS").is_some() {
        tiny.write(&path);
    }
    let shape = ModelShape::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    assert_eq!(shape.layers.len(), 1);
}
