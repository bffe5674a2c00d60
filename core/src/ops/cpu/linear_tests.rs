//! Products: of every type and level, against plain sums and against each other.

use super::super::Level;
use super::*;
use crate::blocks;

/// Numbers in −1..1 from a counter; enough to tell kernels apart, the same everywhere.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |s: &mut u64| {
        *s ^= *s << 13;
        *s ^= *s >> 7;
        *s ^= *s << 17;
        (*s >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| step(&mut s)).collect()
}

/// A matrix of arbitrary codes with finite scales.
pub(crate) fn weights(ty: BlockType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    blocks::synthetic(ty, rows * cols, seed).unwrap()
}

/// Every type that is multiplied with but f64, whose products are those of its f32 values.
pub(crate) fn types() -> impl Iterator<Item = BlockType> {
    BlockType::ALL.iter().copied().filter(|ty| can_decode(*ty) && *ty != BlockType::F64)
}

#[test]
fn every_level_decodes_every_type_to_the_bits_of_the_plain_decoder() {
    for ty in types() {
        let bytes = weights(ty, 9, 768, 11);
        let mut plain = vec![0.0; 9 * 768];
        blocks::decode(ty, &bytes, &mut plain).unwrap();
        for kernels in Level::ALL.into_iter().filter_map(Kernels::tried) {
            let mut out = vec![f32::NAN; plain.len()];
            decode_with(kernels, ty, &bytes, &mut out).unwrap();
            let wrong = out.iter().zip(&plain).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(wrong.map(|k| (k, out[k], plain[k])), None, "{ty} {:?}", kernels.level);
            // Whatever a level does not know is decoded plainly, which is slow.
            let quick = (kernels.decode)(ty).is_some() && (kernels.fused)(ty).is_some();
            assert!(quick || kernels.level == Level::Scalar, "{ty} {:?}", kernels.level);
        }
    }
}

