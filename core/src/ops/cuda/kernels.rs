//! Launching `kernels.cu`: one method a kernel, lengths checked before anything runs.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, result};

use super::device::{Device, View, driver};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::gpu::{KV_TYPES, PART, WEIGHT_TYPES, parts_elements};

/// The kernels of inference, loaded on one device.
#[derive(Debug)]
pub struct Kernels {
    device: Arc<Device>,
    functions: BTreeMap<(&'static str, Option<BlockType>), CudaFunction>,
    launched: AtomicU64,
}

const PLAIN: &[&str] = &[
    "rms_norm",
    "angles",
    "rope",
    "add",
    "add_scaled",
    "scale",
    "soft_cap",
    "bias",
    "swiglu",
    "geglu",
    "append",
    "attend",
    "attend_capped",
    "attend_parts",
    "attend_parts_capped",
    "attend_join",
];
/// One for each type of weights.
const TYPED: &[&str] = &["linear", "linear1", "lookup"];

/// A table of angles: cosines `(tokens, half)`, and sines alike.
#[derive(Clone, Copy, Debug)]
pub struct RopeTable<'a> {
    /// Cosines, f32 `(tokens, half)`.
    pub cosines: View<'a>,
    /// Sines, f32 `(tokens, half)`.
    pub sines: View<'a>,
    /// Pairs turned of each head.
    pub half: usize,
    /// Pairs are `(2i, 2i + 1)` when true, `(i, i + half)` when false.
    pub interleaved: bool,
}

/// One layer's cache of one sequence: heads one after the other, each `capacity` keys, then as many values.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// The bytes of all its heads.
    pub cache: View<'a>,
    /// Query heads: `q` and `out` are `(m, heads · dim)`.
    pub heads: usize,
    /// Key–value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head; at most 256.
    pub dim: usize,
    /// Multiplied onto every score.
    pub scale: f32,
    /// Scores go through `cap · tanh(x / cap)`, after their scale.
    pub cap: Option<f32>,
    /// Rows a head has room for.
    pub capacity: usize,
    /// Format of keys and of values.
    pub formats: (BlockType, BlockType),
}

impl Attend<'_> {
    fn row_bytes(&self) -> Result<(usize, usize)> {
        let bytes = |ty: BlockType| {
            ty.row_bytes(self.dim).ok_or_else(|| Error::Internal(format!("rows of {} as {ty}", self.dim)))
        };
        Ok((bytes(self.formats.0)?, bytes(self.formats.1)?))
    }

    fn head_bytes(&self) -> Result<usize> {
        let (k, v) = self.row_bytes()?;
        Ok((k + v) * self.capacity)
    }

    fn check(&self, rows: usize) -> Result<()> {
        let whole = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) && self.dim <= 256;
        if !whole || rows > self.capacity || self.cache.len() < self.head_bytes()? * self.kv_heads {
            return Err(Error::Internal(format!("{rows} rows of {self:?}")));
        }
        Ok(())
    }
}

fn format(ty: BlockType) -> Result<i32> {
    let at = KV_TYPES.iter().position(|t| *t == ty);
    at.map(|i| i as i32).ok_or_else(|| Error::Internal(format!("no kernel keeps rows as {ty}")))
}

