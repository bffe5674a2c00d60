//! AdamW: Adam with decoupled weight decay (arXiv 1711.05101), as PyTorch computes it.

use super::{Optimizer, OptimizerPlan, Shape, Update, state_dtype};
use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::rule::rule;
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "adamw",
        title: "AdamW",
        common: true,
        paper: "AdamW (arXiv 1711.05101)",
        sentence: "Steps by the running mean of the gradient over the root of that of its square: two numbers a parameter.",
        knobs: &[
            Knob::share("beta1", "Beta 1", "β₁", 0.9, "Decay of the mean."),
            Knob::share("beta2", "Beta 2", "β₂", 0.999, "Decay of the mean square."),
            Knob {
                // 0 would divide a gradient of 0 by 0.
                kind: KnobKind::Float { min: 1e-30, max: 1.0 },
                ..Knob::share("eps", "Epsilon", "ε", 1e-8, "Added to the root.")
            },
            Knob::share(
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
        candidates: &[Candidate {
            cost: Cost::Accuracy,
            keeps: 0.5,
            sets: &[("train.optimizer.state_dtype", "bf16")],
            words: "AdamW with bf16 state",
        }],
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
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

rule! {
    /// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `p ← p − η (m·c₁ / (√(v·c₂) + ε) + λp)`, `c` being one over the bias.
    pub static ADAMW = "adamw"(p, g; m, v; lr, beta1, beta2, eps, weight_decay, inverse1, inverse2) {
        m = fma(beta1, m, (1.0 - beta1) * g);
        v = fma(beta2, v, (1.0 - beta2) * g * g);
        let step = m * inverse1 / (sqrt(v * inverse2) + eps);
        p - lr * fma(weight_decay, p, step)
    }
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
    fn plan(&self, of: Shape) -> OptimizerPlan {
        OptimizerPlan::of(&ADAMW, of, self.ty)
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let at = call.at;
        // Of the numbers that the sums are made with: as f32, 1 − 0.999 is a twenty-thousandth larger.
        let inverse = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(at.step as f64))) as f32;
        let weight_decay = if at.matrix || !self.matrices { self.weight_decay } else { 0.0 };
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let numbers = [at.lr, beta1, beta2, self.eps, weight_decay, inverse(beta1), inverse(beta2)];
        call.apply(d, &ADAMW, &numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gradient, optimizer, reference, same, updates};

    /// `tests/scripts/make_adamw.py`: PyTorch in float64 with what it takes by default, which is what is taken here.
    #[test]
    fn eight_updates_at_the_defaults_are_those_of_pytorch() {
        let reference = reference("adamw.json");
        let runs = reference["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 4);
        for run in runs {
            let choice = format!(r#"{{ use = "adamw", weight_decay = {} }}"#, run["weight_decay"]);
            let size = run["size"].as_f64().unwrap() as f32;
            let scaled = |step| gradient(step, 6, 9).iter().map(|g| g * size).collect();
            let (after, _) = updates(&*optimizer(&choice), (6, 9), 8, 0.01, 2, &scaled);
            for (step, p) in after.iter().enumerate() {
                same(&format!("{choice}, {size:e}, step {}", step + 1), p, &run["after"][step], 2e-7);
            }
        }
    }
}
