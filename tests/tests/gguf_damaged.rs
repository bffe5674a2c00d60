//! Every way of damage that broke a GGUF reader somewhere: each is a small file, and an error that names the field.
//! The sources (CVE numbers and issues) stand at the cases.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};

use ullage_core::Error;
use ullage_core::model::gguf::{Gguf, limits};

/// A GGUF file put together by hand, so that any of it can be wrong.
#[derive(Clone)]
struct Raw {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    entry_count: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

const STR: u32 = 8;
const ARRAY: u32 = 9;

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn entry(key: impl AsRef<[u8]>, ty: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&string(key)[..], &ty.to_le_bytes(), value.as_ref()].concat()
}

fn array(ty: u32, count: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &count.to_le_bytes(), elements.as_ref()].concat()
}

fn tensor(name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

impl Raw {
    /// A sound file: a string, an array of strings, and two tensors.
    fn sound() -> Self {
        let tokens = [string("<unk>"), string("<0x0A>")].concat();
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: vec![
                entry("general.architecture", STR, string("llama")),
                entry("tokenizer.ggml.tokens", ARRAY, array(STR, 2, tokens)),
            ],
            tensors: vec![tensor("a.weight", &[32, 2], 2, 0), tensor("b.weight", &[8], 0, 64)],
            data: 96,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        self.entries.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}

/// A damaged file, the field its error must name, and words the message must hold.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    field: String,
    words: &'static str,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, field: &str, words, change: &dyn Fn(&mut Raw)| {
        let mut raw = Raw::sound();
        change(&mut raw);
        cases.push(Case { name, bytes: raw.bytes(), field: field.into(), words });
    };

    case("magic", "magic", "not a GGUF file", &|r| r.magic = *b"ELF\x7f");
    case("magic_ggml", "magic", "older ggml", &|r| r.magic = *b"tjgg");
    case("magic_html", "magic", "web page", &|r| r.magic = *b"<!DO");
    case("version_1", "version", "version 1", &|r| r.version = 1);
    case("version_0", "version", "unknown", &|r| r.version = 0);
    case("version_future", "version", "unknown", &|r| r.version = 4);
    case("big_endian", "version", "big-endian", &|r| r.version = 3u32.swap_bytes());

    // Counts of 2^31 to 2^63: out of memory or an endless loop. CVE-2025-66960; candle#3533; llama.cpp#19856, #27188.
    for (n, count) in [1u64 << 31, 1 << 40, 1 << 63, u64::MAX].into_iter().enumerate() {
        let names = ["31", "40", "63", "max"];
        let name = |what: &str| -> &'static str { format!("{what}_{}", names[n]).leak() };
        case(name("tensor_count"), "tensor_count", "declares", &|r| r.tensor_count = Some(count));
        case(name("entry_count"), "metadata_kv_count", "declares", &|r| r.entry_count = Some(count));
        case(name("key_length"), "metadata[0].key", "declares a string", &|r| {
            r.entries[0][..8].copy_from_slice(&count.to_le_bytes());
        });
        case(name("string_length"), "general.architecture", "declares a string", &|r| {
            r.entries[0] = entry("general.architecture", STR, count.to_le_bytes());
        });
        case(name("array_count"), "tokenizer.ggml.tokens", "declares", &|r| {
            r.entries[1] = entry("tokenizer.ggml.tokens", ARRAY, array(STR, count, []));
        });
        case(name("array_count_u8"), "x", "declares", &|r| r.entries[1] = entry("x", ARRAY, array(0, count, [])));
        case(name("element_length"), "tokenizer.ggml.tokens[1]", "declares a string", &|r| {
            let elements = [&string("a")[..], &count.to_le_bytes()].concat();
            r.entries[1] = entry("tokenizer.ggml.tokens", ARRAY, array(STR, 2, elements));
        });
        case(name("name_length"), "tensor[0].name", "declares a string", &|r| {
            r.tensors[0][..8].copy_from_slice(&count.to_le_bytes());
        });
    }
    // Each count fits alone, both do not.
    case("counts_together", "metadata_kv_count", "at least", &|r| {
        (r.tensor_count, r.entry_count) = (Some(5), Some(12));
    });

    // Products that wrap. CVE-2025-53630, CVE-2026-27940, llama.cpp#18674, CVE-2024-21802.
    for (name, dims) in [
        ("dims_wrap_2", &[(1u64 << 42) + 32, 1 << 22][..]),
        ("dims_wrap_zero", &[1 << 32, 1 << 32]),
        ("dims_wrap_4", &[1 << 16, 1 << 16, 1 << 16, 1 << 16]),
        ("dims_max", &[u64::MAX]),
        ("dims_rows_wrap", &[32, u64::MAX, 2]),
    ] {
        let words = if name == "dims_max" { "whole blocks" } else { "more elements" };
        case(name, "a.weight.dims", words, &|r| r.tensors[0] = tensor("a.weight", dims, 2, 0));
    }
    case("bytes_wrap", "a.weight.dims", "more elements", &|r| r.tensors[0] = tensor("a.weight", &[1 << 63], 28, 0));

    // Data beyond the file: disclosure of the heap. CVE-2026-7482.
    case("dims_beyond_file", "a.weight.offset", "behind the end", &|r| {
        r.tensors[0] = tensor("a.weight", &[32, 1 << 40], 2, 0)
    });
    case("offset_beyond_file", "b.weight.offset", "behind the end", &|r| {
        r.tensors[1] = tensor("b.weight", &[8], 0, 128)
    });
    case("offset_wraps", "b.weight.offset", "behind the end", &|r| {
        r.tensors[1] = tensor("b.weight", &[8], 0, u64::MAX - 31)
    });
    case("no_data", "a.weight.offset", "cut short", &|r| r.data = 0);
    case("offset_unaligned", "b.weight.offset", "alignment", &|r| r.tensors[1] = tensor("b.weight", &[8], 0, 40));
    case("overlap", "b.weight.offset", "overlaps", &|r| r.tensors[1] = tensor("b.weight", &[8], 0, 32));
    case("overlap_same", "b.weight.offset", "overlaps", &|r| r.tensors[1] = tensor("b.weight", &[8], 0, 0));

    // Division by zero. GHSA-3p75-pq92-q28f; llama.cpp#18586, #24263.
    case("dim_zero", "a.weight.dims", "zero", &|r| r.tensors[0] = tensor("a.weight", &[0, 2], 2, 0));
    case("dim_zero_last", "a.weight.dims", "zero", &|r| r.tensors[0] = tensor("a.weight", &[32, 0], 2, 0));

    // general.alignment. ggml#1516; llama.cpp#26318; gguf-tools#28; candle#3876.
    for (name, value) in [("0", 0u32), ("3", 3), ("4", 4), ("48", 48), ("2_31", 1 << 31), ("max", u32::MAX)] {
        case(format!("alignment_{name}").leak(), "general.alignment", "power of two", &|r| {
            r.entries.push(entry("general.alignment", 4, value.to_le_bytes()));
        });
    }
    case("alignment_u64", "general.alignment", "must be a u32", &|r| {
        r.entries.push(entry("general.alignment", 10, 32u64.to_le_bytes()));
    });
    case("alignment_i32", "general.alignment", "must be a u32", &|r| {
        r.entries.push(entry("general.alignment", 5, 32i32.to_le_bytes()));
    });
    case("alignment_string", "general.alignment", "must be a u32", &|r| {
        r.entries.push(entry("general.alignment", STR, string("32")));
    });

    // Dimensions. gguf-tools#25; llama.cpp#25378.
    case("n_dims_0", "a.weight.n_dims", "1 to 4", &|r| r.tensors[0] = tensor("a.weight", &[], 2, 0));
    case("n_dims_5", "a.weight.n_dims", "1 to 4", &|r| r.tensors[0] = tensor("a.weight", &[32, 1, 1, 1, 1], 2, 0));
    case("n_dims_max", "a.weight.n_dims", "1 to 4", &|r| {
        r.tensors[0] = [&string("a.weight")[..], &u32::MAX.to_le_bytes(), &[0; 24]].concat();
    });

    // Keys and nesting. llama.cpp#24263, #19856.
    case("key_empty", "metadata[1].key", "empty", &|r| r.entries[1] = entry("", STR, string("x")));
    case("key_twice", "general.architecture", "twice", &|r| {
        r.entries.push(entry("general.architecture", STR, string("other")));
    });
    case("key_utf8", "metadata[1].key", "UTF-8", &|r| r.entries[1] = entry(b"ab\xff", STR, string("x")));
    case("key_long", "metadata[1].key", "at most", &|r| r.entries[1] = entry(vec![b'k'; 1 << 16], STR, string("x")));
    case("nested_array", "x", "array of arrays", &|r| {
        r.entries[1] = entry("x", ARRAY, array(ARRAY, 1, array(ARRAY, 1, array(0, 1, [0]))));
    });
    case("value_type", "x", "value type 13", &|r| r.entries[1] = entry("x", 13, [0]));
    case("element_type", "x", "value type 4294967295", &|r| r.entries[1] = entry("x", ARRAY, array(u32::MAX, 0, [])));
    case("bool_2", "x", "0 or 1", &|r| r.entries[1] = entry("x", 7, [2]));
    case("string_utf8", "x", "UTF-8", &|r| r.entries[1] = entry("x", STR, string(b"\xc3\x28")));

    // Tensors.
    case("name_empty", "tensor[0].name", "empty", &|r| r.tensors[0] = tensor("", &[32], 2, 0));
    case("name_long", "tensor[0].name", "at most 128", &|r| r.tensors[0] = tensor("n".repeat(129), &[32], 2, 0));
    case("name_twice", "a.weight.name", "same name", &|r| r.tensors[1] = tensor("a.weight", &[8], 0, 64));
    case("name_utf8", "tensor[1].name", "UTF-8", &|r| r.tensors[1] = tensor(b"\xf0\x28", &[8], 0, 64));
    case("name_escapes", "\\u{1b}[2Jx.type", "not one Ullage knows", &|r| {
        r.tensors[1] = tensor("\x1b[2Jx", &[8], 99, 64)
    });
    case("type_unknown", "a.weight.type", "not one Ullage knows", &|r| r.tensors[0] = tensor("a.weight", &[32], 99, 0));
    case("type_withdrawn", "a.weight.type", "withdrawn", &|r| r.tensors[0] = tensor("a.weight", &[32], 31, 0));
    case("partial_block", "a.weight.dims", "whole blocks", &|r| r.tensors[0] = tensor("a.weight", &[33, 2], 2, 0));

    // Cut at every place where something was being read.
    let whole = Raw::sound().bytes();
    for (name, at, field) in [
        ("cut_empty", 0, "magic"),
        ("cut_magic", 3, "magic"),
        ("cut_counts", 20, "magic"),
        ("cut_at_counts", 24, "tensor_count"),
        ("cut_entry", 24 + 80, "metadata_kv_count"),
    ] {
        cases.push(Case { name, bytes: whole[..at].to_vec(), field: field.into(), words: "cut short" });
    }
    cases
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The field and message of the error that opening `path` must give.
fn refusal(path: &Path) -> (String, String) {
    match Gguf::open(path) {
        Err(Error::Model { field, message, .. }) => (field, message),
        other => panic!("{}: not refused as damaged: {other:?}", path.display()),
    }
}

#[test]
fn the_sound_file_is_sound() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&write(folder.path(), "sound", &Raw::sound().bytes())).unwrap();
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap(), ["<unk>", "<0x0A>"]);
    assert_eq!(gguf.tensors().iter().map(|t| t.bytes).collect::<Vec<_>>(), [36, 32]);
    let mut raw = Raw::sound();
    raw.version = 2;
    assert!(Gguf::open(&write(folder.path(), "v2", &raw.bytes())).is_ok());
}

