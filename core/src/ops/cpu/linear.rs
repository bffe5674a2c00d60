//! Products of activations with weight matrices in their stored blocks: `y = x · Wᵀ`, weights decoded to f32, f32 sums.
//!
//! Few rows of activations (decode) go through `fused` kernels, which decode weights in registers and so read each stored
//! byte once: the floor is memory bandwidth. Many rows (prefill) go through panels: a task decodes [`PANEL`] weight rows into
//! its worker's scratch and multiplies every row of activations with them: the floor is the multiply-add peak. Both sum in
//! the same order (see the module above), so a row's result is the same bits in a batch of 1 or of 512, on 1 thread or 16.

use super::activations::{Compute, Rounding, round_activations};
use super::decode::decode_with;
use super::integer::{self, ByteFn, Bytes};
use super::{FUSED_ROWS, FusedFn, Kernels, kernels};
use crate::blocks::{BlockType, Scheme, can_decode};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::{Error, Result};

/// Columns summed in one run; longer rows add the sums of blocks of this many columns in order. A multiple of 256, so that it
/// is whole blocks of every type; six rows of activations of it fit the first-level cache.
pub const DEPTH: usize = 1536;

/// Weight rows a task decodes at once: with [`DEPTH`] columns 288 KiB, which fits the second-level cache.
pub const PANEL: usize = 48;

/// Most rows of activations a panel task takes, so that it stays well under 10 ms.
const MAX_BATCH: usize = 516;
/// Fewest, so that decoding the panel stays a small share.
const MIN_BATCH: usize = 96;
/// Most weight bytes of a fused task, for the same reason.
const MAX_FUSED_BYTES: usize = 4 << 20;
/// Fewest, so that claiming a task stays a small share.
const MIN_FUSED_BYTES: usize = 8 << 10;
/// Tasks a worker should get, to even out.
const TASKS_PER_WORKER: usize = 6;

/// A weight matrix `(rows, cols)` as it is stored: in rows of ggml blocks, or in a scheme's own payload. Cheap to copy, and cut
/// into rows without moving a byte.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    scheme: Scheme,
    rows: usize,
    cols: usize,
    /// Of a block type the blocks of these rows; of a packed scheme the payload of the matrix that they are rows of.
    data: &'a [u8],
    /// Where the rows begin in the matrix that `data` is of, and its rows.
    of: (usize, usize),
}

impl<'a> Mat<'a> {
    /// A matrix over `data`.
    ///
    /// # Errors
    /// [`Error::Refused`] for a type without a decoder; [`Error::Internal`] when `data` is not the payload of such a matrix.
    pub fn new(scheme: impl Into<Scheme>, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let scheme = scheme.into();
        if scheme.block().is_some_and(|ty| !can_decode(ty)) {
            return Err(Error::refused(format!("type {scheme}"), "it has no decoder, so it cannot be multiplied with"));
        }
        if scheme.bytes(rows, cols) != Some(data.len()) {
            return Err(Error::Internal(format!("{} bytes are not a {rows} × {cols} matrix of {scheme}", data.len())));
        }
        Ok(Self { scheme, rows, cols, data, of: (0, rows) })
    }

    /// How its elements are stored: a block type or a packed scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Rows `first .. first + n` of it.
    ///
    /// # Errors
    /// [`Error::Internal`] when it has no such rows.
    pub fn slice(self, first: usize, n: usize) -> Result<Self> {
        if first.checked_add(n).is_none_or(|end| end > self.rows) {
            return Err(Error::Internal(format!("rows {first} + {n} of a matrix of {}", self.rows)));
        }
        let data = match self.scheme {
            Scheme::Block(_) => &self.data[first * self.row_bytes()..(first + n) * self.row_bytes()],
            Scheme::Packed(_) => self.data,
        };
        Ok(Self { rows: n, data, of: (self.of.0 + first, self.of.1), ..self })
    }

    /// Decodes elements `col .. col + out.len()` of row `row`, both whole units of the scheme or of 32, into `out`.
    ///
    /// # Errors
    /// [`Error::Internal`] when it has no such elements.
    pub fn decode(&self, row: usize, col: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.rows || col + out.len() > self.cols {
            return Err(Error::Internal(format!(
                "elements {col} + {} of row {row} of a {} × {} matrix",
                out.len(),
                self.rows,
                self.cols
            )));
        }
        self.decode_with(kernels(), row, col, out);
        Ok(())
    }

