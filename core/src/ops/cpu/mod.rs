//! CPU kernels: products with weights in their stored blocks, attention over cache tiles, and element operations.
//!
//! Three levels, chosen once by what the processor can do: `avx512` (F, BW, DQ, VL), `avx2` (with FMA and F16C) and
//! `scalar` (plain Rust, every machine). A level is a table of functions ([`Kernels`]); `ULLAGE_KERNELS=scalar` or
//! [`force`] overrides the choice. The scalar functions are the twins that the others are tested against.
//!
//! **Bits.** Every sum has one order, a function of the length alone: 16 lanes (element k goes to lane k mod 16), folded
//! 8 + 4 + 2 + 1, blocks of [`linear::DEPTH`] columns added one after the other. So a row of a product does not depend on the
//! number of threads, of rows in the batch, or of matrices in the region; `avx512` and `avx2` give the same bits, `scalar`
//! differs by rounding (it has no fused multiply-add). Products in whole numbers ([`Compute::Int8`]) have one order of their own, and the
//! same bits on all three.
#![allow(unsafe_code, reason = "vector instructions, and slices that threads share out")]
// Kernels index several arrays of registers by the same number; an iterator over one of them reads worse.
#![allow(clippy::needless_range_loop)]

use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use crate::blocks::BlockType;

mod activations;
pub mod attention;
pub mod basis;
#[cfg(target_arch = "x86_64")]
mod codes;
#[cfg(target_arch = "x86_64")]
mod codes_grid;
pub mod decode;
pub mod element;
mod integer;
mod lanes;
pub mod linear;
pub mod nets;
mod scalar;
pub mod vjp;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use activations::{Compute, round_activations};
pub use attention::{Aggregate, Attention, KvTiles, Observe, SEGMENT, TILE, Window, WithSinks, attend, packed_weight};
pub use decode::decode_rows;
pub use element::{
    Angles, RopeLayout, add, argmax, clamped_swiglu, embed, geglu, rms_norm, rms_norm_in_place, rope, rotate, soft_cap,
    softmax, swiglu,
};
pub use linear::{
    Mat, Product, linear, linear_add, linear_many, linear_many_as, linear_scratch, linear_scratch_as, linear_tasks,
};

/// The instruction set that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and what comes before.
    Avx512,
}

impl Level {
    /// Every level, slowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The name used in `ULLAGE_KERNELS` and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// `c[i·ldc + j] (+)= Σ_k x[i·ldx + k] · w[j·ldw + k]` for `i < m`, `j < n`: adds to `c` if `add`, else overwrites it.
pub(crate) type DotFn = unsafe fn(
    x: *const f32,
    ldx: usize,
    m: usize,
    w: *const f32,
    ldw: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
);

/// As [`DotFn`] with rows `w` of `row_bytes` bytes in stored blocks, `k` being whole blocks, and `m ≤ FUSED_ROWS`; overwrites.
pub(crate) type FusedFn = unsafe fn(
    x: *const f32,
    ldx: usize,
    m: usize,
    w: *const u8,
    row_bytes: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
);

/// Most rows of activations that go through a [`FusedFn`]; with more, decoding a panel once pays.
pub(crate) const FUSED_ROWS: usize = 8;

/// Decodes `n` elements, whole blocks, from `w` into `out`.
pub(crate) type DecodeFn = unsafe fn(w: *const u8, n: usize, out: *mut f32);

/// `c[i·ldc + j] (+)= Σ_k a[i·lda + k·step] · b[k·ldb + j]` for `i < m`, `j < n`, k ascending; a step of 1 is `a · b`, an
/// `lda` of 1 is `aᵀ · b`.
pub(crate) type MulFn = unsafe fn(
    a: *const f32,
    lda: usize,
    step: usize,
    m: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
);

/// `dst[j·TILE + i] = src[i·dim + j]` for `i < n ≤ TILE`, `j < dim`; other elements of a row of `dst` become anything.
pub(crate) type TransposeFn = unsafe fn(src: *const f32, n: usize, dim: usize, dst: *mut f32);

/// The kernels of one instruction set.
pub struct Kernels {
    /// The instruction set that they need.
    pub level: Level,
    pub(crate) dot: DotFn,
    pub(crate) fused: fn(BlockType) -> Option<FusedFn>,
    pub(crate) decode: fn(BlockType) -> Option<DecodeFn>,
    /// Those in whole numbers, which a level may have better ones of on a newer processor.
    pub(crate) integer: fn() -> &'static integer::Integer,
    pub(crate) mul: MulFn,
    pub(crate) transpose: TransposeFn,
    pub(crate) lanes: lanes::Lanes,
}

impl Kernels {
    /// The table of `level`, or `None` where this processor cannot run it.
    pub fn at(level: Level) -> Option<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match level {
                Level::Avx512 if avx512 => return Some(&avx512::KERNELS),
                Level::Avx2 if avx2 => return Some(&avx2::KERNELS),
                _ => {}
            }
        }
        (level == Level::Scalar).then_some(&scalar::KERNELS)
    }

    /// As [`Self::at`], for a test that tries every level: one that is not here is counted as a part that did not run.
    #[cfg(test)]
    pub(crate) fn tried(level: Level) -> Option<&'static Self> {
        let found = Self::at(level);
        if found.is_none() {
            crate::skip::leave_out(format_args!("{level:?}: this processor has no such instructions"));
        }
        found
    }

    /// The best level this processor runs.
    fn best() -> &'static Self {
        Level::ALL.into_iter().rev().find_map(Self::at).unwrap_or(&scalar::KERNELS)
    }
}

/// The table in use, null until it is chosen: asked for hundreds of times a token, which detecting features each time is not.
static CHOSEN: AtomicPtr<Kernels> = AtomicPtr::new(std::ptr::null_mut());

fn choose(kernels: &'static Kernels) -> &'static Kernels {
    CHOSEN.store(std::ptr::from_ref(kernels).cast_mut(), Relaxed);
    kernels
}

/// The kernels in use: the forced level, else `ULLAGE_KERNELS`, else the best this processor runs.
pub fn kernels() -> &'static Kernels {
    // SAFETY: null, or one of the tables, which live as long as the program and never change.
    if let Some(kernels) = unsafe { CHOSEN.load(Relaxed).as_ref() } {
        return kernels;
    }
    let asked = std::env::var("ULLAGE_KERNELS").ok();
    let level = asked.and_then(|name| Level::ALL.into_iter().find(|l| l.as_str() == name));
    choose(level.and_then(Kernels::at).unwrap_or_else(Kernels::best))
}

/// Uses `level` from now on in the whole process, or with `None` chooses anew; returns whether this processor can.
pub fn force(level: Option<Level>) -> bool {
    let Some(level) = level else {
        CHOSEN.store(std::ptr::null_mut(), Relaxed);
        return true;
    };
    Kernels::at(level).map(choose).is_some()
}
