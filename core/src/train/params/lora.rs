//! LoRA: low-rank adapters on frozen linears (arXiv 2106.09685; PEFT's layout and initialization). On quantized weights
//! they are QLoRA's adapters: the weights stay in their blocks and are decoded as they are multiplied with.

use super::{Adapted, Init, LinearCall, Params, Role, Scratch, ScratchSizes, Spec};
use crate::device::{Buf, Device, Dst, Mask, Src, Weight};
use crate::error::{Error, Result};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::shape::{AdapterKind, PART_A, PART_B};
use crate::train::learner::Learner;

/// The knobs; those that other adapters share come first.
pub(super) const KNOBS: [Knob; 7] = [
    Knob {
        id: "r",
        label: "Rank",
        paper_name: "r",
        kind: KnobKind::Int { min: 1, max: 256 },
        default: Default::Int(8),
        unit: "rows",
        sentence: "Rank of the adapters.",
    },
    Knob {
        id: "lora_alpha",
        label: "Alpha",
        paper_name: "α",
        kind: KnobKind::Float { min: 0.0, max: 4096.0 },
        default: Default::None,
        unit: "",
        sentence: "The adapter's output is scaled by α / r; twice r when not given.",
    },
    Knob {
        id: "target",
        label: "Linears",
        paper_name: "target_modules",
        kind: KnobKind::Text,
        default: Default::Text("all"),
        unit: "",
        sentence: "Which linears get one: all, or some of q,k,v,o,gate,up,down with commas.",
    },
    Knob {
        id: "use_rslora",
        label: "Rank-stabilized",
        paper_name: "rsLoRA (arXiv 2312.03732)",
        kind: KnobKind::Bool,
        default: Default::Bool(false),
        unit: "",
        sentence: "Scale by α / √r instead.",
    },
    Knob {
        id: "loraplus_lr_ratio",
        label: "Learning rate of B over A",
        paper_name: "λ of LoRA+ (arXiv 2402.12354)",
        kind: KnobKind::Float { min: 0.0, max: 1000.0 },
        default: Default::Float(1.0),
        unit: "",
        sentence: "Learning rate of B over that of A.",
    },
    Knob {
        id: "lora_dropout",
        label: "Dropout",
        paper_name: "lora_dropout",
        kind: KnobKind::Float { min: 0.0, max: 0.95 },
        default: Default::Float(0.0),
        unit: "",
        sentence: "Chance of each element of an adapter's input to be left out of a training step; none when answering.",
    },
    Knob {
        id: "freeze_a",
        label: "Freeze A",
        paper_name: "LoRA-FA (arXiv 2308.03303)",
        kind: KnobKind::Bool,
        default: Default::Bool(false),
        unit: "",
        sentence: "A stays as it starts and needs neither gradient nor moments; only B learns.",
    },
];

/// The catalogue entry.
pub static ENTRY: Entry<dyn Params> = Entry {
    about: About {
        id: "lora",
        title: "LoRA",
        common: true,
        paper: "LoRA (arXiv 2106.09685), on quantized weights QLoRA (arXiv 2305.14314)",
        sentence: "Weights stay as they are, quantized or not; each linear gets a product of two thin matrices that learn.",
        knobs: &KNOBS,
        runs_on: ON_ALL,
        candidates: &[Candidate { cost: Cost::Accuracy, keeps: 0.1, sets: &[], words: "LoRA" }],
        ..About::on(&axes::TRAIN_PARAMS)
    },
    build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Params>> {
    let (freeze_a, dropout) = (knobs.flag("freeze_a"), knobs.float("lora_dropout") as f32);
    Ok(Box::new(Lora { targets: targets(knobs)?, on: Pair { freeze_a, dropout, ..Pair::new(knobs) } }))
}

/// The linears of a `target` knob.
///
/// # Errors
/// Names the word that is no linear.
pub(super) fn targets(knobs: &Settled) -> Result<Vec<Role>> {
    let mut targets = Vec::new();
    for word in knobs.text("target").split(',').map(str::trim) {
        match Role::LINEARS.into_iter().find(|role| role.word() == word) {
            Some(role) => targets.push(role),
            None if word == "all" => targets.extend(Role::LINEARS),
            None => {
                return Err(Error::config(
                    "train.params.target",
                    format!("`{word}` is no linear of a layer; all, or some of q, k, v, o, gate, up, down"),
                ));
            }
        }
    }
    Ok(targets)
}

struct Lora {
    targets: Vec<Role>,
    on: Pair,
}

impl Params for Lora {
    fn learns(&self, _: Role) -> bool {
        false
    }

    fn adapt(&self, role: Role) -> Option<Box<dyn Adapted>> {
        self.targets.contains(&role).then(|| Box::new(self.on) as Box<dyn Adapted>)
    }
}

/// `s · B · A`, `A (r, cols)`, `B (rows, r)`, on what dropout leaves of the input.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub r: usize,
    pub scale: f32,
    ratio: f32,
    freeze_a: bool,
    dropout: f32,
}

impl Pair {
    /// As the first five knobs say: nothing frozen, nothing dropped.
    pub(super) fn new(knobs: &Settled) -> Self {
        let r = knobs.int("r");
        let alpha = knobs.given_float("lora_alpha").unwrap_or(2.0 * r as f64);
        let by = if knobs.flag("use_rslora") { (r as f64).sqrt() } else { r as f64 };
        let ratio = knobs.float("loraplus_lr_ratio") as f32;
        Self { r, scale: (alpha / by) as f32, ratio, freeze_a: false, dropout: 0.0 }
    }

