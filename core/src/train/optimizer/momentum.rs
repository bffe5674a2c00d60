//! SGD with momentum (Polyak 1964; ahead, Nesterov 1983), as PyTorch computes it, dampening included.
//!
//! [`super::sgd`] has the same rules with a momentum of its own; this entry is for who looks for momentum by its name, and adds
//! `dampening`.

use super::sgd::{MOMENTUM, NESTEROV};
use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::train::optimizer::{Optimizer, OptimizerPlan, Shape, Update, state_dtype};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "momentum",
        title: "Momentum",
        common: false,
        paper: "Polyak 1964; Nesterov 1983",
        sentence: "Steps by a decaying sum of gradients: one number a parameter. It is sgd with its momentum knob, and dampening beside.",
        knobs: &[
            Knob {
                kind: KnobKind::Float { min: 0.0001, max: 0.9999 },
                ..Knob::share("momentum", "Momentum", "β", 0.9, "What of the last step goes on.")
            },
            Knob::share(
                "dampening",
                "Dampening",
                "τ",
                0.0,
                "What of each gradient after the first is left out of the sum; 1 − β makes it a mean.",
            ),
            Knob {
                id: "nesterov",
                label: "Nesterov",
                paper_name: "",
                kind: KnobKind::Bool,
                default: Default::Bool(false),
                unit: "",
                sentence: "Look one step of momentum ahead.",
            },
            Knob::share("weight_decay", "Weight decay", "λ", 0.0, "Added to the gradient times the parameter."),
            Knob {
                id: "state_dtype",
                label: "State",
                paper_name: "",
                kind: KnobKind::Word { of: &["f32", "bf16"] },
                default: Default::Text("f32"),
                unit: "",
                sentence: "How the sum is stored: 4 or 2 bytes a parameter.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    let dampening = knobs.float("dampening") as f32;
    let nesterov = knobs.flag("nesterov");
    if nesterov && dampening > 0.0 {
        return Err(Error::config("train.optimizer.dampening", "looking ahead needs a dampening of 0"));
    }
    Ok(Box::new(Momentum {
        momentum: knobs.float("momentum") as f32,
        dampening,
        nesterov,
        weight_decay: knobs.float("weight_decay") as f32,
        ty: state_dtype(knobs.text("state_dtype")),
    }))
}

struct Momentum {
    momentum: f32,
    dampening: f32,
    nesterov: bool,
    weight_decay: f32,
    ty: BlockType,
}

impl Optimizer for Momentum {
    fn plan(&self, of: Shape) -> OptimizerPlan {
        OptimizerPlan::of(&MOMENTUM, of, self.ty)
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let (lr, decay, momentum) = (call.at.lr, self.weight_decay, self.momentum);
        if self.nesterov {
            return call.apply(d, &NESTEROV, &[lr, decay, momentum]);
        }
        // The first gradient begins the sum whole.
        let share = if call.at.step == 1 { 1.0 } else { 1.0 - self.dampening };
        call.apply(d, &MOMENTUM, &[lr, decay, momentum, share])
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::{Category, Tier};
    use crate::train::optimizer::tests::{gradient, optimizer, reference, same, updates};
    use crate::train::tests::plan_is_measured;

    /// `tests/scripts/make_momentum.py`: PyTorch in float64.
    #[test]
    fn five_updates_are_those_of_pytorch() {
        let reference = reference("momentum.json");
        for run in reference["runs"].as_array().unwrap() {
            let choice = format!(
                r#"{{ use = "momentum", momentum = 0.9, dampening = {}, nesterov = {}, weight_decay = 0.1 }}"#,
                run["dampening"], run["nesterov"]
            );
            let by = optimizer(&choice);
            let (after, state) = updates(&*by, (6, 9), 5, 0.05, 2, &|step| gradient(step, 6, 9));
            for (step, p) in after.iter().enumerate() {
                same(&format!("{choice}, step {}", step + 1), p, &run["after"][step], 1e-6);
            }
            assert_eq!((state.len(), state[0].len()), (1, 54), "one number a parameter");
        }
    }

    #[test]
    fn it_is_sgd_with_momentum_bit_for_bit() {
        for nesterov in [false, true] {
            let of = |id: &str| {
                let by = optimizer(&format!(r#"{{ use = "{id}", momentum = 0.8, nesterov = {nesterov} }}"#));
                updates(&*by, (6, 9), 4, 0.05, 1, &|step| gradient(step, 6, 9))
            };
            assert!(of("sgd") == of("momentum"));
        }
    }
    #[test]
    fn it_keeps_one_number_a_parameter_as_its_plan_says() {
        let m = plan_is_measured(&[("train.params", "lora"), ("train.optimizer", "momentum")]);
        let bytes = |of: Category| m.tiers[&Tier::Device].bytes[&of];
        assert_eq!(bytes(Category::Optimizer), bytes(Category::Gradients));
    }
}
