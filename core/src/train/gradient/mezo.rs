//! MeZO: a step from two forward passes (Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv
//! 2305.17333, Algorithm 1), in place and with nothing held beside the weights.

use super::Gradient;
use crate::catalog::{self, Axis, Default, Entry, Knob, KnobKind};
use crate::config::train::ClipBy;
use crate::config::{Config, Knobs};
use crate::error::Result;
use crate::train::batch::Batch;
use crate::train::engine::{OnProgress, Stepped, Techniques, Trainer};
use crate::train::optimizer::{GradientForm, Shape};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "mezo",
    title: "Two forward passes (MeZO)",
    common: false,
    axis: Axis::TrainGradient,
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
    composes,
    role: catalog::Role::TrainGradient(build),
};

fn build(knobs: &Knobs) -> Result<Box<dyn Gradient>> {
    let eps = knobs.float("zo_eps").unwrap_or(0.0) as f32;
    Ok(Box::new(Mezo { eps, directions: knobs.int("n_spsa").unwrap_or(1) as u64 }))
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
        for i in 0..self.directions {
            // A direction has a number of its own in the run; the mean of their gradients is n steps of an n-th.
            let number = (step.max(1) - 1) * self.directions + i + 1;
            let mut within = |done: usize| {
                let (done, total) = (2 * i as usize + done, 2 * self.directions as usize);
                watch(crate::train::engine::Progress { phase: crate::ledger::Phase::Forward, done, total });
            };
            let one = t.probe(batches, number, lr / self.directions as f32, self.eps, &mut within)?;
            square += one.grad_norm * one.grad_norm;
            let share = 1.0 / self.directions as f64;
            all = Stepped { loss: all.loss + share * one.loss, tokens: all.tokens + one.tokens, ..one };
        }
        Ok(Stepped { grad_norm: (square / self.directions as f64).sqrt(), ..all })
    }
}
