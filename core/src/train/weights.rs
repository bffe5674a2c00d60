//! The model as training holds it: each tensor frozen in its file's blocks, or a parameter of the learner.

use super::learner::{Learner, Param};
use super::params::{Adapted, Base, Init, LinearCall, Params, Role, Scratch, Spec};
use crate::blocks::{BlockType, Scheme};
use crate::device::{Buf, Device, Dst, Src, Weight};
use crate::error::{Error, Result};
use crate::ledger::{Category, Tag};
use crate::model::Source;
use crate::rng::Philox;
use crate::shape::{Act, Attention, ModelShape, TensorShape, Tensors};
use crate::weights::format::Formats;
use crate::weights::load;

/// The ledger row of frozen weights.
pub const FROZEN: Tag = Tag::device(Category::Weights, "frozen weights");
/// The ledger row of the copy of the weights that learns.
pub const LEARNING: Tag = Tag::device(Category::Weights, "weights that learn");
/// The ledger row of adapters.
pub const ADAPTERS: Tag = Tag::device(Category::Weights, "adapters");

/// Philox streams of initial values, apart from those of other uses.
const STREAM: u64 = 1 << 61;

/// Where a tensor's values are.
#[derive(Debug)]
pub enum Held {
    /// In a buffer of its own, as the file or `weights.format` has them.
    Frozen(Buf),
    /// The learner's parameter of this number.
    Param(usize),
}

/// A tensor of the base, `(rows, cols)`; norms and biases have one row.
#[derive(Debug)]
pub struct Tensor {
    /// Where its values are held.
    pub held: Held,
    /// Rows: outputs; 1 for norms and biases.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
}

impl Tensor {
    /// Its values, its own or the learner's.
    pub fn buf<'a>(&'a self, learner: &'a Learner) -> &'a Buf {
        match &self.held {
            Held::Frozen(buf) => buf,
            Held::Param(id) => learner.buf(*id),
        }
    }

    /// Its values as the matrix `(rows, cols)` that products take.
    pub fn weight<'a>(&'a self, learner: &'a Learner) -> Weight<'a> {
        Weight::of(self.buf(learner), self.rows, self.cols)
    }

    /// The number of its parameter; `None` where it is frozen.
    pub fn param(&self) -> Option<usize> {
        match self.held {
            Held::Frozen(_) => None,
            Held::Param(id) => Some(id),
        }
    }
}

/// A linear: its base, a bias where there is one, and what a technique has put on it.
pub struct Linear {
    /// The weight `(rows, cols)`.
    pub w: Tensor,
    /// The bias `(1, rows)`, added to every token's output.
    pub bias: Option<Tensor>,
    /// What is put on it, and its parameters.
    pub on: Option<(Box<dyn Adapted>, Vec<usize>)>,
}

impl Linear {
    fn on<'a>(&'a self, m: usize, params: &'a [usize]) -> LinearCall<'a> {
        let base = Base { w: &self.w, bias: self.bias.as_ref() };
        LinearCall { base, m, rows: self.w.rows, cols: self.w.cols, params }
    }

    /// Whether its backward reads its input: some parameter of it learns.
    pub fn learns(&self) -> bool {
        self.w.param().is_some() || self.bias.as_ref().is_some_and(|b| b.param().is_some()) || self.on.is_some()
    }

