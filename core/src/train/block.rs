//! One layer, forward with what its backward will read, and backward: a straight sequence of operations on buffers.

use super::learner::Learner;
use super::params::{Scratch, ScratchSizes};
use super::weights::{Layer, Linear, Tensor};
use crate::blocks::BlockType;
use crate::device::{Buf, Causal, Device, RopeLayout, RopeTable};
use crate::error::{Error, Result};
use crate::ledger::{Category, Tag};
use crate::shape::{Act, Role};

const FORWARD: Tag = Tag::device(Category::Activations, "layer activations");
const BACKWARD: Tag = Tag::device(Category::Workspace, "backward scratch");
const DELTA: Tag = Tag::device(Category::Workspace, "adapter scratch");

/// The widest of a model's layers, by which rooms are sized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// Elements of a token in the residual stream.
    pub hidden: usize,
    /// Elements of a token's queries: `heads · dim`.
    pub q: usize,
    /// Elements of a token's keys, and of its values: `kv_heads · dim`.
    pub kv: usize,
    /// Elements of a token inside the feed-forward.
    pub ff: usize,
    /// Query heads of the layer that has most.
    pub heads: usize,
    /// Heads are normed before they turn.
    pub qk_norm: bool,
    /// What attention and the feed-forward give is normed before it is added.
    pub post_norms: bool,
}

impl Widths {
    /// The widest of each over all layers of `shape`.
    pub fn of(shape: &crate::shape::ModelShape) -> Self {
        let has = |role| shape.layers.iter().any(|l| l.tensors.has(role));
        Self {
            hidden: shape.hidden,
            q: shape.widest(|l| l.attention.q()),
            kv: shape.widest(|l| l.attention.kv()),
            ff: shape.widest(|l| l.ffn.width()),
            heads: shape.widest(|l| l.attention.heads),
            qk_norm: has(Role::QNorm),
            post_norms: has(Role::PostAttnNorm),
        }
    }
}

/// What a layer's forward leaves for its backward. What a norm or the gate gives back for free is not among it, so a token
/// costs `2 hidden + 2 q + 2 kv + 2 ff + heads` elements, with normed heads `q + kv` more, with norms after each half of a
/// layer `2 hidden` more.
pub struct Saved {
    x: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    o: Buf,
    log_sum_exp: Buf,
    mid: Buf,
    gate: Buf,
    up: Buf,
    /// Queries and keys before their norms, where heads are normed.
    raw: Option<[Buf; 2]>,
    /// What attention and the feed-forward gave before their norms, where that is normed.
    given: Option<[Buf; 2]>,
}

impl Saved {
    /// Room for `m` tokens, counted under `tag`.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn new(d: &dyn Device, tag: Tag, w: Widths, m: usize) -> Result<Self> {
        let floats = |n: usize| d.buffer(tag, d.activations(), m * n);
        // Backward puts the gradients of attention's output and of the queries where gate and up were.
        let ff = w.ff.max(w.q);
        Ok(Self {
            x: floats(w.hidden)?,
            q: floats(w.q)?,
            k: floats(w.kv)?,
            v: floats(w.kv)?,
            o: floats(w.q)?,
            log_sum_exp: d.buffer(tag, BlockType::F32, m * w.heads)?,
            mid: floats(w.hidden)?,
            gate: floats(ff)?,
            up: floats(ff)?,
            raw: if w.qk_norm { Some([floats(w.q)?, floats(w.kv)?]) } else { None },
            given: if w.post_norms { Some([floats(w.hidden)?, floats(w.hidden)?]) } else { None },
        })
    }
}

/// What layers compute in, forward and backward; all of them share it.
pub struct BlockWorkspace {
    /// A norm's output, `(m, hidden)`.
    pub normed: Buf,
    /// The gate's output, then its gradient, `(m, ff)`.
    wide: Buf,
    /// What a [`super::params::Adapted`] asks for.
    delta: Scratch,
}

impl BlockWorkspace {
    /// Room for `m` tokens.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn new(d: &dyn Device, w: Widths, m: usize, layers: &[Layer]) -> Result<Self> {
        let linears = layers.iter().flat_map(Layer::linears);
        let sizes = linears
            .filter_map(|l| l.on.as_ref().map(|(adapted, _)| adapted.scratch(m, l.w.rows, l.w.cols)))
            .fold(ScratchSizes::default(), ScratchSizes::max);
        let delta = |n| d.buffer(DELTA, d.activations(), n);
        Ok(Self {
            normed: d.buffer(FORWARD, d.activations(), m * w.hidden)?,
            wide: d.buffer(FORWARD, d.activations(), m * w.ff.max(w.kv))?,
            delta: Scratch {
                low: delta(sizes.low)?,
                wide: delta(sizes.wide)?,
                out: delta(sizes.out)?,
                norms: d.buffer(DELTA, BlockType::F32, sizes.norms)?,
            },
        })
    }
}

