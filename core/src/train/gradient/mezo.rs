//! MeZO: a step from two forward passes (Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv
//! 2305.17333, Algorithm 1), in place and with nothing held beside the weights.

use crate::config::Config;
use crate::config::train::ClipBy;
use crate::error::Result;
use crate::ledger::Phase;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::train::batch::Batch;
use crate::train::engine::{OnProgress, Progress, Stepped, Techniques, Trainer};
use crate::train::gradient::Gradient;
use crate::train::optimizer::{GradientForm, Shape};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Gradient> = Entry {
    about: About {
        id: "mezo",
        title: "Two forward passes (MeZO)",
        common: false,
        paper: "MeZO (arXiv 2305.17333)",
        sentence: "Nudges all weights along a random direction and back, and steps along it by the difference of the losses: as much memory as reading takes, many more steps.",
        knobs: &[
            Knob {
                id: "zo_eps",
                label: "Nudge",
                paper_name: "ε",
                kind: KnobKind::Float { min: 1e-7, max: 10.0 },
                default: Default::Float(1e-3),
                unit: "",
                sentence: "How far weights are moved to feel the slope: 0.001 for whole models, 0.01 for adapters.",
            },
            Knob {
                id: "n_spsa",
                label: "Directions",
                paper_name: "n",
                kind: KnobKind::Int { min: 1, max: 64 },
                default: Default::Int(1),
                unit: "",
                sentence: "Directions tried at each step, one after the other; each is two more forward passes.",
            },
        ],
        runs_on: ON_ALL,
        composes,
        ..About::on(&axes::TRAIN_GRADIENT)
    },
    build,
};

fn build(knobs: &Settled) -> Result<Box<dyn Gradient>> {
    let eps = knobs.float("zo_eps") as f32;
    Ok(Box::new(Mezo { eps, directions: knobs.int("n_spsa") as u64 }))
}

fn composes(config: &Config) -> Result<(), String> {
    let Some(train) = &config.train else { return Ok(()) };
    if !matches!(train.clip.by, ClipBy::None | ClipBy::Value) {
        return Err("it has no gradient whose norm could be clipped; set train.clip.by=none or value".into());
    }
    let Ok(techniques) = Techniques::new(train) else { return Ok(()) };
    let of = Shape { linear: true, rows: 2, cols: 2 };
    if techniques.optimizer.plan(of).gradient == GradientForm::Matrix {
        let id = &train.optimizer.id;
        return Err(format!("{id} reads whole gradients, and here none is held; set train.optimizer=sgd"));
    }
    Ok(())
}

struct Mezo {
    eps: f32,
    directions: u64,
}

impl Gradient for Mezo {
    fn held(&self) -> bool {
        false
    }

    fn step(&self, t: &mut Trainer, batches: &[Batch], step: u64, lr: f32, watch: OnProgress<'_>) -> Result<Stepped> {
        let (mut all, mut square) = (Stepped::default(), 0.0);
        // Weights are away from their places from the first nudge on, and back at the step's end.
        let _begun = t.device().meter().undisturbed();
        for i in 0..self.directions {
            // A direction has a number of its own in the run; the mean of their gradients is n steps of an n-th.
            let number = (step.max(1) - 1) * self.directions + i + 1;
            let mut within = |done: usize| {
                let (done, total) = (2 * i as usize + done, 2 * self.directions as usize);
                watch(Progress { phase: Phase::Forward, done, total });
            };
            let one = t.probe(batches, number, lr / self.directions as f32, self.eps, &mut within);
            let one = one.map_err(|e| e.at_step(step))?;
            square += one.grad_norm * one.grad_norm;
            let share = 1.0 / self.directions as f64;
            all = Stepped { loss: all.loss + share * one.loss, computed: all.computed + one.computed, ..one };
        }
        Ok(Stepped { grad_norm: (square / self.directions as f64).sqrt(), ..all })
    }
}

#[cfg(test)]
mod tests {
    use crate::blocks::BlockType;
    use crate::ledger::{Category, Tier};
    use crate::rng::Philox;
    use crate::train::engine::{Techniques, Trainer};
    use crate::train::optimizer::tests::reference;
    use crate::train::tests::{
        batch, config, formula_batch, formula_trainer, plan_is_measured, same_as_some, shape, trainer, values,
    };

    const FULL: (&str, &str) = ("train.params", "full");
    const MEZO: (&str, &str) = ("train.gradient", "mezo");
    const SGD: (&str, &str) = ("train.optimizer", "{ use = \"sgd\", momentum = 0.0 }");

