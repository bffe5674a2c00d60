//! Stochastic gradient descent, with momentum or without, as PyTorch computes it.

use super::{Optimizer, Slot, StepInfo, state_dtype};
use crate::blocks::BlockType;
use crate::device::{self, Buf, Device, Round, Src};
use crate::error::{Error, Result};
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "sgd",
        title: "SGD",
        common: true,
        paper: "Robbins and Monro 1951; momentum: Polyak 1964, Nesterov 1983",
        sentence: "Steps against the gradient; with momentum one number a parameter, without none.",
        knobs: &[
            Knob {
                id: "momentum",
                label: "Momentum",
                paper_name: "β",
                kind: KnobKind::Float { min: 0.0, max: 0.9999 },
                default: Default::Float(0.9),
                unit: "",
                sentence: "What of the last step goes on; 0 keeps no state.",
            },
            Knob {
                id: "nesterov",
                label: "Nesterov",
                paper_name: "",
                kind: KnobKind::Bool,
                default: Default::Bool(false),
                unit: "",
                sentence: "Look one step of momentum ahead.",
            },
            Knob {
                id: "weight_decay",
                label: "Weight decay",
                paper_name: "λ",
                kind: KnobKind::Float { min: 0.0, max: 1.0 },
                default: Default::Float(0.0),
                unit: "",
                sentence: "Added to the gradient times the parameter.",
            },
            Knob {
                id: "state_dtype",
                label: "State",
                paper_name: "",
                kind: KnobKind::Word { of: &["f32", "bf16"] },
                default: Default::Text("f32"),
                unit: "",
                sentence: "How the momentum is stored: 4 or 2 bytes a parameter.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build: build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    let momentum = knobs.float("momentum") as f32;
    let nesterov = knobs.flag("nesterov");
    if nesterov && momentum == 0.0 {
        return Err(Error::config("train.optimizer.nesterov", "looking ahead needs a momentum above 0"));
    }
    let weight_decay = knobs.float("weight_decay") as f32;
    Ok(Box::new(Sgd { momentum, nesterov, weight_decay, ty: state_dtype(knobs.text("state_dtype")) }))
}

struct Sgd {
    momentum: f32,
    nesterov: bool,
    weight_decay: f32,
    ty: BlockType,
}

impl Optimizer for Sgd {
    fn state(&self, rows: usize, cols: usize) -> Vec<Slot> {
        let slot = Slot { name: "u", ty: self.ty, len: rows * cols };
        if self.momentum > 0.0 { vec![slot] } else { Vec::new() }
    }

    fn update(
        &self,
        d: &dyn Device,
        p: &mut Buf,
        g: Src<'_>,
        state: &mut [Buf],
        round: Round<'_>,
        at: StepInfo,
    ) -> Result<()> {
        let &Self { momentum, nesterov, weight_decay, .. } = self;
        let by = device::Sgd { lr: at.lr, momentum, nesterov, weight_decay, scale: at.scale, clamp: at.clamp };
        let u = state.first_mut();
        if u.is_none() && momentum > 0.0 {
            return Err(Error::Internal("sgd without its momentum".into()));
        }
        d.sgd(p, g, u, by, round)
    }
}