/// The gradients that backward carries from layer to layer, beside [`Saved`] and [`BlockWorkspace`].
pub struct Back {
    /// The gradient of the residual stream, `(m, hidden)`: of a layer's output, then of its input.
    pub g: Buf,
    /// The gradient of a norm's output, `(m, hidden)`.
    pub d_normed: Buf,
    /// The gradient of the values, `(m, kv)`.
    dv: Buf,
}

impl Back {
    /// Room for `m` tokens, around a gradient that a head has left.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn new(d: &dyn Device, w: Widths, m: usize, d_normed: Buf) -> Result<Self> {
        Ok(Self {
            g: d.buffer(BACKWARD, d.activations(), m * w.hidden)?,
            d_normed,
            dv: d.buffer(BACKWARD, d.activations(), m * w.kv)?,
        })
    }

    /// The buffer of [`Self::d_normed`], which a head needs first.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn d_normed(d: &dyn Device, w: Widths, m: usize) -> Result<Buf> {
        d.buffer(BACKWARD, d.activations(), m * w.hidden)
    }
}

/// What all layers of a pass share.
pub struct Pass<'a> {
    /// The device that computes it.
    pub d: &'a dyn Device,
    /// Tokens of the batch: `sequences · length`.
    pub m: usize,
    /// Sequences of the batch, and tokens of each.
    pub rows: (usize, usize),
    /// Elements of a token in the residual stream.
    pub hidden: usize,
    /// What norms add to the mean square.
    pub eps: f32,
    /// What each half of a layer adds to the stream is multiplied by it.
    pub residual: f32,
    /// Of each rotation of the model, cosines and sines, `(positions, half)`.
    pub turns: &'a [[Buf; 2]],
    /// Pairs of a head that turn.
    pub half: usize,
    /// Which two elements of a head are a pair.
    pub pairs: RopeLayout,
    /// The position of each token in its document, ids `(m)`.
    pub positions: &'a Buf,
    /// Where in its row the document of each token begins, ids `(m)`.
    pub segments: &'a Buf,
}

