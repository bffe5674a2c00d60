//! AdamW: Adam with decoupled weight decay (arXiv 1711.05101), as PyTorch computes it.

use super::{Optimizer, Slot, StepInfo, state_dtype};
use crate::blocks::BlockType;
use crate::device::{self, Buf, Device, Round, Src};
use crate::error::{Error, Result};
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};

const fn share(
    id: &'static str,
    label: &'static str,
    paper_name: &'static str,
    default: f64,
    sentence: &'static str,
) -> Knob {
    let kind = KnobKind::Float { min: 0.0, max: 1.0 };
    Knob { id, label, paper_name, kind, default: Default::Float(default), unit: "", sentence }
}

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "adamw",
        title: "AdamW",
        common: true,
        paper: "AdamW (arXiv 1711.05101)",
        sentence: "Steps by the running mean of the gradient over the root of that of its square: two numbers a parameter.",
        knobs: &[
            share("beta1", "Beta 1", "β₁", 0.9, "Decay of the mean."),
            share("beta2", "Beta 2", "β₂", 0.999, "Decay of the mean square."),
            share("eps", "Epsilon", "ε", 1e-8, "Added to the root."),
            share(
                "weight_decay",
                "Weight decay",
                "λ",
                0.0,
                "Each step also shrinks parameters by this times the learning rate.",
            ),
            Knob {
                id: "decayed",
                label: "Decayed",
                paper_name: "",
                kind: KnobKind::Word { of: &["all", "matrices"] },
                default: Default::Text("all"),
                unit: "",
                sentence: "What weight decay shrinks: every parameter, or matrices only, norms and biases being left alone.",
            },
            Knob {
                id: "state_dtype",
                label: "State",
                paper_name: "",
                kind: KnobKind::Word { of: &["f32", "bf16"] },
                default: Default::Text("f32"),
                unit: "",
                sentence: "How the two numbers are stored: 8 or 4 bytes a parameter.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build: build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    let number = |id: &str| knobs.float(id);
    for id in ["beta1", "beta2"] {
        if number(id) >= 1.0 {
            return Err(Error::config(format!("train.optimizer.{id}"), "`1` is not allowed; below 1"));
        }
    }
    Ok(Box::new(AdamW {
        beta1: number("beta1"),
        beta2: number("beta2"),
        eps: number("eps") as f32,
        weight_decay: number("weight_decay") as f32,
        matrices: knobs.text("decayed") == "matrices",
        ty: state_dtype(knobs.text("state_dtype")),
    }))
}

struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f32,
    weight_decay: f32,
    /// Only matrices decay.
    matrices: bool,
    ty: BlockType,
}

impl Optimizer for AdamW {
    fn state(&self, rows: usize, cols: usize) -> Vec<Slot> {
        let (ty, len) = (self.ty, rows * cols);
        vec![Slot { name: "m", ty, len }, Slot { name: "v", ty, len }]
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
        let [m, v] = state else { return Err(Error::Internal("adamw without its two moments".into())) };
        let correction = |beta: f64| (1.0 - beta.powf(at.step as f64)) as f32;
        let by = device::AdamW {
            lr: at.lr,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps,
            weight_decay: if at.matrix || !self.matrices { self.weight_decay } else { 0.0 },
            correction1: correction(self.beta1),
            correction2: correction(self.beta2),
            scale: at.scale,
            clamp: at.clamp,
        };
        d.adamw(p, g, m, v, by, round)
    }
}
