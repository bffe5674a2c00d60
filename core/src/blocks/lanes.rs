//! Loops over the elements of a block in forms that the compiler vectorises.
//!
//! Sums run in eight lanes: the order of additions is fixed, the same on every machine.

const LANES: usize = 8;

/// `f` of every element. `array::map` is a call that keeps its caller's loop from being vectorised.
#[inline(always)]
pub fn each<const N: usize, T: Copy + Default>(x: &[f32; N], f: impl Fn(f32) -> T) -> [T; N] {
    let mut out = [T::default(); N];
    for (out, x) in out.iter_mut().zip(x) {
        *out = f(*x);
    }
    out
}

/// The `K` sums over pairs of `x` and `w` of the terms that `f` makes of a pair. `N` is a multiple of eight.
#[inline(always)]
pub fn sums<const K: usize, const N: usize>(x: &[f32; N], w: &[f32; N], f: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
    // All terms first, then all sums: one loop of each kind is what the compiler vectorises.
    let mut terms = [[0.0f32; N]; K];
    for i in 0..N {
        let term = f(x[i], w[i]);
        for k in 0..K {
            terms[k][i] = term[k];
        }
    }
    let mut sums = [0.0; K];
    for k in 0..K {
        let mut lanes = [0.0f32; LANES];
        for terms in terms[k].as_chunks::<LANES>().0 {
            for l in 0..LANES {
                lanes[l] += terms[l];
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        sums[k] = ((a + e) + (c + g)) + ((b + f) + (d + h));
    }
    sums
}
