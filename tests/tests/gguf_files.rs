//! Reading what llama.cpp's writer wrote, and writing what candle's reader reads.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use proptest::prelude::*;
use ullage_core::Error;
use ullage_core::blocks::BlockType;
use ullage_core::model::gguf::{Gguf, GgufWriter, Value};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf").join(name)
}

#[test]
fn a_file_of_llama_cpp_reads_as_it_was_written() {
    let gguf = Gguf::open(&fixture("gguf_py.gguf")).unwrap();
    let value = |key: &str| gguf.entry(key).unwrap().value.clone();
    assert_eq!(value("t.u8"), Value::Unsigned(200));
    assert_eq!(value("t.i8"), Value::Signed(-100));
    assert_eq!(value("t.u16"), Value::Unsigned(60_000));
    assert_eq!(value("t.i16"), Value::Signed(-30_000));
    assert_eq!(value("t.i32"), Value::Signed(-2_000_000_000));
    assert_eq!(value("t.i64"), Value::Signed(-(1 << 62)));
    assert_eq!(gguf.u32("t.u32").unwrap(), Some(4_000_000_000));
    assert_eq!(gguf.u64("t.u64").unwrap(), Some((1 << 63) + 5));
    assert_eq!(gguf.f32("t.f32").unwrap(), Some(0.1));
    assert_eq!(value("t.f64"), Value::Float(1e300));
    assert_eq!(gguf.bool("t.bool").unwrap(), Some(true));
    assert_eq!(gguf.str("t.str").unwrap(), Some("naïve 🦙\n"));
    assert_eq!(gguf.strings("t.strings").unwrap(), ["", "Ġthe", "日本", &"x".repeat(300)]);
    assert_eq!(gguf.i32s("t.i32s").unwrap(), [1, -2, 3]);
    assert_eq!(gguf.f32s("t.f32s").unwrap(), [0.5, -1.25]);
    assert_eq!((gguf.str("no").unwrap(), gguf.u64("no").unwrap(), gguf.array("no").unwrap()), (None, None, None));
    for (wrong, key) in [
        (gguf.u64("t.i8").unwrap_err(), "t.i8"),
        (gguf.u32("t.u64").unwrap_err(), "t.u64"),
        (gguf.f32("t.u8").unwrap_err(), "t.u8"),
        (gguf.bool("t.u8").unwrap_err(), "t.u8"),
        (gguf.str("t.strings").unwrap_err(), "t.strings"),
        (gguf.array("t.str").unwrap_err(), "t.str"),
    ] {
        assert!(matches!(&wrong, Error::Model { field, .. } if field == key), "{wrong}");
    }

    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture("gguf_py.json")).unwrap()).unwrap();
    let facts = facts["tensors"].as_array().unwrap();
    assert_eq!(facts.len(), gguf.tensors().len());
    for fact in facts {
        let tensor = gguf.tensor(fact["name"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::json!(tensor.dims()), fact["dims"]);
        assert_eq!(
            (tensor.ty.as_str(), tensor.bytes),
            (fact["type"].as_str().unwrap(), fact["bytes"].as_u64().unwrap())
        );
        let mut bytes = vec![0; tensor.bytes as usize];
        gguf.read_at(tensor, 0, &mut bytes).unwrap();
        assert_eq!(bytes.iter().map(|&b| u64::from(b)).sum::<u64>(), fact["sum"].as_u64().unwrap());
        assert_eq!(serde_json::json!(bytes[..8]), fact["first"]);
        let mut last = [0; 8];
        gguf.read_at(tensor, tensor.bytes - 8, &mut last).unwrap();
        assert_eq!(serde_json::json!(last), fact["last"]);
    }
}

#[test]
fn a_big_endian_file_of_llama_cpp_is_refused_in_words() {
    let said = Gguf::open(&fixture("big_endian.gguf")).unwrap_err().to_string();
    assert!(said.starts_with("version: the file is big-endian (version 3 byte-swapped)"), "{said}");
}

#[test]
fn what_is_written_candle_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let mut w = GgufWriter::new("llama");
    w.u32("a.number", 7).f32("a.float", 0.25).bool("a.bool", true).u64("a.long", u64::MAX);
    w.strings("a.strings", &["x", "", "🦙"]).f32s("a.floats", &[1.0, 2.0]).u8("a.byte", 9).i32("a.int", -4);
    w.tensor("one", BlockType::F32, &[5]).tensor("two", BlockType::Q8_0, &[64, 3]);
    let data = |name: &str, n: usize| (0..n).map(|i| (i * 7 + name.len()) as u8).collect::<Vec<_>>();
    let bytes = w.write(&path, |t, sink| {
        // In two parts: a payload is a stream.
        let all = data(&t.name, t.bytes as usize);
        sink.put(&all[..10])?;
        sink.put(&all[10..])
    });
    let bytes = bytes.unwrap();
    assert_eq!((bytes, bytes), (w.file_bytes(), std::fs::metadata(&path).unwrap().len()));

    let mut file = std::fs::File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    assert_eq!(content.metadata["general.architecture"].to_string().unwrap(), "llama");
    assert_eq!(content.metadata["a.number"].to_u32().unwrap(), 7);
    assert_eq!(content.metadata["a.long"].to_u64().unwrap(), u64::MAX);
    assert_eq!(content.metadata["a.strings"].to_vec().unwrap()[2].to_string().unwrap(), "🦙");
    let gguf = Gguf::open(&path).unwrap();
    for tensor in gguf.tensors() {
        let seen = content.tensor(&mut file, &tensor.name, &candle_core::Device::Cpu).unwrap();
        assert_eq!(seen.shape().dims().iter().rev().map(|&d| d as u64).collect::<Vec<_>>(), tensor.dims());
        assert_eq!(*seen.data().unwrap(), data(&tensor.name, tensor.bytes as usize));
    }
}