    /// `tests/scripts/make_mezo.py`: PyTorch's loss in float64, and directions made anew by NumPy.
    #[test]
    fn three_steps_are_those_of_the_reference() {
        let reference = reference("mezo.json");
        let mut z = vec![0.0; 11];
        Philox::new(7).stream(9).normals(0, &mut z);
        for (a, b) in z.iter().zip(reference["normals"].as_array().unwrap()) {
            assert!((f64::from(*a) - b.as_f64().unwrap()).abs() < 1e-6, "{a} {b}");
        }
        let optimizer = ("train.optimizer", "{ use = \"sgd\", momentum = 0.0, weight_decay = 0.1 }");
        let config = config(&[FULL, ("train.gradient", "{ use = \"mezo\", zo_eps = 0.01 }"), optimizer]);
        let gradient = Techniques::new(config.train.as_ref().unwrap()).unwrap().gradient;
        let (mut t, _) = formula_trainer(&config, false);
        for step in 1..=3u64 {
            let s = gradient.step(&mut t, &[formula_batch(step)], step, 1e-3, &mut |_| ()).unwrap();
            let number = |key: &str| reference[key][step as usize - 1].as_f64().unwrap();
            assert!((s.loss / number("losses") - 1.0).abs() < 1e-5, "step {step}: {s:?}");
            assert!((s.grad_norm - number("projected").abs()).abs() < 2e-3, "step {step}: {s:?}");
        }
        for (id, p) in t.learner.params().iter().enumerate() {
            same_as_some(&p.name, &values(&t, id), &reference["weights"][&p.name], 2e-4);
        }
    }

    #[test]
    fn it_holds_the_weights_and_what_reading_takes_as_its_plan_says() {
        for more in [&[][..], &[("train.params", "lora")], &[("train.gradient", "{ use = \"mezo\", n_spsa = 3 }")]] {
            let m = plan_is_measured(&[&[FULL, MEZO, SGD], more].concat());
            let bytes = &m.tiers[&Tier::Device].bytes;
            let held = |of: Category| bytes.get(&of).copied().unwrap_or(0);
            assert_eq!((held(Category::Gradients), held(Category::Optimizer)), (0, 0));
        }
        let keep = plan_is_measured(&[FULL, SGD, ("train.activations", "keep")]);
        let mezo = plan_is_measured(&[FULL, MEZO, SGD, ("train.activations", "keep")]);
        let activations = |m: &crate::ledger::Measured| m.tiers[&Tier::Device].bytes[&Category::Activations];
        assert!(activations(&mezo) < activations(&keep), "one layer's and not all layers'");
    }

    #[test]
    fn weights_come_back_after_a_probe_and_slopes_are_those_of_the_gradient() {
        let (shape, b) = (shape(BlockType::F32, true), batch(3, 1));
        let (mut t, _) = trainer(&config(&[FULL, MEZO, SGD]), &shape, 2, u64::MAX).unwrap();
        let all = |t: &Trainer| -> Vec<f32> { (0..t.learner.params().len()).flat_map(|id| values(t, id)).collect() };
        let before = all(&t);
        let probes = 200;
        let square: f64 = (1..=probes)
            .map(|n| t.probe(std::slice::from_ref(&b), n, 0.0, 1e-3, &mut |_| ()).unwrap().grad_norm.powi(2))
            .sum();
        let drift = all(&t).iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(drift < 1e-5, "{drift} after {probes} probes");
        // E[⟨∇, z⟩²] = ‖∇‖².
        let (mut exact, _) = trainer(&config(&[FULL, SGD]), &shape, 2, u64::MAX).unwrap();
        let norm = exact.backprop(&[b], 1, 0.0, &mut |_| ()).unwrap().grad_norm;
        let mean = square / probes as f64;
        assert!((mean / (norm * norm) - 1.0).abs() < 0.4, "{mean} where {} is expected", norm * norm);
    }

    #[test]
    fn what_needs_a_gradient_that_is_held_is_refused_with_the_reason() {
        let refused = |sets: &[(&str, &str)]| {
            let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            crate::catalog::from_toml("", &sets).unwrap_err().to_string()
        };
        let galore = refused(&[FULL, MEZO, ("train.optimizer", "galore")]);
        assert!(galore.contains("galore reads whole gradients"), "{galore}");
        let clip = refused(&[FULL, MEZO, SGD, ("train.clip", "{ by = \"global\", at = 1.0 }")]);
        assert!(clip.contains("no gradient whose norm"), "{clip}");
    }
}
