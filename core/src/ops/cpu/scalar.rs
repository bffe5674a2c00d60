//! The scalar level: plain Rust with the same 16-lane sums, for any machine, and the twin the others are tested against.

use super::attention::TILE;
use super::lanes::{WIDTH, fold, lanes};
use super::{Kernels, Level};

/// The scalar table.
pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Scalar,
    dot,
    fused: |_| None,
    decode: |_| None,
    integer: || &super::integer::SCALAR,
    mul,
    transpose,
    lanes: lanes!(false),
};

/// See [`super::DotFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased.
unsafe fn dot(
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
) {
    for i in 0..m {
        for j in 0..n {
            // SAFETY: in bounds by the caller's promise.
            let (x, w) = unsafe {
                (std::slice::from_raw_parts(x.add(i * ldx), k), std::slice::from_raw_parts(w.add(j * ldw), k))
            };
            let mut acc = [0.0f32; WIDTH];
            let (xs, ws) = (x.chunks_exact(WIDTH), w.chunks_exact(WIDTH));
            for (l, (x, w)) in xs.remainder().iter().zip(ws.remainder()).enumerate() {
                acc[l] = x * w;
            }
            let tail = std::mem::replace(&mut acc, [0.0; WIDTH]);
            for (x, w) in xs.zip(ws) {
                for l in 0..WIDTH {
                    acc[l] += x[l] * w[l];
                }
            }
            for l in 0..WIDTH {
                acc[l] += tail[l];
            }
            let sum = fold(acc, |a, b| a + b);
            // SAFETY: as above.
            unsafe {
                let c = c.add(i * ldc + j);
                *c = if add { *c + sum } else { sum };
            }
        }
    }
}

/// See [`super::MulFn`].
///
/// # Safety
/// All elements named there are in bounds, `c` unaliased.
unsafe fn mul(
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
) {
    for i in 0..m {
        // SAFETY: in bounds by the caller's promise.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * ldc), n) };
        if !add {
            c.fill(0.0);
        }
        for p in 0..k {
            // SAFETY: as above.
            let (a, b) = unsafe { (*a.add(i * lda + p * step), std::slice::from_raw_parts(b.add(p * ldb), n)) };
            for (c, b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
}

/// See [`super::TransposeFn`].
///
/// # Safety
/// `src` is `(n, dim)` and `dst` `(dim, TILE)`.
unsafe fn transpose(src: *const f32, n: usize, dim: usize, dst: *mut f32) {
    for i in 0..n {
        for j in 0..dim {
            // SAFETY: in bounds by the caller's promise.
            unsafe { *dst.add(j * TILE + i) = *src.add(i * dim + j) };
        }
    }
}
