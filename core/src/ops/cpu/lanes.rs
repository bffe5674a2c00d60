//! Element operations written once, 16 lanes at a time, and compiled once per level by the compiler's own vectorizer.
//!
//! `FMA` says whether a multiply-add is one instruction: without it `mul_add` would be a slow library call. The levels that
//! have it give the same bits as each other.

/// Elements that go side by side; lane `l` holds elements `l`, `l + 16`, …
pub(crate) const WIDTH: usize = 16;

type V = [f32; WIDTH];

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Folds 16 lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1, the order of every sum here.
#[inline(always)]
pub(crate) fn fold(mut v: V, op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = WIDTH / 2;
    while half > 0 {
        for l in 0..half {
            v[l] = op(v[l], v[l + half]);
        }
        half /= 2;
    }
    v[0]
}

#[inline(always)]
fn load(x: &[f32], fill: f32) -> V {
    let mut v = [fill; WIDTH];
    v[..x.len()].copy_from_slice(x);
    v
}

/// eˣ for x ≤ 88.7, 0 below −87.3; within 2 ulp between. Cephes' range reduction and polynomial.
#[inline(always)]
fn exp1<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to the nearest integer, which then lies in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -0.693_359_4, clamped);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 5e-1);
    p = fma::<FMA>(p, r * r, r + 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// Functions of one level; each has a safe wrapper where the level is known to run.
pub(crate) struct Lanes {
    /// The largest element, −∞ of none.
    pub max: unsafe fn(s: &[f32]) -> f32,
    /// `s` ← `exp(s − max)`; returns the sum.
    pub exp_sum: unsafe fn(s: &mut [f32], max: f32) -> f32,
    /// `x` ← `x · by`.
    pub scale: unsafe fn(x: &mut [f32], by: f32),
    /// `x` ← `x · a + y · b`.
    pub blend: unsafe fn(x: &mut [f32], a: f32, y: &[f32], b: f32),
    /// `Σ x²`.
    pub squared_norm: unsafe fn(x: &[f32]) -> f32,
    /// `y` ← `x · by · w`.
    pub weighted: unsafe fn(x: &[f32], by: f32, w: &[f32], y: &mut [f32]),
    /// `gate` ← `gate / (1 + exp(−gate)) · up`.
    pub swiglu: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// `gate` ← `gelu(gate) · up`, gelu by its tanh approximation.
    pub geglu: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// In place on gate: of both clamped.
    pub clamped_swiglu: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// `x` ← `x + y`.
    pub add: unsafe fn(x: &mut [f32], y: &[f32]),
    /// Rotates pairs `(x[2i], x[2i + 1])` by the angles of `cos[i]`, `sin[i]`.
    pub rotate_pairs: unsafe fn(x: &mut [f32], cos: &[f32], sin: &[f32]),
    /// As [`Self::rotate_pairs`], by the opposite angles.
    pub rotate_pairs_back: unsafe fn(x: &mut [f32], cos: &[f32], sin: &[f32]),
    /// Rotates pairs `(a[i], b[i])` by the angles of `cos[i]`, `sin[i]`.
    pub rotate: unsafe fn(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]),
    /// `Σ x · y`.
    pub dot: unsafe fn(x: &[f32], y: &[f32]) -> f32,
    /// `y` ← `y + a · x`.
    pub axpy: unsafe fn(a: f32, x: &[f32], y: &mut [f32]),
    /// `dx` ← `dx + a · dy · w + b · x`.
    pub norm_vjp: unsafe fn(dy: &[f32], w: &[f32], x: &[f32], a: f32, b: f32, dx: &mut [f32]),
    /// `Σ dy · w · x`.
    pub weighted_dot: unsafe fn(dy: &[f32], w: &[f32], x: &[f32]) -> f32,
    /// `z` ← `z + by · x · y`.
    pub weighted_add: unsafe fn(by: f32, x: &[f32], y: &[f32], z: &mut [f32]),
    /// `p` ← `g / (1 + exp(−g)) · u`.
    pub swiglu_to: unsafe fn(g: &[f32], u: &[f32], p: &mut [f32]),
    /// `u` ← `dp · g σ(g)`, `g` ← `dp · u σ(g) (1 + g (1 − σ(g)))`.
    pub swiglu_vjp: unsafe fn(dp: &[f32], g: &mut [f32], u: &mut [f32]),
    /// `p` ← `gelu(g) · u`.
    pub geglu_to: unsafe fn(g: &[f32], u: &[f32], p: &mut [f32]),
    /// `u` ← `dp · gelu(g)`, `g` ← `dp · u · gelu'(g)`.
    pub geglu_vjp: unsafe fn(dp: &[f32], g: &mut [f32], u: &mut [f32]),
    /// `p` ← `p · (dp − d) · by`.
    pub scores_vjp: unsafe fn(p: &mut [f32], dp: &[f32], d: f32, by: f32),
    /// `p` ← `p · (dp − d) · by`, each with its own `d`.
    pub scores_vjp_each: unsafe fn(p: &mut [f32], dp: &[f32], d: &[f32], by: f32),
    /// `s` ← `s · by − y`.
    pub sub_scaled: unsafe fn(s: &mut [f32], by: f32, y: &[f32]),
}

