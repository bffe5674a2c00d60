//! Backward of the operations on rows: norm, gate, embedding, bias; and sums of squares.

use super::check;
use crate::Result;
use crate::ops::cpu::{Angles, RopeLayout, kernels};
use crate::ops::descriptors::Mask;
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::rng::Philox;

/// Elements of a task, about.
const RUN: usize = 16 << 10;
/// Partial sums of [`squared_norm`] at most.
const PARTS: usize = 1024;

/// Runs `each(first, n)` over runs of `n ≤ RUN` elements.
fn runs(team: &ThreadTeam, len: usize, each: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
    team.run(len.div_ceil(RUN), &|task, _| each(task * RUN, RUN.min(len - task * RUN)))?;
    Ok(())
}

/// Runs `each(first, n)` over rows of `width` elements, several a task.
fn row_runs(team: &ThreadTeam, rows: usize, width: usize, each: &(dyn Fn(usize) + Sync)) -> Result<()> {
    let n = (RUN / width.max(1)).max(1);
    team.run(rows.div_ceil(n), &|task, _| (task * n..rows.min((task + 1) * n)).for_each(each))?;
    Ok(())
}

/// Elements of scratch that [`rms_norm_vjp`] needs for `m` rows.
pub const fn rms_norm_vjp_scratch(m: usize) -> usize {
    m
}

/// `dx += ρ (dy ⊙ w) − x ρ³ / cols · ⟨dy ⊙ w, x⟩` for each row of `x, dy (m, cols)`, `w (cols)`, with
/// `ρ = (mean x² + eps)^−½`; and where wanted `dw (+)= Σ dy ⊙ x ρ`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or scratch is short.
pub fn rms_norm_vjp(
    team: &ThreadTeam,
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    m: usize,
    eps: f32,
    dx: &mut [f32],
    dw: Option<(&mut [f32], bool)>,
    scratch: &mut [f32],
) -> Result<()> {
    let cols = w.len();
    let long = |n: usize| n >= m * cols;
    let fits = long(dy.len()) && long(x.len()) && long(dx.len()) && dw.as_ref().is_none_or(|(d, _)| d.len() >= cols);
    check("rms norm vjp", fits && scratch.len() >= rms_norm_vjp_scratch(m), || {
        format!("{}, {} and {} elements for {m} × {cols}", dy.len(), x.len(), dx.len())
    })?;
    let lanes = &kernels().lanes;
    let (dx, rho) = (SharedMut::new(dx), SharedMut::new(scratch));
    row_runs(team, m, cols, &|i| {
        let (dy, x) = (&dy[i * cols..][..cols], &x[i * cols..][..cols]);
        // SAFETY: the table's level runs here; each row is one task's.
        unsafe {
            let r = 1.0 / ((lanes.squared_norm)(x) / cols as f32 + eps).sqrt();
            let along = (lanes.weighted_dot)(dy, w, x) / cols as f32;
            (lanes.norm_vjp)(dy, w, x, r, -r * r * r * along, dx.slice(i * cols, cols));
            rho.slice(i, 1)[0] = r;
        }
    })?;
    let Some((dw, add)) = dw else { return Ok(()) };
    let dw = SharedMut::new(dw);
    // By columns, so that each sum is one task's, in order of rows.
    let wide = 64;
    team.run(cols.div_ceil(wide), &|task, _| {
        let (at, n) = (task * wide, wide.min(cols - task * wide));
        // SAFETY: each run of columns is one task's; nobody writes the roots any more.
        let (dw, rho) = unsafe { (dw.slice(at, n), rho.read(0, m)) };
        if !add {
            dw.fill(0.0);
        }
        for i in 0..m {
            // SAFETY: the table's level runs here.
            unsafe { (lanes.weighted_add)(rho[i], &x[i * cols + at..][..n], &dy[i * cols + at..][..n], dw) };
        }
    })?;
    Ok(())
}

/// `y (+)= mask ⊙ x / (1 − rate)`, elementwise: dropout that keeps the expectation, and its own vector–Jacobian product.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn dropout(team: &ThreadTeam, x: &[f32], mask: Mask, y: &mut [f32], add: bool) -> Result<()> {
    check("dropout", x.len() == y.len(), || format!("{} and {} elements", x.len(), y.len()))?;
    let (random, threshold, scale) = (Philox::new(mask.seed).stream(mask.stream), mask.threshold(), mask.scale());
    let y = SharedMut::new(y);
    runs(team, x.len(), &|first, n| {
        // SAFETY: each run of elements is one task's.
        let y = unsafe { y.slice(first, n) };
        // Runs begin at a block of four.
        for (i, (x, y)) in x[first..first + n].chunks(4).zip(y.chunks_mut(4)).enumerate() {
            let words = random.block((first / 4 + i) as u64);
            for ((x, y), word) in x.iter().zip(y).zip(words) {
                let kept = if word < threshold { 0.0 } else { scale * x };
                *y = if add { *y + kept } else { kept };
            }
        }
    })
}