#[test]
fn metadata_is_copied_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let from = Gguf::open(&fixture("gguf_py.gguf")).unwrap();
    let mut w = GgufWriter::new("llama");
    w.copy_metadata(&from, |key| key != "t.u8").unwrap();
    w.write(&path, |_, _| Ok(())).unwrap();
    let to = Gguf::open(&path).unwrap();
    assert_eq!(to.entries().len(), from.entries().len() - 1);
    for entry in to.entries() {
        let before = from.entry(&entry.key).unwrap();
        assert_eq!(entry.ty, before.ty);
        match (&entry.value, &before.value) {
            (Value::Array(a), Value::Array(b)) => assert_eq!((a.ty, a.count, a.bytes), (b.ty, b.count, b.bytes)),
            (a, b) => assert_eq!(a, b),
        }
    }
    assert_eq!(to.strings("t.strings").unwrap(), from.strings("t.strings").unwrap());
}

#[test]
fn a_failed_write_leaves_the_target_as_it_was_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "before").unwrap();
    let mut w = GgufWriter::new("llama");
    w.tensor("t", BlockType::Q4_0, &[32, 2]);
    let short = w.write(&path, |_, sink| sink.put(&[0; 35]));
    let long = w.write(&path, |_, sink| sink.put(&[0; 37]));
    let failed = w.write(&path, |_, _| Err(Error::Cancelled));
    assert!(short.unwrap_err().to_string().starts_with("t: 1 of its 36 bytes were not given"));
    assert!(long.unwrap_err().to_string().starts_with("t: 1 bytes more"));
    assert!(matches!(failed, Err(Error::Cancelled)));
    for (field, wrong) in [
        ("t", w.clone().tensor("t", BlockType::F32, &[1])),
        ("u", w.clone().tensor("u", BlockType::Q4K, &[32])),
        ("v", w.clone().tensor("v", BlockType::F32, &[usize::MAX, 2])),
        ("general.architecture", w.clone().str("general.architecture", "twice")),
        ("general.alignment", w.clone().u32("general.alignment", 64)),
    ] {
        let said = wrong.write(&path, |t, sink| sink.put(&vec![0; t.bytes as usize])).unwrap_err();
        assert!(matches!(&said, Error::Model { field: found, .. } if found == field), "{said}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(w.write(&folder.path().join("none/model.gguf"), |_, _| Ok(())).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_reads_back(
        texts in prop::collection::vec(".{0,12}", 0..20),
        floats in prop::collection::vec(any::<f32>(), 0..40),
        ints in prop::collection::vec(any::<i32>(), 0..40),
        tensors in prop::collection::vec((0usize..BlockType::ALL.len(), 1usize..4, 1usize..5, 1usize..3), 0..6),
        seed in any::<u8>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.gguf");
        let mut w = GgufWriter::new("llama");
        w.strings("texts", &texts).f32s("floats", &floats).i32s("ints", &ints);
        for (n, (ty, blocks, rows, planes)) in tensors.iter().enumerate() {
            let ty = BlockType::ALL[*ty];
            w.tensor(&format!("t{n}"), ty, &[ty.elems() * blocks, *rows, *planes]);
        }
        w.write(&path, |t, sink| sink.put(&vec![seed ^ t.name.len() as u8; t.bytes as usize])).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        prop_assert_eq!(gguf.strings("texts").unwrap(), texts);
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        // A signalling NaN may come back quiet; every number comes back as it is.
        let quiet = |v: Vec<f32>| bits(v.into_iter().map(|x| if x.is_nan() { f32::NAN } else { x }).collect());
        prop_assert_eq!(quiet(gguf.f32s("floats").unwrap()), quiet(floats));
        prop_assert_eq!(gguf.i32s("ints").unwrap(), ints);
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (info, (ty, blocks, rows, planes)) in gguf.tensors().iter().zip(&tensors) {
            let ty = BlockType::ALL[*ty];
            prop_assert_eq!((info.ty, info.cols, info.rows), (ty, ty.elems() * blocks, rows * planes));
            let mut bytes = vec![0; info.bytes as usize];
            gguf.read_at(info, 0, &mut bytes).unwrap();
            prop_assert!(bytes.iter().all(|&b| b == seed ^ info.name.len() as u8));
        }
    }
}