#[inline(always)]
pub(crate) fn max(s: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut max = [f32::NEG_INFINITY; WIDTH];
    let chunks = s.chunks_exact(WIDTH);
    let rest = load(chunks.remainder(), f32::NEG_INFINITY);
    for chunk in chunks {
        for l in 0..WIDTH {
            max[l] = larger(max[l], chunk[l]);
        }
    }
    for l in 0..WIDTH {
        max[l] = larger(max[l], rest[l]);
    }
    fold(max, larger)
}

#[inline(always)]
pub(crate) fn exp_sum<const FMA: bool>(s: &mut [f32], max: f32) -> f32 {
    let mut sum = [0.0; WIDTH];
    let mut chunks = s.chunks_exact_mut(WIDTH);
    for chunk in &mut chunks {
        for l in 0..WIDTH {
            chunk[l] = exp1::<FMA>(chunk[l] - max);
            sum[l] += chunk[l];
        }
    }
    let rest = chunks.into_remainder();
    let mut v = load(rest, f32::NEG_INFINITY);
    for l in 0..WIDTH {
        v[l] = exp1::<FMA>(v[l] - max);
        sum[l] += v[l];
    }
    rest.copy_from_slice(&v[..rest.len()]);
    fold(sum, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn scale(x: &mut [f32], by: f32) {
    for x in x {
        *x *= by;
    }
}

#[inline(always)]
pub(crate) fn blend<const FMA: bool>(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = fma::<FMA>(*y, b, *x * a);
    }
}

#[inline(always)]
pub(crate) fn squared_norm<const FMA: bool>(x: &[f32]) -> f32 {
    let mut sum = [0.0; WIDTH];
    let chunks = x.chunks_exact(WIDTH);
    let rest = load(chunks.remainder(), 0.0);
    for chunk in chunks {
        for l in 0..WIDTH {
            sum[l] = fma::<FMA>(chunk[l], chunk[l], sum[l]);
        }
    }
    for l in 0..WIDTH {
        sum[l] = fma::<FMA>(rest[l], rest[l], sum[l]);
    }
    fold(sum, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn weighted(x: &[f32], by: f32, w: &[f32], y: &mut [f32]) {
    for ((x, w), y) in x.iter().zip(w).zip(y) {
        *y = x * by * w;
    }
}

#[inline(always)]
pub(crate) fn swiglu<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp1::<FMA>(-*g)) * u;
    }
}

/// σ(2t), t = √(2/π) (x + 0.044715 x³): gelu's tanh approximation is `x · σ(2t)`, as ½ (1 + tanh t) = σ(2t).
#[inline(always)]
fn gelu_gate<const FMA: bool>(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    let t = TWICE_ROOT * x * fma::<FMA>(0.044_715 * x, x, 1.0);
    1.0 / (1.0 + exp1::<FMA>(-t))
}

