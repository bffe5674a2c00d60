//! Gradient checkpointing (arXiv 1604.06174): inputs of layers are kept, layers are run again before their backward.

use super::{Activations, Inputs, OnDevice};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Activations> = Entry {
    about: About {
        id: "recompute",
        title: "Compute again",
        common: true,
        paper: "Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174)",
        sentence: "Only the input of every c-th layer is kept; the layers are computed again when their gradient is due.",
        knobs: &[Knob {
            id: "every",
            label: "Layers together",
            paper_name: "c",
            kind: KnobKind::Int { min: 1, max: 4096 },
            default: Default::Int(1),
            unit: "layers",
            sentence: "Layers run again together; more keep fewer inputs and hold more layers at once.",
        }],
        runs_on: ON_ALL,
        candidates: &[Candidate { cost: Cost::Speed, keeps: 0.5, sets: &[], words: "Activations computed again" }],
        ..About::on(&axes::TRAIN_ACTIVATIONS)
    },
    build: |knobs| Ok(Box::new(Recompute(knobs.int("every")))),
};

struct Recompute(usize);

impl Activations for Recompute {
    fn every(&self) -> usize {
        self.0
    }

    fn inputs(&self) -> Box<dyn Inputs> {
        Box::<OnDevice>::default()
    }
}
