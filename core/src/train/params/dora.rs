//! DoRA: weight-decomposed low-rank adaptation (Liu et al., arXiv 2402.09353; `tuners/lora/dora.py` of PEFT).
//!
//! `W' = m ⊙ (W + s·BA) / ‖W + s·BA‖`, with a magnitude m for each output, begun as the length of W's row, and the length of the
//! row held constant in backward (section 4.3). Lengths are taken row by row as weights are decoded, so nothing of W's size is
//! ever formed; the base's output is computed again in backward rather than kept.

use super::lora::{self, Pair};
use super::{Adapted, Init, LinearCall, Params, Role, Scratch, ScratchSizes, Spec};
use crate::device::{Device, Dst, Src};
use crate::error::Result;
use crate::schema::{About, Entry, axes};
use crate::shape::AdapterKind;
use crate::shape::dora::{DORA, MAGNITUDE};
use crate::train::learner::Learner;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Params> = Entry {
    about: About {
        id: "dora",
        title: "DoRA",
        paper: "DoRA (arXiv 2402.09353)",
        sentence: "LoRA for the direction of each row of a weight, and a magnitude for its length that learns beside it.",
        // All of LoRA's but dropout and a frozen A.
        knobs: &[lora::KNOBS[0], lora::KNOBS[1], lora::KNOBS[2], lora::KNOBS[3], lora::KNOBS[4]],
        ..About::on(&axes::TRAIN_PARAMS)
    },
    build: |knobs| Ok(Box::new(Dora { targets: lora::targets(knobs)?, on: Magnitude(Pair::new(knobs)) })),
};

struct Dora {
    targets: Vec<Role>,
    on: Magnitude,
}

impl Params for Dora {
    fn learns(&self, _: Role) -> bool {
        false
    }

    fn adapt(&self, role: Role) -> Option<Box<dyn Adapted>> {
        self.targets.contains(&role).then(|| Box::new(self.on) as Box<dyn Adapted>)
    }
}

/// `y = g ⊙ (Wx + s·BAx) + bias` with gains `g = m / ‖W + s·BA‖`.
#[derive(Clone, Copy)]
struct Magnitude(Pair);

impl Magnitude {
    /// The lengths of the rows of `W + s·BA` into the scratch.
    fn norms(&self, d: &dyn Device, on: LinearCall<'_>, learner: &Learner, scratch: &mut Scratch) -> Result<()> {
        let low = (self.0.a(on, learner), self.0.b(on, learner), self.0.scale);
        d.row_norms(on.base.w.weight(learner), Some(low), scratch.norms.all_mut())
    }

    /// `z = Wx + s·BAx` into the scratch.
    fn sum(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Scratch { low, wide, out, .. } = scratch;
        d.linear(x, on.m, on.base.w.weight(learner), None, out.all_mut(), false)?;
        self.0.add_in(d, on, learner, x, out.all_mut(), (low, wide))
    }
}

impl Adapted for Magnitude {
    fn kind(&self) -> AdapterKind {
        DORA
    }

    fn params(&self, rows: usize, cols: usize) -> Vec<Spec> {
        let mut specs = self.0.specs(rows, cols);
        specs.push(Spec { suffix: MAGNITUDE.suffix, rows: 1, cols: rows, init: Init::RowNorms, learns: true, lr: 1.0 });
        specs
    }

    fn scratch(&self, m: usize, rows: usize, _: usize) -> ScratchSizes {
        ScratchSizes { low: m * self.0.r, wide: 0, out: m * rows, norms: rows }
    }

    fn forward(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        x: Src<'_>,
        y: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.norms(d, on, learner, scratch)?;
        self.sum(d, on, learner, x, scratch)?;
        let (by, over) = (learner.buf(on.params[2]).all(), scratch.norms.all());
        d.scale_columns(scratch.out.all(), (on.m, on.rows), (by, over), on.base.bias(learner), y, add)
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
        self.norms(d, on, learner, scratch)?;
        self.sum(d, on, learner, x, scratch)?;
        let (m, rows, over) = (on.m, on.rows, &scratch.norms);
        let z = scratch.out.all();
        learner.open(on.params[2], |into, add| d.column_dot(dy, z, (m, rows), over.all(), into, add))?;
        // z has done its part: dz = g ⊙ dy takes its place.
        let by = learner.buf(on.params[2]).all();
        d.scale_columns(dy, (m, rows), (by, over.all()), None, scratch.out.all_mut(), false)?;
        let Scratch { low, wide, out, .. } = scratch;
        self.0.gradients(d, on, learner, x, out.all(), (low, wide))
    }

    fn dx(
        &self,
        d: &dyn Device,
        on: LinearCall<'_>,
        learner: &Learner,
        _: Src<'_>,
        mut dx: Dst<'_>,
        add: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Scratch { low, wide, out, .. } = scratch;
        on.base.dx(d, learner, out.all(), on.m, dx.again(), add)?;
        self.0.dx_add(d, on, learner, dx, (low, wide))
    }
}
