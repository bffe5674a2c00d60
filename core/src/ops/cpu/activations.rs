//! Activations as ggml sees them: what `run.compute = int8` multiplies with.
//!
//! ggml rounds activations before it multiplies: to blocks of 32 signed bytes (`q8_0`, `q8_1`) for weights in blocks of 32,
//! to blocks of 256 (`q8_k`) for k-quants, to the weights' own type for f16 and bf16. Those rounded to bytes are multiplied with as such
//! ([`super::integer`]); the others as the f32 that they are here.

use crate::blocks::BlockType;
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// `run.compute`: whether activations are rounded before a product. One compute path per run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// What suits the device: exact so far.
    #[default]
    Auto,
    /// Weights decoded to f32, f32 activations.
    Exact,
    /// Activations rounded as ggml does for the type of the weights; with blocks, sums of whole numbers.
    Int8,
    /// Of a GPU: products of more than a few rows on its tensor cores, activations and decoded weights in f16 (bf16 for weights in bf16),
    /// sums in f32; few rows, which only the bytes of weights hold up, as in exact.
    Half,
}

/// How ggml rounds activations for weights of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Not at all.
    None,
    F16,
    Bf16,
    /// Blocks of 32 signed bytes with an f16 scale.
    Bytes32,
    /// Blocks of 256 signed bytes with an f32 scale.
    Bytes256,
}

impl Rounding {
    pub(crate) const fn of(ty: BlockType) -> Self {
        match (ty, ty.elems()) {
            (BlockType::F16, _) => Self::F16,
            (BlockType::Bf16, _) => Self::Bf16,
            (_, 32) => Self::Bytes32,
            (_, 256) => Self::Bytes256,
            _ => Self::None,
        }
    }

    fn apply(self, x: &mut [f32]) {
        match self {
            Self::None => {}
            Self::F16 => x.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
            Self::Bf16 => x.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
            Self::Bytes32 => x.chunks_mut(32).for_each(|block| {
                let largest = block.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                // The codes use the scale before it is rounded to f16, the values the rounded one, as ggml's do.
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                let scale = half::f16::from_f32(largest / 127.0).to_f32();
                block.iter_mut().for_each(|v| *v = (*v * inverse).round_ties_even() * scale);
            }),
            Self::Bytes256 => x.chunks_mut(256).for_each(|block| {
                let largest = block.iter().fold(0.0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
                let inverse = if largest == 0.0 { 0.0 } else { -127.0 / largest };
                let scale = if largest == 0.0 { 0.0 } else { 1.0 / inverse };
                block.iter_mut().for_each(|v| *v = (*v * inverse).round_ties_even().min(127.0) * scale);
            }),
        }
    }
}

/// Copies `x (m, cols)` into `out`, rounded as ggml rounds activations for weights of type `ty`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ or are not `cols` wide.
pub fn round_activations(team: &ThreadTeam, ty: BlockType, x: &[f32], cols: usize, out: &mut [f32]) -> Result<()> {
    if x.len() != out.len() || cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(Error::Internal(format!("activations: {} into {}, {cols} wide", x.len(), out.len())));
    }
    let rounding = Rounding::of(ty);
    let each = |x: &[f32], out: &mut [f32]| {
        out.copy_from_slice(x);
        rounding.apply(out);
    };
    let rows = x.len() / cols;
    if rows <= 8 {
        x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).for_each(|(x, out)| each(x, out));
        return Ok(());
    }
    let shared = SharedMut::new(out);
    team.run(rows.div_ceil(8), &|task, _| {
        for row in task * 8..rows.min(task * 8 + 8) {
            // SAFETY: each row is one task's.
            each(&x[row * cols..][..cols], unsafe { shared.slice(row * cols, cols) });
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin() * (1.0 + (i % 41) as f32)).collect()
    }

    fn rounded(ty: BlockType, x: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len()];
        round_activations(&ThreadTeam::new(2).unwrap(), ty, x, 512, &mut out).unwrap();
        out
    }

    #[test]
    fn products_are_ggmls_integer_products() {
        let x = wave(512);
        let out = rounded(BlockType::Q8_0, &x);
        for (b, (x, out)) in x.chunks(32).zip(out.chunks(32)).enumerate() {
            // A block of q8_0 weights with scale 1/2 and codes 0..32, multiplied with integers as ggml does.
            let largest = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            let codes: Vec<i32> = x.iter().map(|v| (v * (127.0 / largest)).round_ties_even() as i32).collect();
            let scale = f64::from(half::f16::from_f32(largest / 127.0).to_f32());
            let integer = codes.iter().zip(0..).map(|(q, w)| q * w).sum::<i32>();
            let float: f64 = out.iter().zip(0..).map(|(x, w)| f64::from(*x) * f64::from(w) * 0.5).sum();
            assert!((float - scale * 0.5 * f64::from(integer)).abs() < 1e-9 * float.abs().max(1.0), "block {b}");
            assert_eq!(codes.iter().map(|q| q.abs()).max(), Some(127));
        }
    }

    #[test]
    fn rounded_values_survive_their_own_stored_type() {
        for ty in [BlockType::F16, BlockType::Bf16] {
            let out = rounded(ty, &wave(1024));
            let bytes: Vec<u8> = match ty {
                BlockType::F16 => out.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                _ => out.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            };
            let mut back = vec![0.0; 1024];
            blocks::decode(ty, &bytes, &mut back).unwrap();
            assert_eq!(back, out);
        }
        assert_eq!(rounded(BlockType::F32, &wave(512)), wave(512));
    }

    #[test]
    fn wide_blocks_keep_their_largest_value_and_err_by_half_a_step() {
        let mut x = wave(16 * 512);
        x[..256].fill(0.0);
        let out = rounded(BlockType::Q6K, &x);
        assert!(out[..256].iter().all(|v| *v == 0.0));
        for (x, out) in x.chunks(256).zip(out.chunks(256)).skip(1) {
            let step = x.iter().fold(0.0f32, |a, v| a.max(v.abs())) / 127.0;
            assert!(x.iter().zip(out).all(|(x, o)| (x - o).abs() <= 0.501 * step));
        }
    }
}