#[inline(always)]
pub(crate) fn geglu<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g * gelu_gate::<FMA>(*g) * u;
    }
}

/// [`crate::shape::Act::ClampedSwiglu`].
#[inline(always)]
pub(crate) fn clamped_swiglu<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    const STEEP: f32 = 1.702;
    const MOST: f32 = 7.0;
    for (g, u) in gate.iter_mut().zip(up) {
        // Comparisons that are false of NaN, so that it passes on.
        let x = if *g > MOST { MOST } else { *g };
        let u = if *u > MOST { MOST } else { *u };
        let u = if u < -MOST { -MOST } else { u };
        *g = x / (1.0 + exp1::<FMA>(-STEEP * x)) * (u + 1.0);
    }
}

#[inline(always)]
pub(crate) fn geglu_to<const FMA: bool>(g: &[f32], u: &[f32], p: &mut [f32]) {
    for ((g, u), p) in g.iter().zip(u).zip(p) {
        *p = *g * gelu_gate::<FMA>(*g) * u;
    }
}

#[inline(always)]
pub(crate) fn geglu_vjp<const FMA: bool>(dp: &[f32], g: &mut [f32], u: &mut [f32]) {
    for ((dp, g), u) in dp.iter().zip(g).zip(u) {
        let s = gelu_gate::<FMA>(*g);
        // d(2t)/dx = 2 √(2/π) (1 + 3 · 0.044715 x²).
        let slope = 1.595_769 * fma::<FMA>(0.134_145 * *g, *g, 1.0);
        let dg = dp * *u * s * fma::<FMA>(*g * slope, 1.0 - s, 1.0);
        *u = dp * *g * s;
        *g = dg;
    }
}

#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
pub(crate) fn rotate<const FMA: bool>(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
        (*a, *b) = (fma::<FMA>(*a, *cos, -(*b * sin)), fma::<FMA>(*a, *sin, *b * cos));
    }
}

#[inline(always)]
pub(crate) fn rotate_pairs<const FMA: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ([a, b], (cos, sin)) in x.as_chunks_mut().0.iter_mut().zip(cos.iter().zip(sin)) {
        (*a, *b) = (fma::<FMA>(*a, *cos, -(*b * sin)), fma::<FMA>(*a, *sin, *b * cos));
    }
}

