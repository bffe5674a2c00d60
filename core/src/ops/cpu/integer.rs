//! Products in whole numbers: `run.compute = int8`, for weights in blocks.
//!
//! Activations are rounded to signed bytes as ggml rounds them (see [`super::activations`]), and multiplied with the weights' codes
//! as they are stored. The sums of a block are whole numbers and so exact: whatever instructions take them, and in whatever order, the
//! result is one. What is left is a few roundings for each block, always the same ones: with `D` and `M` the sums over the block of
//! scale × code × activation and of minimum × activation,
//!
//! `term = (d·dx)·D − (e·dx)·M`
//!
//! goes to the even or odd sum of the row's blocks; the two are added at the end of each run of [`DEPTH`] columns, and runs one
//! after the other. So every level, the scalar one too, gives the same bits, in a batch of any size and on any number of threads.

use super::activations::Rounding;
use super::linear::{DEPTH, PANEL};
use crate::blocks::BlockType;
use crate::blocks::split::{RUN, can_split, split};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Activations as signed bytes, rows one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    /// `cols` for each row.
    pub(super) codes: *const i8,
    /// One for each block of `elems`.
    pub(super) scales: *const f32,
    /// The sum of each [`RUN`] codes.
    pub(super) sums: *const i16,
    pub(super) cols: usize,
    /// Blocks of a row, of 32 or 256.
    pub(super) blocks: usize,
    /// Runs of a row.
    pub(super) runs: usize,
}

impl Bytes {
    /// Codes of row `i` from column `k`.
    #[inline(always)]
    pub(super) const fn codes(&self, i: usize, k: usize) -> *const i8 {
        self.codes.wrapping_add(i * self.cols + k)
    }

    /// The scale of block `b` of row `i`.
    #[inline(always)]
    pub(super) const fn scale(&self, i: usize, b: usize) -> *const f32 {
        self.scales.wrapping_add(i * self.blocks + b)
    }

    /// Sums of row `i` from run `run`.
    #[inline(always)]
    pub(super) const fn sums(&self, i: usize, run: usize) -> *const i16 {
        self.sums.wrapping_add(i * self.runs + run)
    }

    /// The same from row `first` on.
    pub(super) const fn after(self, first: usize) -> Self {
        Self { codes: self.codes(first, 0), scales: self.scale(first, 0), sums: self.sums(first, 0), ..self }
    }
}

/// `c[i·ldc + j] = Σ_k x[i, k] · w[j·row_bytes.., k]` for `i < m`, `j < n`. `panel` is a worker's: [`PANEL`] · [`DEPTH`] elements.
pub(crate) type ByteFn = unsafe fn(
    x: Bytes,
    m: usize,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    panel: *mut f32,
    c: *mut f32,
    ldc: usize,
);

/// The integer kernels of a level.
pub(crate) struct Integer {
    /// Products of up to [`super::FUSED_ROWS`] rows of activations with a type, and of more.
    pub(super) products: fn(BlockType) -> Option<[ByteFn; 2]>,
    /// Rounds a block or more of activations, all of one size.
    pub(super) round: unsafe fn(x: &[f32], elems: usize, to: Rounded<'_>),
}

/// Where some activations' bytes go.
pub(super) struct Rounded<'a> {
    pub(super) codes: &'a mut [i8],
    pub(super) scales: &'a mut [f32],
    pub(super) sums: &'a mut [i16],
}

/// The scalar level's.
pub(super) static SCALAR: Integer = Integer {
    products: |ty| can_split(ty).then(|| [scalar::of(ty); 2]),
    // SAFETY: plain Rust.
    round: |x, elems, to| round(x, elems, to),
};

/// Elements of scratch that `m` rows of `cols` activations take as bytes: a quarter of what they take as numbers, and their scales
/// and sums, at most another sixteenth of it.
pub(super) const fn room(m: usize, cols: usize) -> usize {
    (m * cols / 4 + m * cols / 16).next_multiple_of(16) + 16
}

