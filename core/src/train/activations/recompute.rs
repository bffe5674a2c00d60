//! Gradient checkpointing (arXiv 1604.06174): inputs of layers are kept, layers are run again before their backward.

use super::{Activations, Inputs, OnDevice};
use crate::catalog::{self, Axis, Default, Entry, Knob, KnobKind, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "recompute",
    title: "Compute again",
    common: true,
    axis: Axis::TrainActivations,
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
    composes: with_all,
    role: catalog::Role::TrainActivations(|knobs| Ok(Box::new(Recompute(knobs.int("every").unwrap_or(1).max(1))))),
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