    pub(super) fn a<'a>(&self, on: LinearCall<'_>, learner: &'a Learner) -> Weight<'a> {
        Weight::of(learner.buf(on.params[0]), self.r, on.cols)
    }

    pub(super) fn b<'a>(&self, on: LinearCall<'_>, learner: &'a Learner) -> Weight<'a> {
        Weight::of(learner.buf(on.params[1]), on.rows, self.r)
    }

    /// What dropout does to the input in this pass, if anything.
    fn mask(&self, on: LinearCall<'_>, learner: &Learner) -> Option<Mask> {
        learner.mask(on.params[0], self.dropout)
    }

    /// `h = s · x · Aᵀ`, `(m, r)`, into the low scratch, what dropout leaves of `x` going into the wide one; returns what A
    /// has read.
    fn low_in<'a>(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'a>,
        (low, wide): (&'a mut Buf, &'a mut Buf),
    ) -> Result<(Src<'a>, &'a mut Buf)> {
        let x = match self.mask(on, learner) {
            Some(mask) => {
                d.dropout(x, wide.all_mut(), on.m * on.cols, mask, false)?;
                wide.all()
            }
            None => x,
        };
        d.linear(x, on.m, self.a(on, learner), None, low.all_mut(), false)?;
        d.scale(low.all_mut(), on.m * self.r, self.scale)?;
        Ok((x, low))
    }
}

impl Pair {
    /// `y += s · B(Ax)`.
    pub(super) fn add(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        y: Dst<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.add_in(d, on, learner, x, y, (&mut scratch.low, &mut scratch.wide))
    }

    /// As [`Self::add`], in these two buffers.
    pub(super) fn add_in(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        y: Dst<'_>,
        scratch: (&mut Buf, &mut Buf),
    ) -> Result<()> {
        let (_, low) = self.low_in(d, on, learner, x, scratch)?;
        d.linear(low.all(), on.m, self.b(on, learner), None, y, true)
    }

    /// The gradients of A and B, `dy` being that of the sum they add to.
    pub(super) fn gradients(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &mut Learner,
        x: Src<'_>,
        dy: Src<'_>,
        scratch: (&mut Buf, &mut Buf),
    ) -> Result<()> {
        let (x, low) = self.low_in(d, on, learner, x, scratch)?;
        learner.open(on.params[1], |into, add| d.linear_dw(dy, low.all(), on.m, on.rows, self.r, into, add))?;
        // h has done its part: dh = s · dy · B takes its place.
        d.linear_dx(dy, on.m, self.b(on, learner), low.all_mut(), false)?;
        d.scale(low.all_mut(), on.m * self.r, self.scale)?;
        if self.freeze_a {
            return Ok(());
        }
        learner.open(on.params[0], |into, add| d.linear_dw(low.all(), x, on.m, self.r, on.cols, into, add))
    }

    /// `dx += Aᵀ dh`, with the `dh` that [`Self::gradients`] has left.
    pub(super) fn dx_add(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        dx: Dst<'_>,
        (low, wide): (&Buf, &mut Buf),
    ) -> Result<()> {
        let Some(mask) = self.mask(on, learner) else {
            return d.linear_dx(low.all(), on.m, self.a(on, learner), dx, true);
        };
        d.linear_dx(low.all(), on.m, self.a(on, learner), wide.all_mut(), false)?;
        d.dropout(wide.all(), dx, on.m * on.cols, mask, true)
    }

    /// A and B on a base of `rows` outputs and `cols` inputs.
    pub(super) fn specs(&self, rows: usize, cols: usize) -> Vec<Spec> {
        // PEFT: A Kaiming-uniform with a = √5, which is ± 1 / √cols; B zero, so that step 0 is the base.
        let a = Init::Uniform(1.0 / (cols as f32).sqrt());
        vec![
            Spec { suffix: PART_A.suffix, rows: self.r, cols, init: a, learns: !self.freeze_a, lr: 1.0 },
            Spec { suffix: PART_B.suffix, rows, cols: self.r, init: Init::Zero, learns: true, lr: self.ratio },
        ]
    }
}

impl Adapted for Pair {
    fn kind(&self) -> AdapterKind {
        AdapterKind::default()
    }

    fn params(&self, rows: usize, cols: usize) -> Vec<Spec> {
        self.specs(rows, cols)
    }

    fn scratch(&self, m: usize, _: usize, cols: usize) -> ScratchSizes {
        let wide = if self.dropout > 0.0 { m * cols } else { 0 };
        ScratchSizes { low: m * self.r, wide, ..ScratchSizes::default() }
    }

    fn forward(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        mut y: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        on.base.forward(d, learner, x, on.m, y.again(), add)?;
        self.add(d, on, learner, x, y, scratch)
    }

    fn grads(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &mut Learner,
        x: Src<'_>,
        dy: Src<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.gradients(d, on, learner, x, dy, (&mut scratch.low, &mut scratch.wide))
    }

    fn dx(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        dy: Src<'_>,
        mut dx: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        on.base.dx(d, learner, dy, on.m, dx.again(), add)?;
        self.dx_add(d, on, learner, dx, (&scratch.low, &mut scratch.wide))
    }
}
