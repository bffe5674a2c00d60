//! Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, Algorithm 2).

use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::Result;
use crate::ops::rule::rule;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::train::optimizer::{Optimizer, OptimizerPlan, Shape, Update, state_dtype};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "lion",
        title: "Lion",
        common: false,
        paper: "Lion (arXiv 2302.06675)",
        sentence: "Steps by the sign of a mean of gradients: one number a parameter; wants a learning rate 3 to 10 times below AdamW's.",
        knobs: &[
            Knob::share("beta1", "Beta 1", "β₁", 0.9, "Share of the mean in what is stepped by."),
            Knob::share("beta2", "Beta 2", "β₂", 0.99, "Decay of the mean."),
            Knob::share(
                "weight_decay",
                "Weight decay",
                "λ",
                0.0,
                "Each step also shrinks parameters by this times the learning rate.",
            ),
            Knob {
                id: "state_dtype",
                label: "State",
                paper_name: "",
                kind: KnobKind::Word { of: &["f32", "bf16"] },
                default: Default::Text("f32"),
                unit: "",
                sentence: "How the mean is stored: 4 or 2 bytes a parameter.",
            },
        ],
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    let number = |id: &str| knobs.float(id) as f32;
    let (betas, weight_decay) = ([number("beta1"), number("beta2")], number("weight_decay"));
    Ok(Box::new(Lion { betas, weight_decay, ty: state_dtype(knobs.text("state_dtype")) }))
}

rule! {
    /// `c = β₁m + (1−β₁)g`, `p ← p − η (sign c + λp)`, `m ← β₂m + (1−β₂)g`.
    static LION = "lion"(p, g; m; lr, beta1, beta2, weight_decay) {
        let c = fma(beta1, m, (1.0 - beta1) * g);
        m = fma(beta2, m, (1.0 - beta2) * g);
        p - lr * fma(weight_decay, p, sign(c))
    }
}

struct Lion {
    betas: [f32; 2],
    weight_decay: f32,
    ty: BlockType,
}

impl Optimizer for Lion {
    fn plan(&self, of: Shape) -> OptimizerPlan {
        OptimizerPlan::of(&LION, of, self.ty)
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let numbers = [call.at.lr, self.betas[0], self.betas[1], self.weight_decay];
        call.apply(d, &LION, &numbers)
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::{Category, Tier};
    use crate::train::optimizer::tests::{gradient, optimizer, reference, same, updates};
    use crate::train::tests::plan_is_measured;

    /// `tests/scripts/make_lion.py`: lion-pytorch in float64.
    #[test]
    fn five_updates_are_those_of_lion_pytorch() {
        let reference = reference("lion.json");
        let by = optimizer(r#"{ use = "lion", beta1 = 0.9, beta2 = 0.99, weight_decay = 0.1 }"#);
        let (after, state) = updates(&*by, (6, 9), 5, 0.01, 2, &|step| gradient(step, 6, 9));
        for (step, p) in after.iter().enumerate() {
            same(&format!("step {}", step + 1), p, &reference["after"][step], 2e-7);
        }
        assert_eq!((state.len(), state[0].len()), (1, 54), "one number a parameter");
    }

    #[test]
    fn every_element_moves_by_the_learning_rate_or_not_at_all() {
        let by = optimizer("lion");
        let (after, _) = updates(&*by, (4, 8), 2, 0.5, 1, &|_| (0..32).map(|i| (i % 3) as f32 - 1.0).collect());
        for (i, (a, b)) in after[1].iter().zip(&after[0]).enumerate() {
            assert!((a - b + 0.5 * ((i % 3) as f32 - 1.0)).abs() < 1e-6, "{i}: {b} to {a}");
        }
    }
    #[test]
    fn it_keeps_one_number_a_parameter_as_its_plan_says() {
        for (dtype, bytes) in [("f32", 4), ("bf16", 2)] {
            let choice = format!(r#"{{ use = "lion", state_dtype = "{dtype}" }}"#);
            let m = plan_is_measured(&[("train.params", "full"), ("train.optimizer", &choice)]);
            let bytes_of = |of: Category| m.tiers[&Tier::Device].bytes[&of];
            assert_eq!(bytes_of(Category::Optimizer), bytes_of(Category::Gradients) / 4 * bytes);
        }
    }
}