    /// As [`Self::decode`] with the instructions of `kernels`, of elements that are there.
    #[inline]
    pub(crate) fn decode_with(&self, kernels: &Kernels, row: usize, col: usize, out: &mut [f32]) {
        match self.scheme {
            Scheme::Block(ty) => {
                let at = row * self.row_bytes() + ty.blocks(col) * ty.block_bytes();
                let stored = &self.data[at..][..ty.blocks(out.len()) * ty.block_bytes()];
                if decode_with(kernels, ty, stored, out).is_err() {
                    // `Mat::new` checked that the type decodes; should it not, the result must not look right.
                    out.fill(f32::NAN);
                }
            }
            Scheme::Packed(scheme) => {
                scheme.decode(self.of.1, self.cols, self.data, (self.of.0 + row) * self.cols + col, out);
            }
        }
    }

    /// Rows: output features.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: input features.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row of blocks; of a packed scheme a row's share of the payload.
    fn row_bytes(&self) -> usize {
        match self.scheme {
            Scheme::Block(ty) => ty.blocks(self.cols) * ty.block_bytes(),
            Scheme::Packed(_) => self.data.len() / self.of.1.max(1),
        }
    }
}

/// One product of a region: row `i` of the result goes to `y[i·ldy..][..w.rows()]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, `(rows, cols)`.
    pub w: Mat<'a>,
    /// The output, `(m, ≥ rows)`.
    pub y: &'a mut [f32],
    /// Elements from one row of `y` to the next.
    pub ldy: usize,
}

/// Elements of scratch that [`linear`] needs for weights of at most `cols` columns: one panel per worker.
pub const fn linear_scratch(threads: usize, cols: usize) -> usize {
    let depth = if cols < DEPTH { cols } else { DEPTH };
    threads * PANEL * depth.next_multiple_of(16) + 16
}

/// Elements of scratch that [`linear_many_as`] needs: with [`Compute::Int8`], the rounded activations too.
pub const fn linear_scratch_as(compute: Compute, threads: usize, m: usize, cols: usize) -> usize {
    linear_scratch(threads, cols)
        + match compute {
            // Types whose activations are rounded to f16 keep them as numbers; bytes, their scales and sums are fewer.
            Compute::Int8 => (m * cols).next_multiple_of(16) + 16,
            _ => 0,
        }
}

