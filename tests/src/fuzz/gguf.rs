//! Any bytes at all, opened as a GGUF file: header, tensors, shape, tokenizer and chat template.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use ullage_core::model::chat::ChatTemplate;
use ullage_core::model::gguf::{Gguf, Value, ValueType};
use ullage_core::model::tokenizer::Tokenizer;
use ullage_core::shape::ModelShape;

use super::{PLAIN, Target, plain_error, tokenizer};

pub(super) const TARGET: Target = Target {
    name: "gguf",
    run: |bytes| SCRATCH.with_borrow_mut(|scratch| exercise(scratch, bytes) && words(scratch)),
    seeds: || {
        ["gguf/gguf_py.gguf", "tokenizer/tiny-spm.gguf", "arch/qwen3/model.gguf", "arch/gemma3/model.gguf"]
            .map(|f| std::fs::read(crate::fixture(f)).unwrap())
            .to_vec()
    },
    words: &[
        "GGUF",
        "general.architecture",
        "general.alignment",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "llama",
        "gemma3",
        "qwen3",
        "tokenizer.ggml.merges",
        "tokenizer.chat_template",
        "blk.0.attn_q.weight",
    ],
    ..PLAIN
};

thread_local! {
    static SCRATCH: RefCell<File> = RefCell::new(tempfile::tempfile().unwrap());
}

/// What the file in `scratch` says of words.
fn words(scratch: &File) -> bool {
    let Ok(gguf) = Gguf::from_file(scratch.try_clone().unwrap(), Path::new("input.gguf")) else { return false };
    match Tokenizer::from_gguf(&gguf) {
        Ok(t) => tokenizer::exercise(&t),
        Err(e) => plain_error(&e),
    }
    let _ = ChatTemplate::from_gguf(&gguf).map_err(|e| plain_error(&e));
    true
}

/// Opens `bytes` as a GGUF file, kept in `scratch`, and does all that a reader can do with it. Whatever the bytes are,
/// the answer is a value or an error. Returns whether the header was sound.
pub fn exercise(scratch: &mut File, bytes: &[u8]) -> bool {
    scratch.set_len(0).expect("scratch file");
    scratch.rewind().expect("scratch file");
    scratch.write_all(bytes).expect("scratch file");
    let path = Path::new("input.gguf");
    let Ok(gguf) = Gguf::from_file(scratch.try_clone().expect("scratch file"), path) else { return false };
    for entry in gguf.entries() {
        // By identity: a value may be NaN, which equals nothing.
        assert!(gguf.entry(&entry.key).is_some_and(|found| std::ptr::eq(found, entry)));
        let Value::Array(array) = entry.value else { continue };
        match array.ty {
            ValueType::Str => {
                let _ = gguf.each_string(&entry.key, |n, _| {
                    assert!(n < array.count);
                    Ok(())
                });
            }
            ValueType::F32 | ValueType::F64 => assert_eq!(gguf.f32s(&entry.key).unwrap().len() as u64, array.count),
            _ => {
                let _ = gguf.i32s(&entry.key);
                let _ = gguf.u64s(&entry.key);
            }
        }
    }
    let mut row = [0; 64];
    for tensor in gguf.tensors() {
        assert!(tensor.bytes > 0 && tensor.offset + tensor.bytes <= bytes.len() as u64);
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        let n = tensor.bytes.min(64);
        let from = tensor.bytes - n;
        gguf.read_at(tensor, from, &mut row[..n as usize]).expect("within the file");
        let at = (tensor.offset + from) as usize;
        assert_eq!(row[..n as usize], bytes[at..at + n as usize]);
    }
    assert!(gguf.content_hash().is_ok());
    if let Ok(shape) = ModelShape::from_gguf(&gguf) {
        assert!(shape.bytes() <= bytes.len() as u64);
    }
    true
}