/// Rounds `x (m, cols)` into `scratch` for weights of type `ty`; `None` where activations are not rounded to bytes for it.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn activations(
    kernels: &Integer,
    team: &ThreadTeam,
    ty: BlockType,
    x: &[f32],
    m: usize,
    cols: usize,
    scratch: &mut [f32],
) -> Result<Option<Bytes>> {
    let elems = match Rounding::of(ty) {
        Rounding::Bytes32 => 32,
        Rounding::Bytes256 => 256,
        Rounding::None | Rounding::F16 | Rounding::Bf16 => return Ok(None),
    };
    if (kernels.products)(ty).is_none() || !cols.is_multiple_of(elems) {
        return Ok(None);
    }
    if scratch.len() < room(m, cols) || x.len() < m * cols {
        return Err(Error::Internal(format!("{} elements for {m} × {cols} rounded activations", scratch.len())));
    }
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let (codes, rest) = scratch[aligned..].split_at_mut(m * cols / 4);
    let (scales, sums) = rest.split_at_mut(m * cols / elems);
    let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
    let sums: &mut [i16] = &mut bytemuck::cast_slice_mut(sums)[..m * cols / RUN];
    let (codes, scales, sums) = (SharedMut::new(codes), SharedMut::new(scales), SharedMut::new(sums));
    let rows = |first: usize, n: usize| {
        // SAFETY: these rows are one task's; the level of `kernels` runs here.
        unsafe {
            let to = Rounded {
                codes: codes.slice(first * cols, n * cols),
                scales: scales.slice(first * cols / elems, n * cols / elems),
                sums: sums.slice(first * cols / RUN, n * cols / RUN),
            };
            (kernels.round)(&x[first * cols..(first + n) * cols], elems, to);
        }
    };
    match m {
        0..=8 => rows(0, m),
        _ => team.run(m.div_ceil(8), &|task, _| rows(8 * task, 8.min(m - 8 * task)))?,
    }
    let (blocks, runs) = (cols / elems, cols / RUN);
    Ok(Some(Bytes { codes: codes.at(0), scales: scales.at(0), sums: sums.at(0), cols, blocks, runs }))
}

/// Rounds blocks of `elems` as ggml does. Every operation is exact or rounds once, so that all levels do the same.
fn round(x: &[f32], elems: usize, to: Rounded<'_>) {
    let blocks = x.chunks_exact(elems).zip(to.codes.chunks_exact_mut(elems));
    for ((x, codes), (scale, sums)) in blocks.zip(to.scales.iter_mut().zip(to.sums.chunks_exact_mut(elems / RUN))) {
        let (mut most, mut wrong) = ([0.0f32; 16], [0.0f32; 16]);
        for x in x.as_chunks::<16>().0 {
            for l in 0..16 {
                let a = x[l].abs();
                most[l] = if a > most[l] { a } else { most[l] };
                // A value that is no number stays one, however it is rounded.
                wrong[l] += x[l] * 0.0;
            }
        }
        let most = most.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a });
        let wrong: f32 = wrong.iter().sum();
        let inverse = if elems == 32 {
            // The codes use the scale before it is rounded to f16, the values the rounded one, as ggml's do.
            *scale = half::f16::from_f32(most / 127.0).to_f32();
            if most > 0.0 { 127.0 / most } else { 0.0 }
        } else {
            let largest = x.iter().find(|v| v.abs() == most).copied().unwrap_or(0.0);
            let inverse = if largest == 0.0 { 0.0 } else { -127.0 / largest };
            *scale = if largest == 0.0 { 0.0 } else { 1.0 / inverse };
            inverse
        };
        *scale += wrong;
        let runs = x.as_chunks::<RUN>().0.iter().zip(codes.as_chunks_mut::<RUN>().0);
        for ((x, codes), sum) in runs.zip(sums) {
            let mut total = 0i32;
            for l in 0..RUN {
                // Adding and taking 1.5 · 2^23 rounds to the nearest whole number, ties to even, of magnitudes up to 2^22.
                let whole = (x[l] * inverse + 12_582_912.0) - 12_582_912.0;
                let q = if whole < 127.0 { whole as i32 } else { 127 };
                codes[l] = q as i8;
                total += q;
            }
            *sum = total as i16;
        }
    }
}