/// [`linear_many`] with activations as `compute` says. Matrices whose types round activations alike share a region.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice or the scratch is too short.
pub fn linear_many_as(
    compute: Compute,
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    products: &mut [Product<'_>],
    scratch: &mut [f32],
) -> Result<()> {
    linear_as_with(kernels(), compute, team, x, m, products, scratch)
}

pub(crate) fn linear_as_with(
    kernels: &Kernels,
    compute: Compute,
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    products: &mut [Product<'_>],
    scratch: &mut [f32],
) -> Result<()> {
    let cols = products.first().map_or(0, |p| p.w.cols);
    if compute != Compute::Int8 || m == 0 || cols == 0 {
        return linear_with(kernels, team, x, m, products, scratch);
    }
    check(team, x, m, cols, products, scratch)?;
    let room = (m * cols).next_multiple_of(16) + 16;
    if scratch.len() < linear_scratch_as(compute, team.threads(), m, cols) {
        return Err(Error::Internal(format!("linear: {} elements of scratch for rounded activations", scratch.len())));
    }
    let (rounded, scratch) = scratch.split_at_mut(room);
    let mut rest = products;
    while let Some(first) = rest.first() {
        // A packed scheme is decoded to f32, and multiplied with as that is.
        let kind = |w: &Mat<'_>| w.scheme.block().unwrap_or(BlockType::F32);
        let ty = kind(&first.w);
        let alike = rest.iter().take_while(|p| Rounding::of(kind(&p.w)) == Rounding::of(ty)).count();
        let (now, later) = rest.split_at_mut(alike);
        if let Some(bytes) = integer::activations((kernels.integer)(), team, ty, x, m, cols, rounded)? {
            multiply(kernels, team, Activations::Bytes(bytes), m, now, false, scratch)?;
        } else {
            let aligned = rounded.as_ptr().align_offset(64).min(16);
            let rounded = &mut rounded[aligned..][..m * cols];
            round_activations(team, ty, &x[..m * cols], cols, rounded)?;
            linear_with(kernels, team, rounded, m, now, scratch)?;
        }
        rest = later;
    }
    Ok(())
}

/// `y[i·ldy + r] = Σ_c x[i·cols + c] · w[r, c]` for `x (m, cols)`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice is too short.
pub fn linear(
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    w: Mat<'_>,
    y: &mut [f32],
    ldy: usize,
    scratch: &mut [f32],
) -> Result<()> {
    linear_many(team, x, m, &mut [Product { w, y, ldy }], scratch)
}

/// [`linear`] for several matrices of the same number of columns and the same `x`, in one parallel region.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice is too short or the numbers of columns differ.
pub fn linear_many(
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    products: &mut [Product<'_>],
    scratch: &mut [f32],
) -> Result<()> {
    linear_with(kernels(), team, x, m, products, scratch)
}

/// Activations as they are, or rounded to bytes.
#[derive(Clone, Copy)]
enum Activations<'a> {
    Exact(&'a [f32]),
    Bytes(Bytes),
}

// SAFETY: bytes are written before the region that reads them, and lie in scratch that its caller holds.
unsafe impl Sync for Activations<'_> {}

/// What multiplies a part.
#[derive(Clone, Copy)]
enum By {
    /// Decoding in registers.
    Fused(FusedFn),
    /// Decoding into a panel.
    Panel,
    /// In whole numbers.
    Bytes(ByteFn),
}

/// How the tasks of one product are cut, and where its output lies.
#[derive(Clone, Copy)]
struct Part<'a> {
    w: Mat<'a>,
    y: SharedMut<f32>,
    ldy: usize,
    /// What multiplies.
    by: By,
    /// Weight rows of a task.
    height: usize,
    /// Rows of activations of a task.
    batch: usize,
    tasks: usize,
}

/// How the products of a region are cut into tasks; no cut changes a bit of the result.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Weight bytes of a fused task.
    bytes: usize,
    /// Rows of activations of a panel's task.
    batch: usize,
}

impl Cut {
    fn new(threads: usize, m: usize, panels: usize, total_bytes: usize) -> Self {
        let wanted = TASKS_PER_WORKER * threads;
        Self {
            bytes: (total_bytes / wanted).clamp(MIN_FUSED_BYTES, MAX_FUSED_BYTES),
            batch: m.div_ceil(wanted.div_ceil(panels.max(1))).clamp(MIN_BATCH, MAX_BATCH).next_multiple_of(6),
        }
    }

    /// Weight rows and rows of activations of a task of one product, and how many tasks it is.
    fn tasks(self, rows: usize, row_bytes: usize, fused: bool, m: usize) -> (usize, usize, usize) {
        let (height, batch) = match fused {
            true => ((self.bytes / row_bytes.max(1)).max(1).next_multiple_of(4), m),
            false => (PANEL, self.batch.min(m)),
        };
        (height, batch, rows.div_ceil(height) * m.div_ceil(batch.max(1)))
    }
}

/// Tasks of a region of products with `m` rows of activations, of matrices of `(rows, bytes of a row)` each in blocks.
pub fn linear_tasks(threads: usize, m: usize, of: impl Iterator<Item = (usize, usize)> + Clone) -> usize {
    let panels = of.clone().map(|(rows, _)| rows.div_ceil(PANEL)).sum();
    let cut = Cut::new(threads, m, panels, of.clone().map(|(rows, bytes)| rows * bytes).sum());
    of.map(|(rows, bytes)| cut.tasks(rows, bytes, m <= FUSED_ROWS, m).2).sum()
}

/// Most matrices of one region.
const MAX_PRODUCTS: usize = 8;

pub(crate) fn linear_with(
    kernels: &Kernels,
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    products: &mut [Product<'_>],
    scratch: &mut [f32],
) -> Result<()> {
    multiply(kernels, team, Activations::Exact(x), m, products, false, scratch)
}

/// `y (m, w.rows) += x · wᵀ`: [`linear`], adding to what is there.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Internal`] when a slice or the scratch is too short.
pub fn linear_add(
    team: &ThreadTeam,
    x: &[f32],
    m: usize,
    w: Mat<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    let ldy = w.rows;
    multiply(kernels(), team, Activations::Exact(x), m, &mut [Product { w, y, ldy }], true, scratch)
}

fn multiply(
    kernels: &Kernels,
    team: &ThreadTeam,
    x: Activations<'_>,
    m: usize,
    products: &mut [Product<'_>],
    add: bool,
    scratch: &mut [f32],
) -> Result<()> {
    let cols = products.first().map_or(0, |p| p.w.cols);
    if m == 0 || products.is_empty() {
        return Ok(());
    }
    if let Activations::Exact(x) = x {
        check(team, x, m, cols, products, scratch)?;
    }
    let panels: usize = products.iter().map(|p| p.w.rows.div_ceil(PANEL)).sum();
    let total_bytes: usize = products.iter().map(|p| p.w.rows * p.w.row_bytes()).sum();
    let cut = Cut::new(team.threads(), m, panels, total_bytes);
    let mut parts: [Option<Part<'_>>; MAX_PRODUCTS] = [None; MAX_PRODUCTS];
    let mut tasks = 0;
    for (part, p) in parts.iter_mut().zip(products) {
        let few = m <= FUSED_ROWS;
        let by = match (x, p.w.scheme.block()) {
            (Activations::Bytes(_), Some(ty)) => {
                let byte = ((kernels.integer)().products)(ty).map(|of| By::Bytes(of[usize::from(!few)]));
                byte.ok_or_else(|| Error::Internal(format!("linear: {ty} in whole numbers")))?
            }
            (Activations::Exact(_), Some(ty)) if few && !add && cols.is_multiple_of(32) => {
                (kernels.fused)(ty).map_or(By::Panel, By::Fused)
            }
            _ => By::Panel,
        };
        let (height, batch, n) = cut.tasks(p.w.rows, p.w.row_bytes(), few && !matches!(by, By::Panel), m);
        *part = Some(Part { w: p.w, y: SharedMut::new(p.y), ldy: p.ldy, by, height, batch, tasks: n });
        tasks += n;
    }
    let panel = PANEL * cols.min(DEPTH).next_multiple_of(16);
    let aligned = scratch.as_ptr().align_offset(64).min(16);
    let scratch = SharedMut::new(&mut scratch[aligned..]);
    team.run(tasks, &|mut task, worker| {
        for part in parts.iter().flatten() {
            if task < part.tasks {
                // SAFETY: a worker runs one task at a time, so its panel is its own.
                return run_task(kernels, part, task, x, m, add, || unsafe { scratch.slice(worker * panel, panel) });
            }
            task -= part.tasks;
        }
    })?;
    Ok(())
}

fn check(team: &ThreadTeam, x: &[f32], m: usize, cols: usize, products: &[Product<'_>], scratch: &[f32]) -> Result<()> {
    let wrong = |what: String| Err(Error::Internal(format!("linear: {what}")));
    if products.len() > MAX_PRODUCTS {
        return wrong(format!("{} matrices in one region, at most {MAX_PRODUCTS}", products.len()));
    }
    if m.checked_mul(cols).is_none_or(|n| x.len() < n) {
        return wrong(format!("{} activations are fewer than {m} × {cols}", x.len()));
    }
    if scratch.len() < linear_scratch(team.threads(), cols) {
        return wrong(format!(
            "{} elements of scratch, {} needed",
            scratch.len(),
            linear_scratch(team.threads(), cols)
        ));
    }
    for Product { w, y, ldy } in products {
        let len = (m - 1).checked_mul(*ldy).and_then(|n| n.checked_add(w.rows));
        if w.cols != cols || *ldy < w.rows || len.is_none_or(|n| y.len() < n) {
            return wrong(format!(
                "{m} rows of {} outputs, {ldy} apart, in {} elements; {} columns",
                w.rows,
                y.len(),
                w.cols
            ));
        }
    }
    Ok(())
}

fn run_task<'s>(
    kernels: &Kernels,
    part: &Part<'_>,
    task: usize,
    x: Activations<'_>,
    m: usize,
    add: bool,
    panel: impl FnOnce() -> &'s mut [f32],
) {
    let Part { w, y, ldy, height, batch, .. } = *part;
    let (cols, row_bytes) = (w.cols, w.row_bytes());
    let batches = m.div_ceil(batch);
    let row = task / batches * height;
    let rows = height.min(w.rows - row);
    let first = task % batches * batch;
    let batch = batch.min(m - first);
    if rows == 0 || batch == 0 {
        return;
    }
    // Both ends are in bounds; the kernels write only this task's rows and columns between them.
    let c = y.at(first * ldy + row);
    y.at((first + batch - 1) * ldy + row + rows - 1);
    let data = || &w.data[row * row_bytes..(row + rows) * row_bytes];
    let x = match (x, part.by) {
        (Activations::Bytes(x), By::Bytes(product)) => {
            let (x, panel) = (x.after(first), panel().as_mut_ptr());
            // SAFETY: x is `batch` rows of `cols`, `data` is `rows` rows of whole blocks, the panel of the size that is said
            // there, `c` as above; the level runs here.
            return unsafe { product(x, batch, data().as_ptr(), row_bytes, rows, cols, panel, c, ldy) };
        }
        (Activations::Exact(x), _) => &x[first * cols..(first + batch) * cols],
        // `multiply` pairs them.
        (Activations::Bytes(_), _) => return,
    };
    if let By::Fused(fused) = part.by {
        // SAFETY: as above.
        return unsafe { fused(x.as_ptr(), cols, batch, data().as_ptr(), row_bytes, rows, cols, c, ldy) };
    }
    let panel = panel();
    let ld = cols.min(DEPTH).next_multiple_of(16);
    let mut start = 0;
    loop {
        let depth = DEPTH.min(cols - start);
        for (r, out) in panel.chunks_exact_mut(ld).take(rows).enumerate() {
            w.decode_with(kernels, row + r, start, &mut out[..depth]);
        }
        // SAFETY: as above; the panel holds `rows` rows of `depth`, `ld` apart.
        unsafe {
            let x = x.as_ptr().add(start);
            (kernels.dot)(x, cols, batch, panel.as_ptr(), ld, rows, depth, c, ldy, add || start > 0);
        }
        start += depth;
        if start >= cols {
            return;
        }
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