fn run(level: Level, threads: usize, x: &[f32], m: usize, mats: &[Mat<'_>]) -> Option<Vec<Vec<f32>>> {
    let kernels = Kernels::tried(level)?;
    let team = ThreadTeam::new(threads).unwrap();
    let mut out: Vec<Vec<f32>> = mats.iter().map(|w| vec![f32::NAN; m * w.rows]).collect();
    let mut products: Vec<_> = mats.iter().zip(&mut out).map(|(w, y)| Product { w: *w, y, ldy: w.rows }).collect();
    let mut scratch = vec![f32::NAN; linear_scratch(threads, mats[0].cols)];
    linear_with(kernels, &team, x, m, &mut products, &mut scratch).unwrap();
    Some(out)
}

#[test]
fn every_type_and_level_agrees_with_a_plain_f64_sum() {
    for ty in types() {
        for (rows, cols) in [(7, 256), (50, 512), (5, 2304), (3, 3328)] {
            let bytes = weights(ty, rows, cols, 3);
            let mut plain = vec![0.0; rows * cols];
            blocks::decode(ty, &bytes, &mut plain).unwrap();
            for m in [1, 2, 3, 4, 5, 6, 7, 13] {
                let x = noise(m * cols, 9);
                for level in Level::ALL {
                    let Some(y) = run(level, 2, &x, m, &[Mat::new(ty, rows, cols, &bytes).unwrap()]) else {
                        continue;
                    };
                    for (i, y) in y[0].iter().enumerate() {
                        let pairs = || x[i / rows * cols..][..cols].iter().zip(&plain[i % rows * cols..][..cols]);
                        let exact: f64 = pairs().map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        let size: f64 = pairs().map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
                        let error = (f64::from(*y) - exact).abs();
                        assert!(error <= size * 2e-6, "{ty} {level:?} m {m} element {i}: {y} is not {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_batch_nor_company() {
    for ty in types() {
        let (cols, m) = (2048, 200);
        let (a, b) = (weights(ty, 101, cols, 1), weights(ty, 52, cols, 2));
        let mats = [Mat::new(ty, 101, cols, &a).unwrap(), Mat::new(ty, 52, cols, &b).unwrap()];
        let x = noise(m * cols, 5);
        for level in Level::ALL {
            let Some(whole) = run(level, 1, &x, m, &mats) else { continue };
            assert_eq!(run(level, 3, &x, m, &mats).unwrap(), whole, "{ty} {level:?} on three threads");
            for (w, whole) in mats.iter().zip(&whole) {
                for (first, m) in [(0, 1), (199, 1), (20, 2), (30, 6), (77, 7), (100, 98)] {
                    let part = run(level, 2, &x[first * cols..][..m * cols], m, &[*w]).unwrap();
                    assert_eq!(part[0], whole[first * w.rows..][..m * w.rows], "{ty} {level:?} rows {first} + {m}");
                }
            }
        }
    }
}

#[test]
fn vector_levels_agree_bit_for_bit_and_with_their_twin_closely() {
    for ty in types() {
        let (rows, cols, m) = (33, 2048, 9);
        let bytes = weights(ty, rows, cols, 1);
        let w = [Mat::new(ty, rows, cols, &bytes).unwrap()];
        let x = noise(m * cols, 5);
        let twin = run(Level::Scalar, 2, &x, m, &w).unwrap();
        let vector: Vec<_> = [Level::Avx2, Level::Avx512].into_iter().filter_map(|l| run(l, 2, &x, m, &w)).collect();
        for y in &vector {
            assert_eq!(y, &vector[0], "{ty}");
            let largest = twin[0].iter().fold(0.0f32, |a, b| a.max(b.abs()));
            assert!(y[0].iter().zip(&twin[0]).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{ty}");
        }
    }
}

#[test]
fn odd_numbers_of_columns_work_where_elements_stand_alone() {
    for ty in [BlockType::F32, BlockType::F16, BlockType::Bf16] {
        for cols in [1, 15, 17, 31, 33, 100, 1537] {
            let bytes = weights(ty, 6, cols, 3);
            let x = noise(2 * cols, 4);
            let w = [Mat::new(ty, 6, cols, &bytes).unwrap()];
            let twin = run(Level::Scalar, 1, &x, 2, &w).unwrap();
            for level in Level::ALL {
                let Some(y) = run(level, 2, &x, 2, &w) else { continue };
                assert!(y[0].iter().zip(&twin[0]).all(|(a, b)| (a - b).abs() <= 1e-4), "{ty} {cols} {level:?}");
            }
        }
    }
}

#[test]
fn strided_output_leaves_the_gaps_alone() {
    let bytes = weights(BlockType::Q4_1, 50, 64, 3);
    let x = noise(3 * 64, 4);
    let team = ThreadTeam::new(2).unwrap();
    let mut y = vec![7.0; 3 * 60];
    let mut scratch = vec![0.0; linear_scratch(2, 64)];
    linear(&team, &x, 3, Mat::new(BlockType::Q4_1, 50, 64, &bytes).unwrap(), &mut y, 60, &mut scratch).unwrap();
    assert!(y.chunks(60).all(|row| row[50..].iter().all(|v| *v == 7.0) && row[..50].iter().all(|v| *v != 7.0)));
}

fn run_int8(level: Level, threads: usize, x: &[f32], m: usize, mats: &[Mat<'_>]) -> Option<Vec<Vec<f32>>> {
    let kernels = Kernels::tried(level)?;
    let team = ThreadTeam::new(threads).unwrap();
    let mut out: Vec<Vec<f32>> = mats.iter().map(|w| vec![f32::NAN; m * w.rows]).collect();
    let mut products: Vec<_> = mats.iter().zip(&mut out).map(|(w, y)| Product { w: *w, y, ldy: w.rows }).collect();
    let mut scratch = vec![f32::NAN; linear_scratch_as(Compute::Int8, threads, m, mats[0].cols)];
    linear_as_with(kernels, Compute::Int8, &team, x, m, &mut products, &mut scratch).unwrap();
    Some(out)
}

/// Types whose products are whole numbers.
fn whole() -> impl Iterator<Item = BlockType> {
    types().filter(|ty| ty.elems() > 1)
}

#[test]
fn int8_is_the_sum_over_rounded_activations_and_the_same_bits_on_every_level() {
    let team = ThreadTeam::new(2).unwrap();
    for ty in whole() {
        let odd = if ty.elems() == 32 { 1632 } else { 1792 };
        for (rows, cols, m) in [(7, 256, 1), (50, 512, 3), (17, odd, 9), (18, odd, 5), (101, 3328, 6), (5, 1536, 13)] {
            let bytes = weights(ty, rows, cols, 3);
            let w = [Mat::new(ty, rows, cols, &bytes).unwrap()];
            let (x, mut rounded, mut plain) = (noise(m * cols, 9), vec![0.0; m * cols], vec![0.0; rows * cols]);
            round_activations(&team, ty, &x, cols, &mut rounded).unwrap();
            blocks::decode(ty, &bytes, &mut plain).unwrap();
            let scalar = run_int8(Level::Scalar, 1, &x, m, &w).unwrap();
            for (i, y) in scalar[0].iter().enumerate() {
                let pairs = || rounded[i / rows * cols..][..cols].iter().zip(&plain[i % rows * cols..][..cols]);
                let exact: f64 = pairs().map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let size: f64 = pairs().map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
                let error = (f64::from(*y) - exact).abs();
                assert!(error <= size * 2e-6, "{ty} {rows} × {cols}, m {m}, element {i}: {y} is not {exact}");
            }
            for level in Level::ALL {
                let Some(y) = run_int8(level, 2, &x, m, &w) else { continue };
                let wrong = y[0].iter().zip(&scalar[0]).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(wrong.map(|i| (i, y[0][i], scalar[0][i])), None, "{ty} {level:?} {rows} × {cols}, m {m}");
            }
        }
    }
}

#[test]
fn int8_bits_depend_on_neither_threads_nor_batch_nor_company() {
    for ty in whole() {
        let (cols, m) = (2048, 120);
        let (a, b) = (weights(ty, 101, cols, 1), weights(ty, 52, cols, 2));
        let mats = [Mat::new(ty, 101, cols, &a).unwrap(), Mat::new(ty, 52, cols, &b).unwrap()];
        let x = noise(m * cols, 5);
        for level in [Level::Avx2, Level::Avx512] {
            let Some(whole) = run_int8(level, 1, &x, m, &mats) else { continue };
            assert_eq!(run_int8(level, 3, &x, m, &mats).unwrap(), whole, "{ty} {level:?} on three threads");
            for (w, whole) in mats.iter().zip(&whole) {
                for (first, m) in [(0, 1), (20, 2), (30, 6), (77, 7), (10, 98)] {
                    let part = run_int8(level, 2, &x[first * cols..][..m * cols], m, &[*w]).unwrap();
                    assert_eq!(part[0], whole[first * w.rows..][..m * w.rows], "{ty} {level:?} rows {first} + {m}");
                }
            }
        }
    }
}

#[test]
fn int8_multiplies_what_is_not_in_blocks_as_it_is_rounded() {
    let (m, cols, team) = (9, 512, ThreadTeam::new(2).unwrap());
    let x = noise(m * cols, 4);
    let types = [BlockType::Q4_1, BlockType::F16, BlockType::Q4K, BlockType::F32];
    let stored: Vec<_> = types.iter().map(|ty| weights(*ty, 20, cols, 3)).collect();
    let mats: Vec<_> = types.iter().zip(&stored).map(|(ty, w)| Mat::new(*ty, 20, cols, w).unwrap()).collect();
    let together = run_int8(kernels().level, 2, &x, m, &mats).unwrap();
    for ((ty, w), y) in types.iter().zip(&mats).zip(&together) {
        assert_eq!(*y, run_int8(kernels().level, 2, &x, m, &[*w]).unwrap()[0], "{ty} in company");
        let (mut rounded, exact) = (vec![0.0; m * cols], run(kernels().level, 2, &x, m, &[*w]).unwrap());
        round_activations(&team, *ty, &x, cols, &mut rounded).unwrap();
        let of_rounded = run(kernels().level, 2, &rounded, m, &[*w]).unwrap();
        assert_eq!(of_rounded[0] == *y, ty.elems() == 1, "{ty}");
        assert_eq!(exact[0] == *y, *ty == BlockType::F32, "{ty}");
    }
}

#[test]
fn int8_keeps_what_is_no_number() {
    for ty in [BlockType::Q4_0, BlockType::Q4K] {
        let bytes = weights(ty, 20, 512, 3);
        let w = [Mat::new(ty, 20, 512, &bytes).unwrap()];
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut x = noise(512, 4);
            x[300] = wrong;
            for level in Level::ALL {
                let Some(y) = run_int8(level, 1, &x, 1, &w) else { continue };
                assert!(y[0].iter().all(|y| y.is_nan()), "{ty} {level:?} {wrong}");
            }
        }
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let team = ThreadTeam::new(1).unwrap();
    let bytes = weights(BlockType::F32, 4, 8, 3);
    assert!(Mat::new(BlockType::F32, 4, 9, &bytes).is_err());
    assert!(Mat::new(BlockType::I8, 4, 32, &bytes).is_err());
    let w = Mat::new(BlockType::F32, 4, 8, &bytes).unwrap();
    let (x, mut y, mut s) = (vec![0.0; 16], vec![0.0; 8], vec![0.0; linear_scratch(1, 8)]);
    assert!(linear(&team, &x, 2, w, &mut y, 4, &mut s).is_ok());
    assert!(linear(&team, &x[1..], 2, w, &mut y, 4, &mut s).is_err());
    assert!(linear(&team, &x, 2, w, &mut y[1..], 4, &mut s).is_err());
    assert!(linear(&team, &x, 2, w, &mut y, 3, &mut s).is_err());
    assert!(linear(&team, &x, 2, w, &mut y, 4, &mut s[1..]).is_err());
    team.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(linear(&team, &x, 2, w, &mut y, 4, &mut s), Err(Error::Cancelled)));
}
