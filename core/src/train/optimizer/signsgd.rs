//! signSGD (Bernstein et al. 2018, signSGD: Compressed Optimisation for Non-Convex Problems, arXiv 1802.04434, Algorithm 1).

use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::Result;
use crate::ops::rule::rule;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::train::optimizer::{Optimizer, OptimizerPlan, Shape, Update};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "signsgd",
        title: "signSGD",
        common: false,
        paper: "signSGD (arXiv 1802.04434)",
        sentence: "Moves every parameter by the learning rate against the sign of its gradient, and keeps nothing.",
        knobs: &[Knob {
            id: "weight_decay",
            label: "Weight decay",
            paper_name: "λ",
            kind: KnobKind::Float { min: 0.0, max: 1.0 },
            default: Default::Float(0.0),
            unit: "",
            sentence: "Each step also shrinks parameters by this times the learning rate.",
        }],
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    Ok(Box::new(SignSgd { weight_decay: knobs.float("weight_decay") as f32 }))
}

rule! {
    /// `p ← p − η (sign g + λp)`, the sign of 0 being 0.
    static SIGN = "sign_sgd"(p, g; ; lr, weight_decay) {
        p - lr * fma(weight_decay, p, sign(g))
    }
}

struct SignSgd {
    weight_decay: f32,
}

impl Optimizer for SignSgd {
    fn plan(&self, of: Shape) -> OptimizerPlan {
        OptimizerPlan::of(&SIGN, of, BlockType::F32)
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let numbers = [call.at.lr, self.weight_decay];
        call.apply(d, &SIGN, &numbers)
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::{Category, Tier};
    use crate::train::optimizer::tests::{gradient, optimizer, reference, same, updates};
    use crate::train::tests::plan_is_measured;

    /// `tests/scripts/make_signsgd.py`: lion-pytorch without memory, in float64.
    #[test]
    fn five_updates_are_those_of_the_reference() {
        let reference = reference("signsgd.json");
        let by = optimizer(r#"{ use = "signsgd", weight_decay = 0.1 }"#);
        let (after, state) = updates(&*by, (6, 9), 5, 0.01, 2, &|step| gradient(step, 6, 9));
        for (step, p) in after.iter().enumerate() {
            same(&format!("step {}", step + 1), p, &reference["after"][step], 2e-7);
        }
        assert!(state.is_empty());
    }

    #[test]
    fn it_keeps_nothing_as_its_plan_says() {
        let m = plan_is_measured(&[("train.params", "full"), ("train.optimizer", "signsgd")]);
        assert_eq!(m.tiers[&Tier::Device].bytes.get(&Category::Optimizer).copied().unwrap_or(0), 0);
    }
}
