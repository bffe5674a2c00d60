//! Any bytes, opened as a safetensors file.

use std::cell::RefCell;

use ullage_core::model::safetensors::SafeFile;

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "safetensors",
    run,
    seeds: || {
        let mut out = vec![
            made("{}", 0),
            made(r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#, 24),
            made(
                r#"{"b":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"c":{"dtype":"I64","shape":[],"data_offsets":[8,16]},"d":{"dtype":"U8","shape":[0,7],"data_offsets":[16,16]}}"#,
                16,
            ),
        ];
        out.push(std::fs::read(crate::fixture("arch/qwen2/model.safetensors")).unwrap());
        out
    },
    words: &[
        "\"__metadata__\"",
        "\"dtype\"",
        "\"shape\"",
        "\"data_offsets\"",
        "\"F32\"",
        "\"BF16\"",
        "\"F8_E4M3\"",
        "[0,0]",
        "18446744073709551615",
        "9223372036854775808",
        "4294967296",
        "-1",
        "1e400",
        "\\u0000",
        "[[[[[[[[",
    ],
    repair: Some(repair),
    ..PLAIN
};

/// A file with this header and as many zeros.
fn made(header: &str, payload: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + payload, 0);
    out
}

/// The length of the header made to end at its last brace.
#[allow(clippy::ptr_arg, reason = "other repairs change the length")]
fn repair(bytes: &mut Vec<u8>) {
    let end = bytes.iter().skip(8).rposition(|b| *b == b'}').map(|at| at as u64 + 1);
    if let (Some(end), Some(length)) = (end, bytes.first_chunk_mut::<8>()) {
        *length = end.to_le_bytes();
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

fn run(bytes: &[u8]) -> bool {
    let path = SCRATCH.with_borrow(|s| s.file("input.safetensors", bytes));
    let file = match SafeFile::open(&path) {
        Ok(file) => file,
        Err(e) => {
            plain_error(&e);
            return false;
        }
    };
    let mut row = [0; 64];
    for t in file.tensors() {
        assert!(t.offset + t.bytes <= bytes.len() as u64);
        assert_eq!(file.tensor(&t.name), Some(t));
        let n = t.bytes.min(64);
        file.read_at(t, t.bytes - n, &mut row[..n as usize]).unwrap();
        let at = (t.offset + t.bytes - n) as usize;
        assert_eq!(row[..n as usize], bytes[at..at + n as usize]);
        assert!(file.read_at(t, t.bytes, &mut row[..1]).is_err() && file.read_at(t, u64::MAX, &mut row[..1]).is_err());
    }
    true
}
