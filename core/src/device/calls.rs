//! Operations as calls: each builds an [`Op`] and runs it.

use super::{Best, Causal, Device, Dst, Mask, Op, RopeTable, Src, Weight};
use crate::error::Result;

impl dyn Device + '_ {
    /// [`Op::Copy`].
    ///
    /// # Errors
    /// As [`Device::run`], which all calls here end in.
    pub fn copy(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Copy { x, y, len })
    }

    /// [`Op::Cast`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn cast(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Cast { x, y, len })
    }

    /// [`Op::Fill`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn fill(&self, y: Dst<'_>, len: usize, value: f32) -> Result<()> {
        self.run(Op::Fill { y, len, value })
    }

    /// [`Op::Axpy`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn axpy(&self, a: f32, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Axpy { a, x, y, len })
    }

    /// [`Op::Scale`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn scale(&self, y: Dst<'_>, len: usize, a: f32) -> Result<()> {
        self.run(Op::Scale { y, len, a })
    }

    /// [`Op::SquaredNorm`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn squared_norm(&self, x: Src<'_>, len: usize, to: Dst<'_>) -> Result<()> {
        self.run(Op::SquaredNorm { x, len, to })
    }

    /// [`Op::Gather`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn gather(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Gather { x, ids, n, cols, y })
    }

    /// [`Op::Scatter`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn scatter(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Scatter { x, ids, n, cols, y })
    }

    /// [`Op::Embed`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn embed(&self, table: Weight<'_>, ids: Src<'_>, m: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Embed { table, ids, m, y })
    }

    /// [`Op::EmbedVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn embed_vjp(&self, dy: Src<'_>, ids: Src<'_>, m: usize, rows: usize, cols: usize, d: Dst<'_>) -> Result<()> {
        self.run(Op::EmbedVjp { dy, ids, m, rows, cols, d })
    }

    /// [`Op::Linear`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn linear(
        &self,
        x: Src<'_>,
        m: usize,
        w: Weight<'_>,
        bias: Option<Src<'_>>,
        y: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        self.run(Op::Linear { x, m, w, bias, y, add })
    }

    /// [`Op::LinearDx`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn linear_dx(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()> {
        self.run(Op::LinearDx { dy, m, w, dx, add })
    }

    /// [`Op::LinearDw`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn linear_dw(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        m: usize,
        rows: usize,
        cols: usize,
        dw: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        self.run(Op::LinearDw { dy, x, m, rows, cols, dw, add })
    }

    /// [`Op::BiasVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn bias_vjp(&self, dy: Src<'_>, m: usize, rows: usize, db: Dst<'_>, add: bool) -> Result<()> {
        self.run(Op::BiasVjp { dy, m, rows, db, add })
    }

    /// [`Op::RmsNorm`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn rms_norm(&self, x: Src<'_>, w: Src<'_>, m: usize, cols: usize, eps: f32, y: Dst<'_>) -> Result<()> {
        self.run(Op::RmsNorm { x, w, m, cols, eps, y })
    }

    /// [`Op::RmsNormVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn rms_norm_vjp(
        &self,
        dy: Src<'_>,
        x: Src<'_>,
        w: Src<'_>,
        m: usize,
        cols: usize,
        eps: f32,
        dx: Dst<'_>,
        dw: Option<(Dst<'_>, bool)>,
    ) -> Result<()> {
        self.run(Op::RmsNormVjp { dy, x, w, m, cols, eps, dx, dw })
    }

    /// [`Op::Rope`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn rope(&self, x: Dst<'_>, m: usize, heads: usize, dim: usize, table: RopeTable<'_>) -> Result<()> {
        self.run(Op::Rope { x, m, heads, dim, table })
    }

    /// [`Op::Attention`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn attention(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        o: Dst<'_>,
        log_sum_exp: Dst<'_>,
    ) -> Result<()> {
        self.run(Op::Attention { q, k, v, segments, of, o, log_sum_exp })
    }

    /// [`Op::AttentionVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn attention_vjp(
        &self,
        q: Src<'_>,
        k: Src<'_>,
        v: Src<'_>,
        o: Src<'_>,
        log_sum_exp: Src<'_>,
        d_o: Src<'_>,
        segments: Src<'_>,
        of: Causal,
        dq: Dst<'_>,
        dk: Dst<'_>,
        dv: Dst<'_>,
    ) -> Result<()> {
        self.run(Op::AttentionVjp { q, k, v, o, log_sum_exp, d_o, segments, of, dq, dk, dv })
    }

    /// [`Op::SwiGlu`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn swiglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        self.run(Op::SwiGlu { g, u, len, p })
    }

    /// [`Op::SwiGluVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn swiglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::SwiGluVjp { dp, g, u, len })
    }

    /// [`Op::GeGlu`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn geglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        self.run(Op::GeGlu { g, u, len, p })
    }

    /// [`Op::GeGluVjp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn geglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::GeGluVjp { dp, g, u, len })
    }

    /// [`Op::Dropout`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn dropout(&self, x: Src<'_>, y: Dst<'_>, len: usize, mask: Mask, add: bool) -> Result<()> {
        self.run(Op::Dropout { x, y, len, mask, add })
    }

    /// [`Op::LogSumExp`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn log_sum_exp(
        &self,
        a: Src<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Dst<'_>,
        picked: Dst<'_>,
    ) -> Result<()> {
        self.run(Op::LogSumExp { a, m, n, first, targets, log_sum_exp, picked })
    }

    /// [`Op::Argmax`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn argmax(&self, a: Src<'_>, n: usize, first: usize, best: &mut [Best]) -> Result<()> {
        self.run(Op::Argmax { a, n, first, best })
    }

    /// [`Op::CrossEntropyVjp`]; returns whether any element is `eps` or more before scaling, as far as that is known.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn cross_entropy_vjp(
        &self,
        a: Dst<'_>,
        m: usize,
        n: usize,
        first: usize,
        targets: Src<'_>,
        log_sum_exp: Src<'_>,
        scale: f32,
        eps: f32,
    ) -> Result<bool> {
        let mut matters = true;
        self.run(Op::CrossEntropyVjp { a, m, n, first, targets, log_sum_exp, scale, eps, matters: &mut matters })?;
        Ok(matters)
    }

    /// [`Op::RowNorms`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn row_norms(&self, w: Weight<'_>, low: Option<(Weight<'_>, Weight<'_>, f32)>, y: Dst<'_>) -> Result<()> {
        self.run(Op::RowNorms { w, low, y })
    }

    /// [`Op::ScaleColumns`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn scale_columns(
        &self,
        x: Src<'_>,
        (m, cols): (usize, usize),
        (by, over): (Src<'_>, Src<'_>),
        bias: Option<Src<'_>>,
        y: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        self.run(Op::ScaleColumns { x, m, cols, by, over, bias, y, add })
    }

    /// [`Op::ColumnDot`].
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn column_dot(
        &self,
        x: Src<'_>,
        y: Src<'_>,
        (m, cols): (usize, usize),
        over: Src<'_>,
        to: Dst<'_>,
        add: bool,
    ) -> Result<()> {
        self.run(Op::ColumnDot { x, y, m, cols, over, to, add })
    }
}