/// `db (rows) (+)= Σ_i dy (m, rows)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn bias_vjp(team: &ThreadTeam, dy: &[f32], m: usize, rows: usize, db: &mut [f32], add: bool) -> Result<()> {
    check("bias vjp", dy.len() >= m * rows && db.len() >= rows, || format!("{} and {}", dy.len(), db.len()))?;
    let lanes = &kernels().lanes;
    let db = SharedMut::new(db);
    let wide = 64;
    team.run(rows.div_ceil(wide), &|task, _| {
        let (at, n) = (task * wide, wide.min(rows - task * wide));
        // SAFETY: each run of columns is one task's.
        let db = unsafe { db.slice(at, n) };
        if !add {
            db.fill(0.0);
        }
        for i in 0..m {
            // SAFETY: the table's level runs here.
            unsafe { (lanes.add)(db, &dy[i * rows + at..][..n]) };
        }
    })?;
    Ok(())
}

/// Row `ids[i]` of `d (rows, cols)` += row `i` of `dy (m, cols)`, in order of `i`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or an id has no row.
pub fn embed_vjp(team: &ThreadTeam, dy: &[f32], ids: &[u32], rows: usize, cols: usize, d: &mut [f32]) -> Result<()> {
    let fits = dy.len() >= ids.len() * cols && d.len() >= rows * cols && ids.iter().all(|i| (*i as usize) < rows);
    check("embedding vjp", fits, || format!("{} gradients of {} ids in {rows} rows", dy.len(), ids.len()))?;
    let lanes = &kernels().lanes;
    let d = SharedMut::new(d);
    let wide = 64;
    team.run(cols.div_ceil(wide), &|task, _| {
        let (at, n) = (task * wide, wide.min(cols - task * wide));
        for (i, id) in ids.iter().enumerate() {
            // SAFETY: each run of columns is one task's; the table's level runs here.
            unsafe { (lanes.add)(d.slice(*id as usize * cols + at, n), &dy[i * cols + at..][..n]) };
        }
    })?;
    Ok(())
}

/// Row `i` of `y` ← row `ids[i]` of `x (…, cols)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or an id has no row.
pub fn gather(team: &ThreadTeam, x: &[f32], ids: &[u32], cols: usize, y: &mut [f32]) -> Result<()> {
    let fits = y.len() >= ids.len() * cols && ids.iter().all(|i| (*i as usize + 1) * cols <= x.len());
    check("gather", fits, || format!("{} ids, {} into {} elements", ids.len(), x.len(), y.len()))?;
    let y = SharedMut::new(y);
    row_runs(team, ids.len(), cols, &|i| {
        // SAFETY: each row is one task's.
        unsafe { y.slice(i * cols, cols) }.copy_from_slice(&x[ids[i] as usize * cols..][..cols]);
    })
}

/// Row `ids[i]` of `y (…, cols)` ← row `i` of `x`; ids rise.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ, an id has no row, or ids do not rise.
pub fn scatter(team: &ThreadTeam, x: &[f32], ids: &[u32], cols: usize, y: &mut [f32]) -> Result<()> {
    let fits = x.len() >= ids.len() * cols && ids.iter().all(|i| (*i as usize + 1) * cols <= y.len());
    check("scatter", fits && ids.is_sorted_by(|a, b| a < b), || format!("{} ids into {}", ids.len(), y.len()))?;
    let y = SharedMut::new(y);
    row_runs(team, ids.len(), cols, &|i| {
        // SAFETY: ids rise, so each row is one task's.
        unsafe { y.slice(ids[i] as usize * cols, cols) }.copy_from_slice(&x[i * cols..][..cols]);
    })
}

/// `p = g · σ(g) · u`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn swiglu_to(team: &ThreadTeam, g: &[f32], u: &[f32], p: &mut [f32]) -> Result<()> {
    check("swiglu", g.len() == u.len() && g.len() == p.len(), || format!("{}, {}, {}", g.len(), u.len(), p.len()))?;
    let (lanes, n, p) = (&kernels().lanes, g.len(), SharedMut::new(p));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.swiglu_to)(&g[at..at + n], &u[at..at + n], p.slice(at, n)) })
}

/// In place: `u ← dp · g σ(g)`, `g ← dp · u σ(g) (1 + g (1 − σ(g)))`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn swiglu_vjp(team: &ThreadTeam, dp: &[f32], g: &mut [f32], u: &mut [f32]) -> Result<()> {
    check("swiglu", g.len() == u.len() && g.len() == dp.len(), || format!("{}, {}, {}", dp.len(), g.len(), u.len()))?;
    let (lanes, n, g, u) = (&kernels().lanes, dp.len(), SharedMut::new(g), SharedMut::new(u));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.swiglu_vjp)(&dp[at..at + n], g.slice(at, n), u.slice(at, n)) })
}

/// `p = gelu(g) · u`, gelu by its tanh approximation.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn geglu_to(team: &ThreadTeam, g: &[f32], u: &[f32], p: &mut [f32]) -> Result<()> {
    check("geglu", g.len() == u.len() && g.len() == p.len(), || format!("{}, {}, {}", g.len(), u.len(), p.len()))?;
    let (lanes, n, p) = (&kernels().lanes, g.len(), SharedMut::new(p));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.geglu_to)(&g[at..at + n], &u[at..at + n], p.slice(at, n)) })
}