#[test]
fn every_damage_is_refused_by_the_name_of_its_field() {
    let folder = tempfile::tempdir().unwrap();
    for Case { name, bytes, field, words } in cases() {
        let (found, message) = refusal(&write(folder.path(), name, &bytes));
        assert_eq!(found, field, "{name}: {message}");
        assert!(message.contains(words), "{name}: `{message}` does not say `{words}`");
    }
}

#[test]
fn every_damage_is_in_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf");
    let sound = Case { name: "sound", bytes: Raw::sound().bytes(), field: String::new(), words: "" };
    for Case { name, bytes, .. } in cases().into_iter().chain([sound]).filter(|c| c.bytes.len() < 4096) {
        if std::env::var_os("ULLAGE_WRITE_CORPUS").is_some() {
            write(&corpus, name, &bytes);
        }
        let kept = std::fs::read(corpus.join(format!("{name}.gguf"))).unwrap_or_default();
        assert!(kept == bytes, "{name}: not in the corpus; set ULLAGE_WRITE_CORPUS=1 to write it");
    }
}

#[test]
fn a_string_alone_or_in_an_array_has_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut raw = Raw::sound();
    raw.entries[1] = entry("x", STR, string(vec![b'x'; limits::STRING as usize + 1]));
    assert_eq!(refusal(&write(folder.path(), "string", &raw.bytes())).0, "x");
    raw.entries[1] = entry("x", ARRAY, array(STR, 1, string(vec![b'x'; limits::ELEMENT as usize + 1])));
    assert_eq!(refusal(&write(folder.path(), "element", &raw.bytes())).0, "x[0]");
}