fn floats(what: &str, view: View<'_>, n: usize) -> Result<()> {
    if view.len() >= 4 * n {
        Ok(())
    } else {
        Err(Error::Internal(format!("{what}: {} bytes for {n} floats", view.len())))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
enum Arg {
    /// A pointer, or a `size_t`.
    Wide(u64),
    Int(i32),
    Float(f32),
}

impl From<View<'_>> for Arg {
    fn from(view: View<'_>) -> Self {
        Self::Wide(view.ptr)
    }
}

fn int(v: usize) -> Arg {
    Arg::Int(i32::try_from(v).unwrap_or(i32::MAX))
}

impl Kernels {
    /// Looks every kernel up.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn new(device: Arc<Device>) -> Result<Self> {
        let mut functions = BTreeMap::new();
        let plain = PLAIN.iter().map(|kind| (*kind, None, (*kind).to_owned()));
        let typed =
            TYPED.iter().flat_map(|kind| WEIGHT_TYPES.iter().map(move |ty| (*kind, Some(*ty), format!("{kind}_{ty}"))));
        for (kind, ty, name) in plain.chain(typed) {
            functions.insert((kind, ty), device.module.load_function(&name).map_err(driver(&name))?);
        }
        Ok(Self { device, functions, launched: AtomicU64::new(0) })
    }

    /// The GPU that they run on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Kernels launched so far.
    pub fn launched(&self) -> u64 {
        self.launched.load(Ordering::Relaxed)
    }

    /// Queues a kernel whose lengths its caller has checked.
    fn launch(
        &self,
        kind: &'static str,
        ty: Option<BlockType>,
        grid: (usize, usize),
        block: (u32, u32),
        args: &[Arg],
    ) -> Result<()> {
        let Some(function) = self.functions.get(&(kind, ty)) else {
            let of = ty.map_or_else(String::new, |ty| format!(" of {ty}"));
            return Err(Error::Internal(format!("there is no GPU kernel `{kind}`{of}")));
        };
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let mut pointers: Vec<*mut c_void> = args
            .iter()
            .map(|arg| match arg {
                Arg::Wide(v) => std::ptr::from_ref(v).cast_mut().cast(),
                Arg::Int(v) => std::ptr::from_ref(v).cast_mut().cast(),
                Arg::Float(v) => std::ptr::from_ref(v).cast_mut().cast(),
            })
            .collect();
        let grid = (grid.0 as u32, grid.1 as u32, 1);
        let (function, stream) = (function.cu_function(), self.device.stream.cu_stream());
        self.launched.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the arguments are of the kernel's types in its order and outlive the call, which copies them; the views among
        // them hold what it touches.
        unsafe { result::launch_kernel(function, grid, (block.0, block.1, 1), 0, stream, &mut pointers) }
            .map_err(driver(kind))
    }

    /// `y (m, ldy)[:, ..rows] = x (m, cols) · Wᵀ`, W `(rows, cols)` as `ty`. A row of `y` has the same bits whatever `m` is.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn linear(
        &self,
        ty: BlockType,
        w: View<'_>,
        (rows, cols): (usize, usize),
        x: View<'_>,
        m: usize,
        y: View<'_>,
        ldy: usize,
    ) -> Result<()> {
        self.multiply(ty, w, (rows, cols), x, m, y, ldy, None)
    }

    /// `y (m, rows) += scale · x (m, cols) · Wᵀ`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn linear_add(
        &self,
        ty: BlockType,
        w: View<'_>,
        (rows, cols): (usize, usize),
        x: View<'_>,
        m: usize,
        y: View<'_>,
        scale: f32,
    ) -> Result<()> {
        self.multiply(ty, w, (rows, cols), x, m, y, rows, Some(scale))
    }

    fn multiply(
        &self,
        ty: BlockType,
        w: View<'_>,
        (rows, cols): (usize, usize),
        x: View<'_>,
        m: usize,
        y: View<'_>,
        ldy: usize,
        add: Option<f32>,
    ) -> Result<()> {
        let bytes = ty.row_bytes(cols).unwrap_or(usize::MAX).saturating_mul(rows);
        if w.len() < bytes || ldy < rows || m == 0 {
            return Err(Error::Internal(format!("{m} rows times {rows} x {cols} as {ty}, {} bytes given", w.len())));
        }
        floats("linear, x", x, m * cols)?;
        floats("linear, y", y, (m - 1) * ldy + rows)?;
        let (adds, scale) = (Arg::Int(i32::from(add.is_some())), Arg::Float(add.unwrap_or(1.0)));
        let args = [w.into(), x.into(), y.into(), int(rows), int(cols), int(m), int(ldy), adds, scale];
        // The two kernels differ only in how many rows share a read of W.
        let (kind, share) = if m == 1 { ("linear1", 1) } else { ("linear", 8) };
        self.launch(kind, Some(ty), (rows.div_ceil(8), m.div_ceil(share)), (32, 8), &args)
    }

    /// `out (n, cols)` = rows of `table (.., cols)`; `ids (n)` are u32 below its number of rows, which the caller has checked.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn lookup(
        &self,
        ty: BlockType,
        table: View<'_>,
        cols: usize,
        ids: View<'_>,
        n: usize,
        out: View<'_>,
    ) -> Result<()> {
        floats("lookup, ids", ids, n)?;
        floats("lookup, out", out, n * cols)?;
        self.launch("lookup", Some(ty), (n, 1), (256, 1), &[table.into(), ids.into(), out.into(), int(cols)])
    }

    /// `out = x / rms(x) · weight`, rows `(m, cols)`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn rms_norm(&self, x: View<'_>, weight: View<'_>, eps: f32, m: usize, out: View<'_>) -> Result<()> {
        let cols = weight.len() / 4;
        floats("rms norm, x", x, m * cols)?;
        floats("rms norm, out", out, m * cols)?;
        self.launch(
            "rms_norm",
            None,
            (m, 1),
            (256, 1),
            &[x.into(), weight.into(), out.into(), int(cols), Arg::Float(eps)],
        )
    }

    /// Fills `turn` with the angles of `n` positions from `first` on, times `amplitude`; `freqs (half)` are f64.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn angles(&self, freqs: View<'_>, turn: RopeTable<'_>, first: usize, n: usize, amplitude: f32) -> Result<()> {
        floats("angles, freqs", freqs, 2 * turn.half)?;
        floats("angles, cosines", turn.cosines, n * turn.half)?;
        floats("angles, sines", turn.sines, n * turn.half)?;
        let args = [
            freqs.into(),
            turn.cosines.into(),
            turn.sines.into(),
            int(turn.half),
            int(n),
            int(first),
            Arg::Float(amplitude),
        ];
        self.launch("angles", None, ((n * turn.half).div_ceil(256), 1), (256, 1), &args)
    }

    /// Turns the heads of `x (m, heads · dim)` in place.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn rope(&self, x: View<'_>, (m, heads, dim): (usize, usize, usize), turn: RopeTable<'_>) -> Result<()> {
        floats("rope, x", x, m * heads * dim)?;
        floats("rope, cosines", turn.cosines, m * turn.half)?;
        floats("rope, sines", turn.sines, m * turn.half)?;
        let args = [
            x.into(),
            turn.cosines.into(),
            turn.sines.into(),
            int(dim),
            int(turn.half),
            Arg::Int(i32::from(turn.interleaved)),
        ];
        self.launch("rope", None, (m, heads), (64, 1), &args)
    }

    /// `x += y`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn add(&self, x: View<'_>, y: View<'_>, n: usize) -> Result<()> {
        self.elementwise("add", x, y, n)
    }

    /// `gate = silu(gate) · up`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn swiglu(&self, gate: View<'_>, up: View<'_>, n: usize) -> Result<()> {
        self.elementwise("swiglu", gate, up, n)
    }

    /// `gate = gelu(gate) · up` by the tanh approximation, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn geglu(&self, gate: View<'_>, up: View<'_>, n: usize) -> Result<()> {
        self.elementwise("geglu", gate, up, n)
    }

    /// `x += by · y`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn add_scaled(&self, x: View<'_>, y: View<'_>, n: usize, by: f32) -> Result<()> {
        floats("add scaled", x, n)?;
        floats("add scaled", y, n)?;
        let args = [x.into(), y.into(), Arg::Wide(n as u64), Arg::Float(by)];
        self.launch("add_scaled", None, (n.div_ceil(256), 1), (256, 1), &args)
    }

    /// `x = by · x`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn scale(&self, x: View<'_>, n: usize, by: f32) -> Result<()> {
        floats("scale", x, n)?;
        let args = [x.into(), Arg::Wide(n as u64), Arg::Float(by)];
        self.launch("scale", None, (n.div_ceil(256), 1), (256, 1), &args)
    }

    /// `x = cap · tanh(x / cap)`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn soft_cap(&self, x: View<'_>, n: usize, cap: f32) -> Result<()> {
        floats("soft cap", x, n)?;
        let args = [x.into(), Arg::Wide(n as u64), Arg::Float(cap)];
        self.launch("soft_cap", None, (n.div_ceil(256), 1), (256, 1), &args)
    }

    /// Every row of `x (m, cols) += b (cols)`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn bias(&self, x: View<'_>, b: View<'_>, m: usize) -> Result<()> {
        let cols = b.len() / 4;
        floats("bias", x, m * cols)?;
        let n = m * cols;
        let args = [x.into(), b.into(), Arg::Wide(n as u64), int(cols)];
        self.launch("bias", None, (n.div_ceil(256), 1), (256, 1), &args)
    }

    fn elementwise(&self, kind: &'static str, x: View<'_>, y: View<'_>, n: usize) -> Result<()> {
        floats(kind, x, n)?;
        floats(kind, y, n)?;
        self.launch(kind, None, (n.div_ceil(256), 1), (256, 1), &[x.into(), y.into(), Arg::Wide(n as u64)])
    }

    /// Encodes `k` and `v`, `(m, kv_heads · dim)`, to rows `first..first + m` of every head.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn append(&self, at: Attend<'_>, k: View<'_>, v: View<'_>, first: usize, m: usize) -> Result<()> {
        let ((kb, vb), head) = (at.row_bytes()?, at.head_bytes()?);
        at.check(first + m)?;
        for (x, ty, bytes, offset) in [(k, at.formats.0, kb, 0), (v, at.formats.1, vb, kb * at.capacity)] {
            floats("append", x, m * at.kv_heads * at.dim)?;
            let to = at.cache.part(offset, at.cache.len() - offset)?;
            let args = [
                x.into(),
                to.into(),
                int(at.dim),
                Arg::Int(format(ty)?),
                int(bytes),
                int(first),
                Arg::Wide(head as u64),
            ];
            self.launch("append", None, (m, at.kv_heads), (64, 1), &args)?;
        }
        Ok(())
    }

    /// `out (m, heads · dim)`: attention of queries `q`, the first of which sees `before` rows and its own. A single query over
    /// a long cache uses `parts`, [`parts_elements`] floats, where that is large enough: the same bits, sooner.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn attend(
        &self,
        at: Attend<'_>,
        q: View<'_>,
        before: usize,
        m: usize,
        out: View<'_>,
        parts: View<'_>,
    ) -> Result<()> {
        let ((kb, vb), head) = (at.row_bytes()?, at.head_bytes()?);
        at.check(before + m)?;
        floats("attend, q", q, m * at.heads * at.dim)?;
        floats("attend, out", out, m * at.heads * at.dim)?;
        let wanted = parts_elements(at.heads, at.dim, before + 1);
        let split = m == 1 && wanted > 0 && parts.len() >= 4 * wanted;
        let args = [
            q.into(),
            at.cache.into(),
            if split { parts } else { out }.into(),
            int(at.dim),
            int(at.heads / at.kv_heads),
            int(before),
            Arg::Float(at.scale),
            Arg::Int(format(at.formats.0)?),
            int(kb),
            Arg::Int(format(at.formats.1)?),
            int(vb),
            Arg::Wide(head as u64),
            Arg::Wide((kb * at.capacity) as u64),
            Arg::Float(at.cap.unwrap_or(0.0)),
        ];
        let (rows, stretch) = match at.cap {
            None => ("attend", "attend_parts"),
            Some(_) => ("attend_capped", "attend_parts_capped"),
        };
        if !split {
            return self.launch(rows, None, (m, at.heads), (128, 1), &args);
        }
        let stretches = (before + 1).div_ceil(PART);
        self.launch(stretch, None, (at.heads, stretches), (128, 1), &args)?;
        let args = [parts.into(), out.into(), int(at.dim), int(stretches)];
        self.launch("attend_join", None, (at.heads, 1), (128, 1), &args)
    }
}