/// In place: `u ← dp · gelu(g)`, `g ← dp · u · gelu'(g)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn geglu_vjp(team: &ThreadTeam, dp: &[f32], g: &mut [f32], u: &mut [f32]) -> Result<()> {
    check("geglu", g.len() == u.len() && g.len() == dp.len(), || format!("{}, {}, {}", dp.len(), g.len(), u.len()))?;
    let (lanes, n, g, u) = (&kernels().lanes, dp.len(), SharedMut::new(g), SharedMut::new(u));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.geglu_vjp)(&dp[at..at + n], g.slice(at, n), u.slice(at, n)) })
}

/// `y ← a · y`.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn scale(team: &ThreadTeam, y: &mut [f32], a: f32) -> Result<()> {
    let (lanes, n, y) = (&kernels().lanes, y.len(), SharedMut::new(y));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.scale)(y.slice(at, n), a) })
}

/// Elements of scratch that [`squared_norm`] needs.
pub const fn square_sum_scratch() -> usize {
    PARTS
}

/// `Σ x²`: sums of equal runs, whose length depends on that of `x` alone, added in order in f64.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when scratch is short.
pub fn squared_norm(team: &ThreadTeam, x: &[f32], scratch: &mut [f32]) -> Result<f64> {
    check("square sum", scratch.len() >= PARTS, || format!("{} of scratch", scratch.len()))?;
    let run = x.len().div_ceil(PARTS).max(RUN).next_multiple_of(1 << 10);
    let n = x.len().div_ceil(run);
    let lanes = &kernels().lanes;
    {
        let parts = SharedMut::new(scratch);
        team.run(n, &|task, _| {
            let mut sum = 0.0f64;
            for x in x[task * run..x.len().min((task + 1) * run)].chunks(1 << 10) {
                // SAFETY: the table's level runs here.
                sum += f64::from(unsafe { (lanes.squared_norm)(x) });
            }
            // SAFETY: each part is one task's.
            unsafe { parts.slice(task, 1)[0] = sum as f32 };
        })?;
    }
    Ok(scratch[..n].iter().map(|s| f64::from(*s)).sum())
}

/// `y ← y + a · x`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn axpy(team: &ThreadTeam, a: f32, x: &[f32], y: &mut [f32]) -> Result<()> {
    check("axpy", x.len() == y.len(), || format!("{} and {}", x.len(), y.len()))?;
    let (lanes, n, y) = (&kernels().lanes, y.len(), SharedMut::new(y));
    // SAFETY: each run is one task's; the table's level runs here.
    runs(team, n, &|at, n| unsafe { (lanes.axpy)(a, &x[at..at + n], y.slice(at, n)) })
}

/// Each row of `y (…, rows)` += `bias (rows)`.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn bias(team: &ThreadTeam, bias: &[f32], y: &mut [f32]) -> Result<()> {
    let width = bias.len();
    check("bias", width > 0 && y.len().is_multiple_of(width), || format!("{width} in {}", y.len()))?;
    let (lanes, m, y) = (&kernels().lanes, y.len() / width, SharedMut::new(y));
    // SAFETY: each row is one task's; the table's level runs here.
    row_runs(team, m, width, &|i| unsafe { (lanes.add)(y.slice(i * width, width), bias) })
}

/// The vector–Jacobian product of [`crate::ops::cpu::rope`]: rotates by the opposite angles.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ or a position has no angles.
pub fn rope_back(
    team: &ThreadTeam,
    x: &mut [f32],
    dim: usize,
    pairs: RopeLayout,
    angles: Angles<'_>,
    positions: &[u32],
) -> Result<()> {
    let Angles { cos, sin, half } = angles;
    let width = x.len() / positions.len().max(1);
    let known = cos.len().min(sin.len()).checked_div(half).unwrap_or(usize::MAX);
    let fits = dim > 0 && 2 * half <= dim && x.len() == width / dim * dim * positions.len();
    check("rope vjp", fits && positions.iter().all(|p| (*p as usize) < known), || {
        format!("{} elements of {} positions, angles of {known}", x.len(), positions.len())
    })?;
    let (lanes, x) = (&kernels().lanes, SharedMut::new(x));
    row_runs(team, positions.len(), width, &|i| {
        let at = positions[i] as usize * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        // SAFETY: each row is one task's.
        for head in unsafe { x.slice(i * width, width) }.chunks_exact_mut(dim) {
            // SAFETY: the table's level runs here.
            unsafe {
                match pairs {
                    // Turning the pair (b, a) forward is turning (a, b) back.
                    RopeLayout::Halves => {
                        let (a, b) = head[..2 * half].split_at_mut(half);
                        (lanes.rotate)(b, a, cos, sin);
                    }
                    RopeLayout::Interleaved => (lanes.rotate_pairs_back)(&mut head[..2 * half], cos, sin),
                }
            }
        }
    })
}