    /// `y (m, rows) (+)= linear(x (m, cols))`.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn forward(
        &self,
        d: &dyn Device,
        learner: &Learner,
        x: Src<'_>,
        m: usize,
        y: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        match &self.on {
            Some((adapted, params)) => adapted.forward(d, self.on(m, params), learner, x, y, add, scratch),
            None => self.on(m, &[]).base.forward(d, learner, x, m, y, add),
        }
    }

    /// Puts the gradients of what learns in it.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn grads(
        &self,
        d: &dyn Device,
        learner: &mut Learner,
        x: Src<'_>,
        dy: Src<'_>,
        m: usize,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (rows, cols) = (self.w.rows, self.w.cols);
        if let Some(id) = self.w.param() {
            learner.open(id, |into, add| d.linear_dw(dy, x, m, rows, cols, into, add))?;
        }
        if let Some(id) = self.bias.as_ref().and_then(Tensor::param) {
            learner.open(id, |into, add| d.bias_vjp(dy, m, rows, into, add))?;
        }
        match &self.on {
            Some((adapted, params)) => adapted.grads(d, self.on(m, params), learner, x, dy, scratch),
            None => Ok(()),
        }
    }

    /// `dx (+)= ∂linear/∂xᵀ dy`; after [`Self::grads`], whose scratch it may read.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn dx(
        &self,
        d: &dyn Device,
        learner: &Learner,
        dy: Src<'_>,
        m: usize,
        dx: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        match &self.on {
            Some((adapted, params)) => adapted.dx(d, self.on(m, params), learner, dy, dx, add, scratch),
            None => self.on(m, &[]).base.dx(d, learner, dy, m, dx, add),
        }
    }

    /// Lets go of its gradients, which may update its parameters.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Refused`] when a gradient is no number.
    pub fn close(&self, d: &dyn Device, learner: &mut Learner) -> Result<()> {
        let own = self.w.param().into_iter().chain(self.bias.as_ref().and_then(Tensor::param));
        for id in own.chain(self.on.iter().flat_map(|(_, params)| params.iter().copied())) {
            learner.close(d, id)?;
        }
        Ok(())
    }
}

/// A layer's tensors, and what its attention and feed-forward are.
#[allow(missing_docs)]
pub struct Layer {
    pub attention: Attention,
    pub ff: usize,
    pub act: Act,
    pub attn_norm: Option<Tensor>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub q_norm: Option<Tensor>,
    pub k_norm: Option<Tensor>,
    pub o: Linear,
    pub post_attn_norm: Option<Tensor>,
    pub ffn_norm: Option<Tensor>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub post_ffn_norm: Option<Tensor>,
}

impl Layer {
    /// Its linears, in the order of [`Role::LINEARS`].
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    /// Whether anything in it learns.
    pub fn learns(&self) -> bool {
        let own =
            [&self.attn_norm, &self.q_norm, &self.k_norm, &self.post_attn_norm, &self.ffn_norm, &self.post_ffn_norm];
        let mut norms = own.into_iter().flatten();
        self.linears().iter().any(|l| l.learns()) || norms.any(|n| n.param().is_some())
    }
}

/// The tensors of a whole model.
pub struct Weights {
    /// The embedding `(vocab, hidden)`.
    pub embedding: Tensor,
    /// The layers, from the first to the last.
    pub layers: Vec<Layer>,
    /// The norm after the last layer, `(1, hidden)`.
    pub output_norm: Tensor,
    /// The output head `(vocab, hidden)`; `None` where it is the embedding.
    pub head: Option<Tensor>,
}

/// Builds [`Weights`], reading values from a source where there is one.
pub struct Builder<'a> {
    /// The device that holds them.
    pub d: &'a dyn Device,
    /// Where values come from; without one, buffers are only reserved.
    pub source: Option<&'a Source>,
    /// Whether it is a plan's: nothing is read or computed.
    pub plan: bool,
    /// The technique that says what learns.
    pub params: &'a dyn Params,
    /// In what type matrices that learn are held.
    pub ty: BlockType,
    /// How those that do not are held.
    pub formats: &'a Formats,
    /// Bytes of scratch that a conversion takes, see [`load_bytes`].
    pub load: usize,
    /// `run.seed`, of initial values.
    pub seed: u64,
    /// Takes in what learns.
    pub learner: &'a mut Learner,
    /// Told after each tensor, with the bytes read.
    pub progress: &'a mut dyn FnMut(u64),
}

/// How a tensor is held: frozen ones as `formats` say, those that learn in `ty`.
fn held_scheme(t: &TensorShape, learns: bool, ty: BlockType, formats: &Formats) -> Result<Scheme> {
    match (learns, t.rows) {
        (false, _) => formats.of(t),
        // Norms are read as f32 by every op, and are too few to matter.
        (true, 1) => Ok(BlockType::F32.into()),
        (true, _) => Ok(ty.into()),
    }
}

