//! An NVIDIA GPU that trains: its memory, its scratch, and products of matrices whose weights stay as they are stored.

use std::cell::RefCell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::gpu::tiling::Tiling;
use crate::device::gpu::{PARTS, Precision, host_scratch, scratch, tiling};
use crate::device::{Buf, Dst, Meter, Sizes, Src, Weight, buffer_bytes};
use crate::error::{Error, Result};
use crate::ledger::{Buffer, Ledger};
use crate::ops::ThreadTeam;
use crate::ops::cuda::{Arg, Blas, Device, DeviceBuffer, Operand, TrainKernels, View};

/// A GPU with one job's ledger. Ops are queued on one stream; scratch is used by one op at a time.
pub struct Gpu {
    pub(super) ledger: Arc<Ledger>,
    pub(super) team: Arc<ThreadTeam>,
    pub(super) kernels: TrainKernels,
    blas: Blas,
    pub(super) tiling: Tiling,
    pub(super) meter: Meter,
    panel: DeviceBuffer,
    stage: DeviceBuffer,
    pub(super) scratch: DeviceBuffer,
    pub(super) host: Option<RefCell<Buffer>>,
    pub(super) load: usize,
}

impl Gpu {
    /// Opens `device` for training, taking its scratch.
    ///
    /// # Errors
    /// [`Error::OverBudget`]; [`Error::Device`] with what the driver or cuBLAS says.
    pub fn new(
        device: &Arc<Device>,
        ledger: &Arc<Ledger>,
        team: &Arc<ThreadTeam>,
        sizes: &Sizes,
        precision: Precision,
    ) -> Result<Self> {
        let [blas, panel, stage, scratch] = scratch(sizes, precision).map(|(tag, n)| device.buffer(ledger, tag, n));
        let kernels = TrainKernels::new(device)?;
        Ok(Self {
            ledger: Arc::clone(ledger),
            team: Arc::clone(team),
            kernels,
            blas: Blas::new(device, blas?)?,
            tiling: tiling(sizes, precision),
            meter: Meter::new(team),
            panel: panel?,
            stage: stage?,
            scratch: scratch?,
            host: host_scratch(sizes).map(|(tag, n)| ledger.buffer(tag, n)).transpose()?.map(RefCell::new),
            load: sizes.load,
        })
    }