#[inline(always)]
pub(crate) fn dot<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let mut sum = [0.0; WIDTH];
    let (xs, ys) = (x.chunks_exact(WIDTH), y.chunks_exact(WIDTH));
    let (rest_x, rest_y) = (load(xs.remainder(), 0.0), load(ys.remainder(), 0.0));
    for (x, y) in xs.zip(ys) {
        for l in 0..WIDTH {
            sum[l] = fma::<FMA>(x[l], y[l], sum[l]);
        }
    }
    for l in 0..WIDTH {
        sum[l] = fma::<FMA>(rest_x[l], rest_y[l], sum[l]);
    }
    fold(sum, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn weighted_dot<const FMA: bool>(dy: &[f32], w: &[f32], x: &[f32]) -> f32 {
    let mut sum = [0.0; WIDTH];
    let (ds, ws, xs) = (dy.chunks_exact(WIDTH), w.chunks_exact(WIDTH), x.chunks_exact(WIDTH));
    let rest = (load(ds.remainder(), 0.0), load(ws.remainder(), 0.0), load(xs.remainder(), 0.0));
    for ((d, w), x) in ds.zip(ws).zip(xs) {
        for l in 0..WIDTH {
            sum[l] = fma::<FMA>(d[l] * w[l], x[l], sum[l]);
        }
    }
    for l in 0..WIDTH {
        sum[l] = fma::<FMA>(rest.0[l] * rest.1[l], rest.2[l], sum[l]);
    }
    fold(sum, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn axpy<const FMA: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.iter().zip(y) {
        *y = fma::<FMA>(a, *x, *y);
    }
}

#[inline(always)]
pub(crate) fn norm_vjp<const FMA: bool>(dy: &[f32], w: &[f32], x: &[f32], a: f32, b: f32, dx: &mut [f32]) {
    for (((dy, w), x), dx) in dy.iter().zip(w).zip(x).zip(dx) {
        *dx += fma::<FMA>(a, dy * w, b * x);
    }
}

#[inline(always)]
pub(crate) fn weighted_add<const FMA: bool>(by: f32, x: &[f32], y: &[f32], z: &mut [f32]) {
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        *z = fma::<FMA>(x * by, *y, *z);
    }
}

#[inline(always)]
pub(crate) fn swiglu_to<const FMA: bool>(g: &[f32], u: &[f32], p: &mut [f32]) {
    for ((g, u), p) in g.iter().zip(u).zip(p) {
        *p = *g / (1.0 + exp1::<FMA>(-*g)) * u;
    }
}

#[inline(always)]
pub(crate) fn swiglu_vjp<const FMA: bool>(dp: &[f32], g: &mut [f32], u: &mut [f32]) {
    for ((dp, g), u) in dp.iter().zip(g).zip(u) {
        let s = 1.0 / (1.0 + exp1::<FMA>(-*g));
        let dg = dp * *u * s * fma::<FMA>(*g, 1.0 - s, 1.0);
        *u = dp * *g * s;
        *g = dg;
    }
}

#[inline(always)]
pub(crate) fn scores_vjp<const FMA: bool>(p: &mut [f32], dp: &[f32], d: f32, by: f32) {
    for (p, dp) in p.iter_mut().zip(dp) {
        *p *= (dp - d) * by;
    }
}

#[inline(always)]
pub(crate) fn scores_vjp_each<const FMA: bool>(p: &mut [f32], dp: &[f32], d: &[f32], by: f32) {
    for ((p, dp), d) in p.iter_mut().zip(dp).zip(d) {
        *p *= (dp - d) * by;
    }
}

#[inline(always)]
pub(crate) fn sub_scaled<const FMA: bool>(s: &mut [f32], by: f32, y: &[f32]) {
    for (s, y) in s.iter_mut().zip(y) {
        *s = fma::<FMA>(*s, by, -*y);
    }
}

#[inline(always)]
pub(crate) fn rotate_pairs_back<const FMA: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ([a, b], (cos, sin)) in x.as_chunks_mut().0.iter_mut().zip(cos.iter().zip(sin)) {
        (*a, *b) = (fma::<FMA>(*a, *cos, *b * sin), fma::<FMA>(*b, *cos, -(*a * sin)));
    }
}

