//! The learner: everything that learns, its gradients as long as `train.grad_hold` says, and its optimizer state.
//!
//! A backward pass *opens* a parameter, puts its gradient where it is told, and *closes* it. Parameters are gathered in
//! bins: one for all, one a layer, or one a matrix (with its bias, or the adapters on it). All bins but the first kind share
//! one buffer, as large as the largest; a full bin is clipped, updated in place and forgotten. A tied embedding gets two
//! gradients, from head and embedding, far apart, so its place is its own.

use super::broken::{GRADIENT, REMEDY};
use super::optimizer::{Optimizer, Shape, Slot, StepInfo, Update, sgd};
use crate::blocks::BlockType;
use crate::config::train::{Clip, ClipBy, Hold, Rounding};
use crate::device::{Buf, Device, Dst, Gradient, Mask, Op, Round, Src};
use crate::error::{Diverged, Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::ledger::{Category, Tag};

/// The ledger row of gradients.
pub const GRADIENTS: Tag = Tag::device(Category::Gradients, "gradients");
/// The ledger row of optimizer state.
pub const STATE: Tag = Tag::device(Category::Optimizer, "optimizer state");
/// The ledger row of what rounding keeps: lost parts or master copies.
pub const ROUNDING: Tag = Tag::device(Category::Optimizer, "rounding copies");
/// The ledger row of what an optimizer needs while it updates.
pub const SCRATCH: Tag = Tag::device(Category::Workspace, "optimizer scratch");
/// The ledger row of gradient norms.
const NORMS: Tag = Tag::device(Category::Workspace, "gradient norms");

/// A parameter `(rows, cols)`: its values, and what learning keeps for it.
pub struct Param {
    /// Its name: that of the model's tensor, with the adapter's suffix where it is one.
    pub name: String,
    /// Its values, f32 or bf16.
    pub buf: Buf,
    /// Rows: outputs; 1 for norms and biases.
    pub rows: usize,
    /// Columns: inputs.
    pub cols: usize,
    /// Layer it counts to: 0 the embedding, 1.. the layers, then norm and head.
    pub group: usize,
    /// Number of the matrix it belongs to: its bias and the adapters on it share it.
    pub unit: usize,
    /// Whether it learns; one that does not is only held here.
    pub learns: bool,
    /// Whether it is an adapter's, and no tensor of the model.
    pub adapter: bool,
    /// Multiplied onto the learning rate: LoRA+'s ratio, else 1.
    pub lr: f32,
    /// Gradients it gets in a backward pass: 2 when embedding and head are one.
    pub uses: usize,
    /// Optimizer state, in the order of `slots`.
    pub state: Vec<Buf>,
    /// The lost parts or the master copy that rounding keeps.
    pub copy: Option<Buf>,
    /// What `state` is, as the optimizer's plan has it.
    pub slots: Vec<Slot>,
    at: usize,
    bin: usize,
    seen: usize,
}

impl Param {
    /// A parameter that has no gradient, state or copy yet.
    pub fn new(name: String, buf: Buf, rows: usize, cols: usize, group: usize, unit: usize, learns: bool) -> Self {
        Self {
            name,
            buf,
            rows,
            cols,
            group,
            unit,
            learns,
            adapter: false,
            lr: 1.0,
            uses: 1,
            state: Vec::new(),
            copy: None,
            slots: Vec::new(),
            at: 0,
            bin: 0,
            seen: 0,
        }
    }

    /// Elements: `rows · cols`.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As its optimizer sees it, in a model of so many groups.
    fn shape(&self, groups: usize) -> Shape {
        let linear = self.rows > 1 && (1..groups.saturating_sub(1)).contains(&self.group);
        Shape { linear, rows: self.rows, cols: self.cols }
    }

    /// How new values are stored, by the run's rule, in step `step` of parameter `id`.
    fn round(copy: Option<&mut Buf>, rules: Rules, step: u64, id: usize) -> Round<'_> {
        match (rules.round, copy) {
            (Rounding::Kahan, Some(copy)) => Round::Kahan(copy),
            (Rounding::Master, Some(copy)) => Round::Master(copy),
            // A step and a parameter have a stream of their own.
            (Rounding::Stochastic, _) => Round::Stochastic { seed: rules.seed, stream: step << 24 | id as u64 },
            _ => Round::Nearest,
        }
    }
}

