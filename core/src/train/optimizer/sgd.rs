//! Stochastic gradient descent, with momentum or without, as PyTorch computes it.

use super::{Optimizer, OptimizerPlan, Shape, Update, state_dtype};
use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::rule::{Rule, rule};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};

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
        candidates: &[Candidate {
            cost: Cost::Accuracy,
            keeps: 0.05,
            sets: &[("train.optimizer.momentum", "0")],
            words: "SGD without momentum",
        }],
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
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

rule! {
    /// `p ← p − η (g + λp)`.
    pub static SGD = "sgd"(p, g; ; lr, weight_decay) {
        p - lr * fma(weight_decay, p, g)
    }
}

rule! {
    /// `u ← μu + s (g + λp)`, `p ← p − ηu`: Polyak's momentum, a new gradient counting `s`.
    pub static MOMENTUM = "momentum"(p, g; u; lr, weight_decay, momentum, share) {
        let d = fma(weight_decay, p, g);
        u = fma(momentum, u, share * d);
        p - lr * u
    }
}

rule! {
    /// As [`MOMENTUM`], but from where momentum will carry it: `p ← p − η (g + λp + μu)`.
    pub static NESTEROV = "nesterov"(p, g; u; lr, weight_decay, momentum) {
        let d = fma(weight_decay, p, g);
        u = fma(momentum, u, d);
        p - lr * fma(momentum, u, d)
    }
}

struct Sgd {
    momentum: f32,
    nesterov: bool,
    weight_decay: f32,
    ty: BlockType,
}

impl Sgd {
    fn rule(&self) -> &'static Rule {
        match (self.momentum > 0.0, self.nesterov) {
            (false, _) => &SGD,
            (true, false) => &MOMENTUM,
            (true, true) => &NESTEROV,
        }
    }
}

impl Optimizer for Sgd {
    fn plan(&self, of: Shape) -> OptimizerPlan {
        OptimizerPlan::of(self.rule(), of, self.ty)
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let numbers = [call.at.lr, self.weight_decay, self.momentum, 1.0];
        let rule = self.rule();
        call.apply(d, rule, &numbers[..rule.numbers.len()])
    }
}