/// The [`Lanes`] of one level: each function compiled with the level's instructions.
macro_rules! lanes {
    ($fma:literal $(, #[$feature:meta])?) => {{
        use $crate::ops::cpu::lanes;
        $(#[$feature])?
        unsafe fn max(s: &[f32]) -> f32 {
            lanes::max(s)
        }
        $(#[$feature])?
        unsafe fn exp_sum(s: &mut [f32], max: f32) -> f32 {
            lanes::exp_sum::<$fma>(s, max)
        }
        $(#[$feature])?
        unsafe fn scale(x: &mut [f32], by: f32) {
            lanes::scale(x, by)
        }
        $(#[$feature])?
        unsafe fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
            lanes::blend::<$fma>(x, a, y, b)
        }
        $(#[$feature])?
        unsafe fn squared_norm(x: &[f32]) -> f32 {
            lanes::squared_norm::<$fma>(x)
        }
        $(#[$feature])?
        unsafe fn weighted(x: &[f32], by: f32, w: &[f32], y: &mut [f32]) {
            lanes::weighted(x, by, w, y)
        }
        $(#[$feature])?
        unsafe fn swiglu(gate: &mut [f32], up: &[f32]) {
            lanes::swiglu::<$fma>(gate, up)
        }
        $(#[$feature])?
        unsafe fn geglu(gate: &mut [f32], up: &[f32]) {
            lanes::geglu::<$fma>(gate, up)
        }
        $(#[$feature])?
        unsafe fn clamped_swiglu(gate: &mut [f32], up: &[f32]) {
            lanes::clamped_swiglu::<$fma>(gate, up)
        }
        $(#[$feature])?
        unsafe fn geglu_to(g: &[f32], u: &[f32], p: &mut [f32])  {
            lanes::geglu_to::<$fma>(g, u, p)
        }
        $(#[$feature])?
        unsafe fn geglu_vjp(dp: &[f32], g: &mut [f32], u: &mut [f32])  {
            lanes::geglu_vjp::<$fma>(dp, g, u)
        }
        $(#[$feature])?
        unsafe fn add(x: &mut [f32], y: &[f32]) {
            lanes::add(x, y)
        }
        $(#[$feature])?
        unsafe fn rotate(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
            lanes::rotate::<$fma>(a, b, cos, sin)
        }
        $(#[$feature])?
        unsafe fn rotate_pairs(x: &mut [f32], cos: &[f32], sin: &[f32]) {
            lanes::rotate_pairs::<$fma>(x, cos, sin)
        }
        $(#[$feature])?
        unsafe fn rotate_pairs_back(x: &mut [f32], cos: &[f32], sin: &[f32]) {
            lanes::rotate_pairs_back::<$fma>(x, cos, sin)
        }
        $(#[$feature])?
        unsafe fn dot(x: &[f32], y: &[f32]) -> f32 {
            lanes::dot::<$fma>(x, y)
        }
        $(#[$feature])?
        unsafe fn axpy(a: f32, x: &[f32], y: &mut [f32])  {
            lanes::axpy::<$fma>(a, x, y)
        }
        $(#[$feature])?
        unsafe fn norm_vjp(dy: &[f32], w: &[f32], x: &[f32], a: f32, b: f32, dx: &mut [f32])  {
            lanes::norm_vjp::<$fma>(dy, w, x, a, b, dx)
        }
        $(#[$feature])?
        unsafe fn weighted_dot(dy: &[f32], w: &[f32], x: &[f32]) -> f32 {
            lanes::weighted_dot::<$fma>(dy, w, x)
        }
        $(#[$feature])?
        unsafe fn weighted_add(by: f32, x: &[f32], y: &[f32], z: &mut [f32])  {
            lanes::weighted_add::<$fma>(by, x, y, z)
        }
        $(#[$feature])?
        unsafe fn swiglu_to(g: &[f32], u: &[f32], p: &mut [f32])  {
            lanes::swiglu_to::<$fma>(g, u, p)
        }
        $(#[$feature])?
        unsafe fn swiglu_vjp(dp: &[f32], g: &mut [f32], u: &mut [f32])  {
            lanes::swiglu_vjp::<$fma>(dp, g, u)
        }
        $(#[$feature])?
        unsafe fn scores_vjp(p: &mut [f32], dp: &[f32], d: f32, by: f32)  {
            lanes::scores_vjp::<$fma>(p, dp, d, by)
        }
        $(#[$feature])?
        unsafe fn scores_vjp_each(p: &mut [f32], dp: &[f32], d: &[f32], by: f32)  {
            lanes::scores_vjp_each::<$fma>(p, dp, d, by)
        }
        $(#[$feature])?
        unsafe fn sub_scaled(s: &mut [f32], by: f32, y: &[f32])  {
            lanes::sub_scaled::<$fma>(s, by, y)
        }
        lanes::Lanes { max, exp_sum, scale, blend, squared_norm, weighted, swiglu, geglu, clamped_swiglu, add, rotate, rotate_pairs, rotate_pairs_back, dot, axpy, norm_vjp, weighted_dot, weighted_add, swiglu_to, swiglu_vjp, geglu_to, geglu_vjp, scores_vjp, scores_vjp_each, sub_scaled }
    }};
}
pub(crate) use lanes;