/// How updates are made, all step long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How long gradients are held, train.grad_hold.
    pub hold: Hold,
    /// How gradients are clipped, train.clip.
    pub clip: Clip,
    /// How updated values are stored, train.round.
    pub round: Rounding,
    /// `run.seed`, of stochastic rounding, dropout and directions.
    pub seed: u64,
    /// In what type gradients are held.
    pub gradients: BlockType,
}

/// Where gradients lie: pure arithmetic, so that tests and plans can ask for it alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layout {
    /// Elements of the gradient buffer.
    len: usize,
    /// Gradients that fill each bin.
    full: Vec<usize>,
}

/// Everything that learns: parameters, their gradients, their optimizer's state.
pub struct Learner {
    params: Vec<Param>,
    optimizer: Box<dyn Optimizer>,
    rules: Rules,
    layout: Layout,
    gradients: Option<Buf>,
    norms: Option<Buf>,
    scratch: Vec<Buf>,
    /// Groups of parameters: the embedding, the layers, then norm and head.
    groups: usize,
    /// Gradients that came to each bin in this backward pass.
    filled: Vec<usize>,
    /// Squared norms of this step, by group.
    squares: Vec<f64>,
    step: u64,
    lr: f32,
    clipped: bool,
    /// The micro-batch of the run that is learned from, while one is.
    pass: Option<u64>,
}

/// Philox streams of directions, apart from those of other uses.
const DIRECTION: u64 = 3 << 60;
/// Philox streams of dropout, apart from those of other uses.
const DROPOUT: u64 = 1 << 63;

impl Learner {
    /// A learner without parameters.
    pub fn new(optimizer: Box<dyn Optimizer>, rules: Rules) -> Self {
        Self {
            params: Vec::new(),
            optimizer,
            rules,
            layout: Layout::default(),
            gradients: None,
            norms: None,
            scratch: Vec::new(),
            groups: 0,
            filled: Vec::new(),
            squares: Vec::new(),
            step: 0,
            lr: 0.0,
            clipped: false,
            pass: None,
        }
    }

    /// Takes a parameter in; returns its number.
    pub fn add(&mut self, param: Param) -> usize {
        // Names and places are bookkeeping, not payload.
        scoped(Scope::Program, || self.params.push(param));
        self.params.len() - 1
    }

    /// Whether parameters are updated while gradients still come, and not at a step's end.
    pub fn updates_early(&self) -> bool {
        self.rules.hold != Hold::All
    }

    /// All parameters, in the order of their numbers.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// All parameters, and nothing else of it.
    pub fn into_params(self) -> Vec<Param> {
        self.params
    }