    /// What loading kernels and opening cuBLAS took outside the pool.
    pub(super) fn outside(&self) -> [(&'static str, u64); 2] {
        [("cuda training kernels", self.kernels.outside()), ("cublas", self.blas.outside())]
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        self.kernels.device()
    }

    /// Queues a kernel.
    pub(super) fn launch(
        &self,
        kind: &'static str,
        types: &[BlockType],
        grid: (usize, usize),
        block: u32,
        args: &[Arg<'_>],
    ) -> Result<()> {
        if grid.0 > 0 && grid.1 > 0 {
            self.meter.launch();
        }
        self.kernels.launch(kind, types, grid, block, args)
    }

    /// As [`Self::launch`], for elementwise kernels over `n` elements of `views`.
    pub(super) fn each(
        &self,
        kind: &'static str,
        types: &[BlockType],
        n: usize,
        views: &[View<'_>],
        rest: &[Arg<'_>],
        after: &[Arg<'_>],
    ) -> Result<()> {
        let whole = views.iter().all(|v| v.aligned());
        let mut args: Vec<Arg<'_>> = views.iter().map(|v| Arg::View(*v)).collect();
        args.extend_from_slice(rest);
        args.extend([Arg::Wide(n as u64), whole.into()]);
        args.extend_from_slice(after);
        self.launch(kind, types, (n.div_ceil(2048), 1), 256, &args)
    }

    /// The stored form of rows `first..first + n`, columns `left..left + width` of `w`, as a side of a product: itself where
    /// its type is that of products, or decoded into the panel.
    fn side<'a>(
        &'a self,
        w: Weight<'a>,
        (first, n): (usize, usize),
        (left, width): (usize, usize),
    ) -> Result<Operand<'a>> {
        let ty = self.tiling.ty;
        if w.buf.ty() == ty {
            let at = w.at + first * w.cols + left;
            let view = view(w.buf.at(at), (n - 1) * w.cols + width)?;
            return Ok(Operand { view, ty, ld: w.cols, turned: false });
        }
        let whole = view(w.buf.at(w.at), w.rows * w.cols)?;
        let out = self.panel.part(0, n * width * ty.block_bytes())?;
        let args = [whole.into(), out.into(), w.cols.into(), first.into(), left.into(), width.into(), n.into()];
        self.launch("panel", &[w.buf.ty(), ty], ((n * width.div_ceil(8)).div_ceil(256), 1), 256, &args)?;
        Ok(Operand { view: out, ty, ld: width, turned: false })
    }

    /// Rows `first..first + n` of activations as a side of a product, converted into share `part` of the stage where needed.
    fn rows<'a>(
        &'a self,
        x: Src<'a>,
        cols: usize,
        (first, n): (usize, usize),
        (part, parts): (usize, usize),
    ) -> Result<Operand<'a>> {
        let (from, ty) = (x.buf.ty(), self.tiling.ty);
        let source = view(x.buf.at(x.at + first * cols), n * cols)?;
        if from == ty {
            return Ok(Operand { view: source, ty, ld: cols, turned: false });
        }
        let share = self.stage.len() / parts / 256 * 256;
        let out = self.stage.part(part * share, n * cols * ty.block_bytes())?;
        let factors = [Arg::Float(0.0), Arg::Float(1.0)];
        self.each("blend", &[ty, from], n * cols, &[out, source], &factors, &[])?;
        Ok(Operand { view: out, ty, ld: cols, turned: false })
    }

    /// [`crate::device::Op::Linear`], without a bias.
    pub(super) fn forward(&self, x: Src<'_>, m: usize, w: Weight<'_>, y: Dst<'_>, add: bool) -> Result<()> {
        let (ty, out) = (y.buf.ty(), view_mut(&y, m * w.rows)?);
        let step = self.tiling.rows(x.buf.ty(), m, w.cols, 1);
        let high = self.tiling.weight_rows((w.buf.ty(), w.rows, w.cols));
        for first in (0..m).step_by(step) {
            let n = step.min(m - first);
            let a = self.rows(x, w.cols, (first, n), (0, 1))?;
            for row in (0..w.rows).step_by(high) {
                let rows = high.min(w.rows - row);
                let b = Operand { turned: true, ..self.side(w, (row, rows), (0, w.cols))? };
                let at = (first * w.rows + row) * ty.block_bytes();
                let c = Operand { view: out.part(at, out.len() - at)?, ty, ld: w.rows, turned: false };
                self.multiply((n, rows, w.cols), a, b, c, add)?;
            }
        }
        Ok(())
    }

    /// [`crate::device::Op::LinearDx`]: a panel takes all rows of some columns where it can, so that sums stay
    /// inside one product.
    pub(super) fn backward(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()> {
        let (ty, out) = (dx.buf.ty(), view_mut(&dx, m * w.cols)?);
        let step = self.tiling.rows(dy.buf.ty(), m, w.rows, 1);
        let (wide, high) = self.tiling.weight_tile((w.buf.ty(), w.rows, w.cols));
        for first in (0..m).step_by(step) {
            let n = step.min(m - first);
            let a = self.rows(dy, w.rows, (first, n), (0, 1))?;
            for left in (0..w.cols).step_by(wide) {
                let width = wide.min(w.cols - left);
                let at = (first * w.cols + left) * ty.block_bytes();
                let c = Operand { view: out.part(at, out.len() - at)?, ty, ld: w.cols, turned: false };
                for row in (0..w.rows).step_by(high) {
                    let rows = high.min(w.rows - row);
                    let b = self.side(w, (row, rows), (left, width))?;
                    let skip = row * a.ty.block_bytes();
                    let a = Operand { view: a.view.part(skip, a.view.len() - skip)?, ..a };
                    self.multiply((n, width, rows), a, b, c, add || row > 0)?;
                }
            }
        }
        Ok(())
    }

    /// [`crate::device::Op::LinearDw`].
    pub(super) fn outer(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        m: usize,
        (rows, cols): (usize, usize),
        dw: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        let (ty, out) = (dw.buf.ty(), view_mut(&dw, rows * cols)?);
        let c = Operand { view: out, ty, ld: cols, turned: false };
        let parts = self.tiling.parts(dy.buf.ty(), x.buf.ty());
        let step = self.tiling.rows(dy.buf.ty(), m, rows, parts).min(self.tiling.rows(x.buf.ty(), m, cols, parts));
        for first in (0..m).step_by(step) {
            let n = step.min(m - first);
            let a = Operand { turned: true, ..self.rows(dy, rows, (first, n), (0, parts))? };
            let b = self.rows(x, cols, (first, n), (parts - 1, parts))?;
            self.multiply((rows, cols, n), a, b, c, add || first > 0)?;
        }
        Ok(())
    }

    /// Queues a product of matrices.
    pub(super) fn multiply(
        &self,
        sizes: (usize, usize, usize),
        a: Operand<'_>,
        b: Operand<'_>,
        c: Operand<'_>,
        add: bool,
    ) -> Result<()> {
        self.meter.launch();
        self.blas.product(sizes, a, b, c, add)
    }

    /// `to (cols) (+)= Σ` over `m` rows of `dy`, times `x` and `rstd` where given.
    pub(super) fn columns(
        &self,
        x: Option<(View<'_>, View<'_>)>,
        dy: Src<'_>,
        (m, cols): (usize, usize),
        to: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        let (ty, g) = (dy.buf.ty(), to.buf.ty());
        let parts = PARTS.min(m.max(1));
        // The rstd of a norm lies at the scratch's start.
        let partial = self.scratch.part((4 * m).next_multiple_of(16), 4 * parts * cols)?;
        let (x, rstd) = x.map_or((Arg::Null, Arg::Null), |(x, r)| (x.into(), r.into()));
        let args = [x, rstd, view(dy, m * cols)?.into(), partial.into(), m.into(), cols.into()];
        self.launch("columns", &[ty], (cols.div_ceil(256), parts), 256, &args)?;
        let args = [partial.into(), view_mut(&to, cols)?.into(), parts.into(), cols.into(), add.into()];
        self.launch("fold", &[g], (cols.div_ceil(256), 1), 256, &args)
    }
}

/// Elements of a buffer as bytes.
fn span(ty: BlockType, at: usize, len: usize) -> Result<(usize, usize)> {
    let start = ty.row_bytes(at).ok_or_else(|| Error::Internal(format!("element {at} of {ty} begins no block")))?;
    Ok((start, buffer_bytes(ty, len)))
}

/// `len` elements to read.
pub(super) fn view(x: Src<'_>, len: usize) -> Result<View<'_>> {
    let (at, bytes) = span(x.buf.ty(), x.at, len)?;
    x.buf.memory::<DeviceBuffer>()?.part(at, bytes)
}

/// `len` elements to write.
pub(super) fn view_mut<'a>(x: &'a Dst<'_>, len: usize) -> Result<View<'a>> {
    view(Src { buf: x.buf, at: x.at }, len)
}

/// `len` elements of one of the `allowed` types.
pub(super) fn typed<'a>(x: Src<'a>, len: usize, ty: BlockType) -> Result<View<'a>> {
    if x.buf.ty() == ty {
        return view(x, len);
    }
    Err(Error::Internal(format!("a buffer of {} where one of {ty} is wanted", x.buf.ty())))
}

/// As [`typed`], to write.
pub(super) fn typed_mut<'a>(x: &'a Dst<'_>, len: usize, ty: BlockType) -> Result<View<'a>> {
    typed(Src { buf: x.buf, at: x.at }, len, ty)
}

/// Ids, kept as i32.
pub(super) fn ids(x: Src<'_>, len: usize) -> Result<View<'_>> {
    typed(x, len, BlockType::I32)
}

/// A whole buffer to read and write.
pub(super) fn whole(x: &Buf) -> Result<View<'_>> {
    view(x.all(), x.len())
}