/// Scratch that loading needs, given what learns and how the rest is held.
pub fn load_bytes(shape: &ModelShape, params: &dyn Params, ty: BlockType, formats: &Formats, threads: usize) -> usize {
    // A scheme that does not fit is refused when it is asked for; nothing is loaded then.
    let held = |t: &TensorShape, role: Role| {
        let scheme = held_scheme(t, params.learns(role), ty, formats).unwrap_or(t.ty);
        TensorShape { ty: scheme, ..t.clone() }
    };
    let mut pairs = vec![(shape.embedding.clone(), held(&shape.embedding, Role::Embedding))];
    pairs.push((shape.output_norm.clone(), held(&shape.output_norm, Role::OutputNorm)));
    if let Some(head) = &shape.output {
        pairs.push((head.clone(), held(head, Role::Head)));
    }
    for (role, t) in shape.layers.iter().flat_map(|l| l.tensors.roles()) {
        pairs.push((t.clone(), held(t, role)));
    }
    load::scratch_bytes(pairs.iter().map(|(a, b)| (a, b)), threads)
}

/// Whether training knows what `shape` describes.
///
/// # Errors
/// [`Error::Refused`] naming the first thing that it does not.
pub fn check(shape: &ModelShape) -> Result<()> {
    let experts = shape.layers.iter().find_map(|l| l.ffn.experts());
    let scaled = shape.residual_scale != 1.0 && shape.layers.iter().any(|l| l.tensors.has(Role::PostAttnNorm));
    let what = experts.map(|(count, _)| format!("{count} experts"));
    let clamped = shape.layers.iter().any(|l| l.ffn.act() == Act::ClampedSwiglu);
    let what = what.or(clamped.then(|| "gates that are clamped".to_owned()));
    let sinks = shape.layers.iter().any(|l| l.tensors.has(Role::Sinks));
    let what = what.or(sinks.then(|| "attention with sinks".to_owned()));
    match what.or(scaled.then(|| "norms whose outputs are scaled".to_owned())) {
        Some(what) => Err(Error::refused(
            format!("training {} ({})", shape.name, shape.arch),
            format!(
                "its layers have {what}, through which no gradient is computed so far; run it, or train another model"
            ),
        )),
        None => Ok(()),
    }
}