#[test]
fn an_array_of_the_wrong_type_or_with_bad_text_is_named_when_read() {
    // llama.cpp#26690, #25969.
    let folder = tempfile::tempdir().unwrap();
    let mut raw = Raw::sound();
    let key = "tokenizer.ggml.tokens";
    raw.entries[1] = entry(key, ARRAY, array(4, 2, [0; 8]));
    let gguf = Gguf::open(&write(folder.path(), "u32", &raw.bytes())).unwrap();
    let said = gguf.strings(key).unwrap_err().to_string();
    assert!(said.starts_with("tokenizer.ggml.tokens: is an array of u32, an array of strings is needed"), "{said}");
    assert!(gguf.f32s(key).is_err() && gguf.str(key).is_err() && gguf.u32(key).is_err());
    assert_eq!(gguf.i32s(key).unwrap(), [0, 0]);

    raw.entries[1] = entry(key, ARRAY, array(STR, 2, [string("ok"), string(b"\xff")].concat()));
    let gguf = Gguf::open(&write(folder.path(), "utf8", &raw.bytes())).unwrap();
    let said = gguf.strings(key).unwrap_err().to_string();
    assert!(said.starts_with("tokenizer.ggml.tokens[1]: is not valid UTF-8"), "{said}");

    raw.entries[1] = entry(key, ARRAY, array(10, 1, u64::MAX.to_le_bytes()));
    let gguf = Gguf::open(&write(folder.path(), "large", &raw.bytes())).unwrap();
    assert!(gguf.i32s(key).unwrap_err().to_string().contains("tokens[0]: is 18446744073709551615"));
    assert_eq!(gguf.u64s(key).unwrap(), [u64::MAX]);
    assert!(gguf.strings("absent").unwrap_err().to_string().starts_with("absent: is missing"));
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(folder.path()).1.contains("a folder"));
    let missing = Gguf::open(&folder.path().join("none.gguf")).unwrap_err();
    assert_eq!((missing.kind(), missing.exit_code()), ("io", 1));
    #[cfg(unix)]
    {
        // Opening a pipe would wait for its writer for ever.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(refusal(&pipe).1.contains("regular file"));
    }
}

#[test]
fn a_file_that_shrinks_is_an_error_and_not_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "shrinks", &Raw::sound().bytes());
    let gguf = Gguf::open(&path).unwrap();
    let tensor = gguf.tensor("b.weight").unwrap();
    let mut out = [0; 32];
    gguf.read_at(tensor, 0, &mut out).unwrap();
    assert!(gguf.read_at(tensor, 1, &mut out).is_err(), "beyond the tensor");
    assert!(gguf.read_at(tensor, u64::MAX, &mut out).is_err(), "beyond everything");
    File::options().write(true).open(&path).unwrap().set_len(gguf.header_bytes() + 70).unwrap();
    let said = gguf.read_at(tensor, 0, &mut out).unwrap_err().to_string();
    assert!(said.starts_with("b.weight: the file became shorter"), "{said}");
    File::options().write(true).open(&path).unwrap().set_len(40).unwrap();
    assert!(gguf.strings("tokenizer.ggml.tokens").unwrap_err().to_string().contains("became shorter"));
    assert!(gguf.content_hash().is_err());
}
