//! Launching `kernels.cu`, plain kernels for any size: one method a kernel, lengths checked before anything runs.

use super::device::View;
use super::launch::{Kernels, Shape};
use super::train::Arg;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::gpu::{KV_TYPES, PART, parts_elements};

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
    pub(super) fn row_bytes(&self) -> Result<(usize, usize)> {
        let bytes = |ty: BlockType| {
            ty.row_bytes(self.dim).ok_or_else(|| Error::Internal(format!("rows of {} as {ty}", self.dim)))
        };
        Ok((bytes(self.formats.0)?, bytes(self.formats.1)?))
    }

    pub(super) fn head_bytes(&self) -> Result<usize> {
        let (k, v) = self.row_bytes()?;
        Ok((k + v) * self.capacity)
    }

    pub(super) fn check(&self, rows: usize) -> Result<()> {
        let whole = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) && self.dim <= 256;
        if !whole || rows > self.capacity || self.cache.len() < self.head_bytes()? * self.kv_heads {
            return Err(Error::Internal(format!("{rows} rows of {self:?}")));
        }
        Ok(())
    }
}

pub(super) fn format(ty: BlockType) -> Result<i32> {
    let at = KV_TYPES.iter().position(|t| *t == ty);
    at.map(|i| i as i32).ok_or_else(|| Error::Internal(format!("no kernel keeps rows as {ty}")))
}

pub(super) fn floats(what: &str, view: View<'_>, n: usize) -> Result<()> {
    if view.len() >= 4 * n {
        Ok(())
    } else {
        Err(Error::Internal(format!("{what}: {} bytes for {n} floats", view.len())))
    }
}

impl Kernels {
    /// Queues a plain kernel.
    fn plain(&self, kind: &'static str, grid: (usize, usize), block: u32, args: &[Arg<'_>]) -> Result<()> {
        self.launch(kind, None, Shape::new(grid, block), args)
    }

    /// `y (m, ldy)[:, ..rows] = x (m, cols) · Wᵀ`, W `(rows, cols)` as `ty`, a plain type. A row of `y` has the same bits whatever `m` is.
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
        let (adds, scale) = (add.is_some().into(), Arg::Float(add.unwrap_or(1.0)));
        let args = [w.into(), x.into(), y.into(), (rows).into(), (cols).into(), (m).into(), (ldy).into(), adds, scale];
        // The two kernels differ only in how many rows share a read of W.
        let (kind, share) = if m == 1 { ("linear1", 1) } else { ("linear", 8) };
        let shape = Shape { block: (32, 8), ..Shape::new((rows.div_ceil(8), m.div_ceil(share)), 32) };
        self.launch(kind, Some(ty), shape, &args)
    }

    /// `out = x / rms(x) · weight`, rows `(m, cols)`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn rms_norm(&self, x: View<'_>, weight: View<'_>, eps: f32, m: usize, out: View<'_>) -> Result<()> {
        let cols = weight.len() / 4;
        floats("rms norm, x", x, m * cols)?;
        floats("rms norm, out", out, m * cols)?;
        self.plain("rms_norm", (m, 1), 256, &[x.into(), weight.into(), out.into(), (cols).into(), Arg::Float(eps)])
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
            (turn.half).into(),
            (n).into(),
            (first).into(),
            Arg::Float(amplitude),
        ];
        self.plain("angles", ((n * turn.half).div_ceil(256), 1), 256, &args)
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
            (dim).into(),
            (turn.half).into(),
            turn.interleaved.into(),
        ];
        self.plain("rope", (m, heads), 64, &args)
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
        self.plain("add_scaled", (n.div_ceil(256), 1), 256, &args)
    }

    /// `x = by · x`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn scale(&self, x: View<'_>, n: usize, by: f32) -> Result<()> {
        floats("scale", x, n)?;
        let args = [x.into(), Arg::Wide(n as u64), Arg::Float(by)];
        self.plain("scale", (n.div_ceil(256), 1), 256, &args)
    }

    /// `x = cap · tanh(x / cap)`, `n` floats.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn soft_cap(&self, x: View<'_>, n: usize, cap: f32) -> Result<()> {
        floats("soft cap", x, n)?;
        let args = [x.into(), Arg::Wide(n as u64), Arg::Float(cap)];
        self.plain("soft_cap", (n.div_ceil(256), 1), 256, &args)
    }

    /// Every row of `x (m, cols) += b (cols)`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a view is too short; [`Error::Device`] with what the driver says.
    pub fn bias(&self, x: View<'_>, b: View<'_>, m: usize) -> Result<()> {
        let cols = b.len() / 4;
        floats("bias", x, m * cols)?;
        let n = m * cols;
        let args = [x.into(), b.into(), Arg::Wide(n as u64), (cols).into()];
        self.plain("bias", (n.div_ceil(256), 1), 256, &args)
    }

    fn elementwise(&self, kind: &'static str, x: View<'_>, y: View<'_>, n: usize) -> Result<()> {
        floats(kind, x, n)?;
        floats(kind, y, n)?;
        self.plain(kind, (n.div_ceil(256), 1), 256, &[x.into(), y.into(), Arg::Wide(n as u64)])
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
                (at.dim).into(),
                Arg::Int(format(ty)?),
                (bytes).into(),
                (first).into(),
                Arg::Wide(head as u64),
            ];
            self.plain("append", (m, at.kv_heads), 64, &args)?;
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
            (at.dim).into(),
            (at.heads / at.kv_heads).into(),
            (before).into(),
            Arg::Float(at.scale),
            Arg::Int(format(at.formats.0)?),
            (kb).into(),
            Arg::Int(format(at.formats.1)?),
            (vb).into(),
            Arg::Wide(head as u64),
            Arg::Wide((kb * at.capacity) as u64),
            Arg::Float(at.cap.unwrap_or(0.0)),
        ];
        let (rows, stretch) = match at.cap {
            None => ("attend", "attend_parts"),
            Some(_) => ("attend_capped", "attend_parts_capped"),
        };
        if !split {
            return self.plain(rows, (m, at.heads), 128, &args);
        }
        let stretches = (before + 1).div_ceil(PART);
        self.plain(stretch, (at.heads, stretches), 128, &args)?;
        let args = [parts.into(), out.into(), (at.dim).into(), (stretches).into()];
        self.plain("attend_join", (at.heads, 1), 128, &args)
    }
}
