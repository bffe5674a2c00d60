//! What small nets need beside the operations of a transformer: batched products, reductions of rows, and convolution by
//! im2col.

use crate::ops::cpu::kernels;
use crate::ops::descriptors::{Batched, Reduction, Window};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Output elements of a task, about.
const RUN: usize = 16 << 10;

fn check(what: &str, ok: bool) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Internal(format!("{what}: operands do not fit"))) }
}

/// `c (batch, m, n) (+)= a · b`, matrix by matrix; `a (batch, m, k)` or turned `(batch, k, m)`, `b (batch, k, n)` or turned
/// `(batch, n, k)`, not both turned.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn batched_product(team: &ThreadTeam, a: &[f32], b: &[f32], of: Batched, c: &mut [f32], add: bool) -> Result<()> {
    let Batched { batch, m, n, k, a_turned, b_turned } = of;
    let fits = a.len() >= batch * m * k && b.len() >= batch * k * n && c.len() >= batch * m * n;
    check("batched product", fits && !(a_turned && b_turned))?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let (kernels, c) = (kernels(), SharedMut::new(c));
    team.run(batch, &|i, _| {
        let (a, b) = (&a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
        // SAFETY: each matrix of `c` is one task's.
        let c = unsafe { c.slice(i * m * n, m * n) };
        if k == 0 {
            if !add {
                c.fill(0.0);
            }
            return;
        }
        // SAFETY: the table's level runs here; rows and columns lie in the slices, whose lengths were checked.
        unsafe {
            if b_turned {
                (kernels.dot)(a.as_ptr(), k, m, b.as_ptr(), k, n, k, c.as_mut_ptr(), n, add);
            } else {
                let (lda, step) = if a_turned { (1, m) } else { (k, 1) };
                (kernels.mul)(a.as_ptr(), lda, step, m, b.as_ptr(), n, n, k, c.as_mut_ptr(), n, add);
            }
        }
    })?;
    Ok(())
}

/// `y (rows) ←` the sum, mean or maximum of each row of `x (rows, cols)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn reduce(team: &ThreadTeam, x: &[f32], rows: usize, cols: usize, how: Reduction, y: &mut [f32]) -> Result<()> {
    check("reduction", x.len() >= rows * cols && y.len() >= rows && cols > 0)?;
    let (lanes, y) = (&kernels().lanes, SharedMut::new(y));
    let high = (RUN / cols).max(1);
    team.run(rows.div_ceil(high), &|task, _| {
        for i in task * high..rows.min((task + 1) * high) {
            let row = &x[i * cols..][..cols];
            let value = match how {
                Reduction::Sum => row.iter().sum(),
                Reduction::Mean => row.iter().sum::<f32>() / cols as f32,
                // SAFETY: the table's level runs here.
                Reduction::Max => unsafe { (lanes.max)(row) },
            };
            // SAFETY: each row is one task's.
            unsafe { y.slice(i, 1)[0] = value };
        }
    })?;
    Ok(())
}

/// `y (n · out_height · out_width, channels · kernel²)`: the window of `x (n, channels, height, width)` under each output, zeros
/// beyond the edges.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn im2col(team: &ThreadTeam, x: &[f32], of: Window, y: &mut [f32]) -> Result<()> {
    check("im2col", of.fits() && x.len() >= of.image() * of.n && y.len() >= of.outputs() * of.patch())?;
    let y = SharedMut::new(y);
    team.run(of.outputs(), &|row, _| {
        // SAFETY: each row is one task's.
        let to = unsafe { y.slice(row * of.patch(), of.patch()) };
        for (at, to) in to.iter_mut().enumerate() {
            *to = of.source(row, at).map_or(0.0, |i| x[i]);
        }
    })?;
    Ok(())
}

/// The vector–Jacobian product of [`im2col`]: `dx (n, channels, height, width) ← Σ` of what `dy` has for each element.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when lengths differ.
pub fn col2im(team: &ThreadTeam, dy: &[f32], of: Window, dx: &mut [f32]) -> Result<()> {
    check("col2im", of.fits() && dx.len() >= of.image() * of.n && dy.len() >= of.outputs() * of.patch())?;
    let (dx, rows) = (SharedMut::new(dx), of.outputs() / of.n.max(1));
    // By image, so that each sum is one task's, in order of rows.
    team.run(of.n, &|image, _| {
        // SAFETY: each image is one task's.
        let dx = unsafe { dx.slice(image * of.image(), of.image()) };
        dx.fill(0.0);
        for row in image * rows..(image + 1) * rows {
            for (at, dy) in dy[row * of.patch()..][..of.patch()].iter().enumerate() {
                if let Some(i) = of.source(row, at) {
                    dx[i - image * of.image()] += dy;
                }
            }
        }
    })?;
    Ok(())
}