impl Builder<'_> {
    /// A tensor of the base, in group `group`, updated with the others of `unit`.
    fn tensor(&mut self, t: &TensorShape, role: Role, group: usize, unit: usize) -> Result<Tensor> {
        let learns = self.params.learns(role);
        let to = TensorShape { ty: held_scheme(t, learns, self.ty, self.formats)?, ..t.clone() };
        let tag = if learns { LEARNING } else { FROZEN };
        let mut buf = self.d.tensor(tag, &to)?;
        match self.source {
            Some(source) => self.d.load(source, t, &to, &mut buf)?,
            None if self.plan => self.d.reserve_load(t, &to, self.load)?,
            None => {}
        }
        (self.progress)(t.bytes());
        let held = if learns {
            Held::Param(self.learner.add(Param::new(t.name.clone(), buf, t.rows, t.cols, group, unit, true)))
        } else {
            Held::Frozen(buf)
        };
        Ok(Tensor { held, rows: t.rows, cols: t.cols })
    }

    fn linear(&mut self, tensors: &Tensors, role: Role, group: usize) -> Result<Linear> {
        let t = tensors.need(role)?;
        let unit = self.learner.params().len();
        let w = self.tensor(t, role, group, unit)?;
        let bias = role.bias().and_then(|role| Some((role, tensors.get(role)?)));
        let bias = bias.map(|(role, t)| self.tensor(t, role, group, unit)).transpose()?;
        let Some(adapted) = self.params.adapt(role) else { return Ok(Linear { w, bias, on: None }) };
        let mut ids = Vec::new();
        for spec in adapted.params(t.rows, t.cols) {
            ids.push(self.adapter(&spec, t, &w, group, unit)?);
        }
        Ok(Linear { w, bias, on: Some((adapted, ids)) })
    }

    /// A norm that a layer may have.
    fn norm_if(&mut self, tensors: &Tensors, role: Role, group: usize) -> Result<Option<Tensor>> {
        tensors.get(role).map(|t| self.alone(t, role, group)).transpose()
    }

    /// A tensor that is updated by itself.
    fn alone(&mut self, t: &TensorShape, role: Role, group: usize) -> Result<Tensor> {
        let unit = self.learner.params().len();
        self.tensor(t, role, group, unit)
    }

    /// A parameter that a technique puts on a linear, with its initial values.
    fn adapter(&mut self, spec: &Spec, t: &TensorShape, w: &Tensor, group: usize, unit: usize) -> Result<usize> {
        let len = spec.rows * spec.cols;
        let ty = if spec.init == Init::RowNorms { BlockType::F32 } else { self.ty };
        let mut buf = self.d.buffer(ADAPTERS, ty, len)?;
        if (spec.init, self.plan) == (Init::RowNorms, false) {
            self.d.row_norms(w.weight(self.learner), None, buf.all_mut())?;
        }
        let id = self.learner.params().len();
        if let (Init::Uniform(bound), false) = (spec.init, self.plan) {
            // Any element is a function of its number alone.
            let random = Philox::new(self.seed).stream(STREAM + id as u64);
            let mut room = [0u8; 4096];
            let size = self.ty.block_bytes();
            for at in (0..len).step_by(room.len() / size) {
                let n = (room.len() / size).min(len - at);
                for (i, out) in room.chunks_exact_mut(size).take(n).enumerate() {
                    let value = bound * (2.0 * random.uniform((at + i) as u64) - 1.0);
                    match self.ty {
                        BlockType::Bf16 => out.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
                        _ => out.copy_from_slice(&value.to_le_bytes()),
                    }
                }
                self.d.upload(&room[..n * size], buf.at_mut(at))?;
            }
        }
        let name = format!("{}.{}", t.name, spec.suffix);
        let mut param = Param::new(name, buf, spec.rows, spec.cols, group, unit, spec.learns);
        (param.lr, param.adapter) = (spec.lr, true);
        Ok(self.learner.add(param))
    }

    /// Builds the tensors of `shape`, in the order of the model.
    ///
    /// # Errors
    /// [`Error::OverBudget`]; [`Error::Io`] or [`Error::Model`] when the file cannot be read.
    pub fn build(&mut self, shape: &ModelShape) -> Result<Weights> {
        check(shape)?;
        let last = shape.layers.len() + 1;
        let embedding = self.alone(&shape.embedding, Role::Embedding, 0)?;
        if let (Some(id), None) = (embedding.param(), &shape.output) {
            self.learner.param_mut(id)?.uses = 2;
        }
        let mut layers = Vec::with_capacity(shape.layers.len());
        for (l, layer) in shape.layers.iter().enumerate() {
            let (t, group) = (&layer.tensors, l + 1);
            layers.push(Layer {
                attention: layer.attention.clone(),
                ff: layer.ffn.width(),
                act: layer.ffn.act(),
                attn_norm: self.norm_if(t, Role::AttnNorm, group)?,
                q: self.linear(t, Role::Q, group)?,
                k: self.linear(t, Role::K, group)?,
                v: self.linear(t, Role::V, group)?,
                q_norm: self.norm_if(t, Role::QNorm, group)?,
                k_norm: self.norm_if(t, Role::KNorm, group)?,
                o: self.linear(t, Role::O, group)?,
                post_attn_norm: self.norm_if(t, Role::PostAttnNorm, group)?,
                ffn_norm: self.norm_if(t, Role::FfnNorm, group)?,
                gate: self.linear(t, Role::Gate, group)?,
                up: self.linear(t, Role::Up, group)?,
                down: self.linear(t, Role::Down, group)?,
                post_ffn_norm: self.norm_if(t, Role::PostFfnNorm, group)?,
            });
        }
        let output_norm = self.alone(&shape.output_norm, Role::OutputNorm, last)?;
        let head = shape.output.as_ref().map(|t| self.alone(t, Role::Head, last)).transpose()?;
        Ok(Weights { embedding, layers, output_norm, head })
    }
}
