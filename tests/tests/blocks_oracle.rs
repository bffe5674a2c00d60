//! Block codecs against independent implementations: gguf-py's fixtures and candle.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use ullage_core::blocks::{self, BlockType};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/blocks").join(name)).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn decode(ty: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.elems()];
    blocks::decode(ty, bytes, &mut out).unwrap();
    out
}

fn encode(ty: BlockType, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0xaa; ty.row_bytes(x.len()).unwrap()];
    blocks::encode(ty, x, &mut out).unwrap();
    out
}

fn assert_same_bits(ty: BlockType, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{ty}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{ty} element {i}: {a} against {b}");
    }
}

/// A small generator, so that inputs are the same on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    }
}

#[test]
fn every_type_decodes_as_gguf_py_does() {
    let file = fixture("decode.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut seen = 0;
    for ty in BlockType::ALL.iter().copied() {
        let Ok(bytes) = tensors.tensor(&format!("{ty}.bytes")) else { continue };
        let expected = floats(tensors.tensor(&format!("{ty}.f32")).unwrap().data());
        assert_same_bits(ty, &decode(ty, bytes.data()), &expected);
        seen += 1;
    }
    // Every weight type but f32 and f64 (plain copies) and the activation types q8_1 and q8_k.
    assert_eq!(seen, BlockType::ALL.len() - 4 - 4);
}

#[test]
fn legacy_types_encode_as_gguf_py_does() {
    let file = fixture("encode.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let x = floats(tensors.tensor("x").unwrap().data());
    for name in ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"] {
        let ty = BlockType::from_name(name).unwrap();
        let expected = tensors.tensor(name).unwrap();
        let ours = encode(ty, &x);
        let size = ty.block_bytes();
        for (i, (a, b)) in ours.chunks(size).zip(expected.data().chunks(size)).enumerate() {
            assert_eq!(a, b, "{ty} block {i}");
        }
    }
}

const CANDLE: [(BlockType, GgmlDType); 14] = [
    (BlockType::F16, GgmlDType::F16),
    (BlockType::Bf16, GgmlDType::BF16),
    (BlockType::Q4_0, GgmlDType::Q4_0),
    (BlockType::Q4_1, GgmlDType::Q4_1),
    (BlockType::Q5_0, GgmlDType::Q5_0),
    (BlockType::Q5_1, GgmlDType::Q5_1),
    (BlockType::Q8_0, GgmlDType::Q8_0),
    (BlockType::Q8_1, GgmlDType::Q8_1),
    (BlockType::Q2K, GgmlDType::Q2K),
    (BlockType::Q3K, GgmlDType::Q3K),
    (BlockType::Q4K, GgmlDType::Q4K),
    (BlockType::Q5K, GgmlDType::Q5K),
    (BlockType::Q6K, GgmlDType::Q6K),
    (BlockType::Q8K, GgmlDType::Q8K),
];

fn candle_decode(dtype: GgmlDType, bytes: &[u8], elems: usize) -> Vec<f32> {
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, elems).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
}

fn candle_encode(dtype: GgmlDType, x: &[f32]) -> Vec<u8> {
    let tensor = Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, dtype).unwrap().data().unwrap().into_owned()
}

/// Byte offsets of the f16 scales of a type candle knows.
fn scales(ty: BlockType) -> &'static [usize] {
    match ty {
        BlockType::F16 | BlockType::Bf16 | BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q8_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        _ => &[],
    }
}

#[test]
fn random_blocks_decode_as_candle_does() {
    let mut random = Random(7);
    for (ty, dtype) in CANDLE {
        let count = 2048 / ty.elems() * 8;
        let mut bytes: Vec<u8> = (0..count * ty.block_bytes()).map(|_| random.bits() as u8).collect();
        for block in bytes.chunks_mut(ty.block_bytes()) {
            for at in scales(ty) {
                let scale = half::f16::from_f32(random.normal() * 0.02);
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if ty == BlockType::Q8K {
                block[..4].copy_from_slice(&random.normal().to_le_bytes());
            }
        }
        let theirs = candle_decode(dtype, &bytes, count * ty.elems());
        assert_same_bits(ty, &decode(ty, &bytes), &theirs);
    }
}

#[test]
fn legacy_types_encode_as_candle_does() {
    let mut random = Random(8);
    let x: Vec<f32> = (0..32 * 512).map(|i| random.normal() * (1.0 + (i / 512) as f32)).collect();
    for (ty, dtype) in CANDLE.into_iter().filter(|(ty, _)| ty.elems() == 32 && *ty != BlockType::Q8_1) {
        assert_eq!(encode(ty, &x), candle_encode(dtype, &x), "{ty}");
    }
}

fn rmse(x: &[f32], y: &[f32]) -> f64 {
    let sum: f64 = x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / x.len() as f64).sqrt()
}

#[test]
fn searched_types_are_not_worse_than_candle() {
    let mut random = Random(9);
    let normal: Vec<f32> = (0..256 * 256).map(|_| random.normal()).collect();
    // Rows with a few elements ten times larger, as weights have.
    let spiky: Vec<f32> = normal.iter().map(|x| if random.bits().is_multiple_of(64) { 10.0 * x } else { *x }).collect();
    // Away from zero, which the minima are for.
    let shifted: Vec<f32> = normal.iter().map(|x| 0.02 * x - 0.01).collect();
    for (name, x) in [("normal", &normal), ("spiky", &spiky), ("shifted", &shifted)] {
        for (ty, dtype) in CANDLE.into_iter().filter(|(ty, _)| ty.elems() == 256 && *ty != BlockType::Q8K) {
            let ours = rmse(x, &decode(ty, &encode(ty, x)));
            let theirs = rmse(x, &decode(ty, &candle_encode(dtype, x)));
            println!("{name} {ty}: {ours:.6} against {theirs:.6}, ratio {:.3}", ours / theirs);
            assert!(ours <= 1.02 * theirs, "{name} {ty}: {ours} against candle's {theirs}");
        }
    }
}

#[test]
fn more_bits_mean_less_error() {
    let mut random = Random(10);
    let x: Vec<f32> = (0..256 * 64).map(|_| random.normal()).collect();
    let error = |ty| rmse(&x, &decode(ty, &encode(ty, &x)));
    for group in [
        &[BlockType::Q8_0, BlockType::Q6K, BlockType::Q5K, BlockType::Q4K, BlockType::Q3K, BlockType::Q2K][..],
        &[BlockType::Q8_0, BlockType::Q5_1, BlockType::Q5_0, BlockType::Q4_1, BlockType::Q4_0],
        // The same size; the uneven levels must pay.
        &[BlockType::Iq4Nl, BlockType::Q4_0],
        &[BlockType::Iq4Nl, BlockType::Mxfp4],
    ] {
        for pair in group.windows(2) {
            let (a, b) = (error(pair[0]), error(pair[1]));
            println!("{} {a:.5} {} {b:.5}", pair[0], pair[1]);
            assert!(a < b, "{} {a} against {} {b}", pair[0], pair[1]);
        }
    }
}
