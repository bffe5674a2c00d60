//! Operations as calls: each builds an [`Op`] and runs it.

use super::{Best, Causal, Columns, Device, Dst, Mask, Op, RopeTable, Src, Weight};
use crate::error::Result;

impl dyn Device + '_ {
    /// [`Op::Copy`]: `y ← x`, `len` elements of one type.
    ///
    /// # Errors
    /// As [`Device::run`], which all calls here end in: operands that do not fit, cancellation, what the driver says.
    pub fn copy(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Copy { x, y, len })
    }

    /// [`Op::Cast`]: `y (f32) ← x (bf16)`, `len` elements.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn cast(&self, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Cast { x, y, len })
    }

    /// [`Op::Fill`]: `y ← value`, `len` elements.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn fill(&self, y: Dst<'_>, len: usize, value: f32) -> Result<()> {
        self.run(Op::Fill { y, len, value })
    }

    /// [`Op::Axpy`]: `y ← y + a · x`, `len` elements.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn axpy(&self, a: f32, x: Src<'_>, y: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::Axpy { a, x, y, len })
    }

    /// [`Op::Scale`]: `y ← a · y`, `len` elements.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn scale(&self, y: Dst<'_>, len: usize, a: f32) -> Result<()> {
        self.run(Op::Scale { y, len, a })
    }

    /// [`Op::SquaredNorms`]: one f32 a span of `x`: `to[i] ← Σ x²` over the elements of span `i`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn squared_norms(&self, x: Src<'_>, spans: &[(usize, usize)], to: Dst<'_>) -> Result<()> {
        self.run(Op::SquaredNorms { x, spans, to })
    }

    /// [`Op::Gather`]: rows `ids[i]` of `x (…, cols)` to rows `i` of `y (n, cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn gather(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Gather { x, ids, n, cols, y })
    }

    /// [`Op::Scatter`]: rows `i` of `x (n, cols)` to rows `ids[i]`, which rise, of `y (…, cols)`; other rows stay.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn scatter(&self, x: Src<'_>, ids: Src<'_>, n: usize, cols: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Scatter { x, ids, n, cols, y })
    }

    /// [`Op::Embed`]: rows `ids` of `table`, decoded, into `y (m, table.cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn embed(&self, table: Weight<'_>, ids: Src<'_>, m: usize, y: Dst<'_>) -> Result<()> {
        self.run(Op::Embed { table, ids, m, y })
    }

    /// [`Op::EmbedVjp`]: row `ids[i]` of `d (rows, cols)` += row `i` of `dy (m, cols)`, in order of `i`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn embed_vjp(&self, dy: Src<'_>, ids: Src<'_>, m: usize, rows: usize, cols: usize, d: Dst<'_>) -> Result<()> {
        self.run(Op::EmbedVjp { dy, ids, m, rows, cols, d })
    }

    /// [`Op::Linear`]: `y (m, w.rows) (+)= x (m, w.cols) · wᵀ (+ bias (w.rows))`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::LinearDx`]: `dx (m, w.cols) (+)= dy (m, w.rows) · w`, quantized weights being decoded block by block.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn linear_dx(&self, dy: Src<'_>, m: usize, w: Weight<'_>, dx: Dst<'_>, add: bool) -> Result<()> {
        self.run(Op::LinearDx { dy, m, w, dx, add })
    }

    /// [`Op::LinearDw`]: `dw (rows, cols) (+)= dyᵀ · x` with `dy (m, rows)`, `x (m, cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::BiasVjp`]: `db (rows) (+)= Σ_i dy (m, rows)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn bias_vjp(&self, dy: Src<'_>, m: usize, rows: usize, db: Dst<'_>, add: bool) -> Result<()> {
        self.run(Op::BiasVjp { dy, m, rows, db, add })
    }

    /// [`Op::RmsNorm`]: `y = x · ρ ⊙ w`, `ρ = (mean x² + eps)^−½` of each row of `x (m, cols)`; `w (cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn rms_norm(&self, x: Src<'_>, w: Src<'_>, m: usize, cols: usize, eps: f32, y: Dst<'_>) -> Result<()> {
        self.run(Op::RmsNorm { x, w, m, cols, eps, y })
    }

    /// [`Op::RmsNormVjp`]: `dx += ρ (dy ⊙ w) − x ρ³ / cols · ⟨dy ⊙ w, x⟩`, and where wanted `dw (+)= Σ dy ⊙ x ρ` (with
    /// whether to add).
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::Rope`]: rotates the heads of `x (m, heads · dim)` in place; with `table.inverse` it is its own
    /// vector–Jacobian product.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn rope(&self, x: Dst<'_>, m: usize, heads: usize, dim: usize, table: RopeTable<'_>) -> Result<()> {
        self.run(Op::Rope { x, m, heads, dim, table })
    }

    /// [`Op::Attention`]: `o = softmax(q kᵀ · scale) v` over what each token may see; `q, o (m, heads · dim)`,
    /// `k, v (m, kv_heads · dim)`, `segments (m)`; leaves `log_sum_exp (m, heads)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::AttentionVjp`]: the vector–Jacobian product of [`Op::Attention`]; overwrites `dq`, `dk`, `dv`, the last
    /// two summed over their group of query heads.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::SwiGlu`]: `p = g · σ(g) · u`, `len` elements.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn swiglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        self.run(Op::SwiGlu { g, u, len, p })
    }

    /// [`Op::SwiGluVjp`]: in place: `u ← dp · g σ(g)`, `g ← dp · u σ(g) (1 + g (1 − σ(g)))`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn swiglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::SwiGluVjp { dp, g, u, len })
    }

    /// [`Op::GeGlu`]: `p = gelu(g) · u`, gelu by its tanh approximation.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn geglu(&self, g: Src<'_>, u: Src<'_>, len: usize, p: Dst<'_>) -> Result<()> {
        self.run(Op::GeGlu { g, u, len, p })
    }

    /// [`Op::GeGluVjp`]: in place: `u ← dp · gelu(g)`, `g ← dp · u · gelu'(g)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn geglu_vjp(&self, dp: Src<'_>, g: Dst<'_>, u: Dst<'_>, len: usize) -> Result<()> {
        self.run(Op::GeGluVjp { dp, g, u, len })
    }

    /// [`Op::Dropout`]: `y (+)= mask ⊙ x / (1 − rate)`; its own vector–Jacobian product.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn dropout(&self, x: Src<'_>, y: Dst<'_>, len: usize, mask: Mask, add: bool) -> Result<()> {
        self.run(Op::Dropout { x, y, len, mask, add })
    }

    /// [`Op::LogSumExp`]: takes logits `a (m, n)` of the entries `columns` into the running `log_sum_exp (m)` and
    /// `picked (m)`, the logit of a row's target where that is among them; `targets (m)`, and where wanted `most (m)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn log_sum_exp(
        &self,
        a: Src<'_>,
        m: usize,
        n: usize,
        columns: Columns<'_>,
        targets: Src<'_>,
        log_sum_exp: Dst<'_>,
        picked: Dst<'_>,
        most: Option<Dst<'_>>,
    ) -> Result<()> {
        self.run(Op::LogSumExp { a, m, n, columns, targets, log_sum_exp, picked, most })
    }

    /// [`Op::Order`]: `ids (n)` ← the elements of `x (n)` in order of falling value.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn order(&self, x: Src<'_>, n: usize, ids: Dst<'_>) -> Result<()> {
        self.run(Op::Order { x, n, ids })
    }

    /// [`Op::Argmax`]: takes logits `a (best.len(), n)` of the entries `first..` into the most likely entry of each
    /// row; ties go to the lower entry, and NaN is never taken.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn argmax(&self, a: Src<'_>, n: usize, first: usize, best: &mut [Best]) -> Result<()> {
        self.run(Op::Argmax { a, n, first, best })
    }

    /// [`Op::CrossEntropyVjp`]; returns whether any element is `eps` or more before scaling, as far as that is known.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn cross_entropy_vjp(
        &self,
        a: Dst<'_>,
        m: usize,
        n: usize,
        columns: Columns<'_>,
        targets: Src<'_>,
        log_sum_exp: Src<'_>,
        scale: f32,
        eps: f32,
    ) -> Result<bool> {
        let mut matters = true;
        self.run(Op::CrossEntropyVjp { a, m, n, columns, targets, log_sum_exp, scale, eps, matters: &mut matters })?;
        Ok(matters)
    }

    /// [`Op::RowNorms`]: `y (w.rows)`: the Euclidean length of each row of `w`, or with `low` of `w + s · b · a`,
    /// `a (r, w.cols)`, `b (w.rows, r)`, which is never formed.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
    pub fn row_norms(&self, w: Weight<'_>, low: Option<(Weight<'_>, Weight<'_>, f32)>, y: Dst<'_>) -> Result<()> {
        self.run(Op::RowNorms { w, low, y })
    }

    /// [`Op::ScaleColumns`]: `y (m, cols) (+)= x ⊙ (by / over) + bias`, with `by`, `over` and `bias (cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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

    /// [`Op::ColumnDot`]: `to (cols) (+)= Σ_i x (m, cols) ⊙ y (m, cols) / over (cols)`.
    ///
    /// # Errors
    /// As [`Device::run`]: operands that do not fit, cancellation, what the driver says.
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
