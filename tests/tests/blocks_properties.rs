//! What must hold of every block codec, whatever the numbers.
#![allow(clippy::unwrap_used)]

use half::f16;
use proptest::prelude::*;
use ullage_core::blocks::{self, BlockType, CodecError};

const ENCODED: [BlockType; 15] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::Bf16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::Q4K,
    BlockType::Q5K,
    BlockType::Q6K,
    BlockType::Iq4Nl,
    BlockType::Mxfp4,
];
const LEGACY: [BlockType; 5] = [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q8_0];

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

fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The most that rounding to the f16 `d` may have moved it, subnormal or not.
fn rounding(d: f32) -> f32 {
    (d / 2048.0).max(1.0 / (1 << 25) as f32)
}

/// A number from −1 to 1, by way of integers: proptest's own sampling of a float range asserts a bound on its rounding that
/// does not always hold.
fn unit() -> impl Strategy<Value = f32> {
    const STEPS: i32 = 1 << 24;
    (-STEPS..=STEPS).prop_map(|i| i as f32 / STEPS as f32)
}

/// One block's worth of ordinary numbers of one magnitude.
fn block(elems: usize) -> impl Strategy<Value = Vec<f32>> {
    (-8i32..8, prop::collection::vec(unit(), elems))
        .prop_map(|(e, x)| x.into_iter().map(|x| x * (e as f32).exp2()).collect())
}

/// Any bit pattern: NaN, infinities and subnormals included.
fn wild(elems: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            Just(f32::NAN),
            Just(f32::INFINITY),
            Just(f32::NEG_INFINITY),
            Just(f32::MAX),
            Just(f32::MIN_POSITIVE),
            Just(1e-42),
            unit(),
        ],
        elems,
    )
}