    /// Parameter `id`, to change.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn param_mut(&mut self, id: usize) -> Result<&mut Param> {
        self.params.get_mut(id).ok_or_else(|| Error::Internal(format!("there is no parameter {id}")))
    }

    /// The values of parameter `id`; asked only for numbers that [`Self::add`] gave.
    pub fn buf(&self, id: usize) -> &Buf {
        &self.params[id].buf
    }

    /// Whether parameter `id` gets gradients.
    pub fn learns(&self, id: usize) -> bool {
        self.params[id].learns
    }

    /// Elements of all parameters that learn.
    pub fn learning(&self) -> usize {
        self.params.iter().filter(|p| p.learns).map(Param::len).sum()
    }

    /// Squared gradient norms of the last step before clipping, by group.
    pub fn squares(&self) -> &[f64] {
        &self.squares
    }

    /// Whether the last step clipped anything by norm.
    pub fn clipped(&self) -> bool {
        self.clipped
    }

    /// Lays gradients out and takes the buffers for them, where they are `held`, and for optimizer state. `groups` is the
    /// number of groups.
    ///
    /// # Errors
    /// [`Error::OverBudget`] when the budget has no room for it.
    pub fn hold(&mut self, d: &dyn Device, groups: usize, held: bool) -> Result<()> {
        self.groups = groups;
        if held {
            self.lay_out(d, groups)?;
        }
        let mut scratch: Vec<usize> = Vec::new();
        for p in self.params.iter_mut().filter(|p| p.learns) {
            let plan = self.optimizer.plan(p.shape(groups));
            scratch.resize(scratch.len().max(plan.scratch.len()), 0);
            scratch.iter_mut().zip(&plan.scratch).for_each(|(most, n)| *most = (*most).max(*n));
            p.state = plan.state.iter().map(|s| d.buffer(STATE, s.ty, s.len())).collect::<Result<_>>()?;
            p.slots = plan.state;
            p.copy = match (p.buf.ty(), self.rules.round) {
                (BlockType::Bf16, Rounding::Kahan) => Some(d.buffer(ROUNDING, BlockType::Bf16, p.len())?),
                (BlockType::Bf16, Rounding::Master) => Some(d.buffer(ROUNDING, BlockType::F32, p.len())?),
                _ => None,
            };
        }
        self.scratch = scratch.into_iter().map(|n| d.buffer(SCRATCH, BlockType::F32, n)).collect::<Result<_>>()?;
        Ok(())
    }

    fn lay_out(&mut self, d: &dyn Device, groups: usize) -> Result<()> {
        let hold = self.rules.hold;
        // Bins by number in order of first use; a parameter used twice has one of its own, as its gradient outlives others.
        let mut names: Vec<(bool, usize)> = Vec::new();
        let mut ends: Vec<usize> = Vec::new();
        let mut full: Vec<usize> = Vec::new();
        for (id, p) in self.params.iter_mut().enumerate().filter(|(_, p)| p.learns) {
            let own = p.uses > 1 && hold != Hold::All;
            let name = match hold {
                Hold::All => (false, 0),
                _ if own => (true, id),
                Hold::Layer => (false, p.group),
                Hold::Matrix => (false, p.unit),
            };
            p.bin = names.iter().rposition(|n| *n == name).unwrap_or_else(|| {
                names.push(name);
                ends.push(0);
                full.push(0);
                names.len() - 1
            });
            p.at = ends[p.bin];
            ends[p.bin] += p.len();
            full[p.bin] += p.uses;
        }
        // Shared bins begin at 0; those of tied parameters come after them.
        let mut len = names.iter().zip(&ends).filter(|(n, _)| !n.0).map(|(_, e)| *e).max().unwrap_or(0);
        for p in self.params.iter_mut().filter(|p| p.learns && names[p.bin].0) {
            p.at = len;
            len += p.len();
        }
        self.filled = vec![0; names.len()];
        self.squares = vec![0.0; groups];
        self.layout = Layout { len, full };
        self.gradients = Some(d.buffer(GRADIENTS, self.rules.gradients, len)?);
        self.norms = Some(d.buffer(NORMS, BlockType::F32, self.params.len())?);
        Ok(())
    }

    /// Master copies take the parameters' values where they have no better ones: after loading.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn fill_masters(&mut self, d: &dyn Device) -> Result<()> {
        for p in &mut self.params {
            let Some(copy) = p.copy.as_mut().filter(|c| c.ty() == BlockType::F32) else { continue };
            d.cast(p.buf.all(), copy.all_mut(), p.buf.len())?;
        }
        Ok(())
    }

    /// Says which micro-batch of the run is learned from; none while nothing is, when nothing is dropped either.
    pub fn learn_from(&mut self, pass: Option<u64>) {
        self.pass = pass;
    }

    /// What dropout at `rate` on the input of parameter `id` takes away in this pass, if anything.
    pub fn mask(&self, id: usize, rate: f32) -> Option<Mask> {
        let pass = self.pass.filter(|_| rate > 0.0)?;
        Some(Mask { seed: self.rules.seed, stream: DROPOUT | pass << 24 | id as u64, rate })
    }

    /// Begins a step: nothing is held of the last one.
    pub fn begin(&mut self, step: u64, lr: f32) {
        (self.step, self.lr, self.clipped) = (step, lr, false);
        self.squares.fill(0.0);
        self.filled.fill(0);
        self.params.iter_mut().for_each(|p| p.seen = 0);
    }

    /// Opens parameter `id`: `put(into, add)` adds its gradient to what is there, or overwrites it.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn open(&mut self, id: usize, put: impl FnOnce(Dst<'_>, bool) -> Result<()>) -> Result<()> {
        let (at, add) = (self.params[id].at, self.params[id].seen > 0);
        self.params[id].seen += 1;
        put(self.buffer()?.at_mut(at), add)
    }

    /// As [`Self::open`], for an operation that reads the parameter too.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn open_with(&mut self, id: usize, put: impl FnOnce(&Buf, Dst<'_>, bool) -> Result<()>) -> Result<()> {
        let (at, add) = (self.params[id].at, self.params[id].seen > 0);
        self.params[id].seen += 1;
        let gradients = self.gradients.as_mut();
        let gradients = gradients.ok_or_else(|| Error::Internal("gradients before they have a place".into()))?;
        put(&self.params[id].buf, gradients.at_mut(at), add)
    }

    /// The gradient of an open parameter from element `from` on, to add to.
    ///
    /// # Errors
    /// [`Error::Internal`] before [`Self::hold`].
    pub fn opened(&mut self, id: usize, from: usize) -> Result<Dst<'_>> {
        let at = self.params[id].at + from;
        Ok(self.buffer()?.at_mut(at))
    }

    /// The gradient of parameter `id` as the last step left it; whole only where `train.grad_hold` is all.
    ///
    /// # Errors
    /// [`Error::Internal`] before [`Self::hold`].
    pub fn gradient(&self, id: usize) -> Result<Src<'_>> {
        let gradients = self.gradients.as_ref();
        let gradients = gradients.ok_or_else(|| Error::Internal("gradients before they have a place".into()))?;
        Ok(gradients.at(self.params[id].at))
    }

    fn buffer(&mut self) -> Result<&mut Buf> {
        self.gradients.as_mut().ok_or_else(|| Error::Internal("gradients before they have a place".into()))
    }

    /// Closes parameter `id` after its gradient was put; updates its bin when that is full and not held to the end.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Diverged`] when a gradient is no number.
    pub fn close(&mut self, d: &dyn Device, id: usize) -> Result<()> {
        if !self.params[id].learns {
            return Ok(());
        }
        let bin = self.params[id].bin;
        self.filled[bin] += 1;
        if self.rules.hold == Hold::All || self.filled[bin] < self.layout.full[bin] {
            return Ok(());
        }
        let ids: Vec<usize> =
            (0..self.params.len()).filter(|i| self.params[*i].learns && self.params[*i].bin == bin).collect();
        self.update(d, &ids)?;
        for id in ids {
            self.params[id].seen = 0;
        }
        Ok(())
    }

    /// Ends a step: updates what was held to the end. Returns the squared norm of all gradients, before clipping.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails; [`Error::Diverged`] when a gradient is no number
    /// (the parameters held to the end then stay as they were).
    pub fn end(&mut self, d: &dyn Device) -> Result<f64> {
        if self.rules.hold == Hold::All {
            let ids: Vec<usize> = (0..self.params.len()).filter(|i| self.params[*i].learns).collect();
            self.update(d, &ids)?;
        }
        Ok(self.squares.iter().sum())
    }

    /// Norms, clipping, and one pass over each parameter of `ids`.
    fn update(&mut self, d: &dyn Device, ids: &[usize]) -> Result<()> {
        let (Some(gradients), Some(norms)) = (&mut self.gradients, &mut self.norms) else {
            return Err(Error::Internal("an update before gradients have a place".into()));
        };
        let spans: Vec<(usize, usize)> = ids.iter().map(|id| (self.params[*id].at, self.params[*id].len())).collect();
        d.squared_norms(gradients.all(), &spans, norms.all_mut())?;
        let mut squares = vec![0.0f32; ids.len()];
        d.download(norms.all(), bytemuck::cast_slice_mut(&mut squares))?;
        let squares: Vec<f64> = squares.into_iter().map(f64::from).collect();
        if let Some(i) = squares.iter().position(|s| !s.is_finite()) {
            let param = &self.params[ids[i]];
            // Groups are the embedding, the layers, then norm and head.
            let layer = (1..self.groups.saturating_sub(1)).contains(&param.group).then(|| param.group - 1);
            let place = Diverged::new(format!("{GRADIENT} {}", param.name), squares[i]);
            return Err(Error::diverged(Diverged { step: Some(self.step), layer, ..place }, REMEDY));
        }
        for (id, s) in ids.iter().zip(&squares) {
            self.squares[self.params[*id].group] += s;
        }
        let Clip { by, at: limit } = self.rules.clip;
        let all: f64 = squares.iter().sum();
        let mut groups = vec![0.0f64; self.squares.len()];
        for (id, s) in ids.iter().zip(&squares) {
            groups[self.params[*id].group] += s;
        }
        // As PyTorch's clip_grad_norm_ has it.
        let factor = |square: f64| (f64::from(limit) / (square.sqrt() + 1e-6)).min(1.0) as f32;
        let scales: Vec<f32> = ids
            .iter()
            .zip(&squares)
            .map(|(id, s)| match by {
                ClipBy::None | ClipBy::Value => 1.0,
                ClipBy::Global => factor(all),
                ClipBy::Layer => factor(groups[self.params[*id].group]),
                ClipBy::Matrix => factor(*s),
            })
            .collect();
        self.clipped |= scales.iter().any(|s| *s < 1.0);
        let clamp = if by == ClipBy::Value { limit } else { f32::INFINITY };
        for (id, scale) in ids.iter().zip(scales) {
            let p = &mut self.params[*id];
            let at = StepInfo { scale, clamp, ..StepInfo::of(self.step, self.lr * p.lr, p.rows > 1, self.rules.seed) };
            let of = p.shape(self.groups);
            let round = Param::round(p.copy.as_mut(), self.rules, self.step, *id);
            let g = Gradient::Held(gradients.at_mut(p.at));
            let (state, scratch) = (&mut p.state[..], &mut self.scratch[..]);
            let made = self.optimizer.update(d, Update { of, p: &mut p.buf, g, state, scratch, round, at });
            made.map_err(|e| e.at_step(self.step))?;
        }
        Ok(())
    }

    /// The direction of this step's parameter `id`, as a gradient that is made where it is needed.
    fn direction(&self, id: usize) -> Gradient<Dst<'static>> {
        Gradient::Normal { seed: self.rules.seed, stream: DIRECTION | self.step << 24 | id as u64 }
    }

    /// Moves everything that learns by `by` times the direction of this step, normal numbers that depend on the seed, the step
    /// and the parameter alone.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn perturb(&mut self, d: &dyn Device, by: f32) -> Result<()> {
        for id in (0..self.params.len()).filter(|id| self.params[*id].learns).collect::<Vec<_>>() {
            let (g, p) = (self.direction(id), &mut self.params[id]);
            let round = Param::round(p.copy.as_mut(), self.rules, self.step, id);
            let (len, state, numbers) = (p.buf.len(), &mut [][..], &[-by, 0.0][..]);
            let (rule, p, g) = (&sgd::SGD, p.buf.all_mut(), g.source());
            d.run(Op::Elementwise { rule, p, len, g, state, numbers, scale: 1.0, clamp: f32::INFINITY, round })?;
        }
        Ok(())
    }

    /// Updates everything that learns by the gradient `slope` times the direction of this step.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] when the driver fails.
    pub fn step_along(&mut self, d: &dyn Device, slope: f32) -> Result<()> {
        let Clip { by, at: limit } = self.rules.clip;
        let clamp = if by == ClipBy::Value { limit } else { f32::INFINITY };
        for id in (0..self.params.len()).filter(|id| self.params[*id].learns).collect::<Vec<_>>() {
            let (g, p) = (self.direction(id), &mut self.params[id]);
            let at = StepInfo::of(self.step, self.lr * p.lr, p.rows > 1, self.rules.seed);
            let at = StepInfo { scale: slope, clamp, ..at };
            let of = p.shape(self.groups);
            let round = Param::round(p.copy.as_mut(), self.rules, self.step, id);
            let (state, scratch) = (&mut p.state[..], &mut self.scratch[..]);
            self.optimizer.update(d, Update { of, p: &mut p.buf, g, state, scratch, round, at })?;
        }
        Ok(())
    }
}