mod scalar {
    use super::*;

    /// The kernel of a type, by what [`split`] says of its blocks.
    pub(super) fn of(ty: BlockType) -> ByteFn {
        macro_rules! table {
            ($($name:ident)*) => {
                match ty {
                    $(BlockType::$name => product::<{ BlockType::$name.id() }>,)*
                    _ => product::<{ BlockType::F32.id() }>,
                }
            };
        }
        table!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q2K Q3K Q4K Q5K Q6K Q8K Iq2Xxs Iq2Xs Iq3Xxs Iq1S Iq4Nl Iq3S Iq2S Iq4Xs Iq1M Tq1_0 Tq2_0 Mxfp4)
    }

    /// See [`ByteFn`].
    ///
    /// # Safety
    /// All elements named there are in bounds, `c` unaliased.
    unsafe fn product<const ID: u32>(
        x: Bytes,
        m: usize,
        w: *const u8,
        row_bytes: usize,
        n: usize,
        k: usize,
        _panel: *mut f32,
        c: *mut f32,
        ldc: usize,
    ) {
        let Some(ty) = BlockType::from_id(ID) else { return };
        let (elems, bytes) = (ty.elems(), ty.block_bytes());
        for j in 0..n {
            for start in (0..k).step_by(DEPTH) {
                // Rows of a batch beyond these make new runs of the weights.
                for first in (0..m).step_by(PANEL) {
                    let some = PANEL.min(m - first);
                    let mut acc = [[0.0f32; 2]; PANEL];
                    for (b, at) in (start..k.min(start + DEPTH)).step_by(elems).enumerate() {
                        // SAFETY: row `j` has a whole block there.
                        let block =
                            unsafe { std::slice::from_raw_parts(w.add(j * row_bytes + at / elems * bytes), bytes) };
                        let block = split(ty, block);
                        for (i, acc) in acc[..some].iter_mut().enumerate() {
                            // SAFETY: row `first + i` of the activations has a whole block there.
                            let (codes, dx, sums) = unsafe {
                                (
                                    std::slice::from_raw_parts(x.codes(first + i, at), elems),
                                    *x.scale(first + i, at / elems),
                                    std::slice::from_raw_parts(x.sums(first + i, at / RUN), elems / RUN),
                                )
                            };
                            acc[b % 2] += term(&block, codes, dx, sums);
                        }
                    }
                    for (i, acc) in acc[..some].iter().enumerate() {
                        // SAFETY: the element is one of the product's.
                        unsafe {
                            let c = c.add((first + i) * ldc + j);
                            let sum = acc[0] + acc[1];
                            *c = if start > 0 { *c + sum } else { sum };
                        }
                    }
                }
            }
        }
    }

    /// What a block adds to a sum.
    fn term(w: &crate::blocks::split::Split, codes: &[i8], dx: f32, sums: &[i16]) -> f32 {
        let mut dot = 0i32;
        let mut min = 0i32;
        for (run, (x, sum)) in codes.as_chunks::<RUN>().0.iter().zip(sums).enumerate() {
            let w16: &[i8] = &w.codes[RUN * run..][..RUN];
            let of: i32 = x.iter().zip(w16).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum();
            dot += i32::from(w.scales[run]) * of;
            min += i32::from(w.minima[run]) * i32::from(*sum);
        }
        let scaled = (w.d * dx) * dot as f32;
        if w.has_minima { scaled - (w.e * dx) * min as f32 } else { scaled }
    }
}