proptest! {
    #[test]
    fn q8_0_is_within_half_a_step(x in block(32)) {
        let bytes = encode(BlockType::Q8_0, &x);
        let d = scale(&bytes, 0);
        // Codes are chosen with the scale before it is rounded to f16: up to 127 times that rounding more.
        let slack = 127.0 * rounding(d);
        for (a, b) in x.iter().zip(decode(BlockType::Q8_0, &bytes)) {
            prop_assert!((a - b).abs() <= 0.5 * d + slack, "{a} {b} step {d}");
        }
    }

    #[test]
    fn q4_0_and_q5_0_are_within_a_step(x in block(32)) {
        for (ty, levels) in [(BlockType::Q4_0, 8.0), (BlockType::Q5_0, 16.0)] {
            let bytes = encode(ty, &x);
            let d = scale(&bytes, 0).abs();
            for (a, b) in x.iter().zip(decode(ty, &bytes)) {
                prop_assert!((a - b).abs() <= d + levels * rounding(d), "{ty}: {a} {b} step {d}");
            }
        }
    }

    #[test]
    fn q4_1_and_q5_1_are_within_half_a_step(x in block(32)) {
        for (ty, levels) in [(BlockType::Q4_1, 15.0), (BlockType::Q5_1, 31.0)] {
            let bytes = encode(ty, &x);
            let (d, m) = (scale(&bytes, 0), scale(&bytes, 2).abs());
            let slack = levels * rounding(d) + rounding(m);
            for (a, b) in x.iter().zip(decode(ty, &bytes)) {
                prop_assert!((a - b).abs() <= 0.5 * d + slack, "{ty}: {a} {b} step {d}");
            }
        }
    }

    #[test]
    fn encoding_what_was_decoded_changes_nothing(x in block(32)) {
        for ty in LEGACY {
            let once = decode(ty, &encode(ty, &x));
            let twice = decode(ty, &encode(ty, &once));
            prop_assert_eq!(&once, &twice, "{}", ty);
        }
    }

    #[test]
    fn plain_types_keep_what_they_hold(x in prop::collection::vec(any::<u16>(), 1..100)) {
        let f32s: Vec<f32> = x.iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
        for ty in [BlockType::F32, BlockType::Bf16] {
            for (a, b) in f32s.iter().zip(decode(ty, &encode(ty, &f32s))) {
                prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{ty}: {a} {b}");
            }
        }
    }

    #[test]
    fn q8_0_keeps_a_block_of_small_integers_exactly(x in prop::collection::vec(-127i8..=127, 32), at in 0usize..32, e in -10i32..6) {
        let mut x: Vec<f32> = x.into_iter().map(|q| f32::from(q) * (e as f32).exp2()).collect();
        x[at] = 127.0 * (e as f32).exp2();
        prop_assert_eq!(decode(BlockType::Q8_0, &encode(BlockType::Q8_0, &x)), x);
    }

    #[test]
    fn a_constant_block_is_within_half_a_step(value in unit().prop_map(|x| 50.0 * x)) {
        for ty in ENCODED {
            // The step with which a block spans 0 to `value`; one-element types have only rounding.
            let levels = match ty {
                BlockType::Q2K => 3.0,
                BlockType::Q3K => 4.0,
                BlockType::Q4_0 | BlockType::Iq4Nl => 8.0,
                // Its scale is a power of two, so up to a quarter of the value is clipped.
                BlockType::Mxfp4 => 2.0,
                BlockType::Q4K | BlockType::Q4_1 => 15.0,
                BlockType::Q5_0 => 16.0,
                BlockType::Q5K | BlockType::Q5_1 => 31.0,
                BlockType::Q6K => 32.0,
                BlockType::Q8_0 => 127.0,
                // f16 and bf16: half the distance to the next number.
                _ => 128.0,
            };
            let x = vec![value; ty.elems()];
            for y in decode(ty, &encode(ty, &x)) {
                prop_assert!((y - value).abs() <= 0.5 * value.abs() / levels + 1e-6, "{ty}: {value} became {y}");
            }
        }
    }

    #[test]
    fn scaling_by_a_power_of_two_scales_the_result(
        x in prop::collection::vec(unit().prop_map(|x| x.signum() * (0.1 + 0.9 * x.abs())), 256), e in 0i32..6
    ) {
        // Exactly: no absolute threshold hides in a search.
        let by = (e as f32).exp2();
        let scaled: Vec<f32> = x.iter().map(|x| x * by).collect();
        for ty in ENCODED {
            let expected: Vec<f32> = decode(ty, &encode(ty, &x)).iter().map(|x| x * by).collect();
            prop_assert_eq!(decode(ty, &encode(ty, &scaled)), expected, "{}", ty);
        }
    }

    #[test]
    fn nothing_panics_on_wild_numbers(x in wild(256)) {
        for ty in ENCODED {
            decode(ty, &encode(ty, &x));
        }
    }

    #[test]
    fn nothing_panics_on_wild_bytes(bytes in prop::collection::vec(any::<u8>(), 292)) {
        for ty in BlockType::ALL.iter().copied().filter(|ty| blocks::can_decode(*ty)) {
            decode(ty, &bytes[..ty.block_bytes()]);
        }
    }

    #[test]
    fn blocks_are_independent(x in block(512)) {
        for ty in ENCODED.into_iter().filter(|ty| ty.elems() > 1) {
            let whole = encode(ty, &x);
            let apart: Vec<u8> = x.chunks(ty.elems()).flat_map(|x| encode(ty, x)).collect();
            prop_assert_eq!(whole, apart, "{}", ty);
        }
    }

    #[test]
    fn lengths_must_match(bytes in 0usize..600, elems in 0usize..600) {
        for ty in BlockType::ALL.iter().copied() {
            let whole = ty.row_bytes(elems) == Some(bytes);
            let decoded = blocks::decode(ty, &vec![0; bytes], &mut vec![0.0; elems]);
            prop_assert_eq!(decoded == Err(CodecError::Length { ty, bytes, elems }), !whole);
            let encoded = blocks::encode(ty, &vec![0.0; elems], &mut vec![0; bytes]);
            prop_assert_eq!(encoded == Err(CodecError::Length { ty, bytes, elems }), !whole);
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for ty in ENCODED {
        let x = vec![0.0; ty.elems() * 2];
        assert_eq!(decode(ty, &encode(ty, &x)), x, "{ty}");
    }
    for ty in BlockType::ALL.iter().copied().filter(|ty| blocks::can_decode(*ty)) {
        let zeros = decode(ty, &vec![0; ty.block_bytes()]);
        assert!(zeros.iter().all(|x| *x == 0.0), "{ty}: {zeros:?}");
    }
}

#[test]
fn every_half_decodes_exactly() {
    for bits in 0..=u16::MAX {
        let expected = f16::from_bits(bits).to_f32();
        let ours = decode(BlockType::F16, &bits.to_le_bytes())[0];
        assert!(ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan(), "{bits:#06x}: {ours}");
    }
}

/// All sixteen codes, each in both halves of a block.
fn sixteen_codes(head: &[u8]) -> Vec<u8> {
    head.iter().copied().chain((0..16u8).map(|code| code | (15 - code) << 4)).collect()
}

#[test]
fn iq4_nl_has_exactly_its_levels() {
    let levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113].map(|l| l as f32);
    let x = decode(BlockType::Iq4Nl, &sixteen_codes(&f16::ONE.to_le_bytes()));
    assert_eq!(x[..16], levels);
    assert!(x[16..].iter().eq(levels.iter().rev()));
    // Levels are their own nearest codes, at any scale.
    for d in [1.0, -0.5, 1.0 / 1024.0] {
        let x: Vec<f32> = x.iter().map(|x| x * d).collect();
        assert_eq!(decode(BlockType::Iq4Nl, &encode(BlockType::Iq4Nl, &x)), x, "scale {d}");
    }
}

#[test]
fn mxfp4_has_exactly_its_levels() {
    let levels = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0f32];
    for e in 0..=255u8 {
        let x = decode(BlockType::Mxfp4, &sixteen_codes(&[e]));
        let power = (f64::from(e) - 127.0).exp2();
        for (x, level) in x.iter().zip(levels.iter().chain(levels.iter().rev())) {
            assert_eq!(f64::from(*x), f64::from((f64::from(*level) * power) as f32), "e {e}");
        }
        if e < 253 {
            assert_eq!(decode(BlockType::Mxfp4, &encode(BlockType::Mxfp4, &x)), x, "e {e}");
        }
    }
}

#[test]
fn integers_are_refused_by_name() {
    for ty in [BlockType::I8, BlockType::I16, BlockType::I32, BlockType::I64] {
        assert!(!blocks::can_decode(ty) && !blocks::can_encode(ty));
        let refused = blocks::decode(ty, &vec![0; ty.block_bytes()], &mut [0.0]).unwrap_err();
        assert!(refused.to_string().contains(ty.as_str()), "{refused}");
        assert_eq!(ullage_core::Error::from(refused).exit_code(), 2);
    }
    let encoded: Vec<_> = BlockType::ALL.iter().copied().filter(|ty| blocks::can_encode(*ty)).collect();
    let mut listed = ENCODED.to_vec();
    listed.sort_by_key(|ty| ty.id());
    assert_eq!(encoded, listed);
}