impl Pass<'_> {
    fn causal(&self, layer: &Layer) -> Causal {
        Causal {
            sequences: self.rows.0,
            length: self.rows.1,
            heads: layer.attention.heads,
            kv_heads: layer.attention.kv_heads,
            dim: layer.attention.dim,
            scale: layer.attention.scale,
            window: layer.attention.window,
            cap: layer.attention.cap,
        }
    }

    /// Turns `heads` heads of queries or keys, or turns their gradient back, where the layer turns at all.
    fn turn(&self, layer: &Layer, x: &mut Buf, heads: usize, inverse: bool) -> Result<()> {
        let &Self { turns, positions, half, pairs, .. } = self;
        let Some([cos, sin]) = layer.attention.rope.and_then(|rope| turns.get(rope)) else { return Ok(()) };
        let table = RopeTable { cos, sin, positions, half, pairs, inverse };
        self.d.rope(x.all_mut(), self.m, heads, layer.attention.dim, table)
    }

    fn norm(&self, learner: &Learner, x: &Buf, w: &Tensor, y: &mut Buf) -> Result<()> {
        self.d.rms_norm(x.all(), w.buf(learner).all(), self.m, self.hidden, self.eps, y.all_mut())
    }

    /// What linears read of the stream `x`: its norm, or itself where the layer has no such norm.
    fn input(&self, learner: &Learner, x: &Buf, w: Option<&Tensor>, y: &mut Buf) -> Result<()> {
        match w {
            Some(w) => self.norm(learner, x, w, y),
            None => self.d.copy(x.all(), y.all_mut(), self.m * self.hidden),
        }
    }

    /// The way back of [`Self::input`]: `dx += dy`, through the norm where there is one.
    fn input_back(&self, learner: &mut Learner, w: Option<&Tensor>, x: &Buf, dy: &Buf, dx: &mut Buf) -> Result<()> {
        match w {
            Some(w) => self.norm_back(learner, w, x, dy, dx),
            None => self.d.axpy(1.0, dy.all(), dx.all_mut(), self.m * self.hidden),
        }
    }

    /// `p = act(g) · u`.
    fn gate(&self, layer: &Layer, saved: &Saved, p: &mut Buf) -> Result<()> {
        let len = self.m * layer.ff;
        match layer.act {
            Act::Silu => self.d.swiglu(saved.gate.all(), saved.up.all(), len, p.all_mut()),
            Act::GeluTanh => self.d.geglu(saved.gate.all(), saved.up.all(), len, p.all_mut()),
            Act::ClampedSwiglu => Err(no_gradient()),
        }
    }

    /// A linear of the normed stream whose heads are normed where the layer says so: what it gave goes to `raw` then.
    fn heads(
        &self,
        (linear, norm): (&Linear, Option<&Tensor>),
        learner: &Learner,
        x: &Buf,
        raw: Option<&mut Buf>,
        y: &mut Buf,
        delta: &mut Scratch,
    ) -> Result<()> {
        let (d, m) = (self.d, self.m);
        let (Some(norm), Some(raw)) = (norm, raw) else {
            return linear.forward(d, learner, x.all(), m, y.all_mut(), false, delta);
        };
        linear.forward(d, learner, x.all(), m, raw.all_mut(), false, delta)?;
        let rows = m * linear.w.rows / norm.cols;
        d.rms_norm(raw.all(), norm.buf(learner).all(), rows, norm.cols, self.eps, y.all_mut())
    }

    /// What a half of the layer adds to the stream `x`, normed where the layer says so: what it gave goes to `given` then, and
    /// its norm passes through `room`.
    fn give(
        &self,
        (linear, norm): (&Linear, Option<&Tensor>),
        learner: &Learner,
        from: &Buf,
        given: Option<&mut Buf>,
        room: &mut Buf,
        x: &mut Buf,
        delta: &mut Scratch,
    ) -> Result<()> {
        let (d, m) = (self.d, self.m);
        match (norm, given) {
            (Some(norm), Some(given)) => {
                linear.forward(d, learner, from.all(), m, given.all_mut(), false, delta)?;
                self.norm(learner, given, norm, room)?;
            }
            _ if self.residual == 1.0 => return linear.forward(d, learner, from.all(), m, x.all_mut(), true, delta),
            _ => linear.forward(d, learner, from.all(), m, room.all_mut(), false, delta)?,
        }
        d.axpy(self.residual, room.all(), x.all_mut(), m * self.hidden)
    }

    /// One layer in place on the residual stream `x (m, hidden)`. With `only_saved` it ends once `saved` is full: the stream
    /// then holds nothing of use.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn forward(
        &self,
        layer: &Layer,
        learner: &Learner,
        x: &mut Buf,
        saved: &mut Saved,
        room: &mut BlockWorkspace,
        only_saved: bool,
    ) -> Result<()> {
        let (d, m) = (self.d, self.m);
        let BlockWorkspace { normed, wide, delta } = room;
        d.copy(x.all(), saved.x.all_mut(), m * self.hidden)?;
        self.input(learner, x, layer.attn_norm.as_ref(), normed)?;
        let [raw_q, raw_k] = both(&mut saved.raw);
        self.heads((&layer.q, layer.q_norm.as_ref()), learner, normed, raw_q, &mut saved.q, delta)?;
        self.heads((&layer.k, layer.k_norm.as_ref()), learner, normed, raw_k, &mut saved.k, delta)?;
        layer.v.forward(d, learner, normed.all(), m, saved.v.all_mut(), false, delta)?;
        self.turn(layer, &mut saved.q, layer.attention.heads, false)?;
        self.turn(layer, &mut saved.k, layer.attention.kv_heads, false)?;
        let Saved { q, k, v, o, log_sum_exp, .. } = saved;
        let of = self.causal(layer);
        d.attention(q.all(), k.all(), v.all(), self.segments.all(), of, o.all_mut(), log_sum_exp.all_mut())?;
        let [attended, _] = both(&mut saved.given);
        self.give((&layer.o, layer.post_attn_norm.as_ref()), learner, &saved.o, attended, normed, x, delta)?;
        d.copy(x.all(), saved.mid.all_mut(), m * self.hidden)?;
        self.input(learner, x, layer.ffn_norm.as_ref(), normed)?;
        layer.gate.forward(d, learner, normed.all(), m, saved.gate.all_mut(), false, delta)?;
        layer.up.forward(d, learner, normed.all(), m, saved.up.all_mut(), false, delta)?;
        if only_saved && layer.post_ffn_norm.is_none() {
            return Ok(());
        }
        self.gate(layer, saved, wide)?;
        let [_, fed] = both(&mut saved.given);
        self.give((&layer.down, layer.post_ffn_norm.as_ref()), learner, wide, fed, normed, x, delta)
    }

    /// The vector–Jacobian product of a layer: `back.g` goes in as the gradient of its output and comes out as that of its
    /// input, unless nothing `below` learns. Parameters are updated as their bins fill. `saved` is used up.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn backward(
        &self,
        layer: &Layer,
        learner: &mut Learner,
        saved: &mut Saved,
        room: &mut BlockWorkspace,
        back: &mut Back,
        below: bool,
    ) -> Result<()> {
        self.feed_forward_back(layer, learner, saved, room, back)?;
        self.attention_back(layer, learner, saved, room, back, below)
    }

    /// [`Self::backward`] of the feed-forward and its norms: `back.g` becomes the gradient of what came into it.
    fn feed_forward_back(
        &self,
        layer: &Layer,
        learner: &mut Learner,
        saved: &mut Saved,
        room: &mut BlockWorkspace,
        back: &mut Back,
    ) -> Result<()> {
        let (d, m) = (self.d, self.m);
        let BlockWorkspace { normed, wide, delta } = room;
        let Back { g, d_normed, .. } = back;
        let [_, fed] = both(&mut saved.given);
        let given = self.give_back(learner, layer.post_ffn_norm.as_ref(), fed, g, d_normed)?;
        let dy = if given { &*d_normed } else { &*g };
        if layer.down.learns() {
            self.gate(layer, saved, wide)?;
            layer.down.grads(d, learner, wide.all(), dy.all(), m, delta)?;
        }
        layer.down.dx(d, learner, dy.all(), m, wide.all_mut(), false, delta)?;
        layer.down.close(d, learner)?;
        let (gate, up) = (saved.gate.all_mut(), saved.up.all_mut());
        match layer.act {
            Act::Silu => d.swiglu_vjp(wide.all(), gate, up, m * layer.ff)?,
            Act::GeluTanh => d.geglu_vjp(wide.all(), gate, up, m * layer.ff)?,
            Act::ClampedSwiglu => return Err(no_gradient()),
        }
        if layer.gate.learns() || layer.up.learns() {
            self.input(learner, &saved.mid, layer.ffn_norm.as_ref(), normed)?;
        }
        self.through(&layer.gate, learner, normed, &saved.gate, d_normed, true, delta)?;
        self.through(&layer.up, learner, normed, &saved.up, d_normed, false, delta)?;
        self.input_back(learner, layer.ffn_norm.as_ref(), &saved.mid, d_normed, g)
    }

    /// [`Self::backward`] of attention and its norms: `back.g` becomes the gradient of the layer's input.
    fn attention_back(
        &self,
        layer: &Layer,
        learner: &mut Learner,
        saved: &mut Saved,
        room: &mut BlockWorkspace,
        back: &mut Back,
        below: bool,
    ) -> Result<()> {
        let (d, m) = (self.d, self.m);
        let BlockWorkspace { normed, wide, delta } = room;
        let Back { g, d_normed, dv } = back;
        let reads = layer.q.learns() || layer.k.learns() || layer.v.learns();
        let through = below || reads || layer.attn_norm.as_ref().is_some_and(|n| n.param().is_some());
        let through = through || [&layer.q_norm, &layer.k_norm].into_iter().flatten().any(|n| n.param().is_some());
        let [attended, _] = both(&mut saved.given);
        let given = self.give_back(learner, layer.post_attn_norm.as_ref(), attended, g, d_normed)?;
        let dy = if given { &*d_normed } else { &*g };
        if layer.o.learns() {
            layer.o.grads(d, learner, saved.o.all(), dy.all(), m, delta)?;
        }
        if through {
            layer.o.dx(d, learner, dy.all(), m, saved.gate.all_mut(), false, delta)?;
        }
        layer.o.close(d, learner)?;
        if !through {
            return Ok(());
        }
        let (of, dk) = (self.causal(layer), wide);
        {
            let Saved { q, k, v, o, log_sum_exp, gate, up, .. } = &mut *saved;
            d.attention_vjp(
                q.all(),
                k.all(),
                v.all(),
                o.all(),
                log_sum_exp.all(),
                gate.all(),
                self.segments.all(),
                of,
                up.all_mut(),
                dk.all_mut(),
                dv.all_mut(),
            )?;
        }
        self.turn(layer, &mut saved.up, layer.attention.heads, true)?;
        self.turn(layer, dk, layer.attention.kv_heads, true)?;
        if reads {
            self.input(learner, &saved.x, layer.attn_norm.as_ref(), normed)?;
        }
        // What attention read has done its part: gradients before the norms of heads go there.
        let [raw_q, raw_k] = both(&mut saved.raw);
        let normed_q = self.heads_back(learner, layer.q_norm.as_ref(), raw_q, &saved.up, &mut saved.gate)?;
        let normed_k = self.heads_back(learner, layer.k_norm.as_ref(), raw_k, dk, &mut saved.k)?;
        let dq = if normed_q { &saved.gate } else { &saved.up };
        let dk = if normed_k { &saved.k } else { &*dk };
        self.through(&layer.q, learner, normed, dq, d_normed, true, delta)?;
        self.through(&layer.k, learner, normed, dk, d_normed, false, delta)?;
        self.through(&layer.v, learner, normed, dv, d_normed, false, delta)?;
        self.input_back(learner, layer.attn_norm.as_ref(), &saved.x, d_normed, g)
    }

    /// A linear that reads a norm's output: its gradients, its share of the norm's, and its update.
    fn through(
        &self,
        linear: &Linear,
        learner: &mut Learner,
        x: &Buf,
        dy: &Buf,
        dx: &mut Buf,
        first: bool,
        delta: &mut Scratch,
    ) -> Result<()> {
        if linear.learns() {
            linear.grads(self.d, learner, x.all(), dy.all(), self.m, delta)?;
        }
        linear.dx(self.d, learner, dy.all(), self.m, dx.all_mut(), !first, delta)?;
        linear.close(self.d, learner)
    }

    /// The gradient of what a half of the layer gave before its norm and the model's factor into `dx`, from `dy` of what was added;
    /// false where there is neither. `dy` is left as it was.
    fn give_back(
        &self,
        learner: &mut Learner,
        norm: Option<&Tensor>,
        given: Option<&mut Buf>,
        dy: &Buf,
        dx: &mut Buf,
    ) -> Result<bool> {
        let (d, len) = (self.d, self.m * self.hidden);
        match (norm, given) {
            // No model has both; `super::weights::check` says so.
            (Some(norm), Some(given)) => {
                d.fill(dx.all_mut(), len, 0.0)?;
                self.norm_back(learner, norm, given, dy, dx)?;
            }
            _ if self.residual == 1.0 => return Ok(false),
            _ => {
                d.copy(dy.all(), dx.all_mut(), len)?;
                d.scale(dx.all_mut(), len, self.residual)?;
            }
        }
        Ok(true)
    }

    /// The gradient of heads before their norm into `dx`, from `dy` after it; false where they have none.
    fn heads_back(
        &self,
        learner: &mut Learner,
        norm: Option<&Tensor>,
        raw: Option<&mut Buf>,
        dy: &Buf,
        dx: &mut Buf,
    ) -> Result<bool> {
        let (Some(norm), Some(raw)) = (norm, raw) else { return Ok(false) };
        let rows = raw.len() / norm.cols;
        self.d.fill(dx.all_mut(), rows * norm.cols, 0.0)?;
        self.rows_back(learner, norm, raw, dy, dx, rows)?;
        Ok(true)
    }

    /// `dx += ∂norm/∂xᵀ dy`, and the norm's own gradient and update where it learns.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn norm_back(&self, learner: &mut Learner, w: &Tensor, x: &Buf, dy: &Buf, dx: &mut Buf) -> Result<()> {
        self.rows_back(learner, w, x, dy, dx, self.m)
    }

    /// [`Self::norm_back`] of `rows` rows as wide as the norm.
    fn rows_back(&self, learner: &mut Learner, w: &Tensor, x: &Buf, dy: &Buf, dx: &mut Buf, rows: usize) -> Result<()> {
        let (d, cols, eps) = (self.d, w.cols, self.eps);
        let Some(id) = w.param() else {
            return d.rms_norm_vjp(dy.all(), x.all(), w.buf(learner).all(), rows, cols, eps, dx.all_mut(), None);
        };
        learner.open_with(id, |own, into, add| {
            d.rms_norm_vjp(dy.all(), x.all(), own.all(), rows, cols, eps, dx.all_mut(), Some((into, add)))
        })?;
        learner.close(d, id)
    }
}

/// Both of two buffers, where they are.
fn both(pair: &mut Option<[Buf; 2]>) -> [Option<&mut Buf>; 2] {
    match pair {
        Some([a, b]) => [Some(a), Some(b)],
        None => [None, None],
    }
}

/// Of a gate that [`super::weights::check`] refuses.
fn no_gradient() -> Error {
    Error::Internal("a clamped gate in training".into())
}
